// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * References: how they are added and released, and where a buffer goes after the last release.
 */
#include "common.h"

FIXTURE(refs) {
	struct evpl_pool *pool;
	struct evpl *evpl;
	struct evpl_iovec a, b, c;
};

FIXTURE_SETUP(refs)
{
	ASSERT_EQ(0, open_pool(&self->pool, BUFFER, SLAB));
	ASSERT_EQ(0, evpl_create(&self->evpl, self->pool, NULL));
	ASSERT_EQ(1, evpl_iovec_alloc_flags(self->evpl, 1000, 0, 1, EVPL_IOVEC_PRIVATE, &self->a));
	ASSERT_EQ(1, word_of(&self->a));
}

FIXTURE_TEARDOWN(refs)
{
	evpl_destroy(self->evpl);
	EXPECT_TRUE(all_idle(self->pool));
	EXPECT_EQ(0, used_in(self->pool));
	EXPECT_EQ(0, evpl_pool_close(self->pool));
}

static void *release_one(void *arg)
{
	evpl_iovec_release(arg);
	return NULL;
}

TEST_F(refs, addref_adds_one_and_release_takes_one)
{
	evpl_iovec_addref(&self->a);
	EXPECT_EQ(2, word_of(&self->a));
	evpl_iovec_release(&self->a);
	EXPECT_EQ(1, word_of(&self->a));
	EXPECT_EQ(1, used_in(self->pool));
	evpl_iovec_release(&self->a);
	EXPECT_EQ(0, word_of(&self->a));
	EXPECT_EQ(0, used_in(self->pool));
}

TEST_F(refs, a_clone_is_the_same_slice_and_one_more_reference)
{
	evpl_iovec_clone(&self->b, &self->a);
	EXPECT_EQ(self->a.data, self->b.data);
	EXPECT_EQ(1000, self->b.length);
	EXPECT_EQ(2, word_of(&self->a));
	evpl_iovec_release(&self->a);
	memset(self->b.data, 1, self->b.length);
	evpl_iovec_release(&self->b);
	EXPECT_EQ(0, word_of(&self->a));
}

TEST_F(refs, a_segment_lies_within_its_slice)
{
	EXPECT_EQ(0, evpl_iovec_clone_segment(&self->b, &self->a, 100, 900));
	EXPECT_EQ((char *)self->a.data + 100, self->b.data);
	EXPECT_EQ(900, self->b.length);
	EXPECT_EQ(2, word_of(&self->a));
	EXPECT_EQ(0, evpl_iovec_clone_segment(&self->c, &self->b, 899, 1));
	EXPECT_EQ((char *)self->a.data + 999, self->c.data);
	EXPECT_EQ(3, word_of(&self->a));
	evpl_iovec_release(&self->c);
	evpl_iovec_release(&self->b);

	/* A segment may have no bytes. */
	EXPECT_EQ(0, evpl_iovec_clone_segment(&self->b, &self->a, 1000, 0));
	EXPECT_EQ(0, self->b.length);
	EXPECT_EQ(2, word_of(&self->a));
	evpl_iovec_release(&self->b);
	evpl_iovec_release(&self->a);
}

TEST_F(refs, a_segment_past_the_end_counts_nothing)
{
	static const unsigned int bad[][2] = {
		{ 0, 1001 }, { 1000, 1 }, { 1001, 0 }, { 999, 2 }, { ~0U, 1 }, { 1, ~0U },
		{ ~0U, ~0U }, { ~0U - 999, 1000 }, { 1U << 31, 1U << 31 },
	};
	struct evpl_iovec before;
	unsigned int i;

	memset(&self->b, 0xee, sizeof(self->b));
	before = self->b;
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		EXPECT_EQ(-EINVAL, evpl_iovec_clone_segment(&self->b, &self->a, bad[i][0],
							    bad[i][1]));
		EXPECT_EQ(1, word_of(&self->a));
	}
	EXPECT_EQ(0, memcmp(&before, &self->b, sizeof(before)));
	evpl_iovec_release(&self->a);
}

static void *is_unique(void *arg)
{
	return evpl_iovec_is_unique(arg) ? arg : NULL;
}

static bool is_unique_elsewhere(struct evpl_iovec *iovec)
{
	pthread_t thread;
	void *result;

	if (pthread_create(&thread, NULL, is_unique, iovec) || pthread_join(thread, &result))
		abort();
	return result;
}

TEST_F(refs, the_only_reference_is_told_from_others)
{
	struct evpl_iovec empty = { 0 };

	EXPECT_EQ(1, evpl_iovec_is_unique(&self->a));
	EXPECT_TRUE(is_unique_elsewhere(&self->a));
	evpl_iovec_addref(&self->a);
	EXPECT_EQ(0, evpl_iovec_is_unique(&self->a));
	on_thread(release_one, &self->a);
	EXPECT_EQ(1, evpl_iovec_is_unique(&self->a));

	ASSERT_EQ(0, evpl_iovec_split(&self->b, &self->a, 500));
	EXPECT_EQ(0, evpl_iovec_is_unique(&self->a));
	EXPECT_EQ(0, evpl_iovec_is_unique(&self->b));
	EXPECT_FALSE(is_unique_elsewhere(&self->b));
	evpl_iovec_release(&self->a);
	EXPECT_EQ(1, evpl_iovec_is_unique(&self->b));
	EXPECT_EQ(1, word_of(&self->b));
	EXPECT_EQ(0, evpl_iovec_is_unique(&empty));
	evpl_iovec_release(&self->b);
}

TEST_F(refs, of_two_slices_of_a_buffer_none_is_the_only_one)
{
	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, 100, 0, 1, &self->b));
	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, 100, 0, 1, &self->c));
	ASSERT_EQ(self->b.__private2, self->c.__private2);
	EXPECT_EQ(0, evpl_iovec_is_unique(&self->b));
	EXPECT_EQ(0, evpl_iovec_is_unique(&self->c));
	EXPECT_FALSE(is_unique_elsewhere(&self->b));
	evpl_iovec_release(&self->c);
	/* The context still has a hold on the buffer. */
	EXPECT_FALSE(is_unique_elsewhere(&self->b));
	contexts_reclaim_current(self->pool);
	EXPECT_EQ(1, evpl_iovec_is_unique(&self->b));
	EXPECT_TRUE(is_unique_elsewhere(&self->b));
	evpl_iovec_release(&self->b);
	evpl_iovec_release(&self->a);
}

TEST_F(refs, a_split_makes_two_slices_that_join)
{
	ASSERT_EQ(0, evpl_iovec_split(&self->b, &self->a, 300));
	EXPECT_EQ(300, self->a.length);
	EXPECT_EQ((char *)self->a.data + 300, self->b.data);
	EXPECT_EQ(700, self->b.length);
	EXPECT_EQ(2, word_of(&self->a));
	memset(self->a.data, 1, self->a.length);
	evpl_iovec_release(&self->a);
	memset(self->b.data, 2, self->b.length);
	EXPECT_EQ(1, word_of(&self->b));

	/* Either part may have no bytes. */
	ASSERT_EQ(0, evpl_iovec_split(&self->c, &self->b, 700));
	EXPECT_EQ(700, self->b.length);
	EXPECT_EQ((char *)self->b.data + 700, self->c.data);
	EXPECT_EQ(0, self->c.length);
	EXPECT_EQ(2, word_of(&self->b));
	evpl_iovec_release(&self->c);
	ASSERT_EQ(0, evpl_iovec_split(&self->c, &self->b, 0));
	EXPECT_EQ(0, self->b.length);
	EXPECT_EQ(self->b.data, self->c.data);
	EXPECT_EQ(700, self->c.length);
	evpl_iovec_release(&self->b);
	evpl_iovec_release(&self->c);
	EXPECT_EQ(0, used_in(self->pool));
}

TEST_F(refs, a_split_past_the_end_changes_nothing)
{
	static const unsigned int bad[] = { 1001, 1U << 31, ~0U };
	struct evpl_iovec a = self->a, b;
	unsigned int i;

	memset(&self->b, 0xee, sizeof(self->b));
	b = self->b;
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		EXPECT_EQ(-EINVAL, evpl_iovec_split(&self->b, &self->a, bad[i]));
		EXPECT_EQ(-EINVAL, evpl_iovec_advance(&self->a, bad[i]));
		EXPECT_EQ(-EINVAL, evpl_iovec_trim(&self->a, bad[i]));
	}
	EXPECT_EQ(0, memcmp(&a, &self->a, sizeof(a)));
	EXPECT_EQ(0, memcmp(&b, &self->b, sizeof(b)));
	EXPECT_EQ(1, word_of(&self->a));
	evpl_iovec_release(&self->a);
}

TEST_F(refs, a_slice_that_lost_bytes_keeps_its_reference)
{
	char *data = self->a.data;

	ASSERT_EQ(0, evpl_iovec_advance(&self->a, 100));
	EXPECT_EQ(data + 100, self->a.data);
	EXPECT_EQ(900, self->a.length);
	ASSERT_EQ(0, evpl_iovec_trim(&self->a, 200));
	EXPECT_EQ(data + 100, self->a.data);
	EXPECT_EQ(700, self->a.length);
	EXPECT_EQ(1, word_of(&self->a));
	memset(self->a.data, 1, self->a.length);

	/* A part of the slice lies within the bytes that are left. */
	EXPECT_EQ(-EINVAL, evpl_iovec_clone_segment(&self->b, &self->a, 0, 701));
	evpl_iovec_clone(&self->b, &self->a);
	EXPECT_EQ(data + 100, self->b.data);
	EXPECT_EQ(700, self->b.length);
	ASSERT_EQ(0, evpl_iovec_trim(&self->b, 700));
	EXPECT_EQ(0, self->b.length);
	ASSERT_EQ(0, evpl_iovec_advance(&self->a, 700));
	EXPECT_EQ(data + 800, self->a.data);
	EXPECT_EQ(0, self->a.length);
	EXPECT_EQ(2, word_of(&self->a));

	/* The caller may set the fields back to all of the bytes. */
	self->a.data = data;
	self->a.length = 1000;
	memset(self->a.data, 2, self->a.length);
	evpl_iovec_release(&self->a);
	EXPECT_EQ(1, word_of(&self->b));
	evpl_iovec_release(&self->b);
	EXPECT_EQ(0, word_of(&self->b));
	EXPECT_EQ(0, used_in(self->pool));
}

TEST_F(refs, a_move_takes_the_reference_along)
{
	evpl_iovec_move(&self->b, &self->a);
	EXPECT_EQ(1, word_of(&self->b));
	EXPECT_EQ(1000, self->b.length);
	EXPECT_EQ(NULL, self->a.data);
	EXPECT_EQ(0, self->a.length);
	/* The source of a move is empty. */
	evpl_iovec_release(&self->a);
	EXPECT_EQ(1, word_of(&self->b));
	evpl_iovec_move(&self->b, &self->b);
	EXPECT_EQ(1, word_of(&self->b));
	evpl_iovec_release(&self->b);
	EXPECT_EQ(0, used_in(self->pool));
}

TEST_F(refs, an_array_is_released_as_a_whole)
{
	struct evpl_iovec iovec[4];

	iovec[0] = self->a;
	evpl_iovec_clone(&iovec[1], &self->a);
	memset(&iovec[2], 0, sizeof(iovec[2]));
	ASSERT_EQ(1, evpl_buffer_alloc(self->evpl, &iovec[3]));
	EXPECT_EQ(2, used_in(self->pool));
	evpl_iovecs_release(iovec, 0);
	evpl_iovecs_release(iovec, -1);
	EXPECT_EQ(2, used_in(self->pool));
	evpl_iovecs_release(iovec, 4);
	EXPECT_EQ(0, word_of(&iovec[0]));
	EXPECT_EQ(0, word_of(&iovec[3]));
	EXPECT_EQ(0, used_in(self->pool));
}

TEST_F(refs, struct_iovec_and_back)
{
	struct evpl_iovec in[2] = { self->a }, out[2];
	struct iovec vec[2];

	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, 50, 0, 1, &in[1]));
	evpl_iovec_to_iovec(vec, in, 2);
	EXPECT_EQ(in[0].data, vec[0].iov_base);
	EXPECT_EQ(1000, vec[0].iov_len);
	EXPECT_EQ(in[1].data, vec[1].iov_base);
	EXPECT_EQ(50, vec[1].iov_len);
	EXPECT_EQ(1, word_of(&in[0]));
	EXPECT_EQ(2, word_of(&in[1]));

	vec[0].iov_base = (char *)vec[0].iov_base + 10;
	vec[0].iov_len = 20;
	ASSERT_EQ(0, evpl_iovec_from_iovec(self->pool, out, vec, 2));
	EXPECT_EQ(in[0].__private2, out[0].__private2);
	EXPECT_EQ((char *)in[0].data + 10, out[0].data);
	EXPECT_EQ(20, out[0].length);
	EXPECT_EQ(2, word_of(&in[0]));
	EXPECT_EQ(3, word_of(&in[1]));
	evpl_iovecs_release(out, 2);
	EXPECT_EQ(1, word_of(&in[0]));

	/*
	 * Memory that reaches into the next buffer, that isn't the pool's, or whose buffer is free
	 * is refused, and then no reference is taken.
	 */
	vec[1].iov_base = (char *)in[0].data + BUFFER - 1;
	vec[1].iov_len = 2;
	EXPECT_EQ(-EINVAL, evpl_iovec_from_iovec(self->pool, out, vec, 2));
	vec[1].iov_len = SIZE_MAX;
	EXPECT_EQ(-EINVAL, evpl_iovec_from_iovec(self->pool, out, vec, 2));
	vec[1].iov_base = vec;
	vec[1].iov_len = 1;
	EXPECT_EQ(-EINVAL, evpl_iovec_from_iovec(self->pool, out, vec, 2));
	EXPECT_EQ(1, word_of(&in[0]));
	evpl_iovecs_release(in, 2);
	EXPECT_EQ(-EINVAL, evpl_iovec_from_iovec(self->pool, out, vec, 1));
	EXPECT_EQ(0, word_of(&in[0]));
}

TEST_F(refs, what_a_thread_or_a_context_keeps_is_no_reference)
{
	struct evpl_iovec in[3], out;
	struct iovec vec[3];
	int i, n;

	/* Until the last two slices are in one buffer, and the first one is in another. */
	for (n = 0; n < 50; n++) {
		for (i = 0; i < 3; i++)
			ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, BUFFER / 16 * 7, 0, 1, &in[i]));
		if (in[0].__private2 != in[1].__private2)
			break;
		evpl_iovecs_release(in, 3);
	}
	ASSERT_GT(50, n);
	evpl_iovec_to_iovec(vec, in, 3);
	for (i = 0; i < 3; i++) {
		EXPECT_EQ(0, evpl_iovec_from_iovec(self->pool, &out, &vec[i], 1));
		evpl_iovec_release(&in[i]);
		EXPECT_EQ(0, evpl_iovec_from_iovec(self->pool, &in[i], &vec[i], 1));
		evpl_iovec_release(&out);
	}
	evpl_iovecs_release(in, 3);
	for (i = 0; i < 3; i++)
		EXPECT_EQ(-EINVAL, evpl_iovec_from_iovec(self->pool, &out, &vec[i], 1));
	EXPECT_EQ(-EINVAL, evpl_iovec_from_iovec(self->pool, in, vec, 3));
	/* The context can still allocate. */
	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, 8, 0, 1, in));
	memset(in[0].data, 1, 8);
	evpl_iovec_release(in);
	evpl_iovec_release(&self->a);
}

TEST_F(refs, addresses_that_are_referenced_end_no_binding)
{
	struct evplmem_thread *thread;
	struct evpl_iovec in, out;
	struct iovec vec;
	int i;

	for (i = 0; i < 100; i++) {
		ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, BUFFER / 3, 0, 1, &in));
		evpl_iovec_to_iovec(&vec, &in, 1);
		thread = self->evpl->hot.thread;
		ASSERT_EQ(0, evpl_iovec_from_iovec(self->pool, &out, &vec, 1));
		ASSERT_EQ(thread, self->evpl->hot.thread);
		evpl_iovec_release(&out);
		evpl_iovec_release(&in);
	}
	evpl_iovec_release(&self->a);
}

TEST_F(refs, a_thread_without_a_context_may_release)
{
	on_thread(release_one, &self->a);
	EXPECT_EQ(0, word_of(&self->a));
	EXPECT_EQ(0, used_in(self->pool));
	/* The buffer went back to the cache of its context. */
	EXPECT_EQ(1, stats_of(self->pool).buffers_cached);
}

struct reader {
	struct evpl_iovec iovec;
	unsigned int sum;
	atomic_bool stop;
};

static void *read_and_release(void *arg)
{
	struct reader *reader = arg;

	reader->sum = *(unsigned int *)reader->iovec.data;
	evpl_iovec_release(&reader->iovec);
	/* Don't end yet: the join would order the accesses, which the release alone must do. */
	while (!atomic_load_explicit(&reader->stop, memory_order_relaxed))
		sched_yield();
	return NULL;
}

/* If the release doesn't order the accesses of the two threads, ThreadSanitizer reports a race. */
TEST_F(refs, what_others_did_is_done_before_a_buffer_is_begun_again)
{
	struct reader reader = { .sum = 0 };
	struct evpl_iovec *iovec = &reader.iovec;
	pthread_t thread;

	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, BUFFER - 8, 0, 1, iovec));
	*(unsigned int *)iovec->data = 77;
	self->b = *iovec;
	ASSERT_EQ(0, pthread_create(&thread, NULL, read_and_release, &reader));
	while (word_of(&self->b) != 1)
		sched_yield();
	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, BUFFER - 8, 0, 1, &self->c));
	EXPECT_EQ(self->b.data, self->c.data);
	*(unsigned int *)self->c.data = 78;
	atomic_store_explicit(&reader.stop, true, memory_order_relaxed);
	pthread_join(thread, NULL);
	EXPECT_EQ(77, reader.sum);
	evpl_iovec_release(&self->c);
	evpl_iovec_release(&self->a);
}

TEST_F(refs, what_others_did_is_done_before_a_buffer_is_recycled)
{
	struct reader reader = { .sum = 0 };
	struct evpl_iovec *iovec = &reader.iovec;
	struct evpl_iovec some[PER_SLAB];
	int n, count = 4, most = 24;
	pthread_t thread;

	ASSERT_EQ(1, evpl_buffer_alloc(self->evpl, iovec));
	*(unsigned int *)iovec->data = 77;
	self->b = *iovec;
	ASSERT_EQ(0, pthread_create(&thread, NULL, read_and_release, &reader));
	/*
	 * The other thread pushes the buffer onto the cache, and the buffers of this loop that
	 * are out at that time come on top of it. So take one more in each round, to reach it,
	 * and go further each time: all that this loop ever takes may be on top of it.
	 */
	evpl_iovec_release(&self->a);
	do {
		for (n = 0; n < count; n++)
			ASSERT_EQ(1, evpl_buffer_alloc(self->evpl, &some[n]));
		for (n = 0; n < count; n++) {
			if (some[n].__private2 == self->b.__private2)
				evpl_iovec_move(&self->a, &some[n]);
			evpl_iovec_release(&some[n]);
		}
		if (count++ == most) {
			count = 4;
			most = most < (int)PER_SLAB - 1 ? most + 1 : 24;
		}
		usleep(100);
	} while (self->a.__private2 != self->b.__private2);
	*(unsigned int *)self->a.data = 78;
	atomic_store_explicit(&reader.stop, true, memory_order_relaxed);
	pthread_join(thread, NULL);
	EXPECT_EQ(77, reader.sum);
	evpl_iovec_release(&self->a);
}

TEST_F(refs, a_reference_outlives_its_context)
{
	struct evpl *other;

	ASSERT_EQ(0, evpl_create(&other, self->pool, NULL));
	ASSERT_EQ(1, evpl_buffer_alloc(other, &self->b));
	ASSERT_EQ(1, evpl_iovec_alloc(other, 10, 0, 1, &self->c));
	evpl_destroy(other);
	EXPECT_EQ(1, word_of(&self->b));
	EXPECT_EQ(1, word_of(&self->c));
	memset(self->b.data, 1, self->b.length);
	memset(self->c.data, 1, self->c.length);
	evpl_iovec_release(&self->b);
	on_thread(release_one, &self->c);
	EXPECT_EQ(0, word_of(&self->b));
	EXPECT_EQ(0, word_of(&self->c));
	/* The buffers went to the pool, as the context was destroyed. */
	EXPECT_EQ(0, stats_of(self->pool).buffers_cached);
	evpl_iovec_release(&self->a);
}

TEST_F(refs, a_context_keeps_no_more_than_its_cache)
{
	struct evpl_config config = { .size = sizeof(config), .cache = 4 * BUFFER };
	struct evpl_iovec iovec[PER_SLAB - 1];
	struct evpl *other;
	unsigned int i;

	ASSERT_EQ(0, evpl_create(&other, self->pool, &config));
	for (i = 0; i < PER_SLAB - 1; i++)
		ASSERT_EQ(1, evpl_buffer_alloc(other, &iovec[i]));
	evpl_iovecs_release(iovec, PER_SLAB - 1);
	/* The current buffer counts as the fourth, whether there is one or not. */
	EXPECT_EQ(3, stats_of(self->pool).buffers_cached);
	EXPECT_EQ(PER_SLAB - 4, stats_of(self->pool).buffers_free);
	evpl_destroy(other);
	EXPECT_EQ(0, stats_of(self->pool).buffers_cached);

	/* A context may always keep two, the current buffer included. */
	config.cache = 1;
	ASSERT_EQ(0, evpl_create(&other, self->pool, &config));
	for (i = 0; i < 5; i++)
		ASSERT_EQ(1, evpl_buffer_alloc(other, &iovec[i]));
	evpl_iovecs_release(iovec, 5);
	EXPECT_EQ(1, stats_of(self->pool).buffers_cached);
	evpl_destroy(other);
	evpl_iovec_release(&self->a);
}

TEST_HARNESS_MAIN
