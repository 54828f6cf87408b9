// SPDX-License-Identifier: GPL-2.0-only
/* The format of the ioctls: sizes, flags, reserved fields, errnos; and set-up. */
#include <linux/major.h>
#include <poll.h>
#include <sys/sysmacros.h>

#include "evpl_test.h"

FIXTURE(client)
{
	int fd;
	struct counters before;
};

FIXTURE_SETUP(client)
{
	self->before = read_counters();
	ASSERT_GE(self->before.clients, 0);
	self->fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	ASSERT_GE(self->fd, 0);
}

FIXTURE_TEARDOWN(client)
{
	close(self->fd);
	EXPECT_TRUE(counters_return_to(self->before));
}

/* Room for any struct, and for a page and more behind it. */
union any {
	uint32_t size;
	struct evpl_setup setup;
	struct evpl_slab_alloc slab_alloc;
	struct evpl_slab_free slab_free;
	struct evpl_slab_next slab_next;
	struct evpl_channel_create channel_create;
	struct evpl_channel_bind channel_bind;
	struct evpl_lease_release lease_release;
	struct evpl_lease_pull lease_pull;
	struct evpl_revoke revoke;
	struct evpl_baseline baseline;
	struct evpl_quarantine_end quarantine_end;
	struct evpl_export export;
	struct evpl_buffer_wait buffer_wait;
	struct evpl_doorbell doorbell;
	struct evpl_room room;
	char bytes[2 * PAGE];
};

static const struct evpl_range a_page = { .length = PAGE };

/*
 * Each ioctl with a valid argument, for a client in the state that the ioctl needs, or with
 * .on_end for an end of a lane that the client has. The result
 * is 0, or -ENOENT where the ioctl would need more than the argument.
 */
static const struct call {
	unsigned int cmd;
	uint32_t size;
	uint32_t first_size;	/* in the first version, if the struct has grown */
	int result;
	uint32_t flags;		/* that the kernel knows */
	bool set_up;
	bool slab;
	bool on_end;
	bool no_output;
	union any args;
} calls[] = {
	{
		.cmd = EVPL_SETUP,
		.size = sizeof(struct evpl_setup),
		.first_size = offsetof(struct evpl_setup, out_guest_io_offset),
		.flags = EVPL_SETUP_ZEROS | EVPL_SETUP_REVOKE,
	},
	{
		.cmd = EVPL_ADOPT,
		.size = sizeof(struct evpl_setup),
		.set_up = true,
		.slab = true,
	},
	{
		.cmd = EVPL_SLAB_ALLOC,
		.size = sizeof(struct evpl_slab_alloc),
		.flags = EVPL_SLAB_HUGE,
		.set_up = true,
		.args.slab_alloc = { .length = SLAB_2M, .node = EVPL_NODE_ANY },
	},
	{
		.cmd = EVPL_SLAB_FREE,
		.size = sizeof(struct evpl_slab_free),
		.set_up = true,
		.slab = true,
		.no_output = true,
	},
	{
		.cmd = EVPL_SLAB_NEXT,
		.size = sizeof(struct evpl_slab_next),
		.set_up = true,
		.slab = true,
	},
	{
		.cmd = EVPL_CHANNEL_CREATE,
		.size = sizeof(struct evpl_channel_create),
	},
	{
		.cmd = EVPL_CHANNEL_BIND,
		.size = sizeof(struct evpl_channel_bind),
		.flags = EVPL_BIND_LANE,
		.set_up = true,
	},
	{
		.cmd = EVPL_LEASE_RELEASE,
		.size = sizeof(struct evpl_lease_release),
		.set_up = true,
		.no_output = true,
	},
	{
		.cmd = EVPL_LEASE_PULL,
		.flags = EVPL_PULL_WANT,
		.size = sizeof(struct evpl_lease_pull),
		.set_up = true,
		.no_output = true,
	},
	{
		.cmd = EVPL_REVOKE,
		.size = sizeof(struct evpl_revoke),
		.set_up = true,
		.slab = true,
		.no_output = true,
	},
	{
		.cmd = EVPL_BASELINE,
		.size = sizeof(struct evpl_baseline),
		.flags = EVPL_BASELINE_ZERO | EVPL_BASELINE_ALIKE,
		.set_up = true,
		.slab = true,
		.no_output = true,
		.args.baseline = { .length = SLAB_2M },
	},
	{
		.cmd = EVPL_QUARANTINE_END,
		.size = sizeof(struct evpl_quarantine_end),
		.result = -ENOENT,
		.set_up = true,
		.slab = true,
		.no_output = true,
	},
	{
		.cmd = EVPL_EXPORT,
		.size = sizeof(struct evpl_export),
		.flags = EVPL_EXPORT_WRITE | EVPL_EXPORT_SLAB,
		.set_up = true,
		.slab = true,
		.args.export = {
			.flags = EVPL_EXPORT_SLAB,
			.ranges = (uintptr_t)&a_page,
			.count = 1,
		},
	},
	{
		.cmd = EVPL_BUFFER_WAIT,
		.size = sizeof(struct evpl_buffer_wait),
		.flags = EVPL_WAIT_TRY,
		.set_up = true,
		.slab = true,
		.no_output = true,
	},
	{
		.cmd = EVPL_DOORBELL,
		.size = sizeof(struct evpl_doorbell),
		.flags = EVPL_DOORBELL_SELF,
		.set_up = true,
		.on_end = true,
		.no_output = true,
		.args.doorbell = { .ring = EVPL_DOORBELL_IN },
	},
	{
		.cmd = EVPL_ROOM,
		.size = sizeof(struct evpl_room),
		.set_up = true,
	},
};

#define for_each_call(call)						\
	for (const struct call *call = calls;				\
	     call < calls + ARRAY_SIZE(calls); call++)

/*
 * The ends of a channel, bound to no client, or with .on_end both to the client. open_for() makes
 * a new channel for each client.
 */
static int ends[2] = { -1, -1 };

static int open_for(const struct call *call)
{
	struct evpl_setup setup;
	uint64_t offset;
	int fd = open(DEVICE, O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	if (call->set_up && evpl_setup(fd, 0, &setup))
		goto fail;
	if (call->slab && evpl_slab_alloc(fd, SLAB_2M, &offset))
		goto fail;
	if ((call->cmd == EVPL_CHANNEL_BIND || call->on_end) && evpl_channel(fd, 1, ends))
		goto fail;
	for (int i = 0; i < 2 && call->on_end; i++)
		if (evpl_bind_with(fd, ends[i], EVPL_BIND_LANE))
			goto fail;
	return fd;
fail:
	close(fd);
	return -1;
}

/* The file that the call is for. */
static int target(const struct call *call, int fd)
{
	return call->on_end ? ends[0] : fd;
}

static void close_for(const struct call *call, int fd)
{
	close(fd);
	for (int i = 0; i < 2; i++) {
		if (ends[i] >= 0)
			close(ends[i]);
		ends[i] = -1;
	}
}

/* Whether poll(2) says POLLIN for an end, which has nothing to read. */
static bool is_rung(int end)
{
	struct pollfd poll_fd = { .fd = end, .events = POLLIN };

	return poll(&poll_fd, 1, 0) && poll_fd.revents & POLLIN;
}

/* Run a call on a new client; check the errno, and that a failure changed nothing. */
static void check(struct __test_metadata *_metadata, const struct call *call,
		  union any *args, unsigned int cmd, int expected)
{
	int fd = open_for(call);
	struct evpl_setup setup;
	int result;

	ASSERT_GE(fd, 0);
	if (call->cmd == EVPL_CHANNEL_BIND)
		args->channel_bind.fd = ends[0];
	result = RESULT(ioctl(target(call, fd), cmd, args));
	if (!result && call->cmd == EVPL_CHANNEL_CREATE)
		memcpy(ends, args->channel_create.out_fds, sizeof(ends));
	if (!result && call->cmd == EVPL_EXPORT)
		close(args->export.out_fd);
	EXPECT_EQ(expected, result) {
		TH_LOG("ioctl %#x, struct of %u", cmd, args->size);
	}
	if (expected) {
		EXPECT_EQ(call->slab ? 1 : 0, fdinfo(fd, "evpl-slabs"));
		EXPECT_EQ(call->set_up ? -EBUSY : 0, evpl_setup(fd, 0, &setup));
		if (call->cmd == EVPL_CHANNEL_BIND)
			EXPECT_EQ(0, evpl_bind(fd, ends[0]));
		if (call->on_end)
			EXPECT_FALSE(is_rung(ends[1]));
	}
	close_for(call, fd);
}

/* A task that opens a device of the misc driver holds a lock that all such devices share. */
TEST_F(client, device_is_none_of_the_misc_driver)
{
	struct stat stat_buf;

	ASSERT_EQ(0, fstat(self->fd, &stat_buf));
	EXPECT_TRUE(S_ISCHR(stat_buf.st_mode));
	EXPECT_NE(MISC_MAJOR, major(stat_buf.st_rdev));
}

TEST_F(client, exact_size_works)
{
	for_each_call(call) {
		union any args = call->args;

		args.size = call->size;
		check(_metadata, call, &args, call->cmd, call->result);
	}
}

TEST_F(client, shorter_struct_is_EINVAL)
{
	for_each_call(call) {
		uint32_t end = call->first_size ?: call->size;

		for (uint32_t size = 0; size < end; size++) {
			union any args = call->args;

			args.size = size;
			check(_metadata, call, &args, call->cmd, -EINVAL);
		}
	}
}

TEST_F(client, struct_of_an_earlier_version_works_and_nothing_behind_it_is_written)
{
	for_each_call(call) {
		union any args = call->args;
		uint32_t size = call->first_size;

		if (!size)
			continue;
		args.size = size;
		memset(args.bytes + size, 0x77, call->size - size);
		check(_metadata, call, &args, call->cmd, call->result);
		EXPECT_TRUE(is_filled_with(args.bytes + size, 0x77, call->size - size));
	}
}

TEST_F(client, longer_struct_with_zeros_works)
{
	static const uint32_t more[] = { 1, 4, 8, 100 };

	for_each_call(call) {
		for (size_t i = 0; i < ARRAY_SIZE(more); i++) {
			union any args = call->args;

			args.size = call->size + more[i];
			check(_metadata, call, &args, call->cmd, call->result);
		}
	}
}

TEST_F(client, longer_struct_with_a_nonzero_byte_is_E2BIG)
{
	for_each_call(call) {
		for (uint32_t more = 1; more < 18; more++) {
			union any args = call->args;

			args.size = call->size + more;
			args.bytes[args.size - 1] = 1;
			check(_metadata, call, &args, call->cmd, -E2BIG);
		}
	}
}

TEST_F(client, struct_of_more_than_a_page_is_E2BIG)
{
	for_each_call(call) {
		union any args = call->args;

		args.size = sysconf(_SC_PAGESIZE);
		check(_metadata, call, &args, call->cmd, call->result);
		args = call->args;
		args.size = sysconf(_SC_PAGESIZE) + 1;
		check(_metadata, call, &args, call->cmd, -E2BIG);
		args.size = UINT32_MAX;
		check(_metadata, call, &args, call->cmd, -E2BIG);
	}
}

TEST_F(client, size_comes_from_the_struct_not_from_the_command)
{
	for_each_call(call) {
		union any args = call->args;

		args.size = call->size;
		check(_metadata, call, &args,
		      _IOC(_IOC_NONE, _IOC_TYPE(call->cmd), _IOC_NR(call->cmd),
			   0), call->result);
	}
}

TEST_F(client, unknown_flags_are_EOPNOTSUPP)
{
	for_each_call(call) {
		for (int bit = 0; bit < 32; bit++) {
			union any args = call->args;

			if (1U << bit & call->flags)
				continue;
			args.size = call->size;
			/* In every struct the flags come after the size. */
			((uint32_t *)args.bytes)[1] = 1U << bit;
			check(_metadata, call, &args, call->cmd, -EOPNOTSUPP);
		}
	}
}

TEST_F(client, reserved_field_that_is_not_zero_is_EINVAL)
{
	for_each_call(call) {
		union any args = call->args;

		args.size = call->size;
		switch (call->cmd) {
		case EVPL_SLAB_ALLOC:
			args.slab_alloc.__reserved = 1;
			break;
		case EVPL_SLAB_NEXT:
			args.slab_next.__reserved = 1;
			break;
		case EVPL_CHANNEL_CREATE:
			args.channel_create.__reserved = 1;
			break;
		case EVPL_CHANNEL_BIND:
			args.channel_bind.out_capacity = 1;
			break;
		case EVPL_LEASE_RELEASE:
			args.lease_release.__reserved = 1;
			break;
		default:
			continue;
		}
		check(_metadata, call, &args, call->cmd, -EINVAL);
	}
}

TEST_F(client, unknown_ioctl_is_ENOTTY)
{
	union any args = { .size = 8 };

	EXPECT_EQ(-ENOTTY, RESULT(ioctl(self->fd, EVPL_URING_REGISTER, &args)));
	EXPECT_EQ(-ENOTTY, RESULT(ioctl(self->fd, EVPL_URING_UNREGISTER, &args)));
	EXPECT_EQ(-ENOTTY, RESULT(ioctl(self->fd, _IO(EVPL_IOC_TYPE, 18), &args)));
	EXPECT_EQ(-ENOTTY, RESULT(ioctl(self->fd, _IO(EVPL_IOC_TYPE, 255), &args)));
	EXPECT_EQ(-ENOTTY, RESULT(ioctl(self->fd, _IO(EVPL_IOC_TYPE - 1, 0), &args)));
	EXPECT_EQ(-ENOTTY, RESULT(ioctl(self->fd, TCGETS, &args)));
}

TEST_F(client, ioctl_of_another_kind_of_file_is_ENOTTY)
{
	for_each_call(call) {
		union any args = call->args;
		int fd = open_for(call), both[2];

		ASSERT_GE(fd, 0);
		ASSERT_EQ(0, evpl_channel(fd, 1, both));
		args.size = call->size;
		EXPECT_EQ(-ENOTTY, RESULT(ioctl(call->on_end ? fd : both[0], call->cmd, &args)));
		close(both[0]);
		close(both[1]);
		close_for(call, fd);
	}
}

TEST_F(client, unreadable_struct_is_EFAULT)
{
	for_each_call(call) {
		char *page = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		union any args = call->args;
		int fd = open_for(call);

		ASSERT_GE(fd, 0);
		EXPECT_EQ(-EFAULT, RESULT(ioctl(target(call, fd), call->cmd, NULL)));

		/* The size can be read, the rest can't. */
		args.size = call->size;
		munmap(page + PAGE, PAGE);
		memcpy(page + PAGE - 4, &args, 4);
		EXPECT_EQ(-EFAULT, RESULT(ioctl(target(call, fd), call->cmd, page + PAGE - 4)));
		EXPECT_EQ(call->slab ? 1 : 0, fdinfo(fd, "evpl-slabs"));
		munmap(page, PAGE);
		close_for(call, fd);
	}
}

TEST_F(client, struct_that_cannot_be_written_is_EFAULT_and_changes_nothing)
{
	for_each_call(call) {
		char *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		union any *args = (union any *)page;
		bool binds = call->cmd == EVPL_CHANNEL_BIND;
		struct evpl_setup setup;
		int fd;

		if (call->no_output)
			continue;
		fd = open_for(call);
		ASSERT_GE(fd, 0);
		memcpy(page, &call->args, 256);
		args->size = call->size;
		if (binds)
			args->channel_bind.fd = ends[0];
		mprotect(page, PAGE, PROT_READ);
		EXPECT_EQ(-EFAULT, RESULT(ioctl(fd, call->cmd, page)));
		if (binds)
			EXPECT_EQ(0, evpl_bind(fd, ends[0]));
		EXPECT_EQ(call->slab ? 1 : 0, fdinfo(fd, "evpl-slabs"));
		EXPECT_EQ(call->slab ? SLAB_2M : 0, fdinfo(fd, "evpl-bytes"));
		EXPECT_EQ(self->before.channels + binds, read_counters().channels);
		EXPECT_EQ(self->before.exports, read_counters().exports);
		EXPECT_EQ(call->set_up ? -EBUSY : 0, evpl_setup(fd, 0, &setup));
		munmap(page, PAGE);
		close_for(call, fd);
	}
}

TEST_F(client, calls_before_set_up_are_ENXIO)
{
	struct evpl_slab_next next;
	struct evpl_setup setup;
	struct evpl_room room;
	uint64_t offset;

	EXPECT_EQ(-ENXIO, evpl_slab_alloc(self->fd, SLAB_2M, &offset));
	EXPECT_EQ(-ENXIO, evpl_slab_free(self->fd, 0));
	EXPECT_EQ(-ENXIO, evpl_bind(self->fd, 0));
	EXPECT_EQ(-ENXIO, evpl_lease_release(self->fd, NULL, 0));
	EXPECT_EQ(-ENXIO, evpl_lease_pull(self->fd));
	EXPECT_EQ(-ENXIO, evpl_revoke(self->fd, 0));
	EXPECT_EQ(-ENXIO, evpl_baseline(self->fd, 0, 0, SLAB_2M));
	EXPECT_EQ(-ENXIO, evpl_quarantine_end(self->fd, 0));
	EXPECT_EQ(-ENXIO, evpl_export(self->fd, &a_page, 1, 0));
	EXPECT_EQ(-ENXIO, evpl_slab_next(self->fd, 0, &next));
	EXPECT_EQ(-ENXIO, evpl_adopt(self->fd, 0, &setup));
	EXPECT_EQ(-ENXIO, evpl_room(self->fd, &room));
	EXPECT_EQ(0, fdinfo(self->fd, "evpl-buffer-size"));
}

TEST_F(client, set_up_twice_is_EBUSY)
{
	struct evpl_setup setup;

	ASSERT_EQ(0, evpl_setup(self->fd, 64 * KIB, &setup));
	EXPECT_EQ(-EBUSY, evpl_setup(self->fd, 64 * KIB, &setup));
	EXPECT_EQ(-EBUSY, evpl_setup(self->fd, PAGE, &setup));
	EXPECT_EQ(64 * KIB, fdinfo(self->fd, "evpl-buffer-size"));
}

TEST_F(client, set_up_tells_windows_that_do_not_overlap)
{
	struct evpl_setup setup;

	ASSERT_EQ(0, evpl_setup(self->fd, 0, &setup));
	EXPECT_EQ(1 * MIB, setup.out_buffer_size);
	EXPECT_EQ(0, setup.out_own_offset);
	EXPECT_GE(setup.out_own_size, 1UL << 40);
	EXPECT_EQ(setup.out_own_size / setup.out_buffer_size *
		  sizeof(struct evpl_entry), setup.out_refs_size);
	EXPECT_EQ(setup.out_own_size / setup.out_buffer_size / 8,
		  setup.out_returned_size);
	EXPECT_EQ(setup.out_leases_size / sizeof(struct evpl_entry) / 8,
		  setup.out_revoked_size);

	const struct {
		uint64_t offset, size;
	} windows[] = {
		{ setup.out_own_offset, setup.out_own_size },
		{ setup.out_refs_offset, setup.out_refs_size },
		{ setup.out_guest_offset, setup.out_guest_size },
		{ setup.out_guest_ro_offset, setup.out_guest_size },
		{ setup.out_guest_io_offset, setup.out_guest_size },
		{ setup.out_guest_io_ro_offset, setup.out_guest_size },
		{ setup.out_leases_offset, setup.out_leases_size },
		{ setup.out_returned_offset, setup.out_returned_size },
		{ setup.out_revoked_offset, setup.out_revoked_size },
		{ setup.out_header_offset, setup.out_header_size },
	};

	for (int i = 0; i < ARRAY_SIZE(windows); i++) {
		EXPECT_LT(0, windows[i].size);
		EXPECT_EQ(0, windows[i].offset % PAGE);
		EXPECT_EQ(0, windows[i].size % PAGE);
		for (int j = 0; j < i; j++)
			EXPECT_TRUE(windows[i].offset >= windows[j].offset + windows[j].size ||
				    windows[j].offset >= windows[i].offset + windows[i].size);
	}
}

TEST_F(client, every_power_of_two_is_a_buffer_size_and_nothing_else_is)
{
	static const uint64_t bad[] = {
		1, PAGE / 2, PAGE - 1, PAGE + 1, PAGE + PAGE / 2, 1 * MIB + PAGE,
		3 * MIB, 2048 * MIB, 1UL << 40, 1UL << 63, UINT64_MAX,
	};
	struct evpl_setup setup;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		EXPECT_EQ(-EINVAL, evpl_setup(self->fd, bad[i], &setup));
	EXPECT_EQ(0, fdinfo(self->fd, "evpl-buffer-size"));

	for (uint64_t size = PAGE; size <= 1024 * MIB; size *= 2) {
		int fd = open(DEVICE, O_RDWR | O_CLOEXEC);

		ASSERT_EQ(0, evpl_setup(fd, size, &setup));
		EXPECT_EQ(size, setup.out_buffer_size);
		EXPECT_EQ(size, fdinfo(fd, "evpl-buffer-size"));
		close(fd);
	}
}

#ifdef __x86_64__
/* Call ioctl(2) as a 32-bit program does. */
static int compat_ioctl(int fd, unsigned int cmd, void *arg)
{
	int ret;

	asm volatile("int $0x80"
		     : "=a"(ret)
		     : "a"(54), "b"(fd), "c"(cmd), "d"((uint32_t)(uintptr_t)arg)
		     : "memory", "r8", "r9", "r10", "r11");
	return ret;
}

TEST_F(client, a_32_bit_program_uses_the_same_structs)
{
	union any *args = mmap(NULL, sizeof(*args), PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	int ret;

	ASSERT_NE(MAP_FAILED, args);
	args->size = sizeof(args->setup);
	ret = compat_ioctl(self->fd, EVPL_SETUP, args);
	if (ret == -ENOSYS)
		SKIP(return, "the kernel has no 32-bit calls");
	EXPECT_EQ(0, ret);
	EXPECT_EQ(1 * MIB, args->setup.out_buffer_size);

	memset(args, 0, sizeof(*args));
	args->slab_alloc = (struct evpl_slab_alloc){
		.size = sizeof(args->slab_alloc),
		.length = SLAB_2M,
		.node = EVPL_NODE_ANY,
	};
	EXPECT_EQ(0, compat_ioctl(self->fd, EVPL_SLAB_ALLOC, args));
	EXPECT_EQ(1, fdinfo(self->fd, "evpl-slabs"));
}
#endif

TEST_HARNESS_MAIN
