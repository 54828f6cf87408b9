// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Opening and closing pools: see pool.h.
 */
#include "pool.h"

#include <errno.h>
#include <linux/evpl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "bias.h"
#include "cancel.h"
#include "config.h"
#include "context.h"
#include "error.h"
#include "lease.h"
#include "lease_reg.h"
#include "mapping.h"
#include "recycle.h"
#include "returned.h"
#include "sites.h"
#include "slab.h"
#include "trim.h"
#include "windows.h"

#define DEFAULT_SLAB_MAX	(64UL << 20)

/* The longest buffer that io_uring registers. */
#define SLAB_LIMIT		(1UL << 30)

/* The structs of closed pools, which are never freed: see pool.h. */
static struct evpl_pool *closed_pools;
static pthread_mutex_t closed_lock = PTHREAD_MUTEX_INITIALIZER;

/*
 * In the child of fork(2): another thread of the parent may have been changing the list at that
 * moment, so the child forgets the list. The structs leak, which is little memory.
 */
void closed_pools_forget(void)
{
	closed_pools = NULL;
	pthread_mutex_init(&closed_lock, NULL);
}

static struct evpl_pool *pool_get_struct(void)
{
	struct evpl_pool *pool;

	pthread_mutex_lock(&closed_lock);
	pool = EVPLMEM_CHECKS ? NULL : closed_pools;
	if (pool)
		closed_pools = pool->next_closed;
	pthread_mutex_unlock(&closed_lock);
	if (pool)
		return pool;

	pool = aligned_alloc(alignof(struct evpl_pool), sizeof(*pool));
	if (!pool)
		return NULL;
	memset(pool, 0, sizeof(*pool));
	pthread_mutex_init(&pool->lock, NULL);
	pthread_cond_init(&pool->calls_done, NULL);
	return pool;
}

static void pool_put_struct(struct evpl_pool *pool)
{
	pthread_mutex_lock(&closed_lock);
	pool->next_closed = closed_pools;
	closed_pools = pool;
	pthread_mutex_unlock(&closed_lock);
}

static uint64_t machine_memory(void)
{
	return (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* Finds the depot of a node, or makes it. Under the pool's lock. */
struct depot *pool_depot(struct evpl_pool *pool, int node)
{
	struct depot *depot;

	for (depot = pool_depots(pool); depot; depot = depot->next)
		if (depot->node == node)
			return depot;

	depot = aligned_alloc(alignof(struct depot), sizeof(*depot));
	if (!depot)
		return NULL;
	*depot = (struct depot){
		.node = node,
		.next = pool_depots(pool),
	};
	atomic_store_explicit(&pool->depots, depot, memory_order_release);
	return depot;
}

static const struct backend *choose_backend(const struct evpl_pool_config *config)
{
	const char *env = getenv("EVPL_BACKEND");

	switch (config->backend) {
	case EVPL_BACKEND_MODULE:
		return &backend_module;
	case EVPL_BACKEND_ANON:
		return &backend_anon;
	case EVPL_BACKEND_DEFAULT:
		if (!env || !*env || !strcmp(env, "module"))
			return &backend_module;
		if (!strcmp(env, "anon"))
			return &backend_anon;
		error_set("EVPL_BACKEND is neither \"module\" nor \"anon\"");
		return NULL;
	}
	error_set("unknown back end %u", config->backend);
	return NULL;
}

static bool is_power_of_two(size_t n)
{
	return n && !(n & (n - 1));
}

/* Fills in the defaults, and checks the values. */
static int config_complete(struct evpl_pool_config *config, const struct backend *backend)
{
	size_t least;

	if (!config->buffer_size)
		config->buffer_size = EVPL_BUFFER_SIZE_DEFAULT;
	if (!is_power_of_two(config->buffer_size) || config->buffer_size < EVPL_BUFFER_SIZE_MIN ||
	    config->buffer_size < page_size() || config->buffer_size > EVPL_BUFFER_SIZE_MAX) {
		error_set("the buffer size isn't a power of two from %zu KiB to 1 GiB",
			  page_size() >> 10);
		return -EINVAL;
	}

	least = config->buffer_size < EVPL_SLAB_ALIGN ? EVPL_SLAB_ALIGN : config->buffer_size;
	if (!config->slab_size)
		config->slab_size = least;
	if (!config->slab_size_max) {
		config->slab_size_max = DEFAULT_SLAB_MAX;
		if (config->slab_size_max < config->slab_size)
			config->slab_size_max = config->slab_size;
		if (config->slab_size_max < least)
			config->slab_size_max = least;
	}
	if (config->slab_size % least || config->slab_size_max % least ||
	    config->slab_size > config->slab_size_max || config->slab_size_max > SLAB_LIMIT) {
		error_set("the slab sizes aren't multiples of 2 MiB and of the buffer size, "
			  "the first not above the last, up to 1 GiB");
		return -EINVAL;
	}

	if (!config->max_bytes && backend->id == EVPL_BACKEND_ANON)
		config->max_bytes = machine_memory();
	if (config->max_bytes && config->max_bytes < least) {
		error_set("max_bytes has no room for the smallest slab, %zu bytes", least);
		return -EINVAL;
	}
	return 0;
}

static void explain_open(const struct evpl_pool_config *config, int err)
{
	const char *device = config->device ? config->device : "/dev/evpl";

	switch (-err) {
	case ENOENT:
	case ENODEV:
	case ENXIO:
		error_set("%s: %s: load evpl.ko, or ask for the anon back end (EVPL_BACKEND=anon)",
			  device, strerror(-err));
		break;
	case EACCES:
	case EPERM:
		error_set("%s: %s: this user must be in the group that may open it (evpl), "
			  "or ask for the anon back end (EVPL_BACKEND=anon)",
			  device, strerror(-err));
		break;
	case ENOTTY:
		error_set("%s isn't a device of evpl.ko", device);
		break;
	case EAGAIN:
		error_explain_mlockall("opening the pool");
		break;
	default:
		error_set("opening the pool: %s", strerror(-err));
	}
}

int evplmem_pool_open(struct evpl_pool **r_pool, const struct evpl_pool_config *config)
{
	struct evpl_pool_config cfg = { .size = sizeof(cfg) };
	const struct backend *backend;
	struct evpl_pool *pool;
	NO_CANCELLATION;
	int err;

	err = config_copy(&cfg, sizeof(cfg), config);
	if (err) {
		error_set("struct evpl_pool_config is of another version of this library");
		return err;
	}
	if (cfg.flags & ~(EVPL_POOL_HUGE | EVPL_POOL_ZEROS | EVPL_POOL_REVOKE |
			  EVPL_POOL_ATOMIC)) {
		error_set("unknown flags in struct evpl_pool_config");
		return -EOPNOTSUPP;
	}
	backend = choose_backend(&cfg);
	if (!backend)
		return -EINVAL;
	err = config_complete(&cfg, backend);
	if (err)
		return err;

	err = fork_watched();
	if (err)
		goto explain;
	sites_set_up();
	if (!(cfg.flags & EVPL_POOL_ATOMIC))
		bias_set_up();
	pool = pool_get_struct();
	if (!pool) {
		err = -ENOMEM;
		goto explain;
	}
	pool->generation = fork_generation;
	pool->backing = (struct backing){
		.ops = backend,
		.buffer_size = cfg.buffer_size,
		.fd = -1,
	};
	pool->buffer_size = cfg.buffer_size;
	pool->slab_min = cfg.buffer_size < EVPL_SLAB_ALIGN ? EVPL_SLAB_ALIGN : cfg.buffer_size;
	pool->slab_max = cfg.slab_size_max;
	pool->slabs_end = &pool->slabs;
	pool->slab_next = cfg.slab_size;
	pool->max_bytes = cfg.max_bytes ? cfg.max_bytes : UINT64_MAX;
	pool->max_bytes -= pool->max_bytes % pool->slab_min;
	pool->huge = cfg.flags & EVPL_POOL_HUGE;
	pool->zeros = cfg.flags & EVPL_POOL_ZEROS;
	pool->atomic = cfg.flags & EVPL_POOL_ATOMIC;
	sites_open_pool(pool);

	pool->eventfd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (pool->eventfd < 0) {
		err = -errno;
		goto put_pool;
	}
	err = backend->open(&pool->backing, &cfg);
	if (err)
		goto close_eventfd;
	if (!pool_depot(pool, EVPL_ANY_NODE)) {
		err = -ENOMEM;
		goto close_backing;
	}
	*r_pool = pool;
	return 0;

close_backing:
	backend->close(&pool->backing);
close_eventfd:
	close(pool->eventfd);
put_pool:
	pool_put_struct(pool);
explain:
	explain_open(&cfg, err);
	return err;
}

/*
 * Whether no context, lease, device or buffer is in use. Gathers the free buffers into the caller's
 * hand to find out. Under the pool's lock.
 */
static bool pool_is_idle(struct evpl_pool *pool)
{
	struct slab *slab;
	unsigned int i;

	if (pool->live || !leases_are_idle(pool))
		return false;
	for (i = 0; i < EVPL_DEVICES_MAX; i++)
		if (pool->devices[i])
			return false;
	pool_gather(pool);
	for (slab = pool->slabs; slab; slab = slab->next)
		if (slab->state != SLAB_LIVE || slab->in_hand < slab->count)
			return false;
	return true;
}

static void pool_scatter(struct evpl_pool *pool)
{
	struct slab *slab;

	for (slab = pool->slabs; slab; slab = slab->next)
		if (slab->state == SLAB_LIVE)
			slab_scatter(slab);
}

static void pool_free_lists(struct evpl_pool *pool)
{
	struct depot *depot, *next_depot;
	struct evpl *evpl, *next_evpl;

	/* Checks must still find the contexts that were destroyed. */
	if (EVPLMEM_CHECKS)
		return;

	for (depot = pool_depots(pool); depot; depot = next_depot) {
		next_depot = depot->next;
		free(depot);
	}
	for (evpl = pool_contexts(pool); evpl; evpl = next_evpl) {
		next_evpl = evpl->next;
		free(evpl);
	}
	atomic_store(&pool->depots, NULL);
	atomic_store(&pool->contexts, NULL);
}

int evplmem_pool_close(struct evpl_pool *pool)
{
	NO_CANCELLATION;

	if (pool_is_inherited(pool))
		return -EPERM;
	/* Leases are released, and returned buffers collected, only when memory is short. */
	leases_flush(pool);
	returned_pull(pool, false);
	pool_lock(pool);
	if (!pool_is_idle(pool))
		goto busy;
	/* The kernel may still use a slab. That slab stays then, and so does the pool. */
	while (pool->slabs) {
		slab_end_grants(pool->slabs);
		if (slab_destroy(pool->slabs))
			goto busy;
	}

	pool_drain_notifiers(pool);
	leases_drain(pool);
	lease_regs_free(pool);
	windows_unmap(pool);
	pool_free_lists(pool);
	slab_ids_destroy(&pool->slab_ids);
	pool->backing.ops->close(&pool->backing);
	close(pool->eventfd);
	pool->shrinks = 0;
	pool->grows = 0;
	pool->steals = 0;
	pool->failures = 0;
	pool->counting = 0;
	pool->wakeups = 0;
	/* Calls for this pool are refused from here on, until another pool gets the struct. */
	pool->generation = 0;
	pool_unlock(pool);
	pool_put_struct(pool);
	return 0;

busy:
	pool_scatter(pool);
	pool_unlock(pool);
	if (is_odd(pool->generation))
		sites_report_pool(pool);
	return -EBUSY;
}

int evplmem_pool_eventfd(struct evpl_pool *pool)
{
	return pool_is_inherited(pool) ? -EPERM : pool->eventfd;
}
