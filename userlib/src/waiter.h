/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_WAITER_H
#define EVPLMEM_WAITER_H

/*
 * Waiters: requests for memory, in one queue of the pool, in the order in which they came.
 *
 * The queue reserves free buffers for its waiters. An allocation takes a free buffer only if
 * enough are left for all waiters; a waiter's own allocation, only if enough are left for the
 * waiters before it. A waiter whose thread doesn't serve it keeps the memory that it asked for
 * from others, and no more.
 *
 * Only the thread of its context puts a waiter in the queue, serves it and takes it out. So
 * callbacks run on that thread alone, and a waiter can't be served while it is cancelled. A
 * release knows nothing of the queue: it writes the eventfd, as for any allocation that failed.
 *
 * The queue is changed under the pool's lock. Other threads read a waiter's request and context
 * under that lock.
 */

#include "context.h"

uint64_t waiters_count(struct evpl *evpl);
bool waiter_is_next(struct evpl *evpl);
void waiters_forget(struct evpl *evpl);

/* alloc.c */
int waiter_try(struct evpl *evpl, const struct evpl_waiter *waiter);

/* Whether there is a waiter. That may change at once, as the caller doesn't have the lock. */
static inline bool pool_has_waiters(const struct evpl_pool *pool)
{
	return __atomic_load_n(&pool->waiters, __ATOMIC_RELAXED);
}

#endif /* EVPLMEM_WAITER_H */
