// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Allocation: slices are cut off the context's current buffer, in order of their
 * addresses. Each slice has one reference, and the context has one, its hold. A slice
 * that ends with the buffer's last byte gets the hold for its reference.
 */
#include "alloc.h"

#include <errno.h>

#include "bias.h"
#include "poison.h"
#include "pressure.h"
#include "probe.h"
#include "recycle.h"
#include "returned.h"
#include "sites.h"
#include "slab.h"
#include "trim.h"
#include "waiter.h"

/* A flag of evpl_iovec_reserve() alone. Callers can't pass it. */
#define ALLOC_RESERVE	(1U << 31)

/**
 * struct request - a request for memory, whose fields have been checked
 * @length: bytes
 * @align: a power of two, from SLICE_ALIGN to the buffer size
 * @flags: EVPL_IOVEC_* and ALLOC_RESERVE
 */
struct request {
	unsigned int length;
	unsigned int align;
	unsigned int flags;
};

/* Fills in an iovec of @buffer. The word counts the iovec's reference already. */
static void set_iovec(struct evpl_iovec *iovec, struct entry *buffer, uint32_t offset,
		      const struct request *request, bool last)
{
	iovec->data = (char *)buffer->base + offset;
	iovec->length = request->length;
	iovec->__private1 = fork_generation;
	iovec->__private2 = (unsigned long)buffer;
	if (request->flags & ALLOC_RESERVE)
		iovec->__private1 |= IOVEC_RESERVED | (last ? IOVEC_LAST : 0);
	unpoison(iovec->data, iovec->length);
}

/* Cuts a slice off the current buffer. Returns false if it doesn't fit. */
static bool cut(struct evpl *evpl, struct cursor *cursor, const struct request *request,
		struct evpl_iovec *iovec)
{
	uint64_t size = evpl->pool->buffer_size;
	struct entry *buffer = cursor->buffer;
	uint64_t start = align_up(cursor->offset, request->align);
	uint64_t end = start + request->length;

	if (end > size)
		return false;

	cursor->offset = (uint32_t)align_up(end, SLICE_ALIGN);
	if (bias_is_bound(evpl)) {
		evpl->hot.place -= EVPLMEM_CREDIT;
		if (cursor->offset == size) {
			context_drop(evpl, buffer);
			cursor->buffer = NULL;
		}
	} else if (cursor->offset == size) {
		/* The buffer is used up, and the slice gets the hold. */
		entry_set_held(buffer, false);
		cursor->buffer = NULL;
	} else {
		entry_get(buffer, CALLER());
	}
	set_iovec(iovec, buffer, (uint32_t)start, request, !cursor->buffer);
	return true;
}

/* Starts to cut the current buffer from its beginning again, if all slices were released. */
static bool cut_again(struct evpl *evpl, struct cursor *cursor, const struct request *request,
		      struct evpl_iovec *iovec)
{
	if (bias_is_bound(evpl)) {
		if (!bias_is_idle(cursor->buffer, bias_credit(evpl)))
			return false;
		bias_hold_idle(evpl, cursor->buffer);
	} else {
		if (!entry_alone(cursor->buffer))
			return false;
		if (bias_bind(evpl))
			context_hold(evpl, cursor->buffer);
	}
	poison(cursor->buffer->base, evpl->pool->buffer_size);
	cursor->offset = 0;
	return cut(evpl, cursor, request, iovec);
}

/* Takes a free buffer, with one reference; also from other contexts if @from_peers. */
static struct entry *take_buffer(struct evpl *evpl, bool from_peers)
{
	struct entry *entries = evpl->pool->backing.entries;
	struct entry *buffer;

	buffer = freelist_pop(&evpl->cache, entries);
	if (!buffer && bias_is_bound(evpl)) {
		buffer = bias_find_idle(evpl, (struct entry *)evpl->hot.buffer);
		if (buffer) {
			bias_stop(evpl, buffer);
			buffer = freelist_pop(&evpl->cache, entries);
		}
	}
	if (!buffer)
		buffer = freelist_pop(&evpl->depot->free, entries);
	if (!buffer && from_peers)
		buffer = context_reclaim_from_peers(evpl);
	if (!buffer)
		return NULL;
	buffer->home = evpl;
	atomic_store_explicit(&buffer->sealed, false, memory_order_relaxed);
	entry_take(buffer);
	return buffer;
}

/*
 * Allocates one iovec, of up to a buffer, from the memory that the pool has. Returns false if
 * none is free.
 */
static bool alloc_from(struct evpl *evpl, const struct request *request, bool from_peers,
		       struct evpl_iovec *iovec)
{
	struct cursor cursor = context_claim(evpl);
	bool private = request->flags & EVPL_IOVEC_PRIVATE;
	size_t size = evpl->pool->buffer_size;
	bool whole = private || align_up(request->length, SLICE_ALIGN) == size ||
		     (cursor.buffer && request->length >= size / 2);
	struct entry *buffer, *idle = NULL;
	bool ok = true;

	if (cursor.buffer && !private &&
	    (cut(evpl, &cursor, request, iovec) || cut_again(evpl, &cursor, request, iovec)))
		goto park;

	if (!whole && bias_is_bound(evpl))
		idle = bias_find_idle(evpl, cursor.buffer);
	buffer = idle ? idle : take_buffer(evpl, from_peers);
	if (!buffer) {
		ok = false;
		goto park;
	}
	if (whole) {
		set_iovec(iovec, buffer, 0, request, true);
		goto park;
	}

	if (cursor.buffer)
		context_drop(evpl, cursor.buffer);
	if (idle) {
		bias_hold_idle(evpl, buffer);
	} else {
		if (!bias_is_bound(evpl))
			bias_bind(evpl);
		context_hold(evpl, buffer);
	}
	cursor = (struct cursor){ .buffer = buffer };
	cut(evpl, &cursor, request, iovec);
	context_park_fresh(evpl, cursor);
	return true;
park:
	context_park(evpl, cursor);
	return ok;
}

/* Allocates one iovec from the context's current buffer alone. */
static bool alloc_from_current(struct evpl *evpl, const struct request *request,
			       struct evpl_iovec *iovec)
{
	struct cursor cursor = context_claim(evpl);
	bool ok = cursor.buffer && !(request->flags & EVPL_IOVEC_PRIVATE) &&
		  cut(evpl, &cursor, request, iovec);

	context_park(evpl, cursor);
	return ok;
}

/* How many free buffers the context could take. Under the pool's lock. */
static uint64_t count_free(struct evpl *evpl)
{
	struct evpl_pool *pool = evpl->pool;
	struct depot *depot;
	struct evpl *other;
	uint64_t n = 0;

	for (depot = pool_depots(pool); depot; depot = depot->next)
		if (context_takes(evpl, depot))
			n += freelist_count(&depot->free);
	for (other = pool_contexts(pool); other; other = other->next)
		if (context_takes(evpl, other->depot))
			n += freelist_count(&other->cache);
	return n;
}

/*
 * Whether @niov buffers are free, besides those that the waiters before this request need. If
 * @held, buffers that contexts keep count as free: they would be if all slices were released.
 */
static bool suffices(struct evpl *evpl, unsigned int niov, bool held)
{
	struct evpl_pool *pool = evpl->pool;
	uint64_t n, needed;

	pool_lock(pool);
	needed = niov + waiters_count(evpl);
	n = count_free(evpl);
	if (held)
		n += context_count_held(pool);
	pool_unlock(pool);
	return n >= needed;
}

/* Whether a buffer may be taken: no waiter comes before, or one is free that none of them needs. */
static bool may_take(struct evpl *evpl)
{
	return waiter_is_next(evpl) || suffices(evpl, 1, false);
}

/*
 * Allocates one iovec, of up to a buffer, from a new slab if need be. While there are waiters, it
 * takes a free buffer only if enough are left for the waiters before it. Two threads may both find
 * one buffer to spare, and take two. A waiter that misses the second one could have taken it while
 * it was free, and goes on waiting.
 *
 * It isn't inlined, as this rare case would make the loop of alloc_all() longer.
 */
__attribute__((noinline))
static int alloc_slowly(struct evpl *evpl, const struct request *request, struct evpl_iovec *iovec)
{
	struct evpl_pool *pool = evpl->pool;
	bool take = !pool_has_waiters(pool);
	int err;

	if (!take && alloc_from_current(evpl, request, iovec))
		return 0;
	for (;;) {
		take = take || may_take(evpl);
		/* A pool that can't grow reclaims at once. It takes no lock to know that. */
		if (take && alloc_from(evpl, request, !pool_can_grow(pool), iovec))
			return 0;
		if (returned_collect(pool))
			continue;
		err = pool_refill(pool, evpl->depot, take);
		if (err)
			return take && alloc_from(evpl, request, true, iovec) ? 0 : err;
	}
}

/* Allocates one iovec, of up to a buffer. */
static int alloc_one(struct evpl *evpl, const struct request *request, struct evpl_iovec *iovec)
{
	struct evpl_pool *pool = evpl->pool;

	if (!pool_has_waiters(pool) && alloc_from(evpl, request, !pool_can_grow(pool), iovec))
		return 0;
	return alloc_slowly(evpl, request, iovec);
}

/*
 * Frees the buffers that an allocation took before it failed. A thread that waited before isn't
 * woken: these buffers were free when it looked, and weren't enough. Two such threads would wake
 * each other for ever. A thread that looked while this one had the buffers is woken. Either it is
 * in try_last() still, and @counting says so, or it has incremented @failures since. Here @counting
 * is read first, because that thread increments @failures before it decrements @counting.
 */
static void give_back(struct evpl *evpl, struct evpl_iovec *iovecs, int niov, uint64_t failures)
{
	struct evpl_pool *pool = evpl->pool;
	struct entry *buffer;
	int i;

	for (i = 0; i < niov; i++) {
		buffer = iovec_entry(&iovecs[i]);
		if (entry_put(buffer, CALLER()))
			recycle_quietly(buffer);
	}
	pressure_look(pool);
	if (niov && (atomic_load(&pool->counting) || atomic_load(&pool->failures) != failures))
		pool_notify(pool);
}

/* Allocates all iovecs of a request, or none. */
static int alloc_all(struct evpl *evpl, const struct request *request, struct evpl_iovec *iovecs,
		     int niov)
{
	struct request part = *request;
	uint64_t failures = atomic_load(&evpl->pool->failures);
	size_t left = request->length;
	int err, i;

	for (i = 0; i < niov; i++) {
		part.length = (unsigned int)left;
		if (left > evpl->pool->buffer_size)
			part.length = (unsigned int)evpl->pool->buffer_size;
		err = alloc_one(evpl, &part, &iovecs[i]);
		if (err) {
			give_back(evpl, iovecs, i, failures);
			return err;
		}
		left -= part.length;
	}
	pressure_look(evpl->pool);
	return niov;
}

/*
 * Memory is short: frees buffers that threads keep and nobody uses. This ends all bindings, and has
 * the kernel end the idle leases on the pool's buffers. If the caller is @waiting, receivers are
 * asked to release the other leases as soon as they are idle.
 *
 * To drop a hold costs the context the rest of a buffer. So the holds are dropped only if the
 * buffers that contexts keep could make up @niov. If they couldn't, no release of their slices
 * could help either, and a release of another buffer wakes this thread all the same. A context of
 * a node has the holds dropped in any case, as it may need a whole slab of other contexts to
 * become idle.
 */
static void reclaim_idle(struct evpl *evpl, unsigned int niov, bool waiting)
{
	bool has_node = evpl->depot->node != EVPL_ANY_NODE;

	bias_unbind_all(evpl->pool);
	returned_pull(evpl->pool, waiting);
	if (has_node || suffices(evpl, niov, true))
		contexts_reclaim_current(evpl->pool);
	if (has_node)
		pool_trim(evpl->pool, evpl->depot);
}

/*
 * Sets WAITING, and looks for free buffers once more. This finds a buffer that was freed before
 * that; a release after that writes the eventfd. If there seem to be enough buffers, and the try
 * fails all the same, other threads took them first. These may have released them already, and
 * woken nobody. So this thread writes the eventfd itself.
 */
static int try_last(struct evpl *evpl, const struct request *request, struct evpl_iovec *iovecs,
		    int niov, uint64_t shrinks)
{
	struct evpl_pool *pool = evpl->pool;
	int ret = -ENOMEM;

	atomic_fetch_add(&pool->counting, 1);
	pool_wait(pool);
	reclaim_idle(evpl, (unsigned int)niov, true);
	if (suffices(evpl, (unsigned int)niov, false) || atomic_load(&pool->shrinks) != shrinks) {
		ret = alloc_all(evpl, request, iovecs, niov);
		if (ret == -ENOMEM)
			pool_wake(pool);
	}
	/* This comes after suffices() has counted: see give_back(). */
	if (ret == -ENOMEM)
		atomic_fetch_add(&pool->failures, 1);
	atomic_fetch_sub(&pool->counting, 1);
	return ret;
}

/* Allocates with buffers that reclaim_idle() frees, or has this thread wait. */
static int alloc_hard(struct evpl *evpl, const struct request *request, struct evpl_iovec *iovecs,
		      int niov)
{
	uint64_t shrinks;
	int ret;

	reclaim_idle(evpl, (unsigned int)niov, false);
	shrinks = atomic_load(&evpl->pool->shrinks);
	ret = alloc_all(evpl, request, iovecs, niov);
	if (ret == -ENOMEM)
		ret = try_last(evpl, request, iovecs, niov, shrinks);
	if (ret == -ENOMEM)
		PROBE2(fail, evpl, request->length);
	return ret;
}

/* Allocates the @niov iovecs of a request whose fields have been checked. */
static int alloc_checked(struct evpl *evpl, const struct request *request,
			 struct evpl_iovec *r_iovec, int niov)
{
	int ret = alloc_all(evpl, request, r_iovec, niov);

	return ret == -ENOMEM ? alloc_hard(evpl, request, r_iovec, niov) : ret;
}

/* The context isn't inherited. */
static inline int alloc_niov(struct evpl *evpl, unsigned int length, unsigned int align,
			       unsigned int max_iovecs, unsigned int flags,
			       struct evpl_iovec *r_iovec)
{
	size_t buffer_size = evpl->pool->buffer_size;
	struct request request = {
		.length = length,
		.align = align > SLICE_ALIGN ? align : SLICE_ALIGN,
		.flags = flags,
	};
	size_t niov;

	if (align & (align - 1) || align > buffer_size)
		return -EINVAL;
	niov = (length + buffer_size - 1) / buffer_size;
	if (niov > max_iovecs)
		return -ENOBUFS;
	if (!niov)
		return 0;
	if (length > evpl->pool->max_bytes)
		return -EMSGSIZE;
	return alloc_checked(evpl, &request, r_iovec, (int)niov);
}

/* Allocates for an exported function that was called at @place. */
static RARE int alloc_odd(struct evpl *evpl, unsigned int length, unsigned int align,
			  unsigned int max_iovecs, unsigned int flags, struct evpl_iovec *r_iovec,
			  struct place place)
{
	int ret;

	if (context_is_inherited(evpl))
		return -EPERM;
	ret = alloc_niov(evpl, length, align, max_iovecs, flags, r_iovec);
	if (ret > 0)
		sites_add(r_iovec, ret, place);
	return ret;
}

/*
 * The exported functions end with a call of this, which the compiler makes a jump. So this returns
 * to the program. If it is no jump, the site has the exported function as its first place.
 */
static __attribute__((noinline)) int alloc(struct evpl *evpl, unsigned int length,
					   unsigned int align, unsigned int max_iovecs,
					   unsigned int flags, struct evpl_iovec *r_iovec)
{
	if (is_odd(evpl->hot.generation))
		return alloc_odd(evpl, length, align, max_iovecs, flags, r_iovec, PLACE());
	return alloc_niov(evpl, length, align, max_iovecs, flags, r_iovec);
}

/*
 * Allocates one iovec as inlines do: without a claim, if the context is bound to the calling
 * thread. Returns false if that isn't possible.
 */
static bool alloc_here(struct evpl *evpl, unsigned int length, unsigned int align,
		       unsigned int max_iovecs, unsigned int marks, struct evpl_iovec *r_iovec)
{
	struct evplmem_slice slice = { 0 };

	if (max_iovecs)
		slice = evplmem_cut(&evpl->hot, length, align);
	if (!slice.data)
		return false;
	*r_iovec = (struct evpl_iovec){
		.data = slice.data,
		.length = length,
		.__private1 = slice.generation | marks,
		.__private2 = (unsigned long)slice.buffer,
	};
	return true;
}

/* An inline has tried alloc_here() already. A program that calls this directly has not. */
int evplmem_iovec_alloc(struct evpl *evpl, unsigned int length, unsigned int alignment,
			unsigned int max_iovecs, unsigned int flags, struct evpl_iovec *r_iovec)
{
	if (flags & ~EVPL_IOVEC_PRIVATE)
		return -EOPNOTSUPP;
	if (!flags && alloc_here(evpl, length, alignment, max_iovecs, 0, r_iovec))
		return 1;
	return alloc(evpl, length, alignment, max_iovecs, flags, r_iovec);
}

int evplmem_iovec_reserve(struct evpl *evpl, unsigned int length, unsigned int alignment,
			  unsigned int max_iovecs, struct evpl_iovec *r_iovec)
{
	if (alloc_here(evpl, length, alignment, max_iovecs, IOVEC_RESERVED, r_iovec))
		return 1;
	return alloc(evpl, length, alignment, max_iovecs, ALLOC_RESERVE, r_iovec);
}

static int alloc_whole(struct evpl *evpl, struct evpl_iovec *iovec)
{
	const struct request request = {
		.length = (unsigned int)evpl->pool->buffer_size,
		.align = SLICE_ALIGN,
		.flags = EVPL_IOVEC_PRIVATE,
	};

	return alloc_checked(evpl, &request, iovec, 1);
}

/* Allocates a whole buffer for the library itself. */
int alloc_buffer(struct evpl *evpl, struct evpl_iovec *iovec)
{
	return context_is_inherited(evpl) ? -EPERM : alloc_whole(evpl, iovec);
}

static RARE int alloc_buffer_odd(struct evpl *evpl, struct evpl_iovec *iovec, struct place place)
{
	int ret = alloc_buffer(evpl, iovec);

	if (ret > 0)
		sites_add(iovec, ret, place);
	return ret;
}

int evplmem_buffer_alloc(struct evpl *evpl, struct evpl_iovec *r_iovec)
{
	if (is_odd(evpl->hot.generation))
		return alloc_buffer_odd(evpl, r_iovec, PLACE());
	return alloc_whole(evpl, r_iovec);
}

/* Serves @waiter's request: in its turn if it is in the queue, else after all waiters. */
int waiter_try(struct evpl *evpl, const struct evpl_waiter *waiter)
{
	int ret;

	if (waiter->flags & ~EVPL_IOVEC_PRIVATE)
		return -EOPNOTSUPP;
	if (context_is_inherited(evpl))
		return -EPERM;
	evpl->turn = waiter->__evpl ? waiter : NULL;
	ret = alloc_niov(evpl, waiter->length, waiter->alignment, waiter->max_iovecs,
			 waiter->flags, waiter->iovecs);
	evpl->turn = NULL;
	return ret;
}
