// SPDX-License-Identifier: GPL-2.0-only
/*
 * Registered buffers: a ring takes the client's memory by EVPL_URING_REGISTER, with nothing
 * charged to anybody, and keeps it until it lets go.
 */
#include <sys/resource.h>

#include "loopback.h"
#include "pair.h"
#include "ring.h"
#include "slow.h"

#define SLOTS		4
#define NO_DISK		"no disk in EVPL_TEST_DISK that dm-delay can slow down"

/* Since Linux 6.15. */
#define OP_READV_FIXED	60
#define OP_WRITEV_FIXED	61

FIXTURE(uring)
{
	PAIR;
	struct ring ring;
	int pipe[2], slow[2];
};

FIXTURE_SETUP(uring)
{
	self->slow[0] = self->slow[1] = -1;
	open_pair(_metadata, &self->pair, 0);
	ASSERT_EQ(0, pipe2(self->pipe, O_CLOEXEC));
	ASSERT_TRUE(ring_open(&self->ring));
	ASSERT_EQ(0, ring_table(&self->ring, SLOTS));
}

FIXTURE_TEARDOWN(uring)
{
	ring_close(&self->ring);
	close_slow_disks(self->slow);
	close(self->pipe[0]);
	close(self->pipe[1]);
	close_pair(&self->pair);
	EXPECT_TRUE(counters_return_to(self->before));
}

static int own(struct _test_data_uring *self, unsigned int slot, uint64_t offset, uint32_t length,
	       uint16_t flags)
{
	return ring_take(&self->ring, self->owner.fd, slot, offset, length, flags);
}

static int leased(struct _test_data_uring *self, unsigned int slot,
		  const struct evpl_record *record, uint16_t flags)
{
	return ring_take(&self->ring, self->lessee.fd, slot, record->offset, BUFFER, flags);
}

/* The number of registered buffers that have memory of this client. */
static long long registrations(const struct client *client)
{
	return fdinfo(client->fd, "evpl-registrations");
}

/* Read or write at an offset of a registered buffer. */
static int fixed(struct ring *ring, uint8_t opcode, int fd, unsigned int slot, uint64_t offset,
		 unsigned int length)
{
	return ring_do(ring, (struct io_uring_sqe){
		.opcode = opcode,
		.fd = fd,
		.addr = offset,
		.len = length,
		.buf_index = slot,
	});
}

/* Read bytes into the buffer of a slot, and return what the read returns. */
static int read_into(struct _test_data_uring *self, unsigned int slot, uint64_t offset, char byte,
		     unsigned int length)
{
	char bytes[PAGE], rest[PAGE];
	int ret;

	memset(bytes, byte, length);
	if (write(self->pipe[1], bytes, length) != length)
		return -EIO;
	ret = fixed(&self->ring, IORING_OP_READ_FIXED, self->pipe[0], slot, offset, length);
	if (ret < 0 && read(self->pipe[0], rest, length) != length)
		return -EIO;
	return ret;
}

/* Write from the buffer of a slot. Return whether these bytes come. */
static bool writes(struct _test_data_uring *self, unsigned int slot, uint64_t offset, char byte)
{
	char page[PAGE];

	return fixed(&self->ring, IORING_OP_WRITE_FIXED, self->pipe[1], slot, offset, PAGE) ==
		PAGE && read(self->pipe[0], page, PAGE) == PAGE &&
	       is_filled_with(page, byte, PAGE);
}

TEST_F(uring, kernel_without_the_commands_says_so)
{
	int ret = own(self, 0, 0, PAGE, 0);

	if (ret != -EOPNOTSUPP)
		SKIP(return, "this kernel has them");
	EXPECT_EQ(-EOPNOTSUPP, ring_drop(&self->ring, self->owner.fd, 0));
	EXPECT_EQ(0, registrations(&self->owner));
}

TEST_F(uring, reads_and_writes_move_bytes_at_offsets_of_the_range)
{
	char *memory = self->owner.own + BUFFER;

	if (!rings_can_register())
		SKIP(return, NO_COMMAND);
	memset(self->owner.own, 'x', SLAB);
	ASSERT_EQ(0, own(self, 2, BUFFER, 2 * BUFFER, EVPL_URING_WRITE));
	EXPECT_EQ(1, registrations(&self->owner));
	EXPECT_EQ(self->before.registrations + 1, read_counters().registrations);
	EXPECT_EQ(100, read_into(self, 2, 0, 'a', 100));
	EXPECT_EQ(PAGE, read_into(self, 2, 2 * BUFFER - PAGE, 'b', PAGE));
	EXPECT_TRUE(is_filled_with(memory, 'a', 100));
	EXPECT_TRUE(is_filled_with(memory + 100, 'x', 2 * BUFFER - PAGE - 100));
	EXPECT_TRUE(is_filled_with(memory + 2 * BUFFER - PAGE, 'b', PAGE));
	EXPECT_EQ('x', memory[-1]);
	EXPECT_EQ('x', memory[2 * BUFFER]);
	memset(memory + 3 * PAGE, 'c', PAGE);
	EXPECT_TRUE(writes(self, 2, 3 * PAGE, 'c'));
	/* Past the range, by one byte. */
	EXPECT_EQ(-EFAULT, read_into(self, 2, 2 * BUFFER - PAGE + 1, 'd', PAGE));
	EXPECT_TRUE(is_filled_with(memory + 2 * BUFFER - PAGE, 'b', PAGE));
	EXPECT_EQ(0, ring_drop(&self->ring, self->owner.fd, 2));
	EXPECT_EQ(0, registrations(&self->owner));
	EXPECT_EQ(-EFAULT, read_into(self, 2, 0, 'e', PAGE));
}

/* Read or write several pages by one request, and return the request's result. */
static int vectored(struct _test_data_uring *self, uint8_t opcode, int fd, unsigned int slot,
		    const struct iovec *vector, int nr)
{
	return ring_do(&self->ring, (struct io_uring_sqe){
		.opcode = opcode,
		.fd = fd,
		.addr = (uintptr_t)vector,
		.len = nr,
		.buf_index = slot,
	});
}

TEST_F(uring, readv_and_writev_move_bytes)
{
	const struct iovec vector[] = {
		{ .iov_base = (void *)(5 * PAGE), .iov_len = PAGE },
		{ .iov_base = (void *)(BUFFER - PAGE / 2), .iov_len = PAGE },
	};
	char bytes[2 * PAGE];

	if (!rings_can_register())
		SKIP(return, NO_COMMAND);
	memset(self->owner.own, 'x', SLAB);
	ASSERT_EQ(0, own(self, 1, 0, 2 * BUFFER, EVPL_URING_WRITE));
	memset(bytes, 'a', PAGE);
	memset(bytes + PAGE, 'b', PAGE);
	ASSERT_EQ(sizeof(bytes), write(self->pipe[1], bytes, sizeof(bytes)));
	EXPECT_EQ(sizeof(bytes), vectored(self, OP_READV_FIXED, self->pipe[0], 1, vector, 2));
	EXPECT_TRUE(is_filled_with(self->owner.own + 5 * PAGE, 'a', PAGE));
	EXPECT_TRUE(is_filled_with(self->owner.own + BUFFER - PAGE / 2, 'b', PAGE));
	EXPECT_EQ('x', self->owner.own[5 * PAGE - 1]);
	EXPECT_EQ('x', self->owner.own[6 * PAGE]);
	EXPECT_EQ('x', self->owner.own[BUFFER - PAGE / 2 - 1]);
	EXPECT_EQ('x', self->owner.own[BUFFER + PAGE / 2]);
	memset(bytes, 0, sizeof(bytes));
	EXPECT_EQ(sizeof(bytes), vectored(self, OP_WRITEV_FIXED, self->pipe[1], 1, vector, 2));
	EXPECT_EQ(sizeof(bytes), read(self->pipe[0], bytes, sizeof(bytes)));
	EXPECT_TRUE(is_filled_with(bytes, 'a', PAGE));
	EXPECT_TRUE(is_filled_with(bytes + PAGE, 'b', PAGE));
}

TEST_F(uring, sends_without_a_copy_move_bytes_of_readable_memory)
{
	struct evpl_record got;
	char page[PAGE];
	int sockets[2];

	if (!rings_can_register())
		SKIP(return, NO_COMMAND);
	ASSERT_TRUE(connect_pair(sockets));
	lease(_metadata, &self->pair, 3, EVPL_RECORD_DEVICE, &got);
	ASSERT_EQ(0, leased(self, 0, &got, 0));
	ASSERT_EQ(0, ring_submit(&self->ring, &(struct io_uring_sqe){
		.opcode = IORING_OP_SEND_ZC,
		.ioprio = IORING_RECVSEND_FIXED_BUF,
		.fd = sockets[0],
		.addr = 2 * PAGE,
		.len = PAGE,
		.buf_index = 0,
	}));
	EXPECT_EQ(PAGE, ring_wait(&self->ring));
	EXPECT_EQ(PAGE, recv(sockets[1], page, PAGE, MSG_WAITALL));
	EXPECT_TRUE(is_filled_with(page, 'x', PAGE));
	/* The notification that the socket needs the memory no more. */
	EXPECT_EQ(0, ring_wait(&self->ring));
	close(sockets[0]);
	close(sockets[1]);
	EXPECT_EQ(0, ring_drop(&self->ring, self->lessee.fd, 0));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
	EXPECT_TRUE(is_returned(&self->owner, 3));
}

TEST_F(uring, bad_input_is_refused_by_an_errno_for_each)
{
	struct ring *ring = &self->ring;
	struct evpl_record cpu, reader;
	int fd = self->owner.fd, fresh;
	struct ring bare;

	if (!rings_can_register())
		SKIP(return, NO_COMMAND);
	ASSERT_EQ(0, own(self, 0, 0, PAGE, 0));
	/* Slots. */
	EXPECT_EQ(-EBUSY, own(self, 0, 0, PAGE, 0));
	EXPECT_EQ(-EINVAL, own(self, SLOTS, 0, PAGE, 0));
	EXPECT_EQ(-EINVAL, own(self, 0xffff, 0, PAGE, 0));
	EXPECT_EQ(-EINVAL, ring_drop(ring, fd, 1));
	EXPECT_EQ(-EINVAL, ring_drop(ring, fd, SLOTS));
	ASSERT_TRUE(ring_open(&bare));
	EXPECT_EQ(-EINVAL, ring_take(&bare, fd, 0, 0, PAGE, 0));
	EXPECT_EQ(-EINVAL, ring_drop(&bare, fd, 0));
	ASSERT_EQ(0, ring_register(&bare, self->owner.own, PAGE));
	EXPECT_EQ(-EBUSY, ring_drop(&bare, fd, 0));
	EXPECT_EQ(-EBUSY, ring_take(&bare, fd, 0, 0, PAGE, 0));
	EXPECT_EQ(0, ring_unregister(&bare));
	ring_close(&bare);
	/* Ranges. */
	EXPECT_EQ(-EINVAL, own(self, 1, 0, 0, 0));
	EXPECT_EQ(-EINVAL, own(self, 1, 1, PAGE, 0));
	EXPECT_EQ(-EINVAL, own(self, 1, 0, PAGE - 1, 0));
	EXPECT_EQ(-EINVAL, own(self, 1, PAGE, SLAB, 0));
	EXPECT_EQ(-EINVAL, own(self, 1, 0, (uint32_t)-PAGE, 0));
	EXPECT_EQ(-ENOENT, own(self, 1, SLAB, PAGE, 0));
	EXPECT_EQ(-ENOENT, own(self, 1, -PAGE, PAGE, 0));
	EXPECT_EQ(-ENOENT, own(self, 1, self->owner.setup.out_refs_offset, PAGE, 0));
	EXPECT_EQ(-ENOENT, own(self, 1, self->owner.setup.out_guest_io_offset, PAGE, 0));
	/* Leases. */
	ASSERT_TRUE(lend(&self->owner, self->ends, 3, 'x', EVPL_RECORD_WRITE, &cpu));
	ASSERT_TRUE(lend(&self->owner, self->ends, 4, 'x', EVPL_RECORD_DEVICE, &reader));
	EXPECT_EQ(-EPERM, leased(self, 1, &cpu, 0));
	EXPECT_EQ(-EPERM, leased(self, 1, &cpu, EVPL_URING_WRITE));
	EXPECT_EQ(-EPERM, leased(self, 1, &reader, EVPL_URING_WRITE));
	EXPECT_EQ(-EINVAL, ring_take(ring, self->lessee.fd, 1, reader.offset + PAGE, BUFFER, 0));
	EXPECT_EQ(-ENOENT, ring_take(ring, self->lessee.fd, 1, reader.offset + BUFFER, PAGE, 0));
	EXPECT_EQ(-ENOENT, ring_take(ring, fd, 1, reader.offset, PAGE, 0));
	EXPECT_EQ(0, evpl_revoke(fd, 4 * BUFFER));
	EXPECT_EQ(-ENOENT, leased(self, 1, &reader, 0));
	/* Flags, commands, fields that must be 0. */
	EXPECT_EQ(-EOPNOTSUPP, own(self, 1, 0, PAGE, 2));
	EXPECT_EQ(-EOPNOTSUPP, ring_command(ring, fd, EVPL_URING_UNREGISTER + 1,
					    (struct evpl_uring_buffer){ .length = PAGE }));
	EXPECT_EQ(-EINVAL, ring_command(ring, fd, EVPL_URING_UNREGISTER,
					(struct evpl_uring_buffer){ .length = PAGE }));
	EXPECT_EQ(-EINVAL, ring_command(ring, fd, EVPL_URING_UNREGISTER,
					(struct evpl_uring_buffer){ .offset = PAGE }));
	EXPECT_EQ(-EINVAL, ring_command(ring, fd, EVPL_URING_UNREGISTER,
					(struct evpl_uring_buffer){ .flags = 1 }));
	/* A client that isn't set up. */
	fresh = open(DEVICE, O_RDWR | O_CLOEXEC);
	ASSERT_LE(0, fresh);
	EXPECT_EQ(-ENXIO, ring_take(ring, fresh, 1, 0, PAGE, 0));
	close(fresh);

	EXPECT_EQ(1, registrations(&self->owner));
	EXPECT_EQ(self->before.registrations + 1, read_counters().registrations);
	EXPECT_TRUE(writes(self, 0, 0, 0));
	EXPECT_EQ(1, let_go(&self->lessee, &cpu));
	EXPECT_EQ(1, let_go(&self->lessee, &reader));
}

/* The SQE's other fields are reserved. */
TEST_F(uring, command_with_an_address_or_a_length_is_refused)
{
	struct io_uring_sqe sqe = ring_sqe(self->owner.fd, EVPL_URING_REGISTER,
					   (struct evpl_uring_buffer){ .length = PAGE });

	if (!rings_can_register())
		SKIP(return, NO_COMMAND);
	sqe.addr = 1;
	EXPECT_EQ(-EINVAL, ring_do(&self->ring, sqe));
	sqe.addr = 0;
	sqe.len = 1;
	EXPECT_EQ(-EINVAL, ring_do(&self->ring, sqe));
	EXPECT_EQ(0, registrations(&self->owner));
}

TEST_F(uring, commands_work_in_a_worker_of_the_ring)
{
	struct io_uring_sqe sqe = ring_sqe(self->owner.fd, EVPL_URING_REGISTER,
					   (struct evpl_uring_buffer){ .length = PAGE });

	if (!rings_can_register())
		SKIP(return, NO_COMMAND);
	sqe.flags = IOSQE_ASYNC;
	EXPECT_EQ(0, ring_do(&self->ring, sqe));
	EXPECT_EQ(-EBUSY, ring_do(&self->ring, sqe));
	EXPECT_EQ(1, registrations(&self->owner));
	EXPECT_TRUE(writes(self, 0, 0, 0));
	sqe = ring_sqe(self->owner.fd, EVPL_URING_UNREGISTER, (struct evpl_uring_buffer){});
	sqe.flags = IOSQE_ASYNC;
	EXPECT_EQ(0, ring_do(&self->ring, sqe));
	EXPECT_EQ(0, registrations(&self->owner));
	EXPECT_EQ(-EINVAL, ring_do(&self->ring, sqe));
}

TEST_F(uring, page_with_a_memory_error_is_refused_and_no_other)
{
	if (!rings_can_register())
		SKIP(return, NO_COMMAND);
	memset(self->owner.own, 'x', SLAB);
	if (strike(self->owner.own + BUFFER + PAGE) == -EINVAL)
		SKIP(return, "this kernel injects no memory errors");
	EXPECT_EQ(-EFAULT, own(self, 0, 0, SLAB, 0));
	EXPECT_EQ(-EFAULT, own(self, 0, BUFFER + PAGE, PAGE, 0));
	EXPECT_EQ(0, registrations(&self->owner));
	EXPECT_EQ(0, own(self, 0, BUFFER, PAGE, 0));
	EXPECT_EQ(0, own(self, 1, BUFFER + 2 * PAGE, BUFFER, 0));
	EXPECT_TRUE(writes(self, 0, 0, 'x'));
	EXPECT_TRUE(writes(self, 1, 0, 'x'));
}

TEST_F(uring, memory_of_a_readonly_descriptor_is_written_from_and_never_to)
{
	struct evpl_setup setup;
	uint64_t offset;
	int fd = open(DEVICE, O_RDONLY | O_CLOEXEC);

	ASSERT_LE(0, fd);
	ASSERT_EQ(0, evpl_setup(fd, BUFFER, &setup));
	ASSERT_EQ(0, evpl_slab_alloc(fd, SLAB_2M, &offset));
	if (!rings_can_register()) {
		close(fd);
		SKIP(return, NO_COMMAND);
	}
	EXPECT_EQ(-EPERM, ring_take(&self->ring, fd, 0, offset, PAGE, EVPL_URING_WRITE));
	EXPECT_EQ(0, fdinfo(fd, "evpl-registrations"));
	EXPECT_EQ(0, ring_take(&self->ring, fd, 0, offset, PAGE, 0));
	EXPECT_EQ(-EFAULT, read_into(self, 0, 0, 'a', PAGE));
	EXPECT_TRUE(writes(self, 0, 0, 0));
	EXPECT_EQ(0, ring_drop(&self->ring, fd, 0));
	close(fd);
}

TEST_F(uring, readable_lease_is_written_from_and_never_to)
{
	struct evpl_record got;
	char *memory;

	if (!rings_can_register())
		SKIP(return, NO_COMMAND);
	memory = lease(_metadata, &self->pair, 3, EVPL_RECORD_DEVICE, &got);
	ASSERT_EQ(0, leased(self, 0, &got, 0));
	EXPECT_EQ(-EFAULT, read_into(self, 0, 0, 'a', PAGE));
	EXPECT_TRUE(is_filled_with(memory, 'x', BUFFER));
	EXPECT_TRUE(writes(self, 0, PAGE, 'x'));
	/* Writable memory that was registered without the flag is no target either. */
	ASSERT_EQ(0, own(self, 1, 0, PAGE, 0));
	EXPECT_EQ(-EFAULT, read_into(self, 1, 0, 'a', PAGE));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
}

/* The child of the next test. Its exit status is the line of the first surprise, or 0. */
static int without_limit(struct _test_data_uring *self)
{
	const struct rlimit none = { 0, 0 };
	struct ring ring;
	int ret;

	if (setgid(12345) || setuid(12345) || setrlimit(RLIMIT_MEMLOCK, &none))
		return __LINE__;
	if (!ring_open(&ring))
		return __LINE__;
	/* Today's way is charged. */
	ret = ring_register(&ring, self->owner.own, BUFFER);
	if (ret != -ENOMEM)
		return __LINE__;
	if (ring_table(&ring, SLOTS) || ring_take(&ring, self->owner.fd, 0, 0, SLAB, EVPL_URING_WRITE))
		return __LINE__;
	if (write(self->pipe[1], "hello", 5) != 5 ||
	    fixed(&ring, IORING_OP_READ_FIXED, self->pipe[0], 0, SLAB - 5, 5) != 5)
		return __LINE__;
	if (number_in("/proc/self/status", "VmPin") || number_in("/proc/self/status", "VmLck"))
		return __LINE__;
	if (ring_drop(&ring, self->owner.fd, 0))
		return __LINE__;
	ring_close(&ring);
	return 0;
}

TEST_F(uring, nothing_is_charged_to_a_user_that_may_lock_no_memory)
{
	pid_t child;
	int line;

	if (!rings_can_register())
		SKIP(return, NO_COMMAND);
	child = fork_child();
	if (!child) {
		line = without_limit(self);
		_exit(line ? 1 + line % 250 : 0);
	}
	EXPECT_EQ(0, reap(child));
	EXPECT_EQ(0, memcmp(self->owner.own + SLAB - 5, "hello", 5));
	/* The ring goes in the background. */
	for (int tries = 0; tries < 600 && registrations(&self->owner); tries++)
		usleep(100 * 1000);
	EXPECT_EQ(0, registrations(&self->owner));
}

TEST_F(uring, buffer_comes_back_with_the_slot_and_not_with_the_lease)
{
	struct evpl_record got;
	long long rechecks;

	if (!rings_can_register())
		SKIP(return, NO_COMMAND);
	lease(_metadata, &self->pair, 5, DEVICE_RW, &got);
	ASSERT_EQ(0, leased(self, 0, &got, EVPL_URING_WRITE));
	EXPECT_EQ(1, registrations(&self->owner));
	EXPECT_EQ(0, registrations(&self->lessee));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
	EXPECT_EQ(0, read_counters().leases);
	EXPECT_EQ(SIGBUS, touch_read(memory_of(&self->lessee, &got)));
	/* Nothing looks for the ring: it tells. */
	rechecks = number_in(COUNTERS, "rechecks");
	EXPECT_EQ(0, evpl_lease_pull(self->owner.fd));
	EXPECT_EQ(-EAGAIN, evpl_buffer_wait(self->owner.fd, 5 * BUFFER, EVPL_WAIT_TRY));
	EXPECT_EQ(rechecks, number_in(COUNTERS, "rechecks"));
	EXPECT_EQ(0, read_counters().quarantined);
	EXPECT_EQ(EVPL_WORD_SHARED, get(&self->owner.entries[5].word));
	EXPECT_EQ(-EBUSY, evpl_slab_free(self->owner.fd, 0));
	EXPECT_EQ(PAGE, read_into(self, 0, 0, 'a', PAGE));
	EXPECT_TRUE(is_filled_with(self->owner.own + 5 * BUFFER, 'a', PAGE));
	EXPECT_EQ(0, ring_drop(&self->ring, self->lessee.fd, 0));
	EXPECT_EQ(0, get(&self->owner.entries[5].word));
	EXPECT_TRUE(bit(self->owner.returned, 5));
	EXPECT_EQ(0, read_counters().shares);
	EXPECT_EQ(0, evpl_slab_free(self->owner.fd, 0));
}

TEST_F(uring, other_buffers_of_the_folio_come_back_meanwhile)
{
	struct evpl_record got, other;

	if (!rings_can_register())
		SKIP(return, NO_COMMAND);
	lease(_metadata, &self->pair, 5, DEVICE_RW, &got);
	lease(_metadata, &self->pair, 6, DEVICE_RW, &other);
	ASSERT_EQ(0, leased(self, 0, &got, EVPL_URING_WRITE));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
	EXPECT_EQ(1, let_go(&self->lessee, &other));
	EXPECT_EQ(EVPL_WORD_SHARED, get(&self->owner.entries[5].word));
	EXPECT_EQ(0, get(&self->owner.entries[6].word));
	EXPECT_EQ(0, read_counters().quarantined);
}

TEST_F(uring, owners_own_registration_keeps_no_buffer_from_coming_home)
{
	struct evpl_record got;

	if (!rings_can_register())
		SKIP(return, NO_COMMAND);
	ASSERT_EQ(0, own(self, 0, 0, SLAB, EVPL_URING_WRITE));
	/* Without a baseline. */
	lease(_metadata, &self->pair, 5, DEVICE_RW, &got);
	EXPECT_EQ(1, let_go(&self->lessee, &got));
	EXPECT_EQ(0, get(&self->owner.entries[5].word));
	EXPECT_EQ(0, read_counters().quarantined);
}

TEST_F(uring, revoked_buffer_is_in_quarantine_exactly_until_the_ring_lets_go)
{
	struct evpl_record sent = { .offset = 5 * BUFFER, .length = BUFFER }, got;
	struct ring *ring = &self->ring;
	long long rechecks;
	char *memory;

	if (!rings_can_register())
		SKIP(return, NO_COMMAND);
	memory = lease(_metadata, &self->pair, 5, DEVICE_RW, &got);
	ASSERT_EQ(0, leased(self, 0, &got, EVPL_URING_WRITE));
	ASSERT_EQ(0, ring_take(ring, self->lessee.fd, 1, got.offset + PAGE, PAGE, 0));
	EXPECT_EQ(2, registrations(&self->owner));
	EXPECT_EQ(1, evpl_revoke(self->owner.fd, 5 * BUFFER));
	EXPECT_EQ(SIGBUS, touch_read(memory));
	EXPECT_TRUE(is_quarantined(&self->owner, 5));
	EXPECT_EQ(-EBUSY, evpl_revoke(self->owner.fd, 5 * BUFFER));
	EXPECT_EQ(-EBUSY, evpl_send(self->ends[0], &sent, 1));
	EXPECT_EQ(-EBUSY, evpl_quarantine_end(self->owner.fd, 5 * BUFFER));
	EXPECT_EQ(-EAGAIN, evpl_buffer_wait(self->owner.fd, 5 * BUFFER, EVPL_WAIT_TRY));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
	/* After a second the kernel's own passes are rare, and they look at no page. */
	rechecks = number_in(COUNTERS, "rechecks");
	sleep(1);
	EXPECT_EQ(0, ring_drop(ring, self->lessee.fd, 0));
	EXPECT_TRUE(is_quarantined(&self->owner, 5));
	EXPECT_EQ(rechecks, number_in(COUNTERS, "rechecks"));
	EXPECT_EQ(0, ring_drop(ring, self->lessee.fd, 1));
	EXPECT_EQ(0, get(&self->owner.entries[5].word));
	EXPECT_TRUE(bit(self->owner.returned, 5));
	EXPECT_EQ(0, read_counters().quarantined);
	EXPECT_EQ(0, read_counters().shares);
}

TEST_F(uring, what_a_pipe_holds_too_is_kept_after_the_ring_has_let_go)
{
	struct evpl_record got;
	char *memory, page[PAGE];

	if (!rings_can_register())
		SKIP(return, NO_COMMAND);
	memory = lease(_metadata, &self->pair, 5, DEVICE_RW, &got);
	ASSERT_EQ(0, leased(self, 0, &got, EVPL_URING_WRITE));
	ASSERT_EQ(PAGE, into_pipe(self->pipe[1], memory, PAGE));
	EXPECT_EQ(1, evpl_revoke(self->owner.fd, 5 * BUFFER));
	EXPECT_EQ(0, ring_drop(&self->ring, self->lessee.fd, 0));
	EXPECT_TRUE(is_quarantined(&self->owner, 5));
	EXPECT_EQ(PAGE, read(self->pipe[0], page, PAGE));
	EXPECT_TRUE(is_returned(&self->owner, 5));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
}

TEST_F(uring, slab_that_is_freed_stays_charged_until_the_ring_lets_go)
{
	long long charged = read_counters().charged;

	if (!rings_can_register())
		SKIP(return, NO_COMMAND);
	memset(self->owner.own, 'x', SLAB);
	ASSERT_EQ(0, own(self, 0, BUFFER, BUFFER, EVPL_URING_WRITE));
	EXPECT_EQ(0, evpl_slab_free(self->owner.fd, 0));
	EXPECT_EQ(SIGBUS, touch_read(self->owner.own));
	EXPECT_EQ(charged, read_counters().charged);
	EXPECT_EQ(1, registrations(&self->owner));
	/* Nobody else has the memory yet. */
	EXPECT_TRUE(writes(self, 0, PAGE, 'x'));
	EXPECT_EQ(PAGE, read_into(self, 0, 0, 'a', PAGE));
	EXPECT_TRUE(writes(self, 0, 0, 'a'));
	EXPECT_EQ(0, ring_drop(&self->ring, self->owner.fd, 0));
	EXPECT_EQ(charged - SLAB, read_counters().charged);
	EXPECT_EQ(0, read_counters().detached);
}

TEST_F(uring, memory_outlives_its_client_as_long_as_a_ring_has_it)
{
	if (!rings_can_register())
		SKIP(return, NO_COMMAND);
	memset(self->owner.own, 'x', SLAB);
	ASSERT_EQ(0, own(self, 0, 0, SLAB, EVPL_URING_WRITE));
	close_client(&self->owner);
	EXPECT_EQ(self->before.clients + 1, read_counters().clients);
	EXPECT_TRUE(writes(self, 0, SLAB - PAGE, 'x'));
	/* Any client's descriptor will do. */
	EXPECT_EQ(0, ring_drop(&self->ring, self->lessee.fd, 0));
	EXPECT_EQ(self->before.slabs + 1, read_counters().slabs);
}

TEST_F(uring, leased_buffer_outlives_its_owner_as_long_as_a_ring_has_it)
{
	struct evpl_record got;

	if (!rings_can_register())
		SKIP(return, NO_COMMAND);
	lease(_metadata, &self->pair, 5, DEVICE_RW, &got);
	ASSERT_EQ(0, leased(self, 0, &got, EVPL_URING_WRITE));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
	close_owner(&self->pair);
	EXPECT_TRUE(writes(self, 0, 0, 'x'));
	EXPECT_EQ(PAGE, read_into(self, 0, 0, 'a', PAGE));
	EXPECT_TRUE(writes(self, 0, 0, 'a'));
	EXPECT_EQ(self->before.slabs + 2, read_counters().slabs);
	EXPECT_EQ(0, ring_drop(&self->ring, self->lessee.fd, 0));
	EXPECT_EQ(self->before.slabs + 1, read_counters().slabs);
	EXPECT_EQ(0, read_counters().shares);
}

TEST_F(uring, copy_of_the_table_keeps_the_memory_too)
{
	struct ring copy;
	struct {
		uint32_t source, flags, zero[6];
	} args = { .source = self->ring.fd };
	struct evpl_record got;

	if (!rings_can_register())
		SKIP(return, NO_COMMAND);
	lease(_metadata, &self->pair, 5, DEVICE_RW, &got);
	ASSERT_EQ(0, leased(self, 0, &got, EVPL_URING_WRITE));
	ASSERT_TRUE(ring_open(&copy));
	ASSERT_EQ(0, RESULT(syscall(__NR_io_uring_register, copy.fd, 30, &args, 1)));
	EXPECT_EQ(1, registrations(&self->owner));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
	EXPECT_EQ(0, ring_drop(&self->ring, self->lessee.fd, 0));
	EXPECT_EQ(1, registrations(&self->owner));
	ASSERT_EQ(5, write(self->pipe[1], "hello", 5));
	EXPECT_EQ(5, fixed(&copy, IORING_OP_READ_FIXED, self->pipe[0], 0, 0, 5));
	EXPECT_EQ(0, memcmp(self->owner.own + 5 * BUFFER, "hello", 5));
	EXPECT_EQ(EVPL_WORD_SHARED, get(&self->owner.entries[5].word));
	/* As io_uring clears any slot. */
	EXPECT_EQ(0, ring_unregister(&copy));
	EXPECT_EQ(0, get(&self->owner.entries[5].word));
	EXPECT_EQ(0, registrations(&self->owner));
	ring_close(&copy);
}

TEST_F(uring, ring_that_has_memory_keeps_the_module)
{
	if (!rings_can_register())
		SKIP(return, NO_COMMAND);
	if (self->before.clients)
		SKIP(return, "another program has the device open");
	ASSERT_EQ(0, own(self, 0, 0, PAGE, 0));
	close_pair(&self->pair);
	EXPECT_EQ(0, read_counters().clients);
	EXPECT_EQ(-EWOULDBLOCK, RESULT(syscall(SYS_delete_module, "evpl", O_NONBLOCK)));
	EXPECT_TRUE(writes(self, 0, 0, 0));
}

/* Have a process lease buffer 5, register it with a ring, and start a slow read into it. */
static void begin_slow_read(struct __test_metadata *_metadata, struct _test_data_uring *self,
			    int ends[2], pid_t *pid)
{
	struct evpl_record sent = fill(&self->owner, 5, 'x');

	ASSERT_TRUE(set_disk('d'));
	sent.flags = DEVICE_RW;
	ASSERT_EQ(0, evpl_channel(self->owner.fd, 8, ends));
	ASSERT_EQ(0, evpl_bind(self->owner.fd, ends[0]));
	ASSERT_EQ(1, evpl_send(ends[0], &sent, 1));
	ASSERT_EQ(0, lessee_that_reads(ends[1], self->slow[0], FIXED_TAKEN, pid));
	ASSERT_TRUE(gets_under_way(0));
}

TEST_F(uring, dead_lessees_buffer_comes_back_with_its_last_completion_and_no_recheck)
{
	long long rechecks;
	int ends[2];
	pid_t pid = 0;

	if (!rings_can_register())
		SKIP(return, NO_COMMAND);
	if (!have_slow_disks(self->slow))
		SKIP(return, NO_DISK);
	begin_slow_read(_metadata, self, ends, &pid);
	ASSERT_EQ(0, kill(pid, SIGKILL));
	ASSERT_EQ(-SIGKILL, reap(pid));
	for (int tries = 0; tries < 600 && read_counters().leases; tries++)
		usleep(100 * 1000);
	EXPECT_EQ(0, read_counters().leases);
	EXPECT_EQ(1, in_flight(0));
	EXPECT_EQ(1, registrations(&self->owner));
	rechecks = number_in(COUNTERS, "rechecks");
	sleep(1);
	EXPECT_EQ(0, evpl_lease_pull(self->owner.fd));
	EXPECT_EQ(rechecks, number_in(COUNTERS, "rechecks"));
	EXPECT_EQ(EVPL_WORD_SHARED, get(&self->owner.entries[5].word));
	EXPECT_TRUE(is_filled_with(self->owner.own + 5 * BUFFER, 'x', BUFFER));
	hurry(0);
	EXPECT_TRUE(is_returned(&self->owner, 5));
	EXPECT_TRUE(is_filled_with(self->owner.own + 5 * BUFFER, 'd', BUFFER));
	/* Each of the buffer's folios was checked once, as when any device lease ends. */
	EXPECT_GE(rechecks + BUFFER / (4 * PAGE), number_in(COUNTERS, "rechecks"));
	close(ends[0]);
	close(ends[1]);
}

TEST_F(uring, revoke_takes_effect_on_a_dead_lessees_buffer_with_its_last_completion)
{
	int ends[2];
	pid_t pid = 0;

	if (!rings_can_register())
		SKIP(return, NO_COMMAND);
	if (!have_slow_disks(self->slow))
		SKIP(return, NO_DISK);
	begin_slow_read(_metadata, self, ends, &pid);
	EXPECT_EQ(1, evpl_revoke(self->owner.fd, 5 * BUFFER));
	ASSERT_EQ(0, kill(pid, SIGKILL));
	ASSERT_EQ(-SIGKILL, reap(pid));
	EXPECT_TRUE(is_quarantined(&self->owner, 5));
	hurry(0);
	EXPECT_TRUE(is_returned(&self->owner, 5));
	EXPECT_TRUE(is_filled_with(self->owner.own + 5 * BUFFER, 'd', BUFFER));
	close(ends[0]);
	close(ends[1]);
}

TEST_HARNESS_MAIN
