// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/* libevplmem-uring: a clone uses the slabs that another ring has registered. */
#include "uring.h"

#include <sys/utsname.h>

/* Another ring, which becomes a clone of the fixture's. */
struct twin {
	struct io_uring ring;
	struct evpl_uring *uring;
};

static int clone_ring(FIXTURE_DATA(uring) *self, struct twin *twin, unsigned int flags)
{
	if (io_uring_queue_init(ENTRIES, &twin->ring, flags))
		abort();
	return evpl_uring_clone(&twin->uring, self->uring, &twin->ring);
}

static void end_twin(struct twin *twin)
{
	evpl_uring_destroy(twin->uring);
	io_uring_queue_exit(&twin->ring);
}

/* Whether this kernel clones tables of buffers, as the library says. */
static bool kernel_clones(FIXTURE_DATA(uring) *self)
{
	struct twin twin;
	int cloned = clone_ring(self, &twin, 0);

	if (cloned < 0)
		abort();
	end_twin(&twin);
	return cloned;
}

#define NEEDS_CLONES()									\
	do {										\
		NEEDS_REGISTRATION();							\
		if (!kernel_clones(self))						\
			SKIP(return, "this kernel doesn't clone tables of buffers");	\
	} while (0)

/* Takes slabs, and registers them with the fixture's ring. */
static bool register_slabs(FIXTURE_DATA(uring) *self, int nr)
{
	int i;

	for (i = 0; i < nr; i++)
		if (take_slab(self->evpl, self->iovec[i]) ||
		    index_of(self->uring, &self->iovec[i][0]) != FIRST + i)
			return false;
	return pinned() == pins((unsigned int)nr);
}

TEST_F(uring, a_kernel_clones_tables_from_6_12_on)
{
	struct utsname name;
	int major, minor;

	ASSERT_EQ(0, uname(&name));
	ASSERT_EQ(2, sscanf(name.release, "%d.%d", &major, &minor));
	EXPECT_EQ(major > 6 || (major == 6 && minor >= 12), kernel_clones(self));
}

TEST_F(uring, a_clone_moves_bytes_in_what_its_source_registered)
{
	struct twin twin;

	NEEDS_CLONES();
	ASSERT_TRUE(register_slabs(self, 2));
	ASSERT_EQ(1, clone_ring(self, &twin, variant->flags));
	EXPECT_EQ(2, uring_stats(twin.uring).slots_used);
	EXPECT_EQ(SLOTS, uring_stats(twin.uring).slots);
	EXPECT_EQ(pins(2), pinned());
	EXPECT_EQ(FIRST, index_of(twin.uring, &self->iovec[0][0]));
	EXPECT_EQ(FIRST + 1, index_of(twin.uring, &self->iovec[1][0]));
	EXPECT_EQ(2, copy_by(self, &twin.ring, twin.uring));
	EXPECT_EQ(2, copy_by(self, &self->ring, self->uring));
	EXPECT_EQ(0, uring_stats(twin.uring).registrations);
	EXPECT_EQ(0, uring_stats(twin.uring).failures);
	EXPECT_EQ(NULL, evpl_uring_notice(twin.uring));

	/* The end of the clone takes nothing from its source. */
	end_twin(&twin);
	EXPECT_EQ(2, copy_by(self, &self->ring, self->uring));
	EXPECT_EQ(pins(2), pinned());
}

TEST_F(uring, a_clone_of_a_clone_outlives_both_sources)
{
	struct twin twin, last;

	NEEDS_CLONES();
	ASSERT_TRUE(register_slabs(self, 2));
	ASSERT_EQ(1, clone_ring(self, &twin, variant->flags));
	ASSERT_EQ(0, io_uring_queue_init(ENTRIES, &last.ring, variant->flags));
	ASSERT_EQ(1, evpl_uring_clone(&last.uring, twin.uring, &last.ring));

	evpl_uring_destroy(self->uring);
	self->uring = NULL;
	io_uring_queue_exit(&self->ring);
	end_twin(&twin);
	ASSERT_EQ(0, io_uring_queue_init(ENTRIES, &self->ring, variant->flags));
	EXPECT_EQ(2, copy_by(self, &last.ring, last.uring));
	EXPECT_EQ(0, uring_stats(last.uring).registrations);
	EXPECT_EQ(pins(2), pinned());
	evpl_uring_destroy(last.uring);
	EXPECT_TRUE(pinned_falls_to(&last.ring, 0));
	io_uring_queue_exit(&last.ring);
}

TEST_F(uring, clones_are_charged_once_for_all)
{
	struct evpl_uring *source, *own;
	struct io_uring rings[2];
	struct twin twin;

	NEEDS_CLONES();
	NEEDS_CHARGE();
	NEEDS_ROOT();
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[0]));
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[1]));
	ASSERT_TRUE(become_somebody(1));
	ASSERT_EQ(0, io_uring_queue_init(ENTRIES, &rings[0], variant->flags));
	ASSERT_EQ(0, evpl_uring_create(&source, self->pool, &rings[0], 0, SLOTS,
				       EVPL_URING_NEW_TABLE));
	EXPECT_EQ(0, index_of(source, &self->iovec[0][0]));

	/* The limit has no room for another registration. A clone needs none for this slab. */
	ASSERT_EQ(0, io_uring_queue_init(ENTRIES, &rings[1], variant->flags));
	ASSERT_EQ(0, evpl_uring_create(&own, self->pool, &rings[1], 0, SLOTS,
				       EVPL_URING_NEW_TABLE));
	EXPECT_EQ(-ENOMEM, index_of(own, &self->iovec[0][0]));
	ASSERT_EQ(0, io_uring_queue_init(ENTRIES, &twin.ring, variant->flags));
	ASSERT_EQ(1, evpl_uring_clone(&twin.uring, source, &twin.ring));
	EXPECT_EQ(1, copy_by(self, &twin.ring, twin.uring));
	EXPECT_EQ(-ENOMEM, index_of(twin.uring, &self->iovec[1][0]));

	/* The charge ends when both the source and its clone are gone. */
	evpl_uring_destroy(source);
	evpl_uring_flush(own);
	EXPECT_EQ(-ENOMEM, index_of(own, &self->iovec[0][0]));
	evpl_uring_destroy(twin.uring);
	EXPECT_TRUE(pinned_falls_to(&twin.ring, 0));
	evpl_uring_flush(own);
	EXPECT_EQ(0, index_of(own, &self->iovec[0][0]));

	evpl_uring_destroy(own);
	io_uring_queue_exit(&rings[0]);
	io_uring_queue_exit(&rings[1]);
	io_uring_queue_exit(&twin.ring);
	ASSERT_TRUE(become_root());
}

/*
 * The bytes of freed slabs for which the module still charges. Other back ends have none. All slabs
 * that the pool has are registered.
 */
static long long held(FIXTURE_DATA(uring) *self)
{
	if (stats_of(self->pool).backend != EVPL_BACKEND_MODULE)
		return 0;
	if (uncharged)
		return (counter("registrations") - (long long)stats_of(self->pool).slabs) * SLAB;
	return counter("detached-bytes");
}

static bool held_falls_to(FIXTURE_DATA(uring) *self, long long bytes)
{
	int tries = 600;

	while (held(self) != bytes) {
		if (!tries--)
			return false;
		usleep(100 * 1000);
	}
	return true;
}

TEST_F(uring, the_memory_of_a_slab_that_goes_is_back_when_all_clones_cleared_it)
{
	bool module = stats_of(self->pool).backend == EVPL_BACKEND_MODULE;
	struct twin twin;

	NEEDS_CLONES();
	ASSERT_TRUE(held_falls_to(self, 0));	/* the memory of an earlier test */
	ASSERT_TRUE(register_slabs(self, 3));
	ASSERT_EQ(1, clone_ring(self, &twin, variant->flags));
	give_back(self, 0);
	drop_slab(self, 1);
	ASSERT_EQ(2, stats_of(self->pool).slabs);
	EXPECT_EQ(3, uring_stats(self->uring).slots_used);
	EXPECT_EQ(3, uring_stats(twin.uring).slots_used);

	evpl_uring_flush(self->uring);
	EXPECT_EQ(2, uring_stats(self->uring).slots_used);
	EXPECT_EQ(3, uring_stats(twin.uring).slots_used);
	EXPECT_EQ(pins(3), pinned());
	EXPECT_EQ(module ? SLAB : 0, held(self));

	evpl_uring_flush(twin.uring);
	EXPECT_EQ(2, uring_stats(twin.uring).slots_used);
	EXPECT_EQ(1, uring_stats(twin.uring).unregistrations);
	EXPECT_TRUE(pinned_falls_to(&twin.ring, pins(2)));
	EXPECT_TRUE(held_falls_to(self, 0));

	/* Both rings can use the slots again. */
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[0]));
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[1]));
	EXPECT_EQ(2, copy_by(self, &twin.ring, twin.uring));
	EXPECT_EQ(2, copy_by(self, &self->ring, self->uring));
	end_twin(&twin);
}

TEST_F(uring, a_slab_that_went_before_isnt_in_a_clone)
{
	struct twin twin;

	NEEDS_CLONES();
	ASSERT_TRUE(register_slabs(self, 3));
	give_back(self, 0);
	drop_slab(self, 1);
	ASSERT_EQ(3, uring_stats(self->uring).slots_used);
	ASSERT_EQ(1, clone_ring(self, &twin, variant->flags));
	EXPECT_EQ(2, uring_stats(twin.uring).slots_used);
	EXPECT_EQ(pins(3), pinned());
	evpl_uring_flush(self->uring);
	EXPECT_TRUE(pinned_falls_to(&self->ring, pins(2)));
	end_twin(&twin);
}

TEST_F(uring, a_clone_finds_a_slab_in_another_slot_than_the_last_one_of_its_number)
{
	struct evpl_slab_info before, after;
	struct twin twin;
	int i;

	NEEDS_CLONES();
	ASSERT_TRUE(register_slabs(self, 4));
	ASSERT_EQ(0, evpl_iovec_slab(&self->iovec[1][0], &before));
	give_back(self, 0);
	for (i = 1; i < 3; i++) {
		drop_slab(self, i);
		evpl_uring_flush(self->uring);
	}
	for (i = 0; i < 2; i++)
		ASSERT_EQ(0, take_slab(self->evpl, self->iovec[i]));
	ASSERT_EQ(0, evpl_iovec_slab(&self->iovec[1][0], &after));
	ASSERT_EQ(before.number, after.number);
	ASSERT_EQ(FIRST + 2, index_of(self->uring, &self->iovec[1][0]));

	ASSERT_EQ(1, clone_ring(self, &twin, variant->flags));
	EXPECT_EQ(3, uring_stats(twin.uring).slots_used);
	EXPECT_EQ(FIRST + 2, index_of(twin.uring, &self->iovec[1][0]));
	EXPECT_EQ(2, copy_by(self, &twin.ring, twin.uring));
	end_twin(&twin);
}

TEST_F(uring, a_later_slab_is_registered_by_each_ring_until_the_table_is_cloned_anew)
{
	struct twin twin;

	NEEDS_CLONES();
	ASSERT_TRUE(register_slabs(self, 1));
	ASSERT_EQ(1, clone_ring(self, &twin, variant->flags));
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[1]));
	EXPECT_EQ(1, uring_stats(twin.uring).slots_used);
	EXPECT_EQ(2, copy_by(self, &self->ring, self->uring));
	EXPECT_EQ(pins(2), pinned());
	EXPECT_EQ(2, copy_by(self, &twin.ring, twin.uring));
	EXPECT_EQ(1, uring_stats(twin.uring).registrations);
	EXPECT_EQ(pins(3), pinned());

	evpl_uring_destroy(twin.uring);
	ASSERT_EQ(0, io_uring_unregister_buffers(&twin.ring));
	ASSERT_EQ(1, evpl_uring_clone(&twin.uring, self->uring, &twin.ring));
	EXPECT_EQ(2, copy_by(self, &twin.ring, twin.uring));
	EXPECT_EQ(0, uring_stats(twin.uring).registrations);
	EXPECT_TRUE(pinned_falls_to(&twin.ring, pins(2)));
	end_twin(&twin);
}

TEST_F(uring, only_a_ring_without_a_table_becomes_a_clone)
{
	struct evpl_uring *uring, *bare;
	struct io_uring rings[2];

	ASSERT_EQ(0, io_uring_queue_init(ENTRIES, &rings[0], variant->flags));
	ASSERT_EQ(0, io_uring_queue_init(ENTRIES, &rings[1], variant->flags));
	ASSERT_EQ(0, io_uring_register_buffers_sparse(&rings[0], 1));
	EXPECT_EQ(-EBUSY, evpl_uring_clone(&uring, self->uring, &rings[0]));

	ASSERT_EQ(0, io_uring_unregister_buffers(&rings[0]));
	ASSERT_EQ(0, evpl_uring_create(&bare, self->pool, &rings[0], 0, 1, 0));
	if (kernel_clones(self))
		EXPECT_EQ(-ENXIO, evpl_uring_clone(&uring, bare, &rings[1]));
	evpl_uring_destroy(bare);
	EXPECT_EQ(1, stats_of(self->pool).devices);
	io_uring_queue_exit(&rings[0]);
	io_uring_queue_exit(&rings[1]);
}

TEST_F(uring, a_clone_that_the_pool_has_no_place_for_leaves_no_table)
{
	struct evpl_device_ops ops = { .size = sizeof(ops) };
	struct evpl_device *devices[EVPL_DEVICES_MAX];
	struct evpl_uring *uring;
	struct io_uring ring;
	int i;

	for (i = 0; i < EVPL_DEVICES_MAX - 1; i++)
		ASSERT_EQ(0, evpl_device_attach(self->pool, &ops, NULL, &devices[i]));
	ASSERT_EQ(0, io_uring_queue_init(ENTRIES, &ring, variant->flags));
	EXPECT_EQ(-ENOSPC, evpl_uring_clone(&uring, self->uring, &ring));
	EXPECT_EQ(-ENXIO, io_uring_unregister_buffers(&ring));
	EXPECT_EQ(-ENOSPC, evpl_uring_create(&uring, self->pool, &ring, 0, 1,
					     EVPL_URING_NEW_TABLE));
	EXPECT_EQ(-ENXIO, io_uring_unregister_buffers(&ring));
	while (i--)
		evpl_device_detach(devices[i]);
	io_uring_queue_exit(&ring);
}

static void *clone_elsewhere(void *arg)
{
	struct elsewhere *elsewhere = arg;
	struct evpl_uring *uring;

	elsewhere->created = evpl_uring_clone(&uring, elsewhere->uring, elsewhere->ring);
	return NULL;
}

TEST_F(uring, a_ring_of_another_thread_is_a_source_and_no_clone)
{
	struct elsewhere elsewhere = { .uring = self->uring };
	struct io_uring ring;

	NEEDS_RING_OF_ONE_THREAD();
	ASSERT_EQ(0, io_uring_queue_init(ENTRIES, &ring, variant->flags));
	elsewhere.ring = &ring;
	on_thread(clone_elsewhere, &elsewhere);
	EXPECT_EQ(-EEXIST, elsewhere.created);
	EXPECT_EQ(1, stats_of(self->pool).devices);
	io_uring_queue_exit(&ring);
}

/*
 * On a kernel that can't clone, evpl_uring_clone() makes a ring that registers for itself, if the
 * kernel registers this memory. It does so on other kernels if the rings are charged to two users.
 */
TEST_F(uring, a_ring_that_cant_be_a_clone_works_by_itself)
{
	bool clones = kernel_clones(self);
	struct twin twin;

	if (clones)
		NEEDS_ROOT();
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[0]));
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[1]));
	index_of(self->uring, &self->iovec[0][0]);
	if (clones)
		ASSERT_TRUE(become_somebody(2));
	ASSERT_EQ(0, clone_ring(self, &twin, variant->flags));
	EXPECT_EQ(0, uring_stats(twin.uring).slots_used);
	EXPECT_EQ(SLOTS, uring_stats(twin.uring).slots);
	EXPECT_EQ(NULL, evpl_uring_notice(twin.uring));
	EXPECT_EQ(self->refuses ? 0 : 2, copy_by(self, &twin.ring, twin.uring));
	EXPECT_EQ(self->refuses ? 0 : 2, uring_stats(twin.uring).registrations);
	EXPECT_EQ(self->refuses ? 0 : pins(3), pinned());
	end_twin(&twin);
	if (clones)
		ASSERT_TRUE(become_root());
}

/*
 * Clones the fixture's ring again and again, and moves bytes. If that ring belongs to a single
 * thread, kernels after 6.12 let no other thread clone it.
 */
struct cloner {
	FIXTURE_DATA(uring) *self;
	unsigned int flags;
	int rounds;
	int found;		/* clones that came with slabs */
	const char *error;	/* or "" */
};

static const char *clone_once(struct cloner *cloner, struct twin *twin, int fd,
			      const struct evpl_iovec iovec[2])
{
	int cloned, moved;

	cloned = evpl_uring_clone(&twin->uring, cloner->self->uring, &twin->ring);
	if (cloned < 0)
		return "neither cloned nor a ring by itself";
	cloner->found += cloned && uring_stats(twin->uring).slots_used;
	moved = write_and_read(&twin->ring, twin->uring, fd, &iovec[0], &iovec[1]);
	evpl_uring_destroy(twin->uring);
	if (io_uring_unregister_buffers(&twin->ring))
		return "without a table";
	return moved == 2 ? "" : "not written and read in registered buffers";
}

static void *clone_and_copy(void *arg)
{
	struct cloner *cloner = arg;
	struct evpl_iovec iovec[2];
	struct twin twin;
	struct evpl *evpl;
	int round, fd = memfd_create("test_uring", 0);

	if (fd < 0 || evpl_create(&evpl, cloner->self->pool, NULL) ||
	    io_uring_queue_init(ENTRIES, &twin.ring, cloner->flags))
		abort();
	cloner->error = "";
	for (round = 0; round < cloner->rounds && !cloner->error[0]; round++) {
		if (evpl_buffer_alloc(evpl, &iovec[0]) != 1 ||
		    evpl_buffer_alloc(evpl, &iovec[1]) != 1)
			abort();
		cloner->error = clone_once(cloner, &twin, fd, iovec);
		evpl_iovecs_release(iovec, 2);
	}
	io_uring_queue_exit(&twin.ring);
	evpl_destroy(evpl);
	close(fd);
	return NULL;
}

TEST_F(uring, tables_are_cloned_while_slabs_come_and_go)
{
	struct churn c = { .pool = self->pool };
	pthread_t threads[2], churner;
	struct cloner cloners[2];
	int i, round, rounds = few() ? 50 : 500;

	NEEDS_CLONES();
	/* The first clone already finds a slab. */
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[2]));
	ASSERT_LE(FIRST, index_of(self->uring, &self->iovec[2][0]));
	ASSERT_EQ(0, pthread_create(&churner, NULL, churn, &c));
	for (i = 0; i < 2; i++) {
		cloners[i] = (struct cloner){
			.self = self,
			.flags = variant->flags,
			.rounds = rounds,
		};
		ASSERT_EQ(0, pthread_create(&threads[i], NULL, clone_and_copy, &cloners[i]));
	}
	for (round = 0; round < rounds; round++) {
		ASSERT_EQ(0, take_slab(self->evpl, self->iovec[0]));
		ASSERT_EQ(0, take_slab(self->evpl, self->iovec[1]));
		EXPECT_EQ(2, copy_by(self, &self->ring, self->uring));
		give_back(self, 0);
		give_back(self, 1);
	}
	for (i = 0; i < 2; i++) {
		pthread_join(threads[i], NULL);
		EXPECT_STREQ("", cloners[i].error);
		if (!(variant->flags & IORING_SETUP_SINGLE_ISSUER))
			EXPECT_LT(0, cloners[i].found);
	}
	atomic_store(&c.stop, true);
	pthread_join(churner, NULL);
	evpl_uring_flush(self->uring);
	EXPECT_TRUE(pinned_falls_to(&self->ring, pins(uring_stats(self->uring).slots_used)));
}

TEST_HARNESS_MAIN
