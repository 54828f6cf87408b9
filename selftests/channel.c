// SPDX-License-Identifier: GPL-2.0-only
/*
 * Channels and leases: records arrive, only leased buffers can be touched, and the
 * words are right after every kind of end.
 */
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "pair.h"
#include "ring.h"

/* NULL, without the compiler knowing. */
static void *volatile nowhere;

/* The ends don't block, unless a test has them do so. */
FIXTURE(channel)
{
	PAIR;
};

FIXTURE_SETUP(channel)
{
	open_pair(_metadata, &self->pair, 0);
	for (int i = 0; i < 2; i++)
		ASSERT_EQ(0, fcntl(self->ends[i], F_SETFL, O_NONBLOCK));
}

FIXTURE_TEARDOWN(channel)
{
	close_pair(&self->pair);
	EXPECT_TRUE(counters_return_to(self->before));
}

TEST_F(channel, record_gives_a_lease_that_shows_the_buffer_until_it_is_released)
{
	struct evpl_record sent = fill(&self->owner, 3, 'x'), got;
	char *memory;

	sent.cookie = 0x0123456789abcdef;
	sent.offset += 100;
	sent.length = 1000;
	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	/* The word still counts the reference, which is the kernel's now. */
	EXPECT_EQ(1, get(&self->owner.entries[3].word));
	EXPECT_EQ(1, read_counters().records);
	EXPECT_EQ(1, read_counters().shares);
	EXPECT_EQ(POLLIN | POLLOUT, events_of(self->ends[1]));
	EXPECT_EQ(8, fdinfo(self->ends[0], "evpl-capacity"));
	EXPECT_EQ(1, fdinfo(self->ends[0], "evpl-bound"));
	EXPECT_EQ(1, fdinfo(self->ends[0], "evpl-records-written"));
	EXPECT_EQ(1, fdinfo(self->ends[1], "evpl-records-to-read"));

	ASSERT_EQ(1, evpl_recv(self->ends[1], &got, 1));
	EXPECT_EQ(1000, got.length);
	EXPECT_EQ(0, got.flags);
	EXPECT_EQ(sent.cookie, got.cookie);
	EXPECT_EQ(BUFFER, got.buffer_size);
	EXPECT_EQ(1, get(&self->lessee.leases[got.lease].word));
	EXPECT_EQ(1, get(&self->owner.entries[3].word));
	EXPECT_EQ(0, read_counters().records);
	EXPECT_EQ(1, read_counters().leases);
	EXPECT_EQ(1, fdinfo(self->lessee.fd, "evpl-leases"));
	EXPECT_EQ(1, fdinfo(self->owner.fd, "evpl-buffers-shared"));
	EXPECT_GE(got.offset, self->lessee.setup.out_guest_ro_offset);
	EXPECT_EQ(100, got.offset % BUFFER);
	EXPECT_EQ(-EAGAIN, evpl_recv(self->ends[1], &got, 1));

	memory = memory_of(&self->lessee, &got);
	EXPECT_TRUE(is_filled_with(memory - 100, 'x', BUFFER));
	memset(self->owner.own + 3 * BUFFER, 'y', BUFFER);
	EXPECT_TRUE(is_filled_with(memory - 100, 'y', BUFFER));

	EXPECT_EQ(1, let_go(&self->lessee, &got));
	EXPECT_EQ(SIGBUS, touch_read(memory));
	EXPECT_EQ(0, get(&self->owner.entries[3].word));
	EXPECT_EQ(0, read_counters().shares);
	EXPECT_EQ(0, read_counters().leases);
}

TEST_F(channel, what_is_next_to_a_leased_buffer_is_never_seen)
{
	struct evpl_record sent = fill(&self->owner, 1, 'x'), got;
	char *memory;

	fill(&self->owner, 0, 'a');
	fill(&self->owner, 2, 'b');
	EXPECT_EQ(SIGBUS, touch_read(self->lessee.guest_ro));
	EXPECT_EQ(SIGBUS, touch_read(self->lessee.guest));
	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	ASSERT_EQ(1, evpl_recv(self->ends[1], &got, 1));
	memory = memory_of(&self->lessee, &got);
	EXPECT_EQ(SIGBUS, touch_read(memory + BUFFER));
	if (memory > self->lessee.guest_ro)
		EXPECT_EQ(SIGBUS, touch_read(memory - 1));
	EXPECT_EQ(0, touch_read(memory + BUFFER - 1));
	EXPECT_EQ(0, touch_read(memory));
	EXPECT_TRUE(is_filled_with(memory, 'x', BUFFER));
	EXPECT_EQ(SIGBUS, touch_read(memory + BUFFER));
	EXPECT_EQ(SIGBUS, touch_read(self->lessee.guest +
				     (memory - self->lessee.guest_ro)));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
}

TEST_F(channel, lease_for_reading_can_not_be_written_and_one_for_writing_can)
{
	struct evpl_record sent = fill(&self->owner, 0, 'x'), got;
	char *memory;

	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	ASSERT_EQ(1, evpl_recv(self->ends[1], &got, 1));
	memory = memory_of(&self->lessee, &got);
	EXPECT_EQ(0, touch_read(memory));
	EXPECT_EQ(SIGSEGV, touch_write(memory));
	EXPECT_EQ(-EACCES, RESULT(mprotect(self->lessee.guest_ro, 4096,
					   PROT_READ | PROT_WRITE)));
	EXPECT_EQ(MAP_FAILED, mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED,
				   self->lessee.fd,
				   self->lessee.setup.out_guest_ro_offset));
	EXPECT_EQ(EACCES, errno);
	EXPECT_EQ(1, let_go(&self->lessee, &got));

	set(&self->owner.entries[0].word, 1);
	sent.flags = EVPL_RECORD_WRITE;
	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	ASSERT_EQ(1, evpl_recv(self->ends[1], &got, 1));
	EXPECT_EQ(EVPL_RECORD_WRITE, got.flags);
	memory = memory_of(&self->lessee, &got);
	EXPECT_GE(memory, self->lessee.guest);
	EXPECT_LT(got.offset, self->lessee.setup.out_guest_ro_offset);
	memset(memory, 'w', BUFFER);
	EXPECT_TRUE(is_filled_with(self->owner.own, 'w', BUFFER));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
	EXPECT_EQ(SIGBUS, touch_write(memory));
}

TEST_F(channel, records_of_one_buffer_share_a_lease_whose_word_counts_them)
{
	struct evpl_record sent[3], got[3];

	sent[0] = sent[1] = sent[2] = fill(&self->owner, 5, 'x');
	set(&self->owner.entries[5].word, 4);
	ASSERT_EQ(3, evpl_send(self->ends[0], sent, 3));
	/* The word counts three records as one reference; the owner still has one. */
	EXPECT_EQ(2, get(&self->owner.entries[5].word));
	ASSERT_EQ(3, evpl_recv(self->ends[1], got, 3));
	EXPECT_EQ(got[0].lease, got[1].lease);
	EXPECT_EQ(got[0].lease, got[2].lease);
	EXPECT_EQ(got[0].offset, got[2].offset);
	EXPECT_EQ(3, get(&self->lessee.leases[got[0].lease].word));
	EXPECT_EQ(2, get(&self->owner.entries[5].word));
	EXPECT_EQ(0, let_go(&self->lessee, &got[0]));
	EXPECT_EQ(0, let_go(&self->lessee, &got[1]));
	EXPECT_EQ(2, get(&self->owner.entries[5].word));
	EXPECT_EQ(1, let_go(&self->lessee, &got[2]));
	EXPECT_EQ(1, get(&self->owner.entries[5].word));
	EXPECT_EQ(0, get(&self->owner.header->returned));
	/* To release a lease that has ended is no error. */
	EXPECT_EQ(0, evpl_lease_release(self->lessee.fd, &got[0].lease, 1));
}

TEST_F(channel, reference_that_comes_home_is_in_the_owners_word_again)
{
	struct evpl_record sent = fill(&self->owner, 7, 'x'), got;
	char *memory;

	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	ASSERT_EQ(1, evpl_recv(self->ends[1], &got, 1));
	memory = memory_of(&self->lessee, &got);
	EXPECT_EQ(0, touch_read(memory));
	/* The lease ends when its last reference is passed on. */
	ASSERT_EQ(1, evpl_send(self->ends[1], &got, 1));
	EXPECT_EQ(0, get(&self->lessee.leases[got.lease].word));
	EXPECT_EQ(0, read_counters().leases);
	EXPECT_EQ(SIGBUS, touch_read(memory));
	EXPECT_EQ(1, get(&self->owner.entries[7].word));

	ASSERT_EQ(1, evpl_recv(self->ends[0], &got, 1));
	EXPECT_EQ(EVPL_LEASE_NONE, got.lease);
	EXPECT_EQ(7 * BUFFER, got.offset);
	EXPECT_EQ(1, get(&self->owner.entries[7].word));
	EXPECT_EQ(0, read_counters().shares);
	EXPECT_EQ(0, get(&self->owner.header->returned));
}

TEST_F(channel, buffer_that_the_kernel_takes_to_zero_is_reported)
{
	struct evpl_record sent = fill(&self->owner, 9, 'x'), got;

	EXPECT_EQ(0, events_of(self->owner.fd));
	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	ASSERT_EQ(1, evpl_recv(self->ends[1], &got, 1));
	EXPECT_EQ(0, events_of(self->owner.fd));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
	EXPECT_EQ(0, get(&self->owner.entries[9].word));
	EXPECT_EQ(POLLIN, events_of(self->owner.fd));
	EXPECT_EQ(1, __atomic_exchange_n(&self->owner.header->returned, 0,
					 __ATOMIC_ACQ_REL));
	EXPECT_EQ(0, events_of(self->owner.fd));
	EXPECT_EQ(1UL << 9, get(&self->owner.returned[0]));
}

TEST_F(channel, what_an_end_has_not_read_is_given_back_when_it_closes)
{
	struct evpl_record sent[2] = {
		fill(&self->owner, 1, 'x'), fill(&self->owner, 2, 'y'),
	};
	struct evpl_record got;

	ASSERT_EQ(2, evpl_send(self->ends[0], sent, 2));
	EXPECT_EQ(1, get(&self->owner.entries[1].word));
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

TEST_F(channel, leases_of_a_client_that_goes_are_given_back)
{
	struct evpl_record sent = fill(&self->owner, 1, 'x'), got;

	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	ASSERT_EQ(1, evpl_recv(self->ends[1], &got, 1));
	EXPECT_EQ(0, touch_read(memory_of(&self->lessee, &got)));
	close_client(&self->lessee);
	EXPECT_EQ(0, get(&self->owner.entries[1].word));
	EXPECT_EQ(0, read_counters().leases);
	EXPECT_EQ(0, evpl_slab_free(self->owner.fd, 0));
}

TEST_F(channel, leased_memory_outlives_its_owner_folio_by_folio)
{
	struct evpl_record sent, got[2];
	struct counters now;
	uint64_t offset;

	/* Lease a buffer of each of two slabs. */
	ASSERT_EQ(0, evpl_slab_alloc(self->owner.fd, SLAB_2M, &offset));
	munmap(self->owner.own, SLAB_2M);
	self->owner.own = map(self->owner.fd, 2 * SLAB_2M, 0, PROT_READ | PROT_WRITE);
	sent = fill(&self->owner, 0, 'x');
	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	sent = fill(&self->owner, SLAB_2M / BUFFER, 'y');
	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	ASSERT_EQ(2, evpl_recv(self->ends[1], got, 2));

	munmap(self->owner.own + SLAB_2M, SLAB_2M);
	close(self->ends[0]);
	close_client(&self->owner);
	EXPECT_TRUE(is_filled_with(memory_of(&self->lessee, &got[0]), 'x', BUFFER));
	EXPECT_TRUE(is_filled_with(memory_of(&self->lessee, &got[1]), 'y', BUFFER));
	now = read_counters();
	EXPECT_EQ(self->before.clients + 1, now.clients);
	EXPECT_EQ(3, now.slabs - self->before.slabs);
	EXPECT_EQ(1, let_go(&self->lessee, &got[0]));
	EXPECT_EQ(now.slabs - 1, read_counters().slabs);
	EXPECT_GE(now.charged - (long long)(has_huge() ? SLAB_2M : BUFFER),
		  read_counters().charged);
	EXPECT_TRUE(is_filled_with(memory_of(&self->lessee, &got[1]), 'y', BUFFER));
	EXPECT_EQ(1, let_go(&self->lessee, &got[1]));
	EXPECT_EQ(now.slabs - 2, read_counters().slabs);
}

/*
 * An owner of many small buffers goes while a record of one of them is on its way, or, with
 * @read, while one is on lease. Then only the folio of that buffer, the ring, and the
 * lessee's own memory stay charged.
 */
static void check_what_an_owner_leaves(struct __test_metadata *_metadata,
				       struct _test_data_channel *self, bool read)
{
	const long long folio = has_huge() ? SLAB_2M : 4 * KIB, few_pages = 16 * 4 * KIB;
	struct counters before = read_counters();
	struct evpl_record record = { .length = 4 * KIB };
	struct evpl_entry *entries;
	struct evpl_setup setup;
	int fd, ends[2];
	uint64_t offset;

	fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	ASSERT_EQ(0, evpl_setup(fd, 4 * KIB, &setup));
	ASSERT_EQ(0, evpl_slab_alloc(fd, 64 * MIB, &offset));
	entries = map(fd, 4096, setup.out_refs_offset, PROT_READ | PROT_WRITE);
	ASSERT_NE(NULL, entries);
	set(&entries[0].word, 1);
	ASSERT_EQ(0, evpl_channel(fd, 1, ends));
	ASSERT_EQ(0, evpl_bind(fd, ends[0]));
	ASSERT_EQ(0, evpl_bind(self->lessee.fd, ends[1]));
	ASSERT_EQ(1, evpl_send(ends[0], &record, 1));
	if (read)
		ASSERT_EQ(1, evpl_recv(ends[1], &record, 1));
	EXPECT_LE(before.charged + 65 * (long long)MIB, read_counters().charged);
	munmap(entries, 4096);
	close(fd);
	EXPECT_LE(before.charged + folio, read_counters().charged);
	EXPECT_GE(before.charged + folio + few_pages, read_counters().charged);

	if (!read)
		ASSERT_EQ(1, evpl_recv(ends[1], &record, 1));
	EXPECT_EQ(0, touch_read(memory_of(&self->lessee, &record)));
	EXPECT_EQ(1, let_go(&self->lessee, &record));
	close(ends[0]);
	close(ends[1]);
	EXPECT_GE(before.charged + few_pages, read_counters().charged);
}

TEST_F(channel, owner_that_goes_leaves_the_folio_of_a_lease_and_no_entries)
{
	check_what_an_owner_leaves(_metadata, self, true);
}

TEST_F(channel, owner_that_goes_leaves_the_folio_of_a_record_and_no_entries)
{
	check_what_an_owner_leaves(_metadata, self, false);
}

TEST_F(channel, owner_that_asked_for_it_takes_its_leases_along)
{
	struct client owner;
	struct evpl_record sent, got;
	int ends[2];

	ASSERT_TRUE(open_client(&owner, EVPL_SETUP_REVOKE));
	ASSERT_EQ(0, evpl_channel(owner.fd, 0, ends));
	ASSERT_EQ(0, evpl_bind(owner.fd, ends[0]));
	ASSERT_EQ(0, evpl_bind(self->lessee.fd, ends[1]));
	sent = fill(&owner, 0, 'x');
	ASSERT_EQ(1, evpl_send(ends[0], &sent, 1));
	ASSERT_EQ(1, evpl_recv(ends[1], &got, 1));
	EXPECT_EQ(0, touch_read(memory_of(&self->lessee, &got)));
	close_client(&owner);
	EXPECT_EQ(SIGBUS, touch_read(memory_of(&self->lessee, &got)));
	EXPECT_EQ(POLLPRI, events_of(self->lessee.fd));
	close(ends[0]);
	close(ends[1]);
	EXPECT_EQ(1, let_go(&self->lessee, &got));
}

TEST_F(channel, revoked_lease_raises_SIGBUS_and_is_reported)
{
	struct evpl_record sent = fill(&self->owner, 4, 'x'), got, again;
	char *memory;

	set(&self->owner.entries[4].word, 2);
	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	ASSERT_EQ(1, evpl_recv(self->ends[1], &got, 1));
	memory = memory_of(&self->lessee, &got);
	EXPECT_EQ(0, touch_read(memory));
	ASSERT_EQ(0, evpl_revoke(self->owner.fd, 4 * BUFFER));
	EXPECT_EQ(SIGBUS, touch_read(memory));
	EXPECT_EQ(1, get(&self->owner.entries[4].word));
	EXPECT_EQ(POLLPRI, events_of(self->lessee.fd));
	EXPECT_TRUE(bit(self->lessee.revoked, got.lease));
	EXPECT_EQ(-ENOENT, evpl_send(self->ends[1], &got, 1));

	/* The revoked lease keeps its number until it is released. */
	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	ASSERT_EQ(1, evpl_recv(self->ends[1], &again, 1));
	EXPECT_NE(got.lease, again.lease);
	EXPECT_EQ(0, touch_read(memory_of(&self->lessee, &again)));
	EXPECT_EQ(SIGBUS, touch_read(memory));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
	EXPECT_EQ(1, let_go(&self->lessee, &again));
	EXPECT_EQ(0, get(&self->owner.entries[4].word));
	/* To revoke a buffer that nobody has is no error. */
	EXPECT_EQ(0, evpl_revoke(self->owner.fd, 4 * BUFFER));
	EXPECT_EQ(-ENOENT, evpl_revoke(self->owner.fd, 4 * BUFFER + 4096));
	EXPECT_EQ(-ENOENT, evpl_revoke(self->owner.fd, SLAB_2M));
}

TEST_F(channel, revoked_lease_shows_zeros_to_who_asked_for_them)
{
	struct client lessee;
	struct evpl_record sent, got;
	char *memory;
	int ends[2];

	ASSERT_TRUE(open_client(&lessee, EVPL_SETUP_ZEROS));
	ASSERT_EQ(0, evpl_channel(lessee.fd, 0, ends));
	ASSERT_EQ(0, evpl_bind(self->owner.fd, ends[0]));
	ASSERT_EQ(0, evpl_bind(lessee.fd, ends[1]));
	sent = fill(&self->owner, 4, 'x');
	sent.flags = EVPL_RECORD_WRITE;
	ASSERT_EQ(1, evpl_send(ends[0], &sent, 1));
	ASSERT_EQ(1, evpl_recv(ends[1], &got, 1));
	memory = memory_of(&lessee, &got);
	EXPECT_EQ('x', *memory);
	ASSERT_EQ(0, evpl_revoke(self->owner.fd, 4 * BUFFER));
	EXPECT_TRUE(is_filled_with(memory, 0, BUFFER));
	/* Its writes there are seen by nobody else. */
	EXPECT_EQ(0, touch_write(memory));
	memory[0] = 'z';
	EXPECT_TRUE(is_filled_with(self->owner.own + 4 * BUFFER, 'x', BUFFER));
	EXPECT_EQ(1, let_go(&lessee, &got));
	EXPECT_EQ(SIGBUS, touch_read(memory));
	close(ends[0]);
	close(ends[1]);
	close_client(&lessee);
}

TEST_F(channel, revoked_record_arrives_with_its_cookie_and_no_lease)
{
	struct evpl_record sent = fill(&self->owner, 4, 'x'), got;

	sent.cookie = 42;
	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	ASSERT_EQ(0, evpl_revoke(self->owner.fd, 4 * BUFFER));
	EXPECT_EQ(0, get(&self->owner.entries[4].word));
	EXPECT_EQ(1, read_counters().records);
	/* Only the owner has the memory now, so it may free the slab. */
	EXPECT_EQ(0, evpl_slab_free(self->owner.fd, 0));
	ASSERT_EQ(1, evpl_recv(self->ends[1], &got, 1));
	EXPECT_EQ(EVPL_RECORD_REVOKED, got.flags);
	EXPECT_EQ(EVPL_LEASE_NONE, got.lease);
	EXPECT_EQ(42, got.cookie);
	EXPECT_EQ(0, got.offset);
	EXPECT_EQ(0, read_counters().leases);
	EXPECT_EQ(0, read_counters().shares);
}

TEST_F(channel, owner_pulls_what_a_receiver_has_let_go_of_without_a_call)
{
	struct evpl_record sent[2] = {
		fill(&self->owner, 1, 'x'), fill(&self->owner, 2, 'y'),
	};
	struct evpl_record got[2];

	ASSERT_EQ(2, evpl_send(self->ends[0], sent, 2));
	ASSERT_EQ(2, evpl_recv(self->ends[1], got, 2));
	EXPECT_EQ(0, evpl_lease_pull(self->owner.fd));
	set(&self->lessee.leases[got[0].lease].word, 0);
	EXPECT_EQ(1, evpl_lease_pull(self->owner.fd));
	EXPECT_EQ(0, get(&self->owner.entries[1].word));
	EXPECT_EQ(1, get(&self->owner.entries[2].word));
	EXPECT_EQ(SIGBUS, touch_read(memory_of(&self->lessee, &got[0])));
	EXPECT_EQ(0, touch_read(memory_of(&self->lessee, &got[1])));
	/* If the receiver then releases the lease as well, that is harmless. */
	EXPECT_EQ(0, evpl_lease_release(self->lessee.fd, &got[0].lease, 1));
	EXPECT_EQ(1, let_go(&self->lessee, &got[1]));
}

TEST_F(channel, owner_that_pulled_has_what_is_in_use_as_soon_as_it_is_let_go_of)
{
	struct evpl_record sent = fill(&self->owner, 1, 'x'), got;
	uint64_t *word;

	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	ASSERT_EQ(1, evpl_recv(self->ends[1], &got, 1));
	word = (uint64_t *)&self->lessee.leases[got.lease].word;
	EXPECT_EQ(1, get(word));
	EXPECT_EQ(0, evpl_lease_pull(self->owner.fd));
	EXPECT_EQ(1, get(word));
	EXPECT_EQ(0, evpl_lease_want(self->owner.fd));
	EXPECT_EQ(EVPL_WORD_WANTED | 1, get(word));
	EXPECT_EQ(0, evpl_lease_want(self->owner.fd));
	EXPECT_EQ(EVPL_WORD_WANTED | 1, get(word));
	EXPECT_EQ(0, touch_read(memory_of(&self->lessee, &got)));
	/* References are counted as before. */
	set(&self->owner.entries[1].word, 2);
	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	ASSERT_EQ(1, evpl_recv(self->ends[1], &got, 1));
	EXPECT_EQ(EVPL_WORD_WANTED | 2, get(word));
	EXPECT_EQ(0, let_go(&self->lessee, &got));
	EXPECT_EQ(0, events_of(self->owner.fd));

	/* The flag is no reference, and doesn't outlive the lease. */
	EXPECT_EQ(1, let_go(&self->lessee, &got));
	EXPECT_EQ(0, get(word));
	EXPECT_EQ(0, get(&self->owner.entries[1].word));
	set(&self->owner.entries[1].word, 1);
	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	ASSERT_EQ(1, evpl_recv(self->ends[1], &got, 1));
	EXPECT_EQ(1, get(word));
	EXPECT_EQ(0, evpl_lease_want(self->owner.fd));
	/* The lease also ends when its last reference is passed on. */
	ASSERT_EQ(1, evpl_send(self->ends[1], &got, 1));
	EXPECT_EQ(0, get(word));
	EXPECT_EQ(0, read_counters().leases);
	ASSERT_EQ(1, evpl_recv(self->ends[0], &got, 1));
	EXPECT_EQ(1, get(&self->owner.entries[1].word));
}

TEST_F(channel, owner_that_pulled_is_heard_by_who_has_yet_to_read)
{
	struct evpl_record sent = fill(&self->owner, 1, 'x'), got;
	uint64_t *word;

	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	EXPECT_EQ(0, evpl_lease_want(self->owner.fd));
	ASSERT_EQ(1, evpl_recv(self->ends[1], &got, 1));
	word = (uint64_t *)&self->lessee.leases[got.lease].word;
	EXPECT_EQ(EVPL_WORD_WANTED | 1, get(word));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
	EXPECT_EQ(0, get(word));
	EXPECT_EQ(0, get(&self->owner.entries[1].word));
	/* When the buffer has come back, the next lease isn't WANTED. */
	set(&self->owner.entries[1].word, 1);
	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	ASSERT_EQ(1, evpl_recv(self->ends[1], &got, 1));
	EXPECT_EQ(1, get(&self->lessee.leases[got.lease].word));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
}

TEST_F(channel, release_of_what_is_no_number_is_EINVAL_and_releases_nothing)
{
	struct evpl_record sent = fill(&self->owner, 1, 'x'), got;
	uint32_t numbers[2];

	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	ASSERT_EQ(1, evpl_recv(self->ends[1], &got, 1));
	set(&self->lessee.leases[got.lease].word, 0);
	numbers[0] = got.lease;
	numbers[1] = EVPL_LEASE_NONE;
	EXPECT_EQ(-EINVAL, evpl_lease_release(self->lessee.fd, numbers, 2));
	EXPECT_EQ(1, read_counters().leases);
	/* A number without a lease, and one whose lease has ended, are no error. */
	numbers[1] = got.lease + 1;
	EXPECT_EQ(1, evpl_lease_release(self->lessee.fd, numbers, 2));
	EXPECT_EQ(0, evpl_lease_release(self->lessee.fd, numbers, 2));
	EXPECT_EQ(-EINVAL, evpl_lease_release(self->lessee.fd, numbers,
					      EVPL_LEASE_RELEASE_MAX + 1));
	EXPECT_EQ(-EFAULT, evpl_lease_release(self->lessee.fd, NULL, 1));
	EXPECT_EQ(0, evpl_lease_release(self->lessee.fd, NULL, 0));
}

TEST_F(channel, slab_with_a_shared_buffer_is_not_freed)
{
	struct evpl_record sent = fill(&self->owner, 1, 'x'), got;

	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	/* The kernel has a count of its own, whatever the word says. */
	set(&self->owner.entries[1].word, 0);
	EXPECT_EQ(-EBUSY, evpl_slab_free(self->owner.fd, 0));
	ASSERT_EQ(1, evpl_recv(self->ends[1], &got, 1));
	set(&self->owner.entries[1].word, 0);
	EXPECT_EQ(-EBUSY, evpl_slab_free(self->owner.fd, 0));
	EXPECT_TRUE(is_filled_with(memory_of(&self->lessee, &got), 'x', BUFFER));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
	set(&self->owner.entries[1].word, 0);
	EXPECT_EQ(0, evpl_slab_free(self->owner.fd, 0));
}

TEST_F(channel, each_bad_record_has_its_errno_and_moves_nothing)
{
	struct evpl_record good = fill(&self->owner, 1, 'x'), got, bad;
	const struct {
		int error;
		struct evpl_record record;
	} cases[] = {
		{ -ENOENT, { .offset = SLAB_2M, .length = 1 } },
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

	set(&self->owner.entries[1].word, 5);
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
	EXPECT_EQ(5, get(&self->owner.entries[1].word));
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
	EXPECT_EQ(MAP_FAILED, mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED,
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

TEST_F(channel, idle_lease_outlives_a_read_into_a_page_that_is_not_there_yet)
{
	struct evpl_record sent = fill(&self->owner, 1, 'x'), got;
	struct evpl_record *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
					MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct evpl_entry *lease;
	struct rusage before, after;
	char *memory;

	ASSERT_NE(MAP_FAILED, page);
	set(&self->owner.entries[1].word, 2);
	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	ASSERT_EQ(1, evpl_recv(self->ends[1], &got, 1));
	memory = memory_of(&self->lessee, &got);
	EXPECT_TRUE(is_filled_with(memory, 'x', BUFFER));
	lease = &self->lessee.leases[got.lease];
	set(&lease->word, 0);

	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	ASSERT_EQ(1, evpl_recv(self->ends[1], page, 1));
	EXPECT_EQ(got.lease, page->lease);
	EXPECT_EQ(1, get(&lease->word));
	/* The lease has stayed mapped: these touches don't fault. */
	getrusage(RUSAGE_SELF, &before);
	EXPECT_TRUE(is_filled_with(memory, 'x', BUFFER));
	getrusage(RUSAGE_SELF, &after);
	EXPECT_EQ(before.ru_minflt, after.ru_minflt);
	EXPECT_EQ(1, let_go(&self->lessee, &got));
	munmap(page, 4096);
}

TEST_F(channel, record_may_lie_where_a_stack_is_yet_to_grow)
{
	/* Leave a hole below the stack that is larger than the kernel's stack guard gap. */
	const size_t hole = 16 << 20;
	char *low = mmap(NULL, hole + 4096, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct evpl_record sent = fill(&self->owner, 1, 'x'), *got;

	ASSERT_NE(MAP_FAILED, low);
	ASSERT_EQ(0, munmap(low, hole + 4096));
	ASSERT_EQ(low + hole, mmap(low + hole, 4096, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED,
				   -1, 0));
	low[hole] = 0;
	got = (struct evpl_record *)(low + hole) - 1;
	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	ASSERT_EQ(1, evpl_recv(self->ends[1], got, 1));
	EXPECT_EQ(BUFFER, got->length);
	EXPECT_EQ(1, let_go(&self->lessee, got));
	munmap(low + hole - 4096, 2 * 4096);
}

TEST_F(channel, record_of_ones_own_that_can_not_be_copied_out_stays)
{
	struct evpl_record sent = fill(&self->owner, 1, 'x'), got;

	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	ASSERT_EQ(1, evpl_recv(self->ends[1], &got, 1));
	ASSERT_EQ(1, evpl_send(self->ends[1], &got, 1));
	EXPECT_EQ(-EFAULT, evpl_recv(self->ends[0], nowhere, 1));
	EXPECT_EQ(1, get(&self->owner.entries[1].word));
	EXPECT_EQ(1, read_counters().records);
	ASSERT_EQ(1, evpl_recv(self->ends[0], &got, 1));
	EXPECT_EQ(1, get(&self->owner.entries[1].word));
}

TEST_F(channel, idle_lease_ends_when_its_buffer_is_revoked)
{
	struct evpl_record sent = fill(&self->owner, 1, 'x'), got;

	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	ASSERT_EQ(1, evpl_recv(self->ends[1], &got, 1));
	set(&self->lessee.leases[got.lease].word, 0);
	ASSERT_EQ(0, evpl_revoke(self->owner.fd, BUFFER));
	EXPECT_EQ(0, read_counters().leases);
	EXPECT_EQ(0, get(&self->owner.entries[1].word));
	EXPECT_EQ(0, events_of(self->lessee.fd));
	EXPECT_EQ(0, evpl_lease_release(self->lessee.fd, &got.lease, 1));
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
	set(&self->owner.entries[1].word, 100);
	EXPECT_EQ(-EMSGSIZE, evpl_send(self->ends[0], sent, 9));
	EXPECT_EQ(5, evpl_send(self->ends[0], sent, 5));
	EXPECT_EQ(-EAGAIN, evpl_send(self->ends[0], sent, 4));
	EXPECT_EQ(5, read_counters().records);
	EXPECT_EQ(POLLOUT, events_of(self->ends[0]));
	EXPECT_EQ(3, evpl_send(self->ends[0], sent, 3));
	EXPECT_EQ(0, events_of(self->ends[0]));
	EXPECT_EQ(1, evpl_recv(self->ends[1], &got, 1));
	EXPECT_EQ(POLLOUT, events_of(self->ends[0]));
	EXPECT_EQ(93, get(&self->owner.entries[1].word));
}

TEST_F(channel, write_that_fails_tells_nobody_of_room)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLOUT | EPOLLET }, got;
	struct evpl_record sent = fill(&self->owner, 1, 'x');
	int epoll = epoll_create1(EPOLL_CLOEXEC);

	ASSERT_LE(0, epoll);
	ASSERT_EQ(0, epoll_ctl(epoll, EPOLL_CTL_ADD, self->ends[0], &event));
	EXPECT_EQ(1, epoll_wait(epoll, &got, 1, 0));
	EXPECT_EQ(0, epoll_wait(epoll, &got, 1, 0));
	set(&self->owner.entries[1].word, 0);
	for (int i = 0; i < 10; i++) {
		EXPECT_EQ(-ESTALE, evpl_send(self->ends[0], &sent, 1));
		EXPECT_EQ(0, epoll_wait(epoll, &got, 1, 0));
	}
	close(epoll);
}

TEST_F(channel, write_that_fails_leaves_no_room_taken)
{
	struct evpl_record sent[8], got[8];

	for (int i = 0; i < 8; i++)
		sent[i] = fill(&self->owner, 1, 'x');
	set(&self->owner.entries[1].word, 100);
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

TEST_F(channel, write_sleeps_until_all_of_it_fits)
{
	struct evpl_record sent[8], got[8];
	pid_t child;

	for (int i = 0; i < 8; i++)
		sent[i] = fill(&self->owner, 1, 'x');
	set(&self->owner.entries[1].word, 100);
	ASSERT_EQ(0, fcntl(self->ends[0], F_SETFL, 0));
	ASSERT_EQ(1, evpl_send(self->ends[0], sent, 1));
	child = fork_child();
	if (!child)
		_exit(evpl_send(self->ends[0], sent, 8) == 8 ? 0 : 1);
	usleep(100 * 1000);
	EXPECT_EQ(1, read_counters().records);
	ASSERT_EQ(1, evpl_recv(self->ends[1], got, 1));
	EXPECT_EQ(0, reap(child));
	EXPECT_EQ(8, evpl_recv(self->ends[1], got, 8));
	EXPECT_EQ(9, get(&self->lessee.leases[got[0].lease].word));
}

TEST_F(channel, read_sleeps_until_there_is_a_record)
{
	struct evpl_record sent = fill(&self->owner, 1, 'x'), got;
	pid_t child;

	ASSERT_EQ(0, fcntl(self->ends[1], F_SETFL, 0));
	child = fork_child();
	if (!child) {
		usleep(100 * 1000);
		_exit(evpl_send(self->ends[0], &sent, 1) == 1 ? 0 : 1);
	}
	/* If the child ends without having sent, the read must not wait for ever. */
	close(self->ends[0]);
	ASSERT_EQ(1, evpl_recv(self->ends[1], &got, 1));
	EXPECT_EQ(0, reap(child));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
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
	EXPECT_EQ(1, get(&self->owner.entries[1].word));
	close(sockets[0]);
	close(sockets[1]);
	for (int i = 0; i < 600 && get(&self->owner.entries[1].word); i++)
		usleep(10000);
	EXPECT_EQ(0, get(&self->owner.entries[1].word));
	EXPECT_EQ(-EPIPE, evpl_send(self->ends[0], &sent, 1));
}

TEST_F(channel, records_over_three_hops_come_out_right_when_the_middle_dies)
{
	enum { K = 5 };
	struct evpl_record sent[K], got[K];
	struct client middle, last;
	int first[2], second[2];

	ASSERT_TRUE(open_client(&middle, 0));
	ASSERT_TRUE(open_client(&last, 0));
	ASSERT_EQ(0, evpl_channel(middle.fd, 0, first));
	ASSERT_EQ(0, evpl_channel(middle.fd, 0, second));
	ASSERT_EQ(0, evpl_bind(self->lessee.fd, first[0]));
	ASSERT_EQ(0, evpl_bind(middle.fd, first[1]));
	ASSERT_EQ(0, evpl_bind(middle.fd, second[0]));
	ASSERT_EQ(0, evpl_bind(last.fd, second[1]));
	for (int i = 0; i < K; i++)
		sent[i] = fill(&self->owner, 6, 'x');
	set(&self->owner.entries[6].word, K + 1);

	ASSERT_EQ(K, evpl_send(self->ends[0], sent, K));
	ASSERT_EQ(K, evpl_recv(self->ends[1], got, K));
	ASSERT_EQ(K - 1, evpl_send(first[0], got, K - 1));
	ASSERT_EQ(K - 1, evpl_recv(first[1], got, K - 1));
	ASSERT_EQ(K - 2, evpl_send(second[0], got, K - 2));
	EXPECT_EQ(2, get(&self->owner.entries[6].word));
	/* The middle client has one reference left; K - 2 are on their way from it. */
	close_client(&middle);
	ASSERT_EQ(K - 2, evpl_recv(second[1], got, K - 2));
	EXPECT_EQ(K - 2, get(&last.leases[got[0].lease].word));
	EXPECT_TRUE(is_filled_with(memory_of(&last, got), 'x', BUFFER));
	EXPECT_EQ(2, get(&self->owner.entries[6].word));
	close_client(&last);
	EXPECT_EQ(2, get(&self->owner.entries[6].word));
	close_client(&self->lessee);
	EXPECT_EQ(1, get(&self->owner.entries[6].word));
	EXPECT_EQ(0, read_counters().shares);
	for (int i = 0; i < 2; i++) {
		close(first[i]);
		close(second[i]);
	}
}

TEST_F(channel, leased_buffer_can_not_be_pinned)
{
	struct evpl_record sent = fill(&self->owner, 1, 'x'), got;
	char *memory;

	sent.flags = EVPL_RECORD_WRITE;
	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	ASSERT_EQ(1, evpl_recv(self->ends[1], &got, 1));
	memory = memory_of(&self->lessee, &got);
	EXPECT_EQ(0, touch_write(memory));
	EXPECT_EQ(NULL, what_can_pin(memory));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
}

TEST_F(channel, guest_windows_and_words_are_not_inherited)
{
	struct evpl_record sent = fill(&self->owner, 1, 'x'), got;
	char *memory;
	pid_t child;

	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	ASSERT_EQ(1, evpl_recv(self->ends[1], &got, 1));
	memory = memory_of(&self->lessee, &got);
	EXPECT_EQ(0, touch_read(memory));
	child = fork_child();
	if (!child)
		_exit(touch_read(memory) == SIGSEGV &&
		      touch_read(self->lessee.leases) == SIGSEGV ? 0 : 1);
	EXPECT_EQ(0, reap(child));
	EXPECT_EQ(-EINVAL, RESULT(madvise(self->lessee.guest_ro, 4096,
					  MADV_DOFORK)));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
}

TEST_F(channel, records_may_lie_in_evpls_own_windows)
{
	struct evpl_record *sent = (void *)(self->owner.own + 3 * BUFFER);
	struct evpl_record *got = (void *)(self->lessee.own + 4096);
	struct evpl_record *third;

	*sent = fill(&self->owner, 1, 'x');
	sent->flags = EVPL_RECORD_WRITE;
	ASSERT_EQ(1, evpl_send(self->ends[0], sent, 1));
	ASSERT_EQ(1, evpl_recv(self->ends[1], got, 1));
	/* The record may also lie in a lease that has never been touched. */
	third = (void *)memory_of(&self->lessee, got);
	set(&self->owner.entries[2].word, 1);
	sent->offset = 2 * BUFFER;
	ASSERT_EQ(1, evpl_send(self->ends[0], sent, 1));
	ASSERT_EQ(1, evpl_recv(self->ends[1], third, 1));
	EXPECT_NE(got->lease, third->lease);
	ASSERT_EQ(1, evpl_send(self->ends[1], third, 1));
	EXPECT_EQ(1, let_go(&self->lessee, got));
}

struct flipper {
	uint64_t *word;
	bool stop;
};

static void *flip_word(void *arg)
{
	struct flipper *flipper = arg;

	while (!__atomic_load_n(&flipper->stop, __ATOMIC_RELAXED))
		__atomic_fetch_xor(flipper->word, 2, __ATOMIC_RELAXED);
	return NULL;
}

TEST_F(channel, word_of_a_lease_that_changes_while_it_is_looked_at_ends_nothing_too_early)
{
	struct evpl_record sent = fill(&self->owner, 1, 'x'), got;
	struct flipper flipper = { .stop = false };
	pthread_t thread;

	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	ASSERT_EQ(1, evpl_recv(self->ends[1], &got, 1));
	flipper.word = (uint64_t *)&self->lessee.leases[got.lease].word;
	ASSERT_EQ(0, pthread_create(&thread, NULL, flip_word, &flipper));
	for (int i = 0; i < scaled(30000); i++) {
		ASSERT_EQ(0, evpl_lease_release(self->lessee.fd, &got.lease, 1));
		ASSERT_EQ(0, evpl_lease_pull(self->owner.fd));
	}
	EXPECT_EQ(0, touch_read(memory_of(&self->lessee, &got)));
	__atomic_store_n(&flipper.stop, true, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	set(flipper.word, 1);
	EXPECT_EQ(1, let_go(&self->lessee, &got));
}

/* The events of an end that have come since the last call (epoll(7), edge-triggered). */
static uint32_t edges(int epoll)
{
	struct epoll_event event = { .events = 0 };

	return epoll_wait(epoll, &event, 1, 0) < 0 ? ~0U : event.events;
}

TEST_F(channel, epoll_tells_of_records_of_room_and_of_the_end)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLOUT | EPOLLET };
	struct evpl_record sent[8], got[8];
	int reader = epoll_create1(EPOLL_CLOEXEC), writer = epoll_create1(EPOLL_CLOEXEC);

	ASSERT_GE(reader, 0);
	ASSERT_GE(writer, 0);
	for (int i = 0; i < 8; i++)
		sent[i] = fill(&self->owner, 1, 'x');
	set(&self->owner.entries[1].word, 100);
	ASSERT_EQ(0, epoll_ctl(reader, EPOLL_CTL_ADD, self->ends[1], &event));
	ASSERT_EQ(0, epoll_ctl(writer, EPOLL_CTL_ADD, self->ends[0], &event));
	EXPECT_EQ(EPOLLOUT, edges(reader));
	EXPECT_EQ(EPOLLOUT, edges(writer));
	EXPECT_EQ(0, edges(reader));
	EXPECT_EQ(0, edges(writer));

	ASSERT_EQ(8, evpl_send(self->ends[0], sent, 8));
	EXPECT_EQ(EPOLLIN | EPOLLOUT, edges(reader));
	EXPECT_EQ(0, edges(reader));
	EXPECT_EQ(0, edges(writer));
	ASSERT_EQ(-EAGAIN, evpl_send(self->ends[0], sent, 1));
	ASSERT_EQ(8, evpl_recv(self->ends[1], got, 8));
	EXPECT_EQ(EPOLLOUT, edges(writer));
	for (int i = 0; i < 8; i++)
		let_go(&self->lessee, &got[i]);

	/* A closed end has no room. */
	close(self->ends[1]);
	EXPECT_EQ(EPOLLIN | EPOLLHUP, edges(writer));
	EXPECT_EQ(0, edges(reader));
	close(reader);
	close(writer);
}

TEST_F(channel, binding_an_end_wakes_who_polls_it)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLOUT | EPOLLET };
	struct evpl_record sent = fill(&self->owner, 1, 'x'), got;
	int bound = epoll_create1(EPOLL_CLOEXEC), peer = epoll_create1(EPOLL_CLOEXEC);
	int ends[2];

	ASSERT_GE(bound, 0);
	ASSERT_GE(peer, 0);
	ASSERT_EQ(0, evpl_channel(self->owner.fd, 8, ends));
	ASSERT_EQ(0, evpl_bind(self->owner.fd, ends[0]));
	ASSERT_EQ(1, evpl_send(ends[0], &sent, 1));
	ASSERT_EQ(0, epoll_ctl(bound, EPOLL_CTL_ADD, ends[1], &event));
	ASSERT_EQ(0, epoll_ctl(peer, EPOLL_CTL_ADD, ends[0], &event));
	EXPECT_EQ(EPOLLIN | EPOLLOUT, edges(bound));
	EXPECT_EQ(EPOLLOUT, edges(peer));
	EXPECT_EQ(-ENOTCONN, evpl_recv(ends[1], &got, 1));
	EXPECT_EQ(-ENOTCONN, evpl_send(ends[1], &sent, 1));
	EXPECT_EQ(0, edges(bound));

	ASSERT_EQ(0, evpl_bind(self->lessee.fd, ends[1]));
	EXPECT_EQ(EPOLLIN | EPOLLOUT, edges(bound));
	EXPECT_EQ(0, edges(bound));
	/* Nothing has changed for the other end: it was writable before, and has no record. */
	EXPECT_EQ(0, edges(peer));
	EXPECT_EQ(-EBUSY, evpl_bind(self->lessee.fd, ends[1]));
	EXPECT_EQ(0, edges(bound));
	EXPECT_EQ(1, fdinfo(ends[1], "evpl-records-to-read"));
	ASSERT_EQ(1, evpl_recv(ends[1], &got, 1));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
	close(bound);
	close(peer);
	close(ends[0]);
	close(ends[1]);
}

TEST_F(channel, binding_an_end_that_has_nothing_to_read_tells_of_room)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLOUT | EPOLLET };
	struct evpl_record sent = fill(&self->owner, 1, 'x');
	int epoll = epoll_create1(EPOLL_CLOEXEC), ends[2];

	ASSERT_GE(epoll, 0);
	ASSERT_EQ(0, evpl_channel(self->owner.fd, 8, ends));
	ASSERT_EQ(0, epoll_ctl(epoll, EPOLL_CTL_ADD, ends[0], &event));
	EXPECT_EQ(EPOLLOUT, edges(epoll));
	EXPECT_EQ(-ENOTCONN, evpl_send(ends[0], &sent, 1));
	EXPECT_EQ(0, edges(epoll));
	ASSERT_EQ(0, evpl_bind(self->owner.fd, ends[0]));
	EXPECT_EQ(EPOLLOUT, edges(epoll));
	EXPECT_EQ(1, evpl_send(ends[0], &sent, 1));
	close(epoll);
	close(ends[0]);
	close(ends[1]);
	EXPECT_EQ(0, get(&self->owner.entries[1].word));
}

TEST_F(channel, record_that_finds_no_place_left_is_ENOSPC_and_stays)
{
	const uint64_t length = 64 * MIB, places = (1ULL << 25) / (length / 4096);
	struct evpl_setup setup = { .size = sizeof(setup), .buffer_size = length };
	struct evpl_record sent = { .length = 1 }, got[2];
	struct evpl_entry *entries;
	uint64_t offset, n;
	int fd, ends[2];

	/* A receiver that doesn't release its revoked leases uses up the places of the window. */
	fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	ASSERT_EQ(0, RESULT(ioctl(fd, EVPL_SETUP, &setup)));
	ASSERT_EQ(0, evpl_slab_alloc(fd, length, &offset));
	entries = map(fd, 4096, setup.out_refs_offset, PROT_READ | PROT_WRITE);
	ASSERT_NE(NULL, entries);
	ASSERT_EQ(0, evpl_channel(fd, 1, ends));
	ASSERT_EQ(0, evpl_bind(fd, ends[0]));
	ASSERT_EQ(0, evpl_bind(self->lessee.fd, ends[1]));
	for (n = 0; n <= places; n++) {
		set(&entries[0].word, 1);
		ASSERT_EQ(1, evpl_send(ends[0], &sent, 1));
		if (n == places)
			break;
		ASSERT_EQ(1, evpl_recv(ends[1], &got[n % 2], 1));
		ASSERT_EQ(0, evpl_revoke(fd, offset));
		ASSERT_EQ(0, get(&entries[0].word));
	}
	EXPECT_EQ(places, read_counters().leases);
	EXPECT_EQ(-ENOSPC, evpl_recv(ends[1], &got[0], 1));
	EXPECT_EQ(1, fdinfo(ends[1], "evpl-records-to-read"));
	EXPECT_EQ(1, read_counters().records);
	EXPECT_EQ(1, get(&entries[0].word));

	EXPECT_EQ(1, let_go(&self->lessee, &got[1]));
	ASSERT_EQ(1, evpl_recv(ends[1], &got[0], 1));
	EXPECT_EQ(got[1].lease, got[0].lease);
	EXPECT_EQ(got[1].offset, got[0].offset);
	EXPECT_EQ(0, get(&self->lessee.leases[got[0].lease].word) - 1);
	EXPECT_EQ(1, let_go(&self->lessee, &got[0]));
	munmap(entries, 4096);
	close(ends[0]);
	close(ends[1]);
	close(fd);
	/* The other leases end with their client. */
	close_client(&self->lessee);
}

/* A page whose content a test supplies by userfaultfd(2). A task that touches it waits. */
struct served {
	int fd;
	struct evpl_record *page;
};

static int serve(struct served *served)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register range = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	served->fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (served->fd < 0 || page == MAP_FAILED)
		return -errno;
	served->page = page;
	range.range.start = (uintptr_t)page;
	range.range.len = 4096;
	return RESULT(ioctl(served->fd, UFFDIO_API, &api)) ?:
	       RESULT(ioctl(served->fd, UFFDIO_REGISTER, &range));
}

/* Whether a task waits for the page, or does so within 100 ms. */
static bool is_touched(struct served *served)
{
	struct pollfd news = { .fd = served->fd, .events = POLLIN };
	struct uffd_msg message;

	return poll(&news, 1, 100) == 1 &&
	       read(served->fd, &message, sizeof(message)) == sizeof(message) &&
	       message.event == UFFD_EVENT_PAGEFAULT;
}

static int give_page(struct served *served, const void *content)
{
	struct uffdio_copy copy = {
		.dst = (uintptr_t)served->page,
		.src = (uintptr_t)content,
		.len = 4096,
	};

	return RESULT(ioctl(served->fd, UFFDIO_COPY, &copy));
}

static void end_service(struct served *served)
{
	munmap(served->page, 4096);
	close(served->fd);
}

/* A read or a write of an end, by a thread of its own. */
struct call {
	int end;
	struct evpl_record *record;
	bool writes;
	int result;
	pthread_t thread;
};

static void *make_call(void *arg)
{
	struct call *call = arg;

	call->result = call->writes ? evpl_send(call->end, call->record, 1) :
				      evpl_recv(call->end, call->record, 1);
	return NULL;
}

/*
 * Start the call, with its record in the served page, and wait until the call waits for that
 * page. Return false if it doesn't: it may have failed and ended before.
 */
static bool begin_call(struct call *call, struct served *served)
{
	call->record = served->page;
	if (pthread_create(&call->thread, NULL, make_call, call))
		return false;
	for (int tries = 0; tries < 10 * LIMIT; tries++) {
		if (is_touched(served))
			return true;
		if (!pthread_tryjoin_np(call->thread, NULL))
			return false;
	}
	return false;
}

/* Wait until the call returns. Return its result, or -ETIMEDOUT if it doesn't return. */
static int end_call(struct call *call)
{
	const struct timespec limit = { .tv_sec = time(NULL) + LIMIT };

	return -pthread_timedjoin_np(call->thread, NULL, &limit) ?: call->result;
}

TEST_F(channel, read_into_a_page_that_is_not_there_yet_holds_nobody_up)
{
	struct evpl_record sent[2] = {
		fill(&self->owner, 1, 'x'), fill(&self->owner, 2, 'y'),
	};
	struct evpl_record got;
	char content[4096] = { 0 };
	struct served served;
	struct call call = { .end = self->ends[1] };
	int ret = serve(&served);

	if (ret == -ENOSYS)
		SKIP(return, "no userfaultfd");
	ASSERT_EQ(0, ret);
	ASSERT_EQ(1, evpl_send(self->ends[0], &sent[0], 1));
	ASSERT_EQ(1, evpl_recv(self->ends[1], &got, 1));
	sent[1].cookie = 17;
	ASSERT_EQ(1, evpl_send(self->ends[0], &sent[1], 1));
	ASSERT_TRUE(begin_call(&call, &served));

	/* Meanwhile the receiver, the owner and the end all still work. */
	EXPECT_EQ(-EAGAIN, evpl_recv(self->ends[1], &got, 1));
	EXPECT_EQ(POLLOUT, events_of(self->ends[1]));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
	EXPECT_EQ(0, evpl_lease_pull(self->owner.fd));
	set(&self->owner.entries[1].word, 1);
	EXPECT_EQ(1, evpl_send(self->ends[0], &sent[0], 1));
	EXPECT_EQ(0, evpl_revoke(self->owner.fd, 2 * BUFFER));
	EXPECT_EQ(0, get(&self->owner.entries[2].word));

	/* The buffer has been revoked meanwhile, and the record that it reads says so. */
	ASSERT_EQ(0, give_page(&served, content));
	EXPECT_EQ(1, end_call(&call));
	EXPECT_EQ(EVPL_RECORD_REVOKED, served.page->flags);
	EXPECT_EQ(EVPL_LEASE_NONE, served.page->lease);
	EXPECT_EQ(17, served.page->cookie);
	EXPECT_EQ(0, get(&self->owner.entries[2].word));
	EXPECT_EQ(0, read_counters().leases);
	ASSERT_EQ(1, evpl_recv(self->ends[1], &got, 1));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
	end_service(&served);
}

TEST_F(channel, poll_says_nothing_of_a_record_that_another_reads)
{
	struct epoll_event by_edges = { .events = EPOLLIN | EPOLLET };
	struct epoll_event by_level = { .events = EPOLLIN };
	struct evpl_record sent = fill(&self->owner, 1, 'x'), got;
	int edge = epoll_create1(EPOLL_CLOEXEC), level = epoll_create1(EPOLL_CLOEXEC);
	char content[4096] = { 0 };
	struct served served;
	struct call call = { .end = self->ends[1] };
	int ret = serve(&served);

	if (ret == -ENOSYS)
		SKIP(return, "no userfaultfd");
	ASSERT_EQ(0, ret);
	set(&self->owner.entries[1].word, 2);
	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	EXPECT_EQ(POLLIN | POLLOUT, events_of(self->ends[1]));
	ASSERT_TRUE(begin_call(&call, &served));

	EXPECT_EQ(POLLOUT, events_of(self->ends[1]));
	ASSERT_EQ(0, epoll_ctl(edge, EPOLL_CTL_ADD, self->ends[1], &by_edges));
	ASSERT_EQ(0, epoll_ctl(level, EPOLL_CTL_ADD, self->ends[1], &by_level));
	EXPECT_EQ(0, edges(edge));
	EXPECT_EQ(0, edges(level));
	/* The next record can't be read either, while another task reads the first. */
	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	EXPECT_EQ(POLLOUT, events_of(self->ends[1]));
	EXPECT_EQ(0, edges(edge));
	EXPECT_EQ(0, edges(level));
	EXPECT_EQ(-EAGAIN, evpl_recv(self->ends[1], &got, 1));

	ASSERT_EQ(0, give_page(&served, content));
	EXPECT_EQ(1, end_call(&call));
	EXPECT_EQ(POLLIN | POLLOUT, events_of(self->ends[1]));
	EXPECT_EQ(EPOLLIN, edges(edge));
	EXPECT_EQ(0, edges(edge));
	EXPECT_EQ(EPOLLIN, edges(level));
	ASSERT_EQ(1, evpl_recv(self->ends[1], &got, 1));
	EXPECT_EQ(0, edges(level));
	EXPECT_EQ(2, get(&self->lessee.leases[got.lease].word));
	end_service(&served);
	close(edge);
	close(level);
}

TEST_F(channel, poll_tells_of_a_record_that_a_reader_gives_back)
{
	struct epoll_event by_edges = { .events = EPOLLIN | EPOLLET };
	struct epoll_event by_level = { .events = EPOLLIN };
	struct evpl_record sent = fill(&self->owner, 1, 'x'), got;
	int edge = epoll_create1(EPOLL_CLOEXEC), level = epoll_create1(EPOLL_CLOEXEC);
	struct served served;
	struct call call = { .end = self->ends[1] };
	int ret = serve(&served);

	if (ret == -ENOSYS)
		SKIP(return, "no userfaultfd");
	ASSERT_EQ(0, ret);
	ASSERT_EQ(0, epoll_ctl(level, EPOLL_CTL_ADD, self->ends[1], &by_level));
	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	EXPECT_EQ(EPOLLIN, edges(level));
	ASSERT_TRUE(begin_call(&call, &served));
	EXPECT_EQ(0, edges(level));
	ASSERT_EQ(0, epoll_ctl(edge, EPOLL_CTL_ADD, self->ends[1], &by_edges));
	EXPECT_EQ(0, edges(edge));

	/* The page is unmapped, so the record can't be copied out. */
	end_service(&served);
	EXPECT_EQ(-EFAULT, end_call(&call));
	EXPECT_EQ(1, fdinfo(self->ends[1], "evpl-records-to-read"));
	EXPECT_EQ(EPOLLIN, edges(level));
	EXPECT_EQ(EPOLLIN, edges(edge));
	EXPECT_EQ(0, edges(edge));
	ASSERT_EQ(1, evpl_recv(self->ends[1], &got, 1));
	EXPECT_EQ(0, edges(level));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
	close(edge);
	close(level);
}

TEST_F(channel, poll_tells_of_the_end_when_the_last_record_has_been_read)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLET };
	struct evpl_record sent = fill(&self->owner, 1, 'x'), got;
	int epoll = epoll_create1(EPOLL_CLOEXEC);
	char content[4096] = { 0 };
	struct served served;
	struct call call = { .end = self->ends[1] };
	int ret = serve(&served);

	if (ret == -ENOSYS)
		SKIP(return, "no userfaultfd");
	ASSERT_EQ(0, ret);
	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	ASSERT_TRUE(begin_call(&call, &served));
	ASSERT_EQ(0, epoll_ctl(epoll, EPOLL_CTL_ADD, self->ends[1], &event));
	close(self->ends[0]);
	EXPECT_EQ(POLLHUP, events_of(self->ends[1]));
	EXPECT_EQ(EPOLLHUP, edges(epoll));
	EXPECT_EQ(-EAGAIN, evpl_recv(self->ends[1], &got, 1));

	ASSERT_EQ(0, give_page(&served, content));
	EXPECT_EQ(1, end_call(&call));
	EXPECT_EQ(EPOLLIN | EPOLLHUP, edges(epoll));
	EXPECT_EQ(0, evpl_recv(self->ends[1], &got, 1));
	EXPECT_EQ(1, let_go(&self->lessee, served.page));
	end_service(&served);
	close(epoll);
}

TEST_F(channel, client_that_goes_while_a_record_is_copied_out_leaves_nothing_behind)
{
	struct evpl_record sent[2] = {
		fill(&self->owner, 1, 'x'), fill(&self->owner, 2, 'y'),
	};
	char content[4096] = { 0 };
	struct served served;
	struct call call = { .end = self->ends[1] };
	int ret = serve(&served);

	if (ret == -ENOSYS)
		SKIP(return, "no userfaultfd");
	ASSERT_EQ(0, ret);
	ASSERT_EQ(2, evpl_send(self->ends[0], sent, 2));
	ASSERT_TRUE(begin_call(&call, &served));

	close_client(&self->lessee);
	EXPECT_EQ(1, get(&self->owner.entries[1].word));
	EXPECT_EQ(0, get(&self->owner.entries[2].word));
	EXPECT_EQ(1, read_counters().records);
	EXPECT_EQ(POLLIN | POLLHUP, events_of(self->ends[0]));
	EXPECT_EQ(-ENOTCONN, evpl_recv(self->ends[1], sent, 1));

	ASSERT_EQ(0, give_page(&served, content));
	EXPECT_EQ(-ENOTCONN, end_call(&call));
	EXPECT_EQ(0, get(&self->owner.entries[1].word));
	EXPECT_EQ(0, read_counters().records);
	EXPECT_EQ(0, read_counters().shares);
	end_service(&served);
}

TEST_F(channel, record_of_ones_own_is_nobodys_when_its_client_goes_meanwhile)
{
	struct evpl_record sent = fill(&self->owner, 1, 'x'), got;
	char content[4096] = { 0 };
	struct served served;
	struct call call = { 0 };
	int ends[2], ret = serve(&served);

	if (ret == -ENOSYS)
		SKIP(return, "no userfaultfd");
	ASSERT_EQ(0, ret);
	ASSERT_EQ(0, evpl_channel(self->lessee.fd, 8, ends));
	ASSERT_EQ(0, evpl_bind(self->owner.fd, ends[0]));
	ASSERT_EQ(0, evpl_bind(self->owner.fd, ends[1]));
	ASSERT_EQ(1, evpl_send(ends[0], &sent, 1));
	call.end = ends[1];
	ASSERT_TRUE(begin_call(&call, &served));

	close_client(&self->owner);
	EXPECT_EQ(-ENOTCONN, evpl_recv(ends[1], &got, 1));
	EXPECT_EQ(0, fdinfo(ends[1], "evpl-bound"));
	ASSERT_EQ(0, give_page(&served, content));
	EXPECT_EQ(-ENOTCONN, end_call(&call));
	EXPECT_EQ(0, read_counters().records);
	end_service(&served);
	close(ends[0]);
	close(ends[1]);
}

TEST_F(channel, reader_that_another_holds_up_has_the_next_record)
{
	struct evpl_record sent[2] = {
		fill(&self->owner, 1, 'x'), fill(&self->owner, 2, 'y'),
	};
	struct evpl_record got[2];
	char content[4096] = { 0 };
	struct served served;
	struct call calls[3];
	int ret = serve(&served);

	if (ret == -ENOSYS)
		SKIP(return, "no userfaultfd");
	ASSERT_EQ(0, ret);
	ASSERT_EQ(0, fcntl(self->ends[1], F_SETFL, 0));
	for (int i = 0; i < 3; i++)
		calls[i] = (struct call){ .end = self->ends[1] };
	ASSERT_EQ(1, evpl_send(self->ends[0], &sent[0], 1));
	ASSERT_TRUE(begin_call(&calls[0], &served));
	for (int i = 1; i < 3; i++) {
		calls[i].record = &got[i - 1];
		ASSERT_EQ(0, pthread_create(&calls[i].thread, NULL, make_call, &calls[i]));
	}
	usleep(100 * 1000);
	set(&self->owner.entries[2].word, 3);
	ASSERT_EQ(1, evpl_send(self->ends[0], &sent[1], 1));
	usleep(100 * 1000);
	EXPECT_EQ(2, read_counters().records);

	ASSERT_EQ(0, give_page(&served, content));
	EXPECT_EQ(1, end_call(&calls[0]));
	/* Only the end of the first call can wake one of the other readers. */
	for (int i = 0; i < 100 && read_counters().records; i++)
		usleep(100 * 1000);
	EXPECT_EQ(0, read_counters().records);
	ASSERT_EQ(1, evpl_send(self->ends[0], &sent[1], 1));
	for (int i = 1; i < 3; i++)
		EXPECT_EQ(1, end_call(&calls[i]));
	EXPECT_EQ(got[0].lease, got[1].lease);
	EXPECT_NE(got[0].lease, served.page->lease);
	EXPECT_EQ(2, get(&self->lessee.leases[got[0].lease].word));
	EXPECT_EQ(1, get(&self->lessee.leases[served.page->lease].word));
	end_service(&served);
}

TEST_F(channel, write_from_a_page_that_is_not_there_yet_holds_nobody_up)
{
	struct evpl_record sent = fill(&self->owner, 1, 'x'), got;
	char content[4096] = { 0 };
	struct served served;
	struct call call = { .end = self->ends[0], .writes = true };
	int ret = serve(&served);

	if (ret == -ENOSYS)
		SKIP(return, "no userfaultfd");
	ASSERT_EQ(0, ret);
	memcpy(content, &sent, sizeof(sent));
	ASSERT_TRUE(begin_call(&call, &served));

	fill(&self->owner, 2, 'y');
	sent.offset = 2 * BUFFER;
	EXPECT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	EXPECT_EQ(1, evpl_recv(self->ends[1], &got, 1));
	EXPECT_EQ(0, evpl_revoke(self->owner.fd, 2 * BUFFER));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
	close_client(&self->lessee);

	ASSERT_EQ(0, give_page(&served, content));
	EXPECT_EQ(-EPIPE, end_call(&call));
	EXPECT_EQ(1, get(&self->owner.entries[1].word));
	EXPECT_EQ(0, read_counters().shares);
	end_service(&served);
}

TEST_F(channel, RWF_NOWAIT_is_EOPNOTSUPP_and_moves_nothing)
{
	struct evpl_record sent = fill(&self->owner, 1, 'x'), got;
	struct iovec from = { .iov_base = &sent, .iov_len = sizeof(sent) };
	struct iovec to = { .iov_base = &got, .iov_len = sizeof(got) };

	for (int i = 0; i < 2; i++) {
		for (int j = 0; j < 2; j++)
			ASSERT_EQ(0, fcntl(self->ends[j], F_SETFL, i ? O_NONBLOCK : 0));
		set(&self->owner.entries[1].word, 1);
		EXPECT_EQ(-EOPNOTSUPP, RESULT(pwritev2(self->ends[0], &from, 1, -1, RWF_NOWAIT)));
		EXPECT_EQ(0, fdinfo(self->ends[1], "evpl-records-to-read"));
		EXPECT_EQ(1, get(&self->owner.entries[1].word));
		EXPECT_EQ(0, read_counters().shares);
		ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
		EXPECT_EQ(-EOPNOTSUPP, RESULT(preadv2(self->ends[1], &to, 1, -1, RWF_NOWAIT)));
		EXPECT_EQ(1, fdinfo(self->ends[1], "evpl-records-to-read"));
		EXPECT_EQ(0, read_counters().leases);
		ASSERT_EQ(1, evpl_recv(self->ends[1], &got, 1));
		EXPECT_EQ(1, let_go(&self->lessee, &got));
	}
}

static struct io_uring_sqe request(uint8_t opcode, int end, struct evpl_record *record)
{
	return (struct io_uring_sqe){
		.opcode = opcode,
		.fd = end,
		.addr = (uintptr_t)record,
		.len = sizeof(*record),
		.user_data = opcode,
	};
}

TEST_F(channel, ring_reads_and_writes_an_end_as_soon_as_it_can)
{
	struct evpl_record sent[8], got[8], one = fill(&self->owner, 1, 'x');
	struct io_uring_sqe sqe;
	struct ring ring;

	ASSERT_TRUE(ring_open(&ring));
	for (int i = 0; i < 8; i++)
		sent[i] = one;
	/* Blocking and O_NONBLOCK ends; without IOSQE_ASYNC, and with it, so that a worker acts. */
	for (int i = 0; i < 4; i++) {
		for (int j = 0; j < 2; j++)
			ASSERT_EQ(0, fcntl(self->ends[j], F_SETFL, i & 1 ? O_NONBLOCK : 0));
		sqe = request(IORING_OP_READ, self->ends[1], got);
		sqe.flags = i & 2 ? IOSQE_ASYNC : 0;
		ASSERT_EQ(0, ring_submit(&ring, &sqe));
		EXPECT_FALSE(ring_has_result(&ring));
		set(&self->owner.entries[1].word, 1);
		ASSERT_EQ(1, evpl_send(self->ends[0], &one, 1));
		ASSERT_EQ(sizeof(*got), ring_wait(&ring)) {
			TH_LOG("case %d", i);
		}
		EXPECT_EQ(0, read_counters().records);
		EXPECT_EQ(1, get(&self->lessee.leases[got->lease].word));
		EXPECT_EQ(1, let_go(&self->lessee, got));

		set(&self->owner.entries[1].word, 9);
		ASSERT_EQ(8, evpl_send(self->ends[0], sent, 8));
		sqe = request(IORING_OP_WRITE, self->ends[0], &one);
		sqe.flags = i & 2 ? IOSQE_ASYNC : 0;
		ASSERT_EQ(0, ring_submit(&ring, &sqe));
		EXPECT_FALSE(ring_has_result(&ring));
		EXPECT_EQ(8, read_counters().records);
		ASSERT_EQ(1, evpl_recv(self->ends[1], got, 1));
		ASSERT_EQ(sizeof(one), ring_wait(&ring)) {
			TH_LOG("case %d", i);
		}
		EXPECT_EQ(8, fdinfo(self->ends[1], "evpl-records-to-read"));
		EXPECT_EQ(1, get(&self->owner.entries[1].word));
		ASSERT_EQ(8, evpl_recv(self->ends[1], got, 8));
		EXPECT_EQ(9, get(&self->lessee.leases[got->lease].word));
		set(&self->lessee.leases[got->lease].word, 1);
		EXPECT_EQ(1, let_go(&self->lessee, got));
	}
	ring_close(&ring);
}

/* Cancel a request that was submitted. Return the request's result. */
static int cancel(struct ring *ring, const struct io_uring_sqe *sqe)
{
	int results[2] = { 0 };
	uint64_t user_data = 0;
	int ret = ring_submit(ring, &(struct io_uring_sqe){
		.opcode = IORING_OP_ASYNC_CANCEL,
		.addr = sqe->user_data,
		.user_data = IORING_OP_ASYNC_CANCEL,
	});

	if (ret)
		return ret;
	/* The request and the cancellation both have a result. */
	for (int i = 0; i < 2; i++) {
		ret = ring_result(ring, &user_data);
		if (ret == -ETIME)
			return ret;
		results[user_data == sqe->user_data] = ret;
	}
	return results[1];
}

TEST_F(channel, ring_that_cancels_a_read_takes_no_record)
{
	struct evpl_record sent = fill(&self->owner, 1, 'x'), got, mine = { .length = 0 };
	struct io_uring_sqe sqe = request(IORING_OP_READ, self->ends[1], &mine);
	struct ring ring;

	for (int i = 0; i < 2; i++) {
		ASSERT_EQ(0, fcntl(self->ends[1], F_SETFL, i ? O_NONBLOCK : 0));
		ASSERT_TRUE(ring_open(&ring));
		ASSERT_EQ(0, ring_submit(&ring, &sqe));
		EXPECT_EQ(-ECANCELED, cancel(&ring, &sqe));
		set(&self->owner.entries[1].word, 1);
		ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
		EXPECT_EQ(1, fdinfo(self->ends[1], "evpl-records-to-read"));
		ASSERT_EQ(1, evpl_recv(self->ends[1], &got, 1));
		EXPECT_EQ(1, let_go(&self->lessee, &got));
		EXPECT_EQ(0, mine.length);
		ring_close(&ring);
	}
}

TEST_F(channel, ring_that_goes_lets_go_of_the_end_that_it_reads)
{
	struct io_uring_sqe sqe;
	struct evpl_record got;
	struct pollfd gone = { .fd = self->ends[0] };
	struct ring ring;

	ASSERT_EQ(0, fcntl(self->ends[1], F_SETFL, 0));
	ASSERT_TRUE(ring_open(&ring));
	sqe = request(IORING_OP_READ, self->ends[1], &got);
	ASSERT_EQ(0, ring_submit(&ring, &sqe));
	close(self->ends[1]);
	EXPECT_EQ(POLLOUT, events_of(self->ends[0]));
	ring_close(&ring);
	EXPECT_EQ(1, poll(&gone, 1, LIMIT * 1000));
	EXPECT_EQ(POLLHUP, gone.revents);
}

TEST_F(channel, worker_of_a_ring_that_sleeps_in_a_read_can_be_stopped)
{
	struct evpl_record sent = fill(&self->owner, 1, 'x'), got;
	char content[4096] = { 0 };
	struct io_uring_sqe sqe;
	struct served served;
	struct ring ring;
	struct call call = { .end = self->ends[1] };
	int ret = serve(&served);
	pid_t child;

	if (ret == -ENOSYS)
		SKIP(return, "no userfaultfd");
	ASSERT_EQ(0, ret);
	ASSERT_EQ(0, fcntl(self->ends[1], F_SETFL, 0));
	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	ASSERT_TRUE(begin_call(&call, &served));
	/* poll says POLLHUP, so the worker reads instead of polling, and is turned away. */
	close(self->ends[0]);
	sqe = request(IORING_OP_READ, self->ends[1], &got);
	sqe.flags = IOSQE_ASYNC;

	ASSERT_TRUE(ring_open(&ring));
	ASSERT_EQ(0, ring_submit(&ring, &sqe));
	usleep(100 * 1000);
	EXPECT_FALSE(ring_has_result(&ring));
	ret = cancel(&ring, &sqe);
	/* -ECANCELED: the worker had not begun yet. */
	EXPECT_TRUE(ret == -EINTR || ret == -ECANCELED) {
		TH_LOG("%d", ret);
	}
	ring_close(&ring);

	child = fork_child();
	if (!child) {
		ret = ring_open(&ring) && !ring_submit(&ring, &sqe) ? 0 : 1;
		usleep(100 * 1000);
		_exit(ret);
	}
	EXPECT_EQ(0, reap(child));

	ASSERT_EQ(0, give_page(&served, content));
	EXPECT_EQ(1, end_call(&call));
	EXPECT_EQ(1, let_go(&self->lessee, served.page));
	EXPECT_EQ(0, evpl_recv(self->ends[1], &got, 1));
	end_service(&served);
}

TEST_HARNESS_MAIN
