// SPDX-License-Identifier: GPL-2.0-only
/*
 * Quarantine: the owner gets a buffer back when no device, pipe or ring holds it any more, and
 * not before.
 */
#include <sys/time.h>

#include "pair.h"
#include "ring.h"
#include "slow.h"

#define TRACING		"/sys/kernel/tracing/"

FIXTURE(quarantine)
{
	PAIR;
	int pipe[2], slow[2];
};

FIXTURE_SETUP(quarantine)
{
	self->slow[0] = self->slow[1] = -1;
	open_pair(_metadata, &self->pair, 0);
	ASSERT_EQ(0, pipe2(self->pipe, O_CLOEXEC | O_NONBLOCK));
}

FIXTURE_TEARDOWN(quarantine)
{
	close_slow_disks(self->slow);
	close(self->pipe[0]);
	close(self->pipe[1]);
	close_pair(&self->pair);
	EXPECT_TRUE(counters_return_to(self->before));
}

TEST_F(quarantine, buffer_that_nothing_holds_is_never_kept)
{
	struct evpl_record got;
	char *memory;

	for (int i = 0; i < 200; i++) {
		unsigned int n = i % 8;

		memory = lease(_metadata, &self->pair, n,
			       i & 1 ? DEVICE_RW : EVPL_RECORD_DEVICE, &got);
		EXPECT_TRUE(is_filled_with(memory, 'x', BUFFER));
		/* The owner's own mapping isn't counted, by 2 MiB or by pages. */
		madvise(self->owner.own + PAGE, PAGE, MADV_DONTNEED);
		EXPECT_EQ(0, touch_read(self->owner.own + 2 * PAGE));
		EXPECT_EQ(1, let_go(&self->lessee, &got));
		ASSERT_EQ(0, get(&self->owner.entries[n].word));
		ASSERT_EQ(0, read_counters().quarantined);
		ASSERT_EQ(0, read_counters().shares);
	}
}

TEST_F(quarantine, what_a_pipe_holds_is_kept_until_the_pipe_is_drained)
{
	struct evpl_record got;
	char *memory = lease(_metadata, &self->pair, 5, EVPL_RECORD_DEVICE, &got);
	char page[PAGE];

	ASSERT_EQ(PAGE, into_pipe(self->pipe[1], memory + PAGE, PAGE));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
	EXPECT_EQ(0, read_counters().leases);
	EXPECT_EQ(SIGBUS, touch_read(memory));
	EXPECT_TRUE(is_quarantined(&self->owner, 5));
	EXPECT_EQ(0, get(&self->owner.header->returned));
	/* A slab isn't freed while one of its buffers is in quarantine. */
	EXPECT_EQ(-EBUSY, evpl_slab_free(self->owner.fd, 0));
	EXPECT_EQ(PAGE, read(self->pipe[0], page, PAGE));
	EXPECT_TRUE(is_filled_with(page, 'x', PAGE));
	EXPECT_TRUE(is_returned(&self->owner, 5));
	EXPECT_EQ(0, evpl_slab_free(self->owner.fd, 0));
}

TEST_F(quarantine, what_a_dead_client_left_in_a_pipe_is_kept_until_it_is_drained)
{
	struct evpl_record got;
	char *memory = lease(_metadata, &self->pair, 5, DEVICE_RW, &got);
	char page[PAGE];

	ASSERT_EQ(PAGE, into_pipe(self->pipe[1], memory, PAGE));
	close_client(&self->lessee);
	EXPECT_EQ(0, read_counters().leases);
	EXPECT_TRUE(is_quarantined(&self->owner, 5));
	EXPECT_EQ(PAGE, read(self->pipe[0], page, PAGE));
	EXPECT_TRUE(is_returned(&self->owner, 5));
}

/* Whether the trace has a line of this event with this text. */
static bool is_traced(const char *event, const char *text)
{
	FILE *trace = fopen(TRACING "trace", "re");
	char line[512];
	bool found = false;

	while (trace && !found && fgets(line, sizeof(line), trace))
		found = strstr(line, event) && strstr(line, text);
	if (trace)
		fclose(trace);
	return found;
}

TEST_F(quarantine, trace_tells_what_comes_and_goes_and_why_a_buffer_is_kept)
{
	struct evpl_record got;
	uint64_t offset;
	char fifth[64], page[PAGE];
	char *memory;

	if (write_string(TRACING "events/evpl/enable", "1"))
		SKIP(return, "a kernel without events that can be traced");
	memory = lease(_metadata, &self->pair, 5, EVPL_RECORD_DEVICE, &got);
	ASSERT_EQ(PAGE, into_pipe(self->pipe[1], memory, PAGE));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
	EXPECT_EQ(PAGE, read(self->pipe[0], page, PAGE));
	EXPECT_TRUE(is_returned(&self->owner, 5));
	ASSERT_EQ(0, evpl_slab_alloc(self->owner.fd, 2 * SLAB_2M, &offset));
	EXPECT_EQ(0, evpl_slab_free(self->owner.fd, offset));
	EXPECT_EQ(0, write_string(TRACING "events/evpl/enable", "0"));
	snprintf(fifth, sizeof(fifth), "buffer 0x%lx", 5 * BUFFER);
	EXPECT_TRUE(is_traced("evpl_lease_begin:", fifth));
	EXPECT_TRUE(is_traced("evpl_lease_end:", fifth));
	EXPECT_TRUE(is_traced("evpl_slab_begin:", "bytes 4194304 in "));
	EXPECT_TRUE(is_traced("evpl_slab_end:", "bytes 4194304 in "));
	EXPECT_TRUE(is_traced("evpl_folio_held:", fifth));
	EXPECT_TRUE(is_traced("evpl_folio_held:", "has 1 references, baseline 0"));
	EXPECT_TRUE(is_traced("evpl_quarantine_begin:", fifth));
	EXPECT_TRUE(is_traced("evpl_quarantine_end:", fifth));
}

TEST_F(quarantine, owner_that_pulls_has_the_kernel_recheck_at_once)
{
	struct evpl_record got;
	char *memory = lease(_metadata, &self->pair, 5, EVPL_RECORD_DEVICE, &got);
	char page[PAGE];

	ASSERT_EQ(PAGE, into_pipe(self->pipe[1], memory, PAGE));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
	/* After a second the kernel's own passes are rare. */
	sleep(1);
	EXPECT_EQ(PAGE, read(self->pipe[0], page, PAGE));
	EXPECT_EQ(0, evpl_lease_pull(self->owner.fd));
	EXPECT_EQ(0, get(&self->owner.entries[5].word));
	EXPECT_EQ(0, read_counters().quarantined);
}

TEST_F(quarantine, owner_can_end_a_quarantine_itself)
{
	struct evpl_record got;
	char *memory = lease(_metadata, &self->pair, 5, EVPL_RECORD_DEVICE, &got);

	ASSERT_EQ(PAGE, into_pipe(self->pipe[1], memory, PAGE));
	EXPECT_EQ(-ENOENT, evpl_quarantine_end(self->owner.fd, 5 * BUFFER));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
	EXPECT_TRUE(is_quarantined(&self->owner, 5));
	EXPECT_EQ(-ENOENT, evpl_quarantine_end(self->owner.fd, 5 * BUFFER + PAGE));
	EXPECT_EQ(-ENOENT, evpl_quarantine_end(self->owner.fd, 4 * BUFFER));
	EXPECT_EQ(-ENOENT, evpl_quarantine_end(self->owner.fd, SLAB));
	EXPECT_EQ(-ENOENT, evpl_quarantine_end(self->lessee.fd, 5 * BUFFER));
	EXPECT_TRUE(is_quarantined(&self->owner, 5));
	EXPECT_EQ(0, evpl_quarantine_end(self->owner.fd, 5 * BUFFER));
	EXPECT_EQ(0, get(&self->owner.entries[5].word));
	EXPECT_TRUE(bit(self->owner.returned, 5));
	EXPECT_EQ(0, read_counters().quarantined);
	EXPECT_EQ(-ENOENT, evpl_quarantine_end(self->owner.fd, 5 * BUFFER));
}

TEST_F(quarantine, what_is_in_quarantine_can_be_sent_and_comes_back_once)
{
	struct evpl_record got, again;
	char *memory = lease(_metadata, &self->pair, 5, EVPL_RECORD_DEVICE, &got);
	struct evpl_record sent = { .offset = 5 * BUFFER, .length = BUFFER };
	char page[PAGE];

	ASSERT_EQ(PAGE, into_pipe(self->pipe[1], memory, PAGE));
	/* The owner keeps a reference. */
	set_count(&self->owner.entries[5].word, 1);
	EXPECT_EQ(1, let_go(&self->lessee, &got));
	EXPECT_EQ(EVPL_WORD_SHARED | 1, get(&self->owner.entries[5].word));
	EXPECT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	EXPECT_EQ(EVPL_WORD_SHARED, get(&self->owner.entries[5].word));
	EXPECT_EQ(1, evpl_recv(self->ends[1], &again, 1));
	EXPECT_EQ(PAGE, read(self->pipe[0], page, PAGE));
	EXPECT_EQ(0, evpl_lease_pull(self->owner.fd));
	/* The buffer is leased, but isn't in quarantine any more. */
	EXPECT_EQ(0, read_counters().quarantined);
	EXPECT_EQ(EVPL_WORD_SHARED, get(&self->owner.entries[5].word));
	EXPECT_EQ(1, let_go(&self->lessee, &again));
	EXPECT_TRUE(is_returned(&self->owner, 5));
	EXPECT_EQ(0, read_counters().shares);
}

TEST_F(quarantine, revoked_buffer_that_something_holds_is_kept)
{
	struct evpl_record got;
	char *memory = lease(_metadata, &self->pair, 5, EVPL_RECORD_DEVICE, &got);
	struct evpl_record sent = { .offset = 5 * BUFFER, .length = BUFFER };
	char page[PAGE];

	ASSERT_EQ(PAGE, into_pipe(self->pipe[1], memory, PAGE));
	EXPECT_EQ(1, evpl_revoke(self->owner.fd, 5 * BUFFER));
	EXPECT_EQ(SIGBUS, touch_read(memory));
	EXPECT_TRUE(is_quarantined(&self->owner, 5));
	EXPECT_EQ(-EBUSY, evpl_revoke(self->owner.fd, 5 * BUFFER));
	EXPECT_EQ(-EBUSY, evpl_send(self->ends[0], &sent, 1));
	/* Nothing of the revoked lease is left but its word. */
	EXPECT_EQ(1, let_go(&self->lessee, &got));
	EXPECT_TRUE(is_quarantined(&self->owner, 5));
	EXPECT_EQ(PAGE, read(self->pipe[0], page, PAGE));
	EXPECT_TRUE(is_returned(&self->owner, 5));

	memory = lease(_metadata, &self->pair, 5, EVPL_RECORD_DEVICE, &got);
	EXPECT_EQ(0, touch_read(memory));
	EXPECT_EQ(0, evpl_revoke(self->owner.fd, 5 * BUFFER));
	EXPECT_EQ(0, get(&self->owner.entries[5].word));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
}

TEST_F(quarantine, revoke_of_what_is_in_quarantine_takes_it_over)
{
	struct evpl_record got;
	char *memory = lease(_metadata, &self->pair, 5, EVPL_RECORD_DEVICE, &got);
	char page[PAGE];

	ASSERT_EQ(PAGE, into_pipe(self->pipe[1], memory, PAGE));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
	EXPECT_TRUE(is_quarantined(&self->owner, 5));
	EXPECT_EQ(1, evpl_revoke(self->owner.fd, 5 * BUFFER));
	EXPECT_TRUE(is_quarantined(&self->owner, 5));
	EXPECT_EQ(0, evpl_quarantine_end(self->owner.fd, 5 * BUFFER));
	EXPECT_TRUE(is_returned(&self->owner, 5));
	EXPECT_EQ(0, read_counters().shares);
	EXPECT_EQ(PAGE, read(self->pipe[0], page, PAGE));
}

TEST_F(quarantine, quarantine_ends_with_the_owner_and_the_memory_stays_charged)
{
	struct evpl_record got;
	char *memory = lease(_metadata, &self->pair, 5, EVPL_RECORD_DEVICE, &got);
	char page[PAGE];

	ASSERT_EQ(PAGE, into_pipe(self->pipe[1], memory, PAGE));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
	EXPECT_TRUE(is_quarantined(&self->owner, 5));
	close_client(&self->owner);
	EXPECT_EQ(0, read_counters().quarantined);
	EXPECT_EQ(0, read_counters().shares);
	EXPECT_LT(0, read_counters().detached);
	EXPECT_EQ(PAGE, read(self->pipe[0], page, PAGE));
	EXPECT_TRUE(is_filled_with(page, 'x', PAGE));
}

TEST_F(quarantine, baseline_is_what_the_owners_registrations_hold)
{
	struct evpl_record got;
	char *memory, page[PAGE];
	int own_pipe[2];

	ASSERT_EQ(0, pipe2(own_pipe, O_CLOEXEC | O_NONBLOCK));
	EXPECT_EQ(0, evpl_baseline(self->owner.fd, 0, 0, SLAB));

	/* The pipe stands for a registration, whose references stay and fail the check. */
	ASSERT_EQ(PAGE, into_pipe(own_pipe[1], self->owner.own + 5 * BUFFER, PAGE));
	lease(_metadata, &self->pair, 5, EVPL_RECORD_DEVICE, &got);
	EXPECT_EQ(1, let_go(&self->lessee, &got));
	EXPECT_TRUE(is_quarantined(&self->owner, 5));
	/* The baseline isn't raised, since a buffer in quarantine is in use. */
	EXPECT_LT(0, evpl_baseline(self->owner.fd, 0, 5 * BUFFER, BUFFER));
	EXPECT_EQ(0, evpl_quarantine_end(self->owner.fd, 5 * BUFFER));

	/* With a baseline they pass it, but a reference on top of the baseline doesn't. */
	EXPECT_EQ(0, evpl_baseline(self->owner.fd, 0, 5 * BUFFER, BUFFER));
	memory = lease(_metadata, &self->pair, 5, EVPL_RECORD_DEVICE, &got);
	EXPECT_EQ(0, touch_read(memory));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
	EXPECT_EQ(0, get(&self->owner.entries[5].word));
	__atomic_fetch_and(&self->owner.returned[0], 0, __ATOMIC_RELAXED);
	memory = lease(_metadata, &self->pair, 5, EVPL_RECORD_DEVICE, &got);
	ASSERT_EQ(PAGE, into_pipe(self->pipe[1], memory, PAGE));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
	EXPECT_TRUE(is_quarantined(&self->owner, 5));

	/* The owner takes its registration away: then only the lessee's pipe holds the page. */
	EXPECT_EQ(0, evpl_baseline(self->owner.fd, EVPL_BASELINE_ZERO, 5 * BUFFER, BUFFER));
	ASSERT_EQ(PAGE, read(own_pipe[0], page, PAGE));
	EXPECT_TRUE(is_quarantined(&self->owner, 5));
	ASSERT_EQ(PAGE, read(self->pipe[0], page, PAGE));
	EXPECT_TRUE(is_returned(&self->owner, 5));
	EXPECT_EQ(0, evpl_baseline(self->owner.fd, 0, 0, SLAB));
	close(own_pipe[0]);
	close(own_pipe[1]);
}

TEST_F(quarantine, baseline_of_what_is_in_use_is_not_raised)
{
	struct evpl_record got;
	char page[PAGE];
	int own_pipe[2];

	/* The pipe stands for I/O of the owner's, which must not become a part of the baseline. */
	ASSERT_EQ(0, pipe2(own_pipe, O_CLOEXEC | O_NONBLOCK));
	ASSERT_EQ(PAGE, into_pipe(own_pipe[1], self->owner.own + 5 * BUFFER, PAGE));
	set_count(&self->owner.entries[5].word, 1);
	EXPECT_LT(0, evpl_baseline(self->owner.fd, 0, 5 * BUFFER, BUFFER));
	EXPECT_LT(0, evpl_baseline(self->owner.fd, 0, 0, SLAB));
	EXPECT_EQ(0, evpl_baseline(self->owner.fd, EVPL_BASELINE_ZERO, 0, SLAB));
	set(&self->owner.entries[5].word, 1ULL << 63);
	EXPECT_LT(0, evpl_baseline(self->owner.fd, 0, 5 * BUFFER, PAGE));
	lease(_metadata, &self->pair, 5, EVPL_RECORD_DEVICE, &got);
	/* The buffer is in use even if the owner takes the kernel's flag off the word. */
	set(&self->owner.entries[5].word, 0);
	EXPECT_LT(0, evpl_baseline(self->owner.fd, 0, 5 * BUFFER, PAGE));
	set(&self->owner.entries[5].word, EVPL_WORD_SHARED);
	EXPECT_EQ(1, let_go(&self->lessee, &got));
	EXPECT_TRUE(is_quarantined(&self->owner, 5));
	ASSERT_EQ(PAGE, read(own_pipe[0], page, PAGE));
	EXPECT_TRUE(is_returned(&self->owner, 5));
	EXPECT_EQ(0, evpl_baseline(self->owner.fd, 0, 5 * BUFFER, BUFFER));
	close(own_pipe[0]);
	close(own_pipe[1]);
}

TEST_F(quarantine, baseline_of_folios_that_are_held_alike_is_that_of_the_idle_ones)
{
	struct evpl_record got;
	struct iovec slab = { .iov_len = 2 * SLAB_2M };
	int own_pipe[2], other;
	uint64_t offset;
	char page[PAGE];

	/* Two folios of 2 MiB, or many small folios, are held alike: all pages are in the pipe. */
	ASSERT_EQ(0, evpl_slab_alloc(self->owner.fd, 2 * SLAB_2M, &offset));
	slab.iov_base = map(self->owner.fd, 2 * SLAB_2M, offset, PROT_READ | PROT_WRITE);
	ASSERT_NE(NULL, slab.iov_base);
	munmap(self->owner.own, SLAB);
	self->owner.own = slab.iov_base - offset;
	ASSERT_EQ(0, pipe2(own_pipe, O_CLOEXEC | O_NONBLOCK));
	ASSERT_LT(0, fcntl(own_pipe[1], F_SETPIPE_SZ, 2 * SLAB_2M));
	ASSERT_EQ(2 * SLAB_2M, into_pipe(own_pipe[1], slab.iov_base, 2 * SLAB_2M));
	other = offset / BUFFER;
	set_count(&self->owner.entries[other].word, 1);
	EXPECT_LT(0, evpl_baseline(self->owner.fd, 0, offset, 2 * SLAB_2M));
	EXPECT_EQ(0, evpl_baseline(self->owner.fd, EVPL_BASELINE_ALIKE, offset, 2 * SLAB_2M));
	/* If no folio of the range is idle, there is no baseline to take over. */
	EXPECT_LT(0, evpl_baseline(self->owner.fd, EVPL_BASELINE_ALIKE, offset, BUFFER));
	set_count(&self->owner.entries[other].word, 0);

	lease(_metadata, &self->pair, other, EVPL_RECORD_DEVICE, &got);
	EXPECT_EQ(1, let_go(&self->lessee, &got));
	EXPECT_EQ(0, get(&self->owner.entries[other].word));
	EXPECT_EQ(0, read_counters().quarantined);
	for (int i = 0; i < 2 * SLAB_2M / PAGE; i++)
		ASSERT_EQ(PAGE, read(own_pipe[0], page, PAGE));
	close(own_pipe[0]);
	close(own_pipe[1]);
	munmap(slab.iov_base, 2 * SLAB_2M);
	self->owner.own = map(self->owner.fd, SLAB, 0, PROT_READ);
}

TEST_F(quarantine, baseline_of_what_is_no_range_of_a_slab_is_an_error)
{
	int fd = self->owner.fd;

	EXPECT_EQ(-EINVAL, evpl_baseline(fd, 0, 0, 0));
	EXPECT_EQ(-EINVAL, evpl_baseline(fd, 0, 1, PAGE));
	EXPECT_EQ(-EINVAL, evpl_baseline(fd, 0, 0, PAGE + 1));
	EXPECT_EQ(-EINVAL, evpl_baseline(fd, EVPL_BASELINE_ZERO | EVPL_BASELINE_ALIKE, 0, PAGE));
	EXPECT_EQ(-EINVAL, evpl_baseline(fd, 0, PAGE, -PAGE));
	EXPECT_EQ(-ENOENT, evpl_baseline(fd, 0, SLAB, PAGE));
	EXPECT_EQ(-ENOENT, evpl_baseline(fd, 0, 0, SLAB + PAGE));
	EXPECT_EQ(-ENOENT, evpl_baseline(fd, 0, PAGE, SLAB));
	EXPECT_EQ(-ENOENT, evpl_baseline(fd, 0, self->owner.setup.out_guest_io_offset, PAGE));
	EXPECT_EQ(-ENOENT, evpl_baseline(fd, 0, -2 * PAGE, PAGE));
}

TEST_F(quarantine, what_a_ring_has_registered_is_kept_until_it_is_unregistered)
{
	struct evpl_record got;
	struct ring ring;
	char *memory;
	int ret;

	ASSERT_TRUE(ring_open(&ring));
	memory = lease(_metadata, &self->pair, 5, DEVICE_RW, &got);
	ret = ring_register(&ring, memory, BUFFER);
	if (ret == -EOPNOTSUPP) {
		ring_close(&ring);
		SKIP(return, "this kernel registers no file-backed memory");
	}
	ASSERT_EQ(0, ret);
	EXPECT_EQ(1, let_go(&self->lessee, &got));
	EXPECT_EQ(SIGBUS, touch_read(memory));
	EXPECT_TRUE(is_quarantined(&self->owner, 5));
	EXPECT_EQ(0, ring_unregister(&ring));
	EXPECT_TRUE(is_returned(&self->owner, 5));
	ring_close(&ring);
}

/* Kill the lessee, and wait for its client to have gone. */
static bool kill_lessee(struct _test_data_quarantine *self, pid_t pid)
{
	long long clients = read_counters().clients;

	if (kill(pid, SIGKILL) || reap(pid) != -SIGKILL)
		return false;
	for (int tries = 0; tries < 600 && read_counters().clients == clients; tries++)
		usleep(100 * 1000);
	return read_counters().clients == clients - 1 && !read_counters().leases;
}

/* Have a process lease buffer 5, start a slow read into it, and die. */
static void die_reading(struct __test_metadata *_metadata, struct _test_data_quarantine *self,
			int slow, enum slow_read how)
{
	struct evpl_record sent = fill(&self->owner, 5, 'x');
	int ends[2];
	pid_t pid = 0;

	sent.flags = DEVICE_RW;
	ASSERT_EQ(0, evpl_channel(self->owner.fd, 8, ends));
	ASSERT_EQ(0, evpl_bind(self->owner.fd, ends[0]));
	ASSERT_EQ(1, evpl_send(ends[0], &sent, 1));
	ASSERT_EQ(0, lessee_that_reads(ends[1], self->slow[slow], how, &pid));
	ASSERT_TRUE(gets_under_way(slow));
	EXPECT_EQ(1, read_counters().leases);
	ASSERT_TRUE(kill_lessee(self, pid));
	EXPECT_EQ(1, in_flight(slow));
	close(ends[0]);
	close(ends[1]);
}

static bool has_fixed_buffers(struct _test_data_quarantine *self)
{
	struct ring ring;
	bool has = ring_open(&ring) && !ring_register(&ring, self->owner.own, BUFFER);

	ring_close(&ring);
	return has;
}

static void dead_reader(struct __test_metadata *_metadata, struct _test_data_quarantine *self,
			enum slow_read how)
{
	if (!have_slow_disks(self->slow))
		SKIP(return, "no disk in EVPL_TEST_DISK that dm-delay can slow down");
	if (how == FIXED && !has_fixed_buffers(self))
		SKIP(return, "this kernel registers no file-backed memory");
	ASSERT_TRUE(set_disk('d'));
	die_reading(_metadata, self, 0, how);
	EXPECT_TRUE(is_quarantined(&self->owner, 5));
	EXPECT_TRUE(is_filled_with(self->owner.own + 5 * BUFFER, 'x', BUFFER));
	hurry(0);
	EXPECT_TRUE(is_returned(&self->owner, 5));
	/* The disk has written to the buffer after the process died. */
	EXPECT_TRUE(is_filled_with(self->owner.own + 5 * BUFFER, 'd', BUFFER));
}

TEST_F(quarantine, read_of_a_dead_client_into_a_lease_keeps_the_buffer_until_it_ends)
{
	dead_reader(_metadata, self, PLAIN);
}

TEST_F(quarantine, fixed_read_of_a_dead_client_into_a_lease_keeps_the_buffer_until_it_ends)
{
	dead_reader(_metadata, self, FIXED);
}

/* I/O of the owner's own in the same folio, begun before, doesn't hide the lessee's I/O. */
TEST_F(quarantine, owners_own_read_in_the_same_folio_opens_no_gap)
{
	struct ring ring;

	if (!have_slow_disks(self->slow))
		SKIP(return, "no disk in EVPL_TEST_DISK that dm-delay can slow down");
	ASSERT_TRUE(set_disk('d'));
	ASSERT_TRUE(ring_open(&ring));
	set_count(&self->owner.entries[4].word, 1);
	ASSERT_EQ(0, ring_read(&ring, self->slow[1], self->owner.own + 4 * BUFFER, BUFFER,
			       false));
	ASSERT_TRUE(gets_under_way(1));
	/* The owner's I/O doesn't become a part of the baseline. */
	EXPECT_LT(0, evpl_baseline(self->owner.fd, 0, 4 * BUFFER, BUFFER));

	die_reading(_metadata, self, 0, PLAIN);
	EXPECT_TRUE(is_quarantined(&self->owner, 5));
	hurry(1);
	EXPECT_EQ(BUFFER, ring_wait(&ring));
	set_count(&self->owner.entries[4].word, 0);
	EXPECT_TRUE(is_quarantined(&self->owner, 5));
	EXPECT_TRUE(is_filled_with(self->owner.own + 5 * BUFFER, 'x', BUFFER));
	hurry(0);
	EXPECT_TRUE(is_returned(&self->owner, 5));
	EXPECT_TRUE(is_filled_with(self->owner.own + 5 * BUFFER, 'd', BUFFER));
	ring_close(&ring);
}

#define HOLDER		"/sys/kernel/debug/evpl-holder/"

/*
 * Have the module evpl_holder take a reference on the page that the owner has mapped here, as
 * KVM before Linux 6.13 does through a lessee's mapping. Get the frame's number from the
 * owner's mapping, since pagemap doesn't show it for a PFN mapping. Return 0 or -errno:
 * -ENOENT if the module isn't there.
 */
static int hold_page(char *memory)
{
	int ret = load_module("evpl_holder");
	uint64_t frame;

	if (ret)
		return ret;
	if (touch_read(memory))
		return -EFAULT;
	frame = frame_of(memory);
	return frame ? write_number(HOLDER "hold", frame) : -EFAULT;
}

static void let_go_of_page(void)
{
	write_number(HOLDER "release", 0);
	syscall(SYS_delete_module, "evpl_holder", 0);
}

TEST_F(quarantine, page_of_a_writable_lease_that_kvm_holds_keeps_the_buffer)
{
	struct evpl_record got;
	/* Buffer 0 starts with a folio's first page: no other page has a refcount of its own. */
	char *memory = lease(_metadata, &self->pair, 0, EVPL_RECORD_WRITE, &got);
	int ret = hold_page(self->owner.own);

	if (ret == -ENOENT)
		SKIP(return, "name the module's file in EVPL_MODULE");
	ASSERT_EQ(0, ret);
	EXPECT_EQ(0, touch_write(memory));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
	EXPECT_EQ(SIGBUS, touch_write(memory));
	EXPECT_TRUE(is_quarantined(&self->owner, 0));
	let_go_of_page();
	EXPECT_TRUE(is_returned(&self->owner, 0));
}

TEST_F(quarantine, revoke_of_a_writable_lease_that_kvm_holds_a_page_of_says_so)
{
	struct evpl_record got;
	char *memory = lease(_metadata, &self->pair, 0, EVPL_RECORD_WRITE, &got);
	int ret = hold_page(self->owner.own);

	if (ret == -ENOENT)
		SKIP(return, "name the module's file in EVPL_MODULE");
	ASSERT_EQ(0, ret);
	EXPECT_EQ(0, touch_write(memory));
	EXPECT_EQ(1, evpl_revoke(self->owner.fd, 0));
	EXPECT_EQ(SIGBUS, touch_write(memory));
	EXPECT_TRUE(is_quarantined(&self->owner, 0));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
	EXPECT_TRUE(is_quarantined(&self->owner, 0));
	let_go_of_page();
	EXPECT_TRUE(is_returned(&self->owner, 0));

	/* If nothing holds the buffer, the revoke is complete at once. */
	lease(_metadata, &self->pair, 0, EVPL_RECORD_WRITE, &got);
	EXPECT_EQ(0, evpl_revoke(self->owner.fd, 0));
	EXPECT_EQ(0, get(&self->owner.entries[0].word));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
}

/* Export buffer 0 as a writable dma-buf, and map that. */
static char *map_writable_dmabuf(struct __test_metadata *_metadata,
				 struct _test_data_quarantine *self, int *fd)
{
	struct evpl_range range = { .offset = 0, .length = BUFFER };
	char *memory;

	fill(&self->owner, 0, 'x');
	*fd = evpl_export(self->owner.fd, &range, 1, EVPL_EXPORT_WRITE);
	ASSERT_LE(0, *fd);
	memory = map(*fd, BUFFER, 0, PROT_READ | PROT_WRITE);
	ASSERT_NE(NULL, memory);
	return memory;
}

TEST_F(quarantine, revoke_of_a_writable_dma_buf_that_kvm_holds_a_page_of_says_so)
{
	char *memory;
	int fd, ret;

	if (!can_tell_importers())
		SKIP(return, "a kernel that can't tell importers");
	memory = map_writable_dmabuf(_metadata, self, &fd);
	ret = hold_page(self->owner.own);
	if (!ret) {
		EXPECT_EQ(0, touch_write(memory));
		EXPECT_EQ(1, evpl_revoke(self->owner.fd, 0));
		EXPECT_EQ(SIGBUS, touch_write(memory));
		EXPECT_TRUE(is_quarantined(&self->owner, 0));
		let_go_of_page();
		EXPECT_TRUE(is_returned(&self->owner, 0));
	}
	EXPECT_EQ(0, munmap(memory, BUFFER));
	close(fd);
	if (ret == -ENOENT)
		SKIP(return, "name the module's file in EVPL_MODULE");
	EXPECT_EQ(0, ret);
}

TEST_F(quarantine, page_of_a_writable_dma_buf_that_kvm_holds_keeps_the_buffer)
{
	char *memory;
	int fd, ret;

	memory = map_writable_dmabuf(_metadata, self, &fd);
	ret = hold_page(self->owner.own);
	EXPECT_EQ(0, touch_write(memory));
	EXPECT_EQ(0, munmap(memory, BUFFER));
	close(fd);
	if (ret == -ENOENT)
		SKIP(return, "name the module's file in EVPL_MODULE");
	ASSERT_EQ(0, ret);
	EXPECT_TRUE(is_quarantined(&self->owner, 0));
	let_go_of_page();
	EXPECT_TRUE(is_returned(&self->owner, 0));
}

TEST_F(quarantine, end_of_a_read_only_lease_checks_no_folio)
{
	struct evpl_record got;
	long long rechecks = number_in(COUNTERS, "rechecks");

	ASSERT_LE(0, rechecks);
	lease(_metadata, &self->pair, 0, 0, &got);
	EXPECT_EQ(1, let_go(&self->lessee, &got));
	EXPECT_EQ(0, get(&self->owner.entries[0].word));
	EXPECT_EQ(rechecks, number_in(COUNTERS, "rechecks"));
	lease(_metadata, &self->pair, 0, EVPL_RECORD_WRITE, &got);
	EXPECT_EQ(1, let_go(&self->lessee, &got));
	EXPECT_EQ(0, get(&self->owner.entries[0].word));
	/* The kernel has checked each folio of the buffer. */
	EXPECT_LT(rechecks, number_in(COUNTERS, "rechecks"));
}

TEST_F(quarantine, buffer_that_comes_home_held_says_so_and_can_be_waited_for)
{
	struct evpl_record got, home;
	char *memory = lease(_metadata, &self->pair, 5, EVPL_RECORD_DEVICE, &got);
	char page[PAGE];

	ASSERT_EQ(PAGE, into_pipe(self->pipe[1], memory, PAGE));
	ASSERT_EQ(1, evpl_send(self->ends[1], &got, 1));
	ASSERT_EQ(0, read_counters().leases);
	ASSERT_EQ(1, evpl_recv(self->ends[0], &home, 1));
	EXPECT_EQ(5 * BUFFER, home.offset);
	EXPECT_EQ(EVPL_LEASE_NONE, home.lease);
	EXPECT_EQ(EVPL_RECORD_DEVICE | EVPL_RECORD_HELD, home.flags);
	/* The word counts the owner's reference, and the quarantine has the flag. */
	EXPECT_EQ(EVPL_WORD_SHARED | EVPL_WORD_PASSED_ON | 1, get(&self->owner.entries[5].word));
	EXPECT_EQ(1, read_counters().quarantined);
	EXPECT_EQ(-EAGAIN, evpl_buffer_wait(self->owner.fd, 5 * BUFFER, EVPL_WAIT_TRY));

	EXPECT_EQ(PAGE, read(self->pipe[0], page, PAGE));
	EXPECT_TRUE(is_filled_with(page, 'x', PAGE));
	EXPECT_EQ(0, evpl_buffer_wait(self->owner.fd, 5 * BUFFER, 0));
	EXPECT_EQ(1, get(&self->owner.entries[5].word));
	EXPECT_EQ(0, read_counters().quarantined);
	/* poll(2) tells too. The buffer has no bit, since the owner has a reference. */
	EXPECT_FALSE(bit(self->owner.returned, 5));
	EXPECT_NE(0, get(&self->owner.header->returned));
	EXPECT_EQ(POLLIN, events_of(self->owner.fd) & POLLIN);
	EXPECT_EQ(0, evpl_buffer_wait(self->owner.fd, 5 * BUFFER, EVPL_WAIT_TRY));
	set_count(&self->owner.entries[5].word, 0);
}

TEST_F(quarantine, buffer_that_comes_home_while_others_have_it_says_so)
{
	struct evpl_record got[2], home, sent;

	lease(_metadata, &self->pair, 5, DEVICE_RW, &got[0]);
	/* Send the buffer twice, so that the lease stays when one reference goes home. */
	set_count(&self->owner.entries[5].word, 1);
	sent = (struct evpl_record){ .offset = 5 * BUFFER, .length = BUFFER, .flags = DEVICE_RW };
	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	ASSERT_EQ(1, evpl_recv(self->ends[1], &got[1], 1));
	ASSERT_EQ(1, evpl_send(self->ends[1], &got[0], 1));
	ASSERT_EQ(1, evpl_recv(self->ends[0], &home, 1));
	EXPECT_EQ(DEVICE_RW | EVPL_RECORD_HELD, home.flags);
	EXPECT_EQ(-EAGAIN, evpl_buffer_wait(self->owner.fd, 5 * BUFFER, EVPL_WAIT_TRY));
	EXPECT_EQ(1, let_go(&self->lessee, &got[1]));
	EXPECT_EQ(0, evpl_buffer_wait(self->owner.fd, 5 * BUFFER, EVPL_WAIT_TRY));
	EXPECT_EQ(1, get(&self->owner.entries[5].word));
	set_count(&self->owner.entries[5].word, 0);
}

TEST_F(quarantine, buffer_that_comes_home_while_a_record_can_still_lend_it_says_so)
{
	struct evpl_record sent = fill(&self->owner, 5, 'x'), got, home, other;
	int ends[2];

	set_count(&self->owner.entries[5].word, 2);
	ASSERT_EQ(0, evpl_channel(self->owner.fd, 8, ends));
	ASSERT_EQ(0, evpl_bind(self->owner.fd, ends[0]));
	ASSERT_EQ(0, evpl_bind(self->lessee.fd, ends[1]));
	/* Send a record that allows to write, and isn't read yet, and one that doesn't. */
	sent.flags = EVPL_RECORD_WRITE;
	ASSERT_EQ(1, evpl_send(ends[0], &sent, 1));
	sent.flags = 0;
	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	ASSERT_EQ(1, evpl_recv(self->ends[1], &got, 1));
	ASSERT_EQ(1, evpl_send(self->ends[1], &got, 1));
	ASSERT_EQ(1, evpl_recv(self->ends[0], &home, 1));
	EXPECT_EQ(EVPL_RECORD_HELD, home.flags);
	EXPECT_EQ(-EAGAIN, evpl_buffer_wait(self->owner.fd, 5 * BUFFER, EVPL_WAIT_TRY));
	ASSERT_EQ(1, evpl_recv(ends[1], &other, 1));
	EXPECT_EQ(0, touch_write(memory_of(&self->lessee, &other)));
	EXPECT_EQ(-EAGAIN, evpl_buffer_wait(self->owner.fd, 5 * BUFFER, EVPL_WAIT_TRY));
	EXPECT_EQ(1, let_go(&self->lessee, &other));
	EXPECT_EQ(0, evpl_buffer_wait(self->owner.fd, 5 * BUFFER, EVPL_WAIT_TRY));
	set_count(&self->owner.entries[5].word, 0);
	close(ends[0]);
	close(ends[1]);
}

TEST_F(quarantine, buffer_that_comes_home_in_two_records_is_held_until_the_last)
{
	struct evpl_record got[2], home[2], sent;

	lease(_metadata, &self->pair, 5, DEVICE_RW, &got[0]);
	set_count(&self->owner.entries[5].word, 1);
	sent = (struct evpl_record){ .offset = 5 * BUFFER, .length = BUFFER, .flags = DEVICE_RW };
	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	ASSERT_EQ(1, evpl_recv(self->ends[1], &got[1], 1));
	ASSERT_EQ(2, evpl_send(self->ends[1], got, 2));
	ASSERT_EQ(2, evpl_recv(self->ends[0], home, 2));
	EXPECT_EQ(DEVICE_RW | EVPL_RECORD_HELD, home[0].flags);
	EXPECT_EQ(DEVICE_RW, home[1].flags);
	EXPECT_EQ(0, evpl_buffer_wait(self->owner.fd, 5 * BUFFER, 0));
	EXPECT_EQ(2, get(&self->owner.entries[5].word));
	set_count(&self->owner.entries[5].word, 0);
}

TEST_F(quarantine, end_of_a_buffer_that_is_sent_again_is_told_to_those_that_tried)
{
	struct evpl_record sent = { .offset = 5 * BUFFER, .length = BUFFER }, got;

	lease(_metadata, &self->pair, 5, DEVICE_RW, &got);
	/* The owner keeps a reference, so that the word never comes to 0. */
	set_count(&self->owner.entries[5].word, 2);
	EXPECT_EQ(-EAGAIN, evpl_buffer_wait(self->owner.fd, 5 * BUFFER, EVPL_WAIT_TRY));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
	EXPECT_NE(0, get(&self->owner.header->returned));
	set(&self->owner.header->returned, 0);

	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	ASSERT_EQ(1, evpl_recv(self->ends[1], &got, 1));
	EXPECT_EQ(-EAGAIN, evpl_buffer_wait(self->owner.fd, 5 * BUFFER, EVPL_WAIT_TRY));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
	EXPECT_NE(0, get(&self->owner.header->returned));
	EXPECT_EQ(1, get(&self->owner.entries[5].word));
	set_count(&self->owner.entries[5].word, 0);
}

TEST_F(quarantine, buffer_that_comes_home_free_says_nothing)
{
	static const uint32_t kinds[] = {
		0, EVPL_RECORD_WRITE, EVPL_RECORD_DEVICE, DEVICE_RW,
	};
	struct evpl_record got, home;

	for (int i = 0; i < 4; i++) {
		char *memory = lease(_metadata, &self->pair, 5, kinds[i], &got);

		EXPECT_EQ(0, touch_read(memory));
		ASSERT_EQ(1, evpl_send(self->ends[1], &got, 1));
		ASSERT_EQ(1, evpl_recv(self->ends[0], &home, 1));
		EXPECT_EQ(kinds[i], home.flags);
		EXPECT_EQ(1, get(&self->owner.entries[5].word));
		EXPECT_EQ(0, read_counters().shares);
		EXPECT_EQ(0, evpl_buffer_wait(self->owner.fd, 5 * BUFFER, 0));
		set_count(&self->owner.entries[5].word, 0);
	}
}

TEST_F(quarantine, wait_for_what_is_no_buffer_is_an_error)
{
	int fd = self->owner.fd;

	EXPECT_EQ(-ENOENT, evpl_buffer_wait(fd, SLAB, 0));
	EXPECT_EQ(-ENOENT, evpl_buffer_wait(fd, PAGE, 0));
	EXPECT_EQ(-ENOENT, evpl_buffer_wait(fd, self->owner.setup.out_guest_offset, 0));
	EXPECT_EQ(-ENOENT, evpl_buffer_wait(fd, -PAGE, 0));
	EXPECT_EQ(-EOPNOTSUPP, evpl_buffer_wait(fd, 0, 2));
	EXPECT_EQ(0, evpl_buffer_wait(fd, 0, 0));
}

static void no_op(int signal)
{
}

TEST_F(quarantine, wait_for_a_buffer_ends_with_a_signal)
{
	struct sigaction action = { .sa_handler = no_op };
	struct evpl_record got;
	char *memory = lease(_metadata, &self->pair, 5, EVPL_RECORD_DEVICE, &got);
	const struct itimerval often = { { 0, 100000 }, { 0, 100000 } }, never = { 0 };

	ASSERT_EQ(PAGE, into_pipe(self->pipe[1], memory, PAGE));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
	sigaction(SIGALRM, &action, NULL);
	/* Send signals again and again, so that one comes during the wait. */
	setitimer(ITIMER_REAL, &often, NULL);
	EXPECT_EQ(-EINTR, evpl_buffer_wait(self->owner.fd, 5 * BUFFER, 0));
	setitimer(ITIMER_REAL, &never, NULL);
	EXPECT_TRUE(is_quarantined(&self->owner, 5));
}

#define SMALL		PAGE
#define MANY_SLAB	(scaled(1024) / 2 * SLAB_2M)
#define MANY_BUFFERS	(MANY_SLAB / SMALL)
#define BATCH		(SMALL > 32 * KIB ? 32 : 64)

TEST(pass_checks_each_folio_once_however_many_buffers_wait_for_it)
{
	struct counters before = read_counters();
	struct evpl_setup setup[2];
	struct evpl_record records[BATCH];
	uint32_t leases[BATCH];
	long long folios, rechecks, quarantined;
	struct evpl_entry *entries, *words;
	char *own, *guest, page[PAGE];
	int fd[2], ends[2], pipe[2], tries;
	uint64_t offset, i;

	for (i = 0; i < 2; i++) {
		fd[i] = open(DEVICE, O_RDWR | O_CLOEXEC);
		ASSERT_EQ(0, evpl_setup(fd[i], SMALL, &setup[i]));
	}
	ASSERT_EQ(0, evpl_slab_alloc(fd[0], MANY_SLAB, &offset));
	folios = fdinfo(fd[0], "evpl-folios-2048kB");
	if (folios != (long long)(MANY_SLAB / SLAB_2M))
		SKIP(return, "memory isn't to be had in folios of 2 MiB");
	own = evpl_map(fd[0], MANY_SLAB, 0);
	entries = evpl_map(fd[0], MANY_BUFFERS * sizeof(*entries), setup[0].out_refs_offset);
	guest = map(fd[1], setup[1].out_guest_size, setup[1].out_guest_io_ro_offset, PROT_READ);
	words = map(fd[1], setup[1].out_leases_size, setup[1].out_leases_offset,
		    PROT_READ | PROT_WRITE);
	ASSERT_TRUE(own != MAP_FAILED && entries != MAP_FAILED && guest && words);
	ASSERT_EQ(0, evpl_channel(fd[0], BATCH, ends));
	ASSERT_EQ(0, evpl_bind(fd[0], ends[0]));
	ASSERT_EQ(0, evpl_bind(fd[1], ends[1]));
	ASSERT_EQ(0, pipe2(pipe, O_CLOEXEC | O_NONBLOCK));
	ASSERT_LE(0, fcntl(pipe[1], F_SETPIPE_SZ, MANY_SLAB / SLAB_2M * PAGE));

	/* Put a page of each folio into a pipe, and end all leases. */
	for (offset = 0; offset < MANY_SLAB; offset += BATCH * SMALL) {
		for (i = 0; i < BATCH; i++) {
			records[i] = (struct evpl_record){
				.offset = offset + i * SMALL,
				.length = SMALL,
				.flags = EVPL_RECORD_DEVICE,
			};
			set_count(&entries[offset / SMALL + i].word, 1);
		}
		ASSERT_EQ(BATCH, evpl_send(ends[0], records, BATCH));
		ASSERT_EQ(BATCH, evpl_recv(ends[1], records, BATCH));
		if (!(offset % SLAB_2M))
			ASSERT_EQ(PAGE, into_pipe(pipe[1], guest + records[0].offset -
						  setup[1].out_guest_io_ro_offset, PAGE));
		for (i = 0; i < BATCH; i++) {
			leases[i] = records[i].lease;
			set(&words[leases[i]].word, 0);
		}
		ASSERT_EQ(BATCH, evpl_lease_release(fd[1], leases, BATCH));
	}
	quarantined = read_counters().quarantined;
	EXPECT_EQ((long long)MANY_BUFFERS, quarantined);

	/* Try several times, since a pass of the kernel's own may come meanwhile. */
	for (tries = 0, rechecks = 0; tries < 5 && rechecks != folios; tries++) {
		rechecks = number_in(COUNTERS, "rechecks");
		EXPECT_EQ(0, evpl_lease_pull(fd[0]));
		rechecks = number_in(COUNTERS, "rechecks") - rechecks;
	}
	/* On a slow machine one comes in each try. A check for each buffer would be many more. */
	EXPECT_LE(folios, rechecks);
	EXPECT_GE(3 * folios, rechecks);
	EXPECT_EQ(quarantined, read_counters().quarantined);

	while (read(pipe[0], page, sizeof(page)) == sizeof(page))
		;
	/* A share goes some time after the quarantine of its buffer has ended. */
	for (tries = 0; tries < 10 * LIMIT && (read_counters().quarantined ||
					       read_counters().shares); tries++)
		usleep(100 * 1000);
	EXPECT_EQ(0, read_counters().quarantined);
	EXPECT_EQ(0, read_counters().shares);
	for (i = 0; i < MANY_BUFFERS; i++)
		ASSERT_EQ(0, get(&entries[i].word));
	munmap(own, MANY_SLAB);
	munmap(entries, MANY_BUFFERS * sizeof(*entries));
	munmap(guest, setup[1].out_guest_size);
	munmap(words, setup[1].out_leases_size);
	for (i = 0; i < 2; i++) {
		close(fd[i]);
		close(ends[i]);
		close(pipe[i]);
	}
	EXPECT_TRUE(counters_return_to(before));
}

TEST_HARNESS_MAIN
