/* SPDX-License-Identifier: GPL-2.0-only */
/* A thread that sleeps in futex(2) until another one wakes it. */
#ifndef EVPL_FUTEX_H
#define EVPL_FUTEX_H

#include <linux/futex.h>
#include <pthread.h>

#include "evpl_test.h"

/* Without FUTEX_PRIVATE_FLAG: several processes, or several mappings, share the word. */
static inline long futex(uint32_t *word, int operation, uint32_t value)
{
	return syscall(SYS_futex, word, operation, value, NULL, NULL, 0);
}

struct sleeper {
	uint32_t *word;
	pthread_t thread;
	pid_t tid;
	int error;
};

static inline void *sleep_on(void *arg)
{
	struct sleeper *sleeper = arg;

	__atomic_store_n(&sleeper->tid, gettid(), __ATOMIC_RELEASE);
	sleeper->error = futex(sleeper->word, FUTEX_WAIT, 0) ? errno : 0;
	return NULL;
}

static inline bool begin_sleep(struct sleeper *sleeper, uint32_t *word)
{
	*sleeper = (struct sleeper){ .word = word };
	if (pthread_create(&sleeper->thread, NULL, sleep_on, sleeper))
		return false;
	while (!__atomic_load_n(&sleeper->tid, __ATOMIC_ACQUIRE))
		sched_yield();
	return sleeps_in(sleeper->tid, SYS_futex);
}

static inline int end_sleep(struct sleeper *sleeper)
{
	struct timespec limit;

	/* If the thread sleeps on, the program ends nevertheless. */
	clock_gettime(CLOCK_REALTIME, &limit);
	limit.tv_sec += LIMIT;
	if (pthread_timedjoin_np(sleeper->thread, NULL, &limit))
		sleeper->error = ETIMEDOUT;
	return sleeper->error;
}

#endif /* EVPL_FUTEX_H */
