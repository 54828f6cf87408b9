// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * libevplmem-uring: rings of provided buffers. Each completion becomes slices of the bytes that
 * were received. Afterwards the ring has as many buffers as before, or tells how many it lacks.
 */
#include "common.h"

#include <liburing.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "evplmem-uring.h"

#define ENTRIES	4
#define LENGTH	(4 * KB)
#define GROUP	7

/* Headers that are older than the kernel lack this flag. */
#define RECV_BUNDLE	(1U << 4)

FIXTURE(buf_ring) {
	struct evpl_pool *pool;
	struct evpl *evpl;
	struct io_uring ring;
	struct evpl_uring_buf_ring *buf_ring;
	int here, there;
	char data[4 * LENGTH];
};

FIXTURE_VARIANT(buf_ring) {
	unsigned int flags;
};

FIXTURE_VARIANT_ADD(buf_ring, of_any_thread) {
	.flags = 0,
};

FIXTURE_VARIANT_ADD(buf_ring, of_one_thread) {
	.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
};

static void connect_by(FIXTURE_DATA(buf_ring) *self, int type)
{
	int fds[2];

	if (self->here >= 0) {
		close(self->here);
		close(self->there);
	}
	if (socketpair(AF_UNIX, type, 0, fds))
		abort();
	self->here = fds[0];
	self->there = fds[1];
}

FIXTURE_SETUP(buf_ring)
{
	int err;

	self->here = -1;
	err = io_uring_queue_init(2 * ENTRIES, &self->ring, variant->flags);
	if (err)
		SKIP(return, "this kernel makes no such ring: %s", strerror(-err));
	ASSERT_EQ(0, open_pool(&self->pool, BUFFER, SLAB));
	ASSERT_EQ(0, evpl_create(&self->evpl, self->pool, NULL));
	ASSERT_EQ(0, evpl_uring_buf_ring_create(&self->buf_ring, self->evpl, &self->ring, GROUP,
						ENTRIES, LENGTH, 0));
	connect_by(self, SOCK_SEQPACKET);
}

FIXTURE_TEARDOWN(buf_ring)
{
	if (!self->pool)
		return;
	close(self->here);
	close(self->there);
	evpl_uring_buf_ring_destroy(self->buf_ring);
	io_uring_queue_exit(&self->ring);
	evpl_destroy(self->evpl);
	EXPECT_EQ(0, used_in(self->pool));
	EXPECT_EQ(0, evpl_pool_close(self->pool));
}

/* Sends @length bytes of a pattern. Each number has a pattern of its own. */
static void say(FIXTURE_DATA(buf_ring) *self, unsigned int number, size_t length)
{
	size_t i;

	for (i = 0; i < length; i++)
		self->data[i] = (char)(number + i / 251);
	if (send(self->there, self->data, length, 0) != (ssize_t)length)
		abort();
}

/* Whether these iovecs have the first @length bytes of the last say(), and no other bytes. */
static bool heard(const FIXTURE_DATA(buf_ring) *self, const struct evpl_iovec *iovecs, int niov,
		  size_t length)
{
	const char *data = self->data;
	int i;

	for (i = 0; i < niov; i++) {
		if (iovecs[i].length > length || memcmp(iovecs[i].data, data, iovecs[i].length))
			return false;
		data += iovecs[i].length;
		length -= iovecs[i].length;
	}
	return !length;
}

static struct io_uring_sqe *prepare(FIXTURE_DATA(buf_ring) *self)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&self->ring);

	if (!sqe)
		abort();
	io_uring_prep_recv(sqe, self->here, NULL, 0, 0);
	sqe->flags |= IOSQE_BUFFER_SELECT;
	sqe->buf_group = GROUP;
	return sqe;
}

static void wait_for(struct io_uring *ring, struct io_uring_cqe *copy)
{
	struct io_uring_cqe *cqe;

	if (io_uring_wait_cqe(ring, &cqe))
		abort();
	*copy = *cqe;
	io_uring_cqe_seen(ring, cqe);
}

/* Submits the one request that is prepared, and waits for its completion. */
static void submit(FIXTURE_DATA(buf_ring) *self, struct io_uring_cqe *cqe)
{
	if (io_uring_submit(&self->ring) != 1)
		abort();
	wait_for(&self->ring, cqe);
}

static void receive_one(FIXTURE_DATA(buf_ring) *self, struct io_uring_cqe *cqe)
{
	prepare(self);
	submit(self, cqe);
}

TEST_F(buf_ring, arguments_are_checked)
{
	struct evpl_uring_buf_ring *none = NULL;
	uint64_t used = used_in(self->pool);
	struct io_uring *ring = &self->ring;
	struct evpl *evpl = self->evpl;

	EXPECT_EQ(-EINVAL, evpl_uring_buf_ring_create(&none, evpl, ring, 65536, 4, LENGTH, 0));
	EXPECT_EQ(-EINVAL, evpl_uring_buf_ring_create(&none, evpl, ring, 1, 0, LENGTH, 0));
	EXPECT_EQ(-EINVAL, evpl_uring_buf_ring_create(&none, evpl, ring, 1, 3, LENGTH, 0));
	EXPECT_EQ(-EINVAL, evpl_uring_buf_ring_create(&none, evpl, ring, 1, 65536, LENGTH, 0));
	EXPECT_EQ(-EINVAL, evpl_uring_buf_ring_create(&none, evpl, ring, 1, 4, 0, 0));
	EXPECT_EQ(-EOPNOTSUPP, evpl_uring_buf_ring_create(&none, evpl, ring, 1, 4, LENGTH, 2));
	EXPECT_EQ(-ENOBUFS, evpl_uring_buf_ring_create(&none, evpl, ring, 1, 4, BUFFER + 1, 0));
	EXPECT_EQ(-ENOMEM, evpl_uring_buf_ring_create(&none, evpl, ring, 1, 2 * PER_SLAB, BUFFER,
						      0));
	EXPECT_EQ(-EEXIST, evpl_uring_buf_ring_create(&none, evpl, ring, GROUP, 4, LENGTH, 0));
	EXPECT_EQ(NULL, none);
	/* The context may have started another buffer, but not two. */
	EXPECT_LE(used_in(self->pool), used + 1);

	/* The largest and the smallest values that are allowed. */
	ASSERT_EQ(0, evpl_uring_buf_ring_create(&none, evpl, ring, 65535, 32768, 8, 0));
	evpl_uring_buf_ring_destroy(none);
	ASSERT_EQ(0, evpl_uring_buf_ring_create(&none, evpl, ring, 0, 1, BUFFER, 0));
	evpl_uring_buf_ring_destroy(none);
}

TEST_F(buf_ring, destroying_nothing_is_allowed)
{
	evpl_uring_buf_ring_destroy(NULL);
}

static int in_child(void *arg)
{
	FIXTURE_DATA(buf_ring) *self = arg;
	struct io_uring_cqe cqe = { .res = 1, .flags = IORING_CQE_F_BUFFER };
	struct evpl_uring_buf_ring *buf_ring;
	struct evpl_iovec iovec;

	if (evpl_uring_buf_ring_create(&buf_ring, self->evpl, &self->ring, 1, 4, LENGTH, 0) !=
	    -EPERM)
		return 1;
	if (evpl_uring_buf_ring_take(self->buf_ring, &cqe, 1, &iovec) != -EPERM)
		return 2;
	if (evpl_uring_buf_ring_refill(self->buf_ring) != -EPERM)
		return 3;
	evpl_uring_buf_ring_destroy(self->buf_ring);
	return 0;
}

TEST_F(buf_ring, a_child_has_no_part_in_it)
{
	struct io_uring_cqe cqe;
	struct evpl_iovec iovec;

	EXPECT_EQ(0, status_of(in_child, self));
	say(self, 1, 100);
	receive_one(self, &cqe);
	ASSERT_EQ(1, evpl_uring_buf_ring_take(self->buf_ring, &cqe, 1, &iovec));
	EXPECT_TRUE(heard(self, &iovec, 1, 100));
	evpl_iovec_release(&iovec);
}

TEST_F(buf_ring, received_bytes_are_kept_while_the_ring_goes_on)
{
	struct evpl_iovec iovec[4 * ENTRIES];
	struct io_uring_cqe cqe;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(iovec); i++) {
		say(self, i, 1 + 100 * i);
		receive_one(self, &cqe);
		ASSERT_EQ(1 + 100 * i, cqe.res);
		ASSERT_EQ(1, evpl_uring_buf_ring_take(self->buf_ring, &cqe, 1, &iovec[i]));
		EXPECT_EQ(0, evpl_uring_buf_ring_refill(self->buf_ring));
	}
	for (i = 0; i < ARRAY_SIZE(iovec); i++) {
		EXPECT_EQ(1 + 100 * i, iovec[i].length);
		EXPECT_EQ((char)i, *(char *)iovec[i].data);
	}
	evpl_iovecs_release(iovec, ARRAY_SIZE(iovec));
}

TEST_F(buf_ring, one_multishot_request_receives_all)
{
	struct io_uring_sqe *sqe = prepare(self);
	struct evpl_iovec iovec;
	struct io_uring_cqe cqe;
	unsigned int i;

	sqe->ioprio |= IORING_RECV_MULTISHOT;
	ASSERT_EQ(1, io_uring_submit(&self->ring));
	for (i = 0; i < 4 * ENTRIES; i++) {
		say(self, i, LENGTH - i);
		wait_for(&self->ring, &cqe);
		ASSERT_EQ(IORING_CQE_F_MORE, cqe.flags & IORING_CQE_F_MORE);
		ASSERT_EQ(1, evpl_uring_buf_ring_take(self->buf_ring, &cqe, 1, &iovec));
		EXPECT_TRUE(heard(self, &iovec, 1, LENGTH - i));
		evpl_iovec_release(&iovec);
	}
	/* The request ends when the peer shuts its end down. */
	shutdown(self->there, SHUT_WR);
	wait_for(&self->ring, &cqe);
	EXPECT_EQ(0, cqe.res);
	EXPECT_EQ(0, cqe.flags & IORING_CQE_F_MORE);
	EXPECT_EQ(0, evpl_uring_buf_ring_take(self->buf_ring, &cqe, 1, &iovec));
	EXPECT_EQ(0, evpl_uring_buf_ring_refill(self->buf_ring));
}

TEST_F(buf_ring, files_are_read_into_it)
{
	int fd = memfd_create("test_buf_ring", MFD_CLOEXEC);
	struct io_uring_sqe *sqe = io_uring_get_sqe(&self->ring);
	struct evpl_iovec iovec;
	struct io_uring_cqe cqe;

	ASSERT_EQ(5, write(fd, "12345", 5));
	io_uring_prep_read(sqe, fd, NULL, LENGTH, 1);
	sqe->flags |= IOSQE_BUFFER_SELECT;
	sqe->buf_group = GROUP;
	submit(self, &cqe);
	ASSERT_EQ(1, evpl_uring_buf_ring_take(self->buf_ring, &cqe, 1, &iovec));
	EXPECT_EQ(4, iovec.length);
	EXPECT_EQ(0, memcmp(iovec.data, "2345", 4));
	evpl_iovec_release(&iovec);
	close(fd);
}

TEST_F(buf_ring, completions_are_taken_in_any_order)
{
	struct io_uring_cqe cqe[ENTRIES];
	struct evpl_iovec iovec;
	unsigned int round, i, which;

	for (round = 0; round < 5 * ENTRIES; round++) {
		for (i = 0; i < ENTRIES; i++) {
			prepare(self);
			say(self, 10 * i, 100 + i);
		}
		ASSERT_EQ(ENTRIES, io_uring_submit(&self->ring));
		for (i = 0; i < ENTRIES; i++)
			wait_for(&self->ring, &cqe[i]);
		for (i = 0; i < ENTRIES; i++) {
			which = (round + 3 * i) % ENTRIES;
			ASSERT_EQ(1, evpl_uring_buf_ring_take(self->buf_ring, &cqe[which], 1,
							      &iovec));
			EXPECT_EQ(cqe[which].res, iovec.length);
			EXPECT_EQ(10 * (iovec.length - 100), *(unsigned char *)iovec.data);
			evpl_iovec_release(&iovec);
		}
	}
}

TEST_F(buf_ring, nothing_received_costs_the_ring_no_buffer)
{
	struct evpl_iovec iovec;
	struct io_uring_cqe cqe;
	int i;

	shutdown(self->there, SHUT_WR);
	for (i = 0; i < 3 * ENTRIES; i++) {
		receive_one(self, &cqe);
		ASSERT_EQ(0, cqe.res);
		ASSERT_EQ(0, evpl_uring_buf_ring_take(self->buf_ring, &cqe, 1, &iovec));
	}
	for (i = 0; i < 3 * ENTRIES; i++) {
		prepare(self)->fd = -1;
		submit(self, &cqe);
		ASSERT_EQ(-EBADF, cqe.res);
		ASSERT_EQ(0, evpl_uring_buf_ring_take(self->buf_ring, &cqe, 1, &iovec));
	}
	EXPECT_EQ(0, evpl_uring_buf_ring_refill(self->buf_ring));

	connect_by(self, SOCK_SEQPACKET);
	for (i = 0; i < 3 * ENTRIES; i++) {
		say(self, 3, 5);
		receive_one(self, &cqe);
		ASSERT_EQ(5, cqe.res);
		ASSERT_EQ(1, evpl_uring_buf_ring_take(self->buf_ring, &cqe, 1, &iovec));
		EXPECT_TRUE(heard(self, &iovec, 1, 5));
		evpl_iovec_release(&iovec);
	}
}

/* The kernel takes a buffer for a file that has no more bytes, and its completion names it. */
TEST_F(buf_ring, a_buffer_that_nothing_is_read_into_goes_back)
{
	int fd = memfd_create("test_buf_ring", MFD_CLOEXEC), i;
	struct io_uring_sqe *sqe;
	struct evpl_iovec iovec;
	struct io_uring_cqe cqe;

	ASSERT_LE(0, fd);
	for (i = 0; i < 3 * ENTRIES; i++) {
		sqe = io_uring_get_sqe(&self->ring);
		io_uring_prep_read(sqe, fd, NULL, LENGTH, 0);
		sqe->flags |= IOSQE_BUFFER_SELECT;
		sqe->buf_group = GROUP;
		submit(self, &cqe);
		ASSERT_EQ(0, cqe.res);
		ASSERT_EQ(IORING_CQE_F_BUFFER, cqe.flags & IORING_CQE_F_BUFFER);
		ASSERT_EQ(0, evpl_uring_buf_ring_take(self->buf_ring, &cqe, 1, &iovec));
	}
	close(fd);
}

static void *destroy_elsewhere(void *arg)
{
	evpl_uring_buf_ring_destroy(arg);
	return NULL;
}

TEST_F(buf_ring, a_thread_that_may_not_unregister_it_releases_nothing)
{
	struct io_uring_cqe cqe;
	struct evpl_iovec all[PER_SLAB];
	pthread_t thread;
	int i, n = 0;

	if (!(variant->flags & IORING_SETUP_SINGLE_ISSUER))
		SKIP(return, "any thread may");
	ASSERT_EQ(0, pthread_create(&thread, NULL, destroy_elsewhere, self->buf_ring));
	pthread_join(thread, NULL);

	/* The kernel still writes there, and nobody else has that memory. */
	while (n < (int)PER_SLAB && evpl_buffer_alloc(self->evpl, &all[n]) == 1)
		memset(all[n++].data, 0, BUFFER);
	EXPECT_EQ(PER_SLAB - 1, n);
	say(self, 1, 100);
	receive_one(self, &cqe);
	EXPECT_EQ(100, cqe.res);
	for (i = 0; i < n; i++)
		EXPECT_EQ(0, *(char *)all[i].data);
	evpl_iovecs_release(all, n);
}

TEST_F(buf_ring, a_completion_of_another_group_is_refused)
{
	struct io_uring_cqe cqe = {
		.res = 1,
		.flags = IORING_CQE_F_BUFFER | ENTRIES << IORING_CQE_BUFFER_SHIFT,
	};
	struct evpl_iovec iovec;

	EXPECT_EQ(-EINVAL, evpl_uring_buf_ring_take(self->buf_ring, &cqe, 1, &iovec));
	/* The completion claims more bytes than all buffers have. */
	cqe = (struct io_uring_cqe){ .res = (ENTRIES + 1) * LENGTH, .flags = IORING_CQE_F_BUFFER };
	EXPECT_EQ(-EINVAL, evpl_uring_buf_ring_take(self->buf_ring, &cqe, ENTRIES + 1, &iovec));
	EXPECT_EQ(0, evpl_uring_buf_ring_refill(self->buf_ring));
}

TEST_F(buf_ring, where_memory_is_short_it_runs_dry_and_is_refilled)
{
	struct evpl_iovec held[PER_SLAB], got[ENTRIES];
	struct io_uring_cqe cqe;
	int i, n = 0;

	evpl_uring_buf_ring_destroy(self->buf_ring);
	ASSERT_EQ(0, evpl_uring_buf_ring_create(&self->buf_ring, self->evpl, &self->ring, GROUP,
						ENTRIES, BUFFER, 0));
	while (evpl_buffer_alloc(self->evpl, &held[n]) == 1)
		n++;
	ASSERT_EQ(PER_SLAB - ENTRIES, n);
	for (i = 0; i < ENTRIES; i++) {
		say(self, (unsigned int)i, 9);
		receive_one(self, &cqe);
		ASSERT_EQ(1, evpl_uring_buf_ring_take(self->buf_ring, &cqe, 1, &got[i]));
		EXPECT_EQ(i + 1, evpl_uring_buf_ring_refill(self->buf_ring));
	}
	/* The completion was taken already, and no other buffer has its ID now. */
	EXPECT_EQ(-EINVAL, evpl_uring_buf_ring_take(self->buf_ring, &cqe, 1, held));
	say(self, 50, 9);
	receive_one(self, &cqe);
	EXPECT_EQ(-ENOBUFS, cqe.res);
	EXPECT_EQ(0, evpl_uring_buf_ring_take(self->buf_ring, &cqe, 1, held));

	evpl_iovec_release(&got[2]);
	EXPECT_EQ(ENTRIES - 1, evpl_uring_buf_ring_refill(self->buf_ring));
	receive_one(self, &cqe);
	ASSERT_EQ(1, evpl_uring_buf_ring_take(self->buf_ring, &cqe, 1, &got[2]));
	EXPECT_TRUE(heard(self, &got[2], 1, 9));

	/* evpl_uring_buf_ring_take() refills the ring with memory that was released meanwhile. */
	evpl_iovec_release(&got[1]);
	EXPECT_EQ(ENTRIES - 1, evpl_uring_buf_ring_refill(self->buf_ring));
	evpl_iovec_release(&got[0]);
	evpl_iovec_release(&got[2]);
	evpl_iovec_release(&got[3]);
	say(self, 60, 9);
	receive_one(self, &cqe);
	ASSERT_EQ(1, evpl_uring_buf_ring_take(self->buf_ring, &cqe, 1, &got[0]));
	EXPECT_TRUE(heard(self, &got[0], 1, 9));
	EXPECT_EQ(1, evpl_uring_buf_ring_refill(self->buf_ring));
	evpl_iovec_release(&got[0]);
	EXPECT_EQ(0, evpl_uring_buf_ring_refill(self->buf_ring));
	evpl_iovecs_release(held, n);
}

TEST_F(buf_ring, a_bundle_is_several_iovecs_in_order)
{
	struct evpl_iovec iovec[ENTRIES];
	struct io_uring_cqe cqe[ENTRIES];
	unsigned int round, i;
	struct io_uring_sqe *sqe;
	int n;

	for (round = 0; round < 3 * ENTRIES; round++) {
		/* Taking completions in another order changes the order of the buffers. */
		connect_by(self, SOCK_SEQPACKET);
		for (i = 0; i < ENTRIES; i++) {
			prepare(self);
			say(self, i, 1);
		}
		ASSERT_EQ(ENTRIES, io_uring_submit(&self->ring));
		for (i = 0; i < ENTRIES; i++)
			wait_for(&self->ring, &cqe[i]);
		for (i = 0; i < ENTRIES; i++) {
			ASSERT_EQ(1, evpl_uring_buf_ring_take(self->buf_ring,
							      &cqe[(3 * i + round) % ENTRIES], 1,
							      iovec));
			evpl_iovec_release(iovec);
		}

		connect_by(self, SOCK_STREAM);
		say(self, round, 2 * LENGTH + 1808);
		sqe = prepare(self);
		sqe->ioprio |= RECV_BUNDLE;
		/* Linux 6.12 takes one buffer alone if the request has no length. */
		sqe->len = ENTRIES * LENGTH;
		submit(self, &cqe[0]);
		if (cqe[0].res == -EINVAL)
			SKIP(return, "this kernel has no bundles");
		ASSERT_LT(LENGTH, cqe[0].res);
		n = (cqe[0].res + LENGTH - 1) / LENGTH;
		EXPECT_EQ(-ENOBUFS, evpl_uring_buf_ring_take(self->buf_ring, &cqe[0],
							     (unsigned int)n - 1, iovec));
		ASSERT_EQ(n, evpl_uring_buf_ring_take(self->buf_ring, &cqe[0], ENTRIES, iovec));
		EXPECT_TRUE(heard(self, iovec, n, (size_t)cqe[0].res));
		evpl_iovecs_release(iovec, n);
		EXPECT_EQ(0, evpl_uring_buf_ring_refill(self->buf_ring));
	}
}

TEST_F(buf_ring, incremental_messages_share_a_buffer)
{
	static const unsigned int sizes[] = { 100, 1, LENGTH - 101, 7 };
	struct evpl_iovec iovec[ARRAY_SIZE(sizes)];
	struct io_uring_cqe cqe;
	unsigned int i;
	int err;

	evpl_uring_buf_ring_destroy(self->buf_ring);
	self->buf_ring = NULL;
	err = evpl_uring_buf_ring_create(&self->buf_ring, self->evpl, &self->ring, GROUP, ENTRIES,
					 LENGTH, EVPL_BUF_RING_INCREMENTAL);
	if (err == -EOPNOTSUPP)
		SKIP(return, "this kernel fills buffers at once");
	ASSERT_EQ(0, err);
	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		say(self, i, sizes[i]);
		receive_one(self, &cqe);
		ASSERT_EQ(sizes[i], cqe.res);
		ASSERT_EQ(1, evpl_uring_buf_ring_take(self->buf_ring, &cqe, 1, &iovec[i]));
		EXPECT_TRUE(heard(self, &iovec[i], 1, sizes[i]));
		EXPECT_EQ(0, evpl_uring_buf_ring_refill(self->buf_ring));
	}
	EXPECT_EQ((char *)iovec[0].data + 100, iovec[1].data);
	EXPECT_EQ((char *)iovec[1].data + 1, iovec[2].data);
	evpl_iovecs_release(iovec, ARRAY_SIZE(iovec));
}

TEST_F(buf_ring, iovecs_outlive_it)
{
	struct io_uring_cqe cqe;
	struct evpl_iovec iovec;

	say(self, 1, 300);
	receive_one(self, &cqe);
	ASSERT_EQ(1, evpl_uring_buf_ring_take(self->buf_ring, &cqe, 1, &iovec));
	evpl_uring_buf_ring_destroy(self->buf_ring);
	self->buf_ring = NULL;
	EXPECT_TRUE(heard(self, &iovec, 1, 300));
	EXPECT_EQ(1, used_in(self->pool));
	evpl_iovec_release(&iovec);
}

TEST_HARNESS_MAIN
