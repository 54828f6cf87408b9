// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/* The marks of a pool: each crossing is told once, and what limits the pool is named. */
#include <fcntl.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "common.h"

#define PARAMETERS	"/sys/module/evpl/parameters/"
#define CGROUP		"/sys/fs/cgroup/evplmem-test"

#define LOW		(4ULL * BUFFER)
#define HIGH		(8ULL * BUFFER)

FIXTURE(pressure) {
	struct evpl_pool *pool;
	struct evpl *evpl;
	struct evpl_iovec iovec[PER_SLAB];
};

FIXTURE_SETUP(pressure)
{
	ASSERT_EQ(0, open_pool(&self->pool, BUFFER, SLAB));
	ASSERT_EQ(0, evpl_create(&self->evpl, self->pool, NULL));
}

FIXTURE_TEARDOWN(pressure)
{
	evpl_destroy(self->evpl);
	EXPECT_EQ(0, used_in(self->pool));
	EXPECT_EQ(0, evpl_pool_close(self->pool));
}

/* Whether the eventfd has been written since the last call. */
static bool is_told(struct evpl_pool *pool)
{
	uint64_t n;

	return read(evpl_pool_eventfd(pool), &n, sizeof(n)) == sizeof(n);
}

static struct evpl_pool_pressure pressure_of(struct evpl_pool *pool)
{
	struct evpl_pool_pressure pressure = EVPL_POOL_PRESSURE_INIT;

	if (evpl_pool_pressure(pool, &pressure))
		abort();
	return pressure;
}

TEST_F(pressure, room_is_what_is_free_and_what_the_pool_may_take)
{
	struct evpl_pool_pressure pressure = pressure_of(self->pool);

	EXPECT_EQ(SLAB, pressure.growth);
	EXPECT_EQ(0, pressure.free);
	EXPECT_EQ(EVPL_CAP_POOL, pressure.cap);
	for (unsigned int i = 0; i < PER_SLAB; i++) {
		ASSERT_EQ(1, evpl_buffer_alloc(self->evpl, &self->iovec[i]));
		pressure = pressure_of(self->pool);
		EXPECT_EQ(0, pressure.growth);
		EXPECT_EQ((PER_SLAB - 1 - i) * BUFFER, pressure.free);
		EXPECT_EQ(pressure.free, pressure.room);
		/* Without marks the room is always enough. */
		EXPECT_EQ(EVPL_ROOM_AMPLE, pressure.level);
	}
	EXPECT_FALSE(is_told(self->pool));
	evpl_iovecs_release(self->iovec, PER_SLAB);
	EXPECT_EQ(SLAB, pressure_of(self->pool).room);
}

TEST_F(pressure, each_crossing_of_a_mark_is_told_once)
{
	unsigned int i, level, left;

	ASSERT_EQ(0, evpl_pool_watch(self->pool, LOW, HIGH));
	EXPECT_FALSE(is_told(self->pool));
	for (i = 0; i < PER_SLAB; i++) {
		ASSERT_EQ(1, evpl_buffer_alloc(self->evpl, &self->iovec[i]));
		left = (PER_SLAB - 1 - i) * BUFFER;
		level = left < LOW ? EVPL_ROOM_SHORT : left < HIGH ? EVPL_ROOM_SCARCE :
			EVPL_ROOM_AMPLE;
		EXPECT_EQ(left == HIGH - BUFFER || left == LOW - BUFFER, is_told(self->pool));
		EXPECT_EQ(level, pressure_of(self->pool).level);
	}
	for (i = 0; i < PER_SLAB; i++) {
		evpl_iovec_release(&self->iovec[i]);
		left = (i + 1) * BUFFER;
		level = left < LOW ? EVPL_ROOM_SHORT : left < HIGH ? EVPL_ROOM_SCARCE :
			EVPL_ROOM_AMPLE;
		EXPECT_EQ(left == HIGH || left == LOW, is_told(self->pool));
		EXPECT_EQ(level, pressure_of(self->pool).level);
	}
}

TEST_F(pressure, a_program_that_does_not_ask_is_told_once)
{
	ASSERT_EQ(0, evpl_pool_watch(self->pool, LOW, HIGH));
	for (int n = 0; n < 3; n++) {
		ASSERT_EQ(0, take_slab(self->evpl, self->iovec));
		evpl_iovecs_release(self->iovec, PER_SLAB);
		EXPECT_EQ(!n, is_told(self->pool));
	}
	EXPECT_EQ(EVPL_ROOM_AMPLE, pressure_of(self->pool).level);
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec));
	EXPECT_TRUE(is_told(self->pool));
	evpl_iovecs_release(self->iovec, PER_SLAB);
}

/* The context is bound while there is room, so its thread releases without the library. */
TEST_F(pressure, slices_that_their_own_thread_releases_count)
{
	int n, i;

	ASSERT_EQ(0, evpl_pool_watch(self->pool, LOW, HIGH));
	for (n = 0; n < (int)PER_SLAB && evpl_iovec_alloc(self->evpl, BUFFER / 2 - 8, 1, 1,
							   &self->iovec[n]) == 1; n++)
		;
	/* Two fit a buffer. */
	EXPECT_EQ(PER_SLAB, n);
	ASSERT_EQ(EVPL_ROOM_AMPLE, pressure_of(self->pool).level);
	for (i = 0; i < (int)PER_SLAB; i++)
		evpl_iovec_release(&self->iovec[i]);
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec));
	EXPECT_TRUE(is_told(self->pool));
	EXPECT_EQ(EVPL_ROOM_SHORT, pressure_of(self->pool).level);
	evpl_iovecs_release(self->iovec, PER_SLAB);
	EXPECT_TRUE(is_told(self->pool));
	EXPECT_EQ(EVPL_ROOM_AMPLE, pressure_of(self->pool).level);
	for (i = 0; i < (int)PER_SLAB - 2; i++)
		ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, BUFFER - 8, 1, 1, &self->iovec[i]));
	EXPECT_TRUE(is_told(self->pool));
	EXPECT_EQ(EVPL_ROOM_SHORT, pressure_of(self->pool).level);
	while (i--)
		evpl_iovec_release(&self->iovec[i]);
	EXPECT_TRUE(is_told(self->pool));
	EXPECT_EQ(EVPL_ROOM_AMPLE, pressure_of(self->pool).level);
}

TEST_F(pressure, marks_can_be_changed_and_given_up)
{
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec));
	ASSERT_EQ(0, evpl_pool_watch(self->pool, 0, 1));
	EXPECT_TRUE(is_told(self->pool));
	EXPECT_EQ(EVPL_ROOM_SCARCE, pressure_of(self->pool).level);
	ASSERT_EQ(0, evpl_pool_watch(self->pool, 1, 1));
	EXPECT_TRUE(is_told(self->pool));
	EXPECT_EQ(EVPL_ROOM_SHORT, pressure_of(self->pool).level);
	ASSERT_EQ(0, evpl_pool_watch(self->pool, 0, 0));
	EXPECT_EQ(EVPL_ROOM_AMPLE, pressure_of(self->pool).level);
	is_told(self->pool);
	evpl_iovecs_release(self->iovec, PER_SLAB);
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec));
	EXPECT_FALSE(is_told(self->pool));
	evpl_iovecs_release(self->iovec, PER_SLAB);
}

TEST_F(pressure, a_failed_request_that_gives_buffers_back_is_no_crossing_that_is_lost)
{
	struct evpl_iovec many[PER_SLAB + 1];

	ASSERT_EQ(1, evpl_buffer_alloc(self->evpl, &self->iovec[0]));
	ASSERT_EQ(0, evpl_pool_watch(self->pool, LOW, HIGH));
	EXPECT_EQ(-ENOMEM, evpl_iovec_alloc(self->evpl, SLAB, 1, PER_SLAB + 1, many));
	is_told(self->pool);
	EXPECT_EQ(EVPL_ROOM_AMPLE, pressure_of(self->pool).level);
	evpl_iovec_release(&self->iovec[0]);
}

TEST_F(pressure, wrong_arguments_are_refused)
{
	struct evpl_pool_pressure pressure = { .size = 4 };
	struct { struct evpl_pool_pressure known; uint64_t more; } longer = {
		.known.size = sizeof(longer),
		.more = 1,
	};

	EXPECT_EQ(-EINVAL, evpl_pool_watch(self->pool, 2, 1));
	EXPECT_EQ(-EINVAL, evpl_pool_pressure(self->pool, &pressure));
	EXPECT_EQ(0, evpl_pool_pressure(self->pool, &longer.known));
	EXPECT_EQ(SLAB, longer.known.room);
	EXPECT_EQ(0, longer.more);
	pressure = (struct evpl_pool_pressure){ .size = offsetof(struct evpl_pool_pressure, room) };
	EXPECT_EQ(0, evpl_pool_pressure(self->pool, &pressure));
	EXPECT_EQ(0, pressure.room);
}

static int use_inherited(void *arg)
{
	struct evpl_pool_pressure pressure = EVPL_POOL_PRESSURE_INIT;

	return evpl_pool_watch(arg, 1, 2) != -EPERM || evpl_pool_pressure(arg, &pressure) != -EPERM;
}

TEST_F(pressure, a_child_cannot_watch_its_parents_pool)
{
	EXPECT_EQ(0, status_of(use_inherited, self->pool));
}

struct taker {
	struct evpl_pool *pool;
	pthread_t thread;
	_Atomic unsigned int *left;
};

static void *take_and_release(void *arg)
{
	struct taker *taker = arg;
	struct evpl_iovec iovec[PER_SLAB / 2];
	struct evpl *evpl;
	int i, j;

	if (evpl_create(&evpl, taker->pool, NULL))
		abort();
	for (i = 0; i < (few() ? 300 : 10000); i++) {
		for (j = 0; j < (int)PER_SLAB / 2; j++)
			if (evpl_iovec_alloc(evpl, j % 2 ? BUFFER : BUFFER / 2, 1, 1,
					     &iovec[j]) != 1)
				break;
		evpl_iovecs_release(iovec, j);
	}
	evpl_destroy(evpl);
	atomic_fetch_sub(taker->left, 1);
	return NULL;
}

TEST_F(pressure, no_crossing_is_lost_among_threads)
{
	struct pollfd pollfd = { .fd = evpl_pool_eventfd(self->pool), .events = POLLIN };
	_Atomic unsigned int left = 3;
	unsigned int level = EVPL_ROOM_AMPLE;
	struct taker takers[3];
	int i;

	ASSERT_EQ(0, evpl_pool_watch(self->pool, LOW, HIGH));
	for (i = 0; i < 3; i++) {
		takers[i] = (struct taker){ .pool = self->pool, .left = &left };
		ASSERT_EQ(0, pthread_create(&takers[i].thread, NULL, take_and_release, &takers[i]));
	}
	while (atomic_load(&left)) {
		if (is_told(self->pool))
			level = pressure_of(self->pool).level;
		else
			sched_yield();
	}
	for (i = 0; i < 3; i++)
		ASSERT_EQ(0, pthread_join(takers[i].thread, NULL));
	/* All is free. The program knows that, or is told. */
	EXPECT_TRUE(level == EVPL_ROOM_AMPLE || poll(&pollfd, 1, 0) == 1);
	is_told(self->pool);
	EXPECT_EQ(EVPL_ROOM_AMPLE, pressure_of(self->pool).level);
	EXPECT_EQ(SLAB, pressure_of(self->pool).room);
}

static bool is_module(void)
{
	const char *env = getenv("EVPL_BACKEND");

	return env && !strcmp(env, "module");
}

static bool write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	bool ok = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

	if (fd >= 0)
		close(fd);
	return ok;
}

static bool write_number(const char *path, unsigned long long number)
{
	char text[32];

	snprintf(text, sizeof(text), "%llu", number);
	return write_text(path, text);
}

static unsigned long long read_number(const char *path)
{
	unsigned long long number = 0;
	FILE *file = fopen(path, "re");

	if (file && fscanf(file, "%llu", &number) != 1)
		number = 0;
	if (file)
		fclose(file);
	return number;
}

/* Takes buffers until none is left. Returns the level, and with @cap what limits the pool. */
static unsigned int exhaust(struct evpl_pool *pool, unsigned int *cap)
{
	static struct evpl_iovec iovec[1024];
	struct evpl_pool_pressure pressure;
	struct evpl *evpl;
	int n = 0;

	if (evpl_create(&evpl, pool, NULL))
		abort();
	while (n < 1024 && evpl_buffer_alloc(evpl, &iovec[n]) == 1)
		n++;
	pressure = pressure_of(pool);
	*cap = n < 1024 ? pressure.cap : 0;
	evpl_iovecs_release(iovec, n);
	evpl_destroy(evpl);
	return pressure.level;
}

TEST_F(pressure, the_cap_of_the_pool_is_named)
{
	unsigned int cap;

	ASSERT_EQ(0, evpl_pool_watch(self->pool, LOW, HIGH));
	EXPECT_EQ(EVPL_ROOM_SHORT, exhaust(self->pool, &cap));
	EXPECT_EQ(EVPL_CAP_POOL, cap);
}

/*
 * Sets a cap of the module to what root has, and two slabs more. Returns what exhaust() says of a
 * pool that has no cap of its own.
 */
static unsigned int exhaust_with_cap(const char *path, unsigned int *cap, bool *warned)
{
	unsigned long long before = read_number(path), room;
	struct evpl_pool_pressure pressure;
	struct evpl_iovec iovec;
	struct evpl_pool *pool;
	unsigned int level;
	struct evpl *evpl;

	if (open_pool(&pool, BUFFER, 0) || evpl_create(&evpl, pool, NULL) ||
	    evpl_buffer_alloc(evpl, &iovec) != 1)
		abort();
	room = pressure_of(pool).growth;
	/* The cap is the least, so the growth is what it leaves, but for the rest of a slab. */
	if (!write_number(path, before - room + 2 * SLAB))
		abort();
	/* This gives back what it gets, and says nothing of the machine. */
	if (evpl_pool_preallocate(pool, 64ULL * SLAB, EVPL_ANY_NODE) != -ENOMEM)
		abort();
	pressure = pressure_of(pool);
	if (pressure.growth > 3ULL * SLAB)
		pressure.cap = 0;
	*cap = pressure.cap;
	/* The high mark is above what is left: the program hears of it before a request fails. */
	if (evpl_pool_watch(pool, LOW, 16ULL * SLAB))
		abort();
	*warned = is_told(pool) && pressure_of(pool).level == EVPL_ROOM_SCARCE;
	evpl_destroy(evpl);
	level = exhaust(pool, &pressure.cap);
	if (pressure.cap != *cap)
		*cap = 0;
	evpl_iovec_release(&iovec);
	if (!write_number(path, before) || evpl_pool_close(pool))
		abort();
	return level;
}

TEST_F(pressure, the_cap_of_the_user_is_named)
{
	unsigned int cap;
	bool warned;

	if (!is_module())
		SKIP(return, "the module's alone");
	EXPECT_EQ(EVPL_ROOM_SHORT, exhaust_with_cap(PARAMETERS "max_bytes_per_user", &cap, &warned));
	EXPECT_EQ(EVPL_CAP_USER, cap);
	EXPECT_TRUE(warned);
}

TEST_F(pressure, the_cap_of_the_system_is_named)
{
	unsigned long long of_user = read_number(PARAMETERS "max_bytes_per_user");
	unsigned int cap;
	bool warned;

	if (!is_module())
		SKIP(return, "the module's alone");
	/* The cap of the user must leave more than that of the system. */
	ASSERT_TRUE(write_number(PARAMETERS "max_bytes_per_user", 1ULL << 60));
	EXPECT_EQ(EVPL_ROOM_SHORT, exhaust_with_cap(PARAMETERS "max_bytes", &cap, &warned));
	EXPECT_EQ(EVPL_CAP_SYSTEM, cap);
	EXPECT_TRUE(warned);
	EXPECT_TRUE(write_number(PARAMETERS "max_bytes_per_user", of_user));
}

static int exhaust_cgroup(void *arg)
{
	struct evpl_pool *pool;
	unsigned int cap;

	if (!write_number(CGROUP "/cgroup.procs", (unsigned long long)getpid()))
		return 1;
	if (open_pool(&pool, BUFFER, 0) || evpl_pool_watch(pool, LOW, HIGH))
		return 2;
	if (exhaust(pool, &cap) != EVPL_ROOM_SHORT || cap != EVPL_CAP_MEMORY)
		return 3;
	if (!is_told(pool))
		return 4;
	/* A slab that is given back can be had again. */
	evpl_pool_trim(pool);
	if (pressure_of(pool).cap == EVPL_CAP_MEMORY || pressure_of(pool).level != EVPL_ROOM_AMPLE)
		return 5;
	return evpl_pool_close(pool) ? 6 : 0;
}

TEST_F(pressure, a_memory_cgroup_without_memory_is_named)
{
	if (!is_module())
		SKIP(return, "the module's alone");
	if (mkdir(CGROUP, 0755) && errno != EEXIST)
		SKIP(return, "no cgroup of version 2");
	if (!write_text(CGROUP "/memory.max", "33554432")) {
		rmdir(CGROUP);
		SKIP(return, "no memory cgroup");
	}
	EXPECT_EQ(0, status_of(exhaust_cgroup, NULL));
	EXPECT_EQ(0, rmdir(CGROUP));
}

static int exhaust_address_space(void *arg)
{
	struct rlimit limit = { 0 };
	struct evpl_pool *pool;
	unsigned int cap;

	if (open_pool(&pool, BUFFER, 512 * MB) || evpl_pool_watch(pool, LOW, HIGH))
		return 1;
	if (setrlimit(RLIMIT_AS, &limit))
		return 2;
	if (exhaust(pool, &cap) != EVPL_ROOM_SHORT || cap != EVPL_CAP_MEMORY)
		return 3;
	limit.rlim_cur = limit.rlim_max;
	return evpl_pool_close(pool) ? 4 : 0;
}

TEST_F(pressure, a_machine_without_memory_is_named)
{
	if (SANITIZED)
		SKIP(return, "a sanitizer needs the address space");
	EXPECT_EQ(0, status_of(exhaust_address_space, NULL));
}

TEST_HARNESS_MAIN
