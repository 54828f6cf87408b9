// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Giving idle slabs back.
 *
 * A thread knows that a slab is idle only while it has all of the slab's buffers in hand.
 * So a trim takes all buffers off the free lists, sorts them by slab, and puts those of slabs
 * that aren't idle back. It does so under the pool's lock. An allocation that finds no
 * buffer meanwhile takes the lock in pool_refill(), and then looks again.
 */
#include "trim.h"

#include "bias.h"
#include "lease.h"
#include "pressure.h"
#include "recycle.h"
#include "returned.h"
#include "slab.h"

static void gather_freelist(struct evpl_pool *pool, struct freelist *list)
{
	struct entry *entries = pool->backing.entries;
	uint32_t n = 0, top = freelist_take_all(list);
	struct entry *entry;
	struct slab *slab;

	for (; top; n++) {
		entry = &entries[top - 1];
		slab = entry->slab;
		top = atomic_load_explicit(&entry->next, memory_order_relaxed);

		if (!slab->in_hand++)
			slab->hand_last = entry;
		atomic_store_explicit(&entry->next,
				      slab->hand_first ? slab->hand_first->index + 1 : 0,
				      memory_order_relaxed);
		slab->hand_first = entry;
	}
	freelist_uncount(list, n);
}

/* Takes all free buffers in hand. Under the pool's lock. */
void pool_gather(struct evpl_pool *pool)
{
	struct depot *depot;
	struct evpl *evpl;

	for (depot = pool_depots(pool); depot; depot = depot->next)
		gather_freelist(pool, &depot->free);
	for (evpl = pool_contexts(pool); evpl; evpl = evpl->next)
		gather_freelist(pool, &evpl->cache);
}

/* Puts the buffers of a slab that are in hand into its depot. Under the pool's lock. */
void slab_scatter(struct slab *slab)
{
	struct entry *first = slab->hand_first, *last = slab->hand_last;
	uint32_t n = slab->in_hand;

	slab->hand_first = NULL;
	slab->hand_last = NULL;
	slab->in_hand = 0;
	if (n)
		depot_push(slab->depot, first, last, n);
}

/* Whether the depot would have fewer bytes without the slab than were preallocated for it. */
static bool is_preallocated(const struct slab *slab)
{
	return slab->depot->bytes - slab->extent.length < slab->depot->preallocated;
}

/**
 * pool_trim() - give idle slabs back
 * @pool: the pool
 * @spared: a depot whose slabs all stay; NULL: one idle slab of the pool stays
 *
 * Each depot keeps as many bytes as were preallocated for it.
 *
 * Return: the bytes of the slabs that are given back. The kernel may still refuse to free some.
 */
uint64_t pool_trim(struct evpl_pool *pool, struct depot *spared)
{
	struct slab *slab, *dying = NULL;
	bool one_stays = spared;
	uint64_t bytes = 0;

	pool_lock(pool);
	pool_gather(pool);
	for (slab = pool->slabs; slab; slab = slab->next) {
		if (slab->state != SLAB_LIVE)
			continue;
		if (slab->in_hand < slab->count || slab->pins || slab->depot == spared) {
			slab_scatter(slab);
		} else if (!one_stays || is_preallocated(slab)) {
			one_stays = true;
			slab_scatter(slab);
		} else {
			slab_doom(slab);
			slab->next_dying = dying;
			dying = slab;
		}
	}
	pool_unlock(pool);

	while (dying) {
		slab = dying;
		dying = slab->next_dying;
		bytes += slab->extent.length;
		slab_unpublish(slab);
	}
	/* Other threads missed the buffers that were in hand. */
	pressure_look(pool);
	return bytes;
}

uint64_t evplmem_pool_trim(struct evpl_pool *pool)
{
	if (pool_is_inherited(pool))
		return 0;
	bias_unbind_all(pool);
	leases_flush(pool);
	returned_pull(pool, false);
	return pool_trim(pool, NULL);
}
