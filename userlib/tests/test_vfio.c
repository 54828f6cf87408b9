// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * VFIO: slabs are mapped for a device behind an IOMMU, which reads and writes them. The device is
 * the NVMe disk that EVPL_TEST_VFIO names, such as /dev/nvme2n1. Each test takes the disk from the
 * kernel's driver, drives it by examples/nvme.h and gives it back. The tests overwrite the disk.
 */
#include "pinned.h"

#include <glob.h>
#include <linux/fs.h>
#include <signal.h>
#include <sys/wait.h>

#include "../examples/nvme.h"

#define LENGTH	BUFFER		/* of a transfer: NVMe needs a list for more than two pages */
#define SECONDS	60

#define OTHER	(64ULL << 30)	/* addresses of the device that no slab of the fixture has */

/* Opens the disk when the kernel's driver has it. The disk may have got another name. */
static int open_disk(const struct vfio_function *function)
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

/* A device that never unmaps its slabs. */
static const struct evpl_device_ops careless_ops = {
	.size = sizeof(careless_ops),
	.register_slab = vfio_map_slab,
};

static void fill(void *memory, unsigned int seed)
{
	unsigned char *bytes = memory;
	unsigned int i;

	for (i = 0; i < LENGTH; i++)
		bytes[i] = (unsigned char)(i * 11 + (i >> 8) * 3 + seed);
}

FIXTURE(vfio) {
	struct vfio_function function;
	struct vfio vfio;
	struct vfio_view view, other;
	struct evpl_pool *pool;
	struct evpl *evpl;
	struct evpl_device *device;
	struct nvme nvme;
	char content[2][LENGTH];	/* of the disk at 0 and at HERE */
};

#define HERE	MB

/* Finds the disk. Returns NULL, or a reason why there is none. */
static const char *find_function(struct vfio_function *function)
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
	ASSERT_TRUE(vfio_bind(&self->function, "vfio-pci"));
	err = vfio_open(&self->vfio, &self->function);
	if (err) {
		vfio_close(&self->vfio);
		vfio_bind(&self->function, "\n");
	}
	ASSERT_EQ(0, err);
	self->view = (struct vfio_view){ .container = self->vfio.container, .first = VFIO_FIRST };
	self->other = (struct vfio_view){ .container = self->vfio.container, .first = OTHER };
	ASSERT_EQ(0, evpl_device_attach(self->pool, &vfio_ops, &self->view, &self->device));
	self->nvme.device = self->device;
}

/* The kernel's driver must find on the disk what the test has written, and no other change. */
FIXTURE_TEARDOWN(vfio)
{
	char found[LENGTH];
	int disk, i;

	if (!self->pool)
		return;
	if (self->nvme.bar.size)
		nvme_stop(&self->nvme);
	evpl_destroy(self->evpl);
	EXPECT_EQ(0, used_in(self->pool));
	evpl_device_detach(self->device);
	EXPECT_EQ(0, evpl_pool_close(self->pool));
	vfio_close(&self->vfio);
	ASSERT_TRUE(vfio_bind(&self->function, "\n"));
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
	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, LENGTH, NVME_PAGE, 1, &iovec));
	address = vfio_address(self->device, &iovec);
	memset(iovec.data, 0, LENGTH);
	ASSERT_EQ(0, nvme_transfer(&self->nvme, NVME_READ, 0, address, LENGTH));
	EXPECT_EQ(0, memcmp(iovec.data, self->content[0], LENGTH));

	fill(iovec.data, 2);
	fill(self->content[1], 2);
	EXPECT_EQ(0, nvme_transfer(&self->nvme, NVME_WRITE, HERE, address, LENGTH));
	evpl_iovec_release(&iovec);
}

/* Opens a pool of one slab, and maps the slab for the device by @view. */
static bool open_other(struct evpl_pool **pool, struct evpl_device **device, struct vfio_view *view)
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
	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, LENGTH, NVME_PAGE, 1, &iovec));
	fill(mine, 3);
	memcpy(iovec.data, mine, LENGTH);
	EXPECT_EQ(0, nvme_transfer(&self->nvme, NVME_READ, 0, OTHER, LENGTH));
	EXPECT_EQ(0, nvme_transfer(&self->nvme, NVME_WRITE, HERE, OTHER, LENGTH));
	memcpy(self->content[1], self->content[0], LENGTH);
	EXPECT_EQ(0, memcmp(iovec.data, mine, LENGTH));
	evpl_iovec_release(&iovec);
	EXPECT_EQ(SLAB, detached_bytes());

	EXPECT_EQ(0, vfio_unmap(&self->other, OTHER, SLAB));
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
	EXPECT_EQ(0, nvme_transfer(&self->nvme, NVME_READ, 0, OTHER, LENGTH));
	EXPECT_EQ(0, nvme_transfer(&self->nvme, NVME_WRITE, HERE, OTHER, LENGTH));
	memcpy(self->content[1], self->content[0], LENGTH);
	EXPECT_EQ(SLAB, detached_bytes());
	nvme_stop(&self->nvme);
	vfio_close(&self->vfio);
	EXPECT_TRUE(detached_bytes_become(0));
	close(ready[0]);
}

struct charge {
	struct vfio_view *view;
	struct evpl_slab_info slab;
	int err;
};

static void *try_to_map(void *arg)
{
	struct charge *charge = arg;
	uint64_t cookie;

	charge->err = vfio_map_slab(charge->view, &charge->slab, &cookie);
	if (!charge->err)
		vfio_unmap_slab(charge->view, &charge->slab, cookie);
	return NULL;
}

TEST_F(vfio, mapping_counts_against_the_limit_of_locked_memory)
{
	struct charge charge = { .view = &self->other };
	struct evpl_iovec iovec;

	ASSERT_EQ(1, evpl_iovec_alloc(self->evpl, LENGTH, NVME_PAGE, 1, &iovec));
	ASSERT_EQ(0, evpl_iovec_slab(&iovec, &charge.slab));
	on_limited_thread(64 * KB, try_to_map, &charge);
	EXPECT_EQ(-ENOMEM, charge.err);
	/* With CAP_IPC_LOCK, which root has, the limit doesn't apply. */
	try_to_map(&charge);
	EXPECT_EQ(0, charge.err);
	evpl_iovec_release(&iovec);
}

TEST_HARNESS_MAIN
