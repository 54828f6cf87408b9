// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Leases on buffers of other processes: see lease.h.
 */
#include "lease.h"

#include <sched.h>
#include <sys/ioctl.h>

#include "lease_reg.h"

/* Idle leases that are released together. */
#define IDLE_BATCH	32

/* The entry of the lease that a received record names. */
struct lease *lease_of_record(struct evpl_pool *pool, const struct evpl_record *record)
{
	struct sharing *sharing = pool_sharing(pool);
	struct lease *lease = &sharing->leases[record->lease];
	uint32_t first;

	if (atomic_load_explicit(&lease->known, memory_order_acquire))
		return lease;
	/* Several threads may store these. They store the same: a lease's number keeps its size. */
	lease->slab = NULL;
	lease->pool = pool;
	lease->index = record->lease;
	lease->buffer_shift = (uint8_t)__builtin_ctz(record->buffer_size);
	if (atomic_exchange(&lease->known, true))
		return lease;
	first = atomic_load(&sharing->known);
	do {
		lease->next_known = first;
	} while (!atomic_compare_exchange_weak(&sharing->known, &first, record->lease + 1));
	return lease;
}

/* Whether no lease has a reference. */
bool leases_are_idle(struct evpl_pool *pool)
{
	struct sharing *sharing = pool_sharing(pool);
	struct lease *lease;
	uint32_t known;

	if (!sharing)
		return true;
	for (known = atomic_load(&sharing->known); known; known = lease->next_known) {
		lease = &sharing->leases[known - 1];
		if (!entry_idle(lease_entry(lease)))
			return false;
	}
	return true;
}

/* Releases leases to the kernel, which rechecks that they are idle. */
static void release_leases(struct evpl_pool *pool, const uint32_t *numbers, uint32_t count)
{
	struct evpl_lease_release release = {
		.size = sizeof(release),
		.leases = (uintptr_t)numbers,
		.count = count,
	};

	ioctl(pool->backing.fd, EVPL_LEASE_RELEASE, &release);
}

/* Releases the leases that are queued as idle. */
void leases_flush(struct evpl_pool *pool)
{
	struct sharing *sharing = pool_sharing(pool);
	uint32_t numbers[IDLE_BATCH], count = 0, idle;
	struct lease *lease;

	if (!sharing)
		return;
	idle = atomic_exchange_explicit(&sharing->idle, 0, memory_order_acquire);
	while (idle) {
		lease = &sharing->leases[idle - 1];
		numbers[count++] = idle - 1;
		idle = atomic_load_explicit(&lease->next, memory_order_relaxed);
		atomic_fetch_sub(&sharing->nr_idle, 1);
		/*
		 * From here on another thread may queue the lease again, and so set @next. A
		 * thread that dropped the last reference before found @queued set, and relies on
		 * release_leases() below. This is an exchange, so it reads what that thread has
		 * written, and the kernel then finds the reference dropped. A store wouldn't do.
		 */
		atomic_exchange(&lease->queued, false);
		if (count == IDLE_BATCH || !idle) {
			release_leases(pool, numbers, count);
			count = 0;
		}
	}
}

/* Queues a lease that has lost its last reference, to be released together with others. */
static void queue_idle(struct sharing *sharing, struct lease *lease)
{
	uint32_t first;

	if (atomic_exchange(&lease->queued, true))
		return;
	first = atomic_load_explicit(&sharing->idle, memory_order_relaxed);
	do {
		atomic_store_explicit(&lease->next, first, memory_order_relaxed);
	} while (!atomic_compare_exchange_weak_explicit(&sharing->idle, &first,
							lease->index + 1,
							memory_order_release,
							memory_order_relaxed));
	if (atomic_fetch_add(&sharing->nr_idle, 1) + 1 >= IDLE_BATCH)
		leases_flush(lease->pool);
}

/*
 * Drops a reference if more than two are left: it is then neither the last one, nor the last one
 * beside that of the lease's registrations.
 */
static bool put_of_many(struct lease *lease)
{
	uint64_t old = atomic_load_explicit(&lease->word, memory_order_relaxed);

	while (!EVPLMEM_CHECKS && (old & EVPL_WORD_COUNT) > 2)
		if (atomic_compare_exchange_weak_explicit(&lease->word, &old, old - 1,
							  memory_order_release,
							  memory_order_relaxed))
			return true;
	return false;
}

/*
 * Drops a reference on a lease. If only that of the lease's registrations is left, lease_regs_end()
 * ends the registrations, and that reference is dropped too. If none is left, the lease is
 * queued; or it is released at once, if the buffer's owner waits (EVPL_WORD_WANTED).
 *
 * @lease_puts counts the thread, which may still use the pool when the word is 0 already:
 * leases_drain() waits for such threads.
 */
void lease_put(struct lease *lease, void *site)
{
	struct evpl_pool *pool = lease->pool;
	uint64_t old;

	/* Most calls don't touch @lease_puts, which threads with other buffers write too. */
	if (put_of_many(lease))
		return;
	atomic_fetch_add(&pool->lease_puts, 1);
	old = entry_drop(lease_entry(lease), 1, site);
	if ((old & EVPL_WORD_COUNT) == 2 && lease_regs_end(lease))
		old = entry_drop(lease_entry(lease), 1, site);
	if (old == 1)
		queue_idle(pool_sharing(pool), lease);
	else if (old == (EVPL_WORD_WANTED | 1))
		release_leases(pool, &lease->index, 1);
	atomic_fetch_sub(&pool->lease_puts, 1);
}

/*
 * The pool is being closed, and no lease has a reference. Waits for threads in lease_put(), which
 * may have dropped the last reference, and not be done.
 */
void leases_drain(struct evpl_pool *pool)
{
	while (atomic_load(&pool->lease_puts))
		sched_yield();
}
