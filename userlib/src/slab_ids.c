// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Slab IDs: see slab_ids.h. All functions are called under the pool's lock.
 */
#include "slab_ids.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Has the next search start at @id, or before it, as @id may be free now. */
static void search_from(struct slab_ids *ids, unsigned int id)
{
	if (id < ids->low)
		ids->low = id;
}

int slab_ids_alloc(struct slab_ids *ids, unsigned int *r_id)
{
	struct slab_id *table = ids->table;
	unsigned int i, size = ids->size;

	for (i = ids->low; i < size; i++)
		if (!table[i].used && !table[i].awaited)
			break;
	if (i == size) {
		size = size ? 2 * size : 16;
		table = realloc(table, size * sizeof(*table));
		if (!table)
			return -ENOMEM;
		memset(table + i, 0, (size - i) * sizeof(*table));
		ids->table = table;
		ids->size = size;
	}
	table[i].used = true;
	ids->low = i + 1;
	*r_id = i;
	return 0;
}

void slab_ids_free(struct slab_ids *ids, unsigned int id)
{
	ids->table[id].used = false;
	search_from(ids, id);
}

void slab_ids_await(struct slab_ids *ids, unsigned int id, unsigned int slot)
{
	ids->table[id].awaited |= 1U << slot;
}

/* Whether a device still has to let go of an ID. */
bool slab_ids_is_awaited(const struct slab_ids *ids, unsigned int id)
{
	return ids->table[id].awaited;
}

/* The device of @slot lets go of an ID. Returns false if it didn't have to. */
bool slab_ids_let_go(struct slab_ids *ids, unsigned int id, unsigned int slot)
{
	if (id >= ids->size || !(ids->table[id].awaited & 1U << slot))
		return false;
	ids->table[id].awaited &= ~(1U << slot);
	search_from(ids, id);
	return true;
}

/* The device of @slot is detached: it needn't let go of any ID any more. */
void slab_ids_forget(struct slab_ids *ids, unsigned int slot)
{
	unsigned int i;

	for (i = 0; i < ids->size; i++)
		ids->table[i].awaited &= ~(1U << slot);
	search_from(ids, 0);
}

void slab_ids_destroy(struct slab_ids *ids)
{
	free(ids->table);
	ids->table = NULL;
	ids->size = 0;
	ids->low = 0;
}
