// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * The registrations of leased buffers with devices: see guest.h.
 *
 * A registration changes its state under the pool's lock, and callbacks run without that lock,
 * as in device.c. Without the lock only guest_cookie() reads the state, to find REG_DONE. Its
 * caller has taken a reference before. guest_end() sets REG_BUSY, then looks for references.
 * Each has a full barrier between the two. So guest_cookie() sees REG_BUSY and takes the lock,
 * or guest_end() sees the reference and leaves the registration alone.
 */
#include "guest.h"

#include <errno.h>
#include <stdlib.h>

#include "cancel.h"
#include "sharing.h"

/**
 * struct guest - the registrations of a lease
 * @lease: the lease
 * @info: the buffer, as devices see it
 * @held: the lease's word counts a reference of the registrations; under the pool's lock
 * @next: the pool's list; an entry stays on it until the pool is closed
 * @regs: the registrations, by the device's slot
 */
struct guest {
	struct entry *lease;
	struct evpl_slab_info info;
	bool held;
	struct guest *next;
	struct reg regs[EVPL_DEVICES_MAX];
};

/* Registers a leased buffer with a device. Under the pool's lock, which is dropped meanwhile. */
static void register_one(struct evpl_device *device, struct guest *guest)
{
	struct reg *reg = &guest->regs[device->slot];
	uint64_t cookie = 0;
	NO_CANCELLATION;
	int err;

	device_call_begin(device, reg);
	err = device->ops.register_slab(device->arg, &guest->info, &cookie);
	atomic_store_explicit(&reg->cookie, cookie, memory_order_relaxed);
	device_call_end(device, reg, err ? REG_FAILED : REG_DONE);
}

/* The inverse of register_one(). Under the pool's lock, which is dropped meanwhile. */
static void unregister_one(struct evpl_device *device, struct guest *guest)
{
	struct reg *reg = &guest->regs[device->slot];
	uint64_t cookie = atomic_load_explicit(&reg->cookie, memory_order_relaxed);
	NO_CANCELLATION;

	device_call_begin(device, reg);
	if (device->ops.unregister_slab)
		device->ops.unregister_slab(device->arg, &guest->info, cookie);
	device_call_end(device, reg, REG_NONE);
}

/* Finds the struct guest of a device lease, or makes it. Under the pool's lock. */
static struct guest *guest_of(struct evpl_pool *pool, const struct evpl_iovec *iovec)
{
	const struct evpl_setup *setup = &pool->backing.setup;
	struct entry *lease = iovec_entry(iovec);
	struct guest *guest = atomic_load(&lease->guest);
	size_t size = (size_t)1 << lease->shift;
	uint64_t offset = sharing_guest_offset(pool, iovec->data);
	bool readonly = offset - setup->out_guest_io_ro_offset < setup->out_guest_size;

	if (guest || !sharing_is_io(pool, offset))
		return guest;
	guest = calloc(1, sizeof(*guest));
	if (!guest)
		return NULL;
	guest->lease = lease;
	guest->info = (struct evpl_slab_info){
		.number = UINT32_MAX,
		.node = EVPL_ANY_NODE,
		.base = (char *)iovec->data - offset % size,
		.length = size,
		.flags = EVPL_SLAB_LEASED | (readonly ? EVPL_SLAB_READONLY : 0),
	};
	guest->next = pool->guests;
	pool->guests = guest;
	atomic_store(&lease->guest, guest);
	return guest;
}

/**
 * guest_cookie() - get the cookie of a leased buffer, and register the buffer if need be
 * @device: the device
 * @iovec: an iovec of another process's buffer, that the caller holds a reference by
 * @r_cookie: where the cookie goes
 *
 * Return: as evpl_device_cookie().
 */
int guest_cookie(struct evpl_device *device, const struct evpl_iovec *iovec, uint64_t *r_cookie)
{
	struct evpl_pool *pool = device->pool;
	struct guest *guest;
	struct reg *reg;
	int err = -ENOENT;

	if (iovec_entry(iovec)->pool != pool)
		return -EINVAL;
	if (!(device->ops.flags & EVPL_DEVICE_LEASES))
		return -ENOENT;
	guest = atomic_load(&iovec_entry(iovec)->guest);
	/* The caller took its reference before this: see above. */
	atomic_thread_fence(memory_order_seq_cst);
	if (guest && reg_is(&guest->regs[device->slot], REG_DONE)) {
		*r_cookie = atomic_load_explicit(&guest->regs[device->slot].cookie,
						 memory_order_relaxed);
		return 0;
	}

	pool_lock(pool);
	guest = guest_of(pool, iovec);
	if (!guest)
		goto unlock;
	reg = &guest->regs[device->slot];
	while (reg_is(reg, REG_BUSY))
		devices_wait_for_call(pool);
	if (reg_is(reg, REG_NONE) && !device->detaching) {
		if (!guest->held)
			entry_get(guest->lease, CALLER());
		guest->held = true;
		register_one(device, guest);
	}
	if (reg_is(reg, REG_DONE)) {
		*r_cookie = atomic_load_explicit(&reg->cookie, memory_order_relaxed);
		err = 0;
	}
unlock:
	pool_unlock(pool);
	return err;
}

static bool has_registration(struct guest *guest)
{
	unsigned int i;

	for (i = 0; i < EVPL_DEVICES_MAX; i++)
		if (!reg_is(&guest->regs[i], REG_NONE) && !reg_is(&guest->regs[i], REG_FAILED))
			return true;
	return false;
}

/* Whether the registrations' reference is the only one left. */
static bool is_alone(struct guest *guest)
{
	return (atomic_load(&guest->lease->word) & EVPL_WORD_COUNT) == 1;
}

/**
 * guest_end() - end the registrations of a lease that nobody uses any more
 * @lease: the lease; the caller has just dropped its last reference but one
 *
 * Return: true if the reference that is left was the registrations', and is now the caller's to
 * drop. False if it belongs to a user of the lease, or if somebody began to use the lease
 * meanwhile.
 */
bool guest_end(struct entry *lease)
{
	struct evpl_pool *pool = lease->pool;
	struct guest *guest = atomic_load(&lease->guest);
	bool alone;
	unsigned int i;

	if (!guest)
		return false;
	pool_lock(pool);
	alone = guest->held;
	for (i = 0; alone && i < EVPL_DEVICES_MAX; i++) {
		struct reg *reg = &guest->regs[i];

		if (reg_is(reg, REG_FAILED))
			reg_set(reg, REG_NONE);
		if (!reg_is(reg, REG_DONE))
			continue;
		reg_set(reg, REG_BUSY);
		atomic_thread_fence(memory_order_seq_cst);
		alone = is_alone(guest);
		if (alone)
			unregister_one(pool->devices[i], guest);
		else
			reg_set(reg, REG_DONE);
	}
	alone = alone && guest->held && is_alone(guest) && !has_registration(guest);
	if (alone)
		guest->held = false;
	else
		pthread_cond_broadcast(&pool->calls_done);
	pool_unlock(pool);
	return alone;
}

static struct guest *find(struct evpl_device *device)
{
	struct guest *guest;

	for (guest = device->pool->guests; guest; guest = guest->next)
		if (reg_is(&guest->regs[device->slot], REG_DONE))
			return guest;
	return NULL;
}

/*
 * Ends the registrations of leases with a device that is being detached. Under the pool's lock,
 * which is dropped meanwhile.
 */
void guests_detach(struct evpl_device *device)
{
	struct evpl_pool *pool = device->pool;
	struct guest *guest;

	while ((guest = find(device))) {
		unregister_one(device, guest);
		if (!guest->held || has_registration(guest))
			continue;
		guest->held = false;
		pool_unlock(pool);
		sharing_put(guest->lease, CALLER());
		pool_lock(pool);
	}
	for (guest = pool->guests; guest; guest = guest->next)
		if (reg_is(&guest->regs[device->slot], REG_FAILED))
			reg_set(&guest->regs[device->slot], REG_NONE);
}

/* Frees the list when the pool is closed. No device is attached. */
void guests_free(struct evpl_pool *pool)
{
	struct guest *guest;

	while ((guest = pool->guests)) {
		pool->guests = guest->next;
		free(guest);
	}
}
