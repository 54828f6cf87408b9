// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * The roots of a pool: see root.h.
 */
#include "root.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "alloc.h"
#include "cancel.h"
#include "error.h"
#include "recycle.h"
#include "sites.h"
#include "slab.h"

/* The slabs of a pool, in the order of their offsets. */
struct slab_index {
	struct slab **slabs;
	size_t nr_slabs;
};

static void index_slabs(struct slab_index *index, struct evpl_pool *pool)
{
	struct slab *slab;
	size_t i = 0;

	index->nr_slabs = 0;
	for (slab = pool->slabs; slab; slab = slab->next)
		index->nr_slabs++;
	index->slabs = reallocarray(NULL, index->nr_slabs + 1, sizeof(*index->slabs));
	/* slab_adopt() has found them in this order. */
	for (slab = pool->slabs; index->slabs && slab; slab = slab->next)
		index->slabs[i++] = slab;
}

/* The entry of the buffer that @offset is in; NULL if the offset is in no slab. */
static struct entry *index_find(const struct slab_index *index, uint64_t offset)
{
	size_t low = 0, high = index->nr_slabs, middle;
	const struct slab *slab;

	while (low < high) {
		middle = low + (high - low) / 2;
		slab = index->slabs[middle];
		if (offset < slab->extent.offset)
			high = middle;
		else if (offset - slab->extent.offset >= slab->extent.length)
			low = middle + 1;
		else
			return slab->first + (offset - slab->extent.offset) /
					     slab->pool->buffer_size;
	}
	return NULL;
}

static void *find_buffer(void *arg, uint64_t offset)
{
	struct entry *entry = index_find(arg, offset);

	return entry && offset % entry->slab->pool->buffer_size == 0 ? entry->base : NULL;
}

/* Takes a reference on a buffer that nobody may have a reference on yet. */
static void entry_adopt(struct entry *entry)
{
	atomic_fetch_add(&entry->word, 1);
}

/* Has the pool keep its roots in the client's header from now on. */
static void roots_begin(struct evpl_pool *pool)
{
	NO_CANCELLATION;

	directory_init(&pool->roots.dir, pool->buffer_size);
	pool->roots.first = (_Atomic uint64_t *)&pool->backing.header->user;
}

/*
 * Reads the directory that the dead process has left, and gives each root its reference. No other
 * thread has the pool yet, and no buffer of it is in hand.
 */
int roots_adopt(struct evpl_pool *pool)
{
	struct directory *dir = &pool->roots.dir;
	struct slab_index index;
	uint32_t i;
	int err;

	index_slabs(&index, pool);
	if (!index.slabs)
		return -ENOMEM;
	roots_begin(pool);
	err = directory_read(dir, atomic_load_explicit(pool->roots.first, memory_order_acquire),
			     find_buffer, &index);
	if (err == -EUCLEAN)
		error_set("block %u of the directory of roots is damaged: close the descriptor, "
			  "and begin with an empty pool", dir->nr_blocks);
	if (err)
		goto free_index;
	for (i = 0; i < dir->nr_blocks; i++)
		entry_adopt(index_find(&index, dir->blocks[i].offset));
	for (i = 0; i < dir->nr_slots; i++) {
		if (!dir->roots[i].name[0])
			continue;
		dir->roots[i].entry = index_find(&index, dir->roots[i].offset);
		entry_adopt(dir->roots[i].entry);
	}
free_index:
	free(index.slabs);
	return err;
}

static int compare_index(const void *a, const void *b)
{
	uint32_t one = *(const uint32_t *)a, other = *(const uint32_t *)b;

	return (one > other) - (one < other);
}

/* Sets slab->rooted of all slabs. Under the pool's lock; no context is left. */
int roots_count(struct evpl_pool *pool)
{
	struct directory *dir = &pool->roots.dir;
	uint32_t *indices, i, run, n = 0;
	struct entry *entry;
	struct slab *slab;

	for (slab = pool->slabs; slab; slab = slab->next)
		slab->rooted = 0;
	if (!dir->nr_blocks)
		return 0;
	indices = reallocarray(NULL, (size_t)dir->nr_blocks + dir->nr_roots, sizeof(*indices));
	if (!indices)
		return -ENOMEM;
	for (i = 0; i < dir->nr_blocks; i++)
		indices[n++] = (uint32_t)(dir->blocks[i].offset / pool->buffer_size);
	for (i = 0; i < dir->nr_slots; i++)
		if (dir->roots[i].name[0])
			indices[n++] = dir->roots[i].entry->index;
	qsort(indices, n, sizeof(*indices), compare_index);
	for (i = 0; i < n; i += run) {
		for (run = 1; i + run < n && indices[i + run] == indices[i]; run++)
			;
		entry = pool->backing.entries + indices[i];
		if (entry_has_only(entry, atomic_load(&entry->word), run))
			entry->slab->rooted++;
	}
	free(indices);
	return 0;
}

/* The pool is being closed: forgets the table. The directory itself stays with the client. */
void roots_destroy(struct evpl_pool *pool)
{
	directory_destroy(&pool->roots.dir);
	pool->roots.first = NULL;
}

static int check_name(const char *name)
{
	if (!*name)
		return -EINVAL;
	return strnlen(name, EVPL_NAME_MAX + 1) > EVPL_NAME_MAX ? -ENAMETOOLONG : 0;
}

/* The checks that all calls begin with. A pool of another back end has nothing that outlives it. */
static int check_call(struct evpl_pool *pool, const char *name)
{
	if (pool_is_inherited(pool))
		return -EPERM;
	if (!pool->backing.ops->adopt)
		return -EOPNOTSUPP;
	return name ? check_name(name) : 0;
}

static int check_slice(struct evpl_pool *pool, const struct evpl_iovec *iovec)
{
	const struct slab *slab;
	size_t in_buffer;

	if (iovec_is_inherited(iovec))
		return -EPERM;
	slab = iovec_slab(iovec);
	if (!slab || slab->pool != pool)
		return -EINVAL;
	in_buffer = (uintptr_t)iovec->data - (uintptr_t)iovec_entry(iovec)->base;
	if (in_buffer >= pool->buffer_size || !iovec->length ||
	    iovec->length > pool->buffer_size - in_buffer)
		return -EINVAL;
	return 0;
}

/*
 * Whether the module knows EVPL_ADOPT. A module that doesn't has no header before the first channel,
 * and so no place for the directory.
 */
static bool module_adopts(struct evpl_pool *pool)
{
	struct evpl_slab_next next = { .size = sizeof(next) };

	return !ioctl(pool->backing.fd, EVPL_SLAB_NEXT, &next) || errno == ENOENT;
}

/*
 * Adds a block to the directory. The caller doesn't hold the lock of the roots: an allocation may
 * call devices, and the callbacks may use the roots.
 */
static int roots_grow(struct evpl_pool *pool)
{
	struct roots *roots = &pool->roots;
	struct evpl_iovec iovec;
	struct entry *entry;
	struct evpl *evpl;
	int ret;

	ret = evplmem_create(&evpl, pool, NULL);
	if (ret)
		return ret;
	ret = alloc_buffer(evpl, &iovec);
	evplmem_destroy(evpl);
	if (ret < 0)
		return ret;
	entry = iovec_entry(&iovec);
	pthread_mutex_lock(&roots->lock);
	ret = directory_add_block(&roots->dir, iovec.data,
				  (uint64_t)entry->index * pool->buffer_size, roots->first);
	pthread_mutex_unlock(&roots->lock);
	if (ret)
		evplmem_iovec_release(&iovec);
	return ret;
}

int evplmem_pool_keep(struct evpl_pool *pool, const char *name, const struct evpl_iovec *iovec)
{
	struct roots *roots = &pool->roots;
	struct entry *entry, *old = NULL;
	struct root *root;
	uint64_t offset;
	int err;

	err = check_call(pool, name);
	if (!err)
		err = check_slice(pool, iovec);
	if (err)
		return err;
	entry = iovec_entry(iovec);
	offset = (uint64_t)entry->index * pool->buffer_size +
		 (uint64_t)((char *)iovec->data - (char *)entry->base);

	pthread_mutex_lock(&roots->lock);
	if (!roots->first) {
		if (!module_adopts(pool)) {
			pthread_mutex_unlock(&roots->lock);
			return -EOPNOTSUPP;
		}
		roots_begin(pool);
	}
	while (!(root = directory_find(&roots->dir, name)) && directory_is_full(&roots->dir)) {
		pthread_mutex_unlock(&roots->lock);
		err = roots_grow(pool);
		if (err)
			return err;
		pthread_mutex_lock(&roots->lock);
	}
	entry_get(entry, CALLER());
	if (root) {
		old = root->entry;
		directory_replace(&roots->dir, root, offset, iovec->length);
	} else {
		root = directory_add(&roots->dir, name, offset, iovec->length);
	}
	root->entry = entry;
	pthread_mutex_unlock(&roots->lock);
	if (old && entry_put(old, CALLER()))
		recycle(old);
	return 0;
}

/* Finds the root of a name for a call. If this returns 0, the caller has the lock of the roots. */
static int find_root(struct evpl_pool *pool, const char *name, struct root **r_root)
{
	struct roots *roots = &pool->roots;
	int err;

	err = check_call(pool, name);
	if (err)
		return err;
	pthread_mutex_lock(&roots->lock);
	*r_root = directory_find(&roots->dir, name);
	if (*r_root)
		return 0;
	pthread_mutex_unlock(&roots->lock);
	return -ENOENT;
}

int evplmem_pool_kept(struct evpl_pool *pool, const char *name, struct evpl_iovec *r_iovec)
{
	struct root *root;
	int err;

	err = find_root(pool, name, &root);
	if (err)
		return err;
	entry_get(root->entry, CALLER());
	*r_iovec = (struct evpl_iovec){
		.data = (char *)root->entry->base + root->offset % pool->buffer_size,
		.length = root->length,
		.__private1 = fork_generation,
		.__private2 = (unsigned long)root->entry,
	};
	pthread_mutex_unlock(&pool->roots.lock);
	if (sites_are_traced())
		sites_add(r_iovec, 1, PLACE());
	return 0;
}

int evplmem_pool_forget(struct evpl_pool *pool, const char *name)
{
	struct entry *entry;
	struct root *root;
	int err;

	err = find_root(pool, name, &root);
	if (err)
		return err;
	entry = root->entry;
	directory_remove(&pool->roots.dir, root);
	pthread_mutex_unlock(&pool->roots.lock);
	if (entry_put(entry, CALLER()))
		recycle(entry);
	return 0;
}

int evplmem_pool_list(struct evpl_pool *pool, uint64_t *cursor, char name[EVPL_NAME_MAX + 1])
{
	struct roots *roots = &pool->roots;
	const struct root *root;
	int err;

	err = check_call(pool, NULL);
	if (err)
		return err;
	pthread_mutex_lock(&roots->lock);
	root = directory_next(&roots->dir, cursor);
	if (root)
		memcpy(name, root->name, EVPL_NAME_MAX + 1);
	pthread_mutex_unlock(&roots->lock);
	return root != NULL;
}
