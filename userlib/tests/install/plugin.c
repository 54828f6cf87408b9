// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/* A plugin that opens a pool on a thread of its host, uses the pool and closes it. */
#include <evplmem.h>

#ifndef FLAGS
#define FLAGS 0
#endif

int plugin_run(void);

int plugin_run(void)
{
	struct evpl_pool_config config = {
		.size = sizeof(config),
		.backend = EVPL_BACKEND_ANON,
		.flags = FLAGS,
	};
	struct evpl_iovec iovec;
	struct evpl_pool *pool;
	struct evpl *evpl;
	int i;

	if (evpl_pool_open(&pool, &config) || evpl_create(&evpl, pool, NULL))
		return 1;
	for (i = 0; i < 100; i++) {
		if (evpl_iovec_alloc(evpl, 100, 0, 1, &iovec) != 1)
			return 1;
		evpl_iovec_release(&iovec);
	}
	evpl_destroy(evpl);
	return evpl_pool_close(pool);
}
