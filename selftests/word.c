// SPDX-License-Identifier: GPL-2.0-only
/*
 * Words: the entries of buffers, where user space counts references and the kernel looks which
 * buffers are in use.
 */
#include <pthread.h>

#include "single.h"

FIXTURE(word)
{
	SINGLE;
};

FIXTURE_SETUP(word)
{
	open_single(_metadata, &self->single);
}

FIXTURE_TEARDOWN(word)
{
	close_single(&self->single);
	EXPECT_TRUE(counters_return_to(self->before));
}

TEST_F(word, entries_of_small_buffers_count_over_several_pages)
{
	const uint64_t two_pages = 2 * ENTRIES_PER_PAGE * PAGE;
	const uint64_t length = two_pages > SLAB_2M ? two_pages : SLAB_2M;
	const int nr = length / PAGE;
	struct evpl_setup setup;
	struct evpl_entry *entries;
	uint64_t offset;
	int fd = open(DEVICE, O_RDWR | O_CLOEXEC);

	ASSERT_EQ(0, evpl_setup(fd, PAGE, &setup));
	ASSERT_EQ(0, evpl_slab_alloc(fd, length, &offset));
	entries = evpl_map(fd, nr * sizeof(*entries), setup.out_refs_offset);
	ASSERT_NE(MAP_FAILED, entries);
	EXPECT_EQ(nr, fdinfo(fd, "evpl-buffers"));
	for (int i = 0; i < nr; i += 7) {
		entries[i].word = 1;
		EXPECT_EQ(-EBUSY, evpl_slab_free(fd, offset));
		entries[i].word = 0;
	}
	entries[0].word = 1;
	entries[ENTRIES_PER_PAGE].word = 1;
	entries[nr - 1].word = 1;
	EXPECT_EQ(3, fdinfo(fd, "evpl-buffers-in-use"));
	munmap(entries, nr * sizeof(*entries));
	close(fd);
}

TEST_F(word, slabs_whose_entries_share_a_page_count_by_themselves)
{
	const uint64_t buffer = 64 * KIB, half = ENTRIES_PER_PAGE / 2;
	const size_t mapped = 2 * PAGE;
	struct evpl_entry *entries;
	struct evpl_setup setup;
	uint64_t first, second;
	int fd = open(DEVICE, O_RDWR | O_CLOEXEC);

	/* The first fill half a page; twice as many fill the rest, and half of the next page. */
	ASSERT_EQ(0, evpl_setup(fd, buffer, &setup));
	ASSERT_EQ(0, evpl_slab_alloc(fd, half * buffer, &first));
	entries = evpl_map(fd, mapped, setup.out_refs_offset);
	ASSERT_NE(MAP_FAILED, entries);
	entries[half - 1].word = 1;
	EXPECT_EQ(SIGBUS, touch_read(&entries[2 * half]));
	ASSERT_EQ(0, evpl_slab_alloc(fd, 2 * half * buffer, &second));
	EXPECT_EQ(half * buffer, second);
	EXPECT_EQ(1, entries[half - 1].word);
	EXPECT_EQ(0, entries[2 * half].word);
	entries[3 * half - 1].word = 1;
	EXPECT_EQ(2, fdinfo(fd, "evpl-buffers-in-use"));
	EXPECT_EQ(-EBUSY, evpl_slab_free(fd, first));
	EXPECT_EQ(-EBUSY, evpl_slab_free(fd, second));
	entries[half - 1].word = 0;
	EXPECT_EQ(0, evpl_slab_free(fd, first));
	EXPECT_EQ(-EBUSY, evpl_slab_free(fd, second));
	entries[3 * half - 1].word = 0;
	EXPECT_EQ(0, evpl_slab_free(fd, second));
	munmap(entries, mapped);
	close(fd);
}

TEST_F(word, entries_full_of_rubbish_harm_their_client_alone)
{
	struct evpl_setup setup;
	uint64_t offset, other_offset;
	int other = open(DEVICE, O_RDWR | O_CLOEXEC);

	ASSERT_EQ(0, evpl_setup(other, 0, &setup));
	ASSERT_EQ(0, evpl_slab_alloc(other, SLAB_2M, &other_offset));
	ASSERT_EQ(0, evpl_slab_alloc(self->fd, SLAB_2M, &offset));
	srand(1);
	for (int round = 0; round < 50; round++) {
		for (size_t i = 0; i < PAGE; i++)
			((unsigned char *)self->entries)[i] = rand() | 1;
		EXPECT_EQ(-EBUSY, evpl_slab_free(self->fd, offset));
		EXPECT_EQ(2, fdinfo(self->fd, "evpl-buffers-in-use"));
	}
	EXPECT_EQ(0, fdinfo(other, "evpl-buffers-in-use"));
	EXPECT_EQ(0, evpl_slab_free(other, other_offset));
	close(other);
}

struct flipper {
	struct evpl_entry *entries;
	unsigned int nr;
	bool stop;
};

static void *flip_words(void *arg)
{
	struct flipper *flipper = arg;

	while (!__atomic_load_n(&flipper->stop, __ATOMIC_RELAXED))
		for (unsigned int i = 0; i < flipper->nr; i++)
			__atomic_fetch_xor(&flipper->entries[i].word, 1,
					   __ATOMIC_RELAXED);
	return NULL;
}

TEST_F(word, words_that_change_while_they_are_counted_are_a_hint_and_no_more)
{
	struct flipper flipper = { .nr = SLAB_2M / PAGE - 1 };
	struct evpl_setup setup;
	pthread_t thread;
	uint64_t offset;
	int fd = open(DEVICE, O_RDWR | O_CLOEXEC);

	ASSERT_EQ(0, evpl_setup(fd, PAGE, &setup));
	ASSERT_EQ(0, evpl_slab_alloc(fd, SLAB_2M, &offset));
	flipper.entries = evpl_map(fd, SLAB_2M / PAGE * sizeof(struct evpl_entry),
				   setup.out_refs_offset);
	ASSERT_NE(MAP_FAILED, flipper.entries);
	/* The last buffer is in use all the time. */
	flipper.entries[flipper.nr].word = 1;
	ASSERT_EQ(0, pthread_create(&thread, NULL, flip_words, &flipper));
	for (int i = 0; i < scaled(3000); i++) {
		long long in_use = fdinfo(fd, "evpl-buffers-in-use");

		ASSERT_LE(1, in_use);
		ASSERT_GE(flipper.nr + 1, in_use);
		ASSERT_EQ(-EBUSY, evpl_slab_free(fd, offset));
	}
	__atomic_store_n(&flipper.stop, true, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	munmap(flipper.entries, SLAB_2M / PAGE * sizeof(struct evpl_entry));
	close(fd);
}

TEST_HARNESS_MAIN
