// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Counting without atomics: see bias.h.
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

/* A binding that served fewer buffers than this brought nothing. */
#define BIAS_WORTH	16
#define BIAS_PATIENCE	1023

__thread struct evplmem_thread evplmem_thread = { .generation = EVPLMEM_NO_GENERATION };

/* Guards all bindings, and the list of them. Taken last. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* The contexts that are bound. */
static struct evpl *bound;

/* Whose destructor ends the bindings of a thread that ends. */
static pthread_key_t key;

static bool possible;

/* Its destructor ran: it may be the last one, so nothing is bound to this thread any more. */
static __thread bool ended;

static int membarrier(int command)
{
	return (int)syscall(SYS_membarrier, command, 0, 0);
}

static void list_add(struct evpl *evpl)
{
	evpl->next_bound = bound;
	evpl->link_bound = &bound;
	if (bound)
		bound->link_bound = &evpl->next_bound;
	bound = evpl;
}

static void list_remove(struct evpl *evpl)
{
	*evpl->link_bound = evpl->next_bound;
	if (evpl->next_bound)
		evpl->next_bound->link_bound = evpl->link_bound;
}

/* The thread no longer counts for this context: from the next barrier on. */
static void strike_out(struct evpl *evpl)
{
	uint32_t i;

	__atomic_store_n(&evpl->hot.thread, NULL, __ATOMIC_RELAXED);
	for (i = 0; i < evpl->nr_slots; i++)
		atomic_store_explicit(&evpl->slots[i]->owner, NULL, memory_order_release);
}

/*
 * Waits for another thread, which may be of a lower priority. Not by nanosleep(2), which is
 * a point of cancellation.
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
 * Waits until no section of @thread runs that began before a barrier.
 *
 * A thread that was bound as late as in the last round of its destructors of thread-specific
 * data ended bound, and its memory may be unmapped by now. So it is the kernel that looks: a
 * word that isn't 1 gives EAGAIN, one that isn't there gives EFAULT. Nothing
 * wakes this wait, which ends by its time: a section is some instructions long, unless its
 * thread was preempted.
 */
static void wait_for_section(struct evplmem_thread *thread)
{
	static const struct timespec moment = { .tv_nsec = 20000 };

	while (!syscall(SYS_futex, &thread->busy, FUTEX_WAIT_PRIVATE, 1, &moment, NULL, 0) ||
	       (errno != EAGAIN && errno != EFAULT))
		;
	/* What the thread did in sections is seen from here on. */
	atomic_thread_fence(memory_order_seq_cst);
	race_acquire(&thread->busy);
}

/*
 * All threads of the process pass a barrier. The call was there when it was registered; a
 * process that has it refused since can't go on, as nobody can tell what is counted.
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

static void set_charge(struct evpl *evpl, uint32_t charge)
{
	evpl->hot.place = charge * EVPLMEM_CHARGE | (uint32_t)evpl->hot.place;
}

static void take_off(struct entry *buffer, uint32_t n)
{
	if (atomic_fetch_sub_explicit(&buffer->word, n, memory_order_acq_rel) == n)
		recycle(buffer);
}

/* What a thread counts in is out of the cache's room; of it the current one always is. */
static void limit_cache(struct evpl *evpl)
{
	uint32_t kept = evpl->nr_slots ? evpl->nr_slots : 1;

	atomic_store_explicit(&evpl->limit, evpl->room - kept, memory_order_relaxed);
}

/* What its thread had for this context goes into the words. Of its charge one is left. */
static void settle(struct evpl *evpl)
{
	uint32_t i;

	list_remove(evpl);
	if (bias_charge(evpl) > 1)
		take_off((struct entry *)evpl->hot.buffer, bias_charge(evpl) - 1);
	set_charge(evpl, 0);
	for (i = 0; i < evpl->nr_slots; i++)
		bias_end(evpl->slots[i]);
	evpl->nr_slots = 0;
	limit_cache(evpl);

	if (evpl->worth < BIAS_WORTH)
		evpl->backoff = evpl->backoff * 2 + 1 < BIAS_PATIENCE ?
				evpl->backoff * 2 + 1 : BIAS_PATIENCE;
	else
		evpl->backoff = 0;
	evpl->patience = evpl->backoff;
	PROBE2(unbind, evpl, evpl->worth);
}

/* Begins to unbind it. Returns false if it isn't bound, or its thread is at it. */
static bool begin(struct evpl *evpl)
{
	uint64_t expected = CURRENT_BOUND;

	if (!atomic_compare_exchange_strong(&evpl->current, &expected, CURRENT_TAKEN))
		return false;
	evpl->taken = evpl->hot.thread;
	strike_out(evpl);
	return true;
}

/* What its thread had left is the context's current buffer. */
static void end(struct evpl *evpl)
{
	struct cursor cursor = bias_cursor(evpl);

	settle(evpl);
	evpl->taken = NULL;
	atomic_store(&evpl->current, cursor.buffer ? current_word(cursor) : CURRENT_NONE);
}

/* Ends what binds a context, by any thread that hasn't claimed it. */
void bias_unbind(struct evpl *evpl)
{
	pthread_mutex_lock(&lock);
	if (begin(evpl)) {
		barrier();
		wait_for_section(evpl->taken);
		end(evpl);
	}
	pthread_mutex_unlock(&lock);
}

/*
 * Where others count in the word what the buffer's thread lets go of in its part, both grow,
 * by what nobody uses. In some thousand million steps they would be too much.
 */
void bias_relieve(struct entry *entry)
{
	if (entry->slab && atomic_load_explicit(&entry->owner, memory_order_relaxed))
		bias_unbind(entry->home);
}

/* All contexts, at the price of one barrier. */
void bias_unbind_all(struct evpl_pool *pool)
{
	struct evpl *evpl;
	bool any = false;

	pthread_mutex_lock(&lock);
	for (evpl = pool_contexts(pool); evpl; evpl = evpl->next)
		any |= begin(evpl);
	if (any)
		barrier();
	for (evpl = pool_contexts(pool); any && evpl; evpl = evpl->next) {
		if (!evpl->taken)
			continue;
		wait_for_section(evpl->taken);
		end(evpl);
	}
	pthread_mutex_unlock(&lock);
}

/*
 * The thread that has claimed it, and whose it is, ends the binding; @current is what it
 * cuts slices off, or NULL, and has one reference left of the context's.
 */
void bias_give_up(struct evpl *evpl, struct entry *current)
{
	evpl->hot.buffer = (struct evplmem_count *)current;
	pthread_mutex_lock(&lock);
	strike_out(evpl);
	settle(evpl);
	pthread_mutex_unlock(&lock);
}

/* For who met CURRENT_TAKEN. */
void bias_wait(void)
{
	pthread_mutex_lock(&lock);
	pthread_mutex_unlock(&lock);
}

/* A thread ends. */
static void thread_ends(void *arg)
{
	struct evplmem_thread *thread = arg;
	struct evpl *evpl, *next;

	ended = true;
	pthread_mutex_lock(&lock);
	for (evpl = bound; evpl; evpl = next) {
		next = evpl->next_bound;
		if (__atomic_load_n(&evpl->hot.thread, __ATOMIC_RELAXED) == thread && begin(evpl))
			end(evpl);
	}
	thread->generation = EVPLMEM_NO_GENERATION;
	pthread_mutex_unlock(&lock);
}

/* A program that is linked with libc.a has none of them, and no need. */
__attribute__((weak)) __typeof__(dladdr1) dladdr1;
__attribute__((weak)) __typeof__(dlopen) dlopen;

/*
 * Threads that end call the destructor above. So the shared object that it is in, which may
 * be a plugin that is linked with the static library, stays when it is closed. There is no
 * name for the program itself, which stays anyway.
 *
 * Under no lock: a constructor that opens a pool has the dynamic linker's.
 */
static void stay_loaded(void)
{
	struct link_map *map;
	Dl_info info;

	if (dladdr1 && dlopen && dladdr1(&key, &info, (void **)&map, RTLD_DL_LINKMAP) &&
	    map->l_name[0])
		dlopen(map->l_name, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE);
}

/* Once in a process's life, and once more in each child that opens a pool. */
void bias_set_up(void)
{
	static atomic_bool pinned;
	static uint32_t generation;

	/* Twice does no harm. */
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

/* In the child of a fork: what its only thread had was its parent's. */
void bias_forget(void)
{
	pthread_mutex_init(&lock, NULL);
	bound = NULL;
	evplmem_thread = (struct evplmem_thread){ .generation = EVPLMEM_NO_GENERATION };
}

/*
 * The context, which the caller has claimed and whose current buffer it dropped, is the
 * calling thread's. Checks want each reference in the word, and no program's inlines to
 * pass the library by. Returns false if it can't be had.
 */
bool bias_bind(struct evpl *evpl)
{
	struct evplmem_thread *thread = evplmem_self();

	if (EVPLMEM_CHECKS || POISONS || evpl->pool->atomic || !possible || ended)
		return false;
	if (atomic_load(&evpl->pool->waiting) & WAITING)
		return false;
	if (evpl->patience) {
		evpl->patience--;
		return false;
	}
	if (thread->generation != fork_generation) {
		if (pthread_setspecific(key, thread))
			return false;
		thread->generation = fork_generation;
	}
	/* Never blocks; another time, then. */
	if (pthread_mutex_trylock(&lock))
		return false;
	list_add(evpl);
	pthread_mutex_unlock(&lock);
	__atomic_store_n(&evpl->hot.thread, thread, __ATOMIC_RELAXED);
	evpl->worth = 0;
	PROBE1(bind, evpl);
	return true;
}

/* It goes on among those that are counted with atomics, by who may count in it. */
void bias_end(struct entry *buffer)
{
	uint32_t own = buffer->own;

	atomic_store_explicit(&buffer->owner, NULL, memory_order_relaxed);
	buffer->own = 0;
	take_off(buffer, own);
}

/* The same of one that isn't to be found among the thread's any more, if it was. */
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

/* A slot for @buffer, in which the thread counts from here. */
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
	buffer->own = 0;
	atomic_store_explicit(&buffer->owner, evpl->hot.thread, memory_order_relaxed);
}

/*
 * The buffer becomes the current one: the caller's reference of it, and more, are the
 * thread's and the context's.
 */
void bias_hold(struct evpl *evpl, struct entry *buffer)
{
	if (!bias_has(evpl, buffer)) {
		give_slot(evpl, buffer);
		atomic_fetch_add_explicit(&buffer->word, BIAS_OWN + BIAS_CHARGE - 1,
					  memory_order_relaxed);
		buffer->own = BIAS_OWN;
	} else if (buffer->own > BIAS_CHARGE) {
		/* It was current before, and the thread has what was left of the charge. */
		buffer->own -= BIAS_CHARGE - 1;
	} else {
		atomic_fetch_add_explicit(&buffer->word, BIAS_CHARGE - 1, memory_order_relaxed);
	}
	set_charge(evpl, BIAS_CHARGE);
	evpl->worth++;
}

/* The same of one that nobody has a reference of, as the thread has found. */
void bias_hold_idle(struct evpl *evpl, struct entry *buffer)
{
	atomic_store_explicit(&buffer->word, BIAS_OWN + BIAS_CHARGE, memory_order_relaxed);
	buffer->own = BIAS_OWN;
	set_charge(evpl, BIAS_CHARGE);
	evpl->worth++;
}

/*
 * Slices that are reserved and not used take from the charge, and from the buffer nothing:
 * there is to be enough for what inlines can cut off it.
 */
void bias_recharge(struct evpl *evpl, struct entry *buffer)
{
	if (bias_charge(evpl) > BIAS_CHARGE / 2)
		return;
	atomic_fetch_add_explicit(&buffer->word, BIAS_CHARGE / 2, memory_order_relaxed);
	set_charge(evpl, bias_charge(evpl) + BIAS_CHARGE / 2);
}

/* The current buffer is the thread's alone from here. */
void bias_drop(struct evpl *evpl, struct entry *buffer)
{
	buffer->own += bias_charge(evpl);
	set_charge(evpl, 0);
}

/* A buffer of the thread's that nobody uses, other than @current. */
struct entry *bias_find_idle(struct evpl *evpl, const struct entry *current)
{
	uint32_t i;

	for (i = 0; i < evpl->nr_slots; i++)
		if (evpl->slots[i] != current && bias_is_idle(evpl->slots[i], 0))
			return evpl->slots[i];
	return NULL;
}

/* Whether a thread counts in the buffer, and nobody seems to use it, at some moment. */
__attribute__((no_sanitize("thread"))) bool bias_seems_idle(struct entry *buffer)
{
	uint32_t kept = *(volatile uint32_t *)&buffer->own;
	struct evplmem_context *hot;

	if (!atomic_load(&buffer->owner))
		return false;
	hot = &buffer->home->hot;
	if (*(struct evplmem_count *volatile *)&hot->buffer == (struct evplmem_count *)buffer)
		kept += (uint32_t)(*(volatile uint64_t *)&hot->place / EVPLMEM_CHARGE);
	return atomic_load(&buffer->word) == kept;
}

/* For statistics: how many the thread keeps that nobody uses, at some moment. */
__attribute__((no_sanitize("thread"))) uint32_t bias_count_idle(const struct evpl *evpl)
{
	uint32_t i, n = 0;

	for (i = 0; i < BIAS_SLOTS; i++) {
		struct entry *buffer = *(struct entry *const volatile *)&evpl->slots[i];

		n += buffer && i < *(const volatile uint32_t *)&evpl->nr_slots &&
		     atomic_load(&buffer->word) == *(volatile uint32_t *)&buffer->own;
	}
	return n;
}
