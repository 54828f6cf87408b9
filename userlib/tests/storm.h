/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_TESTS_STORM_H
#define EVPLMEM_TESTS_STORM_H

/*
 * Threads allocate slices at random, write a stamp into each, pass the slices to each other and
 * release them. If a slice overlaps another one, or is recycled too early, its stamp is
 * overwritten, and the thread that releases the slice notices.
 *
 * storm_run() itself makes no system call, takes no lock and doesn't wait. So a system call in it
 * is one of the library's: test_seccomp.c has the kernel forbid them.
 */

#include "common.h"

#define STORM_THREADS	4
#define STORM_BOX	4	/* boxes of each thread */
#define STORM_IOVECS	3

struct storm;

struct storm_thread {
	struct storm *storm;
	struct evpl *evpl;
	uint32_t random;
	uint64_t done;		/* operations */
	uint64_t refused;	/* requests that failed with -ENOMEM */
	const char *error;	/* "" if there was none */
};

/*
 * A box has room for one iovec. A thread locks a box by exchanging its state for BOX_LOCKED, and
 * gives up if another thread has locked it already.
 */
enum { BOX_EMPTY, BOX_LOCKED, BOX_FULL };

struct storm_box {
	atomic_int state;
	struct evpl_iovec iovec;
	uint32_t stamp;
};

struct storm {
	struct evpl_pool *pool;
	struct storm_thread thread[STORM_THREADS];
	struct storm_box box[STORM_THREADS][STORM_BOX];
	unsigned int live;	/* iovecs that each thread keeps for a while */
	uint64_t operations;	/* of each thread */
	unsigned int largest;	/* bytes of a request */
	unsigned int alignments; /* log2 of the buffer size, + 1 */
	bool may_fail;		/* -ENOMEM isn't an error */
};

static inline uint32_t storm_random(struct storm_thread *thread)
{
	/* xorshift is good enough, and faster than rand_r(). */
	thread->random ^= thread->random << 13;
	thread->random ^= thread->random >> 17;
	thread->random ^= thread->random << 5;
	return thread->random;
}

/* Writes the stamp to the first byte, to the last byte, and to every 509th byte between. */
static inline void storm_stamp(struct evpl_iovec *iovec, uint32_t stamp)
{
	unsigned char *data = iovec->data;
	unsigned int i;

	for (i = 0; i < iovec->length; i += 509)
		data[i] = (unsigned char)(stamp + i);
	data[iovec->length - 1] = (unsigned char)stamp;
	data[0] = (unsigned char)stamp;
}

static inline bool storm_check(const struct evpl_iovec *iovec, uint32_t stamp)
{
	const unsigned char *data = iovec->data;
	unsigned int i;

	if (data[0] != (unsigned char)stamp)
		return false;
	for (i = 509; i < iovec->length - 1; i += 509)
		if (data[i] != (unsigned char)(stamp + i))
			return false;
	return iovec->length == 1 || data[iovec->length - 1] == (unsigned char)stamp;
}

static inline void storm_release(struct storm_thread *thread, struct evpl_iovec *iovec,
				 uint32_t stamp)
{
	if (!storm_check(iovec, stamp))
		thread->error = "a slice has lost its stamp";
	evpl_iovec_release(iovec);
	thread->done++;
}

/* Puts an iovec into a box of some thread, and releases the iovec that was in the box. */
static inline bool storm_send(struct storm_thread *thread, struct evpl_iovec *iovec,
			      uint32_t stamp)
{
	struct storm *storm = thread->storm;
	uint32_t random = storm_random(thread);
	struct storm_box *box = &storm->box[random % STORM_THREADS][random / 64 % STORM_BOX];
	struct evpl_iovec old_iovec;
	uint32_t old_stamp;
	int old = atomic_exchange(&box->state, BOX_LOCKED);

	if (old == BOX_LOCKED)
		return false;
	old_iovec = box->iovec;
	old_stamp = box->stamp;
	box->iovec = *iovec;
	box->stamp = stamp;
	atomic_store(&box->state, BOX_FULL);
	if (old == BOX_FULL)
		storm_release(thread, &old_iovec, old_stamp);
	return true;
}

/* Makes one request of a random size, alignment and kind. */
static inline int storm_alloc(struct storm_thread *thread, struct evpl_iovec *iovecs)
{
	uint32_t random = storm_random(thread);
	unsigned int align = 1U << (storm_random(thread) % thread->storm->alignments);
	unsigned int length;
	int niov;

	/* Small requests are more frequent. */
	length = 1 + storm_random(thread) % (random % 8 ? thread->storm->largest / 16 :
							    thread->storm->largest);
	switch (random / 8 % 8) {
	case 0:
		return evpl_iovec_alloc_flags(thread->evpl, length, align, STORM_IOVECS,
					      EVPL_IOVEC_PRIVATE, iovecs);
	case 1:
		niov = evpl_iovec_reserve(thread->evpl, length, align, STORM_IOVECS, iovecs);
		if (niov <= 0)
			return niov;
		return evpl_iovec_commit(thread->evpl, iovecs, niov, 1 + (length - 1) / 2);
	default:
		return evpl_iovec_alloc(thread->evpl, length, align, STORM_IOVECS, iovecs);
	}
}

/* The main loop of a thread. The caller makes the context before, and destroys it afterwards. */
static inline void storm_run(struct storm_thread *thread)
{
	struct storm *storm = thread->storm;
	struct evpl_iovec kept[64], iovecs[STORM_IOVECS];
	uint32_t stamps[64], stamp;
	unsigned int slot;
	int i, niov;

	memset(kept, 0, sizeof(kept));
	while (thread->done < storm->operations && !*thread->error) {
		niov = storm_alloc(thread, iovecs);
		thread->done++;
		if (niov == -ENOMEM && storm->may_fail) {
			thread->refused++;
			/* Release a slice, so that a later request can succeed. */
			slot = storm_random(thread) % storm->live;
			if (kept[slot].data)
				storm_release(thread, &kept[slot], stamps[slot]);
			memset(&kept[slot], 0, sizeof(kept[slot]));
			continue;
		}
		if (niov <= 0 || niov > STORM_IOVECS) {
			thread->error = niov == -ENOMEM ? "no memory" : "a wrong number of iovecs";
			break;
		}
		for (i = 0; i < niov; i++) {
			stamp = storm_random(thread);
			storm_stamp(&iovecs[i], stamp);
			if (storm_random(thread) % 8 == 0) {
				evpl_iovec_addref(&iovecs[i]);
				evpl_iovec_release(&iovecs[i]);
				thread->done += 2;
			}
			slot = storm_random(thread) % storm->live;
			if (kept[slot].data && !storm_send(thread, &kept[slot], stamps[slot]))
				storm_release(thread, &kept[slot], stamps[slot]);
			kept[slot] = iovecs[i];
			stamps[slot] = stamp;
		}
	}
	for (slot = 0; slot < storm->live; slot++)
		if (kept[slot].data)
			storm_release(thread, &kept[slot], stamps[slot]);
}

static inline void storm_init(struct storm *storm, struct evpl_pool *pool)
{
	unsigned int i;

	memset(storm, 0, sizeof(*storm));
	storm->pool = pool;
	storm->live = 8;
	storm->largest = 2 * (unsigned int)pool->buffer_size + (unsigned int)pool->buffer_size / 2;
	storm->alignments = (unsigned int)__builtin_ctzl(pool->buffer_size) + 1;
	for (i = 0; i < STORM_THREADS; i++) {
		storm->thread[i].storm = storm;
		storm->thread[i].error = "";
		storm->thread[i].random = 2463534242U + i * 40503U;
	}
}

/* Releases the iovecs that are left in boxes when all threads have ended. */
static inline void storm_empty_boxes(struct storm *storm)
{
	struct storm_box *box;
	int i;

	for (i = 0; i < STORM_THREADS * STORM_BOX; i++) {
		box = &storm->box[i / STORM_BOX][i % STORM_BOX];
		if (atomic_load(&box->state) == BOX_FULL)
			storm_release(&storm->thread[0], &box->iovec, box->stamp);
	}
}

#endif /* EVPLMEM_TESTS_STORM_H */
