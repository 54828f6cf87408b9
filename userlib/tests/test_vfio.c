// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * VFIO: slabs are mapped for a device behind an IOMMU, which reads and writes them. The device is
 * the NVMe disk that EVPL_TEST_VFIO names, such as /dev/nvme2n1. Each test takes the disk from the
 * kernel's driver, drives it itself and gives it back. The tests overwrite the disk.
 *
 * This file is an example, too. The cookie of a slab is the address at which the device finds it.
 * So the device's address of a slice is the cookie plus the slice's offset in the slab.
 */
#include "pinned.h"

#include <fcntl.h>
#include <glob.h>
#include <limits.h>
#include <linux/fs.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>

#define PAGE	4096U
#define LENGTH	BUFFER		/* of a transfer: NVMe needs a list for more than two pages */
#define SECONDS	60

static void join(char path[PATH_MAX], const char *directory, const char *name)
{
	snprintf(path, PATH_MAX, "%.2000s/%.2000s", directory, name);
}

static int open_at(const char *directory, const char *name, int flags)
{
	char path[PATH_MAX];

	join(path, directory, name);
	return open(path, flags | O_CLOEXEC);
}

static bool write_to(const char *directory, const char *name, const char *text)
{
	int fd = open_at(directory, name, O_WRONLY);
	bool written = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

	close(fd);
	return written;
}

/* The last component of a link's target, or "" if there is no link. */
static const char *link_name(const char *directory, const char *name, char target[PATH_MAX])
{
	char path[PATH_MAX];

	join(path, directory, name);
	if (!realpath(path, target))
		return "";
	return strrchr(target, '/') + 1;
}

/* The disk as a PCI function: its directory in sysfs, and its PCI address. */
struct function {
	char folder[PATH_MAX];
	const char *address;
};

/* Binds the function to another driver. If @driver is "\n", the kernel chooses one. */
static bool bind_to(const struct function *function, const char *driver)
{
	return write_to(function->folder, "driver_override", driver) &&
	       write_to(function->folder, "driver/unbind", function->address) &&
	       write_to("/sys/bus/pci", "drivers_probe", function->address);
}

/* Opens the disk when the kernel's driver has it. The disk may have got another name. */
static int open_disk(const struct function *function)
{
	char pattern[PATH_MAX], path[PATH_MAX];
	int tries, fd = -1;
	glob_t found;

	join(pattern, function->folder, "nvme/nvme*/nvme*n1");
	for (tries = 0; fd < 0 && tries < SECONDS * 10; tries++) {
		if (tries)
			usleep(100 * 1000);
		if (!glob(pattern, 0, NULL, &found)) {
			snprintf(path, sizeof(path), "/dev%s", strrchr(found.gl_pathv[0], '/'));
			fd = open(path, O_RDWR | O_CLOEXEC);
		}
		globfree(&found);
	}
	return fd;
}

struct vfio {
	int container, group, device;
};

static int vfio_open(struct vfio *vfio, const struct function *function)
{
	char path[PATH_MAX];

	vfio->device = -1;
	vfio->container = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC);
	vfio->group = open_at("/dev/vfio", link_name(function->folder, "iommu_group", path),
			      O_RDWR);
	if (vfio->container < 0 || vfio->group < 0 ||
	    ioctl(vfio->group, VFIO_GROUP_SET_CONTAINER, &vfio->container) ||
	    ioctl(vfio->container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU))
		return -errno;
	vfio->device = ioctl(vfio->group, VFIO_GROUP_GET_DEVICE_FD, function->address);
	return vfio->device < 0 ? -errno : 0;
}

/* Closes VFIO, which also unmaps everything. */
static void vfio_close(struct vfio *vfio)
{
	close(vfio->device);
	close(vfio->group);
	close(vfio->container);
	*vfio = (struct vfio){ -1, -1, -1 };
}

/*
 * The device's addresses of a pool's slabs. No slab is longer than 1 GiB, so each number has a GiB
 * of addresses, from @first on. The first 4 GiB have addresses that the machine uses itself, for
 * interrupts.
 */
struct view {
	int container;
	uint64_t first;
};

#define FIRST	(4ULL << 30)
#define OTHER	(64ULL << 30)

static int map_slab(void *arg, const struct evpl_slab_info *slab, uint64_t *cookie)
{
	struct view *view = arg;
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map),
		.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
		.vaddr = (uintptr_t)slab->base,
		.iova = view->first + ((uint64_t)slab->number << 30),
		.size = slab->length,
	};

	*cookie = map.iova;
	return ioctl(view->container, VFIO_IOMMU_MAP_DMA, &map) ? -errno : 0;
}

static int unmap(const struct view *view, uint64_t address, size_t length)
{
	struct vfio_iommu_type1_dma_unmap unmap = {
		.argsz = sizeof(unmap),
		.iova = address,
		.size = length,
	};

	return ioctl(view->container, VFIO_IOMMU_UNMAP_DMA, &unmap) || unmap.size != length ?
	       -EIO : 0;
}

/* The unmap fails if VFIO was closed before. Then nothing is mapped any more. */
static int unmap_slab(void *arg, const struct evpl_slab_info *slab, uint64_t cookie)
{
	unmap(arg, cookie, slab->length);
	return 0;
}

static const struct evpl_device_ops ops = {
	.size = sizeof(ops),
	.register_slab = map_slab,
	.unregister_slab = unmap_slab,
};

/* A device that never unmaps its slabs. */
static const struct evpl_device_ops careless_ops = {
	.size = sizeof(careless_ops),
	.register_slab = map_slab,
};

/* The device's address of a slice. */
static uint64_t to_address(struct evpl_device *device, const struct evpl_iovec *iovec)
{
	struct evpl_slab_info slab;
	uint64_t cookie;

	if (evpl_iovec_slab(iovec, &slab) || evpl_device_cookie(device, iovec, &cookie))
		abort();
	return cookie + (uint64_t)((char *)iovec->data - (char *)slab.base);
}

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

#define ENTRIES		16U

struct command {
	uint32_t opcode;
	uint32_t namespace;
	uint64_t reserved[2];
	uint64_t data[2];	/* the first page, and the second one or a list of the others */
	uint32_t words[6];	/* command dwords 10 to 15 */
};

struct completion {
	uint32_t result[3];
	_Atomic uint32_t status;	/* bit 16 changes with each pass through the queue */
};

struct queue {
	unsigned int number, at, round;
	struct evpl_iovec commands, completions;
};

struct nvme {
	char *registers;
	size_t length;
	unsigned int stride;
	uint32_t sector;
	struct evpl_device *device;
	struct queue admin, io;
	struct evpl_iovec list;
};

static volatile uint32_t *nvme_register(struct nvme *nvme, size_t offset)
{
	return (volatile uint32_t *)(nvme->registers + offset);
}

static void nvme_write64(struct nvme *nvme, size_t offset, uint64_t value)
{
	*nvme_register(nvme, offset) = (uint32_t)value;
	*nvme_register(nvme, offset + 4) = (uint32_t)(value >> 32);
}

static bool nvme_becomes_ready(struct nvme *nvme, uint32_t ready)
{
	int tries;

	for (tries = 0; tries < SECONDS * 1000; tries++) {
		if ((*nvme_register(nvme, NVME_CSTS) & 1) == ready)
			return true;
		usleep(1000);
	}
	return false;
}

static void ring_doorbell(struct nvme *nvme, unsigned int which, unsigned int value)
{
	/* The device must see the new entry of the queue before the doorbell. */
	__sync_synchronize();
	*nvme_register(nvme, NVME_DOORBELLS + which * nvme->stride) = value;
}

/* Runs a command. Returns the device's status, which is 0 for success, or -ETIMEDOUT. */
static int nvme_do(struct nvme *nvme, struct queue *queue, const struct command *command)
{
	struct command *commands = queue->commands.data;
	struct completion *completion = queue->completions.data;
	uint32_t status;
	int tries;

	completion += queue->at;
	commands[queue->at] = *command;
	queue->at = (queue->at + 1) % ENTRIES;
	ring_doorbell(nvme, 2 * queue->number, queue->at);
	for (tries = 0; tries < SECONDS * 1000; tries++) {
		status = atomic_load(&completion->status);
		if ((status >> 16 & 1) != (queue->round & 1))
			break;
		usleep(1000);
	}
	if (tries == SECONDS * 1000)
		return -ETIMEDOUT;
	queue->round += queue->at == 0;
	ring_doorbell(nvme, 2 * queue->number + 1, queue->at);
	return (int)(status >> 17);
}

static bool queue_alloc(struct queue *queue, struct evpl *evpl, unsigned int number)
{
	*queue = (struct queue){ .number = number };
	if (evpl_iovec_alloc(evpl, PAGE, PAGE, 1, &queue->commands) != 1 ||
	    evpl_iovec_alloc(evpl, PAGE, PAGE, 1, &queue->completions) != 1)
		return false;
	memset(queue->commands.data, 0, PAGE);
	memset(queue->completions.data, 0, PAGE);
	return true;
}

static void queue_release(struct queue *queue)
{
	evpl_iovec_release(&queue->commands);
	evpl_iovec_release(&queue->completions);
}

static bool map_registers(struct nvme *nvme, struct vfio *vfio)
{
	struct vfio_region_info config = {
		.argsz = sizeof(config),
		.index = VFIO_PCI_CONFIG_REGION_INDEX,
	}, bar = {
		.argsz = sizeof(bar),
		.index = VFIO_PCI_BAR0_REGION_INDEX,
	};
	uint16_t command = PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;
	void *registers;

	if (ioctl(vfio->device, VFIO_DEVICE_GET_REGION_INFO, &config) ||
	    ioctl(vfio->device, VFIO_DEVICE_GET_REGION_INFO, &bar) ||
	    pwrite(vfio->device, &command, sizeof(command),
		   (off_t)config.offset + PCI_COMMAND) != sizeof(command))
		return false;
	registers = mmap(NULL, bar.size, PROT_READ | PROT_WRITE, MAP_SHARED, vfio->device,
			 (off_t)bar.offset);
	if (registers == MAP_FAILED)
		return false;
	nvme->registers = registers;
	nvme->length = bar.size;
	return true;
}

/* Resets the controller and makes its queues, in memory of the pool. */
static bool nvme_start(struct nvme *nvme, struct vfio *vfio, struct evpl *evpl)
{
	struct command command = { .opcode = NVME_CREATE_CQ };

	if (!map_registers(nvme, vfio) || !queue_alloc(&nvme->admin, evpl, 0) ||
	    !queue_alloc(&nvme->io, evpl, 1) ||
	    evpl_iovec_alloc(evpl, PAGE, PAGE, 1, &nvme->list) != 1)
		return false;

	*nvme_register(nvme, NVME_CC) = 0;
	if (!nvme_becomes_ready(nvme, 0))
		return false;
	nvme->stride = 4U << (*nvme_register(nvme, NVME_CAP + 4) & 0xf);
	*nvme_register(nvme, NVME_INTMS) = ~0U;
	*nvme_register(nvme, NVME_AQA) = (ENTRIES - 1) << 16 | (ENTRIES - 1);
	nvme_write64(nvme, NVME_ASQ, to_address(nvme->device, &nvme->admin.commands));
	nvme_write64(nvme, NVME_ACQ, to_address(nvme->device, &nvme->admin.completions));
	/* Commands have 64 bytes, completions 16, and pages 4096. */
	*nvme_register(nvme, NVME_CC) = 6 << 16 | 4 << 20 | 1;
	if (!nvme_becomes_ready(nvme, 1))
		return false;

	command.data[0] = to_address(nvme->device, &nvme->io.completions);
	command.words[0] = (ENTRIES - 1) << 16 | nvme->io.number;
	command.words[1] = 1;	/* the queue is contiguous */
	if (nvme_do(nvme, &nvme->admin, &command))
		return false;
	command.opcode = NVME_CREATE_SQ;
	command.data[0] = to_address(nvme->device, &nvme->io.commands);
	command.words[1] = nvme->io.number << 16 | 1;
	return !nvme_do(nvme, &nvme->admin, &command);
}

static void nvme_stop(struct nvme *nvme)
{
	*nvme_register(nvme, NVME_CC) = 0;
	if (!nvme_becomes_ready(nvme, 0))
		abort();
	munmap(nvme->registers, nvme->length);
	nvme->registers = NULL;
	queue_release(&nvme->admin);
	queue_release(&nvme->io);
	evpl_iovec_release(&nvme->list);
}

/* Reads or writes LENGTH bytes of the disk. */
static int nvme_transfer(struct nvme *nvme, uint32_t opcode, uint64_t offset, uint64_t address)
{
	uint64_t *list = nvme->list.data, sector = offset / nvme->sector;
	struct command command = {
		.opcode = opcode,
		.namespace = 1,
		.data = { address, to_address(nvme->device, &nvme->list) },
		.words = { (uint32_t)sector, (uint32_t)(sector >> 32),
			   LENGTH / nvme->sector - 1 },
	};
	unsigned int i;

	for (i = 1; i < LENGTH / PAGE; i++)
		list[i - 1] = address + (uint64_t)i * PAGE;
	return nvme_do(nvme, &nvme->io, &command);
}

static void fill(void *memory, unsigned int seed)
{
	unsigned char *bytes = memory;
	unsigned int i;

	for (i = 0; i < LENGTH; i++)
		bytes[i] = (unsigned char)(i * 11 + (i >> 8) * 3 + seed);
}

FIXTURE(vfio) {
	struct function function;
	struct vfio vfio;
	struct view view, other;
	struct evpl_pool *pool;
	struct evpl *evpl;
	struct evpl_device *device;
	struct nvme nvme;
	char content[2][LENGTH];	/* of the disk at 0 and at HERE */
};

#define HERE	MB

/* Finds the disk. Returns NULL, or a reason why there is none. */
static const char *find_function(struct function *function)
{
	const char *disk = getenv("EVPL_TEST_VFIO");
	char path[PATH_MAX];

	if (!disk || strncmp(disk, "/dev/", 5))
		return "no NVMe disk that may be overwritten in EVPL_TEST_VFIO";
	snprintf(path, sizeof(path), "/sys/class/block/%.1000s/device", disk + 5);
	function->address = link_name(path, "device", function->folder);
	if (!*link_name(function->folder, "iommu_group", path))
		return "the disk isn't behind an IOMMU";
	if (system("modprobe -qa vfio-pci vfio_iommu_type1"))
		return "this kernel has no vfio-pci";
	return NULL;
}

FIXTURE_SETUP(vfio)
{
	const char *excuse;
	int disk, i, err;

	memset(self, 0, sizeof(*self));
	excuse = find_function(&self->function);
	if (excuse)
		SKIP(return, "%s", excuse);
	ASSERT_EQ(0, open_pool(&self->pool, BUFFER, SLAB));
	ASSERT_EQ(0, evpl_create(&self->evpl, self->pool, NULL));
	disk = open_disk(&self->function);
	ASSERT_LE(0, disk);
	ASSERT_EQ(0, ioctl(disk, BLKSSZGET, &self->nvme.sector));
	for (i = 0; i < 2; i++) {
		fill(self->content[i], (unsigned int)i);
		ASSERT_EQ(LENGTH, pwrite(disk, self->content[i], LENGTH, i * HERE));
	}
	ASSERT_EQ(0, fsync(disk));
	close(disk);
	ASSERT_TRUE(bind_to(&self->function, "vfio-pci"));
	err = vfio_open(&self->vfio, &self->function);
	if (err) {
		vfio_close(&self->vfio);
		bind_to(&self->function, "\n");
	}
	ASSERT_EQ(0, err);
	self->view = (struct view){ .container = self->vfio.container, .first = FIRST };
	self->other = (struct view){ .container = self->vfio.container, .first = OTHER };
	ASSERT_EQ(0, evpl_device_attach(self->pool, &ops, &self->view, &self->device));
	self->nvme.device = self->device;
}

/* The kernel's driver must find on the disk what the test has written, and no other change. */
FIXTURE_TEARDOWN(vfio)
{
	char found[LENGTH];
	int disk, i;

	if (!self->pool)
		return;
	if (self->nvme.registers)
		nvme_stop(&self->nvme);
	evpl_destroy(self->evpl);
	EXPECT_EQ(0, used_in(self->pool));
	evpl_device_detach(self->device);
	EXPECT_EQ(0, evpl_pool_close(self->pool));
	vfio_close(&self->vfio);
	ASSERT_TRUE(bind_to(&self->function, "\n"));
	disk = open_disk(&self->function);
	for (i = 0; i < 2; i++) {
		EXPECT_EQ(LENGTH, pread(disk, found, LENGTH, i * HERE));
		EXPECT_EQ(0, memcmp(found, self->content[i], LENGTH));
	}
	close(disk);
}

TEST_F(vfio, device_reads_the_disk_into_an_iovec_and_writes_it_from_one)
{
	struct evpl_iovec iovec;
	uint64_t address;

	ASSERT_TRUE(nvme_start(&self->nvme, &self->vfio, self->evpl));
	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, LENGTH, PAGE, 1, &iovec));
	address = to_address(self->device, &iovec);
	memset(iovec.data, 0, LENGTH);
	ASSERT_EQ(0, nvme_transfer(&self->nvme, NVME_READ, 0, address));
	EXPECT_EQ(0, memcmp(iovec.data, self->content[0], LENGTH));

	fill(iovec.data, 2);
	fill(self->content[1], 2);
	EXPECT_EQ(0, nvme_transfer(&self->nvme, NVME_WRITE, HERE, address));
	evpl_iovec_release(&iovec);
}

/* Opens a pool of one slab, and maps the slab for the device by @view. */
static bool open_other(struct evpl_pool **pool, struct evpl_device **device, struct view *view)
{
	return !open_pool(pool, BUFFER, SLAB) &&
	       !evpl_device_attach(*pool, &careless_ops, view, device) &&
	       !evpl_pool_preallocate(*pool, SLAB, EVPL_ANY_NODE);
}

TEST_F(vfio, slab_freed_while_it_is_mapped_stays_charged_until_it_is_unmapped)
{
	struct evpl_device *device;
	struct evpl_iovec iovec;
	struct evpl_pool *pool;
	char mine[LENGTH];

	if (stats_of(self->pool).backend != EVPL_BACKEND_MODULE)
		SKIP(return, "the module's alone");
	ASSERT_TRUE(detached_bytes_become(0));
	ASSERT_TRUE(nvme_start(&self->nvme, &self->vfio, self->evpl));
	ASSERT_TRUE(open_other(&pool, &device, &self->other));
	evpl_device_detach(device);
	ASSERT_EQ(0, evpl_pool_close(pool));
	EXPECT_EQ(SLAB, detached_bytes());

	/* The device can still access the freed slab, and no memory that is in use. */
	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, LENGTH, PAGE, 1, &iovec));
	fill(mine, 3);
	memcpy(iovec.data, mine, LENGTH);
	EXPECT_EQ(0, nvme_transfer(&self->nvme, NVME_READ, 0, OTHER));
	EXPECT_EQ(0, nvme_transfer(&self->nvme, NVME_WRITE, HERE, OTHER));
	memcpy(self->content[1], self->content[0], LENGTH);
	EXPECT_EQ(0, memcmp(iovec.data, mine, LENGTH));
	evpl_iovec_release(&iovec);
	EXPECT_EQ(SLAB, detached_bytes());

	EXPECT_EQ(0, unmap(&self->other, OTHER, SLAB));
	EXPECT_TRUE(detached_bytes_become(0));
}

TEST_F(vfio, memory_of_a_killed_process_stays_charged_while_the_device_has_it)
{
	struct evpl_device *device;
	struct evpl_pool *pool;
	int ready[2], status;
	pid_t child;
	char byte;

	if (stats_of(self->pool).backend != EVPL_BACKEND_MODULE)
		SKIP(return, "the module's alone");
	ASSERT_TRUE(detached_bytes_become(0));
	ASSERT_EQ(0, pipe(ready));
	child = fork();
	if (!child) {
		if (open_other(&pool, &device, &self->other) && write(ready[1], "", 1) == 1)
			pause();
		_exit(1);
	}
	close(ready[1]);
	ASSERT_EQ(1, read(ready[0], &byte, 1));
	EXPECT_EQ(0, detached_bytes());
	ASSERT_EQ(0, kill(child, SIGKILL));
	ASSERT_EQ(child, waitpid(child, &status, 0));
	EXPECT_TRUE(WIFSIGNALED(status));
	EXPECT_TRUE(detached_bytes_become(SLAB));

	ASSERT_TRUE(nvme_start(&self->nvme, &self->vfio, self->evpl));
	EXPECT_EQ(0, nvme_transfer(&self->nvme, NVME_READ, 0, OTHER));
	EXPECT_EQ(0, nvme_transfer(&self->nvme, NVME_WRITE, HERE, OTHER));
	memcpy(self->content[1], self->content[0], LENGTH);
	EXPECT_EQ(SLAB, detached_bytes());
	nvme_stop(&self->nvme);
	vfio_close(&self->vfio);
	EXPECT_TRUE(detached_bytes_become(0));
	close(ready[0]);
}

struct charge {
	struct view *view;
	struct evpl_slab_info slab;
	int err;
};

static void *try_to_map(void *arg)
{
	struct charge *charge = arg;
	uint64_t cookie;

	charge->err = map_slab(charge->view, &charge->slab, &cookie);
	if (!charge->err)
		unmap_slab(charge->view, &charge->slab, cookie);
	return NULL;
}

TEST_F(vfio, mapping_counts_against_the_limit_of_locked_memory)
{
	struct charge charge = { .view = &self->other };
	struct evpl_iovec iovec;

	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, LENGTH, PAGE, 1, &iovec));
	ASSERT_EQ(0, evpl_iovec_slab(&iovec, &charge.slab));
	on_limited_thread(64 * KB, try_to_map, &charge);
	EXPECT_EQ(-ENOMEM, charge.err);
	/* With CAP_IPC_LOCK, which root has, the limit doesn't apply. */
	try_to_map(&charge);
	EXPECT_EQ(0, charge.err);
	evpl_iovec_release(&iovec);
}

TEST_HARNESS_MAIN
