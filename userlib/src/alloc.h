/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_ALLOC_H
#define EVPLMEM_ALLOC_H

#include "context.h"

/* See poison.h. */
#define SLICE_ALIGN EVPLMEM_SLICE_ALIGN

/* Flags in iovec->__private1, beside the generation (fork.h) and a reference's number (sites.h). */
#define IOVEC_RESERVED	(1U << 0)	/* reserved, and not committed yet */
#define IOVEC_LAST	(1U << 1)	/* no slice is cut after it in its buffer */

static inline uint64_t align_up(uint64_t n, uint64_t align)
{
	return (n + align - 1) & ~(align - 1);
}

int alloc_buffer(struct evpl *evpl, struct evpl_iovec *iovec);

#endif /* EVPLMEM_ALLOC_H */
