// SPDX-License-Identifier: GPL-2.0-only
/*
 * Leases: which memory a lease shows and to whom, how a lessee can use that memory, and how a
 * lease ends. The owner's side, with pull and revoke, is in share.c.
 */
#include <linux/mempolicy.h>
#include <pthread.h>
#include <sys/resource.h>

#include "futex.h"
#include "pair.h"
#include "ring.h"

FIXTURE(lease)
{
	PAIR;
	int pipe[2];
};

FIXTURE_SETUP(lease)
{
	open_nonblocking_pair(_metadata, &self->pair, 0);
	ASSERT_EQ(0, pipe2(self->pipe, O_CLOEXEC | O_NONBLOCK));
}

FIXTURE_TEARDOWN(lease)
{
	close(self->pipe[0]);
	close(self->pipe[1]);
	close_pair(&self->pair);
	EXPECT_TRUE(counters_return_to(self->before));
}

TEST_F(lease, record_gives_a_lease_that_shows_the_buffer_until_it_is_released)
{
	struct evpl_record sent = fill(&self->owner, 3, 'x'), got;
	char *memory;

	sent.cookie = 0x0123456789abcdef;
	sent.offset += 100;
	sent.length = 1000;
	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	/* The reference is the kernel's now, and the word says so. */
	EXPECT_EQ(EVPL_WORD_SHARED, get(&self->owner.entries[3].word));
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
	EXPECT_EQ(EVPL_WORD_SHARED, get(&self->owner.entries[3].word));
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

TEST_F(lease, what_is_next_to_a_leased_buffer_is_never_seen)
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

TEST_F(lease, lease_for_reading_can_not_be_written_and_one_for_writing_can)
{
	struct evpl_record sent = fill(&self->owner, 0, 'x'), got;
	char *memory;

	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	ASSERT_EQ(1, evpl_recv(self->ends[1], &got, 1));
	memory = memory_of(&self->lessee, &got);
	EXPECT_EQ(0, touch_read(memory));
	EXPECT_EQ(SIGSEGV, touch_write(memory));
	EXPECT_EQ(-EACCES, RESULT(mprotect(self->lessee.guest_ro, PAGE,
					   PROT_READ | PROT_WRITE)));
	EXPECT_EQ(MAP_FAILED, mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED,
				   self->lessee.fd,
				   self->lessee.setup.out_guest_ro_offset));
	EXPECT_EQ(EACCES, errno);
	EXPECT_EQ(1, let_go(&self->lessee, &got));

	set_count(&self->owner.entries[0].word, 1);
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

TEST_F(lease, leases_of_a_client_that_goes_are_given_back)
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

TEST_F(lease, revoked_lease_raises_SIGBUS_and_is_reported)
{
	struct evpl_record sent = fill(&self->owner, 4, 'x'), got, again;
	char *memory;

	set_count(&self->owner.entries[4].word, 2);
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
	EXPECT_EQ(-ENOENT, evpl_revoke(self->owner.fd, 4 * BUFFER + PAGE));
	EXPECT_EQ(-ENOENT, evpl_revoke(self->owner.fd, SLAB));
}

TEST_F(lease, revoked_lease_shows_zeros_to_who_asked_for_them)
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

TEST_F(lease, release_of_what_is_no_number_is_EINVAL_and_releases_nothing)
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

TEST_F(lease, idle_lease_outlives_a_read_into_a_page_that_is_not_there_yet)
{
	struct evpl_record sent = fill(&self->owner, 1, 'x'), got;
	struct evpl_record *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
					MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct evpl_entry *lease;
	struct rusage before, after;
	char *memory;

	ASSERT_NE(MAP_FAILED, page);
	/* NUMA balancing would add page faults, but not to a task that has a policy. */
	syscall(SYS_set_mempolicy, MPOL_LOCAL, NULL, 0);
	set_count(&self->owner.entries[1].word, 2);
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
	munmap(page, PAGE);
}

TEST_F(lease, idle_lease_ends_when_its_buffer_is_revoked)
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

TEST_F(lease, leased_buffer_can_not_be_pinned)
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

TEST_F(lease, guest_windows_and_words_are_not_inherited)
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
	EXPECT_EQ(-EINVAL, RESULT(madvise(self->lessee.guest_ro, PAGE,
					  MADV_DOFORK)));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
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

TEST_F(lease, word_of_a_lease_that_changes_while_it_is_looked_at_ends_nothing_too_early)
{
	struct evpl_record sent = fill(&self->owner, 1, 'x'), got;
	struct flipper flipper = { .stop = false };
	pthread_t thread;

	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	ASSERT_EQ(1, evpl_recv(self->ends[1], &got, 1));
	flipper.word = (uint64_t *)&self->lessee.leases[got.lease].word;
	ASSERT_EQ(0, pthread_create(&thread, NULL, flip_word, &flipper));
	for (int i = 0; i < scaled(100000); i++) {
		ASSERT_EQ(0, evpl_lease_release(self->lessee.fd, &got.lease, 1));
		ASSERT_EQ(0, evpl_lease_pull(self->owner.fd));
	}
	EXPECT_EQ(0, touch_read(memory_of(&self->lessee, &got)));
	__atomic_store_n(&flipper.stop, true, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	set(flipper.word, 1);
	EXPECT_EQ(1, let_go(&self->lessee, &got));
}

TEST_F(lease, record_that_finds_no_place_left_is_ENOSPC_and_stays)
{
	const uint64_t length = 64 * MIB, places = (1ULL << 37) / length;
	struct evpl_setup setup = { .size = sizeof(setup), .buffer_size = length };
	struct evpl_record sent = { .length = 1 }, got[2];
	struct evpl_entry *entries;
	uint64_t offset, n;
	int fd, ends[2];

	/* A lessee that doesn't release its revoked leases uses up the places of the window. */
	fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	ASSERT_EQ(0, RESULT(ioctl(fd, EVPL_SETUP, &setup)));
	ASSERT_EQ(0, evpl_slab_alloc(fd, length, &offset));
	entries = map(fd, PAGE, setup.out_refs_offset, PROT_READ | PROT_WRITE);
	ASSERT_NE(NULL, entries);
	ASSERT_EQ(0, evpl_channel(fd, 1, ends));
	ASSERT_EQ(0, evpl_bind(fd, ends[0]));
	ASSERT_EQ(0, evpl_bind(self->lessee.fd, ends[1]));
	for (n = 0; n <= places; n++) {
		set_count(&entries[0].word, 1);
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
	EXPECT_EQ(EVPL_WORD_SHARED, get(&entries[0].word));

	EXPECT_EQ(1, let_go(&self->lessee, &got[1]));
	ASSERT_EQ(1, evpl_recv(ends[1], &got[0], 1));
	EXPECT_EQ(got[1].lease, got[0].lease);
	EXPECT_EQ(got[1].offset, got[0].offset);
	EXPECT_EQ(0, get(&self->lessee.leases[got[0].lease].word) - 1);
	EXPECT_EQ(1, let_go(&self->lessee, &got[0]));
	munmap(entries, PAGE);
	close(ends[0]);
	close(ends[1]);
	close(fd);
	/* The other leases end with their client. */
	close_client(&self->lessee);
}

TEST_F(lease, device_lease_can_be_pinned_for_what_it_allows)
{
	struct evpl_record got;
	char *memory = lease(_metadata, &self->pair, 3, EVPL_RECORD_DEVICE, &got);
	char page[PAGE];
	int zero;

	EXPECT_GE(got.offset, self->lessee.setup.out_guest_io_ro_offset);
	EXPECT_TRUE(is_filled_with(memory, 'x', BUFFER));
	EXPECT_EQ(SIGSEGV, touch_write(memory));
	EXPECT_EQ(PAGE, into_pipe(self->pipe[1], memory, PAGE));
	memset(self->owner.own + 3 * BUFFER, 'y', BUFFER);
	EXPECT_EQ(PAGE, read(self->pipe[0], page, PAGE));
	EXPECT_TRUE(is_filled_with(page, 'y', PAGE));
	EXPECT_EQ(-EACCES, RESULT(mprotect(self->lessee.guest_io_ro, PAGE,
					   PROT_READ | PROT_WRITE)));
	EXPECT_EQ(MAP_FAILED, mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED,
				   self->lessee.fd, self->lessee.setup.out_guest_io_ro_offset));
	EXPECT_EQ(EACCES, errno);
	EXPECT_EQ(SIGBUS, touch_read(memory + BUFFER));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
	EXPECT_EQ(SIGBUS, touch_read(memory));
	EXPECT_EQ(0, get(&self->owner.entries[3].word));

	memory = lease(_metadata, &self->pair, 3, DEVICE_RW, &got);
	EXPECT_GE(got.offset, self->lessee.setup.out_guest_io_offset);
	EXPECT_LT(got.offset, self->lessee.setup.out_guest_io_ro_offset);
	zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	EXPECT_EQ(PAGE, read(zero, memory, PAGE));
	close(zero);
	EXPECT_TRUE(is_filled_with(self->owner.own + 3 * BUFFER, 0, PAGE));
	memset(memory, 'w', BUFFER);
	EXPECT_TRUE(is_filled_with(self->owner.own + 3 * BUFFER, 'w', BUFFER));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
	EXPECT_EQ(SIGBUS, touch_write(memory));
	EXPECT_EQ(0, read_counters().quarantined);
}

TEST_F(lease, only_who_may_have_devices_touch_a_buffer_can_allow_it)
{
	struct evpl_record got, sent;

	lease(_metadata, &self->pair, 0, EVPL_RECORD_WRITE, &got);
	sent = got;
	sent.flags = DEVICE_RW;
	EXPECT_EQ(-EACCES, evpl_send(self->ends[1], &sent, 1));
	sent.flags = EVPL_RECORD_DEVICE;
	EXPECT_EQ(-EACCES, evpl_send(self->ends[1], &sent, 1));
	EXPECT_EQ(1, get(&self->lessee.leases[got.lease].word));
	EXPECT_EQ(1, let_go(&self->lessee, &got));

	lease(_metadata, &self->pair, 0, EVPL_RECORD_DEVICE, &got);
	sent = got;
	sent.flags = DEVICE_RW;
	EXPECT_EQ(-EACCES, evpl_send(self->ends[1], &sent, 1));
	EXPECT_EQ(1, get(&self->lessee.leases[got.lease].word));
	/* It may send the buffer home with fewer rights. */
	sent.flags = 0;
	EXPECT_EQ(1, evpl_send(self->ends[1], &sent, 1));
	EXPECT_EQ(0, read_counters().leases);
	EXPECT_EQ(1, evpl_recv(self->ends[0], &got, 1));
	EXPECT_EQ(1, get(&self->owner.entries[0].word));
}

TEST_F(lease, leases_of_all_kinds_on_one_buffer_stand_side_by_side)
{
	static const uint32_t kinds[] = {
		0, EVPL_RECORD_WRITE, EVPL_RECORD_DEVICE, DEVICE_RW,
	};
	struct evpl_record sent = fill(&self->owner, 2, 'x'), got[4];

	set_count(&self->owner.entries[2].word, 4);
	for (int i = 0; i < 4; i++) {
		sent.flags = kinds[i];
		ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
		ASSERT_EQ(1, evpl_recv(self->ends[1], &got[i], 1));
		for (int j = 0; j < i; j++)
			EXPECT_NE(got[i].lease, got[j].lease);
		EXPECT_TRUE(is_filled_with(memory_of(&self->lessee, &got[i]), 'x', BUFFER));
	}
	EXPECT_EQ(4, read_counters().leases);
	EXPECT_EQ(EVPL_WORD_SHARED, get(&self->owner.entries[2].word));
	/* The leases for the CPU can't be pinned, although there are device leases. */
	for (int i = 0; i < 4; i++)
		EXPECT_EQ(kinds[i] & EVPL_RECORD_DEVICE ? PAGE : -EFAULT,
			  into_pipe(self->pipe[1], memory_of(&self->lessee, &got[i]), PAGE));
	for (int i = 0; i < 4; i++)
		EXPECT_EQ(1, let_go(&self->lessee, &got[i]));
	EXPECT_TRUE(is_quarantined(&self->owner, 2));
}

TEST_F(lease, touch_of_a_revoked_device_lease_finds_zeros_if_so_chosen)
{
	struct evpl_record got;
	char *memory, page[PAGE];

	close(self->ends[0]);
	close(self->ends[1]);
	close_client(&self->lessee);
	ASSERT_TRUE(open_client(&self->lessee, EVPL_SETUP_ZEROS));
	ASSERT_EQ(0, evpl_channel(self->owner.fd, 8, self->ends));
	ASSERT_EQ(0, evpl_bind(self->owner.fd, self->ends[0]));
	ASSERT_EQ(0, evpl_bind(self->lessee.fd, self->ends[1]));
	memory = lease(_metadata, &self->pair, 5, DEVICE_RW, &got);
	EXPECT_EQ(0, touch_write(memory));
	EXPECT_EQ(0, evpl_revoke(self->owner.fd, 5 * BUFFER));
	EXPECT_TRUE(is_filled_with(memory, 0, BUFFER));
	/* The page of zeros is the client's own, and may be pinned past the client's end. */
	EXPECT_EQ(PAGE, into_pipe(self->pipe[1], memory, PAGE));
	close_client(&self->lessee);
	EXPECT_EQ(PAGE, read_counters().detached);
	EXPECT_EQ(PAGE, read(self->pipe[0], page, PAGE));
	EXPECT_TRUE(is_filled_with(page, 0, PAGE));
	EXPECT_EQ(0, get(&self->owner.entries[5].word));
}

TEST_F(lease, cpu_lease_can_not_be_registered_beside_a_device_lease)
{
	struct evpl_record got, cpu;
	struct evpl_record sent = { .offset = 5 * BUFFER, .length = BUFFER,
				    .flags = EVPL_RECORD_WRITE };
	struct ring ring;

	ASSERT_TRUE(ring_open(&ring));
	lease(_metadata, &self->pair, 5, DEVICE_RW, &got);
	set_count(&self->owner.entries[5].word, 1);
	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	ASSERT_EQ(1, evpl_recv(self->ends[1], &cpu, 1));
	EXPECT_EQ(-EFAULT, ring_register(&ring, memory_of(&self->lessee, &cpu), BUFFER));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
	EXPECT_EQ(1, let_go(&self->lessee, &cpu));
	EXPECT_EQ(0, get(&self->owner.entries[5].word));
	ring_close(&ring);
}

/* How many bytes of a mapping are resident, as smaps says. */
static long long resident(const void *memory)
{
	unsigned long start, end;
	long long kib = -1;
	bool found = false;
	char line[512];
	FILE *smaps = fopen("/proc/self/smaps", "re");

	while (smaps && kib < 0 && fgets(line, sizeof(line), smaps)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			found = start <= (uintptr_t)memory && (uintptr_t)memory < end;
		else if (found && !strncmp(line, "Rss:", 4))
			kib = atoll(line + 4);
	}
	if (smaps)
		fclose(smaps);
	return kib < 0 ? -1 : kib * 1024;
}

/*
 * fork(2) would change the references and mappings of a folio without its lock, while the
 * kernel counts them.
 */
TEST_F(lease, fork_copies_no_mapping_of_a_device_lease)
{
	struct evpl_record got;
	char *memory = lease(_metadata, &self->pair, 5, DEVICE_RW, &got);
	long long found[2];
	int told[2];
	pid_t pid;

	EXPECT_TRUE(is_filled_with(memory, 'x', BUFFER));
	EXPECT_LE((long long)BUFFER, resident(memory));
	if (madvise(self->lessee.guest_io, self->lessee.setup.out_guest_size, MADV_DOFORK)) {
		/* Newer kernels have no child inherit such a window, as guest and guest-ro. */
		EXPECT_EQ(EINVAL, errno);
		pid = fork_child();
		if (!pid)
			_exit(touch_read(memory));
		EXPECT_EQ(SIGSEGV, reap(pid));
		return;
	}
	ASSERT_EQ(0, pipe2(told, O_CLOEXEC));
	pid = fork_child();
	if (!pid) {
		long long found[2] = { resident(memory) };

		/* The child can map the pages by faults of its own. */
		found[1] = is_filled_with(memory, 'x', BUFFER) ? resident(memory) : -1;
		if (write(told[1], found, sizeof(found)) != sizeof(found))
			_exit(1);
		for (;;)
			pause();
	}
	ASSERT_LT(0, pid);
	/* If the child ends early, the read from the pipe must end too. */
	close(told[1]);
	ASSERT_EQ(sizeof(found), read(told[0], found, sizeof(found)));
	close(told[0]);
	EXPECT_EQ(0, found[0]);
	EXPECT_LE((long long)BUFFER, found[1]);
	/* The child's mappings aren't counted, and end with the lease. */
	EXPECT_EQ(1, let_go(&self->lessee, &got));
	EXPECT_EQ(0, get(&self->owner.entries[5].word));
	EXPECT_EQ(0, read_counters().quarantined);
	kill(pid, SIGKILL);
	EXPECT_EQ(-SIGKILL, reap(pid));
}

TEST_F(lease, parts_of_a_device_lease_that_are_given_up_are_had_again)
{
	struct evpl_record got;
	char *memory = lease(_metadata, &self->pair, 5, DEVICE_RW, &got);

	EXPECT_TRUE(is_filled_with(memory, 'x', BUFFER));
	EXPECT_EQ(0, madvise(memory + PAGE, 2 * PAGE, MADV_DONTNEED));
	EXPECT_TRUE(is_filled_with(memory, 'x', BUFFER));
	madvise(memory, BUFFER, MADV_PAGEOUT);
	EXPECT_TRUE(is_filled_with(memory, 'x', BUFFER));
	EXPECT_EQ(0, mlock(memory, BUFFER));
	EXPECT_EQ(0, munlock(memory, BUFFER));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
	EXPECT_EQ(0, get(&self->owner.entries[5].word));
	EXPECT_EQ(0, read_counters().quarantined);
}

TEST_F(lease, futex_is_its_owners_where_devices_may_have_it_and_else_EFAULT)
{
	struct evpl_record record;
	struct sleeper sleeper;
	uint32_t *words;

	ASSERT_TRUE(lend(&self->owner, self->ends, 3, 0, EVPL_RECORD_WRITE, &record));
	words = (void *)memory_of(&self->lessee, &record);
	EXPECT_EQ(-1, futex(words + 5, FUTEX_WAIT, 0));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(-1, futex(words + 5, FUTEX_WAKE, 1));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(1, let_go(&self->lessee, &record));

	ASSERT_TRUE(lend(&self->owner, self->ends, 4, 0, DEVICE_RW, &record));
	words = (void *)memory_of(&self->lessee, &record);
	ASSERT_TRUE(begin_sleep(&sleeper, words + 5));
	EXPECT_EQ(0, futex((void *)(self->owner.own + 3 * BUFFER + 20), FUTEX_WAKE, 1));
	EXPECT_EQ(1, futex((void *)(self->owner.own + 4 * BUFFER + 20), FUTEX_WAKE, 1));
	EXPECT_EQ(0, end_sleep(&sleeper));
	ASSERT_TRUE(begin_sleep(&sleeper, (void *)(self->owner.own + 4 * BUFFER + 20)));
	EXPECT_EQ(1, futex(words + 5, FUTEX_WAKE, 1));
	EXPECT_EQ(0, end_sleep(&sleeper));
	EXPECT_EQ(1, let_go(&self->lessee, &record));
}

/* The memory outlives its owner, and so do the futexes in it. */
TEST_F(lease, futex_works_when_the_owner_has_gone)
{
	struct evpl_record record;
	struct sleeper sleeper;
	uint32_t *words;

	ASSERT_TRUE(lend(&self->owner, self->ends, 4, 0, DEVICE_RW, &record));
	words = (void *)memory_of(&self->lessee, &record);
	ASSERT_TRUE(begin_sleep(&sleeper, words + 5));
	close(self->ends[0]);
	close_client(&self->owner);
	EXPECT_EQ(1, futex(words + 5, FUTEX_WAKE, 1));
	EXPECT_EQ(0, end_sleep(&sleeper));
	EXPECT_EQ(1, let_go(&self->lessee, &record));
	EXPECT_EQ(-1, futex(words + 5, FUTEX_WAKE, 1));
	EXPECT_EQ(EFAULT, errno);
}

#define MARKER		"/sys/kernel/debug/evpl-marker/plant"

/* The core of the kernel keeps a note in a page table entry, so no page can be mapped there. */
TEST_F(lease, marker_in_place_of_a_page_raises_SIGBUS)
{
	const uint32_t flags[] = {
		0, EVPL_RECORD_WRITE, EVPL_RECORD_DEVICE, DEVICE_RW,
	};
	struct evpl_range range = { .length = SLAB };
	struct evpl_record record;
	int ret = load_module("evpl_marker"), fd;
	char *memory;

	if (ret == -ENOENT)
		SKIP(return, "name the module's file in EVPL_MODULE");
	ASSERT_EQ(0, ret);
	for (size_t i = 0; i < ARRAY_SIZE(flags); i++) {
		ASSERT_TRUE(lend(&self->owner, self->ends, 3 + i, 0, flags[i], &record));
		memory = memory_of(&self->lessee, &record);
		ASSERT_EQ(0, write_number(MARKER, (uintptr_t)memory + PAGE));
		EXPECT_EQ(SIGBUS, touch_read(memory + PAGE));
		EXPECT_EQ(0, touch_read(memory));
		EXPECT_EQ(0, touch_read(memory + 2 * PAGE));
		EXPECT_EQ(SIGBUS, touch_read(memory + PAGE));
		EXPECT_EQ(-EFAULT, RESULT(write(self->ends[0], memory + PAGE, 32)));
		EXPECT_EQ(1, let_go(&self->lessee, &record));
	}

	fd = evpl_export(self->owner.fd, &range, 1, EVPL_EXPORT_SLAB | EVPL_EXPORT_WRITE);
	ASSERT_LE(0, fd);
	memory = evpl_map(fd, SLAB, 0);
	ASSERT_NE(MAP_FAILED, memory);
	ASSERT_EQ(0, write_number(MARKER, (uintptr_t)memory + PAGE));
	EXPECT_EQ(SIGBUS, touch_read(memory + PAGE));
	EXPECT_EQ(0, touch_write(memory));
	EXPECT_EQ(0, touch_write(memory + 2 * PAGE));
	EXPECT_EQ(SIGBUS, touch_write(memory + PAGE));
	munmap(memory, SLAB);
	close(fd);

	/* In the own window the fault replaces the marker by the page. */
	memory = evpl_map(self->owner.fd, SLAB, 0);
	ASSERT_NE(MAP_FAILED, memory);
	ASSERT_EQ(0, write_number(MARKER, (uintptr_t)memory + PAGE));
	EXPECT_EQ(0, touch_read(memory + PAGE));
	munmap(memory, SLAB);
	syscall(SYS_delete_module, "evpl_marker", 0);
}

#define HUGE_BUFFERS	16

/* An owner of buffers that are a folio of 2 MiB each, and a lessee. */
FIXTURE(huge)
{
	struct counters before;
	int owner, ends[2];
	struct evpl_setup setup;
	struct evpl_entry *entries;
	char *own;
	struct client lessee;
};

FIXTURE_SETUP(huge)
{
	uint64_t offset;

	limit_sleeps();
	self->before = read_counters();
	if (!has_huge() || PAGE != 4 * KIB)
		SKIP(return, "a kernel without large folios, or whose PMDs have more than 2 MiB");
	/*
	 * The tests count page faults. NUMA balancing adds some at any time, but not for a task
	 * that has a policy.
	 */
	syscall(SYS_set_mempolicy, MPOL_LOCAL, NULL, 0);
	self->owner = open(DEVICE, O_RDWR | O_CLOEXEC);
	ASSERT_EQ(0, evpl_setup(self->owner, SLAB_2M, &self->setup));
	ASSERT_EQ(0, evpl_slab_alloc_on(self->owner, HUGE_BUFFERS * SLAB_2M, EVPL_NODE_ANY,
					EVPL_SLAB_HUGE, &offset));
	self->own = map(self->owner, HUGE_BUFFERS * SLAB_2M, offset, PROT_READ | PROT_WRITE);
	self->entries = map(self->owner, PAGE, self->setup.out_refs_offset,
			    PROT_READ | PROT_WRITE);
	ASSERT_NE(NULL, self->own);
	ASSERT_NE(NULL, self->entries);
	ASSERT_TRUE(open_client(&self->lessee, EVPL_SETUP_ZEROS));
	ASSERT_EQ(0, evpl_channel(self->owner, HUGE_BUFFERS, self->ends));
	ASSERT_EQ(0, evpl_bind(self->owner, self->ends[0]));
	ASSERT_EQ(0, evpl_bind(self->lessee.fd, self->ends[1]));
}

FIXTURE_TEARDOWN(huge)
{
	close(self->ends[0]);
	close(self->ends[1]);
	munmap(self->own, HUGE_BUFFERS * SLAB_2M);
	munmap(self->entries, PAGE);
	close(self->owner);
	close_client(&self->lessee);
	EXPECT_TRUE(counters_return_to(self->before));
}

/* Lease buffer n, each page of which begins with a number of its own. */
static char *lease_huge(struct __test_metadata *_metadata, struct _test_data_huge *self,
			unsigned int n, uint32_t flags, struct evpl_record *got)
{
	struct evpl_record sent = { .offset = n * SLAB_2M, .length = SLAB_2M, .flags = flags };

	for (size_t at = 0; at < SLAB_2M; at += PAGE)
		*(uint64_t *)(self->own + n * SLAB_2M + at) = n * SLAB_2M + at + 1;
	set_count(&self->entries[n].word, 1);
	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	ASSERT_EQ(1, evpl_recv(self->ends[1], got, 1));
	return memory_of(&self->lessee, got);
}

/* Whether these pages are those of buffer n from an offset on. */
static bool shows(const char *memory, size_t length, unsigned int n, size_t offset)
{
	for (size_t at = 0; at < length; at += PAGE)
		if (*(volatile uint64_t *)(memory + at) != n * SLAB_2M + offset + at + 1)
			return false;
	return true;
}

/* Whether a touch of each of these pages raises SIGBUS. */
static bool all_raise_SIGBUS(const char *memory, size_t length)
{
	for (size_t at = 0; at < length; at += PAGE)
		if (touch_read(memory + at) != SIGBUS)
			return false;
	return true;
}

/*
 * Whether the kernel can map page frames by a PMD that nothing can pin them through. It can since
 * it has had the function follow_pfnmap_start().
 */
static bool has_special_pmds(void)
{
	return kernel_has("follow_pfnmap_start");
}

static long faults(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return usage.ru_minflt;
}

/*
 * The program's own pages may cost a few faults too, since the kernel may unmap them at any time.
 * Two faults a buffer would be at least twice as many.
 */
#define OTHER_FAULTS	8

/* Since faults() was @before, each of the buffers has been mapped by one fault. */
static void expect_one_fault_each(struct __test_metadata *_metadata, long before)
{
	long seen = faults() - before;

	EXPECT_LE(HUGE_BUFFERS, seen);
	EXPECT_GE(HUGE_BUFFERS + OTHER_FAULTS, seen);
}

TEST_F(huge, lease_of_2_MiB_is_mapped_by_one_fault)
{
	const uint32_t flags[] = {
		0, EVPL_RECORD_WRITE, EVPL_RECORD_DEVICE, DEVICE_RW,
	};
	struct evpl_record got[HUGE_BUFFERS];
	char *memory[HUGE_BUFFERS];
	long long tables;
	long before;

	for (size_t i = 0; i < ARRAY_SIZE(flags); i++) {
		for (int n = 0; n < HUGE_BUFFERS; n++)
			memory[n] = lease_huge(_metadata, self, n, flags[i], &got[n]);
		tables = number_in("/proc/self/status", "VmPTE");
		before = faults();
		for (int n = 0; n < HUGE_BUFFERS; n++) {
			EXPECT_TRUE(shows(memory[n], SLAB_2M, n, 0));
			for (size_t at = 0; flags[i] & EVPL_RECORD_WRITE && at < SLAB_2M; at += PAGE)
				memory[n][at + 8] = 1;
		}
		expect_one_fault_each(_metadata, before);
		tables = number_in("/proc/self/status", "VmPTE") - tables;
		/* Each page table has 4 KiB. Device leases always have them. */
		EXPECT_EQ(has_special_pmds() && !(flags[i] & EVPL_RECORD_DEVICE),
			  tables < HUGE_BUFFERS * 4);
		for (int n = 0; n < HUGE_BUFFERS; n++) {
			EXPECT_EQ(1, let_go(&self->lessee, &got[n]));
			EXPECT_EQ(SIGBUS, touch_read(memory[n] + SLAB_2M - 1));
			EXPECT_EQ(0, get(&self->entries[n].word));
		}
		EXPECT_EQ(0, read_counters().quarantined);
	}
}

TEST_F(huge, lease_that_a_write_maps_is_mapped_by_one_fault_and_can_not_be_pinned)
{
	struct evpl_record got[HUGE_BUFFERS];
	char *memory[HUGE_BUFFERS];
	long before;

	for (int n = 0; n < HUGE_BUFFERS; n++)
		memory[n] = lease_huge(_metadata, self, n, EVPL_RECORD_WRITE, &got[n]);
	before = faults();
	for (int n = 0; n < HUGE_BUFFERS; n++)
		for (size_t at = 0; at < SLAB_2M; at += PAGE)
			memory[n][at + 8] = 1;
	expect_one_fault_each(_metadata, before);
	EXPECT_TRUE(shows(memory[0], SLAB_2M, 0, 0));
	EXPECT_EQ(NULL, what_can_pin(memory[0]));
	EXPECT_EQ(NULL, what_can_pin(memory[0] + SLAB_2M / 2));
	for (int n = 0; n < HUGE_BUFFERS; n++)
		EXPECT_EQ(1, let_go(&self->lessee, &got[n]));

	memory[0] = lease_huge(_metadata, self, 0, 0, &got[0]);
	EXPECT_TRUE(shows(memory[0], SLAB_2M, 0, 0));
	EXPECT_EQ(SIGSEGV, touch_write(memory[0]));
	EXPECT_TRUE(shows(memory[0], SLAB_2M, 0, 0));
	EXPECT_EQ(1, let_go(&self->lessee, &got[0]));
}

TEST_F(huge, parts_of_a_lease_can_be_unmapped_protected_and_moved)
{
	const uint32_t flags[] = { EVPL_RECORD_WRITE, DEVICE_RW };
	const size_t page = PAGE, half = SLAB_2M / 2;
	struct evpl_record got;
	char *memory, *view, *place, *moved, *aligned;

	for (size_t i = 0; i < ARRAY_SIZE(flags); i++) {
		memory = lease_huge(_metadata, self, 3, flags[i], &got);
		view = map(self->lessee.fd, SLAB_2M, got.offset, PROT_READ | PROT_WRITE);
		ASSERT_NE(NULL, view);
		EXPECT_TRUE(shows(memory, SLAB_2M, 3, 0));
		EXPECT_TRUE(shows(view, SLAB_2M, 3, 0));

		EXPECT_EQ(0, mprotect(view, SLAB_2M, PROT_READ));
		EXPECT_EQ(SIGSEGV, touch_write(view + SLAB_2M - 1));
		EXPECT_EQ(0, mprotect(view, SLAB_2M, PROT_READ | PROT_WRITE));
		EXPECT_EQ(0, touch_write(view + SLAB_2M - 1));
		EXPECT_EQ(0, touch_write(view));
		EXPECT_TRUE(shows(view, SLAB_2M, 3, 0));

		EXPECT_EQ(0, mprotect(view + 9 * page, page, PROT_READ));
		EXPECT_EQ(SIGSEGV, touch_write(view + 9 * page));
		EXPECT_EQ(0, touch_write(view + 8 * page));
		EXPECT_EQ(0, touch_write(view + 10 * page));
		EXPECT_EQ(0, munmap(view + 5 * page, page));
		EXPECT_EQ(SIGSEGV, touch_read(view + 5 * page));
		EXPECT_TRUE(shows(view, 5 * page, 3, 0));
		EXPECT_TRUE(shows(view + 6 * page, SLAB_2M - 6 * page, 3, 6 * page));

		/* A mapping moves whole, to a place where a PMD can map it too, and in half. */
		place = mmap(NULL, 6 * SLAB_2M, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		ASSERT_NE(MAP_FAILED, place);
		aligned = (char *)(((uintptr_t)place + SLAB_2M - 1) & -SLAB_2M);
		munmap(view, SLAB_2M);
		view = map(self->lessee.fd, SLAB_2M, got.offset, PROT_READ | PROT_WRITE);
		ASSERT_NE(NULL, view);
		EXPECT_TRUE(shows(view, SLAB_2M, 3, 0));
		moved = mremap(view, SLAB_2M, SLAB_2M, MREMAP_MAYMOVE | MREMAP_FIXED, aligned);
		ASSERT_EQ(aligned, moved);
		EXPECT_EQ(SIGSEGV, touch_read(view));
		EXPECT_TRUE(shows(moved, SLAB_2M, 3, 0));
		moved = mremap(aligned + half, half, half, MREMAP_MAYMOVE | MREMAP_FIXED,
			       aligned + 3 * SLAB_2M + page);
		ASSERT_EQ(aligned + 3 * SLAB_2M + page, moved);
		EXPECT_TRUE(shows(aligned, half, 3, 0));
		EXPECT_TRUE(shows(moved, half, 3, half));
		EXPECT_EQ(flags[i] & EVPL_RECORD_DEVICE ? 0 : -EINVAL,
			  RESULT(madvise(memory + page, page, MADV_DONTNEED)));
		EXPECT_TRUE(shows(memory, SLAB_2M, 3, 0));

		/* All of them end with the lease. */
		EXPECT_EQ(1, let_go(&self->lessee, &got));
		EXPECT_TRUE(all_raise_SIGBUS(memory, SLAB_2M));
		EXPECT_TRUE(all_raise_SIGBUS(aligned, half));
		EXPECT_TRUE(all_raise_SIGBUS(moved, half));
		EXPECT_EQ(0, get(&self->entries[3].word));
		EXPECT_EQ(0, read_counters().quarantined);
		munmap(place, 6 * SLAB_2M);
	}
}

TEST_F(huge, revoked_lease_shows_zeros_and_its_place_the_next_lease)
{
	struct evpl_record got, next;
	char *memory = lease_huge(_metadata, self, 2, EVPL_RECORD_WRITE, &got);

	EXPECT_TRUE(shows(memory, SLAB_2M, 2, 0));
	EXPECT_EQ(0, evpl_revoke(self->owner, 2 * SLAB_2M));
	/* A write where a PMD has been, and a read. */
	EXPECT_EQ(0, touch_write(memory + PAGE));
	EXPECT_TRUE(is_filled_with(memory, 0, SLAB_2M));
	EXPECT_TRUE(shows(self->own + 2 * SLAB_2M, SLAB_2M, 2, 0));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
	EXPECT_TRUE(all_raise_SIGBUS(memory, SLAB_2M));

	EXPECT_EQ(memory, lease_huge(_metadata, self, 4, EVPL_RECORD_WRITE, &next));
	EXPECT_TRUE(shows(memory, SLAB_2M, 4, 0));
	EXPECT_EQ(1, let_go(&self->lessee, &next));
}

TEST_F(huge, page_with_a_memory_error_is_left_out_of_a_lease)
{
	const uint32_t flags[] = {
		0, EVPL_RECORD_WRITE, EVPL_RECORD_DEVICE, DEVICE_RW,
	};
	const size_t bad = 7 * PAGE;
	struct evpl_record got;
	char *memory;

	self->own[6 * SLAB_2M] = 1;
	if (!take_offline(self->own + 6 * SLAB_2M + bad))
		SKIP(return, "the kernel takes no page offline");
	for (size_t i = 0; i < ARRAY_SIZE(flags); i++) {
		struct evpl_record sent = {
			.offset = 6 * SLAB_2M, .length = SLAB_2M, .flags = flags[i],
		};

		set_count(&self->entries[6].word, 1);
		ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
		ASSERT_EQ(1, evpl_recv(self->ends[1], &got, 1));
		memory = memory_of(&self->lessee, &got);
		/* A fault of another page comes first, and must not map the bad page with it. */
		EXPECT_EQ(0, touch_read(memory + SLAB_2M - 1));
		EXPECT_EQ(SIGBUS, touch_read(memory + bad));
		for (size_t at = 0; at < SLAB_2M; at += PAGE)
			EXPECT_EQ(at == bad ? SIGBUS : 0, touch_read(memory + at));
		EXPECT_EQ(1, let_go(&self->lessee, &got));
	}
}

TEST_HARNESS_MAIN
