// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * The directory of a pool's roots: see directory.h.
 */
#include "directory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

/* How many roots the table has room for at first. */
#define ROOM_MIN 16

/*
 * FNV-1a of 64 bits. It is for mistakes and crashes, not for attackers: nobody but the pool's
 * process can write to a directory.
 */
#define HASH_START	0xcbf29ce484222325ULL

static uint64_t hash(uint64_t value, const void *data, size_t size)
{
	const unsigned char *bytes = data;
	size_t i;

	for (i = 0; i < size; i++)
		value = (value ^ bytes[i]) * 0x100000001b3ULL;
	return value;
}

static uint64_t block_checksum(const struct dir_block *block)
{
	return hash(HASH_START, block, offsetof(struct dir_block, checksum));
}

static struct dir_record *slot_record(const struct directory *dir, uint32_t slot)
{
	return &dir->blocks[slot / dir->per_block].block->records[slot % dir->per_block];
}

/* The checksum of a version of the record of a slot; not 0. */
static uint64_t version_checksum(const struct directory *dir, uint32_t slot, uint32_t version,
				 const char *name, const struct dir_version *where)
{
	const uint64_t about[] = {
		dir->blocks[slot / dir->per_block].offset, slot, version, where->offset,
		where->length,
	};
	uint64_t sum = hash(hash(HASH_START, about, sizeof(about)), name, EVPL_NAME_MAX + 1);

	return sum ? sum : 1;
}

/* Writes a version of a slot's record, and makes it the valid one: the last store does that. */
static void slot_publish(struct directory *dir, uint32_t slot, uint32_t version)
{
	const struct root *root = &dir->roots[slot];
	struct dir_record *record = slot_record(dir, slot);
	struct dir_version *where = &record->versions[version];

	where->offset = root->offset;
	where->length = root->length;
	atomic_store_explicit(&record->valid,
			      version_checksum(dir, slot, version, root->name, where),
			      memory_order_release);
}

void directory_init(struct directory *dir, size_t buffer_size)
{
	size_t size = buffer_size < DIR_BLOCK_MAX ? buffer_size : DIR_BLOCK_MAX;

	*dir = (struct directory){
		.buffer_size = buffer_size,
		.per_block = (uint32_t)((size - sizeof(struct dir_block)) /
					sizeof(struct dir_record)),
	};
	/* Where there are no random numbers yet, the seed is 0. */
	if (getrandom(&dir->seed, sizeof(dir->seed), GRND_NONBLOCK) < 0)
		dir->seed = 0;
}

void directory_destroy(struct directory *dir)
{
	free(dir->blocks);
	free(dir->roots);
	free(dir->buckets);
	*dir = (struct directory){ 0 };
}

static uint32_t *find_bucket(const struct directory *dir, const char *name)
{
	uint64_t value = hash(HASH_START ^ dir->seed, name, strlen(name));

	return &dir->buckets[(value ^ value >> 32) & (dir->room - 1)];
}

static void slot_link(struct directory *dir, uint32_t slot)
{
	uint32_t *bucket = find_bucket(dir, dir->roots[slot].name);

	dir->roots[slot].next = *bucket;
	*bucket = slot + 1;
}

static void slot_unlink(struct directory *dir, uint32_t slot)
{
	uint32_t *link = find_bucket(dir, dir->roots[slot].name);

	while (*link != slot + 1)
		link = &dir->roots[*link - 1].next;
	*link = dir->roots[slot].next;
}

static void slot_free(struct directory *dir, uint32_t slot)
{
	dir->roots[slot] = (struct root){ .next = dir->free };
	dir->free = slot + 1;
}

/* Makes room for @nr_slots in the table. Fails with nothing changed. */
static int make_room(struct directory *dir, uint32_t nr_slots)
{
	uint32_t room = dir->room ? dir->room : ROOM_MIN, *buckets, slot;
	struct root *roots;

	if (nr_slots <= dir->room)
		return 0;
	while (room < nr_slots)
		room *= 2;
	buckets = calloc(room, sizeof(*buckets));
	if (!buckets)
		return -ENOMEM;
	roots = reallocarray(dir->roots, room, sizeof(*roots));
	if (!roots) {
		free(buckets);
		return -ENOMEM;
	}
	free(dir->buckets);
	dir->buckets = buckets;
	dir->roots = roots;
	dir->room = room;
	for (slot = 0; slot < dir->nr_slots; slot++)
		if (dir->roots[slot].name[0])
			slot_link(dir, slot);
	return 0;
}

/* Adds a block to the table, with all of its slots free. Fails with nothing changed. */
static int table_add_block(struct directory *dir, struct dir_block *block, uint64_t offset)
{
	struct dir_chunk *blocks;
	uint32_t i;
	int err;

	/* There are as many slots as 31 bits count. No pool has memory for so many roots. */
	if (dir->nr_slots >= (1U << 31) - dir->per_block)
		return -ENOMEM;
	blocks = reallocarray(dir->blocks, dir->nr_blocks + 1, sizeof(*blocks));
	if (!blocks)
		return -ENOMEM;
	dir->blocks = blocks;
	err = make_room(dir, dir->nr_slots + dir->per_block);
	if (err)
		return err;
	dir->blocks[dir->nr_blocks++] = (struct dir_chunk){ block, offset };
	dir->nr_slots += dir->per_block;
	/* The first one is to be the first that is used. */
	for (i = 1; i <= dir->per_block; i++)
		slot_free(dir, dir->nr_slots - i);
	return 0;
}

/* Whether a slice is within one buffer of the pool. */
static bool slice_is_right(const struct directory *dir, const struct dir_version *where,
			   dir_find_buffer *find_buffer, void *arg)
{
	uint64_t in_buffer = where->offset % dir->buffer_size;

	return where->length && where->length <= dir->buffer_size - in_buffer &&
	       where->length <= UINT32_MAX && find_buffer(arg, where->offset - in_buffer);
}

/* Whether a name isn't empty, and ends within its field with nothing but zeros behind it. */
static bool name_is_right(const char name[EVPL_NAME_MAX + 1])
{
	size_t i = strnlen(name, EVPL_NAME_MAX + 1);

	if (!i || i > EVPL_NAME_MAX)
		return false;
	for (; i <= EVPL_NAME_MAX; i++)
		if (name[i])
			return false;
	return true;
}

/* Reads the record of a slot into @root. Returns 1, 0 if it is free, or -EUCLEAN if it is broken. */
static int read_record(const struct directory *dir, uint32_t slot, struct root *root,
		       dir_find_buffer *find_buffer, void *arg)
{
	struct dir_record *record = slot_record(dir, slot);
	uint64_t valid = atomic_load_explicit(&record->valid, memory_order_acquire);
	struct dir_version where;
	uint32_t version;

	if (!valid)
		return 0;
	memcpy(root->name, record->name, sizeof(root->name));
	for (version = 0; version < 2; version++) {
		where = record->versions[version];
		if (version_checksum(dir, slot, version, root->name, &where) != valid)
			continue;
		if (!name_is_right(root->name) || !slice_is_right(dir, &where, find_buffer, arg))
			break;
		root->offset = where.offset;
		root->length = (uint32_t)where.length;
		root->version = version;
		return 1;
	}
	return -EUCLEAN;
}

/* Reads the records of the last block into the table. A name that comes again is broken. */
static void read_last_block(struct directory *dir, dir_find_buffer *find_buffer, void *arg)
{
	uint32_t i, slot = dir->nr_slots;
	struct root root;
	int ret;

	/* The list of free slots is built anew, without those that have a root. */
	for (i = 0; i < dir->per_block; i++)
		dir->free = dir->roots[dir->free - 1].next;
	for (i = 0; i < dir->per_block; i++) {
		slot--;
		root = (struct root){ .next = 0 };
		ret = read_record(dir, slot, &root, find_buffer, arg);
		if (ret > 0 && !directory_find(dir, root.name)) {
			dir->roots[slot] = root;
			slot_link(dir, slot);
			dir->nr_roots++;
			continue;
		}
		dir->nr_broken += ret != 0;
		slot_free(dir, slot);
	}
}

/* Finds the block at @place that comes after those which were read; NULL if it isn't right. */
static struct dir_block *find_block(const struct directory *dir, uint64_t place,
				    dir_find_buffer *find_buffer, void *arg)
{
	struct dir_block *block;

	if ((place & (dir->buffer_size - 1)) != DIR_PLACE)
		return NULL;
	block = find_buffer(arg, place - DIR_PLACE);
	if (!block || block->magic != DIR_MAGIC || block->place != place ||
	    block->number != dir->nr_blocks || block->nr_records != dir->per_block ||
	    block->checksum != block_checksum(block))
		return NULL;
	return block;
}

/**
 * directory_read() - read a directory that another process may have left
 * @dir: an empty directory
 * @place: the place of the first block, or 0 if there is none
 * @find_buffer: finds memory
 * @arg: for @find_buffer
 *
 * Return: 0; -EUCLEAN if a block isn't right, or -ENOMEM. After an error the caller destroys @dir.
 */
int directory_read(struct directory *dir, uint64_t place, dir_find_buffer *find_buffer, void *arg)
{
	struct dir_block *block;
	int err;

	while (place) {
		block = find_block(dir, place, find_buffer, arg);
		if (!block)
			return -EUCLEAN;
		err = table_add_block(dir, block, place - DIR_PLACE);
		if (err)
			return err;
		read_last_block(dir, find_buffer, arg);
		place = atomic_load_explicit(&block->next, memory_order_acquire);
	}
	return 0;
}

/**
 * directory_add_block() - make room for more roots
 * @dir: the directory
 * @memory: a buffer of the pool, which nobody else uses
 * @offset: where the buffer is in the own window
 * @first: where the place of the first block goes
 *
 * Return: 0, or -ENOMEM with nothing changed.
 */
int directory_add_block(struct directory *dir, void *memory, uint64_t offset,
			_Atomic uint64_t *first)
{
	struct dir_block *block = memory, *last = NULL;
	_Atomic uint64_t *link;
	int err;

	if (dir->nr_blocks)
		last = dir->blocks[dir->nr_blocks - 1].block;
	memset(block, 0, sizeof(*block) + dir->per_block * sizeof(struct dir_record));
	block->magic = DIR_MAGIC;
	block->place = offset + DIR_PLACE;
	block->number = dir->nr_blocks;
	block->nr_records = dir->per_block;
	block->checksum = block_checksum(block);
	err = table_add_block(dir, block, offset);
	if (err)
		return err;
	link = last ? &last->next : first;
	atomic_store_explicit(link, block->place, memory_order_release);
	return 0;
}

/* Whether a new root needs another block first. */
bool directory_is_full(const struct directory *dir)
{
	return !dir->free;
}

/* Finds a root by its name; NULL if there is none. */
struct root *directory_find(const struct directory *dir, const char *name)
{
	uint32_t slot;

	if (!dir->room)
		return NULL;
	for (slot = *find_bucket(dir, name); slot; slot = dir->roots[slot - 1].next)
		if (!strcmp(dir->roots[slot - 1].name, name))
			return &dir->roots[slot - 1];
	return NULL;
}

/*
 * Adds a root with a name that no other one has, of at most EVPL_NAME_MAX bytes. The directory isn't
 * full. The process may be killed between any two of these stores: see directory.h.
 */
struct root *directory_add(struct directory *dir, const char *name, uint64_t offset,
			   uint32_t length)
{
	uint32_t slot = dir->free - 1;
	struct root *root = &dir->roots[slot];

	dir->free = root->next;
	root->offset = offset;
	root->length = length;
	root->version = 0;
	memset(root->name, 0, sizeof(root->name));
	memcpy(root->name, name, strlen(name));
	slot_link(dir, slot);
	dir->nr_roots++;

	memcpy(slot_record(dir, slot)->name, root->name, sizeof(root->name));
	slot_publish(dir, slot, 0);
	return root;
}

/* Has a root name another slice. */
void directory_replace(struct directory *dir, struct root *root, uint64_t offset, uint32_t length)
{
	root->offset = offset;
	root->length = length;
	root->version = !root->version;
	slot_publish(dir, (uint32_t)(root - dir->roots), root->version);
}

void directory_remove(struct directory *dir, struct root *root)
{
	uint32_t slot = (uint32_t)(root - dir->roots);

	atomic_store_explicit(&slot_record(dir, slot)->valid, 0, memory_order_release);
	slot_unlink(dir, slot);
	slot_free(dir, slot);
	dir->nr_roots--;
}

/*
 * Goes over all roots. @cursor is 0 at first. Returns the next root, or NULL at the end. A root that
 * is there all the time is found once, whatever comes and goes meanwhile.
 */
const struct root *directory_next(const struct directory *dir, uint64_t *cursor)
{
	while (*cursor < dir->nr_slots)
		if (dir->roots[(*cursor)++].name[0])
			return &dir->roots[*cursor - 1];
	return NULL;
}
