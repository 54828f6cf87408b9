// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Threads that use one pool at the same time.
 */
#include "recycle.h"
#include "bias.h"
#include "storm.h"

/* The fixture only gives the tests a common name. */
FIXTURE(threads) {
	int unused;
};

FIXTURE_SETUP(threads)
{
	self->unused = 0;
}

FIXTURE_TEARDOWN(threads)
{
}

static void *storm_main(void *arg)
{
	struct storm_thread *thread = arg;

	if (evpl_create(&thread->evpl, thread->storm->pool, NULL))
		abort();
	storm_run(thread);
	evpl_destroy(thread->evpl);
	return NULL;
}

static void storm_all(struct __test_metadata *_metadata, struct storm *storm)
{
	pthread_t threads[STORM_THREADS];
	int i;

	for (i = 0; i < STORM_THREADS; i++)
		ASSERT_EQ(0, pthread_create(&threads[i], NULL, storm_main, &storm->thread[i]));
	for (i = 0; i < STORM_THREADS; i++)
		ASSERT_EQ(0, pthread_join(threads[i], NULL));
	storm_empty_boxes(storm);
	for (i = 0; i < STORM_THREADS; i++)
		EXPECT_STREQ("", storm->thread[i].error);
}

/* Checks and closes the pool. No other thread uses it any more. */
static void storm_over(struct __test_metadata *_metadata, struct storm *storm)
{
	EXPECT_TRUE(all_idle(storm->pool));
	EXPECT_EQ(0, used_in(storm->pool));
	/* A late release may have put a buffer into the cache of a destroyed context. */
	evpl_pool_trim(storm->pool);
	EXPECT_EQ(0, stats_of(storm->pool).buffers_cached);
	EXPECT_EQ(1, stats_of(storm->pool).slabs);
	EXPECT_EQ(0, evpl_pool_close(storm->pool));
}

TEST_F(threads, slices_keep_their_contents_until_they_are_released)
{
	struct evpl_pool *pool;
	struct storm storm;

	ASSERT_EQ(0, open_pool(&pool, BUFFER, 32 * SLAB));
	storm_init(&storm, pool);
	storm.operations = few() ? 50000 : 500000;
	storm_all(_metadata, &storm);
	storm_over(_metadata, &storm);
}

TEST_F(threads, they_do_so_where_memory_is_short)
{
	struct evpl_iovec held[PER_SLAB * 3 / 4 + 1];
	struct evpl_pool *pool;
	struct evpl *evpl;
	struct storm storm;
	uint64_t refused = 0;
	int i;

	/*
	 * The threads reclaim from each other all the time. The buffers that are left are too few
	 * even for one thread, and one of them is in this thread's cache. So requests fail and
	 * buffers are reclaimed, however many threads run at the same time.
	 */
	ASSERT_EQ(0, open_pool(&pool, BUFFER, SLAB));
	ASSERT_EQ(0, evpl_create(&evpl, pool, NULL));
	for (i = 0; i < (int)ARRAY_SIZE(held); i++)
		ASSERT_EQ(1, evpl_buffer_alloc(evpl, &held[i]));
	evpl_iovec_release(&held[ARRAY_SIZE(held) - 1]);
	storm_init(&storm, pool);
	storm.operations = few() ? 50000 : 500000;
	storm.may_fail = true;
	storm_all(_metadata, &storm);
	EXPECT_LT(0, stats_of(pool).steals);
	for (i = 0; i < STORM_THREADS; i++)
		refused += storm.thread[i].refused;
	EXPECT_LT(0, refused);
	EXPECT_EQ(refused, stats_of(pool).failures);
	evpl_iovecs_release(held, ARRAY_SIZE(held) - 1);
	evpl_destroy(evpl);
	storm_over(_metadata, &storm);
}

TEST_F(threads, they_do_so_in_the_smallest_buffers)
{
	struct evpl_pool *pool;
	struct storm storm;

	ASSERT_EQ(0, open_pool(&pool, PAGE, SLAB));
	storm_init(&storm, pool);
	storm.operations = few() ? 20000 : 200000;
	storm.may_fail = true;
	storm_all(_metadata, &storm);
	storm_over(_metadata, &storm);
}

/* Threads make and destroy contexts, and trim the pool, while slices are in use. */
struct gardener {
	struct evpl_pool *pool;
	atomic_bool stop;
};

static void *trimmer_main(void *arg)
{
	struct gardener *gardener = arg;

	while (!atomic_load(&gardener->stop)) {
		evpl_pool_trim(gardener->pool);
		if (evpl_pool_close(gardener->pool) != -EBUSY)
			abort();
		sched_yield();
	}
	return NULL;
}

/* Allocates as many buffers as two slabs have, and leaves the slabs idle. */
static void *visitor_main(void *arg)
{
	struct evpl_iovec *iovec = calloc(2 * PER_SLAB + 1, sizeof(*iovec));
	struct gardener *gardener = arg;
	struct evpl *evpl;
	int n;

	while (!atomic_load(&gardener->stop)) {
		if (evpl_create(&evpl, gardener->pool, NULL))
			abort();
		for (n = 0; n < (int)(2 * PER_SLAB); n++)
			if (evpl_buffer_alloc(evpl, &iovec[n]) != 1)
				break;
		/* Release one half before the context is destroyed, and the other half after. */
		evpl_iovecs_release(iovec + n / 2, n - n / 2);
		evpl_destroy(evpl);
		evpl_iovecs_release(iovec, n / 2);
		sched_yield();
	}
	free(iovec);
	return NULL;
}

TEST_F(threads, trims_and_contexts_come_and_go_meanwhile)
{
	struct gardener gardener = { 0 };
	pthread_t trimmer, visitor;
	struct evpl *evpl;
	struct storm storm;

	ASSERT_EQ(0, open_pool(&gardener.pool, BUFFER, 16 * SLAB));
	/* This context has evpl_pool_close() fail. */
	ASSERT_EQ(0, evpl_create(&evpl, gardener.pool, NULL));
	ASSERT_EQ(0, pthread_create(&trimmer, NULL, trimmer_main, &gardener));
	ASSERT_EQ(0, pthread_create(&visitor, NULL, visitor_main, &gardener));
	do {
		storm_init(&storm, gardener.pool);
		storm.operations = few() ? 20000 : 200000;
		storm.may_fail = true;
		storm.live = 64;
		storm.largest = BUFFER + BUFFER / 2;
		storm_all(_metadata, &storm);
	} while (stats_of(gardener.pool).shrinks < 10);
	atomic_store(&gardener.stop, true);
	pthread_join(trimmer, NULL);
	pthread_join(visitor, NULL);
	evpl_destroy(evpl);
	storm_over(_metadata, &storm);
}

/* A pool may be closed when the last reference is gone, before its release has returned. */
struct handover {
	_Atomic(struct evpl_iovec *) iovec;
	atomic_bool stop;
};

static void *last_releaser_main(void *arg)
{
	struct handover *handover = arg;
	struct evpl_iovec *iovec, copy;
	unsigned int spins = 0;

	while (!atomic_load(&handover->stop)) {
		iovec = atomic_load(&handover->iovec);
		if (!iovec) {
			spin(&spins);
			continue;
		}
		copy = *iovec;
		atomic_store(&handover->iovec, NULL);
		evpl_iovec_release(&copy);
	}
	return NULL;
}

TEST_F(threads, a_pool_can_be_closed_while_the_last_release_returns)
{
	struct handover handover = { .iovec = NULL };
	int i, rounds = few() ? 200 : 5000;
	struct evpl_iovec iovec, extra;
	unsigned int spins = 0;
	struct evpl_pool *pool;
	pthread_t thread;
	struct evpl *evpl;

	ASSERT_EQ(0, pthread_create(&thread, NULL, last_releaser_main, &handover));
	for (i = 0; i < rounds; i++) {
		ASSERT_EQ(0, open_pool(&pool, SLAB, SLAB));
		ASSERT_EQ(0, evpl_create(&evpl, pool, NULL));
		ASSERT_EQ(1, evpl_buffer_alloc(evpl, &iovec));
		/* Set WAITING, so that the last release also writes the eventfd. */
		ASSERT_EQ(-ENOMEM, evpl_buffer_alloc(evpl, &extra));
		evpl_destroy(evpl);
		atomic_store(&handover.iovec, &iovec);
		while (evpl_pool_close(pool))
			spin(&spins);
	}
	atomic_store(&handover.stop, true);
	pthread_join(thread, NULL);
}

/* One thread claims and parks its context, while another one reclaims its buffer. */
struct reclaim {
	struct evpl_pool *pool;
	atomic_bool stop;
};

static void *reclaim_main(void *arg)
{
	struct reclaim *reclaim = arg;

	while (!atomic_load(&reclaim->stop)) {
		contexts_reclaim_current(reclaim->pool);
		sched_yield();
	}
	return NULL;
}

TEST_F(threads, holds_can_be_reclaimed_at_any_moment)
{
	int i, rounds = few() ? 50000 : 500000;
	struct reclaim reclaim = { 0 };
	struct evpl_iovec iovec[4];
	struct evpl *evpl;
	pthread_t thread;
	uint64_t word;

	memset(iovec, 0, sizeof(iovec));
	ASSERT_EQ(0, open_pool(&reclaim.pool, BUFFER, SLAB));
	ASSERT_EQ(0, evpl_create(&evpl, reclaim.pool, NULL));
	ASSERT_EQ(0, pthread_create(&thread, NULL, reclaim_main, &reclaim));
	for (i = 0; i < rounds; i++) {
		evpl_iovec_release(&iovec[i % 4]);
		ASSERT_EQ(1, evpl_iovec_alloc(evpl, 3000, 64, 1, &iovec[i % 4]));
		/* At most four slices and the hold, unless the context is bound just now. */
		word = atomic_load(&iovec_entry(&iovec[i % 4])->word);
		ASSERT_LE(1, word);
		if (word < BIAS_CREDIT / 2)
			ASSERT_GE(5, word);
		*(unsigned int *)iovec[i % 4].data = i;
		ASSERT_EQ((unsigned int)i, *(unsigned int *)iovec[i % 4].data);
	}
	atomic_store(&reclaim.stop, true);
	pthread_join(thread, NULL);
	evpl_iovecs_release(iovec, 4);
	evpl_destroy(evpl);
	EXPECT_TRUE(all_idle(reclaim.pool));
	EXPECT_EQ(0, used_in(reclaim.pool));
	EXPECT_EQ(0, evpl_pool_close(reclaim.pool));
}

TEST_F(threads, a_claimed_context_is_marked_and_does_not_park)
{
	struct evpl_iovec iovec;
	struct cursor cursor;
	struct evpl_pool *pool;
	struct evpl *evpl;

	ASSERT_EQ(0, open_pool(&pool, BUFFER, SLAB));
	ASSERT_EQ(0, evpl_create(&evpl, pool, NULL));
	ASSERT_EQ(1, evpl_iovec_alloc(evpl, 8, 0, 1, &iovec));
	ASSERT_EQ(2, word_of(&iovec));

	/* The owner has claimed the context. So a thread that reclaims only leaves a mark. */
	cursor = context_claim(evpl);
	ASSERT_EQ(iovec_entry(&iovec), cursor.buffer);
	contexts_reclaim_current(pool);
	EXPECT_EQ(2, word_of(&iovec));
	EXPECT_EQ(CURRENT_RECLAIMED, atomic_load(&evpl->current));
	contexts_reclaim_current(pool);
	context_park(evpl, cursor);
	EXPECT_EQ(CURRENT_NONE, atomic_load(&evpl->current));
	EXPECT_EQ(1, word_of(&iovec));

	/* The same without a current buffer. */
	cursor = context_claim(evpl);
	EXPECT_EQ(NULL, cursor.buffer);
	contexts_reclaim_current(pool);
	context_park(evpl, cursor);
	EXPECT_EQ(CURRENT_NONE, atomic_load(&evpl->current));
	evpl_iovec_release(&iovec);
	evpl_destroy(evpl);
	EXPECT_EQ(0, used_in(pool));
	EXPECT_EQ(0, evpl_pool_close(pool));
}

/* A thread that closes the pool, and waits while another one is about to write the eventfd. */
struct closer {
	struct evpl_pool *pool;
	atomic_bool begun, done;
};

static void *closer_main(void *arg)
{
	struct closer *closer = arg;

	atomic_store(&closer->begun, true);
	if (evpl_pool_close(closer->pool))
		abort();
	atomic_store(&closer->done, true);
	return NULL;
}

TEST_F(threads, closing_waits_for_who_writes_the_eventfd)
{
	struct closer closer = { .pool = NULL };
	pthread_t thread;
	int i;

	ASSERT_EQ(0, open_pool(&closer.pool, BUFFER, SLAB));
	atomic_fetch_add(&closer.pool->waiting, NOTIFIER);
	ASSERT_EQ(0, pthread_create(&thread, NULL, closer_main, &closer));
	while (!atomic_load(&closer.begun))
		sched_yield();
	/* The close can't return, however long this takes. */
	for (i = 0; i < 1000; i++) {
		sched_yield();
		ASSERT_FALSE(atomic_load(&closer.done));
	}
	EXPECT_EQ(1, write(closer.pool->eventfd, "12345678", 8) == 8);
	atomic_fetch_sub(&closer.pool->waiting, NOTIFIER);
	pthread_join(thread, NULL);
	EXPECT_TRUE(atomic_load(&closer.done));
}

/* A trim takes the free buffers off the free lists for a moment, and puts them back. */
TEST_F(threads, a_trim_makes_no_allocation_grow_or_fail)
{
	int i, rounds = few() ? 5000 : 50000;
	struct gardener gardener = { 0 };
	struct evpl_iovec iovec;
	struct evpl *evpl;
	pthread_t thread;

	ASSERT_EQ(0, open_pool(&gardener.pool, BUFFER, 2 * SLAB));
	ASSERT_EQ(0, evpl_create(&evpl, gardener.pool, NULL));
	ASSERT_EQ(0, pthread_create(&thread, NULL, trimmer_main, &gardener));
	for (i = 0; i < rounds; i++) {
		ASSERT_EQ(1, evpl_buffer_alloc(evpl, &iovec));
		evpl_iovec_release(&iovec);
	}
	EXPECT_EQ(1, stats_of(gardener.pool).grows);
	EXPECT_EQ(0, stats_of(gardener.pool).failures);
	atomic_store(&gardener.stop, true);
	pthread_join(thread, NULL);
	evpl_destroy(evpl);
	EXPECT_EQ(0, evpl_pool_close(gardener.pool));
}

/* Of two threads one makes the pool's only slab, and the other allocates at that moment. */
struct starter {
	struct evpl_pool *pool;
	pthread_barrier_t barrier;
};

static void *starter_main(void *arg)
{
	struct starter *starter = arg;
	struct evpl_iovec iovec;
	struct evpl *evpl;

	if (evpl_create(&evpl, starter->pool, NULL))
		abort();
	pthread_barrier_wait(&starter->barrier);
	if (evpl_buffer_alloc(evpl, &iovec) == 1)
		evpl_iovec_release(&iovec);
	evpl_destroy(evpl);
	return NULL;
}

/* A device that is told nothing of a slab that comes is none that must be told first. */
static int forget_slab(void *arg, const struct evpl_slab_info *slab, uint64_t cookie)
{
	return 0;
}

TEST_F(threads, two_that_start_at_once_both_get_the_first_slab)
{
	struct evpl_device_ops ops = { .size = sizeof(ops), .unregister_slab = forget_slab };
	int i, rounds = few() ? 200 : 2000;
	struct evpl_device *device;
	struct starter starter;
	pthread_t thread;

	ASSERT_EQ(0, pthread_barrier_init(&starter.barrier, NULL, 2));
	for (i = 0; i < rounds; i++) {
		ASSERT_EQ(0, open_pool(&starter.pool, PAGE, SLAB));
		device = NULL;
		if (i % 2)
			ASSERT_EQ(0, evpl_device_attach(starter.pool, &ops, NULL, &device));
		ASSERT_EQ(0, pthread_create(&thread, NULL, starter_main, &starter));
		starter_main(&starter);
		ASSERT_EQ(0, pthread_join(thread, NULL));
		ASSERT_EQ(0, stats_of(starter.pool).failures);
		evpl_device_detach(device);
		ASSERT_EQ(0, evpl_pool_close(starter.pool));
	}
	pthread_barrier_destroy(&starter.barrier);
}

/* Tests of the free list (freelist.h): no entry is lost, and none is popped twice. */
#define ENTRIES 3

TEST_F(threads, a_stacks_head_never_repeats)
{
	struct entry *entries = aligned_alloc(64, 2 * sizeof(*entries));
	struct freelist list = { 0 };
	uint64_t head;

	memset(entries, 0, 2 * sizeof(*entries));
	entries[1].index = 1;
	freelist_reserve(&list, 2);
	freelist_push(&list, &entries[0], &entries[0]);
	freelist_push(&list, &entries[1], &entries[1]);
	head = atomic_load(&list.head);
	/* A thread that read this head, and entry 0 as its next, must fail to pop from here on. */
	EXPECT_EQ(&entries[1], freelist_pop(&list, entries));
	EXPECT_EQ(&entries[0], freelist_pop(&list, entries));
	freelist_reserve(&list, 1);
	freelist_push(&list, &entries[1], &entries[1]);
	EXPECT_EQ((uint32_t)head, (uint32_t)atomic_load(&list.head));
	EXPECT_NE(head, atomic_load(&list.head));
	EXPECT_EQ(1, freelist_count(&list));
	free(entries);
}

struct shuffle {
	struct entry entries[ENTRIES];
	struct depot depot[2];
	atomic_int owner[ENTRIES];
	atomic_int errors;
};

static void shuffle_own(struct shuffle *shuffle, struct entry *entry, unsigned int to)
{
	if (atomic_fetch_add(&shuffle->owner[entry->index], 1))
		atomic_fetch_add(&shuffle->errors, 1);
	atomic_fetch_sub(&shuffle->owner[entry->index], 1);
	depot_push(&shuffle->depot[to], entry, entry, 1);
}

static void *shuffle_main(void *arg)
{
	struct shuffle *shuffle = arg;
	struct entry *entry;
	uint32_t i, n, top;

	for (i = 0; i < (few() ? 50000 : 500000); i++) {
		entry = freelist_pop(&shuffle->depot[i % 2].free, shuffle->entries);
		if (entry) {
			/*
			 * The count is never too low. A thread that has popped one entry, or that
			 * has taken all, makes it too high by as many until it has uncounted them.
			 */
			if (freelist_count(&shuffle->depot[i % 2].free) > ENTRIES + 4 * ENTRIES)
				atomic_fetch_add(&shuffle->errors, 1);
			shuffle_own(shuffle, entry, i / 2 % 2);
		}
		if (i % 64)
			continue;
		for (n = 0, top = freelist_take_all(&shuffle->depot[0].free); top; n++) {
			entry = &shuffle->entries[top - 1];
			top = atomic_load(&entry->next);
			shuffle_own(shuffle, entry, 1);
		}
		freelist_uncount(&shuffle->depot[0].free, n);
	}
	return NULL;
}

TEST_F(threads, a_stack_neither_loses_nor_doubles)
{
	struct shuffle *shuffle = aligned_alloc(64, sizeof(*shuffle));
	pthread_t threads[4];
	unsigned int i, n = 0;

	memset(shuffle, 0, sizeof(*shuffle));
	for (i = 0; i < ENTRIES; i++) {
		shuffle->entries[i].index = i;
		depot_push(&shuffle->depot[i % 2], &shuffle->entries[i], &shuffle->entries[i], 1);
	}
	for (i = 0; i < 4; i++)
		ASSERT_EQ(0, pthread_create(&threads[i], NULL, shuffle_main, shuffle));
	for (i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	EXPECT_EQ(0, atomic_load(&shuffle->errors));
	EXPECT_EQ(ENTRIES, freelist_count(&shuffle->depot[0].free) +
			   freelist_count(&shuffle->depot[1].free));
	while (freelist_pop(&shuffle->depot[0].free, shuffle->entries) ||
	       freelist_pop(&shuffle->depot[1].free, shuffle->entries))
		n++;
	EXPECT_EQ(ENTRIES, n);
	free(shuffle);
}

TEST_HARNESS_MAIN
