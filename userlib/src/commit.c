// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Committing reservations: the unused bytes go back to the buffer that they were cut off, if
 * nothing was cut off after them.
 */
#include <errno.h>

#include "alloc.h"
#include "bias.h"
#include "poison.h"
#include "recycle.h"
#include "sites.h"
#include "slab.h"

static uint32_t iovec_offset(const struct evpl_iovec *iovec)
{
	return (uint32_t)((char *)iovec->data - (char *)iovec_entry(iovec)->base);
}

/*
 * Shortens @iovec to @length bytes, and has the context cut its next slice after them, if it can.
 * Returns true if @cursor is now at a buffer that wasn't current before.
 */
static bool cut_back(struct evpl *evpl, struct cursor *cursor, struct evpl_iovec *iovec,
		     unsigned int length)
{
	struct entry *buffer = iovec_entry(iovec);
	uint32_t start = iovec_offset(iovec);
	uint32_t old_end = (uint32_t)align_up((uint64_t)start + iovec->length, SLICE_ALIGN);
	uint32_t end = (uint32_t)align_up((uint64_t)start + length, SLICE_ALIGN);
	struct entry *old = cursor->buffer;
	unsigned int flags = iovec->__private1;

	poison((char *)iovec->data + length, iovec->length - length);
	iovec->length = length;
	if (old == buffer && cursor->offset == old_end) {
		cursor->offset = end;
		if (bias_is_bound(evpl))
			bias_refill_credit(evpl, buffer);
		return false;
	}

	/*
	 * The iovec's buffer isn't current, but no slice comes after the iovec. So the context can
	 * go on there. That is worth it if more is left than in the current buffer.
	 */
	if (!length || !(flags & IOVEC_LAST) || end == evpl->pool->buffer_size ||
	    (old && end >= cursor->offset) || buffer->home != evpl ||
	    atomic_load(&buffer->sealed))
		return false;
	if (old)
		context_drop(evpl, old);
	entry_get(buffer, CALLER());
	context_hold(evpl, buffer);
	*cursor = (struct cursor){ .buffer = buffer, .offset = end };
	return true;
}

/*
 * Commits one iovec without a claim, if the context is bound to the calling thread and the iovec
 * is the last slice that was cut off the current buffer. If no bytes are kept, the reference goes
 * back to the credit. Returns false if that isn't possible.
 */
static bool cut_back_here(struct evpl *evpl, struct evpl_iovec *iovec, unsigned int length)
{
	struct evplmem_thread *thread = evplmem_self();
	struct evplmem_count *buffer = (struct evplmem_count *)iovec_entry(iovec);
	uint32_t start, end, now, was = iovec->length;
	char *data = iovec->data;
	bool ok = false;

	if (thread->generation != evpl->hot.generation || !data || length > was ||
	    iovec->__private1 != (thread->generation | IOVEC_RESERVED))
		return false;
	evplmem_enter(thread);
	if (__atomic_load_n(&evpl->hot.thread, __ATOMIC_RELAXED) == thread &&
	    evpl->hot.buffer == buffer) {
		start = (uint32_t)(data - evpl->hot.base);
		end = (uint32_t)align_up((uint64_t)start + was, SLICE_ALIGN);
		now = (uint32_t)align_up((uint64_t)start + length, SLICE_ALIGN);
		if ((uint32_t)evpl->hot.place == end) {
			evpl->hot.place -= end - now;
			if (!length)
				evpl->hot.place += EVPLMEM_CREDIT;
			ok = true;
		}
	}
	evplmem_leave(thread);
	if (!ok)
		return false;
	iovec->length = length;
	iovec->__private1 = thread->generation;
	return true;
}

/* This is a function of its own, so that the fast path saves no registers for it. */
static __attribute__((noinline)) int commit(struct evpl *evpl, struct evpl_iovec *iovecs, int niov,
					    unsigned int used)
{
	unsigned int left = used;
	struct cursor cursor;
	bool fresh = false;
	int i, keep = 0;

	if (context_is_inherited(evpl))
		return -EPERM;
	if (niov < 0)
		return -EINVAL;
	for (i = 0; i < niov; i++) {
		if (iovec_is_inherited(&iovecs[i]))
			return -EPERM;
		if (!(iovecs[i].__private1 & IOVEC_RESERVED) ||
		    iovec_entry(&iovecs[i])->slab->pool != evpl->pool)
			return -EINVAL;
		if (left) {
			keep = i + 1;
			left -= left < iovecs[i].length ? left : iovecs[i].length;
		}
	}
	if (left)
		return -EINVAL;

	/* This starts from the end, so that adjacent slices all go back to the buffer. */
	cursor = context_claim(evpl);
	for (i = niov - 1; i >= keep; i--) {
		cut_back(evpl, &cursor, &iovecs[i], 0);
		evplmem_iovec_release(&iovecs[i]);
	}
	for (i = 0; i < keep; i++) {
		if (i == keep - 1)
			fresh = cut_back(evpl, &cursor, &iovecs[i], used);
		used -= iovecs[i].length;
		iovecs[i].__private1 &= -GENERATION_STEP;
		if (iovec_is_odd(&iovecs[i]))
			sites_shorten(&iovecs[i]);
	}
	if (fresh)
		context_park_fresh(evpl, cursor);
	else
		context_park(evpl, cursor);
	return keep;
}

int evplmem_iovec_commit(struct evpl *evpl, struct evpl_iovec *iovecs, int niov, unsigned int used)
{
	if (niov == 1 && cut_back_here(evpl, iovecs, used))
		return used > 0;
	return commit(evpl, iovecs, niov, used);
}
