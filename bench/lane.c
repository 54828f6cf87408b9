// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Lanes on this machine, without the module (lanes.c): the time to a polling process, compared with
 * that of a bare flag, and the cache lines that messages touch.
 */
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ucontext.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"
#include "lanes.h"

#define LINE	64

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		fail("two processors");
}

static void *share(size_t length)
{
	void *memory = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		fail("mmap");
	return memory;
}

/*
 * Two processes, each on a processor of its own, send something back and forth: @turn does that @n
 * times, for the side that begins or for the other one. Returns half of the time of all @n. When
 * another program gets one of the processors, both sides stand still. So the time is that of the
 * quickest part, as if all were as quick.
 */
#define PARTS	50

static double back_and_forth(void (*turn)(void *state, int side, long n), void *state, long n)
{
	double start, part, least = 0;
	pid_t child;
	int i;

	pin(0);
	child = lanes_fork();
	if (child < 0)
		fail("fork");
	if (!child) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		pin(1);
		turn(state, 1, 1 + n / PARTS * PARTS);
		_exit(0);
	}
	turn(state, 0, 1);	/* now the other side is there */
	for (i = 0; i < PARTS; i++) {
		start = now_ns();
		turn(state, 0, n / PARTS);
		part = now_ns() - start;
		least = !i || part < least ? part : least;
	}
	waitpid(child, NULL, 0);
	return least * PARTS / 2;
}

static void flag_turn(void *state, int side, long n)
{
	atomic_int *flag = state;

	for (; n; n--) {
		if (!side)
			atomic_store_explicit(flag, 1, memory_order_release);
		while (atomic_load_explicit(flag, memory_order_acquire) != side)
			;
		if (side)
			atomic_store_explicit(flag, 0, memory_order_release);
	}
}

/* A line that goes from one core to another takes longer than this. */
#define ONE_CORE 100

static double flag(long n)
{
	atomic_int *state = share(LINE);
	double time;

	time = back_and_forth(flag_turn, state, n);
	munmap(state, LINE);
	if (time < ONE_CORE * (double)n)
		fprintf(stderr, "bench: a flag takes %.0f ns: both processors seem to be one core now, so this round says nothing\n",
			time / (double)n);
	return time;
}

static void lane_turn(void *state, int side, long n)
{
	struct evpl_message message;

	for (; n; n--) {
		if (!side)
			lanes_send(state, 0, &message, 1);
		lanes_receive(state, side, &message, 1);
		if (side)
			lanes_send(state, 1, &message, 1);
	}
}

/* In a process of its own, whose lanes end with it. */
static double lane_of(unsigned int length, long n)
{
	double *time = share(sizeof(*time)), all;
	struct lanes lanes;
	pid_t child = fork();

	if (child < 0)
		fail("fork");
	if (!child) {
		lanes_make(&lanes, length, 1);
		*time = back_and_forth(lane_turn, &lanes, n);
		_exit(0);
	}
	waitpid(child, NULL, 0);
	all = *time;
	munmap(time, sizeof(*time));
	if (!all)
		fail("a lane");
	return all;
}

static double lane_64(long n)
{
	return lane_of(64, n);
}

static double lane_64k(long n)
{
	return lane_of(64 << 10, n);
}

/*
 * How many cache lines of the blocks a message touches that goes in a batch, each message in a buffer
 * of its own: both sides and both directions of access count. The memory of the blocks is protected.
 * Each access faults, is noted, and is done by a single step.
 */
#ifdef __x86_64__
#define TRAP_FLAG	0x100

static struct lanes watched;
static unsigned char *touched[2];

static void watch(int protection)
{
	int i;

	for (i = 0; i < 2; i++)
		if (mprotect(watched.memory[i], watched.length, protection))
			fail("mprotect");
}

static void on_fault(int signal, siginfo_t *info, void *context)
{
	uintptr_t offset;
	int i;

	(void)signal;
	for (i = 0; i < 2; i++) {
		offset = (uintptr_t)info->si_addr - (uintptr_t)watched.memory[i];
		if (offset >= watched.length)
			continue;
		touched[i][offset / LINE] = 1;
		watch(PROT_READ | PROT_WRITE);
		((ucontext_t *)context)->uc_mcontext.gregs[REG_EFL] |= TRAP_FLAG;
		return;
	}
	abort();
}

static void on_step(int signal, siginfo_t *info, void *context)
{
	(void)signal;
	(void)info;
	watch(PROT_NONE);
	((ucontext_t *)context)->uc_mcontext.gregs[REG_EFL] &= ~TRAP_FLAG;
}

static void handle(int signal, void (*handler)(int, siginfo_t *, void *))
{
	struct sigaction action = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO };

	if (sigaction(signal, &action, NULL))
		fail("sigaction");
}

/* The lines that the next @n messages touch in batches, which are counted for each batch. */
static double touch_lines(long n)
{
	struct evpl_message messages[LANES_BATCH];
	size_t lines = watched.length / LINE, j;
	double all = 0;
	long i;
	int k;

	for (i = 0; i < n; i += LANES_BATCH) {
		for (k = 0; k < 2; k++)
			memset(touched[k], 0, lines);
		lanes_fill(&watched, 0, messages, LANES_BATCH);
		watch(PROT_NONE);
		lanes_send_filled(&watched, 0, messages, LANES_BATCH);
		lanes_receive(&watched, 1, messages, LANES_BATCH);
		watch(PROT_READ | PROT_WRITE);
		for (k = 0; k < 2; k++)
			for (j = 0; j < lines; j++)
				all += touched[k][j];
	}
	return all;
}

static double lane_lines(long n)
{
	int i;

	if (!watched.length) {
		lanes_make(&watched, LINE, LANES_BATCH);
		for (i = 0; i < 2; i++)
			touched[i] = malloc(watched.length / LINE);
		if (!touched[0] || !touched[1])
			fail("malloc");
		handle(SIGSEGV, on_fault);
		handle(SIGTRAP, on_step);
	}
	return touch_lines(n);
}

static double lines_allowed(long n)
{
	return 2 * (double)n;
}
#endif

int main(void)
{
	const long n = 200000;

	compare("lane-flag", lane_64, flag, n);
	compare("lane-flag-64k", lane_64k, flag, n);
#ifdef __x86_64__
	compare("lane-lines", lane_lines, lines_allowed, 16 * LANES_BATCH);
#endif
	return 0;
}
