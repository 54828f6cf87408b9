/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_LANE_INTERNAL_H
#define EVPLMEM_LANE_INTERNAL_H

/*
 * One side of a lane, for the files that make it up:
 *
 *  - lane.c sets it up, and ends it.
 *  - lane_send.c sends messages.
 *  - lane_lent.c has the grants that this side has given, and drops the references of messages that
 *    the peer has returned.
 *  - lane_recv.c receives messages.
 *  - lane_grant.c has the grants that this side has received.
 *
 * Locks: @send_lock guards what is sent and returned, @recv_lock what is received. A thread may
 * take @recv_lock with @send_lock held, and not the other way round. lanes_lock guards the list of a
 * pool's lanes, and comes before both. evpl_pool.lock comes after all of them.
 */

#include <pthread.h>

#include "bias.h"
#include "lane.h"
#include "lane_block.h"
#include "lock.h"
#include "recycle.h"

/* How many places there are for the grant of a buffer. */
#define WAYS		4U

/**
 * struct lent - a grant, as its sender has it
 * @buffer: the buffer; NULL if there is no grant, or the buffer was revoked
 * @flags: of messages that go by this grant: EVPL_MESSAGE_*
 * @sent: messages that went by grants with this number, modulo 2^32
 * @seen: how many of these the peer had returned when its count was read last. The others are
 *	outstanding, and each of them has a reference on @buffer.
 * @number: the number of the grant
 * @granted: the peer has the grant, until a LANE_TAKE_BACK is sent
 */
struct lent {
	struct entry *buffer;
	uint32_t flags;
	uint32_t sent;
	uint32_t seen;
	uint32_t number;
	bool granted;
};

/* A grant of which the first record came as revoked: there is no lease. */
#define GRANT_REVOKED	((struct grant *)1)

/**
 * struct lane - one side of a lane
 * @pool: the pool; constant like all fields before @refs
 * @fd: the end
 * @flags: EVPL_CHANNEL_*
 * @capacity: the most messages that one call sends
 * @own_mask: how many entries the own ring has, less one
 * @nr_grants: that this side takes
 * @buffer_size: of the pool
 * @header: of the pool, where the kernel counts changes of ends
 * @own: the iovec of @block
 * @block: the own block
 * @own_ring: its ring
 * @counts: its counts of returned messages
 *
 * @refs: one of the channel, one of each grant that was received, and one of each call of
 *	lanes_collect() that is about to stop the lane
 * @error: why nothing is sent or received any more, or 0
 * @next: the next lane of the pool; under lanes_lock, like @link
 *
 * Written once, under @recv_lock; then @peer is set:
 * @peer: the peer's block, or NULL
 * @peer_ring: its ring
 * @peer_mask: how many entries that has, less one
 * @peer_counts: its counts of returned messages
 * @lent_mask: how many grants it takes, of those that this side can make, less one
 * @peer_iovec: a reference on the lease
 *
 * Under @send_lock:
 * @send_error: why nothing is sent any more, although messages may still be received; or 0
 * @stopped: lane_stop() was called
 * @ends: evpl_header.ends, when the peer was last looked at. UINT64_MAX: nothing goes through the ring
 *	before the peer is looked at, or @started is set
 * @tried_ends: evpl_header.ends, when the peer's end was found to be no lane's
 * @block_sent: the peer has the own block, or will read it
 * @started: the ring says what is sent
 * @head: entries written
 * @taken: entries that the peer has copied out, as far as this side has looked
 * @awaited: the fewest entries that a thread may wait for since this end has rung itself; or 0
 * @lent: grants, by number: WAYS places for each buffer
 * @queue: the numbers of the grants of which messages are outstanding, each of them once, in the
 *	order in which this side looks whether they have been returned
 * @queue_head: how many were taken out of @queue, modulo 2^32
 * @queue_tail: how many were put into it
 * @victim: which of the WAYS is taken back next
 * @uncollected: bytes sent since this side has looked for returned messages: see COLLECT_BYTES
 * @rang_in: the last number of the peer's for which the doorbell was rung
 *
 * Under @recv_lock:
 * @receiving: the peer's ring says what comes next
 * @tail: entries copied out of the peer's ring
 * @grants: received grants, by number
 * @closed: closed grants that recv_leave() ends
 * @stashed: @stash is a message that was read while @peer was looked for
 * @armed: a program that polls wants a doorbell for the next message
 * @flows: lane_recv() need look at nothing but the ring, and nothing stands in the way
 * @recv_ends: as @ends
 * @rang_out: as @rang_in
 *
 * @numbers: the last ones that this side has set in its @wants; LANE_IN under @recv_lock, the others
 *	under @send_lock
 *
 * Under @memory_lock:
 * @rang_memory: as @rang_in
 * @closed_fd: the program closes the end, whose number may be another file's from then on
 *
 * @doorbells: for statistics, like the next
 * @nr_sent: messages sent through the ring
 * @nr_records: messages sent as records
 * @nr_received: messages received through the ring
 * @nr_lent: grants that the peer has
 */
struct lane {
	struct evpl_pool *pool;
	int fd;
	unsigned int flags;
	uint32_t capacity;
	uint32_t own_mask;
	uint32_t nr_grants;
	uint64_t buffer_size;
	const struct evpl_header *header;
	struct evpl_iovec own;
	struct lane_block *block;
	struct lane_entry *own_ring;
	_Atomic uint32_t *counts;

	_Atomic uint32_t refs;
	atomic_int error;
	struct lane *next;
	struct lane **link;

	const struct lane_block *_Atomic peer;
	const struct lane_entry *peer_ring;
	uint32_t peer_mask;
	uint32_t lent_mask;
	const _Atomic uint32_t *peer_counts;
	struct evpl_iovec peer_iovec;

	alignas(64) struct lock send_lock;
	int send_error;
	bool stopped;
	uint64_t ends;
	uint64_t tried_ends;
	bool block_sent;
	atomic_bool started;
	uint32_t head;
	uint32_t taken;
	uint32_t awaited;
	struct lent *lent;
	uint32_t queue_head;
	uint32_t queue_tail;
	uint32_t victim;
	uint64_t uncollected;
	uint32_t rang_in;
	uint32_t nr_lent;
	uint64_t nr_sent;
	uint64_t nr_records;
	uint16_t queue[LANE_GRANTS_MAX];

	alignas(64) struct lock recv_lock;
	bool receiving;
	bool stashed;
	bool armed;
	atomic_bool flows;
	uint32_t tail;
	uint32_t rang_out;
	struct grant **grants;
	struct grant *closed;
	uint64_t recv_ends;
	uint64_t nr_received;
	struct evpl_message stash;

	alignas(64) uint32_t numbers[NR_LANE_WANTS];
	struct lock memory_lock;
	uint32_t rang_memory;
	bool closed_fd;
	_Atomic uint64_t doorbells;
};

/* lane.c */
extern pthread_mutex_t lanes_lock;
void lane_doorbell(struct lane *lane, unsigned int ring, unsigned int quiet, unsigned int flags);
void lane_want_doorbell(struct lane *lane, enum lane_want want);
bool lane_end_has(struct lane *lane, short events);
int lane_end_wait(struct lane *lane, short events);
int lane_set_up(struct lane *lane, bool look);
void lane_stop(struct lane *lane, int error);
void lane_put(struct lane *lane);

/* lane_send.c */
int send_look_at_peer(struct lane *lane, uint64_t ends);

/* lane_lent.c */
bool lents_collect(struct lane *lane, uint32_t limit);
void lents_stop(struct lane *lane);
struct lent *lent_place(struct lane *lane, const struct entry *buffer, uint32_t n);

/* lane_recv.c */
int recv_look_for_block(struct lane *lane);
void recv_stop(struct lane *lane);

/* lane_grant.c */
void grant_close(struct grant *grant);
void grant_end(struct grant *grant);

static inline const struct lane_block *peer_of(struct lane *lane)
{
	return atomic_load_explicit(&lane->peer, memory_order_acquire);
}

/* How often the other end of one of the pool's channels was bound or closed. */
static inline uint64_t ends_now(struct lane *lane)
{
	return atomic_load_explicit((_Atomic uint64_t *)&lane->header->ends, memory_order_acquire);
}

/*
 * Rings the peer's doorbell if the peer wants that, once for each number. The caller has written
 * what the peer may wait for by a seq_cst store.
 */
static inline void ring_if_wanted(struct lane *lane, enum lane_want want, uint32_t *rang)
{
	uint32_t number = atomic_load(&peer_of(lane)->wants[want]);

	if (!number || number == *rang)
		return;
	*rang = number;
	lane_doorbell(lane, 1U << want, 0, 0);
}

/* Sending: under @send_lock. */

/* Drops references on a buffer if this is the thread that counts in it. */
static inline bool buffer_put_here(struct entry *buffer, uint32_t n)
{
	struct evplmem_thread *thread = evplmem_self();
	bool here;

	evplmem_enter(thread);
	here = atomic_load_explicit(&buffer->owner, memory_order_relaxed) == thread;
	if (here)
		buffer->spare += n;
	evplmem_leave(thread);
	return here;
}

/*
 * Drops references on an own buffer. A thread becomes the owner by itself alone. So if there is no
 * owner, this thread isn't it.
 */
static inline void buffer_put(struct entry *buffer, uint32_t n)
{
	if (atomic_load_explicit(&buffer->owner, memory_order_relaxed) && buffer_put_here(buffer, n))
		return;
	if (entry_is_last(buffer, entry_drop(buffer, n, CALLER()), n))
		recycle(buffer);
}

/* The places for the grants of a buffer. */
static inline struct lent *lent_places(struct lane *lane, const struct entry *buffer)
{
	return &lane->lent[buffer->index * WAYS & lane->lent_mask];
}

static inline struct lent *lent_find(struct lane *lane, const struct entry *buffer, uint32_t flags)
{
	struct lent *lent = lent_places(lane, buffer);
	unsigned int i;

	for (i = 0; i < WAYS; i++, lent++)
		if (lent->buffer == buffer && lent->flags == flags)
			return lent;
	return NULL;
}

/* How many messages of a grant are outstanding. */
static inline uint32_t lent_outstanding(const struct lent *lent)
{
	return lent->sent - lent->seen;
}

/* How many grants there are of which messages are outstanding. */
static inline uint32_t lents_outstanding(const struct lane *lane)
{
	return lane->queue_tail - lane->queue_head;
}

/* Puts a grant into the queue, which has room for all grants. */
static inline void lent_queue(struct lane *lane, const struct lent *lent)
{
	lane->queue[lane->queue_tail++ % LANE_GRANTS_MAX] = (uint16_t)lent->number;
}

/* Counts a message as outstanding. */
static inline void lent_count(struct lane *lane, struct lent *lent)
{
	if (lent->sent++ == lent->seen)
		lent_queue(lane, lent);
}

/* Undoes lent_count(). Several are undone in the reverse order, before @send_lock is left. */
static inline void lent_uncount(struct lane *lane, struct lent *lent)
{
	if (--lent->sent == lent->seen)
		lane->queue_tail--;
}

/* Returns 1 if the ring has room for @n entries, else 0, or -EPROTO. */
static inline int has_room(struct lane *lane, uint32_t n)
{
	uint32_t used = lane->head - lane->taken, taken;

	if (__builtin_expect(used + n - 1 <= lane->own_mask, 1))
		return 1;
	taken = atomic_load(&peer_of(lane)->taken);
	if (taken - lane->taken > used)
		return -EPROTO;
	lane->taken = taken;
	return lane->head - taken + n - 1 <= lane->own_mask;
}

/**
 * struct own_ring - the own ring, for a function that writes to it
 * @entries: its entries
 * @mask: how many they are, less one
 * @head: entries written
 */
struct own_ring {
	struct lane_entry *entries;
	uint32_t mask;
	uint32_t head;
};

static inline struct own_ring own_ring(struct lane *lane)
{
	return (struct own_ring){ lane->own_ring, lane->own_mask, lane->head };
}

/* Writes an entry that isn't there yet, as its turn isn't. @position counts from @head. */
static inline struct lane_entry *write_entry(struct own_ring ring, uint32_t position,
					     enum lane_kind kind, uint32_t grant)
{
	struct lane_entry *entry = &ring.entries[(ring.head + position) & ring.mask];

	atomic_store_explicit(&entry->kind, kind, memory_order_relaxed);
	atomic_store_explicit(&entry->grant, grant, memory_order_relaxed);
	return entry;
}

/*
 * Has @n entries appear at once. The turn of the first one is written last: until then the peer sees
 * none of them. The caller then rings the doorbell if the peer sleeps.
 */
static inline void publish(struct lane *lane, struct own_ring ring, uint32_t n)
{
	uint32_t i;

	for (i = n - 1; i; i--)
		atomic_store_explicit(&ring.entries[(ring.head + i) & ring.mask].turn,
				      ring.head + i + 1, memory_order_relaxed);
	lane->head = ring.head + n;
	atomic_store(&ring.entries[ring.head & ring.mask].turn, ring.head + 1);
}

#endif /* EVPLMEM_LANE_INTERNAL_H */
