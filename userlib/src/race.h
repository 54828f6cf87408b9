/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_RACE_H
#define EVPLMEM_RACE_H

/*
 * In a build for ThreadSanitizer: what orders threads by a way that it doesn't see.
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

/* As if @word had been loaded, to acquire what was stored there to release. */
static inline void race_acquire(void *word)
{
#ifdef SEES_RACES
	__tsan_acquire(word);
#else
	(void)word;
#endif
}

#endif /* EVPLMEM_RACE_H */
