// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * The queue for memory: see waiter.h.
 */
#include "waiter.h"

#include <errno.h>

#include "alloc.h"
#include "cancel.h"
#include "recycle.h"
#include "sites.h"

/*
 * How many buffers the queue reserves, of those that @evpl could take, for waiters that come
 * before its present request. A waiter counts if its context and @evpl can take buffers from
 * the same depot: one that takes any node may get its buffers wherever @evpl would. Under the
 * pool's lock.
 */
uint64_t waiters_count(struct evpl *evpl)
{
	size_t size = evpl->pool->buffer_size;
	const struct evpl_waiter *waiter;
	uint64_t n = 0;

	for (waiter = evpl->pool->waiters; waiter != evpl->turn; waiter = waiter->__next)
		if (context_takes(evpl, waiter->__evpl->depot) ||
		    context_takes(waiter->__evpl, evpl->depot))
			n += (waiter->length + size - 1) / size;
	return n;
}

/* Whether no waiter that comes before @evpl's request could use the buffers that @evpl takes. */
bool waiter_is_next(struct evpl *evpl)
{
	bool next;

	pool_lock(evpl->pool);
	next = !waiters_count(evpl);
	pool_unlock(evpl->pool);
	return next;
}

/* The link to @evpl's first waiter, or to NULL. Under the pool's lock. */
static struct evpl_waiter **find_first(struct evpl *evpl)
{
	struct evpl_waiter **link = &evpl->pool->waiters;

	while (*link && (*link)->__evpl != evpl)
		link = &(*link)->__next;
	return link;
}

/* @evpl's first waiter, or NULL. It stays, as only the calling thread could take it out. */
static struct evpl_waiter *first_of(struct evpl *evpl)
{
	struct evpl_waiter *waiter;

	pool_lock(evpl->pool);
	waiter = *find_first(evpl);
	pool_unlock(evpl->pool);
	return waiter;
}

/* Takes the waiter that @link points to out of the queue. Under the pool's lock. */
static void unlink_waiter(struct evpl_waiter **link)
{
	struct evpl_waiter *waiter = *link;

	__atomic_store_n(link, waiter->__next, __ATOMIC_RELAXED);
	waiter->__evpl = NULL;
}

static void join(struct evpl *evpl, struct evpl_waiter *waiter)
{
	struct evpl_waiter **link = &evpl->pool->waiters;

	waiter->__evpl = evpl;
	waiter->__next = NULL;
	pool_lock(evpl->pool);
	while (*link)
		link = &(*link)->__next;
	__atomic_store_n(link, waiter, __ATOMIC_RELAXED);
	pool_unlock(evpl->pool);
}

/*
 * Takes a waiter out of the queue. Other threads may now take the buffers that were reserved for
 * it. A thread that waits for memory set WAITING before it looked at the queue. So it saw the
 * queue without this waiter, or pool_notify() sees WAITING and wakes it.
 */
static void leave(struct evpl_waiter *waiter)
{
	struct evpl_pool *pool = waiter->__evpl->pool;
	struct evpl_waiter **link = &pool->waiters;

	pool_lock(pool);
	while (*link != waiter)
		link = &(*link)->__next;
	unlink_waiter(link);
	pool_unlock(pool);
	pool_notify(pool);
}

/* Takes all waiters of a context that is being destroyed out of the queue. */
void waiters_forget(struct evpl *evpl)
{
	struct evpl_waiter **link;
	bool any = false;

	pool_lock(evpl->pool);
	while (*(link = find_first(evpl))) {
		unlink_waiter(link);
		any = true;
	}
	pool_unlock(evpl->pool);
	if (any)
		pool_notify(evpl->pool);
}

/*
 * There is no need to look for memory again after join(). The allocation that failed set WAITING,
 * and then looked once more, behind all waiters. So a buffer that was freed later has made the
 * eventfd readable.
 */
int evplmem_waiter_alloc(struct evpl *evpl, struct evpl_waiter *waiter)
{
	int ret;

	if (waiter->__evpl)
		return -EBUSY;
	ret = waiter_try(evpl, waiter);
	if (ret > 0 && is_odd(evpl->hot.generation))
		sites_add(waiter->iovecs, ret, PLACE());
	if (ret != -ENOMEM)
		return ret;
	join(evpl, waiter);
	return -EINPROGRESS;
}

int evplmem_waiter_cancel(struct evpl_waiter *waiter)
{
	if (!waiter->__evpl)
		return -ENOENT;
	if (context_is_inherited(waiter->__evpl))
		return -EPERM;
	leave(waiter);
	return 0;
}

/* Defined in a program that is built with ThreadSanitizer, whether or not this library is. */
__attribute__((weak)) void __tsan_acquire(void *address);

/*
 * Annotates an allocation for ThreadSanitizer. The program's inlines do that for other
 * allocations, but these iovecs go to a callback.
 */
static void tell_tsan(const struct evpl_iovec *iovecs, int niov)
{
	int i;

	for (i = 0; __tsan_acquire && i < niov; i++)
		__tsan_acquire(iovec_entry(&iovecs[i]));
}

/* This touches nothing after the callback, which may destroy the context and close the pool. */
int evplmem_waiter_serve(struct evpl *evpl)
{
	struct evpl_waiter *waiter;
	NO_CANCELLATION;
	int niov;

	if (context_is_inherited(evpl))
		return -EPERM;
	waiter = first_of(evpl);
	if (!waiter)
		return 0;
	niov = waiter_try(evpl, waiter);
	if (niov < 0)
		return niov == -ENOMEM ? 0 : niov;
	if (is_odd(evpl->hot.generation))
		sites_add(waiter->iovecs, niov, PLACE());
	leave(waiter);
	tell_tsan(waiter->iovecs, niov);
	waiter->done(waiter, niov);
	return 1;
}
