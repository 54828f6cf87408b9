// SPDX-License-Identifier: GPL-2.0-only
/*
 * The commands that come through a ring, and fixed I/O. Each thread has a ring of its own. A child
 * that goes on shares the memory of its parent's ring, so it doesn't use the ring.
 */
#include "fuzz_calls.h"

static bool make_table(struct thread *self)
{
	const struct iovec table[NR_SLOTS] = { [NR_SLOTS - 1] = { self->pages, PAGE } };

	return !syscall(__NR_io_uring_register, self->ring.fd, IORING_REGISTER_BUFFERS, table,
			NR_SLOTS);
}

void open_ring(struct thread *self)
{
	if (!ring_open(&self->ring) || !make_table(self))
		_exit(10);
}

void clear_ring(struct thread *thread)
{
	if (thread->taken && (ring_unregister(&thread->ring) || !make_table(thread)))
		_exit(11);
	thread->taken = 0;
}

/* The first slot from this number on that has memory of a client, or has none; or another one. */
static uint16_t pick_slot(struct thread *self, unsigned int arg, bool taken)
{
	static const uint16_t others[] = { NR_SLOTS - 1, NR_SLOTS, 0xffff };

	if (arg >= NR_SLOTS - 1)
		return others[arg - (NR_SLOTS - 1)];
	for (unsigned int i = 0; i < NR_SLOTS - 1; i++) {
		unsigned int slot = (arg + i) % (NR_SLOTS - 1);

		if ((self->taken >> slot & 1) == taken)
			return slot;
	}
	return arg;
}

static int make_request(struct thread *self, struct io_uring_sqe sqe, unsigned int how)
{
	if (self->child)
		return -ECHILD;
	sqe.flags = how == 1 ? IOSQE_ASYNC : 0;
	if (how == 2)
		sqe.addr = 1;
	if (how == 3)
		sqe.len = 1;
	return ring_do(&self->ring, sqe);
}

static int do_ring_take(struct thread *self, const uint8_t *arg)
{
	static const uint16_t flags[] = { EVPL_URING_WRITE, 0, EVPL_URING_WRITE << 1, 0xffff };
	static const uint32_t lengths[] = {
		PAGE, EVPL_BUFFER_SIZE_DEFAULT, SLAB_2M, 0, 1, PAGE + 1, 2 * PAGE,
		(uint32_t)-PAGE,
	};
	static const uint32_t commands[] = {
		EVPL_URING_REGISTER, EVPL_URING_UNREGISTER + 1, EVPL_SETUP, 0,
	};
	const struct got *got = pick_got(arg[5]);
	unsigned int slot;
	int fd = pick_fd(arg[0], &slot), ret;
	uint64_t *where, slab = pick_slab(slot, arg[5], &where);
	const uint64_t offsets[] = {
		slab, slab + PAGE, load(&got->offset) & -PAGE,
		load(&got->offset) & -EVPL_BUFFER_SIZE_DEFAULT, slab + SLAB_2M - PAGE,
		slab + 1, OWN_SIZE, 1ULL << 63,
	};
	struct evpl_uring_buffer args = {
		.offset = offsets[arg[2]],
		.length = lengths[arg[3]],
		.index = pick_slot(self, arg[1], false),
		.flags = flags[arg[4] % 4],
	};

	if (arg[2] == 2 || arg[2] == 3)
		fd = load(&fds[load(&got->client)]);
	ret = make_request(self, ring_sqe(fd, commands[arg[4] / 4 % 4], args), arg[4] / 16);
	if (!ret)
		self->taken |= 1U << args.index;
	return ret;
}

/* Mostly the ring has nothing yet: then have it take memory of the ready client. */
static void take_something(struct thread *self)
{
	static const uint8_t ready_page[MAX_ARGS] = { NR_FDS - 1 };

	if (!self->taken)
		do_ring_take(self, ready_page);
}

static int do_ring_drop(struct thread *self, const uint8_t *arg)
{
	struct evpl_uring_buffer args = {
		.offset = arg[2] == 1 ? PAGE : 0,
		.length = arg[2] == 2 ? PAGE : 0,
		.flags = arg[2] == 3 ? EVPL_URING_WRITE : 0,
	};
	unsigned int slot;
	int fd = pick_fd(arg[0], &slot), ret;

	take_something(self);
	args.index = pick_slot(self, arg[1], true);
	ret = make_request(self, ring_sqe(fd, EVPL_URING_UNREGISTER, args), arg[3]);
	if (!ret)
		self->taken &= ~(1U << args.index);
	return ret;
}

static int do_ring_io(struct thread *self, const uint8_t *arg)
{
	static const uint64_t offsets[] = { 0, PAGE, 1, SLAB_2M - 1, ~0ULL };
	static const uint32_t lengths[] = { PAGE, 1, 2 * PAGE, 0, ~0U };
	const int *ends_of_pipe = pipes[arg[1] % NR_PIPES];
	struct io_uring_sqe sqe = {
		.opcode = arg[0] ? IORING_OP_READ_FIXED : IORING_OP_WRITE_FIXED,
		.fd = ends_of_pipe[!arg[0]],
		.addr = offsets[arg[3]],
		.len = lengths[arg[4]],
		.rw_flags = RWF_NOWAIT,
	};
	int ret;

	take_something(self);
	sqe.buf_index = pick_slot(self, arg[2], true);
	/*
	 * A splice has the pipe refuse RWF_NOWAIT. Without it the request would wait for ever:
	 * io_uring polls a file that has O_NONBLOCK until that has data or room.
	 */
	ret = make_request(self, sqe, 0);
	return ret < 0 ? ret : 0;
}

const struct kind ring_kinds[NR_KINDS] = {
	[RING_TAKE] = { "ring_take", do_ring_take, 60, 0, 33,
			ARGS(NR_FDS, NR_SLOTS + 2, 8, 8, 64, NR_GOT), .odds = 4 },
	[RING_DROP] = { "ring_drop", do_ring_drop, 30, 0, 1,
			ARGS(NR_FDS, NR_SLOTS + 2, 4, 4) },
	[RING_IO] = { "ring_io", do_ring_io, 30, 0, 3,
		      ARGS(2, NR_PIPES, NR_SLOTS + 2, 5, 5) },
};
