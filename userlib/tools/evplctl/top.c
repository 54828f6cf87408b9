// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/* evplctl top: the clients with the most memory, again and again. */
#include <inttypes.h>
#include <ncurses.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "evplctl.h"

static int more_bytes(const void *left, const void *right)
{
	const struct client *a = left, *b = right;

	if (a->bytes != b->bytes)
		return a->bytes < b->bytes ? 1 : -1;
	return a->id < b->id ? -1 : a->id > b->id;
}

static void draw(struct system *system)
{
	uint64_t bytes = 0, shared = 0, quarantined = 0;
	char line[LINE], size[16];
	size_t i;

	for (i = 0; i < system->nr_clients; i++) {
		bytes += system->clients[i].bytes;
		shared += system->clients[i].shared;
		quarantined += system->clients[i].quarantined;
	}
	qsort(system->clients, system->nr_clients, sizeof(*system->clients), more_bytes);
	erase();
	mvprintw(0, 0, "%zu clients, %s, %" PRIu64 " buffers shared, %" PRIu64 " in quarantine",
		 system->nr_clients, size_text(size, bytes), shared, quarantined);
	if (system->hidden)
		printw(", others not shown");
	attron(A_REVERSE);
	mvaddstr(1, 0, list_heading());
	attroff(A_REVERSE);
	for (i = 0; i < system->nr_clients && (int)i + 3 < LINES; i++) {
		attrset(system->clients[i].quarantined ? A_BOLD : A_NORMAL);
		mvaddnstr(2 + i, 0, list_line(line, system, &system->clients[i]), COLS);
	}
	attrset(A_NORMAL);
	mvaddstr(LINES - 1, 0, "q: quit");
	refresh();
}

static int top_on_terminal(const struct options *options)
{
	unsigned long shown = 0;
	struct system system;
	int key = ERR;

	/* The first complaint, if there is one, must come before the screen is cleared. */
	if (!system_read(&system))
		return 1;
	initscr();
	cbreak();
	noecho();
	curs_set(0);
	timeout(options->interval * 1000);
	do {
		draw(&system);
		system_free(&system);
		if (++shown == options->count)
			break;
		do {
			key = getch();
		} while (key != ERR && key != 'q' && key != KEY_RESIZE);
	} while (key != 'q' && system_read(&system));
	endwin();
	return 0;
}

static int top_as_json(const struct options *options)
{
	struct timespec interval = {
		.tv_sec = options->interval,
		.tv_nsec = (options->interval - (time_t)options->interval) * 1e9,
	};
	unsigned long shown = 0;
	struct system system;

	for (;;) {
		if (!system_read(&system))
			return 1;
		list_json(&system);
		system_free(&system);
		/* main() says why if the output can't be written. */
		if (fflush(stdout) || ++shown == options->count)
			return 0;
		nanosleep(&interval, NULL);
	}
}

int top(const struct options *options)
{
	const char *terminal = getenv("TERM");

	if (options->json)
		return top_as_json(options);
	if (!isatty(STDOUT_FILENO) || !terminal || !strcmp(terminal, "dumb")) {
		complain("top needs a terminal. Use 'evplctl list', or 'evplctl top --json'.");
		return 1;
	}
	return top_on_terminal(options);
}
