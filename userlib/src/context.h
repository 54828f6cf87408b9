/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_CONTEXT_H
#define EVPLMEM_CONTEXT_H

/*
 * A context: its current buffer, which it cuts slices off, and a cache of free buffers.
 *
 * The context has one reference on the current buffer, its hold. The buffer and the
 * offset of the next slice are one word, @current, and change hands together. The thread
 * that uses the context claims the word before it cuts a slice, and parks the buffer there
 * afterwards. Any thread may reclaim the buffer: it takes the buffer out of the word, and then
 * drops the hold. So memory can be taken from a thread that sleeps or has exited. A thread
 * that reclaims, and finds the word claimed, sets CURRENT_RECLAIMED. The claiming thread then
 * can't park the buffer, and drops the hold itself.
 *
 * The hold matters to a thread that waits for memory: if a release leaves only the hold,
 * the buffer isn't free, and nobody is woken. So a thread that has set WAITING reclaims
 * the current buffers of all contexts, unless the buffers that contexts keep are too few to help.
 * And a context that then makes another buffer current wakes the waiting thread, which looks again.
 *
 * A context that one thread keeps allocating from is bound to it (CURRENT_BOUND). That
 * thread cuts slices without a claim: see bias.h.
 *
 * Any thread that releases a buffer may push it to the cache. The struct lives as long as
 * the pool, since entries point to it (@home). After evpl_destroy() its generation is 0,
 * until another context of the same node gets the struct.
 */

#include "pool.h"

/* Values of @current. Any other value is a parked buffer: (index + 1) << 32 | offset. */
#define CURRENT_NONE	0ULL	/* no current buffer */
#define CURRENT_BUSY	1ULL	/* claimed */
#define CURRENT_RECLAIMED 2ULL	/* claimed, and the claiming thread must drop the hold */
#define CURRENT_BOUND	3ULL	/* bound to a thread, which cuts slices without a claim */
#define CURRENT_TAKEN	4ULL	/* another thread unbinds it: see bias_unbind() */

/* Buffers that a bound thread counts in. */
#define BIAS_SLOTS	16

/**
 * struct evpl - a context
 * @hot: the part that programs' inlines use while the context is bound; else its @thread is NULL
 * @current: the current buffer, or a CURRENT_* value: see above
 * @slots: the buffers that the bound thread counts in
 * @nr_slots: how many there are
 * @max_slots: how many there may be
 * @cache_max: buffers that the context may keep from others
 * @next_slot: which slot is used again when all are taken
 * @served: how many times the last binding has made a buffer current
 * @rebind_delay: how many calls of bias_bind() are still refused
 * @rebind_backoff: the value that @rebind_delay starts from
 * @taken: the thread that the context is being unbound from; under the lock of bias.c
 * @next_bound: the next one in the list of bound contexts; under the lock of bias.c
 * @link_bound: the pointer to this one in that list; under the lock of bias.c
 * @turn: the waiter whose request is being allocated; NULL: the request comes after all
 *	waiters
 * @pool: constant
 * @depot: where its buffers come from; constant
 * @next: the pool's list; constant
 * @live: not destroyed; under the pool's lock
 * @destroyed: how many of the pool's contexts had been destroyed when this one was, itself
 *	included; under the pool's lock
 * @cache: free buffers, all of @depot
 * @limit: how many the cache may have: @cache_max without the used slots, or without the current
 *	buffer if there are none; 0 once the context was destroyed
 */
struct evpl {
	alignas(64) struct evplmem_context hot;

	alignas(64) _Atomic uint64_t current;
	struct entry *slots[BIAS_SLOTS];
	uint32_t nr_slots;
	uint32_t max_slots;
	uint32_t cache_max;
	uint32_t next_slot;
	uint32_t served;
	uint32_t rebind_delay;
	uint32_t rebind_backoff;
	struct evplmem_thread *taken;
	struct evpl *next_bound;
	struct evpl **link_bound;

	const struct evpl_waiter *turn;
	struct evpl_pool *pool;
	struct depot *depot;
	struct evpl *next;
	bool live;
	uint64_t destroyed;

	/* Releasing threads use the fields that follow, which so have cache lines of their own. */
	alignas(64) struct freelist cache;
	_Atomic uint32_t limit;
};

_Static_assert(offsetof(struct evpl, hot) == 0, "what programs were compiled with");

/* The current buffer of a claimed context, and the offset there; @buffer is NULL if none is. */
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
void contexts_reclaim_current(struct evpl_pool *pool);
uint64_t context_count_held(struct evpl_pool *pool);
void context_seal(struct entry *buffer);
struct entry *context_reclaim_from_peers(struct evpl *evpl);
bool context_only_holds(struct entry *buffer);

static inline struct evpl *pool_contexts(struct evpl_pool *pool)
{
	return atomic_load_explicit(&pool->contexts, memory_order_acquire);
}

static inline struct depot *pool_depots(struct evpl_pool *pool)
{
	return atomic_load_explicit(&pool->depots, memory_order_acquire);
}

/* Whether the context was inherited over fork(2), or is destroyed: see pool_is_inherited(). */
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
