/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The fuzzer, a program of several files:
 *
 *	fuzz.c		the command line and the results
 *	fuzz_parent.c	the parent: starts, watches and kills workers, has the corpus
 *	fuzz_worker.c	a worker: runs programs, and undoes what they did
 *	fuzz_program.c	programs: print, parse, make up and change them
 *	fuzz_client.c	the calls of one client: files, slabs, mappings
 *	fuzz_share.c	the calls between clients: channels, leases, dma-bufs
 *	fuzz_ring.c	the commands that come through a ring, and fixed I/O
 *	fuzz_process.c	calls that make processes
 */
#ifndef EVPL_FUZZ_H
#define EVPL_FUZZ_H

#define EVPL_NO_HARNESS
#include "ring.h"

#define CAP			(512 * MIB)
#define CAP_PER_USER		(256 * MIB)

#define OWN_SIZE	(1ULL << 43)
#define REFS_OFFSET	OWN_SIZE
#define MAP_SLOT	(8 * MIB)

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
	NR_SLOTS = 4,		/* of a ring; io_uring itself has filled the last one */
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
	CHANNEL, BIND, SEND, RECV, RELEASE, PULL, REVOKE, MMAP_GUEST, BASELINE,
	QUARANTINE_END, BUFFER_WAIT, EXPORT, MMAP_DMABUF, SYNC, RING_TAKE, RING_DROP,
	RING_IO, DOORBELL, ADOPT, SLAB_NEXT, ROOM, NR_KINDS
};

struct thread {
	uint64_t random;
	bool sibling;
	bool child;		/* forked off within a program */
	unsigned long *trace;	/* kcov's, or NULL */
	char *pages;		/* two, one without access, one read-only */
	struct ring ring;
	unsigned int taken;	/* the slots that have memory of clients, one bit for each */
	unsigned int nr_reached;
	uint16_t reached[MAX_REACHED];
	uint32_t round;
	uint32_t marks[SLOTS];	/* the round in which an edge was reached last */
	char buffer[PAGE];
};

/*
 * Argument n goes from 0 to below @max[n]. If bit n of @even is set, all of its values are
 * equally likely. If not, 0 is the value with which the call can succeed, and one in @odds
 * (10) gets a random value instead. A call with @dear takes long, so only one in @dear of
 * them is made, or survives a change of its program.
 */
struct kind {
	const char *name;
	int (*run)(struct thread *self, const uint8_t *arg);
	unsigned int weight;
	unsigned int dear;
	unsigned int even;
	unsigned int odds;
	uint8_t max[MAX_ARGS];
};

/* Those of all files of calls, by their numbers; each file has a table of its own. */
extern struct kind kinds[NR_KINDS];
extern const struct kind client_kinds[NR_KINDS], share_kinds[NR_KINDS];
extern const struct kind ring_kinds[NR_KINDS], process_kinds[NR_KINDS];

/* Memory that the workers and the parent share. */
extern struct shared {
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

/* A worker's threads share this: the objects that the calls of the program work on. */
extern struct worker *worker;
extern struct thread threads[2];
extern char *arena;		/* all mappings of programs are made here */
extern int fds[NR_FDS];
extern uint64_t buffer_sizes[NR_FDS];
extern uint64_t slabs[NR_FDS][NR_SLABS];	/* offset + 1, or 0 */
extern uint64_t maps[NR_MAPS];			/* length + window, or 0 */
extern int ends[NR_ENDS];
extern unsigned int end_clients[NR_ENDS];	/* slot of the client that it is bound to */
extern struct got {
	uint64_t offset;
	uint32_t lease;
	unsigned int client;			/* slot of the client that read it */
} gots[NR_GOT];
extern int dmabufs[NR_DMABUFS];
extern struct evpl_setup windows;		/* the windows are the same for all clients */
extern int pipes[NR_PIPES][2];
extern int children[NR_CHILDREN];
extern bool kill_children;
extern bool caps_changed;
extern int cap_fds[2];
extern int kmsg;

/*
 * Memory takes long to allocate. So there is a ready client, with a slab, which is the last
 * descriptor at the start of each program. If a program has changed it, another one
 * replaces it; only the words of its entries are set back.
 */
extern struct ready {
	int fd;
	char *memory;
	struct evpl_entry *entries;
	unsigned int used;
} ready;

static inline uint64_t next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state * 0x2545f4914f6cdd1dULL >> 16;
}

static inline unsigned int below(struct thread *self, unsigned int bound)
{
	return next(&self->random) % bound;
}

/* fuzz_client.c */
void put_fd(unsigned int slot, int fd);
void handle_fault(int signal_nr);
int access_word(volatile uint64_t *word, bool write, uint64_t value);
int set_cap(int which, unsigned long long bytes);
void reset_caps(void);

/* fuzz_ring.c */
void open_ring(struct thread *self);
void clear_ring(struct thread *thread);

/* fuzz_program.c */
void gather_kinds(void);
void print_program(char *text, size_t size, const struct program *p);
bool parse_program(struct program *p, char *line);
void choose(struct thread *self, struct program *p);

/* fuzz_worker.c */
void count(unsigned int kind, int ret);
void work(unsigned int nr, uint64_t seed, pid_t parent);

/* fuzz_parent.c */
extern struct thread parent;
extern unsigned int nr_workers, nr_died, nr_hung;
extern uint64_t seed;
void interrupt(int signal);
void load_seeds(const char *path);
void run_workers(double minutes);
void write_corpus(const char *path);

#endif /* EVPL_FUZZ_H */
