// SPDX-License-Identifier: GPL-2.0-only
/* Windows: which mappings are allowed, what a touch finds, and the life of a mapping. */
#include <poll.h>

#include "futex.h"

FIXTURE(window)
{
	int fd;
	struct counters before;
	struct evpl_setup setup;
};

FIXTURE_SETUP(window)
{
	limit_sleeps();
	self->before = read_counters();
	self->fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	ASSERT_GE(self->fd, 0);
	ASSERT_EQ(0, evpl_setup(self->fd, 0, &self->setup));
}

FIXTURE_TEARDOWN(window)
{
	close(self->fd);
	EXPECT_TRUE(counters_return_to(self->before));
}

/* Return -errno of mmap(2), or 0. Nothing stays mapped. */
static int try_map(int fd, int prot, int flags, uint64_t offset, size_t length)
{
	void *memory = mmap(NULL, length, prot, flags, fd, offset);

	if (memory == MAP_FAILED)
		return -errno;
	munmap(memory, length);
	return 0;
}

#define RW (PROT_READ | PROT_WRITE)

TEST_F(window, private_is_EINVAL_and_executable_is_EPERM)
{
	const uint64_t offsets[] = { 0, self->setup.out_refs_offset };

	for (int i = 0; i < 2; i++) {
		EXPECT_EQ(-EINVAL, try_map(self->fd, RW, MAP_PRIVATE,
					   offsets[i], PAGE));
		EXPECT_EQ(-EINVAL, try_map(self->fd, PROT_READ, MAP_PRIVATE,
					   offsets[i], PAGE));
		EXPECT_EQ(-EPERM, try_map(self->fd, RW | PROT_EXEC, MAP_SHARED,
					  offsets[i], PAGE));
		EXPECT_EQ(0, try_map(self->fd, RW, MAP_SHARED, offsets[i], PAGE));
		EXPECT_EQ(0, try_map(self->fd, PROT_NONE, MAP_SHARED, offsets[i],
				     PAGE));
	}
	/* A mapping that fails doesn't set a client up, or give it a slab. */
	int fd = open(DEVICE, O_RDWR | O_CLOEXEC);

	EXPECT_EQ(-EINVAL, try_map(fd, RW, MAP_PRIVATE, 0, PAGE));
	EXPECT_EQ(-EPERM, try_map(fd, PROT_EXEC, MAP_SHARED, 0, PAGE));
	EXPECT_EQ(0, fdinfo(fd, "evpl-buffer-size"));
	EXPECT_EQ(0, fdinfo(fd, "evpl-slabs"));
	close(fd);
}

TEST_F(window, past_a_window_is_ENXIO)
{
	const struct evpl_setup *setup = &self->setup;
	const uint64_t own_end = setup->out_own_size;
	const uint64_t refs_end = setup->out_refs_offset + setup->out_refs_size;

	EXPECT_EQ(0, try_map(self->fd, RW, MAP_SHARED, own_end - PAGE, PAGE));
	EXPECT_EQ(-ENXIO, try_map(self->fd, RW, MAP_SHARED, own_end - PAGE, 2 * PAGE));
	EXPECT_EQ(0, try_map(self->fd, RW, MAP_SHARED, refs_end - PAGE, PAGE));
	EXPECT_EQ(-ENXIO, try_map(self->fd, RW, MAP_SHARED, refs_end - PAGE, 2 * PAGE));
	EXPECT_EQ(-ENXIO, try_map(self->fd, RW, MAP_SHARED, refs_end, PAGE));
	EXPECT_EQ(-ENXIO, try_map(self->fd, RW, MAP_SHARED, 1UL << 60, PAGE));
	EXPECT_NE(0, try_map(self->fd, RW, MAP_SHARED, -PAGE, PAGE));
}

TEST_F(window, offset_without_a_slab_raises_SIGBUS)
{
	char *window = evpl_map(self->fd, 8 * MIB, 0);
	struct evpl_entry *entries = evpl_map(self->fd, 2 * PAGE,
					      self->setup.out_refs_offset);
	uint64_t offset;

	ASSERT_NE(MAP_FAILED, window);
	ASSERT_NE(MAP_FAILED, entries);
	EXPECT_EQ(SIGBUS, touch_read(window));
	EXPECT_EQ(SIGBUS, touch_write(window));
	EXPECT_EQ(SIGBUS, touch_read(&entries[0]));

	ASSERT_EQ(0, evpl_slab_alloc(self->fd, 4 * MIB, &offset));
	EXPECT_EQ(0, touch_write(window));
	EXPECT_EQ(0, touch_write(window + 4 * MIB - 1));
	EXPECT_EQ(SIGBUS, touch_read(window + 4 * MIB));
	EXPECT_EQ(0, touch_write(&entries[0]));
	EXPECT_EQ(0, touch_write(&entries[ENTRIES_PER_PAGE - 1]));
	EXPECT_EQ(SIGBUS, touch_read(&entries[ENTRIES_PER_PAGE]));

	EXPECT_EQ(0, evpl_slab_free(self->fd, offset));
	EXPECT_EQ(SIGBUS, touch_read(window));
	EXPECT_EQ(SIGBUS, touch_read(window + 4 * MIB - 1));

	/* A system call gives EFAULT for this memory. */
	EXPECT_EQ(-EFAULT, RESULT(write(STDERR_FILENO, window, 1)));
	munmap(window, 8 * MIB);
	munmap(entries, 2 * PAGE);
}

TEST_F(window, slab_of_64_MiB_is_mapped_by_2_MiB)
{
	uint64_t offset;
	char *memory;

	if (!has_huge())
		SKIP(return, "a kernel without large folios");
	ASSERT_EQ(0, evpl_slab_alloc_on(self->fd, 64 * MIB, EVPL_NODE_ANY,
					EVPL_SLAB_HUGE, &offset));
	memory = evpl_map(self->fd, 64 * MIB, offset);
	ASSERT_NE(MAP_FAILED, memory);
	for (size_t at = 0; at < 64 * MIB; at += PAGE)
		memory[at] = 1;
	/* A PMD maps 2 MiB with pages of 4 KiB, and more with larger ones. */
	EXPECT_EQ(PAGE == 4 * KIB ? 64 * KIB : 0, smaps(memory, "FilePmdMapped:"));
	EXPECT_EQ(64 * KIB, smaps(memory, "Rss:"));
	EXPECT_EQ(64 * MIB, lseek(self->fd, 0, SEEK_END));
	munmap(memory, 64 * MIB);
}

TEST_F(window, every_mapping_of_a_slab_is_the_same_memory)
{
	uint64_t offset;
	char *a, *b;

	ASSERT_EQ(0, evpl_slab_alloc(self->fd, 4 * MIB, &offset));
	a = evpl_map(self->fd, 4 * MIB, offset);
	b = evpl_map(self->fd, 3 * PAGE, offset + SLAB_2M - PAGE);
	ASSERT_NE(MAP_FAILED, a);
	ASSERT_NE(MAP_FAILED, b);
	strcpy(a + SLAB_2M - 4, "across");
	EXPECT_STREQ("across", b + PAGE - 4);
	strcpy(b + 2 * PAGE, "back");
	EXPECT_STREQ("back", a + SLAB_2M + PAGE);
	munmap(a, 4 * MIB);
	EXPECT_STREQ("across", b + PAGE - 4);
	munmap(b, 3 * PAGE);
}

TEST_F(window, offset_0_before_set_up_sets_up_with_a_slab_for_the_length)
{
	static const size_t lengths[] = {
		1, PAGE, SLAB_2M - 1, SLAB_2M, SLAB_2M + 1, 5 * MIB, 64 * MIB,
	};

	for (size_t i = 0; i < ARRAY_SIZE(lengths); i++) {
		size_t rounded = (lengths[i] + SLAB_2M - 1) / SLAB_2M * SLAB_2M;
		int fd = open(DEVICE, O_RDWR | O_CLOEXEC);
		struct evpl_setup setup;
		char *memory;

		EXPECT_EQ(0, lseek(fd, 0, SEEK_END));
		memory = evpl_map(fd, lengths[i], 0);
		ASSERT_NE(MAP_FAILED, memory);
		EXPECT_EQ(rounded, fdinfo(fd, "evpl-bytes"));
		EXPECT_EQ(rounded, lseek(fd, 0, SEEK_END));
		EXPECT_EQ(1 * MIB, fdinfo(fd, "evpl-buffer-size"));
		EXPECT_TRUE(lengths[i] == 1 ||
			    is_filled_with(memory, 0, lengths[i]));
		memset(memory, 1, lengths[i]);
		EXPECT_EQ(-EBUSY, evpl_setup(fd, 0, &setup));
		/* Each open file has slabs of its own. */
		EXPECT_EQ(0, fdinfo(self->fd, "evpl-slabs"));

		/* A second mapping allocates no further slab. */
		EXPECT_EQ(0, try_map(fd, RW, MAP_SHARED, 0, lengths[i]));
		EXPECT_EQ(rounded, fdinfo(fd, "evpl-bytes"));
		munmap(memory, lengths[i]);
		close(fd);
	}
}

TEST_F(window, other_offsets_before_set_up_are_ENXIO)
{
	int fd = open(DEVICE, O_RDWR | O_CLOEXEC);

	EXPECT_EQ(-ENXIO, try_map(fd, RW, MAP_SHARED, PAGE, PAGE));
	EXPECT_EQ(-ENXIO, try_map(fd, RW, MAP_SHARED, SLAB_2M, PAGE));
	EXPECT_EQ(-ENXIO, try_map(fd, RW, MAP_SHARED,
				  self->setup.out_refs_offset, PAGE));
	EXPECT_EQ(0, fdinfo(fd, "evpl-buffer-size"));
	close(fd);
}

TEST_F(window, offset_0_with_more_than_there_is_is_ENOMEM_and_no_set_up)
{
	unsigned long long charged = read_counters().charged;
	int fd = open(DEVICE, O_RDWR | O_CLOEXEC);

	EXPECT_EQ(-ENOMEM, try_map(fd, RW, MAP_SHARED, 0, 1UL << 42));
	EXPECT_EQ(0, fdinfo(fd, "evpl-buffer-size"));
	EXPECT_EQ(0, fdinfo(fd, "evpl-slabs"));
	EXPECT_EQ(charged, read_counters().charged);
	EXPECT_EQ(0, try_map(fd, RW, MAP_SHARED, 0, PAGE));
	close(fd);
}

TEST_F(window, opens_with_any_flags)
{
	static const int flags[] = {
		O_CREAT, O_SYNC, O_DSYNC, O_NONBLOCK, O_TRUNC, O_APPEND,
		O_DIRECT, O_NOATIME, O_CREAT | O_TRUNC | O_SYNC | O_NONBLOCK,
	};

	for (size_t i = 0; i < ARRAY_SIZE(flags); i++) {
		int fd = open(DEVICE, O_RDWR | O_CLOEXEC | flags[i], 0600);

		ASSERT_GE(fd, 0);
		EXPECT_EQ(0, try_map(fd, RW, MAP_SHARED, 0, PAGE));
		EXPECT_EQ(SLAB_2M, fdinfo(fd, "evpl-bytes"));
		close(fd);
	}
}

TEST_F(window, opened_read_only_maps_read_only)
{
	int fd = open(DEVICE, O_RDONLY | O_CLOEXEC);
	char *memory;

	ASSERT_GE(fd, 0);
	EXPECT_EQ(-EACCES, try_map(fd, RW, MAP_SHARED, 0, PAGE));
	EXPECT_EQ(0, fdinfo(fd, "evpl-slabs"));
	memory = mmap(NULL, SLAB_2M, PROT_READ, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, memory);
	EXPECT_TRUE(is_filled_with(memory, 0, SLAB_2M));
	EXPECT_EQ(SIGSEGV, touch_write(memory));
	EXPECT_EQ(-EACCES, RESULT(mprotect(memory, SLAB_2M, RW)));
	munmap(memory, SLAB_2M);
	close(fd);

	fd = open(DEVICE, O_WRONLY | O_CLOEXEC);
	EXPECT_EQ(-EACCES, try_map(fd, RW, MAP_SHARED, 0, PAGE));
	close(fd);
}

TEST_F(window, seeking_tells_the_end_of_the_last_slab)
{
	uint64_t a, b, c;

	EXPECT_EQ(0, lseek(self->fd, 0, SEEK_END));
	ASSERT_EQ(0, evpl_slab_alloc(self->fd, 2 * MIB, &a));
	ASSERT_EQ(0, evpl_slab_alloc(self->fd, 4 * MIB, &b));
	ASSERT_EQ(0, evpl_slab_alloc(self->fd, 2 * MIB, &c));
	EXPECT_EQ(8 * MIB, lseek(self->fd, 0, SEEK_END));
	EXPECT_EQ(PAGE, lseek(self->fd, PAGE, SEEK_SET));
	EXPECT_EQ(PAGE + 1, lseek(self->fd, 1, SEEK_CUR));
	EXPECT_EQ(-EINVAL, RESULT(lseek(self->fd, -1, SEEK_SET)));
	ASSERT_EQ(0, evpl_slab_free(self->fd, a));
	EXPECT_EQ(8 * MIB, lseek(self->fd, 0, SEEK_END));
	ASSERT_EQ(0, evpl_slab_free(self->fd, c));
	EXPECT_EQ(6 * MIB, lseek(self->fd, 0, SEEK_END));
	ASSERT_EQ(0, evpl_slab_free(self->fd, b));
	EXPECT_EQ(0, lseek(self->fd, 0, SEEK_END));
}

TEST_F(window, what_a_file_can_do_and_this_cannot_is_answered_at_once)
{
	struct pollfd poll_fd = { .fd = self->fd, .events = POLLIN | POLLOUT };
	char byte = 0;

	/* Nothing has been given back or revoked. */
	EXPECT_EQ(0, poll(&poll_fd, 1, 0));
	EXPECT_EQ(-EINVAL, RESULT(read(self->fd, &byte, 1)));
	EXPECT_EQ(-EINVAL, RESULT(write(self->fd, &byte, 1)));
	EXPECT_EQ(-EINVAL, RESULT(pread(self->fd, &byte, 1, 0)));
	EXPECT_EQ(-EINVAL, RESULT(ftruncate(self->fd, PAGE)));
	EXPECT_EQ(-ENODEV, RESULT(fallocate(self->fd, 0, 0, PAGE)));
}

TEST_F(window, is_always_in_sync)
{
	const struct evpl_setup *setup = &self->setup;
	const uint64_t offsets[] = {
		setup->out_refs_offset, setup->out_guest_offset, setup->out_guest_io_offset,
	};
	uint64_t offset;
	char *memory;

	ASSERT_EQ(0, evpl_slab_alloc(self->fd, SLAB_2M, &offset));
	memory = evpl_map(self->fd, SLAB_2M, offset);
	ASSERT_NE(MAP_FAILED, memory);
	memset(memory, 5, SLAB_2M);
	EXPECT_EQ(0, RESULT(msync(memory, SLAB_2M, MS_SYNC)));
	EXPECT_EQ(0, RESULT(msync(memory + PAGE, PAGE, MS_SYNC | MS_INVALIDATE)));
	EXPECT_EQ(0, RESULT(msync(memory, SLAB_2M, MS_ASYNC)));
	EXPECT_EQ(0, RESULT(fsync(self->fd)));
	EXPECT_EQ(0, RESULT(fdatasync(self->fd)));
	EXPECT_TRUE(is_filled_with(memory, 5, SLAB_2M));
	munmap(memory, SLAB_2M);

	for (size_t i = 0; i < ARRAY_SIZE(offsets); i++) {
		memory = evpl_map(self->fd, PAGE, offsets[i]);
		ASSERT_NE(MAP_FAILED, memory);
		EXPECT_EQ(0, RESULT(msync(memory, PAGE, MS_SYNC)));
		munmap(memory, PAGE);
	}
}

TEST_F(window, memory_outlives_the_descriptor)
{
	int fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	char *memory = evpl_map(fd, 4 * MIB, 0);

	ASSERT_NE(MAP_FAILED, memory);
	close(fd);
	EXPECT_EQ(self->before.clients + 2, read_counters().clients);
	memset(memory, 7, 4 * MIB);

	/* The memory also stays when a part is unmapped, until the last page is unmapped. */
	munmap(memory, 4 * MIB - PAGE);
	EXPECT_EQ(7, memory[4 * MIB - 1]);
	EXPECT_EQ(self->before.clients + 2, read_counters().clients);
	munmap(memory + 4 * MIB - PAGE, PAGE);
	EXPECT_EQ(self->before.clients + 1, read_counters().clients);
}

TEST_F(window, partial_munmap_keeps_the_rest)
{
	uint64_t offset;
	char *memory;

	ASSERT_EQ(0, evpl_slab_alloc(self->fd, 4 * MIB, &offset));
	memory = evpl_map(self->fd, 4 * MIB, offset);
	ASSERT_NE(MAP_FAILED, memory);
	memset(memory, 5, 4 * MIB);
	/* Unmap pages in the middle of 2 MiB that one PMD maps. */
	EXPECT_EQ(0, munmap(memory + 1 * MIB, 2 * PAGE));
	EXPECT_EQ(SIGSEGV, touch_read(memory + 1 * MIB));
	EXPECT_TRUE(is_filled_with(memory, 5, 1 * MIB));
	EXPECT_TRUE(is_filled_with(memory + 1 * MIB + 2 * PAGE, 5, 3 * MIB - 2 * PAGE));
	munmap(memory, 4 * MIB);
	memory = evpl_map(self->fd, 4 * MIB, offset);
	EXPECT_TRUE(is_filled_with(memory, 5, 4 * MIB));
	munmap(memory, 4 * MIB);
}

TEST_F(window, mprotect_of_a_part_works_and_to_executable_is_EACCES)
{
	uint64_t offset;
	char *memory;

	ASSERT_EQ(0, evpl_slab_alloc(self->fd, 4 * MIB, &offset));
	memory = evpl_map(self->fd, 4 * MIB, offset);
	ASSERT_NE(MAP_FAILED, memory);
	memset(memory, 5, 4 * MIB);
	EXPECT_EQ(-EACCES, RESULT(mprotect(memory, PAGE, RW | PROT_EXEC)));
	EXPECT_EQ(-EACCES, RESULT(mprotect(memory, PAGE, PROT_EXEC)));
	EXPECT_EQ(0, mprotect(memory + PAGE, PAGE, PROT_READ));
	EXPECT_EQ(0, mprotect(memory + SLAB_2M, SLAB_2M, PROT_READ));
	EXPECT_EQ(0, touch_write(memory));
	EXPECT_EQ(SIGSEGV, touch_write(memory + PAGE));
	EXPECT_EQ(SIGSEGV, touch_write(memory + SLAB_2M));
	EXPECT_EQ(0, mprotect(memory, 4 * MIB, PROT_NONE));
	EXPECT_EQ(SIGSEGV, touch_read(memory));
	EXPECT_EQ(0, mprotect(memory, 4 * MIB, RW));
	EXPECT_EQ(0, touch_write(memory + PAGE));
	EXPECT_TRUE(is_filled_with(memory, 5, 4 * MIB));
	munmap(memory, 4 * MIB);
}

TEST_F(window, mremap_moves_and_shrinks_and_does_not_grow)
{
	uint64_t offset;
	char *memory, *place, *moved;

	ASSERT_EQ(0, evpl_slab_alloc(self->fd, 8 * MIB, &offset));
	memory = evpl_map(self->fd, 4 * MIB, offset);
	ASSERT_NE(MAP_FAILED, memory);
	memset(memory, 5, 4 * MIB);
	EXPECT_EQ(MAP_FAILED, mremap(memory, 4 * MIB, 8 * MIB, MREMAP_MAYMOVE));
	EXPECT_EQ(EFAULT, errno);

	place = mmap(NULL, 8 * MIB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	moved = mremap(memory, 4 * MIB, 4 * MIB, MREMAP_MAYMOVE | MREMAP_FIXED,
		       place + PAGE);
	ASSERT_EQ(place + PAGE, moved);
	EXPECT_EQ(SIGSEGV, touch_read(memory));
	EXPECT_TRUE(is_filled_with(moved, 5, 4 * MIB));
	ASSERT_EQ(moved, mremap(moved, 4 * MIB, PAGE, 0));
	EXPECT_EQ(SIGSEGV, touch_read(moved + PAGE));
	EXPECT_EQ(5, moved[0]);

	/* When the slab is freed, a moved mapping loses it like any other. */
	EXPECT_EQ(0, evpl_slab_free(self->fd, offset));
	EXPECT_EQ(SIGBUS, touch_read(moved));
	munmap(place, 8 * MIB);
}

TEST_F(window, madvise_takes_no_memory_away)
{
	const struct {
		int advice;
		int result;
	} tries[] = {
		{ MADV_DONTNEED, 0 },
		{ MADV_WILLNEED, 0 },
		{ MADV_RANDOM, 0 },
		{ MADV_PAGEOUT, 0 },
		{ MADV_COLD, 0 },
		{ MADV_HUGEPAGE, has_huge() ? 0 : -EINVAL },
		{ MADV_NOHUGEPAGE, has_huge() ? 0 : -EINVAL },
		{ MADV_DONTFORK, 0 },
		{ MADV_POPULATE_WRITE, 0 },
		{ MADV_FREE, -EINVAL },
		{ MADV_REMOVE, -ENODEV },
		{ MADV_DODUMP, -EINVAL },
		/* Not every kernel merges pages. */
		{ MADV_MERGEABLE, access("/sys/kernel/mm/ksm", F_OK) ? -EINVAL : 0 },
	};
	uint64_t offset;
	char *memory;

	ASSERT_EQ(0, evpl_slab_alloc(self->fd, 4 * MIB, &offset));
	memory = evpl_map(self->fd, 4 * MIB, offset);
	ASSERT_NE(MAP_FAILED, memory);
	memset(memory, 5, 4 * MIB);
	for (size_t i = 0; i < ARRAY_SIZE(tries); i++) {
		EXPECT_EQ(tries[i].result,
			  RESULT(madvise(memory + 1 * MIB, 2 * MIB,
					 tries[i].advice))) {
			TH_LOG("advice %d", tries[i].advice);
		}
		EXPECT_TRUE(is_filled_with(memory, 5, 4 * MIB));
	}
	EXPECT_EQ(4 * MIB, fdinfo(self->fd, "evpl-bytes"));
	munmap(memory, 4 * MIB);
}

TEST_F(window, page_with_a_memory_error_raises_SIGBUS_in_every_mapping)
{
	uint64_t offset;
	char *a, *b;

	ASSERT_EQ(0, evpl_slab_alloc(self->fd, SLAB_2M, &offset));
	a = evpl_map(self->fd, SLAB_2M, offset);
	b = evpl_map(self->fd, SLAB_2M, offset);
	ASSERT_NE(MAP_FAILED, a);
	ASSERT_NE(MAP_FAILED, b);
	memset(a, 5, SLAB_2M);
	if (strike(a + 2 * PAGE) == -EINVAL)
		SKIP(return, "the kernel has no MADV_HWPOISON");
	EXPECT_EQ(SIGBUS, touch_read(b + 2 * PAGE));
	EXPECT_EQ(0, touch_read(b));
	EXPECT_EQ(0, evpl_slab_free(self->fd, offset));
	EXPECT_EQ(SIGBUS, touch_read(b));

	/* No slab gets the page again. */
	for (int i = 0; i < 50; i++) {
		ASSERT_EQ(0, evpl_slab_alloc(self->fd, SLAB_2M, &offset));
		EXPECT_EQ(0, touch_write(b + 2 * PAGE));
		EXPECT_EQ(0, evpl_slab_free(self->fd, offset));
	}
	munmap(a, SLAB_2M);
	munmap(b, SLAB_2M);
}

TEST_F(window, page_that_was_taken_offline_raises_SIGBUS_and_its_neighbours_work)
{
	const size_t bad = 7 * PAGE;
	uint64_t offset;
	char *memory, *part;
	bool offline;

	ASSERT_EQ(0, evpl_slab_alloc(self->fd, SLAB_2M, &offset));
	memory = evpl_map(self->fd, SLAB_2M, offset);
	ASSERT_NE(MAP_FAILED, memory);
	memset(memory, 5, SLAB_2M);
	offline = take_offline(memory + bad);
	munmap(memory, SLAB_2M);
	if (!offline)
		SKIP(return, "the kernel takes no page offline");

	/* A fault of another page comes first, which must not map the bad page around it. */
	memory = evpl_map(self->fd, SLAB_2M, offset);
	ASSERT_NE(MAP_FAILED, memory);
	EXPECT_EQ(0, touch_write(memory + SLAB_2M - 1));
	EXPECT_EQ(SIGBUS, touch_read(memory + bad));
	EXPECT_EQ(SIGBUS, touch_write(memory + bad + PAGE - 1));
	EXPECT_TRUE(is_filled_with(memory, 5, bad));
	EXPECT_TRUE(is_filled_with(memory + bad + PAGE, 5, SLAB_2M - bad - PAGE));

	/* The same in a mapping that isn't a multiple of 2 MiB long. */
	part = evpl_map(self->fd, 16 * PAGE, offset);
	ASSERT_NE(MAP_FAILED, part);
	EXPECT_EQ(0, touch_write(part + bad + PAGE));
	EXPECT_EQ(SIGBUS, touch_read(part + bad));
	munmap(part, 16 * PAGE);
	munmap(memory, SLAB_2M);
	EXPECT_EQ(0, evpl_slab_free(self->fd, offset));
}

TEST_F(window, entries_with_a_memory_error_are_in_use_for_good)
{
	struct evpl_entry *entries;
	uint64_t offset;

	ASSERT_EQ(0, evpl_slab_alloc(self->fd, SLAB_2M, &offset));
	entries = evpl_map(self->fd, PAGE, self->setup.out_refs_offset);
	ASSERT_NE(MAP_FAILED, entries);
	EXPECT_EQ(0, entries[0].word);
	/* The kernel can't replace this page; it only marks it. */
	if (strike(entries) == -EINVAL)
		SKIP(return, "the kernel has no MADV_HWPOISON");
	EXPECT_EQ(2, fdinfo(self->fd, "evpl-buffers-in-use"));
	EXPECT_EQ(-EBUSY, evpl_slab_free(self->fd, offset));
	munmap(entries, PAGE);
	entries = evpl_map(self->fd, PAGE, self->setup.out_refs_offset);
	ASSERT_NE(MAP_FAILED, entries);
	EXPECT_EQ(SIGBUS, touch_read((char *)entries));
	munmap(entries, PAGE);
}

TEST_F(window, futex_is_the_same_in_every_mapping)
{
	const size_t at = 7 * PAGE + 64;
	struct sleeper sleeper;
	uint64_t offset;
	char *a, *b, *other;
	int fd = open(DEVICE, O_RDWR | O_CLOEXEC);

	ASSERT_EQ(0, evpl_slab_alloc(self->fd, 2 * SLAB_2M, &offset));
	a = evpl_map(self->fd, 2 * SLAB_2M, offset);
	b = evpl_map(self->fd, 2 * SLAB_2M, offset);
	other = evpl_map(fd, 2 * SLAB_2M, 0);
	ASSERT_NE(MAP_FAILED, a);
	ASSERT_NE(MAP_FAILED, b);
	ASSERT_NE(MAP_FAILED, other);
	for (int i = 0; i < 2; i++, a += SLAB_2M, b += SLAB_2M) {
		EXPECT_EQ(-1, futex((void *)(a + at), FUTEX_WAIT, 1));
		EXPECT_EQ(EAGAIN, errno);
		ASSERT_TRUE(begin_sleep(&sleeper, (void *)(a + at)));
		/* No other word wakes the sleeper, nor the same word of another client. */
		EXPECT_EQ(0, futex((void *)(b + at + 4), FUTEX_WAKE, 1));
		EXPECT_EQ(0, futex((void *)(b + at + PAGE), FUTEX_WAKE, 1));
		EXPECT_EQ(0, futex((void *)(i ? b + at - SLAB_2M : b + at + SLAB_2M),
				   FUTEX_WAKE, 1));
		EXPECT_EQ(0, futex((void *)(other + i * SLAB_2M + at), FUTEX_WAKE, 1));
		EXPECT_EQ(1, futex((void *)(b + at), FUTEX_WAKE, 1));
		EXPECT_EQ(0, end_sleep(&sleeper));
	}
	munmap(a - 2 * SLAB_2M, 2 * SLAB_2M);
	munmap(b - 2 * SLAB_2M, 2 * SLAB_2M);
	munmap(other, 2 * SLAB_2M);
	close(fd);
}

TEST_F(window, mlock_works)
{
	uint64_t offset;
	char *memory;

	ASSERT_EQ(0, evpl_slab_alloc(self->fd, 4 * MIB, &offset));
	memory = evpl_map(self->fd, 4 * MIB, offset);
	ASSERT_NE(MAP_FAILED, memory);
	EXPECT_EQ(0, mlock(memory, 4 * MIB));
	EXPECT_EQ(4 * KIB, smaps(memory, "Rss:"));
	EXPECT_EQ(0, munlock(memory, 4 * MIB));
	munmap(memory, 4 * MIB);
}

TEST_F(window, is_left_out_of_a_core_dump)
{
	char line[PAGE], flags[256] = "";
	uint64_t offset;
	char *memory;
	bool inside = false;
	FILE *file;

	ASSERT_EQ(0, evpl_slab_alloc(self->fd, SLAB_2M, &offset));
	memory = evpl_map(self->fd, SLAB_2M, offset);
	ASSERT_NE(MAP_FAILED, memory);
	file = fopen("/proc/self/smaps", "re");
	while (fgets(line, sizeof(line), file)) {
		unsigned long start, end;

		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			inside = start == (unsigned long)memory;
		else if (inside && !strncmp(line, "VmFlags:", 8))
			snprintf(flags, sizeof(flags), "%.200s", line);
	}
	fclose(file);
	EXPECT_NE(NULL, strstr(flags, " dd"));
	EXPECT_NE(NULL, strstr(flags, " de"));
	munmap(memory, SLAB_2M);
}

/* Map pages of a guest window until that fails. Return how many were mapped. */
static int fill_up(int fd, uint64_t offset, char *pages[], int *error)
{
	for (int i = 0; i <= EVPL_GUEST_MAPPINGS_MAX; i++) {
		pages[i] = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, offset);
		if (pages[i] == MAP_FAILED) {
			*error = errno;
			return i;
		}
	}
	return EVPL_GUEST_MAPPINGS_MAX + 1;
}

TEST_F(window, mappings_of_guest_windows_are_bounded)
{
	const struct evpl_setup *setup = &self->setup;
	const uint64_t offsets[] = {
		setup->out_guest_offset, setup->out_guest_ro_offset,
		setup->out_guest_io_offset, setup->out_guest_io_ro_offset,
	};
	const int most = EVPL_GUEST_MAPPINGS_MAX;
	static char *pages[EVPL_GUEST_MAPPINGS_MAX + 1];
	uint64_t offset;
	char *memory;

	ASSERT_EQ(0, evpl_slab_alloc(self->fd, SLAB_2M, &offset));
	for (size_t i = 0; i < ARRAY_SIZE(offsets); i++) {
		int error = 0, nr = fill_up(self->fd, offsets[i], pages, &error);

		EXPECT_EQ(most, nr);
		EXPECT_EQ(ENOMEM, error);
		for (size_t j = 0; j < ARRAY_SIZE(offsets); j++)
			EXPECT_EQ(-ENOMEM, try_map(self->fd, PROT_READ, MAP_SHARED,
						   offsets[j], PAGE));
		/* The own window and the refs window still can be mapped. */
		memory = evpl_map(self->fd, SLAB_2M, offset);
		ASSERT_NE(MAP_FAILED, memory);
		EXPECT_EQ(0, mprotect(memory + PAGE, PAGE, PROT_READ));
		EXPECT_EQ(0, munmap(memory, SLAB_2M));
		EXPECT_EQ(0, try_map(self->fd, RW, MAP_SHARED, setup->out_refs_offset, PAGE));
		/* As many can be mapped again as were unmapped. */
		EXPECT_EQ(0, munmap(pages[0], PAGE));
		EXPECT_EQ(0, munmap(pages[1], PAGE));
		pages[0] = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, self->fd, offsets[i]);
		pages[1] = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, self->fd, offsets[i]);
		EXPECT_NE(MAP_FAILED, pages[0]);
		EXPECT_NE(MAP_FAILED, pages[1]);
		EXPECT_EQ(-ENOMEM, try_map(self->fd, PROT_READ, MAP_SHARED, offsets[i], PAGE));
		for (int j = 0; j < nr; j++)
			EXPECT_EQ(0, munmap(pages[j], PAGE));
	}
}

/* Every second page of a mapping becomes a mapping of its own, up to the bound. */
TEST_F(window, split_of_a_guest_window_past_the_bound_is_ENOMEM)
{
	const uint64_t offset = self->setup.out_guest_offset;
	const int splits = EVPL_GUEST_MAPPINGS_MAX / 2 - 1;
	const size_t length = (2 * splits + 8) * PAGE;
	char *memory = evpl_map(self->fd, length, offset), *moved, *page;
	char *place = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	ASSERT_NE(MAP_FAILED, memory);
	ASSERT_NE(MAP_FAILED, place);
	for (int i = 0; i < splits; i++)
		ASSERT_EQ(0, mprotect(memory + (2 * i + 1) * PAGE, PAGE, PROT_READ));
	page = evpl_map(self->fd, PAGE, offset);
	ASSERT_NE(MAP_FAILED, page);
	EXPECT_EQ(-ENOMEM, try_map(self->fd, RW, MAP_SHARED, offset, PAGE));

	EXPECT_EQ(-ENOMEM, RESULT(mprotect(memory + length - 2 * PAGE, PAGE, PROT_READ)));
	EXPECT_EQ(-ENOMEM, RESULT(munmap(memory + length - 2 * PAGE, PAGE)));
	/* madvise(2) makes EAGAIN of ENOMEM. */
	EXPECT_EQ(-EAGAIN, RESULT(madvise(memory + length - 2 * PAGE, PAGE, MADV_RANDOM)));
	EXPECT_EQ(MAP_FAILED, mremap(memory + length - 2 * PAGE, PAGE, PAGE,
				     MREMAP_MAYMOVE | MREMAP_FIXED, place));
	EXPECT_EQ(ENOMEM, errno);
	/* The page is still mapped, and writable: no lease backs it, so a write raises SIGBUS. */
	EXPECT_EQ(SIGBUS, touch_write(memory + length - 2 * PAGE));

	/* A whole mapping may change its protection, and move. */
	EXPECT_EQ(0, mprotect(memory + PAGE, PAGE, PROT_NONE));
	place = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	moved = mremap(memory + PAGE, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, place);
	EXPECT_EQ(place, moved);
	EXPECT_EQ(-ENOMEM, try_map(self->fd, RW, MAP_SHARED, offset, PAGE));

	EXPECT_EQ(0, munmap(moved, PAGE));
	EXPECT_EQ(0, RESULT(munmap(memory + length - PAGE, PAGE)));
	EXPECT_EQ(0, try_map(self->fd, RW, MAP_SHARED, offset, PAGE));
	EXPECT_EQ(0, munmap(memory, length));
	munmap(page, PAGE);
}

TEST_F(window, fork_takes_guest_windows_past_the_bound_and_then_none_is_mapped)
{
	static char *pages[EVPL_GUEST_MAPPINGS_MAX + 1];
	const uint64_t offset = self->setup.out_guest_io_ro_offset;
	int error = 0, nr = fill_up(self->fd, offset, pages, &error);
	int looked[2], go[2];
	char byte;
	pid_t child;

	ASSERT_EQ(EVPL_GUEST_MAPPINGS_MAX, nr);
	if (madvise(pages[0], PAGE, MADV_DOFORK)) {
		for (int i = 0; i < nr; i++)
			munmap(pages[i], PAGE);
		SKIP(return, "the kernel lets no child inherit a guest window");
	}
	ASSERT_EQ(0, madvise(pages[1], PAGE, MADV_DOFORK));
	ASSERT_EQ(0, pipe(looked));
	ASSERT_EQ(0, pipe(go));
	child = fork_child();
	if (!child) {
		if (try_map(self->fd, PROT_READ, MAP_SHARED, offset, PAGE) != -ENOMEM)
			_exit(1);
		if (touch_read(pages[1]) != SIGBUS || touch_read(pages[2]) != SIGSEGV)
			_exit(2);
		if (write(looked[1], "", 1) != 1)
			_exit(3);
		_exit(read(go[0], &byte, 1) == 1 ? 0 : 4);
	}
	close(looked[1]);
	ASSERT_EQ(1, read(looked[0], &byte, 1));
	/* fork() made two more than the bound: two must go, and one more, to make room for one. */
	EXPECT_EQ(0, munmap(pages[2], PAGE));
	EXPECT_EQ(-ENOMEM, try_map(self->fd, PROT_READ, MAP_SHARED, offset, PAGE));
	EXPECT_EQ(0, munmap(pages[3], PAGE));
	EXPECT_EQ(-ENOMEM, try_map(self->fd, PROT_READ, MAP_SHARED, offset, PAGE));
	EXPECT_EQ(0, munmap(pages[4], PAGE));
	EXPECT_EQ(0, try_map(self->fd, PROT_READ, MAP_SHARED, offset, PAGE));
	ASSERT_EQ(1, write(go[1], "", 1));
	EXPECT_EQ(0, reap(child));
	for (int i = 0; i < nr; i++)
		if (i < 2 || i > 4)
			munmap(pages[i], PAGE);
	EXPECT_EQ(nr, fill_up(self->fd, offset, pages, &error));
	for (int i = 0; i < nr; i++)
		munmap(pages[i], PAGE);
	close(looked[0]);
	close(go[0]);
	close(go[1]);
}

TEST_HARNESS_MAIN
