/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_TESTS_COMMON_H
#define EVPLMEM_TESTS_COMMON_H

/*
 * Helpers that the tests share. The tests open pools of the default back end, so the
 * environment variable EVPL_BACKEND chooses the back end that they test. They use the library's
 * internal headers: so they check the state after each step, and not only the return values.
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

/* This ends a test that hangs. It is long, as an emulated machine with a debug kernel is slow. */
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

/* Whether tests should do fewer rounds: under a sanitizer, or on an emulated machine. */
static inline bool few(void)
{
	return SANITIZED || getenv("EVPL_TEST_FEW");
}

/* Whether the kernel looks for bugs, so that each step into it takes long. */
static inline bool is_slow(void)
{
	const char *percent = getenv("EVPL_TEST_PERCENT");

	return percent && atoi(percent) <= 10;
}

#define KB	1024U
#define MB	(1024U * KB)

/* The sizes of most tests. A slab has only 32 buffers, so that a test can fill several slabs. */
#define BUFFER	(64 * KB)
#define PAGE	((unsigned int)sysconf(_SC_PAGESIZE))
#define SLAB	(2 * MB)
#define PER_SLAB (SLAB / BUFFER)

/*
 * Calls @function in a child of fork(2). Returns the child's exit status, 256 plus the signal that
 * killed it, or -1 if there was no child.
 */
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

/*
 * The references of an iovec's buffer. The hold of the context that cuts slices off the buffer
 * counts as one, and so does all that other processes have of the buffer. The loads are relaxed, so
 * a call orders no accesses to the buffer.
 */
__attribute__((no_sanitize("thread"))) static inline uint64_t word_of(const struct evpl_iovec *iovec)
{
	const struct entry *entry = iovec_entry(iovec);
	uint64_t word = atomic_load_explicit(&entry->word, memory_order_relaxed);

	if (word & EVPL_WORD_SHARED)
		word -= EVPL_WORD_SHARED - 1;
	/* Leave out the references that a thread or a context keeps in reserve: see bias.h. */
	if (entry->slab && atomic_load_explicit(&entry->owner, memory_order_relaxed)) {
		word -= entry->spare;
		if (entry->home->hot.buffer == (const struct evplmem_count *)entry)
			word -= bias_credit(entry->home) - 1;
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

/* Buffers that are neither free nor in the cache of a context. */
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

/* Whether no buffer of the pool has a reference. */
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

/* One round of waiting for another thread. It yields, as a machine may have only one processor. */
static inline void spin(unsigned int *spins)
{
	if (++*spins % 64 == 0)
		sched_yield();
}

/* Runs @function on another thread, and waits until it returns. */
static inline void on_thread(void *(*function)(void *arg), void *arg)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, function, arg) || pthread_join(thread, NULL))
		abort();
}

/*
 * Has the pool take slabs that a trim may give back. The second call ends the reservation that the
 * first one made.
 */
static inline int prefill(struct evpl_pool *pool, uint64_t bytes)
{
	int err = evpl_pool_preallocate(pool, bytes, EVPL_ANY_NODE);

	return err ? err : evpl_pool_preallocate(pool, 0, EVPL_ANY_NODE);
}

/* Allocates as many whole buffers as a slab has. */
static inline int take_slab(struct evpl *evpl, struct evpl_iovec *iovec)
{
	int i;

	for (i = 0; i < (int)PER_SLAB; i++)
		if (evpl_buffer_alloc(evpl, &iovec[i]) != 1)
			return -1;
	return 0;
}

/* Memory that another pool has sent. Both ends of the channel belong to this process. */
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

/* Whether the other pool has its buffer back. A trim makes it look for returned buffers. */
static inline bool is_returned(struct received *received)
{
	evpl_pool_trim(received->other);
	return used_in(received->other) == 0;
}

/* Releases all that receive_with() made. Returns the result of closing the other pool. */
static inline int end_received(struct received *received)
{
	evpl_iovec_release(&received->message.iovec);
	evpl_channel_close(received->there);
	evpl_channel_close(received->here);
	return evpl_pool_close(received->other);
}

#endif /* EVPLMEM_TESTS_COMMON_H */
