// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Under AddressSanitizer, the bytes of a buffer are poisoned from when it is taken until an iovec
 * covers them.
 */
#include "common.h"

#ifdef EVPLMEM_ASAN
#define ASAN 1

static bool is_poisoned(void *data)
{
	return __asan_address_is_poisoned(data);
}
#else
#define ASAN 0

static bool is_poisoned(void *data)
{
	(void)data;
	return false;
}
#endif

FIXTURE(poison) {
	struct evpl_pool *pool;
	struct evpl *evpl;
	struct evpl_iovec a, b;
};

FIXTURE_SETUP(poison)
{
	ASSERT_EQ(0, open_pool(&self->pool, BUFFER, SLAB));
	ASSERT_EQ(0, evpl_create(&self->evpl, self->pool, NULL));
	if (!ASAN)
		SKIP(return, "not a build for AddressSanitizer");
}

FIXTURE_TEARDOWN(poison)
{
	evpl_destroy(self->evpl);
	EXPECT_EQ(0, evpl_pool_close(self->pool));
}

TEST_F(poison, ends_where_the_slice_does)
{
	char *data;

	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, 13, 0, 1, &self->a));
	data = self->a.data;
	EXPECT_FALSE(is_poisoned(data));
	EXPECT_FALSE(is_poisoned(data + 12));
	EXPECT_TRUE(is_poisoned(data + 13));
	EXPECT_TRUE(is_poisoned(data + 16));
	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, 8, 0, 1, &self->b));
	EXPECT_FALSE(is_poisoned(data + 16));
	EXPECT_TRUE(is_poisoned(data + 24));
	evpl_iovec_release(&self->a);
	evpl_iovec_release(&self->b);
}

TEST_F(poison, comes_with_the_last_reference)
{
	ASSERT_EQ(1, evpl_buffer_alloc(self->evpl, &self->a));
	evpl_iovec_clone(&self->b, &self->a);
	evpl_iovec_release(&self->a);
	EXPECT_FALSE(is_poisoned(self->b.data));
	evpl_iovec_release(&self->b);
	EXPECT_TRUE(is_poisoned(self->b.data));
	EXPECT_TRUE(is_poisoned((char *)self->b.data + BUFFER - 1));
}

TEST_F(poison, of_a_slice_comes_with_its_buffers_last_reference)
{
	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, 100, 0, 1, &self->a));
	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, 100, 0, 1, &self->b));
	/* The library can't know whether the slice has a clone. */
	evpl_iovec_release(&self->a);
	EXPECT_FALSE(is_poisoned(self->a.data));
	evpl_iovec_release(&self->b);
	EXPECT_FALSE(is_poisoned(self->a.data));
	/* The context's hold is the last reference. */
	evpl_destroy(self->evpl);
	EXPECT_TRUE(is_poisoned(self->a.data));
	EXPECT_TRUE(is_poisoned(self->b.data));
	ASSERT_EQ(0, evpl_create(&self->evpl, self->pool, NULL));
}

TEST_F(poison, covers_what_commit_cuts_off)
{
	ASSERT_EQ(1, evpl_iovec_reserve(self->evpl, 1000, 0, 1, &self->a));
	ASSERT_EQ(1, evpl_iovec_commit(self->evpl, &self->a, 1, 99));
	EXPECT_FALSE(is_poisoned((char *)self->a.data + 98));
	EXPECT_TRUE(is_poisoned((char *)self->a.data + 99));
	EXPECT_TRUE(is_poisoned((char *)self->a.data + 999));
	evpl_iovec_release(&self->a);
}

TEST_F(poison, covers_a_buffer_that_is_begun_again)
{
	char *data;

	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, BUFFER - 8, 0, 1, &self->a));
	data = self->a.data;
	evpl_iovec_release(&self->a);
	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, 16, 0, 1, &self->a));
	ASSERT_EQ(data, self->a.data);
	EXPECT_FALSE(is_poisoned(data + 15));
	EXPECT_TRUE(is_poisoned(data + 16));
	EXPECT_TRUE(is_poisoned(data + BUFFER / 2));
	evpl_iovec_release(&self->a);
}

TEST_F(poison, is_lifted_when_the_slab_goes)
{
	void *data;

	ASSERT_EQ(1, evpl_buffer_alloc(self->evpl, &self->a));
	data = self->a.data;
	evpl_iovec_release(&self->a);
	evpl_destroy(self->evpl);
	ASSERT_EQ(0, evpl_pool_close(self->pool));
	EXPECT_FALSE(is_poisoned(data));
	ASSERT_EQ(0, open_pool(&self->pool, BUFFER, SLAB));
	ASSERT_EQ(0, evpl_create(&self->evpl, self->pool, NULL));
}

TEST_HARNESS_MAIN
