// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * A pool's slabs as registered buffers of a ring.
 *
 * There are two ways to register a slab. By the first, the module puts the slab in a slot
 * (linux/evpl.h, DOC: registered buffers), which pins nothing and charges nobody. It needs
 * a request. The caller of this library may be filling in an SQE of the ring, and doesn't expect
 * completions that aren't its own. So the request goes through a ring of this library's, which has
 * a table of one slot. The kernel then copies that slot to the caller's ring. By the second way,
 * io_uring itself pins the slab's pages, as on kernels that don't have the first one.
 *
 * A slab's cookie is the slot that it is in, or UNREGISTERED if the kernel will never register
 * the slab. Only the ring's thread fills and clears slots. A slab may be given back on any
 * thread: that thread puts the slab's slot on the list of slots to clear. The ring's thread
 * takes the whole list at its next call, clears the slots and releases the slabs' numbers. A
 * slot is on the list once at most, so the list needs no memory of its own.
 *
 * With EVPL_URING_LEASES, leased buffers have slots like slabs, and most functions take the one for
 * the other. A lease ends on any thread, with the slot still filled. That is safe: the kernel keeps
 * the buffer from its owner until the slot is cleared, as the ring has it, or has pinned its pages.
 *
 * The lock is for two calls that other threads make: evpl_uring_clone() copies this ring's
 * table, and a thread that adds a slab to the pool while the ring is being set up fills a slot.
 */
#include "evplmem-uring.h"

#include <linux/evpl.h>
#include <liburing.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common.h"

#define SLOTS_MAX	16384U		/* IORING_MAX_REG_BUFFERS */
#define UNREGISTERED	UINT64_MAX
#define NO_SLOT		UINT32_MAX
#define NO_SLAB		UINT32_MAX
#define LEASE		(UINT32_MAX - 1)

/* liburing has IORING_OP_READV_FIXED and IORING_OP_WRITEV_FIXED from 2.10 on. */
#define READV_FIXED	60
#define WRITEV_FIXED	61

/* liburing has these from 2.8 and 2.9 on. */
#define REGISTER_CLONE_BUFFERS	30
#define CLONE_DST_REPLACE	(1U << 1)

/* The argument of REGISTER_CLONE_BUFFERS. Linux 6.12 knows the first two fields. */
struct clone_buffers {
	uint32_t source;
	uint32_t flags;
	uint32_t from;
	uint32_t to;
	uint32_t nr;
	uint32_t zero[3];
};

/**
 * struct slot - a slot of the ring's table
 * @number: the slab's number; or LEASE; or NO_SLAB, if the slot is free
 * @next: the next one of the list that it is on
 * @base: the address that has offset 0 in requests: of a slab that the module has registered, its
 *	first byte. 0 for a slab that io_uring has pinned, as requests have its addresses then
 */
struct slot {
	unsigned int number;
	uint32_t next;
	uintptr_t base;
};

/**
 * struct evpl_uring - a pool's memory, registered with a ring
 * @pool: the pool
 * @ring: the ring
 * @own_ring: the library's own ring, for the module's commands
 * @has_own_ring: @own_ring is there, so the kernel has these commands
 * @device: the pool's side
 * @first_slot: the slots' place in the ring's table
 * @lock: held while slots are filled and cleared, by the ring's thread or by a thread that
 *	adds a slab while the ring is set up. evpl_uring_clone() holds the lock of its source,
 *	so that the table and @slots agree while it copies both
 * @leases: leased buffers are registered too
 * @eager: slabs are registered as soon as meet_slab() is called for them
 * @free: the first free slot, or NO_SLOT
 * @cloned: the first slot that was copied with a table and for whose slab meet_slab() wasn't
 *	called yet; or NO_SLOT
 * @gone: the first slot to clear, or NO_SLOT. Any thread pushes; the ring's thread takes the
 *	whole list by one exchange, so that the list has no ABA problem
 * @ending: evpl_uring_destroy() was called
 * @has_readv_fixed: the kernel has READV_FIXED and WRITEV_FIXED; valid if @probed is set
 * @probed: the kernel was asked for its operations
 * @refused: the error by which the kernel refuses every slab, for good or, if it is -ENOMEM,
 *	until a slot is cleared; or 0
 * @told: evpl_uring_notice() has returned the notice
 * @stats: the statistics
 * @notice: the notice; empty until a slab can't be registered
 * @slots: the slots
 */
struct evpl_uring {
	struct evpl_pool *pool;
	struct io_uring *ring;
	struct io_uring own_ring;
	bool has_own_ring;
	struct evpl_device *device;
	unsigned int first_slot;
	pthread_mutex_t lock;
	bool leases;
	bool eager;
	uint32_t free;
	uint32_t cloned;
	_Atomic uint32_t gone;
	atomic_bool ending;
	bool has_readv_fixed;
	bool probed;
	int refused;
	bool told;
	struct evpl_uring_stats stats;
	char notice[NOTICE_SIZE];
	struct slot slots[];
};

static void push(struct evpl_uring *uring, uint32_t *list, uint32_t slot)
{
	uring->slots[slot].next = *list;
	*list = slot;
}

static void push_gone(struct evpl_uring *uring, uint32_t slot)
{
	uint32_t first = atomic_load_explicit(&uring->gone, memory_order_relaxed);

	do
		uring->slots[slot].next = first;
	while (!atomic_compare_exchange_weak_explicit(&uring->gone, &first, slot,
						      memory_order_release, memory_order_relaxed));
}

/* Has io_uring pin memory for a slot of the table, or clear the slot if @base is NULL. */
static int table_update(struct io_uring *ring, unsigned int index, void *base, size_t length)
{
	struct iovec iovec = { .iov_base = base, .iov_len = length };
	__u64 tag = 0;
	int ret;

	ret = io_uring_register_buffers_update_tag(ring, index, &iovec, &tag, 1);
	if (ret < 0)
		return ret;
	return ret == 1 ? 0 : -EIO;
}

static int clear_slot(struct evpl_uring *uring, uint32_t slot)
{
	return table_update(uring->ring, uring->first_slot + slot, NULL, 0);
}

static int clone_buffers(struct io_uring *ring, const struct clone_buffers *args)
{
	return syscall(__NR_io_uring_register, ring->ring_fd, REGISTER_CLONE_BUFFERS, args, 1) ?
	       -errno : 0;
}

/*
 * Sends the module a command for the slot of the library's own ring. Returns the command's result,
 * or -EIO if the ring doesn't work and is to be closed.
 */
static int command(struct evpl_uring *uring, uint32_t op, const struct evpl_uring_buffer *args)
{
	struct io_uring *ring = &uring->own_ring;
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
	struct io_uring_cqe *cqe;
	int ret;

	io_uring_prep_rw(IORING_OP_URING_CMD, sqe, evpl_pool_fd(uring->pool), NULL, 0, 0);
	sqe->cmd_op = op;
	memcpy(sqe->cmd, args, sizeof(*args));
	if (io_uring_submit(ring) != 1)
		return -EIO;
	do
		ret = io_uring_wait_cqe(ring, &cqe);
	while (ret == -EINTR);
	if (ret)
		return -EIO;
	ret = cqe->res;
	io_uring_cqe_seen(ring, cqe);
	return ret;
}

static void close_own_ring(struct evpl_uring *uring)
{
	if (uring->has_own_ring)
		io_uring_queue_exit(&uring->own_ring);
	uring->has_own_ring = false;
}

/*
 * Makes the library's own ring, if the module can register memory. The caller's ring was probably
 * made with the same credentials just now. The kernel copies slots only between such rings.
 */
static void open_own_ring(struct evpl_uring *uring)
{
	const struct evpl_uring_buffer empty_slot = { .index = 0 };

	if (evpl_pool_fd(uring->pool) < 0 || io_uring_queue_init(1, &uring->own_ring, 0))
		return;
	uring->has_own_ring = true;
	/* A kernel that has the command says that the slot is empty. */
	if (io_uring_register_buffers_sparse(&uring->own_ring, 1) ||
	    command(uring, EVPL_URING_UNREGISTER, &empty_slot) != -EINVAL)
		close_own_ring(uring);
}

/* Has the module register memory in the own ring's slot, and copies it to a slot of the ring. */
static int register_uncharged(struct evpl_uring *uring, uint32_t slot,
			      const struct evpl_slab_info *info)
{
	struct clone_buffers clone = {
		.source = (uint32_t)uring->own_ring.ring_fd,
		.flags = CLONE_DST_REPLACE,
		.to = uring->first_slot + slot,
		.nr = 1,
	};
	struct evpl_uring_buffer buffer = {
		.length = (uint32_t)info->length,
		.flags = info->flags & EVPL_SLAB_READONLY ? 0 : EVPL_URING_WRITE,
	};
	uint64_t offset;
	int err;

	err = evpl_slab_offset(uring->pool, info, &offset);
	/* The copy makes a longer table if there is no such slot. This fails then. */
	if (!err)
		err = clear_slot(uring, slot);
	if (err)
		return err;
	buffer.offset = offset;
	err = command(uring, EVPL_URING_REGISTER, &buffer);
	if (err)
		return err;
	err = clone_buffers(uring->ring, &clone);
	table_update(&uring->own_ring, 0, NULL, 0);
	return err;
}

/* Registers memory in a slot that is free. Sets @r_base to the slot's base. */
static int register_memory(struct evpl_uring *uring, uint32_t slot,
			   const struct evpl_slab_info *info, uintptr_t *r_base)
{
	int err;

	if (uring->has_own_ring) {
		err = register_uncharged(uring, slot, info);
		switch (err) {
		case 0:
			*r_base = (uintptr_t)info->base;
			uring->stats.uncharged++;
			return 0;
		case -EEXIST:
		case -EFAULT:
		case -ENOENT:
		case -ENOMEM:
			return err;
		}
		/* The kernel may charge the two rings to different users, and then copies nothing. */
		close_own_ring(uring);
	}
	*r_base = 0;
	return table_update(uring->ring, uring->first_slot + slot, info->base, info->length);
}

/* Frees a slot that is cleared in the ring's table already. Called with the lock held. */
static void free_slot(struct evpl_uring *uring, uint32_t slot)
{
	uring->slots[slot].number = NO_SLAB;
	push(uring, &uring->free, slot);
	uring->stats.slots_used--;
	uring->stats.unregistrations++;
}

/* Clears the slots on the list. If the pool is @detached, the slabs have no numbers any more. */
static void clear_gone(struct evpl_uring *uring, bool detached)
{
	uint32_t slot, next;
	int err;

	if (atomic_load_explicit(&uring->gone, memory_order_relaxed) == NO_SLOT)
		return;
	pthread_mutex_lock(&uring->lock);
	slot = atomic_exchange_explicit(&uring->gone, NO_SLOT, memory_order_acquire);
	for (; slot != NO_SLOT; slot = next) {
		next = uring->slots[slot].next;
		err = clear_slot(uring, slot);
		if ((err == -EEXIST || err == -ENOMEM) && !detached) {
			/* This thread may not clear it, or memory is short: leave it for the next call. */
			push_gone(uring, slot);
			continue;
		}
		/* Any other error means that the table is gone, as of a ring that was closed. */
		if (!detached)
			evpl_device_let_go(uring->device, uring->slots[slot].number);
		free_slot(uring, slot);
		if (uring->refused == -ENOMEM)
			uring->refused = 0;
	}
	pthread_mutex_unlock(&uring->lock);
}

static int unregister_slab(void *arg, const struct evpl_slab_info *slab, uint64_t cookie)
{
	struct evpl_uring *uring = arg;

	if (cookie == UNREGISTERED)
		return 0;
	push_gone(uring, (uint32_t)cookie);
	/* After the detach, the library would count the ring's references in the slab's baseline. */
	if (atomic_load(&uring->ending))
		clear_gone(uring, false);
	return slab->flags & EVPL_SLAB_LEASED ? 0 : EVPL_DEVICE_LATER;
}

/*
 * With IORING_SETUP_DEFER_TASKRUN the kernel releases the buffers of completed requests, and
 * slots that were cleared meanwhile, when the ring's thread next enters the ring.
 */
static void enter_idle_ring(struct evpl_uring *uring)
{
	if (uring->ring->flags & IORING_SETUP_DEFER_TASKRUN)
		io_uring_get_events(uring->ring);
}

static void note_failure(struct evpl_uring *uring, int err)
{
	char limit[64];

	uring->stats.error = err;
	switch (err) {
	case -ENOSPC:
		notice_set(uring->notice, "All %u slots for registered buffers are in use: I/O in "
			   "further slabs isn't registered. Give more slots.", uring->stats.slots);
		break;
	case -EOPNOTSUPP:
		notice_set(uring->notice, "This kernel's io_uring doesn't register memory of this "
			   "kind: I/O works, unregistered. Linux 6.12 does.");
		break;
	case -ENOMEM:
		notice_set(uring->notice, "io_uring can't lock more memory (there is %s, "
			   "RLIMIT_MEMLOCK): I/O in further slabs isn't registered. Raise "
			   "'ulimit -l', or give CAP_IPC_LOCK.",
			   memlock_limit(limit, sizeof(limit)));
		break;
	case -EEXIST:
		notice_set(uring->notice, "io_uring registers memory with this ring on the ring's own "
			   "thread alone: I/O prepared on another one isn't registered.");
		break;
	default:
		notice_set(uring->notice, "io_uring can't register this memory: %s. I/O works, "
			   "unregistered.", strerror(-err));
	}
}

/* Puts a slab in a free slot. Returns the slot or an error. Called with the lock held. */
static int fill_slot(struct evpl_uring *uring, const struct evpl_slab_info *info)
{
	uint32_t slot = uring->free;
	int err = uring->refused;
	uintptr_t base;

	if (!err && slot == NO_SLOT)
		err = -ENOSPC;
	if (err) {
		note_failure(uring, err);
		return err;
	}

	err = register_memory(uring, slot, info, &base);
	if (err) {
		uring->stats.failures++;
		note_failure(uring, err);
		/*
		 * EFAULT is about this slab, ENOENT about a lease that was revoked, and EEXIST
		 * about this thread. Any other error would come for the next slab, too. ENOMEM
		 * goes when memory is released.
		 */
		if (err != -EFAULT && err != -ENOENT && err != -EEXIST)
			uring->refused = err;
		return err;
	}

	uring->free = uring->slots[slot].next;
	uring->slots[slot].number = info->flags & EVPL_SLAB_LEASED ? LEASE : info->number;
	uring->slots[slot].base = base;
	uring->stats.slots_used++;
	uring->stats.registrations++;
	return (int)slot;
}

/* Registers a slab at its first use. */
static int register_slab(struct evpl_uring *uring, const struct evpl_iovec *iovec)
{
	struct evpl_slab_info info;
	int slot, err;

	if (evpl_iovec_slab(iovec, &info))
		return -ENOENT;
	pthread_mutex_lock(&uring->lock);
	slot = fill_slot(uring, &info);
	if (slot == -EFAULT) {
		evpl_device_set_cookie(uring->device, iovec, UNREGISTERED);
	} else if (slot >= 0) {
		err = evpl_device_set_cookie(uring->device, iovec, (uint64_t)slot);
		if (err) {
			/* Another thread has registered the slab, against the rules of the ring. */
			clear_slot(uring, (uint32_t)slot);
			free_slot(uring, (uint32_t)slot);
			slot = err;
		}
	}
	pthread_mutex_unlock(&uring->lock);
	return slot;
}

/* Finds the slot that a slab has in a copied table. Called with the lock held. */
static int take_cloned(struct evpl_uring *uring, const struct evpl_slab_info *slab)
{
	uint32_t *link = &uring->cloned, slot;

	for (slot = *link; slot != NO_SLOT; slot = *link) {
		if (uring->slots[slot].number == slab->number) {
			*link = uring->slots[slot].next;
			uring->stats.slots_used++;
			return (int)slot;
		}
		link = &uring->slots[slot].next;
	}
	return -ENOENT;
}

/*
 * The callback for a slab that the pool has while the ring is set up, and for a leased buffer when
 * find_slot() asks for it. A slab that comes later is registered at its first use.
 */
static int meet_slab(void *arg, const struct evpl_slab_info *slab, uint64_t *cookie)
{
	struct evpl_uring *uring = arg;
	bool leased = slab->flags & EVPL_SLAB_LEASED;
	int slot;

	if (leased)
		clear_gone(uring, false);
	pthread_mutex_lock(&uring->lock);
	slot = leased || uring->eager ? fill_slot(uring, slab) : take_cloned(uring, slab);
	pthread_mutex_unlock(&uring->lock);
	if (slot < 0 && slot != -EFAULT)
		return slot;
	*cookie = slot < 0 ? UNREGISTERED : (uint64_t)slot;
	return 0;
}

/* The slot of a slice's slab, which is registered if need be, or an error. */
static int find_slot(struct evpl_uring *uring, const struct evpl_iovec *iovec)
{
	uint64_t cookie;
	int err;

	err = evpl_device_cookie(uring->device, iovec, &cookie);
	if (err && err != -ENOENT)
		return err;
	clear_gone(uring, false);
	if (err)
		return register_slab(uring, iovec);
	if (cookie == UNREGISTERED)
		return -EFAULT;
	return (int)cookie;
}

int evplmem_uring_fixed(struct evpl_uring *uring, const struct evpl_iovec *iovec,
			uint64_t *r_address)
{
	int slot = find_slot(uring, iovec);

	if (slot < 0)
		return slot;
	*r_address = (uintptr_t)iovec->data - uring->slots[slot].base;
	return (int)uring->first_slot + slot;
}

/* evplmem_uring_fixed(), as liburing takes the address. */
static int fixed(struct evpl_uring *uring, const struct evpl_iovec *iovec, void **r_address)
{
	uint64_t address = 0;
	int index = evplmem_uring_fixed(uring, iovec, &address);

	*r_address = (void *)(uintptr_t)address;
	return index;
}

int evplmem_uring_prep_read(struct evpl_uring *uring, struct io_uring_sqe *sqe, int fd,
			    const struct evpl_iovec *iovec, uint64_t offset)
{
	void *address;
	int index = fixed(uring, iovec, &address);

	if (index < 0) {
		io_uring_prep_read(sqe, fd, iovec->data, iovec->length, offset);
		return 0;
	}
	io_uring_prep_read_fixed(sqe, fd, address, iovec->length, offset, index);
	return 1;
}

int evplmem_uring_prep_write(struct evpl_uring *uring, struct io_uring_sqe *sqe, int fd,
			     const struct evpl_iovec *iovec, uint64_t offset)
{
	void *address;
	int index = fixed(uring, iovec, &address);

	if (index < 0) {
		io_uring_prep_write(sqe, fd, iovec->data, iovec->length, offset);
		return 0;
	}
	io_uring_prep_write_fixed(sqe, fd, address, iovec->length, offset, index);
	return 1;
}

/* Whether the kernel reads into several parts of a registered buffer, as from Linux 6.15 on. */
static bool has_readv_fixed(struct evpl_uring *uring)
{
	struct io_uring_probe *probe;

	if (!uring->probed) {
		probe = io_uring_get_probe_ring(uring->ring);
		if (!probe)
			return false;
		uring->has_readv_fixed = io_uring_opcode_supported(probe, WRITEV_FIXED);
		uring->probed = true;
		io_uring_free_probe(probe);
	}
	return uring->has_readv_fixed;
}

/*
 * Whether these slices can share a registered buffer: all are of one slab, and none is empty,
 * since the kernel refuses an empty part of a registered buffer.
 */
static bool can_share_buffer(const struct evpl_iovec *iovecs, int niov)
{
	struct evpl_slab_info first, info;
	int i;

	for (i = 0; i < niov; i++) {
		if (!iovecs[i].length || evpl_iovec_slab(&iovecs[i], i ? &info : &first))
			return false;
		if (i && info.base != first.base)
			return false;
	}
	return niov > 0;
}

/* Turns a prepared READV or WRITEV into one of a registered buffer, where that can be. */
static int fix_vector(struct evpl_uring *uring, struct io_uring_sqe *sqe, uint8_t opcode,
		      const struct evpl_iovec *iovecs, int niov, struct iovec *vector)
{
	uintptr_t base;
	int slot, i;

	/* The slab is registered only if the request can use that. */
	if (!can_share_buffer(iovecs, niov) || !has_readv_fixed(uring))
		return 0;
	slot = find_slot(uring, &iovecs[0]);
	if (slot < 0)
		return 0;
	base = uring->slots[slot].base;
	for (i = 0; i < niov; i++)
		vector[i].iov_base = (void *)((uintptr_t)vector[i].iov_base - base);
	sqe->opcode = opcode;
	sqe->buf_index = (uint16_t)(uring->first_slot + (unsigned int)slot);
	return 1;
}

int evplmem_uring_prep_readv(struct evpl_uring *uring, struct io_uring_sqe *sqe, int fd,
			     const struct evpl_iovec *iovecs, int niov, struct iovec *vector,
			     uint64_t offset)
{
	if (niov == 1)
		return evplmem_uring_prep_read(uring, sqe, fd, iovecs, offset);
	evpl_iovec_to_iovec(vector, iovecs, niov);
	io_uring_prep_readv(sqe, fd, vector, (unsigned int)niov, offset);
	return fix_vector(uring, sqe, READV_FIXED, iovecs, niov, vector);
}

int evplmem_uring_prep_writev(struct evpl_uring *uring, struct io_uring_sqe *sqe, int fd,
			      const struct evpl_iovec *iovecs, int niov, struct iovec *vector,
			      uint64_t offset)
{
	if (niov == 1)
		return evplmem_uring_prep_write(uring, sqe, fd, iovecs, offset);
	evpl_iovec_to_iovec(vector, iovecs, niov);
	io_uring_prep_writev(sqe, fd, vector, (unsigned int)niov, offset);
	return fix_vector(uring, sqe, WRITEV_FIXED, iovecs, niov, vector);
}

int evplmem_uring_prep_send_zc(struct evpl_uring *uring, struct io_uring_sqe *sqe, int fd,
			       const struct evpl_iovec *iovec, int flags)
{
	void *address;
	int index = fixed(uring, iovec, &address);
	struct evpl_slab_info info;

	if (index >= 0) {
		io_uring_prep_send_zc_fixed(sqe, fd, address, iovec->length, flags, 0,
					    (unsigned int)index);
		return 1;
	}
	if (evpl_iovec_slab(iovec, &info))
		io_uring_prep_send(sqe, fd, iovec->data, iovec->length, flags);
	else
		io_uring_prep_send_zc(sqe, fd, iovec->data, iovec->length, flags, 0);
	return 0;
}

static struct evpl_uring *new_uring(struct evpl_pool *pool, struct io_uring *ring,
				    unsigned int first_slot, unsigned int nr_slots)
{
	struct evpl_uring *uring;

	uring = calloc(1, sizeof(*uring) + nr_slots * sizeof(uring->slots[0]));
	if (!uring)
		return NULL;
	uring->pool = pool;
	uring->ring = ring;
	uring->first_slot = first_slot;
	uring->stats.slots = nr_slots;
	uring->free = NO_SLOT;
	uring->cloned = NO_SLOT;
	pthread_mutex_init(&uring->lock, NULL);
	atomic_init(&uring->gone, NO_SLOT);
	open_own_ring(uring);
	return uring;
}

static void free_uring(struct evpl_uring *uring)
{
	close_own_ring(uring);
	pthread_mutex_destroy(&uring->lock);
	free(uring);
}

/* Attaches to the pool. The pool calls meet_slab() for each slab if slots are to be filled now. */
static int attach(struct evpl_uring *uring)
{
	struct evpl_device_ops ops = {
		.size = sizeof(ops),
		.unregister_slab = unregister_slab,
	};

	if (uring->leases)
		ops.flags = EVPL_DEVICE_LEASES;
	if (uring->leases || uring->eager || uring->cloned != NO_SLOT)
		ops.register_slab = meet_slab;
	return evpl_device_attach(uring->pool, &ops, uring, &uring->device);
}

int evplmem_uring_create(struct evpl_uring **r_uring, struct evpl_pool *pool,
			 struct io_uring *ring, unsigned int first_slot,
			 unsigned int nr_slots, unsigned int flags)
{
	struct evpl_uring *uring;
	uint32_t slot;
	int err;

	if (!nr_slots || nr_slots > SLOTS_MAX || first_slot > SLOTS_MAX - nr_slots)
		return -EINVAL;
	if (flags & ~(EVPL_URING_NEW_TABLE | EVPL_URING_EAGER | EVPL_URING_LEASES))
		return -EOPNOTSUPP;
	if (pool_is_inherited(pool))
		return -EPERM;

	uring = new_uring(pool, ring, first_slot, nr_slots);
	if (!uring)
		return -ENOMEM;
	for (slot = nr_slots; slot--; ) {
		uring->slots[slot].number = NO_SLAB;
		push(uring, &uring->free, slot);
	}

	if (flags & EVPL_URING_NEW_TABLE) {
		err = io_uring_register_buffers_sparse(ring, first_slot + nr_slots);
		if (err)
			goto free_uring;
	}
	uring->leases = flags & EVPL_URING_LEASES;
	uring->eager = flags & EVPL_URING_EAGER;
	err = attach(uring);
	if (err)
		goto unregister_table;
	pthread_mutex_lock(&uring->lock);
	uring->eager = false;
	pthread_mutex_unlock(&uring->lock);
	*r_uring = uring;
	return 0;

unregister_table:
	if (flags & EVPL_URING_NEW_TABLE)
		io_uring_unregister_buffers(ring);
free_uring:
	free_uring(uring);
	return err;
}

/*
 * Gives a ring the table of another one, or an empty table where the kernel can't copy.
 * Linux before 6.12 doesn't know the call. Later versions refuse with EINVAL if the rings are
 * charged to different users or processes. Linux 6.18 and later refuse with EEXIST if the source
 * is another thread's. The kernel also gives EEXIST if @ring is another thread's, but then it
 * refuses the empty table as well. Returns 1 for a copy, 0 for an empty table, or an error.
 */
static int table_clone(struct io_uring *ring, struct evpl_uring *source)
{
	const struct clone_buffers all = { .source = (uint32_t)source->ring->ring_fd };
	int err = clone_buffers(ring, &all);

	if (!err)
		return 1;
	if (err != -EINVAL && err != -EEXIST)
		return err;
	return io_uring_register_buffers_sparse(ring, source->first_slot + source->stats.slots);
}

int evplmem_uring_clone(struct evpl_uring **r_uring, struct evpl_uring *source,
			struct io_uring *ring)
{
	struct evpl_uring *uring;
	uint32_t slot, next;
	int ret, err;

	if (pool_is_inherited(source->pool))
		return -EPERM;
	uring = new_uring(source->pool, ring, source->first_slot, source->stats.slots);
	if (!uring)
		return -ENOMEM;
	uring->leases = source->leases;

	/* The lock keeps the source's slots as they are until meet_slab() has seen all slabs. */
	pthread_mutex_lock(&source->lock);
	ret = table_clone(ring, source);
	if (ret < 0)
		goto unlock;
	for (slot = uring->stats.slots; slot--; ) {
		uring->slots[slot].number = ret ? source->slots[slot].number : NO_SLAB;
		uring->slots[slot].base = source->slots[slot].base;
		push(uring, uring->slots[slot].number == NO_SLAB ? &uring->free : &uring->cloned,
		     slot);
	}
	err = attach(uring);
	if (err) {
		io_uring_unregister_buffers(ring);
		ret = err;
		goto unlock;
	}

	/*
	 * The slots that are left have leased buffers, which this ring registers by itself, and
	 * slabs that are gone, whose slots the source has yet to clear.
	 */
	pthread_mutex_lock(&uring->lock);
	for (slot = uring->cloned; slot != NO_SLOT; slot = next) {
		next = uring->slots[slot].next;
		uring->slots[slot].number = NO_SLAB;
		uring->stats.slots_used++;
		push_gone(uring, slot);
	}
	uring->cloned = NO_SLOT;
	pthread_mutex_unlock(&uring->lock);
	clear_gone(uring, false);
	*r_uring = uring;
unlock:
	pthread_mutex_unlock(&source->lock);
	if (ret < 0)
		free_uring(uring);
	return ret;
}

void evplmem_uring_destroy(struct evpl_uring *uring)
{
	if (!uring || pool_is_inherited(uring->pool))
		return;
	atomic_store(&uring->ending, true);
	/* This clears the slots of all slabs, or leaves them on the list of slots to clear. */
	evpl_device_detach(uring->device);
	clear_gone(uring, true);
	enter_idle_ring(uring);
	free_uring(uring);
}

void evplmem_uring_flush(struct evpl_uring *uring)
{
	if (pool_is_inherited(uring->pool))
		return;
	clear_gone(uring, false);
	enter_idle_ring(uring);
	if (uring->refused == -ENOMEM)
		uring->refused = 0;
}

int evplmem_uring_stats(struct evpl_uring *uring, struct evpl_uring_stats *stats)
{
	if (pool_is_inherited(uring->pool))
		return -EPERM;
	return stats_copy(stats, &uring->stats, sizeof(uring->stats));
}

const char *evplmem_uring_notice(struct evpl_uring *uring)
{
	if (!uring->notice[0] || uring->told || pool_is_inherited(uring->pool))
		return NULL;
	uring->told = true;
	return uring->notice;
}
