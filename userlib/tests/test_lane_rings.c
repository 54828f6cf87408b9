// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * The rings of lanes, on any machine and under the sanitizers: this file compiles lane.c anew, with
 * two pools of the anon back end and a few functions in place of the kernel. So a test can also do
 * something between two steps of the library, and write anything into a block as a hostile peer.
 * test_lane.c has the tests with the module.
 */
#include <poll.h>
#include <sys/ioctl.h>

#include "common.h"
#include "lane.h"
#include "lease.h"
#include "record.h"
#include "recycle.h"
#include "returned.h"
#include "transfer.h"

#define SMALL		4096U	/* bytes of a buffer */
#define POOL_BYTES	SLAB
#define NR_BUFFERS	(POOL_BYTES / SMALL)
#define CAPACITY	48U	/* the ring has 64 entries */
#define RING		64U
#define FD		100000	/* of the first end; no file has it */

/**
 * struct share - what the kernel knows of a buffer that others have
 * @shared: EVPL_WORD_SHARED is in its word
 * @records: how many records of it are on their way
 */
struct share {
	bool shared;
	unsigned int records;
};

/**
 * struct end - an end of the channel
 * @pool: the pool that it is bound to, or NULL
 * @lane: it is bound with EVPL_BIND_LANE
 * @closed: it is closed
 * @rung: see DOC: lanes in linux/evpl.h
 * @full: the same
 * @records: those on their way to this end
 * @count: how many these are
 * @shares: by the number of a buffer of @pool
 * @rings: how often it was rung, by the bits of EVPL_DOORBELL
 */
struct end {
	struct evpl_pool *pool;
	bool lane;
	bool closed;
	bool rung;
	bool full;
	struct evpl_record records[CAPACITY];
	unsigned int count;
	struct share shares[NR_BUFFERS];
	unsigned int rings[3];
};

static struct end both_ends[2];
static pthread_mutex_t kernel_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

/* What a test does once, just before a call of EVPL_DOORBELL quiets an end. */
static void (*before_quiet)(void *arg);
static void *before_quiet_arg;
/* The allocation of lane.c that fails: 1 is the next one; 0: none. */
static unsigned int fail_nth;

static struct end *end_of(int fd)
{
	return &both_ends[fd - FD];
}

static struct end *other_end(struct end *end)
{
	return &both_ends[end == both_ends];
}

static int kernel_doorbell(int fd, const struct evpl_doorbell *args)
{
	struct end *end = end_of(fd), *to = args->flags & EVPL_DOORBELL_SELF ? end : other_end(end);
	void (*hook)(void *arg) = before_quiet;
	unsigned int i;

	if (hook && args->quiet) {
		before_quiet = NULL;
		hook(before_quiet_arg);
	}
	pthread_mutex_lock(&kernel_lock);
	if (args->quiet & EVPL_DOORBELL_IN)
		end->rung = false;
	if (args->quiet & EVPL_DOORBELL_OUT)
		end->full = true;
	if (args->ring & EVPL_DOORBELL_IN)
		to->rung = true;
	if (args->ring & EVPL_DOORBELL_OUT)
		to->full = false;
	for (i = 0; i < 3; i++)
		to->rings[i] += args->ring >> i & 1;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&kernel_lock);
	return 0;
}

static short end_events(struct end *end)
{
	struct end *other = other_end(end);
	short events = 0;

	if (end->count || end->rung || other->closed)
		events |= POLLIN;
	if ((other->count < CAPACITY && !end->full) || other->closed)
		events |= POLLOUT;
	return other->closed ? events | POLLHUP : events;
}

static int kernel_poll(struct pollfd *pollfd, int timeout)
{
	struct end *end = end_of(pollfd->fd);

	pthread_mutex_lock(&kernel_lock);
	for (;;) {
		pollfd->revents = end_events(end) & (pollfd->events | POLLHUP);
		if (pollfd->revents || !timeout)
			break;
		pthread_cond_wait(&changed, &kernel_lock);
	}
	pthread_mutex_unlock(&kernel_lock);
	return pollfd->revents != 0;
}

/* Whether poll(2) says that a message can be received, or sent. */
static bool is_ready(int side, short events)
{
	struct pollfd pollfd = { .fd = FD + side, .events = events };

	return kernel_poll(&pollfd, 0) && pollfd.revents & events;
}

static ssize_t fail(int err)
{
	pthread_mutex_unlock(&kernel_lock);
	errno = err;
	return -1;
}

/* The receiver finds the address of the bytes in @offset: both sides are this process. */
static ssize_t kernel_write(int fd, const struct evpl_record *records, size_t bytes)
{
	size_t nr = bytes / sizeof(*records), i;
	struct end *end = end_of(fd), *to = other_end(end);
	struct evpl_record *record;
	struct entry *entry;
	uint64_t index;

	pthread_mutex_lock(&kernel_lock);
	if (to->closed)
		return fail(EPIPE);
	if (records->flags & EVPL_RECORD_LANE && !(end->lane && to->lane))
		return fail(EOPNOTSUPP);
	if (nr > CAPACITY - to->count)
		return fail(EAGAIN);
	for (i = 0; i < nr; i++) {
		record = &to->records[to->count++];
		*record = records[i];
		index = record->offset / SMALL;
		entry = end->pool->backing.entries + index;
		record->offset = (uintptr_t)entry->base + record->offset % SMALL;
		record->lease = (uint32_t)index + (record->flags & EVPL_RECORD_WRITE ? NR_BUFFERS : 0);
		record->buffer_size = SMALL;
		end->shares[index].records++;
		atomic_fetch_add(&entry->word, end->shares[index].shared ? -1ULL :
				 EVPL_WORD_SHARED - 1);
		end->shares[index].shared = true;
	}
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&kernel_lock);
	return (ssize_t)bytes;
}

static int kernel_read(int fd, struct evpl_record *record)
{
	struct end *end = end_of(fd);

	pthread_mutex_lock(&kernel_lock);
	if (!end->count) {
		pthread_mutex_unlock(&kernel_lock);
		return other_end(end)->closed ? -EPIPE : -EAGAIN;
	}
	*record = end->records[0];
	memmove(end->records, end->records + 1, --end->count * sizeof(*record));
	other_end(end)->shares[record->lease % NR_BUFFERS].records--;
	atomic_fetch_add(&pool_sharing(end->pool)->leases[record->lease].word, 1);
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&kernel_lock);
	return 1;
}

static int kernel_send(struct evpl_pool *pool, int fd, const struct evpl_message *messages, int n)
{
	struct evpl_record records[CAPACITY];
	int i;

	for (i = 0; i < n; i++)
		if (record_make(pool, &messages[i], &records[i]))
			return -EINVAL;
	for (i = 0; i < n; i++)
		transfer_prepare(pool, &messages[i].iovec, records[i].offset, false);
	return kernel_write(fd, records, (size_t)n * sizeof(*records)) < 0 ? -errno : 0;
}

static void kernel_close(int side)
{
	struct end *end = &both_ends[side], *other = other_end(end);

	pthread_mutex_lock(&kernel_lock);
	end->closed = true;
	if (other->pool)
		__atomic_fetch_add(&pool_sharing(other->pool)->header->ends, 1, __ATOMIC_SEQ_CST);
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&kernel_lock);
}

/* Ends the idle leases of the other side on a side's buffers, and returns the buffers. */
static void kernel_end_leases(int side)
{
	struct lease *leases = pool_sharing(both_ends[!side].pool)->leases;
	struct share *share = both_ends[side].shares;
	struct entry *entry;
	unsigned int i;

	pthread_mutex_lock(&kernel_lock);
	for (i = 0; i < NR_BUFFERS; i++, share++) {
		entry = both_ends[side].pool->backing.entries + i;
		if (!share->shared || (share->records && !both_ends[!side].closed) ||
		    atomic_load(&leases[i].word) || atomic_load(&leases[NR_BUFFERS + i].word))
			continue;
		share->shared = false;
		if (atomic_fetch_sub(&entry->word, EVPL_WORD_SHARED) == EVPL_WORD_SHARED)
			recycle(entry);
	}
	pthread_mutex_unlock(&kernel_lock);
}

static bool fails_now(void)
{
	return fail_nth && !--fail_nth;
}

#define ioctl(fd, request, args)	kernel_doorbell(fd, args)
#define poll(pollfd, nr, timeout)	kernel_poll(pollfd, timeout)
#define write(fd, records, bytes)	kernel_write(fd, records, bytes)
#define records_read(fd, record, max)	kernel_read(fd, record)
#define records_send			kernel_send
#define calloc(nr, bytes)		(fails_now() ? NULL : calloc(nr, bytes))
#define malloc(bytes)			(fails_now() ? NULL : malloc(bytes))
#define aligned_alloc(align, bytes)	(fails_now() ? NULL : aligned_alloc(align, bytes))
#include "lane.c"
#undef ioctl
#undef poll
#undef write
#undef records_read
#undef records_send
#undef calloc
#undef malloc
#undef aligned_alloc

FIXTURE(rings)
{
	struct evpl_pool *pool[2];
	struct evpl *evpl[2];
	struct lane *lane[2];
};

static void make_sharing(struct evpl_pool *pool)
{
	struct sharing *sharing = calloc(1, sizeof(*sharing));

	sharing->header = calloc(1, 4096);
	sharing->returned = calloc(1, 4096);
	sharing->leases = aligned_alloc(64, 2 * NR_BUFFERS * sizeof(struct lease));
	memset(sharing->leases, 0, 2 * NR_BUFFERS * sizeof(struct lease));
	sharing->bound = true;
	/* Each address lies in the first guest window. */
	pool->backing.setup.out_guest_size = UINT64_MAX;
	atomic_store(&pool->sharing, sharing);
}

static void free_sharing(struct evpl_pool *pool)
{
	struct sharing *sharing = pool_sharing(pool);

	atomic_store(&pool->sharing, NULL);
	free(sharing->header);
	free(sharing->returned);
	free(sharing->leases);
	free(sharing);
}

/* Binds an end, as a lane's. */
static int bind_lane(FIXTURE_DATA(rings) *self, int side, unsigned int flags)
{
	struct end *other = &both_ends[!side];
	int err;

	pthread_mutex_lock(&kernel_lock);
	both_ends[side].pool = self->pool[side];
	both_ends[side].lane = true;
	if (other->pool)
		__atomic_fetch_add(&pool_sharing(other->pool)->header->ends, 1, __ATOMIC_SEQ_CST);
	pthread_mutex_unlock(&kernel_lock);
	err = lane_create(&self->lane[side], self->pool[side], FD + side, CAPACITY,
			  EVPL_CHANNEL_LANE | flags);
	return err;
}

/* Lets both sides tell each other that the rings say what comes next. */
static bool connect_lanes(FIXTURE_DATA(rings) *self)
{
	struct evpl_message got;
	int i;

	for (i = 0; i < 4; i++)
		if (lane_recv(self->lane[i % 2], &got, 1) != -EAGAIN)
			return false;
	return self->lane[0]->started && self->lane[1]->started && self->lane[0]->receiving &&
	       self->lane[1]->receiving;
}

FIXTURE_SETUP(rings)
{
	int i;

	memset(both_ends, 0, sizeof(both_ends));
	for (i = 0; i < 2; i++) {
		struct evpl_pool_config config = {
			.size = sizeof(config),
			.buffer_size = SMALL,
			.max_bytes = POOL_BYTES,
			.backend = EVPL_BACKEND_ANON,
		};

		self->lane[i] = NULL;
		ASSERT_EQ(0, evpl_pool_open(&self->pool[i], &config));
		ASSERT_EQ(0, evpl_create(&self->evpl[i], self->pool[i], NULL));
		make_sharing(self->pool[i]);
		both_ends[i].pool = self->pool[i];
	}
	both_ends[1].pool = NULL;
}

/* A side's program closes the channel. */
static void close_side(FIXTURE_DATA(rings) *self, int side)
{
	if (self->lane[side])
		lane_close(self->lane[side]);
	self->lane[side] = NULL;
	kernel_close(side);
}

FIXTURE_TEARDOWN(rings)
{
	int i;

	before_quiet = NULL;
	fail_nth = 0;
	for (i = 0; i < 2; i++) {
		both_ends[i].pool = self->pool[i];
		close_side(self, i);
		evpl_destroy(self->evpl[i]);
	}
	for (i = 0; i < 4; i++)
		kernel_end_leases(i % 2);
	for (i = 0; i < 2; i++) {
		EXPECT_TRUE(leases_are_idle(self->pool[i]));
		EXPECT_EQ(0, used_in(self->pool[i]));
		free_sharing(self->pool[i]);
		EXPECT_EQ(0, evpl_pool_close(self->pool[i]));
	}
}

static struct evpl_message buffer_with(struct evpl *evpl, uint64_t cookie)
{
	struct evpl_message message = { .cookie = cookie };
	uint64_t *words;
	unsigned int i;

	if (evpl_buffer_alloc(evpl, &message.iovec) != 1)
		abort();
	words = message.iovec.data;
	for (i = 0; i < SMALL / sizeof(*words); i++)
		words[i] = cookie;
	return message;
}

static bool has_cookie(const struct evpl_message *message)
{
	const uint64_t *words = message->iovec.data;
	unsigned int i;

	for (i = 0; i < message->iovec.length / sizeof(*words); i++)
		if (words[i] != message->cookie)
			return false;
	return !(message->flags & EVPL_MESSAGE_REVOKED);
}

/* A message of the whole of a buffer that the caller goes on having. */
static struct evpl_message again(const struct evpl_message *message, uint64_t cookie)
{
	struct evpl_message copy = { .cookie = cookie };

	evpl_iovec_clone(&copy.iovec, &message->iovec);
	return copy;
}

static void release_all(struct evpl_message *messages, int n)
{
	while (n--)
		evpl_iovec_release(&messages[n].iovec);
}

/* Sends a message of a buffer that is sent for the second time. Returns the buffer. */
static struct evpl_message grant_one(FIXTURE_DATA(rings) *self, int side)
{
	struct evpl_message message = buffer_with(self->evpl[side], 1), copy = again(&message, 1);
	struct evpl_message got;

	if (lane_send(self->lane[side], &copy, 1) || lane_recv(self->lane[!side], &got, 1) != 1)
		abort();
	evpl_iovec_release(&got.iovec);
	return message;
}

TEST_F(rings, either_side_may_be_first)
{
	struct evpl_message sent[4], got[4];
	int i;

	ASSERT_EQ(0, bind_lane(self, 0, 0));
	/* They wait in the channel until the other side is there. */
	for (i = 0; i < 4; i++) {
		sent[i] = buffer_with(self->evpl[0], (uint64_t)i);
		ASSERT_EQ(0, lane_send(self->lane[0], &sent[i], 1));
	}
	EXPECT_FALSE(self->lane[0]->started);
	ASSERT_EQ(0, bind_lane(self, 1, 0));
	for (i = 0; i < 4; i++) {
		ASSERT_EQ(1, lane_recv(self->lane[1], &got[i], 1));
		EXPECT_EQ(i, got[i].cookie);
		EXPECT_TRUE(has_cookie(&got[i]));
	}
	EXPECT_TRUE(connect_lanes(self));
	release_all(got, 4);
}

TEST_F(rings, a_peer_that_is_no_lane_gets_records)
{
	struct evpl_message sent = buffer_with(self->evpl[0], 7), got;
	struct evpl_record record;
	struct evpl_lane_stats stats = EVPL_LANE_STATS_INIT;

	ASSERT_EQ(0, bind_lane(self, 0, 0));
	both_ends[1].pool = self->pool[1];
	ASSERT_EQ(0, lane_send(self->lane[0], &sent, 1));
	EXPECT_EQ(-EAGAIN, lane_recv(self->lane[0], &got, 1));
	ASSERT_EQ(1, kernel_read(FD + 1, &record));
	EXPECT_EQ(7, record.cookie);
	EXPECT_EQ(0, record.flags);
	EXPECT_EQ(0, both_ends[1].count);
	ASSERT_EQ(0, lane_stats(self->lane[0], &stats));
	EXPECT_EQ(0, stats.sending);
	EXPECT_EQ(0, stats.receiving);
	record_take(self->pool[1], &record, &got);
	evpl_iovec_release(&got.iovec);
}

TEST_F(rings, a_program_that_only_sends_finds_the_peers_block)
{
	struct evpl_message sent, got;

	ASSERT_EQ(0, bind_lane(self, 0, 0));
	ASSERT_EQ(0, bind_lane(self, 1, 0));
	sent = buffer_with(self->evpl[0], 1);
	ASSERT_EQ(0, lane_send(self->lane[0], &sent, 1));
	EXPECT_TRUE(self->lane[0]->started);
	EXPECT_FALSE(self->lane[0]->receiving);
	ASSERT_EQ(1, lane_recv(self->lane[1], &got, 1));
	evpl_iovec_release(&got.iovec);
	sent = buffer_with(self->evpl[1], 2);
	ASSERT_EQ(0, lane_send(self->lane[1], &sent, 1));
	sent = buffer_with(self->evpl[0], 3);
	ASSERT_EQ(0, lane_send(self->lane[0], &sent, 1));
	ASSERT_EQ(1, lane_recv(self->lane[1], &got, 1));
	EXPECT_EQ(3, got.cookie);
	evpl_iovec_release(&got.iovec);
	ASSERT_EQ(1, lane_recv(self->lane[0], &got, 1));
	EXPECT_EQ(2, got.cookie);
	evpl_iovec_release(&got.iovec);
}

TEST_F(rings, end_stays_readable_after_a_message_that_came_during_the_setting_up)
{
	struct evpl_message kept, sent, got;
	int i;

	/* The peer sends before it knows that this side is a lane. So a send finds its message. */
	ASSERT_EQ(0, bind_lane(self, 0, 0));
	sent = buffer_with(self->evpl[0], 1);
	ASSERT_EQ(0, lane_send(self->lane[0], &sent, 1));
	ASSERT_EQ(0, bind_lane(self, 1, 0));
	sent = buffer_with(self->evpl[1], 11);
	ASSERT_EQ(0, lane_send(self->lane[1], &sent, 1));
	EXPECT_TRUE(self->lane[1]->stashed);
	EXPECT_TRUE(is_ready(1, POLLIN));
	/* This side gets on, and sends through the ring. */
	ASSERT_EQ(1, lane_recv(self->lane[0], &got, 1));
	evpl_iovec_release(&got.iovec);
	kept = buffer_with(self->evpl[0], 2);
	for (i = 2; i < 5; i++) {
		sent = again(&kept, (uint64_t)i);
		ASSERT_EQ(0, lane_send(self->lane[0], &sent, 1));
	}
	evpl_iovec_release(&kept.iovec);
	for (i = 1; i < 5; i++) {
		ASSERT_TRUE(is_ready(1, POLLIN));
		ASSERT_EQ(1, lane_recv(self->lane[1], &got, 1));
		EXPECT_EQ(i, got.cookie);
		evpl_iovec_release(&got.iovec);
	}
	ASSERT_EQ(-EAGAIN, lane_recv(self->lane[1], &got, 1));
	EXPECT_FALSE(is_ready(1, POLLIN));
}

static void setup(struct __test_metadata *_metadata, FIXTURE_DATA(rings) *self,
		  unsigned int flags)
{
	ASSERT_EQ(0, bind_lane(self, 0, flags));
	ASSERT_EQ(0, bind_lane(self, 1, flags));
	ASSERT_TRUE(connect_lanes(self));
}

struct three {
	FIXTURE_DATA(rings) *self;
	struct evpl_message kept;
};

static void send_three(void *arg)
{
	struct three *three = arg;
	struct evpl_message sent[3];
	int i;

	for (i = 0; i < 3; i++)
		sent[i] = again(&three->kept, (uint64_t)i);
	if (lane_send(three->self->lane[0], sent, 3))
		abort();
}

TEST_F(rings, end_stays_readable_if_messages_come_while_it_is_quieted)
{
	struct three three = { .self = self };
	struct evpl_message got;
	int i;

	setup(_metadata, self, 0);
	three.kept = grant_one(self, 0);
	before_quiet_arg = &three;
	before_quiet = send_three;
	ASSERT_EQ(1, lane_recv(self->lane[1], &got, 1));
	evpl_iovec_release(&got.iovec);
	for (i = 1; i < 3; i++) {
		ASSERT_TRUE(is_ready(1, POLLIN));
		ASSERT_EQ(1, lane_recv(self->lane[1], &got, 1));
		EXPECT_EQ(i, got.cookie);
		evpl_iovec_release(&got.iovec);
	}
	ASSERT_EQ(-EAGAIN, lane_recv(self->lane[1], &got, 1));
	EXPECT_FALSE(is_ready(1, POLLIN));
	evpl_iovec_release(&three.kept.iovec);
}

static void receive_one(void *arg)
{
	FIXTURE_DATA(rings) *self = arg;
	struct evpl_message got;

	if (lane_recv(self->lane[1], &got, 1) != 1)
		abort();
	evpl_iovec_release(&got.iovec);
}

TEST_F(rings, sender_of_a_batch_is_told_of_room_although_one_entry_was_taken_before_it_slept)
{
	struct evpl_message kept, sent[10];
	int i;

	setup(_metadata, self, 0);
	kept = grant_one(self, 0);
	for (i = 0; i < (int)RING; i++) {
		sent[0] = again(&kept, (uint64_t)i);
		ASSERT_EQ(0, lane_send(self->lane[0], sent, 1));
	}
	for (i = 0; i < 10; i++)
		sent[i] = again(&kept, (uint64_t)i);
	before_quiet_arg = self;
	before_quiet = receive_one;
	ASSERT_EQ(-EAGAIN, lane_send(self->lane[0], sent, 10));
	for (i = 0; i < 9; i++)
		receive_one(self);
	ASSERT_TRUE(is_ready(0, POLLOUT));
	ASSERT_EQ(0, lane_send(self->lane[0], sent, 10));
	for (i = 0; i < (int)RING; i++)
		receive_one(self);
	evpl_iovec_release(&kept.iovec);
}

TEST_F(rings, full_channel_is_EAGAIN_although_the_ring_has_room)
{
	struct evpl_message sent[CAPACITY], next, got[CAPACITY];
	unsigned int i;

	setup(_metadata, self, 0);
	for (i = 0; i < CAPACITY; i++)
		sent[i] = buffer_with(self->evpl[0], i);
	ASSERT_EQ(0, lane_send(self->lane[0], sent, CAPACITY));
	next = buffer_with(self->evpl[0], 1);
	ASSERT_EQ(-EAGAIN, lane_send(self->lane[0], &next, 1));
	EXPECT_FALSE(is_ready(0, POLLOUT));
	EXPECT_EQ(1, word_of(&next.iovec));
	EXPECT_EQ(CAPACITY, self->lane[0]->nr_lent);
	ASSERT_EQ(1, lane_recv(self->lane[1], got, 1));
	EXPECT_TRUE(is_ready(0, POLLOUT));
	ASSERT_EQ(0, lane_send(self->lane[0], &next, 1));
	release_all(got, 1);
	ASSERT_EQ(CAPACITY, lane_recv(self->lane[1], got, CAPACITY));
	release_all(got, CAPACITY);
}

TEST_HARNESS_MAIN
