/* SPDX-License-Identifier: GPL-2.0-only */
/* A client that exchanges buffers, for the tests of channels, leases and quarantine. */
#ifndef EVPL_CLIENT_H
#define EVPL_CLIENT_H

#include <poll.h>
#include <sys/uio.h>

#include "evpl_test.h"

/* A buffer has at least four pages. */
#define BUFFER		(PAGE > 16 * KIB ? 4 * PAGE : 64 * KIB)
/* A client has one slab of so many bytes. */
#define SLAB		(32 * BUFFER)
#define DEVICE_RW	(EVPL_RECORD_DEVICE | EVPL_RECORD_WRITE)

/* A client with all of its windows mapped, and one slab. */
struct client {
	int fd;
	struct evpl_setup setup;
	char *own;
	struct evpl_entry *entries;
	char *guest, *guest_ro, *guest_io, *guest_io_ro;
	struct evpl_entry *leases;
	struct evpl_header *header;
	uint64_t *returned, *revoked;
};

static inline void *map(int fd, uint64_t size, uint64_t offset, int protection)
{
	void *address = mmap(NULL, size, protection, MAP_SHARED | MAP_NORESERVE,
			     fd, offset);

	return address == MAP_FAILED ? NULL : address;
}

/* Map the windows of a client that is set up. */
static inline bool map_client(struct client *c)
{
	const int rw = PROT_READ | PROT_WRITE;

	c->own = map(c->fd, SLAB, 0, rw);
	c->entries = map(c->fd, PAGE, c->setup.out_refs_offset, rw);
	c->guest = map(c->fd, c->setup.out_guest_size, c->setup.out_guest_offset, rw);
	c->guest_ro = map(c->fd, c->setup.out_guest_size,
			  c->setup.out_guest_ro_offset, PROT_READ);
	c->guest_io = map(c->fd, c->setup.out_guest_size,
			  c->setup.out_guest_io_offset, rw);
	c->guest_io_ro = map(c->fd, c->setup.out_guest_size,
			     c->setup.out_guest_io_ro_offset, PROT_READ);
	c->leases = map(c->fd, c->setup.out_leases_size,
			c->setup.out_leases_offset, rw);
	c->header = map(c->fd, c->setup.out_header_size,
			c->setup.out_header_offset, rw);
	c->returned = map(c->fd, c->setup.out_returned_size,
			  c->setup.out_returned_offset, rw);
	c->revoked = map(c->fd, c->setup.out_revoked_size,
			 c->setup.out_revoked_offset, rw);
	return c->own && c->entries && c->guest && c->guest_ro &&
	       c->guest_io && c->guest_io_ro && c->leases && c->header && c->returned && c->revoked;
}

static inline void unmap_client(struct client *c)
{
	munmap(c->own, SLAB);
	munmap(c->entries, PAGE);
	munmap(c->guest, c->setup.out_guest_size);
	munmap(c->guest_ro, c->setup.out_guest_size);
	munmap(c->guest_io, c->setup.out_guest_size);
	munmap(c->guest_io_ro, c->setup.out_guest_size);
	munmap(c->leases, c->setup.out_leases_size);
	munmap(c->header, c->setup.out_header_size);
	munmap(c->returned, c->setup.out_returned_size);
	munmap(c->revoked, c->setup.out_revoked_size);
}

/* Make a client with a slab, but map nothing of it. */
static inline bool make_client(struct client *c, uint32_t flags)
{
	uint64_t offset;

	c->setup = (struct evpl_setup){
		.size = sizeof(c->setup),
		.flags = flags,
		.buffer_size = BUFFER,
	};
	c->fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	return c->fd >= 0 && !ioctl(c->fd, EVPL_SETUP, &c->setup) &&
	       !evpl_slab_alloc(c->fd, SLAB, &offset);
}

static inline bool open_client(struct client *c, uint32_t flags)
{
	return make_client(c, flags) && map_client(c);
}

static inline void close_client(struct client *c)
{
	if (c->fd < 0)
		return;
	unmap_client(c);
	close(c->fd);
	c->fd = -1;
}

#define get(p)		__atomic_load_n(p, __ATOMIC_ACQUIRE)
#define set(p, v)	__atomic_store_n(p, v, __ATOMIC_RELEASE)

/* Have a word count so many references. The flags, which are the kernel's, stay. */
static inline void set_count(__u64 *word, uint32_t count)
{
	__u64 old = get(word);

	while (!__atomic_compare_exchange_n(word, &old, (old & ~EVPL_WORD_COUNT) | count, false,
					    __ATOMIC_RELEASE, __ATOMIC_ACQUIRE))
		;
}

/* The memory that a received record shows, in the window that the record's offset names. */
static inline char *memory_of(struct client *c, const struct evpl_record *record)
{
	if (record->offset >= c->setup.out_guest_io_ro_offset)
		return c->guest_io_ro +
		       (record->offset - c->setup.out_guest_io_ro_offset);
	if (record->offset >= c->setup.out_guest_io_offset)
		return c->guest_io + (record->offset - c->setup.out_guest_io_offset);
	if (record->offset >= c->setup.out_guest_ro_offset)
		return c->guest_ro + (record->offset - c->setup.out_guest_ro_offset);
	if (record->offset >= c->setup.out_guest_offset)
		return c->guest + (record->offset - c->setup.out_guest_offset);
	return c->own + record->offset;
}

/* Drop a record's reference, and release the lease if that was the last reference. */
static inline int let_go(struct client *c, const struct evpl_record *record)
{
	__atomic_fetch_sub(&c->leases[record->lease].word, 1, __ATOMIC_RELEASE);
	return evpl_lease_release(c->fd, &record->lease, 1);
}

static inline int events_of(int fd)
{
	struct pollfd poll_fd = {
		.fd = fd,
		.events = POLLIN | POLLOUT | POLLPRI,
	};

	return poll(&poll_fd, 1, 0) < 0 ? -errno : poll_fd.revents;
}

static inline bool bit(const uint64_t *bits, uint32_t n)
{
	return get(&bits[n / 64]) >> n % 64 & 1;
}

/* Fill buffer n of the owner with this byte, and give the buffer one reference. */
static inline struct evpl_record fill(struct client *owner, unsigned int n, char byte)
{
	memset(owner->own + n * BUFFER, byte, BUFFER);
	set_count(&owner->entries[n].word, 1);
	return (struct evpl_record){ .offset = n * BUFFER, .length = BUFFER };
}

/*
 * Send buffer n of the owner, filled with this byte, by the first end. Return whether the
 * client of the second end has a lease on it now.
 */
static inline bool lend(struct client *owner, const int ends[2], unsigned int n, char byte,
			uint32_t flags, struct evpl_record *got)
{
	struct evpl_record sent = fill(owner, n, byte);

	sent.flags = flags;
	return evpl_send(ends[0], &sent, 1) == 1 && evpl_recv(ends[1], got, 1) == 1;
}

/*
 * Try to pin memory that only the CPU may touch. Return NULL if everything that pins gives
 * EFAULT, and a copy works; else the name of the first call that behaves differently.
 */
static inline const char *what_can_pin(char *memory)
{
	struct iovec iov = { .iov_base = memory, .iov_len = PAGE }, here;
	const char *path = getenv("EVPL_TEST_DISK"), *who = NULL;
	int disk = path ? open(path, O_RDWR | O_DIRECT) : -1, pipes[2];
	char page[PAGE];

	if (pipe(pipes))
		return "pipe";
	here = (struct iovec){ .iov_base = page, .iov_len = sizeof(page) };
	if (RESULT(vmsplice(pipes[1], &iov, 1, 0)) != -EFAULT)
		who = "vmsplice";
	else if (RESULT(process_vm_readv(getpid(), &here, 1, &iov, 1, 0)) != -EFAULT)
		who = "process_vm_readv";
	else if (disk >= 0 && RESULT(pread(disk, memory, PAGE, 0)) != -EFAULT)
		who = "a direct read";
	else if (disk >= 0 && RESULT(pwrite(disk, memory, PAGE, 0)) != -EFAULT)
		who = "a direct write";
	/* A copy is no pin. */
	else if (write(pipes[1], memory, PAGE) != PAGE ||
		 read(pipes[0], page, PAGE) != PAGE || memcmp(page, memory, PAGE))
		who = "write";
	close(pipes[0]);
	close(pipes[1]);
	if (disk >= 0)
		close(disk);
	return who;
}

/* Whether the owner gets buffer n back. It may take until the kernel's next pass. */
static inline bool is_returned(struct client *owner, unsigned int n)
{
	for (int tries = 0; tries < 10 * LIMIT; tries++) {
		if (!get(&owner->entries[n].word))
			return fdinfo(owner->fd, "evpl-buffers-in-quarantine") == 0 &&
			       bit(owner->returned, n);
		usleep(100 * 1000);
	}
	return false;
}

/* Whether buffer n is in quarantine, and stays there although the kernel checks it again. */
static inline bool is_quarantined(struct client *owner, unsigned int n)
{
	return evpl_lease_pull(owner->fd) == 0 &&
	       get(&owner->entries[n].word) == EVPL_WORD_SHARED && !bit(owner->returned, n) &&
	       read_counters().quarantined == 1 &&
	       fdinfo(owner->fd, "evpl-buffers-in-quarantine") == 1;
}

#endif /* EVPL_CLIENT_H */
