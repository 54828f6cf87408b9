// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * libevplmem-uring: each slab is registered once, and its slot comes back; I/O works where
 * memory can't be registered.
 */
#include <dlfcn.h>

#include "uring.h"

/* Slots that were cleared while this pool waited for a device to let go of its slab 0. */
static struct evpl_pool *watched;
static unsigned int cleared_in_time;

/* Replaces liburing's function, and calls it. */
int io_uring_register_buffers_update_tag(struct io_uring *ring, unsigned int first,
					 const struct iovec *iovecs, const __u64 *tags,
					 unsigned int n)
{
	int (*update)(struct io_uring *ring, unsigned int first, const struct iovec *iovecs,
		      const __u64 *tags, unsigned int n) = dlsym(RTLD_NEXT, __func__);

	if (watched && !iovecs->iov_len && slab_ids_is_awaited(&watched->slab_ids, 0))
		cleared_in_time++;
	return update(ring, first, iovecs, tags, n);
}

TEST_F(uring, a_slab_is_registered_once_and_its_index_stays)
{
	int i, index;

	NEEDS_REGISTRATION();
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[0]));
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[1]));
	EXPECT_EQ(0, uring_stats(self->uring).registrations);

	index = index_of(self->uring, &self->iovec[0][0]);
	EXPECT_EQ(FIRST, index);
	EXPECT_EQ(1, uring_stats(self->uring).registrations);
	for (i = 0; i < (int)PER_SLAB; i++)
		EXPECT_EQ(index, index_of(self->uring, &self->iovec[0][i]));
	EXPECT_EQ(1, uring_stats(self->uring).registrations);
	EXPECT_EQ(FIRST + 1, index_of(self->uring, &self->iovec[1][5]));
	EXPECT_EQ(index, index_of(self->uring, &self->iovec[0][0]));
	EXPECT_EQ(2, uring_stats(self->uring).registrations);
	EXPECT_EQ(2, uring_stats(self->uring).slots_used);
	EXPECT_EQ(0, uring_stats(self->uring).failures);
	EXPECT_EQ(NULL, evpl_uring_notice(self->uring));
}

static void *trim(void *arg)
{
	evpl_pool_trim(arg);
	return NULL;
}

TEST_F(uring, the_slot_of_a_trimmed_slab_is_cleared_later_and_used_again)
{
	struct evpl_slab_info gone, info;
	int i;

	NEEDS_REGISTRATION();
	for (i = 0; i < 3; i++) {
		ASSERT_EQ(0, take_slab(self->evpl, self->iovec[i]));
		ASSERT_EQ(FIRST + i, index_of(self->uring, &self->iovec[i][0]));
	}
	ASSERT_EQ(0, evpl_iovec_slab(&self->iovec[1][0], &gone));

	/* The pool keeps one idle slab: the first in its list. */
	for (i = 0; i < 2; i++)
		give_back(self, i);
	on_thread(trim, self->pool);
	ASSERT_EQ(2, stats_of(self->pool).slabs);
	EXPECT_EQ(3, uring_stats(self->uring).slots_used);
	EXPECT_EQ(0, uring_stats(self->uring).unregistrations);

	/* Until the slot is cleared, no other slab gets the number of the slab that went. */
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[0]));
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[1]));
	ASSERT_EQ(0, evpl_iovec_slab(&self->iovec[1][0], &info));
	EXPECT_NE(gone.number, info.number);

	/* Any call clears the slot. */
	EXPECT_EQ(FIRST + 2, index_of(self->uring, &self->iovec[2][0]));
	EXPECT_EQ(2, uring_stats(self->uring).slots_used);
	EXPECT_EQ(1, uring_stats(self->uring).unregistrations);
	EXPECT_EQ(FIRST + 1, index_of(self->uring, &self->iovec[1][0]));
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[3]));
	ASSERT_EQ(0, evpl_iovec_slab(&self->iovec[3][0], &info));
	EXPECT_EQ(gone.number, info.number);
	EXPECT_EQ(2, copy_by(self, &self->ring, self->uring));
}

/* A slot that is cleared later would have its references counted in the slab's baseline. */
TEST_F(uring, destroy_clears_slots_before_the_device_is_detached)
{
	struct evpl_uring *uring;
	struct evpl_iovec iovec;

	NEEDS_REGISTRATION();
	ASSERT_EQ(0, evpl_uring_create(&uring, self->pool, &self->ring, 1, 1, 0));
	ASSERT_EQ(1, evpl_buffer_alloc(self->evpl, &iovec));
	ASSERT_EQ(1, index_of(uring, &iovec));
	watched = self->pool;
	evpl_uring_destroy(uring);
	watched = NULL;
	EXPECT_EQ(1, cleared_in_time);
	evpl_iovec_release(&iovec);
}

TEST_F(uring, flush_clears_slots)
{
	NEEDS_REGISTRATION();
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[0]));
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[1]));
	ASSERT_EQ(FIRST, index_of(self->uring, &self->iovec[1][0]));
	give_back(self, 0);
	drop_slab(self, 1);
	EXPECT_EQ(1, uring_stats(self->uring).slots_used);
	evpl_uring_flush(self->uring);
	EXPECT_EQ(0, uring_stats(self->uring).slots_used);
	EXPECT_EQ(1, uring_stats(self->uring).unregistrations);
}

TEST_F(uring, without_a_slot_io_works_unregistered)
{
	struct evpl_uring *small;
	const char *notice;
	int i;

	NEEDS_REGISTRATION();
	/* The first evpl_uring has left slots 0 to 2 of the ring's table free. */
	ASSERT_EQ(0, evpl_uring_create(&small, self->pool, &self->ring, 1, 1, 0));
	for (i = 0; i < 3; i++)
		ASSERT_EQ(0, take_slab(self->evpl, self->iovec[i]));
	EXPECT_EQ(1, index_of(small, &self->iovec[2][0]));
	EXPECT_EQ(NULL, evpl_uring_notice(small));
	EXPECT_EQ(-ENOSPC, index_of(small, &self->iovec[0][0]));
	EXPECT_EQ(-ENOSPC, index_of(small, &self->iovec[0][0]));
	EXPECT_EQ(-ENOSPC, uring_stats(small).error);
	EXPECT_EQ(0, uring_stats(small).failures);
	notice = evpl_uring_notice(small);
	ASSERT_NE(NULL, notice);
	EXPECT_NE(NULL, strstr(notice, "slots"));
	EXPECT_EQ(NULL, evpl_uring_notice(small));

	/* The pool keeps the first of two idle slabs. The slot of the other is free again. */
	drop_slab(self, 1);
	drop_slab(self, 2);
	EXPECT_EQ(1, index_of(small, &self->iovec[0][0]));
	evpl_uring_destroy(small);
}

TEST_F(uring, what_the_kernel_refuses_is_asked_once_and_works)
{
	const char *notice;

	if (!self->refuses)
		SKIP(return, "this kernel registers this memory");
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[0]));
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[1]));
	EXPECT_EQ(0, copy_by(self, &self->ring, self->uring));
	EXPECT_EQ(-EOPNOTSUPP, index_of(self->uring, &self->iovec[0][0]));
	EXPECT_EQ(1, uring_stats(self->uring).failures);
	EXPECT_EQ(0, uring_stats(self->uring).registrations);
	EXPECT_EQ(-EOPNOTSUPP, uring_stats(self->uring).error);
	notice = evpl_uring_notice(self->uring);
	ASSERT_NE(NULL, notice);
	EXPECT_NE(NULL, strstr(notice, "6.12"));
	EXPECT_EQ(NULL, evpl_uring_notice(self->uring));
}

TEST_F(uring, a_ring_without_a_table_works_unregistered)
{
	struct evpl_uring *uring;
	struct io_uring ring;

	NEEDS_REGISTRATION();
	ASSERT_EQ(0, io_uring_queue_init(ENTRIES, &ring, 0));
	ASSERT_EQ(0, evpl_uring_create(&uring, self->pool, &ring, 0, 1, 0));
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[0]));
	EXPECT_EQ(-ENXIO, index_of(uring, &self->iovec[0][0]));
	EXPECT_EQ(-ENXIO, index_of(uring, &self->iovec[0][1]));
	EXPECT_EQ(1, uring_stats(uring).failures);
	EXPECT_NE(NULL, evpl_uring_notice(uring));
	evpl_uring_destroy(uring);
	io_uring_queue_exit(&ring);
}

TEST_F(uring, a_limit_of_locked_memory_is_told_and_tried_again)
{
	struct evpl_uring *uring;
	struct io_uring ring;
	const char *notice;

	NEEDS_CHARGE();
	NEEDS_ROOT();
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[0]));
	ASSERT_TRUE(become_somebody(0));
	ASSERT_EQ(0, io_uring_queue_init(ENTRIES, &ring, variant->flags));
	ASSERT_EQ(0, evpl_uring_create(&uring, self->pool, &ring, 0, 1,
				       EVPL_URING_NEW_TABLE));
	EXPECT_EQ(-ENOMEM, index_of(uring, &self->iovec[0][0]));
	EXPECT_EQ(-ENOMEM, index_of(uring, &self->iovec[0][0]));
	EXPECT_EQ(1, uring_stats(uring).failures);
	notice = evpl_uring_notice(uring);
	ASSERT_NE(NULL, notice);
	EXPECT_NE(NULL, strstr(notice, "RLIMIT_MEMLOCK"));

	ASSERT_TRUE(raise_limit());
	EXPECT_EQ(-ENOMEM, index_of(uring, &self->iovec[0][0]));
	evpl_uring_flush(uring);
	EXPECT_EQ(0, index_of(uring, &self->iovec[0][0]));
	evpl_uring_destroy(uring);
	io_uring_queue_exit(&ring);
	ASSERT_TRUE(become_root());
}

TEST_F(uring, an_eager_ring_registers_what_is_there_and_the_rest_at_its_use)
{
	struct evpl_uring *uring;
	struct io_uring ring;

	NEEDS_REGISTRATION();
	ASSERT_EQ(0, evpl_pool_preallocate(self->pool, 2 * SLAB, EVPL_ANY_NODE));
	ASSERT_EQ(2, stats_of(self->pool).slabs);
	ASSERT_EQ(0, io_uring_queue_init(ENTRIES, &ring, variant->flags));
	ASSERT_EQ(0, evpl_uring_create(&uring, self->pool, &ring, 0, SLOTS,
				       EVPL_URING_NEW_TABLE | EVPL_URING_EAGER));
	EXPECT_EQ(2, uring_stats(uring).registrations);
	EXPECT_EQ(2, uring_stats(uring).slots_used);
	EXPECT_EQ(pins(2), pinned());

	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[0]));
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[1]));
	EXPECT_EQ(2, copy_by(self, &ring, uring));
	EXPECT_EQ(2, uring_stats(uring).registrations);
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[2]));
	EXPECT_EQ(2, uring_stats(uring).slots_used);
	EXPECT_EQ(2, index_of(uring, &self->iovec[2][0]));
	EXPECT_EQ(3, uring_stats(uring).registrations);

	/* A slab that goes gives its slot back, as in other rings. */
	give_back(self, 0);
	drop_slab(self, 1);
	evpl_uring_flush(uring);
	EXPECT_EQ(2, uring_stats(uring).slots_used);
	EXPECT_TRUE(pinned_falls_to(&ring, pins(2)));
	evpl_uring_destroy(uring);
	EXPECT_TRUE(pinned_falls_to(&ring, 0));
	io_uring_queue_exit(&ring);
}

TEST_F(uring, what_an_eager_ring_cant_register_it_tells_and_tries_again)
{
	struct evpl_uring *uring;
	struct io_uring ring;
	const char *notice;

	NEEDS_CHARGE();
	NEEDS_ROOT();
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[0]));
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[1]));
	ASSERT_TRUE(become_somebody(1));
	ASSERT_EQ(0, io_uring_queue_init(ENTRIES, &ring, variant->flags));
	ASSERT_EQ(0, evpl_uring_create(&uring, self->pool, &ring, 0, SLOTS,
				       EVPL_URING_NEW_TABLE | EVPL_URING_EAGER));
	EXPECT_EQ(1, uring_stats(uring).slots_used);
	EXPECT_EQ(-ENOMEM, uring_stats(uring).error);
	notice = evpl_uring_notice(uring);
	ASSERT_NE(NULL, notice);
	EXPECT_NE(NULL, strstr(notice, "RLIMIT_MEMLOCK"));
	EXPECT_EQ(1, copy_by(self, &ring, uring));

	ASSERT_TRUE(raise_limit());
	evpl_uring_flush(uring);
	EXPECT_EQ(2, copy_by(self, &ring, uring));
	evpl_uring_destroy(uring);
	io_uring_queue_exit(&ring);
	ASSERT_TRUE(become_root());
}

/*
 * A ring registers a slab while one of the slab's buffers is in use. It takes as many references
 * on that buffer's folio as on the others, so the baseline of the others is right for it.
 */
TEST_F(uring, registering_keeps_no_buffer_that_others_give_back)
{
	const struct evpl_pool_config config = {
		.size = sizeof(config),
		.buffer_size = BUFFER,
		.slab_size = 2 * SLAB,
		.slab_size_max = 2 * SLAB,
		.max_bytes = 2 * SLAB,
	};
	struct evpl_message message = { .flags = EVPL_MESSAGE_DEVICE };
	struct received received;
	struct evpl_uring *uring;
	struct evpl_pool *pool;
	struct io_uring ring;
	struct evpl *evpl;

	NEEDS_REGISTRATION();
	if (stats_of(self->pool).backend != EVPL_BACKEND_MODULE)
		SKIP(return, "the module's alone");
	ASSERT_EQ(0, evpl_pool_open(&pool, &config));
	ASSERT_EQ(0, evpl_create(&evpl, pool, NULL));
	ASSERT_EQ(0, io_uring_queue_init(ENTRIES, &ring, variant->flags));
	ASSERT_EQ(0, evpl_uring_create(&uring, pool, &ring, 0, 1, EVPL_URING_NEW_TABLE));
	receive(&received, pool, BUFFER);
	ASSERT_EQ(1, evpl_buffer_alloc(evpl, &message.iovec));
	ASSERT_EQ(0, index_of(uring, &message.iovec));
	ASSERT_EQ(0, evpl_channel_send(received.here, &message, 1));
	ASSERT_EQ(1, evpl_channel_recv(received.there, &message, 1));
	evpl_iovec_release(&message.iovec);
	evpl_pool_trim(pool);
	EXPECT_EQ(0, used_in(pool));
	EXPECT_EQ(0, end_received(&received));
	evpl_uring_destroy(uring);
	io_uring_queue_exit(&ring);
	evpl_destroy(evpl);
	EXPECT_EQ(0, evpl_pool_close(pool));
}

static int register_slab(void *arg, const struct evpl_slab_info *slab, uint64_t *cookie)
{
	(void)arg;
	(void)slab;
	*cookie = 0;
	return 0;
}

/* Has the thread that gives a slab back wait for the test, twice, if there is a barrier. */
static int wait_twice(void *arg, const struct evpl_slab_info *slab, uint64_t cookie)
{
	pthread_barrier_t **barrier = arg;

	(void)slab;
	(void)cookie;
	if (*barrier) {
		pthread_barrier_wait(*barrier);
		pthread_barrier_wait(*barrier);
	}
	return 0;
}

/*
 * The bytes of a slab that is being given back count as room for a new slab before the ring is
 * told of it. So a ring can be short of a slot though it has as many as the pool can have slabs.
 */
TEST_F(uring, a_slab_that_is_being_given_back_keeps_its_slot_until_the_ring_is_told)
{
	const struct evpl_device_ops ops = {
		.size = sizeof(ops),
		.register_slab = register_slab,
		.unregister_slab = wait_twice,
	};
	pthread_barrier_t barrier, *awaited = &barrier;
	struct evpl_device *device;
	pthread_t thread;
	int i;

	NEEDS_REGISTRATION();
	ASSERT_EQ(0, pthread_barrier_init(&barrier, NULL, 2));
	/* The device is told before the ring, as it comes first. */
	evpl_uring_destroy(self->uring);
	ASSERT_EQ(0, evpl_device_attach(self->pool, &ops, &awaited, &device));
	ASSERT_EQ(0, evpl_uring_create(&self->uring, self->pool, &self->ring, FIRST, SLABS, 0));
	for (i = 0; i < SLABS; i++) {
		ASSERT_EQ(0, take_slab(self->evpl, self->iovec[i]));
		ASSERT_EQ(FIRST + i, index_of(self->uring, &self->iovec[i][0]));
	}

	/* The pool keeps the first of two idle slabs. */
	give_back(self, 2);
	give_back(self, 3);
	ASSERT_EQ(0, pthread_create(&thread, NULL, trim, self->pool));
	pthread_barrier_wait(&barrier);
	EXPECT_EQ(0, take_slab(self->evpl, self->iovec[2]));
	EXPECT_EQ(0, take_slab(self->evpl, self->iovec[3]));
	EXPECT_EQ(FIRST + 2, index_of(self->uring, &self->iovec[2][0]));
	EXPECT_EQ(-ENOSPC, index_of(self->uring, &self->iovec[3][0]));
	EXPECT_EQ(1, write_and_read(&self->ring, self->uring, self->fd, &self->iovec[3][3],
				    &self->iovec[0][7]));
	EXPECT_EQ(SLABS, uring_stats(self->uring).slots_used);
	pthread_barrier_wait(&barrier);
	pthread_join(thread, NULL);

	EXPECT_EQ(FIRST + 3, index_of(self->uring, &self->iovec[3][0]));
	EXPECT_EQ(2, write_and_read(&self->ring, self->uring, self->fd, &self->iovec[3][3],
				    &self->iovec[0][7]));
	EXPECT_EQ(0, uring_stats(self->uring).failures);
	awaited = NULL;
	evpl_device_detach(device);
	pthread_barrier_destroy(&barrier);
}

TEST_F(uring, slabs_come_and_go_on_another_thread)
{
	struct churn c = { .pool = self->pool };
	int round, i, index;
	pthread_t thread;

	NEEDS_REGISTRATION();
	ASSERT_EQ(0, pthread_create(&thread, NULL, churn, &c));
	for (round = 0; round < 200; round++) {
		for (i = 0; i < 3; i++) {
			/* The buffers of one round may be of several slabs. */
			ASSERT_EQ(0, take_slab(self->evpl, self->iovec[i]));
			index = index_of(self->uring, &self->iovec[i][0]);
			EXPECT_LE(FIRST, index);
			EXPECT_GT(FIRST + SLOTS, index);
			EXPECT_EQ(index, index_of(self->uring, &self->iovec[i][0]));
		}
		for (i = 0; i < 3; i++)
			give_back(self, i);
	}
	atomic_store(&c.stop, true);
	pthread_join(thread, NULL);
	evpl_uring_flush(self->uring);
	EXPECT_EQ(uring_stats(self->uring).registrations,
		  uring_stats(self->uring).unregistrations +
		  uring_stats(self->uring).slots_used);
	EXPECT_EQ(0, uring_stats(self->uring).failures);
}

TEST_HARNESS_MAIN
