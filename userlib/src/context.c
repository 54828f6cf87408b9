// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Contexts: see context.h.
 */
#include "context.h"

#include <errno.h>
#include <stdlib.h>

#include "config.h"
#include "node.h"
#include "recycle.h"
#include "slab.h"
#include "trim.h"

#define DEFAULT_CACHE (8UL << 20)

static uint64_t current_word(struct cursor cursor)
{
	return (uint64_t)(cursor.buffer->index + 1) << 32 | cursor.offset;
}

static struct cursor current_cursor(struct evpl_pool *pool, uint64_t word)
{
	struct cursor cursor = { .buffer = NULL };

	if (word >> 32) {
		cursor.buffer = pool->backing.entries + (word >> 32) - 1;
		cursor.offset = (uint32_t)word;
	}
	return cursor;
}

/* The reference that the caller has is the context's from here. */
void context_hold(struct entry *buffer)
{
	entry_set_held(buffer, true);
}

/* And here it ends. */
void context_drop(struct entry *buffer)
{
	entry_set_held(buffer, false);
	if (entry_put(buffer, CALLER()))
		recycle(buffer);
}

/*
 * The owner takes its current buffer, with the hold, to cut slices off it. Nothing
 * that may call back or wait comes before context_park().
 */
struct cursor context_claim(struct evpl *evpl)
{
	return current_cursor(evpl->pool, atomic_exchange(&evpl->current, CURRENT_BUSY));
}

/*
 * The owner gives it, or another one, back. @fresh: the buffer wasn't current before,
 * so nobody who waits has had a chance to rob it. Either the robber came first, and
 * then its WAITING is seen here, since the claim was later; or it found the context
 * busy and marked it, or will rob what is parked here.
 */
void context_park(struct evpl *evpl, struct cursor cursor, bool fresh)
{
	uint64_t expected = CURRENT_BUSY, word = CURRENT_NONE;

	if (cursor.buffer && !(fresh && atomic_load(&evpl->pool->waiting) & WAITING))
		word = current_word(cursor);
	if (atomic_compare_exchange_strong(&evpl->current, &expected, word)) {
		if (cursor.buffer && !word)
			context_drop(cursor.buffer);
		return;
	}
	/* Robbed. Only the owner leaves this state. */
	atomic_store(&evpl->current, CURRENT_NONE);
	if (cursor.buffer)
		context_drop(cursor.buffer);
}

/* Takes the current buffer, with the hold, from whichever context has it. */
static struct entry *context_rob(struct evpl *victim)
{
	uint64_t word = atomic_load(&victim->current);
	uint64_t robbed;

	do {
		if (word == CURRENT_NONE || word == CURRENT_ROBBED)
			return NULL;
		robbed = word == CURRENT_BUSY ? CURRENT_ROBBED : CURRENT_NONE;
	} while (!atomic_compare_exchange_weak(&victim->current, &word, robbed));
	return current_cursor(victim->pool, word).buffer;
}

/*
 * Ends all holds. The rest of those buffers can't be used before their slices are
 * released: so this is for when there is no other memory.
 */
void context_rob_all(struct evpl_pool *pool)
{
	struct evpl *victim;
	struct entry *buffer;

	for (victim = pool_contexts(pool); victim; victim = victim->next) {
		buffer = context_rob(victim);
		if (buffer)
			context_drop(buffer);
	}
}

/*
 * Nothing more is cut off a buffer that the caller has a reference on. Only the
 * context that took it may do so. If that is cutting just now, off whichever buffer,
 * it doesn't park.
 */
void context_retire(struct entry *buffer)
{
	struct evpl *home = buffer->home;
	uint64_t word = atomic_load(&home->current);
	uint64_t robbed;

	do {
		if (word != CURRENT_BUSY && current_cursor(home->pool, word).buffer != buffer)
			return;
		robbed = word == CURRENT_BUSY ? CURRENT_ROBBED : CURRENT_NONE;
	} while (!atomic_compare_exchange_weak(&home->current, &word, robbed));
	if (robbed == CURRENT_NONE)
		context_drop(buffer);
}

/* Robs a context only if nothing but its hold is on the buffer. */
static struct entry *context_rob_alone(struct evpl *victim)
{
	uint64_t word = atomic_load(&victim->current);
	struct entry *buffer = current_cursor(victim->pool, word).buffer;

	if (!buffer || !entry_alone(buffer))
		return NULL;
	if (!atomic_compare_exchange_strong(&victim->current, &word, CURRENT_NONE))
		return NULL;
	/* The owner may have cut something off it just before. */
	entry_set_held(buffer, false);
	return entry_put(buffer, CALLER()) ? buffer : NULL;
}

/*
 * A buffer that other contexts keep, or that is another node's where @evpl doesn't
 * care. One at a time and straight into the thief's use: a buffer in transit is one
 * that another thief doesn't find.
 */
struct entry *context_steal(struct evpl *evpl)
{
	struct evpl_pool *pool = evpl->pool;
	struct entry *entries = pool->backing.entries;
	struct entry *buffer;
	struct evpl *victim;
	struct depot *depot;

	for (depot = pool_depots(pool); depot; depot = depot->next) {
		if (!context_takes(evpl, depot))
			continue;
		buffer = stack_pop(&depot->free, entries);
		if (buffer)
			return buffer;
	}
	for (victim = pool_contexts(pool); victim; victim = victim->next) {
		if (!context_takes(evpl, victim->depot))
			continue;
		buffer = stack_pop(&victim->cache, entries);
		if (!buffer) {
			buffer = context_rob_alone(victim);
			if (!buffer)
				continue;
			if (!context_takes(evpl, buffer->slab->depot)) {
				recycle(buffer);
				continue;
			}
		}
		stat_inc(&pool->steals);
		return buffer;
	}
	return NULL;
}

static struct evpl *context_find(struct evpl_pool *pool, struct depot *depot)
{
	struct evpl *evpl;

	for (evpl = pool_contexts(pool); evpl; evpl = evpl->next)
		if (!evpl->live && evpl->depot == depot)
			return evpl;

	evpl = aligned_alloc(alignof(struct evpl), sizeof(*evpl));
	if (!evpl)
		return NULL;
	*evpl = (struct evpl){
		.pool = pool,
		.depot = depot,
		.next = pool_contexts(pool),
	};
	atomic_store_explicit(&pool->contexts, evpl, memory_order_release);
	return evpl;
}

int evplmem_create(struct evpl **r_evpl, struct evpl_pool *pool, const struct evpl_config *config)
{
	struct evpl_config cfg = { .size = sizeof(cfg) };
	struct depot *depot;
	struct evpl *evpl = NULL;
	int err, node = EVPL_ANY_NODE;
	size_t limit;

	if (pool_is_inherited(pool))
		return -EPERM;
	err = config_copy(&cfg, sizeof(cfg), config);
	if (err)
		return err;
	if (cfg.flags & ~EVPL_CONFIG_NODE)
		return -EOPNOTSUPP;
	if (cfg.flags & EVPL_CONFIG_NODE)
		node = cfg.node;
	else if (cfg.node)
		return -EINVAL;
	if (node != EVPL_ANY_NODE && !node_exists(node))
		return -EINVAL;

	/* The current buffer is one of those that are kept from others. */
	limit = (cfg.cache ? cfg.cache : DEFAULT_CACHE) / pool->buffer_size;
	if (limit < 2)
		limit = 2;
	if (limit > UINT32_MAX / 2)
		limit = UINT32_MAX / 2;

	pool_lock(pool);
	depot = pool_depot(pool, node);
	if (depot)
		evpl = context_find(pool, depot);
	if (evpl) {
		evpl->live = true;
		pool->live++;
		atomic_store_explicit(&evpl->limit, (uint32_t)limit - 1, memory_order_relaxed);
	}
	pool_unlock(pool);
	if (!evpl)
		return -ENOMEM;
	*r_evpl = evpl;
	return 0;
}

void evplmem_destroy(struct evpl *evpl)
{
	struct evpl_pool *pool;
	struct cursor cursor;

	if (!evpl || pool_is_inherited(evpl->pool))
		return;
	pool = evpl->pool;

	cursor = context_claim(evpl);
	context_park(evpl, (struct cursor){ .buffer = NULL }, false);
	if (cursor.buffer)
		context_drop(cursor.buffer);

	/*
	 * A release that saw the old limit may still push to the cache. That is found
	 * by who steals, by a trim, or by the next context that gets this struct.
	 */
	atomic_store_explicit(&evpl->limit, 0, memory_order_relaxed);
	pool_trim(pool, evpl, NULL);

	pool_lock(pool);
	evpl->live = false;
	pool->live--;
	pool_unlock(pool);
}
