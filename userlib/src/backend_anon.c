// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * The anon back end: shared memory of this process, for a machine without the module.
 * The API is the same. But the memory isn't pinned, may not be in huge pages, and can't
 * be sent to another process.
 *
 * The own window is a range of numbers. It is twice as long as the memory that the pool may
 * have, so that slabs of several sizes find a place in it as they come and go.
 */
#include <errno.h>
#include <linux/evpl.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "backend.h"
#include "entry.h"
#include "mapping.h"
#include "node.h"

/**
 * struct range - a piece of the own window that is taken
 * @offset: where it starts
 * @length: its bytes
 * @next: the next one, at a higher offset
 */
struct range {
	uint64_t offset;
	uint64_t length;
	struct range *next;
};

static int anon_open(struct backing *backing, const struct evpl_pool_config *config)
{
	uint64_t bytes;
	void *entries;

	if (config->flags & ~EVPL_POOL_ATOMIC)
		return -EOPNOTSUPP;

	/* An entry's index + 1 must fit 32 bits, in a window that is twice as long. */
	bytes = backing->buffer_size * (UINT32_MAX / 2);
	if (bytes > config->max_bytes)
		bytes = config->max_bytes;
	backing->own_size = 2 * bytes;
	backing->entries_size = backing->own_size / backing->buffer_size * sizeof(struct entry);
	entries = mmap(NULL, backing->entries_size, PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (entries == MAP_FAILED)
		return -errno;
	backing->entries = entries;
	backing->ranges = NULL;
	backing->packed = NULL;
	return 0;
}

static void anon_close(struct backing *backing)
{
	munmap(backing->entries, backing->entries_size);
}

static uint64_t range_end(const struct range *range)
{
	return range ? range->offset + range->length : 0;
}

/* The link after @range; if that is NULL, the link to the first range. */
static struct range **range_next(struct backing *backing, struct range *range)
{
	return range ? &range->next : &backing->ranges;
}

/* Takes the lowest free place that is long enough, as the module does. */
static int range_take(struct backing *backing, uint64_t length, uint64_t *r_offset)
{
	struct range *before = backing->packed, *range, **link;

	for (;;) {
		link = range_next(backing, before);
		if (!*link || (*link)->offset - range_end(before) >= length)
			break;
		before = *link;
	}
	if (backing->own_size - range_end(before) < length)
		return -ENOSPC;

	range = malloc(sizeof(*range));
	if (!range)
		return -ENOMEM;
	range->offset = range_end(before);
	range->length = length;
	range->next = *link;
	*link = range;
	*r_offset = range->offset;
	if (before == backing->packed)
		backing->packed = range;
	return 0;
}

static void range_put(struct backing *backing, uint64_t offset)
{
	struct range *before = NULL, *range, **link;

	for (link = &backing->ranges; (*link)->offset != offset; link = &before->next)
		before = *link;
	range = *link;
	*link = range->next;
	if (backing->packed && backing->packed->offset >= offset)
		backing->packed = before;
	free(range);
}

static int anon_slab_alloc(struct backing *backing, size_t length, int node, bool huge,
			   struct extent *extent)
{
	size_t align = backing->buffer_size;
	int err;

	(void)huge;
	if (align < EVPL_SLAB_ALIGN)
		align = EVPL_SLAB_ALIGN;

	err = range_take(backing, length, &extent->offset);
	if (err)
		return err;
	err = map_aligned(&extent->base, length, align, MAP_ANONYMOUS, -1, 0);
	if (err)
		goto put_range;
	if (node >= 0) {
		err = node_bind(extent->base, length, node);
		if (err)
			goto unmap;
	}
	extent->length = length;
	return 0;

unmap:
	munmap(extent->base, length);
put_range:
	range_put(backing, extent->offset);
	return err;
}

static int anon_slab_free(struct backing *backing, const struct extent *extent)
{
	struct entry *entry = backing->entries + extent->offset / backing->buffer_size;
	size_t i;

	for (i = 0; i < extent->length / backing->buffer_size; i++)
		if (!entry_idle(&entry[i]))
			return -EBUSY;
	munmap(extent->base, extent->length);
	range_put(backing, extent->offset);
	return 0;
}

const struct backend backend_anon = {
	.id = EVPL_BACKEND_ANON,
	.open = anon_open,
	.close = anon_close,
	.slab_alloc = anon_slab_alloc,
	.slab_free = anon_slab_free,
};
