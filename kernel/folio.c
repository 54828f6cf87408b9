// SPDX-License-Identifier: GPL-2.0-only
/*
 * Folios: how they are allocated and freed.
 *
 * A folio that is freed while something else still holds it (a pipe, a ring, a device) is
 * *detached*. It stays charged, and is kept on a list and rechecked until the module's
 * reference is the last. So nobody can keep memory outside the caps, and no page reaches
 * another client while a device may write to it. A detached folio is linked through folio->lru.
 * folio->private is the user that is charged, with a reference that the folio owns. So freeing
 * a folio allocates nothing. Each user has a list and a reaper of its own, so that no task goes
 * over the folios of another user.
 */
#include <linux/gfp.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/sched.h>
#include <linux/spinlock.h>
#include <linux/workqueue.h>

#include "account.h"
#include "evpl.h"
#include "folio.h"
#include "syncpoint.h"

/* The shortest time from one pass of the reaper to the next, in jiffies. */
#define REAP_PERIOD	HZ
/*
 * The reaper waits this many times as long as the last pass took, where that is more, up to a
 * limit.
 */
#define REAP_PAUSE_FACTOR 32
#define REAP_PAUSE_MAX	(10 * HZ)
/* How many folios a pass scans, page by page, for a memory error. */
#define REAP_SCANS	16

atomic64_t evpl_detached_bytes;

/* Guards evpl_user.detached of all users. No lock nests inside it. */
static DEFINE_SPINLOCK(detached_lock);

/**
 * evpl_folio_alloc() - allocate a zeroed folio
 * @node: NUMA node that it must come from, or EVPL_NODE_ANY
 * @order: log2 of its pages
 * @last: whether to try hard, because the caller has no smaller order to fall back to
 *
 * This doesn't use folio_alloc(), which would mark the folio as one that may be split.
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

/**
 * evpl_folio_is_poisoned() - whether a page of a folio has a memory error
 * @folio: the folio
 */
bool evpl_folio_is_poisoned(struct folio *folio)
{
	unsigned long i;

	for (i = 0; i < folio_nr_pages(folio); i++)
		if (PageHWPoison(folio_page(folio, i)))
			return true;
	return false;
}

/*
 * Drop the module's reference on a folio, and the charge. But if a page of the folio has a
 * memory error, keep the reference for ever: the page allocator would hand a large folio out
 * again all the same.
 */
static void folio_put_uncharge(struct folio *folio, struct evpl_user *user)
{
	size_t size = folio_size(folio);

	if (likely(!evpl_folio_is_poisoned(folio)))
		folio_put(folio);
	evpl_uncharge(user, size);
}

/*
 * Whether nothing but the module holds the folio. Then nothing can get at it again. A folio
 * with a memory error counts as idle too: it is lost, as the kernel keeps a reference on the
 * bad page.
 */
static bool folio_is_idle(struct folio *folio)
{
	return folio_ref_count(folio) == 1 || evpl_folio_is_poisoned(folio);
}

/* Schedule the reaper, which owns a reference on the user while it is scheduled. */
static void user_reap_after(struct evpl_user *user, unsigned long delay)
{
	evpl_user_get(user);
	if (!queue_delayed_work(evpl_wq, &user->reap_work, delay))
		evpl_user_put(user);
}

/* The caller has a reference on the user. */
static void folio_detach(struct folio *folio, struct evpl_user *user)
{
	evpl_user_get(user);
	folio->private = user;
	atomic64_add(folio_size(folio), &evpl_detached_bytes);

	spin_lock(&detached_lock);
	list_add_tail(&folio->lru, &user->detached);
	spin_unlock(&detached_lock);

	user_reap_after(user, REAP_PERIOD);
}

/* The caller has taken the folio off its user's list. */
static void folio_put_detached(struct folio *folio)
{
	struct evpl_user *user = folio->private;
	size_t size = folio_size(folio);

	folio->private = NULL;
	evpl_syncpoint(EVPL_SYNCPOINT_REAP);
	folio_put_uncharge(folio, user);
	/*
	 * Subtract after the uncharge: when evpl_charge() reads 0, no folio is left to be
	 * uncharged.
	 */
	atomic64_sub_return_release(size, &evpl_detached_bytes);
	evpl_user_put(user);
}

/**
 * evpl_folio_free() - free a folio, or detach it
 * @folio: mapped nowhere; the module's reference on it is consumed
 * @user: the user that is charged for it
 */
void evpl_folio_free(struct folio *folio, struct evpl_user *user)
{
	if (folio_is_idle(folio))
		folio_put_uncharge(folio, user);
	else
		folio_detach(folio, user);
}

/**
 * evpl_folio_reap() - free the detached folios of a user that nothing holds any more
 * @user: the user, on which the caller has a reference
 *
 * A folio that is lost to a memory error may be found only by a later pass.
 */
void evpl_folio_reap(struct evpl_user *user)
{
	unsigned int scans = REAP_SCANS;
	struct folio *folio, *next;
	LIST_HEAD(scanned);
	LIST_HEAD(seen);

	mutex_lock(&user->reap_mutex);
	spin_lock(&detached_lock);
	list_splice_init(&user->detached, &seen);
	spin_unlock(&detached_lock);

	list_for_each_entry_safe(folio, next, &seen, lru) {
		bool scan = folio_ref_count(folio) > 1 && scans;

		if (folio_ref_count(folio) == 1 || (scan && evpl_folio_is_poisoned(folio))) {
			list_del(&folio->lru);
			folio_put_detached(folio);
		} else if (scan) {
			/* Put it behind those that the next passes are to scan. */
			list_move_tail(&folio->lru, &scanned);
		}
		scans -= scan;
		cond_resched();
	}

	spin_lock(&detached_lock);
	list_splice(&seen, &user->detached);
	list_splice_tail(&scanned, &user->detached);
	spin_unlock(&detached_lock);
	mutex_unlock(&user->reap_mutex);
}

static bool user_has_detached(struct evpl_user *user)
{
	bool has;

	spin_lock(&detached_lock);
	has = !list_empty(&user->detached);
	spin_unlock(&detached_lock);
	return has;
}

static void reap_work_fn(struct work_struct *work)
{
	struct evpl_user *user = container_of(to_delayed_work(work), struct evpl_user,
					      reap_work);
	unsigned long start = jiffies;

	evpl_folio_reap(user);
	if (user_has_detached(user))
		user_reap_after(user, clamp_t(unsigned long, (jiffies - start) * REAP_PAUSE_FACTOR,
					      REAP_PERIOD, REAP_PAUSE_MAX));
	evpl_user_put(user);
}

void evpl_folio_init_user(struct evpl_user *user)
{
	INIT_LIST_HEAD(&user->detached);
	mutex_init(&user->reap_mutex);
	INIT_DELAYED_WORK(&user->reap_work, reap_work_fn);
}

/* No client is left. A folio that something still holds outlives the module. */
void evpl_folio_exit(void)
{
	struct folio *folio, *next;
	struct evpl_user *user;

	/* An account that is left has detached folios, or a scheduled reaper. */
	while ((user = evpl_user_any())) {
		if (cancel_delayed_work_sync(&user->reap_work))
			evpl_user_put(user);
		list_for_each_entry_safe(folio, next, &user->detached, lru) {
			list_del(&folio->lru);
			folio_put_detached(folio);
		}
		evpl_user_put(user);
	}
}
