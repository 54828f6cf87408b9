// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Structs of the caller, that start with their size and may come from another
 * version.
 */
#include "config.h"

#include <errno.h>
#include <string.h>

/**
 * config_copy() - take a struct of the caller
 * @dst: the library's, all default
 * @size: its bytes; while there is one version, also the least that is taken
 * @src: the caller's, or NULL for the defaults
 *
 * Return: 0, -EINVAL or -E2BIG.
 */
int config_copy(void *dst, size_t size, const void *src)
{
	const unsigned char *bytes = src;
	size_t i, theirs;

	if (!src)
		return 0;
	memcpy(&theirs, src, sizeof(theirs));
	if (theirs < size)
		return -EINVAL;
	for (i = size; i < theirs; i++)
		if (bytes[i])
			return -E2BIG;
	memcpy(dst, src, size);
	return 0;
}
