/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef EVPL_WINDOW_H
#define EVPL_WINDOW_H

#include <linux/bits.h>
#include <linux/mm.h>

#include "compat.h"

/* The windows of every client: ranges of mmap offsets, in pages. */
#define EVPL_OWN_SIZE	BIT_ULL(43)
#define EVPL_OWN_PAGES	(EVPL_OWN_SIZE >> PAGE_SHIFT)
#define EVPL_REFS_START	EVPL_OWN_PAGES
/* Four guest windows, one after the other: enum evpl_lease_kind. */
#define EVPL_GUEST_START	(2 * EVPL_OWN_PAGES)
#define EVPL_GUEST_PAGES	(EVPL_OWN_PAGES / 2)

int evpl_mmap_prepare(struct evpl_vma_desc *desc);
#ifndef EVPL_HAS_VM_OPS_MAPPED
int evpl_mmap(struct file *file, struct vm_area_struct *vma);
#endif

/*
 * Whether the PTE at a fault is a marker: it maps nothing, but by it the core remembers
 * something. Functions that insert a page or a PFN leave a marker as it is, so the fault would
 * repeat for ever.
 */
static inline bool evpl_fault_is_marked(const struct vm_fault *vmf)
{
	return vmf->flags & FAULT_FLAG_ORIG_PTE_VALID && !pte_none(vmf->orig_pte);
}

#endif /* EVPL_WINDOW_H */
