/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Fragments memory: pins a page in nearly every 2 MiB, so that compaction can't
 * help.
 */
#ifndef EVPL_FRAGMENT_H
#define EVPL_FRAGMENT_H

#include <sys/uio.h>

#include "evpl_test.h"

/* So much memory consists of fragments. Half of it is free. */
#define FRAGMENTED	(640 * MIB)
/* How many pages a pipe holds. */
#define PER_PIPE	16

struct fragments {
	int pipes[FRAGMENTED / SLAB_2M / PER_PIPE][2];
	int nr_pipes;
	char *memory;
	size_t length;		/* of the fragments and the ballast behind them */
};

/*
 * Take nearly all memory. The ballast comes first, in huge pages, because that is quick. The rest
 * is taken page by page. From fresh memory pages come in order, so that each 512th page lies in
 * another 2 MiB: pin these. Then give back the other pages of every second 2 MiB. These aren't huge
 * pages: a huge page goes back as a whole or not at all. Return 0 or -errno; call unfragment() in
 * either case.
 */
static inline int fragment(struct fragments *fragments)
{
	size_t all = number_in("/proc/meminfo", "MemFree") * KIB, length;
	char *memory;

	memset(fragments, 0, sizeof(*fragments));
	all = (all - 192 * MIB) / SLAB_2M * SLAB_2M;
	length = all < FRAGMENTED ? all : FRAGMENTED;
	memory = mmap(NULL, all + SLAB_2M, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (memory == MAP_FAILED)
		return -errno;
	memory += -(uintptr_t)memory & (SLAB_2M - 1);
	fragments->memory = memory;
	fragments->length = all;
	madvise(memory, length, MADV_NOHUGEPAGE);
	madvise(memory + length, all - length, MADV_HUGEPAGE);
	if (all > length && madvise(memory + length, all - length, MADV_POPULATE_WRITE))
		return -errno;

	for (size_t at = 0, n = 0; at < length; at += SLAB_2M, n++) {
		struct iovec page = { memory + at + SLAB_2M / 2, PAGE };
		int *pipe_fds = fragments->pipes[n / PER_PIPE];

		if (madvise(memory + at, SLAB_2M, MADV_POPULATE_WRITE))
			return -errno;
		if (!(n % PER_PIPE)) {
			if (pipe2(pipe_fds, O_CLOEXEC | O_NONBLOCK))
				return -errno;
			fragments->nr_pipes++;
		}
		if (vmsplice(pipe_fds[1], &page, 1, 0) != PAGE)
			return -errno;
	}
	for (size_t at = 0; at < length; at += 2 * SLAB_2M)
		munmap(memory + at, SLAB_2M);
	return 0;
}

static inline void unfragment(struct fragments *fragments)
{
	for (int i = 0; i < fragments->nr_pipes; i++) {
		close(fragments->pipes[i][0]);
		close(fragments->pipes[i][1]);
	}
	if (fragments->length)
		munmap(fragments->memory, fragments->length);
}

/* How many folios of a client are smaller than 2 MiB. */
static inline long long small_folios(int fd)
{
	long long folios = 0;
	char name[64];

	for (int kib = 16; kib < 2048; kib *= 2) {
		snprintf(name, sizeof(name), "evpl-folios-%dkB", kib);
		if (fdinfo(fd, name) > 0)
			folios += fdinfo(fd, name);
	}
	return folios;
}

#endif /* EVPL_FRAGMENT_H */
