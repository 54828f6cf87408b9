/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef EVPL_URING_H
#define EVPL_URING_H

#include <linux/atomic.h>
#include <linux/list.h>
#include <linux/types.h>

struct evpl_client;
struct evpl_share;
struct evpl_slab;
struct io_uring_cmd;

/**
 * struct evpl_registration - pages of a slab that are a registered buffer of rings
 * @client: the client that registered them; the registration owns a reference on it
 * @slab: the slab that the pages lie in
 * @share: of the pages' buffer, on which the registration owns a reference; NULL if the pages are
 *	of @client's own window, and the registration is one of the slab's
 * @start: the first page, in the own window of the slab's client
 * @nr_pages: length
 * @list: in evpl_share.registrations; guarded by the xa_lock of evpl_slab.shares
 */
struct evpl_registration {
	struct evpl_client *client;
	struct evpl_slab *slab;
	struct evpl_share *share;
	pgoff_t start;
	unsigned long nr_pages;
	struct list_head list;
};

extern atomic_long_t evpl_nr_registrations;
#ifdef EVPL_HAS_URING_BVEC
int evpl_uring_cmd(struct io_uring_cmd *cmd, unsigned int issue_flags);
void evpl_uring_exit(void);
#else
static inline void evpl_uring_exit(void)
{
}
#endif

#endif /* EVPL_URING_H */
