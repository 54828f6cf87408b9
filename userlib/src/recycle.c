// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Where a buffer goes when it has lost its last reference, and how a thread that waits
 * for one is woken.
 *
 * No wake-up is lost. The waiting thread sets WAITING, then looks at the free lists. The
 * releasing thread counts and pushes its buffer, then looks at WAITING. All four accesses
 * are seq_cst. So the waiting thread finds the buffer, or the releasing thread sees WAITING.
 */
#include "recycle.h"

#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "context.h"
#include "poison.h"
#include "pressure.h"
#include "probe.h"
#include "slab.h"

/*
 * The caller has dropped the last reference on a buffer of which the kernel has a share. Returns
 * whether the caller owns the buffer now. It doesn't if the buffer is sealed: the kernel reports
 * such a buffer when the share is gone. It doesn't if the share is gone already either, or if
 * another thread has taken the buffer meanwhile.
 *
 * Once WORD_FREE is set the buffer is the caller's, so @sealed is checked once more: the first check
 * may have been of an earlier use of the buffer.
 */
bool entry_free_shared(struct entry *entry)
{
	uint64_t word = EVPL_WORD_SHARED;

	if (atomic_load(&entry->sealed) ||
	    !atomic_compare_exchange_strong(&entry->word, &word, WORD_FREE | EVPL_WORD_SHARED))
		return false;
	if (!atomic_load(&entry->sealed))
		return true;
	/* If the share has gone meanwhile, the kernel has reported nothing. */
	return atomic_fetch_sub(&entry->word, WORD_FREE) == WORD_FREE;
}

/* Pushes a chain of @n free buffers to a depot, where every context finds them. */
void depot_push(struct depot *depot, struct entry *first, struct entry *last, uint32_t n)
{
	freelist_reserve(&depot->free, n);
	freelist_push(&depot->free, first, last);
}

/*
 * Puts a free buffer into the cache of the context that took it, or into its depot if the
 * cache is full. So memory stays near the thread that uses it, and few threads contend for
 * a depot. Wakes nobody.
 */
void recycle_quietly(struct entry *entry)
{
	struct depot *depot = entry->slab->depot;
	struct evpl *home = entry->home;
	uint32_t limit = atomic_load_explicit(&home->limit, memory_order_relaxed);

	poison(entry->base, entry->slab->pool->buffer_size);
	if (home->depot == depot && freelist_try_reserve(&home->cache, limit))
		freelist_push(&home->cache, entry, entry);
	else
		depot_push(depot, entry, entry, 1);
}

void recycle(struct entry *entry)
{
	struct evpl_pool *pool = entry->slab->pool;

	recycle_quietly(entry);
	/* From here on another thread may close the pool, but its struct stays (pool.h). */
	pool_notify(pool);
}

void pool_wait(struct evpl_pool *pool)
{
	atomic_fetch_or(&pool->waiting, WAITING);
}

/*
 * Makes the eventfd readable. write(2) would be a cancellation point, and pool_drain_notifiers()
 * would wait for ever for a thread that was cancelled here. syscall(2) isn't one.
 */
void pool_wake(struct evpl_pool *pool)
{
	static const uint64_t one = 1;

	stat_inc(&pool->wakeups);
	PROBE1(wake, pool);
	syscall(SYS_write, pool->eventfd, &one, sizeof(one));
}

/*
 * A buffer or a slab was freed: wakes the threads that wait, and looks at the marks if the room is
 * below one of them. One exchange clears WAITING and counts this thread as a NOTIFIER, so
 * pool_drain_notifiers() can't miss a thread that is about to write, or uses the pool otherwise.
 */
void pool_notify(struct evpl_pool *pool)
{
	uint32_t old = atomic_load(&pool->waiting);

	while (old & (WAITING | SHORT)) {
		if (!atomic_compare_exchange_weak(&pool->waiting, &old,
						  (old & ~WAITING) + NOTIFIER))
			continue;
		if (old & WAITING)
			pool_wake(pool);
		if (old & SHORT)
			pressure_freed(pool);
		atomic_fetch_sub(&pool->waiting, NOTIFIER);
		return;
	}
}

/*
 * The pool is being closed: clears WAITING and SHORT, then waits for the threads that are about to
 * write the eventfd, or look at the marks. A later write could go to another file that has got the
 * descriptor's number. One of these threads may set SHORT once more, so it is cleared until none of
 * them is left.
 */
void pool_drain_notifiers(struct evpl_pool *pool)
{
	while (atomic_fetch_and(&pool->waiting, ~(WAITING | SHORT)) >= NOTIFIER)
		sched_yield();
}
