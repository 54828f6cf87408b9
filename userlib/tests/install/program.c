// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/* A small program, built as C and as C++. */
#include <evplmem.h>
#include <string.h>

/* Uses the initializers in each way that there is: a warning of the compiler is an error here. */
static int initializers_fit(void)
{
	static const struct evpl_config zeros = EVPL_CONFIG_INIT;
	struct evpl_config config = EVPL_CONFIG_INIT;
	struct evpl_pool_stats stats = EVPL_POOL_STATS_INIT;
	struct evpl_device_ops ops = EVPL_DEVICE_OPS_INIT;

	return config.size == sizeof(config) && !memcmp(&config, &zeros, sizeof(config)) &&
	       stats.size == sizeof(stats) && !stats.wakeups &&
	       ops.size == sizeof(ops) && !ops.register_slab && !ops.flags;
}

int main(void)
{
	struct evpl_pool_config config = EVPL_POOL_CONFIG_INIT;
	struct evpl_iovec iovec[2];
	struct evpl_pool *pool;
	struct evpl *evpl;
	int i;

	config.backend = EVPL_BACKEND_ANON;
	if (!initializers_fit() || evplmem_version() != EVPLMEM_VERSION)
		return 1;
	if (evpl_pool_open(&pool, &config) || evpl_create(&evpl, pool, NULL) ||
	    evpl_iovec_alloc(evpl, 1500000, 4096, 2, iovec) != 2)
		return 1;
	memset(iovec[1].data, 1, iovec[1].length);
	evpl_iovecs_release(iovec, 2);
	for (i = 0; i < 100; i++) {
		if (evpl_iovec_alloc(evpl, 1000, 0, 1, iovec) != 1)
			return 1;
		evpl_iovec_release(iovec);
	}
	evpl_destroy(evpl);
	return evpl_pool_close(pool);
}
