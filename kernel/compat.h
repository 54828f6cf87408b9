/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What differs between the kernels that this module builds for. Kbuild looks
 * for each interface in the headers and defines EVPL_HAS_*.
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
 * How many page tables map a folio, a PMD counting once. It is at most what it was when
 * the call began. None is added, as the folio is locked. One that goes is missing from
 * the pages' counts, which have it first, before it is missing from the PMDs' count,
 * which is read first.
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

/* Namespaces of symbols are identifiers in older kernels, strings in newer ones. */
#ifdef EVPL_HAS_NS_IDENTIFIERS
#define EVPL_IMPORT_NS(ns)	MODULE_IMPORT_NS(ns)
#else
#define EVPL_IMPORT_NS(ns)	MODULE_IMPORT_NS(#ns)
#endif

/* A class's devnode() looks at the device alone; newer kernels say so by const. */
#ifdef EVPL_HAS_CONST_DEVNODE
#define EVPL_DEVNODE_CONST	const
#else
#define EVPL_DEVNODE_CONST
#endif

#endif /* EVPL_COMPAT_H */
