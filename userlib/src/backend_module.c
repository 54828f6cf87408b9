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
#include <time.h>
#include <unistd.h>

#include "backend.h"
#include "entry.h"
#include "mapping.h"

#define DEFAULT_DEVICE "/dev/evpl"

/* How long an adoption waits for what is left of the process that had the client. */
#define ADOPT_SECONDS 10

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

/* Maps what a client needs in any case. */
static int map_client(struct backing *backing, int fd, const struct evpl_setup *setup)
{
	int err = open_entries(backing, fd, setup);
	void *header;

	if (err)
		return err;
	header = mmap(NULL, setup->out_header_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
		      (off_t)setup->out_header_offset);
	if (header == MAP_FAILED) {
		err = -errno;
		munmap(backing->entries, backing->entries_size);
		return err;
	}
	backing->header = header;
	backing->fd = fd;
	backing->own_size = setup->out_own_size;
	backing->setup = *setup;
	return 0;
}

static int set_up(int fd, const struct backing *backing, const struct evpl_pool_config *config,
		  struct evpl_setup *setup)
{
	*setup = (struct evpl_setup){
		.size = sizeof(*setup),
		.flags = (config->flags & EVPL_POOL_ZEROS ? EVPL_SETUP_ZEROS : 0) |
			 (config->flags & EVPL_POOL_REVOKE ? EVPL_SETUP_REVOKE : 0),
		.buffer_size = backing->buffer_size,
	};
	return ioctl(fd, EVPL_SETUP, setup) ? -errno : 0;
}

static int module_open(struct backing *backing, const struct evpl_pool_config *config)
{
	struct evpl_setup setup;
	int err, fd;

	fd = open(config->device ? config->device : DEFAULT_DEVICE, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	err = set_up(fd, backing, config, &setup);
	if (!err)
		err = map_client(backing, fd, &setup);
	if (err)
		close(fd);
	return err;
}

/*
 * EVPL_ADOPT. The address space and the rings of a process can end after the process itself. So if
 * the client is busy, this tries again for ADOPT_SECONDS.
 */
static int adopt(int fd, uint64_t buffer_size, struct evpl_setup *setup)
{
	struct timespec now, end, pause = { .tv_nsec = 1000000 };

	clock_gettime(CLOCK_MONOTONIC, &end);
	end.tv_sec += ADOPT_SECONDS;
	for (;;) {
		*setup = (struct evpl_setup){
			.size = sizeof(*setup),
			.buffer_size = buffer_size,
		};
		if (!ioctl(fd, EVPL_ADOPT, setup))
			return 0;
		clock_gettime(CLOCK_MONOTONIC, &now);
		if (errno != EBUSY || now.tv_sec > end.tv_sec)
			return -errno;
		nanosleep(&pause, NULL);
		if (pause.tv_nsec < 64000000)
			pause.tv_nsec *= 2;
	}
}

/* A client that isn't set up is that of a process which has died early. */
static int module_adopt(struct backing *backing, const struct evpl_pool_config *config, int fd)
{
	struct evpl_setup setup;
	int err;

	err = adopt(fd, backing->buffer_size, &setup);
	if (err == -ENXIO)
		err = set_up(fd, backing, config, &setup);
	if (err)
		return err;
	backing->buffer_size = setup.out_buffer_size;
	return map_client(backing, fd, &setup);
}

static void module_close(struct backing *backing)
{
	munmap(backing->header, backing->setup.out_header_size);
	munmap(backing->entries, backing->entries_size);
	close(backing->fd);
}

/* Maps a slab of which the offset and the length are known, and its entries. */
static int map_slab(struct backing *backing, struct extent *extent)
{
	size_t align = backing->buffer_size;
	int err;

	if (align < EVPL_SLAB_ALIGN)
		align = EVPL_SLAB_ALIGN;
	err = map_aligned(&extent->base, extent->length, align, 0, backing->fd, extent->offset);
	if (!err) {
		err = map_entries(backing, extent->offset, extent->length);
		if (err)
			munmap(extent->base, extent->length);
	}
	/* EAGAIN is RLIMIT_MEMLOCK after mlockall(2). A shorter slab may fit. */
	return err == -EAGAIN ? -ENOMEM : err;
}

static int module_slab_alloc(struct backing *backing, size_t length, int node, bool huge,
			     struct extent *extent)
{
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

	if (ioctl(backing->fd, EVPL_SLAB_ALLOC, &alloc))
		return -errno;
	extent->length = length;
	extent->offset = alloc.out_offset;
	err = map_slab(backing, extent);
	if (err) {
		undo.offset = alloc.out_offset;
		ioctl(backing->fd, EVPL_SLAB_FREE, &undo);
	}
	return err;
}

static int module_slab_adopt(struct backing *backing, uint64_t offset, struct extent *extent,
			     int *node)
{
	struct evpl_slab_next next = {
		.size = sizeof(next),
		.offset = offset,
	};

	if (ioctl(backing->fd, EVPL_SLAB_NEXT, &next))
		return -errno;
	extent->length = next.out_length;
	extent->offset = next.out_offset;
	*node = next.out_node;
	return map_slab(backing, extent);
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

static int module_room(struct backing *backing, uint64_t *user, uint64_t *system)
{
	struct evpl_room room = { .size = sizeof(room) };

	if (ioctl(backing->fd, EVPL_ROOM, &room))
		return -errno;
	*user = room.out_user;
	*system = room.out_system;
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
	.adopt = module_adopt,
	.close = module_close,
	.slab_alloc = module_slab_alloc,
	.slab_free = module_slab_free,
	.slab_adopt = module_slab_adopt,
	.room = module_room,
	.slab_baseline = module_slab_baseline,
};
