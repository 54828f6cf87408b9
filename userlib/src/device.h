/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_DEVICE_H
#define EVPLMEM_DEVICE_H

#include "evplmem.h"
#include "slab_ids.h"

struct evpl_pool;
struct slab;

/**
 * struct evpl_device - a device that is attached to a pool
 * @pool: the pool
 * @ops: its callbacks
 * @arg: the callbacks' first argument
 * @slot: its index in the pool's table of devices, and in each slab's table of registrations
 * @calls: how many callbacks run; under the pool's lock
 * @detaching: no more slabs are registered with it; under the pool's lock
 */
struct evpl_device {
	struct evpl_pool *pool;
	struct evpl_device_ops ops;
	void *arg;
	unsigned int slot;
	unsigned int calls;
	bool detaching;
};

bool devices_want_slabs(struct evpl_pool *pool);
void devices_register(struct slab *slab);
void devices_unregister(struct slab *slab);
void devices_set_baseline(struct slab *slab);

#endif /* EVPLMEM_DEVICE_H */
