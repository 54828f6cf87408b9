// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/* Dma-bufs of slices and of slabs: which memory they show, and when that comes back. */
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common.h"

/* Buffers have several pages. */
#define LARGE	(PAGE > 16 * KB ? 4 * PAGE : BUFFER)
#define PER_LARGE (SLAB / LARGE)

static int take_large_slab(struct evpl *evpl, struct evpl_iovec *iovec)
{
	for (size_t i = 0; i < PER_LARGE; i++)
		if (evpl_buffer_alloc(evpl, &iovec[i]) != 1)
			return -1;
	return 0;
}

TEST(anon_memory_is_exported_to_nobody)
{
	struct evpl_pool_config config = {
		.size = sizeof(config),
		.backend = EVPL_BACKEND_ANON,
	};
	struct evpl_slab_info slab;
	struct evpl_iovec iovec;
	struct evpl_pool *pool;
	struct evpl *evpl;
	uint64_t offset;

	ASSERT_EQ(0, evpl_pool_open(&pool, &config));
	ASSERT_EQ(0, evpl_create(&evpl, pool, NULL));
	ASSERT_EQ(1, evpl_iovec_alloc(evpl, PAGE, PAGE, 1, &iovec));
	EXPECT_EQ(-EOPNOTSUPP, evpl_iovec_export(&iovec, 1, 0));
	ASSERT_EQ(0, evpl_iovec_slab(&iovec, &slab));
	EXPECT_EQ(-EOPNOTSUPP, evpl_slab_export(pool, &slab, 0));
	EXPECT_EQ(-EOPNOTSUPP, evpl_slab_offset(pool, &slab, &offset));
	evpl_iovec_release(&iovec);
	evpl_destroy(evpl);
	EXPECT_EQ(0, evpl_pool_close(pool));
}

FIXTURE(export)
{
	struct evpl_pool *pool;
	struct evpl *evpl;
};

FIXTURE_SETUP(export)
{
	if (!getenv("EVPL_BACKEND") || strcmp(getenv("EVPL_BACKEND"), "module"))
		SKIP(return, "the module's alone");
	ASSERT_EQ(0, open_pool(&self->pool, LARGE, 2 * SLAB));
	ASSERT_EQ(0, evpl_create(&self->evpl, self->pool, NULL));
}

FIXTURE_TEARDOWN(export)
{
	if (!self->pool)
		return;
	evpl_destroy(self->evpl);
	EXPECT_EQ(0, evpl_pool_close(self->pool));
}

static struct evpl_iovec allocate(struct evpl *evpl, unsigned int length, char byte)
{
	struct evpl_iovec iovec;

	if (evpl_iovec_alloc(evpl, length, PAGE, 1, &iovec) != 1)
		abort();
	memset(iovec.data, byte, length);
	return iovec;
}

/* Maps a dma-buf. Returns NULL if that fails. */
static char *map(int fd, size_t length, int protection)
{
	void *memory = mmap(NULL, length, protection, MAP_SHARED, fd, 0);

	return memory == MAP_FAILED ? NULL : memory;
}

static bool is_filled(const char *bytes, char byte, size_t length)
{
	return bytes[0] == byte && !memcmp(bytes, bytes + 1, length - 1);
}

TEST_F(export, slices_are_seen_and_come_back_when_the_dmabuf_has_gone)
{
	struct evpl_iovec iovecs[3], kept;
	char *memory;
	int fd;

	iovecs[0] = allocate(self->evpl, 2 * PAGE, 'a');
	iovecs[1] = allocate(self->evpl, PAGE, 'b');
	ASSERT_EQ(1, evpl_buffer_alloc(self->evpl, &iovecs[2]));
	memset(iovecs[2].data, 'c', LARGE);
	evpl_iovec_clone(&kept, &iovecs[0]);
	fd = evpl_iovec_export(iovecs, 3, EVPL_DMABUF_WRITE);
	ASSERT_GE(fd, 0);
	EXPECT_EQ(FD_CLOEXEC, fcntl(fd, F_GETFD));
	memory = map(fd, 3 * PAGE + LARGE, PROT_READ | PROT_WRITE);
	ASSERT_NE(NULL, memory);
	EXPECT_TRUE(is_filled(memory, 'a', 2 * PAGE));
	EXPECT_TRUE(is_filled(memory + 2 * PAGE, 'b', PAGE));
	EXPECT_TRUE(is_filled(memory + 3 * PAGE, 'c', LARGE));
	memory[0] = 'w';
	EXPECT_EQ('w', *(char *)kept.data);

	close(fd);
	/* The kernel keeps one reference for both slices of the first buffer. */
	EXPECT_EQ(2, word_of(&kept));
	EXPECT_EQ(1, word_of(&iovecs[2]));
	EXPECT_EQ(2, used_in(self->pool));
	munmap(memory, 3 * PAGE + LARGE);
	EXPECT_EQ(1, word_of(&kept));
	EXPECT_EQ(0, word_of(&iovecs[2]));
	evpl_iovec_release(&kept);
	/* The pool takes a buffer that the kernel took to zero when it looks for memory. */
	evpl_pool_trim(self->pool);
	EXPECT_EQ(0, used_in(self->pool));
}

TEST_F(export, what_is_read_only_can_not_be_written)
{
	struct evpl_iovec iovec = allocate(self->evpl, PAGE, 'x');
	int fd = evpl_iovec_export(&iovec, 1, 0);
	char *memory;

	ASSERT_GE(fd, 0);
	EXPECT_EQ(NULL, map(fd, PAGE, PROT_READ | PROT_WRITE));
	EXPECT_EQ(EACCES, errno);
	memory = map(fd, PAGE, PROT_READ);
	ASSERT_NE(NULL, memory);
	EXPECT_TRUE(is_filled(memory, 'x', PAGE));
	munmap(memory, PAGE);
	close(fd);
}

TEST_F(export, nothing_is_allocated_any_more_in_the_buffers)
{
	struct evpl_iovec iovec = allocate(self->evpl, PAGE, 'x'), next;
	int fd;

	next = allocate(self->evpl, PAGE, 'y');
	EXPECT_EQ(iovec_entry(&iovec), iovec_entry(&next));
	fd = evpl_iovec_export(&iovec, 1, 0);
	ASSERT_GE(fd, 0);
	evpl_iovec_release(&next);
	next = allocate(self->evpl, PAGE, 'z');
	EXPECT_NE(iovec_entry(&iovec), iovec_entry(&next));
	evpl_iovec_release(&next);
	close(fd);
}

TEST_F(export, who_waits_for_memory_is_told_without_a_channel)
{
	struct evpl_iovec iovecs[2 * PER_LARGE], more;
	struct pollfd ready = { .fd = evpl_pool_fd(self->pool), .events = POLLIN };
	int fd;

	ASSERT_EQ(0, take_large_slab(self->evpl, iovecs));
	ASSERT_EQ(0, take_large_slab(self->evpl, iovecs + PER_LARGE));
	fd = evpl_iovec_export(iovecs, 2 * PER_LARGE, 0);
	ASSERT_GE(fd, 0);
	EXPECT_EQ(-ENOMEM, evpl_buffer_alloc(self->evpl, &more));
	EXPECT_EQ(0, poll(&ready, 1, 0));
	EXPECT_EQ(-EBUSY, evpl_pool_close(self->pool));
	close(fd);
	EXPECT_EQ(1, poll(&ready, 1, 0));
	EXPECT_EQ(POLLIN, ready.revents);
	EXPECT_EQ(1, evpl_buffer_alloc(self->evpl, &more));
	evpl_iovec_release(&more);
	evpl_pool_trim(self->pool);
	EXPECT_EQ(0, used_in(self->pool));
}

TEST_F(export, each_bad_export_has_its_error_and_keeps_the_references)
{
	struct evpl_iovec iovecs[2], empty = {}, bad;
	struct evpl_pool *pool;
	struct evpl *evpl;
	bool can_revoke;
	int fd;

	iovecs[0] = allocate(self->evpl, 2 * PAGE, 'x');
	evpl_iovec_clone(&iovecs[1], &iovecs[0]);
	EXPECT_EQ(-EOPNOTSUPP, evpl_iovec_export(iovecs, 1, ~EVPL_DMABUF_WRITE));
	EXPECT_EQ(-EINVAL, evpl_iovec_export(iovecs, 0, 0));
	EXPECT_EQ(-EINVAL, evpl_iovec_export(iovecs, -1, 0));
	EXPECT_EQ(-EINVAL, evpl_iovec_export(&empty, 1, 0));
	bad = iovecs[1];
	iovecs[1] = empty;
	EXPECT_EQ(-EINVAL, evpl_iovec_export(iovecs, 2, 0));
	iovecs[1] = bad;
	iovecs[1].length = PAGE + 1;
	EXPECT_EQ(-EINVAL, evpl_iovec_export(iovecs, 2, 0));
	iovecs[1].length = PAGE;
	iovecs[1].data = (char *)bad.data + 1;
	EXPECT_EQ(-EINVAL, evpl_iovec_export(iovecs, 2, 0));
	iovecs[1] = bad;

	ASSERT_EQ(0, open_pool(&pool, LARGE, SLAB));
	ASSERT_EQ(0, evpl_create(&evpl, pool, NULL));
	iovecs[1] = allocate(evpl, PAGE, 'y');
	EXPECT_EQ(-EINVAL, evpl_iovec_export(iovecs, 2, 0));
	evpl_iovec_release(&iovecs[1]);
	evpl_destroy(evpl);
	EXPECT_EQ(0, evpl_pool_close(pool));
	iovecs[1] = bad;
	iovecs[1].data = (char *)bad.data + PAGE;
	iovecs[1].length = PAGE;
	/* The two slices overlap in the second page of the first one. */
	EXPECT_EQ(-EINVAL, evpl_iovec_export(iovecs, 2, 0));
	iovecs[0].length = PAGE;

	/* The first attempt that got as far as the kernel has ended the context's hold. */
	EXPECT_EQ(2, word_of(&iovecs[0]));
	fd = evpl_iovec_export(iovecs, 2, 0);
	ASSERT_GE(fd, 0);
	/* No driver uses the dma-buf, so a kernel that can revoke one revokes it too. */
	can_revoke = !system("grep -qw dma_buf_attach_revocable /proc/kallsyms");
	EXPECT_EQ(can_revoke ? 0 : -EBUSY, evpl_iovec_revoke(&iovecs[0]));
	close(fd);
	EXPECT_EQ(0, word_of(&iovecs[0]));
}

TEST_F(export, as_many_slices_as_the_kernel_takes_and_no_more)
{
	struct evpl_iovec *iovecs = calloc(1025, sizeof(*iovecs)), buffers[2 * PER_LARGE];
	const int pages = LARGE / PAGE;
	int fd;

	/* One slice for each page of the pool, and one more for the first page. */
	if (2 * PER_LARGE * pages != 1024)
		SKIP(return, "a pool of other than 1,024 pages");
	ASSERT_EQ(0, take_large_slab(self->evpl, buffers));
	ASSERT_EQ(0, take_large_slab(self->evpl, buffers + PER_LARGE));
	for (int i = 0; i < 1025; i++) {
		const struct evpl_iovec *buffer = &buffers[i / pages % (2 * PER_LARGE)];

		if (i % pages || i == 1024)
			evpl_iovec_clone(&iovecs[i], buffer);
		else
			iovecs[i] = *buffer;
		iovecs[i].data = (char *)buffer->data + i % pages * PAGE;
		iovecs[i].length = PAGE;
	}
	EXPECT_EQ(-EINVAL, evpl_iovec_export(iovecs, 1025, 0));
	EXPECT_EQ(pages + 1, word_of(&iovecs[0]));
	EXPECT_EQ(pages, word_of(&iovecs[1023]));
	fd = evpl_iovec_export(iovecs, 1024, 0);
	ASSERT_GE(fd, 0);
	EXPECT_EQ(2, word_of(&iovecs[0]));
	EXPECT_EQ(1, word_of(&iovecs[1023]));
	close(fd);
	EXPECT_EQ(1, word_of(&iovecs[0]));
	EXPECT_EQ(0, word_of(&iovecs[1023]));
	evpl_iovec_release(&iovecs[1024]);
	free(iovecs);
}

TEST_F(export, received_memory_goes_back_to_who_sent_it)
{
	struct received received;
	char *memory;
	int fd;

	receive(&received, self->pool, PAGE);
	EXPECT_EQ(-EPERM, evpl_iovec_export(&received.message.iovec, 1, 0));
	EXPECT_EQ(1, word_of(&received.message.iovec));
	EXPECT_EQ(0, end_received(&received));

	receive_with(&received, self->pool, PAGE, EVPL_MESSAGE_WRITE | EVPL_MESSAGE_DEVICE);
	fd = evpl_iovec_export(&received.message.iovec, 1, EVPL_DMABUF_WRITE);
	ASSERT_GE(fd, 0);
	EXPECT_EQ(0, word_of(&received.message.iovec));
	memory = map(fd, PAGE, PROT_READ | PROT_WRITE);
	ASSERT_NE(NULL, memory);
	EXPECT_TRUE(is_filled(memory, 'x', PAGE));
	munmap(memory, PAGE);
	EXPECT_EQ(1, used_in(received.other));
	close(fd);
	evpl_pool_trim(received.other);
	EXPECT_EQ(0, used_in(received.other));
	received.message.iovec = (struct evpl_iovec){};
	EXPECT_EQ(0, end_received(&received));
}

TEST_F(export, slab_stays_until_its_dmabuf_has_gone)
{
	struct evpl_slab_info slab, other = {};
	struct evpl_iovec iovecs[PER_LARGE + 1];
	char *memory;
	int fd;

	ASSERT_EQ(0, take_large_slab(self->evpl, iovecs));
	ASSERT_EQ(1, evpl_buffer_alloc(self->evpl, &iovecs[PER_LARGE]));
	ASSERT_EQ(0, evpl_iovec_slab(&iovecs[PER_LARGE], &slab));
	memset(iovecs[PER_LARGE].data, 'x', LARGE);
	EXPECT_EQ(-EOPNOTSUPP, evpl_slab_export(self->pool, &slab, ~EVPL_DMABUF_WRITE));
	EXPECT_EQ(-ENOENT, evpl_slab_export(self->pool, &other, 0));
	fd = evpl_slab_export(self->pool, &slab, EVPL_DMABUF_WRITE);
	ASSERT_GE(fd, 0);
	memory = map(fd, slab.length, PROT_READ | PROT_WRITE);
	ASSERT_NE(NULL, memory);
	EXPECT_TRUE(is_filled(memory + ((char *)iovecs[PER_LARGE].data - (char *)slab.base),
			      'x', LARGE));
	munmap(memory, slab.length);
	EXPECT_EQ(1, word_of(&iovecs[PER_LARGE]));

	/* Both slabs are idle. A trim keeps one anyway, and the dma-buf keeps the other. */
	evpl_iovecs_release(iovecs, PER_LARGE + 1);
	evpl_pool_trim(self->pool);
	EXPECT_EQ(2, stats_of(self->pool).slabs);
	evpl_destroy(self->evpl);
	EXPECT_EQ(-EBUSY, evpl_pool_close(self->pool));
	ASSERT_EQ(0, evpl_create(&self->evpl, self->pool, NULL));
	close(fd);
	evpl_pool_trim(self->pool);
	EXPECT_GE(1, stats_of(self->pool).slabs);
}

TEST_F(export, slab_is_mapped_by_its_offset)
{
	struct evpl_iovec iovec = allocate(self->evpl, PAGE, 'x');
	struct evpl_slab_info slab, other = {}, leased = { .flags = EVPL_SLAB_LEASED };
	uint64_t offset = 1;
	char *memory;

	ASSERT_EQ(0, evpl_iovec_slab(&iovec, &slab));
	leased.base = slab.base;
	EXPECT_EQ(-ENOENT, evpl_slab_offset(self->pool, &other, &offset));
	EXPECT_EQ(-ENOENT, evpl_slab_offset(self->pool, &leased, &offset));
	EXPECT_EQ(1, offset);
	ASSERT_EQ(0, evpl_slab_offset(self->pool, &slab, &offset));
	memory = mmap(NULL, slab.length, PROT_READ, MAP_SHARED, evpl_pool_fd(self->pool),
		      (off_t)offset);
	ASSERT_NE(MAP_FAILED, memory);
	EXPECT_TRUE(is_filled(memory + ((char *)iovec.data - (char *)slab.base), 'x', PAGE));
	munmap(memory, slab.length);
	evpl_iovec_release(&iovec);
}

/* A device that exports each slab as a dma-buf. */
struct importer {
	struct evpl_pool *pool;
	unsigned int failures;
};

static int import(void *arg, const struct evpl_slab_info *slab, uint64_t *cookie)
{
	struct importer *importer = arg;
	int fd = evpl_slab_export(importer->pool, slab, EVPL_DMABUF_WRITE);

	if (fd < 0)
		importer->failures++;
	*cookie = (uint64_t)fd;
	return fd < 0 ? fd : 0;
}

static int let_go(void *arg, const struct evpl_slab_info *slab, uint64_t cookie)
{
	return close((int)cookie);
}

TEST_F(export, device_takes_each_slab_as_a_dmabuf)
{
	const struct evpl_device_ops ops = {
		.size = sizeof(ops),
		.register_slab = import,
		.unregister_slab = let_go,
	};
	struct importer importer = { .pool = self->pool };
	struct evpl_iovec iovecs[PER_LARGE + 1];
	struct evpl_slab_info slab;
	struct evpl_device *device;
	uint64_t cookie;
	char *memory;

	ASSERT_EQ(0, evpl_device_attach(self->pool, &ops, &importer, &device));
	ASSERT_EQ(0, take_large_slab(self->evpl, iovecs));
	ASSERT_EQ(1, evpl_buffer_alloc(self->evpl, &iovecs[PER_LARGE]));
	EXPECT_EQ(2, stats_of(self->pool).slabs);
	memset(iovecs[PER_LARGE].data, 'x', LARGE);
	ASSERT_EQ(0, evpl_device_cookie(device, &iovecs[PER_LARGE], &cookie));
	ASSERT_EQ(0, evpl_iovec_slab(&iovecs[PER_LARGE], &slab));
	memory = map((int)cookie, slab.length, PROT_READ);
	ASSERT_NE(NULL, memory);
	EXPECT_EQ('x', memory[(char *)iovecs[PER_LARGE].data - (char *)slab.base]);
	munmap(memory, slab.length);
	evpl_iovecs_release(iovecs, PER_LARGE + 1);
	/* The trim has the device close its dma-buf first, so nothing keeps the slab. */
	evpl_pool_trim(self->pool);
	EXPECT_EQ(1, stats_of(self->pool).slabs);
	evpl_device_detach(device);
	EXPECT_EQ(0, importer.failures);
}

TEST_F(export, child_of_a_fork_exports_nothing_of_its_parents)
{
	struct evpl_iovec iovec = allocate(self->evpl, PAGE, 'x');
	struct evpl_slab_info slab;
	uint64_t offset;
	int status;
	pid_t pid;

	ASSERT_EQ(0, evpl_iovec_slab(&iovec, &slab));
	pid = fork();
	if (!pid)
		_exit(evpl_iovec_export(&iovec, 1, 0) == -EPERM &&
		      evpl_slab_export(self->pool, &slab, 0) == -EPERM &&
		      evpl_slab_offset(self->pool, &slab, &offset) == -EPERM ? 0 : 1);
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	evpl_iovec_release(&iovec);
}

TEST_HARNESS_MAIN
