// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/* evplctl show: all that one process has. */
#include <inttypes.h>
#include <stdio.h>

#include "evplctl.h"

static void show_client(const struct system *system, const struct client *client)
{
	char a[48], b[48], c[48], size[16], text[TEXT];
	size_t i;

	printf("%sclient %" PRIu64 "%s of %s\n", bold(), client->id, plain(),
	       holder_text(text, system, &client->holders));
	printf("  %s in %s", size_text(size, client->bytes),
	       count_text(a, client->slabs, "slab", "slabs"));
	printf(", %s of %s\n", count_text(a, client->buffers, "buffer", "buffers"),
	       size_text(size, client->buffer_size));
	for (i = 0; i < client->nr_folios; i++)
		printf("%s%s of %s%s", i ? ", " : "  ",
		       count_text(a, client->folios[i].count, "folio", "folios"),
		       size_text(size, client->folios[i].kib * 1024),
		       i + 1 == client->nr_folios ? "\n" : "");
	printf("  %s in use, %" PRIu64 " shared, %s%" PRIu64 " in quarantine%s\n",
	       count_text(a, client->in_use, "buffer", "buffers"), client->shared,
	       client->quarantined ? warning() : "", client->quarantined, plain());
	printf("  %s of others, %s, %s\n", count_text(a, client->lent, "lease", "leases"),
	       count_text(b, client->exports, "export", "exports"),
	       count_text(c, client->registrations, "registration", "registrations"));
	if (client->leases)
		printf("  %s on others' buffers, of which %" PRIu64 " are revoked\n",
		       count_text(a, client->leases, "lease", "leases"), client->revoked);
	for (i = 0; i < client->nr_owners; i++) {
		const struct owner *owner = &client->owners[i];

		printf("    %" PRIu64 " from %s\n", owner->leases,
		       owner->id ? client_text(text, system, owner->id) : "other clients");
		printf("      %s, the oldest for %s\n", size_text(size, owner->bytes),
		       age_text(a, system->now - owner->since));
	}
}

static void show_ends(const struct system *system, pid_t pid)
{
	const struct end *end;
	bool any = false;
	size_t i;

	for (i = 0; i < system->nr_ends; i++) {
		end = &system->ends[i];
		if (!held_by(system, &end->holders, pid))
			continue;
		if (!any)
			printf("%s CHANNEL END  CLIENT    PEER KIND     FIT TO READ WRITTEN%s\n", bold(),
			       plain());
		any = true;
		printf("%8" PRIu64 " %3" PRIu64 " %7" PRIu64 " %7" PRIu64 " %-7s %4" PRIu64
		       " %7" PRIu64 " %7" PRIu64 "\n", end->channel, end->end, end->client,
		       end->peer, end->lane ? "lane" : "channel", end->capacity, end->to_read,
		       end->written);
	}
}

static void show_dmabufs(const struct system *system, pid_t pid)
{
	char size[16], text[TEXT];
	size_t i;

	for (i = 0; i < system->nr_dmabufs; i++)
		if (held_by(system, &system->dmabufs[i].holders, pid))
			printf("dma-buf %" PRIu64 " of %s, %s\n", system->dmabufs[i].inode,
			       holder_text(text, system, &system->dmabufs[i].holders),
			       size_text(size, system->dmabufs[i].bytes));
}

static void show_json(const struct system *system, const struct process *process)
{
	json_begin(NULL, '{');
	json_number("now_ns", system->now);
	json_number("pid", process->pid);
	json_number("uid", process->uid);
	json_string("command", process->command);
	json_clients(system, process->pid);
	json_ends(system, process->pid);
	json_dmabufs(system, process->pid);
	json_end('}');
	json_line();
}

int show(const struct options *options)
{
	const struct process *process;
	struct system system;
	size_t i;

	if (!system_read(&system))
		return 1;
	process = process_of(&system, options->pid);
	if (process && options->json) {
		show_json(&system, process);
	} else if (process) {
		printf("%d (%s), user %d\n", process->pid, process->command, (int)process->uid);
		for (i = 0; i < system.nr_clients; i++)
			if (held_by(&system, &system.clients[i].holders, process->pid))
				show_client(&system, &system.clients[i]);
		show_ends(&system, process->pid);
		show_dmabufs(&system, process->pid);
	}
	system_free(&system);
	return process ? 0 : 1;
}
