/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPL_COPY_WIRE_H
#define EVPL_COPY_WIRE_H

/*
 * The protocol between the two ends. All numbers are in network byte order.
 *
 * The sender connects with a hello, and is accepted with a welcome or rejected with
 * a refusal, in the connection manager's private data. A chunk of the file is a SEND
 * with its number as immediate data; it starts at number * chunk in the file. A SEND
 * without immediate data is a message.
 *
 * Flow control: each SEND of the sender, chunk or message, uses up one credit. The
 * welcome gives the first credits, one for each receive that is posted. The receiver
 * gives one more for each receive that it has posted again. So it never has more
 * CREDITS messages under way than there are credits, and the sender keeps receives
 * posted for all of them.
 *
 * When the whole file is sent, the sender sends END. When it is written and durable,
 * the receiver sends DONE, and the sender disconnects.
 */

#include <stdint.h>

#define WIRE_MAGIC	0x6576706c636f7079ULL	/* "evplcopy" */
#define WIRE_VERSION	1U

struct hello {
	uint64_t magic;
	uint32_t version;
	uint32_t chunk;
	uint64_t length;	/* of the whole file */
	uint32_t credits;	/* the most that the receiver may give */
	uint32_t reserved;
};

struct welcome {
	uint64_t magic;
	uint32_t version;
	uint32_t credits;
};

struct refusal {
	uint64_t magic;
	char why[132];
};

enum message_type {
	MESSAGE_END	= 1,	/* length: the bytes that were sent */
	MESSAGE_CREDITS	= 2,	/* count */
	MESSAGE_DONE	= 3,	/* length: the bytes that were written */
	MESSAGE_FAILED	= 4,	/* why */
};

struct message {
	uint32_t type;
	uint32_t count;
	uint64_t length;
	char why[240];
};

#endif /* EVPL_COPY_WIRE_H */
