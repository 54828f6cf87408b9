// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * A ring of provided buffers that a context feeds.
 *
 * The kernel and this file share a ring of entries. An entry names a buffer by its ID, which
 * is an index of evpl_uring_buf_ring.buffers. This file adds buffers at the tail. The kernel
 * takes them from the head, in order, and a completion names the first one that it filled.
 * Completions of different requests may be read in another order, and then an entry may have
 * been overwritten by the time its buffer is taken. So the order of the buffers is kept apart
 * from the entries, for completions that fill several buffers. A completion doesn't say where in
 * a buffer its bytes are. So those that share a buffer must be read in their order.
 *
 * A buffer is out, which means that an entry or a completion names it, or it is missing.
 * A buffer that is out has a slice of the context's; a missing one waits for a slice.
 */
#include "evplmem-uring.h"

#include <liburing.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common.h"

#define ENTRIES_MAX	32768U
#define NO_BUFFER	UINT32_MAX

/**
 * struct buffer - a buffer that the kernel may fill
 * @slice: the part that isn't filled yet; empty if the buffer is missing
 * @next: the buffer that was added after this one; or of a missing one, the next that is
 *	missing, or NO_BUFFER
 */
struct buffer {
	struct evpl_iovec slice;
	uint32_t next;
};

/**
 * struct evpl_uring_buf_ring - buffers that a ring receives into
 * @evpl: the context that the slices are of
 * @ring: the ring
 * @entries: the entries, which the kernel reads
 * @count: entries, and buffers; a power of two
 * @length: bytes of a slice
 * @id: the buffer group that requests name
 * @last: the buffer that was added last, if it is out; or NO_BUFFER
 * @missing: the first missing buffer, or NO_BUFFER
 * @nr_missing: how many are missing
 * @buffers: the buffers, by their IDs
 */
struct evpl_uring_buf_ring {
	struct evpl *evpl;
	struct io_uring *ring;
	struct io_uring_buf_ring *entries;
	unsigned int count;
	unsigned int length;
	uint16_t id;
	uint32_t last;
	uint32_t missing;
	unsigned int nr_missing;
	struct buffer buffers[];
};

/* Whether the context is the parent's of this process, which fork(2) has made. */
static bool context_is_inherited(struct evpl *evpl)
{
	struct evpl_iovec none;

	return evpl_iovec_alloc(evpl, 0, 0, 0, &none) == -EPERM;
}

static size_t entries_bytes(unsigned int count)
{
	return count * sizeof(struct io_uring_buf);
}

static void set_missing(struct evpl_uring_buf_ring *buf_ring, uint32_t id)
{
	/* The next buffer that is added follows none that is out. */
	if (buf_ring->last == id)
		buf_ring->last = NO_BUFFER;
	buf_ring->buffers[id].next = buf_ring->missing;
	buf_ring->missing = id;
	buf_ring->nr_missing++;
}

/* Adds a buffer that has a slice at the tail, which the kernel doesn't see yet. */
static void add(struct evpl_uring_buf_ring *buf_ring, uint32_t id, int offset)
{
	struct evpl_iovec *slice = &buf_ring->buffers[id].slice;

	io_uring_buf_ring_add(buf_ring->entries, slice->data, slice->length, (unsigned short)id,
			      io_uring_buf_ring_mask(buf_ring->count), offset);
	if (buf_ring->last != NO_BUFFER)
		buf_ring->buffers[buf_ring->last].next = id;
	buf_ring->last = id;
}

/* Gives missing buffers slices, and the kernel these buffers. Returns 0 or an error. */
static int refill(struct evpl_uring_buf_ring *buf_ring)
{
	struct buffer *buffer;
	int added = 0, ret = 0;
	uint32_t id;

	while (buf_ring->nr_missing) {
		id = buf_ring->missing;
		buffer = &buf_ring->buffers[id];
		ret = evpl_iovec_alloc(buf_ring->evpl, buf_ring->length, 0, 1, &buffer->slice);
		if (ret < 0)
			break;
		buf_ring->missing = buffer->next;
		buf_ring->nr_missing--;
		add(buf_ring, id, added++);
	}
	if (added)
		io_uring_buf_ring_advance(buf_ring->entries, added);
	return ret < 0 ? ret : 0;
}

static void release_all(struct evpl_uring_buf_ring *buf_ring)
{
	unsigned int i;

	for (i = 0; i < buf_ring->count; i++)
		evpl_iovec_release(&buf_ring->buffers[i].slice);
}

/* Registers the entries. liburing has the flags from 2.6 on, and passes them from 2.8 on. */
static int register_entries(struct evpl_uring_buf_ring *buf_ring, bool incremental)
{
	const uint16_t pbuf_ring_inc = 2;
	struct {
		uint64_t address;
		uint32_t entries;
		uint16_t id;
		uint16_t flags;
		uint64_t zero[3];
	} arg = {
		.address = (uintptr_t)buf_ring->entries,
		.entries = buf_ring->count,
		.id = buf_ring->id,
		.flags = incremental ? pbuf_ring_inc : 0,
	};

	_Static_assert(sizeof(arg) == sizeof(struct io_uring_buf_reg), "the kernel's layout");
	if (!syscall(__NR_io_uring_register, buf_ring->ring->ring_fd, IORING_REGISTER_PBUF_RING,
		     &arg, 1))
		return 0;
	/* The arguments are right, so this kernel knows no such rings, or not the flag. */
	return errno == EINVAL ? -EOPNOTSUPP : -errno;
}

int evplmem_uring_buf_ring_create(struct evpl_uring_buf_ring **r_buf_ring, struct evpl *evpl,
				  struct io_uring *ring, unsigned int id, unsigned int entries,
				  unsigned int length, unsigned int flags)
{
	struct evpl_uring_buf_ring *buf_ring;
	int err = -ENOMEM;
	uint32_t i;

	if (!length || id > UINT16_MAX || !entries || entries > ENTRIES_MAX ||
	    entries & (entries - 1))
		return -EINVAL;
	if (flags & ~EVPL_BUF_RING_INCREMENTAL)
		return -EOPNOTSUPP;
	if (context_is_inherited(evpl))
		return -EPERM;

	buf_ring = calloc(1, sizeof(*buf_ring) + entries * sizeof(buf_ring->buffers[0]));
	if (!buf_ring)
		return -ENOMEM;
	buf_ring->evpl = evpl;
	buf_ring->ring = ring;
	buf_ring->count = entries;
	buf_ring->length = length;
	buf_ring->id = (uint16_t)id;
	buf_ring->last = NO_BUFFER;
	buf_ring->missing = NO_BUFFER;
	for (i = entries; i--; )
		set_missing(buf_ring, i);

	buf_ring->entries = mmap(NULL, entries_bytes(entries), PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (buf_ring->entries == MAP_FAILED)
		goto free_buf_ring;
	err = refill(buf_ring);
	if (!err)
		err = register_entries(buf_ring, flags & EVPL_BUF_RING_INCREMENTAL);
	if (err)
		goto release;
	*r_buf_ring = buf_ring;
	return 0;

release:
	release_all(buf_ring);
	munmap(buf_ring->entries, entries_bytes(entries));
free_buf_ring:
	free(buf_ring);
	return err;
}

/* How many buffers hold the @bytes from this one on; -EINVAL if one of them isn't out. */
static int count_filled(struct evpl_uring_buf_ring *buf_ring, uint32_t id, uint64_t bytes)
{
	unsigned int n = 0;
	uint32_t length;

	do {
		if (id >= buf_ring->count || n == buf_ring->count)
			return -EINVAL;
		length = buf_ring->buffers[id].slice.length;
		if (!length)
			return -EINVAL;
		bytes = bytes > length ? bytes - length : 0;
		id = buf_ring->buffers[id].next;
		n++;
	} while (bytes);
	return (int)n;
}

int evplmem_uring_buf_ring_take(struct evpl_uring_buf_ring *buf_ring,
				const struct io_uring_cqe *cqe, unsigned int max_iovecs,
				struct evpl_iovec *r_iovec)
{
	/* liburing has this from 2.8 on. */
	const unsigned int buf_more = 1U << 4;
	uint32_t id = cqe->flags >> IORING_CQE_BUFFER_SHIFT, next, part;
	uint32_t bytes = cqe->res > 0 ? (uint32_t)cqe->res : 0;
	struct evpl_iovec *slice;
	int n, i;

	if (context_is_inherited(buf_ring->evpl))
		return -EPERM;
	if (!(cqe->flags & IORING_CQE_F_BUFFER))
		return 0;
	n = count_filled(buf_ring, id, bytes);
	if (n < 0)
		return n;
	if (!bytes) {
		/* Nothing was received. The kernel has the buffer still, or it gets it again. */
		if (!(cqe->flags & buf_more)) {
			add(buf_ring, id, 0);
			io_uring_buf_ring_advance(buf_ring->entries, 1);
		}
		return 0;
	}
	if ((unsigned int)n > max_iovecs)
		return -ENOBUFS;

	for (i = 0; i < n; i++, id = next) {
		slice = &buf_ring->buffers[id].slice;
		next = buf_ring->buffers[id].next;
		part = bytes < slice->length ? bytes : slice->length;
		bytes -= part;
		evpl_iovec_move(&r_iovec[i], slice);
		if (i == n - 1 && cqe->flags & buf_more && part < r_iovec[i].length) {
			evpl_iovec_split(slice, &r_iovec[i], part);
		} else {
			r_iovec[i].length = part;
			set_missing(buf_ring, id);
		}
	}
	refill(buf_ring);
	return n;
}

int evplmem_uring_buf_ring_refill(struct evpl_uring_buf_ring *buf_ring)
{
	if (context_is_inherited(buf_ring->evpl))
		return -EPERM;
	refill(buf_ring);
	return (int)buf_ring->nr_missing;
}

void evplmem_uring_buf_ring_destroy(struct evpl_uring_buf_ring *buf_ring)
{
	int err;

	if (!buf_ring || context_is_inherited(buf_ring->evpl))
		return;
	/*
	 * If the ring is another thread's, or restricted, the kernel goes on writing to the slices.
	 * So they stay allocated. Any other error means that the ring was closed before.
	 */
	err = io_uring_unregister_buf_ring(buf_ring->ring, buf_ring->id);
	if (err == -EEXIST || err == -EACCES || err == -ENOMEM)
		return;
	release_all(buf_ring);
	munmap(buf_ring->entries, entries_bytes(buf_ring->count));
	free(buf_ring);
}
