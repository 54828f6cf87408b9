/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_DEBUG_H
#define EVPLMEM_DEBUG_H

/*
 * Checks of the debug build (make DEBUG=1).
 *
 * A buffer's count says how many references there are, and not whose they are. So the
 * checks notice a reference that is released twice only if no other reference is left, or
 * only the hold of a context. Then the program prints where the last two references were
 * released, and aborts.
 *
 * The checks know a context that was destroyed, and a pool that was closed, by its
 * generation, which is 0. Their structs are reused later than in other builds, or never,
 * so that they keep that generation for a while.
 */

#include <stddef.h>
#include <stdnoreturn.h>

struct entry;

#ifdef EVPLMEM_DEBUG
#define EVPLMEM_CHECKS 1
#else
#define EVPLMEM_CHECKS 0
#endif

/* For checks: where the program called the exported function that uses this macro. */
#define CALLER() (EVPLMEM_CHECKS ? __builtin_return_address(0) : NULL)

noreturn void debug_die(const struct entry *entry, const char *what, void *site, void *before);
noreturn void debug_die_of(const char *kind, const void *object, const char *what);

#endif /* EVPLMEM_DEBUG_H */
