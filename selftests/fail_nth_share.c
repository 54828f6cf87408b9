// SPDX-License-Identifier: GPL-2.0-only
/*
 * Calls between clients whose allocations and user copies fail (see fail_nth.h): channels,
 * records, leases, quarantines and dma-bufs.
 */
#include <poll.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "fail_nth.h"
#include "vgem.h"

/* More than a client is charged for its first share, and for its first lease. */
#define FIRST_SHARE	(4 * PAGE)
#define FIRST_LEASE	(8 * PAGE)

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
	return evpl_bind_with(self->fd, self->ends[0], self->bind_flags);
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

static bool buffer_is_shared(struct _test_data_nth *self)
{
	return self->entries[1].word == EVPL_WORD_SHARED;
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

static void bind_lessee(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	struct evpl_setup setup;

	self->lessee = open(DEVICE, O_RDWR | O_CLOEXEC);
	ASSERT_EQ(0, evpl_setup(self->lessee, 0, &setup));
	ASSERT_EQ(0, evpl_bind_with(self->lessee, self->ends[1], self->bind_flags));
}

static void both_bound(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	bound(_metadata, self);
	bind_lessee(_metadata, self);
}

static void sent(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	both_bound(_metadata, self);
	ASSERT_EQ(0, call_send(self));
}

static int call_receive(struct _test_data_nth *self)
{
	int received = evpl_recv(self->ends[1], &self->record, 1);

	return received == 1 ? 0 : received ?: -EIO;
}

static void close_lessee(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	close(self->lessee);
	unmap_and_close_ends(_metadata, self);
}

static const struct sequence receive_sequence = {
	.prepare = sent,
	.call = call_receive,
	.intact = buffer_is_shared,
	.undo = close_lessee,
	.entries = FIRST_LEASE,
	.one_by_one = true,
};

TEST_F(nth, receive_that_fails_leaves_the_record)
{
	sweep(_metadata, self, &receive_sequence);
}

/* The other end of the channel is a lane's, and its client has its header mapped. */
static void with_lane_peer(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	with_channel(_metadata, self);
	bind_lessee(_metadata, self);
	self->memory = evpl_map(self->lessee, PAGE, self->setup.out_header_offset);
	ASSERT_NE(MAP_FAILED, self->memory);
}

static uint64_t header_ends(struct _test_data_nth *self)
{
	return ((volatile struct evpl_header *)self->memory)->ends;
}

static uint64_t header_returned(struct _test_data_nth *self)
{
	return ((volatile struct evpl_header *)self->memory)->returned;
}

static bool peer_sees_nobody(struct _test_data_nth *self)
{
	return !header_ends(self) && fdinfo(self->ends[0], "evpl-bound") == 0 &&
	       fdinfo(self->ends[0], "evpl-lane") == 0;
}

static void close_lane(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	EXPECT_EQ(1, fdinfo(self->ends[0], "evpl-lane"));
	EXPECT_EQ(1, header_ends(self));
	EXPECT_EQ(0, munmap(self->memory, PAGE));
	close_lessee(_metadata, self);
}

TEST_F(nth, bind_of_a_lanes_end_that_fails_is_not_seen_by_the_peer)
{
	self->bind_flags = EVPL_BIND_LANE;
	sweep(_metadata, self, &(struct sequence){
		.prepare = with_lane_peer,
		.call = call_bind,
		.intact = peer_sees_nobody,
		.undo = close_lane,
	});
}

/* The first end is rung, and the second one is full. */
static void with_lane(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	with_lane_peer(_metadata, self);
	ASSERT_EQ(0, call_bind(self));
	ASSERT_EQ(0, evpl_doorbell(self->ends[1], EVPL_DOORBELL_IN, EVPL_DOORBELL_OUT));
}

static int call_doorbell(struct _test_data_nth *self)
{
	return evpl_doorbell(self->ends[0],
			     EVPL_DOORBELL_IN | EVPL_DOORBELL_OUT | EVPL_DOORBELL_MEMORY,
			     EVPL_DOORBELL_IN | EVPL_DOORBELL_OUT);
}

/* Whether poll(2) says these events of the two ends. */
static bool ends_say(struct _test_data_nth *self, short first, short second)
{
	struct pollfd pollfds[2];

	for (int i = 0; i < 2; i++)
		pollfds[i] = (struct pollfd){ .fd = self->ends[i], .events = POLLIN | POLLOUT };
	return poll(pollfds, 2, 0) >= 0 && pollfds[0].revents == first &&
	       pollfds[1].revents == second;
}

static bool nothing_was_rung(struct _test_data_nth *self)
{
	return ends_say(self, POLLIN | POLLOUT, 0) && !header_returned(self);
}

static void rung(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	EXPECT_TRUE(ends_say(self, 0, POLLIN | POLLOUT));
	EXPECT_NE(0, header_returned(self));
	close_lane(_metadata, self);
}

TEST_F(nth, doorbell_that_fails_is_quiet_and_rings_nobody)
{
	self->bind_flags = EVPL_BIND_LANE;
	sweep(_metadata, self, &(struct sequence){
		.prepare = with_lane,
		.call = call_doorbell,
		.intact = nothing_was_rung,
		.undo = rung,
	});
}

TEST_F(nth, send_of_a_lanes_record_that_fails_moves_no_reference)
{
	self->bind_flags = EVPL_BIND_LANE;
	self->record_flags = EVPL_RECORD_LANE;
	sweep(_metadata, self, &(struct sequence){
		.prepare = both_bound,
		.call = call_send,
		.intact = reference_is_there,
		.undo = close_lessee,
		.entries = FIRST_SHARE,
		.one_by_one = true,
	});
}

TEST_F(nth, receive_of_a_lanes_record_that_fails_leaves_the_record)
{
	self->bind_flags = EVPL_BIND_LANE;
	self->record_flags = EVPL_RECORD_LANE;
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
		.intact = buffer_is_shared,
		.undo = close_lessee,
	});
}

static void mapped_lease(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	received(_metadata, self);
	self->memory = mmap(FAR + (1UL << 40), PAGE, PROT_READ, MAP_SHARED,
			    self->lessee, self->record.offset);
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
	close_lessee(_metadata, self);
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
		.intact = buffer_is_shared,
		.undo = close_lessee,
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
		.intact = buffer_is_shared,
		.undo = close_lessee,
	});
}

static int call_release(struct _test_data_nth *self)
{
	int released = evpl_lease_release(self->lessee, &self->record.lease, 1);

	return released < 0 ? released : 0;
}

TEST_F(nth, release_that_fails_leaves_the_lease)
{
	sweep(_metadata, self, &(struct sequence){
		.prepare = received,
		.call = call_release,
		.intact = buffer_is_shared,
		.undo = close_lessee,
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
	return export(self, self->lessee, self->record.offset, 0);
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
	.entries = FIRST_SHARE,
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
	});
}

static void close_dmabuf_and_lessee(struct __test_metadata *_metadata,
				    struct _test_data_nth *self)
{
	EXPECT_EQ(EVPL_WORD_SHARED | EVPL_WORD_PASSED_ON, self->entries[1].word);
	EXPECT_EQ(0, close(self->dmabuf));
	EXPECT_EQ(0, self->entries[1].word);
	close_lessee(_metadata, self);
}

TEST_F(nth, export_of_a_lease_that_fails_keeps_it)
{
	self->record_flags = EVPL_RECORD_DEVICE;
	sweep(_metadata, self, &(struct sequence){
		.prepare = received,
		.call = call_export_lease,
		.intact = buffer_is_shared,
		.undo = close_dmabuf_and_lessee,
	});
}

static void received_with_ring(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	received(_metadata, self);
	open_ring(_metadata, self);
}

static int call_register_lease(struct _test_data_nth *self)
{
	return ring_take(&self->ring, self->lessee, 0, self->record.offset, MIB,
			 EVPL_URING_WRITE);
}

static bool lease_is_not_registered(struct _test_data_nth *self)
{
	return nothing_is_registered(self) && buffer_is_shared(self);
}

static void drop_and_close_lessee(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	drop_and_close_ring(_metadata, self);
	EXPECT_EQ(EVPL_WORD_SHARED, self->entries[1].word);
	close_lessee(_metadata, self);
}

TEST_F(nth, registration_of_a_lease_that_fails_keeps_it)
{
	if (!rings_can_register())
		SKIP(return, NO_COMMAND);
	self->record_flags = EVPL_RECORD_DEVICE | EVPL_RECORD_WRITE;
	sweep(_metadata, self, &(struct sequence){
		.prepare = received_with_ring,
		.call = call_register_lease,
		.intact = lease_is_not_registered,
		.undo = drop_and_close_lessee,
		.also = EAGAIN,
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
		.intact = buffer_is_shared,
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
	leases = evpl_map(self->lessee, PAGE, self->setup.out_leases_offset + (at & -PAGE));
	ASSERT_NE(MAP_FAILED, leases);
	((struct evpl_entry *)(leases + at % PAGE))->word = 0;
	munmap(leases, PAGE);
}

static int call_release_held(struct _test_data_nth *self)
{
	int released = evpl_lease_release(self->lessee, &self->record.lease, 1);

	return released == 1 ? 0 : released ?: -EIO;
}

/* The buffer is in quarantine, and the owner gets it back when the pipe is drained. */
static void end_by_draining(struct __test_metadata *_metadata, struct _test_data_nth *self)
{
	char page[PAGE];

	EXPECT_EQ(1, read_counters().quarantined);
	EXPECT_EQ(EVPL_WORD_SHARED, self->entries[1].word);
	EXPECT_EQ(PAGE, read(self->pipe[0], page, PAGE));
	for (int tries = 0; tries < 100 * LIMIT && self->entries[1].word; tries++)
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
		.intact = buffer_is_shared,
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
		.intact = buffer_is_shared,
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
		.intact = buffer_is_shared,
		.undo = ended,
	});
}

static int call_baseline(struct _test_data_nth *self)
{
	int busy = evpl_baseline(self->fd, 0, SLAB_2M, SLAB_2M);

	return busy > 0 ? -EIO : busy;
}

TEST_F(nth, baseline_that_fails_can_be_set_again)
{
	sweep(_metadata, self, &(struct sequence){
		.prepare = bound,
		.call = call_baseline,
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
		.intact = buffer_is_shared,
		.undo = close_handle,
	});
	close(self->gpu);
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

TEST_HARNESS_MAIN
