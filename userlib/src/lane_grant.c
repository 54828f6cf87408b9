// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * The grants that a side of a lane has received: their references, and the return of their messages.
 *
 * A thread that returns the last message of a grant takes no lock. It writes its count before it
 * drops its reference. The grant has a reference on the lane, so neither goes before that.
 */
#include "lane_internal.h"

#include <stdlib.h>

/* Ends a received grant that has no reference any more. */
__attribute__((noinline))
void grant_end(struct grant *grant)
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
void grant_close(struct grant *grant)
{
	struct lane *lane = grant->lane;

	if ((uint32_t)atomic_fetch_or(&grant->word, GRANT_CLOSED))
		return;
	grant->next = lane->closed;
	lane->closed = grant;
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
		lane_doorbell(lane, EVPL_DOORBELL_MEMORY, 0, 0);
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
