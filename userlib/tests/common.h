/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_TESTS_COMMON_H
#define EVPLMEM_TESTS_COMMON_H

/*
 * What the tests share. They open pools of the default back end, so EVPL_BACKEND
 * says what they test; and they look inside, so that the state is checked after
 * each step, not only what is returned.
 */

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "alloc.h"
#include "bias.h"
#include "evplmem.h"
#include "poison.h"
#include "slab.h"

#include "kselftest_harness.h"

/* A limit for what hangs: an emulated machine with a debug kernel is slow. */
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT	600

#if defined(__SANITIZE_THREAD__) || defined(EVPLMEM_ASAN)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

/* Whether counts are to be a tenth: under a sanitizer, or on an emulated machine. */
static inline bool few(void)
{
	return SANITIZED || getenv("EVPL_TEST_FEW");
}

#define KB	1024U
#define MB	(1024U * KB)

/* Of most tests: 32 buffers a slab, so that a test fills several. */
#define BUFFER	(64 * KB)
#define SLAB	(2 * MB)
#define PER_SLAB (SLAB / BUFFER)

/* What a child of fork(2) exits with that calls @function; or 256 and the signal; or -1. */
static inline int status_of(int (*function)(void *arg), void *arg)
{
	pid_t child = fork();
	int status;

	if (!child)
		_exit(function(arg));
	if (child < 0)
		return -1;
	if (waitpid(child, &status, 0) != child)
		return -1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 256 + WTERMSIG(status);
}

/* The references of an iovec's buffer; a context's hold is one. Orders nothing. */
__attribute__((no_sanitize("thread"))) static inline uint64_t word_of(const struct evpl_iovec *iovec)
{
	const struct entry *entry = iovec_entry(iovec);
	uint64_t word = atomic_load_explicit(&entry->word, memory_order_relaxed);

	/* Those that nobody uses are left out: see bias.h. */
	if (entry->slab && atomic_load_explicit(&entry->owner, memory_order_relaxed)) {
		word -= entry->own;
		if (entry->home->hot.buffer == (const struct evplmem_count *)entry)
			word -= bias_charge(entry->home) - 1;
	}
	return word;
}

static inline struct evpl_pool_stats stats_of(struct evpl_pool *pool)
{
	struct evpl_pool_stats stats = { .size = sizeof(stats) };

	if (evpl_pool_stats(pool, &stats))
		abort();
	return stats;
}

/* Buffers that aren't free in any way. */
static inline uint64_t used_in(struct evpl_pool *pool)
{
	return stats_of(pool).buffers_used;
}

static inline int open_pool(struct evpl_pool **pool, size_t buffer_size, uint64_t max_bytes)
{
	struct evpl_pool_config config = {
		.size = sizeof(config),
		.buffer_size = buffer_size,
		.slab_size_max = buffer_size > SLAB ? buffer_size : SLAB,
		.max_bytes = max_bytes,
	};

	return evpl_pool_open(pool, &config);
}

/* Whether every word of the pool is zero. */
static inline bool all_idle(struct evpl_pool *pool)
{
	struct slab *slab;
	uint32_t i;

	for (slab = pool->slabs; slab; slab = slab->next)
		for (i = 0; i < slab->count; i++)
			if (!entry_idle(&slab->first[i]))
				return false;
	return true;
}

/* Waits for another thread, on a machine that may have but one processor. */
static inline void spin(unsigned int *spins)
{
	if (++*spins % 64 == 0)
		sched_yield();
}

/* Runs one function on another thread, to its end. */
static inline void on_thread(void *(*function)(void *arg), void *arg)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, function, arg) || pthread_join(thread, NULL))
		abort();
}

/* Slabs that are there, as if they had been in use: a trim may give them back. */
static inline int prefill(struct evpl_pool *pool, uint64_t bytes)
{
	int err = evpl_pool_preallocate(pool, bytes, EVPL_ANY_NODE);

	return err ? err : evpl_pool_preallocate(pool, 0, EVPL_ANY_NODE);
}

/* Takes a slab's worth of whole buffers. */
static inline int take_slab(struct evpl *evpl, struct evpl_iovec *iovec)
{
	int i;

	for (i = 0; i < (int)PER_SLAB; i++)
		if (evpl_buffer_alloc(evpl, &iovec[i]) != 1)
			return -1;
	return 0;
}

/* Memory that another pool has sent, by a channel whose ends are both this process's. */
struct received {
	struct evpl_message message;
	struct evpl_pool *other;
	struct evpl_channel *there, *here;
};

static inline void receive_with(struct received *received, struct evpl_pool *pool,
				unsigned int length, unsigned int flags)
{
	struct evpl_message *message = &received->message;
	struct evpl *evpl;
	int peer;

	*message = (struct evpl_message){ .flags = flags };
	if (open_pool(&received->other, BUFFER, SLAB) ||
	    evpl_create(&evpl, received->other, NULL) ||
	    evpl_iovec_alloc(evpl, length, 4096, 1, &message->iovec) != 1)
		abort();
	memset(message->iovec.data, 'x', length);
	if (evpl_channel_create(&received->there, received->other, 0, 0, &peer) ||
	    evpl_channel_bind(&received->here, pool, peer, EVPL_CHANNEL_BLOCKING) ||
	    evpl_channel_send(received->there, message, 1) ||
	    evpl_channel_recv(received->here, message, 1) != 1)
		abort();
	evpl_destroy(evpl);
}

static inline void receive(struct received *received, struct evpl_pool *pool, unsigned int length)
{
	receive_with(received, pool, length, EVPL_MESSAGE_WRITE);
}

/* Whether the other pool has its buffer back when it looks. */
static inline bool is_returned(struct received *received)
{
	evpl_pool_trim(received->other);
	return used_in(received->other) == 0;
}

/* Returns what closing the other pool does. */
static inline int end_received(struct received *received)
{
	evpl_iovec_release(&received->message.iovec);
	evpl_channel_close(received->there);
	evpl_channel_close(received->here);
	return evpl_pool_close(received->other);
}

#endif /* EVPLMEM_TESTS_COMMON_H */
