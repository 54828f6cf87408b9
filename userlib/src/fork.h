/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_FORK_H
#define EVPLMEM_FORK_H

/*
 * A child of fork(2) has no part in its parent's references: the kernel gives it
 * none of the windows that hold their counts. So each process, as far as fork(2)
 * tells, has a generation, and pools and iovecs say of which they are. Those of
 * another are refused, or left alone, before anything of theirs is looked at. What a
 * child makes itself is its own.
 */

#include <stdbool.h>
#include <stdint.h>

/* Counts in the bits of iovec->__private1 that alloc.h leaves: steps of this. */
#define GENERATION_STEP	4U

/* Changed in the child of a fork alone, before it is anybody's. No empty iovec has it. */
extern uint32_t fork_generation;

static inline bool is_inherited(uint32_t generation)
{
	return generation != fork_generation;
}

int fork_watched(void);

#endif /* EVPLMEM_FORK_H */
