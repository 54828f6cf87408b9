// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * A side of a lane: its doorbells, its setting up, and its end. See lane_internal.h.
 */
#include "lane_internal.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "alloc.h"
#include "cancel.h"
#include "config.h"
#include "record.h"
#include "returned.h"
#include "transfer.h"

/* Guards the lists of all pools' lanes. */
pthread_mutex_t lanes_lock = PTHREAD_MUTEX_INITIALIZER;

/* Rings the peer's doorbell, or this side's own, and quiets the latter. */
void lane_doorbell(struct lane *lane, unsigned int ring, unsigned int quiet, unsigned int flags)
{
	struct evpl_doorbell args = {
		.size = sizeof(args),
		.flags = flags,
		.ring = ring,
		.quiet = quiet,
	};

	/* It can fail if the peer has gone. Then there is nobody to be woken. */
	ioctl(lane->fd, EVPL_DOORBELL, &args);
	atomic_fetch_add_explicit(&lane->doorbells, 1, memory_order_relaxed);
}

/* Wants a doorbell from now on. The caller looks once more for what it waits for. */
void lane_want_doorbell(struct lane *lane, enum lane_want want)
{
	if (!++lane->numbers[want])
		lane->numbers[want] = 1;
	atomic_store(&lane->block->wants[want], lane->numbers[want]);
}

/* Whether poll(2) says this of the end. */
bool lane_end_has(struct lane *lane, short events)
{
	struct pollfd pollfd = { .fd = lane->fd, .events = events };
	NO_CANCELLATION;

	return poll(&pollfd, 1, 0) > 0 && pollfd.revents & events;
}

/* Waits until poll(2) says this of the end. */
int lane_end_wait(struct lane *lane, short events)
{
	struct pollfd pollfd = { .fd = lane->fd, .events = events };
	NO_CANCELLATION;

	return poll(&pollfd, 1, -1) < 0 ? -errno : 0;
}

/* Drops a reference on the lane. */
void lane_put(struct lane *lane)
{
	if (atomic_fetch_sub(&lane->refs, 1) != 1)
		return;
	evplmem_iovec_release(&lane->peer_iovec);
	evplmem_iovec_release(&lane->own);
	free(lane->lent);
	free(lane->grants);
	free(lane);
}

/*
 * Sends the own block: first for the peer to have it, then as the sign that the ring says what comes
 * next. Under @send_lock.
 */
static int send_block(struct lane *lane)
{
	struct evpl_message message = { .cookie = lane->block_sent };
	struct evpl_record record;
	int err;

	evplmem_iovec_clone(&message.iovec, &lane->own);
	err = record_make(lane->pool, &message, &record);
	if (err)
		goto release;
	record.flags |= EVPL_RECORD_LANE;
	transfer_prepare(lane->pool, &message.iovec, record.offset, false);
	if (write(lane->fd, &record, sizeof(record)) < 0) {
		err = -errno;
		goto release;
	}
	returned_note_sent(lane->pool, record.offset);
	return 0;
release:
	evplmem_iovec_release(&message.iovec);
	return err;
}

/*
 * Goes on with the setting up, if the peer's end is a lane's. If @look, it looks for the peer's
 * block; a program that receives finds it anyway. Under @send_lock. It isn't an error if the peer
 * isn't there yet, or if there is no room for a record now: then the next call goes on.
 */
int lane_set_up(struct lane *lane, bool look)
{
	uint64_t ends = ends_now(lane);
	NO_CANCELLATION;
	int err;

	if (!lane->block_sent && ends != lane->tried_ends) {
		err = send_block(lane);
		lane->block_sent = !err;
		/* If the peer's end isn't a lane's, there is nothing to try until an end changes. */
		if (err == -EOPNOTSUPP || err == -EPIPE)
			lane->tried_ends = ends;
	}
	if (!lane->block_sent)
		return 0;
	if (!peer_of(lane) && look) {
		err = recv_look_for_block(lane);
		if (err)
			return err;
	}
	if (!peer_of(lane) || send_block(lane))
		return 0;
	atomic_store(&lane->started, true);
	return 0;
}

/* Wakes the threads that sleep until there is a message, or room. */
static void wake_all(struct lane *lane)
{
	lock_take(&lane->memory_lock);
	if (!lane->closed_fd)
		lane_doorbell(lane, EVPL_DOORBELL_IN | EVPL_DOORBELL_OUT, 0, EVPL_DOORBELL_SELF);
	lock_leave(&lane->memory_lock);
}

/*
 * The lane ends by an error, or because the program closes it. Both locks are taken after @error is
 * set. So a thread that quiets the end has done that before, or sees @error and doesn't sleep.
 */
void lane_stop(struct lane *lane, int error)
{
	atomic_store(&lane->error, error);
	lock_take(&lane->send_lock);
	lane->stopped = true;
	lents_stop(lane);
	lock_leave(&lane->send_lock);
	recv_stop(lane);
	wake_all(lane);
}

int lane_stats(struct lane *lane, struct evpl_lane_stats *stats)
{
	struct evpl_lane_stats now = { .size = stats->size };

	if (stats->size < sizeof(stats->size))
		return -EINVAL;
	lock_take(&lane->send_lock);
	now.sending = lane->started;
	now.grants = lane->nr_lent;
	now.sent = lane->nr_sent;
	now.sent_as_records = lane->nr_records;
	lock_leave(&lane->send_lock);
	lock_take(&lane->recv_lock);
	now.receiving = lane->receiving;
	now.received = lane->nr_received;
	lock_leave(&lane->recv_lock);
	now.doorbells = atomic_load(&lane->doorbells);
	config_copy_out(stats, &now, sizeof(now));
	return 0;
}

/* Makes the own block, in a buffer of its own. */
static int make_block(struct lane *lane)
{
	struct evpl_pool *pool = lane->pool;
	struct lane_block *block;
	struct evpl *evpl;
	int ret;

	ret = evplmem_create(&evpl, pool, NULL);
	if (ret)
		return ret;
	ret = alloc_buffer(evpl, &lane->own);
	evplmem_destroy(evpl);
	if (ret < 0)
		return ret;
	/* The peer sees all of the buffer. */
	block = lane->own.data;
	memset(block, 0, pool->buffer_size);
	block->magic = LANE_MAGIC;
	block->version = LANE_VERSION;
	block->nr_entries = lane->own_mask + 1;
	block->nr_grants = lane->nr_grants;
	lane->block = block;
	lane->own_ring = block->entries;
	/* A program may poll the descriptor before it receives for the first time. */
	if (!(lane->flags & EVPL_CHANNEL_POLLING))
		lane_want_doorbell(lane, LANE_IN);
	lane->counts = lane_counts(block, lane->own_mask + 1);
	return 0;
}

/* How many entries the ring of a block can have: half of a buffer of the pool. */
unsigned int lane_capacity_max(const struct evpl_pool *pool)
{
	size_t n = pool->buffer_size / 2 / sizeof(struct lane_entry);

	return n < EVPL_CHANNEL_CAPACITY_MAX ? (unsigned int)n : EVPL_CHANNEL_CAPACITY_MAX;
}

/**
 * lane_create() - make one side of a lane
 * @r_lane: where it goes
 * @pool: the pool that the end is bound to, with EVPL_BIND_LANE
 * @fd: the end; it stays the caller's until lane_close() is called
 * @capacity: of the channel
 * @flags: EVPL_CHANNEL_*
 *
 * Return: 0, or -errno.
 */
int lane_create(struct lane **r_lane, struct evpl_pool *pool, int fd, unsigned int capacity,
		unsigned int flags)
{
	struct sharing *sharing = pool_sharing(pool);
	size_t quarter = pool->buffer_size / 4 / sizeof(uint32_t);
	struct lane *lane;
	int err = -ENOMEM;
	uint32_t i;

	lane = aligned_alloc(alignof(struct lane), sizeof(*lane));
	if (!lane)
		return -ENOMEM;
	*lane = (struct lane){
		.pool = pool,
		.fd = fd,
		.flags = flags,
		.capacity = capacity,
		.buffer_size = pool->buffer_size,
		.header = sharing->header,
		.own_mask = 1,
		.nr_grants = quarter < LANE_GRANTS_MAX ? (uint32_t)quarter : LANE_GRANTS_MAX,
		.refs = 1,
		.tried_ends = UINT64_MAX,
		.ends = UINT64_MAX,
		.recv_ends = UINT64_MAX,
	};
	if (lane->capacity > lane_capacity_max(pool))
		lane->capacity = lane_capacity_max(pool);
	while (lane->own_mask + 1 < lane->capacity)
		lane->own_mask += lane->own_mask + 1;
	lane->lent = calloc(LANE_GRANTS_MAX, sizeof(*lane->lent));
	lane->grants = calloc(lane->nr_grants, sizeof(struct grant *));
	for (i = 0; lane->lent && i < LANE_GRANTS_MAX; i++)
		lane->lent[i].number = i;
	if (lane->lent && lane->grants)
		err = make_block(lane);
	if (err) {
		lane_put(lane);
		return err;
	}
	pthread_mutex_lock(&lanes_lock);
	lane->next = sharing->lanes;
	lane->link = &sharing->lanes;
	if (lane->next)
		lane->next->link = &lane->next;
	__atomic_store_n(&sharing->lanes, lane, __ATOMIC_RELAXED);
	pthread_mutex_unlock(&lanes_lock);

	/* If the peer is there already, it need not wait for the first message. */
	lock_take(&lane->send_lock);
	lane_set_up(lane, false);
	lock_leave(&lane->send_lock);
	*r_lane = lane;
	return 0;
}

/* Ends this side of a lane. Iovecs that came by it stay valid. The caller then closes the end. */
void lane_close(struct lane *lane)
{
	pthread_mutex_lock(&lanes_lock);
	__atomic_store_n(lane->link, lane->next, __ATOMIC_RELAXED);
	if (lane->next)
		lane->next->link = lane->link;
	pthread_mutex_unlock(&lanes_lock);
	lock_take(&lane->memory_lock);
	lane->closed_fd = true;
	lock_leave(&lane->memory_lock);
	lane_stop(lane, -EPIPE);
	lane_put(lane);
}

/* In the child of fork(2): another thread of the parent may have had the lock. */
void lanes_forget(void)
{
	pthread_mutex_init(&lanes_lock, NULL);
}
