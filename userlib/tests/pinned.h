/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_TESTS_PINNED_H
#define EVPLMEM_TESTS_PINNED_H

/*
 * Helpers for the tests of interfaces that pin memory: the limit on pinned memory, and the
 * module's counter of memory that was freed while something still held it.
 */
#include <inttypes.h>
#include <linux/capability.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common.h"

struct limited {
	void *(*function)(void *arg);
	void *arg;
};

/*
 * Drops CAP_IPC_LOCK of this thread only. The other threads keep their credentials. RDMA needs
 * that: the kernel compares the credentials of a caller with those of the opener of a device.
 */
static inline void drop_ipc_lock(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];

	if (syscall(SYS_capget, &header, data))
		abort();
	data[CAP_TO_INDEX(CAP_IPC_LOCK)].effective &= ~CAP_TO_MASK(CAP_IPC_LOCK);
	if (syscall(SYS_capset, &header, data))
		abort();
}

static inline void *run_limited(void *arg)
{
	struct limited *limited = arg;

	drop_ipc_lock();
	return limited->function(limited->arg);
}

/*
 * Runs @function on another thread without CAP_IPC_LOCK, so that RLIMIT_MEMLOCK applies to it, and
 * waits until it returns.
 */
static inline void on_limited_thread(rlim_t bytes, void *(*function)(void *arg), void *arg)
{
	struct limited limited = { .function = function, .arg = arg };
	struct rlimit limit, old;

	if (getrlimit(RLIMIT_MEMLOCK, &old))
		abort();
	limit = (struct rlimit){ .rlim_cur = bytes, .rlim_max = old.rlim_max };
	if (setrlimit(RLIMIT_MEMLOCK, &limit))
		abort();
	on_thread(run_limited, &limited);
	if (setrlimit(RLIMIT_MEMLOCK, &old))
		abort();
}

/* Bytes that were freed and are still charged, because something else holds their pages. */
static inline uint64_t detached_bytes(void)
{
	FILE *file = fopen("/sys/kernel/debug/evpl/counters", "re");
	uint64_t bytes = 0;
	char line[64];

	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "detached-bytes %" SCNu64, &bytes) == 1)
			break;
	if (!file || fclose(file))
		abort();
	return bytes;
}

/* Waits, for at most a minute: the module rechecks detached memory from time to time. */
static inline bool detached_bytes_become(uint64_t bytes)
{
	int tries = 600;

	while (detached_bytes() != bytes) {
		if (!tries--)
			return false;
		usleep(100 * 1000);
	}
	return true;
}

#endif /* EVPLMEM_TESTS_PINNED_H */
