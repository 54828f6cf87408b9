// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/* Sockets that send without a copy: memory keeps its references until it has been sent. */
#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>

#include "common.h"
#include "connect.h"

FIXTURE(zerocopy) {
	struct evpl_pool *pool;
	struct evpl *evpl;
	struct evpl_zerocopy *zerocopy;
	struct evpl_iovec iovec[PER_SLAB];
	int sockets[2];
};

FIXTURE_SETUP(zerocopy)
{
	ASSERT_EQ(0, open_pool(&self->pool, BUFFER, SLAB));
	ASSERT_EQ(0, evpl_create(&self->evpl, self->pool, NULL));
	ASSERT_TRUE(connect_pair(self->sockets));
	/* The buffers of the sockets have room for less than a slab. */
	setsockopt(self->sockets[0], SOL_SOCKET, SO_SNDBUF, &(int){ 256 * KB }, sizeof(int));
	setsockopt(self->sockets[1], SOL_SOCKET, SO_RCVBUF, &(int){ 64 * KB }, sizeof(int));
	ASSERT_EQ(0, evpl_zerocopy_create(&self->zerocopy, self->sockets[0]));
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec));
	for (unsigned int i = 0; i < PER_SLAB; i++)
		memset(self->iovec[i].data, 'a' + (int)i, BUFFER);
}

FIXTURE_TEARDOWN(zerocopy)
{
	EXPECT_EQ(0, evpl_zerocopy_destroy(self->zerocopy));
	for (unsigned int i = 0; i < PER_SLAB; i++)
		EXPECT_EQ(1, !self->iovec[i].data || word_of(&self->iovec[i]) == 1);
	evpl_iovecs_release(self->iovec, PER_SLAB);
	close(self->sockets[0]);
	close(self->sockets[1]);
	evpl_destroy(self->evpl);
	EXPECT_EQ(0, evpl_pool_close(self->pool));
}

/* Receives @length bytes. Each buffer's worth of them must be filled with the next letter. */
static bool arrives(int socket, size_t length)
{
	static char bytes[BUFFER];

	for (int letter = 'a'; length; letter++) {
		size_t part = length < BUFFER ? length : BUFFER;

		if (recv(socket, bytes, part, MSG_WAITALL) != (ssize_t)part ||
		    bytes[0] != (char)letter || memcmp(bytes, bytes + 1, part - 1))
			return false;
		length -= part;
	}
	return true;
}

/* Reaps until all sends have completed. */
static int reap_all(struct evpl_zerocopy *zerocopy, int socket)
{
	struct pollfd poll_fd = { .fd = socket };
	int ret;

	while ((ret = evpl_zerocopy_reap(zerocopy)) > 0)
		if (poll(&poll_fd, 1, -1) != 1 || !(poll_fd.revents & POLLERR))
			return -EPROTO;
	return ret;
}

/* Reaps until all sends have completed, without a descriptor to poll. */
static int reap_to_the_end(struct evpl_zerocopy *zerocopy)
{
	int ret;

	while ((ret = evpl_zerocopy_reap(zerocopy)) > 0)
		sched_yield();
	return ret;
}

/*
 * Aborts, and waits for the kernel's own queues. An abort waits for no peer, but the loopback
 * device may still have packets that were sent.
 */
static int abort_to_the_end(struct evpl_zerocopy *zerocopy)
{
	int ret = evpl_zerocopy_abort(zerocopy);

	while (ret == -EBUSY) {
		sched_yield();
		ret = evpl_zerocopy_destroy(zerocopy);
	}
	return ret;
}

TEST(what_is_no_such_socket_is_refused)
{
	struct evpl_zerocopy *zerocopy;
	int fd;

	EXPECT_EQ(-EBADF, evpl_zerocopy_create(&zerocopy, -1));
	fd = open("/dev/null", O_RDWR);
	EXPECT_EQ(-ENOTSOCK, evpl_zerocopy_create(&zerocopy, fd));
	close(fd);
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	EXPECT_EQ(-EOPNOTSUPP, evpl_zerocopy_create(&zerocopy, fd));
	close(fd);
	EXPECT_EQ(0, evpl_zerocopy_destroy(NULL));
}

TEST_F(zerocopy, references_stay_until_the_kernel_is_done)
{
	struct evpl_iovec sent[2] = { self->iovec[0], self->iovec[1] };

	sent[1].length = 10;
	for (int round = 0; round < 3; round++) {
		ASSERT_EQ(BUFFER + 10, evpl_zerocopy_send(self->zerocopy, sent, 2, 0));
		EXPECT_EQ(2, word_of(&self->iovec[0]));
		EXPECT_EQ(2, word_of(&self->iovec[1]));
		EXPECT_TRUE(arrives(self->sockets[1], BUFFER + 10));
		EXPECT_EQ(0, reap_all(self->zerocopy, self->sockets[0]));
		EXPECT_EQ(1, word_of(&self->iovec[0]));
		EXPECT_EQ(1, word_of(&self->iovec[1]));
	}
	EXPECT_EQ(0, evpl_zerocopy_reap(self->zerocopy));
}

TEST_F(zerocopy, a_socket_that_sent_so_has_no_second_one)
{
	struct evpl_zerocopy *second = NULL;
	int same = dup(self->sockets[0]);

	EXPECT_EQ(-EBUSY, evpl_zerocopy_create(&second, self->sockets[0]));
	EXPECT_EQ(-EBUSY, evpl_zerocopy_create(&second, same));
	EXPECT_EQ(NULL, second);
	ASSERT_EQ(BUFFER, evpl_zerocopy_send(self->zerocopy, self->iovec, 1, 0));
	EXPECT_TRUE(arrives(self->sockets[1], BUFFER));
	EXPECT_EQ(0, reap_all(self->zerocopy, self->sockets[0]));
	/* The kernel's next number for this socket isn't 0, as a new struct would expect. */
	ASSERT_EQ(0, evpl_zerocopy_destroy(self->zerocopy));
	self->zerocopy = NULL;
	EXPECT_EQ(-EBUSY, evpl_zerocopy_create(&second, self->sockets[0]));
	EXPECT_EQ(NULL, second);
	EXPECT_EQ(1, word_of(&self->iovec[0]));
	close(same);
}

TEST_F(zerocopy, nor_has_one_whose_program_sent_so_before)
{
	struct evpl_zerocopy *zerocopy = NULL;
	char bytes[100] = { 'a' };

	ASSERT_EQ(0, setsockopt(self->sockets[1], SOL_SOCKET, SO_ZEROCOPY, &(int){ 1 },
				sizeof(int)));
	ASSERT_EQ(sizeof(bytes), send(self->sockets[1], bytes, sizeof(bytes), MSG_ZEROCOPY));
	EXPECT_EQ(-EBUSY, evpl_zerocopy_create(&zerocopy, self->sockets[1]));
	EXPECT_EQ(NULL, zerocopy);
	EXPECT_EQ(sizeof(bytes), recv(self->sockets[0], bytes, sizeof(bytes), MSG_WAITALL));
}

TEST_F(zerocopy, one_that_sent_nothing_may_be_followed_by_another)
{
	for (int round = 0; round < 3; round++) {
		ASSERT_EQ(0, evpl_zerocopy_destroy(self->zerocopy));
		self->zerocopy = NULL;
		ASSERT_EQ(0, evpl_zerocopy_create(&self->zerocopy, self->sockets[0]));
		/* Neither call sends with MSG_ZEROCOPY. */
		EXPECT_EQ(0, evpl_zerocopy_send(self->zerocopy, self->iovec, 0, 0));
		EXPECT_EQ(-EINVAL, evpl_zerocopy_send(self->zerocopy, self->iovec, -1, 0));
	}
	ASSERT_EQ(BUFFER, evpl_zerocopy_send(self->zerocopy, self->iovec, 1, 0));
	EXPECT_EQ(2, word_of(&self->iovec[0]));
	EXPECT_TRUE(arrives(self->sockets[1], BUFFER));
	EXPECT_EQ(0, reap_all(self->zerocopy, self->sockets[0]));
	EXPECT_EQ(1, word_of(&self->iovec[0]));
}

TEST_F(zerocopy, buffer_is_not_recycled_before_it_was_sent)
{
	struct evpl_iovec others[PER_SLAB];
	ssize_t sent;
	int n = 0;

	/* Send so much that a part of it waits for the receiver. */
	sent = evpl_zerocopy_send(self->zerocopy, self->iovec, PER_SLAB, MSG_DONTWAIT);
	ASSERT_LT(BUFFER, sent);
	evpl_iovecs_release(self->iovec, PER_SLAB);
	memset(self->iovec, 0, sizeof(self->iovec));
	EXPECT_LT(0, used_in(self->pool));
	while (evpl_buffer_alloc(self->evpl, &others[n]) == 1)
		memset(others[n++].data, 0xff, BUFFER);
	EXPECT_GT(PER_SLAB, n);
	EXPECT_TRUE(arrives(self->sockets[1], (size_t)sent));
	EXPECT_EQ(0, reap_all(self->zerocopy, self->sockets[0]));
	evpl_iovecs_release(others, n);
	EXPECT_EQ(0, used_in(self->pool));
}

TEST_F(zerocopy, only_what_the_socket_took_is_referenced)
{
	ssize_t sent = evpl_zerocopy_send(self->zerocopy, self->iovec, PER_SLAB, MSG_DONTWAIT);

	ASSERT_LT(0, sent);
	ASSERT_GT(SLAB, sent);
	for (unsigned int i = 0; i < PER_SLAB; i++)
		EXPECT_EQ(sent > (ssize_t)(i * BUFFER) ? 2 : 1, word_of(&self->iovec[i]));
	EXPECT_EQ(-EINVAL, evpl_zerocopy_send(self->zerocopy, self->iovec, -1, 0));
	EXPECT_EQ(0, evpl_zerocopy_send(self->zerocopy, self->iovec, 0, 0));
	EXPECT_TRUE(arrives(self->sockets[1], (size_t)sent));
	EXPECT_EQ(0, reap_all(self->zerocopy, self->sockets[0]));
}

TEST_F(zerocopy, what_is_given_up_comes_back)
{
	struct sockaddr nobody = { .sa_family = AF_UNSPEC };
	ssize_t sent = evpl_zerocopy_send(self->zerocopy, self->iovec, PER_SLAB, MSG_DONTWAIT);

	ASSERT_LT(0, sent);
	EXPECT_EQ(-EBUSY, evpl_zerocopy_destroy(self->zerocopy));
	EXPECT_EQ(2, word_of(&self->iovec[0]));
	ASSERT_EQ(0, connect(self->sockets[0], &nobody, sizeof(nobody)));
	EXPECT_EQ(0, reap_to_the_end(self->zerocopy));
	EXPECT_EQ(1, word_of(&self->iovec[0]));
	EXPECT_GT(0, evpl_zerocopy_send(self->zerocopy, self->iovec, 1, MSG_NOSIGNAL));
	EXPECT_EQ(1, word_of(&self->iovec[0]));
}

TEST_F(zerocopy, received_memory_is_sent_by_a_copy)
{
	struct received received;
	struct evpl_iovec *iovec = &received.message.iovec;

	if (stats_of(self->pool).backend != EVPL_BACKEND_MODULE)
		SKIP(return, "the module's alone");
	receive(&received, self->pool, BUFFER);
	memset(iovec->data, 'a', BUFFER);
	EXPECT_EQ(1, word_of(iovec));
	ASSERT_EQ(BUFFER, evpl_zerocopy_send(self->zerocopy, iovec, 1, 0));
	EXPECT_EQ(1, word_of(iovec));
	EXPECT_EQ(0, evpl_zerocopy_reap(self->zerocopy));
	EXPECT_EQ(0, end_received(&received));
	EXPECT_TRUE(arrives(self->sockets[1], BUFFER));
}

/* Whether the other end of the connection is closed, and all data was received. */
static bool is_at_its_end(int socket)
{
	char byte;

	return recv(socket, &byte, 1, 0) == 0;
}

TEST_F(zerocopy, the_program_may_close_its_descriptor)
{
	ssize_t sent = evpl_zerocopy_send(self->zerocopy, self->iovec, PER_SLAB, MSG_DONTWAIT);

	ASSERT_LT(0, sent);
	close(self->sockets[0]);
	EXPECT_LT(0, evpl_zerocopy_reap(self->zerocopy));
	EXPECT_EQ(-EBUSY, evpl_zerocopy_destroy(self->zerocopy));
	EXPECT_EQ(2, word_of(&self->iovec[0]));
	EXPECT_TRUE(arrives(self->sockets[1], (size_t)sent));
	EXPECT_EQ(0, reap_to_the_end(self->zerocopy));
	EXPECT_EQ(1, word_of(&self->iovec[0]));
	/* So far the library's own descriptor has kept the connection open. */
	EXPECT_EQ(0, evpl_zerocopy_destroy(self->zerocopy));
	self->zerocopy = NULL;
	EXPECT_TRUE(is_at_its_end(self->sockets[1]));
	self->sockets[0] = -1;
}

/* Whether the error queue of a socket has a completion. */
static bool tells(int socket)
{
	struct pollfd poll_fd = { .fd = socket };
	char control[256];
	struct msghdr msg = { .msg_control = control, .msg_controllen = sizeof(control) };

	/* If there is none, this ends after 10 seconds. */
	return poll(&poll_fd, 1, 10000) == 1 && poll_fd.revents & POLLERR &&
	       recvmsg(socket, &msg, MSG_ERRQUEUE | MSG_DONTWAIT) == 0;
}

TEST_F(zerocopy, another_socket_that_gets_the_number_is_not_read)
{
	static char byte = 'a';
	int others[2];

	ASSERT_LT(BUFFER, evpl_zerocopy_send(self->zerocopy, self->iovec, PER_SLAB, MSG_DONTWAIT));
	ASSERT_TRUE(connect_pair(others));
	ASSERT_EQ(self->sockets[0], dup2(others[0], self->sockets[0]));
	close(others[0]);
	ASSERT_EQ(0, setsockopt(self->sockets[0], SOL_SOCKET, SO_ZEROCOPY, &(int){ 1 },
				sizeof(int)));
	ASSERT_EQ(1, send(self->sockets[0], &byte, 1, MSG_ZEROCOPY));
	ASSERT_EQ(1, recv(others[1], &byte, 1, MSG_WAITALL));
	EXPECT_LT(0, evpl_zerocopy_reap(self->zerocopy));
	EXPECT_EQ(2, word_of(&self->iovec[0]));
	EXPECT_TRUE(tells(self->sockets[0]));
	close(others[1]);
	EXPECT_EQ(0, abort_to_the_end(self->zerocopy));
	self->zerocopy = NULL;
	EXPECT_EQ(1, word_of(&self->iovec[0]));
}

TEST_F(zerocopy, abort_waits_for_no_peer)
{
	ASSERT_LT(BUFFER, evpl_zerocopy_send(self->zerocopy, self->iovec, PER_SLAB, MSG_DONTWAIT));
	EXPECT_EQ(-EBUSY, evpl_zerocopy_destroy(self->zerocopy));
	ASSERT_EQ(0, abort_to_the_end(self->zerocopy));
	self->zerocopy = NULL;
	for (unsigned int i = 0; i < PER_SLAB; i++)
		EXPECT_EQ(1, word_of(&self->iovec[i]));
	EXPECT_EQ(0, evpl_zerocopy_abort(NULL));
}

TEST_F(zerocopy, a_connection_that_both_have_closed_is_ended)
{
	ASSERT_LT(BUFFER, evpl_zerocopy_send(self->zerocopy, self->iovec, PER_SLAB, MSG_DONTWAIT));
	close(self->sockets[0]);
	close(self->sockets[1]);
	EXPECT_EQ(0, abort_to_the_end(self->zerocopy));
	self->zerocopy = NULL;
	self->sockets[0] = -1;
	self->sockets[1] = -1;
	EXPECT_EQ(1, word_of(&self->iovec[0]));
}

TEST_F(zerocopy, child_leaves_it_alone)
{
	pid_t child;
	int status;

	ASSERT_EQ(BUFFER, evpl_zerocopy_send(self->zerocopy, self->iovec, 1, 0));
	child = fork();
	if (!child)
		_exit(evpl_zerocopy_send(self->zerocopy, self->iovec, 1, 0) != -EPERM ||
		      evpl_zerocopy_reap(self->zerocopy) != -EPERM ||
		      evpl_zerocopy_abort(self->zerocopy) != 0);
	ASSERT_EQ(child, waitpid(child, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_TRUE(arrives(self->sockets[1], BUFFER));
	EXPECT_EQ(0, reap_all(self->zerocopy, self->sockets[0]));
}

TEST_F(zerocopy, child_can_close_its_copy_of_the_descriptor)
{
	int ready[2], go[2], status;
	pid_t child;
	char byte = 0;

	ASSERT_EQ(0, pipe2(ready, O_CLOEXEC));
	ASSERT_EQ(0, pipe2(go, O_CLOEXEC));
	ASSERT_EQ(BUFFER, evpl_zerocopy_send(self->zerocopy, self->iovec, 1, 0));
	child = fork();
	if (!child) {
		close(go[1]);
		close(self->sockets[0]);
		if (evpl_zerocopy_destroy(self->zerocopy) || write(ready[1], &byte, 1) != 1)
			_exit(1);
		/* The child lives until the parent has checked. */
		_exit(read(go[0], &byte, 1) != 0);
	}
	close(ready[1]);
	ASSERT_EQ(1, read(ready[0], &byte, 1));
	EXPECT_TRUE(arrives(self->sockets[1], BUFFER));
	EXPECT_EQ(0, reap_all(self->zerocopy, self->sockets[0]));
	EXPECT_EQ(0, evpl_zerocopy_destroy(self->zerocopy));
	self->zerocopy = NULL;
	close(self->sockets[0]);
	self->sockets[0] = -1;
	EXPECT_TRUE(is_at_its_end(self->sockets[1]));
	close(go[1]);
	ASSERT_EQ(child, waitpid(child, &status, 0));
	EXPECT_EQ(0, status);
}

TEST_HARNESS_MAIN
