/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_LEASE_H
#define EVPLMEM_LEASE_H

/*
 * The leases of a pool: buffers of other processes that it has received.
 *
 * A lease whose word is zero is idle. The library releases idle leases to the kernel in
 * batches; it releases a lease at once if the buffer's owner waits (EVPL_WORD_WANTED). A queued
 * lease that gets a reference stays queued: the kernel rechecks the word, and passes it by.
 */

#include "entry.h"
#include "sharing.h"

struct lease_regs;

/**
 * struct lease - the entry of a lease
 * @word: as of a buffer's entry
 * @owner: NULL: no thread counts without atomics
 * @next_known: index + 1 of the next lease in sharing->known, or 0
 * @index: the lease's number; constant
 * @slab: NULL
 * @regs: its registrations with devices; NULL if it never had one
 * @pool: the pool that received it; constant
 * @next: index + 1 of the next idle lease, or 0
 * @queued: it is in the list sharing->idle
 * @held: as of a buffer's entry
 * @known: it is in the list sharing->known
 * @buffer_shift: log2 of the buffer's bytes; constant
 * @released: as of a buffer's entry
 *
 * Iovecs hold the address of one as they do of a buffer's entry. The fields that both structs have
 * are at the same places, so the functions of entry.h work on both.
 */
struct lease {
	alignas(64) _Atomic uint64_t word;
	struct evplmem_thread *_Atomic owner;
	uint32_t next_known;
	uint32_t index;
	struct slab *slab;
	struct lease_regs *_Atomic regs;
	struct evpl_pool *pool;
	_Atomic uint32_t next;
	atomic_bool queued;
	atomic_bool held;
	atomic_bool known;
	uint8_t buffer_shift;
	void *_Atomic released;
} __attribute__((may_alias));

#define SAME_PLACE(field) (offsetof(struct lease, field) == offsetof(struct entry, field))

_Static_assert(sizeof(struct lease) == sizeof(struct entry), "an entry of the leases window");
_Static_assert(SAME_PLACE(word) && SAME_PLACE(owner) && SAME_PLACE(index) && SAME_PLACE(slab) &&
	       SAME_PLACE(held) && SAME_PLACE(released), "what entry.h uses of both");
_Static_assert(offsetof(struct lease, pool) == offsetof(struct entry, home), "see foreign.h");

#undef SAME_PLACE

static inline struct entry *lease_entry(struct lease *lease)
{
	return (struct entry *)lease;
}

/* The lease of an entry that has no slab and isn't foreign: see foreign.h. */
static inline struct lease *entry_lease(const struct entry *entry)
{
	return (struct lease *)entry;
}

struct lease *lease_of_record(struct evpl_pool *pool, const struct evpl_record *record);
bool leases_are_idle(struct evpl_pool *pool);
void lease_put(struct lease *lease, void *site);
void leases_flush(struct evpl_pool *pool);
void leases_drain(struct evpl_pool *pool);

#endif /* EVPLMEM_LEASE_H */
