// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Packets of DPDK in slabs, in two ways. Slices are attached to mbufs, each with its reference,
 * which DPDK's callback releases when the last mbuf has let go. And all mbufs of a pool have their
 * packets in buffers of evpl, as a driver that receives needs it. The packets go through a port of
 * DPDK that is a ring, and needs neither a device nor huge pages.
 *
 *	cc mbuf.c $(pkg-config --cflags --libs libevplmem libdpdk)
 */
#include <evplmem.h>
#include <rte_bus_vdev.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_ethdev.h>
#include <rte_mbuf.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PACKETS = 2000, BURST = 16, LENGTH = 1400, MBUFS = 256, ROOM = 2048 + RTE_PKTMBUF_HEADROOM };

/* The count of DPDK for a packet, and the reference that it stands for. */
struct packet {
	struct rte_mbuf_ext_shared_info shared;
	struct evpl_iovec iovec;
	bool in_use;
};

static struct packet packets[4 * BURST];
static unsigned int released;
static uint16_t port;

static void check(int ret, const char *what)
{
	if (ret >= 0)
		return;
	fprintf(stderr, "mbuf: %s: %s. %s\n", what, strerror(-ret), evpl_last_error());
	exit(1);
}

static void want(bool right, const char *what)
{
	if (right)
		return;
	fprintf(stderr, "mbuf: it isn't true that %s\n", what);
	exit(1);
}

/* DPDK's callback: the last mbuf with this packet was freed. */
static void release(void *data, void *arg)
{
	struct packet *packet = arg;

	want(data == packet->iovec.data && packet->in_use, "DPDK names the slice that was attached");
	evpl_iovec_release(&packet->iovec);
	packet->in_use = false;
	released++;
}

/* Attaches a new slice to an mbuf. A device would get the address by the cookie of the slab. */
static void attach(struct evpl *evpl, struct rte_mbuf *mbuf, int number)
{
	struct packet *packet = packets;

	while (packet->in_use)
		want(++packet < packets + RTE_DIM(packets), "there is a packet that isn't in use");
	check(evpl_iovec_alloc(evpl, LENGTH, 64, 1, &packet->iovec), "memory");
	memset(packet->iovec.data, number, LENGTH);
	packet->in_use = true;
	packet->shared.free_cb = release;
	packet->shared.fcb_opaque = packet;
	rte_mbuf_ext_refcnt_set(&packet->shared, 1);
	rte_pktmbuf_attach_extbuf(mbuf, packet->iovec.data, RTE_BAD_IOVA, LENGTH, &packet->shared);
	mbuf->data_len = LENGTH;
	mbuf->pkt_len = LENGTH;
}

/* Whether these bytes are those of packet @number, in one of the slices. */
static bool is_in_slice(const void *data, int number)
{
	char expected[LENGTH];
	unsigned int i;

	memset(expected, number, LENGTH);
	for (i = 0; i < RTE_DIM(packets); i++)
		if (packets[i].in_use && packets[i].iovec.data == data)
			return !memcmp(data, expected, LENGTH);
	return false;
}

/* Each received packet is cloned, as a program does that sends it to two peers. */
static void send_slices(struct evpl *evpl, struct rte_mempool *headers)
{
	struct rte_mbuf *sent[BURST], *received[BURST], *clone;
	int n, i, number;

	for (number = 0; number < PACKETS; number += BURST) {
		want(!rte_pktmbuf_alloc_bulk(headers, sent, BURST), "there are mbufs");
		for (i = 0; i < BURST; i++)
			attach(evpl, sent[i], number + i);
		want(rte_eth_tx_burst(port, 0, sent, BURST) == BURST, "all packets are sent");
		n = rte_eth_rx_burst(port, 0, received, BURST);
		want(n == BURST, "all packets are received");
		for (i = 0; i < n; i++) {
			want(is_in_slice(rte_pktmbuf_mtod(received[i], void *), number + i),
			     "a received packet is in its slice");
			clone = rte_pktmbuf_clone(received[i], headers);
			want(clone, "a packet is cloned");
			rte_pktmbuf_free(received[i]);
			want(released == (unsigned int)(number + i), "a clone keeps the reference");
			want(is_in_slice(rte_pktmbuf_mtod(clone, void *), number + i),
			     "a clone is in the slice");
			rte_pktmbuf_free(clone);
			want(released == (unsigned int)(number + i + 1),
			     "the last mbuf releases the reference");
		}
	}
}

/* A pool of mbufs whose packets are in this buffer. The buffer is the pool's until the end. */
static void receive_into_buffer(const struct evpl_iovec *buffer)
{
	struct rte_pktmbuf_extmem memory = {
		.buf_ptr = buffer->data,
		.buf_iova = RTE_BAD_IOVA,
		.buf_len = buffer->length,
		.elt_size = ROOM,
	};
	struct rte_mempool *pool;
	struct rte_mbuf *mbufs[MBUFS], *mbuf;
	uintptr_t offset;
	int i;

	pool = rte_pktmbuf_pool_create_extbuf("evpl", MBUFS, 0, 0, ROOM, 0, &memory, 1);
	want(pool && !rte_pktmbuf_alloc_bulk(pool, mbufs, MBUFS), "a pool has its mbufs in the buffer");
	for (i = 0; i < MBUFS; i++) {
		offset = (uintptr_t)mbufs[i]->buf_addr - (uintptr_t)buffer->data;
		want(offset + ROOM <= buffer->length, "the room of an mbuf is in the buffer");
		memset(rte_pktmbuf_append(mbufs[i], LENGTH), i, LENGTH);
	}
	for (i = 0; i < MBUFS; i++) {
		want(rte_eth_tx_burst(port, 0, &mbufs[i], 1) == 1 &&
		     rte_eth_rx_burst(port, 0, &mbuf, 1) == 1 && mbuf == mbufs[i] &&
		     *rte_pktmbuf_mtod(mbuf, unsigned char *) == (unsigned char)i,
		     "a packet of the pool arrives");
		rte_pktmbuf_free(mbuf);
	}
	want(rte_mempool_avail_count(pool) == MBUFS, "all mbufs are back");
	rte_mempool_free(pool);
}

static void open_port(struct rte_mempool *pool)
{
	struct rte_eth_conf config = { 0 };

	check(rte_vdev_init("net_ring0", ""), "a port that is a ring");
	check(rte_eth_dev_get_port_by_name("net_ring0", &port), "the port's number");
	check(rte_eth_dev_configure(port, 1, 1, &config), "configuring the port");
	check(rte_eth_rx_queue_setup(port, 0, 128, SOCKET_ID_ANY, NULL, pool), "queue");
	check(rte_eth_tx_queue_setup(port, 0, 128, SOCKET_ID_ANY, NULL), "queue");
	check(rte_eth_dev_start(port), "starting the port");
}

/* DPDK knows the memory, and would map it for the devices of the port. */
static void register_memory(const struct evpl_slab_info *slab, bool here)
{
	if (here)
		check(rte_extmem_register(slab->base, slab->length, NULL, 0, 4096) ? -rte_errno : 0,
		      "rte_extmem_register");
	else
		check(rte_extmem_unregister(slab->base, slab->length) ? -rte_errno : 0,
		      "rte_extmem_unregister");
}

static int register_slab(void *arg, const struct evpl_slab_info *slab, uint64_t *cookie)
{
	(void)arg;
	register_memory(slab, true);
	*cookie = slab->number;
	return 0;
}

static int unregister_slab(void *arg, const struct evpl_slab_info *slab, uint64_t cookie)
{
	(void)arg;
	(void)cookie;
	register_memory(slab, false);
	return 0;
}

int main(int argc, char **argv)
{
	char *eal[] = { argv[0], "--no-huge", "--no-pci", "--no-telemetry", "--no-shconf", "-m",
			"64", "-l", "0", "--log-level=error", NULL };
	struct evpl_device_ops ops = EVPL_DEVICE_OPS_INIT;
	struct evpl_device *device;
	struct evpl_iovec buffer;
	struct rte_mempool *headers;
	struct evpl_pool *pool;
	struct evpl *evpl;

	(void)argc;
	want(rte_eal_init((int)RTE_DIM(eal) - 1, eal) >= 0, "DPDK starts");
	ops.register_slab = register_slab;
	ops.unregister_slab = unregister_slab;
	check(evpl_pool_open(&pool, NULL), "pool");
	check(evpl_device_attach(pool, &ops, NULL, &device), "device");
	check(evpl_create(&evpl, pool, NULL), "context");
	/* These mbufs have no packets of their own. */
	headers = rte_pktmbuf_pool_create("headers", 4 * BURST - 1, 0, 0, RTE_PKTMBUF_HEADROOM,
					  SOCKET_ID_ANY);
	want(headers, "there is a pool of headers");
	open_port(headers);
	send_slices(evpl, headers);
	want(released == PACKETS, "each reference was released");
	want(MBUFS * ROOM <= 1 << 20, "the packets fit");
	check(evpl_buffer_alloc(evpl, &buffer), "buffer");
	receive_into_buffer(&buffer);
	evpl_iovec_release(&buffer);
	check(rte_eth_dev_stop(port), "stopping the port");
	check(rte_eth_dev_close(port), "closing the port");
	evpl_destroy(evpl);
	evpl_device_detach(device);
	check(evpl_pool_close(pool), "closing the pool");
	printf("%u packets were in slices, and %d mbufs in a buffer.\n", released, MBUFS);
	rte_eal_cleanup();
	return 0;
}
