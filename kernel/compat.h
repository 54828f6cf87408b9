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

#endif /* EVPL_COMPAT_H */
