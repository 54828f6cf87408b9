/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_ROOT_H
#define EVPLMEM_ROOT_H

/*
 * The roots of a pool: slices that have a name, and that the pool's successor finds by it
 * (evpl_pool_adopt()). The names are in a directory (directory.h), in buffers of the pool.
 *
 * A root has a reference of its own on its buffer, and the directory has one on each of its blocks.
 * The reference is taken before the root is published, and dropped after the root is gone. The
 * successor finds all words without a reference, and takes those of the roots again.
 */

#include <pthread.h>

#include "directory.h"

struct evpl_pool;

/**
 * struct roots - the roots of a pool
 * @lock: guards the other fields, and what they lead to
 * @first: where the place of the first block is: evpl_header.user; NULL before the pool has kept or
 *	adopted anything
 * @dir: the directory
 */
struct roots {
	pthread_mutex_t lock;
	_Atomic uint64_t *first;
	struct directory dir;
};

int roots_adopt(struct evpl_pool *pool);
int roots_count(struct evpl_pool *pool);
void roots_destroy(struct evpl_pool *pool);

#endif /* EVPLMEM_ROOT_H */
