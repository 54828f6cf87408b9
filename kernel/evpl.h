/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * All files of this module include this. Each object has a header of its own. Lock order:
 *
 *	evpl_slab.recheck_mutex
 *	mmap_lock
 *	  evpl_client.send_sem
 *	    evpl_slab.orphan_sem, also below recheck_mutex
 *	      folio lock
 *	  evpl_client.lock, also below send_sem
 *	    evpl_client.tree_lock, also below send_sem
 *	      folio lock
 *	      evpl_client.refs_mutex
 *		evpl_user.reap_mutex
 *		  detached_lock (folio.c), account_lock (account.c)
 *	      evpl_client.lease_sem, also below fault_sem, mmap_lock and send_sem
 *		folio lock
 *		  page table lock
 *		the xa_lock of evpl_slab.shares, also below lock, tree_lock and orphan_sem
 *		  account_lock
 *	    i_mmap_rwsem, also below send_sem
 *	      page table lock
 *	  evpl_client.fault_sem
 *	the resv of an export's dma-buf (dmabuf.c); tried below recheck_mutex
 *	  the xa_lock of evpl_slab.shares
 *	  i_mmap_rwsem
 *	  export.lock, also below mmap_lock
 *	    page table lock
 *	ends_lock (channel.c)
 *	  evpl_channel.lock, also below send_sem
 *	evpl_client.recheck_lock, also below send_sem, evpl_client.lock and recheck_mutex
 *
 * evpl_client.lock is taken under mmap_lock, since a mapping may set its client up, and send_sem
 * and lease_sem by page faults. So nothing touches user memory under these locks, or under a lock
 * that nests inside them, unless page faults are disabled.
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
 * Importers hold the resv of a dma-buf for as long as they like. So a task that revokes the
 * dma-buf for another client's sake holds no lock when it waits for the resv, for the importers'
 * fences or for their unmapping, and a signal ends each of these waits. Their callbacks run with
 * the resv held, and with recheck_mutex if a signal came first: how long they take is up to them.
 *
 * io_uring holds the lock of a ring when it has the module register memory, and when it lets go of
 * a registration (uring.c). That lock comes before all of these. No task takes it under one of
 * them.
 *
 * clients_mutex (client.c) is never held with another of these locks.
 */
#ifndef EVPL_H
#define EVPL_H

#include <linux/evpl.h>
#include <linux/gfp.h>
#include <linux/mm.h>

struct workqueue_struct;

#if PAGE_SHIFT > 16
#error "evpl needs pages of at most 64 KiB: a folio of a slab has from 4 pages to 2 MiB"
#endif

/*
 * Flags for every allocation whose size or number a client determines. It is charged to the
 * memory cgroup of the task, and no process is killed for it: __GFP_RETRY_MAYFAIL keeps both
 * OOM killers away, the global one and the cgroup's. So does __GFP_NORETRY, which is used where
 * there is something smaller to try.
 */
#define EVPL_GFP	(GFP_KERNEL_ACCOUNT | __GFP_NOWARN | \
			 __GFP_RETRY_MAYFAIL)

extern struct workqueue_struct *evpl_wq;

#endif /* EVPL_H */
