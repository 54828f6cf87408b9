/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef EVPL_FOLIO_H
#define EVPL_FOLIO_H

#include <linux/atomic.h>
#include <linux/evpl.h>
#include <linux/log2.h>
#include <linux/mm.h>

struct evpl_user;
struct folio;

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

extern atomic64_t evpl_detached_bytes;
struct folio *evpl_folio_alloc(int node, unsigned int order, bool last);
bool evpl_folio_is_poisoned(struct folio *folio);
void evpl_folio_free(struct folio *folio, struct evpl_user *user);
void evpl_folio_init_user(struct evpl_user *user);
void evpl_folio_reap(struct evpl_user *user);
void evpl_folio_exit(void);

#endif /* EVPL_FOLIO_H */
