/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_H
#define EVPLMEM_H

/**
 * DOC: libevplmem
 *
 * Memory for fast I/O: pinned and registered with devices once, in *slabs*, and
 * handed out as slices that are reference-counted.
 *
 * A *pool* owns slabs. A slab is a run of *buffers*, all of one size, a power of
 * two. References are counted for each buffer. A *context* (&struct evpl) is one
 * thread's way to allocate from a pool: it cuts slices off a buffer of its own.
 * An iovec (&struct evpl_iovec) is a slice of one buffer, and is one reference to
 * the buffer. A buffer that loses its last reference is recycled. Its contents stay
 * as they are.
 *
 * A program that includes this header is C99 or later, or C++11 or later, compiled by
 * GCC or Clang. Every function is an inline over an exported evplmem_*() symbol. So a
 * program can link this library beside one that exports evpl_create() or
 * evpl_iovec_alloc() of its own. A file that needs the headers of both libraries defines
 * EVPLMEM_PREFIX_ONLY before it includes this one. The header then has only the
 * evplmem_*() functions, and its tags begin with evplmem: struct evplmem_iovec, and
 * struct evplmem for struct evpl. evplmem.hpp has classes for C++17.
 *
 * Threads: a context is used by one thread at a time. Other functions may be called on
 * any thread at any time, unless their comments say otherwise. Threads that write the same
 * iovec must lock it themselves. Allocation and release don't block, and make no system
 * call unless memory is short. No function may be called from a signal handler.
 *
 * Cancellation: no function is a cancellation point (pthreads(7)), and callbacks run with
 * the thread's cancellation disabled. A thread that is to be cancelled while it waits for
 * another process waits by poll(2), for evpl_channel_fd() or evpl_pool_fd(). A thread must
 * not have asynchronous cancellation while it is inside the library.
 *
 * Fork: a child of fork(2) has none of its parent's references. If the child passes a pool,
 * context, channel, device or iovec that it inherited, functions return -EPERM, and those
 * that can't fail do nothing. There are two exceptions: evpl_channel_close() and
 * evpl_zerocopy_destroy() close the child's copy of the descriptor. Until that is closed, the
 * channel's other end doesn't see that the parent has closed its own copy. The child goes on
 * sharing the memory with its parent, and can open pools of its own. The library doesn't
 * notice a process that was made without fork(3), by clone(2) or _Fork(3). Such a process
 * must not call the library.
 *
 * Errors: functions that can fail return a negative errno, and have then changed nothing.
 * They don't preserve errno itself. For a pool that was closed, and for a context that was
 * destroyed while its pool stays open, functions return -EPERM, and those that can't fail do
 * nothing. That lasts until another pool or context is made, which may get the same memory.
 * So it helps to find a mistake, but a program can't rely on it. A library that was built
 * with DEBUG=1 aborts the program instead.
 *
 * Structs that are passed in start with their size, and have an initializer that sets it,
 * such as %EVPL_POOL_CONFIG_INIT. A library that knows a longer struct takes the missing
 * fields as zero. A library that knows a shorter struct fails with -E2BIG, unless the surplus
 * is zero. Zero in any field means the default. -EINVAL means that a struct is too short,
 * and -EOPNOTSUPP that the library, or the back end, doesn't know a flag.
 */

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

/** EVPLMEM_VERSION_MAJOR - this header's major version; each has a soname of its own */
#define EVPLMEM_VERSION_MAJOR	1
/** EVPLMEM_VERSION_MINOR - this header's minor version; it goes up with each addition */
#define EVPLMEM_VERSION_MINOR	0
/** EVPLMEM_VERSION_MICRO - this header's micro version; it goes up when something was mended */
#define EVPLMEM_VERSION_MICRO	0
/** EVPLMEM_VERSION - the three versions in one number, to be compared with evplmem_version() */
#define EVPLMEM_VERSION								\
	(EVPLMEM_VERSION_MAJOR << 16 | EVPLMEM_VERSION_MINOR << 8 | EVPLMEM_VERSION_MICRO)

/* The initializer of a struct that starts with its size: that size, and zeros. */
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
/** EVPL_POOL_PRESSURE_INIT - initializer of &struct evpl_pool_pressure */
#define EVPL_POOL_PRESSURE_INIT	EVPLMEM_SIZED(pool_pressure)
/** EVPL_DEVICE_OPS_INIT - initializer of &struct evpl_device_ops: no callbacks, no flags */
#define EVPL_DEVICE_OPS_INIT	EVPLMEM_SIZED(device_ops)

#ifdef __cplusplus
extern "C" {
#endif

/* A function may be named like the struct that it fills, which C++ calls a shadow. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wshadow"

#include "evplmem-hot.h"

#if defined(EVPLMEM_PREFIX_ONLY) || defined(EVPLMEM_CXX)
#include "evplmem-prefix.h"
#endif

/** struct evpl_pool - a pool of memory; opaque */
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
 * @data: the first byte of the slice
 * @length: the bytes of the slice; at most a buffer's
 * @__private1: the library's; do not touch
 * @__private2: the library's; do not touch
 *
 * A copy made by assignment is the same reference, not another one. An iovec that is
 * all zero is empty: it holds no reference, and may be released or moved.
 *
 * The caller may change @data and @length, within the bytes that the iovec had when it was
 * made: no function finds the buffer, or the reference, by them. But an iovec that
 * evpl_iovec_reserve() made must not be changed before it has been committed.
 */
struct evpl_iovec {
	void *data;
	unsigned int length;
	unsigned int __private1;
	unsigned long __private2;
};

/**
 * enum evpl_backend - where a pool's memory comes from
 * @EVPL_BACKEND_DEFAULT: the one that the environment variable EVPL_BACKEND names,
 *	"module" or "anon"; the module if it isn't set
 * @EVPL_BACKEND_MODULE: the kernel module evpl.ko
 * @EVPL_BACKEND_ANON: shared memory of this process, for a machine without the
 *	module; it isn't pinned, and not in huge pages
 */
enum evpl_backend {
	EVPL_BACKEND_DEFAULT	= 0,
	EVPL_BACKEND_MODULE	= 1,
	EVPL_BACKEND_ANON	= 2
};

/** EVPL_POOL_HUGE - slabs are taken in folios of 2 MiB, or not at all */
#define EVPL_POOL_HUGE		(1U << 0)
/**
 * EVPL_POOL_ZEROS - a received buffer that was revoked reads as zeros, instead of raising SIGBUS
 *
 * All pages of such buffers are then one page of this process's own. If this process writes to
 * one of them, the bytes appear in each, and no other process sees them. POLLPRI of
 * evpl_pool_fd() tells that a buffer was revoked.
 */
#define EVPL_POOL_ZEROS		(1U << 1)
/**
 * EVPL_POOL_REVOKE - when this process ends, the pool's memory is revoked
 *
 * That is so however the process ends. It happens once the children that inherited the pool's
 * descriptor have ended too. Without this flag other processes keep the buffers that they
 * received until they release them. Memory that a dma-buf carries stays in either case.
 */
#define EVPL_POOL_REVOKE	(1U << 2)
/**
 * EVPL_POOL_ATOMIC - references are counted with atomic operations alone
 *
 * Without this flag a thread needs no atomic operations to count references to memory that it
 * allocated itself. Another thread that needs the count ends that by membarrier(2). With the
 * flag the library doesn't make that call, and keeps no data for threads. The flag is for a
 * program in which a filter of seccomp(2) refuses the call once the pool is open, and for a
 * plugin that is unloaded while the threads that called it live on.
 */
#define EVPL_POOL_ATOMIC	(1U << 3)

/**
 * struct evpl_pool_config - the configuration of a pool, for evpl_pool_open()
 * @size: sizeof(struct evpl_pool_config)
 * @backend: an &enum evpl_backend
 * @flags: %EVPL_POOL_HUGE, %EVPL_POOL_ZEROS, %EVPL_POOL_REVOKE, %EVPL_POOL_ATOMIC or 0
 * @buffer_size: bytes of a buffer: a power of two, 4 KiB (or a page, if that is more) to
 *	1 GiB; 0: 1 MiB
 * @slab_size: bytes of the first slab; each further one is twice as long as the
 *	one before, up to @slab_size_max. A multiple of 2 MiB and of
 *	@buffer_size, at most 1 GiB; 0: 2 MiB, or a buffer if that is more.
 *	Shorter slabs are taken where memory is short.
 * @slab_size_max: bytes of the longest slab: like @slab_size, and not below it; 0: 64 MiB,
 *	or @slab_size or a buffer if that is more
 * @max_bytes: the most bytes that the pool may have in slabs, at least 2 MiB and a buffer;
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

/** EVPL_CONFIG_NODE - @node of &struct evpl_config is set */
#define EVPL_CONFIG_NODE	(1U << 0)

/** EVPL_ANY_NODE - no NUMA node in particular */
#define EVPL_ANY_NODE		(-1)

/**
 * struct evpl_config - the configuration of a context, for evpl_create()
 * @size: sizeof(struct evpl_config)
 * @flags: %EVPL_CONFIG_NODE or 0
 * @node: with %EVPL_CONFIG_NODE, the NUMA node that all memory of the context
 *	comes from, else 0
 * @cache: bytes of free buffers that the context may keep from other threads,
 *	the buffer that it cuts slices off included; 0: 8 MiB. Two buffers are
 *	always allowed. Other contexts take these buffers before they fail with -ENOMEM.
 */
struct evpl_config {
	size_t size;
	unsigned int flags;
	int node;
	size_t cache;
};

/**
 * struct evpl_pool_stats - statistics of a pool, for evpl_pool_stats()
 * @size: sizeof(struct evpl_pool_stats), set by the caller
 * @backend: %EVPL_BACKEND_MODULE or %EVPL_BACKEND_ANON
 * @devices: devices that are attached
 * @contexts: contexts that were created and not destroyed
 * @buffer_size: bytes of a buffer
 * @slabs: slabs, including those that are being given back
 * @bytes: bytes of these slabs
 * @buffers: buffers of these slabs
 * @buffers_free: buffers that any context can take
 * @buffers_cached: free buffers that contexts keep for themselves
 * @buffers_used: all other buffers: they have references, or a context cuts slices
 *	off them
 * @grows: slabs taken since the pool was opened
 * @shrinks: slabs given back
 * @steals: buffers that a context took from another's cache
 * @failures: allocations that failed with -ENOMEM
 * @wakeups: times that the pool's eventfd was written
 * @roots: roots that evpl_pool_keep() has kept, and those that the pool was adopted with
 * @roots_broken: roots that evpl_pool_adopt() has left out, since they were damaged
 *
 * While other threads run, each number is of some moment, and not all of them of the
 * same one.
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
	uint64_t roots;
	uint64_t roots_broken;
};

/** EVPL_NAME_MAX - the most bytes of the name of a root, without the zero at its end */
#define EVPL_NAME_MAX		63

/**
 * enum evpl_level - how a pool's room compares with the marks of evpl_pool_watch()
 * @EVPL_ROOM_AMPLE: at least the high mark
 * @EVPL_ROOM_SCARCE: less than the high mark
 * @EVPL_ROOM_SHORT: less than the low mark
 */
enum evpl_level {
	EVPL_ROOM_AMPLE = 0,
	EVPL_ROOM_SCARCE = 1,
	EVPL_ROOM_SHORT = 2,
};

/**
 * enum evpl_cap - what keeps a pool from growing
 * @EVPL_CAP_POOL: the pool's own max_bytes
 * @EVPL_CAP_USER: the module's cap of each user, max_bytes_per_user
 * @EVPL_CAP_SYSTEM: the module's cap of the system, max_bytes
 * @EVPL_CAP_MEMORY: the pool failed to grow although these caps left room: the machine has no memory,
 *	or the memory cgroup; or RLIMIT_MEMLOCK is reached after mlockall(2)
 */
enum evpl_cap {
	EVPL_CAP_POOL = 1,
	EVPL_CAP_USER = 2,
	EVPL_CAP_SYSTEM = 3,
	EVPL_CAP_MEMORY = 4,
};

/**
 * struct evpl_pool_pressure - how much memory a pool can still give, for evpl_pool_pressure()
 * @size: sizeof(struct evpl_pool_pressure), set by the caller
 * @level: an &enum evpl_level
 * @cap: an &enum evpl_cap: the one that leaves the least growth
 * @room: bytes that can still be allocated: @free and @growth
 * @free: bytes of buffers that are free
 * @growth: bytes by which the pool could grow now
 */
struct evpl_pool_pressure {
	size_t size;
	unsigned int level;
	unsigned int cap;
	uint64_t room;
	uint64_t free;
	uint64_t growth;
};

/** EVPL_SLAB_LEASED - this isn't a slab, but a buffer of another process */
#define EVPL_SLAB_LEASED	(1U << 0)
/** EVPL_SLAB_READONLY - this is a leased buffer that may not be written to */
#define EVPL_SLAB_READONLY	(1U << 1)

/**
 * struct evpl_slab_info - a slab, as a device sees it
 * @number: the slab's number: the lowest one that no slab of the pool has, and that no
 *	device still has to let go of. A leased buffer has none: all bits are set.
 * @node: the NUMA node that the slab was asked from, or %EVPL_ANY_NODE
 * @base: the first byte of the slab
 * @length: the bytes of the slab; at most 1 GiB
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

/** EVPL_DEVICE_LATER - unregister_slab() returns this to let go of the slab's number later */
#define EVPL_DEVICE_LATER	1

/** EVPL_DEVICE_LEASES - the device also registers leased buffers */
#define EVPL_DEVICE_LEASES	(1U << 0)

/**
 * struct evpl_device_ops - a device's callbacks, for when slabs come and go
 * @size: sizeof(struct evpl_device_ops)
 * @register_slab: called when a slab has come, and for the slabs that are there when the
 *	device is attached. It returns 0 and sets the cookie, or it fails with anything
 *	else, and the slab is used without a cookie for this device. NULL: the device
 *	registers slabs by itself, when it first meets them; see evpl_device_set_cookie().
 * @unregister_slab: called for a slab that has a cookie, when the slab goes or the device
 *	is being detached. If the slab goes, no reference to it is left. The callback returns
 *	0 when the device is done with the slab. If it returns %EVPL_DEVICE_LATER, the slab's
 *	memory is given back, but no new slab gets its number before evpl_device_let_go().
 *	NULL: nothing is called.
 * @flags: %EVPL_DEVICE_LEASES or 0. With the flag, buffers that were received with
 *	%EVPL_MESSAGE_DEVICE are registered too, as slabs are (%EVPL_SLAB_LEASED), each
 *	when evpl_device_cookie() first asks for it. Such a registration ends when this
 *	process has released its last reference on the buffer. unregister_slab() must
 *	then return 0, since the buffer isn't its owner's again while a device holds it.
 *
 * The callbacks run on the thread that takes or gives back a slab, or that attaches or detaches
 * the device, with the thread's cancellation disabled. Several can run at a time for different
 * slabs; they never overlap for one slab and device. They run without a lock, so they may
 * allocate and release. They must not detach a device, close the pool, or wait for a thread that
 * does.
 *
 * If register_slab() allocates, it may get memory of the slab that it is called for. From then on
 * other threads can have buffers of the slab too, and evpl_device_cookie() gives -ENOENT for these
 * until the slab is registered.
 */
struct evpl_device_ops {
	size_t size;
	int (*register_slab)(void *arg, const struct evpl_slab_info *slab, uint64_t *cookie);
	int (*unregister_slab)(void *arg, const struct evpl_slab_info *slab, uint64_t cookie);
	unsigned int flags;
};

/**
 * EVPL_IOVEC_PRIVATE - the iovecs share their buffers with nothing
 *
 * Nothing else is allocated in the buffers of these iovecs while the buffers have a
 * reference. The flag is for memory that another process is to see.
 */
#define EVPL_IOVEC_PRIVATE	(1U << 0)

/**
 * struct evpl_waiter - a request for memory that waits for its turn
 * @length: bytes; for n whole buffers, n times the pool's buffer size
 * @alignment: as for evpl_iovec_alloc()
 * @max_iovecs: room in @iovecs
 * @flags: %EVPL_IOVEC_PRIVATE or 0
 * @iovecs: where the iovecs go; until @done is called the library may write anything there
 * @done: called when the request is served, with the number of iovecs, whose references are
 *	the caller's
 * @__evpl: the library's; NULL in the beginning
 * @__next: the library's
 *
 * The struct is in the caller's memory, and must not be changed while the request waits.
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
 * EVPL_CHANNEL_BLOCKING - sending waits for room, and receiving waits for a message
 *
 * A signal ends the wait (-EINTR). Cancellation of the thread doesn't.
 */
#define EVPL_CHANNEL_BLOCKING	(1U << 0)

/**
 * EVPL_CHANNEL_LANE - most messages pass through shared memory, without a system call
 *
 * Both ends are made with this flag, in pools with %EVPL_POOL_ZEROS. If the other end isn't, or the
 * module or the other process's library doesn't know lanes, the channel works without.
 *
 * The receiver goes on seeing each buffer that it was once sent a slice of, with all that is
 * allocated in it later. That ends when the receiver closes its end, or when the sender takes the
 * buffer back by evpl_iovec_revoke(), evpl_iovec_wait() or evpl_pool_trim(). So all memory of the
 * sender's pool should be for this peer, or for peers that may see each other's. See evpl_lane(7).
 */
#define EVPL_CHANNEL_LANE	(1U << 1)
/**
 * EVPL_CHANNEL_POLLING - with %EVPL_CHANNEL_LANE: the program looks for messages in a loop
 *
 * A message makes evpl_channel_fd() readable only after evpl_channel_arm(). So neither side makes a
 * system call for it.
 */
#define EVPL_CHANNEL_POLLING	(1U << 2)

/** EVPL_MESSAGE_WRITE - the receiver may write to the buffer too */
#define EVPL_MESSAGE_WRITE	(1U << 0)
/** EVPL_MESSAGE_REVOKED - only received: the owner took the buffer back on the way */
#define EVPL_MESSAGE_REVOKED	(1U << 1)
/**
 * EVPL_MESSAGE_DEVICE - the receiver may have devices touch the buffer
 *
 * Without this flag nothing can pin the received memory: O_DIRECT, RDMA and the like give
 * EFAULT. With it they may read the memory, and with %EVPL_MESSAGE_WRITE write to it. If such
 * I/O still holds the buffer when the receiver has released it, or died, the kernel keeps the
 * buffer from its owner until that is over (quarantine; linux/evpl.h, DOC: quarantine). The same
 * goes for %EVPL_MESSAGE_WRITE alone, since KVM before Linux 6.13 may hold a page that a virtual
 * machine can write to.
 *
 * The sender's own devices don't keep a buffer from the sender, as the library tells the
 * kernel of them when they register a slab. Attach devices before buffers of a slab are in
 * use. If all of a slab is in use, the kernel can't tell whose a registration is: it keeps a
 * buffer that was sent with either flag until the registration goes.
 */
#define EVPL_MESSAGE_DEVICE	(1U << 2)
/**
 * EVPL_MESSAGE_HELD - only received: the buffer is this process's own, and others may still
 * have it
 *
 * A process that sends a buffer home may still have a device, a pipe or another reference on
 * it. Others may read or change the buffer until evpl_iovec_wait() returns 0.
 */
#define EVPL_MESSAGE_HELD	(1U << 3)

/** EVPL_IOVEC_TRY - evpl_iovec_wait() doesn't wait */
#define EVPL_IOVEC_TRY		(1U << 0)

/**
 * struct evpl_message - a reference on its way to another process
 * @iovec: the slice, and the reference; empty in a message with %EVPL_MESSAGE_REVOKED
 * @cookie: any value, for the receiver
 * @flags: %EVPL_MESSAGE_WRITE and %EVPL_MESSAGE_DEVICE, or 0; in a received message also
 *	%EVPL_MESSAGE_REVOKED or %EVPL_MESSAGE_HELD
 * @reserved: 0
 */
struct evpl_message {
	struct evpl_iovec iovec;
	uint64_t cookie;
	uint32_t flags;
	uint32_t reserved;
};

/**
 * struct evpl_lane_stats - statistics of a lane, for evpl_lane_stats()
 * @size: sizeof(struct evpl_lane_stats), set by the caller
 * @sending: 1 if this side sends through shared memory; 0 as long as it sends as a channel does
 * @receiving: the same for the other side
 * @grants: buffers of this side that the other side sees
 * @sent: messages that were sent through shared memory
 * @sent_as_records: messages that the kernel carried: the first one of each buffer, and those of
 *	other processes' buffers, count here
 * @received: messages that were received after the other side had begun to use shared memory
 * @doorbells: system calls to wake the other side, or to sleep
 */
struct evpl_lane_stats {
	size_t size;
	uint32_t sending;
	uint32_t receiving;
	uint64_t grants;
	uint64_t sent;
	uint64_t sent_as_records;
	uint64_t received;
	uint64_t doorbells;
};

/** EVPL_LANE_STATS_INIT - initializer of &struct evpl_lane_stats */
#define EVPL_LANE_STATS_INIT	EVPLMEM_SIZED(lane_stats)

/** EVPL_DMABUF_WRITE - devices, and processes that map the dma-buf, may write to it */
#define EVPL_DMABUF_WRITE	(1U << 0)

/* The exported functions; use the inlines below. */
#pragma GCC visibility push(default)
/**
 * evplmem_version() - the version of the library that the program runs with
 *
 * A library that is later than the program's header has everything that is in the header. With
 * an earlier library the dynamic linker starts the program only if the program calls no function
 * that the library lacks.
 *
 * Return: the value of %EVPLMEM_VERSION in the library's own header.
 */
unsigned int evplmem_version(void);
int evplmem_pool_open(struct evpl_pool **r_pool, const struct evpl_pool_config *config);
int evplmem_pool_adopt(struct evpl_pool **r_pool, int fd, const struct evpl_pool_config *config);
int evplmem_pool_close(struct evpl_pool *pool);
int evplmem_pool_keep(struct evpl_pool *pool, const char *name, const struct evpl_iovec *iovec);
int evplmem_pool_kept(struct evpl_pool *pool, const char *name, struct evpl_iovec *r_iovec);
int evplmem_pool_forget(struct evpl_pool *pool, const char *name);
int evplmem_pool_list(struct evpl_pool *pool, uint64_t *cursor, char name[EVPL_NAME_MAX + 1]);
int evplmem_pool_preallocate(struct evpl_pool *pool, uint64_t bytes, int node);
uint64_t evplmem_pool_trim(struct evpl_pool *pool);
int evplmem_pool_stats(struct evpl_pool *pool, struct evpl_pool_stats *stats);
int evplmem_pool_eventfd(struct evpl_pool *pool);
int evplmem_pool_watch(struct evpl_pool *pool, uint64_t low, uint64_t high);
int evplmem_pool_pressure(struct evpl_pool *pool, struct evpl_pool_pressure *pressure);
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
int evplmem_channel_arm(struct evpl_channel *channel);
int evplmem_lane_stats(struct evpl_channel *channel, struct evpl_lane_stats *stats);
int evplmem_pool_fd(struct evpl_pool *pool);
int evplmem_iovec_export(const struct evpl_iovec *iovecs, int niov, unsigned int flags);
int evplmem_slab_export(struct evpl_pool *pool, const struct evpl_slab_info *info,
			unsigned int flags);
int evplmem_slab_offset(struct evpl_pool *pool, const struct evpl_slab_info *info,
			uint64_t *r_offset);
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
 * @config: the configuration, or NULL for all defaults
 *
 * The pool takes no slab yet. After an error evpl_last_error() says how to solve it.
 *
 * Return: 0, or
 *  - -EINVAL: a size isn't one of those that &struct evpl_pool_config allows, an
 *    unknown back end (also in EVPL_BACKEND), or @config is too short
 *  - -E2BIG, -EOPNOTSUPP: see above; the anon back end knows only %EVPL_POOL_ATOMIC
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
 * evpl_pool_adopt() - open a pool over memory that another process has left
 * @r_pool: where the pool goes; close it with evpl_pool_close()
 * @fd: a duplicate of the dead process's evpl_pool_fd(), which a supervisor has kept. If the call
 *	succeeds, the descriptor belongs to the pool, which closes it. Else it stays the caller's.
 * @config: the configuration, or NULL for all defaults. A @buffer_size of 0 stands for that of the
 *	pool that is adopted. Its flags %EVPL_POOL_ZEROS and %EVPL_POOL_REVOKE stay as they are.
 *
 * The pool has the slabs of the dead process. Buffers with roots have a reference for each root: see
 * evpl_pool_keep(). Buffers that other processes have received from it come back when they are
 * released. All other buffers are free. References that others have received stay valid, also
 * meanwhile. References that the dead process had received are released.
 *
 * The dead process may not run any more, and no other process may have the pool's memory mapped.
 * The address space and the rings of a dead process may end a moment after it, so the call tries for
 * ten seconds. If that process hadn't opened its pool whole, the pool is empty.
 *
 * The work is in proportion to the number of buffers, slabs and roots. No slice is touched. After an
 * error evpl_last_error() says how to solve it.
 *
 * Return: 0, or
 *  - -EBADF, -ENOTTY: @fd is no descriptor, or none of a pool; or the module is too old
 *  - -EBUSY: another process still has the pool; or a ring or a dma-buf has one of its slabs
 *  - -EUCLEAN: the directory of roots is damaged. The memory can't be adopted any more.
 *  - -EINVAL: as in evpl_pool_open(), or the pool has another buffer size, or lacks a flag that
 *    @config asks for
 *  - -EACCES: @fd was opened for reading alone
 *  - -E2BIG, -EOPNOTSUPP: see above; the anon back end has nothing to adopt
 *  - -EMFILE, -ENFILE, -ENOMEM: no descriptor or memory left
 *  - -EINTR: a fatal signal came
 */
static inline int evpl_pool_adopt(struct evpl_pool **r_pool, int fd,
				  const struct evpl_pool_config *config)
{
	return evplmem_pool_adopt(r_pool, fd, config);
}

/**
 * evpl_pool_keep() - give a slice a name, by which the pool's successor finds it
 * @pool: the pool
 * @name: 1 to %EVPL_NAME_MAX bytes, and a zero
 * @iovec: a slice of the pool's own memory, not an empty one
 *
 * The slice becomes a *root*, which has a reference of its own: @iovec stays the caller's. If the
 * name has a root already, the new one takes its place. A process that is killed at any instruction
 * of this call leaves the old root or the new one. The bytes of the slice are what the process had
 * written to it by then. So write a slice first, keep it then, and don't change it any more.
 *
 * The names are in buffers of the pool. The first call takes one, and so do later ones, each when
 * the buffers have no room. A buffer of 4 KiB has room for 31 names, and one of 1 MiB or more for 8191. No
 * message shows these buffers to another process; evpl_slab_export() of their slab does.
 *
 * Return: 0, or with nothing changed
 *  - -EINVAL: the name is empty; or the slice is empty, another pool's, received, or wrapped
 *  - -ENAMETOOLONG: the name has more than %EVPL_NAME_MAX bytes
 *  - -ENOMEM: the pool has no buffer for the name, or memory is short
 *  - -EOPNOTSUPP: the pool's back end is anon, or the module is too old
 */
static inline int evpl_pool_keep(struct evpl_pool *pool, const char *name,
				 const struct evpl_iovec *iovec)
{
	return evplmem_pool_keep(pool, name, iovec);
}

/**
 * evpl_pool_kept() - find a root by its name
 * @pool: the pool
 * @name: the name
 * @r_iovec: where the slice goes, with a reference of the caller's own
 *
 * Return: 0, or
 *  - -ENOENT: no root has the name
 *  - -EINVAL, -ENAMETOOLONG, -EOPNOTSUPP: as in evpl_pool_keep()
 */
static inline int evpl_pool_kept(struct evpl_pool *pool, const char *name,
				 struct evpl_iovec *r_iovec)
{
	return evplmem_pool_kept(pool, name, r_iovec);
}

/**
 * evpl_pool_forget() - drop a root
 * @pool: the pool
 * @name: the name
 *
 * Return: 0, or the errors of evpl_pool_kept().
 */
static inline int evpl_pool_forget(struct evpl_pool *pool, const char *name)
{
	return evplmem_pool_forget(pool, name);
}

/**
 * evpl_pool_list() - list the names of the roots
 * @pool: the pool
 * @cursor: where the list is; set it to 0 for the first call
 * @name: where the next name goes
 *
 * A root that is there all the time is listed once, whatever is kept and forgotten meanwhile.
 *
 * Return: 1 and a name, 0 at the end, or -EOPNOTSUPP as in evpl_pool_keep().
 */
static inline int evpl_pool_list(struct evpl_pool *pool, uint64_t *cursor,
				 char name[EVPL_NAME_MAX + 1])
{
	return evplmem_pool_list(pool, cursor, name);
}

/**
 * evpl_pool_close() - close a pool
 * @pool: the pool, which is gone when 0 is returned
 *
 * Another thread may still be inside the call that released the last reference. The slabs of roots
 * stay with the pool's descriptor: a process that has a duplicate of it can adopt them.
 *
 * Return: 0, or
 *  - -EBUSY: a context, a reference of this process or of another one, an attached device
 *    or a dma-buf is left, or the kernel keeps a buffer in quarantine
 *  - -EPERM: the pool was closed already, or was inherited over fork(2)
 */
static inline int evpl_pool_close(struct evpl_pool *pool)
{
	return evplmem_pool_close(pool);
}

/**
 * evpl_pool_preallocate() - take slabs beforehand
 * @pool: the pool
 * @bytes: how much memory from @node the pool is to have at least, until a later call for
 *	that node changes it; 0 in the beginning
 * @node: a NUMA node, or %EVPL_ANY_NODE for memory of contexts with no node
 *
 * Takes the slabs that are missing. Each is as long as the pool's slab_size_max, or as the
 * bytes that are missing if these are fewer. They are ordinary slabs. But neither
 * evpl_pool_trim() nor a context of another node that needs room leaves the pool less than
 * @bytes from @node. A call for less gives nothing back by itself.
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
 * use. One such slab stays, and so does the memory that evpl_pool_preallocate() asked for. A
 * slab that a device is being told about at that moment stays too.
 *
 * While devices are told that slabs go, the pool may grow as if these were gone already. For
 * that long it can have more than its max_bytes.
 *
 * Return: the bytes of the slabs that were to be given back. This includes a slab that stays
 * because the kernel still uses it in a way that the library doesn't know of.
 */
static inline uint64_t evpl_pool_trim(struct evpl_pool *pool)
{
	return evplmem_pool_trim(pool);
}

/**
 * evpl_pool_stats() - get statistics of a pool
 * @pool: the pool
 * @stats: where they go; the caller sets @stats->size, and the library zeroes the fields that
 *	it doesn't know
 *
 * Return: 0, or -EINVAL: @stats is too short for its size.
 */
static inline int evpl_pool_stats(struct evpl_pool *pool, struct evpl_pool_stats *stats)
{
	return evplmem_pool_stats(pool, stats);
}

/**
 * evpl_pool_eventfd() - get a descriptor that tells when to retry an allocation
 * @pool: the pool
 *
 * After an allocation failed with -ENOMEM, the descriptor becomes readable when the next
 * buffer or slab is free. It may become readable without that, as when a context takes a new
 * buffer, and the retry may fail again. The library writes the descriptor and doesn't read
 * it. A thread that waits alone reads it and retries. If several threads wait, each has it
 * in an epoll set of its own with EPOLLET, and none reads it: a thread would miss the event
 * that another one reads. evpl_waiter_alloc() gives threads memory in the order in which they
 * asked for it.
 *
 * Return: an eventfd, nonblocking and close-on-exec. It belongs to the pool, which closes it.
 */
static inline int evpl_pool_eventfd(struct evpl_pool *pool)
{
	return evplmem_pool_eventfd(pool);
}

/**
 * evpl_pool_watch() - be told when a pool's room falls below a mark, or rises above it
 * @pool: the pool
 * @low: the low mark, in bytes
 * @high: the high mark, not below the low one; 0: watch nothing any more
 *
 * When the room crosses a mark, in either direction, the descriptor of evpl_pool_eventfd() becomes
 * readable, once until evpl_pool_pressure() is called. That function tells the level.
 *
 * The library looks at the marks when the pool takes a buffer, frees one, grows, shrinks or fails to
 * grow. Memory that other pools take of the same caps is noticed then.
 *
 * Return: 0, or -EINVAL: @low is above @high; -EPERM: the pool was inherited over fork(2).
 */
static inline int evpl_pool_watch(struct evpl_pool *pool, uint64_t low, uint64_t high)
{
	return evplmem_pool_watch(pool, low, high);
}

/**
 * evpl_pool_pressure() - tell how much memory a pool can still give, and what limits it
 * @pool: the pool
 * @pressure: where the answer goes; its @size is set
 *
 * Works without marks too: then the level is %EVPL_ROOM_AMPLE.
 *
 * Return: 0, or -EINVAL: @size is too small; -EPERM: the pool was inherited over fork(2).
 */
static inline int evpl_pool_pressure(struct evpl_pool *pool, struct evpl_pool_pressure *pressure)
{
	return evplmem_pool_pressure(pool, pressure);
}

/**
 * evpl_last_error() - get the reason why the last call failed, in words
 *
 * Return: a sentence on the last evpl_pool_open() or evpl_pool_adopt() of this thread that failed,
 * or on the last channel or dma-buf that it couldn't make because of mlockall(2); empty if there
 * was none. It is valid until the thread's next call of that kind.
 */
static inline const char *evpl_last_error(void)
{
	return evplmem_last_error();
}

/**
 * evpl_create() - create a context
 * @r_evpl: where the context goes; end it with evpl_destroy()
 * @pool: the pool that it allocates from
 * @config: the configuration, or NULL for all defaults
 *
 * A thread that exits or sleeps without evpl_destroy() doesn't keep free memory from other
 * threads: they take it before their allocations fail.
 *
 * Return: 0, or
 *  - -EINVAL: there is no such node, the node is set without %EVPL_CONFIG_NODE, or
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
 * Memory that was allocated through the context stays until it is released. The free
 * buffers that the context kept go to the pool; slabs stay until evpl_pool_trim(). The
 * context's requests that wait (&struct evpl_waiter) are cancelled.
 */
static inline void evpl_destroy(struct evpl *evpl)
{
	evplmem_destroy(evpl);
}

/* Tells ThreadSanitizer of an allocation, and returns @niov: the number of iovecs, or an error. */
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
 * @length: how many bytes
 * @alignment: the alignment of each iovec's data: a power of two up to the buffer size; 0:
 *	any. Data is always aligned to 8 bytes.
 * @max_iovecs: how many iovecs @r_iovec has room for
 * @r_iovec: where the iovecs go
 *
 * Up to one buffer is always one iovec. A longer request gets whole buffers, then one iovec
 * with the rest. A slice of at least half a buffer that doesn't fit into the rest of the
 * context's buffer gets a buffer for itself. The memory isn't zeroed.
 *
 * The function never blocks. Before it fails with -ENOMEM it takes the free buffers that other
 * contexts keep. If the buffers that contexts cut slices off would make up for the missing
 * memory, the contexts stop cutting these: the rest of such a buffer can be used once its slices
 * have been released.
 *
 * Return: the number of iovecs, each a reference of the caller's; 0 if @length
 * is 0; or
 *  - -EINVAL: @alignment isn't a power of two, or is above the buffer size
 *  - -ENOBUFS: the request needs more than @max_iovecs iovecs
 *  - -EMSGSIZE: the request is for more than the pool can ever have (max_bytes of &struct
 *    evpl_pool_config), so that no release helps
 *  - -ENOMEM: memory is short or reserved for requests that wait (evpl_waiter_alloc()), or a
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
 * evpl_iovec_alloc_flags() - allocate memory with flags
 * @evpl: the context
 * @length: how many bytes
 * @alignment: as for evpl_iovec_alloc()
 * @max_iovecs: how many iovecs @r_iovec has room for
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
 * Does what evpl_iovec_alloc_flags() does. If that would fail with -ENOMEM, the request is put
 * at the end of the pool's queue, and evpl_waiter_serve() serves it.
 *
 * The queue reserves free buffers for its waiters. An allocation that comes later, by a waiter
 * or not, takes a free buffer only if enough are left for all requests that came before it, and
 * fails otherwise. It may still cut slices off its context's own buffer. So no later request
 * delays a waiter, and a waiter whose thread doesn't serve it keeps the memory that it asked for
 * from others, and no more. Memory of a NUMA node is reserved only for waiters that could use it.
 *
 * Return: the number of iovecs, each a reference of the caller's, and @done isn't called;
 * 0 if @length is 0; or
 *  - -EINPROGRESS: the request waits
 *  - -EBUSY: the request waits already
 *  - -EOPNOTSUPP: an unknown flag
 *  - any other error of evpl_iovec_alloc(), but -ENOMEM
 */
static inline int evpl_waiter_alloc(struct evpl *evpl, struct evpl_waiter *waiter)
{
	return evplmem_allocated(evplmem_waiter_alloc(evpl, waiter), waiter->iovecs);
}

/**
 * evpl_waiter_cancel() - take a request out of the queue
 * @waiter: the request; no other thread may use its context meanwhile
 *
 * Afterwards @done isn't called any more, and the library doesn't use @waiter any more.
 *
 * Return: 0, or -ENOENT: the request doesn't wait, as it was served, cancelled or never put in
 * the queue, or as its context was destroyed.
 */
static inline int evpl_waiter_cancel(struct evpl_waiter *waiter)
{
	return evplmem_waiter_cancel(waiter);
}

/**
 * evpl_waiter_serve() - serve the first of a context's requests
 * @evpl: the context
 *
 * If there is memory for the context's request that has waited longest, the request leaves the
 * queue, and its @done is called: on the calling thread, with no lock of the library held. @done
 * may do whatever its caller may: ask for more by the same @waiter, cancel others, end @evpl.
 *
 * Call this until it returns 0, whenever evpl_pool_eventfd() becomes readable. The descriptor
 * tells of free memory, as it does after an allocation failed, and of requests that left the
 * queue.
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
 * @length: the most bytes that may be needed
 * @alignment: as for evpl_iovec_alloc()
 * @max_iovecs: how many iovecs @r_iovec has room for
 * @r_iovec: where the iovecs go
 *
 * The iovecs are references like any other, and later allocations don't overlap them. Give
 * all iovecs of one call to evpl_iovec_commit() together, once, or release them. Clone them
 * only after the commit.
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
 * evpl_iovec_commit() - keep the beginning of reserved memory
 * @evpl: a context of the same pool
 * @iovecs: the iovecs that evpl_iovec_reserve() returned
 * @niov: how many
 * @used: how many bytes are kept, from the beginning
 *
 * Shortens the iovecs to @used bytes together, and releases the iovecs that get none. The
 * context that reserved the memory can allocate the rest again, if nothing was allocated after
 * it.
 *
 * Return: the number of iovecs that remain; or -EINVAL: @used is more than the iovecs have,
 * @niov is negative, or the iovecs weren't reserved, are committed already, or are of another
 * pool.
 */
static inline int evpl_iovec_commit(struct evpl *evpl, struct evpl_iovec *iovecs, int niov,
				    unsigned int used)
{
#if EVPLMEM_TSAN
	int i;

	/* The library releases some of these iovecs. */
	for (i = 0; i < niov; i++)
		evplmem_tsan_release(iovecs[i].__private2);
#endif
	return evplmem_iovec_commit(evpl, iovecs, niov, used);
}

/**
 * evpl_iovec_addref() - take one more reference
 * @iovec: an iovec that the caller holds a reference by; it must be released once more
 */
static inline void evpl_iovec_addref(struct evpl_iovec *iovec)
{
	if (!evplmem_get(iovec->__private1, iovec->__private2))
		evplmem_iovec_addref(iovec);
}

/**
 * evpl_iovec_release() - drop one reference
 * @iovec: the iovec; the struct isn't changed, and must not be used again if this was the
 *	last reference that the caller had by it
 *
 * This never fails. It may be called on any thread, even on one without a context, and after
 * the context that allocated the memory was destroyed.
 *
 * It makes a system call if the buffer is free now and an allocation failed before
 * (evpl_pool_eventfd()). For a received buffer it makes one if the buffer's owner waits for
 * it, if the buffer is registered with a device (%EVPL_DEVICE_LEASES), and once for every 32
 * buffers that are released.
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
 * evpl_iovec_clone() - make a second iovec of the same slice
 * @dst: where the iovec goes; it holds a reference of its own
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
 * evpl_iovec_clone_segment() - make an iovec of a part of a slice
 * @dst: where the iovec goes; it holds a reference of its own, even if @length is 0
 * @src: an iovec that the caller holds a reference by
 * @offset: where the part starts in @src, in bytes
 * @length: the bytes of the part
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
 * evpl_iovec_is_unique() - tell whether this is the only reference
 * @iovec: an iovec that the caller holds a reference by
 *
 * If it is, nothing else reads or writes the slice by a reference, here or in another process,
 * and all accesses by released references have ended. So the caller may write to memory that
 * was shared before, until it gives another reference away. For a buffer that came home with
 * %EVPL_MESSAGE_HELD, evpl_iovec_wait() must have returned 0 too.
 *
 * References are counted for the buffer: those of all slices in it, and one of a context that
 * still cuts slices off it. So the answer is exact for a slice that has a buffer to itself, by
 * evpl_buffer_alloc() or %EVPL_IOVEC_PRIVATE. For another slice it may be 0 only because
 * other slices of the buffer have references.
 *
 * Return: 1 if this is the only reference; or 0: there may be others, or @iovec is empty,
 * another process's memory, or inherited over fork(2).
 */
static inline int evpl_iovec_is_unique(const struct evpl_iovec *iovec)
{
	return evplmem_iovec_is_unique(iovec);
}

/**
 * evpl_iovec_split() - make two iovecs of one
 * @dst: where the end of the slice goes; it holds a reference of its own, even if it has
 *	no bytes
 * @src: another iovec, that the caller holds a reference by; it keeps the beginning
 * @length: how many bytes @src keeps
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
 * @iovec: the iovec; its reference stays, even if no bytes are left
 * @bytes: how many
 *
 * Return: 0, or -EINVAL: @iovec has fewer bytes.
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
 * @iovec: the iovec; its reference stays, even if no bytes are left
 * @bytes: how many
 *
 * Return: 0, or -EINVAL: @iovec has fewer bytes.
 */
static inline int evpl_iovec_trim(struct evpl_iovec *iovec, unsigned int bytes)
{
	if (bytes > iovec->length)
		return -EINVAL;
	iovec->length -= bytes;
	return 0;
}

/**
 * evpl_iovec_move() - transfer a reference to another iovec
 * @dst: the iovec that gets the slice and the reference
 * @src: the iovec that had them, and is empty afterwards
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
 * evpl_iovec_to_iovec() - fill in the structs for readv(2) and the like
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
 * evpl_iovec_from_iovec() - take references by addresses
 * @pool: the pool that the memory belongs to
 * @dst: room for @niov; each becomes a new reference
 * @src: memory within buffers that the caller holds references to
 * @niov: how many
 *
 * The function takes a lock and searches the slabs, so it isn't for the hot path.
 *
 * Return: 0; or -EINVAL, and no reference was taken: one of @src doesn't lie within one buffer
 * of the pool, or the buffer has no reference.
 */
static inline int evpl_iovec_from_iovec(struct evpl_pool *pool, struct evpl_iovec *dst,
					const struct iovec *src, int niov)
{
	return evplmem_iovec_from_iovec(pool, dst, src, niov);
}

/**
 * evpl_iovec_wrap() - make an iovec of memory that is no pool's
 * @r_iovec: where the iovec goes, with the first reference
 * @data: the memory, which stays the caller's
 * @length: the bytes of the memory
 * @done: called once, when the last reference is gone; NULL: nothing is called
 * @arg: given to @done
 *
 * This is for memory that a program passes around and counts as it does with slices, but that
 * isn't a pool's: a constant, or memory of another allocator. The iovec is like any other, but has
 * no buffer. No device has registered the memory: evpl_device_cookie() gives -EINVAL, and
 * evpl_uring_prep_read() prepares an ordinary read. evpl_zerocopy_send() sends it without a copy.
 * It can neither be sent over a channel nor exported to other processes.
 *
 * @done runs on the thread that releases the last reference, with no lock of the library held: it
 * may call whatever its caller may. If a child of fork(2) releases an iovec that it inherited,
 * nothing is called.
 *
 * Return: 0, or -ENOMEM: there is no memory for the reference count.
 */
static inline int evpl_iovec_wrap(struct evpl_iovec *r_iovec, void *data, unsigned int length,
				  void (*done)(void *arg), void *arg)
{
	return evplmem_iovec_wrap(r_iovec, data, length, done, arg);
}

/**
 * evpl_iovec_slab() - get the slab of a slice
 * @iovec: an iovec that the caller holds a reference by
 * @info: where the description of the slab goes
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
 * @pool: the pool whose memory is sent, and that received iovecs belong to
 * @capacity: how many messages can be on their way in one direction, up to 16384; 0: 256
 * @flags: %EVPL_CHANNEL_BLOCKING, %EVPL_CHANNEL_LANE, %EVPL_CHANNEL_POLLING or 0
 * @r_peer: where the other end goes: a descriptor, close-on-exec. The caller passes it to
 *	another process, by inheritance or over a Unix socket, and closes it. The other
 *	process makes it a channel by evpl_channel_bind().
 *
 * Return: 0, or
 *  - -EOPNOTSUPP: the anon back end, or an unknown flag
 *  - -EINVAL: @capacity is above 16384; with %EVPL_CHANNEL_LANE, it is above the pool's buffer size
 *    divided by 64, or the pool was opened without %EVPL_POOL_ZEROS; %EVPL_CHANNEL_POLLING without
 *    %EVPL_CHANNEL_LANE, or with %EVPL_CHANNEL_BLOCKING
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
 * @fd: the end; when 0 is returned it belongs to the channel, which closes it
 * @flags: as for evpl_channel_create()
 *
 * Return: 0, or
 *  - -EOPNOTSUPP: the anon back end, or an unknown flag
 *  - -EINVAL: as from evpl_channel_create(), but for any capacity
 *  - -EBADF: @fd is no end of a channel
 *  - -EBUSY: @fd is bound already, or was bound to a pool that is gone
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
 * Messages that were sent to this end and not received give their references back to the
 * owners. Messages that it sent can still be received. References that it has received stay.
 *
 * An end is closed when all processes that have its descriptor have closed it. So a child of
 * fork(2) calls this too, for the ends of its parent.
 */
static inline void evpl_channel_close(struct evpl_channel *channel)
{
	evplmem_channel_close(channel);
}

/**
 * evpl_channel_fd() - get a descriptor to poll
 * @channel: the channel
 *
 * Return: a descriptor that is readable when there is a message, or when the other end is
 * closed (POLLHUP), and writable when a message fits. It belongs to the channel. Once the
 * descriptor of a lane is readable, it stays so until evpl_channel_recv() has returned -EAGAIN. It
 * is writable until evpl_channel_send() has.
 */
static inline int evpl_channel_fd(struct evpl_channel *channel)
{
	return evplmem_channel_fd(channel);
}

/**
 * evpl_channel_send() - transfer references to the other process
 * @channel: the channel
 * @messages: the messages; each iovec is of the channel's pool: allocated from it, or
 *	received over any of its channels. When 0 is returned their references have passed
 *	to the channel, and the iovecs must not be used again.
 * @n: how many; all of them are sent, or none
 *
 * The receiver can read the whole buffer of a slice, with all other slices in it, and with
 * %EVPL_MESSAGE_WRITE write to it. Nothing is allocated in the buffer any more, so nothing new
 * becomes visible to the receiver. %EVPL_IOVEC_PRIVATE keeps other slices out of a buffer. A
 * process can't give more rights on a received buffer than it has.
 *
 * Several threads may call this for one channel at a time.
 *
 * Return: 0, or
 *  - -EAGAIN: the messages don't fit now; see evpl_channel_fd()
 *  - -EMSGSIZE: @n is above the channel's capacity or, in a lane, above the pool's buffer size
 *    divided by 64
 *  - -EPIPE: the other end is closed, or its process has ended
 *  - -EPROTO: the other process has broken the protocol of lanes
 *  - -EINVAL: an iovec is empty, has no bytes, reaches past its buffer, or is of another
 *    pool or of none; @n is negative
 *  - -EACCES: %EVPL_MESSAGE_WRITE, and this process may not write to the buffer;
 *    %EVPL_MESSAGE_DEVICE, and this process's devices may not have it
 *  - -EOPNOTSUPP: an unknown flag
 *  - -ESTALE: an iovec has no reference
 *  - -ENOENT: a buffer of another process was revoked
 *  - -EBUSY: a buffer of this process is being revoked, or in quarantine since it was
 *  - -ENOMEM: memory is short, or a cap is reached
 *  - -EINTR: a signal came while the call waited
 */
static inline int evpl_channel_send(struct evpl_channel *channel,
				    const struct evpl_message *messages, int n)
{
	return evplmem_channel_send(channel, messages, n);
}

/**
 * evpl_channel_recv() - receive messages from the other process
 * @channel: the channel
 * @messages: where the messages go; each iovec is a reference like any other: it can be added
 *	to, cloned, released on any thread, or sent on
 * @max: how many messages there is room for
 *
 * The CPU can touch another process's memory. Devices may have it only if it came with
 * %EVPL_MESSAGE_DEVICE.
 *
 * Return: how many messages were received, or
 *  - -EAGAIN: there is no message now; see evpl_channel_fd()
 *  - -EPIPE: no message will come: the other end is closed, or its process has ended
 *  - -EPROTO: the other process has broken the protocol of lanes
 *  - -ENOSPC, -ENOMEM: no room or memory for another buffer; the message stays
 *  - -EINVAL: @max isn't positive
 *  - -EINTR: a signal came while the call waited
 */
static inline int evpl_channel_recv(struct evpl_channel *channel, struct evpl_message *messages,
				    int max)
{
	return evplmem_channel_recv(channel, messages, max);
}

/**
 * evpl_channel_arm() - prepare to sleep until there is a message
 * @channel: the channel
 *
 * For a lane with %EVPL_CHANNEL_POLLING. Other channels need no call.
 *
 * Return: 0: the next message, or the end of the channel, makes evpl_channel_fd() readable; or
 *  - -EBUSY: there is a message already, or the lane has ended by -EPROTO
 *  - -EPERM: the channel was inherited over fork(2)
 */
static inline int evpl_channel_arm(struct evpl_channel *channel)
{
	return evplmem_channel_arm(channel);
}

/**
 * evpl_lane_stats() - get a lane's statistics
 * @channel: the channel
 * @stats: where they go; start from %EVPL_LANE_STATS_INIT
 *
 * Return: 0, or
 *  - -EOPNOTSUPP: the channel was made without %EVPL_CHANNEL_LANE, or the module doesn't know lanes
 *  - -EINVAL: @stats->size is too small
 *  - -EPERM: the channel was inherited over fork(2)
 */
static inline int evpl_lane_stats(struct evpl_channel *channel, struct evpl_lane_stats *stats)
{
	return evplmem_lane_stats(channel, stats);
}

/**
 * evpl_iovec_revoke() - take a buffer back from all other processes
 * @iovec: an iovec of this process's own memory; its references here stay
 *
 * When these processes next touch the buffer, they get SIGBUS, or find zeros
 * (%EVPL_POOL_ZEROS). References on their way arrive as %EVPL_MESSAGE_REVOKED.
 *
 * Return: 0, even if no other process has the buffer; 1 if a device of another process, or a
 * virtual machine there, still has the buffer (see %EVPL_MESSAGE_DEVICE), and can read it or
 * write to it until evpl_iovec_wait() returns 0; also 1 if a signal came while the call waited
 * for the devices that use a dma-buf of the buffer; or
 *  - -EINVAL: @iovec is empty, another process's memory, or no pool's
 *  - -EBUSY: another thread is revoking the buffer; a dma-buf that can't be revoked carries it;
 *    or a call returned 1, and the reason for that still lasts
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
 * Waits until no message carries the buffer, every process that has received it has released
 * it, no dma-buf carries it, and nothing of another process, such as a device or a pipe, holds
 * its pages any more. A message that this process hasn't received yet counts too.
 *
 * Return: 0, or
 *  - -EAGAIN: %EVPL_IOVEC_TRY, and another process has the buffer. evpl_pool_fd() becomes
 *    readable when that is over. If several threads use the pool, an allocation may take
 *    that event: try again from time to time.
 *  - -EINVAL: @iovec is empty, another process's memory, or no pool's
 *  - -EINTR: a signal came while the call waited
 *  - -EOPNOTSUPP: an unknown flag, or the anon back end
 *  - -EPERM: @iovec was inherited over fork(2)
 */
static inline int evpl_iovec_wait(const struct evpl_iovec *iovec, unsigned int flags)
{
	return evplmem_iovec_wait(iovec, flags);
}

/**
 * evpl_pool_fd() - get a descriptor that tells when other processes gave memory back
 * @pool: the pool
 *
 * A thread that waits for memory that other processes have polls this descriptor, as well as
 * evpl_pool_eventfd(). When the descriptor is readable, the thread retries the allocation,
 * which takes the memory that came back.
 *
 * Return: a descriptor that belongs to the pool, and may only be polled: POLLIN when memory
 * came back, POLLPRI when a received buffer was revoked. Or -EOPNOTSUPP: the anon back end.
 */
static inline int evpl_pool_fd(struct evpl_pool *pool)
{
	return evplmem_pool_fd(pool);
}

/**
 * evpl_iovec_export() - make a dma-buf of slices
 * @iovecs: the slices, each a multiple of 4 KiB long and aligned to 4 KiB; all of one
 *	pool: allocated from it, or received over any of its channels. When a descriptor
 *	is returned, their references have passed to the dma-buf, and the iovecs must not be
 *	used again.
 * @niov: how many, up to 1024
 * @flags: %EVPL_DMABUF_WRITE or 0
 *
 * The dma-buf shows the slices one after the other, and nothing else of their buffers.
 * Nothing is allocated in these buffers any more. The references come back when the dma-buf's
 * last descriptor, mapping and attachment of a device is gone. evpl_iovec_revoke() takes one
 * back earlier if the kernel and the drivers that use the dma-buf allow that, and gives -EBUSY
 * otherwise.
 *
 * Return: the dma-buf, a descriptor that is closed on exec; or
 *  - -EINVAL: @niov is out of range; an iovec is empty, of another pool or of none, isn't
 *    whole pages, or reaches past its buffer; two iovecs overlap
 *  - -EPERM: this process's devices may not have a buffer; %EVPL_DMABUF_WRITE, and this
 *    process may not write to a buffer; an iovec was inherited over fork(2)
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
 * @pool: the slab's pool
 * @slab: the description that evpl_iovec_slab() or a device's register_slab() got of the slab
 * @flags: %EVPL_DMABUF_WRITE or 0
 *
 * This is for a device that is to have the whole slab, and that addresses slices by their
 * distance from the slab's base. No reference is given up. The caller holds a reference to
 * memory in the slab, or is a callback for the slab. The slab stays as long as the dma-buf.
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
 * evpl_slab_offset() - get where a slab is in the file of evpl_pool_fd()
 * @pool: the slab's pool
 * @slab: the description that evpl_iovec_slab() or a device's register_slab() got of the slab,
 *	or of the leased buffer
 * @r_offset: the mmap offset of its first byte
 *
 * This is for a device that knows linux/evpl.h, and gives the module commands of its own.
 *
 * Return: 0, or
 *  - -ENOENT: there is no such slab
 *  - -EOPNOTSUPP: the anon back end
 *  - -EPERM: @pool was closed, or was inherited over fork(2)
 */
static inline int evpl_slab_offset(struct evpl_pool *pool, const struct evpl_slab_info *slab,
				   uint64_t *r_offset)
{
	return evplmem_slab_offset(pool, slab, r_offset);
}

/**
 * evpl_zerocopy_create() - have a socket send without a copy
 * @r_zerocopy: where the object goes; end it with evpl_zerocopy_destroy()
 * @fd: the socket, of TCP or UDP. The program must not send with MSG_ZEROCOPY over it by
 *	itself, or read its error queue. The library takes a descriptor of its own, so the
 *	caller may close @fd at any time. The connection lasts until both descriptors are
 *	closed; shutdown(2) ends it for the peer before that.
 *
 * A copy is cheaper below some 10 KB. The kernel copies by itself if the receiver is on the
 * same machine.
 *
 * Only one thread at a time may make calls for one socket.
 *
 * The kernel numbers a socket's sends with MSG_ZEROCOPY from the socket's beginning. Therefore
 * a socket has one &struct evpl_zerocopy in its life, and must not have sent with MSG_ZEROCOPY
 * before that. Another one may follow only if the one before sent nothing. The library knows
 * this by SO_ZEROCOPY, which this function sets, and which stays set once something was sent.
 * So the program must neither set nor clear that option. It must not set it on a listening
 * socket either, as accepted sockets inherit it.
 *
 * Return: 0, or
 *  - -EBUSY: SO_ZEROCOPY is set already
 *  - -EOPNOTSUPP: @fd is a socket of another kind
 *  - -EBADF, -ENOTSOCK: @fd is no socket
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
 * @iovecs: the slices; their references stay the caller's and may be released at once, but
 *	the caller must not write to the memory before evpl_zerocopy_reap() has released it
 * @niov: how many, up to IOV_MAX
 * @flags: as for send(2)
 *
 * The library takes references of its own, which evpl_zerocopy_reap() releases. The bytes are
 * copied, and no references taken, if the kernel has no memory for reporting the completion, or
 * if one of @iovecs is another process's memory.
 *
 * Return: how many bytes the socket took, which may be fewer than @iovecs have; or
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
 * evpl_zerocopy_reap() - release the buffers of completed sends
 * @zerocopy: the socket
 *
 * The function doesn't block. poll(2) gives POLLERR for the socket when a send has completed.
 *
 * Return: how many sends haven't completed; or an error of recvmsg(2)
 */
static inline int evpl_zerocopy_reap(struct evpl_zerocopy *zerocopy)
{
	return evplmem_zerocopy_reap(zerocopy);
}

/**
 * evpl_zerocopy_destroy() - end sending without a copy
 * @zerocopy: the socket, or NULL
 *
 * A child of fork(2) calls this too, to close its copy of the library's descriptor. The
 * references stay the parent's.
 *
 * Return: 0, or -EBUSY: a send hasn't completed; or an error of recvmsg(2)
 */
static inline int evpl_zerocopy_destroy(struct evpl_zerocopy *zerocopy)
{
	return evplmem_zerocopy_destroy(zerocopy);
}

/**
 * evpl_zerocopy_abort() - disconnect the socket, and end sending without a copy
 * @zerocopy: the socket, or NULL
 *
 * Disconnects the socket, as connect(2) to AF_UNSPEC does: a TCP connection is reset, and the
 * bytes that it hasn't sent are dropped. A network device still sends the bytes that it has
 * already.
 *
 * Return: as evpl_zerocopy_destroy(). -EBUSY: a network device still uses some of the memory.
 * The connection is gone already, and evpl_zerocopy_destroy() succeeds when the device is done.
 */
static inline int evpl_zerocopy_abort(struct evpl_zerocopy *zerocopy)
{
	return evplmem_zerocopy_abort(zerocopy);
}

/**
 * evpl_device_attach() - have slabs registered with a device
 * @pool: the pool
 * @ops: the callbacks; the struct is copied
 * @arg: the first argument of the callbacks
 * @r_device: where the device goes; end it with evpl_device_detach()
 *
 * The slabs that the pool has are registered before this returns. This waits for callbacks of the
 * device that run on other threads, so the caller must hold no lock that register_slab() takes. A
 * slab that comes later is registered before anything is allocated from it. If a registration
 * fails, this still succeeds, and the slab's iovecs have no cookie.
 *
 * Return: 0, or
 *  - -EINVAL, -E2BIG, -EOPNOTSUPP: see above
 *  - -ENOSPC: the pool has %EVPL_DEVICES_MAX devices already
 *  - -ENOMEM: no memory
 */
static inline int evpl_device_attach(struct evpl_pool *pool, const struct evpl_device_ops *ops,
				     void *arg, struct evpl_device **r_device)
{
	return evplmem_device_attach(pool, ops, arg, r_device);
}

/**
 * evpl_device_detach() - detach a device
 * @device: the device, or NULL
 *
 * Waits for the device's callbacks that are running, and has all slabs unregistered. Afterwards
 * no callback is called, and no call of evpl_device_let_go() is waited for. So the device must
 * drop its references on the slabs' pages before this returns. Don't call this from a callback.
 */
static inline void evpl_device_detach(struct evpl_device *device)
{
	evplmem_device_detach(device);
}

/**
 * evpl_device_cookie() - get the cookie that a slice's slab was registered with
 * @device: the device
 * @iovec: an iovec of the device's pool that the caller holds a reference by
 * @r_cookie: where the cookie goes; it is valid while the reference is held and the device is
 *	attached
 *
 * This takes O(1) time, and no lock. But the first call for a buffer of another process
 * registers it, if the device has %EVPL_DEVICE_LEASES.
 *
 * Return: 0, or
 *  - -ENOENT: the slab isn't registered with @device; @iovec is empty; or @iovec is another
 *    process's memory, and came without %EVPL_MESSAGE_DEVICE, or isn't registered by @device,
 *    or couldn't be registered
 *  - -EINVAL: @iovec is of another pool or of none
 */
static inline int evpl_device_cookie(struct evpl_device *device, const struct evpl_iovec *iovec,
				     uint64_t *r_cookie)
{
	return evplmem_device_cookie(device, iovec, r_cookie);
}

/**
 * evpl_device_set_cookie() - set the cookie of a slab that the device registered by itself
 * @device: the device
 * @iovec: an iovec of the device's pool, in that slab, that the caller holds a reference by
 * @cookie: the cookie that evpl_device_cookie() gives from now on
 *
 * Return: 0, or
 *  - -EEXIST: the slab has a cookie
 *  - -EBUSY: a callback for the slab is running
 *  - -EINVAL: @iovec is empty, another process's memory, or of another pool or of none
 */
static inline int evpl_device_set_cookie(struct evpl_device *device,
					 const struct evpl_iovec *iovec, uint64_t cookie)
{
	return evplmem_device_set_cookie(device, iovec, cookie);
}

/**
 * evpl_device_let_go() - let go of a slab's number, which may then be used again
 * @device: the device whose unregister_slab() returned %EVPL_DEVICE_LATER
 * @number: the slab's number
 *
 * Return: 0, or -ENOENT: the device doesn't have that number to let go of.
 */
static inline int evpl_device_let_go(struct evpl_device *device, unsigned int number)
{
	return evplmem_device_let_go(device, number);
}

#endif /* !EVPLMEM_PREFIX_ONLY */

#if defined(EVPLMEM_PREFIX_ONLY) || defined(EVPLMEM_CXX)
#include "evplmem-prefix.h"
#endif

#pragma GCC diagnostic pop

#ifdef __cplusplus
}
#endif

#endif /* EVPLMEM_H */
