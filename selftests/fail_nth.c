// SPDX-License-Identifier: GPL-2.0-only
/*
 * Calls of one client whose allocations and user copies fail (see fail_nth.h): open, set-up,
 * slabs, mappings, and the files that tell about clients.
 */
#include <sys/syscall.h>
#include <sys/uio.h>

#include "fail_nth.h"

#define CLIENTS		DEBUGFS "evpl/clients"
#define NODE		"/sys/devices/system/node/node1"

/* The charge for the entries of a slab of buffers of one page each. */
static size_t entries_of(size_t length)
{
	size_t bytes = length / PAGE * sizeof(struct evpl_entry);

	return (bytes + PAGE - 1) & -PAGE;
}
#define PATTERN		0x5a5a5a5a5aUL

static void nothing(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
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

static int call_unmap(struct _test_data_nth *self)
{
	return RESULT(munmap(self->memory, self->length));
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
	sequence.entries = entries_of(self->length);
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
		.entries = HEADER_PAGE + REFS_PAGE,
		.one_by_one = true,
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
	       strstr(self->text, " 0 1 4194304 0 0 0 ") ? 0 : -EIO;
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

static void left_pinned(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	pinned(_metadata, self);
	EXPECT_EQ(0, munmap(self->memory, self->length));
}

static int call_adopt(struct _test_data_nth *self)
{
	return evpl_adopt(self->fd, 0, &self->setup);
}

static bool memory_is_there(struct _test_data_nth *self)
{
	return fdinfo(self->fd, "evpl-bytes") == self->length;
}

static void close_and_drain(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	char page[PAGE];

	/* Each buffer of the folio that the pipe holds is in quarantine. */
	EXPECT_LT(0, fdinfo(self->fd, "evpl-buffers-in-quarantine"));
	close_client(_metadata, self);
	EXPECT_EQ(PAGE, read(self->pipe[0], page, PAGE));
}

TEST_F(nth, adopting_that_fails_can_be_done_again)
{
	sweep(_metadata, self, &(struct sequence){
		.prepare = left_pinned,
		.call = call_adopt,
		.intact = memory_is_there,
		.undo = close_and_drain,
		.in_part = true,
	});
}

/* The cap has room only when the memory that the pipe held has been freed. */
static void let_go_of(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	char page[PAGE];

	pinned(_metadata, self);
	ASSERT_EQ(0, call_free(self));
	ASSERT_EQ(0, write_number(MAX_BYTES, self->before.charged + LENGTH +
					     HEADER_PAGE + REFS_PAGE));
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

static void allocated_with_ring(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	allocated(_metadata, self);
	open_ring(_metadata, self);
}

static int call_register(struct _test_data_nth *self)
{
	return ring_take(&self->ring, self->fd, 0, self->offset, self->length, EVPL_URING_WRITE);
}

static void drop_and_close(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	drop_and_close_ring(_metadata, self);
	close_client(_metadata, self);
}

static const struct sequence register_sequence = {
	.prepare = allocated_with_ring,
	.call = call_register,
	.intact = nothing_is_registered,
	.undo = drop_and_close,
	.also = EAGAIN,	/* of io_uring, if it has no request */
};

TEST_F(nth, registration_that_fails_leaves_nothing_with_the_ring)
{
	if (!rings_can_register())
		SKIP(return, NO_COMMAND);
	sweep(_metadata, self, &register_sequence);
}

TEST_F(nth, objects_that_end_at_any_point_register_nothing)
{
	if (!rings_can_register())
		SKIP(return, NO_COMMAND);
	sweep_space(_metadata, self, &register_sequence, "failslab", 64);
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
		.entries = HEADER_PAGE,
	});
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

TEST_F(nth, pages_that_end_at_any_point_leave_no_slab)
{
	struct sequence sequence = alloc_sequence;

	self->length = SLAB_2M;
	self->buffer_size = PAGE;
	sequence.entries = entries_of(self->length);
	sweep_space(_metadata, self, &sequence, "fail_page_alloc", 31);
}

TEST_F(nth, objects_that_end_at_any_point_leave_no_slab)
{
	struct sequence sequence = alloc_sequence;

	self->buffer_size = PAGE;
	sequence.entries = entries_of(self->length);
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
		.entries = HEADER_PAGE + REFS_PAGE,
		.one_by_one = true,
	}, "fail_page_alloc", 31);
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
