// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/* A program that links this library and another one that exports the same names (rival.c). */
#include <evplmem.h>

#ifdef __cplusplus
extern "C"
#endif
int rival(void);

int main(void)
{
	struct evpl_pool_config config = EVPL_POOL_CONFIG_INIT;
	struct evpl_iovec iovec;
	struct evpl_pool *pool;
	struct evpl *evpl;

	config.backend = EVPL_BACKEND_ANON;
	if (evpl_pool_open(&pool, &config) || evpl_create(&evpl, pool, NULL) || rival() != 42 ||
	    evpl_iovec_alloc(evpl, 41, 0, 1, &iovec) != 1 || iovec.length != 41)
		return 1;
	evpl_iovec_release(&iovec);
	evpl_destroy(evpl);
	return evpl_pool_close(pool) || rival() != 42;
}
