// SPDX-License-Identifier: GPL-2.0-only
/* The fuzzer's parent: it starts, watches and kills workers, and has the corpus. */
#include <limits.h>
#include <time.h>

#include "fuzz.h"

struct shared *shared;

static volatile sig_atomic_t interrupted;

void interrupt(int signal)
{
	interrupted = 1;
}

static struct minder {
	pid_t pid;
	unsigned long long programs;	/* how many it had begun when it last made progress */
	double seen;			/* when that was */
	unsigned long long dies_at;	/* it is killed after so many calls */
} minders[MAX_WORKERS];

struct thread parent;
static struct {
	unsigned int nr_reached;
	uint16_t *reached;
} covers[MAX_CORPUS];
unsigned int nr_workers = 2, nr_died, nr_hung;
static unsigned int nr_killed, nr_started;
uint64_t seed;

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

void load_seeds(const char *path)
{
	static char line[MAX_CALLS * 64];
	FILE *file = fopen(path, "re");
	unsigned int number = 0;

	if (!file) {
		printf("# no corpus %s: starting without\n", path);
		return;
	}
	while (fgets(line, sizeof(line), file) && shared->nr_seeds < MAX_CORPUS) {
		number++;
		if (*line == '#' || *line == '\n')
			continue;
		if (parse_program(&shared->seeds[shared->nr_seeds], line))
			shared->nr_seeds++;
		else
			printf("# %s:%u isn't a program\n", path, number);
	}
	fclose(file);
	printf("# %u programs from %s\n", shared->nr_seeds, path);
}

static void keep(const struct candidate *candidate)
{
	unsigned int nr = shared->nr_corpus;
	size_t size = candidate->nr_reached * sizeof(*candidate->reached);

	for (unsigned int i = 0; i < candidate->nr_reached; i++)
		shared->edges[candidate->reached[i]] = 1;
	if (nr == MAX_CORPUS)
		return;
	covers[nr].reached = malloc(size);
	if (!covers[nr].reached)
		return;
	memcpy(covers[nr].reached, candidate->reached, size);
	covers[nr].nr_reached = candidate->nr_reached;
	shared->corpus[nr] = candidate->program;
	store(&shared->nr_corpus, nr + 1);
}

static void collect(void)
{
	for (unsigned int i = 0; i < nr_workers; i++) {
		struct worker *w = &shared->workers[i];

		while (w->tail != load(&w->head)) {
			keep(&w->ring[w->tail % RING]);
			store(&w->tail, w->tail + 1);
		}
	}
}

static void start(unsigned int nr)
{
	struct minder *minder = &minders[nr];
	pid_t self = getpid();

	minder->dies_at = shared->workers[nr].calls + 1000 + below(&parent, 20000);
	minder->seen = now();
	minder->programs = shared->workers[nr].programs;
	nr_started++;
	fflush(stdout);
	minder->pid = fork();
	if (!minder->pid)
		work(nr, seed + nr_started * 0x2545f4914f6cdd1dULL, self);
}

static void show_hung(unsigned int nr)
{
	static char text[MAX_CALLS * 64];
	char command[128];

	print_program(text, sizeof(text), &shared->workers[nr].current);
	printf("# worker %d makes no progress in: %s\n", minders[nr].pid, text);
	fflush(stdout);
	snprintf(command, sizeof(command),
		 "for t in /proc/%d/task/*; do sed 's/^/# /' $t/stack; done",
		 minders[nr].pid);
	if (system(command) < 0)
		printf("# no shell\n");
}

/* Return how many workers are left. */
static unsigned int mind(bool stopping)
{
	unsigned int left = 0;

	for (unsigned int i = 0; i < nr_workers; i++) {
		struct minder *minder = &minders[i];
		struct worker *w = &shared->workers[i];
		int status;

		if (minder->pid && waitpid(minder->pid, &status, WNOHANG) == minder->pid) {
			minder->pid = 0;
			if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) {
				nr_killed++;
				reset_caps();
			} else if (status) {
				nr_died++;
				printf("# a worker ended by itself: status %#x\n",
				       status);
				stopping |= nr_died > 10;
			}
			if (!stopping && load(&shared->calls) < shared->limit)
				start(i);
		}
		if (!minder->pid)
			continue;
		left++;
		if (load(&w->programs) != minder->programs) {
			minder->programs = w->programs;
			minder->seen = now();
		} else if (now() - minder->seen > HANG_SECONDS) {
			show_hung(i);
			nr_hung++;
			kill(minder->pid, SIGKILL);
			minder->seen = now();
		}
		if (!stopping && w->calls >= minder->dies_at) {
			minder->dies_at = ULLONG_MAX;
			kill(minder->pid, SIGKILL);
		}
	}
	return left;
}

static unsigned int nr_edges(void)
{
	unsigned int nr = 0;

	for (unsigned int i = 0; i < SLOTS; i++)
		nr += shared->edges[i];
	return nr;
}

static void show_progress(double since)
{
	fprintf(stderr, "# %llu calls, %.0f a second, %u PCs, %u edges, %u programs kept, %u workers killed\n",
		shared->calls, shared->calls / (now() - since), shared->nr_pcs,
		nr_edges(), shared->nr_corpus, nr_killed);
}

void run_workers(double minutes)
{
	double start_time = now(), shown = start_time;
	unsigned int ticks = 0, left = 1;
	bool stopping = false;

	for (unsigned int i = 0; i < nr_workers; i++)
		start(i);
	while (left && nr_hung <= nr_workers) {
		usleep(10000 + below(&parent, 10000));
		if (interrupted || nr_died > 10 ||
		    (minutes && now() - start_time > minutes * 60))
			stopping = true;
		store(&shared->stop, stopping);
		left = mind(stopping);
		collect();
		/* A worker that was killed may have left a cap low. */
		if (!(++ticks % 64))
			reset_caps();
		if (now() - shown > 10) {
			shown = now();
			show_progress(start_time);
		}
	}
	show_progress(start_time);
}

/* Write programs, best first, that together reach everything that was reached. */
void write_corpus(const char *path)
{
	static uint8_t reached[SLOTS];
	static char text[MAX_CALLS * 64];
	bool to_stdout = !strcmp(path, "-");
	FILE *file = to_stdout ? stdout : fopen(path, "we");
	unsigned int written = 0;

	if (!file) {
		printf("# can't write %s\n", path);
		return;
	}
	for (;;) {
		unsigned int best = 0, best_new = 0;

		for (unsigned int i = 0; i < shared->nr_corpus; i++) {
			unsigned int new = 0;

			for (unsigned int n = 0; n < covers[i].nr_reached; n++)
				new += !reached[covers[i].reached[n]];
			if (new > best_new) {
				best = i;
				best_new = new;
			}
		}
		if (!best_new)
			break;
		for (unsigned int n = 0; n < covers[best].nr_reached; n++)
			reached[covers[best].reached[n]] = 1;
		print_program(text, sizeof(text), &shared->corpus[best]);
		fprintf(file, "%s%s\n", to_stdout ? "# corpus: " : "", text);
		written++;
	}
	if (!to_stdout)
		fclose(file);
	printf("# %u programs written to %s\n", written, path);
}
