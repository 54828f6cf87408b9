// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/* Prints the results, for people and for programs. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/utsname.h>

#include "json.h"
#include "probe.h"

#define WIDTH		100	/* columns of a line */
#define NAME_WIDTH	24
#define WORKS_WIDTH	11

static const char *const works_text[] = {
	[NOT_TRIED] = "not tried",
	[YES] = "yes",
	[NO] = "no",
	[REFUSED] = "refused",
};

static const char *const charge_text[] = {
	[TO_NOBODY] = "nobody",
	[TO_USER] = "user",
	[TO_PINNED] = "process",
	[TO_LOCKED] = "process",
};

/* Prints text in lines that start in the column of the first one. Returns the column after it. */
static int print_wrapped(const char *text, int column)
{
	const int margin = NAME_WIDTH + WORKS_WIDTH;
	size_t length;

	for (;; text += length) {
		text += strspn(text, " \n");
		length = strcspn(text, " \n");
		if (!length)
			break;
		if (column > margin && column + 1 + (int)length > WIDTH) {
			printf("\n%*s", margin, "");
			column = margin;
		}
		column += printf("%s%.*s", column > margin ? " " : "", (int)length, text);
	}
	return column;
}

static void print_row(const struct row *row)
{
	const int margin = NAME_WIDTH + WORKS_WIDTH;
	char charged[64];
	int column;

	printf("%-*s%-*s", NAME_WIDTH, row->interface, WORKS_WIDTH, works_text[row->works]);
	column = print_wrapped(row->reason, margin);
	if (row->works == YES && row->charge != NO_CHARGE) {
		snprintf(charged, sizeof(charged), "Charged to %s%s.",
			 row->charge == TO_NOBODY ? "" : "the ", charge_text[row->charge]);
		print_wrapped(charged, column);
	}
	putchar('\n');
	if (row->remedy[0]) {
		printf("%-*s%-*s", NAME_WIDTH, "", WORKS_WIDTH, "      ->");
		print_wrapped(row->remedy, margin);
		putchar('\n');
	}
}

void print_table(const struct limits *limits, const struct row *rows, unsigned int count)
{
	struct utsname system;
	char memlock[32] = "unlimited";
	unsigned int i;

	uname(&system);
	if (limits->memlock != RLIM_INFINITY)
		size_text(memlock, limits->memlock);
	printf("Linux %s, RLIMIT_MEMLOCK %s, %s CAP_IPC_LOCK\n\n", system.release, memlock,
	       limits->may_lock ? "with" : "without");
	for (i = 0; i < count; i++)
		print_row(&rows[i]);
}

static void print_limit(const char *name, uint64_t bytes)
{
	if (bytes == UNKNOWN)
		printf("\"%s\": null, ", name);
	else
		printf("\"%s\": %" PRIu64 ", ", name, bytes);
}

void print_json(const struct limits *limits, const struct row *rows, unsigned int count)
{
	struct utsname system;
	unsigned int i;

	_Static_assert(RLIM_INFINITY == UNKNOWN, "both are null");
	uname(&system);
	printf("{\n\"kernel\": ");
	json_print_string(system.release);
	printf(",\n\"limits\": {");
	print_limit("memlock", limits->memlock);
	print_limit("memlock_hard", limits->memlock_hard);
	print_limit("max_bytes", limits->max_bytes);
	print_limit("max_bytes_per_user", limits->max_bytes_per_user);
	printf("\"cap_ipc_lock\": %s},\n\"rows\": [", limits->may_lock ? "true" : "false");
	for (i = 0; i < count; i++) {
		printf("%s\n{\"interface\": ", i ? "," : "");
		json_print_string(rows[i].interface);
		printf(", \"works\": \"%s\", \"errno\": %d, \"charged_to\": ",
		       works_text[rows[i].works], rows[i].error);
		if (rows[i].charge == NO_CHARGE)
			printf("null");
		else
			json_print_string(charge_text[rows[i].charge]);
		printf(",\n \"reason\": ");
		json_print_string(rows[i].reason);
		printf(",\n \"remedy\": ");
		json_print_string(rows[i].remedy);
		putchar('}');
	}
	printf("\n]\n}\n");
}
