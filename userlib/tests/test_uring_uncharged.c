// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * libevplmem-uring: slabs that the module registers with a ring (Linux 7.3), with nothing charged
 * to RLIMIT_MEMLOCK; and where the memory is in a registered buffer, on all kernels.
 */
#include "uring.h"

#include "connect.h"

#define NEEDS_UNCHARGED()								\
	do {										\
		if (!uncharged)								\
			SKIP(return, "io_uring pins the memory here");			\
	} while (0)

/* Waits, for at most a minute: the kernel ends a ring that was closed some time later. */
static bool registrations_become(long long nr)
{
	int tries = 600;

	while (counter("registrations") != nr) {
		if (!tries--)
			return false;
		usleep(100 * 1000);
	}
	return true;
}

TEST_F(uring, address_is_an_offset_if_the_module_has_registered_the_slab)
{
	uint64_t first, other;
	struct evpl_iovec part;
	struct evpl_slab_info info;
	int index;

	NEEDS_REGISTRATION();
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[0]));
	ASSERT_EQ(0, evpl_iovec_slab(&self->iovec[0][0], &info));
	ASSERT_EQ(0, evpl_iovec_clone_segment(&part, &self->iovec[0][5], 100, 50));
	index = evpl_uring_fixed(self->uring, &self->iovec[0][0], &first);
	EXPECT_EQ(FIRST, index);
	EXPECT_EQ(index, evpl_uring_fixed(self->uring, &part, &other));
	EXPECT_EQ((uintptr_t)self->iovec[0][0].data - (uncharged ? (uintptr_t)info.base : 0), first);
	EXPECT_EQ((char *)part.data - (char *)self->iovec[0][0].data, other - first);

	/* A request that the caller fills in moves the right bytes. */
	memset(self->iovec[0][5].data, 'a', BUFFER);
	memset(part.data, 'b', 50);
	io_uring_prep_write_fixed(io_uring_get_sqe(&self->ring), self->fd,
				  (void *)(uintptr_t)(other + 49), 2, 0, index);
	EXPECT_EQ(2, submit(&self->ring));
	EXPECT_EQ(2, pread(self->fd, self->iovec[0][0].data, 2, 0));
	EXPECT_EQ(0, memcmp(self->iovec[0][0].data, "ba", 2));
	evpl_iovec_release(&part);
}

/* Writes three slices and reads them back into three others. Returns whether the bytes arrived. */
static bool copy_vectors(FIXTURE_DATA(uring) *self, struct io_uring *ring,
			 struct evpl_uring *uring)
{
	const struct evpl_iovec *from = &self->iovec[0][4];
	struct evpl_iovec *to = &self->iovec[0][12];
	struct iovec vector[3];
	int i;

	for (i = 0; i < 3; i++) {
		memset(from[i].data, 'a' + i, BUFFER);
		memset(to[i].data, 0, BUFFER);
	}
	if (!evpl_uring_prep_writev(uring, io_uring_get_sqe(ring), self->fd, from, 3, vector, 0) ||
	    submit(ring) != 3 * (int)BUFFER ||
	    !evpl_uring_prep_readv(uring, io_uring_get_sqe(ring), self->fd, to, 3, vector, 0) ||
	    submit(ring) != 3 * (int)BUFFER)
		return false;
	for (i = 0; i < 3; i++)
		if (memcmp(from[i].data, to[i].data, BUFFER))
			return false;
	return true;
}

/* Sends a slice over a connection, and receives it. Returns whether the bytes arrived. */
static bool send_slice(const struct evpl_iovec *iovec, struct io_uring *ring,
		       struct evpl_uring *uring)
{
	static char bytes[BUFFER];
	struct io_uring_cqe *cqe;
	int sockets[2], sent;
	bool arrived;

	if (!connect_pair(sockets) ||
	    !evpl_uring_prep_send_zc(uring, io_uring_get_sqe(ring), sockets[0], iovec, MSG_WAITALL))
		return false;
	sent = submit(ring);
	arrived = sent > 0 && recv(sockets[1], bytes, (size_t)sent, MSG_WAITALL) == sent &&
		  !memcmp(bytes, iovec->data, (size_t)sent);
	if (io_uring_wait_cqe(ring, &cqe))
		abort();
	arrived = arrived && cqe->flags == IORING_CQE_F_NOTIF;
	io_uring_cqe_seen(ring, cqe);
	close(sockets[0]);
	close(sockets[1]);
	return arrived;
}

TEST_F(uring, each_kind_of_request_moves_bytes_for_a_user_without_locked_memory)
{
	const struct rlimit none = { 0, RLIM_INFINITY };
	struct evpl_uring *uring;
	struct io_uring ring;

	NEEDS_UNCHARGED();
	NEEDS_ROOT();
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[0]));
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[1]));
	ASSERT_TRUE(become_somebody(0));
	ASSERT_EQ(0, setrlimit(RLIMIT_MEMLOCK, &none));
	ASSERT_EQ(0, io_uring_queue_init(ENTRIES, &ring, variant->flags));
	ASSERT_EQ(0, evpl_uring_create(&uring, self->pool, &ring, 0, SLOTS, EVPL_URING_NEW_TABLE));

	EXPECT_EQ(2, copy_by(self, &ring, uring));
	EXPECT_TRUE(copy_vectors(self, &ring, uring));
	EXPECT_TRUE(send_slice(&self->iovec[1][0], &ring, uring));
	EXPECT_EQ(2, uring_stats(uring).registrations);
	EXPECT_EQ(2, uring_stats(uring).uncharged);
	EXPECT_EQ(0, uring_stats(uring).failures);
	EXPECT_EQ(NULL, evpl_uring_notice(uring));
	EXPECT_EQ(0, pinned());

	evpl_uring_destroy(uring);
	io_uring_queue_exit(&ring);
	ASSERT_TRUE(become_root());
}

TEST_F(uring, memory_of_a_slab_that_goes_is_back_when_its_slot_is_cleared)
{
	long long charged;

	NEEDS_UNCHARGED();
	ASSERT_TRUE(registrations_become(0));	/* those of an earlier test */
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[0]));
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[1]));
	ASSERT_EQ(FIRST, index_of(self->uring, &self->iovec[1][0]));
	charged = counter("charged-bytes");
	give_back(self, 0);
	drop_slab(self, 1);
	ASSERT_EQ(1, stats_of(self->pool).slabs);
	EXPECT_EQ(1, uring_stats(self->uring).slots_used);
	EXPECT_EQ(1, counter("registrations"));
	EXPECT_EQ(charged, counter("charged-bytes"));

	evpl_uring_flush(self->uring);
	EXPECT_EQ(0, uring_stats(self->uring).slots_used);
	EXPECT_EQ(0, counter("registrations"));
	EXPECT_EQ(charged - SLAB, counter("charged-bytes"));

	/* The slot can be used again. */
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[0]));
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[1]));
	EXPECT_EQ(2, copy_by(self, &self->ring, self->uring));
	EXPECT_EQ(3, uring_stats(self->uring).uncharged);
}

TEST_F(uring, what_a_clone_registers_is_not_charged_either)
{
	struct evpl_uring *clone;
	struct io_uring ring;

	NEEDS_UNCHARGED();
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[0]));
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[1]));
	ASSERT_EQ(FIRST, index_of(self->uring, &self->iovec[0][0]));
	ASSERT_EQ(0, io_uring_queue_init(ENTRIES, &ring, variant->flags));
	ASSERT_EQ(1, evpl_uring_clone(&clone, self->uring, &ring));
	EXPECT_EQ(2, copy_by(self, &ring, clone));
	EXPECT_EQ(1, uring_stats(clone).registrations);
	EXPECT_EQ(1, uring_stats(clone).uncharged);
	EXPECT_EQ(0, pinned());
	evpl_uring_destroy(clone);
	io_uring_queue_exit(&ring);
}

/* The kernel copies no slot from a ring that is charged to one user to another user's. */
TEST_F(uring, memory_is_charged_where_the_ring_is_another_users)
{
	struct evpl_uring *uring;

	NEEDS_UNCHARGED();
	NEEDS_ROOT();
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[0]));
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[1]));
	ASSERT_TRUE(become_somebody(2));
	ASSERT_EQ(0, evpl_uring_create(&uring, self->pool, &self->ring, 0, FIRST, 0));
	EXPECT_EQ(2, copy_by(self, &self->ring, uring));
	EXPECT_EQ(2, uring_stats(uring).registrations);
	EXPECT_EQ(0, uring_stats(uring).uncharged);
	EXPECT_EQ(2 * SLAB, pinned());
	evpl_uring_destroy(uring);
	EXPECT_TRUE(pinned_falls_to(&self->ring, 0));
	ASSERT_TRUE(become_root());
}

TEST_HARNESS_MAIN
