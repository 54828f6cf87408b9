/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_POISON_H
#define EVPLMEM_POISON_H

/*
 * In a build for AddressSanitizer, bytes that no iovec has covered since its buffer was
 * taken can't be touched: a buffer is poisoned while its word is zero, and slices are made
 * accessible as they are handed out. That is exact since slices start at multiples of 8,
 * which is what one byte of the sanitizer's own map stands for.
 *
 * A slice that was released stays accessible until its buffer's last reference goes, a
 * context's included. The count is the buffer's: nobody knows whether another iovec, a clone
 * for example, still covers the slice.
 */

#include <stddef.h>

#ifdef __has_feature
#if __has_feature(address_sanitizer)
#define EVPLMEM_ASAN 1
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
#define EVPLMEM_ASAN 1
#endif

#ifdef EVPLMEM_ASAN
#include <sanitizer/asan_interface.h>
#define POISONS 1
#else
#define POISONS 0
#endif

static inline void poison(void *data, size_t length)
{
#ifdef EVPLMEM_ASAN
	__asan_poison_memory_region(data, length);
#else
	(void)data;
	(void)length;
#endif
}

static inline void unpoison(void *data, size_t length)
{
#ifdef EVPLMEM_ASAN
	__asan_unpoison_memory_region(data, length);
#else
	(void)data;
	(void)length;
#endif
}

#endif /* EVPLMEM_POISON_H */
