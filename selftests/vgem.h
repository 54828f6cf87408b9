/* SPDX-License-Identifier: GPL-2.0-only */
/* Finds devices by their files, among them vgem, a GPU without hardware that takes dma-bufs. */
#ifndef EVPL_VGEM_H
#define EVPL_VGEM_H

#include <dirent.h>

#include "evpl_test.h"

/* These are as in drm/drm.h, which not every system has. */
struct drm_version {
	int numbers[3];
	size_t name_length;
	char *name;
	struct {
		size_t length;
		char *string;
	} others[2];
};

struct drm_prime {
	uint32_t handle;
	uint32_t flags;
	int32_t fd;
};

struct drm_close {
	uint32_t handle;
	uint32_t pad;
};

#define DRM_VERSION	_IOWR('d', 0x00, struct drm_version)
#define DRM_GEM_CLOSE	_IOW('d', 0x09, struct drm_close)
#define DRM_HANDLE_TO_FD	_IOWR('d', 0x2d, struct drm_prime)
#define DRM_FD_TO_HANDLE	_IOWR('d', 0x2e, struct drm_prime)

/*
 * Open the files of a directory whose names begin with @prefix, and no others: to open a
 * device may have effects. Return the first descriptor that is @wanted, or -1.
 */
static inline int find_device(const char *directory, const char *prefix,
			      bool (*wanted)(int fd, const void *arg), const void *arg)
{
	DIR *dir = opendir(directory);
	struct dirent *entry;
	int fd = -1;

	while (dir && fd < 0 && (entry = readdir(dir))) {
		if (strncmp(entry->d_name, prefix, strlen(prefix)))
			continue;
		fd = openat(dirfd(dir), entry->d_name, O_RDWR | O_NONBLOCK | O_CLOEXEC);
		if (fd >= 0 && !wanted(fd, arg)) {
			close(fd);
			fd = -1;
		}
	}
	if (dir)
		closedir(dir);
	return fd;
}

static inline bool is_vgem(int fd, const void *unused)
{
	char name[16] = "";
	struct drm_version version = { .name_length = sizeof(name) - 1, .name = name };

	return !ioctl(fd, DRM_VERSION, &version) && !strcmp(name, "vgem");
}

static inline int open_vgem(void)
{
	if (system("modprobe -q vgem"))
		return -1;
	return find_device("/dev/dri", "renderD", is_vgem, NULL);
}

#endif /* EVPL_VGEM_H */
