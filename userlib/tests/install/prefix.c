// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * A file that includes this library's header, and that declares tags and functions of another
 * library with the same names, before and after it.
 */
#include <string.h>

struct evpl {
	int loops;
};

struct evpl_iovec {
	const char *other;
};

#define EVPLMEM_PREFIX_ONLY
#include <evplmem.h>

struct evpl_config {
	double rate;
};

static int evpl_create(struct evpl *evpl, const struct evpl_config *config)
{
	evpl->loops = (int)config->rate;
	return 0;
}

static int evpl_iovec_alloc(struct evpl_iovec *evpl_iovec)
{
	evpl_iovec->other = "other";
	return 1;
}

static int use_the_other(void)
{
	struct evpl_config config = { 3.0 };
	struct evpl_iovec iovec;
	struct evpl evpl;

	return !evpl_create(&evpl, &config) && evpl.loops == 3 &&
	       evpl_iovec_alloc(&iovec) == 1 && !strcmp(iovec.other, "other");
}

int main(void)
{
	struct evplmem_pool_config config = EVPL_POOL_CONFIG_INIT;
	struct evplmem_iovec iovec, part;
	struct evplmem_waiter waiter = { 0, 0, 0, 0, NULL, NULL, NULL, NULL };
	struct evplmem_pool *pool;
	struct evplmem *evpl;

	config.backend = EVPL_BACKEND_ANON;
	if (evplmem_pool_open(&pool, &config) || evplmem_create(&evpl, pool, NULL) ||
	    evplmem_iovec_alloc(evpl, 1000, 0, 1, 0, &iovec) != 1 ||
	    evplmem_iovec_clone_segment(&part, &iovec, 100, 10) || part.length != 10 ||
	    evplmem_waiter_cancel(&waiter) != -ENOENT)
		return 1;
	memset(part.data, 1, part.length);
	evplmem_iovec_release(&part);
	evplmem_iovec_release(&iovec);
	evplmem_destroy(evpl);
	return evplmem_pool_close(pool) || !use_the_other();
}
