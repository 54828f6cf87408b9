// SPDX-License-Identifier: GPL-2.0-only
/* The calls of one client: on files, slabs and mappings, and on the files that tell of clients. */
#include <limits.h>
#include <poll.h>
#include <sys/uio.h>

#include "fuzz_calls.h"

/* These pick a live object: the one with this number, or else the first that there is. */

int pick_fd(unsigned int arg, unsigned int *slot)
{
	int fd = load(&fds[*slot = arg % NR_FDS]);

	for (unsigned int i = 0; fd < 0 && i < NR_FDS; i++)
		fd = load(&fds[*slot = i]);
	return fd;
}

uint64_t pick_slab(unsigned int fd, unsigned int arg, uint64_t **where)
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

struct got *pick_got(unsigned int arg)
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

void put_fd(unsigned int slot, int fd)
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
void *place(struct thread *self, void *args, uint32_t known,
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

static const uint64_t buffer_size_of[] = {
	0, PAGE, 64 * KIB, 2 * MIB, EVPL_BUFFER_SIZE_DEFAULT, PAGE / 2, 3, PAGE + 1,
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

/* Nothing of the client may be mapped. So half of the calls are for a new client. */
static int do_adopt(struct thread *self, const uint8_t *arg)
{
	const uint8_t open_args[] = { arg[0], 0 };
	struct evpl_setup setup = {
		.flags = flags_of[arg[2]],
		.buffer_size = buffer_size_of[arg[3]],
	}, made;
	unsigned int slot;
	int fd;

	if (arg[5])
		do_open(self, open_args);
	fd = pick_fd(arg[0], &slot);
	if (arg[5])
		evpl_setup(fd, 0, &made);
	return RESULT(ioctl(fd, EVPL_ADOPT,
			    place(self, &setup, sizeof(setup), arg[1], arg[4])));
}

static int do_slab_next(struct thread *self, const uint8_t *arg)
{
	struct evpl_slab_next slab_next = {
		.flags = flags_of[arg[2] % 6],
		.__reserved = flags_of[arg[2] / 6],
	};
	unsigned int slot;
	int fd = pick_fd(arg[0], &slot);
	uint64_t *where;

	slab_next.offset = pick_slab(slot, arg[3], &where) + wrong_by[arg[4]];
	return RESULT(ioctl(fd, EVPL_SLAB_NEXT,
			    place(self, &slab_next, sizeof(slab_next), arg[1], arg[5])));
}

static int do_room(struct thread *self, const uint8_t *arg)
{
	struct evpl_room room = { .flags = flags_of[arg[2]] };
	unsigned int slot;
	int fd = pick_fd(arg[0], &slot);

	return RESULT(ioctl(fd, EVPL_ROOM, place(self, &room, sizeof(room), arg[1], arg[3])));
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

/* A mapping that doesn't fit into the arena is made anywhere, and unmapped at once. */
int map(int window, int fd, unsigned int slot, uint64_t offset,
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

void handle_fault(int signal_nr)
{
	if (!armed) {
		signal(signal_nr, SIG_DFL);
		return;
	}
	siglongjmp(touch_jump, signal_nr);
}

/* Like touch() of the other tests, but the handler stays, and a write has a value. */
int access_word(volatile uint64_t *word, bool write, uint64_t value)
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

int set_cap(int which, unsigned long long bytes)
{
	char string[32];
	int length = snprintf(string, sizeof(string), "%llu", bytes);

	return RESULT(pwrite(cap_fds[which], string, length, 0));
}

void reset_caps(void)
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

const struct kind client_kinds[NR_KINDS] = {
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
	[ADOPT] = { "adopt", do_adopt, 40, 0, 33,
		    ARGS(NR_FDS, NR_SIZES, OF(flags_of), OF(buffer_size_of), NR_POINTERS, 2) },
	[SLAB_NEXT] = { "slab_next", do_slab_next, 30, 0, 9,
			ARGS(NR_FDS, NR_SIZES, 18, NR_SLABS, OF(wrong_by), NR_POINTERS) },
	[ROOM] = { "room", do_room, 10, 0, 1,
		   ARGS(NR_FDS, NR_SIZES, OF(flags_of), NR_POINTERS) },
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
};
