// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * A storm of kills: a process keeps, replaces and forgets roots, and is killed at any moment. The
 * next one adopts its pool. For each root it finds the state before the last call or the one after
 * it, and nothing else. Then it goes on, until it is killed too.
 *
 * A log in shared memory tells for each root which state a call was about to make, and which one
 * the last call that returned has made. A state is a number that goes up, or 0 for no root. All
 * bytes of a slice follow from its root and its state.
 */
#include <stdarg.h>
#include <sys/mman.h>
#include <time.h>

#include "counters.h"
#include "supervisor.h"

#define STEP		0x9e3779b97f4a7c15ULL

enum {
	ROOTS = 40,		/* more than a block has records for, where a page is 4 KiB */
	HELD = 10,		/* slices that the process has besides */
	OPERATIONS = 60,	/* until a kill, at most */
};

/* The parent and all processes see this, also after a death. */
static struct log {
	struct {
		_Atomic uint64_t begun, done;
	} roots[ROOTS];
	_Atomic uint64_t operations;	/* all that were ever begun */
	_Atomic uint64_t kept, forgotten, found_old, found_new;
	uint64_t state;			/* the last one that was given out */
	char error[200];
} *shared;

static uint64_t random_state;

static unsigned int below(unsigned int bound)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (unsigned int)(random_state * 0x2545f4914f6cdd1dULL >> 33) % bound;
}

static int fail(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(shared->error, sizeof(shared->error), format, args);
	va_end(args);
	return 1;
}

static const char *name_of(unsigned int root)
{
	static char name[EVPL_NAME_MAX + 1];

	snprintf(name, sizeof(name), "root %u", root);
	return name;
}

/* The word at a place of a slice; the first one is the state itself. */
static uint64_t word_at(unsigned int root, uint64_t state, unsigned int i)
{
	return i ? (state * ROOTS + root + i) * STEP : state;
}

static void fill(const struct evpl_iovec *iovec, unsigned int root, uint64_t state)
{
	uint64_t *words = iovec->data;
	unsigned int i;

	for (i = 0; i < iovec->length / 8; i++)
		words[i] = word_at(root, state, i);
}

/* The state that a slice has, or 0 if it isn't whole. */
static uint64_t state_of(const struct evpl_iovec *iovec, unsigned int root)
{
	const uint64_t *words = iovec->data;
	unsigned int i;

	for (i = 0; i < iovec->length / 8; i++)
		if (words[i] != word_at(root, words[0], i))
			return 0;
	return words[0];
}

/* Finds what the last process has left. Returns 0, or 1 with an error. */
static int check_root(struct evpl_pool *pool, unsigned int root, struct evpl_iovec *iovec)
{
	uint64_t begun = shared->roots[root].begun, done = shared->roots[root].done, state = 0;
	int err = evpl_pool_kept(pool, name_of(root), iovec);

	if (err && err != -ENOENT)
		return fail("%s: %d", name_of(root), err);
	if (!err) {
		state = state_of(iovec, root);
		if (!state)
			return fail("%s isn't whole", name_of(root));
	}
	if (state != begun && state != done)
		return fail("%s has state %llu, neither %llu nor %llu", name_of(root),
			    (unsigned long long)state, (unsigned long long)done,
			    (unsigned long long)begun);
	if (begun != done)
		atomic_fetch_add(state == begun ? &shared->found_new : &shared->found_old, 1);
	shared->roots[root].begun = state;
	shared->roots[root].done = state;
	return state ? 0 : -1;
}

/* Checks all roots, and that their buffers are all that is in use, with no reference too many. */
static int check_pool(struct evpl_pool *pool)
{
	struct evpl_pool_stats stats = stats_of(pool);
	struct evpl_iovec iovecs[ROOTS];
	unsigned int root, other, buffers = pool->roots.dir.nr_blocks, n = 0;
	uint64_t same;
	int ret;

	for (root = 0; root < ROOTS; root++) {
		ret = check_root(pool, root, &iovecs[n]);
		if (ret > 0)
			return ret;
		n += !ret;
	}
	for (root = 0; root < n; root++) {
		same = 0;
		for (other = 0; other < n; other++)
			if (iovec_entry(&iovecs[other]) == iovec_entry(&iovecs[root])) {
				buffers += other == root && !same;
				same++;
			}
		/* Each root has one, and so has this function. */
		if (word_of(&iovecs[root]) != 2 * same)
			return fail("%llu references where there should be %llu",
				    (unsigned long long)word_of(&iovecs[root]),
				    (unsigned long long)(2 * same));
	}
	evpl_iovecs_release(iovecs, (int)n);
	if (stats.roots != n || stats.roots_broken)
		return fail("%llu roots of %u, %llu broken", (unsigned long long)stats.roots, n,
			    (unsigned long long)stats.roots_broken);
	if (stats.buffers_used != buffers)
		return fail("%llu buffers in use, and not %u",
			    (unsigned long long)stats.buffers_used, buffers);
	return 0;
}

/* Keeps a new slice. Some of them are whole buffers, and some are in one buffer with others. */
static int keep(struct evpl_pool *pool, struct evpl *evpl, unsigned int root,
		struct evpl_iovec *slice)
{
	unsigned int length = below(4) ? 8 * (1 + below(60)) : 8 * (1 + below(PAGE / 8));
	uint64_t state = ++shared->state;

	if (evpl_iovec_alloc(evpl, length, 0, 1, slice) != 1)
		return fail("no memory for %u bytes", length);
	fill(slice, root, state);
	atomic_store(&shared->roots[root].begun, state);
	if (evpl_pool_keep(pool, name_of(root), slice))
		return fail("%s can't be kept", name_of(root));
	atomic_store(&shared->roots[root].done, state);
	shared->kept++;
	return 0;
}

static int forget(struct evpl_pool *pool, unsigned int root)
{
	bool there = shared->roots[root].done;
	int err;

	atomic_store(&shared->roots[root].begun, 0);
	err = evpl_pool_forget(pool, name_of(root));
	if (err != (there ? 0 : -ENOENT))
		return fail("%s can't be forgotten: %d", name_of(root), err);
	atomic_store(&shared->roots[root].done, 0);
	shared->forgotten++;
	return 0;
}

/* The life of a process, until it is killed. Returns only after an error. */
static int work(struct evpl_pool *pool)
{
	struct evpl_iovec held[HELD] = { 0 };
	struct evpl *evpl;
	unsigned int i;

	if (check_pool(pool))
		return 1;
	if (evpl_create(&evpl, pool, NULL))
		return fail("no context");
	for (;;) {
		atomic_fetch_add(&shared->operations, 1);
		if (!below(4)) {
			if (forget(pool, below(ROOTS)))
				return 1;
			continue;
		}
		i = below(HELD);
		evpl_iovec_release(&held[i]);
		held[i] = (struct evpl_iovec){ 0 };
		if (keep(pool, evpl, below(ROOTS), &held[i]))
			return 1;
	}
}

static int adopt_small(struct evpl_pool **pool, const struct supervisor *supervisor)
{
	struct evpl_pool_config config = {
		.size = sizeof(config),
		.buffer_size = PAGE,
		.slab_size_max = SLAB,
		.max_bytes = 2 * SLAB,
	};

	return evpl_pool_adopt(pool, dup(supervisor->client), &config);
}

static void run_child(const struct supervisor *supervisor)
{
	struct evpl_pool *pool;
	int err;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	err = adopt_small(&pool, supervisor);
	if (err)
		fail("adopting: %d, %s", err, evpl_last_error());
	else
		work(pool);
	_exit(1);
}

FIXTURE(adopt_storm) {
	struct supervisor supervisor;
	char before[512];
};

FIXTURE_SETUP(adopt_storm)
{
	const char *seed = getenv("EVPL_SEED");

	read_counters(self->before);
	if (supervisor_open(&self->supervisor))
		SKIP(return, "the module's alone");
	ASSERT_NE('\0', self->before[0]) {
		TH_LOG("can't read " COUNTERS);
	}
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		      -1, 0);
	ASSERT_NE(MAP_FAILED, shared);
	random_state = seed ? strtoull(seed, NULL, 0) : (uint64_t)time(NULL);
	TH_LOG("EVPL_SEED=%llu", (unsigned long long)random_state);
	random_state = random_state * STEP | 1;
}

/* The memory of the client is freed with it, some of it later. */
FIXTURE_TEARDOWN(adopt_storm)
{
	char now[512];

	close(self->supervisor.client);
	counters_return_to(self->before, now);
	EXPECT_STREQ(self->before, now);
}

TEST_F(adopt_storm, a_successor_finds_the_old_root_or_the_new_one_and_all_else_free)
{
	const char *percent = getenv("EVPL_TEST_PERCENT");
	int kills = 200 * (percent ? atoi(percent) : 100) / 100, i, status;
	struct evpl_pool *pool;
	uint64_t until;
	pid_t child;

	for (i = 0; i < (kills ? kills : 1); i++) {
		below(1);	/* each child has other numbers */
		until = shared->operations + below(OPERATIONS);
		child = fork();
		ASSERT_LE(0, child);
		if (!child)
			run_child(&self->supervisor);
		/* Some die before they have adopted the pool, or while they do. */
		if (!below(8))
			until = 0;
		while (shared->operations < until && !waitpid(child, &status, WNOHANG))
			sched_yield();
		kill(child, SIGKILL);
		waitpid(child, &status, 0);
		ASSERT_STREQ("", shared->error) {
			TH_LOG("after %d kills", i);
		}
	}
	TH_LOG("%d kills; %llu roots kept, %llu forgotten; killed in a call: %llu left the old state, %llu the new one",
	       i, (unsigned long long)shared->kept, (unsigned long long)shared->forgotten,
	       (unsigned long long)shared->found_old, (unsigned long long)shared->found_new);

	ASSERT_EQ(0, adopt_small(&pool, &self->supervisor));
	EXPECT_EQ(0, check_pool(pool));
	EXPECT_STREQ("", shared->error);
	for (i = 0; i < ROOTS; i++)
		EXPECT_EQ(0, forget(pool, (unsigned int)i));
	EXPECT_EQ(pool->roots.dir.nr_blocks, used_in(pool));
	EXPECT_EQ(0, evpl_pool_close(pool));
	EXPECT_LE(1, count_slabs(&self->supervisor));
}

TEST_HARNESS_MAIN
