// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * The buffers of a pool that come back from other processes: see returned.h.
 */
#include "returned.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "lane.h"
#include "mapping.h"
#include "recycle.h"
#include "slab.h"

static uint32_t bits_per_page(void)
{
	return 8 * (uint32_t)page_size();
}

static _Atomic uint64_t *summary_of(struct sharing *sharing)
{
	return (_Atomic uint64_t *)&sharing->header->returned;
}

/*
 * Notes that the buffer at this offset of the own window was sent, so its page of the returned
 * bitmap exists. A thread in returned_collect() may have taken the summary bit before, and have
 * passed the page by because it wasn't in @sent. So the summary bit is set once more.
 */
void returned_note_sent(struct evpl_pool *pool, uint64_t offset)
{
	struct sharing *sharing = pool_sharing(pool);
	uint32_t page = (uint32_t)(offset / pool->buffer_size) / bits_per_page();
	uint64_t bit = 1ULL << page % 64;

	if (atomic_load_explicit(&sharing->sent[page / 64], memory_order_relaxed) & bit)
		return;
	atomic_fetch_or(&sharing->sent[page / 64], bit);
	atomic_fetch_or(summary_of(sharing), bit);
}

/*
 * Clears all bits. None of them counts, and none comes meanwhile. A summary bit stands for several
 * pages, some of which may not exist. A store to one of these would raise SIGBUS, but read(2) just
 * gives EFAULT.
 */
int returned_clear(struct evpl_pool *pool)
{
	struct sharing *sharing = pool_sharing(pool);
	uint64_t bits = atomic_exchange(summary_of(sharing), 0), first, end;
	const size_t size = page_size();
	struct slab *slab;
	ssize_t cleared;
	int zeros;

	if (!bits)
		return 0;
	zeros = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	if (zeros < 0)
		return -errno;
	for (slab = pool->slabs; slab; slab = slab->next) {
		first = slab->first->index / bits_per_page();
		end = (slab->first->index + slab->count - 1) / bits_per_page() + 1;
		for (; first < end; first++) {
			if (!(bits >> first % 64 & 1))
				continue;
			cleared = read(zeros, (char *)sharing->returned + first * size, size);
			(void)cleared;
		}
	}
	close(zeros);
	return 0;
}

/*
 * Takes the bits of a page of the returned bitmap, and recycles the buffers. A bit is a hint, so
 * the word is looked at, too. Returns whether there were any buffers.
 */
static bool collect_page(struct evpl_pool *pool, struct sharing *sharing, uint32_t page)
{
	const uint32_t nr_bits = bits_per_page();
	_Atomic uint64_t *words = sharing->returned + page * (nr_bits / 64);
	struct entry *entry;
	bool any = false;
	uint64_t bits;
	uint32_t i;

	for (i = 0; i < nr_bits / 64; i++) {
		if (!atomic_load_explicit(&words[i], memory_order_relaxed))
			continue;
		bits = atomic_exchange_explicit(&words[i], 0, memory_order_acquire);
		for (; bits; bits &= bits - 1) {
			entry = pool->backing.entries + page * nr_bits + i * 64 +
				(uint32_t)__builtin_ctzll(bits);
			if (!entry_idle(entry))
				continue;
			recycle(entry);
			any = true;
		}
	}
	return any;
}

/*
 * Recycles the buffers whose words the kernel took to zero. Returns whether there were any. The
 * kernel sets a bit in the bitmap, then the one in the summary. This takes the summary first: if
 * it misses a bit in the bitmap, the kernel sets the summary's bit afterwards.
 */
bool returned_collect(struct evpl_pool *pool)
{
	struct sharing *sharing = pool_sharing(pool);
	uint32_t page, residue;
	uint64_t bits = 0;
	bool any;

	if (!sharing || !atomic_load(&sharing->bound))
		return false;
	if (atomic_load_explicit(summary_of(sharing), memory_order_relaxed))
		bits = atomic_exchange(summary_of(sharing), 0);
	/* A peer's doorbell may have been in the summary, and another thread may wait for it. */
	any = lanes_collect(pool, bits && atomic_load(&pool->waiting) & WAITING);
	for (; bits; bits &= bits - 1) {
		residue = (uint32_t)__builtin_ctzll(bits);
		for (page = residue; page < RETURNED_PAGES; page += 64)
			if (atomic_load(&sharing->sent[page / 64]) >> residue & 1)
				any |= collect_page(pool, sharing, page);
	}
	return any;
}

/*
 * Has the kernel end the idle leases that others have on the pool's buffers and haven't released
 * yet, then recycles the buffers. If @want, the leases that aren't idle, and those that messages
 * on their way will become, are released as soon as they are idle (EVPL_PULL_WANT).
 */
bool returned_pull(struct evpl_pool *pool, bool want)
{
	struct evpl_lease_pull pull = {
		.size = sizeof(pull),
		.flags = want ? EVPL_PULL_WANT : 0,
	};

	if (!pool_sharing(pool))
		return false;
	if (want)
		lanes_collect(pool, true);
	lanes_take_back(pool, NULL);
	ioctl(pool->backing.fd, EVPL_LEASE_PULL, &pull);
	return returned_collect(pool);
}
