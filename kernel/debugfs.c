// SPDX-License-Identifier: GPL-2.0-only
/*
 * The files in debugfs: /sys/kernel/debug/evpl/counters has the sums of the system, and
 * /sys/kernel/debug/evpl/clients has a line for each client.
 */
#include <linux/debugfs.h>
#include <linux/module.h>
#include <linux/seq_file.h>

#include "account.h"
#include "channel.h"
#include "client.h"
#include "debugfs.h"
#include "dmabuf.h"
#include "evpl.h"
#include "folio.h"
#include "lease.h"
#include "quarantine.h"
#include "share.h"
#include "slab.h"
#include "syncpoint.h"
#include "uring.h"

static struct dentry *root;

static int evpl_counters_show(struct seq_file *m, void *unused)
{
	seq_printf(m, "clients %lu\n", evpl_client_count());
	seq_printf(m, "slabs %lu\n", atomic_long_read(&evpl_nr_slabs));
	seq_printf(m, "channels %lu\n", atomic_long_read(&evpl_nr_channels));
	seq_printf(m, "records %lu\n", atomic_long_read(&evpl_nr_records));
	seq_printf(m, "shares %lu\n", atomic_long_read(&evpl_nr_shares));
	seq_printf(m, "quarantined %lu\n", atomic_long_read(&evpl_nr_quarantined));
	seq_printf(m, "rechecks %lu\n", atomic_long_read(&evpl_nr_rechecks));
	seq_printf(m, "leases %lu\n", atomic_long_read(&evpl_nr_leases));
	seq_printf(m, "exports %lu\n", atomic_long_read(&evpl_nr_exports));
	seq_printf(m, "registrations %lu\n", atomic_long_read(&evpl_nr_registrations));
	seq_printf(m, "charged-bytes %llu\n", evpl_charged_bytes());
	seq_printf(m, "detached-bytes %llu\n",
		   (u64)atomic64_read(&evpl_detached_bytes));
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(evpl_counters);

static int evpl_clients_show(struct seq_file *m, void *unused)
{
	evpl_client_show_all(m);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(evpl_clients);

void __init evpl_debugfs_init(void)
{
	root = debugfs_create_dir("evpl", NULL);
	debugfs_create_file("counters", 0400, root, NULL, &evpl_counters_fops);
	debugfs_create_file("clients", 0400, root, NULL, &evpl_clients_fops);
	evpl_syncpoint_init(root);
}

void evpl_debugfs_exit(void)
{
	debugfs_remove(root);
	evpl_syncpoint_exit();
}
