// SPDX-License-Identifier: GPL-2.0-only
/*
 * Shares: a buffer that its owner has sent comes back when nobody else has a part in it. The
 * owner can pull it or revoke it, and may go before it has come back.
 */
#include "pair.h"

FIXTURE(share)
{
	PAIR;
};

FIXTURE_SETUP(share)
{
	open_nonblocking_pair(_metadata, &self->pair, 0);
}

FIXTURE_TEARDOWN(share)
{
	close_pair(&self->pair);
	EXPECT_TRUE(counters_return_to(self->before));
}

TEST_F(share, records_of_one_buffer_share_a_lease_whose_word_counts_them)
{
	struct evpl_record sent[3], got[3];

	sent[0] = sent[1] = sent[2] = fill(&self->owner, 5, 'x');
	set_count(&self->owner.entries[5].word, 4);
	ASSERT_EQ(3, evpl_send(self->ends[0], sent, 3));
	/* The word has a flag for the three records; the owner still has a reference. */
	EXPECT_EQ(EVPL_WORD_SHARED | 1, get(&self->owner.entries[5].word));
	ASSERT_EQ(3, evpl_recv(self->ends[1], got, 3));
	EXPECT_EQ(got[0].lease, got[1].lease);
	EXPECT_EQ(got[0].lease, got[2].lease);
	EXPECT_EQ(got[0].offset, got[2].offset);
	EXPECT_EQ(3, get(&self->lessee.leases[got[0].lease].word));
	EXPECT_EQ(EVPL_WORD_SHARED | 1, get(&self->owner.entries[5].word));
	EXPECT_EQ(0, let_go(&self->lessee, &got[0]));
	EXPECT_EQ(0, let_go(&self->lessee, &got[1]));
	EXPECT_EQ(EVPL_WORD_SHARED | 1, get(&self->owner.entries[5].word));
	EXPECT_EQ(1, let_go(&self->lessee, &got[2]));
	EXPECT_EQ(1, get(&self->owner.entries[5].word));
	EXPECT_EQ(0, get(&self->owner.header->returned));
	/* To release a lease that has ended is no error. */
	EXPECT_EQ(0, evpl_lease_release(self->lessee.fd, &got[0].lease, 1));
}

TEST_F(share, word_has_the_owners_references_and_a_flag_for_the_kernels)
{
	struct evpl_record sent = fill(&self->owner, 5, 'x'), got[3];
	__u64 *word = &self->owner.entries[5].word;

	set_count(word, 2);
	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	EXPECT_EQ(EVPL_WORD_SHARED | 1, get(word));
	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	EXPECT_EQ(EVPL_WORD_SHARED, get(word));
	/* The flag is no reference that the owner could give. */
	EXPECT_EQ(-ESTALE, evpl_send(self->ends[0], &sent, 1));
	EXPECT_EQ(EVPL_WORD_SHARED, get(word));
	EXPECT_EQ(2, read_counters().records);

	/* The owner takes references and drops them meanwhile. The last one isn't the end. */
	__atomic_fetch_add(word, 2, __ATOMIC_RELAXED);
	ASSERT_EQ(2, evpl_recv(self->ends[1], got, 2));
	EXPECT_EQ(EVPL_WORD_SHARED | 2, get(word));
	EXPECT_EQ(EVPL_WORD_SHARED, __atomic_sub_fetch(word, 2, __ATOMIC_RELEASE));
	EXPECT_EQ(0, let_go(&self->lessee, &got[0]));
	EXPECT_EQ(EVPL_WORD_SHARED, get(word));
	EXPECT_EQ(0, get(&self->owner.header->returned));
	EXPECT_EQ(1, let_go(&self->lessee, &got[1]));
	EXPECT_EQ(0, get(word));
	EXPECT_TRUE(bit(self->owner.returned, 5));

	/* All references go in one call. */
	set_count(word, 3);
	set(&self->owner.returned[0], 0);
	set(&self->owner.header->returned, 0);
	ASSERT_EQ(3, evpl_send(self->ends[0], (struct evpl_record[]){ sent, sent, sent }, 3));
	EXPECT_EQ(EVPL_WORD_SHARED, get(word));
	/* The owner has a reference when the share goes, so nothing is reported. */
	__atomic_fetch_add(word, 1, __ATOMIC_RELAXED);
	EXPECT_EQ(0, evpl_revoke(self->owner.fd, 5 * BUFFER));
	EXPECT_EQ(1, get(word));
	EXPECT_FALSE(bit(self->owner.returned, 5));
	EXPECT_EQ(0, get(&self->owner.header->returned));
	ASSERT_EQ(3, evpl_recv(self->ends[1], got, 3));
}

TEST_F(share, flag_that_its_owner_changes_ends_nothing_too_early)
{
	static const __u64 words[] = { 0, 1, EVPL_WORD_COUNT, ~0ULL, 1ULL << 63 };
	struct evpl_record sent, got;
	__u64 *word = &self->owner.entries[5].word;

	for (int i = 0; i < ARRAY_SIZE(words); i++) {
		set(word, 0);
		sent = fill(&self->owner, 5, 'x');
		ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
		set(word, words[i]);
		EXPECT_EQ(-EBUSY, evpl_slab_free(self->owner.fd, 0));
		ASSERT_EQ(1, evpl_recv(self->ends[1], &got, 1));
		EXPECT_TRUE(is_filled_with(memory_of(&self->lessee, &got), 'x', BUFFER));
		EXPECT_EQ(1, let_go(&self->lessee, &got));
		/* The kernel subtracts, whatever is there. */
		EXPECT_EQ(words[i] - EVPL_WORD_SHARED, get(word));
		EXPECT_EQ(0, read_counters().shares);
	}
	set(word, 0);
	EXPECT_EQ(0, evpl_slab_free(self->owner.fd, 0));
}

TEST_F(share, reference_that_comes_home_is_in_the_owners_word_again)
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
	EXPECT_EQ(EVPL_WORD_SHARED | EVPL_WORD_PASSED_ON, get(&self->owner.entries[7].word));

	ASSERT_EQ(1, evpl_recv(self->ends[0], &got, 1));
	EXPECT_EQ(EVPL_LEASE_NONE, got.lease);
	EXPECT_EQ(7 * BUFFER, got.offset);
	EXPECT_EQ(1, get(&self->owner.entries[7].word));
	EXPECT_EQ(0, read_counters().shares);
	EXPECT_EQ(0, get(&self->owner.header->returned));
}

TEST_F(share, buffer_that_the_kernel_takes_to_zero_is_reported)
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

TEST_F(share, records_over_three_hops_come_out_right_when_the_middle_dies)
{
	enum { K = 5 };
	/* The owner's word says so from the first record on that a lessee sends. */
	const uint64_t passed_on = EVPL_WORD_SHARED | EVPL_WORD_PASSED_ON;
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
	set_count(&self->owner.entries[6].word, K + 1);

	ASSERT_EQ(K, evpl_send(self->ends[0], sent, K));
	ASSERT_EQ(K, evpl_recv(self->ends[1], got, K));
	EXPECT_EQ(EVPL_WORD_SHARED | 1, get(&self->owner.entries[6].word));
	ASSERT_EQ(K - 1, evpl_send(first[0], got, K - 1));
	EXPECT_EQ(passed_on | 1, get(&self->owner.entries[6].word));
	ASSERT_EQ(K - 1, evpl_recv(first[1], got, K - 1));
	ASSERT_EQ(K - 2, evpl_send(second[0], got, K - 2));
	EXPECT_EQ(passed_on | 1, get(&self->owner.entries[6].word));
	/* The middle client has one reference left; K - 2 are on their way from it. */
	close_client(&middle);
	ASSERT_EQ(K - 2, evpl_recv(second[1], got, K - 2));
	EXPECT_EQ(K - 2, get(&last.leases[got[0].lease].word));
	EXPECT_TRUE(is_filled_with(memory_of(&last, got), 'x', BUFFER));
	EXPECT_EQ(passed_on | 1, get(&self->owner.entries[6].word));
	close_client(&last);
	EXPECT_EQ(passed_on | 1, get(&self->owner.entries[6].word));
	close_client(&self->lessee);
	EXPECT_EQ(1, get(&self->owner.entries[6].word));
	EXPECT_EQ(0, read_counters().shares);
	for (int i = 0; i < 2; i++) {
		close(first[i]);
		close(second[i]);
	}
}

TEST_F(share, owner_pulls_what_a_receiver_has_let_go_of_without_a_call)
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
	EXPECT_EQ(EVPL_WORD_SHARED, get(&self->owner.entries[2].word));
	EXPECT_EQ(SIGBUS, touch_read(memory_of(&self->lessee, &got[0])));
	EXPECT_EQ(0, touch_read(memory_of(&self->lessee, &got[1])));
	/* If the lessee then releases the lease as well, that is harmless. */
	EXPECT_EQ(0, evpl_lease_release(self->lessee.fd, &got[0].lease, 1));
	EXPECT_EQ(1, let_go(&self->lessee, &got[1]));
}

TEST_F(share, owner_that_pulled_has_what_is_in_use_as_soon_as_it_is_let_go_of)
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
	set_count(&self->owner.entries[1].word, 1);
	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	ASSERT_EQ(1, evpl_recv(self->ends[1], &got, 1));
	EXPECT_EQ(EVPL_WORD_WANTED | 2, get(word));
	EXPECT_EQ(0, let_go(&self->lessee, &got));
	EXPECT_EQ(0, events_of(self->owner.fd));

	/* The flag is no reference, and doesn't outlive the lease. */
	EXPECT_EQ(1, let_go(&self->lessee, &got));
	EXPECT_EQ(0, get(word));
	EXPECT_EQ(0, get(&self->owner.entries[1].word));
	set_count(&self->owner.entries[1].word, 1);
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

TEST_F(share, owner_that_pulled_is_heard_by_who_has_yet_to_read)
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
	set_count(&self->owner.entries[1].word, 1);
	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	ASSERT_EQ(1, evpl_recv(self->ends[1], &got, 1));
	EXPECT_EQ(1, get(&self->lessee.leases[got.lease].word));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
}

TEST_F(share, revoked_record_arrives_with_its_cookie_and_no_lease)
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

TEST_F(share, slab_with_a_shared_buffer_is_not_freed)
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

TEST_F(share, leased_memory_outlives_its_owner_folio_by_folio)
{
	struct evpl_record sent, got[2];
	struct counters now;
	uint64_t offset;

	/* Lease a buffer of each of two slabs. */
	ASSERT_EQ(0, evpl_slab_alloc(self->owner.fd, SLAB, &offset));
	munmap(self->owner.own, SLAB);
	self->owner.own = map(self->owner.fd, 2 * SLAB, 0, PROT_READ | PROT_WRITE);
	sent = fill(&self->owner, 0, 'x');
	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	sent = fill(&self->owner, SLAB / BUFFER, 'y');
	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	ASSERT_EQ(2, evpl_recv(self->ends[1], got, 2));

	munmap(self->owner.own + SLAB, SLAB);
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
				       struct _test_data_share *self, bool read)
{
	const long long folio = has_huge() ? SLAB_2M : PAGE, few_pages = 16 * PAGE;
	const long long own = 64 * MIB + 64 * MIB / PAGE * sizeof(struct evpl_entry);
	struct counters before = read_counters();
	struct evpl_record record = { .length = PAGE };
	struct evpl_entry *entries;
	struct evpl_setup setup;
	int fd, ends[2];
	uint64_t offset;

	fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	ASSERT_EQ(0, evpl_setup(fd, PAGE, &setup));
	ASSERT_EQ(0, evpl_slab_alloc(fd, 64 * MIB, &offset));
	entries = map(fd, PAGE, setup.out_refs_offset, PROT_READ | PROT_WRITE);
	ASSERT_NE(NULL, entries);
	set_count(&entries[0].word, 1);
	ASSERT_EQ(0, evpl_channel(fd, 1, ends));
	ASSERT_EQ(0, evpl_bind(fd, ends[0]));
	ASSERT_EQ(0, evpl_bind(self->lessee.fd, ends[1]));
	ASSERT_EQ(1, evpl_send(ends[0], &record, 1));
	if (read)
		ASSERT_EQ(1, evpl_recv(ends[1], &record, 1));
	EXPECT_LE(before.charged + own, read_counters().charged);
	munmap(entries, PAGE);
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

TEST_F(share, owner_that_goes_leaves_the_folio_of_a_lease_and_no_entries)
{
	check_what_an_owner_leaves(_metadata, self, true);
}

TEST_F(share, owner_that_goes_leaves_the_folio_of_a_record_and_no_entries)
{
	check_what_an_owner_leaves(_metadata, self, false);
}

TEST_F(share, owner_that_asked_for_it_takes_its_leases_along)
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

TEST_HARNESS_MAIN
