/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_POOL_H
#define EVPLMEM_POOL_H

/*
 * A pool: slabs, and the free buffers of them that no context keeps.
 *
 * Every buffer is in exactly one of these states:
 *  - its word is above zero, and references are somewhere; a context's hold on the
 *    buffer that it cuts slices off is one;
 *  - its word is zero, and it is on one stack: a depot's or a context's cache;
 *  - its word is zero, and one thread has it in hand, between two of the above, or
 *    before a new slab is published.
 *
 * Nothing that allocation and release do takes a lock, but for taking a slab. The
 * lock is never held over a call-back of a device.
 *
 * The struct outlives the pool: a closed pool's goes on a list for the next one. A
 * release is over for everybody else once its buffer is on a stack; so the pool can
 * be closed before the releasing thread has looked at @waiting, which it does last.
 */

#include <pthread.h>

#include "backend.h"
#include "debug.h"
#include "device.h"
#include "fork.h"
#include "stack.h"

/**
 * struct depot - free buffers of one NUMA node
 * @free: the buffers
 * @node: the node, or EVPL_ANY_NODE
 * @bytes: of its slabs that aren't about to go; under the pool's lock
 * @floor: what was preallocated: a trim leaves as much; under the pool's lock
 * @next: another depot; they come and never go before the pool
 */
struct depot {
	alignas(64) struct stack free;
	int node;
	uint64_t bytes;
	uint64_t floor;
	struct depot *next;
};

struct guest;
struct sharing;

/* Of pool->waiting: an allocation failed, and nothing was freed since. */
#define WAITING		1U
/* One of the threads that write the eventfd. */
#define NOTIFIER	2U

/**
 * struct evpl_pool - a pool
 * @waiting: WAITING, and a count of NOTIFIERs
 * @letting_go: threads that are about to take a reference off a lease, or have
 * @eventfd: written when @waiting had WAITING; open while NOTIFIERs are there
 * @lock: guards what follows it, and the state of slabs and devices
 * @calls_done: a call-back of a device has returned
 * @next_closed: the list of closed pools
 *
 * Constant while the pool is open:
 * @generation: the process that opened it; 0 of one that is closed
 * @backing: where memory comes from
 * @buffer_size: bytes of a buffer
 * @slab_min: slabs are multiples of this
 * @slab_max: and not longer than that
 * @max_bytes: and not more than that together, a multiple of @slab_min
 * @huge: only 2 MiB folios will do
 * @atomic: no context is bound to a thread (bias.h)
 *
 * @depots: push-only list; the first has EVPL_ANY_NODE
 * @contexts: push-only list; see context.h
 * @sharing: made once, under @lock; see sharing.h
 *
 * Under @lock:
 * @live: contexts that weren't destroyed
 * @destroyed: how many contexts ever were
 * @slabs: all slabs, those that are about to go included
 * @slabs_end: where the next one is linked
 * @slab_next: how long the next slab is to be
 * @numbers: which numbers slabs have, and which are awaited
 * @devices: what is attached
 * @guests: leased buffers that devices have registered, or had
 *
 * Written under @lock, read without:
 * @waiters: the queue of those that wait for memory in turn; see waiter.h
 * @bytes: of all slabs but those that are about to go: these are room to grow in
 * @shrinks: slabs given back
 *
 * @failures: allocations that failed with -ENOMEM; see give_back()
 *
 * For statistics:
 * @grows: slabs taken
 * @steals: buffers taken from other contexts
 * @wakeups: writes to @eventfd
 */
struct evpl_pool {
	alignas(64) _Atomic uint32_t waiting;
	int eventfd;
	pthread_mutex_t lock;
	pthread_cond_t calls_done;
	struct evpl_pool *next_closed;

	uint32_t generation;
	struct backing backing;
	size_t buffer_size;
	size_t slab_min;
	size_t slab_max;
	uint64_t max_bytes;
	bool huge;
	bool atomic;

	struct depot *_Atomic depots;
	struct evpl *_Atomic contexts;
	struct sharing *_Atomic sharing;
	struct evpl_waiter *waiters;

	unsigned int live;
	uint64_t destroyed;
	struct slab *slabs;
	struct slab **slabs_end;
	size_t slab_next;
	struct numbers numbers;
	struct evpl_device *devices[EVPL_DEVICES_MAX];
	struct guest *guests;

	/* Releasing threads read what is above, and write this. */
	alignas(64) _Atomic uint32_t letting_go;

	alignas(64) _Atomic uint64_t bytes;
	_Atomic uint64_t shrinks;
	_Atomic uint64_t grows;
	_Atomic uint64_t steals;
	_Atomic uint64_t failures;
	_Atomic uint64_t wakeups;
};

struct depot *pool_depot(struct evpl_pool *pool, int node);

void closed_pools_forget(void);

/*
 * Whether it is the parent's of this process: then nothing may be done to it. The same goes
 * for one that is closed, which has no process's generation.
 */
static inline bool pool_is_inherited(const struct evpl_pool *pool)
{
	if (EVPLMEM_CHECKS && !pool->generation)
		debug_die_of("pool", pool, "used after evpl_pool_close()");
	return is_inherited(pool->generation);
}

static inline void pool_lock(struct evpl_pool *pool)
{
	pthread_mutex_lock(&pool->lock);
}

static inline void pool_unlock(struct evpl_pool *pool)
{
	pthread_mutex_unlock(&pool->lock);
}

/* For statistics, and off the hot path. */
static inline void stat_inc(_Atomic uint64_t *stat)
{
	atomic_fetch_add_explicit(stat, 1, memory_order_relaxed);
}

#endif /* EVPLMEM_POOL_H */
