// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/* Lanes: channels whose messages pass through shared memory. Both sides are this process. */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "lane.h"
#include "message.h"
#include "seccomp.h"

#define CAPACITY	64

FIXTURE(lane)
{
	struct evpl_pool *pool, *other_pool;
	struct evpl *evpl, *other;
	struct evpl_channel *channel, *other_channel;
};

static int open_zeros(struct evpl_pool **pool)
{
	struct evpl_pool_config config = {
		.size = sizeof(config),
		.buffer_size = BUFFER,
		.slab_size_max = SLAB,
		.max_bytes = 4 * SLAB,
		.flags = EVPL_POOL_ZEROS,
	};

	return evpl_pool_open(pool, &config);
}

static struct evpl_lane_stats stats_of_lane(struct evpl_channel *channel)
{
	struct evpl_lane_stats stats = EVPL_LANE_STATS_INIT;

	if (evpl_lane_stats(channel, &stats))
		abort();
	return stats;
}

FIXTURE_SETUP(lane)
{
	struct evpl_message got;
	int peer;

	if (!getenv("EVPL_BACKEND") || strcmp(getenv("EVPL_BACKEND"), "module"))
		SKIP(return, "the module's alone");
	ASSERT_EQ(0, open_zeros(&self->pool));
	ASSERT_EQ(0, open_zeros(&self->other_pool));
	ASSERT_EQ(0, evpl_create(&self->evpl, self->pool, NULL));
	ASSERT_EQ(0, evpl_create(&self->other, self->other_pool, NULL));
	ASSERT_EQ(0, evpl_channel_create(&self->channel, self->pool, CAPACITY, EVPL_CHANNEL_LANE,
					 &peer));
	ASSERT_EQ(0, evpl_channel_bind(&self->other_channel, self->other_pool, peer,
				       EVPL_CHANNEL_LANE));
	ASSERT_EQ(-EAGAIN, evpl_channel_recv(self->channel, &got, 1));
	ASSERT_EQ(-EAGAIN, evpl_channel_recv(self->other_channel, &got, 1));
	ASSERT_EQ(-EAGAIN, evpl_channel_recv(self->channel, &got, 1));
	ASSERT_EQ(1, stats_of_lane(self->channel).sending);
	ASSERT_EQ(1, stats_of_lane(self->channel).receiving);
	ASSERT_EQ(1, stats_of_lane(self->other_channel).sending);
	ASSERT_EQ(1, stats_of_lane(self->other_channel).receiving);
}

FIXTURE_TEARDOWN(lane)
{
	if (!self->pool)
		return;
	evpl_channel_close(self->channel);
	evpl_channel_close(self->other_channel);
	evpl_destroy(self->evpl);
	evpl_destroy(self->other);
	EXPECT_EQ(0, evpl_pool_close(self->other_pool));
	EXPECT_EQ(0, evpl_pool_close(self->pool));
}

TEST_F(lane, first_message_of_a_buffer_is_a_record_and_others_are_not)
{
	struct evpl_message sent, got;

	for (int i = 0; i < 1000; i++) {
		sent = allocate(self->evpl, 1000, (char)i);
		sent.cookie = (uint64_t)i << 40 | 1;
		ASSERT_EQ(0, evpl_channel_send(self->channel, &sent, 1));
		ASSERT_EQ(1, evpl_channel_recv(self->other_channel, &got, 1));
		EXPECT_EQ(1000, got.iovec.length);
		EXPECT_EQ(sent.cookie, got.cookie);
		EXPECT_EQ(0, got.flags);
		EXPECT_TRUE(is_filled(&got.iovec, (char)i));
		evpl_iovec_release(&got.iovec);
	}
	EXPECT_LE(stats_of_lane(self->channel).sent_as_records, 2);
	EXPECT_GE(stats_of_lane(self->channel).sent, 998);
	EXPECT_EQ(1000, stats_of_lane(self->other_channel).received);
	EXPECT_LE(stats_of_lane(self->channel).grants, 2);
}

TEST_F(lane, messages_that_are_not_returned_keep_their_buffers)
{
	struct evpl_message sent[20], got[20];

	for (int i = 0; i < 20; i++)
		sent[i] = allocate(self->evpl, BUFFER, (char)('a' + i));
	ASSERT_EQ(0, evpl_channel_send(self->channel, sent, 20));
	ASSERT_EQ(20, evpl_channel_recv(self->other_channel, got, 20));
	for (int i = 0; i < 20; i++)
		EXPECT_TRUE(is_filled(&got[i].iovec, (char)('a' + i)));
	for (int i = 1; i < 20; i += 2)
		evpl_iovec_release(&got[i].iovec);
	/* The others can be had again, although the peer still sees them. */
	for (int i = 1; i < 20; i += 2) {
		sent[i] = allocate(self->evpl, BUFFER, 'z');
		ASSERT_EQ(0, evpl_channel_send(self->channel, &sent[i], 1));
		ASSERT_EQ(1, evpl_channel_recv(self->other_channel, &got[i], 1));
		EXPECT_TRUE(is_filled(&got[i].iovec, 'z'));
	}
	for (int i = 0; i < 20; i += 2)
		EXPECT_TRUE(is_filled(&got[i].iovec, (char)('a' + i)));
	for (int i = 0; i < 20; i++)
		evpl_iovec_release(&got[i].iovec);
}

TEST_F(lane, full_ring_is_EAGAIN_and_nothing_is_sent)
{
	struct pollfd pollfd = { .fd = evpl_channel_fd(self->channel), .events = POLLOUT };
	struct evpl_message sent = allocate(self->evpl, 100, 'x'), next, got;

	for (int i = 0; i < CAPACITY; i++) {
		evpl_iovec_clone(&next.iovec, &sent.iovec);
		next.cookie = (uint64_t)i;
		next.flags = 0;
		ASSERT_EQ(0, evpl_channel_send(self->channel, &next, 1));
	}
	EXPECT_EQ(1, poll(&pollfd, 1, 0));
	EXPECT_EQ(-EAGAIN, evpl_channel_send(self->channel, &sent, 1));
	EXPECT_EQ(0, poll(&pollfd, 1, 0));
	for (int i = 0; i < CAPACITY; i++) {
		ASSERT_EQ(1, evpl_channel_recv(self->other_channel, &got, 1));
		EXPECT_EQ(i, got.cookie);
		evpl_iovec_release(&got.iovec);
		EXPECT_EQ(1, poll(&pollfd, 1, 0));
	}
	EXPECT_EQ(0, evpl_channel_send(self->channel, &sent, 1));
	ASSERT_EQ(1, evpl_channel_recv(self->other_channel, &got, 1));
	evpl_iovec_release(&got.iovec);
}

TEST_F(lane, descriptor_is_readable_when_there_is_a_message)
{
	struct pollfd pollfd = { .fd = evpl_channel_fd(self->other_channel), .events = POLLIN };
	struct evpl_message sent, got;

	for (int i = 0; i < 10; i++) {
		EXPECT_EQ(0, poll(&pollfd, 1, 0));
		sent = allocate(self->evpl, 1000, (char)i);
		ASSERT_EQ(0, evpl_channel_send(self->channel, &sent, 1));
		EXPECT_EQ(1, poll(&pollfd, 1, 0));
		ASSERT_EQ(1, evpl_channel_recv(self->other_channel, &got, 1));
		evpl_iovec_release(&got.iovec);
		ASSERT_EQ(-EAGAIN, evpl_channel_recv(self->other_channel, &got, 1));
	}
}

static struct evpl_message again(const struct evpl_message *message)
{
	struct evpl_message copy = { .cookie = message->cookie, .flags = message->flags };

	evpl_iovec_clone(&copy.iovec, &message->iovec);
	return copy;
}

/* Sends a message of one side to the other, which must get it as it was sent. */
static bool pass(struct evpl_channel *from, struct evpl_channel *to, const struct evpl_message *sent,
		 struct evpl_message *got)
{
	return !evpl_channel_send(from, sent, 1) && evpl_channel_recv(to, got, 1) == 1 &&
	       got->cookie == sent->cookie && got->iovec.length == sent->iovec.length &&
	       is_filled(&got->iovec, (char)sent->cookie);
}

TEST_F(lane, flags_that_make_no_lane_are_refused)
{
	struct evpl_lane_stats stats = EVPL_LANE_STATS_INIT;
	struct evpl_channel *channel;
	struct evpl_pool *plain;
	int peer;

	EXPECT_EQ(-EINVAL, evpl_channel_create(&channel, self->pool, 64, EVPL_CHANNEL_POLLING,
					       &peer));
	EXPECT_EQ(-EINVAL, evpl_channel_create(&channel, self->pool, 64, EVPL_CHANNEL_LANE |
					       EVPL_CHANNEL_POLLING | EVPL_CHANNEL_BLOCKING,
					       &peer));
	EXPECT_EQ(-EOPNOTSUPP, evpl_channel_create(&channel, self->pool, 64, 1U << 3, &peer));
	EXPECT_EQ(-EINVAL, evpl_channel_create(&channel, self->pool, BUFFER / 64 + 1,
					       EVPL_CHANNEL_LANE, &peer));
	ASSERT_EQ(0, open_pool(&plain, BUFFER, SLAB));
	EXPECT_EQ(-EINVAL, evpl_channel_create(&channel, plain, 64, EVPL_CHANNEL_LANE, &peer));
	ASSERT_EQ(0, evpl_channel_create(&channel, plain, 64, 0, &peer));
	EXPECT_EQ(-EOPNOTSUPP, evpl_lane_stats(channel, &stats));
	EXPECT_EQ(0, evpl_channel_arm(channel));
	stats.size = 1;
	EXPECT_EQ(-EINVAL, evpl_lane_stats(self->channel, &stats));
	evpl_channel_close(channel);
	close(peer);
	EXPECT_EQ(0, evpl_pool_close(plain));
}

TEST_F(lane, other_end_may_be_a_channel)
{
	struct evpl_channel *channel, *other;
	struct evpl_message sent, got;
	int peer;

	ASSERT_EQ(0, evpl_channel_create(&channel, self->pool, 64, EVPL_CHANNEL_LANE, &peer));
	ASSERT_EQ(0, evpl_channel_bind(&other, self->other_pool, peer, 0));
	for (int i = 0; i < 100; i++) {
		sent = allocate(self->evpl, 1000, (char)i);
		ASSERT_TRUE(pass(channel, other, &sent, &got));
		evpl_iovec_release(&got.iovec);
		sent = allocate(self->other, 1000, (char)i);
		ASSERT_TRUE(pass(other, channel, &sent, &got));
		evpl_iovec_release(&got.iovec);
	}
	EXPECT_EQ(0, stats_of_lane(channel).sending);
	EXPECT_EQ(0, stats_of_lane(channel).receiving);
	evpl_channel_close(channel);
	evpl_channel_close(other);
}

TEST_F(lane, batch_is_sent_as_a_whole_or_not_at_all)
{
	struct evpl_message sent[CAPACITY + 1], got;

	for (int i = 0; i <= CAPACITY; i++)
		sent[i] = allocate(self->evpl, 1000, (char)i);
	EXPECT_EQ(-EMSGSIZE, evpl_channel_send(self->channel, sent, CAPACITY + 1));
	sent[CAPACITY / 2].flags = EVPL_MESSAGE_REVOKED;
	EXPECT_EQ(-EOPNOTSUPP, evpl_channel_send(self->channel, sent, CAPACITY));
	sent[CAPACITY / 2].flags = 0;
	sent[CAPACITY / 2].iovec.length = 0;
	EXPECT_EQ(-EINVAL, evpl_channel_send(self->channel, sent, CAPACITY));
	sent[CAPACITY / 2].iovec.length = 1000;
	EXPECT_EQ(0, stats_of_lane(self->channel).grants);
	EXPECT_EQ(-EAGAIN, evpl_channel_recv(self->other_channel, &got, 1));
	ASSERT_EQ(0, evpl_channel_send(self->channel, sent, CAPACITY));
	for (int i = 0; i < CAPACITY; i++) {
		ASSERT_EQ(1, evpl_channel_recv(self->other_channel, &got, 1));
		EXPECT_EQ(i, got.cookie);
		EXPECT_TRUE(is_filled(&got.iovec, (char)i));
		evpl_iovec_release(&got.iovec);
	}
	evpl_iovec_release(&sent[CAPACITY].iovec);
}

TEST_F(lane, buffer_that_was_also_sent_over_a_channel_comes_back_when_both_are_done)
{
	struct evpl_message sent = allocate(self->evpl, BUFFER, 'x'), copy = again(&sent), got, plain;
	struct evpl_channel *channel, *other;
	uint64_t used = used_in(self->pool);
	int peer;

	ASSERT_EQ(0, evpl_channel_create(&channel, self->pool, 64, 0, &peer));
	ASSERT_EQ(0, evpl_channel_bind(&other, self->other_pool, peer, 0));
	ASSERT_TRUE(pass(self->channel, self->other_channel, &copy, &got));
	ASSERT_TRUE(pass(channel, other, &sent, &plain));
	evpl_iovec_release(&got.iovec);
	evpl_pool_trim(self->pool);
	EXPECT_EQ(used, used_in(self->pool));
	EXPECT_TRUE(is_filled(&plain.iovec, 'x'));
	evpl_iovec_release(&plain.iovec);
	/* The grant is taken back, as the buffer isn't free as long as the peer has it. */
	evpl_pool_trim(self->pool);
	EXPECT_EQ(-EAGAIN, evpl_channel_recv(self->other_channel, &got, 1));
	evpl_pool_trim(self->pool);
	EXPECT_EQ(used - 1, used_in(self->pool));
	EXPECT_EQ(0, stats_of_lane(self->channel).grants);
	evpl_channel_close(channel);
	evpl_channel_close(other);
}

TEST_F(lane, grants_with_other_rights_stand_beside_each_other)
{
	struct evpl_message sent = allocate(self->evpl, BUFFER, 'x'), copy, got;
	const unsigned int flags[] = { 0, EVPL_MESSAGE_WRITE, EVPL_MESSAGE_DEVICE };

	for (int i = 0; i < 12; i++) {
		copy = again(&sent);
		copy.flags = flags[i % 3];
		ASSERT_TRUE(pass(self->channel, self->other_channel, &copy, &got));
		EXPECT_EQ(flags[i % 3], got.flags);
		if (got.flags == EVPL_MESSAGE_WRITE)
			memset(got.iovec.data, 'x', 10);
		evpl_iovec_release(&got.iovec);
	}
	EXPECT_EQ(3, stats_of_lane(self->channel).grants);
	EXPECT_EQ(9, stats_of_lane(self->channel).sent);
	evpl_iovec_release(&sent.iovec);
}

TEST_F(lane, wait_takes_a_buffer_back)
{
	struct evpl_message sent = allocate(self->evpl, BUFFER, 'x'), copy = again(&sent), got;

	ASSERT_TRUE(pass(self->channel, self->other_channel, &copy, &got));
	EXPECT_EQ(-EAGAIN, evpl_iovec_wait(&sent.iovec, EVPL_IOVEC_TRY));
	evpl_iovec_release(&got.iovec);
	/* The peer hasn't read yet that the grant ends. */
	EXPECT_EQ(-EAGAIN, evpl_iovec_wait(&sent.iovec, EVPL_IOVEC_TRY));
	EXPECT_EQ(0, stats_of_lane(self->channel).grants);
	EXPECT_EQ(-EAGAIN, evpl_channel_recv(self->other_channel, &got, 1));
	EXPECT_EQ(0, evpl_iovec_wait(&sent.iovec, EVPL_IOVEC_TRY));
	EXPECT_EQ(0, evpl_iovec_wait(&sent.iovec, 0));
	EXPECT_EQ(1, word_of(&sent.iovec));
	ASSERT_TRUE(pass(self->channel, self->other_channel, &sent, &got));
	evpl_iovec_release(&got.iovec);
}

TEST_F(lane, revoked_buffer_comes_as_revoked_or_is_zeros)
{
	struct evpl_message sent = allocate(self->evpl, BUFFER, 'x'), copy, got, before;

	/* While its record is on its way. */
	copy = again(&sent);
	ASSERT_EQ(0, evpl_channel_send(self->channel, &copy, 1));
	copy = again(&sent);
	ASSERT_EQ(0, evpl_channel_send(self->channel, &copy, 1));
	ASSERT_EQ(0, evpl_iovec_revoke(&sent.iovec));
	for (int i = 0; i < 2; i++) {
		ASSERT_EQ(1, evpl_channel_recv(self->other_channel, &got, 1));
		EXPECT_EQ(EVPL_MESSAGE_REVOKED, got.flags);
		EXPECT_EQ('x', got.cookie);
		evpl_iovec_release(&got.iovec);
	}
	EXPECT_EQ(1, word_of(&sent.iovec));
	/* After one message was received, and while another one is in the ring. */
	copy = again(&sent);
	ASSERT_TRUE(pass(self->channel, self->other_channel, &copy, &before));
	copy = again(&sent);
	ASSERT_EQ(0, evpl_channel_send(self->channel, &copy, 1));
	ASSERT_EQ(0, evpl_iovec_revoke(&sent.iovec));
	ASSERT_EQ(1, evpl_channel_recv(self->other_channel, &got, 1));
	EXPECT_EQ(EVPL_MESSAGE_REVOKED, got.flags);
	EXPECT_TRUE(is_filled(&before.iovec, 0));
	evpl_iovec_release(&got.iovec);
	evpl_iovec_release(&before.iovec);
	/* The buffer can be sent again, and the old grants end. */
	for (int i = 0; i < 3; i++) {
		copy = again(&sent);
		ASSERT_TRUE(pass(self->channel, self->other_channel, &copy, &got));
		evpl_iovec_release(&got.iovec);
	}
	evpl_pool_trim(self->pool);
	EXPECT_EQ(1, stats_of_lane(self->channel).grants);
	EXPECT_EQ(-EAGAIN, evpl_channel_recv(self->other_channel, &got, 1));
	evpl_iovec_release(&sent.iovec);
}

/* Makes slabs until the pool has three, the last two of which are idle but for one buffer. */
static struct evpl_message buffer_of_last_slab(struct evpl *evpl, char byte)
{
	struct evpl_iovec taken[3 * PER_SLAB - 1];
	struct evpl_message message = { .cookie = (unsigned char)byte };
	unsigned int i;

	/* The lane's block has one buffer of the first slab. */
	for (i = 0; i < 3 * PER_SLAB - 1; i++)
		if (evpl_buffer_alloc(evpl, &taken[i]) != 1)
			abort();
	message.iovec = taken[--i];
	memset(message.iovec.data, byte, BUFFER);
	while (i--)
		evpl_iovec_release(&taken[i]);
	return message;
}

TEST_F(lane, trim_gives_slabs_back_that_the_peer_sees)
{
	struct evpl_message sent, got;

	for (int i = 0; i < 3; i++) {
		sent = buffer_of_last_slab(self->evpl, (char)('a' + i));
		ASSERT_TRUE(pass(self->channel, self->other_channel, &sent, &got));
		evpl_iovec_release(&got.iovec);
		EXPECT_EQ(SLAB, evpl_pool_trim(self->pool));
		EXPECT_EQ(2 * SLAB, stats_of(self->pool).bytes);
	}
	EXPECT_EQ(-EAGAIN, evpl_channel_recv(self->other_channel, &got, 1));
}

TEST_F(lane, buffer_that_a_device_holds_after_a_trim_is_not_allocated)
{
	struct evpl_message sent, got;
	struct evpl_iovec rest[3 * PER_SLAB - 2];
	struct iovec iovec;
	char page[100];
	int pipe_fds[2];

	ASSERT_EQ(0, pipe(pipe_fds));
	sent = buffer_of_last_slab(self->evpl, 'x');
	sent.flags = EVPL_MESSAGE_DEVICE;
	ASSERT_TRUE(pass(self->channel, self->other_channel, &sent, &got));
	iovec = (struct iovec){ got.iovec.data, 100 };
	ASSERT_EQ(100, vmsplice(pipe_fds[1], &iovec, 1, 0));
	/* The peer returns the message, but a pipe holds the page. */
	evpl_iovec_release(&got.iovec);
	evpl_pool_trim(self->pool);
	EXPECT_EQ(3 * SLAB, stats_of(self->pool).bytes);
	for (unsigned int i = 0; i < 3 * PER_SLAB - 2; i++) {
		ASSERT_EQ(1, evpl_buffer_alloc(self->evpl, &rest[i]));
		EXPECT_NE((unsigned long)iovec_entry(&sent.iovec), rest[i].__private2);
	}
	evpl_iovecs_release(rest, 3 * PER_SLAB - 2);
	EXPECT_EQ(100, read(pipe_fds[0], page, sizeof(page)));
	EXPECT_EQ('x', page[99]);
	close(pipe_fds[0]);
	close(pipe_fds[1]);
	evpl_pool_trim(self->pool);
	EXPECT_EQ(2 * SLAB, stats_of(self->pool).bytes);
}

TEST_F(lane, received_slice_can_be_sent_on)
{
	struct evpl_message sent = allocate(self->evpl, BUFFER, 'x'), copy, got, back;
	struct evpl_channel *channel, *other;
	struct evpl_iovec part;
	uint64_t used;
	int peer, fd;

	ASSERT_EQ(0, evpl_channel_create(&channel, self->other_pool, 64, 0, &peer));
	ASSERT_EQ(0, evpl_channel_bind(&other, self->pool, peer, 0));
	used = used_in(self->pool);
	for (int i = 0; i < 3; i++) {
		/* The first message is a record, and the others come by its grant. */
		copy = again(&sent);
		copy.flags = EVPL_MESSAGE_DEVICE;
		ASSERT_TRUE(pass(self->channel, self->other_channel, &copy, &got));
		ASSERT_EQ(0, evpl_iovec_clone_segment(&part, &got.iovec, 4096, 4096));
		ASSERT_TRUE(pass(i % 2 ? channel : self->other_channel,
				 i % 2 ? other : self->channel, &got, &back));
		/* It is home: the owner's own memory again. */
		EXPECT_EQ(sent.iovec.data, back.iovec.data);
		evpl_iovec_release(&back.iovec);
		EXPECT_TRUE(is_filled(&part, 'x'));
		fd = evpl_iovec_export(&part, 1, 0);
		EXPECT_LE(0, fd);
		close(fd);
	}
	evpl_iovec_release(&sent.iovec);
	evpl_channel_close(channel);
	evpl_channel_close(other);
	/* Now the kernel's other shares of the buffer are gone, the grant is taken back. */
	evpl_pool_trim(self->pool);
	EXPECT_EQ(-EAGAIN, evpl_channel_recv(self->other_channel, &got, 1));
	evpl_pool_trim(self->pool);
	EXPECT_EQ(used - 1, used_in(self->pool));
}

TEST_F(lane, received_messages_outlive_the_lane)
{
	struct evpl_message sent[4], got[4], more;

	for (int i = 0; i < 4; i++)
		sent[i] = allocate(self->evpl, BUFFER, (char)('a' + i));
	ASSERT_EQ(0, evpl_channel_send(self->channel, sent, 4));
	ASSERT_EQ(2, evpl_channel_recv(self->other_channel, got, 2));
	evpl_iovec_release(&got[0].iovec);
	/* The sender closes, and two messages are in the ring. */
	evpl_channel_close(self->channel);
	self->channel = NULL;
	ASSERT_EQ(1, evpl_channel_recv(self->other_channel, &got[2], 1));
	ASSERT_EQ(1, evpl_channel_recv(self->other_channel, &got[3], 1));
	EXPECT_EQ(-EPIPE, evpl_channel_recv(self->other_channel, &more, 1));
	EXPECT_EQ(-EPIPE, evpl_channel_send(self->other_channel, &got[1], 1));
	evpl_channel_close(self->other_channel);
	self->other_channel = NULL;
	evpl_pool_trim(self->pool);
	for (int i = 1; i < 4; i++) {
		EXPECT_TRUE(is_filled(&got[i].iovec, (char)('a' + i)));
		EXPECT_EQ(-EBUSY, evpl_pool_close(self->other_pool));
		evpl_iovec_release(&got[i].iovec);
	}
	evpl_pool_trim(self->other_pool);
	evpl_pool_trim(self->pool);
	EXPECT_EQ(0, used_in(self->pool));
}

TEST_F(lane, sender_learns_that_the_receiver_has_closed)
{
	struct evpl_message sent[4], got, one;

	for (int i = 0; i < 4; i++)
		sent[i] = allocate(self->evpl, BUFFER, (char)('a' + i));
	ASSERT_EQ(0, evpl_channel_send(self->channel, sent, 4));
	ASSERT_EQ(1, evpl_channel_recv(self->other_channel, &got, 1));
	evpl_channel_close(self->other_channel);
	self->other_channel = NULL;
	one = allocate(self->evpl, BUFFER, 'x');
	EXPECT_EQ(-EPIPE, evpl_channel_send(self->channel, &one, 1));
	EXPECT_EQ(-EPIPE, evpl_channel_send(self->channel, &one, 1));
	evpl_iovec_release(&one.iovec);
	EXPECT_TRUE(is_filled(&got.iovec, 'a'));
	evpl_iovec_release(&got.iovec);
	evpl_pool_trim(self->other_pool);
	evpl_pool_trim(self->pool);
	/* The lane's block is left. */
	EXPECT_EQ(1, used_in(self->pool));
}

/* Another lane between the two pools, of which both sides poll. */
static bool make_polling(FIXTURE_DATA(lane) *self, struct evpl_channel *channels[2])
{
	struct evpl_message got;
	int peer;

	if (evpl_channel_create(&channels[0], self->pool, CAPACITY,
				EVPL_CHANNEL_LANE | EVPL_CHANNEL_POLLING, &peer) ||
	    evpl_channel_bind(&channels[1], self->other_pool, peer,
			      EVPL_CHANNEL_LANE | EVPL_CHANNEL_POLLING))
		return false;
	for (int i = 0; i < 4; i++)
		evpl_channel_recv(channels[i % 2], &got, 1);
	return stats_of_lane(channels[0]).sending && stats_of_lane(channels[1]).sending &&
	       stats_of_lane(channels[0]).receiving && stats_of_lane(channels[1]).receiving;
}

TEST_F(lane, polling_side_is_woken_only_if_it_has_asked_for_that)
{
	struct evpl_message sent = allocate(self->evpl, 100, 'x'), copy, got;
	struct evpl_channel *channels[2];
	struct pollfd pollfd = { .events = POLLIN };
	uint64_t doorbells;

	ASSERT_TRUE(make_polling(self, channels));
	pollfd.fd = evpl_channel_fd(channels[1]);
	for (int i = 0; i < 3; i++) {
		copy = again(&sent);
		ASSERT_TRUE(pass(channels[0], channels[1], &copy, &got));
		evpl_iovec_release(&got.iovec);
	}
	doorbells = stats_of_lane(channels[0]).doorbells;
	copy = again(&sent);
	ASSERT_EQ(0, evpl_channel_send(channels[0], &copy, 1));
	EXPECT_EQ(doorbells, stats_of_lane(channels[0]).doorbells);
	EXPECT_EQ(0, poll(&pollfd, 1, 0));
	EXPECT_EQ(-EBUSY, evpl_channel_arm(channels[1]));
	ASSERT_EQ(1, evpl_channel_recv(channels[1], &got, 1));
	evpl_iovec_release(&got.iovec);
	EXPECT_EQ(0, evpl_channel_arm(channels[1]));
	EXPECT_EQ(0, poll(&pollfd, 1, 0));
	copy = again(&sent);
	ASSERT_EQ(0, evpl_channel_send(channels[0], &copy, 1));
	EXPECT_EQ(1, poll(&pollfd, 1, 0));
	ASSERT_EQ(1, evpl_channel_recv(channels[1], &got, 1));
	evpl_iovec_release(&got.iovec);
	EXPECT_EQ(0, evpl_channel_arm(channels[1]));
	evpl_channel_close(channels[0]);
	EXPECT_EQ(1, poll(&pollfd, 1, 0));
	EXPECT_EQ(-EPIPE, evpl_channel_recv(channels[1], &got, 1));
	evpl_channel_close(channels[1]);
	evpl_iovec_release(&sent.iovec);
}

#define BATCH	32
#define STREAM	10000

struct stream {
	struct evpl_channel *channels[2];
	struct evpl *evpl[2];
	bool ok;
};

/* Sends a batch each way, and receives both. Returns false if something isn't as it was sent. */
static bool exchange(struct stream *stream, int round)
{
	struct evpl_message sent[BATCH], got[BATCH];
	int way, i;

	for (way = 0; way < 2; way++) {
		for (i = 0; i < BATCH; i++) {
			sent[i] = (struct evpl_message){ .cookie = (uint64_t)(round + i) };
			if (evpl_iovec_alloc(stream->evpl[way], 1000, 1, 1, &sent[i].iovec) != 1)
				return false;
			*(int *)sent[i].iovec.data = round + i;
		}
		if (evpl_channel_send(stream->channels[way], sent, BATCH) ||
		    evpl_channel_recv(stream->channels[!way], got, BATCH) != BATCH)
			return false;
		for (i = 0; i < BATCH; i++) {
			if (got[i].cookie != (uint64_t)(round + i) ||
			    *(int *)got[i].iovec.data != round + i)
				return false;
			evpl_iovec_release(&got[i].iovec);
		}
	}
	return true;
}

/* Sends each buffer of a pool once. */
static bool grant_all(struct evpl *evpl, struct evpl_channel *from, struct evpl_channel *to)
{
	unsigned int n = (unsigned int)(4 * PER_SLAB - used_in(evpl->pool)), i;
	struct evpl_message sent[4 * PER_SLAB], got;
	bool ok = true;

	for (i = 0; i < n; i++)
		sent[i] = allocate(evpl, BUFFER, (char)i);
	for (i = 0; i < n; i++) {
		ok = ok && pass(from, to, &sent[i], &got);
		evpl_iovec_release(&got.iovec);
	}
	return ok && stats_of_lane(from).grants == n;
}

static void *stream_main(void *arg)
{
	struct stream *stream = arg;
	int i;

	/* From here on the contexts serve this thread. */
	for (i = 0; i < 100; i++)
		if (!exchange(stream, i))
			return NULL;
	forbid_system_calls();
	for (i = 0; i < STREAM && exchange(stream, i); i += BATCH)
		;
	stream->ok = i >= STREAM;
	syscall(SYS_exit, 0);
	return NULL;
}

TEST_F(lane, stream_between_polling_sides_makes_no_system_call)
{
	struct stream stream = { .evpl = { self->evpl, self->other } };

	if (SANITIZED)
		SKIP(return, "sanitizers make system calls of their own");
	ASSERT_TRUE(make_polling(self, stream.channels));
	ASSERT_TRUE(grant_all(self->evpl, stream.channels[0], stream.channels[1]));
	ASSERT_TRUE(grant_all(self->other, stream.channels[1], stream.channels[0]));
	on_thread(stream_main, &stream);
	EXPECT_TRUE(stream.ok);
	evpl_channel_close(stream.channels[0]);
	evpl_channel_close(stream.channels[1]);
}

struct in_child {
	FIXTURE_DATA(lane) *self;
	struct evpl_message *got;
};

static int child_of_a_lane(void *arg)
{
	struct in_child *in_child = arg;
	struct evpl_lane_stats stats = EVPL_LANE_STATS_INIT;
	FIXTURE_DATA(lane) *self = in_child->self;
	struct evpl_message got;
	struct evpl_iovec clone;

	if (evpl_channel_recv(self->other_channel, &got, 1) != -EPERM ||
	    evpl_channel_send(self->other_channel, in_child->got, 1) != -EPERM ||
	    evpl_channel_arm(self->other_channel) != -EPERM ||
	    evpl_lane_stats(self->other_channel, &stats) != -EPERM ||
	    evpl_iovec_clone_segment(&clone, &in_child->got->iovec, 0, 1) != -EPERM)
		return 1;
	evpl_iovec_release(&in_child->got->iovec);
	evpl_channel_close(self->other_channel);
	evpl_channel_close(self->channel);
	return 0;
}

TEST_F(lane, child_of_fork_has_no_part_in_it)
{
	struct evpl_message sent = allocate(self->evpl, BUFFER, 'x'), copy, got, more;
	struct in_child in_child = { self, &got };

	for (int i = 0; i < 2; i++) {
		copy = again(&sent);
		ASSERT_TRUE(pass(self->channel, self->other_channel, &copy, &got));
		EXPECT_EQ(0, status_of(child_of_a_lane, &in_child));
		EXPECT_TRUE(is_filled(&got.iovec, 'x'));
		copy = again(&sent);
		ASSERT_TRUE(pass(self->channel, self->other_channel, &copy, &more));
		evpl_iovec_release(&more.iovec);
		evpl_iovec_release(&got.iovec);
	}
	evpl_iovec_release(&sent.iovec);
}

struct pingpong {
	struct evpl_channel *channel;
	struct evpl *evpl;
	int rounds;
};

/* Sends back what comes, in memory of its own. */
static void *echo(void *arg)
{
	struct pingpong *pingpong = arg;
	struct evpl_message got, reply;

	for (int i = 0; i < pingpong->rounds; i++) {
		if (evpl_channel_recv(pingpong->channel, &got, 1) != 1)
			abort();
		reply = allocate(pingpong->evpl, 1000, (char)got.cookie);
		if (!is_filled(&got.iovec, (char)got.cookie))
			abort();
		evpl_iovec_release(&got.iovec);
		if (evpl_channel_send(pingpong->channel, &reply, 1))
			abort();
	}
	return NULL;
}

TEST_F(lane, blocking_sides_wake_each_other)
{
	struct pingpong there = { .evpl = self->other, .rounds = few() ? 500 : 10000 };
	struct evpl_channel *channel;
	struct evpl_message sent, got;
	pthread_t thread;
	int peer;

	ASSERT_EQ(0, evpl_channel_create(&channel, self->pool, CAPACITY,
					 EVPL_CHANNEL_LANE | EVPL_CHANNEL_BLOCKING, &peer));
	ASSERT_EQ(0, evpl_channel_bind(&there.channel, self->other_pool, peer,
				       EVPL_CHANNEL_LANE | EVPL_CHANNEL_BLOCKING));
	ASSERT_EQ(0, pthread_create(&thread, NULL, echo, &there));
	for (int i = 0; i < there.rounds; i++) {
		sent = allocate(self->evpl, 1000, (char)i);
		ASSERT_TRUE(pass(channel, channel, &sent, &got));
		evpl_iovec_release(&got.iovec);
	}
	ASSERT_EQ(0, pthread_join(thread, NULL));
	EXPECT_LT(0, stats_of_lane(channel).sent);
	evpl_channel_close(channel);
	evpl_channel_close(there.channel);
}

/* Echoes in a process of its own, until it is killed or the channel ends. */
static int echo_main(int fd)
{
	struct evpl_message got, reply;
	struct evpl_channel *channel;
	struct evpl_pool *pool;
	struct evpl *evpl;

	if (open_zeros(&pool) || evpl_create(&evpl, pool, NULL) ||
	    evpl_channel_bind(&channel, pool, fd, EVPL_CHANNEL_LANE | EVPL_CHANNEL_BLOCKING))
		return 1;
	while (evpl_channel_recv(channel, &got, 1) == 1) {
		reply = allocate(evpl, 1000, (char)got.cookie);
		evpl_iovec_release(&got.iovec);
		if (evpl_channel_send(channel, &reply, 1))
			break;
	}
	return 0;
}

TEST_F(lane, peer_that_is_killed_gives_everything_back)
{
	struct evpl_message sent, got;
	struct evpl_channel *channel;
	int peer, ret, status;
	pid_t child;

	for (int i = 0; i < (few() ? 10 : 100); i++) {
		ASSERT_EQ(0, evpl_channel_create(&channel, self->pool, CAPACITY,
						 EVPL_CHANNEL_LANE | EVPL_CHANNEL_BLOCKING,
						 &peer));
		child = fork();
		if (!child)
			_exit(echo_main(peer));
		ASSERT_LT(0, child);
		close(peer);
		for (int n = 0;; n++) {
			if (n == i)
				kill(child, SIGKILL);
			sent = allocate(self->evpl, 1000, (char)n);
			ret = evpl_channel_send(channel, &sent, 1);
			if (ret) {
				evpl_iovec_release(&sent.iovec);
				break;
			}
			ret = evpl_channel_recv(channel, &got, 1);
			if (ret < 0)
				break;
			EXPECT_TRUE(is_filled(&got.iovec, (char)got.cookie));
			evpl_iovec_release(&got.iovec);
		}
		EXPECT_EQ(-EPIPE, ret);
		ASSERT_EQ(child, waitpid(child, &status, 0));
		EXPECT_TRUE(WIFSIGNALED(status));
		evpl_channel_close(channel);
		/* The context may still cut slices off a buffer. */
		evpl_destroy(self->evpl);
		evpl_pool_trim(self->pool);
		/* The lane of the fixture has one. */
		EXPECT_EQ(1, used_in(self->pool));
		ASSERT_EQ(0, evpl_create(&self->evpl, self->pool, NULL));
	}
}

TEST_F(lane, descriptor_stays_readable_when_the_receiver_prepares_to_sleep_but_need_not)
{
	struct pollfd pollfd = { .fd = evpl_channel_fd(self->other_channel), .events = POLLIN };
	struct evpl_message sent[2], got;

	for (int i = 0; i < 2; i++)
		sent[i] = allocate(self->evpl, 1000, (char)i);
	ASSERT_EQ(0, evpl_channel_send(self->channel, sent, 2));
	for (int i = 0; i < 2; i++) {
		EXPECT_EQ(-EBUSY, evpl_channel_arm(self->other_channel));
		EXPECT_EQ(1, poll(&pollfd, 1, 0));
		ASSERT_EQ(1, evpl_channel_recv(self->other_channel, &got, 1));
		evpl_iovec_release(&got.iovec);
	}
	EXPECT_EQ(0, evpl_channel_arm(self->other_channel));
	EXPECT_EQ(0, poll(&pollfd, 1, 0));
}

/* The receiver has read one of the messages already when it looked for the peer's block. */
TEST_F(lane, descriptor_is_readable_when_messages_come_from_before_and_after_the_set_up)
{
	struct evpl_message sent = allocate(self->evpl, 1000, 'x'), next = { .flags = 0 }, got;
	struct pollfd pollfd = { .events = POLLIN };
	struct evpl_channel *there, *here;
	int peer;

	ASSERT_EQ(0, evpl_channel_create(&there, self->pool, CAPACITY, EVPL_CHANNEL_LANE, &peer));
	evpl_iovec_clone(&next.iovec, &sent.iovec);
	ASSERT_EQ(0, evpl_channel_send(there, &next, 1));
	ASSERT_EQ(0, evpl_channel_bind(&here, self->other_pool, peer, EVPL_CHANNEL_LANE));
	pollfd.fd = evpl_channel_fd(here);
	next = allocate(self->other, 1000, 'y');
	ASSERT_EQ(0, evpl_channel_send(here, &next, 1));
	ASSERT_EQ(1, evpl_channel_recv(there, &got, 1));
	evpl_iovec_release(&got.iovec);
	for (int i = 1; i < 4; i++) {
		evpl_iovec_clone(&next.iovec, &sent.iovec);
		ASSERT_EQ(0, evpl_channel_send(there, &next, 1));
	}
	ASSERT_EQ(1, stats_of_lane(there).sending);
	for (int i = 0; i < 4; i++) {
		EXPECT_EQ(1, poll(&pollfd, 1, 0));
		ASSERT_EQ(1, evpl_channel_recv(here, &got, 1));
		EXPECT_TRUE(is_filled(&got.iovec, 'x'));
		evpl_iovec_release(&got.iovec);
	}
	EXPECT_EQ(-EAGAIN, evpl_channel_recv(here, &got, 1));
	EXPECT_EQ(0, poll(&pollfd, 1, 0));
	evpl_iovec_release(&sent.iovec);
	evpl_channel_close(there);
	evpl_channel_close(here);
}

/* Takes all free buffers of a pool, and gives them back. Returns whether @buffer was among them. */
static bool is_free(struct evpl *evpl, const void *buffer)
{
	struct evpl_iovec iovecs[4 * PER_SLAB];
	bool found = false;
	int n = 0;

	while (n < (int)ARRAY_SIZE(iovecs) && evpl_buffer_alloc(evpl, &iovecs[n]) == 1)
		found |= iovecs[n++].data == buffer;
	evpl_iovecs_release(iovecs, n);
	return found;
}

TEST_F(lane, buffer_that_its_receiver_has_sent_on_is_not_used_again_before_all_have_let_go)
{
	struct evpl_channel *there, *here;
	struct evpl_message sent, got;
	struct evpl_pool *third;
	void *data;
	int peer;

	ASSERT_EQ(0, open_zeros(&third));
	ASSERT_EQ(0, evpl_channel_create(&there, self->other_pool, 0, 0, &peer));
	ASSERT_EQ(0, evpl_channel_bind(&here, third, peer, 0));
	/* The second time the message goes through the ring. */
	for (int i = 0; i < 2; i++) {
		sent = allocate(self->evpl, BUFFER, (char)('x' + i));
		data = sent.iovec.data;
		ASSERT_EQ(0, evpl_channel_send(self->channel, &sent, 1));
		ASSERT_EQ(1, evpl_channel_recv(self->other_channel, &got, 1));
		ASSERT_EQ(0, evpl_channel_send(there, &got, 1));
		EXPECT_FALSE(is_free(self->evpl, data));
		ASSERT_EQ(1, evpl_channel_recv(here, &got, 1));
		EXPECT_FALSE(is_free(self->evpl, data));
		EXPECT_TRUE(is_filled(&got.iovec, (char)('x' + i)));
		evpl_iovec_release(&got.iovec);
		/* The owner, which is short of buffers, has taken the grant back. */
		EXPECT_EQ(-EAGAIN, evpl_channel_recv(self->other_channel, &got, 1));
		EXPECT_TRUE(is_free(self->evpl, data));
	}
	evpl_channel_close(there);
	evpl_channel_close(here);
	EXPECT_EQ(0, evpl_pool_close(third));
}

TEST_F(lane, buffer_that_comes_home_is_not_used_again_before_its_owner_has_let_go)
{
	struct evpl_message sent, got;
	void *data;

	for (int i = 0; i < 2; i++) {
		sent = allocate(self->evpl, BUFFER, (char)('x' + i));
		data = sent.iovec.data;
		ASSERT_EQ(0, evpl_channel_send(self->channel, &sent, 1));
		ASSERT_EQ(1, evpl_channel_recv(self->other_channel, &got, 1));
		ASSERT_EQ(0, evpl_channel_send(self->other_channel, &got, 1));
		EXPECT_FALSE(is_free(self->evpl, data));
		ASSERT_EQ(1, evpl_channel_recv(self->channel, &got, 1));
		EXPECT_EQ(data, got.iovec.data);
		EXPECT_FALSE(is_free(self->evpl, data));
		EXPECT_TRUE(is_filled(&got.iovec, (char)('x' + i)));
		evpl_iovec_release(&got.iovec);
		/* The owner, which is short of buffers, has taken the grant back. */
		EXPECT_EQ(-EAGAIN, evpl_channel_recv(self->other_channel, &got, 1));
		EXPECT_TRUE(is_free(self->evpl, data));
	}
}

/* The records of the set-up are in the channel too. So it can be full when the ring isn't. */
TEST_F(lane, channel_that_is_full_is_EAGAIN_though_the_ring_has_room)
{
	struct pollfd pollfd = { .events = POLLOUT };
	struct evpl_channel *there, *here;
	struct evpl_message sent, got;
	int err = 0, n = 0, peer;

	ASSERT_EQ(0, evpl_channel_create(&there, self->pool, 8, EVPL_CHANNEL_LANE, &peer));
	pollfd.fd = evpl_channel_fd(there);
	ASSERT_EQ(0, evpl_channel_bind(&here, self->other_pool, peer, EVPL_CHANNEL_LANE));
	/* Each message is the first of its buffer, and so a record. */
	while (!err && n <= 8) {
		sent = allocate(self->evpl, BUFFER, (char)n);
		err = evpl_channel_send(there, &sent, 1);
		n += !err;
	}
	EXPECT_EQ(-EAGAIN, err);
	EXPECT_EQ(6, n);
	EXPECT_EQ(1, stats_of_lane(there).sending);
	EXPECT_EQ(0, poll(&pollfd, 1, 0));
	for (int i = 0; i < n; i++) {
		ASSERT_EQ(1, evpl_channel_recv(here, &got, 1));
		EXPECT_TRUE(is_filled(&got.iovec, (char)i));
		evpl_iovec_release(&got.iovec);
		EXPECT_EQ(1, poll(&pollfd, 1, 0));
	}
	EXPECT_EQ(0, evpl_channel_send(there, &sent, 1));
	ASSERT_EQ(1, evpl_channel_recv(here, &got, 1));
	evpl_iovec_release(&got.iovec);
	evpl_channel_close(there);
	evpl_channel_close(here);
}

TEST_F(lane, buffer_comes_back_from_a_peer_that_has_closed_its_end_without_a_call_for_the_lane)
{
	struct evpl_message sent = allocate(self->evpl, 1000, 'x'), got;
	struct evpl_iovec kept;

	evpl_iovec_clone(&kept, &sent.iovec);
	ASSERT_EQ(0, evpl_channel_send(self->channel, &sent, 1));
	ASSERT_EQ(1, evpl_channel_recv(self->other_channel, &got, 1));
	EXPECT_EQ(-EAGAIN, evpl_iovec_wait(&kept, EVPL_IOVEC_TRY));
	evpl_channel_close(self->other_channel);
	self->other_channel = NULL;
	EXPECT_EQ(-EAGAIN, evpl_iovec_wait(&kept, EVPL_IOVEC_TRY));
	EXPECT_TRUE(is_filled(&got.iovec, 'x'));
	evpl_iovec_release(&got.iovec);
	EXPECT_EQ(0, evpl_iovec_wait(&kept, EVPL_IOVEC_TRY));
	evpl_iovec_release(&kept);
	EXPECT_EQ(-EPIPE, evpl_channel_send(self->channel, &sent, 1));
}

/* The events that an epoll set with EPOLLET has for a channel, or -1 if there are none. */
static int edges_of(int epoll, int timeout)
{
	struct epoll_event event;
	int n;

	do {
		n = epoll_wait(epoll, &event, 1, timeout);
	} while (n < 0 && errno == EINTR);
	return n == 1 ? (int)event.events : -1;
}

static int edge_triggered(struct evpl_channel *channel)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLOUT | EPOLLET };
	int epoll = epoll_create1(EPOLL_CLOEXEC);

	if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, evpl_channel_fd(channel), &event))
		abort();
	return epoll;
}

TEST_F(lane, each_end_of_a_wait_is_an_edge)
{
	int sender = edge_triggered(self->channel), receiver = edge_triggered(self->other_channel);
	struct evpl_message sent = allocate(self->evpl, 100, 'x'), copy, got;
	int err, n;

	/* Both ends are writable at first. */
	EXPECT_EQ(EPOLLOUT, edges_of(sender, 0));
	EXPECT_EQ(EPOLLOUT, edges_of(receiver, 0));
	for (int i = 0; i < 5; i++) {
		ASSERT_EQ(-EAGAIN, evpl_channel_recv(self->other_channel, &got, 1));
		EXPECT_EQ(-1, edges_of(receiver, 0));
		for (n = 0; n <= i; n++) {
			copy = again(&sent);
			ASSERT_EQ(0, evpl_channel_send(self->channel, &copy, 1));
		}
		EXPECT_EQ(EPOLLIN | EPOLLOUT, edges_of(receiver, 0));
		for (n = 0; n <= i; n++) {
			ASSERT_EQ(1, evpl_channel_recv(self->other_channel, &got, 1));
			evpl_iovec_release(&got.iovec);
		}
	}
	for (int i = 0; i < 5; i++) {
		do {
			copy = again(&sent);
			err = evpl_channel_send(self->channel, &copy, 1);
		} while (!err);
		ASSERT_EQ(-EAGAIN, err);
		evpl_iovec_release(&copy.iovec);
		EXPECT_EQ(-1, edges_of(sender, 0));
		for (n = 0; n <= i; n++) {
			ASSERT_EQ(1, evpl_channel_recv(self->other_channel, &got, 1));
			evpl_iovec_release(&got.iovec);
		}
		EXPECT_EQ(EPOLLOUT, edges_of(sender, 0));
	}
	evpl_iovec_release(&sent.iovec);
	close(sender);
	close(receiver);
}

/* One side of a lane whose descriptor is polled with EPOLLET. */
struct edge_side {
	struct evpl_channel *channel;
	struct evpl_pool *pool;
	int messages;
	const char *error;
};

/* Sends and receives so many messages. It sleeps whenever it can do neither. */
static void *run_on_edges(void *arg)
{
	struct edge_side *side = arg;
	struct evpl_message sent = { .flags = 0 }, kept, got;
	int epoll = edge_triggered(side->channel), nr_sent = 0, nr_got = 0, ret;
	struct evpl *evpl;

	if (evpl_create(&evpl, side->pool, NULL))
		abort();
	kept = allocate(evpl, 100, 'x');
	while (!side->error) {
		while ((ret = evpl_channel_recv(side->channel, &got, 1)) == 1) {
			if (got.cookie != (uint64_t)nr_got++ || !is_filled(&got.iovec, 'x'))
				side->error = "another message";
			evpl_iovec_release(&got.iovec);
		}
		if (ret != -EAGAIN)
			side->error = "recv failed";
		for (ret = 0; nr_sent < side->messages && !ret; nr_sent += !ret) {
			sent = again(&kept);
			sent.cookie = (uint64_t)nr_sent;
			ret = evpl_channel_send(side->channel, &sent, 1);
			if (ret)
				evpl_iovec_release(&sent.iovec);
		}
		if (ret && ret != -EAGAIN)
			side->error = "send failed";
		if (nr_sent == side->messages && nr_got == side->messages)
			break;
		edges_of(epoll, -1);
	}
	evpl_iovec_release(&kept.iovec);
	evpl_destroy(evpl);
	close(epoll);
	return NULL;
}

TEST_F(lane, sides_that_wait_for_edges_lose_no_wake_up)
{
	const int messages = few() ? 5000 : 100000;
	struct edge_side sides[2] = {
		{ self->channel, self->pool, messages, NULL },
		{ self->other_channel, self->other_pool, messages, NULL },
	};
	pthread_t thread;

	ASSERT_EQ(0, pthread_create(&thread, NULL, run_on_edges, &sides[1]));
	run_on_edges(&sides[0]);
	ASSERT_EQ(0, pthread_join(thread, NULL));
	for (int i = 0; i < 2; i++) {
		EXPECT_EQ(NULL, sides[i].error) {
			TH_LOG("%s", sides[i].error);
		}
	}
}

/* A device that registers received buffers: the cookie is the address of the buffer. */
struct leases_device {
	unsigned int registered, unregistered;
};

static int register_buffer(void *arg, const struct evpl_slab_info *slab, uint64_t *cookie)
{
	struct leases_device *device = arg;

	if (slab->flags != (EVPL_SLAB_LEASED | EVPL_SLAB_READONLY) || slab->length != BUFFER)
		return -1;
	device->registered++;
	*cookie = (uintptr_t)slab->base;
	return 0;
}

static int unregister_buffer(void *arg, const struct evpl_slab_info *slab, uint64_t cookie)
{
	struct leases_device *device = arg;

	device->unregistered += cookie == (uintptr_t)slab->base;
	return 0;
}

TEST_F(lane, granted_buffer_is_registered_with_a_device_once)
{
	const struct evpl_device_ops ops = {
		.size = sizeof(ops),
		.flags = EVPL_DEVICE_LEASES,
		.register_slab = register_buffer,
		.unregister_slab = unregister_buffer,
	};
	struct evpl_message sent = allocate(self->evpl, BUFFER, 'x'), copy, got[3], plain;
	struct leases_device registrations = { 0 };
	struct evpl_device *device;
	uint64_t cookie;

	ASSERT_EQ(0, evpl_device_attach(self->other_pool, &ops, &registrations, &device));
	sent.flags = EVPL_MESSAGE_DEVICE;
	for (int i = 0; i < 3; i++) {
		/* The first message is a record, and the others come by its grant. */
		copy = again(&sent);
		copy.iovec.data = (char *)copy.iovec.data + i * 4096;
		copy.iovec.length = 4096;
		ASSERT_TRUE(pass(self->channel, self->other_channel, &copy, &got[i]));
		ASSERT_EQ(0, evpl_device_cookie(device, &got[i].iovec, &cookie));
		EXPECT_EQ((uintptr_t)got[i].iovec.data - (uintptr_t)i * 4096, cookie);
	}
	EXPECT_EQ(2, stats_of_lane(self->channel).sent);
	EXPECT_EQ(1, registrations.registered);
	for (int i = 0; i < 3; i++)
		evpl_iovec_release(&got[i].iovec);
	/* The grant has the lease, and the lease its registration. */
	EXPECT_EQ(0, registrations.unregistered);
	copy = again(&sent);
	ASSERT_TRUE(pass(self->channel, self->other_channel, &copy, &got[0]));
	ASSERT_EQ(0, evpl_device_cookie(device, &got[0].iovec, &cookie));
	EXPECT_EQ((uintptr_t)got[0].iovec.data, cookie);
	EXPECT_EQ(1, registrations.registered);
	evpl_iovec_release(&got[0].iovec);
	/* A device may not have the buffer by a message without the flag. */
	sent.flags = 0;
	for (int i = 0; i < 2; i++) {
		copy = again(&sent);
		ASSERT_TRUE(pass(self->channel, self->other_channel, &copy, &plain));
		EXPECT_EQ(-ENOENT, evpl_device_cookie(device, &plain.iovec, &cookie));
		evpl_iovec_release(&plain.iovec);
	}
	EXPECT_EQ(1, registrations.registered);
	/* Both grants end, and with them the lease and its registration. */
	EXPECT_EQ(-EAGAIN, evpl_iovec_wait(&sent.iovec, EVPL_IOVEC_TRY));
	EXPECT_EQ(-EAGAIN, evpl_channel_recv(self->other_channel, &got[0], 1));
	EXPECT_EQ(0, evpl_iovec_wait(&sent.iovec, EVPL_IOVEC_TRY));
	EXPECT_EQ(1, registrations.unregistered);
	evpl_iovec_release(&sent.iovec);
	evpl_device_detach(device);
	EXPECT_EQ(1, registrations.unregistered);
}

/* Threads that share the two ends of a lane. Each sends, or receives, and sleeps when it must. */
#define SENDERS		3
#define RECEIVERS	3

struct crowd {
	struct evpl_channel *channels[2];
	struct evpl_pool *pool;
	int messages;
	_Atomic uint64_t sum;
	atomic_int received;
	atomic_int errors;
};

static void *send_in_a_crowd(void *arg)
{
	struct crowd *crowd = arg;
	unsigned int seed = (unsigned int)pthread_self(), spins = 0;
	struct evpl_message batch[4];
	int left = crowd->messages, n, i;
	struct evpl *evpl;

	if (evpl_create(&evpl, crowd->pool, NULL))
		abort();
	while (left) {
		n = 1 + rand_r(&seed) % 4 % left;
		for (i = 0; i < n; i++) {
			batch[i] = (struct evpl_message){ .cookie = (uint64_t)rand_r(&seed) };
			while (evpl_iovec_alloc(evpl, 64 + (unsigned int)batch[i].cookie % 5000, 1, 1,
						&batch[i].iovec) != 1)
				spin(&spins);
			memset(batch[i].iovec.data, (int)batch[i].cookie, batch[i].iovec.length);
			atomic_fetch_add(&crowd->sum, batch[i].cookie);
		}
		if (evpl_channel_send(crowd->channels[0], batch, n)) {
			atomic_fetch_add(&crowd->errors, 1);
			evpl_iovec_release(&batch[0].iovec);
			break;
		}
		left -= n;
	}
	evpl_destroy(evpl);
	return NULL;
}

static void *receive_in_a_crowd(void *arg)
{
	struct crowd *crowd = arg;
	struct evpl_message got[4];
	int n, i;

	while ((n = evpl_channel_recv(crowd->channels[1], got, 4)) > 0) {
		for (i = 0; i < n; i++) {
			if (got[i].iovec.length != 64 + (unsigned int)got[i].cookie % 5000 ||
			    !is_filled(&got[i].iovec, (char)got[i].cookie))
				atomic_fetch_add(&crowd->errors, 1);
			atomic_fetch_sub(&crowd->sum, got[i].cookie);
			evpl_iovec_release(&got[i].iovec);
		}
		atomic_fetch_add(&crowd->received, n);
	}
	if (n != -EPIPE)
		atomic_fetch_add(&crowd->errors, 1);
	return NULL;
}

TEST_F(lane, many_threads_send_and_receive_each_message_once)
{
	struct crowd crowd = { .pool = self->pool, .messages = few() ? 2000 : 20000 };
	pthread_t senders[SENDERS], receivers[RECEIVERS];
	int peer, i;

	ASSERT_EQ(0, evpl_channel_create(&crowd.channels[0], self->pool, CAPACITY,
					 EVPL_CHANNEL_LANE | EVPL_CHANNEL_BLOCKING, &peer));
	ASSERT_EQ(0, evpl_channel_bind(&crowd.channels[1], self->other_pool, peer,
				       EVPL_CHANNEL_LANE | EVPL_CHANNEL_BLOCKING));
	for (i = 0; i < RECEIVERS; i++)
		ASSERT_EQ(0, pthread_create(&receivers[i], NULL, receive_in_a_crowd, &crowd));
	for (i = 0; i < SENDERS; i++)
		ASSERT_EQ(0, pthread_create(&senders[i], NULL, send_in_a_crowd, &crowd));
	for (i = 0; i < SENDERS; i++)
		ASSERT_EQ(0, pthread_join(senders[i], NULL));
	EXPECT_LT(0, stats_of_lane(crowd.channels[0]).sent);
	/* The receivers still get what is in the ring. */
	evpl_channel_close(crowd.channels[0]);
	for (i = 0; i < RECEIVERS; i++)
		ASSERT_EQ(0, pthread_join(receivers[i], NULL));
	EXPECT_EQ(0, atomic_load(&crowd.errors));
	EXPECT_EQ(SENDERS * crowd.messages, atomic_load(&crowd.received));
	EXPECT_EQ(0, atomic_load(&crowd.sum));
	evpl_channel_close(crowd.channels[1]);
}

/* Has both sides of a lane send by their rings. */
static bool settle(struct evpl_channel *there, struct evpl_channel *here)
{
	struct evpl_message got;

	for (int i = 0; i < 2; i++)
		if (evpl_channel_recv(there, &got, 1) != -EAGAIN ||
		    evpl_channel_recv(here, &got, 1) != -EAGAIN)
			return false;
	return stats_of_lane(there).sending && stats_of_lane(here).sending;
}

TEST_F(lane, received_buffer_goes_on_over_other_lanes_and_comes_home)
{
	struct evpl_channel *there[2], *here[2];
	struct evpl_message sent, got;
	struct evpl_pool *third;
	void *data;
	int peer;

	/* From the other pool to a third one, and from that one home. */
	ASSERT_EQ(0, open_zeros(&third));
	ASSERT_EQ(0, evpl_channel_create(&there[0], self->other_pool, 0, EVPL_CHANNEL_LANE, &peer));
	ASSERT_EQ(0, evpl_channel_bind(&here[0], third, peer, EVPL_CHANNEL_LANE));
	ASSERT_EQ(0, evpl_channel_create(&there[1], third, 0, EVPL_CHANNEL_LANE, &peer));
	ASSERT_EQ(0, evpl_channel_bind(&here[1], self->pool, peer, EVPL_CHANNEL_LANE));
	for (int i = 0; i < 2; i++)
		ASSERT_TRUE(settle(there[i], here[i]));
	/* The second time the message comes by a grant. */
	for (int i = 0; i < 4; i++) {
		sent = allocate(self->evpl, BUFFER, (char)('x' + i / 2));
		data = sent.iovec.data;
		if (i % 2) {
			/* The buffer has a grant that is left from a message before. */
			struct evpl_message copy = again(&sent);

			ASSERT_TRUE(pass(self->channel, self->other_channel, &copy, &got));
			evpl_iovec_release(&got.iovec);
		}
		ASSERT_TRUE(pass(self->channel, self->other_channel, &sent, &got));
		ASSERT_EQ(0, evpl_channel_send(there[0], &got, 1));
		EXPECT_FALSE(is_free(self->evpl, data));
		ASSERT_EQ(1, evpl_channel_recv(here[0], &got, 1));
		EXPECT_TRUE(is_filled(&got.iovec, (char)('x' + i / 2)));
		ASSERT_EQ(0, evpl_channel_send(there[1], &got, 1));
		EXPECT_FALSE(is_free(self->evpl, data));
		ASSERT_EQ(1, evpl_channel_recv(here[1], &got, 1));
		EXPECT_EQ(data, got.iovec.data);
		EXPECT_TRUE(is_filled(&got.iovec, (char)('x' + i / 2)));
		EXPECT_FALSE(is_free(self->evpl, data));
		evpl_iovec_release(&got.iovec);
		/* The owner, which is short of buffers, has taken the grant back. */
		EXPECT_EQ(-EAGAIN, evpl_channel_recv(self->other_channel, &got, 1));
		EXPECT_TRUE(is_free(self->evpl, data));
	}
	for (int i = 0; i < 2; i++) {
		evpl_channel_close(there[i]);
		evpl_channel_close(here[i]);
	}
	EXPECT_EQ(0, evpl_pool_close(third));
}

/* The messages that a receiver has. One of its threads releases them. */
struct hoard {
	struct evpl_channel *channel;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct evpl_message messages[4 * PER_SLAB];
	unsigned int count;
	unsigned int wanted;	/* messages that the owner still wants to be released */
	bool ended;
};

/* Receives all that comes, and sleeps meanwhile. It releases nothing. */
static void *receive_into_the_hoard(void *arg)
{
	struct hoard *hoard = arg;
	struct evpl_message got;

	while (evpl_channel_recv(hoard->channel, &got, 1) == 1) {
		if (!is_filled(&got.iovec, (char)got.cookie))
			abort();
		pthread_mutex_lock(&hoard->lock);
		hoard->messages[hoard->count++] = got;
		pthread_cond_signal(&hoard->changed);
		pthread_mutex_unlock(&hoard->lock);
	}
	pthread_mutex_lock(&hoard->lock);
	hoard->ended = true;
	pthread_cond_signal(&hoard->changed);
	pthread_mutex_unlock(&hoard->lock);
	return NULL;
}

/* Asks for the release of a message. */
static void want_one(struct hoard *hoard)
{
	pthread_mutex_lock(&hoard->lock);
	hoard->wanted++;
	pthread_cond_signal(&hoard->changed);
	pthread_mutex_unlock(&hoard->lock);
}

/*
 * Releases a message from any place of the hoard, if one is wanted. Returns false if none will come
 * any more.
 */
static bool release_one(struct hoard *hoard, unsigned int *seed)
{
	struct evpl_message message;
	bool any;

	pthread_mutex_lock(&hoard->lock);
	while ((!hoard->count || !hoard->wanted) && !hoard->ended)
		pthread_cond_wait(&hoard->changed, &hoard->lock);
	any = hoard->count;
	if (any) {
		unsigned int i = (unsigned int)rand_r(seed) % hoard->count;

		message = hoard->messages[i];
		hoard->messages[i] = hoard->messages[--hoard->count];
		hoard->wanted--;
	}
	pthread_mutex_unlock(&hoard->lock);
	if (any)
		evpl_iovec_release(&message.iovec);
	return any;
}

static void *release_the_hoard(void *arg)
{
	unsigned int seed = 1;

	while (release_one(arg, &seed))
		;
	return NULL;
}

/* Sleeps until memory may have come back. */
static bool wait_for_memory(struct evpl_pool *pool, int timeout)
{
	struct pollfd pollfds[2] = {
		{ .fd = evpl_pool_fd(pool), .events = POLLIN },
		{ .fd = evpl_pool_eventfd(pool), .events = POLLIN },
	};
	uint64_t drained;
	int n = poll(pollfds, 2, timeout);

	if (pollfds[1].revents & POLLIN && read(pollfds[1].fd, &drained, sizeof(drained)) < 0)
		abort();
	return n > 0;
}

static int send_buffer(struct evpl_channel *channel, struct evpl_message *message, char byte)
{
	message->flags = 0;
	message->cookie = (unsigned char)byte;
	memset(message->iovec.data, byte, message->iovec.length);
	return evpl_channel_send(channel, message, 1);
}

TEST_F(lane, owner_that_is_out_of_memory_is_woken_by_a_release_of_its_sleeping_peer)
{
	struct hoard hoard = {
		.lock = PTHREAD_MUTEX_INITIALIZER,
		.changed = PTHREAD_COND_INITIALIZER,
	};
	const int messages = few() ? 2000 : 20000;
	struct evpl_message message;
	struct evpl_channel *there;
	unsigned int seed = 2;
	pthread_t threads[2];
	int waits = 0, peer;

	ASSERT_EQ(0, evpl_channel_create(&there, self->pool, CAPACITY,
					 EVPL_CHANNEL_LANE | EVPL_CHANNEL_BLOCKING, &peer));
	ASSERT_EQ(0, evpl_channel_bind(&hoard.channel, self->other_pool, peer,
				       EVPL_CHANNEL_LANE | EVPL_CHANNEL_BLOCKING));
	ASSERT_EQ(0, pthread_create(&threads[0], NULL, receive_into_the_hoard, &hoard));

	/* The peer gets all of the memory, and its thread sleeps. */
	while (evpl_buffer_alloc(self->evpl, &message.iovec) == 1)
		ASSERT_EQ(0, send_buffer(there, &message, 'a'));
	for (int i = 0; i < 10; i++) {
		while (wait_for_memory(self->pool, 0))
			ASSERT_EQ(-ENOMEM, evpl_buffer_alloc(self->evpl, &message.iovec));
		want_one(&hoard);
		ASSERT_TRUE(release_one(&hoard, &seed));
		EXPECT_TRUE(wait_for_memory(self->pool, 0));
		ASSERT_EQ(1, evpl_buffer_alloc(self->evpl, &message.iovec));
		ASSERT_EQ(0, send_buffer(there, &message, (char)i));
		ASSERT_EQ(-ENOMEM, evpl_buffer_alloc(self->evpl, &message.iovec));
	}

	/* Now the owner sleeps too. Another thread of the peer releases as it goes to sleep. */
	ASSERT_EQ(0, pthread_create(&threads[1], NULL, release_the_hoard, &hoard));
	for (int i = 0; i < messages; i++) {
		for (; evpl_buffer_alloc(self->evpl, &message.iovec) != 1; waits++) {
			want_one(&hoard);
			wait_for_memory(self->pool, -1);
		}
		ASSERT_EQ(0, send_buffer(there, &message, (char)i));
	}
	/* Each of these messages needed a release. */
	EXPECT_LE(messages, waits);
	evpl_channel_close(there);
	for (int i = 0; i < 2; i++)
		ASSERT_EQ(0, pthread_join(threads[i], NULL));
	evpl_channel_close(hoard.channel);
}

TEST_HARNESS_MAIN
