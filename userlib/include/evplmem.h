/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_H
#define EVPLMEM_H

/**
 * DOC: libevplmem
 *
 * Memory for fast I/O: pinned and registered with devices once, in *slabs*, and
 * handed out as slices that are counted by reference.
 *
 * A *pool* owns slabs. A slab is a run of *buffers*, all of one size, a power of
 * two; a buffer is the unit that is counted. A *context* (&struct evpl) is one
 * thread's way to allocate from a pool: it cuts slices off a buffer of its own.
 * An iovec (&struct evpl_iovec) is a slice of one buffer, and is one reference to
 * it. A buffer that loses its last reference is recycled, its contents left as
 * they are.
 *
 * A program that includes this is C99 or later, or C++11 or later, compiled by GCC or
 * Clang. Every function is an inline over an exported evplmem_*() symbol. So a program
 * can link this library beside one that exports evpl_create() or
 * evpl_iovec_alloc() of its own. A file that needs the headers of both defines
 * EVPLMEM_PREFIX_ONLY before it includes this one: then there are the evplmem_*()
 * functions alone, and tags begin with evplmem, such as struct evplmem_iovec and
 * struct evplmem for struct evpl.
 *
 * Threads: a context is used by one thread at a time. Everything else may be
 * called from any thread at any time; an iovec that two threads write is theirs
 * to lock. Allocation and release don't block, and make no system call unless
 * memory is short. No function may be called from a signal handler.
 *
 * Cancellation: no function is a point of cancellation (pthreads(7)), and call-backs run
 * with the thread's cancellation disabled. A thread that is to be cancelled while it waits
 * for another process waits by poll(2), for evpl_channel_fd() or evpl_pool_fd(). Inside the
 * library it must not have asynchronous cancellation.
 *
 * Fork: a child of fork(2) has none of its parent's references. For the pools, contexts,
 * channels, devices and iovecs that it inherited, functions return -EPERM to it, and those
 * that can't fail do nothing. But evpl_channel_close() closes the child's copy of the
 * descriptor, without which the other end doesn't see that the parent has closed its own;
 * and so does evpl_zerocopy_destroy(). The memory stays what it was, shared with the parent.
 * The child can open pools of its own. A process that was made past fork(3), by clone(2) or
 * _Fork(3), isn't noticed: it must not call this library.
 *
 * Errors: functions that can fail return a negative errno, and have then changed
 * nothing. Errno itself is left as libc left it. For a pool that was closed, and for a
 * context that was destroyed while its pool stays open, functions return -EPERM, and those
 * that can't fail do nothing. That lasts until another pool or context is made, which may get
 * the same memory: it helps to find a mistake, and a program can't rely on it. A library
 * that was built with DEBUG=1 ends the program instead.
 *
 * Structs that are passed in start with their size, and have an initializer that sets it,
 * %EVPL_POOL_CONFIG_INIT and the like. A library that knows a longer struct takes what is
 * missing as zero; one that knows a shorter struct refuses the surplus with -E2BIG unless it
 * is zero. Zero in any field means the default. -EINVAL is a struct that is too short,
 * -EOPNOTSUPP a flag that the library, or the back end, doesn't know.
 */

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

/** EVPLMEM_VERSION_MAJOR - of this header; a library of another one has another soname */
#define EVPLMEM_VERSION_MAJOR	1
/** EVPLMEM_VERSION_MINOR - of this header; goes up when something is added */
#define EVPLMEM_VERSION_MINOR	1
/** EVPLMEM_VERSION - both in one number, to be compared with evplmem_version() */
#define EVPLMEM_VERSION		((EVPLMEM_VERSION_MAJOR << 16) | EVPLMEM_VERSION_MINOR)

/* The first value of a struct that starts with its size: that size, and zeros. */
#ifdef __cplusplus
extern "C++" {
template <class type> static inline type evplmem_sized()
{
	type zeros = type();

	zeros.size = sizeof(zeros);
	return zeros;
}
}
#define EVPLMEM_SIZED(name)	evplmem_sized<struct EVPLMEM_TAG(name)>()
#else
#define EVPLMEM_SIZED(name)	{ .size = sizeof(struct EVPLMEM_TAG(name)) }
#endif
#ifdef EVPLMEM_PREFIX_ONLY
#define EVPLMEM_TAG(name)	evplmem_ ## name
#else
#define EVPLMEM_TAG(name)	evpl_ ## name
#endif

/** EVPL_POOL_CONFIG_INIT - initializer of &struct evpl_pool_config: all defaults */
#define EVPL_POOL_CONFIG_INIT	EVPLMEM_SIZED(pool_config)
/** EVPL_CONFIG_INIT - initializer of &struct evpl_config: all defaults */
#define EVPL_CONFIG_INIT	EVPLMEM_SIZED(config)
/** EVPL_POOL_STATS_INIT - initializer of &struct evpl_pool_stats */
#define EVPL_POOL_STATS_INIT	EVPLMEM_SIZED(pool_stats)
/** EVPL_DEVICE_OPS_INIT - initializer of &struct evpl_device_ops: it does nothing */
#define EVPL_DEVICE_OPS_INIT	EVPLMEM_SIZED(device_ops)

#ifdef __cplusplus
extern "C" {
#endif

/* A function may be named like the struct that it fills, which C++ calls a shadow. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wshadow"

#include "evplmem-hot.h"

#ifdef EVPLMEM_PREFIX_ONLY
#include "evplmem-prefix.h"
#endif

/** struct evpl_pool - memory, and what it is made of; opaque */
struct evpl_pool;

/** struct evpl - a thread's context; opaque */
struct evpl;

/** struct evpl_channel - an end of a channel to another process; opaque */
struct evpl_channel;

/** struct evpl_zerocopy - a socket that sends without a copy; opaque */
struct evpl_zerocopy;

/** struct evpl_device - something that slabs are registered with; opaque */
struct evpl_device;

/**
 * struct evpl_iovec - a slice of a buffer, and one reference to it
 * @data: its first byte
 * @length: its bytes; at most a buffer's
 * @__private1: the library's; do not touch
 * @__private2: the library's; do not touch
 *
 * A copy made by assignment is the same reference, not another one. One that is
 * all zero is empty: it holds no reference, and may be released or moved.
 *
 * @data and @length are the caller's to change, within the bytes that the iovec had
 * when it was made: no function finds the buffer, or the reference, by them. But an iovec
 * that evpl_iovec_reserve() made must not be changed before it was committed.
 */
struct evpl_iovec {
	void *data;
	unsigned int length;
	unsigned int __private1;
	unsigned long __private2;
};

/**
 * enum evpl_backend - where a pool's memory comes from
 * @EVPL_BACKEND_DEFAULT: what the environment variable EVPL_BACKEND says,
 *	"module" or "anon"; the module, if it isn't set
 * @EVPL_BACKEND_MODULE: the kernel module evpl.ko
 * @EVPL_BACKEND_ANON: shared memory of this process, for a machine without the
 *	module. Not pinned, and not in huge pages.
 */
enum evpl_backend {
	EVPL_BACKEND_DEFAULT	= 0,
	EVPL_BACKEND_MODULE	= 1,
	EVPL_BACKEND_ANON	= 2
};

/** EVPL_POOL_HUGE - a slab that can't be had in folios of 2 MiB isn't taken */
#define EVPL_POOL_HUGE		(1U << 0)
/**
 * EVPL_POOL_ZEROS - what was received and revoked reads as zeros, instead of raising SIGBUS
 *
 * All of its pages are then one page of this process's own: what this process writes to one
 * appears in each, and no other process sees it. POLLPRI of evpl_pool_fd() tells that
 * something was revoked.
 */
#define EVPL_POOL_ZEROS		(1U << 1)
/**
 * EVPL_POOL_REVOKE - when this process ends, the pool's memory is revoked
 *
 * That is so however it ends, and once its children have ended that inherited the pool's
 * descriptor. Without this flag other processes keep what they received until they release
 * it. What a dma-buf carries stays in either case.
 */
#define EVPL_POOL_REVOKE	(1U << 2)
/**
 * EVPL_POOL_ATOMIC - references are counted with atomic operations alone
 *
 * Without this flag a thread counts references to what it allocated without atomic
 * operations, and another thread that needs the count ends that by membarrier(2). With the
 * flag the library doesn't make that call, and keeps no data of threads. The flag is for a
 * program in which a filter of seccomp(2) refuses the call once the pool is open, and for a
 * plugin that is unloaded while the threads that called it live on.
 */
#define EVPL_POOL_ATOMIC	(1U << 3)

/**
 * struct evpl_pool_config - what evpl_pool_open() is asked for
 * @size: sizeof(struct evpl_pool_config)
 * @backend: an &enum evpl_backend
 * @flags: %EVPL_POOL_HUGE, %EVPL_POOL_ZEROS, %EVPL_POOL_REVOKE, %EVPL_POOL_ATOMIC or 0
 * @buffer_size: bytes of a buffer: a power of two, 4 KiB to 1 GiB; 0: 1 MiB
 * @slab_size: bytes of the first slab; each further one is twice as long as the
 *	one before, up to @slab_size_max. A multiple of 2 MiB and of
 *	@buffer_size, at most 1 GiB; 0: 2 MiB, or a buffer if that is more.
 *	Shorter slabs are taken where memory is short.
 * @slab_size_max: as @slab_size, and not below it; 0: 64 MiB, or @slab_size or a
 *	buffer if that is more
 * @max_bytes: how much the pool may have in slabs, at least 2 MiB and a buffer;
 *	0: no limit of the pool's own for the module, the machine's memory for
 *	the anon back end
 * @device: path of the module's device; NULL: /dev/evpl
 */
struct evpl_pool_config {
	size_t size;
	unsigned int backend;
	unsigned int flags;
	size_t buffer_size;
	size_t slab_size;
	size_t slab_size_max;
	uint64_t max_bytes;
	const char *device;
};

/** EVPL_CONFIG_NODE - @node of &struct evpl_config is meant */
#define EVPL_CONFIG_NODE	(1U << 0)

/** EVPL_ANY_NODE - no NUMA node in particular */
#define EVPL_ANY_NODE		(-1)

/**
 * struct evpl_config - what evpl_create() is asked for
 * @size: sizeof(struct evpl_config)
 * @flags: %EVPL_CONFIG_NODE or 0
 * @node: with %EVPL_CONFIG_NODE, the NUMA node that all memory of the context
 *	comes from, else 0
 * @cache: bytes of free buffers that the context may keep from other threads,
 *	the buffer that it cuts slices off included; 0: 8 MiB. Two buffers are
 *	always allowed. Others take them before they fail with -ENOMEM.
 */
struct evpl_config {
	size_t size;
	unsigned int flags;
	int node;
	size_t cache;
};

/**
 * struct evpl_pool_stats - what evpl_pool_stats() tells
 * @size: sizeof(struct evpl_pool_stats), set by the caller
 * @backend: %EVPL_BACKEND_MODULE or %EVPL_BACKEND_ANON
 * @devices: devices that are attached
 * @contexts: contexts that were created and not destroyed
 * @buffer_size: bytes of a buffer
 * @slabs: slabs
 * @bytes: bytes of all slabs, those included that are being given back
 * @buffers: buffers of all slabs
 * @buffers_free: buffers that any context can take
 * @buffers_cached: free buffers that contexts keep for themselves
 * @buffers_used: the others: they have references, or a context cuts slices off
 *	them
 * @grows: slabs taken since the pool was opened
 * @shrinks: slabs given back
 * @steals: buffers that a context took from another's cache
 * @failures: allocations that failed with -ENOMEM
 * @wakeups: times that the pool's eventfd was written
 *
 * While other threads run, the numbers are each true of some moment, and not of
 * the same one.
 */
struct evpl_pool_stats {
	size_t size;
	unsigned int backend;
	unsigned int devices;
	uint64_t contexts;
	uint64_t buffer_size;
	uint64_t slabs;
	uint64_t bytes;
	uint64_t buffers;
	uint64_t buffers_free;
	uint64_t buffers_cached;
	uint64_t buffers_used;
	uint64_t grows;
	uint64_t shrinks;
	uint64_t steals;
	uint64_t failures;
	uint64_t wakeups;
};

/** EVPL_SLAB_LEASED - not a slab, but a buffer of another process */
#define EVPL_SLAB_LEASED	(1U << 0)
/** EVPL_SLAB_READONLY - a leased buffer that may not be written */
#define EVPL_SLAB_READONLY	(1U << 1)

/**
 * struct evpl_slab_info - a slab, as a device sees it
 * @number: its number: the lowest that no slab of the pool has, and that no
 *	device still has to let go; of a leased buffer none: all bits are set
 * @node: the NUMA node that it was asked from, or %EVPL_ANY_NODE
 * @base: its first byte
 * @length: its bytes; at most 1 GiB
 * @flags: %EVPL_SLAB_LEASED and %EVPL_SLAB_READONLY, or 0
 */
struct evpl_slab_info {
	unsigned int number;
	int node;
	void *base;
	size_t length;
	unsigned int flags;
};

/** EVPL_DEVICES_MAX - devices that can be attached to a pool at a time */
#define EVPL_DEVICES_MAX	16

/** EVPL_DEVICE_LATER - what unregister_slab() returns to let go later */
#define EVPL_DEVICE_LATER	1

/** EVPL_DEVICE_LEASES - the device also registers what it was leased */
#define EVPL_DEVICE_LEASES	(1U << 0)

/**
 * struct evpl_device_ops - what a device does when slabs come and go
 * @size: sizeof(struct evpl_device_ops)
 * @register_slab: a slab has come, or was there when the device was attached.
 *	Returns 0 and sets the cookie, or fails with anything else: the slab is
 *	then used without a cookie for this device. NULL: the device registers
 *	slabs by itself, when it first meets them; see evpl_device_set_cookie().
 * @unregister_slab: a slab that has a cookie goes, or the device is being
 *	detached. No reference to the slab is left in the first case. Returns 0
 *	when it is done, or %EVPL_DEVICE_LATER: the slab's memory is then given
 *	back, but no new slab gets its number before evpl_device_let_go(). NULL:
 *	there is nothing to do.
 * @flags: %EVPL_DEVICE_LEASES: buffers that were received with %EVPL_MESSAGE_DEVICE
 *	are registered too, as slabs are (%EVPL_SLAB_LEASED), each when
 *	evpl_device_cookie() first asks for it. Such a registration ends when this
 *	process has released its last reference on the buffer, and
 *	unregister_slab() then returns 0: the buffer isn't its owner's again while
 *	a device holds it. Or 0.
 *
 * The call-backs run on whichever thread takes or gives back a slab, attaches or detaches,
 * with the thread's cancellation disabled. Several can run at a time for different slabs, and
 * they never overlap for one slab and device. They run without a lock, so they may allocate
 * and release. They must not detach a device, close the pool, or wait for a thread that does.
 *
 * When register_slab() allocates, that may use the slab that it is told of. From then on other
 * threads can have buffers of the slab too, and evpl_device_cookie() gives -ENOENT for these
 * until the slab is registered.
 */
struct evpl_device_ops {
	size_t size;
	int (*register_slab)(void *arg, const struct evpl_slab_info *slab, uint64_t *cookie);
	int (*unregister_slab)(void *arg, const struct evpl_slab_info *slab, uint64_t cookie);
	unsigned int flags;
};

/**
 * EVPL_IOVEC_PRIVATE - buffers to themselves
 *
 * Nothing else is, or will be, allocated in the buffers of these iovecs while
 * they have a reference. For what another process is to see.
 */
#define EVPL_IOVEC_PRIVATE	(1U << 0)

/**
 * struct evpl_waiter - a request for memory that waits for its turn
 * @length: bytes; for n whole buffers, n times the pool's buffer size
 * @alignment: as for evpl_iovec_alloc()
 * @max_iovecs: room in @iovecs
 * @flags: %EVPL_IOVEC_PRIVATE or 0
 * @iovecs: where the iovecs go; nothing is there, and anything may be written there,
 *	until @done is called
 * @done: called when the request is served, with the number of iovecs, which are the
 *	caller's
 * @__evpl: the library's; NULL in the beginning
 * @__next: the library's
 *
 * The caller's memory. All of it stays as it is while the request waits.
 */
struct evpl_waiter {
	unsigned int length;
	unsigned int alignment;
	unsigned int max_iovecs;
	unsigned int flags;
	struct evpl_iovec *iovecs;
	void (*done)(struct evpl_waiter *waiter, int niov);
	struct evpl *__evpl;
	struct evpl_waiter *__next;
};

/**
 * EVPL_CHANNEL_BLOCKING - sending waits for room, and receiving for a message
 *
 * A signal ends the wait (-EINTR), cancellation of the thread doesn't.
 */
#define EVPL_CHANNEL_BLOCKING	(1U << 0)

/** EVPL_MESSAGE_WRITE - the receiver may write to the buffer too */
#define EVPL_MESSAGE_WRITE	(1U << 0)
/** EVPL_MESSAGE_REVOKED - received: the owner has taken the buffer back meanwhile */
#define EVPL_MESSAGE_REVOKED	(1U << 1)
/**
 * EVPL_MESSAGE_DEVICE - the receiver may have devices touch the buffer
 *
 * Without it nothing can pin what was received: O_DIRECT, RDMA and the like give EFAULT.
 * With it they may read, and with %EVPL_MESSAGE_WRITE write. What such I/O still holds
 * when the receiver has released the buffer, or died, keeps it from its owner until
 * that is over (the kernel's quarantine; linux/evpl.h, DOC: fence). The same goes for
 * %EVPL_MESSAGE_WRITE alone, since KVM before Linux 6.13 may hold a page of what a guest
 * can write to.
 *
 * The sender's own devices don't keep a buffer from it: they are told to the kernel as
 * they register a slab. Attach them before buffers of it are in use. Where all of a slab
 * is in use, the kernel can't tell whose a registration is, and keeps what is sent with
 * either flag until the registration goes.
 */
#define EVPL_MESSAGE_DEVICE	(1U << 2)
/**
 * EVPL_MESSAGE_HELD - received: others may still have the buffer, which is one's own
 *
 * A process that sends a buffer home may have a device, a pipe or another reference on it
 * still. The buffer may change, or be read, until evpl_iovec_wait() returns 0.
 */
#define EVPL_MESSAGE_HELD	(1U << 3)

/** EVPL_IOVEC_TRY - evpl_iovec_wait() doesn't wait */
#define EVPL_IOVEC_TRY		(1U << 0)

/**
 * struct evpl_message - a reference on its way to another process
 * @iovec: the slice, and the reference; received with %EVPL_MESSAGE_REVOKED, empty
 * @cookie: whatever the sender likes
 * @flags: %EVPL_MESSAGE_WRITE and %EVPL_MESSAGE_DEVICE, or 0; received, also
 *	%EVPL_MESSAGE_REVOKED or %EVPL_MESSAGE_HELD
 * @reserved: 0
 */
struct evpl_message {
	struct evpl_iovec iovec;
	uint64_t cookie;
	uint32_t flags;
	uint32_t reserved;
};

/** EVPL_DMABUF_WRITE - devices, and processes that map the dma-buf, may write to it */
#define EVPL_DMABUF_WRITE	(1U << 0)

/* What is exported; use the inlines below. */
#pragma GCC visibility push(default)
/**
 * evplmem_version() - the version of the library that the program runs with
 *
 * A library that is later than the header that the program was compiled with has all that is
 * in that header. With an earlier library the dynamic linker starts the program only if the
 * program calls nothing that the library lacks.
 *
 * Return: the value of %EVPLMEM_VERSION in the library's own header.
 */
unsigned int evplmem_version(void);
int evplmem_pool_open(struct evpl_pool **r_pool, const struct evpl_pool_config *config);
int evplmem_pool_close(struct evpl_pool *pool);
int evplmem_pool_preallocate(struct evpl_pool *pool, uint64_t bytes, int node);
uint64_t evplmem_pool_trim(struct evpl_pool *pool);
int evplmem_pool_stats(struct evpl_pool *pool, struct evpl_pool_stats *stats);
int evplmem_pool_eventfd(struct evpl_pool *pool);
const char *evplmem_last_error(void);
int evplmem_create(struct evpl **r_evpl, struct evpl_pool *pool, const struct evpl_config *config);
void evplmem_destroy(struct evpl *evpl);
int evplmem_iovec_alloc(struct evpl *evpl, unsigned int length, unsigned int alignment,
			unsigned int max_iovecs, unsigned int flags, struct evpl_iovec *r_iovec);
int evplmem_iovec_reserve(struct evpl *evpl, unsigned int length, unsigned int alignment,
			  unsigned int max_iovecs, struct evpl_iovec *r_iovec);
int evplmem_iovec_commit(struct evpl *evpl, struct evpl_iovec *iovecs, int niov,
			 unsigned int used);
int evplmem_buffer_alloc(struct evpl *evpl, struct evpl_iovec *r_iovec);
int evplmem_waiter_alloc(struct evpl *evpl, struct evpl_waiter *waiter);
int evplmem_waiter_cancel(struct evpl_waiter *waiter);
int evplmem_waiter_serve(struct evpl *evpl);
void evplmem_iovec_addref(struct evpl_iovec *iovec);
void evplmem_iovec_release(struct evpl_iovec *iovec);
void evplmem_iovecs_release(struct evpl_iovec *iovecs, int niov);
void evplmem_iovec_clone(struct evpl_iovec *dst, const struct evpl_iovec *src);
int evplmem_iovec_clone_segment(struct evpl_iovec *dst, const struct evpl_iovec *src,
				unsigned int offset, unsigned int length);
int evplmem_iovec_from_iovec(struct evpl_pool *pool, struct evpl_iovec *dst,
			     const struct iovec *src, int niov);
int evplmem_iovec_is_unique(const struct evpl_iovec *iovec);
int evplmem_iovec_wrap(struct evpl_iovec *r_iovec, void *data, unsigned int length,
		       void (*done)(void *arg), void *arg);
int evplmem_iovec_slab(const struct evpl_iovec *iovec, struct evpl_slab_info *info);
int evplmem_iovec_revoke(const struct evpl_iovec *iovec);
int evplmem_iovec_wait(const struct evpl_iovec *iovec, unsigned int flags);
int evplmem_channel_create(struct evpl_channel **r_channel, struct evpl_pool *pool,
			   unsigned int capacity, unsigned int flags, int *r_peer);
int evplmem_channel_bind(struct evpl_channel **r_channel, struct evpl_pool *pool, int fd,
			 unsigned int flags);
void evplmem_channel_close(struct evpl_channel *channel);
int evplmem_channel_fd(struct evpl_channel *channel);
int evplmem_channel_send(struct evpl_channel *channel, const struct evpl_message *messages, int n);
int evplmem_channel_recv(struct evpl_channel *channel, struct evpl_message *messages, int max);
int evplmem_pool_fd(struct evpl_pool *pool);
int evplmem_iovec_export(const struct evpl_iovec *iovecs, int niov, unsigned int flags);
int evplmem_slab_export(struct evpl_pool *pool, const struct evpl_slab_info *info,
			unsigned int flags);
int evplmem_zerocopy_create(struct evpl_zerocopy **r_zerocopy, int fd);
ssize_t evplmem_zerocopy_send(struct evpl_zerocopy *zerocopy, const struct evpl_iovec *iovecs,
			      int niov, int flags);
int evplmem_zerocopy_reap(struct evpl_zerocopy *zerocopy);
int evplmem_zerocopy_destroy(struct evpl_zerocopy *zerocopy);
int evplmem_zerocopy_abort(struct evpl_zerocopy *zerocopy);
int evplmem_device_attach(struct evpl_pool *pool, const struct evpl_device_ops *ops, void *arg,
			  struct evpl_device **r_device);
void evplmem_device_detach(struct evpl_device *device);
int evplmem_device_cookie(struct evpl_device *device, const struct evpl_iovec *iovec,
			  uint64_t *r_cookie);
int evplmem_device_set_cookie(struct evpl_device *device, const struct evpl_iovec *iovec,
			      uint64_t cookie);
int evplmem_device_let_go(struct evpl_device *device, unsigned int number);
#pragma GCC visibility pop

#ifndef EVPLMEM_PREFIX_ONLY

/**
 * evpl_pool_open() - open a pool
 * @r_pool: where the pool goes; close it with evpl_pool_close()
 * @config: what it is to be, or NULL for all defaults
 *
 * Takes no slab yet. After an error evpl_last_error() says what can be done.
 *
 * Return: 0, or
 *  - -EINVAL: a size isn't one of those that &struct evpl_pool_config allows, an
 *    unknown back end (also in EVPL_BACKEND), or @config is too short
 *  - -E2BIG, -EOPNOTSUPP: see above; on the anon back end any flag but %EVPL_POOL_ATOMIC
 *  - -ENOENT, -ENODEV, -ENXIO, -EACCES, -EPERM: there is no such device, or this
 *    process may not open it
 *  - -ENOTTY: the device isn't evpl's
 *  - -EMFILE, -ENFILE, -ENOMEM: no descriptor or memory left
 */
static inline int evpl_pool_open(struct evpl_pool **r_pool, const struct evpl_pool_config *config)
{
	return evplmem_pool_open(r_pool, config);
}

/**
 * evpl_pool_close() - close a pool
 * @pool: the pool; gone when 0 is returned
 *
 * Threads may still be inside a release of the last reference when this is
 * called.
 *
 * Return: 0, or
 *  - -EBUSY: a context, a reference of this process or of another one, an attached device
 *    or a dma-buf is left, or the kernel keeps a buffer in quarantine
 *  - -EPERM: it was closed already, or was inherited over fork(2)
 */
static inline int evpl_pool_close(struct evpl_pool *pool)
{
	return evplmem_pool_close(pool);
}

/**
 * evpl_pool_preallocate() - take slabs beforehand
 * @pool: the pool
 * @bytes: what the pool is to have at least, from @node, until a later call for that
 *	node says otherwise
 * @node: a NUMA node, or %EVPL_ANY_NODE for memory of contexts with no node
 *
 * Takes the missing slabs, each as long as the pool's slab_size_max where so much is
 * missing. They are ordinary slabs. But neither evpl_pool_trim() nor a context of another
 * node that needs room leaves the pool less than @bytes from @node. A call for less gives
 * nothing back by itself. A pool begins with 0.
 *
 * Return: 0, or
 *  - -EINVAL: the node isn't there, or has no memory that this process may use
 *  - -ENOMEM: memory is short, or a limit is reached; at once where @bytes is more than the
 *    pool's max_bytes
 *  - -EINTR: a fatal signal came
 */
static inline int evpl_pool_preallocate(struct evpl_pool *pool, uint64_t bytes, int node)
{
	return evplmem_pool_preallocate(pool, bytes, node);
}

/**
 * evpl_pool_trim() - give idle slabs back
 * @pool: the pool
 *
 * Takes the free buffers out of all caches, and gives every slab back that has no buffer in
 * use, but for one, and for what evpl_pool_preallocate() asked for. A slab that a device is
 * just being told about stays.
 *
 * While devices are told that slabs go, the pool may grow as if these were gone already. For
 * that long it can have more than its max_bytes.
 *
 * Return: the bytes of the slabs that were to go. A slab for which the kernel has a use that
 * the library doesn't know of is counted, and stays.
 */
static inline uint64_t evpl_pool_trim(struct evpl_pool *pool)
{
	return evplmem_pool_trim(pool);
}

/**
 * evpl_pool_stats() - what the pool has, and has done
 * @pool: the pool
 * @stats: where it goes; @stats->size says how much of it there is, and what
 *	the library doesn't know of is zeroed
 *
 * Return: 0, or -EINVAL: @stats is too short for its size.
 */
static inline int evpl_pool_stats(struct evpl_pool *pool, struct evpl_pool_stats *stats)
{
	return evplmem_pool_stats(pool, stats);
}

/**
 * evpl_pool_eventfd() - tells when to try again
 * @pool: the pool
 *
 * After an allocation failed with -ENOMEM, the descriptor becomes readable when
 * the next buffer or slab is free. It can become readable for no reason, as when a
 * context takes a new buffer, and the retry can fail again. The library writes the
 * descriptor and doesn't read it. A thread that waits alone reads it and retries. Where
 * several threads wait, each has it in an epoll set of its own with EPOLLET, and none reads
 * it: one would miss what another reads.
 * evpl_waiter_alloc() lets them have memory in the order in which they asked for it.
 *
 * Return: an eventfd, nonblocking and close-on-exec. It is the pool's and lives
 * as long.
 */
static inline int evpl_pool_eventfd(struct evpl_pool *pool)
{
	return evplmem_pool_eventfd(pool);
}

/**
 * evpl_last_error() - why the last call failed, in words
 *
 * Return: a sentence on the last evpl_pool_open() of this thread that failed, or on its
 * last channel or dma-buf that failed because of mlockall(2); empty if none did. Valid
 * until the thread's next call of that kind.
 */
static inline const char *evpl_last_error(void)
{
	return evplmem_last_error();
}

/**
 * evpl_create() - create a context
 * @r_evpl: where the context goes; end it with evpl_destroy()
 * @pool: the pool that it allocates from
 * @config: what it is to be, or NULL for all defaults
 *
 * A thread that ends, or sleeps, without evpl_destroy() keeps no memory from
 * others for good: they take it before they fail.
 *
 * Return: 0, or
 *  - -EINVAL: there is no such node, a node without %EVPL_CONFIG_NODE, or
 *    @config is too short
 *  - -E2BIG, -EOPNOTSUPP: see above
 *  - -ENOMEM: no memory for the context
 *  - -EPERM: @pool was closed, or was inherited over fork(2)
 */
static inline int evpl_create(struct evpl **r_evpl, struct evpl_pool *pool,
			      const struct evpl_config *config)
{
	return evplmem_create(r_evpl, pool, config);
}

/**
 * evpl_destroy() - end a context
 * @evpl: the context, or NULL
 *
 * What was allocated through it lives on until it is released. What it kept goes
 * to the pool; slabs stay until evpl_pool_trim(). Its requests that wait (&struct
 * evpl_waiter) are cancelled.
 */
static inline void evpl_destroy(struct evpl *evpl)
{
	evplmem_destroy(evpl);
}

/* What was allocated, or the error. */
static inline int evplmem_allocated(int niov, const struct evpl_iovec *iovecs)
{
#if EVPLMEM_TSAN
	int i;

	for (i = 0; i < niov; i++)
		evplmem_tsan_acquire(iovecs[i].__private2);
#else
	(void)iovecs;
#endif
	return niov;
}

/**
 * evpl_iovec_alloc() - allocate memory
 * @evpl: the context
 * @length: bytes
 * @alignment: of each iovec's data: a power of two up to the buffer size; 0: don't
 *	care. Data is always aligned to 8 bytes.
 * @max_iovecs: room in @r_iovec
 * @r_iovec: where the iovecs go
 *
 * Up to one buffer is always one iovec. More is whole buffers, then one iovec
 * with the rest. A slice of at least half a buffer that doesn't fit into the rest of the
 * context's buffer gets a buffer for itself. The memory isn't zeroed.
 *
 * Never blocks. Before it fails with -ENOMEM it takes the free buffers that other contexts
 * keep. If the buffers that contexts cut slices off could make up for what is missing, no
 * context goes on in its own: the rest of such a buffer can be used once its slices have been
 * released.
 *
 * Return: the number of iovecs, each a reference of the caller's; 0 if @length
 * is 0; or
 *  - -EINVAL: @alignment isn't a power of two, or above the buffer size
 *  - -ENOBUFS: it would take more than @max_iovecs
 *  - -EMSGSIZE: more than the pool can ever have (max_bytes of &struct evpl_pool_config), so
 *    that no release helps
 *  - -ENOMEM: memory is short, kept for requests that wait (evpl_waiter_alloc()), or a
 *    limit is reached; see evpl_pool_eventfd()
 *  - -EINTR: a fatal signal came
 */
static inline int evpl_iovec_alloc(struct evpl *evpl, unsigned int length, unsigned int alignment,
				   unsigned int max_iovecs, struct evpl_iovec *r_iovec)
{
	struct evplmem_slice slice = { 0, 0, 0 };

	if (__builtin_expect(max_iovecs > 0, 1))
		slice = evplmem_cut((struct evplmem_context *)evpl, length, alignment);
	if (__builtin_expect(!slice.data, 0))
		return evplmem_allocated(evplmem_iovec_alloc(evpl, length, alignment, max_iovecs,
							     0, r_iovec), r_iovec);
	r_iovec->data = slice.data;
	r_iovec->length = length;
	r_iovec->__private1 = slice.generation;
	r_iovec->__private2 = (unsigned long)slice.buffer;
	return 1;
}

/**
 * evpl_iovec_alloc_flags() - allocate memory of some kind
 * @evpl: the context
 * @length: bytes
 * @alignment: as for evpl_iovec_alloc()
 * @max_iovecs: room in @r_iovec
 * @flags: %EVPL_IOVEC_PRIVATE or 0
 * @r_iovec: where the iovecs go
 *
 * Return: as evpl_iovec_alloc(), or -EOPNOTSUPP: an unknown flag.
 */
static inline int evpl_iovec_alloc_flags(struct evpl *evpl, unsigned int length,
					 unsigned int alignment, unsigned int max_iovecs,
					 unsigned int flags, struct evpl_iovec *r_iovec)
{
	return evplmem_allocated(evplmem_iovec_alloc(evpl, length, alignment, max_iovecs, flags,
						     r_iovec), r_iovec);
}

/**
 * evpl_buffer_alloc() - allocate a whole buffer
 * @evpl: the context
 * @r_iovec: where the iovec goes
 *
 * Return: 1, the iovec, or an error of evpl_iovec_alloc().
 */
static inline int evpl_buffer_alloc(struct evpl *evpl, struct evpl_iovec *r_iovec)
{
	return evplmem_allocated(evplmem_buffer_alloc(evpl, r_iovec), r_iovec);
}

/**
 * evpl_waiter_alloc() - allocate memory, or wait for it in turn
 * @evpl: the context
 * @waiter: the request
 *
 * Does what evpl_iovec_alloc_flags() does. Where that would fail with -ENOMEM, the request
 * is put at the end of the pool's queue, and evpl_waiter_serve() serves it.
 *
 * The queue keeps free buffers for those that stand in it. An allocation that comes later,
 * by a waiter or not, takes a free buffer only if enough are left for all that came before,
 * and fails otherwise; it goes on in the buffer that its context cuts slices off. So nobody
 * overtakes a waiter to its cost, and one whose thread doesn't come keeps no more from others
 * than it asked for. Memory of a NUMA node is kept for those alone that could use it.
 *
 * Return: the number of iovecs, each a reference of the caller's, and @done isn't called;
 * 0 if @length is 0; or
 *  - -EINPROGRESS: the request waits
 *  - -EBUSY: it waits already
 *  - -EOPNOTSUPP: an unknown flag
 *  - any other error of evpl_iovec_alloc(), but -ENOMEM
 */
static inline int evpl_waiter_alloc(struct evpl *evpl, struct evpl_waiter *waiter)
{
	return evplmem_allocated(evplmem_waiter_alloc(evpl, waiter), waiter->iovecs);
}

/**
 * evpl_waiter_cancel() - wait no longer
 * @waiter: the request, whose context nobody else uses meanwhile
 *
 * From here its @done isn't called, and its memory is the caller's alone.
 *
 * Return: 0, or -ENOENT: it doesn't wait, as it was served, cancelled or never put in the
 * queue, or as its context was destroyed.
 */
static inline int evpl_waiter_cancel(struct evpl_waiter *waiter)
{
	return evplmem_waiter_cancel(waiter);
}

/**
 * evpl_waiter_serve() - serve the first of a context's requests
 * @evpl: the context
 *
 * If there is memory for the one that has waited longest, it leaves the queue and its @done is
 * called: here, on the calling thread, with no lock of the library. @done may do whatever its
 * caller may: ask for more by the same @waiter, cancel others, end @evpl.
 *
 * To be called until it returns 0, whenever evpl_pool_eventfd() becomes readable: that tells
 * of memory as it does after an allocation failed, and of a request that left the queue.
 *
 * Return: 1 if a request was served; 0 if none waits, or there isn't enough memory yet; or
 *  - -EINTR: a fatal signal came; the request waits
 */
static inline int evpl_waiter_serve(struct evpl *evpl)
{
	return evplmem_waiter_serve(evpl);
}

/**
 * evpl_iovec_reserve() - allocate before it is known how much is needed
 * @evpl: the context
 * @length: the most that may be needed, in bytes
 * @alignment: as for evpl_iovec_alloc()
 * @max_iovecs: room in @r_iovec
 * @r_iovec: where the iovecs go
 *
 * These are real references, and allocations that come later don't overlap them.
 * Each set is given to evpl_iovec_commit() once, or released. Clone them only
 * after that.
 *
 * Return: as evpl_iovec_alloc().
 */
static inline int evpl_iovec_reserve(struct evpl *evpl, unsigned int length,
				     unsigned int alignment, unsigned int max_iovecs,
				     struct evpl_iovec *r_iovec)
{
	return evplmem_allocated(evplmem_iovec_reserve(evpl, length, alignment, max_iovecs,
						       r_iovec), r_iovec);
}

/**
 * evpl_iovec_commit() - keep the beginning of what was reserved
 * @evpl: a context of the same pool
 * @iovecs: what evpl_iovec_reserve() returned
 * @niov: how many
 * @used: bytes, from the beginning, that are kept
 *
 * Shortens the iovecs to @used bytes and releases those beyond. What was cut off
 * is allocated again, by the context that reserved it, if nothing was allocated after it.
 *
 * Return: the number of iovecs that remain; or -EINVAL: @used is more than they
 * have, @niov is negative, or they weren't reserved, are committed already, or are of another
 * pool.
 */
static inline int evpl_iovec_commit(struct evpl *evpl, struct evpl_iovec *iovecs, int niov,
				    unsigned int used)
{
#if EVPLMEM_TSAN
	int i;

	/* It releases some of them. */
	for (i = 0; i < niov; i++)
		evplmem_tsan_release(iovecs[i].__private2);
#endif
	return evplmem_iovec_commit(evpl, iovecs, niov, used);
}

/**
 * evpl_iovec_addref() - one more reference
 * @iovec: an iovec that the caller holds a reference by
 *
 * It is to be released once more.
 */
static inline void evpl_iovec_addref(struct evpl_iovec *iovec)
{
	if (!evplmem_get(iovec->__private1, iovec->__private2))
		evplmem_iovec_addref(iovec);
}

/**
 * evpl_iovec_release() - one reference less
 * @iovec: the iovec; it is left as it is, and worth nothing if this was its last
 *	reference
 *
 * On any thread, one with no context too, and after the context that allocated
 * it was destroyed. Never fails. It makes a system call where an allocation failed before
 * and the buffer is free now (evpl_pool_eventfd()), and for what was received: where its
 * owner waits for it, where it is registered with a device (%EVPL_DEVICE_LEASES), and once
 * for every 32 buffers that are let go of.
 */
static inline void evpl_iovec_release(struct evpl_iovec *iovec)
{
	if (!evplmem_put(iovec->__private1, iovec->__private2))
		evplmem_iovec_release(iovec);
}

/**
 * evpl_iovecs_release() - release an array
 * @iovecs: the iovecs
 * @niov: how many; none if not above 0
 */
static inline void evpl_iovecs_release(struct evpl_iovec *iovecs, int niov)
{
	int i;

	for (i = 0; i < niov; i++)
		if (!evplmem_put(iovecs[i].__private1, iovecs[i].__private2) && !EVPLMEM_TSAN)
			break;
	if (EVPLMEM_TSAN)
		i = 0;
	if (i < niov)
		evplmem_iovecs_release(&iovecs[i], niov - i);
}

/**
 * evpl_iovec_clone() - a second iovec of the same slice
 * @dst: where it goes; holds a reference of its own
 * @src: an iovec that the caller holds a reference by
 */
static inline void evpl_iovec_clone(struct evpl_iovec *dst, const struct evpl_iovec *src)
{
	if (!evplmem_get(src->__private1, src->__private2))
		evplmem_iovec_clone(dst, src);
	else
		*dst = *src;
}

/**
 * evpl_iovec_clone_segment() - an iovec of a part of a slice
 * @dst: where it goes; holds a reference of its own, also if @length is 0
 * @src: an iovec that the caller holds a reference by
 * @offset: where the part starts in @src, in bytes
 * @length: its bytes
 *
 * Return: 0, or -EINVAL: the part doesn't lie within @src; -EPERM: @src was inherited over
 * fork(2).
 */
static inline int evpl_iovec_clone_segment(struct evpl_iovec *dst, const struct evpl_iovec *src,
					   unsigned int offset, unsigned int length)
{
	struct evpl_iovec iovec = *src;

	if (offset > iovec.length || length > iovec.length - offset ||
	    !evplmem_get(iovec.__private1, iovec.__private2))
		return evplmem_iovec_clone_segment(dst, src, offset, length);
	dst->data = (char *)iovec.data + offset;
	dst->length = length;
	dst->__private1 = iovec.__private1;
	dst->__private2 = iovec.__private2;
	return 0;
}

/**
 * evpl_iovec_is_unique() - whether this is the only reference
 * @iovec: an iovec that the caller holds a reference by
 *
 * If so, nothing else reads or writes the slice by a reference, here or in another process,
 * and all accesses by references that were released have ended. So the caller may write in
 * place what was shared before, until it gives another reference away. For a buffer that came
 * home with %EVPL_MESSAGE_HELD, evpl_iovec_wait() must have returned 0 too.
 *
 * A buffer counts the references of all slices in it, and one of the context that goes
 * on allocating there. So the answer is exact for a slice that has a buffer to itself, by
 * evpl_buffer_alloc() or %EVPL_IOVEC_PRIVATE. For another slice it may be 0 only because
 * other slices of the buffer have references.
 *
 * Return: 1; or 0: there may be others, or @iovec is empty, another process's memory,
 * or inherited over fork(2).
 */
static inline int evpl_iovec_is_unique(const struct evpl_iovec *iovec)
{
	return evplmem_iovec_is_unique(iovec);
}

/**
 * evpl_iovec_split() - make two iovecs of one
 * @dst: where the end of the slice goes; holds a reference of its own, also if it has
 *	no bytes
 * @src: another iovec, that the caller holds a reference by; keeps the beginning
 * @length: bytes that @src keeps
 *
 * Return: 0, or -EINVAL: @src has fewer bytes; -EPERM: @src was inherited over fork(2).
 */
static inline int evpl_iovec_split(struct evpl_iovec *dst, struct evpl_iovec *src,
				   unsigned int length)
{
	int err;

	if (length > src->length)
		return -EINVAL;
	err = evpl_iovec_clone_segment(dst, src, length, src->length - length);
	if (!err)
		src->length = length;
	return err;
}

/**
 * evpl_iovec_advance() - leave bytes out at the beginning
 * @iovec: the iovec; its reference stays, also if no bytes are left
 * @bytes: how many
 *
 * Return: 0, or -EINVAL: it has fewer bytes.
 */
static inline int evpl_iovec_advance(struct evpl_iovec *iovec, unsigned int bytes)
{
	if (bytes > iovec->length)
		return -EINVAL;
	iovec->data = (char *)iovec->data + bytes;
	iovec->length -= bytes;
	return 0;
}

/**
 * evpl_iovec_trim() - leave bytes out at the end
 * @iovec: the iovec; its reference stays, also if no bytes are left
 * @bytes: how many
 *
 * Return: 0, or -EINVAL: it has fewer bytes.
 */
static inline int evpl_iovec_trim(struct evpl_iovec *iovec, unsigned int bytes)
{
	if (bytes > iovec->length)
		return -EINVAL;
	iovec->length -= bytes;
	return 0;
}

/**
 * evpl_iovec_move() - hand a reference over
 * @dst: gets the slice and the reference
 * @src: is empty afterwards
 */
static inline void evpl_iovec_move(struct evpl_iovec *dst, struct evpl_iovec *src)
{
	struct evpl_iovec iovec = *src;

	src->data = NULL;
	src->length = 0;
	src->__private1 = 0;
	src->__private2 = 0;
	*dst = iovec;
}

/**
 * evpl_iovec_to_iovec() - for readv(2) and the like
 * @dst: room for @niov
 * @src: the iovecs; they keep their references
 * @niov: how many
 */
static inline void evpl_iovec_to_iovec(struct iovec *dst, const struct evpl_iovec *src, int niov)
{
	int i;

	for (i = 0; i < niov; i++) {
		dst[i].iov_base = src[i].data;
		dst[i].iov_len = src[i].length;
	}
}

/**
 * evpl_iovec_from_iovec() - references from addresses
 * @pool: the pool that the memory is of
 * @dst: room for @niov; each is a new reference
 * @src: memory within buffers that the caller holds references to
 * @niov: how many
 *
 * Takes a lock and looks through the slabs: not for the hot path.
 *
 * Return: 0, or -EINVAL: one of @src doesn't lie within one buffer of the pool,
 * or the buffer has no reference; no reference was taken then.
 */
static inline int evpl_iovec_from_iovec(struct evpl_pool *pool, struct evpl_iovec *dst,
					const struct iovec *src, int niov)
{
	return evplmem_iovec_from_iovec(pool, dst, src, niov);
}

/**
 * evpl_iovec_wrap() - put memory that is no pool's in an iovec
 * @r_iovec: where the iovec goes, with the first reference
 * @data: the memory, which stays the caller's
 * @length: its bytes
 * @done: called once, when the last reference is gone; NULL: nothing is called
 * @arg: given to @done
 *
 * For memory that goes the way of slices, and is counted like them, but is somewhere else: a
 * constant, or memory of another allocator. It is an iovec like any other, without a
 * buffer: no device has it registered, so evpl_device_cookie() gives -EINVAL, and
 * evpl_uring_prep_read() prepares an ordinary read; evpl_zerocopy_send() sends it without
 * a copy. No other process gets it: it can be neither sent over a channel nor exported.
 *
 * @done runs on the thread that releases the last reference, without a lock of the
 * library: it may call whatever its caller may. In a child of fork(2) the release of an iovec
 * that it inherited calls nothing.
 *
 * Return: 0, or -ENOMEM: no memory to count in.
 */
static inline int evpl_iovec_wrap(struct evpl_iovec *r_iovec, void *data, unsigned int length,
				  void (*done)(void *arg), void *arg)
{
	return evplmem_iovec_wrap(r_iovec, data, length, done, arg);
}

/**
 * evpl_iovec_slab() - the slab of a slice
 * @iovec: an iovec that the caller holds a reference by
 * @info: where it goes
 *
 * Return: 0, or -EINVAL: @iovec is empty, another process's memory, or no pool's.
 */
static inline int evpl_iovec_slab(const struct evpl_iovec *iovec, struct evpl_slab_info *info)
{
	return evplmem_iovec_slab(iovec, info);
}

/**
 * evpl_channel_create() - make a channel to another process
 * @r_channel: where this process's end goes; end it with evpl_channel_close()
 * @pool: the pool whose memory is sent, and that what is received belongs to
 * @capacity: messages on their way in one direction, up to 16384; 0: 256
 * @flags: %EVPL_CHANNEL_BLOCKING or 0
 * @r_peer: the other end, a descriptor, close-on-exec. The caller passes it to another
 *	process, by inheritance or over a Unix socket, and closes it. There it becomes a
 *	channel by evpl_channel_bind().
 *
 * Return: 0, or
 *  - -EOPNOTSUPP: the anon back end, or an unknown flag
 *  - -EINVAL: more than the greatest capacity
 *  - -EMFILE, -ENFILE, -ENOMEM: no descriptor or memory left, or a cap is reached
 *  - -EINTR: a fatal signal came
 */
static inline int evpl_channel_create(struct evpl_channel **r_channel, struct evpl_pool *pool,
				      unsigned int capacity, unsigned int flags, int *r_peer)
{
	return evplmem_channel_create(r_channel, pool, capacity, flags, r_peer);
}

/**
 * evpl_channel_bind() - make a channel of an end that came from another process
 * @r_channel: where the channel goes; end it with evpl_channel_close()
 * @pool: as for evpl_channel_create()
 * @fd: the end; the channel's when 0 is returned
 * @flags: %EVPL_CHANNEL_BLOCKING or 0
 *
 * Return: 0, or
 *  - -EOPNOTSUPP: the anon back end, or an unknown flag
 *  - -EBADF: @fd is no end of a channel
 *  - -EBUSY: it is bound already, or was bound to a pool that is gone
 *  - -ENOMEM: no memory left, or a cap is reached
 *  - -EINTR: a fatal signal came
 */
static inline int evpl_channel_bind(struct evpl_channel **r_channel, struct evpl_pool *pool,
				    int fd, unsigned int flags)
{
	return evplmem_channel_bind(r_channel, pool, fd, flags);
}

/**
 * evpl_channel_close() - end a channel
 * @channel: the channel, or NULL
 *
 * What was sent to it and not received is given back to its owners; what it sent can
 * still be received. References that came over it stay.
 *
 * An end is closed when all processes that have it have closed it: a child of fork(2)
 * calls this too, for the ends of its parent.
 */
static inline void evpl_channel_close(struct evpl_channel *channel)
{
	evplmem_channel_close(channel);
}

/**
 * evpl_channel_fd() - a descriptor to poll
 * @channel: the channel
 *
 * Return: a descriptor that is readable when there is a message, or the other end is
 * closed (POLLHUP), and writable when a message fits. It is the channel's.
 */
static inline int evpl_channel_fd(struct evpl_channel *channel)
{
	return evplmem_channel_fd(channel);
}

/**
 * evpl_channel_send() - hand references to the other process
 * @channel: the channel
 * @messages: what to send; each iovec is of the channel's pool: allocated from it, or
 *	received over any of its channels. When 0 is returned their references are
 *	the channel's, and the iovecs worth nothing here.
 * @n: how many; all of them are sent, or none
 *
 * The receiver can read the whole buffer of a slice, and with %EVPL_MESSAGE_WRITE
 * write it: what else is in it as well. Nothing is allocated in it any more, so
 * nothing new comes to the receiver's sight. %EVPL_IOVEC_PRIVATE keeps other slices
 * out of it. One can pass on no more rights than one has.
 *
 * Any thread may call it, several at a time also.
 *
 * Return: 0, or
 *  - -EAGAIN: they don't fit now; see evpl_channel_fd()
 *  - -EMSGSIZE: more than the channel's capacity
 *  - -EPIPE: the other end is closed, or its process has ended
 *  - -EINVAL: an iovec is empty, has no bytes, reaches past its buffer, or is of another
 *    pool or of none; @n is negative
 *  - -EACCES: %EVPL_MESSAGE_WRITE, and the buffer may not be written here;
 *    %EVPL_MESSAGE_DEVICE, and devices may not have it here
 *  - -EOPNOTSUPP: an unknown flag
 *  - -ESTALE: an iovec has no reference
 *  - -ENOENT: a buffer of another process was revoked
 *  - -EBUSY: a buffer of this process is being revoked, or in quarantine since it was
 *  - -ENOMEM: memory is short, or a cap is reached
 *  - -EINTR: a signal came while it waited
 */
static inline int evpl_channel_send(struct evpl_channel *channel,
				    const struct evpl_message *messages, int n)
{
	return evplmem_channel_send(channel, messages, n);
}

/**
 * evpl_channel_recv() - take what the other process sent
 * @channel: the channel
 * @messages: where it goes; each iovec is a reference, like any other: to be added
 *	to, released on any thread, cut, or sent on
 * @max: room for how many
 *
 * The memory of other processes can be touched; devices may have it only where it came
 * with %EVPL_MESSAGE_DEVICE.
 *
 * Return: how many there were, or
 *  - -EAGAIN: none now; see evpl_channel_fd()
 *  - -EPIPE: none any more: the other end is closed, or its process has ended
 *  - -ENOSPC, -ENOMEM: no room or memory for another buffer; the message stays
 *  - -EINVAL: @max isn't positive
 *  - -EINTR: a signal came while it waited
 */
static inline int evpl_channel_recv(struct evpl_channel *channel, struct evpl_message *messages,
				    int max)
{
	return evplmem_channel_recv(channel, messages, max);
}

/**
 * evpl_iovec_revoke() - take a buffer back from all other processes
 * @iovec: an iovec of this process's own memory; its references here stay
 *
 * Their next touch of the buffer raises SIGBUS, or finds zeros (%EVPL_POOL_ZEROS).
 * References on the way arrive as %EVPL_MESSAGE_REVOKED.
 *
 * Return: 0, also where nobody has it; 1 if a device of another process, or a virtual
 * machine there, still has the buffer (see %EVPL_MESSAGE_DEVICE), and can read or write it
 * until evpl_iovec_wait() returns 0; or
 *  - -EINVAL: @iovec is empty, another process's memory, or no pool's
 *  - -EBUSY: another thread revokes it just now, or 1 was returned and that lasts; or
 *    a dma-buf carries it
 *  - -EINTR: a fatal signal came
 *  - -EOPNOTSUPP: the anon back end
 *  - -EPERM: @iovec was inherited over fork(2)
 */
static inline int evpl_iovec_revoke(const struct evpl_iovec *iovec)
{
	return evplmem_iovec_revoke(iovec);
}

/**
 * evpl_iovec_wait() - wait until no other process has a buffer
 * @iovec: an iovec of this process's own memory; its references here don't matter
 * @flags: %EVPL_IOVEC_TRY or 0
 *
 * Waits until no message carries the buffer, no process has received it and not released
 * it, no dma-buf carries it, and nothing holds its pages for them any more. A message to
 * this process that hasn't been received yet is one that carries it.
 *
 * Return: 0, or
 *  - -EAGAIN: %EVPL_IOVEC_TRY, and another process has the buffer. evpl_pool_fd() becomes
 *    readable when it has the buffer no more. If several threads use the pool, an
 *    allocation may take that event; try again from time to time.
 *  - -EINVAL: @iovec is empty, another process's memory, or no pool's
 *  - -EINTR: a signal came while it waited
 *  - -EOPNOTSUPP: an unknown flag, or the anon back end
 *  - -EPERM: @iovec was inherited over fork(2)
 */
static inline int evpl_iovec_wait(const struct evpl_iovec *iovec, unsigned int flags)
{
	return evplmem_iovec_wait(iovec, flags);
}

/**
 * evpl_pool_fd() - tells when other processes gave memory back
 * @pool: the pool
 *
 * A thread that waits for memory that others have polls this beside evpl_pool_eventfd(), and
 * allocates again when it is readable: allocation takes what has come back.
 *
 * Return: a descriptor, the pool's, only to be polled: POLLIN; and POLLPRI when
 * something that was received has been revoked. -EOPNOTSUPP: the anon back end.
 */
static inline int evpl_pool_fd(struct evpl_pool *pool)
{
	return evplmem_pool_fd(pool);
}

/**
 * evpl_iovec_export() - make a dma-buf of slices
 * @iovecs: the slices, each a multiple of 4 KiB long and aligned to that; all of one
 *	pool: allocated from it, or received over any of its channels. When a descriptor
 *	is returned their references are the dma-buf's, and the iovecs worth nothing.
 * @niov: how many, up to 1024
 * @flags: %EVPL_DMABUF_WRITE or 0
 *
 * The dma-buf shows the slices one after the other, and nothing else of their buffers.
 * Nothing is allocated in these any more. The references come back when the last that
 * had to do with the dma-buf has gone: descriptors, mappings, devices; until then
 * evpl_iovec_revoke() gives -EBUSY.
 *
 * Return: the dma-buf, a descriptor that is closed on exec; or
 *  - -EINVAL: @niov is out of range; an iovec is empty, of another pool or of none, isn't
 *    whole pages, or reaches past its buffer; two overlap
 *  - -EPERM: a buffer that devices may not have here; %EVPL_DMABUF_WRITE, and one that
 *    may not be written here; an iovec that was inherited over fork(2)
 *  - -EOPNOTSUPP: an unknown flag, or the anon back end
 *  - -ESTALE: an iovec has no reference
 *  - -ENOENT: a buffer of another process was revoked
 *  - -EBUSY: a buffer of this process is being revoked, or in quarantine since it was
 *  - -EMFILE, -ENFILE, -ENOMEM: no descriptor or memory left, or a cap is reached
 *  - -EINTR: a fatal signal came
 */
static inline int evpl_iovec_export(const struct evpl_iovec *iovecs, int niov,
				    unsigned int flags)
{
	return evplmem_iovec_export(iovecs, niov, flags);
}

/**
 * evpl_slab_export() - make a dma-buf of a slab
 * @pool: whose
 * @slab: what evpl_iovec_slab() or a device's register_slab() told of it
 * @flags: %EVPL_DMABUF_WRITE or 0
 *
 * For a device that is to have all of it, and addresses slices by their distance from
 * the slab's base. No reference is given up: the caller holds one to the slab, or is a
 * call-back for it. The slab stays as long as the dma-buf.
 *
 * Return: the dma-buf, a descriptor that is closed on exec; or
 *  - -ENOENT: there is no such slab
 *  - -EOPNOTSUPP: an unknown flag, or the anon back end
 *  - -EMFILE, -ENFILE, -ENOMEM: no descriptor or memory left, or a cap is reached
 *  - -EINTR: a fatal signal came
 */
static inline int evpl_slab_export(struct evpl_pool *pool, const struct evpl_slab_info *slab,
				   unsigned int flags)
{
	return evplmem_slab_export(pool, slab, flags);
}

/**
 * evpl_zerocopy_create() - have a socket send without a copy
 * @r_zerocopy: where it goes; end it with evpl_zerocopy_destroy()
 * @fd: the socket, of TCP or UDP. The program doesn't send with MSG_ZEROCOPY over it by
 *	itself, nor read its error queue. The library takes a descriptor of its own, so the
 *	caller's may be closed at any time. The connection lasts until both are closed;
 *	shutdown(2) ends it for the peer before that.
 *
 * To copy is cheaper below some 10 KB, and the kernel does it by itself where the
 * receiver is on the same machine.
 *
 * Calls for one socket are made by one thread at a time.
 *
 * The kernel numbers a socket's sends with MSG_ZEROCOPY from the socket's beginning. Therefore
 * a socket has one &struct evpl_zerocopy in its life, and must not have sent with MSG_ZEROCOPY
 * before that. Another one may follow only where the one before sent nothing. The library
 * tells by SO_ZEROCOPY, which this function sets, and which stays set once something was sent.
 * So the program neither sets nor clears that option, and doesn't set it on a listening
 * socket either, as accepted sockets inherit it.
 *
 * Return: 0, or
 *  - -EBUSY: SO_ZEROCOPY is set already
 *  - -EOPNOTSUPP: it is no such socket
 *  - -EBADF, -ENOTSOCK: it is none at all
 *  - -EMFILE: no descriptor left
 *  - -ENOMEM: no memory
 */
static inline int evpl_zerocopy_create(struct evpl_zerocopy **r_zerocopy, int fd)
{
	return evplmem_zerocopy_create(r_zerocopy, fd);
}

/**
 * evpl_zerocopy_send() - send slices without a copy
 * @zerocopy: the socket
 * @iovecs: what to send; their references stay the caller's and may be released at once, but
 *	the caller must not write to the memory before evpl_zerocopy_reap() has let go of it
 * @niov: how many, up to IOV_MAX
 * @flags: as for send(2)
 *
 * Takes references of its own, to be let go of by evpl_zerocopy_reap(). It copies, and
 * takes none, where the kernel has no memory to tell when it is done, and if one of
 * @iovecs is another process's memory.
 *
 * Return: how many bytes the socket took, which may be less than there are; or
 *  - -EINVAL: @niov is negative or above IOV_MAX
 *  - -ENOMEM: no memory
 *  - another error of sendmsg(2), such as -EAGAIN or -EPIPE
 */
static inline ssize_t evpl_zerocopy_send(struct evpl_zerocopy *zerocopy,
					 const struct evpl_iovec *iovecs, int niov, int flags)
{
	return evplmem_zerocopy_send(zerocopy, iovecs, niov, flags);
}

/**
 * evpl_zerocopy_reap() - let go of what was sent
 * @zerocopy: the socket
 *
 * Doesn't block. poll(2) says POLLERR of the socket when there is something to do.
 *
 * Return: how many sends the kernel isn't done with; or an error of recvmsg(2)
 */
static inline int evpl_zerocopy_reap(struct evpl_zerocopy *zerocopy)
{
	return evplmem_zerocopy_reap(zerocopy);
}

/**
 * evpl_zerocopy_destroy() - end it
 * @zerocopy: the socket, or NULL
 *
 * A child of fork(2) calls this too, to close its copy of the library's descriptor; the
 * references stay the parent's.
 *
 * Return: 0, or -EBUSY: the kernel isn't done with something; or an error of recvmsg(2)
 */
static inline int evpl_zerocopy_destroy(struct evpl_zerocopy *zerocopy)
{
	return evplmem_zerocopy_destroy(zerocopy);
}

/**
 * evpl_zerocopy_abort() - give up what is on its way, and end it
 * @zerocopy: the socket, or NULL
 *
 * Disconnects the socket, as connect(2) to AF_UNSPEC does: a connection of TCP is reset, and
 * what it hasn't sent is dropped. A network device still sends the bytes that it has already.
 *
 * Return: as evpl_zerocopy_destroy(). -EBUSY: a network device isn't done with something;
 * the connection is gone already, and evpl_zerocopy_destroy() succeeds when that is over.
 */
static inline int evpl_zerocopy_abort(struct evpl_zerocopy *zerocopy)
{
	return evplmem_zerocopy_abort(zerocopy);
}

/**
 * evpl_device_attach() - have slabs registered with a device
 * @pool: the pool
 * @ops: what to do; copied
 * @arg: given to @ops
 * @r_device: where the device goes; end it with evpl_device_detach()
 *
 * Slabs that are there are registered before this returns, those that come later
 * before anything is allocated from them. That one of them failed isn't an error
 * here: its iovecs have no cookie.
 *
 * Return: 0, or
 *  - -EINVAL, -E2BIG, -EOPNOTSUPP: see above
 *  - -ENOSPC: there are %EVPL_DEVICES_MAX already
 *  - -ENOMEM: no memory
 */
static inline int evpl_device_attach(struct evpl_pool *pool, const struct evpl_device_ops *ops,
				     void *arg, struct evpl_device **r_device)
{
	return evplmem_device_attach(pool, ops, arg, r_device);
}

/**
 * evpl_device_detach() - end it
 * @device: the device, or NULL
 *
 * Waits for its call-backs that run, then has all slabs unregistered; nothing is
 * called or awaited afterwards. Don't call it from a call-back.
 */
static inline void evpl_device_detach(struct evpl_device *device)
{
	evplmem_device_detach(device);
}

/**
 * evpl_device_cookie() - what the slab of a slice was registered as
 * @device: the device
 * @iovec: an iovec of its pool that the caller holds a reference by
 * @r_cookie: where the cookie goes; it is valid while the reference is held and
 *	the device attached
 *
 * O(1), and takes no lock; but a buffer of another process is registered by the first
 * call, with a device that has %EVPL_DEVICE_LEASES.
 *
 * Return: 0, or
 *  - -ENOENT: the slab isn't registered with @device; @iovec is empty; or it is another
 *    process's memory, which came without %EVPL_MESSAGE_DEVICE, which @device doesn't
 *    register, or which couldn't be registered
 *  - -EINVAL: @iovec is of another pool or of none
 */
static inline int evpl_device_cookie(struct evpl_device *device, const struct evpl_iovec *iovec,
				     uint64_t *r_cookie)
{
	return evplmem_device_cookie(device, iovec, r_cookie);
}

/**
 * evpl_device_set_cookie() - the device has registered a slab by itself
 * @device: the device
 * @iovec: an iovec of its pool, in that slab, that the caller holds a reference by
 * @cookie: what evpl_device_cookie() is to give from now on
 *
 * Return: 0, or
 *  - -EEXIST: it has a cookie
 *  - -EBUSY: a call-back for the slab is running
 *  - -EINVAL: @iovec is empty, another process's memory, or of another pool or of none
 */
static inline int evpl_device_set_cookie(struct evpl_device *device,
					 const struct evpl_iovec *iovec, uint64_t cookie)
{
	return evplmem_device_set_cookie(device, iovec, cookie);
}

/**
 * evpl_device_let_go() - a slab's number may be used again
 * @device: the device whose unregister_slab() returned %EVPL_DEVICE_LATER
 * @number: the slab's number
 *
 * Return: 0, or -ENOENT: nothing is awaited.
 */
static inline int evpl_device_let_go(struct evpl_device *device, unsigned int number)
{
	return evplmem_device_let_go(device, number);
}

#endif /* !EVPLMEM_PREFIX_ONLY */

#ifdef EVPLMEM_PREFIX_ONLY
#include "evplmem-prefix.h"
#endif

#pragma GCC diagnostic pop

#ifdef __cplusplus
}
#endif

#endif /* EVPLMEM_H */
