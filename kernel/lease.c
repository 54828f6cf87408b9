// SPDX-License-Identifier: GPL-2.0-only
/*
 * Leases. A lease is a client's right to touch a buffer of another client. It has a number. The
 * number gives it an entry, whose word counts the references that its client has, and a place
 * in the guest window of its kind. guest and guest-ro are PFN-mapped: the CPU can touch the
 * memory there and nothing can pin it, so unmapping ends all access (but see quarantine.c for KVM).
 * Pages of a device lease, in guest-io or guest-io-ro, can be pinned past the lease's end, so
 * the pages of the buffer are checked (quarantine.c).
 *
 * A number has three parts, so that the place can be computed from it:
 *
 *	30 to 31  enum evpl_lease_kind
 *	25 to 29  log2 of the buffer's pages
 *	0 to 24	  which of the leases of that kind and size
 *
 * A lease is *ended* in three steps. It is unpublished: it leaves its client's tables, with
 * lease_sem held for write, so that no fault finds it. It is unmapped. Then its number is freed,
 * and its reference on the share dropped. A lease that is *revoked* stays in the tables, but
 * faults and deliveries don't use it. It keeps its number until its word is 0 and it is ended.
 */
#include <linux/err.h>
#include <linux/fs.h>
#include <linux/ktime.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "client.h"
#include "evpl.h"
#include "lease.h"
#include "record.h"
#include "refs.h"
#include "share.h"
#include "slab.h"
#include "trace.h"
#include "uring.h"
#include "window.h"
#include "word.h"

#define ORDER_SHIFT	25
#define ORDERS		(31 - PAGE_SHIFT)	/* buffers of a page to 1 GiB */
#define KIND_SHIFT	30

/* log2 of the pages that each order has in a window: 128 GiB. */
#define PLACES_SHIFT	(37 - PAGE_SHIFT)

atomic_long_t evpl_nr_leases;

static u32 lease_number(enum evpl_lease_kind kind, unsigned int order, u32 which)
{
	return (u32)kind << KIND_SHIFT | order << ORDER_SHIFT | which;
}

static enum evpl_lease_kind number_kind(u32 number)
{
	return number >> KIND_SHIFT;
}

static unsigned int number_order(u32 number)
{
	return (number & (BIT(KIND_SHIFT) - 1)) >> ORDER_SHIFT;
}

static u32 number_which(u32 number)
{
	return number & (BIT(ORDER_SHIFT) - 1);
}

static bool number_is_valid(u32 number)
{
	unsigned int order = number_order(number);

	return order < ORDERS && number_which(number) < BIT(PLACES_SHIFT - order);
}

/* First page of a lease's place. */
static pgoff_t number_place(u32 number)
{
	unsigned int order = number_order(number);
	pgoff_t place = ((pgoff_t)order << PLACES_SHIFT) +
			((pgoff_t)number_which(number) << order);

	return EVPL_GUEST_START + number_kind(number) * EVPL_GUEST_PAGES + place;
}

/*
 * The number of the lease whose place would contain this page of a guest window. No place may
 * contain it: number_is_valid() tells.
 */
static u32 number_at(pgoff_t pgoff)
{
	enum evpl_lease_kind kind = (pgoff - EVPL_GUEST_START) / EVPL_GUEST_PAGES;
	pgoff_t place = (pgoff - EVPL_GUEST_START) % EVPL_GUEST_PAGES;
	unsigned int order = min_t(pgoff_t, place >> PLACES_SHIFT, ORDERS);

	return lease_number(kind, order, (place & (BIT(PLACES_SHIFT) - 1)) >> order);
}

/* mmap offset of a lease's place. */
static u64 lease_place(struct evpl_lease *lease)
{
	return (u64)number_place(lease->number) << PAGE_SHIFT;
}

/* Pages of the buffer whose place would contain this page of a guest window. */
unsigned long evpl_lease_pages_at(pgoff_t pgoff)
{
	return BIT(number_order(number_at(pgoff)));
}

/**
 * evpl_lease_at() - find the lease that a page of a guest window belongs to
 * @client: the client, whose lease_sem the caller holds
 * @pgoff: the page
 * @offset: out: the page's offset in the buffer, in pages
 *
 * Return: the lease, which may be a revoked one, or NULL.
 */
struct evpl_lease *evpl_lease_at(struct evpl_client *client, pgoff_t pgoff,
				 pgoff_t *offset)
{
	u32 number = number_at(pgoff);

	if (!number_is_valid(number))
		return NULL;
	*offset = pgoff - number_place(number);
	return xa_load(&client->leases, number);
}

void evpl_lease_put(struct evpl_lease *lease)
{
	if (!refcount_dec_and_test(&lease->refs))
		return;
	evpl_client_put(lease->client);
	kfree(lease);
}

/* The flags of a record that asks for a lease of this kind: what the lease allows. */
static u32 kind_flags(enum evpl_lease_kind kind)
{
	switch (kind) {
	case EVPL_LEASE_RW:
		return EVPL_RECORD_WRITE;
	case EVPL_LEASE_IO_RW:
		return EVPL_RECORD_WRITE | EVPL_RECORD_DEVICE;
	case EVPL_LEASE_IO_RO:
		return EVPL_RECORD_DEVICE;
	default:
		return 0;
	}
}

static enum evpl_lease_kind kind_for_flags(u32 flags)
{
	if (flags & EVPL_RECORD_DEVICE)
		return flags & EVPL_RECORD_WRITE ? EVPL_LEASE_IO_RW :
						   EVPL_LEASE_IO_RO;
	return flags & EVPL_RECORD_WRITE ? EVPL_LEASE_RW : EVPL_LEASE_RO;
}

static int lease_compare(struct evpl_lease *lease, struct evpl_share *share,
			 enum evpl_lease_kind kind)
{
	if (lease->share != share)
		return lease->share < share ? -1 : 1;
	return (int)lease->kind - (int)kind;
}

static struct evpl_lease *lease_find(struct evpl_client *client,
				     struct evpl_share *share,
				     enum evpl_lease_kind kind)
{
	struct rb_node *node = client->lease_tree.rb_node;

	while (node) {
		struct evpl_lease *lease = rb_entry(node, struct evpl_lease, node);
		int order = lease_compare(lease, share, kind);

		if (!order)
			return lease;
		node = order < 0 ? node->rb_right : node->rb_left;
	}
	return NULL;
}

static void lease_insert(struct evpl_client *client, struct evpl_lease *lease)
{
	struct rb_node **link = &client->lease_tree.rb_node;
	struct rb_node *parent = NULL;

	while (*link) {
		parent = *link;
		link = lease_compare(rb_entry(parent, struct evpl_lease, node),
				     lease->share, lease->kind) < 0 ?
		       &parent->rb_right : &parent->rb_left;
	}
	rb_link_node(&lease->node, parent, link);
	rb_insert_color(&lease->node, &client->lease_tree);
}

/* Unmap a lease's place from all mappings of its client. */
static void lease_unmap(struct evpl_lease *lease)
{
	unmap_mapping_range(lease->client->inode->i_mapping,
			    lease_place(lease),
			    PAGE_SIZE << number_order(lease->number), 1);
}

/* Whether its client has no reference. A hint: user space can change the word at any time. */
static bool lease_is_idle(struct evpl_lease *lease)
{
	return !(evpl_word_read(lease->word) & ~EVPL_WORD_WANTED);
}

/* First step of ending a lease. Afterwards only its share leads to it. */
static void lease_unpublish(struct evpl_lease *lease)
{
	struct evpl_client *client = lease->client;

	lockdep_assert_held_write(&client->lease_sem);
	lease->ended = true;
	if (lease->wanted)
		evpl_word_want(lease->word, false);
	rb_erase(&lease->node, &client->lease_tree);
	WRITE_ONCE(client->nr_leases, client->nr_leases - 1);
	/* Keeps the number allocated. Replacing an entry takes no memory. */
	xa_store(&client->leases, lease->number, XA_ZERO_ENTRY, 0);
}

/* The other steps. The reference of the task that ends the lease is consumed. */
static void lease_teardown(struct evpl_lease *lease)
{
	struct evpl_client *client = lease->client;
	struct evpl_share *share = lease->share;
	struct evpl_slab *slab = share->slab;
	pgoff_t start = evpl_share_start(share);
	bool orphaned;

	lease_unmap(lease);
	trace_evpl_lease_end(lease);
	evpl_share_remove_lease(lease);
	/* If the slab is orphaned after this read, evpl_slab_recharge() doesn't find the lease. */
	orphaned = READ_ONCE(slab->orphaned);
	if (orphaned)
		evpl_slab_get(slab);
	xa_erase(&client->leases, lease->number);
	evpl_share_put(share);
	/*
	 * Recharge after the drop, so that memory which the drop has freed is charged to nobody
	 * else.
	 */
	if (orphaned) {
		evpl_slab_recharge(slab, start, start + BIT(slab->buffer_order) - 1);
		evpl_slab_put(slab);
	}
	atomic_long_dec(&evpl_nr_leases);
	evpl_lease_put(lease);
}

/* Strike a lease out if its client has no reference on it, and is giving none up just now. */
static bool lease_unpublish_idle(struct evpl_lease *lease)
{
	lockdep_assert_held_write(&lease->client->lease_sem);
	if (lease->ended || lease->pending || !lease_is_idle(lease))
		return false;
	lease_unpublish(lease);
	return true;
}

/* Tell the client to release the lease as soon as it is idle. */
static void lease_want(struct evpl_lease *lease)
{
	lockdep_assert_held_write(&lease->client->lease_sem);
	lease->wanted = true;
	evpl_word_want(lease->word, true);
}

/**
 * evpl_lease_pull() - end a lease if it is idle
 * @lease: the lease, on which the caller has a reference
 * @soon: if it isn't idle, have it end as soon as it is
 *
 * Return: whether this ended the lease. It doesn't if the client has references on the lease or
 * is giving one up, if the lease has ended already, or if the caller is killed.
 */
bool evpl_lease_pull(struct evpl_lease *lease, bool soon)
{
	bool idle;

	if (down_write_killable(&lease->client->lease_sem))
		return false;
	idle = lease_unpublish_idle(lease);
	if (soon && !idle && !lease->ended) {
		lease_want(lease);
		/* The client may have dropped its last reference before the flag was set. */
		idle = lease_unpublish_idle(lease);
	}
	up_write(&lease->client->lease_sem);
	if (idle)
		lease_teardown(lease);
	return idle;
}

/*
 * Allocate all that a lease needs. This runs before lease_sem is taken, because it may take
 * long: the memory is charged to a cgroup. The number is allocated, but leads to nothing yet.
 */
static struct evpl_lease *lease_prepare(struct evpl_client *client,
					struct evpl_share *share,
					enum evpl_lease_kind kind)
{
	unsigned int order = share->slab->buffer_order;
	u32 first = lease_number(kind, order, 0);
	struct evpl_lease *lease;
	int ret;

	lease = kzalloc(sizeof(*lease), EVPL_GFP);
	if (!lease)
		return ERR_PTR(-ENOMEM);
	ret = xa_alloc(&client->leases, &lease->number, NULL,
		       XA_LIMIT(first, first + BIT(PLACES_SHIFT - order) - 1),
		       EVPL_GFP);
	if (ret) {
		ret = ret == -EBUSY ? -ENOSPC : ret;
		goto free_lease;
	}
	ret = evpl_refs_grow_lease(client, lease->number);
	if (ret)
		goto erase_number;

	lease->client = client;
	lease->share = share;
	lease->kind = kind;
	refcount_set(&lease->refs, 1);
	return lease;

erase_number:
	xa_erase(&client->leases, lease->number);
free_lease:
	kfree(lease);
	return ERR_PTR(ret);
}

/* Undo lease_prepare() for a lease that isn't in the tables. */
static void lease_discard(struct evpl_lease *lease)
{
	xa_erase(&lease->client->leases, lease->number);
	kfree(lease);
}

/* Put a prepared lease into the tables. Return 0, or -ECANCELED with nothing changed. */
static int lease_publish(struct evpl_lease *lease)
{
	struct evpl_client *client = lease->client;
	int ret;

	lockdep_assert_held_write(&client->lease_sem);
	/* lease_prepare() has allocated the word's page. It stays, since the client hasn't gone. */
	lease->word = evpl_refs_word(client, EVPL_REFS_LEASES, lease->number);
	lease->since = ktime_get_boottime_ns();
	ret = evpl_share_add_lease(lease);
	if (ret)
		return ret;
	evpl_client_get(client);
	lease_insert(client, lease);
	/* Takes no memory: the slot is reserved. */
	xa_store(&client->leases, lease->number, lease, 0);
	WRITE_ONCE(client->nr_leases, client->nr_leases + 1);
	atomic_long_inc(&evpl_nr_leases);
	trace_evpl_lease_begin(lease);
	return 0;
}

/*
 * Finish a delivery that has prepared a lease. The lease is discarded unless it was @made, that
 * is put into the tables. It is ended if it was unpublished again (@idle). If it was made and
 * kept, an orphaned slab is recharged; the lease may have ended by now, so it isn't touched. The
 * caller has a reference on the share.
 */
static noinline void lease_after_prepare(struct evpl_lease *lease, struct evpl_share *share,
					 bool made, bool idle)
{
	pgoff_t start = evpl_share_start(share);

	if (!made)
		lease_discard(lease);
	else if (idle)
		lease_teardown(lease);
	else if (READ_ONCE(share->slab->orphaned))
		evpl_slab_recharge(share->slab, start,
				   start + BIT(share->slab->buffer_order) - 1);
}

/**
 * evpl_lease_deliver() - deliver a record to a client
 * @client: the client
 * @inflight: the record, which asks for the kind of the lease
 * @to: where to copy the record
 *
 * The record is copied out, and counted in the client's lease on the buffer, under one hold of
 * lease_sem. A client that has no such lease gets one.
 *
 * Return: 0; or, with nothing counted, -EFAULT if the user's page isn't present or can't be
 * written to; -ECANCELED if the buffer has been revoked; -ENOTCONN if the client has gone;
 * -ENOSPC, -ENOMEM or -EINTR.
 */
int evpl_lease_deliver(struct evpl_client *client, const struct evpl_inflight *inflight,
		       struct iov_iter *to)
{
	enum evpl_lease_kind kind = kind_for_flags(inflight->flags);
	struct evpl_lease *lease, *spare = NULL;
	struct evpl_share *share = inflight->share;
	bool made = false, idle = false;
	int ret;

again:
	down_write(&client->lease_sem);
	ret = -ENOTCONN;
	if (client->gone)
		goto unlock;
	lease = lease_find(client, share, kind);
	if (unlikely(!lease)) {
		if (!spare) {
			up_write(&client->lease_sem);
			spare = lease_prepare(client, share, kind);
			/*
			 * Retry also if that failed: another reader may have made the lease
			 * meanwhile.
			 */
			goto again;
		}
		ret = PTR_ERR_OR_ZERO(spare) ?: lease_publish(spare);
		if (ret)
			goto unlock;
		lease = spare;
		made = true;
	}
	ret = -ECANCELED;
	if (lease->revoked)
		goto unlock;

	pagefault_disable();
	ret = evpl_record_copy_out(to, inflight, lease_place(lease) + inflight->offset,
				   lease->number, 0);
	pagefault_enable();
	if (!ret) {
		/* A pull that sets ->wanted after this read finds the lease in its share. */
		if (READ_ONCE(share->wanted))
			lease_want(lease);
		evpl_word_inc(lease->word);
	} else if (made) {
		idle = lease_unpublish_idle(lease);
	}
unlock:
	up_write(&client->lease_sem);
	/*
	 * If the slab is orphaned after lease_after_prepare() has read ->orphaned, its owner finds
	 * the lease.
	 */
	if (!IS_ERR_OR_NULL(spare))
		lease_after_prepare(spare, share, made, idle);
	return ret;
}

/*
 * Report a revoked lease to its client, unless the word is 0. With a word of 0 the lease may
 * end without the client's doing, and its number may be another lease's when the client reads
 * it.
 */
static void lease_report_revoked(struct evpl_lease *lease)
{
	if (!lease_is_idle(lease))
		evpl_refs_report_revoked(lease->client, lease->number);
}

/* Finish evpl_ref_transfer(), which was cancelled if !@given_up. */
static void lease_finish_transfer(struct evpl_lease *lease, bool given_up)
{
	struct evpl_client *client = lease->client;
	bool idle;

	down_write(&client->lease_sem);
	/* A lease that hasn't ended has a reference on its share. */
	if (given_up && !lease->ended)
		evpl_share_pass_on(lease->share);
	lease->pending--;
	idle = lease_unpublish_idle(lease);
	if (!idle && lease->revoked && !lease->ended)
		lease_report_revoked(lease);
	up_write(&client->lease_sem);

	if (idle)
		lease_teardown(lease);
	evpl_lease_put(lease);
}

/**
 * evpl_lease_finish_transfer() - finish giving up a reference of a lease
 * @lease: the lease, as evpl_ref_transfer() returned it; the caller's reference on it is consumed
 *
 * A lease that has no references left is ended. The owner's word says that the buffer was passed
 * on, before the client can tell the owner that it has let go of the buffer.
 */
void evpl_lease_finish_transfer(struct evpl_lease *lease)
{
	lease_finish_transfer(lease, true);
}

static bool is_guest_offset(u64 offset)
{
	return offset >> PAGE_SHIFT >= EVPL_GUEST_START &&
	       offset >> PAGE_SHIFT < EVPL_GUEST_START +
				      EVPL_LEASE_KINDS * EVPL_GUEST_PAGES;
}

/*
 * Find the lease that a range of a guest window belongs to, if it allows what @flags
 * (EVPL_RECORD_*) asks for. Set *@in_buffer to the page of the buffer where the range starts. The
 * caller holds lease_sem.
 */
static struct evpl_lease *lease_of_range(struct evpl_client *client, u64 offset, u32 length,
					 u32 flags, pgoff_t *in_buffer)
{
	struct evpl_lease *lease;
	u64 size;

	if (client->gone)
		return ERR_PTR(-ENOTCONN);
	if (!is_guest_offset(offset))
		return ERR_PTR(-ENOENT);
	lease = evpl_lease_at(client, offset >> PAGE_SHIFT, in_buffer);
	if (!lease || lease->revoked || evpl_share_is_revoked(lease->share))
		return ERR_PTR(-ENOENT);
	size = PAGE_SIZE << number_order(lease->number);
	if (length > size - (offset & (size - 1)))
		return ERR_PTR(-EINVAL);
	if (flags & ~kind_flags(lease->kind) ||
	    (flags & EVPL_RECORD_WRITE && !client->writable))
		return ERR_PTR(-EACCES);
	return lease;
}

/*
 * Return the lease, for evpl_lease_finish_transfer(), with a reference on its share that the caller
 * owns.
 */
static struct evpl_lease *lease_transfer(struct evpl_client *client, u64 offset, u32 length,
					 u32 flags)
{
	struct evpl_lease *lease;
	pgoff_t unused;

	down_write(&client->lease_sem);
	lease = lease_of_range(client, offset, length, flags, &unused);
	if (!IS_ERR(lease) && !(evpl_word_read(lease->word) & EVPL_WORD_COUNT))
		lease = ERR_PTR(-ESTALE);
	if (!IS_ERR(lease)) {
		evpl_share_get(lease->share);
		evpl_word_dec(lease->word);
		lease->pending++;
		refcount_inc(&lease->refs);
	}
	up_write(&client->lease_sem);
	return lease;
}

/**
 * evpl_lease_register() - let rings use pages of a leased buffer
 * @registration: of the pages. Its client has the lease; nr_pages is set. This sets the share,
 *	on which it owns a reference then, the slab and the start.
 * @offset: of the first byte, in a guest window
 * @write: rings may write to the pages
 *
 * The registration may outlive the lease.
 *
 * Return: 0, -ENOENT, -EINVAL or -EPERM.
 */
int evpl_lease_register(struct evpl_registration *registration, u64 offset, bool write)
{
	struct evpl_client *client = registration->client;
	u32 flags = EVPL_RECORD_DEVICE | (write ? EVPL_RECORD_WRITE : 0);
	struct evpl_lease *lease;
	pgoff_t in_buffer;
	int ret;

	/* The lock keeps the lease's reference on its share. */
	down_read(&client->lease_sem);
	lease = lease_of_range(client, offset, registration->nr_pages << PAGE_SHIFT, flags,
			       &in_buffer);
	ret = PTR_ERR_OR_ZERO(lease);
	if (!ret) {
		registration->share = lease->share;
		registration->slab = lease->share->slab;
		registration->start = evpl_share_start(lease->share) + in_buffer;
		ret = evpl_share_register(registration);
	}
	up_read(&client->lease_sem);
	return ret == -EACCES ? -EPERM : ret;
}

/**
 * evpl_ref_transfer() - take over a reference that a client gives up
 * @client: the client, whose send_sem the caller holds for read
 * @offset: of the first byte, in the own window or a guest window
 * @length: bytes
 * @flags: EVPL_RECORD_*: what the receiver may do
 * @lease: out: the lease that had the reference, for evpl_lease_finish_transfer(); NULL if the
 *	client owns the buffer
 *
 * Return: the share of the buffer, with a reference that the caller owns; or an error pointer,
 * and the client keeps its reference.
 */
struct evpl_share *evpl_ref_transfer(struct evpl_client *client, u64 offset, u32 length,
				     u32 flags, struct evpl_lease **lease)
{
	*lease = NULL;
	if (offset < EVPL_OWN_SIZE)
		return evpl_share_transfer(client, offset, length, flags);
	*lease = lease_transfer(client, offset, length, flags);
	return IS_ERR(*lease) ? ERR_CAST(*lease) : (*lease)->share;
}

/**
 * evpl_ref_cancel_transfer() - undo evpl_ref_transfer(), under the same send_sem
 * @share: the share; the caller's reference on it is consumed
 * @lease: the lease, whose transfer this finishes, or NULL
 */
void evpl_ref_cancel_transfer(struct evpl_share *share, struct evpl_lease *lease)
{
	if (!lease) {
		evpl_share_cancel_transfer(share);
		return;
	}
	down_write(&lease->client->lease_sem);
	/* While the reference is pending, only the client's death can have ended the lease. */
	if (!lease->ended)
		evpl_word_inc(lease->word);
	up_write(&lease->client->lease_sem);
	evpl_share_put(share);
	lease_finish_transfer(lease, false);
}

/**
 * evpl_lease_revoke() - end all access to a buffer through a lease
 * @lease: the lease, whose share is revoked; the caller has a reference on the lease, and one
 *	on the share
 */
void evpl_lease_revoke(struct evpl_lease *lease)
{
	struct evpl_client *client = lease->client;
	bool idle;

	down_write(&client->lease_sem);
	idle = lease_unpublish_idle(lease);
	if (!idle && !lease->ended) {
		lease->revoked = true;
		lease_report_revoked(lease);
	}
	up_write(&client->lease_sem);

	if (idle) {
		lease_teardown(lease);
		return;
	}
	/*
	 * Unmap also if another task is ending the lease: that task may not have unmapped it
	 * yet. If it has, another lease may have the place by now. That lease's pages are
	 * faulted in again.
	 */
	lease_unmap(lease);
	evpl_share_remove_lease(lease);
}

/**
 * evpl_lease_release() - end those of a client's leases whose words are 0
 * @client: the client
 * @numbers: the leases' numbers
 * @count: how many numbers
 *
 * Return: how many leases were ended; -EINVAL if one of @numbers can't be a lease's, with
 * nothing done.
 */
int evpl_lease_release(struct evpl_client *client, const u32 *numbers, u32 count)
{
	struct evpl_lease *lease;
	int released = 0;
	bool idle;
	u32 i;

	for (i = 0; i < count; i++)
		if (!number_is_valid(numbers[i]))
			return -EINVAL;

	for (i = 0; i < count; i++) {
		down_write(&client->lease_sem);
		lease = xa_load(&client->leases, numbers[i]);
		idle = lease && lease_unpublish_idle(lease);
		up_write(&client->lease_sem);
		if (idle) {
			lease_teardown(lease);
			released++;
		}
		cond_resched();
	}
	return released;
}

/**
 * evpl_lease_end_all() - end the leases of a client, whatever their words are
 * @client: the client: one that is marked as gone, or is being adopted
 * @adopt: it is being adopted, so that a fatal signal ends the call
 *
 * A process that reads records of a client that is being adopted may get a new lease with each
 * number that is freed here. So this doesn't go back to a number.
 *
 * Return: 0, or -EINTR after a part of them.
 */
int evpl_lease_end_all(struct evpl_client *client, bool adopt)
{
	struct evpl_lease *lease;
	unsigned long number = 0;

	for (;;) {
		down_write(&client->lease_sem);
		lease = xa_find(&client->leases, &number, ULONG_MAX, XA_PRESENT);
		if (lease) {
			/*
			 * A record or a dma-buf may carry the buffer on already. For a lease that
			 * has ended, lease_finish_transfer() comes too late to say so. If the
			 * client is gone, the transfer may still fail; the flag then does no harm.
			 */
			if (lease->pending)
				evpl_share_pass_on(lease->share);
			lease_unpublish(lease);
			evpl_refs_reset_lease(client, lease->number);
		}
		up_write(&client->lease_sem);
		if (!lease)
			return 0;
		lease_teardown(lease);
		number++;
		if (adopt && fatal_signal_pending(current))
			return -EINTR;
		cond_resched();
	}
}
