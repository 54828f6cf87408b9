// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/* Tests of files, pipes, other processes, userfaultfd and dma-bufs. */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "probe.h"

/* Writes one buffer to the file, and reads it back into the other. */
static bool through_file(struct row *row, struct memory *memory, int fd, const char *what)
{
	if (pwrite(fd, memory->from.data, BUFFER, 0) != (ssize_t)BUFFER ||
	    pread(fd, memory->to.data, BUFFER, 0) != (ssize_t)BUFFER) {
		row_no(row, errno, "%s: %s.", what, strerror(errno));
		return false;
	}
	return memory_arrived(memory, row);
}

void try_read_write(struct row *row, struct memory *memory)
{
	int fd = memfd_create("evpl-probe", MFD_CLOEXEC);

	if (fd < 0)
		row_not_tried(row, errno, "There is no file to write to: %s.", strerror(errno));
	else if (through_file(row, memory, fd, "A file of memory"))
		row_yes(row, "64 KiB went into a file and came back.");
}

/* Tries O_DIRECT with ordinary memory. Returns 0, or the errno if the file system can't do it. */
static int plain_direct(int fd)
{
	void *plain = mmap(NULL, BUFFER, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ssize_t n;

	if (plain == MAP_FAILED || fcntl(fd, F_SETFL, O_DIRECT))
		return errno;
	n = pwrite(fd, plain, BUFFER, 0);
	munmap(plain, BUFFER);
	if (n < 0)
		return errno;
	return n == (ssize_t)BUFFER ? 0 : ENOSPC;
}

/* Whether the file is in the page cache: some file systems take O_DIRECT, and use it anyway. */
static bool is_cached(int fd)
{
	unsigned char resident[BUFFER / 4096] = { 0 };
	void *map = mmap(NULL, BUFFER, PROT_READ, MAP_SHARED, fd, 0);
	bool cached = false;
	size_t i;

	if (map == MAP_FAILED)
		return false;
	mincore(map, BUFFER, resident);
	for (i = 0; i < sizeof(resident); i++)
		cached |= resident[i] & 1;
	munmap(map, BUFFER);
	return cached;
}

void try_direct(struct row *row, struct memory *memory)
{
	const char *directory = getenv("TMPDIR");
	char path[4096];
	int fd, error;

	if (!directory || !*directory)
		directory = "/var/tmp";
	row_remedy(row, "Name a directory on a disk that can be written to: TMPDIR=DIRECTORY evpl-probe.");
	snprintf(path, sizeof(path), "%s/evpl-probe.XXXXXX", directory);
	fd = mkostemp(path, O_CLOEXEC);
	if (fd < 0) {
		row_not_tried(row, errno, "There can't be a file in %.200s: %s.", directory,
			      strerror(errno));
		return;
	}
	unlink(path);
	error = plain_direct(fd);
	if (error) {
		row_not_tried(row, error, "The file system of %.200s can't: %s.", directory,
			      strerror(error));
		return;
	}
	if (!through_file(row, memory, fd, "O_DIRECT"))
		return;
	if (is_cached(fd)) {
		row_not_tried(row, 0, "The file system of %.200s takes O_DIRECT, but copies all the same.",
			      directory);
		return;
	}
	row_yes(row, "64 KiB went past the page cache into a file of %.200s and came back.", directory);
	row->remedy[0] = '\0';
}

void try_vmsplice(struct row *row, struct memory *memory)
{
	struct iovec iovec = { memory->from.data, BUFFER };
	char *to = memory->to.data;
	ssize_t spliced, n;
	int fds[2];

	if (pipe2(fds, O_CLOEXEC)) {
		row_not_tried(row, errno, "There is no pipe: %s.", strerror(errno));
		return;
	}
	while (iovec.iov_len) {
		/* The pipe takes as much as it has room for. */
		spliced = vmsplice(fds[1], &iovec, 1, SPLICE_F_NONBLOCK);
		if (spliced < 0) {
			row_no(row, errno, "The pipe doesn't take it: %s.", strerror(errno));
			return;
		}
		iovec.iov_base = (char *)iovec.iov_base + spliced;
		iovec.iov_len -= (size_t)spliced;
		for (; spliced; spliced -= n, to += n) {
			n = read(fds[0], to, (size_t)spliced);
			if (n <= 0) {
				row_no(row, n ? errno : EIO, "It doesn't come out of the pipe.");
				return;
			}
		}
	}
	if (memory_arrived(memory, row))
		row_yes(row, "64 KiB went through a pipe.");
}

void try_process_vm(struct row *row, struct memory *memory)
{
	struct iovec local = { memory->to.data, BUFFER }, remote = { memory->from.data, BUFFER };
	ssize_t n = process_vm_readv(getpid(), &local, 1, &remote, 1, 0);

	if (n == (ssize_t)BUFFER) {
		if (memory_arrived(memory, row))
			row_yes(row, "64 KiB were read from a process.");
		return;
	}
	if (n >= 0)
		errno = EIO;
	if (errno == ENOSYS || errno == EPERM) {
		row_not_tried(row, errno, "This system doesn't allow it: %s.", strerror(errno));
		row_remedy(row, "A container's seccomp profile may forbid it, or the kernel is without CONFIG_CROSS_MEMORY_ATTACH.");
		return;
	}
	row_no(row, errno, "It can't be read: %s.", strerror(errno));
}

void try_userfaultfd(struct row *row, struct memory *memory)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register registration = {
		.range = { (uintptr_t)memory->slab.base, memory->slab.length },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);

	if (fd < 0 || ioctl(fd, UFFDIO_API, &api)) {
		row_not_tried(row, errno, "This system has no userfaultfd: %s. It would refuse.",
			      strerror(errno));
	} else if (ioctl(fd, UFFDIO_REGISTER, &registration)) {
		row_refused(row, errno, "The memory's faults are the module's to serve.");
		row_remedy(row, "By design: use it with the process's own memory.");
	} else {
		row_no(row, 0, "It takes the memory, which it mustn't.");
		row_remedy(row, "This is a bug of evpl: report it.");
	}
}

/* Exports a buffer as a dma-buf, and reads it by a mapping of that. */
void try_dmabuf(struct row *row, struct memory *memory)
{
	struct evpl_iovec given;
	void *map;
	int fd;

	evpl_iovec_clone(&given, &memory->from);
	fd = evpl_iovec_export(&given, 1, 0);
	if (fd < 0) {
		row_no(row, -fd, "No dma-buf can be made: %s.", strerror(-fd));
		if (fd == -ENOTTY)
			row_remedy(row, "The module is older than this tool: load the one that "
				   "came with it.");
		return;
	}
	map = mmap(NULL, BUFFER, PROT_READ, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED) {
		row_no(row, errno, "The dma-buf can't be mapped: %s.", strerror(errno));
		return;
	}
	memcpy(memory->to.data, map, BUFFER);
	if (memory_arrived(memory, row))
		row_yes(row, "64 KiB were exported and read by a mapping. No device was given it.");
}
