// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Statistics of a pool. They are counted off the hot path, and added up when asked for.
 */
#include <errno.h>

#include "bias.h"
#include "config.h"
#include "slab.h"

int evplmem_pool_stats(struct evpl_pool *pool, struct evpl_pool_stats *stats)
{
	struct evpl_pool_stats now = { .size = stats->size };
	struct depot *depot;
	struct evpl *evpl;
	struct slab *slab;
	unsigned int i;

	if (pool_is_inherited(pool))
		return -EPERM;
	if (stats->size < sizeof(stats->size))
		return -EINVAL;

	pool_lock(pool);
	now.backend = pool->backing.ops->id;
	now.contexts = pool->live;
	now.buffer_size = pool->buffer_size;
	for (i = 0; i < EVPL_DEVICES_MAX; i++)
		now.devices += pool->devices[i] != NULL;
	for (slab = pool->slabs; slab; slab = slab->next) {
		now.slabs++;
		now.bytes += slab->extent.length;
		now.buffers += slab->count;
		/* Nobody uses the buffers in hand, though nobody can take them now. */
		if (slab->state != SLAB_LIVE)
			now.buffers_free += slab->in_hand;
	}
	for (depot = pool_depots(pool); depot; depot = depot->next)
		now.buffers_free += freelist_count(&depot->free);
	for (evpl = pool_contexts(pool); evpl; evpl = evpl->next)
		now.buffers_cached += freelist_count(&evpl->cache) + bias_count_idle(evpl);
	pool_unlock(pool);

	pthread_mutex_lock(&pool->roots.lock);
	now.roots = pool->roots.dir.nr_roots;
	now.roots_broken = pool->roots.dir.nr_broken;
	pthread_mutex_unlock(&pool->roots.lock);

	/* A free list's count may be too high for a moment: see freelist.h. */
	if (now.buffers > now.buffers_free + now.buffers_cached)
		now.buffers_used = now.buffers - now.buffers_free - now.buffers_cached;
	now.grows = pool->grows;
	now.shrinks = pool->shrinks;
	now.steals = pool->steals;
	now.failures = pool->failures;
	now.wakeups = pool->wakeups;

	config_copy_out(stats, &now, sizeof(now));
	return 0;
}
