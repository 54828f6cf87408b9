// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Both ends of a lane without the module: see lanes.h.
 *
 * The ends are two pools of the anon back end, whose memory two processes share after
 * lanes_fork(). A socket carries the records. All else is the library's own code, as it is shipped.
 * This file has channel.c in it, to make an end without the module.
 *
 * The ends poll, so they ring no doorbells once they are set up. They are never closed: the program
 * ends.
 */
#include "../userlib/src/channel.c"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "lanes.h"

#define BUFFER	(64U << 10)
#define SLAB	(4U << 20)

int __real_records_read(int fd, struct evpl_record *records, int max);
int __wrap_records_read(int fd, struct evpl_record *records, int max);

static void need(int ok)
{
	if (!ok) {
		fprintf(stderr, "bench: a lane couldn't be set up\n");
		exit(1);
	}
}

/* Does for a record what the module does: the buffer that it names becomes a lease. */
int __wrap_records_read(int fd, struct evpl_record *records, int max)
{
	int n = __real_records_read(fd, records, max), i;

	for (i = 0; i < n; i++) {
		records[i].lease = (uint32_t)(records[i].offset / BUFFER);
		records[i].buffer_size = BUFFER;
	}
	return n;
}

static void *zeros(size_t length)
{
	void *memory = calloc(1, length);

	need(memory != NULL);
	return memory;
}

/* Opens a pool, with @n slices of @length bytes. Its memory is one slab. */
static struct evpl_pool *open_pool(unsigned int length, int n, struct evpl_iovec *iovecs)
{
	struct evpl_pool_config config = {
		.size = sizeof(config),
		.backend = EVPL_BACKEND_ANON,
		.buffer_size = BUFFER,
		.slab_size = SLAB,
		.max_bytes = SLAB,
	};
	struct evpl_pool *pool;
	struct evpl *evpl;

	need(!evpl_pool_open(&pool, &config) && !evpl_create(&evpl, pool, NULL));
	for (; n--; iovecs++)
		need(evpl_iovec_alloc_flags(evpl, length, 0, 1, EVPL_IOVEC_PRIVATE, iovecs) == 1);
	return pool;
}

/* Makes one end. The pool's window of leases is the memory of the other end's pool. */
static struct evpl_channel *make_end(struct evpl_pool *pool, int fd, void *guest)
{
	struct evpl_channel *channel = zeros(sizeof(*channel));
	struct sharing *sharing = zeros(sizeof(*sharing));

	sharing->guest[0] = guest;
	sharing->leases = aligned_alloc(alignof(struct lease), SLAB / BUFFER * sizeof(struct lease));
	need(sharing->leases != NULL);
	memset(sharing->leases, 0, SLAB / BUFFER * sizeof(struct lease));
	sharing->header = zeros(sizeof(*sharing->header));
	pool->backing.setup.out_guest_size = SLAB;
	atomic_store(&pool->sharing, sharing);
	*channel = (struct evpl_channel){ .pool = pool, .fd = fd };
	need(!lane_create(&channel->lane, pool, fd, 2 * LANES_BATCH,
			  EVPL_CHANNEL_LANE | EVPL_CHANNEL_POLLING));
	return channel;
}

/* Makes both ends, with @n slices of @length bytes each. */
void lanes_make(struct lanes *lanes, unsigned int length, int n)
{
	struct evpl_lane_stats stats = EVPL_LANE_STATS_INIT;
	struct evpl_message messages[LANES_BATCH];
	struct evpl_pool *pools[2];
	int fds[2], i;

	for (i = 0; i < 2; i++) {
		pools[i] = open_pool(length, n, lanes->iovecs[i]);
		lanes->memory[i] = iovec_slab(lanes->iovecs[i])->extent.base;
	}
	lanes->n = n;
	lanes->length = SLAB;
	need(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds));
	for (i = 0; i < 2; i++)
		lanes->channels[i] = make_end(pools[i], fds[i], lanes->memory[!i]);
	/* Each end takes the other's block. The first has a look at the answer as well. */
	for (i = 0; i < 3; i++)
		need(evpl_channel_recv(lanes->channels[i % 2], messages, 1) == -EAGAIN);
	/* The first message of a buffer goes as a record. */
	for (i = 0; i < 2; i++) {
		lanes_send(lanes, i, messages, n);
		lanes_receive(lanes, !i, messages, n);
		need(!evpl_lane_stats(lanes->channels[i], &stats) && stats.grants == (uint64_t)n);
	}
}

/* Like fork(2), but the library doesn't notice: the child goes on with an end, by itself. */
pid_t lanes_fork(void)
{
	return _Fork();
}

/* Makes messages of an end's slices in turn. */
void lanes_fill(struct lanes *lanes, int end, struct evpl_message *messages, int n)
{
	int i;

	for (i = 0; i < n; i++) {
		evpl_iovec_clone(&messages[i].iovec, &lanes->iovecs[end][i % lanes->n]);
		messages[i].cookie = 0;
		messages[i].flags = 0;
	}
}

/* Sends @n messages at once from an end. @messages is scratch. */
void lanes_send(struct lanes *lanes, int end, struct evpl_message *messages, int n)
{
	lanes_fill(lanes, end, messages, n);
	lanes_send_filled(lanes, end, messages, n);
}

void lanes_send_filled(struct lanes *lanes, int end, struct evpl_message *messages, int n)
{
	need(!evpl_channel_send(lanes->channels[end], messages, n));
}

/* Polls an end until it has received @n messages, and releases them. */
void lanes_receive(struct lanes *lanes, int end, struct evpl_message *messages, int n)
{
	int got, i;

	while (n) {
		got = evpl_channel_recv(lanes->channels[end], messages, n);
		if (got == -EAGAIN)
			continue;
		need(got > 0);
		for (i = 0; i < got; i++)
			evpl_iovec_release(&messages[i].iovec);
		n -= got;
	}
}
