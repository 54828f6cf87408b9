/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_LEASE_H
#define EVPLMEM_LEASE_H

/*
 * The leases of a pool: buffers of other processes that it has received.
 *
 * A lease whose word is zero is idle. The library releases idle leases to the kernel in
 * batches; it releases a lease at once if the buffer's owner waits (EVPL_WORD_WANTED). A queued
 * lease that gets a reference stays queued: the kernel rechecks the word, and passes it by.
 */

#include "sharing.h"

struct entry *lease_of_record(struct evpl_pool *pool, const struct evpl_record *record);
bool leases_are_idle(struct evpl_pool *pool);
void lease_put(struct entry *lease, void *site);
void leases_flush(struct evpl_pool *pool);
void leases_drain(struct evpl_pool *pool);

#endif /* EVPLMEM_LEASE_H */
