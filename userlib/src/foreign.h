/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_FOREIGN_H
#define EVPLMEM_FOREIGN_H

/*
 * Memory that is no pool's, in an iovec (evpl_iovec_wrap()). The library allocates an entry for
 * it, and frees the entry with the last reference. The entry has neither @slab nor @home, which
 * is at the place of a lease's @pool: that is how functions tell that the memory belongs to no
 * pool. It has no @owner either, so inlines leave its references to the library.
 */

#include "lease.h"

static inline bool entry_is_foreign(const struct entry *entry)
{
	return !entry->slab && !entry_lease(entry)->pool;
}

static inline bool iovec_is_foreign(const struct evpl_iovec *iovec)
{
	return iovec->__private2 && entry_is_foreign(iovec_entry(iovec));
}

void foreign_put(struct entry *entry, void *site);

#endif /* EVPLMEM_FOREIGN_H */
