// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memory that something else still holds: it can be pinned, and when it is freed
 * meanwhile it stays charged, unseen by others, until that lets it go.
 */
#include <sys/uio.h>

#include "evpl_test.h"

FIXTURE(pin)
{
	int fd;
	int pipe[2];
	struct counters before;
	struct evpl_setup setup;
	uint64_t offset;
	char *memory;
	unsigned long long max_bytes;
};

FIXTURE_SETUP(pin)
{
	self->before = read_counters();
	self->max_bytes = read_number(MAX_BYTES);
	self->fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	ASSERT_GE(self->fd, 0);
	ASSERT_EQ(0, evpl_setup(self->fd, 0, &self->setup));
	ASSERT_EQ(0, evpl_slab_alloc(self->fd, 4 * MIB, &self->offset));
	self->memory = evpl_map(self->fd, 4 * MIB, self->offset);
	ASSERT_NE(MAP_FAILED, self->memory);
	ASSERT_EQ(0, pipe2(self->pipe, O_CLOEXEC | O_NONBLOCK));
}

FIXTURE_TEARDOWN(pin)
{
	munmap(self->memory, 4 * MIB);
	close(self->pipe[0]);
	close(self->pipe[1]);
	close(self->fd);
	EXPECT_EQ(0, write_number(MAX_BYTES, self->max_bytes));
	EXPECT_TRUE(counters_return_to(self->before));
}

static ssize_t into_pipe(int fd, void *memory, size_t length)
{
	struct iovec iovec = { .iov_base = memory, .iov_len = length };

	return vmsplice(fd, &iovec, 1, 0);
}

/* Put a page into the pipe, free its slab, and see that the page is kept. */
static void detach(struct __test_metadata *_metadata, struct _test_data_pin *self)
{
	memset(self->memory, 0x5a, 4 * MIB);
	ASSERT_EQ(4096, into_pipe(self->pipe[1], self->memory + 8192, 4096));
	EXPECT_EQ(0, evpl_slab_free(self->fd, self->offset));
	EXPECT_EQ(SIGBUS, touch_read(self->memory + 8192));
	EXPECT_EQ(0, fdinfo(self->fd, "evpl-bytes"));
	EXPECT_LT(0, read_counters().detached);
	EXPECT_GE(SLAB_2M, read_counters().detached);
}

TEST_F(pin, slab_freed_while_a_pipe_holds_a_page_stays_charged)
{
	char page[4096];
	struct counters now;

	detach(_metadata, self);
	now = read_counters();
	EXPECT_EQ(self->before.charged + now.detached + 4096, now.charged);

	/* Nobody else gets the page meanwhile. */
	for (int i = 0; i < 100; i++) {
		uint64_t offset;
		char *memory;

		ASSERT_EQ(0, evpl_slab_alloc(self->fd, SLAB_2M, &offset));
		memory = evpl_map(self->fd, SLAB_2M, offset);
		memset(memory, 0xff, SLAB_2M);
		munmap(memory, SLAB_2M);
		ASSERT_EQ(0, evpl_slab_free(self->fd, offset));
	}
	ASSERT_EQ(4096, read(self->pipe[0], page, 4096));
	EXPECT_TRUE(is_filled_with(page, 0x5a, 4096));
}

TEST_F(pin, what_was_let_go_of_can_be_had_again_at_once)
{
	struct counters now;
	char page[4096];
	uint64_t offset;

	detach(_metadata, self);
	/* The slab fits where the detached memory is. */
	now = read_counters();
	ASSERT_EQ(0, write_number(MAX_BYTES, now.charged + SLAB_2M - now.detached));
	EXPECT_EQ(-ENOMEM, evpl_slab_alloc(self->fd, SLAB_2M, &offset));
	ASSERT_EQ(4096, read(self->pipe[0], page, 4096));
	EXPECT_EQ(0, evpl_slab_alloc(self->fd, SLAB_2M, &offset));
	EXPECT_EQ(0, read_counters().detached);
}

TEST_F(pin, client_that_goes_while_a_pipe_holds_a_page_leaves_the_page_charged)
{
	char page[4096];
	struct counters now;

	memset(self->memory, 0x5a, 4 * MIB);
	ASSERT_EQ(4096, into_pipe(self->pipe[1], self->memory, 4096));
	munmap(self->memory, 4 * MIB);
	close(self->fd);
	self->fd = -1;
	now = read_counters();
	EXPECT_EQ(self->before.clients, now.clients);
	EXPECT_EQ(self->before.slabs, now.slabs);
	EXPECT_LT(0, now.detached);
	EXPECT_EQ(self->before.charged + now.detached, now.charged);
	ASSERT_EQ(4096, read(self->pipe[0], page, 4096));
	EXPECT_TRUE(is_filled_with(page, 0x5a, 4096));
	EXPECT_TRUE(counters_return_to(self->before));
}

TEST_F(pin, page_of_the_refs_window_that_a_pipe_holds_stays_charged)
{
	struct evpl_entry *entries = evpl_map(self->fd, 4096,
					      self->setup.out_refs_offset);
	struct counters now;

	ASSERT_NE(MAP_FAILED, entries);
	ASSERT_EQ(64, into_pipe(self->pipe[1], entries, 64));
	munmap(entries, 4096);
	munmap(self->memory, 4 * MIB);
	close(self->fd);
	self->fd = -1;
	now = read_counters();
	EXPECT_EQ(4096, now.detached);
	EXPECT_EQ(self->before.charged + 4096, now.charged);
	close(self->pipe[0]);
	close(self->pipe[1]);
	EXPECT_TRUE(counters_return_to(self->before));
	ASSERT_EQ(0, pipe2(self->pipe, O_CLOEXEC));
}

TEST_F(pin, direct_reads_and_writes_of_a_disk_work)
{
	const char *disk = getenv("EVPL_TEST_DISK");
	int file;

	if (!disk)
		SKIP(return, "no disk that may be overwritten in EVPL_TEST_DISK");
	file = open(disk, O_RDWR | O_DIRECT | O_CLOEXEC);
	ASSERT_GE(file, 0);
	for (size_t i = 0; i < 4 * MIB; i++)
		self->memory[i] = i * 7 + i / 4096;
	ASSERT_EQ(SLAB_2M, pwrite(file, self->memory, SLAB_2M, 0));
	ASSERT_EQ(SLAB_2M, pread(file, self->memory + SLAB_2M, SLAB_2M, 0));
	EXPECT_EQ(0, memcmp(self->memory, self->memory + SLAB_2M, SLAB_2M));
	close(file);
}

TEST_HARNESS_MAIN
