// SPDX-License-Identifier: GPL-2.0-only
/*
 * Accounting: the caps of the system and of a user, and the memory cgroup. A request
 * that doesn't fit gives ENOMEM, takes nothing, and kills no process.
 */
#include <sys/syscall.h>

#include "ring.h"

#define CGROUP		"/sys/fs/cgroup/evpl-test"

FIXTURE(account)
{
	int fd;
	struct counters before, set_up;
	struct evpl_setup setup;
	unsigned long long max_bytes, max_bytes_per_user;
};

FIXTURE_SETUP(account)
{
	limit_sleeps();
	self->before = read_counters();
	self->max_bytes = read_number(MAX_BYTES);
	self->max_bytes_per_user = read_number(MAX_BYTES_PER_USER);
	ASSERT_NE(0, self->max_bytes);
	ASSERT_NE(0, self->max_bytes_per_user);
	self->fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	ASSERT_GE(self->fd, 0);
	ASSERT_EQ(0, evpl_setup(self->fd, 0, &self->setup));
	self->set_up = read_counters();
}

FIXTURE_TEARDOWN(account)
{
	EXPECT_EQ(0, write_number(MAX_BYTES, self->max_bytes));
	EXPECT_EQ(0, write_number(MAX_BYTES_PER_USER, self->max_bytes_per_user));
	close(self->fd);
	EXPECT_TRUE(counters_return_to(self->before));
}

/*
 * The bytes that the kernel can take for slabs: the pages that are free or on an LRU list, in
 * the zones up to Normal, less those of CMA.
 */
static unsigned long long bytes_to_be_had(void)
{
	FILE *file = fopen("/proc/zoneinfo", "re");
	long long pages = 0, number;
	char line[256], name[64];
	bool counts = false;

	while (file && fgets(line, sizeof(line), file)) {
		if (sscanf(line, "Node %lld, zone %63s", &number, name) == 2)
			counts = !strcmp(name, "DMA") || !strcmp(name, "DMA32") ||
				 !strcmp(name, "Normal");
		if (!counts)
			continue;
		if (sscanf(line, " pages free %lld", &number) == 1)
			pages += number;
		else if (sscanf(line, " nr_zone_%63s %lld", name, &number) == 2 &&
			 strcmp(name, "write_pending"))
			pages += number;
		else if (sscanf(line, " cma %lld", &number) == 1)
			pages -= number;
	}
	if (file)
		fclose(file);
	return pages * PAGE;
}

TEST_F(account, caps_are_three_quarters_and_half_of_what_can_be_had_by_default)
{
	unsigned long long bytes = bytes_to_be_had();

	/* Memory was allocated or freed since the module has set the caps. */
	EXPECT_LE(bytes / 100 * 70, self->max_bytes);
	EXPECT_GE(bytes / 100 * 80, self->max_bytes);
	EXPECT_LE(bytes / 100 * 46, self->max_bytes_per_user);
	EXPECT_GE(bytes / 100 * 54, self->max_bytes_per_user);
}

/* Charge exactly up to a cap; then try one more slab. */
static void check_cap(struct __test_metadata *_metadata, int fd,
		      const char *cap, unsigned long long charged)
{
	uint64_t offset, last;

	ASSERT_EQ(0, write_number(cap, charged + 8 * MIB + REFS_PAGE));
	ASSERT_EQ(0, evpl_slab_alloc(fd, 6 * MIB, &offset));
	EXPECT_EQ(-ENOMEM, evpl_slab_alloc(fd, 4 * MIB, &last));
	ASSERT_EQ(0, evpl_slab_alloc(fd, 2 * MIB, &last));
	EXPECT_EQ(-ENOMEM, evpl_slab_alloc(fd, 2 * MIB, &last));
	EXPECT_EQ(2, fdinfo(fd, "evpl-slabs"));
	EXPECT_EQ(charged + 8 * MIB + REFS_PAGE, read_counters().charged);

	/* A cap can be raised when it is reached, and lowered below the charge. */
	ASSERT_EQ(0, write_number(cap, charged + 10 * MIB + REFS_PAGE));
	EXPECT_EQ(0, evpl_slab_alloc(fd, 2 * MIB, &last));
	ASSERT_EQ(0, write_number(cap, 0));
	EXPECT_EQ(-ENOMEM, evpl_slab_alloc(fd, 2 * MIB, &last));
	EXPECT_EQ(3, fdinfo(fd, "evpl-slabs"));
	EXPECT_EQ(0, evpl_slab_free(fd, offset));
	EXPECT_EQ(-ENOMEM, evpl_slab_alloc(fd, 2 * MIB, &last));
	EXPECT_EQ(2, fdinfo(fd, "evpl-slabs"));
}

TEST_F(account, more_than_the_cap_of_the_system_is_ENOMEM)
{
	check_cap(_metadata, self->fd, MAX_BYTES, self->set_up.charged);
}

TEST_F(account, more_than_the_cap_of_the_user_is_ENOMEM)
{
	check_cap(_metadata, self->fd, MAX_BYTES_PER_USER, self->set_up.charged);
}

TEST_F(account, entries_count_too)
{
	uint64_t offset;

	/* The cap has room for the slab, but not for the page of its entries. */
	ASSERT_EQ(0, write_number(MAX_BYTES, self->set_up.charged + 2 * MIB));
	EXPECT_EQ(-ENOMEM, evpl_slab_alloc(self->fd, 2 * MIB, &offset));
	EXPECT_EQ(self->set_up.charged, read_counters().charged);
	EXPECT_EQ(0, fdinfo(self->fd, "evpl-slabs"));
}

TEST_F(account, second_slab_without_room_for_its_entries_is_given_back_whole)
{
	/* The entries of a slab fill whole pages. */
	const uint64_t full = ENTRIES_PER_PAGE * PAGE;
	const uint64_t length = full > 4 * MIB ? full : 4 * MIB;
	const long long entries = length / PAGE * sizeof(struct evpl_entry);
	int fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	struct evpl_setup setup;
	struct counters first;
	uint64_t offset;

	ASSERT_EQ(0, evpl_setup(fd, PAGE, &setup));
	ASSERT_EQ(0, evpl_slab_alloc(fd, length, &offset));
	first = read_counters();
	EXPECT_EQ(self->set_up.charged + HEADER_PAGE + length + entries, first.charged);
	ASSERT_EQ(0, write_number(MAX_BYTES, first.charged + length));
	EXPECT_EQ(-ENOMEM, evpl_slab_alloc(fd, length, &offset));
	EXPECT_EQ(first.charged, read_counters().charged);
	ASSERT_EQ(0, write_number(MAX_BYTES, first.charged + length + entries));
	EXPECT_EQ(0, evpl_slab_alloc(fd, length, &offset));
	close(fd);
}

TEST_F(account, mapping_of_a_slab_without_room_for_its_entries_sets_nothing_up)
{
	int fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	char *memory;

	ASSERT_EQ(0, write_number(MAX_BYTES, self->set_up.charged + 2 * MIB + HEADER_PAGE));
	EXPECT_EQ(MAP_FAILED, evpl_map(fd, 2 * MIB, 0));
	EXPECT_EQ(ENOMEM, errno);
	EXPECT_EQ(0, fdinfo(fd, "evpl-buffer-size"));
	EXPECT_EQ(0, fdinfo(fd, "evpl-slabs"));
	/* The header stays with the client. */
	EXPECT_EQ(self->set_up.charged + HEADER_PAGE, read_counters().charged);

	ASSERT_EQ(0, write_number(MAX_BYTES, self->max_bytes));
	memory = evpl_map(fd, 2 * MIB, 0);
	ASSERT_NE(MAP_FAILED, memory);
	munmap(memory, 2 * MIB);
	close(fd);
}

TEST_F(account, user_is_the_one_who_opened_and_each_has_a_cap_of_its_own)
{
	uint64_t offset;
	pid_t child;

	ASSERT_EQ(0, write_number(MAX_BYTES_PER_USER, 2 * MIB + HEADER_PAGE + REFS_PAGE));
	ASSERT_EQ(0, evpl_slab_alloc(self->fd, 2 * MIB, &offset));
	EXPECT_EQ(-ENOMEM, evpl_slab_alloc(self->fd, 2 * MIB, &offset));

	child = fork_child();
	if (!child) {
		struct evpl_setup setup;
		int fd;

		/* Become another user, in the device node's group. */
		if (setgid(0) || setuid(12345))
			_exit(1);
		/* The client that root has opened stays charged to root. */
		if (evpl_slab_alloc(self->fd, 2 * MIB, &offset) != -ENOMEM)
			_exit(2);
		fd = open(DEVICE, O_RDWR | O_CLOEXEC);
		if (fd < 0 || evpl_setup(fd, 0, &setup))
			_exit(3);
		if (evpl_slab_alloc(fd, 2 * MIB, &offset))
			_exit(4);
		if (evpl_slab_alloc(fd, 2 * MIB, &offset) != -ENOMEM)
			_exit(5);
		_exit(0);
	}
	EXPECT_EQ(0, reap(child));
}

TEST_F(account, room_is_what_the_caps_leave)
{
	unsigned long long charged = self->set_up.charged;
	struct evpl_room room;
	uint64_t offset;

	/* All that is charged is root's, as no other user has a client. */
	ASSERT_EQ(0, write_number(MAX_BYTES, charged + 10 * MIB));
	ASSERT_EQ(0, write_number(MAX_BYTES_PER_USER, charged + 6 * MIB + REFS_PAGE));
	ASSERT_EQ(0, evpl_room(self->fd, &room));
	EXPECT_EQ(10 * MIB, room.out_system);
	EXPECT_EQ(6 * MIB + REFS_PAGE, room.out_user);

	ASSERT_EQ(0, evpl_slab_alloc(self->fd, 2 * MIB, &offset));
	ASSERT_EQ(0, evpl_room(self->fd, &room));
	EXPECT_EQ(8 * MIB - REFS_PAGE, room.out_system);
	EXPECT_EQ(4 * MIB, room.out_user);

	/* A slab of the whole room fits, as the page of entries is there already. */
	ASSERT_EQ(0, evpl_slab_alloc(self->fd, room.out_user, &offset));
	ASSERT_EQ(0, evpl_room(self->fd, &room));
	EXPECT_EQ(0, room.out_user);
	EXPECT_EQ(4 * MIB - REFS_PAGE, room.out_system);

	/* A cap may be below what is charged already. */
	ASSERT_EQ(0, write_number(MAX_BYTES, 1));
	ASSERT_EQ(0, evpl_room(self->fd, &room));
	EXPECT_EQ(0, room.out_system);

	ASSERT_EQ(0, write_number(MAX_BYTES, charged + 10 * MIB));
	ASSERT_EQ(0, evpl_slab_free(self->fd, offset));
	ASSERT_EQ(0, evpl_room(self->fd, &room));
	EXPECT_EQ(4 * MIB, room.out_user);
	EXPECT_EQ(8 * MIB - REFS_PAGE, room.out_system);
}

TEST_F(account, others_may_not_open_it)
{
	struct stat stat_buf;
	pid_t child;

	ASSERT_EQ(0, stat(DEVICE, &stat_buf));
	EXPECT_EQ(0660, stat_buf.st_mode & 0777);
	child = fork_child();
	if (!child) {
		if (setgid(12345) || setuid(12345))
			_exit(1);
		_exit(open(DEVICE, O_RDWR) < 0 && errno == EACCES ? 0 : 2);
	}
	EXPECT_EQ(0, reap(child));
}

TEST_F(account, more_than_the_memory_cgroup_has_is_ENOMEM_and_kills_nobody)
{
	pid_t child;

	if (mkdir(CGROUP, 0755) && errno != EEXIST)
		SKIP(return, "no cgroup of version 2");
	ASSERT_EQ(0, write_number(CGROUP "/memory.max", 32 * MIB));
	write_string(CGROUP "/memory.swap.max", "0");

	child = fork_child();
	if (!child) {
		uint64_t offsets[64], offset;
		int slabs = 0, ret, fill;

		if (write_number(CGROUP "/cgroup.procs", getpid()))
			_exit(1);
		if (evpl_slab_alloc(self->fd, 64 * MIB, &offset) != -ENOMEM)
			_exit(2);
		if (fdinfo(self->fd, "evpl-slabs") ||
		    read_counters().charged != self->set_up.charged)
			_exit(3);
		while (!(ret = evpl_slab_alloc(self->fd, SLAB_2M,
					       &offsets[slabs])))
			slabs++;
		if (ret != -ENOMEM)
			_exit(4);
		/* The cgroup is charged for slabs, and nearly all of its limit is left for them. */
		if (slabs < 10 || slabs > 15)
			_exit(5);
		fill = fdinfo(self->fd, "evpl-slabs");
		if (fill != slabs)
			_exit(6);
		while (slabs--)
			if (evpl_slab_free(self->fd, offsets[slabs]))
				_exit(7);
		if (evpl_slab_alloc(self->fd, 8 * MIB, &offset))
			_exit(8);
		_exit(0);
	}
	EXPECT_EQ(0, reap(child));
	EXPECT_EQ(0, number_in(CGROUP "/memory.events", "oom"));
	EXPECT_EQ(0, number_in(CGROUP "/memory.events", "oom_kill"));
	EXPECT_LT(0, number_in(CGROUP "/memory.events", "max"));

	/* The slab belongs to the open file, which has outlived the child. */
	EXPECT_EQ(1, fdinfo(self->fd, "evpl-slabs"));
	close(self->fd);
	EXPECT_TRUE(counters_return_to(self->before));
	EXPECT_EQ(0, rmdir(CGROUP));
	self->fd = open(DEVICE, O_RDWR | O_CLOEXEC);
}

#define NR_LEASES	EVPL_CHANNEL_CAPACITY_MAX

/* The cgroup's counter may be too high by the pages that are charged ahead for each CPU. */
#define AT_HAND		MIB

/*
 * Send NR_LEASES buffers of one client to another. Return 0, or the number of the step that
 * failed; in *@used by how much the cgroup's usage grew, in *@charged by how much evpl's
 * charge did.
 */
static int lease_all(int fd, long long *used, long long *charged)
{
	static struct evpl_record records[NR_LEASES];
	size_t refs = NR_LEASES * sizeof(struct evpl_entry);
	int lessee = open(DEVICE, O_RDWR | O_CLOEXEC), ends[2];
	struct evpl_entry *entries;
	struct evpl_setup setup;
	uint64_t offset;

	if (evpl_setup(lessee, PAGE, &setup) || evpl_setup(fd, PAGE, &setup) ||
	    evpl_slab_alloc(fd, NR_LEASES * PAGE, &offset) ||
	    evpl_channel(fd, NR_LEASES, ends) || evpl_bind(fd, ends[0]) ||
	    evpl_bind(lessee, ends[1]))
		return 2;
	entries = evpl_map(fd, refs, setup.out_refs_offset);
	if (entries == MAP_FAILED)
		return 3;
	for (int i = 0; i < NR_LEASES; i++) {
		entries[i].word = 1;
		records[i] = (struct evpl_record){
			.offset = i * PAGE,
			.length = PAGE,
		};
	}
	*used = -read_number(CGROUP "/memory.current");
	*charged = -read_counters().charged;
	if (evpl_send(ends[0], records, NR_LEASES) != NR_LEASES ||
	    evpl_recv(ends[1], records, NR_LEASES) != NR_LEASES)
		return 4;
	*used += read_number(CGROUP "/memory.current");
	*charged += read_counters().charged;
	return 0;
}

TEST_F(account, leases_and_shares_are_charged_for_what_they_take)
{
	long long used, charged;
	pid_t child;

	close(self->fd);
	self->fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	if (mkdir(CGROUP, 0755) && errno != EEXIST)
		SKIP(return, "no cgroup of version 2");
	child = fork_child();
	if (!child) {
		int failed = 1;

		if (!write_number(CGROUP "/cgroup.procs", getpid()))
			failed = lease_all(self->fd, &used, &charged);
		if (failed)
			_exit(failed);
		fprintf(stderr, "# %lld KiB were used, %lld KiB charged\n",
			used >> 10, charged >> 10);
		/* The cgroup must have counted the entries, and the user be charged for all. */
		if (used < NR_LEASES * (long long)sizeof(struct evpl_entry))
			_exit(5);
		_exit(charged < used - (long long)AT_HAND ? 6 : 0);
	}
	EXPECT_EQ(0, reap(child));
	EXPECT_EQ(0, rmdir(CGROUP));
}

/*
 * Actors: processes, each with a client, of users that have no other processes. An actor
 * gets orders by letters, see act(), and answers each with 0 or -errno.
 */
#define FIRST_UID	12345

struct actor {
	pid_t pid;
	int socket;
	int fd;
	int end;			/* the end that is bound to its client, or -1 */
	int next;			/* the end that it passes on by, or -1 */
	struct evpl_setup setup;
	struct evpl_entry *entries, *lease;
	struct evpl_record record;
	uint64_t offset;
	struct ring ring;
};

static int start(struct actor *actor, uid_t uid)
{
	if (setgid(0) || setuid(uid))
		return -EPERM;
	actor->fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	if (actor->fd < 0)
		return -errno;
	return evpl_setup(actor->fd, 0, &actor->setup) ?:
	       (actor->end < 0 ? 0 : evpl_bind(actor->fd, actor->end)) ?:
	       (actor->next < 0 ? 0 : evpl_bind(actor->fd, actor->next));
}

static int give(struct actor *actor, uint32_t flags)
{
	actor->entries = evpl_map(actor->fd, PAGE, actor->setup.out_refs_offset);
	if (actor->entries == MAP_FAILED)
		return -errno;
	actor->entries[0].word = 1;
	actor->record = (struct evpl_record){
		.offset = actor->offset,
		.length = MIB,
		.flags = flags,
	};
	return evpl_send(actor->end, &actor->record, 1) == 1 ? 0 : -EIO;
}

static int take(struct actor *actor)
{
	if (evpl_recv(actor->end, &actor->record, 1) != 1)
		return -EIO;
	actor->lease = evpl_map(actor->fd, PAGE, actor->setup.out_leases_offset +
				(actor->record.lease * sizeof(*actor->lease) & -PAGE));
	if (actor->lease == MAP_FAILED)
		return -errno;
	actor->lease += actor->record.lease % (PAGE / sizeof(*actor->lease));
	return actor->lease->word == 1 ? 0 : -EIO;
}

static int let_go(struct actor *actor)
{
	actor->lease->word--;
	return evpl_lease_release(actor->fd, &actor->record.lease, 1) == 1 ? 0 : -EIO;
}

/* Pass on another reference of the lease, so that the lease stays. */
static int pass_on(struct actor *actor)
{
	actor->lease->word++;
	return evpl_send(actor->next, &actor->record, 1) == 1 ? 0 : -EIO;
}

static int register_lease(struct actor *actor)
{
	if (!ring_open(&actor->ring))
		return -errno;
	return ring_table(&actor->ring, 1) ?:
	       ring_take(&actor->ring, actor->fd, 0, actor->record.offset, MIB, 0);
}

static int unregister(struct actor *actor)
{
	return ring_drop(&actor->ring, actor->fd, 0);
}

static int act(struct actor *actor, char what)
{
	switch (what) {
	case 'a':
		return evpl_slab_alloc(actor->fd, 2 * MIB, &actor->offset);
	case 'f':
		return evpl_slab_free(actor->fd, actor->offset);
	case 'g':
		return give(actor, 0);
	case 'd':
		return give(actor, EVPL_RECORD_DEVICE);
	case 't':
		return take(actor);
	case 'l':
		return let_go(actor);
	case 'r':
		return register_lease(actor);
	case 'u':
		return unregister(actor);
	default:
		return pass_on(actor);
	}
}

/* Have an actor do something. Return its answer, or -EPIPE. */
static int ask(struct actor *actor, char what)
{
	signed char answer;

	if (write(actor->socket, &what, 1) != 1 || read(actor->socket, &answer, 1) != 1)
		return -EPIPE;
	return answer;
}

/* Start an actor. Return its first answer. */
static int enter(struct actor *actor, uid_t uid, int end, int next)
{
	signed char answer;
	int sockets[2];
	char what;

	*actor = (struct actor){ .end = end, .next = next };
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets))
		return -errno;
	actor->pid = fork_child();
	if (!actor->pid) {
		close(sockets[0]);
		answer = start(actor, uid);
		do {
			if (write(sockets[1], &answer, 1) != 1 ||
			    read(sockets[1], &what, 1) != 1)
				_exit(0);
			answer = act(actor, what);
		} while (true);
	}
	close(sockets[1]);
	actor->socket = sockets[0];
	return read(actor->socket, &answer, 1) == 1 ? answer : -EPIPE;
}

static void leave(struct actor *actor)
{
	if (!actor->pid)
		return;
	kill(actor->pid, SIGKILL);
	reap(actor->pid);
	close(actor->socket);
	actor->pid = 0;
}

/* A service has sent a buffer by the first channel, and dies. Its user's cap is reached. */
FIXTURE(service)
{
	struct counters before;
	unsigned long long max_bytes_per_user;
	int fd, first[2], second[2];
	struct actor service, again;
};

FIXTURE_SETUP(service)
{
	struct evpl_setup setup;

	limit_sleeps();
	self->before = read_counters();
	self->max_bytes_per_user = read_number(MAX_BYTES_PER_USER);
	self->fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	ASSERT_EQ(0, evpl_setup(self->fd, 0, &setup));
	ASSERT_EQ(0, evpl_channel(self->fd, 1, self->first));
	ASSERT_EQ(0, evpl_channel(self->fd, 1, self->second));
	ASSERT_EQ(0, enter(&self->service, FIRST_UID, self->first[0], -1));
	ASSERT_EQ(0, ask(&self->service, 'a'));
	ASSERT_EQ(0, ask(&self->service, 'g'));
	ASSERT_EQ(0, enter(&self->again, FIRST_UID, -1, -1));
	/* The cap of each user: a slab, and the first entries, leases and shares. */
	ASSERT_EQ(0, write_number(MAX_BYTES_PER_USER, 2 * MIB + 16 * PAGE));
	ASSERT_EQ(-ENOMEM, ask(&self->again, 'a'));
}

FIXTURE_TEARDOWN(service)
{
	leave(&self->service);
	leave(&self->again);
	EXPECT_EQ(0, write_number(MAX_BYTES_PER_USER, self->max_bytes_per_user));
	for (int i = 0; i < 2; i++) {
		close(self->first[i]);
		close(self->second[i]);
	}
	close(self->fd);
	EXPECT_TRUE(counters_return_to(self->before));
}

TEST_F(service, that_dies_is_not_charged_for_what_a_lessee_keeps)
{
	struct actor lessee;

	ASSERT_EQ(0, enter(&lessee, FIRST_UID + 1, self->first[1], -1));
	ASSERT_EQ(0, ask(&lessee, 't'));
	EXPECT_EQ(0, ask(&lessee, 'a'));
	EXPECT_EQ(0, ask(&lessee, 'f'));
	leave(&self->service);
	EXPECT_EQ(0, ask(&self->again, 'a'));

	/* The lessee is charged for it, until it ends the lease. */
	EXPECT_EQ(-ENOMEM, ask(&lessee, 'a'));
	EXPECT_EQ(0, ask(&lessee, 'l'));
	EXPECT_EQ(0, ask(&lessee, 'a'));
	leave(&lessee);
}

TEST_F(service, that_dies_fills_no_cap_of_a_lessee)
{
	struct actor lessee;

	ASSERT_EQ(0, enter(&lessee, FIRST_UID + 1, self->first[1], -1));
	ASSERT_EQ(0, ask(&lessee, 't'));
	EXPECT_EQ(0, ask(&lessee, 'a'));
	leave(&self->service);
	/* The lessee's cap has no room, so the service's user is charged until the lease ends. */
	EXPECT_EQ(-ENOMEM, ask(&self->again, 'a'));
	EXPECT_EQ(0, ask(&lessee, 'l'));
	EXPECT_EQ(0, ask(&self->again, 'a'));
	EXPECT_EQ(-ENOMEM, ask(&lessee, 'a'));
	EXPECT_EQ(0, ask(&lessee, 'f'));
	EXPECT_EQ(0, ask(&lessee, 'a'));
	leave(&lessee);
}

TEST_F(service, that_dies_is_charged_for_a_record_until_it_is_read)
{
	struct actor lessee;

	leave(&self->service);
	EXPECT_EQ(-ENOMEM, ask(&self->again, 'a'));
	ASSERT_EQ(0, enter(&lessee, FIRST_UID + 1, self->first[1], -1));
	EXPECT_EQ(0, ask(&lessee, 'a'));
	EXPECT_EQ(0, ask(&lessee, 'f'));
	ASSERT_EQ(0, ask(&lessee, 't'));
	EXPECT_EQ(0, ask(&self->again, 'a'));
	EXPECT_EQ(-ENOMEM, ask(&lessee, 'a'));
	/* The lease ends when the lessee dies. */
	leave(&lessee);
	EXPECT_EQ(0, ask(&self->again, 'f'));
	EXPECT_EQ(0, ask(&self->again, 'a'));
}

TEST_F(service, that_dies_leaves_it_to_one_lessee_after_the_other)
{
	struct actor lessees[2];

	ASSERT_EQ(0, enter(&lessees[0], FIRST_UID + 1, self->first[1], self->second[0]));
	ASSERT_EQ(0, enter(&lessees[1], FIRST_UID + 2, self->second[1], -1));
	ASSERT_EQ(0, ask(&lessees[0], 't'));
	leave(&self->service);
	ASSERT_EQ(0, ask(&lessees[0], 'p'));
	ASSERT_EQ(0, ask(&lessees[1], 't'));
	EXPECT_EQ(-ENOMEM, ask(&lessees[0], 'a'));
	EXPECT_EQ(0, ask(&lessees[1], 'a'));
	EXPECT_EQ(0, ask(&lessees[1], 'f'));

	leave(&lessees[0]);
	EXPECT_EQ(-ENOMEM, ask(&lessees[1], 'a'));
	EXPECT_EQ(0, ask(&self->again, 'a'));
	EXPECT_EQ(0, ask(&lessees[1], 'l'));
	EXPECT_EQ(0, ask(&lessees[1], 'a'));
	leave(&lessees[1]);
}

/* Have a lessee register a buffer of the service with a ring, and end its lease. */
static void leave_to_ring(struct __test_metadata *_metadata, struct _test_data_service *self,
			  struct actor *lessee, int next)
{
	ASSERT_EQ(0, enter(lessee, FIRST_UID + 1, self->first[1], next));
	ASSERT_EQ(0, ask(lessee, 't'));
	ASSERT_EQ(0, ask(lessee, 'l'));
	/* This record is for devices. */
	ASSERT_EQ(0, ask(&self->service, 'd'));
	ASSERT_EQ(0, ask(lessee, 't'));
	ASSERT_EQ(0, ask(lessee, 'r'));
	if (next >= 0)
		ASSERT_EQ(0, ask(lessee, 'p'));
	ASSERT_EQ(0, ask(lessee, 'l'));
}

TEST_F(service, that_dies_is_not_charged_for_what_a_ring_keeps)
{
	struct actor lessee;

	if (!rings_can_register())
		SKIP(return, NO_COMMAND);
	leave_to_ring(_metadata, self, &lessee, -1);
	EXPECT_EQ(0, ask(&lessee, 'a'));
	EXPECT_EQ(0, ask(&lessee, 'f'));
	leave(&self->service);
	EXPECT_EQ(0, ask(&self->again, 'a'));

	/* The client that has registered it is charged for it, until the ring lets go. */
	EXPECT_EQ(-ENOMEM, ask(&lessee, 'a'));
	EXPECT_EQ(0, ask(&lessee, 'u'));
	EXPECT_EQ(0, ask(&lessee, 'a'));
	leave(&lessee);
}

TEST_F(service, that_dies_fills_no_cap_of_a_client_whose_ring_keeps_memory)
{
	struct actor lessee;

	if (!rings_can_register())
		SKIP(return, NO_COMMAND);
	leave_to_ring(_metadata, self, &lessee, -1);
	EXPECT_EQ(0, ask(&lessee, 'a'));
	leave(&self->service);
	EXPECT_EQ(-ENOMEM, ask(&self->again, 'a'));
	EXPECT_EQ(0, ask(&lessee, 'u'));
	EXPECT_EQ(0, ask(&self->again, 'a'));
	EXPECT_EQ(-ENOMEM, ask(&lessee, 'a'));
	leave(&lessee);
}

TEST_F(service, that_dies_leaves_it_to_a_ring_when_the_last_lease_ends)
{
	struct actor lessee, last;

	if (!rings_can_register())
		SKIP(return, NO_COMMAND);
	leave_to_ring(_metadata, self, &lessee, self->second[0]);
	ASSERT_EQ(0, enter(&last, FIRST_UID + 2, self->second[1], -1));
	ASSERT_EQ(0, ask(&last, 't'));
	leave(&self->service);
	EXPECT_EQ(-ENOMEM, ask(&last, 'a'));
	EXPECT_EQ(0, ask(&lessee, 'a'));
	EXPECT_EQ(0, ask(&lessee, 'f'));

	EXPECT_EQ(0, ask(&last, 'l'));
	EXPECT_EQ(0, ask(&last, 'a'));
	EXPECT_EQ(-ENOMEM, ask(&lessee, 'a'));
	EXPECT_EQ(0, ask(&lessee, 'u'));
	EXPECT_EQ(0, ask(&lessee, 'a'));
	EXPECT_EQ(0, ask(&self->again, 'a'));
	leave(&lessee);
	leave(&last);
}

TEST_HARNESS_MAIN
