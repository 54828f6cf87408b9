// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Contexts: see context.h.
 */
#include "context.h"

#include <errno.h>
#include <stdlib.h>

#include "bias.h"
#include "config.h"
#include "node.h"
#include "probe.h"
#include "recycle.h"
#include "slab.h"
#include "waiter.h"

#define DEFAULT_CACHE (8UL << 20)

/* Checks notice the use of a destroyed context, if it is among the last this many. */
#define CHECKED_CONTEXTS 64

uint64_t current_word(struct cursor cursor)
{
	return (uint64_t)(cursor.buffer->index + 1) << 32 | cursor.offset;
}

static bool is_bound_here(const struct evpl *evpl)
{
	return __atomic_load_n(&evpl->hot.thread, __ATOMIC_RELAXED) == evplmem_self();
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

/* Makes the caller's reference the hold of a context that the caller has claimed. */
void context_hold(struct evpl *evpl, struct entry *buffer)
{
	if (bias_is_bound(evpl))
		bias_hold(evpl, buffer);
	else
		entry_set_held(buffer, true);
}

/* Drops the hold of a context that isn't bound. */
static void drop_hold(struct entry *buffer)
{
	entry_set_held(buffer, false);
	if (entry_put(buffer, CALLER()))
		recycle(buffer);
}

/* Drops the hold of a context that the caller has claimed. */
void context_drop(struct evpl *evpl, struct entry *buffer)
{
	if (bias_is_bound(evpl))
		bias_drop(evpl, buffer);
	else
		drop_hold(buffer);
}

/*
 * Claims the context for the calling thread, which then has the current buffer and its hold.
 * Until context_park() the caller neither waits nor runs a callback: a callback that allocated
 * from this context would spin here for ever. A binding to the calling thread stays. A binding to
 * a thread that used the context before is ended.
 */
struct cursor context_claim(struct evpl *evpl)
{
	uint64_t word = atomic_load(&evpl->current);
	int tries = 0;

	for (;;) {
		if (word == CURRENT_BOUND && !is_bound_here(evpl)) {
			bias_unbind(evpl);
		} else if (word == CURRENT_TAKEN) {
			bias_wait();
		} else if (word == CURRENT_BUSY || word == CURRENT_RECLAIMED) {
			bias_pause(tries++);	/* seal_here() on the bound thread */
		} else if (atomic_compare_exchange_weak(&evpl->current, &word, CURRENT_BUSY)) {
			break;
		} else {
			continue;
		}
		word = atomic_load(&evpl->current);
	}
	return word == CURRENT_BOUND ? bias_cursor(evpl) : current_cursor(evpl->pool, word);
}

/* Stores a bound context's current buffer where inlines find it. */
static void set_hot(struct evpl *evpl, struct cursor cursor)
{
	evpl->hot.buffer = (struct evplmem_count *)cursor.buffer;
	evpl->hot.base = cursor.buffer ? cursor.buffer->base : NULL;
	evpl->hot.limit = cursor.buffer ? (uint32_t)evpl->pool->buffer_size : 0;
	evpl->hot.place = (evpl->hot.place & -EVPLMEM_CREDIT) | cursor.offset;
}

/*
 * Ends a claim: parks the current buffer, which may have changed since the claim. If the context
 * is CURRENT_RECLAIMED by now, this drops the hold instead, and ends the binding if there is one.
 */
void context_park(struct evpl *evpl, struct cursor cursor)
{
	uint64_t expected = CURRENT_BUSY, word = CURRENT_NONE;

	if (bias_is_bound(evpl)) {
		set_hot(evpl, cursor);
		word = CURRENT_BOUND;
	} else if (cursor.buffer) {
		word = current_word(cursor);
	}
	if (atomic_compare_exchange_strong(&evpl->current, &expected, word))
		return;

	if (bias_is_bound(evpl))
		bias_give_up(evpl, cursor.buffer);
	/* A store will do: only the claiming thread changes CURRENT_RECLAIMED. */
	atomic_store(&evpl->current, CURRENT_NONE);
	if (cursor.buffer)
		drop_hold(cursor.buffer);
}

/*
 * Parks a buffer that wasn't current before. A thread that waits for memory may have looked while
 * the buffer was neither free nor parked, and so neither reclaimed nor counted it. That thread set
 * WAITING before it looked, so pool_notify() wakes it to look again. A thread that sets WAITING
 * later finds the buffer parked.
 */
void context_park_fresh(struct evpl *evpl, struct cursor cursor)
{
	context_park(evpl, cursor);
	pool_notify(evpl->pool);
}

/*
 * Reclaims a context's current buffer, whose hold the caller then drops. Returns NULL if there is
 * none, or if the context is claimed: the claiming thread then drops the hold.
 */
static struct entry *context_reclaim_current(struct evpl *peer)
{
	uint64_t word = atomic_load(&peer->current);
	uint64_t new;

	do {
		for (; word == CURRENT_BOUND || word == CURRENT_TAKEN;
		     word = atomic_load(&peer->current))
			bias_unbind(peer);
		if (word == CURRENT_NONE || word == CURRENT_RECLAIMED)
			return NULL;
		new = word == CURRENT_BUSY ? CURRENT_RECLAIMED : CURRENT_NONE;
	} while (!atomic_compare_exchange_weak(&peer->current, &word, new));
	return current_cursor(peer->pool, word).buffer;
}

/*
 * Ends all bindings and drops all holds. The rest of each of these buffers can't be used before
 * its slices have been released, so this is the last resort.
 */
void contexts_reclaim_current(struct evpl_pool *pool)
{
	struct evpl *peer;
	struct entry *buffer;

	bias_unbind_all(pool);
	for (peer = pool_contexts(pool); peer; peer = peer->next) {
		buffer = context_reclaim_current(peer);
		if (buffer)
			drop_hold(buffer);
	}
}

/*
 * At most how many buffers the contexts keep, whether or not slices of them are in use: one for
 * each current buffer, and the slots of each context that is bound or may be.
 */
uint64_t context_count_held(struct evpl_pool *pool)
{
	struct evpl *evpl;
	uint64_t word, n = 0;

	for (evpl = pool_contexts(pool); evpl; evpl = evpl->next) {
		word = atomic_load(&evpl->current);
		if (word == CURRENT_NONE || word == CURRENT_RECLAIMED)
			continue;
		n++;
		if (word == CURRENT_BUSY || word == CURRENT_BOUND)
			n += evpl->max_slots;
	}
	return n;
}

/*
 * Claims a context that another thread may be using, if it is bound to the calling thread, and
 * this thread counts in @buffer. The section closes the race with a thread that unbinds the
 * context: @current stays CURRENT_TAKEN until the section is over. So the exchange can't mistake
 * a later binding, to another thread, for this one.
 */
static bool claim_here(struct evpl *evpl, struct entry *buffer)
{
	struct evplmem_thread *thread = evplmem_self();
	uint64_t expected = CURRENT_BOUND;
	bool ok;

	evplmem_enter(thread);
	ok = is_bound_here(evpl) && bias_has(evpl, buffer) &&
	     atomic_compare_exchange_strong(&evpl->current, &expected, CURRENT_BUSY);
	evplmem_leave(thread);
	return ok;
}

/* Seals a buffer on the thread that its context is bound to. Returns false on other threads. */
static bool seal_here(struct evpl *home, struct entry *buffer)
{
	struct cursor cursor;

	if (!claim_here(home, buffer))
		return false;
	cursor = bias_cursor(home);
	if (cursor.buffer == buffer) {
		context_drop(home, buffer);
		cursor.buffer = NULL;
	}
	bias_stop(home, buffer);
	context_park(home, cursor);
	return true;
}

/*
 * Ends the binding of @home if the bound thread counts in @buffer. Returns @home's @current, which
 * is CURRENT_BOUND only if the bound thread doesn't count in @buffer: a thread that unbinds the
 * context sets CURRENT_TAKEN before it clears @owner.
 */
static uint64_t unbind_from(struct evpl *home, struct entry *buffer)
{
	uint64_t word;

	while ((word = atomic_load(&home->current)) == CURRENT_BOUND || word == CURRENT_TAKEN) {
		if (word == CURRENT_TAKEN)
			bias_wait();
		else if (atomic_load_explicit(&buffer->owner, memory_order_acquire))
			bias_unbind(home);
		else if (atomic_load(&home->current) == CURRENT_BOUND)
			break;
	}
	return word;
}

/*
 * Sees to it that no more slices are cut off a buffer, and that no thread counts in it. The caller
 * has a reference. Only @home, the context that took the buffer off a free list, can have the
 * buffer current, or in a slot. If @home is claimed just now, for whichever buffer,
 * CURRENT_RECLAIMED makes the claiming thread give both up instead of parking.
 */
void context_seal(struct entry *buffer)
{
	struct evpl *home = buffer->home;
	uint64_t word;
	bool parked;

	atomic_store(&buffer->sealed, true);
	if (seal_here(home, buffer))
		return;
	do {
		word = unbind_from(home, buffer);
		parked = current_cursor(home->pool, word).buffer == buffer;
		if (!parked && word != CURRENT_BUSY)
			return;
	} while (!atomic_compare_exchange_weak(&home->current, &word,
					       parked ? CURRENT_NONE : CURRENT_RECLAIMED));
	if (parked)
		drop_hold(buffer);
}

/*
 * Whether a context's hold is the only reference on a buffer that no thread counts in. The word is
 * read before @current, since a thread that reclaims changes @current before it drops the hold. So
 * if the word is 1 because only the program's reference is left, the buffer isn't in @current any
 * more.
 */
bool context_only_holds(struct entry *buffer)
{
	struct evpl *home = buffer->home;

	return entry_alone(buffer) &&
	       current_cursor(home->pool, atomic_load(&home->current)).buffer == buffer;
}

/* Reclaims a context's current buffer if it has no reference but the hold. */
static struct entry *context_reclaim_idle_current(struct evpl *peer)
{
	uint64_t word = atomic_load(&peer->current);
	struct entry *buffer = current_cursor(peer->pool, word).buffer;

	if (!buffer || !entry_alone(buffer))
		return NULL;
	if (!atomic_compare_exchange_strong(&peer->current, &word, CURRENT_NONE))
		return NULL;
	/* Since entry_alone(), slices may have been cut and the same word been parked again. */
	entry_set_held(buffer, false);
	return entry_put(buffer, CALLER()) ? buffer : NULL;
}

/*
 * Takes a buffer from another context: one in its cache, or a current one that has no reference
 * but the hold. If @evpl takes any node, other nodes' depots come first. It takes just one buffer,
 * for immediate use: another thread wouldn't find buffers on their way from one cache to another.
 */
struct entry *context_reclaim_from_peers(struct evpl *evpl)
{
	struct evpl_pool *pool = evpl->pool;
	struct entry *entries = pool->backing.entries;
	struct entry *buffer;
	struct evpl *peer;
	struct depot *depot;

	for (depot = pool_depots(pool); depot; depot = depot->next) {
		if (!context_takes(evpl, depot))
			continue;
		buffer = freelist_pop(&depot->free, entries);
		if (buffer)
			return buffer;
	}
	for (peer = pool_contexts(pool); peer; peer = peer->next) {
		if (!context_takes(evpl, peer->depot))
			continue;
		buffer = freelist_pop(&peer->cache, entries);
		if (!buffer) {
			buffer = context_reclaim_idle_current(peer);
			if (!buffer)
				continue;
			if (!context_takes(evpl, buffer->slab->depot)) {
				recycle(buffer);
				continue;
			}
		}
		stat_inc(&pool->steals);
		PROBE2(steal, evpl, peer);
		return buffer;
	}
	return NULL;
}

/* Whether another context may get the struct of a destroyed one. */
static bool is_forgotten(const struct evpl *evpl)
{
	return !EVPLMEM_CHECKS || evpl->pool->destroyed - evpl->destroyed >= CHECKED_CONTEXTS;
}

static struct evpl *context_find(struct evpl_pool *pool, struct depot *depot)
{
	struct evpl *evpl;

	for (evpl = pool_contexts(pool); evpl; evpl = evpl->next)
		if (!evpl->live && evpl->depot == depot && is_forgotten(evpl))
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

	/* The current buffer counts too, so two are the least. */
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
		evpl->hot.generation = pool->generation;
		evpl->live = true;
		pool->live++;
		evpl->rebind_delay = 0;
		evpl->rebind_backoff = 0;
		evpl->cache_max = (uint32_t)limit;
		evpl->max_slots = evpl->cache_max / 2 < BIAS_SLOTS ?
				  evpl->cache_max / 2 : BIAS_SLOTS;
		atomic_store_explicit(&evpl->limit, evpl->cache_max - 1, memory_order_relaxed);
	}
	pool_unlock(pool);
	if (!evpl)
		return -ENOMEM;
	*r_evpl = evpl;
	return 0;
}

/*
 * Moves the free buffers from the cache to the depot, where every context finds them. Under the
 * pool's lock: a thread that finds no buffer while they are moved takes that lock in
 * pool_refill(), and looks again.
 */
static void empty_cache(struct evpl *evpl)
{
	struct entry *entries = evpl->pool->backing.entries;
	uint32_t n = 1, next, top = freelist_take_all(&evpl->cache);
	struct entry *last;

	if (!top)
		return;
	last = &entries[top - 1];
	while ((next = atomic_load_explicit(&last->next, memory_order_relaxed))) {
		last = &entries[next - 1];
		n++;
	}
	depot_push(evpl->depot, &entries[top - 1], last, n);
	freelist_uncount(&evpl->cache, n);
}

void evplmem_destroy(struct evpl *evpl)
{
	struct evpl_pool *pool;
	struct cursor cursor;

	if (!evpl || context_is_inherited(evpl))
		return;
	pool = evpl->pool;
	waiters_forget(evpl);

	cursor = context_claim(evpl);
	if (cursor.buffer)
		context_drop(evpl, cursor.buffer);
	if (bias_is_bound(evpl))
		bias_give_up(evpl, NULL);
	context_park(evpl, (struct cursor){ .buffer = NULL });

	/*
	 * A release that saw the old limit may still push a buffer to the cache.
	 * context_reclaim_from_peers(), pool_trim(), or the next context that gets this struct
	 * finds it.
	 */
	atomic_store_explicit(&evpl->limit, 0, memory_order_relaxed);

	pool_lock(pool);
	empty_cache(evpl);
	evpl->live = false;
	evpl->hot.generation = 0;
	evpl->destroyed = ++pool->destroyed;
	pool->live--;
	pool_unlock(pool);
}
