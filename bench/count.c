// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * bench-count PATH N: runs a path of the library N times, for scripts/bench-check to count
 * the instructions. Without arguments it prints the names of the paths.
 */
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <evplmem.h>
#include <valgrind/callgrind.h>

#include "lanes.h"

#define SLICE	4096U
#define LIVE	64
#define BURST	32

static struct evpl_pool *pool;
static struct evpl *evpl;

static void need(int ok)
{
	if (!ok) {
		fprintf(stderr, "bench-count: the library has no memory\n");
		exit(1);
	}
}

static void same_thread(long n)
{
	struct evpl_iovec iovecs[LIVE];
	long i;

	memset(iovecs, 0, sizeof(iovecs));
	for (i = 0; i < n; i++) {
		evpl_iovec_release(&iovecs[i % LIVE]);
		need(evpl_iovec_alloc(evpl, SLICE, 0, 1, &iovecs[i % LIVE]) == 1);
	}
	evpl_iovecs_release(iovecs, n < LIVE ? (int)n : LIVE);
}

static void addref(long n)
{
	struct evpl_iovec iovec;
	long i;

	need(evpl_iovec_alloc(evpl, SLICE, 0, 1, &iovec) == 1);
	for (i = 0; i < n; i++) {
		evpl_iovec_addref(&iovec);
		evpl_iovec_release(&iovec);
	}
	evpl_iovec_release(&iovec);
}

static void clone_iovec(long n)
{
	struct evpl_iovec iovec, copy;
	long i;

	need(evpl_iovec_alloc(evpl, SLICE, 0, 1, &iovec) == 1);
	for (i = 0; i < n; i++) {
		evpl_iovec_clone(&copy, &iovec);
		evpl_iovec_release(&copy);
	}
	evpl_iovec_release(&iovec);
}

static void clone_segment(long n)
{
	struct evpl_iovec iovec, copy;
	long i;

	need(evpl_iovec_alloc(evpl, SLICE, 0, 1, &iovec) == 1);
	for (i = 0; i < n; i++) {
		need(!evpl_iovec_clone_segment(&copy, &iovec, 100, 200));
		evpl_iovec_release(&copy);
	}
	evpl_iovec_release(&iovec);
}

static void burst(long n)
{
	struct evpl_iovec iovecs[BURST];
	long i;
	int j;

	for (i = 0; i < n; i += BURST) {
		for (j = 0; j < BURST; j++)
			need(evpl_iovec_alloc(evpl, SLICE, 0, 1, &iovecs[j]) == 1);
		evpl_iovecs_release(iovecs, BURST);
	}
}

static void buffers(long n)
{
	struct evpl_iovec iovec;
	long i;

	for (i = 0; i < n; i++) {
		need(evpl_buffer_alloc(evpl, &iovec) == 1);
		evpl_iovec_release(&iovec);
	}
}

static void reserve(long n)
{
	struct evpl_iovec iovec;
	long i;

	for (i = 0; i < n; i++) {
		need(evpl_iovec_reserve(evpl, 2 * SLICE, 0, 1, &iovec) == 1);
		need(evpl_iovec_commit(evpl, &iovec, 1, SLICE) == 1);
		evpl_iovec_release(&iovec);
	}
}

/* Like a receive that finds nothing to read. */
static void reserve_nothing(long n)
{
	struct evpl_iovec iovec;
	long i;

	for (i = 0; i < n; i++) {
		need(evpl_iovec_reserve(evpl, 2 * SLICE, 0, 1, &iovec) == 1);
		need(evpl_iovec_commit(evpl, &iovec, 1, 0) == 0);
	}
}

/* Run a function that releases, on another thread. */
static void *elsewhere(void *arg)
{
	((void (*)(void))arg)();
	return NULL;
}

static struct evpl_iovec *there;
static long there_n;

static void release_each(void)
{
	long i;

	for (i = 0; i < there_n; i++)
		evpl_iovec_release(&there[i]);
}

static void release_bursts(void)
{
	long i;

	for (i = 0; i < there_n; i += BURST)
		evpl_iovecs_release(&there[i], BURST);
}

static void cross(long n, void (*release)(void))
{
	pthread_t thread;
	long i;

	there = calloc((size_t)n, sizeof(*there));
	there_n = n;
	need(there != NULL);
	for (i = 0; i < n; i++)
		need(evpl_iovec_alloc(evpl, 256, 0, 1, &there[i]) == 1);
	need(!pthread_create(&thread, NULL, elsewhere, (void *)release));
	pthread_join(thread, NULL);
	free(there);
}

static void cross_thread(long n)
{
	cross(n, release_each);
}

static void cross_burst(long n)
{
	cross(n, release_bursts);
}

/*
 * Messages of a slice each go over a lane, from @buffers buffers in turn. Of the batches, only the
 * part that the path is called after is counted.
 */
static void lane(long n, int buffers, int at_once, bool counts_send, bool counts_receive)
{
	struct evpl_message messages[LANES_BATCH];
	struct evpl_channel *from, *to;
	struct lanes lanes;
	long i;
	int j;

	CALLGRIND_TOGGLE_COLLECT;
	lanes_make(&lanes, SLICE, buffers);
	from = lanes.channels[0];
	to = lanes.channels[1];
	for (i = 0; i < n; i += LANES_BATCH) {
		lanes_fill(&lanes, 0, messages, LANES_BATCH);
		if (counts_send)
			CALLGRIND_TOGGLE_COLLECT;
		for (j = 0; j < LANES_BATCH; j += at_once)
			need(!evpl_channel_send(from, &messages[j], at_once));
		if (counts_send != counts_receive)
			CALLGRIND_TOGGLE_COLLECT;
		for (j = 0; j < LANES_BATCH; j += at_once)
			need(evpl_channel_recv(to, &messages[j], at_once) == at_once);
		for (j = 0; j < LANES_BATCH; j++)
			evpl_iovec_release(&messages[j].iovec);
		if (counts_receive)
			CALLGRIND_TOGGLE_COLLECT;
	}
	CALLGRIND_TOGGLE_COLLECT;
}

static void lane_send(long n)
{
	lane(n, 1, 1, true, false);
}

static void lane_send_buffers(long n)
{
	lane(n, LANES_BATCH, 1, true, false);
}

static void lane_recv_release(long n)
{
	lane(n, 1, 1, false, true);
}

static void lane_burst(long n)
{
	lane(n, LANES_BATCH, LANES_BATCH, true, true);
}

static const struct {
	const char *name;
	void (*run)(long n);
} paths[] = {
	{ "same-thread", same_thread },
	{ "addref", addref },
	{ "clone", clone_iovec },
	{ "clone-segment", clone_segment },
	{ "burst", burst },
	{ "whole-buffers", buffers },
	{ "reserve-commit", reserve },
	{ "reserve-commit-nothing", reserve_nothing },
	{ "cross-thread", cross_thread },
	{ "cross-burst", cross_burst },
	{ "lane-send", lane_send },
	{ "lane-send-buffers", lane_send_buffers },
	{ "lane-recv-release", lane_recv_release },
	{ "lane-burst", lane_burst },
};

#define NR_PATHS (sizeof(paths) / sizeof(paths[0]))

int main(int argc, char **argv)
{
	struct evpl_pool_config config = {
		.size = sizeof(config),
		.backend = EVPL_BACKEND_ANON,
		.slab_size = 64U << 20,
	};
	size_t i;

	if (argc != 3) {
		for (i = 0; i < NR_PATHS; i++)
			puts(paths[i].name);
		return 0;
	}
	need(!evpl_pool_open(&pool, &config) && !evpl_create(&evpl, pool, NULL));
	for (i = 0; i < NR_PATHS; i++)
		if (!strcmp(argv[1], paths[i].name))
			paths[i].run(atol(argv[2]));
	evpl_destroy(evpl);
	need(!evpl_pool_close(pool));
	return 0;
}
