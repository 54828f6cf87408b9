/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef EVPL_SLAB_H
#define EVPL_SLAB_H

#include <linux/mutex.h>
#include <linux/rbtree.h>
#include <linux/rwsem.h>
#include <linux/xarray.h>

#include "client.h"

struct evpl_user;
struct folio;

/**
 * struct evpl_slab_folio - a folio of a slab
 * @folio: the folio, on which the slab owns one reference; NULL once it has been given back
 *	from an orphaned slab. Changes under the xa_lock of evpl_slab.shares.
 * @user: the user that is charged for a folio of an orphaned slab, on which this owns a
 *	reference; NULL if the user of the slab's client is charged. Changes with @folio.
 * @index: its first page in the own window
 * @baseline: the folio's baseline: the references that its owner's registrations have on it.
 *	Changes under evpl_client.lock; may be read without.
 * @excess: how many references above the baseline the last check of the folio found. It means
 *	something while a buffer in the folio is in quarantine, and is only shown to people.
 */
struct evpl_slab_folio {
	struct folio *folio;
	struct evpl_user *user;
	pgoff_t index;
	int baseline;
	int excess;
};

/**
 * struct evpl_slab - a run of pinned folios in the own window
 * @node: in evpl_client.slabs
 * @client: the client that allocated the slab; the slab owns a reference on it
 * @start: first page in the own window
 * @nr_pages: length
 * @numa_node: the node that all of it comes from, or EVPL_NODE_ANY
 * @buffer_order: log2 of the pages of a buffer
 * @live: user space knows of the slab; before that, its range is merely reserved
 * @orphaned: the client has let go of the slab. Changes under @orphan_sem and the xa_lock of
 *	@shares. A task that has seen or changed @shares under the xa_lock may read it without,
 *	afterwards.
 * @orphan_sem: held for write to set @orphaned, after which folios are given back; held for
 *	read to count the references of the folios
 * @recheck_mutex: held by the one task that runs a pass over the buffers in quarantine, because a
 *	pass writes evpl_share.seen. The owner's task also holds it to end a quarantine. So no pass
 *	has a reference on the share then, and the owner's reference has gone back when the call
 *	returns, unless a lease or a registration of the buffer is just ending.
 * @nr_ranges: ranges of the slab that are used without a reference on a buffer, by their use;
 *	guarded by the xa_lock of @shares
 * @refs: one for the client, one for each of @shares and @nr_ranges, and one for each task that
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
	int numa_node;
	unsigned int buffer_order;
	bool live;
	bool orphaned;
	struct rw_semaphore orphan_sem;
	struct mutex recheck_mutex; /* see above */
	unsigned int nr_ranges[EVPL_RANGE_USES];
	unsigned int refs;
	struct xarray shares;
	unsigned int nr_folios;
	struct evpl_slab_folio folios[];
};

extern atomic_long_t evpl_nr_slabs;
struct evpl_slab *evpl_slab_create(struct evpl_client *client,
				   unsigned long nr_pages, int node, u32 flags);
int evpl_slab_reserve(struct evpl_client *client, struct evpl_slab *slab,
		      unsigned int buffer_shift);
void evpl_slab_publish(struct evpl_client *client, struct evpl_slab *slab);
void evpl_slab_remove(struct evpl_client *client, struct evpl_slab *slab);
struct evpl_slab *evpl_slab_find(struct evpl_client *client, pgoff_t pgoff);
struct evpl_slab *evpl_slab_next(struct evpl_client *client, pgoff_t pgoff);
struct evpl_slab *evpl_slab_get_after(struct evpl_client *client, pgoff_t *pgoff);
struct evpl_slab *evpl_slab_get_buffer(struct evpl_client *client, u64 offset,
				       unsigned long *index);
unsigned long evpl_slab_folio_last(struct evpl_slab *slab, struct evpl_slab_folio *slab_folio);
bool evpl_slab_folio_has(struct evpl_slab *slab, struct evpl_slab_folio *slab_folio,
			 xa_mark_t mark);
struct evpl_slab_folio *evpl_slab_folio_at(struct evpl_slab *slab, pgoff_t pgoff);
bool evpl_slab_has_ranges(struct evpl_slab *slab);
int evpl_slab_free(struct evpl_client *client, pgoff_t start);
void evpl_slab_get(struct evpl_slab *slab);
void evpl_slab_put(struct evpl_slab *slab);
void evpl_slab_free_folios(struct evpl_slab *slab, pgoff_t first, pgoff_t last);
void evpl_slab_recharge(struct evpl_slab *slab, pgoff_t first, pgoff_t last);
void evpl_slab_orphan(struct evpl_slab *slab);
struct evpl_slab *evpl_slab_get_range(struct evpl_client *client, u64 offset, u64 length,
				      bool write, enum evpl_range_use use);
void evpl_slab_put_range(struct evpl_slab *slab, enum evpl_range_use use);
void evpl_slab_orphan_all(struct evpl_client *client);

#endif /* EVPL_SLAB_H */
