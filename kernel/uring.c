// SPDX-License-Identifier: GPL-2.0-only
/*
 * Registered buffers of rings. A ring of io_uring(7) can have pages of this module in its table
 * of registered buffers, and in copies of that table. io_uring takes no references on the pages.
 * It has the *registration*, which keeps the pages: by a reference on a share, as a dma-buf does,
 * or by a count in the slab, if the pages are the client's own. io_uring releases the
 * registration when the last table has let go of the buffer, and the last request that uses the
 * buffer is done. So nothing has to look at the references of pages to learn that.
 */
#include <linux/module.h>

#include "compat.h"
#include "uring.h"

atomic_long_t evpl_nr_registrations;

#ifdef EVPL_HAS_URING_BVEC

#include <linux/bvec.h>
#include <linux/err.h>
#include <linux/io_uring/cmd.h>
#include <linux/mm.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "client.h"
#include "evpl.h"
#include "lease.h"
#include "share.h"
#include "slab.h"
#include "syncpoint.h"
#include "window.h"

/* A registration was made since the module was loaded. */
static bool registered_once;

static bool folio_range_is_poisoned(struct folio *folio, unsigned long first, unsigned long end)
{
	for (; first < end; first++)
		if (PageHWPoison(folio_page(folio, first)))
			return true;
	return false;
}

/*
 * Describe the pages, by an entry for each folio. Entries of adjacent folios aren't merged: the
 * network stack takes references on the first folio of an entry, and charges a socket for the
 * bytes of the entry before those that it sends. Return how many entries there are; -EFAULT if a
 * page has a memory error; or -EINTR.
 */
static int registration_fill(struct evpl_registration *registration, struct bio_vec *bvecs)
{
	pgoff_t at = registration->start, end = at + registration->nr_pages, next;
	struct evpl_slab_folio *slab_folio = evpl_slab_folio_at(registration->slab, at);
	int nr;

	for (nr = 0; at < end; at = next, slab_folio++, nr++) {
		struct folio *folio = slab_folio->folio;
		unsigned long first = at - slab_folio->index;

		next = min(end, slab_folio->index + folio_nr_pages(folio));
		if (folio_range_is_poisoned(folio, first, next - slab_folio->index))
			return -EFAULT;
		if (fatal_signal_pending(current))
			return -EINTR;
		bvec_set_page(&bvecs[nr], folio_page(folio, first), (next - at) << PAGE_SHIFT, 0);
		cond_resched();
	}
	return nr;
}

/* Have the registration keep its pages. On success registration_release() undoes this. */
static int registration_begin(struct evpl_registration *registration, u64 offset, u32 length,
			      bool write)
{
	struct evpl_client *client = registration->client;
	struct evpl_slab *slab;
	int ret;

	registration->nr_pages = length >> PAGE_SHIFT;
	if (offset < EVPL_OWN_SIZE) {
		slab = evpl_slab_get_range(client, offset, length, write, EVPL_RANGE_REGISTERED);
		if (IS_ERR(slab))
			return PTR_ERR(slab);
		registration->slab = slab;
		registration->start = offset >> PAGE_SHIFT;
	} else {
		ret = evpl_lease_register(registration, offset, write);
		if (ret)
			return ret;
	}
	evpl_client_get(client);
	__module_get(THIS_MODULE);
	WRITE_ONCE(registered_once, true);
	atomic_long_inc(&evpl_nr_registrations);
	return 0;
}

/*
 * No ring has the pages any more. io_uring calls this in any task, with the lock of one or two
 * rings held. After module_put() the module may be unloaded, which waits for this call: see
 * evpl_uring_exit().
 */
static void registration_release(void *data)
{
	struct evpl_registration *registration = data;

	if (registration->share)
		evpl_share_unregister(registration);
	else
		evpl_slab_put_range(registration->slab, EVPL_RANGE_REGISTERED);
	evpl_client_put(registration->client);
	kfree(registration);
	atomic_long_dec(&evpl_nr_registrations);
	module_put(THIS_MODULE);
}

static int uring_register(struct io_uring_cmd *cmd, const struct evpl_uring_buffer *args,
			  unsigned int issue_flags)
{
	bool write = args->flags & EVPL_URING_WRITE;
	struct evpl_registration *registration;
	struct evpl_slab_folio *first, *last;
	struct evpl_slab *slab;
	struct bio_vec *bvecs;
	int ret;

	if (args->flags & ~EVPL_URING_WRITE)
		return -EOPNOTSUPP;
	registration = kzalloc(sizeof(*registration), EVPL_GFP);
	if (!registration)
		return -ENOMEM;
	registration->client = cmd->file->private_data;
	ret = -ENXIO;
	if (!evpl_client_is_set_up(registration->client))
		goto free_registration;
	ret = -EINVAL;
	if (!args->length || !IS_ALIGNED(args->offset | args->length, PAGE_SIZE))
		goto free_registration;
	ret = registration_begin(registration, args->offset, args->length, write);
	if (ret)
		goto free_registration;
	evpl_syncpoint(EVPL_SYNCPOINT_REGISTER);

	slab = registration->slab;
	first = evpl_slab_folio_at(slab, registration->start);
	last = evpl_slab_folio_at(slab, registration->start + registration->nr_pages - 1);
	ret = -ENOMEM;
	bvecs = kvmalloc_array(last - first + 1, sizeof(*bvecs), EVPL_GFP);
	if (!bvecs)
		goto release;
	ret = registration_fill(registration, bvecs);
	if (ret > 0)
		ret = io_buffer_register_bvec(cmd, bvecs, ret, registration_release, registration,
					      IO_BUF_SOURCE | (write ? IO_BUF_DEST : 0),
					      args->index, issue_flags);
	kvfree(bvecs);
	if (ret)
		goto release;
	return 0;

release:
	registration_release(registration);
	return ret;
free_registration:
	kfree(registration);
	return ret;
}

/**
 * evpl_uring_cmd() - a command that came through a ring
 * @cmd: the command
 * @issue_flags: for io_uring
 *
 * Return: the CQE's res: 0 or a negative errno, as uapi/linux/evpl.h says.
 */
int evpl_uring_cmd(struct io_uring_cmd *cmd, unsigned int issue_flags)
{
	const struct io_uring_sqe *sqe = cmd->sqe;
	const struct evpl_uring_buffer *user = io_uring_sqe_cmd(sqe, struct evpl_uring_buffer);
	/* User space can change the SQE at any time. */
	struct evpl_uring_buffer args = {
		.offset = READ_ONCE(user->offset),
		.length = READ_ONCE(user->length),
		.index = READ_ONCE(user->index),
		.flags = READ_ONCE(user->flags),
	};

	if (READ_ONCE(sqe->addr) || READ_ONCE(sqe->len))
		return -EINVAL;
	switch (cmd->cmd_op) {
	case EVPL_URING_REGISTER:
		return uring_register(cmd, &args, issue_flags);
	case EVPL_URING_UNREGISTER:
		if (args.offset || args.length || args.flags)
			return -EINVAL;
		return io_buffer_unregister(cmd, args.index, issue_flags);
	default:
		return -EOPNOTSUPP;
	}
}

/*
 * Wait for a task that has put the module and is about to return from registration_release(). It
 * may be preempted there, but doesn't sleep, so it is gone when each task has slept or has been
 * in user space. Any program can make that take long, by a ring with a kernel thread that polls.
 * So don't wait for nothing.
 */
void evpl_uring_exit(void)
{
	if (READ_ONCE(registered_once))
		synchronize_rcu_tasks();
}

#endif /* EVPL_HAS_URING_BVEC */
