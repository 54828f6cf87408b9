// SPDX-License-Identifier: GPL-2.0-only
/*
 * The fence keeps a buffer from its next user while a device may still have the buffer's pages.
 * A client that could pin pages in a guest-io window may have left them with a ring, a pipe, a
 * socket or a device. These keep the pages past the end of the lease, and past the end of the
 * client. A writable PFN mapping, of the guest window or of a dma-buf, can't be pinned. But KVM
 * before Linux 6.13 takes a reference on the first page of a folio that is mapped so, and lets
 * a guest write to it until the guest lets go. All of these hold a reference on the folio; not
 * all of them hold a pin. So the fence counts the folio's references, less the slab's own and
 * one for each mapping.
 *
 * A read-only lease for the CPU isn't fenced: a late access through it can't write.
 *
 * The floor of a folio is the baseline of that count: the references of the owner's own
 * registrations. The owner sets it. The fence is open when no folio of the buffer has more
 * references than its floor. share.c checks it when all leases have been unmapped, before the
 * owner gets its reference back. If the fence is closed then, the buffer goes into quarantine,
 * and its folios are rechecked until the fence is open.
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

atomic_long_t evpl_nr_looks;

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
 * evpl_fence_is_open() - check whether the fence of a buffer is open
 * @share: of the buffer; the caller has a reference on it
 *
 * Return: true if none of its folios has more references than its floor; also if the owner has
 * gone, as there is no folio left to check then.
 */
bool evpl_fence_is_open(struct evpl_share *share)
{
	struct evpl_slab *slab = share->slab;
	pgoff_t first = evpl_share_start(share);
	pgoff_t last = first + BIT(slab->buffer_shift) - 1;
	struct evpl_part *part = evpl_slab_part(slab, first);
	struct evpl_part *end = slab->parts + slab->nr_parts;
	bool open = true;
	int refs, floor;

	down_read(&slab->fence_sem);
	for (; open && !slab->orphaned && part < end && part->index <= last; part++) {
		refs = other_refs(part->folio);
		atomic_long_inc(&evpl_nr_looks);
		floor = READ_ONCE(part->floor);
		open = refs <= floor;
		if (!open)
			trace_evpl_fence_closed(share, part, refs, floor);
		cond_resched();
	}
	up_read(&slab->fence_sem);
	return open;
}

/* How long it is until the next pass may run, in jiffies. */
static unsigned long until_next(struct evpl_client *client)
{
	unsigned long now = jiffies;

	lockdep_assert_held(&client->fence_lock);
	return time_after(client->fence_pause, now) ? client->fence_pause - now : 1;
}

/*
 * A pass: check the buffers in quarantine. While some stay there, passes come less and less
 * often.
 */
static void fence_work_fn(struct work_struct *work)
{
	struct evpl_client *client = container_of(to_delayed_work(work),
						  struct evpl_client, fence_work);
	u64 start = ktime_get_ns();
	unsigned long pause;
	bool left;

	/*
	 * Clear the flag first, so that a quarantine that begins from now on schedules its own
	 * pass.
	 */
	spin_lock(&client->fence_lock);
	client->fence_delay = client->fence_soon ? 1 :
			      min_t(unsigned long, 2 * client->fence_delay, DELAY_MAX);
	client->fence_soon = false;
	spin_unlock(&client->fence_lock);

	left = evpl_share_look(client);
	pause = nsecs_to_jiffies(PAUSE_FACTOR * (ktime_get_ns() - start));
	pause = min_t(unsigned long, pause, PAUSE_MAX);

	spin_lock(&client->fence_lock);
	client->fence_pause = jiffies + pause;
	/*
	 * A quarantine that began during this pass has scheduled the next one by the old pause.
	 * Put that off too: else a lessee could make one pass follow the other.
	 */
	if (!client->fence_off && (left || client->fence_soon))
		mod_delayed_work(evpl_wq, &client->fence_work,
				 client->fence_soon ? until_next(client) :
						      max(client->fence_delay, pause));
	spin_unlock(&client->fence_lock);
}

void evpl_fence_init(struct evpl_client *client)
{
	spin_lock_init(&client->fence_lock);
	INIT_DELAYED_WORK(&client->fence_work, fence_work_fn);
	client->fence_pause = jiffies;
}

/* The client goes. When this returns, no pass is running, and none can be scheduled. */
void evpl_fence_exit(struct evpl_client *client)
{
	spin_lock(&client->fence_lock);
	client->fence_off = true;
	spin_unlock(&client->fence_lock);
	cancel_delayed_work_sync(&client->fence_work);
}

/**
 * evpl_fence_watch() - see that a client's buffers in quarantine are checked soon
 * @client: the client; another of its buffers is in quarantine, or it waits for one
 */
void evpl_fence_watch(struct evpl_client *client)
{
	/* Lessees call this too, so it takes no lock that the owner sleeps under. */
	spin_lock(&client->fence_lock);
	if (!client->fence_off && !client->fence_soon) {
		client->fence_soon = true;
		mod_delayed_work(evpl_wq, &client->fence_work, until_next(client));
	}
	spin_unlock(&client->fence_lock);
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
 * Set the floor of a folio to the references that it has now, and update the lowest floor of
 * its order; not if the folio is in use. The words are read before and after the references are
 * counted. I/O that was running during the count has a word that isn't 0 at one of these times,
 * unless it began and ended in between.
 */
static bool raise_floor(struct evpl_client *client, struct evpl_slab *slab,
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
		WRITE_ONCE(part->floor, refs);
		lowest[order] = min(lowest[order], refs);
	}
	up_write(&client->tree_lock);
	return idle;
}

/**
 * evpl_fence_floor() - set the floors of folios to the references that they have now
 * @client: the owner
 * @first: first page of the range, in the own window
 * @nr_pages: pages in the range
 * @flags: EVPL_FLOOR_*
 *
 * Return: how many folios were skipped because they are in use; -ENOENT if the range isn't in a
 * slab.
 */
int evpl_fence_floor(struct evpl_client *client, pgoff_t first,
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
	 * With EVPL_FLOOR_ALIKE, go over them again to give those in use the floor of the
	 * others.
	 */
	for (pass = 0; pass <= !!(flags & EVPL_FLOOR_ALIKE); pass++) {
		busy = 0;
		for (part = start; part < end; part++) {
			cond_resched();
			if (flags & EVPL_FLOOR_ZERO) {
				WRITE_ONCE(part->floor, 0);
				continue;
			}
			if (raise_floor(client, slab, part, lowest))
				continue;
			i = lowest[folio_order(part->folio)];
			if (pass && i != INT_MAX)
				WRITE_ONCE(part->floor, i);
			else
				busy++;
		}
	}
	mutex_unlock(&client->lock);
	return busy;
}
