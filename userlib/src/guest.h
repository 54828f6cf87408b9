/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_GUEST_H
#define EVPLMEM_GUEST_H

/*
 * The registrations of leased buffers with devices. A buffer of another process that
 * devices may have is registered when a device first asks for its cookie, by devices
 * that take such buffers, as a whole.
 *
 * A registration ends before its lease. So all registrations of a lease together have
 * one reference of it: nobody, here or in the kernel, ends a lease that has one. Who
 * takes the last reference but that one ends them. A number that is used again finds
 * none.
 */

#include "slab.h"

int guest_cookie(struct evpl_device *device, const struct evpl_iovec *iovec, uint64_t *r_cookie);
bool guest_end(struct entry *lease);
void guests_detach(struct evpl_device *device);
void guests_free(struct evpl_pool *pool);

#endif /* EVPLMEM_GUEST_H */
