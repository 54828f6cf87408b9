// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/* evplctl: its options and its commands. See evplctl.h. */
#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <locale.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "evplctl.h"

static const char help[] =
"Usage: evplctl COMMAND [OPTION...] [PID]\n"
"Shows which process has which memory of evpl, and what keeps it.\n"
"\n"
"Commands:\n"
"  list                all clients\n"
"  show PID            all that a process has\n"
"  why PID             what keeps the memory of a process\n"
"  top                 the clients with the most memory, again and again\n"
"  watch               the events of the module as they come (root)\n"
"  sites PID           which lines of a program with EVPL_TRACE=1 hold references\n"
"\n"
"Options:\n"
"  -j, --json          JSON, and no tables; top and watch print a line each time\n"
"  -i, --interval=S    top: seconds from one time to the next (1)\n"
"  -n, --count=N       top, watch: stop after so many times or events\n"
"  -h, --help          this text\n"
"  -V, --version       the version\n"
"\n"
"An ordinary user sees the own processes, and root sees all.\n";

static const struct command {
	const char *name;
	bool takes_pid;
	int (*run)(const struct options *options);
} commands[] = {
	{ "list", false, list },
	{ "show", true, show },
	{ "why", true, why },
	{ "top", false, top },
	{ "watch", false, watch },
	{ "sites", true, sites },
};

/* Prints a sentence on the standard error. */
void complain(const char *format, ...)
{
	va_list args;

	fputs("evplctl: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
}

/* Gives an array room for one more element than it has. It doesn't return without memory. */
void *grow(void *array, size_t count, size_t size)
{
	/* The room doubles when count is a power of two. */
	if (count & (count - 1))
		return array;
	array = reallocarray(array, count ? 2 * count : 1, size);
	if (!array) {
		complain("No memory: %s. Stop something else first.", strerror(errno));
		exit(1);
	}
	return array;
}

static const struct command *command_find(const char *name)
{
	size_t i;

	for (i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (!strcmp(commands[i].name, name))
			return &commands[i];
	return NULL;
}

static bool parse_count(const char *text, unsigned long *count)
{
	char *end;

	errno = 0;
	*count = strtoul(text, &end, 10);
	return isdigit(*text) && !*end && !errno && *count;
}

static bool parse_pid(const char *text, pid_t *pid)
{
	unsigned long value;

	if (!parse_count(text, &value) || value > INT_MAX)
		return false;
	*pid = value;
	return true;
}

static bool parse_interval(const char *text, double *interval)
{
	char *end;

	*interval = strtod(text, &end);
	return end != text && !*end && *interval >= 0.1 && *interval <= 3600;
}

/* Reads what follows the options. Returns the command, or NULL after a complaint. */
static const struct command *parse_words(int argc, char **argv, struct options *options)
{
	const struct command *command;

	if (!argc) {
		complain("A command is missing. See evplctl --help.");
		return NULL;
	}
	command = command_find(argv[0]);
	if (!command) {
		complain("%s is no command. See evplctl --help.", argv[0]);
		return NULL;
	}
	if (argc != 1 + command->takes_pid) {
		complain("%s takes %s. See evplctl --help.", command->name,
			 command->takes_pid ? "the id of one process" : "no argument");
		return NULL;
	}
	if (command->takes_pid && !parse_pid(argv[1], &options->pid)) {
		complain("%s is no process id. Give a number, as ps(1) prints it.", argv[1]);
		return NULL;
	}
	return command;
}

int main(int argc, char **argv)
{
	static const struct option longs[] = {
		{ "json", no_argument, NULL, 'j' },
		{ "interval", required_argument, NULL, 'i' },
		{ "count", required_argument, NULL, 'n' },
		{ "help", no_argument, NULL, 'h' },
		{ "version", no_argument, NULL, 'V' },
		{ NULL, 0, NULL, 0 },
	};
	struct options options = { .interval = 1 };
	const struct command *command;
	int c, status;

	while ((c = getopt_long(argc, argv, "ji:n:hV", longs, NULL)) != -1) {
		switch (c) {
		case 'j': options.json = true; break;
		case 'i':
			if (parse_interval(optarg, &options.interval))
				break;
			complain("%s is no interval. Give seconds, from 0.1 to 3600.", optarg);
			return EXIT_USAGE;
		case 'n':
			if (parse_count(optarg, &options.count))
				break;
			complain("%s is no count. Give a number, from 1 on.", optarg);
			return EXIT_USAGE;
		case 'h': fputs(help, stdout); return 0;
		case 'V': puts("evplctl " EVPL_VERSION); return 0;
		default: fputs("See evplctl --help.\n", stderr); return EXIT_USAGE;
		}
	}
	command = parse_words(argc - optind, argv + optind, &options);
	if (!command)
		return EXIT_USAGE;

	setlocale(LC_CTYPE, "C.UTF-8");
	status = command->run(&options);
	if (fflush(stdout) || ferror(stdout)) {
		complain("The output can't be written: %s. Look at where it goes.", strerror(errno));
		return 1;
	}
	return status;
}
