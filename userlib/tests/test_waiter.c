// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Requests that wait in turn: each is served once, in order, on the thread of its context, and no
 * later request takes the memory that it waits for.
 */
#include "common.h"

#include <poll.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "waiter.h"

/* A request, and what its callback saw. */
struct wish {
	struct evpl_waiter waiter;
	struct evpl_iovec iovecs[2 * PER_SLAB];
	struct evpl *evpl;
	int calls;
	int niov;
	pthread_t thread;
	bool cancellable;
};

static void done(struct evpl_waiter *waiter, int niov)
{
	struct wish *wish = (struct wish *)waiter;
	int state;

	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
	wish->cancellable = state == PTHREAD_CANCEL_ENABLE;
	wish->calls++;
	wish->niov = niov;
	wish->thread = pthread_self();
}

/* Asks for @n buffers by @evpl. */
static int want(struct wish *wish, struct evpl *evpl, unsigned int n)
{
	*wish = (struct wish){
		.waiter = {
			.length = n * BUFFER,
			.max_iovecs = n,
			.iovecs = wish->iovecs,
			.done = done,
		},
		.evpl = evpl,
	};
	return evpl_waiter_alloc(evpl, &wish->waiter);
}

static void give_back(struct wish *wish)
{
	evpl_iovecs_release(wish->iovecs, wish->niov);
	wish->niov = 0;
}

static bool readable(struct evpl_pool *pool)
{
	struct pollfd pollfd = { .fd = evpl_pool_eventfd(pool), .events = POLLIN };

	return poll(&pollfd, 1, 0) == 1 && pollfd.revents == POLLIN;
}

static void drain(struct evpl_pool *pool)
{
	uint64_t n;

	if (read(evpl_pool_eventfd(pool), &n, sizeof(n)) != sizeof(n) && errno != EAGAIN)
		abort();
}

/* @all has all buffers of the pool; @a and @b are two other contexts of the pool. */
FIXTURE(waiter) {
	struct evpl_pool *pool;
	struct evpl *evpl, *a, *b;
	struct evpl_iovec all[PER_SLAB], one;
	struct wish first, second, third;
	int taken;
};

FIXTURE_SETUP(waiter)
{
	ASSERT_EQ(0, open_pool(&self->pool, BUFFER, SLAB));
	ASSERT_EQ(0, evpl_create(&self->evpl, self->pool, NULL));
	ASSERT_EQ(0, evpl_create(&self->a, self->pool, NULL));
	ASSERT_EQ(0, evpl_create(&self->b, self->pool, NULL));
	ASSERT_EQ(0, take_slab(self->evpl, self->all));
	self->taken = PER_SLAB;
}

FIXTURE_TEARDOWN(waiter)
{
	evpl_iovecs_release(self->all, self->taken);
	EXPECT_FALSE(pool_has_waiters(self->pool));
	evpl_destroy(self->evpl);
	evpl_destroy(self->a);
	evpl_destroy(self->b);
	EXPECT_EQ(0, used_in(self->pool));
	EXPECT_EQ(0, evpl_pool_close(self->pool));
}

#define RELEASE(n)							\
	do {								\
		self->taken -= (n);					\
		evpl_iovecs_release(&self->all[self->taken], (n));	\
	} while (0)

TEST_F(waiter, what_fits_is_there_at_once)
{
	RELEASE(3);
	ASSERT_EQ(3, want(&self->first, self->a, 3));
	EXPECT_EQ(PER_SLAB, used_in(self->pool));
	EXPECT_EQ(0, self->first.calls);
	EXPECT_FALSE(pool_has_waiters(self->pool));
	EXPECT_EQ(0, evpl_waiter_serve(self->a));
	EXPECT_EQ(-ENOENT, evpl_waiter_cancel(&self->first.waiter));
	evpl_iovecs_release(self->first.iovecs, 3);
}

TEST_F(waiter, what_does_not_fit_waits_and_is_served_once)
{
	ASSERT_EQ(-EINPROGRESS, want(&self->first, self->a, 2));
	EXPECT_TRUE(pool_has_waiters(self->pool));
	EXPECT_EQ(-EBUSY, evpl_waiter_alloc(self->a, &self->first.waiter));
	EXPECT_EQ(0, evpl_waiter_serve(self->a));
	EXPECT_FALSE(readable(self->pool));
	RELEASE(1);
	EXPECT_TRUE(readable(self->pool));
	drain(self->pool);
	EXPECT_EQ(0, evpl_waiter_serve(self->a));
	EXPECT_FALSE(readable(self->pool));
	EXPECT_EQ(0, self->first.calls);
	RELEASE(1);
	EXPECT_TRUE(readable(self->pool));
	EXPECT_EQ(0, self->first.calls);
	ASSERT_EQ(1, evpl_waiter_serve(self->a));
	EXPECT_EQ(1, self->first.calls);
	EXPECT_EQ(2, self->first.niov);
	EXPECT_EQ(BUFFER, self->first.iovecs[1].length);
	EXPECT_EQ(1, word_of(&self->first.iovecs[0]));
	EXPECT_TRUE(pthread_equal(pthread_self(), self->first.thread));
	EXPECT_FALSE(self->first.cancellable);
	EXPECT_EQ(PER_SLAB, used_in(self->pool));
	EXPECT_EQ(-ENOENT, evpl_waiter_cancel(&self->first.waiter));
	EXPECT_EQ(0, evpl_waiter_serve(self->a));
	EXPECT_EQ(1, self->first.calls);
	give_back(&self->first);
}

TEST_F(waiter, requests_are_served_in_the_order_in_which_they_came)
{
	ASSERT_EQ(-EINPROGRESS, want(&self->first, self->a, 2));
	ASSERT_EQ(-EINPROGRESS, want(&self->second, self->b, 1));
	ASSERT_EQ(-EINPROGRESS, want(&self->third, self->a, 1));
	RELEASE(1);
	EXPECT_EQ(0, evpl_waiter_serve(self->b));
	EXPECT_EQ(0, evpl_waiter_serve(self->a));
	RELEASE(1);
	EXPECT_EQ(0, evpl_waiter_serve(self->b));
	EXPECT_EQ(1, evpl_waiter_serve(self->a));
	EXPECT_EQ(2, self->first.niov);
	EXPECT_EQ(0, evpl_waiter_serve(self->a));
	RELEASE(1);
	EXPECT_EQ(0, evpl_waiter_serve(self->a));
	EXPECT_EQ(1, evpl_waiter_serve(self->b));
	EXPECT_EQ(1, self->second.niov);
	give_back(&self->second);
	EXPECT_EQ(1, evpl_waiter_serve(self->a));
	EXPECT_EQ(1, self->third.niov);
	give_back(&self->first);
	give_back(&self->third);
}

TEST_F(waiter, an_allocation_takes_nothing_that_a_waiter_needs)
{
	struct evpl_iovec two[2];
	int i;

	ASSERT_EQ(-EINPROGRESS, want(&self->first, self->a, 2));
	for (i = 0; i < 2; i++) {
		RELEASE(1);
		EXPECT_EQ(-ENOMEM, evpl_buffer_alloc(self->b, &self->one));
		EXPECT_EQ(-ENOMEM, evpl_iovec_alloc(self->evpl, 8, 0, 1, &self->one));
		EXPECT_EQ(-ENOMEM, evpl_iovec_reserve(self->a, 8, 0, 1, &self->one));
		EXPECT_EQ(PER_SLAB - 1 - i, used_in(self->pool));
	}
	/* Any context may take a third free buffer, but not two. */
	RELEASE(1);
	EXPECT_EQ(-ENOMEM, evpl_iovec_alloc(self->b, 2 * BUFFER, 0, 2, two));
	ASSERT_EQ(1, evpl_buffer_alloc(self->b, &self->one));
	EXPECT_EQ(-ENOMEM, evpl_buffer_alloc(self->b, two));
	ASSERT_EQ(1, evpl_waiter_serve(self->a));
	EXPECT_EQ(2, self->first.niov);
	give_back(&self->first);
	ASSERT_EQ(2, evpl_iovec_alloc(self->b, 2 * BUFFER, 0, 2, two));
	evpl_iovecs_release(two, 2);
	evpl_iovec_release(&self->one);
}

TEST_F(waiter, slices_of_a_current_buffer_are_for_anybody)
{
	struct evpl_iovec slices[3];

	RELEASE(1);
	ASSERT_EQ(1, evpl_iovec_alloc(self->b, 8, 0, 1, &slices[0]));
	ASSERT_EQ(-EINPROGRESS, want(&self->first, self->a, 10));
	EXPECT_EQ(1, evpl_iovec_alloc(self->b, 8, 0, 1, &slices[1]));
	EXPECT_EQ(1, evpl_iovec_reserve(self->b, 8, 0, 1, &slices[2]));
	EXPECT_EQ(1, evpl_iovec_commit(self->b, &slices[2], 1, 4));
	EXPECT_EQ(PER_SLAB, used_in(self->pool));
	evpl_iovecs_release(slices, 3);
	RELEASE(9);
	/* The tenth buffer is that of the slices. */
	ASSERT_EQ(1, evpl_waiter_serve(self->a));
	EXPECT_EQ(10, self->first.niov);
	EXPECT_EQ(-ENOMEM, evpl_iovec_alloc(self->b, 8, 0, 1, &slices[0]));
	give_back(&self->first);
}

TEST_F(waiter, a_waiter_that_nobody_serves_keeps_no_more_than_it_asked_for)
{
	struct evpl_iovec some[PER_SLAB];
	int n = 0;

	ASSERT_EQ(-EINPROGRESS, want(&self->first, self->a, 5));
	ASSERT_EQ(-EINPROGRESS, want(&self->second, self->b, 2));
	RELEASE(6);
	EXPECT_EQ(0, evpl_waiter_serve(self->b));
	RELEASE(1);
	EXPECT_EQ(1, evpl_waiter_serve(self->b));
	EXPECT_EQ(2, self->second.niov);
	RELEASE(PER_SLAB - 7);
	while (n < (int)PER_SLAB && evpl_buffer_alloc(self->b, &some[n]) == 1)
		n++;
	EXPECT_EQ(PER_SLAB - 7, n);
	EXPECT_EQ(1, evpl_waiter_serve(self->a));
	EXPECT_EQ(5, self->first.niov);
	evpl_iovecs_release(some, n);
	give_back(&self->first);
	give_back(&self->second);
}

TEST_F(waiter, one_that_is_cancelled_keeps_nothing_and_hears_nothing)
{
	ASSERT_EQ(-EINPROGRESS, want(&self->first, self->a, 2));
	ASSERT_EQ(-EINPROGRESS, want(&self->second, self->b, 1));
	RELEASE(1);
	EXPECT_EQ(0, evpl_waiter_serve(self->b));
	drain(self->pool);
	EXPECT_EQ(0, evpl_waiter_cancel(&self->first.waiter));
	EXPECT_EQ(-ENOENT, evpl_waiter_cancel(&self->first.waiter));
	/* The cancellation wakes the second request's thread. */
	EXPECT_TRUE(readable(self->pool));
	EXPECT_EQ(0, evpl_waiter_serve(self->a));
	EXPECT_EQ(1, evpl_waiter_serve(self->b));
	EXPECT_EQ(0, self->first.calls);
	EXPECT_EQ(1, self->second.calls);
	give_back(&self->second);
	/* The cancelled request can be queued again. */
	ASSERT_EQ(-EINPROGRESS, want(&self->first, self->a, 2));
	RELEASE(1);
	EXPECT_EQ(1, evpl_waiter_serve(self->a));
	EXPECT_EQ(1, self->first.calls);
	give_back(&self->first);
}

TEST_F(waiter, one_in_the_middle_can_be_cancelled)
{
	ASSERT_EQ(-EINPROGRESS, want(&self->first, self->a, 1));
	ASSERT_EQ(-EINPROGRESS, want(&self->second, self->a, 10));
	ASSERT_EQ(-EINPROGRESS, want(&self->third, self->a, 1));
	EXPECT_EQ(0, evpl_waiter_cancel(&self->second.waiter));
	RELEASE(2);
	EXPECT_EQ(1, evpl_waiter_serve(self->a));
	EXPECT_EQ(1, self->first.calls);
	EXPECT_EQ(0, self->third.calls);
	EXPECT_EQ(1, evpl_waiter_serve(self->a));
	EXPECT_EQ(1, self->third.calls);
	EXPECT_EQ(0, self->second.calls);
	give_back(&self->first);
	give_back(&self->third);
}

TEST_F(waiter, a_context_that_ends_cancels_its_own)
{
	ASSERT_EQ(-EINPROGRESS, want(&self->first, self->a, 1));
	ASSERT_EQ(-EINPROGRESS, want(&self->second, self->b, 1));
	ASSERT_EQ(-EINPROGRESS, want(&self->third, self->a, 2));
	RELEASE(1);
	EXPECT_EQ(0, evpl_waiter_serve(self->b));
	drain(self->pool);
	evpl_destroy(self->a);
	EXPECT_TRUE(readable(self->pool));
	EXPECT_EQ(-ENOENT, evpl_waiter_cancel(&self->first.waiter));
	EXPECT_EQ(-ENOENT, evpl_waiter_cancel(&self->third.waiter));
	EXPECT_EQ(1, evpl_waiter_serve(self->b));
	EXPECT_EQ(0, self->first.calls);
	EXPECT_EQ(1, self->second.calls);
	EXPECT_EQ(0, self->third.calls);
	give_back(&self->second);
	ASSERT_EQ(0, evpl_create(&self->a, self->pool, NULL));
}

static void ask_again(struct evpl_waiter *waiter, int niov)
{
	struct wish *wish = (struct wish *)waiter;

	done(waiter, niov);
	if (wish->calls == 1 && evpl_waiter_alloc(wish->evpl, waiter) != -EINPROGRESS)
		abort();
}

TEST_F(waiter, its_call_back_may_have_it_wait_again)
{
	struct evpl_iovec had;

	ASSERT_EQ(-EINPROGRESS, want(&self->first, self->a, 1));
	ASSERT_EQ(-EINPROGRESS, want(&self->second, self->b, 1));
	self->first.waiter.done = ask_again;
	RELEASE(1);
	EXPECT_EQ(1, evpl_waiter_serve(self->a));
	had = self->first.iovecs[0];
	EXPECT_EQ(0, evpl_waiter_serve(self->a));
	/* The first request is now behind the second one. */
	RELEASE(1);
	EXPECT_EQ(0, evpl_waiter_serve(self->a));
	EXPECT_EQ(1, evpl_waiter_serve(self->b));
	evpl_iovec_release(&had);
	EXPECT_EQ(1, evpl_waiter_serve(self->a));
	EXPECT_EQ(2, self->first.calls);
	give_back(&self->first);
	give_back(&self->second);
}

static void end_context(struct evpl_waiter *waiter, int niov)
{
	struct wish *wish = (struct wish *)waiter;

	done(waiter, niov);
	evpl_destroy(wish->evpl);
}

TEST_F(waiter, its_call_back_may_end_the_context)
{
	ASSERT_EQ(-EINPROGRESS, want(&self->first, self->a, 1));
	ASSERT_EQ(-EINPROGRESS, want(&self->second, self->a, 1));
	self->first.waiter.done = end_context;
	RELEASE(2);
	EXPECT_EQ(1, evpl_waiter_serve(self->a));
	EXPECT_EQ(1, self->first.calls);
	EXPECT_EQ(0, self->second.calls);
	EXPECT_EQ(-ENOENT, evpl_waiter_cancel(&self->second.waiter));
	give_back(&self->first);
	ASSERT_EQ(0, evpl_create(&self->a, self->pool, NULL));
}

TEST_F(waiter, what_can_never_be_served_does_not_wait)
{
	struct evpl_waiter *waiter = &self->first.waiter;

	EXPECT_EQ(-EMSGSIZE, want(&self->first, self->a, PER_SLAB + 1));
	EXPECT_EQ(0, want(&self->first, self->a, 0));
	*waiter = (struct evpl_waiter){ .length = 8, .flags = 2, .max_iovecs = 1 };
	EXPECT_EQ(-EOPNOTSUPP, evpl_waiter_alloc(self->a, waiter));
	*waiter = (struct evpl_waiter){ .length = 8, .alignment = 3, .max_iovecs = 1 };
	EXPECT_EQ(-EINVAL, evpl_waiter_alloc(self->a, waiter));
	*waiter = (struct evpl_waiter){ .length = BUFFER + 1, .max_iovecs = 1 };
	EXPECT_EQ(-ENOBUFS, evpl_waiter_alloc(self->a, waiter));
	EXPECT_EQ(-ENOENT, evpl_waiter_cancel(waiter));
	EXPECT_FALSE(pool_has_waiters(self->pool));
}

TEST_F(waiter, a_slice_can_be_waited_for)
{
	struct evpl_waiter *waiter = &self->first.waiter;

	self->first.waiter = (struct evpl_waiter){
		.length = 100, .alignment = 64, .max_iovecs = 1,
		.flags = EVPL_IOVEC_PRIVATE, .iovecs = self->first.iovecs, .done = done,
	};
	ASSERT_EQ(-EINPROGRESS, evpl_waiter_alloc(self->a, waiter));
	RELEASE(1);
	ASSERT_EQ(1, evpl_waiter_serve(self->a));
	EXPECT_EQ(1, self->first.niov);
	EXPECT_EQ(100, self->first.iovecs[0].length);
	EXPECT_EQ(1, word_of(&self->first.iovecs[0]));
	EXPECT_EQ(-ENOMEM, evpl_iovec_alloc(self->a, 8, 0, 1, &self->one));
	give_back(&self->first);
}

TEST_F(waiter, a_pool_that_has_room_grows_rather_than_refuse_others)
{
	struct evpl_pool *pool;
	struct evpl *a, *b;

	ASSERT_EQ(0, open_pool(&pool, BUFFER, 2 * SLAB));
	ASSERT_EQ(0, evpl_create(&a, pool, NULL));
	ASSERT_EQ(0, evpl_create(&b, pool, NULL));
	ASSERT_EQ(2 * PER_SLAB, want(&self->second, b, 2 * PER_SLAB));
	ASSERT_EQ(-EINPROGRESS, want(&self->first, a, PER_SLAB + 10));
	evpl_iovecs_release(self->second.iovecs, 2 * PER_SLAB);
	EXPECT_EQ(SLAB, evpl_pool_trim(pool));
	/* The only slab that is left is kept for the first request, so the pool grows. */
	ASSERT_EQ(1, evpl_buffer_alloc(b, &self->one));
	EXPECT_EQ(2 * SLAB, stats_of(pool).bytes);
	EXPECT_EQ(1, evpl_waiter_serve(a));
	EXPECT_EQ(PER_SLAB + 10, self->first.niov);
	give_back(&self->first);
	evpl_iovec_release(&self->one);
	evpl_destroy(a);
	evpl_destroy(b);
	EXPECT_EQ(0, evpl_pool_close(pool));
}

TEST_F(waiter, memory_of_a_node_is_waited_for)
{
	struct evpl_config config = { .size = sizeof(config), .flags = EVPL_CONFIG_NODE };
	struct evpl *node;

	ASSERT_EQ(0, evpl_create(&node, self->pool, &config));
	ASSERT_EQ(-EINPROGRESS, want(&self->first, node, 1));
	ASSERT_EQ(-EINPROGRESS, want(&self->second, self->a, 1));
	RELEASE(1);
	/* The first can't use this buffer. The second could use the first's, so it waits behind. */
	EXPECT_EQ(0, evpl_waiter_serve(node));
	EXPECT_EQ(0, evpl_waiter_serve(self->a));
	RELEASE(PER_SLAB - 1);
	EXPECT_EQ(1, evpl_waiter_serve(node));
	EXPECT_EQ(1, stats_of(self->pool).shrinks);
	EXPECT_EQ(1, evpl_waiter_serve(self->a));
	give_back(&self->first);
	give_back(&self->second);
	evpl_destroy(node);
}

/*
 * Threads that each ask for most of the memory, beside one that allocates and releases single
 * buffers all the time. Without the queue that one could starve the others.
 */
struct crowd {
	struct evpl_pool *pool;
	pthread_barrier_t start;
	atomic_bool stop;
	int rounds;
};

static void *crowd_main(void *arg)
{
	struct crowd *crowd = arg;
	struct epoll_event event = { .events = EPOLLIN | EPOLLET };
	struct wish *wish = calloc(1, sizeof(*wish));
	struct evpl *evpl;
	int i, niov, epoll;

	if (!wish || evpl_create(&evpl, crowd->pool, NULL))
		abort();
	epoll = epoll_create1(0);
	if (epoll_ctl(epoll, EPOLL_CTL_ADD, evpl_pool_eventfd(crowd->pool), &event))
		abort();
	pthread_barrier_wait(&crowd->start);
	for (i = 0; i < crowd->rounds; i++) {
		niov = want(wish, evpl, PER_SLAB - 4);
		while (niov == -EINPROGRESS && !wish->calls) {
			/* Cancel some of the requests. */
			if (i % 8 == 3) {
				if (evpl_waiter_cancel(&wish->waiter))
					abort();
				niov = 0;
				break;
			}
			if (epoll_wait(epoll, &event, 1, -1) != 1)
				abort();
			if (evpl_waiter_serve(evpl) < 0)
				abort();
		}
		if (niov == -EINPROGRESS)
			niov = wish->niov;
		if (niov != 0 && niov != (int)PER_SLAB - 4)
			abort();
		evpl_iovecs_release(wish->iovecs, niov);
	}
	evpl_destroy(evpl);
	close(epoll);
	free(wish);
	return NULL;
}

static void *gnat_main(void *arg)
{
	struct crowd *crowd = arg;
	struct evpl_iovec iovecs[8] = { { 0 } };
	unsigned int spins = 0, i = 0;
	struct evpl *evpl;
	int ret;

	if (evpl_create(&evpl, crowd->pool, NULL))
		abort();
	while (!atomic_load(&crowd->stop)) {
		i = (i + 1) % 8;
		evpl_iovec_release(&iovecs[i]);
		iovecs[i] = (struct evpl_iovec){ 0 };
		ret = i % 2 ? evpl_buffer_alloc(evpl, &iovecs[i]) :
			      evpl_iovec_alloc(evpl, BUFFER / 3, 0, 1, &iovecs[i]);
		if (ret == -ENOMEM)
			spin(&spins);
		else if (ret != 1)
			abort();
	}
	evpl_iovecs_release(iovecs, 8);
	evpl_destroy(evpl);
	return NULL;
}

TEST(all_are_served_while_others_allocate_and_cancel)
{
	struct crowd crowd = { .rounds = few() ? 100 : 1000 };
	pthread_t threads[3], gnat;
	int i;

	ASSERT_EQ(0, open_pool(&crowd.pool, BUFFER, SLAB));
	pthread_barrier_init(&crowd.start, NULL, 3);
	ASSERT_EQ(0, pthread_create(&gnat, NULL, gnat_main, &crowd));
	for (i = 0; i < 3; i++)
		ASSERT_EQ(0, pthread_create(&threads[i], NULL, crowd_main, &crowd));
	for (i = 0; i < 3; i++)
		ASSERT_EQ(0, pthread_join(threads[i], NULL));
	atomic_store(&crowd.stop, true);
	ASSERT_EQ(0, pthread_join(gnat, NULL));
	EXPECT_FALSE(pool_has_waiters(crowd.pool));
	EXPECT_EQ(0, used_in(crowd.pool));
	EXPECT_EQ(0, evpl_pool_close(crowd.pool));
}

TEST_HARNESS_MAIN
