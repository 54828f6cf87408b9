// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * libevplmem-uring: the calls, and I/O by a ring, with own and with received memory.
 * Registration, threads and clones are in test_uring_*.c.
 */
#include "uring.h"

#include <poll.h>
#include <sys/mman.h>

#include "connect.h"

TEST_F(uring, arguments_are_checked)
{
	struct evpl_uring *uring;
	struct io_uring *ring = &self->ring;

	EXPECT_EQ(-EINVAL, evpl_uring_create(&uring, self->pool, ring, 0, 0, 0));
	EXPECT_EQ(-EINVAL, evpl_uring_create(&uring, self->pool, ring, 0, 16385, 0));
	EXPECT_EQ(-EINVAL, evpl_uring_create(&uring, self->pool, ring, 16384, 1, 0));
	EXPECT_EQ(-EINVAL, evpl_uring_create(&uring, self->pool, ring, 2, UINT32_MAX, 0));
	EXPECT_EQ(-EOPNOTSUPP, evpl_uring_create(&uring, self->pool, ring, 0, 1, 8));
	EXPECT_EQ(-EBUSY, evpl_uring_create(&uring, self->pool, ring, 0, 1,
					    EVPL_URING_NEW_TABLE));
	EXPECT_EQ(1, stats_of(self->pool).devices);
}

/* Makes the calls in a child of fork(2). Returns the exit status of the child. */
static int in_child(FIXTURE_DATA(uring) *self)
{
	struct evpl_uring_stats stats = { .size = sizeof(stats) };
	struct evpl_uring *uring;

	if (evpl_uring_create(&uring, self->pool, &self->ring, 0, 1, 0) != -EPERM ||
	    evpl_uring_clone(&uring, self->uring, &self->ring) != -EPERM ||
	    index_of(self->uring, &self->iovec[0][0]) != -EPERM ||
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
	index = index_of(self->uring, &self->iovec[0][0]);
	child = fork();
	if (!child)
		_exit(in_child(self));
	ASSERT_EQ(child, waitpid(child, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_EQ(index, index_of(self->uring, &self->iovec[0][0]));
	EXPECT_EQ(index < 0 ? 0 : 1, uring_stats(self->uring).slots_used);
}

TEST_F(uring, received_memory_works_and_is_never_registered)
{
	struct received received;
	struct iovec iovec;

	if (stats_of(self->pool).backend != EVPL_BACKEND_MODULE)
		SKIP(return, "the module's alone");
	receive(&received, self->pool, 4096);
	EXPECT_GT(0, index_of(self->uring, &received.message.iovec));
	EXPECT_EQ(0, uring_stats(self->uring).slots_used);
	iovec = (struct iovec){ received.message.iovec.data, received.message.iovec.length };
	EXPECT_EQ(-EFAULT, io_uring_register_buffers_update_tag(&self->ring, FIRST, &iovec,
								&(__u64){ 0 }, 1));

	/* I/O from this memory and into it works nevertheless. */
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

	/* The message goes back and comes again, which ends the wait. */
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

/* Work that a ring has to do at once looks like a signal to the task that runs its requests. */
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

	/* The record that came can be sent back. */
	io_uring_prep_write(io_uring_get_sqe(&self->ring), evpl_channel_fd(received.here), got,
			    sizeof(*got), 0);
	EXPECT_EQ(sizeof(*got), submit(&self->ring));
	EXPECT_EQ(1, evpl_channel_recv(received.there, &received.message, 1));
	EXPECT_EQ(0, end_received(&received));
	close(fds[0]);
	close(fds[1]);
	munmap(got, 4096);
}

/* Sends by the ring over a connection of its own, and waits for the last completion. */
static void send_and_receive(struct __test_metadata *_metadata, FIXTURE_DATA(uring) *self,
			     const struct evpl_iovec *iovec, bool copies)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&self->ring);
	char *bytes = malloc(iovec->length);
	struct io_uring_cqe *cqe;
	int sockets[2], index;

	ASSERT_TRUE(connect_pair(sockets));
	index = index_of(self->uring, iovec);
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

	EXPECT_EQ(-ENOENT, index_of(self->uring, &empty));
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
	/* The other pool has its slab in the first slot of its ring, as this pool has. */
	ASSERT_EQ(0, io_uring_queue_init(ENTRIES, &other, 0));
	ASSERT_EQ(0, open_pool(&pool, BUFFER, SLAB));
	ASSERT_EQ(0, evpl_create(&evpl, pool, NULL));
	ASSERT_EQ(0, evpl_uring_create(&other_uring, pool, &other, FIRST, SLOTS,
				       EVPL_URING_NEW_TABLE));
	ASSERT_EQ(1, evpl_buffer_alloc(evpl, &foreign));
	ASSERT_EQ(FIRST, index_of(other_uring, &foreign));
	ASSERT_EQ(1, evpl_buffer_alloc(self->evpl, &self->iovec[0][0]));
	ASSERT_EQ(FIRST, index_of(self->uring, &self->iovec[0][0]));

	EXPECT_EQ(-EINVAL, index_of(self->uring, &foreign));
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

TEST_F(uring, bytes_are_written_and_read_in_registered_buffers)
{
	NEEDS_REGISTRATION();
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[0]));
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[1]));
	EXPECT_EQ(2, copy_by(self, &self->ring, self->uring));
	EXPECT_EQ(2, uring_stats(self->uring).registrations);
}

/* Writes slices and reads them back. Each of the two calls must return @registered. */
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

	/* Take all buffers of the first slab, and then those of the second. */
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

	/* These slices are of one slab, but one of them is empty. */
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
	EXPECT_EQ(FIRST, index_of(self->uring, &self->iovec[0][0]));
	evpl_iovec_release(&part);
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

TEST_HARNESS_MAIN
