/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_DEBUG_H
#define EVPLMEM_DEBUG_H

/*
 * Checks of the debug build (make DEBUG=1).
 *
 * A buffer's count says how many references there are, not whose. So a reference
 * that is released twice is noticed only where the count has no other left, or
 * none but the one that a context holds on the buffer that it cuts slices off.
 * Then the program ends, and prints where the last two references were released.
 *
 * A context or pool that has ended is known by its generation, which is 0. Structs of
 * these aren't used again as soon as in other builds, so that it stays so for a while.
 */

#include <stddef.h>
#include <stdnoreturn.h>

struct entry;

#ifdef EVPLMEM_DEBUG
#define EVPLMEM_CHECKS 1
#else
#define EVPLMEM_CHECKS 0
#endif

/* Where the program called the exported function that this stands in; for checks alone. */
#define CALLER() (EVPLMEM_CHECKS ? __builtin_return_address(0) : NULL)

noreturn void debug_die(const struct entry *entry, const char *what, void *site, void *before);
noreturn void debug_die_of(const char *kind, const void *object, const char *what);

#endif /* EVPLMEM_DEBUG_H */
