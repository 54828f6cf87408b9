// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/* libevplmem-uring: calls for a ring on other threads than the ring's own. */
#include "uring.h"

#include <sys/syscall.h>

static void *calls_elsewhere(void *arg)
{
	struct elsewhere *elsewhere = arg;
	struct evpl_uring *uring;

	elsewhere->created = evpl_uring_create(&uring, elsewhere->pool, elsewhere->ring, 0, 1,
					       EVPL_URING_NEW_TABLE);
	elsewhere->index = index_of(elsewhere->uring, elsewhere->iovec);
	return NULL;
}

TEST_F(uring, another_thread_is_refused_and_does_no_harm)
{
	struct elsewhere elsewhere = {
		.pool = self->pool,
		.ring = &self->ring,
		.uring = self->uring,
		.iovec = &self->iovec[0][0],
	};
	const char *notice;

	NEEDS_RING_OF_ONE_THREAD();
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[0]));
	on_thread(calls_elsewhere, &elsewhere);
	EXPECT_EQ(-EEXIST, elsewhere.created);
	EXPECT_EQ(1, stats_of(self->pool).devices);
	EXPECT_EQ(-EEXIST, elsewhere.index);
	EXPECT_EQ(-EEXIST, uring_stats(self->uring).error);
	EXPECT_EQ(0, uring_stats(self->uring).slots_used);
	notice = evpl_uring_notice(self->uring);
	ASSERT_NE(NULL, notice);
	EXPECT_NE(NULL, strstr(notice, "thread"));
	EXPECT_EQ(self->refuses ? -EOPNOTSUPP : FIRST,
		  index_of(self->uring, &self->iovec[0][0]));
}

static void *flush(void *arg)
{
	evpl_uring_flush(arg);
	return NULL;
}

TEST_F(uring, another_thread_leaves_slots_to_the_rings_own)
{
	bool refused = variant->flags & IORING_SETUP_SINGLE_ISSUER;

	NEEDS_REGISTRATION();
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[0]));
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[1]));
	ASSERT_EQ(FIRST, index_of(self->uring, &self->iovec[1][0]));
	give_back(self, 0);
	drop_slab(self, 1);

	on_thread(flush, self->uring);
	EXPECT_EQ(refused ? 1 : 0, uring_stats(self->uring).slots_used);
	EXPECT_TRUE(pinned_falls_to(&self->ring, refused ? pins(1) : 0));
	evpl_uring_flush(self->uring);
	EXPECT_EQ(0, uring_stats(self->uring).slots_used);
	EXPECT_EQ(1, uring_stats(self->uring).unregistrations);
	EXPECT_TRUE(pinned_falls_to(&self->ring, 0));
}

struct sleeper {
	struct evpl_pool *pool;
	int pipe;
	long pinned;
};

static void *trim_and_wake(void *arg)
{
	struct sleeper *sleeper = arg;

	evpl_pool_trim(sleeper->pool);
	sleeper->pinned = pinned();
	if (write(sleeper->pipe, "x", 1) != 1)
		abort();
	return NULL;
}

TEST_F(uring, a_slab_that_goes_while_the_rings_thread_sleeps_is_cleared_when_it_wakes)
{
	struct sleeper sleeper = { .pool = self->pool };
	struct io_uring_cqe *cqe;
	pthread_t thread;
	int i, ends[2];

	NEEDS_REGISTRATION();
	for (i = 0; i < 3; i++) {
		ASSERT_EQ(0, take_slab(self->evpl, self->iovec[i]));
		ASSERT_EQ(FIRST + i, index_of(self->uring, &self->iovec[i][0]));
	}
	EXPECT_EQ(pins(3), pinned());
	for (i = 0; i < 2; i++)
		give_back(self, i);

	/* The ring's thread sleeps until there is something to read. */
	ASSERT_EQ(0, pipe(ends));
	sleeper.pipe = ends[1];
	EXPECT_EQ(1, evpl_uring_prep_read(self->uring, io_uring_get_sqe(&self->ring), ends[0],
					  &self->iovec[2][0], 0));
	ASSERT_EQ(1, io_uring_submit(&self->ring));
	ASSERT_EQ(0, pthread_create(&thread, NULL, trim_and_wake, &sleeper));
	ASSERT_EQ(0, io_uring_wait_cqe(&self->ring, &cqe));
	EXPECT_EQ(1, cqe->res);
	io_uring_cqe_seen(&self->ring, cqe);
	pthread_join(thread, NULL);
	EXPECT_EQ('x', *(char *)self->iovec[2][0].data);
	EXPECT_EQ(2, stats_of(self->pool).slabs);
	EXPECT_EQ(pins(3), sleeper.pinned);
	EXPECT_EQ(3, uring_stats(self->uring).slots_used);

	evpl_uring_flush(self->uring);
	EXPECT_EQ(2, uring_stats(self->uring).slots_used);
	EXPECT_TRUE(pinned_falls_to(&self->ring, pins(2)));
	close(ends[0]);
	close(ends[1]);
}

TEST_F(uring, flush_has_the_kernel_let_go_though_a_request_has_yet_to_complete)
{
	struct io_uring_cqe *cqe;
	int i, ends[2];

	NEEDS_REGISTRATION();
	for (i = 0; i < 3; i++) {
		ASSERT_EQ(0, take_slab(self->evpl, self->iovec[i]));
		ASSERT_EQ(FIRST + i, index_of(self->uring, &self->iovec[i][0]));
	}
	ASSERT_EQ(0, pipe(ends));
	EXPECT_EQ(1, evpl_uring_prep_read(self->uring, io_uring_get_sqe(&self->ring), ends[0],
					  &self->iovec[2][0], 0));
	ASSERT_EQ(1, io_uring_submit(&self->ring));
	give_back(self, 0);
	drop_slab(self, 1);

	/* The request can complete, but no call for the ring has let it do so yet. */
	ASSERT_EQ(1, write(ends[1], "x", 1));
	evpl_uring_flush(self->uring);
	EXPECT_EQ(pins(2), pinned());
	ASSERT_EQ(0, io_uring_peek_cqe(&self->ring, &cqe));
	EXPECT_EQ(1, cqe->res);
	io_uring_cqe_seen(&self->ring, cqe);
	close(ends[0]);
	close(ends[1]);
}

/* A ring that one thread sets up and another enables. */
struct handover {
	FIXTURE_DATA(uring) *self;
	struct io_uring ring;
	struct evpl_uring *uring;
	int copied, index;
	bool destroy, let_go;
};

static void *enable_and_copy(void *arg)
{
	struct handover *handover = arg;

	/* liburing 2.3 declares io_uring_enable_rings(), and doesn't export it. */
	if (syscall(__NR_io_uring_register, handover->ring.ring_fd, IORING_REGISTER_ENABLE_RINGS,
		    NULL, 0))
		abort();
	handover->copied = copy_by(handover->self, &handover->ring, handover->uring);
	handover->index = index_of(handover->uring, &handover->self->iovec[2][0]);
	if (handover->destroy) {
		evpl_uring_destroy(handover->uring);
		handover->let_go = pinned_falls_to(&handover->ring, 0);
	}
	return NULL;
}

static void hand_over(struct __test_metadata *_metadata, FIXTURE_DATA(uring) *self,
		      struct handover *handover, unsigned int flags)
{
	int i;

	handover->self = self;
	ASSERT_EQ(0, io_uring_queue_init(ENTRIES, &handover->ring,
					 flags | IORING_SETUP_R_DISABLED));
	ASSERT_EQ(0, evpl_uring_create(&handover->uring, self->pool, &handover->ring, 1, SLOTS,
				       EVPL_URING_NEW_TABLE));
	for (i = 0; i < 3; i++)
		ASSERT_EQ(0, take_slab(self->evpl, self->iovec[i]));
	EXPECT_EQ(1, index_of(handover->uring, &self->iovec[0][0]));
	on_thread(enable_and_copy, handover);
	EXPECT_EQ(2, handover->copied);
	EXPECT_EQ(3, handover->index);
}

TEST_F(uring, a_ring_that_is_enabled_on_another_thread_is_that_threads)
{
	struct handover handover = { .destroy = true };

	NEEDS_REGISTRATION();
	NEEDS_RING_OF_ONE_THREAD();
	hand_over(_metadata, self, &handover, variant->flags);
	EXPECT_TRUE(handover.let_go);
	io_uring_queue_exit(&handover.ring);
}

TEST_F(uring, memory_that_another_thread_destroys_stays_pinned_until_the_ring_goes)
{
	struct handover handover = { .destroy = false };

	NEEDS_REGISTRATION();
	NEEDS_RING_OF_ONE_THREAD();
	hand_over(_metadata, self, &handover, variant->flags);
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[3]));
	EXPECT_EQ(-EEXIST, index_of(handover.uring, &self->iovec[3][0]));
	EXPECT_EQ(2, index_of(handover.uring, &self->iovec[1][0]));
	evpl_uring_destroy(handover.uring);
	EXPECT_EQ(1, stats_of(self->pool).devices);
	EXPECT_EQ(pins(3), pinned());
	io_uring_queue_exit(&handover.ring);
	EXPECT_TRUE(pinned_falls_to(NULL, 0));
}

TEST_HARNESS_MAIN
