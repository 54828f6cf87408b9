/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPL_COPY_H
#define EVPL_COPY_H

/*
 * evpl-copy: a file goes from disk, over RDMA, to disk, in the memory that it was
 * read into.
 *
 * The sender reads chunks into iovecs and posts these. The receiver has posted iovecs,
 * and writes each chunk to disk from the iovec that it arrived in. Each end has one
 * thread with one loop (loop.c). Each request under way is a struct op, which the
 * completion gives back.
 *
 * An error ends the program at once (die()), with requests still under way: the kernel
 * takes memory, registrations and requests back.
 */

#include <evplmem-rdma.h>
#include <evplmem-uring.h>
#include <infiniband/verbs.h>
#include <liburing.h>
#include <rdma/rdma_cma.h>
#include <stdbool.h>
#include <stdint.h>

#include "wire.h"

#define DEFAULT_PORT	"18520"
#define DEFAULT_CHUNK	(1U << 20)
#define DEFAULT_DEPTH	16U
#define BLOCK		4096U		/* the alignment of O_DIRECT requests */
#define CHUNK_MIN	(64U << 10)
#define CHUNK_MAX	(1U << 20)	/* a buffer */
#define DEPTH_MAX	1024U
#define SPARE		8U		/* requests for messages and a ping, beside the chunks */

struct options {
	bool listen;
	bool quiet;
	const char *file;
	const char *host;	/* the receiver's; NULL: listen on all addresses */
	const char *port;
	const char *device;	/* NULL: any */
	uint64_t size;		/* bytes to send; UINT64_MAX: all */
	uint64_t rate;		/* bytes a second at most; UINT64_MAX: no limit */
	unsigned int chunk;
	unsigned int depth;
};

enum op_kind {
	OP_CHUNK,	/* a chunk of the file is read, sent, received or written */
	OP_MESSAGE,	/* a struct message is sent or received */
	OP_SYNC,	/* the target is made durable */
	OP_PING,	/* an empty RDMA write, to see whether the peer's machine answers */
};

/**
 * struct op - a request that is under way
 * @kind: its kind
 * @number: the chunk's place in the file; of a message, its type
 * @length: the chunk's bytes
 * @done: how many of these were read or written
 * @direct: the disk request that is under way bypasses the page cache
 * @iovec: its memory; the op owns the reference
 * @next: the next one in a list
 * @link: the pointer to it in the list of posted ops
 */
struct op {
	enum op_kind kind;
	uint32_t number;
	unsigned int length;
	unsigned int done;
	bool direct;
	struct evpl_iovec iovec;
	struct op *next;
	struct op **link;
};

struct queue {
	struct op *first, *last;
};

struct memory {
	struct evpl_pool *pool;
	struct evpl *evpl;
	struct evpl_uring *uring;
	struct evpl_rdma *rdma;
};

/**
 * struct disk - the source or the target
 * @path: its name
 * @fd: the descriptor for requests that aren't aligned
 * @direct_fd: the descriptor with O_DIRECT, or -1
 * @is_block: it is a block device
 * @length: how many bytes it has
 * @registered: how many requests had registered memory
 * @plain: how many had not
 */
struct disk {
	const char *path;
	int fd;
	int direct_fd;
	bool is_block;
	uint64_t length;
	uint64_t registered;
	uint64_t plain;
};

/**
 * struct connection - the connection to the peer
 * @events: the event channel of the connection manager
 * @id: the connection
 * @pd: the protection domain that memory is registered with
 * @completions: the channel for events of the CQ
 * @cq: the CQ of all sends and receives
 * @posted: the ops that are posted, except the ping
 * @credits: how many SENDs the sender may post
 * @asked: the sender waits to be accepted
 * @up: messages can be sent to the peer
 * @gone: the peer has disconnected
 * @ping: see OP_PING
 * @pinged: the ping is under way
 * @heard: when something last arrived from the peer's machine
 */
struct connection {
	struct rdma_event_channel *events;
	struct rdma_cm_id *id;
	struct ibv_pd *pd;
	struct ibv_comp_channel *completions;
	struct ibv_cq *cq;
	struct op *posted;
	unsigned int credits;
	bool asked;
	bool up;
	bool gone;
	struct op ping;
	bool pinged;
	double heard;
};

struct progress {
	bool quiet;
	bool terminal;
	const char *verb;
	uint64_t bytes;
	uint64_t total;
	double start;
	double end;
	double shown;
	unsigned int tenths;
};

/**
 * struct copy - the state of one end
 * @options: the options that were given
 * @memory: the pool, and its registrations
 * @ring: the io_uring for the disk
 * @disk: the source or the target
 * @conn: the connection to the peer
 * @progress: how far the copy is
 * @durable: all is on the target's disk, and the sender is being told: if the sender goes
 *	now, that is no error
 * @finished: the loop can end
 * @completed: called when a whole chunk was read or written
 * @sent: called when an op's bytes have arrived in the peer's memory
 * @received: called when bytes have arrived in an op's memory
 * @synced: called when the target is durable
 * @private: the struct sender or struct receiver
 */
struct copy {
	struct options options;
	struct memory memory;
	struct io_uring ring;
	struct disk disk;
	struct connection conn;
	struct progress progress;
	bool durable;
	bool finished;
	void (*completed)(struct copy *copy, struct op *op);
	void (*sent)(struct copy *copy, struct op *op);
	void (*received)(struct copy *copy, struct op *op, const struct ibv_wc *wc);
	void (*synced)(struct copy *copy);
	void *private;
};

/* main.c */
void die(struct copy *copy, const char *format, ...)
	__attribute__((noreturn, format(printf, 2, 3)));
double now(void);

/* memory.c */
void memory_open(struct copy *copy);
void memory_register(struct copy *copy);
void memory_report(struct copy *copy);
void memory_close(struct copy *copy);
struct op *op_alloc(struct copy *copy, enum op_kind kind, unsigned int length);
void op_free(struct op *op);
void queue_push(struct queue *queue, struct op *op);
struct op *queue_pop(struct queue *queue);

/* disk.c */
void disk_open_source(struct copy *copy);
void disk_open_target(struct copy *copy);
const char *disk_reserve(struct copy *copy, uint64_t length);
void disk_start(struct copy *copy, struct op *op);
void disk_done(struct copy *copy, struct op *op, int result);
void disk_finish(struct copy *copy, uint64_t length, struct op *sync);
void disk_close(struct copy *copy);

/* connection.c */
void connection_listen(struct copy *copy, struct hello *hello);
void connection_accept(struct copy *copy, unsigned int credits);
void connection_refuse(struct copy *copy, const char *why);
void connection_resolve(struct copy *copy);
void connection_connect(struct copy *copy, const struct hello *hello);
void connection_check_events(struct copy *copy);
void connection_close(struct copy *copy);

/* post.c */
struct op *op_unpost(struct op *op);
void post_receive(struct copy *copy, struct op *op);
void post_chunk(struct copy *copy, struct op *op);
void post_message(struct copy *copy, enum message_type type, uint32_t count, uint64_t length);
void post_ping(struct copy *copy);
unsigned int completions_reap(struct copy *copy);
void peer_tell(struct copy *copy, const char *why);

/* loop.c */
void loop_run(struct copy *copy, void (*pump)(struct copy *copy));

/* send.c, receive.c */
void copy_send(struct copy *copy);
void copy_receive(struct copy *copy);

/* progress.c */
void progress_start(struct copy *copy, uint64_t total);
void progress_add(struct copy *copy, uint64_t bytes);
void progress_show(struct copy *copy);
void progress_end(struct copy *copy);

#endif /* EVPL_COPY_H */
