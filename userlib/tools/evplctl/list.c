// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/* evplctl list: a line for each client. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "evplctl.h"

#define HEADING "     PID COMMAND        CLIENT    BYTES  IN USE  SHARED QUARANT.  LEASES    LENT"

const char *list_heading(void)
{
	return HEADING;
}

/* Formats a client's line. A "+" says that other processes have it too. */
const char *list_line(char line[LINE], const struct system *system, const struct client *client)
{
	const struct holders *holders = &client->holders;
	const struct process *process = &system->processes[holders->at[0].process];
	bool more = holders->at[holders->count - 1].process != holders->at[0].process;
	char size[16];

	snprintf(line, LINE, "%8d %-13.13s%c %6" PRIu64 " %8s %7" PRIu64 " %7" PRIu64 " %8" PRIu64
		 " %7" PRIu64 " %7" PRIu64, process->pid, process->command, more ? '+' : ' ',
		 client->id, size_text(size, client->bytes), client->in_use, client->shared,
		 client->quarantined, client->leases, client->lent);
	return line;
}

void list_json(const struct system *system)
{
	json_begin(NULL, '{');
	json_number("now_ns", system->now);
	json_number("hidden_processes", system->hidden);
	json_clients(system, 0);
	json_ends(system, 0);
	json_dmabufs(system, 0);
	json_end('}');
	json_line();
}

int list(const struct options *options)
{
	struct system system;
	char line[LINE];
	size_t i;

	if (!system_read(&system))
		return 1;
	if (options->json) {
		list_json(&system);
	} else {
		printf("%s%s%s\n", bold(), HEADING, plain());
		for (i = 0; i < system.nr_clients; i++)
			printf("%s%s%s\n", system.clients[i].quarantined ? warning() : "",
			       list_line(line, &system, &system.clients[i]),
			       system.clients[i].quarantined ? plain() : "");
		if (system.hidden)
			printf("The processes of others aren't shown. Root sees them.\n");
	}
	system_free(&system);
	return 0;
}
