// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Exchanging buffers with other processes: see sharing.h.
 */
#include "sharing.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "context.h"
#include "error.h"
#include "guest.h"
#include "recycle.h"
#include "slab.h"

#define BITS_PER_PAGE	(8 * 4096U)
#define WORDS_PER_PAGE	(BITS_PER_PAGE / 64)

/* A window to map: where the address goes, its mmap offset, its length and protection. */
struct window {
	void **where;
	uint64_t offset;
	uint64_t size;
	int protection;
};

#define NR_WINDOWS	(NR_GUESTS + 3)

/* The mmap offset of a guest window, by its index in sharing->guest. */
static uint64_t guest_start(const struct evpl_setup *setup, int guest)
{
	const uint64_t starts[NR_GUESTS] = {
		setup->out_guest_offset, setup->out_guest_ro_offset,
		setup->out_guest_io_offset, setup->out_guest_io_ro_offset,
	};

	return starts[guest];
}

static void list_windows(struct sharing *sharing, const struct evpl_setup *setup,
			 struct window windows[NR_WINDOWS])
{
	const int rw = PROT_READ | PROT_WRITE;
	int i;

	for (i = 0; i < NR_GUESTS; i++)
		windows[i] = (struct window){ (void **)&sharing->guest[i],
					      guest_start(setup, i), setup->out_guest_size,
					      i % 2 ? PROT_READ : rw };
	windows[i++] = (struct window){ (void **)&sharing->leases, setup->out_leases_offset,
					setup->out_leases_size, rw };
	windows[i++] = (struct window){ (void **)&sharing->header, setup->out_header_offset,
					setup->out_header_size, rw };
	windows[i++] = (struct window){ (void **)&sharing->returned, setup->out_returned_offset,
					setup->out_returned_size, rw };
}

/* The address of an mmap offset in a guest window, or NULL if the offset is in none. */
void *sharing_memory(struct evpl_pool *pool, uint64_t offset)
{
	const struct evpl_setup *setup = &pool->backing.setup;
	uint64_t in_window;
	int i;

	for (i = 0; i < NR_GUESTS; i++) {
		in_window = offset - guest_start(setup, i);
		if (in_window < setup->out_guest_size)
			return pool_sharing(pool)->guest[i] + in_window;
	}
	return NULL;
}

/* The mmap offset of an address in a guest window, or UINT64_MAX if the address is in none. */
uint64_t sharing_guest_offset(struct evpl_pool *pool, const void *data)
{
	const struct evpl_setup *setup = &pool->backing.setup;
	uint64_t in_window;
	int i;

	for (i = 0; i < NR_GUESTS; i++) {
		in_window = (uintptr_t)data - (uintptr_t)pool_sharing(pool)->guest[i];
		if (in_window < setup->out_guest_size)
			return guest_start(setup, i) + in_window;
	}
	return UINT64_MAX;
}

/* Whether an mmap offset is in a window of device leases: guest-io or guest-io-ro. */
bool sharing_is_io(struct evpl_pool *pool, uint64_t offset)
{
	const struct evpl_setup *setup = &pool->backing.setup;

	return offset - setup->out_guest_io_offset < setup->out_guest_size ||
	       offset - setup->out_guest_io_ro_offset < setup->out_guest_size;
}

static void unmap(struct window *windows, int nr)
{
	while (nr--)
		munmap(*windows[nr].where, windows[nr].size);
}

/* Maps the pool's windows, if they aren't mapped yet. The caller holds no lock. */
int sharing_make(struct evpl_pool *pool)
{
	struct window windows[NR_WINDOWS];
	struct sharing *sharing;
	int err = 0, i;

	if (pool->backing.ops->id != EVPL_BACKEND_MODULE)
		return -EOPNOTSUPP;

	pool_lock(pool);
	if (pool_sharing(pool))
		goto unlock;
	err = -ENOMEM;
	sharing = calloc(1, sizeof(*sharing));
	if (!sharing)
		goto unlock;
	list_windows(sharing, &pool->backing.setup, windows);
	for (i = 0; i < NR_WINDOWS; i++) {
		void *p = mmap(NULL, windows[i].size, windows[i].protection,
			       MAP_SHARED | MAP_NORESERVE, pool->backing.fd,
			       (off_t)windows[i].offset);

		if (p == MAP_FAILED) {
			err = -errno;
			/* Callers return this, and their EAGAIN is about a channel's records. */
			if (err == -EAGAIN) {
				error_explain_mlockall("mapping what others send");
				err = -ENOMEM;
			}
			unmap(windows, i);
			free(sharing);
			goto unlock;
		}
		*windows[i].where = p;
	}
	atomic_store_explicit(&pool->sharing, sharing, memory_order_release);
	err = 0;
unlock:
	pool_unlock(pool);
	return err;
}

/* The pool is being closed, and no reference is left. Unmaps the windows. */
void sharing_end(struct evpl_pool *pool)
{
	struct window windows[NR_WINDOWS];
	struct sharing *sharing = pool_sharing(pool);

	if (!sharing)
		return;
	/* A thread in sharing_put() may have dropped the last reference, and not be done. */
	while (atomic_load(&pool->letting_go))
		sched_yield();
	guests_free(pool);
	list_windows(sharing, &pool->backing.setup, windows);
	unmap(windows, NR_WINDOWS);
	free(sharing);
	atomic_store(&pool->sharing, NULL);
}

/* The mmap offset of an iovec's first byte, in the pool's own window or in a guest window. */
int sharing_offset(struct evpl_pool *pool, const struct evpl_iovec *iovec, uint64_t *offset)
{
	struct entry *entry = iovec_entry(iovec);
	struct slab *slab;

	if (!entry)
		return -EINVAL;
	if (iovec_is_inherited(iovec))
		return -EPERM;
	slab = entry->slab;
	if (slab) {
		if (slab->pool != pool)
			return -EINVAL;
		*offset = slab->extent.offset +
			  (uint64_t)((char *)iovec->data - (char *)slab->extent.base);
		return 0;
	}
	if (entry->pool != pool)
		return -EINVAL;
	*offset = sharing_guest_offset(pool, iovec->data);
	return 0;
}

/*
 * Prepares an iovec whose reference the caller is about to give up to the kernel. No slice is cut
 * any more off a buffer of the pool, since others will see it. If devices @may_hold the buffer,
 * devices_set_baseline() first has the kernel count the references of this process's devices. A
 * device lease gets one more reference until sharing_unhold(). So the last reference of the lease
 * isn't dropped by the kernel, but by sharing_put(), which ends the registrations too.
 */
void sharing_hold(struct evpl_pool *pool, const struct evpl_iovec *iovec, uint64_t offset,
		  bool may_hold)
{
	struct slab *slab = iovec_slab(iovec);

	if (slab) {
		context_retire(iovec_entry(iovec));
		if (may_hold)
			devices_set_baseline(slab);
	} else if (sharing_is_io(pool, offset)) {
		entry_get(iovec_entry(iovec), CALLER());
	}
}

/*
 * Undoes sharing_hold() afterwards, whether or not the reference was given up. It goes by @offset:
 * the entry of a buffer that was given up may be another buffer's by now.
 */
void sharing_unhold(struct evpl_pool *pool, const struct evpl_iovec *iovec, uint64_t offset)
{
	if (sharing_is_io(pool, offset))
		sharing_put(iovec_entry(iovec), CALLER());
}

static _Atomic uint64_t *summary_of(struct sharing *sharing)
{
	return (_Atomic uint64_t *)&sharing->header->returned;
}

/*
 * Notes that a buffer of the pool was sent, so its page of the returned bitmap exists.
 * A thread in sharing_collect() may have taken the summary bit before, and have passed the page
 * by because it wasn't in @sent. So the summary bit is set once more.
 */
void sharing_note_sent(struct sharing *sharing, uint32_t index)
{
	uint32_t page = index / BITS_PER_PAGE;
	uint64_t bit = 1ULL << page % 64;

	if (atomic_load_explicit(&sharing->sent[page / 64], memory_order_relaxed) & bit)
		return;
	atomic_fetch_or(&sharing->sent[page / 64], bit);
	atomic_fetch_or(summary_of(sharing), bit);
}

/*
 * Takes the bits of a page of the returned bitmap, and recycles the buffers. A bit is a hint, so
 * the word is looked at, too. Returns whether there were any buffers.
 */
static bool collect_page(struct evpl_pool *pool, struct sharing *sharing, uint32_t page)
{
	_Atomic uint64_t *words = sharing->returned + page * WORDS_PER_PAGE;
	struct entry *entry;
	bool any = false;
	uint64_t bits;
	uint32_t i;

	for (i = 0; i < WORDS_PER_PAGE; i++) {
		if (!atomic_load_explicit(&words[i], memory_order_relaxed))
			continue;
		bits = atomic_exchange_explicit(&words[i], 0, memory_order_acquire);
		for (; bits; bits &= bits - 1) {
			entry = pool->backing.entries + page * BITS_PER_PAGE + i * 64 +
				(uint32_t)__builtin_ctzll(bits);
			if (!entry_idle(entry))
				continue;
			recycle(entry);
			any = true;
		}
	}
	return any;
}

/*
 * Recycles the buffers whose words the kernel took to zero. Returns whether there were any. The
 * kernel sets a bit in the bitmap, then the one in the summary. This takes the summary first: if
 * it misses a bit in the bitmap, the kernel sets the summary's bit afterwards.
 */
bool sharing_collect(struct evpl_pool *pool)
{
	struct sharing *sharing = pool_sharing(pool);
	uint32_t page, residue;
	bool any = false;
	uint64_t bits;

	if (!sharing || !atomic_load(&sharing->bound))
		return false;
	if (!atomic_load_explicit(summary_of(sharing), memory_order_relaxed))
		return false;
	bits = atomic_exchange(summary_of(sharing), 0);
	for (; bits; bits &= bits - 1) {
		residue = (uint32_t)__builtin_ctzll(bits);
		for (page = residue; page < RETURNED_PAGES; page += 64)
			if (atomic_load(&sharing->sent[page / 64]) >> residue & 1)
				any |= collect_page(pool, sharing, page);
	}
	return any;
}

/*
 * Has the kernel end the idle leases that others have on the pool's buffers and haven't released
 * yet, then recycles the buffers. If @want, the leases that aren't idle, and those that messages
 * on their way will become, are released as soon as they are idle (EVPL_PULL_WANT).
 */
bool sharing_pull(struct evpl_pool *pool, bool want)
{
	struct evpl_lease_pull pull = {
		.size = sizeof(pull),
		.flags = want ? EVPL_PULL_WANT : 0,
	};

	if (!pool_sharing(pool))
		return false;
	ioctl(pool->backing.fd, EVPL_LEASE_PULL, &pull);
	return sharing_collect(pool);
}

/* The entry of the lease that a received record names. */
struct entry *sharing_lease(struct evpl_pool *pool, const struct evpl_record *record)
{
	struct sharing *sharing = pool_sharing(pool);
	struct entry *lease = &sharing->leases[record->lease];
	uint32_t first;

	if (atomic_load_explicit(&lease->known, memory_order_acquire))
		return lease;
	/* Several threads may store these. They store the same: a lease's number keeps its size. */
	lease->slab = NULL;
	lease->pool = pool;
	lease->index = record->lease;
	lease->shift = (uint8_t)__builtin_ctz(record->buffer_size);
	if (atomic_exchange(&lease->known, true))
		return lease;
	first = atomic_load(&sharing->known);
	do {
		lease->next_known = first;
	} while (!atomic_compare_exchange_weak(&sharing->known, &first, record->lease + 1));
	return lease;
}

/* Whether no lease has a reference. */
bool sharing_is_idle(struct evpl_pool *pool)
{
	struct sharing *sharing = pool_sharing(pool);
	struct entry *lease;
	uint32_t known;

	if (!sharing)
		return true;
	for (known = atomic_load(&sharing->known); known; known = lease->next_known) {
		lease = &sharing->leases[known - 1];
		if (!entry_idle(lease))
			return false;
	}
	return true;
}

/* Releases leases to the kernel, which rechecks that they are idle. */
static void let_go(struct evpl_pool *pool, const uint32_t *numbers, uint32_t count)
{
	struct evpl_lease_release release = {
		.size = sizeof(release),
		.leases = (uintptr_t)numbers,
		.count = count,
	};

	ioctl(pool->backing.fd, EVPL_LEASE_RELEASE, &release);
}

/* Releases the leases that are queued as idle. */
void sharing_flush(struct evpl_pool *pool)
{
	struct sharing *sharing = pool_sharing(pool);
	uint32_t numbers[IDLE_BATCH], count = 0, idle;
	struct entry *lease;

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
		 * let_go() below.
		 */
		atomic_store(&lease->queued, false);
		if (count == IDLE_BATCH || !idle) {
			let_go(pool, numbers, count);
			count = 0;
		}
	}
}

/* Queues a lease that has lost its last reference, to be released together with others. */
static void queue(struct sharing *sharing, struct entry *lease)
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
		sharing_flush(lease->pool);
}

/*
 * Drops a reference if more than two are left: it is then neither the last one, nor the last one
 * beside that of the lease's registrations.
 */
static bool put_of_many(struct entry *lease)
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
 * Drops a reference on a lease. If only that of the lease's registrations is left, guest_end()
 * ends the registrations, and that reference is dropped too. If none is left, the lease is
 * queued; or it is released at once, if the buffer's owner waits (EVPL_WORD_WANTED).
 *
 * @letting_go counts the thread, which may still use the pool when the word is 0 already:
 * sharing_end() waits for such threads.
 */
void sharing_put(struct entry *lease, void *site)
{
	struct evpl_pool *pool = lease->pool;
	uint64_t old;

	/* Most calls don't touch @letting_go, which threads with other buffers write too. */
	if (put_of_many(lease))
		return;
	atomic_fetch_add(&pool->letting_go, 1);
	old = entry_drop(lease, 1, site);
	if ((old & EVPL_WORD_COUNT) == 2 && guest_end(lease))
		old = entry_drop(lease, 1, site);
	if (old == 1)
		queue(pool_sharing(pool), lease);
	else if (old == (EVPL_WORD_WANTED | 1))
		let_go(pool, &lease->index, 1);
	atomic_fetch_sub(&pool->letting_go, 1);
}
