/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_LEASE_REG_H
#define EVPLMEM_LEASE_REG_H

/*
 * The registrations of leased buffers with devices. A leased buffer that devices may have is
 * registered as a whole. That happens when its cookie for a device is first asked for, if the
 * device takes leased buffers (EVPL_DEVICE_LEASES).
 *
 * A registration must end before its lease does. So all registrations of a lease together have
 * one reference on it, and neither the library nor the kernel ends a lease that has a
 * reference. The thread that drops the last reference but that one ends the registrations. So
 * a lease's number has none left when the kernel gives it to another lease.
 */

#include "lease.h"
#include "slab.h"

int lease_reg_cookie(struct evpl_device *device, const struct evpl_iovec *iovec,
		     uint64_t *r_cookie);
bool lease_regs_end(struct lease *lease);
void lease_regs_detach(struct evpl_device *device);
void lease_regs_free(struct evpl_pool *pool);

#endif /* EVPLMEM_LEASE_REG_H */
