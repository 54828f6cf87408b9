/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_POISON_H
#define EVPLMEM_POISON_H

/*
 * Poisoning, in a build for AddressSanitizer. A buffer is poisoned while it is free, and each
 * slice is unpoisoned when it is cut off. So a program can't touch bytes that no iovec has
 * covered since the buffer was taken. This is exact, since slices start at multiples of 8, and
 * one byte of the sanitizer's shadow memory stands for 8 bytes.
 *
 * A released slice stays accessible until the buffer's last reference is dropped, a context's
 * hold included. References are counted for the buffer, so the library can't tell whether
 * another iovec, such as a clone, still covers the slice.
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
