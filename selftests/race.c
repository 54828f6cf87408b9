// SPDX-License-Identifier: GPL-2.0-only
/*
 * Races made certain: a stop (kernel/stop.c) holds a task up between two steps,
 * and another does meanwhile what rarely falls there. A task that is held up
 * inside mmap or a fault holds its mmap_lock, so each is a process of its own.
 */
#include <sys/uio.h>

#include "evpl_test.h"

#define STOP		"/sys/kernel/debug/evpl/stop-"
#define OWN_FAULT	STOP "own-fault"
#define SET_UP		STOP "set-up"
#define REAP		STOP "reap"
#define GUEST_FAULT	STOP "guest-fault"
#define RESERVED	STOP "reserved"
#define ENTRIES		STOP "entries"

/* Wait until so many tasks stand at a stop, but not for ever. */
static bool wait_at(const char *stop, unsigned long long tasks)
{
	for (int i = 0; i < 60000 && read_number(stop) != tasks; i++)
		usleep(1000);
	return read_number(stop) == tasks;
}

static char state_of(pid_t pid)
{
	char path[64], state = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	file = fopen(path, "re");
	if (!file)
		return 0;
	if (fscanf(file, "%*d (%*[^)]) %c", &state) != 1)
		state = 0;
	fclose(file);
	return state;
}

/*
 * Wait until a child can't go on in the kernel, or has ended. It may wait for
 * something else for a moment, so it must be seen so many times in a row.
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
	self->before = read_counters();
	self->max_bytes = read_number(MAX_BYTES);
	self->fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	ASSERT_GE(self->fd, 0);
}

FIXTURE_TEARDOWN(race)
{
	write_string(OWN_FAULT, "0");
	write_string(SET_UP, "0");
	write_string(REAP, "0");
	write_string(GUEST_FAULT, "0");
	write_string(RESERVED, "0");
	write_string(ENTRIES, "0");
	write_number(MAX_BYTES, self->max_bytes);
	close(self->fd);
	EXPECT_TRUE(counters_return_to(self->before));
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
	toucher = fork();
	if (!toucher) {
		/* Right after the fault, and after the free has returned. */
		int first = touch_read(memory);

		if (first && first != SIGBUS)
			_exit(1);
		if (read(freed[0], &byte, 1) != 1)
			_exit(2);
		_exit(touch_read(memory) == SIGBUS ? 0 : 3);
	}
	ASSERT_TRUE(wait_at(OWN_FAULT, 1));

	freer = fork();
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

TEST_F(race, calls_while_a_mapping_sets_up_find_the_client_as_it_was)
{
	struct evpl_setup setup;
	uint64_t offset;
	pid_t mapper, second, reader;

	ASSERT_EQ(0, write_string(SET_UP, "1"));
	mapper = fork();
	if (!mapper)
		_exit(evpl_map(self->fd, SLAB_2M, 0) == MAP_FAILED);
	ASSERT_TRUE(wait_at(SET_UP, 1));

	EXPECT_EQ(-ENXIO, evpl_slab_alloc(self->fd, SLAB_2M, &offset));
	EXPECT_EQ(-ENXIO, evpl_slab_free(self->fd, 0));
	EXPECT_EQ(MAP_FAILED, evpl_map(self->fd, SLAB_2M, SLAB_2M));
	EXPECT_EQ(ENXIO, errno);

	second = fork();
	if (!second)
		_exit(evpl_setup(self->fd, 4096, &setup) == -EBUSY ? 0 : 1);
	EXPECT_TRUE(is_held_up(second));

	/* Who reads the state of a client that is busy can be killed. */
	reader = fork();
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
	first = fork();
	if (!first) {
		char *memory = evpl_map(self->fd, SLAB_2M, 0);

		if (memory == MAP_FAILED)
			_exit(1);
		if (read(mapped[0], &byte, 1) != 1)
			_exit(2);
		_exit(memory[0] == 7 ? 0 : 3);
	}
	ASSERT_TRUE(wait_at(SET_UP, 1));

	second = fork();
	if (!second) {
		char *memory = evpl_map(self->fd, SLAB_2M, 0);

		if (memory == MAP_FAILED)
			_exit(1);
		/* It may not be let in before the slab is there. */
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
 * As a receiver: touch what was sent, and again when a byte comes over the pipe.
 * Return 0 if it was gone then.
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
	memory = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, record.offset);
	if (memory == MAP_FAILED)
		return 2;
	first = touch_read(memory);
	if (first && first != SIGBUS)
		return 3;
	if (read(pipe_fd, &byte, 1) != 1)
		return 4;
	return touch_read(memory) == SIGBUS ? 0 : 5;
}

TEST_F(race, lease_revoked_while_a_fault_has_found_it_is_never_seen_after)
{
	struct evpl_record record = { .length = 4096 };
	struct evpl_setup setup;
	struct evpl_entry *entries;
	pid_t toucher, revoker;
	int ends[2], pipe_fds[2];
	uint64_t offset;

	ASSERT_EQ(0, evpl_setup(self->fd, 0, &setup));
	ASSERT_EQ(0, evpl_slab_alloc(self->fd, SLAB_2M, &offset));
	entries = evpl_map(self->fd, 4096, setup.out_refs_offset);
	ASSERT_NE(MAP_FAILED, entries);
	entries[0].word = 1;
	ASSERT_EQ(0, evpl_channel(self->fd, 0, ends));
	ASSERT_EQ(0, evpl_bind(self->fd, ends[0]));
	ASSERT_EQ(1, evpl_send(ends[0], &record, 1));
	ASSERT_EQ(0, pipe(pipe_fds));

	ASSERT_EQ(0, write_string(GUEST_FAULT, "1"));
	toucher = fork();
	if (!toucher)
		_exit(receive_and_touch(ends[1], pipe_fds[0]));
	ASSERT_TRUE(wait_at(GUEST_FAULT, 1));
	revoker = fork();
	if (!revoker)
		_exit(evpl_revoke(self->fd, 0) ? 1 : 0);
	EXPECT_TRUE(is_held_up(revoker));
	ASSERT_EQ(0, write_string(GUEST_FAULT, "0"));
	EXPECT_EQ(0, reap(revoker));
	EXPECT_EQ(0, entries[0].word);
	ASSERT_EQ(1, write(pipe_fds[1], "", 1));
	EXPECT_EQ(0, reap(toucher));
	munmap(entries, 4096);
	for (int i = 0; i < 2; i++) {
		close(ends[i]);
		close(pipe_fds[i]);
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
	child = fork();
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

TEST_F(race, who_is_killed_while_entries_are_had_takes_none)
{
	struct evpl_setup setup;
	struct counters before;
	uint64_t offset;
	pid_t child;

	ASSERT_EQ(0, evpl_setup(self->fd, 0, &setup));
	before = read_counters();
	ASSERT_EQ(0, write_string(ENTRIES, "1"));
	child = fork();
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

TEST_F(race, what_another_frees_just_now_can_be_had)
{
	char *memory = evpl_map(self->fd, SLAB_2M, 0);
	struct iovec page = { memory, 4096 };
	char page_read[4096];
	int pipe_fds[2];
	pid_t child;

	/* A page in a pipe keeps the memory of a slab that has gone. */
	ASSERT_NE(MAP_FAILED, memory);
	ASSERT_EQ(0, pipe(pipe_fds));
	ASSERT_EQ(4096, vmsplice(pipe_fds[1], &page, 1, 0));
	munmap(memory, SLAB_2M);
	ASSERT_EQ(0, write_number(MAX_BYTES, read_counters().charged));
	ASSERT_EQ(0, evpl_slab_free(self->fd, 0));
	EXPECT_LT(0, read_counters().detached);

	/* The pipe lets go of it, and the work that gives it back is held up. */
	ASSERT_EQ(0, write_string(REAP, "1"));
	ASSERT_EQ(4096, read(pipe_fds[0], page_read, 4096));
	ASSERT_TRUE(wait_at(REAP, 1));

	child = fork();
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

TEST_HARNESS_MAIN
