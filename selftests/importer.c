// SPDX-License-Identifier: GPL-2.0-only
/*
 * Drivers that take dma-bufs take ours as they take others': the driver of a GPU (vgem,
 * which attaches and maps them for its device), and that of a camera (vivid, whose frames
 * arrive in them). Each test also runs on dma-bufs of udmabuf and of the system heap, where
 * the kernel has these. A test that fails on all of them shows no bug of ours.
 *
 * And an owner takes its memory back from a driver that can be told to let go of a dma-buf, and
 * from none that can't.
 */
#include <linux/dma-buf.h>
#include <linux/dma-heap.h>
#include <linux/udmabuf.h>
#include <linux/videodev2.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "pair.h"
#include "vgem.h"

#define SIZE	(2 * BUFFER)
#define RW	(PROT_READ | PROT_WRITE)

/* A node of vivid, as VIVID below loads it. */
struct node {
	const char *bus;
	uint32_t type;	/* V4L2_BUF_TYPE_* */
	uint32_t width, height;
};

/* The first instance of vivid maps memory by vmap, the second by DMA. */
#define VIVID	"modprobe -q vivid n_devs=2 allocators=0,1 node_types=0x101,0x101"
static const struct node camera = { "platform:vivid-000", V4L2_BUF_TYPE_VIDEO_CAPTURE, 320, 180 };
static const struct node dma_camera = { "platform:vivid-001", V4L2_BUF_TYPE_VIDEO_CAPTURE,
					320, 180 };
/*
 * This device takes a frame only in one DMA segment, and a segment has 64 KiB at most. With
 * bounce buffers (swiotlb=force), segments that are contiguous in memory aren't so for it.
 */
static const struct node dma_screen = { "platform:vivid-001", V4L2_BUF_TYPE_VIDEO_OUTPUT,
					160, 90 };

static bool is_node(int fd, const void *arg)
{
	const struct node *node = arg;
	struct v4l2_capability capability;

	return !ioctl(fd, VIDIOC_QUERYCAP, &capability) &&
	       !strcmp((char *)capability.bus_info, node->bus) &&
	       capability.device_caps & (node->type == V4L2_BUF_TYPE_VIDEO_CAPTURE ?
					 V4L2_CAP_VIDEO_CAPTURE : V4L2_CAP_VIDEO_OUTPUT);
}

/* Set a control by its name, since the headers have no numbers of vivid's own controls. */
static bool set_control(int fd, const char *name, int value)
{
	struct v4l2_queryctrl query = { .id = V4L2_CTRL_FLAG_NEXT_CTRL };
	struct v4l2_control control;

	for (; !ioctl(fd, VIDIOC_QUERYCTRL, &query); query.id |= V4L2_CTRL_FLAG_NEXT_CTRL) {
		if (strcmp((char *)query.name, name))
			continue;
		control = (struct v4l2_control){ .id = query.id, .value = value };
		return !ioctl(fd, VIDIOC_S_CTRL, &control);
	}
	return false;
}

/* Open a node, and set it up for one dma-buf with small frames. Return -1 without vivid. */
static int open_video(const struct node *node, struct v4l2_format *format)
{
	struct v4l2_requestbuffers request = {
		.count = 1,
		.type = node->type,
		.memory = V4L2_MEMORY_DMABUF,
	};
	int fd;

	if (system(VIVID))
		return -1;
	fd = find_device("/dev", "video", is_node, node);
	*format = (struct v4l2_format){
		.type = node->type,
		.fmt.pix = {
			.width = node->width,
			.height = node->height,
			.pixelformat = V4L2_PIX_FMT_YUYV,
			.field = V4L2_FIELD_NONE,
		},
	};
	if (fd >= 0 && (ioctl(fd, VIDIOC_S_FMT, format) ||
			ioctl(fd, VIDIOC_REQBUFS, &request))) {
		close(fd);
		return -1;
	}
	return fd;
}

/* Queue all of a dma-buf to a camera (bytes is 0), or so many bytes of it to a screen. */
static int queue(int video, uint32_t type, int dmabuf, uint32_t bytes)
{
	struct v4l2_buffer buffer = {
		.type = type,
		.memory = V4L2_MEMORY_DMABUF,
		.m.fd = dmabuf,
		.length = bytes,
		.bytesused = bytes,
		.field = V4L2_FIELD_NONE,
	};

	return RESULT(ioctl(video, VIDIOC_QBUF, &buffer));
}

/* Stream until the frame is done. Return its bytes, or -errno. */
static int run(int video, uint32_t type)
{
	struct v4l2_buffer buffer = { .type = type, .memory = V4L2_MEMORY_DMABUF };
	struct pollfd ready = { .fd = video, .events = POLLIN };
	int ret = RESULT(ioctl(video, VIDIOC_STREAMON, &type));

	if (ret)
		return ret;
	poll(&ready, 1, 120 * 1000);
	ret = RESULT(ioctl(video, VIDIOC_DQBUF, &buffer));
	ioctl(video, VIDIOC_STREAMOFF, &type);
	if (!ret && buffer.flags & V4L2_BUF_FLAG_ERROR)
		ret = -EIO;
	return ret ?: (int)buffer.bytesused;
}

/* Frames of 75% colour bars: eight of them, each darker than the one before. */
static bool is_colour_bars(const unsigned char *frame, const struct v4l2_pix_format *pix)
{
	unsigned int bar = pix->width / 8;

	for (unsigned int y = 1; y < pix->height; y++)
		if (memcmp(frame, frame + y * pix->bytesperline, 2 * pix->width))
			return false;
	for (unsigned int i = 1; i < 8; i++)
		if (frame[2 * (i * bar + bar / 2)] >= frame[2 * ((i - 1) * bar + bar / 2)])
			return false;
	return true;
}

/* Functions that make a dma-buf of SIZE. Each returns it, or -1 if this kernel can't. */

static int of_references(struct client *owner)
{
	/* The first two are contiguous in memory too, so a device gets them as one segment. */
	const struct evpl_range ranges[] = {
		{ 5 * BUFFER, BUFFER / 2 }, { 5 * BUFFER + BUFFER / 2, BUFFER / 2 },
		{ 2 * BUFFER, BUFFER },
	};

	fill(owner, 5, 'x');
	set_count(&owner->entries[5].word, 2);
	fill(owner, 2, 'x');
	return evpl_export(owner->fd, ranges, 3, EVPL_EXPORT_WRITE);
}

static int of_slab(struct client *owner)
{
	const struct evpl_range range = { PAGE, SIZE };

	return evpl_export(owner->fd, &range, 1, EVPL_EXPORT_SLAB | EVPL_EXPORT_WRITE);
}

static int of_udmabuf(struct client *unused)
{
	struct udmabuf_create create = { .flags = UDMABUF_FLAGS_CLOEXEC, .size = SIZE };
	int device = open("/dev/udmabuf", O_RDWR | O_CLOEXEC), fd = -1;

	if (device < 0)
		return -1;
	create.memfd = memfd_create("udmabuf", MFD_ALLOW_SEALING | MFD_CLOEXEC);
	if (!ftruncate(create.memfd, SIZE) && !fcntl(create.memfd, F_ADD_SEALS, F_SEAL_SHRINK))
		fd = ioctl(device, UDMABUF_CREATE, &create);
	close(create.memfd);
	close(device);
	return fd;
}

static int of_heap(struct client *unused)
{
	struct dma_heap_allocation_data data = {
		.len = SIZE,
		.fd_flags = O_RDWR | O_CLOEXEC,
	};
	int heap = open("/dev/dma_heap/system", O_RDONLY | O_CLOEXEC);
	int ret = heap < 0 ? -1 : ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &data);

	close(heap);
	return ret < 0 ? -1 : (int)data.fd;
}

FIXTURE(importer)
{
	struct counters before;
	struct client owner;
	char *memory;
	int fd;
};

FIXTURE_VARIANT(importer)
{
	int (*make)(struct client *owner);
	bool ours;
};

FIXTURE_VARIANT_ADD(importer, references) { .make = of_references, .ours = true };
FIXTURE_VARIANT_ADD(importer, slab) { .make = of_slab, .ours = true };
FIXTURE_VARIANT_ADD(importer, udmabuf) { .make = of_udmabuf };
FIXTURE_VARIANT_ADD(importer, heap) { .make = of_heap };

FIXTURE_SETUP(importer)
{
	limit_sleeps();
	self->before = read_counters();
	ASSERT_TRUE(open_client(&self->owner, 0));
	self->fd = variant->make(&self->owner);
	if (self->fd < 0) {
		close_client(&self->owner);
		ASSERT_FALSE(variant->ours);
		SKIP(return, "a kernel without it");
	}
	self->memory = map(self->fd, SIZE, 0, RW);
	ASSERT_NE(NULL, self->memory);
	memset(self->memory, 'x', SIZE);
}

/* Give the dma-buf up, so that only the importer has it. */
static void let_go_of_dmabuf(struct _test_data_importer *self)
{
	munmap(self->memory, SIZE);
	close(self->fd);
}

/* By now the importer has let go of the dma-buf. */
FIXTURE_TEARDOWN(importer)
{
	EXPECT_EQ(self->before.exports, read_counters().exports);
	EXPECT_EQ(0, fdinfo(self->owner.fd, "evpl-buffers-in-use"));
	close_client(&self->owner);
	EXPECT_TRUE(counters_return_to(self->before));
}

TEST_F(importer, gpu_maps_it_and_keeps_it_until_its_handle_is_closed)
{
	struct dma_buf_sync sync = { .flags = DMA_BUF_SYNC_START | DMA_BUF_SYNC_RW };
	struct drm_prime prime = { .fd = self->fd };
	struct drm_close drm_close = {};
	int gpu = open_vgem();
	char *memory;

	if (gpu < 0) {
		let_go_of_dmabuf(self);
		SKIP(return, "a kernel without vgem");
	}
	ASSERT_EQ(0, RESULT(ioctl(gpu, DRM_FD_TO_HANDLE, &prime)));
	drm_close.handle = prime.handle;
	EXPECT_EQ(0, RESULT(ioctl(self->fd, DMA_BUF_IOCTL_SYNC, &sync)));
	self->memory[0] = 'y';
	sync.flags = DMA_BUF_SYNC_END | DMA_BUF_SYNC_RW;
	EXPECT_EQ(0, RESULT(ioctl(self->fd, DMA_BUF_IOCTL_SYNC, &sync)));
	let_go_of_dmabuf(self);
	EXPECT_EQ(self->before.exports + variant->ours, read_counters().exports);

	prime.flags = O_RDWR | O_CLOEXEC;
	ASSERT_EQ(0, RESULT(ioctl(gpu, DRM_HANDLE_TO_FD, &prime)));
	memory = map(prime.fd, SIZE, 0, RW);
	ASSERT_NE(NULL, memory);
	EXPECT_EQ('y', memory[0]);
	EXPECT_TRUE(is_filled_with(memory + 1, 'x', SIZE - 1));
	munmap(memory, SIZE);
	close(prime.fd);
	EXPECT_EQ(self->before.exports + variant->ours, read_counters().exports);
	EXPECT_EQ(0, RESULT(ioctl(gpu, DRM_GEM_CLOSE, &drm_close)));
	close(gpu);
}

TEST_F(importer, camera_fills_it_with_a_frame)
{
	struct v4l2_format format;
	int video = open_video(&camera, &format);

	if (video < 0) {
		let_go_of_dmabuf(self);
		SKIP(return, "a kernel without vivid");
	}
	ASSERT_GE(SIZE, format.fmt.pix.sizeimage);
	ASSERT_EQ(320, format.fmt.pix.width);
	/* Have vivid draw no text over the bars. */
	ASSERT_TRUE(set_control(video, "OSD Text Mode", 2));
	ASSERT_EQ(0, queue(video, camera.type, self->fd, 0));
	EXPECT_EQ(format.fmt.pix.sizeimage, run(video, camera.type));
	EXPECT_TRUE(is_colour_bars((unsigned char *)self->memory, &format.fmt.pix));
	EXPECT_TRUE(is_filled_with(self->memory + format.fmt.pix.sizeimage, 'x',
				   SIZE - format.fmt.pix.sizeimage));
	let_go_of_dmabuf(self);
	EXPECT_EQ(self->before.exports + variant->ours, read_counters().exports);
	close(video);
}

#define CGROUP	"/sys/fs/cgroup/evpl-importer"
#define BIG	(256 * MIB)

/*
 * Queueing has the kernel vmap() the dma-buf for the camera's driver, and warn if that fails.
 * The pointers to all pages of BIG take more than the cgroup has left, even with the pages
 * that were charged ahead.
 */
TEST(camera_takes_it_from_a_process_whose_cgroup_is_full)
{
	struct counters before = read_counters();
	struct v4l2_format format;
	struct evpl_range range = { .length = BIG };
	struct client owner;
	int video, fd;
	pid_t child;

	if (mkdir(CGROUP, 0755) && errno != EEXIST)
		SKIP(return, "no cgroup of version 2");
	write_string(CGROUP "/memory.swap.max", "0");
	video = open_video(&camera, &format);
	if (video < 0)
		SKIP(return, "a kernel without vivid");
	ASSERT_TRUE(open_client(&owner, 0));
	ASSERT_EQ(0, evpl_slab_alloc(owner.fd, BIG, (uint64_t *)&range.offset));
	fd = evpl_export(owner.fd, &range, 1, EVPL_EXPORT_SLAB | EVPL_EXPORT_WRITE);
	ASSERT_GE(fd, 0);
	child = fork_child();
	if (!child) {
		if (write_number(CGROUP "/cgroup.procs", getpid()) ||
		    mlockall(MCL_CURRENT) ||
		    write_number(CGROUP "/memory.max",
				 read_number(CGROUP "/memory.current") + 128 * KIB))
			_exit(1);
		_exit(-queue(video, camera.type, fd, 0));
	}
	EXPECT_EQ(0, reap(child));
	EXPECT_EQ(0, number_in(CGROUP "/memory.events", "oom_kill"));
	close(fd);
	EXPECT_EQ(before.exports + 1, read_counters().exports);
	close(video);
	close_client(&owner);
	EXPECT_TRUE(counters_return_to(before));
	EXPECT_EQ(0, rmdir(CGROUP));
}

/* Load selftests/modules/evpl_importer.c to import a dma-buf: see there. Return 0 or -errno. */
static int import(int dmabuf, const char *kind)
{
	char parameters[64];

	snprintf(parameters, sizeof(parameters), "fd=%d kind=%s", dmabuf, kind);
	return load_module_with("evpl_importer", parameters);
}

/* A folio is one DMA segment, unless the device has bounce buffers (swiotlb=force). */
TEST(device_that_takes_long_runs_takes_a_slab)
{
	const struct evpl_range range = { .length = SLAB };
	struct counters before = read_counters();
	struct client owner;
	int fd, ret;

	ASSERT_TRUE(open_client(&owner, 0));
	fd = evpl_export(owner.fd, &range, 1, EVPL_EXPORT_SLAB | EVPL_EXPORT_WRITE);
	ASSERT_GE(fd, 0);
	memset(owner.own, 'x', SLAB);
	ret = import(fd, "once");
	close(fd);
	EXPECT_TRUE(is_filled_with(owner.own, 'x', SLAB));
	close_client(&owner);
	EXPECT_TRUE(counters_return_to(before));
	if (ret == -ENOENT)
		SKIP(return, "name the module's file in EVPL_MODULE");
	EXPECT_EQ(-ECANCELED, ret);
}

#define IMPORTER	"/sys/kernel/debug/evpl-importer/"

static int unload(void)
{
	return RESULT(syscall(SYS_delete_module, "evpl_importer", 0));
}

static int tell(const char *file)
{
	char path[64];

	snprintf(path, sizeof(path), IMPORTER "%s", file);
	return write_number(path, 0);
}

/* Buffer 4 of the owner: leased to the lessee, in a dma-buf, and mapped through that. */
FIXTURE(recall)
{
	PAIR;
	struct evpl_record got;
	int fd;
	char *memory;
};

FIXTURE_SETUP(recall)
{
	const struct evpl_range range = { 4 * BUFFER, BUFFER };

	open_pair(_metadata, &self->pair, 0);
	self->got = fill(&self->owner, 4, 'x');
	set_count(&self->owner.entries[4].word, 2);
	ASSERT_EQ(1, evpl_send(self->ends[0], &self->got, 1));
	ASSERT_EQ(1, evpl_recv(self->ends[1], &self->got, 1));
	self->fd = evpl_export(self->owner.fd, &range, 1, EVPL_EXPORT_WRITE);
	ASSERT_GE(self->fd, 0);
	self->memory = map(self->fd, BUFFER, 0, RW);
	ASSERT_NE(NULL, self->memory);
	EXPECT_EQ(0, touch_write(self->memory));
	EXPECT_EQ(EVPL_WORD_SHARED, get(&self->owner.entries[4].word));
}

FIXTURE_TEARDOWN(recall)
{
	unload();
	munmap(self->memory, BUFFER);
	close(self->fd);
	if (get(&self->lessee.leases[self->got.lease].word))
		let_go(&self->lessee, &self->got);
	close_pair(&self->pair);
	EXPECT_TRUE(counters_return_to(self->before));
}

/* Begin a test with an importer. Return whether the test can run. */
static bool begin(struct __test_metadata *_metadata, struct _test_data_recall *self,
		  const char *kind)
{
	int ret = can_tell_importers() ? import(self->fd, kind) : -ENOENT;

	if (ret == -ENOENT)
		return false;
	EXPECT_EQ(0, ret);
	return !ret;
}

#define NO_IMPORTER	"a kernel that can't tell importers, or no EVPL_MODULE"

/* Revoke buffer 4 in a child. Its exit status is what the call returns, or 128 + errno. */
static pid_t revoke_in_child(struct _test_data_recall *self)
{
	const struct sigaction action = { .sa_handler = do_nothing };
	pid_t child = fork_child();
	int ret;

	if (child)
		return child;
	sigaction(SIGUSR1, &action, NULL);
	ret = evpl_revoke(self->owner.fd, 4 * BUFFER);
	_exit(ret < 0 ? 128 - ret : ret);
}

/* The same. Return once the importer was told, and the child waits for it. */
static pid_t waiting_revoke(struct __test_metadata *_metadata, struct _test_data_recall *self)
{
	pid_t child = revoke_in_child(self);

	for (int tries = 0; tries < 10 * LIMIT && !read_number(IMPORTER "told") &&
			    state_of(child) != 'Z'; tries++)
		usleep(100 * 1000);
	EXPECT_EQ(1, read_number(IMPORTER "told"));
	EXPECT_TRUE(sleeps_in(child, SYS_ioctl));
	return child;
}

static void expect_revoked(struct __test_metadata *_metadata, struct _test_data_recall *self)
{
	EXPECT_EQ(SIGBUS, touch_write(self->memory));
	EXPECT_EQ(SIGBUS, touch_read(memory_of(&self->lessee, &self->got)));
	EXPECT_EQ(NULL, map(self->fd, BUFFER, 0, RW));
	EXPECT_EQ(ENODEV, errno);
}

static void expect_not_revoked(struct __test_metadata *_metadata, struct _test_data_recall *self)
{
	EXPECT_EQ(0, touch_write(self->memory));
	EXPECT_EQ(0, touch_read(memory_of(&self->lessee, &self->got)));
	EXPECT_EQ(0, events_of(self->lessee.fd));
	EXPECT_EQ(EVPL_WORD_SHARED, get(&self->owner.entries[4].word));
	EXPECT_EQ(1, fdinfo(self->owner.fd, "evpl-exports"));
}

static void expect_returned(struct __test_metadata *_metadata, struct _test_data_recall *self)
{
	EXPECT_TRUE(is_returned(&self->owner, 4));
	EXPECT_EQ(0, fdinfo(self->owner.fd, "evpl-exports"));
	expect_revoked(_metadata, self);
}

TEST_F(recall, importer_that_unmaps_when_told_loses_it)
{
	if (!begin(_metadata, self, "prompt"))
		SKIP(return, NO_IMPORTER);
	EXPECT_EQ(0, evpl_revoke(self->owner.fd, 4 * BUFFER));
	EXPECT_EQ(1, read_number(IMPORTER "told"));
	expect_returned(_metadata, self);
	EXPECT_EQ(-ENODEV, tell("map"));
	EXPECT_EQ(0, evpl_revoke(self->owner.fd, 4 * BUFFER));
	EXPECT_EQ(1, read_number(IMPORTER "told"));
}

TEST_F(recall, importer_that_has_unmapped_it_is_told_too)
{
	if (!begin(_metadata, self, "prompt"))
		SKIP(return, NO_IMPORTER);
	EXPECT_EQ(0, tell("unmap"));
	EXPECT_EQ(0, tell("map"));
	EXPECT_EQ(0, tell("unmap"));
	EXPECT_EQ(0, evpl_revoke(self->owner.fd, 4 * BUFFER));
	EXPECT_EQ(1, read_number(IMPORTER "told"));
	expect_returned(_metadata, self);
	EXPECT_EQ(-ENODEV, tell("map"));
}

TEST_F(recall, no_importer_gets_it_afterwards)
{
	static const char *const kinds[] = { "once", "fixed", "prompt", "slow" };

	if (!begin(_metadata, self, "prompt"))
		SKIP(return, NO_IMPORTER);
	EXPECT_EQ(0, evpl_revoke(self->owner.fd, 4 * BUFFER));
	EXPECT_EQ(0, unload());
	for (int i = 0; i < ARRAY_SIZE(kinds); i++) {
		int ret = import(self->fd, kinds[i]);

		EXPECT_EQ(-ENODEV, ret) TH_LOG("%s", kinds[i]);
	}
	/* The core's errno. It would warn if the module gave one. */
	EXPECT_EQ(-EINVAL, import(self->fd, "vmap"));
	expect_returned(_metadata, self);
}

TEST_F(recall, importer_that_can_not_be_told_keeps_it)
{
	int ret = import(self->fd, "fixed");

	if (ret == -ENOENT)
		SKIP(return, "name the module's file in EVPL_MODULE");
	ASSERT_EQ(0, ret);
	EXPECT_EQ(-EBUSY, evpl_revoke(self->owner.fd, 4 * BUFFER));
	expect_not_revoked(_metadata, self);
	EXPECT_EQ(0, unload());
	if (can_tell_importers()) {
		EXPECT_EQ(0, evpl_revoke(self->owner.fd, 4 * BUFFER));
		expect_returned(_metadata, self);
	} else {
		EXPECT_EQ(-EBUSY, evpl_revoke(self->owner.fd, 4 * BUFFER));
		expect_not_revoked(_metadata, self);
	}
}

/* Only what can use the memory counts. */
TEST_F(recall, importer_that_can_not_be_told_and_has_unmapped_it_loses_it)
{
	if (!begin(_metadata, self, "fixed"))
		SKIP(return, NO_IMPORTER);
	EXPECT_EQ(0, tell("unmap"));
	EXPECT_EQ(0, tell("map"));
	EXPECT_EQ(-EBUSY, evpl_revoke(self->owner.fd, 4 * BUFFER));
	EXPECT_EQ(0, tell("unmap"));
	EXPECT_EQ(0, evpl_revoke(self->owner.fd, 4 * BUFFER));
	EXPECT_EQ(-ENODEV, tell("map"));
	expect_returned(_metadata, self);
}

TEST_F(recall, mapping_of_the_kernel_keeps_it)
{
	if (!begin(_metadata, self, "vmap"))
		SKIP(return, NO_IMPORTER);
	EXPECT_EQ(-EBUSY, evpl_revoke(self->owner.fd, 4 * BUFFER));
	expect_not_revoked(_metadata, self);
	EXPECT_EQ(0, unload());
	EXPECT_EQ(0, evpl_revoke(self->owner.fd, 4 * BUFFER));
	expect_returned(_metadata, self);
}

/* A revoke of a buffer in two dma-bufs takes both or none. */
TEST_F(recall, second_dmabuf_that_can_be_revoked_stays_with_the_first)
{
	const struct evpl_range ranges[] = { { 5 * BUFFER, BUFFER }, { 4 * BUFFER, BUFFER } };
	char *memory;
	int fd;

	if (!begin(_metadata, self, "fixed"))
		SKIP(return, NO_IMPORTER);
	fill(&self->owner, 5, 'y');
	set_count(&self->owner.entries[4].word, 1);
	fd = evpl_export(self->owner.fd, ranges, 2, 0);
	ASSERT_GE(fd, 0);
	memory = map(fd, BUFFER, 0, PROT_READ);
	ASSERT_NE(NULL, memory);
	EXPECT_EQ(0, touch_read(memory));
	EXPECT_EQ(-EBUSY, evpl_revoke(self->owner.fd, 4 * BUFFER));
	EXPECT_EQ(0, touch_read(memory));
	/* The other buffer can be revoked, and the second dma-buf with it. */
	EXPECT_EQ(0, evpl_revoke(self->owner.fd, 5 * BUFFER));
	EXPECT_EQ(SIGBUS, touch_read(memory));
	EXPECT_EQ(-EBUSY, evpl_revoke(self->owner.fd, 4 * BUFFER));
	EXPECT_EQ(0, touch_write(self->memory));
	EXPECT_EQ(0, unload());
	EXPECT_EQ(0, evpl_revoke(self->owner.fd, 4 * BUFFER));
	munmap(memory, BUFFER);
	close(fd);
	expect_returned(_metadata, self);
}

TEST_F(recall, waits_for_the_fence_and_the_unmapping_and_holds_nobody_up)
{
	pid_t child;

	if (!begin(_metadata, self, "slow"))
		SKIP(return, NO_IMPORTER);
	child = waiting_revoke(_metadata, self);
	expect_revoked(_metadata, self);
	EXPECT_EQ(EVPL_WORD_SHARED, get(&self->owner.entries[4].word));
	/* Other calls on the client and on the buffer don't wait. */
	EXPECT_EQ(-EBUSY, evpl_revoke(self->owner.fd, 4 * BUFFER));
	EXPECT_EQ(0, evpl_revoke(self->owner.fd, 5 * BUFFER));
	EXPECT_EQ(-EBUSY, evpl_export(self->owner.fd, &(struct evpl_range){ 4 * BUFFER, BUFFER },
				      1, 0));
	EXPECT_EQ(0, tell("unmap"));
	EXPECT_EQ(-ENODEV, tell("map"));
	EXPECT_TRUE(sleeps_in(child, SYS_ioctl));
	EXPECT_EQ(EVPL_WORD_SHARED, get(&self->owner.entries[4].word));
	EXPECT_EQ(0, tell("signal"));
	EXPECT_EQ(0, reap(child));
	expect_returned(_metadata, self);
	EXPECT_EQ(1, read_number(IMPORTER "told"));
}

TEST_F(recall, waits_for_the_unmapping_after_the_fence)
{
	pid_t child;

	if (!begin(_metadata, self, "slow"))
		SKIP(return, NO_IMPORTER);
	child = waiting_revoke(_metadata, self);
	EXPECT_EQ(0, tell("signal"));
	EXPECT_TRUE(sleeps_in(child, SYS_ioctl));
	EXPECT_EQ(EVPL_WORD_SHARED, get(&self->owner.entries[4].word));
	EXPECT_EQ(0, tell("unmap"));
	EXPECT_EQ(0, reap(child));
	expect_returned(_metadata, self);
}

/* The importer then has the last reference on the dma-buf. */
TEST_F(recall, end_of_the_dmabuf_ends_the_wait)
{
	pid_t child;

	if (!begin(_metadata, self, "slow"))
		SKIP(return, NO_IMPORTER);
	child = waiting_revoke(_metadata, self);
	munmap(self->memory, BUFFER);
	close(self->fd);
	EXPECT_EQ(0, unload());
	EXPECT_EQ(0, reap(child));
	EXPECT_TRUE(is_returned(&self->owner, 4));
	EXPECT_EQ(0, read_counters().exports);
	self->fd = -1;
}

TEST_F(recall, signal_ends_the_wait_and_the_buffer_comes_back_later)
{
	pid_t child;

	if (!begin(_metadata, self, "slow"))
		SKIP(return, NO_IMPORTER);
	child = waiting_revoke(_metadata, self);
	kill(child, SIGUSR1);
	EXPECT_EQ(1, reap(child));
	EXPECT_TRUE(is_quarantined(&self->owner, 4));
	expect_revoked(_metadata, self);
	EXPECT_EQ(-EBUSY, evpl_revoke(self->owner.fd, 4 * BUFFER));
	EXPECT_EQ(-EBUSY, evpl_quarantine_end(self->owner.fd, 4 * BUFFER));
	EXPECT_EQ(-EAGAIN, evpl_buffer_wait(self->owner.fd, 4 * BUFFER, EVPL_WAIT_TRY));
	EXPECT_EQ(0, tell("signal"));
	EXPECT_TRUE(is_quarantined(&self->owner, 4));
	EXPECT_EQ(0, tell("unmap"));
	expect_returned(_metadata, self);
}

/* Once the importer has unmapped the pages, its fence says nothing about them. */
TEST_F(recall, task_that_is_killed_in_the_wait_leaves_the_buffer_in_quarantine)
{
	pid_t child;

	if (!begin(_metadata, self, "slow"))
		SKIP(return, NO_IMPORTER);
	child = waiting_revoke(_metadata, self);
	kill(child, SIGKILL);
	EXPECT_EQ(-SIGKILL, reap(child));
	EXPECT_TRUE(is_quarantined(&self->owner, 4));
	EXPECT_EQ(0, tell("unmap"));
	EXPECT_EQ(0, evpl_buffer_wait(self->owner.fd, 4 * BUFFER, 0));
	expect_returned(_metadata, self);
}

TEST_F(recall, memory_outlives_its_owner_as_long_as_an_importer_has_it)
{
	struct counters during;
	pid_t child;

	if (!begin(_metadata, self, "slow"))
		SKIP(return, NO_IMPORTER);
	child = waiting_revoke(_metadata, self);
	kill(child, SIGUSR1);
	EXPECT_EQ(1, reap(child));
	EXPECT_EQ(1, let_go(&self->lessee, &self->got));
	during = read_counters();
	close_owner(&self->pair);
	EXPECT_EQ(during.slabs, read_counters().slabs);
	EXPECT_EQ(1, read_counters().shares);
	EXPECT_EQ(0, read_counters().quarantined);
	EXPECT_EQ(SIGBUS, touch_read(self->memory));
	EXPECT_EQ(0, tell("signal"));
	EXPECT_EQ(0, tell("unmap"));
	EXPECT_EQ(0, unload());
	munmap(self->memory, BUFFER);
	close(self->fd);
	EXPECT_EQ(during.slabs - 1, read_counters().slabs);
	EXPECT_EQ(0, read_counters().shares);
	self->fd = -1;
	open_owner(_metadata, &self->pair, 0);
}

/* A dma-buf that may only be read. */
FIXTURE(readable)
{
	struct counters before;
	struct client owner;
	int fd;
};

FIXTURE_SETUP(readable)
{
	const struct evpl_range range = { 2 * BUFFER, SIZE };

	limit_sleeps();
	self->before = read_counters();
	ASSERT_TRUE(open_client(&self->owner, 0));
	self->fd = evpl_export(self->owner.fd, &range, 1, EVPL_EXPORT_SLAB);
	ASSERT_GE(self->fd, 0);
}

FIXTURE_TEARDOWN(readable)
{
	close(self->fd);
	close_client(&self->owner);
	EXPECT_TRUE(counters_return_to(self->before));
}

/*
 * The driver maps a dma-buf for its device when it imports it. That of newer kernels only maps
 * it for programs.
 */
TEST_F(readable, gpu_that_might_write_is_refused)
{
	struct drm_prime prime = { .fd = self->fd };
	int gpu = open_vgem();

	if (gpu < 0)
		SKIP(return, "a kernel without vgem");
	if (ioctl(gpu, DRM_FD_TO_HANDLE, &prime)) {
		EXPECT_EQ(EACCES, errno);
	} else {
		prime.flags = O_RDWR | O_CLOEXEC;
		ASSERT_EQ(0, RESULT(ioctl(gpu, DRM_HANDLE_TO_FD, &prime)));
		EXPECT_EQ(NULL, map(prime.fd, SIZE, 0, RW));
		EXPECT_EQ(EACCES, errno);
		close(prime.fd);
	}
	close(gpu);
}

TEST_F(readable, camera_is_refused_whether_the_cpu_or_a_device_would_write)
{
	struct v4l2_format format;
	int video = open_video(&camera, &format);

	if (video < 0)
		SKIP(return, "a kernel without vivid");
	/* vivid returns errnos of its own, whatever error it got. */
	EXPECT_EQ(-EFAULT, queue(video, camera.type, self->fd, 0));
	close(video);
	video = open_video(&dma_camera, &format);
	ASSERT_GE(video, 0);
	EXPECT_EQ(-EINVAL, queue(video, dma_camera.type, self->fd, 0));
	close(video);
}

TEST_F(readable, screen_that_reads_by_dma_takes_it)
{
	struct dma_buf_sync sync = { .flags = DMA_BUF_SYNC_START | DMA_BUF_SYNC_READ };
	struct v4l2_format format;
	int video;

	/* This device takes an image only in one DMA segment. */
	if (!has_huge())
		SKIP(return, "a kernel without large folios");
	video = open_video(&dma_screen, &format);
	if (video < 0)
		SKIP(return, "a kernel without vivid");
	ASSERT_GE(64 * KIB, format.fmt.pix.sizeimage);
	/* Queueing maps the dma-buf for the device. */
	EXPECT_EQ(0, queue(video, dma_screen.type, self->fd, format.fmt.pix.sizeimage));
	EXPECT_EQ(0, RESULT(ioctl(self->fd, DMA_BUF_IOCTL_SYNC, &sync)));
	close(video);
}

TEST_HARNESS_MAIN
