/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_TESTS_COUNTERS_H
#define EVPLMEM_TESTS_COUNTERS_H

/* The module's counters, by which a test sees that nothing is left behind. */

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define COUNTERS	"/sys/kernel/debug/evpl/counters"
/* Seconds after which something that should have happened never will. */
#define LIMIT		240

/* The counters as they are now, without the one that only goes up. */
static inline void read_counters(char counters[512])
{
	FILE *file = fopen(COUNTERS, "re");
	char line[128];

	counters[0] = '\0';
	while (file && fgets(line, sizeof(line), file))
		if (strncmp(line, "rechecks", 8))
			strncat(counters, line, 511 - strlen(counters));
	if (file)
		fclose(file);
}

/* Waits until the counters are as they were @before. Sets @now to what they are then. */
static inline bool counters_return_to(const char *before, char now[512])
{
	int tries;

	for (tries = 0; tries < 10 * LIMIT; tries++) {
		read_counters(now);
		if (!strcmp(before, now))
			return true;
		usleep(100 * 1000);
	}
	return false;
}

#endif /* EVPLMEM_TESTS_COUNTERS_H */
