/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_LOCK_H
#define EVPLMEM_LOCK_H

/*
 * A lock for paths of which a pthread_mutex_t would be a large part: it is inlined, and takes an
 * atomic operation each way when no thread waits. Threads wait in the kernel. A lock of zeros is
 * free.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum lock_state {
	LOCK_FREE,
	LOCK_HELD,
	LOCK_AWAITED,	/* held, and threads may wait */
};

/**
 * struct lock - see above
 * @state: an enum lock_state
 */
struct lock {
	_Atomic uint32_t state;
};

void lock_wait(struct lock *lock);
int lock_wake(struct lock *lock, int ret);

/* Takes the lock if it is free. */
static inline bool lock_try(struct lock *lock)
{
	uint32_t state = LOCK_FREE;

	return atomic_compare_exchange_strong_explicit(&lock->state, &state, LOCK_HELD,
						       memory_order_acquire, memory_order_relaxed);
}

static inline void lock_take(struct lock *lock)
{
	if (__builtin_expect(!lock_try(lock), 0))
		lock_wait(lock);
}

/* Leaves the lock. Returns whether the caller has to call lock_wake(). */
static inline bool lock_leave_only(struct lock *lock)
{
	return __builtin_expect(atomic_exchange_explicit(&lock->state, LOCK_FREE,
							 memory_order_release) == LOCK_AWAITED, 0);
}

static inline void lock_leave(struct lock *lock)
{
	if (lock_leave_only(lock))
		lock_wake(lock, 0);
}

#endif /* EVPLMEM_LOCK_H */
