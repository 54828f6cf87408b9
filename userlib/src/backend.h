/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_BACKEND_H
#define EVPLMEM_BACKEND_H

/*
 * Where slabs and entries come from: the module, or this process itself.
 *
 * Both give out ranges of an own window. The window is a range of offsets alone, and is
 * never mapped as a whole: each slab has a mapping of its own. An offset divided by the
 * buffer size is the index of the buffer's entry. slab_alloc() and slab_free() are
 * called with the pool's lock held.
 */

#include <linux/evpl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "evplmem.h"

struct backend;
struct entry;
struct range;

/**
 * struct backing - where the memory of a pool comes from
 * @ops: the back end
 * @buffer_size: bytes of a buffer
 * @entries: all entries, mapped as long as the pool is open
 * @entries_size: bytes of @entries
 * @by_pieces: of the module: entries are mapped when a slab first needs them, not all at once
 * @own_size: bytes of the own window
 * @fd: of the module: the client's descriptor
 * @setup: of the module: where its windows are
 * @header: of the module: the header page of the client
 * @ranges: of anon: the ranges of the own window that are taken, in order
 * @packed: of anon: the last one before the first gap in the own window; NULL: the gap is at 0
 */
struct backing {
	const struct backend *ops;
	size_t buffer_size;
	struct entry *entries;
	size_t entries_size;
	bool by_pieces;
	uint64_t own_size;
	int fd;
	struct evpl_setup setup;
	struct evpl_header *header;
	struct range *ranges;
	struct range *packed;
};

/**
 * struct extent - a slab's memory
 * @base: where it is mapped, aligned to the buffer size and to 2 MiB
 * @length: its bytes
 * @offset: where it is in the own window
 */
struct extent {
	void *base;
	size_t length;
	uint64_t offset;
};

/**
 * struct backend - a kind of backing
 * @id: an &enum evpl_backend
 * @open: fills the backing, of which @ops and @buffer_size are set; max_bytes of
 *	the config is the pool's limit, or 0
 * @adopt: like @open, but for a client that another process has left; @buffer_size of the backing is
 *	the one that is asked for, or 0. Takes the descriptor, which it doesn't close if it fails.
 *	NULL for a back end whose memory goes with its process.
 * @close: the inverse; no slab is left, or the slabs that are left stay with the client
 * @slab_alloc: memory of @length bytes, zeroed. -ENOMEM, -ENOSPC: not this much.
 * @slab_free: the inverse; -EBUSY if a word isn't 0
 * @slab_adopt: maps the first slab at or after an offset, of a backing that was adopted, and tells
 *	its node; -ENOENT if there is none
 * @room: sets how many bytes the caps of the user and of the system leave, and returns 0; or
 *	-errno. NULL for a back end without these caps
 * @slab_baseline: EVPL_BASELINE, with its flags: returns 0 if all baselines were set, how many
 *	folios were passed by, or -errno; NULL for a back end without quarantine
 */
struct backend {
	enum evpl_backend id;
	int (*open)(struct backing *backing, const struct evpl_pool_config *config);
	int (*adopt)(struct backing *backing, const struct evpl_pool_config *config, int fd);
	void (*close)(struct backing *backing);
	int (*slab_alloc)(struct backing *backing, size_t length, int node, bool huge,
			  struct extent *extent);
	int (*slab_free)(struct backing *backing, const struct extent *extent);
	int (*slab_adopt)(struct backing *backing, uint64_t offset, struct extent *extent,
			  int *node);
	int (*room)(struct backing *backing, uint64_t *user, uint64_t *system);
	int (*slab_baseline)(struct backing *backing, const struct extent *extent,
			     uint32_t flags);
};

extern const struct backend backend_module;
extern const struct backend backend_anon;

#endif /* EVPLMEM_BACKEND_H */
