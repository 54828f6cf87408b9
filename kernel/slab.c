// SPDX-License-Identifier: GPL-2.0-only
/*
 * Slabs. A slab is created (its folios are allocated and charged), reserved (it has a range of
 * the own window, and its buffers have entries), published (user space knows it, and faults
 * find it) and orphaned (its client has let go of it). Its last reference frees it. It is in
 * its client's tree from when it is reserved until it is removed, or its client goes.
 */
#include <linux/err.h>
#include <linux/fs.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/overflow.h>
#include <linux/pagemap.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "account.h"
#include "client.h"
#include "evpl.h"
#include "folio.h"
#include "lease.h"
#include "quarantine.h"
#include "refs.h"
#include "share.h"
#include "slab.h"
#include "trace.h"
#include "uring.h"
#include "window.h"

#define HUGE_PAGES	BIT(EVPL_HUGE_ORDER)

atomic_long_t evpl_nr_slabs;

static struct evpl_slab *slab_of(struct rb_node *node)
{
	return rb_entry_safe(node, struct evpl_slab, node);
}

static pgoff_t slab_end_pgoff(const struct evpl_slab *slab)
{
	return slab->start + slab->nr_pages;
}

/*
 * Allocate nr_pages, a multiple of HUGE_PAGES, in folios as large as can be had, and add them
 * to the list. Each run of HUGE_PAGES starts over with the largest order and never goes up
 * again, so that every folio is aligned to its size. Return the number of folios, or -errno.
 * Also on an error the caller owns the folios on the list.
 */
static long slab_alloc_folios(struct list_head *folios, unsigned long nr_pages,
			      int node, unsigned int min_order)
{
	unsigned int order = EVPL_FOLIO_ORDER_MAX;
	unsigned long done = 0;
	long nr_folios = 0;

	while (done < nr_pages) {
		struct folio *folio;

		if (fatal_signal_pending(current))
			return -EINTR;

		if (!(done % HUGE_PAGES))
			order = EVPL_FOLIO_ORDER_MAX;
		while (!(folio = evpl_folio_alloc(node, order,
						  order == min_order)))
			if (order-- == min_order)
				return -ENOMEM;

		list_add_tail(&folio->lru, folios);
		done += folio_nr_pages(folio);
		nr_folios++;
		cond_resched();
	}
	return nr_folios;
}

/**
 * evpl_slab_create() - allocate a slab
 * @client: the client, whose user is charged
 * @nr_pages: length, a multiple of EVPL_SLAB_ALIGN
 * @node: NUMA node that all of it must come from, or EVPL_NODE_ANY
 * @flags: EVPL_SLAB_*
 *
 * Return: a slab that the caller owns, or an error pointer: -ENOMEM, -EINTR.
 */
struct evpl_slab *evpl_slab_create(struct evpl_client *client,
				   unsigned long nr_pages, int node, u32 flags)
{
	u64 bytes = (u64)nr_pages << PAGE_SHIFT;
	struct folio *folio, *next;
	struct evpl_slab *slab;
	LIST_HEAD(folios);
	pgoff_t index = 0;
	long ret;

	ret = evpl_charge(client->user, bytes);
	if (ret)
		return ERR_PTR(ret);

	ret = -ENOMEM;
	if (flags & EVPL_SLAB_HUGE && EVPL_FOLIO_ORDER_MAX < EVPL_HUGE_ORDER)
		goto free_folios;
	ret = slab_alloc_folios(&folios, nr_pages, node,
				flags & EVPL_SLAB_HUGE ? EVPL_FOLIO_ORDER_MAX :
						    EVPL_FOLIO_ORDER_MIN);
	if (ret < 0)
		goto free_folios;

	slab = kvzalloc(struct_size(slab, folios, ret), EVPL_GFP);
	if (!slab) {
		ret = -ENOMEM;
		goto free_folios;
	}

	slab->nr_pages = nr_pages;
	slab->numa_node = node;
	list_for_each_entry_safe(folio, next, &folios, lru) {
		list_del(&folio->lru);
		slab->folios[slab->nr_folios].folio = folio;
		slab->folios[slab->nr_folios++].index = index;
		index += folio_nr_pages(folio);
		cond_resched();
	}
	slab->refs = 1;
	init_rwsem(&slab->orphan_sem);
	mutex_init(&slab->recheck_mutex);
	xa_init_flags(&slab->shares, XA_FLAGS_ACCOUNT);
	evpl_client_get(client);
	slab->client = client;
	atomic_long_inc(&evpl_nr_slabs);
	trace_evpl_slab_begin(slab);
	return slab;

free_folios:
	list_for_each_entry_safe(folio, next, &folios, lru) {
		list_del(&folio->lru);
		folio_put(folio);
		cond_resched();
	}
	evpl_uncharge(client->user, bytes);
	return ERR_PTR(ret);
}

void evpl_slab_get(struct evpl_slab *slab)
{
	xa_lock(&slab->shares);
	slab->refs++;
	xa_unlock(&slab->shares);
}

/**
 * evpl_slab_put() - drop a reference on a slab
 * @slab: the slab
 */
void evpl_slab_put(struct evpl_slab *slab)
{
	unsigned int left;

	xa_lock(&slab->shares);
	left = --slab->refs;
	xa_unlock(&slab->shares);
	if (left)
		return;

	WARN_ON_ONCE(!slab->orphaned || !xa_empty(&slab->shares));
	trace_evpl_slab_end(slab);
	mutex_destroy(&slab->recheck_mutex);
	evpl_client_put(slab->client);
	kvfree(slab);
	atomic_long_dec(&evpl_nr_slabs);
}

/* Return the place in the slab of the last buffer that lies in this folio, wholly or in part. */
unsigned long evpl_slab_folio_last(struct evpl_slab *slab, struct evpl_slab_folio *slab_folio)
{
	return (slab_folio->index - slab->start + folio_nr_pages(slab_folio->folio) - 1) >>
	       slab->buffer_order;
}

/* Whether a buffer in this folio has a share with this mark. Any share has XA_PRESENT. */
bool evpl_slab_folio_has(struct evpl_slab *slab, struct evpl_slab_folio *slab_folio,
			 xa_mark_t mark)
{
	unsigned long buffer = (slab_folio->index - slab->start) >> slab->buffer_order;

	return xa_find(&slab->shares, &buffer, evpl_slab_folio_last(slab, slab_folio), mark);
}

/*
 * A folio of the own window belongs to the mapping of its client's inode, as a file's does,
 * though it is in no page cache. The core needs folio->mapping for futexes that several
 * processes share, and to unmap a page that has a memory error. PG_private makes the core call
 * release_folio() before it evicts or splits the folio (client.c).
 */
static void folio_join_mapping(struct folio *folio, struct evpl_client *client, pgoff_t index)
{
	folio->index = index;
	folio->mapping = client->inode->i_mapping;
	folio_set_private(folio);
}

/*
 * Something may still have references on the folio, but nothing can map it any more. Core code
 * that relies on folio->mapping holds the folio lock, or reads it once under RCU. The inode is
 * freed later, after a grace period.
 */
static void folio_leave_mapping(struct folio *folio)
{
	folio_lock(folio);
	folio_clear_private(folio);
	WRITE_ONCE(folio->mapping, NULL);
	folio_unlock(folio);
}

/* Whether anything uses a range of the slab without a reference on a buffer. */
bool evpl_slab_has_ranges(struct evpl_slab *slab)
{
	lockdep_assert_held(&slab->shares.xa_lock);
	return memchr_inv(slab->nr_ranges, 0, sizeof(slab->nr_ranges));
}

/**
 * evpl_slab_free_folios() - free the folios of an orphaned slab that nobody can touch any more
 * @slab: the slab, on which the caller has a reference
 * @first: first page of the range to go over, in the own window
 * @last: last page of the range
 */
void evpl_slab_free_folios(struct evpl_slab *slab, pgoff_t first, pgoff_t last)
{
	struct evpl_slab_folio *slab_folio = evpl_slab_folio_at(slab, first);
	struct evpl_slab_folio *end = slab->folios + slab->nr_folios;

	for (; slab_folio < end && slab_folio->index <= last; slab_folio++) {
		struct evpl_user *user = NULL;
		struct folio *folio = NULL;

		xa_lock(&slab->shares);
		if (slab_folio->folio && !evpl_slab_has_ranges(slab) &&
		    !evpl_slab_folio_has(slab, slab_folio, XA_PRESENT)) {
			swap(folio, slab_folio->folio);
			swap(user, slab_folio->user);
		}
		xa_unlock(&slab->shares);

		if (folio) {
			folio_leave_mapping(folio);
			evpl_folio_free(folio, user ?: slab->client->user);
		}
		if (user)
			evpl_user_put(user);
		cond_resched();
	}
}

/*
 * The user of the first client that has a lease on a buffer in this folio, or that has registered
 * one with a ring; or NULL.
 */
static struct evpl_user *slab_folio_lessee(struct evpl_slab *slab,
					   struct evpl_slab_folio *slab_folio)
{
	unsigned long first = (slab_folio->index - slab->start) >> slab->buffer_order, index;
	struct evpl_registration *registration;
	struct evpl_lease *lease;
	struct evpl_share *share;

	lockdep_assert_held(&slab->shares.xa_lock);
	xa_for_each_range(&slab->shares, index, share, first,
			  evpl_slab_folio_last(slab, slab_folio)) {
		lease = list_first_entry_or_null(&share->leases, struct evpl_lease, list);
		if (lease)
			return lease->client->user;
		registration = list_first_entry_or_null(&share->registrations,
							struct evpl_registration, list);
		if (registration)
			return registration->client->user;
	}
	return NULL;
}

/*
 * Charge a folio to @user; or to the user of the slab's client, if @user is NULL or its cap has
 * no room. If that cap were ignored, an owner could use up the cap of each client that has a
 * lease on its memory, and its own again and again. Return the user that was charged before, if
 * the caller must put the folio's reference on it.
 */
static struct evpl_user *slab_folio_charge(struct evpl_slab *slab,
					   struct evpl_slab_folio *slab_folio,
					   struct evpl_user *user)
{
	struct evpl_user *owner = slab->client->user, *from = slab_folio->user ?: owner;
	size_t size = folio_size(slab_folio->folio);

	lockdep_assert_held(&slab->shares.xa_lock);
	if (user == slab_folio->user)
		return NULL;
	if (user && evpl_recharge(from, user, size, false)) {
		evpl_user_get(user);
	} else {
		user = NULL;
		evpl_recharge(from, owner, size, true);
	}
	swap(user, slab_folio->user);
	return user;
}

/**
 * evpl_slab_recharge() - charge an orphaned slab to the users that keep it
 * @slab: the slab, on which the caller has a reference
 * @first: first page of the range to go over, in the own window
 * @last: last page of the range
 *
 * Each folio is charged to the user of a client that has a lease on a buffer in it, or a
 * registration of one, if that user's cap has room. A folio that only records in flight or dma-bufs
 * keep stays charged to the user of the slab's client. To be called after a lease on such a slab
 * was added, and after a lease or a registration has ended.
 */
void evpl_slab_recharge(struct evpl_slab *slab, pgoff_t first, pgoff_t last)
{
	struct evpl_slab_folio *slab_folio = evpl_slab_folio_at(slab, first);
	struct evpl_slab_folio *end = slab->folios + slab->nr_folios;

	for (; slab_folio < end && slab_folio->index <= last; slab_folio++) {
		struct evpl_user *user = NULL;

		xa_lock(&slab->shares);
		if (slab_folio->folio)
			user = slab_folio_charge(slab, slab_folio,
						 slab_folio_lessee(slab, slab_folio));
		xa_unlock(&slab->shares);

		if (user)
			evpl_user_put(user);
		cond_resched();
	}
}

/**
 * evpl_slab_orphan() - detach a slab from its client
 * @slab: not in the client's tree, and mapped nowhere in the own window; the client's reference
 *	on it is consumed
 *
 * A folio that others have a part in stays until they let go of it, and is charged to the user
 * of a lease or a registration. The other folios are freed. An orphaned slab needs no quarantine,
 * since a folio that something still holds goes to nobody else (folio.c).
 */
void evpl_slab_orphan(struct evpl_slab *slab)
{
	down_write(&slab->orphan_sem);
	xa_lock(&slab->shares);
	WRITE_ONCE(slab->orphaned, true);
	xa_unlock(&slab->shares);
	up_write(&slab->orphan_sem);
	evpl_quarantine_end_all(slab);
	evpl_slab_free_folios(slab, slab->start, slab_end_pgoff(slab) - 1);
	evpl_slab_recharge(slab, slab->start, slab_end_pgoff(slab) - 1);
	evpl_slab_put(slab);
}

/**
 * evpl_slab_get_range() - let something use pages of a slab
 * @client: the slab's client
 * @offset: of the first byte, in the own window
 * @length: bytes
 * @write: whether it may write to them
 * @use: the use
 *
 * Return: the slab, with a reference and a count in ->nr_ranges until evpl_slab_put_range(); or an
 * error pointer.
 */
struct evpl_slab *evpl_slab_get_range(struct evpl_client *client, u64 offset, u64 length,
				      bool write, enum evpl_range_use use)
{
	struct evpl_slab *slab;

	/* evpl_slab_free() clears ->live under tree_lock: it sees our range, or we see !live. */
	down_read(&client->tree_lock);
	slab = evpl_slab_find(client, offset >> PAGE_SHIFT);
	if (!slab || !slab->live) {
		slab = ERR_PTR(-ENOENT);
	} else if (length > ((u64)slab_end_pgoff(slab) << PAGE_SHIFT) - offset) {
		slab = ERR_PTR(-EINVAL);
	} else if (write && !client->writable) {
		slab = ERR_PTR(-EPERM);
	} else {
		xa_lock(&slab->shares);
		slab->refs++;
		slab->nr_ranges[use]++;
		xa_unlock(&slab->shares);
		atomic_long_inc(&client->nr_ranges[use]);
	}
	up_read(&client->tree_lock);
	return slab;
}

/* Undo evpl_slab_get_range(). */
void evpl_slab_put_range(struct evpl_slab *slab, enum evpl_range_use use)
{
	bool unused;

	atomic_long_dec(&slab->client->nr_ranges[use]);
	xa_lock(&slab->shares);
	unused = !--slab->nr_ranges[use] && slab->orphaned;
	xa_unlock(&slab->shares);
	if (unused)
		evpl_slab_free_folios(slab, slab->start, slab_end_pgoff(slab) - 1);
	evpl_slab_put(slab);
}

/*
 * Find the lowest free range of nr_pages in the own window. *@prev is the slab before it, or
 * NULL.
 */
static int slab_find_gap(struct evpl_client *client, unsigned long nr_pages,
			 pgoff_t *start, struct evpl_slab **prev)
{
	struct evpl_slab *slab;

	*start = 0;
	*prev = NULL;
	for (slab = slab_of(rb_first(&client->slabs)); slab;
	     slab = slab_of(rb_next(&slab->node))) {
		if (slab->start - *start >= nr_pages)
			return 0;
		*start = slab_end_pgoff(slab);
		*prev = slab;
		cond_resched();
	}
	return EVPL_OWN_PAGES - *start >= nr_pages ? 0 : -ENOSPC;
}

static void slab_insert_after(struct evpl_client *client, struct evpl_slab *slab,
			      struct evpl_slab *prev)
{
	struct rb_node **link = &client->slabs.rb_node;
	struct rb_node *parent = NULL;

	/* The leftmost place in the subtree right of prev. */
	if (prev) {
		parent = &prev->node;
		link = &parent->rb_right;
	}
	while (*link) {
		parent = *link;
		link = &parent->rb_left;
	}
	rb_link_node(&slab->node, parent, link);
	rb_insert_color(&slab->node, &client->slabs);
}

/**
 * evpl_slab_reserve() - give a slab its range of the own window
 * @client: its client
 * @slab: a slab that evpl_slab_create() returned
 * @buffer_shift: log2 of the client's buffer size
 *
 * The range is the lowest that is free. The slab's buffers get their entries.
 *
 * Return: 0, and the slab is in the client's tree; -ENOSPC, -ENOMEM or -EINTR.
 */
int evpl_slab_reserve(struct evpl_client *client, struct evpl_slab *slab,
		      unsigned int buffer_shift)
{
	unsigned int order = buffer_shift - PAGE_SHIFT, i;
	struct evpl_slab *prev;
	pgoff_t start, index;
	int ret;

	lockdep_assert_held(&client->lock);

	ret = slab_find_gap(client, slab->nr_pages, &start, &prev);
	if (ret)
		return ret;
	ret = evpl_refs_grow_entries(client, start >> order,
				     (start + slab->nr_pages - 1) >> order);
	if (ret)
		return ret;

	slab->start = start;
	slab->buffer_order = order;

	/*
	 * evpl_slab_folio_at() needs the index of each folio. The core needs it too: it maps a
	 * folio by a PMD only if the folio's end, counted from folio->index, lies within
	 * i_size.
	 */
	index = slab->start;
	for (i = 0; i < slab->nr_folios; i++) {
		slab->folios[i].index = index;
		folio_join_mapping(slab->folios[i].folio, client, index);
		index += folio_nr_pages(slab->folios[i].folio);
	}

	down_write(&client->tree_lock);
	slab_insert_after(client, slab, prev);
	up_write(&client->tree_lock);
	WRITE_ONCE(client->nr_slabs, client->nr_slabs + 1);
	WRITE_ONCE(client->nr_pages, client->nr_pages + slab->nr_pages);
	return 0;
}

/**
 * evpl_slab_publish() - let page faults find a slab
 * @client: its client
 * @slab: a slab that is reserved
 */
void evpl_slab_publish(struct evpl_client *client, struct evpl_slab *slab)
{
	lockdep_assert_held(&client->lock);

	/* Set the size first: a fault beyond it would map page by page. */
	i_size_write(client->inode,
		     max(i_size_read(client->inode),
			 (loff_t)slab_end_pgoff(slab) << PAGE_SHIFT));
	down_write(&client->tree_lock);
	slab->live = true;
	up_write(&client->tree_lock);
}

/* Set the size to the end of the last live slab, after a slab has been removed. */
static void client_shrink_size(struct evpl_client *client)
{
	struct evpl_slab *slab = slab_of(rb_last(&client->slabs));

	while (slab && !slab->live)
		slab = slab_of(rb_prev(&slab->node));
	i_size_write(client->inode,
		     slab ? (loff_t)slab_end_pgoff(slab) << PAGE_SHIFT : 0);
}

/**
 * evpl_slab_remove() - take a slab away from user space
 * @client: its client
 * @slab: a slab that is reserved or live; the caller owns it afterwards
 *
 * On return no page of it is mapped and no fault can map one.
 */
void evpl_slab_remove(struct evpl_client *client, struct evpl_slab *slab)
{
	unsigned int i;

	lockdep_assert_held(&client->lock);

	down_write(&client->tree_lock);
	rb_erase(&slab->node, &client->slabs);
	up_write(&client->tree_lock);

	/*
	 * A fault that found the slab holds the lock of its folio until the page is mapped.
	 * Wait for those faults. No other fault finds the slab.
	 */
	for (i = 0; i < slab->nr_folios; i++) {
		folio_lock(slab->folios[i].folio);
		folio_unlock(slab->folios[i].folio);
		cond_resched();
	}
	unmap_mapping_range(client->inode->i_mapping,
			    (loff_t)slab->start << PAGE_SHIFT,
			    (loff_t)slab->nr_pages << PAGE_SHIFT, 1);
	client_shrink_size(client);
	WRITE_ONCE(client->nr_slabs, client->nr_slabs - 1);
	WRITE_ONCE(client->nr_pages, client->nr_pages - slab->nr_pages);
}

/**
 * evpl_slab_find() - find the slab that a page of the own window belongs to
 * @client: the client, whose lock or tree_lock the caller holds
 * @pgoff: the page
 *
 * Return: the slab, live or not, or NULL.
 */
struct evpl_slab *evpl_slab_find(struct evpl_client *client, pgoff_t pgoff)
{
	struct rb_node *node = client->slabs.rb_node;

	while (node) {
		struct evpl_slab *slab = slab_of(node);

		if (pgoff < slab->start)
			node = node->rb_left;
		else if (pgoff >= slab_end_pgoff(slab))
			node = node->rb_right;
		else
			return slab;
	}
	return NULL;
}

/*
 * Find the first slab that ends past a page of the own window, live or not. The caller holds the
 * client's lock or tree_lock.
 */
static struct evpl_slab *slab_after(struct evpl_client *client, pgoff_t pgoff)
{
	struct rb_node *node = client->slabs.rb_node;
	struct evpl_slab *after = NULL;

	while (node) {
		struct evpl_slab *slab = slab_of(node);

		if (pgoff < slab_end_pgoff(slab)) {
			after = slab;
			node = node->rb_left;
		} else {
			node = node->rb_right;
		}
	}
	return after;
}

/**
 * evpl_slab_next() - find the first slab that user space knows from a page of the own window on
 * @client: the client, whose lock or tree_lock the caller holds
 * @pgoff: the page
 *
 * Return: the first slab that starts there or after it, or NULL.
 */
struct evpl_slab *evpl_slab_next(struct evpl_client *client, pgoff_t pgoff)
{
	struct evpl_slab *slab = slab_after(client, pgoff);

	while (slab && (slab->start < pgoff || !slab->live))
		slab = slab_of(rb_next(&slab->node));
	return slab;
}

/*
 * Find the first slab that ends past *@pgoff, advance *@pgoff to that end, and take a reference
 * on the slab.
 */
struct evpl_slab *evpl_slab_get_after(struct evpl_client *client, pgoff_t *pgoff)
{
	struct evpl_slab *slab = NULL;

	down_read(&client->tree_lock);
	if (!client->gone)
		slab = slab_after(client, *pgoff);
	if (slab) {
		evpl_slab_get(slab);
		*pgoff = slab->start + slab->nr_pages;
	}
	up_read(&client->tree_lock);
	return slab;
}

/*
 * Find the slab of the buffer that starts at @offset, and the buffer's place in it. Return the
 * slab, with a reference, or NULL.
 */
struct evpl_slab *evpl_slab_get_buffer(struct evpl_client *client, u64 offset,
				       unsigned long *index)
{
	pgoff_t pgoff = offset >> PAGE_SHIFT;
	struct evpl_slab *slab;

	down_read(&client->tree_lock);
	slab = evpl_slab_find(client, pgoff);
	if (slab && (!slab->live || offset & ((PAGE_SIZE << slab->buffer_order) - 1)))
		slab = NULL;
	if (slab) {
		evpl_slab_get(slab);
		*index = (pgoff - slab->start) >> slab->buffer_order;
	}
	up_read(&client->tree_lock);
	return slab;
}

/**
 * evpl_slab_folio_at() - find the folio that a page of a slab belongs to
 * @slab: a slab that is reserved
 * @pgoff: the page, which lies in the slab
 *
 * Return: the entry of the folio that has the page.
 */
struct evpl_slab_folio *evpl_slab_folio_at(struct evpl_slab *slab, pgoff_t pgoff)
{
	unsigned int low = 0, high = slab->nr_folios;

	/* folios[low].index <= pgoff, and folios[high], if any, is past it. */
	while (high - low > 1) {
		unsigned int mid = low + (high - low) / 2;

		if (slab->folios[mid].index <= pgoff)
			low = mid;
		else
			high = mid;
	}
	return &slab->folios[low];
}

/**
 * evpl_slab_free() - free a slab that user space names
 * @client: the client
 * @start: where the slab starts in the own window, in pages
 *
 * Return: 0, -ENOENT or -EBUSY.
 */
int evpl_slab_free(struct evpl_client *client, pgoff_t start)
{
	struct evpl_slab *slab;
	bool busy;

	mutex_lock(&client->lock);
	slab = evpl_slab_find(client, start);
	if (!slab || slab->start != start || !slab->live) {
		mutex_unlock(&client->lock);
		return -ENOENT;
	}
	busy = evpl_refs_in_use(client, slab);
	if (!busy) {
		/*
		 * A task that sends, exports or registers checks ->live under tree_lock: none
		 * does after this.
		 */
		down_write(&client->tree_lock);
		busy = READ_ONCE(slab->nr_ranges[EVPL_RANGE_EXPORTED]) ||
		       !xa_empty(&slab->shares);
		slab->live = busy;
		up_write(&client->tree_lock);
	}
	if (busy) {
		mutex_unlock(&client->lock);
		return -EBUSY;
	}
	evpl_slab_remove(client, slab);
	mutex_unlock(&client->lock);

	evpl_slab_orphan(slab);
	return 0;
}

/**
 * evpl_slab_orphan_all() - detach all slabs of a client that is going
 * @client: the client; its file and all of its VMAs have gone
 */
void evpl_slab_orphan_all(struct evpl_client *client)
{
	struct evpl_slab *slab, *next;

	rbtree_postorder_for_each_entry_safe(slab, next, &client->slabs, node) {
		if (client->flags & EVPL_SETUP_REVOKE)
			evpl_share_revoke_all(slab);
		evpl_slab_orphan(slab);
	}
	client->slabs = RB_ROOT;
}
