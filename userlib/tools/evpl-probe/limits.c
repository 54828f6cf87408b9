// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/* How much memory the process may lock, and how much has been charged to that already. */
#include <inttypes.h>
#include <linux/capability.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "probe.h"

uint64_t read_number(const char *path)
{
	FILE *file = fopen(path, "re");
	uint64_t number;

	if (!file)
		return UNKNOWN;
	if (fscanf(file, "%" SCNu64, &number) != 1)
		number = UNKNOWN;
	fclose(file);
	return number;
}

/* The kernel checks CAP_IPC_LOCK in the initial user namespace. A container's root lacks it. */
static bool has_ipc_lock(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = { 0 };
	unsigned long first, outside, count;
	FILE *map;
	int n;

	if (syscall(SYS_capget, &header, data) ||
	    !(data[CAP_TO_INDEX(CAP_IPC_LOCK)].effective & CAP_TO_MASK(CAP_IPC_LOCK)))
		return false;
	map = fopen("/proc/self/uid_map", "re");
	if (!map)
		return true;
	n = fscanf(map, "%lu %lu %lu", &first, &outside, &count);
	fclose(map);
	return n == 3 && !first && !outside && count == UINT32_MAX;
}

void limits_read(struct limits *limits)
{
	struct rlimit memlock = { RLIM_INFINITY, RLIM_INFINITY };

	getrlimit(RLIMIT_MEMLOCK, &memlock);
	*limits = (struct limits){
		.memlock = memlock.rlim_cur,
		.memlock_hard = memlock.rlim_max,
		.may_lock = has_ipc_lock(),
		.max_bytes = read_number("/sys/module/evpl/parameters/max_bytes"),
		.max_bytes_per_user = read_number("/sys/module/evpl/parameters/max_bytes_per_user"),
	};
}

/* Reads a line of /proc/self/status, which is in KiB. */
static uint64_t charged_to_process(const char *name)
{
	FILE *status = fopen("/proc/self/status", "re");
	uint64_t kib = UNKNOWN;
	char line[128];

	while (status && fgets(line, sizeof(line), status))
		if (!strncmp(line, name, strlen(name)) &&
		    sscanf(line + strlen(name), ": %" SCNu64, &kib) == 1)
			break;
	if (status)
		fclose(status);
	return kib == UNKNOWN ? UNKNOWN : kib << 10;
}

/* The kernel doesn't report its charges to a user. So try how much can still be registered. */
static uint64_t charged_to_user(uint64_t limit, uint64_t bytes)
{
	uint64_t rest = uring_lockable(bytes < limit ? bytes : limit);

	return rest == UNKNOWN ? UNKNOWN : limit - rest;
}

static void remedy_memlock(struct row *row, const struct limits *limits, uint64_t need)
{
	unsigned long long kib = (need + 1023) >> 10;
	char hard[64] = "", unit[32];

	if (limits->memlock_hard < need)
		snprintf(hard, sizeof(hard), " as root (the hard limit is %llu KiB)",
			 (unsigned long long)limits->memlock_hard >> 10);
	if (kib % 1024)
		snprintf(unit, sizeof(unit), "%lluK", kib);
	else
		snprintf(unit, sizeof(unit), "%lluM", kib >> 10);
	row_remedy(row, "ulimit -l %llu%s, or LimitMEMLOCK=%s in the unit, or CAP_IPC_LOCK.",
		   kib, hard, unit);
}

/*
 * Whether RLIMIT_MEMLOCK is the reason that @bytes couldn't be charged. If so, this fills in the
 * row, and says which limit is needed.
 */
bool row_blame_memlock(struct row *row, int error, enum charge charge, uint64_t bytes,
		       const char *what)
{
	char limit_text[32], used_text[32], bytes_text[32], taken[128] = "";
	struct limits limits;
	uint64_t used = UNKNOWN;

	limits_read(&limits);
	if (limits.may_lock || limits.memlock == RLIM_INFINITY)
		return false;
	switch (charge) {
	case NO_CHARGE:
	case TO_NOBODY: return false;
	case TO_USER: used = charged_to_user(limits.memlock, bytes); break;
	case TO_PINNED: used = charged_to_process("VmPin"); break;
	case TO_LOCKED: used = charged_to_process("VmLck"); break;
	}
	if (used == UNKNOWN) {
		used = 0;
		snprintf(taken, sizeof(taken), ", what is taken of it can't be seen");
	} else if (used + bytes <= limits.memlock) {
		return false;
	} else if (used) {
		snprintf(taken, sizeof(taken), ", %s of it taken by this %s",
			 size_text(used_text, used), charge == TO_USER ? "user" : "process");
	}
	row_no(row, error, "RLIMIT_MEMLOCK is %s%s; %s needs %s.",
	       size_text(limit_text, limits.memlock), taken, what, size_text(bytes_text, bytes));
	remedy_memlock(row, &limits, used + bytes);
	return true;
}
