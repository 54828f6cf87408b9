/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Each call is made again and again, and each time another of its allocations
 * and user copies fails: the first, the second, and so on until none is left to
 * fail. A call that fails must change nothing, and work when it is made once more.
 * Other tests, with sweep_space(), have all allocations fail from some point on.
 *
 * close(2) and madvise(MADV_DONTNEED) aren't tested by the first way, since nothing in
 * them allocates, not even in the kernel's own code; the last test of fail_nth.c closes
 * without memory. fork(2) isn't tested, since the kernel prints a stack trace if it can't
 * allocate the child's stack.
 */
#ifndef EVPL_FAIL_NTH_H
#define EVPL_FAIL_NTH_H

#include "ring.h"

#define DEBUGFS		"/sys/kernel/debug/"

#define LENGTH		(4 * MIB)

/* An address that has no page table yet, since nothing is mapped near it. */
#define FAR		((char *)(1UL << 45))

/* More than any of the calls needs. A test that comes that far never ends. */
#define MOST_ROUNDS	2000

static struct setting {
	const char *path;
	const char *value;
	char saved[32];
} settings[] = {
	{ .path = DEBUGFS "failslab/ignore-gfp-wait", .value = "N" },
	{ .path = DEBUGFS "failslab/verbose", .value = "0" },
	{ .path = DEBUGFS "failslab/times", .value = "-1" },
	{ .path = DEBUGFS "failslab/space", .value = "0" },
	{ .path = DEBUGFS "failslab/interval", .value = "1" },
	{ .path = DEBUGFS "failslab/probability", .value = "0" },
	{ .path = DEBUGFS "failslab/task-filter", .value = "Y" },
	{ .path = DEBUGFS "fail_page_alloc/ignore-gfp-wait", .value = "N" },
	{ .path = DEBUGFS "fail_page_alloc/ignore-gfp-highmem", .value = "N" },
	{ .path = DEBUGFS "fail_page_alloc/min-order", .value = "0" },
	{ .path = DEBUGFS "fail_page_alloc/verbose", .value = "0" },
	{ .path = DEBUGFS "fail_page_alloc/times", .value = "-1" },
	{ .path = DEBUGFS "fail_page_alloc/space", .value = "0" },
	{ .path = DEBUGFS "fail_page_alloc/interval", .value = "1" },
	{ .path = DEBUGFS "fail_page_alloc/probability", .value = "0" },
	{ .path = DEBUGFS "fail_page_alloc/task-filter", .value = "Y" },
	{ .path = DEBUGFS "fail_usercopy/verbose", .value = "0" },
	{ .path = DEBUGFS "fail_usercopy/times", .value = "-1" },
};

#define NR_SETTINGS	ARRAY_SIZE(settings)

static inline bool read_string(const char *path, char *string, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t length;

	if (fd < 0)
		return false;
	length = read(fd, string, size - 1);
	close(fd);
	if (length <= 0)
		return false;
	string[length] = 0;
	return true;
}

FIXTURE(nth)
{
	struct counters before;
	unsigned long long max_bytes;
	bool changed;
	int nth;		/* fail-nth: the number of the allocation or copy that fails */
	int task;		/* make-it-fail: whether this task's allocations fail */
	int fd;
	int pipe[2];
	int fdinfo;
	char *memory;
	char *moved;
	struct evpl_entry *entries;
	struct evpl_setup setup;
	uint64_t buffer_size;
	uint64_t length;
	uint64_t offset;
	uint32_t flags;
	int node;
	char text[1024];
	int lessee;
	int ends[2];
	struct evpl_record record;
	int dmabuf;
	uint32_t record_flags;
	uint32_t bind_flags;
	int gpu;
	uint32_t handle;
	struct ring ring;
};

FIXTURE_SETUP(nth)
{
	self->changed = false;
	self->nth = open("/proc/thread-self/fail-nth", O_RDWR | O_CLOEXEC);
	self->task = open("/proc/thread-self/make-it-fail", O_RDWR | O_CLOEXEC);
	if (self->nth < 0 || self->task < 0)
		SKIP(return, "a kernel without fault injection");
	for (int i = 0; i < NR_SETTINGS; i++)
		if (!read_string(settings[i].path, settings[i].saved,
				 sizeof(settings[i].saved)))
			SKIP(return, "a kernel without %s", settings[i].path);
	self->changed = true;
	for (int i = 0; i < NR_SETTINGS; i++)
		ASSERT_EQ(0, write_string(settings[i].path, settings[i].value));

	self->max_bytes = read_number(MAX_BYTES);
	ASSERT_NE(0, self->max_bytes);
	self->before = read_counters();
	self->fd = -1;
	self->buffer_size = 0;
	self->length = LENGTH;
	self->flags = 0;
	self->record_flags = 0;
	self->bind_flags = 0;
	self->node = EVPL_NODE_ANY;
	ASSERT_EQ(0, pipe2(self->pipe, O_CLOEXEC | O_NONBLOCK));
}

FIXTURE_TEARDOWN(nth)
{
	if (!self->changed)
		return;
	/* The injected failure may hit this write itself. */
	while (pwrite(self->nth, "0", 1, 0) != 1)
		;
	pwrite(self->task, "0", 1, 0);
	for (int i = 0; i < NR_SETTINGS; i++)
		EXPECT_EQ(0, write_string(settings[i].path, settings[i].saved));
	EXPECT_EQ(0, write_number(MAX_BYTES, self->max_bytes));
	close(self->pipe[0]);
	close(self->pipe[1]);
	EXPECT_TRUE(counters_return_to(self->before));
}

static inline void arm(struct __test_metadata *_metadata, struct _test_data_nth *self, int nth)
{
	char string[16];
	int length = snprintf(string, sizeof(string), "%d", nth);

	ASSERT_EQ(length, pwrite(self->nth, string, length, 0));
}

/* Return whether something has failed. */
static inline bool disarm(struct _test_data_nth *self)
{
	char string[16] = {};
	ssize_t length = pread(self->nth, string, sizeof(string) - 1, 0);

	while (pwrite(self->nth, "0", 1, 0) != 1)
		;
	/* If the read gives EFAULT, it was the read that has failed, and nothing before. */
	return length > 0 && atoi(string) == 0;
}

/* The visible state of the system, and of a client. */
struct state {
	struct counters counters;
	long long buffer_size, slabs, bytes;
};

static inline struct state read_state(int fd)
{
	struct state state = {};

	/* The counters are read one by one, and memory may go back meanwhile. */
	do {
		state.counters = read_counters();
	} while (!counters_equal(state.counters, read_counters()));
	if (fd >= 0) {
		state.buffer_size = fdinfo(fd, "evpl-buffer-size");
		state.slabs = fdinfo(fd, "evpl-slabs");
		state.bytes = fdinfo(fd, "evpl-bytes");
	}
	return state;
}

/*
 * Detached memory may go back at any time, so it isn't compared. Pages of entries stay with
 * the client when a call fails. A call allocates all of its @entries bytes at once or, with
 * @one_by_one, page by page, so that a part of them may be there.
 */
static inline bool unchanged(int fd, const struct state *before, long long entries,
		      bool one_by_one)
{
	struct state now;

	for (int tries = 0; tries < 20; tries++) {
		long long more;

		now = read_state(fd);
		more = now.counters.charged - now.counters.detached -
		       before->counters.charged + before->counters.detached;
		if (now.counters.clients == before->counters.clients &&
		    now.counters.slabs == before->counters.slabs &&
		    now.counters.channels == before->counters.channels &&
		    now.counters.records == before->counters.records &&
		    now.counters.shares == before->counters.shares &&
		    now.counters.leases == before->counters.leases &&
		    now.counters.exports == before->counters.exports &&
		    now.counters.registrations == before->counters.registrations &&
		    now.counters.quarantined == before->counters.quarantined &&
		    (!more || more == entries ||
		     (one_by_one && more > 0 && more < entries)) &&
		    now.buffer_size == before->buffer_size &&
		    now.slabs == before->slabs && now.bytes == before->bytes)
			return true;
		usleep(20 * 1000);
	}
	return false;
}

/*
 * @prepare brings about the state that @call needs, @call returns 0 or -errno, and @undo
 * ends everything. @intact checks what else must hold after @call has failed.
 */
struct sequence {
	void (*prepare)(struct __test_metadata *_metadata, struct _test_data_nth *self);
	int (*call)(struct _test_data_nth *self);
	bool (*intact)(struct _test_data_nth *self);
	void (*undo)(struct __test_metadata *_metadata, struct _test_data_nth *self);
	long long entries;
	bool one_by_one;
	int also;	/* an errno beside ENOMEM and EFAULT */
	bool goes_on;	/* @call succeeds whatever fails */
	bool in_part;	/* @call may have done a part of its work when it fails */
};

static inline int check_call(struct __test_metadata *_metadata, struct _test_data_nth *self,
		      const struct sequence *sequence, int ret,
		      const struct state *before)
{
	if (!ret)
		return 0;
	EXPECT_TRUE(ret == -ENOMEM || ret == -EFAULT ||
		    (sequence->also && ret == -sequence->also)) {
		TH_LOG("errno %d", -ret);
	}
	EXPECT_TRUE(sequence->in_part || unchanged(self->fd, before, sequence->entries,
						   sequence->one_by_one));
	if (sequence->intact)
		EXPECT_TRUE(sequence->intact(self));
	return ret;
}

static inline void sweep(struct __test_metadata *_metadata, struct _test_data_nth *self,
		  const struct sequence *sequence)
{
	int nth, failed = 0;
	bool injected = true;

	for (nth = 1; injected; nth++) {
		struct state before;
		int ret;

		ASSERT_GT(MOST_ROUNDS, nth);
		if (sequence->prepare)
			sequence->prepare(_metadata, self);
		before = read_state(self->fd);

		arm(_metadata, self, nth);
		ret = sequence->call(self);
		injected = disarm(self);
		if (check_call(_metadata, self, sequence, ret, &before)) {
			EXPECT_TRUE(injected);
			failed++;
			EXPECT_EQ(0, sequence->call(self));
		}
		sequence->undo(_metadata, self);
		ASSERT_TRUE(counters_return_to(self->before)) {
			TH_LOG("failure %d left something behind", nth);
		}
	}
	/* In the last round nothing failed. */
	nth -= 2;
	TH_LOG("%d failures injected, %d reported", nth, failed);
	EXPECT_LT(0, nth);
	EXPECT_EQ(sequence->goes_on, !failed);
}

/*
 * Have allocations fail when @space bytes or pages have been allocated. Only tasks with
 * make-it-fail are hit.
 */
static inline void end_memory(struct __test_metadata *_metadata, struct _test_data_nth *self,
		       const char *kind, int space)
{
	char path[128];

	snprintf(path, sizeof(path), DEBUGFS "%s/space", kind);
	ASSERT_EQ(0, write_number(path, space));
	snprintf(path, sizeof(path), DEBUGFS "%s/times", kind);
	ASSERT_EQ(0, write_number(path, 1000000));
	snprintf(path, sizeof(path), DEBUGFS "%s/probability", kind);
	ASSERT_EQ(0, write_number(path, 100));
}

/* Return how many allocations have failed. */
static inline int restore_memory(struct __test_metadata *_metadata, const char *kind)
{
	char path[128], times[32] = {};

	snprintf(path, sizeof(path), DEBUGFS "%s/probability", kind);
	EXPECT_EQ(0, write_number(path, 0));
	snprintf(path, sizeof(path), DEBUGFS "%s/times", kind);
	EXPECT_TRUE(read_string(path, times, sizeof(times)));
	return 1000000 - atoi(times);
}

/* Sweep over the memory that there is: from nothing up to all that the call needs. */
static inline void sweep_space(struct __test_metadata *_metadata, struct _test_data_nth *self,
			const struct sequence *sequence, const char *kind,
			int step)
{
	int space = 0, failures = 0, failed = 0, injected;

	do {
		struct state before;
		int ret;

		ASSERT_GT(MOST_ROUNDS, space / step);
		if (sequence->prepare)
			sequence->prepare(_metadata, self);
		before = read_state(self->fd);

		end_memory(_metadata, self, kind, space);
		ASSERT_EQ(1, pwrite(self->task, "1", 1, 0));
		ret = sequence->call(self);
		ASSERT_EQ(1, pwrite(self->task, "0", 1, 0));
		injected = restore_memory(_metadata, kind);
		if (check_call(_metadata, self, sequence, ret, &before)) {
			EXPECT_LT(0, injected);
			failed++;
			EXPECT_EQ(0, sequence->call(self));
		}
		sequence->undo(_metadata, self);
		ASSERT_TRUE(counters_return_to(self->before)) {
			TH_LOG("%s of %d left something behind", kind, space);
		}
		failures += injected;
		space += step;
	} while (injected);
	TH_LOG("%d failures injected, %d reported", failures, failed);
	EXPECT_LT(0, failed);
}

static inline void close_client(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	EXPECT_EQ(0, close(self->fd));
	self->fd = -1;
}

static inline int call_open(struct _test_data_nth *self)
{
	int fd = open(DEVICE, O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	self->fd = fd;
	return 0;
}

static inline int call_setup(struct _test_data_nth *self)
{
	return evpl_setup(self->fd, self->buffer_size, &self->setup);
}

static inline int call_alloc(struct _test_data_nth *self)
{
	return evpl_slab_alloc_on(self->fd, self->length, self->node,
				  self->flags, &self->offset);
}

static inline int call_free(struct _test_data_nth *self)
{
	return evpl_slab_free(self->fd, self->offset);
}

static inline int call_map_refs(struct _test_data_nth *self)
{
	void *entries = mmap(FAR, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED,
			     self->fd, self->setup.out_refs_offset);

	if (entries == MAP_FAILED)
		return -errno;
	self->entries = entries;
	return 0;
}

static inline void opened(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	ASSERT_EQ(0, call_open(self));
}

static inline void set_up(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	opened(_metadata, self);
	ASSERT_EQ(0, call_setup(self));
}

static inline void allocated(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	set_up(_metadata, self);
	ASSERT_EQ(0, call_alloc(self));
}

static inline void mapped_refs(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	allocated(_metadata, self);
	ASSERT_EQ(0, call_map_refs(self));
}

static inline void unmap_refs(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	EXPECT_EQ(0, munmap(self->entries, PAGE));
	close_client(_metadata, self);
}

static inline int call_pin(struct _test_data_nth *self)
{
	struct iovec iovec = { self->memory, PAGE };
	ssize_t length = vmsplice(self->pipe[1], &iovec, 1, 0);

	return length < 0 ? -errno : length == PAGE ? 0 : -EIO;
}

static inline void open_ring(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	ASSERT_TRUE(ring_open(&self->ring));
	ASSERT_EQ(0, ring_table(&self->ring, 1));
}

static inline bool nothing_is_registered(struct _test_data_nth *self)
{
	return !fdinfo(self->fd, "evpl-registrations");
}

/* The ring has memory of the client. */
static inline void drop_and_close_ring(struct __test_metadata *_metadata,
				       struct _test_data_nth *self)
{
	EXPECT_EQ(1, fdinfo(self->fd, "evpl-registrations"));
	EXPECT_EQ(0, ring_drop(&self->ring, self->fd, 0));
	EXPECT_TRUE(nothing_is_registered(self));
	ring_close(&self->ring);
}

#endif /* EVPL_FAIL_NTH_H */
