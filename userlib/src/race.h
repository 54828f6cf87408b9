/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_RACE_H
#define EVPLMEM_RACE_H

/*
 * Tells ThreadSanitizer, in a build for it, of an order between threads that it can't see,
 * because membarrier(2) or the kernel's read of a futex makes it.
 */

#ifdef __has_feature
#if __has_feature(thread_sanitizer)
#define SEES_RACES 1
#endif
#endif
#ifdef __SANITIZE_THREAD__
#define SEES_RACES 1
#endif

#ifdef SEES_RACES
#include <sanitizer/tsan_interface.h>
#endif

/* Counts as an acquire load of @word, which pairs with the last release store there. */
static inline void race_acquire(void *word)
{
#ifdef SEES_RACES
	__tsan_acquire(word);
#else
	(void)word;
#endif
}

#endif /* EVPLMEM_RACE_H */
