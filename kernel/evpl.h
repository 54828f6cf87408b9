/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The declarations that the files of this module share. Lock order:
 *
 *	evpl_slab.recheck_mutex
 *	evpl_client.send_sem
 *	  evpl_slab.orphan_sem, also below recheck_mutex
 *	    folio lock
 *	mmap_lock
 *	  evpl_client.lock
 *	    evpl_client.tree_lock, also below send_sem
 *	      folio lock
 *	      evpl_client.refs_mutex
 *		evpl_user.reap_mutex
 *		  detached_lock (folio.c), account_lock (account.c)
 *	      evpl_client.lease_sem, also below mmap_lock and send_sem
 *		folio lock
 *		  page table lock
 *		the xa_lock of evpl_slab.shares, also below tree_lock and orphan_sem
 *		  account_lock
 *	    i_mmap_rwsem, also below send_sem
 *	      page table lock
 *	ends_lock (channel.c)
 *	  evpl_channel.lock, also below send_sem
 *	evpl_client.recheck_lock, also below send_sem and recheck_mutex
 *
 * evpl_client.lock is taken under mmap_lock, since a mapping may set its client up, and lease_sem
 * by page faults. So nothing touches user memory under these locks, or under a lock that nests
 * inside them, unless page faults are disabled.
 *
 * These locks may be held for long, except lease_sem. The owner of a leased buffer takes the
 * lessee's lease_sem to end or revoke the lease, and mustn't wait for the lessee. So the work
 * under lease_sem is bounded, and allocates nothing. A task that waits for a folio lock there
 * waits for a task that maps a page of the folio, for which the page table has been allocated,
 * or for one that counts the folio's references.
 *
 * No task holds the send_sem, tree_lock or lease_sem of two clients. A task that drops a
 * reference on the share of another client's buffer, under its own send_sem, takes the locks of
 * that buffer's slab, and the owner's recheck_lock. No task takes a send_sem under a tree_lock.
 *
 * clients_mutex (client.c) is never held with another of these locks. The mutex of an export
 * (dmabuf.c) is taken below the locks of its dma-buf. No other lock of the module is taken under
 * it.
 */
#ifndef EVPL_H
#define EVPL_H

#include <linux/atomic.h>
#include <linux/evpl.h>
#include <linux/kref.h>
#include <linux/list.h>
#include <linux/log2.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/poll.h>
#include <linux/rbtree.h>
#include <linux/refcount.h>
#include <linux/rwsem.h>
#include <linux/uidgid.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>

struct dentry;
struct folio;
struct inode;
struct iov_iter;
struct pid;
struct seq_file;

#ifndef CONFIG_64BIT
#error "evpl needs a 64-bit kernel: its windows span more than 32 bits of offsets"
#endif
#if PAGE_SHIFT != 12
#error "evpl needs pages of 4 KiB: its windows are laid out for them"
#endif

#ifndef CONFIG_DMA_SHARED_BUFFER
#error "evpl needs a kernel with CONFIG_DMA_SHARED_BUFFER, as one with a GPU or a camera has"
#endif

/*
 * Flags for every allocation whose size or number a client determines. It is charged to the
 * memory cgroup of the task, and no process is killed for it: __GFP_RETRY_MAYFAIL keeps both
 * OOM killers away, the global one and the cgroup's. So does __GFP_NORETRY, which is used where
 * there is something smaller to try.
 */
#define EVPL_GFP	(GFP_KERNEL_ACCOUNT | __GFP_NOWARN | \
			 __GFP_RETRY_MAYFAIL)

/*
 * Folios are 2 MiB long where possible. They have at least four pages, because many calls go over
 * each folio of a slab. A kernel without transparent huge pages gets single pages: its
 * split_folio() reports success without splitting anything, so madvise(MADV_PAGEOUT) on a part
 * of a larger folio would retry for ever.
 */
#ifdef CONFIG_TRANSPARENT_HUGEPAGE
#define EVPL_FOLIO_ORDER_MIN	2
#define EVPL_FOLIO_ORDER_MAX	EVPL_HUGE_ORDER
#else
#define EVPL_FOLIO_ORDER_MIN	0
#define EVPL_FOLIO_ORDER_MAX	0
#endif
#define EVPL_HUGE_ORDER		(ilog2(EVPL_SLAB_ALIGN) - PAGE_SHIFT)

/* The windows of every client: ranges of mmap offsets, in pages. */
#define EVPL_OWN_SIZE	BIT_ULL(43)
#define EVPL_OWN_PAGES	(EVPL_OWN_SIZE >> PAGE_SHIFT)
#define EVPL_REFS_START	EVPL_OWN_PAGES
/* Four guest windows, one after the other: enum evpl_lease_kind. */
#define EVPL_GUEST_START	(2 * EVPL_OWN_PAGES)
#define EVPL_GUEST_PAGES	(EVPL_OWN_PAGES / 2)

/* The refs windows lie between these two. Their places, in pages from EVPL_REFS_START on: */
#define EVPL_REFS_ENTRIES	0
#define EVPL_REFS_LEASES	BIT(26)
#define EVPL_REFS_RETURNED	BIT(27)
#define EVPL_REFS_REVOKED	(BIT(27) + BIT(16))
#define EVPL_REFS_HEADER	(BIT(27) + BIT(18))
#define EVPL_LEASES_PAGES	BIT(26)		/* 2^32 numbers */
#define EVPL_REVOKED_PAGES	BIT(17)

/**
 * struct evpl_user - the account of a user
 * @node: in the table of users; guarded by account_lock (account.c)
 * @uid: the user's id
 * @refs: one for each client, channel and detached folio; one for each folio of an orphaned
 *	slab that is charged to this user instead of the user of the slab's client; and one for
 *	@reap_work while it is scheduled. Guarded by account_lock.
 * @bytes: charged to this user; guarded by account_lock
 * @detached: detached folios that are charged to this user; guarded by detached_lock
 *	(folio.c)
 * @reap_mutex: held by the one task that goes over @detached
 * @reap_work: frees the detached folios that nothing holds any more
 */
struct evpl_user {
	struct hlist_node node;
	kuid_t uid;
	unsigned long refs;
	u64 bytes;
	struct list_head detached;
	struct mutex reap_mutex; /* see above */
	struct delayed_work reap_work;
};

/**
 * struct evpl_slab_folio - a folio of a slab
 * @folio: the folio, on which the slab owns one reference; NULL once it has been given back
 *	from an orphaned slab. Changes under the xa_lock of evpl_slab.shares.
 * @user: the user that is charged for a folio of an orphaned slab, on which this owns a
 *	reference; NULL if the user of the slab's client is charged. Changes with @folio.
 * @index: its first page in the own window
 * @baseline: the folio's baseline: the references that its owner's registrations have on it.
 *	Changes under evpl_client.lock; may be read without.
 */
struct evpl_slab_folio {
	struct folio *folio;
	struct evpl_user *user;
	pgoff_t index;
	int baseline;
};

/**
 * struct evpl_slab - a run of pinned folios in the own window
 * @node: in evpl_client.slabs
 * @client: the client that allocated the slab; the slab owns a reference on it
 * @start: first page in the own window
 * @nr_pages: length
 * @buffer_order: log2 of the pages of a buffer
 * @live: user space knows of the slab; before that, its range is merely reserved
 * @orphaned: the client has let go of the slab. Changes under @orphan_sem and the xa_lock of
 *	@shares. A task that has seen or changed @shares under the xa_lock may read it without,
 *	afterwards.
 * @orphan_sem: held for write to set @orphaned, after which folios are given back; held for
 *	read to count the references of the folios
 * @recheck_mutex: held by the one task that checks the buffers in quarantine, because a check
 *	writes evpl_share.seen. The owner's task also holds it to end a quarantine. So no check
 *	has a reference on the share then, and the owner's reference has gone back when the call
 *	returns.
 * @exports: ranges of the slab that dma-bufs export without a reference; guarded by the xa_lock
 *	of @shares
 * @refs: one for the client, one for each of @shares and @exports, and one for each task that
 *	works on the slab; guarded by the xa_lock of @shares
 * @shares: the buffers' shares, by the place of the buffer in the slab
 * @nr_folios: entries of @folios
 * @folios: ordered by index, without a gap
 *
 * @node and @live change under evpl_client.tree_lock, held for write. The fields without a lock
 * don't change after evpl_slab_reserve().
 */
struct evpl_slab {
	struct rb_node node;
	struct evpl_client *client;
	pgoff_t start;
	unsigned long nr_pages;
	unsigned int buffer_order;
	bool live;
	bool orphaned;
	struct rw_semaphore orphan_sem;
	struct mutex recheck_mutex; /* see above */
	unsigned int exports;
	unsigned int refs;
	struct xarray shares;
	unsigned int nr_folios;
	struct evpl_slab_folio folios[];
};

/**
 * struct evpl_share - all that others than the owner have of a buffer
 * @slab: the buffer's slab; the share owns a reference on it. The share is in evpl_slab.shares
 *	as long as anybody may touch the buffer through it.
 * @word: of the owner's entry
 * @index: place of the buffer in the slab
 * @revoked: nobody may touch the buffer through this share any more, except dma-bufs
 * @may_be_held: something may hold the buffer's pages, because the share has had one of @holders
 *	since it last passed the check, or its owner last ended a quarantine
 * @quiet: @holders was 0 when @seen was written; guarded by evpl_slab.recheck_mutex as well
 * @lent: the buffer was given, by a record or a dma-buf, so that one of @holders can come of it
 * @awaited: the owner was told that others may still have the buffer, or has asked. When the
 *	share gives its reference back, that is reported even if the owner has others.
 * @wanted: the owner has pulled: leases are to end as soon as they are idle
 * @refs: the share's refcount, and so the kernel's count of the buffer: one for each record in
 *	flight, each lease, each time that a dma-buf exports the buffer, a quarantine, and each
 *	task that works on the share. All of them are one reference in the owner's word. It goes
 *	back when @refs comes to 0; or, once the share is revoked, when @unrevocable does.
 * @unrevocable: how many of @refs a revoke doesn't end: one for each time that a dma-buf exports
 *	the buffer, for a quarantine, and for a task that revokes the share
 * @holders: the leases and dma-bufs through which pages can come to be held (see quarantine.c)
 * @next_serial: of the next lease. It also grows with each writable dma-buf and with a revoke.
 *	So a check of the buffer is outdated if this has changed since the check began.
 * @seen: what @next_serial was when the current pass began to check this buffer's folio;
 *	guarded by evpl_slab.recheck_mutex as well
 * @leases: in the order of their serials
 *
 * The xa_lock of evpl_slab.shares guards @revoked to @leases, and evpl_lease.list. It also guards
 * the mark EVPL_QUARANTINED in evpl_slab.shares, which says that the buffer is in quarantine.
 */
struct evpl_share {
	struct evpl_slab *slab;
	atomic64_t *word;
	u32 index;
	bool revoked;
	bool may_be_held;
	bool quiet;
	bool lent;
	bool awaited;
	bool wanted;
	unsigned long refs;
	unsigned long unrevocable;
	unsigned long holders;
	u64 next_serial;
	u64 seen;
	struct list_head leases;
};

/**
 * struct evpl_inflight - a record in flight
 * @share: of the buffer; this owns a reference on it
 * @offset: of the first byte, in the buffer
 * @length: bytes
 * @flags: EVPL_RECORD_WRITE, EVPL_RECORD_DEVICE
 * @cookie: the writer's
 */
struct evpl_inflight {
	struct evpl_share *share;
	u32 offset;
	u32 length;
	u32 flags;
	u64 cookie;
};

#define EVPL_QUARANTINED	XA_MARK_1

/*
 * The access that a client has to a buffer that it has leased. Each kind has a window; the
 * kinds are in the order of the windows.
 */
enum evpl_lease_kind {
	EVPL_LEASE_RW,		/* guest */
	EVPL_LEASE_RO,		/* guest-ro */
	EVPL_LEASE_IO_RW,	/* guest-io */
	EVPL_LEASE_IO_RO,	/* guest-io-ro */
	EVPL_LEASE_KINDS,
};

/**
 * struct evpl_lease - a client's right to touch a buffer of another client
 * @node: in evpl_client.lease_tree, by @share and @kind, unless @ended
 * @list: in evpl_share.leases, until nobody can touch the buffer through the lease
 * @serial: of the lease in its share: see evpl_share.next_serial
 * @client: the client that has the lease; the lease owns a reference on it
 * @share: of the buffer; the lease owns a reference on it until it has ended
 * @number: its place in evpl_client.leases; it also gives the lease's entry, and its place in
 *	the guest windows
 * @kind: what the client may do, and so which guest window has the lease
 * @word: of the lease's entry
 * @pending: references between evpl_ref_transfer() and evpl_lease_finish_transfer()
 * @revoked: faults and deliveries don't use the lease; it is kept for its word alone
 * @wanted: its word has been given EVPL_WORD_WANTED
 * @ended: the lease is in no table any more
 * @refs: one that the task which ends the lease drops, and one for each task that works on it
 *
 * @node, @pending, @revoked, @wanted and @ended change under evpl_client.lease_sem,
 * held for write.
 */
struct evpl_lease {
	struct rb_node node;
	struct list_head list;
	u64 serial;
	struct evpl_client *client;
	struct evpl_share *share;
	u32 number;
	enum evpl_lease_kind kind;
	atomic64_t *word;
	bool revoked;
	bool wanted;
	bool ended;
	unsigned int pending;
	refcount_t refs;
};

/**
 * struct evpl_client - one open file description of /dev/evpl
 * @kref: one for the file, one for each slab, lease and bound end, and one for each write in
 *	progress
 * @lock: serialises setting up, and adding and removing slabs: guards @buffer_shift, @slabs
 *	and the size of @inode
 * @tree_lock: held for write, with @lock, to change @slabs or the state of a slab in it; held
 *	for read by page faults, which can't take @lock, and by tasks that send a buffer
 * @lease_sem: guards @lease_tree, and the leases that @leases leads to. A fault holds it for
 *	read until it has mapped the pages that it found. A task that ends a lease holds it for
 *	write to unpublish the lease, then unmaps. Nothing is allocated under it.
 * @send_sem: held for read by a task that sends, until its records are in flight or all
 *	references are given back; held for write to mark a share as revoked
 * @refs_mutex: serialises adding and freeing pages of @refs; guards their charge
 * @gone: the file has gone. Set under @tree_lock and @lease_sem, both held for write; may be
 *	read without.
 * @writable: the file was opened for writing
 * @flags: EVPL_SETUP_*; written before @buffer_shift
 * @buffer_shift: log2 of the buffer size, or 0 before the client is set up.
 *	Written once, with @lock; may be read without.
 * @slabs: by evpl_slab.start; no two overlap
 * @nr_slabs: slabs in @slabs; written with @lock, may be read without
 * @nr_pages: pages of these slabs; written with @lock, may be read without
 * @refs: pages of the refs windows, by their place from EVPL_REFS_START. A page
 *	that is there stays until the client has gone.
 * @leases: by number
 * @lease_tree: the leases that records can be delivered to, by share and kind
 * @nr_leases: leases in @leases; written with @lease_sem, may be read without
 * @nr_exports: ranges of the client's memory that dma-bufs export
 * @nr_guest_vmas: VMAs over the client's guest windows, in all processes
 * @zeros: the page that a touch of a revoked lease finds, or NULL
 * @recheck_lock: guards @recheck_off to @recheck_work
 * @recheck_off: the client goes, and no pass is scheduled any more
 * @recheck_soon: a pass is scheduled early, for a new quarantine or for an owner that waits
 * @recheck_delay: how long after the last pass the next one comes, in jiffies
 * @recheck_pause: the time from which on the next pass may run, in jiffies, so that passes take a
 *	small part of one processor's time
 * @recheck_work: a pass, which checks the buffers in quarantine
 * @ends: the ends of channels that are bound to the client; ends_lock guards them
 * @wait: tasks that poll the client, or wait for a buffer of it
 * @inode: the mapping of all of the client's VMAs, so that unmapping acts on
 *	this client alone. Its size is the end of the last live slab.
 * @user: the user that opened the client and is charged; the client owns a reference
 * @pid: the process that opened it, shown to people; the client owns a reference
 * @list: in the list of clients
 */
struct evpl_client {
	struct kref kref;
	struct mutex lock; /* see above */
	struct rw_semaphore tree_lock;
	struct rw_semaphore lease_sem;
	struct rw_semaphore send_sem;
	struct mutex refs_mutex; /* see above */
	bool gone;
	bool writable;
	u32 flags;
	unsigned int buffer_shift;
	struct rb_root slabs;
	unsigned long nr_slabs;
	unsigned long nr_pages;
	struct xarray refs;
	struct xarray leases;
	struct rb_root lease_tree;
	unsigned long nr_leases;
	atomic_long_t nr_exports;
	atomic_t nr_guest_vmas;
	struct page *zeros;
	spinlock_t recheck_lock; /* see above */
	bool recheck_off;
	bool recheck_soon;
	unsigned long recheck_delay;
	unsigned long recheck_pause;
	struct delayed_work recheck_work;
	struct list_head ends;
	wait_queue_head_t wait;
	struct inode *inode;
	struct evpl_user *user;
	struct pid *pid;
	struct list_head list;
};

/* main.c */
extern struct workqueue_struct *evpl_wq;

/* client.c */
extern const struct file_operations evpl_fops;
int evpl_client_init(void);
void evpl_client_exit(void);
int evpl_client_set_up(struct evpl_client *client, unsigned int buffer_shift,
		       u32 flags, struct evpl_slab *slab);
void evpl_client_free(struct kref *kref);
void evpl_client_show_all(struct seq_file *m);
unsigned long evpl_client_count(void);

/* log2 of the buffer size, or 0 if the client isn't set up. */
static inline unsigned int evpl_client_buffer_shift(struct evpl_client *client)
{
	/* Pairs with evpl_client_set_up(). */
	return smp_load_acquire(&client->buffer_shift);
}

static inline bool evpl_client_is_set_up(struct evpl_client *client)
{
	return evpl_client_buffer_shift(client);
}

static inline void evpl_client_get(struct evpl_client *client)
{
	kref_get(&client->kref);
}

static inline void evpl_client_put(struct evpl_client *client)
{
	kref_put(&client->kref, evpl_client_free);
}

/* ioctl.c */
long evpl_ioctl(struct file *file, unsigned int cmd, unsigned long arg);

/* slab.c */
extern atomic_long_t evpl_nr_slabs;
struct evpl_slab *evpl_slab_create(struct evpl_client *client,
				   unsigned long nr_pages, int node, u32 flags);
int evpl_slab_reserve(struct evpl_client *client, struct evpl_slab *slab,
		      unsigned int buffer_shift);
void evpl_slab_publish(struct evpl_client *client, struct evpl_slab *slab);
void evpl_slab_remove(struct evpl_client *client, struct evpl_slab *slab);
struct evpl_slab *evpl_slab_find(struct evpl_client *client, pgoff_t pgoff);
struct evpl_slab *evpl_slab_after(struct evpl_client *client, pgoff_t pgoff);
struct evpl_slab *evpl_slab_get_after(struct evpl_client *client, pgoff_t *pgoff);
struct evpl_slab *evpl_slab_get_buffer(struct evpl_client *client, u64 offset,
				       unsigned long *index);
unsigned long evpl_slab_folio_last(struct evpl_slab *slab, struct evpl_slab_folio *slab_folio);
bool evpl_slab_folio_has(struct evpl_slab *slab, struct evpl_slab_folio *slab_folio,
			 xa_mark_t mark);
struct evpl_slab_folio *evpl_slab_folio_at(struct evpl_slab *slab, pgoff_t pgoff);
int evpl_slab_free(struct evpl_client *client, pgoff_t start);
void evpl_slab_get(struct evpl_slab *slab);
void evpl_slab_put(struct evpl_slab *slab);
void evpl_slab_free_folios(struct evpl_slab *slab, pgoff_t first, pgoff_t last);
void evpl_slab_recharge(struct evpl_slab *slab, pgoff_t first, pgoff_t last);
void evpl_slab_orphan(struct evpl_slab *slab);
struct evpl_slab *evpl_slab_export(struct evpl_client *client, u64 offset,
				   u64 length, bool write);
void evpl_slab_unexport(struct evpl_slab *slab);
void evpl_slab_orphan_all(struct evpl_client *client);

/* refs.c */
int evpl_refs_grow(struct evpl_client *client, unsigned long first,
		   unsigned long last);
int evpl_refs_grow_entries(struct evpl_client *client, u64 first, u64 last);
int evpl_refs_grow_header(struct evpl_client *client);
int evpl_refs_grow_lease(struct evpl_client *client, u32 number);
int evpl_refs_grow_share(struct evpl_client *client, u64 buffer, atomic64_t *word);
unsigned long evpl_refs_in_use(struct evpl_client *client,
			       struct evpl_slab *slab);
atomic64_t *evpl_refs_word(struct evpl_client *client, unsigned long first,
			   u64 number);
u64 evpl_word_read(atomic64_t *word);
void evpl_word_inc(atomic64_t *word);
bool evpl_word_dec(atomic64_t *word);
void evpl_word_want(atomic64_t *word, bool want);
void evpl_refs_report_returned(struct evpl_client *client, u64 buffer);
void evpl_refs_report_unshared(struct evpl_client *client, u64 buffer);
void evpl_refs_wake_returned(struct evpl_client *client);
void evpl_refs_report_revoked(struct evpl_client *client, u32 number);
__poll_t evpl_refs_poll(struct evpl_client *client);
void evpl_refs_destroy(struct evpl_client *client);

/* Pages of the own buffers' entries: one entry for each buffer that the own window has room for. */
static inline unsigned long evpl_refs_pages(unsigned int buffer_shift)
{
	return DIV_ROUND_UP((EVPL_OWN_SIZE >> buffer_shift) *
			    sizeof(struct evpl_entry), PAGE_SIZE);
}

/* Pages of the returned bitmap: one bit for each buffer that the own window has room for. */
static inline unsigned long evpl_returned_pages(unsigned int buffer_shift)
{
	return DIV_ROUND_UP(EVPL_OWN_SIZE >> buffer_shift, 8 * PAGE_SIZE);
}

/* share.c */

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
bool evpl_share_is_revoked(struct evpl_share *share);
bool evpl_share_is_held(struct evpl_share *share);
bool evpl_share_add_owner_ref(struct evpl_share *share);
int evpl_share_add_lease(struct evpl_lease *lease);
void evpl_share_remove_lease(struct evpl_lease *lease);
void evpl_share_put(struct evpl_share *share);
enum evpl_share_after __must_check evpl_share_dec_unrevocable(struct evpl_share *share);
void evpl_share_after_return(struct evpl_share *share, enum evpl_share_after after);
int evpl_share_export(struct evpl_share *share, bool write);
void evpl_share_unexport(struct evpl_share *share, bool write);
int evpl_share_revoke(struct evpl_client *client, u64 offset);
void evpl_share_revoke_all(struct evpl_slab *slab);
int evpl_share_pull(struct evpl_client *client, bool want);
int evpl_share_wait(struct evpl_client *client, u64 offset, bool try);

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

/* lease.c */
extern atomic_long_t evpl_nr_leases;
int evpl_lease_deliver(struct evpl_client *client, const struct evpl_inflight *inflight,
		       struct iov_iter *to);
void evpl_lease_finish_transfer(struct evpl_lease *lease);
struct evpl_share *evpl_ref_transfer(struct evpl_client *client, u64 offset, u32 length,
				     u32 flags, struct evpl_lease **lease);
void evpl_ref_cancel_transfer(struct evpl_share *share, struct evpl_lease *lease);
bool evpl_lease_pull(struct evpl_lease *lease, bool soon);
void evpl_lease_revoke(struct evpl_lease *lease);
int evpl_lease_release(struct evpl_client *client, const u32 *numbers, u32 count);
void evpl_lease_end_all(struct evpl_client *client);
void evpl_lease_put(struct evpl_lease *lease);
unsigned long evpl_lease_pages_at(pgoff_t pgoff);
struct evpl_lease *evpl_lease_at(struct evpl_client *client, pgoff_t pgoff,
				 pgoff_t *offset);

/* Whether something can hold pages through the lease past its end: see quarantine.c. */
static inline bool evpl_lease_may_hold(const struct evpl_lease *lease)
{
	return lease->kind != EVPL_LEASE_RO;
}

/* quarantine.c */
extern atomic_long_t evpl_nr_rechecks, evpl_nr_quarantined;
bool evpl_quarantine_is_clear(struct evpl_share *share);
bool evpl_quarantine_has(struct evpl_share *share);
bool evpl_quarantine_has_folio(struct evpl_share *share);
struct evpl_slab *evpl_quarantine_begin(struct evpl_share *share);
void evpl_quarantine_begun(struct evpl_slab *slab);
void evpl_quarantine_take_over(struct evpl_share *share);
void evpl_quarantine_schedule(struct evpl_client *client);
bool evpl_quarantine_recheck_next(struct evpl_slab *slab, unsigned long *index,
				  unsigned long end, bool *left);
bool evpl_quarantine_recheck_slab(struct evpl_slab *slab);
int evpl_quarantine_end(struct evpl_client *client, u64 offset);
void evpl_quarantine_end_all(struct evpl_slab *slab);
void evpl_quarantine_init(struct evpl_client *client);
void evpl_quarantine_exit(struct evpl_client *client);
int evpl_baseline_set(struct evpl_client *client, pgoff_t first,
		      unsigned long nr_pages, u32 flags);

/* record.c */
int evpl_record_copy_in(struct evpl_record *record, struct iov_iter *from);
int evpl_record_copy_out(struct iov_iter *to, const struct evpl_inflight *inflight,
			 u64 offset, u32 lease, u32 flags);

/* channel.c */
extern atomic_long_t evpl_nr_channels, evpl_nr_records;
extern const struct file_operations evpl_end_fops;
int evpl_channel_create(struct evpl_user *user, u32 capacity,
			struct file *ends[2]);
int evpl_channel_bind(struct evpl_client *client, struct file *file);
void evpl_channel_client_gone(struct evpl_client *client);

/* dmabuf.c */
extern atomic_long_t evpl_nr_exports;
struct file *evpl_export(struct evpl_client *client,
			 const struct evpl_range *ranges, u32 count, u32 flags);

/*
 * Whether the PTE at a fault is a marker: it maps nothing, but by it the core remembers
 * something. Functions that insert a page or a PFN leave a marker as it is, so the fault would
 * repeat for ever.
 */
static inline bool evpl_fault_is_marked(const struct vm_fault *vmf)
{
	return vmf->flags & FAULT_FLAG_ORIG_PTE_VALID && !pte_none(vmf->orig_pte);
}

/* window.c */
int evpl_mmap(struct file *file, struct vm_area_struct *vma);

/* folio.c */
extern atomic64_t evpl_detached_bytes;
struct folio *evpl_folio_alloc(int node, unsigned int order, bool last);
bool evpl_folio_is_poisoned(struct folio *folio);
void evpl_folio_free(struct folio *folio, struct evpl_user *user);
void evpl_folio_init_user(struct evpl_user *user);
void evpl_folio_reap(struct evpl_user *user);
void evpl_folio_exit(void);

/* account.c */
void evpl_account_init(void);
struct evpl_user *evpl_user_find_or_create(kuid_t uid);
struct evpl_user *evpl_user_any(void);
void evpl_user_get(struct evpl_user *user);
void evpl_user_put(struct evpl_user *user);
int evpl_charge(struct evpl_user *user, u64 bytes);
void evpl_uncharge(struct evpl_user *user, u64 bytes);
bool evpl_recharge(struct evpl_user *from, struct evpl_user *to, u64 bytes, bool anyway);
u64 evpl_charged_bytes(void);

/* debugfs.c */
void evpl_debugfs_init(void);
void evpl_debugfs_exit(void);

/* syncpoint.c */
enum evpl_syncpoint_nr {
	EVPL_SYNCPOINT_OPEN,		/* nothing is allocated yet */
	EVPL_SYNCPOINT_OWN_FAULT,	/* the slab is found and the folio locked, but not mapped */
	EVPL_SYNCPOINT_SET_UP,		/* the first slab is published, before set-up ends */
	EVPL_SYNCPOINT_GUEST_FAULT,	/* the lease is found, but not mapped */
	EVPL_SYNCPOINT_TABLES,		/* page tables of a guest fault, not allocated yet */
	EVPL_SYNCPOINT_RESERVED,	/* the slab is in the tree, user space doesn't know yet */
	EVPL_SYNCPOINT_ENTRIES,		/* entries are charged, not allocated */
	EVPL_SYNCPOINT_REAP,		/* a detached folio is off its list, not given back */
	EVPL_SYNCPOINT_CHECKED,		/* the pages were checked, the share isn't locked again */
	EVPL_SYNCPOINT_EXPORT,		/* one range of an export is taken, others not yet */
	EVPL_SYNCPOINT_MAP,		/* a dma-buf is about to be mapped for a device */
	EVPL_SYNCPOINT_RECHECK,		/* a share in quarantine is found, not checked yet */
};

#ifdef EVPL_DEBUG
void evpl_syncpoint_init(struct dentry *root);
void evpl_syncpoint_exit(void);
void evpl_syncpoint(enum evpl_syncpoint_nr nr);
#else
static inline void evpl_syncpoint_init(struct dentry *root)
{
}

static inline void evpl_syncpoint_exit(void)
{
}

static inline void evpl_syncpoint(enum evpl_syncpoint_nr nr)
{
}
#endif

#endif /* EVPL_H */
