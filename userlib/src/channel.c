// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Channels, which carry references to other processes and back: by records alone (record.h), or as
 * lanes (lane_block.h).
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cancel.h"
#include "lane.h"
#include "record.h"
#include "returned.h"
#include "sites.h"
#include "slab.h"
#include "windows.h"

/**
 * struct evpl_channel - an end that is bound to a pool
 * @pool: the pool
 * @fd: the end
 * @lane: its lane, or NULL
 */
struct evpl_channel {
	struct evpl_pool *pool;
	int fd;
	struct lane *lane;
};

/* Binds an end. Returns 0, with @capacity set if the end is a lane's now, else to 0; or -errno. */
static int bind_end(struct evpl_pool *pool, int fd, bool lane, unsigned int *capacity)
{
	struct evpl_channel_bind bind = {
		.size = sizeof(bind),
		.flags = lane ? EVPL_BIND_LANE : 0,
		.fd = fd,
	};

	*capacity = 0;
	if (ioctl(pool->backing.fd, EVPL_CHANNEL_BIND, &bind)) {
		/* A module without lanes: this is a channel. */
		if (lane && errno == EOPNOTSUPP)
			return bind_end(pool, fd, false, capacity);
		return -errno;
	}
	if (lane)
		*capacity = bind.out_capacity;
	return 0;
}

static int set_nonblocking(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	return flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) ? -errno : 0;
}

static int check_flags(struct evpl_pool *pool, unsigned int capacity, unsigned int flags)
{
	if (flags & ~(EVPL_CHANNEL_BLOCKING | EVPL_CHANNEL_LANE | EVPL_CHANNEL_POLLING) ||
	    pool->backing.ops->id != EVPL_BACKEND_MODULE)
		return -EOPNOTSUPP;
	if (flags & EVPL_CHANNEL_POLLING &&
	    (flags & EVPL_CHANNEL_BLOCKING || !(flags & EVPL_CHANNEL_LANE)))
		return -EINVAL;
	if (flags & EVPL_CHANNEL_LANE && (!pool->zeros || capacity > lane_capacity_max(pool)))
		return -EINVAL;
	return 0;
}

int evplmem_channel_bind(struct evpl_channel **r_channel, struct evpl_pool *pool, int fd,
			 unsigned int flags)
{
	struct evpl_channel *channel;
	unsigned int capacity;
	NO_CANCELLATION;
	int err;

	if (pool_is_inherited(pool))
		return -EPERM;
	err = check_flags(pool, 0, flags);
	if (!err)
		err = windows_map(pool);
	if (err)
		return err;
	channel = malloc(sizeof(*channel));
	if (!channel)
		return -ENOMEM;
	*channel = (struct evpl_channel){ .pool = pool, .fd = fd };
	err = bind_end(pool, fd, flags & EVPL_CHANNEL_LANE, &capacity);
	/* A lane waits by poll(2), for its ring and the kernel together. */
	if (!err && (flags & EVPL_CHANNEL_LANE || !(flags & EVPL_CHANNEL_BLOCKING)))
		err = set_nonblocking(fd);
	if (err)
		goto free_channel;
	atomic_store(&pool_sharing(pool)->bound, true);
	if (capacity) {
		err = lane_create(&channel->lane, pool, fd, capacity, flags);
		if (err)
			goto free_channel;
	}
	*r_channel = channel;
	return 0;

free_channel:
	free(channel);
	return err;
}

int evplmem_channel_create(struct evpl_channel **r_channel, struct evpl_pool *pool,
			   unsigned int capacity, unsigned int flags, int *r_peer)
{
	struct evpl_channel_create create = {
		.size = sizeof(create),
		.capacity = capacity,
	};
	NO_CANCELLATION;
	int err;

	if (pool_is_inherited(pool))
		return -EPERM;
	err = check_flags(pool, capacity ? capacity : EVPL_CHANNEL_CAPACITY_DEFAULT, flags);
	if (err)
		return err;
	if (ioctl(pool->backing.fd, EVPL_CHANNEL_CREATE, &create))
		return -errno;
	err = evplmem_channel_bind(r_channel, pool, create.out_fds[0], flags);
	if (err) {
		close(create.out_fds[0]);
		close(create.out_fds[1]);
		return err;
	}
	*r_peer = create.out_fds[1];
	return 0;
}

/* This works in the child of fork(2) too, which has its own copy of the descriptor. */
void evplmem_channel_close(struct evpl_channel *channel)
{
	NO_CANCELLATION;

	if (!channel)
		return;
	if (channel->lane && !pool_is_inherited(channel->pool))
		lane_close(channel->lane);
	close(channel->fd);
	free(channel);
}

int evplmem_channel_fd(struct evpl_channel *channel)
{
	return pool_is_inherited(channel->pool) ? -EPERM : channel->fd;
}

/* Of an end that isn't a lane's. */
__attribute__((noinline))
static int channel_send(struct evpl_channel *channel, const struct evpl_message *messages, int n)
{
	NO_CANCELLATION;
	int err;

	err = records_send(channel->pool, channel->fd, messages, n);
	if (!err)
		returned_pull_if_awaited(channel->pool);
	return err;
}

static inline int send_messages(struct evpl_channel *channel, const struct evpl_message *messages, int n)
{
	return channel->lane ? lane_send(channel->lane, messages, n) :
	       channel_send(channel, messages, n);
}

/* The references that were sent are no longer the program's. */
static RARE int send_odd(struct evpl_channel *channel, const struct evpl_message *messages, int n)
{
	int err, i;

	if (pool_is_inherited(channel->pool))
		return -EPERM;
	if (n <= 0)
		return n ? -EINVAL : 0;
	err = send_messages(channel, messages, n);
	for (i = 0; !err && i < n; i++)
		sites_drop(&messages[i].iovec);
	return err;
}

int evplmem_channel_send(struct evpl_channel *channel, const struct evpl_message *messages, int n)
{
	if (is_odd(channel->pool->generation))
		return send_odd(channel, messages, n);
	if (n <= 0)
		return n ? -EINVAL : 0;
	return send_messages(channel, messages, n);
}

/* Of an end that isn't a lane's. */
__attribute__((noinline))
static int channel_recv(struct evpl_channel *channel, struct evpl_message *messages, int max)
{
	struct evpl_record records[FEW_RECORDS];
	struct evpl_pool *pool = channel->pool;
	NO_CANCELLATION;
	int i, n;

	n = records_read(channel->fd, records, max > FEW_RECORDS ? FEW_RECORDS : max);
	/* The caller will wait. Release idle leases first, as their owners may wait too. */
	if (n == -EAGAIN)
		leases_flush(pool);
	for (i = 0; i < n; i++)
		record_take(pool, &records[i], &messages[i]);
	return n;
}

static inline int recv_messages(struct evpl_channel *channel, struct evpl_message *messages, int max)
{
	return channel->lane ? lane_recv(channel->lane, messages, max) :
	       channel_recv(channel, messages, max);
}

static RARE int recv_odd(struct evpl_channel *channel, struct evpl_message *messages, int max,
			 struct place place)
{
	int i, n;

	if (pool_is_inherited(channel->pool))
		return -EPERM;
	if (max <= 0)
		return -EINVAL;
	n = recv_messages(channel, messages, max);
	for (i = 0; i < n; i++)
		sites_add(&messages[i].iovec, 1, place);
	return n;
}

int evplmem_channel_recv(struct evpl_channel *channel, struct evpl_message *messages, int max)
{
	if (is_odd(channel->pool->generation))
		return recv_odd(channel, messages, max, PLACE());
	if (max <= 0)
		return -EINVAL;
	return recv_messages(channel, messages, max);
}

int evplmem_channel_arm(struct evpl_channel *channel)
{
	if (pool_is_inherited(channel->pool))
		return -EPERM;
	return channel->lane ? lane_arm(channel->lane) : 0;
}

int evplmem_lane_stats(struct evpl_channel *channel, struct evpl_lane_stats *stats)
{
	if (pool_is_inherited(channel->pool))
		return -EPERM;
	return channel->lane ? lane_stats(channel->lane, stats) : -EOPNOTSUPP;
}

/*
 * Returns the descriptor of the pool that an iovec's buffer belongs to, and sets @offset to where
 * the buffer starts in the own window. Returns -errno if the memory isn't this process's own.
 */
static int own_buffer(const struct evpl_iovec *iovec, uint64_t *offset)
{
	struct evpl_pool *pool;
	struct slab *slab;

	if (iovec_is_inherited(iovec))
		return -EPERM;
	slab = iovec_slab(iovec);
	if (!slab)
		return -EINVAL;
	pool = slab->pool;
	if (pool->backing.ops->id != EVPL_BACKEND_MODULE)
		return -EOPNOTSUPP;
	*offset = (uint64_t)iovec_entry(iovec)->index * pool->buffer_size;
	return pool->backing.fd;
}

int evplmem_iovec_revoke(const struct evpl_iovec *iovec)
{
	struct evpl_revoke revoke = { .size = sizeof(revoke) };
	uint64_t offset;
	int fd, ret;

	fd = own_buffer(iovec, &offset);
	if (fd < 0)
		return fd;
	revoke.offset = offset;
	ret = ioctl(fd, EVPL_REVOKE, &revoke);
	if (ret < 0)
		return -errno;
	lanes_revoked(iovec_slab(iovec)->pool, iovec_entry(iovec));
	return ret;
}

/*
 * Waits until all peers have returned the messages of a buffer that came by lanes, and takes the
 * grants of the buffer back.
 */
static int wait_for_lanes(struct evpl_pool *pool, struct entry *buffer, bool wait)
{
	struct pollfd pollfd = { .fd = pool->backing.fd, .events = POLLIN };
	NO_CANCELLATION;

	while (lanes_take_back(pool, buffer)) {
		if (!wait)
			return -EAGAIN;
		/* A peer that returns a message from now on makes the descriptor readable. */
		if (lanes_collect(pool, true) || !lanes_take_back(pool, buffer))
			continue;
		/* There may be no room to take a grant back, and no event tells when there is. */
		if (poll(&pollfd, 1, 100) < 0)
			return -errno;
		returned_collect(pool);
	}
	return 0;
}

int evplmem_iovec_wait(const struct evpl_iovec *iovec, unsigned int flags)
{
	struct evpl_buffer_wait wait = { .size = sizeof(wait) };
	uint64_t offset;
	int err, fd;

	if (flags & ~EVPL_IOVEC_TRY)
		return -EOPNOTSUPP;
	fd = own_buffer(iovec, &offset);
	if (fd < 0)
		return fd;
	err = wait_for_lanes(iovec_slab(iovec)->pool, iovec_entry(iovec),
			     !(flags & EVPL_IOVEC_TRY));
	if (err)
		return err;
	wait.offset = offset;
	wait.flags = flags & EVPL_IOVEC_TRY ? EVPL_WAIT_TRY : 0;
	return ioctl(fd, EVPL_BUFFER_WAIT, &wait) ? -errno : 0;
}

int evplmem_pool_fd(struct evpl_pool *pool)
{
	if (pool_is_inherited(pool))
		return -EPERM;
	return pool->backing.ops->id == EVPL_BACKEND_MODULE ? pool->backing.fd : -EOPNOTSUPP;
}
