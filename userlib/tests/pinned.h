/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_TESTS_PINNED_H
#define EVPLMEM_TESTS_PINNED_H

/*
 * What the tests of interfaces that pin memory share: the limit on it, and what the
 * module still has of memory that was freed while it was pinned.
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
 * Of this thread alone, so that what was opened before still works: the kernel compares
 * the credentials of who opened a device.
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

/* Runs one function on another thread, to which RLIMIT_MEMLOCK applies, to its end. */
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

/* What was freed, and is still charged because something else holds it. */
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

/* The module looks again now and then: wait, but not for ever. */
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
