// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * The receiver. A chunk arrives in an iovec, and is written to disk from there. Then another
 * iovec is posted in its stead, which is a credit for the sender. When the target is durable,
 * the receiver sends DONE.
 */
#include <arpa/inet.h>
#include <endian.h>
#include <string.h>

#include "copy.h"

/**
 * struct receiver - the receiver's state
 * @length: how many bytes come
 * @chunks: how many chunks these are
 * @credits: how many receives are posted, or have a chunk in their memory
 * @owed: credits that the sender hasn't been told of yet
 * @written: how many bytes are written
 * @ended: END has arrived
 * @sync: the op that makes the target durable; NULL before it starts
 */
struct receiver {
	uint64_t length;
	uint32_t chunks;
	unsigned int credits;
	unsigned int owed;
	uint64_t written;
	bool ended;
	struct op *sync;
};

static void start_receive(struct copy *copy)
{
	post_receive(copy, op_alloc(copy, OP_CHUNK, copy->options.chunk));
}

static void receive_chunk(struct copy *copy, struct op *op, const struct ibv_wc *wc)
{
	struct receiver *receiver = copy->private;
	unsigned int chunk = copy->options.chunk, expected = chunk;
	uint64_t left;

	op->number = ntohl(wc->imm_data);
	if (op->number < receiver->chunks) {
		left = receiver->length - (uint64_t)op->number * chunk;
		if (left < chunk)
			expected = (unsigned int)left;
	}
	if (receiver->ended || op->number >= receiver->chunks || wc->byte_len != expected)
		die(copy, "The sender talks nonsense.");
	op->length = expected;
	disk_start(copy, op);
}

static void receive_message(struct copy *copy, struct op *op, const struct ibv_wc *wc)
{
	struct receiver *receiver = copy->private;
	struct message message;

	if (wc->byte_len != sizeof(message))
		die(copy, "The sender talks nonsense.");
	memcpy(&message, op->iovec.data, sizeof(message));
	op_free(op);
	switch (ntohl(message.type)) {
	case MESSAGE_END:
		if (receiver->ended || be64toh(message.length) != receiver->length)
			die(copy, "The sender says that it is done, and isn't.");
		receiver->ended = true;
		break;
	case MESSAGE_FAILED:
		copy->conn.up = false;
		message.why[sizeof(message.why) - 1] = '\0';
		die(copy, "The sender has failed: %s", message.why);
	default:
		die(copy, "The sender talks nonsense.");
	}
}

static void received(struct copy *copy, struct op *op, const struct ibv_wc *wc)
{
	if (wc->wc_flags & IBV_WC_WITH_IMM)
		receive_chunk(copy, op, wc);
	else
		receive_message(copy, op, wc);
}

static void chunk_written(struct copy *copy, struct op *op)
{
	struct receiver *receiver = copy->private;

	receiver->written += op->length;
	if (receiver->written > receiver->length)
		die(copy, "The sender sent something twice.");
	progress_add(copy, op->length);
	op_free(op);
	start_receive(copy);
	receiver->owed++;
}

/* Sends credits in batches, but before the sender can run out of them. */
static void pump(struct copy *copy)
{
	struct receiver *receiver = copy->private;

	if (receiver->owed * 4 >= receiver->credits) {
		post_message(copy, MESSAGE_CREDITS, receiver->owed, 0);
		receiver->owed = 0;
	}
	if (receiver->ended && receiver->written == receiver->length && !receiver->sync) {
		receiver->sync = op_alloc(copy, OP_SYNC, 0);
		disk_finish(copy, receiver->length, receiver->sync);
	}
}

static void synced(struct copy *copy)
{
	struct receiver *receiver = copy->private;

	op_free(receiver->sync);
	copy->durable = true;
	post_message(copy, MESSAGE_DONE, 0, receiver->written);
}

static void sent(struct copy *copy, struct op *op)
{
	if (op->number == MESSAGE_DONE)
		copy->finished = true;
	op_free(op);
}

/* Takes the parameters of the sender's hello. Returns the reason if they can't be, or NULL. */
static const char *take_hello(struct copy *copy, const struct hello *hello)
{
	struct receiver *receiver = copy->private;
	uint64_t chunks;

	if (hello->chunk < CHUNK_MIN || hello->chunk > CHUNK_MAX || hello->chunk % BLOCK)
		return "The chunks are of a size that the receiver doesn't take.";
	chunks = hello->length / hello->chunk + !!(hello->length % hello->chunk);
	if (chunks > UINT32_MAX || hello->length > INT64_MAX || !hello->credits)
		return "The receiver doesn't understand.";
	copy->options.chunk = hello->chunk;
	receiver->length = hello->length;
	receiver->chunks = (uint32_t)chunks;
	receiver->credits = copy->options.depth;
	if (receiver->credits > hello->credits)
		receiver->credits = hello->credits;
	return disk_reserve(copy, hello->length);
}

void copy_receive(struct copy *copy)
{
	struct receiver receiver = { 0 };
	struct hello hello;
	const char *why;
	unsigned int i;

	copy->private = &receiver;
	copy->completed = chunk_written;
	copy->sent = sent;
	copy->received = received;
	copy->synced = synced;

	memory_open(copy);
	disk_open_target(copy);
	connection_listen(copy, &hello);
	why = take_hello(copy, &hello);
	if (why)
		die(copy, "%s", why);
	memory_register(copy);
	for (i = 0; i < receiver.credits; i++)
		start_receive(copy);
	connection_accept(copy, receiver.credits);

	progress_start(copy, receiver.length);
	loop_run(copy, pump);
	progress_end(copy);
}
