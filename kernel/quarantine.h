/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef EVPL_QUARANTINE_H
#define EVPL_QUARANTINE_H

#include <linux/atomic.h>
#include <linux/xarray.h>

struct evpl_client;
struct evpl_share;
struct evpl_slab;

/* The mark in evpl_slab.shares of a buffer that is in quarantine. */
#define EVPL_QUARANTINED	XA_MARK_1

extern atomic_long_t evpl_nr_rechecks, evpl_nr_quarantined;
bool evpl_quarantine_is_clear(struct evpl_share *share);
bool evpl_quarantine_has(struct evpl_share *share);
bool evpl_quarantine_has_folio(struct evpl_share *share);
struct evpl_slab *evpl_quarantine_begin(struct evpl_share *share);
void evpl_quarantine_begun(struct evpl_slab *slab);
void evpl_quarantine_take_over(struct evpl_share *share);
void evpl_quarantine_schedule(struct evpl_client *client);
void evpl_quarantine_check(struct evpl_share *share);
bool evpl_quarantine_recheck_next(struct evpl_slab *slab, unsigned long *index,
				  unsigned long end, bool *left);
bool evpl_quarantine_recheck_slab(struct evpl_slab *slab);
int evpl_quarantine_end(struct evpl_client *client, u64 offset);
void evpl_quarantine_end_all(struct evpl_slab *slab);
void evpl_quarantine_init(struct evpl_client *client);
void evpl_quarantine_exit(struct evpl_client *client);
int evpl_quarantine_adopt(struct evpl_slab *slab);
int evpl_baseline_set(struct evpl_client *client, pgoff_t first,
		      unsigned long nr_pages, u32 flags);

#endif /* EVPL_QUARANTINE_H */
