/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_LANE_H
#define EVPLMEM_LANE_H

/*
 * Lanes, for the rest of the library. lane_block.h describes the protocol, and lane_internal.h the
 * side of a lane that this process is.
 */

#include "lease.h"
#include "sharing.h"

struct evpl_lane_stats;
struct evpl_message;
struct lane;

/* The index in all grants, which no lease has. */
#define GRANT_INDEX	UINT32_MAX

/* In the lower half of a grant's word: the lane has ended the grant. */
#define GRANT_CLOSED	(1U << 30)

/**
 * struct grant - a granted buffer, as its receiver has it
 * @word: lower half: the references that iovecs of this process have by the grant, and
 *	GRANT_CLOSED; upper half: how many messages came by the grant
 * @owner: NULL, as of a lease
 * @number: the number of the grant
 * @index: GRANT_INDEX
 * @slab: NULL, as of a lease
 * @lease: the lease, of which the grant has a reference
 * @pool: the pool that received it, as of a lease
 * @next: the next closed grant; see recv_leave()
 * @released: as of a buffer's entry
 * @lane: the lane, of which the grant has a reference
 * @base: the buffer's first byte
 * @size: the buffer's bytes
 * @flags: of the grant's messages: EVPL_MESSAGE_*
 *
 * Iovecs of messages that came through the ring hold the address of one. The fields that it has in
 * common with struct lease are at the same places.
 */
struct grant {
	alignas(64) _Atomic uint64_t word;
	struct evplmem_thread *_Atomic owner;
	uint32_t number;
	uint32_t index;
	struct slab *slab;
	struct lease *lease;
	struct evpl_pool *pool;
	struct grant *next;
	void *_Atomic released;
	struct lane *lane;
	char *base;
	uint32_t size;
	uint32_t flags;
} __attribute__((may_alias));

_Static_assert(offsetof(struct grant, index) == offsetof(struct lease, index) &&
	       offsetof(struct grant, slab) == offsetof(struct lease, slab) &&
	       offsetof(struct grant, pool) == offsetof(struct lease, pool) &&
	       offsetof(struct grant, released) == offsetof(struct lease, released),
	       "what functions use of both");

/* Of an entry that has no slab and isn't foreign. */
static inline bool entry_is_grant(const struct entry *entry)
{
	return entry->index == GRANT_INDEX;
}

static inline struct grant *entry_grant(const struct entry *entry)
{
	return (struct grant *)entry;
}

/* The lease of an entry that has no slab and isn't foreign, whether it is a lease or a grant. */
static inline struct lease *entry_any_lease(const struct entry *entry)
{
	return entry_is_grant(entry) ? entry_grant(entry)->lease : entry_lease(entry);
}

void grant_put(struct grant *grant, void *site);

unsigned int lane_capacity_max(const struct evpl_pool *pool);
int lane_create(struct lane **r_lane, struct evpl_pool *pool, int fd, unsigned int capacity,
		unsigned int flags);
void lane_close(struct lane *lane);
int lane_send(struct lane *lane, const struct evpl_message *messages, int n);
int lane_recv(struct lane *lane, struct evpl_message *messages, int max);
int lane_arm(struct lane *lane);
int lane_stats(struct lane *lane, struct evpl_lane_stats *stats);

void lanes_forget(void);
bool lanes_collect(struct evpl_pool *pool, bool wait);
void lanes_revoked(struct evpl_pool *pool, struct entry *buffer);
bool lanes_take_back(struct evpl_pool *pool, struct entry *buffer);

#endif /* EVPLMEM_LANE_H */
