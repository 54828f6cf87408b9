/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_URING_H
#define EVPLMEM_URING_H

/**
 * DOC: libevplmem-uring
 *
 * The memory of a pool as registered ("fixed") buffers of an io_uring.
 *
 * A ring has a table of registered buffers. The caller gives a range of its slots
 * to a &struct evpl_uring, which puts one slab in each: when an iovec of the slab
 * is first used with the ring, since only the ring's own thread may do it. From
 * then on the slab's slot is found without a system call, a lock or a search.
 *
 * What can't be registered works all the same: evpl_uring_prep_read() and
 * evpl_uring_prep_write() prepare an ordinary read or write then. That is so for
 * all memory where the kernel refuses to register this kind (Linux 6.1 refuses the
 * module's; 6.12 takes it), and for single slabs where no slot is left or the user
 * may not lock more memory: io_uring charges what it registers to RLIMIT_MEMLOCK,
 * unless the process has CAP_IPC_LOCK. evpl_uring_notice() says so, once.
 *
 * When the pool gives a slab back, on whichever thread, its slot is cleared at the
 * next call for the ring. Until then the kernel keeps the slab's memory: a ring
 * that falls idle is best told so with evpl_uring_flush().
 *
 * Where each thread has a ring, each would register, and be charged for, the same
 * memory. evpl_uring_clone() gives a ring what another one has registered already.
 *
 * Threads: all calls for one ring are made on the thread that may submit to it, or
 * one at a time where any thread may. The pool can be used, trimmed too, by other
 * threads meanwhile. A ring with IORING_SETUP_SINGLE_ISSUER is one thread's: that which
 * made it, or with IORING_SETUP_R_DISABLED that which enables it; until then any
 * thread may make the calls. To others the kernel says -EEXIST, and nothing of theirs
 * is registered, nor any slot cleared: the ring's thread does that at its next call.
 *
 * Data that comes from sockets need not wait in a buffer for each: a
 * &struct evpl_uring_buf_ring keeps a ring of provided buffers filled from a context, and
 * hands out what was received as iovecs.
 *
 * Errors: as in evplmem.h, negative errnos, and nothing has changed. What a child of
 * fork(2) finds is said there too; what evpl_uring_prep_read() and the like prepare for
 * it isn't registered.
 */

#include <evplmem.h>

struct io_uring;
struct io_uring_cqe;
struct io_uring_sqe;

#ifdef __cplusplus
extern "C" {
#endif

/* A function may be named like the struct that it fills, which C++ calls a shadow. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wshadow"

#ifdef EVPLMEM_PREFIX_ONLY
#include "evplmem-prefix.h"
#endif

/** struct evpl_uring - a pool's memory, registered with a ring; opaque */
struct evpl_uring;

/**
 * EVPL_URING_NEW_TABLE - the ring has no table of registered buffers yet
 *
 * An empty one is registered, with room for all slots that are asked for and those
 * before them. It stays with the ring. Without this flag, the caller has
 * registered a table (io_uring_register_buffers_sparse(3)) and the slots are empty.
 */
#define EVPL_URING_NEW_TABLE	(1U << 0)

/**
 * EVPL_URING_EAGER - register the slabs that the pool has
 *
 * They are registered before evpl_uring_create() returns, those that come later when
 * they are first used. That one of them can't be isn't an error: evpl_uring_notice()
 * tells why, and the slab is tried again when it is used.
 */
#define EVPL_URING_EAGER	(1U << 1)

/**
 * struct evpl_uring_stats - what evpl_uring_stats() tells
 * @size: sizeof(struct evpl_uring_stats), set by the caller
 * @slots: slots that were given
 * @slots_used: slots with a slab, slabs included that are gone and whose slot is
 *	cleared at the next call
 * @registrations: slabs registered since the start, without those that
 *	evpl_uring_clone() found registered
 * @unregistrations: slots cleared since
 * @failures: system calls to register that failed, since
 * @error: why the last slab that couldn't be registered couldn't, as a negative
 *	errno, or 0; see evpl_uring_index()
 * @__reserved: 0
 */
struct evpl_uring_stats {
	size_t size;
	unsigned int slots;
	unsigned int slots_used;
	uint64_t registrations;
	uint64_t unregistrations;
	uint64_t failures;
	int error;
	int __reserved;
};

/** EVPL_URING_STATS_INIT - initializer of &struct evpl_uring_stats */
#define EVPL_URING_STATS_INIT	EVPLMEM_SIZED(uring_stats)

/** struct evpl_uring_buf_ring - buffers of a context that a ring receives into; opaque */
struct evpl_uring_buf_ring;

/**
 * EVPL_BUF_RING_INCREMENTAL - the kernel fills a buffer piece by piece
 *
 * Several completions share a buffer, so that small messages don't take a large one each.
 * Linux 6.12 has this (IOU_PBUF_RING_INC).
 */
#define EVPL_BUF_RING_INCREMENTAL	(1U << 0)

/* What is exported; use the inlines below. */
#pragma GCC visibility push(default)
int evplmem_uring_create(struct evpl_uring **r_uring, struct evpl_pool *pool,
			 struct io_uring *ring, unsigned int first_slot,
			 unsigned int nr_slots, unsigned int flags);
int evplmem_uring_clone(struct evpl_uring **r_uring, struct evpl_uring *source,
			struct io_uring *ring);
void evplmem_uring_destroy(struct evpl_uring *uring);
int evplmem_uring_index(struct evpl_uring *uring, const struct evpl_iovec *iovec);
int evplmem_uring_prep_read(struct evpl_uring *uring, struct io_uring_sqe *sqe, int fd,
			    const struct evpl_iovec *iovec, uint64_t offset);
int evplmem_uring_prep_write(struct evpl_uring *uring, struct io_uring_sqe *sqe, int fd,
			     const struct evpl_iovec *iovec, uint64_t offset);
int evplmem_uring_prep_readv(struct evpl_uring *uring, struct io_uring_sqe *sqe, int fd,
			     const struct evpl_iovec *iovecs, int niov, struct iovec *vector,
			     uint64_t offset);
int evplmem_uring_prep_writev(struct evpl_uring *uring, struct io_uring_sqe *sqe, int fd,
			      const struct evpl_iovec *iovecs, int niov, struct iovec *vector,
			      uint64_t offset);
int evplmem_uring_prep_send_zc(struct evpl_uring *uring, struct io_uring_sqe *sqe, int fd,
			       const struct evpl_iovec *iovec, int flags);
void evplmem_uring_flush(struct evpl_uring *uring);
int evplmem_uring_stats(struct evpl_uring *uring, struct evpl_uring_stats *stats);
const char *evplmem_uring_notice(struct evpl_uring *uring);
int evplmem_uring_buf_ring_create(struct evpl_uring_buf_ring **r_buf_ring, struct evpl *evpl,
				  struct io_uring *ring, unsigned int id, unsigned int entries,
				  unsigned int length, unsigned int flags);
int evplmem_uring_buf_ring_take(struct evpl_uring_buf_ring *buf_ring,
				const struct io_uring_cqe *cqe, unsigned int max_iovecs,
				struct evpl_iovec *r_iovec);
int evplmem_uring_buf_ring_refill(struct evpl_uring_buf_ring *buf_ring);
void evplmem_uring_buf_ring_destroy(struct evpl_uring_buf_ring *buf_ring);
#pragma GCC visibility pop

#ifndef EVPLMEM_PREFIX_ONLY

/**
 * evpl_uring_create() - use a pool's memory with a ring
 * @r_uring: where it goes; end it with evpl_uring_destroy()
 * @pool: the pool
 * @ring: the ring; it must live, at this address, until evpl_uring_destroy()
 * @first_slot: the first slot of its table of registered buffers to use
 * @nr_slots: how many; with the slots before them at most 16384
 * @flags: %EVPL_URING_NEW_TABLE, %EVPL_URING_EAGER, or 0
 *
 * Slots are as good as slabs: a pool with the default sizes has a GiB in 20.
 *
 * Return: 0, or
 *  - -EINVAL: @nr_slots is 0, or there are too many; %EVPL_URING_NEW_TABLE before
 *    Linux 5.19
 *  - -EOPNOTSUPP: an unknown flag
 *  - -EBUSY: %EVPL_URING_NEW_TABLE, and the ring has a table
 *  - -EEXIST: %EVPL_URING_NEW_TABLE, and the ring is another thread's
 *  - -ENOSPC: the pool has %EVPL_DEVICES_MAX devices already
 *  - -ENOMEM: no memory
 */
static inline int evpl_uring_create(struct evpl_uring **r_uring, struct evpl_pool *pool,
				    struct io_uring *ring, unsigned int first_slot,
				    unsigned int nr_slots, unsigned int flags)
{
	return evplmem_uring_create(r_uring, pool, ring, first_slot, nr_slots, flags);
}

/**
 * evpl_uring_clone() - use a pool's memory with a ring as another ring does
 * @r_uring: where it goes; end it with evpl_uring_destroy()
 * @source: the other ring's; its own thread may use it meanwhile, not destroy it
 * @ring: the ring, which has no table of registered buffers; otherwise as for
 *	evpl_uring_create()
 *
 * The kernel copies the other ring's whole table, buffers that aren't of @source
 * included, so that @ring can use all slabs that are registered there. They are pinned
 * and charged to RLIMIT_MEMLOCK once for all rings, until the last of them has cleared
 * its slot or is gone, in any order. Afterwards the rings have nothing to do with each
 * other: a slab that isn't in the copy is registered, and charged, by each ring that
 * uses it. So take the slabs first (evpl_pool_preallocate()) and make the source
 * %EVPL_URING_EAGER. A ring that has no request in flight can be given a new copy with
 * evpl_uring_destroy(), io_uring_unregister_buffers(3) and this.
 *
 * Where the kernel can't copy, @ring gets an empty table of its own and registers for
 * itself, as with %EVPL_URING_NEW_TABLE. That is so before Linux 6.12, and if the rings
 * are charged to different users or processes; from Linux 6.18 on also if the other ring
 * is another thread's (IORING_SETUP_SINGLE_ISSUER): the best source is a small ring
 * without that flag, which need not do any I/O.
 *
 * Return: 1 if the table is a copy, 0 if it is one of its own. Not an error either
 * way. Or
 *  - -EBUSY: @ring has a table
 *  - -EEXIST: @ring is another thread's
 *  - -ENXIO: the other ring has no table
 *  - -ENOSPC: the pool has %EVPL_DEVICES_MAX devices already
 *  - -ENOMEM: no memory
 */
static inline int evpl_uring_clone(struct evpl_uring **r_uring, struct evpl_uring *source,
				   struct io_uring *ring)
{
	return evplmem_uring_clone(r_uring, source, ring);
}

/**
 * evpl_uring_destroy() - end it
 * @uring: what evpl_uring_create() or evpl_uring_clone() made, or NULL
 *
 * Clears the slots. Call it before io_uring_queue_exit(3), and before the pool is
 * closed. Requests that were submitted are completed as usual. Where the ring is
 * another thread's, the slots can't be cleared: the memory stays pinned until
 * io_uring_queue_exit(3).
 */
static inline void evpl_uring_destroy(struct evpl_uring *uring)
{
	evplmem_uring_destroy(uring);
}

/**
 * evpl_uring_index() - which registered buffer a slice lies in
 * @uring: what evpl_uring_create() made
 * @iovec: an iovec of the pool that the caller holds a reference by
 *
 * Registers the slab if it isn't yet: with one system call the first time, with
 * none afterwards, nor where it can't succeed. After -ENOMEM it is tried again when
 * a slot was cleared, or evpl_uring_flush() called.
 *
 * Return: the index for the SQE's buf_index, valid while the reference is held; or
 *  - -ENOENT: @iovec is empty, or another process's memory
 *  - -EINVAL: @iovec is of another pool or of none
 *  - -ENOSPC: all slots are in use
 *  - -EOPNOTSUPP: this kernel registers no memory of this kind
 *  - -ENOMEM: RLIMIT_MEMLOCK is reached, or memory is short
 *  - -EEXIST: the ring is another thread's
 *  - -EFAULT: the kernel can't pin this slab, and it isn't tried again
 *  - another error of io_uring_register(2), such as -EINVAL again or -ENXIO: the slots
 *    aren't within the ring's table, or there is none
 */
static inline int evpl_uring_index(struct evpl_uring *uring, const struct evpl_iovec *iovec)
{
	return evplmem_uring_index(uring, iovec);
}

/**
 * evpl_uring_prep_read() - prepare a read into a slice
 * @uring: what evpl_uring_create() made
 * @sqe: the ring's
 * @fd: the file
 * @iovec: where to; the caller keeps its reference until the read has completed
 * @offset: where in the file
 *
 * Fills @sqe with READ_FIXED, or READ where the slab isn't registered. Flags and
 * user data are the caller's to set afterwards, as with io_uring_prep_read(3).
 *
 * Return: 1 if the memory is registered, 0 if not. Not an error either way.
 */
static inline int evpl_uring_prep_read(struct evpl_uring *uring, struct io_uring_sqe *sqe,
				       int fd, const struct evpl_iovec *iovec, uint64_t offset)
{
	return evplmem_uring_prep_read(uring, sqe, fd, iovec, offset);
}

/**
 * evpl_uring_prep_write() - prepare a write from a slice
 * @uring: what evpl_uring_create() made
 * @sqe: the ring's
 * @fd: the file
 * @iovec: where from; the caller keeps its reference until the write has completed
 * @offset: where in the file
 *
 * As evpl_uring_prep_read(), with WRITE_FIXED or WRITE.
 *
 * Return: 1 if the memory is registered, 0 if not.
 */
static inline int evpl_uring_prep_write(struct evpl_uring *uring, struct io_uring_sqe *sqe,
					int fd, const struct evpl_iovec *iovec, uint64_t offset)
{
	return evplmem_uring_prep_write(uring, sqe, fd, iovec, offset);
}

/**
 * evpl_uring_prep_readv() - prepare a read into several slices
 * @uring: what evpl_uring_create() made
 * @sqe: the ring's
 * @fd: the file
 * @iovecs: where to, in this order; the caller keeps the references until the read has
 *	completed
 * @niov: how many, at most 1024 (IOV_MAX)
 * @vector: room for @niov, which this fills. It must stay until the request has been
 *	submitted; with IORING_SETUP_SQPOLL, until it has completed
 * @offset: where in the file
 *
 * Fills @sqe with READV_FIXED where one registered buffer has all slices and the kernel has
 * that request (Linux 6.15), with READ_FIXED for a single slice that is registered, and with
 * READV otherwise. Slices share a registered buffer if they are of one slab. Flags and user
 * data are the caller's to set afterwards.
 *
 * Return: 1 if the memory is registered, 0 if not. Not an error either way. With more than
 * 1024 iovecs, or fewer than none, the request completes with -EINVAL.
 */
static inline int evpl_uring_prep_readv(struct evpl_uring *uring, struct io_uring_sqe *sqe,
					int fd, const struct evpl_iovec *iovecs, int niov,
					struct iovec *vector, uint64_t offset)
{
	return evplmem_uring_prep_readv(uring, sqe, fd, iovecs, niov, vector, offset);
}

/**
 * evpl_uring_prep_writev() - prepare a write from several slices
 * @uring: what evpl_uring_create() made
 * @sqe: the ring's
 * @fd: the file
 * @iovecs: where from; as for evpl_uring_prep_readv(), as all that follows
 * @niov: how many
 * @vector: room for @niov
 * @offset: where in the file
 *
 * As evpl_uring_prep_readv(), with WRITEV_FIXED, WRITE_FIXED or WRITEV.
 *
 * Return: 1 if the memory is registered, 0 if not.
 */
static inline int evpl_uring_prep_writev(struct evpl_uring *uring, struct io_uring_sqe *sqe,
					 int fd, const struct evpl_iovec *iovecs, int niov,
					 struct iovec *vector, uint64_t offset)
{
	return evplmem_uring_prep_writev(uring, sqe, fd, iovecs, niov, vector, offset);
}

/**
 * evpl_uring_prep_send_zc() - prepare to send a slice over a socket, without a copy
 * @uring: what evpl_uring_create() made
 * @sqe: the ring's
 * @fd: the socket
 * @iovec: what to send
 * @flags: as for send(2)
 *
 * Fills @sqe with SEND_ZC, of a registered buffer where the slab is one; with SEND,
 * which copies, for another process's memory, as that can't be lent to a socket.
 *
 * SEND_ZC has two completions: the first, with IORING_CQE_F_MORE, says how much was
 * sent; the second, with IORING_CQE_F_NOTIF, that the socket needs the memory no more.
 * The caller keeps its reference until the last one: that without IORING_CQE_F_MORE.
 *
 * Return: 1 if the memory is registered, 0 if not. Not an error either way. Linux
 * before 6.0 has no SEND_ZC; the request gives -EINVAL there.
 */
static inline int evpl_uring_prep_send_zc(struct evpl_uring *uring, struct io_uring_sqe *sqe,
					  int fd, const struct evpl_iovec *iovec, int flags)
{
	return evplmem_uring_prep_send_zc(uring, sqe, fd, iovec, flags);
}

/**
 * evpl_uring_flush() - clear the slots of slabs that are gone
 * @uring: what evpl_uring_create() made
 *
 * The other calls do it too. This one is for a ring that will be idle for a while,
 * and has slabs tried again that couldn't be registered for want of memory. It may
 * have requests completed that could be (IORING_SETUP_DEFER_TASKRUN). Before Linux
 * 6.13 the kernel lets go of the memory once all requests with registered buffers or
 * files that were in flight are done.
 */
static inline void evpl_uring_flush(struct evpl_uring *uring)
{
	evplmem_uring_flush(uring);
}

/**
 * evpl_uring_stats() - what was registered
 * @uring: what evpl_uring_create() made
 * @stats: where it goes; @stats->size says how much of it there is, and what the
 *	library doesn't know of is zeroed
 *
 * Return: 0, or -EINVAL: @stats is too short for its size.
 */
static inline int evpl_uring_stats(struct evpl_uring *uring, struct evpl_uring_stats *stats)
{
	return evplmem_uring_stats(uring, stats);
}

/**
 * evpl_uring_notice() - what the user should know, once
 * @uring: what evpl_uring_create() made
 *
 * Return: after a slab couldn't be registered, a sentence that says why and what
 * can be done, for the program to print; valid until evpl_uring_destroy(). NULL
 * before that, and when it was returned already.
 */
static inline const char *evpl_uring_notice(struct evpl_uring *uring)
{
	return evplmem_uring_notice(uring);
}

/**
 * evpl_uring_buf_ring_create() - have a context feed a ring of provided buffers
 * @r_buf_ring: where it goes; end it with evpl_uring_buf_ring_destroy()
 * @evpl: the context; it must live until then
 * @ring: the io_uring; it must live, at this address, until then
 * @id: the buffer group, which no other buffers have: 0 to 65535
 * @entries: buffers to keep there: a power of two, at most 32768
 * @length: bytes of each, at most the pool's buffer size
 * @flags: %EVPL_BUF_RING_INCREMENTAL or 0
 *
 * A request with IOSQE_BUFFER_SELECT that names @id (recv, recvmsg, read; also multishot) is
 * given a buffer when there is data. evpl_uring_buf_ring_take() turns its completion into
 * iovecs, and gives the ring new buffers for those that are used up. So a server that waits
 * on thousands of sockets keeps memory for what arrives, not for each socket, and nothing is
 * copied out of the ring.
 *
 * All calls are made on the context's thread, one at a time. The memory isn't registered,
 * and takes no slot; it can be sent or written by evpl_uring_prep_write() and the like.
 *
 * Return: 0, or
 *  - -EINVAL: @id, @entries or @length is out of range
 *  - -EOPNOTSUPP: an unknown flag, or one that this kernel doesn't have; Linux before 5.19
 *  - -EEXIST: the ring has a group @id, or is another thread's
 *  - -ENOBUFS: @length is more than the pool's buffer size
 *  - -ENOMEM: memory is short, or a limit is reached
 *  - -EPERM: @evpl was destroyed, or inherited over fork(2)
 */
static inline int evpl_uring_buf_ring_create(struct evpl_uring_buf_ring **r_buf_ring,
					     struct evpl *evpl, struct io_uring *ring,
					     unsigned int id, unsigned int entries,
					     unsigned int length, unsigned int flags)
{
	return evplmem_uring_buf_ring_create(r_buf_ring, evpl, ring, id, entries, length, flags);
}

/**
 * evpl_uring_buf_ring_take() - take what a completion has received
 * @buf_ring: what evpl_uring_buf_ring_create() made
 * @cqe: a completion of a request that named its group; each is taken once, in any order
 * @max_iovecs: room in @r_iovec: 1, but for completions of IORING_RECVSEND_BUNDLE
 * @r_iovec: where the iovecs go
 *
 * The iovecs have the received bytes, in order, each with a reference of the caller's. Then
 * the ring is given buffers for those that are used up, as far as there is memory.
 *
 * Take completions before io_uring_cqe_seen(3), failed ones too: those can have a buffer,
 * which goes back to the ring.
 *
 * Return: the number of iovecs; 0 if the completion has no bytes or no buffer; or
 *  - -ENOBUFS: it has more than @max_iovecs; nothing has changed
 *  - -EINVAL: it names no buffer that the ring has given out: it is of another group
 *  - -EPERM: the context was inherited over fork(2)
 */
static inline int evpl_uring_buf_ring_take(struct evpl_uring_buf_ring *buf_ring,
					   const struct io_uring_cqe *cqe,
					   unsigned int max_iovecs, struct evpl_iovec *r_iovec)
{
	return evplmem_uring_buf_ring_take(buf_ring, cqe, max_iovecs, r_iovec);
}

/**
 * evpl_uring_buf_ring_refill() - give the ring the buffers that it lacks
 * @buf_ring: what evpl_uring_buf_ring_create() made
 *
 * For when memory was short: requests that find no buffer complete with -ENOBUFS, and a
 * multishot one ends. Call this when memory was released (evpl_pool_eventfd()), then submit
 * them again.
 *
 * Return: how many buffers the ring lacks still, or -EPERM: the context was inherited over
 * fork(2).
 */
static inline int evpl_uring_buf_ring_refill(struct evpl_uring_buf_ring *buf_ring)
{
	return evplmem_uring_buf_ring_refill(buf_ring);
}

/**
 * evpl_uring_buf_ring_destroy() - end it
 * @buf_ring: what evpl_uring_buf_ring_create() made, or NULL
 *
 * Call it before io_uring_queue_exit(3) and evpl_destroy(), when no request that names the
 * group is in flight, and after all completions were taken: the buffers that they have are
 * released. Iovecs that were taken stay valid.
 */
static inline void evpl_uring_buf_ring_destroy(struct evpl_uring_buf_ring *buf_ring)
{
	evplmem_uring_buf_ring_destroy(buf_ring);
}

#endif /* !EVPLMEM_PREFIX_ONLY */

#ifdef EVPLMEM_PREFIX_ONLY
#include "evplmem-prefix.h"
#endif

#pragma GCC diagnostic pop

#ifdef __cplusplus
}
#endif

#endif /* EVPLMEM_URING_H */
