// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/* Ten lines, in C and in C++. */
#include <evplmem.h>
#include <string.h>

int main(void)
{
	struct evpl_pool_config config = { sizeof(config), EVPL_BACKEND_ANON, 0, 0, 0, 0, 0, NULL };
	struct evpl_iovec iovec[2];
	struct evpl_pool *pool;
	struct evpl *evpl;

	if (evpl_pool_open(&pool, &config) || evpl_create(&evpl, pool, NULL) ||
	    evpl_iovec_alloc(evpl, 1500000, 4096, 2, iovec) != 2)
		return 1;
	memset(iovec[1].data, 1, iovec[1].length);
	evpl_iovecs_release(iovec, 2);
	evpl_destroy(evpl);
	return evpl_pool_close(pool);
}
