// SPDX-License-Identifier: GPL-2.0-only
/*
 * The kernel's part of lanes: ends that are bound as a lane's, the records of their libraries,
 * the header's count of changes of the other ends, the doorbell, and the order of a death.
 */
#include <sched.h>
#include <sys/epoll.h>
#include <time.h>

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
			_exit(ppoll(&poll_fd, 1, NULL, NULL) != 1 || poll_fd.revents != poll_fd.events);
		ASSERT_TRUE(sleeps_in(child, SYS_ppoll));
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

TEST_F(lane, client_of_the_other_end_is_told_of_memory_when_an_end_is_closed)
{
	int client = watch(_metadata, self->owner.fd, EPOLLIN | EPOLLET), ends[2];

	ASSERT_EQ(0, evpl_channel(self->owner.fd, 8, ends));
	ASSERT_EQ(0, evpl_bind(self->owner.fd, ends[0]));
	ASSERT_EQ(0, evpl_bind(self->lessee.fd, ends[1]));
	close(ends[1]);
	/* A channel's client has nothing to get back that the kernel wouldn't report. */
	EXPECT_EQ(0, edges(client));
	close(ends[0]);

	close(self->ends[1]);
	self->ends[1] = -1;
	EXPECT_EQ(EPOLLIN, edges(client));
	EXPECT_EQ(1, __atomic_exchange_n(&self->owner.header->returned, 0, __ATOMIC_ACQUIRE));
	EXPECT_EQ(POLLIN | POLLHUP, events_of(self->ends[0]));
	EXPECT_EQ(0, get(&self->lessee.header->returned));
	close(client);
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
	/* The end of a lane is told as well. */
	__atomic_store_n(&pair->lessee.header->returned, 0, __ATOMIC_RELAXED);
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
	/* The owner was told that its peer has gone. */
	EXPECT_EQ(1, __atomic_exchange_n(&self->owner.header->returned, 0, __ATOMIC_ACQUIRE));
	EXPECT_EQ(-ENOTCONN, evpl_doorbell(self->ends[1], 0, 0));
	EXPECT_EQ(-ENOTCONN, evpl_doorbell(self->ends[1], IN, OUT));
	EXPECT_EQ(POLLIN | POLLHUP, events_of(self->ends[0]));
	EXPECT_EQ(-EPIPE, evpl_doorbell(self->ends[0], IN, 0));
	EXPECT_EQ(0, evpl_doorbell(self->ends[0], 0, IN | OUT));
	EXPECT_EQ(0, get(&self->owner.header->returned));
}

/*
 * An owner has sent all of its buffers over a lane, and a peer has read the first half of them. The
 * buffers are many, so it takes a while until nothing of the peer is left.
 */
#define SENT	(4 * SLAB_2M)
#define NR_SENT	(SENT / PAGE)

FIXTURE(death)
{
	struct counters before;
	int owner;
	struct evpl_entry *entries;
	size_t entries_size;
	struct evpl_header *header;
	size_t header_size;
	int ends[2];		/* the owner's, and the peer's */
	int peer;		/* a socket to the process that is the peer */
	pid_t pid;
};

/* The ways in which the owner can learn that its peer has gone. */
FIXTURE_VARIANT(death)
{
	int (*learn)(struct _test_data_death *self);
};

FIXTURE_SETUP(death)
{
	struct evpl_record *records = calloc(NR_SENT, sizeof(*records));
	struct evpl_setup setup;
	uint64_t offset;

	limit_sleeps();
	self->before = read_counters();
	self->owner = open(DEVICE, O_RDWR | O_CLOEXEC);
	ASSERT_EQ(0, evpl_setup(self->owner, PAGE, &setup));
	ASSERT_EQ(0, evpl_slab_alloc(self->owner, SENT, &offset));
	ASSERT_EQ(0, evpl_channel(self->owner, 2 * NR_SENT, self->ends));
	ASSERT_EQ(0, evpl_bind_with(self->owner, self->ends[0], EVPL_BIND_LANE));
	self->entries_size = (NR_SENT * sizeof(*self->entries) + PAGE - 1) & -PAGE;
	self->entries = evpl_map(self->owner, self->entries_size, setup.out_refs_offset);
	ASSERT_NE(MAP_FAILED, self->entries);
	self->header_size = setup.out_header_size;
	self->header = evpl_map(self->owner, self->header_size, setup.out_header_offset);
	ASSERT_NE(MAP_FAILED, self->header);
	for (int i = 0; i < NR_SENT; i++) {
		self->entries[i].word = 1;
		records[i] = (struct evpl_record){ .offset = i * PAGE, .length = PAGE };
	}
	ASSERT_EQ(NR_SENT, evpl_send(self->ends[0], records, NR_SENT));
	free(records);
}

static int kill_peer(struct _test_data_death *self)
{
	kill(self->pid, SIGKILL);
	return reap(self->pid);
}

FIXTURE_TEARDOWN(death)
{
	if (self->pid)
		kill_peer(self);
	munmap(self->entries, self->entries_size);
	munmap(self->header, self->header_size);
	close(self->ends[0]);
	close(self->ends[1]);
	close(self->owner);
	close(self->peer);
	EXPECT_TRUE(counters_return_to(self->before));
}

static unsigned int nr_shared(struct _test_data_death *self)
{
	unsigned int nr = 0;

	for (int i = 0; i < NR_SENT; i++)
		nr += !!(get(&self->entries[i].word) & EVPL_WORD_SHARED);
	return nr;
}

/* Move a descriptor above those that are in use. */
static int move_up(int fd)
{
	int above = fcntl(fd, F_DUPFD_CLOEXEC, 100);

	close(fd);
	return above;
}

/* The peer, with its end at a descriptor below its client's, or above. */
static int be_peer(struct _test_data_death *self, int socket, bool end_is_above)
{
	static struct evpl_record got[NR_SENT / 2];
	struct evpl_setup setup;
	int end = self->ends[1], client;
	char *guest;

	close(self->owner);
	close(self->ends[0]);
	client = open(DEVICE, O_RDWR | O_CLOEXEC);
	if (end_is_above)
		end = move_up(end);
	else
		client = move_up(client);
	if (evpl_setup(client, 0, &setup) || evpl_bind_with(client, end, EVPL_BIND_LANE) ||
	    evpl_recv(end, got, NR_SENT / 2) != NR_SENT / 2)
		return 1;
	guest = map(client, setup.out_guest_size, setup.out_guest_ro_offset, PROT_READ);
	for (int i = 0; i < NR_SENT / 2; i++)
		if (!guest || touch_read(guest + got[i].offset - setup.out_guest_ro_offset))
			return 2;
	if ((client < end) != end_is_above || send_fd(socket, 0, client))
		return 3;
	for (;;)
		pause();
}

/* Start the peer, and wait until it has read what it will. */
static void start_peer(struct __test_metadata *_metadata, struct _test_data_death *self,
		       bool end_is_above)
{
	int sockets[2];

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, sockets));
	self->pid = fork_child();
	if (!self->pid) {
		close(sockets[0]);
		_exit(be_peer(self, sockets[1], end_is_above));
	}
	close(sockets[1]);
	self->peer = sockets[0];
}

/* Wait for the peer's byte, and return the client that came with it. */
static int client_of_peer(struct __test_metadata *_metadata, struct _test_data_death *self)
{
	char byte;
	int client = recv_fd(self->peer, &byte, 0);

	EXPECT_LE(0, client);
	EXPECT_EQ(NR_SENT, nr_shared(self));
	EXPECT_EQ(NR_SENT / 2, read_counters().leases);
	return client;
}

static int learn_by_poll(struct _test_data_death *self)
{
	struct pollfd end = { .fd = self->ends[0] };

	return poll(&end, 1, LIMIT * 1000) == 1 && end.revents == POLLHUP ? 0 : -EIO;
}

static int learn_by_read(struct _test_data_death *self)
{
	struct evpl_record got;

	return evpl_recv(self->ends[0], &got, 1);
}

static int learn_by_write(struct _test_data_death *self)
{
	struct evpl_record sent = { .length = PAGE };
	int ret;

	/* The writes fill the channel, then sleep. */
	set_count(&self->entries[0].word, 4 * NR_SENT);
	while ((ret = evpl_send(self->ends[0], &sent, 1)) == 1)
		;
	return ret == -EPIPE ? 0 : ret;
}

static int learn_by_doorbell(struct _test_data_death *self)
{
	int ret;

	while (!(ret = evpl_doorbell(self->ends[0], IN, 0)))
		sched_yield();
	return ret == -EPIPE ? 0 : ret;
}

static int learn_by_memory(struct _test_data_death *self)
{
	/* It was 1 when the peer had bound its end. */
	for (time_t end = time(NULL) + LIMIT; get(&self->header->ends) < 2; sched_yield())
		if (time(NULL) > end)
			return -ETIME;
	return 0;
}

FIXTURE_VARIANT_ADD(death, by_poll) { .learn = learn_by_poll };
FIXTURE_VARIANT_ADD(death, by_read) { .learn = learn_by_read };
FIXTURE_VARIANT_ADD(death, by_write) { .learn = learn_by_write };
FIXTURE_VARIANT_ADD(death, by_doorbell) { .learn = learn_by_doorbell };
FIXTURE_VARIANT_ADD(death, by_memory) { .learn = learn_by_memory };

/* The owner learns that the peer has gone. Return how many buffers the peer has a part in then. */
static unsigned int nr_shared_at_the_end(struct __test_metadata *_metadata,
					 struct _test_data_death *self,
					 int (*learn)(struct _test_data_death *self))
{
	unsigned int nr;

	kill(self->pid, SIGKILL);
	EXPECT_EQ(0, learn(self));
	nr = nr_shared(self);
	EXPECT_EQ(-SIGKILL, reap(self->pid));
	self->pid = 0;
	EXPECT_EQ(POLLIN | POLLHUP, events_of(self->ends[0]));
	EXPECT_EQ(2, get(&self->header->ends));
	EXPECT_EQ(0, read_counters().records);
	return nr;
}

TEST_F(death, leaves_nothing_when_the_client_has_the_higher_descriptor)
{
	start_peer(_metadata, self, false);
	close(self->ends[1]);
	self->ends[1] = -1;
	close(client_of_peer(_metadata, self));
	EXPECT_EQ(0, nr_shared_at_the_end(_metadata, self, variant->learn));
}

TEST_F(death, leaves_nothing_when_the_end_has_the_higher_descriptor)
{
	start_peer(_metadata, self, true);
	close(self->ends[1]);
	self->ends[1] = -1;
	close(client_of_peer(_metadata, self));
	EXPECT_EQ(0, nr_shared_at_the_end(_metadata, self, variant->learn));
	EXPECT_EQ(0, read_counters().leases);
}

TEST_F(death, leaves_nothing_when_another_process_has_the_end_too)
{
	struct evpl_record got;

	start_peer(_metadata, self, true);
	close(client_of_peer(_metadata, self));
	EXPECT_EQ(0, nr_shared_at_the_end(_metadata, self, variant->learn));
	EXPECT_EQ(-ENOTCONN, evpl_recv(self->ends[1], &got, 1));
}

TEST_F(death, of_a_peer_whose_client_lives_on_is_told_at_once_and_ends_no_lease)
{
	int client;

	start_peer(_metadata, self, true);
	close(self->ends[1]);
	self->ends[1] = -1;
	client = client_of_peer(_metadata, self);
	EXPECT_EQ(NR_SENT / 2, nr_shared_at_the_end(_metadata, self, variant->learn));
	EXPECT_EQ(NR_SENT / 2, read_counters().leases);
	close(client);
	EXPECT_EQ(0, nr_shared(self));
	EXPECT_EQ(0, read_counters().leases);
}

TEST_HARNESS_MAIN
