/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_FOREIGN_H
#define EVPLMEM_FOREIGN_H

/*
 * Memory that is no pool's, in an iovec. Its entry is made for it, and freed with the last
 * reference. As it has neither a slab nor a pool, it is of no pool wherever that is asked;
 * and as it has no owner, inlines leave it to the library, and don't know of it.
 */

#include "entry.h"

static inline bool entry_is_foreign(const struct entry *entry)
{
	return !entry->slab && !entry->pool;
}

static inline bool iovec_is_foreign(const struct evpl_iovec *iovec)
{
	return iovec->__private2 && entry_is_foreign(iovec_entry(iovec));
}

void foreign_put(struct entry *entry, void *site);

#endif /* EVPLMEM_FOREIGN_H */
