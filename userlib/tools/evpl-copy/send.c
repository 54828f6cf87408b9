// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * The sender. A chunk is read, waits for a credit, and is sent. Its op is freed when the
 * chunk is in the receiver's memory. At most --depth chunks are under way.
 */
#include <arpa/inet.h>
#include <endian.h>
#include <string.h>

#include "copy.h"

/**
 * struct sender - the sender's state
 * @length: how many bytes to send
 * @chunks: how many chunks these are
 * @started: how many chunks have been started to be read
 * @posted: how many chunks have been posted
 * @under_way: how many chunks have an op
 * @ready: chunks that were read and wait to be posted
 * @ended: END was posted
 */
struct sender {
	uint64_t length;
	uint32_t chunks;
	uint32_t started;
	uint32_t posted;
	unsigned int under_way;
	struct queue ready;
	bool ended;
};

static void start_chunk(struct copy *copy)
{
	struct sender *sender = copy->private;
	unsigned int chunk = copy->options.chunk;
	struct op *op = op_alloc(copy, OP_CHUNK, chunk);
	uint64_t left;

	op->number = sender->started++;
	left = sender->length - (uint64_t)op->number * chunk;
	op->length = left < chunk ? (unsigned int)left : chunk;
	sender->under_way++;
	disk_start(copy, op);
}

static void chunk_read(struct copy *copy, struct op *op)
{
	struct sender *sender = copy->private;

	queue_push(&sender->ready, op);
}

/* Whether --rate allows another chunk by now. */
static bool may_send(const struct copy *copy)
{
	const struct sender *sender = copy->private;

	if (copy->options.rate == UINT64_MAX)
		return true;
	return (double)sender->posted * copy->options.chunk <=
	       (now() - copy->progress.start) * (double)copy->options.rate;
}

static void pump(struct copy *copy)
{
	struct sender *sender = copy->private;
	struct op *op;

	while (sender->started < sender->chunks && sender->under_way < copy->options.depth)
		start_chunk(copy);
	while (copy->conn.credits && may_send(copy) && (op = queue_pop(&sender->ready))) {
		post_chunk(copy, op);
		sender->posted++;
	}
	if (!sender->ended && sender->posted == sender->chunks && copy->conn.credits) {
		post_message(copy, MESSAGE_END, 0, sender->length);
		sender->ended = true;
	}
}

/* An op has arrived: the receiver's device has acknowledged it. */
static void sent(struct copy *copy, struct op *op)
{
	struct sender *sender = copy->private;

	if (op->kind == OP_CHUNK) {
		sender->under_way--;
		progress_add(copy, op->length);
	}
	op_free(op);
}

/* Handles a message. The receive is posted again before the credits are used: see wire.h. */
static void received(struct copy *copy, struct op *op, const struct ibv_wc *wc)
{
	struct sender *sender = copy->private;
	struct message message;

	if (wc->byte_len != sizeof(message))
		die(copy, "The receiver talks nonsense.");
	memcpy(&message, op->iovec.data, sizeof(message));
	post_receive(copy, op);

	switch (ntohl(message.type)) {
	case MESSAGE_CREDITS:
		copy->conn.credits += ntohl(message.count);
		break;
	case MESSAGE_DONE:
		if (!sender->ended || be64toh(message.length) != sender->length)
			die(copy, "The receiver says that it is done, and isn't.");
		copy->finished = true;
		break;
	case MESSAGE_FAILED:
		copy->conn.up = false;
		message.why[sizeof(message.why) - 1] = '\0';
		die(copy, "The receiver has failed: %s", message.why);
	default:
		die(copy, "The receiver talks nonsense.");
	}
}

void copy_send(struct copy *copy)
{
	struct sender sender = { 0 };
	struct hello hello = {
		.chunk = copy->options.chunk,
		.credits = copy->options.depth,
	};
	uint64_t chunks;
	unsigned int i;

	copy->private = &sender;
	copy->completed = chunk_read;
	copy->sent = sent;
	copy->received = received;

	memory_open(copy);
	disk_open_source(copy);
	sender.length = copy->disk.length;
	if (copy->options.size != UINT64_MAX) {
		if (copy->options.size > sender.length)
			die(copy, "%s has %llu bytes only. Give a smaller --size.", copy->disk.path,
			    (unsigned long long)sender.length);
		sender.length = copy->options.size;
	}
	chunks = (sender.length + hello.chunk - 1) / hello.chunk;
	if (chunks > UINT32_MAX)
		die(copy, "%s is too long for chunks of %u bytes. Give a larger --chunk.",
		    copy->disk.path, hello.chunk);
	sender.chunks = (uint32_t)chunks;
	hello.length = sender.length;

	connection_resolve(copy);
	memory_register(copy);
	for (i = 0; i < copy->options.depth + SPARE / 2; i++)
		post_receive(copy, op_alloc(copy, OP_MESSAGE, sizeof(struct message)));
	connection_connect(copy, &hello);

	progress_start(copy, sender.length);
	loop_run(copy, pump);
	progress_end(copy);
}
