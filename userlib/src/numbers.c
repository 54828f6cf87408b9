// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Slab numbers: see numbers.h. All functions are called under the pool's lock.
 */
#include "numbers.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Has the next search start at @number, or before it, as @number may be free now. */
static void look_from(struct numbers *numbers, unsigned int number)
{
	if (number < numbers->low)
		numbers->low = number;
}

int numbers_take(struct numbers *numbers, unsigned int *r_number)
{
	struct number *table = numbers->table;
	unsigned int i, size = numbers->size;

	for (i = numbers->low; i < size; i++)
		if (!table[i].used && !table[i].awaited)
			break;
	if (i == size) {
		size = size ? 2 * size : 16;
		table = realloc(table, size * sizeof(*table));
		if (!table)
			return -ENOMEM;
		memset(table + i, 0, (size - i) * sizeof(*table));
		numbers->table = table;
		numbers->size = size;
	}
	table[i].used = true;
	numbers->low = i + 1;
	*r_number = i;
	return 0;
}

void numbers_put(struct numbers *numbers, unsigned int number)
{
	numbers->table[number].used = false;
	look_from(numbers, number);
}

void numbers_await(struct numbers *numbers, unsigned int number, unsigned int slot)
{
	numbers->table[number].awaited |= 1U << slot;
}

/* The device of @slot lets go of a number. Returns false if it didn't have to. */
bool numbers_let_go(struct numbers *numbers, unsigned int number, unsigned int slot)
{
	if (number >= numbers->size || !(numbers->table[number].awaited & 1U << slot))
		return false;
	numbers->table[number].awaited &= ~(1U << slot);
	look_from(numbers, number);
	return true;
}

/* The device of @slot is detached: it needn't let go of any number any more. */
void numbers_forget(struct numbers *numbers, unsigned int slot)
{
	unsigned int i;

	for (i = 0; i < numbers->size; i++)
		numbers->table[i].awaited &= ~(1U << slot);
	look_from(numbers, 0);
}

void numbers_free(struct numbers *numbers)
{
	free(numbers->table);
	numbers->table = NULL;
	numbers->size = 0;
	numbers->low = 0;
}
