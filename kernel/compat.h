/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Differences between the kernels that this module builds for. Kbuild looks for each interface
 * in the headers and defines EVPL_HAS_*.
 */
#ifndef EVPL_COMPAT_H
#define EVPL_COMPAT_H

#include <linux/mm.h>
#include <linux/module.h>
#ifdef EVPL_HAS_PFN_T
#include <linux/pfn_t.h>
#endif

#ifndef EVPL_HAS_VM_FLAGS_MOD
static inline void vm_flags_mod(struct vm_area_struct *vma,
				unsigned long set, unsigned long clear)
{
	vma->vm_flags = (vma->vm_flags | set) & ~clear;
}
#endif

/*
 * Count the page tables that map a folio. A PMD counts once. The result is never more than the
 * true count when the call began. No mapping is added, because the folio is locked. If a PMD's
 * mapping is removed during the call, the pages' counts may lack it while the PMDs' count,
 * which is read first, has it. Then the result is too low.
 */
static inline int evpl_folio_mapcount(struct folio *folio)
{
#ifdef EVPL_HAS_LARGE_MAPCOUNT
	return folio_mapcount(folio);
#else
	unsigned long nr = folio_nr_pages(folio), i;
	int pmds = nr > 1 ? folio_entire_mapcount(folio) : 0, mapped = 0;

	/* The PMDs' count first: see above. */
	smp_rmb();
	for (i = 0; i < nr; i++)
		mapped += page_mapcount(folio_page(folio, i));
	return mapped - pmds * (int)(nr - 1);
#endif
}

#ifdef CONFIG_ARCH_SUPPORTS_PMD_PFNMAP
/* Map page frames by a PMD that is marked as special. Some kernels have a type for their number. */
static inline vm_fault_t evpl_insert_pfn_pmd(struct vm_fault *vmf, unsigned long pfn)
{
	bool write = vmf->flags & FAULT_FLAG_WRITE;

#ifdef EVPL_HAS_PFN_T
	return vmf_insert_pfn_pmd(vmf, pfn_to_pfn_t(pfn), write);
#else
	return vmf_insert_pfn_pmd(vmf, pfn, write);
#endif
}
#endif

/*
 * Whether importers that use a dma-buf can be told to let go of it for good. If not, none of them
 * can. (Older kernels tell importers too, but only that they have to map a dma-buf again.)
 */
#ifdef EVPL_HAS_DMA_BUF_REVOCABLE
#define EVPL_EXPORTS_REVOCABLE	true
#else
#define EVPL_EXPORTS_REVOCABLE	false
struct dma_buf;
struct dma_buf_attachment;

static inline bool dma_buf_attach_revocable(struct dma_buf_attachment *attachment)
{
	return false;
}

static inline void dma_buf_invalidate_mappings(struct dma_buf *dmabuf)
{
}
#endif

/* Namespaces of symbols are identifiers in older kernels, and strings in newer ones. */
#ifdef EVPL_HAS_NS_IDENTIFIERS
#define EVPL_IMPORT_NS(ns)	MODULE_IMPORT_NS(ns)
#else
#define EVPL_IMPORT_NS(ns)	MODULE_IMPORT_NS(#ns)
#endif

/* A class's devnode() doesn't change the device. Newer kernels have a const there. */
#ifdef EVPL_HAS_CONST_DEVNODE
#define EVPL_DEVNODE_CONST	const
#else
#define EVPL_DEVNODE_CONST
#endif

/*
 * Newer kernels have a file describe a mapping before it exists, by ->mmap_prepare(), and make
 * state for it afterwards, by vm_ops->mapped(). Older ones do both by ->mmap(). Here they get
 * the description, its flags, and an ->mmap() that calls the two functions. Some kernels between
 * have a part of that, so the names here are evpl's own.
 */
#ifdef EVPL_HAS_VM_OPS_MAPPED
#define evpl_vma_desc			vm_area_desc
#define EVPL_VM_OPS_MAPPED(function)	.mapped = function,
#define EVPL_VMA(flag)			VMA_##flag##_BIT

#define evpl_desc_test(desc, flag)	vma_desc_test(desc, flag)
#define evpl_desc_set(desc, flag)	vma_desc_set_flags(desc, flag)
#define evpl_desc_clear(desc, flag)	vma_desc_clear_flags(desc, flag)
#else
#define EVPL_VM_OPS_MAPPED(...)
#define EVPL_VMA(flag)			VM_##flag

struct evpl_vma_desc {
	struct file *file;
	unsigned long start;
	unsigned long end;
	pgoff_t pgoff;
	vm_flags_t flags;
	const struct vm_operations_struct *vm_ops;
};

#define evpl_desc_test(desc, flag)	((desc)->flags & (flag))
#define evpl_desc_set(desc, flag)	((desc)->flags |= (flag))
#define evpl_desc_clear(desc, flag)	((desc)->flags &= ~(flag))

static inline int evpl_mmap_by_desc(struct file *file, struct vm_area_struct *vma,
				    int (*prepare)(struct evpl_vma_desc *desc),
				    int (*mapped)(unsigned long start, unsigned long end,
						  pgoff_t pgoff, const struct file *file,
						  void **private))
{
	struct evpl_vma_desc desc = {
		.file = file,
		.start = vma->vm_start,
		.end = vma->vm_end,
		.pgoff = vma->vm_pgoff,
		.flags = vma->vm_flags,
	};
	int ret = prepare(&desc);

	if (ret)
		return ret;
	vm_flags_mod(vma, desc.flags & ~vma->vm_flags, vma->vm_flags & ~desc.flags);
	vma->vm_ops = desc.vm_ops;
	ret = mapped(vma->vm_start, vma->vm_end, vma->vm_pgoff, file, NULL);
	/* Newer kernels unmap the VMA then, which calls this. */
	if (ret && vma->vm_ops->close)
		vma->vm_ops->close(vma);
	return ret;
}
#endif

/*
 * set_pte_at() for an entry that is empty, and a new one that is special or not present. On arm64,
 * set_pte_at() also compares both entries, and sets the memory tags of ordinary pages, by functions
 * that aren't exported. These entries need neither.
 */
static inline void evpl_set_empty_pte(struct mm_struct *mm, unsigned long address, pte_t *ptep,
				      pte_t pte)
{
#if defined(CONFIG_ARM64) && !defined(CONFIG_PAGE_TABLE_CHECK)
	set_pte(ptep, pte);
#else
	set_pte_at(mm, address, ptep, pte);
#endif
}

#endif /* EVPL_COMPAT_H */
