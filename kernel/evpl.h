/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the files of this module share. Lock order:
 *
 *	evpl_slab.look_mutex
 *	evpl_client.send_sem
 *	  evpl_slab.fence_sem, also below look_mutex
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
 *		the xa_lock of evpl_slab.shares, also below tree_lock and fence_sem
 *		  account_lock
 *	    i_mmap_rwsem, also below send_sem
 *	      page table lock
 *	ends_lock (channel.c)
 *	  evpl_channel.lock, also below send_sem
 *
 * Since evpl_client.lock is taken under mmap_lock (a mapping may set its client
 * up), and lease_sem by page faults, user memory is never touched under them or
 * anything below them, but where page faults are off. They may be held for long, save
 * lease_sem: the owner of a leased buffer takes the lessee's lease_sem to end or revoke
 * the lease. So whatever is done under lease_sem is bounded and allocates nothing. A task
 * that waits there for the lock of a folio waits for one that maps a page of it, or counts
 * its references. The page table for that is there as well.
 *
 * One path holds locks of two clients: a task that sends, under its send_sem, may give a
 * buffer back, and takes the tree_lock of the buffer's owner then. No task takes a send_sem
 * under a tree_lock. clients_mutex (client.c) stands apart. So does the mutex of an export
 * (dmabuf.c), which is taken below locks of the dma-buf's.
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
 * What grows at a client's wish is allocated with these: charged to its memory
 * cgroup, and never at the price of a process. __GFP_RETRY_MAYFAIL, and
 * __GFP_NORETRY where there is another way, keep the OOM killers away: the
 * global one and a cgroup's.
 */
#define EVPL_GFP	(GFP_KERNEL_ACCOUNT | __GFP_NOWARN | \
			 __GFP_RETRY_MAYFAIL)

/*
 * Folios of 2 MiB where they can be had, and not below four pages: many a call looks at
 * each folio of a slab. A kernel that can't split large folios thinks that it has when
 * madvise(MADV_PAGEOUT) meets a part of one, and tries again for ever: such a kernel
 * gets single pages.
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

/* What lies between, from EVPL_REFS_START on, in pages. */
#define EVPL_REFS_ENTRIES	0
#define EVPL_REFS_LEASES	BIT(26)
#define EVPL_REFS_RETURNED	BIT(27)
#define EVPL_REFS_REVOKED	(BIT(27) + BIT(16))
#define EVPL_REFS_HEADER	(BIT(27) + BIT(18))
#define EVPL_LEASES_PAGES	BIT(26)		/* 2^32 numbers */
#define EVPL_REVOKED_PAGES	BIT(17)

/**
 * struct evpl_user - what one user is charged for
 * @node: in the table of users; guarded by account_lock (account.c)
 * @uid: which user this is
 * @refs: one for each client, channel and detached folio, for each part of an orphaned
 *	slab that is charged to it instead of its client's user, and one for @reap_work
 *	while it is scheduled; guarded by account_lock
 * @bytes: charged; guarded by account_lock
 * @detached: detached folios that are charged to this user; guarded by detached_lock
 *	(folio.c)
 * @reap_mutex: held by the one task that looks through @detached
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
 * struct evpl_part - a folio of a slab
 * @folio: the folio, on which the slab owns one reference; NULL once an orphaned
 *	slab has given it back. Changes under the xa_lock of evpl_slab.shares.
 * @index: its first page in the own window
 * @floor: how many references its owner's registrations have on it; changes under
 *	evpl_client.lock, and may be read without
 * @user: the user that is charged for the folio of an orphaned slab, on which the part owns
 *	a reference; or NULL: the user of the slab's client is charged. Changes with @folio.
 */
struct evpl_part {
	struct folio *folio;
	struct evpl_user *user;
	pgoff_t index;
	int floor;
};

/**
 * struct evpl_slab - a run of pinned folios in the own window
 * @node: in evpl_client.slabs
 * @client: whose it is; the slab owns a reference
 * @start: first page in the own window
 * @nr_pages: length
 * @buffer_shift: log2 of the pages of a buffer
 * @live: user space knows of it; before, its range is merely reserved
 * @fence_sem: held for write by who sets @orphaned, after which folios are given back;
 *	for read by who looks at what has them
 * @look_mutex: held by the one task that looks at the buffers in quarantine, since each
 *	look leaves notes in evpl_share.seen. Also held by the owner's task that ends a
 *	quarantine: so no other has a count of the share for a look, and the reference has
 *	gone back when the call returns.
 * @orphaned: its client has gone. Changes under the xa_lock of @shares too; may be read
 *	without, by who has seen or changed @shares under it before
 * @exports: ranges of it that dma-bufs carry without a reference; guarded likewise
 * @refs: one for the client, one for each of @shares and @exports; guarded likewise
 * @shares: by the place of the buffer in the slab, what others may touch of it
 * @nr_parts: entries of @parts
 * @parts: ordered by index, without a gap
 *
 * @node and @live change under evpl_client.tree_lock, held for write; what isn't
 * mentioned not after evpl_slab_reserve().
 */
struct evpl_slab {
	struct rb_node node;
	struct evpl_client *client;
	pgoff_t start;
	unsigned long nr_pages;
	unsigned int buffer_shift;
	bool live;
	bool orphaned;
	struct rw_semaphore fence_sem;
	struct mutex look_mutex; /* see above */
	unsigned int exports;
	unsigned int refs;
	struct xarray shares;
	unsigned int nr_parts;
	struct evpl_part parts[];
};

/**
 * struct evpl_share - a buffer that others than its owner have a part in
 * @slab: whose buffer it is; the share owns a reference. It is in
 *	evpl_slab.shares as long as anybody may touch the buffer.
 * @word: of the owner's entry
 * @index: place of the buffer in the slab
 * @revoked: nobody but dma-bufs may touch the buffer for this share's sake any more
 * @fenced: something may hold the buffer's pages: since its fence was last seen open, or
 *	its owner last ended a quarantine, it has had one of @holders
 * @quiet: @holders was 0 when @seen was noted; guarded by evpl_slab.look_mutex as well
 * @lent: a record, or a dma-buf, was given that can become one of @holders
 * @awaited: the owner has been told that others may still have the buffer, or has asked.
 *	When the share gives its reference back, that is reported even if the owner has others.
 * @wanted: the owner has pulled: leases are to end as soon as they are idle
 * @count: one for each record on its way, each lease, each time that a dma-buf
 *	carries it, a quarantine, and who works on it: the kernel's count of the
 *	buffer. All of it is one reference in the word of the owner's entry, which
 *	goes when @count is 0, or @holds is and the share is revoked.
 * @holds: one for each time that a dma-buf carries it, for a quarantine, and for who
 *	revokes it
 * @holders: the leases and dma-bufs through which pages can be held (see fence.c)
 * @next_serial: of the next lease. It also grows with each writable dma-buf and with a
 *	revoke: so a look at the fence that began before any of these is known to be old.
 * @seen: what @next_serial was when the current pass over the quarantines began to look at
 *	this buffer's folio; guarded by evpl_slab.look_mutex as well
 * @leases: in the order of their serials
 *
 * The xa_lock of evpl_slab.shares guards @revoked to @leases, and evpl_lease.list. It
 * also guards EVPL_QUARANTINED, a mark there: the share's buffer is in quarantine.
 */
struct evpl_share {
	struct evpl_slab *slab;
	atomic64_t *word;
	u32 index;
	bool revoked;
	bool fenced;
	bool quiet;
	bool lent;
	bool awaited;
	bool wanted;
	unsigned long count;
	unsigned long holds;
	unsigned long holders;
	u64 next_serial;
	u64 seen;
	struct list_head leases;
};

/**
 * struct evpl_item - a record on its way
 * @share: of the buffer; the item owns a count
 * @offset: of the first byte, in the buffer
 * @length: bytes
 * @flags: EVPL_RECORD_WRITE, EVPL_RECORD_DEVICE
 * @cookie: the writer's
 */
struct evpl_item {
	struct evpl_share *share;
	u32 offset;
	u32 length;
	u32 flags;
	u64 cookie;
};

#define EVPL_QUARANTINED	XA_MARK_1

/*
 * What a client may do with what it has leased, and so the window that the lease is in,
 * in the order of the windows.
 */
enum evpl_lease_kind {
	EVPL_LEASE_RW,		/* guest */
	EVPL_LEASE_RO,		/* guest-ro */
	EVPL_LEASE_IO_RW,	/* guest-io */
	EVPL_LEASE_IO_RO,	/* guest-io-ro */
	EVPL_LEASE_KINDS,
};

/**
 * struct evpl_lease - a buffer of another client that one may touch
 * @node: in evpl_client.lease_tree, by @share and @kind, unless @ended
 * @list: in evpl_share.leases, until nobody can touch the buffer through it
 * @serial: see there
 * @client: who may; the lease owns a reference
 * @share: what; the lease owns a count until it has ended
 * @number: its place in evpl_client.leases, and so its entry and its place in the
 *	guest windows
 * @kind: which of these it is in
 * @word: of its entry
 * @pending: how many are between evpl_give() and evpl_lease_settle()
 * @revoked: touches find nothing; it is there for its word only
 * @wanted: its word has been given EVPL_WORD_WANTED
 * @ended: it is in no table any more
 * @refs: one for who ends it, others for who works on it
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
 * @kref: one for the file, one for each slab, lease and bound end, and for who writes
 * @lock: guards setting up, and the coming and going of slabs: @buffer_shift,
 *	@slabs, the size of @inode
 * @tree_lock: held for write, with @lock, by who changes @slabs or the state of
 *	a slab in it; held for read by page faults, which can't take @lock, and by
 *	who sends a buffer
 * @lease_sem: guards @lease_tree and what @leases leads to. A fault holds it for
 *	read until it has mapped what it found; who ends a lease holds it for write
 *	to strike the lease out, then unmaps. Nothing is allocated under it.
 * @send_sem: held for read by who sends, until the records are on their way or all
 *	references given back; held for write by who marks a share as revoked
 * @refs_mutex: guards the coming and going of @refs, and what its pages are charged for
 * @gone: the file has gone. Set under @tree_lock and @lease_sem; may be read without.
 * @writable: it was opened for writing
 * @flags: EVPL_SETUP_*; written before @buffer_shift
 * @buffer_shift: log2 of the buffer size, or 0 before the client is set up.
 *	Written once, with @lock; may be read without.
 * @slabs: by evpl_slab.start; no two overlap
 * @nr_slabs: how many; written with @lock, may be read without
 * @nr_pages: how many pages they have; likewise
 * @refs: pages of the refs windows, by their place from EVPL_REFS_START. A page
 *	that is there stays until the client has gone.
 * @leases: by number
 * @lease_tree: those that records can be delivered to
 * @nr_leases: how many are in @leases; written with @lease_sem, may be read without
 * @nr_exports: ranges of its memory that dma-bufs carry
 * @nr_guest_vmas: how many VMAs there are over its guest windows, in all processes
 * @zeros: what a touch of a revoked lease finds, or NULL
 * @fence_lock: guards what follows up to @fence_work
 * @fence_off: the client goes, and no pass is scheduled any more
 * @fence_soon: a pass is scheduled that isn't put off
 * @fence_delay: how long after the last pass the next one comes, in jiffies
 * @fence_pause: when the next pass may come, in jiffies, so that passes take a small part
 *	of one processor's time
 * @fence_work: a pass, which looks at the buffers in quarantine
 * @ends: the ends of channels that are bound to it; ends_lock guards them
 * @wait: who polls the client
 * @inode: the mapping of all of the client's VMAs, so that unmapping acts on
 *	this client alone. Its size is the end of the last live slab.
 * @user: who opened it and is charged; the client owns a reference
 * @pid: who opened it, for people to read; the client owns a reference
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
	spinlock_t fence_lock; /* see above */
	bool fence_off;
	bool fence_soon;
	unsigned long fence_delay;
	unsigned long fence_pause;
	struct delayed_work fence_work;
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
static inline unsigned int evpl_client_shift(struct evpl_client *client)
{
	/* Pairs with evpl_client_set_up(). */
	return smp_load_acquire(&client->buffer_shift);
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
unsigned long evpl_slab_part_last(struct evpl_slab *slab, struct evpl_part *part);
bool evpl_slab_part_has(struct evpl_slab *slab, struct evpl_part *part, xa_mark_t mark);
struct evpl_part *evpl_slab_part(struct evpl_slab *slab, pgoff_t pgoff);
int evpl_slab_free(struct evpl_client *client, pgoff_t start);
void evpl_slab_get(struct evpl_slab *slab);
void evpl_slab_put(struct evpl_slab *slab);
void evpl_slab_give_back(struct evpl_slab *slab, pgoff_t first, pgoff_t last);
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
void evpl_refs_report_home(struct evpl_client *client, u64 buffer);
void evpl_refs_wake_returned(struct evpl_client *client);
void evpl_refs_report_revoked(struct evpl_client *client, u32 number);
__poll_t evpl_refs_poll(struct evpl_client *client);
void evpl_refs_destroy(struct evpl_client *client);

/* The entries of the own window in pages: one for each buffer that can be. */
static inline unsigned long evpl_refs_pages(unsigned int buffer_shift)
{
	return DIV_ROUND_UP((EVPL_OWN_SIZE >> buffer_shift) *
			    sizeof(struct evpl_entry), PAGE_SIZE);
}

/* The returned bitmap in pages: a bit for each buffer that can be. */
static inline unsigned long evpl_returned_pages(unsigned int buffer_shift)
{
	return DIV_ROUND_UP(EVPL_OWN_SIZE >> buffer_shift, 8 * PAGE_SIZE);
}

/* share.c */
extern atomic_long_t evpl_nr_shares, evpl_nr_quarantined;
struct evpl_share *evpl_share_give(struct evpl_client *client, u64 offset,
				   u32 length, u32 flags);
void evpl_share_give_back(struct evpl_share *share);
void evpl_share_hold(struct evpl_share *share);
bool evpl_share_is_revoked(struct evpl_share *share);
bool evpl_share_is_held(struct evpl_share *share);
bool evpl_share_take_home(struct evpl_share *share);
int evpl_share_add_lease(struct evpl_lease *lease);
void evpl_share_remove_lease(struct evpl_lease *lease);
void evpl_share_drop(struct evpl_share *share);
int evpl_share_export(struct evpl_share *share, bool write);
void evpl_share_unexport(struct evpl_share *share, bool write);
int evpl_share_revoke(struct evpl_client *client, u64 offset);
void evpl_share_revoke_all(struct evpl_slab *slab);
int evpl_share_pull(struct evpl_client *client, bool want);
bool evpl_share_look(struct evpl_client *client);
int evpl_share_end_quarantine(struct evpl_client *client, u64 offset);
int evpl_share_wait(struct evpl_client *client, u64 offset, bool try);
void evpl_share_end_quarantines(struct evpl_slab *slab);

static inline u64 evpl_share_buffer(struct evpl_share *share)
{
	return (share->slab->start >> share->slab->buffer_shift) + share->index;
}

/* Its first page in the own window. */
static inline pgoff_t evpl_share_start(struct evpl_share *share)
{
	return share->slab->start +
	       ((pgoff_t)share->index << share->slab->buffer_shift);
}

/* Where it starts there, in bytes. */
static inline u64 evpl_share_offset(struct evpl_share *share)
{
	return (u64)evpl_share_start(share) << PAGE_SHIFT;
}

/* lease.c */
extern atomic_long_t evpl_nr_leases;
int evpl_lease_deliver(struct evpl_client *client, const struct evpl_item *item,
		       struct iov_iter *to);
void evpl_lease_settle(struct evpl_lease *lease);
struct evpl_share *evpl_give(struct evpl_client *client, u64 offset, u32 length,
			     u32 flags, struct evpl_lease **lease);
void evpl_take_back(struct evpl_share *share, struct evpl_lease *lease);
bool evpl_lease_pull(struct evpl_lease *lease, bool soon);
void evpl_lease_revoke(struct evpl_lease *lease);
int evpl_lease_release(struct evpl_client *client, const u32 *numbers, u32 count);
void evpl_lease_end_all(struct evpl_client *client);
void evpl_lease_put(struct evpl_lease *lease);
unsigned long evpl_lease_pages_at(pgoff_t pgoff);
struct evpl_lease *evpl_lease_at(struct evpl_client *client, pgoff_t pgoff,
				 pgoff_t *offset);
u64 evpl_lease_place(struct evpl_lease *lease);

/* Whether something can hold pages through it, past its end: see fence.c. */
static inline bool evpl_lease_is_fenced(const struct evpl_lease *lease)
{
	return lease->kind != EVPL_LEASE_RO;
}

/* fence.c */
extern atomic_long_t evpl_nr_looks;
bool evpl_fence_is_open(struct evpl_share *share);
void evpl_fence_init(struct evpl_client *client);
void evpl_fence_exit(struct evpl_client *client);
void evpl_fence_watch(struct evpl_client *client);
int evpl_fence_floor(struct evpl_client *client, pgoff_t first,
		     unsigned long nr_pages, u32 flags);

/* channel.c */
extern atomic_long_t evpl_nr_channels, evpl_nr_records;
extern const struct file_operations evpl_end_fops;
int evpl_channel_create(struct evpl_user *user, u32 capacity,
			struct file *ends[2]);
int evpl_channel_bind(struct evpl_client *client, struct file *file);
void evpl_channel_client_gone(struct evpl_client *client);
int evpl_item_copy_out(const struct evpl_item *item, struct iov_iter *to,
		       struct evpl_lease *lease);

/* dmabuf.c */
extern atomic_long_t evpl_nr_exports;
struct file *evpl_export(struct evpl_client *client,
			 const struct evpl_range *ranges, u32 count, u32 flags);

/*
 * Whether there is a marker where a fault was: an entry that maps nothing, but by which
 * the core remembers something. What inserts a page or a page frame leaves it as it is,
 * so the fault would come again and again.
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
struct evpl_user *evpl_user_get(kuid_t uid);
struct evpl_user *evpl_user_any(void);
void evpl_user_hold(struct evpl_user *user);
void evpl_user_put(struct evpl_user *user);
int evpl_charge(struct evpl_user *user, u64 bytes);
void evpl_uncharge(struct evpl_user *user, u64 bytes);
bool evpl_recharge(struct evpl_user *from, struct evpl_user *to, u64 bytes, bool anyway);
u64 evpl_charged_bytes(void);

/* debugfs.c */
void evpl_debugfs_init(void);
void evpl_debugfs_exit(void);

/* stop.c */
enum evpl_stop_nr {
	EVPL_STOP_OPEN,		/* nothing allocated yet */
	EVPL_STOP_OWN_FAULT,	/* slab looked up and folio locked, not mapped */
	EVPL_STOP_SET_UP,	/* first slab published, client not set up yet */
	EVPL_STOP_GUEST_FAULT,	/* lease looked up, not mapped */
	EVPL_STOP_TABLES,	/* fault of a guest window, page tables to be allocated */
	EVPL_STOP_RESERVED,	/* slab in the tree, user space doesn't know */
	EVPL_STOP_ENTRIES,	/* entries charged, not allocated */
	EVPL_STOP_REAP,		/* detached folio off the list, not given back */
	EVPL_STOP_FENCE,	/* fence looked at, share not locked again */
	EVPL_STOP_EXPORT,	/* a range of an export taken, others not yet */
	EVPL_STOP_MAP,		/* dma-buf about to be mapped for a device */
	EVPL_STOP_LOOK,		/* share in quarantine found, not looked at */
};

#ifdef EVPL_DEBUG
void evpl_stop_init(struct dentry *root);
void evpl_stop_exit(void);
void evpl_stop(enum evpl_stop_nr nr);
#else
static inline void evpl_stop_init(struct dentry *root)
{
}

static inline void evpl_stop_exit(void)
{
}

static inline void evpl_stop(enum evpl_stop_nr nr)
{
}
#endif

#endif /* EVPL_H */
