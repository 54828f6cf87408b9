// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Each slab of a pool is a memory region of a protection domain, and so is each buffer
 * that was leased for devices. If RLIMIT_MEMLOCK doesn't suffice for a slab, the region is made of
 * a dma-buf of the slab. A leased buffer isn't exported for this: the export could keep the
 * buffer's owner from revoking it (evpl_iovec_export()).
 *
 * The cookie is the address of the struct ibv_mr, whose keys
 * don't change. evpl_device_cookie() acquires the cookie, and so the struct, so a lookup
 * needs no lock. The lock guards the statistics and the notice.
 */
#include "evplmem-rdma.h"

#include <infiniband/verbs.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

#include "common.h"

#define WRITE_ACCESS	(IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | \
			 IBV_ACCESS_REMOTE_ATOMIC | IBV_ACCESS_MW_BIND)

/**
 * struct evpl_rdma - a pool's memory, registered with a protection domain
 * @pool: the pool
 * @pd: the protection domain
 * @access: the access flags of each region
 * @device: the device that is attached to the pool
 * @lock: guards the fields that follow
 * @told: the notice was returned
 * @stats: the statistics
 * @notice: empty until a registration fails; it doesn't change after that
 */
struct evpl_rdma {
	struct evpl_pool *pool;
	struct ibv_pd *pd;
	int access;
	struct evpl_device *device;
	pthread_mutex_t lock;
	bool told;
	struct evpl_rdma_stats stats;
	char notice[NOTICE_SIZE];
};

/* The kernel's errors for a region that exceeds RLIMIT_MEMLOCK. EPERM says that the limit is 0. */
static bool exceeds_limit(int err)
{
	return err == -ENOMEM || err == -EPERM;
}

/* @dmabuf_err is the error of a dma-buf that was tried, or 0. Called with the lock held. */
static void note_failure(struct evpl_rdma *rdma, int err, int dmabuf_err)
{
	const char *name = ibv_get_device_name(rdma->pd->context->device);
	char limit[64], dmabuf[96] = "";

	rdma->stats.failures++;
	rdma->stats.error = err;
	if (dmabuf_err)
		snprintf(dmabuf, sizeof(dmabuf), ", and a dma-buf of it doesn't work either (%s)",
			 strerror(-dmabuf_err));
	if (exceeds_limit(err))
		notice_set(rdma->notice, "The RDMA device %s can't lock this memory (there is %s, "
			   "RLIMIT_MEMLOCK)%s. Raise 'ulimit -l', or give CAP_IPC_LOCK.", name,
			   memlock_limit(limit, sizeof(limit)), dmabuf);
	else
		notice_set(rdma->notice, "The RDMA device %s can't register this memory: %s.",
			   name, strerror(-err));
}

static int register_memory(struct evpl_rdma *rdma, const struct evpl_slab_info *slab, int access,
			   struct ibv_mr **r_mr)
{
	*r_mr = ibv_reg_mr(rdma->pd, slab->base, slab->length, access);
	return *r_mr ? 0 : -(errno ? errno : EIO);
}

/*
 * Registers a slab by a dma-buf, which the kernel charges to nobody. The region keeps the dma-buf
 * until it is deregistered, and the pool can give the slab back after that.
 */
static int register_dmabuf(struct evpl_rdma *rdma, const struct evpl_slab_info *slab, int access,
			   struct ibv_mr **r_mr)
{
	int fd, err;

	/* Drivers map a dma-buf for both directions, even for a region that they only read. */
	fd = evpl_slab_export(rdma->pool, slab,
			      slab->flags & EVPL_SLAB_READONLY ? 0 : EVPL_DMABUF_WRITE);
	if (fd < 0)
		return fd;
	*r_mr = ibv_reg_dmabuf_mr(rdma->pd, 0, slab->length, (uintptr_t)slab->base, fd, access);
	err = *r_mr ? 0 : -(errno ? errno : EIO);
	close(fd);
	return err;
}

static int register_slab(void *arg, const struct evpl_slab_info *slab, uint64_t *cookie)
{
	struct evpl_rdma *rdma = arg;
	int access = rdma->access, err, dmabuf_err = 0;
	bool is_dmabuf = false;
	struct ibv_mr *mr;

	if (slab->flags & EVPL_SLAB_READONLY)
		access &= ~WRITE_ACCESS;
	err = register_memory(rdma, slab, access, &mr);
	if (exceeds_limit(err) && !(slab->flags & EVPL_SLAB_LEASED)) {
		dmabuf_err = register_dmabuf(rdma, slab, access, &mr);
		is_dmabuf = !dmabuf_err;
		if (is_dmabuf)
			err = 0;
	}

	pthread_mutex_lock(&rdma->lock);
	if (err) {
		note_failure(rdma, err, dmabuf_err);
	} else {
		rdma->stats.regions++;
		rdma->stats.registrations++;
		rdma->stats.dmabuf_registrations += is_dmabuf;
	}
	pthread_mutex_unlock(&rdma->lock);
	*cookie = (uintptr_t)mr;
	return err;
}

static int unregister_slab(void *arg, const struct evpl_slab_info *slab, uint64_t cookie)
{
	struct evpl_rdma *rdma = arg;
	int err;

	(void)slab;
	/*
	 * ibv_dereg_mr() fails if the program has bound a memory window to the region. The region
	 * and its pins then stay until the program's protection domain goes.
	 */
	err = ibv_dereg_mr((struct ibv_mr *)(uintptr_t)cookie);
	if (err)
		return 0;
	pthread_mutex_lock(&rdma->lock);
	rdma->stats.regions--;
	pthread_mutex_unlock(&rdma->lock);
	return 0;
}

static const struct evpl_device_ops ops = {
	.size = sizeof(ops),
	.register_slab = register_slab,
	.unregister_slab = unregister_slab,
	.flags = EVPL_DEVICE_LEASES,
};

int evplmem_rdma_create(struct evpl_rdma **r_rdma, struct evpl_pool *pool, struct ibv_pd *pd,
			int access)
{
	struct evpl_rdma *rdma;
	int err;

	rdma = calloc(1, sizeof(*rdma));
	if (!rdma)
		return -ENOMEM;
	rdma->pool = pool;
	rdma->pd = pd;
	rdma->access = access;
	pthread_mutex_init(&rdma->lock, NULL);
	err = evpl_device_attach(pool, &ops, rdma, &rdma->device);
	if (err) {
		pthread_mutex_destroy(&rdma->lock);
		free(rdma);
		return err;
	}
	*r_rdma = rdma;
	return 0;
}

void evplmem_rdma_destroy(struct evpl_rdma *rdma)
{
	if (!rdma || pool_is_inherited(rdma->pool))
		return;
	evpl_device_detach(rdma->device);
	pthread_mutex_destroy(&rdma->lock);
	free(rdma);
}

static int find_region(struct evpl_rdma *rdma, const struct evpl_iovec *iovec,
		       struct ibv_mr **r_mr)
{
	uint64_t cookie;
	int err = evpl_device_cookie(rdma->device, iovec, &cookie);

	if (!err)
		*r_mr = (struct ibv_mr *)(uintptr_t)cookie;
	return err;
}

int evplmem_rdma_lkey(struct evpl_rdma *rdma, const struct evpl_iovec *iovec, uint32_t *r_lkey)
{
	struct ibv_mr *mr;
	int err = find_region(rdma, iovec, &mr);

	if (err)
		return err;
	*r_lkey = mr->lkey;
	return 0;
}

int evplmem_rdma_rkey(struct evpl_rdma *rdma, const struct evpl_iovec *iovec, uint32_t *r_rkey)
{
	struct ibv_mr *mr;
	int err = find_region(rdma, iovec, &mr);

	if (err)
		return err;
	*r_rkey = mr->rkey;
	return 0;
}

int evplmem_rdma_sge(struct evpl_rdma *rdma, const struct evpl_iovec *iovec, struct ibv_sge *sge)
{
	struct ibv_mr *mr;
	int err = find_region(rdma, iovec, &mr);

	if (err)
		return err;
	sge->addr = (uintptr_t)iovec->data;
	sge->length = iovec->length;
	sge->lkey = mr->lkey;
	return 0;
}

int evplmem_rdma_stats(struct evpl_rdma *rdma, struct evpl_rdma_stats *stats)
{
	struct evpl_rdma_stats now;

	if (pool_is_inherited(rdma->pool))
		return -EPERM;
	pthread_mutex_lock(&rdma->lock);
	now = rdma->stats;
	pthread_mutex_unlock(&rdma->lock);
	return stats_copy(stats, &now, sizeof(now));
}

const char *evplmem_rdma_notice(struct evpl_rdma *rdma)
{
	const char *notice = NULL;

	if (pool_is_inherited(rdma->pool))
		return NULL;
	pthread_mutex_lock(&rdma->lock);
	if (rdma->notice[0] && !rdma->told) {
		rdma->told = true;
		notice = rdma->notice;
	}
	pthread_mutex_unlock(&rdma->lock);
	return notice;
}
