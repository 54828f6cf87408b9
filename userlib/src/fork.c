// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Noticing that this process is a child: see fork.h.
 */
#include "fork.h"

#include <pthread.h>

#include "bias.h"
#include "pool.h"

uint32_t fork_generation = GENERATION_STEP;

static int watch_error;

static void in_child(void)
{
	fork_generation += GENERATION_STEP;
	closed_pools_forget();
	bias_forget();
}

/* There is none for the parent: it would take locks in an order that isn't the program's. */
static void watch(void)
{
	watch_error = -pthread_atfork(NULL, NULL, in_child);
}

/* Returns 0; or -ENOMEM where a child wouldn't be noticed. */
int fork_watched(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, watch);
	return watch_error;
}

/* Before the program registers handlers of its own: so this one comes first in a child. */
__attribute__((constructor)) static void watch_early(void)
{
	fork_watched();
}
