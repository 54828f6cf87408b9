// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * The module in a virtual machine: slabs, channels, registered memory, and the death of a
 * client, compared with other ways to do the same.
 *
 * bench-module DISK: DISK may be overwritten.
 */
#include <fcntl.h>
#include <liburing.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <evplmem.h>
#include <linux/dma-heap.h>
#include <linux/evpl.h>
#include <linux/udmabuf.h>

#include "bench.h"
#include "qp.h"

#define KIB	1024UL
#define MIB	(1024 * KIB)
#define PAGE	4096UL

static const char *disk;

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static struct evpl_pool *open_pool(size_t buffer_size, size_t max_bytes)
{
	struct evpl_pool_config config = {
		.size = sizeof(config),
		.backend = EVPL_BACKEND_MODULE,
		.buffer_size = buffer_size,
		.max_bytes = max_bytes,
		.flags = EVPL_POOL_ZEROS,	/* as lanes need it */
	};
	struct evpl_pool *pool;

	if (evpl_pool_open(&pool, &config)) {
		fprintf(stderr, "bench: %s\n", evpl_last_error());
		exit(1);
	}
	return pool;
}

static void touch(char *memory, size_t length)
{
	size_t i;

	for (i = 0; i < length; i += PAGE)
		((volatile char *)memory)[i] = 1;
}

/* A slab of 64 MiB is allocated, mapped and touched. */
#define SLAB	(64 * MIB)

struct client {
	int fd;
	char *memory;
};

static struct client slab_make(void)
{
	struct evpl_setup setup = { .size = sizeof(setup) };
	struct evpl_slab_alloc alloc = { .size = sizeof(alloc), .length = SLAB, .node = -1 };
	struct client client;

	client.fd = open("/dev/evpl", O_RDWR | O_CLOEXEC);
	if (client.fd < 0 || ioctl(client.fd, EVPL_SETUP, &setup) ||
	    ioctl(client.fd, EVPL_SLAB_ALLOC, &alloc))
		fail("a slab of 64 MiB");
	client.memory = mmap(NULL, SLAB, PROT_READ | PROT_WRITE, MAP_SHARED, client.fd,
			     (off_t)alloc.out_offset);
	if (client.memory == MAP_FAILED)
		fail("mmap");
	touch(client.memory, SLAB);
	return client;
}

static void slab_end(struct client client)
{
	munmap(client.memory, SLAB);
	close(client.fd);
}

static double slab(long n)
{
	double all = 0, start;
	struct client client;
	long i;

	for (i = 0; i < n; i++) {
		start = now_ns();
		client = slab_make();
		all += now_ns() - start;
		slab_end(client);
	}
	return all;
}

static double slab_memset(long n)
{
	struct client client = slab_make();
	double start = now_ns();
	long i;

	for (i = 0; i < n; i++) {
		memset(client.memory, (int)i, SLAB);
		__asm__ volatile("" : : "r"(client.memory) : "memory");
	}
	start = now_ns() - start;
	slab_end(client);
	return start;
}

/* The same with memory for devices from elsewhere: @make returns a descriptor of it. */
static double slab_of(int (*make)(void), long n)
{
	double all = 0, start;
	char *memory;
	long i;
	int fd;

	for (i = 0; i < n; i++) {
		start = now_ns();
		fd = make();
		memory = mmap(NULL, SLAB, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (fd < 0 || memory == MAP_FAILED)
			fail("64 MiB of a dma-buf");
		touch(memory, SLAB);
		all += now_ns() - start;
		munmap(memory, SLAB);
		close(fd);
	}
	return all;
}

static int make_heap(void)
{
	struct dma_heap_allocation_data data = {
		.len = SLAB,
		.fd_flags = O_RDWR | O_CLOEXEC,
	};
	int heap = open("/dev/dma_heap/system", O_RDONLY | O_CLOEXEC);

	if (heap < 0 || ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &data))
		return -1;
	close(heap);
	return (int)data.fd;
}

static int make_udmabuf(void)
{
	struct udmabuf_create create = { .flags = UDMABUF_FLAGS_CLOEXEC, .size = SLAB };
	int device = open("/dev/udmabuf", O_RDWR | O_CLOEXEC), fd;

	create.memfd = (__u32)memfd_create("bench", MFD_ALLOW_SEALING | MFD_CLOEXEC);
	if (device < 0 || ftruncate((int)create.memfd, SLAB) ||
	    fcntl((int)create.memfd, F_ADD_SEALS, F_SEAL_SHRINK))
		return -1;
	fd = ioctl(device, UDMABUF_CREATE, &create);
	close((int)create.memfd);
	close(device);
	return fd;
}

static double slab_heap(long n)
{
	return slab_of(make_heap, n);
}

static double slab_udmabuf(long n)
{
	return slab_of(make_udmabuf, n);
}

static long faults(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return usage.ru_minflt;
}

/* These return counts instead of times. */
static double slab_faults(long n)
{
	long i, before = faults();

	for (i = 0; i < n; i++)
		slab_end(slab_make());
	return (double)(faults() - before);
}

static double slab_folios(long n)
{
	return (double)n * (SLAB / (2 * MIB));
}

/* A client with its windows, without the library. */
struct raw {
	int fd;
	struct evpl_entry *entries, *leases;
	size_t leases_size;
};

static struct raw raw_open(void)
{
	struct evpl_setup setup = { .size = sizeof(setup) };
	const int rw = PROT_READ | PROT_WRITE;
	struct raw raw;

	raw.fd = open("/dev/evpl", O_RDWR | O_CLOEXEC);
	if (raw.fd < 0 || ioctl(raw.fd, EVPL_SETUP, &setup))
		fail("/dev/evpl");
	raw.entries = mmap(NULL, PAGE, rw, MAP_SHARED, raw.fd, (off_t)setup.out_refs_offset);
	raw.leases_size = setup.out_leases_size;
	raw.leases = mmap(NULL, raw.leases_size, rw, MAP_SHARED | MAP_NORESERVE, raw.fd,
			  (off_t)setup.out_leases_offset);
	if (raw.entries == MAP_FAILED || raw.leases == MAP_FAILED)
		fail("mmap");
	return raw;
}

static void raw_close(struct raw *raw)
{
	munmap(raw->entries, PAGE);
	munmap(raw->leases, raw->leases_size);
	close(raw->fd);
}

static void raw_bind(const struct raw *raw, int end)
{
	struct evpl_channel_bind bind = { .size = sizeof(bind), .fd = end };

	if (ioctl(raw->fd, EVPL_CHANNEL_BIND, &bind))
		fail("EVPL_CHANNEL_BIND");
}

/* A reference goes through a channel with both ends in this process, again and again. */
static double records(long n)
{
	struct evpl_slab_alloc alloc = { .size = sizeof(alloc), .length = 2 * MIB, .node = -1 };
	struct evpl_channel_create create = { .size = sizeof(create) };
	struct raw owner = raw_open(), receiver = raw_open();
	struct evpl_record record = { .length = 4096 }, got;
	double start = 0;
	long i;

	if (ioctl(owner.fd, EVPL_SLAB_ALLOC, &alloc) ||
	    ioctl(owner.fd, EVPL_CHANNEL_CREATE, &create))
		fail("a channel");
	raw_bind(&owner, create.out_fds[0]);
	raw_bind(&receiver, create.out_fds[1]);
	record.offset = alloc.out_offset;
	__atomic_store_n(&owner.entries[0].word, 1, __ATOMIC_RELAXED);
	/* The receiver always keeps a reference, as a program does that reads a stream. */
	for (i = -1; i < n; i++) {
		if (!i)
			start = now_ns();
		__atomic_fetch_add(&owner.entries[0].word, 1, __ATOMIC_RELAXED);
		if (write(create.out_fds[0], &record, sizeof(record)) != sizeof(record) ||
		    read(create.out_fds[1], &got, sizeof(got)) != sizeof(got))
			fail("a channel");
		if (i >= 0)
			__atomic_fetch_sub(&receiver.leases[got.lease].word, 1, __ATOMIC_RELEASE);
	}
	start = now_ns() - start;
	close(create.out_fds[0]);
	close(create.out_fds[1]);
	raw_close(&owner);
	raw_close(&receiver);
	return start;
}

/* Has both ends of a lane of this process look for each other, so that they use their rings. */
static void set_up_lane(struct evpl_channel *there, struct evpl_channel *here)
{
	struct evpl_lane_stats stats = EVPL_LANE_STATS_INIT;
	struct evpl_message message;
	int i;

	for (i = 0; i < 3; i++)
		if (evpl_channel_recv(i % 2 ? there : here, &message, 1) != -EAGAIN)
			fail("a lane");
	if (evpl_lane_stats(there, &stats) || !stats.sending)
		fail("a lane");
}

/* The same by the library, through a channel or a lane. */
static double exchange(unsigned int flags, long n)
{
	struct evpl_pool *owner = open_pool(0, 0), *receiver = open_pool(0, 0);
	struct evpl_message sent = { .iovec = { 0 } }, got[2];
	struct evpl_channel *there, *here;
	struct evpl_iovec iovec;
	struct evpl *evpl;
	double start;
	int peer;
	long i;

	if (evpl_create(&evpl, owner, NULL) ||
	    evpl_iovec_alloc_flags(evpl, 4096, 0, 1, EVPL_IOVEC_PRIVATE, &iovec) != 1 ||
	    evpl_channel_create(&there, owner, 0, flags, &peer) ||
	    evpl_channel_bind(&here, receiver, peer, flags))
		fail("a channel");
	if (flags & EVPL_CHANNEL_LANE)
		set_up_lane(there, here);
	/* The receiver always keeps a reference, as a program does that reads a stream. */
	evpl_iovec_clone(&sent.iovec, &iovec);
	if (evpl_channel_send(there, &sent, 1) || evpl_channel_recv(here, &got[1], 1) != 1)
		fail("evpl_channel_send");
	start = now_ns();
	for (i = 0; i < n; i++) {
		evpl_iovec_clone(&sent.iovec, &iovec);
		if (evpl_channel_send(there, &sent, 1) ||
		    evpl_channel_recv(here, &got[i % 2], 1) != 1)
			fail("evpl_channel_send");
		evpl_iovec_release(&got[!(i % 2)].iovec);
	}
	start = now_ns() - start;
	evpl_iovec_release(&got[(n - 1) % 2].iovec);
	evpl_iovec_release(&iovec);
	evpl_channel_close(there);
	evpl_channel_close(here);
	evpl_destroy(evpl);
	if (evpl_pool_close(receiver) || evpl_pool_close(owner))
		fail("evpl_pool_close");
	return start;
}

static double channel(long n)
{
	return exchange(0, n);
}

static double lane(long n)
{
	return exchange(EVPL_CHANNEL_LANE | EVPL_CHANNEL_POLLING, n);
}

static double channel_pipe(long n)
{
	struct evpl_record record = { 0 };
	double start;
	int fds[2];
	long i;

	if (pipe(fds))
		fail("pipe");
	start = now_ns();
	for (i = 0; i < n; i++)
		if (write(fds[1], &record, sizeof(record)) != sizeof(record) ||
		    read(fds[0], &record, sizeof(record)) != sizeof(record))
			fail("a pipe");
	start = now_ns() - start;
	close(fds[0]);
	close(fds[1]);
	return start;
}

/*
 * Another process sends each message back. Each side sleeps until the other has sent. A round has two
 * messages.
 */
struct side {
	struct evpl_pool *pool;
	struct evpl *evpl;
	struct evpl_channel *channel;
	struct evpl_iovec iovec;
};

static void side_alloc(struct side *side)
{
	if (evpl_iovec_alloc_flags(side->evpl, 4096, 0, 1, EVPL_IOVEC_PRIVATE, &side->iovec) != 1)
		fail("evpl_iovec_alloc_flags");
}

static void side_open(struct side *side)
{
	side->pool = open_pool(0, 0);
	if (evpl_create(&side->evpl, side->pool, NULL))
		fail("evpl_create");
	side_alloc(side);
}

/* Another buffer: what was sent before a lane was set up is of no use to it. */
static void side_renew(struct side *side)
{
	struct evpl_iovec old = side->iovec;

	side_alloc(side);
	evpl_iovec_release(&old);
}

static void side_close(struct side *side)
{
	evpl_channel_close(side->channel);
	evpl_iovec_release(&side->iovec);
	evpl_destroy(side->evpl);
	if (evpl_pool_close(side->pool))
		fail("evpl_pool_close");
}

static void side_send(struct side *side)
{
	struct evpl_message message = { .iovec = { 0 } };

	evpl_iovec_clone(&message.iovec, &side->iovec);
	if (evpl_channel_send(side->channel, &message, 1))
		fail("evpl_channel_send");
}

static void side_receive(struct side *side)
{
	struct evpl_message message;

	if (evpl_channel_recv(side->channel, &message, 1) != 1)
		fail("evpl_channel_recv");
	evpl_iovec_release(&message.iovec);
}

#define WARM_UP 8

static double wake(unsigned int flags, long n)
{
	struct evpl_lane_stats stats = EVPL_LANE_STATS_INIT;
	struct side side;
	double start = 0;
	pid_t child;
	int peer;
	long i;

	side_open(&side);
	if (evpl_channel_create(&side.channel, side.pool, 0, flags, &peer))
		fail("evpl_channel_create");
	child = fork();
	if (child < 0)
		fail("fork");
	if (!child) {
		evpl_channel_close(side.channel);
		side_open(&side);
		if (evpl_channel_bind(&side.channel, side.pool, peer, flags))
			fail("evpl_channel_bind");
		for (i = -WARM_UP; i < n / 2; i++) {
			if (i == -WARM_UP / 2)
				side_renew(&side);
			side_receive(&side);
			side_send(&side);
		}
		_exit(0);
	}
	close(peer);
	for (i = -WARM_UP; i < n / 2; i++) {
		if (i == -WARM_UP / 2)
			side_renew(&side);
		if (!i)
			start = now_ns();
		side_send(&side);
		side_receive(&side);
	}
	start = now_ns() - start;
	if (flags & EVPL_CHANNEL_LANE &&
	    (evpl_lane_stats(side.channel, &stats) || stats.sent < (uint64_t)n / 2))
		fail("a lane");
	waitpid(child, NULL, 0);
	side_close(&side);
	return start;
}

static double wake_channel(long n)
{
	return wake(EVPL_CHANNEL_BLOCKING, n);
}

static double wake_lane(long n)
{
	return wake(EVPL_CHANNEL_BLOCKING | EVPL_CHANNEL_LANE, n);
}

/*
 * Send messages of 1 MiB to another process, which reads a byte of each page, and answers
 * every eighth message over @socket. @open is called before the process is forked.
 */
#define STREAM 8

struct way {
	void (*open)(void *state);
	void (*begin)(void *state, bool child);
	void (*send)(int socket, void *state);
	void (*receive)(int socket, void *state);
	void (*end)(void *state);
};

static double to_another(const struct way *way, void *state, long n)
{
	char byte = 0;
	double start;
	int pair[2];
	pid_t child;
	long i;

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
		fail("socketpair");
	way->open(state);
	child = fork();
	if (child < 0)
		fail("fork");
	way->begin(state, !child);
	if (!child) {
		for (i = 0; i < n; i++) {
			way->receive(pair[1], state);
			if (i % STREAM == STREAM - 1 && write(pair[1], &byte, 1) != 1)
				_exit(1);
		}
		_exit(0);
	}
	start = now_ns();
	for (i = 0; i < n; i++) {
		way->send(pair[0], state);
		if (i % STREAM == STREAM - 1 && read(pair[0], &byte, 1) != 1)
			fail("the other process");
	}
	start = now_ns() - start;
	waitpid(child, NULL, 0);
	way->end(state);
	close(pair[0]);
	close(pair[1]);
	return start;
}

static void look(const char *memory)
{
	size_t i;

	for (i = 0; i < MIB; i += PAGE)
		(void)((const volatile char *)memory)[i];
}

/* Through a channel of the module. */
struct by_channel {
	struct evpl_pool *pool;
	struct evpl *evpl;
	struct evpl_channel *channel;
	int peer;
};

static void channel_open(void *state)
{
	struct by_channel *by = state;

	/* All memory is allocated at the beginning, and reused. */
	by->pool = open_pool(MIB, SLAB);
	if (evpl_pool_preallocate(by->pool, SLAB, EVPL_ANY_NODE) ||
	    evpl_create(&by->evpl, by->pool, NULL) ||
	    evpl_channel_create(&by->channel, by->pool, 0, EVPL_CHANNEL_BLOCKING, &by->peer))
		fail("evpl_channel_create");
}

static void channel_begin(void *state, bool child)
{
	struct by_channel *by = state;

	if (!child) {
		close(by->peer);
		return;
	}
	evpl_channel_close(by->channel);
	by->pool = open_pool(MIB, 0);
	if (evpl_channel_bind(&by->channel, by->pool, by->peer, EVPL_CHANNEL_BLOCKING))
		fail("evpl_channel_bind");
}

static void channel_end(void *state)
{
	struct by_channel *by = state;

	evpl_channel_close(by->channel);
	evpl_destroy(by->evpl);
	if (evpl_pool_close(by->pool))
		fail("evpl_pool_close");
}

static void channel_send(int socket, void *state)
{
	struct evpl_message message = { .iovec = { 0 } };
	struct by_channel *by = state;

	(void)socket;
	if (evpl_buffer_alloc(by->evpl, &message.iovec) != 1)
		fail("evpl_buffer_alloc");
	touch(message.iovec.data, MIB);
	if (evpl_channel_send(by->channel, &message, 1))
		fail("evpl_channel_send");
}

static void channel_receive(int socket, void *state)
{
	struct by_channel *by = state;
	struct evpl_message message;

	(void)socket;
	if (evpl_channel_recv(by->channel, &message, 1) != 1)
		fail("evpl_channel_recv");
	look(message.iovec.data);
	evpl_iovec_release(&message.iovec);
}

static double channel_1m(long n)
{
	static const struct way way = {
		channel_open, channel_begin, channel_send, channel_receive, channel_end,
	};
	struct by_channel state;

	return to_another(&way, &state, n);
}

/* Through a Unix socket, which copies. */
static void socket_open(void *state)
{
	char **memory = state;

	*memory = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (*memory == MAP_FAILED)
		fail("mmap");
}

static void socket_begin(void *state, bool child)
{
	/* Fault the child's pages in before the measurement. */
	if (child)
		touch(*(char **)state, MIB);
}

static void socket_send(int socket, void *state)
{
	char *memory = *(char **)state;
	size_t sent;
	ssize_t n;

	touch(memory, MIB);
	for (sent = 0; sent < MIB; sent += (size_t)n) {
		n = write(socket, memory + sent, MIB - sent);
		if (n <= 0)
			fail("write");
	}
}

static void socket_receive(int socket, void *state)
{
	char *memory = *(char **)state;
	size_t got;
	ssize_t n;

	for (got = 0; got < MIB; got += (size_t)n) {
		n = read(socket, memory + got, MIB - got);
		if (n <= 0)
			fail("read");
	}
	look(memory);
}

static void socket_end(void *state)
{
	munmap(*(char **)state, MIB);
}

static double socket_1m(long n)
{
	static const struct way way = {
		socket_open, socket_begin, socket_send, socket_receive, socket_end,
	};
	char *state;

	return to_another(&way, &state, n);
}

/* As a memfd for each message. */
union control {
	char bytes[CMSG_SPACE(sizeof(int))];
	struct cmsghdr align;
};

static void memfd_nothing(void *state)
{
	(void)state;
}

static void memfd_begin(void *state, bool child)
{
	(void)state;
	(void)child;
}

static void memfd_send(int socket, void *state)
{
	union control control = { .bytes = { 0 } };
	char byte = 0, *memory;
	struct iovec iovec = { &byte, 1 };
	struct msghdr message = {
		.msg_iov = &iovec, .msg_iovlen = 1,
		.msg_control = &control, .msg_controllen = sizeof(control),
	};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	int fd = memfd_create("bench", MFD_CLOEXEC);

	(void)state;
	if (fd < 0 || ftruncate(fd, MIB))
		fail("memfd_create");
	memory = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (memory == MAP_FAILED)
		fail("mmap");
	touch(memory, MIB);
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(fd));
	memcpy(CMSG_DATA(header), &fd, sizeof(fd));
	if (sendmsg(socket, &message, 0) != 1)
		fail("sendmsg");
	munmap(memory, MIB);
	close(fd);
}

static void memfd_receive(int socket, void *state)
{
	union control control;
	char byte, *memory;
	struct iovec iovec = { &byte, 1 };
	struct msghdr message = {
		.msg_iov = &iovec, .msg_iovlen = 1,
		.msg_control = &control, .msg_controllen = sizeof(control),
	};
	int fd;

	(void)state;
	if (recvmsg(socket, &message, MSG_CMSG_CLOEXEC) != 1 || !CMSG_FIRSTHDR(&message))
		fail("recvmsg");
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(fd));
	memory = mmap(NULL, MIB, PROT_READ, MAP_SHARED, fd, 0);
	if (memory == MAP_FAILED)
		fail("mmap");
	look(memory);
	munmap(memory, MIB);
	close(fd);
}

static double memfd_1m(long n)
{
	static const struct way way = {
		memfd_nothing, memfd_begin, memfd_send, memfd_receive, memfd_nothing,
	};

	return to_another(&way, NULL, n);
}

/* Registered memory of 2 MiB, of the module or of hugetlb. */
struct memory {
	char *data;
	struct client client;
};

static struct memory of_module(void)
{
	struct memory memory;

	memory.client.fd = open("/dev/evpl", O_RDWR | O_CLOEXEC);
	memory.data = mmap(NULL, 2 * MIB, PROT_READ | PROT_WRITE, MAP_SHARED, memory.client.fd, 0);
	if (memory.client.fd < 0 || memory.data == MAP_FAILED)
		fail("/dev/evpl");
	touch(memory.data, 2 * MIB);
	return memory;
}

static struct memory of_hugetlb(void)
{
	struct memory memory;

	memory.client.fd = memfd_create("bench", MFD_CLOEXEC | MFD_HUGETLB);
	if (memory.client.fd < 0 || ftruncate(memory.client.fd, 2 * MIB))
		fail("hugetlb memfd");
	memory.data = mmap(NULL, 2 * MIB, PROT_READ | PROT_WRITE, MAP_SHARED, memory.client.fd, 0);
	if (memory.data == MAP_FAILED)
		fail("hugetlb memfd: mmap");
	touch(memory.data, 2 * MIB);
	return memory;
}

static void memory_end(struct memory memory)
{
	munmap(memory.data, 2 * MIB);
	close(memory.client.fd);
}

/* Write 4 KiB at a time to the disk and read them back, with 8 requests at once. */
#define DEPTH 8

static void ring_make(struct io_uring *ring)
{
	if (io_uring_queue_init(DEPTH, ring, 0) || io_uring_register_buffers_sparse(ring, 1))
		fail("a ring with a table of registered buffers");
}

/* Has the module fill or clear the ring's slot. Returns the result of the command. */
static int uring_command(struct io_uring *ring, int fd, __u32 op, __u32 length)
{
	struct evpl_uring_buffer buffer = {
		.length = length,
		.flags = length ? EVPL_URING_WRITE : 0,
	};
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
	struct io_uring_cqe *cqe;
	int result;

	io_uring_prep_rw(IORING_OP_URING_CMD, sqe, fd, NULL, 0, 0);
	sqe->cmd_op = op;
	memcpy(sqe->cmd, &buffer, sizeof(buffer));
	if (io_uring_submit_and_wait(ring, 1) != 1 || io_uring_wait_cqe(ring, &cqe))
		fail("a command through a ring");
	result = cqe->res;
	io_uring_cqe_seen(ring, cqe);
	return result;
}

/* Has io_uring pin memory for the ring's slot, or clear the slot. */
static void uring_pin(struct io_uring *ring, void *data, size_t length)
{
	struct iovec iovec = { data, length };
	__u64 tag = 0;

	if (io_uring_register_buffers_update_tag(ring, 0, &iovec, &tag, 1) != 1)
		fail("a registered buffer");
}

/* Whether the module registers memory with rings, as on Linux 7.3. */
static bool module_registers(void)
{
	int fd = open("/dev/evpl", O_RDWR | O_CLOEXEC), result;
	struct io_uring ring;

	ring_make(&ring);
	result = uring_command(&ring, fd, EVPL_URING_UNREGISTER, 0);
	io_uring_queue_exit(&ring);
	close(fd);
	return result == -EINVAL;
}

static double fixed_io(struct memory memory, bool by_module, long n)
{
	int fd = open(disk, O_RDWR | O_DIRECT), j;
	/* In what the module has registered, the first byte has address 0. */
	char *data = by_module ? NULL : memory.data;
	struct io_uring_cqe *cqe;
	struct io_uring_sqe *sqe;
	struct io_uring ring;
	double start;
	long i;

	if (fd < 0)
		fail(disk);
	ring_make(&ring);
	if (!by_module)
		uring_pin(&ring, memory.data, 2 * MIB);
	else if (uring_command(&ring, memory.client.fd, EVPL_URING_REGISTER, 2 * MIB))
		fail("a buffer that the module registers");
	start = now_ns();
	for (i = 0; i < n; i += DEPTH) {
		for (j = 0; j < DEPTH; j++) {
			sqe = io_uring_get_sqe(&ring);
			if (i / DEPTH % 2)
				io_uring_prep_read_fixed(sqe, fd, data + j * PAGE, PAGE,
							 (__u64)j * PAGE, 0);
			else
				io_uring_prep_write_fixed(sqe, fd, data + j * PAGE, PAGE,
							  (__u64)j * PAGE, 0);
		}
		if (io_uring_submit_and_wait(&ring, DEPTH) != DEPTH)
			fail("io_uring_submit_and_wait");
		for (j = 0; j < DEPTH; j++) {
			if (io_uring_wait_cqe(&ring, &cqe) || cqe->res != (int)PAGE)
				fail("fixed I/O");
			io_uring_cqe_seen(&ring, cqe);
		}
	}
	start = now_ns() - start;
	io_uring_queue_exit(&ring);
	close(fd);
	memory_end(memory);
	return start;
}

static double uring_module(long n)
{
	return fixed_io(of_module(), false, n);
}

static double uring_by_module(long n)
{
	return fixed_io(of_module(), true, n);
}

static double uring_hugetlb(long n)
{
	return fixed_io(of_hugetlb(), false, n);
}

/* Registers a slab with a ring, and clears the slot. */
static double register_slab(bool by_module, long n)
{
	struct client client = slab_make();
	struct io_uring ring;
	double start;
	long i;

	ring_make(&ring);
	start = now_ns();
	for (i = 0; i < n; i++) {
		if (!by_module) {
			uring_pin(&ring, client.memory, SLAB);
			uring_pin(&ring, NULL, 0);
		} else if (uring_command(&ring, client.fd, EVPL_URING_REGISTER, SLAB) ||
			   uring_command(&ring, client.fd, EVPL_URING_UNREGISTER, 0)) {
			fail("a slab that the module registers");
		}
	}
	start = now_ns() - start;
	io_uring_queue_exit(&ring);
	slab_end(client);
	return start;
}

static double register_by_module(long n)
{
	return register_slab(true, n);
}

static double register_by_pins(long n)
{
	return register_slab(false, n);
}

/* Send 64 KiB at a time from one queue pair to another. */
#define MESSAGE (64 * KIB)

static struct ibv_context *rdma;

static double rdma_sends(struct memory memory, long n)
{
	struct ibv_pd *pd = ibv_alloc_pd(rdma);
	struct ibv_mr *mr = pd ? ibv_reg_mr(pd, memory.data, 2 * MIB, IBV_ACCESS_LOCAL_WRITE) : NULL;
	struct ibv_sge from = { (uintptr_t)memory.data, MESSAGE, mr ? mr->lkey : 0 };
	struct ibv_sge to = { (uintptr_t)memory.data + MIB, MESSAGE, mr ? mr->lkey : 0 };
	struct ibv_recv_wr receive = { .sg_list = &to, .num_sge = 1 }, *bad_receive;
	struct ibv_send_wr send = {
		.sg_list = &from, .num_sge = 1, .opcode = IBV_WR_SEND, .send_flags = IBV_SEND_SIGNALED,
	}, *bad_send;
	struct pair pair;
	struct ibv_wc wc;
	double start;
	int got, left;
	long i;

	if (!mr || pair_make(&pair, rdma, pd))
		fail("RDMA");
	start = now_ns();
	for (i = 0; i < n; i++) {
		if (ibv_post_recv(pair.qp[1], &receive, &bad_receive) ||
		    ibv_post_send(pair.qp[0], &send, &bad_send))
			fail("ibv_post_send");
		for (left = 2; left; left -= got) {
			got = ibv_poll_cq(pair.cq, 1, &wc);
			if (got < 0 || (got && wc.status != IBV_WC_SUCCESS))
				fail("RDMA send");
			if (!got)
				sched_yield();
		}
	}
	start = now_ns() - start;
	pair_end(&pair);
	ibv_dereg_mr(mr);
	ibv_dealloc_pd(pd);
	memory_end(memory);
	return start;
}

static double rdma_module(long n)
{
	return rdma_sends(of_module(), n);
}

static double rdma_hugetlb(long n)
{
	return rdma_sends(of_hugetlb(), n);
}

static bool find_rdma(void)
{
	struct ibv_device **devices = ibv_get_device_list(NULL);

	if (devices && devices[0])
		rdma = ibv_open_device(devices[0]);
	return rdma;
}

/* Be a client with so many leases, until it is killed. */
static void hold_leases(int peer, int count, int ready)
{
	struct evpl_pool *pool = open_pool(PAGE, 0);
	struct evpl_message messages[64];
	struct evpl_channel *channel;
	int got;

	if (evpl_channel_bind(&channel, pool, peer, EVPL_CHANNEL_BLOCKING))
		fail("evpl_channel_bind");
	for (; count > 0; count -= got) {
		got = evpl_channel_recv(channel, messages, 64);
		if (got <= 0)
			fail("evpl_channel_recv");
	}
	if (write(ready, "", 1) != 1)
		fail("write");
	for (;;)
		pause();
}

/* A bystander uses a channel of its own meanwhile, and notes the longest round. */
struct bystander {
	pthread_t thread;
	atomic_bool stop;
	double longest;
};

static void *stand_by(void *arg)
{
	struct bystander *bystander = arg;
	double start;

	while (!atomic_load(&bystander->stop)) {
		start = channel(1);
		if (start > bystander->longest)
			bystander->longest = start;
	}
	return NULL;
}

static double death_of(int count, double *others)
{
	struct bystander bystander = { .longest = 0 };
	struct evpl_pool *pool = open_pool(PAGE, 0);
	struct evpl_message message = { .iovec = { 0 } };
	struct evpl_channel *channel;
	int fds[2], peer, i;
	struct evpl *evpl;
	double start;
	pid_t child;
	char byte;

	if (evpl_pool_preallocate(pool, SLAB, EVPL_ANY_NODE) ||
	    evpl_create(&evpl, pool, NULL) || pipe(fds) ||
	    evpl_channel_create(&channel, pool, 0, EVPL_CHANNEL_BLOCKING, &peer))
		fail("evpl_channel_create");
	child = fork();
	if (!child)
		hold_leases(peer, count, fds[1]);
	close(peer);
	for (i = 0; i < count; i++)
		if (evpl_buffer_alloc(evpl, &message.iovec) != 1 ||
		    evpl_channel_send(channel, &message, 1))
			fail("evpl_channel_send");
	if (read(fds[0], &byte, 1) != 1)
		fail("the other process");
	if (others && pthread_create(&bystander.thread, NULL, stand_by, &bystander))
		fail("pthread_create");
	start = now_ns();
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	start = now_ns() - start;
	if (others) {
		atomic_store(&bystander.stop, true);
		pthread_join(bystander.thread, NULL);
		*others = bystander.longest;
	}
	evpl_channel_close(channel);
	evpl_destroy(evpl);
	if (evpl_pool_close(pool))
		fail("evpl_pool_close after a death");
	close(fds[0]);
	close(fds[1]);
	return start;
}

#define FEW_LEASES	4000

/* The time that @n deaths take, or the longest rounds of the others meanwhile. */
static double deaths(int count, bool others, long n)
{
	double all = 0, taken, longest;
	long i;

	for (i = 0; i < n; i++) {
		taken = death_of(count, others ? &longest : NULL);
		all += others ? longest : taken;
	}
	return all;
}

/* With four times as many leases, a quarter of the time. */
static double death_of_many(long n)
{
	return deaths(4 * FEW_LEASES, false, n) / 4;
}

static double death_of_few(long n)
{
	return deaths(FEW_LEASES, false, n);
}

static double others_with_many(long n)
{
	return deaths(4 * FEW_LEASES, true, n);
}

static double others_with_few(long n)
{
	return deaths(FEW_LEASES, true, n);
}

/* How many bytes the cgroup of the benchmarks is charged for. */
static double charged(void)
{
	char line[32] = "";
	FILE *file = fopen("/sys/fs/cgroup/bench/memory.current", "r");

	if (!file || !fgets(line, sizeof(line), file))
		fail("memory.current");
	fclose(file);
	return atof(line);
}

#define SLABS 8

/* How many bytes @n buffers of 4 KiB cost beside themselves. */
static double memory_of_buffers(long n)
{
	struct evpl_setup setup = { .size = sizeof(setup), .buffer_size = PAGE };
	struct evpl_slab_alloc alloc = { .size = sizeof(alloc), .length = SLAB, .node = -1 };
	int fd = open("/dev/evpl", O_RDWR | O_CLOEXEC), i;
	double before;

	if (fd < 0 || ioctl(fd, EVPL_SETUP, &setup))
		fail("/dev/evpl");
	before = charged();
	for (i = 0; i < SLABS; i++)
		if (ioctl(fd, EVPL_SLAB_ALLOC, &alloc))
			fail("EVPL_SLAB_ALLOC");
	before = charged() - before - (double)SLABS * SLAB;
	close(fd);
	return before / (SLABS * SLAB / PAGE) * (double)n;
}

/* 64 bytes in its entry, 16 in the kernel, and 32 for each folio of 512 buffers. */
static double memory_allowed(long n)
{
	return (64 + 16 + 32.0 / 512) * (double)n;
}

/*
 * A client of 256 buffers in four slabs is adopted again and again, by processes that die after it.
 * This process keeps the descriptor.
 */
#define ADOPTED_BUFFERS	256UL
#define MANY_BYTES	(4096 * MIB)
#define FEW_BYTES	(64 * MIB)

static struct evpl_pool *adopt_all(int fd, size_t bytes)
{
	struct evpl_pool_config config = {
		.size = sizeof(config),
		.backend = EVPL_BACKEND_MODULE,
		.buffer_size = bytes / ADOPTED_BUFFERS,
		.slab_size = bytes / 4,
		.slab_size_max = bytes / 4,
	};
	struct evpl_pool *pool;

	if (evpl_pool_adopt(&pool, fd, &config)) {
		fprintf(stderr, "bench: %s\n", evpl_last_error());
		_exit(1);
	}
	return pool;
}

/* Returns the descriptor of such a client, whose process is dead. */
static int leave_client(size_t bytes)
{
	int fd = open("/dev/evpl", O_RDWR | O_CLOEXEC), status;
	pid_t child = fork();

	if (!child)
		_exit(evpl_pool_preallocate(adopt_all(fd, bytes), bytes, EVPL_ANY_NODE) != 0);
	if (child < 0 || waitpid(child, &status, 0) != child || status)
		fail("a client to adopt");
	return fd;
}

static void adopt_in_child(int fd, size_t bytes, int result)
{
	struct evpl_pool_stats stats = EVPL_POOL_STATS_INIT;
	double taken = now_ns();
	struct evpl_pool *pool = adopt_all(fd, bytes);

	taken = now_ns() - taken;
	if (evpl_pool_stats(pool, &stats) || stats.slabs != 4 || stats.bytes != bytes)
		_exit(1);
	_exit(write(result, &taken, sizeof(taken)) != sizeof(taken));
}

static double adopt(int *fd, size_t bytes, long n)
{
	double all = 0, taken;
	int result[2];
	long i;

	if (!*fd)
		*fd = leave_client(bytes);
	if (pipe(result))
		fail("pipe");
	for (i = 0; i < n; i++) {
		pid_t child = fork();
		int status;

		if (!child)
			adopt_in_child(*fd, bytes, result[1]);
		if (child < 0 || waitpid(child, &status, 0) != child || status ||
		    read(result[0], &taken, sizeof(taken)) != sizeof(taken))
			fail("adopting");
		all += taken;
	}
	close(result[0]);
	close(result[1]);
	return all;
}

static double adopt_many_bytes(long n)
{
	static int fd;

	return adopt(&fd, MANY_BYTES, n);
}

static double adopt_few_bytes(long n)
{
	static int fd;

	return adopt(&fd, FEW_BYTES, n);
}

/* Whether a user may have so much memory. By default it is half of what the machine has. */
static bool may_have(size_t bytes)
{
	FILE *file = fopen("/sys/module/evpl/parameters/max_bytes_per_user", "r");
	size_t cap = 0;

	if (!file || fscanf(file, "%zu", &cap) != 1)
		fail("max_bytes_per_user");
	fclose(file);
	return cap > bytes;
}

int main(int argc, char **argv)
{
	if (argc != 2) {
		fprintf(stderr, "Usage: bench-module DISK, which is overwritten\n");
		return 64;
	}
	disk = argv[1];
	compare("slab", slab, slab_memset, 2);
	compare("slab-faults", slab_faults, slab_folios, 2);
	if (!access("/dev/dma_heap/system", F_OK))
		compare("slab-heap", slab, slab_heap, 2);
	if (!access("/dev/udmabuf", F_OK))
		compare("slab-udmabuf", slab, slab_udmabuf, 2);
	compare("channel-pipe", records, channel_pipe, 5000);
	compare("channel-library", channel, channel_pipe, 5000);
	compare("lane-channel", lane, channel, 5000);
	compare("lane-wake", wake_lane, wake_channel, 5000);
	compare("channel-socket", channel_1m, socket_1m, 400);
	compare("channel-memfd", channel_1m, memfd_1m, 400);
	compare("memory", memory_of_buffers, memory_allowed, 1);
	compare("death", death_of_many, death_of_few, 1);
	compare("death-others", others_with_many, others_with_few, 1);
	compare("uring", uring_module, uring_hugetlb, 6400);
	compare("uring-hugetlb", uring_hugetlb, uring_hugetlb, 6400);
	if (module_registers()) {
		compare("uring-register", register_by_module, register_by_pins, 400);
		compare("uring-uncharged", uring_by_module, uring_module, 6400);
	}
	if (find_rdma()) {
		compare("rdma", rdma_module, rdma_hugetlb, 500);
		compare("rdma-hugetlb", rdma_hugetlb, rdma_hugetlb, 500);
	}
	/* The memory stays until this process ends. */
	if (counts_instructions() && may_have(MANY_BYTES + 2 * FEW_BYTES))
		compare("adopt", adopt_many_bytes, adopt_few_bytes, 4);
	return 0;
}
