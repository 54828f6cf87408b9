/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPL_EXAMPLE_NVME_H
#define EVPL_EXAMPLE_NVME_H

/*
 * An example: a driver of an NVMe disk in user space, whose queues and data are memory of a pool.
 * It reads and writes with one command at a time, and polls. vfio.h gives it the disk.
 */
#include <linux/pci_regs.h>
#include <stdatomic.h>
#include <sys/mman.h>

#include "vfio.h"

#define NVME_PAGE	4096U
#define NVME_SECONDS	60	/* that a command may take */

/* The part of NVMe that reads and writes need, with one command at a time. */
#define NVME_CAP	0x00
#define NVME_INTMS	0x0c
#define NVME_CC		0x14
#define NVME_CSTS	0x1c
#define NVME_AQA	0x24
#define NVME_ASQ	0x28
#define NVME_ACQ	0x30
#define NVME_DOORBELLS	0x1000

#define NVME_CREATE_SQ	0x01
#define NVME_CREATE_CQ	0x05
#define NVME_WRITE	0x01
#define NVME_READ	0x02

#define NVME_ENTRIES	16U

struct nvme_command {
	uint32_t opcode;
	uint32_t namespace;
	uint64_t reserved[2];
	uint64_t data[2];	/* the first page, and the second one or a list of the others */
	uint32_t words[6];	/* command dwords 10 to 15 */
};

struct nvme_completion {
	uint32_t result[3];
	_Atomic uint32_t status;	/* bit 16 changes with each pass through the queue */
};

struct nvme_queue {
	unsigned int number, at, round;
	struct evpl_iovec commands, completions;
};

struct nvme {
	struct vfio_region_info bar;
	int file;		/* whose region the registers are */
	char *registers;	/* NULL if they can't be mapped */
	unsigned int stride;
	uint32_t sector;
	struct evpl_device *device;
	struct nvme_queue admin, io;
	struct evpl_iovec list;
};

static inline uint32_t nvme_get(struct nvme *nvme, size_t offset)
{
	uint32_t value;

	if (nvme->registers)
		return *(volatile uint32_t *)(nvme->registers + offset);
	if (pread(nvme->file, &value, sizeof(value), (off_t)(nvme->bar.offset + offset)) !=
	    sizeof(value))
		abort();
	return value;
}

/*
 * The device must see what was written to memory before it sees the register. Nor may the driver
 * read what the device has written before it has seen the completion of that: nvme_do() does, and
 * then writes a register. On arm64 a barrier between processors (ish) doesn't order for devices.
 */
static inline void nvme_barrier(void)
{
#ifdef __aarch64__
	__asm__ volatile("dmb osh" ::: "memory");
#else
	__sync_synchronize();
#endif
}

static inline void nvme_set(struct nvme *nvme, size_t offset, uint32_t value)
{
	nvme_barrier();
	if (nvme->registers)
		*(volatile uint32_t *)(nvme->registers + offset) = value;
	else if (pwrite(nvme->file, &value, sizeof(value), (off_t)(nvme->bar.offset + offset)) !=
		 sizeof(value))
		abort();
}

static inline void nvme_set64(struct nvme *nvme, size_t offset, uint64_t value)
{
	nvme_set(nvme, offset, (uint32_t)value);
	nvme_set(nvme, offset + 4, (uint32_t)(value >> 32));
}

static inline bool nvme_becomes_ready(struct nvme *nvme, uint32_t ready)
{
	int tries;

	for (tries = 0; tries < NVME_SECONDS * 1000; tries++) {
		if ((nvme_get(nvme, NVME_CSTS) & 1) == ready)
			return true;
		usleep(1000);
	}
	return false;
}

static inline void nvme_ring_doorbell(struct nvme *nvme, unsigned int which, unsigned int value)
{
	nvme_set(nvme, NVME_DOORBELLS + which * nvme->stride, value);
}

/* Runs a command. Returns the device's status, which is 0 for success, or -ETIMEDOUT. */
static inline int nvme_do(struct nvme *nvme, struct nvme_queue *queue,
			  const struct nvme_command *command)
{
	struct nvme_command *commands = queue->commands.data;
	struct nvme_completion *completion = queue->completions.data;
	uint32_t status;
	int tries;

	completion += queue->at;
	commands[queue->at] = *command;
	queue->at = (queue->at + 1) % NVME_ENTRIES;
	nvme_ring_doorbell(nvme, 2 * queue->number, queue->at);
	for (tries = 0; tries < NVME_SECONDS * 1000; tries++) {
		status = atomic_load(&completion->status);
		if ((status >> 16 & 1) != (queue->round & 1))
			break;
		usleep(1000);
	}
	if (tries == NVME_SECONDS * 1000)
		return -ETIMEDOUT;
	queue->round += queue->at == 0;
	nvme_ring_doorbell(nvme, 2 * queue->number + 1, queue->at);
	return (int)(status >> 17);
}

static inline bool nvme_queue_alloc(struct nvme_queue *queue, struct evpl *evpl,
				    unsigned int number)
{
	*queue = (struct nvme_queue){ .number = number };
	if (evpl_iovec_alloc(evpl, NVME_PAGE, NVME_PAGE, 1, &queue->commands) != 1 ||
	    evpl_iovec_alloc(evpl, NVME_PAGE, NVME_PAGE, 1, &queue->completions) != 1)
		return false;
	memset(queue->commands.data, 0, NVME_PAGE);
	memset(queue->completions.data, 0, NVME_PAGE);
	return true;
}

static inline void nvme_queue_release(struct nvme_queue *queue)
{
	evpl_iovec_release(&queue->commands);
	evpl_iovec_release(&queue->completions);
}

/*
 * Maps the registers, if the kernel allows it. It doesn't if they share a page with another
 * device's, as they may where pages are larger than the registers. nvme_get() and nvme_set() then
 * make system calls.
 */
static inline bool nvme_map_registers(struct nvme *nvme, struct vfio *vfio)
{
	struct vfio_region_info config = {
		.argsz = sizeof(config),
		.index = VFIO_PCI_CONFIG_REGION_INDEX,
	}, bar = {
		.argsz = sizeof(bar),
		.index = VFIO_PCI_BAR0_REGION_INDEX,
	};
	uint16_t command = PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;
	void *registers = NULL;

	if (ioctl(vfio->device, VFIO_DEVICE_GET_REGION_INFO, &config) ||
	    ioctl(vfio->device, VFIO_DEVICE_GET_REGION_INFO, &bar) ||
	    pwrite(vfio->device, &command, sizeof(command),
		   (off_t)config.offset + PCI_COMMAND) != sizeof(command))
		return false;
	if (bar.flags & VFIO_REGION_INFO_FLAG_MMAP)
		registers = mmap(NULL, bar.size, PROT_READ | PROT_WRITE, MAP_SHARED, vfio->device,
				 (off_t)bar.offset);
	if (registers == MAP_FAILED)
		return false;
	nvme->registers = registers;
	nvme->file = vfio->device;
	nvme->bar = bar;
	return true;
}

/* Resets the controller and makes its queues, in memory of the pool. */
static inline bool nvme_start(struct nvme *nvme, struct vfio *vfio, struct evpl *evpl)
{
	struct nvme_command command = { .opcode = NVME_CREATE_CQ };
	uint32_t capabilities;

	if (!nvme_map_registers(nvme, vfio) || !nvme_queue_alloc(&nvme->admin, evpl, 0) ||
	    !nvme_queue_alloc(&nvme->io, evpl, 1) ||
	    evpl_iovec_alloc(evpl, NVME_PAGE, NVME_PAGE, 1, &nvme->list) != 1)
		return false;

	nvme_set(nvme, NVME_CC, 0);
	if (!nvme_becomes_ready(nvme, 0))
		return false;
	capabilities = nvme_get(nvme, NVME_CAP + 4);
	nvme->stride = 4U << (capabilities & 0xf);
	/* The controller's pages have their own size, whatever that of the kernel's is. */
	if (capabilities >> 16 & 0xf)
		return false;
	nvme_set(nvme, NVME_INTMS, ~0U);
	nvme_set(nvme, NVME_AQA, (NVME_ENTRIES - 1) << 16 | (NVME_ENTRIES - 1));
	nvme_set64(nvme, NVME_ASQ, vfio_address(nvme->device, &nvme->admin.commands));
	nvme_set64(nvme, NVME_ACQ, vfio_address(nvme->device, &nvme->admin.completions));
	/* Commands have 64 bytes, completions 16, and pages 4096. */
	nvme_set(nvme, NVME_CC, 6 << 16 | 4 << 20 | 1);
	if (!nvme_becomes_ready(nvme, 1))
		return false;

	command.data[0] = vfio_address(nvme->device, &nvme->io.completions);
	command.words[0] = (NVME_ENTRIES - 1) << 16 | nvme->io.number;
	command.words[1] = 1;	/* the queue is contiguous */
	if (nvme_do(nvme, &nvme->admin, &command))
		return false;
	command.opcode = NVME_CREATE_SQ;
	command.data[0] = vfio_address(nvme->device, &nvme->io.commands);
	command.words[1] = nvme->io.number << 16 | 1;
	return !nvme_do(nvme, &nvme->admin, &command);
}

static inline void nvme_stop(struct nvme *nvme)
{
	nvme_set(nvme, NVME_CC, 0);
	if (!nvme_becomes_ready(nvme, 0))
		abort();
	if (nvme->registers)
		munmap(nvme->registers, nvme->bar.size);
	nvme->bar.size = 0;
	nvme_queue_release(&nvme->admin);
	nvme_queue_release(&nvme->io);
	evpl_iovec_release(&nvme->list);
}

/*
 * Reads or writes @length bytes of the disk at @offset. These are more than two pages: then the
 * command has the address of a list of the pages behind the first.
 */
static inline int nvme_transfer(struct nvme *nvme, uint32_t opcode, uint64_t offset,
				uint64_t address, uint32_t length)
{
	uint64_t *list = nvme->list.data, sector = offset / nvme->sector;
	struct nvme_command command = {
		.opcode = opcode,
		.namespace = 1,
		.data = { address, vfio_address(nvme->device, &nvme->list) },
		.words = { (uint32_t)sector, (uint32_t)(sector >> 32),
			   length / nvme->sector - 1 },
	};
	unsigned int i;

	for (i = 1; i < length / NVME_PAGE; i++)
		list[i - 1] = address + (uint64_t)i * NVME_PAGE;
	return nvme_do(nvme, &nvme->io, &command);
}

#endif /* EVPL_EXAMPLE_NVME_H */
