// SPDX-License-Identifier: GPL-2.0-only
/*
 * evpl: pinned memory for fast I/O, handed out through /dev/evpl.
 */
#include <linux/init.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/workqueue.h>

#include "evpl.h"

/* What a client leaves to be looked at holds up nobody else's work. */
struct workqueue_struct *evpl_wq;

static struct miscdevice evpl_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "evpl",
	.fops = &evpl_fops,
	.mode = 0660,
};

static int __init evpl_init(void)
{
	int ret;

	evpl_account_init();
	evpl_wq = alloc_workqueue("evpl", WQ_UNBOUND, 0);
	if (!evpl_wq)
		return -ENOMEM;
	ret = evpl_client_init();
	if (ret)
		goto destroy_wq;
	evpl_debugfs_init();

	ret = misc_register(&evpl_device);
	if (ret)
		goto exit_debugfs;
	return 0;

exit_debugfs:
	evpl_debugfs_exit();
	evpl_client_exit();
destroy_wq:
	destroy_workqueue(evpl_wq);
	return ret;
}

static void __exit evpl_exit(void)
{
	misc_deregister(&evpl_device);
	evpl_debugfs_exit();
	evpl_client_exit();
	evpl_folio_exit();
	destroy_workqueue(evpl_wq);
}

module_init(evpl_init);
module_exit(evpl_exit);

MODULE_DESCRIPTION("Pinned memory for fast I/O");
MODULE_LICENSE("GPL");
