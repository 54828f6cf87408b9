/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPL_BENCH_H
#define EVPL_BENCH_H

/*
 * A row compares two sides. They are measured in turn, so that other load on the machine
 * hits both. A line of JSON on stdout has each round's figure of each side; bench/report
 * makes ratios, medians and pictures of it.
 */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ROUNDS 15

/*
 * EVPL_BENCH_INSTRUCTIONS is for a machine whose clock advances by 1 ns with each
 * instruction. Then the CPU time of this process is the number of instructions that it has
 * executed, also in the kernel, and doesn't include waits.
 */
static inline int counts_instructions(void)
{
	return getenv("EVPL_BENCH_INSTRUCTIONS") != NULL;
}

static inline double now_ns(void)
{
	struct timespec now;

	clock_gettime(counts_instructions() ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

static inline unsigned int rounds(void)
{
	const char *asked = getenv("EVPL_BENCH_ROUNDS");

	return asked ? (unsigned int)atoi(asked) : ROUNDS;
}

/* A function that is measured: does the work @n times, and returns nanoseconds for all. */
typedef double measured(long n);

static inline void print_figures(const char *side, const double *figures, unsigned int n)
{
	unsigned int i;

	printf(", \"%s\": [", side);
	for (i = 0; i < n; i++)
		printf("%s%.3f", i ? ", " : "", figures[i]);
	printf("]");
}

static inline int is_named(const char *row, const char *rows)
{
	size_t length = strlen(row), n;

	for (; *rows; rows += n + (rows[n] == ' ')) {
		n = strcspn(rows, " ");
		if (n == length && !memcmp(rows, row, n))
			return 1;
	}
	return 0;
}

/*
 * @row is the row's name for bench/report, which has the row's target. If EVPL_BENCH_ROW is
 * set, only the rows that it names, with spaces between them, are measured.
 */
static inline void compare(const char *row, measured *ours, measured *peer, long n)
{
	const char *only = getenv("EVPL_BENCH_ROW");
	unsigned int i, count = rounds();
	double *figures;

	if (only && !is_named(row, only))
		return;
	figures = calloc(2 * count, sizeof(*figures));
	if (!figures)
		exit(1);
	fprintf(stderr, "bench: %s\n", row);
	ours(n / 4);
	peer(n / 4);
	for (i = 0; i < count; i++) {
		figures[i] = ours(n) / (double)n;
		figures[count + i] = peer(n) / (double)n;
	}
	printf("{\"row\": \"%s%s\"", row, counts_instructions() ? "-instructions" : "");
	print_figures("ours", figures, count);
	print_figures("peer", figures + count, count);
	printf("}\n");
	fflush(stdout);
	free(figures);
}

#endif /* EVPL_BENCH_H */
