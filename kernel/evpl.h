/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the files of this module share. Lock order:
 *
 *	mmap_lock
 *	  evpl_client.lock
 *	    evpl_client.tree_lock
 *	      folio lock
 *		i_mmap_rwsem
 *		  page table lock
 *	    reap_mutex (folio.c)
 *	      detached_lock (folio.c), account_lock (account.c)
 *
 * Since evpl_client.lock is taken under mmap_lock (a mapping may set its client
 * up), user memory is never touched under it or anything below it. It may be
 * held for long. clients_mutex (client.c) stands apart: opening any misc device
 * may wait for it, so nothing that may take long is done under it.
 */
#ifndef EVPL_H
#define EVPL_H

#include <linux/atomic.h>
#include <linux/evpl.h>
#include <linux/list.h>
#include <linux/log2.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/rbtree.h>
#include <linux/rwsem.h>
#include <linux/uidgid.h>
#include <linux/xarray.h>

struct dentry;
struct folio;
struct inode;
struct pid;
struct seq_file;

#ifndef CONFIG_64BIT
#error "evpl needs a 64-bit kernel: its windows span more than 32 bits of offsets"
#endif

/*
 * What grows at a client's wish is allocated with these: charged to its memory
 * cgroup, and never at the price of a process. __GFP_RETRY_MAYFAIL, and
 * __GFP_NORETRY where there is another way, keep the OOM killers away: the
 * global one and a cgroup's.
 */
#define EVPL_GFP	(GFP_KERNEL_ACCOUNT | __GFP_NOWARN | \
			 __GFP_RETRY_MAYFAIL)

/* Not below: GUP-fast refuses single pages of a mapping like this one. */
#define EVPL_FOLIO_ORDER_MIN	2
#define EVPL_FOLIO_ORDER_MAX	(ilog2(EVPL_SLAB_ALIGN) - PAGE_SHIFT)

/* The windows of every client: ranges of mmap offsets, in pages. */
#define EVPL_OWN_SIZE	BIT_ULL(43)
#define EVPL_OWN_PAGES	(EVPL_OWN_SIZE >> PAGE_SHIFT)
#define EVPL_REFS_START	EVPL_OWN_PAGES

/**
 * struct evpl_user - what one user is charged for
 * @node: in the table of users; guarded by the accounting lock
 * @uid: who it is
 * @refs: one for each client and each detached folio; guarded likewise
 * @bytes: charged; guarded likewise
 */
struct evpl_user {
	struct hlist_node node;
	kuid_t uid;
	unsigned long refs;
	u64 bytes;
};

/**
 * struct evpl_slab - a run of pinned folios in the own window
 * @node: in evpl_client.slabs
 * @start: first page in the own window
 * @nr_pages: length
 * @live: user space knows of it; before, its range is merely reserved
 * @nr_folios: entries of @folios
 * @folios: ordered by folio->index, without a gap. The slab owns one reference
 *	on each.
 *
 * @node and @live change under evpl_client.tree_lock, held for write; the rest
 * not after evpl_slab_reserve().
 */
struct evpl_slab {
	struct rb_node node;
	pgoff_t start;
	unsigned long nr_pages;
	bool live;
	unsigned int nr_folios;
	struct folio *folios[];
};

/**
 * struct evpl_client - one open file description of /dev/evpl
 * @lock: guards setting up, and the coming and going of slabs: @buffer_shift,
 *	@slabs, @refs, the size of @inode
 * @tree_lock: held for write, with @lock, by who changes @slabs or the state of
 *	a slab in it; held for read by page faults, which can't take @lock
 * @buffer_shift: log2 of the buffer size, or 0 before the client is set up.
 *	Written once, with @lock; may be read without.
 * @slabs: by evpl_slab.start; no two overlap
 * @nr_slabs: how many; written with @lock, may be read without
 * @nr_pages: how many pages they have; likewise
 * @refs: pages of the refs window, by their place in it. A page that is there
 *	stays until the client goes.
 * @inode: the mapping of all of the client's VMAs, so that unmapping acts on
 *	this client alone. Its size is the end of the last live slab.
 * @user: who opened it and is charged; the client owns a reference
 * @pid: who opened it, for people to read; the client owns a reference
 * @list: in the list of clients
 */
struct evpl_client {
	struct mutex lock; /* see above */
	struct rw_semaphore tree_lock;
	unsigned int buffer_shift;
	struct rb_root slabs;
	unsigned long nr_slabs;
	unsigned long nr_pages;
	struct xarray refs;
	struct inode *inode;
	struct evpl_user *user;
	struct pid *pid;
	struct list_head list;
};

/* client.c */
extern const struct file_operations evpl_fops;
int evpl_client_init(void);
void evpl_client_exit(void);
int evpl_client_set_up(struct evpl_client *client, unsigned int buffer_shift,
		       struct evpl_slab *slab);
void evpl_client_show_all(struct seq_file *m);
unsigned long evpl_client_count(void);

/* log2 of the buffer size, or 0 if the client isn't set up. */
static inline unsigned int evpl_client_shift(struct evpl_client *client)
{
	/* Pairs with evpl_client_set_up(). */
	return smp_load_acquire(&client->buffer_shift);
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
void evpl_slab_destroy(struct evpl_client *client, struct evpl_slab *slab);
struct evpl_slab *evpl_slab_find(struct evpl_client *client, pgoff_t pgoff);
struct folio *evpl_slab_folio(struct evpl_slab *slab, pgoff_t pgoff);
int evpl_slab_free(struct evpl_client *client, pgoff_t start);
void evpl_slab_destroy_all(struct evpl_client *client);

/* refs.c */
int evpl_refs_grow(struct evpl_client *client, struct evpl_slab *slab,
		   unsigned int buffer_shift);
unsigned long evpl_refs_in_use(struct evpl_client *client,
			       struct evpl_slab *slab);
void evpl_refs_destroy(struct evpl_client *client);

/* The refs window in pages: an entry for each buffer that can be. */
static inline unsigned long evpl_refs_pages(unsigned int buffer_shift)
{
	return DIV_ROUND_UP((EVPL_OWN_SIZE >> buffer_shift) *
			    sizeof(struct evpl_entry), PAGE_SIZE);
}

/* window.c */
int evpl_mmap(struct file *file, struct vm_area_struct *vma);

/* folio.c */
extern atomic64_t evpl_detached_bytes;
struct folio *evpl_folio_alloc(int node, unsigned int order, bool last);
void evpl_folio_free(struct folio *folio, struct evpl_user *user);
void evpl_folio_reap(void);
void evpl_folio_exit(void);

/* account.c */
void evpl_account_init(void);
struct evpl_user *evpl_user_get(kuid_t uid);
void evpl_user_hold(struct evpl_user *user);
void evpl_user_put(struct evpl_user *user);
int evpl_charge(struct evpl_user *user, u64 bytes);
void evpl_uncharge(struct evpl_user *user, u64 bytes);
u64 evpl_charged_bytes(void);

/* debugfs.c */
void evpl_debugfs_init(void);
void evpl_debugfs_exit(void);

/* stop.c */
enum evpl_stop_nr {
	EVPL_STOP_OWN_FAULT,	/* slab looked up and folio locked, not mapped */
	EVPL_STOP_SET_UP,	/* first slab published, client not set up yet */
	EVPL_STOP_REAP,		/* detached folio off the list, not given back */
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
