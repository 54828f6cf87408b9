// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * What happens to a buffer that lost its last reference, and how who waits for one
 * learns of it.
 *
 * No wake-up is lost: a waiting thread sets WAITING, then looks at the stacks; a
 * releasing one counts and pushes its buffer, then looks at WAITING. All four are
 * seq_cst, so that at least one of the two sees what the other did.
 */
#include "recycle.h"

#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "context.h"
#include "poison.h"
#include "probe.h"
#include "slab.h"

/* Chain and count of free buffers to where every context finds them. */
void depot_push(struct depot *depot, struct entry *first, struct entry *last, uint32_t n)
{
	stack_reserve(&depot->free, n);
	stack_push(&depot->free, first, last);
}

/*
 * The buffer goes back to the context that took it, if that has room: this keeps
 * memory near the thread that uses it, and most threads off the depots. Tells nobody.
 */
void recycle_quietly(struct entry *entry)
{
	struct depot *depot = entry->slab->depot;
	struct evpl *home = entry->home;
	uint32_t limit = atomic_load_explicit(&home->limit, memory_order_relaxed);

	poison(entry->base, entry->slab->pool->buffer_size);
	if (home->depot == depot && stack_try_reserve(&home->cache, limit))
		stack_push(&home->cache, entry, entry);
	else
		depot_push(depot, entry, entry, 1);
}

void recycle(struct entry *entry)
{
	struct evpl_pool *pool = entry->slab->pool;

	recycle_quietly(entry);
	/* From here the pool may be closed. */
	pool_notify(pool);
}

void pool_wait(struct evpl_pool *pool)
{
	atomic_fetch_or(&pool->waiting, WAITING);
}

/*
 * Makes the eventfd readable. Not by write(2), which is a point of cancellation: no
 * thread may end in here, as pool_settle() waits for it.
 */
void pool_wake(struct evpl_pool *pool)
{
	static const uint64_t one = 1;

	stat_inc(&pool->wakeups);
	PROBE1(wake, pool);
	syscall(SYS_write, pool->eventfd, &one, sizeof(one));
}

/* Something was freed: wakes who waits. */
void pool_notify(struct evpl_pool *pool)
{
	uint32_t old = atomic_load(&pool->waiting);

	while (old & WAITING) {
		if (!atomic_compare_exchange_weak(&pool->waiting, &old,
						  (old & ~WAITING) + NOTIFIER))
			continue;
		pool_wake(pool);
		atomic_fetch_sub(&pool->waiting, NOTIFIER);
		return;
	}
}

/*
 * The pool is being closed: nobody waits any more. Threads that are about to write
 * the eventfd finish first, lest they write to what gets its number next.
 */
void pool_settle(struct evpl_pool *pool)
{
	atomic_fetch_and(&pool->waiting, ~WAITING);
	while (atomic_load(&pool->waiting))
		sched_yield();
}
