// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/* Tests of RDMA: a row for each device. */
#include <dirent.h>
#include <errno.h>
#include <evplmem-rdma.h>
#include <infiniband/verbs.h>
#include <stdio.h>
#include <string.h>

#include "probe.h"
#include "qp.h"

#define PAIR_SECONDS	5

static void explain_none(struct row *row)
{
	DIR *directory = opendir("/sys/class/infiniband");
	struct dirent *entry = NULL;

	while (directory && (entry = readdir(directory)) && entry->d_name[0] == '.')
		;
	if (entry) {
		row_no(row, ENODEV, "libibverbs can't use %.200s.", entry->d_name);
		row_remedy(row, "modprobe ib_uverbs, and install the device's provider (ibverbs-providers).");
	} else {
		row_no(row, ENODEV, "There is no RDMA device.");
		row_remedy(row, "On an Ethernet device there can be soft-RoCE: rdma link add rxe0 type rxe netdev INTERFACE.");
	}
	if (directory)
		closedir(directory);
}

/* Has the device write from one buffer to the other. */
static void write_over(struct row *row, struct memory *memory, struct ibv_context *context,
		       struct ibv_pd *pd, struct evpl_rdma *rdma)
{
	struct ibv_sge sge;
	struct ibv_send_wr write = {
		.sg_list = &sge,
		.num_sge = 1,
		.opcode = IBV_WR_RDMA_WRITE,
		.send_flags = IBV_SEND_SIGNALED,
		.wr.rdma.remote_addr = (uintptr_t)memory->to.data,
	}, *bad;
	struct ibv_port_attr port;
	struct pair pair;

	row_yes(row, "A slab is a memory region. No bytes were moved: two queue pairs of the device can't be connected to each other.");
	if (ibv_query_port(context, 1, &port))
		return;
	if (port.state != IBV_PORT_ACTIVE) {
		row_yes(row, "A slab is a memory region. No bytes were moved: port 1 isn't active.");
		row_remedy(row, "Set its link up.");
		return;
	}
	if (pair_make(&pair, context, pd))
		return;
	evpl_rdma_sge(rdma, &memory->from, &sge);
	evpl_rdma_rkey(rdma, &memory->to, &write.wr.rdma.rkey);
	if (ibv_post_send(pair.qp[0], &write, &bad) || !pair_wait(&pair, 1, PAIR_SECONDS))
		row_no(row, EIO, "A slab is a memory region, but a write between two queue pairs failed.");
	else if (memory_arrived(memory, row))
		row_yes(row, "A slab is a memory region, and 64 KiB were written from queue pair to queue pair.");
	pair_end(&pair);
}

static void try_registering(struct row *row, struct memory *memory, struct ibv_context *context,
			    struct ibv_pd *pd)
{
	struct evpl_rdma_stats stats = { .size = sizeof(stats) };
	struct evpl_rdma *rdma;
	int err;

	err = evpl_rdma_create(&rdma, memory->pool, pd,
			       IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE);
	if (err) {
		row_no(row, -err, "The pool can't be attached: %s.", strerror(-err));
		return;
	}
	evpl_rdma_stats(rdma, &stats);
	if (!stats.error)
		write_over(row, memory, context, pd, rdma);
	else if ((stats.error != -ENOMEM && stats.error != -EPERM) ||
		 !row_blame_memlock(row, -stats.error, TO_PINNED, memory->slab.length,
				    "registering this slab"))
		row_no(row, -stats.error, "A slab can't be a memory region: %s.",
		       strerror(-stats.error));
	evpl_rdma_destroy(rdma);
}

static void try_device(struct row *row, struct memory *memory, struct ibv_device *device)
{
	struct ibv_context *context = ibv_open_device(device);
	struct ibv_pd *pd;

	if (!context) {
		row_no(row, errno, "It can't be opened: %s.", strerror(errno));
		row_remedy(row, "See that this user may open /dev/infiniband/%s; in a container, start it with --device.",
			   device->dev_name);
		return;
	}
	pd = ibv_alloc_pd(context);
	if (pd) {
		memset(memory->to.data, 0, BUFFER);
		try_registering(row, memory, context, pd);
		ibv_dealloc_pd(pd);
	} else {
		row_no(row, errno, "It gives no protection domain: %s.", strerror(errno));
	}
	ibv_close_device(context);
}

void try_rdma(struct row *row, struct memory *memory)
{
	struct ibv_device **list = ibv_get_device_list(NULL);
	char name[sizeof(row->interface)];
	int i;

	if (!list || !list[0]) {
		explain_none(row);
		return;
	}
	for (i = 0; list[i] && row; i++) {
		snprintf(name, sizeof(name), "RDMA %.20s", ibv_get_device_name(list[i]));
		if (i)
			row = row_add(name);
		else
			strcpy(row->interface, name);
		if (row)
			try_device(row, memory, list[i]);
	}
	ibv_free_device_list(list);
}
