// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * What is done to an iovec once it was allocated: references come and go.
 *
 * A reference of a buffer that this thread counts in is counted as inlines do it. These
 * have tried that already when they call; a program that calls by itself has not.
 */
#include <errno.h>

#include "bias.h"
#include "foreign.h"
#include "recycle.h"
#include "sharing.h"
#include "slab.h"

/* Of what no slab of this process has. */
static void put_other(struct entry *entry, void *site)
{
	if (entry_is_foreign(entry))
		foreign_put(entry, site);
	else
		sharing_put(entry, site);
}

static inline void iovec_put(const struct evpl_iovec *iovec, void *site)
{
	struct entry *entry = iovec_entry(iovec);

	if (evplmem_put(iovec->__private1, iovec->__private2))
		return;
	if (!entry || iovec_is_inherited(iovec))
		return;
	if (!entry->slab)
		put_other(entry, site);
	else if (entry_put(entry, site))
		recycle(entry);
}

static inline void iovec_clone(struct evpl_iovec *dst, const struct evpl_iovec *src,
			       unsigned int offset, unsigned int length, void *site)
{
	struct entry *entry = iovec_entry(src);

	if (!evplmem_get(src->__private1, src->__private2) && entry && !iovec_is_inherited(src))
		entry_get(entry, site);
	/* By way of a copy, as @dst may be @src. */
	*dst = (struct evpl_iovec){
		.data = entry ? (char *)src->data + offset : NULL,
		.length = length,
		.__private1 = src->__private1 & -GENERATION_STEP,
		.__private2 = src->__private2,
	};
}

void evplmem_iovec_addref(struct evpl_iovec *iovec)
{
	struct entry *entry = iovec_entry(iovec);

	if (evplmem_get(iovec->__private1, iovec->__private2))
		return;
	if (entry && !iovec_is_inherited(iovec))
		entry_get(entry, CALLER());
}

void evplmem_iovec_release(struct evpl_iovec *iovec)
{
	iovec_put(iovec, CALLER());
}

/*
 * How many iovecs, from the first on, are of one buffer; not one that a parent had at the
 * same place.
 */
static uint32_t count_run(const struct evpl_iovec *iovecs, int niov)
{
	int n = 1;

	while (n < niov && iovecs[n].__private2 == iovecs[0].__private2 &&
	       !((iovecs[n].__private1 ^ iovecs[0].__private1) & -GENERATION_STEP))
		n++;
	return (uint32_t)n;
}

/* What came in a burst was often cut off one buffer: that is one operation then. */
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
		if (!entry || iovec_is_inherited(&iovecs[i]))
			continue;
		if (!entry->slab) {
			put_other(entry, CALLER());
			continue;
		}
		run = count_run(&iovecs[i], niov - i);
		if (entry_drop(entry, run, CALLER()) == run)
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
 * What is left of the word without what this thread, and its context, have of the buffer and
 * nobody uses. Another thread that counts in it has at least one, so this isn't 1 then.
 */
static uint64_t count_here(struct entry *entry)
{
	struct evplmem_thread *thread = evplmem_self();
	const struct evpl *home = entry->home;
	uint64_t unused = 0, word;

	evplmem_enter(thread);
	if (atomic_load_explicit(&entry->owner, memory_order_relaxed) == thread) {
		unused = entry->own;
		if (home->hot.buffer == (const struct evplmem_count *)entry)
			unused += bias_charge(home);
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

/* The entry of the buffer that has all of [@data, @data + @length). */
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
 * Whether somebody has a reference on the buffer, beside what a thread or a context keeps of
 * it. Only if it doesn't seem so is the thread's count ended, to see for sure. Under the
 * pool's lock.
 */
static bool is_referenced(struct entry *entry)
{
	if (bias_seems_idle(entry))
		bias_unbind(entry->home);
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
	if (i >= niov)
		return 0;
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
