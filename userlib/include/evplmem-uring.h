/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_URING_H
#define EVPLMEM_URING_H

/**
 * DOC: libevplmem-uring
 *
 * The memory of a pool as registered ("fixed") buffers of an io_uring.
 *
 * A ring has a table of registered buffers. The caller gives a range of its slots to a
 * &struct evpl_uring, which puts one slab in each slot. A slab is registered when an iovec of
 * it is first used with the ring, because only the ring's own thread may register. From then on
 * the slab's slot is found without a system call, a lock or a search.
 *
 * I/O works with memory that can't be registered, too: evpl_uring_prep_read() and
 * evpl_uring_prep_write() prepare an ordinary read or write then. The kernel may refuse all
 * memory of this kind: Linux 6.1 refuses the module's, and 6.12 takes it. It may also refuse a
 * single slab, because no slot is left or because the user may not lock more memory.
 * evpl_uring_notice() says so, once.
 *
 * From Linux 7.3 on, the module registers its memory itself: no page is pinned, and nothing is
 * charged to RLIMIT_MEMLOCK. In a request the address of such memory is an offset. So take the
 * address from evpl_uring_fixed(), or have evpl_uring_prep_read() and the like fill in the SQE.
 *
 * On earlier kernels, and with the anon back end, io_uring pins the slabs, and charges them to
 * RLIMIT_MEMLOCK unless the process has CAP_IPC_LOCK. It does so on Linux 7.3 too if another
 * user made the ring than the one that calls evpl_uring_create(), or if only one of the two had
 * CAP_IPC_LOCK. evpl_uring_stats() tells how many slabs were registered without a charge.
 *
 * To give the module its commands, each &struct evpl_uring of a pool of the module has a small
 * ring of its own. Linux 7.3 charges no ring to RLIMIT_MEMLOCK, so a limit of 0 will do there.
 *
 * When the pool gives a slab back, on any thread, the slab's slot is cleared at the next call
 * for the ring. Until then the kernel keeps the slab's memory. So call evpl_uring_flush() for a
 * ring that will be idle.
 *
 * Where each thread has a ring, each would register the same memory, and be charged for it.
 * evpl_uring_clone() gives a ring the memory that another ring has registered already.
 *
 * Threads: all calls for one ring are made on the thread that may submit to it. If any thread
 * may submit, any thread may make the calls, one at a time. Other threads may use and trim the
 * pool meanwhile. A ring with IORING_SETUP_SINGLE_ISSUER belongs to the thread that made it;
 * with IORING_SETUP_R_DISABLED, to the thread that enables it, and until then any thread may
 * make the calls. A call on another thread registers nothing and clears no slot, since the
 * kernel answers -EEXIST. The ring's thread clears such slots at its next call.
 *
 * Data that comes from sockets need not wait in a buffer for each: a
 * &struct evpl_uring_buf_ring keeps a ring of provided buffers filled from a context, and
 * turns received data into iovecs.
 *
 * Errors: as in evplmem.h, functions return negative errnos, and then nothing has changed. That
 * header also says which functions a child of fork(2) may call. A request that
 * evpl_uring_prep_read() or the like prepares in a child doesn't use registered memory.
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

#if defined(EVPLMEM_PREFIX_ONLY) || defined(EVPLMEM_CXX)
#include "evplmem-prefix.h"
#endif

/** struct evpl_uring - a pool's memory, registered with a ring; opaque */
struct evpl_uring;

/**
 * EVPL_URING_NEW_TABLE - the ring has no table of registered buffers yet
 *
 * evpl_uring_create() registers an empty table, with room for the requested slots and those
 * before them. The table stays with the ring. Without this flag, the caller has registered a
 * table (io_uring_register_buffers_sparse(3)) whose slots are empty.
 */
#define EVPL_URING_NEW_TABLE	(1U << 0)

/**
 * EVPL_URING_EAGER - register the slabs that the pool has
 *
 * They are registered before evpl_uring_create() returns. Later slabs are registered when they
 * are first used. If a slab can't be registered, the call succeeds all the same:
 * evpl_uring_notice() tells the reason, and the slab is tried again when it is used.
 */
#define EVPL_URING_EAGER	(1U << 1)

/**
 * EVPL_URING_LEASES - register buffers of other processes too
 *
 * These are the buffers that were received with %EVPL_MESSAGE_DEVICE. Each is registered as a
 * whole when it is first used with the ring, and takes a slot. When this process has released its
 * last reference on it, the slot is cleared at the next call for the ring. The buffer isn't its
 * owner's again before that. To register a buffer and to clear its slot costs several system
 * calls. So this is for buffers that are used again and again.
 *
 * A buffer that this process may only read can be registered by the module alone (Linux 7.3). If
 * a buffer can't be registered, it isn't tried again before it has been released and received
 * once more.
 */
#define EVPL_URING_LEASES	(1U << 2)

/**
 * struct evpl_uring_stats - statistics of a &struct evpl_uring
 * @size: sizeof(struct evpl_uring_stats), set by the caller
 * @slots: slots that evpl_uring_create() was given
 * @slots_used: slots with a slab, including slabs that are gone and whose slots are cleared at
 *	the next call. Leased buffers count as slabs here, and in the fields that follow
 * @registrations: slabs registered since the start, not counting those that
 *	evpl_uring_clone() copied
 * @unregistrations: slots cleared since the start
 * @failures: system calls to register a slab that failed, since the start
 * @error: the error of the last slab that couldn't be registered, a negative errno, or 0; see
 *	evpl_uring_fixed()
 * @__reserved: 0
 * @uncharged: of the @registrations, those that the module made. Nothing is charged to
 *	RLIMIT_MEMLOCK for them, and no page is pinned
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
	uint64_t uncharged;
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
 *
 * A completion doesn't say where in its buffer the bytes are. So take completions in the order
 * of the completion queue, and use the ring for recv and recvmsg on sockets alone, without a
 * length, IOSQE_ASYNC, and MSG_WAITALL: for other requests the kernel reserves other bytes of
 * the buffer than it fills.
 */
#define EVPL_BUF_RING_INCREMENTAL	(1U << 0)

/* The exported functions. Programs call the inlines below. */
#pragma GCC visibility push(default)
int evplmem_uring_create(struct evpl_uring **r_uring, struct evpl_pool *pool,
		       struct io_uring *ring, unsigned int first_slot,
		       unsigned int nr_slots, unsigned int flags);
int evplmem_uring_clone(struct evpl_uring **r_uring, struct evpl_uring *source,
			struct io_uring *ring);
void evplmem_uring_destroy(struct evpl_uring *uring);
int evplmem_uring_fixed(struct evpl_uring *uring, const struct evpl_iovec *iovec,
			uint64_t *r_address);
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
 * @r_uring: the new object; end it with evpl_uring_destroy()
 * @pool: the pool
 * @ring: the ring; it must live, at this address, until evpl_uring_destroy()
 * @first_slot: the first slot to use of the ring's table of registered buffers
 * @nr_slots: the number of slots; with the slots before them at most 16384
 * @flags: %EVPL_URING_NEW_TABLE, %EVPL_URING_EAGER, %EVPL_URING_LEASES, or 0
 *
 * Each slab takes a slot. A pool with the default sizes has a GiB in 20 slabs. A pool may take
 * a new slab while another thread still tells devices that an old one goes. The old slab keeps
 * its slot until then. So a caller whose threads trim the pool gives a few slots more.
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
 * @r_uring: the new object; end it with evpl_uring_destroy()
 * @source: the other ring's object; its own thread may use it meanwhile, but not destroy it
 * @ring: the ring, which has no table of registered buffers; otherwise as for
 *	evpl_uring_create()
 *
 * The kernel copies the other ring's whole table, including buffers that aren't of @source, so
 * that @ring can use all slabs that are registered there. Slabs that io_uring has pinned are
 * charged to RLIMIT_MEMLOCK once for all rings, until the last ring has cleared its slot or is
 * gone. After the copy the rings are independent: each ring that uses a slab which isn't in the
 * copy registers it, and is charged for it if it isn't registered by the module. So take the
 * slabs first (evpl_pool_preallocate()) and make the source %EVPL_URING_EAGER. Leased buffers
 * aren't taken over. To give a new copy to a ring that has no request in flight, call
 * evpl_uring_destroy(), io_uring_unregister_buffers(3) and this function.
 *
 * If the kernel can't copy, @ring gets an empty table and registers slabs by itself, as with
 * %EVPL_URING_NEW_TABLE. Linux before 6.12 can't. Later versions refuse if the rings are charged
 * to different users or processes. Linux 6.18 and later also refuse if the other ring is another
 * thread's (IORING_SETUP_SINGLE_ISSUER). So the best source is a small ring without that flag,
 * which need not do any I/O.
 *
 * Return: 1 if the table is a copy, 0 if @ring has an empty table of its own; neither is an
 * error. Or
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
 * evpl_uring_destroy() - stop using a pool's memory with a ring
 * @uring: made by evpl_uring_create() or evpl_uring_clone(), or NULL
 *
 * Clears the slots. Call this before io_uring_queue_exit(3), and before the pool is closed.
 * Submitted requests complete as usual. If the ring is another thread's, the slots can't be
 * cleared: the memory stays pinned until io_uring_queue_exit(3).
 */
static inline void evpl_uring_destroy(struct evpl_uring *uring)
{
	evplmem_uring_destroy(uring);
}

/**
 * evpl_uring_fixed() - which registered buffer a slice lies in, and where
 * @uring: made by evpl_uring_create() or evpl_uring_clone()
 * @iovec: an iovec of the pool, or received by it, that the caller holds a reference by
 * @r_address: the address for the SQE, or for an element of the vector of READV_FIXED and
 *	WRITEV_FIXED: the offset in the registered buffer if the module has registered it, and
 *	else the address of the data. For an address within the slice, add the distance from the
 *	slice's first byte
 *
 * If the slab isn't registered yet, this registers it, with one system call. A slab that the
 * kernel can't register costs no further system calls. After -ENOMEM the slab is tried again
 * when a slot has been cleared or evpl_uring_flush() was called.
 *
 * Return: the index for the SQE's buf_index. The index and the address are valid while the
 * reference is held. Or
 *  - -ENOENT: @iovec is empty, or another process's memory that isn't registered; see
 *    %EVPL_URING_LEASES
 *  - -EINVAL: @iovec is of another pool or of none
 *  - -ENOSPC: all slots are in use, perhaps by a slab that another thread is giving back. The
 *    slab is tried again at its next use
 *  - -EOPNOTSUPP: this kernel registers no memory of this kind
 *  - -ENOMEM: RLIMIT_MEMLOCK is reached, or memory is short
 *  - -EEXIST: the ring is another thread's
 *  - -EFAULT: the kernel can't pin this slab, or a page of it has a memory error; it isn't
 *    tried again
 *  - another error of io_uring_register(2), such as -EINVAL again or -ENXIO: the slots
 *    aren't within the ring's table, or there is none
 */
static inline int evpl_uring_fixed(struct evpl_uring *uring, const struct evpl_iovec *iovec,
				   uint64_t *r_address)
{
	return evplmem_uring_fixed(uring, iovec, r_address);
}

/**
 * evpl_uring_prep_read() - prepare a read into a slice
 * @uring: made by evpl_uring_create() or evpl_uring_clone()
 * @sqe: a submission queue entry of the ring
 * @fd: the file
 * @iovec: the slice to read into; the caller keeps its reference until the read has completed
 * @offset: bytes from the start of the file
 *
 * Fills @sqe with READ_FIXED, or with READ if the slab isn't registered. The caller may set flags
 * and user data afterwards, as with io_uring_prep_read(3).
 *
 * Return: 1 if the memory is registered, 0 if not; neither is an error.
 */
static inline int evpl_uring_prep_read(struct evpl_uring *uring, struct io_uring_sqe *sqe,
				       int fd, const struct evpl_iovec *iovec, uint64_t offset)
{
	return evplmem_uring_prep_read(uring, sqe, fd, iovec, offset);
}

/**
 * evpl_uring_prep_write() - prepare a write from a slice
 * @uring: made by evpl_uring_create() or evpl_uring_clone()
 * @sqe: a submission queue entry of the ring
 * @fd: the file
 * @iovec: the slice to write; the caller keeps its reference until the write has completed
 * @offset: bytes from the start of the file
 *
 * Works as evpl_uring_prep_read() does, with WRITE_FIXED or WRITE.
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
 * @uring: made by evpl_uring_create() or evpl_uring_clone()
 * @sqe: a submission queue entry of the ring
 * @fd: the file
 * @iovecs: the slices to read into, in this order; the caller keeps the references until the
 *	read has completed
 * @niov: their number, at most 1024 (IOV_MAX)
 * @vector: room for @niov elements, which this function fills if there are several. It must stay
 *	until the request has been submitted; with IORING_SETUP_SQPOLL, until it has completed
 * @offset: bytes from the start of the file
 *
 * Fills @sqe with READV_FIXED where one registered buffer has all slices and the kernel has
 * that request (Linux 6.15), with READ_FIXED for a single slice that is registered, and with
 * READV otherwise. Slices share a registered buffer if they are of one slab. The caller may set
 * flags and user data afterwards.
 *
 * Return: 1 if the memory is registered, 0 if not; neither is an error. If @niov is more than
 * 1024 or negative, the request completes with -EINVAL.
 */
static inline int evpl_uring_prep_readv(struct evpl_uring *uring, struct io_uring_sqe *sqe,
					int fd, const struct evpl_iovec *iovecs, int niov,
					struct iovec *vector, uint64_t offset)
{
	return evplmem_uring_prep_readv(uring, sqe, fd, iovecs, niov, vector, offset);
}

/**
 * evpl_uring_prep_writev() - prepare a write from several slices
 * @uring: made by evpl_uring_create() or evpl_uring_clone()
 * @sqe: a submission queue entry of the ring
 * @fd: the file
 * @iovecs: the slices to write, in this order; the caller keeps the references until the write
 *	has completed
 * @niov: their number, as for evpl_uring_prep_readv()
 * @vector: room for @niov elements, as for evpl_uring_prep_readv()
 * @offset: bytes from the start of the file
 *
 * Works as evpl_uring_prep_readv() does, with WRITEV_FIXED, WRITE_FIXED or WRITEV.
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
 * @uring: made by evpl_uring_create() or evpl_uring_clone()
 * @sqe: a submission queue entry of the ring
 * @fd: the socket
 * @iovec: the slice to send
 * @flags: as for send(2)
 *
 * Fills @sqe with SEND_ZC, from a registered buffer if the slab is registered. Another process's
 * memory that isn't registered can't be lent to a socket: for that it fills @sqe with SEND, which
 * copies.
 *
 * SEND_ZC has two completions: the first, with IORING_CQE_F_MORE, says how much was
 * sent; the second, with IORING_CQE_F_NOTIF, that the socket needs the memory no more.
 * The caller keeps its reference until the last one: that without IORING_CQE_F_MORE.
 *
 * Return: 1 if the memory is registered, 0 if not; neither is an error. Linux before 6.0 has no
 * SEND_ZC: the request completes with -EINVAL there.
 */
static inline int evpl_uring_prep_send_zc(struct evpl_uring *uring, struct io_uring_sqe *sqe,
					  int fd, const struct evpl_iovec *iovec, int flags)
{
	return evplmem_uring_prep_send_zc(uring, sqe, fd, iovec, flags);
}

/**
 * evpl_uring_flush() - clear the slots of slabs that are gone
 * @uring: made by evpl_uring_create() or evpl_uring_clone()
 *
 * The other calls clear them, too. This one is for a ring that will be idle for a while. Slabs
 * that couldn't be registered because memory was short are tried again at their next use. With
 * IORING_SETUP_DEFER_TASKRUN, pending requests may complete in this call. Before Linux 6.13 the
 * kernel releases the memory only when all requests that were in flight with registered buffers
 * or files are done.
 */
static inline void evpl_uring_flush(struct evpl_uring *uring)
{
	evplmem_uring_flush(uring);
}

/**
 * evpl_uring_stats() - get statistics
 * @uring: made by evpl_uring_create() or evpl_uring_clone()
 * @stats: the statistics; the caller sets @stats->size to its size, and the library zeroes
 *	the fields that it doesn't know
 *
 * Return: 0, or -EINVAL: @stats is too short for its size.
 */
static inline int evpl_uring_stats(struct evpl_uring *uring, struct evpl_uring_stats *stats)
{
	return evplmem_uring_stats(uring, stats);
}

/**
 * evpl_uring_notice() - get a message for the user, once
 * @uring: made by evpl_uring_create() or evpl_uring_clone()
 *
 * Return: if a slab couldn't be registered, a sentence for the program to print, which gives the
 * reason and the remedy; valid until evpl_uring_destroy(). NULL if all slabs could, and when the
 * sentence was returned already.
 */
static inline const char *evpl_uring_notice(struct evpl_uring *uring)
{
	return evplmem_uring_notice(uring);
}

/**
 * evpl_uring_buf_ring_create() - have a context feed a ring of provided buffers
 * @r_buf_ring: the new object; end it with evpl_uring_buf_ring_destroy()
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
 * on thousands of sockets keeps memory for the data that arrives, not for each socket, and
 * nothing is copied out of the ring. A request may not have MSG_TRUNC: its completion would
 * count bytes that no buffer has.
 *
 * All calls are made on the context's thread, one at a time; with IORING_SETUP_SINGLE_ISSUER
 * that is the ring's thread, too. The slices aren't registered, and take no slot; they can be
 * sent or written by evpl_uring_prep_write() and the like. Newer kernels charge the entries of
 * the ring, 16 bytes each, to RLIMIT_MEMLOCK.
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
 * evpl_uring_buf_ring_take() - take the data of a completion
 * @buf_ring: made by evpl_uring_buf_ring_create()
 * @cqe: a completion of a request that named its group; each is taken once, in any order but
 *	with %EVPL_BUF_RING_INCREMENTAL
 * @max_iovecs: room in @r_iovec: 1, but for completions of IORING_RECVSEND_BUNDLE
 * @r_iovec: the iovecs
 *
 * The iovecs have the received bytes, in order, each with a reference of the caller's. Those of
 * a multishot recvmsg begin with struct io_uring_recvmsg_out, the name and the control data. Then
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
 * @buf_ring: made by evpl_uring_buf_ring_create()
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
 * evpl_uring_buf_ring_destroy() - stop feeding a ring of provided buffers
 * @buf_ring: made by evpl_uring_buf_ring_create(), or NULL
 *
 * Call it before io_uring_queue_exit(3) and evpl_destroy(), when no request that names the
 * group is in flight, and after all completions were taken: the buffers that they have are
 * released. Iovecs that were taken stay valid. If the kernel refuses to unregister the entries,
 * as on a thread that isn't the ring's, nothing is released.
 */
static inline void evpl_uring_buf_ring_destroy(struct evpl_uring_buf_ring *buf_ring)
{
	evplmem_uring_buf_ring_destroy(buf_ring);
}

#endif /* !EVPLMEM_PREFIX_ONLY */

#if defined(EVPLMEM_PREFIX_ONLY) || defined(EVPLMEM_CXX)
#include "evplmem-prefix.h"
#endif

#pragma GCC diagnostic pop

#ifdef __cplusplus
}
#endif

#endif /* EVPLMEM_URING_H */
