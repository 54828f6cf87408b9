// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Pools that were closed and contexts that were destroyed are refused. The debug build aborts a
 * program that uses them, or that releases a reference which it doesn't hold, and prints where.
 */
#include "common.h"

#include <fcntl.h>

/* Two call sites, at least 256 bytes apart: so names() can tell which of them was printed. */
__attribute__((noinline, aligned(256))) void first_release(struct evpl_iovec *iovec);
__attribute__((noinline, aligned(256))) void second_release(struct evpl_iovec *iovec);

void first_release(struct evpl_iovec *iovec)
{
	evpl_iovec_release(iovec);
	__asm__ volatile("");
}

void second_release(struct evpl_iovec *iovec)
{
	evpl_iovec_release(iovec);
	__asm__ volatile("");
}

/* Calls @crime in a child, which must abort. Returns what the child wrote to stderr. */
static char *last_words(struct __test_metadata *_metadata, void (*crime)(struct evpl *evpl))
{
	static char words[4096];
	struct evpl_pool *pool;
	struct evpl *evpl;
	int fds[2], status;
	ssize_t n, length = 0;
	pid_t child;

	ASSERT_EQ(0, pipe(fds));
	child = fork();
	ASSERT_LE(0, child);
	if (!child) {
		dup2(fds[1], STDERR_FILENO);
		if (open_pool(&pool, BUFFER, SLAB) || evpl_create(&evpl, pool, NULL))
			_exit(1);
		crime(evpl);
		_exit(0);
	}
	close(fds[1]);
	while ((n = read(fds[0], words + length, sizeof(words) - 1 - (size_t)length)) > 0)
		length += n;
	words[length] = 0;
	close(fds[0]);
	ASSERT_EQ(child, waitpid(child, &status, 0));
	EXPECT_TRUE(WIFSIGNALED(status));
	EXPECT_EQ(SIGABRT, WTERMSIG(status));
	return words;
}

static void release_a_whole_buffer_twice(struct evpl *evpl)
{
	struct evpl_iovec iovec;

	if (evpl_buffer_alloc(evpl, &iovec) != 1)
		_exit(1);
	first_release(&iovec);
	second_release(&iovec);
}

static void release_a_slice_twice(struct evpl *evpl)
{
	struct evpl_iovec iovec;

	if (evpl_iovec_alloc(evpl, 100, 0, 1, &iovec) != 1)
		_exit(1);
	first_release(&iovec);
	second_release(&iovec);
}

static void addref_after_release(struct evpl *evpl)
{
	struct evpl_iovec iovec;

	if (evpl_buffer_alloc(evpl, &iovec) != 1)
		_exit(1);
	first_release(&iovec);
	evpl_iovec_addref(&iovec);
}

/* Whether the text has an address within @function. */
static bool names(const char *words, void (*function)(struct evpl_iovec *iovec))
{
	const char *at = words;
	uintptr_t address;

	while ((at = strstr(at, "[0x"))) {
		address = strtoul(at + 1, NULL, 16);
		if (address > (uintptr_t)function && address < (uintptr_t)function + 256)
			return true;
		at++;
	}
	return false;
}

TEST(a_buffer_released_twice_ends_with_both_places)
{
	char *words;

	if (!EVPLMEM_CHECKS)
		SKIP(return, "not a debug build");
	words = last_words(_metadata, release_a_whole_buffer_twice);
	EXPECT_NE(NULL, strstr(words, "released below zero")) TH_LOG("%s", words);
	EXPECT_TRUE(names(words, first_release)) TH_LOG("%s", words);
	EXPECT_TRUE(names(words, second_release)) TH_LOG("%s", words);
}

TEST(a_slice_released_twice_ends_with_both_places)
{
	char *words;

	if (!EVPLMEM_CHECKS)
		SKIP(return, "not a debug build");
	words = last_words(_metadata, release_a_slice_twice);
	EXPECT_NE(NULL, strstr(words, "the context's own")) TH_LOG("%s", words);
	EXPECT_TRUE(names(words, first_release)) TH_LOG("%s", words);
	EXPECT_TRUE(names(words, second_release)) TH_LOG("%s", words);
}

TEST(a_reference_taken_after_the_last_was_released_ends_too)
{
	char *words;

	if (!EVPLMEM_CHECKS)
		SKIP(return, "not a debug build");
	words = last_words(_metadata, addref_after_release);
	EXPECT_NE(NULL, strstr(words, "a reference taken where there was none"));
	EXPECT_TRUE(names(words, first_release)) TH_LOG("%s", words);
}

static void allocate_after_destroy(struct evpl *evpl)
{
	struct evpl_iovec iovec;

	evpl_destroy(evpl);
	evpl_iovec_alloc(evpl, 100, 0, 1, &iovec);
}

static void destroy_twice(struct evpl *evpl)
{
	evpl_destroy(evpl);
	evpl_destroy(evpl);
}

static void destroy_after_close(struct evpl *evpl)
{
	struct evpl_pool *pool = evpl->pool;

	evpl_destroy(evpl);
	evpl_pool_close(pool);
	evpl_destroy(evpl);
}

/* In other builds the new context gets the memory of the destroyed one. */
static void destroy_one_whose_memory_is_free(struct evpl *evpl)
{
	struct evpl *other;

	evpl_destroy(evpl);
	if (evpl_create(&other, evpl->pool, NULL))
		_exit(1);
	evpl_destroy(evpl);
}

static void close_twice(struct evpl *evpl)
{
	struct evpl_pool *pool = evpl->pool, *other;

	evpl_destroy(evpl);
	if (evpl_pool_close(pool) || open_pool(&other, BUFFER, SLAB))
		_exit(1);
	evpl_pool_close(pool);
}

static void create_after_close(struct evpl *evpl)
{
	struct evpl_pool *pool = evpl->pool;

	evpl_destroy(evpl);
	evpl_pool_close(pool);
	evpl_create(&evpl, pool, NULL);
}

TEST(use_of_a_context_after_its_end_ends_the_program)
{
	if (!EVPLMEM_CHECKS)
		SKIP(return, "not a debug build");
	EXPECT_NE(NULL, strstr(last_words(_metadata, allocate_after_destroy),
			       "used after evpl_destroy()"));
	EXPECT_NE(NULL, strstr(last_words(_metadata, destroy_twice),
			       "used after evpl_destroy()"));
	EXPECT_NE(NULL, strstr(last_words(_metadata, destroy_after_close),
			       "used after evpl_destroy()"));
	EXPECT_NE(NULL, strstr(last_words(_metadata, destroy_one_whose_memory_is_free),
			       "used after evpl_destroy()"));
}

TEST(use_of_a_pool_after_its_end_ends_the_program)
{
	if (!EVPLMEM_CHECKS)
		SKIP(return, "not a debug build");
	EXPECT_NE(NULL, strstr(last_words(_metadata, close_twice),
			       "used after evpl_pool_close()"));
	EXPECT_NE(NULL, strstr(last_words(_metadata, create_after_close),
			       "used after evpl_pool_close()"));
}

TEST(the_structs_of_contexts_are_used_again_after_a_while)
{
	struct evpl_pool *pool;
	struct evpl *evpl;
	int i, n = 0;

	ASSERT_EQ(0, open_pool(&pool, BUFFER, SLAB));
	for (i = 0; i < 1000; i++) {
		ASSERT_EQ(0, evpl_create(&evpl, pool, NULL));
		evpl_destroy(evpl);
	}
	for (evpl = atomic_load(&pool->contexts); evpl; evpl = evpl->next)
		n++;
	EXPECT_GE(100, n);
	EXPECT_EQ(0, stats_of(pool).contexts);
	EXPECT_EQ(0, evpl_pool_close(pool));
}

TEST(a_closed_pool_is_refused)
{
	struct evpl_pool_stats stats = { .size = sizeof(stats) };
	struct evpl_pool *pool, *a, *b;
	struct evpl *evpl = NULL;
	int fds[8], i;

	if (EVPLMEM_CHECKS)
		SKIP(return, "the debug build ends the program");
	ASSERT_EQ(0, open_pool(&pool, BUFFER, SLAB));
	ASSERT_EQ(0, evpl_pool_close(pool));
	/* Some of these get the pool's old descriptor numbers. A second close leaves them open. */
	for (i = 0; i < 8; i++)
		fds[i] = open("/dev/null", O_RDONLY | O_CLOEXEC);
	EXPECT_EQ(-EPERM, evpl_pool_close(pool));
	for (i = 0; i < 8; i++)
		EXPECT_EQ(0, close(fds[i]));
	EXPECT_EQ(-EPERM, evpl_create(&evpl, pool, NULL));
	EXPECT_EQ(NULL, evpl);
	EXPECT_EQ(-EPERM, evpl_pool_preallocate(pool, SLAB, EVPL_ANY_NODE));
	EXPECT_EQ(-EPERM, evpl_pool_stats(pool, &stats));
	EXPECT_EQ(-EPERM, evpl_pool_eventfd(pool));
	EXPECT_EQ(0, evpl_pool_trim(pool));

	/* The closed pool's struct is on the list only once: two new pools get two structs. */
	ASSERT_EQ(0, open_pool(&a, BUFFER, SLAB));
	ASSERT_EQ(0, open_pool(&b, BUFFER, SLAB));
	EXPECT_NE(a, b);
	EXPECT_EQ(0, evpl_pool_close(a));
	EXPECT_EQ(0, evpl_pool_close(b));
}

TEST(a_destroyed_context_is_refused)
{
	struct evpl_iovec iovec, reserved;
	struct evpl_pool *pool;
	struct evpl *evpl, *other;

	if (EVPLMEM_CHECKS)
		SKIP(return, "the debug build ends the program");
	ASSERT_EQ(0, open_pool(&pool, BUFFER, SLAB));
	ASSERT_EQ(0, evpl_create(&other, pool, NULL));
	ASSERT_EQ(0, evpl_create(&evpl, pool, NULL));
	ASSERT_EQ(1, evpl_iovec_reserve(evpl, 100, 0, 1, &reserved));
	evpl_destroy(evpl);
	EXPECT_EQ(-EPERM, evpl_iovec_alloc(evpl, 100, 0, 1, &iovec));
	EXPECT_EQ(-EPERM, evpl_iovec_alloc_flags(evpl, 100, 0, 1, EVPL_IOVEC_PRIVATE, &iovec));
	EXPECT_EQ(-EPERM, evpl_iovec_reserve(evpl, 100, 0, 1, &iovec));
	EXPECT_EQ(-EPERM, evpl_iovec_commit(evpl, &reserved, 1, 10));
	EXPECT_EQ(-EPERM, evpl_buffer_alloc(evpl, &iovec));
	EXPECT_EQ(1, stats_of(pool).buffers_used);
	evpl_destroy(evpl);
	EXPECT_EQ(1, stats_of(pool).contexts);
	EXPECT_EQ(-EBUSY, evpl_pool_close(pool));
	evpl_iovec_release(&reserved);

	/* A new context can use the struct of the destroyed one. */
	ASSERT_EQ(0, evpl_create(&evpl, pool, NULL));
	ASSERT_EQ(1, evpl_iovec_alloc(evpl, 100, 0, 1, &iovec));
	evpl_iovec_release(&iovec);
	evpl_destroy(evpl);
	evpl_destroy(other);
	EXPECT_EQ(0, evpl_pool_close(pool));
}

TEST_HARNESS_MAIN
