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

/* Destroyed contexts, the last ones, whose use is noticed by checks. */
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

/* The reference that the caller has is the context's from here, which it has claimed. */
void context_hold(struct evpl *evpl, struct entry *buffer)
{
	if (bias_is_bound(evpl))
		bias_hold(evpl, buffer);
	else
		entry_set_held(buffer, true);
}

/* A context's only reference ends. */
static void drop_hold(struct entry *buffer)
{
	entry_set_held(buffer, false);
	if (entry_put(buffer, CALLER()))
		recycle(buffer);
}

/* And here it ends. */
void context_drop(struct evpl *evpl, struct entry *buffer)
{
	if (bias_is_bound(evpl))
		bias_drop(evpl, buffer);
	else
		drop_hold(buffer);
}

/*
 * The owner takes its current buffer, with the hold, to cut slices off it. Nothing
 * that may call back or wait comes before context_park(). A context that is bound stays
 * so, but if it is to another thread, which allocated from it before.
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
		} else if (word == CURRENT_BUSY || word == CURRENT_ROBBED) {
			bias_pause(tries++);	/* context_retire() of that other thread */
		} else if (atomic_compare_exchange_weak(&evpl->current, &word, CURRENT_BUSY)) {
			break;
		} else {
			continue;
		}
		word = atomic_load(&evpl->current);
	}
	return word == CURRENT_BOUND ? bias_cursor(evpl) : current_cursor(evpl->pool, word);
}

/* What a bound thread has is where its inlines find it. */
static void set_hot(struct evpl *evpl, struct cursor cursor)
{
	evpl->hot.buffer = (struct evplmem_count *)cursor.buffer;
	evpl->hot.base = cursor.buffer ? cursor.buffer->base : NULL;
	evpl->hot.limit = cursor.buffer ? (uint32_t)evpl->pool->buffer_size : 0;
	evpl->hot.place = (evpl->hot.place & -EVPLMEM_CHARGE) | cursor.offset;
}

/*
 * The owner gives it, or another one, back. If it was robbed meanwhile, a binding ends with
 * the hold.
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
	/* Only the owner leaves this state. */
	atomic_store(&evpl->current, CURRENT_NONE);
	if (cursor.buffer)
		drop_hold(cursor.buffer);
}

/*
 * The same with a buffer that wasn't current before, so that a waiting thread may have had no
 * chance to rob or count it. Then either that thread's WAITING is seen here, and it is woken
 * to look again; or it set WAITING later, and finds what is parked here.
 */
void context_park_fresh(struct evpl *evpl, struct cursor cursor)
{
	context_park(evpl, cursor);
	pool_notify(evpl->pool);
}

/* Takes the current buffer, with the hold, from whichever context has it. */
static struct entry *context_rob(struct evpl *victim)
{
	uint64_t word = atomic_load(&victim->current);
	uint64_t robbed;

	do {
		for (; word == CURRENT_BOUND || word == CURRENT_TAKEN;
		     word = atomic_load(&victim->current))
			bias_unbind(victim);
		if (word == CURRENT_NONE || word == CURRENT_ROBBED)
			return NULL;
		robbed = word == CURRENT_BUSY ? CURRENT_ROBBED : CURRENT_NONE;
	} while (!atomic_compare_exchange_weak(&victim->current, &word, robbed));
	return current_cursor(victim->pool, word).buffer;
}

/*
 * Ends all bindings and holds. The rest of those buffers can't be used before their
 * slices are released: so this is for when there is no other memory.
 */
void context_rob_all(struct evpl_pool *pool)
{
	struct evpl *victim;
	struct entry *buffer;

	bias_unbind_all(pool);
	for (victim = pool_contexts(pool); victim; victim = victim->next) {
		buffer = context_rob(victim);
		if (buffer)
			drop_hold(buffer);
	}
}

/*
 * How many buffers contexts keep, whether slices of them are in use or not, at most: one
 * each, and where a thread is bound or may be, those that it counts in.
 */
uint64_t context_count_held(struct evpl_pool *pool)
{
	struct evpl *evpl;
	uint64_t word, n = 0;

	for (evpl = pool_contexts(pool); evpl; evpl = evpl->next) {
		word = atomic_load(&evpl->current);
		if (word == CURRENT_NONE || word == CURRENT_ROBBED)
			continue;
		n++;
		if (word == CURRENT_BUSY || word == CURRENT_BOUND)
			n += evpl->max_slots;
	}
	return n;
}

/*
 * Claims a context that may be in another thread's hands meanwhile, if it is bound to this
 * one, and this one counts in @buffer. In a section: a binding that is seen doesn't end,
 * and another begin, until it is over.
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

/* The thread that the buffer's context is bound to does what context_retire() is for. */
static bool retire_here(struct evpl *home, struct entry *buffer)
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
 * Nothing more is cut off a buffer that the caller has a reference on, and its word has
 * all references. Only the context that took it may cut. If that does so just now, off
 * whichever buffer, it doesn't park.
 */
void context_retire(struct entry *buffer)
{
	struct evpl *home = buffer->home;
	uint64_t word, robbed;

	atomic_store(&buffer->retired, true);
	if (retire_here(home, buffer))
		return;
	do {
		while ((word = atomic_load(&home->current)) == CURRENT_BOUND ||
		       word == CURRENT_TAKEN) {
			if (word == CURRENT_TAKEN)
				bias_wait();
			else if (atomic_load_explicit(&buffer->owner, memory_order_acquire))
				bias_unbind(home);
			else if (atomic_load(&home->current) == CURRENT_BOUND)
				return;	/* not one of those that it counts in */
		}
		if (word != CURRENT_BUSY && current_cursor(home->pool, word).buffer != buffer)
			return;
		robbed = word == CURRENT_BUSY ? CURRENT_ROBBED : CURRENT_NONE;
	} while (!atomic_compare_exchange_weak(&home->current, &word, robbed));
	if (robbed == CURRENT_NONE)
		drop_hold(buffer);
}

/*
 * Whether the only reference on a buffer, which no thread counts in, is a context's hold.
 * In this order: with a reference of the caller's beside the hold, the word is above 1
 * until the context was robbed.
 */
bool context_only_holds(struct entry *buffer)
{
	struct evpl *home = buffer->home;

	return entry_alone(buffer) &&
	       current_cursor(home->pool, atomic_load(&home->current)).buffer == buffer;
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
		PROBE2(steal, evpl, victim);
		return buffer;
	}
	return NULL;
}

/* Whether the struct of a destroyed context may be another one's by now. */
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
		evpl->hot.generation = pool->generation;
		evpl->live = true;
		pool->live++;
		evpl->patience = 0;
		evpl->backoff = 0;
		evpl->room = (uint32_t)limit;
		evpl->max_slots = evpl->room / 2 < BIAS_SLOTS ? evpl->room / 2 : BIAS_SLOTS;
		atomic_store_explicit(&evpl->limit, evpl->room - 1, memory_order_relaxed);
	}
	pool_unlock(pool);
	if (!evpl)
		return -ENOMEM;
	*r_evpl = evpl;
	return 0;
}

/*
 * Its free buffers go where every context finds them. Under the pool's lock, which a thread
 * that finds none meanwhile takes before it believes so (pool_refill).
 */
static void empty_cache(struct evpl *evpl)
{
	struct entry *entries = evpl->pool->backing.entries;
	uint32_t n = 1, next, top = stack_take(&evpl->cache);
	struct entry *last;

	if (!top)
		return;
	last = &entries[top - 1];
	while ((next = atomic_load_explicit(&last->next, memory_order_relaxed))) {
		last = &entries[next - 1];
		n++;
	}
	depot_push(evpl->depot, &entries[top - 1], last, n);
	stack_forget(&evpl->cache, n);
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
	 * A release that saw the old limit may still push to the cache. That is found
	 * by who steals, by a trim, or by the next context that gets this struct.
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
