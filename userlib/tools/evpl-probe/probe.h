/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPL_PROBE_H
#define EVPL_PROBE_H

/*
 * evpl-probe: tries which interfaces take the module's memory on this machine. For those
 * that don't, it says why not, and how to solve it.
 *
 * Each interface is tried by a function in the table in main.c. The function runs in a
 * process of its own, with memory of its own, and puts the result into a row. So a test
 * that crashes or hangs affects its own row alone, and its charges end with its process.
 */

#include <evplmem.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define BUFFER		(64UL << 10)	/* bytes that are moved at a time */
#define SECONDS		20		/* a test that takes longer is given up */
#define UNKNOWN		UINT64_MAX

enum works {
	NOT_TRIED,
	YES,
	NO,
	REFUSED,	/* by design */
};

/* Where the kernel counts memory that an interface has registered, against RLIMIT_MEMLOCK. */
enum charge {
	NO_CHARGE,		/* the interface registers no memory */
	TO_NOBODY,
	TO_USER,		/* one for all of the user's processes */
	TO_PINNED,		/* VmPin of the process */
	TO_LOCKED,		/* VmLck of the process */
};

/**
 * struct row - the result for an interface
 * @interface: its name
 * @charge: where registered memory is counted
 * @works: whether it takes the memory
 * @error: the errno that it gave, or 0
 * @reason: the result in a sentence or two
 * @remedy: how to solve it, or empty
 */
struct row {
	char interface[40];
	enum charge charge;
	enum works works;
	int error;
	char reason[384];
	char remedy[512];
};

/**
 * struct memory - the memory that an interface is tried with
 * @pool: a pool of the module, whatever EVPL_BACKEND says
 * @evpl: the context
 * @from: a buffer of the slab, with a pattern in it
 * @to: another buffer, zeroed
 * @slab: the slab
 */
struct memory {
	struct evpl_pool *pool;
	struct evpl *evpl;
	struct evpl_iovec from;
	struct evpl_iovec to;
	struct evpl_slab_info slab;
};

/**
 * struct limits - how much memory can be allocated and locked
 * @memlock: RLIMIT_MEMLOCK in bytes, or RLIM_INFINITY
 * @memlock_hard: its hard limit
 * @may_lock: whether the process has the capability to exceed it
 * @max_bytes: the module's cap, or UNKNOWN
 * @max_bytes_per_user: the module's cap for a user, or UNKNOWN
 */
struct limits {
	uint64_t memlock;
	uint64_t memlock_hard;
	bool may_lock;
	uint64_t max_bytes;
	uint64_t max_bytes_per_user;
};

/* main.c */
struct row *row_add(const char *interface, enum charge charge);

/* row.c */
#define PRINTF(n) __attribute__((format(printf, n, n + 1)))
void row_yes(struct row *row, const char *format, ...) PRINTF(2);
void row_no(struct row *row, int error, const char *format, ...) PRINTF(3);
void row_refused(struct row *row, int error, const char *format, ...) PRINTF(3);
void row_not_tried(struct row *row, int error, const char *format, ...) PRINTF(3);
void row_remedy(struct row *row, const char *format, ...) PRINTF(2);
const char *size_text(char text[32], uint64_t bytes);

/* limits.c */
uint64_t read_number(const char *path);
void limits_read(struct limits *limits);
bool row_blame_memlock(struct row *row, int error, enum charge charge, uint64_t bytes,
		       const char *what);

/* memory.c */
bool memory_open(struct memory *memory, const char *device, struct row *row);
bool memory_arrived(const struct memory *memory, struct row *row);
void try_memory(struct row *row, struct memory *memory);

/* file.c */
void try_read_write(struct row *row, struct memory *memory);
void try_direct(struct row *row, struct memory *memory);
void try_vmsplice(struct row *row, struct memory *memory);
void try_process_vm(struct row *row, struct memory *memory);
void try_userfaultfd(struct row *row, struct memory *memory);
void try_dmabuf(struct row *row, struct memory *memory);

/* net.c */
bool loopback_open(struct row *row, int sockets[2]);
bool loopback_arrived(struct row *row, struct memory *memory, int socket);
void try_zerocopy(struct row *row, struct memory *memory);
void try_xdp(struct row *row, struct memory *memory);

/* uring.c */
void try_uring(struct row *row, struct memory *memory);
void try_single_issuer(struct row *row, struct memory *memory);
void try_send_zc(struct row *row, struct memory *memory);
void try_fixed(struct row *row, struct memory *memory);
void try_cloned(struct row *row, struct memory *memory);
void try_uncharged(struct row *row, struct memory *memory);
uint64_t uring_lockable(uint64_t most);

/* rdma.c, vfio.c */
void try_rdma(struct row *row, struct memory *memory);
void try_vfio(struct row *row, struct memory *memory);

/* print.c */
void print_table(const struct limits *limits, const struct row *rows, unsigned int count);
void print_json(const struct limits *limits, const struct row *rows, unsigned int count);

#endif /* EVPL_PROBE_H */
