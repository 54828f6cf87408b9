// SPDX-License-Identifier: GPL-2.0-only
/*
 * The ioctls. evpl_ioctl() copies the struct of a call in, and checks what the table of calls
 * says. Each call checks the rest, does its work, copies the results out, and publishes them
 * last.
 */
#include <linux/err.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/log2.h>
#include <linux/mm.h>
#include <linux/nodemask.h>
#include <linux/nospec.h>
#include <linux/overflow.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "account.h"
#include "adopt.h"
#include "channel.h"
#include "client.h"
#include "dmabuf.h"
#include "evpl.h"
#include "ioctl.h"
#include "lease.h"
#include "quarantine.h"
#include "refs.h"
#include "share.h"
#include "slab.h"
#include "syncpoint.h"
#include "window.h"

/**
 * struct evpl_call - an ioctl in progress
 * @file: the file that it is called on
 * @client: the client whose file that is; NULL if it is an end of a channel
 * @user: the caller's struct
 * @user_size: its size, as the caller says
 * @size: the size that this kernel knows
 * @args: a copy of the struct; fields that the caller doesn't know are zero. All structs begin
 *	with @args.head.
 */
struct evpl_call {
	struct file *file;
	struct evpl_client *client;
	void __user *user;
	u32 user_size;
	u32 size;
	union {
		struct {
			u32 size;
			u32 flags;
		} head;
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
	} args;
};

/* Copy the outputs to the caller, which may know fewer of them. */
static int call_respond(struct evpl_call *call)
{
	if (copy_to_user(call->user, &call->args,
			 min(call->user_size, call->size)))
		return -EFAULT;
	return 0;
}

static u64 refs_offset(unsigned long page)
{
	return (EVPL_REFS_START + page) << PAGE_SHIFT;
}

static u64 guest_offset(enum evpl_lease_kind kind)
{
	return (EVPL_GUEST_START + kind * EVPL_GUEST_PAGES) << PAGE_SHIFT;
}

/* Tell the caller what the windows of a client with these buffers and flags are. */
static int setup_respond(struct evpl_call *call, unsigned int shift, u32 flags)
{
	struct evpl_setup *args = &call->args.setup;

	args->out_buffer_size = BIT_ULL(shift);
	args->out_own_offset = 0;
	args->out_own_size = EVPL_OWN_SIZE;
	args->out_refs_offset = refs_offset(EVPL_REFS_ENTRIES);
	args->out_refs_size = evpl_refs_pages(shift) << PAGE_SHIFT;
	args->out_guest_offset = guest_offset(EVPL_LEASE_RW);
	args->out_guest_ro_offset = guest_offset(EVPL_LEASE_RO);
	args->out_guest_io_offset = guest_offset(EVPL_LEASE_IO_RW);
	args->out_guest_io_ro_offset = guest_offset(EVPL_LEASE_IO_RO);
	args->out_guest_size = EVPL_GUEST_PAGES << PAGE_SHIFT;
	args->out_leases_offset = refs_offset(EVPL_REFS_LEASES);
	args->out_leases_size = EVPL_LEASES_PAGES << PAGE_SHIFT;
	args->out_returned_offset = refs_offset(EVPL_REFS_RETURNED);
	args->out_returned_size = evpl_returned_pages(shift) << PAGE_SHIFT;
	args->out_revoked_offset = refs_offset(EVPL_REFS_REVOKED);
	args->out_revoked_size = EVPL_REVOKED_PAGES << PAGE_SHIFT;
	args->out_header_offset = refs_offset(EVPL_REFS_HEADER);
	args->out_header_size = PAGE_SIZE;
	args->out_flags = flags;
	return call_respond(call);
}

static int ioctl_setup(struct evpl_call *call)
{
	struct evpl_setup *args = &call->args.setup;
	unsigned int shift;
	int ret;

	if (!args->buffer_size)
		args->buffer_size = EVPL_BUFFER_SIZE_DEFAULT;
	if (!is_power_of_2(args->buffer_size) ||
	    args->buffer_size < max(EVPL_BUFFER_SIZE_MIN, PAGE_SIZE) ||
	    args->buffer_size > EVPL_BUFFER_SIZE_MAX)
		return -EINVAL;
	if (evpl_client_is_set_up(call->client))
		return -EBUSY;

	shift = ilog2(args->buffer_size);
	ret = setup_respond(call, shift, args->flags);
	if (ret)
		return ret;
	return evpl_client_set_up(call->client, shift, args->flags, NULL);
}

static int ioctl_adopt(struct evpl_call *call)
{
	struct evpl_setup *args = &call->args.setup;
	unsigned int shift = evpl_client_buffer_shift(call->client);
	int ret;

	if (args->buffer_size && args->buffer_size != BIT_ULL(shift))
		return -EINVAL;
	/* Respond first: once the client is adopted, the successor needs the answer. */
	ret = setup_respond(call, shift, call->client->flags);
	if (ret)
		return ret;
	return evpl_adopt(call->client);
}

static bool node_is_valid(int *node)
{
	if (*node == EVPL_NODE_ANY)
		return true;
	if (*node < 0 || *node >= MAX_NUMNODES)
		return false;
	*node = array_index_nospec(*node, MAX_NUMNODES);
	return node_state(*node, N_MEMORY);
}

static int ioctl_slab_alloc(struct evpl_call *call)
{
	struct evpl_slab_alloc *args = &call->args.slab_alloc;
	struct evpl_client *client = call->client;
	unsigned int shift = evpl_client_buffer_shift(client);
	struct evpl_slab *slab;
	int ret;

	if (args->__reserved || !args->length || args->length > EVPL_OWN_SIZE ||
	    !IS_ALIGNED(args->length, EVPL_SLAB_ALIGN) ||
	    !IS_ALIGNED(args->length, BIT_ULL(shift)) ||
	    !node_is_valid(&args->node))
		return -EINVAL;

	slab = evpl_slab_create(client, args->length >> PAGE_SHIFT, args->node,
				args->flags);
	if (IS_ERR(slab))
		return PTR_ERR(slab);

	mutex_lock(&client->lock);
	ret = evpl_slab_reserve(client, slab, shift);
	mutex_unlock(&client->lock);
	if (ret)
		goto orphan_slab;
	evpl_syncpoint(EVPL_SYNCPOINT_RESERVED);

	args->out_offset = (u64)slab->start << PAGE_SHIFT;
	ret = call_respond(call);

	mutex_lock(&client->lock);
	if (ret)
		evpl_slab_remove(client, slab);
	else
		evpl_slab_publish(client, slab);
	mutex_unlock(&client->lock);
	if (ret)
		goto orphan_slab;
	return 0;

orphan_slab:
	evpl_slab_orphan(slab);
	return ret;
}

static int ioctl_slab_free(struct evpl_call *call)
{
	struct evpl_slab_free *args = &call->args.slab_free;

	if (!IS_ALIGNED(args->offset, PAGE_SIZE))
		return -ENOENT;
	return evpl_slab_free(call->client, args->offset >> PAGE_SHIFT);
}

static int ioctl_slab_next(struct evpl_call *call)
{
	struct evpl_slab_next *args = &call->args.slab_next;
	struct evpl_client *client = call->client;
	struct evpl_slab *slab;

	if (args->__reserved)
		return -EINVAL;
	if (args->offset > EVPL_OWN_SIZE)
		return -ENOENT;
	down_read(&client->tree_lock);
	slab = evpl_slab_next(client, DIV_ROUND_UP(args->offset, PAGE_SIZE));
	if (slab) {
		args->out_offset = (u64)slab->start << PAGE_SHIFT;
		args->out_length = (u64)slab->nr_pages << PAGE_SHIFT;
		args->out_node = slab->numa_node;
	}
	up_read(&client->tree_lock);
	return slab ? call_respond(call) : -ENOENT;
}

static int ioctl_channel_create(struct evpl_call *call)
{
	struct evpl_channel_create *args = &call->args.channel_create;
	struct file *ends[2];
	int fds[2], ret;

	if (args->__reserved || args->capacity > EVPL_CHANNEL_CAPACITY_MAX)
		return -EINVAL;

	fds[0] = get_unused_fd_flags(O_CLOEXEC);
	if (fds[0] < 0)
		return fds[0];
	fds[1] = get_unused_fd_flags(O_CLOEXEC);
	if (fds[1] < 0) {
		ret = fds[1];
		goto put_fd;
	}
	ret = evpl_channel_create(call->client->user, args->capacity ?:
				  EVPL_CHANNEL_CAPACITY_DEFAULT, ends);
	if (ret)
		goto put_both;

	args->out_fds[0] = fds[0];
	args->out_fds[1] = fds[1];
	ret = call_respond(call);
	if (ret)
		goto put_ends;
	fd_install(fds[0], ends[0]);
	fd_install(fds[1], ends[1]);
	return 0;

put_ends:
	fput(ends[0]);
	fput(ends[1]);
put_both:
	put_unused_fd(fds[1]);
put_fd:
	put_unused_fd(fds[0]);
	return ret;
}

static int ioctl_channel_bind(struct evpl_call *call)
{
	struct evpl_channel_bind *args = &call->args.channel_bind;
	struct file *end;
	int ret;

	if (args->out_capacity)
		return -EINVAL;
	if (!evpl_client_is_set_up(call->client))
		return -ENXIO;
	end = fget(args->fd);
	if (!end)
		return -EBADF;
	ret = evpl_channel_capacity(end, &args->out_capacity);
	/* Binding can't be undone, so the response comes first. */
	if (!ret)
		ret = call_respond(call);
	if (!ret)
		ret = evpl_channel_bind(call->client, end, args->flags & EVPL_BIND_LANE);
	fput(end);
	return ret;
}

static int ioctl_lease_release(struct evpl_call *call)
{
	struct evpl_lease_release *args = &call->args.lease_release;
	u32 *numbers;
	int ret;

	if (args->__reserved || args->count > EVPL_LEASE_RELEASE_MAX)
		return -EINVAL;
	if (!evpl_client_is_set_up(call->client))
		return -ENXIO;
	numbers = memdup_user(u64_to_user_ptr(args->leases),
			      args->count * sizeof(*numbers));
	if (IS_ERR(numbers))
		return PTR_ERR(numbers);
	ret = evpl_lease_release(call->client, numbers, args->count);
	kfree(numbers);
	return ret;
}

static int ioctl_lease_pull(struct evpl_call *call)
{
	struct evpl_lease_pull *args = &call->args.lease_pull;

	return evpl_share_pull(call->client, args->flags & EVPL_PULL_WANT);
}

static int ioctl_revoke(struct evpl_call *call)
{
	struct evpl_revoke *args = &call->args.revoke;

	return evpl_share_revoke(call->client, args->offset);
}

static int ioctl_baseline(struct evpl_call *call)
{
	struct evpl_baseline *args = &call->args.baseline;
	u64 end;

	if (args->flags == (EVPL_BASELINE_ZERO | EVPL_BASELINE_ALIKE) ||
	    !args->length || !IS_ALIGNED(args->offset, PAGE_SIZE) ||
	    !IS_ALIGNED(args->length, PAGE_SIZE) ||
	    check_add_overflow(args->offset, args->length, &end))
		return -EINVAL;
	return evpl_baseline_set(call->client, args->offset >> PAGE_SHIFT,
				 args->length >> PAGE_SHIFT, args->flags);
}

static int ioctl_quarantine_end(struct evpl_call *call)
{
	struct evpl_quarantine_end *args = &call->args.quarantine_end;

	return evpl_quarantine_end(call->client, args->offset);
}

static int ioctl_export(struct evpl_call *call)
{
	struct evpl_export *args = &call->args.export;
	struct evpl_range *ranges;
	struct file *file;
	int fd, ret;

	if (!args->count || args->count > EVPL_EXPORT_RANGES_MAX)
		return -EINVAL;
	if (!evpl_client_is_set_up(call->client))
		return -ENXIO;
	ranges = memdup_user(u64_to_user_ptr(args->ranges),
			     args->count * sizeof(*ranges));
	if (IS_ERR(ranges))
		return PTR_ERR(ranges);

	fd = get_unused_fd_flags(O_CLOEXEC);
	if (fd < 0) {
		ret = fd;
		goto free_ranges;
	}
	/* Respond first: nothing may fail once evpl_export() has taken references over. */
	args->out_fd = fd;
	ret = call_respond(call);
	if (ret)
		goto put_fd;
	file = evpl_export(call->client, ranges, args->count, args->flags);
	if (IS_ERR(file)) {
		ret = PTR_ERR(file);
		goto put_fd;
	}
	fd_install(fd, file);
	kfree(ranges);
	return 0;

put_fd:
	put_unused_fd(fd);
free_ranges:
	kfree(ranges);
	return ret;
}

static int ioctl_buffer_wait(struct evpl_call *call)
{
	struct evpl_buffer_wait *args = &call->args.buffer_wait;

	return evpl_share_wait(call->client, args->offset, args->flags & EVPL_WAIT_TRY);
}

static int ioctl_doorbell(struct evpl_call *call)
{
	struct evpl_doorbell *args = &call->args.doorbell;

	return evpl_channel_doorbell(call->file, args->flags & EVPL_DOORBELL_SELF, args->ring,
				     args->quiet);
}

static int ioctl_room(struct evpl_call *call)
{
	struct evpl_room *args = &call->args.room;

	evpl_room(call->client->user, &args->out_user, &args->out_system);
	return call_respond(call);
}

/*
 * Indexed by the ioctl's number. @size is the size of the struct that this kernel knows.
 * @min_size is the end of the last field that the first version of the struct had. @flags are
 * those that the call knows. With @set_up, the call needs a client that is set up. Three calls
 * check that themselves, because they check their values first. With @on_end, it is a call on an
 * end of a channel instead of a client.
 */
static const struct {
	u32 size;
	u32 min_size;
	u32 flags;
	bool set_up;
	bool on_end;
	int (*fn)(struct evpl_call *call);
} calls[] = {
#define CALL_WITH(type, ioctl, name, last, known_flags, needs_set_up, ...)	\
	[_IOC_NR(ioctl)] = {						\
		.size = sizeof(struct type) +				\
			BUILD_BUG_ON_ZERO(offsetof(struct type, size)) +	\
			BUILD_BUG_ON_ZERO(offsetof(struct type, flags) - sizeof(u32)),	\
		.min_size = offsetofend(struct type, last),		\
		.flags = known_flags,					\
		.set_up = needs_set_up,					\
		.fn = ioctl_##name,					\
		__VA_ARGS__						\
	}
#define CALL(ioctl, name, ...)	CALL_WITH(evpl_##name, ioctl, name, __VA_ARGS__)
	CALL(EVPL_SETUP, setup, out_header_size, EVPL_SETUP_ZEROS | EVPL_SETUP_REVOKE, false),
	CALL(EVPL_SLAB_ALLOC, slab_alloc, out_offset, EVPL_SLAB_HUGE, true),
	CALL(EVPL_SLAB_FREE, slab_free, offset, 0, true),
	CALL(EVPL_CHANNEL_CREATE, channel_create, out_fds, 0, false),
	CALL(EVPL_CHANNEL_BIND, channel_bind, out_capacity, EVPL_BIND_LANE, false),
	CALL(EVPL_LEASE_RELEASE, lease_release, __reserved, 0, false),
	CALL(EVPL_LEASE_PULL, lease_pull, flags, EVPL_PULL_WANT, true),
	CALL(EVPL_REVOKE, revoke, offset, 0, true),
	CALL(EVPL_BASELINE, baseline, length, EVPL_BASELINE_ZERO | EVPL_BASELINE_ALIKE, true),
	CALL(EVPL_QUARANTINE_END, quarantine_end, offset, 0, true),
	CALL(EVPL_EXPORT, export, out_fd, EVPL_EXPORT_WRITE | EVPL_EXPORT_SLAB, false),
	CALL(EVPL_BUFFER_WAIT, buffer_wait, offset, EVPL_WAIT_TRY, true),
	CALL(EVPL_DOORBELL, doorbell, quiet, EVPL_DOORBELL_SELF, false, .on_end = true),
	CALL_WITH(evpl_setup, EVPL_ADOPT, adopt, out_flags, 0, true),
	CALL(EVPL_SLAB_NEXT, slab_next, __reserved, 0, true),
	CALL(EVPL_ROOM, room, out_system, 0, true),
};

/*
 * The size and direction in cmd are ignored, since the struct's first field is its size. So a
 * program that was built with a longer struct works.
 */
long evpl_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	bool on_end = file->f_op == &evpl_end_fops;
	struct evpl_call call = {
		.file = file,
		.client = on_end ? NULL : file->private_data,
		.user = (void __user *)arg,
	};
	unsigned int nr = _IOC_NR(cmd);
	int ret;

	if (_IOC_TYPE(cmd) != EVPL_IOC_TYPE || nr >= ARRAY_SIZE(calls))
		return -ENOTTY;
	nr = array_index_nospec(nr, ARRAY_SIZE(calls));
	/* The numbers of the commands that come through rings are none of an ioctl. */
	if (!calls[nr].fn || calls[nr].on_end != on_end)
		return -ENOTTY;

	if (get_user(call.user_size, (u32 __user *)call.user))
		return -EFAULT;
	if (call.user_size < calls[nr].min_size)
		return -EINVAL;
	if (call.user_size > PAGE_SIZE)
		return -E2BIG;

	call.size = calls[nr].size;
	ret = copy_struct_from_user(&call.args, call.size, call.user,
				    call.user_size);
	if (ret)
		return ret;
	if (call.args.head.flags & ~calls[nr].flags)
		return -EOPNOTSUPP;
	if (calls[nr].set_up && !evpl_client_is_set_up(call.client))
		return -ENXIO;
	return calls[nr].fn(&call);
}
