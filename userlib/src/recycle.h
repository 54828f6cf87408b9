/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_RECYCLE_H
#define EVPLMEM_RECYCLE_H

#include "pool.h"

void recycle(struct entry *entry);
void recycle_quietly(struct entry *entry);
void depot_push(struct depot *depot, struct entry *first, struct entry *last, uint32_t n);

void pool_wait(struct evpl_pool *pool);
void pool_notify(struct evpl_pool *pool);
void pool_wake(struct evpl_pool *pool);
void pool_drain_notifiers(struct evpl_pool *pool);

#endif /* EVPLMEM_RECYCLE_H */
