/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_SITES_H
#define EVPLMEM_SITES_H

/*
 * Where the program has taken its references: EVPL_TRACE=1 in the environment, when the first pool
 * is opened. The table of them is described in common/sites.h.
 *
 * An iovec that is *traced* has the number of its reference in the table beside the generation, in
 * @__private1. So neither that nor the generation of a pool is equal to fork_generation, and the
 * checks for what was inherited over fork(2) find both. These checks are there anyway. If they
 * find something, they call is_inherited_traced(), and functions that make or end references call
 * one of those below. So tracing costs nothing while it is off.
 *
 * No context of a traced pool is bound to a thread, so the inlines leave all to the library.
 *
 * The program takes references by exported functions, and it is these that trace. References that
 * the library takes for itself aren't traced, and such iovecs look as they do without tracing.
 *
 * evpl_iovec_addref() makes two references that nothing tells apart, as their iovecs are equal.
 * A release of one of them is taken for that of the reference that was taken first.
 */

#include <stdbool.h>
#include <stdint.h>

#include "evplmem.h"

struct evpl_pool;

/**
 * struct place - where an exported function was called
 * @caller: the address that it returns to
 * @frame: the frame pointer there. It is some number if the program has no frame pointers.
 */
struct place {
	void *caller;
	void **frame;
};

/* Of the function that uses this macro, which is an exported one, or inlined into one. */
#define PLACE() ((struct place){ __builtin_return_address(0), \
				 *(void **)__builtin_frame_address(0) })

/* For functions that are called only if a program is traced, or does something wrong. */
#define RARE __attribute__((noinline))

void sites_set_up(void);
void sites_forget(void);
bool sites_are_traced(void);
void sites_open_pool(struct evpl_pool *pool);
RARE void sites_add(struct evpl_iovec *iovecs, int n, struct place place);
RARE bool sites_addref(const struct evpl_iovec *iovec, struct place place);
RARE bool sites_drop(const struct evpl_iovec *iovec);
RARE void sites_shorten(const struct evpl_iovec *iovec);
RARE void sites_report_pool(const struct evpl_pool *pool);

#endif /* EVPLMEM_SITES_H */
