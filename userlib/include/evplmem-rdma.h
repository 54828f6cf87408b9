/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_RDMA_H
#define EVPLMEM_RDMA_H

/**
 * DOC: libevplmem-rdma
 *
 * The memory of a pool, registered for RDMA.
 *
 * Each slab becomes one memory region of a protection domain: the slabs that the pool has,
 * in evpl_rdma_create(); a slab that comes later, before anything is allocated from it. The
 * keys of a slice are found without a system call, a lock or a search. They are valid while
 * a reference to the slice is held.
 *
 * A buffer that another process sent with %EVPL_MESSAGE_DEVICE becomes a region of its own
 * when its keys are first asked for, which takes a lock and system calls. The region lasts
 * until this process releases its last reference on the buffer. If this process may not
 * write to the buffer, the region has no write access. That needs Linux 6.12: on 6.1 only
 * writable memory can be a region.
 *
 * The kernel charges a region that ibv_reg_mr(3) makes to RLIMIT_MEMLOCK, unless the process has
 * CAP_IPC_LOCK. If the limit doesn't suffice for a slab, the library exports the slab as a dma-buf
 * and calls ibv_reg_dmabuf_mr(3), for which nothing is charged. Not every driver has that call.
 * So a set-up whose limit suffices never changes. A leased buffer is registered by ibv_reg_mr(3)
 * alone, since its owner may be unable to revoke a buffer that is exported.
 *
 * The pool uses a slab that can't be registered all the same. Its slices have no keys, and
 * evpl_rdma_stats() and evpl_rdma_notice() say why.
 *
 * Threads: all calls may be made on any thread at any time, except evpl_rdma_destroy(),
 * which must be the last.
 *
 * Errors are as in evplmem.h: negative errnos, and nothing has changed. That header also
 * says what functions return to a child of fork(2).
 */

#include <evplmem.h>

struct ibv_pd;
struct ibv_sge;

#ifdef __cplusplus
extern "C" {
#endif

/* A function may be named like the struct that it fills, which C++ calls a shadow. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wshadow"

#ifdef EVPLMEM_PREFIX_ONLY
#include "evplmem-prefix.h"
#endif

/** struct evpl_rdma - a pool's memory, registered with a protection domain; opaque */
struct evpl_rdma;

/**
 * struct evpl_rdma_stats - statistics of the registrations, for evpl_rdma_stats()
 * @size: sizeof(struct evpl_rdma_stats), set by the caller
 * @regions: memory regions that exist now
 * @registrations: slabs and leased buffers registered since the start
 * @failures: slabs and leased buffers that couldn't be registered
 * @error: the negative errno of the last such failure, or 0
 * @__reserved: 0
 * @dmabuf_registrations: how many of @registrations were made by a dma-buf, with nothing charged
 */
struct evpl_rdma_stats {
	size_t size;
	uint64_t regions;
	uint64_t registrations;
	uint64_t failures;
	int error;
	int __reserved;
	uint64_t dmabuf_registrations;
};

/** EVPL_RDMA_STATS_INIT - initializer of &struct evpl_rdma_stats */
#define EVPL_RDMA_STATS_INIT	EVPLMEM_SIZED(rdma_stats)

/* The exported functions; use the inlines below. */
#pragma GCC visibility push(default)
int evplmem_rdma_create(struct evpl_rdma **r_rdma, struct evpl_pool *pool, struct ibv_pd *pd,
			int access);
void evplmem_rdma_destroy(struct evpl_rdma *rdma);
int evplmem_rdma_lkey(struct evpl_rdma *rdma, const struct evpl_iovec *iovec, uint32_t *r_lkey);
int evplmem_rdma_rkey(struct evpl_rdma *rdma, const struct evpl_iovec *iovec, uint32_t *r_rkey);
int evplmem_rdma_sge(struct evpl_rdma *rdma, const struct evpl_iovec *iovec, struct ibv_sge *sge);
int evplmem_rdma_stats(struct evpl_rdma *rdma, struct evpl_rdma_stats *stats);
const char *evplmem_rdma_notice(struct evpl_rdma *rdma);
#pragma GCC visibility pop

#ifndef EVPLMEM_PREFIX_ONLY

/**
 * evpl_rdma_create() - register a pool's memory
 * @r_rdma: where the object goes; end it with evpl_rdma_destroy()
 * @pool: the pool
 * @pd: the protection domain; it must live until evpl_rdma_destroy()
 * @access: the access flags of each memory region, as for ibv_reg_mr(3), such as
 *	IBV_ACCESS_LOCAL_WRITE
 *
 * Return: 0, even if a slab couldn't be registered; or
 *  - -ENOSPC: the pool has %EVPL_DEVICES_MAX devices already
 *  - -ENOMEM: no memory
 */
static inline int evpl_rdma_create(struct evpl_rdma **r_rdma, struct evpl_pool *pool,
				   struct ibv_pd *pd, int access)
{
	return evplmem_rdma_create(r_rdma, pool, pd, access);
}

/**
 * evpl_rdma_destroy() - deregister a pool's memory
 * @rdma: the object, or NULL
 *
 * Deregisters all slabs. Call this when no work request with their keys is left,
 * before ibv_dealloc_pd(3), and before the pool is closed.
 */
static inline void evpl_rdma_destroy(struct evpl_rdma *rdma)
{
	evplmem_rdma_destroy(rdma);
}

/**
 * evpl_rdma_lkey() - get the local key of a slice
 * @rdma: the object that evpl_rdma_create() made
 * @iovec: an iovec of the pool that the caller holds a reference by
 * @r_lkey: where the key goes
 *
 * Return: 0, or
 *  - -ENOENT: the slab or leased buffer couldn't be registered, or @iovec is empty
 *  - -EINVAL: @iovec is of another pool or of none
 */
static inline int evpl_rdma_lkey(struct evpl_rdma *rdma, const struct evpl_iovec *iovec,
				 uint32_t *r_lkey)
{
	return evplmem_rdma_lkey(rdma, iovec, r_lkey);
}

/**
 * evpl_rdma_rkey() - get the remote key of a slice
 * @rdma: the object that evpl_rdma_create() made
 * @iovec: an iovec of the pool that the caller holds a reference by
 * @r_rkey: where the key goes
 *
 * The key is for the whole slab: a peer that gets the key can reach all of the slab, as
 * far as the access flags allow.
 *
 * Return: 0, or
 *  - -ENOENT: the slab or leased buffer couldn't be registered, or @iovec is empty
 *  - -EINVAL: @iovec is of another pool or of none
 */
static inline int evpl_rdma_rkey(struct evpl_rdma *rdma, const struct evpl_iovec *iovec,
				 uint32_t *r_rkey)
{
	return evplmem_rdma_rkey(rdma, iovec, r_rkey);
}

/**
 * evpl_rdma_sge() - fill in the scatter/gather element of a slice, for a work request
 * @rdma: the object that evpl_rdma_create() made
 * @iovec: an iovec of the pool; the caller keeps its reference until the work
 *	request has completed
 * @sge: where the slice's address, length and local key go
 *
 * Return: 0, or
 *  - -ENOENT: the slab or leased buffer couldn't be registered, or @iovec is empty
 *  - -EINVAL: @iovec is of another pool or of none
 */
static inline int evpl_rdma_sge(struct evpl_rdma *rdma, const struct evpl_iovec *iovec,
				struct ibv_sge *sge)
{
	return evplmem_rdma_sge(rdma, iovec, sge);
}

/**
 * evpl_rdma_stats() - get statistics of the registrations
 * @rdma: the object that evpl_rdma_create() made
 * @stats: where they go; the caller sets @stats->size, and the library zeroes the fields
 *	that it doesn't know
 *
 * Return: 0, or -EINVAL: @stats is too short for its size.
 */
static inline int evpl_rdma_stats(struct evpl_rdma *rdma, struct evpl_rdma_stats *stats)
{
	return evplmem_rdma_stats(rdma, stats);
}

/**
 * evpl_rdma_notice() - get a message for the user, once
 * @rdma: the object that evpl_rdma_create() made
 *
 * Return: after a slab couldn't be registered, a sentence that says why and how to solve
 * it, for the program to print; it is valid until evpl_rdma_destroy(). NULL before that,
 * and once the sentence was returned.
 */
static inline const char *evpl_rdma_notice(struct evpl_rdma *rdma)
{
	return evplmem_rdma_notice(rdma);
}

#endif /* !EVPLMEM_PREFIX_ONLY */

#ifdef EVPLMEM_PREFIX_ONLY
#include "evplmem-prefix.h"
#endif

#pragma GCC diagnostic pop

#ifdef __cplusplus
}
#endif

#endif /* EVPLMEM_RDMA_H */
