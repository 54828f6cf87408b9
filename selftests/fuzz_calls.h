/* SPDX-License-Identifier: GPL-2.0-only */
/* The files of the fuzzer's calls share these: ways to pick objects, and interesting values. */
#ifndef EVPL_FUZZ_CALLS_H
#define EVPL_FUZZ_CALLS_H

#include "fuzz.h"

#define ARGS(...)	.max = { __VA_ARGS__ }
#define OF(array)	ARRAY_SIZE(array)

enum { OWN = 1, REFS = 2, GUEST = 3, OTHER = 4 };

enum { NR_SIZES = 12, NR_POINTERS = 8 };

static const uint32_t flags_of[] = { 0, 1, 2, 3, 1U << 31, ~0U };

static const uint64_t wrong_by[] = {
	0, PAGE, 1, SLAB_2M, ~0ULL, OWN_SIZE, 1ULL << 63, -SLAB_2M, 1ULL << 62,
};

static const uint64_t map_length[] = {
	2 * MIB, PAGE, 4 * MIB, 2 * PAGE, 2 * MIB + PAGE, 1, 0, 6 * MIB, 1ULL << 40,
	OWN_SIZE, OWN_SIZE + PAGE, 1ULL << 30, 1ULL << 63, ~0ULL,
};

static const struct {
	int prot, flags;
} how_to_map[] = {
	{ PROT_READ | PROT_WRITE, MAP_SHARED },
	{ PROT_READ, MAP_SHARED },
	{ PROT_NONE, MAP_SHARED },
	{ PROT_WRITE, MAP_SHARED },
	{ PROT_READ | PROT_WRITE, MAP_PRIVATE },
	{ PROT_READ, MAP_PRIVATE },
	{ PROT_READ | PROT_WRITE | PROT_EXEC, MAP_SHARED },
	{ PROT_READ | PROT_EXEC, MAP_SHARED },
	{ PROT_EXEC, MAP_PRIVATE },
	{ PROT_READ | PROT_WRITE, MAP_SHARED_VALIDATE },
	{ PROT_READ | PROT_WRITE, MAP_SHARED_VALIDATE | MAP_SYNC },
	{ PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE },
	{ PROT_READ, MAP_SHARED | MAP_POPULATE },
	{ PROT_READ | PROT_WRITE, MAP_SHARED | MAP_LOCKED },
	{ PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE },
	{ PROT_READ | PROT_WRITE, MAP_SHARED | MAP_HUGETLB },
	{ PROT_READ | PROT_WRITE, 0 },
};

int pick_fd(unsigned int arg, unsigned int *slot);
uint64_t pick_slab(unsigned int fd, unsigned int arg, uint64_t **where);
struct got *pick_got(unsigned int arg);
void *place(struct thread *self, void *args, uint32_t known, unsigned int size,
	    unsigned int pointer);
int map(int window, int fd, unsigned int slot, uint64_t offset, uint64_t length,
	unsigned int how, unsigned long shift);

#endif /* EVPL_FUZZ_CALLS_H */
