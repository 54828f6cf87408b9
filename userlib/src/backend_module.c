// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * The module's back end: a client of /dev/evpl.
 *
 * The kernel owns the memory and the entries, and takes all of it back when this
 * process ends, however it ends.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/evpl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "backend.h"
#include "entry.h"
#include "mapping.h"

#define DEFAULT_DEVICE "/dev/evpl"

/*
 * Maps all entries, though most of them will never be used. After mlockall(MCL_FUTURE) so long a
 * mapping may exceed RLIMIT_MEMLOCK. Then this only reserves the addresses, and map_entries() maps
 * the entries of each slab.
 */
static int open_entries(struct backing *backing, int fd, const struct evpl_setup *setup)
{
	void *entries = mmap(NULL, setup->out_refs_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
			     (off_t)setup->out_refs_offset);

	backing->by_pieces = entries == MAP_FAILED && errno == EAGAIN;
	if (backing->by_pieces)
		entries = map_reserve(setup->out_refs_size);
	if (entries == MAP_FAILED)
		return -errno;
	backing->entries = entries;
	backing->entries_size = setup->out_refs_size;
	return 0;
}

/* Maps the entries of a slab, if need be. They stay mapped when the slab goes. */
static int map_entries(struct backing *backing, uint64_t offset, size_t length)
{
	uint64_t first = offset / backing->buffer_size * sizeof(struct entry);
	uint64_t end = (offset + length) / backing->buffer_size * sizeof(struct entry);
	const uint64_t page = page_size();

	if (!backing->by_pieces)
		return 0;
	/* The first and last page may have other slabs' entries. Mapping them again is safe. */
	first &= ~(page - 1);
	end = (end + page - 1) & ~(page - 1);
	if (mmap((char *)backing->entries + first, end - first, PROT_READ | PROT_WRITE,
		 MAP_SHARED | MAP_FIXED, backing->fd,
		 (off_t)(backing->setup.out_refs_offset + first)) == MAP_FAILED)
		return -errno;
	return 0;
}

static int module_open(struct backing *backing, const struct evpl_pool_config *config)
{
	struct evpl_setup setup = {
		.size = sizeof(setup),
		.flags = (config->flags & EVPL_POOL_ZEROS ? EVPL_SETUP_ZEROS : 0) |
			 (config->flags & EVPL_POOL_REVOKE ? EVPL_SETUP_REVOKE : 0),
		.buffer_size = backing->buffer_size,
	};
	int err, fd;

	fd = open(config->device ? config->device : DEFAULT_DEVICE, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (ioctl(fd, EVPL_SETUP, &setup)) {
		err = -errno;
		goto close_fd;
	}
	err = open_entries(backing, fd, &setup);
	if (err)
		goto close_fd;

	backing->fd = fd;
	backing->own_size = setup.out_own_size;
	backing->setup = setup;
	return 0;

close_fd:
	close(fd);
	return err;
}

static void module_close(struct backing *backing)
{
	munmap(backing->entries, backing->entries_size);
	close(backing->fd);
}

static int module_slab_alloc(struct backing *backing, size_t length, int node, bool huge,
			     struct extent *extent)
{
	size_t align = backing->buffer_size;
	struct evpl_slab_alloc alloc = {
		.size = sizeof(alloc),
		.flags = huge ? EVPL_SLAB_HUGE : 0,
		.length = length,
		.node = node,
	};
	struct evpl_slab_free undo = {
		.size = sizeof(undo),
	};
	int err;

	if (align < EVPL_SLAB_ALIGN)
		align = EVPL_SLAB_ALIGN;
	if (ioctl(backing->fd, EVPL_SLAB_ALLOC, &alloc))
		return -errno;

	err = map_aligned(&extent->base, length, align, 0, backing->fd, alloc.out_offset);
	if (err)
		goto undo;
	err = map_entries(backing, alloc.out_offset, length);
	if (err) {
		munmap(extent->base, length);
		goto undo;
	}
	extent->length = length;
	extent->offset = alloc.out_offset;
	return 0;

undo:
	undo.offset = alloc.out_offset;
	ioctl(backing->fd, EVPL_SLAB_FREE, &undo);
	/* EAGAIN is RLIMIT_MEMLOCK after mlockall(2). A shorter slab may fit. */
	return err == -EAGAIN ? -ENOMEM : err;
}

static int module_slab_free(struct backing *backing, const struct extent *extent)
{
	struct evpl_slab_free slab_free = {
		.size = sizeof(slab_free),
		.offset = extent->offset,
	};

	/* Unmap it only if this succeeds: the kernel may refuse with EBUSY. */
	if (ioctl(backing->fd, EVPL_SLAB_FREE, &slab_free))
		return -errno;
	munmap(extent->base, extent->length);
	return 0;
}

static int module_slab_baseline(struct backing *backing, const struct extent *extent,
				uint32_t flags)
{
	struct evpl_baseline slab_baseline = {
		.size = sizeof(slab_baseline),
		.flags = flags,
		.offset = extent->offset,
		.length = extent->length,
	};
	int ret = ioctl(backing->fd, EVPL_BASELINE, &slab_baseline);

	return ret < 0 ? -errno : ret;
}

const struct backend backend_module = {
	.id = EVPL_BACKEND_MODULE,
	.open = module_open,
	.close = module_close,
	.slab_alloc = module_slab_alloc,
	.slab_free = module_slab_free,
	.slab_baseline = module_slab_baseline,
};
