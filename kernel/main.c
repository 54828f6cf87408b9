// SPDX-License-Identifier: GPL-2.0-only
/*
 * evpl: pinned memory for fast I/O, handed out through /dev/evpl.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/debugfs.h>
#include <linux/device.h>
#include <linux/err.h>
#include <linux/fs.h>
#include <linux/init.h>
#include <linux/kdev_t.h>
#include <linux/memcontrol.h>
#include <linux/module.h>
#include <linux/workqueue.h>

#include "account.h"
#include "client.h"
#include "compat.h"
#include "debugfs.h"
#include "evpl.h"
#include "folio.h"
#include "uring.h"

/* For rechecks of quarantines and detached folios, so that they hold up nobody else's work. */
struct workqueue_struct *evpl_wq;

#define NAME	"evpl"

static char *evpl_devnode(EVPL_DEVNODE_CONST struct device *device, umode_t *mode)
{
	if (mode)
		*mode = 0660;
	return NULL;
}

static struct class evpl_class = {
	.name = NAME,
	.devnode = evpl_devnode,
};

static int major;

/* The module works without these. A user who misses something finds the reason in the log. */
static void __init evpl_log_missing(void)
{
	if (!IS_ENABLED(CONFIG_TRANSPARENT_HUGEPAGE))
		pr_info("no transparent huge pages in this kernel: slabs are made of single pages, and EVPL_SLAB_HUGE gives ENOMEM\n");
	if (mem_cgroup_disabled())
		pr_info("no memory cgroups in this kernel: only max_bytes and max_bytes_per_user cap the memory of clients\n");
	if (!debugfs_initialized())
		pr_info("no debugfs in this kernel: the counters and the list of clients can't be read\n");
}

static int __init evpl_init(void)
{
	struct device *device;
	int ret;

	evpl_account_init();
	evpl_wq = alloc_workqueue("evpl", WQ_UNBOUND, 0);
	if (!evpl_wq)
		return -ENOMEM;
	ret = evpl_client_init();
	if (ret)
		goto destroy_wq;
	evpl_debugfs_init();

	ret = class_register(&evpl_class);
	if (ret)
		goto exit_debugfs;
	/*
	 * The device has a number of its own. The misc driver calls open() under one mutex
	 * for all of its devices, so an opener that waits for memory in its cgroup would
	 * hold up everybody who opens another of them.
	 */
	major = __register_chrdev(0, 0, 1, NAME, &evpl_fops);
	if (major < 0) {
		ret = major;
		goto unregister_class;
	}
	/* Create the node last: a program that sees it can open it. */
	device = device_create(&evpl_class, NULL, MKDEV(major, 0), NULL, NAME);
	if (IS_ERR(device)) {
		ret = PTR_ERR(device);
		goto unregister_chrdev;
	}
	evpl_log_missing();
	return 0;

unregister_chrdev:
	__unregister_chrdev(major, 0, 1, NAME);
unregister_class:
	class_unregister(&evpl_class);
exit_debugfs:
	evpl_debugfs_exit();
	evpl_client_exit();
	/*
	 * A task that opened the device by a node of its own (mknod) may have left folios
	 * behind.
	 */
	evpl_folio_exit();
destroy_wq:
	destroy_workqueue(evpl_wq);
	return ret;
}

/*
 * Each open file holds a reference on the module, and so does each registration. An open() that
 * begins from here on gets none. So no client is left, and none comes.
 */
static void __exit evpl_exit(void)
{
	device_destroy(&evpl_class, MKDEV(major, 0));
	__unregister_chrdev(major, 0, 1, NAME);
	class_unregister(&evpl_class);
	evpl_debugfs_exit();
	evpl_uring_exit();
	evpl_client_exit();
	evpl_folio_exit();
	destroy_workqueue(evpl_wq);
}

module_init(evpl_init);
module_exit(evpl_exit);

MODULE_DESCRIPTION("Pinned memory for fast I/O");
MODULE_LICENSE("GPL");
