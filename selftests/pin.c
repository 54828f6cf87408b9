// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memory can be pinned. When a slab is freed while a pipe or a device holds its pages,
 * these stay charged, and no other client sees them, until the holder lets them go.
 */
#include <arpa/inet.h>
#include <linux/errqueue.h>
#include <linux/userfaultfd.h>
#include <net/if.h>
#include <sched.h>
#include <sys/uio.h>

#include "evpl_test.h"
#include "loopback.h"

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

/* Put a page into the pipe, free its slab, and see that the page is kept. */
static void detach(struct __test_metadata *_metadata, struct _test_data_pin *self)
{
	memset(self->memory, 0x5a, 4 * MIB);
	ASSERT_EQ(PAGE, into_pipe(self->pipe[1], self->memory + 2 * PAGE, PAGE));
	EXPECT_EQ(0, evpl_slab_free(self->fd, self->offset));
	EXPECT_EQ(SIGBUS, touch_read(self->memory + 2 * PAGE));
	EXPECT_EQ(0, fdinfo(self->fd, "evpl-bytes"));
	EXPECT_LT(0, read_counters().detached);
	EXPECT_GE(SLAB_2M, read_counters().detached);
}

TEST_F(pin, slab_freed_while_a_pipe_holds_a_page_stays_charged)
{
	char page[PAGE];
	struct counters now;

	detach(_metadata, self);
	now = read_counters();
	EXPECT_EQ(self->before.charged + now.detached + HEADER_PAGE + REFS_PAGE,
		  now.charged);

	/* No other slab gets the page meanwhile. */
	for (int i = 0; i < 100; i++) {
		uint64_t offset;
		char *memory;

		ASSERT_EQ(0, evpl_slab_alloc(self->fd, SLAB_2M, &offset));
		memory = evpl_map(self->fd, SLAB_2M, offset);
		memset(memory, 0xff, SLAB_2M);
		munmap(memory, SLAB_2M);
		ASSERT_EQ(0, evpl_slab_free(self->fd, offset));
	}
	ASSERT_EQ(PAGE, read(self->pipe[0], page, PAGE));
	EXPECT_TRUE(is_filled_with(page, 0x5a, PAGE));
}

TEST_F(pin, what_was_let_go_of_can_be_had_again_at_once)
{
	struct counters now;
	char page[PAGE];
	uint64_t offset;

	detach(_metadata, self);
	/* The slab would fit into the cap if the detached memory weren't charged. */
	now = read_counters();
	ASSERT_EQ(0, write_number(MAX_BYTES, now.charged + SLAB_2M - now.detached));
	EXPECT_EQ(-ENOMEM, evpl_slab_alloc(self->fd, SLAB_2M, &offset));
	ASSERT_EQ(PAGE, read(self->pipe[0], page, PAGE));
	EXPECT_EQ(0, evpl_slab_alloc(self->fd, SLAB_2M, &offset));
	EXPECT_EQ(0, read_counters().detached);
}

TEST_F(pin, client_that_goes_while_a_pipe_holds_a_page_leaves_the_page_charged)
{
	char page[PAGE];
	struct counters now;

	memset(self->memory, 0x5a, 4 * MIB);
	ASSERT_EQ(PAGE, into_pipe(self->pipe[1], self->memory, PAGE));
	munmap(self->memory, 4 * MIB);
	close(self->fd);
	self->fd = -1;
	now = read_counters();
	EXPECT_EQ(self->before.clients, now.clients);
	EXPECT_EQ(self->before.slabs, now.slabs);
	EXPECT_LT(0, now.detached);
	EXPECT_EQ(self->before.charged + now.detached, now.charged);
	ASSERT_EQ(PAGE, read(self->pipe[0], page, PAGE));
	EXPECT_TRUE(is_filled_with(page, 0x5a, PAGE));
	EXPECT_TRUE(counters_return_to(self->before));
}

TEST_F(pin, page_of_the_refs_window_that_a_pipe_holds_stays_charged)
{
	struct evpl_entry *entries = evpl_map(self->fd, PAGE,
					      self->setup.out_refs_offset);
	struct counters now;

	ASSERT_NE(MAP_FAILED, entries);
	ASSERT_EQ(64, into_pipe(self->pipe[1], entries, 64));
	munmap(entries, PAGE);
	munmap(self->memory, 4 * MIB);
	close(self->fd);
	self->fd = -1;
	now = read_counters();
	EXPECT_EQ(PAGE, now.detached);
	EXPECT_EQ(self->before.charged + PAGE, now.charged);
	close(self->pipe[0]);
	close(self->pipe[1]);
	EXPECT_TRUE(counters_return_to(self->before));
	ASSERT_EQ(0, pipe2(self->pipe, O_CLOEXEC));
}

/* Fill memory. No byte equals the one a page or a MiB further on, or one of another @which. */
static void fill(char *memory, size_t length, int which)
{
	for (size_t i = 0; i < length; i++)
		memory[i] = i + i / PAGE * 3 + i / MIB * 5 + which;
}

TEST_F(pin, direct_writes_and_reads_of_a_disk_move_the_bytes)
{
	const char *disk = getenv("EVPL_TEST_DISK");
	struct stat stat_of_disk;
	char *ordinary;
	int file;

	if (!disk || stat(disk, &stat_of_disk) || !S_ISBLK(stat_of_disk.st_mode))
		SKIP(return, "no disk that may be overwritten in EVPL_TEST_DISK");
	file = open(disk, O_RDWR | O_DIRECT | O_CLOEXEC);
	ASSERT_GE(file, 0);
	ASSERT_EQ(0, posix_memalign((void **)&ordinary, PAGE, 4 * MIB));

	/* In each direction, compare with ordinary memory. */
	fill(self->memory, 4 * MIB, 1);
	ASSERT_EQ(4 * MIB, pwrite(file, self->memory, 4 * MIB, 0));
	ASSERT_EQ(4 * MIB, pread(file, ordinary, 4 * MIB, 0));
	EXPECT_EQ(0, memcmp(self->memory, ordinary, 4 * MIB));
	fill(ordinary, 4 * MIB, 2);
	ASSERT_EQ(4 * MIB, pwrite(file, ordinary, 4 * MIB, 0));
	ASSERT_EQ(4 * MIB, pread(file, self->memory, 4 * MIB, 0));
	EXPECT_EQ(0, memcmp(self->memory, ordinary, 4 * MIB));
	free(ordinary);
	close(file);
}

TEST_F(pin, vmsplice_moves_the_bytes_out_by_reference_and_in)
{
	const size_t length = 5 * PAGE - 100;
	char *bytes = malloc(length), *memory = self->memory + 50;

	/* The pipe holds the page itself: a write after vmsplice(2) is seen by the read. */
	fill(memory, length, 1);
	ASSERT_EQ(length, into_pipe(self->pipe[1], memory, length));
	fill(memory, length, 2);
	ASSERT_EQ(length, read(self->pipe[0], bytes, length));
	EXPECT_EQ(0, memcmp(memory, bytes, length));

	fill(bytes, length, 3);
	ASSERT_EQ(length, write(self->pipe[1], bytes, length));
	ASSERT_EQ(length, from_pipe(self->pipe[0], memory, length));
	EXPECT_EQ(0, memcmp(memory, bytes, length));
	free(bytes);
}

/* Make a TCP connection over the loopback device of a network namespace of its own. */
static bool connect_zerocopy(int sockets[2])
{
	struct ifreq up = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	int fd;

	unshare(CLONE_NEWNET);
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &up))
		return false;
	close(fd);
	return connect_pair(sockets) &&
	       !setsockopt(sockets[0], SOL_SOCKET, SO_ZEROCOPY, &(int){ 1 }, sizeof(int));
}

/* Wait until the kernel reports that a zero-copy send is done. Return its number, or -errno. */
static int done_with(int socket)
{
	struct sock_extended_err *error;
	char control[256];
	struct msghdr message = {
		.msg_control = control,
		.msg_controllen = sizeof(control),
	};

	while (recvmsg(socket, &message, MSG_ERRQUEUE | MSG_DONTWAIT) < 0) {
		if (errno != EAGAIN)
			return -errno;
		usleep(1000);
	}
	error = (void *)CMSG_DATA(CMSG_FIRSTHDR(&message));
	if (error->ee_origin != SO_EE_ORIGIN_ZEROCOPY || error->ee_errno ||
	    error->ee_info != error->ee_data)
		return -EPROTO;
	return error->ee_info;
}

TEST_F(pin, socket_sends_without_a_copy_and_says_when_it_is_done)
{
	char page[PAGE];
	int sockets[2];

	if (!connect_zerocopy(sockets))
		SKIP(return, "no TCP, or no zero-copy");
	for (int i = 0; i < 3; i++) {
		memset(self->memory + i * PAGE, 'a' + i, PAGE);
		ASSERT_EQ(PAGE, send(sockets[0], self->memory + i * PAGE, PAGE, MSG_ZEROCOPY));
		ASSERT_EQ(PAGE, recv(sockets[1], page, PAGE, MSG_WAITALL));
		EXPECT_TRUE(is_filled_with(page, 'a' + i, PAGE));
		EXPECT_EQ(i, done_with(sockets[0]));
	}
	close(sockets[0]);
	close(sockets[1]);
}

TEST_F(pin, slab_freed_while_a_socket_sends_it_is_sent_whole_and_stays_charged)
{
	ssize_t sent, got = 0;
	struct counters now;
	int sockets[2];
	char *bytes;

	if (!connect_zerocopy(sockets))
		SKIP(return, "no TCP, or no zero-copy");
	bytes = malloc(4 * MIB);
	/* Send more than the receiver's socket takes before it is read. */
	setsockopt(sockets[0], SOL_SOCKET, SO_SNDBUF, &(int){ 2 * MIB }, sizeof(int));
	setsockopt(sockets[1], SOL_SOCKET, SO_RCVBUF, &(int){ PAGE }, sizeof(int));
	memset(self->memory, 0x5a, 4 * MIB);
	sent = send(sockets[0], self->memory, 4 * MIB, MSG_ZEROCOPY | MSG_DONTWAIT);
	ASSERT_LT(64 * KIB, sent);
	EXPECT_EQ(0, evpl_slab_free(self->fd, self->offset));
	now = read_counters();
	EXPECT_LT(0, now.detached);
	EXPECT_EQ(self->before.charged + now.detached + HEADER_PAGE + REFS_PAGE,
		  now.charged);
	EXPECT_EQ(SIGBUS, touch_read(self->memory));

	/* Through a window of one page, the rest would take minutes on a slow machine. */
	setsockopt(sockets[1], SOL_SOCKET, SO_RCVBUF, &(int){ 2 * MIB }, sizeof(int));
	while (got < sent) {
		ssize_t n = recv(sockets[1], bytes + got, sent - got, 0);

		ASSERT_LT(0, n);
		got += n;
	}
	EXPECT_TRUE(is_filled_with(bytes, 0x5a, sent));
	EXPECT_EQ(0, done_with(sockets[0]));
	close(sockets[0]);
	close(sockets[1]);
	free(bytes);
}

TEST_F(pin, other_processes_memory_calls_reach_it_and_userfaultfd_refuses_it)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register range = {
		.range = { (uintptr_t)self->memory, 4 * MIB },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	char page[PAGE];
	struct iovec here = { page, sizeof(page) }, there = { self->memory, sizeof(page) };
	int fd;

	memset(self->memory, 0x5a, PAGE);
	EXPECT_EQ(PAGE, process_vm_readv(getpid(), &here, 1, &there, 1, 0));
	EXPECT_TRUE(is_filled_with(page, 0x5a, PAGE));
	memset(page, 0x77, PAGE);
	EXPECT_EQ(PAGE, process_vm_writev(getpid(), &here, 1, &there, 1, 0));
	EXPECT_TRUE(is_filled_with(self->memory, 0x77, PAGE));

	/* The module serves the faults of this memory itself. */
	fd = syscall(SYS_userfaultfd, O_CLOEXEC);
	if (fd < 0)
		return;
	ASSERT_EQ(0, ioctl(fd, UFFDIO_API, &api));
	EXPECT_EQ(-EINVAL, RESULT(ioctl(fd, UFFDIO_REGISTER, &range)));
	close(fd);
}

TEST_HARNESS_MAIN
