// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/* Setting an interface's result. A later result replaces an earlier one. */
#include <stdarg.h>
#include <stdio.h>

#include "probe.h"

#define ROW_SET(row, is, err, format)						\
	do {									\
		va_list args;							\
										\
		(row)->works = (is);						\
		(row)->error = (err);						\
		va_start(args, format);						\
		vsnprintf((row)->reason, sizeof((row)->reason), format, args);	\
		va_end(args);							\
	} while (0)

void row_yes(struct row *row, const char *format, ...)
{
	ROW_SET(row, YES, 0, format);
}

void row_no(struct row *row, int error, const char *format, ...)
{
	ROW_SET(row, NO, error, format);
}

void row_refused(struct row *row, int error, const char *format, ...)
{
	ROW_SET(row, REFUSED, error, format);
}

void row_not_tried(struct row *row, int error, const char *format, ...)
{
	ROW_SET(row, NOT_TRIED, error, format);
}

void row_remedy(struct row *row, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(row->remedy, sizeof(row->remedy), format, args);
	va_end(args);
}

/* Formats a size in the largest unit in which it is a whole number. */
const char *size_text(char text[32], uint64_t bytes)
{
	static const char *const units[] = { "bytes", "KiB", "MiB", "GiB" };
	unsigned int unit = 0;

	while (unit < 3 && bytes && !(bytes % 1024)) {
		bytes /= 1024;
		unit++;
	}
	snprintf(text, 32, "%llu %s", (unsigned long long)bytes, units[unit]);
	return text;
}
