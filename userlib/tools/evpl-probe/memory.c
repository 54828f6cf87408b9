// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/* The module's memory, which every interface is tried with, and its own test, the first row. */
#include <errno.h>
#include <grp.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "probe.h"

static void explain_access(struct row *row, const char *device, int error)
{
	struct stat st = { 0 };
	struct group *group;

	stat(device, &st);
	group = getgrgid(st.st_gid);
	row_no(row, error, "This user may not open %s: it belongs to user %u and group %s, mode %04o.",
	       device, st.st_uid, group ? group->gr_name : "?", st.st_mode & 07777);
	if (group && st.st_gid && (st.st_mode & 060) == 060)
		row_remedy(row, "Add the user to the group, and log in anew: usermod -aG %s USER.",
			   group->gr_name);
	else
		row_remedy(row, "Give it to a group: groupadd --system evpl; usermod -aG evpl USER; "
			   "chgrp evpl %s; chmod 660 %s. The udev rule 60-evpl.rules does so at boot.",
			   device, device);
}

static void explain_open(struct row *row, const char *device, int error)
{
	switch (error) {
	case ENOENT:
		if (!access("/sys/module/evpl", F_OK)) {
			row_no(row, error, "There is no %s here, though the module is loaded.", device);
			row_remedy(row, "In a container: start it with --device %s.", device);
			return;
		}
		row_no(row, error, "There is no %s: the module isn't loaded.", device);
		row_remedy(row, "Load it: insmod evpl.ko, or modprobe evpl where it is installed.");
		return;
	case ENXIO:
	case ENODEV:
		row_no(row, error, "There is nothing behind %s: the module isn't loaded.", device);
		row_remedy(row, "Load it: insmod evpl.ko, or modprobe evpl where it is installed.");
		return;
	case EACCES:
		explain_access(row, device, error);
		return;
	case EPERM:
		row_no(row, error, "This container may not open %s.", device);
		row_remedy(row, "Start it with --device %s.", device);
		return;
	case ENOTTY:
		row_no(row, error, "%s isn't the device of evpl.ko.", device);
		row_remedy(row, "Remove it and load the module anew, or name its device by --device.");
		return;
	default:
		row_no(row, error, "%s can't be used: %s.", device, strerror(error));
	}
}

static void explain_slab(struct row *row, int error)
{
	struct limits limits;

	limits_read(&limits);
	row_no(row, error, "No slab of 2 MiB is to be had: %s.", strerror(error));
	row_remedy(row, "Free memory, or raise what limits it: max_bytes or max_bytes_per_user in "
		   "/sys/module/evpl/parameters (now %" PRIu64 " and %" PRIu64 "), or the memory "
		   "cgroup's memory.max.", limits.max_bytes, limits.max_bytes_per_user);
}

/* Opens the memory. Nothing closes it: it goes when the process ends. */
bool memory_open(struct memory *memory, const char *device, struct row *row)
{
	const struct evpl_pool_config config = {
		.size = sizeof(config),
		.backend = EVPL_BACKEND_MODULE,
		.buffer_size = BUFFER,
		.device = device,
	};
	unsigned char *byte;
	size_t i;
	int ret;

	ret = evpl_pool_open(&memory->pool, &config);
	if (ret) {
		explain_open(row, device, -ret);
		return false;
	}
	ret = evpl_create(&memory->evpl, memory->pool, NULL);
	if (!ret)
		ret = evpl_buffer_alloc(memory->evpl, &memory->from);
	if (ret == 1)
		ret = evpl_buffer_alloc(memory->evpl, &memory->to);
	if (ret != 1) {
		explain_slab(row, -ret);
		return false;
	}
	evpl_iovec_slab(&memory->from, &memory->slab);

	byte = memory->from.data;
	for (i = 0; i < BUFFER; i++)
		byte[i] = (unsigned char)(i * 13 + (i >> 8) + 1);
	memset(memory->to.data, 0, BUFFER);
	return true;
}

/* Whether the bytes that were sent from one buffer have arrived in the other. */
bool memory_arrived(const struct memory *memory, struct row *row)
{
	if (!memcmp(memory->from.data, memory->to.data, BUFFER))
		return true;
	row_no(row, EIO, "Other bytes came than were sent.");
	row_remedy(row, "This is a bug of evpl, of the kernel or of a driver: report it.");
	return false;
}

/* How many bytes of the slab are mapped by PMDs, as folios of 2 MiB. */
static uint64_t huge_bytes(const struct memory *memory)
{
	uintptr_t start, end, base = (uintptr_t)memory->slab.base;
	FILE *smaps = fopen("/proc/self/smaps", "re");
	bool inside = false;
	uint64_t kib = 0;
	char line[512];

	while (smaps && fgets(line, sizeof(line), smaps)) {
		if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " ", &start, &end) == 2)
			inside = start <= base && base < end;
		if (inside && sscanf(line, "FilePmdMapped: %" SCNu64, &kib) == 1)
			break;
	}
	if (smaps)
		fclose(smaps);
	return kib << 10;
}

void try_memory(struct row *row, struct memory *memory)
{
	struct limits limits;
	uint64_t pmd = read_number("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size");
	char length[32], pmd_text[32], caps[128] = "";

	limits_read(&limits);
	if (limits.max_bytes != UNKNOWN && limits.max_bytes_per_user != UNKNOWN)
		snprintf(caps, sizeof(caps), " The caps are %" PRIu64 " MiB, and %" PRIu64
			 " MiB a user.", limits.max_bytes >> 20, limits.max_bytes_per_user >> 20);
	size_text(length, memory->slab.length);
	if (huge_bytes(memory) == memory->slab.length) {
		row_yes(row, "A slab of %s, in folios of 2 MiB.%s", length, caps);
		return;
	}
	if (pmd != UNKNOWN && pmd > memory->slab.length) {
		row_yes(row, "A slab of %s, mapped by pages: a PMD of this kernel has %s.%s", length,
			size_text(pmd_text, pmd), caps);
		return;
	}
	row_yes(row, "A slab of %s, in smaller folios: memory is fragmented.%s", length, caps);
	row_remedy(row, "For folios of 2 MiB: echo 1 > /proc/sys/vm/compact_memory, before programs start.");
}
