// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/* Work requests, and their completions. An op is on the list of posted ops between the two. */
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "copy.h"

#define TELL_SECONDS	1.0

static void op_post(struct copy *copy, struct op *op)
{
	op->next = copy->conn.posted;
	op->link = &copy->conn.posted;
	if (op->next)
		op->next->link = &op->next;
	copy->conn.posted = op;
}

struct op *op_unpost(struct op *op)
{
	*op->link = op->next;
	if (op->next)
		op->next->link = op->link;
	return op;
}

static void op_sge(struct copy *copy, struct op *op, struct ibv_sge *sge)
{
	const char *notice;

	if (!evpl_rdma_sge(copy->memory.rdma, &op->iovec, sge))
		return;
	notice = evpl_rdma_notice(copy->memory.rdma);
	die(copy, "Memory isn't registered with RDMA. %s", notice ? notice : "");
}

void post_receive(struct copy *copy, struct op *op)
{
	struct ibv_sge sge;
	struct ibv_recv_wr wr = { .wr_id = (uintptr_t)op, .sg_list = &sge, .num_sge = 1 }, *bad;
	int err;

	op_sge(copy, op, &sge);
	err = ibv_post_recv(copy->conn.id->qp, &wr, &bad);
	if (err)
		die(copy, "Can't post a receive: %s.", strerror(err));
	op_post(copy, op);
}

static void post_send(struct copy *copy, struct op *op, enum ibv_wr_opcode opcode,
		      unsigned int length)
{
	struct ibv_sge sge;
	struct ibv_send_wr wr = {
		.wr_id = (uintptr_t)op,
		.opcode = opcode,
		.send_flags = IBV_SEND_SIGNALED,
		.imm_data = htonl(op->number),
	}, *bad;
	int err;

	if (length) {
		op_sge(copy, op, &sge);
		sge.length = length;
		wr.sg_list = &sge;
		wr.num_sge = 1;
	}
	err = ibv_post_send(copy->conn.id->qp, &wr, &bad);
	if (err)
		die(copy, "Can't post a send: %s.", strerror(err));
	if (op->kind != OP_PING)
		op_post(copy, op);
}

void post_chunk(struct copy *copy, struct op *op)
{
	copy->conn.credits--;
	post_send(copy, op, IBV_WR_SEND_WITH_IMM, op->length);
}

static void post_words(struct copy *copy, enum message_type type, uint32_t count,
		       uint64_t length, const char *why)
{
	struct op *op = op_alloc(copy, OP_MESSAGE, sizeof(struct message));
	struct message *message = op->iovec.data;

	memset(message, 0, sizeof(*message));
	message->type = htonl(type);
	message->count = htonl(count);
	message->length = htobe64(length);
	snprintf(message->why, sizeof(message->why), "%s", why);
	op->number = type;
	if (!copy->options.listen)
		copy->conn.credits--;
	post_send(copy, op, IBV_WR_SEND, sizeof(*message));
}

void post_message(struct copy *copy, enum message_type type, uint32_t count, uint64_t length)
{
	post_words(copy, type, count, length, "");
}

/* Pings a peer from which nothing arrived for a while. This fails if the peer's machine is gone. */
void post_ping(struct copy *copy)
{
	if (copy->conn.pinged)
		return;
	copy->conn.pinged = true;
	post_send(copy, &copy->conn.ping, IBV_WR_RDMA_WRITE, 0);
}

static void __attribute__((noreturn)) die_completion(struct copy *copy, enum ibv_wc_status status)
{
	copy->conn.up = false;
	switch (status) {
	case IBV_WC_WR_FLUSH_ERR:
	case IBV_WC_REM_OP_ERR:
	case IBV_WC_REM_INV_REQ_ERR:
	case IBV_WC_REM_ABORT_ERR:
		die(copy, "The peer has gone before all was copied. Start both ends again.");
	case IBV_WC_RETRY_EXC_ERR:
	case IBV_WC_RESP_TIMEOUT_ERR:
		die(copy, "The peer doesn't answer any more. Start both ends again.");
	default:
		die(copy, "RDMA fails: %s.", ibv_wc_status_str(status));
	}
}

static void complete(struct copy *copy, const struct ibv_wc *wc)
{
	struct op *op = (struct op *)(uintptr_t)wc->wr_id;

	if (wc->status != IBV_WC_SUCCESS && copy->durable) {
		copy->finished = true;
		return;
	}
	if (wc->status != IBV_WC_SUCCESS)
		die_completion(copy, wc->status);
	copy->conn.heard = now();
	if (op->kind == OP_PING) {
		copy->conn.pinged = false;
		return;
	}
	op_unpost(op);
	if (wc->opcode & IBV_WC_RECV)
		copy->received(copy, op, wc);
	else
		copy->sent(copy, op);
}

/* Handles completions. Returns how many there were. */
unsigned int completions_reap(struct copy *copy)
{
	struct ibv_wc wc[16];
	int i, n;

	n = ibv_poll_cq(copy->conn.cq, 16, wc);
	if (n < 0)
		die(copy, "Can't poll the completion queue: %s.", strerror(errno));
	for (i = 0; i < n && !copy->finished; i++)
		complete(copy, &wc[i]);
	return (unsigned int)n;
}

/* Tells the peer why this end dies, if possible, and waits until the message has arrived. */
void peer_tell(struct copy *copy, const char *why)
{
	double until = now() + TELL_SECONDS;
	struct ibv_wc wc;
	struct op *told;

	if (copy->conn.asked) {
		copy->conn.asked = false;
		connection_refuse(copy, why);
		return;
	}
	if (!copy->conn.up || (!copy->options.listen && !copy->conn.credits))
		return;
	copy->conn.up = false;
	post_words(copy, MESSAGE_FAILED, 0, 0, why);
	told = copy->conn.posted;
	while (now() < until) {
		while (ibv_poll_cq(copy->conn.cq, 1, &wc) > 0)
			if (wc.wr_id == (uintptr_t)told || wc.status != IBV_WC_SUCCESS)
				return;
		poll(NULL, 0, 1);
	}
}
