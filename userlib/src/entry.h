/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_ENTRY_H
#define EVPLMEM_ENTRY_H

/*
 * A buffer's entry: 64 bytes in the refs window. Each iovec holds the address of one.
 *
 * @word is shared with the kernel, and counts the references. The thread that takes it to
 * zero owns the buffer, and all of the entry but @next, until it pushes the buffer to a
 * free list (freelist.h). The thread that pops the buffer owns them again. Entries stay mapped
 * while the pool is open, even those of slabs that were given back: a thread that is late
 * may read @next and @word of a buffer that isn't its own, and reads some number.
 *
 * The kernel sets EVPL_WORD_SHARED in the word while other processes have a part in the buffer.
 * Mostly the buffer isn't used again before the kernel clears that bit. But a lane (lane_block.h)
 * lets a peer keep its lease on a buffer that it has returned. Such a buffer isn't @sealed. When
 * nothing but that bit is left in its word, it goes to a free list all the same, with WORD_FREE in
 * its word. Then the word isn't 0 when the kernel clears its bit, and the kernel reports nothing. If
 * the peer has passed the buffer on, EVPL_WORD_PASSED_ON is left too, and the buffer isn't used again.
 *
 * A thread may count a part of @word in @spare, without atomics: see bias.h. The thread keeps
 * at least one reference there, so the word isn't zero meanwhile.
 *
 * A lease on a buffer of another process has an entry too, in a window of its own: see
 * struct lease (lease.h). That entry has no @slab. The entry of memory that is no pool's
 * (foreign.h) has no @slab either.
 */

#include <linux/evpl.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "debug.h"
#include "evplmem.h"
#include "fork.h"

struct slab;

/**
 * struct entry - the entry of a buffer
 * @word: the references: a count and flags, EVPL_WORD_*
 * @owner: the thread that counts in @spare, or NULL
 * @spare: references that @word counts and nobody uses; @owner's to change
 * @index: the number among the pool's entries; constant like @slab
 * @slab: the buffer's slab; constant while the slab lives; NULL for leases and foreign memory
 * @base: the buffer's first byte; constant like @slab
 * @home: the context that last took the buffer off a free list, and that gets it back into
 *	its cache; never freed while the pool is open
 * @next: index + 1 of the entry below it in a free list, or 0
 * @sealed: others can see the buffer, and not by grants of a lane alone. No slice is cut off it
 *	until it has been free again, and it isn't free while the kernel has a share of it.
 * @held: checks only: @word counts the hold of a context
 * @released: checks only: where a reference was last released
 */
struct entry {
	alignas(64) _Atomic uint64_t word;
	struct evplmem_thread *_Atomic owner;
	uint32_t spare;
	uint32_t index;
	struct slab *slab;
	void *base;
	struct evpl *home;
	_Atomic uint32_t next;
	atomic_bool sealed;
	atomic_bool held;
	void *_Atomic released;
};

_Static_assert(sizeof(struct entry) == sizeof(struct evpl_entry), "the uapi's entry");
_Static_assert(offsetof(struct entry, word) == offsetof(struct evplmem_count, word) &&
	       offsetof(struct entry, owner) == offsetof(struct evplmem_count, owner) &&
	       offsetof(struct entry, spare) == offsetof(struct evplmem_count, spare),
	       "what programs were compiled with");
_Static_assert(sizeof(struct evpl_iovec) == 24, "the seed's iovec");
_Static_assert(sizeof(unsigned long) == sizeof(void *), "an entry fits __private2");

static inline struct entry *iovec_entry(const struct evpl_iovec *iovec)
{
	return (struct entry *)iovec->__private2;
}

/* Whether an iovec is traced (sites.h), was inherited, or is empty. */
static inline bool iovec_is_odd(const struct evpl_iovec *iovec)
{
	return is_odd(iovec->__private1 & -GENERATION_STEP);
}

/* Whether an iovec was inherited over fork(2). The child may not have its entry mapped. */
static inline bool iovec_is_inherited(const struct evpl_iovec *iovec)
{
	return iovec->__private2 && is_inherited(iovec->__private1 & -GENERATION_STEP);
}

/* The slab of an iovec; NULL if the iovec is empty, a lease's, or of foreign memory. */
static inline struct slab *iovec_slab(const struct evpl_iovec *iovec)
{
	return iovec->__private2 ? iovec_entry(iovec)->slab : NULL;
}

/* In @word, and the library's alone: the buffer is on a free list, though its word isn't 0. */
#define WORD_FREE	(1ULL << 63)

/* Sets the first reference. The caller owns the buffer, so nobody else changes the word. */
static inline void entry_init(struct entry *entry)
{
	atomic_store_explicit(&entry->word, 1, memory_order_relaxed);
}

/* Most of such a count are references that nobody uses: see bias_relieve(). */
#define WORD_HIGH	(1U << 31)

void bias_relieve(struct entry *entry);

/* Relaxed: the caller has a reference already, so there is nothing to order. */
static inline void entry_get(struct entry *entry, void *site)
{
	uint64_t old = atomic_fetch_add_explicit(&entry->word, 1, memory_order_relaxed);

	if ((old & EVPL_WORD_COUNT) >= WORD_HIGH)
		bias_relieve(entry);
	if (EVPLMEM_CHECKS && !(old & EVPL_WORD_COUNT))
		debug_die(entry, "a reference taken where there was none", site,
			  atomic_load(&entry->released));
}

/*
 * Drops @n references, and returns the old word. Release: this thread's accesses to the buffer
 * come before the drop. Acquire: the thread that drops the last reference recycles the buffer
 * after all other threads' accesses.
 */
static inline uint64_t entry_drop(struct entry *entry, uint32_t n, void *site)
{
	void *before = NULL;
	uint64_t old;

	if (EVPLMEM_CHECKS)
		before = atomic_exchange(&entry->released, site);
	old = atomic_fetch_sub_explicit(&entry->word, n, memory_order_acq_rel);
	if (EVPLMEM_CHECKS && (old & EVPL_WORD_COUNT) < n)
		debug_die(entry, "released below zero", site, before);
	if (EVPLMEM_CHECKS && old == n && atomic_load(&entry->held))
		debug_die(entry, "released below zero: the last reference was the context's own",
			  site, before);
	return old;
}

/*
 * Whether others have the buffer in another way than by grants: its owner or a receiver has sent it
 * on. The receiver does that before it returns the message, so a thread that has seen the message
 * returned sees this too.
 */
static inline bool entry_is_elsewhere(struct entry *entry)
{
	return atomic_load(&entry->sealed) || atomic_load(&entry->word) & EVPL_WORD_PASSED_ON;
}

/* Takes a buffer off a free list: the caller has the only reference. */
static inline void entry_take(struct entry *entry)
{
	if (atomic_load_explicit(&entry->word, memory_order_relaxed))
		atomic_fetch_add(&entry->word, 1 - WORD_FREE);
	else
		entry_init(entry);
}

bool entry_free_shared(struct entry *entry);

/*
 * Whether the caller owns a buffer of the pool, now that it has dropped @n references, and has found
 * @old in the word.
 */
static inline bool entry_is_last(struct entry *entry, uint64_t old, uint32_t n)
{
	/* One comparison tells that references are left, as they mostly are. */
	return (old & EVPL_WORD_COUNT) == n &&
	       (old == n || (old == (EVPL_WORD_SHARED | n) && entry_free_shared(entry)));
}

/* Drops a reference. Returns true if it was the last: the caller then owns the buffer. */
static inline bool entry_put(struct entry *entry, void *site)
{
	return entry_is_last(entry, entry_drop(entry, 1, site), 1);
}

/*
 * Whether @word is that of a buffer which nobody uses by other references than @n that the caller
 * knows of.
 */
static inline bool entry_has_only(struct entry *entry, uint64_t word, uint32_t n)
{
	return word == n || (word == (EVPL_WORD_SHARED | n) && !atomic_load(&entry->sealed));
}

/*
 * Whether only one reference is left. Acquire pairs with the release in entry_drop(): accesses
 * by references that have been dropped are over.
 */
static inline bool entry_alone(struct entry *entry)
{
	return entry_has_only(entry, atomic_load_explicit(&entry->word, memory_order_acquire), 1);
}

/* Whether no reference is left. WANTED, a flag in the word of a lease, doesn't matter. */
static inline bool entry_idle(struct entry *entry)
{
	return !(atomic_load_explicit(&entry->word, memory_order_acquire) & ~EVPL_WORD_WANTED);
}

/* For checks: a context gets its hold on the buffer, or loses it. */
static inline void entry_set_held(struct entry *entry, bool held)
{
	if (EVPLMEM_CHECKS)
		atomic_store(&entry->held, held);
}

#endif /* EVPLMEM_ENTRY_H */
