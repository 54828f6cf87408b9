// SPDX-License-Identifier: GPL-2.0-only
/*
 * Channels: which records arrive, every errno of read and write, how much a channel holds, and
 * the ends of its ends. Waiting is in channel_wait.c, leases are in lease.c and share.c.
 */
#include <sys/socket.h>

#include "pair.h"

/* NULL, without the compiler knowing. */
static void *volatile nowhere;

FIXTURE(channel)
{
	PAIR;
};

FIXTURE_SETUP(channel)
{
	open_nonblocking_pair(_metadata, &self->pair, 0);
}

FIXTURE_TEARDOWN(channel)
{
	close_pair(&self->pair);
	EXPECT_TRUE(counters_return_to(self->before));
}

TEST_F(channel, what_an_end_has_not_read_is_given_back_when_it_closes)
{
	struct evpl_record sent[2] = {
		fill(&self->owner, 1, 'x'), fill(&self->owner, 2, 'y'),
	};
	struct evpl_record got;

	ASSERT_EQ(2, evpl_send(self->ends[0], sent, 2));
	EXPECT_EQ(EVPL_WORD_SHARED, get(&self->owner.entries[1].word));
	close(self->ends[1]);
	EXPECT_EQ(0, get(&self->owner.entries[1].word));
	EXPECT_EQ(0, get(&self->owner.entries[2].word));
	EXPECT_EQ(0, read_counters().records);
	EXPECT_EQ(POLLIN | POLLHUP, events_of(self->ends[0]));
	EXPECT_EQ(-EPIPE, evpl_send(self->ends[0], sent, 1));
	EXPECT_EQ(0, evpl_recv(self->ends[0], &got, 1));
}

TEST_F(channel, what_an_end_has_sent_stays_readable_when_it_closes)
{
	struct evpl_record sent = fill(&self->owner, 1, 'x'), got;

	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	close(self->ends[0]);
	EXPECT_EQ(POLLIN | POLLHUP, events_of(self->ends[1]));
	ASSERT_EQ(1, evpl_recv(self->ends[1], &got, 1));
	EXPECT_TRUE(is_filled_with(memory_of(&self->lessee, &got), 'x', BUFFER));
	EXPECT_EQ(0, evpl_recv(self->ends[1], &got, 1));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
}

TEST_F(channel, end_closes_with_its_client)
{
	struct evpl_record sent = fill(&self->owner, 1, 'x'), got;

	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	close_client(&self->lessee);
	EXPECT_EQ(0, get(&self->owner.entries[1].word));
	EXPECT_EQ(-ENOTCONN, evpl_recv(self->ends[1], &got, 1));
	EXPECT_EQ(-ENOTCONN, evpl_send(self->ends[1], &sent, 1));
	EXPECT_EQ(-EPIPE, evpl_send(self->ends[0], &sent, 1));
	EXPECT_EQ(-EBUSY, evpl_bind(self->owner.fd, self->ends[1]));
	EXPECT_EQ(0, get(&self->owner.entries[1].word));
}

TEST_F(channel, each_bad_record_has_its_errno_and_moves_nothing)
{
	struct evpl_record good = fill(&self->owner, 1, 'x'), got, bad;
	const struct {
		int error;
		struct evpl_record record;
	} cases[] = {
		{ -ENOENT, { .offset = SLAB, .length = 1 } },
		{ -ENOENT, { .offset = 1ULL << 63, .length = 1 } },
		{ -ENOENT, { .offset = self->owner.setup.out_refs_offset, .length = 1 } },
		{ -ENOENT, { .offset = self->owner.setup.out_guest_offset, .length = 1 } },
		{ -ENOENT, { .offset = self->owner.setup.out_guest_ro_offset +
			     self->owner.setup.out_guest_size - 1, .length = 1 } },
		{ -ENOENT, { .offset = self->owner.setup.out_guest_io_offset, .length = 1 } },
		{ -ENOENT, { .offset = self->owner.setup.out_guest_io_ro_offset +
			     self->owner.setup.out_guest_size, .length = 1 } },
		{ -EINVAL, { .offset = BUFFER, .length = 0 } },
		{ -EINVAL, { .offset = BUFFER, .length = BUFFER + 1 } },
		{ -EINVAL, { .offset = BUFFER + 1, .length = BUFFER } },
		{ -EINVAL, { .offset = BUFFER, .length = ~0U } },
		{ -EOPNOTSUPP, { .offset = BUFFER, .length = 1, .flags = EVPL_RECORD_REVOKED } },
		{ -EOPNOTSUPP, { .offset = BUFFER, .length = 1, .flags = 1U << 31 } },
		{ -ESTALE, { .offset = 2 * BUFFER, .length = 1 } },
	};
	struct evpl_record both[2];

	set_count(&self->owner.entries[1].word, 5);
	for (int i = 0; i < ARRAY_SIZE(cases); i++) {
		both[0] = good;
		both[1] = cases[i].record;
		EXPECT_EQ(cases[i].error, evpl_send(self->ends[0], both, 2))
			TH_LOG("case %d", i);
		EXPECT_EQ(5, get(&self->owner.entries[1].word));
		EXPECT_EQ(0, get(&self->owner.entries[2].word));
		EXPECT_EQ(0, read_counters().shares);
		EXPECT_EQ(0, read_counters().records);
	}

	/* The errnos are the same for a lease, and it can't give rights that it doesn't have. */
	ASSERT_EQ(1, evpl_send(self->ends[0], &good, 1));
	ASSERT_EQ(1, evpl_recv(self->ends[1], &got, 1));
	bad = got;
	bad.flags = EVPL_RECORD_WRITE;
	EXPECT_EQ(-EACCES, evpl_send(self->ends[1], &bad, 1));
	bad = got;
	bad.length++;
	EXPECT_EQ(-EINVAL, evpl_send(self->ends[1], &bad, 1));
	both[0] = both[1] = got;
	EXPECT_EQ(-ESTALE, evpl_send(self->ends[1], both, 2));
	EXPECT_EQ(1, get(&self->lessee.leases[got.lease].word));
	EXPECT_EQ(1, read_counters().leases);
	EXPECT_EQ(0, touch_read(memory_of(&self->lessee, &got)));

	EXPECT_EQ(-EINVAL, RESULT(write(self->ends[0], &good, sizeof(good) - 1)));
	EXPECT_EQ(-EINVAL, RESULT(write(self->ends[0], both, sizeof(good) + 1)));
	EXPECT_EQ(0, write(self->ends[0], &good, 0));
	EXPECT_EQ(-EFAULT, RESULT(write(self->ends[0], nowhere, sizeof(good))));
	EXPECT_EQ(-EINVAL, RESULT(read(self->ends[1], &got, sizeof(got) - 1)));
	EXPECT_EQ(EVPL_WORD_SHARED | 4, get(&self->owner.entries[1].word));
}

TEST_F(channel, client_that_only_reads_passes_no_right_to_write_on)
{
	struct evpl_record sent = fill(&self->owner, 1, 'x'), got;
	int ends[2], fd = open(DEVICE, O_RDONLY | O_CLOEXEC);
	struct evpl_setup setup;
	uint64_t offset;

	ASSERT_EQ(0, evpl_setup(fd, 0, &setup));
	ASSERT_EQ(0, evpl_channel(fd, 0, ends));
	ASSERT_EQ(0, evpl_bind(self->owner.fd, ends[0]));
	ASSERT_EQ(0, evpl_bind(fd, ends[1]));
	sent.flags = EVPL_RECORD_WRITE;
	ASSERT_EQ(1, evpl_send(ends[0], &sent, 1));
	ASSERT_EQ(1, evpl_recv(ends[1], &got, 1));
	EXPECT_EQ(MAP_FAILED, mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED,
				   fd, got.offset));
	EXPECT_EQ(EACCES, errno);
	EXPECT_EQ(-EACCES, evpl_send(ends[1], &got, 1));
	got.flags = 0;
	EXPECT_EQ(1, evpl_send(ends[1], &got, 1));
	/* The client can't pass on a right to write to its own memory either. */
	ASSERT_EQ(0, evpl_slab_alloc(fd, SLAB_2M, &offset));
	sent.offset = offset;
	EXPECT_EQ(-EACCES, evpl_send(ends[1], &sent, 1));
	close(ends[0]);
	close(ends[1]);
	close(fd);
	EXPECT_EQ(0, get(&self->owner.entries[1].word));
}

TEST_F(channel, record_that_can_not_be_copied_out_stays)
{
	struct evpl_record sent = fill(&self->owner, 1, 'x'), got;

	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	EXPECT_EQ(-EFAULT, evpl_recv(self->ends[1], nowhere, 1));
	EXPECT_EQ(1, read_counters().records);
	EXPECT_EQ(0, read_counters().leases);
	ASSERT_EQ(1, evpl_recv(self->ends[1], &got, 1));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
}

TEST_F(channel, record_may_lie_where_a_stack_is_yet_to_grow)
{
	/* Leave a hole below the stack that is larger than the kernel's stack guard gap. */
	const size_t hole = 16 << 20;
	char *low = mmap(NULL, hole + PAGE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct evpl_record sent = fill(&self->owner, 1, 'x'), *got;

	ASSERT_NE(MAP_FAILED, low);
	ASSERT_EQ(0, munmap(low, hole + PAGE));
	ASSERT_EQ(low + hole, mmap(low + hole, PAGE, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED,
				   -1, 0));
	low[hole] = 0;
	got = (struct evpl_record *)(low + hole) - 1;
	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	ASSERT_EQ(1, evpl_recv(self->ends[1], got, 1));
	EXPECT_EQ(BUFFER, got->length);
	EXPECT_EQ(1, let_go(&self->lessee, got));
	munmap(low + hole - PAGE, 2 * PAGE);
}

TEST_F(channel, record_of_ones_own_that_can_not_be_copied_out_stays)
{
	struct evpl_record sent = fill(&self->owner, 1, 'x'), got;

	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	ASSERT_EQ(1, evpl_recv(self->ends[1], &got, 1));
	ASSERT_EQ(1, evpl_send(self->ends[1], &got, 1));
	EXPECT_EQ(-EFAULT, evpl_recv(self->ends[0], nowhere, 1));
	EXPECT_EQ(EVPL_WORD_SHARED | EVPL_WORD_PASSED_ON, get(&self->owner.entries[1].word));
	EXPECT_EQ(1, read_counters().records);
	ASSERT_EQ(1, evpl_recv(self->ends[0], &got, 1));
	EXPECT_EQ(1, get(&self->owner.entries[1].word));
}

TEST_F(channel, channel_needs_two_descriptors)
{
	int ends[2], fds[2048], nr = 0;

	while (nr < 2048 && (fds[nr] = dup(self->owner.fd)) >= 0)
		nr++;
	ASSERT_LT(nr, 2048);
	EXPECT_EQ(-EMFILE, evpl_channel(self->owner.fd, 0, ends));
	close(fds[--nr]);
	EXPECT_EQ(-EMFILE, evpl_channel(self->owner.fd, 0, ends));
	close(fds[--nr]);
	EXPECT_EQ(0, evpl_channel(self->owner.fd, 0, ends));
	close(ends[0]);
	close(ends[1]);
	while (nr)
		close(fds[--nr]);
}

TEST_F(channel, full_channel_is_EAGAIN_and_more_than_it_holds_EMSGSIZE)
{
	struct evpl_record sent[9], got;

	for (int i = 0; i < 9; i++)
		sent[i] = fill(&self->owner, 1, 'x');
	set_count(&self->owner.entries[1].word, 100);
	EXPECT_EQ(-EMSGSIZE, evpl_send(self->ends[0], sent, 9));
	EXPECT_EQ(5, evpl_send(self->ends[0], sent, 5));
	EXPECT_EQ(-EAGAIN, evpl_send(self->ends[0], sent, 4));
	EXPECT_EQ(5, read_counters().records);
	EXPECT_EQ(POLLOUT, events_of(self->ends[0]));
	EXPECT_EQ(3, evpl_send(self->ends[0], sent, 3));
	EXPECT_EQ(0, events_of(self->ends[0]));
	EXPECT_EQ(1, evpl_recv(self->ends[1], &got, 1));
	EXPECT_EQ(POLLOUT, events_of(self->ends[0]));
	EXPECT_EQ(EVPL_WORD_SHARED | 92, get(&self->owner.entries[1].word));
}

TEST_F(channel, write_that_fails_leaves_no_room_taken)
{
	struct evpl_record sent[8], got[8];

	for (int i = 0; i < 8; i++)
		sent[i] = fill(&self->owner, 1, 'x');
	set_count(&self->owner.entries[1].word, 100);
	for (int i = 0; i < 8; i++) {
		sent[i].offset = 1ULL << 40;
		EXPECT_EQ(-ENOENT, evpl_send(self->ends[0], sent, 8));
		EXPECT_EQ(-ENOENT, evpl_send(self->ends[0], &sent[i], 1));
		sent[i].offset = BUFFER;
		EXPECT_EQ(POLLOUT, events_of(self->ends[0]));
		EXPECT_EQ(100, get(&self->owner.entries[1].word));
	}
	EXPECT_EQ(8, evpl_send(self->ends[0], sent, 8));
	EXPECT_EQ(8, evpl_recv(self->ends[1], got, 8));
}

TEST_F(channel, end_that_is_not_bound_is_ENOTCONN_and_binds_once)
{
	struct evpl_record sent = fill(&self->owner, 1, 'x'), got;
	int ends[2], fd = open(DEVICE, O_RDWR | O_CLOEXEC);

	ASSERT_EQ(0, evpl_channel(fd, 0, ends));
	EXPECT_EQ(-ENXIO, evpl_bind(fd, ends[0]));
	EXPECT_EQ(-ENOTCONN, evpl_send(ends[0], &sent, 1));
	EXPECT_EQ(-ENOTCONN, evpl_recv(ends[0], &got, 1));
	EXPECT_EQ(0, evpl_bind(self->owner.fd, ends[0]));
	EXPECT_EQ(-EBUSY, evpl_bind(self->owner.fd, ends[0]));
	EXPECT_EQ(-EBUSY, evpl_bind(self->lessee.fd, ends[0]));
	EXPECT_EQ(-EBADF, evpl_bind(self->owner.fd, -1));
	EXPECT_EQ(-EBADF, evpl_bind(self->owner.fd, self->owner.fd));
	/* A record waits for the client that binds the other end later. */
	EXPECT_EQ(1, evpl_send(ends[0], &sent, 1));
	EXPECT_EQ(0, evpl_bind(self->lessee.fd, ends[1]));
	EXPECT_EQ(1, evpl_recv(ends[1], &got, 1));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
	close(ends[0]);
	close(ends[1]);
	close(fd);
}

TEST_F(channel, end_that_dies_unread_in_a_socket_gives_back)
{
	struct evpl_record sent = fill(&self->owner, 1, 'x');
	int sockets[2];

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, sockets));
	ASSERT_EQ(0, send_fd(sockets[0], 0, self->ends[1]));
	close(self->ends[1]);
	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	EXPECT_EQ(EVPL_WORD_SHARED, get(&self->owner.entries[1].word));
	close(sockets[0]);
	close(sockets[1]);
	for (int i = 0; i < 100 * LIMIT && get(&self->owner.entries[1].word); i++)
		usleep(10000);
	EXPECT_EQ(0, get(&self->owner.entries[1].word));
	EXPECT_EQ(-EPIPE, evpl_send(self->ends[0], &sent, 1));
}

TEST_F(channel, records_may_lie_in_evpls_own_windows)
{
	struct evpl_record *sent = (void *)(self->owner.own + 3 * BUFFER);
	struct evpl_record *got = (void *)(self->lessee.own + PAGE);
	struct evpl_record *third;

	*sent = fill(&self->owner, 1, 'x');
	sent->flags = EVPL_RECORD_WRITE;
	ASSERT_EQ(1, evpl_send(self->ends[0], sent, 1));
	ASSERT_EQ(1, evpl_recv(self->ends[1], got, 1));
	/* The record may also lie in a lease that has never been touched. */
	third = (void *)memory_of(&self->lessee, got);
	set_count(&self->owner.entries[2].word, 1);
	sent->offset = 2 * BUFFER;
	ASSERT_EQ(1, evpl_send(self->ends[0], sent, 1));
	ASSERT_EQ(1, evpl_recv(self->ends[1], third, 1));
	EXPECT_NE(got->lease, third->lease);
	ASSERT_EQ(1, evpl_send(self->ends[1], third, 1));
	EXPECT_EQ(1, let_go(&self->lessee, got));
}

TEST_HARNESS_MAIN
