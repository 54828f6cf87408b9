/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef EVPL_DMABUF_H
#define EVPL_DMABUF_H

#include <linux/atomic.h>
#include <linux/list.h>
#include <linux/types.h>

struct evpl_client;
struct evpl_lease;
struct evpl_range;
struct evpl_share;
struct evpl_slab;
struct export;
struct file;

/**
 * struct evpl_piece - consecutive pages of an export in one buffer or slab
 * @export: the export
 * @slab: the slab that the pages lie in
 * @share: of the pages' buffer, on which the piece owns a reference; NULL if the piece is one of
 *	the slab's exports
 * @lease: the lease that had the reference, until its transfer is finished; NULL if there is none
 * @start: the first page, in the own window of the slab's client
 * @write: importers may write to the pages
 * @list: in evpl_share.exports, until no importer can reach the pages any more
 * @revoked: the export was revoked for the share's sake
 * @fixed: the export is fixed (see dmabuf.c): counted in evpl_share.fixed
 *
 * The xa_lock of evpl_slab.shares guards @list to @fixed. The others don't change once @list is
 * in use, but for @lease.
 */
struct evpl_piece {
	struct export *export;
	struct evpl_slab *slab;
	struct evpl_share *share;
	struct evpl_lease *lease;
	pgoff_t start;
	bool write;
	struct list_head list;
	bool revoked;
	bool fixed;
};

extern atomic_long_t evpl_nr_exports;
struct file *evpl_export(struct evpl_client *client,
			 const struct evpl_range *ranges, u32 count, u32 flags);
void evpl_export_get(struct export *export);
void evpl_export_put(struct export *export);
bool evpl_export_revoke(struct export *export, bool wait);
bool evpl_export_is_unused(struct export *export, bool wait);

#endif /* EVPL_DMABUF_H */
