// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/* Test of VFIO: maps a slab for DMA, in a container of its own with a group that is bound. */
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <linux/vfio.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "probe.h"

#define IOVA	(4ULL << 30)	/* above the range that is reserved for interrupts */

static bool try_container(struct row *row, struct memory *memory, int container)
{
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map),
		.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
		.vaddr = (uintptr_t)memory->slab.base,
		.iova = IOVA,
		.size = memory->slab.length,
	};

	if (ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU)) {
		row_no(row, errno, "The container can't be of type 1: %s.", strerror(errno));
		row_remedy(row, "modprobe vfio_iommu_type1.");
		return false;
	}
	if (ioctl(container, VFIO_IOMMU_MAP_DMA, &map)) {
		if (errno != ENOMEM || !row_blame_memlock(row, ENOMEM, TO_LOCKED, map.size,
							  "mapping this slab"))
			row_no(row, errno, "A slab can't be mapped for DMA: %s.", strerror(errno));
		return false;
	}
	return true;
}

static bool try_group(struct row *row, struct memory *memory, const char *path)
{
	struct vfio_group_status status = { .argsz = sizeof(status) };
	int container, group;

	group = open(path, O_RDWR | O_CLOEXEC);
	if (group < 0) {
		row_no(row, errno, "%.64s can't be opened: %s.", path, strerror(errno));
		row_remedy(row, errno == EBUSY ? "Another process has it: end that, or bind another device." :
			   "Give it to this user: chown USER %.64s.", path);
		return false;
	}
	container = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC);
	if (container < 0) {
		row_no(row, errno, "/dev/vfio/vfio can't be opened: %s.", strerror(errno));
		row_remedy(row, "Give it back to everybody, as it is from the start: chmod 666 /dev/vfio/vfio.");
		return false;
	}
	if (ioctl(group, VFIO_GROUP_GET_STATUS, &status) ||
	    !(status.flags & VFIO_GROUP_FLAGS_VIABLE)) {
		row_no(row, 0, "Devices of the group of %.64s have drivers of their own still.", path);
		row_remedy(row, "Bind all of /sys/kernel/iommu_groups/%.32s/devices to vfio-pci.",
			   path + strlen("/dev/vfio/"));
		return false;
	}
	if (ioctl(group, VFIO_GROUP_SET_CONTAINER, &container)) {
		row_no(row, errno, "The group of %.64s can't be used: %s.", path, strerror(errno));
		return false;
	}
	if (!try_container(row, memory, container))
		return false;
	row_yes(row, "A slab is mapped for DMA, for the group of %.64s. No bytes were moved.", path);
	row->remedy[0] = '\0';
	return true;
}

static size_t count(const char *pattern, glob_t *paths)
{
	return glob(pattern, 0, NULL, paths) ? 0 : paths->gl_pathc;
}

void try_vfio(struct row *row, struct memory *memory)
{
	glob_t paths;
	size_t i, n;

	if (!count("/sys/kernel/iommu_groups/*", &paths)) {
		row_no(row, ENODEV, "No IOMMU is in use: there are no IOMMU groups.");
		row_remedy(row, "Enable VT-d or AMD-Vi in the firmware, and boot with intel_iommu=on on Intel.");
		return;
	}
	if (access("/dev/vfio/vfio", F_OK)) {
		row_no(row, errno, "There is no /dev/vfio/vfio: the module isn't loaded.");
		row_remedy(row, "modprobe vfio-pci; in a container, start it with --device /dev/vfio/vfio.");
		return;
	}
	n = count("/dev/vfio/[0-9]*", &paths);
	if (!n) {
		row_not_tried(row, 0, "No device is bound to VFIO.");
		row_remedy(row, "Bind a PCI device that nothing uses (lspci -k), ADDRESS: cd /sys/bus/pci; echo vfio-pci > devices/ADDRESS/driver_override; echo ADDRESS > devices/ADDRESS/driver/unbind; echo ADDRESS > drivers_probe.");
		return;
	}
	for (i = 0; i < n && !try_group(row, memory, paths.gl_pathv[i]); i++)
		;
}
