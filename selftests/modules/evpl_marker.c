// SPDX-License-Identifier: GPL-2.0-only
/*
 * A module for tests: puts a marker into the page table of the calling process, as
 * userfaultfd(2) does for write protection where there is no page. A kernel that lets
 * userfaultfd(2) protect mappings of drivers lets any process do that.
 *
 * Writing an address to /sys/kernel/debug/evpl-marker/plant puts a marker there.
 */
#include <linux/debugfs.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/swap.h>
#include <linux/swapops.h>

static struct dentry *root;

static int plant_entry(pte_t *pte, unsigned long address, void *unused)
{
	if (!pte_none(ptep_get(pte)))
		return -EBUSY;
	set_pte_at(current->mm, address, pte, make_pte_marker(PTE_MARKER_UFFD_WP));
	return 0;
}

static int plant(void *unused, u64 address)
{
	struct mm_struct *mm = current->mm;
	struct vm_area_struct *vma;
	int ret = -EFAULT;

	mmap_write_lock(mm);
	vma = vma_lookup(mm, address);
	if (vma) {
		/* vm_flags_set() would do, but older kernels don't have it. */
		*(unsigned long *)&vma->vm_flags |= VM_UFFD_WP;
		ret = apply_to_page_range(mm, address & PAGE_MASK, PAGE_SIZE, plant_entry, NULL);
	}
	mmap_write_unlock(mm);
	return ret;
}
DEFINE_DEBUGFS_ATTRIBUTE(plant_fops, NULL, plant, "%llu\n");

static int __init marker_init(void)
{
	root = debugfs_create_dir("evpl-marker", NULL);
	debugfs_create_file_unsafe("plant", 0200, root, NULL, &plant_fops);
	return 0;
}

static void __exit marker_exit(void)
{
	debugfs_remove(root);
}

module_init(marker_init);
module_exit(marker_exit);

MODULE_DESCRIPTION("Plants page table markers for the tests of /dev/evpl");
MODULE_LICENSE("GPL");
