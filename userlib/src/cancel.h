/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_CANCEL_H
#define EVPLMEM_CANCEL_H

/*
 * No function of the library is a cancellation point (pthreads(7)). A thread that was cancelled
 * inside the library would leave a lock held, a callback that counts as running, or references
 * that nobody has. So the library disables the thread's cancellation before it waits, before it
 * calls a function of libc that is a cancellation point, and before it runs a callback, which
 * may call one.
 *
 * A few paths that run often use syscall(2) instead, which isn't a cancellation point.
 */

#include <pthread.h>

static inline int cancellation_disable(void)
{
	int state;

	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
	return state;
}

static inline void cancellation_restore(const int *state)
{
	pthread_setcancelstate(*state, NULL);
}

/* Disables cancellation from here to the end of the block. */
#define NO_CANCELLATION							\
	const int cancel_state __attribute__((cleanup(cancellation_restore), unused)) =	\
		cancellation_disable()

#endif /* EVPLMEM_CANCEL_H */
