// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Bindings (bias.h): references that a thread counts without atomic operations, and how other
 * threads end that.
 */
#include "common.h"

#include <limits.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <semaphore.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bias.h"

FIXTURE(bias) {
	struct evpl_pool *pool;
	struct evpl *evpl;
	struct evpl_iovec a, b;
};

FIXTURE_SETUP(bias)
{
	if (EVPLMEM_CHECKS || POISONS)
		SKIP(return, "this build counts with atomics alone");
	ASSERT_EQ(0, open_pool(&self->pool, BUFFER, SLAB));
	ASSERT_EQ(0, evpl_create(&self->evpl, self->pool, NULL));
	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, 100, 0, 1, &self->a));
}

FIXTURE_TEARDOWN(bias)
{
	evpl_iovec_release(&self->a);
	evpl_iovec_release(&self->b);
	evpl_destroy(self->evpl);
	EXPECT_TRUE(all_idle(self->pool));
	EXPECT_EQ(0, used_in(self->pool));
	EXPECT_EQ(0, evpl_pool_close(self->pool));
}

/* The buffer's word as the kernel sees it, with the references that a binding keeps in reserve. */
static uint64_t raw_word(const struct evpl_iovec *iovec)
{
	return atomic_load(&iovec_entry(iovec)->word);
}

static bool is_bound(const struct evpl *evpl)
{
	return __atomic_load_n(&evpl->hot.thread, __ATOMIC_RELAXED);
}

TEST_F(bias, what_the_thread_counts_is_not_in_the_word)
{
	uint64_t word = raw_word(&self->a);

	ASSERT_TRUE(is_bound(self->evpl));
	EXPECT_EQ(2, word_of(&self->a));
	evpl_iovec_addref(&self->a);
	EXPECT_EQ(3, word_of(&self->a));
	evpl_iovec_clone(&self->b, &self->a);
	EXPECT_EQ(4, word_of(&self->a));
	evpl_iovec_release(&self->b);
	ASSERT_EQ(0, evpl_iovec_clone_segment(&self->b, &self->a, 10, 20));
	EXPECT_EQ((char *)self->a.data + 10, self->b.data);
	EXPECT_EQ(20, self->b.length);
	EXPECT_EQ(4, word_of(&self->a));
	/* @dst may be @src itself. The reference of @src then has no iovec of its own any more. */
	ASSERT_EQ(0, evpl_iovec_clone_segment(&self->b, &self->b, 20, 0));
	EXPECT_EQ((char *)self->a.data + 30, self->b.data);
	EXPECT_EQ(0, self->b.length);
	EXPECT_EQ(5, word_of(&self->a));
	evpl_iovec_release(&self->b);
	evpl_iovec_release(&self->b);
	evpl_iovec_release(&self->a);
	EXPECT_EQ(2, word_of(&self->a));
	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, 100, 0, 1, &self->b));
	EXPECT_EQ(3, word_of(&self->b));
	EXPECT_EQ(word, raw_word(&self->a));
}

/* A program in another language can't use the inlines, so it calls the exported functions only. */
TEST_F(bias, the_exported_functions_count_as_the_inlines_do)
{
	struct entry *entry = iovec_entry(&self->a);
	uint64_t word = raw_word(&self->a);
	uint32_t spare = entry->spare, credit = bias_credit(self->evpl);

	ASSERT_TRUE(is_bound(self->evpl));
	evplmem_iovec_addref(&self->a);
	EXPECT_EQ(spare - 1, entry->spare);
	EXPECT_EQ(word, raw_word(&self->a));
	evplmem_iovec_release(&self->a);
	EXPECT_EQ(spare, entry->spare);
	EXPECT_EQ(word, raw_word(&self->a));

	evplmem_iovec_clone(&self->b, &self->a);
	EXPECT_EQ(0, memcmp(&self->b, &self->a, sizeof(self->a)));
	EXPECT_EQ(spare - 1, entry->spare);
	evplmem_iovec_release(&self->b);
	ASSERT_EQ(0, evplmem_iovec_clone_segment(&self->b, &self->a, 10, 20));
	EXPECT_EQ((char *)self->a.data + 10, self->b.data);
	EXPECT_EQ(20, self->b.length);
	EXPECT_EQ(spare - 1, entry->spare);
	EXPECT_EQ(word, raw_word(&self->a));
	evplmem_iovec_release(&self->b);

	ASSERT_EQ(1, evplmem_iovec_alloc(self->evpl, 100, 0, 1, 0, &self->b));
	EXPECT_EQ((char *)self->a.data + 104, self->b.data);
	EXPECT_EQ(100, self->b.length);
	EXPECT_EQ(credit - 1, bias_credit(self->evpl));
	EXPECT_EQ(spare, entry->spare);
	EXPECT_EQ(word, raw_word(&self->a));
	/* They check the arguments too: the inlines leave that to them. */
	EXPECT_EQ(-ENOBUFS, evplmem_iovec_alloc(self->evpl, 100, 0, 0, 0, &self->b));
	EXPECT_EQ(-EINVAL, evplmem_iovec_alloc(self->evpl, 100, 3, 1, 0, &self->b));
	EXPECT_EQ(-EOPNOTSUPP, evplmem_iovec_alloc(self->evpl, 100, 0, 1, 2, &self->b));
	EXPECT_EQ(3, word_of(&self->a));
}

static void *addref(void *iovec)
{
	evpl_iovec_addref(iovec);
	return NULL;
}

static void *is_unique(void *iovec)
{
	return evpl_iovec_is_unique(iovec) ? iovec : NULL;
}

/*
 * The thread that counts in the buffer subtracts what it keeps in reserve, so its answer is exact.
 * Another thread can't do that, and answers 0.
 */
TEST_F(bias, what_nobody_uses_is_no_other_reference)
{
	pthread_t thread;
	void *result;

	ASSERT_TRUE(is_bound(self->evpl));
	EXPECT_EQ(1, evpl_iovec_is_unique(&self->a));
	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, 100, 0, 1, &self->b));
	EXPECT_EQ(0, evpl_iovec_is_unique(&self->a));
	evpl_iovec_release(&self->b);
	self->b = (struct evpl_iovec){ 0 };
	EXPECT_EQ(1, evpl_iovec_is_unique(&self->a));
	on_thread(addref, &self->a);
	EXPECT_EQ(0, evpl_iovec_is_unique(&self->a));
	evpl_iovec_release(&self->a);
	EXPECT_EQ(1, evpl_iovec_is_unique(&self->a));

	ASSERT_EQ(0, pthread_create(&thread, NULL, is_unique, &self->a));
	ASSERT_EQ(0, pthread_join(thread, &result));
	EXPECT_EQ(NULL, result);
	EXPECT_TRUE(is_bound(self->evpl));
}

static void *release(void *iovec)
{
	evpl_iovec_release(iovec);
	return NULL;
}

TEST_F(bias, what_others_count_is_in_the_word)
{
	uint64_t word = raw_word(&self->a);

	on_thread(addref, &self->a);
	EXPECT_EQ(word + 1, raw_word(&self->a));
	EXPECT_EQ(3, word_of(&self->a));
	on_thread(release, &self->a);
	EXPECT_EQ(word, raw_word(&self->a));
	EXPECT_EQ(2, word_of(&self->a));
}

TEST_F(bias, a_part_that_is_used_up_is_added_to_the_word)
{
	struct entry *entry = iovec_entry(&self->a);
	uint64_t word = raw_word(&self->a);

	/* Leave one reference in the thread's part, as if it had handed out all others. */
	atomic_fetch_sub(&entry->word, entry->spare - 1);
	word -= entry->spare - 1;
	entry->spare = 1;
	EXPECT_EQ(2, word_of(&self->a));
	evpl_iovec_addref(&self->a);
	EXPECT_EQ(1, entry->spare);
	EXPECT_EQ(word + 1, raw_word(&self->a));
	EXPECT_EQ(3, word_of(&self->a));
	evpl_iovec_release(&self->a);
	EXPECT_EQ(2, entry->spare);
	EXPECT_EQ(2, word_of(&self->a));
}

TEST_F(bias, unbinding_leaves_the_references_and_the_place)
{
	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, 100, 0, 1, &self->b));
	bias_unbind(self->evpl);
	EXPECT_FALSE(is_bound(self->evpl));
	EXPECT_EQ(3, raw_word(&self->a));
	evpl_iovec_release(&self->a);
	EXPECT_EQ(2, raw_word(&self->b));
	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, 100, 0, 1, &self->a));
	EXPECT_EQ((char *)self->b.data + 104, self->a.data);
	EXPECT_EQ(3, raw_word(&self->b));
	bias_unbind(self->evpl);
	EXPECT_EQ(3, raw_word(&self->b));
}

TEST_F(bias, what_others_add_and_the_thread_lets_go_of_does_not_run_over)
{
	struct entry *entry = iovec_entry(&self->a);

	/* The counts are as if others had added, and this thread released, WORD_HIGH references. */
	atomic_fetch_add(&entry->word, WORD_HIGH);
	entry->spare += WORD_HIGH;
	EXPECT_EQ(2, word_of(&self->a));
	on_thread(addref, &self->a);
	EXPECT_FALSE(is_bound(self->evpl));
	EXPECT_EQ(3, raw_word(&self->a));
	evpl_iovec_release(&self->a);
	EXPECT_EQ(2, raw_word(&self->a));
}

TEST_F(bias, what_was_sealed_is_not_cut_again_by_a_commit)
{
	struct entry *entry = iovec_entry(&self->a);

	/* The rest of the buffer is reserved when a send of the other slice seals the buffer. */
	ASSERT_EQ(1, evpl_iovec_reserve(self->evpl, BUFFER - 104, 0, 1, &self->b));
	ASSERT_EQ(entry, iovec_entry(&self->b));
	context_seal(entry);
	ASSERT_EQ(1, evpl_iovec_commit(self->evpl, &self->b, 1, 8));
	EXPECT_EQ(2, raw_word(&self->a));
	evpl_iovec_release(&self->b);
	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, 100, 0, 1, &self->b));
	EXPECT_NE(entry, iovec_entry(&self->b));
	/* The buffer still becomes free with its last reference, and can be used again then. */
	evpl_iovec_release(&self->a);
	evpl_iovec_release(&self->b);
	EXPECT_EQ(0, raw_word(&self->a));
	self->a = (struct evpl_iovec){ 0 };
	self->b = (struct evpl_iovec){ 0 };
}

TEST_F(bias, what_is_reserved_and_not_used_does_not_use_up_the_charge)
{
	struct entry *entry = iovec_entry(&self->a);
	uint32_t gone = bias_credit(self->evpl) - 3;
	int i;

	/* The credit is as low as if there had been very many such rounds. */
	atomic_fetch_sub(&entry->word, gone);
	self->evpl->hot.place -= gone * EVPLMEM_CREDIT;
	EXPECT_EQ(2, word_of(&self->a));
	for (i = 0; i < 10; i++) {
		ASSERT_EQ(1, evpl_iovec_reserve(self->evpl, 4096, 0, 1, &self->b));
		ASSERT_EQ(0, evpl_iovec_commit(self->evpl, &self->b, 1, 0));
	}
	self->b = (struct evpl_iovec){ 0 };
	EXPECT_EQ(2, word_of(&self->a));
	bias_unbind(self->evpl);
	EXPECT_EQ(2, raw_word(&self->a));
}

TEST_F(bias, what_is_reserved_and_given_back_whole_is_as_if_it_had_not_been_reserved)
{
	struct entry *entry = iovec_entry(&self->a);
	uint64_t word = raw_word(&self->a), place = self->evpl->hot.place;
	uint32_t spare = entry->spare;

	ASSERT_TRUE(is_bound(self->evpl));
	ASSERT_EQ(1, evpl_iovec_reserve(self->evpl, 4096, 0, 1, &self->b));
	EXPECT_NE(place, self->evpl->hot.place);
	EXPECT_EQ(3, word_of(&self->a));
	ASSERT_EQ(0, evpl_iovec_commit(self->evpl, &self->b, 1, 0));
	EXPECT_EQ(0, self->b.length);
	EXPECT_EQ(place, self->evpl->hot.place);
	EXPECT_EQ(word, raw_word(&self->a));
	EXPECT_EQ(spare, entry->spare);
	EXPECT_EQ(2, word_of(&self->a));
	self->b = (struct evpl_iovec){ 0 };
}

TEST_F(bias, a_buffer_that_is_current_again_and_again_is_counted_right)
{
	uint64_t word;
	int i;

	/* The reservation uses the buffer up; the commit makes it the current buffer again. */
	for (i = 0; i < 40; i++) {
		ASSERT_EQ(1, evpl_iovec_reserve(self->evpl, BUFFER - 104 - 8 * (unsigned int)i, 0,
						1, &self->b));
		ASSERT_EQ(iovec_entry(&self->a), iovec_entry(&self->b));
		ASSERT_EQ(1, evpl_iovec_commit(self->evpl, &self->b, 1, 8));
		evpl_iovec_release(&self->b);
		ASSERT_EQ(2, word_of(&self->a));
		word = raw_word(&self->a);
		ASSERT_GT(4ULL * BIAS_SPARE, word);
	}
	self->b = (struct evpl_iovec){ 0 };
	bias_unbind(self->evpl);
	EXPECT_EQ(2, raw_word(&self->a));
}

static struct evpl_iovec *committed;

static void *commit_elsewhere(void *pool)
{
	struct evpl_iovec iovec;
	struct evpl *other;

	/* This context is bound, and its buffer has less room left than the commit gives back. */
	if (evpl_create(&other, pool, NULL) ||
	    evpl_iovec_alloc(other, BUFFER / 2, 0, 1, &iovec) != 1 || !is_bound(other) ||
	    evpl_iovec_commit(other, committed, 1, 8) != 1)
		abort();
	evpl_iovec_release(&iovec);
	evpl_destroy(other);
	return NULL;
}

TEST_F(bias, another_context_commits_and_takes_nothing_over)
{
	struct entry *entry = iovec_entry(&self->a);

	ASSERT_EQ(1, evpl_iovec_reserve(self->evpl, BUFFER - 104, 0, 1, &self->b));
	ASSERT_EQ(entry, iovec_entry(&self->b));
	committed = &self->b;
	on_thread(commit_elsewhere, self->pool);
	EXPECT_EQ(8, self->b.length);
	EXPECT_EQ(2, word_of(&self->a));
	bias_unbind(self->evpl);
	EXPECT_EQ(2, raw_word(&self->a));
}

static void *unbind_it(void *evpl)
{
	bias_unbind(evpl);
	return NULL;
}

static void *seal_it(void *entry)
{
	context_seal(entry);
	return NULL;
}

TEST_F(bias, nothing_is_cut_off_what_was_sealed_while_it_was_being_unbound)
{
	struct entry *entry = iovec_entry(&self->a);
	pthread_t threads[2];

	/* bias_unbind() waits for this section, so context_seal() meets CURRENT_TAKEN. */
	evplmem_enter(evplmem_self());
	ASSERT_EQ(0, pthread_create(&threads[0], NULL, unbind_it, self->evpl));
	while (atomic_load(&self->evpl->current) != CURRENT_TAKEN)
		sched_yield();
	ASSERT_EQ(0, pthread_create(&threads[1], NULL, seal_it, entry));
	usleep(10000);
	evplmem_leave(evplmem_self());
	pthread_join(threads[0], NULL);
	pthread_join(threads[1], NULL);
	EXPECT_EQ(1, raw_word(&self->a));
	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, 100, 0, 1, &self->b));
	EXPECT_NE(entry, iovec_entry(&self->b));
}

/* A key whose destructor allocates, and sets the key again: so it runs in the next round too. */
static pthread_key_t late_key;
static struct evpl *late_evpl;

static void allocate_late(void *arg)
{
	static int rounds;
	struct evpl_iovec iovec;
	int i;

	/* ThreadSanitizer destroys its data of the thread in the last round. */
	if (++rounds < PTHREAD_DESTRUCTOR_ITERATIONS - SANITIZED)
		pthread_setspecific(late_key, arg);
	for (i = 0; i < 3000; i++) {
		if (evpl_iovec_alloc(late_evpl, BUFFER / 2, 0, 1, &iovec) != 1)
			abort();
		evpl_iovec_release(&iovec);
	}
}

static void *end_late(void *arg)
{
	pthread_setspecific(late_key, arg);
	return NULL;
}

TEST_F(bias, nothing_is_bound_to_a_thread_whose_data_is_destroyed)
{
	ASSERT_EQ(0, pthread_key_create(&late_key, allocate_late));
	ASSERT_EQ(0, evpl_create(&late_evpl, self->pool, NULL));
	on_thread(end_late, late_evpl);
	EXPECT_FALSE(is_bound(late_evpl));
	evpl_pool_trim(self->pool);
	evpl_destroy(late_evpl);
	pthread_key_delete(late_key);
}

/*
 * The same, but it allocates in the last round only. No destructor runs after that round, so the
 * library's can't end the binding.
 */
static void allocate_last(void *arg)
{
	static int rounds;
	struct evpl_iovec iovec;
	int i;

	pthread_setspecific(late_key, arg);
	if (++rounds < PTHREAD_DESTRUCTOR_ITERATIONS)
		return;
	for (i = 0; i < 100; i++) {
		if (evpl_iovec_alloc(late_evpl, 100, 0, 1, &iovec) != 1)
			abort();
		evpl_iovec_release(&iovec);
	}
}

TEST_F(bias, a_thread_that_ended_bound_is_not_looked_at)
{
	/* Larger than libc's cache of stacks: libc unmaps it, and the thread's data with it. */
	size_t stack = 64 * MB;
	pthread_attr_t attr;
	pthread_t thread;
	char resident;

	if (SANITIZED)
		SKIP(return, "what ThreadSanitizer knows of the thread has gone before");
	ASSERT_EQ(0, pthread_key_create(&late_key, allocate_last));
	ASSERT_EQ(0, evpl_create(&late_evpl, self->pool, NULL));
	pthread_attr_init(&attr);
	ASSERT_EQ(0, pthread_attr_setstacksize(&attr, stack));
	ASSERT_EQ(0, pthread_create(&thread, &attr, end_late, late_evpl));
	ASSERT_EQ(0, pthread_join(thread, NULL));
	if (!is_bound(late_evpl) ||
	    !mincore((void *)((uintptr_t)late_evpl->hot.thread & -(uintptr_t)PAGE), 1,
		     (unsigned char *)&resident))
		TH_LOG("this libc does otherwise");
	evpl_pool_trim(self->pool);
	EXPECT_FALSE(is_bound(late_evpl));
	EXPECT_EQ(2, used_in(self->pool));
	evpl_destroy(late_evpl);
	EXPECT_EQ(1, used_in(self->pool));
	pthread_attr_destroy(&attr);
	pthread_key_delete(late_key);
}

/*
 * A thread that fills the pool with slices and releases all of them. Then it ends, if @ends, or
 * sleeps until @woken.
 */
struct keeper {
	struct evpl_pool *pool;
	struct evpl *evpl;
	unsigned int slices;
	bool ends;
	sem_t slept, woken;
};

static void *keep(void *arg)
{
	struct evpl_iovec *iovecs = calloc(16 * PER_SLAB, sizeof(*iovecs));
	struct keeper *keeper = arg;

	if (!iovecs || evpl_create(&keeper->evpl, keeper->pool, NULL))
		abort();
	while (evpl_iovec_alloc(keeper->evpl, BUFFER / 8, 0, 1, &iovecs[keeper->slices]) == 1)
		keeper->slices++;
	evpl_iovecs_release(iovecs, (int)keeper->slices);
	/* This can bind the context again. Its release stays in the thread's count, unseen. */
	if (evpl_iovec_alloc(keeper->evpl, BUFFER / 8, 0, 1, iovecs) != 1)
		abort();
	evpl_iovec_release(iovecs);
	free(iovecs);
	sem_post(&keeper->slept);
	if (!keeper->ends)
		while (sem_wait(&keeper->woken))
			;
	return NULL;
}

static void keeper_start(struct keeper *keeper, pthread_t *thread)
{
	sem_init(&keeper->slept, 0, 0);
	sem_init(&keeper->woken, 0, 0);
	if (pthread_create(thread, NULL, keep, keeper))
		abort();
	while (sem_wait(&keeper->slept))
		;
}

TEST_F(bias, a_thread_that_sleeps_keeps_nothing_from_others)
{
	struct evpl_iovec iovec[PER_SLAB];
	struct keeper keeper = { .pool = self->pool };
	pthread_t thread;
	int i;

	evpl_iovec_release(&self->a);
	self->a = (struct evpl_iovec){ 0 };
	keeper_start(&keeper, &thread);
	EXPECT_LE(8 * (PER_SLAB - 1), keeper.slices);
	/* This thread gets all buffers of the pool. */
	for (i = 0; i < (int)PER_SLAB; i++)
		ASSERT_EQ(1, evpl_buffer_alloc(self->evpl, &iovec[i]));
	EXPECT_FALSE(is_bound(keeper.evpl));
	evpl_iovecs_release(iovec, PER_SLAB);
	sem_post(&keeper.woken);
	pthread_join(thread, NULL);
	evpl_destroy(keeper.evpl);
}

TEST_F(bias, a_thread_that_ended_has_nothing_bound)
{
	struct keeper keeper = { .pool = self->pool, .ends = true };
	struct evpl_iovec iovec;
	pthread_t thread;

	keeper_start(&keeper, &thread);
	pthread_join(thread, NULL);
	EXPECT_FALSE(is_bound(keeper.evpl));
	/* Another thread may use the context of a thread that ended. */
	ASSERT_EQ(1, evpl_iovec_alloc(keeper.evpl, 100, 0, 1, &iovec));
	evpl_iovec_release(&iovec);
	evpl_destroy(keeper.evpl);
}

struct mover {
	struct evpl *evpl;
	struct evpl_iovec *iovec;
};

static void *move(void *arg)
{
	struct mover *mover = arg;

	if (evpl_iovec_alloc(mover->evpl, 100, 0, 1, mover->iovec) != 1)
		abort();
	return NULL;
}

TEST_F(bias, a_context_may_change_threads)
{
	struct mover mover = { self->evpl, &self->b };

	on_thread(move, &mover);
	/* The other thread cut its slice after this thread's, and moved the count to the word. */
	EXPECT_EQ((char *)self->a.data + 104, self->b.data);
	EXPECT_EQ(3, raw_word(&self->a));
	evpl_iovec_release(&self->a);
	EXPECT_EQ(2, raw_word(&self->b));
	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, 100, 0, 1, &self->a));
	EXPECT_EQ((char *)self->b.data + 104, self->a.data);
}

TEST_F(bias, one_that_does_so_all_the_time_is_hardly_ever_bound)
{
	struct mover mover = { self->evpl, &self->b };
	int i, bound = 0;

	for (i = 0; i < 200; i++) {
		self->b = (struct evpl_iovec){ 0 };
		on_thread(move, &mover);
		evpl_iovec_release(&self->b);
		/* A context is bound when it starts a buffer. So use the buffers up soon. */
		ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, BUFFER / 2 - 8, 0, 1, &self->b));
		evpl_iovec_release(&self->b);
		bound += is_bound(self->evpl);
	}
	EXPECT_GT(20, bound);
	self->b = (struct evpl_iovec){ 0 };
}

struct releaser {
	struct evpl_iovec iovecs[8];
	int n;
};

static void *release_all(void *arg)
{
	struct releaser *releaser = arg;

	evpl_iovecs_release(releaser->iovecs, releaser->n);
	return NULL;
}

TEST_F(bias, a_thread_finds_what_others_let_go_of)
{
	struct releaser releaser = { .n = 8 };
	int i, j;

	/* Allocate the whole pool three times. Only other threads release. */
	for (i = 0; i < (int)(3 * PER_SLAB); i++) {
		for (j = 0; j < 8; j++)
			ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, BUFFER / 8, 0, 1,
						      &releaser.iovecs[j]));
		on_thread(release_all, &releaser);
		ASSERT_TRUE(is_bound(self->evpl));
	}
	EXPECT_EQ(1, stats_of(self->pool).slabs);
	EXPECT_GE(2, used_in(self->pool));
}

/* Lets the context be bound with the next buffer that it starts, after however many bindings. */
static void hurry(struct evpl *evpl)
{
	struct cursor cursor = context_claim(evpl);

	evpl->rebind_delay = 0;
	context_park(evpl, cursor);
}

/* A thread that ends all bindings of the pool over and over, and releases iovecs given to it. */
struct breaker {
	struct evpl_pool *pool;
	struct evpl_iovec *_Atomic given;
	atomic_bool stop;
};

static void *break_main(void *arg)
{
	struct breaker *breaker = arg;
	struct evpl_iovec *iovec;

	while (!atomic_load(&breaker->stop)) {
		bias_unbind_all(breaker->pool);
		iovec = atomic_exchange(&breaker->given, NULL);
		if (iovec) {
			evpl_iovec_release(iovec);
			free(iovec);
		}
	}
	return NULL;
}

TEST_F(bias, a_binding_can_end_at_any_moment)
{
	int i, n, rounds = few() ? 5000 : 400000;
	struct breaker breaker = { .pool = self->pool };
	struct evpl_iovec iovecs[32] = { { 0 } }, clone, *given;
	unsigned int value[32] = { 0 };
	unsigned int bound = 0;
	pthread_t thread;

	ASSERT_EQ(0, pthread_create(&thread, NULL, break_main, &breaker));
	/* If the other thread stands still with the lock, there is no binding meanwhile. */
	for (i = 0; i < rounds || !bound; i++) {
		n = i % 32;
		/* If a count were wrong, the buffer would be reused, and its value overwritten. */
		if (iovecs[n].data)
			ASSERT_EQ(value[n], *(unsigned int *)iovecs[n].data);
		evpl_iovec_release(&iovecs[n]);
		hurry(self->evpl);
		ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, BUFFER / 3, 0, 1, &iovecs[n]));
		value[n] = (unsigned int)i;
		*(unsigned int *)iovecs[n].data = value[n];
		evpl_iovec_clone(&clone, &iovecs[n]);
		evpl_iovec_addref(&clone);
		evpl_iovec_release(&clone);
		if (!atomic_load(&breaker.given)) {
			given = malloc(sizeof(*given));
			ASSERT_NE(NULL, given);
			*given = clone;
			atomic_store(&breaker.given, given);
		} else {
			evpl_iovec_release(&clone);
		}
		bound += is_bound(self->evpl);
	}
	atomic_store(&breaker.stop, true);
	pthread_join(thread, NULL);
	given = atomic_load(&breaker.given);
	if (given)
		evpl_iovec_release(given);
	free(given);
	evpl_iovecs_release(iovecs, 32);
	EXPECT_LT(0, bound);
}

/* A thread that ends the binding once in each of its turns. */
struct striker {
	struct evpl *evpl;
	_Atomic unsigned int turn;	/* odd: it is the striker's turn */
	bool stop;
};

static void *strike(void *arg)
{
	struct striker *striker = arg;
	unsigned int i, turn, spins = 0;
	volatile unsigned int wait;

	for (i = 0;; i++) {
		while (!((turn = atomic_load(&striker->turn)) & 1))
			spin(&spins);
		if (striker->stop)
			return NULL;
		for (wait = i % 64; wait; wait--)
			;
		bias_unbind(striker->evpl);
		atomic_store(&striker->turn, turn + 1);
	}
}

TEST_F(bias, a_section_is_not_cut_short)
{
	struct striker striker = { .evpl = self->evpl };
	int i, rounds = few() ? 5000 : 100000;
	unsigned int spins = 0, sections = 0;
	pthread_t thread;

	ASSERT_EQ(0, pthread_create(&thread, NULL, strike, &striker));
	for (i = 0; i < rounds; i++) {
		evpl_iovec_release(&self->a);
		hurry(self->evpl);
		ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, BUFFER - 16, 0, 1, &self->a));
		ASSERT_TRUE(is_bound(self->evpl));
		atomic_fetch_add(&striker.turn, 1);
		while (is_bound(self->evpl)) {
			evpl_iovec_addref(&self->a);
			evpl_iovec_release(&self->a);
			/* The striker may be waiting for this processor. */
			if (!(++sections % 1024))
				sched_yield();
		}
		while (atomic_load(&striker.turn) & 1)
			spin(&spins);
		/* One reference of the slice, and the context's hold. */
		ASSERT_EQ(2, raw_word(&self->a));
	}
	striker.stop = true;
	atomic_fetch_add(&striker.turn, 1);
	pthread_join(thread, NULL);
}

static struct evpl_iovec *sent;

static void *send_it(void *arg)
{
	struct evpl_message message = { .iovec = *sent };

	return evpl_channel_send(arg, &message, 1) ? arg : NULL;
}

TEST_F(bias, what_another_thread_sends_is_counted_in_the_word)
{
	struct evpl_channel *channel;
	pthread_t thread;
	void *failed;
	int peer;

	if (evpl_pool_fd(self->pool) < 0)
		SKIP(return, "the module's alone");
	ASSERT_EQ(0, evpl_channel_create(&channel, self->pool, 0, 0, &peer));
	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, 100, 0, 1, &self->b));
	sent = &self->b;
	ASSERT_EQ(0, pthread_create(&thread, NULL, send_it, channel));
	pthread_join(thread, &failed);
	EXPECT_EQ(NULL, failed);
	/* The kernel has a part, the other slice a reference. Nothing more is cut off the buffer. */
	EXPECT_EQ(EVPL_WORD_SHARED | 1, raw_word(&self->a));
	EXPECT_EQ(NULL, iovec_entry(&self->a)->owner);
	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, 100, 0, 1, &self->b));
	EXPECT_NE(iovec_entry(&self->a), iovec_entry(&self->b));
	evpl_channel_close(channel);
	close(peer);
	EXPECT_EQ(1, raw_word(&self->a));
}

TEST_F(bias, what_its_thread_sends_is_counted_in_the_word)
{
	struct evpl_message message = { 0 };
	struct evpl_channel *channel;
	int peer;

	if (evpl_pool_fd(self->pool) < 0)
		SKIP(return, "the module's alone");
	ASSERT_EQ(0, evpl_channel_create(&channel, self->pool, 0, 0, &peer));
	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, 100, 0, 1, &message.iovec));
	ASSERT_EQ(0, evpl_channel_send(channel, &message, 1));
	EXPECT_EQ(EVPL_WORD_SHARED | 1, raw_word(&self->a));
	EXPECT_TRUE(is_bound(self->evpl));
	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, 100, 0, 1, &self->b));
	EXPECT_NE(iovec_entry(&self->a), iovec_entry(&self->b));
	evpl_channel_close(channel);
	close(peer);
	EXPECT_EQ(1, raw_word(&self->a));
}

/* From here on the kernel refuses membarrier(2), which the end of a binding needs. */
static bool forbid_membarrier(void)
{
	static struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_membarrier, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	static const struct sock_fprog program = {
		.len = sizeof(code) / sizeof(code[0]),
		.filter = code,
	};

	return !prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) &&
	       !syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program);
}

static int without_membarrier(void *arg)
{
	struct evpl_iovec iovec;
	struct evpl_pool *pool;
	struct evpl *evpl;

	if (!forbid_membarrier())
		return 1;
	if (open_pool(&pool, BUFFER, SLAB) || evpl_create(&evpl, pool, NULL) ||
	    evpl_iovec_alloc(evpl, 100, 0, 1, &iovec) != 1)
		return 2;
	if (is_bound(evpl) || raw_word(&iovec) != 2)
		return 3;
	evpl_iovec_release(&iovec);
	evpl_destroy(evpl);
	return evpl_pool_close(pool) ? 4 : 0;
}

TEST_F(bias, without_membarrier_all_is_counted_in_the_word)
{
	EXPECT_EQ(0, status_of(without_membarrier, NULL));
}

/* Allocates and releases often enough for a binding, and then sleeps until it is woken. */
static void *use_and_stay(void *arg)
{
	struct keeper *keeper = arg;
	struct evpl_iovec iovec;
	int i;

	if (evpl_create(&keeper->evpl, keeper->pool, NULL))
		abort();
	for (i = 0; i < 1000; i++) {
		if (evpl_iovec_alloc(keeper->evpl, 5000, 0, 1, &iovec) != 1)
			abort();
		evpl_iovec_release(&iovec);
	}
	sem_post(&keeper->slept);
	while (sem_wait(&keeper->woken))
		;
	return NULL;
}

static int forbid_membarrier_later(void *arg)
{
	struct evpl_pool_config config = {
		.size = sizeof(config),
		.buffer_size = BUFFER,
		.max_bytes = SLAB,
		.flags = EVPL_POOL_ATOMIC,
	};
	struct keeper keeper = { .slices = 0 };
	struct evpl_iovec iovec[PER_SLAB];
	pthread_t thread;
	struct evpl *evpl;

	if (evpl_pool_open(&keeper.pool, &config) || evpl_create(&evpl, keeper.pool, NULL))
		return 1;
	sem_init(&keeper.slept, 0, 0);
	sem_init(&keeper.woken, 0, 0);
	if (pthread_create(&thread, NULL, use_and_stay, &keeper))
		return 2;
	while (sem_wait(&keeper.slept))
		;
	if (is_bound(keeper.evpl) || !forbid_membarrier())
		return 3;
	/* Take all buffers, including those that the other thread keeps. */
	if (take_slab(evpl, iovec))
		return 4;
	evpl_iovecs_release(iovec, PER_SLAB);
	evpl_pool_trim(keeper.pool);
	sem_post(&keeper.woken);
	pthread_join(thread, NULL);
	evpl_destroy(keeper.evpl);
	evpl_destroy(evpl);
	return evpl_pool_close(keeper.pool) ? 5 : 0;
}

TEST_F(bias, a_pool_that_counts_with_atomics_needs_no_membarrier)
{
	EXPECT_EQ(0, status_of(forbid_membarrier_later, NULL));
}

TEST(contexts_of_such_a_pool_are_never_bound)
{
	struct evpl_pool_config config = {
		.size = sizeof(config),
		.buffer_size = BUFFER,
		.max_bytes = SLAB,
		.flags = EVPL_POOL_ATOMIC,
	};
	struct evpl_iovec iovec[3];
	struct evpl_pool *pool;
	struct evpl *evpl;
	int i;

	ASSERT_EQ(0, evpl_pool_open(&pool, &config));
	ASSERT_EQ(0, evpl_create(&evpl, pool, NULL));
	for (i = 0; i < 1000; i++) {
		ASSERT_EQ(1, evpl_iovec_alloc(evpl, BUFFER / 4, 0, 1, &iovec[0]));
		ASSERT_FALSE(is_bound(evpl));
		evpl_iovec_clone(&iovec[1], &iovec[0]);
		evpl_iovec_clone(&iovec[2], &iovec[1]);
		evpl_iovec_addref(&iovec[2]);
		/* Four references, and the context's hold unless the buffer is used up. */
		ASSERT_LE(4, raw_word(&iovec[0]));
		ASSERT_GE(5, raw_word(&iovec[0]));
		evpl_iovec_release(&iovec[2]);
		evpl_iovecs_release(iovec, 3);
	}
	evpl_destroy(evpl);
	EXPECT_EQ(0, used_in(pool));
	EXPECT_EQ(0, evpl_pool_close(pool));
}

TEST_HARNESS_MAIN
