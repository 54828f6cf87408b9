/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef EVPL_SYNCPOINT_H
#define EVPL_SYNCPOINT_H

struct dentry;

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
	EVPL_SYNCPOINT_REGISTER,	/* a registration keeps its pages, no ring has them yet */
	EVPL_SYNCPOINT_GONE,		/* a client is gone, but its leases aren't ended yet */
	EVPL_SYNCPOINT_ADOPT,		/* nothing maps the client, and nothing is cleared yet */
	EVPL_SYNCPOINT_DRAIN,		/* a closed end has dropped a record, not all of them */
	EVPL_SYNCPOINT_SENT,		/* records are in flight, the leases still count them */
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

#endif /* EVPL_SYNCPOINT_H */
