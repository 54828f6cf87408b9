// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Finds descriptors of what can hold pages after a lease has ended. /proc tells of a pipe how many
 * bytes are unread, and of nothing which pages it has.
 */
#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "evplctl.h"

static const struct {
	enum page_kind kind;
	const char *link;	/* how the link in /proc/PID/fd begins */
	const char *text;
} kinds[] = {
	{ PAGES_PIPE, "pipe:[", "a pipe" },
	{ PAGES_SOCKET, "socket:[", "a socket" },
	{ PAGES_URING, "anon_inode:[io_uring]", "an io_uring" },
	{ PAGES_RDMA, "/dev/infiniband/uverbs", "an RDMA device" },
	{ PAGES_VFIO, "/dev/vfio/", "VFIO" },
	{ PAGES_KVM, "anon_inode:kvm-vm", "a virtual machine" },
};

const char *pages_text(enum page_kind kind)
{
	size_t i;

	for (i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (kinds[i].kind == kind)
			return kinds[i].text;
	return "nothing";
}

static enum page_kind kind_of(const char *link, uint64_t *inode)
{
	size_t i;

	*inode = 0;
	for (i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		if (strncmp(link, kinds[i].link, strlen(kinds[i].link)))
			continue;
		if (strchr(kinds[i].link, '['))
			sscanf(strchr(link, '[') + 1, "%" SCNu64, inode);
		return kinds[i].kind;
	}
	return PAGES_NONE;
}

/*
 * The bytes that are unread in a pipe. To ask, this opens the pipe once more for reading, for a
 * moment, and reads nothing.
 */
static uint64_t unread(int fds, const char *name)
{
	int fd = openat(fds, name, O_RDONLY | O_NONBLOCK | O_CLOEXEC), bytes = 0;

	if (fd < 0)
		return 0;
	if (ioctl(fd, FIONREAD, &bytes))
		bytes = 0;
	close(fd);
	return bytes;
}

static struct page_holder *read_process(struct page_holder *found, size_t *count, int dir, pid_t pid)
{
	int list = openat(dir, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *fds = list < 0 ? NULL : fdopendir(list);
	struct page_holder holder;
	struct dirent *entry;
	char link[64];
	ssize_t n;

	while (fds && (entry = readdir(fds))) {
		n = readlinkat(list, entry->d_name, link, sizeof(link) - 1);
		if (n < 0)
			continue;
		link[n] = '\0';
		holder = (struct page_holder){ .fd = atoi(entry->d_name) };
		holder.kind = kind_of(link, &holder.inode);
		if (holder.kind == PAGES_PIPE)
			holder.bytes = unread(list, entry->d_name);
		if (holder.kind == PAGES_NONE || (holder.kind == PAGES_PIPE && !holder.bytes))
			continue;
		process_read(&holder.process, dir, pid);
		found = grow(found, *count, sizeof(holder));
		found[(*count)++] = holder;
	}
	if (fds)
		closedir(fds);
	return found;
}

/*
 * Finds these descriptors in all processes that /proc shows. A pipe without unread bytes holds
 * nothing, and is left out. The caller frees the array.
 */
struct page_holder *pages_read(size_t *count)
{
	struct page_holder *found = NULL;
	struct dirent *entry;
	DIR *proc;
	int dir;

	*count = 0;
	proc = opendir("/proc");
	while (proc && (entry = readdir(proc))) {
		if (!isdigit(entry->d_name[0]))
			continue;
		dir = openat(dirfd(proc), entry->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (dir < 0)
			continue;
		found = read_process(found, count, dir, atoi(entry->d_name));
		close(dir);
	}
	if (proc)
		closedir(proc);
	return found;
}
