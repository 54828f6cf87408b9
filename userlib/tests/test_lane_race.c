// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Lanes: a message that comes between two steps of the library. Both sides are this process. The
 * library's ioctl(2) ends up here, so the test can send the message at that moment.
 */
#include <poll.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include "common.h"
#include "lane.h"

/* Called when an end is about to be quiet, before the library wants a doorbell. */
static void (*before_quiet)(void *arg);
static void *before_quiet_arg;

int ioctl(int fd, unsigned long request, ...)
{
	const struct evpl_doorbell *doorbell;
	void (*call)(void *arg) = before_quiet;
	va_list list;
	void *arg;

	va_start(list, request);
	arg = va_arg(list, void *);
	va_end(list);
	doorbell = arg;
	if (call && request == EVPL_DOORBELL && doorbell->quiet & EVPL_DOORBELL_IN) {
		before_quiet = NULL;
		call(before_quiet_arg);
	}
	return (int)syscall(SYS_ioctl, fd, request, arg);
}

FIXTURE(lane_race)
{
	struct evpl_pool *pool, *other_pool;
	struct evpl *evpl;
	struct evpl_channel *channel, *other_channel;
};

static void send_two(void *arg)
{
	FIXTURE_DATA(lane_race) *self = arg;
	struct evpl_message messages[2] = { { .cookie = 1 }, { .cookie = 2 } };

	for (int i = 0; i < 2; i++)
		if (evpl_iovec_alloc(self->evpl, 100, 1, 1, &messages[i].iovec) != 1)
			abort();
	if (evpl_channel_send(self->channel, messages, 2))
		abort();
}

/* Whether the receiver's end is readable. */
static int is_readable(struct evpl_channel *channel)
{
	struct pollfd pollfd = { .fd = evpl_channel_fd(channel), .events = POLLIN };

	return poll(&pollfd, 1, 0);
}

/* Receives one message, and returns its cookie, or -errno. */
static int receive_one(struct evpl_channel *channel)
{
	struct evpl_message message;
	int ret = evpl_channel_recv(channel, &message, 1);

	if (ret < 0)
		return ret;
	evpl_iovec_release(&message.iovec);
	return (int)message.cookie;
}

FIXTURE_SETUP(lane_race)
{
	struct evpl_pool_config config = {
		.size = sizeof(config),
		.buffer_size = BUFFER,
		.flags = EVPL_POOL_ZEROS,
	};
	struct evpl_lane_stats stats = EVPL_LANE_STATS_INIT;
	int peer;

	if (!getenv("EVPL_BACKEND") || strcmp(getenv("EVPL_BACKEND"), "module"))
		SKIP(return, "the module's alone");
	ASSERT_EQ(0, evpl_pool_open(&self->pool, &config));
	ASSERT_EQ(0, evpl_pool_open(&self->other_pool, &config));
	ASSERT_EQ(0, evpl_create(&self->evpl, self->pool, NULL));
	ASSERT_EQ(0, evpl_channel_create(&self->channel, self->pool, 64, EVPL_CHANNEL_LANE, &peer));
	ASSERT_EQ(0, evpl_channel_bind(&self->other_channel, self->other_pool, peer,
				       EVPL_CHANNEL_LANE));
	ASSERT_EQ(-EAGAIN, receive_one(self->channel));
	ASSERT_EQ(-EAGAIN, receive_one(self->other_channel));
	/* The first messages of a buffer make the end readable, as the kernel carries them. */
	send_two(self);
	ASSERT_EQ(1, receive_one(self->other_channel));
	ASSERT_EQ(2, receive_one(self->other_channel));
	ASSERT_EQ(-EAGAIN, receive_one(self->other_channel));
	ASSERT_EQ(0, evpl_lane_stats(self->channel, &stats));
	ASSERT_EQ(1, stats.sending);
	before_quiet = send_two;
	before_quiet_arg = self;
}

FIXTURE_TEARDOWN(lane_race)
{
	before_quiet = NULL;
	if (!self->pool)
		return;
	evpl_channel_close(self->channel);
	evpl_channel_close(self->other_channel);
	evpl_destroy(self->evpl);
	EXPECT_EQ(0, evpl_pool_close(self->other_pool));
	EXPECT_EQ(0, evpl_pool_close(self->pool));
}

/* The peer sees no wish for a doorbell yet, and doesn't ring for these two. */
TEST_F(lane_race, descriptor_is_readable_while_a_message_is_left_that_came_before_the_sleep)
{
	EXPECT_EQ(0, is_readable(self->other_channel));
	EXPECT_EQ(1, receive_one(self->other_channel));
	EXPECT_EQ(NULL, before_quiet);
	EXPECT_EQ(1, is_readable(self->other_channel));
	EXPECT_EQ(2, receive_one(self->other_channel));
	EXPECT_EQ(-EAGAIN, receive_one(self->other_channel));
	EXPECT_EQ(0, is_readable(self->other_channel));
}

TEST_F(lane_race, arm_is_EBUSY_if_a_message_comes_meanwhile)
{
	EXPECT_EQ(-EBUSY, evpl_channel_arm(self->other_channel));
	EXPECT_EQ(NULL, before_quiet);
	EXPECT_EQ(1, is_readable(self->other_channel));
	EXPECT_EQ(1, receive_one(self->other_channel));
	EXPECT_EQ(-EBUSY, evpl_channel_arm(self->other_channel));
	EXPECT_EQ(2, receive_one(self->other_channel));
	EXPECT_EQ(0, evpl_channel_arm(self->other_channel));
	EXPECT_EQ(0, is_readable(self->other_channel));
}

TEST_HARNESS_MAIN
