// SPDX-License-Identifier: GPL-2.0-only
/*
 * The kernel's part of lanes: ends that are bound as a lane's, the records of their libraries,
 * and the header's count of changes of the other ends.
 */
#include "pair.h"

FIXTURE(lane)
{
	PAIR;
};

FIXTURE_SETUP(lane)
{
	self->bind_flags = EVPL_BIND_LANE;
	open_nonblocking_pair(_metadata, &self->pair, 0);
}

FIXTURE_TEARDOWN(lane)
{
	close_pair(&self->pair);
	EXPECT_TRUE(counters_return_to(self->before));
}

TEST_F(lane, fdinfo_tells_which_ends_are_of_a_lane)
{
	int ends[2];

	EXPECT_EQ(1, fdinfo(self->ends[0], "evpl-lane"));
	EXPECT_EQ(1, fdinfo(self->ends[1], "evpl-lane"));
	ASSERT_EQ(0, evpl_channel(self->owner.fd, 8, ends));
	EXPECT_EQ(0, fdinfo(ends[0], "evpl-lane"));
	EXPECT_EQ(-EOPNOTSUPP, evpl_bind_with(self->owner.fd, ends[0], 2));
	EXPECT_EQ(0, fdinfo(ends[0], "evpl-bound"));
	ASSERT_EQ(0, evpl_bind(self->owner.fd, ends[0]));
	EXPECT_EQ(0, fdinfo(ends[0], "evpl-lane"));
	EXPECT_EQ(-EBUSY, evpl_bind_with(self->owner.fd, ends[0], EVPL_BIND_LANE));
	EXPECT_EQ(0, fdinfo(ends[0], "evpl-lane"));
	ASSERT_EQ(0, evpl_bind_with(self->owner.fd, ends[1], EVPL_BIND_LANE));
	EXPECT_EQ(1, fdinfo(ends[1], "evpl-lane"));
	close(ends[0]);
	close(ends[1]);
}

TEST_F(lane, record_of_a_lane_arrives_as_one_with_all_of_its_flags)
{
	static const uint32_t flags[] = {
		0, EVPL_RECORD_WRITE, EVPL_RECORD_DEVICE, EVPL_RECORD_DEVICE | EVPL_RECORD_WRITE,
	};
	struct evpl_record sent, got[2];

	for (int i = 0; i < ARRAY_SIZE(flags); i++) {
		sent = fill(&self->owner, 1, 'x');
		sent.flags = flags[i] | EVPL_RECORD_LANE;
		sent.cookie = 17;
		ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
		ASSERT_EQ(1, evpl_recv(self->ends[1], got, 1));
		EXPECT_EQ(flags[i] | EVPL_RECORD_LANE, got[0].flags);
		EXPECT_EQ(17, got[0].cookie);
		EXPECT_TRUE(is_filled_with(memory_of(&self->lessee, got), 'x', BUFFER));
		/* The lessee passes it on home, from its lease. */
		ASSERT_EQ(1, evpl_send(self->ends[1], got, 1));
		ASSERT_EQ(1, evpl_recv(self->ends[0], got + 1, 1));
		EXPECT_EQ(flags[i] | EVPL_RECORD_LANE, got[1].flags & ~EVPL_RECORD_HELD);
		EXPECT_EQ(EVPL_LEASE_NONE, got[1].lease);
		EXPECT_EQ(0, evpl_buffer_wait(self->owner.fd, BUFFER, 0));
	}

	/* The flag gives no right that a lease doesn't have. */
	sent.flags = EVPL_RECORD_LANE;
	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	ASSERT_EQ(1, evpl_recv(self->ends[1], got, 1));
	got[0].flags = EVPL_RECORD_LANE | EVPL_RECORD_WRITE;
	EXPECT_EQ(-EACCES, evpl_send(self->ends[1], got, 1));
	EXPECT_EQ(1, let_go(&self->lessee, got));
}

TEST_F(lane, record_of_a_lane_that_is_revoked_in_flight_says_so)
{
	struct evpl_record sent = fill(&self->owner, 1, 'x'), got;

	sent.flags = EVPL_RECORD_LANE;
	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	EXPECT_EQ(0, evpl_revoke(self->owner.fd, BUFFER));
	ASSERT_EQ(1, evpl_recv(self->ends[1], &got, 1));
	EXPECT_EQ(EVPL_RECORD_LANE | EVPL_RECORD_REVOKED, got.flags);
	EXPECT_EQ(0, got.offset);
}

/* The ends of a channel are bound with these flags, or with -1 not at all. */
static void try_record(struct __test_metadata *_metadata, struct pair *pair, const int flags[2],
		       int result)
{
	struct evpl_record both[2] = {
		fill(&pair->owner, 1, 'x'), fill(&pair->owner, 2, 'y'),
	}, got[2];
	struct client *const clients[] = { &pair->owner, &pair->lessee };
	int ends[2];

	ASSERT_EQ(0, evpl_channel(pair->owner.fd, 8, ends));
	for (int i = 0; i < 2; i++)
		if (flags[i] >= 0)
			ASSERT_EQ(0, evpl_bind_with(clients[i]->fd, ends[i], flags[i]));
	both[1].flags = EVPL_RECORD_LANE;
	EXPECT_EQ(result, evpl_send(ends[0], both, 2))
		TH_LOG("flags %d and %d", flags[0], flags[1]);
	if (result < 0) {
		EXPECT_EQ(1, get(&pair->owner.entries[1].word));
		EXPECT_EQ(1, get(&pair->owner.entries[2].word));
		EXPECT_EQ(0, read_counters().shares);
		EXPECT_EQ(0, read_counters().records);
		EXPECT_EQ(0, fdinfo(ends[1], "evpl-records-to-read"));
		/* The room that the write would have taken is still there. */
		both[1].flags = 0;
		EXPECT_EQ(flags[0] < 0 ? -ENOTCONN : 2, evpl_send(ends[0], both, 2));
	} else {
		EXPECT_EQ(2, evpl_recv(ends[1], got, 2));
	}
	close(ends[0]);
	close(ends[1]);
	for (int i = 0; i < 2 && result > 0; i++)
		EXPECT_EQ(1, let_go(&pair->lessee, &got[i]));
}

TEST_F(lane, record_of_a_lane_is_EOPNOTSUPP_unless_both_ends_are_of_a_lane)
{
	static const struct {
		int flags[2];
		int result;
	} cases[] = {
		{ { EVPL_BIND_LANE, EVPL_BIND_LANE }, 2 },
		{ { EVPL_BIND_LANE, 0 }, -EOPNOTSUPP },
		{ { EVPL_BIND_LANE, -1 }, -EOPNOTSUPP },
		{ { 0, EVPL_BIND_LANE }, -EOPNOTSUPP },
		{ { 0, 0 }, -EOPNOTSUPP },
		{ { 0, -1 }, -EOPNOTSUPP },
		{ { -1, EVPL_BIND_LANE }, -ENOTCONN },
	};

	for (int i = 0; i < ARRAY_SIZE(cases); i++)
		try_record(_metadata, &self->pair, cases[i].flags, cases[i].result);
}

TEST_F(lane, record_of_a_lane_to_an_end_that_is_closed_is_EPIPE)
{
	struct evpl_record sent = fill(&self->owner, 1, 'x');

	sent.flags = EVPL_RECORD_LANE;
	close(self->ends[1]);
	EXPECT_EQ(-EPIPE, evpl_send(self->ends[0], &sent, 1));
	EXPECT_EQ(1, get(&self->owner.entries[1].word));
	EXPECT_EQ(0, read_counters().shares);
}

TEST_F(lane, header_counts_what_happens_to_the_other_ends)
{
	uint64_t *owner = (uint64_t *)&self->owner.header->ends;
	uint64_t *lessee = (uint64_t *)&self->lessee.header->ends;
	int ends[2];

	/* The owner's end was bound first. */
	EXPECT_EQ(1, get(owner));
	EXPECT_EQ(0, get(lessee));

	ASSERT_EQ(0, evpl_channel(self->owner.fd, 8, ends));
	ASSERT_EQ(0, evpl_bind(self->owner.fd, ends[0]));
	EXPECT_EQ(1, get(owner));
	ASSERT_EQ(0, evpl_bind(self->lessee.fd, ends[1]));
	EXPECT_EQ(2, get(owner));
	EXPECT_EQ(-EBUSY, evpl_bind(self->lessee.fd, ends[1]));
	EXPECT_EQ(2, get(owner));
	close(ends[0]);
	EXPECT_EQ(1, get(lessee));
	EXPECT_EQ(2, get(owner));
	/* The other end of this one has no client any more. */
	close(ends[1]);
	EXPECT_EQ(2, get(owner));
	EXPECT_EQ(1, get(lessee));

	/* An end that closes before it was bound counts too. */
	ASSERT_EQ(0, evpl_channel(self->owner.fd, 8, ends));
	ASSERT_EQ(0, evpl_bind(self->owner.fd, ends[0]));
	close(ends[1]);
	EXPECT_EQ(3, get(owner));
	close(ends[0]);

	/* Each end of a client that goes counts once, and its file that goes later doesn't. */
	close_client(&self->lessee);
	EXPECT_EQ(4, get(owner));
	EXPECT_EQ(POLLIN | POLLHUP, events_of(self->ends[0]));
	close(self->ends[1]);
	EXPECT_EQ(4, get(owner));
}

TEST_F(lane, client_with_both_ends_counts_them_as_others)
{
	uint64_t *count = (uint64_t *)&self->owner.header->ends;
	uint64_t before = get(count);
	int ends[2];

	ASSERT_EQ(0, evpl_channel(self->owner.fd, 8, ends));
	ASSERT_EQ(0, evpl_bind(self->owner.fd, ends[0]));
	ASSERT_EQ(0, evpl_bind(self->owner.fd, ends[1]));
	EXPECT_EQ(before + 1, get(count));
	close(ends[1]);
	EXPECT_EQ(before + 2, get(count));
	close(ends[0]);
	EXPECT_EQ(before + 2, get(count));
}

TEST_HARNESS_MAIN
