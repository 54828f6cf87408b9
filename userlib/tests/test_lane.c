// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/* Lanes: channels whose messages pass through shared memory. Both sides are this process. */
#include <poll.h>

#include "common.h"
#include "lane.h"

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
		.max_bytes = SLAB,
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

static struct evpl_message allocate(struct evpl *evpl, unsigned int length, char byte)
{
	struct evpl_message message = { .cookie = (unsigned char)byte };

	if (evpl_iovec_alloc(evpl, length, 1, 1, &message.iovec) != 1)
		abort();
	memset(message.iovec.data, byte, length);
	return message;
}

static bool is_filled(const struct evpl_iovec *iovec, char byte)
{
	const char *bytes = iovec->data;

	for (unsigned int i = 0; i < iovec->length; i++)
		if (bytes[i] != byte)
			return false;
	return true;
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

/* Takes all free buffers of a pool, and gives them back. Returns whether @buffer was among them. */
static bool is_free(struct evpl *evpl, const void *buffer)
{
	struct evpl_iovec iovecs[PER_SLAB];
	bool found = false;
	int n = 0;

	while (n < (int)PER_SLAB && evpl_buffer_alloc(evpl, &iovecs[n]) == 1)
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

TEST_HARNESS_MAIN
