// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Devices, and the registrations of slabs with them.
 *
 * A registration changes its state (enum reg_state) under the pool's lock. Callbacks run
 * without the lock. The thread that sets REG_BUSY runs the callback, and then sets the next
 * state. So an attach, a growing thread and a trim may meet at one slab, and each device is
 * still told once. Only an attach and a detach wait for a callback of another thread, and only
 * for those of their own device.
 */
#include <errno.h>
#include <stdlib.h>

#include "bias.h"
#include "cancel.h"
#include "config.h"
#include "lease_reg.h"

static struct reg *device_reg(struct evpl_device *device, struct slab *slab)
{
	return &slab->regs[device->slot];
}

/*
 * The references that this process's devices hold on a slab are the baseline of the kernel's check
 * (linux/evpl.h, DOC: quarantine). By the baseline the kernel tells them from the references of
 * other processes' devices. It can count them only on folios of which nothing is in use.
 *
 * A baseline that is too low keeps a buffer in quarantine for a while. One that is too high would
 * let a buffer through that another process's device still holds. So clear_baseline() sets it to 0
 * before a device lets go of the slab, and raise_baseline() doesn't raise it until the device has
 * let go. Both are called under the pool's lock, so no raise is under way when the baseline is
 * cleared. A slab that is SLAB_DYING isn't left out: the kernel may refuse to free it, and then it
 * is used again.
 *
 * A slab's baseline is stale until it counts all of these references. It is raised when a device
 * has registered the slab. If that couldn't be done for all of the slab, devices_set_baseline()
 * raises it when a buffer of the slab is next sent for devices.
 */
static void clear_baseline(struct slab *slab)
{
	struct backing *backing = &slab->pool->backing;

	if (!backing->ops->slab_baseline)
		return;
	backing->ops->slab_baseline(backing, &slab->extent, EVPL_BASELINE_ZERO);
	slab->baseline_stale = true;
}

/*
 * Whether a device may be about to drop references on the slab. A callback that registers the slab
 * may fail, and then it drops those that it has taken.
 */
static bool references_may_go(struct slab *slab)
{
	unsigned int i;

	for (i = 0; i < EVPL_DEVICES_MAX; i++)
		if (reg_is(&slab->regs[i], REG_BUSY))
			return true;
	return slab_ids_is_awaited(&slab->pool->slab_ids, slab->info.number);
}

static void raise_baseline(struct slab *slab)
{
	struct backing *backing = &slab->pool->backing;

	if (!backing->ops->slab_baseline)
		return;
	slab->baseline_stale = references_may_go(slab) ||
			       backing->ops->slab_baseline(backing, &slab->extent,
							   EVPL_BASELINE_ALIKE);
}

/* Raises a baseline that is stale. The caller doesn't hold the pool's lock. */
void devices_set_baseline(struct slab *slab)
{
	if (!atomic_load_explicit(&slab->baseline_stale, memory_order_relaxed))
		return;
	pool_lock(slab->pool);
	if (slab->baseline_stale)
		raise_baseline(slab);
	pool_unlock(slab->pool);
}

/*
 * Drops the pool's lock for a callback. The device stays, as @calls counts the callback, and so
 * does the slab, or the struct lease_regs, that has @reg.
 */
void device_call_begin(struct evpl_device *device, struct reg *reg)
{
	reg_set(reg, REG_BUSY);
	device->calls++;
	pool_unlock(device->pool);
}

void device_call_end(struct evpl_device *device, struct reg *reg, enum reg_state state)
{
	pool_lock(device->pool);
	reg_set(reg, state);
	device->calls--;
	pthread_cond_broadcast(&device->pool->calls_done);
}

/* Waits until some callback has returned. Under the pool's lock, which is dropped meanwhile. */
void devices_wait_for_call(struct evpl_pool *pool)
{
	NO_CANCELLATION;

	pthread_cond_wait(&pool->calls_done, &pool->lock);
}

/* Registers a slab with a device. Under the pool's lock, which is dropped meanwhile. */
static void slab_register(struct evpl_device *device, struct slab *slab)
{
	struct reg *reg = device_reg(device, slab);
	uint64_t cookie = 0;
	NO_CANCELLATION;
	int err;

	device_call_begin(device, reg);
	err = device->ops.register_slab(device->arg, &slab->info, &cookie);
	atomic_store_explicit(&reg->cookie, cookie, memory_order_relaxed);
	device_call_end(device, reg, err ? REG_FAILED : REG_DONE);
	if (!err)
		raise_baseline(slab);
}

/*
 * Unregisters a slab from a device. Under the pool's lock, which is dropped meanwhile.
 * slab_ids_await() comes before the callback: the device's own thread may let go of the number
 * (evpl_device_let_go()) before the callback has returned EVPL_DEVICE_LATER.
 */
static void slab_unregister(struct evpl_device *device, struct slab *slab)
{
	struct reg *reg = device_reg(device, slab);
	uint64_t cookie = atomic_load_explicit(&reg->cookie, memory_order_relaxed);
	struct slab_ids *ids = &device->pool->slab_ids;
	unsigned int number = slab->info.number;
	NO_CANCELLATION;
	int ret = 0;

	slab_ids_await(ids, number, device->slot);
	clear_baseline(slab);
	device_call_begin(device, reg);
	if (device->ops.unregister_slab)
		ret = device->ops.unregister_slab(device->arg, &slab->info, cookie);
	device_call_end(device, reg, REG_NONE);
	if (ret != EVPL_DEVICE_LATER)
		slab_ids_let_go(ids, number, device->slot);
}

/* Whether a device must be told of a new slab. */
static bool wants_slabs(const struct evpl_device *device)
{
	return device && !device->detaching && device->ops.register_slab;
}

/* Whether a device must be told of new slabs. Called with the pool's lock held. */
bool devices_want_slabs(struct evpl_pool *pool)
{
	unsigned int i;

	for (i = 0; i < EVPL_DEVICES_MAX; i++)
		if (wants_slabs(pool->devices[i]))
			return true;
	return false;
}

/* Registers a slab with all devices that don't know it. The caller doesn't hold the lock. */
void devices_register(struct slab *slab)
{
	struct evpl_pool *pool = slab->pool;
	struct evpl_device *device;
	unsigned int i;

	pool_lock(pool);
	for (i = 0; i < EVPL_DEVICES_MAX; i++) {
		device = pool->devices[i];
		if (wants_slabs(device) && reg_is(device_reg(device, slab), REG_NONE))
			slab_register(device, slab);
	}
	pool_unlock(pool);
}

/* Unregisters a pinned slab, which nobody uses any more. The caller doesn't hold the lock. */
void devices_unregister(struct slab *slab)
{
	struct evpl_pool *pool = slab->pool;
	struct evpl_device *device;
	unsigned int i;

	pool_lock(pool);
	for (i = 0; i < EVPL_DEVICES_MAX; i++) {
		device = pool->devices[i];
		if (!device)
			continue;
		if (reg_is(device_reg(device, slab), REG_DONE))
			slab_unregister(device, slab);
		else if (reg_is(device_reg(device, slab), REG_FAILED))
			reg_set(device_reg(device, slab), REG_NONE);
	}
	pool_unlock(pool);
}

/* A slab whose registration is in this state, or NULL. SLAB_DYING ones count only if @dying. */
static struct slab *find_slab(struct evpl_device *device, enum reg_state state, bool dying)
{
	struct slab *slab;

	for (slab = device->pool->slabs; slab; slab = slab->next)
		if ((dying || slab->state != SLAB_DYING) && reg_is(device_reg(device, slab), state))
			return slab;
	return NULL;
}

/*
 * Calls @move for each slab whose registration with the device is in @state, which @move changes.
 * The list of slabs may change while a callback runs, so each search starts from the list's head.
 * Under the pool's lock, which is dropped meanwhile.
 */
static void each_slab(struct evpl_device *device, enum reg_state state, bool dying,
		      void (*move)(struct evpl_device *device, struct slab *slab))
{
	struct evpl_pool *pool = device->pool;
	struct slab *slab;

	while ((slab = find_slab(device, state, dying))) {
		slab->pins++;
		move(device, slab);
		if (!slab_unpin(slab))
			continue;
		pool_unlock(pool);
		slab_release(slab);
		pool_lock(pool);
	}
}

int evplmem_device_attach(struct evpl_pool *pool, const struct evpl_device_ops *ops, void *arg,
			  struct evpl_device **r_device)
{
	struct evpl_device *device;
	unsigned int slot;
	int err;

	if (pool_is_inherited(pool))
		return -EPERM;
	if (!ops)
		return -EINVAL;
	device = calloc(1, sizeof(*device));
	if (!device)
		return -ENOMEM;
	err = config_copy(&device->ops, sizeof(device->ops), ops);
	if (!err && device->ops.flags & ~EVPL_DEVICE_LEASES)
		err = -EOPNOTSUPP;
	if (err)
		goto free_device;
	device->pool = pool;
	device->arg = arg;
	/* EVPL_BASELINE needs words of 0. So end the bindings, which keep idle words above 0. */
	bias_unbind_all(pool);

	pool_lock(pool);
	for (slot = 0; slot < EVPL_DEVICES_MAX; slot++)
		if (!pool->devices[slot])
			break;
	if (slot == EVPL_DEVICES_MAX) {
		pool_unlock(pool);
		err = -ENOSPC;
		goto free_device;
	}
	device->slot = slot;
	pool->devices[slot] = device;
	if (device->ops.register_slab) {
		each_slab(device, REG_NONE, false, slab_register);
		/*
		 * While no device wanted slabs, a thread that grew the pool may have made a slab
		 * available before slab_publish(). That thread may be registering it now.
		 */
		while (find_slab(device, REG_BUSY, false))
			devices_wait_for_call(pool);
	}
	pool_unlock(pool);
	*r_device = device;
	return 0;

free_device:
	free(device);
	return err;
}

static void forget_failure(struct evpl_device *device, struct slab *slab)
{
	reg_set(device_reg(device, slab), REG_NONE);
}

void evplmem_device_detach(struct evpl_device *device)
{
	struct evpl_pool *pool;

	if (!device || pool_is_inherited(device->pool))
		return;
	pool = device->pool;

	pool_lock(pool);
	device->detaching = true;
	/* A trim on another thread may be unregistering a slab, a growing one registering it. */
	for (;;) {
		each_slab(device, REG_DONE, true, slab_unregister);
		lease_regs_detach(device);
		if (!device->calls)
			break;
		devices_wait_for_call(pool);
	}
	each_slab(device, REG_FAILED, true, forget_failure);
	slab_ids_forget(&pool->slab_ids, device->slot);
	pool->devices[device->slot] = NULL;
	pool_unlock(pool);
	free(device);
}

int evplmem_device_cookie(struct evpl_device *device, const struct evpl_iovec *iovec,
			  uint64_t *r_cookie)
{
	struct slab *slab;
	struct reg *reg;

	if (iovec_is_inherited(iovec) || pool_is_inherited(device->pool))
		return -EPERM;
	if (!iovec->__private2)
		return -ENOENT;
	slab = iovec_slab(iovec);
	if (!slab)
		return lease_reg_cookie(device, iovec, r_cookie);
	/* In another pool this slot is another device's, or nobody's. */
	if (slab->pool != device->pool)
		return -EINVAL;
	reg = device_reg(device, slab);
	if (!reg_is(reg, REG_DONE))
		return -ENOENT;
	*r_cookie = atomic_load_explicit(&reg->cookie, memory_order_relaxed);
	return 0;
}

int evplmem_device_set_cookie(struct evpl_device *device, const struct evpl_iovec *iovec,
			      uint64_t cookie)
{
	struct evpl_pool *pool = device->pool;
	struct slab *slab;
	struct reg *reg;
	int err = 0;

	if (iovec_is_inherited(iovec) || pool_is_inherited(pool))
		return -EPERM;
	slab = iovec_slab(iovec);
	if (!slab || slab->pool != pool)
		return -EINVAL;
	reg = device_reg(device, slab);

	pool_lock(pool);
	if (reg_is(reg, REG_DONE)) {
		err = -EEXIST;
	} else if (reg_is(reg, REG_BUSY)) {
		err = -EBUSY;
	} else {
		atomic_store_explicit(&reg->cookie, cookie, memory_order_relaxed);
		reg_set(reg, REG_DONE);
		raise_baseline(slab);
	}
	pool_unlock(pool);
	return err;
}

int evplmem_device_let_go(struct evpl_device *device, unsigned int number)
{
	struct evpl_pool *pool = device->pool;
	bool awaited;

	if (pool_is_inherited(pool))
		return -EPERM;
	pool_lock(pool);
	awaited = slab_ids_let_go(&pool->slab_ids, number, device->slot);
	pool_unlock(pool);
	return awaited ? 0 : -ENOENT;
}
