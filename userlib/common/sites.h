/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_COMMON_SITES_H
#define EVPLMEM_COMMON_SITES_H

/*
 * The table that a program with EVPL_TRACE=1 keeps of its references, in a memfd of the name
 * SITES_NAME. The library writes it, and evplctl(1) reads it through /proc/PID/fd.
 *
 * A *site* is a place where references are taken: the return addresses of the calls that led
 * there, the innermost one first. The first address is in the program, or in a function of the
 * library that takes references for itself.
 *
 * The program goes on while another process reads. So what is read may be of different moments,
 * and the program may write anything. A reader copies what it needs, and checks the copy.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#define SITES_NAME	"evpl-sites"
#define SITES_MAGIC	0x7365746973707665ULL	/* "evpsites", little-endian */
#define SITES_VERSION	1U

/* Return addresses that a site has at most. */
#define SITES_FRAMES	12U
/* Site 0 has no addresses. It stands for those that found no room. */
#define SITES_MAX	4096U
#define SITES_REFS_MAX	(1U << 20)

/**
 * struct sites_header - the beginning of the table
 * @magic: SITES_MAGIC
 * @version: SITES_VERSION
 * @pid: the process, as it sees itself; a child of fork(2) inherits the memfd of its parent
 * @nr_sites: sites that are filled in; a site stays
 * @nr_refs: references that have ever been filled in
 * @lost: references that were taken, and found no room here
 */
struct sites_header {
	uint64_t magic;
	uint32_t version;
	uint32_t pid;
	uint32_t nr_sites;
	uint32_t nr_refs;
	uint64_t lost;
};

/**
 * struct sites_site - a site
 * @frames: the return addresses; 0: there is no further one
 */
struct sites_site {
	uint64_t frames[SITES_FRAMES];
};

/**
 * struct sites_ref - a reference
 * @used: 1; or 0: this one is free, and @next is the next free one
 * @site: where it was taken
 * @next: index + 1 of the next reference that was taken by evpl_iovec_addref() on the same iovec,
 *	or 0
 * @last: in the first of these: index + 1 of the last one, or 0
 * @pool: the number of the pool, counted from 1; 0: of memory that is no pool's
 * @length: bytes of the slice when it was made
 * @size: bytes of the buffer
 * @buffer: a number that references on the same buffer have in common
 */
struct sites_ref {
	uint32_t used;
	uint32_t site;
	uint32_t next;
	uint32_t last;
	uint32_t pool;
	uint32_t length;
	uint32_t size;
	uint32_t reserved;
	uint64_t buffer;
};

/** struct sites_table - all of it */
struct sites_table {
	struct sites_header header;
	struct sites_site sites[SITES_MAX];
	struct sites_ref refs[SITES_REFS_MAX];
};

/**
 * struct sites_sum - the references of a site
 * @site: the site
 * @refs: how many references there are
 * @buffers: how many buffers they keep from being used again
 * @bytes: bytes of the slices
 * @pinned: bytes of these buffers
 */
struct sites_sum {
	uint32_t site;
	uint32_t refs;
	uint32_t buffers;
	uint64_t bytes;
	uint64_t pinned;
};

static inline int sites_by_buffer(const void *left, const void *right)
{
	const struct sites_ref *a = left, *b = right;

	if (a->site != b->site)
		return a->site < b->site ? -1 : 1;
	return a->buffer < b->buffer ? -1 : a->buffer > b->buffer;
}

static inline int sites_by_pinned(const void *left, const void *right)
{
	const struct sites_sum *a = left, *b = right;

	if (a->pinned != b->pinned)
		return a->pinned > b->pinned ? -1 : 1;
	return a->site < b->site ? -1 : a->site > b->site;
}

/*
 * Sums up @n references, whose order changes. @sums has room for SITES_MAX. Returns how many sums
 * there are; the first has the most bytes pinned. Two sites may pin the same buffer.
 */
static inline uint32_t sites_sum_up(struct sites_ref *refs, uint32_t n, struct sites_sum *sums)
{
	struct sites_sum *sum = NULL;
	uint32_t i, nr = 0;

	qsort(refs, n, sizeof(*refs), sites_by_buffer);
	for (i = 0; i < n; i++) {
		if (!refs[i].used || refs[i].site >= SITES_MAX)
			continue;
		if (!sum || sum->site != refs[i].site) {
			sum = &sums[nr++];
			*sum = (struct sites_sum){ .site = refs[i].site };
		}
		if (!sum->refs || refs[i].buffer != refs[i - 1].buffer) {
			sum->buffers++;
			sum->pinned += refs[i].size;
		}
		sum->refs++;
		sum->bytes += refs[i].length;
	}
	qsort(sums, nr, sizeof(*sums), sites_by_pinned);
	return nr;
}

/* How many bytes a site pins for each byte of its slices. */
static inline uint64_t sites_amplification(const struct sites_sum *sum)
{
	return sum->bytes ? sum->pinned / sum->bytes : sum->pinned;
}

#endif /* EVPLMEM_COMMON_SITES_H */
