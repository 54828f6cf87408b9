/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_SLAB_H
#define EVPLMEM_SLAB_H

/*
 * A slab: what is taken from the back end, registered, and given back as one.
 *
 * It is made under the pool's lock (slab_make), then registered with the devices
 * that are attached and published (slab_publish), then its buffers are free; or
 * earlier, if a call-back of one of the devices allocates and there are no others. It
 * goes when all of its buffers are in the hands of one thread, which has marked it
 * SLAB_DYING under the lock (slab_doom, slab_retire).
 *
 * Device code that must drop the lock pins the slab. A pinned slab doesn't start to
 * die; of a dying one, the last to unpin it gives the memory back, so nobody waits.
 */

#include "pool.h"

enum slab_state {
	SLAB_NEW,	/* nobody has seen its buffers */
	SLAB_LIVE,	/* they are in use or on stacks */
	SLAB_DYING,	/* nobody will see them any more */
};

/* What a device knows of a slab; changed under the pool's lock. */
enum reg_state {
	REG_NONE,	/* nothing; only from here does a registration start */
	REG_BUSY,	/* a call-back runs */
	REG_DONE,	/* registered; only then is the cookie good */
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
 * @pool: whose
 * @depot: where its buffers go
 * @extent: its memory
 * @info: what devices are told of it
 * @first: its first entry
 * @count: its buffers
 * @next: the pool's list
 * @link: what points to this one there
 * @outer: the slab whose call-back had this one made, while both are published; the
 *	publishing thread's
 * @state: under the pool's lock, as all that follows
 * @pins: see above
 * @in_hand: how many of its buffers are on the chain below: all, unless it is
 *	SLAB_LIVE; then those that the holder of the lock took off the stacks
 * @hand_first: these, chained by next
 * @hand_last: the end of the chain
 * @next_dying: a list of the thread that retires it, or that makes several
 * @unsettled: the kernel doesn't know yet what devices hold of it; see devices_settle()
 * @regs: by the device's slot
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
	struct entry *hand_first;
	struct entry *hand_last;
	struct slab *next_dying;
	atomic_bool unsettled;

	struct reg regs[EVPL_DEVICES_MAX];
};

/* device.c */
void device_call_begin(struct evpl_device *device, struct reg *reg);
void device_call_end(struct evpl_device *device, struct reg *reg, enum reg_state state);
void devices_wait_for_call(struct evpl_pool *pool);

int slab_make(struct evpl_pool *pool, struct depot *depot, size_t length, struct slab **r_slab);
void slab_publish(struct slab *slab);
void slab_doom(struct slab *slab);
void slab_retire(struct slab *slab);
int slab_destroy(struct slab *slab);
bool slab_unpin(struct slab *slab);
void slab_end(struct slab *slab);

int pool_refill(struct evpl_pool *pool, struct depot *depot, bool take);
bool pool_can_grow(struct evpl_pool *pool);

#endif /* EVPLMEM_SLAB_H */
