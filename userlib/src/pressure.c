// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * How much memory a pool could still give: see pressure.h.
 */
#include "pressure.h"

#include <errno.h>

#include "bias.h"
#include "config.h"
#include "mapping.h"
#include "recycle.h"
#include "slab.h"

/*
 * The bytes of slabs that a cap of @room bytes leaves. Entries are charged too, in whole pages.
 */
static uint64_t slabs_in(const struct evpl_pool *pool, uint64_t room)
{
	uint64_t entries = pool->slab_min / pool->buffer_size * sizeof(struct entry);

	entries = (entries + page_size() - 1) / page_size() * page_size();
	room -= room < entries ? room : entries;
	return room - room % pool->slab_min;
}

/* The bytes by which the pool could grow, and the cap that leaves the least. Under the pool's lock. */
static uint64_t find_growth(struct evpl_pool *pool, unsigned int *cap)
{
	uint64_t growth = pool_room(pool), user, system;
	struct backing *backing = &pool->backing;

	growth -= growth % pool->slab_min;
	*cap = EVPL_CAP_POOL;
	if (backing->ops->room && !backing->ops->room(backing, &user, &system)) {
		user = slabs_in(pool, user);
		system = slabs_in(pool, system);
		if (user < growth) {
			growth = user;
			*cap = EVPL_CAP_USER;
		}
		if (system < growth) {
			growth = system;
			*cap = EVPL_CAP_SYSTEM;
		}
	}
	return growth;
}

/* The bytes of the buffers that are free, or that a context keeps and nobody uses. */
static uint64_t free_bytes(struct evpl_pool *pool)
{
	struct depot *depot;
	struct evpl *evpl;
	uint64_t n = 0;

	for (depot = pool_depots(pool); depot; depot = depot->next)
		n += freelist_count(&depot->free);
	for (evpl = pool_contexts(pool); evpl; evpl = evpl->next)
		n += freelist_count(&evpl->cache) + bias_count_idle(evpl);
	return n * pool->buffer_size;
}

static unsigned int find_level(struct evpl_pool *pool)
{
	struct pressure *pressure = &pool->pressure;
	uint64_t room = atomic_load(&pressure->growth) + free_bytes(pool);

	if (room >= atomic_load(&pressure->high))
		return EVPL_ROOM_AMPLE;
	return room < atomic_load(&pressure->low) ? EVPL_ROOM_SHORT : EVPL_ROOM_SCARCE;
}

/*
 * Makes the eventfd readable if the program knows of another level than this one, once until it
 * asks again.
 */
static void tell(struct evpl_pool *pool, unsigned int level)
{
	struct pressure *pressure = &pool->pressure;

	if (level != atomic_load(&pressure->told) && !atomic_exchange(&pressure->notified, true))
		pool_wake(pool);
}

/* No mark is crossed any more: releases needn't look. */
static void clear_short(struct evpl_pool *pool)
{
	if (!(atomic_load(&pool->waiting) & SHORT))
		return;
	atomic_fetch_and(&pool->waiting, ~SHORT);
	/* Another thread may have found SHORT set meanwhile, when it had taken a buffer. */
	if (find_level(pool) != EVPL_ROOM_AMPLE)
		atomic_fetch_or(&pool->waiting, SHORT);
}

/*
 * The calling thread may have taken buffers. It has a context or is in a call of the pool, so the
 * pool isn't closed. It has no context claimed, as this ends the bindings.
 */
void pressure_taken(struct evpl_pool *pool)
{
	unsigned int level = find_level(pool);

	if (level != EVPL_ROOM_AMPLE) {
		atomic_fetch_or(&pool->waiting, SHORT);
		bias_unbind_all(pool);
		/* That may have freed buffers. */
		level = find_level(pool);
	}
	if (level == EVPL_ROOM_AMPLE)
		clear_short(pool);
	tell(pool, level);
}

/* The room has grown. The calling thread is counted as a NOTIFIER. */
void pressure_freed(struct evpl_pool *pool)
{
	unsigned int level = find_level(pool);

	if (level == EVPL_ROOM_AMPLE)
		clear_short(pool);
	tell(pool, level);
}

/* Computes the growth anew. Under the pool's lock. */
static void update_locked(struct evpl_pool *pool, bool failed)
{
	struct pressure *pressure = &pool->pressure;
	uint64_t growth = find_growth(pool, &pressure->cap);

	if (failed && growth)
		pressure->stuck = true;
	if (pressure->stuck && growth) {
		growth = 0;
		pressure->cap = EVPL_CAP_MEMORY;
	}
	atomic_store(&pressure->growth, growth);
	atomic_store(&pressure->watched, growth < atomic_load(&pressure->high));
}

/*
 * The same without the lock. If the pool has @failed to grow although the caps leave room, it can't
 * grow until it has changed: the machine or the memory cgroup has no memory. A cap may have risen
 * just then, so this is no certainty.
 */
static void update(struct evpl_pool *pool, bool failed)
{
	pool_lock(pool);
	update_locked(pool, failed);
	pool_unlock(pool);
}

/* The pool has grown. */
void pressure_update(struct evpl_pool *pool)
{
	if (!atomic_load(&pool->pressure.high))
		return;
	update(pool, false);
	pressure_taken(pool);
}

/*
 * A slab was given back. Under the pool's lock, which the caller then drops; if this returns true, it
 * calls pressure_shrunk_end(). Another thread may close the pool meanwhile, but waits for NOTIFIERs.
 */
bool pressure_shrunk(struct evpl_pool *pool)
{
	if (!atomic_load(&pool->pressure.high))
		return false;
	update_locked(pool, false);
	atomic_fetch_add(&pool->waiting, NOTIFIER);
	return true;
}

void pressure_shrunk_end(struct evpl_pool *pool)
{
	pressure_freed(pool);
	atomic_fetch_sub(&pool->waiting, NOTIFIER);
}

/* The back end has given no memory for the shortest slab. */
void pressure_failed(struct evpl_pool *pool)
{
	update(pool, true);
	if (atomic_load(&pool->pressure.high))
		pressure_taken(pool);
}

/* The pool is closed, and another one may get its struct. */
void pressure_end(struct evpl_pool *pool)
{
	struct pressure *pressure = &pool->pressure;

	atomic_store(&pressure->low, 0);
	atomic_store(&pressure->high, 0);
	atomic_store(&pressure->growth, 0);
	atomic_store(&pressure->watched, false);
	atomic_store(&pressure->told, EVPL_ROOM_AMPLE);
	atomic_store(&pressure->notified, false);
	pressure->stuck = false;
}

int evplmem_pool_watch(struct evpl_pool *pool, uint64_t low, uint64_t high)
{
	if (pool_is_inherited(pool))
		return -EPERM;
	if (low > high)
		return -EINVAL;
	pool_lock(pool);
	atomic_store(&pool->pressure.low, low);
	atomic_store(&pool->pressure.high, high);
	pool_unlock(pool);
	update(pool, false);
	pressure_taken(pool);
	return 0;
}

/*
 * @notified is cleared first. If the level changes before it is stored in @told, another thread may
 * have compared its level with the old one, and have written nothing. So the level is looked at once
 * more.
 */
int evplmem_pool_pressure(struct evpl_pool *pool, struct evpl_pool_pressure *pressure)
{
	struct evpl_pool_pressure now = { .size = pressure->size };
	struct pressure *state = &pool->pressure;

	if (pool_is_inherited(pool))
		return -EPERM;
	if (pressure->size < sizeof(pressure->size))
		return -EINVAL;
	update(pool, false);
	atomic_store(&state->notified, false);
	do {
		now.level = find_level(pool);
		atomic_store(&state->told, now.level);
	} while (find_level(pool) != now.level);
	/* The growth may have changed, so SHORT may have to. */
	pressure_taken(pool);

	pool_lock(pool);
	now.cap = state->cap;
	pool_unlock(pool);
	now.growth = atomic_load(&state->growth);
	now.free = free_bytes(pool);
	now.room = now.growth + now.free;
	config_copy_out(pressure, &now, sizeof(now));
	return 0;
}
