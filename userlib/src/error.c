// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * What went wrong, in words: kept for the caller to print, as a library doesn't.
 */
#include "error.h"

#include <stdarg.h>
#include <stdio.h>

#include "evplmem.h"

static _Thread_local char last_error[256];

void error_set(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(last_error, sizeof(last_error), format, args);
	va_end(args);
}

const char *evplmem_last_error(void)
{
	return last_error;
}
