// SPDX-License-Identifier: GPL-2.0-only
/*
 * Quarantine keeps a buffer from its next user while a device may still have the buffer's pages.
 * A client that could pin pages in a guest-io window may have left them with a ring, a pipe, a
 * socket or a device. These keep the pages past the end of the lease, and past the end of the
 * client. A writable PFN mapping, of the guest window or of a dma-buf, can't be pinned. But KVM
 * before Linux 6.13 takes a reference on the first page of a folio that is mapped so, and lets
 * a guest write to it until the guest lets go. All of these hold a reference on the folio; not
 * all of them hold a pin. So the check of a buffer counts the references of its folios, less the
 * slab's own and one for each mapping.
 *
 * A read-only lease for the CPU needs no check: a late access through it can't write.
 *
 * The baseline of a folio is how many such references the owner's own registrations have. The
 * owner sets it. A buffer passes the check if no folio of it has more references than its
 * baseline. share.c checks a buffer when all leases have been unmapped, before the owner gets its
 * reference back. If the buffer fails the check then, it goes into quarantine, and its folios are
 * rechecked until it passes.
 */
#include <linux/jiffies.h>
#include <linux/ktime.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/sched.h>
#include <linux/spinlock.h>

#include "compat.h"
#include "evpl.h"

#define CREATE_TRACE_POINTS
#include "trace.h"

/* The longest delay from one pass to the next, in jiffies, if the pass was cheap. */
#define DELAY_MAX	HZ
/* After a pass, this many times the time that it took goes by before the next, up to a limit. */
#define PAUSE_FACTOR	32
#define PAUSE_MAX	(10 * HZ)

atomic_long_t evpl_nr_rechecks;

/*
 * Count the references that are neither the slab's own nor a mapping's. A page is mapped with
 * the folio locked, so no mapping is added between the two counts. One may be removed in
 * between: then its reference has been counted, and the result is too high. It is never too
 * low.
 */
static int other_refs(struct folio *folio)
{
	int refs;

	folio_lock(folio);
	refs = folio_ref_count(folio) - 1;
	/* Pairs with unmapping a page, which drops the mapcount first, then the reference. */
	smp_rmb();
	refs -= evpl_folio_mapcount(folio);
	folio_unlock(folio);
	return refs;
}

/**
 * evpl_quarantine_check() - check whether something holds the pages of a buffer
 * @share: of the buffer; the caller has a reference on it
 *
 * Return: true if none of its folios has more references than its baseline; also if the owner has
 * gone, as there is no folio left to check then.
 */
bool evpl_quarantine_check(struct evpl_share *share)
{
	struct evpl_slab *slab = share->slab;
	pgoff_t first = evpl_share_start(share);
	pgoff_t last = first + BIT(slab->buffer_shift) - 1;
	struct evpl_part *part = evpl_slab_part(slab, first);
	struct evpl_part *end = slab->parts + slab->nr_parts;
	bool passes = true;
	int refs, baseline;

	down_read(&slab->orphan_sem);
	for (; passes && !slab->orphaned && part < end && part->index <= last; part++) {
		refs = other_refs(part->folio);
		atomic_long_inc(&evpl_nr_rechecks);
		baseline = READ_ONCE(part->baseline);
		passes = refs <= baseline;
		if (!passes)
			trace_evpl_folio_held(share, part, refs, baseline);
		cond_resched();
	}
	up_read(&slab->orphan_sem);
	return passes;
}

/* How long it is until the next pass may run, in jiffies. */
static unsigned long until_next(struct evpl_client *client)
{
	unsigned long now = jiffies;

	lockdep_assert_held(&client->recheck_lock);
	return time_after(client->recheck_pause, now) ? client->recheck_pause - now : 1;
}

/*
 * A pass: check the buffers in quarantine. While some stay there, passes come less and less
 * often.
 */
static void recheck_work_fn(struct work_struct *work)
{
	struct evpl_client *client = container_of(to_delayed_work(work),
						  struct evpl_client, recheck_work);
	u64 start = ktime_get_ns();
	unsigned long pause;
	bool left;

	/*
	 * Clear the flag first, so that a quarantine that begins from now on schedules its own
	 * pass.
	 */
	spin_lock(&client->recheck_lock);
	client->recheck_delay = client->recheck_soon ? 1 :
			      min_t(unsigned long, 2 * client->recheck_delay, DELAY_MAX);
	client->recheck_soon = false;
	spin_unlock(&client->recheck_lock);

	left = evpl_quarantine_recheck(client);
	pause = nsecs_to_jiffies(PAUSE_FACTOR * (ktime_get_ns() - start));
	pause = min_t(unsigned long, pause, PAUSE_MAX);

	spin_lock(&client->recheck_lock);
	client->recheck_pause = jiffies + pause;
	/*
	 * A quarantine that began during this pass has scheduled the next one by the old pause.
	 * Put that off too: else a lessee could make one pass follow the other.
	 */
	if (!client->recheck_off && (left || client->recheck_soon))
		mod_delayed_work(evpl_wq, &client->recheck_work,
				 client->recheck_soon ? until_next(client) :
						      max(client->recheck_delay, pause));
	spin_unlock(&client->recheck_lock);
}

void evpl_quarantine_init(struct evpl_client *client)
{
	spin_lock_init(&client->recheck_lock);
	INIT_DELAYED_WORK(&client->recheck_work, recheck_work_fn);
	client->recheck_pause = jiffies;
}

/* The client goes. When this returns, no pass is running, and none can be scheduled. */
void evpl_quarantine_exit(struct evpl_client *client)
{
	spin_lock(&client->recheck_lock);
	client->recheck_off = true;
	spin_unlock(&client->recheck_lock);
	cancel_delayed_work_sync(&client->recheck_work);
}

/**
 * evpl_quarantine_schedule() - see that a client's buffers in quarantine are checked soon
 * @client: the client; another of its buffers is in quarantine, or it waits for one
 */
void evpl_quarantine_schedule(struct evpl_client *client)
{
	/* Lessees call this too, so it takes no lock that the owner sleeps under. */
	spin_lock(&client->recheck_lock);
	if (!client->recheck_off && !client->recheck_soon) {
		client->recheck_soon = true;
		mod_delayed_work(evpl_wq, &client->recheck_work, until_next(client));
	}
	spin_unlock(&client->recheck_lock);
}

/* Whether the buffers in this folio have no share, and no reference in their words. */
static bool is_idle(struct evpl_client *client, struct evpl_slab *slab,
		    struct evpl_part *part)
{
	u64 buffer = part->index >> slab->buffer_shift;
	u64 last = (part->index + folio_nr_pages(part->folio) - 1) >>
		   slab->buffer_shift;
	bool shared;

	xa_lock(&slab->shares);
	shared = evpl_slab_part_has(slab, part, XA_PRESENT);
	xa_unlock(&slab->shares);
	if (shared)
		return false;
	for (; buffer <= last; buffer++)
		if (evpl_word_read(evpl_refs_word(client, EVPL_REFS_ENTRIES,
						  buffer)))
			return false;
	return true;
}

/*
 * Set the baseline of a folio to the references that it has now, and update the lowest baseline of
 * its order; not if the folio is in use. The words are read before and after the references are
 * counted. I/O that was running during the count has a word that isn't 0 at one of these times,
 * unless it began and ended in between.
 */
static bool raise_baseline(struct evpl_client *client, struct evpl_slab *slab,
			   struct evpl_part *part, int *lowest)
{
	unsigned int order = folio_order(part->folio);
	bool idle;
	int refs;

	/* No share is added meanwhile: a task that sends holds tree_lock for read. */
	down_write(&client->tree_lock);
	idle = is_idle(client, slab, part);
	if (idle) {
		refs = other_refs(part->folio);
		idle = is_idle(client, slab, part);
	}
	if (idle) {
		WRITE_ONCE(part->baseline, refs);
		lowest[order] = min(lowest[order], refs);
	}
	up_write(&client->tree_lock);
	return idle;
}

/**
 * evpl_baseline_set() - set the baselines of folios to the references that they have now
 * @client: the owner
 * @first: first page of the range, in the own window
 * @nr_pages: pages in the range
 * @flags: EVPL_BASELINE_*
 *
 * Return: how many folios were skipped because they are in use; -ENOENT if the range isn't in a
 * slab.
 */
int evpl_baseline_set(struct evpl_client *client, pgoff_t first,
		      unsigned long nr_pages, u32 flags)
{
	int lowest[EVPL_FOLIO_ORDER_MAX + 1], busy, pass, i;
	struct evpl_part *start, *end, *part;
	struct evpl_slab *slab;

	for (i = 0; i < ARRAY_SIZE(lowest); i++)
		lowest[i] = INT_MAX;

	mutex_lock(&client->lock);
	slab = evpl_slab_find(client, first);
	if (!slab || !slab->live ||
	    nr_pages > slab->start + slab->nr_pages - first) {
		mutex_unlock(&client->lock);
		return -ENOENT;
	}
	start = evpl_slab_part(slab, first);
	end = evpl_slab_part(slab, first + nr_pages - 1) + 1;
	/*
	 * With EVPL_BASELINE_ALIKE, go over them again to give those in use the baseline of the
	 * others.
	 */
	for (pass = 0; pass <= !!(flags & EVPL_BASELINE_ALIKE); pass++) {
		busy = 0;
		for (part = start; part < end; part++) {
			cond_resched();
			if (flags & EVPL_BASELINE_ZERO) {
				WRITE_ONCE(part->baseline, 0);
				continue;
			}
			if (raise_baseline(client, slab, part, lowest))
				continue;
			i = lowest[folio_order(part->folio)];
			if (pass && i != INT_MAX)
				WRITE_ONCE(part->baseline, i);
			else
				busy++;
		}
	}
	mutex_unlock(&client->lock);
	return busy;
}
