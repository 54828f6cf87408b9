/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Differences between the kernels that this module builds for. Kbuild looks for each interface
 * in the headers and defines EVPL_HAS_*.
 */
#ifndef EVPL_COMPAT_H
#define EVPL_COMPAT_H

#include <linux/mm.h>
#include <linux/module.h>

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

#endif /* EVPL_COMPAT_H */
