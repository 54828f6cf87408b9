// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/* Channels: references that are sent to other processes, and come back. */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "message.h"

TEST(anon_memory_goes_to_nobody)
{
	struct evpl_pool_config config = {
		.size = sizeof(config),
		.backend = EVPL_BACKEND_ANON,
	};
	struct evpl_channel *channel;
	struct evpl_iovec iovec;
	struct evpl_pool *pool;
	struct evpl *evpl;
	int peer;

	ASSERT_EQ(0, evpl_pool_open(&pool, &config));
	EXPECT_EQ(-EOPNOTSUPP, evpl_channel_create(&channel, pool, 0, 0, &peer));
	EXPECT_EQ(-EOPNOTSUPP, evpl_channel_bind(&channel, pool, 0, 0));
	EXPECT_EQ(-EOPNOTSUPP, evpl_pool_fd(pool));
	ASSERT_EQ(0, evpl_create(&evpl, pool, NULL));
	ASSERT_EQ(1, evpl_iovec_alloc(evpl, 100, 1, 1, &iovec));
	EXPECT_EQ(-EOPNOTSUPP, evpl_iovec_revoke(&iovec));
	EXPECT_EQ(-EOPNOTSUPP, evpl_iovec_wait(&iovec, 0));
	evpl_iovec_release(&iovec);
	evpl_destroy(evpl);
	EXPECT_EQ(0, evpl_pool_close(pool));
	config.flags = EVPL_POOL_ZEROS;
	EXPECT_EQ(-EOPNOTSUPP, evpl_pool_open(&pool, &config));
}

/* Two pools of this process, with a channel between them, in place of two processes. */
FIXTURE(pair)
{
	struct evpl_pool *pool, *other_pool;
	struct evpl *evpl, *other;
	struct evpl_channel *channel, *other_channel;
};

FIXTURE_SETUP(pair)
{
	int peer;

	if (!getenv("EVPL_BACKEND") || strcmp(getenv("EVPL_BACKEND"), "module"))
		SKIP(return, "the module's alone");
	ASSERT_EQ(0, open_pool(&self->pool, BUFFER, SLAB));
	ASSERT_EQ(0, open_pool(&self->other_pool, BUFFER, SLAB));
	ASSERT_EQ(0, evpl_create(&self->evpl, self->pool, NULL));
	ASSERT_EQ(0, evpl_create(&self->other, self->other_pool, NULL));
	ASSERT_EQ(0, evpl_channel_create(&self->channel, self->pool, 64, 0, &peer));
	ASSERT_EQ(0, evpl_channel_bind(&self->other_channel, self->other_pool, peer, 0));
}

FIXTURE_TEARDOWN(pair)
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

TEST_F(pair, what_was_sent_is_seen_and_comes_back_when_it_is_released)
{
	struct evpl_message sent = allocate(self->evpl, 1000, 'x'), got;
	struct evpl_slab_info info;

	sent.cookie = 0x123456789abcdef0;
	EXPECT_EQ(-EAGAIN, evpl_channel_recv(self->other_channel, &got, 1));
	ASSERT_EQ(0, evpl_channel_send(self->channel, &sent, 1));
	ASSERT_EQ(1, evpl_channel_recv(self->other_channel, &got, 1));
	EXPECT_EQ(1000, got.iovec.length);
	EXPECT_EQ(sent.cookie, got.cookie);
	EXPECT_EQ(0, got.flags);
	EXPECT_NE(sent.iovec.data, got.iovec.data);
	EXPECT_TRUE(is_filled(&got.iovec, 'x'));
	EXPECT_EQ(1, word_of(&got.iovec));
	EXPECT_EQ(1, word_of(&sent.iovec));
	EXPECT_EQ(-EINVAL, evpl_iovec_slab(&got.iovec, &info));
	EXPECT_EQ(-EBUSY, evpl_pool_close(self->other_pool));

	evpl_iovec_release(&got.iovec);
	EXPECT_EQ(0, word_of(&got.iovec));
	/* The lease is idle. Its owner takes the buffer back only when it looks for memory. */
	EXPECT_EQ(1, used_in(self->pool));
	evpl_pool_trim(self->pool);
	EXPECT_EQ(0, used_in(self->pool));
}

TEST_F(pair, nothing_is_allocated_any_more_where_the_receiver_sees_it)
{
	struct evpl_message sent = allocate(self->evpl, 100, 'x'), next, got;

	next = allocate(self->evpl, 100, 'y');
	EXPECT_EQ(iovec_entry(&sent.iovec), iovec_entry(&next.iovec));
	ASSERT_EQ(0, evpl_channel_send(self->channel, &sent, 1));
	evpl_iovec_release(&next.iovec);
	next = allocate(self->evpl, 100, 'z');
	EXPECT_NE(iovec_entry(&sent.iovec), iovec_entry(&next.iovec));
	ASSERT_EQ(1, evpl_channel_recv(self->other_channel, &got, 1));
	EXPECT_TRUE(is_filled(&got.iovec, 'x'));
	evpl_iovec_release(&got.iovec);
	evpl_iovec_release(&next.iovec);
}

TEST_F(pair, what_is_sent_for_devices_can_be_pinned_and_is_kept_while_it_is)
{
	struct evpl_message sent = allocate(self->evpl, 4096, 'x'), got;
	struct iovec iovec;
	char page[4096];
	int pipe_fds[2];

	ASSERT_EQ(0, pipe(pipe_fds));
	sent.flags = EVPL_MESSAGE_DEVICE;
	ASSERT_EQ(0, evpl_channel_send(self->channel, &sent, 1));
	ASSERT_EQ(1, evpl_channel_recv(self->other_channel, &got, 1));
	EXPECT_EQ(EVPL_MESSAGE_DEVICE, got.flags);
	EXPECT_TRUE(is_filled(&got.iovec, 'x'));
	iovec = (struct iovec){ got.iovec.data, 100 };
	EXPECT_EQ(100, vmsplice(pipe_fds[1], &iovec, 1, 0));
	evpl_iovec_release(&got.iovec);
	evpl_pool_trim(self->pool);
	EXPECT_EQ(1, used_in(self->pool));
	EXPECT_EQ(100, read(pipe_fds[0], page, sizeof(page)));
	evpl_pool_trim(self->pool);
	EXPECT_EQ(0, used_in(self->pool));
	close(pipe_fds[0]);
	close(pipe_fds[1]);
}

TEST_F(pair, one_passes_on_no_device_rights_that_one_does_not_have)
{
	struct evpl_message sent = allocate(self->evpl, 100, 'x'), got;
	struct iovec iovec;
	int pipe_fds[2];

	ASSERT_EQ(0, pipe(pipe_fds));
	sent.flags = EVPL_MESSAGE_WRITE;
	ASSERT_EQ(0, evpl_channel_send(self->channel, &sent, 1));
	ASSERT_EQ(1, evpl_channel_recv(self->other_channel, &got, 1));
	EXPECT_EQ(EVPL_MESSAGE_WRITE, got.flags);
	iovec = (struct iovec){ got.iovec.data, 100 };
	EXPECT_EQ(-1, vmsplice(pipe_fds[1], &iovec, 1, 0));
	EXPECT_EQ(EFAULT, errno);
	got.flags = EVPL_MESSAGE_DEVICE;
	EXPECT_EQ(-EACCES, evpl_channel_send(self->other_channel, &got, 1));
	EXPECT_EQ(1, word_of(&got.iovec));
	got.flags = 1U << 3;
	EXPECT_EQ(-EOPNOTSUPP, evpl_channel_send(self->other_channel, &got, 1));
	evpl_iovec_release(&got.iovec);
	close(pipe_fds[0]);
	close(pipe_fds[1]);
}

TEST_F(pair, revoke_says_when_a_device_still_has_the_buffer)
{
	struct evpl_message sent = allocate(self->evpl, 4096, 'x'), got;
	struct evpl_iovec kept;
	struct iovec iovec;
	char page[4096];
	int pipe_fds[2];

	ASSERT_EQ(0, pipe(pipe_fds));
	sent.flags = EVPL_MESSAGE_DEVICE;
	evpl_iovec_clone(&kept, &sent.iovec);
	ASSERT_EQ(0, evpl_channel_send(self->channel, &sent, 1));
	ASSERT_EQ(1, evpl_channel_recv(self->other_channel, &got, 1));
	iovec = (struct iovec){ got.iovec.data, 100 };
	EXPECT_EQ(100, vmsplice(pipe_fds[1], &iovec, 1, 0));
	EXPECT_EQ(1, evpl_iovec_revoke(&kept));
	EXPECT_EQ(-EBUSY, evpl_iovec_revoke(&kept));
	EXPECT_EQ(100, read(pipe_fds[0], page, sizeof(page)));
	evpl_pool_trim(self->pool);
	EXPECT_EQ(0, evpl_iovec_revoke(&kept));
	EXPECT_EQ(1, word_of(&kept));
	evpl_iovec_release(&kept);
	evpl_iovec_release(&got.iovec);
	close(pipe_fds[0]);
	close(pipe_fds[1]);
}

TEST_F(pair, buffer_that_comes_home_while_a_device_has_it_can_be_waited_for)
{
	struct evpl_message sent = allocate(self->evpl, 4096, 'x'), got, home;
	struct iovec iovec;
	char page[4096];
	int pipe_fds[2];

	ASSERT_EQ(0, pipe(pipe_fds));
	EXPECT_EQ(0, evpl_iovec_wait(&sent.iovec, 0));
	sent.flags = EVPL_MESSAGE_DEVICE;
	ASSERT_EQ(0, evpl_channel_send(self->channel, &sent, 1));
	ASSERT_EQ(1, evpl_channel_recv(self->other_channel, &got, 1));
	EXPECT_EQ(-EINVAL, evpl_iovec_wait(&got.iovec, 0));
	iovec = (struct iovec){ got.iovec.data, 100 };
	EXPECT_EQ(100, vmsplice(pipe_fds[1], &iovec, 1, 0));
	ASSERT_EQ(0, evpl_channel_send(self->other_channel, &got, 1));
	ASSERT_EQ(1, evpl_channel_recv(self->channel, &home, 1));
	EXPECT_EQ(EVPL_MESSAGE_DEVICE | EVPL_MESSAGE_HELD, home.flags);
	EXPECT_EQ(-EOPNOTSUPP, evpl_iovec_wait(&home.iovec, 2));
	EXPECT_EQ(-EAGAIN, evpl_iovec_wait(&home.iovec, EVPL_IOVEC_TRY));
	EXPECT_EQ(100, read(pipe_fds[0], page, sizeof(page)));
	EXPECT_EQ(0, evpl_iovec_wait(&home.iovec, 0));
	EXPECT_EQ(1, word_of(&home.iovec));
	EXPECT_EQ(0, evpl_iovec_wait(&home.iovec, EVPL_IOVEC_TRY));
	evpl_iovec_release(&home.iovec);
	close(pipe_fds[0]);
	close(pipe_fds[1]);
}

TEST_F(pair, received_memory_is_cut_counted_and_sent_on_like_any_other)
{
	struct evpl_message sent = allocate(self->evpl, 1000, 'x'), got, part = {}, home[2];
	void *data = sent.iovec.data;

	sent.flags = EVPL_MESSAGE_WRITE;
	ASSERT_EQ(0, evpl_channel_send(self->channel, &sent, 1));
	ASSERT_EQ(1, evpl_channel_recv(self->other_channel, &got, 1));
	EXPECT_EQ(EVPL_MESSAGE_WRITE, got.flags);
	memset(got.iovec.data, 'w', 1000);
	evpl_iovec_addref(&got.iovec);
	EXPECT_EQ(2, word_of(&got.iovec));
	ASSERT_EQ(0, evpl_iovec_clone_segment(&part.iovec, &got.iovec, 10, 20));
	EXPECT_EQ(3, word_of(&got.iovec));
	evpl_iovec_release(&got.iovec);
	/* A received iovec is never unique, as the owner has the buffer too. */
	EXPECT_EQ(0, evpl_iovec_is_unique(&got.iovec));

	/* Back at its owner, the buffer has the owner's address, and counts in the owner's word. */
	got.flags = 0;
	ASSERT_EQ(0, evpl_channel_send(self->other_channel, &part, 1));
	ASSERT_EQ(0, evpl_channel_send(self->other_channel, &got, 1));
	ASSERT_EQ(2, evpl_channel_recv(self->channel, home, 2));
	EXPECT_EQ((char *)data + 10, home[0].iovec.data);
	EXPECT_EQ(20, home[0].iovec.length);
	EXPECT_EQ(data, home[1].iovec.data);
	EXPECT_TRUE(is_filled(&home[1].iovec, 'w'));
	EXPECT_EQ(2, word_of(&home[1].iovec));
	EXPECT_EQ(0, evpl_iovec_is_unique(&home[1].iovec));
	evpl_iovec_release(&home[0].iovec);
	EXPECT_EQ(1, evpl_iovec_is_unique(&home[1].iovec));
	evpl_iovec_release(&home[1].iovec);
	EXPECT_EQ(0, used_in(self->pool));
}

TEST_F(pair, owner_out_of_memory_takes_what_a_receiver_has_let_go_of)
{
	struct evpl_message sent[PER_SLAB], got[PER_SLAB];
	struct evpl_iovec iovec;

	for (int i = 0; i < (int)PER_SLAB; i++)
		sent[i] = allocate(self->evpl, BUFFER, 'x');
	EXPECT_EQ(-ENOMEM, evpl_iovec_alloc(self->evpl, 1, 1, 1, &iovec));
	ASSERT_EQ(0, evpl_channel_send(self->channel, sent, PER_SLAB));
	ASSERT_EQ((int)PER_SLAB, evpl_channel_recv(self->other_channel, got, PER_SLAB));
	EXPECT_EQ(-ENOMEM, evpl_iovec_alloc(self->evpl, 1, 1, 1, &iovec));

	/* One idle lease doesn't fill a batch, so the receiver doesn't tell the kernel of it. */
	evpl_iovec_release(&got[7].iovec);
	EXPECT_EQ(0, evpl_iovec_alloc(self->evpl, 0, 1, 1, &iovec));
	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, BUFFER, 1, 1, &iovec));
	EXPECT_EQ(sent[7].iovec.data, iovec.data);
	EXPECT_EQ(-ENOMEM, evpl_iovec_alloc(self->evpl, 1, 1, 1, &sent[7].iovec));
	evpl_iovec_release(&iovec);

	/* Now the receiver tells the kernel of all, and the owner's descriptor becomes readable. */
	for (int i = 0; i < (int)PER_SLAB; i++)
		if (i != 7)
			evpl_iovec_release(&got[i].iovec);
	EXPECT_EQ(-EAGAIN, evpl_channel_recv(self->other_channel, got, 1));
	struct pollfd poll_fd = { .fd = evpl_pool_fd(self->pool), .events = POLLIN };

	EXPECT_EQ(1, poll(&poll_fd, 1, 0));
	evpl_pool_trim(self->pool);
	EXPECT_EQ(0, poll(&poll_fd, 1, 0));
	EXPECT_EQ(0, used_in(self->pool));
}

TEST_F(pair, send_that_fails_moves_nothing)
{
	struct evpl_message sent[65], got;

	for (int i = 0; i < 65; i++)
		sent[i] = allocate(self->evpl, 100, 'x');
	EXPECT_EQ(-EMSGSIZE, evpl_channel_send(self->channel, sent, 65));
	sent[1].flags = 1U << 3;
	EXPECT_EQ(-EOPNOTSUPP, evpl_channel_send(self->channel, sent, 2));
	sent[1].flags = 0;
	EXPECT_EQ(-EINVAL, evpl_channel_send(self->other_channel, sent, 1));
	EXPECT_EQ(-EINVAL, evpl_channel_send(self->channel, &(struct evpl_message){}, 1));
	EXPECT_EQ(-EINVAL, evpl_channel_send(self->channel, sent, -1));
	EXPECT_EQ(0, evpl_channel_send(self->channel, sent, 0));
	EXPECT_EQ(-EAGAIN, evpl_channel_recv(self->other_channel, &got, 1));
	EXPECT_EQ(-EINVAL, evpl_channel_recv(self->other_channel, &got, 0));
	EXPECT_EQ(0, evpl_channel_send(self->channel, sent, 64));
	EXPECT_EQ(-EAGAIN, evpl_channel_send(self->channel, &sent[64], 1));
	EXPECT_EQ('x', *(char *)sent[64].iovec.data);
	evpl_iovec_release(&sent[64].iovec);
	evpl_channel_close(self->other_channel);
	self->other_channel = NULL;
	sent[0] = allocate(self->evpl, 100, 'x');
	EXPECT_EQ(-EPIPE, evpl_channel_send(self->channel, sent, 1));
	evpl_iovec_release(&sent[0].iovec);
	EXPECT_EQ(-EPIPE, evpl_channel_recv(self->channel, &got, 1));
	/* The messages that nobody received were given back. */
	evpl_pool_trim(self->pool);
	EXPECT_EQ(0, used_in(self->pool));
}

TEST_F(pair, revoked_memory_arrives_as_such)
{
	struct evpl_message sent = allocate(self->evpl, 100, 'x'), got;

	evpl_iovec_addref(&sent.iovec);
	ASSERT_EQ(0, evpl_channel_send(self->channel, &sent, 1));
	EXPECT_EQ(0, evpl_iovec_revoke(&sent.iovec));
	ASSERT_EQ(1, evpl_channel_recv(self->other_channel, &got, 1));
	EXPECT_EQ(EVPL_MESSAGE_REVOKED, got.flags);
	EXPECT_EQ(sent.cookie, got.cookie);
	EXPECT_EQ(NULL, got.iovec.data);
	evpl_iovec_release(&got.iovec);
	EXPECT_EQ(1, word_of(&sent.iovec));
	evpl_iovec_release(&sent.iovec);
	EXPECT_EQ(-EINVAL, evpl_iovec_revoke(&got.iovec));
}

/* Receives the first messages in a child, and holds them until the child is killed. */
static void take_and_hold(int fd, int ready)
{
	struct evpl_message got[64];
	struct evpl_channel *channel;
	struct evpl_pool *pool;
	int n;

	if (open_pool(&pool, BUFFER, SLAB) ||
	    evpl_channel_bind(&channel, pool, fd, EVPL_CHANNEL_BLOCKING))
		_exit(1);
	n = evpl_channel_recv(channel, got, 64);
	if (n < 1 || !is_filled(&got[0].iovec, 'x'))
		_exit(2);
	if (write(ready, "", 1) != 1)
		_exit(3);
	pause();
}

TEST_F(pair, what_a_killed_process_held_comes_back)
{
	struct evpl_message sent[8];
	struct evpl_channel *channel;
	int peer, ready[2], status;
	pid_t child;
	char byte;

	ASSERT_EQ(0, evpl_channel_create(&channel, self->pool, 0, 0, &peer));
	ASSERT_EQ(0, pipe(ready));
	child = fork();
	if (!child)
		take_and_hold(peer, ready[1]);
	close(peer);
	for (int i = 0; i < 8; i++)
		sent[i] = allocate(self->evpl, BUFFER, 'x');
	ASSERT_EQ(0, evpl_channel_send(channel, sent, 4));
	ASSERT_EQ(1, read(ready[0], &byte, 1));
	/* The child never receives these. */
	ASSERT_EQ(0, evpl_channel_send(channel, sent + 4, 4));
	evpl_pool_trim(self->pool);
	EXPECT_EQ(8, used_in(self->pool));
	kill(child, SIGKILL);
	ASSERT_EQ(child, waitpid(child, &status, 0));
	EXPECT_EQ(SIGKILL, WTERMSIG(status));
	EXPECT_EQ(-EPIPE, evpl_channel_send(channel, sent, 1));
	evpl_channel_close(channel);
	evpl_pool_trim(self->pool);
	EXPECT_EQ(0, used_in(self->pool));
	close(ready[0]);
	close(ready[1]);
}

/* Uses its parent's objects in a child of fork(2). Returns 0 if they were refused. */
static int in_child(struct evpl_channel *channel, struct evpl_message *got)
{
	struct evpl_message more;

	if (evpl_channel_fd(channel) != -EPERM || evpl_channel_send(channel, got, 1) != -EPERM ||
	    evpl_channel_recv(channel, &more, 1) != -EPERM)
		return 1;
	if (evpl_iovec_revoke(&got->iovec) != -EPERM)
		return 2;
	evpl_iovec_addref(&got->iovec);
	evpl_iovec_release(&got->iovec);
	evpl_iovec_release(&got->iovec);
	evpl_channel_close(channel);
	return 0;
}

TEST_F(pair, a_child_has_neither_its_parents_channels_nor_what_came_over_them)
{
	struct evpl_message sent = allocate(self->evpl, 100, 'x'), got;
	struct evpl_channel *channel, *other;
	int peer, status, never[2];
	pid_t child;
	char byte;

	ASSERT_EQ(0, evpl_channel_send(self->channel, &sent, 1));
	ASSERT_EQ(1, evpl_channel_recv(self->other_channel, &got, 1));
	child = fork();
	if (!child)
		_exit(in_child(self->other_channel, &got));
	ASSERT_EQ(child, waitpid(child, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_EQ(1, word_of(&got.iovec));
	EXPECT_TRUE(is_filled(&got.iovec, 'x'));
	evpl_iovec_release(&got.iovec);

	/* The child closes its copy, so the other end sees the close while the child still runs. */
	ASSERT_EQ(0, evpl_channel_create(&channel, self->other_pool, 0, 0, &peer));
	ASSERT_EQ(0, evpl_channel_bind(&other, self->pool, peer, EVPL_CHANNEL_BLOCKING));
	ASSERT_EQ(0, pipe(never));
	child = fork();
	if (!child) {
		evpl_channel_close(channel);
		evpl_channel_close(other);
		close(never[1]);
		_exit(read(never[0], &byte, 1));
	}
	close(never[0]);
	evpl_channel_close(channel);
	EXPECT_EQ(-EPIPE, evpl_channel_recv(other, &got, 1));
	close(never[1]);
	ASSERT_EQ(child, waitpid(child, &status, 0));
	EXPECT_EQ(0, status);
	evpl_channel_close(other);
}

/* How long a test waits for an event before it fails, in milliseconds. */
#define MINUTE	(60 * 1000)

/* The owner waits until it can allocate the only buffer of its pool again. */
static bool wait_for_buffer(struct evpl *evpl, struct evpl_pool *pool, struct evpl_iovec *iovec)
{
	struct pollfd fds[2] = {
		{ .fd = evpl_pool_fd(pool), .events = POLLIN },
		{ .fd = evpl_pool_eventfd(pool), .events = POLLIN },
	};
	uint64_t wakeups;
	int ret;

	while ((ret = evpl_buffer_alloc(evpl, iovec)) == -ENOMEM) {
		if (poll(fds, 2, MINUTE) < 1)
			return false;
		if (fds[1].revents && read(fds[1].fd, &wakeups, sizeof(wakeups)) < 0)
			return false;
	}
	return ret == 1;
}

/* Receives and releases one buffer a round. There is only one lease, so no batch ever fills. */
static int play(int fd, int rounds)
{
	struct evpl_channel *channel;
	struct evpl_message got;
	struct evpl_pool *pool;

	if (open_pool(&pool, BUFFER, SLAB) ||
	    evpl_channel_bind(&channel, pool, fd, EVPL_CHANNEL_BLOCKING))
		return 1;
	for (int i = 0; i < rounds; i++) {
		if (evpl_channel_recv(channel, &got, 1) != 1 ||
		    !is_filled(&got.iovec, (char)i))
			return 2;
		evpl_iovec_release(&got.iovec);
	}
	evpl_channel_close(channel);
	return evpl_pool_close(pool) ? 3 : 0;
}

TEST_F(pair, two_processes_play_with_one_buffer)
{
	const int rounds = few() ? 300 : 3000;
	struct evpl_message message = { .flags = 0 };
	struct evpl_channel *channel;
	struct evpl_pool *pool;
	struct evpl *evpl;
	int peer, status;
	pid_t child;

	ASSERT_EQ(0, open_pool(&pool, SLAB, SLAB));
	ASSERT_EQ(0, evpl_create(&evpl, pool, NULL));
	ASSERT_EQ(0, evpl_channel_create(&channel, pool, 1, EVPL_CHANNEL_BLOCKING, &peer));
	child = fork();
	if (!child) {
		evpl_channel_close(channel);
		_exit(play(peer, rounds));
	}
	close(peer);
	for (int i = 0; i < rounds; i++) {
		ASSERT_TRUE(wait_for_buffer(evpl, pool, &message.iovec));
		message.iovec.length = 4096;
		memset(message.iovec.data, i, 4096);
		ASSERT_EQ(0, evpl_channel_send(channel, &message, 1));
	}
	EXPECT_TRUE(wait_for_buffer(evpl, pool, &message.iovec));
	evpl_iovec_release(&message.iovec);
	ASSERT_EQ(child, waitpid(child, &status, 0));
	EXPECT_EQ(0, status);
	evpl_channel_close(channel);
	evpl_destroy(evpl);
	EXPECT_EQ(0, evpl_pool_close(pool));
}

/*
 * A receiver that sleeps after its release: it receives, writes a byte to @told, reads a byte from
 * there, and releases. Then it does nothing until the owner closes the socket.
 */
static int hold_until_told(int fd, int told)
{
	struct evpl_channel *channel;
	struct evpl_message got;
	struct evpl_pool *pool;
	char byte;

	if (open_pool(&pool, BUFFER, SLAB) ||
	    evpl_channel_bind(&channel, pool, fd, EVPL_CHANNEL_BLOCKING) ||
	    write(told, "", 1) != 1 || evpl_channel_recv(channel, &got, 1) != 1 ||
	    write(told, "", 1) != 1 || read(told, &byte, 1) != 1)
		return 1;
	evpl_iovec_release(&got.iovec);
	return read(told, &byte, 1) ? 2 : 0;
}

/* An owner whose pool has one buffer, and a child that is ready to receive it. */
FIXTURE(owner)
{
	struct evpl_pool *pool;
	struct evpl *evpl;
	struct evpl_channel *channel;
	struct evpl_message message;
	int told;
	pid_t receiver;
};

FIXTURE_SETUP(owner)
{
	struct evpl_channel *there, *back;
	int peer, told[2];
	char byte;

	if (!getenv("EVPL_BACKEND") || strcmp(getenv("EVPL_BACKEND"), "module"))
		SKIP(return, "the module's alone");
	memset(&self->message, 0, sizeof(self->message));
	ASSERT_EQ(0, open_pool(&self->pool, SLAB, SLAB));
	ASSERT_EQ(0, evpl_create(&self->evpl, self->pool, NULL));
	ASSERT_EQ(0, evpl_channel_create(&self->channel, self->pool, 1, 0, &peer));
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, told));
	self->receiver = fork();
	if (!self->receiver) {
		evpl_channel_close(self->channel);
		close(told[0]);
		_exit(hold_until_told(peer, told[1]));
	}
	close(peer);
	close(told[1]);
	self->told = told[0];
	ASSERT_EQ(1, read(self->told, &byte, 1));
	ASSERT_EQ(1, evpl_buffer_alloc(self->evpl, &self->message.iovec));

	/* Send the buffer once before: its first send makes the descriptor readable by itself. */
	ASSERT_EQ(0, evpl_channel_create(&there, self->pool, 1, 0, &peer));
	ASSERT_EQ(0, evpl_channel_bind(&back, self->pool, peer, 0));
	ASSERT_EQ(0, evpl_channel_send(there, &self->message, 1));
	ASSERT_EQ(1, evpl_channel_recv(back, &self->message, 1));
	evpl_channel_close(there);
	evpl_channel_close(back);
	evpl_pool_trim(self->pool);
}

FIXTURE_TEARDOWN(owner)
{
	struct evpl_iovec iovec;
	int status;

	if (!self->pool)
		return;
	EXPECT_TRUE(wait_for_buffer(self->evpl, self->pool, &iovec));
	EXPECT_EQ(1, word_of(&iovec));
	evpl_iovec_release(&iovec);
	close(self->told);
	ASSERT_EQ(self->receiver, waitpid(self->receiver, &status, 0));
	EXPECT_EQ(0, status);
	evpl_channel_close(self->channel);
	evpl_destroy(self->evpl);
	EXPECT_EQ(0, evpl_pool_close(self->pool));
}

/* The owner doesn't pull meanwhile: only the receiver's own release makes this readable. */
static int told_in_time(struct evpl_pool *pool)
{
	struct pollfd poll_fd = { .fd = evpl_pool_fd(pool), .events = POLLIN };

	return poll(&poll_fd, 1, MINUTE);
}

TEST_F(owner, that_waits_is_told_though_the_receiver_sleeps_after_its_release)
{
	struct evpl_iovec iovec;
	char byte;

	ASSERT_EQ(0, evpl_channel_send(self->channel, &self->message, 1));
	ASSERT_EQ(1, read(self->told, &byte, 1));
	ASSERT_EQ(-ENOMEM, evpl_buffer_alloc(self->evpl, &iovec));
	ASSERT_EQ(1, write(self->told, "", 1));
	EXPECT_EQ(1, told_in_time(self->pool));
}

TEST_F(owner, that_waits_is_told_of_what_it_sent_after_it_began_to)
{
	struct evpl_iovec iovec;
	char byte;

	ASSERT_EQ(-ENOMEM, evpl_buffer_alloc(self->evpl, &iovec));
	ASSERT_EQ(0, evpl_channel_send(self->channel, &self->message, 1));
	ASSERT_EQ(1, read(self->told, &byte, 1));
	ASSERT_EQ(1, write(self->told, "", 1));
	EXPECT_EQ(1, told_in_time(self->pool));
}

/* A device that has put all pages of a slab into a pipe. The cookie is the pipe's read end. */
struct pinner {
	struct evpl_device *device;
	int result;			/* of pin() */
	bool later;			/* unpin() leaves the pipe open, in @left */
	int left;
	struct evpl_channel *channel;	/* not NULL: a callback with a full pipe sends @message */
	struct evpl_message message;
	int sent;
};

static void send_message(struct pinner *pinner)
{
	if (pinner->channel)
		pinner->sent = evpl_channel_send(pinner->channel, &pinner->message, 1);
	pinner->channel = NULL;
}

static int pin(void *arg, const struct evpl_slab_info *slab, uint64_t *cookie)
{
	struct iovec iovec = { slab->base, slab->length };
	struct pinner *pinner = arg;
	ssize_t pinned = -1;
	int pipe_fds[2];

	if (pipe(pipe_fds))
		return -errno;
	if (fcntl(pipe_fds[1], F_SETPIPE_SZ, slab->length) >= (int)slab->length)
		pinned = vmsplice(pipe_fds[1], &iovec, 1, 0);
	close(pipe_fds[1]);
	if (pinned != (ssize_t)slab->length)
		abort();
	send_message(pinner);
	*cookie = (uint64_t)pipe_fds[0];
	if (pinner->result)
		close(pipe_fds[0]);
	return pinner->result;
}

static int unpin(void *arg, const struct evpl_slab_info *slab, uint64_t cookie)
{
	struct pinner *pinner = arg;

	(void)slab;
	send_message(pinner);
	if (pinner->later) {
		pinner->left = (int)cookie;
		return EVPL_DEVICE_LATER;
	}
	return close((int)cookie);
}

static const struct evpl_device_ops pinner_ops = {
	.size = sizeof(pinner_ops),
	.register_slab = pin,
	.unregister_slab = unpin,
};

/*
 * A pool whose slabs have two folios of 2 MiB, or more smaller ones. So the kernel can raise the
 * baseline of a folio that is in use: it takes that of one which isn't.
 */
FIXTURE(baseline)
{
	struct evpl_pool *pool, *other_pool;
	struct evpl *evpl;
	struct evpl_channel *channel, *other_channel;
	struct pinner pinner, other;
	struct evpl_iovec iovecs[4 * PER_SLAB];
	int pipe[2];
};

FIXTURE_SETUP(baseline)
{
	const struct evpl_pool_config config = {
		.size = sizeof(config),
		.buffer_size = BUFFER,
		.slab_size = 2 * SLAB,
		.slab_size_max = 2 * SLAB,
		.max_bytes = 4 * SLAB,
	};
	int peer;

	if (!getenv("EVPL_BACKEND") || strcmp(getenv("EVPL_BACKEND"), "module"))
		SKIP(return, "the module's alone");
	memset(&self->pinner, 0, sizeof(self->pinner));
	memset(&self->other, 0, sizeof(self->other));
	ASSERT_EQ(0, evpl_pool_open(&self->pool, &config));
	ASSERT_EQ(0, open_pool(&self->other_pool, BUFFER, SLAB));
	ASSERT_EQ(0, evpl_create(&self->evpl, self->pool, NULL));
	ASSERT_EQ(0, evpl_channel_create(&self->channel, self->pool, 1, 0, &peer));
	ASSERT_EQ(0, evpl_channel_bind(&self->other_channel, self->other_pool, peer, 0));
	ASSERT_EQ(0, pipe(self->pipe));
	ASSERT_EQ(0, evpl_device_attach(self->pool, &pinner_ops, &self->pinner,
					&self->pinner.device));
}

FIXTURE_TEARDOWN(baseline)
{
	if (!self->pool)
		return;
	evpl_device_detach(self->pinner.device);
	evpl_device_detach(self->other.device);
	evpl_channel_close(self->channel);
	evpl_channel_close(self->other_channel);
	evpl_destroy(self->evpl);
	EXPECT_EQ(0, evpl_pool_close(self->other_pool));
	EXPECT_EQ(0, evpl_pool_close(self->pool));
	close(self->pipe[0]);
	close(self->pipe[1]);
}

static struct evpl_message clone_for_devices(const struct evpl_iovec *iovec)
{
	struct evpl_message message = { .flags = EVPL_MESSAGE_DEVICE };

	evpl_iovec_clone(&message.iovec, iovec);
	return message;
}

/*
 * Receives a clone of @iovec and releases it, with or without a page of it in the fixture's pipe.
 * Returns whether its owner has it back.
 */
static bool comes_back(struct _test_data_baseline *self, const struct evpl_iovec *iovec, bool held)
{
	struct evpl_message got;
	struct iovec page;

	if (evpl_channel_recv(self->other_channel, &got, 1) != 1)
		abort();
	page = (struct iovec){ got.iovec.data, 4096 };
	if (held && vmsplice(self->pipe[1], &page, 1, 0) != 4096)
		abort();
	evpl_iovec_release(&got.iovec);
	evpl_pool_trim(self->pool);
	return word_of(iovec) == 1;
}

/* Whether @iovec is its owner's again when its page has left the fixture's pipe. */
static bool comes_back_unheld(struct _test_data_baseline *self, const struct evpl_iovec *iovec)
{
	char page[4096];

	if (word_of(iovec) != 2 || read(self->pipe[0], page, sizeof(page)) != sizeof(page))
		return false;
	evpl_pool_trim(self->pool);
	return word_of(iovec) == 1;
}

TEST_F(baseline, counts_no_device_that_is_about_to_unregister_the_slab)
{
	struct evpl_message sent;
	struct evpl_iovec iovec;

	ASSERT_EQ(0, evpl_device_attach(self->pool, &pinner_ops, &self->other,
					&self->other.device));
	ASSERT_EQ(1, evpl_buffer_alloc(self->evpl, &iovec));
	sent = clone_for_devices(&iovec);
	ASSERT_EQ(0, evpl_channel_send(self->channel, &sent, 1));
	EXPECT_TRUE(comes_back(self, &iovec, false));

	self->pinner.message = clone_for_devices(&iovec);
	self->pinner.channel = self->channel;
	self->pinner.sent = -1;
	evpl_device_detach(self->pinner.device);
	self->pinner.device = NULL;
	ASSERT_EQ(0, self->pinner.sent);
	EXPECT_FALSE(comes_back(self, &iovec, true));

	/* With the next send the baseline counts the other device again, and nothing else. */
	sent = clone_for_devices(&iovec);
	ASSERT_EQ(0, evpl_channel_send(self->channel, &sent, 1));
	EXPECT_FALSE(comes_back(self, &iovec, false));
	EXPECT_TRUE(comes_back_unheld(self, &iovec));
	sent = clone_for_devices(&iovec);
	ASSERT_EQ(0, evpl_channel_send(self->channel, &sent, 1));
	EXPECT_TRUE(comes_back(self, &iovec, false));
	evpl_iovec_release(&iovec);
}

TEST_F(baseline, counts_no_device_that_may_yet_refuse_the_slab)
{
	struct evpl_iovec iovec;

	ASSERT_EQ(1, evpl_buffer_alloc(self->evpl, &iovec));
	/* After this the baseline is raised by the next send. */
	evpl_device_detach(self->pinner.device);
	self->pinner.device = NULL;
	self->other.message = clone_for_devices(&iovec);
	self->other.channel = self->channel;
	self->other.sent = -1;
	self->other.result = -EIO;
	ASSERT_EQ(0, evpl_device_attach(self->pool, &pinner_ops, &self->other,
					&self->other.device));
	ASSERT_EQ(0, self->other.sent);
	EXPECT_FALSE(comes_back(self, &iovec, true));
	EXPECT_TRUE(comes_back_unheld(self, &iovec));
	evpl_iovec_release(&iovec);
}

/* Allocates a buffer of the slab that has this number, or aborts. */
static struct evpl_iovec allocate_in(struct _test_data_baseline *self, unsigned int number)
{
	struct evpl_iovec iovec = {};
	struct evpl_slab_info info;

	for (unsigned int i = 0; i < 4 * PER_SLAB; i++)
		if (evpl_buffer_alloc(self->evpl, &self->iovecs[i]) != 1 ||
		    evpl_iovec_slab(&self->iovecs[i], &info))
			abort();
		else if (info.number == number && !iovec.data)
			evpl_iovec_clone(&iovec, &self->iovecs[i]);
	evpl_iovecs_release(self->iovecs, 4 * PER_SLAB);
	return iovec;
}

/*
 * Has the pool unregister its slab 1 to give it back, and the kernel refuse that, for a dma-buf of
 * the slab. So the pool has the slab registered once more. Returns a buffer of it.
 */
static struct evpl_iovec keep_slab(struct _test_data_baseline *self)
{
	struct evpl_iovec iovec = allocate_in(self, 1);
	struct evpl_slab_info info;
	int fd;

	if (evpl_iovec_slab(&iovec, &info))
		abort();
	fd = evpl_slab_export(self->pool, &info, 0);
	if (fd < 0)
		abort();
	evpl_iovec_release(&iovec);
	evpl_pool_trim(self->pool);
	if (stats_of(self->pool).slabs != 2)
		abort();
	close(fd);
	return allocate_in(self, 1);
}

TEST_F(baseline, counts_no_device_that_has_yet_to_let_go_of_the_slab)
{
	struct evpl_message sent;
	struct evpl_iovec iovec;
	char page[4096];

	/* The device has the slab's pages twice now. */
	self->pinner.later = true;
	iovec = keep_slab(self);
	self->pinner.later = false;

	sent = clone_for_devices(&iovec);
	ASSERT_EQ(0, evpl_channel_send(self->channel, &sent, 1));
	close(self->pinner.left);
	EXPECT_EQ(0, evpl_device_let_go(self->pinner.device, 1));
	EXPECT_FALSE(comes_back(self, &iovec, true));
	EXPECT_EQ(4096, read(self->pipe[0], page, sizeof(page)));

	/* The next send has the kernel count the registration that is left. */
	sent = clone_for_devices(&iovec);
	ASSERT_EQ(0, evpl_channel_send(self->channel, &sent, 1));
	EXPECT_TRUE(comes_back(self, &iovec, false));
	sent = clone_for_devices(&iovec);
	ASSERT_EQ(0, evpl_channel_send(self->channel, &sent, 1));
	EXPECT_FALSE(comes_back(self, &iovec, true));
	EXPECT_TRUE(comes_back_unheld(self, &iovec));
	evpl_iovec_release(&iovec);
}

TEST_F(baseline, counts_no_device_that_refuses_a_slab_which_stays)
{
	struct evpl_message sent;
	struct evpl_iovec iovec = allocate_in(self, 1);

	evpl_iovec_release(&iovec);
	self->pinner.result = -EIO;
	iovec = keep_slab(self);
	sent = clone_for_devices(&iovec);
	ASSERT_EQ(0, evpl_channel_send(self->channel, &sent, 1));
	EXPECT_FALSE(comes_back(self, &iovec, true));
	EXPECT_TRUE(comes_back_unheld(self, &iovec));
	evpl_iovec_release(&iovec);
}

static void *release_one(void *arg)
{
	evpl_iovec_release(arg);
	return NULL;
}

TEST_F(pair, a_pool_can_be_closed_while_the_last_release_of_a_lease_returns)
{
	for (int round = 0; round < (few() ? 100 : 1000); round++) {
		struct evpl_message sent = allocate(self->evpl, 100, 'x'), got;
		struct evpl_channel *channel, *other;
		struct evpl_pool *pool;
		pthread_t thread;
		int peer, err;

		ASSERT_EQ(0, open_pool(&pool, BUFFER, SLAB));
		ASSERT_EQ(0, evpl_channel_create(&channel, self->pool, 1, 0, &peer));
		ASSERT_EQ(0, evpl_channel_bind(&other, pool, peer, 0));
		ASSERT_EQ(0, evpl_channel_send(channel, &sent, 1));
		ASSERT_EQ(1, evpl_channel_recv(other, &got, 1));
		evpl_channel_close(other);
		evpl_channel_close(channel);
		ASSERT_EQ(0, pthread_create(&thread, NULL, release_one, &got.iovec));
		while ((err = evpl_pool_close(pool)) == -EBUSY)
			sched_yield();
		EXPECT_EQ(0, err);
		pthread_join(thread, NULL);
	}
}

TEST_HARNESS_MAIN
