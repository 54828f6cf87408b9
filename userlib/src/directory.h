/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_DIRECTORY_H
#define EVPLMEM_DIRECTORY_H

/*
 * The directory of a pool's roots: names of slices, in memory that outlives the process.
 *
 * The directory is a chain of blocks. A block is a buffer of the pool: a head, then records. The
 * process that reads a directory may be the successor of one that was killed at any instruction.
 * So each change is published by one store of 64 bits, and a successor finds the state before that
 * store or the state after it:
 *  - A record is free if its @valid is 0. Else @valid is the checksum of one of its two versions,
 *    and that version says where the slice is.
 *  - A new root is written to a free record, and then @valid is set.
 *  - A root that is replaced gets its new place in the other version, and then @valid is changed.
 *  - A root that is forgotten has @valid set to 0.
 *  - A new block is written, and then the place of the block is set in the block before it. The
 *    place of the first block is in evpl_header.user.
 *
 * The reader believes nothing. The checksum of a version covers the record's place, the number of
 * the version, the name, and where the slice is. A root whose record isn't right is left out and
 * counted. A directory with a block that isn't right is refused, since the roots of that block,
 * and those of all later ones, would be missing without a sign.
 *
 * The process has a table of the roots beside the blocks, so that it finds a name fast, and never
 * reads the blocks again. Nothing here takes a lock or knows of pools: see root.c.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "evplmem.h"

struct entry;

/**
 * struct dir_version - where a slice is
 * @offset: the slice's first byte in the own window
 * @length: the slice's bytes
 */
struct dir_version {
	uint64_t offset;
	uint64_t length;
};

/**
 * struct dir_record - a record of a block
 * @valid: 0, or the checksum of the version that is valid
 * @versions: of which at most one is valid
 * @name: the root's name, with zeros behind it
 * @unused: 0
 */
struct dir_record {
	_Atomic uint64_t valid;
	struct dir_version versions[2];
	char name[EVPL_NAME_MAX + 1];
	uint64_t unused[3];
};

/**
 * struct dir_block - a block
 * @magic: DIR_MAGIC
 * @place: where the block itself is
 * @number: how many blocks come before this one; so a chain has no loops
 * @nr_records: how many records it has; one number for all blocks
 * @checksum: of the four fields above
 * @next: the place of the next block, or 0
 * @unused: 0
 * @records: the records
 *
 * A place is the offset of a buffer in the own window, with DIR_PLACE added. No such number
 * becomes 0 when a few bits of it change.
 */
struct dir_block {
	uint64_t magic;
	uint64_t place;
	uint64_t number;
	uint64_t nr_records;
	uint64_t checksum;
	_Atomic uint64_t next;
	uint64_t unused[10];
	struct dir_record records[];
};

_Static_assert(sizeof(struct dir_record) == 128, "the layout outlives the library");
_Static_assert(sizeof(struct dir_block) == 128, "the layout outlives the library");

/* The name of this layout: another layout has another one. */
#define DIR_MAGIC	0x31746f6f726c7065ULL	/* "eplroot1" */

/* In the low bits of a place, which are 0 in an offset. */
#define DIR_PLACE	0x5a5ULL

/* A block uses no more of its buffer than this. */
#define DIR_BLOCK_MAX	(1UL << 20)

/**
 * struct root - a root, as the process has it
 * @name: its name; empty if the slot is free
 * @entry: the buffer's entry; set and used by root.c alone
 * @offset: where the slice is in the own window
 * @length: the slice's bytes
 * @version: the number of the valid version
 * @next: the slot + 1 of the next root in the same bucket, or of the next free slot; or 0
 */
struct root {
	char name[EVPL_NAME_MAX + 1];
	struct entry *entry;
	uint64_t offset;
	uint32_t length;
	uint32_t version;
	uint32_t next;
};

/**
 * struct dir_chunk - a block, as the process has it
 * @block: where it is mapped
 * @offset: where it is in the own window
 */
struct dir_chunk {
	struct dir_block *block;
	uint64_t offset;
};

/**
 * struct directory - a directory, as the process has it
 * @buffer_size: bytes of a buffer
 * @per_block: records of a block
 * @seed: a number that the process's peers don't know: they may choose names
 * @blocks: the blocks
 * @nr_blocks: how many there are
 * @roots: a slot for each record of the blocks
 * @nr_slots: how many of these there are
 * @room: how many @roots has room for
 * @buckets: the slot + 1 of the first root of each bucket, or 0; as many as @room, a power of two
 * @free: the slot + 1 of the first free slot, or 0
 * @nr_roots: slots that aren't free
 * @nr_broken: roots that directory_read() has left out
 */
struct directory {
	size_t buffer_size;
	uint32_t per_block;
	uint64_t seed;
	struct dir_chunk *blocks;
	uint32_t nr_blocks;
	struct root *roots;
	uint32_t nr_slots;
	uint32_t room;
	uint32_t *buckets;
	uint32_t free;
	uint32_t nr_roots;
	uint32_t nr_broken;
};

/*
 * Finds the memory of the buffer at @offset of the own window. Returns NULL if there is none, or if
 * no buffer begins there.
 */
typedef void *dir_find_buffer(void *arg, uint64_t offset);

void directory_init(struct directory *dir, size_t buffer_size);
void directory_destroy(struct directory *dir);
int directory_read(struct directory *dir, uint64_t place, dir_find_buffer *find_buffer, void *arg);
int directory_add_block(struct directory *dir, void *memory, uint64_t offset,
			_Atomic uint64_t *first);
bool directory_is_full(const struct directory *dir);
struct root *directory_find(const struct directory *dir, const char *name);
struct root *directory_add(struct directory *dir, const char *name, uint64_t offset,
			   uint32_t length);
void directory_replace(struct directory *dir, struct root *root, uint64_t offset, uint32_t length);
void directory_remove(struct directory *dir, struct root *root);
const struct root *directory_next(const struct directory *dir, uint64_t *cursor);

#endif /* EVPLMEM_DIRECTORY_H */
