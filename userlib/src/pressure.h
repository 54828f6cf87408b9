/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_PRESSURE_H
#define EVPLMEM_PRESSURE_H

/*
 * How much memory a pool could still give, and its two marks (evpl_pool_watch()).
 *
 * The *room* is the bytes of the free buffers, and the *growth*: the bytes by which the pool could
 * still grow. Each cap leaves some growth, and the least counts. The library computes the growth
 * when the pool grows, shrinks or fails to grow, and when the program asks for it. It can't know
 * when other processes take memory meanwhile.
 *
 * While the growth is above the high mark, so is the room, and nothing else is looked at. Otherwise
 * the pool is @watched: each allocation that takes buffers looks at the marks afterwards. If the
 * room is below one of them, SHORT is set in pool->waiting, and each release that frees a buffer
 * looks as well. No context is bound to a thread meanwhile (bias.h), since a bound thread may
 * release its slices without freeing the buffer.
 */

#include "pool.h"

void pressure_update(struct evpl_pool *pool);
void pressure_failed(struct evpl_pool *pool);
bool pressure_shrunk(struct evpl_pool *pool);
void pressure_shrunk_end(struct evpl_pool *pool);
void pressure_taken(struct evpl_pool *pool);
void pressure_freed(struct evpl_pool *pool);
void pressure_end(struct evpl_pool *pool);

/* The caller has allocated from the pool, or given buffers back, and has no context claimed. */
static inline void pressure_look(struct evpl_pool *pool)
{
	if (__builtin_expect(atomic_load_explicit(&pool->pressure.watched, memory_order_relaxed), 0))
		pressure_taken(pool);
}

#endif /* EVPLMEM_PRESSURE_H */
