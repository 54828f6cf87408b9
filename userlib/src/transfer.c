// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Giving the references of iovecs up to the kernel: see transfer.h.
 */
#include "transfer.h"

#include <errno.h>

#include "context.h"
#include "device.h"
#include "lane.h"
#include "slab.h"
#include "windows.h"

/* The mmap offset of an iovec's first byte, in the pool's own window or in a guest window. */
int transfer_offset(struct evpl_pool *pool, const struct evpl_iovec *iovec, uint64_t *offset)
{
	struct entry *entry = iovec_entry(iovec);
	struct slab *slab;

	if (!entry)
		return -EINVAL;
	if (iovec_is_inherited(iovec))
		return -EPERM;
	slab = entry->slab;
	if (slab) {
		if (slab->pool != pool)
			return -EINVAL;
		*offset = slab->extent.offset +
			  (uint64_t)((char *)iovec->data - (char *)slab->extent.base);
		return 0;
	}
	if (entry_lease(entry)->pool != pool)
		return -EINVAL;
	*offset = windows_offset(pool, iovec->data);
	return 0;
}

/*
 * Prepares an iovec whose reference the caller is about to give up to the kernel. No slice is
 * cut any more off a buffer of the pool, since others will see it. If something @may_hold the
 * buffer when the receiver's lease ends, devices_set_baseline() first has the kernel count the
 * references of this process's devices. A device lease gets one more reference until
 * transfer_finish(). So the last reference of the lease isn't dropped by the kernel, but by
 * lease_put(), which ends the registrations too. If the reference is by a grant of a lane, the
 * kernel gets one on the grant's lease instead.
 */
void transfer_prepare(struct evpl_pool *pool, const struct evpl_iovec *iovec, uint64_t offset,
		      bool may_hold)
{
	struct slab *slab = iovec_slab(iovec);

	if (slab) {
		context_seal(iovec_entry(iovec));
		if (may_hold)
			devices_set_baseline(slab);
	} else if (entry_is_grant(iovec_entry(iovec)) || windows_is_io(pool, offset)) {
		entry_get(lease_entry(entry_any_lease(iovec_entry(iovec))), CALLER());
	}
}

/*
 * Undoes transfer_prepare() afterwards, whether or not the reference was given up. @offset is in a
 * guest window: the entry of an own buffer that was given up may be another buffer's by now.
 */
void transfer_finish(struct evpl_pool *pool, const struct evpl_iovec *iovec, uint64_t offset,
		     bool sent)
{
	struct entry *entry = iovec_entry(iovec);

	if (entry_is_grant(entry) && sent)
		grant_put(entry_grant(entry), CALLER());
	else if (entry_is_grant(entry) || windows_is_io(pool, offset))
		lease_put(entry_any_lease(entry), CALLER());
}
