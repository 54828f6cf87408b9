// SPDX-License-Identifier: GPL-2.0-only
/*
 * Zero-copy receive: io_uring puts the bytes that a socket receives into the module's memory. These
 * tests have no network device that could write there (ZCRX_REG_NODEV), so the kernel copies the
 * bytes. It pins the memory as it does for a device. A dma-buf needs a device.
 */
#include "loopback.h"
#include "pair.h"
#include "ring.h"

#define RESULTS		32
#define LENGTH		(3 * PAGE + 100)
#define NO_ZCRX		"a kernel before 7.3, which needs a NIC for this"

/* Since Linux 6.15. */
#define REGISTER_ZCRX_IFQ	32
#define OP_RECV_ZC		58
#define AREA_SHIFT		48
#define REGION_USER		1

/* Since Linux 7.3. */
#define REG_NODEV		2

struct region {
	uint64_t address, size;
	uint32_t flags, id;
	uint64_t offset, reserved[4];
};

struct area {
	uint64_t address, length, token;
	uint32_t flags, dmabuf_fd;
	uint64_t reserved[2];
};

struct queue {
	uint32_t if_index, if_queue, entries, flags;
	uint64_t area, region;
	uint32_t offsets[4];
	uint64_t reserved[2];
	uint32_t id, buffer_length;
	uint64_t events, more[2];
};

FIXTURE(zcrx)
{
	PAIR;
	struct ring ring;
	int sockets[2];
	char *refill, *ordinary;
	bool works;
};

/* Have the ring receive into this memory. Return the number of the queue that has it. */
static int receive_into(struct _test_data_zcrx *self, void *memory, size_t length)
{
	struct region region = {
		.address = (uintptr_t)self->refill,
		.size = PAGE,
		.flags = REGION_USER,
	};
	struct area area = { .address = (uintptr_t)memory, .length = length };
	struct queue queue = {
		.entries = 16,
		.flags = REG_NODEV,
		.area = (uintptr_t)&area,
		.region = (uintptr_t)&region,
	};

	return syscall(__NR_io_uring_register, self->ring.fd, REGISTER_ZCRX_IFQ, &queue, 1) ?
	       -errno : queue.id;
}

FIXTURE_SETUP(zcrx)
{
	const int rw = PROT_READ | PROT_WRITE;

	open_pair(_metadata, &self->pair, 0);
	ASSERT_TRUE(connect_pair(self->sockets));
	self->refill = mmap(NULL, PAGE, rw, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	self->ordinary = mmap(NULL, PAGE, rw, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->refill);
	ASSERT_NE(MAP_FAILED, self->ordinary);
	self->works = ring_open_with(&self->ring, IORING_SETUP_SINGLE_ISSUER |
				     IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_CQE32, RESULTS);
	self->works = self->works && receive_into(self, self->ordinary, PAGE) >= 0;
}

FIXTURE_TEARDOWN(zcrx)
{
	if (self->ring.fd >= 0)
		ring_close(&self->ring);
	munmap(self->refill, PAGE);
	munmap(self->ordinary, PAGE);
	close(self->sockets[0]);
	close(self->sockets[1]);
	close_pair(&self->pair);
	EXPECT_TRUE(counters_return_to(self->before));
}

/* Send bytes over TCP. Return whether they arrive in @memory, which @queue receives into. */
static bool arrives(struct _test_data_zcrx *self, int queue, const char *memory)
{
	struct io_uring_sqe sqe = {
		.opcode = OP_RECV_ZC,
		.ioprio = IORING_RECV_MULTISHOT,
		.fd = self->sockets[1],
		.len = LENGTH,
		.file_index = queue,
	};
	unsigned int at = 0, length;
	struct io_uring_cqe *cqe;
	char bytes[LENGTH];
	uint64_t offset;
	bool more;

	for (unsigned int i = 0; i < LENGTH; i++)
		bytes[i] = i * 7 + (i >> 8);
	if (send(self->sockets[0], bytes, LENGTH, 0) != LENGTH || ring_submit(&self->ring, &sqe))
		return false;
	do {
		cqe = ring_cqe(&self->ring);
		if (!cqe || cqe->res < 0)
			return false;
		length = cqe->res;
		more = cqe->flags & IORING_CQE_F_MORE;
		/* The second half of the result. */
		offset = *(uint64_t *)(cqe + 1) & ((1ULL << AREA_SHIFT) - 1);
		ring_seen(&self->ring);
		if (length > LENGTH - at || memcmp(memory + offset, bytes + at, length))
			return false;
		at += length;
	} while (more);
	return at == LENGTH;
}

TEST_F(zcrx, bytes_arrive_in_a_slab)
{
	int queue;

	if (!self->works)
		SKIP(return, NO_ZCRX);
	queue = receive_into(self, self->owner.own, SLAB);
	ASSERT_LT(0, queue);
	EXPECT_TRUE(arrives(self, queue, self->owner.own));
	EXPECT_TRUE(arrives(self, queue, self->owner.own));
}

TEST_F(zcrx, memory_that_is_freed_stays_charged_until_the_ring_goes)
{
	if (!self->works)
		SKIP(return, NO_ZCRX);
	ASSERT_LT(0, receive_into(self, self->owner.own, SLAB));
	EXPECT_EQ(0, evpl_slab_free(self->owner.fd, 0));
	EXPECT_EQ(self->before.detached + SLAB, read_counters().detached);
	ring_close(&self->ring);
	self->ring.fd = -1;
}

TEST_F(zcrx, bytes_arrive_in_a_leased_buffer_which_comes_back_when_the_ring_goes)
{
	struct evpl_record got;
	char *memory;
	int queue;

	if (!self->works)
		SKIP(return, NO_ZCRX);
	memory = lease(_metadata, &self->pair, 5, DEVICE_RW, &got);
	queue = receive_into(self, memory, BUFFER);
	ASSERT_LT(0, queue);
	EXPECT_TRUE(arrives(self, queue, self->owner.own + 5 * BUFFER));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
	EXPECT_TRUE(is_quarantined(&self->owner, 5));
	ring_close(&self->ring);
	self->ring.fd = -1;
	EXPECT_TRUE(is_returned(&self->owner, 5));
}

TEST_F(zcrx, leases_that_no_device_may_write_to_are_refused)
{
	struct evpl_record cpu, reader;
	char *memory;

	if (!self->works)
		SKIP(return, NO_ZCRX);
	memory = lease(_metadata, &self->pair, 3, EVPL_RECORD_WRITE, &cpu);
	EXPECT_EQ(-EFAULT, receive_into(self, memory, BUFFER));
	memory = lease(_metadata, &self->pair, 4, EVPL_RECORD_DEVICE, &reader);
	EXPECT_EQ(-EFAULT, receive_into(self, memory, BUFFER));
	EXPECT_EQ(1, let_go(&self->lessee, &cpu));
	EXPECT_EQ(1, let_go(&self->lessee, &reader));
	EXPECT_TRUE(is_returned(&self->owner, 3));
	EXPECT_TRUE(is_returned(&self->owner, 4));
}

TEST_HARNESS_MAIN
