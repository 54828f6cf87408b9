// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * libevplmem-uring: each slab is registered once, on the ring's thread, and its slot
 * comes back; what can't be registered works. All of it with a ring that any thread may
 * use and with one that is a single thread's. What one ring has registered, a clone of it
 * uses. Where the kernel registers no memory of
 * the pool's kind (the module's, on Linux 6.1), what needs it is skipped.
 */
#include "common.h"

#include <liburing.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
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

/* A number in a file of the kernel's. */
static long long number_in(const char *path, const char *format)
{
	FILE *file = fopen(path, "re");
	long long number = -1;
	char line[128];

	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, format, &number) == 1)
			break;
	if (number < 0)
		abort();
	fclose(file);
	return number;
}

/* What all rings of this process have pinned, by their account. */
static long pinned(void)
{
	return number_in("/proc/self/status", "VmPin: %lld") * KB;
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
	EXPECT_EQ(-EOPNOTSUPP, evpl_uring_create(&uring, self->pool, ring, 0, 1, 4));
	EXPECT_EQ(-EBUSY, evpl_uring_create(&uring, self->pool, ring, 0, 1,
					    EVPL_URING_NEW_TABLE));
	EXPECT_EQ(1, stats_of(self->pool).devices);
}

/* What a child of fork(2) finds; its exit status. */
static int in_child(FIXTURE_DATA(uring) *self)
{
	struct evpl_uring_stats stats = { .size = sizeof(stats) };
	struct evpl_uring *uring;

	if (evpl_uring_create(&uring, self->pool, &self->ring, 0, 1, 0) != -EPERM ||
	    evpl_uring_clone(&uring, self->uring, &self->ring) != -EPERM ||
	    evpl_uring_index(self->uring, &self->iovec[0][0]) != -EPERM ||
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

/* What a ring has to do at once looks like a signal to who runs its requests. */
TEST_F(uring, end_is_read_into_a_page_that_is_not_there_yet_while_a_poll_completes)
{
	struct evpl_record *got = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
				       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct received received;
	struct io_uring_cqe *cqe;
	struct io_uring_sqe *sqe;
	int fds[2], results[3], i;

	if (stats_of(self->pool).backend != EVPL_BACKEND_MODULE)
		SKIP(return, "the module's alone");
	ASSERT_NE(MAP_FAILED, got);
	ASSERT_EQ(0, pipe(fds));
	receive(&received, self->pool, 4096);
	EXPECT_EQ(0, evpl_channel_send(received.here, &received.message, 1));
	EXPECT_EQ(1, evpl_channel_recv(received.there, &received.message, 1));
	EXPECT_EQ(0, evpl_channel_send(received.there, &received.message, 1));

	sqe = io_uring_get_sqe(&self->ring);
	io_uring_prep_poll_add(sqe, fds[0], POLLIN);
	sqe->user_data = 0;
	ASSERT_EQ(1, io_uring_submit(&self->ring));
	sqe = io_uring_get_sqe(&self->ring);
	io_uring_prep_write(sqe, fds[1], "x", 1, 0);
	sqe->user_data = 1;
	sqe = io_uring_get_sqe(&self->ring);
	io_uring_prep_read(sqe, evpl_channel_fd(received.here), got, sizeof(*got), 0);
	sqe->user_data = 2;
	ASSERT_EQ(2, io_uring_submit_and_wait(&self->ring, 3));
	for (i = 0; i < 3; i++) {
		ASSERT_EQ(0, io_uring_wait_cqe(&self->ring, &cqe));
		results[cqe->user_data] = cqe->res;
		io_uring_cqe_seen(&self->ring, cqe);
	}
	EXPECT_EQ(POLLIN, results[0]);
	EXPECT_EQ(1, results[1]);
	EXPECT_EQ(sizeof(*got), results[2]);
	EXPECT_EQ(4096, got->length);

	/* It goes back as it came. */
	io_uring_prep_write(io_uring_get_sqe(&self->ring), evpl_channel_fd(received.here), got,
			    sizeof(*got), 0);
	EXPECT_EQ(sizeof(*got), submit(&self->ring));
	EXPECT_EQ(1, evpl_channel_recv(received.there, &received.message, 1));
	EXPECT_EQ(0, end_received(&received));
	close(fds[0]);
	close(fds[1]);
	munmap(got, 4096);
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

TEST_F(uring, nor_has_an_iovec_of_another_pool_but_its_io_works)
{
	struct evpl_uring *other_uring;
	struct evpl_iovec foreign;
	struct evpl_pool *pool;
	struct io_uring other;
	struct evpl *evpl;

	NEEDS_REGISTRATION();
	/* Registered in the first slot of another ring, as the first slab of this pool is. */
	ASSERT_EQ(0, io_uring_queue_init(ENTRIES, &other, 0));
	ASSERT_EQ(0, open_pool(&pool, BUFFER, SLAB));
	ASSERT_EQ(0, evpl_create(&evpl, pool, NULL));
	ASSERT_EQ(0, evpl_uring_create(&other_uring, pool, &other, FIRST, SLOTS,
				       EVPL_URING_NEW_TABLE));
	ASSERT_EQ(1, evpl_buffer_alloc(evpl, &foreign));
	ASSERT_EQ(FIRST, evpl_uring_index(other_uring, &foreign));
	ASSERT_EQ(1, evpl_buffer_alloc(self->evpl, &self->iovec[0][0]));
	ASSERT_EQ(FIRST, evpl_uring_index(self->uring, &self->iovec[0][0]));

	EXPECT_EQ(-EINVAL, evpl_uring_index(self->uring, &foreign));
	EXPECT_EQ(1, uring_stats(self->uring).registrations);
	EXPECT_EQ(0, uring_stats(self->uring).unregistrations);
	memset(foreign.data, 'f', BUFFER);
	EXPECT_EQ(0, evpl_uring_prep_write(self->uring, io_uring_get_sqe(&self->ring), self->fd,
					   &foreign, 0));
	EXPECT_EQ(BUFFER, submit(&self->ring));
	memset(foreign.data, 0, BUFFER);
	EXPECT_EQ(0, evpl_uring_prep_read(self->uring, io_uring_get_sqe(&self->ring), self->fd,
					  &foreign, 0));
	EXPECT_EQ(BUFFER, submit(&self->ring));
	EXPECT_EQ('f', ((char *)foreign.data)[BUFFER - 1]);

	evpl_iovec_release(&foreign);
	evpl_uring_destroy(other_uring);
	io_uring_queue_exit(&other);
	evpl_destroy(evpl);
	EXPECT_EQ(0, evpl_pool_close(pool));
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

/* Slices of this many bytes are written and read back; what the two calls returned. */
static void vectors_round_trip(struct __test_metadata *_metadata, FIXTURE_DATA(uring) *self,
			       const struct evpl_iovec *from, struct evpl_iovec *to, int niov,
			       int registered)
{
	struct iovec vector[3];
	int i, bytes = 0;

	for (i = 0; i < niov; i++) {
		memset(from[i].data, 'a' + i, from[i].length);
		memset(to[i].data, 0, to[i].length);
		bytes += (int)from[i].length;
	}
	EXPECT_EQ(registered, evpl_uring_prep_writev(self->uring, io_uring_get_sqe(&self->ring),
						     self->fd, from, niov, vector, 4096));
	EXPECT_EQ(bytes, submit(&self->ring));
	EXPECT_EQ(registered, evpl_uring_prep_readv(self->uring, io_uring_get_sqe(&self->ring),
						    self->fd, to, niov, vector, 4096));
	EXPECT_EQ(bytes, submit(&self->ring));
	for (i = 0; i < niov; i++)
		EXPECT_EQ(0, memcmp(from[i].data, to[i].data, from[i].length));
}

/* Linux 6.15 has READV_FIXED and WRITEV_FIXED. */
static bool kernel_has_readv_fixed(struct io_uring *ring)
{
	struct io_uring_probe *probe = io_uring_get_probe_ring(ring);
	bool has = probe && io_uring_opcode_supported(probe, 61);

	io_uring_free_probe(probe);
	return has;
}

TEST_F(uring, several_slices_are_written_and_read_by_one_request)
{
	struct evpl_iovec *from = self->iovec[0], *to = self->iovec[1];
	int i, fixed = !self->refuses && kernel_has_readv_fixed(&self->ring);
	struct iovec vector[1025];

	for (i = 0; i < 3; i++) {
		ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, 1000U + (unsigned int)i, 0, 1, &from[i]));
		ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, 1000U + (unsigned int)i, 0, 1, &to[i]));
	}
	vectors_round_trip(_metadata, self, from, to, 3, fixed);
	/* One slice needs no vector. */
	vectors_round_trip(_metadata, self, from, to, 1, !self->refuses);

	EXPECT_EQ(0, evpl_uring_prep_readv(self->uring, io_uring_get_sqe(&self->ring), self->fd,
					   to, 0, vector, 4096));
	EXPECT_EQ(0, submit(&self->ring));
	EXPECT_EQ(0, evpl_uring_prep_readv(self->uring, io_uring_get_sqe(&self->ring), self->fd,
					   to, -1, vector, 4096));
	EXPECT_EQ(-EINVAL, submit(&self->ring));
}

TEST_F(uring, slices_of_several_slabs_and_empty_ones_are_written_and_read_unregistered)
{
	struct evpl_iovec *here = self->iovec[0], *there = self->iovec[1], from[3], to[3];
	int i;

	/* The first slab's buffers, and then the second one's. */
	for (i = 0; i < (int)PER_SLAB; i++)
		ASSERT_EQ(1, evpl_buffer_alloc(self->evpl, &here[i]));
	for (i = 0; i < (int)PER_SLAB; i++)
		ASSERT_EQ(1, evpl_buffer_alloc(self->evpl, &there[i]));
	for (i = 0; i < 3; i++) {
		from[i] = i == 1 ? there[0] : here[i];
		to[i] = i == 2 ? there[1] : here[3 + i];
		from[i].length = to[i].length = 500;
	}
	vectors_round_trip(_metadata, self, from, to, 3, 0);

	/* Of one slab, but a part of it is empty. */
	from[1] = here[6];
	to[2] = here[7];
	from[1].length = to[1].length = 0;
	to[2].length = 500;
	vectors_round_trip(_metadata, self, from, to, 3, 0);
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

/*
 * Root becomes somebody whom io_uring charges, and whom nobody else is charged with. He may
 * lock so many slabs, and the rings: Linux 6.14 charges for these too.
 */
static bool become_somebody(unsigned int slabs)
{
	uid_t uid = 100000 + getpid();
	struct rlimit limit;

	if (getrlimit(RLIMIT_MEMLOCK, &limit))
		return false;
	limit.rlim_cur = slabs * SLAB + MB;
	return !setrlimit(RLIMIT_MEMLOCK, &limit) && !setresuid(uid, uid, 0);
}

static bool become_root(void)
{
	return !setresuid(0, 0, 0);
}

static bool raise_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_MEMLOCK, &limit))
		return false;
	limit.rlim_cur = limit.rlim_max;
	return !setrlimit(RLIMIT_MEMLOCK, &limit);
}

#define NEEDS_ROOT()									\
	do {										\
		if (geteuid())								\
			SKIP(return, "needs root, to become somebody else");		\
	} while (0)

TEST_F(uring, a_limit_of_locked_memory_is_told_and_tried_again)
{
	struct evpl_uring *uring;
	struct io_uring ring;
	const char *notice;

	NEEDS_REGISTRATION();
	NEEDS_ROOT();
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[0]));
	ASSERT_TRUE(become_somebody(0));
	ASSERT_EQ(0, io_uring_queue_init(ENTRIES, &ring, variant->flags));
	ASSERT_EQ(0, evpl_uring_create(&uring, self->pool, &ring, 0, 1,
				       EVPL_URING_NEW_TABLE));
	EXPECT_EQ(-ENOMEM, evpl_uring_index(uring, &self->iovec[0][0]));
	EXPECT_EQ(-ENOMEM, evpl_uring_index(uring, &self->iovec[0][0]));
	EXPECT_EQ(1, uring_stats(uring).failures);
	notice = evpl_uring_notice(uring);
	ASSERT_NE(NULL, notice);
	EXPECT_NE(NULL, strstr(notice, "RLIMIT_MEMLOCK"));

	ASSERT_TRUE(raise_limit());
	EXPECT_EQ(-ENOMEM, evpl_uring_index(uring, &self->iovec[0][0]));
	evpl_uring_flush(uring);
	EXPECT_EQ(0, evpl_uring_index(uring, &self->iovec[0][0]));
	evpl_uring_destroy(uring);
	io_uring_queue_exit(&ring);
	ASSERT_TRUE(become_root());
}

TEST_F(uring, an_eager_ring_registers_what_is_there_and_the_rest_at_its_use)
{
	struct evpl_uring *uring;
	struct io_uring ring;

	NEEDS_REGISTRATION();
	ASSERT_EQ(0, evpl_pool_preallocate(self->pool, 2 * SLAB, EVPL_ANY_NODE));
	ASSERT_EQ(2, stats_of(self->pool).slabs);
	ASSERT_EQ(0, io_uring_queue_init(ENTRIES, &ring, variant->flags));
	ASSERT_EQ(0, evpl_uring_create(&uring, self->pool, &ring, 0, SLOTS,
				       EVPL_URING_NEW_TABLE | EVPL_URING_EAGER));
	EXPECT_EQ(2, uring_stats(uring).registrations);
	EXPECT_EQ(2, uring_stats(uring).slots_used);
	EXPECT_EQ(2 * SLAB, pinned());

	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[0]));
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[1]));
	EXPECT_EQ(2, copy_by(self, &ring, uring));
	EXPECT_EQ(2, uring_stats(uring).registrations);
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[2]));
	EXPECT_EQ(2, uring_stats(uring).slots_used);
	EXPECT_EQ(2, evpl_uring_index(uring, &self->iovec[2][0]));
	EXPECT_EQ(3, uring_stats(uring).registrations);

	/* One that goes gives its slot back, as ever. */
	give_back(self, 0);
	drop_slab(self, 1);
	evpl_uring_flush(uring);
	EXPECT_EQ(2, uring_stats(uring).slots_used);
	EXPECT_TRUE(pinned_falls_to(&ring, 2 * SLAB));
	evpl_uring_destroy(uring);
	EXPECT_TRUE(pinned_falls_to(&ring, 0));
	io_uring_queue_exit(&ring);
}

TEST_F(uring, what_an_eager_ring_cant_register_it_tells_and_tries_again)
{
	struct evpl_uring *uring;
	struct io_uring ring;
	const char *notice;

	NEEDS_REGISTRATION();
	NEEDS_ROOT();
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[0]));
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[1]));
	ASSERT_TRUE(become_somebody(1));
	ASSERT_EQ(0, io_uring_queue_init(ENTRIES, &ring, variant->flags));
	ASSERT_EQ(0, evpl_uring_create(&uring, self->pool, &ring, 0, SLOTS,
				       EVPL_URING_NEW_TABLE | EVPL_URING_EAGER));
	EXPECT_EQ(1, uring_stats(uring).slots_used);
	EXPECT_EQ(-ENOMEM, uring_stats(uring).error);
	notice = evpl_uring_notice(uring);
	ASSERT_NE(NULL, notice);
	EXPECT_NE(NULL, strstr(notice, "RLIMIT_MEMLOCK"));
	EXPECT_EQ(1, copy_by(self, &ring, uring));

	ASSERT_TRUE(raise_limit());
	evpl_uring_flush(uring);
	EXPECT_EQ(2, copy_by(self, &ring, uring));
	evpl_uring_destroy(uring);
	io_uring_queue_exit(&ring);
	ASSERT_TRUE(become_root());
}

/* A ring beside the fixture's, to be its clone. */
struct twin {
	struct io_uring ring;
	struct evpl_uring *uring;
};

static int clone_ring(FIXTURE_DATA(uring) *self, struct twin *twin, unsigned int flags)
{
	if (io_uring_queue_init(ENTRIES, &twin->ring, flags))
		abort();
	return evpl_uring_clone(&twin->uring, self->uring, &twin->ring);
}

static void end_twin(struct twin *twin)
{
	evpl_uring_destroy(twin->uring);
	io_uring_queue_exit(&twin->ring);
}

/* Whether this kernel clones tables of buffers, by the library's own answer. */
static bool kernel_clones(FIXTURE_DATA(uring) *self)
{
	struct twin twin;
	int cloned = clone_ring(self, &twin, 0);

	if (cloned < 0)
		abort();
	end_twin(&twin);
	return cloned;
}

#define NEEDS_CLONES()									\
	do {										\
		NEEDS_REGISTRATION();							\
		if (!kernel_clones(self))						\
			SKIP(return, "this kernel doesn't clone tables of buffers");	\
	} while (0)

/* Takes slabs and has the fixture's ring register them. */
static bool register_slabs(FIXTURE_DATA(uring) *self, int nr)
{
	int i;

	for (i = 0; i < nr; i++)
		if (take_slab(self->evpl, self->iovec[i]) ||
		    evpl_uring_index(self->uring, &self->iovec[i][0]) != FIRST + i)
			return false;
	return pinned() == nr * (long)SLAB;
}

TEST_F(uring, a_kernel_clones_tables_from_6_12_on)
{
	struct utsname name;
	int major, minor;

	ASSERT_EQ(0, uname(&name));
	ASSERT_EQ(2, sscanf(name.release, "%d.%d", &major, &minor));
	EXPECT_EQ(major > 6 || (major == 6 && minor >= 12), kernel_clones(self));
}

TEST_F(uring, a_clone_moves_bytes_in_what_its_source_registered)
{
	struct twin twin;

	NEEDS_CLONES();
	ASSERT_TRUE(register_slabs(self, 2));
	ASSERT_EQ(1, clone_ring(self, &twin, variant->flags));
	EXPECT_EQ(2, uring_stats(twin.uring).slots_used);
	EXPECT_EQ(SLOTS, uring_stats(twin.uring).slots);
	EXPECT_EQ(2 * SLAB, pinned());
	EXPECT_EQ(FIRST, evpl_uring_index(twin.uring, &self->iovec[0][0]));
	EXPECT_EQ(FIRST + 1, evpl_uring_index(twin.uring, &self->iovec[1][0]));
	EXPECT_EQ(2, copy_by(self, &twin.ring, twin.uring));
	EXPECT_EQ(2, copy_by(self, &self->ring, self->uring));
	EXPECT_EQ(0, uring_stats(twin.uring).registrations);
	EXPECT_EQ(0, uring_stats(twin.uring).failures);
	EXPECT_EQ(NULL, evpl_uring_notice(twin.uring));

	/* The clone's end takes nothing from the source. */
	end_twin(&twin);
	EXPECT_EQ(2, copy_by(self, &self->ring, self->uring));
	EXPECT_EQ(2 * SLAB, pinned());
}

TEST_F(uring, a_clone_of_a_clone_outlives_both_sources)
{
	struct twin twin, last;

	NEEDS_CLONES();
	ASSERT_TRUE(register_slabs(self, 2));
	ASSERT_EQ(1, clone_ring(self, &twin, variant->flags));
	ASSERT_EQ(0, io_uring_queue_init(ENTRIES, &last.ring, variant->flags));
	ASSERT_EQ(1, evpl_uring_clone(&last.uring, twin.uring, &last.ring));

	evpl_uring_destroy(self->uring);
	self->uring = NULL;
	io_uring_queue_exit(&self->ring);
	end_twin(&twin);
	ASSERT_EQ(0, io_uring_queue_init(ENTRIES, &self->ring, variant->flags));
	EXPECT_EQ(2, copy_by(self, &last.ring, last.uring));
	EXPECT_EQ(0, uring_stats(last.uring).registrations);
	EXPECT_EQ(2 * SLAB, pinned());
	evpl_uring_destroy(last.uring);
	EXPECT_TRUE(pinned_falls_to(&last.ring, 0));
	io_uring_queue_exit(&last.ring);
}

TEST_F(uring, clones_are_charged_once_for_all)
{
	struct evpl_uring *source, *own;
	struct io_uring rings[2];
	struct twin twin;

	NEEDS_CLONES();
	NEEDS_ROOT();
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[0]));
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[1]));
	ASSERT_TRUE(become_somebody(1));
	ASSERT_EQ(0, io_uring_queue_init(ENTRIES, &rings[0], variant->flags));
	ASSERT_EQ(0, evpl_uring_create(&source, self->pool, &rings[0], 0, SLOTS,
				       EVPL_URING_NEW_TABLE));
	EXPECT_EQ(0, evpl_uring_index(source, &self->iovec[0][0]));

	/* A ring by itself is one too many, a clone isn't; nor has it room for more. */
	ASSERT_EQ(0, io_uring_queue_init(ENTRIES, &rings[1], variant->flags));
	ASSERT_EQ(0, evpl_uring_create(&own, self->pool, &rings[1], 0, SLOTS,
				       EVPL_URING_NEW_TABLE));
	EXPECT_EQ(-ENOMEM, evpl_uring_index(own, &self->iovec[0][0]));
	ASSERT_EQ(0, io_uring_queue_init(ENTRIES, &twin.ring, variant->flags));
	ASSERT_EQ(1, evpl_uring_clone(&twin.uring, source, &twin.ring));
	EXPECT_EQ(1, copy_by(self, &twin.ring, twin.uring));
	EXPECT_EQ(-ENOMEM, evpl_uring_index(twin.uring, &self->iovec[1][0]));

	/* The charge goes with the last of them. */
	evpl_uring_destroy(source);
	evpl_uring_flush(own);
	EXPECT_EQ(-ENOMEM, evpl_uring_index(own, &self->iovec[0][0]));
	evpl_uring_destroy(twin.uring);
	EXPECT_TRUE(pinned_falls_to(&twin.ring, 0));
	evpl_uring_flush(own);
	EXPECT_EQ(0, evpl_uring_index(own, &self->iovec[0][0]));

	evpl_uring_destroy(own);
	io_uring_queue_exit(&rings[0]);
	io_uring_queue_exit(&rings[1]);
	io_uring_queue_exit(&twin.ring);
	ASSERT_TRUE(become_root());
}

/* What the module still charges for, though its slab is freed; 0 where it isn't used. */
static long long held(FIXTURE_DATA(uring) *self)
{
	if (stats_of(self->pool).backend != EVPL_BACKEND_MODULE)
		return 0;
	return number_in("/sys/kernel/debug/evpl/counters", "detached-bytes %lld");
}

static bool held_falls_to(FIXTURE_DATA(uring) *self, long long bytes)
{
	int tries = 600;

	while (held(self) != bytes) {
		if (!tries--)
			return false;
		usleep(100 * 1000);
	}
	return true;
}

TEST_F(uring, the_memory_of_a_slab_that_goes_is_back_when_all_clones_cleared_it)
{
	bool module = stats_of(self->pool).backend == EVPL_BACKEND_MODULE;
	struct twin twin;

	NEEDS_CLONES();
	ASSERT_TRUE(held_falls_to(self, 0));	/* what the test before left */
	ASSERT_TRUE(register_slabs(self, 3));
	ASSERT_EQ(1, clone_ring(self, &twin, variant->flags));
	give_back(self, 0);
	drop_slab(self, 1);
	ASSERT_EQ(2, stats_of(self->pool).slabs);
	EXPECT_EQ(3, uring_stats(self->uring).slots_used);
	EXPECT_EQ(3, uring_stats(twin.uring).slots_used);

	evpl_uring_flush(self->uring);
	EXPECT_EQ(2, uring_stats(self->uring).slots_used);
	EXPECT_EQ(3, uring_stats(twin.uring).slots_used);
	EXPECT_EQ(3 * SLAB, pinned());
	EXPECT_EQ(module ? SLAB : 0, held(self));

	evpl_uring_flush(twin.uring);
	EXPECT_EQ(2, uring_stats(twin.uring).slots_used);
	EXPECT_EQ(1, uring_stats(twin.uring).unregistrations);
	EXPECT_TRUE(pinned_falls_to(&twin.ring, 2 * SLAB));
	EXPECT_TRUE(held_falls_to(self, 0));

	/* The slots are as good as before, in both. */
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[0]));
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[1]));
	EXPECT_EQ(2, copy_by(self, &twin.ring, twin.uring));
	EXPECT_EQ(2, copy_by(self, &self->ring, self->uring));
	end_twin(&twin);
}

TEST_F(uring, a_slab_that_went_before_isnt_in_a_clone)
{
	struct twin twin;

	NEEDS_CLONES();
	ASSERT_TRUE(register_slabs(self, 3));
	give_back(self, 0);
	drop_slab(self, 1);
	ASSERT_EQ(3, uring_stats(self->uring).slots_used);
	ASSERT_EQ(1, clone_ring(self, &twin, variant->flags));
	EXPECT_EQ(2, uring_stats(twin.uring).slots_used);
	EXPECT_EQ(3 * SLAB, pinned());
	evpl_uring_flush(self->uring);
	EXPECT_TRUE(pinned_falls_to(&self->ring, 2 * SLAB));
	end_twin(&twin);
}

TEST_F(uring, a_clone_finds_a_slab_in_another_slot_than_the_last_one_of_its_number)
{
	struct evpl_slab_info before, after;
	struct twin twin;
	int i;

	NEEDS_CLONES();
	ASSERT_TRUE(register_slabs(self, 4));
	ASSERT_EQ(0, evpl_iovec_slab(&self->iovec[1][0], &before));
	give_back(self, 0);
	for (i = 1; i < 3; i++) {
		drop_slab(self, i);
		evpl_uring_flush(self->uring);
	}
	for (i = 0; i < 2; i++)
		ASSERT_EQ(0, take_slab(self->evpl, self->iovec[i]));
	ASSERT_EQ(0, evpl_iovec_slab(&self->iovec[1][0], &after));
	ASSERT_EQ(before.number, after.number);
	ASSERT_EQ(FIRST + 2, evpl_uring_index(self->uring, &self->iovec[1][0]));

	ASSERT_EQ(1, clone_ring(self, &twin, variant->flags));
	EXPECT_EQ(3, uring_stats(twin.uring).slots_used);
	EXPECT_EQ(FIRST + 2, evpl_uring_index(twin.uring, &self->iovec[1][0]));
	EXPECT_EQ(2, copy_by(self, &twin.ring, twin.uring));
	end_twin(&twin);
}

TEST_F(uring, a_later_slab_is_registered_by_each_ring_until_the_table_is_cloned_anew)
{
	struct twin twin;

	NEEDS_CLONES();
	ASSERT_TRUE(register_slabs(self, 1));
	ASSERT_EQ(1, clone_ring(self, &twin, variant->flags));
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[1]));
	EXPECT_EQ(1, uring_stats(twin.uring).slots_used);
	EXPECT_EQ(2, copy_by(self, &self->ring, self->uring));
	EXPECT_EQ(2 * SLAB, pinned());
	EXPECT_EQ(2, copy_by(self, &twin.ring, twin.uring));
	EXPECT_EQ(1, uring_stats(twin.uring).registrations);
	EXPECT_EQ(3 * SLAB, pinned());

	evpl_uring_destroy(twin.uring);
	ASSERT_EQ(0, io_uring_unregister_buffers(&twin.ring));
	ASSERT_EQ(1, evpl_uring_clone(&twin.uring, self->uring, &twin.ring));
	EXPECT_EQ(2, copy_by(self, &twin.ring, twin.uring));
	EXPECT_EQ(0, uring_stats(twin.uring).registrations);
	EXPECT_TRUE(pinned_falls_to(&twin.ring, 2 * SLAB));
	end_twin(&twin);
}

TEST_F(uring, only_a_ring_without_a_table_becomes_a_clone)
{
	struct evpl_uring *uring, *bare;
	struct io_uring rings[2];

	ASSERT_EQ(0, io_uring_queue_init(ENTRIES, &rings[0], variant->flags));
	ASSERT_EQ(0, io_uring_queue_init(ENTRIES, &rings[1], variant->flags));
	ASSERT_EQ(0, io_uring_register_buffers_sparse(&rings[0], 1));
	EXPECT_EQ(-EBUSY, evpl_uring_clone(&uring, self->uring, &rings[0]));

	ASSERT_EQ(0, io_uring_unregister_buffers(&rings[0]));
	ASSERT_EQ(0, evpl_uring_create(&bare, self->pool, &rings[0], 0, 1, 0));
	if (kernel_clones(self))
		EXPECT_EQ(-ENXIO, evpl_uring_clone(&uring, bare, &rings[1]));
	evpl_uring_destroy(bare);
	EXPECT_EQ(1, stats_of(self->pool).devices);
	io_uring_queue_exit(&rings[0]);
	io_uring_queue_exit(&rings[1]);
}

TEST_F(uring, a_clone_that_the_pool_has_no_place_for_leaves_no_table)
{
	struct evpl_device_ops ops = { .size = sizeof(ops) };
	struct evpl_device *devices[EVPL_DEVICES_MAX];
	struct evpl_uring *uring;
	struct io_uring ring;
	int i;

	for (i = 0; i < EVPL_DEVICES_MAX - 1; i++)
		ASSERT_EQ(0, evpl_device_attach(self->pool, &ops, NULL, &devices[i]));
	ASSERT_EQ(0, io_uring_queue_init(ENTRIES, &ring, variant->flags));
	EXPECT_EQ(-ENOSPC, evpl_uring_clone(&uring, self->uring, &ring));
	EXPECT_EQ(-ENXIO, io_uring_unregister_buffers(&ring));
	EXPECT_EQ(-ENOSPC, evpl_uring_create(&uring, self->pool, &ring, 0, 1,
					     EVPL_URING_NEW_TABLE));
	EXPECT_EQ(-ENXIO, io_uring_unregister_buffers(&ring));
	while (i--)
		evpl_device_detach(devices[i]);
	io_uring_queue_exit(&ring);
}

static void *clone_elsewhere(void *arg)
{
	struct elsewhere *elsewhere = arg;
	struct evpl_uring *uring;

	elsewhere->created = evpl_uring_clone(&uring, elsewhere->uring, elsewhere->ring);
	return NULL;
}

TEST_F(uring, a_ring_of_another_thread_is_a_source_and_no_clone)
{
	struct elsewhere elsewhere = { .uring = self->uring };
	struct io_uring ring;

	NEEDS_RING_OF_ONE_THREAD();
	ASSERT_EQ(0, io_uring_queue_init(ENTRIES, &ring, variant->flags));
	elsewhere.ring = &ring;
	on_thread(clone_elsewhere, &elsewhere);
	EXPECT_EQ(-EEXIST, elsewhere.created);
	EXPECT_EQ(1, stats_of(self->pool).devices);
	io_uring_queue_exit(&ring);
}

/*
 * What a clone is on a kernel that can't: a ring that registers for itself, where it can.
 * So it is also on one that can, between rings that aren't charged to one user.
 */
TEST_F(uring, a_ring_that_cant_be_a_clone_works_by_itself)
{
	bool clones = kernel_clones(self);
	struct twin twin;

	if (clones)
		NEEDS_ROOT();
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[0]));
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[1]));
	evpl_uring_index(self->uring, &self->iovec[0][0]);
	if (clones)
		ASSERT_TRUE(become_somebody(2));
	ASSERT_EQ(0, clone_ring(self, &twin, variant->flags));
	EXPECT_EQ(0, uring_stats(twin.uring).slots_used);
	EXPECT_EQ(SLOTS, uring_stats(twin.uring).slots);
	EXPECT_EQ(NULL, evpl_uring_notice(twin.uring));
	EXPECT_EQ(self->refuses ? 0 : 2, copy_by(self, &twin.ring, twin.uring));
	EXPECT_EQ(self->refuses ? 0 : 2, uring_stats(twin.uring).registrations);
	EXPECT_EQ(self->refuses ? 0 : 3 * (long)SLAB, pinned());
	end_twin(&twin);
	if (clones)
		ASSERT_TRUE(become_root());
}

/*
 * Clones the fixture's ring again and again, and moves bytes. Where that ring is a single
 * thread's, newer kernels than 6.12 let no other clone it.
 */
struct cloner {
	FIXTURE_DATA(uring) *self;
	unsigned int flags;
	int rounds;
	int found;		/* clones that came with slabs */
	const char *error;	/* or "" */
};

static const char *clone_once(struct cloner *cloner, struct twin *twin, int fd,
			      const struct evpl_iovec iovec[2])
{
	int cloned, moved;

	cloned = evpl_uring_clone(&twin->uring, cloner->self->uring, &twin->ring);
	if (cloned < 0)
		return "neither cloned nor a ring by itself";
	cloner->found += cloned && uring_stats(twin->uring).slots_used;
	moved = write_and_read(&twin->ring, twin->uring, fd, &iovec[0], &iovec[1]);
	evpl_uring_destroy(twin->uring);
	if (io_uring_unregister_buffers(&twin->ring))
		return "without a table";
	return moved == 2 ? "" : "not written and read in registered buffers";
}

static void *clone_and_copy(void *arg)
{
	struct cloner *cloner = arg;
	struct evpl_iovec iovec[2];
	struct twin twin;
	struct evpl *evpl;
	int round, fd = memfd_create("test_uring", 0);

	if (fd < 0 || evpl_create(&evpl, cloner->self->pool, NULL) ||
	    io_uring_queue_init(ENTRIES, &twin.ring, cloner->flags))
		abort();
	cloner->error = "";
	for (round = 0; round < cloner->rounds && !cloner->error[0]; round++) {
		if (evpl_buffer_alloc(evpl, &iovec[0]) != 1 ||
		    evpl_buffer_alloc(evpl, &iovec[1]) != 1)
			abort();
		cloner->error = clone_once(cloner, &twin, fd, iovec);
		evpl_iovecs_release(iovec, 2);
	}
	io_uring_queue_exit(&twin.ring);
	evpl_destroy(evpl);
	close(fd);
	return NULL;
}

/*
 * A ring registers a slab when a buffer of it is in use already: what it holds of that
 * one's folio is what it holds of the others.
 */
TEST_F(uring, registering_keeps_no_buffer_that_others_give_back)
{
	const struct evpl_pool_config config = {
		.size = sizeof(config),
		.buffer_size = BUFFER,
		.slab_size = 2 * SLAB,
		.slab_size_max = 2 * SLAB,
		.max_bytes = 2 * SLAB,
	};
	struct evpl_message message = { .flags = EVPL_MESSAGE_DEVICE };
	struct received received;
	struct evpl_uring *uring;
	struct evpl_pool *pool;
	struct io_uring ring;
	struct evpl *evpl;

	NEEDS_REGISTRATION();
	if (stats_of(self->pool).backend != EVPL_BACKEND_MODULE)
		SKIP(return, "the module's alone");
	ASSERT_EQ(0, evpl_pool_open(&pool, &config));
	ASSERT_EQ(0, evpl_create(&evpl, pool, NULL));
	ASSERT_EQ(0, io_uring_queue_init(ENTRIES, &ring, variant->flags));
	ASSERT_EQ(0, evpl_uring_create(&uring, pool, &ring, 0, 1, EVPL_URING_NEW_TABLE));
	receive(&received, pool, BUFFER);
	ASSERT_EQ(1, evpl_buffer_alloc(evpl, &message.iovec));
	ASSERT_EQ(0, evpl_uring_index(uring, &message.iovec));
	ASSERT_EQ(0, evpl_channel_send(received.here, &message, 1));
	ASSERT_EQ(1, evpl_channel_recv(received.there, &message, 1));
	evpl_iovec_release(&message.iovec);
	evpl_pool_trim(pool);
	EXPECT_EQ(0, used_in(pool));
	EXPECT_EQ(0, end_received(&received));
	evpl_uring_destroy(uring);
	io_uring_queue_exit(&ring);
	evpl_destroy(evpl);
	EXPECT_EQ(0, evpl_pool_close(pool));
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

TEST_F(uring, tables_are_cloned_while_slabs_come_and_go)
{
	struct churn c = { .pool = self->pool };
	pthread_t threads[2], churner;
	struct cloner cloners[2];
	int i, round, rounds = few() ? 50 : 500;

	NEEDS_CLONES();
	ASSERT_EQ(0, pthread_create(&churner, NULL, churn, &c));
	for (i = 0; i < 2; i++) {
		cloners[i] = (struct cloner){
			.self = self,
			.flags = variant->flags,
			.rounds = rounds,
		};
		ASSERT_EQ(0, pthread_create(&threads[i], NULL, clone_and_copy, &cloners[i]));
	}
	for (round = 0; round < rounds; round++) {
		ASSERT_EQ(0, take_slab(self->evpl, self->iovec[0]));
		ASSERT_EQ(0, take_slab(self->evpl, self->iovec[1]));
		EXPECT_EQ(2, copy_by(self, &self->ring, self->uring));
		give_back(self, 0);
		give_back(self, 1);
	}
	for (i = 0; i < 2; i++) {
		pthread_join(threads[i], NULL);
		EXPECT_STREQ("", cloners[i].error);
		if (!(variant->flags & IORING_SETUP_SINGLE_ISSUER))
			EXPECT_LT(0, cloners[i].found);
	}
	atomic_store(&c.stop, true);
	pthread_join(churner, NULL);
	evpl_uring_flush(self->uring);
	EXPECT_TRUE(pinned_falls_to(&self->ring, uring_stats(self->uring).slots_used * (long)SLAB));
}

TEST_HARNESS_MAIN
