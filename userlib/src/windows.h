/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_WINDOWS_H
#define EVPLMEM_WINDOWS_H

/*
 * The windows that a pool of the module maps to exchange buffers with other processes
 * (linux/evpl.h, DOC: /dev/evpl): the four guest windows, in which the memory of leases is, the
 * leases' entries and the returned bitmap. They are mapped with the pool's first channel or dma-buf,
 * or when the pool is adopted and others have a part of its buffers. They stay until the pool is
 * closed.
 */

#include "sharing.h"

int windows_map(struct evpl_pool *pool);
void windows_unmap(struct evpl_pool *pool);
void *windows_address(struct evpl_pool *pool, uint64_t offset);
uint64_t windows_offset(struct evpl_pool *pool, const void *data);
bool windows_is_io(struct evpl_pool *pool, uint64_t offset);

#endif /* EVPLMEM_WINDOWS_H */
