// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * A library with names of its own that are the same: libevpl has these, with other
 * arguments.
 */
struct evpl;

struct evpl *evpl_create(void *config);
void evpl_destroy(struct evpl *evpl);
int evpl_iovec_alloc(struct evpl *evpl, unsigned int length);
int rival(void);

struct evpl *evpl_create(void *config)
{
	return config;
}

void evpl_destroy(struct evpl *evpl)
{
	(void)evpl;
}

int evpl_iovec_alloc(struct evpl *evpl, unsigned int length)
{
	evpl_destroy(evpl);
	return (int)length + 1;
}

/* Whoever's functions these calls reach says so by what it returns. */
int rival(void)
{
	return evpl_iovec_alloc(evpl_create((void *)0), 41);
}
