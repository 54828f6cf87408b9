// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Channels, which carry references to other processes and back, in records (record.h).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cancel.h"
#include "lease.h"
#include "record.h"
#include "returned.h"
#include "slab.h"
#include "windows.h"

/**
 * struct evpl_channel - an end that is bound to a pool
 * @pool: the pool
 * @fd: the end
 */
struct evpl_channel {
	struct evpl_pool *pool;
	int fd;
};

static int bind_end(struct evpl_pool *pool, int fd)
{
	struct evpl_channel_bind bind = {
		.size = sizeof(bind),
		.fd = fd,
	};

	return ioctl(pool->backing.fd, EVPL_CHANNEL_BIND, &bind) ? -errno : 0;
}

static int set_nonblocking(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	return flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) ? -errno : 0;
}

int evplmem_channel_bind(struct evpl_channel **r_channel, struct evpl_pool *pool, int fd,
			 unsigned int flags)
{
	struct evpl_channel *channel;
	NO_CANCELLATION;
	int err;

	if (pool_is_inherited(pool))
		return -EPERM;
	if (flags & ~EVPL_CHANNEL_BLOCKING)
		return -EOPNOTSUPP;
	err = windows_map(pool);
	if (err)
		return err;
	channel = malloc(sizeof(*channel));
	if (!channel)
		return -ENOMEM;
	err = bind_end(pool, fd);
	if (!err && !(flags & EVPL_CHANNEL_BLOCKING))
		err = set_nonblocking(fd);
	if (err) {
		free(channel);
		return err;
	}
	atomic_store(&pool_sharing(pool)->bound, true);
	*channel = (struct evpl_channel){ .pool = pool, .fd = fd };
	*r_channel = channel;
	return 0;
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
	if (flags & ~EVPL_CHANNEL_BLOCKING)
		return -EOPNOTSUPP;
	if (pool->backing.ops->id != EVPL_BACKEND_MODULE)
		return -EOPNOTSUPP;
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
	close(channel->fd);
	free(channel);
}

int evplmem_channel_fd(struct evpl_channel *channel)
{
	return pool_is_inherited(channel->pool) ? -EPERM : channel->fd;
}

int evplmem_channel_send(struct evpl_channel *channel, const struct evpl_message *messages, int n)
{
	struct evpl_pool *pool = channel->pool;
	NO_CANCELLATION;
	int err;

	if (pool_is_inherited(pool))
		return -EPERM;
	if (n <= 0)
		return n ? -EINVAL : 0;
	err = records_send(pool, channel->fd, messages, n);
	/*
	 * A thread that waits for memory pulled before these buffers were sent. So it hasn't asked
	 * the receiver to release them at once.
	 */
	if (!err && atomic_load(&pool->waiting) & WAITING)
		returned_pull(pool, true);
	return err;
}

int evplmem_channel_recv(struct evpl_channel *channel, struct evpl_message *messages, int max)
{
	struct evpl_record records[FEW_RECORDS];
	struct evpl_pool *pool = channel->pool;
	NO_CANCELLATION;
	int i, n;

	if (pool_is_inherited(pool))
		return -EPERM;
	if (max <= 0)
		return -EINVAL;
	n = records_read(channel->fd, records, max > FEW_RECORDS ? FEW_RECORDS : max);
	/* The caller will wait. Release idle leases first, as their owners may wait too. */
	if (n == -EAGAIN)
		leases_flush(pool);
	for (i = 0; i < n; i++)
		record_take(pool, &records[i], &messages[i]);
	return n;
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
	return ret < 0 ? -errno : ret;
}

int evplmem_iovec_wait(const struct evpl_iovec *iovec, unsigned int flags)
{
	struct evpl_buffer_wait wait = { .size = sizeof(wait) };
	uint64_t offset;
	int fd;

	if (flags & ~EVPL_IOVEC_TRY)
		return -EOPNOTSUPP;
	fd = own_buffer(iovec, &offset);
	if (fd < 0)
		return fd;
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
