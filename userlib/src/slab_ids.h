/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_SLAB_IDS_H
#define EVPLMEM_SLAB_IDS_H

/*
 * The IDs of a pool's slabs. An ID is the number of a slab in struct evpl_slab_info.
 *
 * A device may have a table that is indexed by ID, and may take long to clear an
 * entry of it. So an ID is free only if no slab has it, and no device still has to
 * let go of it. The lowest free ID is given out, since such tables are short.
 */

#include <stdbool.h>
#include <stdint.h>

struct slab_id {
	bool used;
	uint32_t awaited;	/* a bit for the slot of each device that must still let go of it */
};

struct slab_ids {
	struct slab_id *table;
	unsigned int size;
	unsigned int low;	/* no ID below this is free */
};

int slab_ids_alloc(struct slab_ids *ids, unsigned int *r_id);
void slab_ids_free(struct slab_ids *ids, unsigned int id);
void slab_ids_await(struct slab_ids *ids, unsigned int id, unsigned int slot);
bool slab_ids_is_awaited(const struct slab_ids *ids, unsigned int id);
bool slab_ids_let_go(struct slab_ids *ids, unsigned int id, unsigned int slot);
void slab_ids_forget(struct slab_ids *ids, unsigned int slot);
void slab_ids_destroy(struct slab_ids *ids);

#endif /* EVPLMEM_SLAB_IDS_H */
