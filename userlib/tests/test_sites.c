// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/* EVPL_TRACE=1: the table says where each reference was taken, until it is released or sent. */
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "../common/sites.h"
#include "connect.h"
#include "message.h"

/* No function that takes references is longer. */
#define FUNCTION_MAX	4096

FIXTURE(sites) {
	struct evpl_pool *pool;
	struct evpl *evpl;
	const struct sites_table *table;
	struct evpl_iovec iovec[PER_SLAB];
};

static const char *backend(void)
{
	const char *env = getenv("EVPL_BACKEND");

	return env ? env : "";
}

/* Maps the table of this process as another process would. Returns NULL if there is none. */
static const struct sites_table *find_table(void)
{
	const struct sites_table *table, *found = NULL;
	char path[64], target[64];

	for (int fd = 0; fd < 256; fd++) {
		struct stat stat;

		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		memset(target, 0, sizeof(target));
		if (readlink(path, target, sizeof(target) - 1) < 0 ||
		    strcmp(target, "/memfd:" SITES_NAME " (deleted)"))
			continue;
		if (fstat(fd, &stat) || stat.st_size != sizeof(*table))
			return NULL;
		table = mmap(NULL, sizeof(*table), PROT_READ, MAP_PRIVATE, fd, 0);
		if (table == MAP_FAILED)
			return NULL;
		if (table->header.magic == SITES_MAGIC && table->header.version == SITES_VERSION &&
		    table->header.pid == (uint32_t)getpid())
			found = table;
	}
	return found;
}

static uint32_t count(const struct sites_table *table)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < table->header.nr_refs; i++)
		n += table->refs[i].used;
	return n;
}

/* Sums up the table. Returns how many sites have references. */
static uint32_t sum_up(const struct sites_table *table, struct sites_sum *sums)
{
	uint32_t n = table->header.nr_refs;
	struct sites_ref *refs = malloc((n + 1) * sizeof(*refs));

	memcpy(refs, table->refs, n * sizeof(*refs));
	n = sites_sum_up(refs, n, sums);
	free(refs);
	return n;
}

FIXTURE_SETUP(sites)
{
	ASSERT_EQ(0, setenv("EVPL_TRACE", "1", 1));
	ASSERT_EQ(0, open_pool(&self->pool, BUFFER, 2 * SLAB));
	ASSERT_EQ(0, evpl_create(&self->evpl, self->pool, NULL));
	self->table = find_table();
	ASSERT_NE(NULL, self->table);
	EXPECT_EQ(0, count(self->table));
}

FIXTURE_TEARDOWN(sites)
{
	EXPECT_EQ(0, count(self->table));
	EXPECT_EQ(0, self->table->header.lost);
	evpl_destroy(self->evpl);
	EXPECT_EQ(0, evpl_pool_close(self->pool));
}

/* Each of these takes one reference, and isn't left by a jump. */

#define TAKER(name) static __attribute__((noinline, noclone)) int name(struct evpl *evpl,	\
						struct evpl_iovec *iovec, struct evpl_iovec *other)
#define TAKEN(condition) do { bool ok = condition; __asm__ volatile("" : "+r"(other)); \
			      return ok ? 0 : -1; } while (0)

TAKER(by_alloc)
{
	TAKEN(evpl_iovec_alloc(evpl, 1000, 1, 1, iovec) == 1);
}

TAKER(by_private)
{
	TAKEN(evpl_iovec_alloc_flags(evpl, 1000, 1, 1, EVPL_IOVEC_PRIVATE, iovec) == 1);
}

TAKER(by_buffer)
{
	TAKEN(evpl_buffer_alloc(evpl, iovec) == 1);
}

TAKER(by_reserve)
{
	TAKEN(evpl_iovec_reserve(evpl, 1000, 1, 1, iovec) == 1);
}

TAKER(by_waiter)
{
	struct evpl_waiter waiter = { .length = 1000, .max_iovecs = 1, .iovecs = iovec };

	TAKEN(evpl_waiter_alloc(evpl, &waiter) == 1);
}

TAKER(by_addref)
{
	*iovec = *other;
	evpl_iovec_addref(iovec);
	TAKEN(evpl);
}

TAKER(by_clone)
{
	evpl_iovec_clone(iovec, other);
	TAKEN(evpl);
}

TAKER(by_segment)
{
	TAKEN(!evpl_iovec_clone_segment(iovec, other, 10, 20));
}

TAKER(by_split)
{
	TAKEN(!evpl_iovec_split(iovec, other, 100));
}

TAKER(by_from_iovec)
{
	struct iovec plain = { other->data, other->length };

	TAKEN(!evpl_iovec_from_iovec(evpl->pool, iovec, &plain, 1));
}

TAKER(by_wrap)
{
	static char memory[100];

	TAKEN(!evpl_iovec_wrap(iovec, memory, sizeof(memory), NULL, evpl));
}

static __attribute__((noinline, noclone)) int by_recv(struct evpl_channel *channel,
						      struct evpl_message *got)
{
	int ret = evpl_channel_recv(channel, got, 1);

	__asm__ volatile("" : "+r"(got));
	return ret - 1;
}

TAKER(by_kept)
{
	TAKEN(!evpl_pool_kept(evpl->pool, "root", iovec));
}

static int (*const takers[])(struct evpl *evpl, struct evpl_iovec *iovec,
			     struct evpl_iovec *other) = {
	by_alloc, by_private, by_buffer, by_reserve, by_waiter, by_addref, by_clone, by_segment,
	by_split, by_from_iovec, by_wrap,
};

#define NR_TAKERS ((int)(sizeof(takers) / sizeof(takers[0])))

/* The taker that an address is in, which is at most FUNCTION_MAX behind its beginning. */
static void *function_of(uint64_t address)
{
	uint64_t best = FUNCTION_MAX;
	void *found = NULL;

	if (address - (uintptr_t)by_recv < best) {
		best = address - (uintptr_t)by_recv;
		found = by_recv;
	}
	/* The anon back end has no roots, so this one isn't among the others. */
	if (address - (uintptr_t)by_kept < best) {
		best = address - (uintptr_t)by_kept;
		found = by_kept;
	}
	for (int i = 0; i < NR_TAKERS; i++) {
		if (address - (uintptr_t)takers[i] < best) {
			best = address - (uintptr_t)takers[i];
			found = takers[i];
		}
	}
	return found;
}

/* How many references were taken in a function. */
static uint32_t taken_in(const struct sites_table *table, void *function)
{
	/* ThreadSanitizer makes a call of a jump, so there the library comes first. */
	const int first = SANITIZED ? 3 : 1;
	uint32_t n = 0;

	for (uint32_t i = 0; i < table->header.nr_refs; i++) {
		const struct sites_ref *ref = &table->refs[i];
		void *found = NULL;

		for (int j = 0; ref->used && j < first && !found; j++)
			found = function_of(table->sites[ref->site].frames[j]);
		n += found == function;
	}
	return n;
}

TEST_F(sites, each_way_to_take_a_reference_is_seen_where_it_is_called)
{
	for (int i = 0; i < NR_TAKERS; i++) {
		ASSERT_EQ(0, by_alloc(self->evpl, &self->iovec[0], NULL));
		ASSERT_EQ(0, takers[i](self->evpl, &self->iovec[1], &self->iovec[0]));
		EXPECT_EQ(2, count(self->table));
		EXPECT_EQ(i ? 1 : 2, taken_in(self->table, takers[i])) {
			TH_LOG("taker %d", i);
		}
		evpl_iovec_release(&self->iovec[1]);
		evpl_iovec_release(&self->iovec[0]);
		EXPECT_EQ(0, count(self->table));
	}
	evpl_destroy(self->evpl);
	EXPECT_EQ(0, used_in(self->pool));
	ASSERT_EQ(0, evpl_create(&self->evpl, self->pool, NULL));
}

TEST_F(sites, callers_follow_by_frame_pointers)
{
	const struct sites_site *site;
	bool found = false;

	ASSERT_EQ(0, by_alloc(self->evpl, &self->iovec[0], NULL));
	site = &self->table->sites[self->table->refs[0].site];
	/* This test is among them. */
	for (unsigned int i = 1; i < SITES_FRAMES; i++)
		found |= site->frames[i] - (uintptr_t)sites_callers_follow_by_frame_pointers <
			 FUNCTION_MAX;
	EXPECT_TRUE(found);
	evpl_iovec_release(&self->iovec[0]);
}

TEST_F(sites, equal_iovecs_lose_the_oldest_reference_first)
{
	ASSERT_EQ(0, by_alloc(self->evpl, &self->iovec[0], NULL));
	ASSERT_EQ(0, by_addref(self->evpl, &self->iovec[1], &self->iovec[0]));
	evpl_iovec_addref(&self->iovec[0]);
	EXPECT_EQ(3, count(self->table));
	evpl_iovec_release(&self->iovec[1]);
	EXPECT_EQ(0, taken_in(self->table, by_alloc));
	EXPECT_EQ(1, taken_in(self->table, by_addref));
	/* One that is taken now comes after the others. */
	ASSERT_EQ(0, by_addref(self->evpl, &self->iovec[1], &self->iovec[0]));
	evpl_iovec_release(&self->iovec[1]);
	evpl_iovec_release(&self->iovec[0]);
	EXPECT_EQ(1, count(self->table));
	EXPECT_EQ(1, taken_in(self->table, by_addref));
	evpl_iovec_release(&self->iovec[0]);
}

TEST_F(sites, clones_are_told_apart)
{
	ASSERT_EQ(0, by_alloc(self->evpl, &self->iovec[0], NULL));
	ASSERT_EQ(0, by_clone(self->evpl, &self->iovec[1], &self->iovec[0]));
	evpl_iovec_release(&self->iovec[1]);
	EXPECT_EQ(1, taken_in(self->table, by_alloc));
	ASSERT_EQ(0, by_clone(self->evpl, &self->iovec[1], &self->iovec[0]));
	evpl_iovec_release(&self->iovec[0]);
	EXPECT_EQ(0, taken_in(self->table, by_alloc));
	EXPECT_EQ(1, taken_in(self->table, by_clone));
	evpl_iovec_release(&self->iovec[1]);
}

TEST_F(sites, an_iovec_may_be_copied_moved_and_shortened)
{
	ASSERT_EQ(0, by_alloc(self->evpl, &self->iovec[0], NULL));
	EXPECT_EQ(0, evpl_iovec_advance(&self->iovec[0], 1000));
	evpl_iovec_move(&self->iovec[1], &self->iovec[0]);
	self->iovec[2] = self->iovec[1];
	evpl_iovec_release(&self->iovec[0]);
	EXPECT_EQ(1, count(self->table));
	evpl_iovec_release(&self->iovec[2]);
	EXPECT_EQ(0, count(self->table));
}

TEST_F(sites, a_commit_shortens_and_releases)
{
	const struct sites_ref *refs = self->table->refs;

	ASSERT_EQ(3, evpl_iovec_reserve(self->evpl, 3 * BUFFER, 1, 3, self->iovec));
	EXPECT_EQ(3, count(self->table));
	ASSERT_EQ(2, evpl_iovec_commit(self->evpl, self->iovec, 3, BUFFER + 10));
	EXPECT_EQ(2, count(self->table));
	for (uint32_t i = 0; i < self->table->header.nr_refs; i++)
		EXPECT_TRUE(!refs[i].used || refs[i].length == BUFFER || refs[i].length == 10);
	evpl_iovecs_release(self->iovec, 2);
	ASSERT_EQ(1, evpl_iovec_reserve(self->evpl, 1000, 1, 1, self->iovec));
	EXPECT_EQ(0, evpl_iovec_commit(self->evpl, self->iovec, 1, 0));
}

static void *release_burst(void *arg)
{
	evpl_iovecs_release(arg, PER_SLAB);
	return NULL;
}

TEST_F(sites, a_burst_is_released_on_another_thread)
{
	for (unsigned int i = 0; i < PER_SLAB - 1; i++)
		ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, 1000, 1, 1, &self->iovec[i]));
	self->iovec[PER_SLAB - 1] = self->iovec[0];
	evpl_iovec_addref(&self->iovec[0]);
	EXPECT_EQ(PER_SLAB, count(self->table));
	on_thread(release_burst, self->iovec);
	EXPECT_EQ(1, used_in(self->pool));	/* the context's own */
}

TEST_F(sites, a_thousandth_of_a_buffer_pins_all_of_it)
{
	static struct sites_sum sums[SITES_MAX];

	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, 64, 1, 1, &self->iovec[0]));
	ASSERT_EQ(1, sum_up(self->table, sums));
	EXPECT_EQ(1, sums[0].refs);
	EXPECT_EQ(64, sums[0].bytes);
	EXPECT_EQ(BUFFER, sums[0].pinned);
	EXPECT_EQ(1024, sites_amplification(&sums[0]));

	/* More slices of a buffer pin no more; and two sites may pin the same one. */
	for (int i = 1; i < 4; i++)
		ASSERT_EQ(0, by_alloc(self->evpl, &self->iovec[i], NULL));
	ASSERT_EQ(0, by_buffer(self->evpl, &self->iovec[4], NULL));
	ASSERT_EQ(0, by_buffer(self->evpl, &self->iovec[5], NULL));
	ASSERT_EQ(4, sum_up(self->table, sums));
	evpl_iovecs_release(self->iovec, 6);
}

static int use_in_child(void *arg)
{
	FIXTURE_DATA(sites) *self = arg;
	const struct sites_table *table;
	struct evpl_pool *pool;
	struct evpl_iovec iovec;
	struct evpl *evpl;

	evpl_iovec_release(&self->iovec[0]);
	evpl_iovec_addref(&self->iovec[0]);
	if (evpl_iovec_alloc(self->evpl, 1, 1, 1, &iovec) != -EPERM ||
	    evpl_pool_close(self->pool) != -EPERM || find_table())
		return 1;
	if (open_pool(&pool, BUFFER, SLAB) || evpl_create(&evpl, pool, NULL))
		return 2;
	table = find_table();
	if (!table || by_alloc(evpl, &iovec, NULL) || taken_in(table, by_alloc) != 1)
		return 3;
	evpl_iovec_release(&iovec);
	evpl_destroy(evpl);
	return evpl_pool_close(pool) || count(table) ? 4 : 0;
}

TEST_F(sites, a_child_has_a_table_of_its_own)
{
	ASSERT_EQ(0, by_alloc(self->evpl, &self->iovec[0], NULL));
	EXPECT_EQ(0, status_of(use_in_child, self));
	EXPECT_EQ(1, count(self->table));
	evpl_iovec_release(&self->iovec[0]);
}

TEST_F(sites, others_cannot_change_the_table)
{
	char path[64], target[64];
	int checked = 0;

	for (int fd = 0; fd < 256; fd++) {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		memset(target, 0, sizeof(target));
		if (readlink(path, target, sizeof(target) - 1) < 0 || !strstr(target, SITES_NAME))
			continue;
		EXPECT_EQ(-1, ftruncate(fd, 0));
		EXPECT_EQ(EPERM, errno);
		EXPECT_EQ(MAP_FAILED, mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
		EXPECT_EQ(EPERM, errno);
		checked++;
	}
	EXPECT_EQ(1, checked);
}

static void *take_and_release(void *arg)
{
	struct evpl_iovec iovec[8];
	struct evpl_pool *pool = arg;
	struct evpl *evpl;

	if (evpl_create(&evpl, pool, NULL))
		abort();
	for (int i = 0; i < (few() ? 200 : 5000); i++) {
		for (int j = 0; j < 8; j++)
			if (by_alloc(evpl, &iovec[j], NULL))
				abort();
		evpl_iovec_addref(&iovec[0]);
		evpl_iovecs_release(iovec, 8);
		evpl_iovec_release(&iovec[0]);
	}
	evpl_destroy(evpl);
	return NULL;
}

TEST_F(sites, threads_take_and_release_at_the_same_time)
{
	pthread_t threads[3];

	for (int i = 0; i < 3; i++)
		ASSERT_EQ(0, pthread_create(&threads[i], NULL, take_and_release, self->pool));
	for (int i = 0; i < 3; i++)
		ASSERT_EQ(0, pthread_join(threads[i], NULL));
	EXPECT_EQ(0, count(self->table));
	/* The numbers are used again, and all of this is few sites. */
	EXPECT_GE(3 * 9, self->table->header.nr_refs);
	EXPECT_GE(8, self->table->header.nr_sites);
}

/* The text that a child prints on stderr. Its exit status must be 0. */
static bool child_says(int (*function)(void *arg), void *arg, char *text, size_t size)
{
	size_t got = 0;
	int pipefd[2], status;
	ssize_t n;
	pid_t child;

	if (pipe(pipefd))
		return false;
	child = fork();
	if (!child) {
		dup2(pipefd[1], STDERR_FILENO);
		close(pipefd[0]);
		exit(function(arg));
	}
	close(pipefd[1]);
	while ((n = read(pipefd[0], text + got, size - 1 - got)) > 0)
		got += (size_t)n;
	text[got] = 0;
	close(pipefd[0]);
	return waitpid(child, &status, 0) == child && !status;
}

static int leave_a_reference(void *arg)
{
	struct evpl_iovec iovec, other;
	struct evpl_pool *pool;
	struct evpl *evpl;

	if (open_pool(&pool, BUFFER, SLAB) || evpl_create(&evpl, pool, NULL) ||
	    by_alloc(evpl, &iovec, NULL) || by_alloc(evpl, &other, NULL))
		return 1;
	evpl_iovec_release(&other);
	if (arg)
		return 0;
	evpl_destroy(evpl);
	if (evpl_pool_close(pool) != -EBUSY)
		return 2;
	evpl_iovec_release(&iovec);
	return evpl_pool_close(pool);
}

TEST(a_pool_that_cannot_be_closed_says_where_its_references_were_taken)
{
	char text[8192];

	ASSERT_EQ(0, setenv("EVPL_TRACE", "1", 1));
	ASSERT_TRUE(child_says(leave_a_reference, NULL, text, sizeof(text)));
	EXPECT_NE(NULL, strstr(text, "evpl_pool_close(): the program has 1 reference left"));
	EXPECT_NE(NULL, strstr(text, "1 reference of 1000 bytes, pinning 1 buffer of 65536: 65 times"));
	EXPECT_NE(NULL, strstr(text, "test_sites+0x"));
	EXPECT_EQ(NULL, strstr(text, "at exit"));
}

TEST(references_that_are_left_at_exit_are_shown)
{
	char text[8192];

	ASSERT_EQ(0, setenv("EVPL_TRACE", "1", 1));
	/* A sanitizer finds that memory is left too. */
	ASSERT_TRUE(child_says(leave_a_reference, text, text, sizeof(text)) || SANITIZED);
	EXPECT_NE(NULL, strstr(text, "at exit: the program has 1 reference left"));
}

static int leave_a_context(void *arg)
{
	struct evpl_pool *pool;
	struct evpl *evpl;

	if (open_pool(&pool, BUFFER, SLAB) || evpl_create(&evpl, pool, NULL) ||
	    evpl_pool_close(pool) != -EBUSY)
		return 1;
	evpl_destroy(evpl);
	return evpl_pool_close(pool);
}

TEST(a_pool_that_is_in_use_without_references_says_so)
{
	char text[8192];

	ASSERT_EQ(0, setenv("EVPL_TRACE", "1", 1));
	ASSERT_TRUE(child_says(leave_a_context, NULL, text, sizeof(text)));
	EXPECT_NE(NULL, strstr(text, "has no reference of it"));
}

TEST(nothing_is_traced_unless_the_environment_asks)
{
	static const char *const values[] = { NULL, "", "0" };
	char text[8192];

	for (int i = 0; i < 3; i++) {
		ASSERT_EQ(0, values[i] ? setenv("EVPL_TRACE", values[i], 1) :
			     unsetenv("EVPL_TRACE"));
		ASSERT_TRUE(child_says(leave_a_reference, NULL, text, sizeof(text)));
		EXPECT_STREQ("", text);
	}
}

TEST_F(sites, a_full_table_counts_what_it_lacks)
{
	uint64_t *lost = (uint64_t *)&self->table->header.lost;

	if (few())
		SKIP(return, "too slow here");
	ASSERT_EQ(0, by_alloc(self->evpl, &self->iovec[0], NULL));
	for (uint32_t i = 1; i < SITES_REFS_MAX; i++)
		evpl_iovec_addref(&self->iovec[0]);
	EXPECT_EQ(0, *lost);
	EXPECT_EQ(SITES_REFS_MAX, count(self->table));
	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, 1000, 1, 1, &self->iovec[1]));
	evpl_iovec_addref(&self->iovec[1]);
	EXPECT_EQ(1, *lost);
	evpl_iovec_release(&self->iovec[1]);
	evpl_iovec_release(&self->iovec[1]);
	EXPECT_EQ(SITES_REFS_MAX, count(self->table));
	for (uint32_t i = 0; i < SITES_REFS_MAX; i++)
		evpl_iovec_release(&self->iovec[0]);
	EXPECT_EQ(0, count(self->table));
	/* There is room again. */
	ASSERT_EQ(0, by_alloc(self->evpl, &self->iovec[0], NULL));
	EXPECT_EQ(1, count(self->table));
	evpl_iovec_release(&self->iovec[0]);
	EXPECT_EQ(1, *lost);
	evpl_destroy(self->evpl);
	ASSERT_EQ(0, evpl_pool_close(self->pool));
	_exit(0);	/* the teardown wants nothing lost */
}

TEST_F(sites, a_send_without_a_copy_holds_references_of_its_own)
{
	struct evpl_zerocopy *zerocopy;
	int sockets[2], left = 1;
	char bytes[1000];

	ASSERT_TRUE(connect_pair(sockets));
	ASSERT_EQ(0, evpl_zerocopy_create(&zerocopy, sockets[0]));
	ASSERT_EQ(0, by_alloc(self->evpl, &self->iovec[0], NULL));
	ASSERT_EQ(1000, evpl_zerocopy_send(zerocopy, self->iovec, 1, 0));
	EXPECT_EQ(2, count(self->table));
	evpl_iovec_release(&self->iovec[0]);
	EXPECT_EQ(0, taken_in(self->table, by_alloc));
	ASSERT_EQ(1000, recv(sockets[1], bytes, 1000, MSG_WAITALL));
	while (left > 0) {
		left = evpl_zerocopy_reap(zerocopy);
		poll(NULL, 0, 1);
	}
	EXPECT_EQ(0, left);
	EXPECT_EQ(0, count(self->table));
	EXPECT_EQ(0, evpl_zerocopy_destroy(zerocopy));
	close(sockets[0]);
	close(sockets[1]);
}

/* Two pools of this process, and a channel or a lane between them. */
FIXTURE(between) {
	struct evpl_pool *pool, *other_pool;
	struct evpl *evpl, *other;
	struct evpl_channel *channel, *other_channel;
	const struct sites_table *table;
};

FIXTURE_VARIANT(between) {
	unsigned int flags;
};

FIXTURE_VARIANT_ADD(between, channel) {
	.flags = 0,
};

FIXTURE_VARIANT_ADD(between, lane) {
	.flags = EVPL_CHANNEL_LANE,
};

FIXTURE_SETUP(between)
{
	struct evpl_pool_config config = {
		.size = sizeof(config),
		.buffer_size = BUFFER,
		.slab_size_max = SLAB,
		.max_bytes = 4 * SLAB,
		.flags = EVPL_POOL_ZEROS,
	};
	struct evpl_message got;
	int peer;

	if (strcmp(backend(), "module"))
		SKIP(return, "the module's alone");
	ASSERT_EQ(0, setenv("EVPL_TRACE", "1", 1));
	ASSERT_EQ(0, evpl_pool_open(&self->pool, &config));
	ASSERT_EQ(0, evpl_pool_open(&self->other_pool, &config));
	ASSERT_EQ(0, evpl_create(&self->evpl, self->pool, NULL));
	ASSERT_EQ(0, evpl_create(&self->other, self->other_pool, NULL));
	ASSERT_EQ(0, evpl_channel_create(&self->channel, self->pool, 64, variant->flags, &peer));
	ASSERT_EQ(0, evpl_channel_bind(&self->other_channel, self->other_pool, peer,
				       variant->flags));
	/* A lane's ends find each other. */
	ASSERT_EQ(-EAGAIN, evpl_channel_recv(self->channel, &got, 1));
	ASSERT_EQ(-EAGAIN, evpl_channel_recv(self->other_channel, &got, 1));
	ASSERT_EQ(-EAGAIN, evpl_channel_recv(self->channel, &got, 1));
	self->table = find_table();
	ASSERT_NE(NULL, self->table);
	EXPECT_EQ(0, count(self->table));
}

FIXTURE_TEARDOWN(between)
{
	if (!self->pool)
		return;
	EXPECT_EQ(0, count(self->table));
	evpl_channel_close(self->channel);
	evpl_channel_close(self->other_channel);
	evpl_destroy(self->evpl);
	evpl_destroy(self->other);
	EXPECT_EQ(0, evpl_pool_close(self->other_pool));
	EXPECT_EQ(0, evpl_pool_close(self->pool));
	EXPECT_EQ(0, count(self->table));
}

TEST_F(between, what_is_sent_is_the_receivers)
{
	struct evpl_message sent, got;

	for (int i = 0; i < 100; i++) {
		sent = allocate(self->evpl, 1000, (char)i);
		EXPECT_EQ(1, count(self->table));
		ASSERT_EQ(0, evpl_channel_send(self->channel, &sent, 1));
		EXPECT_EQ(0, count(self->table));
		ASSERT_EQ(0, by_recv(self->other_channel, &got));
		EXPECT_EQ(1, count(self->table));
		EXPECT_EQ(1, taken_in(self->table, by_recv));
		EXPECT_TRUE(is_filled(&got.iovec, (char)i));
		evpl_iovec_addref(&got.iovec);
		EXPECT_EQ(2, count(self->table));
		evpl_iovec_release(&got.iovec);
		evpl_iovec_release(&got.iovec);
		EXPECT_EQ(0, count(self->table));
	}
}

TEST_F(between, a_root_is_no_reference_of_the_program_until_it_is_looked_up)
{
	struct evpl_iovec iovec;

	ASSERT_EQ(0, by_alloc(self->evpl, &iovec, NULL));
	ASSERT_EQ(0, evpl_pool_keep(self->pool, "root", &iovec));
	EXPECT_EQ(1, count(self->table));
	evpl_iovec_release(&iovec);
	EXPECT_EQ(0, count(self->table));
	ASSERT_EQ(0, by_kept(self->evpl, &iovec, NULL));
	EXPECT_EQ(1, count(self->table));
	EXPECT_EQ(1, taken_in(self->table, by_kept));
	EXPECT_EQ(0, evpl_pool_forget(self->pool, "root"));
	evpl_iovec_release(&iovec);
}

TEST_F(between, a_received_slice_pins_its_senders_buffer)
{
	static struct sites_sum sums[SITES_MAX];
	struct evpl_message sent, got;

	for (int i = 0; i < 3; i++) {
		sent = allocate(self->evpl, 64, 'x');
		ASSERT_EQ(0, evpl_channel_send(self->channel, &sent, 1));
		ASSERT_EQ(0, by_recv(self->other_channel, &got));
		ASSERT_EQ(1, sum_up(self->table, sums));
		EXPECT_EQ(BUFFER, sums[0].pinned);
		EXPECT_EQ(64, sums[0].bytes);
		evpl_iovec_release(&got.iovec);
	}
}

TEST_F(between, a_send_that_fails_leaves_the_references)
{
	struct evpl_message sent = allocate(self->evpl, 64, 'x'), bad = sent;

	bad.flags = 1U << 31;
	EXPECT_EQ(-EOPNOTSUPP, evpl_channel_send(self->channel, &bad, 1));
	EXPECT_EQ(1, count(self->table));
	evpl_iovec_release(&sent.iovec);
}

TEST_F(between, a_received_buffer_is_sent_back)
{
	struct evpl_message message = allocate(self->evpl, 64, 'x');

	for (int i = 0; i < 10; i++) {
		ASSERT_EQ(0, evpl_channel_send(self->channel, &message, 1));
		ASSERT_EQ(0, by_recv(self->other_channel, &message));
		ASSERT_EQ(0, evpl_channel_send(self->other_channel, &message, 1));
		EXPECT_EQ(0, count(self->table));
		ASSERT_EQ(0, by_recv(self->channel, &message));
		EXPECT_EQ(1, count(self->table));
	}
	evpl_iovec_release(&message.iovec);
}

TEST_F(between, what_is_exported_is_no_reference_of_the_program)
{
	struct evpl_message message = allocate(self->evpl, PAGE, 'x');
	int fd;

	EXPECT_EQ(-EINVAL, evpl_iovec_export(&message.iovec, 0, 0));
	EXPECT_EQ(1, count(self->table));
	fd = evpl_iovec_export(&message.iovec, 1, 0);
	if (fd < 0)
		evpl_iovec_release(&message.iovec);
	else
		close(fd);
	EXPECT_EQ(0, count(self->table));
}

TEST_HARNESS_MAIN
