// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * A program that has called mlockall(MCL_FUTURE), as real-time programs do, and may lock 8 MiB.
 * Address space that a pool only reserves isn't counted; where the kernel counts a mapping that is
 * too long, the error says so. Each test is a process of its own. Sanitizers make mlockall() do
 * nothing.
 */
#include "common.h"

#include <sys/mman.h>

#include "pinned.h"

static void may_lock(rlim_t bytes)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_MEMLOCK, &limit))
		abort();
	limit.rlim_cur = bytes;
	if (setrlimit(RLIMIT_MEMLOCK, &limit))
		abort();
}

static void lock_the_future(void)
{
	may_lock(8 * MB);
	drop_ipc_lock();
	if (mlockall(MCL_FUTURE))
		abort();
}

FIXTURE(locked) {
	struct evpl_pool *pool;
	struct evpl *evpl;
};

FIXTURE_SETUP(locked)
{
	lock_the_future();
	ASSERT_EQ(0, open_pool(&self->pool, BUFFER, 16 * SLAB)) TH_LOG("%s", evpl_last_error());
	ASSERT_EQ(0, evpl_create(&self->evpl, self->pool, NULL));
}

FIXTURE_TEARDOWN(locked)
{
	evpl_destroy(self->evpl);
	EXPECT_TRUE(all_idle(self->pool));
	EXPECT_EQ(0, evpl_pool_close(self->pool));
}

TEST_F(locked, pool_has_slabs_as_far_as_the_limit_goes)
{
	struct evpl_iovec iovecs[16 * PER_SLAB];
	unsigned int n = 0, i;

	while (n < 16 * PER_SLAB && evpl_buffer_alloc(self->evpl, &iovecs[n]) == 1) {
		memset(iovecs[n].data, n / PER_SLAB + 1, iovecs[n].length);
		n++;
	}
	/* The slabs may count against the limit, and so does other memory of this process. */
	EXPECT_LE(2 * PER_SLAB, n);
	EXPECT_LE(2, stats_of(self->pool).slabs);
	EXPECT_EQ(n, used_in(self->pool));
	for (i = 0; i < n; i++) {
		EXPECT_EQ(i / PER_SLAB + 1, ((char *)iovecs[i].data)[BUFFER - 1]);
		EXPECT_EQ(1, word_of(&iovecs[i]));
	}
	evpl_iovecs_release(iovecs, n);
	EXPECT_EQ(0, used_in(self->pool));
}

TEST_F(locked, channel_is_ENOMEM_and_says_what_counts)
{
	struct evpl_channel *channel;
	int peer, ret;

	if (!getenv("EVPL_BACKEND") || strcmp(getenv("EVPL_BACKEND"), "module"))
		SKIP(return, "channels need the module");
	ret = evpl_channel_create(&channel, self->pool, 0, 0, &peer);
	EXPECT_EQ(-ENOMEM, ret);
	EXPECT_NE(NULL, strstr(evpl_last_error(), "mlockall"));
	EXPECT_NE(NULL, strstr(evpl_last_error(), "RLIMIT_MEMLOCK, which is 8192 KiB"));
}

TEST(pool_that_can_not_be_opened_says_what_counts)
{
	struct evpl_pool *pool;
	int ret;

	if (SANITIZED)
		SKIP(return, "mlockall() does nothing");
	lock_the_future();
	may_lock(1);
	ret = open_pool(&pool, BUFFER, 16 * SLAB);
	may_lock(8 * MB);
	EXPECT_EQ(-EAGAIN, ret);
	EXPECT_NE(NULL, strstr(evpl_last_error(), "mlockall"));
	EXPECT_NE(NULL, strstr(evpl_last_error(), "RLIMIT_MEMLOCK, which is 0 KiB"));
}

TEST_HARNESS_MAIN
