// SPDX-License-Identifier: GPL-2.0-only
/* The calls between clients: on channels, records, leases, quarantines and dma-bufs. */
#include <limits.h>
#include <linux/dma-buf.h>
#include <poll.h>
#include <sys/uio.h>

#include "fuzz_calls.h"

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

/* Mostly, the last two ends are a lane's. */
static int do_bind(struct thread *self, const uint8_t *arg)
{
	unsigned int slot, end = arg[1] % NR_ENDS;
	int fd = pick_fd(arg[0], &slot);
	const int what[] = { load(&ends[end]), fd, -1, INT_MAX, pipes[0][0] };
	struct evpl_channel_bind bind = {
		.flags = flags_of[arg[3] % 6] ^ (end < 2 ? 0 : EVPL_BIND_LANE),
		.fd = what[arg[4]],
		.out_capacity = flags_of[arg[3] / 6],
	};

	if (ioctl(fd, EVPL_CHANNEL_BIND,
		  place(self, &bind, sizeof(bind), arg[2], arg[5])))
		return -errno;
	store(&end_clients[end], slot);
	return 0;
}

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

/* Mostly the ready client has no lane yet, or not both ends of one: then make that. */
static void have_lane(struct thread *self)
{
	static const uint8_t channel[MAX_ARGS] = { NR_FDS - 1, [5] = 1 };
	static const uint8_t binds[2][MAX_ARGS] = { { NR_FDS - 1, 2 }, { NR_FDS - 1, 3 } };

	if (load(&ends[2]) < 0 && load(&ends[3]) < 0)
		do_channel(self, channel);
	for (int i = 0; i < 2; i++)
		do_bind(self, binds[i]);
}

static int do_doorbell(struct thread *self, const uint8_t *arg)
{
	static const uint32_t masks[] = { 1, 2, 3, 0, 4, 7, 1U << 31, ~0U };
	struct evpl_doorbell doorbell = {
		.flags = flags_of[arg[2]],
		.ring = masks[arg[3]],
		.quiet = masks[arg[4]],
	};

	if (arg[0] < 2)
		have_lane(self);
	return RESULT(ioctl(load(&ends[(arg[0] + 2) % NR_ENDS]), EVPL_DOORBELL,
			    place(self, &doorbell, sizeof(doorbell), arg[1], arg[5])));
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
		EVPL_RECORD_DEVICE | EVPL_RECORD_WRITE, EVPL_RECORD_LANE,
		EVPL_RECORD_LANE | EVPL_RECORD_WRITE,
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

static int do_baseline(struct thread *self, const uint8_t *arg)
{
	static const uint64_t lengths[] = {
		SLAB_2M, PAGE, 0, PAGE + 1, 2 * SLAB_2M, -PAGE, OWN_SIZE,
	};
	struct evpl_baseline args = {
		.flags = flags_of[arg[2]],
		.length = lengths[arg[4]],
	};
	unsigned int slot;
	int fd = pick_fd(arg[0], &slot);
	uint64_t *where;

	args.offset = pick_slab(slot, arg[0], &where) + wrong_by[arg[3]];
	return RESULT(ioctl(fd, EVPL_BASELINE,
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

const struct kind share_kinds[NR_KINDS] = {
	[CHANNEL] = { "channel", do_channel, 25, 0, 33,
		      ARGS(NR_FDS, NR_SIZES, 18, 7, NR_POINTERS, 2) },
	[BIND] = { "bind", do_bind, 40, 0, 3,
		   ARGS(NR_FDS, NR_ENDS, NR_SIZES, 18, 5, NR_POINTERS) },
	[DOORBELL] = { "doorbell", do_doorbell, 40, 0, 8,
		       ARGS(NR_ENDS, NR_SIZES, OF(flags_of), 8, 8, NR_POINTERS) },
	[SEND] = { "send", do_send, 160, 0, 27, ARGS(NR_ENDS, 40, 5, 8, 4, 5) },
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
	[BASELINE] = { "baseline", do_baseline, 20, 0, 1,
		    ARGS(NR_FDS, NR_SIZES, OF(flags_of), OF(wrong_by), 7, NR_POINTERS) },
	[QUARANTINE_END] = { "quarantine_end", do_quarantine_end, 6, 0, 9,
			     ARGS(NR_FDS, NR_SIZES, OF(flags_of), NR_SLABS,
				  OF(wrong_by), NR_POINTERS) },
	[BUFFER_WAIT] = { "buffer_wait", do_buffer_wait, 20, 0, 9,
			  ARGS(NR_FDS, NR_SIZES, OF(flags_of), NR_SLABS,
			       OF(wrong_by), NR_POINTERS) },
};
