// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Locks: see lock.h. syscall(2) isn't a cancellation point.
 */
#include "lock.h"

#include <linux/futex.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

/*
 * Waits for the lock and takes it. A thread that has waited can't know whether others still do, so
 * it leaves the lock as LOCK_AWAITED. At worst nobody is woken by one call of the kernel.
 */
void lock_wait(struct lock *lock)
{
	while (atomic_exchange_explicit(&lock->state, LOCK_AWAITED, memory_order_acquire) != LOCK_FREE)
		syscall(SYS_futex, &lock->state, FUTEX_WAIT_PRIVATE, LOCK_AWAITED, NULL, NULL, 0);
}

/* Wakes one of the threads that wait, once the lock is free. Returns @ret, for a caller's last call. */
int lock_wake(struct lock *lock, int ret)
{
	syscall(SYS_futex, &lock->state, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
	return ret;
}
