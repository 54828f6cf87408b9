/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_FREELIST_H
#define EVPLMEM_FREELIST_H

/*
 * A free list: a lock-free stack of free buffers.
 *
 * @head holds the index + 1 of the top entry, and a tag that each change increments.
 * The tag closes the ABA race: between a pop's load of @next and its exchange of
 * @head, other threads may pop the top entry and push it again, with another @next.
 * The tag is old then, and the exchange fails. Only 2^32 changes between the two
 * instructions could get past the tag.
 *
 * A push increments @count first, and a pop decrements it last. So @count is never
 * below the number of buffers, and may be above it for a moment. Pushes and counts
 * are seq_cst, so that no wake-up is lost (recycle.c).
 */

#include "entry.h"

struct freelist {
	_Atomic uint64_t head;	/* tag << 32 | index + 1 */
	_Atomic uint32_t count;
};

static inline uint64_t freelist_head(uint64_t old, uint32_t top)
{
	return ((old >> 32) + 1) << 32 | top;
}

static inline uint32_t freelist_count(struct freelist *list)
{
	return atomic_load(&list->count);
}

static inline bool freelist_is_empty(struct freelist *list)
{
	return !(uint32_t)atomic_load(&list->head);
}

/* Counts @n buffers that the caller pushes next. */
static inline void freelist_reserve(struct freelist *list, uint32_t n)
{
	atomic_fetch_add(&list->count, n);
}

/* Counts a buffer that the caller pushes next, unless there are @limit already. */
static inline bool freelist_try_reserve(struct freelist *list, uint32_t limit)
{
	if (atomic_fetch_add(&list->count, 1) < limit)
		return true;
	atomic_fetch_sub(&list->count, 1);
	return false;
}

/*
 * Pushes a chain, linked by @next from @first to @last, which freelist_reserve() has counted.
 * When this returns, other threads may have the buffers, and the pool may be closed.
 */
static inline void freelist_push(struct freelist *list, struct entry *first, struct entry *last)
{
	uint64_t head = atomic_load_explicit(&list->head, memory_order_relaxed);

	do {
		atomic_store_explicit(&last->next, (uint32_t)head, memory_order_relaxed);
	} while (!atomic_compare_exchange_weak_explicit(&list->head, &head,
							freelist_head(head, first->index + 1),
							memory_order_seq_cst,
							memory_order_relaxed));
}

static inline struct entry *freelist_pop(struct freelist *list, struct entry *entries)
{
	uint64_t head = atomic_load_explicit(&list->head, memory_order_acquire);
	struct entry *entry;
	uint32_t next;

	do {
		if (!(uint32_t)head)
			return NULL;
		entry = &entries[(uint32_t)head - 1];
		next = atomic_load_explicit(&entry->next, memory_order_relaxed);
	} while (!atomic_compare_exchange_weak_explicit(&list->head, &head,
							freelist_head(head, next),
							memory_order_acquire,
							memory_order_acquire));
	atomic_fetch_sub(&list->count, 1);
	return entry;
}

/*
 * Takes all entries, and returns the index + 1 of the first. The caller walks the chain, and
 * gives the number of entries to freelist_uncount().
 */
static inline uint32_t freelist_take_all(struct freelist *list)
{
	uint64_t head = atomic_load_explicit(&list->head, memory_order_relaxed);

	while (!atomic_compare_exchange_weak_explicit(&list->head, &head, freelist_head(head, 0),
						      memory_order_acquire,
						      memory_order_relaxed))
		;
	return (uint32_t)head;
}

static inline void freelist_uncount(struct freelist *list, uint32_t n)
{
	atomic_fetch_sub(&list->count, n);
}

#endif /* EVPLMEM_FREELIST_H */
