// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * The eventfd: a thread whose allocation failed doesn't sleep while there is memory for it.
 */
#include "common.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>

FIXTURE(wait) {
	struct evpl_pool *pool;
	struct evpl *evpl;
	struct evpl_iovec iovec[PER_SLAB + 1];
	int fd;
};

FIXTURE_SETUP(wait)
{
	ASSERT_EQ(0, open_pool(&self->pool, BUFFER, SLAB));
	ASSERT_EQ(0, evpl_create(&self->evpl, self->pool, NULL));
	self->fd = evpl_pool_eventfd(self->pool);
}

FIXTURE_TEARDOWN(wait)
{
	evpl_destroy(self->evpl);
	EXPECT_EQ(0, used_in(self->pool));
	EXPECT_EQ(0, evpl_pool_close(self->pool));
}

static bool readable(int fd)
{
	struct pollfd pollfd = { .fd = fd, .events = POLLIN };

	return poll(&pollfd, 1, 0) == 1 && pollfd.revents == POLLIN;
}

static uint64_t drain(int fd)
{
	uint64_t n = 0;

	return read(fd, &n, sizeof(n)) == sizeof(n) ? n : 0;
}

static unsigned int fill(struct evpl *evpl, struct evpl_iovec *iovec)
{
	unsigned int n = 0;

	while (n <= PER_SLAB && evpl_buffer_alloc(evpl, &iovec[n]) == 1)
		n++;
	return n;
}

TEST_F(wait, the_descriptor_is_an_eventfd_of_the_pool)
{
	EXPECT_LE(0, self->fd);
	EXPECT_EQ(O_NONBLOCK, fcntl(self->fd, F_GETFL) & O_NONBLOCK);
	EXPECT_EQ(FD_CLOEXEC, fcntl(self->fd, F_GETFD));
	EXPECT_EQ(self->fd, evpl_pool_eventfd(self->pool));
	EXPECT_FALSE(readable(self->fd));
}

TEST_F(wait, nobody_is_woken_who_does_not_wait)
{
	ASSERT_EQ(1, evpl_buffer_alloc(self->evpl, self->iovec));
	evpl_iovec_release(self->iovec);
	EXPECT_FALSE(readable(self->fd));
	EXPECT_EQ(0, stats_of(self->pool).wakeups);
}

TEST_F(wait, a_release_after_ENOMEM_makes_it_readable_once)
{
	ASSERT_EQ(PER_SLAB, fill(self->evpl, self->iovec));
	EXPECT_FALSE(readable(self->fd));
	evpl_iovec_release(&self->iovec[0]);
	EXPECT_TRUE(readable(self->fd));
	EXPECT_EQ(1, drain(self->fd));
	evpl_iovec_release(&self->iovec[1]);
	EXPECT_FALSE(readable(self->fd));
	EXPECT_EQ(1, stats_of(self->pool).wakeups);
	ASSERT_EQ(1, evpl_buffer_alloc(self->evpl, &self->iovec[0]));
	ASSERT_EQ(1, evpl_buffer_alloc(self->evpl, &self->iovec[1]));
	evpl_iovecs_release(self->iovec, PER_SLAB);
}

TEST_F(wait, a_release_that_leaves_references_wakes_nobody)
{
	struct evpl_iovec clone;

	ASSERT_EQ(PER_SLAB, fill(self->evpl, self->iovec));
	evpl_iovec_clone(&clone, &self->iovec[0]);
	evpl_iovec_release(&self->iovec[0]);
	EXPECT_FALSE(readable(self->fd));
	evpl_iovec_release(&clone);
	EXPECT_TRUE(readable(self->fd));
	evpl_iovecs_release(self->iovec + 1, PER_SLAB - 1);
}

TEST_F(wait, the_last_slice_of_a_sleepers_buffer_wakes)
{
	struct evpl_iovec slice;
	struct evpl *sleeper;

	/* The sleeper's hold must not keep the buffer from becoming free. */
	ASSERT_EQ(0, evpl_create(&sleeper, self->pool, NULL));
	ASSERT_EQ(1, evpl_iovec_alloc(sleeper, 8, 0, 1, &slice));
	ASSERT_EQ(PER_SLAB - 1, fill(self->evpl, self->iovec));
	EXPECT_EQ(0, drain(self->fd));
	evpl_iovec_release(&slice);
	EXPECT_TRUE(readable(self->fd));
	evpl_iovecs_release(self->iovec, PER_SLAB - 1);
	evpl_destroy(sleeper);
}

TEST_F(wait, the_last_slice_of_ones_own_buffer_wakes)
{
	struct evpl_iovec slice;

	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, 8, 0, 1, &slice));
	ASSERT_EQ(PER_SLAB - 1, fill(self->evpl, self->iovec));
	EXPECT_EQ(0, drain(self->fd));
	evpl_iovec_release(&slice);
	EXPECT_TRUE(readable(self->fd));
	evpl_iovecs_release(self->iovec, PER_SLAB - 1);
}

TEST_F(wait, a_hold_that_is_taken_while_another_waits_wakes_it)
{
	struct evpl_iovec slice, two[2];
	struct evpl *other;

	/*
	 * One buffer is free, and this context waits for two. The other context cuts a slice
	 * off the free buffer and holds it, so this one is woken to count the holds again.
	 */
	ASSERT_EQ(0, evpl_create(&other, self->pool, NULL));
	ASSERT_EQ(PER_SLAB, fill(self->evpl, self->iovec));
	evpl_iovec_release(&self->iovec[0]);
	EXPECT_EQ(-ENOMEM, evpl_iovec_alloc(self->evpl, 2 * BUFFER, 0, 2, two));
	drain(self->fd);
	EXPECT_EQ(-ENOMEM, evpl_iovec_alloc(self->evpl, 2 * BUFFER, 0, 2, two));
	EXPECT_EQ(0, drain(self->fd));
	ASSERT_EQ(1, evpl_iovec_alloc(other, 8, 0, 1, &slice));
	EXPECT_EQ(2, word_of(&slice));
	EXPECT_EQ(1, drain(self->fd));
	/* Even without the hold two buffers can't be free, so it stays. For one buffer it ends. */
	EXPECT_EQ(-ENOMEM, evpl_iovec_alloc(self->evpl, 2 * BUFFER, 0, 2, two));
	EXPECT_EQ(2, word_of(&slice));
	EXPECT_EQ(-ENOMEM, evpl_buffer_alloc(self->evpl, &self->iovec[0]));
	EXPECT_EQ(1, word_of(&slice));
	EXPECT_FALSE(readable(self->fd));
	evpl_iovec_release(&slice);
	EXPECT_TRUE(readable(self->fd));
	ASSERT_EQ(1, evpl_buffer_alloc(self->evpl, &self->iovec[0]));
	evpl_iovecs_release(self->iovec, PER_SLAB);
	evpl_destroy(other);
}

TEST_F(wait, a_failed_allocation_does_not_wake_itself)
{
	struct evpl_iovec many[4];

	/* The buffers that the failed request took and gave back don't wake its thread. */
	ASSERT_EQ(PER_SLAB, fill(self->evpl, self->iovec));
	evpl_iovecs_release(self->iovec, 3);
	drain(self->fd);
	EXPECT_EQ(-ENOMEM, evpl_iovec_alloc(self->evpl, 4 * BUFFER, 0, 4, many));
	EXPECT_FALSE(readable(self->fd));
	/* The release of a fourth buffer does. */
	evpl_iovec_release(&self->iovec[3]);
	EXPECT_TRUE(readable(self->fd));
	ASSERT_EQ(4, evpl_iovec_alloc(self->evpl, 4 * BUFFER, 0, 4, many));
	evpl_iovecs_release(many, 4);
	evpl_iovecs_release(self->iovec + 4, PER_SLAB - 4);
}

TEST_F(wait, a_slab_that_is_given_back_wakes)
{
	struct evpl_pool *pool;
	struct evpl *any, *node;
	struct evpl_config config = { .size = sizeof(config), .flags = EVPL_CONFIG_NODE };
	struct evpl_iovec first, second[PER_SLAB + 1];
	struct evpl_pool_stats stats;
	unsigned int n;

	/* No slab is of a node, so the context of node 0 waits for room to grow the pool. */
	ASSERT_EQ(0, open_pool(&pool, BUFFER, SLAB));
	ASSERT_EQ(0, evpl_create(&any, pool, NULL));
	ASSERT_EQ(0, evpl_create(&node, pool, &config));
	n = fill(any, second);
	ASSERT_EQ(PER_SLAB, n);
	EXPECT_EQ(-ENOMEM, evpl_buffer_alloc(node, &first));
	drain(evpl_pool_eventfd(pool));
	EXPECT_EQ(-ENOMEM, evpl_buffer_alloc(node, &first));
	evpl_iovecs_release(second, (int)n);
	EXPECT_TRUE(readable(evpl_pool_eventfd(pool)));
	ASSERT_EQ(1, evpl_buffer_alloc(node, &first));
	stats = stats_of(pool);
	EXPECT_EQ(1, stats.shrinks);
	EXPECT_EQ(1, stats.slabs);
	evpl_iovec_release(&first);
	evpl_destroy(any);
	evpl_destroy(node);
	EXPECT_EQ(0, evpl_pool_close(pool));
}

/*
 * Threads that compete for less memory than they need. Several of them wait, so each has the
 * eventfd in an edge-triggered epoll set of its own, and none reads it.
 */
struct fight {
	struct evpl_pool *pool;
	pthread_barrier_t start;
	int rounds;
};

static void *fighter_main(void *arg)
{
	struct fight *fight = arg;
	struct evpl_iovec iovec[12];
	struct epoll_event event = { .events = EPOLLIN | EPOLLET };
	struct evpl *evpl;
	int i, niov, epoll;

	if (evpl_create(&evpl, fight->pool, NULL))
		abort();
	epoll = epoll_create1(0);
	if (epoll_ctl(epoll, EPOLL_CTL_ADD, evpl_pool_eventfd(fight->pool), &event))
		abort();
	pthread_barrier_wait(&fight->start);
	for (i = 0; i < fight->rounds; i++) {
		while ((niov = evpl_iovec_alloc(evpl, 11 * BUFFER + 100, 0, 12, iovec)) == -ENOMEM) {
			if (epoll_wait(epoll, &event, 1, -1) != 1)
				abort();
		}
		if (niov != 12)
			abort();
		evpl_iovecs_release(iovec, niov);
	}
	evpl_destroy(evpl);
	close(epoll);
	return NULL;
}

TEST_F(wait, threads_that_fight_for_memory_all_get_it)
{
	struct fight fight = { .pool = self->pool, .rounds = few() ? 500 : 3000 };
	pthread_t threads[4];
	int i;

	pthread_barrier_init(&fight.start, NULL, 4);
	for (i = 0; i < 4; i++)
		ASSERT_EQ(0, pthread_create(&threads[i], NULL, fighter_main, &fight));
	for (i = 0; i < 4; i++)
		ASSERT_EQ(0, pthread_join(threads[i], NULL));
	EXPECT_TRUE(all_idle(self->pool));
}

/*
 * The pool has one buffer. One thread releases it, and another one waits for it. Nothing else
 * wakes that one, so after a lost wake-up the test never ends.
 */
struct duel {
	struct evpl_pool *pool;
	_Atomic(struct evpl_iovec *) iovec;
	atomic_bool stop;
};

static void *releaser_main(void *arg)
{
	struct duel *duel = arg;
	struct evpl_iovec *iovec;
	unsigned int spins = 0, n = 0;

	while (!atomic_load(&duel->stop)) {
		iovec = atomic_exchange(&duel->iovec, NULL);
		if (!iovec) {
			spin(&spins);
			continue;
		}
		/* Mostly release at once, but sometimes only when the other thread waits. */
		while (n % 16 == 0 && !(atomic_load(&duel->pool->waiting) & WAITING) &&
		       !atomic_load(&duel->stop))
			spin(&spins);
		n++;
		evpl_iovec_release(iovec);
	}
	return NULL;
}

TEST_F(wait, no_wake_up_is_lost)
{
	unsigned int i, spins = 0, rounds = few() ? 20000 : 200000;
	struct evpl_iovec iovec[2];
	struct pollfd pollfd;
	struct duel duel = { .pool = NULL };
	pthread_t thread;
	struct evpl *evpl;
	uint64_t waited = 0;

	ASSERT_EQ(0, open_pool(&duel.pool, SLAB, SLAB));
	ASSERT_EQ(0, evpl_create(&evpl, duel.pool, NULL));
	pollfd = (struct pollfd){ .fd = evpl_pool_eventfd(duel.pool), .events = POLLIN };
	ASSERT_EQ(0, pthread_create(&thread, NULL, releaser_main, &duel));
	for (i = 0; i < rounds; i++) {
		/* The whole buffer, or a slice of it: then this context has a hold, too. */
		while (evpl_iovec_alloc(evpl, i % 2 ? SLAB : SLAB - 8, 0, 1,
					&iovec[i % 2]) != 1) {
			ASSERT_EQ(1, poll(&pollfd, 1, -1));
			drain(pollfd.fd);
			waited++;
		}
		while (atomic_load(&duel.iovec))
			spin(&spins);
		atomic_store(&duel.iovec, &iovec[i % 2]);
	}
	EXPECT_LT(0, waited);
	while (atomic_load(&duel.iovec))
		spin(&spins);
	atomic_store(&duel.stop, true);
	pthread_join(thread, NULL);
	evpl_destroy(evpl);
	EXPECT_EQ(0, used_in(duel.pool));
	EXPECT_EQ(0, evpl_pool_close(duel.pool));
}

/*
 * One thread asks for more than the pool can have, and so takes all free buffers for a moment
 * before it fails. Another thread asks for one buffer at such a moment, and fails too. Small
 * buffers make the moment long.
 */
#define GLUT (SLAB / PAGE)

static void *glutton_main(void *arg)
{
	struct evpl_iovec *iovec = calloc(GLUT + 1, sizeof(*iovec));
	struct duel *duel = arg;
	struct evpl *evpl;

	if (!iovec || evpl_create(&evpl, duel->pool, NULL))
		abort();
	if (evpl_buffer_alloc(evpl, &iovec[GLUT]) != 1)
		abort();
	while (!atomic_load(&duel->stop))
		if (evpl_iovec_alloc(evpl, SLAB, 0, GLUT, iovec) != -ENOMEM)
			abort();
	evpl_iovec_release(&iovec[GLUT]);
	evpl_destroy(evpl);
	free(iovec);
	return NULL;
}

TEST_F(wait, who_is_refused_for_anothers_failure_is_woken)
{
	struct duel duel = { .pool = NULL };
	struct pollfd pollfd;
	unsigned int waited = 0;
	pthread_t thread;
	struct evpl *evpl;

	ASSERT_EQ(0, open_pool(&duel.pool, PAGE, SLAB));
	ASSERT_EQ(0, evpl_create(&evpl, duel.pool, NULL));
	pollfd = (struct pollfd){ .fd = evpl_pool_eventfd(duel.pool), .events = POLLIN };
	ASSERT_EQ(0, pthread_create(&thread, NULL, glutton_main, &duel));
	while (waited < 10) {
		while (evpl_buffer_alloc(evpl, self->iovec) != 1) {
			ASSERT_EQ(1, poll(&pollfd, 1, -1));
			drain(pollfd.fd);
			waited++;
		}
		evpl_iovec_release(self->iovec);
	}
	atomic_store(&duel.stop, true);
	pthread_join(thread, NULL);
	evpl_destroy(evpl);
	EXPECT_EQ(0, evpl_pool_close(duel.pool));
}

TEST_HARNESS_MAIN
