/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPL_EXAMPLE_XDP_H
#define EVPL_EXAMPLE_XDP_H

/*
 * An example: AF_XDP with a slab as the umem of a socket. Packets arrive in iovecs and are sent
 * from them. userlib/tests/test_xdp.c uses it.
 *
 * A umem is one range of memory, so each slab is a umem, with a socket of its own. A umem is cut
 * into frames, and the rings carry offsets in the umem. So an iovec of a frame's length and
 * alignment is a frame, and its offset in the slab is the number that the rings carry. A frame
 * that the kernel has keeps its reference: the table @lent holds the reference, by the frame's
 * number, until the frame comes back.
 */
#include <bpf/bpf.h>
#include <errno.h>
#include <evplmem.h>
#include <linux/bpf.h>
#include <linux/if_link.h>
#include <net/if.h>
#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
#include <xdp/xsk.h>

#define PORT_SLAB	(2U << 20)	/* the pool's slab_size_max */
#define PORT_FRAME	4096U
#define PORT_FRAMES	(PORT_SLAB / PORT_FRAME)
#define PORT_RING	64U
#define PORT_BATCH	32U	/* completions that port_reap() takes at once, at most */

/* A slab as a umem, and the umem's socket. */
struct port {
	char *base;
	struct xsk_umem *umem;
	struct xsk_ring_prod fill, tx;
	struct xsk_ring_cons completion, rx;
	struct xsk_socket *socket;
	int program, map, link;
	struct evpl_iovec lent[PORT_FRAMES];
};

static inline int port_register(void *arg, const struct evpl_slab_info *slab, uint64_t *cookie)
{
	struct xsk_umem_config config = {
		.fill_size = PORT_RING,
		.comp_size = PORT_RING,
		.frame_size = PORT_FRAME,
	};
	struct port *port = arg;

	port->base = slab->base;
	*cookie = (uintptr_t)port;
	return xsk_umem__create(&port->umem, slab->base, slab->length, &port->fill,
				&port->completion, &config);
}

/* If the socket is still open, it keeps the umem, and the umem keeps its pages. */
static inline int port_unregister(void *arg, const struct evpl_slab_info *slab, uint64_t cookie)
{
	struct port *port = (struct port *)(uintptr_t)cookie;

	if (!xsk_umem__delete(port->umem))
		port->umem = NULL;
	return 0;
}

static const struct evpl_device_ops port_ops = {
	.size = sizeof(port_ops),
	.register_slab = port_register,
	.unregister_slab = port_unregister,
};

/* Loads a program that gives all packets of a queue to the queue's socket in the map. */
static inline int port_load_program(int map)
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

	return bpf_prog_load(BPF_PROG_TYPE_XDP, "evpl_xdp", "Dual MIT/GPL", code,
			     sizeof(code) / sizeof(code[0]), NULL);
}

/* Opens the umem's socket, on the only queue of a device. Returns 0 or -errno. */
static inline int port_open(struct port *port, const char *device, uint32_t xdp_flags,
			    uint16_t bind_flags)
{
	LIBBPF_OPTS(bpf_link_create_opts, link_opts, .flags = xdp_flags);
	struct xsk_socket_config config = {
		.rx_size = PORT_RING,
		.tx_size = PORT_RING,
		.libxdp_flags = XSK_LIBXDP_FLAGS__INHIBIT_PROG_LOAD,
		.bind_flags = bind_flags,
	};
	int err;

	port->link = -1;
	port->program = -1;
	port->map = bpf_map_create(BPF_MAP_TYPE_XSKMAP, "evpl_xdp", sizeof(int), sizeof(int),
				   1, NULL);
	if (port->map < 0)
		return port->map;
	port->program = port_load_program(port->map);
	port->link = bpf_link_create(port->program, (int)if_nametoindex(device), BPF_XDP,
				     &link_opts);
	if (port->link < 0)
		return port->link;
	err = xsk_socket__create(&port->socket, device, 0, port->umem, &port->rx, &port->tx,
				 &config);
	return err ? err : xsk_socket__update_xskmap(port->socket, port->map);
}

static inline void port_close(struct port *port)
{
	if (port->socket)
		xsk_socket__delete(port->socket);
	port->socket = NULL;
	close(port->link);
	close(port->program);
	close(port->map);
}

/* The offset of a slice in its umem. */
static inline uint64_t port_address(const struct port *port, const struct evpl_iovec *iovec)
{
	return (uint64_t)((char *)iovec->data - port->base);
}

/* Moves the reference of a frame to the table, before the kernel gets the frame. */
static inline uint64_t port_lend(struct port *port, struct evpl_iovec *iovec)
{
	uint64_t address = port_address(port, iovec);

	evpl_iovec_move(&port->lent[address / PORT_FRAME], iovec);
	return address;
}

/* Takes the reference back, as an iovec of the part of the frame that the kernel names. */
static inline void port_take_back(struct port *port, uint64_t address, uint32_t length,
				  struct evpl_iovec *iovec)
{
	struct evpl_iovec *frame = &port->lent[address / PORT_FRAME];

	if (evpl_iovec_clone_segment(iovec, frame, address % PORT_FRAME, length))
		abort();
	evpl_iovec_release(frame);
	*frame = (struct evpl_iovec){ 0 };
}

/* Gives a frame to the kernel, to be filled with a packet. */
static inline bool port_expect(struct port *port, struct evpl_iovec *iovec)
{
	uint32_t at;

	if (xsk_ring_prod__reserve(&port->fill, 1, &at) != 1)
		return false;
	*xsk_ring_prod__fill_addr(&port->fill, at) = port_lend(port, iovec);
	xsk_ring_prod__submit(&port->fill, 1);
	return true;
}

/* Waits for the next packet, for 20 seconds at most. @iovec is where the packet arrived. */
static inline bool port_receive(struct port *port, struct evpl_iovec *iovec)
{
	struct pollfd pollfd = { .fd = xsk_socket__fd(port->socket), .events = POLLIN };
	const struct xdp_desc *desc;
	uint32_t at;

	while (xsk_ring_cons__peek(&port->rx, 1, &at) != 1)
		if (poll(&pollfd, 1, 20 * 1000) != 1)
			return false;
	desc = xsk_ring_cons__rx_desc(&port->rx, at);
	port_take_back(port, desc->addr, desc->len, iovec);
	xsk_ring_cons__release(&port->rx, 1);
	return true;
}

/* Sends a slice, which lies in one frame. The table has its reference until it has been sent. */
static inline bool port_send(struct port *port, struct evpl_iovec *iovec)
{
	struct xdp_desc *desc;
	uint32_t at;

	if (xsk_ring_prod__reserve(&port->tx, 1, &at) != 1)
		return false;
	desc = xsk_ring_prod__tx_desc(&port->tx, at);
	*desc = (struct xdp_desc){ .len = iovec->length };
	desc->addr = port_address(port, iovec);
	evpl_iovec_move(&port->lent[desc->addr / PORT_FRAME], iovec);
	xsk_ring_prod__submit(&port->tx, 1);
	return !sendto(xsk_socket__fd(port->socket), NULL, 0, MSG_DONTWAIT, NULL, 0);
}

/* Releases the frames of packets that have been sent. Returns the number of packets. */
static inline unsigned int port_reap(struct port *port)
{
	unsigned int i, n;
	uint32_t at;

	n = xsk_ring_cons__peek(&port->completion, PORT_BATCH, &at);
	for (i = 0; i < n; i++) {
		uint64_t address = *xsk_ring_cons__comp_addr(&port->completion, at + i);

		evpl_iovec_release(&port->lent[address / PORT_FRAME]);
		port->lent[address / PORT_FRAME] = (struct evpl_iovec){ 0 };
	}
	xsk_ring_cons__release(&port->completion, n);
	return n;
}

#endif /* EVPL_EXAMPLE_XDP_H */
