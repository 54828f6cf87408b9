// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Reserve and commit: slices don't overlap, and bytes that aren't used are allocated again.
 */
#include "common.h"

FIXTURE(commit) {
	struct evpl_pool *pool;
	struct evpl *evpl;
	struct evpl_iovec r[8];
	struct evpl_iovec a, b;
};

FIXTURE_SETUP(commit)
{
	ASSERT_EQ(0, open_pool(&self->pool, BUFFER, SLAB));
	ASSERT_EQ(0, evpl_create(&self->evpl, self->pool, NULL));
}

FIXTURE_TEARDOWN(commit)
{
	evpl_destroy(self->evpl);
	EXPECT_TRUE(all_idle(self->pool));
	EXPECT_EQ(0, used_in(self->pool));
	EXPECT_EQ(0, evpl_pool_close(self->pool));
}

static bool overlap(const struct evpl_iovec *a, const struct evpl_iovec *b)
{
	return (char *)a->data < (char *)b->data + b->length &&
	       (char *)b->data < (char *)a->data + a->length;
}

TEST_F(commit, what_was_not_used_is_allocated_next)
{
	ASSERT_EQ(1, evpl_iovec_reserve(self->evpl, 10000, 0, 1, self->r));
	EXPECT_EQ(2, word_of(self->r));
	ASSERT_EQ(1, evpl_iovec_commit(self->evpl, self->r, 1, 100));
	EXPECT_EQ(100, self->r[0].length);
	EXPECT_EQ(2, word_of(self->r));
	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, 50, 0, 1, &self->a));
	EXPECT_EQ((char *)self->r[0].data + 104, self->a.data);
	memset(self->r[0].data, 1, 100);
	memset(self->a.data, 1, 50);
	evpl_iovec_release(self->r);
	evpl_iovec_release(&self->a);
}

TEST_F(commit, an_allocation_in_between_does_not_overlap)
{
	ASSERT_EQ(1, evpl_iovec_reserve(self->evpl, 10000, 0, 1, self->r));
	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, 50, 0, 1, &self->a));
	EXPECT_FALSE(overlap(self->r, &self->a));
	ASSERT_EQ(1, evpl_iovec_commit(self->evpl, self->r, 1, 100));
	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, 50, 0, 1, &self->b));
	EXPECT_FALSE(overlap(self->r, &self->b));
	EXPECT_FALSE(overlap(&self->a, &self->b));
	/* The unused bytes couldn't be given back, as another slice lies after them. */
	EXPECT_EQ((char *)self->a.data + 56, self->b.data);
	evpl_iovec_release(self->r);
	evpl_iovec_release(&self->a);
	evpl_iovec_release(&self->b);
}

TEST_F(commit, two_reservations_do_not_overlap)
{
	ASSERT_EQ(1, evpl_iovec_reserve(self->evpl, 1000, 0, 1, &self->r[0]));
	ASSERT_EQ(1, evpl_iovec_reserve(self->evpl, 1000, 0, 1, &self->r[1]));
	ASSERT_EQ(1, evpl_iovec_commit(self->evpl, &self->r[0], 1, 1));
	ASSERT_EQ(1, evpl_iovec_commit(self->evpl, &self->r[1], 1, 1));
	EXPECT_FALSE(overlap(&self->r[0], &self->r[1]));
	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, 2000, 0, 1, &self->a));
	EXPECT_EQ((char *)self->r[1].data + 8, self->a.data);
	evpl_iovecs_release(self->r, 2);
	evpl_iovec_release(&self->a);
}

TEST_F(commit, iovecs_beyond_are_released)
{
	int i;

	ASSERT_EQ(4, evpl_iovec_reserve(self->evpl, 3 * BUFFER + 100, 0, 4, self->r));
	EXPECT_EQ(4, used_in(self->pool));
	ASSERT_EQ(2, evpl_iovec_commit(self->evpl, self->r, 4, BUFFER + 1));
	EXPECT_EQ(BUFFER, self->r[0].length);
	EXPECT_EQ(1, self->r[1].length);
	EXPECT_EQ(0, word_of(&self->r[2]));
	/* The whole buffer and the shortened one are in use, and perhaps another current one. */
	for (i = 0; i < 2; i++)
		EXPECT_LE(1, word_of(&self->r[i]));
	EXPECT_GE(3, used_in(self->pool));
	memset(self->r[0].data, 1, self->r[0].length);
	memset(self->r[1].data, 1, self->r[1].length);
	evpl_iovecs_release(self->r, 2);
}

TEST_F(commit, of_nothing_releases_all)
{
	void *data;

	ASSERT_EQ(1, evpl_iovec_reserve(self->evpl, 1000, 0, 1, self->r));
	data = self->r[0].data;
	EXPECT_EQ(0, evpl_iovec_commit(self->evpl, self->r, 1, 0));
	EXPECT_EQ(1, word_of(self->r));
	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, 8, 0, 1, &self->a));
	EXPECT_EQ(data, self->a.data);
	evpl_iovec_release(&self->a);

	ASSERT_EQ(3, evpl_iovec_reserve(self->evpl, 2 * BUFFER + 10, 0, 3, self->r));
	EXPECT_EQ(0, evpl_iovec_commit(self->evpl, self->r, 3, 0));
	EXPECT_EQ(1, used_in(self->pool));
	EXPECT_EQ(0, evpl_iovec_commit(self->evpl, self->r, 0, 0));
}

TEST_F(commit, of_all_changes_nothing)
{
	ASSERT_EQ(2, evpl_iovec_reserve(self->evpl, BUFFER + 1000, 4096, 2, self->r));
	ASSERT_EQ(2, evpl_iovec_commit(self->evpl, self->r, 2, BUFFER + 1000));
	EXPECT_EQ(BUFFER, self->r[0].length);
	EXPECT_EQ(1000, self->r[1].length);
	EXPECT_EQ(1, word_of(&self->r[0]));
	EXPECT_EQ(2, word_of(&self->r[1]));
	evpl_iovecs_release(self->r, 2);
}

TEST_F(commit, a_whole_buffer_that_is_hardly_used_is_not_lost)
{
	ASSERT_EQ(1, evpl_iovec_reserve(self->evpl, BUFFER, 0, 1, self->r));
	EXPECT_EQ(1, word_of(self->r));
	ASSERT_EQ(1, evpl_iovec_commit(self->evpl, self->r, 1, 100));
	/* The buffer is the context's current one again, so the context has a hold on it. */
	EXPECT_EQ(2, word_of(self->r));
	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, BUFFER / 2, 0, 1, &self->a));
	EXPECT_EQ((char *)self->r[0].data + 104, self->a.data);
	EXPECT_EQ(1, used_in(self->pool));
	evpl_iovec_release(self->r);
	evpl_iovec_release(&self->a);
}

TEST_F(commit, the_context_goes_on_where_there_is_more_room)
{
	/* The current buffer has more room left than the reserved one, so it stays current. */
	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, 1000, 0, 1, &self->a));
	ASSERT_EQ(1, evpl_iovec_reserve(self->evpl, BUFFER - 8, 0, 1, self->r));
	EXPECT_NE(self->a.__private2, self->r[0].__private2);
	ASSERT_EQ(1, evpl_iovec_commit(self->evpl, self->r, 1, 5000));
	EXPECT_EQ(1, word_of(self->r));
	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, 8, 0, 1, &self->b));
	EXPECT_EQ((char *)self->a.data + 1000, self->b.data);
	evpl_iovec_release(&self->b);
	evpl_iovec_release(self->r);

	/* Now the reserved buffer has more room left, so it becomes the current one. */
	ASSERT_EQ(1, evpl_iovec_reserve(self->evpl, BUFFER - 8, 0, 1, self->r));
	ASSERT_EQ(1, evpl_iovec_commit(self->evpl, self->r, 1, 8));
	EXPECT_EQ(2, word_of(self->r));
	EXPECT_EQ(1, word_of(&self->a));
	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, 8, 0, 1, &self->b));
	EXPECT_EQ((char *)self->r[0].data + 8, self->b.data);
	evpl_iovec_release(&self->b);
	evpl_iovec_release(self->r);
	evpl_iovec_release(&self->a);
}

TEST_F(commit, bad_commits_change_nothing)
{
	struct evpl_pool *pool;
	struct evpl *other;

	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, 1000, 0, 1, &self->a));
	EXPECT_EQ(-EINVAL, evpl_iovec_commit(self->evpl, &self->a, 1, 10));
	EXPECT_EQ(1000, self->a.length);

	ASSERT_EQ(2, evpl_iovec_reserve(self->evpl, BUFFER + 1000, 0, 2, self->r));
	EXPECT_EQ(-EINVAL, evpl_iovec_commit(self->evpl, self->r, 2, BUFFER + 1001));
	EXPECT_EQ(-EINVAL, evpl_iovec_commit(self->evpl, self->r, 2, ~0U));
	EXPECT_EQ(-EINVAL, evpl_iovec_commit(self->evpl, self->r, -1, 0));
	EXPECT_EQ(-EINVAL, evpl_iovec_commit(self->evpl, self->r, 0, 1));
	EXPECT_EQ(BUFFER, self->r[0].length);
	EXPECT_EQ(1000, self->r[1].length);
	EXPECT_EQ(1, word_of(&self->r[0]));
	EXPECT_EQ(3, word_of(&self->r[1]));

	/* A context of another pool can't commit. */
	ASSERT_EQ(0, open_pool(&pool, BUFFER, SLAB));
	ASSERT_EQ(0, evpl_create(&other, pool, NULL));
	EXPECT_EQ(-EINVAL, evpl_iovec_commit(other, self->r, 2, 10));
	evpl_destroy(other);
	EXPECT_EQ(0, evpl_pool_close(pool));

	/* Iovecs can be committed only once. */
	ASSERT_EQ(2, evpl_iovec_commit(self->evpl, self->r, 2, BUFFER + 10));
	EXPECT_EQ(-EINVAL, evpl_iovec_commit(self->evpl, self->r, 2, 10));
	EXPECT_EQ(10, self->r[1].length);
	evpl_iovecs_release(self->r, 2);
	evpl_iovec_release(&self->a);
}

TEST_F(commit, a_reclaimed_buffer_is_not_gone_on_with)
{
	ASSERT_EQ(1, evpl_iovec_reserve(self->evpl, 1000, 0, 1, self->r));
	contexts_reclaim_current(self->pool);
	EXPECT_EQ(1, word_of(self->r));
	ASSERT_EQ(1, evpl_iovec_commit(self->evpl, self->r, 1, 10));
	EXPECT_EQ(1, word_of(self->r));
	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, 8, 0, 1, &self->a));
	EXPECT_NE(self->r[0].__private2, self->a.__private2);
	evpl_iovec_release(self->r);
	evpl_iovec_release(&self->a);
}

/* Reservations of random sizes. Each slice has a stamp, which a slice that overlaps overwrites. */
TEST_F(commit, random_reservations_keep_their_contents)
{
	struct {
		struct evpl_iovec iovec[3];
		int niov;
		unsigned char stamp;
	} live[16] = { 0 };
	unsigned int seed = 1, i, k, step;
	int j;

	for (step = 0; step < 20000; step++) {
		i = rand_r(&seed) % 16;
		for (j = 0; j < live[i].niov; j++) {
			for (k = 0; k < live[i].iovec[j].length; k += 61)
				ASSERT_EQ(live[i].stamp,
					  ((unsigned char *)live[i].iovec[j].data)[k]);
			evpl_iovec_release(&live[i].iovec[j]);
		}
		live[i].niov = 0;
		j = evpl_iovec_reserve(self->evpl, 1 + rand_r(&seed) % (BUFFER + BUFFER / 2),
				       1U << (rand_r(&seed) % 13), 3, live[i].iovec);
		if (j == -ENOMEM)
			continue;
		ASSERT_LT(0, j);
		if (rand_r(&seed) % 4 == 0) {
			/* An allocation comes between the reservation and the commit. */
			ASSERT_LE(1, evpl_iovec_alloc(self->evpl, 1 + rand_r(&seed) % 100, 0, 1,
						      &self->a));
			memset(self->a.data, 0xff, self->a.length);
			evpl_iovec_release(&self->a);
		}
		k = live[i].iovec[0].length;
		j = evpl_iovec_commit(self->evpl, live[i].iovec, j, rand_r(&seed) % (k + 1));
		ASSERT_LE(0, j);
		live[i].niov = j;
		live[i].stamp = (unsigned char)step;
		for (j = 0; j < live[i].niov; j++)
			memset(live[i].iovec[j].data, live[i].stamp, live[i].iovec[j].length);
	}
	for (i = 0; i < 16; i++)
		evpl_iovecs_release(live[i].iovec, live[i].niov);
}

TEST_HARNESS_MAIN
