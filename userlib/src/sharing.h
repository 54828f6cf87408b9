/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_SHARING_H
#define EVPLMEM_SHARING_H

/*
 * Sharing buffers with other processes, in a pool of the module: the windows of its leases,
 * and the kernel's reports on its own buffers. struct sharing is made with the pool's first
 * channel or dma-buf, and goes with the pool.
 *
 * If the last reference on a buffer of the pool is held outside this process, the kernel takes
 * the word to zero, and sets the buffer's bit in the returned bitmap. The thread that clears
 * the bit then owns the buffer, as if it had taken the word to zero itself. Threads look at
 * the bitmap when memory is short, and not before.
 *
 * A lease whose word is zero is idle. The library releases idle leases to the kernel in
 * batches; it releases a lease at once if the buffer's owner waits (EVPL_WORD_WANTED). A queued
 * lease that gets a reference stays queued: the kernel rechecks the word, and passes it by.
 */

#include <linux/evpl.h>

#include "pool.h"

/* Idle leases that are released together. */
#define IDLE_BATCH	32

/* Windows of leases: guest, guest-ro, guest-io, guest-io-ro. */
#define NR_GUESTS	4

/* Pages of the returned bitmap. */
#define RETURNED_PAGES	(1U << 16)

/**
 * struct sharing - see above
 * @guest: the mapped windows of leases: guest, guest-ro, guest-io, guest-io-ro
 * @leases: the leases' entries, by number
 * @header: the header page, with the summary of @returned
 * @returned: the returned bitmap: a bit for each buffer of the pool
 * @sent: a bit for each page of @returned: the page exists, as a buffer of it was sent
 * @bound: an end was bound, or something exported, so the header page exists
 * @known: index + 1 of the first lease in the list of all leases that the pool ever had, or 0
 * @idle: index + 1 of the first lease in the list of idle leases, or 0
 * @nr_idle: about how many these are
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
