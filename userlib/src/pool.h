/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_POOL_H
#define EVPLMEM_POOL_H

/*
 * A pool: its slabs, and their free buffers that no context keeps.
 *
 * Every buffer is in exactly one of these states:
 *  - Its word is above zero: it has references. A context's hold on its current buffer is
 *    one.
 *  - Its word is zero, and it is on one free list: a depot's, or a context's cache.
 *  - Its word is zero, and one thread has it in hand: between the other two states, or
 *    until a new slab is published.
 * In the last two states WORD_FREE and EVPL_WORD_SHARED may stand for zero: see entry.h.
 *
 * Allocation takes the lock only if no buffer is free, or while there are waiters. Release
 * takes it only for a lease that has registrations. No callback runs under the lock.
 *
 * The struct outlives the pool: it goes on a list, and the next pool gets it. A releasing
 * thread pushes its buffer to a free list, and then looks at @waiting. Between the two another
 * thread may find all buffers free and close the pool, so @waiting must still exist.
 */

#include <pthread.h>

#include "backend.h"
#include "debug.h"
#include "device.h"
#include "fork.h"
#include "freelist.h"
#include "root.h"

/**
 * struct depot - free buffers of one NUMA node
 * @free: the buffers
 * @node: the node, or EVPL_ANY_NODE
 * @bytes: the bytes of its slabs that aren't SLAB_DYING; under the pool's lock
 * @preallocated: bytes that evpl_pool_preallocate() asked for, which a trim leaves; under the
 *	pool's lock
 * @next: the next depot; a depot stays until the pool is closed
 */
struct depot {
	alignas(64) struct freelist free;
	int node;
	uint64_t bytes;
	uint64_t preallocated;
	struct depot *next;
};

struct lease_regs;
struct sharing;

/* In pool->waiting, a flag: an allocation failed, and no buffer or slab was freed since. */
#define WAITING		1U
/* In pool->waiting, a flag: the room is below a mark, so releases look at the marks: see pressure.h. */
#define SHORT		2U
/* In pool->waiting, a count in steps of this: threads that use the pool after a release. */
#define NOTIFIER	4U

/**
 * struct pressure - the marks of a pool, and what is known of its room: see pressure.h
 * @low: the low mark, in bytes
 * @high: the high mark; 0: the program watches nothing
 * @growth: the bytes by which the pool could grow, when that was computed last
 * @watched: @growth is below @high
 * @told: the level that the program knows of
 * @notified: the eventfd was written since the program asked for the level
 * @cap: what leaves so little growth; under the pool's lock, like all fields that follow
 * @stuck: the pool couldn't grow although the caps left room, and hasn't changed since
 */
struct pressure {
	_Atomic uint64_t low;
	_Atomic uint64_t high;
	_Atomic uint64_t growth;
	atomic_bool watched;
	atomic_uint told;
	atomic_bool notified;
	unsigned int cap;
	bool stuck;
};

/**
 * struct evpl_pool - a pool
 * @waiting: WAITING, SHORT, and a count of NOTIFIERs
 * @lease_puts: threads in lease_put(), which leases_drain() waits for
 * @eventfd: written when WAITING is cleared; not closed while @waiting counts NOTIFIERs
 * @lock: guards the fields below that say so, and the state of slabs and devices
 * @calls_done: signalled when a device's callback has returned
 * @next_closed: the list of closed pools
 *
 * Constant while the pool is open:
 * @generation: the generation (fork.h) of the process that opened it; 0 once it is closed; not
 *	quite that if the process is traced (sites.h)
 * @number: its number among the pools of a process that is traced, from 1
 * @backing: where memory comes from
 * @buffer_size: bytes of a buffer
 * @slab_min: slabs are multiples of this long
 * @slab_max: the longest slab that is asked for
 * @max_bytes: the most bytes that all slabs may have together, a multiple of @slab_min
 * @huge: slabs must consist of folios of 2 MiB
 * @zeros: a touch of a revoked lease finds zeros
 * @atomic: no context is bound to a thread (bias.h)
 *
 * @depots: push-only list; the first has EVPL_ANY_NODE
 * @contexts: push-only list; see context.h
 * @sharing: made once, under @lock; see sharing.h, windows.h
 *
 * Under @lock:
 * @live: contexts that weren't destroyed
 * @destroyed: how many contexts were ever destroyed
 * @slabs: all slabs, including those that are SLAB_DYING
 * @slabs_end: where the next slab is linked
 * @slab_next: how long the next slab is to be
 * @slab_ids: which IDs slabs have, and which ones devices must still let go of
 * @devices: the devices that are attached, by slot
 * @lease_regs: the registrations of leased buffers with devices
 *
 * Written under @lock, read without:
 * @waiters: the queue of requests that wait for memory in turn; see waiter.h
 * @bytes: the bytes of all slabs that aren't SLAB_DYING; the pool may grow in place of these
 * @shrinks: slabs given back
 *
 * @failures: allocations that failed with -ENOMEM; see give_back()
 * @counting: threads that have set WAITING and have yet to count their failure; see give_back()
 *
 * @pressure: see pressure.h
 *
 * For statistics:
 * @grows: slabs taken
 * @steals: buffers taken from other contexts
 * @wakeups: writes to @eventfd
 *
 * @roots: has a lock of its own, which is taken alone
 */
struct evpl_pool {
	alignas(64) _Atomic uint32_t waiting;
	int eventfd;
	pthread_mutex_t lock;
	pthread_cond_t calls_done;
	struct evpl_pool *next_closed;

	uint32_t generation;
	uint32_t number;
	struct backing backing;
	size_t buffer_size;
	size_t slab_min;
	size_t slab_max;
	uint64_t max_bytes;
	bool huge;
	bool zeros;
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
	struct slab_ids slab_ids;
	struct evpl_device *devices[EVPL_DEVICES_MAX];
	struct lease_regs *lease_regs;

	/* Releasing threads read the fields above and write this one, so it has its own line. */
	alignas(64) _Atomic uint32_t lease_puts;

	alignas(64) _Atomic uint64_t bytes;
	_Atomic uint64_t shrinks;
	_Atomic uint64_t grows;
	_Atomic uint64_t steals;
	_Atomic uint64_t failures;
	_Atomic uint32_t counting;
	_Atomic uint64_t wakeups;

	struct roots roots;
	struct pressure pressure;
};

struct depot *pool_depot(struct evpl_pool *pool, int node);

void closed_pools_forget(void);

/*
 * Whether the pool was inherited over fork(2), or is closed. Then nothing may be done to it. A
 * closed pool's generation is 0, which no process has.
 */
static inline bool pool_is_inherited(const struct evpl_pool *pool)
{
	if (EVPLMEM_CHECKS && !pool->generation)
		debug_die_of("pool", pool, "used after evpl_pool_close()");
	return is_inherited(pool->generation);
}

/*
 * How many bytes the pool may still take. It may have more than max_bytes: slab_doom() makes room,
 * and the kernel may then refuse to free the slab.
 */
static inline uint64_t pool_room(const struct evpl_pool *pool)
{
	uint64_t bytes = atomic_load_explicit(&pool->bytes, memory_order_relaxed);

	return bytes < pool->max_bytes ? pool->max_bytes - bytes : 0;
}

static inline void pool_lock(struct evpl_pool *pool)
{
	pthread_mutex_lock(&pool->lock);
}

static inline void pool_unlock(struct evpl_pool *pool)
{
	pthread_mutex_unlock(&pool->lock);
}

/* Counts an event for statistics, off the hot path. */
static inline void stat_inc(_Atomic uint64_t *stat)
{
	atomic_fetch_add_explicit(stat, 1, memory_order_relaxed);
}

#endif /* EVPLMEM_POOL_H */
