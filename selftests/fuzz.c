// SPDX-License-Identifier: GPL-2.0-only
/*
 * A fuzzer of everything that /dev/evpl offers.
 *
 * A program is a short list of calls with small numbers as arguments, which pick
 * from tables of interesting values, and from the descriptors, mappings and slabs
 * that there are just then. Worker processes of two threads run programs; each program
 * starts with one client and leaves nothing. Workers are killed at any moment and
 * started anew. Where the kernel has kcov, a program that reaches an edge in the module
 * which no program has reached before is kept, and changed later.
 *
 * The workers and their parent share memory without locks, since a worker may
 * die anywhere: a worker hands programs over in a ring of its own, and the parent
 * alone adds to the corpus.
 */
#include <ctype.h>
#include <limits.h>
#include <linux/dma-buf.h>
#include <linux/futex.h>
#include <linux/kcov.h>
#include <poll.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <time.h>

#define EVPL_NO_HARNESS
#include "evpl_test.h"

#ifndef FUZZ_CORPUS
#define FUZZ_CORPUS	"fuzz.corpus"
#endif

#define CAP			(512 * MIB)
#define CAP_PER_USER		(256 * MIB)

#define OWN_SIZE	(1ULL << 43)
#define REFS_OFFSET	OWN_SIZE
#define PAGE		4096UL

enum {
	MAX_ARGS = 6,
	MAX_CALLS = 64,
	MAX_CORPUS = 4096,
	MAX_WORKERS = 16,
	RING = 16,
	SLOTS = 1 << 16,	/* of the tables of PCs and edges that were reached */
	MAX_TRACE = 4096,	/* PCs of one call */
	MAX_REACHED = 2048,	/* edges of one program */
	NR_FDS = 4,
	NR_SLABS = 8,		/* of one descriptor */
	NR_MAPS = 8,
	NR_PIPES = 2,
	NR_CHILDREN = 2,
	NR_ENDS = 4,
	NR_GOT = 8,		/* records that were read */
	NR_DMABUFS = 4,
	NR_RESULTS = 256,
	HANG_SECONDS = 120,
	DEFAULT_CALLS = 20000,
	FEW_CALLS = 100000,	/* with fewer calls, some checks say nothing */
};

#define load(p)		__atomic_load_n(p, __ATOMIC_ACQUIRE)
#define store(p, v)	__atomic_store_n(p, v, __ATOMIC_RELEASE)
#define swap(p, v)	__atomic_exchange_n(p, v, __ATOMIC_ACQ_REL)
#define add(p, v)	__atomic_fetch_add(p, v, __ATOMIC_RELAXED)

/* A call that has @sibling set is made by the worker's second thread. */
struct call {
	uint8_t kind;
	uint8_t sibling;
	uint8_t arg[MAX_ARGS];
};

struct program {
	unsigned int nr;
	struct call calls[MAX_CALLS];
};

struct candidate {
	struct program program;
	unsigned int nr_reached;
	uint16_t reached[MAX_REACHED];
};

enum {
	OPEN, CLOSE, DUP, SETUP, ALLOC, FREE, IOCTL, MMAP_OWN, MMAP_REFS,
	MMAP_OTHER, MUNMAP, TOUCH, MPROTECT, MREMAP, MADVISE, MLOCK, SCRIBBLE,
	LSEEK, POLL, READ, WRITE, FSYNC, FTRUNCATE, FDINFO, READ_COUNTERS,
	READ_CLIENTS, SMAPS, SET_CAP, VMSPLICE, DRAIN, FORK, KILL,
	CHANNEL, BIND, SEND, RECV, RELEASE, PULL, REVOKE, MMAP_GUEST, FLOOR,
	QUARANTINE_END, BUFFER_WAIT, EXPORT, MMAP_DMABUF, SYNC, NR_KINDS
};

/* Memory that the workers and the parent share. */
static struct shared {
	unsigned long long calls, limit;
	unsigned int stop;
	unsigned int guided;
	unsigned int nr_pcs, nr_edges;
	unsigned int nr_seeds, next_seed;
	unsigned int nr_corpus;
	unsigned long long results[NR_KINDS][NR_RESULTS];
	uint8_t pcs[SLOTS], edges[SLOTS];
	struct program seeds[MAX_CORPUS];
	struct program corpus[MAX_CORPUS];
	struct worker {
		unsigned long long programs, calls;
		unsigned int victim_runs;
		struct program current;
		unsigned int head, tail;
		struct candidate ring[RING];
	} workers[MAX_WORKERS];
} *shared;

struct thread {
	uint64_t random;
	bool sibling;
	bool child;		/* forked off within a program */
	unsigned long *trace;	/* kcov's, or NULL */
	char *pages;		/* two, one without access, one read-only */
	unsigned int nr_reached;
	uint16_t reached[MAX_REACHED];
	uint32_t round;
	uint32_t marks[SLOTS];	/* the round in which an edge was reached last */
	char buffer[PAGE];
};

/* A worker's threads share this: the objects that the calls of the program work on. */
static struct worker *worker;
static struct program program;
static struct thread threads[2];
static char *arena;		/* all mappings of programs are made here */
static int fds[NR_FDS];
static uint64_t buffer_sizes[NR_FDS];
static uint64_t slabs[NR_FDS][NR_SLABS];	/* offset + 1, or 0 */
static uint64_t maps[NR_MAPS];			/* length + window, or 0 */
static int ends[NR_ENDS];
static unsigned int end_clients[NR_ENDS];	/* slot of the client that it is bound to */
static struct got {
	uint64_t offset;
	uint32_t lease;
	unsigned int client;			/* slot of the client that read it */
} gots[NR_GOT];
static int dmabufs[NR_DMABUFS];
static struct evpl_setup windows;		/* the windows are the same for all clients */
static int pipes[NR_PIPES][2];
static int children[NR_CHILDREN];
static bool kill_children;
static bool caps_changed;
static int cap_fds[2];
static int kmsg = -1;
static unsigned int turn, turn_done;

#define MAP_SLOT	(8 * MIB)
enum { OWN = 1, REFS = 2, GUEST = 3, OTHER = 4 };

static uint64_t next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state * 0x2545f4914f6cdd1dULL >> 16;
}

static unsigned int below(struct thread *self, unsigned int bound)
{
	return next(&self->random) % bound;
}

/* These pick a live object: the one with this number, or else the first that there is. */

static int pick_fd(unsigned int arg, unsigned int *slot)
{
	int fd = load(&fds[*slot = arg % NR_FDS]);

	for (unsigned int i = 0; fd < 0 && i < NR_FDS; i++)
		fd = load(&fds[*slot = i]);
	return fd;
}

static uint64_t pick_slab(unsigned int fd, unsigned int arg, uint64_t **where)
{
	uint64_t slab = load(*where = &slabs[fd][arg % NR_SLABS]);

	for (unsigned int i = 0; !slab && i < NR_SLABS; i++)
		slab = load(*where = &slabs[fd][i]);
	return slab ? slab - 1 : 0;
}

static char *pick_map(unsigned int arg, int window, uint64_t *length)
{
	unsigned int slot = arg % NR_MAPS;
	uint64_t map = load(&maps[slot]);

	for (unsigned int i = 0; i < NR_MAPS; i++) {
		if (map && (!window || map % PAGE == window))
			break;
		map = load(&maps[slot = i]);
	}
	*length = map - map % PAGE;
	return arena + slot * MAP_SLOT;
}

static struct got *pick_got(unsigned int arg)
{
	for (unsigned int i = 0; i < NR_GOT; i++)
		if (load(&gots[(arg + i) % NR_GOT].offset))
			return &gots[(arg + i) % NR_GOT];
	return &gots[arg % NR_GOT];
}

static const int open_flags[] = {
	O_RDWR, O_RDONLY, O_RDWR | O_NONBLOCK, O_WRONLY, O_PATH,
	O_RDWR | O_DIRECT, O_RDWR | O_APPEND, O_RDWR | O_SYNC,
	O_RDWR | O_CREAT | O_TRUNC, O_DIRECTORY, O_RDWR | O_CREAT | O_EXCL,
};

static void put_fd(unsigned int slot, int fd)
{
	fd = swap(&fds[slot], fd);
	if (fd >= 0)
		close(fd);
}

static int do_open(struct thread *self, const uint8_t *arg)
{
	unsigned int slot = arg[0] % NR_FDS;
	int fd = open(DEVICE, O_CLOEXEC | open_flags[arg[1]], 0600);

	if (fd < 0)
		return -errno;
	for (int i = 0; i < NR_SLABS; i++)
		store(&slabs[slot][i], 0);
	store(&buffer_sizes[slot], EVPL_BUFFER_SIZE_DEFAULT);
	put_fd(slot, fd);
	return 0;
}

static int do_close(struct thread *self, const uint8_t *arg)
{
	int *const which[] = {
		&fds[arg[0] % NR_FDS], &ends[arg[0] % NR_ENDS],
		&dmabufs[arg[0] % NR_DMABUFS],
	};
	int fd = swap(which[arg[1]], -1);

	return fd < 0 ? -EBADF : RESULT(close(fd));
}

static int do_dup(struct thread *self, const uint8_t *arg)
{
	unsigned int from, to = arg[1] % NR_FDS;
	int fd = dup(pick_fd(arg[0], &from));

	if (fd < 0)
		return -errno;
	for (int i = 0; i < NR_SLABS; i++)
		store(&slabs[to][i], load(&slabs[from][i]));
	store(&buffer_sizes[to], load(&buffer_sizes[from]));
	put_fd(to, fd);
	return 0;
}

/*
 * Put a struct that has @known bytes for the kernel where the ioctl reads it, with one of
 * the interesting sizes, at one of the interesting addresses.
 */
enum { NR_SIZES = 12, NR_POINTERS = 8 };

static void *place(struct thread *self, void *args, uint32_t known,
		   unsigned int size, unsigned int pointer)
{
	const uint32_t sizes[NR_SIZES] = {
		known, known + 8, known - 1, known + 8, PAGE, PAGE + 1, 0, 4,
		UINT_MAX, known + 1, PAGE, known / 2,
	};
	char *pages = self->pages;

	memcpy(args, &sizes[size], sizeof(*sizes));
	switch (pointer) {
	case 1:
		return NULL;
	case 2:
		return (void *)-1L;
	case 3:
		return memcpy(pages + 2 * PAGE - 8, args, 8);
	case 4:
		return pages + 3 * PAGE + known;
	case 5:
		return (void *)0xffff888000000000;
	case 6:
		return memcpy(pages + PAGE + 1, args, known);
	case 7:
		return memcpy(pages + 2 * PAGE - known, args, known);
	default:
		memcpy(pages, args, known);
		memset(pages + known, 0, 256 - known);
		pages[known + 7] = size == 3;
		pages[PAGE - 1] = size == 10;
		return pages;
	}
}

static const uint32_t flags_of[] = { 0, 1, 2, 3, 1U << 31, ~0U };
static const uint64_t buffer_size_of[] = {
	0, 4096, 64 * KIB, 2 * MIB, EVPL_BUFFER_SIZE_DEFAULT, 2048, 3, 4097,
	EVPL_BUFFER_SIZE_MAX, 2 * EVPL_BUFFER_SIZE_MAX, ~0ULL, 32 * MIB, 1,
	4 * MIB, 1ULL << 63,
};

static int do_setup(struct thread *self, const uint8_t *arg)
{
	struct evpl_setup setup = {
		.flags = flags_of[arg[2]],
		.buffer_size = buffer_size_of[arg[3]],
	};
	unsigned int slot;
	int fd = pick_fd(arg[0], &slot);
	void *p = place(self, &setup, sizeof(setup), arg[1], arg[4]);

	if (ioctl(fd, EVPL_SETUP, p))
		return -errno;
	store(&buffer_sizes[slot], setup.buffer_size ?: EVPL_BUFFER_SIZE_DEFAULT);
	return 0;
}

/* A length above the cap costs no time, since it is refused; the others are short. */
static const uint64_t length_of[] = {
	2 * MIB, 4 * MIB, 0, 1, PAGE, 3 * MIB, 2 * MIB + PAGE, 8 * MIB, 1ULL << 30,
	OWN_SIZE, OWN_SIZE + SLAB_2M, ~0ULL, -SLAB_2M, 1ULL << 63,
	CAP_PER_USER + SLAB_2M,
};
static const int node_of[] = { -1, 0, 1, 2, -2, 63, 64, 1023, 1024, INT_MAX, INT_MIN };

static int do_alloc(struct thread *self, const uint8_t *arg)
{
	struct evpl_slab_alloc alloc = {
		.flags = flags_of[arg[2] % 6],
		.length = length_of[arg[3]],
		.node = node_of[arg[4]],
		.__reserved = flags_of[arg[2] / 6],
	};
	unsigned int slot;
	int fd = pick_fd(arg[0], &slot);
	struct evpl_slab_alloc *p;

	p = place(self, &alloc, sizeof(alloc), arg[1], arg[5]);
	if (ioctl(fd, EVPL_SLAB_ALLOC, p))
		return -errno;
	for (int i = 0; i < NR_SLABS; i++) {
		uint64_t empty = 0;

		if (__atomic_compare_exchange_n(&slabs[slot][i], &empty,
						p->out_offset + 1, false,
						__ATOMIC_RELAXED, __ATOMIC_RELAXED))
			break;
	}
	return 0;
}

static const uint64_t wrong_by[] = {
	0, PAGE, 1, SLAB_2M, ~0ULL, OWN_SIZE, 1ULL << 63, -SLAB_2M, 1ULL << 62,
};

static int do_free(struct thread *self, const uint8_t *arg)
{
	struct evpl_slab_free slab_free = { .flags = flags_of[arg[2]] };
	unsigned int slot;
	int fd = pick_fd(arg[0], &slot);
	uint64_t *where;

	slab_free.offset = pick_slab(slot, arg[3], &where) + wrong_by[arg[4]];
	if (ioctl(fd, EVPL_SLAB_FREE,
		  place(self, &slab_free, sizeof(slab_free), arg[1], arg[5])))
		return -errno;
	store(where, 0);
	return 0;
}

/* The ioctls of other types are some that can't harm the machine. */
static int do_ioctl(struct thread *self, const uint8_t *arg)
{
	static const unsigned int others[] = { 0x5401, FIONREAD, 0, ~0U, 0xEC00 };
	unsigned int slot, cmd;
	int fd = pick_fd(arg[0], &slot);

	if (arg[1] < 5)
		cmd = others[arg[1]];
	else
		cmd = _IOC(arg[2], EVPL_IOC_TYPE, arg[1] - 5, arg[3] * 61);
	memset(self->pages, 0, 64);
	self->pages[0] = arg[3];
	if (ioctl(fd, cmd, arg[4] ? NULL : self->pages))
		return -errno;
	if (_IOC_NR(cmd) == _IOC_NR(EVPL_CHANNEL_CREATE)) {
		struct evpl_channel_create *made = (void *)self->pages;

		close(made->out_fds[0]);
		close(made->out_fds[1]);
	}
	return 0;
}

static const struct {
	int prot, flags;
} how_to_map[] = {
	{ PROT_READ | PROT_WRITE, MAP_SHARED },
	{ PROT_READ, MAP_SHARED },
	{ PROT_NONE, MAP_SHARED },
	{ PROT_WRITE, MAP_SHARED },
	{ PROT_READ | PROT_WRITE, MAP_PRIVATE },
	{ PROT_READ, MAP_PRIVATE },
	{ PROT_READ | PROT_WRITE | PROT_EXEC, MAP_SHARED },
	{ PROT_READ | PROT_EXEC, MAP_SHARED },
	{ PROT_EXEC, MAP_PRIVATE },
	{ PROT_READ | PROT_WRITE, MAP_SHARED_VALIDATE },
	{ PROT_READ | PROT_WRITE, MAP_SHARED_VALIDATE | MAP_SYNC },
	{ PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE },
	{ PROT_READ, MAP_SHARED | MAP_POPULATE },
	{ PROT_READ | PROT_WRITE, MAP_SHARED | MAP_LOCKED },
	{ PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE },
	{ PROT_READ | PROT_WRITE, MAP_SHARED | MAP_HUGETLB },
	{ PROT_READ | PROT_WRITE, 0 },
};

/* A mapping that doesn't fit into the arena is made anywhere, and unmapped at once. */
static int map(int window, int fd, unsigned int slot, uint64_t offset,
	       uint64_t length, unsigned int how, unsigned long shift)
{
	int prot = how_to_map[how].prot, flags = how_to_map[how].flags;
	char *p;

	if (length + shift > MAP_SLOT) {
		p = mmap(NULL, length, prot, flags, fd, offset);
		return p == MAP_FAILED ? -errno : RESULT(munmap(p, length));
	}
	slot %= NR_MAPS;
	/* With MAP_FIXED, an mmap() that fails may have unmapped the old mapping. */
	store(&maps[slot], 0);
	p = mmap(arena + slot * MAP_SLOT + shift, length, prot, flags | MAP_FIXED,
		 fd, offset);
	if (p == MAP_FAILED)
		return -errno;
	store(&maps[slot], ((shift + length + PAGE - 1) & -PAGE) + window);
	return 0;
}

static const uint64_t map_length[] = {
	2 * MIB, PAGE, 4 * MIB, 2 * PAGE, 2 * MIB + PAGE, 1, 0, 6 * MIB, 1ULL << 40,
	OWN_SIZE, OWN_SIZE + PAGE, 1ULL << 30, 1ULL << 63, ~0ULL,
};

static int do_mmap_own(struct thread *self, const uint8_t *arg)
{
	unsigned int slot;
	int fd = pick_fd(arg[0], &slot);
	uint64_t *where, slab = pick_slab(slot, arg[1], &where);
	const uint64_t offsets[] = {
		slab, 0, slab + SLAB_2M, slab + PAGE, OWN_SIZE - SLAB_2M,
		8 * SLAB_2M, slab + SLAB_2M - PAGE,
	};

	return map(OWN, fd, arg[1], offsets[arg[2]], map_length[arg[3]], arg[4],
		   arg[5] ? PAGE : 0);
}

static const uint64_t refs_length[] = {
	PAGE, 2 * PAGE, 64 * KIB, 2 * MIB, 1, 0, 1ULL << 29, (1ULL << 29) + PAGE,
	1ULL << 37, (1ULL << 37) + PAGE,
};

static int do_mmap_refs(struct thread *self, const uint8_t *arg)
{
	unsigned int slot;
	int fd = pick_fd(arg[0], &slot);
	uint64_t *where, slab = pick_slab(slot, arg[1], &where);
	uint64_t buffer_size = load(&buffer_sizes[slot]);
	uint64_t size = OWN_SIZE / buffer_size * sizeof(struct evpl_entry);
	uint64_t entry = slab / buffer_size * sizeof(struct evpl_entry) & -PAGE;
	const uint64_t offsets[] = {
		entry, 0, PAGE, size - PAGE, size, -PAGE, size / 2,
	};

	return map(REFS, fd, arg[1], REFS_OFFSET + offsets[arg[2]],
		   refs_length[arg[3]], arg[4], 0);
}

static int do_mmap_other(struct thread *self, const uint8_t *arg)
{
	static const uint64_t offsets[] = {
		OWN_SIZE - PAGE, 1ULL << 62, 1ULL << 63, -PAGE, 1, OWN_SIZE + PAGE,
		1ULL << 44, OWN_SIZE / 2, PAGE, -SLAB_2M,
	};
	unsigned int slot;
	int fd = pick_fd(arg[0], &slot);

	return map(OTHER, fd, arg[1], offsets[arg[2]], map_length[arg[3]], arg[4],
		   0);
}

/* A part of a mapping: all of it, pages of it, or a range that goes past it or is odd. */
enum { NR_PARTS = 8 };

static char *part(char *start, uint64_t *length, unsigned int which)
{
	uint64_t all = *length;

	switch (which) {
	case 1:
		*length = PAGE;
		return start;
	case 2:
		*length = PAGE;
		return start + (all / 2 & -PAGE);
	case 3:
		*length = all - all / 2;
		return start + (all / 2 & -PAGE);
	case 4:
		return start + 1;
	case 5:
		*length = 0;
		return start;
	case 6:
		*length = all + PAGE;
		return start;
	case 7:
		*length = PAGE;
		return start + all - PAGE;
	default:
		return start;
	}
}

/* If nothing is mapped, the part is memory of the arena without access. */
static char *pick_part(const uint8_t *arg, uint64_t *length)
{
	char *start = pick_map(arg[0], 0, length);

	if (!*length)
		*length = PAGE;
	return part(start, length, arg[1]);
}

static int do_munmap(struct thread *self, const uint8_t *arg)
{
	uint64_t length;
	char *start = pick_part(arg, &length);

	if (!arg[1])
		store(&maps[(start - arena) / MAP_SLOT], 0);
	return RESULT(munmap(start, length));
}

static __thread volatile bool armed;

static void handle_fault(int signal_nr)
{
	if (!armed) {
		signal(signal_nr, SIG_DFL);
		return;
	}
	siglongjmp(touch_jump, signal_nr);
}

/* Like touch() of the other tests, but the handler stays, and a write has a value. */
static int access_word(volatile uint64_t *word, bool write, uint64_t value)
{
	int signal = sigsetjmp(touch_jump, 0);

	if (!signal) {
		armed = true;
		if (write)
			*word = value;
		else
			(void)*word;
	}
	armed = false;
	return -signal;
}

static int do_touch(struct thread *self, const uint8_t *arg)
{
	uint64_t length;
	char *start = pick_map(arg[0], arg[3], &length);
	const uint64_t at[] = {
		0, PAGE, length / 2, length - 8, length, SLAB_2M, SLAB_2M - 8,
		below(self, 256) * 8 * PAGE,
	};

	return access_word((void *)(start + at[arg[1]] % MAP_SLOT), arg[2], arg[2]);
}

static int do_scribble(struct thread *self, const uint8_t *arg)
{
	static const uint64_t values[] = {
		1, 0, 1ULL << 63, EVPL_WORD_COUNT, ~0ULL, 1ULL << 32,
	};
	uint64_t length;
	char *start = pick_map(arg[0], REFS, &length);
	struct evpl_entry *entry = (void *)start;

	return access_word((void *)&entry[arg[1]].word, true, values[arg[2]]);
}

static int do_mprotect(struct thread *self, const uint8_t *arg)
{
	static const int prots[] = {
		PROT_READ, PROT_READ | PROT_WRITE, PROT_NONE, PROT_READ | PROT_EXEC,
		PROT_WRITE, PROT_EXEC, PROT_READ | PROT_WRITE | PROT_EXEC,
	};
	uint64_t length;
	char *start = pick_part(arg, &length);

	return RESULT(mprotect(start, length, prots[arg[2]]));
}

static int do_mremap(struct thread *self, const uint8_t *arg)
{
	uint64_t length;
	char *start = pick_part(arg, &length);
	unsigned int to = arg[3] % NR_MAPS;
	char *target = arena + to * MAP_SLOT;
	uint64_t map = load(&maps[(start - arena) / MAP_SLOT]);
	char *p;

	switch (arg[2]) {
	case 0:
		p = mremap(start, length, length + SLAB_2M, MREMAP_MAYMOVE);
		break;
	case 1:
		p = mremap(start, length, length + PAGE, 0);
		break;
	case 2:
		p = mremap(start, length, length / 2, 0);
		break;
	case 3:	/* a second mapping of the same */
		p = mremap(start, 0, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, target);
		length = PAGE;
		break;
	case 4:
		p = mremap(start, length, length, MREMAP_MAYMOVE | MREMAP_FIXED |
			   MREMAP_DONTUNMAP, target);
		break;
	default:
		if (length > MAP_SLOT)
			length = MAP_SLOT;
		p = mremap(start, length, length, MREMAP_MAYMOVE | MREMAP_FIXED,
			   target);
	}
	if (p == MAP_FAILED)
		return -errno;
	if (p == target && length)
		store(&maps[to], (length & -PAGE) + (map % PAGE ?: OTHER));
	else if (p < arena || p >= arena + NR_MAPS * MAP_SLOT)
		munmap(p, length + SLAB_2M);
	return 0;
}

/* MADV_HWPOISON and MADV_SOFT_OFFLINE are left out: they take memory away for good. */
static int do_madvise(struct thread *self, const uint8_t *arg)
{
	static const int advice[] = {
		MADV_DONTNEED, MADV_REMOVE, MADV_PAGEOUT, MADV_DOFORK,
		MADV_DONTFORK, MADV_WILLNEED, MADV_COLD, MADV_FREE, MADV_HUGEPAGE,
		MADV_NOHUGEPAGE, MADV_DODUMP, MADV_WIPEONFORK, MADV_MERGEABLE,
		MADV_RANDOM, MADV_POPULATE_READ, MADV_POPULATE_WRITE,
		25 /* MADV_COLLAPSE */, 24 /* MADV_DONTNEED_LOCKED */, -1,
	};
	uint64_t length;
	char *start = pick_part(arg, &length);

	return RESULT(madvise(start, length, advice[arg[2]]));
}

static int do_mlock(struct thread *self, const uint8_t *arg)
{
	uint64_t length;
	char *start = pick_part(arg, &length);

	switch (arg[2]) {
	case 0:
		return RESULT(mlock(start, length));
	case 1:
		return RESULT(mlock2(start, length, MLOCK_ONFAULT));
	default:
		return RESULT(munlock(start, length));
	}
}

static int do_lseek(struct thread *self, const uint8_t *arg)
{
	static const off_t offsets[] = { 0, 1, -1, SLAB_2M, OWN_SIZE, LONG_MIN, LONG_MAX };
	unsigned int slot;

	return RESULT(lseek(pick_fd(arg[0], &slot), offsets[arg[1]], arg[2]));
}

static int do_poll(struct thread *self, const uint8_t *arg)
{
	unsigned int slot;
	struct pollfd pollfd = {
		.fd = arg[2] ? load(&ends[arg[0] % NR_ENDS]) : pick_fd(arg[0], &slot),
		.events = arg[1],
	};

	return RESULT(poll(&pollfd, 1, 0));
}

static int do_read(struct thread *self, const uint8_t *arg)
{
	unsigned int slot;
	int fd = pick_fd(arg[0], &slot);

	return RESULT(arg[1] ? pread(fd, self->buffer, 64, arg[1]) :
			       read(fd, self->buffer, 64));
}

static int do_write(struct thread *self, const uint8_t *arg)
{
	unsigned int slot;
	int fd = pick_fd(arg[0], &slot);

	return RESULT(arg[1] ? pwrite(fd, self->pages, 64, arg[1]) :
			       write(fd, self->pages, 64));
}

static int do_fsync(struct thread *self, const uint8_t *arg)
{
	unsigned int slot;

	return RESULT(fsync(pick_fd(arg[0], &slot)));
}

static int do_ftruncate(struct thread *self, const uint8_t *arg)
{
	unsigned int slot;

	return RESULT(ftruncate(pick_fd(arg[0], &slot), arg[1] * PAGE));
}

static int read_all(struct thread *self, const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t got;
	int tries = 32;

	if (fd < 0)
		return -errno;
	do
		got = read(fd, self->buffer, sizeof(self->buffer));
	while (got > 0 && tries--);
	close(fd);
	return got < 0 ? -EIO : 0;
}

static int do_fdinfo(struct thread *self, const uint8_t *arg)
{
	unsigned int slot;
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d",
		 arg[1] ? load(&ends[arg[0] % NR_ENDS]) : pick_fd(arg[0], &slot));
	return read_all(self, path);
}

static int do_counters(struct thread *self, const uint8_t *arg)
{
	return read_all(self, COUNTERS);
}

static int do_clients(struct thread *self, const uint8_t *arg)
{
	return read_all(self, "/sys/kernel/debug/evpl/clients");
}

static int do_smaps(struct thread *self, const uint8_t *arg)
{
	return read_all(self, "/proc/self/smaps");
}

static int set_cap(int which, unsigned long long bytes)
{
	char string[32];
	int length = snprintf(string, sizeof(string), "%llu", bytes);

	return RESULT(pwrite(cap_fds[which], string, length, 0));
}

static void reset_caps(void)
{
	set_cap(0, CAP);
	set_cap(1, CAP_PER_USER);
}

static int do_set_cap(struct thread *self, const uint8_t *arg)
{
	static const unsigned long long caps[] = {
		CAP_PER_USER, SLAB_2M, SLAB_2M + PAGE, 0, PAGE, 8 * SLAB_2M,
	};

	caps_changed = true;
	return set_cap(arg[0] % 2, caps[arg[1]]);
}

static int do_vmsplice(struct thread *self, const uint8_t *arg)
{
	uint64_t length;
	struct iovec iovec = { .iov_base = pick_part(arg, &length) };

	iovec.iov_len = arg[3] ? length : PAGE;
	return RESULT(vmsplice(pipes[arg[2] % NR_PIPES][1], &iovec, 1,
			       SPLICE_F_NONBLOCK));
}

static int do_drain(struct thread *self, const uint8_t *arg)
{
	int fd = pipes[arg[0] % NR_PIPES][0];
	ssize_t got;

	do
		got = read(fd, self->buffer, sizeof(self->buffer));
	while (arg[1] && got > 0);
	return got < 0 ? -errno : 0;
}

/* The child makes the rest of the program's calls, beside its parent. */
static int do_fork(struct thread *self, const uint8_t *arg)
{
	pid_t parent = getpid(), pid;
	int slot = 0;

	if (self->child)
		return -EPERM;
	while (load(&children[slot]))
		if (++slot == NR_CHILDREN)
			return -EAGAIN;

	pid = fork();
	if (pid < 0)
		return -errno;
	if (!pid) {
		self->child = true;
		self->trace = NULL;
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent || arg[0] == 2)
			_exit(0);
		return 0;
	}
	if (arg[0] == 1)
		kill_children = true;
	/* If the other thread took this slot meanwhile, kill its child now. */
	pid = swap(&children[slot], pid);
	if (pid) {
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
	}
	return 0;
}

#define VICTIM_LENGTH	(16 * MIB)

static void be_victim(bool by_mmap)
{
	int fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	struct evpl_setup setup;
	uint64_t offset;

	evpl_setup(fd, 0, &setup);
	store(&worker->victim_runs, 1);
	for (;;) {
		if (!by_mmap) {
			if (!evpl_slab_alloc(fd, VICTIM_LENGTH, &offset))
				evpl_slab_free(fd, offset);
		} else {
			void *p;

			fd = open(DEVICE, O_RDWR | O_CLOEXEC);
			p = evpl_map(fd, VICTIM_LENGTH, 0);
			if (p != MAP_FAILED)
				munmap(p, VICTIM_LENGTH);
			close(fd);
		}
	}
}

static int do_channel(struct thread *self, const uint8_t *arg)
{
	static const uint32_t capacities[] = {
		8, 0, 1, 2, EVPL_CHANNEL_CAPACITY_MAX, EVPL_CHANNEL_CAPACITY_MAX + 1, ~0U,
	};
	struct evpl_channel_create create = {
		.flags = flags_of[arg[2] % 6],
		.capacity = capacities[arg[3]],
		.__reserved = flags_of[arg[2] / 6],
	};
	unsigned int slot, first = arg[5] % 2 * 2;
	int fd = pick_fd(arg[0], &slot);
	struct evpl_channel_create *p;

	p = place(self, &create, sizeof(create), arg[1], arg[4]);
	if (ioctl(fd, EVPL_CHANNEL_CREATE, p))
		return -errno;
	for (int i = 0; i < 2; i++) {
		fcntl(p->out_fds[i], F_SETFL, O_NONBLOCK);
		store(&end_clients[first + i], 0);
		fd = swap(&ends[first + i], p->out_fds[i]);
		if (fd >= 0)
			close(fd);
	}
	return 0;
}

static int do_bind(struct thread *self, const uint8_t *arg)
{
	unsigned int slot, end = arg[1] % NR_ENDS;
	int fd = pick_fd(arg[0], &slot);
	const int what[] = { load(&ends[end]), fd, -1, INT_MAX, pipes[0][0] };
	struct evpl_channel_bind bind = {
		.flags = flags_of[arg[3] % 6],
		.fd = what[arg[4]],
		.__reserved = flags_of[arg[3] / 6],
	};

	if (ioctl(fd, EVPL_CHANNEL_BIND,
		  place(self, &bind, sizeof(bind), arg[2], arg[5])))
		return -errno;
	store(&end_clients[end], slot);
	return 0;
}

static struct ready {
	int fd;
	char *memory;
	struct evpl_entry *entries;
	unsigned int used;
} ready;

/* The first end that has these events, from this number on; or else the end of this number. */
static unsigned int pick_end(unsigned int arg, short events)
{
	struct pollfd pollfds[NR_ENDS];

	for (int i = 0; i < NR_ENDS; i++)
		pollfds[i] = (struct pollfd){ .fd = load(&ends[i]), .events = events };
	poll(pollfds, NR_ENDS, 0);
	for (int i = 0; i < NR_ENDS; i++)
		if (pollfds[(arg + i) % NR_ENDS].revents & events)
			return (arg + i) % NR_ENDS;
	return arg % NR_ENDS;
}

/* Give the ready client references to send. A child hasn't mapped the words. */
static void have_references(struct thread *self)
{
	for (int i = 0; i < 2 && !self->child; i++)
		__atomic_fetch_or(&ready.entries[i].word, 8, __ATOMIC_RELAXED);
}

static int do_send(struct thread *self, const uint8_t *arg)
{
	static const uint32_t lengths[] = { 1, PAGE, EVPL_BUFFER_SIZE_DEFAULT, 0, ~0U };
	static const uint32_t flags[] = {
		0, EVPL_RECORD_WRITE, EVPL_RECORD_REVOKED, ~0U, EVPL_RECORD_DEVICE,
		EVPL_RECORD_DEVICE | EVPL_RECORD_WRITE,
	};
	unsigned int end = pick_end(arg[0], POLLOUT), slot = load(&end_clients[end]);
	struct got *got = pick_got(arg[1]);
	const uint64_t offsets[] = {
		0, EVPL_BUFFER_SIZE_DEFAULT, load(&got->offset), load(&got->offset),
		SLAB_2M, EVPL_BUFFER_SIZE_DEFAULT - 1, windows.out_guest_offset,
		windows.out_guest_ro_offset, OWN_SIZE, ~0ULL,
		windows.out_guest_io_offset, windows.out_guest_io_ro_offset,
	};
	struct evpl_record records[4];
	unsigned int nr = 1 + arg[4] % 4;
	struct iovec iovec = { records, nr * sizeof(*records) };

	for (unsigned int i = 0; i < nr; i++)
		records[i] = (struct evpl_record){
			.offset = i ? 0 : offsets[arg[1] % ARRAY_SIZE(offsets)],
			.length = i ? 1 : lengths[arg[2]],
			.flags = i ? 0 : flags[arg[3]],
			.cookie = self->random,
		};
	if (slot == NR_FDS - 1 && arg[5] != 1)
		have_references(self);
	if (arg[5] == 2)
		iovec.iov_len--;
	if (arg[5] == 3)
		iovec.iov_base = NULL;
	return RESULT(pwritev2(load(&ends[end]), &iovec, 1, -1,
			       arg[5] == 4 ? RWF_NOWAIT : 0));
}

static int do_recv(struct thread *self, const uint8_t *arg)
{
	unsigned int end = arg[3] ? arg[0] % NR_ENDS : pick_end(arg[0], POLLIN);
	unsigned int nr = 1 + arg[1] % 4;
	struct evpl_record records[4], *where = records;
	struct iovec iovec;
	ssize_t ret;

	if (arg[2] == 1)
		where = NULL;
	if (arg[2] == 2)	/* the second can't be written */
		where = (void *)(self->pages + 2 * PAGE - sizeof(*where));
	iovec = (struct iovec){ where, nr * sizeof(*where) - (arg[2] == 3) };
	ret = preadv2(load(&ends[end]), &iovec, 1, -1, arg[2] == 4 ? RWF_NOWAIT : 0);
	if (ret < 0)
		return -errno;
	for (int i = 0; i < ret / (int)sizeof(*where); i++) {
		struct got *got = &gots[below(self, NR_GOT)];

		if (where[i].lease == EVPL_LEASE_NONE)
			continue;
		store(&got->offset, where[i].offset);
		store(&got->lease, where[i].lease);
		store(&got->client, load(&end_clients[end]));
	}
	return 0;
}

/* Take all references off a lease's word. */
static void let_go(int fd, uint32_t lease)
{
	uint64_t at = lease * sizeof(struct evpl_entry);
	char *page = evpl_map(fd, PAGE, windows.out_leases_offset + (at & -PAGE));

	if (page == MAP_FAILED)
		return;
	access_word((void *)(page + at % PAGE), true, 0);
	munmap(page, PAGE);
}

static int do_release(struct thread *self, const uint8_t *arg)
{
	const struct got *got = pick_got(arg[1]);
	unsigned int slot = load(&got->client);
	uint32_t numbers[] = {
		load(&got->lease), EVPL_LEASE_NONE, 0, 1U << 31, 19U << 26, load(&got->lease),
	};
	struct evpl_lease_release release = {
		.flags = flags_of[arg[3]],
		.leases = arg[4] == 3 ? 0 : (uintptr_t)(numbers + (arg[4] == 1 ? 0 :
							arg[4] == 2 ? 2 : 5)),
		.count = arg[4] == 4 ? EVPL_LEASE_RELEASE_MAX + 1 : arg[4] == 1 ? 2 : 1,
	};
	int fd = load(&fds[slot]);

	if (arg[4] == 5)
		fd = pick_fd(arg[1], &slot);
	if (load(&got->offset))
		let_go(fd, numbers[0]);
	return RESULT(ioctl(fd, EVPL_LEASE_RELEASE,
			    place(self, &release, sizeof(release), arg[2], arg[5])));
}

static int do_pull(struct thread *self, const uint8_t *arg)
{
	struct evpl_lease_pull pull = { .flags = flags_of[arg[2]] };
	unsigned int slot;

	return RESULT(ioctl(pick_fd(arg[0], &slot), EVPL_LEASE_PULL,
			    place(self, &pull, sizeof(pull), arg[1], arg[3])));
}

static int do_revoke(struct thread *self, const uint8_t *arg)
{
	struct evpl_revoke revoke = { .flags = flags_of[arg[2]] };
	unsigned int slot;
	int fd = pick_fd(arg[0], &slot);
	uint64_t *where;

	revoke.offset = pick_slab(slot, arg[3], &where) + wrong_by[arg[4]];
	return RESULT(ioctl(fd, EVPL_REVOKE,
			    place(self, &revoke, sizeof(revoke), arg[1], arg[5])));
}

static int do_mmap_guest(struct thread *self, const uint8_t *arg)
{
	const struct got *got = pick_got(arg[0]);
	uint64_t offset = load(&got->offset) & -EVPL_BUFFER_SIZE_DEFAULT;
	const uint64_t offsets[] = {
		offset, offset + PAGE, windows.out_guest_offset,
		windows.out_guest_ro_offset,
		windows.out_guest_ro_offset + windows.out_guest_size - PAGE,
		windows.out_header_offset, windows.out_returned_offset,
		windows.out_revoked_offset, windows.out_leases_offset,
		windows.out_guest_io_offset, windows.out_guest_io_ro_offset,
		windows.out_guest_io_ro_offset + windows.out_guest_size - PAGE,
	};

	return map(GUEST, load(&fds[load(&got->client)]), arg[1], offsets[arg[2]],
		   map_length[arg[3]], arg[4], arg[5] ? PAGE : 0);
}

/* The arguments make the first range; the others have a page each. */
static int do_export(struct thread *self, const uint8_t *arg)
{
	static const uint64_t lengths[] = {
		PAGE, 2 * PAGE, EVPL_BUFFER_SIZE_DEFAULT, SLAB_2M, 0, 1, -PAGE,
		EVPL_BUFFER_SIZE_MAX + PAGE,
	};
	static const uint32_t flags[] = {
		EVPL_EXPORT_WRITE, 0, EVPL_EXPORT_SLAB | EVPL_EXPORT_WRITE,
		EVPL_EXPORT_SLAB, EVPL_EXPORT_WRITE, 0,
		EVPL_EXPORT_SLAB | EVPL_EXPORT_WRITE, EVPL_EXPORT_SLAB, 1U << 31, ~0U,
	};
	static const uint32_t counts[] = {
		1, 2, 1, EVPL_EXPORT_RANGES_MAX, 1, 3, 0, EVPL_EXPORT_RANGES_MAX + 1,
	};
	static struct evpl_range ranges[2][EVPL_EXPORT_RANGES_MAX];
	struct evpl_range *range = ranges[self->sibling];
	const struct got *got = pick_got(arg[4]);
	struct evpl_export export = {
		.flags = flags[arg[2]],
		.ranges = arg[4] == 127 ? 0 : (uintptr_t)range,
		.count = counts[arg[4] / 16],
	};
	unsigned int slot;
	int fd = pick_fd(arg[0], &slot);
	uint64_t *where, slab = pick_slab(slot, arg[4], &where);
	const uint64_t offsets[] = {
		slab, slab + PAGE, load(&got->offset) & -PAGE,
		load(&got->offset) & -EVPL_BUFFER_SIZE_DEFAULT, slab + SLAB_2M - PAGE,
		slab + 1, OWN_SIZE, 1ULL << 63,
	};
	struct evpl_export *p;

	range[0] = (struct evpl_range){ offsets[arg[3] % 8], lengths[arg[3] / 8] };
	for (unsigned int i = 1; i < export.count && i < EVPL_EXPORT_RANGES_MAX; i++)
		range[i] = (struct evpl_range){ slab + i * PAGE, PAGE };
	if (arg[3] % 8 == 2 || arg[3] % 8 == 3)
		fd = load(&fds[load(&got->client)]);
	else if (slot == NR_FDS - 1 && arg[4] % 4)
		have_references(self);
	p = place(self, &export, sizeof(export), arg[1], arg[5]);
	if (ioctl(fd, EVPL_EXPORT, p))
		return -errno;
	fd = swap(&dmabufs[arg[4] % NR_DMABUFS], p->out_fd);
	if (fd >= 0)
		close(fd);
	return 0;
}

/* The dma-buf with this number, or else the first that there is. */
static int pick_dmabuf(unsigned int arg)
{
	int fd = load(&dmabufs[arg % NR_DMABUFS]);

	for (unsigned int i = 0; fd < 0 && i < NR_DMABUFS; i++)
		fd = load(&dmabufs[i]);
	return fd;
}

static int do_mmap_dmabuf(struct thread *self, const uint8_t *arg)
{
	static const uint64_t offsets[] = { 0, PAGE, 1, EVPL_BUFFER_SIZE_DEFAULT, -PAGE };
	static const uint64_t lengths[] = {
		PAGE, 2 * PAGE, EVPL_BUFFER_SIZE_DEFAULT, 1, 0, SLAB_2M, 1ULL << 40, ~0ULL,
	};
	static const uint8_t one[MAX_ARGS] = { NR_FDS - 1 };

	/* Mostly there is no dma-buf yet: then export memory of the ready client. */
	if (pick_dmabuf(arg[0]) < 0)
		do_export(self, one);
	return map(OTHER, pick_dmabuf(arg[0]), arg[1], offsets[arg[2]],
		   lengths[arg[3]], arg[4], arg[5] ? PAGE : 0);
}

static int do_sync(struct thread *self, const uint8_t *arg)
{
	struct dma_buf_sync sync = { .flags = arg[1] };

	return RESULT(ioctl(pick_dmabuf(arg[0]), DMA_BUF_IOCTL_SYNC, &sync));
}

static int do_floor(struct thread *self, const uint8_t *arg)
{
	static const uint64_t lengths[] = {
		SLAB_2M, PAGE, 0, PAGE + 1, 2 * SLAB_2M, -PAGE, OWN_SIZE,
	};
	struct evpl_floor args = {
		.flags = flags_of[arg[2]],
		.length = lengths[arg[4]],
	};
	unsigned int slot;
	int fd = pick_fd(arg[0], &slot);
	uint64_t *where;

	args.offset = pick_slab(slot, arg[0], &where) + wrong_by[arg[3]];
	return RESULT(ioctl(fd, EVPL_FLOOR,
			    place(self, &args, sizeof(args), arg[1], arg[5])));
}

static int do_quarantine_end(struct thread *self, const uint8_t *arg)
{
	struct evpl_quarantine_end end = { .flags = flags_of[arg[2]] };
	unsigned int slot;
	int fd = pick_fd(arg[0], &slot);
	uint64_t *where;

	end.offset = pick_slab(slot, arg[3], &where) + wrong_by[arg[4]];
	return RESULT(ioctl(fd, EVPL_QUARANTINE_END,
			    place(self, &end, sizeof(end), arg[1], arg[5])));
}

/* EVPL_WAIT_TRY is always set: a thread that waits would make no more calls. */
static int do_buffer_wait(struct thread *self, const uint8_t *arg)
{
	struct evpl_buffer_wait wait = { .flags = EVPL_WAIT_TRY | flags_of[arg[2]] };
	/* The struct at place 4 is read-only and has no flags, so the call would wait for ever. */
	unsigned int slot, pointer = arg[5] == 4 ? 0 : arg[5];
	int fd = pick_fd(arg[0], &slot);
	uint64_t *where;

	wait.offset = pick_slab(slot, arg[3], &where) + wrong_by[arg[4]];
	return RESULT(ioctl(fd, EVPL_BUFFER_WAIT,
			    place(self, &wait, sizeof(wait), arg[1], pointer)));
}

static void count(unsigned int kind, int ret)
{
	add(&shared->results[kind][-ret < NR_RESULTS ? -ret : NR_RESULTS - 1], 1);
}

/*
 * A task with a fatal signal never sees the result of its call, but its tracer does:
 * the task stops on its way out, and the call's result is still in its registers.
 */
static int kill_one(struct thread *self, bool by_mmap)
{
	pid_t parent = getpid(), pid;
	int ret = -EAGAIN, status;

	store(&worker->victim_runs, 0);
	pid = fork();
	if (pid < 0)
		return -errno;
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() == parent)
			be_victim(by_mmap);
		_exit(0);
	}
	ptrace(PTRACE_SEIZE, pid, NULL, PTRACE_O_TRACEEXIT | PTRACE_O_EXITKILL);
	for (int i = 0; i < 1000 && !load(&worker->victim_runs); i++)
		usleep(1000);
	usleep(below(self, 20000));
	kill(pid, SIGKILL);

	while (waitpid(pid, &status, __WALL) == pid && WIFSTOPPED(status)) {
#ifdef __x86_64__
		struct user_regs_struct regs;

		if (status >> 8 == (SIGTRAP | PTRACE_EVENT_EXIT << 8) &&
		    !ptrace(PTRACE_GETREGS, pid, NULL, &regs) &&
		    regs.orig_rax == (by_mmap ? SYS_mmap : SYS_ioctl) &&
		    (long)regs.rax == -EINTR) {
			count(by_mmap ? MMAP_OWN : ALLOC, -EINTR);
			ret = 0;
		}
#endif
		ptrace(PTRACE_CONT, pid, NULL, NULL);
	}
	return ret;
}

static int do_kill(struct thread *self, const uint8_t *arg)
{
	int ret = -EPERM;

	for (int tries = 0; ret && tries < 4 && !self->child && !self->sibling; tries++)
		ret = kill_one(self, arg[0]);
	return ret;
}

/*
 * Argument n goes from 0 to below @max[n]. If bit n of @even is set, all of its values are
 * equally likely. If not, 0 is the value with which the call can succeed, and one in @odds
 * (10) gets a random value instead. A call with @dear takes long, so only one in @dear of
 * them is made, or survives a change of its program.
 */
#define ARGS(...)	.max = { __VA_ARGS__ }
#define OF(array)	ARRAY_SIZE(array)

static const struct kind {
	const char *name;
	int (*run)(struct thread *self, const uint8_t *arg);
	unsigned int weight;
	unsigned int dear;
	unsigned int even;
	unsigned int odds;
	uint8_t max[MAX_ARGS];
} kinds[NR_KINDS] = {
	[OPEN] = { "open", do_open, 10, 0, 1, ARGS(NR_FDS, OF(open_flags)) },
	[CLOSE] = { "close", do_close, 6, 0, 3, ARGS(NR_FDS, 3) },
	[DUP] = { "dup", do_dup, 8, 0, 3, ARGS(NR_FDS, NR_FDS) },
	[SETUP] = { "setup", do_setup, 50, 0, 1,
		    ARGS(NR_FDS, NR_SIZES, OF(flags_of), OF(buffer_size_of),
			 NR_POINTERS) },
	[ALLOC] = { "alloc", do_alloc, 128, 8, 1,
		    ARGS(NR_FDS, NR_SIZES, 18, OF(length_of), OF(node_of),
			 NR_POINTERS) },
	[FREE] = { "free", do_free, 40, 0, 9,
		   ARGS(NR_FDS, NR_SIZES, OF(flags_of), NR_SLABS, OF(wrong_by),
			NR_POINTERS) },
	[IOCTL] = { "ioctl", do_ioctl, 40, 0, 15, ARGS(NR_FDS, 16, 4, 255, 2) },
	[MMAP_OWN] = { "mmap_own", do_mmap_own, 60, 0, 3,
		       ARGS(NR_FDS, NR_MAPS, 7, OF(map_length), OF(how_to_map), 2),
		       .odds = 4 },
	[MMAP_REFS] = { "mmap_refs", do_mmap_refs, 50, 0, 3,
			ARGS(NR_FDS, NR_MAPS, 7, OF(refs_length), OF(how_to_map)) },
	[MMAP_OTHER] = { "mmap_other", do_mmap_other, 20, 0, 15,
			 ARGS(NR_FDS, NR_MAPS, 10, OF(map_length), OF(how_to_map)) },
	[MUNMAP] = { "munmap", do_munmap, 30, 0, 3, ARGS(NR_MAPS, NR_PARTS) },
	[TOUCH] = { "touch", do_touch, 160, 0, 13, ARGS(NR_MAPS, 8, 2, 4) },
	[MPROTECT] = { "mprotect", do_mprotect, 40, 0, 7,
		       ARGS(NR_MAPS, NR_PARTS, 7) },
	[MREMAP] = { "mremap", do_mremap, 30, 0, 13,
		     ARGS(NR_MAPS, NR_PARTS, 6, NR_MAPS) },
	[MADVISE] = { "madvise", do_madvise, 50, 0, 5, ARGS(NR_MAPS, NR_PARTS, 19) },
	[MLOCK] = { "mlock", do_mlock, 12, 0, 5, ARGS(NR_MAPS, NR_PARTS, 3) },
	[SCRIBBLE] = { "scribble", do_scribble, 60, 0, 7, ARGS(NR_MAPS, 80, 6) },
	[LSEEK] = { "lseek", do_lseek, 20, 0, 7, ARGS(NR_FDS, 7, 7) },
	[POLL] = { "poll", do_poll, 15, 0, 7, ARGS(NR_FDS, 8, 2) },
	[READ] = { "read", do_read, 8, 0, 3, ARGS(NR_FDS, 2) },
	[WRITE] = { "write", do_write, 8, 0, 3, ARGS(NR_FDS, 2) },
	[FSYNC] = { "fsync", do_fsync, 5, 0, 1, ARGS(NR_FDS) },
	[FTRUNCATE] = { "ftruncate", do_ftruncate, 6, 0, 3, ARGS(NR_FDS, 4) },
	[FDINFO] = { "fdinfo", do_fdinfo, 8, 0, 3, ARGS(NR_FDS, 2) },
	[READ_COUNTERS] = { "counters", do_counters, 4, 0, 0, ARGS(1) },
	[READ_CLIENTS] = { "clients", do_clients, 4, 0, 0, ARGS(1) },
	[SMAPS] = { "smaps", do_smaps, 4, 16, 0, ARGS(1) },
	[SET_CAP] = { "set_cap", do_set_cap, 16, 4, 3, ARGS(2, 6) },
	[VMSPLICE] = { "vmsplice", do_vmsplice, 20, 0, 5,
		       ARGS(NR_MAPS, NR_PARTS, NR_PIPES, 2) },
	[DRAIN] = { "drain", do_drain, 12, 0, 3, ARGS(NR_PIPES, 2) },
	[FORK] = { "fork", do_fork, 8, 16, 1, ARGS(3) },
	[KILL] = { "kill", do_kill, 12, 128, 1, ARGS(2) },
	[CHANNEL] = { "channel", do_channel, 25, 0, 33,
		      ARGS(NR_FDS, NR_SIZES, 18, 7, NR_POINTERS, 2) },
	[BIND] = { "bind", do_bind, 40, 0, 3,
		   ARGS(NR_FDS, NR_ENDS, NR_SIZES, 18, 5, NR_POINTERS) },
	[SEND] = { "send", do_send, 160, 0, 27, ARGS(NR_ENDS, 40, 5, 6, 4, 5) },
	[RECV] = { "recv", do_recv, 100, 0, 3, ARGS(NR_ENDS, 4, 5, 2) },
	[RELEASE] = { "release", do_release, 60, 0, 2,
		      ARGS(1, NR_GOT, NR_SIZES, OF(flags_of), 6, NR_POINTERS) },
	[PULL] = { "pull", do_pull, 20, 0, 1,
		   ARGS(NR_FDS, NR_SIZES, OF(flags_of), NR_POINTERS) },
	[REVOKE] = { "revoke", do_revoke, 40, 0, 9,
		     ARGS(NR_FDS, NR_SIZES, OF(flags_of), NR_SLABS, OF(wrong_by),
			  NR_POINTERS) },
	[MMAP_GUEST] = { "mmap_guest", do_mmap_guest, 60, 0, 3,
			 ARGS(NR_GOT, NR_MAPS, 12, OF(map_length), OF(how_to_map), 2),
			 .odds = 4 },
	[EXPORT] = { "export", do_export, 100, 0, 21,
		     ARGS(NR_FDS, NR_SIZES, 10, 64, 128, NR_POINTERS) },
	[MMAP_DMABUF] = { "mmap_dmabuf", do_mmap_dmabuf, 25, 0, 3,
			  ARGS(NR_DMABUFS, NR_MAPS, 5, 8, OF(how_to_map), 2),
			  .odds = 4 },
	[SYNC] = { "sync", do_sync, 10, 0, 3, ARGS(NR_DMABUFS, 9) },
	[FLOOR] = { "floor", do_floor, 20, 0, 1,
		    ARGS(NR_FDS, NR_SIZES, OF(flags_of), OF(wrong_by), 7, NR_POINTERS) },
	[QUARANTINE_END] = { "quarantine_end", do_quarantine_end, 6, 0, 9,
			     ARGS(NR_FDS, NR_SIZES, OF(flags_of), NR_SLABS,
				  OF(wrong_by), NR_POINTERS) },
	[BUFFER_WAIT] = { "buffer_wait", do_buffer_wait, 20, 0, 9,
			  ARGS(NR_FDS, NR_SIZES, OF(flags_of), NR_SLABS,
			       OF(wrong_by), NR_POINTERS) },
};

static uint8_t lottery[2048];
static unsigned int nr_lottery;

static void fill_lottery(void)
{
	for (unsigned int kind = 0; kind < NR_KINDS; kind++)
		for (unsigned int i = 0; i < kinds[kind].weight; i++)
			lottery[nr_lottery++] = kind;
}

/* Programs: print, parse, make up, change and run them. */

static void print_program(char *text, size_t size, const struct program *p)
{
	size_t at = 0;

	for (unsigned int i = 0; i < p->nr && at + 48 < size; i++) {
		const struct call *call = &p->calls[i];
		const struct kind *kind = &kinds[call->kind];

		at += sprintf(text + at, "%s%s%s(", i ? " " : "",
			      call->sibling ? "&" : "", kind->name);
		for (int n = 0; n < MAX_ARGS && kind->max[n]; n++)
			at += sprintf(text + at, "%s%u", n ? "," : "", call->arg[n]);
		text[at++] = ')';
	}
	text[at] = 0;
}

/* Return false if the line isn't a program of calls that this source knows. */
static bool parse_program(struct program *p, char *line)
{
	char *save, *word = strtok_r(line, "\n ", &save);

	*p = (struct program){};
	for (; word && p->nr < MAX_CALLS; word = strtok_r(NULL, "\n ", &save)) {
		struct call *call = &p->calls[p->nr++];
		char *paren = strchr(word, '(');
		unsigned int kind = 0;

		call->sibling = *word == '&';
		word += call->sibling;
		if (!paren)
			return false;
		*paren++ = 0;
		while (strcmp(kinds[kind].name, word))
			if (++kind == NR_KINDS)
				return false;
		call->kind = kind;
		for (int n = 0; n < MAX_ARGS && isdigit(*paren); n++) {
			unsigned long value = strtoul(paren, &paren, 10);

			if (value >= kinds[kind].max[n])
				return false;
			call->arg[n] = value;
			paren += *paren == ',';
		}
	}
	return p->nr;
}

static void make_arg(struct thread *self, struct call *call, int n)
{
	const struct kind *kind = &kinds[call->kind];

	call->arg[n] = kind->even >> n & 1 || !below(self, kind->odds ?: 10) ?
		       below(self, kind->max[n]) : 0;
}

static struct call make_call(struct thread *self, unsigned int kind)
{
	struct call call = { .kind = kind };

	for (int n = 0; n < MAX_ARGS && kinds[kind].max[n]; n++)
		make_arg(self, &call, n);
	return call;
}

static bool is_too_dear(struct thread *self, unsigned int kind)
{
	return kinds[kind].dear && below(self, kinds[kind].dear);
}

static struct call any_call(struct thread *self)
{
	unsigned int kind;

	do
		kind = lottery[below(self, nr_lottery)];
	while (is_too_dear(self, kind));
	return make_call(self, kind);
}

/*
 * Make the last record one for devices, and have a pipe hold the buffer when the lease ends
 * or is revoked. Then end the quarantine in one of several ways.
 */
static void make_up_quarantine(struct thread *self, struct program *p)
{
	static const struct call calls[] = {
		{ .kind = MMAP_GUEST, .arg = { 0, 0, 0, 0, 1 } }, { .kind = VMSPLICE },
	};
	struct call end = { .kind = RELEASE };

	p->calls[p->nr - 2].arg[3] = 4 + below(self, 2);
	for (int i = 0; i < ARRAY_SIZE(calls); i++)
		p->calls[p->nr++] = calls[i];
	if (!below(self, 4))
		end = (struct call){ .kind = REVOKE, .arg = { NR_FDS - 1 } };
	p->calls[p->nr++] = end;
	switch (below(self, 4)) {
	case 0:
		p->calls[p->nr++] = (struct call){ .kind = DRAIN };
		break;
	case 1:
	case 2:
		p->calls[p->nr++] = (struct call){ .kind = QUARANTINE_END,
						   .arg = { NR_FDS - 1 } };
		break;
	default:
		p->calls[p->nr++] = (struct call){ .kind = REVOKE,
						   .arg = { NR_FDS - 1 } };
	}
}

/* Make up a program that begins with setting a client up; often it has the ready client. */
static void make_up(struct thread *self, struct program *p)
{
	static const uint8_t begin[] = { OPEN, SETUP, ALLOC, MMAP_OWN, MMAP_REFS };
	unsigned int length = MAX_CALLS / 2 + below(self, MAX_CALLS / 2);
	bool both = !below(self, 3);

	p->nr = 0;
	for (int i = below(self, 8) ? 3 : 0; i < ARRAY_SIZE(begin); i++)
		if (below(self, 8))
			p->calls[p->nr++] = make_call(self, begin[i]);
	/* Make a channel from the ready client to a new one, and send a record. */
	if (below(self, 2)) {
		static const struct call channel[] = {
			{ .kind = OPEN }, { .kind = SETUP }, { .kind = CHANNEL },
			{ .kind = BIND, .arg = { NR_FDS - 1, 0 } },
			{ .kind = BIND, .arg = { 0, 1 } },
			{ .kind = SEND }, { .kind = RECV },
		};

		for (int i = 0; i < ARRAY_SIZE(channel); i++)
			p->calls[p->nr++] = channel[i];
		/* Export the lease, half of the time for writing. */
		if (!below(self, 4))
			p->calls[p->nr++] = (struct call){
				.kind = EXPORT, .arg = { 0, 0, below(self, 2), 3 },
			};
		if (below(self, 2))
			make_up_quarantine(self, p);
	}
	while (p->nr < length) {
		struct call call = any_call(self), before;

		/* Only a new client can be set up, so open one before. */
		if (call.kind == SETUP && below(self, 2) && p->nr + 1 < length) {
			before = make_call(self, OPEN);
			before.arg[0] = call.arg[0];
			p->calls[p->nr++] = before;
		}
		p->calls[p->nr++] = call;
	}
	for (unsigned int i = 0; both && i < p->nr; i++)
		p->calls[i].sibling = i > 1 && below(self, 2);
}

static void change(struct thread *self, struct program *p, const struct program *other)
{
	unsigned int at = below(self, p->nr), from = below(self, other->nr);
	struct call *call = &p->calls[at];

	switch (below(self, 8)) {
	case 0:
	case 1:
		if (p->nr == MAX_CALLS)
			break;
		memmove(call + 1, call, (p->nr++ - at) * sizeof(*call));
		*call = any_call(self);
		break;
	case 2:
		if (p->nr == 1)
			break;
		memmove(call, call + 1, (--p->nr - at) * sizeof(*call));
		break;
	case 3:
		*call = any_call(self);
		break;
	case 4:
	case 5:
		for (int n = 0; n < MAX_ARGS && kinds[call->kind].max[n]; n++)
			if (!below(self, 2))
				make_arg(self, call, n);
		break;
	case 6:
		call->sibling ^= 1;
		break;
	default:
		for (; at < MAX_CALLS && from < other->nr; from++)
			if (!is_too_dear(self, other->calls[from].kind))
				p->calls[at++] = other->calls[from];
		p->nr = at ?: p->nr;
	}
}

static void thin_out(struct thread *self, struct program *p)
{
	unsigned int kept = 0;

	for (unsigned int i = 0; i < p->nr; i++) {
		if (!is_too_dear(self, p->calls[i].kind))
			p->calls[kept++] = p->calls[i];
	}
	p->nr = kept;
}

static void choose(struct thread *self, struct program *p)
{
	unsigned int nr = load(&shared->nr_corpus);

	if (shared->next_seed < shared->nr_seeds) {
		unsigned int seed = add(&shared->next_seed, 1);

		if (seed < shared->nr_seeds) {
			*p = shared->seeds[seed];
			return;
		}
	}
	if (!nr || !below(self, 3)) {
		make_up(self, p);
		return;
	}
	*p = shared->corpus[below(self, nr)];
	thin_out(self, p);
	if (!p->nr)
		make_up(self, p);
	for (int changes = 1 + below(self, 4); changes; changes--)
		change(self, p, &shared->corpus[below(self, nr)]);
}

static void open_trace(struct thread *self)
{
	int fd = open("/sys/kernel/debug/kcov", O_RDWR | O_CLOEXEC);

	if (fd < 0 || ioctl(fd, KCOV_INIT_TRACE, MAX_TRACE))
		return;
	self->trace = mmap(NULL, MAX_TRACE * sizeof(*self->trace),
			   PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (self->trace == MAP_FAILED || ioctl(fd, KCOV_ENABLE, KCOV_TRACE_PC))
		self->trace = NULL;
}

static void note_reached(struct thread *self)
{
	unsigned long nr = __atomic_load_n(&self->trace[0], __ATOMIC_RELAXED);
	uint32_t last = 0;

	for (unsigned long i = 1; i <= nr && i < MAX_TRACE; i++) {
		uint32_t pc = self->trace[i];
		uint32_t slot = (pc * 0x9e3779b1U) >> 16;
		uint32_t edge = ((pc ^ last) * 0x9e3779b1U) >> 16;

		last = pc << 7 | pc >> 25;
		if (self->marks[edge] == self->round)
			continue;
		self->marks[edge] = self->round;
		if (self->nr_reached < MAX_REACHED)
			self->reached[self->nr_reached++] = edge;
		if (!shared->pcs[slot] && !swap(&shared->pcs[slot], 1))
			add(&shared->nr_pcs, 1);
	}
}

static void run_calls(struct thread *self)
{
	unsigned int done = 0;

	self->round++;
	self->nr_reached = 0;
	for (unsigned int i = 0; i < program.nr; i++) {
		const struct call *call = &program.calls[i];

		if (call->sibling != self->sibling)
			continue;
		if (self->trace)
			__atomic_store_n(&self->trace[0], 0, __ATOMIC_RELAXED);
		count(call->kind, kinds[call->kind].run(self, call->arg));
		if (self->trace)
			note_reached(self);
		done++;
	}
	add(&shared->calls, done);
	add(&worker->calls, done);
	if (self->child)
		_exit(0);
}

static void wait_while(unsigned int *word, unsigned int value)
{
	while (load(word) == value)
		syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void set_and_wake(unsigned int *word, unsigned int value)
{
	store(word, value);
	syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static void *be_sibling(void *arg)
{
	struct thread *self = arg;

	open_trace(self);
	for (unsigned int seen = 0;; seen++) {
		wait_while(&turn, seen);
		run_calls(self);
		set_and_wake(&turn_done, seen + 1);
	}
	return NULL;
}

/*
 * Memory takes long to allocate. So there is a ready client, with a slab, which is the last
 * descriptor at the start of each program. If a program has changed it, another one
 * replaces it; only the words of its entries are set back.
 */
static void make_ready(void)
{
	uint64_t offset;

	if (ready.memory) {
		munmap(ready.memory, SLAB_2M);
		munmap(ready.entries, PAGE);
		close(ready.fd);
	}
	ready.used = 0;
	ready.fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	if (ready.fd < 0 || evpl_setup(ready.fd, 0, &windows))
		_exit(8);
	/* A cap may be low just now. */
	while (evpl_slab_alloc(ready.fd, SLAB_2M, &offset))
		usleep(10000);
	ready.memory = evpl_map(ready.fd, SLAB_2M, offset);
	ready.entries = evpl_map(ready.fd, PAGE, windows.out_refs_offset);
	if (ready.memory == MAP_FAILED || ready.entries == MAP_FAILED)
		_exit(9);
}

static void hand_out_ready(void)
{
	if (!ready.memory || ready.used++ > 500 ||
	    lseek(ready.fd, 0, SEEK_END) != SLAB_2M ||
	    access_word((void *)ready.memory, false, 0))
		make_ready();
	for (int i = 0; i < SLAB_2M / EVPL_BUFFER_SIZE_DEFAULT; i++)
		store(&ready.entries[i].word, 0);
	fds[NR_FDS - 1] = dup(ready.fd);
	slabs[NR_FDS - 1][0] = 1;
	buffer_sizes[NR_FDS - 1] = EVPL_BUFFER_SIZE_DEFAULT;
}

static void clear_arena(void)
{
	if (mmap(arena, NR_MAPS * MAP_SLOT, PROT_NONE, MAP_PRIVATE |
		 MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
		_exit(2);
	memset(maps, 0, sizeof(maps));
}

/* Undo all that a program did. */
static void clean_up(void)
{
	for (int i = 0; i < NR_CHILDREN; i++) {
		if (!children[i])
			continue;
		if (kill_children)
			kill(children[i], SIGKILL);
		waitpid(children[i], NULL, 0);
		children[i] = 0;
	}
	kill_children = false;
	for (int i = 0; i < NR_FDS; i++)
		put_fd(i, -1);
	for (int i = 0; i < NR_ENDS; i++) {
		int end = swap(&ends[i], -1);

		if (end >= 0)
			close(end);
	}
	for (int i = 0; i < NR_DMABUFS; i++) {
		int dmabuf = swap(&dmabufs[i], -1);

		if (dmabuf >= 0)
			close(dmabuf);
	}
	memset(end_clients, 0, sizeof(end_clients));
	memset(gots, 0, sizeof(gots));
	memset(slabs, 0, sizeof(slabs));
	clear_arena();
	for (int i = 0; i < NR_PIPES; i++)
		while (read(pipes[i][0], threads[0].buffer, PAGE) > 0)
			;
	if (caps_changed)
		reset_caps();
	caps_changed = false;
}

static void hand_over(void)
{
	struct thread *a = &threads[0], *b = &threads[1];
	unsigned int head = worker->head;
	struct candidate *candidate = &worker->ring[head % RING];
	bool new = false;

	for (unsigned int i = 0; i < b->nr_reached && a->nr_reached < MAX_REACHED; i++)
		if (a->marks[b->reached[i]] != a->round)
			a->reached[a->nr_reached++] = b->reached[i];
	for (unsigned int i = 0; i < a->nr_reached && !new; i++)
		new = !shared->edges[a->reached[i]];
	if (!new || head - load(&worker->tail) == RING)
		return;

	candidate->program = program;
	candidate->nr_reached = a->nr_reached;
	memcpy(candidate->reached, a->reached, sizeof(a->reached));
	store(&worker->head, head + 1);
	for (unsigned int i = 0; i < a->nr_reached; i++)
		store(&shared->edges[a->reached[i]], 1);
}

static void run_program(void)
{
	static char text[MAX_CALLS * 64];
	bool both = false;

	for (unsigned int i = 0; i < program.nr; i++)
		both |= program.calls[i].sibling;
	worker->current = program;
	store(&worker->programs, worker->programs + 1);
	if (kmsg >= 0) {
		print_program(text, sizeof(text) - 1, &program);
		strcat(text, "\n");
		if (write(kmsg, text, strlen(text)) < 0)
			_exit(3);
	}

	hand_out_ready();
	threads[1].nr_reached = 0;
	if (both)
		set_and_wake(&turn, turn + 1);
	run_calls(&threads[0]);
	if (both)
		wait_while(&turn_done, turn - 1);
	if (threads[0].trace)
		hand_over();
	clean_up();
}

static void prepare_thread(struct thread *self, uint64_t seed)
{
	struct evpl_setup setup = { .size = sizeof(setup) };
	struct evpl_slab_alloc alloc = {
		.size = sizeof(alloc),
		.length = SLAB_2M,
		.node = EVPL_NODE_ANY,
	};
	struct evpl_slab_free slab_free = { .size = sizeof(slab_free) };
	char *pages = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (pages == MAP_FAILED)
		_exit(4);
	/* Put each struct at the offset that is its size; the structs don't overlap there. */
	memcpy(pages + 3 * PAGE + sizeof(slab_free), &slab_free, sizeof(slab_free));
	memcpy(pages + 3 * PAGE + sizeof(alloc), &alloc, sizeof(alloc));
	memcpy(pages + 3 * PAGE + sizeof(setup), &setup, sizeof(setup));
	mprotect(pages + 2 * PAGE, PAGE, PROT_NONE);
	mprotect(pages + 3 * PAGE, PAGE, PROT_READ);
	self->pages = pages;
	self->random = seed ?: 1;
	for (int i = 0; i < 8; i++)
		next(&self->random);
}

static void work(unsigned int nr, uint64_t seed, pid_t parent)
{
	struct sigaction action = {
		.sa_handler = handle_fault,
		.sa_flags = SA_NODEFER,
	};
	pthread_t sibling;
	char *room;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(0);
	signal(SIGTERM, SIG_DFL);
	signal(SIGINT, SIG_DFL);
	sigaction(SIGBUS, &action, NULL);
	sigaction(SIGSEGV, &action, NULL);
	worker = &shared->workers[nr];
	for (int i = 0; i < NR_FDS; i++) {
		fds[i] = -1;
		buffer_sizes[i] = EVPL_BUFFER_SIZE_DEFAULT;
	}
	for (int i = 0; i < NR_ENDS; i++)
		ends[i] = -1;
	for (int i = 0; i < NR_DMABUFS; i++)
		dmabufs[i] = -1;
	for (int i = 0; i < NR_PIPES; i++)
		if (pipe2(pipes[i], O_NONBLOCK | O_CLOEXEC))
			_exit(5);

	/* Parts of mappings may reach past the arena: leave memory without access around it. */
	room = mmap(NULL, (NR_MAPS + 2) * MAP_SLOT, PROT_NONE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (room == MAP_FAILED)
		_exit(6);
	arena = (char *)(((uintptr_t)room + MAP_SLOT) & -MAP_SLOT);
	for (int i = 0; i < 2; i++)
		prepare_thread(&threads[i], seed + i * 0x9e3779b97f4a7c15ULL);
	threads[1].sibling = true;
	open_trace(&threads[0]);
	if (threads[0].trace)
		store(&shared->guided, 1);
	if (pthread_create(&sibling, NULL, be_sibling, &threads[1]))
		_exit(7);

	while (!load(&shared->stop) && load(&shared->calls) < shared->limit) {
		choose(&threads[0], &program);
		run_program();
	}
	_exit(0);
}

/* The parent. */

static volatile sig_atomic_t interrupted;

static void interrupt(int signal)
{
	interrupted = 1;
}

static struct minder {
	pid_t pid;
	unsigned long long programs;	/* how many it had begun when it last made progress */
	double seen;			/* when that was */
	unsigned long long dies_at;	/* it is killed after so many calls */
} minders[MAX_WORKERS];

static struct thread parent;
static struct {
	unsigned int nr_reached;
	uint16_t *reached;
} covers[MAX_CORPUS];
static unsigned int nr_workers = 2, nr_killed, nr_started, nr_died, nr_hung;
static uint64_t seed;

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

static void load_seeds(const char *path)
{
	static char line[MAX_CALLS * 64];
	FILE *file = fopen(path, "re");
	unsigned int number = 0;

	if (!file) {
		printf("# no corpus %s: starting without\n", path);
		return;
	}
	while (fgets(line, sizeof(line), file) && shared->nr_seeds < MAX_CORPUS) {
		number++;
		if (*line == '#' || *line == '\n')
			continue;
		if (parse_program(&shared->seeds[shared->nr_seeds], line))
			shared->nr_seeds++;
		else
			printf("# %s:%u isn't a program\n", path, number);
	}
	fclose(file);
	printf("# %u programs from %s\n", shared->nr_seeds, path);
}

static void keep(const struct candidate *candidate)
{
	unsigned int nr = shared->nr_corpus;
	size_t size = candidate->nr_reached * sizeof(*candidate->reached);

	for (unsigned int i = 0; i < candidate->nr_reached; i++)
		shared->edges[candidate->reached[i]] = 1;
	if (nr == MAX_CORPUS)
		return;
	covers[nr].reached = malloc(size);
	if (!covers[nr].reached)
		return;
	memcpy(covers[nr].reached, candidate->reached, size);
	covers[nr].nr_reached = candidate->nr_reached;
	shared->corpus[nr] = candidate->program;
	store(&shared->nr_corpus, nr + 1);
}

static void collect(void)
{
	for (unsigned int i = 0; i < nr_workers; i++) {
		struct worker *w = &shared->workers[i];

		while (w->tail != load(&w->head)) {
			keep(&w->ring[w->tail % RING]);
			store(&w->tail, w->tail + 1);
		}
	}
}

static void start(unsigned int nr)
{
	struct minder *minder = &minders[nr];
	pid_t self = getpid();

	minder->dies_at = shared->workers[nr].calls + 1000 + below(&parent, 20000);
	minder->seen = now();
	minder->programs = shared->workers[nr].programs;
	nr_started++;
	fflush(stdout);
	minder->pid = fork();
	if (!minder->pid)
		work(nr, seed + nr_started * 0x2545f4914f6cdd1dULL, self);
}

static void show_hung(unsigned int nr)
{
	static char text[MAX_CALLS * 64];
	char command[128];

	print_program(text, sizeof(text), &shared->workers[nr].current);
	printf("# worker %d makes no progress in: %s\n", minders[nr].pid, text);
	fflush(stdout);
	snprintf(command, sizeof(command),
		 "for t in /proc/%d/task/*; do sed 's/^/# /' $t/stack; done",
		 minders[nr].pid);
	if (system(command) < 0)
		printf("# no shell\n");
}

/* Return how many workers are left. */
static unsigned int mind(bool stopping)
{
	unsigned int left = 0;

	for (unsigned int i = 0; i < nr_workers; i++) {
		struct minder *minder = &minders[i];
		struct worker *w = &shared->workers[i];
		int status;

		if (minder->pid && waitpid(minder->pid, &status, WNOHANG) == minder->pid) {
			minder->pid = 0;
			if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) {
				nr_killed++;
				reset_caps();
			} else if (status) {
				nr_died++;
				printf("# a worker ended by itself: status %#x\n",
				       status);
				stopping |= nr_died > 10;
			}
			if (!stopping && load(&shared->calls) < shared->limit)
				start(i);
		}
		if (!minder->pid)
			continue;
		left++;
		if (load(&w->programs) != minder->programs) {
			minder->programs = w->programs;
			minder->seen = now();
		} else if (now() - minder->seen > HANG_SECONDS) {
			show_hung(i);
			nr_hung++;
			kill(minder->pid, SIGKILL);
			minder->seen = now();
		}
		if (!stopping && w->calls >= minder->dies_at) {
			minder->dies_at = ULLONG_MAX;
			kill(minder->pid, SIGKILL);
		}
	}
	return left;
}

static unsigned int nr_edges(void)
{
	unsigned int nr = 0;

	for (unsigned int i = 0; i < SLOTS; i++)
		nr += shared->edges[i];
	return nr;
}

static void show_progress(double since)
{
	fprintf(stderr, "# %llu calls, %.0f a second, %u PCs, %u edges, %u programs kept, %u workers killed\n",
		shared->calls, shared->calls / (now() - since), shared->nr_pcs,
		nr_edges(), shared->nr_corpus, nr_killed);
}

static void run_workers(double minutes)
{
	double start_time = now(), shown = start_time;
	unsigned int ticks = 0, left = 1;
	bool stopping = false;

	for (unsigned int i = 0; i < nr_workers; i++)
		start(i);
	while (left && nr_hung <= nr_workers) {
		usleep(10000 + below(&parent, 10000));
		if (interrupted || nr_died > 10 ||
		    (minutes && now() - start_time > minutes * 60))
			stopping = true;
		store(&shared->stop, stopping);
		left = mind(stopping);
		collect();
		/* A worker that was killed may have left a cap low. */
		if (!(++ticks % 64))
			reset_caps();
		if (now() - shown > 10) {
			shown = now();
			show_progress(start_time);
		}
	}
	show_progress(start_time);
}

/* Write programs, best first, that together reach everything that was reached. */
static void write_corpus(const char *path)
{
	static uint8_t reached[SLOTS];
	static char text[MAX_CALLS * 64];
	bool to_stdout = !strcmp(path, "-");
	FILE *file = to_stdout ? stdout : fopen(path, "we");
	unsigned int written = 0;

	if (!file) {
		printf("# can't write %s\n", path);
		return;
	}
	for (;;) {
		unsigned int best = 0, best_new = 0;

		for (unsigned int i = 0; i < shared->nr_corpus; i++) {
			unsigned int new = 0;

			for (unsigned int n = 0; n < covers[i].nr_reached; n++)
				new += !reached[covers[i].reached[n]];
			if (new > best_new) {
				best = i;
				best_new = new;
			}
		}
		if (!best_new)
			break;
		for (unsigned int n = 0; n < covers[best].nr_reached; n++)
			reached[covers[best].reached[n]] = 1;
		print_program(text, sizeof(text), &shared->corpus[best]);
		fprintf(file, "%s%s\n", to_stdout ? "# corpus: " : "", text);
		written++;
	}
	if (!to_stdout)
		fclose(file);
	printf("# %u programs written to %s\n", written, path);
}

static const char *name_of(unsigned int kind, unsigned int error)
{
	if (kind == TOUCH || kind == SCRIBBLE)
		return sigabbrev_np(error) ?: "?";
	return strerrorname_np(error) ?: "?";
}

static unsigned long long succeeded(unsigned int kind)
{
	return shared->results[kind][0];
}

static unsigned long long failed(unsigned int kind)
{
	unsigned long long sum = 0;

	for (unsigned int error = 1; error < NR_RESULTS; error++)
		sum += shared->results[kind][error];
	return sum;
}

static void show_table(void)
{
	printf("# %-14s %10s %10s  errors\n", "call", "succeeded", "failed");
	for (unsigned int kind = 0; kind < NR_KINDS; kind++) {
		printf("# %-14s %10llu %10llu", kinds[kind].name, succeeded(kind),
		       failed(kind));
		for (unsigned int error = 1; error < NR_RESULTS; error++)
			if (shared->results[kind][error])
				printf("  %s %llu", name_of(kind, error),
				       shared->results[kind][error]);
		putchar('\n');
	}
}

static bool calls_succeed_and_fail(void)
{
	static const uint8_t own[] = {
		SETUP, ALLOC, FREE, MMAP_OWN, MMAP_REFS, TOUCH, CHANNEL, BIND, SEND,
		RECV, RELEASE, PULL, REVOKE, MMAP_GUEST, FLOOR, QUARANTINE_END,
		BUFFER_WAIT, EXPORT, MMAP_DMABUF,
	};
	bool ok = true;

	for (int i = 0; i < ARRAY_SIZE(own); i++) {
		unsigned long long good = succeeded(own[i]), bad = failed(own[i]);

		if (good * 10 >= good + bad && bad * 10 >= good + bad)
			continue;
		printf("# %s: %llu succeeded, %llu failed\n", kinds[own[i]].name,
		       good, bad);
		ok = false;
	}
	return ok;
}

/*
 * The errnos of linux/evpl.h that many random calls reach. Not among them are ENOMEM of a
 * client that has a thousand mappings of guest windows, and ENOSPC: the own window has 8 TiB,
 * and a slab looks for its range only when it has all of its memory. Since it takes the lowest
 * range, holes can't drive slabs to the window's end either, with less than some hundred GiB.
 */
static bool errnos_reached(void)
{
	static const struct {
		uint8_t kind, error;
	} all[] = {
		{ IOCTL, ENOTTY },
		{ SETUP, E2BIG }, { SETUP, EOPNOTSUPP }, { SETUP, EINVAL },
		{ SETUP, EFAULT }, { SETUP, EBUSY },
		{ ALLOC, E2BIG }, { ALLOC, EOPNOTSUPP }, { ALLOC, EINVAL },
		{ ALLOC, EFAULT }, { ALLOC, ENXIO }, { ALLOC, ENOMEM },
		{ FREE, E2BIG }, { FREE, EOPNOTSUPP }, { FREE, EINVAL },
		{ FREE, EFAULT }, { FREE, ENXIO }, { FREE, ENOENT }, { FREE, EBUSY },
		{ MMAP_OWN, EINVAL }, { MMAP_OWN, EPERM }, { MMAP_OWN, ENXIO },
		{ MMAP_OWN, ENOMEM },
		{ MMAP_REFS, EINVAL }, { MMAP_REFS, EPERM }, { MMAP_REFS, ENXIO },
		{ MPROTECT, EACCES }, { MREMAP, EFAULT }, { TOUCH, SIGBUS },
		{ CHANNEL, E2BIG }, { CHANNEL, EOPNOTSUPP }, { CHANNEL, EINVAL },
		{ CHANNEL, EFAULT }, { CHANNEL, ENOMEM },
		{ BIND, E2BIG }, { BIND, EOPNOTSUPP }, { BIND, EINVAL },
		{ BIND, EFAULT }, { BIND, ENXIO }, { BIND, EBADF }, { BIND, EBUSY },
		{ SEND, EINVAL }, { SEND, EOPNOTSUPP }, { SEND, EMSGSIZE },
		{ SEND, ENOTCONN }, { SEND, ENOENT }, { SEND, ESTALE },
		{ SEND, EACCES }, { SEND, EAGAIN }, { SEND, EPIPE }, { SEND, EFAULT },
		{ RECV, EINVAL }, { RECV, EOPNOTSUPP }, { RECV, ENOTCONN },
		{ RECV, EAGAIN }, { RECV, EFAULT },
		{ RELEASE, E2BIG }, { RELEASE, EOPNOTSUPP }, { RELEASE, EINVAL },
		{ RELEASE, EFAULT }, { RELEASE, ENXIO },
		{ PULL, E2BIG }, { PULL, EOPNOTSUPP }, { PULL, EINVAL },
		{ PULL, EFAULT }, { PULL, ENXIO },
		{ REVOKE, E2BIG }, { REVOKE, EOPNOTSUPP }, { REVOKE, EINVAL },
		{ REVOKE, EFAULT }, { REVOKE, ENXIO }, { REVOKE, ENOENT },
		{ REVOKE, EBUSY },
		{ MMAP_GUEST, EINVAL }, { MMAP_GUEST, EPERM }, { MMAP_GUEST, ENXIO },
		{ MMAP_GUEST, EACCES },
		{ EXPORT, E2BIG }, { EXPORT, EOPNOTSUPP }, { EXPORT, EINVAL },
		{ EXPORT, EFAULT }, { EXPORT, ENXIO }, { EXPORT, ENOENT },
		{ EXPORT, ESTALE }, { EXPORT, EPERM },
		{ MMAP_DMABUF, EINVAL }, { MMAP_DMABUF, EPERM }, { MMAP_DMABUF, EACCES },
		{ FLOOR, E2BIG }, { FLOOR, EOPNOTSUPP }, { FLOOR, EINVAL },
		{ FLOOR, EFAULT }, { FLOOR, ENXIO }, { FLOOR, ENOENT },
		{ QUARANTINE_END, E2BIG }, { QUARANTINE_END, EOPNOTSUPP },
		{ QUARANTINE_END, EINVAL }, { QUARANTINE_END, EFAULT },
		{ QUARANTINE_END, ENXIO }, { QUARANTINE_END, ENOENT },
		{ BUFFER_WAIT, E2BIG }, { BUFFER_WAIT, EOPNOTSUPP },
		{ BUFFER_WAIT, EINVAL }, { BUFFER_WAIT, EFAULT },
		{ BUFFER_WAIT, ENXIO }, { BUFFER_WAIT, ENOENT },
		{ BUFFER_WAIT, EAGAIN },
#ifdef __x86_64__
		{ ALLOC, EINTR }, { MMAP_OWN, EINTR },
#endif
	};
	bool ok = true;

	for (int i = 0; i < ARRAY_SIZE(all); i++) {
		if (shared->results[all[i].kind][all[i].error])
			continue;
		printf("# %s never gave %s\n", kinds[all[i].kind].name,
		       name_of(all[i].kind, all[i].error));
		ok = false;
	}
	return ok;
}

static bool all_ok = true;

static void result(bool ok, const char *name, bool skip)
{
	static unsigned int number;

	printf("%sok %u %s%s\n", ok || skip ? "" : "not ", ++number, name,
	       skip ? " # SKIP so few calls" : "");
	fflush(stdout);
	all_ok &= ok || skip;
}

static unsigned long long number_from(const char *name, unsigned long long otherwise)
{
	const char *value = getenv(name);

	return value ? strtoull(value, NULL, 0) : otherwise;
}

static void usage(void)
{
	fprintf(stderr,
		"Usage: fuzz [-n CALLS | -m MINUTES] [-s SEED] [-c CORPUS] [-o FILE]\n"
		"            [-w WORKERS] [-v]\n"
		"  -n  stop after so many calls (EVPL_FUZZ_CALLS, else 20000)\n"
		"  -m  stop after so many minutes\n"
		"  -s  EVPL_SEED, else the time\n"
		"  -c  programs to start with (EVPL_FUZZ_CORPUS, else " FUZZ_CORPUS ")\n"
		"  -o  write programs that reach everything that was reached; - is stdout\n"
		"  -w  worker processes (2)\n"
		"  -v  write each program to the kernel's log before it runs\n");
	exit(64);
}

int main(int argc, char **argv)
{
	const char *corpus = getenv("EVPL_FUZZ_CORPUS") ?: FUZZ_CORPUS, *out = NULL;
	unsigned long long limit = number_from("EVPL_FUZZ_CALLS", DEFAULT_CALLS), caps[2];
	struct rlimit no_core = {};
	struct counters before;
	double minutes = 0;
	int opt;
	bool few;

	seed = number_from("EVPL_SEED", time(NULL));
	while ((opt = getopt(argc, argv, "n:m:s:c:o:w:v")) != -1) {
		switch (opt) {
		case 'n':
			limit = strtoull(optarg, NULL, 0);
			break;
		case 'm':
			minutes = strtod(optarg, NULL);
			limit = ULLONG_MAX;
			break;
		case 's':
			seed = strtoull(optarg, NULL, 0);
			break;
		case 'c':
			corpus = optarg;
			break;
		case 'o':
			out = optarg;
			break;
		case 'w':
			nr_workers = atoi(optarg);
			break;
		case 'v':
			kmsg = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);
			break;
		default:
			usage();
		}
	}
	if (optind != argc || !nr_workers || nr_workers > MAX_WORKERS)
		usage();

	printf("TAP version 13\n1..6\n# EVPL_SEED=%llu\n", (unsigned long long)seed);
	before = read_counters();
	caps[0] = read_number(MAX_BYTES);
	caps[1] = read_number(MAX_BYTES_PER_USER);
	cap_fds[0] = open(MAX_BYTES, O_WRONLY | O_CLOEXEC);
	cap_fds[1] = open(MAX_BYTES_PER_USER, O_WRONLY | O_CLOEXEC);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (before.clients < 0 || cap_fds[0] < 0 || cap_fds[1] < 0 ||
	    access(DEVICE, R_OK | W_OK) || shared == MAP_FAILED) {
		printf("Bail out! No module, no debugfs, or not root.\n");
		return 1;
	}
	setrlimit(RLIMIT_CORE, &no_core);
	signal(SIGTERM, interrupt);
	signal(SIGINT, interrupt);
	shared->limit = limit;
	parent.random = seed ^ 0x9e3779b97f4a7c15ULL;
	fill_lottery();
	load_seeds(corpus);
	if (access("/sys/kernel/debug/kcov", F_OK)) {
		printf("# no kcov in this kernel: unguided\n");
		memcpy(shared->corpus, shared->seeds, sizeof(shared->seeds));
		shared->nr_corpus = shared->nr_seeds;
	}

	reset_caps();
	run_workers(minutes);
	set_cap(0, caps[0]);
	set_cap(1, caps[1]);

	/* These come first, next to the lines on workers that hung or died. */
	result(!nr_hung, "no_call_hangs", false);
	result(!nr_died, "workers_die_only_when_they_are_killed", false);
	show_table();
	if (out)
		write_corpus(out);
	few = shared->calls < FEW_CALLS;
	result(calls_succeed_and_fail(), "every_call_succeeds_and_fails_often", few);
	result(errnos_reached(), "every_errno_of_the_uapi_is_reached", few);
	result(counters_return_to(before), "counters_are_as_before", false);
	result(read_number(MAX_BYTES) == caps[0] && read_number(MAX_BYTES_PER_USER) == caps[1],
	       "the_caps_are_as_before", false);
	return !all_ok;
}
