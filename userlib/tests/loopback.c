// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Channels within one process, for the tests of Python where there is no module. This is a library
 * to preload: its functions take the place of libevplmem's. Both ends are bound to pools of the
 * process, so a reference goes from one end to the other as it is. All memory that is received
 * counts as another process's.
 */
#include <errno.h>
#include <evplmem.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define CAPACITY	64

#pragma GCC visibility push(default)

/**
 * struct evpl_channel - an end
 * @owner: the process that has made it
 * @fd: an end of a pair of sockets, whose packets are the messages of one call each
 * @flags: those that it was made with
 * @lock: guards the fields below
 * @messages: a packet that was received
 * @nr: how many messages it has
 * @next: the first one that the program hasn't received
 */
struct evpl_channel {
	pid_t owner;
	int fd;
	unsigned int flags;
	pthread_mutex_t lock;
	struct evpl_message messages[CAPACITY];
	int nr;
	int next;
};

int evplmem_channel_bind(struct evpl_channel **r_channel, struct evpl_pool *pool, int fd,
			 unsigned int flags)
{
	struct evpl_channel *channel;
	socklen_t length = sizeof(int);
	int type;

	(void)pool;
	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) || type != SOCK_SEQPACKET)
		return -EBADF;
	channel = calloc(1, sizeof(*channel));
	if (!channel)
		return -ENOMEM;
	channel->owner = getpid();
	channel->fd = fd;
	channel->flags = flags;
	pthread_mutex_init(&channel->lock, NULL);
	*r_channel = channel;
	return 0;
}

int evplmem_channel_create(struct evpl_channel **r_channel, struct evpl_pool *pool,
			   unsigned int capacity, unsigned int flags, int *r_peer)
{
	int fds[2], err;

	if (capacity > CAPACITY)
		return -EINVAL;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds))
		return -errno;
	err = evplmem_channel_bind(r_channel, pool, fds[0], flags);
	if (err) {
		close(fds[0]);
		close(fds[1]);
	} else {
		*r_peer = fds[1];
	}
	return err;
}

int evplmem_channel_fd(struct evpl_channel *channel)
{
	return channel->fd;
}

int evplmem_channel_send(struct evpl_channel *channel, const struct evpl_message *messages, int n)
{
	int i;

	if (n > CAPACITY)
		return -EMSGSIZE;
	for (i = 0; i < n; i++) {
		if (messages[i].flags & ~(EVPL_MESSAGE_WRITE | EVPL_MESSAGE_DEVICE))
			return -EOPNOTSUPP;
		if (!messages[i].iovec.length)
			return -EINVAL;
	}
	if (!n)
		return 0;
	return send(channel->fd, messages, n * sizeof(*messages), MSG_NOSIGNAL |
		    (channel->flags & EVPL_CHANNEL_BLOCKING ? 0 : MSG_DONTWAIT)) < 0 ? -errno : 0;
}

static int receive(struct evpl_channel *channel, struct evpl_message *messages, int max, bool wait)
{
	ssize_t got;
	int n = 0;

	if (max <= 0)
		return -EINVAL;
	if (channel->next == channel->nr) {
		got = recv(channel->fd, channel->messages, sizeof(channel->messages),
			   wait ? 0 : MSG_DONTWAIT);
		if (got <= 0)
			return got ? -errno : -EPIPE;
		channel->nr = got / sizeof(*messages);
		channel->next = 0;
	}
	while (n < max && channel->next < channel->nr)
		messages[n++] = channel->messages[channel->next++];
	return n;
}

int evplmem_channel_recv(struct evpl_channel *channel, struct evpl_message *messages, int max)
{
	int n;

	pthread_mutex_lock(&channel->lock);
	n = receive(channel, messages, max, channel->flags & EVPL_CHANNEL_BLOCKING);
	pthread_mutex_unlock(&channel->lock);
	return n;
}

/*
 * The messages that nobody will receive give their references back. A child of fork(2) closes its
 * copy of the descriptor alone.
 */
void evplmem_channel_close(struct evpl_channel *channel)
{
	struct evpl_message message;

	if (channel->owner == getpid()) {
		shutdown(channel->fd, SHUT_RDWR);
		while (receive(channel, &message, 1, false) == 1)
			evpl_iovec_release(&message.iovec);
	}
	close(channel->fd);
	free(channel);
}

int evplmem_channel_arm(struct evpl_channel *channel)
{
	return channel->next < channel->nr ? -EBUSY : 0;
}

int evplmem_lane_stats(struct evpl_channel *channel, struct evpl_lane_stats *stats)
{
	if (!(channel->flags & EVPL_CHANNEL_LANE))
		return -EOPNOTSUPP;
	memset((char *)stats + sizeof(stats->size), 0, sizeof(*stats) - sizeof(stats->size));
	return 0;
}

int evplmem_iovec_slab(const struct evpl_iovec *iovec, struct evpl_slab_info *info)
{
	(void)iovec;
	(void)info;
	return -EINVAL;
}
