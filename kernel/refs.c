// SPDX-License-Identifier: GPL-2.0-only
/*
 * The refs windows: entries of buffers and of leases, the bitmaps that report their events, and
 * the header. A page is allocated when it is first needed. It stays until the client's file has
 * gone, its leases have ended, its ends are closed and its slabs are orphaned. So no fault and no
 * other access meets a page that is being freed. A task that may come late, such as one that reads
 * a record which comes home, first checks whether all that has happened: under the xa_lock of
 * evpl_slab.shares for the word and the bit of a buffer, under evpl_client.lease_sem for those of
 * a lease, under evpl_channel.lock for what is said of an end.
 *
 * A page of entries has those of many buffers, which may belong to several slabs. Since slabs
 * take the lowest free range, and leases the lowest free number, there are as many pages as the
 * highest buffer and the highest lease ever needed.
 *
 * A page of entries is also charged for the shares, or the leases, that have their entries in
 * it. page->private says how much that is; refs_mutex guards it.
 *
 * When the client is adopted, its pages stay, but are cleared (adopt.c).
 *
 * User space can write all of it. Nothing here believes what it reads, loops on it, or indexes
 * by it.
 */
#include <linux/mm.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/xarray.h>

#include "account.h"
#include "client.h"
#include "evpl.h"
#include "folio.h"
#include "lease.h"
#include "refs.h"
#include "share.h"
#include "slab.h"
#include "syncpoint.h"
#include "word.h"

#define ENTRIES_PER_PAGE	(PAGE_SIZE / sizeof(struct evpl_entry))
#define BITS_PER_PAGE		(8 * PAGE_SIZE)

/*
 * The cost of all shares, or all leases, whose entries are in one page: their objects, and the
 * table that leads to them. A revoked lease keeps its share while its buffer may get another
 * share. So a lease also pays for a share.
 */
static u64 shares_cost(void)
{
	return ENTRIES_PER_PAGE * kmalloc_size_roundup(sizeof(struct evpl_share)) +
	       ENTRIES_PER_PAGE / XA_CHUNK_SIZE * sizeof(struct xa_node);
}

static u64 leases_cost(void)
{
	return shares_cost() +
	       ENTRIES_PER_PAGE * kmalloc_size_roundup(sizeof(struct evpl_lease));
}

/*
 * The charge of a new page beside the page itself. A page of buffers' entries is charged for
 * shares later, when the first of its buffers is sent: see refs_pay_for_shares().
 */
static u64 refs_cost_beside(unsigned long index)
{
	return index >= EVPL_REFS_LEASES && index < EVPL_REFS_LEASES + EVPL_LEASES_PAGES ?
	       leases_cost() : 0;
}

static unsigned long refs_count_missing(struct evpl_client *client, unsigned long first,
					unsigned long last)
{
	unsigned long index, missing = 0;

	for (index = first; index <= last; index++) {
		if (!xa_load(&client->refs, index))
			missing++;
		cond_resched();
	}
	return missing;
}

/*
 * Allocate the missing pages of a range, and a slot for each. All that can fail is done here,
 * before a fault can find one of the pages. Also on an error the caller owns @pages and the slots.
 */
static int refs_alloc_missing(struct evpl_client *client, unsigned long first,
			      unsigned long last, struct list_head *pages)
{
	unsigned long index;
	struct page *page;

	for (index = first; index <= last; index++) {
		if (xa_load(&client->refs, index))
			continue;
		if (fatal_signal_pending(current))
			return -EINTR;
		page = alloc_page(EVPL_GFP | __GFP_ZERO);
		if (!page)
			return -ENOMEM;
		set_page_private(page, refs_cost_beside(first));
		list_add(&page->lru, pages);
		if (xa_reserve(&client->refs, index, EVPL_GFP))
			return -ENOMEM;
		cond_resched();
	}
	return 0;
}

/* Undo refs_alloc_missing(). */
static void refs_free_missing(struct evpl_client *client, unsigned long first,
			      unsigned long last, struct list_head *pages)
{
	struct page *page, *next;
	unsigned long index;

	for (index = first; index <= last; index++) {
		xa_release(&client->refs, index);
		cond_resched();
	}
	list_for_each_entry_safe(page, next, pages, lru) {
		list_del(&page->lru);
		__free_page(page);
	}
}

/* Let faults find the pages that refs_alloc_missing() has allocated. */
static void refs_publish(struct evpl_client *client, unsigned long first,
			 struct list_head *pages)
{
	struct page *page, *next;

	list_for_each_entry_safe(page, next, pages, lru) {
		list_del(&page->lru);
		while (xa_load(&client->refs, first))
			first++;
		/* Takes no memory: the slot is reserved. */
		WARN_ON_ONCE(xa_is_err(xa_store(&client->refs, first++, page, 0)));
		cond_resched();
	}
}

/**
 * evpl_refs_grow() - add the pages of a range that are missing
 * @client: the client
 * @first: the first page, counted from EVPL_REFS_START
 * @last: the last page, in the same window as @first
 *
 * Return: 0; -ENOMEM, -EINTR, or -ENOTCONN if the client has gone, with nothing changed.
 */
int evpl_refs_grow(struct evpl_client *client, unsigned long first,
		   unsigned long last)
{
	LIST_HEAD(pages);
	u64 bytes;
	int ret;

	mutex_lock(&client->refs_mutex);
	/*
	 * ->gone is set before evpl_refs_destroy() takes refs_mutex. If it isn't set yet,
	 * evpl_refs_destroy() comes later, and frees the pages that are added now.
	 */
	ret = -ENOTCONN;
	if (READ_ONCE(client->gone))
		goto unlock;
	bytes = refs_count_missing(client, first, last) * (PAGE_SIZE + refs_cost_beside(first));
	ret = evpl_charge(client->user, bytes);
	if (ret)
		goto unlock;
	evpl_syncpoint(EVPL_SYNCPOINT_ENTRIES);

	ret = refs_alloc_missing(client, first, last, &pages);
	if (ret) {
		refs_free_missing(client, first, last, &pages);
		evpl_uncharge(client->user, bytes);
	} else {
		refs_publish(client, first, &pages);
	}
unlock:
	mutex_unlock(&client->refs_mutex);
	return ret;
}

/* Add one page if it is missing. Mostly it is there. */
static int refs_grow_one(struct evpl_client *client, unsigned long index)
{
	return xa_load(&client->refs, index) ? 0 :
	       evpl_refs_grow(client, index, index);
}

/* Add the entries of the own buffers @first to @last. */
int evpl_refs_grow_entries(struct evpl_client *client, u64 first, u64 last)
{
	return evpl_refs_grow(client, EVPL_REFS_ENTRIES + first / ENTRIES_PER_PAGE,
			      EVPL_REFS_ENTRIES + last / ENTRIES_PER_PAGE);
}

int evpl_refs_grow_header(struct evpl_client *client)
{
	return refs_grow_one(client, EVPL_REFS_HEADER);
}

/* Charge for the shares of all buffers whose entries are in one page. */
static int refs_pay_for_shares(struct evpl_client *client, struct page *page)
{
	int ret = 0;

	mutex_lock(&client->refs_mutex);
	if (!page_private(page)) {
		ret = evpl_charge(client->user, shares_cost());
		if (!ret)
			WRITE_ONCE(page->private, shares_cost());
	}
	mutex_unlock(&client->refs_mutex);
	return ret;
}

/*
 * Prepare for a share of the own buffer with this word: pay for it, and add the bit that
 * reports its end.
 */
int evpl_refs_grow_share(struct evpl_client *client, u64 buffer, atomic64_t *word)
{
	struct page *page = virt_to_page(word);
	int ret = 0;

	/* Once paid for, the shares stay so until evpl_refs_destroy(). */
	if (!READ_ONCE(page->private))
		ret = refs_pay_for_shares(client, page);
	return ret ?: refs_grow_one(client, EVPL_REFS_RETURNED + buffer / BITS_PER_PAGE);
}

/* Add the entry of a lease, and the bit to report its revoke by. */
int evpl_refs_grow_lease(struct evpl_client *client, u32 number)
{
	return refs_grow_one(client, EVPL_REFS_LEASES + number / ENTRIES_PER_PAGE) ?:
	       refs_grow_one(client, EVPL_REFS_REVOKED + number / BITS_PER_PAGE);
}

/*
 * The address at which the kernel may access a page; NULL if there is no page, or it has a
 * memory error.
 */
static void *refs_address(struct evpl_client *client, unsigned long index)
{
	struct page *page = xa_load(&client->refs, index);

	return page && !PageHWPoison(page) ? page_address(page) : NULL;
}

/*
 * Report the entry with this number to user space: by its bit in the bitmap, if @bit, and by
 * the summary in the header. Both are set by atomic OR, so nothing that user space writes can
 * disturb this.
 */
static void refs_report(struct evpl_client *client, unsigned long first, u64 number, bool bit)
{
	unsigned long *bits = bit ? refs_address(client, first + number / BITS_PER_PAGE) : NULL;
	struct evpl_header *header = refs_address(client, EVPL_REFS_HEADER);
	unsigned long *summary;

	if (!header || (bit && !bits))
		return;
	summary = (unsigned long *)(first == EVPL_REFS_RETURNED ? &header->returned :
								  &header->revoked);
	if (bit)
		set_bit(number % BITS_PER_PAGE, bits);
	/* A client that sees the bit in the summary must also see the one in the bitmap. */
	smp_mb__before_atomic();
	set_bit(number / BITS_PER_PAGE % BITS_PER_LONG, summary);
}

/*
 * Count a change of the other end of one of the client's ends. The page exists as long as the
 * client has an end that isn't closed: the caller holds the lock of its channel.
 */
void evpl_refs_count_ends(struct evpl_client *client)
{
	struct evpl_header *header = refs_address(client, EVPL_REFS_HEADER);

	if (!header)
		return;
	/* A client that sees the count must also see what came of the change before. */
	smp_mb__before_atomic();
	atomic64_inc((atomic64_t *)&header->ends);
}

/* The events that poll(2) gives for the client. */
__poll_t evpl_refs_poll(struct evpl_client *client)
{
	struct evpl_header *header = refs_address(client, EVPL_REFS_HEADER);
	__poll_t events = 0;

	if (header && READ_ONCE(header->returned))
		events |= EPOLLIN | EPOLLRDNORM;
	if (header && READ_ONCE(header->revoked))
		events |= EPOLLPRI;
	return events;
}

/**
 * evpl_refs_word() - find a word
 * @client: the client that has the entry
 * @first: EVPL_REFS_ENTRIES or EVPL_REFS_LEASES
 * @number: of an own buffer or a lease that has its entry
 *
 * Return: the word, which stays as long as the top of this file says. Its page may get a memory
 * error at any time, so only word.c and evpl_refs_in_use() may access it.
 */
atomic64_t *evpl_refs_word(struct evpl_client *client, unsigned long first,
			   u64 number)
{
	struct page *page = xa_load(&client->refs, first + number / ENTRIES_PER_PAGE);
	struct evpl_entry *entries = page_address(page);

	return (atomic64_t *)&entries[number % ENTRIES_PER_PAGE].word;
}

/* Must be followed by evpl_refs_wake_returned(), which needs no lock. */
void evpl_refs_report_returned(struct evpl_client *client, u64 buffer)
{
	refs_report(client, EVPL_REFS_RETURNED, buffer, true);
}

/*
 * Report that others don't have a buffer any more on which its owner still has references, or that
 * a peer has rung for memory. No bit is set in the bitmap: by a bit, the owner would take the
 * buffer for unused.
 */
void evpl_refs_report_unshared(struct evpl_client *client, u64 buffer)
{
	refs_report(client, EVPL_REFS_RETURNED, buffer, false);
}

void evpl_refs_wake_returned(struct evpl_client *client)
{
	wake_up_poll(&client->wait, EPOLLIN | EPOLLRDNORM);
}

void evpl_refs_report_revoked(struct evpl_client *client, u32 number)
{
	refs_report(client, EVPL_REFS_REVOKED, number, true);
	wake_up_poll(&client->wait, EPOLLPRI);
}

/**
 * evpl_refs_in_use() - count the buffers of a slab that have a reference
 * @client: the client, whose lock the caller holds
 * @slab: the slab
 *
 * Return: how many words aren't 0: a hint, which may be outdated already. A word that a memory
 * error has taken counts as in use, and isn't read.
 */
unsigned long evpl_refs_in_use(struct evpl_client *client,
			       struct evpl_slab *slab)
{
	u64 buffer = slab->start >> slab->buffer_order;
	u64 end = buffer + (slab->nr_pages >> slab->buffer_order);
	struct evpl_entry *entries;
	struct page *page = NULL;
	unsigned long in_use = 0;

	lockdep_assert_held(&client->lock);

	for (; buffer < end; buffer++) {
		unsigned int slot = buffer % ENTRIES_PER_PAGE;

		if (!page || !slot) {
			page = xa_load(&client->refs, EVPL_REFS_ENTRIES +
						      buffer / ENTRIES_PER_PAGE);
			entries = page_address(page);
			cond_resched();
		}
		if (PageHWPoison(page) || READ_ONCE(entries[slot].word))
			in_use++;
	}
	return in_use;
}

/*
 * Whether something still has a page of the refs windows, which no process maps: a ring, a pipe or
 * a device, which may even write there; or a processor whose TLB hasn't been flushed after the
 * munmap(2). A page with a memory error has references for ever, but isn't used any more.
 */
bool evpl_refs_are_held(struct evpl_client *client)
{
	unsigned long index;
	struct page *page;

	xa_for_each(&client->refs, index, page) {
		if (page_ref_count(page) > 1 && !PageHWPoison(page))
			return true;
		cond_resched();
	}
	return false;
}

/**
 * evpl_refs_clear() - clear all that user space has written to the refs windows
 * @client: the client, which no process maps
 *
 * The header keeps what isn't an event. The kernel may report events meanwhile, and change the
 * words of buffers and leases. So these are reset one by one afterwards.
 *
 * Return: 0, or -EINTR after a part of the pages.
 */
int evpl_refs_clear(struct evpl_client *client)
{
	struct evpl_header *header = refs_address(client, EVPL_REFS_HEADER);
	unsigned long index, i;
	struct page *page;
	u64 *words;

	if (header) {
		WRITE_ONCE(header->returned, 0);
		WRITE_ONCE(header->revoked, 0);
	}
	xa_for_each(&client->refs, index, page) {
		words = refs_address(client, index);
		if (!words || index == EVPL_REFS_HEADER)
			continue;
		for (i = 0; i < PAGE_SIZE / sizeof(*words); i++)
			WRITE_ONCE(words[i], 0);
		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();
	}
	return 0;
}

static void refs_take_back(struct evpl_client *client, unsigned long first, u64 number)
{
	unsigned long *bits = refs_address(client, first + number / BITS_PER_PAGE);

	if (bits)
		clear_bit(number % BITS_PER_PAGE, bits);
}

/*
 * Set the word of an own buffer, and take back its report. Both are done under the xa_lock of
 * evpl_slab.shares, as the kernel reports the buffer. So a buffer whose word is set to 0 here has
 * no bit, and gets none before it is sent.
 */
void evpl_refs_reset_buffer(struct evpl_client *client, u64 buffer, u64 word)
{
	evpl_word_set(evpl_refs_word(client, EVPL_REFS_ENTRIES, buffer), word);
	refs_take_back(client, EVPL_REFS_RETURNED, buffer);
}

/*
 * The same for a lease that has just been unpublished. lease_sem is held for write, so the
 * lease's number has its next lease later.
 */
void evpl_refs_reset_lease(struct evpl_client *client, u32 number)
{
	lockdep_assert_held_write(&client->lease_sem);
	evpl_word_set(evpl_refs_word(client, EVPL_REFS_LEASES, number), 0);
	refs_take_back(client, EVPL_REFS_REVOKED, number);
}

/**
 * evpl_refs_destroy() - free the refs windows of a client
 * @client: the client, marked as gone; it has no VMAs and no leases left, and its slabs are
 *	orphaned
 */
void evpl_refs_destroy(struct evpl_client *client)
{
	unsigned long index;
	struct page *page;

	mutex_lock(&client->refs_mutex);
	xa_for_each(&client->refs, index, page) {
		evpl_uncharge(client->user, page_private(page));
		set_page_private(page, 0);
		evpl_folio_free(page_folio(page), client->user);
		cond_resched();
	}
	xa_destroy(&client->refs);
	mutex_unlock(&client->refs_mutex);
}

