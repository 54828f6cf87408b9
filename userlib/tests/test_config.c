// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * The structs that evpl_pool_open(), evpl_create() and evpl_pool_stats() accept and refuse.
 */
#include "common.h"

#include <fcntl.h>
#include <sys/stat.h>

/* The structs of a later version of the header. The library doesn't know @tail. */
struct longer_pool_config {
	struct evpl_pool_config config;
	uint64_t tail;
};

struct longer_config {
	struct evpl_config config;
	uint64_t tail;
};

static int open_errno(struct evpl_pool_config *config)
{
	struct evpl_pool *pool;
	int err = evpl_pool_open(&pool, config);

	if (!err)
		evpl_pool_close(pool);
	return err;
}

static int try_sizes(size_t buffer_size, size_t slab_size, size_t slab_size_max,
		     uint64_t max_bytes)
{
	struct evpl_pool_config config = {
		.size = sizeof(config),
		.buffer_size = buffer_size,
		.slab_size = slab_size,
		.slab_size_max = slab_size_max,
		.max_bytes = max_bytes,
	};

	return open_errno(&config);
}

TEST(no_config_means_the_defaults)
{
	struct evpl_pool_stats stats;
	struct evpl_pool *pool;

	ASSERT_EQ(0, evpl_pool_open(&pool, NULL));
	stats = stats_of(pool);
	EXPECT_EQ(1 * MB, stats.buffer_size);
	EXPECT_EQ(0, stats.slabs);
	EXPECT_EQ(0, stats.bytes);
	EXPECT_EQ(0, stats.contexts);
	EXPECT_EQ(0, evpl_pool_close(pool));
}

TEST(slabs_double_from_2_to_64_MiB_by_default)
{
	static const unsigned int sizes[] = { 2, 4, 8, 16, 32, 64, 64 };
	struct evpl_iovec iovec[2 + 4 + 8 + 16 + 32 + 64 + 64];
	struct evpl_pool *pool;
	struct evpl *evpl;
	unsigned int i, j, n = 0;
	uint64_t bytes = 0;

	ASSERT_EQ(0, evpl_pool_open(&pool, NULL));
	ASSERT_EQ(0, evpl_create(&evpl, pool, NULL));
	for (i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		bytes += sizes[i] * (uint64_t)MB;
		for (j = 0; j < sizes[i]; j++) {
			ASSERT_EQ(1, evpl_buffer_alloc(evpl, &iovec[n]));
			n++;
			ASSERT_EQ(bytes, stats_of(pool).bytes);
		}
	}
	evpl_iovecs_release(iovec, (int)n);
	evpl_destroy(evpl);
	EXPECT_EQ(0, evpl_pool_close(pool));
}

TEST(pool_config_size_is_checked)
{
	struct longer_pool_config longer = { .config.size = sizeof(longer) };
	struct evpl_pool_config config = { .size = sizeof(config) - 1 };

	EXPECT_EQ(-EINVAL, open_errno(&config));
	config.size = 0;
	EXPECT_EQ(-EINVAL, open_errno(&config));
	config.size = sizeof(config);
	EXPECT_EQ(0, open_errno(&config));

	EXPECT_EQ(0, open_errno(&longer.config));
	longer.tail = 1ULL << 63;
	EXPECT_EQ(-E2BIG, open_errno(&longer.config));
	longer.config.size = sizeof(config);
	EXPECT_EQ(0, open_errno(&longer.config));
}

TEST(unknown_pool_flags_and_back_ends_are_refused)
{
	struct evpl_pool_config config = { .size = sizeof(config), .flags = 1U << 31 };

	EXPECT_EQ(-EOPNOTSUPP, open_errno(&config));
	config.flags = EVPL_POOL_ATOMIC << 1;
	EXPECT_EQ(-EOPNOTSUPP, open_errno(&config));
	config.flags = 0;
	config.backend = EVPL_BACKEND_ANON + 1;
	EXPECT_EQ(-EINVAL, open_errno(&config));
}

TEST(buffer_sizes_are_powers_of_two_from_a_page_to_1_GiB)
{
	EXPECT_EQ(-EINVAL, try_sizes(1, 0, 0, 0));
	EXPECT_EQ(-EINVAL, try_sizes(PAGE / 2, 0, 0, 0));
	EXPECT_EQ(-EINVAL, try_sizes(PAGE - 1, 0, 0, 0));
	EXPECT_EQ(-EINVAL, try_sizes(PAGE + 1, 0, 0, 0));
	EXPECT_EQ(-EINVAL, try_sizes(3 * PAGE, 0, 0, 0));
	EXPECT_EQ(-EINVAL, try_sizes(2048UL * MB, 0, 0, 0));
	EXPECT_EQ(-EINVAL, try_sizes(SIZE_MAX, 0, 0, 0));
	EXPECT_EQ(-EINVAL, try_sizes(1UL << 63, 0, 0, 0));
	EXPECT_EQ(0, try_sizes(PAGE, 0, 0, 0));
	EXPECT_EQ(0, try_sizes(1024 * MB, 0, 0, 0));
}

TEST(slab_sizes_are_multiples_of_2_MiB_and_of_the_buffer_up_to_1_GiB)
{
	EXPECT_EQ(-EINVAL, try_sizes(0, 1 * MB, 0, 0));
	EXPECT_EQ(-EINVAL, try_sizes(0, 2 * MB + 1, 0, 0));
	EXPECT_EQ(-EINVAL, try_sizes(0, 2 * MB + PAGE, 0, 0));
	EXPECT_EQ(-EINVAL, try_sizes(0, 3 * MB, 0, 0));
	EXPECT_EQ(-EINVAL, try_sizes(8 * MB, 4 * MB, 0, 0));
	EXPECT_EQ(-EINVAL, try_sizes(8 * MB, 12 * MB, 0, 0));
	EXPECT_EQ(-EINVAL, try_sizes(0, 4 * MB, 2 * MB, 0));
	EXPECT_EQ(-EINVAL, try_sizes(0, 0, 3 * MB, 0));
	EXPECT_EQ(-EINVAL, try_sizes(0, 0, 1026 * MB, 0));
	EXPECT_EQ(-EINVAL, try_sizes(0, SIZE_MAX - (2 * MB - 1), 0, 0));
	EXPECT_EQ(0, try_sizes(0, 6 * MB, 6 * MB, 0));
	EXPECT_EQ(0, try_sizes(8 * MB, 8 * MB, 0, 0));
	EXPECT_EQ(0, try_sizes(0, 1024 * MB, 0, 0));
	EXPECT_EQ(0, try_sizes(0, 0, 1024 * MB, 0));
}

TEST(a_pool_has_room_for_one_slab_at_least)
{
	EXPECT_EQ(-EINVAL, try_sizes(0, 0, 0, 1));
	EXPECT_EQ(-EINVAL, try_sizes(0, 0, 0, 2 * MB - 1));
	EXPECT_EQ(-EINVAL, try_sizes(8 * MB, 0, 0, 2 * MB));
	EXPECT_EQ(0, try_sizes(0, 0, 0, 2 * MB));
	EXPECT_EQ(0, try_sizes(0, 0, 0, UINT64_MAX));
}

TEST(the_back_end_is_never_chosen_silently)
{
	struct evpl_pool_config config = {
		.size = sizeof(config),
		.device = "/nonexistent/evpl",
	};
	struct evpl_pool *pool;

	unsetenv("EVPL_BACKEND");
	EXPECT_EQ(-ENOENT, open_errno(&config));
	EXPECT_NE(NULL, strstr(evpl_last_error(), access("/sys/module/evpl", F_OK) ?
		  "load evpl.ko, or ask for the anon back end" : "--device /nonexistent/evpl"));
	setenv("EVPL_BACKEND", "", 1);
	EXPECT_EQ(-ENOENT, open_errno(&config));
	setenv("EVPL_BACKEND", "module", 1);
	EXPECT_EQ(-ENOENT, open_errno(&config));
	setenv("EVPL_BACKEND", "anonymous", 1);
	EXPECT_EQ(-EINVAL, open_errno(&config));
	EXPECT_NE(NULL, strstr(evpl_last_error(), "EVPL_BACKEND"));

	setenv("EVPL_BACKEND", "anon", 1);
	ASSERT_EQ(0, evpl_pool_open(&pool, &config));
	EXPECT_EQ(EVPL_BACKEND_ANON, stats_of(pool).backend);
	EXPECT_EQ(0, evpl_pool_close(pool));

	/* The config takes precedence over the environment. */
	config.backend = EVPL_BACKEND_MODULE;
	EXPECT_EQ(-ENOENT, open_errno(&config));
	setenv("EVPL_BACKEND", "module", 1);
	config.backend = EVPL_BACKEND_ANON;
	EXPECT_EQ(0, open_errno(&config));
}

TEST(a_device_that_is_not_evpls_is_refused)
{
	struct evpl_pool_config config = {
		.size = sizeof(config),
		.backend = EVPL_BACKEND_MODULE,
		.device = "/dev/null",
	};
	int fd, next;

	fd = open("/dev/null", O_RDONLY);
	ASSERT_LE(0, fd);
	close(fd);
	EXPECT_EQ(-ENOTTY, open_errno(&config));
	EXPECT_NE(NULL, strstr(evpl_last_error(), "/dev/null"));
	/* No descriptor is left open. */
	next = open("/dev/null", O_RDONLY);
	EXPECT_EQ(fd, next);
	close(next);
}

TEST(anon_has_no_huge_pages_to_promise)
{
	struct evpl_pool_config config = {
		.size = sizeof(config),
		.backend = EVPL_BACKEND_ANON,
		.flags = EVPL_POOL_HUGE,
	};

	EXPECT_EQ(-EOPNOTSUPP, open_errno(&config));
	config.flags |= EVPL_POOL_ATOMIC;
	EXPECT_EQ(-EOPNOTSUPP, open_errno(&config));
	config.flags = EVPL_POOL_ATOMIC;
	EXPECT_EQ(0, open_errno(&config));
}

TEST(a_closed_pool_leaves_no_descriptor)
{
	struct evpl_pool *pool, *other;
	int i, fd, next;

	fd = open("/dev/null", O_RDONLY);
	ASSERT_LE(0, fd);
	close(fd);
	for (i = 0; i < 3; i++) {
		ASSERT_EQ(0, evpl_pool_open(&pool, NULL));
		ASSERT_EQ(0, evpl_pool_open(&other, NULL));
		EXPECT_EQ(0, evpl_pool_close(pool));
		EXPECT_EQ(0, evpl_pool_close(other));
	}
	next = open("/dev/null", O_RDONLY);
	EXPECT_EQ(fd, next);
	close(next);
}

FIXTURE(pool) {
	struct evpl_pool *pool;
};

FIXTURE_SETUP(pool)
{
	ASSERT_EQ(0, open_pool(&self->pool, BUFFER, 2 * SLAB));
}

FIXTURE_TEARDOWN(pool)
{
	EXPECT_EQ(0, evpl_pool_close(self->pool));
}

static int create_errno(struct evpl_pool *pool, struct evpl_config *config)
{
	struct evpl *evpl;
	int err = evpl_create(&evpl, pool, config);

	if (!err)
		evpl_destroy(evpl);
	return err;
}

TEST_F(pool, context_config_size_is_checked)
{
	struct longer_config longer = { .config.size = sizeof(longer) };
	struct evpl_config config = { .size = sizeof(config) - 1 };

	EXPECT_EQ(0, create_errno(self->pool, NULL));
	EXPECT_EQ(-EINVAL, create_errno(self->pool, &config));
	config.size = sizeof(config);
	EXPECT_EQ(0, create_errno(self->pool, &config));
	EXPECT_EQ(0, create_errno(self->pool, &longer.config));
	longer.tail = 1;
	EXPECT_EQ(-E2BIG, create_errno(self->pool, &longer.config));
	EXPECT_EQ(0, stats_of(self->pool).contexts);
}

TEST_F(pool, unknown_context_flags_are_refused)
{
	struct evpl_config config = { .size = sizeof(config), .flags = EVPL_CONFIG_NODE << 1 };

	EXPECT_EQ(-EOPNOTSUPP, create_errno(self->pool, &config));
	EXPECT_EQ(0, stats_of(self->pool).contexts);
}

TEST_F(pool, a_node_that_is_not_there_is_refused)
{
	static const int bad[] = { -2, -1000, 1000, 1023, 1024, 1 << 20 };
	struct evpl_config config = { .size = sizeof(config), .flags = EVPL_CONFIG_NODE };
	unsigned int i;

	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		config.node = bad[i];
		EXPECT_EQ(-EINVAL, create_errno(self->pool, &config));
		EXPECT_EQ(-EINVAL, evpl_pool_preallocate(self->pool, SLAB, bad[i]));
	}
	/* A node without EVPL_CONFIG_NODE is refused. */
	config.flags = 0;
	config.node = 1;
	EXPECT_EQ(-EINVAL, create_errno(self->pool, &config));
	EXPECT_EQ(0, stats_of(self->pool).contexts);
	EXPECT_EQ(0, stats_of(self->pool).slabs);
}

TEST_F(pool, stats_fill_what_the_caller_has_room_for)
{
	struct {
		struct evpl_pool_stats stats;
		uint64_t tail[2];
	} room;
	struct evpl_pool_stats *stats = &room.stats;

	memset(&room, 0xff, sizeof(room));
	stats->size = sizeof(size_t) - 1;
	EXPECT_EQ(-EINVAL, evpl_pool_stats(self->pool, stats));
	EXPECT_EQ(UINT64_MAX, stats->bytes);

	stats->size = offsetof(struct evpl_pool_stats, bytes);
	EXPECT_EQ(0, evpl_pool_stats(self->pool, stats));
	EXPECT_EQ(offsetof(struct evpl_pool_stats, bytes), stats->size);
	EXPECT_EQ(BUFFER, stats->buffer_size);
	EXPECT_EQ(UINT64_MAX, stats->bytes);

	stats->size = sizeof(*stats) + sizeof(uint64_t);
	EXPECT_EQ(0, evpl_pool_stats(self->pool, stats));
	EXPECT_EQ(sizeof(*stats) + sizeof(uint64_t), stats->size);
	EXPECT_EQ(0, stats->bytes);
	EXPECT_EQ(0, room.tail[0]);
	EXPECT_EQ(UINT64_MAX, room.tail[1]);
}

TEST_HARNESS_MAIN
