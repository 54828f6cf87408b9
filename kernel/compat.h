/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What differs between the kernels that this module builds for. Kbuild looks
 * for each interface in the headers and defines EVPL_HAS_*.
 */
#ifndef EVPL_COMPAT_H
#define EVPL_COMPAT_H

#include <linux/mm.h>

#ifndef EVPL_HAS_VM_FLAGS_MOD
static inline void vm_flags_mod(struct vm_area_struct *vma,
				unsigned long set, unsigned long clear)
{
	vma->vm_flags = (vma->vm_flags | set) & ~clear;
}
#endif

/*
 * How many page tables have a folio mapped, a PMD counting once. It is at most what it
 * was when the call began: PMDs are counted first, and each is in the count of every
 * page as long as it is in theirs. The folio is locked, so none is added.
 */
static inline int evpl_folio_mapcount(struct folio *folio)
{
#ifdef EVPL_HAS_LARGE_MAPCOUNT
	return folio_mapcount(folio);
#else
	unsigned long nr = folio_nr_pages(folio), i;
	int pmds = nr > 1 ? folio_entire_mapcount(folio) : 0, mapped = 0;

	/* See above. */
	smp_rmb();
	for (i = 0; i < nr; i++)
		mapped += page_mapcount(folio_page(folio, i));
	return mapped - pmds * (int)(nr - 1);
#endif
}

#endif /* EVPL_COMPAT_H */
