// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Receiving over a lane: records of the channel, then what is in the peer's ring.
 */
#include "lane_internal.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>

#include "cancel.h"
#include "record.h"

/* Under @recv_lock. */

/* No message comes by a grant of the lane any more. */
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
	lane->lent_mask = nr_grants - 1;
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
		lane_doorbell(lane, EVPL_DOORBELL_IN, 0, EVPL_DOORBELL_SELF);
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

/* Receives a message by a grant. */
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

	if (!lane_end_has(lane, POLLHUP))
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
	lane_doorbell(lane, 0, EVPL_DOORBELL_IN, 0);
	lane_want_doorbell(lane, LANE_IN);
	lane->armed = lane->flags & EVPL_CHANNEL_POLLING;
	if (lane->armed)
		lane->flows = false;
	if (!has_entry(lane))
		return false;
	lane_doorbell(lane, EVPL_DOORBELL_IN, 0, EVPL_DOORBELL_SELF);
	return true;
}

/*
 * The peer has no reason to ring before its ring says what comes next. If it has rung all the
 * same, the end mustn't stay readable for ever. start_receiving() makes up for a doorbell that is
 * quieted here.
 */
static void quiet_early(struct lane *lane)
{
	lane_doorbell(lane, 0, EVPL_DOORBELL_IN, 0);
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
		lane_doorbell(lane, 0, EVPL_DOORBELL_IN, 0);
		return 1;
	}
	if (!lane->receiving) {
		ret = receive_records(lane, messages, max);
		if (ret == -EAGAIN && !(lane->flags & EVPL_CHANNEL_POLLING))
			quiet_early(lane);
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

/* The caller doesn't hold @recv_lock. */

/*
 * Looks for the peer's block, for a program that only sends. If there is a message, it is kept for
 * the program to receive.
 */
int recv_look_for_block(struct lane *lane)
{
	int ret = 0;

	lock_take(&lane->recv_lock);
	while (!lane->peer && !lane->stashed && ret >= 0) {
		ret = read_message(lane, &lane->stash);
		lane->stashed = ret > 0;
	}
	/* The descriptor must be readable as long as there is a message. */
	if (lane->stashed)
		lane_doorbell(lane, EVPL_DOORBELL_IN, 0, EVPL_DOORBELL_SELF);
	lock_leave(&lane->recv_lock);
	return ret == -EPROTO ? ret : 0;
}

/* The lane has ended: nothing is received any more. */
void recv_stop(struct lane *lane)
{
	lock_take(&lane->recv_lock);
	lane->flows = false;
	close_grants(lane);
	if (lane->stashed)
		evplmem_iovec_release(&lane->stash.iovec);
	lane->stashed = false;
	recv_leave(lane);
}

/* A program that only receives sets its own direction up as well. */
static void set_up_to_send(struct lane *lane)
{
	if (lane->started)
		return;
	lock_take(&lane->send_lock);
	if (!lane->started && !atomic_load(&lane->error))
		lane_set_up(lane, false);
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
		ret = lane_end_wait(lane, POLLIN);
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
	if (lane->stashed || atomic_load(&lane->error)) {
		ret = -EBUSY;
	} else if (lane->receiving) {
		ret = arm(lane) ? -EBUSY : 0;
	} else {
		quiet_early(lane);
	}
	lock_leave(&lane->recv_lock);
	leases_flush(lane->pool);
	return ret;
}
