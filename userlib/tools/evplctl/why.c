// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/* evplctl why: what keeps the memory of one process's clients, as far as /proc tells. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "evplctl.h"

/**
 * struct found - what the answer is made of
 * @system: the clients and ends
 * @count: how many descriptors can hold pages
 * @holders: these descriptors
 */
struct found {
	struct system system;
	size_t count;
	struct page_holder *holders;
};

/* The leases that a client has on buffers of another one, or NULL. */
static const struct owner *leases_on(const struct client *lessee, uint64_t id)
{
	size_t i;

	for (i = 0; i < lessee->nr_owners; i++)
		if (lessee->owners[i].id == id)
			return &lessee->owners[i];
	return NULL;
}

/* How many leases on a client's buffers belong to clients that weren't found. */
static uint64_t unseen_leases(const struct system *system, const struct client *client)
{
	const struct owner *owner;
	uint64_t seen = 0;
	size_t i;

	for (i = 0; i < system->nr_clients; i++) {
		owner = leases_on(&system->clients[i], client->id);
		if (owner)
			seen += owner->leases;
	}
	/* The clients were read one after the other, so more may have been seen. */
	return client->lent > seen ? client->lent - seen : 0;
}

/*
 * Whether records of a client are in flight that an end shows: the records that it has written, or,
 * if the end that it wrote them to is the only one that was found, those to read there.
 */
static bool has_records(const struct system *system, const struct client *client,
			const struct end *end, uint64_t *records, uint64_t *to)
{
	size_t i;

	*records = end->client == client->id ? end->written : 0;
	*to = end->peer;
	if (end->client != client->id && end->peer == client->id) {
		*records = end->to_read;
		*to = end->client;
		for (i = 0; i < system->nr_ends; i++)
			if (system->ends[i].channel == end->channel &&
			    system->ends[i].end != end->end)
				*records = 0;
	}
	return *records;
}

/*
 * Whether a descriptor can hold what this lessee had. If the lessee has gone, any process can have
 * the pipe that it left the pages in. Two descriptors of a pipe count once: the first one does.
 */
static bool is_candidate(const struct found *found, size_t n, uint64_t lessee)
{
	const struct client *client = client_find(&found->system, lessee);
	const struct page_holder *holder = &found->holders[n], *other;

	if (client && !held_by(&found->system, &client->holders, holder->process.pid))
		return false;
	if (!client && holder->kind != PAGES_PIPE)
		return false;
	for (other = found->holders; other < holder; other++)
		if (holder->inode && other->inode == holder->inode &&
		    (!client || held_by(&found->system, &client->holders, other->process.pid)))
			return false;
	return true;
}

static size_t count_candidates(const struct found *found, uint64_t lessee)
{
	size_t count = 0, i;

	for (i = 0; i < found->count; i++)
		count += is_candidate(found, i, lessee);
	return count;
}

/* Whether a descriptor is the first one that its process has of a pipe or socket. */
static bool is_first_of_process(const struct found *found, size_t n)
{
	const struct page_holder *holder = &found->holders[n], *other;

	for (other = found->holders; other < holder; other++)
		if (other->inode == holder->inode && other->process.pid == holder->process.pid)
			return false;
	return true;
}

/*
 * The next descriptor after @n, or the very first one if @n is SIZE_MAX, that another process has of
 * the pipe or socket of the @first one. Without such a descriptor it is the number of descriptors.
 */
static size_t next_with(const struct found *found, size_t first, size_t n)
{
	const struct page_holder *holder = &found->holders[first];

	while (++n < found->count)
		if (holder->inode && found->holders[n].inode == holder->inode &&
		    found->holders[n].process.pid != holder->process.pid &&
		    is_first_of_process(found, n))
			break;
	return n;
}

static void print_candidates(const struct found *found, uint64_t lessee)
{
	const struct page_holder *holder;
	size_t i, j;

	for (i = 0; i < found->count; i++) {
		if (!is_candidate(found, i, lessee))
			continue;
		holder = &found->holders[i];
		printf("      fd %d of %d (%s): %s", holder->fd, holder->process.pid,
		       holder->process.command, pages_text(holder->kind));
		if (holder->kind == PAGES_PIPE)
			printf(" with %" PRIu64 " unread bytes", holder->bytes);
		putchar('\n');
		for (j = next_with(found, i, SIZE_MAX); j < found->count; j = next_with(found, i, j))
			printf("        %d (%s) has it too, as fd %d\n", found->holders[j].process.pid,
			       found->holders[j].process.command, found->holders[j].fd);
	}
}

static void print_quarantine(const struct found *found, const struct client *client)
{
	const struct lessee *lessee;
	char a[48], b[48], text[TEXT];
	size_t i, candidates;

	if (!client->quarantined)
		return;
	printf("  %s%s in quarantine%s: %s to the pages\n", warning(),
	       count_text(a, client->quarantined, "buffer", "buffers"), plain(),
	       count_text(b, client->references, "reference", "references"));
	for (i = 0; i < client->nr_lessees; i++) {
		lessee = &client->lessees[i];
		if (!lessee->id) {
			printf("    %" PRIu64 " after other uses: what holds them can't be known\n",
			       lessee->buffers);
			continue;
		}
		printf("    %" PRIu64 " after a lease of %s\n", lessee->buffers,
		       client_text(text, &found->system, lessee->id));
		candidates = count_candidates(found, lessee->id);
		if (!candidates)
			printf("      no descriptor can hold them: it is I/O in flight, or can't be known\n");
		else if (candidates == 1)
			printf("      one descriptor can hold them, unless I/O in flight does:\n");
		else
			printf("      one of these can hold them; which one can't be known:\n");
		print_candidates(found, lessee->id);
	}
}

static void print_leases(const struct system *system, const struct client *client)
{
	const struct owner *owner;
	uint64_t unseen = unseen_leases(system, client);
	char a[48], size[16], age[16], text[TEXT];
	size_t i;

	for (i = 0; i < system->nr_clients; i++) {
		owner = leases_on(&system->clients[i], client->id);
		if (!owner)
			continue;
		printf("  %s of %s\n", count_text(a, owner->leases, "lease", "leases"),
		       client_text(text, system, system->clients[i].id));
		printf("    %s, the oldest for %s\n", size_text(size, owner->bytes),
		       age_text(age, system->now - owner->since));
	}
	if (unseen)
		printf("  %s of clients that aren't shown: %s\n",
		       count_text(a, unseen, "lease", "leases"),
		       system->hidden ? "run evplctl as root" : "they have mappings alone, or just came");
}

static void print_records(const struct system *system, const struct client *client)
{
	char a[48], text[TEXT];
	uint64_t records, to;
	size_t i;

	for (i = 0; i < system->nr_ends; i++)
		if (has_records(system, client, &system->ends[i], &records, &to))
			printf("  %s in flight in channel %" PRIu64 " to %s\n",
			       count_text(a, records, "record", "records"), system->ends[i].channel,
			       to ? client_text(text, system, to) : "no client: the end isn't bound");
}

/* Where a client has exports, any dma-buf of the module can be one of them. */
static void print_exports(const struct system *system, const struct client *client)
{
	char a[48], size[16], text[TEXT];
	size_t i;

	if (!client->exports)
		return;
	printf("  %s as dma-bufs; which of these can't be known:\n",
	       count_text(a, client->exports, "export", "exports"));
	for (i = 0; i < system->nr_dmabufs; i++)
		printf("    dma-buf %" PRIu64 " of %s, %s\n", system->dmabufs[i].inode,
		       holder_text(text, system, &system->dmabufs[i].holders),
		       size_text(size, system->dmabufs[i].bytes));
	if (!system->nr_dmabufs)
		printf("    no descriptor is shown: a mapping or a driver has it\n");
}

static void print_client(const struct found *found, const struct client *client)
{
	const struct system *system = &found->system;
	char a[48], size[16], text[TEXT];

	printf("%sclient %" PRIu64 "%s of %s: %s\n", bold(), client->id, plain(),
	       holder_text(text, system, &client->holders), size_text(size, client->bytes));
	printf("  %s in use, %" PRIu64 " of them shared\n",
	       count_text(a, client->in_use, "buffer", "buffers"), client->shared);
	print_leases(system, client);
	print_records(system, client);
	print_quarantine(found, client);
	print_exports(system, client);
	if (client->registrations)
		printf("  %s with rings of io_uring; which ring can't be known\n",
		       count_text(a, client->registrations, "registration", "registrations"));
}

static void json_process(const struct page_holder *holder)
{
	json_begin(NULL, '{');
	json_number("pid", holder->process.pid);
	json_string("command", holder->process.command);
	json_number("fd", holder->fd);
	json_end('}');
}

static void json_candidates(const struct found *found, uint64_t lessee)
{
	size_t i, j;

	json_begin("candidates", '[');
	for (i = 0; i < found->count; i++) {
		if (!lessee || !is_candidate(found, i, lessee))
			continue;
		json_begin(NULL, '{');
		json_string("kind", pages_text(found->holders[i].kind));
		json_number("inode", found->holders[i].inode);
		json_number("unread_bytes", found->holders[i].bytes);
		json_begin("processes", '[');
		json_process(&found->holders[i]);
		for (j = next_with(found, i, SIZE_MAX); j < found->count; j = next_with(found, i, j))
			json_process(&found->holders[j]);
		json_end(']');
		json_end('}');
	}
	json_end(']');
}

/* The client of an id, which may be unknown: then it has no processes. */
static void json_other(const struct system *system, uint64_t id)
{
	const struct client *client = client_find(system, id);

	json_number("client_id", id);
	json_holders(system, client ? &client->holders : &(struct holders){ 0 });
}

static void why_client_json(const struct found *found, const struct client *client)
{
	const struct system *system = &found->system;
	const struct owner *owner;
	uint64_t records, to;
	size_t i;

	json_begin(NULL, '{');
	json_other(system, client->id);
	json_number("bytes", client->bytes);
	json_number("buffers_in_use", client->in_use);
	json_number("buffers_shared", client->shared);
	json_begin("lessees", '[');
	for (i = 0; i < system->nr_clients; i++) {
		owner = leases_on(&system->clients[i], client->id);
		if (!owner)
			continue;
		json_begin(NULL, '{');
		json_other(system, system->clients[i].id);
		json_number("leases", owner->leases);
		json_number("bytes", owner->bytes);
		json_number("since_ns", owner->since);
		json_end('}');
	}
	json_end(']');
	json_number("leases_not_shown", unseen_leases(system, client));
	json_begin("records", '[');
	for (i = 0; i < system->nr_ends; i++) {
		if (!has_records(system, client, &system->ends[i], &records, &to))
			continue;
		json_begin(NULL, '{');
		json_number("channel_id", system->ends[i].channel);
		json_number("records", records);
		json_begin("to", '{');
		json_other(system, to);
		json_end('}');
		json_end('}');
	}
	json_end(']');
	json_number("buffers_in_quarantine", client->quarantined);
	json_number("quarantine_references", client->references);
	json_begin("quarantine_lessees", '[');
	for (i = 0; i < client->nr_lessees; i++) {
		json_begin(NULL, '{');
		json_other(system, client->lessees[i].id);
		json_number("buffers", client->lessees[i].buffers);
		json_candidates(found, client->lessees[i].id);
		json_end('}');
	}
	json_end(']');
	json_number("exports", client->exports);
	json_number("registrations", client->registrations);
	json_end('}');
}

static void why_json(const struct found *found, const struct process *process)
{
	const struct system *system = &found->system;
	size_t i;

	json_begin(NULL, '{');
	json_number("now_ns", system->now);
	json_number("hidden_processes", system->hidden);
	json_number("pid", process->pid);
	json_string("command", process->command);
	json_begin("clients", '[');
	for (i = 0; i < system->nr_clients; i++)
		if (held_by(system, &system->clients[i].holders, process->pid))
			why_client_json(found, &system->clients[i]);
	json_end(']');
	json_dmabufs(system, 0);
	json_end('}');
	json_line();
}

int why(const struct options *options)
{
	const struct process *process;
	struct found found = { 0 };
	struct system *system = &found.system;
	size_t i, held = 0;

	if (!system_read(system))
		return 1;
	process = process_of(system, options->pid);
	for (i = 0; process && i < system->nr_clients; i++)
		if (held_by(system, &system->clients[i].holders, process->pid))
			held += system->clients[i].quarantined;
	if (held)
		found.holders = pages_read(&found.count);
	if (process && options->json)
		why_json(&found, process);
	for (i = 0; process && !options->json && i < system->nr_clients; i++)
		if (held_by(system, &system->clients[i].holders, process->pid))
			print_client(&found, &system->clients[i]);
	free(found.holders);
	system_free(system);
	return process ? 0 : 1;
}
