// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * libevplmem-uring: each slab is registered once, on the ring's thread, and its slot
 * comes back; what can't be registered works. All of it with a ring that any thread may
 * use and with one that is a single thread's. Where the kernel registers no memory of
 * the pool's kind (the module's, on Linux 6.1), what needs it is skipped.
 */
#include "common.h"

#include <liburing.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "connect.h"
#include "evplmem-uring.h"

#define ENTRIES	8
#define SLOTS	4
#define FIRST	3

static struct evpl_uring_stats uring_stats(struct evpl_uring *uring)
{
	struct evpl_uring_stats stats = { .size = sizeof(stats) };

	if (evpl_uring_stats(uring, &stats))
		abort();
	return stats;
}

/* Submits what is prepared; the result of one request. */
static int submit(struct io_uring *ring)
{
	struct io_uring_cqe *cqe;
	int result;

	if (io_uring_submit_and_wait(ring, 1) != 1 || io_uring_wait_cqe(ring, &cqe))
		abort();
	result = cqe->res;
	io_uring_cqe_seen(ring, cqe);
	return result;
}

/* What all rings of this process have pinned, by their account. */
static long pinned(void)
{
	FILE *file = fopen("/proc/self/status", "re");
	char line[128];
	long kb = -1;

	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "VmPin: %ld", &kb) == 1)
			break;
	if (kb < 0)
		abort();
	fclose(file);
	return kb * KB;
}

/*
 * A ring that has gone, or a worker of the kernel's that served one, may let go some time
 * after the call: but not for ever. A ring that defers that to its thread is given.
 */
static bool pinned_falls_to(struct io_uring *ring, long bytes)
{
	int tries = 600;

	while (pinned() != bytes) {
		if (!tries--)
			return false;
		if (ring)
			io_uring_get_events(ring);
		usleep(100 * 1000);
	}
	return true;
}

/* Whether this kernel doesn't register such memory; with a ring and a pool apart. */
static bool kernel_refuses(void)
{
	struct evpl_uring *uring;
	struct evpl_iovec iovec;
	struct evpl_pool *pool;
	struct io_uring ring;
	struct evpl *evpl;
	int index;

	if (open_pool(&pool, BUFFER, SLAB) || evpl_create(&evpl, pool, NULL) ||
	    io_uring_queue_init(ENTRIES, &ring, 0) ||
	    evpl_uring_create(&uring, pool, &ring, 0, 1, EVPL_URING_NEW_TABLE) ||
	    evpl_iovec_alloc(evpl, 8, 0, 1, &iovec) != 1)
		abort();
	index = evpl_uring_index(uring, &iovec);
	evpl_iovec_release(&iovec);
	evpl_uring_destroy(uring);
	io_uring_queue_exit(&ring);
	evpl_destroy(evpl);
	evpl_pool_close(pool);
	return index == -EOPNOTSUPP;
}

FIXTURE(uring) {
	struct evpl_pool *pool;
	struct evpl *evpl;
	struct io_uring ring;
	struct evpl_uring *uring;
	struct evpl_iovec iovec[4][PER_SLAB];
	int fd;
	bool refuses;
};

FIXTURE_VARIANT(uring) {
	unsigned int flags;
};

FIXTURE_VARIANT_ADD(uring, of_any_thread) {
	.flags = 0,
};

FIXTURE_VARIANT_ADD(uring, of_one_thread) {
	.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
};

FIXTURE_SETUP(uring)
{
	int err;

	err = io_uring_queue_init(ENTRIES, &self->ring, variant->flags);
	if (err)
		SKIP(return, "this kernel makes no such ring: %s", strerror(-err));
	ASSERT_EQ(0, open_pool(&self->pool, BUFFER, 4 * SLAB));
	ASSERT_EQ(0, evpl_create(&self->evpl, self->pool, NULL));
	ASSERT_EQ(0, evpl_uring_create(&self->uring, self->pool, &self->ring, FIRST, SLOTS,
				       EVPL_URING_NEW_TABLE));
	self->fd = memfd_create("test_uring", 0);
	ASSERT_LE(0, self->fd);

	self->refuses = kernel_refuses();
	memset(self->iovec, 0, sizeof(self->iovec));
}

FIXTURE_TEARDOWN(uring)
{
	int i;

	if (!self->pool)
		return;
	for (i = 0; i < 4; i++)
		evpl_iovecs_release(self->iovec[i], PER_SLAB);
	evpl_destroy(self->evpl);
	EXPECT_EQ(0, used_in(self->pool));
	evpl_uring_destroy(self->uring);
	EXPECT_EQ(0, evpl_pool_close(self->pool));
	io_uring_queue_exit(&self->ring);
	close(self->fd);
}

#define NEEDS_REGISTRATION()								\
	do {										\
		if (self->refuses)							\
			SKIP(return, "this kernel doesn't register this memory");	\
	} while (0)

TEST_F(uring, arguments_are_checked)
{
	struct evpl_uring *uring;
	struct io_uring *ring = &self->ring;

	EXPECT_EQ(-EINVAL, evpl_uring_create(&uring, self->pool, ring, 0, 0, 0));
	EXPECT_EQ(-EINVAL, evpl_uring_create(&uring, self->pool, ring, 0, 16385, 0));
	EXPECT_EQ(-EINVAL, evpl_uring_create(&uring, self->pool, ring, 16384, 1, 0));
	EXPECT_EQ(-EINVAL, evpl_uring_create(&uring, self->pool, ring, 2, UINT32_MAX, 0));
	EXPECT_EQ(-EOPNOTSUPP, evpl_uring_create(&uring, self->pool, ring, 0, 1, 2));
	EXPECT_EQ(-EBUSY, evpl_uring_create(&uring, self->pool, ring, 0, 1,
					    EVPL_URING_NEW_TABLE));
	EXPECT_EQ(1, stats_of(self->pool).devices);
}

/* What a child of fork(2) finds; its exit status. */
static int in_child(FIXTURE_DATA(uring) *self)
{
	struct evpl_uring_stats stats = { .size = sizeof(stats) };

	if (evpl_uring_index(self->uring, &self->iovec[0][0]) != -EPERM ||
	    evpl_uring_stats(self->uring, &stats) != -EPERM || evpl_uring_notice(self->uring))
		return 1;
	evpl_uring_flush(self->uring);
	evpl_uring_destroy(self->uring);
	return 0;
}

TEST_F(uring, a_child_has_no_part_in_it)
{
	int index, status;
	pid_t child;

	ASSERT_EQ(1, evpl_buffer_alloc(self->evpl, &self->iovec[0][0]));
	index = evpl_uring_index(self->uring, &self->iovec[0][0]);
	child = fork();
	if (!child)
		_exit(in_child(self));
	ASSERT_EQ(child, waitpid(child, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_EQ(index, evpl_uring_index(self->uring, &self->iovec[0][0]));
	EXPECT_EQ(index < 0 ? 0 : 1, uring_stats(self->uring).slots_used);
}

TEST_F(uring, received_memory_works_and_is_never_registered)
{
	struct received received;
	struct iovec iovec;

	if (stats_of(self->pool).backend != EVPL_BACKEND_MODULE)
		SKIP(return, "the module's alone");
	receive(&received, self->pool, 4096);
	EXPECT_GT(0, evpl_uring_index(self->uring, &received.message.iovec));
	EXPECT_EQ(0, uring_stats(self->uring).slots_used);
	iovec = (struct iovec){ received.message.iovec.data, received.message.iovec.length };
	EXPECT_EQ(-EFAULT, io_uring_register_buffers_update_tag(&self->ring, FIRST, &iovec,
								&(__u64){ 0 }, 1));

	/* Out of it and into it all the same. */
	EXPECT_EQ(0, evpl_uring_prep_write(self->uring, io_uring_get_sqe(&self->ring), self->fd,
					   &received.message.iovec, 0));
	EXPECT_EQ(4096, submit(&self->ring));
	memset(received.message.iovec.data, 'y', 4096);
	EXPECT_EQ(0, evpl_uring_prep_read(self->uring, io_uring_get_sqe(&self->ring), self->fd,
					  &received.message.iovec, 0));
	EXPECT_EQ(4096, submit(&self->ring));
	EXPECT_EQ('x', *(char *)received.message.iovec.data);

	EXPECT_EQ(0, end_received(&received));
}

TEST_F(uring, ends_of_channels_are_read_and_written_through_a_ring)
{
	struct evpl_record got = { .length = 0 };
	struct received received;
	struct io_uring_cqe *cqe;

	if (stats_of(self->pool).backend != EVPL_BACKEND_MODULE)
		SKIP(return, "the module's alone");
	receive(&received, self->pool, 4096);
	io_uring_prep_read(io_uring_get_sqe(&self->ring), evpl_channel_fd(received.here), &got,
			   sizeof(got), 0);
	ASSERT_EQ(1, io_uring_submit(&self->ring));
	EXPECT_EQ(-EAGAIN, io_uring_peek_cqe(&self->ring, &cqe));

	/* What was received goes there and comes back, which ends the wait. */
	EXPECT_EQ(0, evpl_channel_send(received.here, &received.message, 1));
	EXPECT_EQ(1, evpl_channel_recv(received.there, &received.message, 1));
	EXPECT_EQ(-EAGAIN, io_uring_peek_cqe(&self->ring, &cqe));
	received.message.cookie = 18;
	EXPECT_EQ(0, evpl_channel_send(received.there, &received.message, 1));
	ASSERT_EQ(0, io_uring_wait_cqe(&self->ring, &cqe));
	EXPECT_EQ(sizeof(got), cqe->res);
	io_uring_cqe_seen(&self->ring, cqe);
	EXPECT_EQ(18, got.cookie);
	EXPECT_EQ(4096, got.length);
	io_uring_prep_write(io_uring_get_sqe(&self->ring), evpl_channel_fd(received.here), &got,
			    sizeof(got), 0);
	EXPECT_EQ(sizeof(got), submit(&self->ring));
	EXPECT_EQ(1, evpl_channel_recv(received.there, &received.message, 1));
	EXPECT_EQ(18, received.message.cookie);
	EXPECT_EQ('x', *(char *)received.message.iovec.data);
	EXPECT_EQ(0, end_received(&received));
}

/* Sends by a ring over a connection of its own, to the last completion. */
static void send_and_receive(struct __test_metadata *_metadata, FIXTURE_DATA(uring) *self,
			     const struct evpl_iovec *iovec, bool copies)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&self->ring);
	char *bytes = malloc(iovec->length);
	struct io_uring_cqe *cqe;
	int sockets[2], index;

	ASSERT_TRUE(connect_pair(sockets));
	index = evpl_uring_index(self->uring, iovec);
	EXPECT_EQ(index < 0 ? 0 : 1,
		  evpl_uring_prep_send_zc(self->uring, sqe, sockets[0], iovec, 0));
	ASSERT_EQ(1, io_uring_submit(&self->ring));
	ASSERT_EQ(0, io_uring_wait_cqe(&self->ring, &cqe));
	EXPECT_EQ(iovec->length, cqe->res);
	EXPECT_EQ(copies ? 0 : IORING_CQE_F_MORE, cqe->flags & IORING_CQE_F_MORE);
	io_uring_cqe_seen(&self->ring, cqe);
	ASSERT_EQ((ssize_t)iovec->length, recv(sockets[1], bytes, iovec->length, MSG_WAITALL));
	EXPECT_EQ(0, memcmp(bytes, iovec->data, iovec->length));
	if (!copies) {
		ASSERT_EQ(0, io_uring_wait_cqe(&self->ring, &cqe));
		EXPECT_EQ(IORING_CQE_F_NOTIF, cqe->flags);
		io_uring_cqe_seen(&self->ring, cqe);
	}
	close(sockets[0]);
	close(sockets[1]);
	free(bytes);
}

TEST_F(uring, sockets_send_without_a_copy)
{
	struct evpl_iovec *iovec = &self->iovec[0][0];

	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, 10000, 0, 1, iovec));
	memset(iovec->data, 'x', 10000);
	send_and_receive(_metadata, self, iovec, false);
}

TEST_F(uring, sockets_send_received_memory_by_a_copy)
{
	struct received received;

	if (stats_of(self->pool).backend != EVPL_BACKEND_MODULE)
		SKIP(return, "the module's alone");
	receive(&received, self->pool, 4096);
	send_and_receive(_metadata, self, &received.message.iovec, true);
	EXPECT_EQ(0, end_received(&received));
}

TEST_F(uring, destroying_nothing_is_allowed)
{
	evpl_uring_destroy(NULL);
}

TEST_F(uring, stats_fit_their_size)
{
	struct {
		struct evpl_uring_stats stats;
		uint64_t tail;
	} longer = { .stats.size = sizeof(longer), .tail = 1 };
	struct evpl_uring_stats stats = { .size = 7 };

	EXPECT_EQ(-EINVAL, evpl_uring_stats(self->uring, &stats));
	stats.size = offsetof(struct evpl_uring_stats, slots_used);
	stats.slots_used = 77;
	EXPECT_EQ(0, evpl_uring_stats(self->uring, &stats));
	EXPECT_EQ(SLOTS, stats.slots);
	EXPECT_EQ(77, stats.slots_used);
	EXPECT_EQ(0, evpl_uring_stats(self->uring, &longer.stats));
	EXPECT_EQ(sizeof(longer), longer.stats.size);
	EXPECT_EQ(0, longer.tail);
}

TEST_F(uring, an_empty_iovec_has_no_index)
{
	struct evpl_iovec empty = { 0 };

	EXPECT_EQ(-ENOENT, evpl_uring_index(self->uring, &empty));
	EXPECT_EQ(0, uring_stats(self->uring).failures);
	EXPECT_EQ(NULL, evpl_uring_notice(self->uring));
}

TEST_F(uring, a_slab_is_registered_once_and_its_index_stays)
{
	int i, index;

	NEEDS_REGISTRATION();
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[0]));
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[1]));
	EXPECT_EQ(0, uring_stats(self->uring).registrations);

	index = evpl_uring_index(self->uring, &self->iovec[0][0]);
	EXPECT_EQ(FIRST, index);
	EXPECT_EQ(1, uring_stats(self->uring).registrations);
	for (i = 0; i < (int)PER_SLAB; i++)
		EXPECT_EQ(index, evpl_uring_index(self->uring, &self->iovec[0][i]));
	EXPECT_EQ(1, uring_stats(self->uring).registrations);
	EXPECT_EQ(FIRST + 1, evpl_uring_index(self->uring, &self->iovec[1][5]));
	EXPECT_EQ(index, evpl_uring_index(self->uring, &self->iovec[0][0]));
	EXPECT_EQ(2, uring_stats(self->uring).registrations);
	EXPECT_EQ(2, uring_stats(self->uring).slots_used);
	EXPECT_EQ(0, uring_stats(self->uring).failures);
	EXPECT_EQ(NULL, evpl_uring_notice(self->uring));
}

/*
 * Bytes go out of one slab and come back into another. Returns how many of the two
 * requests were of registered buffers, or -1 if not all is as it should be.
 */
static int write_and_read(struct io_uring *ring, struct evpl_uring *uring, int fd,
			  const struct evpl_iovec *from, const struct evpl_iovec *to)
{
	unsigned char *byte = from->data;
	struct io_uring_sqe *sqe;
	int written, read;
	unsigned int i;

	for (i = 0; i < from->length; i++)
		byte[i] = (unsigned char)(i * 7 + (i >> 8));
	memset(to->data, 0, to->length);

	sqe = io_uring_get_sqe(ring);
	written = evpl_uring_prep_write(uring, sqe, fd, from, 4096);
	if (sqe->opcode != (written ? IORING_OP_WRITE_FIXED : IORING_OP_WRITE) ||
	    submit(ring) != (int)from->length)
		return -1;
	sqe = io_uring_get_sqe(ring);
	read = evpl_uring_prep_read(uring, sqe, fd, to, 4096);
	if (sqe->opcode != (read ? IORING_OP_READ_FIXED : IORING_OP_READ) ||
	    submit(ring) != (int)to->length || memcmp(from->data, to->data, from->length))
		return -1;
	return written + read;
}

/* The same between the fixture's first two slabs. */
static int copy_by(FIXTURE_DATA(uring) *self, struct io_uring *ring, struct evpl_uring *uring)
{
	return write_and_read(ring, uring, self->fd, &self->iovec[0][3], &self->iovec[1][7]);
}

TEST_F(uring, bytes_are_written_and_read_in_registered_buffers)
{
	NEEDS_REGISTRATION();
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[0]));
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[1]));
	EXPECT_EQ(2, copy_by(self, &self->ring, self->uring));
	EXPECT_EQ(2, uring_stats(self->uring).registrations);
}

TEST_F(uring, a_part_of_a_slice_has_the_same_index)
{
	struct evpl_iovec part;
	struct io_uring_sqe *sqe;

	NEEDS_REGISTRATION();
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[0]));
	ASSERT_EQ(0, evpl_iovec_clone_segment(&part, &self->iovec[0][PER_SLAB - 1], 100, 50));
	memset(part.data, 'x', 50);
	sqe = io_uring_get_sqe(&self->ring);
	EXPECT_EQ(1, evpl_uring_prep_write(self->uring, sqe, self->fd, &part, 0));
	EXPECT_EQ(50, submit(&self->ring));
	EXPECT_EQ(FIRST, evpl_uring_index(self->uring, &self->iovec[0][0]));
	evpl_iovec_release(&part);
}

static void give_back(FIXTURE_DATA(uring) *self, int which)
{
	evpl_iovecs_release(self->iovec[which], PER_SLAB);
	memset(self->iovec[which], 0, sizeof(self->iovec[which]));
}

/* Gives a slab back for good; the pool keeps another one that is idle. */
static void drop_slab(FIXTURE_DATA(uring) *self, int which)
{
	give_back(self, which);
	evpl_pool_trim(self->pool);
}

static void *trim(void *arg)
{
	evpl_pool_trim(arg);
	return NULL;
}

TEST_F(uring, the_slot_of_a_trimmed_slab_is_cleared_later_and_used_again)
{
	struct evpl_slab_info gone, info;
	int i;

	NEEDS_REGISTRATION();
	for (i = 0; i < 3; i++) {
		ASSERT_EQ(0, take_slab(self->evpl, self->iovec[i]));
		ASSERT_EQ(FIRST + i, evpl_uring_index(self->uring, &self->iovec[i][0]));
	}
	ASSERT_EQ(0, evpl_iovec_slab(&self->iovec[1][0], &gone));

	/* One idle slab is kept: the first in the pool's list. */
	for (i = 0; i < 2; i++)
		give_back(self, i);
	on_thread(trim, self->pool);
	ASSERT_EQ(2, stats_of(self->pool).slabs);
	EXPECT_EQ(3, uring_stats(self->uring).slots_used);
	EXPECT_EQ(0, uring_stats(self->uring).unregistrations);

	/* Its number isn't given to another slab before. */
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[0]));
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[1]));
	ASSERT_EQ(0, evpl_iovec_slab(&self->iovec[1][0], &info));
	EXPECT_NE(gone.number, info.number);

	/* Any call clears it. */
	EXPECT_EQ(FIRST + 2, evpl_uring_index(self->uring, &self->iovec[2][0]));
	EXPECT_EQ(2, uring_stats(self->uring).slots_used);
	EXPECT_EQ(1, uring_stats(self->uring).unregistrations);
	EXPECT_EQ(FIRST + 1, evpl_uring_index(self->uring, &self->iovec[1][0]));
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[3]));
	ASSERT_EQ(0, evpl_iovec_slab(&self->iovec[3][0], &info));
	EXPECT_EQ(gone.number, info.number);
	EXPECT_EQ(2, copy_by(self, &self->ring, self->uring));
}

TEST_F(uring, flush_clears_slots)
{
	NEEDS_REGISTRATION();
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[0]));
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[1]));
	ASSERT_EQ(FIRST, evpl_uring_index(self->uring, &self->iovec[1][0]));
	give_back(self, 0);
	drop_slab(self, 1);
	EXPECT_EQ(1, uring_stats(self->uring).slots_used);
	evpl_uring_flush(self->uring);
	EXPECT_EQ(0, uring_stats(self->uring).slots_used);
	EXPECT_EQ(1, uring_stats(self->uring).unregistrations);
}

TEST_F(uring, without_a_slot_io_works_unregistered)
{
	struct evpl_uring *small;
	const char *notice;
	int i;

	NEEDS_REGISTRATION();
	/* In what the other one left of the ring's table. */
	ASSERT_EQ(0, evpl_uring_create(&small, self->pool, &self->ring, 1, 1, 0));
	for (i = 0; i < 3; i++)
		ASSERT_EQ(0, take_slab(self->evpl, self->iovec[i]));
	EXPECT_EQ(1, evpl_uring_index(small, &self->iovec[2][0]));
	EXPECT_EQ(NULL, evpl_uring_notice(small));
	EXPECT_EQ(-ENOSPC, evpl_uring_index(small, &self->iovec[0][0]));
	EXPECT_EQ(-ENOSPC, evpl_uring_index(small, &self->iovec[0][0]));
	EXPECT_EQ(-ENOSPC, uring_stats(small).error);
	EXPECT_EQ(0, uring_stats(small).failures);
	notice = evpl_uring_notice(small);
	ASSERT_NE(NULL, notice);
	EXPECT_NE(NULL, strstr(notice, "slots"));
	EXPECT_EQ(NULL, evpl_uring_notice(small));

	/* Of two idle slabs the first is kept; the other's slot is free again. */
	drop_slab(self, 1);
	drop_slab(self, 2);
	EXPECT_EQ(1, evpl_uring_index(small, &self->iovec[0][0]));
	evpl_uring_destroy(small);
}

TEST_F(uring, both_kinds_of_io_are_prepared)
{
	struct evpl_uring *small;
	struct io_uring_sqe *sqe;

	NEEDS_REGISTRATION();
	ASSERT_EQ(0, evpl_uring_create(&small, self->pool, &self->ring, 0, 1, 0));
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[0]));
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[1]));
	memset(self->iovec[0][0].data, 'a', BUFFER);

	sqe = io_uring_get_sqe(&self->ring);
	EXPECT_EQ(1, evpl_uring_prep_write(small, sqe, self->fd, &self->iovec[0][0], 0));
	EXPECT_EQ(BUFFER, submit(&self->ring));
	sqe = io_uring_get_sqe(&self->ring);
	EXPECT_EQ(0, evpl_uring_prep_read(small, sqe, self->fd, &self->iovec[1][0], 0));
	EXPECT_EQ(BUFFER, submit(&self->ring));
	EXPECT_EQ(0, memcmp(self->iovec[0][0].data, self->iovec[1][0].data, BUFFER));
	evpl_uring_destroy(small);
}

TEST_F(uring, what_the_kernel_refuses_is_asked_once_and_works)
{
	const char *notice;

	if (!self->refuses)
		SKIP(return, "this kernel registers this memory");
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[0]));
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[1]));
	EXPECT_EQ(0, copy_by(self, &self->ring, self->uring));
	EXPECT_EQ(-EOPNOTSUPP, evpl_uring_index(self->uring, &self->iovec[0][0]));
	EXPECT_EQ(1, uring_stats(self->uring).failures);
	EXPECT_EQ(0, uring_stats(self->uring).registrations);
	EXPECT_EQ(-EOPNOTSUPP, uring_stats(self->uring).error);
	notice = evpl_uring_notice(self->uring);
	ASSERT_NE(NULL, notice);
	EXPECT_NE(NULL, strstr(notice, "6.12"));
	EXPECT_EQ(NULL, evpl_uring_notice(self->uring));
}

TEST_F(uring, a_ring_without_a_table_works_unregistered)
{
	struct evpl_uring *uring;
	struct io_uring ring;

	NEEDS_REGISTRATION();
	ASSERT_EQ(0, io_uring_queue_init(ENTRIES, &ring, 0));
	ASSERT_EQ(0, evpl_uring_create(&uring, self->pool, &ring, 0, 1, 0));
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[0]));
	EXPECT_EQ(-ENXIO, evpl_uring_index(uring, &self->iovec[0][0]));
	EXPECT_EQ(-ENXIO, evpl_uring_index(uring, &self->iovec[0][1]));
	EXPECT_EQ(1, uring_stats(uring).failures);
	EXPECT_NE(NULL, evpl_uring_notice(uring));
	evpl_uring_destroy(uring);
	io_uring_queue_exit(&ring);
}

#define NEEDS_RING_OF_ONE_THREAD()							\
	do {										\
		if (!(variant->flags & IORING_SETUP_SINGLE_ISSUER))			\
			SKIP(return, "any thread may");					\
	} while (0)

struct elsewhere {
	struct evpl_pool *pool;
	struct io_uring *ring;
	struct evpl_uring *uring;
	const struct evpl_iovec *iovec;
	int index, created;
};

static void *calls_elsewhere(void *arg)
{
	struct elsewhere *elsewhere = arg;
	struct evpl_uring *uring;

	elsewhere->created = evpl_uring_create(&uring, elsewhere->pool, elsewhere->ring, 0, 1,
					       EVPL_URING_NEW_TABLE);
	elsewhere->index = evpl_uring_index(elsewhere->uring, elsewhere->iovec);
	return NULL;
}

TEST_F(uring, another_thread_is_refused_and_does_no_harm)
{
	struct elsewhere elsewhere = {
		.pool = self->pool,
		.ring = &self->ring,
		.uring = self->uring,
		.iovec = &self->iovec[0][0],
	};
	const char *notice;

	NEEDS_RING_OF_ONE_THREAD();
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[0]));
	on_thread(calls_elsewhere, &elsewhere);
	EXPECT_EQ(-EEXIST, elsewhere.created);
	EXPECT_EQ(1, stats_of(self->pool).devices);
	EXPECT_EQ(-EEXIST, elsewhere.index);
	EXPECT_EQ(-EEXIST, uring_stats(self->uring).error);
	EXPECT_EQ(0, uring_stats(self->uring).slots_used);
	notice = evpl_uring_notice(self->uring);
	ASSERT_NE(NULL, notice);
	EXPECT_NE(NULL, strstr(notice, "thread"));
	EXPECT_EQ(self->refuses ? -EOPNOTSUPP : FIRST,
		  evpl_uring_index(self->uring, &self->iovec[0][0]));
}

static void *flush(void *arg)
{
	evpl_uring_flush(arg);
	return NULL;
}

TEST_F(uring, another_thread_leaves_slots_to_the_rings_own)
{
	bool refused = variant->flags & IORING_SETUP_SINGLE_ISSUER;

	NEEDS_REGISTRATION();
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[0]));
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[1]));
	ASSERT_EQ(FIRST, evpl_uring_index(self->uring, &self->iovec[1][0]));
	give_back(self, 0);
	drop_slab(self, 1);

	on_thread(flush, self->uring);
	EXPECT_EQ(refused ? 1 : 0, uring_stats(self->uring).slots_used);
	EXPECT_TRUE(pinned_falls_to(&self->ring, refused ? SLAB : 0));
	evpl_uring_flush(self->uring);
	EXPECT_EQ(0, uring_stats(self->uring).slots_used);
	EXPECT_EQ(1, uring_stats(self->uring).unregistrations);
	EXPECT_TRUE(pinned_falls_to(&self->ring, 0));
}

struct sleeper {
	struct evpl_pool *pool;
	int pipe;
	long pinned;
};

static void *trim_and_wake(void *arg)
{
	struct sleeper *sleeper = arg;

	evpl_pool_trim(sleeper->pool);
	sleeper->pinned = pinned();
	if (write(sleeper->pipe, "x", 1) != 1)
		abort();
	return NULL;
}

TEST_F(uring, a_slab_that_goes_while_the_rings_thread_sleeps_is_cleared_when_it_wakes)
{
	struct sleeper sleeper = { .pool = self->pool };
	struct io_uring_cqe *cqe;
	pthread_t thread;
	int i, ends[2];

	NEEDS_REGISTRATION();
	for (i = 0; i < 3; i++) {
		ASSERT_EQ(0, take_slab(self->evpl, self->iovec[i]));
		ASSERT_EQ(FIRST + i, evpl_uring_index(self->uring, &self->iovec[i][0]));
	}
	EXPECT_EQ(3 * SLAB, pinned());
	for (i = 0; i < 2; i++)
		give_back(self, i);

	/* It sleeps until there is something to read. */
	ASSERT_EQ(0, pipe(ends));
	sleeper.pipe = ends[1];
	EXPECT_EQ(1, evpl_uring_prep_read(self->uring, io_uring_get_sqe(&self->ring), ends[0],
					  &self->iovec[2][0], 0));
	ASSERT_EQ(1, io_uring_submit(&self->ring));
	ASSERT_EQ(0, pthread_create(&thread, NULL, trim_and_wake, &sleeper));
	ASSERT_EQ(0, io_uring_wait_cqe(&self->ring, &cqe));
	EXPECT_EQ(1, cqe->res);
	io_uring_cqe_seen(&self->ring, cqe);
	pthread_join(thread, NULL);
	EXPECT_EQ('x', *(char *)self->iovec[2][0].data);
	EXPECT_EQ(2, stats_of(self->pool).slabs);
	EXPECT_EQ(3 * SLAB, sleeper.pinned);
	EXPECT_EQ(3, uring_stats(self->uring).slots_used);

	evpl_uring_flush(self->uring);
	EXPECT_EQ(2, uring_stats(self->uring).slots_used);
	EXPECT_TRUE(pinned_falls_to(&self->ring, 2 * SLAB));
	close(ends[0]);
	close(ends[1]);
}

TEST_F(uring, flush_has_the_kernel_let_go_though_a_request_has_yet_to_complete)
{
	struct io_uring_cqe *cqe;
	int i, ends[2];

	NEEDS_REGISTRATION();
	for (i = 0; i < 3; i++) {
		ASSERT_EQ(0, take_slab(self->evpl, self->iovec[i]));
		ASSERT_EQ(FIRST + i, evpl_uring_index(self->uring, &self->iovec[i][0]));
	}
	ASSERT_EQ(0, pipe(ends));
	EXPECT_EQ(1, evpl_uring_prep_read(self->uring, io_uring_get_sqe(&self->ring), ends[0],
					  &self->iovec[2][0], 0));
	ASSERT_EQ(1, io_uring_submit(&self->ring));
	give_back(self, 0);
	drop_slab(self, 1);

	/* It can complete, and no call for the ring has seen to that. */
	ASSERT_EQ(1, write(ends[1], "x", 1));
	evpl_uring_flush(self->uring);
	EXPECT_EQ(2 * SLAB, pinned());
	ASSERT_EQ(0, io_uring_peek_cqe(&self->ring, &cqe));
	EXPECT_EQ(1, cqe->res);
	io_uring_cqe_seen(&self->ring, cqe);
	close(ends[0]);
	close(ends[1]);
}

/* A ring that one thread sets up and another enables. */
struct handover {
	FIXTURE_DATA(uring) *self;
	struct io_uring ring;
	struct evpl_uring *uring;
	int copied, index;
	bool destroy, let_go;
};

static void *enable_and_copy(void *arg)
{
	struct handover *handover = arg;

	/* liburing 2.3 declares io_uring_enable_rings(), and doesn't export it. */
	if (syscall(__NR_io_uring_register, handover->ring.ring_fd, IORING_REGISTER_ENABLE_RINGS,
		    NULL, 0))
		abort();
	handover->copied = copy_by(handover->self, &handover->ring, handover->uring);
	handover->index = evpl_uring_index(handover->uring, &handover->self->iovec[2][0]);
	if (handover->destroy) {
		evpl_uring_destroy(handover->uring);
		handover->let_go = pinned_falls_to(&handover->ring, 0);
	}
	return NULL;
}

static void hand_over(struct __test_metadata *_metadata, FIXTURE_DATA(uring) *self,
		      struct handover *handover, unsigned int flags)
{
	int i;

	handover->self = self;
	ASSERT_EQ(0, io_uring_queue_init(ENTRIES, &handover->ring, flags | IORING_SETUP_R_DISABLED));
	ASSERT_EQ(0, evpl_uring_create(&handover->uring, self->pool, &handover->ring, 1, SLOTS,
				       EVPL_URING_NEW_TABLE));
	for (i = 0; i < 3; i++)
		ASSERT_EQ(0, take_slab(self->evpl, self->iovec[i]));
	EXPECT_EQ(1, evpl_uring_index(handover->uring, &self->iovec[0][0]));
	on_thread(enable_and_copy, handover);
	EXPECT_EQ(2, handover->copied);
	EXPECT_EQ(3, handover->index);
}

TEST_F(uring, a_ring_that_is_enabled_on_another_thread_is_that_threads)
{
	struct handover handover = { .destroy = true };

	NEEDS_REGISTRATION();
	NEEDS_RING_OF_ONE_THREAD();
	hand_over(_metadata, self, &handover, variant->flags);
	EXPECT_TRUE(handover.let_go);
	io_uring_queue_exit(&handover.ring);
}

TEST_F(uring, memory_that_another_thread_destroys_stays_pinned_until_the_ring_goes)
{
	struct handover handover = { .destroy = false };

	NEEDS_REGISTRATION();
	NEEDS_RING_OF_ONE_THREAD();
	hand_over(_metadata, self, &handover, variant->flags);
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[3]));
	EXPECT_EQ(-EEXIST, evpl_uring_index(handover.uring, &self->iovec[3][0]));
	EXPECT_EQ(2, evpl_uring_index(handover.uring, &self->iovec[1][0]));
	evpl_uring_destroy(handover.uring);
	EXPECT_EQ(1, stats_of(self->pool).devices);
	EXPECT_EQ(3 * SLAB, pinned());
	io_uring_queue_exit(&handover.ring);
	EXPECT_TRUE(pinned_falls_to(NULL, 0));
}

TEST_F(uring, a_limit_of_locked_memory_is_told_and_tried_again)
{
	struct rlimit limit = { .rlim_cur = MB }, old;	/* enough for a ring */
	struct evpl_uring *uring;
	struct io_uring ring;
	const char *notice;

	NEEDS_REGISTRATION();
	if (geteuid())
		SKIP(return, "needs root, to become somebody else");
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[0]));
	ASSERT_EQ(0, getrlimit(RLIMIT_MEMLOCK, &old));
	limit.rlim_max = old.rlim_max;
	ASSERT_EQ(0, setrlimit(RLIMIT_MEMLOCK, &limit));
	ASSERT_EQ(0, seteuid(65534));
	ASSERT_EQ(0, io_uring_queue_init(ENTRIES, &ring, 0));
	ASSERT_EQ(0, evpl_uring_create(&uring, self->pool, &ring, 0, 1,
				       EVPL_URING_NEW_TABLE));
	EXPECT_EQ(-ENOMEM, evpl_uring_index(uring, &self->iovec[0][0]));
	EXPECT_EQ(-ENOMEM, evpl_uring_index(uring, &self->iovec[0][0]));
	EXPECT_EQ(1, uring_stats(uring).failures);
	notice = evpl_uring_notice(uring);
	ASSERT_NE(NULL, notice);
	EXPECT_NE(NULL, strstr(notice, "RLIMIT_MEMLOCK"));

	limit.rlim_cur = limit.rlim_max;
	ASSERT_EQ(0, setrlimit(RLIMIT_MEMLOCK, &limit));
	EXPECT_EQ(-ENOMEM, evpl_uring_index(uring, &self->iovec[0][0]));
	evpl_uring_flush(uring);
	EXPECT_EQ(0, evpl_uring_index(uring, &self->iovec[0][0]));
	evpl_uring_destroy(uring);
	io_uring_queue_exit(&ring);
	ASSERT_EQ(0, seteuid(0));
}

/* Slabs come and go on one thread while the ring's uses them. */
struct churn {
	struct evpl_pool *pool;
	atomic_bool stop;
};

static void *churn(void *arg)
{
	struct churn *c = arg;
	struct evpl *evpl;

	if (evpl_create(&evpl, c->pool, NULL))
		abort();
	while (!atomic_load(&c->stop)) {
		evpl_pool_trim(c->pool);
		sched_yield();
	}
	evpl_destroy(evpl);
	return NULL;
}

TEST_F(uring, slabs_come_and_go_on_another_thread)
{
	struct churn c = { .pool = self->pool };
	int round, i, index, used[FIRST + SLOTS];
	pthread_t thread;

	NEEDS_REGISTRATION();
	ASSERT_EQ(0, pthread_create(&thread, NULL, churn, &c));
	for (round = 0; round < 200; round++) {
		memset(used, 0, sizeof(used));
		for (i = 0; i < 3; i++) {
			/* The buffers of one round may be of any slabs. */
			ASSERT_EQ(0, take_slab(self->evpl, self->iovec[i]));
			index = evpl_uring_index(self->uring, &self->iovec[i][0]);
			EXPECT_LE(FIRST, index);
			EXPECT_GT(FIRST + SLOTS, index);
			EXPECT_EQ(index, evpl_uring_index(self->uring, &self->iovec[i][0]));
		}
		for (i = 0; i < 3; i++)
			give_back(self, i);
	}
	atomic_store(&c.stop, true);
	pthread_join(thread, NULL);
	evpl_uring_flush(self->uring);
	EXPECT_EQ(uring_stats(self->uring).registrations,
		  uring_stats(self->uring).unregistrations +
		  uring_stats(self->uring).slots_used);
	EXPECT_EQ(0, uring_stats(self->uring).failures);
}

TEST_HARNESS_MAIN
