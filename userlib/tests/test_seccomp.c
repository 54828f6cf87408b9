// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Allocation and release make no system call while there is memory: the kernel kills a process
 * that makes one.
 */
#include "seccomp.h"
#include "storm.h"

/* The fixture only gives the tests a common name. */
FIXTURE(seccomp) {
	int unused;
};

FIXTURE_SETUP(seccomp)
{
	self->unused = 0;
}

FIXTURE_TEARDOWN(seccomp)
{
}

#define KEEP_SLABS 3

static void *watched_main(void *arg)
{
	struct storm_thread *thread = arg;

	forbid_system_calls();
	storm_run(thread);
	/* If this returned, libc would free the thread's stack by system calls. */
	syscall(SYS_exit, 0);
	return NULL;
}

/* Runs the storm, and checks the pool at its end. */
static void watch_storm(struct __test_metadata *_metadata, struct evpl_pool *pool)
{
	pthread_t threads[STORM_THREADS];
	struct storm storm;
	uint64_t done = 0;
	int i;

	storm_init(&storm, pool);
	storm.operations = 1000000 / STORM_THREADS;
	storm.live = 4;
	for (i = 0; i < STORM_THREADS; i++)
		ASSERT_EQ(0, evpl_create(&storm.thread[i].evpl, pool, NULL));
	for (i = 0; i < STORM_THREADS; i++)
		ASSERT_EQ(0, pthread_create(&threads[i], NULL, watched_main, &storm.thread[i]));
	for (i = 0; i < STORM_THREADS; i++)
		ASSERT_EQ(0, pthread_join(threads[i], NULL));
	storm_empty_boxes(&storm);
	for (i = 0; i < STORM_THREADS; i++) {
		EXPECT_STREQ("", storm.thread[i].error);
		done += storm.thread[i].done;
		evpl_destroy(storm.thread[i].evpl);
	}
	EXPECT_LE(1000000, done);
	EXPECT_TRUE(all_idle(pool));
	EXPECT_EQ(0, used_in(pool));
}

TEST_SIGNAL(the_filter_kills, SIGSYS)
{
	forbid_system_calls();
	getppid();
}

TEST_F(seccomp, a_million_operations_in_three_slabs_make_no_system_call)
{
	struct evpl_pool *pool;

	if (SANITIZED)
		SKIP(return, "sanitizers make system calls of their own");
	ASSERT_EQ(0, open_pool(&pool, BUFFER, 0));
	ASSERT_EQ(0, evpl_pool_preallocate(pool, KEEP_SLABS * SLAB, EVPL_ANY_NODE));
	watch_storm(_metadata, pool);
	EXPECT_EQ(KEEP_SLABS, stats_of(pool).grows);
	EXPECT_EQ(0, evpl_pool_close(pool));
}

TEST_F(seccomp, nor_do_they_at_the_pools_limit)
{
	struct evpl_pool *pool;

	if (SANITIZED)
		SKIP(return, "sanitizers make system calls of their own");
	/*
	 * Threads reclaim buffers from the caches of others. At most 56 of the 64 buffers are in
	 * use at a time: each of four threads has 4 that it keeps, 3 that it just allocated, 1
	 * that it is passing on and 2 holds; and 16 are in boxes.
	 */
	ASSERT_EQ(0, open_pool(&pool, BUFFER, 2 * SLAB));
	ASSERT_EQ(0, evpl_pool_preallocate(pool, 2 * SLAB, EVPL_ANY_NODE));
	watch_storm(_metadata, pool);
	EXPECT_EQ(2, stats_of(pool).grows);
	EXPECT_LT(0, stats_of(pool).steals);
	EXPECT_EQ(0, stats_of(pool).failures);
	EXPECT_EQ(0, evpl_pool_close(pool));
}

TEST_HARNESS_MAIN
