// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * A library that exports some of this library's names. libevpl has functions of these names, with
 * other arguments.
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

/* The result tells which library's functions these calls have reached. */
int rival(void)
{
	return evpl_iovec_alloc(evpl_create((void *)0), 41);
}
