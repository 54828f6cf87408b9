/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_CONTEXT_H
#define EVPLMEM_CONTEXT_H

/*
 * A context: the buffer that a thread cuts slices off, and a cache of free ones.
 *
 * The current buffer has a reference of the context's own, its hold. Buffer and
 * offset are one word, @current, which changes hands as a whole: the owner claims it
 * before it cuts and parks it afterwards; others may rob it, and then drop the hold.
 * So they can take from a thread that sleeps, and from one that ended. A robber that
 * finds the word claimed leaves a mark, and the owner doesn't park.
 *
 * The hold matters to a thread that waits for memory: a release that leaves the hold
 * alone doesn't free the buffer, and wakes nobody. Hence, once a thread has said that it
 * waits, it robs all holds, unless there are too few of them to help; and the context that
 * next takes a buffer to cut slices off wakes it, so that it looks again.
 *
 * A context that one thread goes on allocating from is bound to it: CURRENT_BOUND. Then
 * @current doesn't change hands slice by slice.
 *
 * Any thread pushes to the cache, as it releases. The struct lives as long as the
 * pool, since entries name it; after evpl_destroy() it serves another context of the
 * same node. Until then its generation is 0.
 */

#include "pool.h"

/* What @current says; else it is (index + 1) << 32 | offset. */
#define CURRENT_NONE	0ULL
#define CURRENT_BUSY	1ULL	/* claimed */
#define CURRENT_ROBBED	2ULL	/* claimed, and not to be parked */
#define CURRENT_BOUND	3ULL	/* a thread's, which needs no claim to cut: see bias.h */
#define CURRENT_TAKEN	4ULL	/* being taken from that thread */

/* Buffers that a bound thread counts in. */
#define BIAS_SLOTS	16

/**
 * struct evpl - a context
 * @hot: what programs' inlines know of it: a bound thread's; @thread is NULL if none is
 * @current: see above
 * @slots: the buffers that a bound thread counts in
 * @nr_slots: how many there are
 * @max_slots: and may be
 * @room: buffers that the context may keep from others
 * @next_slot: which one makes room for another
 * @worth: buffers that the last binding has served
 * @patience: how many are to be taken before the next one
 * @backoff: what @patience starts from
 * @taken: who is being unbound; under the lock of bias.c
 * @next_bound: the list of contexts that are bound; as @taken
 * @link_bound: what points to this one there; as @taken
 * @turn: the waiter that it allocates for just now, or NULL: after all that wait
 * @pool: constant
 * @depot: where its buffers come from; constant
 * @next: the pool's list; constant
 * @live: not destroyed; under the pool's lock
 * @destroyed: which one of the pool's contexts to be destroyed it was; as @live
 * @cache: free buffers, all of @depot
 * @limit: how many of them: @room less what @slots have; 0 when it was destroyed
 */
struct evpl {
	alignas(64) struct evplmem_context hot;

	alignas(64) _Atomic uint64_t current;
	struct entry *slots[BIAS_SLOTS];
	uint32_t nr_slots;
	uint32_t max_slots;
	uint32_t room;
	uint32_t next_slot;
	uint32_t worth;
	uint32_t patience;
	uint32_t backoff;
	struct evplmem_thread *taken;
	struct evpl *next_bound;
	struct evpl **link_bound;

	const struct evpl_waiter *turn;
	struct evpl_pool *pool;
	struct depot *depot;
	struct evpl *next;
	bool live;
	uint64_t destroyed;

	/* Releasing threads write here. */
	alignas(64) struct stack cache;
	_Atomic uint32_t limit;
};

_Static_assert(offsetof(struct evpl, hot) == 0, "what programs were compiled with");

/* A current buffer in the hands of its owner; none if @buffer is NULL. */
struct cursor {
	struct entry *buffer;
	uint32_t offset;
};

struct cursor context_claim(struct evpl *evpl);
void context_park(struct evpl *evpl, struct cursor cursor);
void context_park_fresh(struct evpl *evpl, struct cursor cursor);
uint64_t current_word(struct cursor cursor);
void context_hold(struct evpl *evpl, struct entry *buffer);
void context_drop(struct evpl *evpl, struct entry *buffer);
void context_rob_all(struct evpl_pool *pool);
uint64_t context_count_held(struct evpl_pool *pool);
void context_retire(struct entry *buffer);
struct entry *context_steal(struct evpl *evpl);
bool context_only_holds(struct entry *buffer);

static inline struct evpl *pool_contexts(struct evpl_pool *pool)
{
	return atomic_load_explicit(&pool->contexts, memory_order_acquire);
}

static inline struct depot *pool_depots(struct evpl_pool *pool)
{
	return atomic_load_explicit(&pool->depots, memory_order_acquire);
}

/* As pool_is_inherited(), of a context. */
static inline bool context_is_inherited(const struct evpl *evpl)
{
	if (EVPLMEM_CHECKS && !evpl->hot.generation)
		debug_die_of("context", evpl, "used after evpl_destroy()");
	return is_inherited(evpl->hot.generation);
}

/* Whether the context may use buffers of @depot. */
static inline bool context_takes(const struct evpl *evpl, const struct depot *depot)
{
	return evpl->depot == depot || evpl->depot->node == EVPL_ANY_NODE;
}

#endif /* EVPLMEM_CONTEXT_H */
