// SPDX-License-Identifier: GPL-2.0-only
/*
 * Folios: how they are had, and how they go back.
 *
 * A folio that goes back while something else still holds it (a pipe, a ring, a
 * device) is *detached*: still charged, kept on a list, and looked at again
 * until the module's reference is the last. So nobody can keep memory outside
 * the caps, and no page reaches another client while a device may write to it.
 * A detached folio is linked through folio->lru, and folio->private names the
 * user that is charged, with a reference that the folio owns: freeing allocates
 * nothing.
 */
#include <linux/gfp.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/sched.h>
#include <linux/spinlock.h>
#include <linux/workqueue.h>

#include "evpl.h"

#define REAP_PERIOD	HZ

atomic64_t evpl_detached_bytes;

/* Guards the list. Nothing nests inside it. */
static DEFINE_SPINLOCK(detached_lock);
static LIST_HEAD(detached);

/* One at a time looks at the list, so that evpl_folio_reap() has seen all. */
static DEFINE_MUTEX(reap_mutex);

static void reap_work_fn(struct work_struct *work);
static DECLARE_DELAYED_WORK(reap_work, reap_work_fn);

/**
 * evpl_folio_alloc() - allocate a zeroed folio
 * @node: NUMA node that it must come from, or EVPL_NODE_ANY
 * @order: log2 of its pages
 * @last: whether to try hard, as the caller has no smaller order to turn to
 *
 * Not by folio_alloc(): it would mark the folio as one that may be split.
 *
 * Return: the folio, or NULL.
 */
struct folio *evpl_folio_alloc(int node, unsigned int order, bool last)
{
	gfp_t gfp = EVPL_GFP | __GFP_COMP | __GFP_ZERO;
	struct page *page;

	if (!last)
		gfp = (gfp & ~__GFP_RETRY_MAYFAIL) | __GFP_NORETRY;

	if (node == EVPL_NODE_ANY)
		page = alloc_pages(gfp, order);
	else
		page = alloc_pages_node(node, gfp | __GFP_THISNODE, order);

	return page ? page_folio(page) : NULL;
}

static bool folio_is_poisoned(struct folio *folio)
{
	unsigned long i;

	for (i = 0; i < folio_nr_pages(folio); i++)
		if (PageHWPoison(folio_page(folio, i)))
			return true;
	return false;
}

/*
 * The page allocator would hand a large folio out again although a page of it
 * has a memory error. Such a folio is nobody's from now on: it keeps our
 * reference for ever.
 */
static void give_back(struct folio *folio, struct evpl_user *user)
{
	size_t size = folio_size(folio);

	if (likely(!folio_is_poisoned(folio)))
		folio_put(folio);
	evpl_uncharge(user, size);
}

/*
 * The last reference but ours is gone, and nobody can get at the folio again; or
 * it is lost: the kernel keeps a reference on a page with a memory error.
 */
static bool folio_is_idle(struct folio *folio)
{
	return folio_ref_count(folio) == 1 || folio_is_poisoned(folio);
}

static void detach(struct folio *folio, struct evpl_user *user)
{
	evpl_user_hold(user);
	folio->private = user;
	atomic64_add(folio_size(folio), &evpl_detached_bytes);

	spin_lock(&detached_lock);
	list_add_tail(&folio->lru, &detached);
	spin_unlock(&detached_lock);

	schedule_delayed_work(&reap_work, REAP_PERIOD);
}

/* The folio has been taken off the list of detached ones. */
static void put_detached(struct folio *folio)
{
	struct evpl_user *user = folio->private;
	size_t size = folio_size(folio);

	folio->private = NULL;
	evpl_stop(EVPL_STOP_REAP);
	give_back(folio, user);
	/* After it is uncharged: who reads 0 needs not wait for anybody. */
	atomic64_sub_return_release(size, &evpl_detached_bytes);
	evpl_user_put(user);
}

/**
 * evpl_folio_free() - give a folio back
 * @folio: mapped nowhere; the module's reference on it is consumed
 * @user: who is charged for it
 */
void evpl_folio_free(struct folio *folio, struct evpl_user *user)
{
	if (folio_is_idle(folio))
		give_back(folio, user);
	else
		detach(folio, user);
}

/* Free the detached folios that have been let go of. */
void evpl_folio_reap(void)
{
	struct folio *folio, *next;
	LIST_HEAD(seen);

	mutex_lock(&reap_mutex);
	spin_lock(&detached_lock);
	list_splice_init(&detached, &seen);
	spin_unlock(&detached_lock);

	list_for_each_entry_safe(folio, next, &seen, lru) {
		if (folio_is_idle(folio)) {
			list_del(&folio->lru);
			put_detached(folio);
		}
		cond_resched();
	}

	spin_lock(&detached_lock);
	list_splice(&seen, &detached);
	spin_unlock(&detached_lock);
	mutex_unlock(&reap_mutex);
}

static void reap_work_fn(struct work_struct *work)
{
	evpl_folio_reap();
	if (atomic64_read(&evpl_detached_bytes))
		schedule_delayed_work(&reap_work, REAP_PERIOD);
}

/* No client is left. Who still holds a folio keeps it, past this module. */
void evpl_folio_exit(void)
{
	struct folio *folio, *next;

	cancel_delayed_work_sync(&reap_work);
	list_for_each_entry_safe(folio, next, &detached, lru) {
		list_del(&folio->lru);
		put_detached(folio);
	}
}
