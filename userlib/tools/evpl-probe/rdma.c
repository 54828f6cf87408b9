// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/* Tests of RDMA: two rows for each device. */
#include <dirent.h>
#include <errno.h>
#include <infiniband/verbs.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "probe.h"
#include "qp.h"

#define PAIR_SECONDS	15
#define ACCESS		(IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE)

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

/* Has the device write from one buffer to the other. @what is the memory region. */
static void write_over(struct row *row, struct memory *memory, struct ibv_context *context,
		       const struct ibv_mr *mr, const char *what)
{
	struct ibv_sge sge = {
		.addr = (uintptr_t)memory->from.data,
		.length = BUFFER,
		.lkey = mr->lkey,
	};
	struct ibv_send_wr write = {
		.sg_list = &sge,
		.num_sge = 1,
		.opcode = IBV_WR_RDMA_WRITE,
		.send_flags = IBV_SEND_SIGNALED,
		.wr.rdma.remote_addr = (uintptr_t)memory->to.data,
		.wr.rdma.rkey = mr->rkey,
	}, *bad;
	struct ibv_port_attr port;
	struct pair pair;

	row_yes(row, "%s is a memory region. No bytes were moved: two queue pairs of the device can't be connected to each other.", what);
	if (ibv_query_port(context, 1, &port))
		return;
	if (port.state != IBV_PORT_ACTIVE) {
		row_yes(row, "%s is a memory region. No bytes were moved: port 1 isn't active.", what);
		row_remedy(row, "Set its link up.");
		return;
	}
	if (pair_make(&pair, context, mr->pd))
		return;
	memset(memory->to.data, 0, BUFFER);
	if (ibv_post_send(pair.qp[0], &write, &bad) || !pair_wait(&pair, 1, PAIR_SECONDS))
		row_no(row, EIO, "%s is a memory region, but a write between two queue pairs failed.", what);
	else if (memory_arrived(memory, row))
		row_yes(row, "%s is a memory region, and 64 KiB were written from queue pair to queue pair.", what);
	pair_end(&pair);
}

/* Tries ibv_reg_mr(), which pins the slab. */
static void try_pinned(struct row *row, struct memory *memory, struct ibv_context *context,
		       struct ibv_pd *pd)
{
	struct ibv_mr *mr = ibv_reg_mr(pd, memory->slab.base, memory->slab.length, ACCESS);
	int error = errno;

	if (mr) {
		write_over(row, memory, context, mr, "A slab");
		ibv_dereg_mr(mr);
		return;
	}
	/* The kernel gives EPERM if the limit is 0. */
	if ((error != ENOMEM && error != EPERM) ||
	    !row_blame_memlock(row, error, TO_PINNED, memory->slab.length, "registering this slab"))
		row_no(row, error, "A slab can't be a memory region: %s.", strerror(error));
}

/* Tries ibv_reg_dmabuf_mr(), which pins nothing. */
static void try_dmabuf_region(struct row *row, struct memory *memory, struct ibv_context *context,
			      struct ibv_pd *pd)
{
	int fd = evpl_slab_export(memory->pool, &memory->slab, EVPL_DMABUF_WRITE), error;
	struct ibv_mr *mr;

	if (fd < 0) {
		row_no(row, -fd, "A slab can't be exported: %s.", strerror(-fd));
		return;
	}
	mr = ibv_reg_dmabuf_mr(pd, 0, memory->slab.length, (uintptr_t)memory->slab.base, fd, ACCESS);
	error = errno;
	close(fd);
	if (mr) {
		write_over(row, memory, context, mr, "A dma-buf of a slab");
		ibv_dereg_mr(mr);
		return;
	}
	row_no(row, error, "The device takes no dma-buf: %s.", strerror(error));
	row_remedy(row, "Do without: libevplmem-rdma needs this only where RLIMIT_MEMLOCK doesn't suffice.");
}

static void try_device(struct row *row, struct memory *memory, struct ibv_device *device)
{
	struct ibv_context *context = ibv_open_device(device);
	char name[sizeof(row->interface)];
	struct ibv_pd *pd;

	if (!context) {
		row_no(row, errno, "It can't be opened: %s.", strerror(errno));
		row_remedy(row, "See that this user may open /dev/infiniband/%s; in a container, start it with --device.",
			   device->dev_name);
		return;
	}
	pd = ibv_alloc_pd(context);
	if (pd) {
		try_pinned(row, memory, context, pd);
		snprintf(name, sizeof(name), "RDMA dma-buf %.20s", ibv_get_device_name(device));
		row = row_add(name, TO_NOBODY);
		if (row)
			try_dmabuf_region(row, memory, context, pd);
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
			row = row_add(name, TO_PINNED);
		else
			strcpy(row->interface, name);
		if (row)
			try_device(row, memory, list[i]);
	}
	ibv_free_device_list(list);
}
