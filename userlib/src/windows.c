// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Mapping the windows of a pool that exchanges buffers, and finding an address in a guest window:
 * see windows.h.
 */
#include "windows.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "error.h"

/* A window to map: where the address goes, its mmap offset, its length and protection. */
struct window {
	void **where;
	uint64_t offset;
	uint64_t size;
	int protection;
};

#define NR_WINDOWS	(NR_GUESTS + 2)

/* The mmap offset of a guest window, by its index in sharing->guest. */
static uint64_t guest_start(const struct evpl_setup *setup, int guest)
{
	const uint64_t starts[NR_GUESTS] = {
		setup->out_guest_offset, setup->out_guest_ro_offset,
		setup->out_guest_io_offset, setup->out_guest_io_ro_offset,
	};

	return starts[guest];
}

static void list_windows(struct sharing *sharing, const struct evpl_setup *setup,
			 struct window windows[NR_WINDOWS])
{
	const int rw = PROT_READ | PROT_WRITE;
	int i;

	for (i = 0; i < NR_GUESTS; i++)
		windows[i] = (struct window){ (void **)&sharing->guest[i],
					      guest_start(setup, i), setup->out_guest_size,
					      i % 2 ? PROT_READ : rw };
	windows[i++] = (struct window){ (void **)&sharing->leases, setup->out_leases_offset,
					setup->out_leases_size, rw };
	windows[i++] = (struct window){ (void **)&sharing->returned, setup->out_returned_offset,
					setup->out_returned_size, rw };
}

/* The address of an mmap offset in a guest window, or NULL if the offset is in none. */
void *windows_address(struct evpl_pool *pool, uint64_t offset)
{
	const struct evpl_setup *setup = &pool->backing.setup;
	uint64_t in_window;
	int i;

	for (i = 0; i < NR_GUESTS; i++) {
		in_window = offset - guest_start(setup, i);
		if (in_window < setup->out_guest_size)
			return pool_sharing(pool)->guest[i] + in_window;
	}
	return NULL;
}

/* The mmap offset of an address in a guest window, or UINT64_MAX if the address is in none. */
uint64_t windows_offset(struct evpl_pool *pool, const void *data)
{
	const struct evpl_setup *setup = &pool->backing.setup;
	uint64_t in_window;
	int i;

	for (i = 0; i < NR_GUESTS; i++) {
		in_window = (uintptr_t)data - (uintptr_t)pool_sharing(pool)->guest[i];
		if (in_window < setup->out_guest_size)
			return guest_start(setup, i) + in_window;
	}
	return UINT64_MAX;
}

/* Whether an mmap offset is in a window of device leases: guest-io or guest-io-ro. */
bool windows_is_io(struct evpl_pool *pool, uint64_t offset)
{
	const struct evpl_setup *setup = &pool->backing.setup;

	return offset - setup->out_guest_io_offset < setup->out_guest_size ||
	       offset - setup->out_guest_io_ro_offset < setup->out_guest_size;
}

static void unmap(struct window *windows, int nr)
{
	while (nr--)
		munmap(*windows[nr].where, windows[nr].size);
}

/* Maps the pool's windows, if they aren't mapped yet. The caller holds no lock. */
int windows_map(struct evpl_pool *pool)
{
	struct window windows[NR_WINDOWS];
	struct sharing *sharing;
	int err = 0, i;

	if (pool->backing.ops->id != EVPL_BACKEND_MODULE)
		return -EOPNOTSUPP;

	pool_lock(pool);
	if (pool_sharing(pool))
		goto unlock;
	err = -ENOMEM;
	sharing = calloc(1, sizeof(*sharing));
	if (!sharing)
		goto unlock;
	sharing->header = pool->backing.header;
	list_windows(sharing, &pool->backing.setup, windows);
	for (i = 0; i < NR_WINDOWS; i++) {
		void *p = mmap(NULL, windows[i].size, windows[i].protection,
			       MAP_SHARED | MAP_NORESERVE, pool->backing.fd,
			       (off_t)windows[i].offset);

		if (p == MAP_FAILED) {
			err = -errno;
			/* Callers return this, and their EAGAIN is about a channel's records. */
			if (err == -EAGAIN) {
				error_explain_mlockall("mapping what others send");
				err = -ENOMEM;
			}
			unmap(windows, i);
			free(sharing);
			goto unlock;
		}
		*windows[i].where = p;
	}
	atomic_store_explicit(&pool->sharing, sharing, memory_order_release);
	err = 0;
unlock:
	pool_unlock(pool);
	return err;
}

/* Unmaps the windows of a pool that is being closed. No thread is in lease_put() any more. */
void windows_unmap(struct evpl_pool *pool)
{
	struct window windows[NR_WINDOWS];
	struct sharing *sharing = pool_sharing(pool);

	if (!sharing)
		return;
	list_windows(sharing, &pool->backing.setup, windows);
	unmap(windows, NR_WINDOWS);
	free(sharing);
	atomic_store(&pool->sharing, NULL);
}
