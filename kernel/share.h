/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef EVPL_SHARE_H
#define EVPL_SHARE_H

#include <linux/atomic.h>
#include <linux/list.h>
#include <linux/mm.h>

#include "slab.h"

struct evpl_client;
struct evpl_lease;
struct evpl_piece;
struct evpl_registration;

/**
 * struct evpl_share - all that others than the owner have of a buffer
 * @slab: the buffer's slab; the share owns a reference on it. The share is in evpl_slab.shares
 *	as long as anybody may touch the buffer through it.
 * @word: of the owner's entry
 * @index: place of the buffer in the slab
 * @fixed: how many of @exports can't be revoked now (see dmabuf.c)
 * @revoked: nobody may touch the buffer through this share any more, except dma-bufs and rings
 * @recalled: nor by a dma-buf: those that export the buffer are to end
 * @may_be_held: something may hold the buffer's pages, because the share has had one of @holders
 *	since it last passed the check, or its owner last ended a quarantine; or because something
 *	held them when the client was adopted
 * @quiet: @holders was 0 when @seen was written; guarded by evpl_slab.recheck_mutex as well
 * @lent: the buffer was given, by a record or a dma-buf, so that one of @holders can come of it; or
 *	something held its pages when the client was adopted
 * @awaited: the owner was told that others may still have the buffer, or has asked. When the
 *	share goes, that is reported even if the owner has references.
 * @wanted: the owner has pulled: leases are to end as soon as they are idle
 * @passed_on: the owner's word has EVPL_WORD_PASSED_ON
 * @refs: the share's refcount, and so the kernel's count of the buffer: one for each record in
 *	flight, each lease, each time that a dma-buf exports the buffer, each registration, a
 *	quarantine, and each task that works on the share. All of them together are
 *	EVPL_WORD_SHARED in the owner's word. The flag goes when @refs comes to 0; or, once the
 *	share is revoked, when @unrevocable does.
 * @unrevocable: how many of @refs a revoke doesn't end: one for each time that a dma-buf exports
 *	the buffer, for each registration, for a quarantine, and for a task that revokes the share
 * @holders: the leases, dma-bufs and registrations through which pages can come to be held (see
 *	quarantine.c)
 * @lessee: evpl_client.id of the last client whose lease has ended and could leave pages held;
 *	0 before that
 * @next_serial: of the next lease. It also grows with each writable dma-buf, with a revoke, when
 *	a writable dma-buf of a recalled share ends, when a registration begins or ends, and when
 *	something held the pages as the client was adopted. So a check of the buffer is outdated
 *	if this has changed since the check began.
 * @seen: what @next_serial was when the current pass began to check this buffer's folio;
 *	guarded by evpl_slab.recheck_mutex as well
 * @leases: in the order of their serials
 * @exports: the pieces of dma-bufs through which the buffer can be reached. Those that were
 *	revoked come last.
 * @registrations: what rings have of the buffer (see uring.c)
 *
 * The xa_lock of evpl_slab.shares guards @fixed to @registrations, and evpl_lease.list. It
 * also guards the mark EVPL_QUARANTINED in evpl_slab.shares, which says that the buffer is in
 * quarantine.
 */
struct evpl_share {
	struct evpl_slab *slab;
	atomic64_t *word;
	u32 index;
	unsigned int fixed;
	bool revoked;
	bool recalled;
	bool may_be_held;
	bool quiet;
	bool lent;
	bool awaited;
	bool wanted;
	bool passed_on;
	unsigned long refs;
	unsigned long unrevocable;
	unsigned long holders;
	u64 lessee;
	u64 next_serial;
	u64 seen;
	struct list_head leases;
	struct list_head exports;
	struct list_head registrations;
};

/* A task that returned a share's buffer to its owner does this once it has dropped the xa_lock. */
enum evpl_share_after {
	EVPL_AFTER_NOTHING,
	EVPL_AFTER_WAKE_OWNER,
	EVPL_AFTER_FREE_FOLIOS,
};

extern atomic_long_t evpl_nr_shares;
struct evpl_share *evpl_share_transfer(struct evpl_client *client, u64 offset,
				       u32 length, u32 flags);
void evpl_share_cancel_transfer(struct evpl_share *share);
void evpl_share_get(struct evpl_share *share);
void evpl_share_pass_on(struct evpl_share *share);
bool evpl_share_is_revoked(struct evpl_share *share);
bool evpl_share_is_held(struct evpl_share *share);
bool evpl_share_add_owner_ref(struct evpl_share *share);
int evpl_share_add_lease(struct evpl_lease *lease);
void evpl_share_remove_lease(struct evpl_lease *lease);
void evpl_share_put(struct evpl_share *share);
enum evpl_share_after __must_check evpl_share_dec_unrevocable(struct evpl_share *share);
void evpl_share_after_return(struct evpl_share *share, enum evpl_share_after after);
int evpl_share_export(struct evpl_piece *piece);
void evpl_share_unexport(struct evpl_piece *piece);
void evpl_share_fix_export(struct evpl_piece *piece, bool fixed);
bool evpl_share_end_exports(struct evpl_share *share, bool wait);
int evpl_share_register(struct evpl_registration *registration);
void evpl_share_unregister(struct evpl_registration *registration);
int evpl_share_revoke(struct evpl_client *client, u64 offset);
void evpl_share_revoke_all(struct evpl_slab *slab);
int evpl_share_pull(struct evpl_client *client, bool want);
int evpl_share_wait(struct evpl_client *client, u64 offset, bool try);
int evpl_share_hold(struct evpl_slab *slab, unsigned long index);
int evpl_share_reset_words(struct evpl_slab *slab);

/* Whether importers of a dma-buf may still reach a buffer that was taken back from them too. */
static inline bool evpl_share_has_importers(struct evpl_share *share)
{
	return share->recalled && !list_empty(&share->exports);
}

/* Whether rings may still reach a buffer that was revoked. */
static inline bool evpl_share_has_rings(struct evpl_share *share)
{
	return share->revoked && !list_empty(&share->registrations);
}

static inline bool evpl_share_is_in_use(struct evpl_share *share)
{
	return evpl_share_has_importers(share) || evpl_share_has_rings(share);
}

static inline u64 evpl_share_buffer(struct evpl_share *share)
{
	return (share->slab->start >> share->slab->buffer_order) + share->index;
}

/* First page of a share's buffer in the own window. */
static inline pgoff_t evpl_share_start(struct evpl_share *share)
{
	return share->slab->start +
	       ((pgoff_t)share->index << share->slab->buffer_order);
}

/* mmap offset of a share's buffer in the own window. */
static inline u64 evpl_share_offset(struct evpl_share *share)
{
	return (u64)evpl_share_start(share) << PAGE_SHIFT;
}

#endif /* EVPL_SHARE_H */
