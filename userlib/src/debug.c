// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * The last words of a program that released what it didn't hold, or used what has ended.
 */
#include "debug.h"

#ifdef EVPLMEM_DEBUG
#include <execinfo.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "entry.h"

/* Nothing here allocates: the heap may be what the program has damaged. */
static void print_site(const char *what, void *site)
{
	dprintf(STDERR_FILENO, "evplmem: %s ", what);
	if (site)
		backtrace_symbols_fd(&site, 1, STDERR_FILENO);
	else
		dprintf(STDERR_FILENO, "nowhere\n");
}

noreturn void debug_die(const struct entry *entry, const char *what, void *site, void *before)
{
	dprintf(STDERR_FILENO, "evplmem: buffer %p: %s\n", entry->base, what);
	print_site("now at", site);
	print_site("the release before this was at", before);
	abort();
}

noreturn void debug_die_of(const char *kind, const void *object, const char *what)
{
	void *sites[16];

	dprintf(STDERR_FILENO, "evplmem: %s %p: %s, by\n", kind, object, what);
	backtrace_symbols_fd(sites, backtrace(sites, 16), STDERR_FILENO);
	abort();
}
#endif
