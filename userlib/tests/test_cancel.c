// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * No function of the library is a cancellation point: a thread with a pending cancellation returns
 * from each of them. So it leaves neither a lock nor a reference behind.
 */
#include "common.h"
#include "connect.h"
#include "device.h"

/* A thread that calls @action while its cancellation is pending. */
struct doomed {
	void (*action)(struct doomed *doomed);
	void *arg;
	long result;
	atomic_bool came_back;		/* @action returned */
	atomic_bool ended;
};

static void has_ended(void *arg)
{
	struct doomed *doomed = arg;

	atomic_store(&doomed->ended, true);
}

/* The thread cancels itself, which has no effect before the next cancellation point. */
static void *doomed_main(void *arg)
{
	struct doomed *doomed = arg;

	pthread_cleanup_push(has_ended, doomed);
	pthread_cancel(pthread_self());
	doomed->action(doomed);
	atomic_store(&doomed->came_back, true);
	pthread_testcancel();
	pthread_cleanup_pop(1);
	return NULL;
}

static bool start(struct doomed *doomed, pthread_t *thread, void (*action)(struct doomed *doomed),
		  void *arg)
{
	*doomed = (struct doomed){ .action = action, .arg = arg, .result = -1 };
	return !pthread_create(thread, NULL, doomed_main, doomed);
}

/* Whether the action returned, and the thread was cancelled after that. */
static bool came_back(struct doomed *doomed, pthread_t thread)
{
	void *result = NULL;

	return !pthread_join(thread, &result) && result == PTHREAD_CANCELED &&
	       atomic_load(&doomed->came_back);
}

static bool survives(struct doomed *doomed, void (*action)(struct doomed *doomed), void *arg)
{
	pthread_t thread;

	return start(doomed, &thread, action, arg) && came_back(doomed, thread);
}

/* A device whose callbacks contain cancellation points, and can be made to wait. */
struct fake {
	struct evpl_device *device;
	atomic_int registered;
	atomic_int inside;
	atomic_bool stop;
};

static int fake_register(void *arg, const struct evpl_slab_info *slab, uint64_t *cookie)
{
	struct fake *fake = arg;

	atomic_store(&fake->inside, 1);
	pthread_testcancel();
	while (atomic_load(&fake->stop))
		sched_yield();
	atomic_fetch_add(&fake->registered, 1);
	*cookie = 1;
	return 0;
}

static int fake_unregister(void *arg, const struct evpl_slab_info *slab, uint64_t cookie)
{
	struct fake *fake = arg;

	pthread_testcancel();
	atomic_fetch_sub(&fake->registered, 1);
	return 0;
}

static const struct evpl_device_ops fake_ops = {
	.size = sizeof(fake_ops),
	.register_slab = fake_register,
	.unregister_slab = fake_unregister,
	.flags = EVPL_DEVICE_LEASES,
};

static void grow(struct doomed *doomed)
{
	doomed->result = evpl_pool_preallocate(doomed->arg, SLAB, EVPL_ANY_NODE);
}

static void detach(struct doomed *doomed)
{
	evpl_device_detach(doomed->arg);
	doomed->result = 0;
}

static void open_one(struct doomed *doomed)
{
	doomed->result = open_pool(doomed->arg, BUFFER, SLAB);
}

static void close_one(struct doomed *doomed)
{
	doomed->result = evpl_pool_close(doomed->arg);
}

TEST(a_pool_is_opened_and_closed)
{
	struct evpl_pool *pool;
	struct doomed doomed;

	EXPECT_TRUE(survives(&doomed, open_one, &pool));
	ASSERT_EQ(0, doomed.result);
	EXPECT_EQ(0, stats_of(pool).slabs);
	EXPECT_TRUE(survives(&doomed, close_one, pool));
	EXPECT_EQ(0, doomed.result);
}

TEST(call_backs_come_to_their_end)
{
	struct fake fake = { .stop = false };
	struct evpl_pool *pool;
	struct doomed doomed;

	ASSERT_EQ(0, open_pool(&pool, BUFFER, SLAB));
	ASSERT_EQ(0, evpl_device_attach(pool, &fake_ops, &fake, &fake.device));
	ASSERT_TRUE(survives(&doomed, grow, pool));
	EXPECT_EQ(0, doomed.result);
	EXPECT_EQ(1, atomic_load(&fake.registered));
	EXPECT_EQ(1, stats_of(pool).slabs);
	ASSERT_TRUE(survives(&doomed, detach, fake.device));
	EXPECT_EQ(0, doomed.result);
	EXPECT_EQ(0, atomic_load(&fake.registered));
	EXPECT_EQ(0, stats_of(pool).devices);
	EXPECT_EQ(0, evpl_pool_close(pool));
}

/* Whether evpl_device_detach() has dropped the pool's lock, to wait for a callback. */
static bool detach_waits(struct evpl_device *device)
{
	struct evpl_pool *pool = device->pool;
	bool waits;

	if (pthread_mutex_trylock(&pool->lock))
		return false;
	waits = device->detaching;
	pool_unlock(pool);
	return waits;
}

static void *preallocate(void *arg)
{
	return (void *)(intptr_t)evpl_pool_preallocate(arg, SLAB, EVPL_ANY_NODE);
}

TEST(a_detach_waits_for_a_call_back_to_its_end)
{
	struct fake fake = { .stop = true };
	struct evpl_pool *pool;
	pthread_t grows, detaches;
	struct doomed doomed;
	unsigned int spins = 0;
	void *result;

	ASSERT_EQ(0, open_pool(&pool, BUFFER, SLAB));
	ASSERT_EQ(0, evpl_device_attach(pool, &fake_ops, &fake, &fake.device));
	ASSERT_EQ(0, pthread_create(&grows, NULL, preallocate, pool));
	while (!atomic_load(&fake.inside))
		spin(&spins);
	ASSERT_TRUE(start(&doomed, &detaches, detach, fake.device));
	while (!atomic_load(&doomed.ended) && !detach_waits(fake.device))
		spin(&spins);
	atomic_store(&fake.stop, false);
	ASSERT_TRUE(came_back(&doomed, detaches));
	ASSERT_EQ(0, pthread_join(grows, &result));
	EXPECT_EQ(NULL, result);
	EXPECT_EQ(0, atomic_load(&fake.registered));
	EXPECT_EQ(0, stats_of(pool).devices);
	EXPECT_EQ(0, evpl_pool_close(pool));
}

struct socket_of {
	struct evpl_zerocopy *zerocopy;
	struct evpl_iovec *iovec;
};

static void send_one(struct doomed *doomed)
{
	struct socket_of *of = doomed->arg;

	doomed->result = evpl_zerocopy_send(of->zerocopy, of->iovec, 1, 0);
}

static void reap(struct doomed *doomed)
{
	struct socket_of *of = doomed->arg;

	while ((doomed->result = evpl_zerocopy_reap(of->zerocopy)) > 0)
		sched_yield();
}

TEST(what_a_socket_took_is_accounted_for)
{
	static char bytes[BUFFER];
	struct evpl_iovec iovec;
	struct socket_of of = { .iovec = &iovec };
	struct evpl_pool *pool;
	struct doomed doomed;
	struct evpl *evpl;
	int sockets[2];

	ASSERT_EQ(0, open_pool(&pool, BUFFER, SLAB));
	ASSERT_EQ(0, evpl_create(&evpl, pool, NULL));
	ASSERT_TRUE(connect_pair(sockets));
	ASSERT_EQ(0, evpl_zerocopy_create(&of.zerocopy, sockets[0]));
	ASSERT_EQ(1, evpl_buffer_alloc(evpl, &iovec));
	ASSERT_TRUE(survives(&doomed, send_one, &of));
	EXPECT_EQ(BUFFER, doomed.result);
	EXPECT_EQ(2, word_of(&iovec));
	EXPECT_EQ(BUFFER, recv(sockets[1], bytes, BUFFER, MSG_WAITALL));
	ASSERT_TRUE(survives(&doomed, reap, &of));
	EXPECT_EQ(0, doomed.result);
	EXPECT_EQ(1, word_of(&iovec));
	EXPECT_EQ(0, evpl_zerocopy_destroy(of.zerocopy));
	evpl_iovec_release(&iovec);
	close(sockets[0]);
	close(sockets[1]);
	evpl_destroy(evpl);
	EXPECT_EQ(0, evpl_pool_close(pool));
}

/* A received buffer, and the device that registers it. */
struct lease {
	struct received received;
	struct fake fake;
};

static void ask_for_cookie(struct doomed *doomed)
{
	struct lease *lease = doomed->arg;
	uint64_t cookie = 0;

	doomed->result = evpl_device_cookie(lease->fake.device, &lease->received.message.iovec,
					    &cookie);
	if (!doomed->result)
		doomed->result = (long)cookie;
}

static void end_lease(struct doomed *doomed)
{
	struct lease *lease = doomed->arg;

	doomed->result = end_received(&lease->received);
}

/* Sends a message to the other pool and back. The functions call read(2) and write(2). */
static void send_there_and_back(struct doomed *doomed)
{
	struct lease *lease = doomed->arg;
	struct received *received = &lease->received;

	doomed->result = evpl_channel_send(received->here, &received->message, 1);
	if (!doomed->result)
		doomed->result = evpl_channel_recv(received->there, &received->message, 1);
	received->message.flags = EVPL_MESSAGE_DEVICE;
	if (doomed->result == 1)
		doomed->result = evpl_channel_send(received->there, &received->message, 1);
	if (!doomed->result)
		doomed->result = evpl_channel_recv(received->here, &received->message, 1);
}

TEST(a_received_buffer_is_sent_registered_and_released)
{
	struct lease lease = { .fake.stop = false };
	struct evpl_pool *pool;
	struct doomed doomed;

	ASSERT_EQ(0, open_pool(&pool, BUFFER, SLAB));
	if (stats_of(pool).backend != EVPL_BACKEND_MODULE)
		SKIP(return, "the module's alone");
	receive_with(&lease.received, pool, BUFFER, EVPL_MESSAGE_DEVICE);
	ASSERT_TRUE(survives(&doomed, send_there_and_back, &lease));
	ASSERT_EQ(1, doomed.result);
	ASSERT_EQ(0, evpl_device_attach(pool, &fake_ops, &lease.fake, &lease.fake.device));
	ASSERT_TRUE(survives(&doomed, ask_for_cookie, &lease));
	EXPECT_EQ(1, doomed.result);
	EXPECT_EQ(1, atomic_load(&lease.fake.registered));
	ASSERT_TRUE(survives(&doomed, end_lease, &lease));
	EXPECT_EQ(0, doomed.result);
	EXPECT_EQ(0, atomic_load(&lease.fake.registered));
	evpl_device_detach(lease.fake.device);
	EXPECT_EQ(0, evpl_pool_close(pool));
}

TEST_HARNESS_MAIN
