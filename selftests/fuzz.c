// SPDX-License-Identifier: GPL-2.0-only
/*
 * A fuzzer of everything that /dev/evpl offers.
 *
 * A program is a short list of calls with small numbers as arguments, which pick
 * from tables of interesting values, and from the descriptors, mappings and slabs
 * that there are just then. Worker processes of two threads run programs; each program
 * starts with one client and leaves nothing. Workers are killed at any moment and
 * started anew. Where the kernel has kcov, a program that reaches an edge in the module
 * which no program has reached before is kept, and changed later.
 *
 * The workers and their parent share memory without locks, since a worker may
 * die anywhere: a worker hands programs over in a ring of its own, and the parent
 * alone adds to the corpus.
 */
#include <limits.h>
#include <sys/resource.h>
#include <time.h>

#include "fuzz.h"

#ifndef FUZZ_CORPUS
#define FUZZ_CORPUS	"fuzz.corpus"
#endif

static bool can_register;

static const char *name_of(unsigned int kind, unsigned int error)
{
	if (kind == TOUCH || kind == SCRIBBLE)
		return sigabbrev_np(error) ?: "?";
	return strerrorname_np(error) ?: "?";
}

static unsigned long long succeeded(unsigned int kind)
{
	return shared->results[kind][0];
}

static unsigned long long failed(unsigned int kind)
{
	unsigned long long sum = 0;

	for (unsigned int error = 1; error < NR_RESULTS; error++)
		sum += shared->results[kind][error];
	return sum;
}

static void show_table(void)
{
	printf("# %-14s %10s %10s  errors\n", "call", "succeeded", "failed");
	for (unsigned int kind = 0; kind < NR_KINDS; kind++) {
		printf("# %-14s %10llu %10llu", kinds[kind].name, succeeded(kind),
		       failed(kind));
		for (unsigned int error = 1; error < NR_RESULTS; error++)
			if (shared->results[kind][error])
				printf("  %s %llu", name_of(kind, error),
				       shared->results[kind][error]);
		putchar('\n');
	}
}

/* Whether this is a command that the kernel doesn't have. */
static bool is_missing(unsigned int kind)
{
	return (kind == RING_TAKE || kind == RING_DROP) && !can_register;
}

static bool calls_succeed_and_fail(void)
{
	static const uint8_t own[] = {
		SETUP, ALLOC, FREE, MMAP_OWN, MMAP_REFS, TOUCH, CHANNEL, BIND, SEND,
		RECV, RELEASE, PULL, REVOKE, MMAP_GUEST, BASELINE, QUARANTINE_END,
		BUFFER_WAIT, EXPORT, MMAP_DMABUF, RING_TAKE, RING_DROP, DOORBELL,
		ADOPT, SLAB_NEXT, ROOM,
	};
	bool ok = true;

	for (int i = 0; i < ARRAY_SIZE(own); i++) {
		unsigned long long good = succeeded(own[i]), bad = failed(own[i]);

		if (is_missing(own[i]) || (good * 10 >= good + bad && bad * 10 >= good + bad))
			continue;
		printf("# %s: %llu succeeded, %llu failed\n", kinds[own[i]].name,
		       good, bad);
		ok = false;
	}
	return ok;
}

/*
 * The errnos of linux/evpl.h that many random calls reach. Not among them are ENOMEM of a
 * client that has a thousand mappings of guest windows, and ENOSPC: the own window has 8 TiB,
 * and a slab looks for its range only when it has all of its memory. Since it takes the lowest
 * range, holes can't drive slabs to the window's end either, with less than some hundred GiB.
 */
static bool errnos_reached(void)
{
	static const struct {
		uint8_t kind, error;
	} all[] = {
		{ IOCTL, ENOTTY },
		{ SETUP, E2BIG }, { SETUP, EOPNOTSUPP }, { SETUP, EINVAL },
		{ SETUP, EFAULT }, { SETUP, EBUSY },
		{ ALLOC, E2BIG }, { ALLOC, EOPNOTSUPP }, { ALLOC, EINVAL },
		{ ALLOC, EFAULT }, { ALLOC, ENXIO }, { ALLOC, ENOMEM },
		{ FREE, E2BIG }, { FREE, EOPNOTSUPP }, { FREE, EINVAL },
		{ FREE, EFAULT }, { FREE, ENXIO }, { FREE, ENOENT }, { FREE, EBUSY },
		{ ADOPT, E2BIG }, { ADOPT, EOPNOTSUPP }, { ADOPT, EINVAL },
		{ ADOPT, EFAULT }, { ADOPT, ENXIO }, { ADOPT, EBUSY },
		{ SLAB_NEXT, E2BIG }, { SLAB_NEXT, EOPNOTSUPP }, { SLAB_NEXT, EINVAL },
		{ SLAB_NEXT, EFAULT }, { SLAB_NEXT, ENXIO }, { SLAB_NEXT, ENOENT },
		{ MMAP_OWN, EINVAL }, { MMAP_OWN, EPERM }, { MMAP_OWN, ENXIO },
		{ MMAP_OWN, ENOMEM },
		{ MMAP_REFS, EINVAL }, { MMAP_REFS, EPERM }, { MMAP_REFS, ENXIO },
		{ MPROTECT, EACCES }, { MREMAP, EFAULT }, { TOUCH, SIGBUS },
		{ CHANNEL, E2BIG }, { CHANNEL, EOPNOTSUPP }, { CHANNEL, EINVAL },
		{ CHANNEL, EFAULT }, { CHANNEL, ENOMEM },
		{ BIND, E2BIG }, { BIND, EOPNOTSUPP }, { BIND, EINVAL },
		{ BIND, EFAULT }, { BIND, ENXIO }, { BIND, EBADF }, { BIND, EBUSY },
		{ SEND, EINVAL }, { SEND, EOPNOTSUPP }, { SEND, EMSGSIZE },
		{ SEND, ENOTCONN }, { SEND, ENOENT }, { SEND, ESTALE },
		{ SEND, EACCES }, { SEND, EAGAIN }, { SEND, EPIPE }, { SEND, EFAULT },
		{ RECV, EINVAL }, { RECV, EOPNOTSUPP }, { RECV, ENOTCONN },
		{ RECV, EAGAIN }, { RECV, EFAULT },
		{ RELEASE, E2BIG }, { RELEASE, EOPNOTSUPP }, { RELEASE, EINVAL },
		{ RELEASE, EFAULT }, { RELEASE, ENXIO },
		{ PULL, E2BIG }, { PULL, EOPNOTSUPP }, { PULL, EINVAL },
		{ PULL, EFAULT }, { PULL, ENXIO },
		{ REVOKE, E2BIG }, { REVOKE, EOPNOTSUPP }, { REVOKE, EINVAL },
		{ REVOKE, EFAULT }, { REVOKE, ENXIO }, { REVOKE, ENOENT },
		{ REVOKE, EBUSY },
		{ MMAP_GUEST, EINVAL }, { MMAP_GUEST, EPERM }, { MMAP_GUEST, ENXIO },
		{ MMAP_GUEST, EACCES },
		{ EXPORT, E2BIG }, { EXPORT, EOPNOTSUPP }, { EXPORT, EINVAL },
		{ EXPORT, EFAULT }, { EXPORT, ENXIO }, { EXPORT, ENOENT },
		{ EXPORT, ESTALE }, { EXPORT, EPERM },
		{ MMAP_DMABUF, EINVAL }, { MMAP_DMABUF, EPERM }, { MMAP_DMABUF, EACCES },
		{ BASELINE, E2BIG }, { BASELINE, EOPNOTSUPP }, { BASELINE, EINVAL },
		{ BASELINE, EFAULT }, { BASELINE, ENXIO }, { BASELINE, ENOENT },
		{ QUARANTINE_END, E2BIG }, { QUARANTINE_END, EOPNOTSUPP },
		{ QUARANTINE_END, EINVAL }, { QUARANTINE_END, EFAULT },
		{ QUARANTINE_END, ENXIO }, { QUARANTINE_END, ENOENT },
		{ BUFFER_WAIT, E2BIG }, { BUFFER_WAIT, EOPNOTSUPP },
		{ BUFFER_WAIT, EINVAL }, { BUFFER_WAIT, EFAULT },
		{ BUFFER_WAIT, ENXIO }, { BUFFER_WAIT, ENOENT },
		{ BUFFER_WAIT, EAGAIN },
		{ DOORBELL, E2BIG }, { DOORBELL, EOPNOTSUPP }, { DOORBELL, EINVAL },
		{ DOORBELL, EFAULT }, { DOORBELL, ENOTCONN }, { DOORBELL, EPIPE },
		{ ROOM, E2BIG }, { ROOM, EOPNOTSUPP }, { ROOM, EINVAL },
		{ ROOM, EFAULT }, { ROOM, ENXIO },
		{ RING_TAKE, EOPNOTSUPP }, { RING_TAKE, ENXIO }, { RING_TAKE, EINVAL },
		{ RING_TAKE, EBUSY }, { RING_TAKE, ENOENT }, { RING_TAKE, EPERM },
		{ RING_DROP, EINVAL }, { RING_DROP, EBUSY },
#ifdef __x86_64__
		{ ALLOC, EINTR }, { MMAP_OWN, EINTR },
#endif
	};
	bool ok = true;

	for (int i = 0; i < ARRAY_SIZE(all); i++) {
		if (is_missing(all[i].kind) || shared->results[all[i].kind][all[i].error])
			continue;
		printf("# %s never gave %s\n", kinds[all[i].kind].name,
		       name_of(all[i].kind, all[i].error));
		ok = false;
	}
	return ok;
}

static bool all_ok = true;

static void result(bool ok, const char *name, bool skip)
{
	static unsigned int number;

	printf("%sok %u %s%s\n", ok || skip ? "" : "not ", ++number, name,
	       skip ? " # SKIP so few calls" : "");
	fflush(stdout);
	all_ok &= ok || skip;
}

static unsigned long long number_from(const char *name, unsigned long long otherwise)
{
	const char *value = getenv(name);

	return value ? strtoull(value, NULL, 0) : otherwise;
}

static void usage(void)
{
	fprintf(stderr,
		"Usage: fuzz [-n CALLS | -m MINUTES] [-s SEED] [-c CORPUS] [-o FILE]\n"
		"            [-w WORKERS] [-v]\n"
		"  -n  stop after so many calls (EVPL_FUZZ_CALLS, else 20000)\n"
		"  -m  stop after so many minutes\n"
		"  -s  EVPL_SEED, else the time\n"
		"  -c  programs to start with (EVPL_FUZZ_CORPUS, else " FUZZ_CORPUS ")\n"
		"  -o  write programs that reach everything that was reached; - is stdout\n"
		"  -w  worker processes (2)\n"
		"  -v  write each program to the kernel's log before it runs\n");
	exit(64);
}

struct options {
	const char *corpus, *out;
	unsigned long long limit;
	double minutes;
};

static struct options read_options(int argc, char **argv)
{
	struct options options = {
		.corpus = getenv("EVPL_FUZZ_CORPUS") ?: FUZZ_CORPUS,
		.limit = number_from("EVPL_FUZZ_CALLS", DEFAULT_CALLS),
	};
	int opt;

	seed = number_from("EVPL_SEED", time(NULL));
	while ((opt = getopt(argc, argv, "n:m:s:c:o:w:v")) != -1) {
		switch (opt) {
		case 'n':
			options.limit = strtoull(optarg, NULL, 0);
			break;
		case 'm':
			options.minutes = strtod(optarg, NULL);
			options.limit = ULLONG_MAX;
			break;
		case 's':
			seed = strtoull(optarg, NULL, 0);
			break;
		case 'c':
			options.corpus = optarg;
			break;
		case 'o':
			options.out = optarg;
			break;
		case 'w':
			nr_workers = atoi(optarg);
			break;
		case 'v':
			kmsg = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);
			break;
		default:
			usage();
		}
	}
	if (optind != argc || !nr_workers || nr_workers > MAX_WORKERS)
		usage();
	return options;
}

/* Open and map all that workers inherit. Return false if the module can't be tested. */
static bool open_all(void)
{
	cap_fds[0] = open(MAX_BYTES, O_WRONLY | O_CLOEXEC);
	cap_fds[1] = open(MAX_BYTES_PER_USER, O_WRONLY | O_CLOEXEC);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	return cap_fds[0] >= 0 && cap_fds[1] >= 0 && !access(DEVICE, R_OK | W_OK) &&
	       shared != MAP_FAILED;
}

static void load_corpus(const char *path)
{
	load_seeds(path);
	if (access("/sys/kernel/debug/kcov", F_OK)) {
		printf("# no kcov in this kernel: unguided\n");
		memcpy(shared->corpus, shared->seeds, sizeof(shared->seeds));
		shared->nr_corpus = shared->nr_seeds;
	}
}

/* Print the results, and write the corpus. The caps are those from before. */
static void report(const char *out, struct counters before,
		   const unsigned long long caps[2])
{
	bool few = shared->calls < FEW_CALLS;

	/* These come first, next to the lines on workers that hung or died. */
	result(!nr_hung, "no_call_hangs", false);
	result(!nr_died, "workers_die_only_when_they_are_killed", false);
	show_table();
	if (out)
		write_corpus(out);
	result(calls_succeed_and_fail(), "every_call_succeeds_and_fails_often", few);
	result(errnos_reached(), "every_errno_of_the_uapi_is_reached", few);
	result(counters_return_to(before), "counters_are_as_before", false);
	result(read_number(MAX_BYTES) == caps[0] && read_number(MAX_BYTES_PER_USER) == caps[1],
	       "the_caps_are_as_before", false);
}

int main(int argc, char **argv)
{
	struct options options = read_options(argc, argv);
	struct counters before = read_counters();
	const unsigned long long caps[2] = {
		read_number(MAX_BYTES), read_number(MAX_BYTES_PER_USER),
	};
	struct rlimit no_core = {};

	printf("TAP version 13\n1..6\n# EVPL_SEED=%llu\n", (unsigned long long)seed);
	if (!open_all() || before.clients < 0) {
		printf("Bail out! No module, no debugfs, or not root.\n");
		return 1;
	}
	setrlimit(RLIMIT_CORE, &no_core);
	signal(SIGTERM, interrupt);
	signal(SIGINT, interrupt);
	shared->limit = options.limit;
	parent.random = seed ^ 0x9e3779b97f4a7c15ULL;
	gather_kinds();
	can_register = rings_can_register();
	load_corpus(options.corpus);

	reset_caps();
	run_workers(options.minutes);
	set_cap(0, caps[0]);
	set_cap(1, caps[1]);
	report(options.out, before, caps);
	return !all_ok;
}
