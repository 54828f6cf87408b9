// SPDX-License-Identifier: GPL-2.0-only
/*
 * /proc/PID/fdinfo/FD of a client. Documentation/fdinfo.md describes the keys, which stay as they
 * are. They name other clients by their ids, and show no pointers.
 *
 * Reading this allocates nothing, so that all keys are there or none. The length is bounded, as
 * only so many other clients are listed.
 */
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/sched/signal.h>
#include <linux/seq_file.h>

#include "client.h"
#include "evpl.h"
#include "fdinfo.h"
#include "folio.h"
#include "lease.h"
#include "quarantine.h"
#include "refs.h"
#include "share.h"
#include "slab.h"

/* How many other clients are listed: a table of them fits on the stack. */
#define LISTED		16
/* How many leases are counted under one hold of evpl_client.lease_sem. */
#define LEASES_BATCH	256

/**
 * struct tally - what a client has of another one
 * @id: the id of the other client; or 0 for all those that aren't listed
 * @count: how many leases or buffers
 * @bytes: of the leased buffers
 * @since: when the oldest of these leases began
 */
struct tally {
	u64 id;
	u64 count;
	u64 bytes;
	u64 since;
};

/**
 * struct tallies - a tally for each other client
 * @nr: how many clients are listed
 * @of: their tallies, in the order in which they were found; then that of the others
 */
struct tallies {
	unsigned int nr;
	struct tally of[LISTED + 1];
};

static struct tally *tally_of(struct tallies *tallies, u64 id)
{
	unsigned int i;

	for (i = 0; id && i < tallies->nr; i++)
		if (tallies->of[i].id == id)
			return &tallies->of[i];
	if (!id || i == LISTED)
		return &tallies->of[LISTED];
	tallies->of[i].id = id;
	tallies->nr++;
	return &tallies->of[i];
}

static void tally_add(struct tally *tally, u64 bytes, u64 since)
{
	tally->since = tally->count ? min(tally->since, since) : since;
	tally->bytes += bytes;
	tally->count++;
}

/* Count the next leases by their owners. Return whether there may be more of them. */
static bool count_leases(struct evpl_client *client, struct tallies *owners, unsigned long *number,
			 unsigned long *revoked)
{
	struct evpl_lease *lease;
	struct evpl_slab *slab;
	unsigned int i;

	lockdep_assert_held(&client->lease_sem);
	for (i = 0; i < LEASES_BATCH; i++, ++*number) {
		lease = xa_find(&client->leases, number, ULONG_MAX, XA_PRESENT);
		if (!lease)
			return false;
		/* A lease in the table has a reference on its share, and so its slab and owner. */
		slab = lease->share->slab;
		if (lease->revoked)
			++*revoked;
		else
			tally_add(tally_of(owners, slab->client->id),
				  PAGE_SIZE << slab->buffer_order, lease->since);
	}
	return true;
}

/* The leases that the client has. Other tasks add and end leases between two batches. */
static noinline void show_leases(struct seq_file *m, struct evpl_client *client)
{
	unsigned long number = 0, revoked = 0;
	struct tallies owners = {};
	unsigned int i;
	bool more;

	do {
		if (down_read_killable(&client->lease_sem))
			break;
		more = count_leases(client, &owners, &number, &revoked);
		up_read(&client->lease_sem);
		cond_resched();
	} while (more && !fatal_signal_pending(current));

	seq_printf(m, "evpl-leases-revoked:\t%lu\n", revoked);
	for (i = 0; i <= LISTED; i++)
		if (owners.of[i].count)
			seq_printf(m, "evpl-leased-from:\t%llu %llu %llu %llu\n", owners.of[i].id,
				   owners.of[i].count, owners.of[i].bytes, owners.of[i].since);
}

/* Count the buffers of a slab that are in quarantine by their last lessees. */
static void count_quarantined(struct evpl_slab *slab, struct tallies *lessees)
{
	unsigned long index = 0;
	struct evpl_share *share;

	do {
		xa_lock(&slab->shares);
		share = xa_find(&slab->shares, &index, ULONG_MAX, EVPL_QUARANTINED);
		if (share)
			tally_add(tally_of(lessees, share->lessee), 0, 0);
		xa_unlock(&slab->shares);
		index++;
		cond_resched();
	} while (share && !fatal_signal_pending(current));
}

/* How many references above the baselines hold folios of a slab that have quarantined buffers. */
static unsigned long count_excess(struct evpl_slab *slab)
{
	unsigned long excess = 0;
	unsigned int i;

	for (i = 0; i < slab->nr_folios && !fatal_signal_pending(current); i++) {
		/* Once the slab is orphaned, a folio may go as soon as the lock is dropped. */
		xa_lock(&slab->shares);
		if (!slab->orphaned &&
		    evpl_slab_folio_has(slab, &slab->folios[i], EVPL_QUARANTINED))
			excess += READ_ONCE(slab->folios[i].excess);
		xa_unlock(&slab->shares);
		cond_resched();
	}
	return excess;
}

static noinline void show_quarantine(struct seq_file *m, struct evpl_client *client)
{
	unsigned long quarantined = 0, excess = 0;
	struct tallies lessees = {};
	struct evpl_slab *slab;
	pgoff_t pgoff = 0;
	unsigned int i;

	while ((slab = evpl_slab_get_after(client, &pgoff))) {
		if (xa_marked(&slab->shares, EVPL_QUARANTINED)) {
			count_quarantined(slab, &lessees);
			excess += count_excess(slab);
		}
		evpl_slab_put(slab);
		cond_resched();
	}
	for (i = 0; i <= LISTED; i++)
		quarantined += lessees.of[i].count;

	seq_printf(m, "evpl-buffers-in-quarantine:\t%lu\n", quarantined);
	seq_printf(m, "evpl-quarantine-references:\t%lu\n", excess);
	for (i = 0; i <= LISTED; i++)
		if (lessees.of[i].count)
			seq_printf(m, "evpl-quarantine-lessee:\t%llu %llu\n", lessees.of[i].id,
				   lessees.of[i].count);
}

/**
 * evpl_show_fdinfo() - show the state of a client
 * @m: where to
 * @file: the client's file
 */
void evpl_show_fdinfo(struct seq_file *m, struct file *file)
{
	struct evpl_client *client = file->private_data;
	unsigned long folios[EVPL_FOLIO_ORDER_MAX + 1] = {};
	unsigned long buffers = 0, in_use = 0, shared = 0, index;
	struct evpl_share *share;
	struct evpl_slab *slab;
	struct rb_node *node;
	unsigned int shift, i;
	int order;

	if (mutex_lock_killable(&client->lock))
		return;
	shift = client->buffer_shift;
	for (node = rb_first(&client->slabs); node; node = rb_next(node)) {
		slab = rb_entry(node, struct evpl_slab, node);
		in_use += evpl_refs_in_use(client, slab);
		for (i = 0; i < slab->nr_folios; i++) {
			folios[folio_order(slab->folios[i].folio)]++;
			cond_resched();
		}
		xa_for_each(&slab->shares, index, share) {
			shared++;
			cond_resched();
		}
	}
	if (shift)
		buffers = client->nr_pages >> (shift - PAGE_SHIFT);
	seq_printf(m, "evpl-client-id:\t%llu\n", client->id);
	seq_printf(m, "evpl-buffer-size:\t%lu\n", shift ? BIT(shift) : 0);
	seq_printf(m, "evpl-slabs:\t%lu\n", client->nr_slabs);
	seq_printf(m, "evpl-bytes:\t%lu\n", client->nr_pages << PAGE_SHIFT);
	mutex_unlock(&client->lock);

	seq_printf(m, "evpl-buffers:\t%lu\n", buffers);
	seq_printf(m, "evpl-buffers-in-use:\t%lu\n", in_use);
	seq_printf(m, "evpl-buffers-shared:\t%lu\n", shared);
	show_quarantine(m, client);
	seq_printf(m, "evpl-leases-lent:\t%ld\n", atomic_long_read(&client->nr_lent));
	seq_printf(m, "evpl-leases:\t%lu\n", READ_ONCE(client->nr_leases));
	show_leases(m, client);
	seq_printf(m, "evpl-exports:\t%ld\n",
		   atomic_long_read(&client->nr_ranges[EVPL_RANGE_EXPORTED]));
	seq_printf(m, "evpl-registrations:\t%ld\n",
		   atomic_long_read(&client->nr_ranges[EVPL_RANGE_REGISTERED]));
	for (order = EVPL_FOLIO_ORDER_MAX; order >= EVPL_FOLIO_ORDER_MIN; order--)
		if (folios[order])
			seq_printf(m, "evpl-folios-%lukB:\t%lu\n",
				   PAGE_SIZE << order >> 10, folios[order]);
}
