// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Pools: growing to a limit, giving slabs back, closing, and threads that sleep and keep memory.
 */
#include "common.h"

#include <sys/resource.h>
#include <unistd.h>

#define ALL	(2 * PER_SLAB)	/* buffers at the limit */

FIXTURE(pool) {
	struct evpl_pool *pool;
	struct evpl *evpl;
	struct evpl_iovec iovec[ALL + 1];
};

FIXTURE_SETUP(pool)
{
	ASSERT_EQ(0, open_pool(&self->pool, BUFFER, 2 * SLAB));
	ASSERT_EQ(0, evpl_create(&self->evpl, self->pool, NULL));
}

FIXTURE_TEARDOWN(pool)
{
	evpl_destroy(self->evpl);
	EXPECT_TRUE(all_idle(self->pool));
	EXPECT_EQ(0, used_in(self->pool));
	EXPECT_EQ(0, evpl_pool_close(self->pool));
}

/* Allocates whole buffers until that fails. Returns the number of buffers. */
static unsigned int fill(struct evpl *evpl, struct evpl_iovec *iovec)
{
	unsigned int n = 0;

	while (n <= ALL && evpl_buffer_alloc(evpl, &iovec[n]) == 1)
		n++;
	return n;
}

TEST_F(pool, a_full_pool_gives_ENOMEM_and_takes_nothing)
{
	struct evpl_pool_stats stats;

	ASSERT_EQ(ALL, fill(self->evpl, self->iovec));
	stats = stats_of(self->pool);
	EXPECT_EQ(2, stats.slabs);
	EXPECT_EQ(2 * SLAB, stats.bytes);
	EXPECT_EQ(ALL, stats.buffers);
	EXPECT_EQ(ALL, stats.buffers_used);
	EXPECT_EQ(2, stats.grows);
	EXPECT_EQ(1, stats.failures);
	EXPECT_EQ(-ENOMEM, evpl_iovec_alloc(self->evpl, 1, 0, 1, &self->iovec[ALL]));
	EXPECT_EQ(-ENOMEM, evpl_iovec_alloc(self->evpl, BUFFER + 1, 0, 2, &self->iovec[ALL]));
	EXPECT_EQ(ALL, used_in(self->pool));
	EXPECT_EQ(2 * SLAB, stats_of(self->pool).bytes);
	evpl_iovecs_release(self->iovec, ALL);
	EXPECT_EQ(0, used_in(self->pool));
}

TEST_F(pool, more_than_is_left_takes_nothing)
{
	struct evpl_iovec extra[4];
	int i;

	ASSERT_EQ(ALL, fill(self->evpl, self->iovec));
	evpl_iovecs_release(self->iovec, 3);
	EXPECT_EQ(-ENOMEM, evpl_iovec_alloc(self->evpl, 3 * BUFFER + 1, 0, 4, extra));
	EXPECT_EQ(ALL - 3, used_in(self->pool));
	ASSERT_EQ(3, evpl_iovec_alloc(self->evpl, 3 * BUFFER, 0, 4, extra));
	EXPECT_EQ(ALL, used_in(self->pool));
	for (i = 0; i < 3; i++)
		EXPECT_EQ(1, word_of(&extra[i]));
	evpl_iovecs_release(extra, 3);
	evpl_iovecs_release(self->iovec + 3, ALL - 3);
}

TEST_F(pool, what_never_fits_is_told_apart_and_changes_nothing)
{
	struct evpl_pool_stats before, after;

	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, 8, 0, 1, self->iovec));
	before = stats_of(self->pool);
	EXPECT_EQ(-EMSGSIZE, evpl_iovec_alloc(self->evpl, ALL * BUFFER + 1, 0, ALL + 1,
					      self->iovec + 1));
	EXPECT_EQ(-EMSGSIZE, evpl_iovec_reserve(self->evpl, ALL * BUFFER + 1, 0, ALL + 1,
						self->iovec + 1));
	after = stats_of(self->pool);
	EXPECT_EQ(0, memcmp(&before, &after, sizeof(before)));
	EXPECT_EQ(0, atomic_load(&self->pool->waiting));
	EXPECT_EQ(2, word_of(self->iovec));
	evpl_iovec_release(self->iovec);
	ASSERT_EQ(ALL, evpl_iovec_alloc(self->evpl, ALL * BUFFER, 0, ALL, self->iovec));
	evpl_iovecs_release(self->iovec, ALL);
}

TEST(what_never_fits_is_measured_by_whole_slabs)
{
	struct evpl_iovec iovec[PER_SLAB + 1];
	struct evpl_pool *pool;
	struct evpl *evpl;

	ASSERT_EQ(0, open_pool(&pool, BUFFER, SLAB + BUFFER));
	ASSERT_EQ(0, evpl_create(&evpl, pool, NULL));
	EXPECT_EQ(-EMSGSIZE, evpl_iovec_alloc(evpl, SLAB + 1, 0, PER_SLAB + 1, iovec));
	ASSERT_EQ(PER_SLAB, evpl_iovec_alloc(evpl, SLAB, 0, PER_SLAB, iovec));
	evpl_iovecs_release(iovec, PER_SLAB);
	evpl_destroy(evpl);
	EXPECT_EQ(0, evpl_pool_close(pool));
}

/* As many slices of 64 bytes as two buffers have room for. */
#define SLICES (2 * BUFFER / 64)

TEST_F(pool, a_request_that_fails_leaves_small_ones_their_buffers)
{
	struct evpl_iovec *slice = calloc(SLICES, sizeof(*slice)), extra[PER_SLAB + 1];
	struct evpl *small;
	int i;

	ASSERT_EQ(0, evpl_create(&small, self->pool, NULL));
	for (i = 0; i < (int)PER_SLAB; i++)
		ASSERT_EQ(1, evpl_buffer_alloc(self->evpl, &self->iovec[i]));
	/* The large request needs more than the release of all small slices could free. */
	for (i = 0; i < (int)SLICES; i++) {
		ASSERT_EQ(-ENOMEM, evpl_iovec_alloc(self->evpl, SLAB + 1, 0, PER_SLAB + 1, extra));
		ASSERT_EQ(1, evpl_iovec_alloc(small, 64, 0, 1, &slice[i]));
	}
	EXPECT_EQ(PER_SLAB + 2, used_in(self->pool));
	evpl_iovecs_release(slice, SLICES);

	/*
	 * The release of the small slices could free enough for the first of these requests. So
	 * that one ends the hold of @small, which costs the rest of a buffer, and no other does.
	 */
	for (i = 0; i < (int)SLICES; i++) {
		ASSERT_EQ(1, evpl_iovec_alloc(small, 64, 0, 1, &slice[i]));
		ASSERT_EQ(-ENOMEM, evpl_iovec_alloc(self->evpl, SLAB, 0, PER_SLAB, extra));
	}
	EXPECT_GE(PER_SLAB + 3, used_in(self->pool));
	evpl_iovecs_release(slice, SLICES);
	evpl_iovecs_release(self->iovec, PER_SLAB);
	evpl_destroy(small);
	free(slice);
}

TEST_F(pool, a_request_that_failed_once_costs_nobody_memory)
{
	struct evpl_iovec *slice = calloc(SLICES, sizeof(*slice));
	int i;

	/* After the failure no thread tries again, and nothing is released. */
	for (i = 0; i < (int)PER_SLAB; i++)
		ASSERT_EQ(1, evpl_buffer_alloc(self->evpl, &self->iovec[i]));
	ASSERT_EQ(-ENOMEM, evpl_iovec_alloc(self->evpl, SLAB + 1, 0, PER_SLAB + 1,
					    self->iovec + PER_SLAB));
	for (i = 0; i < (int)SLICES; i++)
		ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, 64, 0, 1, &slice[i]));
	EXPECT_EQ(PER_SLAB + 2, used_in(self->pool));
	evpl_iovecs_release(slice, SLICES);
	evpl_iovecs_release(self->iovec, PER_SLAB);
	free(slice);
}

struct sleeper {
	struct evpl_pool *pool;
	struct evpl_iovec iovec[ALL + 1];
	unsigned int n;
	pthread_barrier_t barrier;
	bool destroys;
};

/* Fills the pool with slices and sleeps. It uses its context only once more, to destroy it. */
static void *sleeper_main(void *arg)
{
	struct sleeper *sleeper = arg;
	struct evpl *evpl;

	if (evpl_create(&evpl, sleeper->pool, NULL))
		abort();
	while (evpl_iovec_alloc(evpl, BUFFER / 2 + 8, 0, 1, &sleeper->iovec[sleeper->n]) == 1)
		sleeper->n++;
	pthread_barrier_wait(&sleeper->barrier);
	pthread_barrier_wait(&sleeper->barrier);
	if (sleeper->destroys)
		evpl_destroy(evpl);
	return evpl;
}

TEST_F(pool, a_sleeping_thread_keeps_no_memory)
{
	struct sleeper *sleeper = calloc(1, sizeof(*sleeper));
	pthread_t thread;

	sleeper->pool = self->pool;
	sleeper->destroys = true;
	pthread_barrier_init(&sleeper->barrier, NULL, 2);
	ASSERT_EQ(0, pthread_create(&thread, NULL, sleeper_main, sleeper));
	pthread_barrier_wait(&sleeper->barrier);
	ASSERT_EQ(ALL, sleeper->n);

	EXPECT_EQ(-ENOMEM, evpl_buffer_alloc(self->evpl, &self->iovec[0]));
	evpl_iovecs_release(sleeper->iovec, ALL);
	/* Some of the buffers went to the cache of the sleeper's context. */
	EXPECT_LT(0, stats_of(self->pool).buffers_cached);
	EXPECT_EQ(ALL, fill(self->evpl, self->iovec));
	EXPECT_LT(0, stats_of(self->pool).steals);
	evpl_iovecs_release(self->iovec, ALL);

	pthread_barrier_wait(&sleeper->barrier);
	pthread_join(thread, NULL);
	free(sleeper);
}

TEST_F(pool, a_sleeping_threads_hold_keeps_no_memory)
{
	struct evpl_iovec slice;
	struct evpl *sleeper;

	/* The buffer has one slice, and the hold of the sleeper's context. */
	ASSERT_EQ(0, evpl_create(&sleeper, self->pool, NULL));
	ASSERT_EQ(1, evpl_iovec_alloc(sleeper, 8, 0, 1, &slice));
	EXPECT_EQ(2, word_of(&slice));
	ASSERT_EQ(ALL - 1, fill(self->evpl, self->iovec));
	/* The failed allocation ended the hold, so that the slice's release frees the buffer. */
	EXPECT_EQ(1, word_of(&slice));
	evpl_iovec_release(&slice);
	ASSERT_EQ(1, evpl_buffer_alloc(self->evpl, &self->iovec[ALL - 1]));
	evpl_iovecs_release(self->iovec, ALL);

	/* Now the buffer has nothing but the hold. */
	ASSERT_EQ(1, evpl_iovec_alloc(sleeper, 8, 0, 1, &slice));
	evpl_iovec_release(&slice);
	EXPECT_EQ(1, word_of(&slice));
	EXPECT_EQ(ALL, fill(self->evpl, self->iovec));
	/* The sleeper's context still works when the sleeper wakes up. */
	EXPECT_EQ(-ENOMEM, evpl_iovec_alloc(sleeper, 8, 0, 1, &slice));
	evpl_iovecs_release(self->iovec, ALL);
	ASSERT_EQ(1, evpl_iovec_alloc(sleeper, 8, 0, 1, &slice));
	evpl_iovec_release(&slice);
	evpl_destroy(sleeper);
}

TEST_F(pool, a_thread_that_ended_keeps_no_memory)
{
	struct sleeper *sleeper = calloc(1, sizeof(*sleeper));
	pthread_t thread;
	void *evpl;

	sleeper->pool = self->pool;
	pthread_barrier_init(&sleeper->barrier, NULL, 1);
	ASSERT_EQ(0, pthread_create(&thread, NULL, sleeper_main, sleeper));
	pthread_join(thread, &evpl);
	evpl_iovecs_release(sleeper->iovec, (int)sleeper->n);
	EXPECT_EQ(ALL, fill(self->evpl, self->iovec));
	evpl_iovecs_release(self->iovec, ALL);
	evpl_destroy(evpl);
	free(sleeper);
}

TEST_F(pool, trim_gives_idle_slabs_back_but_for_one)
{
	struct evpl_pool_stats stats;

	ASSERT_EQ(ALL, fill(self->evpl, self->iovec));
	EXPECT_EQ(0, evpl_pool_trim(self->pool));
	evpl_iovecs_release(self->iovec, ALL - 1);
	/* A release gives no slab back. */
	EXPECT_EQ(2, stats_of(self->pool).slabs);
	/* One buffer is in use, so its slab stays. A trim keeps one idle slab: the other one. */
	EXPECT_EQ(0, evpl_pool_trim(self->pool));
	EXPECT_EQ(2, stats_of(self->pool).slabs);
	EXPECT_EQ(1, used_in(self->pool));
	evpl_iovec_release(&self->iovec[ALL - 1]);
	EXPECT_EQ(SLAB, evpl_pool_trim(self->pool));
	stats = stats_of(self->pool);
	EXPECT_EQ(1, stats.slabs);
	EXPECT_EQ(SLAB, stats.bytes);
	EXPECT_EQ(PER_SLAB, stats.buffers_free);
	EXPECT_EQ(0, stats.buffers_cached);
	EXPECT_EQ(1, stats.shrinks);
	EXPECT_EQ(0, evpl_pool_trim(self->pool));
	/* The pool can grow to its limit again. */
	EXPECT_EQ(ALL, fill(self->evpl, self->iovec));
	evpl_iovecs_release(self->iovec, ALL);
}

TEST_F(pool, a_hold_keeps_a_slab_from_trim)
{
	ASSERT_EQ(0, prefill(self->pool, 2 * SLAB));
	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, 8, 0, 1, self->iovec));
	evpl_iovec_release(self->iovec);
	EXPECT_EQ(0, evpl_pool_trim(self->pool));
	EXPECT_EQ(2, stats_of(self->pool).slabs);
	EXPECT_EQ(1, word_of(self->iovec));
	/* The context still cuts slices off that buffer. */
	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, 8, 0, 1, self->iovec));
	memset(self->iovec[0].data, 1, 8);
	evpl_iovec_release(self->iovec);
}

TEST_F(pool, destroy_leaves_its_cache_to_others_and_every_slab)
{
	struct evpl_pool_stats stats;
	struct evpl *other;

	ASSERT_EQ(0, evpl_create(&other, self->pool, NULL));
	ASSERT_EQ(ALL, fill(other, self->iovec));
	evpl_iovecs_release(self->iovec, ALL);
	EXPECT_LT(0, stats_of(self->pool).buffers_cached);
	evpl_destroy(other);
	stats = stats_of(self->pool);
	EXPECT_EQ(2, stats.slabs);
	EXPECT_EQ(0, stats.shrinks);
	EXPECT_EQ(0, stats.buffers_cached);
	EXPECT_EQ(ALL, stats.buffers_free);
	EXPECT_EQ(1, stats.contexts);
	evpl_destroy(NULL);
}

TEST_F(pool, destroy_leaves_other_contexts_their_caches)
{
	struct evpl *other;
	uint64_t cached;

	ASSERT_EQ(0, evpl_create(&other, self->pool, NULL));
	ASSERT_EQ(ALL, fill(self->evpl, self->iovec));
	evpl_iovecs_release(self->iovec, ALL);
	cached = stats_of(self->pool).buffers_cached;
	EXPECT_LT(0, cached);
	evpl_destroy(other);
	EXPECT_EQ(cached, stats_of(self->pool).buffers_cached);
	EXPECT_EQ(ALL - cached, stats_of(self->pool).buffers_free);
}

TEST_F(pool, what_was_preallocated_stays)
{
	struct evpl *other;

	ASSERT_EQ(0, evpl_pool_preallocate(self->pool, 2 * SLAB, EVPL_ANY_NODE));
	ASSERT_EQ(0, evpl_create(&other, self->pool, NULL));
	ASSERT_EQ(ALL, fill(other, self->iovec));
	evpl_iovecs_release(self->iovec, ALL);
	evpl_destroy(other);
	EXPECT_EQ(0, evpl_pool_trim(self->pool));
	EXPECT_EQ(2 * SLAB, stats_of(self->pool).bytes);
	EXPECT_EQ(0, stats_of(self->pool).shrinks);

	/* A call that fails doesn't change what the pool keeps. A call for less does. */
	EXPECT_EQ(-ENOMEM, evpl_pool_preallocate(self->pool, 2 * SLAB + 1, EVPL_ANY_NODE));
	EXPECT_EQ(0, evpl_pool_trim(self->pool));
	EXPECT_EQ(0, evpl_pool_preallocate(self->pool, 1, EVPL_ANY_NODE));
	EXPECT_EQ(SLAB, evpl_pool_trim(self->pool));
	EXPECT_EQ(SLAB, stats_of(self->pool).bytes);
}

TEST_F(pool, what_was_preallocated_makes_no_room_for_a_node)
{
	struct evpl_config config = { .size = sizeof(config), .flags = EVPL_CONFIG_NODE };
	struct evpl *evpl;

	ASSERT_EQ(0, evpl_pool_preallocate(self->pool, 2 * SLAB, EVPL_ANY_NODE));
	ASSERT_EQ(0, evpl_create(&evpl, self->pool, &config));
	EXPECT_EQ(-ENOMEM, evpl_buffer_alloc(evpl, &self->iovec[0]));
	EXPECT_EQ(0, stats_of(self->pool).shrinks);
	ASSERT_EQ(0, evpl_pool_preallocate(self->pool, SLAB, EVPL_ANY_NODE));
	ASSERT_EQ(1, evpl_buffer_alloc(evpl, &self->iovec[0]));
	EXPECT_EQ(1, stats_of(self->pool).shrinks);
	evpl_iovec_release(&self->iovec[0]);
	evpl_destroy(evpl);
}

TEST_F(pool, preallocate_takes_what_is_missing)
{
	struct evpl_pool_stats stats;

	EXPECT_EQ(0, evpl_pool_preallocate(self->pool, 0, EVPL_ANY_NODE));
	EXPECT_EQ(0, stats_of(self->pool).slabs);
	EXPECT_EQ(0, evpl_pool_preallocate(self->pool, 1, EVPL_ANY_NODE));
	EXPECT_EQ(SLAB, stats_of(self->pool).bytes);
	EXPECT_EQ(0, evpl_pool_preallocate(self->pool, SLAB, EVPL_ANY_NODE));
	EXPECT_EQ(SLAB, stats_of(self->pool).bytes);
	EXPECT_EQ(-ENOMEM, evpl_pool_preallocate(self->pool, 2 * SLAB + 1, EVPL_ANY_NODE));
	EXPECT_EQ(-ENOMEM, evpl_pool_preallocate(self->pool, UINT64_MAX, EVPL_ANY_NODE));
	EXPECT_EQ(SLAB, stats_of(self->pool).bytes);
	EXPECT_EQ(0, evpl_pool_preallocate(self->pool, 2 * SLAB, EVPL_ANY_NODE));
	stats = stats_of(self->pool);
	EXPECT_EQ(2 * SLAB, stats.bytes);
	EXPECT_EQ(ALL, stats.buffers_free);
	EXPECT_EQ(ALL, fill(self->evpl, self->iovec));
	evpl_iovecs_release(self->iovec, ALL);
}

TEST_F(pool, closing_is_refused_while_anything_lives)
{
	struct evpl_pool_stats before, after;
	struct evpl_iovec iovec, clone;
	struct evpl_pool *pool;
	struct evpl *evpl;
	unsigned int i;

	ASSERT_EQ(0, open_pool(&pool, BUFFER, 2 * SLAB));
	ASSERT_EQ(0, evpl_create(&evpl, pool, NULL));
	EXPECT_EQ(-EBUSY, evpl_pool_close(pool));
	/* Both slabs have references, and the last ones are in the second slab. */
	for (i = 0; i < PER_SLAB + 1; i++)
		ASSERT_EQ(1, evpl_buffer_alloc(evpl, &self->iovec[i]));
	iovec = self->iovec[PER_SLAB];
	evpl_iovec_clone(&clone, &iovec);
	evpl_destroy(evpl);
	evpl_iovecs_release(self->iovec, PER_SLAB);
	before = stats_of(pool);
	EXPECT_EQ(2, before.slabs);
	EXPECT_EQ(-EBUSY, evpl_pool_close(pool));
	after = stats_of(pool);
	EXPECT_EQ(0, memcmp(&before, &after, sizeof(before)));
	evpl_iovec_release(&iovec);
	EXPECT_EQ(-EBUSY, evpl_pool_close(pool));

	/* The pool still works after each refusal. */
	ASSERT_EQ(0, evpl_create(&evpl, pool, NULL));
	ASSERT_EQ(ALL - 1, fill(evpl, self->iovec));
	evpl_iovecs_release(self->iovec, ALL - 1);
	evpl_destroy(evpl);
	evpl_iovec_release(&clone);
	EXPECT_EQ(0, evpl_pool_close(pool));
}

TEST_F(pool, a_slab_that_the_kernel_needs_stays)
{
	struct slab *slab;

	/* Add a reference that the library doesn't know of, as the kernel may have one. */
	ASSERT_EQ(0, prefill(self->pool, 2 * SLAB));
	slab = self->pool->slabs->next;
	atomic_fetch_add(&slab->first[5].word, 1);
	evpl_pool_trim(self->pool);
	EXPECT_EQ(2, stats_of(self->pool).slabs);
	EXPECT_EQ(ALL, stats_of(self->pool).buffers_free);
	atomic_fetch_sub(&slab->first[5].word, 1);
	EXPECT_EQ(SLAB, evpl_pool_trim(self->pool));
	EXPECT_EQ(1, stats_of(self->pool).slabs);
}

TEST_F(pool, a_context_of_a_node_uses_memory_of_that_node)
{
	struct evpl_config config = { .size = sizeof(config), .flags = EVPL_CONFIG_NODE };
	struct evpl_slab_info info;
	struct evpl *evpl;

	/* Every machine has node 0. Idle slabs that aren't of this node make room for it. */
	ASSERT_EQ(0, prefill(self->pool, 2 * SLAB));
	ASSERT_EQ(0, evpl_create(&evpl, self->pool, &config));
	ASSERT_EQ(1, evpl_buffer_alloc(evpl, &self->iovec[0]));
	ASSERT_EQ(0, evpl_iovec_slab(&self->iovec[0], &info));
	EXPECT_EQ(0, info.node);
	memset(self->iovec[0].data, 1, BUFFER);
	EXPECT_GE(2 * SLAB, stats_of(self->pool).bytes);
	evpl_iovec_release(&self->iovec[0]);

	/* A context without a node takes that buffer too. */
	EXPECT_EQ(2 * SLAB / BUFFER, fill(self->evpl, self->iovec));
	EXPECT_EQ(-ENOMEM, evpl_buffer_alloc(evpl, &self->iovec[ALL]));
	evpl_iovecs_release(self->iovec, ALL);
	ASSERT_EQ(1, evpl_buffer_alloc(evpl, &self->iovec[0]));
	ASSERT_EQ(0, evpl_iovec_slab(&self->iovec[0], &info));
	EXPECT_EQ(0, info.node);
	evpl_iovec_release(&self->iovec[0]);
	evpl_destroy(evpl);
}

TEST(preallocating_more_than_there_can_be_takes_nothing_on_the_way)
{
	struct evpl_pool_config config = { .size = sizeof(config), .buffer_size = BUFFER };
	struct evpl_pool *pool;

	/* First with the default limit, which is none with the module; then with a limit. */
	ASSERT_EQ(0, evpl_pool_open(&pool, &config));
	EXPECT_EQ(-ENOMEM, evpl_pool_preallocate(pool, UINT64_MAX, EVPL_ANY_NODE));
	EXPECT_EQ(0, stats_of(pool).grows);
	ASSERT_EQ(0, evpl_pool_close(pool));
	ASSERT_EQ(0, open_pool(&pool, BUFFER, 2 * SLAB));
	ASSERT_EQ(0, evpl_pool_preallocate(pool, SLAB, EVPL_ANY_NODE));
	EXPECT_EQ(-ENOMEM, evpl_pool_preallocate(pool, 2 * SLAB + 1, EVPL_ANY_NODE));
	EXPECT_EQ(1, stats_of(pool).grows);
	EXPECT_EQ(0, evpl_pool_preallocate(pool, 2 * SLAB, EVPL_ANY_NODE));
	EXPECT_EQ(2 * SLAB, stats_of(pool).bytes);
	EXPECT_EQ(0, evpl_pool_close(pool));
}

/* Lets the process have at most @more further bytes of address space. */
static int limit_memory(rlim_t more)
{
	struct rlimit limit;
	unsigned long pages;
	FILE *file = fopen("/proc/self/statm", "r");
	int n;

	if (!file)
		return -1;
	n = fscanf(file, "%lu", &pages);
	fclose(file);
	if (n != 1 || getrlimit(RLIMIT_AS, &limit))
		return -1;
	limit.rlim_cur = pages * (rlim_t)sysconf(_SC_PAGESIZE) + more;
	return setrlimit(RLIMIT_AS, &limit);
}

TEST(preallocating_that_fails_on_the_way_takes_nothing)
{
	struct evpl_pool_stats stats;
	struct evpl_pool *pool;

	if (SANITIZED)
		SKIP(return, "sanitizers need address space of their own");
	ASSERT_EQ(0, open_pool(&pool, BUFFER, 16 * SLAB));
	ASSERT_EQ(0, evpl_pool_preallocate(pool, SLAB, EVPL_ANY_NODE));
	ASSERT_EQ(0, limit_memory(8 * SLAB));
	EXPECT_EQ(-ENOMEM, evpl_pool_preallocate(pool, 16 * SLAB, EVPL_ANY_NODE));
	stats = stats_of(pool);
	EXPECT_LT(2, stats.grows);
	EXPECT_EQ(1, stats.grows - stats.shrinks);
	EXPECT_EQ(SLAB, stats.bytes);
	EXPECT_EQ(PER_SLAB, stats.buffers_free);
	/* The pool still keeps what the call before this one asked for. */
	EXPECT_EQ(0, evpl_pool_trim(pool));
	EXPECT_EQ(0, evpl_pool_preallocate(pool, 2 * SLAB, EVPL_ANY_NODE));
	EXPECT_EQ(2 * SLAB, stats_of(pool).bytes);
	EXPECT_EQ(0, evpl_pool_close(pool));
}

TEST(slabs_keep_their_order_and_numbers_are_the_lowest)
{
	struct evpl_pool *pool;
	struct slab *slab;
	unsigned int i;

	ASSERT_EQ(0, open_pool(&pool, BUFFER, 8 * SLAB));
	ASSERT_EQ(0, prefill(pool, 4 * SLAB));
	/* The trim keeps the first slab. New slabs get the numbers and offsets of the others. */
	EXPECT_EQ(3 * SLAB, evpl_pool_trim(pool));
	ASSERT_EQ(0, evpl_pool_preallocate(pool, 8 * SLAB, EVPL_ANY_NODE));
	for (slab = pool->slabs, i = 0; slab; slab = slab->next, i++) {
		EXPECT_EQ(i, slab->info.number);
		EXPECT_EQ(i * SLAB, slab->extent.offset);
	}
	EXPECT_EQ(8, i);
	EXPECT_EQ(0, evpl_pool_close(pool));
}

TEST(slabs_get_shorter_near_the_limit)
{
	struct evpl_pool_config config = {
		.size = sizeof(config),
		.buffer_size = BUFFER,
		.slab_size = 8 * MB,
		.slab_size_max = 8 * MB,
		.max_bytes = 14 * MB,
	};
	struct evpl_iovec *iovec = calloc(14 * MB / BUFFER + 1, sizeof(*iovec));
	struct evpl_pool *pool;
	struct evpl *evpl;
	unsigned int n = 0;

	ASSERT_EQ(0, evpl_pool_open(&pool, &config));
	ASSERT_EQ(0, evpl_create(&evpl, pool, NULL));
	while (n <= 14 * MB / BUFFER && evpl_buffer_alloc(evpl, &iovec[n]) == 1)
		n++;
	EXPECT_EQ(14 * MB / BUFFER, n);
	EXPECT_EQ(14 * MB, stats_of(pool).bytes);
	/* They have 8 MiB, 4 MiB and 2 MiB. */
	EXPECT_EQ(3, stats_of(pool).slabs);
	evpl_iovecs_release(iovec, (int)n);
	evpl_destroy(evpl);
	EXPECT_EQ(0, evpl_pool_close(pool));
	free(iovec);
}

TEST_HARNESS_MAIN
