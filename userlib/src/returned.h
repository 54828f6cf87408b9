/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_RETURNED_H
#define EVPLMEM_RETURNED_H

/*
 * The returned bitmap, by which the kernel reports that buffers of the pool have come back.
 *
 * If the last reference on a buffer of the pool is held outside this process, the kernel takes
 * the word to zero, and sets the buffer's bit in the returned bitmap. The thread that clears
 * the bit then owns the buffer, as if it had taken the word to zero itself. Threads look at
 * the bitmap when memory is short, and not before.
 */

#include "sharing.h"

void returned_note_sent(struct evpl_pool *pool, uint64_t offset);
int returned_clear(struct evpl_pool *pool);
bool returned_collect(struct evpl_pool *pool);
bool returned_pull(struct evpl_pool *pool, bool want);

/*
 * Buffers were sent. A thread that waits for memory pulled before that. So it hasn't asked the
 * receiver to release these buffers at once.
 */
static inline void returned_pull_if_awaited(struct evpl_pool *pool)
{
	if (__builtin_expect(atomic_load(&pool->waiting) & WAITING, 0))
		returned_pull(pool, true);
}

#endif /* EVPLMEM_RETURNED_H */
