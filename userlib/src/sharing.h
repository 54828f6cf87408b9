/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_SHARING_H
#define EVPLMEM_SHARING_H

/*
 * The state by which a pool of the module exchanges buffers with other processes. struct sharing
 * is made with the pool's first channel or dma-buf, or when a pool is adopted that others have
 * buffers of. It goes with the pool.
 */

#include <linux/evpl.h>

#include "pool.h"

struct lane;
struct lease;

/* Windows of leases: guest, guest-ro, guest-io, guest-io-ro. */
#define NR_GUESTS	4

/* Pages of the returned bitmap. */
#define RETURNED_PAGES	(1U << 16)

/**
 * struct sharing - see above
 * @guest: the mapped windows of leases: guest, guest-ro, guest-io, guest-io-ro
 * @leases: the leases' entries, by number
 * @header: the header page, with the summary of @returned; the backing's
 * @returned: the returned bitmap: a bit for each buffer of the pool
 * @sent: a bit for each page of @returned: the page exists, as a buffer of it was sent
 * @bound: an end was bound, or something exported, so buffers may come back
 * @known: index + 1 of the first lease in the list of all leases that the pool ever had, or 0
 * @idle: index + 1 of the first lease in the list of idle leases, or 0
 * @nr_idle: about how many these are
 * @lanes: the pool's lanes; see lane_internal.h
 */
struct sharing {
	char *guest[NR_GUESTS];
	struct lease *leases;
	struct evpl_header *header;
	_Atomic uint64_t *returned;
	_Atomic uint64_t sent[RETURNED_PAGES / 64];
	atomic_bool bound;
	_Atomic uint32_t known;
	_Atomic uint32_t idle;
	_Atomic uint32_t nr_idle;
	struct lane *lanes;
};

static inline struct sharing *pool_sharing(struct evpl_pool *pool)
{
	return atomic_load_explicit(&pool->sharing, memory_order_acquire);
}

#endif /* EVPLMEM_SHARING_H */
