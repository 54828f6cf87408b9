// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * The library with the anon back end, on this machine: the cost of allocation and release,
 * compared with a plain count of one thread, a locked add, DPDK's mbufs, and two allocators
 * with a count in front.
 */
#include <liburing.h>
#include <pthread.h>
#include <sched.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <evplmem-uring.h>
#include <jemalloc/jemalloc.h>
#include <mimalloc.h>
#include <rte_eal.h>
#include <rte_lcore.h>
#include <rte_mbuf.h>

#include "bench.h"

#define SLICE	4096U
#define LIVE	64
#define BURST	32

static struct evpl_pool *pool;
static struct evpl *evpl;
static struct rte_mempool *mbufs;

static void fail(const char *what)
{
	fprintf(stderr, "bench: %s failed\n", what);
	exit(1);
}

/* An allocated object of any of the sides. It is as long as an iovec for all of them. */
struct slot {
	union {
		struct evpl_iovec iovec;
		struct rte_mbuf *mbuf;
		struct counted *counted;
	};
};

/* An object of an allocator, with a count in front. */
struct counted {
	alignas(64) atomic_int refs;
	char data[SLICE];
};

/*
 * A plain count is the least that counting can cost: the program has one thread, so no other
 * looks at a count. Its iovec has the layout of ours.
 */
struct plain {
	alignas(64) uint64_t refs;
	char *base;
};

struct plain_iovec {
	void *data;
	unsigned int length;
	unsigned int unused;
	struct plain *buffer;
};

#define PLAIN_SIZE	(1U << 20)
#define PLAIN_BUFFERS	4

static struct {
	struct plain buffers[PLAIN_BUFFERS];
	struct plain *current;
	unsigned int offset;
	unsigned int next;
} plains;

/* The slow path is a call that gets the iovec, as in the library's inlines. */
__attribute__((noinline)) static void plain_died(struct plain_iovec *iovec)
{
	__asm__ volatile("" : : "r"(iovec) : "memory");
}

static inline void plain_addref(struct plain_iovec *iovec)
{
	uint64_t refs = iovec->buffer->refs;

	if (__builtin_expect(!refs, 0))
		plain_died(iovec);
	else
		iovec->buffer->refs = refs + 1;
}

static inline void plain_release(struct plain_iovec *iovec)
{
	uint64_t refs = iovec->buffer->refs - 1;

	iovec->buffer->refs = refs;
	if (__builtin_expect(!refs, 0))
		plain_died(iovec);
}

/* Without this the compiler would merge two stores that follow each other. */
static inline void each_counts(void)
{
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
}

/* The current buffer has a reference of its own until it is used up. */
__attribute__((noinline)) static void plain_refill(void)
{
	if (plains.current)
		plains.current->refs--;
	plains.current = &plains.buffers[plains.next++ % PLAIN_BUFFERS];
	if (plains.current->refs)
		fail("plain_refill");
	plains.current->refs = 1;
	plains.offset = 0;
}

static inline void plain_alloc(struct plain_iovec *iovec)
{
	if (__builtin_expect(!plains.current || plains.offset + SLICE > PLAIN_SIZE, 0))
		plain_refill();
	iovec->data = plains.current->base + plains.offset;
	iovec->length = SLICE;
	iovec->unused = 0;
	iovec->buffer = plains.current;
	plains.offset += SLICE;
	plains.current->refs++;
}

static inline void evpl_one(struct slot *slot)
{
	if (evpl_iovec_alloc(evpl, SLICE, 0, 1, &slot->iovec) != 1)
		fail("evpl_iovec_alloc");
}

static inline void evpl_end(struct slot *slot)
{
	evpl_iovec_release(&slot->iovec);
}

static inline void mbuf_one(struct slot *slot)
{
	slot->mbuf = rte_pktmbuf_alloc(mbufs);
	if (!slot->mbuf)
		fail("rte_pktmbuf_alloc");
}

static inline void mbuf_end(struct slot *slot)
{
	rte_pktmbuf_free(slot->mbuf);
}

static inline void count_one(struct counted *counted, struct slot *slot)
{
	if (!counted)
		fail("malloc");
	atomic_store_explicit(&counted->refs, 1, memory_order_relaxed);
	slot->counted = counted;
}

static inline bool count_end(struct counted *counted)
{
	return atomic_fetch_sub_explicit(&counted->refs, 1, memory_order_acq_rel) == 1;
}

static inline void je_one(struct slot *slot)
{
	count_one(mallocx(sizeof(struct counted), 0), slot);
}

static inline void je_end(struct slot *slot)
{
	if (count_end(slot->counted))
		sdallocx(slot->counted, sizeof(struct counted), 0);
}

static inline void mi_one(struct slot *slot)
{
	count_one(mi_malloc(sizeof(struct counted)), slot);
}

static inline void mi_end(struct slot *slot)
{
	if (count_end(slot->counted))
		mi_free(slot->counted);
}

/* Bursts use the calls that are meant for bursts, where there are any. */
static inline void evpl_alloc(struct slot *slots, int n)
{
	int i;

	for (i = 0; i < n; i++)
		evpl_one(&slots[i]);
}

static inline void evpl_release(struct slot *slots, int n)
{
	evpl_iovecs_release(&slots->iovec, n);
}

static inline void mbuf_alloc(struct slot *slots, int n)
{
	struct rte_mbuf *burst[LIVE];
	int i;

	if (rte_pktmbuf_alloc_bulk(mbufs, burst, (unsigned int)n))
		fail("rte_pktmbuf_alloc_bulk");
	for (i = 0; i < n; i++)
		slots[i].mbuf = burst[i];
}

static inline void mbuf_release(struct slot *slots, int n)
{
	struct rte_mbuf *burst[LIVE];
	int i;

	for (i = 0; i < n; i++)
		burst[i] = slots[i].mbuf;
	rte_pktmbuf_free_bulk(burst, (unsigned int)n);
}

#define SINGLY(name)								\
	static inline void name##_alloc(struct slot *slots, int n)		\
	{									\
		int i;								\
										\
		for (i = 0; i < n; i++)						\
			name##_one(&slots[i]);					\
	}									\
										\
	static inline void name##_release(struct slot *slots, int n)		\
	{									\
		int i;								\
										\
		for (i = 0; i < n; i++)						\
			name##_end(&slots[i]);					\
	}

SINGLY(je)
SINGLY(mi)

static uint64_t word;

static double locked_add(long n)
{
	double start = now_ns();
	long i;

	for (i = 0; i < n; i++)
		__atomic_fetch_add(&word, 1, __ATOMIC_SEQ_CST);
	return now_ns() - start;
}

/* Take another buffer each time: the place of its entry is luck, and may cost 50% more. */
static double addref(long n)
{
	struct evpl_iovec before[9];
	static int round;
	struct slot slot;
	double start;
	int taken = 3 * (round++ % 4), j;
	long i;

	for (j = 0; j < taken; j++)
		if (evpl_iovec_alloc(evpl, 300 << 10, 0, 1, &before[j]) != 1)
			fail("evpl_iovec_alloc");
	evpl_one(&slot);
	evpl_iovecs_release(before, taken);
	start = now_ns();
	for (i = 0; i < n; i++) {
		evpl_iovec_addref(&slot.iovec);
		evpl_iovec_release(&slot.iovec);
	}
	start = now_ns() - start;
	evpl_end(&slot);
	return start;
}

static double clone_iovec(long n)
{
	struct evpl_iovec copy;
	struct slot slot;
	double start;
	long i;

	evpl_one(&slot);
	start = now_ns();
	for (i = 0; i < n; i++) {
		evpl_iovec_clone(&copy, &slot.iovec);
		evpl_iovec_release(&copy);
	}
	start = now_ns() - start;
	evpl_end(&slot);
	return start;
}

static double count_addref(long n)
{
	struct plain_iovec iovec;
	double start;
	long i;

	plain_alloc(&iovec);
	start = now_ns();
	for (i = 0; i < n; i++) {
		plain_addref(&iovec);
		each_counts();
		plain_release(&iovec);
		each_counts();
	}
	start = now_ns() - start;
	plain_release(&iovec);
	return start;
}

static double count_clone(long n)
{
	struct plain_iovec iovec, copy;
	double start;
	long i;

	plain_alloc(&iovec);
	start = now_ns();
	for (i = 0; i < n; i++) {
		plain_addref(&iovec);
		copy = iovec;
		each_counts();
		plain_release(&copy);
		each_counts();
	}
	start = now_ns() - start;
	plain_release(&iovec);
	return start;
}

static double count_same(long n)
{
	struct plain_iovec iovecs[LIVE];
	double start;
	long i;

	for (i = 0; i < LIVE; i++)
		plain_alloc(&iovecs[i]);
	start = now_ns();
	for (i = 0; i < n; i++) {
		plain_release(&iovecs[i % LIVE]);
		each_counts();
		plain_alloc(&iovecs[i % LIVE]);
		each_counts();
	}
	start = now_ns() - start;
	for (i = 0; i < LIVE; i++)
		plain_release(&iovecs[i]);
	return start;
}

/* DPDK counts an mbuf that isn't shared without a locked instruction, so share one here. */
static double mbuf_addref(long n)
{
	struct slot slot;
	double start;
	long i;

	mbuf_one(&slot);
	rte_mbuf_refcnt_update(slot.mbuf, 1);
	start = now_ns();
	for (i = 0; i < n; i++) {
		rte_mbuf_refcnt_update(slot.mbuf, 1);
		rte_pktmbuf_free(slot.mbuf);
	}
	start = now_ns() - start;
	rte_mbuf_refcnt_update(slot.mbuf, -1);
	mbuf_end(&slot);
	return start;
}

/* 64 objects are live; a new one replaces the oldest. */
#define SAME(name)								\
	static double name##_same(long n)					\
	{									\
		struct slot slots[LIVE];					\
		double start;							\
		long i;								\
										\
		name##_alloc(slots, LIVE);					\
		start = now_ns();						\
		for (i = 0; i < n; i++) {					\
			name##_end(&slots[i % LIVE]);				\
			name##_one(&slots[i % LIVE]);				\
		}								\
		start = now_ns() - start;					\
		name##_release(slots, LIVE);					\
		return start;							\
	}

SAME(evpl)
SAME(mbuf)
SAME(je)
SAME(mi)

/* 32 objects are allocated, then released together. */
#define BURSTS(name)								\
	static double name##_burst(long n)					\
	{									\
		struct slot slots[BURST];					\
		double start = now_ns();					\
		long i;								\
										\
		for (i = 0; i < n; i += BURST) {				\
			name##_alloc(slots, BURST);				\
			name##_release(slots, BURST);				\
		}								\
		return now_ns() - start;					\
	}

BURSTS(evpl)
BURSTS(mbuf)
BURSTS(je)
BURSTS(mi)

/* A ring from one thread to another. Both sides of a row use it. */
#define RING 256

struct ring {
	alignas(64) _Atomic unsigned int head;
	alignas(64) _Atomic unsigned int tail;
	alignas(64) struct slot slots[RING];
};

static inline void relax(void)
{
#ifdef __x86_64__
	__builtin_ia32_pause();
#endif
}

/* Push 32 at once, so that the ring costs little beside the objects that it carries. */
static inline void ring_push(struct ring *ring, const struct slot *slots)
{
	unsigned int head = atomic_load_explicit(&ring->head, memory_order_relaxed);

	while (head - atomic_load_explicit(&ring->tail, memory_order_acquire) > RING - BURST)
		relax();
	memcpy(&ring->slots[head % RING], slots, BURST * sizeof(*slots));
	atomic_store_explicit(&ring->head, head + BURST, memory_order_release);
}

static inline void ring_pop(struct ring *ring, struct slot *slots)
{
	unsigned int tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);

	while (atomic_load_explicit(&ring->head, memory_order_acquire) == tail)
		relax();
	memcpy(slots, &ring->slots[tail % RING], BURST * sizeof(*slots));
	atomic_store_explicit(&ring->tail, tail + BURST, memory_order_release);
}

static struct ring rings[2];
static pthread_barrier_t both;

struct other {
	void (*run)(long n);
	long n;
};

static void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
}

static void *other_main(void *arg)
{
	struct other *other = arg;

	pin(1);
	if (rte_thread_register())
		fail("rte_thread_register");
	pthread_barrier_wait(&both);
	other->run(other->n);
	rte_thread_unregister();
	return NULL;
}

/* Run one function on this thread, and one on another. Return the time until both end. */
static double on_two(void (*here)(long n), void (*there)(long n), long n)
{
	struct other other = { there, n };
	pthread_t thread;
	double start;

	memset(rings, 0, sizeof(rings));
	if (pthread_create(&thread, NULL, other_main, &other))
		fail("pthread_create");
	pthread_barrier_wait(&both);
	start = now_ns();
	here(n);
	pthread_join(thread, NULL);
	return now_ns() - start;
}

static void ring_alloc(struct slot *slots, int n)
{
	(void)slots;
	(void)n;
}

static void ring_release(struct slot *slots, int n)
{
	__asm__ volatile("" : : "r"(slots), "r"(n) : "memory");
}

#define CROSS(name)								\
	static void name##_from(long n)						\
	{									\
		struct slot slots[BURST];					\
		long i;								\
										\
		memset(slots, 0, sizeof(slots));				\
		for (i = 0; i < n; i += BURST) {				\
			name##_alloc(slots, BURST);				\
			ring_push(&rings[0], slots);				\
		}								\
	}									\
										\
	static void name##_to(long n)						\
	{									\
		struct slot slots[BURST];					\
		long i;								\
										\
		for (i = 0; i < n; i += BURST) {				\
			ring_pop(&rings[0], slots);				\
			name##_release(slots, BURST);				\
		}								\
	}									\
										\
	static double name##_cross(long n)					\
	{									\
		return on_two(name##_from, name##_to, n);			\
	}

CROSS(ring)
CROSS(evpl)
CROSS(mbuf)
CROSS(je)
CROSS(mi)

#define TURNS 8

/*
 * The time of @whole less that of @part, which it contains. The time of a ring may grow to a
 * multiple for a while. So take the difference of the quickest turns of both.
 */
static double without(double (*whole)(long n), double (*part)(long n), long n)
{
	double all = whole(n / TURNS), rest = part(n / TURNS), turn;
	int i;

	for (i = 1; i < TURNS; i++) {
		turn = whole(n / TURNS);
		all = turn < all ? turn : all;
		turn = part(n / TURNS);
		rest = turn < rest ? turn : rest;
	}
	return all > rest ? TURNS * (all - rest) : 0;
}

static double evpl_cross_alone(long n)
{
	return without(evpl_cross, ring_cross, n);
}

/*
 * Each of two threads allocates objects that the other releases; @n is for both together.
 * Without a context only the rings are used.
 */
static void exchange(long n, struct evpl *mine, int to)
{
	struct slot slots[BURST];
	long i;
	int j;

	memset(slots, 0, sizeof(slots));
	for (i = 0; i < n / 2; i += BURST) {
		for (j = 0; mine && j < BURST; j++)
			if (evpl_iovec_alloc(mine, SLICE, 0, 1, &slots[j].iovec) != 1)
				fail("evpl_iovec_alloc");
		ring_push(&rings[to], slots);
		ring_pop(&rings[!to], slots);
		if (mine)
			evpl_release(slots, BURST);
	}
}

static void exchange_here(long n)
{
	exchange(n, evpl, 0);
}

static void exchange_there(long n)
{
	struct evpl *mine;

	if (evpl_create(&mine, pool, NULL))
		fail("evpl_create");
	exchange(n, mine, 1);
	evpl_destroy(mine);
}

static void rings_here(long n)
{
	exchange(n, NULL, 0);
}

static void rings_there(long n)
{
	exchange(n, NULL, 1);
}

static double evpl_exchange(long n)
{
	return on_two(exchange_here, exchange_there, n);
}

static double rings_exchange(long n)
{
	return on_two(rings_here, rings_there, n);
}

static double evpl_exchange_alone(long n)
{
	return without(evpl_exchange, rings_exchange, n);
}

/*
 * An io_uring receives messages of a slice each into a ring of provided buffers. On our side
 * the buffers become iovecs, which are released. The peer side has buffers of its own, uses
 * them in place and gives them back at once, which is the least that a program can do.
 */
#define ENTRIES		64
#define MESSAGES	16
#define GROUP		1

static struct io_uring_buf_ring *own_entries;
static char *own_buffers;

static void own_add(unsigned int id)
{
	io_uring_buf_ring_add(own_entries, own_buffers + id * SLICE, SLICE, (unsigned short)id,
			      ENTRIES - 1, 0);
	io_uring_buf_ring_advance(own_entries, 1);
}

static void own_set_up(struct io_uring *ring)
{
	size_t bytes = ENTRIES * sizeof(struct io_uring_buf);
	struct io_uring_buf_reg reg = { .ring_entries = ENTRIES, .bgid = GROUP };
	unsigned int i;

	own_entries = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	own_buffers = malloc(ENTRIES * SLICE);
	if (own_entries == MAP_FAILED || !own_buffers)
		fail("memory");
	reg.ring_addr = (uintptr_t)own_entries;
	if (io_uring_register_buf_ring(ring, &reg, 0))
		fail("io_uring_register_buf_ring");
	for (i = 0; i < ENTRIES; i++)
		own_add(i);
}

static void own_tear_down(struct io_uring *ring)
{
	io_uring_unregister_buf_ring(ring, GROUP);
	munmap(own_entries, ENTRIES * sizeof(struct io_uring_buf));
	free(own_buffers);
}

static void receive_messages(struct io_uring *ring, struct evpl_uring_buf_ring *buf_ring, int fd)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
	struct evpl_iovec iovec;
	struct io_uring_cqe *cqe;
	int i;

	io_uring_prep_recv_multishot(sqe, fd, NULL, 0, 0);
	sqe->flags |= IOSQE_BUFFER_SELECT;
	sqe->buf_group = GROUP;
	sqe->user_data = 1;
	if (io_uring_submit_and_wait(ring, MESSAGES) != 1)
		fail("io_uring_submit_and_wait");
	for (i = 0; i < MESSAGES; i++) {
		if (io_uring_wait_cqe(ring, &cqe) || cqe->res != (int)SLICE)
			fail("receiving");
		if (!buf_ring)
			own_add(cqe->flags >> IORING_CQE_BUFFER_SHIFT);
		else if (evpl_uring_buf_ring_take(buf_ring, cqe, 1, &iovec) == 1)
			evpl_iovec_release(&iovec);
		else
			fail("evpl_uring_buf_ring_take");
		io_uring_cqe_seen(ring, cqe);
	}
	/* Cancel the request, so that each turn submits one of its own. */
	io_uring_prep_cancel64(io_uring_get_sqe(ring), 1, 0);
	if (io_uring_submit_and_wait(ring, 2) != 1)
		fail("io_uring_submit_and_wait");
	for (i = 0; i < 2; i++) {
		if (io_uring_wait_cqe(ring, &cqe))
			fail("io_uring_wait_cqe");
		io_uring_cqe_seen(ring, cqe);
	}
}

static double receive_all(long n, bool ours)
{
	struct evpl_uring_buf_ring *buf_ring = NULL;
	static char message[SLICE];
	struct io_uring ring;
	int fds[2], j;
	double start;
	long i;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, fds) || io_uring_queue_init(ENTRIES, &ring, 0))
		fail("a socket and a ring");
	if (!ours)
		own_set_up(&ring);
	else if (evpl_uring_buf_ring_create(&buf_ring, evpl, &ring, GROUP, ENTRIES, SLICE, 0))
		fail("evpl_uring_buf_ring_create");
	start = now_ns();
	for (i = 0; i < n; i += MESSAGES) {
		for (j = 0; j < MESSAGES; j++)
			if (send(fds[0], message, SLICE, 0) != (ssize_t)SLICE)
				fail("send");
		receive_messages(&ring, buf_ring, fds[1]);
	}
	start = now_ns() - start;
	if (!ours)
		own_tear_down(&ring);
	evpl_uring_buf_ring_destroy(buf_ring);
	io_uring_queue_exit(&ring);
	close(fds[0]);
	close(fds[1]);
	return start;
}

static double evpl_receive(long n)
{
	return receive_all(n, true);
}

static double own_receive(long n)
{
	return receive_all(n, false);
}

static void set_up(void)
{
	static char *eal[] = {
		(char *)"bench", (char *)"--no-huge", (char *)"--no-pci", (char *)"--no-shconf",
		(char *)"-m", (char *)"256", (char *)"-l", (char *)"0",
		(char *)"--no-telemetry", NULL,
	};
	struct evpl_pool_config config = {
		.size = sizeof(config),
		.backend = EVPL_BACKEND_ANON,
	};
	int i;

	if (evpl_pool_open(&pool, &config) || evpl_create(&evpl, pool, NULL))
		fail("evpl_pool_open");
	if (rte_eal_init((int)(sizeof(eal) / sizeof(eal[0])) - 1, eal) < 0)
		fail("rte_eal_init");
	for (i = 0; i < PLAIN_BUFFERS; i++) {
		plains.buffers[i].base = malloc(PLAIN_SIZE);
		if (!plains.buffers[i].base)
			fail("malloc");
	}
	mbufs = rte_pktmbuf_pool_create("bench", 8191, 256, 0, SLICE + RTE_PKTMBUF_HEADROOM,
					SOCKET_ID_ANY);
	if (!mbufs)
		fail("rte_pktmbuf_pool_create");
	pin(0);
	pthread_barrier_init(&both, NULL, 2);
}

int main(void)
{
	const long n = 2000000;

	set_up();
	compare("same-thread", evpl_same, count_same, n);
	compare("addref", addref, count_addref, n);
	compare("clone", clone_iovec, count_clone, n);
	compare("locked-add", addref, locked_add, n);
	compare("cross-thread", evpl_cross_alone, locked_add, n);
	compare("two-threads", evpl_exchange_alone, evpl_cross_alone, n);
	compare("dpdk-same-thread", evpl_same, mbuf_same, n);
	compare("dpdk-cross-thread", evpl_cross, mbuf_cross, n);
	compare("dpdk-burst", evpl_burst, mbuf_burst, n);
	compare("dpdk-addref", addref, mbuf_addref, n);
	compare("jemalloc-same-thread", evpl_same, je_same, n);
	compare("jemalloc-cross-thread", evpl_cross, je_cross, n);
	compare("jemalloc-burst", evpl_burst, je_burst, n);
	compare("mimalloc-same-thread", evpl_same, mi_same, n);
	compare("mimalloc-cross-thread", evpl_cross, mi_cross, n);
	compare("mimalloc-burst", evpl_burst, mi_burst, n);
	compare("buf-ring", evpl_receive, own_receive, n / 20);
	return 0;
}
