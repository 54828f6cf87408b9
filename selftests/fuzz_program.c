// SPDX-License-Identifier: GPL-2.0-only
/* The fuzzer's programs: print, parse, make up and change them. */
#include <ctype.h>

#include "fuzz.h"

struct kind kinds[NR_KINDS];

static uint8_t lottery[2048];
static unsigned int nr_lottery;

void gather_kinds(void)
{
	static const struct kind * const tables[] = {
		client_kinds, share_kinds, ring_kinds, process_kinds,
	};

	for (unsigned int kind = 0; kind < NR_KINDS; kind++) {
		for (unsigned int i = 0; i < ARRAY_SIZE(tables); i++)
			if (tables[i][kind].name)
				kinds[kind] = tables[i][kind];
		for (unsigned int i = 0; i < kinds[kind].weight; i++)
			lottery[nr_lottery++] = kind;
	}
}

void print_program(char *text, size_t size, const struct program *p)
{
	size_t at = 0;

	for (unsigned int i = 0; i < p->nr && at + 48 < size; i++) {
		const struct call *call = &p->calls[i];
		const struct kind *kind = &kinds[call->kind];

		at += sprintf(text + at, "%s%s%s(", i ? " " : "",
			      call->sibling ? "&" : "", kind->name);
		for (int n = 0; n < MAX_ARGS && kind->max[n]; n++)
			at += sprintf(text + at, "%s%u", n ? "," : "", call->arg[n]);
		text[at++] = ')';
	}
	text[at] = 0;
}

/* Return false if the line isn't a program of calls that this source knows. */
bool parse_program(struct program *p, char *line)
{
	char *save, *word = strtok_r(line, "\n ", &save);

	*p = (struct program){};
	for (; word && p->nr < MAX_CALLS; word = strtok_r(NULL, "\n ", &save)) {
		struct call *call = &p->calls[p->nr++];
		char *paren = strchr(word, '(');
		unsigned int kind = 0;

		call->sibling = *word == '&';
		word += call->sibling;
		if (!paren)
			return false;
		*paren++ = 0;
		while (strcmp(kinds[kind].name, word))
			if (++kind == NR_KINDS)
				return false;
		call->kind = kind;
		for (int n = 0; n < MAX_ARGS && isdigit(*paren); n++) {
			unsigned long value = strtoul(paren, &paren, 10);

			if (value >= kinds[kind].max[n])
				return false;
			call->arg[n] = value;
			paren += *paren == ',';
		}
	}
	return p->nr;
}

static void make_arg(struct thread *self, struct call *call, int n)
{
	const struct kind *kind = &kinds[call->kind];

	call->arg[n] = kind->even >> n & 1 || !below(self, kind->odds ?: 10) ?
		       below(self, kind->max[n]) : 0;
}

static struct call make_call(struct thread *self, unsigned int kind)
{
	struct call call = { .kind = kind };

	for (int n = 0; n < MAX_ARGS && kinds[kind].max[n]; n++)
		make_arg(self, &call, n);
	return call;
}

static bool is_too_dear(struct thread *self, unsigned int kind)
{
	return kinds[kind].dear && below(self, kinds[kind].dear);
}

static struct call any_call(struct thread *self)
{
	unsigned int kind;

	do
		kind = lottery[below(self, nr_lottery)];
	while (is_too_dear(self, kind));
	return make_call(self, kind);
}

/*
 * Make the last record one for devices, and have a pipe hold the buffer or a ring register it when
 * the lease ends or is revoked. Then end the quarantine in one of several ways.
 */
static void make_up_quarantine(struct thread *self, struct program *p)
{
	static const struct call by_pipe[] = {
		{ .kind = MMAP_GUEST, .arg = { 0, 0, 0, 0, 1 } }, { .kind = VMSPLICE },
	}, by_ring = { .kind = RING_TAKE, .arg = { 0, 0, 2, 0, 1 } };
	struct call end = { .kind = RELEASE };
	bool ring = below(self, 2);

	p->calls[p->nr - 2].arg[3] = 4 + below(self, 2);
	if (ring)
		p->calls[p->nr++] = by_ring;
	for (int i = 0; !ring && i < ARRAY_SIZE(by_pipe); i++)
		p->calls[p->nr++] = by_pipe[i];
	if (!below(self, 4))
		end = (struct call){ .kind = REVOKE, .arg = { NR_FDS - 1 } };
	p->calls[p->nr++] = end;
	switch (below(self, 4)) {
	case 0:
		p->calls[p->nr++] = (struct call){ .kind = ring ? RING_DROP : DRAIN };
		break;
	case 1:
	case 2:
		p->calls[p->nr++] = (struct call){ .kind = QUARANTINE_END,
						   .arg = { NR_FDS - 1 } };
		break;
	default:
		p->calls[p->nr++] = (struct call){ .kind = REVOKE,
						   .arg = { NR_FDS - 1 } };
	}
}

/* Make up a program that begins with setting a client up; often it has the ready client. */
static void make_up(struct thread *self, struct program *p)
{
	static const uint8_t begin[] = { OPEN, SETUP, ALLOC, MMAP_OWN, MMAP_REFS };
	unsigned int length = MAX_CALLS / 2 + below(self, MAX_CALLS / 2);
	bool both = !below(self, 3);

	p->nr = 0;
	for (int i = below(self, 8) ? 3 : 0; i < ARRAY_SIZE(begin); i++)
		if (below(self, 8))
			p->calls[p->nr++] = make_call(self, begin[i]);
	/* Make a channel from the ready client to a new one, and send a record. */
	if (below(self, 2)) {
		static const struct call channel[] = {
			{ .kind = OPEN }, { .kind = SETUP }, { .kind = CHANNEL },
			{ .kind = BIND, .arg = { NR_FDS - 1, 0 } },
			{ .kind = BIND, .arg = { 0, 1 } },
			{ .kind = SEND }, { .kind = RECV },
		};

		for (int i = 0; i < ARRAY_SIZE(channel); i++)
			p->calls[p->nr++] = channel[i];
		/* Export the lease, half of the time for writing. */
		if (!below(self, 4))
			p->calls[p->nr++] = (struct call){
				.kind = EXPORT, .arg = { 0, 0, below(self, 2), 3 },
			};
		if (below(self, 2))
			make_up_quarantine(self, p);
	}
	while (p->nr < length) {
		struct call call = any_call(self), before;

		/* Only a new client can be set up, so open one before. */
		if (call.kind == SETUP && below(self, 2) && p->nr + 1 < length) {
			before = make_call(self, OPEN);
			before.arg[0] = call.arg[0];
			p->calls[p->nr++] = before;
		}
		p->calls[p->nr++] = call;
	}
	for (unsigned int i = 0; both && i < p->nr; i++)
		p->calls[i].sibling = i > 1 && below(self, 2);
}

static void change(struct thread *self, struct program *p, const struct program *other)
{
	unsigned int at = below(self, p->nr), from = below(self, other->nr);
	struct call *call = &p->calls[at];

	switch (below(self, 8)) {
	case 0:
	case 1:
		if (p->nr == MAX_CALLS)
			break;
		memmove(call + 1, call, (p->nr++ - at) * sizeof(*call));
		*call = any_call(self);
		break;
	case 2:
		if (p->nr == 1)
			break;
		memmove(call, call + 1, (--p->nr - at) * sizeof(*call));
		break;
	case 3:
		*call = any_call(self);
		break;
	case 4:
	case 5:
		for (int n = 0; n < MAX_ARGS && kinds[call->kind].max[n]; n++)
			if (!below(self, 2))
				make_arg(self, call, n);
		break;
	case 6:
		call->sibling ^= 1;
		break;
	default:
		for (; at < MAX_CALLS && from < other->nr; from++)
			if (!is_too_dear(self, other->calls[from].kind))
				p->calls[at++] = other->calls[from];
		p->nr = at ?: p->nr;
	}
}

static void thin_out(struct thread *self, struct program *p)
{
	unsigned int kept = 0;

	for (unsigned int i = 0; i < p->nr; i++) {
		if (!is_too_dear(self, p->calls[i].kind))
			p->calls[kept++] = p->calls[i];
	}
	p->nr = kept;
}

void choose(struct thread *self, struct program *p)
{
	unsigned int nr = load(&shared->nr_corpus);

	if (shared->next_seed < shared->nr_seeds) {
		unsigned int seed = add(&shared->next_seed, 1);

		if (seed < shared->nr_seeds) {
			*p = shared->seeds[seed];
			return;
		}
	}
	if (!nr || !below(self, 3)) {
		make_up(self, p);
		return;
	}
	*p = shared->corpus[below(self, nr)];
	thin_out(self, p);
	if (!p->nr)
		make_up(self, p);
	for (int changes = 1 + below(self, 4); changes; changes--)
		change(self, p, &shared->corpus[below(self, nr)]);
}
