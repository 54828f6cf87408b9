/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_CANCEL_H
#define EVPLMEM_CANCEL_H

/*
 * No function of the library is a point of cancellation (pthreads(7)). A thread that was
 * cancelled within one would leave a lock held, a call-back that counts as running, or
 * references that nobody has. So the library waits, makes calls of libc that are such points,
 * and calls back, with the thread's cancellation disabled. What a call-back does is unknown,
 * and may be such a point too.
 *
 * A few paths that run often make their system call by syscall(2), which isn't one.
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

/* From here to the end of the block. */
#define NO_CANCELLATION							\
	const int cancel_state __attribute__((cleanup(cancellation_restore), unused)) =	\
		cancellation_disable()

#endif /* EVPLMEM_CANCEL_H */
