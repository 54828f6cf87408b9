// SPDX-License-Identifier: GPL-2.0-only
/*
 * Adopting: a client whose owner is killed, while this process keeps the descriptor as a
 * supervisor does; and what its successor finds.
 */
#include "pair.h"
#include "ring.h"
#include "slow.h"

/* The value that the dead owner wrote into the header. */
#define USER		0x0123456789abcdefULL

FIXTURE(adopt)
{
	struct counters before;
	struct client owner, lessee;	/* the owner is mapped when it has a successor */
	uint64_t second;		/* where the owner's second slab starts */
	int ends[2];			/* the owner's, and the lessee's */
	int pipe[2], socket[2], slow[2];
	struct evpl_record *said;	/* by the owner, before it was killed */
};

FIXTURE_SETUP(adopt)
{
	limit_sleeps();
	self->slow[0] = self->slow[1] = -1;
	self->owner.own = NULL;
	self->before = read_counters();
	ASSERT_TRUE(open_client(&self->lessee, 0));
	ASSERT_TRUE(make_client(&self->owner, EVPL_SETUP_ZEROS));
	ASSERT_EQ(0, evpl_slab_alloc(self->owner.fd, SLAB, &self->second));
	ASSERT_EQ(0, evpl_channel(self->owner.fd, 8, self->ends));
	ASSERT_EQ(0, evpl_bind(self->owner.fd, self->ends[0]));
	ASSERT_EQ(0, evpl_bind(self->lessee.fd, self->ends[1]));
	for (int i = 0; i < 2; i++)
		ASSERT_EQ(0, fcntl(self->ends[i], F_SETFL, O_NONBLOCK));
	ASSERT_EQ(0, pipe2(self->pipe, O_CLOEXEC | O_NONBLOCK));
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, self->socket));
	self->said = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->said);
}

FIXTURE_TEARDOWN(adopt)
{
	close_slow_disks(self->slow);
	for (int i = 0; i < 2; i++) {
		close(self->ends[i]);
		close(self->pipe[i]);
		close(self->socket[i]);
	}
	if (self->owner.own)
		unmap_client(&self->owner);
	close(self->owner.fd);
	close_client(&self->lessee);
	EXPECT_TRUE(counters_return_to(self->before));
}

/*
 * Start a process that maps the client and does something. Return what that gives. Then the
 * process waits to be killed.
 */
static int owner_that(struct _test_data_adopt *self, int (*does)(struct _test_data_adopt *self),
		      pid_t *pid)
{
	int told[2], ret = -EPIPE;

	if (pipe2(told, O_CLOEXEC))
		return -errno;
	*pid = fork_child();
	if (!*pid) {
		if (!map_client(&self->owner))
			_exit(1);
		ret = does(self);
		if (write(told[1], &ret, sizeof(ret)) != sizeof(ret))
			_exit(1);
		for (;;)
			pause();
	}
	close(told[1]);
	if (read(told[0], &ret, sizeof(ret)) != sizeof(ret))
		ret = -EPIPE;
	close(told[0]);
	return ret;
}

static bool killed(pid_t pid)
{
	kill(pid, SIGKILL);
	return reap(pid) == -SIGKILL;
}

/* Adopt the owner's client. The dead process's address space and rings may end a little later. */
static int adopt(struct _test_data_adopt *self)
{
	struct evpl_setup setup;
	int ret, tries = 10 * LIMIT;

	while ((ret = evpl_adopt(self->owner.fd, 0, &setup)) == -EBUSY && tries--)
		usleep(100 * 1000);
	return ret;
}

static void succeed(struct __test_metadata *_metadata, struct _test_data_adopt *self)
{
	ASSERT_EQ(0, adopt(self));
	ASSERT_TRUE(map_client(&self->owner));
}

/* An owner does something, is killed, and has a successor, which is this process. */
static void die_and_succeed(struct __test_metadata *_metadata, struct _test_data_adopt *self,
			    int (*does)(struct _test_data_adopt *self))
{
	pid_t pid;

	ASSERT_EQ(0, owner_that(self, does, &pid));
	ASSERT_TRUE(killed(pid));
	succeed(_metadata, self);
}

static __u64 *word(struct _test_data_adopt *self, unsigned int n)
{
	return &self->owner.entries[n].word;
}

/* Whether a buffer comes back to the successor, and is reported. */
static bool comes_back(struct _test_data_adopt *self, unsigned int n)
{
	for (int tries = 0; tries < 10 * LIMIT; tries++) {
		if (!get(word(self, n)) && bit(self->owner.returned, n))
			return true;
		usleep(100 * 1000);
	}
	return false;
}

static int send_one(struct _test_data_adopt *self, unsigned int n, char byte, uint32_t flags)
{
	struct evpl_record sent = fill(&self->owner, n, byte);

	sent.flags = flags;
	return evpl_send(self->ends[0], &sent, 1) == 1 ? 0 : -EIO;
}

/* Use everything, and send buffer 3. */
static int use_everything(struct _test_data_adopt *self)
{
	struct client *c = &self->owner;

	for (unsigned int n = 0; n < 2 * SLAB / BUFFER; n++) {
		c->entries[n].user[0] = c->entries[n].user[6] = USER;
		set_count(&c->entries[n].word, n + 1);
	}
	for (unsigned int n = 0; n < SLAB / BUFFER; n++)
		if (n != 3)
			memset(c->own + n * BUFFER, 'a' + n % 26, BUFFER);
	if (send_one(self, 3, 'a' + 3, 0))
		return -EIO;
	set_count(word(self, 3), 7);
	c->returned[0] = ~0ULL;
	c->header->returned = ~0ULL;
	c->header->revoked = ~0ULL;
	c->header->user = USER;
	return 0;
}

TEST_F(adopt, successor_finds_memory_slabs_and_what_others_have_but_no_reference)
{
	static const __u64 unused[7];
	struct evpl_slab_next next;
	struct evpl_setup setup;
	struct evpl_record got;
	pid_t pid;

	ASSERT_EQ(0, owner_that(self, use_everything, &pid));
	ASSERT_TRUE(killed(pid));
	ASSERT_EQ(0, adopt(self));
	EXPECT_EQ(0, evpl_adopt(self->owner.fd, BUFFER, &setup));
	/* The windows and flags are those that the first owner was told. */
	setup.flags = self->owner.setup.flags;
	EXPECT_EQ(0, memcmp(&setup, &self->owner.setup, sizeof(setup)));
	EXPECT_EQ(EVPL_SETUP_ZEROS, setup.out_flags);
	EXPECT_EQ(0, evpl_slab_next(self->owner.fd, 0, &next));
	EXPECT_EQ(0, next.out_offset);
	EXPECT_EQ(0, evpl_slab_next(self->owner.fd, next.out_length, &next));
	EXPECT_EQ(self->second, next.out_offset);

	ASSERT_TRUE(map_client(&self->owner));
	for (unsigned int n = 0; n < 2 * SLAB / BUFFER; n++) {
		EXPECT_EQ(n == 3 ? EVPL_WORD_SHARED : 0, get(word(self, n)));
		EXPECT_EQ(0, memcmp(unused, self->owner.entries[n].user, sizeof(unused)));
	}
	EXPECT_EQ(0, self->owner.returned[0]);
	EXPECT_EQ(0, self->owner.header->returned);
	EXPECT_EQ(0, self->owner.header->revoked);
	EXPECT_EQ(USER, self->owner.header->user);
	EXPECT_EQ(0, events_of(self->owner.fd));
	for (unsigned int n = 0; n < SLAB / BUFFER; n++)
		EXPECT_TRUE(is_filled_with(self->owner.own + n * BUFFER, 'a' + n % 26, BUFFER));

	/* All of it can be used. */
	EXPECT_EQ(1, evpl_recv(self->ends[1], &got, 1));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
	EXPECT_EQ(0, get(word(self, 3)));
	EXPECT_TRUE(bit(self->owner.returned, 3));
	EXPECT_EQ(0, evpl_slab_free(self->owner.fd, self->second));
	EXPECT_EQ(0, evpl_slab_free(self->owner.fd, 0));
}

static int do_nothing_at_all(struct _test_data_adopt *self)
{
	return 0;
}

TEST_F(adopt, client_that_is_mapped_is_EBUSY_and_stays_as_it_is)
{
	const struct evpl_setup *s = &self->owner.setup;
	const uint64_t offsets[] = {
		0, self->second, s->out_refs_offset, s->out_leases_offset, s->out_header_offset,
		s->out_guest_offset, s->out_guest_ro_offset, s->out_guest_io_offset,
		s->out_guest_io_ro_offset, s->out_returned_offset, s->out_revoked_offset,
	};
	struct evpl_record sent = fill(&self->lessee, 1, 'l'), got;
	struct evpl_setup setup;
	char *page;
	pid_t pid;

	/* A lease, references, and an event. */
	ASSERT_TRUE(map_client(&self->owner));
	ASSERT_EQ(0, use_everything(self));
	ASSERT_EQ(1, evpl_send(self->ends[1], &sent, 1));
	ASSERT_EQ(1, evpl_recv(self->ends[0], &got, 1));
	EXPECT_EQ(-EBUSY, evpl_adopt(self->owner.fd, 0, &setup));
	unmap_client(&self->owner);
	self->owner.own = NULL;

	EXPECT_EQ(-EINVAL, evpl_adopt(self->owner.fd, 2 * BUFFER, &setup));
	EXPECT_EQ(-EINVAL, evpl_adopt(self->owner.fd, BUFFER - 1, &setup));
	for (int i = 0; i < ARRAY_SIZE(offsets); i++) {
		page = map(self->owner.fd, PAGE, offsets[i], PROT_READ);
		ASSERT_NE(NULL, page);
		EXPECT_EQ(-EBUSY, evpl_adopt(self->owner.fd, 0, &setup));
		munmap(page, PAGE);
	}
	ASSERT_EQ(0, owner_that(self, do_nothing_at_all, &pid));
	EXPECT_EQ(-EBUSY, evpl_adopt(self->owner.fd, 0, &setup));
	ASSERT_TRUE(killed(pid));

	ASSERT_TRUE(map_client(&self->owner));
	EXPECT_EQ(1, get(word(self, 0)));
	EXPECT_EQ(EVPL_WORD_SHARED | 7, get(word(self, 3)));
	EXPECT_EQ(USER, self->owner.entries[0].user[0]);
	EXPECT_EQ(~0ULL, self->owner.returned[0]);
	EXPECT_EQ(~0ULL, self->owner.header->returned);
	EXPECT_EQ(1, get(&self->owner.leases[got.lease].word));
	EXPECT_EQ(1, fdinfo(self->owner.fd, "evpl-leases"));
	unmap_client(&self->owner);
	succeed(_metadata, self);
	EXPECT_EQ(0, fdinfo(self->owner.fd, "evpl-leases"));
}

static int send_1_and_2(struct _test_data_adopt *self)
{
	return send_one(self, 1, 'x', 0) ?: send_one(self, 2, 'y', DEVICE_RW);
}

TEST_F(adopt, lease_of_a_reader_goes_on_and_its_end_is_reported)
{
	struct evpl_record first, second;
	char *memory;
	pid_t pid;

	ASSERT_EQ(0, owner_that(self, send_1_and_2, &pid));
	ASSERT_EQ(1, evpl_recv(self->ends[1], &first, 1));
	memory = memory_of(&self->lessee, &first);
	EXPECT_TRUE(is_filled_with(memory, 'x', BUFFER));
	ASSERT_TRUE(killed(pid));
	EXPECT_TRUE(is_filled_with(memory, 'x', BUFFER));
	succeed(_metadata, self);
	EXPECT_TRUE(is_filled_with(memory, 'x', BUFFER));
	/* A record that was in flight arrives as ever. */
	ASSERT_EQ(1, evpl_recv(self->ends[1], &second, 1));
	EXPECT_TRUE(is_filled_with(memory_of(&self->lessee, &second), 'y', BUFFER));
	EXPECT_EQ(EVPL_WORD_SHARED, get(word(self, 1)));
	EXPECT_EQ(EVPL_WORD_SHARED, get(word(self, 2)));
	EXPECT_EQ(0, events_of(self->owner.fd));

	EXPECT_EQ(1, let_go(&self->lessee, &first));
	EXPECT_EQ(0, get(word(self, 1)));
	EXPECT_EQ(1 << 1, get(&self->owner.returned[0]));
	EXPECT_EQ(1, get(&self->owner.header->returned));
	EXPECT_EQ(POLLIN, events_of(self->owner.fd));
	EXPECT_EQ(1, let_go(&self->lessee, &second));
	EXPECT_TRUE(comes_back(self, 2));
}

TEST_F(adopt, buffer_that_came_back_before_is_free_and_one_that_comes_later_is_reported)
{
	struct evpl_record got[2];
	pid_t pid;

	ASSERT_EQ(0, owner_that(self, send_1_and_2, &pid));
	ASSERT_EQ(2, evpl_recv(self->ends[1], got, 2));
	ASSERT_TRUE(killed(pid));
	/* Nobody is there to see the first one. */
	EXPECT_EQ(1, let_go(&self->lessee, &got[0]));
	EXPECT_EQ(POLLIN, events_of(self->owner.fd));
	succeed(_metadata, self);
	EXPECT_EQ(0, get(word(self, 1)));
	EXPECT_EQ(0, get(&self->owner.returned[0]));
	EXPECT_EQ(0, events_of(self->owner.fd));
	EXPECT_EQ(1, let_go(&self->lessee, &got[1]));
	EXPECT_TRUE(comes_back(self, 2));
	EXPECT_EQ(1 << 2, get(&self->owner.returned[0]));
	EXPECT_EQ(POLLIN, events_of(self->owner.fd));
}

TEST_F(adopt, buffer_that_was_passed_on_has_that_flag_until_it_is_back)
{
	struct evpl_record got;
	pid_t pid;

	ASSERT_EQ(0, owner_that(self, send_1_and_2, &pid));
	ASSERT_EQ(1, evpl_recv(self->ends[1], &got, 1));
	ASSERT_EQ(1, evpl_send(self->ends[1], &got, 1));
	ASSERT_TRUE(killed(pid));
	succeed(_metadata, self);
	EXPECT_EQ(EVPL_WORD_SHARED | EVPL_WORD_PASSED_ON, get(word(self, 1)));
	ASSERT_EQ(1, evpl_recv(self->ends[0], &got, 1));
	EXPECT_EQ(BUFFER, got.offset);
	EXPECT_EQ(1, get(word(self, 1)));
	set_count(word(self, 1), 0);
}

/* Read the records that have arrived, and keep the leases. */
static int take_leases(struct _test_data_adopt *self)
{
	return evpl_recv(self->ends[0], self->said, 3) == 3 ? 0 : -EIO;
}

TEST_F(adopt, leases_of_the_dead_owner_end_and_their_numbers_start_again)
{
	struct evpl_record sent, got;
	uint32_t revoked;
	pid_t pid;

	for (unsigned int n = 1; n <= 3; n++) {
		sent = fill(&self->lessee, n, 'l');
		ASSERT_EQ(1, evpl_send(self->ends[1], &sent, 1));
	}
	ASSERT_EQ(0, owner_that(self, take_leases, &pid));
	ASSERT_TRUE(killed(pid));
	/* The leases stay as long as the client does. One of them is revoked. */
	revoked = self->said[1].lease;
	EXPECT_EQ(0, evpl_revoke(self->lessee.fd, 2 * BUFFER));
	EXPECT_EQ(POLLPRI, events_of(self->owner.fd));
	EXPECT_EQ(EVPL_WORD_SHARED, get(&self->lessee.entries[1].word));
	EXPECT_EQ(3, fdinfo(self->owner.fd, "evpl-leases"));

	succeed(_metadata, self);
	EXPECT_EQ(0, fdinfo(self->owner.fd, "evpl-leases"));
	EXPECT_EQ(0, read_counters().leases);
	EXPECT_EQ(0, get(&self->lessee.entries[1].word));
	EXPECT_EQ(0, get(&self->lessee.entries[3].word));
	EXPECT_TRUE(bit(self->lessee.returned, 1));
	EXPECT_TRUE(bit(self->lessee.returned, 3));
	EXPECT_EQ(0, events_of(self->owner.fd));
	EXPECT_FALSE(bit(self->owner.revoked, revoked));
	for (int i = 0; i < 3; i++)
		EXPECT_EQ(0, get(&self->owner.leases[self->said[i].lease].word));
	EXPECT_EQ(SIGBUS, touch_read(memory_of(&self->owner, &self->said[0])));

	ASSERT_EQ(0, evpl_bind(self->owner.fd, self->ends[0]));
	sent = fill(&self->lessee, 4, 'm');
	ASSERT_EQ(1, evpl_send(self->ends[1], &sent, 1));
	ASSERT_EQ(1, evpl_recv(self->ends[0], &got, 1));
	EXPECT_EQ(self->said[0].lease, got.lease);
	EXPECT_EQ(1, get(&self->owner.leases[got.lease].word));
	EXPECT_TRUE(is_filled_with(memory_of(&self->owner, &got), 'm', BUFFER));
	EXPECT_EQ(1, let_go(&self->owner, &got));
}

TEST_F(adopt, end_that_was_kept_stays_bound_and_has_its_records)
{
	struct evpl_record sent, got;
	struct evpl_channel_bind bind = {
		.size = sizeof(bind),
		.fd = self->ends[0],
	};

	for (unsigned int n = 1; n <= 2; n++) {
		sent = fill(&self->lessee, n, 'k' + n);
		ASSERT_EQ(1, evpl_send(self->ends[1], &sent, 1));
	}
	EXPECT_EQ(-EBUSY, evpl_bind(self->owner.fd, self->ends[0]));
	die_and_succeed(_metadata, self, do_nothing_at_all);
	/* The successor can bind it, once and in the same way. */
	EXPECT_EQ(-EBUSY, evpl_bind_with(self->owner.fd, self->ends[0], EVPL_BIND_LANE));
	EXPECT_EQ(-EBUSY, evpl_bind(self->lessee.fd, self->ends[0]));
	EXPECT_EQ(0, ioctl(self->owner.fd, EVPL_CHANNEL_BIND, &bind));
	EXPECT_EQ(8, bind.out_capacity);
	EXPECT_EQ(-EBUSY, evpl_bind(self->owner.fd, self->ends[0]));
	EXPECT_EQ(2, fdinfo(self->ends[0], "evpl-records-to-read"));
	for (unsigned int n = 1; n <= 2; n++) {
		ASSERT_EQ(1, evpl_recv(self->ends[0], &got, 1));
		EXPECT_TRUE(is_filled_with(memory_of(&self->owner, &got), 'k' + n, BUFFER));
		EXPECT_EQ(1, let_go(&self->owner, &got));
		EXPECT_EQ(0, get(&self->lessee.entries[n].word));
	}
	EXPECT_EQ(0, send_one(self, 5, 'x', 0));
	ASSERT_EQ(1, evpl_recv(self->ends[1], &got, 1));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
}

/* Make a channel, and hand one of its ends over. */
static int bind_one_of_two(struct _test_data_adopt *self)
{
	int ends[2];

	return evpl_channel(self->owner.fd, 1, ends) ?: evpl_bind(self->owner.fd, ends[0]) ?:
	       send_fd(self->socket[0], 0, ends[1]);
}

TEST_F(adopt, end_that_nobody_kept_is_closed_with_the_process)
{
	struct evpl_record sent = fill(&self->lessee, 1, 'l');
	pid_t pid;
	char byte;
	int end;

	ASSERT_EQ(0, owner_that(self, bind_one_of_two, &pid));
	end = recv_fd(self->socket[1], &byte, 0);
	ASSERT_EQ(0, evpl_bind(self->lessee.fd, end));
	ASSERT_EQ(1, evpl_send(end, &sent, 1));
	ASSERT_TRUE(killed(pid));
	EXPECT_EQ(0, get(&self->lessee.entries[1].word));
	EXPECT_EQ(-EPIPE, evpl_send(end, &sent, 1));
	close(end);
	succeed(_metadata, self);
}

TEST_F(adopt, end_of_a_lane_is_of_no_more_use)
{
	int ends[2];

	ASSERT_EQ(0, evpl_channel(self->owner.fd, 1, ends));
	ASSERT_EQ(0, evpl_bind_with(self->owner.fd, ends[0], EVPL_BIND_LANE));
	die_and_succeed(_metadata, self, do_nothing_at_all);
	EXPECT_EQ(-EBUSY, evpl_bind_with(self->owner.fd, ends[0], EVPL_BIND_LANE));
	EXPECT_EQ(-EBUSY, evpl_bind(self->owner.fd, ends[0]));
	close(ends[0]);
	close(ends[1]);
}

/*
 * A pipe gets a page of buffer 30 and one of 31, as if a device had registered them: the
 * baselines have them. Then buffer 31 is sent.
 */
static int leave_pages_in_a_pipe(struct _test_data_adopt *self)
{
	struct client *c = &self->owner;

	memset(c->own + 30 * BUFFER, 'p', BUFFER);
	memset(c->own + 31 * BUFFER, 'p', BUFFER);
	if (into_pipe(self->pipe[1], c->own + 30 * BUFFER, PAGE) != PAGE ||
	    into_pipe(self->pipe[1], c->own + 31 * BUFFER, PAGE) != PAGE ||
	    evpl_baseline(c->fd, 0, 0, SLAB))
		return -EIO;
	return send_one(self, 31, 'p', 0);
}

TEST_F(adopt, memory_that_a_pipe_still_holds_is_in_quarantine)
{
	struct evpl_record got;
	char page[PAGE];

	die_and_succeed(_metadata, self, leave_pages_in_a_pipe);
	EXPECT_EQ(EVPL_WORD_SHARED, get(word(self, 30)));
	EXPECT_EQ(EVPL_WORD_SHARED, get(word(self, 31)));
	EXPECT_LT(0, fdinfo(self->owner.fd, "evpl-buffers-in-quarantine"));
	/* No folio of the second slab is held. */
	for (unsigned int n = SLAB / BUFFER; n < 2 * SLAB / BUFFER; n++)
		EXPECT_EQ(0, get(word(self, n)));

	/* A buffer that was lent isn't returned either, though nothing could pin it. */
	ASSERT_EQ(1, evpl_recv(self->ends[1], &got, 1));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
	EXPECT_EQ(0, evpl_lease_pull(self->owner.fd));
	EXPECT_EQ(EVPL_WORD_SHARED, get(word(self, 30)));
	EXPECT_EQ(EVPL_WORD_SHARED, get(word(self, 31)));
	EXPECT_EQ(-EBUSY, evpl_slab_free(self->owner.fd, 0));
	EXPECT_EQ(-EAGAIN, evpl_buffer_wait(self->owner.fd, 30 * BUFFER, EVPL_WAIT_TRY));

	for (int i = 0; i < 2; i++) {
		EXPECT_EQ(PAGE, read(self->pipe[0], page, PAGE));
		EXPECT_TRUE(is_filled_with(page, 'p', PAGE));
	}
	EXPECT_TRUE(comes_back(self, 30));
	EXPECT_TRUE(comes_back(self, 31));
	EXPECT_EQ(POLLIN, events_of(self->owner.fd));
}

TEST_F(adopt, successor_can_end_a_quarantine_itself)
{
	die_and_succeed(_metadata, self, leave_pages_in_a_pipe);
	EXPECT_EQ(0, evpl_quarantine_end(self->owner.fd, 30 * BUFFER));
	EXPECT_EQ(0, get(word(self, 30)));
	EXPECT_TRUE(bit(self->owner.returned, 30));
}

/* A pipe gets the page of the first entries, as a ring or a device could. */
static int leave_entries_in_a_pipe(struct _test_data_adopt *self)
{
	set_count(word(self, 2), 5);
	return into_pipe(self->pipe[1], self->owner.entries, PAGE) == PAGE ? 0 : -EIO;
}

TEST_F(adopt, entries_that_something_still_holds_are_EBUSY)
{
	struct evpl_setup setup;
	char page[PAGE];
	pid_t pid;

	ASSERT_EQ(0, owner_that(self, leave_entries_in_a_pipe, &pid));
	ASSERT_TRUE(killed(pid));
	EXPECT_EQ(-EBUSY, evpl_adopt(self->owner.fd, 0, &setup));
	EXPECT_LT(0, fdinfo(self->owner.fd, "evpl-buffers-in-use"));
	EXPECT_EQ(PAGE, read(self->pipe[0], page, PAGE));
	succeed(_metadata, self);
	EXPECT_EQ(0, get(word(self, 2)));
}

/* Have a slow disk write to buffer 2, by way of a ring. */
static int read_slowly(struct _test_data_adopt *self)
{
	struct ring ring;

	set_count(word(self, 2), 1);
	if (!ring_open(&ring))
		return -EIO;
	return ring_read(&ring, self->slow[0], self->owner.own + 2 * BUFFER, BUFFER, false);
}

TEST_F(adopt, memory_that_a_disk_still_writes_to_is_in_quarantine)
{
	pid_t pid;

	if (!have_slow_disks(self->slow))
		SKIP(return, "no disk, or no dm-delay");
	ASSERT_TRUE(set_disk('d'));
	ASSERT_EQ(0, owner_that(self, read_slowly, &pid));
	ASSERT_TRUE(gets_under_way(0));
	ASSERT_TRUE(killed(pid));
	succeed(_metadata, self);
	EXPECT_EQ(EVPL_WORD_SHARED, get(word(self, 2)));
	EXPECT_EQ(0, evpl_lease_pull(self->owner.fd));
	EXPECT_EQ(EVPL_WORD_SHARED, get(word(self, 2)));
	EXPECT_TRUE(is_filled_with(self->owner.own + 2 * BUFFER, 0, BUFFER));
	hurry(0);
	EXPECT_TRUE(comes_back(self, 2));
	EXPECT_TRUE(is_filled_with(self->owner.own + 2 * BUFFER, 'd', BUFFER));
}

/* Take all slabs into a ring's table. */
static int take_into_a_ring(struct _test_data_adopt *self)
{
	struct ring ring;

	if (!ring_open(&ring))
		return -EIO;
	return ring_table(&ring, 1) ?:
	       ring_take(&ring, self->owner.fd, 0, 0, SLAB, EVPL_URING_WRITE);
}

TEST_F(adopt, slab_that_a_ring_has_is_EBUSY_until_the_ring_has_gone)
{
	struct evpl_setup setup;
	struct ring ring;

	if (!rings_can_register())
		SKIP(return, NO_COMMAND);
	ASSERT_TRUE(ring_open(&ring));
	ASSERT_EQ(0, ring_table(&ring, 1));
	ASSERT_EQ(0, ring_take(&ring, self->owner.fd, 0, self->second, BUFFER, 0));
	EXPECT_EQ(-EBUSY, evpl_adopt(self->owner.fd, 0, &setup));
	EXPECT_EQ(0, ring_drop(&ring, self->owner.fd, 0));
	ring_close(&ring);
	EXPECT_EQ(0, evpl_adopt(self->owner.fd, 0, &setup));
	/* A ring ends some time after its process. */
	die_and_succeed(_metadata, self, take_into_a_ring);
	EXPECT_EQ(0, fdinfo(self->owner.fd, "evpl-registrations"));
}

/* Export buffer 6, and all of the second slab, and hand the dma-bufs over. */
static int export_both(struct _test_data_adopt *self)
{
	const struct evpl_range buffer = { 6 * BUFFER, BUFFER }, slab = { self->second, SLAB };
	int dmabuf, ret;

	memset(self->owner.own + 6 * BUFFER, 'e', BUFFER);
	set_count(word(self, 6), 1);
	dmabuf = evpl_export(self->owner.fd, &buffer, 1, 0);
	ret = dmabuf < 0 ? dmabuf : send_fd(self->socket[0], 0, dmabuf);
	if (ret)
		return ret;
	dmabuf = evpl_export(self->owner.fd, &slab, 1, EVPL_EXPORT_SLAB);
	return dmabuf < 0 ? dmabuf : send_fd(self->socket[0], 0, dmabuf);
}

TEST_F(adopt, dmabuf_of_a_buffer_goes_on_and_one_of_a_slab_is_EBUSY)
{
	struct evpl_setup setup;
	int dmabufs[2];
	char *memory, byte;
	pid_t pid;

	ASSERT_EQ(0, owner_that(self, export_both, &pid));
	for (int i = 0; i < 2; i++) {
		dmabufs[i] = recv_fd(self->socket[1], &byte, 0);
		ASSERT_GE(dmabufs[i], 0);
	}
	ASSERT_TRUE(killed(pid));
	EXPECT_EQ(-EBUSY, evpl_adopt(self->owner.fd, 0, &setup));
	close(dmabufs[1]);
	succeed(_metadata, self);
	memory = map(dmabufs[0], BUFFER, 0, PROT_READ);
	ASSERT_NE(NULL, memory);
	EXPECT_TRUE(is_filled_with(memory, 'e', BUFFER));
	munmap(memory, BUFFER);
	EXPECT_EQ(EVPL_WORD_SHARED, get(word(self, 6)));
	close(dmabufs[0]);
	EXPECT_TRUE(comes_back(self, 6));
}

TEST_F(adopt, slabs_are_found_one_by_one_whatever_lies_between_them)
{
	struct evpl_slab_next next;
	uint64_t third;
	int fd = self->owner.fd;

	ASSERT_EQ(0, evpl_slab_alloc_on(fd, 2 * SLAB, 0, 0, &third));
	EXPECT_EQ(0, evpl_slab_next(fd, 0, &next));
	EXPECT_EQ(0, next.out_offset);
	EXPECT_EQ(SLAB, next.out_length);
	EXPECT_EQ(EVPL_NODE_ANY, next.out_node);
	ASSERT_EQ(0, evpl_slab_free(fd, self->second));
	/* One byte past a slab's start is past the slab. */
	EXPECT_EQ(0, evpl_slab_next(fd, 1, &next));
	EXPECT_EQ(third, next.out_offset);
	EXPECT_EQ(2 * SLAB, next.out_length);
	EXPECT_EQ(0, next.out_node);
	EXPECT_EQ(0, evpl_slab_next(fd, third, &next));
	EXPECT_EQ(third, next.out_offset);
	EXPECT_EQ(-ENOENT, evpl_slab_next(fd, third + 1, &next));
	EXPECT_EQ(-ENOENT, evpl_slab_next(fd, third + 2 * SLAB, &next));
	EXPECT_EQ(-ENOENT, evpl_slab_next(fd, self->owner.setup.out_own_size, &next));
	EXPECT_EQ(-ENOENT, evpl_slab_next(fd, UINT64_MAX, &next));
	ASSERT_EQ(0, evpl_slab_free(fd, 0));
	ASSERT_EQ(0, evpl_slab_free(fd, third));
	EXPECT_EQ(-ENOENT, evpl_slab_next(fd, 0, &next));
}

TEST_F(adopt, client_without_slabs_can_be_adopted)
{
	struct evpl_setup setup;

	ASSERT_EQ(0, evpl_slab_free(self->owner.fd, 0));
	ASSERT_EQ(0, evpl_slab_free(self->owner.fd, self->second));
	EXPECT_EQ(0, evpl_adopt(self->owner.fd, 0, &setup));
	EXPECT_EQ(0, evpl_adopt(self->owner.fd, 0, &setup));
}

TEST_F(adopt, successors_die_too)
{
	struct evpl_record got;
	pid_t pid;

	for (unsigned int i = 0; i < scaled(20); i++) {
		ASSERT_EQ(0, owner_that(self, use_everything, &pid));
		ASSERT_TRUE(killed(pid));
		ASSERT_EQ(0, adopt(self));
		ASSERT_EQ(0, adopt(self));
		ASSERT_TRUE(map_client(&self->owner));
		for (unsigned int n = 0; n < 2 * SLAB / BUFFER; n++)
			ASSERT_EQ(n == 3 ? EVPL_WORD_SHARED : 0, get(word(self, n)));
		ASSERT_EQ(USER, self->owner.header->user);
		ASSERT_EQ(0, self->owner.header->returned);
		ASSERT_EQ(1, evpl_recv(self->ends[1], &got, 1));
		ASSERT_EQ(1, let_go(&self->lessee, &got));
		ASSERT_TRUE(comes_back(self, 3));
		unmap_client(&self->owner);
		self->owner.own = NULL;
	}
}

/* The lessee of the last test: release each lease that comes, and send each buffer that is idle. */
static void release_and_send(struct _test_data_adopt *self)
{
	struct evpl_record got, sent;
	unsigned int n = 0;

	if (!map_client(&self->lessee))
		_exit(1);
	for (;;) {
		while (evpl_recv(self->ends[1], &got, 1) == 1)
			if (got.lease != EVPL_LEASE_NONE && let_go(&self->lessee, &got) < 0)
				_exit(2);
		n = (n + 1) % 32;
		if (get(&self->lessee.entries[n].word))
			continue;
		set_count(&self->lessee.entries[n].word, 1);
		sent = (struct evpl_record){ .offset = n * BUFFER, .length = BUFFER };
		/* The end may be full. */
		if (evpl_send(self->ends[1], &sent, 1) != 1)
			set_count(&self->lessee.entries[n].word, 0);
	}
}

TEST_F(adopt, what_comes_back_meanwhile_is_free_or_reported_never_lost)
{
	struct evpl_record got;
	struct evpl_setup setup;
	bool out[32];
	pid_t lessee = fork_child();

	if (!lessee)
		release_and_send(self);
	for (unsigned int i = 0; i < scaled(300); i++) {
		ASSERT_EQ(0, evpl_adopt(self->owner.fd, 0, &setup));
		ASSERT_TRUE(map_client(&self->owner));
		for (unsigned int n = 0; n < 32; n++) {
			uint64_t now = get(word(self, n));

			ASSERT_EQ(0, now & ~EVPL_WORD_SHARED);
			out[n] = now;
		}
		/* Send what is free, and keep the leases that come. */
		for (unsigned int n = 0; n < 32; n++)
			if (!out[n] && !send_one(self, n, 'x', n % 2 ? DEVICE_RW : 0))
				out[n] = true;
			else
				set_count(word(self, n), 0);
		while (evpl_recv(self->ends[0], &got, 1) == 1)
			;
		for (unsigned int n = 0; i % 8 == 0 && n < 32; n++)
			ASSERT_TRUE(!out[n] || comes_back(self, n));
		unmap_client(&self->owner);
		self->owner.own = NULL;
	}
	EXPECT_TRUE(killed(lessee));
}

TEST_HARNESS_MAIN
