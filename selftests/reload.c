// SPDX-License-Identifier: GPL-2.0-only
/*
 * The module is unloaded and loaded between clients, while others try to open
 * the device all the time. EVPL_MODULE names the module's file.
 */
#include <sys/syscall.h>
#include <sys/uio.h>

#include "evpl_test.h"

#define OPENERS	2

/* The openers count here, in memory that all processes share. */
struct shared {
	unsigned int stop;
	unsigned int opened;
	unsigned int missed;
};

FIXTURE(reload)
{
	int module;
	char parameters[128];
	struct shared *shared;
	pid_t openers[OPENERS];
	struct counters before;
};

static void try_to_open(struct shared *shared)
{
	while (!__atomic_load_n(&shared->stop, __ATOMIC_SEQ_CST)) {
		int fd = open(DEVICE, O_RDWR | O_CLOEXEC);
		struct evpl_setup setup;

		if (fd < 0) {
			/* There is no node, or no device, or the module is going. */
			if (errno != ENOENT && errno != ENXIO && errno != ENODEV)
				_exit(1);
			__atomic_add_fetch(&shared->missed, 1, __ATOMIC_SEQ_CST);
			continue;
		}
		if (evpl_setup(fd, 0, &setup))
			_exit(2);
		__atomic_add_fetch(&shared->opened, 1, __ATOMIC_SEQ_CST);
		close(fd);
	}
	_exit(0);
}

static int unload(void)
{
	return RESULT(syscall(SYS_delete_module, "evpl", O_NONBLOCK));
}

/* Try again while one of the openers has the device open. */
static int unload_between_openers(void)
{
	int tries = 1000000, ret;

	do
		ret = unload();
	while (ret == -EWOULDBLOCK && tries--);
	return ret;
}

static int load(struct _test_data_reload *self)
{
	return RESULT(syscall(SYS_finit_module, self->module, self->parameters, 0));
}

FIXTURE_SETUP(reload)
{
	const char *path = getenv("EVPL_MODULE");

	self->module = -1;
	if (!path)
		SKIP(return, "name the module's file in EVPL_MODULE");
	limit_sleeps();
	self->before = read_counters();
	if (self->before.clients)
		SKIP(return, "somebody else is a client");
	self->module = open(path, O_RDONLY | O_CLOEXEC);
	ASSERT_GE(self->module, 0);

	snprintf(self->parameters, sizeof(self->parameters),
		 "max_bytes=%llu max_bytes_per_user=%llu",
		 read_number(MAX_BYTES), read_number(MAX_BYTES_PER_USER));

	self->shared = mmap(NULL, sizeof(*self->shared), PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->shared);
	for (int i = 0; i < OPENERS; i++) {
		self->openers[i] = fork_child();
		if (!self->openers[i])
			try_to_open(self->shared);
	}
}

FIXTURE_TEARDOWN(reload)
{
	if (self->module < 0)
		return;
	__atomic_store_n(&self->shared->stop, 1, __ATOMIC_SEQ_CST);
	for (int i = 0; i < OPENERS; i++)
		EXPECT_EQ(0, reap(self->openers[i]));
	TH_LOG("the others opened it %u times, and missed it %u times",
	       self->shared->opened, self->shared->missed);
	EXPECT_LT(0, self->shared->opened);
	if (access(COUNTERS, F_OK))
		load(self);
	EXPECT_TRUE(counters_return_to(self->before));
}

static void check_fresh(struct __test_metadata *_metadata)
{
	struct counters now = read_counters();

	EXPECT_LE(0, now.clients);
	EXPECT_GE(OPENERS, now.clients);
	EXPECT_EQ(0, now.slabs);
	/* The openers set their clients up. */
	EXPECT_GE(OPENERS * HEADER_PAGE, now.charged);
	EXPECT_EQ(0, now.detached);
}

TEST_F(reload, module_stays_while_a_client_lives_and_goes_after_it)
{
	for (int i = 0; i < scaled(20); i++) {
		int fd = open(DEVICE, O_RDWR | O_CLOEXEC);
		char *memory;

		ASSERT_GE(fd, 0);
		memory = evpl_map(fd, SLAB_2M, 0);
		ASSERT_NE(MAP_FAILED, memory);
		memset(memory, i, SLAB_2M);
		EXPECT_EQ(-EWOULDBLOCK, unload());
		close(fd);
		EXPECT_EQ(-EWOULDBLOCK, unload());
		EXPECT_TRUE(is_filled_with(memory, i, SLAB_2M));
		munmap(memory, SLAB_2M);

		ASSERT_EQ(0, unload_between_openers());
		EXPECT_NE(0, access(DEVICE, F_OK));
		EXPECT_NE(0, access(COUNTERS, F_OK));
		ASSERT_EQ(0, load(self));
		check_fresh(_metadata);
	}
}

TEST_F(reload, page_that_a_pipe_holds_outlives_the_module)
{
	for (int i = 0; i < scaled(20); i++) {
		int fd = open(DEVICE, O_RDWR | O_CLOEXEC), pipe_fds[2];
		struct iovec iovec = { .iov_len = PAGE };
		struct evpl_setup setup;
		char *memory, *other;
		uint64_t offset;
		char page[PAGE];

		ASSERT_GE(fd, 0);
		ASSERT_EQ(0, evpl_setup(fd, 0, &setup));
		ASSERT_EQ(0, evpl_slab_alloc(fd, SLAB_2M, &offset));
		memory = evpl_map(fd, SLAB_2M, offset);
		ASSERT_NE(MAP_FAILED, memory);
		memset(memory, 0x5a, SLAB_2M);
		ASSERT_EQ(0, pipe2(pipe_fds, O_CLOEXEC | O_NONBLOCK));
		iovec.iov_base = memory + MIB;
		ASSERT_EQ(PAGE, vmsplice(pipe_fds[1], &iovec, 1, 0));

		/* The folio is detached when its slab is freed, or when the client goes. */
		if (i % 2)
			EXPECT_EQ(0, evpl_slab_free(fd, offset));
		munmap(memory, SLAB_2M);
		close(fd);
		EXPECT_LT(0, read_counters().detached);

		ASSERT_EQ(0, unload_between_openers());
		ASSERT_EQ(0, load(self));
		check_fresh(_metadata);

		/* No slab of the new module gets the page meanwhile. */
		fd = open(DEVICE, O_RDWR | O_CLOEXEC);
		ASSERT_GE(fd, 0);
		other = evpl_map(fd, 32 * MIB, 0);
		ASSERT_NE(MAP_FAILED, other);
		memset(other, 0xff, 32 * MIB);
		EXPECT_EQ(PAGE, read(pipe_fds[0], page, PAGE));
		EXPECT_TRUE(is_filled_with(page, 0x5a, PAGE));
		munmap(other, 32 * MIB);
		close(fd);
		close(pipe_fds[0]);
		close(pipe_fds[1]);
	}
}

TEST_HARNESS_MAIN
