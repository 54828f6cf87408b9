// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Taking and dropping the references of iovecs.
 *
 * If the calling thread counts in the buffer, a reference is counted without atomics, as the
 * inlines do it. An inline that calls has tried that already; a program that calls directly
 * has not.
 */
#include <errno.h>

#include "bias.h"
#include "foreign.h"
#include "lane.h"
#include "recycle.h"
#include "sites.h"
#include "slab.h"

/* Drops a reference on an entry without a slab: a grant's, a lease's, or that of foreign memory. */
static inline void put_other(struct entry *entry, void *site)
{
	if (entry_is_grant(entry))
		grant_put(entry_grant(entry), site);
	else if (entry_is_foreign(entry))
		foreign_put(entry, site);
	else
		lease_put(entry_lease(entry), site);
}

static inline void put(const struct evpl_iovec *iovec, void *site)
{
	struct entry *entry = iovec_entry(iovec);

	if (!entry->slab)
		put_other(entry, site);
	else if (!evplmem_put(iovec->__private1, iovec->__private2) && entry_put(entry, site))
		recycle(entry);
}

/* Drops the reference of an iovec that is traced. Ignores one that is empty, or was inherited. */
static RARE void put_odd(const struct evpl_iovec *iovec, void *site)
{
	if (sites_drop(iovec))
		put(iovec, site);
}

/* An empty iovec is odd too, as it is of no process. */
static inline void iovec_put(const struct evpl_iovec *iovec, void *site)
{
	if (iovec_is_odd(iovec))
		put_odd(iovec, site);
	else
		put(iovec, site);
}

/* This is inlined, as PLACE() is to be that of an exported function. */
__attribute__((always_inline))
static inline void iovec_clone(struct evpl_iovec *dst, const struct evpl_iovec *src,
			       unsigned int offset, unsigned int length, void *site)
{
	struct entry *entry = iovec_entry(src);
	bool here = entry && !iovec_is_inherited(src);
	bool traced = here && iovec_is_odd(src);

	if (!evplmem_get(src->__private1, src->__private2) && here)
		entry_get(entry, site);
	/* This builds a copy first, as @dst may be @src. */
	*dst = (struct evpl_iovec){
		.data = entry ? (char *)src->data + offset : NULL,
		.length = length,
		.__private1 = src->__private1 & -GENERATION_STEP,
		.__private2 = src->__private2,
	};
	if (traced)
		sites_add(dst, 1, PLACE());
}

void evplmem_iovec_addref(struct evpl_iovec *iovec)
{
	struct entry *entry = iovec_entry(iovec);

	if (evplmem_get(iovec->__private1, iovec->__private2) || !entry)
		return;
	if (iovec_is_odd(iovec) && !sites_addref(iovec, PLACE()))
		return;
	entry_get(entry, CALLER());
}

void evplmem_iovec_release(struct evpl_iovec *iovec)
{
	iovec_put(iovec, CALLER());
}

/*
 * How many iovecs, from the first on, name the same buffer. An iovec that was inherited over
 * fork(2) may name a parent's buffer at the same address, so the generations are compared too.
 */
static uint32_t count_run(const struct evpl_iovec *iovecs, int niov)
{
	int n = 1;

	while (n < niov && iovecs[n].__private2 == iovecs[0].__private2 &&
	       !((iovecs[n].__private1 ^ iovecs[0].__private1) & -GENERATION_STEP))
		n++;
	return (uint32_t)n;
}

/* Slices that came in a burst often are of one buffer: one atomic operation releases them. */
void evplmem_iovecs_release(struct evpl_iovec *iovecs, int niov)
{
	struct entry *entry;
	uint32_t run;
	int i;

	for (i = 0; i < niov; i += (int)run) {
		run = 1;
		if (evplmem_put(iovecs[i].__private1, iovecs[i].__private2))
			continue;
		entry = iovec_entry(&iovecs[i]);
		if (!entry)
			continue;
		if (iovec_is_odd(&iovecs[i])) {
			put_odd(&iovecs[i], CALLER());
			continue;
		}
		if (!entry->slab) {
			put_other(entry, CALLER());
			continue;
		}
		run = count_run(&iovecs[i], niov - i);
		if (entry_is_last(entry, entry_drop(entry, run, CALLER()), run))
			recycle(entry);
	}
}

void evplmem_iovec_clone(struct evpl_iovec *dst, const struct evpl_iovec *src)
{
	iovec_clone(dst, src, 0, src->length, CALLER());
}

int evplmem_iovec_clone_segment(struct evpl_iovec *dst, const struct evpl_iovec *src,
				unsigned int offset, unsigned int length)
{
	if (iovec_is_inherited(src))
		return -EPERM;
	if (offset > src->length || length > src->length - offset)
		return -EINVAL;
	iovec_clone(dst, src, offset, length, CALLER());
	return 0;
}

/*
 * The word without the references that the calling thread and its context have and nobody uses. If
 * another thread counts in the buffer, it has at least one in @spare beside the caller's reference,
 * so the result isn't 1.
 */
static uint64_t count_here(struct entry *entry)
{
	struct evplmem_thread *thread = evplmem_self();
	const struct evpl *home = entry->home;
	uint64_t unused = 0, word;

	evplmem_enter(thread);
	if (atomic_load_explicit(&entry->owner, memory_order_relaxed) == thread) {
		unused = entry->spare;
		if (home->hot.buffer == (const struct evplmem_count *)entry)
			unused += bias_credit(home);
	}
	word = atomic_load_explicit(&entry->word, memory_order_acquire);
	evplmem_leave(thread);
	return word - unused;
}

int evplmem_iovec_is_unique(const struct evpl_iovec *iovec)
{
	struct entry *entry = iovec_entry(iovec);

	if (!entry || iovec_is_inherited(iovec))
		return 0;
	if (!entry->slab && !entry_is_foreign(entry))
		return 0;
	return count_here(entry) == 1;
}

/* The entry of the buffer that contains [@data, @data + @length), or NULL. */
static struct entry *find_entry(struct evpl_pool *pool, void *data, size_t length)
{
	struct slab *slab;
	size_t offset;

	for (slab = pool->slabs; slab; slab = slab->next) {
		offset = (uintptr_t)data - (uintptr_t)slab->extent.base;
		if (offset >= slab->extent.length)
			continue;
		if (length > pool->buffer_size - offset % pool->buffer_size)
			return NULL;
		return slab->first + offset / pool->buffer_size;
	}
	return NULL;
}

/*
 * Whether a program has a reference on the buffer, besides those that a thread or a context keeps
 * and nobody uses. If it seems that there is none, the binding is ended, so that the word alone
 * tells. Under the pool's lock.
 */
static bool is_referenced(struct entry *entry)
{
	if (bias_seems_idle(entry))
		bias_unbind(entry->home);
	if (atomic_load(&entry->word) & WORD_FREE)
		return false;
	return !entry_idle(entry) && !context_only_holds(entry);
}

int evplmem_iovec_from_iovec(struct evpl_pool *pool, struct evpl_iovec *dst,
			     const struct iovec *src, int niov)
{
	struct entry *entry;
	int i;

	if (pool_is_inherited(pool))
		return -EPERM;
	pool_lock(pool);
	for (i = 0; i < niov; i++) {
		entry = find_entry(pool, src[i].iov_base, src[i].iov_len);
		if (!entry || !is_referenced(entry))
			break;
		entry_get(entry, CALLER());
		dst[i] = (struct evpl_iovec){
			.data = src[i].iov_base,
			.length = (unsigned int)src[i].iov_len,
			.__private1 = fork_generation,
			.__private2 = (unsigned long)entry,
		};
	}
	pool_unlock(pool);
	if (i >= niov) {
		if (is_odd(pool->generation))
			sites_add(dst, niov, PLACE());
		return 0;
	}
	evplmem_iovecs_release(dst, i);
	return -EINVAL;
}

int evplmem_iovec_slab(const struct evpl_iovec *iovec, struct evpl_slab_info *info)
{
	struct slab *slab;

	if (iovec_is_inherited(iovec))
		return -EPERM;
	slab = iovec_slab(iovec);
	if (!slab)
		return -EINVAL;
	*info = slab->info;
	return 0;
}
