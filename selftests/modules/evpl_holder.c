// SPDX-License-Identifier: GPL-2.0-only
/*
 * A module for tests: takes references on pages by their numbers, as KVM before Linux
 * 6.13 does where a virtual machine's memory is PFN-mapped. It can hold only a page that
 * has a refcount of its own: the first page of a folio.
 *
 * Writing a page frame number to /sys/kernel/debug/evpl-holder/hold takes a reference.
 * Writing a number to .../release drops all references, and so does unloading the module.
 */
#include <linux/debugfs.h>
#include <linux/memory_hotplug.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>

#define HELD_MAX	16

/* Guards @held and @nr_held. */
static DEFINE_MUTEX(held_mutex);
static struct page *held[HELD_MAX];
static unsigned int nr_held;

static struct dentry *root;

static int hold(void *unused, u64 pfn)
{
	struct page *page = pfn_to_online_page(pfn);
	int ret = 0;

	if (!page)
		return -ENXIO;
	mutex_lock(&held_mutex);
	if (nr_held == HELD_MAX)
		ret = -ENOSPC;
	else if (!get_page_unless_zero(page))
		ret = -EBUSY;
	else
		held[nr_held++] = page;
	mutex_unlock(&held_mutex);
	return ret;
}
DEFINE_DEBUGFS_ATTRIBUTE(hold_fops, NULL, hold, "%llu\n");

static int release(void *unused, u64 unused_value)
{
	mutex_lock(&held_mutex);
	while (nr_held)
		put_page(held[--nr_held]);
	mutex_unlock(&held_mutex);
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(release_fops, NULL, release, "%llu\n");

static int __init holder_init(void)
{
	root = debugfs_create_dir("evpl-holder", NULL);
	debugfs_create_file_unsafe("hold", 0200, root, NULL, &hold_fops);
	debugfs_create_file_unsafe("release", 0200, root, NULL, &release_fops);
	return 0;
}

static void __exit holder_exit(void)
{
	debugfs_remove(root);
	release(NULL, 0);
}

module_init(holder_init);
module_exit(holder_exit);

MODULE_DESCRIPTION("Holds pages for the tests of /dev/evpl");
MODULE_LICENSE("GPL");
