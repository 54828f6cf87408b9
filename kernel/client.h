/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef EVPL_CLIENT_H
#define EVPL_CLIENT_H

#include <linux/fs.h>
#include <linux/kref.h>
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/rbtree.h>
#include <linux/rwsem.h>
#include <linux/spinlock.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>

struct evpl_slab;
struct evpl_user;
struct pid;
struct seq_file;

/* The uses of a client's memory that take no reference off a word. */
enum evpl_range_use {
	EVPL_RANGE_EXPORTED,	/* a dma-buf */
	EVPL_RANGE_REGISTERED,	/* a registered buffer of rings */
	EVPL_RANGE_USES,
};

/**
 * struct evpl_client - one open file description of /dev/evpl
 * @id: shown in fdinfo; no two clients have the same one as long as the module is loaded
 * @kref: one for the file, one for each slab, lease, registration and bound end, and one for each
 *	write in progress
 * @lock: serialises setting up, and adding and removing slabs: guards @buffer_shift, @slabs
 *	and the size of @inode
 * @tree_lock: held for write, with @lock, to change @slabs or the state of a slab in it; held
 *	for read by page faults, which can't take @lock, and by tasks that send a buffer
 * @fault_sem: held by a fault of guest or guest-ro: for read to map pages, from before their page
 *	table is allocated until they are mapped; for write to map 2 MiB by a PMD
 * @lease_sem: guards @lease_tree, and the leases that @leases leads to. A fault holds it for
 *	read until it has mapped the pages that it found. A task that ends a lease holds it for
 *	write to unpublish the lease, then unmaps. Nothing is allocated under it.
 * @send_sem: held for read by a task that sends, until its records are in flight or all
 *	references are given back, and by a fault that finds a page of entries; held for write to
 *	mark a share as revoked, and to adopt the client
 * @refs_mutex: serialises adding and freeing pages of @refs; guards their charge
 * @adopted: how often the client has been adopted; written with @send_sem, may be read without
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
 * @nr_lent: leases that others have on the client's buffers
 * @nr_ranges: ranges of the client's memory, by their use
 * @nr_guest_vmas: VMAs over the client's guest windows, in all processes
 * @zeros: the page that a touch of a revoked lease finds, or NULL
 * @recheck_lock: guards @recheck_off to @recheck_work
 * @recheck_off: the client goes, and no pass is scheduled any more
 * @recheck_soon: a pass is scheduled early, for a new quarantine or for an owner that waits
 * @recheck_delay: how long after the last pass the next one comes, in jiffies
 * @recheck_pause: the time from which on the next pass may run, in jiffies, so that passes take a
 *	small part of one processor's time
 * @recheck_work: a pass, which checks the buffers in quarantine
 * @file: the client's file. It may be looked at under ends_lock as long as @ends isn't empty.
 * @ends: the ends of channels that are bound to the client; ends_lock guards them
 * @wait: tasks that poll the client, or wait for a buffer of it
 * @inode: the mapping of all of the client's VMAs, so that unmapping acts on
 *	this client alone. Its size is the end of the last live slab.
 * @user: the user that opened the client and is charged; the client owns a reference
 * @pid: the process that opened it, shown to people; the client owns a reference
 * @list: in the list of clients
 */
struct evpl_client {
	u64 id;
	struct kref kref;
	struct mutex lock; /* see above */
	struct rw_semaphore tree_lock;
	struct rw_semaphore fault_sem;
	struct rw_semaphore lease_sem;
	struct rw_semaphore send_sem;
	struct mutex refs_mutex; /* see above */
	unsigned int adopted;
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
	atomic_long_t nr_lent;
	atomic_long_t nr_ranges[EVPL_RANGE_USES];
	atomic_t nr_guest_vmas;
	struct page *zeros;
	spinlock_t recheck_lock; /* see above */
	bool recheck_off;
	bool recheck_soon;
	unsigned long recheck_delay;
	unsigned long recheck_pause;
	struct delayed_work recheck_work;
	struct file *file;
	struct list_head ends;
	wait_queue_head_t wait;
	struct inode *inode;
	struct evpl_user *user;
	struct pid *pid;
	struct list_head list;
};

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

#endif /* EVPL_CLIENT_H */
