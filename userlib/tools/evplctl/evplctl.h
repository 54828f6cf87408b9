/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
/*
 * evplctl shows which process has which memory of the module, and what keeps it. It reads
 * /proc/PID/fd and /proc/PID/fdinfo, whose keys Documentation/fdinfo.md describes. So each user
 * sees the clients of the processes that /proc shows to this user, and root sees all of them.
 * The processes go on while /proc is read: the keys of one descriptor were read at one time, those
 * of two descriptors weren't.
 *
 *	main.c		the options and the commands
 *	system.c	reads the clients and ends out of /proc
 *	pages.c		finds descriptors that can hold pages
 *	print.c		JSON, and texts for people
 *	COMMAND.c	each command
 */
#ifndef EVPLCTL_H
#define EVPLCTL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define EXIT_USAGE	64

/**
 * struct options - what the user asks for
 * @json: print JSON, and no tables
 * @pid: the process, for a command that takes one
 * @count: how many times top shows the clients, or how many events watch prints; 0: no limit
 * @interval: seconds from one time to the next
 */
struct options {
	bool json;
	pid_t pid;
	unsigned long count;
	double interval;
};

/* Each returns the exit status. */
int list(const struct options *options);
int show(const struct options *options);
int why(const struct options *options);
int top(const struct options *options);
int watch(const struct options *options);
int sites(const struct options *options);

/* main.c */
#define PRINTF(n) __attribute__((format(printf, n, n + 1)))
void complain(const char *format, ...) PRINTF(1);
void *grow(void *array, size_t count, size_t size);

/**
 * struct process - a process that has descriptors of the module
 * @pid: its id
 * @uid: its effective user
 * @command: the name of its main thread
 */
struct process {
	pid_t pid;
	uid_t uid;
	char command[64];
};

/**
 * struct holder - a descriptor of a client or an end
 * @process: the process, an index of system.processes
 * @fd: its number in the process
 */
struct holder {
	size_t process;
	int fd;
};

/**
 * struct holders - all descriptors of a client or an end that were found
 * @count: how many there are
 * @at: they, in the order of the processes
 */
struct holders {
	size_t count;
	struct holder *at;
};

/* A client's keys that are one number each. */
#define CLIENT_KEYS(KEY)							\
	KEY(buffer_size, "buffer-size")						\
	KEY(slabs, "slabs")							\
	KEY(bytes, "bytes")							\
	KEY(buffers, "buffers")							\
	KEY(in_use, "buffers-in-use")						\
	KEY(shared, "buffers-shared")						\
	KEY(quarantined, "buffers-in-quarantine")				\
	KEY(references, "quarantine-references")				\
	KEY(leases, "leases")							\
	KEY(revoked, "leases-revoked")						\
	KEY(lent, "leases-lent")						\
	KEY(exports, "exports")							\
	KEY(registrations, "registrations")

/**
 * struct owner - a client that others have leases from
 * @id: its id, or 0 for all those that aren't listed
 * @leases: how many leases
 * @bytes: of the buffers
 * @since: when the oldest of these leases began, in ns of CLOCK_BOOTTIME
 */
struct owner {
	uint64_t id;
	uint64_t leases;
	uint64_t bytes;
	uint64_t since;
};

/**
 * struct lessee - a client whose leases were the last ones of buffers in quarantine
 * @id: its id, or 0 for all those that aren't listed
 * @buffers: how many buffers
 */
struct lessee {
	uint64_t id;
	uint64_t buffers;
};

/**
 * struct folios - how many folios of a size a client has
 * @kib: the size of each, in KiB
 * @count: how many
 */
struct folios {
	uint64_t kib;
	uint64_t count;
};

/**
 * struct client - a client of the module
 * @id: its id; a client has the same one in all processes
 * @holders: its descriptors
 * @owners: the clients that it leases from
 * @lessees: which client's lease a buffer in quarantine had last
 * @folios: its folios by size, the largest first
 */
struct client {
	uint64_t id;
	struct holders holders;
#define KEY(field, name) uint64_t field;
	CLIENT_KEYS(KEY)
#undef KEY
	size_t nr_owners;
	struct owner *owners;
	size_t nr_lessees;
	struct lessee *lessees;
	size_t nr_folios;
	struct folios *folios;
};

/**
 * struct end - an end of a channel
 * @channel: the channel's id; both of its ends have the same one
 * @end: which end it is, 0 or 1
 * @client: the id of the client that the end is bound to, or 0
 * @peer: the same of the other end
 * @capacity: records in each direction
 * @lane: whether it is bound as an end of a lane
 * @to_read: records in flight to this end
 * @written: records in flight to the other end
 * @holders: its descriptors
 */
struct end {
	uint64_t channel;
	uint64_t end;
	uint64_t client;
	uint64_t peer;
	uint64_t capacity;
	uint64_t lane;
	uint64_t to_read;
	uint64_t written;
	struct holders holders;
};

/**
 * struct dmabuf - a dma-buf of the module
 * @inode: its inode
 * @bytes: its length
 * @holders: its descriptors
 */
struct dmabuf {
	uint64_t inode;
	uint64_t bytes;
	struct holders holders;
};

/**
 * struct system - all that was found in /proc
 * @processes: those that have something of the module, by their ids
 * @clients: by the first process that has them
 * @ends: likewise
 * @dmabufs: likewise
 * @hidden: how many processes weren't shown to this user
 * @now: when it was read, in ns of CLOCK_BOOTTIME
 */
struct system {
	size_t nr_processes;
	struct process *processes;
	size_t nr_clients;
	struct client *clients;
	size_t nr_ends;
	struct end *ends;
	size_t nr_dmabufs;
	struct dmabuf *dmabufs;
	unsigned long hidden;
	uint64_t now;
};

/* system.c */
bool system_read(struct system *system);
void process_read(struct process *process, int dir, pid_t pid);
void make_printable(char *name);
void system_free(struct system *system);
const struct client *client_find(const struct system *system, uint64_t id);
bool held_by(const struct system *system, const struct holders *holders, pid_t pid);
const struct process *process_of(const struct system *system, pid_t pid);

/* list.c */
#define LINE	128	/* bytes of a line of text; at most 80 columns are used */
const char *list_heading(void);
const char *list_line(char line[LINE], const struct system *system, const struct client *client);
void list_json(const struct system *system);

/* The kinds of descriptors that can hold pages of a buffer after a lease has ended. */
enum page_kind {
	PAGES_NONE,
	PAGES_PIPE,
	PAGES_SOCKET,
	PAGES_URING,
	PAGES_RDMA,
	PAGES_VFIO,
	PAGES_KVM,
};

/**
 * struct page_holder - a descriptor of what can hold pages
 * @process: the process that has it
 * @fd: its number in the process
 * @kind: of what
 * @inode: of the pipe or socket, which may have several descriptors
 * @bytes: unread in the pipe
 */
struct page_holder {
	struct process process;
	int fd;
	enum page_kind kind;
	uint64_t inode;
	uint64_t bytes;
};

/* pages.c */
struct page_holder *pages_read(size_t *count);
const char *pages_text(enum page_kind kind);

/* print.c */
void json_begin(const char *name, char bracket);
void json_end(char bracket);
void json_number(const char *name, uint64_t value);
void json_signed(const char *name, int64_t value);
void json_bool(const char *name, bool value);
void json_string(const char *name, const char *value);
void json_line(void);
void json_holders(const struct system *system, const struct holders *holders);
void json_clients(const struct system *system, pid_t pid);
void json_ends(const struct system *system, pid_t pid);
void json_dmabufs(const struct system *system, pid_t pid);
const char *size_text(char text[16], uint64_t bytes);
const char *age_text(char text[16], uint64_t ns);
#define TEXT	160	/* bytes of a text about a client or its processes */
const char *holder_text(char text[TEXT], const struct system *system,
			const struct holders *holders);
const char *client_text(char text[TEXT], const struct system *system, uint64_t id);
const char *count_text(char text[48], uint64_t count, const char *one, const char *many);
const char *bold(void);
const char *warning(void);
const char *plain(void);

#endif /* EVPLCTL_H */
