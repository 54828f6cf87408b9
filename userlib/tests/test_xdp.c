// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * AF_XDP: a slab is the umem of a socket, packets arrive in iovecs and are sent from them. The
 * tests use veth, in a network namespace of their own. The other end is an ordinary packet socket.
 *
 * This file is an example, too. A umem is one range of memory, so each slab is a umem, with a
 * socket of its own. A umem is cut into frames, and the rings carry offsets in the umem. So an
 * iovec of a frame's length and alignment is a frame, and its offset in the slab is the number
 * that the rings carry. A frame that the kernel has keeps its reference: the table @lent holds
 * the reference, by the frame's number, until the frame comes back.
 */
#include "pinned.h"

#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_link.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <sys/socket.h>
#include <xdp/xsk.h>

#define FRAME	4096U
#define FRAMES	(SLAB / FRAME)
#define LENT	32U		/* frames in the fill ring, which wait for packets */
#define ROUNDS	20
#define PROTOCOL 0x88b5		/* an EtherType for local experiments */
#define PACKET_MAX 1514U

/* A slab as a umem, and the umem's socket. */
struct port {
	char *base;
	struct xsk_umem *umem;
	struct xsk_ring_prod fill, tx;
	struct xsk_ring_cons completion, rx;
	struct xsk_socket *socket;
	int program, map, link;
	struct evpl_iovec lent[FRAMES];
};

static int register_slab(void *arg, const struct evpl_slab_info *slab, uint64_t *cookie)
{
	struct xsk_umem_config config = { .fill_size = 64, .comp_size = 64, .frame_size = FRAME };
	struct port *port = arg;

	port->base = slab->base;
	*cookie = (uintptr_t)port;
	return xsk_umem__create(&port->umem, slab->base, slab->length, &port->fill,
				&port->completion, &config);
}

/* If the socket is still open, it keeps the umem, and the umem keeps its pages. */
static int unregister_slab(void *arg, const struct evpl_slab_info *slab, uint64_t cookie)
{
	struct port *port = (struct port *)(uintptr_t)cookie;

	if (!xsk_umem__delete(port->umem))
		port->umem = NULL;
	return 0;
}

static const struct evpl_device_ops ops = {
	.size = sizeof(ops),
	.register_slab = register_slab,
	.unregister_slab = unregister_slab,
};

/* Loads a program that gives all packets of a queue to the queue's socket in the map. */
static int load_program(int map)
{
	struct bpf_insn code[] = {
		{ .code = BPF_LDX | BPF_MEM | BPF_W, .dst_reg = BPF_REG_2, .src_reg = BPF_REG_1,
		  .off = offsetof(struct xdp_md, rx_queue_index) },
		{ .code = BPF_LD | BPF_IMM | BPF_DW, .dst_reg = BPF_REG_1,
		  .src_reg = BPF_PSEUDO_MAP_FD, .imm = map },
		{ 0 },
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_3, .imm = XDP_PASS },
		{ .code = BPF_JMP | BPF_CALL, .imm = BPF_FUNC_redirect_map },
		{ .code = BPF_JMP | BPF_EXIT },
	};

	return bpf_prog_load(BPF_PROG_TYPE_XDP, "evpl_test", "Dual MIT/GPL", code,
			     sizeof(code) / sizeof(code[0]), NULL);
}

/* Opens the umem's socket, on the only queue of a device. Returns 0 or -errno. */
static int open_socket(struct port *port, const char *device, uint32_t xdp_flags,
		       uint16_t bind_flags)
{
	LIBBPF_OPTS(bpf_link_create_opts, link_opts, .flags = xdp_flags);
	struct xsk_socket_config config = {
		.rx_size = 64,
		.tx_size = 64,
		.libxdp_flags = XSK_LIBXDP_FLAGS__INHIBIT_PROG_LOAD,
		.bind_flags = bind_flags,
	};
	int err;

	port->link = -1;
	port->program = -1;
	port->map = bpf_map_create(BPF_MAP_TYPE_XSKMAP, "evpl_test", sizeof(int), sizeof(int),
				   1, NULL);
	if (port->map < 0)
		return port->map;
	port->program = load_program(port->map);
	port->link = bpf_link_create(port->program, (int)if_nametoindex(device), BPF_XDP,
				     &link_opts);
	if (port->link < 0)
		return port->link;
	err = xsk_socket__create(&port->socket, device, 0, port->umem, &port->rx, &port->tx,
				 &config);
	return err ? err : xsk_socket__update_xskmap(port->socket, port->map);
}

static void close_socket(struct port *port)
{
	if (port->socket)
		xsk_socket__delete(port->socket);
	port->socket = NULL;
	close(port->link);
	close(port->program);
	close(port->map);
}

/* The offset of a slice in its umem. */
static uint64_t to_address(const struct port *port, const struct evpl_iovec *iovec)
{
	return (uint64_t)((char *)iovec->data - port->base);
}

/* Moves the reference of a frame to the table, before the kernel gets the frame. */
static uint64_t lend(struct port *port, struct evpl_iovec *iovec)
{
	uint64_t address = to_address(port, iovec);

	evpl_iovec_move(&port->lent[address / FRAME], iovec);
	return address;
}

/* Takes the reference back, as an iovec of the part of the frame that the kernel names. */
static void take_back(struct port *port, uint64_t address, uint32_t length,
		      struct evpl_iovec *iovec)
{
	struct evpl_iovec *frame = &port->lent[address / FRAME];

	if (evpl_iovec_clone_segment(iovec, frame, address % FRAME, length))
		abort();
	evpl_iovec_release(frame);
	*frame = (struct evpl_iovec){ 0 };
}

/* Gives a frame to the kernel, to be filled with a packet. */
static bool expect_packet(struct port *port, struct evpl_iovec *iovec)
{
	uint32_t at;

	if (xsk_ring_prod__reserve(&port->fill, 1, &at) != 1)
		return false;
	*xsk_ring_prod__fill_addr(&port->fill, at) = lend(port, iovec);
	xsk_ring_prod__submit(&port->fill, 1);
	return true;
}

/* Waits for the next packet, for 20 seconds at most. @iovec is where the packet arrived. */
static bool receive_packet(struct port *port, struct evpl_iovec *iovec)
{
	struct pollfd pollfd = { .fd = xsk_socket__fd(port->socket), .events = POLLIN };
	const struct xdp_desc *desc;
	uint32_t at;

	while (xsk_ring_cons__peek(&port->rx, 1, &at) != 1)
		if (poll(&pollfd, 1, 20 * 1000) != 1)
			return false;
	desc = xsk_ring_cons__rx_desc(&port->rx, at);
	take_back(port, desc->addr, desc->len, iovec);
	xsk_ring_cons__release(&port->rx, 1);
	return true;
}

/* Sends a slice, which lies in one frame. The table has its reference until it has been sent. */
static bool send_packet(struct port *port, struct evpl_iovec *iovec)
{
	struct xdp_desc *desc;
	uint32_t at;

	if (xsk_ring_prod__reserve(&port->tx, 1, &at) != 1)
		return false;
	desc = xsk_ring_prod__tx_desc(&port->tx, at);
	*desc = (struct xdp_desc){ .len = iovec->length };
	desc->addr = to_address(port, iovec);
	evpl_iovec_move(&port->lent[desc->addr / FRAME], iovec);
	xsk_ring_prod__submit(&port->tx, 1);
	return !sendto(xsk_socket__fd(port->socket), NULL, 0, MSG_DONTWAIT, NULL, 0);
}

/* Releases the frames of packets that have been sent. Returns the number of packets. */
static unsigned int reap(struct port *port)
{
	unsigned int i, n;
	uint32_t at;

	n = xsk_ring_cons__peek(&port->completion, LENT, &at);
	for (i = 0; i < n; i++) {
		uint64_t address = *xsk_ring_cons__comp_addr(&port->completion, at + i);

		evpl_iovec_release(&port->lent[address / FRAME]);
		port->lent[address / FRAME] = (struct evpl_iovec){ 0 };
	}
	xsk_ring_cons__release(&port->completion, n);
	return n;
}

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
	ASSERT_EQ(0, evpl_device_attach(self->pool, &ops, &self->port, &self->device));
	ASSERT_EQ(0, evpl_pool_preallocate(self->pool, SLAB, EVPL_ANY_NODE));
	ASSERT_NE(NULL, self->port.umem);
	self->peer = open_peer("evpl1");
	ASSERT_LE(0, self->peer);
	err = open_socket(&self->port, "evpl0", variant->xdp_flags, variant->bind_flags);
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
	close_socket(&self->port);
	evpl_iovecs_release(self->port.lent, FRAMES);
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

	for (i = 0; i < LENT; i++) {
		ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, FRAME, FRAME, 1, &iovec));
		memset(iovec.data, 0, FRAME);
		ASSERT_TRUE(expect_packet(&self->port, &iovec));
	}
	for (round = 0; round < ROUNDS; round++) {
		for (i = 0; i < LENT; i++) {
			length = make_packet(packet, round * LENT + i);
			ASSERT_EQ(length, send(self->peer, packet, length, 0));
		}
		for (i = 0; i < LENT; i++) {
			length = make_packet(packet, round * LENT + i);
			ASSERT_TRUE(receive_packet(&self->port, &iovec));
			ASSERT_EQ(length, iovec.length);
			ASSERT_EQ(0, memcmp(iovec.data, packet, length));
			evpl_iovec_release(&iovec);
			/* Another frame takes the place of this one. */
			ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, FRAME, FRAME, 1, &iovec));
			ASSERT_TRUE(expect_packet(&self->port, &iovec));
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
		ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, FRAME, FRAME, 1, &frame));
		/* A packet may start anywhere in its frame. */
		ASSERT_EQ(0, evpl_iovec_clone_segment(&iovec, &frame, i % 100, length));
		evpl_iovec_release(&frame);
		memcpy(iovec.data, packet, length);
		ASSERT_TRUE(send_packet(&self->port, &iovec));
		ASSERT_EQ(length, recv(self->peer, sent, sizeof(sent), 0));
		ASSERT_EQ(0, memcmp(sent, packet, length));
		for (reaped = 0; !reaped;)
			reaped = reap(&self->port);
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
	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, FRAME, FRAME, 1, &iovec));
	ASSERT_TRUE(expect_packet(&self->port, &iovec));
	evpl_iovecs_release(self->port.lent, FRAMES);
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

	close_socket(&self->port);
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

	charge->err = register_slab(&charge->port, &charge->slab, &cookie);
	if (!charge->err)
		unregister_slab(&charge->port, &charge->slab, cookie);
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
	ASSERT_EQ(1, evpl_iovec_alloc(evpl, FRAME, FRAME, 1, &iovec));
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
