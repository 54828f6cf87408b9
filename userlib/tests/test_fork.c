// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/* A child of fork(2) can't use the objects that its parent made, and can make its own. */
#include <sys/wait.h>
#include <unistd.h>

#include "common.h"

/* A check in a child. If it fails, the function returns 1, which becomes the exit status. */
#define WANT(expected, expression)						\
	do {									\
		long long got_ = (long long)(expression);			\
										\
		if (got_ == (expected))						\
			break;							\
		fprintf(stderr, "# %s:%d: %s is %lld\n", __FILE__, __LINE__,	\
			#expression, got_);					\
		return 1;							\
	} while (0)

/* The objects that the parent has when it forks. */
struct things {
	struct evpl_pool *pool;
	struct evpl *evpl;
	struct evpl_device *device;
	struct evpl_iovec iovec, reserved[2];
	unsigned int unregistered;
};

static int register_slab(void *arg, const struct evpl_slab_info *slab, uint64_t *cookie)
{
	*cookie = 17;
	return 0;
}

static int unregister_slab(void *arg, const struct evpl_slab_info *slab, uint64_t cookie)
{
	((struct things *)arg)->unregistered++;
	return 0;
}

static const struct evpl_device_ops ops = {
	.size = sizeof(ops),
	.register_slab = register_slab,
	.unregister_slab = unregister_slab,
};

FIXTURE(fork) {
	struct things things;
};

FIXTURE_SETUP(fork)
{
	struct things *things = &self->things;

	ASSERT_EQ(0, open_pool(&things->pool, BUFFER, 0));
	ASSERT_EQ(0, evpl_create(&things->evpl, things->pool, NULL));
	ASSERT_EQ(0, evpl_device_attach(things->pool, &ops, things, &things->device));
	ASSERT_EQ(1, evpl_iovec_alloc_flags(things->evpl, 100, 0, 1, EVPL_IOVEC_PRIVATE,
					    &things->iovec));
	memset(things->iovec.data, 'x', 100);
	ASSERT_EQ(2, evpl_iovec_reserve(things->evpl, BUFFER + 100, 0, 2, things->reserved));
}

/* Everything is as before: the child has released nothing, and left no lock held. */
FIXTURE_TEARDOWN(fork)
{
	struct things *things = &self->things;

	EXPECT_EQ(1, word_of(&things->iovec));
	EXPECT_EQ(3, used_in(things->pool));
	EXPECT_EQ(2, evpl_iovec_commit(things->evpl, things->reserved, 2, BUFFER + 50));
	evpl_iovecs_release(things->reserved, 2);
	evpl_iovec_release(&things->iovec);
	evpl_destroy(things->evpl);
	EXPECT_EQ(0, things->unregistered);
	evpl_device_detach(things->device);
	EXPECT_EQ(1, things->unregistered);
	EXPECT_EQ(0, used_in(things->pool));
	EXPECT_EQ(0, evpl_pool_close(things->pool));
}

static int call_everything(void *arg)
{
	struct things *things = arg;
	struct evpl_pool_stats stats = { .size = sizeof(stats) };
	struct iovec iovec = { things->iovec.data, 100 };
	struct evpl_slab_info info;
	struct evpl_iovec other[2];
	struct evpl_waiter waiter = { .length = 100, .max_iovecs = 1, .iovecs = other };
	char name[EVPL_NAME_MAX + 1];
	struct evpl_device *device;
	struct evpl *evpl;
	uint64_t cookie = 0;

	WANT(-EPERM, evpl_pool_preallocate(things->pool, 1, EVPL_ANY_NODE));
	WANT(0, evpl_pool_trim(things->pool));
	WANT(-EPERM, evpl_pool_stats(things->pool, &stats));
	WANT(-EPERM, evpl_pool_keep(things->pool, "name", &things->iovec));
	WANT(-EPERM, evpl_pool_kept(things->pool, "name", other));
	WANT(-EPERM, evpl_pool_forget(things->pool, "name"));
	WANT(-EPERM, evpl_pool_list(things->pool, &cookie, name));
	WANT(-EPERM, evpl_pool_eventfd(things->pool));
	WANT(-EPERM, evpl_pool_fd(things->pool));
	WANT(-EPERM, evpl_create(&evpl, things->pool, NULL));
	WANT(-EPERM, evpl_iovec_alloc(things->evpl, 100, 0, 1, other));
	WANT(-EPERM, evpl_iovec_alloc(things->evpl, 100, 3, 1, other));
	WANT(-EPERM, evpl_iovec_alloc_flags(things->evpl, 100, 0, 1, EVPL_IOVEC_PRIVATE, other));
	WANT(-EPERM, evpl_buffer_alloc(things->evpl, other));
	WANT(-EPERM, evpl_waiter_alloc(things->evpl, &waiter));
	WANT(-EPERM, evpl_waiter_serve(things->evpl));
	/* Pretend that the request is in the parent's queue. */
	waiter.__evpl = things->evpl;
	WANT(-EPERM, evpl_waiter_cancel(&waiter));
	WANT(-EPERM, evpl_iovec_reserve(things->evpl, 100, 0, 1, other));
	WANT(-EPERM, evpl_iovec_commit(things->evpl, things->reserved, 2, 100));
	WANT(-EPERM, evpl_iovec_clone_segment(other, &things->iovec, 0, 10));
	WANT(0, evpl_iovec_is_unique(&things->iovec));
	WANT(-EPERM, evpl_iovec_split(other, &things->iovec, 10));
	WANT(-EPERM, evpl_iovec_from_iovec(things->pool, other, &iovec, 1));
	WANT(-EPERM, evpl_iovec_slab(&things->iovec, &info));
	WANT(-EPERM, evpl_iovec_revoke(&things->iovec));
	WANT(-EPERM, evpl_device_attach(things->pool, &ops, things, &device));
	WANT(-EPERM, evpl_device_cookie(things->device, &things->iovec, &cookie));
	WANT(-EPERM, evpl_device_set_cookie(things->device, &things->iovec, 1));
	WANT(-EPERM, evpl_device_let_go(things->device, 0));
	WANT(-EPERM, evpl_pool_close(things->pool));

	evpl_device_detach(things->device);
	evpl_destroy(things->evpl);
	WANT(0, things->unregistered);
	return 0;
}

TEST_F(fork, in_a_child_calls_fail_with_EPERM_and_change_nothing)
{
	EXPECT_EQ(0, status_of(call_everything, &self->things));
}

static int add_and_release(void *arg)
{
	struct things *things = arg;
	struct evpl_iovec other;

	evpl_iovec_release(&things->iovec);
	evpl_iovec_addref(&things->iovec);
	evpl_iovecs_release(things->reserved, 2);
	evpl_iovec_clone(&other, &things->iovec);
	WANT(true, other.data == things->iovec.data);
	WANT(100, other.length);
	WANT('x', *(char *)other.data);
	evpl_iovec_release(&other);
	evpl_iovec_release(&other);
	evpl_iovec_move(&other, &things->iovec);
	evpl_iovec_release(&other);
	evpl_iovec_release(&things->iovec);
	return 0;
}

TEST_F(fork, in_a_child_references_neither_come_nor_go)
{
	EXPECT_EQ(0, status_of(add_and_release, &self->things));
}

static int use_one(void *arg)
{
	struct things *things = arg;
	struct evpl_iovec iovec[3], cut, empty = { 0 };
	struct evpl_device *device;
	uint64_t cookie;
	struct evpl_pool *pool;
	struct evpl *evpl;

	WANT(0, open_pool(&pool, BUFFER, SLAB));
	WANT(0, evpl_create(&evpl, pool, NULL));
	WANT(2, evpl_iovec_reserve(evpl, BUFFER + 100, 0, 2, iovec));
	WANT(2, evpl_iovec_commit(evpl, iovec, 2, BUFFER + 10));
	WANT(1, evpl_iovec_alloc(evpl, 100, 0, 1, &iovec[2]));
	memset(iovec[2].data, 'y', 100);
	WANT(0, evpl_iovec_clone_segment(&cut, &iovec[2], 10, 10));
	/* The parent's iovecs and devices are refused, also together with objects of the child. */
	WANT(0, evpl_device_attach(pool, &ops, things, &device));
	WANT(0, evpl_device_cookie(device, &iovec[2], &cookie));
	WANT(-EPERM, evpl_device_cookie(device, &things->iovec, &cookie));
	WANT(-EPERM, evpl_device_cookie(things->device, &iovec[2], &cookie));
	WANT(-EPERM, evpl_device_cookie(things->device, &empty, &cookie));
	evpl_device_detach(device);
	things->unregistered = 0;
	WANT(-EPERM, evpl_iovec_commit(evpl, things->reserved, 2, 100));
	evpl_iovec_release(&things->iovec);
	WANT(2, used_in(pool));
	evpl_iovecs_release(iovec, 3);
	WANT(-EBUSY, evpl_pool_close(pool));
	evpl_iovec_release(&cut);
	evpl_destroy(evpl);
	WANT(0, used_in(pool));
	WANT(0, evpl_pool_close(pool));
	return call_everything(things);
}

TEST_F(fork, a_child_can_have_a_pool_of_its_own)
{
	struct evpl_pool *closed;

	/* The struct of a closed pool is left over in the parent. The child must not take it. */
	ASSERT_EQ(0, open_pool(&closed, BUFFER, SLAB));
	ASSERT_EQ(0, evpl_pool_close(closed));
	EXPECT_EQ(0, status_of(use_one, &self->things));
}

static int have_a_child(void *arg)
{
	struct things *things = arg;
	struct things own;

	WANT(0, open_pool(&own.pool, BUFFER, SLAB));
	WANT(0, evpl_create(&own.evpl, own.pool, NULL));
	WANT(1, evpl_iovec_alloc(own.evpl, 100, 0, 1, &own.iovec));
	WANT(0, status_of(add_and_release, things));
	WANT(0, status_of(use_one, things));
	WANT(2, word_of(&own.iovec));
	evpl_iovec_release(&own.iovec);
	evpl_destroy(own.evpl);
	WANT(0, evpl_pool_close(own.pool));
	return 0;
}

TEST_F(fork, a_grandchild_has_no_part_in_either)
{
	EXPECT_EQ(0, status_of(have_a_child, &self->things));
}

static atomic_bool stop;

static void *open_and_close(void *arg)
{
	struct evpl_pool *pool;

	while (!atomic_load(&stop))
		if (open_pool(&pool, BUFFER, SLAB) || evpl_pool_close(pool))
			abort();
	return NULL;
}

TEST_F(fork, a_child_can_have_one_whatever_other_threads_did_when_it_was_forked)
{
	int rounds = few() ? 50 : 500, i;
	pthread_t threads[2];

	for (i = 0; i < 2; i++)
		ASSERT_EQ(0, pthread_create(&threads[i], NULL, open_and_close, NULL));
	for (i = 0; i < rounds; i++)
		ASSERT_EQ(0, status_of(use_one, &self->things));
	atomic_store(&stop, true);
	for (i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
}

TEST_HARNESS_MAIN
