// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Making and ending the bindings of contexts to threads: see bias.h.
 */
#include "bias.h"

#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <linux/futex.h>
#include <linux/membarrier.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "poison.h"
#include "probe.h"
#include "race.h"
#include "recycle.h"

/* A binding that has made fewer buffers than this current delays the next one. */
#define BIAS_SERVED_MIN	16
/* The most calls of bias_bind() that are refused after such bindings. */
#define REBIND_DELAY_MAX	1023

__thread struct evplmem_thread evplmem_thread = { .generation = EVPLMEM_NO_GENERATION };

/* Guards the list below. Held while a context is CURRENT_TAKEN. The innermost lock. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* The contexts that are bound. */
static struct evpl *bound;

/* Its destructor is thread_ends(). */
static pthread_key_t key;

/* The key was created, and membarrier(2) can be used. */
static bool possible;

/* thread_ends() has run here. It may not run again, so no context is bound to this thread. */
static __thread bool ended;

static int membarrier(int command)
{
	return (int)syscall(SYS_membarrier, command, 0, 0);
}

static void bound_list_add(struct evpl *evpl)
{
	evpl->next_bound = bound;
	evpl->link_bound = &bound;
	if (bound)
		bound->link_bound = &evpl->next_bound;
	bound = evpl;
}

static void bound_list_remove(struct evpl *evpl)
{
	*evpl->link_bound = evpl->next_bound;
	if (evpl->next_bound)
		evpl->next_bound->link_bound = evpl->link_bound;
}

/*
 * Takes the context and the buffers in its slots from their thread. A section of the thread may
 * go on using them until barrier() and wait_for_section() have returned. Release: when
 * context_seal() reads NULL here, it then sees that @current isn't CURRENT_BOUND any more.
 */
static void clear_owners(struct evpl *evpl)
{
	uint32_t i;

	__atomic_store_n(&evpl->hot.thread, NULL, __ATOMIC_RELAXED);
	for (i = 0; i < evpl->nr_slots; i++)
		atomic_store_explicit(&evpl->slots[i]->owner, NULL, memory_order_release);
}

/*
 * Gives way to a thread that this one waits for. It may have a lower priority, so yielding alone
 * may not let it run. nanosleep(2) would be a cancellation point; syscall(2) isn't one.
 */
void bias_pause(int tries)
{
	static const struct timespec moment = { .tv_nsec = 20000 };

	if (tries < 16)
		sched_yield();
	else
		syscall(SYS_nanosleep, &moment, NULL);
}

/*
 * Waits until @thread has left a section that began before the barrier.
 *
 * A context may have been bound to the thread in the last round of its destructors of
 * thread-specific data. The thread has then exited bound, and @thread may be unmapped by now. So
 * the kernel reads @busy: FUTEX_WAIT gives EAGAIN if @busy isn't 1, and EFAULT if it is unmapped.
 * Nobody wakes this futex. The wait times out and is repeated: a section takes a few
 * instructions, unless its thread is preempted.
 */
static void wait_for_section(struct evplmem_thread *thread)
{
	static const struct timespec moment = { .tv_nsec = 20000 };

	while (!syscall(SYS_futex, &thread->busy, FUTEX_WAIT_PRIVATE, 1, &moment, NULL, 0) ||
	       (errno != EAGAIN && errno != EFAULT))
		;
	/* The kernel loaded @busy. So acquire here the counts that sections have changed. */
	atomic_thread_fence(memory_order_seq_cst);
	race_acquire(&thread->busy);
}

/*
 * Has every thread of the process execute a memory barrier. membarrier(2) worked in bias_set_up().
 * If a filter of seccomp(2) refuses it now, the process can't go on: no thread can know any more
 * which references another one has counted.
 */
static void barrier(void)
{
	static const char why[] =
		"evplmem: membarrier(2) is refused, which was allowed when a pool was opened: "
		"open the pool with EVPL_POOL_ATOMIC\n";
	int tries;

	for (tries = 0; membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED); tries++) {
		if (errno != ENOMEM) {
			syscall(SYS_write, STDERR_FILENO, why, sizeof(why) - 1);
			abort();
		}
		bias_pause(tries);
	}
}

static void set_credit(struct evpl *evpl, uint32_t credit)
{
	evpl->hot.place = credit * EVPLMEM_CREDIT | (uint32_t)evpl->hot.place;
}

static void sub_spare(struct entry *buffer, uint32_t n)
{
	uint64_t old = atomic_fetch_sub_explicit(&buffer->word, n, memory_order_acq_rel);

	if (entry_is_last(buffer, old, n))
		recycle(buffer);
}

/* Buffers that a thread counts in take room of the cache; the current buffer always does. */
static void limit_cache(struct evpl *evpl)
{
	uint32_t not_cached = evpl->nr_slots ? evpl->nr_slots : 1;

	atomic_store_explicit(&evpl->limit, evpl->cache_max - not_cached, memory_order_relaxed);
}

/*
 * Subtracts from the words the references that the thread and the context had and nobody used. One
 * reference of the credit stays: it is the context's hold. The thread then has no part in the
 * context any more.
 */
static void drop_bias(struct evpl *evpl)
{
	uint32_t i;

	bound_list_remove(evpl);
	if (bias_credit(evpl) > 1)
		sub_spare((struct entry *)evpl->hot.buffer, bias_credit(evpl) - 1);
	set_credit(evpl, 0);
	for (i = 0; i < evpl->nr_slots; i++)
		bias_end(evpl->slots[i]);
	evpl->nr_slots = 0;
	limit_cache(evpl);

	if (evpl->served < BIAS_SERVED_MIN)
		evpl->rebind_backoff = evpl->rebind_backoff * 2 + 1 < REBIND_DELAY_MAX ?
				       evpl->rebind_backoff * 2 + 1 : REBIND_DELAY_MAX;
	else
		evpl->rebind_backoff = 0;
	evpl->rebind_delay = evpl->rebind_backoff;
	PROBE2(unbind, evpl, evpl->served);
}

/* Begins to unbind @evpl. Returns false if it isn't bound, or if its thread has claimed it. */
static bool unbind_begin(struct evpl *evpl)
{
	uint64_t expected = CURRENT_BOUND;

	if (!atomic_compare_exchange_strong(&evpl->current, &expected, CURRENT_TAKEN))
		return false;
	evpl->taken = evpl->hot.thread;
	clear_owners(evpl);
	return true;
}

/* Ends the unbinding: parks the current buffer, which the thread cut slices off. */
static void unbind_end(struct evpl *evpl)
{
	struct cursor cursor = bias_cursor(evpl);

	drop_bias(evpl);
	evpl->taken = NULL;
	atomic_store(&evpl->current, cursor.buffer ? current_word(cursor) : CURRENT_NONE);
}

/* Ends a context's binding, on any thread that hasn't claimed the context. */
void bias_unbind(struct evpl *evpl)
{
	pthread_mutex_lock(&lock);
	if (unbind_begin(evpl)) {
		barrier();
		wait_for_section(evpl->taken);
		unbind_end(evpl);
	}
	pthread_mutex_unlock(&lock);
}

/*
 * The word of @entry has grown too large. If other threads take references in the word, and the
 * owner drops them into @spare, both grow by references that nobody uses. The word's count would
 * overflow after some thousand million of these. Ending the binding subtracts them.
 */
void bias_relieve(struct entry *entry)
{
	if (entry->slab && atomic_load_explicit(&entry->owner, memory_order_relaxed))
		bias_unbind(entry->home);
}

/* Unbinds all contexts of the pool, with one barrier(). */
void bias_unbind_all(struct evpl_pool *pool)
{
	struct evpl *evpl;
	bool any = false;

	pthread_mutex_lock(&lock);
	for (evpl = pool_contexts(pool); evpl; evpl = evpl->next)
		any |= unbind_begin(evpl);
	if (any)
		barrier();
	for (evpl = pool_contexts(pool); any && evpl; evpl = evpl->next) {
		if (!evpl->taken)
			continue;
		wait_for_section(evpl->taken);
		unbind_end(evpl);
	}
	pthread_mutex_unlock(&lock);
}

/*
 * Ends the binding on the thread that the context is bound to, which has claimed the context. It
 * isn't in a section, so there is no need for a barrier(). @current is the current buffer, or
 * NULL; one reference of its credit stays, as the context's hold.
 */
void bias_give_up(struct evpl *evpl, struct entry *current)
{
	evpl->hot.buffer = (struct evplmem_count *)current;
	pthread_mutex_lock(&lock);
	clear_owners(evpl);
	drop_bias(evpl);
	pthread_mutex_unlock(&lock);
}

/* Waits while a context is CURRENT_TAKEN: the thread that unbinds it has the lock. */
void bias_wait(void)
{
	pthread_mutex_lock(&lock);
	pthread_mutex_unlock(&lock);
}

/* A thread exits: ends its bindings. It isn't in a section, so there is no need for a barrier(). */
static void thread_ends(void *arg)
{
	struct evplmem_thread *thread = arg;
	struct evpl *evpl, *next;

	ended = true;
	pthread_mutex_lock(&lock);
	for (evpl = bound; evpl; evpl = next) {
		next = evpl->next_bound;
		if (__atomic_load_n(&evpl->hot.thread, __ATOMIC_RELAXED) == thread &&
		    unbind_begin(evpl))
			unbind_end(evpl);
	}
	thread->generation = EVPLMEM_NO_GENERATION;
	pthread_mutex_unlock(&lock);
}

/* Weak: a program that is linked with libc.a has neither, and needs neither. */
__attribute__((weak)) __typeof__(dladdr1) dladdr1;
__attribute__((weak)) __typeof__(dlopen) dlopen;

/*
 * Keeps the shared object with thread_ends() mapped after dlclose(3), since threads that exit
 * later still call it. That object is the library, or a plugin that is linked with the static
 * library. The program itself has an empty name, and is never unmapped.
 *
 * The caller doesn't hold @lock: dlopen(3) takes the dynamic linker's lock, and a constructor
 * that opens a pool takes @lock with the linker's lock held.
 */
static void stay_loaded(void)
{
	struct link_map *map;
	Dl_info info;

	if (dladdr1 && dlopen && dladdr1(&key, &info, (void **)&map, RTLD_DL_LINKMAP) &&
	    map->l_name[0])
		dlopen(map->l_name, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE);
}

/* Prepares bindings: once in a process, and once more in each child that opens a pool. */
void bias_set_up(void)
{
	static atomic_bool pinned;
	static uint32_t generation;

	/* Two threads may get here at once, which does no harm. */
	if (!atomic_load(&pinned))
		stay_loaded();
	atomic_store(&pinned, true);

	pthread_mutex_lock(&lock);
	if (!generation)
		possible = !pthread_key_create(&key, thread_ends);
	if (generation != fork_generation) {
		generation = fork_generation;
		possible = possible &&
			   !membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED);
	}
	pthread_mutex_unlock(&lock);
}

/* In the child of fork(2): the bindings that the child's only thread had are its parent's. */
void bias_forget(void)
{
	pthread_mutex_init(&lock, NULL);
	bound = NULL;
	evplmem_thread = (struct evplmem_thread){ .generation = EVPLMEM_NO_GENERATION };
}

/*
 * Binds the context to the calling thread, which has claimed it. bias_hold() of a current buffer
 * follows. Returns false if the context can't be bound now. Builds with checks, or for
 * AddressSanitizer, never bind: they need each reference counted in the word, and each slice cut
 * by the library instead of an inline.
 */
bool bias_bind(struct evpl *evpl)
{
	struct evplmem_thread *thread = evplmem_self();

	if (EVPLMEM_CHECKS || POISONS || evpl->pool->atomic || !possible || ended)
		return false;
	if (atomic_load(&evpl->pool->waiting) & (WAITING | SHORT))
		return false;
	if (evpl->rebind_delay) {
		evpl->rebind_delay--;
		return false;
	}
	if (thread->generation != fork_generation) {
		if (pthread_setspecific(key, thread))
			return false;
		thread->generation = fork_generation;
	}
	/* An allocation doesn't block. The next one tries again. */
	if (pthread_mutex_trylock(&lock))
		return false;
	/* A thread that has set SHORT ends the bindings under the lock, before this one or after. */
	if (atomic_load(&evpl->pool->waiting) & SHORT) {
		pthread_mutex_unlock(&lock);
		return false;
	}
	bound_list_add(evpl);
	pthread_mutex_unlock(&lock);
	__atomic_store_n(&evpl->hot.thread, thread, __ATOMIC_RELAXED);
	evpl->served = 0;
	PROBE1(bind, evpl);
	return true;
}

/*
 * Ends a thread's counting in @buffer: from here on only the word counts. Called by the owner, or
 * by the thread that ends the binding.
 */
void bias_end(struct entry *buffer)
{
	uint32_t spare = buffer->spare;

	atomic_store_explicit(&buffer->owner, NULL, memory_order_relaxed);
	buffer->spare = 0;
	sub_spare(buffer, spare);
}

/* Ends the thread's counting in @buffer, if it counts there, and frees the buffer's slot. */
void bias_stop(struct evpl *evpl, struct entry *buffer)
{
	uint32_t i;

	for (i = 0; i < evpl->nr_slots; i++) {
		if (evpl->slots[i] != buffer)
			continue;
		evpl->slots[i] = evpl->slots[--evpl->nr_slots];
		limit_cache(evpl);
		bias_end(buffer);
		return;
	}
}

/* Gives @buffer a slot, another buffer's if need be: from here on the thread counts in it. */
static void give_slot(struct evpl *evpl, struct entry *buffer)
{
	uint32_t i;

	if (evpl->nr_slots < evpl->max_slots) {
		i = evpl->nr_slots++;
		limit_cache(evpl);
	} else {
		i = evpl->next_slot++ % evpl->max_slots;
		bias_end(evpl->slots[i]);
	}
	evpl->slots[i] = buffer;
	buffer->spare = 0;
	atomic_store_explicit(&buffer->owner, evpl->hot.thread, memory_order_relaxed);
}

/*
 * Makes @buffer current. The caller's reference becomes a part of the credit. The word goes up
 * by the rest of the credit, and by @spare if the thread didn't count in the buffer before.
 */
void bias_hold(struct evpl *evpl, struct entry *buffer)
{
	if (!bias_has(evpl, buffer)) {
		give_slot(evpl, buffer);
		atomic_fetch_add_explicit(&buffer->word, BIAS_SPARE + BIAS_CREDIT - 1,
					  memory_order_relaxed);
		buffer->spare = BIAS_SPARE;
	} else if (buffer->spare > BIAS_CREDIT) {
		/* The buffer was current before: bias_drop() has left its credit in @spare. */
		buffer->spare -= BIAS_CREDIT - 1;
	} else {
		atomic_fetch_add_explicit(&buffer->word, BIAS_CREDIT - 1, memory_order_relaxed);
	}
	set_credit(evpl, BIAS_CREDIT);
	evpl->served++;
}

/*
 * Makes @buffer current, which the thread counts in and has found idle (bias_is_idle()). Nobody
 * else has a reference. So nobody else changes the word, but the kernel may clear
 * EVPL_WORD_SHARED. If that isn't set, a store sets the word.
 */
void bias_hold_idle(struct evpl *evpl, struct entry *buffer)
{
	uint64_t word = atomic_load_explicit(&buffer->word, memory_order_relaxed);

	if (word & EVPL_WORD_SHARED)
		atomic_fetch_add_explicit(&buffer->word,
					  BIAS_SPARE + BIAS_CREDIT - (word & EVPL_WORD_COUNT),
					  memory_order_relaxed);
	else
		atomic_store_explicit(&buffer->word, BIAS_SPARE + BIAS_CREDIT,
				      memory_order_relaxed);
	buffer->spare = BIAS_SPARE;
	set_credit(evpl, BIAS_CREDIT);
	evpl->served++;
}

/*
 * Refills the credit. A slice that was reserved and committed with no bytes has used up one
 * reference of the credit, and nothing of the buffer. The inlines don't check the credit, which
 * must last for all slices that they can still cut off the buffer.
 */
void bias_refill_credit(struct evpl *evpl, struct entry *buffer)
{
	if (bias_credit(evpl) > BIAS_CREDIT / 2)
		return;
	atomic_fetch_add_explicit(&buffer->word, BIAS_CREDIT / 2, memory_order_relaxed);
	set_credit(evpl, bias_credit(evpl) + BIAS_CREDIT / 2);
}

/* @buffer is current no longer: the rest of its credit goes to @spare. */
void bias_drop(struct evpl *evpl, struct entry *buffer)
{
	buffer->spare += bias_credit(evpl);
	set_credit(evpl, 0);
}

/* A buffer that the thread counts in and nobody uses, other than @current; or NULL. */
struct entry *bias_find_idle(struct evpl *evpl, const struct entry *current)
{
	uint32_t i;

	for (i = 0; i < evpl->nr_slots; i++)
		if (evpl->slots[i] != current && bias_is_idle(evpl->slots[i], 0))
			return evpl->slots[i];
	return NULL;
}

/*
 * Whether a thread counts in @buffer, and nobody seems to use it. The thread may be changing what
 * this reads, so the answer is a hint.
 */
__attribute__((no_sanitize("thread"))) bool bias_seems_idle(struct entry *buffer)
{
	uint32_t unused = *(volatile uint32_t *)&buffer->spare;
	struct evplmem_context *hot;

	if (!atomic_load(&buffer->owner))
		return false;
	hot = &buffer->home->hot;
	if (*(struct evplmem_count *volatile *)&hot->buffer == (struct evplmem_count *)buffer)
		unused += (uint32_t)(*(volatile uint64_t *)&hot->place / EVPLMEM_CREDIT);
	return (atomic_load(&buffer->word) & EVPL_WORD_COUNT) == unused;
}

/* For statistics: about how many buffers the context's thread counts in that nobody uses. */
__attribute__((no_sanitize("thread"))) uint32_t bias_count_idle(const struct evpl *evpl)
{
	uint32_t i, n = 0;

	for (i = 0; i < BIAS_SLOTS; i++) {
		struct entry *buffer = *(struct entry *const volatile *)&evpl->slots[i];

		n += buffer && i < *(const volatile uint32_t *)&evpl->nr_slots &&
		     entry_has_only(buffer, atomic_load(&buffer->word),
				    *(volatile uint32_t *)&buffer->spare);
	}
	return n;
}
