// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/* The pool, its registrations, and the ops, whose memory is the pool's. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "copy.h"

#define SLOTS 64

static void ring_open(struct copy *copy)
{
	unsigned int entries = copy->options.depth + SPARE;
	int err;

	err = io_uring_queue_init(entries, &copy->ring, IORING_SETUP_SINGLE_ISSUER);
	if (err == -EINVAL)	/* before 6.0 */
		err = io_uring_queue_init(entries, &copy->ring, 0);
	switch (err) {
	case 0:
		return;
	case -ENOSYS:
	case -EPERM:
		die(copy, "io_uring isn't allowed here. Enable it: sysctl kernel.io_uring_disabled=0; a container's seccomp profile may forbid it too.");
	case -ENOMEM:
		die(copy, "No memory for io_uring. Raise 'ulimit -l', or use a smaller --depth.");
	default:
		die(copy, "io_uring can't be set up: %s.", strerror(-err));
	}
}

void memory_open(struct copy *copy)
{
	struct memory *memory = &copy->memory;
	int err;

	err = evpl_pool_open(&memory->pool, NULL);
	if (err)
		die(copy, "No memory pool: %s", evpl_last_error());
	err = evpl_create(&memory->evpl, memory->pool, NULL);
	if (err)
		die(copy, "No memory: %s.", strerror(-err));

	ring_open(copy);
	err = evpl_uring_create(&memory->uring, memory->pool, &copy->ring, 0, SLOTS,
				EVPL_URING_NEW_TABLE);
	if (err)
		die(copy, "io_uring has no table of buffers for us: %s.", strerror(-err));
}

/* Registers the pool with the RDMA device, once the device is known. */
void memory_register(struct copy *copy)
{
	int err;

	err = evpl_rdma_create(&copy->memory.rdma, copy->memory.pool, copy->conn.pd,
			       IBV_ACCESS_LOCAL_WRITE);
	if (err)
		die(copy, "The RDMA device can't be used: %s.", strerror(-err));
}

void memory_report(struct copy *copy)
{
	struct evpl_pool_stats pool = { .size = sizeof(pool) };
	struct evpl_uring_stats uring = { .size = sizeof(uring) };
	struct evpl_rdma_stats rdma = { .size = sizeof(rdma) };
	struct memory *memory = &copy->memory;
	const char *notice;

	evpl_pool_stats(memory->pool, &pool);
	evpl_uring_stats(memory->uring, &uring);
	evpl_rdma_stats(memory->rdma, &rdma);
	notice = evpl_uring_notice(memory->uring);

	printf("memory: %s, %llu bytes in %llu slabs\n",
	       pool.backend == EVPL_BACKEND_ANON ? "this process's" : "the kernel's",
	       (unsigned long long)pool.bytes, (unsigned long long)pool.slabs);
	printf("registrations: %llu with RDMA, %llu with io_uring\n",
	       (unsigned long long)rdma.registrations, (unsigned long long)uring.registrations);
	printf("disk requests: %llu in registered buffers, %llu in others\n",
	       (unsigned long long)copy->disk.registered, (unsigned long long)copy->disk.plain);
	if (notice)
		printf("registered buffers: %s. %s\n", uring.registrations ? "in part" : "no",
		       notice);
	else
		printf("registered buffers: yes%s\n",
		       uring.uncharged ? ", charged to nobody" : "");
}

/* The inverse of memory_open(). It also reports that no buffer is in use any more. */
void memory_close(struct copy *copy)
{
	struct evpl_pool_stats pool = { .size = sizeof(pool) };
	struct memory *memory = &copy->memory;
	int err;

	evpl_destroy(memory->evpl);
	evpl_pool_stats(memory->pool, &pool);
	evpl_uring_destroy(memory->uring);
	io_uring_queue_exit(&copy->ring);
	err = evpl_pool_close(memory->pool);
	if (err || pool.buffers_used)
		die(copy, "%llu buffers are still held at the end. That is a bug in evpl-copy.",
		    (unsigned long long)pool.buffers_used);
	printf("held at the end: nothing\n");
}

struct op *op_alloc(struct copy *copy, enum op_kind kind, unsigned int length)
{
	struct op *op = calloc(1, sizeof(*op));
	int ret;

	if (!op)
		die(copy, "Out of memory.");
	op->kind = kind;
	if (!length)
		return op;
	ret = evpl_iovec_alloc(copy->memory.evpl, length, kind == OP_CHUNK ? BLOCK : 0, 1,
			       &op->iovec);
	if (ret != 1)
		die(copy, "No memory for %u bytes: %s. Use a smaller --depth, or raise the limits of evpl (max_bytes, max_bytes_per_user) or of the memory cgroup.",
		    length, strerror(-ret));
	return op;
}

void op_free(struct op *op)
{
	evpl_iovec_release(&op->iovec);
	free(op);
}

void queue_push(struct queue *queue, struct op *op)
{
	op->next = NULL;
	if (queue->first)
		queue->last->next = op;
	else
		queue->first = op;
	queue->last = op;
}

struct op *queue_pop(struct queue *queue)
{
	struct op *op = queue->first;

	if (op)
		queue->first = op->next;
	return op;
}
