// SPDX-License-Identifier: GPL-2.0-only
/*
 * Each call is made again and again, and each time another of its allocations
 * and user copies fails: the first, the second, and so on until none is left to
 * fail. A call that fails must change nothing, and work when it is made once more.
 * Other tests, with sweep_space(), have all allocations fail from some point on.
 *
 * close(2) and madvise(MADV_DONTNEED) aren't tested by the first way, since nothing in
 * them allocates, not even in the kernel's own code; the last test closes without
 * memory. fork(2) isn't tested, since the kernel prints a stack trace if it can't
 * allocate the child's stack.
 */
#include <sys/syscall.h>
#include <sys/uio.h>

#include "evpl_test.h"
#include "vgem.h"

#define DEBUGFS		"/sys/kernel/debug/"
#define CLIENTS		DEBUGFS "evpl/clients"
#define NODE		"/sys/devices/system/node/node1"

#define LENGTH		(4 * MIB)
#define PAGE		4096
#define REFS_PAGE	PAGE
/* More than a client is charged for its first share, and for its first lease. */
#define FIRST_SHARE	(4 * PAGE)
#define FIRST_LEASE	(8 * PAGE)
#define PATTERN		0x5a5a5a5a5aUL

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

static bool read_string(const char *path, char *string, size_t size)
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
	int receiver;
	int ends[2];
	struct evpl_record record;
	int dmabuf;
	uint32_t record_flags;
	int gpu;
	uint32_t handle;
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

static void arm(struct __test_metadata *_metadata, struct _test_data_nth *self, int nth)
{
	char string[16];
	int length = snprintf(string, sizeof(string), "%d", nth);

	ASSERT_EQ(length, pwrite(self->nth, string, length, 0));
}

/* Return whether something has failed. */
static bool disarm(struct _test_data_nth *self)
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

static struct state read_state(int fd)
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
static bool unchanged(int fd, const struct state *before, long long entries,
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
};

static int check_call(struct __test_metadata *_metadata, struct _test_data_nth *self,
		      const struct sequence *sequence, int ret,
		      const struct state *before)
{
	if (!ret)
		return 0;
	EXPECT_TRUE(ret == -ENOMEM || ret == -EFAULT ||
		    (sequence->also && ret == -sequence->also)) {
		TH_LOG("errno %d", -ret);
	}
	EXPECT_TRUE(unchanged(self->fd, before, sequence->entries,
			      sequence->one_by_one));
	if (sequence->intact)
		EXPECT_TRUE(sequence->intact(self));
	return ret;
}

static void sweep(struct __test_metadata *_metadata, struct _test_data_nth *self,
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

static void nothing(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
}

static void close_client(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	EXPECT_EQ(0, close(self->fd));
	self->fd = -1;
}

static int call_open(struct _test_data_nth *self)
{
	int fd = open(DEVICE, O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	self->fd = fd;
	return 0;
}

static int call_setup(struct _test_data_nth *self)
{
	return evpl_setup(self->fd, self->buffer_size, &self->setup);
}

static int call_alloc(struct _test_data_nth *self)
{
	return evpl_slab_alloc_on(self->fd, self->length, self->node,
				  self->flags, &self->offset);
}

static int call_free(struct _test_data_nth *self)
{
	return evpl_slab_free(self->fd, self->offset);
}

static int call_map(struct _test_data_nth *self)
{
	char *memory = mmap(FAR, self->length, PROT_READ | PROT_WRITE,
			    MAP_SHARED, self->fd, 0);

	if (memory == MAP_FAILED)
		return -errno;
	self->memory = memory;
	return 0;
}

static int call_map_refs(struct _test_data_nth *self)
{
	void *entries = mmap(FAR, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED,
			     self->fd, self->setup.out_refs_offset);

	if (entries == MAP_FAILED)
		return -errno;
	self->entries = entries;
	return 0;
}

static int call_unmap(struct _test_data_nth *self)
{
	return RESULT(munmap(self->memory, self->length));
}

static void opened(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	ASSERT_EQ(0, call_open(self));
}

static void set_up(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	opened(_metadata, self);
	ASSERT_EQ(0, call_setup(self));
}

static void allocated(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	set_up(_metadata, self);
	ASSERT_EQ(0, call_alloc(self));
}

static void mapped(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	allocated(_metadata, self);
	ASSERT_EQ(0, call_map(self));
}

static void touched(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	mapped(_metadata, self);
	for (size_t at = 0; at < self->length; at += PAGE)
		*(size_t *)(self->memory + at) = PATTERN + at;
}

static bool is_intact(const char *memory, size_t from, size_t to)
{
	for (size_t at = from; at < to; at += PAGE)
		if (*(size_t *)(memory + at) != PATTERN + at)
			return false;
	return true;
}

static bool memory_is_intact(struct _test_data_nth *self)
{
	return is_intact(self->memory, 0, self->length);
}

static void unmap(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	EXPECT_EQ(0, munmap(self->memory, self->length));
	close_client(_metadata, self);
}

static void unmap_refs(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	EXPECT_EQ(0, munmap(self->entries, PAGE));
	close_client(_metadata, self);
}

TEST_F(nth, open_that_fails_leaves_no_client)
{
	sweep(_metadata, self, &(struct sequence){
		.call = call_open,
		.undo = close_client,
	});
}

TEST_F(nth, set_up_that_fails_can_be_made_again)
{
	sweep(_metadata, self, &(struct sequence){
		.prepare = opened,
		.call = call_setup,
		.undo = close_client,
	});
}

static const struct sequence alloc_sequence = {
	.prepare = set_up,
	.call = call_alloc,
	.undo = close_client,
	.entries = REFS_PAGE,
};

TEST_F(nth, allocation_that_fails_leaves_no_slab)
{
	self->length = SLAB_2M;
	sweep(_metadata, self, &alloc_sequence);
}

TEST_F(nth, allocation_of_many_folios_that_fails_leaves_no_slab)
{
	self->length = 16 * MIB;
	sweep(_metadata, self, &alloc_sequence);
}

TEST_F(nth, allocation_that_needs_huge_folios_fails_as_a_whole)
{
	self->flags = EVPL_SLAB_HUGE;
	sweep(_metadata, self, &alloc_sequence);
}

TEST_F(nth, allocation_from_a_node_that_fails_leaves_no_slab)
{
	self->node = access(NODE, F_OK) ? 0 : 1;
	sweep(_metadata, self, &alloc_sequence);
}

TEST_F(nth, entries_of_small_buffers_are_had_all_or_none)
{
	struct sequence sequence = alloc_sequence;

	self->buffer_size = PAGE;
	sequence.entries = self->length / PAGE * sizeof(struct evpl_entry);
	sweep(_metadata, self, &sequence);
}

TEST_F(nth, free_that_fails_keeps_the_slab)
{
	sweep(_metadata, self, &(struct sequence){
		.prepare = touched,
		.call = call_free,
		.intact = memory_is_intact,
		.undo = unmap,
	});
}

TEST_F(nth, mapping_that_would_set_up_and_fails_does_not)
{
	sweep(_metadata, self, &(struct sequence){
		.prepare = opened,
		.call = call_map,
		.undo = unmap,
	});
}

TEST_F(nth, mapping_that_fails_can_be_made_again)
{
	sweep(_metadata, self, &(struct sequence){
		.prepare = allocated,
		.call = call_map,
		.undo = unmap,
	});
}

TEST_F(nth, mapping_of_entries_that_fails_can_be_made_again)
{
	sweep(_metadata, self, &(struct sequence){
		.prepare = allocated,
		.call = call_map_refs,
		.undo = unmap_refs,
	});
}

/* If a page table can't be allocated the kernel tries again. A SIGBUS would kill this test. */
static int call_touch(struct _test_data_nth *self)
{
	*(volatile char *)self->memory = 1;
	return 0;
}

TEST_F(nth, touch_waits_for_memory_and_raises_no_signal)
{
	sweep(_metadata, self, &(struct sequence){
		.prepare = mapped,
		.call = call_touch,
		.undo = unmap,
		.goes_on = true,
	});
}

static void mapped_refs(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	allocated(_metadata, self);
	ASSERT_EQ(0, call_map_refs(self));
}

static int call_touch_refs(struct _test_data_nth *self)
{
	*(volatile __u64 *)&self->entries->word = 0;
	return 0;
}

TEST_F(nth, touch_of_entries_waits_for_memory_and_raises_no_signal)
{
	sweep(_metadata, self, &(struct sequence){
		.prepare = mapped_refs,
		.call = call_touch_refs,
		.undo = unmap_refs,
		.goes_on = true,
	});
}

static int call_pin(struct _test_data_nth *self)
{
	struct iovec iovec = { self->memory, PAGE };
	ssize_t length = vmsplice(self->pipe[1], &iovec, 1, 0);

	return length < 0 ? -errno : length == PAGE ? 0 : -EIO;
}

static void unmap_and_drain(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	char page[PAGE];

	unmap(_metadata, self);
	EXPECT_EQ(PAGE, read(self->pipe[0], page, PAGE));
}

TEST_F(nth, pin_of_untouched_memory_that_fails_holds_nothing)
{
	sweep(_metadata, self, &(struct sequence){
		.prepare = mapped,
		.call = call_pin,
		.undo = unmap_and_drain,
	});
}

static int call_unmap_part(struct _test_data_nth *self)
{
	return RESULT(munmap(self->memory + MIB, MIB));
}

TEST_F(nth, unmapping_of_a_part_that_fails_unmaps_nothing)
{
	sweep(_metadata, self, &(struct sequence){
		.prepare = touched,
		.call = call_unmap_part,
		.intact = memory_is_intact,
		.undo = unmap,
	});
}

static int call_protect_part(struct _test_data_nth *self)
{
	return RESULT(mprotect(self->memory + MIB, MIB, PROT_READ));
}

TEST_F(nth, protecting_of_a_part_that_fails_keeps_the_contents)
{
	sweep(_metadata, self, &(struct sequence){
		.prepare = touched,
		.call = call_protect_part,
		.intact = memory_is_intact,
		.undo = unmap,
	});
}

static int call_advise_part(struct _test_data_nth *self)
{
	return RESULT(madvise(self->memory + MIB, MIB, MADV_DONTFORK));
}

/* madvise(2) makes EAGAIN of ENOMEM. */
TEST_F(nth, advice_for_a_part_that_fails_keeps_the_contents)
{
	sweep(_metadata, self, &(struct sequence){
		.prepare = touched,
		.call = call_advise_part,
		.intact = memory_is_intact,
		.undo = unmap,
		.also = EAGAIN,
	});
}

/* Move by an odd page, so that memory that was mapped by a PMD has to be mapped by page. */
static int call_move(struct _test_data_nth *self)
{
	char *target = FAR + (1UL << 40) + PAGE;

	if (self->memory == target)
		return 0;
	if (mremap(self->memory, self->length, self->length,
		   MREMAP_MAYMOVE | MREMAP_FIXED, target) == MAP_FAILED)
		return -errno;
	self->memory = target;
	return 0;
}

TEST_F(nth, move_that_fails_leaves_the_mapping_where_it_was)
{
	sweep(_metadata, self, &(struct sequence){
		.prepare = touched,
		.call = call_move,
		.intact = memory_is_intact,
		.undo = unmap,
	});
}

static void opened_fdinfo(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	char path[64];

	allocated(_metadata, self);
	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", self->fd);
	self->fdinfo = open(path, O_RDONLY | O_CLOEXEC);
	ASSERT_GE(self->fdinfo, 0);
}

static int call_read_fdinfo(struct _test_data_nth *self)
{
	ssize_t length = pread(self->fdinfo, self->text, sizeof(self->text) - 1, 0);

	if (length < 0)
		return -errno;
	self->text[length] = 0;
	return strstr(self->text, "evpl-slabs:\t1\nevpl-bytes:\t4194304\n") ? 0 : -EIO;
}

static void close_fdinfo(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	close(self->fdinfo);
	close_client(_metadata, self);
}

TEST_F(nth, fdinfo_is_read_as_a_whole_or_not)
{
	sweep(_metadata, self, &(struct sequence){
		.prepare = opened_fdinfo,
		.call = call_read_fdinfo,
		.undo = close_fdinfo,
	});
}

static int read_file(struct _test_data_nth *self, const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t length;
	int ret;

	if (fd < 0)
		return -errno;
	length = read(fd, self->text, sizeof(self->text) - 1);
	ret = RESULT(length);
	close(fd);
	if (!ret)
		self->text[length] = 0;
	return ret;
}

static int call_read_counters(struct _test_data_nth *self)
{
	return read_file(self, COUNTERS) ?:
	       strstr(self->text, "\ndetached-bytes ") ? 0 : -EIO;
}

TEST_F(nth, counters_are_read_as_a_whole_or_not)
{
	sweep(_metadata, self, &(struct sequence){
		.call = call_read_counters,
		.undo = nothing,
	});
}

static int call_read_clients(struct _test_data_nth *self)
{
	return read_file(self, CLIENTS) ?:
	       strstr(self->text, " 0 1 4194304 0 0\n") ? 0 : -EIO;
}

TEST_F(nth, clients_are_read_as_a_whole_or_not)
{
	sweep(_metadata, self, &(struct sequence){
		.prepare = allocated,
		.call = call_read_clients,
		.undo = close_client,
	});
}

static int call_write_parameter(struct _test_data_nth *self)
{
	return write_number(MAX_BYTES, self->max_bytes / 2);
}

static bool parameter_is_intact(struct _test_data_nth *self)
{
	return read_number(MAX_BYTES) == self->max_bytes;
}

static void restore_parameter(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	EXPECT_EQ(0, write_number(MAX_BYTES, self->max_bytes));
}

TEST_F(nth, parameter_keeps_its_value_where_writing_fails)
{
	sweep(_metadata, self, &(struct sequence){
		.call = call_write_parameter,
		.intact = parameter_is_intact,
		.undo = restore_parameter,
	});
}

static void touched_and_closed(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	touched(_metadata, self);
	close_client(_metadata, self);
}

TEST_F(nth, last_mapping_can_be_unmapped_whatever_fails)
{
	sweep(_metadata, self, &(struct sequence){
		.prepare = touched_and_closed,
		.call = call_unmap,
		.undo = nothing,
		.goes_on = true,
	});
}

static void pinned(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	touched(_metadata, self);
	ASSERT_EQ(0, call_pin(self));
}

TEST_F(nth, free_of_a_slab_that_a_pipe_holds_and_that_fails_keeps_it)
{
	sweep(_metadata, self, &(struct sequence){
		.prepare = pinned,
		.call = call_free,
		.intact = memory_is_intact,
		.undo = unmap_and_drain,
	});
}

/* The cap has room only when the memory that the pipe held has been freed. */
static void let_go_of(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	char page[PAGE];

	pinned(_metadata, self);
	ASSERT_EQ(0, call_free(self));
	ASSERT_EQ(0, write_number(MAX_BYTES, self->before.charged + LENGTH +
					     REFS_PAGE));
	ASSERT_EQ(PAGE, read(self->pipe[0], page, PAGE));
}

static void unmap_and_restore(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	unmap(_metadata, self);
	restore_parameter(_metadata, self);
}

TEST_F(nth, allocation_that_frees_detached_memory_first_leaves_no_slab)
{
	sweep(_metadata, self, &(struct sequence){
		.prepare = let_go_of,
		.call = call_alloc,
		.undo = unmap_and_restore,
	});
}

static int call_setup_zeros(struct _test_data_nth *self)
{
	self->setup = (struct evpl_setup){
		.size = sizeof(self->setup),
		.flags = EVPL_SETUP_ZEROS,
	};
	return RESULT(ioctl(self->fd, EVPL_SETUP, &self->setup));
}

TEST_F(nth, set_up_with_zeros_that_fails_can_be_made_again)
{
	sweep(_metadata, self, &(struct sequence){
		.prepare = opened,
		.call = call_setup_zeros,
		.undo = close_client,
	});
}

static int call_channel(struct _test_data_nth *self)
{
	return evpl_channel(self->fd, 4, self->ends);
}

static void close_ends(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	EXPECT_EQ(0, close(self->ends[0]));
	EXPECT_EQ(0, close(self->ends[1]));
	close_client(_metadata, self);
}

TEST_F(nth, channel_that_fails_leaves_no_end)
{
	sweep(_metadata, self, &(struct sequence){
		.prepare = set_up,
		.call = call_channel,
		.undo = close_ends,
	});
}

static void with_channel(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	mapped_refs(_metadata, self);
	ASSERT_EQ(0, call_channel(self));
}

static int call_bind(struct _test_data_nth *self)
{
	return evpl_bind(self->fd, self->ends[0]);
}

static void unmap_and_close_ends(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	EXPECT_EQ(0, munmap(self->entries, PAGE));
	close_ends(_metadata, self);
}

TEST_F(nth, bind_that_fails_leaves_the_end_free)
{
	sweep(_metadata, self, &(struct sequence){
		.prepare = with_channel,
		.call = call_bind,
		.undo = unmap_and_close_ends,
		.entries = PAGE,
	});
}

static void bound(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	with_channel(_metadata, self);
	ASSERT_EQ(0, call_bind(self));
	self->entries[1].word = 1;
	self->record = (struct evpl_record){
		.offset = MIB,
		.length = 1,
		.flags = self->record_flags,
	};
}

static int call_send(struct _test_data_nth *self)
{
	int sent = evpl_send(self->ends[0], &self->record, 1);

	return sent == 1 ? 0 : sent ?: -EIO;
}

static bool reference_is_there(struct _test_data_nth *self)
{
	return self->entries[1].word == 1;
}

static const struct sequence send_sequence = {
	.prepare = bound,
	.call = call_send,
	.intact = reference_is_there,
	.undo = unmap_and_close_ends,
	.entries = FIRST_SHARE,
	.one_by_one = true,
};

TEST_F(nth, send_that_fails_moves_no_reference)
{
	sweep(_metadata, self, &send_sequence);
}

static void with_two(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	bound(_metadata, self);
	self->entries[1].word = 2;
}

static int call_send_two(struct _test_data_nth *self)
{
	struct evpl_record records[2] = { self->record, self->record };
	int sent = evpl_send(self->ends[0], records, 2);

	return sent == 2 ? 0 : sent ?: -EIO;
}

static bool two_references_are_there(struct _test_data_nth *self)
{
	return self->entries[1].word == 2;
}

TEST_F(nth, send_of_two_that_fails_moves_no_reference)
{
	sweep(_metadata, self, &(struct sequence){
		.prepare = with_two,
		.call = call_send_two,
		.intact = two_references_are_there,
		.undo = unmap_and_close_ends,
		.entries = FIRST_SHARE,
		.one_by_one = true,
	});
}

static void sent(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	struct evpl_setup setup;

	bound(_metadata, self);
	self->receiver = open(DEVICE, O_RDWR | O_CLOEXEC);
	ASSERT_EQ(0, evpl_setup(self->receiver, 0, &setup));
	ASSERT_EQ(0, evpl_bind(self->receiver, self->ends[1]));
	ASSERT_EQ(0, call_send(self));
}

static int call_receive(struct _test_data_nth *self)
{
	int received = evpl_recv(self->ends[1], &self->record, 1);

	return received == 1 ? 0 : received ?: -EIO;
}

static void close_receiver(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	close(self->receiver);
	unmap_and_close_ends(_metadata, self);
}

static const struct sequence receive_sequence = {
	.prepare = sent,
	.call = call_receive,
	.intact = reference_is_there,
	.undo = close_receiver,
	.entries = FIRST_LEASE,
	.one_by_one = true,
};

TEST_F(nth, receive_that_fails_leaves_the_record)
{
	sweep(_metadata, self, &receive_sequence);
}

static void received(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	sent(_metadata, self);
	ASSERT_EQ(0, call_receive(self));
}

static int call_pass_on(struct _test_data_nth *self)
{
	int sent = evpl_send(self->ends[1], &self->record, 1);

	return sent == 1 ? 0 : sent ?: -EIO;
}

TEST_F(nth, passing_on_that_fails_keeps_the_lease)
{
	sweep(_metadata, self, &(struct sequence){
		.prepare = received,
		.call = call_pass_on,
		.intact = reference_is_there,
		.undo = close_receiver,
	});
}

static void mapped_lease(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	received(_metadata, self);
	self->memory = mmap(FAR + (1UL << 40), PAGE, PROT_READ, MAP_SHARED,
			    self->receiver, self->record.offset);
	ASSERT_NE(MAP_FAILED, self->memory);
}

static int call_touch_lease(struct _test_data_nth *self)
{
	(void)*(volatile char *)self->memory;
	return 0;
}

static void unmap_lease(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	EXPECT_EQ(0, munmap(self->memory, PAGE));
	close_receiver(_metadata, self);
}

TEST_F(nth, touch_of_a_lease_waits_for_memory_and_raises_no_signal)
{
	sweep(_metadata, self, &(struct sequence){
		.prepare = mapped_lease,
		.call = call_touch_lease,
		.undo = unmap_lease,
		.goes_on = true,
	});
}

static int call_revoke(struct _test_data_nth *self)
{
	return evpl_revoke(self->fd, MIB);
}

TEST_F(nth, revoke_that_fails_leaves_the_lease)
{
	sweep(_metadata, self, &(struct sequence){
		.prepare = received,
		.call = call_revoke,
		.intact = reference_is_there,
		.undo = close_receiver,
	});
}

static int call_pull(struct _test_data_nth *self)
{
	int pulled = evpl_lease_pull(self->fd);

	return pulled < 0 ? pulled : 0;
}

TEST_F(nth, pull_that_fails_leaves_the_lease)
{
	sweep(_metadata, self, &(struct sequence){
		.prepare = received,
		.call = call_pull,
		.intact = reference_is_there,
		.undo = close_receiver,
	});
}

static int call_release(struct _test_data_nth *self)
{
	int released = evpl_lease_release(self->receiver, &self->record.lease, 1);

	return released < 0 ? released : 0;
}

TEST_F(nth, release_that_fails_leaves_the_lease)
{
	sweep(_metadata, self, &(struct sequence){
		.prepare = received,
		.call = call_release,
		.intact = reference_is_there,
		.undo = close_receiver,
	});
}

static void referenced(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	mapped_refs(_metadata, self);
	self->entries[1].word = 1;
}

static int export(struct _test_data_nth *self, int fd, uint64_t offset, uint32_t flags)
{
	const struct evpl_range range = { offset, MIB };

	self->dmabuf = evpl_export(fd, &range, 1, flags);
	return self->dmabuf < 0 ? self->dmabuf : 0;
}

static int call_export(struct _test_data_nth *self)
{
	return export(self, self->fd, MIB, 0);
}

static int call_export_slab(struct _test_data_nth *self)
{
	return export(self, self->fd, MIB, EVPL_EXPORT_SLAB);
}

static int call_export_lease(struct _test_data_nth *self)
{
	return export(self, self->receiver, self->record.offset, 0);
}

static void close_dmabuf(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	EXPECT_EQ(0, close(self->dmabuf));
	EXPECT_EQ(0, self->entries[1].word);
	unmap_refs(_metadata, self);
}

static const struct sequence export_sequence = {
	.prepare = referenced,
	.call = call_export,
	.intact = reference_is_there,
	.undo = close_dmabuf,
	.entries = PAGE + FIRST_SHARE,
	.one_by_one = true,
};

TEST_F(nth, export_that_fails_moves_no_reference)
{
	sweep(_metadata, self, &export_sequence);
}

static void close_slab_dmabuf(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	EXPECT_EQ(-EBUSY, call_free(self));
	EXPECT_EQ(0, close(self->dmabuf));
	EXPECT_EQ(0, call_free(self));
	unmap_refs(_metadata, self);
}

static bool slab_is_not_exported(struct _test_data_nth *self)
{
	return !fdinfo(self->fd, "evpl-exports");
}

TEST_F(nth, export_of_a_slab_that_fails_leaves_it_alone)
{
	sweep(_metadata, self, &(struct sequence){
		.prepare = mapped_refs,
		.call = call_export_slab,
		.intact = slab_is_not_exported,
		.undo = close_slab_dmabuf,
		.entries = PAGE,
	});
}

static void close_dmabuf_and_receiver(struct __test_metadata *_metadata,
				      struct _test_data_nth *self)
{
	EXPECT_EQ(1, self->entries[1].word);
	EXPECT_EQ(0, close(self->dmabuf));
	EXPECT_EQ(0, self->entries[1].word);
	close_receiver(_metadata, self);
}

TEST_F(nth, export_of_a_lease_that_fails_keeps_it)
{
	self->record_flags = EVPL_RECORD_DEVICE;
	sweep(_metadata, self, &(struct sequence){
		.prepare = received,
		.call = call_export_lease,
		.intact = reference_is_there,
		.undo = close_dmabuf_and_receiver,
	});
}

static void mapped_dmabuf(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	referenced(_metadata, self);
	ASSERT_EQ(0, call_export(self));
	self->memory = mmap(FAR + (1UL << 40), MIB, PROT_READ, MAP_SHARED, self->dmabuf, 0);
	ASSERT_NE(MAP_FAILED, self->memory);
}

static void unmap_dmabuf(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	EXPECT_EQ(0, munmap(self->memory, MIB));
	close_dmabuf(_metadata, self);
}

TEST_F(nth, touch_of_a_dmabuf_waits_for_memory_and_raises_no_signal)
{
	sweep(_metadata, self, &(struct sequence){
		.prepare = mapped_dmabuf,
		.call = call_touch_lease,
		.undo = unmap_dmabuf,
		.goes_on = true,
	});
}

TEST_F(nth, receive_of_a_device_record_that_fails_leaves_the_record)
{
	self->record_flags = EVPL_RECORD_DEVICE;
	sweep(_metadata, self, &receive_sequence);
}

static void mapped_device_lease(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	self->record_flags = EVPL_RECORD_DEVICE;
	mapped_lease(_metadata, self);
}

TEST_F(nth, touch_of_a_device_lease_waits_for_memory_and_raises_no_signal)
{
	sweep(_metadata, self, &(struct sequence){
		.prepare = mapped_device_lease,
		.call = call_touch_lease,
		.undo = unmap_lease,
		.goes_on = true,
	});
}

static void drain_and_unmap_lease(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	char page[PAGE];

	EXPECT_EQ(PAGE, read(self->pipe[0], page, PAGE));
	unmap_lease(_metadata, self);
}

TEST_F(nth, pin_of_an_untouched_device_lease_that_fails_holds_nothing)
{
	sweep(_metadata, self, &(struct sequence){
		.prepare = mapped_device_lease,
		.call = call_pin,
		.intact = reference_is_there,
		.undo = drain_and_unmap_lease,
	});
}

/* The pipe holds a page of the lease, and the lease's word is 0. */
static void pinned_lease(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	uint64_t at;
	char *leases;

	mapped_device_lease(_metadata, self);
	ASSERT_EQ(0, call_pin(self));
	at = self->record.lease * sizeof(struct evpl_entry);
	leases = evpl_map(self->receiver, PAGE, self->setup.out_leases_offset + (at & -PAGE));
	ASSERT_NE(MAP_FAILED, leases);
	((struct evpl_entry *)(leases + at % PAGE))->word = 0;
	munmap(leases, PAGE);
}

static int call_release_held(struct _test_data_nth *self)
{
	int released = evpl_lease_release(self->receiver, &self->record.lease, 1);

	return released == 1 ? 0 : released ?: -EIO;
}

/* The buffer is in quarantine, and the owner gets it back when the pipe is drained. */
static void end_by_draining(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	char page[PAGE];

	EXPECT_EQ(1, read_counters().quarantined);
	EXPECT_EQ(1, self->entries[1].word);
	EXPECT_EQ(PAGE, read(self->pipe[0], page, PAGE));
	for (int tries = 0; tries < 600 && self->entries[1].word; tries++)
		usleep(10 * 1000);
	EXPECT_EQ(0, self->entries[1].word);
	EXPECT_EQ(0, read_counters().quarantined);
	unmap_lease(_metadata, self);
}

TEST_F(nth, release_of_a_lease_that_a_pipe_holds_and_that_fails_begins_no_quarantine)
{
	sweep(_metadata, self, &(struct sequence){
		.prepare = pinned_lease,
		.call = call_release_held,
		.intact = reference_is_there,
		.undo = end_by_draining,
	});
}

static int call_revoke_held(struct _test_data_nth *self)
{
	int ret = evpl_revoke(self->fd, MIB);

	return ret == 1 ? 0 : ret ?: -EIO;
}

TEST_F(nth, revoke_of_what_a_pipe_holds_and_that_fails_begins_no_quarantine)
{
	sweep(_metadata, self, &(struct sequence){
		.prepare = pinned_lease,
		.call = call_revoke_held,
		.intact = reference_is_there,
		.undo = end_by_draining,
	});
}

static void quarantined(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	pinned_lease(_metadata, self);
	ASSERT_EQ(0, call_release_held(self));
}

static int call_end_quarantine(struct _test_data_nth *self)
{
	return evpl_quarantine_end(self->fd, MIB);
}

static void ended(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	EXPECT_EQ(0, read_counters().quarantined);
	drain_and_unmap_lease(_metadata, self);
}

TEST_F(nth, end_of_a_quarantine_that_fails_keeps_it)
{
	sweep(_metadata, self, &(struct sequence){
		.prepare = quarantined,
		.call = call_end_quarantine,
		.intact = reference_is_there,
		.undo = ended,
	});
}

static int call_floor(struct _test_data_nth *self)
{
	int busy = evpl_floor(self->fd, 0, SLAB_2M, SLAB_2M);

	return busy > 0 ? -EIO : busy;
}

TEST_F(nth, floor_that_fails_can_be_set_again)
{
	sweep(_metadata, self, &(struct sequence){
		.prepare = bound,
		.call = call_floor,
		.undo = unmap_and_close_ends,
	});
}

static void exported(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	referenced(_metadata, self);
	ASSERT_EQ(0, export(self, self->fd, MIB, EVPL_EXPORT_WRITE));
}

static int call_import(struct _test_data_nth *self)
{
	struct drm_prime prime = { .fd = self->dmabuf };
	int ret = RESULT(ioctl(self->gpu, DRM_FD_TO_HANDLE, &prime));

	self->handle = prime.handle;
	return ret;
}

static void close_handle(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	struct drm_close drm_close = { .handle = self->handle };

	EXPECT_EQ(0, RESULT(ioctl(self->gpu, DRM_GEM_CLOSE, &drm_close)));
	close_dmabuf(_metadata, self);
}

TEST_F(nth, import_that_fails_leaves_the_dmabuf_as_it_was)
{
	self->gpu = open_vgem();
	if (self->gpu < 0)
		SKIP(return, "a kernel without vgem");
	sweep(_metadata, self, &(struct sequence){
		.prepare = exported,
		.call = call_import,
		.intact = reference_is_there,
		.undo = close_handle,
	});
	close(self->gpu);
}

/* A client's life. After the one failure it can clean up, however far it has come. */
static int call_life(struct _test_data_nth *self)
{
	int ret = call_open(self), closed;

	if (ret)
		return ret;
	ret = call_setup(self) ?: call_alloc(self) ?: call_map(self);
	if (ret)
		goto close;
	call_touch(self);
	ret = call_free(self);
	if (ret)
		ret = call_free(self) ? -EIO : ret;
	closed = call_unmap(self);
	if (closed)
		ret = call_unmap(self) ? -EIO : closed;
close:
	closed = RESULT(close(self->fd));
	self->fd = -1;
	return closed ?: ret;
}

TEST_F(nth, life_that_fails_anywhere_leaves_nothing)
{
	sweep(_metadata, self, &(struct sequence){
		.call = call_life,
		.undo = nothing,
	});
}

/*
 * Have allocations fail when @space bytes or pages have been allocated. Only tasks with
 * make-it-fail are hit.
 */
static void end_memory(struct __test_metadata *_metadata, struct _test_data_nth *self,
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
static int restore_memory(struct __test_metadata *_metadata, const char *kind)
{
	char path[128], times[32] = {};

	snprintf(path, sizeof(path), DEBUGFS "%s/probability", kind);
	EXPECT_EQ(0, write_number(path, 0));
	snprintf(path, sizeof(path), DEBUGFS "%s/times", kind);
	EXPECT_TRUE(read_string(path, times, sizeof(times)));
	return 1000000 - atoi(times);
}

/* Sweep over the memory that there is: from nothing up to all that the call needs. */
static void sweep_space(struct __test_metadata *_metadata, struct _test_data_nth *self,
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

TEST_F(nth, pages_that_end_at_any_point_leave_no_slab)
{
	struct sequence sequence = alloc_sequence;

	self->length = SLAB_2M;
	self->buffer_size = PAGE;
	sequence.entries = self->length / PAGE * sizeof(struct evpl_entry);
	sweep_space(_metadata, self, &sequence, "fail_page_alloc", 31);
}

TEST_F(nth, objects_that_end_at_any_point_leave_no_slab)
{
	struct sequence sequence = alloc_sequence;

	self->buffer_size = PAGE;
	sequence.entries = self->length / PAGE * sizeof(struct evpl_entry);
	sweep_space(_metadata, self, &sequence, "failslab", 64);
}

TEST_F(nth, objects_that_end_at_any_point_leave_no_client)
{
	sweep_space(_metadata, self, &(struct sequence){
		.call = call_open,
		.undo = close_client,
	}, "failslab", 256);
}

TEST_F(nth, pages_that_end_at_any_point_set_nothing_up)
{
	self->length = SLAB_2M;
	sweep_space(_metadata, self, &(struct sequence){
		.prepare = opened,
		.call = call_map,
		.undo = unmap,
	}, "fail_page_alloc", 31);
}

TEST_F(nth, objects_that_end_at_any_point_move_no_reference)
{
	sweep_space(_metadata, self, &send_sequence, "failslab", 64);
}

TEST_F(nth, objects_that_end_at_any_point_export_nothing)
{
	sweep_space(_metadata, self, &export_sequence, "failslab", 64);
}

TEST_F(nth, objects_that_end_at_any_point_leave_the_record)
{
	sweep_space(_metadata, self, &receive_sequence, "failslab", 64);
}

/*
 * Freeing needs no memory: of a slab that something holds, of a client with slabs, of a
 * process that has mapped them.
 */
TEST_F(nth, memory_goes_back_where_none_can_be_had)
{
	char page[PAGE];
	pid_t child;
	int ret;

	pinned(_metadata, self);
	child = fork();
	if (!child) {
		int task = open("/proc/thread-self/make-it-fail", O_RDWR);

		if (task < 0)
			_exit(1);
		end_memory(_metadata, self, "failslab", 0);
		end_memory(_metadata, self, "fail_page_alloc", 0);
		/* A fault would fail from here on: touch all pages that are needed before. */
		if (write(task, "0", 1) != 1 || syscall(SYS_getpid) != getpid() ||
		    write(task, "1", 1) != 1)
			_exit(2);
		syscall(SYS_exit_group, 0);
	}
	EXPECT_EQ(0, reap(child));
	restore_memory(_metadata, "failslab");
	restore_memory(_metadata, "fail_page_alloc");
	EXPECT_TRUE(memory_is_intact(self));

	end_memory(_metadata, self, "failslab", 0);
	end_memory(_metadata, self, "fail_page_alloc", 0);
	ASSERT_EQ(1, pwrite(self->task, "1", 1, 0));
	ret = call_free(self);
	ASSERT_EQ(1, pwrite(self->task, "0", 1, 0));
	EXPECT_EQ(0, ret);
	EXPECT_EQ(0, fdinfo(self->fd, "evpl-slabs"));
	EXPECT_LT(0, read_counters().detached);
	EXPECT_EQ(0, munmap(self->memory, self->length));
	ASSERT_EQ(0, call_alloc(self));

	ASSERT_EQ(1, pwrite(self->task, "1", 1, 0));
	ret = RESULT(close(self->fd));
	ASSERT_EQ(1, pwrite(self->task, "0", 1, 0));
	EXPECT_EQ(0, ret);
	EXPECT_EQ(self->before.clients, read_counters().clients);
	EXPECT_EQ(self->before.slabs, read_counters().slabs);
	restore_memory(_metadata, "failslab");
	restore_memory(_metadata, "fail_page_alloc");
	EXPECT_EQ(PAGE, read(self->pipe[0], page, PAGE));
}

TEST_HARNESS_MAIN
