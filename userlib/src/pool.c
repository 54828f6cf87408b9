// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Opening, adopting and closing pools: see pool.h.
 */
#include "pool.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/evpl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "bias.h"
#include "cancel.h"
#include "config.h"
#include "context.h"
#include "error.h"
#include "lease.h"
#include "lease_reg.h"
#include "mapping.h"
#include "pressure.h"
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
	pthread_mutex_init(&pool->roots.lock, NULL);
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
		if (!access("/sys/module/evpl", F_OK)) {
			error_set("%s: %s, though the module is loaded: a container is given the device "
				  "by --device %s", device, strerror(-err), device);
			break;
		}
		/* fallthrough */
	case ENODEV:
	case ENXIO:
		error_set("%s: %s: load evpl.ko, or ask for the anon back end (EVPL_BACKEND=anon)",
			  device, strerror(-err));
		break;
	case EPERM:
		error_set("%s: %s: this container may not open it. It is given the device by --device %s",
			  device, strerror(-err), device);
		break;
	case EACCES:
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

/* Takes the caller's configuration, and finds the back end. */
static int config_take(struct evpl_pool_config *cfg, const struct evpl_pool_config *config,
		       const struct backend **r_backend)
{
	int err;

	err = config_copy(cfg, sizeof(*cfg), config);
	if (err) {
		error_set("struct evpl_pool_config is of another version of this library");
		return err;
	}
	if (cfg->flags & ~(EVPL_POOL_HUGE | EVPL_POOL_ZEROS | EVPL_POOL_REVOKE |
			   EVPL_POOL_ATOMIC)) {
		error_set("unknown flags in struct evpl_pool_config");
		return -EOPNOTSUPP;
	}
	*r_backend = choose_backend(cfg);
	return *r_backend ? 0 : -EINVAL;
}

/* Makes the struct of a pool over a backing, without a slab. If this fails, the backing is as before. */
static int pool_new(struct evpl_pool **r_pool, const struct evpl_pool_config *cfg,
		    const struct backing *backing)
{
	struct evpl_pool *pool;
	int err;

	err = fork_watched();
	if (err)
		return err;
	sites_set_up();
	if (!(cfg->flags & EVPL_POOL_ATOMIC))
		bias_set_up();
	pool = pool_get_struct();
	if (!pool)
		return -ENOMEM;
	pool->generation = fork_generation;
	pool->backing = *backing;
	pool->buffer_size = cfg->buffer_size;
	pool->slab_min = cfg->buffer_size < EVPL_SLAB_ALIGN ? EVPL_SLAB_ALIGN : cfg->buffer_size;
	pool->slab_max = cfg->slab_size_max;
	pool->slabs_end = &pool->slabs;
	pool->slab_next = cfg->slab_size;
	pool->max_bytes = cfg->max_bytes ? cfg->max_bytes : UINT64_MAX;
	pool->max_bytes -= pool->max_bytes % pool->slab_min;
	pool->huge = cfg->flags & EVPL_POOL_HUGE;
	pool->zeros = cfg->flags & EVPL_POOL_ZEROS;
	pool->atomic = cfg->flags & EVPL_POOL_ATOMIC;
	sites_open_pool(pool);

	pool->eventfd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (pool->eventfd < 0) {
		err = -errno;
		goto put_pool;
	}
	if (!pool_depot(pool, EVPL_ANY_NODE)) {
		err = -ENOMEM;
		goto close_eventfd;
	}
	*r_pool = pool;
	return 0;

close_eventfd:
	close(pool->eventfd);
put_pool:
	pool->generation = 0;
	pool_put_struct(pool);
	return err;
}

int evplmem_pool_open(struct evpl_pool **r_pool, const struct evpl_pool_config *config)
{
	struct evpl_pool_config cfg = { .size = sizeof(cfg) };
	struct backing backing = { .fd = -1 };
	NO_CANCELLATION;
	int err;

	err = config_take(&cfg, config, &backing.ops);
	if (!err)
		err = config_complete(&cfg, backing.ops);
	if (err)
		return err;
	backing.buffer_size = cfg.buffer_size;
	err = backing.ops->open(&backing, &cfg);
	if (!err) {
		err = pool_new(r_pool, &cfg, &backing);
		if (err)
			backing.ops->close(&backing);
	}
	if (err)
		explain_open(&cfg, err);
	return err;
}

static void explain_adopt(int fd, int err)
{
	switch (-err) {
	case EUCLEAN:	/* roots_adopt() has said more. */
		break;
	case EBADF:
		error_set("adopting: %d isn't an open descriptor", fd);
		break;
	case ENOTTY:
		error_set("adopting: descriptor %d isn't a client of evpl.ko, or the module is older "
			  "than this library", fd);
		break;
	case EBUSY:
		error_set("adopting: another process still uses the client of descriptor %d, or a "
			  "dma-buf or a ring has one of its slabs", fd);
		break;
	case EINVAL:
		error_set("adopting: the buffers of the client of descriptor %d have another size",
			  fd);
		break;
	case EACCES:
		error_set("adopting: descriptor %d was opened for reading alone", fd);
		break;
	case EAGAIN:
		error_explain_mlockall("adopting the pool");
		break;
	default:
		error_set("adopting: %s", strerror(-err));
	}
}

/*
 * A client has the flags that it was set up with. Fails if the caller wants a flag that the client
 * lacks.
 */
static int config_take_flags(struct evpl_pool_config *cfg, uint64_t flags)
{
	unsigned int has = (flags & EVPL_SETUP_ZEROS ? EVPL_POOL_ZEROS : 0) |
			   (flags & EVPL_SETUP_REVOKE ? EVPL_POOL_REVOKE : 0);

	if (cfg->flags & ~has & (EVPL_POOL_ZEROS | EVPL_POOL_REVOKE)) {
		error_set("adopting: the client was set up without EVPL_POOL_ZEROS or "
			  "EVPL_POOL_REVOKE, which the configuration asks for");
		return -EINVAL;
	}
	cfg->flags |= has;
	return 0;
}

/* Maps all slabs of a client that was adopted. Sets *@shared if others have a buffer. */
static int pool_adopt_slabs(struct evpl_pool *pool, bool *shared)
{
	uint64_t offset = 0;
	struct slab *slab;
	struct evpl *home;
	uint32_t i;
	int err;

	/* An entry needs a context as its home. One that is destroyed keeps no buffers. */
	err = evplmem_create(&home, pool, NULL);
	if (err)
		return err;
	evplmem_destroy(home);
	pool_lock(pool);
	while (!(err = slab_adopt(pool, offset, home, &slab))) {
		for (i = 0; i < slab->count; i++)
			*shared |= atomic_load(&slab->first[i].sealed);
		offset = slab->extent.offset + slab->extent.length;
	}
	pool_unlock(pool);
	return err == -ENOENT ? 0 : err;
}

/*
 * Has the buffers that others have come back by the returned bitmap, as those do that this process
 * sends. Some may have come back between EVPL_ADOPT and slab_adopt(), and have a bit, but are taken
 * for buffers that nobody had. So all bits are cleared. None can come meanwhile: slab_adopt() has
 * a reference on each buffer. And none is on its way, since the kernel reports a buffer under a lock
 * of the slab, which EVPL_LEASE_PULL takes too.
 */
static int pool_adopt_shared(struct evpl_pool *pool, bool shared)
{
	struct evpl_lease_pull pull = { .size = sizeof(pull) };
	struct slab *slab;
	uint32_t i;
	int err;

	if (ioctl(pool->backing.fd, EVPL_LEASE_PULL, &pull) < 0)
		return -errno;
	if (!shared && !atomic_load((_Atomic uint64_t *)&pool->backing.header->returned))
		return 0;
	err = windows_map(pool);
	if (!err)
		err = returned_clear(pool);
	if (err)
		return err;
	atomic_store(&pool_sharing(pool)->bound, true);
	for (slab = pool->slabs; slab; slab = slab->next)
		for (i = 0; i < slab->count; i++)
			if (atomic_load(&slab->first[i].sealed))
				returned_note_sent(pool, slab->extent.offset +
							 (uint64_t)i * pool->buffer_size);
	return 0;
}

/* Takes what the dead process has left: its slabs, its roots, and what others have of its buffers. */
static int pool_take_over(struct evpl_pool *pool)
{
	struct slab *slab;
	bool shared = false;
	int err;

	err = pool_adopt_slabs(pool, &shared);
	if (!err)
		err = roots_adopt(pool);
	if (!err)
		err = pool_adopt_shared(pool, shared);
	if (err)
		return err;
	for (slab = pool->slabs; slab; slab = slab->next) {
		slab_take_adopted(slab);
		slab_publish(slab);
	}
	return 0;
}

static void pool_delete(struct evpl_pool *pool);

int evplmem_pool_adopt(struct evpl_pool **r_pool, int fd, const struct evpl_pool_config *config)
{
	struct evpl_pool_config cfg = { .size = sizeof(cfg) };
	struct backing backing = { .fd = -1 };
	struct evpl_pool *pool;
	NO_CANCELLATION;
	int err;

	err = config_take(&cfg, config, &backing.ops);
	if (err)
		return err;
	if (!backing.ops->adopt) {
		error_set("adopting: only a pool of the module can be adopted");
		return -EOPNOTSUPP;
	}
	backing.buffer_size = cfg.buffer_size;
	err = backing.ops->adopt(&backing, &cfg, fd);
	if (err)
		goto explain;
	cfg.buffer_size = backing.buffer_size;
	err = config_complete(&cfg, backing.ops);
	if (!err)
		err = config_take_flags(&cfg, backing.setup.out_flags);
	if (err)
		goto close_backing;
	err = pool_new(&pool, &cfg, &backing);
	if (err) {
		explain_adopt(fd, err);
		goto close_backing;
	}
	err = pool_take_over(pool);
	if (err) {
		explain_adopt(fd, err);
		pool_lock(pool);
		while (pool->slabs)
			slab_leave(pool->slabs);
		pool->backing.fd = -1;
		pool_delete(pool);
		return err;
	}
	fcntl(fd, F_SETFD, FD_CLOEXEC);
	*r_pool = pool;
	return 0;

close_backing:
	backing.fd = -1;	/* it stays the caller's */
	backing.ops->close(&backing);
	return err;
explain:
	explain_adopt(fd, err);
	return err;
}

/*
 * Whether no context, lease, device or buffer is in use, but for those that roots have. Gathers the
 * free buffers into the caller's hand to find out. roots_count() was called. Under the pool's lock.
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
		if (slab->state != SLAB_LIVE || slab->in_hand + slab->rooted < slab->count)
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

/* Frees a pool that has no slab any more. The caller holds the pool's lock, which this drops. */
static void pool_delete(struct evpl_pool *pool)
{
	pool_drain_notifiers(pool);
	leases_drain(pool);
	lease_regs_free(pool);
	windows_unmap(pool);
	roots_destroy(pool);
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
	pressure_end(pool);
	/* Calls for this pool are refused from here on, until another pool gets the struct. */
	pool->generation = 0;
	pool_unlock(pool);
	pool_put_struct(pool);
}

/*
 * Gives all slabs back, but for those that have roots: these stay with the client, and are only
 * unmapped. Under the pool's lock.
 */
static int pool_free_slabs(struct evpl_pool *pool)
{
	struct slab *slab, *next;
	int err;

	for (slab = pool->slabs; slab; slab = next) {
		next = slab->next;
		slab_end_grants(slab);
		/* The kernel may still use a slab. That slab stays then, and so does the pool. */
		err = slab->rooted ? 0 : slab_destroy(slab);
		if (err)
			return err;
	}
	while (pool->slabs)
		slab_leave(pool->slabs);
	return 0;
}

int evplmem_pool_close(struct evpl_pool *pool)
{
	NO_CANCELLATION;
	int err;

	if (pool_is_inherited(pool))
		return -EPERM;
	/* Leases are released, and returned buffers collected, only when memory is short. */
	leases_flush(pool);
	returned_pull(pool, false);
	pool_lock(pool);
	err = roots_count(pool);
	if (!err)
		err = pool_is_idle(pool) ? pool_free_slabs(pool) : -EBUSY;
	if (err) {
		pool_scatter(pool);
		pool_unlock(pool);
		pressure_look(pool);
		if (is_odd(pool->generation))
			sites_report_pool(pool);
		return err;
	}
	pool_delete(pool);
	return 0;
}

int evplmem_pool_eventfd(struct evpl_pool *pool)
{
	return pool_is_inherited(pool) ? -EPERM : pool->eventfd;
}
