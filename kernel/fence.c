// SPDX-License-Identifier: GPL-2.0-only
/*
 * The fence stands between a device that may still have a buffer's pages and the buffer's
 * next user. A client that could pin pages in a guest-io window may have left them with a
 * ring, a pipe, a socket or a device. These keep the pages past the end of the lease, and
 * past the end of the client. A writable PFN mapping, of the guest window or of a dma-buf,
 * can't be pinned, but KVM before Linux 6.13 takes a reference on the first page of a folio
 * that is mapped so, and lets a guest write to it until the guest lets go. All of these
 * hold a reference on the folio; not all of them hold a pin. So the fence counts the
 * folio's references, less the slab's own and one for each mapping.
 *
 * A read-only lease for the CPU isn't fenced. What is read through it late is read, and
 * written nowhere.
 *
 * The references of the owner's own registrations are the folio's floor, which the owner
 * sets. share.c asks whether the fence is open when all leases have been unmapped, and
 * before the owner gets its reference back. If the fence is closed then, the buffer is in
 * quarantine, and its folio is looked at again until the fence is open.
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

/* How long after the last pass the next one comes at most, in jiffies, if that was cheap. */
#define DELAY_MAX	HZ
/* After a pass, this many times as long as it took goes by before the next, up to a limit. */
#define PAUSE_FACTOR	32
#define PAUSE_MAX	(10 * HZ)

atomic_long_t evpl_nr_looks;

/*
 * References that are neither the slab's nor a mapping's. A page of the folio is mapped
 * with the lock held, so no mapping comes between the two counts: what was counted as a
 * reference and then is unmapped looks like one that stays, never the other way.
 */
static int other_refs(struct folio *folio)
{
	int refs;

	folio_lock(folio);
	refs = folio_ref_count(folio) - 1;
	/* Pairs with what unmaps a page: that goes first, then its reference. */
	smp_rmb();
	refs -= evpl_folio_mapcount(folio);
	folio_unlock(folio);
	return refs;
}

/**
 * evpl_fence_is_open() - whether nothing but its owner has a buffer's pages
 * @share: of the buffer; the caller has a count of it
 *
 * Return: true if none of its folios has more references than its floor; or if the
 * owner has gone: then there are folios no more that are to be looked at.
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

/* How long it is until the next pass may come, in jiffies. */
static unsigned long until_next(struct evpl_client *client)
{
	unsigned long now = jiffies;

	lockdep_assert_held(&client->fence_lock);
	return time_after(client->fence_pause, now) ? client->fence_pause - now : 1;
}

/* Look at the buffers in quarantine, and less and less often. */
static void fence_work_fn(struct work_struct *work)
{
	struct evpl_client *client = container_of(to_delayed_work(work),
						  struct evpl_client, fence_work);
	u64 start = ktime_get_ns();
	unsigned long pause;
	bool left;

	/*
	 * Clear the flag first, so that a quarantine that begins from now on schedules a
	 * pass of its own.
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
	 * A quarantine that began during this pass has scheduled the next one by the pause
	 * before. Put that off too: else a lessee could have pass follow pass.
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

/* The client goes: no pass runs any more when this returns, and none comes. */
void evpl_fence_exit(struct evpl_client *client)
{
	spin_lock(&client->fence_lock);
	client->fence_off = true;
	spin_unlock(&client->fence_lock);
	cancel_delayed_work_sync(&client->fence_work);
}

/**
 * evpl_fence_watch() - see that a client's buffers in quarantine are looked at soon
 * @client: the client; another buffer is in quarantine, or the owner waits for one
 */
void evpl_fence_watch(struct evpl_client *client)
{
	/* A lessee comes here too, so this waits for nothing of the owner's. */
	spin_lock(&client->fence_lock);
	if (!client->fence_off && !client->fence_soon) {
		client->fence_soon = true;
		mod_delayed_work(evpl_wq, &client->fence_work, until_next(client));
	}
	spin_unlock(&client->fence_lock);
}

/* Whether nobody has a reference on a buffer in this folio. */
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
 * Set the floor of a folio to what holds it, and note the lowest by order; not if it is
 * in use. Words are read before and after: I/O that was running when the references
 * were counted has a word that isn't 0, unless it came and went in between.
 */
static bool raise_floor(struct evpl_client *client, struct evpl_slab *slab,
			struct evpl_part *part, int *lowest)
{
	unsigned int order = folio_order(part->folio);
	bool idle;
	int refs;

	/* Against who sends: nobody else comes to hold it in between. */
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
 * evpl_fence_floor() - set the floors of folios to what holds them
 * @client: whose
 * @first: of the own window, the first page
 * @nr_pages: how many
 * @flags: EVPL_FLOOR_*
 *
 * Return: how many folios were in use and so passed by; -ENOENT if the range isn't in
 * a slab.
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
	/* A second time, to give those in use what the others have. */
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
