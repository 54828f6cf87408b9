// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Iovecs of memory that no pool owns: they are counted like others, and the callback runs once.
 */
#include "common.h"

#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include "connect.h"
#include "foreign.h"

FIXTURE(foreign) {
	struct evpl_pool *pool;
	struct evpl *evpl;
	struct evpl_iovec a, b, c;
	char memory[1000];
	char *data;
	pthread_t thread;
	int calls;
};

static void done(void *arg)
{
	FIXTURE_DATA(foreign) *self = arg;

	self->calls++;
	self->thread = pthread_self();
}

FIXTURE_SETUP(foreign)
{
	self->data = self->memory;
	ASSERT_EQ(0, open_pool(&self->pool, BUFFER, SLAB));
	ASSERT_EQ(0, evpl_create(&self->evpl, self->pool, NULL));
	ASSERT_EQ(0, evpl_iovec_wrap(&self->a, self->data, sizeof(self->memory), done, self));
	EXPECT_EQ(self->data, self->a.data);
	EXPECT_EQ(sizeof(self->memory), self->a.length);
	EXPECT_EQ(1, word_of(&self->a));
}

/* Each test leaves one reference: that of @a. */
FIXTURE_TEARDOWN(foreign)
{
	EXPECT_EQ(0, self->calls);
	evpl_iovec_release(&self->a);
	EXPECT_EQ(1, self->calls);
	EXPECT_EQ(0, used_in(self->pool));
	evpl_destroy(self->evpl);
	EXPECT_EQ(0, evpl_pool_close(self->pool));
}

static void *release(void *arg)
{
	evpl_iovec_release(arg);
	return NULL;
}

TEST_F(foreign, each_reference_keeps_it)
{
	evpl_iovec_addref(&self->a);
	evpl_iovec_clone(&self->b, &self->a);
	EXPECT_EQ(self->data, self->b.data);
	ASSERT_EQ(0, evpl_iovec_clone_segment(&self->c, &self->b, 100, 10));
	EXPECT_EQ(self->data + 100, self->c.data);
	EXPECT_EQ(10, self->c.length);
	EXPECT_EQ(4, word_of(&self->a));
	EXPECT_EQ(0, evpl_iovec_is_unique(&self->a));
	EXPECT_EQ(-EINVAL, evpl_iovec_clone_segment(&self->c, &self->a, 1000, 1));
	evpl_iovec_release(&self->a);
	evpl_iovec_release(&self->b);
	EXPECT_EQ(2, word_of(&self->a));
	evpl_iovec_release(&self->c);
	EXPECT_EQ(1, evpl_iovec_is_unique(&self->a));

	ASSERT_EQ(0, evpl_iovec_split(&self->b, &self->a, 300));
	EXPECT_EQ(2, word_of(&self->b));
	EXPECT_EQ(700, self->b.length);
	evpl_iovec_release(&self->a);
	evpl_iovec_move(&self->a, &self->b);
	EXPECT_EQ(1, word_of(&self->a));
}

TEST_F(foreign, the_thread_that_releases_it_last_gives_it_back)
{
	evpl_iovec_addref(&self->a);
	on_thread(release, &self->a);
	EXPECT_EQ(0, self->calls);
	on_thread(release, &self->a);
	EXPECT_EQ(1, self->calls);
	EXPECT_FALSE(pthread_equal(pthread_self(), self->thread));

	self->calls = 0;
	ASSERT_EQ(0, evpl_iovec_wrap(&self->a, self->data, 0, done, self));
}

TEST_F(foreign, one_that_nobody_waits_for_has_no_call_back)
{
	static const char constant[] = "constant";

	ASSERT_EQ(0, evpl_iovec_wrap(&self->b, (void *)constant, sizeof(constant), NULL, NULL));
	EXPECT_EQ((const void *)constant, self->b.data);
	evpl_iovec_release(&self->b);
}

static void wrap_again(void *arg)
{
	FIXTURE_DATA(foreign) *self = arg;

	if (evpl_iovec_alloc(self->evpl, 100, 0, 1, &self->c) != 1 ||
	    evpl_iovec_wrap(&self->b, self->data, 1, NULL, NULL))
		abort();
	evpl_iovec_release(&self->c);
}

TEST_F(foreign, the_call_back_may_call_the_library)
{
	ASSERT_EQ(0, evpl_iovec_wrap(&self->b, self->data, 10, wrap_again, self));
	evpl_iovec_release(&self->b);
	EXPECT_EQ(1, self->b.length);
	EXPECT_EQ(1, word_of(&self->b));
	evpl_iovec_release(&self->b);
	/* The callback's slice was released, so only the context's hold is left. */
	evpl_destroy(self->evpl);
	EXPECT_EQ(0, used_in(self->pool));
	ASSERT_EQ(0, evpl_create(&self->evpl, self->pool, NULL));
}

TEST_F(foreign, an_array_may_have_slices_and_it)
{
	struct evpl_iovec iovecs[6] = { { 0 } };

	ASSERT_EQ(1, evpl_buffer_alloc(self->evpl, &iovecs[0]));
	evpl_iovec_clone(&iovecs[1], &self->a);
	evpl_iovec_clone(&iovecs[2], &self->a);
	evpl_iovec_clone(&iovecs[3], &iovecs[0]);
	evpl_iovec_clone(&iovecs[5], &self->a);
	EXPECT_EQ(4, word_of(&self->a));
	evpl_iovecs_release(iovecs, 6);
	EXPECT_EQ(1, word_of(&self->a));
	EXPECT_EQ(0, word_of(&iovecs[0]));
}

TEST_F(foreign, a_socket_that_sends_it_without_a_copy_keeps_it_until_then)
{
	struct evpl_zerocopy *zerocopy;
	struct pollfd poll_fd;
	int sockets[2];
	char got[1000];

	memset(self->data, 'f', sizeof(self->memory));
	ASSERT_TRUE(connect_pair(sockets));
	ASSERT_EQ(0, evpl_zerocopy_create(&zerocopy, sockets[0]));
	ASSERT_EQ(1000, evpl_zerocopy_send(zerocopy, &self->a, 1, 0));
	EXPECT_EQ(2, word_of(&self->a));
	evpl_iovec_release(&self->a);
	EXPECT_EQ(0, self->calls);
	ASSERT_EQ(1000, recv(sockets[1], got, sizeof(got), MSG_WAITALL));
	EXPECT_EQ(0, memcmp(got, self->data, sizeof(got)));
	poll_fd = (struct pollfd){ .fd = sockets[0] };
	while (evpl_zerocopy_reap(zerocopy) > 0)
		ASSERT_EQ(1, poll(&poll_fd, 1, -1));
	EXPECT_EQ(1, self->calls);
	EXPECT_EQ(0, evpl_zerocopy_destroy(zerocopy));
	close(sockets[0]);
	close(sockets[1]);

	self->calls = 0;
	ASSERT_EQ(0, evpl_iovec_wrap(&self->a, self->data, 0, done, self));
}

static int register_slab(void *arg, const struct evpl_slab_info *slab, uint64_t *cookie)
{
	*cookie = 1;
	return 0;
}

TEST_F(foreign, what_needs_a_pools_memory_refuses_it)
{
	const struct evpl_device_ops ops = { .size = sizeof(ops), .register_slab = register_slab };
	struct evpl_message message = { .iovec = self->a };
	struct evpl_channel *channel;
	struct evpl_device *device;
	struct evpl_slab_info info;
	struct iovec iovec;
	uint64_t cookie;
	int peer;

	EXPECT_EQ(-EINVAL, evpl_iovec_slab(&self->a, &info));
	EXPECT_EQ(-EINVAL, evpl_iovec_commit(self->evpl, &self->a, 1, 10));
	EXPECT_EQ(-EINVAL, evpl_iovec_revoke(&self->a));
	EXPECT_EQ(-EINVAL, evpl_iovec_wait(&self->a, EVPL_IOVEC_TRY));
	EXPECT_EQ(-EINVAL, evpl_iovec_export(&self->a, 1, 0));
	evpl_iovec_to_iovec(&iovec, &self->a, 1);
	EXPECT_EQ(-EINVAL, evpl_iovec_from_iovec(self->pool, &self->b, &iovec, 1));
	ASSERT_EQ(0, evpl_device_attach(self->pool, &ops, NULL, &device));
	EXPECT_GT(0, evpl_device_cookie(device, &self->a, &cookie));
	EXPECT_EQ(-EINVAL, evpl_device_set_cookie(device, &self->a, 1));
	evpl_device_detach(device);
	if (!evpl_channel_create(&channel, self->pool, 0, 0, &peer)) {
		EXPECT_EQ(-EINVAL, evpl_channel_send(channel, &message, 1));
		evpl_channel_close(channel);
		close(peer);
	}
	EXPECT_EQ(1, word_of(&self->a));
}

TEST_F(foreign, a_child_has_nothing_called)
{
	pid_t child = fork();
	int status;

	ASSERT_LE(0, child);
	if (!child) {
		evpl_iovec_release(&self->a);
		evpl_iovecs_release(&self->a, 1);
		evpl_iovec_addref(&self->a);
		_exit(self->calls || evpl_iovec_is_unique(&self->a) ||
		      evpl_iovec_clone_segment(&self->b, &self->a, 0, 1) != -EPERM);
	}
	ASSERT_EQ(child, waitpid(child, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_EQ(1, word_of(&self->a));
}

TEST_HARNESS_MAIN
