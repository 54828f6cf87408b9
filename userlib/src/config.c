// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Copying the caller's structs. They start with their size, and may be those of another
 * version of the library.
 */
#include "config.h"

#include <errno.h>
#include <string.h>

/**
 * config_copy() - copy a struct of the caller
 * @dst: the library's struct, which has the defaults
 * @size: the bytes of @dst; while there is one version, the caller's must be as long at least
 * @src: the caller's struct, or NULL for the defaults
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

/**
 * config_copy_out() - fill in a struct of the caller
 * @dst: the caller's struct, whose size the caller has set
 * @src: the library's struct, which has the same size in its first field
 * @size: the bytes of @src; fields of @dst behind them become zeros
 */
void config_copy_out(void *dst, const void *src, size_t size)
{
	size_t theirs;

	memcpy(&theirs, dst, sizeof(theirs));
	if (size > theirs)
		size = theirs;
	memcpy(dst, src, size);
	memset((char *)dst + size, 0, theirs - size);
}
