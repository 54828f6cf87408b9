/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_JSON_H
#define EVPLMEM_JSON_H

/* The strings of JSON, for the tools that print it. */

#include <stdio.h>
#include <string.h>
#include <wchar.h>

/*
 * Prints a JSON string. A byte that isn't UTF-8, as in the name of a process or a directory, becomes
 * U+FFFD.
 */
static inline void json_print_string(const char *text)
{
	mbstate_t state = { 0 };
	size_t left = strlen(text), n;

	putchar('"');
	for (; left; text += n, left -= n) {
		n = mbrtowc(NULL, text, left, &state);
		if (n > left) {
			printf("\\ufffd");
			memset(&state, 0, sizeof(state));
			n = 1;
		} else if (*text == '"' || *text == '\\') {
			printf("\\%c", *text);
		} else if ((unsigned char)*text < ' ') {
			printf("\\u%04x", *text);
		} else {
			printf("%.*s", (int)n, text);
		}
	}
	putchar('"');
}

#endif /* EVPLMEM_JSON_H */
