/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_FORK_H
#define EVPLMEM_FORK_H

/*
 * A child of fork(2) has none of its parent's references: it doesn't inherit the windows
 * with their counts. So each process has a generation, which changes in the child of
 * fork(2), and pools and iovecs have that of the process that made them. The library
 * refuses or ignores those of another generation, and touches nothing that they point
 * to. A child can make pools of its own.
 */

#include <stdbool.h>
#include <stdint.h>

/* The generation shares iovec->__private1 with the flags of alloc.h, so it has steps of this. */
#define GENERATION_STEP	4U

/*
 * The process's generation. Only the child's handler of pthread_atfork(3) changes it, before the
 * child has other threads. It isn't 0: an empty iovec is of no process.
 */
extern uint32_t fork_generation __attribute__((visibility("hidden")));

/*
 * Whether a number isn't the process's generation. In a program that is traced (sites.h), that is
 * no reason to refuse it: is_inherited_traced() tells.
 */
static inline bool is_odd(uint32_t generation)
{
	return __builtin_expect(generation != fork_generation, 0);
}

__attribute__((noinline)) bool is_inherited_traced(uint32_t generation);

static inline bool is_inherited(uint32_t generation)
{
	return is_odd(generation) && is_inherited_traced(generation);
}

int fork_watched(void);

#endif /* EVPLMEM_FORK_H */
