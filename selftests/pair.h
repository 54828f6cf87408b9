/* SPDX-License-Identifier: GPL-2.0-only */
/* An owner and a lessee with a channel between them: the fixture of most tests that share. */
#ifndef EVPL_PAIR_H
#define EVPL_PAIR_H

#include "client.h"

struct pair {
	struct counters before;
	struct client owner, lessee;
	uint32_t bind_flags;	/* of both ends: a fixture may set them before it opens the pair */
	int ends[2];		/* the owner's, and the lessee's */
};

/*
 * The first member of a fixture. The fixture then has the members of struct pair as its own,
 * and self->pair for the functions below (gcc's -fms-extensions).
 */
#define PAIR	union { struct pair pair; struct pair; }

static inline void open_owner(struct __test_metadata *_metadata, struct pair *pair,
			      uint32_t flags)
{
	ASSERT_TRUE(open_client(&pair->owner, flags));
	ASSERT_EQ(0, evpl_channel(pair->owner.fd, 8, pair->ends));
	ASSERT_EQ(0, evpl_bind_with(pair->owner.fd, pair->ends[0], pair->bind_flags));
	ASSERT_EQ(0, evpl_bind_with(pair->lessee.fd, pair->ends[1], pair->bind_flags));
}

static inline void close_owner(struct pair *pair)
{
	close(pair->ends[0]);
	close(pair->ends[1]);
	close_client(&pair->owner);
}

/* Begin a test. The flags are those of the owner's set-up. */
static inline void open_pair(struct __test_metadata *_metadata, struct pair *pair,
			     uint32_t flags)
{
	limit_sleeps();
	pair->before = read_counters();
	ASSERT_TRUE(open_client(&pair->lessee, 0));
	open_owner(_metadata, pair, flags);
}

/* The same, with ends that don't block unless the test has them do so. */
static inline void open_nonblocking_pair(struct __test_metadata *_metadata, struct pair *pair,
					 uint32_t flags)
{
	open_pair(_metadata, pair, flags);
	for (int i = 0; i < 2; i++)
		ASSERT_EQ(0, fcntl(pair->ends[i], F_SETFL, O_NONBLOCK));
}

/* At the end of a test the counters then return to pair->before. */
static inline void close_pair(struct pair *pair)
{
	close_owner(pair);
	close_client(&pair->lessee);
}

/* Lease buffer n, with x in it, to the lessee. Return the memory that the lease shows. */
static inline char *lease(struct __test_metadata *_metadata, struct pair *pair, unsigned int n,
			  uint32_t flags, struct evpl_record *got)
{
	ASSERT_TRUE(lend(&pair->owner, pair->ends, n, 'x', flags, got));
	EXPECT_EQ(flags, got->flags);
	return memory_of(&pair->lessee, got);
}

#endif /* EVPL_PAIR_H */
