/* SPDX-License-Identifier: GPL-2.0-only */
/* A minimal io_uring(7): one request is submitted at a time, two can be in flight. */
#ifndef EVPL_RING_H
#define EVPL_RING_H

#include <linux/io_uring.h>
#include <linux/time_types.h>

#include "evpl_test.h"

struct ring {
	int fd;
	char *rings;
	struct io_uring_sqe *sqe;
	struct io_uring_params params;
};

/* Make a ring with these flags, and with room for so many results. */
static inline bool ring_open_with(struct ring *ring, uint32_t flags, unsigned int results)
{
	ring->params = (struct io_uring_params){
		.flags = flags | IORING_SETUP_CQSIZE,
		.cq_entries = results,
	};
	ring->fd = syscall(__NR_io_uring_setup, 1, &ring->params);
	if (ring->fd < 0)
		return false;
	ring->rings = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, ring->fd,
			   IORING_OFF_SQ_RING);
	ring->sqe = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, ring->fd,
			 IORING_OFF_SQES);
	return ring->rings != MAP_FAILED && ring->sqe != MAP_FAILED;
}

static inline bool ring_open(struct ring *ring)
{
	return ring_open_with(ring, 0, 2);
}

static inline void ring_close(struct ring *ring)
{
	munmap(ring->rings, PAGE);
	munmap(ring->sqe, PAGE);
	close(ring->fd);
}

static inline int ring_register(struct ring *ring, void *memory, size_t length)
{
	struct iovec iovec = { .iov_base = memory, .iov_len = length };

	return RESULT(syscall(__NR_io_uring_register, ring->fd,
			      IORING_REGISTER_BUFFERS, &iovec, 1));
}

static inline int ring_unregister(struct ring *ring)
{
	return RESULT(syscall(__NR_io_uring_register, ring->fd,
			      IORING_UNREGISTER_BUFFERS, NULL, 0));
}

/* Submit a request, which may still be running when this returns. */
static inline int ring_submit(struct ring *ring, const struct io_uring_sqe *sqe)
{
	uint32_t *tail = (uint32_t *)(ring->rings + ring->params.sq_off.tail);
	uint32_t *array = (uint32_t *)(ring->rings + ring->params.sq_off.array);

	*ring->sqe = *sqe;
	array[0] = 0;
	__atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
	if (syscall(__NR_io_uring_enter, ring->fd, 1, 0, 0, NULL, 0) == 1)
		return 0;
	/* The kernel hasn't taken the request. */
	__atomic_store_n(tail, *tail - 1, __ATOMIC_RELEASE);
	return -errno;
}

/* Submit a read for a worker thread to do, which may sleep where this task must not. */
static inline int ring_read(struct ring *ring, int fd, void *memory, unsigned int length,
			    bool fixed)
{
	return ring_submit(ring, &(struct io_uring_sqe){
		.opcode = fixed ? IORING_OP_READ_FIXED : IORING_OP_READ,
		.flags = IOSQE_ASYNC,
		.fd = fd,
		.addr = (uintptr_t)memory,
		.len = length,
	});
}

/* Whether a request has finished whose result hasn't been taken. */
static inline bool ring_has_result(struct ring *ring)
{
	uint32_t *head = (uint32_t *)(ring->rings + ring->params.cq_off.head);
	uint32_t *tail = (uint32_t *)(ring->rings + ring->params.cq_off.tail);

	return *head != __atomic_load_n(tail, __ATOMIC_ACQUIRE);
}

/* Wait for a result. NULL and errno ETIME if none comes. ring_seen() takes it. */
static inline struct io_uring_cqe *ring_cqe(struct ring *ring)
{
	uint32_t *head = (uint32_t *)(ring->rings + ring->params.cq_off.head);
	struct io_uring_cqe *cqes = (void *)(ring->rings + ring->params.cq_off.cqes);
	uint32_t mask = *(uint32_t *)(ring->rings + ring->params.cq_off.ring_mask);
	const struct __kernel_timespec limit = { .tv_sec = LIMIT };
	const struct io_uring_getevents_arg arg = { .ts = (uintptr_t)&limit };

	if (!ring_has_result(ring) &&
	    syscall(__NR_io_uring_enter, ring->fd, 0, 1,
		    IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG, &arg, sizeof(arg)) < 0)
		return NULL;
	return &cqes[(*head & mask) << !!(ring->params.flags & IORING_SETUP_CQE32)];
}

static inline void ring_seen(struct ring *ring)
{
	uint32_t *head = (uint32_t *)(ring->rings + ring->params.cq_off.head);

	__atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
}

/* Wait for a result, and return it, with the user_data of its request; -ETIME if none comes. */
static inline int ring_result(struct ring *ring, uint64_t *user_data)
{
	struct io_uring_cqe *cqe = ring_cqe(ring);
	int ret;

	if (!cqe)
		return -errno;
	*user_data = cqe->user_data;
	ret = cqe->res;
	ring_seen(ring);
	return ret;
}

static inline int ring_wait(struct ring *ring)
{
	uint64_t user_data;

	return ring_result(ring, &user_data);
}

/* Give the ring an empty table of registered buffers. */
static inline int ring_table(struct ring *ring, unsigned int slots)
{
	struct io_uring_rsrc_register args = { .nr = slots, .flags = IORING_RSRC_REGISTER_SPARSE };

	return RESULT(syscall(__NR_io_uring_register, ring->fd, IORING_REGISTER_BUFFERS2, &args,
			      sizeof(args)));
}

/* A command of /dev/evpl. */
static inline struct io_uring_sqe ring_sqe(int fd, uint32_t command, struct evpl_uring_buffer args)
{
	struct io_uring_sqe sqe = { .opcode = 46 /* IORING_OP_URING_CMD */, .fd = fd };

	/* cmd_op and cmd, which older headers don't have. */
	sqe.off = command;
	memcpy((char *)&sqe + 48, &args, sizeof(args));
	return sqe;
}

/* Submit a request, and return its result. */
static inline int ring_do(struct ring *ring, struct io_uring_sqe sqe)
{
	return ring_submit(ring, &sqe) ?: ring_wait(ring);
}

static inline int ring_command(struct ring *ring, int fd, uint32_t command,
			       struct evpl_uring_buffer args)
{
	return ring_do(ring, ring_sqe(fd, command, args));
}

static inline int ring_take(struct ring *ring, int fd, unsigned int slot, uint64_t offset,
			    uint32_t length, uint16_t flags)
{
	return ring_command(ring, fd, EVPL_URING_REGISTER, (struct evpl_uring_buffer){
		.offset = offset,
		.length = length,
		.index = slot,
		.flags = flags,
	});
}

static inline int ring_drop(struct ring *ring, int fd, unsigned int slot)
{
	return ring_command(ring, fd, EVPL_URING_UNREGISTER,
			    (struct evpl_uring_buffer){ .index = slot });
}

#define NO_COMMAND	"a kernel before 7.3, which registers no memory of drivers"

/* Whether this kernel has the commands. The ring has no slot that one could clear. */
static inline bool rings_can_register(void)
{
	int fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	struct ring ring;
	bool can;

	if (fd < 0 || !ring_open(&ring))
		return false;
	can = ring_drop(&ring, fd, 0) == -EINVAL;
	ring_close(&ring);
	close(fd);
	return can;
}

#endif /* EVPL_RING_H */
