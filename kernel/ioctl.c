// SPDX-License-Identifier: GPL-2.0-only
/*
 * The ioctls: copying in, checking, copying out. Each call checks everything,
 * then does its work, then tells user space, and publishes last.
 */
#include <linux/err.h>
#include <linux/fs.h>
#include <linux/log2.h>
#include <linux/mm.h>
#include <linux/nodemask.h>
#include <linux/nospec.h>
#include <linux/uaccess.h>

#include "evpl.h"

/**
 * struct evpl_call - one ioctl that runs
 * @client: whose
 * @user: the caller's struct
 * @user_size: its size, as the caller says
 * @size: the size that this kernel knows
 * @args: the struct, fields that the caller doesn't know zero
 */
struct evpl_call {
	struct evpl_client *client;
	void __user *user;
	u32 user_size;
	u32 size;
	union {
		struct evpl_setup setup;
		struct evpl_slab_alloc slab_alloc;
		struct evpl_slab_free slab_free;
	} args;
};

/* Give the outputs to the caller, who may know fewer of them. */
static int respond(struct evpl_call *call)
{
	if (copy_to_user(call->user, &call->args,
			 min(call->user_size, call->size)))
		return -EFAULT;
	return 0;
}

static int ioctl_setup(struct evpl_call *call)
{
	struct evpl_setup *args = &call->args.setup;
	unsigned int shift;
	int ret;

	if (args->flags)
		return -EOPNOTSUPP;
	if (!args->buffer_size)
		args->buffer_size = EVPL_BUFFER_SIZE_DEFAULT;
	if (!is_power_of_2(args->buffer_size) ||
	    args->buffer_size < max(EVPL_BUFFER_SIZE_MIN, PAGE_SIZE) ||
	    args->buffer_size > EVPL_BUFFER_SIZE_MAX)
		return -EINVAL;
	if (evpl_client_shift(call->client))
		return -EBUSY;

	shift = ilog2(args->buffer_size);
	args->out_buffer_size = args->buffer_size;
	args->out_own_offset = 0;
	args->out_own_size = EVPL_OWN_SIZE;
	args->out_refs_offset = EVPL_REFS_START << PAGE_SHIFT;
	args->out_refs_size = evpl_refs_pages(shift) << PAGE_SHIFT;

	ret = respond(call);
	if (ret)
		return ret;
	return evpl_client_set_up(call->client, shift, NULL);
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
	unsigned int shift = evpl_client_shift(client);
	struct evpl_slab *slab;
	int ret;

	if (args->flags & ~EVPL_SLAB_HUGE)
		return -EOPNOTSUPP;
	if (!shift)
		return -ENXIO;
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
		goto destroy_slab;

	args->out_offset = (u64)slab->start << PAGE_SHIFT;
	ret = respond(call);

	mutex_lock(&client->lock);
	if (ret)
		evpl_slab_remove(client, slab);
	else
		evpl_slab_publish(client, slab);
	mutex_unlock(&client->lock);
	if (ret)
		goto destroy_slab;
	return 0;

destroy_slab:
	evpl_slab_destroy(client, slab);
	return ret;
}

static int ioctl_slab_free(struct evpl_call *call)
{
	struct evpl_slab_free *args = &call->args.slab_free;

	if (args->flags)
		return -EOPNOTSUPP;
	if (!evpl_client_shift(call->client))
		return -ENXIO;
	if (!IS_ALIGNED(args->offset, PAGE_SIZE))
		return -ENOENT;
	return evpl_slab_free(call->client, args->offset >> PAGE_SHIFT);
}

/*
 * Indexed by the ioctl's number. @size is the struct that this kernel knows,
 * @min_size the end of the last field that the first version of it had.
 */
static const struct {
	u32 size;
	u32 min_size;
	int (*fn)(struct evpl_call *call);
} calls[] = {
#define CALL(ioctl, type, last, handler)				\
	[_IOC_NR(ioctl)] = {						\
		.size = sizeof(struct type) +				\
			BUILD_BUG_ON_ZERO(offsetof(struct type, size)),	\
		.min_size = offsetofend(struct type, last),		\
		.fn = handler,						\
	}
	CALL(EVPL_SETUP, evpl_setup, out_refs_size, ioctl_setup),
	CALL(EVPL_SLAB_ALLOC, evpl_slab_alloc, out_offset, ioctl_slab_alloc),
	CALL(EVPL_SLAB_FREE, evpl_slab_free, offset, ioctl_slab_free),
};

/*
 * The size comes from the struct, so the size and direction in cmd are not
 * looked at: a program that was built with a longer struct works.
 */
long evpl_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct evpl_call call = {
		.client = file->private_data,
		.user = (void __user *)arg,
	};
	unsigned int nr = _IOC_NR(cmd);
	int ret;

	if (_IOC_TYPE(cmd) != EVPL_IOC_TYPE || nr >= ARRAY_SIZE(calls))
		return -ENOTTY;
	nr = array_index_nospec(nr, ARRAY_SIZE(calls));

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
	return calls[nr].fn(&call);
}
