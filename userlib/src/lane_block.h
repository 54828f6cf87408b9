/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_LANE_BLOCK_H
#define EVPLMEM_LANE_BLOCK_H

/*
 * Lanes: channels whose messages mostly pass through shared memory, without a system call.
 *
 * Each side of a lane has a *block*: a buffer of its own pool, which the other side has by a
 * read-only lease. So a side writes to its own block alone. A block has
 *
 *  - a ring of entries, by which the side sends. An entry says with its turn that it is there;
 *    the receiver needs no index of the sender's.
 *  - @taken: how many entries of the peer's ring the side has copied out.
 *  - @returned: for each grant, how many of the messages that came by it the side has returned:
 *    nothing in its process uses them any more.
 *  - @wants: what the side wants a doorbell for.
 *
 * A buffer that goes over a lane for the first time goes as a record of the channel. An entry of
 * the ring, LANE_RECORD, stands for the record: so messages stay in order. The receiver keeps the
 * lease. That is a *grant*, and the sender has chosen its number. From then on an entry,
 * LANE_MESSAGE, names the grant, an offset and a length. LANE_TAKE_BACK ends a grant.
 *
 * The sender keeps the reference of each message, and counts for each grant how many are
 * outstanding. It drops them as @returned goes up. The kernel's share is in the word of a granted
 * buffer (EVPL_WORD_SHARED) until the kernel has ended all leases on the buffer. If nothing but
 * that is in the word, the buffer may be used again, because the receiver has returned all that it
 * got. A buffer that others have in another way too isn't used again before the kernel's share is
 * gone. It is sealed (struct entry) if this process sent it so. If the receiver did, the kernel has
 * set EVPL_WORD_PASSED_ON in its word. When a lane ends, its sender seals the buffers of which
 * messages are outstanding, then drops these references. So the kernel decides when they are free:
 * not while the receiver, which may live on, has its leases.
 *
 * Nothing in the peer's block is believed. Each function copies what it needs of an entry, and checks
 * and uses the copy alone.
 * The peer can revoke its block at any time. A lane is made only in a pool that then finds zeros
 * there (EVPL_POOL_ZEROS). A peer that breaks the rules ends the lane: -EPROTO.
 *
 * Setting up. Both ends are bound with EVPL_BIND_LANE. At first a lane is a channel: messages go as
 * records alone. A side that finds the peer's end to be a lane's sends its block in a record with
 * EVPL_RECORD_LANE. Once it has the peer's block too, it sends such a record again, which says
 * that from now on the ring says what comes next. If the peer isn't a lane, this remains a channel.
 *
 * Sleeping. A side that is about to sleep sets a new number in @wants, then looks once more for what
 * it waits for. The peer writes its entry, @taken or @returned, then looks at @wants. All four
 * accesses are seq_cst. So the side finds what it waits for, or the peer sees the number and rings
 * the doorbell (EVPL_DOORBELL), once for each number. The doorbell stays rung until the side quiets
 * it. It does so before it sets the next number: a ring that is quieted was for an earlier one.
 *
 * A batch of entries appears at once: the turn of its first entry is written last.
 *
 * Death. When the other end is closed, the kernel says so (evpl_header.ends, poll(2)). The receiver
 * takes the entries that are left in the ring. A batch whose first turn isn't there was never sent: if
 * the sender died between its records and its entries, the receiver drops the records.
 */

#include <stdalign.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define LANE_MAGIC	0x656e616cU	/* "lane" */
#define LANE_VERSION	1U

/* How many grants a side takes at most. */
#define LANE_GRANTS_MAX	1024U
/* In a LANE_RECORD: the receiver doesn't keep the lease. */
#define LANE_NO_GRANT	UINT32_MAX

/* The kinds of entries. */
enum lane_kind {
	LANE_MESSAGE = 1,	/* a slice of a granted buffer */
	LANE_REVOKED,		/* LANE_MESSAGE, but the buffer was revoked on the way */
	LANE_RECORD,		/* the channel's next record; its lease becomes the grant */
	LANE_TAKE_BACK,		/* the grant ends; no message of it is outstanding */
};

/**
 * struct lane_entry - an entry of a ring
 * @turn: 1 + how many entries were written before, modulo 2^32; 0 at first
 * @kind: enum lane_kind
 * @grant: the number of the grant, or LANE_NO_GRANT
 * @offset: of the slice, in the granted buffer
 * @length: of the slice
 * @cookie: as in &struct evpl_message
 */
struct lane_entry {
	_Atomic uint32_t turn;
	_Atomic uint32_t kind;
	_Atomic uint32_t grant;
	_Atomic uint32_t offset;
	_Atomic uint32_t length;
	uint32_t reserved;
	_Atomic uint64_t cookie;
};

/* The events that a side can want a doorbell for: the numbers of the bits of EVPL_DOORBELL. */
enum lane_want {
	LANE_IN,	/* an entry in the peer's ring */
	LANE_OUT,	/* room in the own ring */
	LANE_MEMORY,	/* messages that the peer has returned */
	NR_LANE_WANTS
};

/**
 * struct lane_block - what a side shows the other
 * @magic: LANE_MAGIC
 * @version: LANE_VERSION
 * @nr_entries: of the ring: a power of two
 * @nr_grants: how many grants the side takes, and keeps counts for: a power of two, at least 4
 * @wants: by enum lane_want: 0, or a number that differs from the last one
 * @taken: entries of the peer's ring that the side has copied out, modulo 2^32
 * @entries: the ring; behind it are @nr_grants counts of returned messages, 32 bits each
 *
 * The fields that change have cache lines of their own.
 */
struct lane_block {
	uint32_t magic;
	uint32_t version;
	uint32_t nr_entries;
	uint32_t nr_grants;
	alignas(64) _Atomic uint32_t wants[NR_LANE_WANTS];
	alignas(64) _Atomic uint32_t taken;
	alignas(64) struct lane_entry entries[];
};

/* The counts of a block with @nr_entries entries. */
static inline _Atomic uint32_t *lane_counts(const struct lane_block *block, uint32_t nr_entries)
{
	return (_Atomic uint32_t *)((uintptr_t)block + offsetof(struct lane_block, entries) +
				    nr_entries * sizeof(struct lane_entry));
}

#endif /* EVPLMEM_LANE_BLOCK_H */
