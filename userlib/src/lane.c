// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Lanes: see lane.h.
 *
 * Locks: @send_lock guards what is sent and returned, @recv_lock what is received. A thread may
 * take @recv_lock with @send_lock held, and not the other way round. lanes_lock guards the list of a
 * pool's lanes, and comes before both. evpl_pool.lock comes after all of them.
 *
 * A thread that returns the last message of a grant takes no lock. It writes its count before it
 * drops its reference. The grant has a reference on the lane, so neither goes before that.
 */
#include "lane.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "alloc.h"
#include "bias.h"
#include "cancel.h"
#include "config.h"
#include "lock.h"
#include "record.h"
#include "recycle.h"
#include "returned.h"
#include "slab.h"
#include "transfer.h"
#include "windows.h"

/* How many places there are for the grant of a buffer. */
#define WAYS		4U
/*
 * A sender looks for returned messages once it has sent so many bytes. Each message counts as
 * COLLECT_LEAST more. The look takes the time of a message, as the peer has written its counts.
 */
#define COLLECT_BYTES	(2U << 20)
#define COLLECT_LEAST	(64U << 10)
/* How many grants it looks at then. */
#define COLLECT_FEW	32U

/**
 * struct lent - a grant, as its sender has it
 * @buffer: the buffer; NULL if there is no grant, or the buffer was revoked
 * @flags: of messages that go by this grant: EVPL_MESSAGE_*
 * @outstanding: messages that the peer hasn't returned. Each has a reference on @buffer.
 * @seen: the peer's count of returned messages, as it was read last
 * @next: index + 1 of the next grant in the list of those that were outstanding, or 0
 * @listed: it is in that list
 * @granted: the peer has the grant, until a LANE_TAKE_BACK is sent
 */
struct lent {
	struct entry *buffer;
	uint32_t flags;
	uint32_t outstanding;
	uint32_t seen;
	uint32_t next;
	bool listed;
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
 * @nr_entries: of the own ring
 * @nr_grants: that this side takes
 * @buffer_size: of the pool
 * @header: of the pool, where the kernel counts changes of ends
 * @own: the iovec of @block
 * @block: the own block
 * @counts: its counts of returned messages
 *
 * @refs: one of the channel, and one of each grant that was received
 * @error: why nothing is sent or received any more, or 0
 * @next: the next lane of the pool; under lanes_lock, like @link
 *
 * Written once, under @recv_lock; then @peer is set:
 * @peer: the peer's block, or NULL
 * @peer_ring: its ring
 * @peer_mask: how many entries that has, less one
 * @peer_counts: its counts of returned messages
 * @peer_grants: how many grants it takes, of those that this side can make
 * @peer_iovec: a reference on the lease
 *
 * Under @send_lock:
 * @send_error: why nothing is sent any more, although messages may still be received; or 0
 * @ends: evpl_header.ends, when the peer was last looked at
 * @block_sent: the peer has the own block, or will read it
 * @started: the ring says what is sent
 * @head: entries written
 * @taken: entries that the peer has copied out, as far as this side has looked
 * @lent: grants, by number: WAYS places for each buffer
 * @first: index + 1 of the first grant in the list of those that were outstanding
 * @last: the last one
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
	uint32_t nr_entries;
	uint32_t nr_grants;
	uint64_t buffer_size;
	const struct evpl_header *header;
	struct evpl_iovec own;
	struct lane_block *block;
	_Atomic uint32_t *counts;

	_Atomic uint32_t refs;
	atomic_int error;
	struct lane *next;
	struct lane **link;

	const struct lane_block *_Atomic peer;
	const struct lane_entry *peer_ring;
	uint32_t peer_mask;
	uint32_t peer_grants;
	const _Atomic uint32_t *peer_counts;
	struct evpl_iovec peer_iovec;

	alignas(64) struct lock send_lock;
	int send_error;
	uint64_t ends;
	bool block_sent;
	atomic_bool started;
	uint32_t head;
	uint32_t taken;
	struct lent *lent;
	uint32_t first;
	uint32_t last;
	uint32_t victim;
	uint64_t uncollected;
	uint32_t rang_in;
	uint32_t nr_lent;
	uint64_t nr_sent;
	uint64_t nr_records;

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

/* Guards the lists of all pools' lanes. */
static pthread_mutex_t lanes_lock = PTHREAD_MUTEX_INITIALIZER;

static inline const struct lane_block *peer_of(struct lane *lane)
{
	return atomic_load_explicit(&lane->peer, memory_order_acquire);
}

/* How often the other end of one of the pool's channels was bound or closed. */
static inline uint64_t ends_now(struct lane *lane)
{
	return atomic_load_explicit((_Atomic uint64_t *)&lane->header->ends, memory_order_acquire);
}

/* Doorbells. */

__attribute__((noinline))
static void doorbell(struct lane *lane, unsigned int ring, unsigned int quiet, unsigned int flags)
{
	struct evpl_doorbell args = {
		.size = sizeof(args),
		.flags = flags,
		.ring = ring,
		.quiet = quiet,
	};

	/* It can fail if the peer has gone. Then there is nobody to be woken. */
	ioctl(lane->fd, EVPL_DOORBELL, &args);
	atomic_fetch_add_explicit(&lane->doorbells, 1, memory_order_relaxed);
}

/*
 * Rings the peer's doorbell if the peer wants that, once for each number. The caller has written
 * what the peer may wait for by a seq_cst store.
 */
static void ring_if_wanted(struct lane *lane, enum lane_want want, uint32_t *rang)
{
	uint32_t number = atomic_load(&peer_of(lane)->wants[want]);

	if (!number || number == *rang)
		return;
	*rang = number;
	doorbell(lane, 1U << want, 0, 0);
}

/* Wants a doorbell from now on. The caller looks once more for what it waits for. */
static void want_doorbell(struct lane *lane, enum lane_want want)
{
	if (!++lane->numbers[want])
		lane->numbers[want] = 1;
	atomic_store(&lane->block->wants[want], lane->numbers[want]);
}

/* Whether poll(2) says this of the end. */
static bool end_has(struct lane *lane, short events)
{
	struct pollfd pollfd = { .fd = lane->fd, .events = events };
	NO_CANCELLATION;

	return poll(&pollfd, 1, 0) > 0 && pollfd.revents & events;
}

static int end_wait(struct lane *lane, short events)
{
	struct pollfd pollfd = { .fd = lane->fd, .events = events };
	NO_CANCELLATION;

	return poll(&pollfd, 1, -1) < 0 ? -errno : 0;
}

/* References. */

static void lane_put(struct lane *lane)
{
	if (atomic_fetch_sub(&lane->refs, 1) != 1)
		return;
	evplmem_iovec_release(&lane->peer_iovec);
	evplmem_iovec_release(&lane->own);
	free(lane->lent);
	free(lane->grants);
	free(lane);
}

/* Ends a received grant that has no reference any more. */
__attribute__((noinline))
static void grant_end(struct grant *grant)
{
	struct lane *lane = grant->lane;

	lease_put(grant->lease, CALLER());
	free(grant);
	lane_put(lane);
}

/*
 * The lane has no use for the grant any more. If iovecs still have references, the last of them ends
 * the grant. If not, recv_leave() does. Under @recv_lock.
 */
static void grant_close(struct grant *grant)
{
	struct lane *lane = grant->lane;

	if ((uint32_t)atomic_fetch_or(&grant->word, GRANT_CLOSED))
		return;
	grant->next = lane->closed;
	lane->closed = grant;
}

/* No message comes by a grant of the lane any more. Under @recv_lock. */
static void close_grants(struct lane *lane)
{
	uint32_t i;

	for (i = 0; i < lane->nr_grants; i++) {
		if (lane->grants[i] && lane->grants[i] != GRANT_REVOKED)
			grant_close(lane->grants[i]);
		lane->grants[i] = NULL;
	}
}

/*
 * Leaves @recv_lock, then ends the grants that were closed. That may end registrations with devices,
 * whose callbacks may use the lane.
 */
static void recv_leave(struct lane *lane)
{
	struct grant *grant = lane->closed, *next;

	lane->closed = NULL;
	lock_leave(&lane->recv_lock);
	for (; grant; grant = next) {
		next = grant->next;
		grant_end(grant);
	}
}

/*
 * Tells the sender how many messages of the grant have been returned by now. The caller has the only
 * reference on the grant, so it is the only thread that does this now. Returns the number by which
 * the sender wants a doorbell, or 0.
 */
static inline uint32_t grant_return(struct grant *grant, uint64_t word)
{
	struct lane *lane = grant->lane;

	atomic_store(&lane->counts[grant->number], (uint32_t)(word >> 32));
	return atomic_load(&peer_of(lane)->wants[LANE_MEMORY]);
}

/* Rings the peer's doorbell for memory, once for each number. */
static void ring_for_memory(struct lane *lane, uint32_t number)
{
	if (!number)
		return;
	lock_take(&lane->memory_lock);
	if (number != lane->rang_memory && !lane->closed_fd) {
		lane->rang_memory = number;
		doorbell(lane, EVPL_DOORBELL_MEMORY, 0, 0);
	}
	lock_leave(&lane->memory_lock);
}

/* Replaces @word, which has lost a reference, if it is still that of the grant. */
static inline bool grant_drop(struct grant *grant, uint64_t *word)
{
	return atomic_compare_exchange_strong_explicit(&grant->word, word, *word - 1,
						       memory_order_acq_rel, memory_order_acquire);
}

/* Drops a reference in all cases. */
__attribute__((noinline))
static void grant_put_anyhow(struct grant *grant, uint64_t word)
{
	do {
		if ((uint32_t)word == 1)
			ring_for_memory(grant->lane, grant_return(grant, word));
	} while (!grant_drop(grant, &word));
	if ((uint32_t)word == (GRANT_CLOSED | 1))
		grant_end(grant);
}

/*
 * Drops the reference of a grant whose count has been written for @word. It isn't written again: the
 * sender may have taken the grant back meanwhile, and given its number to another one.
 */
__attribute__((noinline))
static void grant_put_ringing(struct grant *grant, uint64_t word, uint32_t number)
{
	ring_for_memory(grant->lane, number);
	if (!grant_drop(grant, &word))
		grant_put_anyhow(grant, word);
}

/*
 * Drops a reference on a grant. The last one returns all messages that came so far. If another
 * message comes meanwhile, the exchange fails, and the caller's reference isn't the last one.
 * Acquire: what other threads did by references that they have dropped comes before the return.
 * A weak exchange could fail although nothing has come. Then the same count would be written again,
 * maybe after the sender has taken the grant back, and given its number to another one.
 *
 * The usual case is the last reference, and a sender that wants no doorbell.
 */
void grant_put(struct grant *grant, void *site)
{
	uint64_t word = atomic_load_explicit(&grant->word, memory_order_acquire);
	uint32_t number;

	if (EVPLMEM_CHECKS && !((uint32_t)word & ~GRANT_CLOSED))
		debug_die((struct entry *)grant, "released below zero", site,
			  atomic_load(&grant->released));
	if (EVPLMEM_CHECKS)
		atomic_store(&grant->released, site);
	if (__builtin_expect((uint32_t)word == 1, 1)) {
		number = grant_return(grant, word);
		if (__builtin_expect(number, 0)) {
			grant_put_ringing(grant, word, number);
			return;
		}
		if (__builtin_expect(grant_drop(grant, &word), 1))
			return;
	}
	grant_put_anyhow(grant, word);
}

/* Sending. Under @send_lock. */

/* Drops references on an own buffer, as the thread that counts in it if that is this one. */
static inline void buffer_put(struct entry *buffer, uint32_t n)
{
	struct evplmem_thread *thread = evplmem_self();
	bool here;

	evplmem_enter(thread);
	here = atomic_load_explicit(&buffer->owner, memory_order_relaxed) == thread;
	if (here)
		buffer->spare += n;
	evplmem_leave(thread);
	if (!here && entry_is_last(buffer, entry_drop(buffer, n, CALLER()), n))
		recycle(buffer);
}

/* The places for the grants of a buffer. */
static inline struct lent *lent_places(struct lane *lane, const struct entry *buffer)
{
	return &lane->lent[buffer->index * WAYS & (lane->peer_grants - 1)];
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

static inline uint32_t lent_number(const struct lane *lane, const struct lent *lent)
{
	return (uint32_t)(lent - lane->lent);
}

/* Puts a grant on the list of those of which messages are outstanding. */
static inline void lent_list(struct lane *lane, struct lent *lent)
{
	uint32_t number = lent_number(lane, lent) + 1;

	if (__builtin_expect(lent->listed, 1))
		return;
	lent->listed = true;
	lent->next = 0;
	if (lane->last)
		lane->lent[lane->last - 1].next = number;
	else
		lane->first = number;
	lane->last = number;
}

/*
 * Drops the references of the messages of a grant that the peer has returned since the last look.
 * Returns how many, or -EPROTO.
 */
static inline int lent_collect(struct lane *lane, struct lent *lent)
{
	uint32_t count, n;

	count = atomic_load(&lane->peer_counts[lent - lane->lent]);
	n = count - lent->seen;
	if (n > lent->outstanding)
		return -EPROTO;
	lent->seen = count;
	lent->outstanding -= n;
	if (n && lent->buffer)
		buffer_put(lent->buffer, n);
	return (int)n;
}

/* Looks at up to @limit grants of which messages are outstanding. Returns whether any came back. */
static bool collect(struct lane *lane, uint32_t limit)
{
	uint32_t end = lane->last, number;
	struct lent *lent;
	bool any = false;
	int n;

	lane->uncollected = 0;
	for (number = lane->first; number && limit--; number = number == end ? 0 : lane->first) {
		lent = &lane->lent[number - 1];
		n = lent_collect(lane, lent);
		if (n < 0) {
			atomic_store(&lane->error, n);
			lane->ends = UINT64_MAX;
			break;
		}
		any |= n > 0;
		lane->first = lent->next;
		if (!lane->first)
			lane->last = 0;
		lent->listed = false;
		if (lent->outstanding)
			lent_list(lane, lent);
	}
	return any;
}

/*
 * The lane's messages come back no more. The references of those that the peer has returned are
 * dropped. The kernel decides when other buffers are free: the peer may live on, and have its leases.
 * Under @send_lock.
 */
static void stop_sending(struct lane *lane)
{
	struct lent *lent;

	while (lane->first) {
		lent = &lane->lent[lane->first - 1];
		lane->first = lent->next;
		lent->listed = false;
		lent_collect(lane, lent);
		if (lent->outstanding && lent->buffer) {
			context_seal(lent->buffer);
			buffer_put(lent->buffer, lent->outstanding);
		}
		lent->outstanding = 0;
	}
	lane->last = 0;
	memset(lane->lent, 0, LANE_GRANTS_MAX * sizeof(*lane->lent));
	lane->nr_lent = 0;
	lane->ends = UINT64_MAX;
}

/* Where a slice of the pool starts in its buffer, if the program hasn't changed the iovec. */
static inline uint64_t offset_of(const struct evpl_iovec *iovec)
{
	return (uint64_t)((char *)iovec->data - (char *)iovec_entry(iovec)->base);
}

/* Whether an iovec that isn't empty is in its buffer. */
static inline bool is_in_buffer(const struct lane *lane, uint64_t offset, uint64_t length)
{
	return offset < lane->buffer_size && length - 1 < lane->buffer_size - offset;
}

/* Returns 1 if the ring has room for @n entries, else 0, or -EPROTO. */
static inline int has_room(struct lane *lane, uint32_t n)
{
	uint32_t used = lane->head - lane->taken, taken;

	if (__builtin_expect(lane->nr_entries - used >= n, 1))
		return 1;
	taken = atomic_load(&peer_of(lane)->taken);
	if (taken - lane->taken > used)
		return -EPROTO;
	lane->taken = taken;
	return lane->nr_entries - (lane->head - taken) >= n;
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
	return (struct own_ring){ lane->block->entries, lane->nr_entries - 1, lane->head };
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

static inline void write_message(struct own_ring ring, uint32_t position, uint32_t grant,
				 const struct evpl_message *message)
{
	uint32_t offset = (uint32_t)offset_of(&message->iovec), length = message->iovec.length;
	struct lane_entry *entry = write_entry(ring, position, LANE_MESSAGE, grant);

	atomic_store_explicit(&entry->offset, offset, memory_order_relaxed);
	atomic_store_explicit(&entry->length, length, memory_order_relaxed);
	atomic_store_explicit(&entry->cookie, message->cookie, memory_order_relaxed);
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

/* Takes a grant back of which no message is outstanding. Returns false if there is no room. */
static bool take_back(struct lane *lane, struct lent *lent)
{
	struct own_ring ring = own_ring(lane);

	if (has_room(lane, 1) <= 0)
		return false;
	write_entry(ring, 0, LANE_TAKE_BACK, lent_number(lane, lent));
	publish(lane, ring, 1);
	ring_if_wanted(lane, LANE_IN, &lane->rang_in);
	lent->buffer = NULL;
	lent->granted = false;
	lane->nr_lent--;
	return true;
}

/* A free place for a grant of @buffer, or NULL. Keeps room in the ring for @n entries. */
static struct lent *lent_place(struct lane *lane, const struct entry *buffer, uint32_t n)
{
	struct lent *places = lent_places(lane, buffer), *lent;
	unsigned int i;

	for (i = 0; i < WAYS; i++)
		if (!places[i].granted && !places[i].buffer)
			return &places[i];
	for (i = 0; i < WAYS; i++) {
		lent = &places[lane->victim++ % WAYS];
		if (lent->granted && !lent->outstanding)
			return has_room(lane, n + 1) > 0 && take_back(lane, lent) ? lent : NULL;
	}
	return NULL;
}

/* Whether the program may send this message. Returns 0, or as evpl_channel_send(). */
static int check_message(struct lane *lane, const struct evpl_message *message)
{
	struct entry *buffer = iovec_entry(&message->iovec);

	if (!buffer)
		return -EINVAL;
	if (iovec_is_inherited(&message->iovec))
		return -EPERM;
	if (message->flags & ~(EVPL_MESSAGE_WRITE | EVPL_MESSAGE_DEVICE))
		return -EOPNOTSUPP;
	if (!buffer->slab)
		return entry_any_lease(buffer)->pool == lane->pool ? 0 : -EINVAL;
	if (buffer->slab->pool != lane->pool ||
	    !is_in_buffer(lane, offset_of(&message->iovec), message->iovec.length))
		return -EINVAL;
	return 0;
}

/**
 * struct sending - how a message is sent
 * @lent: the grant that it goes by, or that its record makes; or NULL
 * @as_record: it goes as a record
 */
struct sending {
	struct lent *lent;
	bool as_record;
};

/* Plans how a message is sent. Keeps room for the entries of @n messages. */
static void plan(struct lane *lane, const struct evpl_message *message, struct sending *sending,
		 uint32_t n)
{
	struct entry *buffer = iovec_entry(&message->iovec);
	struct lent *lent = NULL;

	sending->as_record = true;
	if (buffer->slab) {
		lent = lent_find(lane, buffer, message->flags);
		sending->as_record = !lent;
		/* A buffer that others have in another way isn't free with its grant. */
		if (!lent && !entry_is_elsewhere(buffer))
			lent = lent_place(lane, buffer, n);
	}
	sending->lent = lent;
	if (!lent)
		return;
	lent->buffer = buffer;
	lent->flags = message->flags;
	lent->outstanding++;	/* so it isn't taken back for a later message's buffer */
}

/* Undoes plan(). */
static void plan_cancel(struct sending *sending)
{
	struct lent *lent = sending->lent;

	if (!lent)
		return;
	lent->outstanding--;
	if (sending->as_record)
		lent->buffer = NULL;
}

/*
 * Prepares to send a message as a record. If the record makes a grant, the lane keeps the message's
 * reference, and the kernel gets another one. Such a buffer isn't sealed.
 */
static void prepare_record(struct evpl_pool *pool, const struct evpl_message *message,
			   const struct sending *sending, const struct evpl_record *record)
{
	bool may_hold = message->flags & (EVPL_MESSAGE_DEVICE | EVPL_MESSAGE_WRITE);

	if (!sending->lent) {
		transfer_prepare(pool, &message->iovec, record->offset, may_hold);
		return;
	}
	entry_get(iovec_entry(&message->iovec), CALLER());
	if (may_hold)
		devices_set_baseline(iovec_slab(&message->iovec));
}

static void finish_record(struct evpl_pool *pool, const struct evpl_message *message,
			  const struct sending *sending, const struct evpl_record *record, bool sent)
{
	if (record->offset >= pool->backing.own_size)
		transfer_finish(pool, &message->iovec, record->offset, sent);
	else if (sent)
		returned_note_sent(pool, record->offset);
	else if (sending->lent)
		buffer_put(iovec_entry(&message->iovec), 1);
}

/* Writes the records of the messages that go as such. Returns 0; or -errno, with none written. */
static int write_records(struct lane *lane, const struct evpl_message *messages,
			 const struct sending *sendings, int n)
{
	struct evpl_record few[FEW_RECORDS], *records = few;
	struct evpl_pool *pool = lane->pool;
	int err = 0, i, nr = 0;

	if (n > FEW_RECORDS) {
		records = malloc((size_t)n * sizeof(*records));
		if (!records)
			return -ENOMEM;
	}
	for (i = 0; i < n; i++) {
		if (!sendings[i].as_record)
			continue;
		err = record_make(pool, &messages[i], &records[nr++]);
		if (err)
			goto free_records;
	}
	for (i = 0, nr = 0; i < n; i++)
		if (sendings[i].as_record)
			prepare_record(pool, &messages[i], &sendings[i], &records[nr++]);
	if (nr && write(lane->fd, records, (size_t)nr * sizeof(*records)) < 0)
		err = -errno;
	for (i = 0, nr = 0; i < n; i++)
		if (sendings[i].as_record)
			finish_record(pool, &messages[i], &sendings[i], &records[nr++], !err);
	if (!err)
		lane->nr_records += (uint64_t)nr;
free_records:
	if (records != few)
		free(records);
	return err;
}

/*
 * Sends messages, of which some may go as records. The records are written before their entries are
 * there, so the peer finds the record of each entry.
 */
static int send_planned(struct lane *lane, const struct evpl_message *messages, int n)
{
	struct sending few[FEW_RECORDS], *sendings = few;
	struct own_ring ring;
	struct lent *lent;
	NO_CANCELLATION;
	int err, i;

	if (n > FEW_RECORDS) {
		sendings = malloc((size_t)n * sizeof(*sendings));
		if (!sendings)
			return -ENOMEM;
	}
	for (i = 0; i < n; i++)
		plan(lane, &messages[i], &sendings[i], (uint32_t)n);
	err = write_records(lane, messages, sendings, n);
	for (i = n; err && i--;)
		plan_cancel(&sendings[i]);
	if (err)
		goto free_sendings;

	ring = own_ring(lane);	/* plan() may have written entries as well */
	for (i = 0; i < n; i++) {
		lent = sendings[i].lent;
		if (!sendings[i].as_record) {
			write_message(ring, (uint32_t)i, lent_number(lane, lent), &messages[i]);
			lane->nr_sent++;
			lane->uncollected += COLLECT_LEAST + messages[i].iovec.length;
		} else {
			write_entry(ring, (uint32_t)i, LANE_RECORD,
				    lent ? lent_number(lane, lent) : LANE_NO_GRANT);
		}
		if (!lent)
			continue;
		lane->nr_lent += !lent->granted;
		lent->granted = true;
		lent_list(lane, lent);
	}
	publish(lane, ring, (uint32_t)n);
	ring_if_wanted(lane, LANE_IN, &lane->rang_in);
free_sendings:
	if (sendings != few)
		free(sendings);
	return err;
}

/*
 * The grant by which a message can go through the ring at once; or NULL: perhaps the program may not
 * send it, or it has to go as a record. A grant is of a buffer of the pool, with flags that are known.
 */
static inline struct lent *lent_of(struct lane *lane, const struct evpl_message *message)
{
	const struct evpl_iovec *iovec = &message->iovec;
	struct lent *lent;

	if (__builtin_expect(!iovec_entry(iovec) || iovec_is_inherited(iovec), 0))
		return NULL;
	lent = lent_find(lane, iovec_entry(iovec), message->flags);
	if (__builtin_expect(!lent || !is_in_buffer(lane, offset_of(iovec), iovec->length), 0))
		return NULL;
	return lent;
}

/*
 * Writes the entry of a message that can go through the ring. Returns false if it can't, or perhaps
 * not: then nothing has changed.
 */
static inline bool put_message(struct lane *lane, struct own_ring ring, uint32_t position,
			       const struct evpl_message *message)
{
	struct lent *lent = lent_of(lane, message);

	if (__builtin_expect(!lent, 0))
		return false;
	write_message(ring, position, lent_number(lane, lent), message);
	lent->outstanding++;
	lent_list(lane, lent);
	lane->uncollected += COLLECT_LEAST + message->iovec.length;
	return true;
}

/* Sends messages through the ring. Returns false, with none sent, if one of them can't go so. */
static bool send_through_ring(struct lane *lane, const struct evpl_message *messages, int n)
{
	struct own_ring ring = own_ring(lane);
	int i;

	for (i = 0; i < n; i++)
		if (!put_message(lane, ring, (uint32_t)i, &messages[i]))
			break;
	if (i == n) {
		lane->nr_sent += (uint64_t)n;
		publish(lane, ring, (uint32_t)n);
		ring_if_wanted(lane, LANE_IN, &lane->rang_in);
		return true;
	}
	/* No entry has appeared yet. A grant that stays listed does no harm. */
	while (i--)
		lent_of(lane, &messages[i])->outstanding--;
	return false;
}

/* The peer's end was bound or closed, or the lane has ended. Returns why nothing is sent, or 0. */
__attribute__((noinline))
static int look_at_peer(struct lane *lane, uint64_t ends)
{
	int err;

	if (!lane->send_error && end_has(lane, POLLHUP)) {
		stop_sending(lane);
		lane->send_error = -EPIPE;
	}
	err = atomic_load(&lane->error);
	if (!err)
		err = lane->send_error;
	/* Each send finds the error, as this is no count of the kernel's. */
	lane->ends = err ? UINT64_MAX : ends;
	return err;
}

/* Sends messages, all or none. Under @send_lock. */
static int send_locked(struct lane *lane, const struct evpl_message *messages, int n)
{
	uint64_t ends = ends_now(lane);
	int err = 0, room, i;

	if (ends != lane->ends)
		err = look_at_peer(lane, ends);
	if (err)
		return err;
	if (lane->uncollected >= COLLECT_BYTES)
		collect(lane, COLLECT_FEW);
	room = has_room(lane, (uint32_t)n);
	if (room > 0 && send_through_ring(lane, messages, n))
		return 0;
	for (i = 0; i < n; i++) {
		err = check_message(lane, &messages[i]);
		if (err)
			return err;
	}
	if (room <= 0)
		return room ? room : -EAGAIN;
	return send_planned(lane, messages, n);
}

/* Receiving. Under @recv_lock. */

/* Takes the peer's block, which a record has brought. */
static int take_block(struct lane *lane, const struct evpl_record *record,
		     const struct evpl_iovec *iovec)
{
	const struct lane_block *block = iovec->data;
	uint32_t nr_entries, nr_grants;
	uint64_t bytes;

	if (record->lease == EVPL_LEASE_NONE || record->offset & (record->buffer_size - 1) ||
	    record->length < sizeof(*block))
		return -EPROTO;
	nr_entries = *(const volatile uint32_t *)&block->nr_entries;
	nr_grants = *(const volatile uint32_t *)&block->nr_grants;
	bytes = sizeof(*block) + (uint64_t)nr_entries * sizeof(struct lane_entry) +
		(uint64_t)nr_grants * sizeof(uint32_t);
	if (block->magic != LANE_MAGIC || block->version != LANE_VERSION || !nr_entries ||
	    nr_entries & (nr_entries - 1) || nr_grants < WAYS || nr_grants & (nr_grants - 1) ||
	    bytes > record->length)
		return -EPROTO;
	if (nr_grants > LANE_GRANTS_MAX)
		nr_grants = LANE_GRANTS_MAX;
	lane->peer_ring = block->entries;
	lane->peer_mask = nr_entries - 1;
	lane->peer_grants = nr_grants;
	lane->peer_counts = lane_counts(block, nr_entries);
	lane->peer_iovec = *iovec;
	atomic_store_explicit(&lane->peer, block, memory_order_release);
	return 0;
}

/*
 * The peer's ring says what comes next. It may have rung for an entry before this end was quieted
 * for a message that had been read ahead. So the end is readable until the ring is found empty.
 */
static void start_receiving(struct lane *lane)
{
	lane->receiving = true;
	if (!(lane->flags & EVPL_CHANNEL_POLLING))
		doorbell(lane, EVPL_DOORBELL_IN, 0, EVPL_DOORBELL_SELF);
}

/* A record for the library: the peer's block, and later the sign that its ring says what comes. */
static int take_lane_record(struct lane *lane, const struct evpl_record *record)
{
	struct evpl_message message;
	int err = 0;

	record_take(lane->pool, record, &message);
	if (lane->receiving || record->flags & EVPL_RECORD_REVOKED)
		err = -EPROTO;
	else if (lane->peer)
		start_receiving(lane);
	else
		err = take_block(lane, record, &message.iovec);
	if (err || lane->receiving)
		evplmem_iovec_release(&message.iovec);
	return err;
}

/*
 * Reads one record. The library's own are taken, and 0 is returned for them; 1 for a message. The
 * caller has disabled cancellation.
 */
static int read_message(struct lane *lane, struct evpl_message *message)
{
	struct evpl_record record;
	int ret = records_read(lane->fd, &record, 1);

	if (ret < 0)
		return ret;
	if (record.flags & EVPL_RECORD_LANE)
		return take_lane_record(lane, &record);
	record_take(lane->pool, &record, message);
	return 1;
}

/*
 * Receives records until the peer says that the ring comes next, or for ever if it isn't a lane.
 * They are read one by one: the records behind that sign have entries.
 */
__attribute__((noinline))
static int receive_records(struct lane *lane, struct evpl_message *messages, int max)
{
	NO_CANCELLATION;
	int n = 0, ret = 0;

	while (n < max && !lane->receiving) {
		ret = read_message(lane, &messages[n]);
		if (ret < 0)
			break;
		n += ret;
	}
	return n ? n : ret;
}

/* Receives a message by a grant. Under @recv_lock, like the functions below. */
static inline void receive_slice(struct grant *grant, uint32_t offset, uint32_t length,
				 uint64_t cookie, struct evpl_message *message)
{
	message->iovec.data = grant->base + offset;
	message->iovec.length = length;
	message->iovec.__private2 = (unsigned long)grant;
	/* GCC would make vectors of neighbours among the fields, which takes longer. */
	atomic_signal_fence(memory_order_seq_cst);
	message->iovec.__private1 = fork_generation;
	message->cookie = cookie;
	message->flags = grant->flags;
	message->reserved = 0;
}

/* A message whose buffer was revoked goes back at once. */
static int receive_revoked(struct lane *lane, uint32_t number, uint64_t cookie,
			   struct evpl_message *message)
{
	struct grant *grant;

	if (number >= lane->nr_grants || !lane->grants[number])
		return -EPROTO;
	grant = lane->grants[number];
	if (grant != GRANT_REVOKED) {
		atomic_fetch_add(&grant->word, (1ULL << 32) + 1);
		grant_put(grant, CALLER());
	} else {
		atomic_fetch_add(&lane->counts[number], 1);
	}
	*message = (struct evpl_message){ .cookie = cookie, .flags = EVPL_MESSAGE_REVOKED };
	return 1;
}

/* Makes a grant of the lease that a record has brought. The record's reference is the grant's. */
static void grant_init(struct lane *lane, struct grant *grant, uint32_t number,
		       const struct evpl_record *record, struct evpl_message *message)
{
	struct entry *entry = iovec_entry(&message->iovec);
	uint32_t offset = (uint32_t)(record->offset & (record->buffer_size - 1));
	uint64_t taken = atomic_load(&lane->counts[number]) + 1;

	*grant = (struct grant){
		.number = number,
		.index = GRANT_INDEX,
		.lease = entry_lease(entry),
		.pool = lane->pool,
		.lane = lane,
		.base = (char *)message->iovec.data - offset,
		.size = record->buffer_size,
		.flags = message->flags,
	};
	atomic_store(&grant->word, taken << 32 | 1);
	atomic_fetch_add(&lane->refs, 1);
	lane->grants[number] = grant;
	receive_slice(grant, offset, record->length, record->cookie, message);
}

/* Receives the record that an entry stands for. */
static int receive_record(struct lane *lane, uint32_t number, struct evpl_message *message)
{
	struct grant *grant = NULL;
	struct evpl_record record;
	NO_CANCELLATION;
	int ret;

	if (number != LANE_NO_GRANT) {
		if (number >= lane->nr_grants || lane->grants[number])
			return -EPROTO;
		/* Before the record is read, which can't be undone. */
		grant = aligned_alloc(alignof(struct grant), sizeof(*grant));
		if (!grant)
			return -ENOMEM;
	}
	ret = records_read(lane->fd, &record, 1);
	if (ret == -EAGAIN || ret == -EPIPE)
		ret = -EPROTO;
	if (ret < 0)
		goto free_grant;
	record_take(lane->pool, &record, message);
	if (record.flags & EVPL_RECORD_REVOKED) {
		if (grant) {
			lane->grants[number] = GRANT_REVOKED;
			atomic_fetch_add(&lane->counts[number], 1);
		}
	} else if (record.flags & EVPL_RECORD_LANE ||
		   (grant && record.lease == EVPL_LEASE_NONE)) {
		evplmem_iovec_release(&message->iovec);
		ret = -EPROTO;
	} else if (grant) {
		grant_init(lane, grant, number, &record, message);
		return ret;
	}
free_grant:
	free(grant);
	return ret;
}

static int receive_take_back(struct lane *lane, uint32_t number)
{
	struct grant *grant;

	if (number >= lane->nr_grants || !lane->grants[number])
		return -EPROTO;
	grant = lane->grants[number];
	lane->grants[number] = NULL;
	if (grant != GRANT_REVOKED)
		grant_close(grant);
	return 0;
}

__attribute__((noinline))
static int receive_other(struct lane *lane, uint32_t kind, uint32_t number, uint64_t cookie,
			 struct evpl_message *message)
{
	switch (kind) {
	case LANE_RECORD:
		return receive_record(lane, number, message);
	case LANE_REVOKED:
		return receive_revoked(lane, number, cookie, message);
	case LANE_TAKE_BACK:
		return receive_take_back(lane, number);
	case LANE_MESSAGE:
		/* Of a grant that came as revoked. */
		if (number < lane->nr_grants && lane->grants[number] == GRANT_REVOKED)
			return receive_revoked(lane, number, cookie, message);
		break;
	}
	return -EPROTO;
}

/* The peer's entry behind @tail others, or NULL if it isn't there yet. */
static inline const struct lane_entry *entry_at(struct lane *lane, uint32_t tail)
{
	const struct lane_entry *entry = &lane->peer_ring[tail & lane->peer_mask];

	return atomic_load(&entry->turn) == tail + 1 ? entry : NULL;
}

/* Whether the peer's next entry is there. */
static inline bool has_entry(struct lane *lane)
{
	return entry_at(lane, lane->tail);
}

/*
 * Copies an entry out of the peer's ring, and checks the copy. Returns whether it is a message by a
 * grant. If it isn't, receive_other() looks at it anew.
 */
static inline bool receive_message(struct lane *lane, const struct lane_entry *entry,
				   struct evpl_message *message)
{
	uint32_t kind = atomic_load_explicit(&entry->kind, memory_order_relaxed);
	uint32_t number = atomic_load_explicit(&entry->grant, memory_order_relaxed);
	uint32_t offset = atomic_load_explicit(&entry->offset, memory_order_relaxed);
	uint32_t length = atomic_load_explicit(&entry->length, memory_order_relaxed);
	struct grant *grant;

	if (__builtin_expect(kind != LANE_MESSAGE || number >= lane->nr_grants, 0))
		return false;
	grant = lane->grants[number];
	if (__builtin_expect((uintptr_t)grant <= (uintptr_t)GRANT_REVOKED, 0))
		return false;
	/* That of an empty message is the greatest length of all here. */
	if (__builtin_expect((uint64_t)offset + (uint32_t)(length - 1) >= grant->size, 0))
		return false;
	receive_slice(grant, offset, length,
		      atomic_load_explicit(&entry->cookie, memory_order_relaxed), message);
	/* A message, and its reference. */
	atomic_fetch_add_explicit(&grant->word, (1ULL << 32) + 1, memory_order_relaxed);
	return true;
}

/* Receives what is in the ring. Returns how many messages, or -errno. The entry of an error stays. */
static int receive_entries(struct lane *lane, struct evpl_message *messages, int max)
{
	const struct lane_entry *entry;
	uint32_t tail = lane->tail;
	int n = 0, ret = -EAGAIN;

	while (n < max && (entry = entry_at(lane, tail))) {
		ret = 1;
		if (!receive_message(lane, entry, &messages[n]))
			ret = receive_other(lane, atomic_load(&entry->kind),
					    atomic_load(&entry->grant),
					    atomic_load(&entry->cookie), &messages[n]);
		if (ret < 0)
			break;
		n += ret;
		tail++;
	}
	if (tail != lane->tail) {
		lane->tail = tail;
		lane->nr_received += (uint64_t)n;
		atomic_store(&lane->block->taken, tail);
		ring_if_wanted(lane, LANE_OUT, &lane->rang_out);
	}
	if (n)
		return n;
	return ret ? ret : -EAGAIN;
}

/*
 * The ring is empty, and the other end was bound or closed. If it is closed, entries that it has
 * written meanwhile are received first.
 */
__attribute__((noinline))
static int receive_last(struct lane *lane, struct evpl_message *message)
{
	NO_CANCELLATION;
	int ret;

	if (!end_has(lane, POLLHUP))
		return -EAGAIN;
	if (has_entry(lane))
		return receive_entries(lane, message, 1);
	/* A record without an entry is of a batch that wasn't sent. */
	while ((ret = read_message(lane, message)) > 0)
		evplmem_iovec_release(&message->iovec);
	/* The peer has its buffers back when their iovecs here are released. */
	if (ret == -EPIPE)
		close_grants(lane);
	return ret;
}

/*
 * Wants a doorbell for the next message. Returns whether a message is there already. The end is quiet
 * first: a ring for the new number mustn't be quieted. A ring for an earlier number may come late,
 * so this is done each time that there is no message.
 *
 * The peer need not ring for messages that are there by then. So this end rings itself: its
 * descriptor stays readable if the program doesn't receive all of them.
 */
static bool arm(struct lane *lane)
{
	doorbell(lane, 0, EVPL_DOORBELL_IN, 0);
	want_doorbell(lane, LANE_IN);
	lane->armed = lane->flags & EVPL_CHANNEL_POLLING;
	if (lane->armed)
		lane->flows = false;
	if (!has_entry(lane))
		return false;
	doorbell(lane, EVPL_DOORBELL_IN, 0, EVPL_DOORBELL_SELF);
	return true;
}

/* A program that polls wants no doorbell any more. */
static void disarm(struct lane *lane)
{
	lane->armed = false;
	atomic_store_explicit(&lane->block->wants[LANE_IN], 0, memory_order_relaxed);
}

/*
 * Receives messages. The number of changes of ends is read before the ring is, as a peer that closes
 * its end may have written to the ring before.
 */
static int recv_locked(struct lane *lane, struct evpl_message *messages, int max)
{
	uint64_t ends;
	int ret;

	if (lane->stashed) {
		lane->stashed = false;
		messages[0] = lane->stash;
		doorbell(lane, 0, EVPL_DOORBELL_IN, 0);
		return 1;
	}
	if (!lane->receiving) {
		ret = receive_records(lane, messages, max);
		if (ret || !lane->receiving)
			return ret;
	}
	if (lane->armed)
		disarm(lane);
	lane->flows = lane->started;
	for (;;) {
		ends = ends_now(lane);
		ret = receive_entries(lane, messages, max);
		if (ret != -EAGAIN)
			return ret;
		if (ends != lane->recv_ends) {
			ret = receive_last(lane, messages);
			if (ret != -EAGAIN)
				return ret;
			lane->recv_ends = ends;
		}
		if (lane->flags & EVPL_CHANNEL_POLLING || !arm(lane))
			return -EAGAIN;
	}
}

/* Setting up. */

/*
 * Sends the own block: first for the peer to have it, then as the sign that the ring says what comes
 * next. Under @send_lock.
 */
static int send_block(struct lane *lane)
{
	struct evpl_message message = { .cookie = lane->block_sent };
	struct evpl_record record;
	int err;

	evplmem_iovec_clone(&message.iovec, &lane->own);
	err = record_make(lane->pool, &message, &record);
	if (err)
		goto release;
	record.flags |= EVPL_RECORD_LANE;
	transfer_prepare(lane->pool, &message.iovec, record.offset, false);
	if (write(lane->fd, &record, sizeof(record)) < 0) {
		err = -errno;
		goto release;
	}
	returned_note_sent(lane->pool, record.offset);
	return 0;
release:
	evplmem_iovec_release(&message.iovec);
	return err;
}

/*
 * Looks for the peer's block, for a program that only sends. If there is a message, it is kept for
 * the program to receive.
 */
static int look_for_block(struct lane *lane)
{
	int ret = 0;

	lock_take(&lane->recv_lock);
	while (!lane->peer && !lane->stashed && ret >= 0) {
		ret = read_message(lane, &lane->stash);
		lane->stashed = ret > 0;
	}
	/* The descriptor must be readable as long as there is a message. */
	if (lane->stashed)
		doorbell(lane, EVPL_DOORBELL_IN, 0, EVPL_DOORBELL_SELF);
	lock_leave(&lane->recv_lock);
	return ret == -EPROTO ? ret : 0;
}

/*
 * Goes on with the setting up, if the peer's end is a lane's. If @look, it looks for the peer's
 * block; a program that receives finds it anyway. Under @send_lock. It isn't an error if the peer
 * isn't there yet, or if there is no room for a record now: then the next call goes on.
 */
__attribute__((noinline))
static int set_up(struct lane *lane, bool look)
{
	uint64_t ends = ends_now(lane);
	NO_CANCELLATION;
	int err;

	if (!lane->block_sent && ends != lane->ends) {
		err = send_block(lane);
		lane->block_sent = !err;
		/* If the peer's end isn't a lane's, there is nothing to try until an end changes. */
		if (err == -EOPNOTSUPP || err == -EPIPE)
			lane->ends = ends;
	}
	if (!lane->block_sent)
		return 0;
	if (!peer_of(lane) && look) {
		err = look_for_block(lane);
		if (err)
			return err;
	}
	if (!peer_of(lane) || send_block(lane))
		return 0;
	lane->ends = UINT64_MAX;	/* the first send looks whether the peer is still there */
	atomic_store(&lane->started, true);
	return 0;
}

/* The calls of the library. */

/* The lane ends by an error, or because the program closes it. */
static void lane_stop(struct lane *lane, int error)
{
	atomic_store(&lane->error, error);
	lock_take(&lane->send_lock);
	stop_sending(lane);
	lock_leave(&lane->send_lock);

	lock_take(&lane->recv_lock);
	lane->flows = false;
	close_grants(lane);
	if (lane->stashed)
		evplmem_iovec_release(&lane->stash.iovec);
	lane->stashed = false;
	recv_leave(lane);
}

/*
 * Sends messages from a lane that may not be set up yet. Sets @ring_full if the result is -EAGAIN
 * because of the ring, and not of the kernel's channel.
 */
__attribute__((noinline))
static int send_once(struct lane *lane, const struct evpl_message *messages, int n,
		     bool *ring_full)
{
	int err;

	*ring_full = false;
	lock_take(&lane->send_lock);
	/* Another thread may have ended the lane. */
	err = atomic_load(&lane->error);
	if (!err && !lane->started)
		err = set_up(lane, true);
	if (!err && lane->started) {
		err = send_locked(lane, messages, n);
		*ring_full = err == -EAGAIN && !has_room(lane, (uint32_t)n);
	} else if (!err) {
		NO_CANCELLATION;

		err = records_send(lane->pool, lane->fd, messages, n);
	}
	lock_leave(&lane->send_lock);
	return err;
}

/*
 * Wants a doorbell for room. Returns whether there is room already, or the lane has ended. As in
 * arm(), the end is quiet first: the peer rings once for the number, also if that makes less room
 * than is needed.
 */
static bool arm_out(struct lane *lane, uint32_t n)
{
	bool room = true;

	lock_take(&lane->send_lock);
	if (!lane->send_error) {
		doorbell(lane, 0, EVPL_DOORBELL_OUT, 0);
		want_doorbell(lane, LANE_OUT);
		room = has_room(lane, n);
		if (room)
			doorbell(lane, EVPL_DOORBELL_OUT, 0, EVPL_DOORBELL_SELF);
	}
	lock_leave(&lane->send_lock);
	return room;
}

/*
 * Waits until the kernel's channel has room. poll(2) tells of room for one record, and a batch may
 * need more: so this pauses if the wait was in vain.
 */
static int wait_for_records(struct lane *lane, int tries)
{
	NO_CANCELLATION;

	if (tries && poll(NULL, 0, 1) < 0)
		return -errno;
	return end_wait(lane, POLLOUT);
}

/* Sends messages in all cases. Waits for room, if the program wants that. */
__attribute__((noinline))
static int send_anyhow(struct lane *lane, const struct evpl_message *messages, int n)
{
	int err, tries = 0;
	bool ring_full;

	if ((uint32_t)n > lane->capacity)
		return -EMSGSIZE;
	while ((err = send_once(lane, messages, n, &ring_full))) {
		if (err == -EPROTO) {
			lane_stop(lane, -EPROTO);
			return -EPROTO;
		}
		if (err != -EAGAIN || lane->flags & EVPL_CHANNEL_POLLING)
			return err;
		if (ring_full && arm_out(lane, (uint32_t)n))
			continue;
		if (!(lane->flags & EVPL_CHANNEL_BLOCKING))
			return err;
		err = ring_full ? end_wait(lane, POLLOUT) : wait_for_records(lane, tries++);
		if (err)
			return err;
	}
	returned_pull_if_awaited(lane->pool);
	return 0;
}

/* A message is in the ring, and something is left to do. Leaves @send_lock. */
__attribute__((noinline))
static int send_finish(struct lane *lane)
{
	ring_if_wanted(lane, LANE_IN, &lane->rang_in);
	lock_leave(&lane->send_lock);
	returned_pull_if_awaited(lane->pool);
	return 0;
}

/*
 * Sends messages. The usual case is a single one that goes through the ring when nothing else has
 * happened. This function does that by itself. It calls others only at its end, so it saves no
 * registers.
 */
int lane_send(struct lane *lane, const struct evpl_message *messages, int n)
{
	struct own_ring ring;

	if (n != 1 || !atomic_load_explicit(&lane->started, memory_order_relaxed) ||
	    !lock_try(&lane->send_lock))
		return send_anyhow(lane, messages, n);
	ring = own_ring(lane);
	if (__builtin_expect(ends_now(lane) != lane->ends, 0) ||
	    __builtin_expect(lane->uncollected >= COLLECT_BYTES, 0) ||
	    __builtin_expect(ring.head - lane->taken > ring.mask, 0) ||
	    __builtin_expect(!put_message(lane, ring, 0, messages), 0)) {
		lock_leave(&lane->send_lock);
		return send_anyhow(lane, messages, 1);
	}
	lane->nr_sent++;
	publish(lane, ring, 1);
	if (__builtin_expect(atomic_load(&peer_of(lane)->wants[LANE_IN]), 0) ||
	    __builtin_expect(atomic_load(&lane->pool->waiting) & WAITING, 0))
		return send_finish(lane);
	return lock_leave_only(&lane->send_lock) ? lock_wake(&lane->send_lock, 0) : 0;
}

/* A program that only receives sets its own direction up as well. */
static void set_up_to_send(struct lane *lane)
{
	if (lane->started)
		return;
	lock_take(&lane->send_lock);
	if (!lane->started && !atomic_load(&lane->error))
		set_up(lane, false);
	lock_leave(&lane->send_lock);
}

/* Receives messages by a lane that may not be set up yet. */
__attribute__((noinline))
static int recv_once(struct lane *lane, struct evpl_message *messages, int max)
{
	int ret;

	set_up_to_send(lane);
	lock_take(&lane->recv_lock);
	/* Another thread may have ended the lane. */
	ret = atomic_load_explicit(&lane->error, memory_order_relaxed);
	if (__builtin_expect(!ret, 1))
		ret = recv_locked(lane, messages, max);
	recv_leave(lane);
	/* The peer's block may have been among the records. */
	set_up_to_send(lane);
	return ret;
}

/* A message was received, and the peer may wait for room. Leaves @recv_lock. */
__attribute__((noinline))
static int recv_finish(struct lane *lane)
{
	ring_if_wanted(lane, LANE_OUT, &lane->rang_out);
	lock_leave(&lane->recv_lock);
	return 1;
}

/* Receives messages in all cases. Waits for one, if the program wants that. */
__attribute__((noinline))
static int recv_anyhow(struct lane *lane, struct evpl_message *messages, int max)
{
	int ret;

	while ((ret = recv_once(lane, messages, max)) <= 0) {
		if (ret == -EPROTO)
			lane_stop(lane, ret);
		if (ret != -EAGAIN || lane->flags & EVPL_CHANNEL_POLLING)
			return ret;
		/* The caller will wait. Release idle leases first, as their owners may wait too. */
		leases_flush(lane->pool);
		if (!(lane->flags & EVPL_CHANNEL_BLOCKING))
			return ret;
		ret = end_wait(lane, POLLIN);
		if (ret)
			return ret;
	}
	return ret;
}

/* Receives several messages, or none. Leaves @recv_lock. */
__attribute__((noinline))
static int recv_more(struct lane *lane, struct evpl_message *messages, int max)
{
	int ret = receive_entries(lane, messages, max);
	/* The ring was empty, and no end has changed. That is all if the program polls. */
	bool nothing = ret == -EAGAIN && lane->flags & EVPL_CHANNEL_POLLING &&
		       ends_now(lane) == lane->recv_ends;

	recv_leave(lane);
	return nothing || (ret != -EAGAIN && ret != -EPROTO) ? ret :
							      recv_anyhow(lane, messages, max);
}

/* Receives messages. As lane_send(), this does the usual case by itself. */
int lane_recv(struct lane *lane, struct evpl_message *messages, int max)
{
	const struct lane_entry *entry;
	uint32_t tail;

	if (!atomic_load_explicit(&lane->flows, memory_order_relaxed) || !lock_try(&lane->recv_lock))
		return recv_anyhow(lane, messages, max);
	tail = lane->tail;
	entry = entry_at(lane, tail);
	if (max != 1 || !entry || !receive_message(lane, entry, messages))
		return recv_more(lane, messages, max);
	lane->tail = tail + 1;
	lane->nr_received++;
	atomic_store(&lane->block->taken, tail + 1);
	if (__builtin_expect(atomic_load(&peer_of(lane)->wants[LANE_OUT]), 0))
		return recv_finish(lane);
	return lock_leave_only(&lane->recv_lock) ? lock_wake(&lane->recv_lock, 1) : 1;
}

int lane_arm(struct lane *lane)
{
	int ret = 0;

	lock_take(&lane->recv_lock);
	if (lane->stashed) {
		ret = -EBUSY;
	} else if (lane->receiving) {
		ret = arm(lane) ? -EBUSY : 0;
	}
	lock_leave(&lane->recv_lock);
	leases_flush(lane->pool);
	return ret;
}

int lane_stats(struct lane *lane, struct evpl_lane_stats *stats)
{
	struct evpl_lane_stats now = { .size = stats->size };

	if (stats->size < sizeof(stats->size))
		return -EINVAL;
	lock_take(&lane->send_lock);
	now.sending = lane->started;
	now.grants = lane->nr_lent;
	now.sent = lane->nr_sent;
	now.sent_as_records = lane->nr_records;
	lock_leave(&lane->send_lock);
	lock_take(&lane->recv_lock);
	now.receiving = lane->receiving;
	now.received = lane->nr_received;
	lock_leave(&lane->recv_lock);
	now.doorbells = atomic_load(&lane->doorbells);
	config_copy_out(stats, &now, sizeof(now));
	return 0;
}

/* Makes the own block, in a buffer of its own. */
static int make_block(struct lane *lane)
{
	struct evpl_pool *pool = lane->pool;
	struct lane_block *block;
	struct evpl *evpl;
	int ret;

	ret = evplmem_create(&evpl, pool, NULL);
	if (ret)
		return ret;
	ret = evplmem_buffer_alloc(evpl, &lane->own);
	evplmem_destroy(evpl);
	if (ret < 0)
		return ret;
	/* The peer sees all of the buffer. */
	block = lane->own.data;
	memset(block, 0, pool->buffer_size);
	block->magic = LANE_MAGIC;
	block->version = LANE_VERSION;
	block->nr_entries = lane->nr_entries;
	block->nr_grants = lane->nr_grants;
	lane->block = block;
	/* A program may poll the descriptor before it receives for the first time. */
	if (!(lane->flags & EVPL_CHANNEL_POLLING))
		want_doorbell(lane, LANE_IN);
	lane->counts = lane_counts(block, lane->nr_entries);
	return 0;
}

/* How many entries the ring of a block can have: half of a buffer of the pool. */
unsigned int lane_capacity_max(const struct evpl_pool *pool)
{
	size_t n = pool->buffer_size / 2 / sizeof(struct lane_entry);

	return n < EVPL_CHANNEL_CAPACITY_MAX ? (unsigned int)n : EVPL_CHANNEL_CAPACITY_MAX;
}

/**
 * lane_create() - make one side of a lane
 * @r_lane: where it goes
 * @pool: the pool that the end is bound to, with EVPL_BIND_LANE
 * @fd: the end; it stays the caller's until lane_close() is called
 * @capacity: of the channel
 * @flags: EVPL_CHANNEL_*
 *
 * Return: 0, or -errno.
 */
int lane_create(struct lane **r_lane, struct evpl_pool *pool, int fd, unsigned int capacity,
		unsigned int flags)
{
	struct sharing *sharing = pool_sharing(pool);
	size_t quarter = pool->buffer_size / 4 / sizeof(uint32_t);
	struct lane *lane;
	int err = -ENOMEM;

	lane = aligned_alloc(alignof(struct lane), sizeof(*lane));
	if (!lane)
		return -ENOMEM;
	*lane = (struct lane){
		.pool = pool,
		.fd = fd,
		.flags = flags,
		.capacity = capacity,
		.buffer_size = pool->buffer_size,
		.header = sharing->header,
		.nr_entries = 2,
		.nr_grants = quarter < LANE_GRANTS_MAX ? (uint32_t)quarter : LANE_GRANTS_MAX,
		.refs = 1,
		.ends = UINT64_MAX,
		.recv_ends = UINT64_MAX,
	};
	if (lane->capacity > lane_capacity_max(pool))
		lane->capacity = lane_capacity_max(pool);
	while (lane->nr_entries < lane->capacity)
		lane->nr_entries *= 2;
	lane->lent = calloc(LANE_GRANTS_MAX, sizeof(*lane->lent));
	lane->grants = calloc(lane->nr_grants, sizeof(struct grant *));
	if (lane->lent && lane->grants)
		err = make_block(lane);
	if (err) {
		lane_put(lane);
		return err;
	}
	pthread_mutex_lock(&lanes_lock);
	lane->next = sharing->lanes;
	lane->link = &sharing->lanes;
	if (lane->next)
		lane->next->link = &lane->next;
	__atomic_store_n(&sharing->lanes, lane, __ATOMIC_RELAXED);
	pthread_mutex_unlock(&lanes_lock);

	/* If the peer is there already, it need not wait for the first message. */
	lock_take(&lane->send_lock);
	set_up(lane, false);
	lock_leave(&lane->send_lock);
	*r_lane = lane;
	return 0;
}

/* Ends this side of a lane. Iovecs that came by it stay valid. The caller then closes the end. */
void lane_close(struct lane *lane)
{
	pthread_mutex_lock(&lanes_lock);
	__atomic_store_n(lane->link, lane->next, __ATOMIC_RELAXED);
	if (lane->next)
		lane->next->link = lane->link;
	pthread_mutex_unlock(&lanes_lock);
	lane_stop(lane, -EPIPE);
	lock_take(&lane->memory_lock);
	lane->closed_fd = true;
	lock_leave(&lane->memory_lock);
	lane_put(lane);
}

/* In the child of fork(2): another thread of the parent may have had the lock. */
void lanes_forget(void)
{
	pthread_mutex_init(&lanes_lock, NULL);
}

/* For all lanes of a pool. The caller holds no lock of a lane. */

/* A hint, without lanes_lock: whether the pool has a lane. */
static bool has_lanes(struct sharing *sharing)
{
	return sharing && __atomic_load_n(&sharing->lanes, __ATOMIC_RELAXED);
}

/* If the peer has gone, its messages come back by the kernel alone. Under @send_lock. */
static void notice_end(struct lane *lane)
{
	uint64_t ends = ends_now(lane);

	if (lane->started && ends != lane->ends)
		look_at_peer(lane, ends);
}

/*
 * Drops the references of messages that peers have returned, or of all of them if the peer has gone.
 * If the caller will @wait for memory, peers ring the doorbell for those that they return from now
 * on. Returns whether any came back.
 */
bool lanes_collect(struct evpl_pool *pool, bool wait)
{
	struct sharing *sharing = pool_sharing(pool);
	bool any = false, broken;
	struct lane *lane;

	if (!has_lanes(sharing))
		return false;
	pthread_mutex_lock(&lanes_lock);
	for (lane = sharing->lanes; lane; lane = lane->next) {
		lock_take(&lane->send_lock);
		notice_end(lane);
		if (wait && lane->first)
			want_doorbell(lane, LANE_MEMORY);
		any |= collect(lane, UINT32_MAX);
		broken = atomic_load(&lane->error) == -EPROTO;
		lock_leave(&lane->send_lock);
		if (broken)
			lane_stop(lane, -EPROTO);
	}
	pthread_mutex_unlock(&lanes_lock);
	return any;
}

/* The ring's entries of a grant, which the peer may not have taken yet, are of a revoked buffer. */
static void mark_revoked(struct lane *lane, uint32_t number)
{
	struct lane_entry *entry;
	uint32_t i;

	for (i = lane->taken; i != lane->head; i++) {
		entry = &lane->block->entries[i & (lane->nr_entries - 1)];
		if (atomic_load(&entry->kind) == LANE_MESSAGE &&
		    atomic_load(&entry->grant) == number)
			atomic_store(&entry->kind, LANE_REVOKED);
	}
}

/*
 * A buffer was revoked: its grants are worth nothing. The peer can't touch the buffer any more, so
 * the references of its messages are dropped. The counts still come. Then the grant is taken back.
 */
void lanes_revoked(struct evpl_pool *pool, struct entry *buffer)
{
	struct sharing *sharing = pool_sharing(pool);
	struct lane *lane;
	struct lent *lent;
	unsigned int i;

	if (!has_lanes(sharing))
		return;
	pthread_mutex_lock(&lanes_lock);
	for (lane = sharing->lanes; lane; lane = lane->next) {
		lock_take(&lane->send_lock);
		lent = lane->started ? lent_places(lane, buffer) : NULL;
		for (i = 0; lent && i < WAYS; i++, lent++) {
			if (lent->buffer != buffer)
				continue;
			mark_revoked(lane, lent_number(lane, lent));
			lent->buffer = NULL;
			if (lent->outstanding)
				buffer_put(buffer, lent->outstanding);
		}
		lock_leave(&lane->send_lock);
	}
	pthread_mutex_unlock(&lanes_lock);
}

/*
 * Takes the grants of a buffer back of which no message is outstanding; if @buffer is NULL, those of
 * all buffers that others have in another way too, and of revoked ones. Returns whether a message of
 * the buffer is outstanding, or there was no room to take it back.
 */
bool lanes_take_back(struct evpl_pool *pool, struct entry *buffer)
{
	struct sharing *sharing = pool_sharing(pool);
	bool left = false, wanted;
	struct lane *lane;
	struct lent *lent;
	uint32_t i;

	if (!has_lanes(sharing))
		return false;
	pthread_mutex_lock(&lanes_lock);
	for (lane = sharing->lanes; lane; lane = lane->next) {
		lock_take(&lane->send_lock);
		notice_end(lane);
		for (i = 0; lane->started && i < lane->peer_grants; i++) {
			lent = &lane->lent[i];
			if (buffer)
				wanted = lent->buffer == buffer;
			else
				wanted = !lent->buffer || entry_is_elsewhere(lent->buffer);
			if (!lent->granted || !wanted)
				continue;
			lent_collect(lane, lent);
			left |= lent->outstanding || !take_back(lane, lent);
		}
		lock_leave(&lane->send_lock);
	}
	pthread_mutex_unlock(&lanes_lock);
	return left;
}
