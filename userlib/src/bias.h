/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_BIAS_H
#define EVPLMEM_BIAS_H

/*
 * The bias: a thread counts references without atomics (evplmem-hot.h says how).
 *
 * A context is bound to the thread that allocates from it. Then its current buffer has
 * a charge of references, which slices are given; and a few buffers that it cut slices
 * off, the current one among them, are its thread's to count in: they are in its slots,
 * and their owner is the thread. All of that is in the buffers' words, so that nobody
 * else has to know: a release elsewhere takes one off the word and doesn't find zero.
 * The thread finds a buffer idle, when it next needs one, if the word is what it has of
 * it; other threads find it so by ending the binding.
 *
 * Anybody may do that, and must to free what a thread keeps so: one that sleeps, or has
 * gone on to something else. It needs nothing of the thread. What was its own is then in
 * the words alone, and the context allocates with atomics until it is bound again. It
 * waits longer for that each time that the binding has brought nothing.
 *
 * A pool that is opened with EVPL_POOL_ATOMIC has none of this: its contexts never are
 * bound, so their slices are counted as those of a context that isn't bound yet.
 *
 * All bindings are made and ended under one lock, so that is rare. Of a context in
 * CURRENT_BOUND whoever changes that, under the lock, has what is below; of one that its
 * thread has claimed, that thread.
 */

#include "context.h"

/*
 * What a thread has of a buffer in the beginning, and a context that cuts slices off it.
 * More than there can be slices, and together less than what a word counts.
 */
#define BIAS_OWN	(1U << 28)
#define BIAS_CHARGE	(1U << 28)

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
void bias_recharge(struct evpl *evpl, struct entry *buffer);
void bias_drop(struct evpl *evpl, struct entry *buffer);
void bias_end(struct entry *buffer);
void bias_stop(struct evpl *evpl, struct entry *buffer);
struct entry *bias_find_idle(struct evpl *evpl, const struct entry *current);
bool bias_seems_idle(struct entry *buffer);
uint32_t bias_count_idle(const struct evpl *evpl);

/* What follows is of a context that the caller has claimed. */

static inline bool bias_is_bound(const struct evpl *evpl)
{
	return evpl->hot.thread;
}

/* References of its current buffer that slices are to get. */
static inline uint32_t bias_charge(const struct evpl *evpl)
{
	return (uint32_t)(evpl->hot.place / EVPLMEM_CHARGE);
}

/* What its thread cuts slices off. */
static inline struct cursor bias_cursor(const struct evpl *evpl)
{
	return (struct cursor){ (struct entry *)evpl->hot.buffer, (uint32_t)evpl->hot.place };
}

/* Whether its thread counts in @buffer. */
static inline bool bias_has(const struct evpl *evpl, struct entry *buffer)
{
	return atomic_load_explicit(&buffer->owner, memory_order_relaxed) == evpl->hot.thread;
}

/* Whether nobody uses one of the thread's buffers, if the context has @charge of it. */
static inline bool bias_is_idle(struct entry *buffer, uint32_t charge)
{
	return atomic_load_explicit(&buffer->word, memory_order_acquire) == buffer->own + charge;
}

#endif /* EVPLMEM_BIAS_H */
