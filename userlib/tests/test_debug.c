// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * The debug build ends a program that releases what it doesn't hold, and says where.
 */
#include "common.h"

/* So that the two call sites have names of their own. */
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

/* Runs something in a child that must abort; returns what it wrote to stderr. */
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

/* Whether the text has an address within a function, or its name. */
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

TEST_HARNESS_MAIN
