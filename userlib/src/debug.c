// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * The messages of the debug build, for a program that released a reference that it didn't have,
 * or used a pool or context that was gone.
 */
#include "debug.h"

#ifdef EVPLMEM_DEBUG
#include <execinfo.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "entry.h"

/* Nothing here allocates, as the program may have damaged the heap. */
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
