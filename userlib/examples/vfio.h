/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPL_EXAMPLE_VFIO_H
#define EVPL_EXAMPLE_VFIO_H

/*
 * An example: VFIO with the slabs of a pool mapped for a device behind an IOMMU. nvme.h drives a
 * disk by it, and userlib/tests/test_vfio.c uses both.
 *
 * The cookie of a slab is the address at which the device finds it. So the device's address of a
 * slice is the cookie plus the slice's offset in the slab.
 */
#include <errno.h>
#include <evplmem.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/vfio.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static inline void join(char path[PATH_MAX], const char *directory, const char *name)
{
	snprintf(path, PATH_MAX, "%.2000s/%.2000s", directory, name);
}

static inline int open_at(const char *directory, const char *name, int flags)
{
	char path[PATH_MAX];

	join(path, directory, name);
	return open(path, flags | O_CLOEXEC);
}

static inline bool write_to(const char *directory, const char *name, const char *text)
{
	int fd = open_at(directory, name, O_WRONLY);
	bool written = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

	close(fd);
	return written;
}

/* The last component of a link's target, or "" if there is no link. */
static inline const char *link_name(const char *directory, const char *name, char target[PATH_MAX])
{
	char path[PATH_MAX];

	join(path, directory, name);
	if (!realpath(path, target))
		return "";
	return strrchr(target, '/') + 1;
}

/* The disk as a PCI function: its directory in sysfs, and its PCI address. */
struct vfio_function {
	char folder[PATH_MAX];
	const char *address;
};

/* Binds the function to another driver. If @driver is "\n", the kernel chooses one. */
static inline bool vfio_bind(const struct vfio_function *function, const char *driver)
{
	return write_to(function->folder, "driver_override", driver) &&
	       write_to(function->folder, "driver/unbind", function->address) &&
	       write_to("/sys/bus/pci", "drivers_probe", function->address);
}

struct vfio {
	int container, group, device;
};

static inline int vfio_open(struct vfio *vfio, const struct vfio_function *function)
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
static inline void vfio_close(struct vfio *vfio)
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
struct vfio_view {
	int container;
	uint64_t first;
};

#define VFIO_FIRST	(4ULL << 30)

static inline int vfio_map_slab(void *arg, const struct evpl_slab_info *slab, uint64_t *cookie)
{
	struct vfio_view *view = arg;
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

static inline int vfio_unmap(const struct vfio_view *view, uint64_t address, size_t length)
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
static inline int vfio_unmap_slab(void *arg, const struct evpl_slab_info *slab, uint64_t cookie)
{
	vfio_unmap(arg, cookie, slab->length);
	return 0;
}

static const struct evpl_device_ops vfio_ops = {
	.size = sizeof(vfio_ops),
	.register_slab = vfio_map_slab,
	.unregister_slab = vfio_unmap_slab,
};

/* The device's address of a slice. */
static inline uint64_t vfio_address(struct evpl_device *device, const struct evpl_iovec *iovec)
{
	struct evpl_slab_info slab;
	uint64_t cookie;

	if (evpl_iovec_slab(iovec, &slab) || evpl_device_cookie(device, iovec, &cookie))
		abort();
	return cookie + (uint64_t)((char *)iovec->data - (char *)slab.base);
}

#endif /* EVPL_EXAMPLE_VFIO_H */
