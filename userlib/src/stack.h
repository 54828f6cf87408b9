/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_STACK_H
#define EVPLMEM_STACK_H

/*
 * A stack of free buffers that threads push to and pop from without locks.
 *
 * The head holds the index + 1 of the top entry and a tag that each change
 * increments: a pop that read the next of an entry which was popped and pushed in
 * the meantime fails, as its tag is old. It takes 2^32 changes between two
 * instructions of a thread to fool it.
 *
 * The count is never below the number of buffers, since a push counts first and a
 * pop counts last: it may be above for a moment. Pushes and counts are seq_cst, for
 * the sake of pool_wait() (recycle.h).
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

/* Room for @n more; pushes follow. */
static inline void stack_reserve(struct stack *stack, uint32_t n)
{
	atomic_fetch_add(&stack->count, n);
}

/* Room for one more, unless there are @limit. */
static inline bool stack_try_reserve(struct stack *stack, uint32_t limit)
{
	if (atomic_fetch_add(&stack->count, 1) < limit)
		return true;
	atomic_fetch_sub(&stack->count, 1);
	return false;
}

/*
 * Pushes a chain, linked by next from @first to @last, for which room is reserved.
 * The buffers, and the stack itself, may belong to others when this returns.
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
 * Takes everything at once. The caller walks the chain, and takes what it finds
 * off the count with stack_forget().
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
