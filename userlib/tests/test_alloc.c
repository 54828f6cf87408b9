// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Allocation: the sizes, alignments and numbers of iovecs, and the references of slices.
 */
#include "common.h"

FIXTURE(alloc) {
	struct evpl_pool *pool;
	struct evpl *evpl;
	struct evpl_iovec iovec[64];
	struct evpl_iovec untouched;
};

FIXTURE_SETUP(alloc)
{
	ASSERT_EQ(0, open_pool(&self->pool, BUFFER, 4 * SLAB));
	ASSERT_EQ(0, evpl_create(&self->evpl, self->pool, NULL));
	memset(&self->untouched, 0xee, sizeof(self->untouched));
	memset(self->iovec, 0xee, sizeof(self->iovec));
}

FIXTURE_TEARDOWN(alloc)
{
	evpl_destroy(self->evpl);
	EXPECT_EQ(0, used_in(self->pool));
	EXPECT_TRUE(all_idle(self->pool));
	EXPECT_EQ(0, evpl_pool_close(self->pool));
}

TEST_F(alloc, the_iovec_is_the_seeds)
{
	EXPECT_EQ(24, sizeof(struct evpl_iovec));
	EXPECT_EQ(0, offsetof(struct evpl_iovec, data));
	EXPECT_EQ(8, offsetof(struct evpl_iovec, length));
	EXPECT_EQ(12, offsetof(struct evpl_iovec, __private1));
	EXPECT_EQ(16, offsetof(struct evpl_iovec, __private2));
}

TEST_F(alloc, nothing_is_no_iovec)
{
	EXPECT_EQ(0, evpl_iovec_alloc(self->evpl, 0, 0, 8, self->iovec));
	EXPECT_EQ(0, evpl_iovec_alloc(self->evpl, 0, 4096, 0, NULL));
	EXPECT_EQ(0, evpl_iovec_reserve(self->evpl, 0, 0, 8, self->iovec));
	EXPECT_EQ(0, memcmp(self->iovec, &self->untouched, sizeof(self->untouched)));
	EXPECT_EQ(0, stats_of(self->pool).slabs);
}

TEST_F(alloc, bad_alignments_take_nothing)
{
	static const unsigned int bad[] = {
		3, 5, 6, 7, 9, 12, 4095, 4097, BUFFER - 1, BUFFER + 1, 2 * BUFFER,
		1U << 31, (1U << 31) + 1, ~0U,
	};
	unsigned int i;

	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		EXPECT_EQ(-EINVAL, evpl_iovec_alloc(self->evpl, 100, bad[i], 8, self->iovec));
		EXPECT_EQ(-EINVAL, evpl_iovec_alloc(self->evpl, 0, bad[i], 8, self->iovec));
		EXPECT_EQ(-EINVAL, evpl_iovec_reserve(self->evpl, 100, bad[i], 8, self->iovec));
	}
	EXPECT_EQ(0, memcmp(self->iovec, &self->untouched, sizeof(self->untouched)));
	EXPECT_EQ(0, stats_of(self->pool).slabs);
	EXPECT_EQ(0, used_in(self->pool));
}

TEST_F(alloc, every_good_alignment_is_kept_by_each_iovec)
{
	unsigned int align, i;
	int niov;

	for (align = 1; align <= BUFFER; align *= 2) {
		/* A slice of odd length comes first, so that nothing is aligned by chance. */
		ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, 13, 0, 1, &self->iovec[0]));
		ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, 777, align, 1, &self->iovec[1]));
		niov = evpl_iovec_alloc(self->evpl, 2 * BUFFER + 100, align, 3, &self->iovec[2]);
		ASSERT_EQ(3, niov);
		for (i = 1; i < 5; i++)
			EXPECT_EQ(0, (uintptr_t)self->iovec[i].data & (align - 1));
		evpl_iovecs_release(self->iovec, 5);
	}
}

TEST_F(alloc, slices_follow_each_other_8_bytes_aligned)
{
	static const unsigned int lengths[] = { 1, 7, 8, 9, 100, 4096, 3 };
	char *at = NULL;
	unsigned int i;

	for (i = 0; i < 7; i++) {
		ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, lengths[i], 0, 1, &self->iovec[i]));
		EXPECT_EQ(lengths[i], self->iovec[i].length);
		EXPECT_EQ(0, (uintptr_t)self->iovec[i].data % 8);
		if (at)
			EXPECT_EQ(at, self->iovec[i].data);
		at = (char *)self->iovec[i].data + align_up(lengths[i], 8);
		/* One reference of each slice, and the context's hold. */
		EXPECT_EQ(i + 2, word_of(&self->iovec[0]));
	}
	EXPECT_EQ(1, used_in(self->pool));
	for (i = 0; i < 7; i++) {
		evpl_iovec_release(&self->iovec[i]);
		EXPECT_EQ(7 - i, word_of(&self->iovec[0]));
	}
	EXPECT_EQ(1, used_in(self->pool));
}

TEST_F(alloc, up_to_a_buffer_is_always_one_iovec)
{
	unsigned int length;

	for (length = 1; length <= BUFFER; length += 1021) {
		ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, length, 0, 64, self->iovec));
		EXPECT_EQ(length, self->iovec[0].length);
		memset(self->iovec[0].data, 0x5a, length);
		evpl_iovec_release(&self->iovec[0]);
	}
	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, BUFFER, BUFFER, 64, self->iovec));
	EXPECT_EQ(BUFFER, self->iovec[0].length);
	evpl_iovec_release(&self->iovec[0]);
}

TEST_F(alloc, more_is_whole_buffers_and_a_tail)
{
	unsigned int i;

	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, 8, 0, 1, &self->iovec[10]));
	ASSERT_EQ(4, evpl_iovec_alloc(self->evpl, 3 * BUFFER + 1000, 0, 4, self->iovec));
	for (i = 0; i < 3; i++) {
		EXPECT_EQ(BUFFER, self->iovec[i].length);
		EXPECT_EQ(0, (uintptr_t)self->iovec[i].data % BUFFER);
		EXPECT_EQ(1, word_of(&self->iovec[i]));
	}
	EXPECT_EQ(1000, self->iovec[3].length);
	/* The last iovec is cut off the current buffer. */
	EXPECT_EQ((char *)self->iovec[10].data + 8, self->iovec[3].data);
	EXPECT_EQ(4, used_in(self->pool));

	ASSERT_EQ(2, evpl_iovec_alloc(self->evpl, 2 * BUFFER, 0, 2, &self->iovec[4]));
	EXPECT_EQ(BUFFER, self->iovec[4].length);
	EXPECT_EQ(BUFFER, self->iovec[5].length);
	evpl_iovecs_release(self->iovec, 6);
	evpl_iovec_release(&self->iovec[10]);
	EXPECT_EQ(1, used_in(self->pool));
}

TEST_F(alloc, too_few_iovecs_take_nothing)
{
	EXPECT_EQ(-ENOBUFS, evpl_iovec_alloc(self->evpl, 1, 0, 0, self->iovec));
	EXPECT_EQ(-ENOBUFS, evpl_iovec_alloc(self->evpl, BUFFER + 1, 0, 1, self->iovec));
	EXPECT_EQ(-ENOBUFS, evpl_iovec_alloc(self->evpl, 3 * BUFFER, 0, 2, self->iovec));
	EXPECT_EQ(-ENOBUFS, evpl_iovec_alloc(self->evpl, ~0U, 0, 64, self->iovec));
	EXPECT_EQ(-ENOBUFS, evpl_iovec_reserve(self->evpl, BUFFER + 1, 0, 1, self->iovec));
	EXPECT_EQ(0, memcmp(self->iovec, &self->untouched, sizeof(self->untouched)));
	EXPECT_EQ(0, stats_of(self->pool).slabs);
}

TEST_F(alloc, half_a_buffer_that_does_not_fit_gets_its_own)
{
	struct evpl_iovec *small = &self->iovec[0], *big = &self->iovec[1];

	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, BUFFER / 2 + 8, 0, 1, small));
	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, BUFFER / 2, 0, 1, big));
	EXPECT_NE(small->__private2, big->__private2);
	EXPECT_EQ(1, word_of(big));
	EXPECT_EQ(2, word_of(small));

	/* The context still cuts slices off its current buffer. */
	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, 8, 0, 1, &self->iovec[2]));
	EXPECT_EQ((char *)small->data + BUFFER / 2 + 8, self->iovec[2].data);
	EXPECT_EQ(3, word_of(small));

	/* One byte less than half a buffer doesn't get its own: the context starts a new buffer. */
	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, BUFFER / 2 - 1, 0, 1, &self->iovec[3]));
	EXPECT_NE(small->__private2, self->iovec[3].__private2);
	EXPECT_EQ(2, word_of(&self->iovec[3]));
	EXPECT_EQ(2, word_of(small));
	evpl_iovecs_release(self->iovec, 4);
}

TEST_F(alloc, the_last_slice_gets_the_contexts_hold)
{
	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, BUFFER - 8, 0, 1, &self->iovec[0]));
	EXPECT_EQ(2, word_of(&self->iovec[0]));
	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, 5, 0, 1, &self->iovec[1]));
	EXPECT_EQ(self->iovec[0].__private2, self->iovec[1].__private2);
	EXPECT_EQ(2, word_of(&self->iovec[0]));
	evpl_iovec_release(&self->iovec[0]);
	EXPECT_EQ(1, word_of(&self->iovec[1]));
	evpl_iovec_release(&self->iovec[1]);
	EXPECT_EQ(0, word_of(&self->iovec[1]));
	EXPECT_EQ(0, used_in(self->pool));
}

TEST_F(alloc, a_buffer_without_slices_is_begun_again)
{
	void *data;
	int i;

	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, BUFFER - 100, 0, 1, self->iovec));
	data = self->iovec[0].data;
	memset(data, 0x77, BUFFER - 100);
	for (i = 0; i < 100; i++) {
		evpl_iovec_release(self->iovec);
		ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, BUFFER - 100, 0, 1, self->iovec));
		EXPECT_EQ(data, self->iovec[0].data);
		EXPECT_EQ(2, word_of(self->iovec));
	}
	/* The contents are as they were: the library doesn't clear memory. */
	EXPECT_EQ(0x77, *(char *)data);
	EXPECT_EQ(1, used_in(self->pool));

	/* The context doesn't start the buffer again while a slice has a reference. */
	evpl_iovec_addref(self->iovec);
	evpl_iovec_release(self->iovec);
	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, 1000, 0, 1, &self->iovec[1]));
	EXPECT_NE(self->iovec[0].__private2, self->iovec[1].__private2);
	evpl_iovecs_release(self->iovec, 2);
}

TEST_F(alloc, a_private_buffer_is_shared_with_nothing)
{
	struct evpl_iovec *iovec = self->iovec;
	int i, j;

	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, 8, 0, 1, &iovec[0]));
	ASSERT_EQ(1, evpl_iovec_alloc_flags(self->evpl, 16, 0, 1, EVPL_IOVEC_PRIVATE, &iovec[1]));
	ASSERT_EQ(2, evpl_iovec_alloc_flags(self->evpl, BUFFER + 1, 64, 2, EVPL_IOVEC_PRIVATE,
					    &iovec[2]));
	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, 8, 0, 1, &iovec[4]));
	EXPECT_EQ((char *)iovec[0].data + 8, iovec[4].data);
	ASSERT_EQ(1, evpl_buffer_alloc(self->evpl, &iovec[5]));
	EXPECT_EQ(BUFFER, iovec[5].length);
	for (i = 1; i < 6; i++) {
		if (i == 4)
			continue;
		EXPECT_EQ(1, word_of(&iovec[i]));
		for (j = 0; j < 6; j++)
			if (i != j)
				EXPECT_NE(iovec[i].__private2, iovec[j].__private2);
	}
	evpl_iovecs_release(iovec, 6);
}

TEST_F(alloc, unknown_flags_take_nothing)
{
	EXPECT_EQ(-EOPNOTSUPP, evpl_iovec_alloc_flags(self->evpl, 8, 0, 1, EVPL_IOVEC_PRIVATE << 1,
						      self->iovec));
	EXPECT_EQ(-EOPNOTSUPP, evpl_iovec_alloc_flags(self->evpl, 8, 0, 1, 1U << 31, self->iovec));
	EXPECT_EQ(0, stats_of(self->pool).slabs);
}

/* The body of two tests: the smallest and the largest buffer size. */
static void try_buffer_size(struct __test_metadata *_metadata, size_t size)
{
	struct evpl_iovec iovec[4];
	struct evpl_pool *pool;
	struct evpl *evpl;

	ASSERT_EQ(0, open_pool(&pool, size, size > SLAB ? 2 * size : 2 * SLAB));
	ASSERT_EQ(0, evpl_create(&evpl, pool, NULL));
	if (evpl_pool_preallocate(pool, 2 * size, EVPL_ANY_NODE) == -ENOMEM)
		SKIP(return, "no memory for two buffers of %zu bytes", size);
	ASSERT_EQ(1, evpl_iovec_alloc(evpl, 8, 0, 1, &iovec[0]));
	ASSERT_EQ(1, evpl_iovec_alloc(evpl, (unsigned int)size, (unsigned int)size, 1, &iovec[1]));
	EXPECT_EQ(0, (uintptr_t)iovec[1].data % size);
	EXPECT_EQ(size, iovec[1].length);
	((char *)iovec[1].data)[0] = 1;
	((char *)iovec[1].data)[size - 1] = 1;
	EXPECT_EQ(1, word_of(&iovec[1]));
	ASSERT_EQ(1, evpl_iovec_alloc(evpl, (unsigned int)size - 8, 0, 1, &iovec[2]));
	EXPECT_EQ((char *)iovec[0].data + 8, iovec[2].data);
	EXPECT_EQ(iovec[0].__private2, iovec[2].__private2);
	EXPECT_EQ(2, word_of(&iovec[0]));
	EXPECT_EQ(-EINVAL, evpl_iovec_alloc(evpl, 1, 2 * (unsigned int)size, 1, &iovec[3]));
	evpl_iovecs_release(iovec, 3);
	evpl_destroy(evpl);
	EXPECT_EQ(0, evpl_pool_close(pool));
}

TEST(buffers_of_a_page_work)
{
	try_buffer_size(_metadata, PAGE);
}

TEST(buffers_of_1_GiB_work)
{
	try_buffer_size(_metadata, 1024 * MB);
}

TEST(the_longest_length_does_not_overflow)
{
	struct evpl_iovec iovec[4];
	struct evpl_pool *pool;
	struct evpl *evpl;

	ASSERT_EQ(0, open_pool(&pool, 1024 * MB, 1024 * MB));
	ASSERT_EQ(0, evpl_create(&evpl, pool, NULL));
	EXPECT_EQ(-ENOBUFS, evpl_iovec_alloc(evpl, ~0U, 0, 3, iovec));
	EXPECT_EQ(0, stats_of(pool).slabs);
	/* Four iovecs would be enough, but the pool may have only one buffer. */
	EXPECT_EQ(-EMSGSIZE, evpl_iovec_alloc(evpl, ~0U, 0, 4, iovec));
	EXPECT_EQ(0, used_in(pool));
	evpl_destroy(evpl);
	EXPECT_EQ(0, evpl_pool_close(pool));
}

TEST_HARNESS_MAIN
