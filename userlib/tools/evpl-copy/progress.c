// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/* Shows the progress on stderr: as a bar on a terminal, else as a line for each tenth. */
#include <stdio.h>
#include <unistd.h>

#include "copy.h"

#define WIDTH		40U
#define MIB		(1024.0 * 1024.0)
#define BAR_EVERY	0.2
#define LINE_EVERY	10.0

void progress_start(struct copy *copy, uint64_t total)
{
	struct progress *progress = &copy->progress;

	progress->quiet = copy->options.quiet;
	progress->terminal = isatty(STDERR_FILENO);
	progress->verb = copy->options.listen ? "received" : "sent";
	progress->total = total;
	progress->start = now();
	progress->shown = progress->start;
}

static double rate(const struct progress *progress, double time)
{
	double seconds = time - progress->start;

	return seconds > 0 ? (double)progress->bytes / MIB / seconds : 0;
}

static void show(struct progress *progress, double time, unsigned int percent)
{
	unsigned int i, filled = percent * WIDTH / 100;

	if (progress->terminal) {
		fputs("\r[", stderr);
		for (i = 0; i < WIDTH; i++)
			fputc(i < filled ? '#' : '-', stderr);
		fputs("] ", stderr);
	} else {
		fputs("evpl-copy: ", stderr);
	}
	fprintf(stderr, "%s %3u %%, %llu of %llu bytes, %.1f MiB/s%s", progress->verb, percent,
		(unsigned long long)progress->bytes, (unsigned long long)progress->total,
		rate(progress, time), progress->terminal ? "\033[K" : "\n");
	fflush(stderr);
	progress->shown = time;
}

/* Called often. Shows the progress if it is time for that. */
void progress_show(struct copy *copy)
{
	struct progress *progress = &copy->progress;
	unsigned int percent = 100;
	double time;

	if (progress->quiet || !progress->start || progress->end)
		return;
	if (progress->total)
		percent = (unsigned int)((double)progress->bytes * 100 / (double)progress->total);
	time = now();
	if (progress->terminal ? time - progress->shown < BAR_EVERY :
	    percent / 10 == progress->tenths && time - progress->shown < LINE_EVERY)
		return;
	progress->tenths = percent / 10;
	show(progress, time, percent);
}

void progress_add(struct copy *copy, uint64_t bytes)
{
	copy->progress.bytes += bytes;
	progress_show(copy);
}

/* The whole file was copied: shows the final line. */
void progress_end(struct copy *copy)
{
	struct progress *progress = &copy->progress;

	if (!progress->quiet && progress->terminal) {
		show(progress, now(), 100);
		fputc('\n', stderr);
	}
	progress->end = now();
	printf("%s: %llu bytes in %.2f seconds, %.1f MiB/s\n", progress->verb,
	       (unsigned long long)progress->bytes, progress->end - progress->start,
	       rate(progress, progress->end));
}
