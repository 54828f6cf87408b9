// SPDX-License-Identifier: GPL-2.0-only
/* Slabs: which requests are valid, which memory they give, and when it may be freed. */
#include <linux/mempolicy.h>
#include <pthread.h>
#include <sys/syscall.h>

#include "single.h"

FIXTURE(slab)
{
	SINGLE;
};

FIXTURE_SETUP(slab)
{
	open_single(_metadata, &self->single);
}

FIXTURE_TEARDOWN(slab)
{
	close_single(&self->single);
	EXPECT_TRUE(counters_return_to(self->before));
}

TEST_F(slab, bad_lengths_are_EINVAL)
{
	const uint64_t bad[] = {
		0, 1, PAGE, 1 * MIB, SLAB_2M - 1, SLAB_2M + 1, SLAB_2M + PAGE,
		3 * MIB, UINT64_MAX, UINT64_MAX - SLAB_2M + 1,
		self->setup.out_own_size + SLAB_2M, 1UL << 63,
	};
	uint64_t offset;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		EXPECT_EQ(-EINVAL, evpl_slab_alloc(self->fd, bad[i], &offset));
	EXPECT_EQ(0, fdinfo(self->fd, "evpl-slabs"));
	EXPECT_EQ(self->before.charged + HEADER_PAGE, read_counters().charged);
}

TEST_F(slab, length_that_is_not_whole_buffers_is_EINVAL)
{
	struct evpl_setup setup;
	uint64_t offset;
	int fd = open(DEVICE, O_RDWR | O_CLOEXEC);

	ASSERT_EQ(0, evpl_setup(fd, 8 * MIB, &setup));
	EXPECT_EQ(-EINVAL, evpl_slab_alloc(fd, 2 * MIB, &offset));
	EXPECT_EQ(-EINVAL, evpl_slab_alloc(fd, 12 * MIB, &offset));
	EXPECT_EQ(0, fdinfo(fd, "evpl-slabs"));
	ASSERT_EQ(0, evpl_slab_alloc(fd, 8 * MIB, &offset));
	EXPECT_EQ(0, offset);
	ASSERT_EQ(0, evpl_slab_alloc(fd, 16 * MIB, &offset));
	EXPECT_EQ(8 * MIB, offset);
	EXPECT_EQ(3, fdinfo(fd, "evpl-buffers"));
	close(fd);
}

TEST_F(slab, node_that_is_not_there_is_EINVAL)
{
	static const int bad[] = { -2, 63, 1023, 1024, 1 << 20, INT32_MAX, INT32_MIN };
	uint64_t offset;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		EXPECT_EQ(-EINVAL, evpl_slab_alloc_on(self->fd, SLAB_2M, bad[i],
						      0, &offset));
	EXPECT_EQ(0, fdinfo(self->fd, "evpl-slabs"));
}

TEST_F(slab, all_of_it_is_on_the_node_that_was_asked_for)
{
	int nodes = 0;

	while (!access("/sys/devices/system/node", F_OK)) {
		char path[64];

		snprintf(path, sizeof(path), "/sys/devices/system/node/node%d",
			 nodes);
		if (access(path, F_OK))
			break;
		nodes++;
	}
	if (nodes < 2)
		SKIP(return, "one node");

	for (int node = 0; node < nodes; node++) {
		uint64_t offset;
		char *memory;

		ASSERT_EQ(0, evpl_slab_alloc_on(self->fd, 16 * MIB, node, 0,
						&offset));
		memory = evpl_map(self->fd, 16 * MIB, offset);
		ASSERT_NE(MAP_FAILED, memory);
		for (size_t at = 0; at < 16 * MIB; at += SLAB_2M) {
			int found = -1;

			memory[at] = 1;
			ASSERT_EQ(0, syscall(SYS_get_mempolicy, &found, NULL, 0,
					     memory + at,
					     MPOL_F_NODE | MPOL_F_ADDR));
			EXPECT_EQ(node, found);
		}
		munmap(memory, 16 * MIB);
	}
}

TEST_F(slab, memory_is_zero_also_after_another_had_it)
{
	for (int round = 0; round < 3; round++) {
		uint64_t offset;
		char *memory;

		ASSERT_EQ(0, evpl_slab_alloc(self->fd, 32 * MIB, &offset));
		memory = evpl_map(self->fd, 32 * MIB, offset);
		ASSERT_NE(MAP_FAILED, memory);
		EXPECT_TRUE(is_filled_with(memory, 0, 32 * MIB));
		memset(memory, 0xa5, 32 * MIB);
		EXPECT_EQ(0, evpl_slab_free(self->fd, offset));
		munmap(memory, 32 * MIB);
	}
}

TEST_F(slab, lowest_free_range_is_used)
{
	uint64_t a, b, c, d;

	ASSERT_EQ(0, evpl_slab_alloc(self->fd, 4 * MIB, &a));
	ASSERT_EQ(0, evpl_slab_alloc(self->fd, 2 * MIB, &b));
	ASSERT_EQ(0, evpl_slab_alloc(self->fd, 2 * MIB, &c));
	EXPECT_EQ(0, a);
	EXPECT_EQ(4 * MIB, b);
	EXPECT_EQ(6 * MIB, c);

	EXPECT_EQ(0, evpl_slab_free(self->fd, a));
	ASSERT_EQ(0, evpl_slab_alloc(self->fd, 6 * MIB, &d));
	EXPECT_EQ(8 * MIB, d);
	ASSERT_EQ(0, evpl_slab_alloc(self->fd, 2 * MIB, &a));
	EXPECT_EQ(0, a);
	ASSERT_EQ(0, evpl_slab_alloc(self->fd, 2 * MIB, &d));
	EXPECT_EQ(2 * MIB, d);
	EXPECT_EQ(5, fdinfo(self->fd, "evpl-slabs"));
	EXPECT_EQ(14 * MIB, fdinfo(self->fd, "evpl-bytes"));
}

TEST_F(slab, many_slabs_freed_in_any_order_leave_nothing)
{
	enum { SLABS = 100 };
	uint64_t offsets[SLABS];
	char *window = evpl_map(self->fd, SLABS * SLAB_2M, 0);

	ASSERT_NE(MAP_FAILED, window);
	for (int i = 0; i < SLABS; i++) {
		ASSERT_EQ(0, evpl_slab_alloc(self->fd, SLAB_2M, &offsets[i]));
		EXPECT_EQ(i * SLAB_2M, offsets[i]);
		window[offsets[i]] = i;
	}
	for (int i = 0; i < SLABS; i++) {
		int at = i * 37 % SLABS;

		EXPECT_EQ(at, window[offsets[at]]);
		EXPECT_EQ(0, evpl_slab_free(self->fd, offsets[at]));
		EXPECT_EQ(SIGBUS, touch_read(window + offsets[at]));
		EXPECT_EQ(-ENOENT, evpl_slab_free(self->fd, offsets[at]));
	}
	EXPECT_EQ(0, fdinfo(self->fd, "evpl-slabs"));
	EXPECT_EQ(0, lseek(self->fd, 0, SEEK_END));
	munmap(window, SLABS * SLAB_2M);
}

TEST_F(slab, only_its_start_frees_it)
{
	uint64_t offset;

	ASSERT_EQ(0, evpl_slab_alloc(self->fd, 4 * MIB, &offset));
	EXPECT_EQ(-ENOENT, evpl_slab_free(self->fd, offset + SLAB_2M));
	EXPECT_EQ(-ENOENT, evpl_slab_free(self->fd, offset + PAGE));
	EXPECT_EQ(-ENOENT, evpl_slab_free(self->fd, offset + 1));
	EXPECT_EQ(-ENOENT, evpl_slab_free(self->fd, offset + 4 * MIB));
	EXPECT_EQ(-ENOENT, evpl_slab_free(self->fd, UINT64_MAX));
	EXPECT_EQ(1, fdinfo(self->fd, "evpl-slabs"));
	EXPECT_EQ(0, evpl_slab_free(self->fd, offset));
	EXPECT_EQ(-ENOENT, evpl_slab_free(self->fd, offset));
}

TEST_F(slab, of_another_client_is_ENOENT)
{
	struct evpl_setup setup;
	uint64_t offset;
	int other = open(DEVICE, O_RDWR | O_CLOEXEC);

	ASSERT_EQ(0, evpl_setup(other, 0, &setup));
	ASSERT_EQ(0, evpl_slab_alloc(self->fd, SLAB_2M, &offset));
	EXPECT_EQ(-ENOENT, evpl_slab_free(other, offset));
	EXPECT_EQ(1, fdinfo(self->fd, "evpl-slabs"));
	close(other);
}

TEST_F(slab, with_a_live_reference_is_EBUSY)
{
	static const uint64_t live[] = { 1, EVPL_WORD_COUNT, 1ULL << 63 };
	uint64_t first, second;

	ASSERT_EQ(0, evpl_slab_alloc(self->fd, 4 * MIB, &first));
	ASSERT_EQ(0, evpl_slab_alloc(self->fd, 2 * MIB, &second));
	for (int buffer = 0; buffer < 4; buffer++) {
		for (size_t i = 0; i < ARRAY_SIZE(live); i++) {
			__atomic_store_n(&self->entries[buffer].word, live[i],
					 __ATOMIC_SEQ_CST);
			EXPECT_EQ(-EBUSY, evpl_slab_free(self->fd, first));
			EXPECT_EQ(2, fdinfo(self->fd, "evpl-slabs"));
			EXPECT_EQ(1, fdinfo(self->fd, "evpl-buffers-in-use"));
			EXPECT_EQ(live[i], self->entries[buffer].word);
		}
		self->entries[buffer].word = 0;
	}
	/* References on buffers of the second slab don't keep the first. */
	self->entries[4].word = 1;
	EXPECT_EQ(0, evpl_slab_free(self->fd, first));
	EXPECT_EQ(-EBUSY, evpl_slab_free(self->fd, second));
	self->entries[4].word = 0;
	EXPECT_EQ(0, evpl_slab_free(self->fd, second));
}

TEST_F(slab, huge_flag_gives_folios_of_2_MiB_alone)
{
	uint64_t offset;
	int ret = evpl_slab_alloc_on(self->fd, 64 * MIB, EVPL_NODE_ANY,
				     EVPL_SLAB_HUGE, &offset);

	if (!has_huge()) {
		EXPECT_EQ(-ENOMEM, ret);
		EXPECT_EQ(0, fdinfo(self->fd, "evpl-slabs"));
		return;
	}
	ASSERT_EQ(0, ret);
	EXPECT_EQ(32, fdinfo(self->fd, "evpl-folios-2048kB"));
	EXPECT_EQ(64 * MIB, fdinfo(self->fd, "evpl-bytes"));
	EXPECT_EQ(64, fdinfo(self->fd, "evpl-buffers"));
}

TEST_F(slab, freed_while_another_thread_touches_it_is_never_seen_after)
{
	char *window = evpl_map(self->fd, SLAB_2M, 0);

	ASSERT_NE(MAP_FAILED, window);
	for (int round = 0; round < scaled(200); round++) {
		uint64_t offset;
		int status;
		pid_t child;

		ASSERT_EQ(0, evpl_slab_alloc(self->fd, SLAB_2M, &offset));
		/* The child has page tables of its own: the pages must leave both. */
		child = fork_child();
		if (!child) {
			while (!touch_read(window + PAGE))
				;
			_exit(touch_read(window) == SIGBUS ? 0 : 1);
		}
		window[0] = 1;
		if (round & 1)
			usleep(rand() % 500);
		EXPECT_EQ(0, evpl_slab_free(self->fd, offset));
		EXPECT_EQ(SIGBUS, touch_read(window));
		EXPECT_EQ(SIGBUS, touch_read(window + SLAB_2M - 1));
		EXPECT_EQ(0, smaps(window, "Rss:"));
		status = reap(child);
		EXPECT_EQ(0, status);
	}
	munmap(window, SLAB_2M);
}

struct racer {
	int fd;
	bool stop;
	unsigned long served;
};

static void *alloc_and_free(void *arg)
{
	struct racer *racer = arg;

	while (!__atomic_load_n(&racer->stop, __ATOMIC_RELAXED)) {
		uint64_t offset;

		if (evpl_slab_alloc(racer->fd, SLAB_2M, &offset))
			continue;
		if (evpl_slab_free(racer->fd, offset))
			continue;
		__atomic_add_fetch(&racer->served, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

TEST_F(slab, threads_allocate_and_free_in_one_client_while_others_fault)
{
	struct racer racer = { .fd = self->fd };
	char *window = evpl_map(self->fd, 8 * MIB, 0);
	unsigned long faults = 0, served = 0;
	pthread_t threads[3];

	ASSERT_NE(MAP_FAILED, window);
	for (int i = 0; i < 3; i++)
		ASSERT_EQ(0, pthread_create(&threads[i], NULL, alloc_and_free,
					    &racer));
	while (served < scaled(500) || !faults) {
		if (!touch_write(window + rand() % (8 * MIB)))
			faults++;
		served = __atomic_load_n(&racer.served, __ATOMIC_RELAXED);
	}
	__atomic_store_n(&racer.stop, true, __ATOMIC_RELAXED);
	for (int i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	EXPECT_EQ(0, fdinfo(self->fd, "evpl-slabs"));
	EXPECT_EQ(SIGBUS, touch_read(window));
	munmap(window, 8 * MIB);
}

TEST_HARNESS_MAIN
