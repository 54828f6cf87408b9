// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * A hostile peer of a lane, over the module. One side is the library. The other side makes its
 * calls to /dev/evpl itself, and has a block of its own, into which it writes whatever it likes.
 * test_lane_rings.c has the same lies without the module, under the sanitizers.
 */
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>

#include "counters.h"
#include "lane.h"
#include "lies.h"
#include "message.h"
#include "windows.h"

#define RING		64U
#define GRANTS		256U
#define NR_BUFFERS	(SLAB / BUFFER)

/**
 * struct hostile - the hostile side
 * @fd: its client of /dev/evpl
 * @end: its end of the channel
 * @setup: the client's windows
 * @own: its memory, a slab; buffer 0 has the block
 * @entries: those of its buffers
 * @guest: the guest-ro window
 * @block: its block
 * @peer: the library's block
 * @head: entries that it has written
 */
struct hostile {
	int fd;
	int end;
	struct evpl_setup setup;
	char *own;
	struct evpl_entry *entries;
	char *guest;
	struct lane_block *block;
	const struct lane_block *peer;
	uint32_t head;
};

FIXTURE(hostile)
{
	char before[512];
	struct evpl_pool *pool;
	struct evpl *evpl;
	struct evpl_channel *channel;
	struct hostile hostile;
};

FIXTURE_SETUP(hostile)
{
	struct evpl_pool_config config = {
		.size = sizeof(config),
		.buffer_size = BUFFER,
		.slab_size_max = SLAB,
		.max_bytes = 2 * SLAB,
		.flags = EVPL_POOL_ZEROS,
	};

	self->before[0] = '\0';
	if (!getenv("EVPL_BACKEND") || strcmp(getenv("EVPL_BACKEND"), "module"))
		SKIP(return, "the module's alone");
	read_counters(self->before);
	ASSERT_NE('\0', self->before[0]) {
		TH_LOG("can't read " COUNTERS);
	}
	ASSERT_EQ(0, evpl_pool_open(&self->pool, &config));
	self->hostile.fd = -1;
}

FIXTURE_TEARDOWN(hostile)
{
	char now[512];

	if (!self->before[0])
		return;
	EXPECT_EQ(0, evpl_pool_close(self->pool));
	counters_return_to(self->before, now);
	EXPECT_STREQ(self->before, now);
}

static void *map(struct hostile *hostile, uint64_t size, uint64_t offset, int protection)
{
	void *address = mmap(NULL, size, protection, MAP_SHARED | MAP_NORESERVE, hostile->fd,
			     (off_t)offset);

	if (address == MAP_FAILED)
		abort();
	return address;
}

/* Binds an end, as a lane's, to a new client. */
static bool hostile_open(struct hostile *hostile, int end)
{
	struct evpl_slab_alloc slab = { .size = sizeof(slab), .length = SLAB, .node = EVPL_NODE_ANY };
	struct evpl_channel_bind bind = { .size = sizeof(bind), .flags = EVPL_BIND_LANE, .fd = end };

	*hostile = (struct hostile){ .end = end };
	hostile->setup = (struct evpl_setup){
		.size = sizeof(hostile->setup),
		.flags = EVPL_SETUP_ZEROS,
		.buffer_size = BUFFER,
	};
	hostile->fd = open("/dev/evpl", O_RDWR | O_CLOEXEC);
	if (hostile->fd < 0 || ioctl(hostile->fd, EVPL_SETUP, &hostile->setup) ||
	    ioctl(hostile->fd, EVPL_SLAB_ALLOC, &slab) ||
	    ioctl(hostile->fd, EVPL_CHANNEL_BIND, &bind) || fcntl(end, F_SETFL, O_NONBLOCK))
		return false;
	hostile->own = map(hostile, SLAB, slab.out_offset, PROT_READ | PROT_WRITE);
	hostile->entries = map(hostile, PAGE, hostile->setup.out_refs_offset,
			       PROT_READ | PROT_WRITE);
	hostile->guest = map(hostile, hostile->setup.out_guest_size,
			     hostile->setup.out_guest_ro_offset, PROT_READ);
	hostile->block = (struct lane_block *)hostile->own;
	*hostile->block = (struct lane_block){
		.magic = LANE_MAGIC,
		.version = LANE_VERSION,
		.nr_entries = RING,
		.nr_grants = GRANTS,
	};
	return true;
}

static void hostile_close(struct hostile *hostile)
{
	if (hostile->fd < 0)
		return;
	if (hostile->end >= 0)
		close(hostile->end);
	munmap(hostile->own, SLAB);
	munmap(hostile->entries, PAGE);
	munmap(hostile->guest, hostile->setup.out_guest_size);
	close(hostile->fd);
	hostile->fd = -1;
}

/* Sends a record, of the part of a buffer of its own, or of a lease. */
static int send_part(struct hostile *hostile, uint64_t offset, uint32_t length, uint32_t flags)
{
	struct evpl_record record = { .offset = offset, .length = length, .flags = flags };

	if (offset < SLAB)
		__atomic_fetch_add(&hostile->entries[offset / BUFFER].word, 1, __ATOMIC_RELEASE);
	return write(hostile->end, &record, sizeof(record)) < 0 ? -errno : 0;
}

static int send_buffer(struct hostile *hostile, unsigned int buffer, uint32_t flags)
{
	return send_part(hostile, (uint64_t)buffer * BUFFER, BUFFER, flags);
}

/* Reads a record of the library's. Returns 1, or 0 if there is none. */
static int read_record(struct hostile *hostile, struct evpl_record *record)
{
	return read(hostile->end, record, sizeof(*record)) == sizeof(*record);
}

static struct lane_entry *entry_of(struct hostile *hostile, uint32_t position)
{
	return &hostile->block->entries[position & (RING - 1)];
}

/* Writes an entry. */
static void put_entry(struct hostile *hostile, struct lie fields, uint64_t cookie)
{
	struct lane_entry *entry = entry_of(hostile, hostile->head);

	atomic_store(&entry->kind, fields.kind);
	atomic_store(&entry->grant, fields.grant);
	atomic_store(&entry->offset, fields.offset);
	atomic_store(&entry->length, fields.length);
	atomic_store(&entry->cookie, cookie);
	atomic_store(&entry->turn, ++hostile->head);
}

/* Sends a buffer, which is filled with a byte, by a record that makes a grant. */
static int grant_buffer(struct hostile *hostile, unsigned int buffer, uint32_t number, char byte)
{
	int err;

	memset(hostile->own + buffer * BUFFER, byte, BUFFER);
	err = send_buffer(hostile, buffer, 0);
	if (!err)
		put_entry(hostile, (struct lie){ .kind = LANE_RECORD, .grant = number }, 0);
	return err;
}

static int doorbell(int end, uint32_t ring, uint32_t quiet, uint32_t flags)
{
	struct evpl_doorbell args = {
		.size = sizeof(args),
		.flags = flags,
		.ring = ring,
		.quiet = quiet,
	};

	return ioctl(end, EVPL_DOORBELL, &args) ? -errno : 0;
}

static int revoke_buffer(struct hostile *hostile, unsigned int buffer)
{
	struct evpl_revoke args = { .size = sizeof(args), .offset = (uint64_t)buffer * BUFFER };

	return ioctl(hostile->fd, EVPL_REVOKE, &args) < 0 ? -errno : 0;
}

/* Begins a round: a lane whose ends are bound, and nothing more. */
static void bind_both(struct __test_metadata *_metadata, struct _test_data_hostile *self,
		      unsigned int flags)
{
	int end;

	ASSERT_EQ(0, evpl_create(&self->evpl, self->pool, NULL));
	ASSERT_EQ(0, evpl_channel_create(&self->channel, self->pool, RING,
					 EVPL_CHANNEL_LANE | flags, &end));
	ASSERT_TRUE(hostile_open(&self->hostile, end));
}

/* Begins a round: a lane that both sides send by. The hostile side tells the truth so far. */
static void connect_both(struct __test_metadata *_metadata, struct _test_data_hostile *self,
			 unsigned int flags)
{
	struct evpl_lane_stats stats = EVPL_LANE_STATS_INIT;
	struct hostile *hostile = &self->hostile;
	struct evpl_record record, sign;
	struct evpl_message got;

	bind_both(_metadata, self, flags);
	ASSERT_EQ(0, send_buffer(hostile, 0, EVPL_RECORD_LANE));
	/* The sign that the ring says what comes next. A blocking side would wait for more. */
	ASSERT_EQ(0, send_buffer(hostile, 0, EVPL_RECORD_LANE));
	ASSERT_EQ(0, grant_buffer(hostile, 1, 0, 'x'));
	ASSERT_EQ(1, evpl_channel_recv(self->channel, &got, 1));
	EXPECT_TRUE(is_filled(&got.iovec, 'x'));
	evpl_iovec_release(&got.iovec);
	ASSERT_EQ(0, evpl_lane_stats(self->channel, &stats));
	ASSERT_TRUE(stats.sending && stats.receiving);
	ASSERT_EQ(1, read_record(hostile, &record));
	ASSERT_EQ(1, read_record(hostile, &sign));
	EXPECT_EQ(EVPL_RECORD_LANE, record.flags);
	EXPECT_EQ(EVPL_RECORD_LANE, sign.flags);
	hostile->peer = (struct lane_block *)(hostile->guest + record.offset -
					      hostile->setup.out_guest_ro_offset);
	EXPECT_EQ(RING, hostile->peer->nr_entries);
}

/* Ends a round: all that the library has sent comes back, and it has nothing of its peer's left. */
static void end_round(struct __test_metadata *_metadata, struct _test_data_hostile *self)
{
	evpl_channel_close(self->channel);
	evpl_destroy(self->evpl);
	hostile_close(&self->hostile);
	evpl_pool_trim(self->pool);
	EXPECT_TRUE(leases_are_idle(self->pool));
	ASSERT_EQ(0, used_in(self->pool));
}

/* Whether the lane has ended by a lie for its receiver, and then for its sender. */
static bool has_ended(struct _test_data_hostile *self)
{
	struct evpl_message sent = allocate(self->evpl, 100, 'x'), got;
	int received = evpl_channel_recv(self->channel, &got, 1);
	int again = evpl_channel_recv(self->channel, &got, 1);
	int err = evpl_channel_send(self->channel, &sent, 1);

	if (err)
		evpl_iovec_release(&sent.iovec);
	return received == -EPROTO && again == -EPROTO && err == -EPROTO;
}

TEST_F(hostile, wrong_entries_are_EPROTO)
{
	static const struct lie lies[] = ENTRY_LIES(BUFFER);
	struct evpl_message held;

	for (unsigned int i = 0; i < ARRAY_SIZE(lies); i++) {
		connect_both(_metadata, self, 0);
		put_entry(&self->hostile, (struct lie){ LANE_MESSAGE, 0, 10, 1000 }, 7);
		ASSERT_EQ(1, evpl_channel_recv(self->channel, &held, 1));
		EXPECT_EQ(7, held.cookie);
		put_entry(&self->hostile, lies[i], 0);
		EXPECT_TRUE(has_ended(self)) {
			TH_LOG("lie %u", i);
		}
		/* The message that was received before stays valid. */
		EXPECT_EQ(1000, held.iovec.length);
		EXPECT_TRUE(is_filled(&held.iovec, 'x'));
		evpl_iovec_release(&held.iovec);
		end_round(_metadata, self);
	}
}

/* Has the library send a buffer for the first time. Sets @number to that of its grant. */
static struct evpl_message granted(struct __test_metadata *_metadata,
				   struct _test_data_hostile *self, uint32_t *number)
{
	struct evpl_message kept = allocate(self->evpl, BUFFER, 'y'), sent = kept;
	struct evpl_record record;

	evpl_iovec_clone(&sent.iovec, &kept.iovec);
	ASSERT_EQ(0, evpl_channel_send(self->channel, &sent, 1));
	ASSERT_EQ(1, read_record(&self->hostile, &record));
	*number = atomic_load(&self->hostile.peer->entries[0].grant);
	ASSERT_GT(GRANTS, *number);
	atomic_store(&self->hostile.block->taken, 1);
	return kept;
}

static int send_again(struct _test_data_hostile *self, const struct evpl_message *kept)
{
	struct evpl_message sent = { .cookie = kept->cookie };
	int err;

	evpl_iovec_clone(&sent.iovec, &kept->iovec);
	err = evpl_channel_send(self->channel, &sent, 1);
	if (err)
		evpl_iovec_release(&sent.iovec);
	return err;
}

TEST_F(hostile, wrong_counts_are_EPROTO)
{
	static const uint32_t counts[] = COUNT_LIES;
	_Atomic uint32_t *count;
	struct evpl_message kept;
	uint32_t number;

	for (unsigned int i = 0; i < ARRAY_SIZE(counts); i++) {
		connect_both(_metadata, self, 0);
		kept = granted(_metadata, self, &number);
		count = &lane_counts(self->hostile.block, RING)[number];
		atomic_store(count, 1);
		lanes_collect(self->pool, false);
		/* The test's own, and all that the peer has by its lease. */
		EXPECT_EQ(2, word_of(&kept.iovec));
		ASSERT_EQ(0, send_again(self, &kept));
		atomic_store(count, counts[i]);
		lanes_collect(self->pool, false);
		EXPECT_TRUE(has_ended(self)) {
			TH_LOG("count %u", i);
		}
		evpl_iovec_release(&kept.iovec);
		end_round(_metadata, self);
	}
}

TEST_F(hostile, wrong_number_of_taken_entries_is_EPROTO)
{
	static const uint32_t lies[] = TAKEN_LIES(RING);
	struct evpl_message kept;
	uint32_t number;

	for (unsigned int i = 0; i < ARRAY_SIZE(lies); i++) {
		connect_both(_metadata, self, 0);
		kept = granted(_metadata, self, &number);
		for (unsigned int n = 0; n < RING; n++)
			ASSERT_EQ(0, send_again(self, &kept));
		EXPECT_EQ(-EAGAIN, send_again(self, &kept));
		atomic_store(&self->hostile.block->taken, 1 + RING + lies[i]);
		EXPECT_EQ(-EPROTO, send_again(self, &kept)) {
			TH_LOG("lie %u", i);
		}
		EXPECT_TRUE(has_ended(self));
		evpl_iovec_release(&kept.iovec);
		end_round(_metadata, self);
	}
}

TEST_F(hostile, wrong_blocks_are_EPROTO)
{
	static const struct block_lie blocks[] = BLOCK_LIES(BUFFER, RING);
	struct lane_block *block;

	for (unsigned int i = 0; i < ARRAY_SIZE(blocks); i++) {
		bind_both(_metadata, self, 0);
		block = self->hostile.block;
		block->magic = blocks[i].magic;
		block->version = blocks[i].version;
		block->nr_entries = blocks[i].nr_entries;
		block->nr_grants = blocks[i].nr_grants;
		ASSERT_EQ(0, send_part(&self->hostile, blocks[i].offset, blocks[i].length,
				       EVPL_RECORD_LANE));
		EXPECT_TRUE(has_ended(self)) {
			TH_LOG("block %u", i);
		}
		end_round(_metadata, self);
	}
}

TEST_F(hostile, block_or_sign_that_is_revoked_on_its_way_is_EPROTO)
{
	struct evpl_message got;

	for (int i = 0; i < 2; i++) {
		bind_both(_metadata, self, 0);
		if (i) {
			ASSERT_EQ(0, send_buffer(&self->hostile, 0, EVPL_RECORD_LANE));
			EXPECT_EQ(-EAGAIN, evpl_channel_recv(self->channel, &got, 1));
		}
		ASSERT_EQ(0, send_buffer(&self->hostile, 0, EVPL_RECORD_LANE));
		ASSERT_EQ(0, revoke_buffer(&self->hostile, 0));
		EXPECT_TRUE(has_ended(self));
		end_round(_metadata, self);
	}
}

TEST_F(hostile, librarys_own_block_as_that_of_its_peer_is_EPROTO)
{
	struct evpl_record record;
	struct evpl_message got;

	bind_both(_metadata, self, 0);
	EXPECT_EQ(-EAGAIN, evpl_channel_recv(self->channel, &got, 1));
	ASSERT_EQ(1, read_record(&self->hostile, &record));
	EXPECT_EQ(EVPL_RECORD_LANE, record.flags);
	ASSERT_EQ(0, send_part(&self->hostile, record.offset, record.length, EVPL_RECORD_LANE));
	EXPECT_TRUE(has_ended(self));
	end_round(_metadata, self);
}

TEST_F(hostile, record_that_can_make_no_grant_is_EPROTO)
{
	const struct lie entry = { .kind = LANE_RECORD, .grant = 2 };
	struct evpl_record record;
	struct evpl_message kept;
	uint32_t number;

	/* One that is for the library. */
	connect_both(_metadata, self, 0);
	ASSERT_EQ(0, send_buffer(&self->hostile, 2, EVPL_RECORD_LANE));
	put_entry(&self->hostile, entry, 0);
	EXPECT_TRUE(has_ended(self));
	end_round(_metadata, self);

	/* One of the library's own memory. */
	connect_both(_metadata, self, 0);
	kept = granted(_metadata, self, &number);
	evpl_iovec_release(&kept.iovec);
	kept = allocate(self->evpl, BUFFER, 'z');
	ASSERT_EQ(0, send_again(self, &kept));
	ASSERT_EQ(1, read_record(&self->hostile, &record));
	ASSERT_EQ(0, send_part(&self->hostile, record.offset, BUFFER, 0));
	put_entry(&self->hostile, entry, 0);
	EXPECT_TRUE(has_ended(self));
	evpl_iovec_release(&kept.iovec);
	end_round(_metadata, self);
}

TEST_F(hostile, record_without_an_entry_is_dropped_when_the_peer_has_gone)
{
	struct evpl_message got;

	connect_both(_metadata, self, 0);
	ASSERT_EQ(0, send_buffer(&self->hostile, 2, 0));
	EXPECT_EQ(-EAGAIN, evpl_channel_recv(self->channel, &got, 1));
	close(self->hostile.end);
	self->hostile.end = -1;
	EXPECT_EQ(-EPIPE, evpl_channel_recv(self->channel, &got, 1));
	end_round(_metadata, self);

	/* There is no third sign. */
	connect_both(_metadata, self, 0);
	ASSERT_EQ(0, send_buffer(&self->hostile, 0, EVPL_RECORD_LANE));
	EXPECT_EQ(-EAGAIN, evpl_channel_recv(self->channel, &got, 1));
	close(self->hostile.end);
	self->hostile.end = -1;
	EXPECT_TRUE(has_ended(self));
	end_round(_metadata, self);
}

TEST_F(hostile, block_that_is_revoked_sends_nothing_and_takes_nothing)
{
	struct evpl_message kept, got, held;
	uint32_t number;
	int err = 0;

	connect_both(_metadata, self, 0);
	kept = granted(_metadata, self, &number);
	put_entry(&self->hostile, (struct lie){ LANE_MESSAGE, 0, 0, 1000 }, 0);
	ASSERT_EQ(1, evpl_channel_recv(self->channel, &held, 1));
	put_entry(&self->hostile, (struct lie){ LANE_MESSAGE, 0, 0, 1000 }, 0);
	ASSERT_EQ(0, revoke_buffer(&self->hostile, 0));
	/* All of the block is zeros for the library now. */
	EXPECT_EQ(-EAGAIN, evpl_channel_recv(self->channel, &got, 1));
	for (unsigned int n = 0; n <= RING && !err; n++)
		err = send_again(self, &kept);
	EXPECT_EQ(-EAGAIN, err);
	EXPECT_FALSE(lanes_collect(self->pool, true));
	EXPECT_EQ(-EAGAIN, evpl_iovec_wait(&kept.iovec, EVPL_IOVEC_TRY));
	/* The grants are another buffer's business. */
	EXPECT_TRUE(is_filled(&held.iovec, 'x'));
	evpl_iovec_release(&held.iovec);
	evpl_iovec_release(&kept.iovec);
	end_round(_metadata, self);
}

TEST_F(hostile, count_that_becomes_zero_with_its_block_is_EPROTO)
{
	struct evpl_message kept;
	uint32_t number;

	connect_both(_metadata, self, 0);
	kept = granted(_metadata, self, &number);
	atomic_store(&lane_counts(self->hostile.block, RING)[number], 1);
	lanes_collect(self->pool, false);
	ASSERT_EQ(0, send_again(self, &kept));
	ASSERT_EQ(0, revoke_buffer(&self->hostile, 0));
	lanes_collect(self->pool, false);
	EXPECT_TRUE(has_ended(self));
	evpl_iovec_release(&kept.iovec);
	end_round(_metadata, self);
}

TEST_F(hostile, revoked_grants_bring_zeros_or_nothing)
{
	struct evpl_message got, held;

	/* One whose messages are received already. */
	connect_both(_metadata, self, 0);
	put_entry(&self->hostile, (struct lie){ LANE_MESSAGE, 0, 0, BUFFER }, 0);
	ASSERT_EQ(1, evpl_channel_recv(self->channel, &held, 1));
	ASSERT_EQ(0, revoke_buffer(&self->hostile, 1));
	EXPECT_TRUE(is_filled(&held.iovec, 0));
	put_entry(&self->hostile, (struct lie){ LANE_MESSAGE, 0, 0, BUFFER }, 0);
	ASSERT_EQ(1, evpl_channel_recv(self->channel, &got, 1));
	EXPECT_TRUE(is_filled(&got.iovec, 0));
	evpl_iovec_release(&got.iovec);
	put_entry(&self->hostile, (struct lie){ .kind = LANE_REVOKED }, 17);
	ASSERT_EQ(1, evpl_channel_recv(self->channel, &got, 1));
	EXPECT_EQ(EVPL_MESSAGE_REVOKED, got.flags);
	EXPECT_EQ(17, got.cookie);
	evpl_iovec_release(&held.iovec);

	/* One that is revoked on its way. */
	ASSERT_EQ(0, grant_buffer(&self->hostile, 2, 1, 'y'));
	ASSERT_EQ(0, revoke_buffer(&self->hostile, 2));
	put_entry(&self->hostile, (struct lie){ LANE_MESSAGE, 1, 0, BUFFER }, 0);
	put_entry(&self->hostile, (struct lie){ .kind = LANE_REVOKED, .grant = 1 }, 0);
	for (int i = 0; i < 3; i++) {
		ASSERT_EQ(1, evpl_channel_recv(self->channel, &got, 1));
		EXPECT_EQ(EVPL_MESSAGE_REVOKED, got.flags);
		EXPECT_EQ(0, got.iovec.length);
	}
	EXPECT_EQ(3, atomic_load(&lane_counts(self->hostile.peer, RING)[1]));
	/* Both can be taken back, and are then no grants any more. */
	for (uint32_t number = 0; number < 2; number++)
		put_entry(&self->hostile, (struct lie){ LANE_TAKE_BACK, number, 0, 0 }, 0);
	EXPECT_EQ(-EAGAIN, evpl_channel_recv(self->channel, &got, 1));
	put_entry(&self->hostile, (struct lie){ .kind = LANE_REVOKED, .grant = 1 }, 0);
	EXPECT_TRUE(has_ended(self));
	end_round(_metadata, self);
}

/* Threads ring and quiet the hostile side's end at random, and both sides go on. */
#define RINGERS		2

struct bells {
	FIXTURE_DATA(hostile) *self;
	struct evpl_message kept;
	int messages;
	atomic_bool stop;
	atomic_bool failed;
	_Atomic uint64_t rung;
};

static void *ring_bells(void *arg)
{
	struct bells *bells = arg;
	unsigned int seed = (unsigned int)pthread_self(), spins = 0;

	while (!atomic_load(&bells->stop)) {
		uint32_t flags = rand_r(&seed) % 4 ? 0 : EVPL_DOORBELL_SELF;
		uint32_t ring = (uint32_t)rand_r(&seed) % 16, quiet = (uint32_t)rand_r(&seed) % 8;
		bool unknown = ring & 8 || quiet & EVPL_DOORBELL_MEMORY;
		int err = doorbell(bells->self->hostile.end, ring, quiet, flags);

		if (err != (unknown ? -EOPNOTSUPP : 0))
			atomic_store(&bells->failed, true);
		/* The library rings back as often as it is asked to. */
		atomic_store(&bells->self->hostile.block->wants[ring % NR_LANE_WANTS],
			     (uint32_t)rand_r(&seed));
		atomic_fetch_add(&bells->rung, !err);
		spin(&spins);
	}
	return NULL;
}

/* The library's side: it receives and sends, and sleeps whenever it must. */
static void *exchange(void *arg)
{
	struct bells *bells = arg;
	FIXTURE_DATA(hostile) *self = bells->self;
	struct evpl_message got;

	for (int i = 0; i < bells->messages; i++) {
		if (evpl_channel_recv(self->channel, &got, 1) != 1 ||
		    got.cookie != (uint64_t)i || !is_filled(&got.iovec, 'x'))
			break;
		evpl_iovec_release(&got.iovec);
		if (send_again(self, &bells->kept))
			break;
		bells->kept.cookie++;
	}
	atomic_store(&bells->stop, true);
	return NULL;
}

TEST_F(hostile, doorbells_in_a_storm_lose_no_message)
{
	struct bells bells = { .self = self, .messages = few() ? 2000 : 20000 };
	struct hostile *hostile = &self->hostile;
	pthread_t threads[RINGERS + 1];
	unsigned int spins = 0, i;
	const struct lane_entry *entry;
	uint32_t number, tail = 1, first;
	uint64_t next = 0;

	connect_both(_metadata, self, EVPL_CHANNEL_BLOCKING);
	bells.kept = granted(_metadata, self, &number);
	bells.kept.cookie = 0;
	first = hostile->head;
	for (i = 0; i < RINGERS; i++)
		ASSERT_EQ(0, pthread_create(&threads[i], NULL, ring_bells, &bells));
	while (!atomic_load(&bells.rung) && !atomic_load(&bells.failed))
		sched_yield();
	ASSERT_EQ(0, pthread_create(&threads[i], NULL, exchange, &bells));
	while (!atomic_load(&bells.stop)) {
		if (hostile->head - atomic_load(&hostile->peer->taken) < RING)
			put_entry(hostile, (struct lie){ LANE_MESSAGE, 0, 0, 100 },
				  hostile->head - first);
		entry = &hostile->peer->entries[tail & (RING - 1)];
		if (atomic_load(&entry->turn) == tail + 1) {
			EXPECT_EQ(next++, atomic_load(&entry->cookie));
			atomic_store(&hostile->block->taken, ++tail);
			atomic_store(&lane_counts(hostile->block, RING)[number], tail);
		} else {
			spin(&spins);
		}
	}
	for (i = 0; i <= RINGERS; i++)
		ASSERT_EQ(0, pthread_join(threads[i], NULL));
	TH_LOG("%llu doorbells", (unsigned long long)bells.rung);
	EXPECT_FALSE(bells.failed);
	EXPECT_EQ(bells.messages, bells.kept.cookie);
	EXPECT_LT(0, bells.rung);
	evpl_iovec_release(&bells.kept.iovec);
	end_round(_metadata, self);
}

/* A fuzz: the hostile side does anything, and the library goes on until it notices. */
#define HELD	16
#define STEPS	1000

struct fuzz {
	FIXTURE_DATA(hostile) *self;
	struct evpl_message held[HELD];
	int nr_held;
	unsigned int seed;
	atomic_bool stop;
};

/* Whether a message lies in one buffer, of the peer's or of its own. Touches it. */
static bool is_inside(struct evpl_pool *pool, const struct evpl_message *message)
{
	const volatile char *bytes = message->iovec.data;
	uint32_t length = message->iovec.length;
	uint64_t offset;

	if (message->flags & EVPL_MESSAGE_REVOKED)
		return !length;
	offset = windows_offset(pool, message->iovec.data);
	if (offset == UINT64_MAX) {
		if (!iovec_slab(&message->iovec))
			return false;
		offset = (uint64_t)(bytes - (char *)iovec_entry(&message->iovec)->base);
	}
	if (!length || length > BUFFER - offset % BUFFER)
		return false;
	(void)bytes[0];
	(void)bytes[length - 1];
	return true;
}

/* How a lane ends in a fuzz: the library notices a lie, or the hostile side closes its end. */
enum {
	NOTICED = 1,
	HUNG_UP,
};

/* The library's side goes on. Returns 0, how the lane has ended, or -errno. */
static int go_on(struct fuzz *fuzz)
{
	FIXTURE_DATA(hostile) *self = fuzz->self;
	struct evpl_message sent = { .flags = 0 };
	int ret, i;

	while (fuzz->nr_held > rand_r(&fuzz->seed) % HELD)
		evpl_iovec_release(&fuzz->held[--fuzz->nr_held].iovec);
	ret = evpl_channel_recv(self->channel, fuzz->held + fuzz->nr_held, HELD - fuzz->nr_held);
	for (i = 0; i < ret; i++)
		if (!is_inside(self->pool, &fuzz->held[fuzz->nr_held++]))
			return -ERANGE;
	if (ret == -EPROTO || ret == -EPIPE)
		return ret == -EPROTO ? NOTICED : HUNG_UP;
	if (ret < 0 && ret != -EAGAIN)
		return ret;
	switch (rand_r(&fuzz->seed) % 8) {
	case 0:
		lanes_collect(self->pool, rand_r(&fuzz->seed) % 2);
		return 0;
	case 1:
		evpl_pool_trim(self->pool);
		return 0;
	case 2:
		evpl_channel_arm(self->channel);
		return 0;
	case 3:
		/* A message that was received is sent on, by a clone. */
		if (!fuzz->nr_held || fuzz->held[0].flags & EVPL_MESSAGE_REVOKED)
			return 0;
		evpl_iovec_clone(&sent.iovec, &fuzz->held[0].iovec);
		break;
	default:
		if (evpl_iovec_alloc(self->evpl, BUFFER / 4, 1, 1, &sent.iovec) != 1)
			return 0;
	}
	ret = evpl_channel_send(self->channel, &sent, 1);
	if (ret)
		evpl_iovec_release(&sent.iovec);
	if (ret == -EPROTO || ret == -EPIPE)
		return ret == -EPROTO ? NOTICED : HUNG_UP;
	/* ENOENT: what was received has been revoked. */
	return ret == -EAGAIN || ret == -ENOENT ? 0 : ret;
}

/* The hostile side does something that the protocol doesn't expect, or perhaps does. */
static void misbehave(struct fuzz *fuzz, unsigned int *seed)
{
	struct hostile *hostile = &fuzz->self->hostile;
	unsigned int buffer = 1 + (unsigned int)rand_r(seed) % (NR_BUFFERS - 1);
	uint32_t number = (uint32_t)rand_r(seed) % 8;
	struct evpl_record record;

	switch (rand_r(seed) % 16) {
	case 0:
		send_buffer(hostile, buffer, (uint32_t)rand_r(seed) % 8 & ~EVPL_RECORD_REVOKED);
		break;
	case 1:
		if (!(rand_r(seed) % 8))
			send_buffer(hostile, buffer, EVPL_RECORD_LANE);
		break;
	case 2:
		revoke_buffer(hostile, buffer);
		break;
	case 3:
		if (!(rand_r(seed) % 64))
			revoke_buffer(hostile, 0);
		break;
	case 4:
		doorbell(hostile->end, (uint32_t)rand_r(seed) % 8, (uint32_t)rand_r(seed) % 4,
			 rand_r(seed) % 2 ? EVPL_DOORBELL_SELF : 0);
		break;
	case 5:
		/* A message of the library's comes home, perhaps. */
		if (read_record(hostile, &record) && rand_r(seed) % 2)
			send_part(hostile, record.offset, record.length, 0);
		break;
	case 6:
		put_entry(hostile, (struct lie){ LANE_TAKE_BACK, number, 0, 0 }, 0);
		break;
	case 7:
	case 8:
		scribble(hostile->block, RING, GRANTS, atomic_load(&hostile->peer->taken), seed);
		break;
	case 9:
	case 10:
		/* There is more room than before, perhaps rightly. */
		atomic_store(&hostile->block->taken, atomic_load(&hostile->block->taken) + 1);
		break;
	case 11:
	case 12:
		hostile->head = atomic_load(&hostile->peer->taken);
		grant_buffer(hostile, buffer, number, 'x');
		break;
	default:
		hostile->head = atomic_load(&hostile->peer->taken);
		put_entry(hostile, (struct lie){ LANE_MESSAGE, number % 2 ? 0 : number, 0, 1000 }, 0);
	}
}

static void *misbehave_thread(void *arg)
{
	struct fuzz *fuzz = arg;
	struct hostile *hostile = &fuzz->self->hostile;
	unsigned int seed = fuzz->seed + 1, spins = 0;

	for (int i = 0; i < STEPS && !atomic_load(&fuzz->stop); i++) {
		misbehave(fuzz, &seed);
		spin(&spins);
	}
	close(hostile->end);
	hostile->end = -1;
	return NULL;
}

/* Returns how the lane has ended, 0 if it hasn't, or -errno. */
static int fuzz_round(struct __test_metadata *_metadata, struct fuzz *fuzz, bool beside)
{
	pthread_t thread;
	int ret = 0;

	connect_both(_metadata, fuzz->self, 0);
	atomic_store(&fuzz->stop, false);
	if (beside && pthread_create(&thread, NULL, misbehave_thread, fuzz))
		abort();
	/* The other thread closes its end, if nothing else ends the lane. */
	for (int i = 0; (beside || i < STEPS) && !ret; i++) {
		if (!beside)
			misbehave(fuzz, &fuzz->seed);
		ret = go_on(fuzz);
	}
	atomic_store(&fuzz->stop, true);
	if (beside)
		pthread_join(thread, NULL);
	for (; fuzz->nr_held; fuzz->nr_held--)
		evpl_iovec_release(&fuzz->held[fuzz->nr_held - 1].iovec);
	end_round(_metadata, fuzz->self);
	return ret;
}

static void fuzz_lane(struct __test_metadata *_metadata, struct _test_data_hostile *self, bool beside)
{
	const char *given = getenv("EVPL_SEED");
	unsigned int seed = given ? (unsigned int)strtoul(given, NULL, 0) : (unsigned int)time(NULL);
	struct fuzz fuzz = { .self = self };
	int ended = 0, rounds = few() ? 50 : 1000, ret, i;

	TH_LOG("EVPL_SEED=%u", seed);
	for (i = 0; i < rounds; i++) {
		fuzz.seed = seed + (unsigned int)i;
		ret = fuzz_round(_metadata, &fuzz, beside);
		ASSERT_LE(0, ret) {
			TH_LOG("round %d: %s", i, strerror(-ret));
		}
		ended += ret == NOTICED;
	}
	TH_LOG("%d of %d lanes ended by a lie", ended, rounds);
}

TEST_F(hostile, peer_that_does_anything_gets_EPROTO_or_is_harmless)
{
	fuzz_lane(_metadata, self, false);
}

TEST_F(hostile, peer_that_does_anything_beside_the_library_gets_EPROTO_or_is_harmless)
{
	fuzz_lane(_metadata, self, true);
}

TEST_HARNESS_MAIN
