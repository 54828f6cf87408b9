// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/* Prints for programs, as JSON, and texts for people. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "evplctl.h"
#include "json.h"

/* Whether the next member of the object or array needs a comma before it. */
static bool comma;

static void begin_member(const char *name)
{
	if (comma)
		printf(", ");
	comma = true;
	if (name) {
		json_print_string(name);
		printf(": ");
	}
}

/* Begins an object or an array. Without a name it is a member of an array, or stands alone. */
void json_begin(const char *name, char bracket)
{
	begin_member(name);
	putchar(bracket);
	comma = false;
}

void json_end(char bracket)
{
	putchar(bracket);
	comma = true;
}

void json_number(const char *name, uint64_t value)
{
	begin_member(name);
	printf("%" PRIu64, value);
}

void json_signed(const char *name, int64_t value)
{
	begin_member(name);
	printf("%" PRId64, value);
}

void json_bool(const char *name, bool value)
{
	begin_member(name);
	printf(value ? "true" : "false");
}

void json_string(const char *name, const char *value)
{
	begin_member(name);
	json_print_string(value);
}

/* Ends a line. The next value stands alone. */
void json_line(void)
{
	putchar('\n');
	comma = false;
}

/* Prints the processes that have a client or an end, with their descriptors. */
void json_holders(const struct system *system, const struct holders *holders)
{
	const struct process *process;
	size_t i;

	json_begin("processes", '[');
	for (i = 0; i < holders->count; i++) {
		process = &system->processes[holders->at[i].process];
		if (!i || holders->at[i - 1].process != holders->at[i].process) {
			if (i) {
				json_end(']');
				json_end('}');
			}
			json_begin(NULL, '{');
			json_number("pid", process->pid);
			json_number("uid", process->uid);
			json_string("command", process->command);
			json_begin("fds", '[');
		}
		json_number(NULL, holders->at[i].fd);
	}
	if (holders->count) {
		json_end(']');
		json_end('}');
	}
	json_end(']');
}

/* Prints a member that has the name of a key, with underscores. */
static void json_key(const char *key, uint64_t value)
{
	char name[64];
	char *at;

	snprintf(name, sizeof(name), "%s", key);
	for (at = name; *at; at++)
		if (*at == '-')
			*at = '_';
	json_number(name, value);
}

static void json_client(const struct system *system, const struct client *client)
{
	size_t i;

	json_begin(NULL, '{');
	json_number("client_id", client->id);
	json_holders(system, &client->holders);
#define KEY(field, name) json_key(name, client->field);
	CLIENT_KEYS(KEY)
#undef KEY
	json_begin("leased_from", '[');
	for (i = 0; i < client->nr_owners; i++) {
		json_begin(NULL, '{');
		json_number("client_id", client->owners[i].id);
		json_number("leases", client->owners[i].leases);
		json_number("bytes", client->owners[i].bytes);
		json_number("since_ns", client->owners[i].since);
		json_end('}');
	}
	json_end(']');
	json_begin("quarantine_lessees", '[');
	for (i = 0; i < client->nr_lessees; i++) {
		json_begin(NULL, '{');
		json_number("client_id", client->lessees[i].id);
		json_number("buffers", client->lessees[i].buffers);
		json_end('}');
	}
	json_end(']');
	json_begin("folios", '[');
	for (i = 0; i < client->nr_folios; i++) {
		json_begin(NULL, '{');
		json_number("bytes", client->folios[i].kib * 1024);
		json_number("count", client->folios[i].count);
		json_end('}');
	}
	json_end(']');
	json_end('}');
}

static void json_dmabuf(const struct system *system, const struct dmabuf *dmabuf)
{
	json_begin(NULL, '{');
	json_number("inode", dmabuf->inode);
	json_holders(system, &dmabuf->holders);
	json_number("bytes", dmabuf->bytes);
	json_end('}');
}

static void json_end_of_channel(const struct system *system, const struct end *end)
{
	json_begin(NULL, '{');
	json_number("channel_id", end->channel);
	json_number("end", end->end);
	json_holders(system, &end->holders);
	json_number("client_id", end->client);
	json_number("peer_client_id", end->peer);
	json_number("capacity", end->capacity);
	json_bool("lane", end->lane);
	json_number("records_to_read", end->to_read);
	json_number("records_written", end->written);
	json_end('}');
}

/* Prints the clients, ends and dma-bufs of a process; or of all processes if @pid is 0. */
void json_clients(const struct system *system, pid_t pid)
{
	size_t i;

	json_begin("clients", '[');
	for (i = 0; i < system->nr_clients; i++)
		if (!pid || held_by(system, &system->clients[i].holders, pid))
			json_client(system, &system->clients[i]);
	json_end(']');
}

void json_ends(const struct system *system, pid_t pid)
{
	size_t i;

	json_begin("ends", '[');
	for (i = 0; i < system->nr_ends; i++)
		if (!pid || held_by(system, &system->ends[i].holders, pid))
			json_end_of_channel(system, &system->ends[i]);
	json_end(']');
}

void json_dmabufs(const struct system *system, pid_t pid)
{
	size_t i;

	json_begin("dmabufs", '[');
	for (i = 0; i < system->nr_dmabufs; i++)
		if (!pid || held_by(system, &system->dmabufs[i].holders, pid))
			json_dmabuf(system, &system->dmabufs[i]);
	json_end(']');
}

/* Formats a size in at most eight columns: "1023 MiB", "1.5 GiB". */
const char *size_text(char text[16], uint64_t bytes)
{
	static const char units[] = " KMGTPE";
	double value = bytes;
	int unit = 0;

	while (value >= 1024) {
		value /= 1024;
		unit++;
	}
	if (!unit)
		snprintf(text, 16, "%d B", (int)bytes);
	else
		snprintf(text, 16, "%.*f %ciB", value < 10 && value != (int)value, value, units[unit]);
	return text;
}

/* Formats a span of time: "5 s", "3 min", "2 h", "4 d". */
const char *age_text(char text[16], uint64_t ns)
{
	uint64_t seconds = ns / 1000000000;

	if (seconds < 120)
		snprintf(text, 16, "%d s", (int)seconds);
	else if (seconds < 2 * 3600)
		snprintf(text, 16, "%d min", (int)(seconds / 60));
	else if (seconds < 2 * 86400)
		snprintf(text, 16, "%d h", (int)(seconds / 3600));
	else
		snprintf(text, 16, "%d d", (int)(seconds / 86400));
	return text;
}

/* Formats the first process that has something, and how many others there are. */
const char *holder_text(char text[TEXT], const struct system *system,
			const struct holders *holders)
{
	const struct process *process = &system->processes[holders->at[0].process];
	size_t others = 0, i;
	int n;

	for (i = 1; i < holders->count; i++)
		others += holders->at[i].process != holders->at[i - 1].process;
	n = snprintf(text, TEXT, "%d (%s)", process->pid, process->command);
	if (others && n < TEXT)
		snprintf(text + n, TEXT - n, " and %zu more", others);
	return text;
}

/* Formats a client by its id, which may be that of a client that wasn't found. */
const char *client_text(char text[TEXT], const struct system *system, uint64_t id)
{
	const struct client *client = client_find(system, id);
	char holder[TEXT];

	if (client)
		snprintf(text, TEXT, "client %" PRIu64 ", %.100s", id,
			 holder_text(holder, system, &client->holders));
	else
		snprintf(text, TEXT, "client %" PRIu64 ", which has gone or isn't shown", id);
	return text;
}

/* Formats a count with its noun. */
const char *count_text(char text[48], uint64_t count, const char *one, const char *many)
{
	snprintf(text, 48, "%" PRIu64 " %s", count, count == 1 ? one : many);
	return text;
}

static const char *colour(const char *sequence)
{
	static int wanted = -1;

	if (wanted < 0)
		wanted = isatty(STDOUT_FILENO) && !getenv("NO_COLOR") && getenv("TERM") &&
			 strcmp(getenv("TERM"), "dumb");
	return wanted ? sequence : "";
}

const char *bold(void)
{
	return colour("\033[1m");
}

const char *warning(void)
{
	return colour("\033[33m");
}

const char *plain(void)
{
	return colour("\033[0m");
}
