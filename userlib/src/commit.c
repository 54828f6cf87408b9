// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * What was reserved and isn't used goes back to where it was cut off, if it is the
 * last that was cut off there.
 */
#include <errno.h>

#include "alloc.h"
#include "bias.h"
#include "poison.h"
#include "recycle.h"
#include "slab.h"

static uint32_t iovec_offset(const struct evpl_iovec *iovec)
{
	return (uint32_t)((char *)iovec->data - (char *)iovec_entry(iovec)->base);
}

/*
 * Leaves @length bytes of @iovec, and has the context go on after them where it can.
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
			bias_recharge(evpl, buffer);
		return false;
	}

	/*
	 * Its buffer isn't current, and nothing can be after it: the rest is as good as
	 * any, if it is more than what the context has.
	 */
	if (!length || !(flags & IOVEC_LAST) || end == evpl->pool->buffer_size ||
	    (old && end >= cursor->offset) || buffer->home != evpl ||
	    atomic_load(&buffer->retired))
		return false;
	if (old)
		context_drop(evpl, old);
	entry_get(buffer, CALLER());
	context_hold(evpl, buffer);
	*cursor = (struct cursor){ .buffer = buffer, .offset = end };
	return true;
}

/*
 * The same of one iovec, without a claim: of the current buffer of the thread that the
 * context is bound to. If nothing is left, its reference is in the context's charge again.
 * Returns false if it isn't so.
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
				evpl->hot.place += EVPLMEM_CHARGE;
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

	/* From the end, so that what is given back joins. */
	cursor = context_claim(evpl);
	for (i = niov - 1; i >= keep; i--) {
		cut_back(evpl, &cursor, &iovecs[i], 0);
		evplmem_iovec_release(&iovecs[i]);
	}
	for (i = 0; i < keep; i++) {
		if (i == keep - 1)
			fresh = cut_back(evpl, &cursor, &iovecs[i], used);
		used -= iovecs[i].length;
		iovecs[i].__private1 = fork_generation;
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
