/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_STACK_H
#define EVPLMEM_STACK_H

/*
 * A lock-free stack of free buffers.
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

struct stack {
	_Atomic uint64_t head;	/* tag << 32 | index + 1 */
	_Atomic uint32_t count;
};

static inline uint64_t stack_head(uint64_t old, uint32_t top)
{
	return ((old >> 32) + 1) << 32 | top;
}

static inline uint32_t stack_count(struct stack *stack)
{
	return atomic_load(&stack->count);
}

static inline bool stack_is_empty(struct stack *stack)
{
	return !(uint32_t)atomic_load(&stack->head);
}

/* Counts @n buffers that the caller pushes next. */
static inline void stack_reserve(struct stack *stack, uint32_t n)
{
	atomic_fetch_add(&stack->count, n);
}

/* Counts a buffer that the caller pushes next, unless there are @limit already. */
static inline bool stack_try_reserve(struct stack *stack, uint32_t limit)
{
	if (atomic_fetch_add(&stack->count, 1) < limit)
		return true;
	atomic_fetch_sub(&stack->count, 1);
	return false;
}

/*
 * Pushes a chain, linked by @next from @first to @last, which stack_reserve() has counted.
 * When this returns, other threads may have the buffers, and the pool may be closed.
 */
static inline void stack_push(struct stack *stack, struct entry *first, struct entry *last)
{
	uint64_t head = atomic_load_explicit(&stack->head, memory_order_relaxed);

	do {
		atomic_store_explicit(&last->next, (uint32_t)head, memory_order_relaxed);
	} while (!atomic_compare_exchange_weak_explicit(&stack->head, &head,
							stack_head(head, first->index + 1),
							memory_order_seq_cst,
							memory_order_relaxed));
}

static inline struct entry *stack_pop(struct stack *stack, struct entry *entries)
{
	uint64_t head = atomic_load_explicit(&stack->head, memory_order_acquire);
	struct entry *entry;
	uint32_t next;

	do {
		if (!(uint32_t)head)
			return NULL;
		entry = &entries[(uint32_t)head - 1];
		next = atomic_load_explicit(&entry->next, memory_order_relaxed);
	} while (!atomic_compare_exchange_weak_explicit(&stack->head, &head,
							stack_head(head, next),
							memory_order_acquire,
							memory_order_acquire));
	atomic_fetch_sub(&stack->count, 1);
	return entry;
}

/*
 * Takes all entries, and returns the index + 1 of the first. The caller walks the chain, and
 * gives the number of entries to stack_forget().
 */
static inline uint32_t stack_take(struct stack *stack)
{
	uint64_t head = atomic_load_explicit(&stack->head, memory_order_relaxed);

	while (!atomic_compare_exchange_weak_explicit(&stack->head, &head, stack_head(head, 0),
						      memory_order_acquire,
						      memory_order_relaxed))
		;
	return (uint32_t)head;
}

static inline void stack_forget(struct stack *stack, uint32_t n)
{
	atomic_fetch_sub(&stack->count, n);
}

#endif /* EVPLMEM_STACK_H */
