/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_TRIM_H
#define EVPLMEM_TRIM_H

#include "context.h"

uint64_t pool_trim(struct evpl_pool *pool, struct depot *spared);
void pool_gather(struct evpl_pool *pool);
void slab_scatter(struct slab *slab);

#endif /* EVPLMEM_TRIM_H */
