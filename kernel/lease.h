/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef EVPL_LEASE_H
#define EVPL_LEASE_H

#include <linux/atomic.h>
#include <linux/list.h>
#include <linux/rbtree.h>
#include <linux/refcount.h>

struct evpl_client;
struct evpl_inflight;
struct evpl_registration;
struct evpl_share;
struct iov_iter;

/*
 * The access that a client has to a buffer that it has leased. Each kind has a window; the
 * kinds are in the order of the windows.
 */
enum evpl_lease_kind {
	EVPL_LEASE_RW,		/* guest */
	EVPL_LEASE_RO,		/* guest-ro */
	EVPL_LEASE_IO_RW,	/* guest-io */
	EVPL_LEASE_IO_RO,	/* guest-io-ro */
	EVPL_LEASE_KINDS,
};

/**
 * struct evpl_lease - a client's right to touch a buffer of another client
 * @node: in evpl_client.lease_tree, by @share and @kind, unless @ended
 * @list: in evpl_share.leases, until nobody can touch the buffer through the lease
 * @serial: of the lease in its share: see evpl_share.next_serial
 * @since: when the lease began, in ns of the boot time
 * @client: the client that has the lease; the lease owns a reference on it
 * @share: of the buffer; the lease owns a reference on it until it has ended
 * @number: its place in evpl_client.leases; it also gives the lease's entry, and its place in
 *	the guest windows
 * @kind: what the client may do, and so which guest window has the lease: enum evpl_lease_kind
 * @revoked: faults and deliveries don't use the lease; it is kept for its word alone
 * @wanted: its word has been given EVPL_WORD_WANTED
 * @ended: the lease is in no table any more
 * @word: of the lease's entry
 * @pending: references between evpl_ref_transfer() and evpl_lease_finish_transfer()
 * @refs: one that the task which ends the lease drops, and one for each task that works on it
 *
 * @node, @pending, @revoked, @wanted and @ended change under evpl_client.lease_sem,
 * held for write.
 */
struct evpl_lease {
	struct rb_node node;
	struct list_head list;
	u64 serial;
	u64 since;
	struct evpl_client *client;
	struct evpl_share *share;
	u32 number;
	u8 kind;
	bool revoked;
	bool wanted;
	bool ended;
	atomic64_t *word;
	unsigned int pending;
	refcount_t refs;
};

extern atomic_long_t evpl_nr_leases;
int evpl_lease_deliver(struct evpl_client *client, const struct evpl_inflight *inflight,
		       struct iov_iter *to);
void evpl_lease_finish_transfer(struct evpl_lease *lease);
struct evpl_share *evpl_ref_transfer(struct evpl_client *client, u64 offset, u32 length,
				     u32 flags, struct evpl_lease **lease);
void evpl_ref_cancel_transfer(struct evpl_share *share, struct evpl_lease *lease);
int evpl_lease_register(struct evpl_registration *registration, u64 offset, bool write);
bool evpl_lease_pull(struct evpl_lease *lease, bool soon);
void evpl_lease_revoke(struct evpl_lease *lease);
int evpl_lease_release(struct evpl_client *client, const u32 *numbers, u32 count);
int evpl_lease_end_all(struct evpl_client *client, bool adopt);
void evpl_lease_put(struct evpl_lease *lease);
unsigned long evpl_lease_pages_at(pgoff_t pgoff);
struct evpl_lease *evpl_lease_at(struct evpl_client *client, pgoff_t pgoff,
				 pgoff_t *offset);

/* Whether something can hold pages through the lease past its end: see quarantine.c. */
static inline bool evpl_lease_may_hold(const struct evpl_lease *lease)
{
	return lease->kind != EVPL_LEASE_RO;
}

#endif /* EVPL_LEASE_H */
