// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * race ordered|unordered: threads write to buffers. With "ordered", the library's releases and
 * allocations order their accesses, and nothing else does. With "unordered", nothing does.
 */
#include <evplmem.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#define BUFFER	(1 << 20)
#define ROUNDS	2000

static struct evpl_pool *pool;

/* Waits for a free buffer and writes to it, after all accesses of threads that had it before. */
static void take(struct evpl *evpl, struct evpl_iovec *iovec)
{
	while (evpl_buffer_alloc(evpl, iovec) != 1)
		sched_yield();
	((char *)iovec->data)[0]++;
}

static void *take_turns(void *arg)
{
	struct evpl_iovec iovec, slice;
	struct evpl *evpl;
	int i;

	(void)arg;
	if (evpl_create(&evpl, pool, NULL))
		abort();
	for (i = 0; i < ROUNDS; i++) {
		take(evpl, &iovec);
		if (i % 2)
			evpl_iovecs_release(&iovec, 1);
		else
			evpl_iovec_release(&iovec);
		if (evpl_iovec_alloc(evpl, 100, 0, 1, &slice) == 1) {
			((char *)slice.data)[0]++;
			evpl_iovec_addref(&slice);
			evpl_iovec_release(&slice);
			evpl_iovec_release(&slice);
		}
		if (evpl_iovec_reserve(evpl, 100, 0, 1, &slice) == 1) {
			((char *)slice.data)[0]++;
			evpl_iovec_commit(evpl, &slice, 1, i % 3);
			if (i % 3)
				evpl_iovec_release(&slice);
		}
	}
	evpl_destroy(evpl);
	return NULL;
}

/* The thread owns a clone. It or another thread releases the last reference. */
static void *write_and_release(void *arg)
{
	struct evpl_iovec *clone = (struct evpl_iovec *)arg;

	((char *)clone->data)[0]++;
	evpl_iovec_release(clone);
	return NULL;
}

static int hand_out_clones(void)
{
	struct evpl_iovec iovec, other, clone[8];
	pthread_t thread[8];
	struct evpl *evpl;
	int i;

	if (evpl_create(&evpl, pool, NULL) || evpl_buffer_alloc(evpl, &other) != 1 ||
	    evpl_buffer_alloc(evpl, &iovec) != 1)
		return 1;
	for (i = 0; i < 8; i++) {
		evpl_iovec_clone(&clone[i], &iovec);
		evpl_iovec_release(&iovec);
		if (pthread_create(&thread[i], NULL, write_and_release, &clone[i]))
			return 1;
		/* The other buffer is in use, so this gets the one that the thread releases. */
		take(evpl, &iovec);
	}
	for (i = 0; i < 8; i++)
		pthread_join(thread[i], NULL);
	evpl_iovec_release(&iovec);
	evpl_iovec_release(&other);
	evpl_destroy(evpl);
	return 0;
}

/* This thread and another one write to the same slice at the same time. */
static int write_at_once(void)
{
	struct evpl_iovec iovec, clone;
	pthread_t thread;
	struct evpl *evpl;

	if (evpl_create(&evpl, pool, NULL) || evpl_iovec_alloc(evpl, 100, 0, 1, &iovec) != 1)
		return 1;
	evpl_iovec_clone(&clone, &iovec);
	if (pthread_create(&thread, NULL, write_and_release, &clone))
		return 1;
	((char *)iovec.data)[0]++;
	pthread_join(thread, NULL);
	evpl_iovec_release(&iovec);
	evpl_destroy(evpl);
	return 0;
}

int main(int argc, char **argv)
{
	struct evpl_pool_config config = {
		.size = sizeof(config),
		.backend = EVPL_BACKEND_ANON,
		.buffer_size = BUFFER,
		.max_bytes = 2 * BUFFER,
	};
	pthread_t thread[4];
	int i;

	if (argc != 2 || evpl_pool_open(&pool, &config))
		return 2;
	if (!strcmp(argv[1], "unordered"))
		return write_at_once();
	for (i = 0; i < 4; i++)
		if (pthread_create(&thread[i], NULL, take_turns, NULL))
			return 2;
	for (i = 0; i < 4; i++)
		pthread_join(thread[i], NULL);
	return hand_out_clones() || evpl_pool_close(pool);
}
