// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Memory that is no pool's: see foreign.h.
 */
#include "foreign.h"

#include <errno.h>
#include <stdlib.h>

#include "cancel.h"
#include "sites.h"

/**
 * struct foreign - the object that an iovec of such memory points to
 * @entry: the entry, which counts the references
 * @done: called when the last reference is gone, or NULL
 * @arg: the argument of @done
 */
struct foreign {
	struct entry entry;
	void (*done)(void *arg);
	void *arg;
};

int evplmem_iovec_wrap(struct evpl_iovec *r_iovec, void *data, unsigned int length,
		       void (*done)(void *arg), void *arg)
{
	struct foreign *foreign = aligned_alloc(alignof(struct foreign), sizeof(*foreign));

	if (!foreign)
		return -ENOMEM;
	*foreign = (struct foreign){ .entry.base = data, .done = done, .arg = arg };
	entry_init(&foreign->entry);
	*r_iovec = (struct evpl_iovec){
		.data = data,
		.length = length,
		.__private1 = fork_generation,
		.__private2 = (unsigned long)&foreign->entry,
	};
	if (sites_are_traced())
		sites_add(r_iovec, 1, PLACE());
	return 0;
}

/* Drops a reference. The last one frees the entry, and @done tells the owner of the memory. */
void foreign_put(struct entry *entry, void *site)
{
	struct foreign *foreign = (struct foreign *)entry;
	void (*done)(void *arg) = foreign->done;
	void *arg = foreign->arg;
	NO_CANCELLATION;

	if (!entry_put(entry, site))
		return;
	free(foreign);
	if (done)
		done(arg);
}
