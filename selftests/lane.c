// SPDX-License-Identifier: GPL-2.0-only
/*
 * The kernel's part of lanes: ends that are bound as a lane's, the records of their libraries,
 * the header's count of changes of the other ends, and the doorbell.
 */
#include <linux/time_types.h>
#include <sys/epoll.h>

#include "pair.h"
#include "ring.h"

enum {
	IN = EVPL_DOORBELL_IN, OUT = EVPL_DOORBELL_OUT, MEMORY = EVPL_DOORBELL_MEMORY,
};

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

TEST_F(lane, binding_tells_the_capacity)
{
	struct evpl_channel_bind bind = { .size = sizeof(bind), .out_capacity = 1 };
	int ends[2];

	ASSERT_EQ(0, evpl_channel(self->owner.fd, 77, ends));
	bind.fd = ends[0];
	EXPECT_EQ(-EINVAL, RESULT(ioctl(self->owner.fd, EVPL_CHANNEL_BIND, &bind)));
	bind.out_capacity = 0;
	EXPECT_EQ(0, RESULT(ioctl(self->owner.fd, EVPL_CHANNEL_BIND, &bind)));
	EXPECT_EQ(77, bind.out_capacity);
	close(ends[0]);
	close(ends[1]);
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

TEST_F(lane, end_that_is_rung_says_POLLIN_until_it_is_quiet)
{
	struct evpl_record sent = fill(&self->owner, 1, 'x'), got;

	EXPECT_EQ(POLLOUT, events_of(self->ends[1]));
	ASSERT_EQ(0, evpl_doorbell(self->ends[0], IN, 0));
	EXPECT_EQ(POLLIN | POLLOUT, events_of(self->ends[1]));
	EXPECT_EQ(POLLIN | POLLOUT, events_of(self->ends[1]));
	/* The end that has rung isn't rung itself, and its own quiet doesn't matter. */
	EXPECT_EQ(POLLOUT, events_of(self->ends[0]));
	ASSERT_EQ(0, evpl_doorbell(self->ends[0], 0, IN));
	EXPECT_EQ(POLLIN | POLLOUT, events_of(self->ends[1]));

	/* A read takes records, and nothing else. */
	EXPECT_EQ(-EAGAIN, evpl_recv(self->ends[1], &got, 1));
	EXPECT_EQ(POLLIN | POLLOUT, events_of(self->ends[1]));
	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	ASSERT_EQ(0, evpl_doorbell(self->ends[1], 0, IN));
	EXPECT_EQ(POLLIN | POLLOUT, events_of(self->ends[1]));
	ASSERT_EQ(1, evpl_recv(self->ends[1], &got, 1));
	EXPECT_EQ(POLLOUT, events_of(self->ends[1]));
	EXPECT_EQ(1, let_go(&self->lessee, &got));

	/* Rings don't add up. */
	ASSERT_EQ(0, evpl_doorbell(self->ends[0], IN, 0));
	ASSERT_EQ(0, evpl_doorbell(self->ends[0], IN, 0));
	ASSERT_EQ(0, evpl_doorbell(self->ends[1], 0, IN));
	EXPECT_EQ(POLLOUT, events_of(self->ends[1]));
	EXPECT_EQ(0, get(&self->lessee.header->returned));
}

TEST_F(lane, end_that_is_full_says_no_POLLOUT_until_it_is_rung)
{
	struct evpl_record sent = fill(&self->owner, 1, 'x'), got[8];

	ASSERT_EQ(0, evpl_doorbell(self->ends[0], 0, OUT));
	EXPECT_EQ(0, events_of(self->ends[0]));
	EXPECT_EQ(POLLOUT, events_of(self->ends[1]));
	/* Another ring doesn't change that, nor does this end's own. */
	ASSERT_EQ(0, evpl_doorbell(self->ends[1], IN, 0));
	EXPECT_EQ(POLLIN, events_of(self->ends[0]));
	ASSERT_EQ(0, evpl_doorbell(self->ends[0], OUT, IN));
	EXPECT_EQ(0, events_of(self->ends[0]));

	/* Records can be written all the same. */
	set_count(&self->owner.entries[1].word, 8);
	for (int i = 0; i < 8; i++)
		ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	ASSERT_EQ(0, evpl_doorbell(self->ends[1], OUT, 0));
	EXPECT_EQ(0, events_of(self->ends[0])) {
		TH_LOG("the channel has no room");
	}
	ASSERT_EQ(0, evpl_doorbell(self->ends[0], 0, OUT));
	ASSERT_EQ(8, evpl_recv(self->ends[1], got, 8));
	EXPECT_EQ(0, events_of(self->ends[0]));
	ASSERT_EQ(0, evpl_doorbell(self->ends[1], OUT, 0));
	EXPECT_EQ(POLLOUT, events_of(self->ends[0]));
	set(&self->lessee.leases[got[0].lease].word, 1);
	EXPECT_EQ(1, let_go(&self->lessee, got));
}

TEST_F(lane, call_is_quiet_for_its_own_end_and_rings_the_other)
{
	ASSERT_EQ(0, evpl_doorbell(self->ends[1], IN, 0));
	ASSERT_EQ(0, evpl_doorbell(self->ends[1], 0, OUT));
	EXPECT_EQ(POLLIN | POLLOUT, events_of(self->ends[0]));
	EXPECT_EQ(0, events_of(self->ends[1]));
	ASSERT_EQ(0, evpl_doorbell(self->ends[0], IN | OUT, IN | OUT));
	EXPECT_EQ(0, events_of(self->ends[0]));
	EXPECT_EQ(POLLIN | POLLOUT, events_of(self->ends[1]));
	/* A call that asks for nothing does nothing. */
	ASSERT_EQ(0, evpl_doorbell(self->ends[0], 0, 0));
	EXPECT_EQ(0, events_of(self->ends[0]));
	EXPECT_EQ(POLLIN | POLLOUT, events_of(self->ends[1]));
}

/* The events of a descriptor that have come since the last call (epoll(7), edge-triggered). */
static uint32_t edges(int epoll)
{
	struct epoll_event event = { .events = 0 };

	return epoll_wait(epoll, &event, 1, 0) < 0 ? ~0U : event.events;
}

static int watch(struct __test_metadata *_metadata, int fd, uint32_t events)
{
	struct epoll_event event = { .events = events };
	int epoll = epoll_create1(EPOLL_CLOEXEC);

	ASSERT_GE(epoll, 0);
	ASSERT_EQ(0, epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
	return epoll;
}

TEST_F(lane, call_takes_back_what_is_quiet_of_its_own_end)
{
	struct evpl_doorbell self_in = {
		.size = sizeof(self_in),
		.flags = EVPL_DOORBELL_SELF,
		.ring = EVPL_DOORBELL_IN | EVPL_DOORBELL_OUT,
	};

	ASSERT_EQ(0, evpl_doorbell(self->ends[0], 0, EVPL_DOORBELL_OUT));
	EXPECT_EQ(0, events_of(self->ends[0]));
	EXPECT_EQ(0, RESULT(ioctl(self->ends[0], EVPL_DOORBELL, &self_in)));
	EXPECT_EQ(POLLIN | POLLOUT, events_of(self->ends[0]));
	EXPECT_EQ(POLLOUT, events_of(self->ends[1]));
	/* Also when nobody is at the other end any more. */
	ASSERT_EQ(0, evpl_doorbell(self->ends[0], 0, EVPL_DOORBELL_IN));
	close(self->ends[1]);
	self->ends[1] = -1;
	EXPECT_EQ(0, RESULT(ioctl(self->ends[0], EVPL_DOORBELL, &self_in)));
}

TEST_F(lane, each_ring_is_an_edge_and_a_level_until_it_is_quiet)
{
	int edge = watch(_metadata, self->ends[1], EPOLLIN | EPOLLOUT | EPOLLET);
	int level = watch(_metadata, self->ends[1], EPOLLIN);

	EXPECT_EQ(EPOLLOUT, edges(edge));
	EXPECT_EQ(0, edges(edge));
	EXPECT_EQ(0, edges(level));
	for (int i = 0; i < 2; i++) {
		ASSERT_EQ(0, evpl_doorbell(self->ends[0], IN, 0));
		EXPECT_EQ(EPOLLIN | EPOLLOUT, edges(edge));
		EXPECT_EQ(0, edges(edge));
		EXPECT_EQ(EPOLLIN, edges(level));
		EXPECT_EQ(EPOLLIN, edges(level));
	}
	ASSERT_EQ(0, evpl_doorbell(self->ends[1], 0, IN));
	EXPECT_EQ(0, edges(edge));
	EXPECT_EQ(0, edges(level));

	/* A ring that the end has been quiet about before anybody looked is no event. */
	ASSERT_EQ(0, evpl_doorbell(self->ends[0], IN, 0));
	ASSERT_EQ(0, evpl_doorbell(self->ends[1], 0, IN));
	EXPECT_EQ(EPOLLOUT, edges(edge));
	EXPECT_EQ(0, edges(level));

	/* OUT is an edge if the end was full, and else nothing. */
	ASSERT_EQ(0, evpl_doorbell(self->ends[0], OUT, 0));
	EXPECT_EQ(0, edges(edge));
	ASSERT_EQ(0, evpl_doorbell(self->ends[1], 0, OUT));
	EXPECT_EQ(0, edges(edge));
	ASSERT_EQ(0, evpl_doorbell(self->ends[0], OUT, 0));
	EXPECT_EQ(EPOLLOUT, edges(edge));
	EXPECT_EQ(0, edges(edge));
	close(edge);
	close(level);
}

TEST_F(lane, ring_that_comes_before_the_poll_is_not_lost)
{
	struct pollfd in = { .fd = self->ends[1], .events = POLLIN };
	int edge;

	ASSERT_EQ(0, evpl_doorbell(self->ends[1], 0, IN));
	ASSERT_EQ(0, evpl_doorbell(self->ends[0], IN, 0));
	EXPECT_EQ(1, poll(&in, 1, LIMIT * 1000));
	EXPECT_EQ(POLLIN, in.revents);
	edge = watch(_metadata, self->ends[1], EPOLLIN | EPOLLET);
	EXPECT_EQ(EPOLLIN, edges(edge));
	EXPECT_EQ(0, edges(edge));
	close(edge);
}

TEST_F(lane, ring_wakes_tasks_that_sleep_in_poll)
{
	static const struct {
		uint32_t ring;
		short events;
	} cases[] = { { IN, POLLIN }, { OUT, POLLOUT } };
	struct pollfd poll_fd = { .fd = self->ends[1] };
	pid_t child;

	ASSERT_EQ(0, evpl_doorbell(self->ends[1], 0, OUT));
	for (int i = 0; i < ARRAY_SIZE(cases); i++) {
		poll_fd.events = cases[i].events;
		child = fork_child();
		if (!child)
			_exit(poll(&poll_fd, 1, -1) != 1 || poll_fd.revents != poll_fd.events);
		ASSERT_TRUE(sleeps_in(child, SYS_poll));
		ASSERT_EQ(0, evpl_doorbell(self->ends[0], cases[i].ring, 0));
		EXPECT_EQ(0, reap(child));
	}
}

/* The ring submits a poll for POLLIN, or POLLOUT. */
static int submit_poll(struct ring *ring, int end, short events)
{
	return ring_submit(ring, &(struct io_uring_sqe){
		.opcode = IORING_OP_POLL_ADD,
		.fd = end,
		.poll32_events = events,
	});
}

TEST_F(lane, ring_of_io_uring_polls_an_end)
{
	struct ring ring;

	ASSERT_TRUE(ring_open(&ring));
	ASSERT_EQ(0, evpl_doorbell(self->ends[1], 0, OUT));
	for (int i = 0; i < 2; i++) {
		ASSERT_EQ(0, submit_poll(&ring, self->ends[1], POLLIN));
		EXPECT_FALSE(ring_has_result(&ring));
		ASSERT_EQ(0, evpl_doorbell(self->ends[0], IN, 0));
		EXPECT_EQ(POLLIN, ring_wait(&ring));
		/* A poll that comes late finds the ring. */
		ASSERT_EQ(0, submit_poll(&ring, self->ends[1], POLLIN));
		EXPECT_EQ(POLLIN, ring_wait(&ring));
		ASSERT_EQ(0, evpl_doorbell(self->ends[1], 0, IN));
	}
	ASSERT_EQ(0, submit_poll(&ring, self->ends[1], POLLOUT));
	EXPECT_FALSE(ring_has_result(&ring));
	ASSERT_EQ(0, evpl_doorbell(self->ends[0], OUT, 0));
	EXPECT_EQ(POLLOUT, ring_wait(&ring));
	ring_close(&ring);
}

TEST_F(lane, ring_for_memory_wakes_the_other_client_and_names_no_buffer)
{
	int client = watch(_metadata, self->lessee.fd, EPOLLIN | EPOLLET);
	int owner = watch(_metadata, self->owner.fd, EPOLLIN | EPOLLET);
	int end = watch(_metadata, self->ends[1], EPOLLIN | EPOLLOUT | EPOLLET);

	EXPECT_EQ(EPOLLOUT, edges(end));
	EXPECT_EQ(0, get(&self->lessee.header->returned));
	for (int i = 0; i < 2; i++) {
		/* The client has sent nothing, so its bitmap has no page yet. */
		EXPECT_EQ(SIGBUS, touch_read(self->lessee.returned));
		ASSERT_EQ(0, evpl_doorbell(self->ends[0], MEMORY, 0));
		EXPECT_EQ(POLLIN, events_of(self->lessee.fd));
		EXPECT_EQ(EPOLLIN, edges(client));
		EXPECT_EQ(0, edges(client));
		EXPECT_EQ(1, __atomic_exchange_n(&self->lessee.header->returned, 0,
						 __ATOMIC_ACQUIRE));
		EXPECT_EQ(0, events_of(self->lessee.fd));
	}
	EXPECT_EQ(0, edges(end));
	EXPECT_EQ(POLLOUT, events_of(self->ends[1]));
	EXPECT_EQ(0, edges(owner));
	EXPECT_EQ(0, get(&self->owner.header->returned));
	close(client);
	close(owner);
	close(end);
}

TEST_F(lane, unknown_bit_is_EOPNOTSUPP_and_changes_nothing)
{
	for (int bit = 0; bit < 32; bit++) {
		if (bit > 2)
			EXPECT_EQ(-EOPNOTSUPP, evpl_doorbell(self->ends[0], IN | 1U << bit, OUT));
		if (bit > 1)
			EXPECT_EQ(-EOPNOTSUPP, evpl_doorbell(self->ends[0], IN, OUT | 1U << bit));
		EXPECT_EQ(POLLOUT, events_of(self->ends[0]));
		EXPECT_EQ(POLLOUT, events_of(self->ends[1]));
	}
}

/* A doorbell between ends that are bound with these flags, or with -1 not at all. */
static void try_doorbell(struct __test_metadata *_metadata, struct pair *pair, const int flags[2],
			 int result)
{
	struct client *const clients[] = { &pair->owner, &pair->lessee };
	int ends[2];

	ASSERT_EQ(0, evpl_channel(pair->owner.fd, 8, ends));
	for (int i = 0; i < 2; i++)
		if (flags[i] >= 0)
			ASSERT_EQ(0, evpl_bind_with(clients[i]->fd, ends[i], flags[i]));
	EXPECT_EQ(result, evpl_doorbell(ends[0], IN | MEMORY, OUT))
		TH_LOG("flags %d and %d", flags[0], flags[1]);
	/* The other end's not being bound yet is the only failure here that leaves quiet done. */
	EXPECT_EQ(flags[0] == EVPL_BIND_LANE && result != -EOPNOTSUPP ? 0 : POLLOUT,
		  events_of(ends[0]));
	EXPECT_EQ(result ? POLLOUT : POLLIN | POLLOUT, events_of(ends[1]));
	EXPECT_EQ(result ? 0 : 1, __atomic_exchange_n(&pair->lessee.header->returned, 0,
						      __ATOMIC_ACQUIRE));
	/* A ring isn't kept for an end that is bound later. */
	if (flags[1] < 0) {
		ASSERT_EQ(0, evpl_bind_with(pair->lessee.fd, ends[1], EVPL_BIND_LANE));
		EXPECT_EQ(POLLOUT, events_of(ends[1]));
		EXPECT_EQ(0, get(&pair->lessee.header->returned));
	}
	close(ends[0]);
	close(ends[1]);
}

TEST_F(lane, doorbell_needs_both_ends_to_be_of_a_lane)
{
	static const struct {
		int flags[2];
		int result;
	} cases[] = {
		{ { EVPL_BIND_LANE, EVPL_BIND_LANE }, 0 },
		{ { EVPL_BIND_LANE, 0 }, -EOPNOTSUPP },
		{ { EVPL_BIND_LANE, -1 }, -ENOTCONN },
		{ { 0, EVPL_BIND_LANE }, -EOPNOTSUPP },
		{ { 0, 0 }, -EOPNOTSUPP },
		{ { 0, -1 }, -EOPNOTSUPP },
		{ { -1, EVPL_BIND_LANE }, -ENOTCONN },
		{ { -1, 0 }, -ENOTCONN },
		{ { -1, -1 }, -ENOTCONN },
	};

	for (int i = 0; i < ARRAY_SIZE(cases); i++)
		try_doorbell(_metadata, &self->pair, cases[i].flags, cases[i].result);
}

TEST_F(lane, end_is_quiet_before_its_peer_is_bound_and_after_it_is_closed)
{
	int ends[2];

	ASSERT_EQ(0, evpl_channel(self->owner.fd, 8, ends));
	ASSERT_EQ(0, evpl_bind_with(self->owner.fd, ends[0], EVPL_BIND_LANE));
	EXPECT_EQ(0, evpl_doorbell(ends[0], 0, OUT));
	EXPECT_EQ(0, events_of(ends[0]));
	ASSERT_EQ(0, evpl_bind_with(self->lessee.fd, ends[1], EVPL_BIND_LANE));
	ASSERT_EQ(0, evpl_doorbell(ends[1], IN | OUT, 0));
	EXPECT_EQ(POLLIN | POLLOUT, events_of(ends[0]));

	/* The other end is closed: its ring stays, POLLIN and POLLHUP are there for good. */
	close(ends[1]);
	EXPECT_EQ(POLLIN | POLLHUP, events_of(ends[0]));
	EXPECT_EQ(0, evpl_doorbell(ends[0], 0, IN));
	EXPECT_EQ(POLLIN | POLLHUP, events_of(ends[0]));
	EXPECT_EQ(-EPIPE, evpl_doorbell(ends[0], IN, 0));
	EXPECT_EQ(-EPIPE, evpl_doorbell(ends[0], OUT, 0));
	EXPECT_EQ(-EPIPE, evpl_doorbell(ends[0], MEMORY, 0));
	EXPECT_EQ(-EOPNOTSUPP, evpl_doorbell(ends[0], 8, 0));
	EXPECT_EQ(0, get(&self->lessee.header->returned));
	close(ends[0]);
}

TEST_F(lane, doorbell_of_an_end_whose_client_has_gone_is_ENOTCONN)
{
	close_client(&self->lessee);
	EXPECT_EQ(-ENOTCONN, evpl_doorbell(self->ends[1], 0, 0));
	EXPECT_EQ(-ENOTCONN, evpl_doorbell(self->ends[1], IN, OUT));
	EXPECT_EQ(POLLIN | POLLHUP, events_of(self->ends[0]));
	EXPECT_EQ(-EPIPE, evpl_doorbell(self->ends[0], IN, 0));
	EXPECT_EQ(0, evpl_doorbell(self->ends[0], 0, IN | OUT));
	EXPECT_EQ(0, get(&self->owner.header->returned));
}

TEST_HARNESS_MAIN
