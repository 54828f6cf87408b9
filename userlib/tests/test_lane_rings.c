// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * The rings of lanes, on any machine and under the sanitizers: this file compiles the files of lanes
 * anew, with two pools of the anon back end and a few functions in place of the kernel. So a test
 * can also do something between two steps of the library, and write anything into a block as a
 * hostile peer. test_lane.c has the tests with the module.
 */
#include <poll.h>
#include <sys/ioctl.h>

#include "common.h"
#include "lane_internal.h"
#include "lease.h"
#include "lies.h"
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

/* A function of the test that runs once, just before a call of EVPL_DOORBELL quiets an end. */
static void (*before_quiet)(void *arg);
static void *before_quiet_arg;
/* A function that runs once, just after a side has found its ring full for the @full_nth time. */
static void (*after_full)(void *arg);
static void *after_full_arg;
static unsigned int full_nth;
/* How many leases a grant has let go of with lanes_lock held. */
static unsigned int ended_with_lanes_lock;
/* The allocation of a lane that fails: 1 is the next one; 0: none. */
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

static int look_for_room(struct lane *lane, uint32_t n)
{
	void (*hook)(void *arg) = after_full;
	int room = has_room(lane, n);

	if (!room && hook && !--full_nth) {
		after_full = NULL;
		hook(after_full_arg);
	}
	return room;
}

static void end_lease(struct lease *lease, void *site);

#define has_room(lane, n)		look_for_room(lane, n)
#define lease_put(lease, site)		end_lease(lease, site)
#define ioctl(fd, request, args)	kernel_doorbell(fd, args)
#define poll(pollfd, nr, timeout)	kernel_poll(pollfd, timeout)
#define write(fd, records, bytes)	kernel_write(fd, records, bytes)
#define records_read(fd, record, max)	kernel_read(fd, record)
#define records_send			kernel_send
#define calloc(nr, bytes)		(fails_now() ? NULL : calloc(nr, bytes))
#define malloc(bytes)			(fails_now() ? NULL : malloc(bytes))
#define aligned_alloc(align, bytes)	(fails_now() ? NULL : aligned_alloc(align, bytes))
#include "lane.c"
#include "lane_grant.c"
#include "lane_lent.c"
#include "lane_recv.c"
#include "lane_send.c"
#undef has_room
#undef lease_put
#undef ioctl
#undef poll
#undef write
#undef records_read
#undef records_send
#undef calloc
#undef malloc
#undef aligned_alloc

/* This may end registrations, whose callbacks may do much with the pool. */
static void end_lease(struct lease *lease, void *site)
{
	if (pthread_mutex_trylock(&lanes_lock))
		ended_with_lanes_lock++;
	else
		pthread_mutex_unlock(&lanes_lock);
	lease_put(lease, site);
}

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

/* Otherwise a program that sleeps in poll(2) would spin, and so would the library. */
TEST_F(rings, doorbell_before_the_setting_up_is_over_doesnt_keep_the_end_readable)
{
	static const struct evpl_doorbell bell = { .ring = EVPL_DOORBELL_IN };
	struct evpl_message got;

	ASSERT_EQ(0, bind_lane(self, 0, 0));
	kernel_doorbell(FD + 1, &bell);
	ASSERT_TRUE(is_ready(0, POLLIN));
	ASSERT_EQ(-EAGAIN, lane_recv(self->lane[0], &got, 1));
	EXPECT_FALSE(is_ready(0, POLLIN));
}

TEST_F(rings, doorbell_before_the_setting_up_is_over_is_quieted_by_arm)
{
	static const struct evpl_doorbell bell = { .ring = EVPL_DOORBELL_IN };

	ASSERT_EQ(0, bind_lane(self, 0, EVPL_CHANNEL_POLLING));
	kernel_doorbell(FD + 1, &bell);
	ASSERT_EQ(0, lane_arm(self->lane[0]));
	EXPECT_FALSE(is_ready(0, POLLIN));
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

/* Another thread may sleep until there is room for one message, and the batch quiets the end. */
TEST_F(rings, batch_that_finds_too_little_room_leaves_that_to_a_sender_that_needs_less)
{
	struct evpl_message kept, one, batch[10];
	int i;

	setup(_metadata, self, 0);
	kept = grant_one(self, 0);
	for (i = 0; i < (int)RING; i++) {
		one = again(&kept, (uint64_t)i);
		ASSERT_EQ(0, lane_send(self->lane[0], &one, 1));
	}
	one = again(&kept, 0);
	for (i = 0; i < 10; i++)
		batch[i] = again(&kept, (uint64_t)i);
	ASSERT_EQ(-EAGAIN, lane_send(self->lane[0], &one, 1));
	EXPECT_FALSE(is_ready(0, POLLOUT));
	for (i = 0; i < 5; i++)
		receive_one(self);
	ASSERT_TRUE(is_ready(0, POLLOUT));
	ASSERT_EQ(-EAGAIN, lane_send(self->lane[0], batch, 10));
	EXPECT_TRUE(is_ready(0, POLLOUT));
	/* The thread that has the batch looks once in vain, and then sleeps too. */
	ASSERT_EQ(-EAGAIN, lane_send(self->lane[0], batch, 10));
	EXPECT_FALSE(is_ready(0, POLLOUT));
	ASSERT_EQ(0, lane_send(self->lane[0], &one, 1));
	for (i = 0; i < 6; i++)
		receive_one(self);
	EXPECT_TRUE(is_ready(0, POLLOUT));
	ASSERT_EQ(0, lane_send(self->lane[0], batch, 10));
	for (i = 0; i < (int)RING; i++)
		receive_one(self);
	evpl_iovec_release(&kept.iovec);
}

/* A program whose descriptor is edge-triggered sleeps after -EAGAIN until a doorbell is rung. */
TEST_F(rings, sender_of_EAGAIN_is_told_of_room_that_comes_while_it_looks_for_room)
{
	struct evpl_message kept, sent;
	unsigned int nth, i, rings;
	int err;

	setup(_metadata, self, 0);
	kept = grant_one(self, 0);
	for (i = 0; i < RING; i++) {
		sent = again(&kept, i);
		ASSERT_EQ(0, lane_send(self->lane[0], &sent, 1));
	}
	after_full_arg = self;
	for (nth = 1; !after_full; nth++) {
		ASSERT_GT(10, nth);
		after_full = receive_one;
		full_nth = nth;
		rings = both_ends[0].rings[LANE_OUT];
		sent = again(&kept, 0);
		err = lane_send(self->lane[0], &sent, 1);
		if (!err)
			continue;
		ASSERT_EQ(-EAGAIN, err);
		evpl_iovec_release(&sent.iovec);
		if (after_full)
			break;
		/* There is room since, and only a doorbell says so. */
		ASSERT_EQ(rings + 1, both_ends[0].rings[LANE_OUT]) {
			TH_LOG("no doorbell, after it has looked for room %u times", nth);
		}
		sent = again(&kept, 0);
		ASSERT_EQ(0, lane_send(self->lane[0], &sent, 1));
	}
	/* At least lane_send() and the last look before it sleeps. */
	EXPECT_LT(2, nth);
	after_full = NULL;
	for (i = 0; i < RING; i++)
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

/* The first position of both rings, and the first count of each grant. */
static void start_at(FIXTURE_DATA(rings) *self, uint32_t turn, uint32_t count)
{
	struct lane *from, *to;
	unsigned int i, side;

	for (side = 0; side < 2; side++) {
		from = self->lane[side];
		to = self->lane[!side];
		from->head = turn;
		from->taken = turn;
		from->queue_head = turn;
		from->queue_tail = turn;
		to->tail = turn;
		atomic_store(&to->block->taken, turn);
		for (i = 0; i < to->nr_grants; i++) {
			from->lent[i].sent = count;
			from->lent[i].seen = count;
			atomic_store(&to->counts[i], count);
		}
	}
}

TEST_F(rings, turns_and_counts_wrap)
{
	struct evpl_message sent[10], got[10];
	int round, way, i;

	setup(_metadata, self, 0);
	start_at(self, UINT32_MAX - 100, UINT32_MAX - 20);
	for (round = 0; round < 100; round++) {
		for (way = 0; way < 2; way++) {
			for (i = 0; i < 10; i++)
				sent[i] = buffer_with(self->evpl[way], (uint64_t)(round * 10 + i));
			ASSERT_EQ(0, lane_send(self->lane[way], sent, 10));
			ASSERT_EQ(10, lane_recv(self->lane[!way], got, 10));
			for (i = 0; i < 10; i++) {
				EXPECT_EQ(round * 10 + i, got[i].cookie);
				EXPECT_TRUE(has_cookie(&got[i]));
			}
			release_all(got, 10);
		}
	}
	EXPECT_LT(self->lane[0]->head, UINT32_MAX / 2);
}

TEST_F(rings, grants_of_more_buffers_than_have_places_are_taken_back)
{
	struct evpl_message kept[NR_BUFFERS / 2], sent, got;
	unsigned int i, round;

	setup(_metadata, self, 0);
	for (i = 0; i < NR_BUFFERS / 2; i++)
		kept[i] = buffer_with(self->evpl[0], i);
	/* There are 64 sets of four places. Only every 64th buffer is of one set. */
	for (round = 0; round < 3; round++) {
		for (i = 0; i < NR_BUFFERS / 2; i++) {
			sent = again(&kept[i], i);
			ASSERT_EQ(0, lane_send(self->lane[0], &sent, 1));
			ASSERT_EQ(1, lane_recv(self->lane[1], &got, 1));
			EXPECT_EQ(i, got.cookie);
			EXPECT_TRUE(has_cookie(&got));
			evpl_iovec_release(&got.iovec);
		}
		EXPECT_LE(self->lane[0]->nr_lent, self->lane[0]->lent_mask + 1);
	}
	release_all(kept, NR_BUFFERS / 2);
	lanes_collect(self->pool[0], false);
	EXPECT_EQ(0, lents_outstanding(self->lane[0]));
}

TEST_F(rings, messages_of_a_grant_come_back_in_any_order)
{
	struct evpl_message kept, sent, got[20];
	struct entry *entry;
	int i;

	setup(_metadata, self, 0);
	kept = grant_one(self, 0);
	entry = iovec_entry(&kept.iovec);
	for (i = 0; i < 20; i++) {
		sent = again(&kept, 1);
		ASSERT_EQ(0, lane_send(self->lane[0], &sent, 1));
	}
	evpl_iovec_release(&kept.iovec);
	ASSERT_EQ(20, lane_recv(self->lane[1], got, 20));
	for (i = 0; i < 20; i++) {
		lanes_collect(self->pool[0], false);
		EXPECT_NE(0, word_of(&kept.iovec) & EVPL_WORD_COUNT);
		evpl_iovec_release(&got[(i * 7) % 20].iovec);
	}
	lanes_collect(self->pool[0], false);
	EXPECT_EQ(0, atomic_load(&entry->word) & EVPL_WORD_COUNT);
}

TEST_F(rings, messages_that_the_peer_keeps_dont_hold_up_those_that_it_returns)
{
	struct evpl_message kept[40], sent, got[40];
	struct lane *lane;
	int i;

	setup(_metadata, self, 0);
	lane = self->lane[0];
	for (i = 0; i < 40; i++)
		kept[i] = grant_one(self, 0);
	lanes_collect(self->pool[0], false);
	ASSERT_EQ(0, lents_outstanding(lane));
	for (i = 0; i < 40; i++) {
		sent = again(&kept[i], 1);
		ASSERT_EQ(0, lane_send(lane, &sent, 1));
	}
	ASSERT_EQ(40, lane_recv(self->lane[1], got, 40));
	release_all(got + 32, 8);
	/* A look at a few grants begins with those that were sent first. */
	lents_collect(lane, UINT32_MAX);
	EXPECT_EQ(32, lents_outstanding(lane));
	release_all(got + 16, 16);
	EXPECT_FALSE(lents_collect(lane, 16));
	EXPECT_EQ(32, lents_outstanding(lane));
	EXPECT_TRUE(lents_collect(lane, 10));
	EXPECT_EQ(22, lents_outstanding(lane));
	EXPECT_TRUE(lents_collect(lane, 7));
	EXPECT_EQ(16, lents_outstanding(lane));
	release_all(got, 16);
	EXPECT_TRUE(lents_collect(lane, UINT32_MAX));
	EXPECT_EQ(0, lents_outstanding(lane));
	for (i = 0; i < 40; i++)
		EXPECT_EQ(1, atomic_load(&iovec_entry(&kept[i].iovec)->word) & EVPL_WORD_COUNT);
	release_all(kept, 40);
}

TEST_F(rings, sender_drops_references_by_itself_when_it_has_sent_enough)
{
	struct evpl_message kept, sent, got;
	struct lent *lent;
	int i;

	setup(_metadata, self, 0);
	kept = grant_one(self, 0);
	lanes_collect(self->pool[0], false);
	lent = lent_find(self->lane[0], iovec_entry(&kept.iovec), 0);
	for (i = 0; i < 100; i++) {
		sent = again(&kept, 1);
		ASSERT_EQ(0, lane_send(self->lane[0], &sent, 1));
		ASSERT_EQ(1, lane_recv(self->lane[1], &got, 1));
		evpl_iovec_release(&got.iovec);
		EXPECT_GE(COLLECT_BYTES / COLLECT_LEAST, lent_outstanding(lent));
	}
	evpl_iovec_release(&kept.iovec);
}

TEST_F(rings, grant_is_taken_back_when_its_messages_have_been_returned)
{
	struct evpl_message kept, sent, got;
	struct entry *buffer;

	setup(_metadata, self, 0);
	kept = grant_one(self, 0);
	buffer = iovec_entry(&kept.iovec);
	sent = again(&kept, 1);
	ASSERT_EQ(0, lane_send(self->lane[0], &sent, 1));
	ASSERT_EQ(1, lane_recv(self->lane[1], &got, 1));
	EXPECT_TRUE(lanes_take_back(self->pool[0], buffer));
	EXPECT_EQ(1, self->lane[0]->nr_lent);
	EXPECT_EQ(1, lents_outstanding(self->lane[0]));
	evpl_iovec_release(&got.iovec);
	EXPECT_FALSE(lanes_take_back(self->pool[0], buffer));
	EXPECT_EQ(0, self->lane[0]->nr_lent);
	EXPECT_EQ(0, lents_outstanding(self->lane[0]));
	EXPECT_EQ(1, atomic_load(&buffer->word) & EVPL_WORD_COUNT);
	/* The number is another grant's from now on. */
	sent = again(&kept, 2);
	ASSERT_EQ(0, lane_send(self->lane[0], &sent, 1));
	ASSERT_EQ(1, lane_recv(self->lane[1], &got, 1));
	EXPECT_EQ(2, got.cookie);
	evpl_iovec_release(&got.iovec);
	lanes_collect(self->pool[0], false);
	EXPECT_EQ(0, lents_outstanding(self->lane[0]));
	evpl_iovec_release(&kept.iovec);
}

TEST_F(rings, failed_batch_leaves_all_as_it_was)
{
	struct evpl_message kept, sent[6], got;
	uint32_t outstanding, head;
	struct lent *lent;
	int i;

	setup(_metadata, self, 0);
	kept = grant_one(self, 0);
	lanes_collect(self->pool[0], false);
	lent = lent_find(self->lane[0], iovec_entry(&kept.iovec), 0);
	outstanding = lent_outstanding(lent);
	head = self->lane[0]->head;
	for (i = 0; i < 6; i++)
		sent[i] = i % 2 ? buffer_with(self->evpl[0], (uint64_t)i) : again(&kept, 1);
	/* No record can be written. */
	both_ends[1].closed = true;
	ASSERT_EQ(-EPIPE, lane_send(self->lane[0], sent, 6));
	both_ends[1].closed = false;
	EXPECT_EQ(outstanding, lent_outstanding(lent));
	EXPECT_EQ(0, lents_outstanding(self->lane[0]));
	EXPECT_EQ(head, self->lane[0]->head);
	EXPECT_EQ(1, self->lane[0]->nr_lent);
	for (i = 1; i < 6; i += 2) {
		EXPECT_EQ(1, word_of(&sent[i].iovec));
		EXPECT_EQ(NULL, lent_find(self->lane[0], iovec_entry(&sent[i].iovec), 0));
	}
	ASSERT_EQ(0, lane_send(self->lane[0], sent, 6));
	for (i = 0; i < 6; i++) {
		ASSERT_EQ(1, lane_recv(self->lane[1], &got, 1));
		EXPECT_EQ(i % 2 ? i : 1, got.cookie);
		evpl_iovec_release(&got.iovec);
	}
	evpl_iovec_release(&kept.iovec);
}

TEST_F(rings, failed_allocation_leaves_nothing_behind)
{
	struct evpl_message sent[3], got;
	uint64_t used = used_in(self->pool[0]);
	unsigned int i, nth;
	int ret = -ENOMEM;

	for (nth = 1; ret; nth++) {
		fail_nth = nth;
		ret = bind_lane(self, 0, 0);
		fail_nth = 0;
		ASSERT_TRUE(!ret || ret == -ENOMEM);
		EXPECT_EQ(ret ? used : used + 1, used_in(self->pool[0]));
	}
	EXPECT_LT(3, nth);
	ASSERT_EQ(0, bind_lane(self, 1, 0));
	ASSERT_TRUE(connect_lanes(self));
	for (i = 0; i < 3; i++)
		sent[i] = buffer_with(self->evpl[0], i);
	ASSERT_EQ(0, lane_send(self->lane[0], sent, 3));
	for (i = 0; i < 3; i++) {
		fail_nth = 1;
		EXPECT_EQ(-ENOMEM, lane_recv(self->lane[1], &got, 1));
		fail_nth = 0;
		EXPECT_TRUE(is_ready(1, POLLIN));
		ASSERT_EQ(1, lane_recv(self->lane[1], &got, 1));
		EXPECT_EQ(i, got.cookie);
		evpl_iovec_release(&got.iovec);
	}
}

/* Ends what setup() began, of a lane that a lie has ended: all references have come back. */
static void end_round(struct __test_metadata *_metadata, struct _test_data_rings *self)
{
	close_side(self, 0);
	close_side(self, 1);
	kernel_end_leases(0);
	kernel_end_leases(1);
	ASSERT_EQ(0, used_in(self->pool[0]));
	ASSERT_EQ(0, used_in(self->pool[1]));
	memset(both_ends, 0, sizeof(both_ends));
}

TEST_F(rings, wrong_entries_are_EPROTO)
{
	static const struct lie lies[] = ENTRY_LIES(SMALL);
	struct evpl_message kept, sent, got, held;
	struct lane_entry *entry;
	uint32_t number;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(lies); i++) {
		setup(_metadata, self, 0);
		kept = grant_one(self, 0);
		number = (uint32_t)(lent_find(self->lane[0], iovec_entry(&kept.iovec), 0) -
				    self->lane[0]->lent);
		sent = again(&kept, 1);
		ASSERT_EQ(0, lane_send(self->lane[0], &sent, 1));
		ASSERT_EQ(1, lane_recv(self->lane[1], &held, 1));
		sent = again(&kept, 1);
		ASSERT_EQ(0, lane_send(self->lane[0], &sent, 1));
		entry = &self->lane[0]->block->entries[(self->lane[0]->head - 1) & (RING - 1)];
		atomic_store(&entry->kind, lies[i].kind);
		atomic_store(&entry->grant, lies[i].grant < 2 ? number ^ lies[i].grant :
			     lies[i].grant);
		atomic_store(&entry->offset, lies[i].offset);
		atomic_store(&entry->length, lies[i].length);
		EXPECT_EQ(-EPROTO, lane_recv(self->lane[1], &got, 1)) {
			TH_LOG("lie %u", i);
		}
		EXPECT_EQ(-EPROTO, lane_recv(self->lane[1], &got, 1));
		EXPECT_EQ(-EPROTO, lane_send(self->lane[1], &kept, 1));
		/* The iovec that was received before stays valid. */
		EXPECT_TRUE(has_cookie(&held));
		evpl_iovec_release(&held.iovec);
		evpl_iovec_release(&kept.iovec);
		end_round(_metadata, self);
	}
}

TEST_F(rings, wrong_counts_are_EPROTO_and_all_references_come_back)
{
	static const uint32_t counts[] = COUNT_LIES;
	struct evpl_message kept, sent, got;
	unsigned int i, number;

	for (i = 0; i < ARRAY_SIZE(counts); i++) {
		setup(_metadata, self, 0);
		kept = grant_one(self, 0);
		lanes_collect(self->pool[0], false);
		number = (unsigned int)(lent_find(self->lane[0], iovec_entry(&kept.iovec), 0) -
					self->lane[0]->lent);
		sent = again(&kept, 1);
		ASSERT_EQ(0, lane_send(self->lane[0], &sent, 1));
		/* One has come back, and one hasn't. */
		atomic_store(&self->lane[1]->counts[number], counts[i]);
		lanes_collect(self->pool[0], false);
		EXPECT_EQ(-EPROTO, lane_send(self->lane[0], &kept, 1));
		EXPECT_EQ(-EPROTO, lane_recv(self->lane[0], &got, 1));
		EXPECT_EQ(1, atomic_load(&iovec_entry(&kept.iovec)->word) & EVPL_WORD_COUNT);
		evpl_iovec_release(&kept.iovec);
		end_round(_metadata, self);
	}
}

/* A thread of the program may sleep until there is room, or until a message comes. */
TEST_F(rings, end_that_another_thread_has_found_broken_wakes_those_that_sleep_there)
{
	struct evpl_message kept, sent, got;
	struct lane *lane;
	unsigned int i;

	setup(_metadata, self, 0);
	lane = self->lane[0];
	kept = grant_one(self, 0);
	for (i = 0; i < RING; i++) {
		sent = again(&kept, i);
		ASSERT_EQ(0, lane_send(lane, &sent, 1));
	}
	sent = again(&kept, 0);
	ASSERT_EQ(-EAGAIN, lane_send(lane, &sent, 1));
	ASSERT_EQ(-EAGAIN, lane_recv(lane, &got, 1));
	EXPECT_FALSE(is_ready(0, POLLOUT));
	EXPECT_FALSE(is_ready(0, POLLIN));
	atomic_store(&self->lane[1]->block->taken, lane->head + 1);
	EXPECT_EQ(-EPROTO, lane_send(lane, &sent, 1));
	EXPECT_TRUE(is_ready(0, POLLOUT));
	EXPECT_TRUE(is_ready(0, POLLIN));
	/* Nor does a thread go to sleep that has looked before. */
	EXPECT_TRUE(arm_out(lane, 1));
	EXPECT_EQ(-EBUSY, lane_arm(lane));
	EXPECT_TRUE(is_ready(0, POLLOUT));
	EXPECT_TRUE(is_ready(0, POLLIN));
	evpl_iovec_release(&sent.iovec);
	evpl_iovec_release(&kept.iovec);
}

TEST_F(rings, wrong_number_of_taken_entries_is_EPROTO)
{
	static const uint32_t lies[] = TAKEN_LIES(RING);
	struct evpl_message kept, sent;
	unsigned int i, n;

	for (i = 0; i < ARRAY_SIZE(lies); i++) {
		setup(_metadata, self, 0);
		kept = grant_one(self, 0);
		for (n = 0; n < RING; n++) {
			sent = again(&kept, 1);
			ASSERT_EQ(0, lane_send(self->lane[0], &sent, 1));
		}
		atomic_store(&self->lane[1]->block->taken, self->lane[0]->head + lies[i]);
		sent = again(&kept, 1);
		EXPECT_EQ(-EPROTO, lane_send(self->lane[0], &sent, 1)) {
			TH_LOG("lie %u", i);
		}
		evpl_iovec_release(&sent.iovec);
		evpl_iovec_release(&kept.iovec);
		end_round(_metadata, self);
	}
}

TEST_F(rings, lane_that_an_allocation_finds_broken_ends_without_lanes_lock)
{
	struct evpl_message kept[2], sent;
	unsigned int i, number, side;

	setup(_metadata, self, 0);
	for (side = 0; side < 2; side++) {
		kept[side] = grant_one(self, (int)side);
		lanes_collect(self->pool[side], false);
	}
	sent = again(&kept[0], 1);
	number = lent_find(self->lane[0], iovec_entry(&kept[0].iovec), 0)->number;
	ASSERT_EQ(0, lane_send(self->lane[0], &sent, 1));
	atomic_store(&self->lane[1]->counts[number], 100);
	ended_with_lanes_lock = 0;
	lanes_collect(self->pool[0], false);
	EXPECT_EQ(-EPROTO, atomic_load(&self->lane[0]->error));
	EXPECT_EQ(0, ended_with_lanes_lock);
	/* The grant of the other side's buffer has ended. */
	for (i = 0; i < self->lane[0]->nr_grants; i++)
		EXPECT_EQ(NULL, self->lane[0]->grants[i]);
	release_all(kept, 2);
}

TEST_F(rings, wrong_blocks_are_EPROTO)
{
	static const struct block_lie blocks[] = BLOCK_LIES(SMALL, RING);
	struct evpl_message sent, got;
	struct evpl_record record;
	struct lane_block *block;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(blocks); i++) {
		ASSERT_EQ(0, bind_lane(self, 1, 0));
		both_ends[0].lane = true;
		both_ends[0].pool = self->pool[0];
		sent = buffer_with(self->evpl[0], 0);
		block = sent.iovec.data;
		block->magic = blocks[i].magic;
		block->version = blocks[i].version;
		block->nr_entries = blocks[i].nr_entries;
		block->nr_grants = blocks[i].nr_grants;
		ASSERT_EQ(0, record_make(self->pool[0], &sent, &record));
		transfer_prepare(self->pool[0], &sent.iovec, record.offset, false);
		record.flags = EVPL_RECORD_LANE;
		record.offset += blocks[i].offset;
		record.length = blocks[i].length;
		ASSERT_LT(0, kernel_write(FD, &record, sizeof(record)));
		EXPECT_EQ(-EPROTO, lane_recv(self->lane[1], &got, 1)) {
			TH_LOG("block %u", i);
		}
		close_side(self, 1);
		both_ends[0].closed = true;
		kernel_end_leases(0);
		kernel_end_leases(1);
		ASSERT_EQ(0, used_in(self->pool[0]));
		ASSERT_EQ(0, used_in(self->pool[1]));
		memset(both_ends, 0, sizeof(both_ends));
	}
	both_ends[0].pool = self->pool[0];
}

TEST_F(rings, block_that_becomes_zeros_breaks_nothing)
{
	struct evpl_message kept, sent, got;

	setup(_metadata, self, 0);
	kept = grant_one(self, 0);
	sent = again(&kept, 1);
	ASSERT_EQ(0, lane_send(self->lane[0], &sent, 1));
	/* As if both blocks were revoked. */
	memset(self->lane[0]->block, 0, SMALL);
	memset(self->lane[1]->block, 0, SMALL);
	EXPECT_EQ(-EAGAIN, lane_recv(self->lane[1], &got, 1));
	lanes_collect(self->pool[0], false);
	ASSERT_EQ(0, lane_send(self->lane[0], &kept, 1));
}

/* A hostile peer's side of a fuzz, and what the other side has of it. */
struct fuzz {
	FIXTURE_DATA(rings) *self;
	struct evpl_message held[16];
	int nr_held;
	unsigned int seed;
	_Atomic bool stop;
};

/* Whether a message lies in one buffer of the hostile side's pool, or has none. */
static bool is_inside(FIXTURE_DATA(rings) *self, const struct evpl_message *message)
{
	uintptr_t start = (uintptr_t)self->pool[0]->backing.entries->base;
	uintptr_t offset = (uintptr_t)message->iovec.data - start;

	if (message->flags & EVPL_MESSAGE_REVOKED)
		return !message->iovec.length;
	return message->iovec.length && offset < POOL_BYTES &&
	       message->iovec.length <= SMALL - offset % SMALL;
}

/* The side that is lied to goes on. Returns whether the lane has ended by a lie, or -errno. */
static int go_on(struct fuzz *fuzz)
{
	struct evpl_message *held = fuzz->held, sent;
	struct evpl_pool *pool = fuzz->self->pool[1];
	struct lane *lane = fuzz->self->lane[1];
	int ret;

	while (fuzz->nr_held > rand_r(&fuzz->seed) % (int)ARRAY_SIZE(fuzz->held))
		evpl_iovec_release(&held[--fuzz->nr_held].iovec);
	ret = lane_recv(lane, held + fuzz->nr_held, 1);
	if (ret > 0 && !is_inside(fuzz->self, &held[fuzz->nr_held]))
		return -ERANGE;
	if (ret > 0)
		fuzz->nr_held++;
	if (ret < 0 && ret != -EAGAIN)
		return ret == -EPROTO ? 1 : ret;
	if (used_in(pool) >= NR_BUFFERS / 2)
		return 0;
	sent = buffer_with(fuzz->self->evpl[1], 1);
	ret = lane_send(lane, &sent, 1);
	if (ret)
		evpl_iovec_release(&sent.iovec);
	lanes_collect(pool, false);
	return ret == -EPROTO ? 1 : ret && ret != -EAGAIN ? ret : 0;
}

static void scribble_once(struct fuzz *fuzz, unsigned int *seed)
{
	struct lane *lane = fuzz->self->lane[0];

	scribble(lane->block, RING, lane->nr_grants, atomic_load(&fuzz->self->lane[1]->block->taken),
		 seed);
}

static void *scribble_thread(void *arg)
{
	struct fuzz *fuzz = arg;
	unsigned int seed = fuzz->seed + 1, spins = 0;

	while (!atomic_load(&fuzz->stop)) {
		scribble_once(fuzz, &seed);
		spin(&spins);
	}
	return NULL;
}

/* Lies to a side, until that notices or many steps are done. Returns whether it notices, or -errno. */
static int fuzz_round(struct __test_metadata *_metadata, struct fuzz *fuzz, bool beside)
{
	struct evpl_message kept[4], sent;
	pthread_t thread;
	int ret = 0, i;

	setup(_metadata, fuzz->self, 0);
	for (i = 0; i < 4; i++)
		kept[i] = grant_one(fuzz->self, i % 2);
	atomic_store(&fuzz->stop, false);
	if (beside && pthread_create(&thread, NULL, scribble_thread, fuzz))
		abort();
	/* The other thread gets to a lie sooner or later. */
	for (i = 0; (beside || i < 200) && !ret; i++) {
		/* The hostile side sends some messages as it should. */
		sent = again(&kept[0], 1);
		if (beside || lane_send(fuzz->self->lane[0], &sent, 1))
			evpl_iovec_release(&sent.iovec);
		if (!beside && !(rand_r(&fuzz->seed) % 4))
			scribble_once(fuzz, &fuzz->seed);
		ret = go_on(fuzz);
	}
	atomic_store(&fuzz->stop, true);
	if (beside)
		pthread_join(thread, NULL);
	release_all(fuzz->held, fuzz->nr_held);
	fuzz->nr_held = 0;
	release_all(kept, 4);
	end_round(_metadata, fuzz->self);
	return ret;
}

static void fuzz_block(struct __test_metadata *_metadata, struct _test_data_rings *self, bool beside)
{
	struct fuzz fuzz = { .self = self };
	int ended = 0, rounds = few() ? 200 : 2000, ret, i;

	for (i = 0; i < rounds; i++) {
		fuzz.seed = (unsigned int)i;
		ret = fuzz_round(_metadata, &fuzz, beside);
		ASSERT_LE(0, ret) {
			TH_LOG("round %d", i);
		}
		ended += ret;
	}
	TH_LOG("%d of %d lanes ended by a lie", ended, rounds);
	EXPECT_LE(beside ? rounds : 1, ended);
}

TEST_F(rings, block_of_random_contents_is_EPROTO_or_harmless)
{
	fuzz_block(_metadata, self, false);
}

TEST_F(rings, block_that_changes_while_it_is_read_is_EPROTO_or_harmless)
{
	fuzz_block(_metadata, self, true);
}

/* Two threads on each side. */
#define THREADS		4

struct storm_side {
	FIXTURE_DATA(rings) *self;
	unsigned int thread;
	unsigned int messages;
	const char *error;
};

static _Atomic uint64_t storm_received[2];
static _Atomic uint64_t storm_sum[2];

/* Sends on its own context in batches, and receives what comes. */
static void *storm_thread(void *arg)
{
	struct storm_side *storm = arg;
	FIXTURE_DATA(rings) *self = storm->self;
	unsigned int side = storm->thread % 2, seed = storm->thread + 1, sent_now = 0, spins = 0;
	struct lane *lane = self->lane[side];
	struct evpl_message batch[8], got[8];
	struct evpl *evpl;
	int n = 0, ret, i;

	if (evpl_create(&evpl, self->pool[side], NULL)) {
		storm->error = "no context";
		return NULL;
	}
	while (!storm->error && (sent_now < storm->messages ||
	       atomic_load(&storm_received[side]) < 2 * storm->messages)) {
		if (!n && sent_now < storm->messages) {
			n = 1 + rand_r(&seed) % 8;
			if ((unsigned int)n > storm->messages - sent_now)
				n = (int)(storm->messages - sent_now);
			for (i = 0; i < n; i++) {
				uint64_t cookie = (uint64_t)rand_r(&seed) << 8 | storm->thread;

				batch[i] = (struct evpl_message){ .cookie = cookie };
				if (evpl_iovec_alloc(evpl, 512 * (1 + cookie % 4), 1, 1,
						     &batch[i].iovec) != 1)
					break;
				*(uint64_t *)batch[i].iovec.data = cookie;
				memset((char *)batch[i].iovec.data + 8, (int)cookie,
				       batch[i].iovec.length - 8);
			}
			/* If memory is short, fewer are sent. */
			n = i;
		}
		ret = n ? lane_send(lane, batch, n) : -EAGAIN;
		if (!ret) {
			for (i = 0; i < n; i++)
				atomic_fetch_add(&storm_sum[side], batch[i].cookie);
			sent_now += (unsigned int)n;
			n = 0;
		} else if (ret != -EAGAIN) {
			storm->error = "send failed";
		}
		ret = lane_recv(lane, got, 1 + rand_r(&seed) % 8);
		if (ret < 0 && ret != -EAGAIN)
			storm->error = "recv failed";
		for (i = 0; i < ret; i++) {
			const unsigned char *bytes = got[i].iovec.data;

			if (*(uint64_t *)got[i].iovec.data != got[i].cookie ||
			    bytes[got[i].iovec.length - 1] != (unsigned char)got[i].cookie)
				storm->error = "other contents";
			atomic_fetch_sub(&storm_sum[!side], got[i].cookie);
			evpl_iovec_release(&got[i].iovec);
		}
		if (ret > 0)
			atomic_fetch_add(&storm_received[side], (uint64_t)ret);
		else
			spin(&spins);
	}
	evpl_destroy(evpl);
	return NULL;
}

TEST_F(rings, threads_on_both_sides)
{
	struct storm_side storm[THREADS];
	pthread_t threads[THREADS];
	unsigned int i;

	setup(_metadata, self, EVPL_CHANNEL_POLLING);
	for (i = 0; i < 2; i++) {
		atomic_store(&storm_received[i], 0);
		atomic_store(&storm_sum[i], 0);
	}
	for (i = 0; i < THREADS; i++) {
		storm[i] = (struct storm_side){
			.self = self,
			.thread = i,
			.messages = few() ? 5000 : 50000,
		};
		ASSERT_EQ(0, pthread_create(&threads[i], NULL, storm_thread, &storm[i]));
	}
	for (i = 0; i < THREADS; i++) {
		ASSERT_EQ(0, pthread_join(threads[i], NULL));
		EXPECT_EQ(NULL, storm[i].error) {
			TH_LOG("%s", storm[i].error);
		}
	}
	EXPECT_EQ(0, atomic_load(&storm_sum[0]));
	EXPECT_EQ(0, atomic_load(&storm_sum[1]));
}

TEST_HARNESS_MAIN
