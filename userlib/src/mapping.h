/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_MAPPING_H
#define EVPLMEM_MAPPING_H

#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

static inline size_t page_size(void)
{
	return (size_t)sysconf(_SC_PAGESIZE);
}

void *map_reserve(size_t length);
int map_aligned(void **r_base, size_t length, size_t align, int flags, int fd, uint64_t offset);

#endif /* EVPLMEM_MAPPING_H */
