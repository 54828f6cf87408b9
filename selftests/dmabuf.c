// SPDX-License-Identifier: GPL-2.0-only
/*
 * dma-bufs of this memory: they show the exported memory and nothing else, keep it as
 * long as a descriptor, a mapping or a device has them, and give the references back.
 */
#include <linux/dma-buf.h>
#include <sys/socket.h>

#include "pair.h"

FIXTURE(dmabuf)
{
	PAIR;
};

FIXTURE_SETUP(dmabuf)
{
	open_pair(_metadata, &self->pair, 0);
}

FIXTURE_TEARDOWN(dmabuf)
{
	close_pair(&self->pair);
	EXPECT_TRUE(counters_return_to(self->before));
}

static struct evpl_range buffer(unsigned int n)
{
	return (struct evpl_range){ .offset = n * BUFFER, .length = BUFFER };
}

/* Fill a buffer of a client's with this byte, and export it. Return the dma-buf, or -errno. */
static int export_one(struct client *c, unsigned int n, char byte, uint32_t flags)
{
	const struct evpl_range range = buffer(n);

	fill(c, n, byte);
	return evpl_export(c->fd, &range, 1, flags);
}

static int sync_dmabuf(int fd, uint64_t flags)
{
	struct dma_buf_sync sync = { .flags = flags };

	return RESULT(ioctl(fd, DMA_BUF_IOCTL_SYNC, &sync));
}

#define RW	(PROT_READ | PROT_WRITE)

TEST_F(dmabuf, shows_its_ranges_one_after_the_other)
{
	const struct evpl_range ranges[] = {
		buffer(5), buffer(2), { 9 * BUFFER + 2 * PAGE, PAGE }, buffer(6),
	};
	const size_t size = 3 * BUFFER + PAGE;
	struct client *owner = &self->owner;
	char *memory;
	int fd;

	fill(owner, 5, 'a');
	fill(owner, 2, 'b');
	fill(owner, 9, '-');
	memset(owner->own + 9 * BUFFER + 2 * PAGE, 'c', PAGE);
	fill(owner, 6, 'd');
	fd = evpl_export(owner->fd, ranges, 4, EVPL_EXPORT_WRITE);
	ASSERT_GE(fd, 0);
	EXPECT_EQ(FD_CLOEXEC, fcntl(fd, F_GETFD));
	EXPECT_EQ(size, lseek(fd, 0, SEEK_END));
	memory = map(fd, size, 0, RW);
	ASSERT_NE(NULL, memory);
	/* Read backwards, so that each fault finds the pages after it mapped already. */
	EXPECT_TRUE(is_filled_with(memory + 2 * BUFFER + PAGE, 'd', BUFFER));
	EXPECT_TRUE(is_filled_with(memory + 2 * BUFFER, 'c', PAGE));
	EXPECT_TRUE(is_filled_with(memory + BUFFER, 'b', BUFFER));
	EXPECT_TRUE(is_filled_with(memory, 'a', BUFFER));

	memset(memory + 2 * BUFFER - 1, 'w', PAGE + 2);
	EXPECT_EQ('w', owner->own[3 * BUFFER - 1]);
	EXPECT_EQ('b', owner->own[3 * BUFFER - 2]);
	EXPECT_TRUE(is_filled_with(owner->own + 9 * BUFFER + 2 * PAGE, 'w', PAGE));
	EXPECT_EQ('-', owner->own[9 * BUFFER + 2 * PAGE - 1]);
	EXPECT_EQ('-', owner->own[9 * BUFFER + 3 * PAGE]);
	EXPECT_EQ('w', owner->own[6 * BUFFER]);
	memset(owner->own + 5 * BUFFER, 'x', BUFFER);
	EXPECT_TRUE(is_filled_with(memory, 'x', BUFFER));
	munmap(memory, size);

	/* Map a part of the dma-buf, from the middle of a range on. */
	memory = map(fd, 2 * PAGE, 2 * BUFFER - PAGE, RW);
	ASSERT_NE(NULL, memory);
	EXPECT_TRUE(is_filled_with(memory, 'b', PAGE - 1));
	EXPECT_TRUE(is_filled_with(memory + PAGE - 1, 'w', PAGE + 1));
	munmap(memory, 2 * PAGE);
	close(fd);
	EXPECT_EQ(0, get(&owner->entries[9].word));
}

TEST_F(dmabuf, references_go_back_with_the_last_descriptor_and_mapping)
{
	struct client *owner = &self->owner;
	int fd = export_one(owner, 3, 'x', 0), other;
	char *memory;

	ASSERT_GE(fd, 0);
	EXPECT_EQ(EVPL_WORD_SHARED, get(&owner->entries[3].word));
	EXPECT_EQ(1, read_counters().shares);
	EXPECT_EQ(1, read_counters().exports);
	EXPECT_EQ(1, fdinfo(owner->fd, "evpl-exports"));
	EXPECT_EQ(1, fdinfo(owner->fd, "evpl-buffers-shared"));
	other = dup(fd);
	memory = map(fd, BUFFER, 0, PROT_READ);
	ASSERT_NE(NULL, memory);
	close(fd);
	close(other);
	EXPECT_EQ(EVPL_WORD_SHARED, get(&owner->entries[3].word));
	EXPECT_EQ(0, events_of(owner->fd));
	EXPECT_TRUE(is_filled_with(memory, 'x', BUFFER));
	/* The dma-buf lives while a part of the mapping is left. */
	munmap(memory, BUFFER - PAGE);
	EXPECT_EQ(EVPL_WORD_SHARED, get(&owner->entries[3].word));
	EXPECT_EQ(-EBUSY, evpl_slab_free(owner->fd, 0));

	munmap(memory + BUFFER - PAGE, PAGE);
	EXPECT_EQ(0, get(&owner->entries[3].word));
	EXPECT_EQ(POLLIN, events_of(owner->fd));
	EXPECT_TRUE(bit(owner->returned, 3));
	EXPECT_EQ(0, read_counters().shares);
	EXPECT_EQ(0, read_counters().exports);
	EXPECT_EQ(0, fdinfo(owner->fd, "evpl-exports"));
	EXPECT_EQ(0, evpl_slab_free(owner->fd, 0));
}

TEST_F(dmabuf, each_range_takes_a_reference)
{
	const struct evpl_range ranges[] = {
		{ BUFFER, PAGE }, { BUFFER + PAGE, PAGE }, { BUFFER + 3 * PAGE, PAGE },
	};
	struct client *owner = &self->owner;
	int fd;

	fill(owner, 1, 'x');
	set_count(&owner->entries[1].word, 5);
	fd = evpl_export(owner->fd, ranges, 3, 0);
	ASSERT_GE(fd, 0);
	/* The word has a flag for the three references. */
	EXPECT_EQ(EVPL_WORD_SHARED | 2, get(&owner->entries[1].word));
	EXPECT_EQ(3, fdinfo(owner->fd, "evpl-exports"));
	close(fd);
	EXPECT_EQ(2, get(&owner->entries[1].word));
	EXPECT_EQ(0, events_of(owner->fd));
	set_count(&owner->entries[1].word, 0);
}

TEST_F(dmabuf, buffer_is_reported_to_who_never_had_a_channel)
{
	struct client loner;
	int fd;

	ASSERT_TRUE(open_client(&loner, 0));
	fd = export_one(&loner, 0, 'x', 0);
	ASSERT_GE(fd, 0);
	EXPECT_EQ(0, get(&loner.header->returned));
	close(fd);
	EXPECT_EQ(1, get(&loner.header->returned));
	EXPECT_TRUE(bit(loner.returned, 0));
	close_client(&loner);
}

TEST_F(dmabuf, without_the_flag_it_can_be_read_alone)
{
	struct client *owner = &self->owner;
	int fd = export_one(owner, 0, 'x', 0);
	char *memory;

	ASSERT_GE(fd, 0);
	EXPECT_EQ(O_RDONLY, fcntl(fd, F_GETFL) & O_ACCMODE);
	EXPECT_EQ(NULL, map(fd, BUFFER, 0, RW));
	EXPECT_EQ(EACCES, errno);
	memory = map(fd, BUFFER, 0, PROT_READ);
	ASSERT_NE(NULL, memory);
	EXPECT_TRUE(is_filled_with(memory, 'x', BUFFER));
	EXPECT_EQ(SIGSEGV, touch_write(memory));
	EXPECT_EQ(-EACCES, RESULT(mprotect(memory, BUFFER, RW)));
	munmap(memory, BUFFER);
	close(fd);

	fd = export_one(owner, 0, 'x', EVPL_EXPORT_WRITE);
	ASSERT_GE(fd, 0);
	EXPECT_EQ(O_RDWR, fcntl(fd, F_GETFL) & O_ACCMODE);
	memory = map(fd, BUFFER, 0, PROT_READ);
	ASSERT_NE(NULL, memory);
	EXPECT_EQ(SIGSEGV, touch_write(memory));
	EXPECT_EQ(0, mprotect(memory, BUFFER, RW));
	EXPECT_EQ(0, touch_write(memory));
	munmap(memory, BUFFER);
	close(fd);
}

TEST_F(dmabuf, is_mapped_shared_within_its_size_and_never_executable)
{
	int fd = export_one(&self->owner, 0, 'x', EVPL_EXPORT_WRITE);
	char *memory;

	ASSERT_GE(fd, 0);
	EXPECT_EQ(MAP_FAILED, mmap(NULL, BUFFER, RW, MAP_PRIVATE, fd, 0));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(NULL, map(fd, BUFFER, 0, PROT_READ | PROT_EXEC));
	EXPECT_EQ(EPERM, errno);
	EXPECT_EQ(NULL, map(fd, BUFFER + PAGE, 0, RW));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(NULL, map(fd, BUFFER, PAGE, RW));
	EXPECT_EQ(EINVAL, errno);
	memory = map(fd, BUFFER, 0, RW);
	ASSERT_NE(NULL, memory);
	EXPECT_EQ(-EACCES, RESULT(mprotect(memory, BUFFER, PROT_READ | PROT_EXEC)));
	EXPECT_EQ(MAP_FAILED, mremap(memory, BUFFER, 2 * BUFFER, MREMAP_MAYMOVE));
	EXPECT_EQ(EFAULT, errno);
	memory = mremap(memory, BUFFER, BUFFER / 2, MREMAP_MAYMOVE);
	ASSERT_NE(MAP_FAILED, memory);
	EXPECT_TRUE(is_filled_with(memory, 'x', BUFFER / 2));
	munmap(memory, BUFFER / 2);
	close(fd);
}

TEST_F(dmabuf, nothing_can_pin_memory_through_its_mapping)
{
	int fd = export_one(&self->owner, 0, 'x', EVPL_EXPORT_WRITE);
	char *memory;

	ASSERT_GE(fd, 0);
	memory = map(fd, BUFFER, 0, RW);
	ASSERT_NE(NULL, memory);
	EXPECT_EQ(0, touch_write(memory));
	EXPECT_EQ(NULL, what_can_pin(memory));
	munmap(memory, BUFFER);
	close(fd);
}

TEST_F(dmabuf, access_by_the_cpu_can_be_bracketed)
{
	static const uint64_t directions[] = {
		DMA_BUF_SYNC_READ, DMA_BUF_SYNC_WRITE, DMA_BUF_SYNC_RW,
	};
	int fd = export_one(&self->owner, 0, 'x', EVPL_EXPORT_WRITE);

	ASSERT_GE(fd, 0);
	for (int i = 0; i < ARRAY_SIZE(directions); i++) {
		EXPECT_EQ(0, sync_dmabuf(fd, DMA_BUF_SYNC_START | directions[i]));
		EXPECT_EQ(0, sync_dmabuf(fd, DMA_BUF_SYNC_END | directions[i]));
	}
	close(fd);
}

TEST_F(dmabuf, each_bad_export_has_its_errno_and_moves_nothing)
{
	struct client *owner = &self->owner, *lessee = &self->lessee;
	const struct {
		int error;
		uint32_t flags;
		struct evpl_range range;
	} cases[] = {
		{ -EINVAL, 0, { BUFFER + 1, PAGE } },
		{ -EINVAL, 0, { BUFFER + PAGE / 2, PAGE } },
		{ -EINVAL, 0, { BUFFER, PAGE - 1 } },
		{ -EINVAL, 0, { BUFFER, 0 } },
		{ -EINVAL, 0, { BUFFER, BUFFER + PAGE } },
		{ -EINVAL, 0, { BUFFER + PAGE, BUFFER } },
		{ -EINVAL, 0, { BUFFER, (1ULL << 32) + PAGE } },
		{ -EINVAL, 0, { BUFFER, -PAGE } },
		{ -ENOENT, 0, { SLAB, PAGE } },
		{ -ENOENT, 0, { 1ULL << 63, PAGE } },
		{ -ENOENT, 0, { owner->setup.out_refs_offset, PAGE } },
		{ -ENOENT, 0, { owner->setup.out_guest_offset, PAGE } },
		{ -ENOENT, 0, { owner->setup.out_guest_ro_offset +
				owner->setup.out_guest_size, PAGE } },
		{ -ESTALE, 0, { 2 * BUFFER, PAGE } },
		{ -EINVAL, EVPL_EXPORT_SLAB, { 1, PAGE } },
		{ -EINVAL, EVPL_EXPORT_SLAB, { PAGE, SLAB } },
		{ -EINVAL, EVPL_EXPORT_SLAB, { PAGE, -2 * PAGE } },
		{ -ENOENT, EVPL_EXPORT_SLAB, { SLAB, PAGE } },
		{ -ENOENT, EVPL_EXPORT_SLAB, { owner->setup.out_guest_offset, PAGE } },
	};
	struct evpl_range both[2];
	struct evpl_record got;

	fill(owner, 1, 'x');
	set_count(&owner->entries[1].word, 5);
	for (int i = 0; i < ARRAY_SIZE(cases); i++) {
		both[0] = (struct evpl_range){ BUFFER, PAGE };
		both[1] = cases[i].range;
		EXPECT_EQ(cases[i].error, evpl_export(owner->fd, both, 2, cases[i].flags))
			TH_LOG("case %d", i);
		EXPECT_EQ(5, get(&owner->entries[1].word));
		EXPECT_EQ(0, get(&owner->entries[2].word));
		EXPECT_EQ(0, read_counters().shares);
		EXPECT_EQ(0, read_counters().exports);
		EXPECT_EQ(0, fdinfo(owner->fd, "evpl-exports"));
	}
	EXPECT_EQ(-EINVAL, evpl_export(owner->fd, both, 0, 0));
	EXPECT_EQ(-EINVAL, evpl_export(owner->fd, both, EVPL_EXPORT_RANGES_MAX + 1, 0));
	EXPECT_EQ(-EFAULT, evpl_export(owner->fd, NULL, 1, 0));
	EXPECT_EQ(-EFAULT, evpl_export(owner->fd, (void *)-PAGE, 1, 0));
	EXPECT_EQ(5, get(&owner->entries[1].word));
	set_count(&owner->entries[1].word, 0);

	/* A lease gives the same errnos. It must be one for devices, and writable if need be. */
	ASSERT_TRUE(lend(owner, self->ends, 1, 'x', EVPL_RECORD_WRITE, &got));
	both[0] = (struct evpl_range){ got.offset, BUFFER };
	EXPECT_EQ(-EPERM, evpl_export(lessee->fd, both, 1, 0));
	EXPECT_EQ(1, get(&lessee->leases[got.lease].word));
	EXPECT_EQ(0, read_counters().exports);
	EXPECT_EQ(1, let_go(lessee, &got));
	ASSERT_TRUE(lend(owner, self->ends, 1, 'x', EVPL_RECORD_DEVICE, &got));
	both[0] = (struct evpl_range){ got.offset, BUFFER };
	EXPECT_EQ(-EPERM, evpl_export(lessee->fd, both, 1, EVPL_EXPORT_WRITE));
	both[0].length += PAGE;
	EXPECT_EQ(-EINVAL, evpl_export(lessee->fd, both, 1, 0));
	both[0].length = PAGE;
	both[1] = (struct evpl_range){ both[0].offset + PAGE, PAGE };
	EXPECT_EQ(-ESTALE, evpl_export(lessee->fd, both, 2, 0));
	EXPECT_EQ(1, get(&lessee->leases[got.lease].word));
	EXPECT_EQ(EVPL_WORD_SHARED, get(&owner->entries[1].word));
	EXPECT_EQ(0, read_counters().exports);
	EXPECT_EQ(0, touch_read(memory_of(lessee, &got)));
	EXPECT_EQ(0, evpl_revoke(owner->fd, BUFFER));
	EXPECT_EQ(-ENOENT, evpl_export(lessee->fd, both, 1, 0));
	EXPECT_EQ(1, get(&lessee->leases[got.lease].word));
	EXPECT_EQ(1, let_go(lessee, &got));
}

/* However many references the words pretend to have, a page is in a dma-buf once. */
TEST_F(dmabuf, ranges_that_overlap_are_EINVAL)
{
	static const struct {
		int error;
		struct evpl_range ranges[3];
	} cases[] = {
		{ -EINVAL, { { BUFFER, PAGE }, { 3 * BUFFER, PAGE }, { BUFFER, PAGE } } },
		{ -EINVAL, { { BUFFER + PAGE, 2 * PAGE }, { 0, PAGE }, { BUFFER, 2 * PAGE } } },
		{ -EINVAL, { { BUFFER, BUFFER }, { 0, PAGE }, { BUFFER + 2 * PAGE, PAGE } } },
		{ -EINVAL, { { 0, PAGE }, { PAGE, BUFFER - PAGE }, { BUFFER - PAGE, PAGE } } },
		{ 0, { { BUFFER + PAGE, PAGE }, { 0, BUFFER }, { BUFFER, PAGE } } },
	};
	struct client *owner = &self->owner;
	struct evpl_range *same = calloc(EVPL_EXPORT_RANGES_MAX, sizeof(*same));
	int fd;

	for (int flags = 0; flags <= EVPL_EXPORT_SLAB; flags += EVPL_EXPORT_SLAB)
		for (int i = 0; i < ARRAY_SIZE(cases); i++) {
			for (int n = 0; n < 4; n++)
				set_count(&owner->entries[n].word, 5);
			fd = evpl_export(owner->fd, cases[i].ranges, 3, flags);
			if (fd >= 0)
				fd = RESULT(close(fd));
			EXPECT_EQ(cases[i].error, fd) TH_LOG("case %d", i);
			EXPECT_EQ(0, read_counters().exports);
			EXPECT_EQ(0, fdinfo(owner->fd, "evpl-exports"));
			for (int n = 0; n < 4 && cases[i].error; n++)
				EXPECT_EQ(5, get(&owner->entries[n].word));
		}

	for (int i = 0; i < EVPL_EXPORT_RANGES_MAX; i++)
		same[i] = (struct evpl_range){ 0, SLAB };
	EXPECT_EQ(-EINVAL, evpl_export(owner->fd, same, EVPL_EXPORT_RANGES_MAX,
				       EVPL_EXPORT_SLAB));
	for (int n = 0; n < 4; n++)
		set_count(&owner->entries[n].word, 0);
	free(same);
}

TEST_F(dmabuf, carries_as_many_ranges_as_it_says)
{
	struct client *owner = &self->owner;
	struct evpl_range *ranges = calloc(EVPL_EXPORT_RANGES_MAX, sizeof(*ranges));
	const unsigned int nr = EVPL_EXPORT_RANGES_MAX, buffers = nr * PAGE / BUFFER;
	uint64_t offset;
	char *memory, *own;
	int fd;

	/* Export all pages of the two slabs, from the last to the first. */
	ASSERT_EQ(0, evpl_slab_alloc(owner->fd, nr * PAGE - SLAB, &offset));
	ASSERT_EQ(SLAB, offset);
	own = map(owner->fd, nr * PAGE, 0, RW);
	ASSERT_NE(NULL, own);
	for (int i = 0; i < buffers; i++)
		set_count(&owner->entries[i].word, BUFFER / PAGE);
	for (int i = 0; i < nr; i++)
		ranges[i] = (struct evpl_range){ (nr - 1 - i) * PAGE, PAGE };
	fd = evpl_export(owner->fd, ranges, nr, EVPL_EXPORT_WRITE);
	ASSERT_GE(fd, 0);
	memory = map(fd, nr * PAGE, 0, RW);
	ASSERT_NE(NULL, memory);
	for (int i = 0; i < nr; i++)
		memcpy(memory + i * PAGE, &i, sizeof(i));
	for (int i = 0; i < nr; i++)
		EXPECT_EQ(0, memcmp(own + (nr - 1 - i) * PAGE, &i, sizeof(i)));
	munmap(memory, nr * PAGE);
	close(fd);
	for (int i = 0; i < buffers; i++)
		EXPECT_EQ(0, get(&owner->entries[i].word));
	munmap(own, nr * PAGE);
	free(ranges);
}

TEST_F(dmabuf, needs_a_descriptor_and_moves_nothing_without)
{
	struct client *owner = &self->owner;
	const struct evpl_range range = buffer(0);
	int fds[2048], nr = 0, fd;

	fill(owner, 0, 'x');
	while (nr < 2048 && (fds[nr] = dup(owner->fd)) >= 0)
		nr++;
	ASSERT_LT(nr, 2048);
	EXPECT_EQ(-EMFILE, evpl_export(owner->fd, &range, 1, 0));
	EXPECT_EQ(1, get(&owner->entries[0].word));
	close(fds[--nr]);
	EXPECT_EQ(0, read_counters().shares);
	fd = evpl_export(owner->fd, &range, 1, 0);
	EXPECT_GE(fd, 0);
	close(fd);
	while (nr)
		close(fds[--nr]);
	EXPECT_EQ(0, get(&owner->entries[0].word));
}

TEST_F(dmabuf, client_that_only_reads_exports_for_reading)
{
	int fd = open(DEVICE, O_RDONLY | O_CLOEXEC), dmabuf;
	const struct evpl_range range = { 0, SLAB_2M };
	struct evpl_setup setup;
	struct evpl_record got;
	uint64_t offset;
	int ends[2];

	ASSERT_EQ(0, evpl_setup(fd, 0, &setup));
	ASSERT_EQ(0, evpl_slab_alloc(fd, SLAB_2M, &offset));
	EXPECT_EQ(-EPERM, evpl_export(fd, &range, 1, EVPL_EXPORT_SLAB | EVPL_EXPORT_WRITE));
	EXPECT_EQ(0, read_counters().exports);
	dmabuf = evpl_export(fd, &range, 1, EVPL_EXPORT_SLAB);
	EXPECT_GE(dmabuf, 0);
	close(dmabuf);

	/* Nor can it export a lease for writing, although the lease allows that. */
	ASSERT_EQ(0, evpl_channel(fd, 0, ends));
	ASSERT_EQ(0, evpl_bind(self->owner.fd, ends[0]));
	ASSERT_EQ(0, evpl_bind(fd, ends[1]));
	ASSERT_TRUE(lend(&self->owner, ends, 0, 'x', DEVICE_RW, &got));
	const struct evpl_range lease = { got.offset, BUFFER };

	EXPECT_EQ(-EPERM, evpl_export(fd, &lease, 1, EVPL_EXPORT_WRITE));
	dmabuf = evpl_export(fd, &lease, 1, 0);
	EXPECT_GE(dmabuf, 0);
	close(dmabuf);
	EXPECT_EQ(0, get(&self->owner.entries[0].word));
	close(ends[0]);
	close(ends[1]);
	close(fd);
}

TEST_F(dmabuf, lease_can_be_exported_and_ends_with_its_last_reference)
{
	struct client *owner = &self->owner, *lessee = &self->lessee;
	struct evpl_record got;
	struct evpl_range range;
	char *memory;
	int fd;

	ASSERT_TRUE(lend(owner, self->ends, 4, 'x', DEVICE_RW, &got));
	EXPECT_EQ(0, touch_read(memory_of(lessee, &got)));
	range = (struct evpl_range){ got.offset + PAGE, 2 * PAGE };
	fd = evpl_export(lessee->fd, &range, 1, EVPL_EXPORT_WRITE);
	ASSERT_GE(fd, 0);
	EXPECT_EQ(0, get(&lessee->leases[got.lease].word));
	EXPECT_EQ(0, read_counters().leases);
	EXPECT_EQ(SIGBUS, touch_read(memory_of(lessee, &got)));
	EXPECT_EQ(EVPL_WORD_SHARED | EVPL_WORD_PASSED_ON, get(&owner->entries[4].word));
	/* The export counts for the owner, whose memory it is. */
	EXPECT_EQ(1, fdinfo(owner->fd, "evpl-exports"));
	EXPECT_EQ(0, fdinfo(lessee->fd, "evpl-exports"));

	/* The dma-buf works on when the client that exported it has gone. */
	close_client(lessee);
	memory = map(fd, 2 * PAGE, 0, RW);
	ASSERT_NE(NULL, memory);
	close(fd);
	memset(memory, 'w', 2 * PAGE);
	EXPECT_EQ('x', owner->own[4 * BUFFER + PAGE - 1]);
	EXPECT_TRUE(is_filled_with(owner->own + 4 * BUFFER + PAGE, 'w', 2 * PAGE));
	EXPECT_EQ('x', owner->own[4 * BUFFER + 3 * PAGE]);
	EXPECT_EQ(EVPL_WORD_SHARED | EVPL_WORD_PASSED_ON, get(&owner->entries[4].word));
	munmap(memory, 2 * PAGE);
	EXPECT_EQ(0, get(&owner->entries[4].word));
	EXPECT_EQ(POLLIN, events_of(owner->fd));
	EXPECT_TRUE(bit(owner->returned, 4));
}

TEST_F(dmabuf, lease_with_more_references_stays)
{
	struct client *owner = &self->owner, *lessee = &self->lessee;
	struct evpl_record got[2];
	struct evpl_range range;
	int fd;

	ASSERT_TRUE(lend(owner, self->ends, 4, 'x', EVPL_RECORD_DEVICE, &got[0]));
	set_count(&owner->entries[4].word, 1);
	ASSERT_EQ(1, evpl_send(self->ends[0], &(struct evpl_record){
		.offset = 4 * BUFFER, .length = BUFFER,
		.flags = EVPL_RECORD_DEVICE }, 1));
	ASSERT_EQ(1, evpl_recv(self->ends[1], &got[1], 1));
	ASSERT_EQ(2, get(&lessee->leases[got[0].lease].word));
	range = (struct evpl_range){ got[0].offset, BUFFER };
	fd = evpl_export(lessee->fd, &range, 1, 0);
	ASSERT_GE(fd, 0);
	EXPECT_EQ(1, get(&lessee->leases[got[0].lease].word));
	EXPECT_EQ(0, touch_read(memory_of(lessee, &got[0])));
	EXPECT_EQ(1, let_go(lessee, &got[1]));
	EXPECT_EQ(EVPL_WORD_SHARED | EVPL_WORD_PASSED_ON, get(&owner->entries[4].word));
	close(fd);
	EXPECT_EQ(0, get(&owner->entries[4].word));
}

TEST_F(dmabuf, what_it_carries_can_not_be_revoked_on_older_kernels)
{
	struct client *owner = &self->owner, *lessee = &self->lessee;
	struct evpl_record sent, got;
	struct evpl_range range = buffer(4);
	int fd;

	if (can_tell_importers())
		SKIP(return, "a kernel that can tell importers");
	sent = fill(owner, 4, 'x');
	set_count(&owner->entries[4].word, 2);
	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	ASSERT_EQ(1, evpl_recv(self->ends[1], &got, 1));
	fd = evpl_export(owner->fd, &range, 1, 0);
	ASSERT_GE(fd, 0);
	EXPECT_EQ(-EBUSY, evpl_revoke(owner->fd, 4 * BUFFER));
	/* The lessee hasn't lost the buffer. */
	EXPECT_EQ(0, touch_read(memory_of(lessee, &got)));
	EXPECT_EQ(0, events_of(lessee->fd));
	EXPECT_EQ(EVPL_WORD_SHARED, get(&owner->entries[4].word));
	/* Another buffer can be revoked. */
	EXPECT_EQ(0, evpl_revoke(owner->fd, 5 * BUFFER));

	close(fd);
	EXPECT_EQ(EVPL_WORD_SHARED, get(&owner->entries[4].word));
	EXPECT_EQ(0, evpl_revoke(owner->fd, 4 * BUFFER));
	EXPECT_EQ(SIGBUS, touch_read(memory_of(lessee, &got)));
	EXPECT_EQ(0, get(&owner->entries[4].word));
	EXPECT_EQ(1, let_go(lessee, &got));
}

/* A kernel that can tell importers of devices. Here there is none. */
TEST_F(dmabuf, revoke_takes_back_what_it_carries)
{
	struct client *owner = &self->owner, *lessee = &self->lessee;
	struct evpl_record sent, got;
	struct evpl_range range = buffer(4);
	char *memory, *part;
	int fd, other;

	if (!can_tell_importers())
		SKIP(return, "a kernel that can't tell importers");
	sent = fill(owner, 4, 'x');
	set_count(&owner->entries[4].word, 3);
	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	ASSERT_EQ(1, evpl_recv(self->ends[1], &got, 1));
	fd = evpl_export(owner->fd, &range, 1, EVPL_EXPORT_WRITE);
	ASSERT_GE(fd, 0);
	range.length = 4096;
	other = evpl_export(owner->fd, &range, 1, 0);
	ASSERT_GE(other, 0);
	EXPECT_EQ(EVPL_WORD_SHARED, get(&owner->entries[4].word));
	EXPECT_EQ(2, fdinfo(owner->fd, "evpl-exports"));
	memory = map(fd, BUFFER, 0, RW);
	ASSERT_NE(NULL, memory);
	part = map(other, 4096, 0, PROT_READ);
	ASSERT_NE(NULL, part);
	EXPECT_EQ(0, touch_write(memory));
	EXPECT_EQ(0, touch_read(part));

	EXPECT_EQ(0, evpl_revoke(owner->fd, 4 * BUFFER));
	EXPECT_EQ(0, get(&owner->entries[4].word));
	EXPECT_EQ(POLLIN, events_of(owner->fd));
	EXPECT_TRUE(bit(owner->returned, 4));
	EXPECT_EQ(0, fdinfo(owner->fd, "evpl-exports"));
	EXPECT_EQ(0, fdinfo(owner->fd, "evpl-buffers-shared"));
	for (int i = 0; i < BUFFER; i += BUFFER - 1)
		EXPECT_EQ(SIGBUS, touch_write(memory + i));
	EXPECT_EQ(SIGBUS, touch_read(part));
	EXPECT_EQ(SIGBUS, touch_read(memory_of(lessee, &got)));
	EXPECT_EQ(NULL, map(fd, BUFFER, 0, PROT_READ));
	EXPECT_EQ(ENODEV, errno);
	EXPECT_EQ(0, sync_dmabuf(fd, DMA_BUF_SYNC_START | DMA_BUF_SYNC_RW));
	EXPECT_EQ(0, sync_dmabuf(fd, DMA_BUF_SYNC_END | DMA_BUF_SYNC_RW));

	/* The buffer is the owner's: it can be sent, exported and revoked as ever. */
	int again = export_one(owner, 4, 'y', 0);

	EXPECT_GE(again, 0);
	EXPECT_EQ(SIGBUS, touch_read(memory));
	munmap(memory, BUFFER);
	munmap(part, 4096);
	close(fd);
	close(other);
	EXPECT_EQ(EVPL_WORD_SHARED, get(&owner->entries[4].word));
	EXPECT_EQ(0, evpl_revoke(owner->fd, 4 * BUFFER));
	close(again);
	EXPECT_EQ(1, let_go(lessee, &got));
	EXPECT_EQ(0, evpl_slab_free(owner->fd, 0));
}

TEST_F(dmabuf, revoke_of_one_buffer_ends_all_of_it_and_leaves_it_the_others)
{
	struct client *owner = &self->owner;
	const struct evpl_range ranges[] = {
		buffer(1), { 2 * BUFFER, 4096 }, { 2 * BUFFER + 8192, 4096 }, buffer(3),
	};
	char *memory;
	int fd;

	if (!can_tell_importers())
		SKIP(return, "a kernel that can't tell importers");
	for (int i = 1; i < 4; i++)
		fill(owner, i, 'x');
	set_count(&owner->entries[2].word, 2);
	fd = evpl_export(owner->fd, ranges, 4, 0);
	ASSERT_GE(fd, 0);
	memory = map(fd, BUFFER, 0, PROT_READ);
	ASSERT_NE(NULL, memory);
	EXPECT_EQ(0, touch_read(memory));
	EXPECT_EQ(4, fdinfo(owner->fd, "evpl-exports"));
	EXPECT_EQ(0, evpl_revoke(owner->fd, 2 * BUFFER));
	EXPECT_EQ(SIGBUS, touch_read(memory));
	EXPECT_EQ(0, get(&owner->entries[2].word));
	EXPECT_EQ(EVPL_WORD_SHARED, get(&owner->entries[1].word));
	EXPECT_EQ(EVPL_WORD_SHARED, get(&owner->entries[3].word));
	EXPECT_EQ(2, fdinfo(owner->fd, "evpl-exports"));
	/* That buffer comes back by a revoke too, and the other one with the end of the dma-buf. */
	EXPECT_EQ(0, evpl_revoke(owner->fd, 3 * BUFFER));
	EXPECT_EQ(0, get(&owner->entries[3].word));
	munmap(memory, BUFFER);
	EXPECT_EQ(EVPL_WORD_SHARED, get(&owner->entries[1].word));
	EXPECT_EQ(1, fdinfo(owner->fd, "evpl-exports"));
	close(fd);
	EXPECT_EQ(0, get(&owner->entries[1].word));
	EXPECT_EQ(0, fdinfo(owner->fd, "evpl-exports"));
}

TEST_F(dmabuf, revoke_takes_back_what_a_lessee_exported_with_memory_of_its_own)
{
	struct client *owner = &self->owner, *lessee = &self->lessee;
	struct evpl_range ranges[2];
	int ready[2], go[2], fd;
	struct evpl_record got;
	char *memory, byte;
	pid_t child;

	if (!can_tell_importers())
		SKIP(return, "a kernel that can't tell importers");
	ASSERT_TRUE(lend(owner, self->ends, 4, 'x', DEVICE_RW, &got));
	fill(lessee, 0, 'l');
	ranges[0] = (struct evpl_range){ got.offset, BUFFER };
	ranges[1] = buffer(0);
	fd = evpl_export(lessee->fd, ranges, 2, EVPL_EXPORT_WRITE);
	ASSERT_GE(fd, 0);
	memory = map(fd, 2 * BUFFER, 0, RW);
	ASSERT_NE(NULL, memory);
	EXPECT_EQ(0, touch_write(memory));
	EXPECT_EQ(0, touch_write(memory + BUFFER));
	/* A child inherits the mapping, and loses it as well. */
	ASSERT_EQ(0, pipe(go));
	ASSERT_EQ(0, pipe(ready));
	child = fork_child();
	if (!child) {
		if (touch_write(memory) || write(ready[1], "", 1) != 1 ||
		    read(go[0], &byte, 1) != 1)
			_exit(1);
		_exit(touch_write(memory) == SIGBUS && touch_write(memory + BUFFER) == SIGBUS ?
		      0 : 2);
	}
	close(ready[1]);
	EXPECT_EQ(1, read(ready[0], &byte, 1));
	EXPECT_EQ(0, evpl_revoke(owner->fd, 4 * BUFFER));
	EXPECT_EQ(0, get(&owner->entries[4].word));
	EXPECT_EQ(SIGBUS, touch_write(memory));
	EXPECT_EQ(SIGBUS, touch_write(memory + BUFFER));
	EXPECT_EQ(1, write(go[1], "", 1));
	EXPECT_EQ(0, reap(child));
	close(ready[0]);
	close(go[0]);
	close(go[1]);
	EXPECT_EQ(EVPL_WORD_SHARED, get(&lessee->entries[0].word));
	munmap(memory, 2 * BUFFER);
	close(fd);
	EXPECT_EQ(0, get(&lessee->entries[0].word));
}

TEST_F(dmabuf, revoke_leaves_a_dmabuf_of_the_slab)
{
	const struct evpl_range range = { 0, SLAB_2M };
	struct client *owner = &self->owner;
	struct evpl_record got;
	char *memory;
	int fd;

	fd = evpl_export(owner->fd, &range, 1, EVPL_EXPORT_SLAB | EVPL_EXPORT_WRITE);
	ASSERT_GE(fd, 0);
	memory = map(fd, SLAB_2M, 0, RW);
	ASSERT_NE(NULL, memory);
	ASSERT_TRUE(lend(owner, self->ends, 4, 'x', 0, &got));
	EXPECT_EQ(0, evpl_revoke(owner->fd, 4 * BUFFER));
	EXPECT_EQ(SIGBUS, touch_read(memory_of(&self->lessee, &got)));
	EXPECT_TRUE(is_filled_with(memory + 4 * BUFFER, 'x', BUFFER));
	munmap(memory, SLAB_2M);
	close(fd);
	EXPECT_EQ(1, let_go(&self->lessee, &got));
}

TEST_F(dmabuf, owner_that_takes_its_leases_along_leaves_its_dmabufs)
{
	struct client *lessee = &self->lessee;
	struct evpl_range range = buffer(4);
	struct counters before = read_counters(), during;
	struct evpl_record got;
	struct client owner;
	char *memory;
	int ends[2], fd;

	ASSERT_TRUE(open_client(&owner, EVPL_SETUP_REVOKE));
	ASSERT_EQ(0, evpl_channel(owner.fd, 0, ends));
	ASSERT_EQ(0, evpl_bind(owner.fd, ends[0]));
	ASSERT_EQ(0, evpl_bind(lessee->fd, ends[1]));
	ASSERT_TRUE(lend(&owner, ends, 4, 'x', EVPL_RECORD_DEVICE, &got));
	set_count(&owner.entries[4].word, 1);
	fd = evpl_export(owner.fd, &range, 1, EVPL_EXPORT_WRITE);
	ASSERT_GE(fd, 0);
	memory = map(fd, BUFFER, 0, RW);
	ASSERT_NE(NULL, memory);
	close_client(&owner);

	EXPECT_EQ(SIGBUS, touch_read(memory_of(lessee, &got)));
	EXPECT_EQ(POLLPRI, events_of(lessee->fd));
	EXPECT_TRUE(is_filled_with(memory, 'x', BUFFER));
	EXPECT_EQ(1, let_go(lessee, &got));
	memset(memory, 'w', BUFFER);
	EXPECT_TRUE(is_filled_with(memory, 'w', BUFFER));
	during = read_counters();
	EXPECT_EQ(1, during.shares);
	EXPECT_LE(before.charged + BUFFER, during.charged);
	munmap(memory, BUFFER);
	EXPECT_EQ(1, read_counters().shares);
	close(fd);
	EXPECT_EQ(0, read_counters().shares);
	EXPECT_EQ(during.slabs - 1, read_counters().slabs);
	EXPECT_GT(during.charged, read_counters().charged);
	close(ends[0]);
	close(ends[1]);
}

TEST_F(dmabuf, slab_is_exported_without_references_and_not_freed_meanwhile)
{
	struct client *owner = &self->owner;
	const struct evpl_range ranges[] = {
		{ SLAB - PAGE, PAGE }, { BUFFER - PAGE, 2 * PAGE },
		{ 2 * BUFFER, SLAB - 3 * BUFFER },
	};
	const size_t size = 3 * PAGE + SLAB - 3 * BUFFER;
	struct counters before = read_counters();
	char *memory;
	int fd;

	fill(owner, 0, 'a');
	fill(owner, 1, 'b');
	fill(owner, 31, 'z');
	for (int i = 0; i < 32; i++)
		set_count(&owner->entries[i].word, 0);
	fd = evpl_export(owner->fd, ranges, 3, EVPL_EXPORT_SLAB | EVPL_EXPORT_WRITE);
	ASSERT_GE(fd, 0);
	EXPECT_EQ(3, fdinfo(owner->fd, "evpl-exports"));
	EXPECT_EQ(before.exports + 1, read_counters().exports);
	EXPECT_EQ(0, read_counters().shares);
	EXPECT_EQ(0, fdinfo(owner->fd, "evpl-buffers-in-use"));
	EXPECT_EQ(size, lseek(fd, 0, SEEK_END));
	memory = map(fd, size, 0, RW);
	ASSERT_NE(NULL, memory);
	EXPECT_TRUE(is_filled_with(memory, 'z', PAGE));
	EXPECT_TRUE(is_filled_with(memory + PAGE, 'a', PAGE));
	EXPECT_TRUE(is_filled_with(memory + 2 * PAGE, 'b', PAGE));
	EXPECT_EQ(0, memcmp(memory + 3 * PAGE, owner->own + 2 * BUFFER,
			    SLAB - 3 * BUFFER));
	EXPECT_EQ(-EBUSY, evpl_slab_free(owner->fd, 0));
	EXPECT_EQ(0, touch_write(owner->own));

	/* Meanwhile the slab's buffers can be given away as ever. */
	int other = export_one(owner, 0, 'x', 0);

	EXPECT_GE(other, 0);
	close(other);
	EXPECT_TRUE(is_filled_with(memory + PAGE, 'x', PAGE));
	munmap(memory, size);
	EXPECT_EQ(-EBUSY, evpl_slab_free(owner->fd, 0));
	close(fd);
	EXPECT_EQ(0, evpl_slab_free(owner->fd, 0));
	EXPECT_EQ(0, fdinfo(owner->fd, "evpl-exports"));
}

/* Have an owner in a child process export memory. Return the dma-buf that it sends, or -errno. */
static int owned_by_child(uint32_t flags, pid_t *child)
{
	const struct evpl_range range = flags & EVPL_EXPORT_SLAB ?
		(struct evpl_range){ 0, SLAB } : buffer(3);
	int sockets[2], fd;
	char byte;

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, sockets))
		return -errno;
	*child = fork_child();
	if (!*child) {
		struct client c;

		if (!open_client(&c, 0))
			_exit(1);
		fill(&c, 3, 'x');
		fd = evpl_export(c.fd, &range, 1, flags);
		if (fd < 0 || send_fd(sockets[0], 0, fd))
			_exit(2);
		for (;;)
			pause();
	}
	close(sockets[0]);
	fd = recv_fd(sockets[1], &byte, 0);
	close(sockets[1]);
	return fd;
}

FIXTURE(orphan)
{
	struct counters before;
};

FIXTURE_SETUP(orphan)
{
	limit_sleeps();
	self->before = read_counters();
}

FIXTURE_TEARDOWN(orphan)
{
	EXPECT_TRUE(counters_return_to(self->before));
}

FIXTURE_VARIANT(orphan)
{
	uint32_t flags;
	size_t at;	/* where the filled buffer is in the dma-buf */
	size_t kept;	/* at least so many bytes of the owner's stay charged */
};

FIXTURE_VARIANT_ADD(orphan, reference) {
	.flags = EVPL_EXPORT_WRITE,
	.kept = BUFFER,
};

FIXTURE_VARIANT_ADD(orphan, slab) {
	.flags = EVPL_EXPORT_WRITE | EVPL_EXPORT_SLAB,
	.at = 3 * BUFFER,
	.kept = SLAB,
};

TEST_F(orphan, dmabuf_outlives_its_owner_that_is_killed)
{
	struct counters during;
	char *memory;
	pid_t child;
	int fd = owned_by_child(variant->flags, &child);

	ASSERT_GE(fd, 0);
	kill(child, SIGKILL);
	EXPECT_EQ(-SIGKILL, reap(child));
	during = read_counters();
	EXPECT_EQ(self->before.clients, during.clients);
	EXPECT_EQ(self->before.slabs + 1, during.slabs);
	EXPECT_EQ(self->before.exports + 1, during.exports);
	/* The memory itself stays charged, not just the objects that describe it. */
	EXPECT_LE(self->before.charged + variant->kept, during.charged);

	memory = map(fd, BUFFER, variant->at, RW);
	ASSERT_NE(NULL, memory);
	close(fd);
	EXPECT_TRUE(is_filled_with(memory, 'x', BUFFER));
	memset(memory, 'w', BUFFER);
	EXPECT_TRUE(is_filled_with(memory, 'w', BUFFER));
	EXPECT_EQ(self->before.slabs + 1, read_counters().slabs);
	munmap(memory, BUFFER);
	EXPECT_TRUE(counters_return_to(self->before));
}

TEST_F(orphan, dmabuf_lives_in_a_socket_and_in_a_child_that_inherited_its_mapping)
{
	int sockets[2], go[2];
	char *memory, byte;
	pid_t owner, child;
	int fd = owned_by_child(variant->flags, &owner);

	ASSERT_GE(fd, 0);
	kill(owner, SIGKILL);
	EXPECT_EQ(-SIGKILL, reap(owner));
	memory = map(fd, BUFFER, variant->at, RW);
	ASSERT_NE(NULL, memory);
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets));
	ASSERT_EQ(0, pipe(go));
	ASSERT_EQ(0, send_fd(sockets[0], 0, fd));
	close(fd);
	child = fork_child();
	if (!child) {
		close(sockets[0]);
		close(sockets[1]);
		if (read(go[0], &byte, 1) != 1)
			_exit(1);
		_exit(is_filled_with(memory, 'x', BUFFER) ? 0 : 2);
	}
	munmap(memory, BUFFER);
	close(sockets[0]);
	close(sockets[1]);
	EXPECT_EQ(self->before.exports + 1, read_counters().exports);
	ASSERT_EQ(1, write(go[1], "", 1));
	EXPECT_EQ(0, reap(child));
	close(go[0]);
	close(go[1]);
	EXPECT_TRUE(counters_return_to(self->before));
}

TEST_F(orphan, module_can_not_be_unloaded_while_a_dmabuf_lives)
{
	pid_t owner;
	int fd = owned_by_child(variant->flags, &owner);

	ASSERT_GE(fd, 0);
	kill(owner, SIGKILL);
	EXPECT_EQ(-SIGKILL, reap(owner));
	EXPECT_EQ(-EWOULDBLOCK, RESULT(syscall(SYS_delete_module, "evpl", O_NONBLOCK)));
	close(fd);
}

TEST_HARNESS_MAIN
