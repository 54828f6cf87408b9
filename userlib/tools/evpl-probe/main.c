// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/* evpl-probe: its options, and the interfaces that it tries. See probe.h. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <locale.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "probe.h"

#define EXIT_USAGE	64
#define ROWS_MAX	64U

static const char help[] =
"Usage: evpl-probe [OPTION...]\n"
"Tries what takes the memory of evpl on this machine, and says what doesn't, why not,\n"
"and what to do.\n"
"\n"
"  -j, --json          one JSON object\n"
"  -d, --device=PATH   the module's device (/dev/evpl)\n"
"  -h, --help          this text\n"
"  -V, --version       the version\n"
"TMPDIR is where a file is made for O_DIRECT (/var/tmp).\n";

/* The others are tried only if the first one works. */
static const struct interface {
	const char *name;
	enum charge charge;
	void (*try)(struct row *row, struct memory *memory);
} interfaces[] = {
	{ "memory", TO_NOBODY, try_memory },
	{ "read, write", NO_CHARGE, try_read_write },
	{ "O_DIRECT", NO_CHARGE, try_direct },
	{ "vmsplice", NO_CHARGE, try_vmsplice },
	{ "process_vm_readv", NO_CHARGE, try_process_vm },
	{ "userfaultfd", NO_CHARGE, try_userfaultfd },
	{ "dma-buf", TO_NOBODY, try_dmabuf },
	{ "MSG_ZEROCOPY", TO_USER, try_zerocopy },
	{ "io_uring", NO_CHARGE, try_uring },
	{ "io_uring SINGLE_ISSUER", NO_CHARGE, try_single_issuer },
	{ "io_uring SEND_ZC", TO_USER, try_send_zc },
	{ "io_uring fixed buffers", TO_USER, try_fixed },
	{ "io_uring cloned buffers", TO_USER, try_cloned },
	{ "io_uring evpl buffers", TO_NOBODY, try_uncharged },
	{ "RDMA", TO_PINNED, try_rdma },
	{ "AF_XDP", TO_USER, try_xdp },
	{ "VFIO", TO_LOCKED, try_vfio },
};

/**
 * struct table - the rows, in memory that all processes share
 * @count: how many
 * @rows: the rows
 */
static struct table {
	unsigned int count;
	struct row rows[ROWS_MAX];
} *table;

/* Adds a row, as an interface may have several. Returns NULL if there are too many. */
struct row *row_add(const char *interface, enum charge charge)
{
	struct row *row;

	if (table->count == ROWS_MAX)
		return NULL;
	row = &table->rows[table->count++];
	snprintf(row->interface, sizeof(row->interface), "%s", interface);
	row->charge = charge;
	return row;
}

/*
 * Whether the pipe's other end is closed in time. The time is counted in steps of poll(2): if the
 * whole machine stands still for a while, as a virtual one may, that counts as one step.
 */
static bool is_closed_in_time(int fd)
{
	struct pollfd end = { .fd = fd, .events = POLLIN };
	int step;

	for (step = 0; step < SECONDS * 20; step++)
		if (poll(&end, 1, 50))
			return true;
	return false;
}

/* Tries an interface in a process of its own. When that ends, its end of a pipe is closed. */
static void run(const struct interface *interface, const char *device)
{
	struct row *row = row_add(interface->name, interface->charge), *last;
	struct memory memory;
	int pipe_fds[2], status;
	pid_t child;

	child = pipe2(pipe_fds, O_CLOEXEC) ? -1 : fork();
	if (child < 0) {
		row_not_tried(row, errno, "There is no process for it: %s.", strerror(errno));
		return;
	}
	if (!child) {
		if (memory_open(&memory, device, row))
			interface->try(row, &memory);
		_exit(0);
	}
	close(pipe_fds[1]);
	if (!is_closed_in_time(pipe_fds[0])) {
		/* A process that hangs in the kernel survives SIGKILL, so don't wait for it. */
		kill(child, SIGKILL);
		last = &table->rows[table->count - 1];
		row_no(last, ETIMEDOUT, "It hangs: there was no answer in %d seconds.", SECONDS);
	} else if (waitpid(child, &status, 0) == child && WIFSIGNALED(status)) {
		last = &table->rows[table->count - 1];
		row_no(last, EIO, "The process that tried it was killed by signal %d (%s).",
		       WTERMSIG(status), strsignal(WTERMSIG(status)));
	}
	close(pipe_fds[0]);
	for (; row < &table->rows[table->count]; row++)
		if (row->works == NO && !row->remedy[0])
			row_remedy(row, "The kernel's log (dmesg) may say more.");
}

int main(int argc, char **argv)
{
	static const struct option longs[] = {
		{ "json", no_argument, NULL, 'j' },
		{ "device", required_argument, NULL, 'd' },
		{ "help", no_argument, NULL, 'h' },
		{ "version", no_argument, NULL, 'V' },
		{ NULL, 0, NULL, 0 },
	};
	const char *device = "/dev/evpl";
	struct limits limits;
	bool json = false, works;
	size_t i;
	int c;

	while ((c = getopt_long(argc, argv, "jd:hV", longs, NULL)) != -1) {
		switch (c) {
		case 'j': json = true; break;
		case 'd': device = optarg; break;
		case 'h': fputs(help, stdout); return 0;
		case 'V': puts("evpl-probe " EVPL_VERSION); return 0;
		default: fputs("See evpl-probe --help.\n", stderr); return EXIT_USAGE;
		}
	}
	if (optind < argc) {
		fprintf(stderr, "evpl-probe: %s is no option. See evpl-probe --help.\n", argv[optind]);
		return EXIT_USAGE;
	}

	setlocale(LC_CTYPE, "C.UTF-8");
	table = mmap(NULL, sizeof(*table), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (table == MAP_FAILED) {
		fprintf(stderr, "evpl-probe: No memory: %s.\n", strerror(errno));
		return 1;
	}
	limits_read(&limits);
	run(&interfaces[0], device);
	works = table->rows[0].works == YES;
	for (i = 1; works && i < sizeof(interfaces) / sizeof(interfaces[0]); i++)
		run(&interfaces[i], device);

	if (json)
		print_json(&limits, table->rows, table->count);
	else if (works)
		print_table(&limits, table->rows, table->count);
	else
		fprintf(stderr, "evpl-probe: %s %s\n", table->rows[0].reason, table->rows[0].remedy);
	if (fflush(stdout) || ferror(stdout)) {
		fprintf(stderr, "evpl-probe: The output can't be written: %s.\n", strerror(errno));
		return 1;
	}
	return works ? 0 : 1;
}
