// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Sending over a lane: messages go through the own ring by grants, or as records that make grants.
 */
#include "lane_internal.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include "cancel.h"
#include "record.h"
#include "returned.h"
#include "slab.h"
#include "transfer.h"

/*
 * A sender looks for returned messages once it has sent so many bytes. Each message counts as
 * COLLECT_LEAST more. The look takes the time of a message, as the peer has written its counts.
 */
#define COLLECT_BYTES	(2U << 20)
#define COLLECT_LEAST	(64U << 10)
/* How many grants it looks at then. */
#define COLLECT_FEW	32U

/* Under @send_lock. */

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

static inline void write_message(struct own_ring ring, uint32_t position, uint32_t grant,
				 const struct evpl_message *message)
{
	uint32_t offset = (uint32_t)offset_of(&message->iovec), length = message->iovec.length;
	struct lane_entry *entry = write_entry(ring, position, LANE_MESSAGE, grant);

	atomic_store_explicit(&entry->offset, offset, memory_order_relaxed);
	atomic_store_explicit(&entry->length, length, memory_order_relaxed);
	atomic_store_explicit(&entry->cookie, message->cookie, memory_order_relaxed);
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
	/* So it isn't taken back for a later message's buffer. */
	lent_count(lane, lent);
}

/* Undoes plan(). */
static void plan_cancel(struct lane *lane, struct sending *sending)
{
	struct lent *lent = sending->lent;

	if (!lent)
		return;
	lent_uncount(lane, lent);
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
		plan_cancel(lane, &sendings[i]);
	if (err)
		goto free_sendings;

	ring = own_ring(lane);	/* plan() may have written entries as well */
	for (i = 0; i < n; i++) {
		lent = sendings[i].lent;
		if (!sendings[i].as_record) {
			write_message(ring, (uint32_t)i, lent->number, &messages[i]);
			lane->nr_sent++;
			lane->uncollected += COLLECT_LEAST + messages[i].iovec.length;
		} else {
			write_entry(ring, (uint32_t)i, LANE_RECORD,
				    lent ? lent->number : LANE_NO_GRANT);
		}
		if (!lent)
			continue;
		lane->nr_lent += !lent->granted;
		lent->granted = true;
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

	if (iovec_is_odd(iovec))
		return NULL;
	lent = lent_find(lane, iovec_entry(iovec), message->flags);
	if (__builtin_expect(!lent || !is_in_buffer(lane, offset_of(iovec), iovec->length), 0))
		return NULL;
	return lent;
}

/* Writes the entry of a message that goes through the ring by a grant. */
static inline void put_message(struct lane *lane, struct own_ring ring, uint32_t position,
			       struct lent *lent, const struct evpl_message *message)
{
	write_message(ring, position, lent->number, message);
	lent_count(lane, lent);
	lane->uncollected += COLLECT_LEAST + message->iovec.length;
}

/* Sends messages through the ring. Returns false, with none sent, if one of them can't go so. */
static bool send_through_ring(struct lane *lane, const struct evpl_message *messages, int n)
{
	struct own_ring ring = own_ring(lane);
	struct lent *lent;
	int i;

	for (i = 0; i < n; i++) {
		lent = lent_of(lane, &messages[i]);
		if (__builtin_expect(!lent, 0))
			break;
		put_message(lane, ring, (uint32_t)i, lent, &messages[i]);
	}
	if (i == n) {
		lane->nr_sent += (uint64_t)n;
		publish(lane, ring, (uint32_t)n);
		ring_if_wanted(lane, LANE_IN, &lane->rang_in);
		return true;
	}
	/* No entry has appeared yet. */
	while (i--)
		lent_uncount(lane, lent_of(lane, &messages[i]));
	return false;
}

/* The peer's end was bound or closed, or the lane has ended. Returns why nothing is sent, or 0. */
__attribute__((noinline))
int send_look_at_peer(struct lane *lane, uint64_t ends)
{
	int err;

	if (!lane->send_error && lane_end_has(lane, POLLHUP)) {
		lents_stop(lane);
		lane->send_error = -EPIPE;
	}
	err = atomic_load(&lane->error);
	if (!err)
		err = lane->send_error;
	/* Each send finds the error, as this is no count of the kernel's. */
	lane->ends = err ? UINT64_MAX : ends;
	return err;
}

/*
 * Sends messages, all or none. Under @send_lock. Sets @ring_full if the result is -EAGAIN because of
 * the ring, and not of the kernel's channel.
 */
static int send_locked(struct lane *lane, const struct evpl_message *messages, int n,
		       bool *ring_full)
{
	uint64_t ends = ends_now(lane);
	int err = 0, room, i;

	if (ends != lane->ends)
		err = send_look_at_peer(lane, ends);
	if (err)
		return err;
	if (lane->uncollected >= COLLECT_BYTES)
		lents_collect(lane, COLLECT_FEW);
	room = has_room(lane, (uint32_t)n);
	if (room > 0 && send_through_ring(lane, messages, n))
		return 0;
	for (i = 0; i < n; i++) {
		err = check_message(lane, &messages[i]);
		if (err)
			return err;
	}
	if (room < 0)
		return room;
	/* The caller looks for room again only once the peer is to tell of it. */
	*ring_full = !room;
	if (!room)
		return -EAGAIN;
	return send_planned(lane, messages, n);
}

/* The caller doesn't hold @send_lock. */

/* Sends messages from a lane that may not be set up yet. @ring_full is as in send_locked(). */
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
		err = lane_set_up(lane, true);
	if (!err && lane->started) {
		err = send_locked(lane, messages, n, ring_full);
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
 *
 * A thread that needs less may sleep too, and have enough room by now. The doorbell that told it
 * may just have been quieted. So this end rings itself then. It is quiet once the caller comes again.
 */
static bool arm_out(struct lane *lane, uint32_t n)
{
	bool room = true;

	lock_take(&lane->send_lock);
	if (!lane->send_error && !atomic_load(&lane->error)) {
		lane_doorbell(lane, 0, EVPL_DOORBELL_OUT, 0);
		lane_want_doorbell(lane, LANE_OUT);
		room = has_room(lane, n);
		if (!lane->awaited || lane->awaited > n)
			lane->awaited = n;
		if (room || (lane->awaited < n && has_room(lane, lane->awaited))) {
			lane_doorbell(lane, EVPL_DOORBELL_OUT, 0, EVPL_DOORBELL_SELF);
			lane->awaited = 0;
		}
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
	return lane_end_wait(lane, POLLOUT);
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
		err = ring_full ? lane_end_wait(lane, POLLOUT) : wait_for_records(lane, tries++);
		if (err)
			return err;
	}
	returned_pull_if_awaited(lane->pool);
	return 0;
}

/* A message can't go through the ring at once, or perhaps not. Leaves @send_lock, and sends it. */
__attribute__((noinline))
static int send_otherwise(struct lane *lane, const struct evpl_message *message)
{
	lock_leave(&lane->send_lock);
	return send_anyhow(lane, message, 1);
}

/* A message is in the ring, and something is left to do. Leaves @send_lock. */
__attribute__((noinline))
static int send_finish(struct lane *lane)
{
	ring_if_wanted(lane, LANE_IN, &lane->rang_in);
	if (lane->uncollected >= COLLECT_BYTES)
		lents_collect(lane, COLLECT_FEW);
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
	struct lent *lent;

	if (n != 1 || !lock_try(&lane->send_lock))
		return send_anyhow(lane, messages, n);
	if (__builtin_expect(ends_now(lane) != lane->ends, 0))
		return send_otherwise(lane, messages);
	lent = lent_of(lane, messages);
	if (__builtin_expect(!lent || has_room(lane, 1) <= 0, 0))
		return send_otherwise(lane, messages);
	ring = own_ring(lane);
	put_message(lane, ring, 0, lent, messages);
	lane->nr_sent++;
	publish(lane, ring, 1);
	if (__builtin_expect(lane->uncollected >= COLLECT_BYTES, 0) ||
	    __builtin_expect(atomic_load(&peer_of(lane)->wants[LANE_IN]), 0) ||
	    __builtin_expect(atomic_load(&lane->pool->waiting) & WAITING, 0))
		return send_finish(lane);
	return lock_leave_only(&lane->send_lock) ? lock_wake(&lane->send_lock, 0) : 0;
}
