/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_TESTS_LIES_H
#define EVPLMEM_TESTS_LIES_H

/*
 * Lies that a hostile peer writes into its block. test_lane_rings.c has the library read them in the
 * same process, under the sanitizers, and test_lane_hostile.c over the module.
 */

#include <stdlib.h>

#include "lane_block.h"

/**
 * struct lie - the fields that a hostile peer writes in place of those of a message's entry
 * @kind: as in &struct lane_entry, like the others
 * @grant: 0 and 1 stand for a grant that the receiver has, and for one that it hasn't
 */
struct lie {
	uint32_t kind;
	uint32_t grant;
	uint32_t offset;
	uint32_t length;
};

/* An initializer. Each entry is wrong if a buffer has @size bytes and no record is on its way. */
#define ENTRY_LIES(size) {				\
	{ 0, 0, 0, 1 },					\
	{ LANE_TAKE_BACK + 1, 0, 0, 1 },		\
	{ UINT32_MAX, 0, 0, 1 },			\
	{ LANE_MESSAGE, 1, 0, 1 },			\
	{ LANE_MESSAGE, LANE_GRANTS_MAX, 0, 1 },	\
	{ LANE_MESSAGE, UINT32_MAX, 0, 1 },		\
	{ LANE_MESSAGE, 0, 0, 0 },			\
	{ LANE_MESSAGE, 0, 0, (size) + 1 },		\
	{ LANE_MESSAGE, 0, (size), 1 },			\
	{ LANE_MESSAGE, 0, 1, (size) },			\
	{ LANE_MESSAGE, 0, UINT32_MAX, 2 },		\
	{ LANE_MESSAGE, 0, 2, UINT32_MAX },		\
	{ LANE_REVOKED, 1, 0, 0 },			\
	{ LANE_REVOKED, UINT32_MAX, 0, 0 },		\
	{ LANE_RECORD, 0, 0, 0 },			\
	{ LANE_RECORD, 1, 0, 0 },			\
	{ LANE_RECORD, LANE_NO_GRANT, 0, 0 },		\
	{ LANE_RECORD, LANE_GRANTS_MAX, 0, 0 },		\
	{ LANE_TAKE_BACK, 1, 0, 0 },			\
	{ LANE_TAKE_BACK, LANE_NO_GRANT, 0, 0 },	\
}

/* A block, and where its record says that it is in its buffer. */
struct block_lie {
	uint32_t magic;
	uint32_t version;
	uint32_t nr_entries;
	uint32_t nr_grants;
	uint32_t offset;
	uint32_t length;
};

/* An initializer. Each block is wrong if a buffer has @size bytes, and a right ring has @ring entries. */
#define BLOCK_LIES(size, ring) {							\
	{ LANE_MAGIC + 1, LANE_VERSION, (ring), 256, 0, (size) },			\
	{ LANE_MAGIC, LANE_VERSION + 1, (ring), 256, 0, (size) },			\
	{ LANE_MAGIC, LANE_VERSION, 0, 256, 0, (size) },				\
	{ LANE_MAGIC, LANE_VERSION, (ring) - 1, 256, 0, (size) },			\
	{ LANE_MAGIC, LANE_VERSION, (ring), 0, 0, (size) },				\
	{ LANE_MAGIC, LANE_VERSION, (ring), 2, 0, (size) },				\
	{ LANE_MAGIC, LANE_VERSION, (ring), 255, 0, (size) },				\
	{ LANE_MAGIC, LANE_VERSION, (ring), 1U << 31, 0, (size) },			\
	{ LANE_MAGIC, LANE_VERSION, 1U << 31, 256, 0, (size) },				\
	{ LANE_MAGIC, LANE_VERSION, (size) / sizeof(struct lane_entry), 4, 0, (size) },	\
	{ LANE_MAGIC, LANE_VERSION, (ring), 256, 64, (size) - 64 },			\
	{ LANE_MAGIC, LANE_VERSION, (ring), 256, 0, 100 },				\
	{ LANE_MAGIC, LANE_VERSION, (ring), 256, 0,					\
	  (ring) * sizeof(struct lane_entry) + 256 * sizeof(uint32_t) },		\
}

/* Counts of a grant of which one message was returned before, and one is outstanding. */
#define COUNT_LIES		{ 3, 100, UINT32_MAX, 0 }
/* Numbers that are added to that of the entries written, when @ring of these haven't been taken. */
#define TAKEN_LIES(ring)	{ 1, (ring), 1U << 31, -(ring) - 1 }

/* A number that may just be a right one, or just not. */
static inline uint32_t odd_number(uint32_t right, unsigned int *seed)
{
	const uint32_t numbers[] = {
		right, right + 1, right - 1, 0, 1, 2, 64, 4095, 4096, 1U << 16, 1U << 31,
		UINT32_MAX, (uint32_t)rand_r(seed) << 1,
	};

	return numbers[(unsigned int)rand_r(seed) % (sizeof(numbers) / sizeof(numbers[0]))];
}

/*
 * Writes something into a block whose peer has taken @head entries. Most of the entries have a right
 * turn, as the peer looks at no others.
 */
static inline void scribble(struct lane_block *block, uint32_t nr_entries, uint32_t nr_grants,
			    uint32_t head, unsigned int *seed)
{
	uint32_t at = head + (uint32_t)rand_r(seed) % 3, i;
	struct lane_entry *entry = &block->entries[at & (nr_entries - 1)];
	_Atomic uint32_t *words = (_Atomic uint32_t *)block;

	switch (rand_r(seed) % 8) {
	case 0:
		atomic_store_explicit(&lane_counts(block, nr_entries)[(uint32_t)rand_r(seed) % nr_grants],
				      odd_number(1, seed), memory_order_relaxed);
		break;
	case 1:
		atomic_store_explicit(&block->taken, odd_number(head, seed), memory_order_relaxed);
		break;
	case 2:
		atomic_store_explicit(&block->wants[rand_r(seed) % NR_LANE_WANTS],
				      odd_number(1, seed), memory_order_relaxed);
		break;
	case 3:
		for (i = 0; i < sizeof(*block) / 4 + nr_entries * sizeof(*entry) / 4 + nr_grants; i++)
			if (!(rand_r(seed) % 64))
				atomic_store_explicit(&words[i], odd_number(head + 1, seed),
						      memory_order_relaxed);
		break;
	default:
		atomic_store_explicit(&entry->kind, (uint32_t)rand_r(seed) % 6,
				      memory_order_relaxed);
		atomic_store_explicit(&entry->grant, rand_r(seed) % 4 ? (uint32_t)rand_r(seed) % 4 :
				      odd_number(nr_grants, seed), memory_order_relaxed);
		atomic_store_explicit(&entry->offset, rand_r(seed) % 2 ? 0 : odd_number(0, seed),
				      memory_order_relaxed);
		atomic_store_explicit(&entry->length, odd_number(1, seed), memory_order_relaxed);
		atomic_store(&entry->turn, at + 1);
	}
}

#endif /* EVPLMEM_TESTS_LIES_H */
