/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPL_LANES_H
#define EVPL_LANES_H

/*
 * Both ends of a lane without the module, for what the library's own code costs. See lanes.c.
 */

#include <stddef.h>
#include <sys/types.h>

#include <evplmem.h>

/* How many messages are sent at once at most. */
#define LANES_BATCH 32

/**
 * struct lanes - both ends of a lane
 * @channels: the ends, set up so that each sends through its ring
 * @iovecs: slices of each end's pool, each in a buffer of its own, of which the other end has a grant
 * @n: how many slices each end has
 * @memory: all memory of each pool
 * @length: bytes of that
 */
struct lanes {
	struct evpl_channel *channels[2];
	struct evpl_iovec iovecs[2][LANES_BATCH];
	int n;
	void *memory[2];
	size_t length;
};

void lanes_make(struct lanes *lanes, unsigned int length, int n);
pid_t lanes_fork(void);
void lanes_fill(struct lanes *lanes, int end, struct evpl_message *messages, int n);
void lanes_send_filled(struct lanes *lanes, int end, struct evpl_message *messages, int n);
void lanes_send(struct lanes *lanes, int end, struct evpl_message *messages, int n);
void lanes_receive(struct lanes *lanes, int end, struct evpl_message *messages, int n);

#endif /* EVPL_LANES_H */
