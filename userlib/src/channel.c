// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Channels, which carry references to other processes and back. The kernel transfers
 * records (linux/evpl.h, DOC: channels). This file makes records from iovecs, and iovecs
 * from records.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cancel.h"
#include "lease.h"
#include "returned.h"
#include "slab.h"
#include "transfer.h"
#include "windows.h"

/* How many records fit an array on the stack. */
#define FEW_RECORDS	64

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

static int make_record(struct evpl_pool *pool, const struct evpl_message *message,
		       struct evpl_record *record)
{
	if (message->flags & ~(EVPL_MESSAGE_WRITE | EVPL_MESSAGE_DEVICE))
		return -EOPNOTSUPP;
	*record = (struct evpl_record){
		.length = message->iovec.length,
		.cookie = message->cookie,
	};
	if (message->flags & EVPL_MESSAGE_WRITE)
		record->flags |= EVPL_RECORD_WRITE;
	if (message->flags & EVPL_MESSAGE_DEVICE)
		record->flags |= EVPL_RECORD_DEVICE;
	return transfer_offset(pool, &message->iovec, (uint64_t *)&record->offset);
}

/*
 * Ends what transfer_prepare() began, whether or not the records were @sent. Goes by the offsets
 * and doesn't look at the entries: the buffers may have been recycled already, and their slabs be
 * gone.
 */
static void finish_send(struct evpl_pool *pool, const struct evpl_message *messages,
			const struct evpl_record *records, int n, bool sent)
{
	int i;

	for (i = 0; i < n; i++) {
		if (records[i].offset >= pool->backing.own_size)
			transfer_finish(pool, &messages[i].iovec, records[i].offset);
		else if (sent)
			returned_note_sent(pool_sharing(pool),
					   (uint32_t)(records[i].offset / pool->buffer_size));
	}
}

/* Makes and writes the records of @messages. If this fails, none of them has been sent. */
static int send_records(struct evpl_channel *channel, const struct evpl_message *messages,
			struct evpl_record *records, int n)
{
	struct evpl_pool *pool = channel->pool;
	ssize_t written;
	int err, i;

	for (i = 0; i < n; i++) {
		err = make_record(pool, &messages[i], &records[i]);
		if (err)
			return err;
	}
	for (i = 0; i < n; i++)
		transfer_prepare(pool, &messages[i].iovec, records[i].offset,
				 messages[i].flags & (EVPL_MESSAGE_DEVICE | EVPL_MESSAGE_WRITE));
	written = write(channel->fd, records, (size_t)n * sizeof(*records));
	err = written < 0 ? -errno : 0;
	finish_send(pool, messages, records, n, !err);
	return err;
}

int evplmem_channel_send(struct evpl_channel *channel, const struct evpl_message *messages, int n)
{
	struct evpl_record few[FEW_RECORDS], *records = few;
	struct evpl_pool *pool = channel->pool;
	NO_CANCELLATION;
	int err;

	if (pool_is_inherited(pool))
		return -EPERM;
	if (n <= 0)
		return n ? -EINVAL : 0;
	if (n > FEW_RECORDS) {
		records = malloc((size_t)n * sizeof(*records));
		if (!records)
			return -ENOMEM;
	}
	err = send_records(channel, messages, records, n);
	/*
	 * A thread that waits for memory pulled before these buffers were sent. So it hasn't asked
	 * the receiver to release them at once.
	 */
	if (!err && atomic_load(&pool->waiting) & WAITING)
		returned_pull(pool, true);
	if (records != few)
		free(records);
	return err;
}

static void take_record(struct evpl_pool *pool, const struct evpl_record *record,
			struct evpl_message *message)
{
	struct entry *entry;
	char *data;

	*message = (struct evpl_message){
		.iovec.length = record->length,
		.cookie = record->cookie,
	};
	if (record->flags & EVPL_RECORD_WRITE)
		message->flags |= EVPL_MESSAGE_WRITE;
	if (record->flags & EVPL_RECORD_DEVICE)
		message->flags |= EVPL_MESSAGE_DEVICE;
	if (record->flags & EVPL_RECORD_HELD)
		message->flags |= EVPL_MESSAGE_HELD;
	if (record->flags & EVPL_RECORD_REVOKED) {
		message->flags = EVPL_MESSAGE_REVOKED;
		message->iovec.length = 0;
		return;
	}
	if (record->lease == EVPL_LEASE_NONE) {
		entry = pool->backing.entries + record->offset / pool->buffer_size;
		data = (char *)entry->base + record->offset % pool->buffer_size;
	} else {
		entry = lease_entry(lease_of_record(pool, record));
		data = windows_address(pool, record->offset);
	}
	message->iovec.data = data;
	message->iovec.__private1 = fork_generation;
	message->iovec.__private2 = (unsigned long)entry;
}

int evplmem_channel_recv(struct evpl_channel *channel, struct evpl_message *messages, int max)
{
	struct evpl_record records[FEW_RECORDS];
	ssize_t got;
	NO_CANCELLATION;
	int i, n;

	if (pool_is_inherited(channel->pool))
		return -EPERM;
	if (max <= 0)
		return -EINVAL;
	if (max > FEW_RECORDS)
		max = FEW_RECORDS;
	got = read(channel->fd, records, (size_t)max * sizeof(*records));
	if (got < 0) {
		n = -errno;
		/* The caller will wait. Release idle leases first, as their owners may wait too. */
		if (n == -EAGAIN)
			leases_flush(channel->pool);
		return n;
	}
	if (!got)
		return -EPIPE;
	n = (int)(got / (ssize_t)sizeof(*records));
	for (i = 0; i < n; i++)
		take_record(channel->pool, &records[i], &messages[i]);
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
