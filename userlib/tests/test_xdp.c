// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * AF_XDP: a slab is the umem of a socket, packets arrive in iovecs and are sent from them, by
 * examples/xdp.h. The tests use veth, in a network namespace of their own. The other end is an
 * ordinary packet socket.
 */
#include "pinned.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <sched.h>

#include "../examples/xdp.h"

#define LENT	32U		/* frames in the fill ring, which wait for packets */
#define ROUNDS	20
#define PROTOCOL 0x88b5		/* an EtherType for local experiments */
#define PACKET_MAX 1514U

/* Makes an Ethernet frame, whose length and contents depend on the seed. */
static uint32_t make_packet(char *packet, unsigned int seed)
{
	uint32_t length = seed % 16 ? ETH_ZLEN + seed * 97 % (PACKET_MAX - ETH_ZLEN) : PACKET_MAX;
	struct ethhdr header = { .h_source = { 2 }, .h_proto = htons(PROTOCOL) };
	uint32_t i;

	memset(header.h_dest, 0xff, ETH_ALEN);
	memcpy(packet, &header, sizeof(header));
	for (i = sizeof(header); i < length; i++)
		packet[i] = (char)(i * 7 + (i >> 8) + seed * 13);
	return length;
}

/* Opens an ordinary packet socket at the other end. */
static int open_peer(const char *device)
{
	struct sockaddr_ll address = {
		.sll_family = AF_PACKET,
		.sll_protocol = htons(PROTOCOL),
		.sll_ifindex = (int)if_nametoindex(device),
	};
	struct timeval limit = { .tv_sec = 20 };
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(PROTOCOL));

	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) ||
	    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)))
		return -1;
	return fd;
}

/* Has this process send from one processor: packets from two may overtake each other. */
static bool stay_here(void)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(sched_getcpu(), &set);
	return !sched_setaffinity(0, sizeof(set), &set);
}

/* Makes a veth pair, in a network namespace that ends with this process. */
static const char *make_wire(void)
{
	int fd;

	if (unshare(CLONE_NEWNET))
		return "needs root, to make a network of its own";
	/* With IPv6 the kernel would send packets of its own. */
	fd = open("/proc/sys/net/ipv6/conf/all/disable_ipv6", O_WRONLY | O_CLOEXEC);
	if (fd >= 0 && write(fd, "1", 1) != 1)
		abort();
	close(fd);
	if (system("ip link add evpl0 type veth peer name evpl1 2>/dev/null && "
		   "ip link set evpl0 up && ip link set evpl1 up"))
		return "this kernel has no veth";
	return NULL;
}

FIXTURE(xdp) {
	struct evpl_pool *pool;
	struct evpl *evpl;
	struct evpl_device *device;
	struct port port;
	int peer;
};

FIXTURE_VARIANT(xdp) {
	uint32_t xdp_flags;
	uint16_t bind_flags;
};

FIXTURE_VARIANT_ADD(xdp, generic) {
	.xdp_flags = XDP_FLAGS_SKB_MODE,
	.bind_flags = XDP_COPY,
};

FIXTURE_VARIANT_ADD(xdp, driver) {
	.xdp_flags = XDP_FLAGS_DRV_MODE,
	.bind_flags = XDP_COPY,
};

FIXTURE_VARIANT_ADD(xdp, zero_copy) {
	.xdp_flags = XDP_FLAGS_DRV_MODE,
	.bind_flags = XDP_ZEROCOPY,
};

FIXTURE_SETUP(xdp)
{
	const char *excuse = make_wire();
	int err;

	memset(self, 0, sizeof(*self));
	if (excuse)
		SKIP(return, "%s", excuse);
	ASSERT_EQ(0, open_pool(&self->pool, BUFFER, SLAB));
	ASSERT_EQ(0, evpl_create(&self->evpl, self->pool, NULL));
	ASSERT_EQ(0, evpl_device_attach(self->pool, &port_ops, &self->port, &self->device));
	ASSERT_EQ(0, evpl_pool_preallocate(self->pool, SLAB, EVPL_ANY_NODE));
	ASSERT_NE(NULL, self->port.umem);
	self->peer = open_peer("evpl1");
	ASSERT_LE(0, self->peer);
	err = port_open(&self->port, "evpl0", variant->xdp_flags, variant->bind_flags);
	if (err == -EPERM)
		SKIP(return, "needs root, to load a program of BPF");
	if (err == -EOPNOTSUPP && variant->bind_flags == XDP_ZEROCOPY)
		SKIP(return, "this kernel's veth copies");
	ASSERT_EQ(0, err);
}

FIXTURE_TEARDOWN(xdp)
{
	if (!self->pool)
		return;
	port_close(&self->port);
	evpl_iovecs_release(self->port.lent, PORT_FRAMES);
	evpl_destroy(self->evpl);
	EXPECT_EQ(0, used_in(self->pool));
	evpl_device_detach(self->device);
	EXPECT_EQ(NULL, self->port.umem);
	EXPECT_EQ(0, evpl_pool_close(self->pool));
	close(self->peer);
}

TEST_F(xdp, packets_arrive_in_iovecs)
{
	struct evpl_iovec iovec;
	char packet[PACKET_MAX];
	unsigned int i, round;
	uint32_t length;

	ASSERT_TRUE(stay_here());
	for (i = 0; i < LENT; i++) {
		ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, PORT_FRAME, PORT_FRAME, 1, &iovec));
		memset(iovec.data, 0, PORT_FRAME);
		ASSERT_TRUE(port_expect(&self->port, &iovec));
	}
	for (round = 0; round < ROUNDS; round++) {
		for (i = 0; i < LENT; i++) {
			length = make_packet(packet, round * LENT + i);
			ASSERT_EQ(length, send(self->peer, packet, length, 0));
		}
		for (i = 0; i < LENT; i++) {
			length = make_packet(packet, round * LENT + i);
			ASSERT_TRUE(port_receive(&self->port, &iovec));
			ASSERT_EQ(length, iovec.length);
			ASSERT_EQ(0, memcmp(iovec.data, packet, length));
			evpl_iovec_release(&iovec);
			/* Another frame takes the place of this one. */
			ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, PORT_FRAME, PORT_FRAME, 1,
						      &iovec));
			ASSERT_TRUE(port_expect(&self->port, &iovec));
		}
	}
}

TEST_F(xdp, packets_are_sent_from_iovecs)
{
	struct evpl_iovec frame, iovec;
	char packet[PACKET_MAX], sent[PACKET_MAX];
	unsigned int i, reaped;
	uint32_t length;

	for (i = 0; i < ROUNDS * LENT; i++) {
		length = make_packet(packet, i);
		ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, PORT_FRAME, PORT_FRAME, 1, &frame));
		/* A packet may start anywhere in its frame. */
		ASSERT_EQ(0, evpl_iovec_clone_segment(&iovec, &frame, i % 100, length));
		evpl_iovec_release(&frame);
		memcpy(iovec.data, packet, length);
		ASSERT_TRUE(port_send(&self->port, &iovec));
		ASSERT_EQ(length, recv(self->peer, sent, sizeof(sent), 0));
		ASSERT_EQ(0, memcmp(sent, packet, length));
		for (reaped = 0; !reaped;)
			reaped = port_reap(&self->port);
		ASSERT_EQ(1, reaped);
	}
}

TEST_F(xdp, slab_freed_while_it_is_a_umem_stays_charged_until_the_socket_is_closed)
{
	struct evpl_iovec iovec;
	char packet[PACKET_MAX];
	uint32_t at;

	if (stats_of(self->pool).backend != EVPL_BACKEND_MODULE)
		SKIP(return, "the module's alone");
	/* The kernel may take its time to close the sockets of earlier tests. */
	ASSERT_TRUE(detached_bytes_become(0));
	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, PORT_FRAME, PORT_FRAME, 1, &iovec));
	ASSERT_TRUE(port_expect(&self->port, &iovec));
	evpl_iovecs_release(self->port.lent, PORT_FRAMES);
	memset(self->port.lent, 0, sizeof(self->port.lent));
	evpl_destroy(self->evpl);
	evpl_device_detach(self->device);
	ASSERT_NE(NULL, self->port.umem);
	ASSERT_EQ(0, evpl_pool_close(self->pool));
	self->pool = NULL;
	EXPECT_EQ(SLAB, detached_bytes());

	/* Only the socket still has the memory, and receives into it. */
	ASSERT_EQ(PACKET_MAX, send(self->peer, packet, make_packet(packet, 0), 0));
	EXPECT_EQ(1, poll(&(struct pollfd){ .fd = xsk_socket__fd(self->port.socket),
					    .events = POLLIN }, 1, 20 * 1000));
	EXPECT_EQ(1, xsk_ring_cons__peek(&self->port.rx, 1, &at));
	EXPECT_EQ(SLAB, detached_bytes());

	port_close(&self->port);
	ASSERT_EQ(0, xsk_umem__delete(self->port.umem));
	EXPECT_TRUE(detached_bytes_become(0));
	close(self->peer);
}

struct charge {
	struct evpl_slab_info slab;
	struct port port;
	int err;
};

static void *try_to_register(void *arg)
{
	struct charge *charge = arg;
	uint64_t cookie;

	charge->err = port_register(&charge->port, &charge->slab, &cookie);
	if (!charge->err)
		port_unregister(&charge->port, &charge->slab, cookie);
	return NULL;
}

TEST(umem_counts_against_the_limit_of_locked_memory)
{
	struct evpl_iovec iovec;
	struct evpl_pool *pool;
	struct charge charge;
	struct evpl *evpl;
	int fd;

	fd = socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0);
	if (fd < 0)
		SKIP(return, "no AF_XDP socket can be made");
	close(fd);
	ASSERT_EQ(0, open_pool(&pool, BUFFER, SLAB));
	ASSERT_EQ(0, evpl_create(&evpl, pool, NULL));
	ASSERT_EQ(1, evpl_iovec_alloc(evpl, PORT_FRAME, PORT_FRAME, 1, &iovec));
	ASSERT_EQ(0, evpl_iovec_slab(&iovec, &charge.slab));

	on_limited_thread(64 * KB, try_to_register, &charge);
	EXPECT_EQ(-ENOBUFS, charge.err);
	/* With CAP_IPC_LOCK, which root has, the limit doesn't apply. */
	try_to_register(&charge);
	EXPECT_EQ(0, charge.err);
	EXPECT_EQ(NULL, charge.port.umem);

	evpl_iovec_release(&iovec);
	evpl_destroy(evpl);
	EXPECT_EQ(0, evpl_pool_close(pool));
}

TEST_HARNESS_MAIN
