// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/* The memory of an adopted pool is registered with a ring again. */
#include "uring.h"

#include "supervisor.h"

#define LENGTH 4096U

/* A file, and a ring that has a slot for a slab. */
struct target {
	struct io_uring ring;
	struct evpl_uring *uring;
	int fd;
};

static int open_ring(struct target *target, struct evpl_pool *pool)
{
	if (io_uring_queue_init(4, &target->ring, IORING_SETUP_SINGLE_ISSUER))
		return -1;
	return evpl_uring_create(&target->uring, pool, &target->ring, 0, 4, EVPL_URING_NEW_TABLE);
}

/* Writes the root to the file by the ring. Returns how many slabs are registered, or -1. */
static int write_root(struct target *target, struct evpl_pool *pool)
{
	struct evpl_iovec iovec;
	int written;

	if (evpl_pool_kept(pool, "root", &iovec) ||
	    evpl_uring_prep_write(target->uring, io_uring_get_sqe(&target->ring), target->fd,
				  &iovec, 0) < 0)
		return -1;
	written = submit(&target->ring);
	evpl_iovec_release(&iovec);
	return written == (int)LENGTH ? (int)uring_stats(target->uring).slots_used : -1;
}

static int work(struct evpl_pool *pool, void *arg)
{
	struct target *target = arg;

	return keep_bytes(pool, "root", 'r', LENGTH) || open_ring(target, pool) ||
	       write_root(target, pool) < 0;
}

/* The ring of the dead process ends some time after it, and has the slab until then. */
TEST(an_adopted_slab_is_registered_with_a_ring_again)
{
	struct supervisor supervisor;
	struct target target;
	struct evpl_pool *pool;
	char bytes[LENGTH];
	unsigned int i;
	int slots;

	if (supervisor_open(&supervisor))
		SKIP(return, "the module's alone");
	target.fd = memfd_create("target", MFD_CLOEXEC);
	ASSERT_LE(0, target.fd);
	ASSERT_EQ(0, start(&supervisor, work, &target));
	ASSERT_TRUE(stop(&supervisor));
	ASSERT_EQ(LENGTH, pread(target.fd, bytes, LENGTH, 0));
	ASSERT_EQ(0, ftruncate(target.fd, 0));

	ASSERT_EQ(0, adopt(&pool, &supervisor)) {
		TH_LOG("%s", evpl_last_error());
	}
	ASSERT_EQ(0, open_ring(&target, pool));
	slots = write_root(&target, pool);
	ASSERT_LE(0, slots);
	TH_LOG("%d slabs are registered", slots);
	ASSERT_EQ(LENGTH, pread(target.fd, bytes, LENGTH, 0));
	for (i = 0; i < LENGTH; i++)
		ASSERT_EQ('r', bytes[i]);
	evpl_uring_destroy(target.uring);
	io_uring_queue_exit(&target.ring);
	/* A worker of the kernel ends the dead process's ring. Then all other buffers are free. */
	for (i = 0; used_in(pool) != 2 && i < 600; i++) {
		usleep(100 * 1000);
		evpl_pool_trim(pool);
	}
	EXPECT_EQ(2, used_in(pool));
	EXPECT_EQ(0, evpl_pool_forget(pool, "root"));
	EXPECT_EQ(0, evpl_pool_close(pool));
	close(supervisor.client);
	close(target.fd);
}

TEST_HARNESS_MAIN
