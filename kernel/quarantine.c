// SPDX-License-Identifier: GPL-2.0-only
/*
 * Quarantine keeps a buffer from its next user while a device may still have the buffer's pages. A
 * client that could pin pages in a guest-io window may have left them with a ring, a pipe, a
 * socket or a device. These keep the pages past the end of the lease, and past the end of the
 * client. A writable PFN mapping, of the guest window or of a dma-buf, can't be pinned. But KVM
 * before Linux 6.13 takes a reference on the first page of a folio that is mapped so, and lets a
 * virtual machine write to it until that lets go. All of these hold a reference on the folio; not
 * all of them hold a pin. So the check of a buffer counts the references of its folios, less the
 * slab's own and one for each mapping.
 *
 * A read-only lease for the CPU needs no check: a late access through it can't write.
 *
 * The baseline of a folio is how many such references the owner's own registrations have. The
 * owner sets it. A buffer passes the check if no folio of it has more references than its
 * baseline. share.c has a buffer checked when all leases have been unmapped, before the owner gets
 * the buffer back. If the buffer fails the check then, it goes into quarantine, and its folios
 * are rechecked until it passes.
 *
 * A quarantine has an unrevocable reference on the share, and a mark in evpl_slab.shares. A task
 * that clears the mark takes over the reference.
 */
#include <linux/jiffies.h>
#include <linux/ktime.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/spinlock.h>

#include "client.h"
#include "compat.h"
#include "evpl.h"
#include "folio.h"
#include "quarantine.h"
#include "refs.h"
#include "share.h"
#include "slab.h"
#include "syncpoint.h"
#include "trace.h"
#include "word.h"

/* The longest delay from one pass to the next, in jiffies, if the pass was cheap. */
#define DELAY_MAX	HZ
/* After a pass, this many times the time that it took goes by before the next, up to a limit. */
#define PAUSE_FACTOR	32
#define PAUSE_MAX	(10 * HZ)

atomic_long_t evpl_nr_rechecks, evpl_nr_quarantined;

/*
 * Count the references that are neither the slab's own nor a mapping's. A page is mapped with
 * the folio locked, so no mapping is added between the two counts. One may be removed in
 * between: then its reference has been counted, and the result is too high. It is never too
 * low.
 */
static int folio_other_refs(struct folio *folio)
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

/*
 * Return true if none of the buffer's folios has more references than its baseline; also if the
 * owner has gone, as there is no folio left to check then. The caller has a reference on the
 * share.
 */
static bool quarantine_check_pages(struct evpl_share *share)
{
	struct evpl_slab *slab = share->slab;
	pgoff_t first = evpl_share_start(share);
	pgoff_t last = first + BIT(slab->buffer_order) - 1;
	struct evpl_slab_folio *slab_folio = evpl_slab_folio_at(slab, first);
	struct evpl_slab_folio *end = slab->folios + slab->nr_folios;
	bool passes = true;
	int refs, baseline;

	down_read(&slab->orphan_sem);
	for (; passes && !slab->orphaned && slab_folio < end && slab_folio->index <= last;
	     slab_folio++) {
		refs = folio_other_refs(slab_folio->folio);
		atomic_long_inc(&evpl_nr_rechecks);
		baseline = READ_ONCE(slab_folio->baseline);
		passes = refs <= baseline;
		WRITE_ONCE(slab_folio->excess, passes ? 0 : refs - baseline);
		if (!passes)
			trace_evpl_folio_held(share, slab_folio, refs, baseline);
		cond_resched();
	}
	up_read(&slab->orphan_sem);
	return passes;
}

/*
 * Whether nothing holds the buffer's pages. The caller has a reference on the share, and holds
 * the xa_lock, which is dropped during the check. The answer is false if a lease was added, a
 * writable dma-buf made, the share revoked, or a registration begun or ended during the check.
 */
bool evpl_quarantine_is_clear(struct evpl_share *share)
{
	struct xarray *shares = &share->slab->shares;
	u64 serial = share->next_serial;
	bool clear;

	lockdep_assert_held(&shares->xa_lock);
	if (!share->may_be_held)
		return true;
	xa_unlock(shares);
	clear = quarantine_check_pages(share);
	evpl_syncpoint(EVPL_SYNCPOINT_CHECKED);
	xa_lock(shares);
	return clear && serial == share->next_serial;
}

/*
 * Whether a share is in quarantine. Compare the pointer too: a revoked share may have left its
 * slot, and then the mark there is that of another share.
 */
bool evpl_quarantine_has(struct evpl_share *share)
{
	struct xarray *shares = &share->slab->shares;

	return xa_load(shares, share->index) == share &&
	       xa_get_mark(shares, share->index, EVPL_QUARANTINED);
}

/*
 * Whether a buffer of the same folio is in quarantine. Then something held the folio when it was
 * last checked.
 */
bool evpl_quarantine_has_folio(struct evpl_share *share)
{
	struct evpl_slab *slab = share->slab;
	struct evpl_slab_folio *slab_folio = evpl_slab_folio_at(slab, evpl_share_start(share));

	lockdep_assert_held(&slab->shares.xa_lock);
	return !slab->orphaned && evpl_slab_folio_has(slab, slab_folio, EVPL_QUARANTINED);
}

/*
 * Begin a quarantine, after evpl_quarantine_is_clear() has returned false. The quarantine takes
 * over an unrevocable reference on the share, which the caller has or adds before it drops the
 * lock. Return the slab, with a reference for evpl_quarantine_begun(), as the share may be freed
 * once the lock is dropped. Return NULL, with nothing changed, if the owner has gone.
 */
struct evpl_slab *evpl_quarantine_begin(struct evpl_share *share)
{
	struct evpl_slab *slab = share->slab;

	lockdep_assert_held(&slab->shares.xa_lock);
	if (slab->orphaned)
		return NULL;
	trace_evpl_quarantine_begin(share);
	__xa_set_mark(&slab->shares, share->index, EVPL_QUARANTINED);
	atomic_long_inc(&evpl_nr_quarantined);
	slab->refs++;
	return slab;
}

/* How long it is until the next pass may run, in jiffies. */
static unsigned long recheck_until_next(struct evpl_client *client)
{
	unsigned long now = jiffies;

	lockdep_assert_held(&client->recheck_lock);
	return time_after(client->recheck_pause, now) ? client->recheck_pause - now : 1;
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
		mod_delayed_work(evpl_wq, &client->recheck_work, recheck_until_next(client));
	}
	spin_unlock(&client->recheck_lock);
}

/*
 * See that the new quarantine is checked, and put the reference on the slab. Called after the
 * xa_lock was dropped.
 */
void evpl_quarantine_begun(struct evpl_slab *slab)
{
	evpl_quarantine_schedule(slab->client);
	evpl_slab_put(slab);
}

/*
 * Clear the mark of a quarantine. The caller holds the xa_lock. It takes over the quarantine's
 * unrevocable reference on the share.
 */
void evpl_quarantine_take_over(struct evpl_share *share)
{
	lockdep_assert_held(&share->slab->shares.xa_lock);
	trace_evpl_quarantine_end(share);
	__xa_clear_mark(&share->slab->shares, share->index, EVPL_QUARANTINED);
	atomic_long_dec(&evpl_nr_quarantined);
}

/*
 * Find the first share from *@index to @last that is in quarantine, set *@index to its place,
 * and take a reference on it for the caller.
 */
static struct evpl_share *quarantine_next(struct evpl_slab *slab, unsigned long *index,
					  unsigned long last)
{
	struct evpl_share *share;

	xa_lock(&slab->shares);
	share = xa_find(&slab->shares, index, last, EVPL_QUARANTINED);
	if (share)
		share->refs++;
	xa_unlock(&slab->shares);
	return share;
}

/* End a quarantine. The caller holds the xa_lock. */
static enum evpl_share_after __must_check quarantine_finish(struct evpl_share *share)
{
	evpl_quarantine_take_over(share);
	share->refs--;
	return evpl_share_dec_unrevocable(share);
}

/*
 * End the quarantine of a share if its buffer @passes the check, and next_serial hasn't changed
 * since that check began. The caller's reference on the share is consumed. Return whether this
 * ended the quarantine.
 */
static bool quarantine_end_checked(struct evpl_share *share, bool passes)
{
	struct xarray *shares = &share->slab->shares;
	enum evpl_share_after after = EVPL_AFTER_NOTHING;
	bool ended;

	evpl_share_end_exports(share, false);
	xa_lock(shares);
	/* If nothing but importers kept the buffer, its pages needn't pass. */
	ended = evpl_quarantine_has(share) && !evpl_share_is_in_use(share) &&
		(passes || !share->may_be_held) && share->seen == share->next_serial;
	if (ended) {
		after = quarantine_finish(share);
		/* ->may_be_held says whether to check the pages when the last reference goes. */
		if (share->quiet)
			share->may_be_held = false;
	}
	xa_unlock(shares);

	evpl_share_after_return(share, after);
	evpl_share_put(share);
	return ended;
}

/**
 * evpl_quarantine_check() - end the quarantine of a share if its buffer passes the check now
 * @share: the share, on which the caller has a reference. Something that kept the buffer in
 *	quarantine has just ended.
 *
 * If the buffer fails, it is left to the rechecks. They may be far apart, or run just now with
 * recheck_mutex held. A task that ends something of its own mustn't wait for that.
 */
void evpl_quarantine_check(struct evpl_share *share)
{
	struct xarray *shares = &share->slab->shares;
	enum evpl_share_after after = EVPL_AFTER_NOTHING;

	xa_lock(shares);
	if (evpl_quarantine_is_clear(share) && evpl_quarantine_has(share) &&
	    !evpl_share_is_in_use(share))
		after = quarantine_finish(share);
	xa_unlock(shares);
	evpl_share_after_return(share, after);
}

/*
 * The same, whatever holds the buffer. The owner accepts the references that ended leases have
 * left behind, so only present holders matter for ->may_be_held.
 *
 * Return -ENOENT if the buffer isn't in quarantine any more, and -EBUSY while importers of a
 * dma-buf or rings have the buffer. It stays theirs in any case, and without the rechecks nothing
 * would see importers let go. Once the owner has gone, nobody has to see that: the end of the
 * dma-buf or the registration is enough.
 */
static int quarantine_end_anyway(struct evpl_share *share)
{
	struct xarray *shares = &share->slab->shares;
	enum evpl_share_after after = EVPL_AFTER_NOTHING;
	int ret = 0;

	xa_lock(shares);
	if (!evpl_quarantine_has(share))
		ret = -ENOENT;
	else if (evpl_share_is_in_use(share) && !share->slab->orphaned)
		ret = -EBUSY;
	if (!ret) {
		after = quarantine_finish(share);
		if (!share->holders)
			share->may_be_held = false;
	}
	xa_unlock(shares);

	evpl_share_after_return(share, after);
	evpl_share_put(share);
	return ret;
}

/*
 * Before a folio is checked, record next_serial of each buffer there that is in quarantine. Set
 * *@futile if rings have all of these buffers, so that the check can't end any quarantine. The last
 * ring checks a buffer by itself (evpl_quarantine_check()).
 * Return the place of the last buffer that lies in the folio; or that of this buffer, if the
 * owner has gone.
 */
static unsigned long quarantine_note_serials(struct evpl_share *share, bool *futile)
{
	struct evpl_slab *slab = share->slab;
	unsigned long index = share->index, last = share->index;
	struct evpl_share *other;

	lockdep_assert_held(&slab->recheck_mutex);
	xa_lock(&slab->shares);
	if (!slab->orphaned)
		last = evpl_slab_folio_last(slab,
					    evpl_slab_folio_at(slab, evpl_share_start(share)));
	last = max_t(unsigned long, last, share->index);
	/* Bounded: a folio has 512 pages, and so at most 512 buffers. */
	for (other = xa_find(&slab->shares, &index, last, EVPL_QUARANTINED); other;
	     other = xa_find_after(&slab->shares, &index, last, EVPL_QUARANTINED)) {
		other->seen = other->next_serial;
		other->quiet = !other->holders;
		*futile &= evpl_share_has_rings(other);
	}
	xa_unlock(&slab->shares);
	return last;
}

/*
 * Check the folios of the first buffer from *@index to @end that is in quarantine. End the
 * quarantine of each buffer there that passes. A folio with several buffers is checked
 * once. Return false if no buffer was in quarantine. Set *@left if one stays in quarantine, and
 * advance *@index past those that were checked.
 */
bool evpl_quarantine_recheck_next(struct evpl_slab *slab, unsigned long *index,
				  unsigned long end, bool *left)
{
	bool passes, futile = true;
	struct evpl_share *share;
	unsigned long last;

	mutex_lock(&slab->recheck_mutex);
	share = quarantine_next(slab, index, end);
	if (!share) {
		mutex_unlock(&slab->recheck_mutex);
		return false;
	}
	evpl_syncpoint(EVPL_SYNCPOINT_RECHECK);
	last = quarantine_note_serials(share, &futile);
	passes = !futile && quarantine_check_pages(share);
	evpl_syncpoint(EVPL_SYNCPOINT_CHECKED);
	do {
		*left |= !quarantine_end_checked(share, passes);
		++*index;
		cond_resched();
		share = quarantine_next(slab, index, last);
	} while (share);
	mutex_unlock(&slab->recheck_mutex);
	*index = last + 1;
	return true;
}

/* Check the buffers of a slab that are in quarantine. Return whether one stays there. */
bool evpl_quarantine_recheck_slab(struct evpl_slab *slab)
{
	unsigned long index = 0;
	bool left = false;

	while (evpl_quarantine_recheck_next(slab, &index, ULONG_MAX, &left) &&
	       !fatal_signal_pending(current))
		;
	return left;
}

/* Check all buffers of a client that are in quarantine. Return whether one stays there. */
static bool recheck_client(struct evpl_client *client)
{
	struct evpl_slab *slab;
	pgoff_t pgoff = 0;
	bool any = false;

	while ((slab = evpl_slab_get_after(client, &pgoff))) {
		any |= evpl_quarantine_recheck_slab(slab);
		evpl_slab_put(slab);
		cond_resched();
	}
	return any;
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

	left = recheck_client(client);
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
				 client->recheck_soon ? recheck_until_next(client) :
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
 * evpl_quarantine_end() - end the quarantine of a buffer, whatever holds it
 * @client: the owner
 * @offset: where the buffer starts in the own window
 *
 * Return: 0; -ENOENT; -EBUSY if importers of a dma-buf or rings have the buffer; -EINTR for a task
 * that is being killed.
 */
int evpl_quarantine_end(struct evpl_client *client, u64 offset)
{
	struct evpl_share *share;
	struct evpl_slab *slab;
	unsigned long index;
	int ret = -ENOENT;

	slab = evpl_slab_get_buffer(client, offset, &index);
	if (!slab)
		return -ENOENT;
	/*
	 * Wait for a pass in progress. It has a reference on the share, so the owner's word
	 * would go down only after this call.
	 */
	if (mutex_lock_killable(&slab->recheck_mutex)) {
		ret = -EINTR;
		goto put_slab;
	}
	share = quarantine_next(slab, &index, index);
	if (share)
		ret = quarantine_end_anyway(share);
	mutex_unlock(&slab->recheck_mutex);
put_slab:
	evpl_slab_put(slab);
	return ret;
}

/**
 * evpl_quarantine_end_all() - end the quarantines of all buffers of a slab
 * @slab: the slab; it is orphaned, so no quarantine begins any more
 */
void evpl_quarantine_end_all(struct evpl_slab *slab)
{
	struct evpl_share *share;
	unsigned long index = 0;

	while ((share = quarantine_next(slab, &index, ULONG_MAX))) {
		quarantine_end_anyway(share);
		cond_resched();
	}
}

/* Whether the buffers in this folio have no share, and no reference in their words. */
static bool baseline_folio_is_idle(struct evpl_client *client, struct evpl_slab *slab,
				   struct evpl_slab_folio *slab_folio)
{
	u64 buffer = slab_folio->index >> slab->buffer_order;
	u64 last = (slab_folio->index + folio_nr_pages(slab_folio->folio) - 1) >>
		   slab->buffer_order;
	bool shared;

	xa_lock(&slab->shares);
	shared = evpl_slab_folio_has(slab, slab_folio, XA_PRESENT);
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
static bool baseline_raise(struct evpl_client *client, struct evpl_slab *slab,
			   struct evpl_slab_folio *slab_folio, int *lowest)
{
	unsigned int order = folio_order(slab_folio->folio);
	bool idle;
	int refs;

	/* No share is added meanwhile: a task that sends holds tree_lock for read. */
	down_write(&client->tree_lock);
	idle = baseline_folio_is_idle(client, slab, slab_folio);
	if (idle) {
		/* I/O drops its reference, then its word comes to 0. So read the word first. */
		smp_rmb();
		refs = folio_other_refs(slab_folio->folio);
		idle = baseline_folio_is_idle(client, slab, slab_folio);
	}
	if (idle) {
		WRITE_ONCE(slab_folio->baseline, refs);
		lowest[order] = min(lowest[order], refs);
	}
	up_write(&client->tree_lock);
	return idle;
}

static void baseline_clear(struct evpl_slab_folio *start, struct evpl_slab_folio *end)
{
	struct evpl_slab_folio *slab_folio;

	for (slab_folio = start; slab_folio < end; slab_folio++) {
		WRITE_ONCE(slab_folio->baseline, 0);
		cond_resched();
	}
}

/*
 * Raise the baselines of folios that aren't in use. With @alike, a folio that is in use gets the
 * @lowest baseline of its order, if there is one. Return how many folios were skipped.
 */
static int baseline_raise_all(struct evpl_client *client, struct evpl_slab *slab,
			      struct evpl_slab_folio *start, struct evpl_slab_folio *end,
			      int *lowest, bool alike)
{
	struct evpl_slab_folio *slab_folio;
	int skipped = 0, of_order;

	for (slab_folio = start; slab_folio < end; slab_folio++) {
		cond_resched();
		if (baseline_raise(client, slab, slab_folio, lowest))
			continue;
		of_order = lowest[folio_order(slab_folio->folio)];
		if (alike && of_order != INT_MAX)
			WRITE_ONCE(slab_folio->baseline, of_order);
		else
			skipped++;
	}
	return skipped;
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
	int lowest[EVPL_FOLIO_ORDER_MAX + 1], skipped = 0, i;
	struct evpl_slab_folio *start, *end;
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
	start = evpl_slab_folio_at(slab, first);
	end = evpl_slab_folio_at(slab, first + nr_pages - 1) + 1;
	if (flags & EVPL_BASELINE_ZERO)
		baseline_clear(start, end);
	else
		skipped = baseline_raise_all(client, slab, start, end, lowest, false);
	/* Go over them again: only now @lowest is that of all folios of an order. */
	if (flags & EVPL_BASELINE_ALIKE)
		skipped = baseline_raise_all(client, slab, start, end, lowest, true);
	mutex_unlock(&client->lock);
	return skipped;
}

/* Have the owner get no buffer of a folio that something holds. */
static int quarantine_hold_folio(struct evpl_slab *slab, struct evpl_slab_folio *slab_folio)
{
	unsigned long index = (slab_folio->index - slab->start) >> slab->buffer_order;
	unsigned long last = evpl_slab_folio_last(slab, slab_folio);
	int ret = 0;

	for (; !ret && index <= last; index++) {
		ret = evpl_share_hold(slab, index);
		if (fatal_signal_pending(current))
			ret = -EINTR;
		cond_resched();
	}
	return ret;
}

/**
 * evpl_quarantine_adopt() - keep what a dead owner has left behind from its successor
 * @slab: a slab of a client that is being adopted: nothing maps it, and no task sends
 *
 * The successor has registered nothing yet. So each reference that is on a folio now is one that
 * the dead owner has left with a device, a pipe or a ring, or one that a lessee has. No other can
 * come later, but from a lessee, whose buffer has a share.
 *
 * Return: 0, or -ENOMEM or -EINTR after a part of the folios.
 */
int evpl_quarantine_adopt(struct evpl_slab *slab)
{
	unsigned int i;
	int ret;

	lockdep_assert_held(&slab->client->lock);
	for (i = 0; i < slab->nr_folios; i++) {
		/* First, so that a check which begins later goes by it. */
		WRITE_ONCE(slab->folios[i].baseline, 0);
		if (folio_other_refs(slab->folios[i].folio) > 0) {
			ret = quarantine_hold_folio(slab, &slab->folios[i]);
			if (ret)
				return ret;
		}
		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();
	}
	return 0;
}
