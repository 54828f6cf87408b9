/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Slow disks: dm-delay holds up each read from them until the test ends that. They lie on the
 * disk EVPL_TEST_DISK.
 */
#ifndef EVPL_SLOW_H
#define EVPL_SLOW_H

#include <stdarg.h>

#include "client.h"
#include "ring.h"

/* Run a command, for a minute at most. Return its exit status, or -signal. */
static inline int run(const char *format, ...)
{
	char command[256];
	va_list args;
	pid_t child;

	va_start(args, format);
	vsnprintf(command, sizeof(command), format, args);
	va_end(args);
	child = fork_child();
	if (!child) {
		execlp("timeout", "timeout", "60", "sh", "-c", command, NULL);
		_exit(127);
	}
	return reap(child);
}

/* Make disks of 16 MiB whose reads take as long as the test likes; false if that fails. */
static inline bool have_slow_disks(int slow[2])
{
	const char *disk = getenv("EVPL_TEST_DISK");
	char path[64];

	if (!disk || !strcmp(disk, "none"))
		return false;
	/* dmsetup itself makes the device nodes, also where udev doesn't run. */
	setenv("DM_DISABLE_UDEV", "1", 1);
	run("modprobe -q dm-delay");
	for (int i = 0; i < 2; i++) {
		run("dmsetup remove evpl-slow%d 2>/dev/null", i);
		if (run("dmsetup create evpl-slow%d --table '0 32768 delay %s %d 600000'",
			i, disk, i * 32768))
			return false;
		snprintf(path, sizeof(path), "/dev/mapper/evpl-slow%d", i);
		slow[i] = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
		if (slow[i] < 0)
			return false;
	}
	return true;
}

static inline void close_slow_disks(int slow[2])
{
	for (int i = 0; i < 2; i++) {
		if (slow[i] < 0)
			continue;
		close(slow[i]);
		run("dmsetup suspend evpl-slow%d; dmsetup remove --retry evpl-slow%d", i, i);
	}
}

/* Have the slow I/O on a disk finish. */
static inline void hurry(int nr)
{
	run("dmsetup suspend evpl-slow%d && dmsetup resume evpl-slow%d", nr, nr);
}

/* Fill the first blocks of both slow disks, by way of the disk under them. */
static inline bool set_disk(char byte)
{
	static char _Alignas(PAGE) block[BUFFER];
	int fd = open(getenv("EVPL_TEST_DISK"), O_WRONLY | O_DIRECT | O_CLOEXEC);
	bool ok;

	memset(block, byte, sizeof(block));
	ok = pwrite(fd, block, sizeof(block), 0) == sizeof(block) &&
	     pwrite(fd, block, sizeof(block), 16 * MIB) == sizeof(block);
	close(fd);
	return ok;
}

/* How many reads are in flight on a slow disk, or -1 if dmsetup doesn't say. */
static inline int in_flight(int nr)
{
	char command[64];
	int reads = -1;
	FILE *status;

	snprintf(command, sizeof(command), "timeout 60 dmsetup status evpl-slow%d", nr);
	status = popen(command, "re");
	if (!status)
		return -1;
	if (fscanf(status, "%*d %*d delay %d", &reads) != 1)
		reads = -1;
	pclose(status);
	return reads;
}

/* Wait until a worker of the ring has passed the read on to the slow disk. */
static inline bool gets_under_way(int nr)
{
	for (int tries = 0; tries < 600 && !in_flight(nr); tries++)
		usleep(100 * 1000);
	return in_flight(nr) == 1;
}

/* How a process reads from a slow disk: into memory that a ring knows by its address or by a slot. */
enum slow_read {
	PLAIN,
	FIXED,		/* io_uring has pinned the memory */
	FIXED_TAKEN,	/* by EVPL_URING_REGISTER */
};

/*
 * Start a process that binds the end, receives a record, and reads from a slow disk into the
 * leased buffer. Return 0 when it has submitted the read; then it waits to be killed.
 */
static inline int lessee_that_reads(int end, int disk, enum slow_read how, pid_t *pid)
{
	struct evpl_record got = { 0 };
	struct client client;
	struct ring ring;
	int told[2], ret = -EPIPE;
	char *memory;

	if (pipe2(told, O_CLOEXEC))
		return -errno;
	*pid = fork_child();
	if (*pid) {
		close(told[1]);
		if (read(told[0], &ret, sizeof(ret)) != sizeof(ret))
			ret = -EPIPE;
		close(told[0]);
		return ret;
	}
	if (!open_client(&client, 0) || !ring_open(&ring))
		_exit(1);
	ret = evpl_bind(client.fd, end);
	if (!ret && evpl_recv(end, &got, 1) != 1)
		ret = -EIO;
	memory = memory_of(&client, &got);
	if (!ret && how == FIXED)
		ret = ring_register(&ring, memory, BUFFER);
	if (!ret && how == FIXED_TAKEN) {
		ret = ring_table(&ring, 1) ?:
		      ring_take(&ring, client.fd, 0, got.offset, BUFFER, EVPL_URING_WRITE);
		memory = NULL;
	}
	if (!ret)
		ret = ring_read(&ring, disk, memory, BUFFER, how != PLAIN);
	if (write(told[1], &ret, sizeof(ret)) != sizeof(ret))
		_exit(1);
	for (;;)
		pause();
}

#endif /* EVPL_SLOW_H */
