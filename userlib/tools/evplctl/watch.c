// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * evplctl watch: the module's tracepoints as they come. It has a trace instance of its own, so that
 * nobody else's tracing changes.
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "evplctl.h"

#define INSTANCES	"/sys/kernel/tracing/instances"
#define PREFIX		"evplctl-"

static volatile sig_atomic_t stopped;

static void stop(int signal)
{
	stopped = signal;
}

/* Removes the instances of processes that were killed. */
static void remove_stale(void)
{
	DIR *instances = opendir(INSTANCES);
	struct dirent *entry;
	pid_t pid;

	while (instances && (entry = readdir(instances))) {
		if (sscanf(entry->d_name, PREFIX "%d", &pid) == 1 && kill(pid, 0) && errno == ESRCH)
			unlinkat(dirfd(instances), entry->d_name, AT_REMOVEDIR);
	}
	if (instances)
		closedir(instances);
}

static bool write_file(int dir, const char *path, const char *text)
{
	int fd = openat(dir, path, O_WRONLY | O_CLOEXEC);
	bool done = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

	if (fd >= 0)
		close(fd);
	return done;
}

/* A word before a number in the text of an event, as JSON and people see it. */
static const char *field_name(const char *word)
{
	static const char *const names[][2] = {
		{ "at", "folio" }, { "has", "references" }, { "in", "folios" },
	};
	size_t i;

	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (!strcmp(word, names[i][0]))
			return names[i][1];
	return word;
}

/* Prints the numbers of an event's text, with the words before them. */
static void print_fields(char *text, bool json)
{
	const char *last = "";
	char *word, *end;
	uint64_t value;

	while ((word = strsep(&text, " "))) {
		if (isdigit(*word)) {
			value = strtoull(word, &end, 0);
			*end = '\0';
			if (json)
				json_number(field_name(last), value);
			else
				printf(" %s %s", field_name(last), word);
		}
		last = word;
	}
}

/* Reads a time in seconds with six digits after the point. */
static uint64_t time_ns(const char *text)
{
	unsigned long long seconds = 0, us = 0;

	sscanf(text, "%llu.%6llu", &seconds, &us);
	return seconds * 1000000000 + us * 1000;
}

/* The bytes of a task's name at the start of a line of trace_pipe. It may have any bytes in it. */
#define NAME	16

/*
 * Prints a line of trace_pipe, "NAME-PID [CPU] FLAGS TIME: evpl_EVENT: TEXT". Returns whether it was
 * an event.
 */
static bool print_event(char *line, bool json)
{
	char *event, *time, *text;
	unsigned long lost, pid;

	if (sscanf(line, "CPU:%*u [LOST %lu EVENTS]", &lost) == 1) {
		if (json) {
			json_begin(NULL, '{');
			json_number("lost", lost);
			json_end('}');
			json_line();
		} else {
			printf("%lu events were lost: the machine was faster than the output.\n", lost);
		}
		return false;
	}
	if (strnlen(line, NAME + 1) <= NAME || line[NAME] != '-')
		return false;
	line[NAME] = '\0';
	pid = strtoul(line + NAME + 1, &time, 10);
	event = strstr(time, ": evpl_");
	if (!event)
		return false;
	*event = '\0';
	event += strlen(": evpl_");
	time = strrchr(time, ' ') ? strrchr(time, ' ') + 1 : time;
	text = strchr(event, ':');
	if (!text)
		return false;
	*text++ = '\0';
	line += strspn(line, " ");
	make_printable(line);
	if (json) {
		json_begin(NULL, '{');
		json_string("event", event);
		json_number("time_ns", time_ns(time));
		json_number("pid", pid);
		json_string("command", line);
		print_fields(text, true);
		json_end('}');
		json_line();
	} else {
		printf("%s %-16s", time, event);
		print_fields(text, false);
		putchar('\n');
	}
	return true;
}

/* Prints events until a signal, the count, or an output that can't be written. */
static bool print_events(FILE *pipe, const struct options *options)
{
	const struct timespec pause = { .tv_nsec = 100 * 1000 * 1000 };
	unsigned long count = 0;
	char line[1024];

	while (!stopped) {
		if (fgets(line, sizeof(line), pipe)) {
			line[strcspn(line, "\n")] = '\0';
			if (print_event(line, options->json) && ++count == options->count)
				return true;
		} else if (!feof(pipe) && errno != EAGAIN && errno != EINTR) {
			return false;
		} else {
			/* There is no event just now. A signal ends the pause, and the loop. */
			clearerr(pipe);
			if (fflush(stdout))
				return true;
			nanosleep(&pause, NULL);
		}
	}
	return true;
}

static int watch_instance(int dir, const struct options *options)
{
	FILE *pipe = NULL;
	bool done = false;
	int fd;

	/* Instants as in fdinfo. A kernel without this clock uses another one. */
	write_file(dir, "trace_clock", "boot");
	if (write_file(dir, "events/evpl/enable", "1")) {
		fd = openat(dir, "trace_pipe", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
		pipe = fd < 0 ? NULL : fdopen(fd, "r");
		done = pipe && print_events(pipe, options);
		if (!done)
			complain("The events can't be read: %s. Try again.", strerror(errno));
		if (pipe)
			fclose(pipe);
		write_file(dir, "events/evpl/enable", "0");
	} else {
		complain("The events evpl:* can't be enabled: %s. Load the module, on a kernel with events.",
			 strerror(errno));
	}
	return done ? 0 : 1;
}

int watch(const struct options *options)
{
	struct sigaction action = { .sa_handler = stop };
	char path[96];
	int dir, status = 1;

	/* Without SA_RESTART. The instance must be removed, whatever ends this. */
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGHUP, &action, NULL);
	action.sa_handler = SIG_IGN;
	sigaction(SIGPIPE, &action, NULL);

	remove_stale();
	snprintf(path, sizeof(path), INSTANCES "/" PREFIX "%d", getpid());
	if (mkdir(path, 0700)) {
		if (errno == EACCES || errno == EPERM)
			complain("Only root may trace. Run 'sudo evplctl watch'.");
		else
			complain("There is no trace: %s. As root, mount -t tracefs none /sys/kernel/tracing.",
				 strerror(errno));
		return 1;
	}
	dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir >= 0) {
		status = watch_instance(dir, options);
		close(dir);
	}
	rmdir(path);
	return status;
}
