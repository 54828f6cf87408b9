/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_COMMON_H
#define EVPLMEM_COMMON_H

/* Helpers that the libraries for devices share. */

#include <errno.h>
#include <evplmem.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#define NOTICE_SIZE 256

/* Sets the notice, a sentence for the user, unless there is one already. */
#define notice_set(notice, ...)						\
	do {								\
		if (!(notice)[0])					\
			snprintf(notice, NOTICE_SIZE, __VA_ARGS__);	\
	} while (0)

/* Whether the pool was inherited from the parent process over fork(2). */
static inline bool pool_is_inherited(struct evpl_pool *pool)
{
	return evpl_pool_eventfd(pool) == -EPERM;
}

/* The value of RLIMIT_MEMLOCK, in words. */
static inline const char *memlock_limit(char *text, size_t size)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_MEMLOCK, &limit) || limit.rlim_cur == RLIM_INFINITY)
		snprintf(text, size, "no limit");
	else
		snprintf(text, size, "a limit of %llu KiB",
			 (unsigned long long)limit.rlim_cur >> 10);
	return text;
}

/* Copies statistics to a caller's struct, which may be that of another version of the library. */
static inline int stats_copy(void *theirs, const void *ours, size_t size)
{
	size_t their_size, known;

	memcpy(&their_size, theirs, sizeof(their_size));
	if (their_size < sizeof(their_size))
		return -EINVAL;
	known = their_size < size ? their_size : size;
	memcpy(theirs, ours, known);
	memset((char *)theirs + known, 0, their_size - known);
	memcpy(theirs, &their_size, sizeof(their_size));
	return 0;
}

#endif /* EVPLMEM_COMMON_H */
