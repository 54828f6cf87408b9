// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Error messages. A library doesn't print them, so it keeps the last one for the program.
 */
#include "error.h"

#include <stdarg.h>
#include <stdio.h>
#include <sys/resource.h>

#include "evplmem.h"

static _Thread_local char last_error[256];

void error_set(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(last_error, sizeof(last_error), format, args);
	va_end(args);
}

/* Sets the message for a mapping that was refused with EAGAIN. */
void error_explain_mlockall(const char *doing)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_MEMLOCK, &limit))
		limit.rlim_cur = 0;
	error_set("%s: after mlockall(2) with MCL_FUTURE the whole length of each mapping "
		  "counts against RLIMIT_MEMLOCK, which is %llu KiB: make it unlimited, or give "
		  "CAP_IPC_LOCK, or do this before", doing,
		  (unsigned long long)limit.rlim_cur / 1024);
}

const char *evplmem_last_error(void)
{
	return last_error;
}
