/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_WAITER_H
#define EVPLMEM_WAITER_H

/*
 * Waiters: requests that stand in one queue of the pool, in the order in which they came.
 *
 * The queue keeps free buffers for those that stand in it: an allocation takes one only if
 * enough are left for all waiters, and a waiter's own only if enough are left for those
 * before it. A waiter whose thread doesn't come keeps from others what it asked for, and no
 * more.
 *
 * Only the thread of its context puts a waiter in the queue, serves it and takes it out. So
 * nobody else calls back, and a waiter can't be served while it is cancelled. A release knows
 * nothing of the queue: it writes the eventfd as for any allocation that failed.
 *
 * The queue is written under the pool's lock. Other threads read of a waiter, under that lock,
 * what it waits for and whose it is.
 */

#include "context.h"

uint64_t waiters_count(struct evpl *evpl);
bool waiter_is_next(struct evpl *evpl);
void waiters_forget(struct evpl *evpl);

/* alloc.c */
int waiter_try(struct evpl *evpl, const struct evpl_waiter *waiter);

/* Whether there is one, at some moment. */
static inline bool pool_has_waiters(const struct evpl_pool *pool)
{
	return __atomic_load_n(&pool->waiters, __ATOMIC_RELAXED);
}

#endif /* EVPLMEM_WAITER_H */
