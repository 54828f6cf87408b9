// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Making dma-bufs, for devices and processes that know nothing of evpl. A dma-buf of slices
 * takes their references, as a channel does. A dma-buf of a slab takes none.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/ioctl.h>

#include "lease.h"
#include "returned.h"
#include "sites.h"
#include "slab.h"
#include "transfer.h"
#include "windows.h"

/* How many ranges fit an array on the stack. */
#define FEW_RANGES	64

static int export(struct evpl_pool *pool, const struct evpl_range *ranges, int n, uint32_t flags)
{
	struct evpl_export args = {
		.size = sizeof(args),
		.flags = flags,
		.ranges = (uintptr_t)ranges,
		.count = (uint32_t)n,
	};

	return ioctl(pool->backing.fd, EVPL_EXPORT, &args) ? -errno : args.out_fd;
}

static int export_slices(struct evpl_pool *pool, const struct evpl_iovec *iovecs,
			 struct evpl_range *ranges, int niov, uint32_t flags)
{
	int err, fd, i;

	for (i = 0; i < niov; i++) {
		ranges[i].length = iovecs[i].length;
		err = transfer_offset(pool, &iovecs[i], (uint64_t *)&ranges[i].offset);
		if (err)
			return err;
	}
	for (i = 0; i < niov; i++)
		transfer_prepare(pool, &iovecs[i], ranges[i].offset, flags & EVPL_EXPORT_WRITE);
	fd = export(pool, ranges, niov, flags);
	for (i = 0; i < niov; i++)
		if (ranges[i].offset >= pool->backing.own_size)
			transfer_finish(pool, &iovecs[i], ranges[i].offset, fd >= 0);
	if (fd < 0)
		return fd;
	atomic_store(&pool_sharing(pool)->bound, true);
	for (i = 0; i < niov; i++)
		if (ranges[i].offset < pool->backing.own_size)
			returned_note_sent(pool, ranges[i].offset);
	return fd;
}

int evplmem_iovec_export(const struct evpl_iovec *iovecs, int niov, unsigned int flags)
{
	struct evpl_range few[FEW_RANGES], *ranges = few;
	struct evpl_pool *pool;
	struct entry *entry;
	int ret, i;

	if (flags & ~EVPL_DMABUF_WRITE)
		return -EOPNOTSUPP;
	if (niov <= 0)
		return -EINVAL;
	entry = iovec_entry(iovecs);
	if (!entry)
		return -EINVAL;
	if (iovec_is_inherited(iovecs))
		return -EPERM;
	pool = entry->slab ? entry->slab->pool : entry_lease(entry)->pool;
	if (!pool)
		return -EINVAL;
	ret = windows_map(pool);
	if (ret)
		return ret;
	if (niov > FEW_RANGES) {
		ranges = malloc((size_t)niov * sizeof(*ranges));
		if (!ranges)
			return -ENOMEM;
	}
	ret = export_slices(pool, iovecs, ranges, niov,
			    flags & EVPL_DMABUF_WRITE ? EVPL_EXPORT_WRITE : 0);
	if (ranges != few)
		free(ranges);
	for (i = 0; ret >= 0 && is_odd(pool->generation) && i < niov; i++)
		sites_drop(&iovecs[i]);
	return ret;
}

/* Finds the memory of a slab in the own window. */
static int find_slab(struct evpl_pool *pool, const struct evpl_slab_info *info,
		     struct evpl_range *range)
{
	struct slab *slab;
	int err = -ENOENT;

	pool_lock(pool);
	for (slab = pool->slabs; slab; slab = slab->next) {
		if (slab->info.number == info->number && slab->info.base == info->base) {
			*range = (struct evpl_range){ slab->extent.offset, slab->extent.length };
			err = 0;
		}
	}
	pool_unlock(pool);
	return err;
}

int evplmem_slab_export(struct evpl_pool *pool, const struct evpl_slab_info *info,
			unsigned int flags)
{
	struct evpl_range range;
	int err;

	if (pool_is_inherited(pool))
		return -EPERM;
	if (flags & ~EVPL_DMABUF_WRITE || pool->backing.ops->id != EVPL_BACKEND_MODULE)
		return -EOPNOTSUPP;
	err = find_slab(pool, info, &range);
	if (err)
		return err;
	return export(pool, &range, 1,
		      EVPL_EXPORT_SLAB | (flags & EVPL_DMABUF_WRITE ? EVPL_EXPORT_WRITE : 0));
}

int evplmem_slab_offset(struct evpl_pool *pool, const struct evpl_slab_info *info,
			uint64_t *r_offset)
{
	struct evpl_range range = { .offset = UINT64_MAX };

	if (pool_is_inherited(pool))
		return -EPERM;
	if (pool->backing.ops->id != EVPL_BACKEND_MODULE)
		return -EOPNOTSUPP;
	if (!(info->flags & EVPL_SLAB_LEASED))
		find_slab(pool, info, &range);
	else if (pool_sharing(pool))
		range.offset = windows_offset(pool, info->base);
	if (range.offset == UINT64_MAX)
		return -ENOENT;
	*r_offset = range.offset;
	return 0;
}
