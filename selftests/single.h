/* SPDX-License-Identifier: GPL-2.0-only */
/* A client alone, with the entries of its first buffers: the fixture of slabs and words. */
#ifndef EVPL_SINGLE_H
#define EVPL_SINGLE_H

#include "evpl_test.h"

struct single {
	int fd;
	struct counters before;
	struct evpl_setup setup;
	struct evpl_entry *entries;
};

/* The first member of a fixture, as PAIR is in pair.h. */
#define SINGLE	union { struct single single; struct single; }

/* Begin a test. */
static inline void open_single(struct __test_metadata *_metadata, struct single *single)
{
	limit_sleeps();
	single->before = read_counters();
	single->fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	ASSERT_GE(single->fd, 0);
	ASSERT_EQ(0, evpl_setup(single->fd, 0, &single->setup));
	single->entries = evpl_map(single->fd, PAGE, single->setup.out_refs_offset);
	ASSERT_NE(MAP_FAILED, single->entries);
}

/* At the end of a test the counters then return to single->before. */
static inline void close_single(struct single *single)
{
	munmap(single->entries, PAGE);
	close(single->fd);
}

#endif /* EVPL_SINGLE_H */
