// SPDX-License-Identifier: GPL-2.0-only
/*
 * Fragmented memory: a pinned page in nearly every 2 MiB, so that compaction is
 * of no help. Slabs come in smaller folios then, and work the same.
 */
#include <sys/uio.h>

#include "evpl_test.h"

/* Pages that a pipe holds, and pipes that it takes to hold a page in each 2 MiB. */
#define PER_PIPE	16
#define MAX_PIPES	1024

FIXTURE(fragmented)
{
	int fd;
	struct counters before;
	struct evpl_setup setup;
	int pipes[MAX_PIPES][2];
	int nr_pipes;
	char *memory;
	size_t length;
};

static size_t mem_free(void)
{
	return number_in("/proc/meminfo", "MemFree") * KIB;
}

/*
 * Take all memory but a little, page by page: from fresh memory they come in
 * order, so that each 512th page is one of each 2 MiB. Pin those, and give the
 * others of each second run back. Not as huge pages: one of those goes back as a
 * whole or not at all.
 */
FIXTURE_SETUP(fragmented)
{
	self->before = read_counters();
	self->nr_pipes = 0;
	self->length = (mem_free() - 192 * MIB) / SLAB_2M * SLAB_2M;
	ASSERT_GE(MAX_PIPES * PER_PIPE, self->length / SLAB_2M);
	self->memory = mmap(NULL, self->length + SLAB_2M, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	ASSERT_NE(MAP_FAILED, self->memory);
	self->memory += -(uintptr_t)self->memory & (SLAB_2M - 1);
	madvise(self->memory, self->length, MADV_NOHUGEPAGE);

	for (size_t at = 0, n = 0; at < self->length; at += SLAB_2M, n++) {
		struct iovec page = { self->memory + at + SLAB_2M / 2, 4096 };
		int *pipe_fds = self->pipes[n / PER_PIPE];

		for (size_t page_at = 0; page_at < SLAB_2M; page_at += 4096)
			self->memory[at + page_at] = 1;
		if (!(n % PER_PIPE)) {
			ASSERT_EQ(0, pipe2(pipe_fds, O_CLOEXEC | O_NONBLOCK));
			self->nr_pipes++;
		}
		ASSERT_EQ(4096, vmsplice(pipe_fds[1], &page, 1, 0));
	}
	for (size_t at = 0; at < self->length; at += 2 * SLAB_2M)
		munmap(self->memory + at, SLAB_2M);

	self->fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	ASSERT_GE(self->fd, 0);
	ASSERT_EQ(0, evpl_setup(self->fd, 0, &self->setup));
}

FIXTURE_TEARDOWN(fragmented)
{
	close(self->fd);
	for (int i = 0; i < self->nr_pipes; i++) {
		close(self->pipes[i][0]);
		close(self->pipes[i][1]);
	}
	munmap(self->memory, self->length);
	EXPECT_TRUE(counters_return_to(self->before));
}

static long long small_folios(int fd)
{
	long long folios = 0;
	char name[64];

	for (int kib = 16; kib < 2048; kib *= 2) {
		snprintf(name, sizeof(name), "evpl-folios-%dkB", kib);
		if (fdinfo(fd, name) > 0)
			folios += fdinfo(fd, name);
	}
	return folios;
}

TEST_F(fragmented, gives_small_folios_that_work_the_same_and_none_where_2_MiB_are_a_must)
{
	const size_t length = 512 * MIB;
	long long in_small = 0;
	uint64_t offset, again;
	char *memory;

	EXPECT_EQ(-ENOMEM, evpl_slab_alloc_on(self->fd, length, EVPL_NODE_ANY,
					      EVPL_SLAB_HUGE, &offset));
	EXPECT_EQ(0, fdinfo(self->fd, "evpl-slabs"));
	EXPECT_EQ(self->before.charged, read_counters().charged);
	EXPECT_EQ(self->before.slabs, read_counters().slabs);

	ASSERT_EQ(0, evpl_slab_alloc(self->fd, length, &offset));
	TH_LOG("%lld folios of 2 MiB, %lld smaller ones",
	       fdinfo(self->fd, "evpl-folios-2048kB"), small_folios(self->fd));
	ASSERT_LT(0, small_folios(self->fd));
	/* None is smaller than 16 KiB, and together they are the slab. */
	EXPECT_EQ(-1, fdinfo(self->fd, "evpl-folios-4kB"));
	EXPECT_EQ(-1, fdinfo(self->fd, "evpl-folios-8kB"));
	for (int kib = 16; kib <= 2048; kib *= 2) {
		char name[64];

		snprintf(name, sizeof(name), "evpl-folios-%dkB", kib);
		if (fdinfo(self->fd, name) > 0)
			in_small += fdinfo(self->fd, name) * kib * KIB;
	}
	EXPECT_EQ(length, in_small);

	memory = evpl_map(self->fd, length, offset);
	ASSERT_NE(MAP_FAILED, memory);
	EXPECT_TRUE(is_filled_with(memory, 0, length));
	for (size_t at = 0; at < length; at += 4096)
		*(size_t *)(memory + at) = at;
	munmap(memory, length);
	memory = evpl_map(self->fd, length, offset);
	for (size_t at = 0; at < length; at += 4096)
		ASSERT_EQ(at, *(size_t *)(memory + at));
	EXPECT_EQ(length / KIB, smaps(memory, "Rss:"));

	EXPECT_EQ(0, evpl_slab_free(self->fd, offset));
	EXPECT_EQ(SIGBUS, touch_read(memory));
	EXPECT_EQ(0, smaps(memory, "Rss:"));
	ASSERT_EQ(0, evpl_slab_alloc(self->fd, SLAB_2M, &again));
	EXPECT_TRUE(is_filled_with(memory, 0, SLAB_2M));
	munmap(memory, length);
}

TEST_HARNESS_MAIN
