// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Noticing that this process is a child: see fork.h.
 */
#include "fork.h"

#include <pthread.h>

#include "pool.h"

uint32_t fork_generation;

static void in_child(void)
{
	fork_generation += GENERATION_STEP;
	closed_pools_unlock();
}

static int watch_error;

static void watch(void)
{
	watch_error = -pthread_atfork(closed_pools_lock, closed_pools_unlock, in_child);
}

/* From the first pool on. Returns 0, or -ENOMEM. */
int fork_watch(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, watch);
	return watch_error;
}
