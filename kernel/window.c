// SPDX-License-Identifier: GPL-2.0-only
/*
 * Windows: the ranges of mmap offsets, and what a fault in each of them finds.
 * A VMA lies within one window. Its pages are ordinary ones, so that whatever
 * pins memory can pin them, and no fault maps a page after the unmapping that
 * ended it.
 */
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/pagemap.h>

#include "compat.h"
#include "evpl.h"

/*
 * The page is returned with its folio locked, and the core keeps it so until
 * the page is mapped. The folio is locked under tree_lock: evpl_slab_remove()
 * takes the slab out of the tree, then waits for the lock of each folio. The core
 * maps a folio of 2 MiB by one PMD where the VMA is aligned. It can't unmap a
 * poisoned page by folio->mapping, which is NULL here, so it gets none.
 */
static vm_fault_t own_fault(struct vm_fault *vmf)
{
	struct evpl_client *client = vmf->vma->vm_file->private_data;
	struct evpl_slab *slab;
	struct folio *folio;
	struct page *page;

	down_read(&client->tree_lock);
	slab = evpl_slab_find(client, vmf->pgoff);
	if (!slab || !slab->live) {
		up_read(&client->tree_lock);
		return VM_FAULT_SIGBUS;
	}
	folio = evpl_slab_folio(slab, vmf->pgoff);
	folio_get(folio);
	folio_lock(folio);
	up_read(&client->tree_lock);
	evpl_stop(EVPL_STOP_OWN_FAULT);

	page = folio_page(folio, vmf->pgoff - folio->index);
	if (unlikely(PageHWPoison(page))) {
		folio_unlock(folio);
		folio_put(folio);
		return VM_FAULT_HWPOISON;
	}
	vmf->page = page;
	return VM_FAULT_LOCKED;
}

static const struct vm_operations_struct own_vm_ops = {
	.fault = own_fault,
};

/* A page of the refs window stays until its last VMA has gone. */
static vm_fault_t refs_fault(struct vm_fault *vmf)
{
	struct evpl_client *client = vmf->vma->vm_file->private_data;
	struct page *page;

	page = xa_load(&client->refs, vmf->pgoff - EVPL_REFS_START);
	if (!page)
		return VM_FAULT_SIGBUS;
	if (unlikely(PageHWPoison(page)))
		return VM_FAULT_HWPOISON;

	get_page(page);
	vmf->page = page;
	return 0;
}

static const struct vm_operations_struct refs_vm_ops = {
	.fault = refs_fault,
};

static bool vma_within(struct vm_area_struct *vma, pgoff_t start,
		       unsigned long nr_pages)
{
	return vma->vm_pgoff >= start && vma_pages(vma) <= nr_pages &&
	       vma->vm_pgoff - start <= nr_pages - vma_pages(vma);
}

/*
 * A mapping of offset 0 comes before the client was set up: from a program that
 * knows nothing of evpl. Give it a slab that fills the mapping. If somebody else
 * sets the client up meanwhile, the mapping is one like any other.
 */
static int set_up_by_mmap(struct evpl_client *client, unsigned long nr_pages)
{
	struct evpl_slab *slab;
	int ret;

	nr_pages = round_up(nr_pages, EVPL_SLAB_ALIGN >> PAGE_SHIFT);
	slab = evpl_slab_create(client, nr_pages, EVPL_NODE_ANY, 0);
	if (IS_ERR(slab))
		return PTR_ERR(slab);

	ret = evpl_client_set_up(client, ilog2(EVPL_BUFFER_SIZE_DEFAULT), slab);
	if (ret)
		evpl_slab_destroy(client, slab);
	return ret == -EBUSY ? 0 : ret;
}

int evpl_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct evpl_client *client = file->private_data;
	unsigned long set = VM_DONTEXPAND | VM_DONTDUMP;
	int ret;

	/* VM_SHARED is missing where the file was opened read-only. */
	if (!(vma->vm_flags & VM_MAYSHARE))
		return -EINVAL;
	if (vma->vm_flags & VM_EXEC)
		return -EPERM;

	if (!evpl_client_shift(client)) {
		if (vma->vm_pgoff || !vma_within(vma, 0, EVPL_OWN_PAGES))
			return -ENXIO;
		ret = set_up_by_mmap(client, vma_pages(vma));
		if (ret)
			return ret;
	}

	if (vma_within(vma, 0, EVPL_OWN_PAGES)) {
		vma->vm_ops = &own_vm_ops;
	} else if (vma_within(vma, EVPL_REFS_START,
			      evpl_refs_pages(evpl_client_shift(client)))) {
		vma->vm_ops = &refs_vm_ops;
		set |= VM_DONTCOPY;
	} else {
		return -ENXIO;
	}
	vm_flags_mod(vma, set, VM_MAYEXEC);
	return 0;
}
