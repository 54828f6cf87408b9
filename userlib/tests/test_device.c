// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Devices: each slab is registered once with each device, and only while the device may use it.
 */
#include "common.h"

#define NUMBERS 64

/* A device that counts the calls of its callbacks. */
struct fake {
	pthread_mutex_t lock;
	struct evpl_pool *pool;
	struct evpl_device *device;
	unsigned int registered[NUMBERS];	/* slabs that have this number now */
	unsigned int registrations;
	unsigned int unregistrations;
	unsigned int overlaps;			/* registrations of a number that was in use */
	int result;				/* of register_slab() */
	int unregister_result;
	struct evpl *evpl;			/* not NULL: the callbacks allocate from it */
	unsigned int allocated;
	_Atomic(pthread_barrier_t *) barrier;	/* not NULL: the callbacks wait at it, twice */
	atomic_int inside;
};

static void fake_init(struct fake *fake)
{
	memset(fake, 0, sizeof(*fake));
	pthread_mutex_init(&fake->lock, NULL);
}

static void fake_inside(struct fake *fake)
{
	pthread_barrier_t *barrier = atomic_load(&fake->barrier);
	struct evpl_iovec iovec[2];
	int niov;

	atomic_fetch_add(&fake->inside, 1);
	if (fake->evpl) {
		niov = evpl_iovec_alloc(fake->evpl, BUFFER + 8, 0, 2, iovec);
		if (niov == 2) {
			memset(iovec[0].data, 1, iovec[0].length);
			fake->allocated++;
			evpl_iovecs_release(iovec, niov);
		}
	}
	if (barrier) {
		pthread_barrier_wait(barrier);
		pthread_barrier_wait(barrier);
	}
	atomic_fetch_sub(&fake->inside, 1);
}

static int fake_register(void *arg, const struct evpl_slab_info *slab, uint64_t *cookie)
{
	struct fake *fake = arg;

	pthread_mutex_lock(&fake->lock);
	if (fake->registered[slab->number]++)
		fake->overlaps++;
	fake->registrations++;
	if (fake->result)
		fake->registered[slab->number]--;
	pthread_mutex_unlock(&fake->lock);
	fake_inside(fake);
	*cookie = 1000 + slab->number;
	return fake->result;
}

static int fake_unregister(void *arg, const struct evpl_slab_info *slab, uint64_t cookie)
{
	struct fake *fake = arg;

	pthread_mutex_lock(&fake->lock);
	if (fake->registered[slab->number]-- != 1 || cookie != 1000 + slab->number)
		fake->overlaps++;
	fake->unregistrations++;
	pthread_mutex_unlock(&fake->lock);
	fake_inside(fake);
	return fake->unregister_result;
}

static const struct evpl_device_ops fake_ops = {
	.size = sizeof(fake_ops),
	.register_slab = fake_register,
	.unregister_slab = fake_unregister,
};

static int attach(struct evpl_pool *pool, struct fake *fake)
{
	return evpl_device_attach(pool, &fake_ops, fake, &fake->device);
}

static unsigned int now_registered(struct fake *fake)
{
	unsigned int i, n = 0;

	for (i = 0; i < NUMBERS; i++)
		n += fake->registered[i];
	return n;
}

FIXTURE(device) {
	struct evpl_pool *pool;
	struct evpl *evpl;
	struct evpl_iovec iovec[4 * PER_SLAB];
	struct fake fake, other;
};

FIXTURE_SETUP(device)
{
	ASSERT_EQ(0, open_pool(&self->pool, BUFFER, 4 * SLAB));
	ASSERT_EQ(0, evpl_create(&self->evpl, self->pool, NULL));
	fake_init(&self->fake);
	fake_init(&self->other);
}

FIXTURE_TEARDOWN(device)
{
	evpl_destroy(self->evpl);
	EXPECT_EQ(0, used_in(self->pool));
	EXPECT_EQ(0, evpl_pool_close(self->pool));
	EXPECT_EQ(0, self->fake.overlaps);
	EXPECT_EQ(0, self->other.overlaps);
}

TEST_F(device, ops_are_checked)
{
	struct {
		struct evpl_device_ops ops;
		void *tail;
	} longer = { .ops = fake_ops };
	struct evpl_device *device;

	EXPECT_EQ(-EINVAL, evpl_device_attach(self->pool, NULL, NULL, &device));
	longer.ops.size--;
	EXPECT_EQ(-EINVAL, evpl_device_attach(self->pool, &longer.ops, &self->fake, &device));
	longer.ops.size = sizeof(longer);
	longer.tail = &longer;
	EXPECT_EQ(-E2BIG, evpl_device_attach(self->pool, &longer.ops, &self->fake, &device));
	longer.tail = NULL;
	longer.ops.flags = ~0U;
	EXPECT_EQ(-EOPNOTSUPP, evpl_device_attach(self->pool, &longer.ops, &self->fake, &device));
	longer.ops.flags = 0;
	ASSERT_EQ(0, evpl_device_attach(self->pool, &longer.ops, &self->fake, &device));
	EXPECT_EQ(1, stats_of(self->pool).devices);
	evpl_device_detach(device);
	evpl_device_detach(NULL);
	EXPECT_EQ(0, stats_of(self->pool).devices);
}

TEST_F(device, slabs_that_were_there_are_registered_when_attach_returns)
{
	uint64_t cookie = 0;

	ASSERT_EQ(0, evpl_pool_preallocate(self->pool, 3 * SLAB, EVPL_ANY_NODE));
	ASSERT_EQ(1, evpl_buffer_alloc(self->evpl, &self->iovec[0]));
	ASSERT_EQ(0, attach(self->pool, &self->fake));
	EXPECT_EQ(3, self->fake.registrations);
	EXPECT_EQ(3, now_registered(&self->fake));
	EXPECT_EQ(0, evpl_device_cookie(self->fake.device, &self->iovec[0], &cookie));
	EXPECT_LE(1000, cookie);
	EXPECT_GT(1003, cookie);
	evpl_iovec_release(&self->iovec[0]);
	evpl_device_detach(self->fake.device);
	EXPECT_EQ(3, self->fake.unregistrations);
	EXPECT_EQ(0, now_registered(&self->fake));
}

TEST_F(device, slabs_that_come_later_are_registered_before_they_are_used)
{
	struct evpl_slab_info info;
	uint64_t cookie;
	unsigned int i;

	ASSERT_EQ(0, attach(self->pool, &self->fake));
	EXPECT_EQ(0, self->fake.registrations);
	for (i = 0; i < 4 * PER_SLAB; i++) {
		ASSERT_EQ(1, evpl_buffer_alloc(self->evpl, &self->iovec[i]));
		ASSERT_EQ(0, evpl_device_cookie(self->fake.device, &self->iovec[i], &cookie));
		ASSERT_EQ(0, evpl_iovec_slab(&self->iovec[i], &info));
		ASSERT_EQ(1000 + info.number, cookie);
		ASSERT_EQ(i / PER_SLAB, info.number);
		ASSERT_EQ(SLAB, info.length);
		ASSERT_GT(SLAB, (size_t)((char *)self->iovec[i].data - (char *)info.base));
	}
	EXPECT_EQ(4, self->fake.registrations);
	evpl_iovecs_release(self->iovec, 4 * PER_SLAB);
	/* The trim unregisters the slabs that it gives back. */
	EXPECT_EQ(3 * SLAB, evpl_pool_trim(self->pool));
	EXPECT_EQ(3, self->fake.unregistrations);
	EXPECT_EQ(1, now_registered(&self->fake));
	evpl_device_detach(self->fake.device);
	EXPECT_EQ(4, self->fake.unregistrations);
}

TEST_F(device, a_failure_leaves_the_slab_usable_without_a_cookie)
{
	uint64_t cookie = 77;

	self->fake.result = -EFAULT;
	ASSERT_EQ(0, evpl_pool_preallocate(self->pool, SLAB, EVPL_ANY_NODE));
	ASSERT_EQ(0, attach(self->pool, &self->fake));
	ASSERT_EQ(0, attach(self->pool, &self->other));
	EXPECT_EQ(1, self->fake.registrations);
	ASSERT_EQ(1, evpl_buffer_alloc(self->evpl, &self->iovec[0]));
	memset(self->iovec[0].data, 1, BUFFER);
	EXPECT_EQ(-ENOENT, evpl_device_cookie(self->fake.device, &self->iovec[0], &cookie));
	EXPECT_EQ(77, cookie);
	EXPECT_EQ(0, evpl_device_cookie(self->other.device, &self->iovec[0], &cookie));
	EXPECT_EQ(1000, cookie);
	evpl_iovec_release(&self->iovec[0]);
	evpl_device_detach(self->fake.device);
	evpl_device_detach(self->other.device);
	/* A slab that wasn't registered isn't unregistered. */
	EXPECT_EQ(0, self->fake.unregistrations);
	EXPECT_EQ(1, self->other.unregistrations);
}

TEST_F(device, call_backs_may_allocate)
{
	uint64_t cookie;
	int i;

	/* The callbacks allocate from the context that grows the pool, and from the new slab. */
	self->fake.evpl = self->evpl;
	self->other.evpl = self->evpl;
	ASSERT_EQ(0, attach(self->pool, &self->fake));
	ASSERT_EQ(0, attach(self->pool, &self->other));
	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, 8, 0, 1, &self->iovec[0]));
	EXPECT_EQ(1, stats_of(self->pool).slabs);
	EXPECT_EQ(1, self->fake.registrations);
	EXPECT_EQ(1, self->fake.allocated);
	EXPECT_EQ(1, self->other.allocated);
	EXPECT_EQ(0, evpl_device_cookie(self->fake.device, &self->iovec[0], &cookie));
	EXPECT_EQ(0, evpl_device_cookie(self->other.device, &self->iovec[0], &cookie));
	evpl_iovec_release(&self->iovec[0]);

	/* Grow the pool to its limit. Each slab is registered once. */
	for (i = 0; i < (int)(4 * PER_SLAB - 1); i++)
		ASSERT_EQ(1, evpl_buffer_alloc(self->evpl, &self->iovec[i]));
	EXPECT_EQ(4, self->fake.registrations);
	EXPECT_EQ(4, self->fake.allocated);
	evpl_iovecs_release(self->iovec, 4 * PER_SLAB - 1);
	evpl_pool_trim(self->pool);
	EXPECT_LT(0, self->fake.unregistrations);
	evpl_device_detach(self->fake.device);
	evpl_device_detach(self->other.device);
	EXPECT_EQ(self->fake.registrations, self->fake.unregistrations);
	EXPECT_EQ(0, now_registered(&self->fake));
}

/*
 * A device that allocates more than the first slab has for each slab that it registers, and keeps
 * that memory.
 */
struct greedy {
	struct evpl *evpl;
	struct evpl_iovec iovec[8][PER_SLAB + 1];
	int n, depth, deepest;
};

static int greedy_register(void *arg, const struct evpl_slab_info *slab, uint64_t *cookie)
{
	struct greedy *greedy = arg;

	if (++greedy->depth > greedy->deepest)
		greedy->deepest = greedy->depth;
	if (greedy->n < 8 && evpl_iovec_alloc(greedy->evpl, SLAB + 8, 0, PER_SLAB + 1,
					      greedy->iovec[greedy->n++]) != PER_SLAB + 1)
		abort();
	greedy->depth--;
	return 0;
}

TEST(a_call_back_that_allocates_more_than_its_slab_nests_no_deeper_than_that)
{
	static const struct evpl_device_ops ops = {
		.size = sizeof(ops),
		.register_slab = greedy_register,
	};
	struct evpl_pool_config config = { .size = sizeof(config), .buffer_size = BUFFER };
	struct greedy *greedy = calloc(1, sizeof(*greedy));
	struct evpl_device *device;
	struct evpl_iovec iovec;
	struct evpl_pool *pool;
	int i;

	ASSERT_EQ(0, evpl_pool_open(&pool, &config));
	ASSERT_EQ(0, evpl_create(&greedy->evpl, pool, NULL));
	ASSERT_EQ(0, evpl_device_attach(pool, &ops, greedy, &device));
	ASSERT_EQ(1, evpl_iovec_alloc(greedy->evpl, 8, 0, 1, &iovec));
	/* The callback for 2 MiB makes a slab of 4 MiB, whose callback finds room in that. */
	EXPECT_EQ(2, greedy->deepest);
	EXPECT_EQ(2, greedy->n);
	EXPECT_GE(3, stats_of(pool).slabs);
	evpl_iovec_release(&iovec);
	for (i = 0; i < greedy->n; i++)
		evpl_iovecs_release(greedy->iovec[i], PER_SLAB + 1);
	evpl_destroy(greedy->evpl);
	evpl_device_detach(device);
	EXPECT_EQ(0, evpl_pool_close(pool));
	free(greedy);
}

static void *preallocate_more(void *arg)
{
	struct evpl_pool *pool = arg;

	if (evpl_pool_preallocate(pool, 2 * SLAB, EVPL_ANY_NODE))
		abort();
	return NULL;
}

TEST_F(device, nobody_needs_a_lock_that_a_call_back_runs_under)
{
	struct evpl_iovec iovec[PER_SLAB];
	pthread_barrier_t barrier;
	pthread_t thread;
	unsigned int i;

	ASSERT_EQ(0, evpl_pool_preallocate(self->pool, SLAB, EVPL_ANY_NODE));
	ASSERT_EQ(0, attach(self->pool, &self->fake));
	pthread_barrier_init(&barrier, NULL, 2);
	atomic_store(&self->fake.barrier, &barrier);
	ASSERT_EQ(0, pthread_create(&thread, NULL, preallocate_more, self->pool));
	pthread_barrier_wait(&barrier);
	/* The other thread is inside the callback, and waits there. */
	EXPECT_EQ(1, atomic_load(&self->fake.inside));
	atomic_store(&self->fake.barrier, NULL);
	for (i = 0; i < PER_SLAB; i++)
		ASSERT_EQ(1, evpl_buffer_alloc(self->evpl, &iovec[i]));
	/* That slab isn't registered, so its buffers can't be allocated: the pool grows again. */
	ASSERT_EQ(1, evpl_buffer_alloc(self->evpl, &self->iovec[0]));
	EXPECT_EQ(3, stats_of(self->pool).slabs);
	EXPECT_EQ(3, self->fake.registrations);
	EXPECT_EQ(0, evpl_pool_trim(self->pool));
	evpl_iovecs_release(iovec, PER_SLAB);
	evpl_iovec_release(&self->iovec[0]);
	EXPECT_EQ(SLAB, evpl_pool_trim(self->pool));
	pthread_barrier_wait(&barrier);
	pthread_join(thread, NULL);
	evpl_device_detach(self->fake.device);
	EXPECT_EQ(3, self->fake.unregistrations);
}

static void *detach_fake(void *arg)
{
	struct fake *fake = arg;

	evpl_device_detach(fake->device);
	return NULL;
}

static void *attach_fake(void *arg)
{
	struct fake *fake = arg;

	if (attach(fake->pool, fake))
		abort();
	return NULL;
}

TEST_F(device, a_slab_stays_while_a_device_is_told_of_it)
{
	pthread_barrier_t barrier;
	pthread_t thread;

	ASSERT_EQ(0, prefill(self->pool, 3 * SLAB));
	pthread_barrier_init(&barrier, NULL, 2);
	atomic_store(&self->fake.barrier, &barrier);
	self->fake.pool = self->pool;
	ASSERT_EQ(0, pthread_create(&thread, NULL, attach_fake, &self->fake));
	pthread_barrier_wait(&barrier);
	atomic_store(&self->fake.barrier, NULL);
	/* All slabs are idle. A trim keeps one, and here also the slab of the running callback. */
	EXPECT_EQ(SLAB, evpl_pool_trim(self->pool));
	EXPECT_EQ(2, stats_of(self->pool).slabs);
	pthread_barrier_wait(&barrier);
	pthread_join(thread, NULL);
	EXPECT_EQ(2, now_registered(&self->fake));

	/* A slab also stays while a detach unregisters it. */
	ASSERT_EQ(0, prefill(self->pool, 3 * SLAB));
	EXPECT_EQ(3, now_registered(&self->fake));
	atomic_store(&self->fake.barrier, &barrier);
	ASSERT_EQ(0, pthread_create(&thread, NULL, detach_fake, &self->fake));
	pthread_barrier_wait(&barrier);
	atomic_store(&self->fake.barrier, NULL);
	EXPECT_EQ(SLAB, evpl_pool_trim(self->pool));
	EXPECT_EQ(2, stats_of(self->pool).slabs);
	pthread_barrier_wait(&barrier);
	pthread_join(thread, NULL);
	EXPECT_EQ(0, now_registered(&self->fake));
}

/* A device whose second registration, on another thread, lasts longer than the first. */
struct slow_device {
	struct evpl_pool *pool;
	struct evpl_device *device;
	pthread_barrier_t barrier;
	pthread_t grower;
	atomic_uint registrations;
	atomic_bool attached;
	bool attached_too_early;
};

/* The attach registers one slab. Meanwhile another thread adds a slab, and registers that one. */
static int slow_register(void *arg, const struct evpl_slab_info *slab, uint64_t *cookie)
{
	struct slow_device *slow = arg;
	int i;

	(void)slab;
	*cookie = 0;
	if (atomic_fetch_add(&slow->registrations, 1) == 0) {
		if (pthread_create(&slow->grower, NULL, preallocate_more, slow->pool))
			abort();
		pthread_barrier_wait(&slow->barrier);
		return 0;
	}
	pthread_barrier_wait(&slow->barrier);
	for (i = 0; i < 20 && !atomic_load(&slow->attached); i++)
		usleep(10 * 1000);
	slow->attached_too_early = atomic_load(&slow->attached);
	return 0;
}

TEST_F(device, attach_waits_for_a_registration_on_another_thread)
{
	const struct evpl_device_ops ops = { .size = sizeof(ops), .register_slab = slow_register };
	struct slow_device slow = { .pool = self->pool };

	ASSERT_EQ(0, evpl_pool_preallocate(self->pool, SLAB, EVPL_ANY_NODE));
	ASSERT_EQ(0, pthread_barrier_init(&slow.barrier, NULL, 2));
	ASSERT_EQ(0, evpl_device_attach(self->pool, &ops, &slow, &slow.device));
	atomic_store(&slow.attached, true);
	ASSERT_EQ(0, pthread_join(slow.grower, NULL));
	EXPECT_EQ(2, atomic_load(&slow.registrations));
	EXPECT_FALSE(slow.attached_too_early);
	evpl_device_detach(slow.device);
	pthread_barrier_destroy(&slow.barrier);
}

static void *trim(void *arg)
{
	evpl_pool_trim(arg);
	return NULL;
}

TEST_F(device, slabs_that_are_being_unregistered_are_room)
{
	pthread_barrier_t barrier;
	pthread_t thread;
	int i;

	ASSERT_EQ(0, prefill(self->pool, 4 * SLAB));
	ASSERT_EQ(0, attach(self->pool, &self->fake));
	pthread_barrier_init(&barrier, NULL, 2);
	atomic_store(&self->fake.barrier, &barrier);
	ASSERT_EQ(0, pthread_create(&thread, NULL, trim, self->pool));
	pthread_barrier_wait(&barrier);
	atomic_store(&self->fake.barrier, NULL);
	/* The trim is giving three of four slabs back, and the pool grows in their place. */
	for (i = 0; i < (int)(4 * PER_SLAB); i++)
		ASSERT_EQ(1, evpl_buffer_alloc(self->evpl, &self->iovec[i]));
	EXPECT_EQ(7, stats_of(self->pool).slabs);
	pthread_barrier_wait(&barrier);
	pthread_join(thread, NULL);
	EXPECT_EQ(4 * SLAB, stats_of(self->pool).bytes);
	EXPECT_EQ(4, now_registered(&self->fake));
	evpl_iovecs_release(self->iovec, 4 * PER_SLAB);
	evpl_device_detach(self->fake.device);
}

struct detacher {
	struct evpl_device *device;
	atomic_bool done;
};

static void *detach_device(void *arg)
{
	struct detacher *detacher = arg;

	evpl_device_detach(detacher->device);
	atomic_store(&detacher->done, true);
	return NULL;
}

static bool is_detaching(struct evpl_pool *pool, struct evpl_device *device)
{
	bool detaching;

	pool_lock(pool);
	detaching = device->detaching;
	pool_unlock(pool);
	return detaching;
}

TEST_F(device, detach_waits_for_the_call_back_that_runs)
{
	struct detacher detacher = { 0 };
	pthread_barrier_t barrier;
	pthread_t thread, other;

	ASSERT_EQ(0, attach(self->pool, &self->fake));
	pthread_barrier_init(&barrier, NULL, 2);
	atomic_store(&self->fake.barrier, &barrier);
	ASSERT_EQ(0, pthread_create(&thread, NULL, preallocate_more, self->pool));
	pthread_barrier_wait(&barrier);
	atomic_store(&self->fake.barrier, NULL);
	detacher.device = self->fake.device;
	ASSERT_EQ(0, pthread_create(&other, NULL, detach_device, &detacher));
	/* The detach must wait until the slab that is being registered can be unregistered. */
	while (!is_detaching(self->pool, detacher.device))
		sched_yield();
	EXPECT_FALSE(atomic_load(&detacher.done));
	EXPECT_EQ(0, self->fake.unregistrations);
	pthread_barrier_wait(&barrier);
	pthread_join(other, NULL);
	pthread_join(thread, NULL);
	EXPECT_EQ(self->fake.registrations, self->fake.unregistrations);
	EXPECT_EQ(0, now_registered(&self->fake));
	EXPECT_EQ(2 * SLAB, stats_of(self->pool).bytes);
}

static int only_register(void *arg, const struct evpl_slab_info *slab, uint64_t *cookie)
{
	(void)arg;
	*cookie = slab->number;
	return 0;
}

TEST_F(device, there_are_sixteen_at_most)
{
	static const struct evpl_device_ops ops = {
		.size = sizeof(ops),
		.register_slab = only_register,
	};
	struct evpl_device *device[EVPL_DEVICES_MAX + 1];
	uint64_t cookie;
	int i;

	for (i = 0; i < EVPL_DEVICES_MAX; i++)
		ASSERT_EQ(0, evpl_device_attach(self->pool, &ops, NULL, &device[i]));
	EXPECT_EQ(-ENOSPC, evpl_device_attach(self->pool, &ops, NULL, &device[i]));
	EXPECT_EQ(EVPL_DEVICES_MAX, stats_of(self->pool).devices);
	ASSERT_EQ(1, evpl_buffer_alloc(self->evpl, &self->iovec[0]));
	for (i = 0; i < EVPL_DEVICES_MAX; i++)
		EXPECT_EQ(0, evpl_device_cookie(device[i], &self->iovec[0], &cookie));
	evpl_device_detach(device[7]);
	ASSERT_EQ(0, evpl_device_attach(self->pool, &ops, NULL, &device[7]));
	EXPECT_EQ(0, evpl_device_cookie(device[7], &self->iovec[0], &cookie));
	for (i = 0; i < EVPL_DEVICES_MAX; i++)
		evpl_device_detach(device[i]);
	evpl_iovec_release(&self->iovec[0]);
}

TEST_F(device, a_pool_with_a_device_is_not_closed)
{
	struct evpl_pool *pool;

	ASSERT_EQ(0, open_pool(&pool, BUFFER, SLAB));
	ASSERT_EQ(0, attach(pool, &self->fake));
	EXPECT_EQ(-EBUSY, evpl_pool_close(pool));
	evpl_device_detach(self->fake.device);
	EXPECT_EQ(0, evpl_pool_close(pool));
}

TEST_F(device, a_number_is_not_used_again_before_it_is_let_go)
{
	struct evpl_slab_info info;

	ASSERT_EQ(0, attach(self->pool, &self->fake));
	self->fake.unregister_result = EVPL_DEVICE_LATER;
	ASSERT_EQ(0, prefill(self->pool, 3 * SLAB));
	EXPECT_EQ(-ENOENT, evpl_device_let_go(self->fake.device, 1));
	EXPECT_EQ(2 * SLAB, evpl_pool_trim(self->pool));
	/* The memory is given back at once. */
	EXPECT_EQ(SLAB, stats_of(self->pool).bytes);

	/* Number 0 is in use, and the device hasn't let go of 1 and 2: so the next is 3. */
	ASSERT_EQ(0, evpl_pool_preallocate(self->pool, 2 * SLAB, EVPL_ANY_NODE));
	EXPECT_EQ(1, self->fake.registered[3]);
	EXPECT_EQ(0, evpl_device_let_go(self->fake.device, 1));
	EXPECT_EQ(-ENOENT, evpl_device_let_go(self->fake.device, 1));
	EXPECT_EQ(-ENOENT, evpl_device_let_go(self->fake.device, 0));
	EXPECT_EQ(-ENOENT, evpl_device_let_go(self->fake.device, ~0U));
	ASSERT_EQ(0, evpl_pool_preallocate(self->pool, 3 * SLAB, EVPL_ANY_NODE));
	EXPECT_EQ(1, self->fake.registered[1]);
	EXPECT_EQ(0, self->fake.registered[2]);

	/* The library doesn't wait for a device that was detached. */
	evpl_device_detach(self->fake.device);
	ASSERT_EQ(0, attach(self->pool, &self->other));
	ASSERT_EQ(0, evpl_pool_preallocate(self->pool, 4 * SLAB, EVPL_ANY_NODE));
	EXPECT_EQ(1, self->other.registered[2]);
	evpl_device_detach(self->other.device);
	ASSERT_EQ(1, evpl_buffer_alloc(self->evpl, &self->iovec[0]));
	ASSERT_EQ(0, evpl_iovec_slab(&self->iovec[0], &info));
	evpl_iovec_release(&self->iovec[0]);
	memset(&self->iovec[0], 0, sizeof(self->iovec[0]));
	EXPECT_EQ(-EINVAL, evpl_iovec_slab(&self->iovec[0], &info));
}

static int unregister_let_go(void *arg, const struct evpl_slab_info *slab, uint64_t cookie)
{
	struct fake *fake = arg;

	/* Let go before this returns, as the device's own thread may do. */
	if (cookie != 5 || evpl_device_let_go(fake->device, slab->number))
		fake->overlaps++;
	fake->unregistrations++;
	return EVPL_DEVICE_LATER;
}

TEST_F(device, a_lazy_device_sets_cookies_by_itself)
{
	static const struct evpl_device_ops lazy = {
		.size = sizeof(lazy),
		.unregister_slab = unregister_let_go,
	};
	struct evpl_device *device;
	struct evpl_iovec foreign;
	struct evpl_pool *pool;
	struct evpl *evpl;
	uint64_t cookie;

	ASSERT_EQ(0, evpl_pool_preallocate(self->pool, SLAB, EVPL_ANY_NODE));
	ASSERT_EQ(0, evpl_device_attach(self->pool, &lazy, &self->fake, &device));
	self->fake.device = device;
	ASSERT_EQ(1, evpl_buffer_alloc(self->evpl, &self->iovec[0]));
	EXPECT_EQ(-ENOENT, evpl_device_cookie(device, &self->iovec[0], &cookie));
	EXPECT_EQ(0, evpl_device_set_cookie(device, &self->iovec[0], 5));
	EXPECT_EQ(-EEXIST, evpl_device_set_cookie(device, &self->iovec[0], 6));
	EXPECT_EQ(0, evpl_device_cookie(device, &self->iovec[0], &cookie));
	EXPECT_EQ(5, cookie);
	/* The cookie is that of the whole slab. */
	ASSERT_EQ(1, evpl_buffer_alloc(self->evpl, &self->iovec[1]));
	EXPECT_EQ(0, evpl_device_cookie(device, &self->iovec[1], &cookie));
	evpl_iovecs_release(self->iovec, 2);

	memset(&foreign, 0, sizeof(foreign));
	EXPECT_EQ(-EINVAL, evpl_device_set_cookie(device, &foreign, 5));
	EXPECT_EQ(-ENOENT, evpl_device_cookie(device, &foreign, &cookie));
	ASSERT_EQ(0, open_pool(&pool, BUFFER, SLAB));
	ASSERT_EQ(0, evpl_create(&evpl, pool, NULL));
	ASSERT_EQ(1, evpl_buffer_alloc(evpl, &foreign));
	EXPECT_EQ(-EINVAL, evpl_device_set_cookie(device, &foreign, 5));
	evpl_iovec_release(&foreign);
	evpl_destroy(evpl);
	ASSERT_EQ(0, evpl_pool_close(pool));

	/* unregister_slab() is called for slabs that have a cookie only. */
	ASSERT_EQ(0, prefill(self->pool, 3 * SLAB));
	EXPECT_EQ(2 * SLAB, evpl_pool_trim(self->pool));
	EXPECT_EQ(0, self->fake.unregistrations);
	evpl_device_detach(device);
	EXPECT_EQ(1, self->fake.unregistrations);
}

/* A thread that allocates, or that attaches and detaches a device, while others do so too. */
struct storm {
	struct evpl_pool *pool;
	unsigned int seed;
	int rounds;
	unsigned int errors;
};

static void *storm_allocator(void *arg)
{
	struct storm *storm = arg;
	struct evpl_iovec *iovec = calloc(3 * PER_SLAB, sizeof(*iovec));
	struct evpl *evpl;
	int i, n;

	for (i = 0; i < storm->rounds; i++) {
		if (evpl_create(&evpl, storm->pool, NULL))
			abort();
		for (n = 0; n < 3 * (int)PER_SLAB; n++)
			if (evpl_buffer_alloc(evpl, &iovec[n]) != 1)
				break;
		evpl_iovecs_release(iovec, n);
		evpl_destroy(evpl);
	}
	free(iovec);
	return NULL;
}

static void *storm_attacher(void *arg)
{
	struct storm *storm = arg;
	struct evpl_iovec iovec;
	struct evpl *evpl;
	struct fake fake;
	uint64_t cookie;
	int i;

	fake_init(&fake);
	if (evpl_create(&evpl, storm->pool, NULL))
		abort();
	for (i = 0; i < storm->rounds; i++) {
		if (attach(storm->pool, &fake))
			abort();
		/* A slab has a cookie, whether it was made before the attach or after it. */
		if (evpl_buffer_alloc(evpl, &iovec) == 1) {
			if (evpl_device_cookie(fake.device, &iovec, &cookie))
				storm->errors++;
			evpl_iovec_release(&iovec);
		}
		evpl_device_detach(fake.device);
		if (now_registered(&fake) || fake.overlaps)
			storm->errors++;
	}
	evpl_destroy(evpl);
	return NULL;
}

TEST_F(device, an_iovec_of_another_pool_has_no_cookie_here)
{
	struct evpl_iovec foreign;
	struct evpl_pool *pool;
	uint64_t cookie = 77;
	struct evpl *evpl;

	/* The other pool's device has the same slot, and a cookie for the same slab number. */
	ASSERT_EQ(0, open_pool(&pool, BUFFER, SLAB));
	ASSERT_EQ(0, evpl_create(&evpl, pool, NULL));
	ASSERT_EQ(0, attach(self->pool, &self->fake));
	ASSERT_EQ(0, attach(pool, &self->other));
	ASSERT_EQ(1, evpl_buffer_alloc(evpl, &foreign));
	EXPECT_EQ(-EINVAL, evpl_device_cookie(self->fake.device, &foreign, &cookie));
	EXPECT_EQ(77, cookie);
	EXPECT_EQ(0, self->fake.registrations);
	EXPECT_EQ(0, evpl_device_cookie(self->other.device, &foreign, &cookie));
	EXPECT_EQ(1000, cookie);
	evpl_iovec_release(&foreign);
	evpl_device_detach(self->other.device);
	evpl_device_detach(self->fake.device);
	evpl_destroy(evpl);
	EXPECT_EQ(0, evpl_pool_close(pool));
}

TEST_F(device, nor_has_a_received_buffer_of_another_pool)
{
	struct evpl_device_ops ops = fake_ops;
	struct received received;
	uint64_t cookie = 77;

	if (stats_of(self->pool).backend != EVPL_BACKEND_MODULE)
		SKIP(return, "the module's alone");
	ops.flags = EVPL_DEVICE_LEASES;
	receive_with(&received, self->pool, BUFFER, EVPL_MESSAGE_DEVICE);
	ASSERT_EQ(0, evpl_device_attach(received.other, &ops, &self->other, &self->other.device));
	self->other.registrations = 0;
	EXPECT_EQ(-EINVAL, evpl_device_cookie(self->other.device, &received.message.iovec,
					      &cookie));
	EXPECT_EQ(77, cookie);
	EXPECT_EQ(0, self->other.registrations);
	evpl_device_detach(self->other.device);
	EXPECT_EQ(0, end_received(&received));
}

TEST_F(device, attach_detach_grow_and_trim_at_once)
{
	struct storm storm[4];
	pthread_t threads[4];
	int i;

	/* One device is attached all the time. */
	ASSERT_EQ(0, attach(self->pool, &self->fake));
	for (i = 0; i < 4; i++) {
		storm[i] = (struct storm){ .pool = self->pool };
		storm[i].rounds = (i < 2 ? 1 : 10) * (few() ? 100 : 500);
		ASSERT_EQ(0, pthread_create(&threads[i], NULL,
					    i < 2 ? storm_allocator : storm_attacher, &storm[i]));
	}
	for (i = 0; i < 4; i++) {
		ASSERT_EQ(0, pthread_join(threads[i], NULL));
		EXPECT_EQ(0, storm[i].errors);
	}
	EXPECT_TRUE(all_idle(self->pool));
	EXPECT_EQ(stats_of(self->pool).slabs, now_registered(&self->fake));
	evpl_device_detach(self->fake.device);
	EXPECT_EQ(self->fake.registrations, self->fake.unregistrations);
}

/*
 * Threads receive a leased buffer, register and release it, while its owner pulls. A thread that
 * holds a reference must find the registration alive.
 */
#define LEASE_ROUNDS	(few() ? 2000U : 20000U)
#define LIVES		65536U

struct lives {
	struct evpl_pool *pool;
	struct evpl_device *device;
	struct evpl_channel *channel;
	atomic_uint registered, unregistered, received, dead;
	unsigned int rounds;
	atomic_bool alive[LIVES];
};

static int live_register(void *arg, const struct evpl_slab_info *slab, uint64_t *cookie)
{
	struct lives *lives = arg;

	if (!(slab->flags & EVPL_SLAB_LEASED) || slab->length != BUFFER)
		return -EINVAL;
	*cookie = atomic_fetch_add(&lives->registered, 1);
	if (*cookie >= LIVES)
		return -ENOSPC;
	atomic_store(&lives->alive[*cookie], true);
	return 0;
}

static int live_unregister(void *arg, const struct evpl_slab_info *slab, uint64_t cookie)
{
	struct lives *lives = arg;

	atomic_store(&lives->alive[cookie], false);
	atomic_fetch_add(&lives->unregistered, 1);
	return 0;
}

static void *live_receive(void *arg)
{
	struct lives *lives = arg;
	struct evpl_message got;
	uint64_t cookie;
	int i, n;

	while (atomic_load(&lives->received) < lives->rounds) {
		n = evpl_channel_recv(lives->channel, &got, 1);
		if (n != 1) {
			sched_yield();
			continue;
		}
		if (evpl_device_cookie(lives->device, &got.iovec, &cookie))
			atomic_fetch_add(&lives->dead, 1);
		for (i = 0; i < 10; i++) {
			if (!atomic_load(&lives->alive[cookie]))
				atomic_fetch_add(&lives->dead, 1);
			sched_yield();
		}
		evpl_iovec_release(&got.iovec);
		atomic_fetch_add(&lives->received, 1);
	}
	return NULL;
}

/*
 * Takes the pool's lock over and over. lease_regs_end(), after a last release, has to wait for it,
 * and other threads can receive the buffer meanwhile.
 */
static void *live_lock(void *arg)
{
	struct lives *lives = arg;

	while (atomic_load(&lives->received) < lives->rounds) {
		pool_lock(lives->pool);
		sched_yield();
		pool_unlock(lives->pool);
	}
	return NULL;
}

TEST(registration_of_a_leased_buffer_lives_as_long_as_a_reference_here)
{
	static const struct evpl_device_ops live_ops = {
		.size = sizeof(live_ops),
		.register_slab = live_register,
		.unregister_slab = live_unregister,
		.flags = EVPL_DEVICE_LEASES,
	};
	static struct lives lives;
	struct evpl_iovec buffer;
	struct evpl_channel *there;
	struct evpl_message sent;
	struct evpl_pool *pool, *other;
	struct evpl *evpl;
	pthread_t threads[2], locker;
	unsigned int i;
	int peer;

	if (!getenv("EVPL_BACKEND") || strcmp(getenv("EVPL_BACKEND"), "module"))
		SKIP(return, "the module's alone");
	lives.rounds = LEASE_ROUNDS;
	ASSERT_EQ(0, open_pool(&pool, BUFFER, SLAB));
	ASSERT_EQ(0, open_pool(&other, BUFFER, SLAB));
	ASSERT_EQ(0, evpl_create(&evpl, other, NULL));
	ASSERT_EQ(0, evpl_channel_create(&there, other, 8, EVPL_CHANNEL_BLOCKING, &peer));
	ASSERT_EQ(0, evpl_channel_bind(&lives.channel, pool, peer, 0));
	ASSERT_EQ(0, evpl_device_attach(pool, &live_ops, &lives, &lives.device));
	ASSERT_EQ(1, evpl_buffer_alloc(evpl, &buffer));
	lives.pool = pool;
	for (i = 0; i < 2; i++)
		ASSERT_EQ(0, pthread_create(&threads[i], NULL, live_receive, &lives));
	ASSERT_EQ(0, pthread_create(&locker, NULL, live_lock, &lives));
	for (i = 0; i < lives.rounds + 1; i++) {
		sent = (struct evpl_message){ .flags = EVPL_MESSAGE_DEVICE };
		evpl_iovec_clone(&sent.iovec, &buffer);
		ASSERT_EQ(0, evpl_channel_send(there, &sent, 1));
		if (i % 8 == 0)
			evpl_pool_trim(other);
	}
	for (i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	pthread_join(locker, NULL);
	EXPECT_EQ(0, atomic_load(&lives.dead));
	EXPECT_LT(0, atomic_load(&lives.registered));
	EXPECT_GT(LIVES, atomic_load(&lives.registered));

	/* The messages that nobody received are given back with the channel. */
	evpl_channel_close(lives.channel);
	EXPECT_EQ(atomic_load(&lives.registered), atomic_load(&lives.unregistered));
	evpl_device_detach(lives.device);
	evpl_iovec_release(&buffer);
	evpl_channel_close(there);
	evpl_destroy(evpl);
	EXPECT_EQ(0, evpl_pool_close(pool));
	/* The kernel gave the last references back. The pool sees that when it looks for memory. */
	evpl_pool_trim(other);
	EXPECT_EQ(0, used_in(other));
	EXPECT_EQ(0, evpl_pool_close(other));
}

TEST_HARNESS_MAIN
