// SPDX-License-Identifier: GPL-2.0-only
/*
 * Races that are made certain: a syncpoint (kernel/syncpoint.c) holds a task between two steps,
 * while another task makes the call that races with them. A task that is held inside
 * mmap or a fault holds its mmap_lock, so each of the two is a process of its own.
 */
#include <pthread.h>
#include <sys/uio.h>

#include "pair.h"
#include "ring.h"
#include "vgem.h"

#define SYNCPOINT	"/sys/kernel/debug/evpl/syncpoint-"
#define OPEN		SYNCPOINT "open"
#define OWN_FAULT	SYNCPOINT "own-fault"
#define SET_UP		SYNCPOINT "set-up"
#define REAP		SYNCPOINT "reap"
#define GUEST_FAULT	SYNCPOINT "guest-fault"
#define TABLES		SYNCPOINT "tables"
#define RESERVED	SYNCPOINT "reserved"
#define ENTRIES		SYNCPOINT "entries"
#define EXPORT		SYNCPOINT "export"
#define MAP		SYNCPOINT "map"
#define CHECKED		SYNCPOINT "checked"
#define RECHECK		SYNCPOINT "recheck"
#define REGISTER	SYNCPOINT "register"
#define GONE		SYNCPOINT "gone"
#define DRAIN		SYNCPOINT "drain"
#define ADOPT		SYNCPOINT "adopt"
#define SENT		SYNCPOINT "sent"

/* Wait until so many tasks stand at a syncpoint, but not for ever. */
static bool wait_at(const char *syncpoint, unsigned long long tasks)
{
	for (int i = 0; i < 60000 && read_number(syncpoint) != tasks; i++)
		usleep(1000);
	return read_number(syncpoint) == tasks;
}

/*
 * Wait until a child is blocked in the kernel, or has ended. Since it may be blocked by
 * something else for a moment, it must be seen blocked 50 times in a row.
 */
static bool is_held_up(pid_t pid)
{
	int seen = 0;

	for (int i = 0; i < 60000 && seen < 50; i++) {
		char state = state_of(pid);

		if (state == 'Z' || !state)
			return false;
		seen = state == 'D' ? seen + 1 : 0;
		usleep(1000);
	}
	return seen == 50;
}

/* Hand the client over to a new process, and return that: the client goes when it dies. */
static pid_t last_of(struct client *client)
{
	pid_t pid = fork_child();

	if (!pid)
		for (;;)
			pause();
	close_client(client);
	return pid;
}

FIXTURE(race)
{
	int fd;
	unsigned long long max_bytes;
	struct counters before;
};

FIXTURE_SETUP(race)
{
	if (access(OWN_FAULT, F_OK))
		SKIP(return, "built without EVPL_DEBUG=1");
	limit_sleeps();
	self->before = read_counters();
	self->max_bytes = read_number(MAX_BYTES);
	self->fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	ASSERT_GE(self->fd, 0);
}

FIXTURE_TEARDOWN(race)
{
	write_string(OPEN, "0");
	write_string(OWN_FAULT, "0");
	write_string(SET_UP, "0");
	write_string(REAP, "0");
	write_string(GUEST_FAULT, "0");
	write_string(TABLES, "0");
	write_string(RESERVED, "0");
	write_string(ENTRIES, "0");
	write_string(EXPORT, "0");
	write_string(MAP, "0");
	write_string(ADOPT, "0");
	write_string(SENT, "0");
	write_number(MAX_BYTES, self->max_bytes);
	close(self->fd);
	EXPECT_TRUE(counters_return_to(self->before));
}

/* A device of the misc driver. Every kernel has one of these, and to open it does nothing. */
static const char *misc_device(void)
{
	static const char * const paths[] = {
		"/dev/fuse", "/dev/vfio/vfio", "/dev/mapper/control", "/dev/cpu_dma_latency",
	};

	for (unsigned int i = 0; i < ARRAY_SIZE(paths); i++)
		if (!access(paths[i], F_OK))
			return paths[i];
	return NULL;
}

/* Wait until a child has ended, but not for ever. Return as reap() does, or -EAGAIN. */
static int reap_soon(pid_t pid)
{
	for (int i = 0; i < 60000; i++) {
		if (state_of(pid) == 'Z')
			return reap(pid);
		usleep(1000);
	}
	return -EAGAIN;
}

TEST_F(race, open_that_is_held_up_holds_up_no_other_device)
{
	const char *path = misc_device();
	pid_t opener, other;

	if (!path)
		SKIP(return, "a kernel without a misc device to open");
	ASSERT_EQ(0, write_string(OPEN, "1"));
	opener = fork_child();
	if (!opener)
		_exit(open(DEVICE, O_RDWR | O_CLOEXEC) < 0);
	ASSERT_TRUE(wait_at(OPEN, 1));
	other = fork_child();
	if (!other)
		_exit(open(path, O_RDONLY | O_CLOEXEC) < 0);
	EXPECT_EQ(0, reap_soon(other));
	EXPECT_TRUE(is_held_up(opener));
	ASSERT_EQ(0, write_string(OPEN, "0"));
	EXPECT_EQ(0, reap(opener));
}

TEST_F(race, slab_freed_while_a_fault_has_found_it_is_never_seen_after)
{
	char *memory = evpl_map(self->fd, SLAB_2M, 0);
	int freed[2];
	char byte;
	pid_t toucher, freer;

	ASSERT_NE(MAP_FAILED, memory);
	ASSERT_EQ(0, pipe(freed));
	ASSERT_EQ(0, write_string(OWN_FAULT, "1"));
	toucher = fork_child();
	if (!toucher) {
		/* Touch at once, and again after the free has returned. */
		int first = touch_read(memory);

		if (first && first != SIGBUS)
			_exit(1);
		if (read(freed[0], &byte, 1) != 1)
			_exit(2);
		_exit(touch_read(memory) == SIGBUS ? 0 : 3);
	}
	ASSERT_TRUE(wait_at(OWN_FAULT, 1));

	freer = fork_child();
	if (!freer)
		_exit(evpl_slab_free(self->fd, 0) ? 1 : 0);
	EXPECT_TRUE(is_held_up(freer));
	ASSERT_EQ(0, write_string(OWN_FAULT, "0"));
	EXPECT_EQ(0, reap(freer));
	ASSERT_EQ(1, write(freed[1], "", 1));
	EXPECT_EQ(0, reap(toucher));
	EXPECT_EQ(SIGBUS, touch_read(memory));
	EXPECT_EQ(self->before.slabs, read_counters().slabs);
	munmap(memory, SLAB_2M);
	close(freed[0]);
	close(freed[1]);
}

struct error {
	char *page;
	pid_t tid;
	int result;
};

static void *strike_page(void *arg)
{
	struct error *error = arg;

	__atomic_store_n(&error->tid, gettid(), __ATOMIC_RELEASE);
	error->result = strike(error->page);
	return NULL;
}

TEST_F(race, memory_error_during_a_fault_raises_SIGBUS_in_every_mapping)
{
	char *memory = evpl_map(self->fd, SLAB_2M, 0);
	struct error error = { .page = memory + 7 * PAGE };
	pthread_t thread;
	pid_t toucher;

	ASSERT_NE(MAP_FAILED, memory);
	ASSERT_EQ(0, touch_write(error.page));
	ASSERT_EQ(0, write_string(OWN_FAULT, "1"));
	toucher = fork_child();
	if (!toucher)
		_exit(touch_read(error.page));
	ASSERT_TRUE(wait_at(OWN_FAULT, 1));

	/*
	 * The handler marks the page. Then it waits for the folio's lock, which the fault holds, or
	 * gives the page up, as Linux 7.3 does.
	 */
	ASSERT_EQ(0, pthread_create(&thread, NULL, strike_page, &error));
	while (!__atomic_load_n(&error.tid, __ATOMIC_ACQUIRE))
		sched_yield();
	is_held_up(error.tid);
	ASSERT_EQ(0, write_string(OWN_FAULT, "0"));
	EXPECT_EQ(SIGBUS, reap(toucher));
	pthread_join(thread, NULL);
	EXPECT_NE(-EINVAL, error.result);

	/* The fault met the marked page, and the core unmapped it everywhere, here too. */
	EXPECT_EQ(SIGBUS, touch_read(error.page));
	EXPECT_EQ(0, touch_write(error.page + PAGE));
	munmap(memory, SLAB_2M);
}

TEST_F(race, calls_while_a_mapping_sets_up_find_the_client_as_it_was)
{
	struct evpl_setup setup;
	uint64_t offset;
	pid_t mapper, second, reader;

	ASSERT_EQ(0, write_string(SET_UP, "1"));
	mapper = fork_child();
	if (!mapper)
		_exit(evpl_map(self->fd, SLAB_2M, 0) == MAP_FAILED);
	ASSERT_TRUE(wait_at(SET_UP, 1));

	EXPECT_EQ(-ENXIO, evpl_slab_alloc(self->fd, SLAB_2M, &offset));
	EXPECT_EQ(-ENXIO, evpl_slab_free(self->fd, 0));
	EXPECT_EQ(MAP_FAILED, evpl_map(self->fd, SLAB_2M, SLAB_2M));
	EXPECT_EQ(ENXIO, errno);

	second = fork_child();
	if (!second)
		_exit(evpl_setup(self->fd, PAGE, &setup) == -EBUSY ? 0 : 1);
	EXPECT_TRUE(is_held_up(second));

	/* A process that reads the fdinfo of a busy client waits, and can be killed. */
	reader = fork_child();
	if (!reader)
		_exit(fdinfo(self->fd, "evpl-slabs") < 0);
	EXPECT_TRUE(is_held_up(reader));
	kill(reader, SIGKILL);
	EXPECT_EQ(-SIGKILL, reap(reader));

	ASSERT_EQ(0, write_string(SET_UP, "0"));
	EXPECT_EQ(0, reap(second));
	EXPECT_EQ(0, reap(mapper));
	EXPECT_EQ(MIB, fdinfo(self->fd, "evpl-buffer-size"));
	EXPECT_EQ(1, fdinfo(self->fd, "evpl-slabs"));
	EXPECT_EQ(SLAB_2M, lseek(self->fd, 0, SEEK_END));
}

TEST_F(race, two_mappings_that_set_up_get_one_slab)
{
	int mapped[2];
	char byte;
	pid_t first, second;

	ASSERT_EQ(0, pipe(mapped));
	ASSERT_EQ(0, write_string(SET_UP, "1"));
	first = fork_child();
	if (!first) {
		char *memory = evpl_map(self->fd, SLAB_2M, 0);

		if (memory == MAP_FAILED)
			_exit(1);
		if (read(mapped[0], &byte, 1) != 1)
			_exit(2);
		_exit(memory[0] == 7 ? 0 : 3);
	}
	ASSERT_TRUE(wait_at(SET_UP, 1));

	second = fork_child();
	if (!second) {
		char *memory = evpl_map(self->fd, SLAB_2M, 0);

		if (memory == MAP_FAILED)
			_exit(1);
		/* The mmap() mustn't return before the slab is there. */
		memory[0] = 7;
		_exit(0);
	}
	EXPECT_TRUE(is_held_up(second));
	EXPECT_EQ(self->before.slabs + 2, read_counters().slabs);

	ASSERT_EQ(0, write_string(SET_UP, "0"));
	EXPECT_EQ(0, reap(second));
	ASSERT_EQ(1, write(mapped[1], "", 1));
	EXPECT_EQ(0, reap(first));
	EXPECT_EQ(1, fdinfo(self->fd, "evpl-slabs"));
	EXPECT_EQ(self->before.slabs + 1, read_counters().slabs);
	close(mapped[0]);
	close(mapped[1]);
}

/*
 * Be a lessee: touch the buffer of a record, and again when a byte comes over the pipe.
 * Return 0 if the buffer can't be touched any more then.
 */
static int receive_and_touch(int end, int pipe_fd)
{
	int fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	struct evpl_record record;
	struct evpl_setup setup;
	char byte, *memory;
	int first;

	if (fd < 0 || evpl_setup(fd, 0, &setup) || evpl_bind(fd, end) ||
	    evpl_recv(end, &record, 1) != 1)
		return 1;
	memory = mmap(NULL, record.length, PROT_READ, MAP_SHARED, fd, record.offset);
	if (memory == MAP_FAILED)
		return 2;
	first = touch_read(memory);
	if (first && first != SIGBUS)
		return 3;
	if (read(pipe_fd, &byte, 1) != 1)
		return 4;
	return touch_read(memory) == SIGBUS ? 0 : 5;
}

/* Revoke a lease that comes from a record with this length and these flags. */
static void revoke_while_a_fault_has_found_it(struct __test_metadata *_metadata,
					      struct _test_data_race *self, uint32_t length,
					      uint32_t flags)
{
	struct evpl_record record = { .length = length, .flags = flags };
	struct evpl_setup setup;
	struct evpl_entry *entries;
	pid_t toucher, revoker;
	int ends[2], pipe_fds[2];
	uint64_t offset;

	ASSERT_EQ(0, evpl_setup(self->fd, SLAB_2M, &setup));
	ASSERT_EQ(0, evpl_slab_alloc(self->fd, SLAB_2M, &offset));
	entries = evpl_map(self->fd, PAGE, setup.out_refs_offset);
	ASSERT_NE(MAP_FAILED, entries);
	entries[0].word = 1;
	ASSERT_EQ(0, evpl_channel(self->fd, 0, ends));
	ASSERT_EQ(0, evpl_bind(self->fd, ends[0]));
	ASSERT_EQ(1, evpl_send(ends[0], &record, 1));
	ASSERT_EQ(0, pipe(pipe_fds));

	ASSERT_EQ(0, write_string(GUEST_FAULT, "1"));
	toucher = fork_child();
	if (!toucher)
		_exit(receive_and_touch(ends[1], pipe_fds[0]));
	ASSERT_TRUE(wait_at(GUEST_FAULT, 1));
	revoker = fork_child();
	if (!revoker)
		_exit(evpl_revoke(self->fd, 0) ? 1 : 0);
	EXPECT_TRUE(is_held_up(revoker));
	ASSERT_EQ(0, write_string(GUEST_FAULT, "0"));
	EXPECT_EQ(0, reap(revoker));
	EXPECT_EQ(0, entries[0].word);
	ASSERT_EQ(1, write(pipe_fds[1], "", 1));
	EXPECT_EQ(0, reap(toucher));
	munmap(entries, PAGE);
	for (int i = 0; i < 2; i++) {
		close(ends[i]);
		close(pipe_fds[i]);
	}
}

TEST_F(race, lease_revoked_while_a_fault_has_found_it_is_never_seen_after)
{
	revoke_while_a_fault_has_found_it(_metadata, self, PAGE, 0);
}

/* A PMD maps this lease, where the kernel can. */
TEST_F(race, huge_lease_revoked_while_a_fault_has_found_it_is_never_seen_after)
{
	revoke_while_a_fault_has_found_it(_metadata, self, SLAB_2M, 0);
}

/* The references that the fault had mustn't look like something that holds the buffer. */
TEST_F(race, device_lease_revoked_while_a_fault_has_found_it_is_never_seen_after)
{
	revoke_while_a_fault_has_found_it(_metadata, self, PAGE, EVPL_RECORD_DEVICE);
	EXPECT_EQ(0, read_counters().quarantined);
}

/* A thread of a lessee that touches memory when a byte comes over its pipe. */
struct waiting_toucher {
	pthread_t thread;
	char *memory;
	int go[2];
	pid_t tid;
	int result;
};

static void *touch_when_told(void *arg)
{
	struct waiting_toucher *toucher = arg;
	char byte;

	set(&toucher->tid, gettid());
	toucher->result = -1;
	if (read(toucher->go[0], &byte, 1) == 1)
		toucher->result = touch_read(toucher->memory);
	return NULL;
}

/*
 * Be a lessee with two threads that touch the same 2 MiB when they are told. Between the two
 * touches the lease that is there, which is a revoked one, is replaced by a new one. Report the
 * second thread, and then the new lease, over a pipe.
 */
static int replace_a_lease_between_two_touches(int end, struct waiting_toucher *touchers,
					       int told, int tell)
{
	struct evpl_setup setup = { .size = sizeof(setup), .flags = EVPL_SETUP_ZEROS };
	int fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	struct evpl_record record, next;
	struct evpl_entry *leases;
	char *memory, byte;

	if (fd < 0 || ioctl(fd, EVPL_SETUP, &setup) || evpl_bind(fd, end) ||
	    evpl_recv(end, &record, 1) != 1)
		return 1;
	memory = map(fd, SLAB_2M, record.offset, PROT_READ);
	leases = map(fd, setup.out_leases_size, setup.out_leases_offset, PROT_READ | PROT_WRITE);
	if (!memory || !leases)
		return 2;
	for (int i = 0; i < 2; i++) {
		touchers[i].memory = memory + i * PAGE;
		if (pthread_create(&touchers[i].thread, NULL, touch_when_told, &touchers[i]))
			return 3;
		while (!get(&touchers[i].tid))
			usleep(1000);
	}
	if (write(tell, &touchers[1].tid, sizeof(pid_t)) != sizeof(pid_t) ||
	    read(told, &byte, 1) != 1)
		return 4;
	set(&leases[record.lease].word, 0);
	if (evpl_lease_release(fd, &record.lease, 1) != 1 || evpl_recv(end, &next, 1) != 1 ||
	    next.offset != record.offset || write(tell, "", 1) != 1)
		return 5;
	for (int i = 0; i < 2; i++)
		if (pthread_join(touchers[i].thread, NULL) || touchers[i].result)
			return 6 + i;
	return 0;
}

/* The fault that would map a PMD waits for the other, and then uses its page table. */
TEST_F(race, huge_lease_is_not_mapped_by_a_PMD_where_a_fault_allocates_a_page_table)
{
	struct evpl_record record = { .length = SLAB_2M };
	struct waiting_toucher touchers[2] = {};
	int ends[2], down[2], up[2];
	struct evpl_entry *entries;
	struct evpl_setup setup;
	uint64_t offset;
	pid_t child, tid;
	char byte;

	if (!has_huge())
		SKIP(return, "a kernel without large folios");
	ASSERT_EQ(0, evpl_setup(self->fd, SLAB_2M, &setup));
	ASSERT_EQ(0, evpl_slab_alloc_on(self->fd, SLAB_2M, EVPL_NODE_ANY, EVPL_SLAB_HUGE,
					&offset));
	entries = evpl_map(self->fd, PAGE, setup.out_refs_offset);
	ASSERT_NE(MAP_FAILED, entries);
	ASSERT_EQ(0, evpl_channel(self->fd, 0, ends));
	ASSERT_EQ(0, evpl_bind(self->fd, ends[0]));
	set_count(&entries[0].word, 1);
	ASSERT_EQ(1, evpl_send(ends[0], &record, 1));
	ASSERT_EQ(0, pipe(down));
	ASSERT_EQ(0, pipe(up));
	for (int i = 0; i < 2; i++)
		ASSERT_EQ(0, pipe(touchers[i].go));
	child = fork_child();
	if (!child)
		_exit(replace_a_lease_between_two_touches(ends[1], touchers, down[0], up[1]));
	close(up[1]);
	ASSERT_EQ(sizeof(tid), read(up[0], &tid, sizeof(tid)));

	ASSERT_EQ(0, evpl_revoke(self->fd, offset));
	set_count(&entries[0].word, 1);
	ASSERT_EQ(1, evpl_send(ends[0], &record, 1));
	ASSERT_EQ(0, write_string(TABLES, "1"));
	ASSERT_EQ(1, write(touchers[0].go[1], "", 1));
	ASSERT_TRUE(wait_at(TABLES, 1));
	ASSERT_EQ(1, write(down[1], "", 1));
	ASSERT_EQ(1, read(up[0], &byte, 1));
	ASSERT_EQ(1, write(touchers[1].go[1], "", 1));
	EXPECT_TRUE(is_held_up(tid));
	ASSERT_EQ(0, write_string(TABLES, "0"));
	EXPECT_EQ(0, reap(child));
	munmap(entries, PAGE);
	close(up[0]);
	for (int i = 0; i < 2; i++) {
		close(ends[i]);
		close(down[i]);
		close(touchers[i].go[0]);
		close(touchers[i].go[1]);
	}
}

TEST_F(race, size_passes_by_a_slab_that_is_not_there_yet)
{
	struct evpl_setup setup;
	uint64_t offset;
	pid_t child;

	ASSERT_EQ(0, evpl_setup(self->fd, 0, &setup));
	ASSERT_EQ(0, evpl_slab_alloc(self->fd, SLAB_2M, &offset));
	ASSERT_EQ(0, write_string(RESERVED, "1"));
	child = fork_child();
	if (!child)
		_exit(evpl_slab_alloc(self->fd, SLAB_2M, &offset) ||
		      offset != SLAB_2M);
	ASSERT_TRUE(wait_at(RESERVED, 1));
	EXPECT_EQ(0, evpl_slab_free(self->fd, 0));
	EXPECT_EQ(0, lseek(self->fd, 0, SEEK_END));
	EXPECT_EQ(-ENOENT, evpl_slab_free(self->fd, SLAB_2M));
	EXPECT_EQ(-ENOENT, evpl_revoke(self->fd, SLAB_2M));
	ASSERT_EQ(0, write_string(RESERVED, "0"));
	EXPECT_EQ(0, reap(child));
	EXPECT_EQ(2 * SLAB_2M, lseek(self->fd, 0, SEEK_END));
}

TEST_F(race, adopting_passes_by_a_slab_that_is_not_there_yet)
{
	struct evpl_slab_next next;
	struct evpl_setup setup;
	uint64_t offset;
	pid_t child;

	ASSERT_EQ(0, evpl_setup(self->fd, 0, &setup));
	ASSERT_EQ(0, write_string(RESERVED, "1"));
	child = fork_child();
	if (!child)
		_exit(evpl_slab_alloc(self->fd, SLAB_2M, &offset) ? 1 : 0);
	ASSERT_TRUE(wait_at(RESERVED, 1));
	EXPECT_EQ(0, evpl_adopt(self->fd, 0, &setup));
	EXPECT_EQ(-ENOENT, evpl_slab_next(self->fd, 0, &next));
	ASSERT_EQ(0, write_string(RESERVED, "0"));
	EXPECT_EQ(0, reap(child));
	EXPECT_EQ(0, evpl_slab_next(self->fd, 0, &next));
	EXPECT_EQ(0, next.out_offset);
}

TEST_F(race, who_is_killed_while_it_waits_to_adopt_has_changed_nothing)
{
	struct evpl_setup setup;
	uint64_t offset;
	pid_t allocator, adopter;

	ASSERT_EQ(0, evpl_setup(self->fd, 0, &setup));
	ASSERT_EQ(0, write_string(ENTRIES, "1"));
	allocator = fork_child();
	if (!allocator)
		_exit(evpl_slab_alloc(self->fd, SLAB_2M, &offset) ? 1 : 0);
	ASSERT_TRUE(wait_at(ENTRIES, 1));
	adopter = fork_child();
	if (!adopter)
		_exit(evpl_adopt(self->fd, 0, &setup) ? 1 : 0);
	EXPECT_TRUE(is_held_up(adopter));
	/* There is one at a time. */
	EXPECT_EQ(-EBUSY, evpl_adopt(self->fd, 0, &setup));
	kill(adopter, SIGKILL);
	EXPECT_EQ(-SIGKILL, reap(adopter));
	ASSERT_EQ(0, write_string(ENTRIES, "0"));
	EXPECT_EQ(0, reap(allocator));
	EXPECT_EQ(0, evpl_adopt(self->fd, 0, &setup));
	EXPECT_EQ(1, fdinfo(self->fd, "evpl-slabs"));
}

TEST_F(race, who_is_killed_while_entries_are_had_takes_none)
{
	struct evpl_setup setup;
	struct counters before;
	uint64_t offset;
	pid_t child;

	ASSERT_EQ(0, evpl_setup(self->fd, 0, &setup));
	before = read_counters();
	ASSERT_EQ(0, write_string(ENTRIES, "1"));
	child = fork_child();
	if (!child)
		_exit(evpl_slab_alloc(self->fd, SLAB_2M, &offset));
	ASSERT_TRUE(wait_at(ENTRIES, 1));
	kill(child, SIGKILL);
	ASSERT_EQ(0, write_string(ENTRIES, "0"));
	EXPECT_EQ(-SIGKILL, reap(child));
	EXPECT_TRUE(counters_return_to(before));
	EXPECT_EQ(0, fdinfo(self->fd, "evpl-slabs"));
	EXPECT_EQ(0, evpl_slab_alloc(self->fd, SLAB_2M, &offset));
}

TEST_F(race, who_is_killed_while_an_export_takes_its_ranges_gives_up_none)
{
	const struct evpl_range ranges[] = { { 0, PAGE }, { MIB, PAGE } };
	struct evpl_setup setup;
	struct evpl_entry *entries;
	uint64_t offset;
	pid_t child;

	ASSERT_EQ(0, evpl_setup(self->fd, 0, &setup));
	ASSERT_EQ(0, evpl_slab_alloc(self->fd, SLAB_2M, &offset));
	entries = evpl_map(self->fd, PAGE, setup.out_refs_offset);
	ASSERT_NE(MAP_FAILED, entries);
	entries[0].word = 1;
	entries[1].word = 1;
	ASSERT_EQ(0, write_string(EXPORT, "1"));
	child = fork_child();
	if (!child)
		_exit(evpl_export(self->fd, ranges, 2, 0) < 0);
	ASSERT_TRUE(wait_at(EXPORT, 1));
	kill(child, SIGKILL);
	ASSERT_EQ(0, write_string(EXPORT, "0"));
	EXPECT_EQ(-SIGKILL, reap(child));
	EXPECT_EQ(1, get(&entries[0].word));
	EXPECT_EQ(1, get(&entries[1].word));
	EXPECT_EQ(self->before.exports, read_counters().exports);
	munmap(entries, PAGE);
}

TEST_F(race, who_is_killed_while_a_dmabuf_is_mapped_maps_nothing)
{
	const struct evpl_range range = { 0, SLAB_2M };
	int gpu = open_vgem(), dmabuf;
	struct evpl_setup setup;
	uint64_t offset;
	pid_t child;

	if (gpu < 0)
		SKIP(return, "a kernel without vgem");
	ASSERT_EQ(0, evpl_setup(self->fd, 0, &setup));
	ASSERT_EQ(0, evpl_slab_alloc(self->fd, SLAB_2M, &offset));
	dmabuf = evpl_export(self->fd, &range, 1, EVPL_EXPORT_SLAB | EVPL_EXPORT_WRITE);
	ASSERT_GE(dmabuf, 0);
	ASSERT_EQ(0, write_string(MAP, "1"));
	child = fork_child();
	if (!child) {
		struct drm_prime prime = { .fd = dmabuf };

		_exit(ioctl(gpu, DRM_FD_TO_HANDLE, &prime) < 0);
	}
	ASSERT_TRUE(wait_at(MAP, 1));
	kill(child, SIGKILL);
	ASSERT_EQ(0, write_string(MAP, "0"));
	EXPECT_EQ(-SIGKILL, reap(child));
	/* A handle would belong to this process as well, and keep the dma-buf. */
	close(dmabuf);
	EXPECT_EQ(self->before.exports, read_counters().exports);
	EXPECT_EQ(0, evpl_slab_free(self->fd, 0));
	close(gpu);
}

TEST_F(race, what_another_frees_just_now_can_be_had)
{
	char *memory = evpl_map(self->fd, SLAB_2M, 0);
	struct iovec page = { memory, PAGE };
	char page_read[PAGE];
	int pipe_fds[2];
	pid_t child;

	/* A page in a pipe keeps the memory of a freed slab. */
	ASSERT_NE(MAP_FAILED, memory);
	ASSERT_EQ(0, pipe(pipe_fds));
	ASSERT_EQ(PAGE, vmsplice(pipe_fds[1], &page, 1, 0));
	munmap(memory, SLAB_2M);
	ASSERT_EQ(0, write_number(MAX_BYTES, read_counters().charged));
	ASSERT_EQ(0, evpl_slab_free(self->fd, 0));
	EXPECT_LT(0, read_counters().detached);

	/* The pipe lets go of the page, and the work that frees the folio is held up. */
	ASSERT_EQ(0, write_string(REAP, "1"));
	ASSERT_EQ(PAGE, read(pipe_fds[0], page_read, PAGE));
	ASSERT_TRUE(wait_at(REAP, 1));

	child = fork_child();
	if (!child) {
		uint64_t offset;

		_exit(evpl_slab_alloc(self->fd, SLAB_2M, &offset) ? 1 : 0);
	}
	EXPECT_TRUE(is_held_up(child));
	ASSERT_EQ(0, write_string(REAP, "0"));
	EXPECT_EQ(0, reap(child));
	EXPECT_EQ(1, fdinfo(self->fd, "evpl-slabs"));
	EXPECT_EQ(0, read_counters().detached);
	close(pipe_fds[0]);
	close(pipe_fds[1]);
}

/*
 * Buffer 5 of an owner is leased to a lessee, for devices. A task that checks whether
 * something still holds the buffer is held up after the check (CHECKED) or before it (RECHECK).
 */
#define N		5
#define OFFSET		(N * BUFFER)

FIXTURE(quarantine)
{
	PAIR;
	int pipe[2];
};

FIXTURE_SETUP(quarantine)
{
	if (access(CHECKED, F_OK))
		SKIP(return, "built without EVPL_DEBUG=1");
	open_pair(_metadata, &self->pair, 0);
	ASSERT_EQ(0, pipe2(self->pipe, O_CLOEXEC | O_NONBLOCK));
}

FIXTURE_TEARDOWN(quarantine)
{
	write_string(CHECKED, "0");
	write_string(RECHECK, "0");
	write_string(REGISTER, "0");
	write_string(ENTRIES, "0");
	close_pair(&self->pair);
	close(self->pipe[0]);
	close(self->pipe[1]);
	EXPECT_TRUE(counters_return_to(self->before));
}

/* Make another device lease. With @hold, put a page of the buffer into the pipe. */
static struct evpl_record lease_again(struct __test_metadata *_metadata,
				      struct _test_data_quarantine *self, bool hold)
{
	struct evpl_record record = {
		.offset = OFFSET,
		.length = BUFFER,
		.flags = EVPL_RECORD_DEVICE,
	};

	ASSERT_EQ(1, evpl_send(self->ends[0], &record, 1));
	ASSERT_EQ(1, evpl_recv(self->ends[1], &record, 1));
	ASSERT_EQ(0, touch_read(memory_of(&self->lessee, &record)));
	if (hold)
		ASSERT_EQ(PAGE, into_pipe(self->pipe[1], memory_of(&self->lessee, &record),
					  PAGE));
	return record;
}

static void drain(struct __test_metadata *_metadata, struct _test_data_quarantine *self)
{
	char page[PAGE];

	ASSERT_EQ(PAGE, read(self->pipe[0], page, PAGE));
}

/* Start a process that releases a lease, and wait until it has checked the pages. */
static pid_t release_up_to_check(struct __test_metadata *_metadata,
				 struct _test_data_quarantine *self, bool hold)
{
	struct evpl_record record = lease_again(_metadata, self, hold);
	pid_t pid;

	ASSERT_EQ(0, write_string(CHECKED, "1"));
	pid = fork_child();
	if (!pid) {
		/* Otherwise this process would keep the owner's client. */
		close_client(&self->owner);
		self->lessee.leases = map(self->lessee.fd, self->lessee.setup.out_leases_size,
					  self->lessee.setup.out_leases_offset,
					  PROT_READ | PROT_WRITE);
		_exit(let_go(&self->lessee, &record) == 1 ? 0 : 1);
	}
	EXPECT_TRUE(wait_at(CHECKED, 1));
	EXPECT_EQ(0, fdinfo(self->lessee.fd, "evpl-leases"));
	EXPECT_EQ(0, read_counters().quarantined);
	return pid;
}

/* Bring the buffer into quarantine by the pipe, and wait until a pass has found it. */
static void quarantine_up_to_recheck(struct __test_metadata *_metadata,
				     struct _test_data_quarantine *self)
{
	struct evpl_record record = lease_again(_metadata, self, true);

	EXPECT_EQ(1, let_go(&self->lessee, &record));
	EXPECT_EQ(1, read_counters().quarantined);
	ASSERT_EQ(0, write_string(RECHECK, "1"));
	ASSERT_TRUE(wait_at(RECHECK, 1));
}

/* Then wait until the pass has checked the pages. Unless @hold, drain the pipe before. */
static void recheck_up_to_check(struct __test_metadata *_metadata,
				struct _test_data_quarantine *self, bool hold)
{
	quarantine_up_to_recheck(_metadata, self);
	if (!hold)
		drain(_metadata, self);
	ASSERT_EQ(0, write_string(CHECKED, "1"));
	ASSERT_EQ(0, write_string(RECHECK, "0"));
	ASSERT_TRUE(wait_at(CHECKED, 1));
}

/* Start a process that revokes the buffer, and exits with the result of the call. */
static pid_t revoker(struct _test_data_quarantine *self)
{
	pid_t pid = fork_child();

	if (!pid)
		_exit(evpl_revoke(self->owner.fd, OFFSET));
	return pid;
}

/* Whether nothing of the owner is left but the folio that the pipe holds. */
static bool owner_is_gone(void)
{
	struct counters now = read_counters();

	return !now.shares && !now.quarantined && !now.leases && now.detached;
}

TEST_F(quarantine, revoke_while_a_release_finds_it_held_keeps_it_once)
{
	pid_t releaser, second;

	set_count(&self->owner.entries[N].word, 1);
	releaser = release_up_to_check(_metadata, self, true);
	second = revoker(self);
	ASSERT_TRUE(wait_at(CHECKED, 2));
	EXPECT_EQ(EVPL_WORD_SHARED, get(&self->owner.entries[N].word));
	ASSERT_EQ(0, write_string(CHECKED, "0"));
	EXPECT_EQ(0, reap(releaser));
	EXPECT_EQ(1, reap(second));
	EXPECT_TRUE(is_quarantined(&self->owner, N));
	drain(_metadata, self);
	EXPECT_TRUE(is_returned(&self->owner, N));
}

TEST_F(quarantine, revoke_while_a_release_finds_it_free_gives_it_back_once)
{
	pid_t releaser, second;

	set_count(&self->owner.entries[N].word, 1);
	releaser = release_up_to_check(_metadata, self, false);
	second = revoker(self);
	ASSERT_TRUE(wait_at(CHECKED, 2));
	EXPECT_EQ(EVPL_WORD_SHARED, get(&self->owner.entries[N].word));
	ASSERT_EQ(0, write_string(CHECKED, "0"));
	EXPECT_EQ(0, reap(releaser));
	EXPECT_EQ(0, reap(second));
	EXPECT_TRUE(is_returned(&self->owner, N));
	EXPECT_EQ(0, read_counters().shares);
}

TEST_F(quarantine, owner_that_dies_while_a_release_finds_it_held_leaves_none)
{
	pid_t releaser, owner;

	set_count(&self->owner.entries[N].word, 1);
	releaser = release_up_to_check(_metadata, self, true);
	owner = last_of(&self->owner);
	kill(owner, SIGKILL);
	EXPECT_EQ(-SIGKILL, reap(owner));
	ASSERT_EQ(0, write_string(CHECKED, "0"));
	EXPECT_EQ(0, reap(releaser));
	EXPECT_TRUE(owner_is_gone());
}

TEST_F(quarantine, owner_that_revokes_by_dying_while_a_release_finds_it_held_leaves_none)
{
	pid_t releaser, owner;

	close_owner(&self->pair);
	open_owner(_metadata, &self->pair, EVPL_SETUP_REVOKE);
	set_count(&self->owner.entries[N].word, 1);
	releaser = release_up_to_check(_metadata, self, true);
	owner = last_of(&self->owner);
	kill(owner, SIGKILL);
	ASSERT_TRUE(wait_at(CHECKED, 2));
	ASSERT_EQ(0, write_string(CHECKED, "0"));
	EXPECT_EQ(0, reap(releaser));
	EXPECT_EQ(-SIGKILL, reap(owner));
	EXPECT_TRUE(owner_is_gone());
}

TEST_F(quarantine, can_not_be_ended_before_it_has_begun)
{
	pid_t releaser;

	set_count(&self->owner.entries[N].word, 1);
	releaser = release_up_to_check(_metadata, self, true);
	EXPECT_EQ(-ENOENT, evpl_quarantine_end(self->owner.fd, OFFSET));
	EXPECT_EQ(EVPL_WORD_SHARED, get(&self->owner.entries[N].word));
	ASSERT_EQ(0, write_string(CHECKED, "0"));
	EXPECT_EQ(0, reap(releaser));
	EXPECT_TRUE(is_quarantined(&self->owner, N));
	EXPECT_EQ(0, evpl_quarantine_end(self->owner.fd, OFFSET));
	EXPECT_TRUE(is_returned(&self->owner, N));
}

TEST_F(quarantine, what_a_lease_left_since_the_check_is_seen_before_it_is_given_back)
{
	struct evpl_record record;
	pid_t releaser;

	set_count(&self->owner.entries[N].word, 2);
	releaser = release_up_to_check(_metadata, self, false);
	/* The end of this lease doesn't check the pages, since its count isn't the last. */
	record = lease_again(_metadata, self, true);
	EXPECT_EQ(1, let_go(&self->lessee, &record));
	EXPECT_EQ(0, read_counters().quarantined);
	EXPECT_EQ(EVPL_WORD_SHARED, get(&self->owner.entries[N].word));
	ASSERT_EQ(0, write_string(CHECKED, "0"));
	EXPECT_EQ(0, reap(releaser));
	EXPECT_TRUE(is_quarantined(&self->owner, N));
	drain(_metadata, self);
	EXPECT_TRUE(is_returned(&self->owner, N));
}

TEST_F(quarantine, may_begin_beside_another_lease)
{
	struct evpl_record record;
	pid_t releaser;

	set_count(&self->owner.entries[N].word, 2);
	releaser = release_up_to_check(_metadata, self, true);
	record = lease_again(_metadata, self, false);
	ASSERT_EQ(0, write_string(CHECKED, "0"));
	EXPECT_EQ(0, reap(releaser));
	EXPECT_TRUE(is_quarantined(&self->owner, N));
	EXPECT_EQ(0, touch_read(memory_of(&self->lessee, &record)));
	drain(_metadata, self);
	/* The buffer is leased, but isn't in quarantine any more. */
	EXPECT_EQ(0, evpl_lease_pull(self->owner.fd));
	EXPECT_TRUE(counters_return_to((struct counters){
		.clients = self->before.clients + 2,
		.slabs = self->before.slabs + 2,
		.charged = read_counters().charged,
		.channels = self->before.channels + 1,
		.shares = 1,
		.leases = 1,
	}));
	EXPECT_EQ(EVPL_WORD_SHARED, get(&self->owner.entries[N].word));
	EXPECT_EQ(1, let_go(&self->lessee, &record));
	EXPECT_TRUE(is_returned(&self->owner, N));
}

TEST_F(quarantine, revoke_while_the_kernel_finds_it_held_keeps_it_once)
{
	pid_t pid;

	set_count(&self->owner.entries[N].word, 1);
	recheck_up_to_check(_metadata, self, true);
	pid = revoker(self);
	ASSERT_TRUE(wait_at(CHECKED, 2));
	ASSERT_EQ(0, write_string(CHECKED, "0"));
	EXPECT_EQ(1, reap(pid));
	EXPECT_TRUE(is_quarantined(&self->owner, N));
	drain(_metadata, self);
	EXPECT_TRUE(is_returned(&self->owner, N));
}

TEST_F(quarantine, revoke_while_the_kernel_finds_it_free_gives_it_back_once)
{
	pid_t pid;

	set_count(&self->owner.entries[N].word, 1);
	recheck_up_to_check(_metadata, self, false);
	pid = revoker(self);
	ASSERT_TRUE(wait_at(CHECKED, 2));
	ASSERT_EQ(0, write_string(CHECKED, "0"));
	EXPECT_EQ(0, reap(pid));
	EXPECT_TRUE(is_returned(&self->owner, N));
}

TEST_F(quarantine, owner_that_dies_waits_for_the_kernels_recheck)
{
	pid_t owner;

	set_count(&self->owner.entries[N].word, 1);
	recheck_up_to_check(_metadata, self, true);
	owner = last_of(&self->owner);
	kill(owner, SIGKILL);
	EXPECT_TRUE(is_held_up(owner));
	ASSERT_EQ(0, write_string(CHECKED, "0"));
	EXPECT_EQ(-SIGKILL, reap(owner));
	EXPECT_TRUE(owner_is_gone());
}

TEST_F(quarantine, what_a_lease_left_since_the_kernels_recheck_is_seen)
{
	struct evpl_record record;

	set_count(&self->owner.entries[N].word, 2);
	recheck_up_to_check(_metadata, self, false);
	record = lease_again(_metadata, self, true);
	EXPECT_EQ(1, let_go(&self->lessee, &record));
	ASSERT_EQ(0, write_string(CHECKED, "0"));
	EXPECT_TRUE(is_quarantined(&self->owner, N));
	drain(_metadata, self);
	EXPECT_TRUE(is_returned(&self->owner, N));
}

TEST_F(quarantine, what_the_baseline_of_a_dead_owner_lets_pass_is_kept_from_its_successor)
{
	struct evpl_setup setup;
	char page[PAGE];
	int left[2];

	/* As a registration of the owner's would, a pipe holds a page of the buffer. */
	ASSERT_EQ(0, pipe2(left, O_CLOEXEC));
	ASSERT_EQ(PAGE, into_pipe(left[1], self->owner.own + OFFSET, PAGE));
	ASSERT_EQ(0, evpl_baseline(self->owner.fd, 0, 0, SLAB));
	set_count(&self->owner.entries[N].word, 1);
	recheck_up_to_check(_metadata, self, false);
	unmap_client(&self->owner);
	EXPECT_EQ(0, evpl_adopt(self->owner.fd, 0, &setup));
	ASSERT_EQ(0, write_string(CHECKED, "0"));
	ASSERT_TRUE(map_client(&self->owner));
	/* This waits for the pass. */
	EXPECT_EQ(0, evpl_lease_pull(self->owner.fd));
	EXPECT_EQ(EVPL_WORD_SHARED, get(&self->owner.entries[N].word));
	EXPECT_FALSE(bit(self->owner.returned, N));
	ASSERT_EQ(PAGE, read(left[0], page, PAGE));
	close(left[0]);
	close(left[1]);
	EXPECT_TRUE(counters_return_to((struct counters){
		.clients = self->before.clients + 2,
		.slabs = self->before.slabs + 2,
		.charged = read_counters().charged,
		.channels = self->before.channels + 1,
	}));
	EXPECT_EQ(0, get(&self->owner.entries[N].word));
	EXPECT_TRUE(bit(self->owner.returned, N));
}

TEST_F(quarantine, client_that_sends_just_now_is_not_adopted)
{
	struct evpl_record record = { .offset = OFFSET, .length = BUFFER };
	struct evpl_setup setup;
	pid_t sender;

	set_count(&self->owner.entries[N].word, 2);
	unmap_client(&self->owner);
	ASSERT_EQ(0, write_string(ENTRIES, "1"));
	sender = fork_child();
	if (!sender)
		_exit(evpl_send(self->ends[0], &record, 1));
	ASSERT_TRUE(wait_at(ENTRIES, 1));
	EXPECT_EQ(-EBUSY, evpl_adopt(self->owner.fd, 0, &setup));
	ASSERT_EQ(0, write_string(ENTRIES, "0"));
	EXPECT_EQ(1, reap(sender));
	EXPECT_EQ(0, evpl_adopt(self->owner.fd, 0, &setup));
	ASSERT_TRUE(map_client(&self->owner));
	EXPECT_EQ(EVPL_WORD_SHARED, get(&self->owner.entries[N].word));
}

TEST_F(quarantine, that_its_owner_ends_while_the_kernel_rechecks_is_over_when_the_call_returns)
{
	pid_t ender;

	set_count(&self->owner.entries[N].word, 1);
	recheck_up_to_check(_metadata, self, true);
	ender = fork_child();
	if (!ender)
		_exit(evpl_quarantine_end(self->owner.fd, OFFSET) ||
		      read_counters().shares);
	EXPECT_TRUE(is_held_up(ender));
	ASSERT_EQ(0, write_string(CHECKED, "0"));
	EXPECT_EQ(0, reap(ender));
	/* It is returned although the pipe still holds a page. */
	EXPECT_TRUE(is_returned(&self->owner, N));
}

TEST_F(quarantine, of_a_later_share_is_not_taken_for_that_of_a_revoked_one)
{
	struct evpl_record record;

	set_count(&self->owner.entries[N].word, 1);
	quarantine_up_to_recheck(_metadata, self);
	drain(_metadata, self);
	EXPECT_EQ(0, evpl_revoke(self->owner.fd, OFFSET));
	EXPECT_EQ(0, get(&self->owner.entries[N].word));

	/* The buffer gets a new share while the kernel is about to look at the old one. */
	set_count(&self->owner.entries[N].word, 1);
	record = lease_again(_metadata, self, true);
	EXPECT_EQ(1, let_go(&self->lessee, &record));
	EXPECT_EQ(1, read_counters().quarantined);
	EXPECT_EQ(2, read_counters().shares);
	drain(_metadata, self);
	ASSERT_EQ(0, write_string(RECHECK, "0"));
	EXPECT_TRUE(is_returned(&self->owner, N));
	EXPECT_TRUE(counters_return_to((struct counters){
		.clients = self->before.clients + 2,
		.slabs = self->before.slabs + 2,
		.charged = read_counters().charged,
		.channels = self->before.channels + 1,
	}));
}

TEST_F(quarantine, that_a_ring_ends_while_the_kernel_rechecks_is_over_at_once)
{
	struct evpl_record record;
	struct ring ring;

	if (!rings_can_register())
		SKIP(return, NO_COMMAND);
	set_count(&self->owner.entries[N].word, 1);
	record = lease_again(_metadata, self, false);
	ASSERT_TRUE(ring_open(&ring));
	ASSERT_EQ(0, ring_table(&ring, 1));
	ASSERT_EQ(0, ring_take(&ring, self->lessee.fd, 0, record.offset, BUFFER, 0));
	EXPECT_EQ(1, evpl_revoke(self->owner.fd, OFFSET));
	ASSERT_EQ(0, write_string(RECHECK, "1"));
	ASSERT_TRUE(wait_at(RECHECK, 1));
	EXPECT_EQ(EVPL_WORD_SHARED, get(&self->owner.entries[N].word));
	/* It neither waits for the pass, nor leaves the buffer to it. */
	EXPECT_EQ(0, ring_drop(&ring, self->lessee.fd, 0));
	EXPECT_EQ(0, get(&self->owner.entries[N].word));
	EXPECT_TRUE(bit(self->owner.returned, N));
	EXPECT_EQ(0, read_counters().quarantined);
	ASSERT_EQ(0, write_string(RECHECK, "0"));
	ring_close(&ring);
	EXPECT_EQ(1, let_go(&self->lessee, &record));
}

/* Start a process that registers a lease with a ring, and wait until that has begun. */
static pid_t begin_registration(struct __test_metadata *_metadata,
				struct _test_data_quarantine *self, struct evpl_record *record)
{
	struct ring ring;
	pid_t pid;

	set_count(&self->owner.entries[N].word, 1);
	*record = lease_again(_metadata, self, false);
	ASSERT_EQ(0, write_string(REGISTER, "1"));
	pid = fork_child();
	if (!pid) {
		if (!ring_open(&ring) || ring_table(&ring, 1))
			_exit(1);
		_exit(-ring_take(&ring, self->lessee.fd, 0, record->offset, BUFFER, 0));
	}
	EXPECT_TRUE(wait_at(REGISTER, 1));
	return pid;
}

TEST_F(quarantine, begins_by_a_revoke_while_a_ring_is_about_to_get_the_buffer)
{
	struct evpl_record record;
	pid_t pid;

	if (!rings_can_register())
		SKIP(return, NO_COMMAND);
	pid = begin_registration(_metadata, self, &record);
	EXPECT_EQ(1, evpl_revoke(self->owner.fd, OFFSET));
	EXPECT_TRUE(is_quarantined(&self->owner, N));
	ASSERT_EQ(0, write_string(REGISTER, "0"));
	EXPECT_EQ(0, reap(pid));
	/* The ring goes with the process. */
	EXPECT_TRUE(is_returned(&self->owner, N));
	EXPECT_EQ(1, let_go(&self->lessee, &record));
}

TEST_F(quarantine, ends_when_a_task_is_killed_that_registers_the_buffer)
{
	struct evpl_record record;
	pid_t pid;

	if (!rings_can_register())
		SKIP(return, NO_COMMAND);
	pid = begin_registration(_metadata, self, &record);
	EXPECT_EQ(1, evpl_revoke(self->owner.fd, OFFSET));
	kill(pid, SIGKILL);
	EXPECT_TRUE(is_quarantined(&self->owner, N));
	ASSERT_EQ(0, write_string(REGISTER, "0"));
	EXPECT_EQ(-SIGKILL, reap(pid));
	EXPECT_TRUE(is_returned(&self->owner, N));
	EXPECT_EQ(1, let_go(&self->lessee, &record));
}

/* Map the client, give buffer 3 references, and have them when told to end. */
static int map_and_keep(struct client *client, int told)
{
	char byte;

	if (!map_client(client))
		return 1;
	set_count(&client->entries[3].word, 7);
	if (read(told, &byte, 1) != 1)
		return 2;
	return get(&client->entries[3].word) == 7 ? 0 : 3;
}

/* The mapping comes too late to be found at first. */
TEST_F(race, process_that_maps_a_client_during_an_adoption_waits_and_keeps_what_it_writes)
{
	struct evpl_setup setup;
	struct client client;
	pid_t adopter, mapper, killed;
	int told[2];

	ASSERT_EQ(0, pipe2(told, O_CLOEXEC));
	ASSERT_TRUE(make_client(&client, 0));
	ASSERT_EQ(0, write_string(ADOPT, "1"));
	adopter = fork_child();
	if (!adopter)
		_exit(-evpl_adopt(client.fd, 0, &setup));
	ASSERT_TRUE(wait_at(ADOPT, 1));
	mapper = fork_child();
	if (!mapper)
		_exit(map_and_keep(&client, told[0]));
	EXPECT_TRUE(is_held_up(mapper));
	killed = fork_child();
	if (!killed)
		_exit(map_and_keep(&client, told[0]));
	EXPECT_TRUE(is_held_up(killed));
	kill(killed, SIGKILL);
	EXPECT_EQ(-SIGKILL, reap_soon(killed));
	ASSERT_EQ(0, write_string(ADOPT, "0"));
	EXPECT_EQ(EBUSY, reap_soon(adopter));
	EXPECT_EQ(1, write(told[1], "", 1));
	EXPECT_EQ(0, reap_soon(mapper));
	EXPECT_EQ(0, evpl_adopt(client.fd, 0, &setup));
	close(client.fd);
	close(told[0]);
	close(told[1]);
}

/* The record is in flight, and the sender has yet to say so in its lease. */
TEST_F(race, buffer_that_a_lessee_sends_while_it_is_adopted_says_that_it_was_passed_on)
{
	struct evpl_setup setup;
	struct evpl_record got;
	struct pair pair = { };
	pid_t sender;

	open_pair(_metadata, &pair, 0);
	lease(_metadata, &pair, 1, 0, &got);
	unmap_client(&pair.lessee);
	ASSERT_EQ(0, write_string(SENT, "1"));
	sender = fork_child();
	if (!sender)
		_exit(evpl_send(pair.ends[1], &got, 1) != 1);
	ASSERT_TRUE(wait_at(SENT, 1));
	EXPECT_EQ(EVPL_WORD_SHARED, get(&pair.owner.entries[1].word));
	EXPECT_EQ(0, evpl_adopt(pair.lessee.fd, 0, &setup));
	EXPECT_EQ(EVPL_WORD_SHARED | EVPL_WORD_PASSED_ON, get(&pair.owner.entries[1].word));
	ASSERT_EQ(0, write_string(SENT, "0"));
	EXPECT_EQ(0, reap_soon(sender));
	EXPECT_EQ(EVPL_WORD_SHARED | EVPL_WORD_PASSED_ON, get(&pair.owner.entries[1].word));

	ASSERT_EQ(1, evpl_recv(pair.ends[0], &got, 1));
	EXPECT_EQ(BUFFER, got.offset);
	EXPECT_EQ(1, get(&pair.owner.entries[1].word));
	close_owner(&pair);
	close(pair.lessee.fd);
}

FIXTURE(closing)
{
	PAIR;
};

FIXTURE_SETUP(closing)
{
	if (access(GONE, F_OK))
		SKIP(return, "built without EVPL_DEBUG=1");
	self->bind_flags = EVPL_BIND_LANE;
	open_nonblocking_pair(_metadata, &self->pair, 0);
}

FIXTURE_TEARDOWN(closing)
{
	write_string(GONE, "0");
	write_string(DRAIN, "0");
	close_pair(&self->pair);
	EXPECT_TRUE(counters_return_to(self->before));
}

TEST_F(closing, end_of_a_dead_client_is_open_for_its_peer_until_nothing_is_left)
{
	struct pollfd end = { .fd = self->ends[0] };
	struct evpl_record sent[3], got;
	const uint32_t all = EVPL_DOORBELL_IN | EVPL_DOORBELL_OUT | EVPL_DOORBELL_MEMORY;
	pid_t pid, reader;

	lease(_metadata, &self->pair, 1, 0, &got);
	for (int i = 0; i < 3; i++)
		sent[i] = fill(&self->owner, 2 + i, 'x');
	ASSERT_EQ(2, evpl_send(self->ends[0], sent, 2));
	pid = last_of(&self->lessee);
	close(self->ends[1]);
	self->ends[1] = -1;
	ASSERT_EQ(0, write_string(GONE, "1"));
	ASSERT_EQ(0, write_string(DRAIN, "1"));
	kill(pid, SIGKILL);

	/* The kernel has begun to end what the lessee had. The owner sees nothing of that yet. */
	ASSERT_TRUE(wait_at(GONE, 1));
	EXPECT_EQ(POLLOUT, events_of(self->ends[0]));
	EXPECT_EQ(1, evpl_send(self->ends[0], &sent[2], 1));
	EXPECT_EQ(-EAGAIN, evpl_recv(self->ends[0], &got, 1));
	EXPECT_EQ(0, evpl_doorbell(self->ends[0], all, 0));
	for (int i = 1; i < 5; i++)
		EXPECT_EQ(EVPL_WORD_SHARED, get(&self->owner.entries[i].word));

	/* The leases have ended, and the first record has come back. The end takes no more. */
	ASSERT_EQ(0, write_string(GONE, "0"));
	ASSERT_TRUE(wait_at(DRAIN, 1));
	EXPECT_EQ(0, get(&self->owner.entries[1].word));
	EXPECT_EQ(0, get(&self->owner.entries[2].word));
	EXPECT_EQ(EVPL_WORD_SHARED, get(&self->owner.entries[3].word));
	EXPECT_EQ(EVPL_WORD_SHARED, get(&self->owner.entries[4].word));
	EXPECT_EQ(0, events_of(self->ends[0]));
	sent[0] = fill(&self->owner, 2, 'x');
	EXPECT_EQ(-EAGAIN, evpl_send(self->ends[0], &sent[0], 1));
	EXPECT_EQ(1, get(&self->owner.entries[2].word));
	EXPECT_EQ(-EAGAIN, evpl_recv(self->ends[0], &got, 1));
	EXPECT_EQ(0, evpl_doorbell(self->ends[0], all, 0));
	EXPECT_EQ(1, get(&self->owner.header->ends));
	ASSERT_EQ(0, fcntl(self->ends[0], F_SETFL, 0));
	reader = fork_child();
	if (!reader)
		_exit(evpl_recv(self->ends[0], &got, 1));
	EXPECT_TRUE(sleeps_in(reader, SYS_read));

	ASSERT_EQ(0, write_string(DRAIN, "0"));
	EXPECT_EQ(1, poll(&end, 1, LIMIT * 1000));
	EXPECT_EQ(POLLHUP, end.revents);
	for (int i = 1; i < 5; i++)
		EXPECT_EQ(i == 2, get(&self->owner.entries[i].word));
	EXPECT_EQ(-EPIPE, evpl_send(self->ends[0], &sent[0], 1));
	EXPECT_EQ(-EPIPE, evpl_doorbell(self->ends[0], all, 0));
	EXPECT_EQ(2, get(&self->owner.header->ends));
	EXPECT_EQ(0, reap(reader));
	EXPECT_EQ(-SIGKILL, reap(pid));
}

/*
 * A task of a lessee is held up in the middle of a call or a fault. That mustn't hold up the
 * owner, whose death revokes all leases on its buffers. Buffers 0 to 2 are leased.
 */
FIXTURE(stalled)
{
	PAIR;
	struct evpl_record records[3];
};

FIXTURE_SETUP(stalled)
{
	if (access(TABLES, F_OK))
		SKIP(return, "built without EVPL_DEBUG=1");
	open_pair(_metadata, &self->pair, EVPL_SETUP_REVOKE);
}

FIXTURE_TEARDOWN(stalled)
{
	write_string(ENTRIES, "0");
	write_string(TABLES, "0");
	write_string(GUEST_FAULT, "0");
	close_pair(&self->pair);
	EXPECT_TRUE(counters_return_to(self->before));
}

/* Lease three buffers. The lessee keeps references on all but the first. */
static void lease_three(struct __test_metadata *_metadata, struct _test_data_stalled *self)
{
	struct evpl_record record;

	for (int i = 0; i < 3; i++) {
		record = fill(&self->owner, i, 'a' + i);
		ASSERT_EQ(1, evpl_send(self->ends[0], &record, 1));
		ASSERT_EQ(1, evpl_recv(self->ends[1], &self->records[i], 1));
	}
	set(&self->lessee.leases[self->records[0].lease].word, 0);
}

static void owner_pulls_revokes_and_dies(struct __test_metadata *_metadata,
					 struct _test_data_stalled *self)
{
	pid_t puller, revoker, owner;

	puller = fork_child();
	if (!puller)
		_exit(evpl_lease_pull(self->owner.fd));
	EXPECT_EQ(1, reap_soon(puller));
	revoker = fork_child();
	if (!revoker)
		_exit(evpl_revoke(self->owner.fd, BUFFER));
	EXPECT_EQ(0, reap_soon(revoker));
	owner = last_of(&self->owner);
	kill(owner, SIGKILL);
	EXPECT_EQ(-SIGKILL, reap_soon(owner));
}

/* All leases but the first, whose reference was dropped, must be there, revoked. */
static void check_all_is_revoked(struct __test_metadata *_metadata,
				 struct _test_data_stalled *self)
{
	for (int i = 1; i < 3; i++)
		EXPECT_EQ(SIGBUS, touch_read(memory_of(&self->lessee, &self->records[i])));
	EXPECT_EQ(2, fdinfo(self->lessee.fd, "evpl-leases"));
}

TEST_F(stalled, lessee_that_allocates_a_lease_does_not_hold_its_owner_up)
{
	struct evpl_record record;
	pid_t reader;

	lease_three(_metadata, self);
	/* A lease of another kind has its entry in another page, which must be allocated. */
	record = fill(&self->owner, 3, 'd');
	record.flags = EVPL_RECORD_DEVICE;
	ASSERT_EQ(1, evpl_send(self->ends[0], &record, 1));
	ASSERT_EQ(0, write_string(ENTRIES, "1"));
	reader = fork_child();
	if (!reader) {
		close_client(&self->owner);
		if (evpl_recv(self->ends[1], &record, 1) != 1)
			_exit(1);
		_exit(record.flags & EVPL_RECORD_REVOKED ? 0 : 2);
	}
	ASSERT_TRUE(wait_at(ENTRIES, 1));
	owner_pulls_revokes_and_dies(_metadata, self);
	ASSERT_EQ(0, write_string(ENTRIES, "0"));
	EXPECT_EQ(0, reap(reader));
	check_all_is_revoked(_metadata, self);
}

/* Start a child that maps a record's first page anew, and touches it. */
static pid_t toucher(struct _test_data_stalled *self, const struct evpl_record *record)
{
	pid_t pid = fork_child();
	char *memory;

	if (pid)
		return pid;
	close_client(&self->owner);
	memory = map(self->lessee.fd, PAGE, record->offset, PROT_READ);
	_exit(memory ? touch_read(memory) : 1);
}

TEST_F(stalled, lessee_whose_fault_allocates_page_tables_does_not_hold_its_owner_up)
{
	pid_t pid;

	lease_three(_metadata, self);
	ASSERT_EQ(0, write_string(TABLES, "1"));
	pid = toucher(self, &self->records[1]);
	ASSERT_TRUE(wait_at(TABLES, 1));
	owner_pulls_revokes_and_dies(_metadata, self);
	ASSERT_EQ(0, write_string(TABLES, "0"));
	EXPECT_EQ(SIGBUS, reap(pid));
	check_all_is_revoked(_metadata, self);
}

TEST_F(stalled, owner_that_pulls_while_a_fault_maps_can_be_killed)
{
	pid_t pid, puller;

	lease_three(_metadata, self);
	ASSERT_EQ(0, write_string(GUEST_FAULT, "1"));
	pid = toucher(self, &self->records[1]);
	ASSERT_TRUE(wait_at(GUEST_FAULT, 1));
	puller = fork_child();
	if (!puller)
		_exit(evpl_lease_pull(self->owner.fd));
	EXPECT_TRUE(is_held_up(puller));
	kill(puller, SIGKILL);
	EXPECT_EQ(-SIGKILL, reap_soon(puller));
	EXPECT_EQ(3, fdinfo(self->lessee.fd, "evpl-leases"));
	ASSERT_EQ(0, write_string(GUEST_FAULT, "0"));
	EXPECT_EQ(0, reap(pid));
	EXPECT_EQ(1, evpl_lease_pull(self->owner.fd));
}

TEST_F(stalled, owner_that_revokes_while_it_sends_can_be_killed)
{
	struct evpl_record record = fill(&self->owner, 0, 'a');
	pid_t sender, revoker;

	ASSERT_EQ(0, write_string(ENTRIES, "1"));
	sender = fork_child();
	if (!sender)
		_exit(evpl_send(self->ends[0], &record, 1));
	ASSERT_TRUE(wait_at(ENTRIES, 1));
	revoker = fork_child();
	if (!revoker)
		_exit(evpl_revoke(self->owner.fd, 0));
	EXPECT_TRUE(is_held_up(revoker));
	kill(revoker, SIGKILL);
	EXPECT_EQ(-SIGKILL, reap_soon(revoker));
	ASSERT_EQ(0, write_string(ENTRIES, "0"));
	EXPECT_EQ(1, reap(sender));
	EXPECT_EQ(1, evpl_recv(self->ends[1], &record, 1));
	EXPECT_EQ(0, touch_read(memory_of(&self->lessee, &record)));
}

TEST_HARNESS_MAIN
