// SPDX-License-Identifier: GPL-2.0-only
/*
 * Windows: the ranges of mmap offsets, and what a fault in each of them maps. A VMA lies within
 * one window. The own window, the refs windows and the guest windows for devices map ordinary
 * pages, so whatever pins memory can pin them. The other guest windows are PFN-mapped, so
 * nothing can. No fault maps a page after the unmapping that ended access to it.
 */
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/swap.h>
#include <linux/swapops.h>

#include "client.h"
#include "compat.h"
#include "evpl.h"
#include "folio.h"
#include "lease.h"
#include "refs.h"
#include "share.h"
#include "slab.h"
#include "syncpoint.h"
#include "window.h"

static struct evpl_client *vma_client(struct vm_area_struct *vma)
{
	return vma->vm_file->private_data;
}

/* Make a page table entry that isn't used yet say that its page has a memory error. */
static int own_insert_poisoned(pte_t *pte, unsigned long address, void *data)
{
	struct vm_fault *vmf = data;
	struct folio *folio = page_folio(vmf->page);
	struct page *page = folio_page(folio, linear_page_index(vmf->vma, address) - folio->index);

	if (pte_none(ptep_get(pte)))
		evpl_set_empty_pte(vmf->vma->vm_mm, address, pte,
				   swp_entry_to_pte(make_hwpoison_entry(page)));
	return 0;
}

/*
 * One fault may map a whole folio: all kernels map a folio of 2 MiB by one PMD, and newer ones
 * also map each folio by as many PTEs as it has pages. None of them looks for a page with a
 * memory error then. Return an error if there is such a page and it can't be left out.
 *
 * The core maps no folio by a PMD that is marked. It marks a folio only if it could take the
 * page away, which it can't do with ours. And it maps page by page if a PTE of the folio is in
 * use, so put an entry in the place of each bad page. The caller has locked the folio.
 */
static vm_fault_t own_leave_out_poisoned(struct vm_fault *vmf)
{
	struct folio *folio = page_folio(vmf->page);
	struct vm_area_struct *vma = vmf->vma;
	pgoff_t first = max(folio->index, vma->vm_pgoff);
	pgoff_t end = min(folio->index + folio_nr_pages(folio), vma->vm_pgoff + vma_pages(vma));
	pgoff_t pgoff;

	if (likely(!folio_test_large(folio)) || likely(!evpl_folio_is_poisoned(folio)))
		return 0;
	folio_set_has_hwpoisoned(folio);
	if (pmd_trans_huge(READ_ONCE(*vmf->pmd)))
		return 0;
	for (pgoff = first; pgoff < end; pgoff++)
		if (PageHWPoison(folio_page(folio, pgoff - folio->index)) &&
		    apply_to_page_range(vma->vm_mm,
					vma->vm_start + (pgoff - vma->vm_pgoff) * PAGE_SIZE,
					PAGE_SIZE, own_insert_poisoned, vmf))
			return VM_FAULT_OOM;
	return 0;
}

/*
 * Return the page with its folio locked. The core keeps the lock until the page is mapped. The
 * folio is locked under tree_lock: evpl_slab_remove() takes the slab out of the tree, then
 * waits for the lock of each folio. The core maps a folio of 2 MiB by one PMD if the VMA is
 * aligned and no page has a memory error. If the page itself has one, the core unmaps it
 * everywhere and maps nothing.
 */
static vm_fault_t own_fault(struct vm_fault *vmf)
{
	struct evpl_client *client = vma_client(vmf->vma);
	struct evpl_slab *slab;
	struct evpl_slab_folio *slab_folio;
	struct folio *folio;
	vm_fault_t ret;

	down_read(&client->tree_lock);
	slab = evpl_slab_find(client, vmf->pgoff);
	if (!slab || !slab->live) {
		up_read(&client->tree_lock);
		return VM_FAULT_SIGBUS;
	}
	slab_folio = evpl_slab_folio_at(slab, vmf->pgoff);
	folio = slab_folio->folio;
	/*
	 * Lock before taking the reference: a task that holds the folio lock mustn't see our
	 * reference without our mapping.
	 */
	folio_lock(folio);
	folio_get(folio);
	up_read(&client->tree_lock);
	evpl_syncpoint(EVPL_SYNCPOINT_OWN_FAULT);

	vmf->page = folio_page(folio, vmf->pgoff - folio->index);
	ret = own_leave_out_poisoned(vmf);
	if (likely(!ret))
		return VM_FAULT_LOCKED;
	folio_unlock(folio);
	folio_put(folio);
	vmf->page = NULL;
	return ret;
}

/*
 * A page of the refs windows stays until the last VMA has gone. evpl_adopt() clears it. Before that
 * it finds this VMA, or else this waits for its end.
 */
static vm_fault_t refs_fault(struct vm_fault *vmf)
{
	struct evpl_client *client = vma_client(vmf->vma);
	struct page *page;
	vm_fault_t ret = 0;

	if (down_read_killable(&client->send_sem))
		return VM_FAULT_SIGBUS;
	page = xa_load(&client->refs, vmf->pgoff - EVPL_REFS_START);
	if (!page) {
		ret = VM_FAULT_SIGBUS;
	} else if (unlikely(PageHWPoison(page))) {
		ret = VM_FAULT_HWPOISON;
	} else {
		get_page(page);
		vmf->page = page;
	}
	up_read(&client->send_sem);
	return ret;
}

/* One fault maps at most this many pages of a guest window: 2 MiB. */
#define FAULT_AROUND	(EVPL_SLAB_ALIGN >> PAGE_SHIFT)

/* Map one page for the CPU alone. The page table exists, so nothing is allocated. */
static vm_fault_t guest_insert_page(struct vm_area_struct *vma, unsigned long address,
				    struct page *page)
{
	if (unlikely(PageHWPoison(page)))
		return VM_FAULT_HWPOISON;
	return vmf_insert_pfn(vma, address, page_to_pfn(page));
}

/*
 * Map one page for devices too, under the folio lock, because folio_other_refs() counts references
 * and mappings under it. The page table exists, so nothing is allocated.
 */
static vm_fault_t guest_io_insert_page(struct vm_area_struct *vma, unsigned long address,
				       struct page *page)
{
	struct folio *folio = page_folio(page);
	int ret;

	if (unlikely(PageHWPoison(page)))
		return VM_FAULT_HWPOISON;

	folio_lock(folio);
	ret = vm_insert_page(vma, address, page);
	folio_unlock(folio);
	/* -EBUSY: a page is mapped there already. */
	return !ret || ret == -EBUSY ? VM_FAULT_NOPAGE : vmf_error(ret);
}

/* The page at @offset, in pages, of a share's buffer. */
static struct page *share_page(struct evpl_share *share, pgoff_t offset)
{
	pgoff_t pgoff = evpl_share_start(share) + offset;
	struct evpl_slab_folio *slab_folio = evpl_slab_folio_at(share->slab, pgoff);

	return folio_page(slab_folio->folio, pgoff - slab_folio->index);
}

/**
 * struct around - the walk that maps the pages around the one that was touched
 * @vma: the VMA of the fault
 * @share: the share of the buffer
 * @start: the address at which the buffer would start
 * @page: the next page to be mapped, if @left isn't 0
 * @left: how many pages of its folio there are from @page on
 */
struct around {
	struct vm_area_struct *vma;
	struct evpl_share *share;
	unsigned long start;
	struct page *page;
	unsigned long left;
};

/* Map one page of the walk, for the CPU alone. The caller holds the page table lock. */
static int guest_insert_pfn(pte_t *pte, unsigned long address, void *data)
{
	struct around *around = data;
	struct folio *folio;

	if (!around->left) {
		around->page = share_page(around->share, (address - around->start) >> PAGE_SHIFT);
		folio = page_folio(around->page);
		around->left = folio_nr_pages(folio) - folio_page_idx(folio, around->page);
	}
	/* Leave an entry that isn't empty. */
	if (pte_none(ptep_get(pte)) && likely(!PageHWPoison(around->page)))
		evpl_set_empty_pte(around->vma->vm_mm, address, pte,
				   pte_mkspecial(pfn_pte(page_to_pfn(around->page),
							 around->vma->vm_page_prot)));
	around->page++;
	around->left--;
	return 0;
}

/*
 * Map the pages of a buffer from @first up to @end, for the CPU alone. @start is the address at
 * which the buffer would start. All are mapped in one walk: with a walk for each page, the walks
 * take most of a large buffer's time.
 */
static void guest_insert_around(struct vm_fault *vmf, struct evpl_share *share,
				unsigned long start, unsigned long first, unsigned long end)
{
	struct around around = {
		.vma = vmf->vma,
		.share = share,
		.start = start,
	};

	apply_to_page_range(vmf->vma->vm_mm, first, end - first, guest_insert_pfn, &around);
}

/* The same for devices too, up to a page that can't be mapped. */
static void guest_io_insert_around(struct vm_fault *vmf, struct evpl_share *share,
				   unsigned long start, unsigned long first, unsigned long end)
{
	unsigned long address;
	struct page *page;

	for (address = first; address < end; address += PAGE_SIZE) {
		if (address == vmf->address)
			continue;
		page = share_page(share, (address - start) >> PAGE_SHIFT);
		if (guest_io_insert_page(vmf->vma, address, page) != VM_FAULT_NOPAGE)
			break;
	}
}

/**
 * struct guest_kind - how a fault maps pages of a kind of guest window
 * @insert_page: map one page
 * @insert_around: map the pages around the one that was touched; pages that are mapped already
 *	stay
 */
struct guest_kind {
	vm_fault_t (*insert_page)(struct vm_area_struct *vma, unsigned long address,
				  struct page *page);
	void (*insert_around)(struct vm_fault *vmf, struct evpl_share *share, unsigned long start,
			      unsigned long first, unsigned long end);
};

/*
 * Return the start, and set the end, of the part of a VMA that one fault may map: near the page
 * that was touched, and of the buffer that would be there.
 */
static unsigned long guest_fault_range(struct vm_fault *vmf, unsigned long *end)
{
	struct vm_area_struct *vma = vmf->vma;
	pgoff_t size = min(evpl_lease_pages_at(vmf->pgoff), FAULT_AROUND);
	pgoff_t before = min(vmf->pgoff % size, vmf->pgoff - vma->vm_pgoff);

	*end = min(vmf->address + (size - vmf->pgoff % size) * PAGE_SIZE, vma->vm_end);
	return vmf->address - before * PAGE_SIZE;
}

/*
 * A task that ends or revokes a lease marks it so with lease_sem held for write, then unmaps
 * it. So a lease that was found here is mapped before that unmapping, or not at all.
 *
 * The owner of the buffer may wait for lease_sem, so page tables are allocated before it is
 * taken. No kernel frees them during a fault, but for those that free empty page tables on
 * madvise(MADV_DONTNEED). With these, a client that calls it meanwhile may have a page table
 * allocated under lease_sem.
 */
static __always_inline vm_fault_t guest_fault_of_kind(struct vm_fault *vmf,
						      const struct guest_kind *kind)
{
	struct evpl_client *client = vma_client(vmf->vma);
	vm_fault_t ret = VM_FAULT_SIGBUS;
	struct evpl_lease *lease;
	unsigned long first, end;
	pgoff_t offset;

	if (unlikely(evpl_fault_is_marked(vmf)))
		return VM_FAULT_SIGBUS;
	first = guest_fault_range(vmf, &end);
	evpl_syncpoint(EVPL_SYNCPOINT_TABLES);
	if (apply_to_page_range(vmf->vma->vm_mm, first, end - first, NULL, NULL))
		return VM_FAULT_OOM;

	down_read(&client->lease_sem);
	lease = evpl_lease_at(client, vmf->pgoff, &offset);
	evpl_syncpoint(EVPL_SYNCPOINT_GUEST_FAULT);
	if (lease && !lease->revoked) {
		ret = kind->insert_page(vmf->vma, vmf->address, share_page(lease->share, offset));
		if (ret == VM_FAULT_NOPAGE)
			kind->insert_around(vmf, lease->share, vmf->address - offset * PAGE_SIZE,
					    first, end);
	} else if (lease && client->zeros) {
		ret = kind->insert_page(vmf->vma, vmf->address, client->zeros);
	}
	up_read(&client->lease_sem);
	return ret;
}

/*
 * The fault of guest and guest-ro, if no PMD can map what was touched. Under fault_sem, no other
 * fault of the client puts a PMD where this one needs a page table.
 */
static vm_fault_t guest_fault(struct vm_fault *vmf)
{
	static const struct guest_kind kind = {
		.insert_page = guest_insert_page,
		.insert_around = guest_insert_around,
	};
	struct evpl_client *client = vma_client(vmf->vma);
	vm_fault_t ret = VM_FAULT_NOPAGE;

	down_read(&client->fault_sem);
	if (likely(!pmd_trans_huge(READ_ONCE(*vmf->pmd))))
		ret = guest_fault_of_kind(vmf, &kind);
	up_read(&client->fault_sem);
	return ret;
}

#ifdef CONFIG_ARCH_SUPPORTS_PMD_PFNMAP
/*
 * Map the 2 MiB of a buffer from @offset on by one PMD, if they are one folio without a memory
 * error. Not if there is a page table already: it stays, and its entries are used.
 */
static vm_fault_t guest_insert_huge(struct vm_fault *vmf, struct evpl_share *share, pgoff_t offset)
{
	pmd_t pmd = READ_ONCE(*vmf->pmd);
	struct page *page = share_page(share, offset);
	struct folio *folio = page_folio(page);

	if ((!pmd_none(pmd) && !pmd_trans_huge(pmd)) || folio_order(folio) != PMD_ORDER ||
	    page != folio_page(folio, 0) || evpl_folio_is_poisoned(folio))
		return VM_FAULT_FALLBACK;
	return evpl_insert_pfn_pmd(vmf, folio_pfn(folio));
}

/*
 * The first fault of guest and guest-ro in the range of a PMD. The core marks the PMD as
 * special, so nothing can pin pages through it. If a part of the range is unmapped or protected,
 * the core unmaps all of it, and the rest is faulted in again.
 *
 * guest-io can't have PMDs. Its VMAs are VM_MIXEDMAP, and when the core splits a PMD of such a
 * VMA, it takes for granted that the PMD has no reference on its folio.
 *
 * A touch without a lease ends here. It would otherwise leave a page table behind, and no lease
 * in this place could be mapped by a PMD then.
 */
static vm_fault_t guest_huge_fault(struct vm_fault *vmf, unsigned int order)
{
	unsigned long start = vmf->address & PMD_MASK;
	pgoff_t pgoff = vmf->pgoff - ((vmf->address - start) >> PAGE_SHIFT), offset;
	struct vm_area_struct *vma = vmf->vma;
	struct evpl_client *client = vma_client(vma);
	vm_fault_t ret = VM_FAULT_FALLBACK;
	struct evpl_lease *lease;

	if (order != PMD_ORDER || arch_needs_pgtable_deposit() || start < vma->vm_start ||
	    vma->vm_end - start < PMD_SIZE || pgoff % BIT(PMD_ORDER) ||
	    evpl_lease_pages_at(pgoff) < BIT(PMD_ORDER))
		return VM_FAULT_FALLBACK;

	down_write(&client->fault_sem);
	down_read(&client->lease_sem);
	lease = evpl_lease_at(client, pgoff, &offset);
	evpl_syncpoint(EVPL_SYNCPOINT_GUEST_FAULT);
	if (lease && !lease->revoked)
		ret = guest_insert_huge(vmf, lease->share, offset);
	else if (!lease || !client->zeros)
		ret = VM_FAULT_SIGBUS;
	up_read(&client->lease_sem);
	up_write(&client->fault_sem);
	return ret;
}
#endif

/* The fault of guest-io and guest-io-ro. */
static vm_fault_t guest_io_fault(struct vm_fault *vmf)
{
	static const struct guest_kind kind = {
		.insert_page = guest_io_insert_page,
		.insert_around = guest_io_insert_around,
	};

	return guest_fault_of_kind(vmf, &kind);
}

/*
 * A task that ends a lease unmaps it from each VMA over its place, and that task may be the
 * buffer's owner. So the VMAs that a client has over guest windows are counted and bounded: an
 * mmap() beyond the bound fails, and so does a call that would split a VMA.
 *
 * Some calls can't fail, and may take the count past the bound. Then nothing is mapped or split
 * until the count has come down again. These calls are an mremap(), while both the old VMA and
 * the new one exist; splits by several processes at once; and a fork(), whose child gets as
 * many VMAs as its parent has with MADV_DOFORK. So the bound holds for each process of a
 * client, not for the client.
 */
static int guest_mapped(struct evpl_client *client)
{
	/* If this fails, guest_close() still takes the VMA off the count. */
	if (atomic_inc_return(&client->nr_guest_vmas) <= EVPL_GUEST_MAPPINGS_MAX)
		return 0;
	return -ENOMEM;
}

static int guest_may_split(struct vm_area_struct *vma, unsigned long unused)
{
	int nr = atomic_read(&vma_client(vma)->nr_guest_vmas);

	return nr < EVPL_GUEST_MAPPINGS_MAX ? 0 : -ENOMEM;
}

static void guest_open(struct vm_area_struct *vma)
{
	atomic_inc(&vma_client(vma)->nr_guest_vmas);
}

static void guest_close(struct vm_area_struct *vma)
{
	atomic_dec(&vma_client(vma)->nr_guest_vmas);
}

/*
 * fork(2) copies the page tables of a VMA that a child may inherit (MADV_DOFORK), without the
 * folio lock. It doesn't copy them with VM_WIPEONFORK: the child's own faults map its pages.
 */
static void guest_io_open(struct vm_area_struct *vma)
{
	guest_open(vma);
	if (vma->vm_mm != current->mm)
		vm_flags_mod(vma, VM_WIPEONFORK, 0);
}

/*
 * A mapping of offset 0 before the client is set up comes from a program that knows nothing of
 * evpl. Give the client a slab that fills the mapping. If another task sets the client up
 * meanwhile, the mapping is one like any other.
 */
static int own_mapped(struct evpl_client *client, unsigned long nr_pages)
{
	struct evpl_slab *slab;
	int ret;

	if (evpl_client_is_set_up(client))
		return 0;
	nr_pages = round_up(nr_pages, EVPL_SLAB_ALIGN >> PAGE_SHIFT);
	slab = evpl_slab_create(client, nr_pages, EVPL_NODE_ANY, 0);
	if (IS_ERR(slab))
		return PTR_ERR(slab);

	ret = evpl_client_set_up(client, ilog2(EVPL_BUFFER_SIZE_DEFAULT), 0, slab);
	if (ret)
		evpl_slab_orphan(slab);
	return ret == -EBUSY ? 0 : ret;
}

/* A new mapping exists now. If this fails, it is unmapped again. */
static int window_mapped(unsigned long start, unsigned long end, pgoff_t pgoff,
			 const struct file *file, void **unused)
{
	struct evpl_client *client = file->private_data;

	if (pgoff < EVPL_OWN_PAGES)
		return own_mapped(client, (end - start) >> PAGE_SHIFT);
	return pgoff < EVPL_GUEST_START ? 0 : guest_mapped(client);
}

static const struct vm_operations_struct own_vm_ops = {
	EVPL_VM_OPS_MAPPED(window_mapped)
	.fault = own_fault,
};

static const struct vm_operations_struct refs_vm_ops = {
	.fault = refs_fault,
};

static const struct vm_operations_struct guest_vm_ops = {
	EVPL_VM_OPS_MAPPED(window_mapped)
	.open = guest_open,
	.close = guest_close,
	.may_split = guest_may_split,
	.fault = guest_fault,
#ifdef CONFIG_ARCH_SUPPORTS_PMD_PFNMAP
	.huge_fault = guest_huge_fault,
#endif
};

static const struct vm_operations_struct guest_io_vm_ops = {
	EVPL_VM_OPS_MAPPED(window_mapped)
	.open = guest_io_open,
	.close = guest_close,
	.may_split = guest_may_split,
	.fault = guest_io_fault,
};

static bool desc_within(const struct evpl_vma_desc *desc, pgoff_t start, unsigned long nr_pages)
{
	unsigned long nr = (desc->end - desc->start) >> PAGE_SHIFT;

	return desc->pgoff >= start && nr <= nr_pages && desc->pgoff - start <= nr_pages - nr;
}

/*
 * Without VM_MAYWRITE, no write fault makes a page of guest-ro writable. VM_IO makes
 * the kernel refuse to pin pages of the VMA.
 */
static int guest_mmap_prepare(struct evpl_vma_desc *desc, enum evpl_lease_kind kind)
{
	bool readonly = kind == EVPL_LEASE_RO || kind == EVPL_LEASE_IO_RO;

	if (readonly && evpl_desc_test(desc, EVPL_VMA(WRITE)))
		return -EACCES;
	if (kind == EVPL_LEASE_RW || kind == EVPL_LEASE_RO) {
		evpl_desc_set(desc, EVPL_VMA(PFNMAP));
		evpl_desc_set(desc, EVPL_VMA(IO));
		desc->vm_ops = &guest_vm_ops;
	} else {
		evpl_desc_set(desc, EVPL_VMA(MIXEDMAP));
		desc->vm_ops = &guest_io_vm_ops;
	}
	evpl_desc_set(desc, EVPL_VMA(DONTCOPY));
	if (readonly)
		evpl_desc_clear(desc, EVPL_VMA(MAYWRITE));
	return 0;
}

/* The windows other than own. The client's buffer size gives some of their sizes. */
static int refs_or_guest_mmap_prepare(struct evpl_client *client, struct evpl_vma_desc *desc)
{
	unsigned int shift = evpl_client_buffer_shift(client);
	const struct {
		pgoff_t start;
		unsigned long nr_pages;
	} refs[] = {
		{ EVPL_REFS_ENTRIES, evpl_refs_pages(shift) },
		{ EVPL_REFS_LEASES, EVPL_LEASES_PAGES },
		{ EVPL_REFS_RETURNED, evpl_returned_pages(shift) },
		{ EVPL_REFS_REVOKED, EVPL_REVOKED_PAGES },
		{ EVPL_REFS_HEADER, 1 },
	};
	enum evpl_lease_kind kind;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(refs); i++) {
		if (!desc_within(desc, EVPL_REFS_START + refs[i].start, refs[i].nr_pages))
			continue;
		desc->vm_ops = &refs_vm_ops;
		evpl_desc_set(desc, EVPL_VMA(DONTCOPY));
		return 0;
	}

	for (kind = 0; kind < EVPL_LEASE_KINDS; kind++)
		if (desc_within(desc, EVPL_GUEST_START + kind * EVPL_GUEST_PAGES,
				EVPL_GUEST_PAGES))
			return guest_mmap_prepare(desc, kind);
	return -ENXIO;
}

/**
 * evpl_mmap_prepare() - check a mapping of a client's windows, and choose its vm_ops
 * @desc: the mapping
 *
 * The mapping may still fail afterwards, so this changes nothing else: window_mapped() does.
 *
 * Return: 0 or an error.
 */
int evpl_mmap_prepare(struct evpl_vma_desc *desc)
{
	struct evpl_client *client = desc->file->private_data;
	bool is_own = desc_within(desc, 0, EVPL_OWN_PAGES);
	int ret;

	/* A file that was opened read-only has VM_MAYSHARE without VM_SHARED. */
	if (!evpl_desc_test(desc, EVPL_VMA(MAYSHARE)))
		return -EINVAL;
	if (evpl_desc_test(desc, EVPL_VMA(EXEC)))
		return -EPERM;
	if (!evpl_client_is_set_up(client) && (desc->pgoff || !is_own))
		return -ENXIO;

	if (is_own) {
		desc->vm_ops = &own_vm_ops;
	} else {
		ret = refs_or_guest_mmap_prepare(client, desc);
		if (ret)
			return ret;
	}
	evpl_desc_set(desc, EVPL_VMA(DONTEXPAND));
	evpl_desc_set(desc, EVPL_VMA(DONTDUMP));
	evpl_desc_clear(desc, EVPL_VMA(MAYEXEC));
	return 0;
}

#ifndef EVPL_HAS_VM_OPS_MAPPED
int evpl_mmap(struct file *file, struct vm_area_struct *vma)
{
	return evpl_mmap_by_desc(file, vma, evpl_mmap_prepare, window_mapped);
}
#endif
