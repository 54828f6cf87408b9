// SPDX-License-Identifier: GPL-2.0-only
/*
 * Entries: the pages of the refs window. A page holds the entries of many
 * buffers, which may belong to several slabs; once there it stays until the
 * client goes, so that neither a fault nor a reader of it can meet its end. Since
 * slabs take the lowest free range, the pages go as far as slabs ever did.
 *
 * User space writes the entries. Nothing here believes them.
 */
#include <linux/mm.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>

#include "evpl.h"

#define ENTRIES_PER_PAGE	(PAGE_SIZE / sizeof(struct evpl_entry))

/* The buffers of a slab: [*first, *last]. */
static void buffers_of(struct evpl_slab *slab, unsigned int buffer_shift,
		       u64 *first, u64 *last)
{
	unsigned int shift = buffer_shift - PAGE_SHIFT;

	*first = slab->start >> shift;
	*last = ((slab->start + slab->nr_pages) >> shift) - 1;
}

/**
 * evpl_refs_grow() - see that the buffers of a new slab have entries
 * @client: the client; the caller holds its lock
 * @slab: the slab, which knows its place
 * @buffer_shift: log2 of the client's buffer size
 *
 * Return: 0; -ENOMEM or -EINTR with nothing changed.
 */
int evpl_refs_grow(struct evpl_client *client, struct evpl_slab *slab,
		   unsigned int buffer_shift)
{
	unsigned long index, first, last, missing = 0;
	struct page *page, *next;
	u64 buffer, last_buffer;
	LIST_HEAD(pages);
	int ret;

	lockdep_assert_held(&client->lock);
	buffers_of(slab, buffer_shift, &buffer, &last_buffer);
	first = buffer / ENTRIES_PER_PAGE;
	last = last_buffer / ENTRIES_PER_PAGE;

	for (index = first; index <= last; index++) {
		if (!xa_load(&client->refs, index))
			missing++;
		cond_resched();
	}
	ret = evpl_charge(client->user, (u64)missing << PAGE_SHIFT);
	if (ret)
		return ret;

	/* Have everything that can fail before a fault can see any of it. */
	ret = -ENOMEM;
	for (index = first; index <= last; index++) {
		if (xa_load(&client->refs, index))
			continue;
		if (fatal_signal_pending(current)) {
			ret = -EINTR;
			goto undo;
		}
		page = alloc_page(EVPL_GFP | __GFP_ZERO);
		if (!page)
			goto undo;
		list_add(&page->lru, &pages);
		if (xa_reserve(&client->refs, index, EVPL_GFP))
			goto undo;
		cond_resched();
	}

	list_for_each_entry_safe(page, next, &pages, lru) {
		list_del(&page->lru);
		while (xa_load(&client->refs, first))
			first++;
		/* Needs no memory: the place is reserved. */
		WARN_ON_ONCE(xa_is_err(xa_store(&client->refs, first++, page, 0)));
		cond_resched();
	}
	return 0;

undo:
	for (index = first; index <= last; index++) {
		xa_release(&client->refs, index);
		cond_resched();
	}
	list_for_each_entry_safe(page, next, &pages, lru) {
		list_del(&page->lru);
		__free_page(page);
	}
	evpl_uncharge(client->user, (u64)missing << PAGE_SHIFT);
	return ret;
}

/**
 * evpl_refs_in_use() - count the buffers of a slab that have a reference
 * @client: the client; the caller holds its lock
 * @slab: the slab
 *
 * Return: how many words aren't 0: a hint, which may be old already. What a
 * memory error has taken counts as in use, and isn't read.
 */
unsigned long evpl_refs_in_use(struct evpl_client *client,
			       struct evpl_slab *slab)
{
	struct evpl_entry *entries;
	struct page *page = NULL;
	unsigned long in_use = 0;
	u64 buffer, last;

	lockdep_assert_held(&client->lock);
	buffers_of(slab, client->buffer_shift, &buffer, &last);

	for (; buffer <= last; buffer++) {
		unsigned int slot = buffer % ENTRIES_PER_PAGE;

		if (!page || !slot) {
			page = xa_load(&client->refs, buffer / ENTRIES_PER_PAGE);
			entries = page_address(page);
			cond_resched();
		}
		if (PageHWPoison(page) || READ_ONCE(entries[slot].word))
			in_use++;
	}
	return in_use;
}

/**
 * evpl_refs_destroy() - free the refs window of a client that is going
 * @client: the client; nobody else knows of it, and none of its VMAs is left
 */
void evpl_refs_destroy(struct evpl_client *client)
{
	unsigned long index;
	struct page *page;

	xa_for_each(&client->refs, index, page) {
		evpl_folio_free(page_folio(page), client->user);
		cond_resched();
	}
	xa_destroy(&client->refs);
}
