// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * libevplmem-uring: buffers of other processes as registered buffers. Both processes are this one.
 * The buffers are the other pool's again when the last request that used the module's registrations
 * has been freed; if io_uring has pinned their pages, they are in quarantine until the module's next
 * recheck.
 */
#include "uring.h"

#define BOTH_WAYS	(EVPL_MESSAGE_DEVICE | EVPL_MESSAGE_WRITE)

#define NEEDS_LEASES()									\
	do {										\
		NEEDS_REGISTRATION();							\
		if (stats_of(self->pool).backend != EVPL_BACKEND_MODULE)		\
			SKIP(return, "the module's alone");				\
	} while (0)

/* Has the fixture's ring register leased buffers too. */
static int take_leases(FIXTURE_DATA(uring) *self)
{
	evpl_uring_destroy(self->uring);
	return evpl_uring_create(&self->uring, self->pool, &self->ring, FIRST, SLOTS,
				 EVPL_URING_LEASES);
}

/*
 * Waits until the other pool has its buffer back, for at most a minute. A worker of io_uring frees a
 * request, and with it the request's hold on a registration, after the completion was posted. Before
 * Linux 6.13 a ring of one thread may unpin pages only when its thread enters it again.
 */
static bool comes_home(struct received *received, struct io_uring *ring, struct io_uring *other)
{
	int tries = 600;

	while (!is_returned(received)) {
		if (!tries--)
			return false;
		io_uring_get_events(ring);
		if (other)
			io_uring_get_events(other);
		usleep(100 * 1000);
	}
	return true;
}

static void drop(struct received *received)
{
	evpl_iovec_release(&received->message.iovec);
	received->message.iovec = (struct evpl_iovec){ 0 };
}

static void *drop_elsewhere(void *arg)
{
	drop(arg);
	return NULL;
}

/* Writes a slice to the file by a registered buffer. Returns what was written, or -1. */
static int write_fixed(FIXTURE_DATA(uring) *self, const struct evpl_iovec *iovec)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&self->ring);

	if (!evpl_uring_prep_write(self->uring, sqe, self->fd, iovec, 0))
		return -1;
	return submit(&self->ring);
}

TEST_F(uring, leased_buffer_is_registered_until_it_is_released_and_its_slot_is_cleared)
{
	struct received received;
	struct evpl_iovec part;
	char bytes[100];

	NEEDS_LEASES();
	ASSERT_EQ(0, take_leases(self));
	receive_with(&received, self->pool, BUFFER, BOTH_WAYS);
	EXPECT_EQ(0, uring_stats(self->uring).slots_used);
	EXPECT_EQ(FIRST, index_of(self->uring, &received.message.iovec));
	EXPECT_EQ(1, uring_stats(self->uring).slots_used);
	EXPECT_EQ(uncharged ? 1 : 0, uring_stats(self->uring).uncharged);
	EXPECT_EQ(NULL, evpl_uring_notice(self->uring));

	/* All slices of the buffer have one slot, and requests move their bytes. */
	ASSERT_EQ(0, evpl_iovec_clone_segment(&part, &received.message.iovec, 5000, 100));
	EXPECT_EQ(FIRST, index_of(self->uring, &part));
	memset(part.data, 'p', 100);
	EXPECT_EQ(100, write_fixed(self, &part));
	EXPECT_EQ(100, pread(self->fd, bytes, 100, 0));
	EXPECT_EQ(0, memcmp(bytes, part.data, 100));
	memset(part.data, 0, 100);
	EXPECT_EQ(1, evpl_uring_prep_read(self->uring, io_uring_get_sqe(&self->ring), self->fd,
					  &part, 0));
	EXPECT_EQ(100, submit(&self->ring));
	EXPECT_EQ(0, memcmp(bytes, part.data, 100));
	EXPECT_EQ(1, uring_stats(self->uring).registrations);

	drop(&received);
	evpl_uring_flush(self->uring);
	EXPECT_EQ(1, uring_stats(self->uring).slots_used);
	evpl_iovec_release(&part);
	EXPECT_EQ(1, uring_stats(self->uring).slots_used);
	EXPECT_FALSE(is_returned(&received));
	evpl_uring_flush(self->uring);
	EXPECT_EQ(0, uring_stats(self->uring).slots_used);
	EXPECT_TRUE(comes_home(&received, &self->ring, NULL));
	EXPECT_EQ(0, end_received(&received));
}

TEST_F(uring, leased_buffer_that_another_thread_releases_comes_home_too)
{
	struct received received;

	NEEDS_LEASES();
	ASSERT_EQ(0, take_leases(self));
	receive_with(&received, self->pool, BUFFER, BOTH_WAYS);
	EXPECT_EQ(FIRST, index_of(self->uring, &received.message.iovec));
	on_thread(drop_elsewhere, &received);
	EXPECT_EQ(1, uring_stats(self->uring).slots_used);
	EXPECT_FALSE(is_returned(&received));
	evpl_uring_flush(self->uring);
	EXPECT_EQ(0, uring_stats(self->uring).slots_used);
	EXPECT_TRUE(comes_home(&received, &self->ring, NULL));
	EXPECT_EQ(0, end_received(&received));
}

TEST_F(uring, readable_buffer_is_written_from_by_the_modules_registration_alone)
{
	struct received received;
	struct evpl_iovec *iovec = &received.message.iovec;

	NEEDS_LEASES();
	ASSERT_EQ(0, take_leases(self));
	receive_with(&received, self->pool, BUFFER, EVPL_MESSAGE_DEVICE);
	EXPECT_EQ(uncharged ? FIRST : -EFAULT, index_of(self->uring, iovec));
	EXPECT_EQ(uncharged ? 1 : 0,
		  evpl_uring_prep_write(self->uring, io_uring_get_sqe(&self->ring), self->fd,
					iovec, 0));
	EXPECT_EQ(BUFFER, submit(&self->ring));
	EXPECT_EQ(uncharged ? 1 : 0,
		  evpl_uring_prep_read(self->uring, io_uring_get_sqe(&self->ring), self->fd,
				       iovec, 0));
	EXPECT_EQ(-EFAULT, submit(&self->ring));
	EXPECT_EQ('x', ((char *)iovec->data)[BUFFER - 1]);
	EXPECT_EQ(uncharged ? 0 : 1, uring_stats(self->uring).failures);
	drop(&received);
	evpl_uring_flush(self->uring);
	EXPECT_TRUE(comes_home(&received, &self->ring, NULL));
	EXPECT_EQ(0, end_received(&received));
}

TEST_F(uring, only_what_devices_may_have_is_registered_and_only_if_asked_for)
{
	struct received received;

	NEEDS_LEASES();
	receive_with(&received, self->pool, BUFFER, BOTH_WAYS);
	EXPECT_EQ(-ENOENT, index_of(self->uring, &received.message.iovec));
	EXPECT_EQ(0, end_received(&received));
	ASSERT_EQ(0, take_leases(self));
	receive_with(&received, self->pool, BUFFER, EVPL_MESSAGE_WRITE);
	EXPECT_EQ(-ENOENT, index_of(self->uring, &received.message.iovec));
	EXPECT_EQ(0, uring_stats(self->uring).failures);
	EXPECT_EQ(0, uring_stats(self->uring).registrations);
	EXPECT_EQ(0, end_received(&received));
}

TEST_F(uring, own_slabs_are_registered_beside_leased_buffers)
{
	struct received received;

	NEEDS_LEASES();
	ASSERT_EQ(0, take_leases(self));
	receive_with(&received, self->pool, BUFFER, BOTH_WAYS);
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[0]));
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[1]));
	EXPECT_EQ(FIRST, index_of(self->uring, &self->iovec[0][0]));
	EXPECT_EQ(FIRST + 1, index_of(self->uring, &received.message.iovec));
	EXPECT_EQ(FIRST + 2, index_of(self->uring, &self->iovec[1][0]));
	EXPECT_EQ(2, copy_by(self, &self->ring, self->uring));
	EXPECT_EQ(BUFFER, write_fixed(self, &received.message.iovec));
	EXPECT_EQ(3, uring_stats(self->uring).slots_used);

	/* The end of the one leaves the others. */
	drop(&received);
	EXPECT_EQ(2, copy_by(self, &self->ring, self->uring));
	EXPECT_EQ(2, uring_stats(self->uring).slots_used);
	EXPECT_TRUE(comes_home(&received, &self->ring, NULL));
	EXPECT_EQ(0, end_received(&received));
}

TEST_F(uring, destroy_lets_go_of_leased_buffers_that_are_in_use)
{
	struct received received;

	NEEDS_LEASES();
	ASSERT_EQ(0, take_leases(self));
	receive_with(&received, self->pool, BUFFER, BOTH_WAYS);
	EXPECT_EQ(FIRST, index_of(self->uring, &received.message.iovec));
	evpl_uring_destroy(self->uring);
	self->uring = NULL;
	EXPECT_EQ(1, word_of(&received.message.iovec));
	drop(&received);
	EXPECT_TRUE(comes_home(&received, &self->ring, NULL));
	EXPECT_EQ(0, end_received(&received));
}

TEST_F(uring, revoked_buffer_is_not_registered_and_slabs_still_are)
{
	struct evpl_message message = { .flags = BOTH_WAYS };
	struct received received;
	struct evpl_iovec owned;
	struct evpl *evpl;

	NEEDS_LEASES();
	ASSERT_EQ(0, take_leases(self));
	receive_with(&received, self->pool, BUFFER, BOTH_WAYS);
	ASSERT_EQ(0, evpl_create(&evpl, received.other, NULL));
	ASSERT_EQ(1, evpl_buffer_alloc(evpl, &owned));
	evpl_iovec_clone(&message.iovec, &owned);
	ASSERT_EQ(0, evpl_channel_send(received.there, &message, 1));
	ASSERT_EQ(1, evpl_channel_recv(received.here, &message, 1));
	EXPECT_EQ(0, evpl_iovec_revoke(&owned));
	EXPECT_EQ(uncharged ? -ENOENT : -EFAULT, index_of(self->uring, &message.iovec));
	EXPECT_EQ(uncharged ? -ENOENT : -EFAULT, index_of(self->uring, &message.iovec));
	EXPECT_EQ(1, uring_stats(self->uring).failures);
	evpl_iovec_release(&message.iovec);

	EXPECT_EQ(FIRST, index_of(self->uring, &received.message.iovec));
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[0]));
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[1]));
	EXPECT_EQ(2, copy_by(self, &self->ring, self->uring));
	drop(&received);
	evpl_uring_flush(self->uring);
	evpl_iovec_release(&owned);
	evpl_destroy(evpl);
	EXPECT_TRUE(comes_home(&received, &self->ring, NULL));
	EXPECT_EQ(0, end_received(&received));
}

TEST_F(uring, clone_takes_no_leased_buffer_from_its_source)
{
	struct received received;
	struct evpl_uring *clone;
	struct io_uring ring;
	int cloned;

	NEEDS_LEASES();
	ASSERT_EQ(0, take_leases(self));
	receive_with(&received, self->pool, BUFFER, BOTH_WAYS);
	EXPECT_EQ(FIRST, index_of(self->uring, &received.message.iovec));
	ASSERT_EQ(0, io_uring_queue_init(ENTRIES, &ring, variant->flags));
	cloned = evpl_uring_clone(&clone, self->uring, &ring);
	ASSERT_LE(0, cloned);
	EXPECT_EQ(0, uring_stats(clone).slots_used);
	EXPECT_EQ(cloned, uring_stats(clone).unregistrations);

	/* It can have the buffer by itself. Both let go of it. */
	EXPECT_LE(FIRST, index_of(clone, &received.message.iovec));
	EXPECT_EQ(1, uring_stats(clone).slots_used);
	drop(&received);
	evpl_uring_flush(self->uring);
	EXPECT_FALSE(is_returned(&received));
	evpl_uring_flush(clone);
	EXPECT_TRUE(comes_home(&received, &self->ring, &ring));
	EXPECT_EQ(0, end_received(&received));
	evpl_uring_destroy(clone);
	io_uring_queue_exit(&ring);
}

TEST_F(uring, slots_of_leased_buffers_are_used_again_and_again)
{
	struct received received;
	struct evpl_message *message = &received.message;
	int round, rounds = few() ? 50 : 500;

	NEEDS_LEASES();
	ASSERT_EQ(0, take_leases(self));
	receive_with(&received, self->pool, BUFFER, BOTH_WAYS);
	for (round = 0; round < rounds; round++) {
		ASSERT_LE(FIRST, index_of(self->uring, &message->iovec));
		memset(message->iovec.data, 'a' + round % 26, BUFFER);
		ASSERT_EQ(BUFFER, write_fixed(self, &message->iovec));

		/* Its owner gets it back over the channel, and sends it again. */
		ASSERT_EQ(0, evpl_channel_send(received.here, message, 1));
		ASSERT_EQ(1, evpl_channel_recv(received.there, message, 1));
		ASSERT_EQ('a' + round % 26, *(char *)message->iovec.data);
		message->flags = BOTH_WAYS;
		ASSERT_EQ(0, evpl_channel_send(received.there, message, 1));
		ASSERT_EQ(1, evpl_channel_recv(received.here, message, 1));
	}
	EXPECT_EQ(rounds, uring_stats(self->uring).registrations);
	EXPECT_EQ(0, uring_stats(self->uring).failures);
	drop(&received);
	evpl_uring_flush(self->uring);
	EXPECT_EQ(rounds, uring_stats(self->uring).unregistrations);
	EXPECT_TRUE(comes_home(&received, &self->ring, NULL));
	EXPECT_EQ(0, end_received(&received));
}

TEST_HARNESS_MAIN
