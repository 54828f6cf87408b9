// SPDX-License-Identifier: GPL-2.0-only
/*
 * Many clients where memory is short: in a memory cgroup at its limit, at the
 * caps, in fragmented memory, on a node that has no more. An allocation that can't
 * be served gives ENOMEM, contents stay whole, and no process is killed. A client that
 * has to wait for memory makes no other client wait.
 */
#include <linux/mempolicy.h>
#include <sys/syscall.h>

#include "fragment.h"

#define CLIENTS			"/sys/kernel/debug/evpl/clients"
#define CGROUP			"/sys/fs/cgroup/evpl-pressure"
#define NODE			"/sys/devices/system/node/node1"

/* The charge for a client that had a small slab, beside the slabs. */
#define OF_CLIENT		(HEADER_PAGE + REFS_PAGE)
#define MAX_SLABS		1024
#define WORKERS			3

/* Users that have no other processes. */
#define FIRST_UID		12345
#define USERS			4

/* A process with a client of its own. Its functions return 0, or an enum failure. */
struct worker {
	int fd;
	int node;		/* the only node that it allocates from, or -1 */
	size_t length;		/* of a slab */
	unsigned int most;	/* slabs at once */
	char *memory;		/* the own window from its start */
	unsigned int nr_slabs;
	uint64_t offsets[MAX_SLABS];
	unsigned int refused;
};

enum failure {
	BAD_SETUP = 1,
	BAD_MAPPING,
	BAD_ERRNO,
	BAD_ZEROES,
	BAD_CONTENTS,
	BAD_FREE,
	NEVER_REFUSED,
	NOT_CHARGED,
	NOT_LET_GO,
	BAD_PARTNER,
};

/*
 * Map the own window. With @by_page, map it at an address where no PMD can map a folio,
 * so that the page tables, once allocated, stay.
 */
static int worker_start(struct worker *worker, bool by_page)
{
	size_t size = worker->most * worker->length;
	struct evpl_setup setup;
	char *hint;

	worker->fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	if (worker->fd < 0 || evpl_setup(worker->fd, 0, &setup))
		return BAD_SETUP;
	if (!by_page) {
		worker->memory = evpl_map(worker->fd, size, 0);
		return worker->memory == MAP_FAILED ? BAD_MAPPING : 0;
	}
	hint = mmap(NULL, size + 2 * SLAB_2M, PROT_NONE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (hint == MAP_FAILED)
		return BAD_MAPPING;
	hint += (-(uintptr_t)hint & (SLAB_2M - 1)) + PAGE;
	worker->memory = mmap(hint, size, PROT_READ | PROT_WRITE,
			      MAP_SHARED | MAP_FIXED, worker->fd, 0);
	return worker->memory == MAP_FAILED ? BAD_MAPPING : 0;
}

static void bind_to(int node)
{
	unsigned long nodes = 1UL << node;

	syscall(SYS_set_mempolicy, MPOL_BIND, &nodes, 8 * sizeof(nodes));
}

/* Allocate slabs until there are no more, and stamp each of their pages. */
static int worker_fill(struct worker *worker)
{
	int ret = 0;

	while (worker->nr_slabs < worker->most) {
		uint64_t offset;

		if (worker->node >= 0)
			bind_to(worker->node);
		ret = evpl_slab_alloc(worker->fd, worker->length, &offset);
		if (worker->node >= 0)
			syscall(SYS_set_mempolicy, MPOL_DEFAULT, NULL, 0);
		if (ret)
			break;
		worker->offsets[worker->nr_slabs++] = offset;

		for (size_t at = offset; at < offset + worker->length; at += PAGE) {
			size_t *word = (size_t *)(worker->memory + at);

			if (*word)
				return BAD_ZEROES;
			*word = at + getpid();
		}
	}
	if (ret && ret != -ENOMEM)
		return BAD_ERRNO;
	if (ret)
		worker->refused++;
	return 0;
}

/* Check and free slabs until only so many are left. */
static int worker_drain(struct worker *worker, unsigned int left)
{
	while (worker->nr_slabs > left) {
		uint64_t offset = worker->offsets[--worker->nr_slabs];

		for (size_t at = offset; at < offset + worker->length; at += PAGE)
			if (*(size_t *)(worker->memory + at) != at + getpid())
				return BAD_CONTENTS;
		if (evpl_slab_free(worker->fd, offset))
			return BAD_FREE;
	}
	return 0;
}

static int worker_rounds(struct worker *worker, int rounds)
{
	int failure = 0;

	for (int i = 0; i < rounds && !failure; i++) {
		failure = worker_fill(worker);
		if (!failure)
			failure = worker_drain(worker, worker->nr_slabs / 2);
	}
	return failure ?: worker_drain(worker, 0);
}

FIXTURE(pressure)
{
	struct counters before;
	unsigned long long max_bytes, max_bytes_per_user;
	long long oom_kills;
};

FIXTURE_SETUP(pressure)
{
	limit_sleeps();
	self->before = read_counters();
	self->oom_kills = number_in("/proc/vmstat", "oom_kill");
	self->max_bytes = read_number(MAX_BYTES);
	self->max_bytes_per_user = read_number(MAX_BYTES_PER_USER);
	ASSERT_NE(0, self->max_bytes);
	ASSERT_NE(0, self->max_bytes_per_user);
}

FIXTURE_TEARDOWN(pressure)
{
	EXPECT_EQ(0, write_number(MAX_BYTES, self->max_bytes));
	EXPECT_EQ(0, write_number(MAX_BYTES_PER_USER, self->max_bytes_per_user));
	EXPECT_TRUE(counters_return_to(self->before));
	EXPECT_EQ(self->oom_kills, number_in("/proc/vmstat", "oom_kill"));
}

static void check_workers(struct __test_metadata *_metadata, const pid_t *pids,
			  int nr)
{
	for (int i = 0; i < nr; i++)
		EXPECT_EQ(0, reap(pids[i]));
}

/*
 * Page tables are charged to the cgroup too, and unlike slabs they may cost a process its
 * life. So allocate them, and all else that a worker touches, before it joins the cgroup.
 * Lock all of it too: the text of this program and of libc can be reclaimed, and would be
 * charged to the cgroup of the process that touches it next.
 */
static int work_in_cgroup(void)
{
	unsigned int rounds = scaled(10);
	static struct worker worker = { .node = -1, .length = SLAB_2M, .most = 24 };
	int failure;

	if (mlockall(MCL_CURRENT))
		return BAD_SETUP;
	failure = worker_start(&worker, true) ?: worker_rounds(&worker, 1);
	if (failure)
		return failure;
	if (worker.refused)
		return BAD_SETUP;
	/* Write to this page too: its copy on the first write would find no room in the cgroup. */
	*(volatile unsigned int *)&worker.refused = 0;
	if (write_number(CGROUP "/cgroup.procs", getpid()))
		return BAD_SETUP;
	failure = worker_rounds(&worker, rounds);
	if (failure)
		return failure;
	return worker.refused == rounds ? 0 : NEVER_REFUSED;
}

TEST_F(pressure, cgroup_at_its_limit_refuses_all_its_processes_and_kills_none)
{
	pid_t pids[WORKERS];

	if (mkdir(CGROUP, 0755) && errno != EEXIST)
		SKIP(return, "no cgroup of version 2");
	ASSERT_EQ(0, write_number(CGROUP "/memory.max", 40 * MIB));
	write_string(CGROUP "/memory.swap.max", "0");

	for (int i = 0; i < WORKERS; i++) {
		pids[i] = fork_child();
		if (!pids[i])
			_exit(work_in_cgroup());
	}
	check_workers(_metadata, pids, WORKERS);
	EXPECT_EQ(0, number_in(CGROUP "/memory.events", "oom"));
	EXPECT_EQ(0, number_in(CGROUP "/memory.events", "oom_kill"));
	EXPECT_LT(0, number_in(CGROUP "/memory.events", "max"));
	EXPECT_EQ(0, rmdir(CGROUP));
}

static int become(uid_t uid)
{
	struct stat node;

	return stat(DEVICE, &node) || setgid(node.st_gid) || setuid(uid) ?
	       BAD_SETUP : 0;
}

/*
 * A user's two processes share a client, and stop when they get no more slabs. The
 * first slab, with which the entries come, is allocated before the caps are set.
 */
static int work_at_cap(uid_t uid, int ready, int go, int end)
{
	unsigned int rounds = scaled(40);
	static struct worker worker = { .node = -1, .length = SLAB_2M, .most = 64 };
	int failure = become(uid) ?: worker_start(&worker, false);
	pid_t partner;
	char byte;

	worker.most = 1;
	failure = failure ?: worker_rounds(&worker, 1);
	worker.most = 64;
	if (write(ready, "", 1) != 1 || read(go, &byte, 1) != 1)
		return failure ?: BAD_SETUP;

	partner = fork_child();
	failure = failure ?: worker_rounds(&worker, rounds) ?: worker_fill(&worker);
	if (!failure && worker.refused != rounds + 1)
		failure = NEVER_REFUSED;
	/* Wait until the other end is closed. A pipe of its own: @go may still have others' bytes. */
	if (write(ready, "", 1) != 1 || read(end, &byte, 1))
		failure = failure ?: BAD_SETUP;
	failure = failure ?: worker_drain(&worker, 0);
	if (partner && reap(partner))
		failure = failure ?: BAD_PARTNER;
	return failure;
}

/* The bytes of the test's users by the list of clients: of all, and of the one with most. */
static void bytes_of_users(long long *all, long long *greatest)
{
	FILE *file = fopen(CLIENTS, "re");
	long long bytes;
	char line[256];
	unsigned int uid;

	*all = 0;
	*greatest = 0;
	while (file && fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%*d %u %*u %lld", &uid, &bytes) != 2 ||
		    uid < FIRST_UID || uid >= FIRST_UID + USERS)
			continue;
		*all += bytes;
		if (bytes > *greatest)
			*greatest = bytes;
	}
	if (file)
		fclose(file);
}

/* Return how much is charged when none of the users gets any more. */
static long long fill_to_caps(struct __test_metadata *_metadata,
			      long long before, long long of_all, long long of_user)
{
	long long charged, most_charged = 0, most_of_user = 0, all, greatest;
	int ready[2], go[2], end[2], nr_full = 0, samples = 0;
	pid_t pids[USERS];
	char byte;

	ASSERT_EQ(0, pipe2(ready, O_CLOEXEC));
	ASSERT_EQ(0, pipe2(go, O_CLOEXEC));
	ASSERT_EQ(0, pipe2(end, O_CLOEXEC));
	for (int i = 0; i < USERS; i++) {
		pids[i] = fork_child();
		if (!pids[i]) {
			close(end[1]);
			_exit(work_at_cap(FIRST_UID + i, ready[1], go[0], end[0]));
		}
	}
	for (int i = 0; i < USERS; i++)
		ASSERT_EQ(1, read(ready[0], &byte, 1));
	EXPECT_EQ(before + USERS * OF_CLIENT, read_counters().charged);
	ASSERT_EQ(0, write_number(MAX_BYTES, before + of_all));
	ASSERT_EQ(0, write_number(MAX_BYTES_PER_USER, of_user));
	ASSERT_EQ(USERS, write(go[1], "....", USERS));
	ASSERT_EQ(0, fcntl(ready[0], F_SETFL, O_NONBLOCK));
	while (nr_full < 2 * USERS) {
		charged = read_counters().charged - before;
		bytes_of_users(&all, &greatest);
		if (charged > most_charged)
			most_charged = charged;
		if (greatest > most_of_user)
			most_of_user = greatest;
		samples++;
		if (read(ready[0], &byte, 1) == 1)
			nr_full++;
	}
	TH_LOG("%d samples", samples);
	EXPECT_GE(of_all, most_charged);
	EXPECT_GE(of_user, most_of_user + OF_CLIENT);

	charged = read_counters().charged - before;
	bytes_of_users(&all, &greatest);
	EXPECT_EQ(all + USERS * OF_CLIENT, charged);
	EXPECT_GE(of_user, greatest + OF_CLIENT);
	close(end[1]);
	check_workers(_metadata, pids, USERS);
	for (int i = 0; i < 2; i++) {
		close(ready[i]);
		close(go[i]);
	}
	close(end[0]);
	return charged;
}

TEST_F(pressure, users_together_never_have_more_than_the_cap_of_the_system)
{
	const long long cap = 32 * MIB + USERS * OF_CLIENT;
	long long charged = fill_to_caps(_metadata, self->before.charged, cap,
					 24 * MIB);

	EXPECT_EQ(cap, charged);
}

TEST_F(pressure, each_user_never_has_more_than_its_cap_beside_others)
{
	const long long cap = 12 * MIB + OF_CLIENT;
	long long charged = fill_to_caps(_metadata, self->before.charged,
					 64 * MIB, cap);

	EXPECT_EQ(USERS * cap, charged);
}

static int work_with_pipe(uid_t uid)
{
	static struct worker worker = { .node = -1, .length = SLAB_2M, .most = 3 };
	int failure = become(uid) ?: worker_start(&worker, false);
	static char page[PAGE];
	int pipe_fds[2];

	if (failure || pipe(pipe_fds))
		return failure ?: BAD_SETUP;
	for (int i = 0; i < scaled(400); i++) {
		struct iovec held = { .iov_len = PAGE };

		failure = worker_fill(&worker);
		if (failure)
			return failure;
		if (worker.nr_slabs != 2)
			return NOT_LET_GO;
		held.iov_base = worker.memory + worker.offsets[1];
		if (vmsplice(pipe_fds[1], &held, 1, 0) != PAGE)
			return BAD_SETUP;
		failure = worker_drain(&worker, 1) ?: worker_fill(&worker);
		if (failure)
			return failure;
		if (worker.nr_slabs != 1)
			return NOT_CHARGED;
		if (read(pipe_fds[0], page, PAGE) != PAGE)
			return BAD_SETUP;
	}
	return worker_drain(&worker, 0);
}

TEST_F(pressure, what_a_pipe_let_go_of_is_had_again_at_once_beside_others_who_do_the_same)
{
	pid_t pids[USERS];

	ASSERT_EQ(0, write_number(MAX_BYTES_PER_USER, 4 * MIB + OF_CLIENT));
	for (int i = 0; i < USERS; i++) {
		pids[i] = fork_child();
		if (!pids[i])
			_exit(work_with_pipe(FIRST_UID + i));
	}
	check_workers(_metadata, pids, USERS);
}

/*
 * The workers together allocate more than fragment() leaves in whole runs of 2 MiB, and less than
 * is free. A late worker may get whole folios that the others gave back, so count the small folios
 * of all workers.
 */
static int work_in_small_folios(long long *small)
{
	static struct worker worker = { .node = -1, .length = 16 * MIB, .most = 8 };
	int failure = worker_start(&worker, false), rounds = scaled(4);

	for (int i = 0; i < rounds && !failure; i++) {
		failure = worker_fill(&worker);
		__atomic_fetch_add(small, small_folios(worker.fd), __ATOMIC_RELAXED);
		failure = failure ?: worker_drain(&worker, 8);
	}
	return failure ?: worker_drain(&worker, 0);
}

TEST_F(pressure, clients_in_fragmented_memory_do_not_disturb_each_other)
{
	struct fragments fragments;
	long long *small;
	pid_t pids[WORKERS];

	if (!has_huge())
		SKIP(return, "a kernel without large folios");
	small = mmap(NULL, sizeof(*small), PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, small);
	EXPECT_EQ(0, fragment(&fragments));
	for (int i = 0; i < WORKERS; i++) {
		pids[i] = fork_child();
		if (!pids[i])
			_exit(work_in_small_folios(small));
	}
	check_workers(_metadata, pids, WORKERS);
	EXPECT_LT(0, *small);
	munmap(small, sizeof(*small));
	unfragment(&fragments);
}

/* As many buffers as a channel carries, of 4 KiB each. */
#define NR_SENT		EVPL_CHANNEL_CAPACITY_MAX
/* So many buffers are revoked one after the other. */
#define NR_REVOKED	10

/* Make an owner that sends NR_SENT buffers to the other end. Return its client, or -1. */
static int send_all(int ends[2])
{
	size_t refs = NR_SENT * sizeof(struct evpl_entry);
	static struct evpl_record records[NR_SENT];
	int fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	struct evpl_entry *entries;
	struct evpl_setup setup;
	uint64_t offset;

	if (fd < 0 || evpl_setup(fd, PAGE, &setup) ||
	    evpl_slab_alloc(fd, NR_SENT * PAGE, &offset) ||
	    evpl_channel(fd, NR_SENT, ends) || evpl_bind(fd, ends[0]))
		return -1;
	entries = evpl_map(fd, refs, setup.out_refs_offset);
	if (entries == MAP_FAILED)
		return -1;
	for (int i = 0; i < NR_SENT; i++) {
		entries[i].word = 1;
		records[i] = (struct evpl_record){ .offset = i * PAGE, .length = PAGE };
	}
	munmap(entries, refs);
	return evpl_send(ends[0], records, NR_SENT) == NR_SENT ? fd : -1;
}

/* Receive all in one call, in a cgroup that makes its caller sleep when it allocates. */
static int receive_all(int end)
{
	static struct evpl_record records[NR_SENT];
	int fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	struct evpl_setup setup;

	if (fd < 0 || evpl_setup(fd, PAGE, &setup) || evpl_bind(fd, end) ||
	    mlockall(MCL_CURRENT) || write_number(CGROUP "/cgroup.procs", getpid()))
		return BAD_SETUP;
	return evpl_recv(end, records, NR_SENT) == NR_SENT ? 0 : BAD_ERRNO;
}

/* How often a process has slept, or -1 if it isn't in an uninterruptible sleep just now. */
static long long waits_of(pid_t pid)
{
	char path[64];

	if (state_of(pid) != 'D')
		return -1;
	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	return number_in(path, "voluntary_ctxt_switches");
}

/*
 * Revoke some buffers. Return true if the lessee slept in the middle of its call all the
 * while: it had leases still to make, and didn't wake up. If it slept with a lock held, each
 * revoke would have waited for the lock, so this would never return true.
 */
static bool revoked_while_it_sleeps(int fd, pid_t lessee, int *nr_revoked)
{
	long long waits = waits_of(lessee);

	/* Revoke leased buffers only: to revoke another takes no lock of the lessee's. */
	if (waits < 0 || read_counters().leases < *nr_revoked + NR_REVOKED)
		return false;
	for (int i = 0; i < NR_REVOKED; i++)
		if (evpl_revoke(fd, (*nr_revoked)++ * PAGE))
			return false;
	return read_counters().leases < NR_SENT && waits_of(lessee) == waits;
}

TEST_F(pressure, lessee_that_sleeps_for_memory_does_not_hold_its_owner_up)
{
	bool seen = false, ended = false;
	int ends[2], fd, nr_revoked = 0;
	pid_t lessee;

	/*
	 * A process is charged for 64 pages in advance. It sleeps inside a call only if the call
	 * uses these up, and NR_SENT leases don't use up 4 MiB.
	 */
	if (PAGE > 16 * KIB)
		SKIP(return, "a kernel on whose large pages no call is charged enough to sleep");
	if (mkdir(CGROUP, 0755) && errno != EEXIST)
		SKIP(return, "no cgroup of version 2");
	ASSERT_EQ(0, write_number(CGROUP "/memory.high", MIB));
	fd = send_all(ends);
	ASSERT_GE(fd, 0);
	lessee = fork_child();
	if (!lessee) {
		/* Only the parent keeps the owner's client. */
		close(fd);
		_exit(receive_all(ends[1]));
	}
	while (!seen && !ended && nr_revoked + NR_REVOKED <= NR_SENT) {
		siginfo_t info = {};

		ASSERT_EQ(0, waitid(P_PID, lessee, &info, WEXITED | WNOHANG | WNOWAIT));
		ended = info.si_pid;
		seen = revoked_while_it_sleeps(fd, lessee, &nr_revoked);
		usleep(1000);
	}
	EXPECT_TRUE(seen);
	TH_LOG("%d revoked, %lld leases", nr_revoked, read_counters().leases);
	EXPECT_LT(0, number_in(CGROUP "/memory.events", "high"));
	kill(lessee, SIGKILL);
	reap(lessee);
	for (int i = 0; i < 2; i++)
		close(ends[i]);
	close(fd);
	EXPECT_EQ(0, rmdir(CGROUP));
}

/* How many bytes of the node are free. */
static long long node_free(void)
{
	long long kib = 0;
	char line[256];
	FILE *file = fopen(NODE "/meminfo", "re");

	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "Node %*d MemFree: %lld", &kib) == 1)
			break;
	if (file)
		fclose(file);
	return kib * KIB;
}

static int work_without_memory(void)
{
	enum { ROUNDS = 3 };
	static struct worker worker = { .node = 1, .length = 4 * MIB, .most = 200 };
	int failure;

	/* Otherwise this program's text may be reclaimed, and has to come back to that node. */
	if (mlockall(MCL_CURRENT))
		return BAD_SETUP;
	failure = worker_start(&worker, false) ?: worker_rounds(&worker, ROUNDS);
	if (failure)
		return failure;
	return worker.refused == ROUNDS ? 0 : NEVER_REFUSED;
}

/*
 * The clients may allocate only from one node, which runs short: the kernel could kill a
 * process to make room there. All other processes have the rest of the machine.
 */
TEST_F(pressure, clients_that_may_use_only_a_node_without_memory_kill_nobody)
{
	const long long margin = 192 * MIB;
	pid_t pids[WORKERS];
	long long length;
	char *hog;

	if (access(NODE, F_OK))
		SKIP(return, "one NUMA node only");
	ASSERT_EQ(0, write_number(MAX_BYTES, ~0ULL));
	ASSERT_EQ(0, write_number(MAX_BYTES_PER_USER, ~0ULL));

	length = node_free() - margin;
	ASSERT_LT(0, length);
	bind_to(1);
	hog = mmap(NULL, length, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, hog);
	madvise(hog, length, MADV_HUGEPAGE);
	ASSERT_EQ(0, madvise(hog, length, MADV_POPULATE_WRITE));
	syscall(SYS_set_mempolicy, MPOL_DEFAULT, NULL, 0);
	ASSERT_EQ(0, madvise(hog, length, MADV_DONTFORK));

	for (int i = 0; i < WORKERS; i++) {
		pids[i] = fork_child();
		if (!pids[i])
			_exit(work_without_memory());
	}
	check_workers(_metadata, pids, WORKERS);
	munmap(hog, length);
}

TEST_HARNESS_MAIN
