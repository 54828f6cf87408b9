// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * The queue for memory: see waiter.h.
 */
#include "waiter.h"

#include <errno.h>

#include "alloc.h"
#include "cancel.h"
#include "recycle.h"

/*
 * Buffers that @evpl could take, but that are for waiters that come before what it allocates
 * just now. A waiter that takes those of any node may have its own from wherever @evpl takes
 * them. Under the pool's lock.
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

/* Whether no waiter that comes before could use what @evpl takes. */
bool waiter_is_next(struct evpl *evpl)
{
	bool next;

	pool_lock(evpl->pool);
	next = !waiters_count(evpl);
	pool_unlock(evpl->pool);
	return next;
}

/* Under the pool's lock. */
static struct evpl_waiter **find_first(struct evpl *evpl)
{
	struct evpl_waiter **link = &evpl->pool->waiters;

	while (*link && (*link)->__evpl != evpl)
		link = &(*link)->__next;
	return link;
}

/* Of @evpl's, which only the calling thread puts there and takes out. */
static struct evpl_waiter *first_of(struct evpl *evpl)
{
	struct evpl_waiter *waiter;

	pool_lock(evpl->pool);
	waiter = *find_first(evpl);
	pool_unlock(evpl->pool);
	return waiter;
}

/* Takes out what @link points to. Under the pool's lock. */
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
 * What was kept for it is free for others. These have said that they wait before they looked
 * at the queue: so they saw it without this one, or are woken here.
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

/* All of a context that ends. */
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
 * The allocation that fails has said that it waits, and looked with all waiters before it:
 * what is freed since has written the eventfd. So there is no need to look again.
 */
int evplmem_waiter_alloc(struct evpl *evpl, struct evpl_waiter *waiter)
{
	int ret;

	if (waiter->__evpl)
		return -EBUSY;
	ret = waiter_try(evpl, waiter);
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

/* A program that is built with ThreadSanitizer has it, whether or not this library is. */
__attribute__((weak)) void __tsan_acquire(void *address);

/* The call-back is the program's: what its inlines say of an allocation is said here. */
static void tell_tsan(const struct evpl_iovec *iovecs, int niov)
{
	int i;

	for (i = 0; __tsan_acquire && i < niov; i++)
		__tsan_acquire(iovec_entry(&iovecs[i]));
}

/* Nothing is touched after the call-back, which may end all that there is. */
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
	leave(waiter);
	tell_tsan(waiter->iovecs, niov);
	waiter->done(waiter, niov);
	return 1;
}
