/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_SLAB_H
#define EVPLMEM_SLAB_H

/*
 * A slab: a run of buffers that is taken from the back end, registered with devices, and
 * given back as a whole.
 *
 * slab_make() makes a slab under the pool's lock. slab_publish() registers it with the devices
 * that are attached, and then makes its buffers available. That comes earlier if no device is
 * attached, or if a device's callback allocates while no other buffer is free. A slab goes when
 * one thread has all of its buffers in hand: that thread sets SLAB_DYING under the lock
 * (slab_doom()), and then tells the devices (slab_unpublish()).
 *
 * Code that calls devices must drop the lock, so it pins the slab. A slab that another thread
 * has pinned isn't doomed. A slab may be pinned while it is SLAB_DYING: then the last thread to
 * unpin it gives the memory back, so no thread waits for another.
 */

#include "pool.h"

enum slab_state {
	SLAB_NEW,	/* its buffers are in hand, until it is published */
	SLAB_LIVE,	/* its buffers are in use or on free lists */
	SLAB_DYING,	/* its buffers are in hand, and its memory is to be given back */
};

/* The state of a slab's registration with a device; changed under the pool's lock. */
enum reg_state {
	REG_NONE,	/* not registered; only from here a registration starts */
	REG_BUSY,	/* a callback runs */
	REG_DONE,	/* registered; only then the cookie is valid */
	REG_FAILED,	/* the device refused it */
};

struct reg {
	_Atomic uint32_t state;
	_Atomic uint64_t cookie;
};

static inline void reg_set(struct reg *reg, enum reg_state state)
{
	atomic_store_explicit(&reg->state, state, memory_order_release);
}

static inline bool reg_is(struct reg *reg, enum reg_state state)
{
	return atomic_load_explicit(&reg->state, memory_order_acquire) == state;
}

/**
 * struct slab - a slab
 * @pool: its pool
 * @depot: the depot that its buffers go to
 * @extent: its memory
 * @info: its description for devices
 * @first: its first buffer's entry
 * @count: how many buffers it has
 * @next: the next one in the pool's list
 * @link: the pointer to this one in that list
 * @outer: the slab for which a callback was running when it had this one made; used by the
 *	thread that publishes both
 * @state: under the pool's lock, like all fields that follow
 * @pins: see above
 * @in_hand: how many of its buffers are on the chain below: all, unless it is SLAB_LIVE; then
 *	those that the thread with the lock took off the free lists. A new slab that was adopted
 *	has there the buffers that nobody has.
 * @rooted: how many of its buffers only roots have; used by the thread that closes the pool
 * @hand_first: the first of these, chained by @next
 * @hand_last: the last of the chain
 * @next_dying: a private list of the thread that unpublishes several slabs, or makes several
 * @baseline_stale: the kernel's baselines may not count all that devices hold; see device.c;
 *	written under the lock, read without
 * @regs: its registrations, by the device's slot
 */
struct slab {
	struct evpl_pool *pool;
	struct depot *depot;
	struct extent extent;
	struct evpl_slab_info info;
	struct entry *first;
	uint32_t count;

	struct slab *next;
	struct slab **link;
	struct slab *outer;
	enum slab_state state;
	unsigned int pins;
	uint32_t in_hand;
	uint32_t rooted;
	struct entry *hand_first;
	struct entry *hand_last;
	struct slab *next_dying;
	atomic_bool baseline_stale;

	struct reg regs[EVPL_DEVICES_MAX];
};

/* device.c */
void device_call_begin(struct evpl_device *device, struct reg *reg);
void device_call_end(struct evpl_device *device, struct reg *reg, enum reg_state state);
void devices_wait_for_call(struct evpl_pool *pool);

int slab_make(struct evpl_pool *pool, struct depot *depot, size_t length, struct slab **r_slab);
int slab_adopt(struct evpl_pool *pool, uint64_t offset, struct evpl *home, struct slab **r_slab);
void slab_take_adopted(struct slab *slab);
void slab_leave(struct slab *slab);
void slab_publish(struct slab *slab);
void slab_doom(struct slab *slab);
void slab_unpublish(struct slab *slab);
void slab_end_grants(struct slab *slab);
int slab_destroy(struct slab *slab);
bool slab_unpin(struct slab *slab);
void slab_release(struct slab *slab);

int pool_refill(struct evpl_pool *pool, struct depot *depot, bool take);
bool pool_can_grow(struct evpl_pool *pool);

#endif /* EVPLMEM_SLAB_H */
