/* SPDX-License-Identifier: GPL-2.0-only */
/* Helpers for all tests of /dev/evpl: thin wrappers of calls, and ways to observe the kernel. */
#ifndef EVPL_TEST_H
#define EVPL_TEST_H

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/evpl.h>
#include <linux/kernel-page-flags.h>
#include <linux/membarrier.h>

/* A program without the harness's tests defines EVPL_NO_HARNESS. */
#ifdef EVPL_NO_HARNESS
#include "kselftest.h"
#else
#include "kselftest_harness.h"

/* The harness kills a test that hangs. The limit is long, as an emulated machine can be slow. */
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT	1100
#endif

#define DEVICE		"/dev/evpl"
#define COUNTERS	"/sys/kernel/debug/evpl/counters"
#define MAX_BYTES	"/sys/module/evpl/parameters/max_bytes"
#define MAX_BYTES_PER_USER "/sys/module/evpl/parameters/max_bytes_per_user"

#define KIB		1024UL
#define MIB		(1024UL * KIB)
#define SLAB_2M		EVPL_SLAB_ALIGN

/* The page size of the kernel that the tests are built for. */
#ifndef PAGE
#define PAGE		(4 * KIB)
#endif
/* A client that is set up is charged for its header, and with a small slab for a page of entries. */
#define HEADER_PAGE	PAGE
#define REFS_PAGE	PAGE
#define ENTRIES_PER_PAGE	(PAGE / sizeof(struct evpl_entry))

/*
 * No test waits for ever. A wait for a condition takes at most this many seconds, and the
 * children of a test live as long (see fork_child()). The test itself has a minute more (see
 * limit_sleeps()), so that it tells which step failed. The harness kills it even later, but
 * can't tell the step.
 */
#define LIMIT		480

/* Return 0, or -errno, so that an errno can be compared by value. */
#define RESULT(call)	((call) < 0 ? -errno : 0)

static inline int evpl_setup(int fd, uint64_t buffer_size,
			     struct evpl_setup *setup)
{
	*setup = (struct evpl_setup){
		.size = sizeof(*setup),
		.buffer_size = buffer_size,
	};
	return RESULT(ioctl(fd, EVPL_SETUP, setup));
}

static inline int evpl_slab_alloc_on(int fd, uint64_t length, int node,
				     uint32_t flags, uint64_t *offset)
{
	struct evpl_slab_alloc slab = {
		.size = sizeof(slab),
		.flags = flags,
		.length = length,
		.node = node,
	};
	int ret = RESULT(ioctl(fd, EVPL_SLAB_ALLOC, &slab));

	if (!ret)
		*offset = slab.out_offset;
	return ret;
}

static inline int evpl_slab_alloc(int fd, uint64_t length, uint64_t *offset)
{
	return evpl_slab_alloc_on(fd, length, EVPL_NODE_ANY, 0, offset);
}

static inline int evpl_slab_free(int fd, uint64_t offset)
{
	struct evpl_slab_free slab = {
		.size = sizeof(slab),
		.offset = offset,
	};

	return RESULT(ioctl(fd, EVPL_SLAB_FREE, &slab));
}

/* Find the first slab that starts at @offset or after it. */
static inline int evpl_slab_next(int fd, uint64_t offset, struct evpl_slab_next *next)
{
	*next = (struct evpl_slab_next){ .size = sizeof(*next), .offset = offset };
	return RESULT(ioctl(fd, EVPL_SLAB_NEXT, next));
}

static inline int evpl_adopt(int fd, uint64_t buffer_size, struct evpl_setup *setup)
{
	*setup = (struct evpl_setup){ .size = sizeof(*setup), .buffer_size = buffer_size };
	return RESULT(ioctl(fd, EVPL_ADOPT, setup));
}

/* Create a channel, and return both of its ends. */
static inline int evpl_channel(int fd, uint32_t capacity, int ends[2])
{
	struct evpl_channel_create create = {
		.size = sizeof(create),
		.capacity = capacity,
	};
	int ret = RESULT(ioctl(fd, EVPL_CHANNEL_CREATE, &create));

	if (!ret)
		memcpy(ends, create.out_fds, sizeof(create.out_fds));
	return ret;
}

static inline int evpl_bind_with(int fd, int end, uint32_t flags)
{
	struct evpl_channel_bind bind = {
		.size = sizeof(bind),
		.flags = flags,
		.fd = end,
	};

	return RESULT(ioctl(fd, EVPL_CHANNEL_BIND, &bind));
}

static inline int evpl_bind(int fd, int end)
{
	return evpl_bind_with(fd, end, 0);
}

static inline int evpl_doorbell(int end, uint32_t ring, uint32_t quiet)
{
	struct evpl_doorbell doorbell = {
		.size = sizeof(doorbell),
		.ring = ring,
		.quiet = quiet,
	};

	return RESULT(ioctl(end, EVPL_DOORBELL, &doorbell));
}

/* Return how many leases have been ended, or -errno. */
static inline int evpl_lease_release(int fd, const uint32_t *leases, uint32_t count)
{
	struct evpl_lease_release release = {
		.size = sizeof(release),
		.leases = (uintptr_t)leases,
		.count = count,
	};
	int ret = ioctl(fd, EVPL_LEASE_RELEASE, &release);

	return ret < 0 ? -errno : ret;
}

static inline int evpl_lease_pull_with(int fd, uint32_t flags)
{
	struct evpl_lease_pull pull = { .size = sizeof(pull), .flags = flags };
	int ret = ioctl(fd, EVPL_LEASE_PULL, &pull);

	return ret < 0 ? -errno : ret;
}

static inline int evpl_lease_pull(int fd)
{
	return evpl_lease_pull_with(fd, 0);
}

static inline int evpl_lease_want(int fd)
{
	return evpl_lease_pull_with(fd, EVPL_PULL_WANT);
}

static inline int evpl_revoke(int fd, uint64_t offset)
{
	struct evpl_revoke revoke = { .size = sizeof(revoke), .offset = offset };
	int ret = ioctl(fd, EVPL_REVOKE, &revoke);

	return ret < 0 ? -errno : ret;
}

/* Return how many folios were skipped because they are in use, or -errno. */
static inline int evpl_baseline(int fd, uint32_t flags, uint64_t offset, uint64_t length)
{
	struct evpl_baseline args = {
		.size = sizeof(args),
		.flags = flags,
		.offset = offset,
		.length = length,
	};
	int ret = ioctl(fd, EVPL_BASELINE, &args);

	return ret < 0 ? -errno : ret;
}

static inline int evpl_quarantine_end(int fd, uint64_t offset)
{
	struct evpl_quarantine_end end = { .size = sizeof(end), .offset = offset };

	return RESULT(ioctl(fd, EVPL_QUARANTINE_END, &end));
}

static inline int evpl_room(int fd, struct evpl_room *room)
{
	*room = (struct evpl_room){ .size = sizeof(*room) };
	return RESULT(ioctl(fd, EVPL_ROOM, room));
}

static inline int evpl_buffer_wait(int fd, uint64_t offset, uint32_t flags)
{
	struct evpl_buffer_wait wait = {
		.size = sizeof(wait),
		.flags = flags,
		.offset = offset,
	};

	return RESULT(ioctl(fd, EVPL_BUFFER_WAIT, &wait));
}

/* Return the dma-buf, or -errno. */
static inline int evpl_export(int fd, const struct evpl_range *ranges, uint32_t count,
			      uint32_t flags)
{
	struct evpl_export export = {
		.size = sizeof(export),
		.flags = flags,
		.ranges = (uintptr_t)ranges,
		.count = count,
	};
	int ret = RESULT(ioctl(fd, EVPL_EXPORT, &export));

	return ret ?: export.out_fd;
}

/* Write records to an end, or read them. Return how many, or -errno. */
static inline int evpl_send(int end, const struct evpl_record *records, int nr)
{
	ssize_t ret = write(end, records, nr * sizeof(*records));

	return ret < 0 ? -errno : (int)(ret / sizeof(*records));
}

static inline int evpl_recv(int end, struct evpl_record *records, int nr)
{
	ssize_t ret = read(end, records, nr * sizeof(*records));

	return ret < 0 ? -errno : (int)(ret / sizeof(*records));
}

static inline void *evpl_map(int fd, uint64_t length, uint64_t offset)
{
	return mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
		    offset);
}

/* The number after a name in a file of "name number" lines, or -1 if there is none. */
static inline long long number_in(const char *path, const char *name)
{
	long long value = -1;
	char line[512];
	FILE *file = fopen(path, "re");

	if (!file)
		return -1;
	while (fgets(line, sizeof(line), file)) {
		size_t length = strlen(name);

		if (strncmp(line, name, length) ||
		    !strchr(" :\t", line[length]))
			continue;
		value = strtoll(line + length + strspn(line + length, ": \t"),
				NULL, 10);
		break;
	}
	fclose(file);
	return value;
}

static inline long long fdinfo(int fd, const char *name)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	return number_in(path, name);
}

struct counters {
	long long clients, slabs, charged, detached, channels, records, shares, leases,
		  quarantined, exports, registrations;
};

static inline struct counters read_counters(void)
{
	return (struct counters){
		.clients = number_in(COUNTERS, "clients"),
		.slabs = number_in(COUNTERS, "slabs"),
		.charged = number_in(COUNTERS, "charged-bytes"),
		.detached = number_in(COUNTERS, "detached-bytes"),
		.channels = number_in(COUNTERS, "channels"),
		.records = number_in(COUNTERS, "records"),
		.shares = number_in(COUNTERS, "shares"),
		.leases = number_in(COUNTERS, "leases"),
		.quarantined = number_in(COUNTERS, "quarantined"),
		.exports = number_in(COUNTERS, "exports"),
		.registrations = number_in(COUNTERS, "registrations"),
	};
}

static inline bool counters_equal(struct counters a, struct counters b)
{
	return !memcmp(&a, &b, sizeof(a));
}

/* Wait until memory that a device or a pipe still held has gone back too, but not for ever. */
static inline bool counters_return_to(struct counters before)
{
	int tries = 10 * LIMIT;

	while (!counters_equal(read_counters(), before)) {
		if (!tries--)
			return false;
		usleep(100 * 1000);
	}
	return true;
}

/* Whether slabs have large folios on this kernel (see EVPL_FOLIO_ORDER_MAX). */
static inline bool has_huge(void)
{
	return !access("/sys/kernel/mm/transparent_hugepage", F_OK);
}

static inline int write_string(const char *path, const char *string)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	int ret;

	if (fd < 0)
		return -errno;
	ret = RESULT(write(fd, string, strlen(string)));
	close(fd);
	return ret;
}

static inline int write_number(const char *path, unsigned long long number)
{
	char string[32];

	snprintf(string, sizeof(string), "%llu", number);
	return write_string(path, string);
}

/* The number that a file begins with, or 0 if there is none. */
static inline unsigned long long read_number(const char *path)
{
	unsigned long long value = 0;
	FILE *file = fopen(path, "re");

	if (file && fscanf(file, "%llu", &value) != 1)
		value = 0;
	if (file)
		fclose(file);
	return value;
}

static __thread sigjmp_buf touch_jump;

static inline void touch_handler(int signal)
{
	siglongjmp(touch_jump, signal);
}

/* Read or write a byte. Return 0, or the signal that it raised. */
static inline int touch(volatile char *byte, bool write)
{
	struct sigaction action = { .sa_handler = touch_handler };
	struct sigaction bus, segv;
	int signal;

	sigaction(SIGBUS, &action, &bus);
	sigaction(SIGSEGV, &action, &segv);
	signal = sigsetjmp(touch_jump, 1);
	if (!signal) {
		char value = *byte;

		if (write)
			*byte = value;
	}
	sigaction(SIGBUS, &bus, NULL);
	sigaction(SIGSEGV, &segv, NULL);
	return signal;
}

/*
 * Inject a memory error into a page that this thread has mapped. Return 0, or -errno: -EINVAL
 * if this kernel can't. The call may raise SIGBUS as a touch does, which this function catches.
 */
static inline int strike(void *page)
{
	struct sigaction action = { .sa_handler = touch_handler }, bus;
	int ret = 0;

	sigaction(SIGBUS, &action, &bus);
	if (!sigsetjmp(touch_jump, 1))
		ret = RESULT(madvise(page, PAGE, MADV_HWPOISON));
	sigaction(SIGBUS, &bus, NULL);
	return ret;
}

#define touch_read(byte)	touch((void *)(byte), false)
#define touch_write(byte)	touch((void *)(byte), true)

/* A field of the VMA at an address, in KiB, from smaps, or -1 if there is none. */
static inline long long smaps(const void *address, const char *name)
{
	long long value = -1;
	char line[512];
	bool inside = false;
	FILE *file = fopen("/proc/self/smaps", "re");

	if (!file)
		return -1;
	while (fgets(line, sizeof(line), file)) {
		unsigned long start, end;

		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			inside = (unsigned long)address >= start &&
				 (unsigned long)address < end;
		else if (inside && !strncmp(line, name, strlen(name)))
			value = strtoll(line + strlen(name) + 1, NULL, 10);
	}
	fclose(file);
	return value;
}

static inline bool is_filled_with(const char *memory, char value, size_t length)
{
	return memory[0] == value &&
	       !memcmp(memory, memory + 1, length - 1);
}

/*
 * The free memory in KiB, after RCU grace periods and without caches. The pages on the
 * per-CPU lists are free as well: these have many megabytes, folios of 2 MiB included.
 */
static inline double settled_free(void)
{
	FILE *file;
	char line[256];
	long long kib;
	unsigned long pages;

	syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0);
	write_string("/proc/sys/vm/drop_caches", "3");
	syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0);

	kib = number_in("/proc/meminfo", "MemFree");
	file = fopen("/proc/zoneinfo", "re");
	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, " count: %lu", &pages) == 1)
			kib += pages * (sysconf(_SC_PAGESIZE) / KIB);
	if (file)
		fclose(file);
	return kib;
}

/* How often to repeat a step: EVPL_TEST_PERCENT of the usual count, but at least once. */
static inline unsigned int scaled(unsigned int usual)
{
	const char *percent = getenv("EVPL_TEST_PERCENT");
	unsigned long long count = usual;

	if (percent)
		count = count * strtoul(percent, NULL, 10) / 100;
	return count ? count : 1;
}

/* Send a byte and a descriptor over a Unix socket. */
static inline int send_fd(int socket, char byte, int fd)
{
	char control[CMSG_SPACE(sizeof(int))] = {};
	struct iovec iovec = { .iov_base = &byte, .iov_len = 1 };
	struct msghdr message = {
		.msg_iov = &iovec,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);

	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), &fd, sizeof(int));
	return RESULT(sendmsg(socket, &message, MSG_DONTWAIT | MSG_NOSIGNAL));
}

/* Receive both. Return the descriptor, -ENOMSG if none came with the byte, or -errno. */
static inline int recv_fd(int socket, char *byte, int flags)
{
	char control[CMSG_SPACE(sizeof(int))];
	struct iovec iovec = { .iov_base = byte, .iov_len = 1 };
	struct msghdr message = {
		.msg_iov = &iovec,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *header;
	ssize_t ret = recvmsg(socket, &message, flags | MSG_CMSG_CLOEXEC);
	int fd;

	if (ret != 1)
		return ret < 0 ? -errno : -EPIPE;
	header = CMSG_FIRSTHDR(&message);
	if (!header)
		return -ENOMSG;
	memcpy(&fd, CMSG_DATA(header), sizeof(fd));
	return fd;
}

/* Have a pipe hold the pages of this memory; fd is the pipe's end for writing. */
static inline int into_pipe(int fd, void *memory, size_t length)
{
	struct iovec iovec = { .iov_base = memory, .iov_len = length };
	ssize_t ret = vmsplice(fd, &iovec, 1, 0);

	return ret < 0 ? -errno : (int)ret;
}

/* Fill memory from a pipe; fd is the pipe's end for reading. */
static inline int from_pipe(int fd, void *memory, size_t length)
{
	return into_pipe(fd, memory, length);
}

/* A word of a file that has 8 bytes for each index, or 0 if there is none. */
static inline uint64_t word_of(const char *path, uint64_t index)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	uint64_t word = 0;

	if (fd < 0)
		return 0;
	if (pread(fd, &word, sizeof(word), index * sizeof(word)) != sizeof(word))
		word = 0;
	close(fd);
	return word;
}

/* The number of the page frame that is mapped here, or 0 if there is none. */
static inline uint64_t frame_of(const void *page)
{
	return word_of("/proc/self/pagemap", (uintptr_t)page / PAGE) & ((1ULL << 55) - 1);
}

/*
 * Have the kernel take a page offline that this process has mapped, as if the hardware had
 * reported a memory error that nothing has run into yet. Return whether the kernel has marked
 * the page.
 */
static inline bool take_offline(void *page)
{
	uint64_t frame = frame_of(page);
	char string[32];

	/* The write gives EBUSY if the page is marked but couldn't be taken away. */
	snprintf(string, sizeof(string), "0x%llx", (unsigned long long)frame * PAGE);
	write_string("/sys/devices/system/memory/hard_offline_page", string);
	return frame && word_of("/proc/kpageflags", frame) >> KPF_HWPOISON & 1;
}

/*
 * Load a module of selftests/modules, which lies in the folder tests beside evpl.ko. Return 0
 * or -errno: -ENOENT if EVPL_MODULE doesn't name evpl.ko, or the module isn't there.
 */
static inline int load_module_with(const char *name, const char *parameters)
{
	const char *module = getenv("EVPL_MODULE");
	char path[512];
	int fd, ret;

	if (!module || !strrchr(module, '/'))
		return -ENOENT;
	snprintf(path, sizeof(path), "%.*s/tests/%s.ko",
		 (int)(strrchr(module, '/') - module), module, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	ret = RESULT(syscall(SYS_finit_module, fd, parameters, 0));
	close(fd);
	return ret;
}

/* The same. It may be loaded already. */
static inline int load_module(const char *name)
{
	int ret = load_module_with(name, "");

	return ret == -EEXIST ? 0 : ret;
}

/* Whether this kernel has a function. */
#define kernel_has(function)	(!system("grep -qw " function " /proc/kallsyms"))

/* Whether this kernel can tell importers of dma-bufs to let go of them for good. */
static inline bool can_tell_importers(void)
{
	return kernel_has("dma_buf_attach_revocable");
}

/* Wait until a task sleeps in this system call. Return false if it doesn't come to that. */
static inline bool sleeps_in(pid_t pid, long call)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/syscall", pid);
	for (int tries = 0; tries < 60000; tries++) {
		siginfo_t info = {};
		long now = -1;
		FILE *file = fopen(path, "re");

		if (!file)
			return false;
		if (fscanf(file, "%ld", &now) != 1)
			now = -1; /* "running" */
		fclose(file);
		if (now == call)
			return true;
		/* A task that has ended, but isn't reaped, sleeps in no call any more. */
		if (!waitid(P_PID, pid, &info, WEXITED | WNOHANG | WNOWAIT) && info.si_pid)
			return false;
		usleep(1000);
	}
	return false;
}

/* The letter of a process's state in /proc, or 0 if there is no such process. */
static inline char state_of(pid_t pid)
{
	char path[64], state = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	file = fopen(path, "re");
	if (!file)
		return 0;
	if (fscanf(file, "%*d (%*[^)]) %c", &state) != 1)
		state = 0;
	fclose(file);
	return state;
}

static inline void do_nothing(int signal)
{
}

/*
 * A test calls this first. If it still runs when its time is over, a signal interrupts it
 * every second, so that a system call that it sleeps in gives EINTR. So that step fails, and
 * the next steps fail or end as well.
 */
static inline void limit_sleeps(void)
{
	const struct sigaction action = { .sa_handler = do_nothing };
	const struct itimerval timer = {
		.it_value.tv_sec = LIMIT + 60,
		.it_interval.tv_sec = 1,
	};

	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &timer, NULL);
}

/* fork(2) a child that is killed when its parent ends, or when its time is over. */
static inline pid_t fork_child(void)
{
	pid_t parent = getpid(), child = fork();

	if (child)
		return child;
	signal(SIGALRM, SIG_DFL);
	alarm(LIMIT);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	/* The parent may have ended before prctl(). */
	if (getppid() != parent)
		_exit(1);
	return 0;
}

/* Wait for a child. Return its exit status, or -signal. */
static inline int reap(pid_t pid)
{
	int status;

	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

#endif /* EVPL_TEST_H */
