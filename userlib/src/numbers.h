/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_NUMBERS_H
#define EVPLMEM_NUMBERS_H

/*
 * The numbers of a pool's slabs.
 *
 * A device may have a table that is indexed by number, and may take long to clear an
 * entry of it. So a number is free only if no slab has it, and no device still has to
 * let go of it. The lowest free number is given out, since such tables are short.
 */

#include <stdbool.h>
#include <stdint.h>

struct number {
	bool used;
	uint32_t awaited;	/* a bit for the slot of each device that must still let go of it */
};

struct numbers {
	struct number *table;
	unsigned int size;
	unsigned int low;	/* no number below this is free */
};

int numbers_take(struct numbers *numbers, unsigned int *r_number);
void numbers_put(struct numbers *numbers, unsigned int number);
void numbers_await(struct numbers *numbers, unsigned int number, unsigned int slot);
bool numbers_let_go(struct numbers *numbers, unsigned int number, unsigned int slot);
void numbers_forget(struct numbers *numbers, unsigned int slot);
void numbers_free(struct numbers *numbers);

#endif /* EVPLMEM_NUMBERS_H */
