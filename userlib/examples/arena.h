/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef ARENA_H
#define ARENA_H

/*
 * A buffer of a pool as an arena of mimalloc. Objects that mimalloc allocates in the arena are in
 * memory that is registered with the pool's devices.
 *
 * mimalloc 2 never gives an arena back. So the arena has its reference to the buffer until the
 * process ends, and the pool can't be closed.
 */
#include <errno.h>
#include <evplmem.h>
#include <mimalloc.h>
#include <stdbool.h>
#include <stdint.h>

/* mimalloc 2.0 divides an arena into blocks of that size, and wants them aligned to it. */
#define ARENA_MIN	((size_t)64 << 20)
/* This much of a block is never an object. */
#define ARENA_HEAD	((size_t)1 << 20)

struct arena {
	struct evpl_iovec iovec;	/* the whole buffer */
	mi_arena_id_t id;
};

/* Opens a pool whose buffers become arenas. @bytes is a power of two, at least ARENA_MIN. */
static inline int arena_pool_open(struct evpl_pool **r_pool, size_t bytes)
{
	struct evpl_pool_config config = EVPL_POOL_CONFIG_INIT;

	config.buffer_size = bytes;
	return bytes < ARENA_MIN ? -EINVAL : evpl_pool_open(r_pool, &config);
}

/*
 * Makes an arena of a buffer. If it is exclusive, mimalloc allocates there for heaps of
 * mi_heap_new_in_arena() alone.
 *
 * The third argument of mi_manage_os_memory_ex() says that the memory is there. By the fourth
 * mimalloc neither resets nor decommits any of it, as for huge pages: it stays pinned. By the
 * fifth, mimalloc clears the memory for mi_calloc(), because a buffer may have been used before.
 * Buffers are aligned to their size, as mimalloc wants it.
 */
static inline int arena_create(struct arena *arena, struct evpl *evpl, bool exclusive)
{
	int ret = evpl_buffer_alloc(evpl, &arena->iovec);

	if (ret < 0)
		return ret;
	if (mi_manage_os_memory_ex(arena->iovec.data, arena->iovec.length, true, true, false, -1,
				   exclusive, &arena->id))
		return 0;
	evpl_iovec_release(&arena->iovec);
	return -ENOMEM;
}

static inline bool arena_has(const struct arena *arena, const void *object, size_t length)
{
	uintptr_t offset = (uintptr_t)object - (uintptr_t)arena->iovec.data;

	return offset < arena->iovec.length && length <= arena->iovec.length - offset;
}

#endif
