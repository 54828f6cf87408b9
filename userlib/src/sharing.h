/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_SHARING_H
#define EVPLMEM_SHARING_H

/*
 * What a pool of the module needs to exchange buffers with other processes: the
 * windows of its leases, and what the kernel tells of its own buffers. Made with the
 * pool's first channel, or dma-buf; goes with the pool.
 *
 * A buffer of the pool whose last reference was somewhere else is brought to zero by
 * the kernel, which sets a bit. Whoever takes the bit owns the buffer, as who takes
 * a word to zero does. That is done where memory is short: no context looks before.
 *
 * A lease whose word comes to zero is idle. Idle ones are let go of in batches, or at
 * once where the owner has asked for one. One that gets a reference meanwhile stays
 * among them: the kernel passes it by.
 */

#include <linux/evpl.h>

#include "pool.h"

/* Idle leases that are let go of together. */
#define IDLE_BATCH	32

/* Windows of leases: guest, guest-ro, guest-io, guest-io-ro. */
#define NR_GUESTS	4

/* Pages of the returned bitmap. */
#define RETURNED_PAGES	(1U << 16)

/**
 * struct sharing - see above
 * @guest: the windows of leases: for writing, for reading, and both for devices
 * @leases: their entries, by number
 * @header: what the kernel writes
 * @returned: a bit for each buffer of the pool
 * @sent: which pages of @returned there are, a bit each
 * @bound: an end has been bound, or something exported, so that there is a header
 * @known: index + 1 of the first lease that there ever was, or 0
 * @idle: index + 1 of the first idle lease, or 0
 * @nr_idle: how many, about
 */
struct sharing {
	char *guest[NR_GUESTS];
	struct entry *leases;
	struct evpl_header *header;
	_Atomic uint64_t *returned;
	_Atomic uint64_t sent[RETURNED_PAGES / 64];
	atomic_bool bound;
	_Atomic uint32_t known;
	_Atomic uint32_t idle;
	_Atomic uint32_t nr_idle;
};

int sharing_make(struct evpl_pool *pool);
void sharing_end(struct evpl_pool *pool);
int sharing_offset(struct evpl_pool *pool, const struct evpl_iovec *iovec, uint64_t *offset);
void sharing_note_sent(struct sharing *sharing, uint32_t index);
bool sharing_collect(struct evpl_pool *pool);
bool sharing_pull(struct evpl_pool *pool, bool want);
struct entry *sharing_lease(struct evpl_pool *pool, const struct evpl_record *record);
void *sharing_memory(struct evpl_pool *pool, uint64_t offset);
uint64_t sharing_guest_offset(struct evpl_pool *pool, const void *data);
void sharing_hold(struct evpl_pool *pool, const struct evpl_iovec *iovec, uint64_t offset,
		  bool device);
void sharing_unhold(struct evpl_pool *pool, const struct evpl_iovec *iovec, uint64_t offset);
bool sharing_is_io(struct evpl_pool *pool, uint64_t offset);
bool sharing_is_idle(struct evpl_pool *pool);
void sharing_put(struct entry *lease, void *site);
void sharing_flush(struct evpl_pool *pool);

static inline struct sharing *pool_sharing(struct evpl_pool *pool)
{
	return atomic_load_explicit(&pool->sharing, memory_order_acquire);
}

#endif /* EVPLMEM_SHARING_H */
