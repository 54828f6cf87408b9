// SPDX-License-Identifier: GPL-2.0-only
/*
 * Shares. A share stands for all that others than the owner have of a buffer: records in
 * flight, leases, dma-bufs, registrations, a quarantine. It is created when the owner first gives
 * up a reference on the buffer, and freed with the last reference on the share. User space can
 * neither see nor change the share's refcount. That refcount keeps the buffer's memory; a word,
 * which user space can write, never does.
 *
 * As long as there is a share, the owner's word has EVPL_WORD_SHARED. The reference that the first
 * record gives up becomes that flag. For each further reference that the owner gives up, the
 * kernel decrements the word. So the count has the owner's own references alone. Once a lessee has
 * given the buffer on, the word has EVPL_WORD_PASSED_ON too.
 *
 * The flag goes when the buffer passes the check of quarantine.c. Until then the buffer is in
 * *quarantine*.
 */
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "client.h"
#include "dmabuf.h"
#include "evpl.h"
#include "lease.h"
#include "quarantine.h"
#include "refs.h"
#include "share.h"
#include "slab.h"
#include "uring.h"
#include "word.h"

atomic_long_t evpl_nr_shares;

/* Increment the owner's word; not if the owner has gone, as its words may be freed by now. */
static void share_word_inc(struct evpl_share *share)
{
	lockdep_assert_held(&share->slab->shares.xa_lock);
	if (!share->slab->orphaned)
		evpl_word_inc(share->word);
}

/*
 * Nothing can touch the buffer through this share any more. Remove the share from
 * evpl_slab.shares, and its flags from the owner's word. If the owner has no reference
 * either, report the buffer. If the owner has gone, the memory is freed instead, by
 * evpl_share_after_return(). The page of the word exists, because the slab isn't orphaned.
 */
static enum evpl_share_after __must_check share_return_to_owner(struct evpl_share *share)
{
	struct evpl_slab *slab = share->slab;

	lockdep_assert_held(&slab->shares.xa_lock);
	__xa_erase(&slab->shares, share->index);
	if (slab->orphaned)
		return EVPL_AFTER_FREE_FOLIOS;
	if (evpl_word_unshare(share->word, share->passed_on)) {
		evpl_refs_report_returned(slab->client, evpl_share_buffer(share));
		return EVPL_AFTER_WAKE_OWNER;
	}
	if (!share->awaited)
		return EVPL_AFTER_NOTHING;
	evpl_refs_report_unshared(slab->client, evpl_share_buffer(share));
	return EVPL_AFTER_WAKE_OWNER;
}

/* Called without the xa_lock. The caller has a reference on the slab. */
void evpl_share_after_return(struct evpl_share *share, enum evpl_share_after after)
{
	struct evpl_slab *slab = share->slab;
	pgoff_t start = evpl_share_start(share);

	if (after == EVPL_AFTER_WAKE_OWNER)
		evpl_refs_wake_returned(slab->client);
	else if (after == EVPL_AFTER_FREE_FOLIOS)
		evpl_slab_free_folios(slab, start, start + BIT(slab->buffer_order) - 1);
}

/*
 * Find the share of a buffer, and turn a reference of the owner's word into one on the share, if
 * the word has one to give. @lend: the buffer is given so that something can come to hold its
 * pages. The caller holds the xa_lock. Return NULL if the buffer has no share.
 */
static struct evpl_share *share_find_get(struct evpl_slab *slab, unsigned long index, bool lend)
{
	struct evpl_share *share = xa_load(&slab->shares, index);

	lockdep_assert_held(&slab->shares.xa_lock);
	if (!share)
		return NULL;
	if (share->revoked)
		return ERR_PTR(-EBUSY);
	if (!(evpl_word_read(share->word) & EVPL_WORD_COUNT))
		return ERR_PTR(-ESTALE);
	evpl_word_dec(share->word);
	share->refs++;
	share->lent |= lend;
	return share;
}

/* Allocate and pay for a share of a buffer, with one reference, for evpl_slab.shares. */
static struct evpl_share *share_alloc(struct evpl_slab *slab, unsigned long index)
{
	u64 buffer = (slab->start >> slab->buffer_order) + index;
	atomic64_t *word = evpl_refs_word(slab->client, EVPL_REFS_ENTRIES, buffer);
	struct evpl_share *share;
	int ret;

	ret = evpl_refs_grow_share(slab->client, buffer, word);
	if (ret)
		return ERR_PTR(ret);
	share = kzalloc(sizeof(*share), EVPL_GFP);
	if (!share)
		return ERR_PTR(-ENOMEM);
	share->slab = slab;
	share->word = word;
	share->index = index;
	share->refs = 1;
	INIT_LIST_HEAD(&share->leases);
	INIT_LIST_HEAD(&share->exports);
	INIT_LIST_HEAD(&share->registrations);
	return share;
}

/*
 * Create the share of a buffer, with one reference, and set *@made; or take a reference on the
 * share that another task has created meanwhile. Both come of a reference of the owner's word.
 */
static struct evpl_share *share_find_or_create(struct evpl_slab *slab, unsigned long index,
					       bool lend, bool *made)
{
	u64 buffer = (slab->start >> slab->buffer_order) + index;
	atomic64_t *word = evpl_refs_word(slab->client, EVPL_REFS_ENTRIES, buffer);
	struct evpl_share *new, *share;
	int ret;

	if (!(evpl_word_read(word) & EVPL_WORD_COUNT))
		return ERR_PTR(-ESTALE);
	new = share_alloc(slab, index);
	if (IS_ERR(new))
		return new;
	new->lent = lend;

	xa_lock(&slab->shares);
	do {
		share = share_find_get(slab, index, lend);
		ret = share ? 0 :
		      __xa_insert(&slab->shares, index, new, EVPL_GFP);
	} while (ret == -EBUSY);
	if (ret) {
		share = ERR_PTR(ret);
	} else if (!share) {
		evpl_word_share(word);
		slab->refs++;
		swap(share, new);
		*made = true;
	}
	xa_unlock(&slab->shares);
	kfree(new);
	return share;
}

/**
 * evpl_share_transfer() - take over a reference that an owner gives up
 * @client: the owner
 * @offset: of the first byte, in the own window
 * @length: bytes
 * @flags: EVPL_RECORD_*: what the receiver may do
 *
 * Return: the share, with a reference that the caller owns; or an error pointer, and the
 * owner keeps its reference.
 */
struct evpl_share *evpl_share_transfer(struct evpl_client *client, u64 offset,
				       u32 length, u32 flags)
{
	bool made = false, lend = flags & (EVPL_RECORD_WRITE | EVPL_RECORD_DEVICE);
	struct evpl_share *share;
	struct evpl_slab *slab;
	unsigned long index;
	u64 size;

	down_read(&client->tree_lock);
	if (client->gone) {
		share = ERR_PTR(-ENOTCONN);
		goto unlock;
	}
	slab = evpl_slab_find(client, offset >> PAGE_SHIFT);
	if (!slab || !slab->live) {
		share = ERR_PTR(-ENOENT);
		goto unlock;
	}
	size = PAGE_SIZE << slab->buffer_order;
	if (length > size - (offset & (size - 1))) {
		share = ERR_PTR(-EINVAL);
		goto unlock;
	}
	if (flags & EVPL_RECORD_WRITE && !client->writable) {
		share = ERR_PTR(-EACCES);
		goto unlock;
	}

	index = ((offset >> PAGE_SHIFT) - slab->start) >> slab->buffer_order;
	xa_lock(&slab->shares);
	share = share_find_get(slab, index, lend);
	xa_unlock(&slab->shares);
	if (!share)
		share = share_find_or_create(slab, index, lend, &made);
	if (IS_ERR(share))
		goto unlock;
	if (made)
		atomic_long_inc(&evpl_nr_shares);
unlock:
	up_read(&client->tree_lock);
	return share;
}

/**
 * evpl_share_cancel_transfer() - undo evpl_share_transfer()
 * @share: the share; the caller's reference on it is consumed. The caller holds send_sem,
 *	so only the owner's death can have revoked the share.
 */
void evpl_share_cancel_transfer(struct evpl_share *share)
{
	/* Increment before the drop, so that the word can't reach 0 in between. */
	xa_lock(&share->slab->shares);
	share_word_inc(share);
	xa_unlock(&share->slab->shares);
	evpl_share_put(share);
}

/**
 * evpl_share_get() - take another reference on a share
 * @share: a share on which somebody has a reference
 */
void evpl_share_get(struct evpl_share *share)
{
	xa_lock(&share->slab->shares);
	share->refs++;
	xa_unlock(&share->slab->shares);
}

/**
 * evpl_share_pass_on() - have the owner's word say that a lessee has given the buffer on
 * @share: a share on which the lessee has a reference
 */
void evpl_share_pass_on(struct evpl_share *share)
{
	xa_lock(&share->slab->shares);
	/* A revoked share may have taken its flags off the word already. */
	if (!share->passed_on && !share->revoked && !share->slab->orphaned) {
		share->passed_on = true;
		evpl_word_pass_on(share->word);
	}
	xa_unlock(&share->slab->shares);
}

/* A false answer may be outdated when it is returned. A true one stays true. */
bool evpl_share_is_revoked(struct evpl_share *share)
{
	bool revoked;

	xa_lock(&share->slab->shares);
	revoked = share->revoked;
	xa_unlock(&share->slab->shares);
	return revoked;
}

/**
 * evpl_share_add_owner_ref() - add a reference to the owner's word
 * @share: a share on which the caller has a reference, and keeps it
 *
 * Return: false, with the word unchanged, if the share has been revoked.
 */
bool evpl_share_add_owner_ref(struct evpl_share *share)
{
	bool revoked;

	/*
	 * Under the lock: a revoke sets ->revoked first, and takes EVPL_WORD_SHARED off the word
	 * later. So here the word still has the flag.
	 */
	xa_lock(&share->slab->shares);
	revoked = share->revoked;
	if (!revoked)
		share_word_inc(share);
	xa_unlock(&share->slab->shares);
	return !revoked;
}

/**
 * evpl_share_add_lease() - add a new lease to its share
 * @lease: the lease; somebody has a reference on its share. On success the lease owns
 *	another one.
 *
 * Return: 0, or -ECANCELED if the share has been revoked.
 */
int evpl_share_add_lease(struct evpl_lease *lease)
{
	struct evpl_share *share = lease->share;
	struct xarray *shares = &share->slab->shares;
	bool revoked;

	xa_lock(shares);
	revoked = share->revoked;
	if (!revoked) {
		share->refs++;
		share->holders += evpl_lease_may_hold(lease);
		share->may_be_held |= evpl_lease_may_hold(lease);
		lease->serial = share->next_serial++;
		list_add_tail(&lease->list, &share->leases);
		atomic_long_inc(&share->slab->client->nr_lent);
	}
	xa_unlock(shares);
	return revoked ? -ECANCELED : 0;
}

/*
 * Undo evpl_share_add_lease(), but for the lease's reference on the share. A second call for
 * the same lease does nothing.
 */
void evpl_share_remove_lease(struct evpl_lease *lease)
{
	struct evpl_share *share = lease->share;
	struct evpl_slab *slab = share->slab;

	xa_lock(&slab->shares);
	if (!list_empty(&lease->list)) {
		list_del_init(&lease->list);
		atomic_long_dec(&slab->client->nr_lent);
		if (evpl_lease_may_hold(lease)) {
			share->holders--;
			share->lessee = lease->client->id;
		}
	}
	xa_unlock(&slab->shares);
}

/*
 * Before the last reference on a share goes, begin a quarantine if the buffer fails the check. If
 * another buffer of the folio is in quarantine already, don't check here: the next pass checks the
 * folio for this buffer too. So when many leases end, the references of one folio aren't counted
 * once for each of them. Return what evpl_quarantine_begin() returns, or NULL.
 */
static struct evpl_slab *share_quarantine_last(struct evpl_share *share)
{
	if (share->revoked || !share->may_be_held)
		return NULL;
	if (!evpl_quarantine_has_folio(share) && evpl_quarantine_is_clear(share))
		return NULL;
	/* The share may have been revoked during the check. */
	return share->revoked ? NULL : evpl_quarantine_begin(share);
}

/*
 * Drop the last reference on a share, unless another one is taken while the pages are checked.
 * The caller holds the xa_lock; this function releases it.
 */
static noinline void share_put_last(struct evpl_share *share)
	__releases(&share->slab->shares.xa_lock)
{
	struct evpl_slab *slab = share->slab, *quarantined;
	enum evpl_share_after after = EVPL_AFTER_NOTHING;
	bool last;

	quarantined = share_quarantine_last(share);
	if (quarantined) {
		/* The quarantine takes over the last reference. */
		share->unrevocable++;
		xa_unlock(&slab->shares);
		evpl_quarantine_begun(quarantined);
		return;
	}
	last = !--share->refs;
	if (last && !share->revoked)
		after = share_return_to_owner(share);
	xa_unlock(&slab->shares);

	if (!last)
		return;
	evpl_share_after_return(share, after);
	WARN_ON_ONCE(!list_empty(&share->leases) || !list_empty(&share->registrations));
	kfree(share);
	atomic_long_dec(&evpl_nr_shares);
	evpl_slab_put(slab);
}

/**
 * evpl_share_put() - drop a reference on a share
 * @share: the share
 */
void evpl_share_put(struct evpl_share *share)
{
	struct xarray *shares = &share->slab->shares;

	might_sleep();
	xa_lock(shares);
	if (share->refs == 1) {
		share_put_last(share);
		return;
	}
	share->refs--;
	xa_unlock(shares);
}

/*
 * Of the references on a share, one less is unrevocable: that of a task that revokes the share, of
 * its quarantine, or of a dma-buf that exports the buffer. The last one of a revoked share gives
 * the buffer back to the owner. The caller holds the xa_lock, and has a reference on the share.
 */
enum evpl_share_after evpl_share_dec_unrevocable(struct evpl_share *share)
{
	lockdep_assert_held(&share->slab->shares.xa_lock);
	return !--share->unrevocable && share->revoked ? share_return_to_owner(share) :
							 EVPL_AFTER_NOTHING;
}

/**
 * evpl_share_is_held() - whether others than the owner may still have a buffer
 * @share: of the buffer; the caller has a reference on it, that of a record to the owner
 *
 * The pages are checked before the owner reads the record, so that the record can say what
 * was found. If the record has the only reference on the share, and the buffer fails the check,
 * a quarantine begins here. If the buffer was never given so that something can hold its
 * pages, nothing is checked, and the answer is false.
 *
 * Return: true if another record, a lease, a dma-buf or a ring may still lead to the buffer, or
 * if something holds its pages. The owner will be told when that ends.
 */
bool evpl_share_is_held(struct evpl_share *share)
{
	struct evpl_slab *slab = share->slab, *quarantined = NULL;
	bool held = false, clear;

	xa_lock(&slab->shares);
	if (!share->lent)
		goto unlock;
	clear = share->refs == 1 && evpl_quarantine_is_clear(share);
	/*
	 * During the check the share may have been revoked or its slab orphaned, or the buffer
	 * may have been sent again.
	 */
	if (share->revoked || slab->orphaned)
		goto unlock;
	held = share->refs > 1 || !clear;
	share->may_be_held &= held;
	share->awaited |= held;
	if (held && share->refs == 1) {
		quarantined = evpl_quarantine_begin(share);
		share->refs++;
		share->unrevocable++;
	}
unlock:
	xa_unlock(&slab->shares);
	if (quarantined)
		evpl_quarantine_begun(quarantined);
	return held;
}

/**
 * evpl_share_export() - let a dma-buf export a buffer
 * @piece: of the dma-buf; it has a reference on the buffer's share, which it keeps until
 *	evpl_share_unexport(). It is fixed at first. If it is writable, pages can come to be held.
 *
 * Return: 0, or -ENOENT if the share has been revoked.
 */
int evpl_share_export(struct evpl_piece *piece)
{
	struct evpl_share *share = piece->share;
	bool revoked;

	xa_lock(&share->slab->shares);
	revoked = share->revoked;
	if (!revoked) {
		share->unrevocable++;
		share->fixed++;
		share->holders += piece->write;
		share->may_be_held |= piece->write;
		share->next_serial += piece->write;
		piece->fixed = true;
		list_add(&piece->list, &share->exports);
	}
	xa_unlock(&share->slab->shares);
	if (revoked)
		return -ENOENT;
	atomic_long_inc(&share->slab->client->nr_ranges[EVPL_RANGE_EXPORTED]);
	return 0;
}

/*
 * Undo evpl_share_export(): the buffer can't be reached through the piece of the dma-buf any more.
 * A second call for the same piece does nothing. The caller has a reference on the share.
 */
void evpl_share_unexport(struct evpl_piece *piece)
{
	enum evpl_share_after after = EVPL_AFTER_NOTHING;
	struct evpl_share *share = piece->share;

	xa_lock(&share->slab->shares);
	if (!list_empty(&piece->list)) {
		list_del_init(&piece->list);
		atomic_long_dec(&share->slab->client->nr_ranges[EVPL_RANGE_EXPORTED]);
		share->fixed -= piece->fixed;
		share->holders -= piece->write;
		/* A check may have seen the pages while VMAs of the dma-buf still showed them. */
		share->next_serial += share->recalled && piece->write;
		after = evpl_share_dec_unrevocable(share);
	}
	xa_unlock(&share->slab->shares);
	evpl_share_after_return(share, after);
}

/* Say whether a piece of a dma-buf is fixed. The dma-buf exists. */
void evpl_share_fix_export(struct evpl_piece *piece, bool fixed)
{
	struct evpl_share *share = piece->share;

	xa_lock(&share->slab->shares);
	if (!list_empty(&piece->list)) {
		share->fixed += fixed - piece->fixed;
		piece->fixed = fixed;
	}
	xa_unlock(&share->slab->shares);
}

/*
 * Return the first piece of a dma-buf that exports the buffer, with a reference on the export, if
 * it has been @revoked, or hasn't. Return NULL if the share isn't recalled.
 */
static struct evpl_piece *share_first_export(struct evpl_share *share, bool revoked)
{
	struct evpl_piece *piece;

	xa_lock(&share->slab->shares);
	piece = list_first_entry_or_null(&share->exports, struct evpl_piece, list);
	if (piece && (!share->recalled || piece->revoked != revoked))
		piece = NULL;
	if (piece)
		evpl_export_get(piece->export);
	xa_unlock(&share->slab->shares);
	return piece;
}

/* An export was revoked, so its piece of the share goes to the others of that kind. */
static void share_mark_export(struct evpl_piece *piece)
{
	struct evpl_share *share = piece->share;

	xa_lock(&share->slab->shares);
	piece->revoked = true;
	if (!list_empty(&piece->list))
		list_move_tail(&piece->list, &share->exports);
	xa_unlock(&share->slab->shares);
}

/**
 * evpl_share_end_exports() - if a share is recalled, revoke the dma-bufs that export the buffer
 * @share: the share; the caller has a reference on it
 * @wait: wait until their importers have let go, but not beyond a signal
 *
 * No dma-buf is added any more: evpl_share_export() refuses a revoked share. But a lessee may have
 * made many, so a signal ends this between two of them too.
 *
 * Return: false if an importer may still reach the buffer.
 */
bool evpl_share_end_exports(struct evpl_share *share, bool wait)
{
	struct evpl_piece *piece;
	bool done = true;

	/* Revoke all of them before the wait for the first one. */
	while (done && (piece = share_first_export(share, false))) {
		done = evpl_export_revoke(piece->export, wait);
		if (done)
			share_mark_export(piece);
		evpl_export_put(piece->export);
		done = done && !(wait && signal_pending(current));
		cond_resched();
	}
	while (done && (piece = share_first_export(share, true))) {
		done = evpl_export_is_unused(piece->export, wait);
		if (done)
			evpl_share_unexport(piece);
		evpl_export_put(piece->export);
		done = done && !(wait && signal_pending(current));
		cond_resched();
	}
	return done;
}

/**
 * evpl_share_register() - let rings use pages of a buffer
 * @registration: of the pages; the caller has a reference on its share, or holds a lock that keeps
 *	one. It gets a reference of its own, until evpl_share_unregister().
 *
 * Return: 0, or -ENOENT if the share has been revoked.
 */
int evpl_share_register(struct evpl_registration *registration)
{
	struct evpl_share *share = registration->share;
	bool revoked;

	xa_lock(&share->slab->shares);
	revoked = share->revoked;
	if (!revoked) {
		share->refs++;
		share->unrevocable++;
		share->holders++;
		share->may_be_held = true;
		share->next_serial++;
		list_add_tail(&registration->list, &share->registrations);
	}
	xa_unlock(&share->slab->shares);
	if (revoked)
		return -ENOENT;
	atomic_long_inc(&share->slab->client->nr_ranges[EVPL_RANGE_REGISTERED]);
	return 0;
}

/* Undo evpl_share_register(): no ring has the pages any more. */
void evpl_share_unregister(struct evpl_registration *registration)
{
	struct evpl_share *share = registration->share;
	enum evpl_share_after after;
	struct evpl_slab *slab = share->slab;
	pgoff_t start = evpl_share_start(share);
	bool orphaned, check;

	evpl_slab_get(slab);
	atomic_long_dec(&slab->client->nr_ranges[EVPL_RANGE_REGISTERED]);
	xa_lock(&slab->shares);
	list_del(&registration->list);
	share->holders--;
	share->next_serial++;
	after = evpl_share_dec_unrevocable(share);
	check = list_empty(&share->registrations) && evpl_quarantine_has(share);
	orphaned = slab->orphaned;
	xa_unlock(&slab->shares);

	evpl_share_after_return(share, after);
	if (check)
		evpl_quarantine_check(share);
	evpl_share_put(share);
	/* As for a lease that ends: what the drop has freed is charged to nobody else. */
	if (orphaned)
		evpl_slab_recharge(slab, start, start + BIT(slab->buffer_order) - 1);
	evpl_slab_put(slab);
}

static struct evpl_lease *share_first_lease(struct evpl_share *share)
{
	struct evpl_lease *lease;

	xa_lock(&share->slab->shares);
	lease = list_first_entry_or_null(&share->leases, struct evpl_lease, list);
	if (lease)
		refcount_inc(&lease->refs);
	xa_unlock(&share->slab->shares);
	return lease;
}

/*
 * Mark a share as revoked. The caller gets an unrevocable reference on it. If the share is in
 * quarantine, that is the quarantine's: from now on the revoking task checks the pages. A pass
 * that is checking the share leaves it alone, since next_serial has changed.
 */
static void share_mark_revoked(struct evpl_share *share)
{
	lockdep_assert_held(&share->slab->shares.xa_lock);
	share->revoked = true;
	share->next_serial++;
	if (evpl_quarantine_has(share)) {
		evpl_quarantine_take_over(share);
	} else {
		share->refs++;
		share->unrevocable++;
	}
}

/*
 * End all leases of a share that share_mark_revoked() has marked, and its dma-bufs if it is
 * recalled. Then drop the reference that share_mark_revoked() gave. Return whether the buffer is in
 * quarantine, which owns the reference then.
 */
static bool share_revoke(struct evpl_share *share)
{
	struct evpl_slab *slab = share->slab, *quarantined = NULL;
	enum evpl_share_after after = EVPL_AFTER_NOTHING;
	struct evpl_lease *lease;
	bool clear;

	/* No lease is added any more: evpl_share_add_lease() refuses a revoked share. */
	while ((lease = share_first_lease(share))) {
		evpl_lease_revoke(lease);
		evpl_lease_put(lease);
		cond_resched();
	}

	evpl_share_end_exports(share, true);

	xa_lock(&slab->shares);
	clear = evpl_quarantine_is_clear(share) && !evpl_share_is_in_use(share);
	if (!slab->orphaned && !clear)
		quarantined = evpl_quarantine_begin(share);
	if (!quarantined)
		after = evpl_share_dec_unrevocable(share);
	xa_unlock(&slab->shares);
	if (quarantined) {
		evpl_quarantine_begun(quarantined);
		return true;
	}
	evpl_share_after_return(share, after);
	evpl_share_put(share);
	return false;
}

/**
 * evpl_share_revoke() - take a buffer back from everybody
 * @client: the owner
 * @offset: where the buffer starts in the own window
 *
 * Return: 0; 1 if the buffer is in quarantine now; -ENOENT; -EBUSY if the buffer is being
 * revoked, is in quarantine since a revoke, or is exported as a dma-buf that can't be revoked;
 * -EINTR with nothing done.
 */
int evpl_share_revoke(struct evpl_client *client, u64 offset)
{
	pgoff_t pgoff = offset >> PAGE_SHIFT;
	struct evpl_share *share = NULL;
	struct evpl_slab *slab;
	int ret = 0;

	/* Killable: a task that sends may hold it while it waits for memory. */
	if (down_write_killable(&client->send_sem))
		return -EINTR;
	down_read(&client->tree_lock);
	slab = evpl_slab_find(client, pgoff);
	if (!slab || !slab->live ||
	    offset & ((PAGE_SIZE << slab->buffer_order) - 1)) {
		ret = -ENOENT;
		goto unlock;
	}
	xa_lock(&slab->shares);
	share = xa_load(&slab->shares, (pgoff - slab->start) >> slab->buffer_order);
	if (share && (share->revoked || share->fixed)) {
		ret = -EBUSY;
	} else if (share) {
		share->recalled = true;
		share_mark_revoked(share);
	}
	xa_unlock(&slab->shares);
unlock:
	up_read(&client->tree_lock);
	up_write(&client->send_sem);

	if (share && !ret)
		ret = share_revoke(share);
	return ret;
}

/*
 * Find the first share from *@index on that isn't revoked, set *@index to its place, and take a
 * reference on it for the caller.
 */
static struct evpl_share *share_next(struct evpl_slab *slab, unsigned long *index)
{
	struct evpl_share *share;

	for (;;) {
		xa_lock(&slab->shares);
		share = xa_find(&slab->shares, index, ULONG_MAX, XA_PRESENT);
		if (share && !share->revoked) {
			share->refs++;
			xa_unlock(&slab->shares);
			return share;
		}
		xa_unlock(&slab->shares);
		if (!share)
			return NULL;
		++*index;
		cond_resched();
	}
}

/**
 * evpl_share_revoke_all() - take all buffers of a slab back from everybody
 * @slab: the slab; its client is going, so no share is added any more
 *
 * A dma-buf keeps the buffers that it exports until it ends.
 */
void evpl_share_revoke_all(struct evpl_slab *slab)
{
	struct evpl_share *share;
	unsigned long index = 0;

	while ((share = share_next(slab, &index))) {
		xa_lock(&slab->shares);
		share_mark_revoked(share);
		xa_unlock(&slab->shares);
		evpl_share_put(share);
		share_revoke(share);
		cond_resched();
	}
}

#define PULL_BATCH	16

/**
 * struct pull - a walk over the leases of a share, in batches and in the order of their serials
 * @share: the share, on which the caller has a reference
 * @want: leases that aren't idle are to end as soon as they are
 * @seen: the last lease that was visited and not ended, with a reference: the next batch begins
 *	after it, if it is still in the share
 * @serial: of the first lease that is left to visit
 * @end: leases from this serial on were added after the walk began; 0 before that
 * @pulled: how many leases the walk has ended
 */
struct pull {
	struct evpl_share *share;
	bool want;
	struct evpl_lease *seen;
	u64 serial;
	u64 end;
	int pulled;
};

/* Take a reference on each lease of the next batch, and return how many there are. */
static unsigned int pull_next_batch(struct pull *pull, struct evpl_lease **batch)
{
	struct evpl_share *share = pull->share;
	struct evpl_lease *lease = NULL;
	unsigned int nr = 0;

	xa_lock(&share->slab->shares);
	if (!pull->end)
		pull->end = share->next_serial;
	/* evpl_lease_deliver() does the same for leases that are added later. */
	if (pull->want)
		WRITE_ONCE(share->wanted, true);
	if (pull->seen && !list_empty(&pull->seen->list))
		lease = pull->seen;
	lease = list_prepare_entry(lease, &share->leases, list);
	list_for_each_entry_continue(lease, &share->leases, list) {
		if (lease->serial < pull->serial)
			continue;
		if (lease->serial >= pull->end || nr == PULL_BATCH)
			break;
		refcount_inc(&lease->refs);
		batch[nr++] = lease;
	}
	xa_unlock(&share->slab->shares);
	return nr;
}

/* End a lease of the batch if it is idle. The reference on it moves to @seen, or is dropped. */
static void pull_lease(struct pull *pull, struct evpl_lease *lease)
{
	pull->serial = lease->serial + 1;
	if (evpl_lease_pull(lease, pull->want))
		pull->pulled++;
	else
		swap(lease, pull->seen);
	if (lease)
		evpl_lease_put(lease);
}

/*
 * End the idle leases of a share, and return how many. If @want, have the others end as soon as
 * they are idle, and also leases that are added later.
 */
static int share_pull(struct evpl_share *share, bool want)
{
	struct pull pull = { .share = share, .want = want };
	struct evpl_lease *batch[PULL_BATCH];
	unsigned int i, nr;

	do {
		nr = pull_next_batch(&pull, batch);
		for (i = 0; i < nr; i++) {
			pull_lease(&pull, batch[i]);
			cond_resched();
		}
	} while (nr == PULL_BATCH && !fatal_signal_pending(current));
	if (pull.seen)
		evpl_lease_put(pull.seen);
	return pull.pulled;
}

/**
 * evpl_share_pull() - end the idle leases on an owner's buffers, check its quarantines
 * @client: the owner
 * @want: have the other leases end as soon as they are idle
 *
 * Return: how many leases were ended; -EINTR if the task was killed after a part of them.
 */
int evpl_share_pull(struct evpl_client *client, bool want)
{
	struct evpl_share *share;
	struct evpl_slab *slab;
	unsigned long index;
	pgoff_t pgoff = 0;
	int pulled = 0;

	while ((slab = evpl_slab_get_after(client, &pgoff))) {
		for (index = 0; (share = share_next(slab, &index)); index++) {
			pulled += share_pull(share, want);
			evpl_share_put(share);
			cond_resched();
			if (fatal_signal_pending(current))
				break;
		}
		evpl_quarantine_recheck_slab(slab);
		evpl_slab_put(slab);
		if (fatal_signal_pending(current))
			return -EINTR;
	}
	return pulled;
}

/*
 * Find the share of a buffer, and have its end reported to the owner. If @get, take a
 * reference on it for the caller. Return NULL if the buffer has no share.
 */
static struct evpl_share *share_await(struct evpl_slab *slab, unsigned long index, bool get)
{
	struct evpl_share *share;

	xa_lock(&slab->shares);
	share = xa_load(&slab->shares, index);
	if (share) {
		share->awaited = true;
		share->refs += get;
	}
	xa_unlock(&slab->shares);
	return share;
}

/**
 * evpl_share_wait() - wait until nobody but its owner has a buffer
 * @client: the owner
 * @offset: where the buffer starts in the own window
 * @try: check once, don't wait
 *
 * Idle leases on the buffer are ended. The others are to end as soon as they are idle.
 *
 * Return: 0; -ENOENT; -EAGAIN if @try, and others have the buffer or something holds its
 * pages; -ERESTARTSYS.
 */
int evpl_share_wait(struct evpl_client *client, u64 offset, bool try)
{
	unsigned long index, first;
	struct evpl_share *share;
	struct evpl_slab *slab;
	bool left = false;
	int ret = 0;

	slab = evpl_slab_get_buffer(client, offset, &index);
	if (!slab)
		return -ENOENT;
	share = share_await(slab, index, true);
	if (!share)
		goto put_slab;
	share_pull(share, true);
	evpl_share_put(share);
	if (try) {
		first = index;
		evpl_quarantine_recheck_next(slab, &first, index, &left);
		ret = share_await(slab, index, false) ? -EAGAIN : 0;
	} else {
		evpl_quarantine_schedule(client);
		/*
		 * If the owner sends the buffer again meanwhile, this waits for the end of that
		 * too.
		 */
		ret = wait_event_interruptible(client->wait, !share_await(slab, index, false));
	}
put_slab:
	evpl_slab_put(slab);
	return ret;
}

/**
 * evpl_share_hold() - have a buffer checked before its owner gets it back
 * @slab: the slab, whose client is being adopted: no task sends
 * @index: place of the buffer in the slab. Something holds a folio of it.
 *
 * A buffer without a share gets one, for a quarantine. A check that is in progress is outdated
 * then: it may have gone by the old baseline.
 *
 * Return: 0 or -ENOMEM.
 */
int evpl_share_hold(struct evpl_slab *slab, unsigned long index)
{
	struct evpl_share *share, *new = NULL;
	struct evpl_slab *quarantined = NULL;
	int ret = 0;

	lockdep_assert_held_write(&slab->client->send_sem);
	xa_lock(&slab->shares);
	share = xa_load(&slab->shares, index);
	if (!share) {
		xa_unlock(&slab->shares);
		new = share_alloc(slab, index);
		if (IS_ERR(new))
			return PTR_ERR(new);
		xa_lock(&slab->shares);
		ret = __xa_insert(&slab->shares, index, new, EVPL_GFP);
		if (!ret) {
			share = new;
			share->unrevocable = 1;
			slab->refs++;
			atomic_long_inc(&evpl_nr_shares);
			quarantined = evpl_quarantine_begin(share);
		}
	}
	if (share) {
		share->lent = true;
		share->may_be_held = true;
		share->next_serial++;
	}
	xa_unlock(&slab->shares);
	if (ret)
		kfree(new);
	if (quarantined)
		evpl_quarantine_begun(quarantined);
	return ret;
}

/* The part of the owner's word that is the kernel's. */
static u64 share_flags(struct evpl_share *share)
{
	return EVPL_WORD_SHARED | (share->passed_on ? EVPL_WORD_PASSED_ON : 0);
}

/* How many words are reset under one hold of the lock. */
#define RESET_BATCH	64

/**
 * evpl_share_reset_words() - take all references of a dead owner off the words of a slab
 * @slab: the slab, whose client is being adopted: no task sends
 *
 * Return: 0, or -EINTR after a part of them.
 */
int evpl_share_reset_words(struct evpl_slab *slab)
{
	unsigned long index = 0, end = slab->nr_pages >> slab->buffer_order;
	u64 first = slab->start >> slab->buffer_order;
	struct evpl_share *share;

	lockdep_assert_held_write(&slab->client->send_sem);
	while (index < end) {
		xa_lock(&slab->shares);
		do {
			share = xa_load(&slab->shares, index);
			evpl_refs_reset_buffer(slab->client, first + index,
					       share ? share_flags(share) : 0);
		} while (++index < end && index % RESET_BATCH);
		xa_unlock(&slab->shares);
		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();
	}
	return 0;
}
