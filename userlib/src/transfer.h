/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_TRANSFER_H
#define EVPLMEM_TRANSFER_H

/*
 * Transferring the references of iovecs to the kernel: into a channel, or into a dma-buf.
 *
 * transfer_offset() says where the kernel finds an iovec's bytes. transfer_prepare() comes before
 * the system call, and transfer_finish() after it.
 */

#include "pool.h"

int transfer_offset(struct evpl_pool *pool, const struct evpl_iovec *iovec, uint64_t *offset);
void transfer_prepare(struct evpl_pool *pool, const struct evpl_iovec *iovec, uint64_t offset,
		      bool may_hold);
void transfer_finish(struct evpl_pool *pool, const struct evpl_iovec *iovec, uint64_t offset,
		     bool sent);

#endif /* EVPLMEM_TRANSFER_H */
