// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Noticing that this process is a child: see fork.h.
 */
#include "fork.h"

#include <pthread.h>

#include "bias.h"
#include "lane.h"
#include "pool.h"
#include "sites.h"

uint32_t fork_generation = GENERATION_STEP;

static int watch_error;

static void in_child(void)
{
	fork_generation += GENERATION_STEP;
	closed_pools_forget();
	bias_forget();
	lanes_forget();
	sites_forget();
}

/* There is no prepare handler: it would take locks in an order that may not be the program's. */
static void watch(void)
{
	watch_error = -pthread_atfork(NULL, NULL, in_child);
}

/* Sees to it that in_child() runs after fork(2). Returns 0, or -ENOMEM if it won't. */
int fork_watched(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, watch);
	return watch_error;
}

/* A child's handlers run in the order of their registration: this one before the program's. */
__attribute__((constructor)) static void watch_early(void)
{
	fork_watched();
}
