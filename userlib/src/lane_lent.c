// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * The grants that a side of a lane has given. The references of their messages are dropped here once
 * the peer has returned the messages. The functions for all lanes of a pool are at the end.
 */
#include "lane_internal.h"

#include <errno.h>
#include <string.h>

#include "context.h"

/* Under @send_lock. */

/*
 * Takes the peer's @count of a grant's returned messages, which isn't above the number that was sent,
 * and drops the references of those that it has returned since the last look.
 */
static inline void lent_collect(struct lent *lent, uint32_t count)
{
	uint32_t n = count - lent->seen;

	lent->seen = count;
	if (lent->buffer)
		buffer_put(lent->buffer, n);
}

/* Looks at up to @limit grants of which messages are outstanding. Returns whether any came back. */
bool lents_collect(struct lane *lane, uint32_t limit)
{
	uint32_t nr = lents_outstanding(lane), head = lane->queue_head, end, number, count;
	const _Atomic uint32_t *counts = lane->peer_counts;
	struct lent *lents = lane->lent, *lent;
	bool any = false;

	lane->uncollected = 0;
	for (end = head + (nr < limit ? nr : limit); head != end; head++) {
		number = lane->queue[head % LANE_GRANTS_MAX];
		lent = &lents[number];
		count = atomic_load(&counts[number]);
		if (__builtin_expect(count != lent->sent, 0)) {
			if (count - lent->seen > lent_outstanding(lent)) {
				atomic_store(&lane->error, -EPROTO);
				lane->ends = UINT64_MAX;
				break;
			}
			lent_queue(lane, lent);
			if (count == lent->seen)
				continue;
		}
		lent_collect(lent, count);
		any = true;
	}
	lane->queue_head = head;
	return any;
}

/*
 * The lane's messages come back no more. The references of those that the peer has returned are
 * dropped. The kernel decides when other buffers are free: the peer may live on, and have its leases.
 */
void lents_stop(struct lane *lane)
{
	uint32_t number, count;
	struct lent *lent;

	for (; lents_outstanding(lane); lane->queue_head++) {
		number = lane->queue[lane->queue_head % LANE_GRANTS_MAX];
		lent = &lane->lent[number];
		count = atomic_load(&lane->peer_counts[number]);
		if (count != lent->seen && count - lent->seen <= lent_outstanding(lent))
			lent_collect(lent, count);
		if (lent_outstanding(lent) && lent->buffer) {
			context_seal(lent->buffer);
			buffer_put(lent->buffer, lent_outstanding(lent));
		}
	}
	memset(lane->lent, 0, LANE_GRANTS_MAX * sizeof(*lane->lent));
	lane->nr_lent = 0;
	lane->ends = UINT64_MAX;
}

/* Takes a grant back of which no message is outstanding. Returns false if there is no room. */
static bool take_back(struct lane *lane, struct lent *lent)
{
	struct own_ring ring = own_ring(lane);

	if (has_room(lane, 1) <= 0)
		return false;
	write_entry(ring, 0, LANE_TAKE_BACK, lent->number);
	publish(lane, ring, 1);
	ring_if_wanted(lane, LANE_IN, &lane->rang_in);
	lent->buffer = NULL;
	lent->granted = false;
	lane->nr_lent--;
	return true;
}

/* A free place for a grant of @buffer, or NULL. Keeps room in the ring for @n entries. */
struct lent *lent_place(struct lane *lane, const struct entry *buffer, uint32_t n)
{
	struct lent *places = lent_places(lane, buffer), *lent;
	unsigned int i;

	for (i = 0; i < WAYS; i++)
		if (!places[i].granted && !places[i].buffer)
			return &places[i];
	for (i = 0; i < WAYS; i++) {
		lent = &places[lane->victim++ % WAYS];
		if (lent->granted && !lent_outstanding(lent))
			return has_room(lane, n + 1) > 0 && take_back(lane, lent) ? lent : NULL;
	}
	return NULL;
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
		send_look_at_peer(lane, ends);
}

/*
 * Drops the references of messages that peers have returned, and sets @any if there were some.
 * Returns a lane whose peer has broken the rules, with a reference that the caller owns; or NULL.
 */
static struct lane *collect_all(struct sharing *sharing, bool wait, bool *any)
{
	struct lane *lane, *broken = NULL;

	pthread_mutex_lock(&lanes_lock);
	for (lane = sharing->lanes; lane; lane = lane->next) {
		lock_take(&lane->send_lock);
		notice_end(lane);
		if (wait && lents_outstanding(lane))
			lane_want_doorbell(lane, LANE_MEMORY);
		*any |= lents_collect(lane, UINT32_MAX);
		if (!broken && !lane->stopped && atomic_load(&lane->error) == -EPROTO) {
			atomic_fetch_add(&lane->refs, 1);
			broken = lane;
		}
		lock_leave(&lane->send_lock);
	}
	pthread_mutex_unlock(&lanes_lock);
	return broken;
}

/*
 * Drops the references of messages that peers have returned, or of all of them if the peer has gone.
 * If the caller will @wait for memory, peers ring the doorbell for those that they return from now
 * on. Returns whether any came back.
 *
 * A broken lane is stopped without lanes_lock. That may end registrations with devices, whose
 * callbacks may allocate memory, and so come here.
 */
bool lanes_collect(struct evpl_pool *pool, bool wait)
{
	struct sharing *sharing = pool_sharing(pool);
	struct lane *broken;
	bool any = false;

	if (!has_lanes(sharing))
		return false;
	while ((broken = collect_all(sharing, wait, &any))) {
		lane_stop(broken, -EPROTO);
		lane_put(broken);
	}
	return any;
}

/* The ring's entries of a grant, which the peer may not have taken yet, are of a revoked buffer. */
static void mark_revoked(struct lane *lane, uint32_t number)
{
	struct lane_entry *entry;
	uint32_t i;

	for (i = lane->taken; i != lane->head; i++) {
		entry = &lane->own_ring[i & lane->own_mask];
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
			mark_revoked(lane, lent->number);
			lent->buffer = NULL;
			if (lent_outstanding(lent))
				buffer_put(buffer, lent_outstanding(lent));
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
		lents_collect(lane, UINT32_MAX);
		for (i = 0; lane->started && i <= lane->lent_mask; i++) {
			lent = &lane->lent[i];
			if (buffer)
				wanted = lent->buffer == buffer;
			else
				wanted = !lent->buffer || entry_is_elsewhere(lent->buffer);
			if (!lent->granted || !wanted)
				continue;
			left |= lent_outstanding(lent) || !take_back(lane, lent);
		}
		lock_leave(&lane->send_lock);
	}
	pthread_mutex_unlock(&lanes_lock);
	return left;
}
