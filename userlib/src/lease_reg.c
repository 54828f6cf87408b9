// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * The registrations of leased buffers with devices: see lease_reg.h.
 *
 * A registration changes its state under the pool's lock, and callbacks run without that lock,
 * as in device.c. Without the lock only lease_reg_cookie() reads the state, to find REG_DONE. Its
 * caller has taken a reference before. lease_regs_end() sets REG_BUSY, then looks for references.
 * Each has a full barrier between the two. So lease_reg_cookie() sees REG_BUSY and takes the lock,
 * or lease_regs_end() sees the reference and leaves the registration alone.
 */
#include "lease_reg.h"

#include <errno.h>
#include <stdlib.h>

#include "cancel.h"
#include "lane.h"
#include "windows.h"

/**
 * struct lease_regs - the registrations of a lease
 * @lease: the lease
 * @info: the buffer, as devices see it
 * @held: the lease's word counts a reference of the registrations; under the pool's lock
 * @next: the pool's list; an entry stays on it until the pool is closed
 * @reg: the registrations, by the device's slot
 */
struct lease_regs {
	struct lease *lease;
	struct evpl_slab_info info;
	bool held;
	struct lease_regs *next;
	struct reg reg[EVPL_DEVICES_MAX];
};

/* Registers a leased buffer with a device. Under the pool's lock, which is dropped meanwhile. */
static void lease_register(struct evpl_device *device, struct lease_regs *regs)
{
	struct reg *reg = &regs->reg[device->slot];
	uint64_t cookie = 0;
	NO_CANCELLATION;
	int err;

	device_call_begin(device, reg);
	err = device->ops.register_slab(device->arg, &regs->info, &cookie);
	atomic_store_explicit(&reg->cookie, cookie, memory_order_relaxed);
	device_call_end(device, reg, err ? REG_FAILED : REG_DONE);
}

/* The inverse of lease_register(). Under the pool's lock, which is dropped meanwhile. */
static void lease_unregister(struct evpl_device *device, struct lease_regs *regs)
{
	struct reg *reg = &regs->reg[device->slot];
	uint64_t cookie = atomic_load_explicit(&reg->cookie, memory_order_relaxed);
	NO_CANCELLATION;

	device_call_begin(device, reg);
	if (device->ops.unregister_slab)
		device->ops.unregister_slab(device->arg, &regs->info, cookie);
	device_call_end(device, reg, REG_NONE);
}

/* Finds the struct lease_regs of a device lease, or makes it, or fails. Under the pool's lock. */
static struct lease_regs *lease_regs_of(struct evpl_pool *pool, const struct evpl_iovec *iovec)
{
	const struct evpl_setup *setup = &pool->backing.setup;
	struct lease *lease = entry_any_lease(iovec_entry(iovec));
	struct lease_regs *regs = atomic_load(&lease->regs);
	size_t size = (size_t)1 << lease->buffer_shift;
	uint64_t offset = windows_offset(pool, iovec->data);
	bool readonly = offset - setup->out_guest_io_ro_offset < setup->out_guest_size;

	if (regs)
		return regs;
	regs = calloc(1, sizeof(*regs));
	if (!regs)
		return NULL;
	regs->lease = lease;
	regs->info = (struct evpl_slab_info){
		.number = UINT32_MAX,
		.node = EVPL_ANY_NODE,
		.base = (char *)iovec->data - offset % size,
		.length = size,
		.flags = EVPL_SLAB_LEASED | (readonly ? EVPL_SLAB_READONLY : 0),
	};
	regs->next = pool->lease_regs;
	pool->lease_regs = regs;
	atomic_store(&lease->regs, regs);
	return regs;
}

/**
 * lease_reg_cookie() - get the cookie of a leased buffer, and register the buffer if need be
 * @device: the device
 * @iovec: an iovec of another process's buffer, that the caller holds a reference by
 * @r_cookie: where the cookie goes
 *
 * Return: as evpl_device_cookie().
 */
int lease_reg_cookie(struct evpl_device *device, const struct evpl_iovec *iovec, uint64_t *r_cookie)
{
	struct lease *lease = entry_any_lease(iovec_entry(iovec));
	struct evpl_pool *pool = device->pool;
	struct lease_regs *regs;
	struct reg *reg;
	int err = -ENOENT;

	if (lease->pool != pool)
		return -EINVAL;
	if (!(device->ops.flags & EVPL_DEVICE_LEASES))
		return -ENOENT;
	regs = atomic_load(&lease->regs);
	/* Devices may not have this buffer, or this one couldn't register it: don't take the lock. */
	if (regs ? reg_is(&regs->reg[device->slot], REG_FAILED) :
		   !windows_is_io(pool, windows_offset(pool, iovec->data)))
		return -ENOENT;
	/* The caller took its reference before this: see above. */
	atomic_thread_fence(memory_order_seq_cst);
	if (regs && reg_is(&regs->reg[device->slot], REG_DONE)) {
		*r_cookie = atomic_load_explicit(&regs->reg[device->slot].cookie,
						 memory_order_relaxed);
		return 0;
	}

	pool_lock(pool);
	regs = lease_regs_of(pool, iovec);
	if (!regs)
		goto unlock;
	reg = &regs->reg[device->slot];
	while (reg_is(reg, REG_BUSY))
		devices_wait_for_call(pool);
	if (reg_is(reg, REG_NONE) && !device->detaching) {
		if (!regs->held)
			entry_get(lease_entry(regs->lease), CALLER());
		regs->held = true;
		lease_register(device, regs);
	}
	if (reg_is(reg, REG_DONE)) {
		*r_cookie = atomic_load_explicit(&reg->cookie, memory_order_relaxed);
		err = 0;
	}
unlock:
	pool_unlock(pool);
	return err;
}

static bool has_registration(struct lease_regs *regs)
{
	unsigned int i;

	for (i = 0; i < EVPL_DEVICES_MAX; i++)
		if (!reg_is(&regs->reg[i], REG_NONE) && !reg_is(&regs->reg[i], REG_FAILED))
			return true;
	return false;
}

/* Whether the registrations' reference is the only one left. */
static bool is_alone(struct lease_regs *regs)
{
	return (atomic_load(&regs->lease->word) & EVPL_WORD_COUNT) == 1;
}

/**
 * lease_regs_end() - end the registrations of a lease that nobody uses any more
 * @lease: the lease; the caller has just dropped its last reference but one
 *
 * Return: true if the reference that is left was the registrations', and is now the caller's to
 * drop. False if it belongs to a user of the lease, or if somebody began to use the lease
 * meanwhile.
 */
bool lease_regs_end(struct lease *lease)
{
	struct evpl_pool *pool = lease->pool;
	struct lease_regs *regs = atomic_load(&lease->regs);
	bool alone;
	unsigned int i;

	if (!regs)
		return false;
	pool_lock(pool);
	alone = regs->held;
	for (i = 0; alone && i < EVPL_DEVICES_MAX; i++) {
		struct reg *reg = &regs->reg[i];

		if (reg_is(reg, REG_FAILED))
			reg_set(reg, REG_NONE);
		if (!reg_is(reg, REG_DONE))
			continue;
		reg_set(reg, REG_BUSY);
		atomic_thread_fence(memory_order_seq_cst);
		alone = is_alone(regs);
		if (alone)
			lease_unregister(pool->devices[i], regs);
		else
			reg_set(reg, REG_DONE);
	}
	alone = alone && regs->held && is_alone(regs) && !has_registration(regs);
	if (alone)
		regs->held = false;
	else
		pthread_cond_broadcast(&pool->calls_done);
	pool_unlock(pool);
	return alone;
}

static struct lease_regs *find_registered(struct evpl_device *device)
{
	struct lease_regs *regs;

	for (regs = device->pool->lease_regs; regs; regs = regs->next)
		if (reg_is(&regs->reg[device->slot], REG_DONE))
			return regs;
	return NULL;
}

/*
 * Ends the registrations of leases with a device that is being detached. Under the pool's lock,
 * which is dropped meanwhile.
 */
void lease_regs_detach(struct evpl_device *device)
{
	struct evpl_pool *pool = device->pool;
	struct lease_regs *regs;

	while ((regs = find_registered(device))) {
		lease_unregister(device, regs);
		if (!regs->held || has_registration(regs))
			continue;
		regs->held = false;
		pool_unlock(pool);
		lease_put(regs->lease, CALLER());
		pool_lock(pool);
	}
	for (regs = pool->lease_regs; regs; regs = regs->next)
		if (reg_is(&regs->reg[device->slot], REG_FAILED))
			reg_set(&regs->reg[device->slot], REG_NONE);
}

/* Frees the list when the pool is closed. No device is attached. */
void lease_regs_free(struct evpl_pool *pool)
{
	struct lease_regs *regs;

	while ((regs = pool->lease_regs)) {
		pool->lease_regs = regs->next;
		free(regs);
	}
}
