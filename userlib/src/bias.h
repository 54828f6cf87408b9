/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_BIAS_H
#define EVPLMEM_BIAS_H

/*
 * Biased reference counts: a thread counts references without atomics. The fast paths, and
 * the protocol by which another thread ends this, are in evplmem-hot.h.
 *
 * A context is bound to the thread that allocates from it. While it is bound
 *  - the current buffer has a credit: references for the slices that are cut off it;
 *  - the thread counts in a few buffers that the context cut slices off, the current one
 *    among them. They are in the context's @slots, their @owner is the thread, and @spare
 *    counts the references that the thread has of each.
 *
 * The buffers' words count @spare and the credit too. So other threads need not know of the
 * bias: their release decrements the word, and doesn't take it to zero. When the bound
 * thread next needs a buffer, it finds one idle if the word equals @spare plus the credit.
 * Another thread finds out only by ending the binding.
 *
 * Any thread may end a binding, and a thread that is short of memory must: the bound thread
 * may sleep, or never allocate again. It needn't take part. Afterwards the words alone count,
 * and the context allocates with atomics until it is bound again. After each binding that
 * has served few buffers, that takes longer.
 *
 * The contexts of a pool that is opened with EVPL_POOL_ATOMIC are never bound.
 *
 * Bindings are made and ended under one lock for all pools, so this must be rare. The fields
 * that describe a binding belong to the thread that has claimed the context (CURRENT_BUSY),
 * or to the one that unbinds it (CURRENT_TAKEN).
 */

#include "context.h"

/*
 * The first values of a buffer's @spare and of its credit. Each is more than the slices that a
 * buffer can have, and both together are less than a word can count.
 */
#define BIAS_SPARE	(1U << 28)
#define BIAS_CREDIT	(1U << 28)

void bias_set_up(void);
void bias_forget(void);

bool bias_bind(struct evpl *evpl);
void bias_unbind(struct evpl *evpl);
void bias_unbind_all(struct evpl_pool *pool);
void bias_give_up(struct evpl *evpl, struct entry *current);
void bias_wait(void);
void bias_pause(int tries);

void bias_hold(struct evpl *evpl, struct entry *buffer);
void bias_hold_idle(struct evpl *evpl, struct entry *buffer);
void bias_refill_credit(struct evpl *evpl, struct entry *buffer);
void bias_drop(struct evpl *evpl, struct entry *buffer);
void bias_end(struct entry *buffer);
void bias_stop(struct evpl *evpl, struct entry *buffer);
struct entry *bias_find_idle(struct evpl *evpl, const struct entry *current);
bool bias_seems_idle(struct entry *buffer);
uint32_t bias_count_idle(const struct evpl *evpl);

/* The caller of these has claimed the context, or is unbinding it. */

static inline bool bias_is_bound(const struct evpl *evpl)
{
	return evpl->hot.thread;
}

/* References on the current buffer that are left for slices. */
static inline uint32_t bias_credit(const struct evpl *evpl)
{
	return (uint32_t)(evpl->hot.place / EVPLMEM_CREDIT);
}

/* The current buffer of a bound context, and the offset of the next slice. */
static inline struct cursor bias_cursor(const struct evpl *evpl)
{
	return (struct cursor){ (struct entry *)evpl->hot.buffer, (uint32_t)evpl->hot.place };
}

/* Whether the thread that the context is bound to counts in @buffer. */
static inline bool bias_has(const struct evpl *evpl, struct entry *buffer)
{
	return atomic_load_explicit(&buffer->owner, memory_order_relaxed) == evpl->hot.thread;
}

/*
 * Whether nobody uses @buffer, which the thread counts in. @credit is the credit if the buffer
 * is current, else 0. Acquire pairs with the release in entry_drop(): other threads' accesses by
 * references that they have dropped are over.
 */
static inline bool bias_is_idle(struct entry *buffer, uint32_t credit)
{
	return entry_has_only(buffer, atomic_load_explicit(&buffer->word, memory_order_acquire),
			      buffer->spare + credit);
}

#endif /* EVPLMEM_BIAS_H */
