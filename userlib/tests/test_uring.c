// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * libevplmem-uring: each slab is registered once, on the ring's thread, and its slot
 * comes back; what can't be registered works. Where the kernel registers no memory of
 * the pool's kind (the module's, on Linux 6.1), what needs it is skipped.
 */
#include "common.h"

#include <liburing.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
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

FIXTURE_SETUP(uring)
{
	int err;

	err = io_uring_queue_init(ENTRIES, &self->ring, IORING_SETUP_SINGLE_ISSUER);
	if (err)
		SKIP(return, "io_uring doesn't work here: %s", strerror(-err));
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

/* Bytes go out of one slab and come back into another. */
static void write_and_read(struct __test_metadata *_metadata, FIXTURE_DATA(uring) *self,
			   bool registered)
{
	struct evpl_iovec *from = &self->iovec[0][3], *to = &self->iovec[1][7];
	struct io_uring_sqe *sqe;
	unsigned int i;
	unsigned char *byte = from->data;

	for (i = 0; i < from->length; i++)
		byte[i] = (unsigned char)(i * 7 + (i >> 8));
	memset(to->data, 0, to->length);

	sqe = io_uring_get_sqe(&self->ring);
	EXPECT_EQ(registered, evpl_uring_prep_write(self->uring, sqe, self->fd, from, 4096));
	EXPECT_EQ(registered ? IORING_OP_WRITE_FIXED : IORING_OP_WRITE, sqe->opcode);
	EXPECT_EQ(BUFFER, submit(&self->ring));
	sqe = io_uring_get_sqe(&self->ring);
	EXPECT_EQ(registered, evpl_uring_prep_read(self->uring, sqe, self->fd, to, 4096));
	EXPECT_EQ(registered ? IORING_OP_READ_FIXED : IORING_OP_READ, sqe->opcode);
	EXPECT_EQ(BUFFER, submit(&self->ring));
	EXPECT_EQ(0, memcmp(from->data, to->data, BUFFER));
}

TEST_F(uring, bytes_are_written_and_read_in_registered_buffers)
{
	NEEDS_REGISTRATION();
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[0]));
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[1]));
	write_and_read(_metadata, self, true);
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

/* Gives all of a slab back; the pool keeps another one. */
static void drop_slab(FIXTURE_DATA(uring) *self, int which)
{
	evpl_iovecs_release(self->iovec[which], PER_SLAB);
	memset(self->iovec[which], 0, sizeof(self->iovec[which]));
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
	for (i = 0; i < 2; i++) {
		evpl_iovecs_release(self->iovec[i], PER_SLAB);
		memset(self->iovec[i], 0, sizeof(self->iovec[i]));
	}
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
	write_and_read(_metadata, self, true);
}

TEST_F(uring, flush_clears_slots)
{
	NEEDS_REGISTRATION();
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[0]));
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[1]));
	ASSERT_EQ(FIRST, evpl_uring_index(self->uring, &self->iovec[1][0]));
	evpl_iovecs_release(self->iovec[0], PER_SLAB);
	memset(self->iovec[0], 0, sizeof(self->iovec[0]));
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
	write_and_read(_metadata, self, false);
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

struct elsewhere {
	struct evpl_uring *uring;
	const struct evpl_iovec *iovec;
	int index;
};

static void *index_elsewhere(void *arg)
{
	struct elsewhere *elsewhere = arg;

	elsewhere->index = evpl_uring_index(elsewhere->uring, elsewhere->iovec);
	return NULL;
}

TEST_F(uring, another_thread_is_refused_and_does_no_harm)
{
	struct elsewhere elsewhere = { .uring = self->uring };
	struct io_uring_sqe *sqe;

	NEEDS_REGISTRATION();
	/* The first submission makes the ring this thread's. */
	sqe = io_uring_get_sqe(&self->ring);
	io_uring_prep_nop(sqe);
	EXPECT_EQ(0, submit(&self->ring));

	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[0]));
	elsewhere.iovec = &self->iovec[0][0];
	on_thread(index_elsewhere, &elsewhere);
	EXPECT_EQ(-EEXIST, elsewhere.index);
	EXPECT_EQ(FIRST, evpl_uring_index(self->uring, &self->iovec[0][0]));
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
		for (i = 0; i < 3; i++) {
			evpl_iovecs_release(self->iovec[i], PER_SLAB);
			memset(self->iovec[i], 0, sizeof(self->iovec[i]));
		}
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
