/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_TESTS_URING_H
#define EVPLMEM_TESTS_URING_H

/*
 * The fixture of the tests of libevplmem-uring: a pool and a ring, which any thread may use or
 * which belongs to a single thread. Tests that register memory skip where the kernel doesn't
 * register memory of the pool's kind: the module's memory, on Linux 6.1.
 */

#include "common.h"

#include <liburing.h>
#include <sys/resource.h>
#include <unistd.h>

#include "evplmem-uring.h"
#include "pinned.h"

#define ENTRIES	8
#define SLABS	4		/* as many as the pool can have */
#define SLOTS	(2 * SLABS)	/* a slab that is being given back still has its own */
#define FIRST	3

/* The kernel charges nothing for what this process registers. */
static bool uncharged;

static inline int index_of(struct evpl_uring *uring, const struct evpl_iovec *iovec)
{
	uint64_t address;

	return evpl_uring_fixed(uring, iovec, &address);
}

/* The bytes that rings have pinned which registered so many slabs. */
static inline long pins(unsigned int slabs)
{
	return uncharged ? 0 : slabs * (long)SLAB;
}

static inline struct evpl_uring_stats uring_stats(struct evpl_uring *uring)
{
	struct evpl_uring_stats stats = { .size = sizeof(stats) };

	if (evpl_uring_stats(uring, &stats))
		abort();
	return stats;
}

/* Submits the request that is prepared. Returns its result. */
static inline int submit(struct io_uring *ring)
{
	struct io_uring_cqe *cqe;
	int result;

	if (io_uring_submit_and_wait(ring, 1) != 1 || io_uring_wait_cqe(ring, &cqe))
		abort();
	result = cqe->res;
	io_uring_cqe_seen(ring, cqe);
	return result;
}

/* Reads a number from a file of the kernel's. */
static inline long long number_in(const char *path, const char *format)
{
	FILE *file = fopen(path, "re");
	long long number = -1;
	char line[128];

	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, format, &number) == 1)
			break;
	if (number < 0)
		abort();
	fclose(file);
	return number;
}

/* A counter of the module. */
static inline long long counter(const char *name)
{
	char format[64];

	snprintf(format, sizeof(format), "%s %%lld", name);
	return number_in("/sys/kernel/debug/evpl/counters", format);
}

/* The bytes that all rings of this process have pinned, as the kernel counts them. */
static inline long pinned(void)
{
	return number_in("/proc/self/status", "VmPin: %lld") * KB;
}

/*
 * Waits, for at most a minute: a ring that was closed, or a worker of the kernel, may unpin memory
 * some time after the call. A ring that leaves this work to its thread is passed in @ring.
 */
static inline bool pinned_falls_to(struct io_uring *ring, long bytes)
{
	int tries = 600;

	while (pinned() != bytes) {
		if (!tries--)
			return false;
		if (ring)
			io_uring_get_events(ring);
		usleep(100 * 1000);
	}
	return true;
}

/*
 * Registers such memory by a ring and with a pool of its own. Returns 0, or the error of a kernel
 * that refuses. Sets @r_uncharged if the kernel charges nothing.
 */
static inline int try_to_register(bool *r_uncharged)
{
	struct evpl_uring *uring;
	struct evpl_iovec iovec;
	struct evpl_pool *pool;
	struct io_uring ring;
	struct evpl *evpl;
	int index;

	if (open_pool(&pool, BUFFER, SLAB) || evpl_create(&evpl, pool, NULL) ||
	    io_uring_queue_init(ENTRIES, &ring, 0) ||
	    evpl_uring_create(&uring, pool, &ring, 0, 1, EVPL_URING_NEW_TABLE) ||
	    evpl_iovec_alloc(evpl, 8, 0, 1, &iovec) != 1)
		abort();
	index = index_of(uring, &iovec);
	*r_uncharged = uring_stats(uring).uncharged;
	evpl_iovec_release(&iovec);
	evpl_uring_destroy(uring);
	io_uring_queue_exit(&ring);
	evpl_destroy(evpl);
	evpl_pool_close(pool);
	return index < 0 ? index : 0;
}

FIXTURE(uring) {
	struct evpl_pool *pool;
	struct evpl *evpl;
	struct io_uring ring;
	struct evpl_uring *uring;
	struct evpl_iovec iovec[4][PER_SLAB];
	int fd;
	bool refuses;
};

FIXTURE_VARIANT(uring) {
	unsigned int flags;
};

FIXTURE_VARIANT_ADD(uring, of_any_thread) {
	.flags = 0,
};

FIXTURE_VARIANT_ADD(uring, of_one_thread) {
	.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
};

FIXTURE_SETUP(uring)
{
	const struct rlimit all = { RLIM_INFINITY, RLIM_INFINITY };
	int err;

	/* From Linux 7.3 on, only rings to which a limit applies have their memory counted. */
	if (!setrlimit(RLIMIT_MEMLOCK, &all))
		drop_ipc_lock();
	err = io_uring_queue_init(ENTRIES, &self->ring, variant->flags);
	if (err)
		SKIP(return, "this kernel makes no such ring: %s", strerror(-err));
	self->refuses = try_to_register(&uncharged) == -EOPNOTSUPP;
	ASSERT_EQ(0, open_pool(&self->pool, BUFFER, SLABS * SLAB));
	ASSERT_EQ(0, evpl_create(&self->evpl, self->pool, NULL));
	ASSERT_EQ(0, evpl_uring_create(&self->uring, self->pool, &self->ring, FIRST, SLOTS,
				       EVPL_URING_NEW_TABLE));
	self->fd = memfd_create("test_uring", 0);
	ASSERT_LE(0, self->fd);
	memset(self->iovec, 0, sizeof(self->iovec));
}

FIXTURE_TEARDOWN(uring)
{
	int i;

	if (!self->pool)
		return;
	for (i = 0; i < 4; i++)
		evpl_iovecs_release(self->iovec[i], PER_SLAB);
	evpl_destroy(self->evpl);
	EXPECT_EQ(0, used_in(self->pool));
	evpl_uring_destroy(self->uring);
	EXPECT_EQ(0, evpl_pool_close(self->pool));
	io_uring_queue_exit(&self->ring);
	close(self->fd);
}

#define NEEDS_REGISTRATION()								\
	do {										\
		if (self->refuses)							\
			SKIP(return, "this kernel doesn't register this memory");	\
	} while (0)

#define NEEDS_CHARGE()									\
	do {										\
		NEEDS_REGISTRATION();							\
		if (uncharged)								\
			SKIP(return, "this kernel charges nothing");			\
	} while (0)

#define NEEDS_RING_OF_ONE_THREAD()							\
	do {										\
		if (!(variant->flags & IORING_SETUP_SINGLE_ISSUER))			\
			SKIP(return, "any thread may");					\
	} while (0)

#define NEEDS_ROOT()									\
	do {										\
		if (geteuid())								\
			SKIP(return, "needs root, to become somebody else");		\
	} while (0)

/*
 * Makes root another user, whom io_uring charges and who has no other process. This user may lock
 * so many slabs, and the rings: some kernels before 7.3 charge for these, too.
 */
static inline bool become_somebody(unsigned int slabs)
{
	uid_t uid = 100000 + getpid();
	struct rlimit limit;

	if (getrlimit(RLIMIT_MEMLOCK, &limit))
		return false;
	limit.rlim_cur = slabs * SLAB + MB;
	return !setrlimit(RLIMIT_MEMLOCK, &limit) && !setresuid(uid, uid, 0);
}

static inline bool become_root(void)
{
	return !setresuid(0, 0, 0);
}

static inline bool raise_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_MEMLOCK, &limit))
		return false;
	limit.rlim_cur = limit.rlim_max;
	return !setrlimit(RLIMIT_MEMLOCK, &limit);
}

/*
 * Writes a slice of one slab to the file, and reads it back into a slice of another slab. Returns
 * how many of the two requests used registered buffers, or -1 if one of them went wrong.
 */
static inline int write_and_read(struct io_uring *ring, struct evpl_uring *uring, int fd,
				 const struct evpl_iovec *from, const struct evpl_iovec *to)
{
	unsigned char *byte = from->data;
	struct io_uring_sqe *sqe;
	int written, read;
	unsigned int i;

	for (i = 0; i < from->length; i++)
		byte[i] = (unsigned char)(i * 7 + (i >> 8));
	memset(to->data, 0, to->length);

	sqe = io_uring_get_sqe(ring);
	written = evpl_uring_prep_write(uring, sqe, fd, from, 4096);
	if (sqe->opcode != (written ? IORING_OP_WRITE_FIXED : IORING_OP_WRITE) ||
	    submit(ring) != (int)from->length)
		return -1;
	sqe = io_uring_get_sqe(ring);
	read = evpl_uring_prep_read(uring, sqe, fd, to, 4096);
	if (sqe->opcode != (read ? IORING_OP_READ_FIXED : IORING_OP_READ) ||
	    submit(ring) != (int)to->length || memcmp(from->data, to->data, from->length))
		return -1;
	return written + read;
}

/* Does that with the fixture's first two slabs. */
static inline int copy_by(FIXTURE_DATA(uring) *self, struct io_uring *ring,
			  struct evpl_uring *uring)
{
	return write_and_read(ring, uring, self->fd, &self->iovec[0][3], &self->iovec[1][7]);
}

static inline void give_back(FIXTURE_DATA(uring) *self, int which)
{
	evpl_iovecs_release(self->iovec[which], PER_SLAB);
	memset(self->iovec[which], 0, sizeof(self->iovec[which]));
}

/* Gives a slab back for good. The pool keeps another slab that is idle. */
static inline void drop_slab(FIXTURE_DATA(uring) *self, int which)
{
	give_back(self, which);
	evpl_pool_trim(self->pool);
}

struct elsewhere {
	struct evpl_pool *pool;
	struct io_uring *ring;
	struct evpl_uring *uring;
	const struct evpl_iovec *iovec;
	int index, created;
};

/* One thread trims the pool while the ring's thread uses slabs. */
struct churn {
	struct evpl_pool *pool;
	atomic_bool stop;
};

static inline void *churn(void *arg)
{
	struct churn *c = arg;
	struct evpl *evpl;

	if (evpl_create(&evpl, c->pool, NULL))
		abort();
	while (!atomic_load(&c->stop)) {
		evpl_pool_trim(c->pool);
		sched_yield();
	}
	evpl_destroy(evpl);
	return NULL;
}

#endif /* EVPLMEM_TESTS_URING_H */
