// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * The directory of roots, in plain memory: what a second process reads after the first one was
 * killed at any instruction, or after the memory was damaged.
 */
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

#include "common.h"
#include "directory.h"

#define SIZE	4096U	/* of a buffer */
#define BUFFERS	16U	/* of the memory */
#define BLOCKS	3U	/* the first ones are blocks */
#define SLICES	(BUFFERS - BLOCKS)

/* A pool's memory, as far as the directory knows it. */
static struct memory {
	_Atomic uint64_t first;
	alignas(8) char buffers[BUFFERS][SIZE];
} *memory;

static void *find_buffer(void *arg, uint64_t offset)
{
	struct memory *of = arg;

	return offset % SIZE || offset / SIZE >= BUFFERS ? NULL : of->buffers[offset / SIZE];
}

FIXTURE(directory) {
	struct directory dir;
};

FIXTURE_SETUP(directory)
{
	memory = mmap(NULL, sizeof(*memory), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		      -1, 0);
	ASSERT_NE(MAP_FAILED, memory);
	memset(memory->buffers, 0xa5, sizeof(memory->buffers));
	directory_init(&self->dir, SIZE);
}

FIXTURE_TEARDOWN(directory)
{
	directory_destroy(&self->dir);
	munmap(memory, sizeof(*memory));
}

static int add_block(struct directory *dir)
{
	return directory_add_block(dir, memory->buffers[dir->nr_blocks],
				   (uint64_t)dir->nr_blocks * SIZE, &memory->first);
}

/* The name and the slice of the root with this number. */
static const char *name_of(unsigned int number)
{
	static char name[EVPL_NAME_MAX + 1];

	snprintf(name, sizeof(name), "root %u%.*s", number, (int)(number % 50),
		 "..................................................");
	return name;
}

static uint64_t offset_of(unsigned int number)
{
	return (BLOCKS + number % SLICES) * SIZE + number * 7 % 1000;
}

static uint32_t length_of(unsigned int number)
{
	return 1 + number * 31 % 3000;
}

static struct root *add(struct directory *dir, unsigned int number)
{
	return directory_add(dir, name_of(number), offset_of(number), length_of(number));
}

/* The number of roots that a new reader finds, or -errno. */
static int read_again(struct directory *dir)
{
	int err;

	directory_init(dir, SIZE);
	err = directory_read(dir, memory->first, find_buffer, memory);
	if (!err)
		return (int)dir->nr_roots;
	directory_destroy(dir);
	return err;
}

/* Whether a directory has the root with this number, where add() has put it. */
static bool has(const struct directory *dir, unsigned int number)
{
	const struct root *root = directory_find(dir, name_of(number));

	return root && root->offset == offset_of(number) && root->length == length_of(number);
}

TEST_F(directory, a_second_process_reads_what_the_first_one_has_left)
{
	struct directory *dir = &self->dir, again;
	struct root *root;
	unsigned int i, n = BLOCKS * 31;

	ASSERT_EQ(0, read_again(&again));
	directory_destroy(&again);
	EXPECT_TRUE(directory_is_full(dir));
	for (i = 0; i < n; i++) {
		if (directory_is_full(dir))
			ASSERT_EQ(0, add_block(dir));
		ASSERT_NE(NULL, add(dir, i));
	}
	EXPECT_TRUE(directory_is_full(dir));
	EXPECT_EQ(BLOCKS, dir->nr_blocks);
	for (i = 0; i < n; i += 3)
		directory_remove(dir, directory_find(dir, name_of(i)));
	for (i = 1; i < n; i += 3)
		directory_replace(dir, directory_find(dir, name_of(i)), 5 * SIZE + i, i);
	EXPECT_EQ(n - n / 3, dir->nr_roots);

	ASSERT_EQ(n - n / 3, read_again(&again));
	EXPECT_EQ(0, again.nr_broken);
	for (i = 0; i < n; i++) {
		root = directory_find(&again, name_of(i));
		if (i % 3 == 0) {
			EXPECT_EQ(NULL, root);
		} else if (i % 3 == 1) {
			ASSERT_NE(NULL, root);
			EXPECT_EQ(5 * SIZE + i, root->offset);
			EXPECT_EQ(i, root->length);
		} else {
			EXPECT_TRUE(has(&again, i));
		}
	}

	/* The second process goes on where the first one has ended. */
	for (i = 0; i < n; i += 3)
		ASSERT_NE(NULL, add(&again, i));
	EXPECT_TRUE(directory_is_full(&again));
	directory_destroy(&again);
	ASSERT_EQ(n, read_again(&again));
	for (i = 0; i < n; i += 3)
		EXPECT_TRUE(has(&again, i));
	directory_destroy(&again);
}

TEST_F(directory, each_root_is_listed_once_though_others_come_and_go)
{
	struct directory *dir = &self->dir;
	unsigned int seen[40] = { 0 }, number, i;
	const struct root *root;
	uint64_t cursor = 0;

	EXPECT_EQ(NULL, directory_next(dir, &cursor));
	ASSERT_EQ(0, add_block(dir));
	ASSERT_EQ(0, add_block(dir));
	for (i = 0; i < 40; i++)
		add(dir, i);
	for (i = 0; (root = directory_next(dir, &cursor)); i++) {
		ASSERT_EQ(1, sscanf(root->name, "root %u", &number));
		seen[number]++;
		if (i % 4)
			continue;
		/* Root 39 goes and comes again all the time, and may be seen or not. */
		root = directory_find(dir, name_of(39));
		if (root)
			directory_remove(dir, (struct root *)root);
		else
			add(dir, 39);
	}
	for (i = 0; i < 39; i++)
		EXPECT_EQ(1, seen[i]);
	EXPECT_EQ(NULL, directory_next(dir, &cursor));
}

TEST_F(directory, a_name_may_have_all_bytes_but_zero_and_63_of_them)
{
	struct directory *dir = &self->dir, again;
	char name[EVPL_NAME_MAX + 1] = "";
	unsigned int i;

	for (i = 0; i < EVPL_NAME_MAX; i++)
		name[i] = (char)(255 - i);
	ASSERT_EQ(0, add_block(dir));
	ASSERT_NE(NULL, directory_add(dir, name, SIZE, 1));
	ASSERT_NE(NULL, directory_add(dir, "\1", SIZE, 2));
	ASSERT_EQ(2, read_again(&again));
	ASSERT_NE(NULL, directory_find(&again, name));
	EXPECT_EQ(1, directory_find(&again, name)->length);
	EXPECT_EQ(2, directory_find(&again, "\1")->length);
	directory_destroy(&again);
}

TEST_F(directory, a_broken_record_is_left_out_and_counted_and_its_slot_is_used_again)
{
	struct directory *dir = &self->dir, again;
	struct dir_record *records;
	unsigned int i;

	ASSERT_EQ(0, add_block(dir));
	records = dir->blocks[0].block->records;
	for (i = 0; i < 10; i++)
		add(dir, i);

	records[0].valid++;
	records[1].name[0] = 'x';
	records[2].versions[0].offset += SIZE;
	records[3].versions[0].length--;
	records[4] = records[5];			/* a record that is another one's */
	/* Checksums that are right, of slices that aren't. */
	directory_replace(dir, directory_find(dir, name_of(6)), 4 * SIZE, SIZE + 1);
	directory_replace(dir, directory_find(dir, name_of(7)), BUFFERS * SIZE, 1);
	directory_replace(dir, directory_find(dir, name_of(8)), 4 * SIZE, 0);

	ASSERT_EQ(2, read_again(&again));
	EXPECT_EQ(8, again.nr_broken);
	EXPECT_TRUE(has(&again, 5));
	EXPECT_TRUE(has(&again, 9));
	for (i = 20; i < 20 + 31 - 2; i++)
		add(&again, i);
	EXPECT_TRUE(directory_is_full(&again));
	directory_destroy(&again);
	ASSERT_EQ(31, read_again(&again));
	EXPECT_EQ(0, again.nr_broken);
	directory_destroy(&again);
}

TEST_F(directory, a_name_that_is_there_twice_counts_once)
{
	struct directory *dir = &self->dir, again;

	ASSERT_EQ(0, add_block(dir));
	add(dir, 1);
	/* The library itself looks for the name first. */
	add(dir, 1);
	ASSERT_EQ(1, read_again(&again));
	EXPECT_EQ(1, again.nr_broken);
	directory_destroy(&again);
}

TEST_F(directory, a_broken_block_is_refused)
{
	struct directory *dir = &self->dir, again;
	struct dir_block *block;
	char copy[SIZE];
	uint64_t first;
	unsigned int i;

	ASSERT_EQ(0, add_block(dir));
	ASSERT_EQ(0, add_block(dir));
	for (i = 0; i < 40; i++)
		add(dir, i);
	block = dir->blocks[1].block;
	memcpy(copy, block, SIZE);

	for (i = 0; i < offsetof(struct dir_block, next); i++) {
		((char *)block)[i] ^= 4;
		EXPECT_EQ(-EUCLEAN, read_again(&again));
		((char *)block)[i] ^= 4;
	}
	/* A loop, a block that isn't the next one, and places without a block. */
	dir->blocks[1].block->next = dir->blocks[0].block->place;
	EXPECT_EQ(-EUCLEAN, read_again(&again));
	dir->blocks[1].block->next = dir->blocks[1].block->place;
	EXPECT_EQ(-EUCLEAN, read_again(&again));
	dir->blocks[1].block->next = 2 * SIZE + DIR_PLACE;
	EXPECT_EQ(-EUCLEAN, read_again(&again));
	dir->blocks[1].block->next = BUFFERS * SIZE + DIR_PLACE;
	EXPECT_EQ(-EUCLEAN, read_again(&again));
	memcpy(block, copy, SIZE);

	first = memory->first;
	for (i = 0; i < 64; i++) {
		memory->first = first ^ 1ULL << i;
		EXPECT_EQ(-EUCLEAN, read_again(&again));
	}
	memory->first = dir->blocks[1].block->place;
	EXPECT_EQ(-EUCLEAN, read_again(&again));
	memory->first = first;
	EXPECT_EQ(40, read_again(&again));
	directory_destroy(&again);
}

/* The steps of the process that is killed. The memory tells after which one. */
static void change_directory(struct directory *dir)
{
	add_block(dir);
	add(dir, 0);
	add(dir, 1);
	directory_replace(dir, directory_find(dir, name_of(0)), 9 * SIZE, 9);
	directory_remove(dir, directory_find(dir, name_of(1)));
	add(dir, 2);
	directory_replace(dir, directory_find(dir, name_of(0)), 10 * SIZE, 10);
}

/* The state of the directory, as a number that grows with each step; or -1 for one that can't be. */
static int state_of(const struct directory *dir)
{
	const struct root *root = directory_find(dir, name_of(0));
	bool one = has(dir, 1), two = has(dir, 2);
	unsigned int length = root ? root->length : 0;

	if (dir->nr_broken || dir->nr_roots != (unsigned int)(root != NULL) + one + two)
		return -1;
	if (!root)
		return one || two ? -1 : (int)dir->nr_blocks;
	if (has(dir, 0))
		return two ? -1 : 2 + one;
	if (root->offset != length * SIZE)
		return -1;
	if (length == 9)
		return one && two ? -1 : one ? 4 : two ? 6 : 5;
	return length == 10 && two && !one ? 7 : -1;
}

TEST_F(directory, a_process_killed_at_any_instruction_leaves_the_old_root_or_the_new_one)
{
	int status, state, last = 0, seen = 1;
	struct directory again;
	unsigned long steps = 0;
	pid_t child;

	if (SANITIZED || is_slow())
		SKIP(return, "each instruction is a step, and that takes minutes here");
	child = fork();
	ASSERT_LE(0, child);
	if (!child) {
		if (ptrace(PTRACE_TRACEME, 0, NULL, NULL))
			_exit(1);
		raise(SIGSTOP);
		change_directory(&self->dir);
		_exit(0);
	}
	ASSERT_EQ(child, waitpid(child, &status, 0));
	for (;;) {
		ASSERT_EQ(0, ptrace(PTRACE_SINGLESTEP, child, NULL, NULL));
		ASSERT_EQ(child, waitpid(child, &status, 0));
		if (WIFEXITED(status))
			break;
		ASSERT_TRUE(WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP);
		steps++;
		ASSERT_LE(0, read_again(&again));
		state = state_of(&again);
		directory_destroy(&again);
		/* The states come one after the other, and none is left out. */
		ASSERT_TRUE(state == last || state == last + 1) {
			TH_LOG("state %d after %d, at step %lu", state, last, steps);
			kill(child, SIGKILL);
		}
		seen += state != last;
		last = state;
	}
	EXPECT_EQ(0, WEXITSTATUS(status));
	EXPECT_EQ(7, last);
	EXPECT_EQ(8, seen);
	TH_LOG("%lu instructions", steps);
}

static uint64_t random_state = 1;

static unsigned int below(unsigned int bound)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (unsigned int)(random_state * 0x2545f4914f6cdd1dULL >> 33) % bound;
}

/* Damages the directory: flips bits, or copies a piece of it over another piece. */
static unsigned int damage(void)
{
	static const unsigned int sizes[] = { 8, 16, 64, 128, 1024 };
	unsigned int n = 1 + below(8), size = sizes[below(5)], i;
	char *bytes = (char *)memory->buffers;

	if (!below(8))
		memmove(bytes + below((BLOCKS * SIZE - size) / size) * size,
			bytes + below((BLOCKS * SIZE - size) / size) * size, size);
	for (i = 0; i < n; i++)
		if (!below(64))
			memory->first ^= 1ULL << below(64);
		else
			bytes[below(BLOCKS * SIZE)] ^= (char)(1U << below(8));
	return n;
}

TEST_F(directory, a_million_flipped_bits_never_give_a_wrong_root)
{
	unsigned long flips = few() ? 10000 : 1000000, refused = 0, read = 0, broken = 0;
	struct directory *dir = &self->dir, again;
	struct memory *copy = malloc(sizeof(*copy));
	const struct root *root;
	unsigned long i = 0;
	unsigned int number;
	uint64_t cursor;
	int ret;

	ASSERT_NE(NULL, copy);
	while (dir->nr_blocks < BLOCKS)
		ASSERT_EQ(0, add_block(dir));
	for (number = 0; number < 80; number++)
		add(dir, number);
	for (number = 0; number < 80; number += 5)
		directory_remove(dir, directory_find(dir, name_of(number)));
	for (number = 1; number < 80; number += 5) {
		root = directory_find(dir, name_of(number));
		directory_replace(dir, (struct root *)root, 4 * SIZE, 4);
		directory_replace(dir, (struct root *)root, offset_of(number), length_of(number));
	}
	memcpy(copy, memory, sizeof(*copy));

	while (i < flips) {
		i += damage();
		ret = read_again(&again);
		if (ret >= 0) {
			read++;
			broken += again.nr_broken;
			ASSERT_GE(BLOCKS * 31, again.nr_roots + again.nr_broken);
			cursor = 0;
			while ((root = directory_next(&again, &cursor))) {
				ASSERT_EQ(1, sscanf(root->name, "root %u", &number));
				ASSERT_TRUE(number % 5 && has(&again, number));
			}
			/* Whatever the memory holds, the directory can be used. */
			if (!directory_is_full(&again) && !directory_find(&again, "new")) {
				directory_add(&again, "new", 7 * SIZE, 7);
				directory_remove(&again, directory_find(&again, "new"));
			}
			directory_destroy(&again);
		} else {
			ASSERT_EQ(-EUCLEAN, ret);
			refused++;
		}
		memcpy(memory, copy, BLOCKS * SIZE + offsetof(struct memory, buffers));
	}
	TH_LOG("%lu directories read, with %lu roots left out; %lu refused", read, broken, refused);
	EXPECT_NE(0, refused);
	EXPECT_NE(0, broken);
	free(copy);
}

TEST_HARNESS_MAIN
