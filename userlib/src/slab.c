// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * The life of a slab: see slab.h.
 */
#include "slab.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "lane.h"
#include "node.h"
#include "poison.h"
#include "pressure.h"
#include "probe.h"
#include "recycle.h"
#include "trim.h"

/* The slab of which this thread is telling devices; if callbacks nest, the innermost. */
static __thread struct slab *publishing;

/*
 * Whether the index + 1 of each entry fits the 32 bits that free lists and contexts have for it. If
 * the module's own window is larger, its upper part isn't used.
 */
static bool extent_fits(const struct backing *backing, const struct extent *extent)
{
	return (extent->offset + extent->length) / backing->buffer_size < UINT32_MAX;
}

/* Takes a buffer in hand, behind those that are in hand already. */
static void hand_add(struct slab *slab, struct entry *entry)
{
	atomic_store_explicit(&entry->next, 0, memory_order_relaxed);
	if (slab->hand_last)
		atomic_store_explicit(&slab->hand_last->next, entry->index + 1,
				      memory_order_relaxed);
	else
		slab->hand_first = entry;
	slab->hand_last = entry;
	slab->in_hand++;
}

static void slab_init_entries(struct slab *slab)
{
	size_t buffer_size = slab->pool->buffer_size;
	uint32_t i, index = (uint32_t)(slab->extent.offset / buffer_size);
	struct entry *entry = slab->first;

	for (i = 0; i < slab->count; i++, entry++) {
		entry->slab = slab;
		entry->base = (char *)slab->extent.base + i * buffer_size;
		entry->index = index + i;
	}
}

/*
 * The thread that makes the slab has all of its buffers in hand. The words are zero: memory starts
 * so, and a back end frees no slab with another word.
 */
static void slab_take_new(struct slab *slab)
{
	uint32_t i;

	for (i = 0; i < slab->count; i++)
		hand_add(slab, slab->first + i);
	poison(slab->extent.base, slab->extent.length);
}

/* Adds a slab to, or subtracts it from, the bytes of its pool and depot. Under the pool's lock. */
static void slab_count(struct slab *slab)
{
	slab->pool->bytes += slab->extent.length;
	slab->depot->bytes += slab->extent.length;
}

static void slab_discount(struct slab *slab)
{
	slab->pool->bytes -= slab->extent.length;
	slab->depot->bytes -= slab->extent.length;
}

/* Makes the struct of a slab, with an ID. Under the pool's lock. */
static struct slab *slab_new(struct evpl_pool *pool)
{
	struct slab *slab = calloc(1, sizeof(*slab));

	if (!slab)
		return NULL;
	if (slab_ids_alloc(&pool->slab_ids, &slab->info.number)) {
		free(slab);
		return NULL;
	}
	slab->pool = pool;
	slab->pins = 1;
	return slab;
}

static void slab_delete(struct slab *slab)
{
	slab_ids_free(&slab->pool->slab_ids, slab->info.number);
	free(slab);
}

/* Adds a slab of which the extent and the depot are known to its pool. Under the pool's lock. */
static void slab_link(struct slab *slab)
{
	struct evpl_pool *pool = slab->pool;

	slab->info.node = slab->depot->node;
	slab->info.base = slab->extent.base;
	slab->info.length = slab->extent.length;
	slab->first = pool->backing.entries + slab->extent.offset / pool->buffer_size;
	slab->count = (uint32_t)(slab->extent.length / pool->buffer_size);
	slab_init_entries(slab);

	slab->link = pool->slabs_end;
	*slab->link = slab;
	pool->slabs_end = &slab->next;
	slab_count(slab);
}

/* Takes a slab out of its pool, and frees the struct. Under the pool's lock. */
static void slab_unlink(struct slab *slab)
{
	struct evpl_pool *pool = slab->pool;

	*slab->link = slab->next;
	if (slab->next)
		slab->next->link = slab->link;
	else
		pool->slabs_end = slab->link;
	if (slab->state != SLAB_DYING)
		slab_discount(slab);
	slab_delete(slab);
}

/* Makes a slab of this length, pinned and not yet published. Under the pool's lock. */
int slab_make(struct evpl_pool *pool, struct depot *depot, size_t length, struct slab **r_slab)
{
	struct backing *backing = &pool->backing;
	struct slab *slab;
	int err;

	if (length > pool_room(pool))
		return -ENOMEM;
	slab = slab_new(pool);
	if (!slab)
		return -ENOMEM;
	slab->depot = depot;
	err = backing->ops->slab_alloc(backing, length, depot->node, pool->huge, &slab->extent);
	if (err)
		goto delete_slab;
	if (!extent_fits(backing, &slab->extent)) {
		err = -ENOSPC;
		goto free_extent;
	}
	slab_link(slab);
	slab_take_new(slab);
	pool->pressure.stuck = false;
	stat_inc(&pool->grows);
	PROBE2(grow, pool, length);
	*r_slab = slab;
	return 0;

free_extent:
	backing->ops->slab_free(backing, &slab->extent);
delete_slab:
	slab_delete(slab);
	return err;
}

/*
 * Takes the first slab at or after @offset of the own window from a client that was adopted. It is
 * pinned. The caller has a reference on each of its buffers until slab_take_adopted(), so that the
 * kernel takes no word to 0, and reports no buffer. A buffer that others have is sealed. Under the
 * pool's lock.
 */
int slab_adopt(struct evpl_pool *pool, uint64_t offset, struct evpl *home, struct slab **r_slab)
{
	struct backing *backing = &pool->backing;
	struct entry *entry;
	struct slab *slab;
	uint32_t i;
	int err, node;

	slab = slab_new(pool);
	if (!slab)
		return -ENOMEM;
	err = backing->ops->slab_adopt(backing, offset, &slab->extent, &node);
	if (err)
		goto delete_slab;
	err = -ENOMEM;
	slab->depot = pool_depot(pool, node);
	if (!slab->depot || !extent_fits(backing, &slab->extent))
		goto unmap;
	slab_link(slab);
	for (i = 0, entry = slab->first; i < slab->count; i++, entry++) {
		atomic_store(&entry->sealed, atomic_fetch_add(&entry->word, 1));
		entry->home = home;
	}
	*r_slab = slab;
	return 0;

unmap:
	munmap(slab->extent.base, slab->extent.length);
delete_slab:
	slab_delete(slab);
	return err;
}

/*
 * Drops the caller's references on the buffers of an adopted slab, and takes those in hand that
 * nobody has. The kernel reports the others when nobody has them any more, unless they have a root.
 * The caller publishes the slab.
 */
void slab_take_adopted(struct slab *slab)
{
	struct entry *entry = slab->first;
	uint32_t i;

	for (i = 0; i < slab->count; i++, entry++) {
		if (atomic_fetch_sub(&entry->word, 1) != 1)
			continue;
		hand_add(slab, entry);
		poison(entry->base, slab->pool->buffer_size);
	}
}

/* Lets go of a slab, whose memory stays with the client. Under the pool's lock. */
void slab_leave(struct slab *slab)
{
	unpoison(slab->extent.base, slab->extent.length);
	munmap(slab->extent.base, slab->extent.length);
	slab_unlink(slab);
}

/*
 * Ends the grants of the buffers of a slab that are in hand. A buffer that something holds all the
 * same is revoked too: then the kernel reports it later. The caller doesn't hold the pool's lock,
 * which comes after the locks of lanes, unless the pool has no lanes any more.
 */
void slab_end_grants(struct slab *slab)
{
	struct backing *backing = &slab->pool->backing;
	struct entry *entry = slab->first;
	uint32_t i;

	for (i = 0; i < slab->count; i++, entry++) {
		struct evpl_revoke revoke = {
			.size = sizeof(revoke),
			.offset = (uint64_t)entry->index * backing->buffer_size,
		};

		if (!(atomic_load(&entry->word) & EVPL_WORD_SHARED))
			continue;
		if (ioctl(backing->fd, EVPL_REVOKE, &revoke) >= 0)
			lanes_revoked(slab->pool, entry);
	}
}

/*
 * Takes the buffers that something still holds out of hand. They can't be sent as long as it does,
 * so no program may get them: they are sealed, and the kernel reports them when it has ended.
 */
static void keep_held(struct slab *slab)
{
	struct entry *entry = slab->first;
	uint32_t i;

	slab->in_hand = 0;
	slab->hand_first = NULL;
	slab->hand_last = NULL;
	for (i = 0; i < slab->count; i++, entry++) {
		if (atomic_load(&entry->word) & EVPL_WORD_SHARED) {
			atomic_store(&entry->sealed, true);
			if (atomic_fetch_sub(&entry->word, WORD_FREE) != WORD_FREE)
				continue;
		}
		hand_add(slab, entry);
	}
}

/*
 * Whether the kernel has a share of none of a slab's buffers. They are in hand, and then their words
 * are made 0: the back end frees no slab with another word.
 */
static bool grants_ended(struct slab *slab)
{
	struct entry *entry;
	uint32_t i;

	for (i = 0, entry = slab->first; i < slab->count; i++, entry++)
		if (atomic_load(&entry->word) & EVPL_WORD_SHARED)
			return false;
	for (i = 0, entry = slab->first; i < slab->count; i++, entry++)
		atomic_fetch_and(&entry->word, ~WORD_FREE);
	return true;
}

/*
 * The inverse of slab_make(). All buffers are in hand, slab_end_grants() was called, and no device
 * knows the slab. Fails if the kernel still uses the slab; then only buffers that something holds
 * aren't in hand any more. Under the pool's lock.
 */
int slab_destroy(struct slab *slab)
{
	struct evpl_pool *pool = slab->pool;
	struct backing *backing = &pool->backing;
	int err;

	if (!grants_ended(slab)) {
		keep_held(slab);
		return -EBUSY;
	}
	unpoison(slab->extent.base, slab->extent.length);
	err = backing->ops->slab_free(backing, &slab->extent);
	if (err) {
		poison(slab->extent.base, slab->extent.length);
		return err;
	}
	pool->shrinks++;
	pool->pressure.stuck = false;
	PROBE2(shrink, pool, slab->extent.length);
	slab_unlink(slab);
	return 0;
}

/* Makes the buffers of a slab available, if the slab is new. Under the pool's lock. */
static void slab_open(struct slab *slab)
{
	if (slab->state != SLAB_NEW)
		return;
	slab->state = SLAB_LIVE;
	slab_scatter(slab);
}

/*
 * Tells the devices of a slab, then makes its buffers available. Called without the pool's lock,
 * by the thread that made the slab, or that failed to give it back, and has pinned it.
 */
void slab_publish(struct slab *slab)
{
	struct evpl_pool *pool = slab->pool;

	slab->outer = publishing;
	publishing = slab;
	devices_register(slab);
	publishing = slab->outer;
	pool_lock(pool);
	slab_open(slab);
	slab_unpin(slab);
	pool_unlock(pool);
	pool_notify(pool);
}

/*
 * A slab that this thread is publishing, for a callback that allocates. If the allocation took
 * another slab instead, the callback would run for that one, allocate again, and so on until no
 * memory is left.
 */
static struct slab *find_publishing(struct depot *depot)
{
	struct slab *slab;

	for (slab = publishing; slab; slab = slab->outer)
		if (slab->depot == depot && slab->state == SLAB_NEW)
			return slab;
	return NULL;
}

/*
 * Unpins a slab, under the pool's lock. If this returns true, the caller drops the lock, and then
 * calls slab_release() to give the memory back.
 */
bool slab_unpin(struct slab *slab)
{
	return !--slab->pins && slab->state == SLAB_DYING;
}

/* Gives a slab back. Called without the pool's lock, by the thread that has unpinned it last. */
void slab_release(struct slab *slab)
{
	struct evpl_pool *pool = slab->pool;
	bool watched = false;
	int err;

	slab_end_grants(slab);
	pool_lock(pool);
	err = slab_destroy(slab);
	if (err) {
		slab->state = SLAB_NEW;
		slab->pins = 1;
		slab_count(slab);
	} else {
		watched = pressure_shrunk(pool);
	}
	pool_unlock(pool);

	if (err) {
		slab_publish(slab);	/* the kernel wants it to stay */
		return;
	}
	if (watched)
		pressure_shrunk_end(pool);
	pool_notify(pool);	/* there is room to grow */
}

/*
 * Marks a slab to be given back. All of its buffers are in hand. From here on its bytes count as
 * room to grow, so that other threads' allocations don't fail while devices are told. The slab
 * is pinned for the caller, which goes on with slab_unpublish(). Under the pool's lock.
 */
void slab_doom(struct slab *slab)
{
	slab->state = SLAB_DYING;
	slab->pins = 1;
	slab_discount(slab);
}

/* Tells devices that a slab goes. Called without the pool's lock, by the thread that doomed it. */
void slab_unpublish(struct slab *slab)
{
	struct evpl_pool *pool = slab->pool;
	bool last;

	devices_unregister(slab);
	pool_lock(pool);
	last = slab_unpin(slab);
	pool_unlock(pool);
	if (last)
		slab_release(slab);
}

/* Whether max_bytes leaves room for another slab. */
bool pool_can_grow(struct evpl_pool *pool)
{
	return pool_room(pool) >= pool->slab_min;
}

/*
 * The length to try after a slab of @length failed with @err, a multiple of slab_min; 0 if a
 * shorter slab would fail too.
 */
static size_t shorter(struct evpl_pool *pool, size_t length, int err)
{
	if ((err != -ENOMEM && err != -ENOSPC) || length == pool->slab_min)
		return 0;
	length = length / 2 / pool->slab_min * pool->slab_min;
	return length ? length : pool->slab_min;
}

/* Makes the next slab, or a shorter one if memory is short. Under the pool's lock. */
static int pool_grow(struct evpl_pool *pool, struct depot *depot, struct slab **r_slab)
{
	size_t length, try = pool->slab_next;
	int err;

	do {
		length = try;
		err = slab_make(pool, depot, length, r_slab);
		try = err ? shorter(pool, length, err) : 0;
	} while (try);
	if (err)
		return err == -ENOSPC ? -ENOMEM : err;
	pool->slab_next = length > pool->slab_max / 2 ? pool->slab_max : 2 * length;
	return 0;
}

/**
 * pool_refill() - make buffers available
 * @pool: the pool
 * @depot: the depot that they go to
 * @take: whether the caller may take buffers that are free there already
 *
 * The caller doesn't hold the pool's lock.
 *
 * Return: 0 if the caller should look again, or the error that keeps the pool from growing.
 */
int pool_refill(struct evpl_pool *pool, struct depot *depot, bool take)
{
	struct slab *slab;
	int err;

	pool_lock(pool);
	slab = find_publishing(depot);
	if (slab)
		slab_open(slab);
	/* Another thread may have grown the pool, or have put buffers back that it had in hand. */
	if (take ? !freelist_is_empty(&depot->free) : slab != NULL) {
		pool_unlock(pool);
		return 0;
	}
	err = pool_grow(pool, depot, &slab);
	/*
	 * The thread that takes the lock next may find the pool at its limit. If no device must be
	 * told first, make the buffers available now, so that this thread finds them.
	 */
	if (!err && !devices_want_slabs(pool))
		slab_open(slab);
	pool_unlock(pool);
	if (!err)
		slab_publish(slab);
	if (!err)
		pressure_update(pool);
	else if (err == -ENOMEM && pool_can_grow(pool))
		pressure_failed(pool);
	return err;
}

/*
 * Gives a slab back that wasn't published, or publishes it if another thread has pinned it to tell
 * a device. Called without the pool's lock.
 */
static void slab_discard(struct slab *slab)
{
	struct evpl_pool *pool = slab->pool;
	bool alone;

	pool_lock(pool);
	alone = slab->pins == 1;
	if (alone)
		slab_doom(slab);
	pool_unlock(pool);
	if (alone)
		slab_unpublish(slab);
	else
		slab_publish(slab);
}

/*
 * Makes slabs for @missing bytes and publishes them, or makes none. The lock is dropped after each
 * slab: other threads may need it, and there may be thousands of slabs.
 */
static int pool_grow_by(struct evpl_pool *pool, struct depot *depot, uint64_t missing)
{
	struct slab *slab, *made = NULL, **end = &made;
	size_t length = pool->slab_max;
	int err = 0;

	while (missing) {
		/* The last slab is as long as needed, a multiple of slab_min. */
		if (missing < length)
			length = (missing + pool->slab_min - 1) / pool->slab_min * pool->slab_min;
		pool_lock(pool);
		err = slab_make(pool, depot, length, &slab);
		pool_unlock(pool);
		if (err) {
			length = shorter(pool, length, err);
			if (!length)
				break;
			continue;
		}
		*end = slab;
		end = &slab->next_dying;
		missing -= missing < length ? missing : length;
	}
	/* This comes before slabs are given back, which makes room. */
	if (err == -ENOMEM)
		pressure_failed(pool);
	while (made) {
		slab = made;
		made = slab->next_dying;
		if (err)
			slab_discard(slab);
		else
			slab_publish(slab);
	}
	pressure_update(pool);
	return err == -ENOSPC ? -ENOMEM : err;
}

/* An upper bound for the bytes that the pool can grow by. Under the pool's lock. */
static uint64_t most_room(struct evpl_pool *pool)
{
	uint64_t room = pool_room(pool);

	return room < pool->backing.own_size ? room : pool->backing.own_size;
}

int evplmem_pool_preallocate(struct evpl_pool *pool, uint64_t bytes, int node)
{
	struct depot *depot;
	uint64_t have, preallocated;
	int err;

	if (pool_is_inherited(pool))
		return -EPERM;
	if (node != EVPL_ANY_NODE && !node_exists(node))
		return -EINVAL;
	pool_lock(pool);
	depot = pool_depot(pool, node);
	if (!depot || (bytes > depot->bytes && bytes - depot->bytes > most_room(pool))) {
		pool_unlock(pool);
		return -ENOMEM;
	}
	have = depot->bytes;
	preallocated = depot->preallocated;
	/* Set @preallocated first, so that a trim on another thread leaves the new slabs. */
	depot->preallocated = bytes;
	pool_unlock(pool);
	err = have < bytes ? pool_grow_by(pool, depot, bytes - have) : 0;
	if (err) {
		pool_lock(pool);
		depot->preallocated = preallocated;
		pool_unlock(pool);
	}
	return err;
}
