/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_ENTRY_H
#define EVPLMEM_ENTRY_H

/*
 * A buffer's entry: 64 bytes in the refs window, found from an iovec in one load.
 *
 * The word is shared with the kernel and counts the references. Whoever takes it
 * to zero owns the buffer, and all of the entry but @next, until the buffer is on
 * a stack (stack.h); so does whoever takes it off. Entries stay mapped while the
 * pool is open, also those of slabs that were given back: a thread that is late
 * may read @next and @word of a buffer that isn't its own, and gets some number.
 *
 * A part of the word may be in the hands of a thread, which counts it in @own: see
 * bias.h. That is never all of what is left: as long as a thread has the buffer so, its
 * word isn't zero.
 *
 * A buffer of another process that this one has a lease on has an entry as well, in a
 * window of its own (sharing.h). It is known by having no slab. Memory that is no pool's
 * has one too, which has no pool either (foreign.h).
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

struct guest;
struct slab;

/**
 * struct entry - what is known of a buffer
 * @word: EVPL_WORD_*: the references
 * @owner: the thread that counts in @own, or NULL; as struct evplmem_count has it
 * @own: references of the word that nobody uses; @owner's
 * @next_known: of a lease: index + 1 of the next of these, or 0
 * @index: its number among the pool's entries, or leases; as @slab
 * @slab: what the buffer is a part of; constant while the slab lives; NULL of a lease
 * @base: the buffer's first byte; as @slab
 * @guest: of a lease: its registrations with devices, if it ever had any
 * @home: the context that last took it from a stack, and whose cache it goes back
 *	to; never freed while the pool is open
 * @pool: of a lease: the pool that has it; NULL of foreign memory
 * @next: index + 1 of the entry below it in a stack, or 0; of a lease: the next that
 *	is idle
 * @retired: others see the buffer, so nothing is cut off it until it is taken again
 * @queued: of a lease: it is among those that are idle
 * @known: of a lease: it is among those that there ever were
 * @shift: of a lease: log2 of the buffer's bytes
 * @held: checks only: @word has a reference of the context that cuts slices off it
 * @released: checks only: where it was last released
 */
struct entry {
	alignas(64) _Atomic uint64_t word;
	struct evplmem_thread *_Atomic owner;
	union {
		uint32_t own;
		uint32_t next_known;
	};
	uint32_t index;
	struct slab *slab;
	union {
		void *base;
		struct guest *_Atomic guest;
	};
	union {
		struct evpl *home;
		struct evpl_pool *pool;
	};
	_Atomic uint32_t next;
	union {
		atomic_bool retired;
		atomic_bool queued;
	};
	atomic_bool known;
	atomic_bool held;
	uint8_t shift;
	void *_Atomic released;
};

_Static_assert(sizeof(struct entry) == sizeof(struct evpl_entry), "the uapi's entry");
_Static_assert(offsetof(struct entry, word) == offsetof(struct evplmem_count, word) &&
	       offsetof(struct entry, owner) == offsetof(struct evplmem_count, owner) &&
	       offsetof(struct entry, own) == offsetof(struct evplmem_count, own),
	       "what programs were compiled with");
_Static_assert(sizeof(struct evpl_iovec) == 24, "the seed's iovec");
_Static_assert(sizeof(unsigned long) == sizeof(void *), "an entry fits __private2");

static inline struct entry *iovec_entry(const struct evpl_iovec *iovec)
{
	return (struct entry *)iovec->__private2;
}

/* Whether it is the parent's of this process. Then its entry can't be looked at. */
static inline bool iovec_is_inherited(const struct evpl_iovec *iovec)
{
	return iovec->__private2 && is_inherited(iovec->__private1 & -GENERATION_STEP);
}

/* The slab of an iovec; NULL if it is empty, or of another process's buffer. */
static inline struct slab *iovec_slab(const struct evpl_iovec *iovec)
{
	return iovec->__private2 ? iovec_entry(iovec)->slab : NULL;
}

/* The first reference, by whoever owns the buffer. */
static inline void entry_init(struct entry *entry)
{
	atomic_store_explicit(&entry->word, 1, memory_order_relaxed);
}

/* A word that counts so many has most of them from a thread: see bias_relieve(). */
#define WORD_HIGH	(1U << 31)

void bias_relieve(struct entry *entry);

/* The caller has a reference already, so there is nothing to order. */
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
 * Takes @n references off, and returns what the word was. Release, so that what this
 * thread did to the buffer is done; acquire, so that what the others did is seen by
 * whoever takes the last one.
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

/* Returns true if this was the last reference: the buffer is the caller's then. */
static inline bool entry_put(struct entry *entry, void *site)
{
	return entry_drop(entry, 1, site) == 1;
}

/* Whether the caller's is the only reference, and all others have finished. */
static inline bool entry_alone(struct entry *entry)
{
	return atomic_load_explicit(&entry->word, memory_order_acquire) == 1;
}

static inline bool entry_idle(struct entry *entry)
{
	return !(atomic_load_explicit(&entry->word, memory_order_acquire) & ~EVPL_WORD_WANTED);
}

/* A context starts, or ends, to cut slices off it, and has a reference for that. */
static inline void entry_set_held(struct entry *entry, bool held)
{
	if (EVPLMEM_CHECKS)
		atomic_store(&entry->held, held);
}

#endif /* EVPLMEM_ENTRY_H */
