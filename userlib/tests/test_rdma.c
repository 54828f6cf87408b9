// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * libevplmem-rdma: each slab is one memory region as long as it exists, and RDMA moves bytes from
 * slab to slab. The tests need an RDMA device: the one that EVPL_RXE names (with-rxe makes it),
 * or else the first one.
 */
#include "pinned.h"

#include <infiniband/verbs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "evplmem-rdma.h"
#include "../tools/evpl-probe/qp.h"

#define ACCESS	(IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE)
#define SECONDS	20

static struct evpl_rdma_stats rdma_stats(struct evpl_rdma *rdma)
{
	struct evpl_rdma_stats stats = { .size = sizeof(stats) };

	if (evpl_rdma_stats(rdma, &stats))
		abort();
	return stats;
}

static struct ibv_context *open_device(void)
{
	const char *name = getenv("EVPL_RXE");
	struct ibv_context *context = NULL;
	struct ibv_device **list;
	int i;

	list = ibv_get_device_list(NULL);
	for (i = 0; list && list[i] && !context; i++)
		if (!name || !strcmp(name, ibv_get_device_name(list[i])))
			context = ibv_open_device(list[i]);
	if (list)
		ibv_free_device_list(list);
	return context;
}

FIXTURE(rdma) {
	struct evpl_pool *pool;
	struct evpl *evpl;
	struct ibv_context *context;
	struct ibv_pd *pd;
	struct evpl_rdma *rdma;
	struct evpl_iovec iovec[3][PER_SLAB];
};

FIXTURE_SETUP(rdma)
{
	memset(self->iovec, 0, sizeof(self->iovec));
	self->context = open_device();
	if (!self->context)
		SKIP(return, "there is no RDMA device");
	self->pd = ibv_alloc_pd(self->context);
	ASSERT_NE(NULL, self->pd);
	ASSERT_EQ(0, open_pool(&self->pool, BUFFER, 4 * SLAB));
	ASSERT_EQ(0, evpl_create(&self->evpl, self->pool, NULL));
	/* One slab exists before evpl_rdma_create(). The tests take the others later. */
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[0]));
	ASSERT_EQ(0, evpl_rdma_create(&self->rdma, self->pool, self->pd, ACCESS));
}

static void release_slab(FIXTURE_DATA(rdma) *self, int which)
{
	evpl_iovecs_release(self->iovec[which], PER_SLAB);
	memset(self->iovec[which], 0, sizeof(self->iovec[which]));
}

FIXTURE_TEARDOWN(rdma)
{
	int i;

	if (!self->context)
		return;
	for (i = 0; i < 3; i++)
		release_slab(self, i);
	evpl_destroy(self->evpl);
	EXPECT_EQ(0, used_in(self->pool));
	evpl_rdma_destroy(self->rdma);
	EXPECT_EQ(0, evpl_pool_close(self->pool));
	/* This fails while there is a region. */
	EXPECT_EQ(0, ibv_dealloc_pd(self->pd));
	EXPECT_EQ(0, ibv_close_device(self->context));
}

TEST_F(rdma, an_empty_iovec_has_no_keys)
{
	struct evpl_iovec empty = { 0 };
	struct ibv_sge sge;
	uint32_t key;

	EXPECT_EQ(-ENOENT, evpl_rdma_lkey(self->rdma, &empty, &key));
	EXPECT_EQ(-ENOENT, evpl_rdma_rkey(self->rdma, &empty, &key));
	EXPECT_EQ(-ENOENT, evpl_rdma_sge(self->rdma, &empty, &sge));
	evpl_rdma_destroy(NULL);
}

/* Uses its parent's objects in a child of fork(2). Returns 0 if they were refused. */
static int in_child(FIXTURE_DATA(rdma) *self)
{
	struct evpl_rdma_stats stats = { .size = sizeof(stats) };
	struct ibv_sge sge;
	uint32_t key;

	if (evpl_rdma_lkey(self->rdma, &self->iovec[0][0], &key) != -EPERM ||
	    evpl_rdma_rkey(self->rdma, &self->iovec[0][0], &key) != -EPERM ||
	    evpl_rdma_sge(self->rdma, &self->iovec[0][0], &sge) != -EPERM ||
	    evpl_rdma_stats(self->rdma, &stats) != -EPERM || evpl_rdma_notice(self->rdma))
		return 1;
	evpl_rdma_destroy(self->rdma);
	return 0;
}

TEST_F(rdma, a_child_has_no_part_in_it)
{
	uint32_t lkey, again;
	pid_t child;
	int status;

	ASSERT_EQ(0, evpl_rdma_lkey(self->rdma, &self->iovec[0][0], &lkey));
	child = fork();
	if (!child)
		_exit(in_child(self));
	ASSERT_EQ(child, waitpid(child, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_EQ(0, evpl_rdma_lkey(self->rdma, &self->iovec[0][0], &again));
	EXPECT_EQ(lkey, again);
	EXPECT_EQ(1, rdma_stats(self->rdma).regions);
}

TEST_F(rdma, received_memory_has_no_keys_and_can_not_be_a_region)
{
	struct received received;
	struct evpl_iovec *iovec = &received.message.iovec;
	uint32_t key;

	if (stats_of(self->pool).backend != EVPL_BACKEND_MODULE)
		SKIP(return, "the module's alone");
	receive(&received, self->pool, BUFFER);
	memset(iovec->data, 'y', BUFFER);
	EXPECT_EQ(-ENOENT, evpl_rdma_lkey(self->rdma, iovec, &key));
	errno = 0;
	EXPECT_EQ(NULL, ibv_reg_mr(self->pd, iovec->data, iovec->length, ACCESS));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(0, end_received(&received));
}

#define LEASED(received, flags)							\
	do {									\
		if (stats_of(self->pool).backend != EVPL_BACKEND_MODULE)	\
			SKIP(return, "the module's alone");			\
		receive_with(received, self->pool, BUFFER, flags);		\
	} while (0)

TEST_F(rdma, a_leased_buffer_is_a_region_until_its_last_reference_here_goes)
{
	struct received received;
	struct evpl_iovec *iovec = &received.message.iovec, part;
	uint32_t key, again;

	LEASED(&received, EVPL_MESSAGE_WRITE | EVPL_MESSAGE_DEVICE);
	EXPECT_EQ(1, rdma_stats(self->rdma).regions);
	ASSERT_EQ(0, evpl_rdma_lkey(self->rdma, iovec, &key));
	EXPECT_EQ(2, rdma_stats(self->rdma).regions);
	EXPECT_EQ(2, word_of(iovec));
	/* The region is the whole buffer, whichever slice of it the key is asked for. */
	ASSERT_EQ(0, evpl_iovec_clone_segment(&part, iovec, 4096, 100));
	EXPECT_EQ(0, evpl_rdma_lkey(self->rdma, &part, &again));
	EXPECT_EQ(key, again);
	EXPECT_EQ(2, rdma_stats(self->rdma).regions);
	evpl_iovec_release(iovec);
	EXPECT_EQ(2, rdma_stats(self->rdma).regions);
	EXPECT_FALSE(is_returned(&received));
	/* The region ends before the lease does, so the buffer isn't quarantined for it. */
	evpl_iovec_release(&part);
	EXPECT_EQ(1, rdma_stats(self->rdma).regions);
	EXPECT_TRUE(is_returned(&received));
	*iovec = (struct evpl_iovec){ 0 };
	EXPECT_EQ(0, end_received(&received));
}

TEST_F(rdma, a_region_of_a_leased_buffer_goes_before_it_is_passed_on)
{
	struct received received, home;
	struct evpl_iovec *iovec = &received.message.iovec;
	uint32_t key;

	LEASED(&received, EVPL_MESSAGE_WRITE | EVPL_MESSAGE_DEVICE);
	ASSERT_EQ(0, evpl_rdma_rkey(self->rdma, iovec, &key));
	ASSERT_EQ(0, evpl_channel_send(received.here, &received.message, 1));
	EXPECT_EQ(1, rdma_stats(self->rdma).regions);
	ASSERT_EQ(1, evpl_channel_recv(received.there, &home.message, 1));
	EXPECT_EQ('x', *(char *)home.message.iovec.data);
	evpl_iovec_release(&home.message.iovec);
	EXPECT_TRUE(is_returned(&received));
	*iovec = (struct evpl_iovec){ 0 };
	EXPECT_EQ(0, end_received(&received));
}

TEST_F(rdma, regions_of_leased_buffers_end_with_the_device)
{
	struct received received;
	uint32_t key;

	LEASED(&received, EVPL_MESSAGE_WRITE | EVPL_MESSAGE_DEVICE);
	ASSERT_EQ(0, evpl_rdma_lkey(self->rdma, &received.message.iovec, &key));
	evpl_rdma_destroy(self->rdma);
	EXPECT_EQ(1, word_of(&received.message.iovec));
	ASSERT_EQ(0, evpl_rdma_create(&self->rdma, self->pool, self->pd, ACCESS));
	/* The new device registers the buffer again. */
	EXPECT_EQ(0, evpl_rdma_lkey(self->rdma, &received.message.iovec, &key));
	EXPECT_EQ(2, rdma_stats(self->rdma).regions);
	evpl_iovec_release(&received.message.iovec);
	received.message.iovec = (struct evpl_iovec){ 0 };
	EXPECT_TRUE(is_returned(&received));
	EXPECT_EQ(0, end_received(&received));
}

TEST_F(rdma, what_a_program_registers_by_itself_is_kept_until_it_deregisters)
{
	struct received received;
	struct evpl_iovec *iovec = &received.message.iovec;
	struct ibv_mr *mr;

	LEASED(&received, EVPL_MESSAGE_WRITE | EVPL_MESSAGE_DEVICE);
	mr = ibv_reg_mr(self->pd, iovec->data, iovec->length, ACCESS);
	ASSERT_NE(NULL, mr);
	evpl_iovec_release(iovec);
	*iovec = (struct evpl_iovec){ 0 };
	EXPECT_FALSE(is_returned(&received));
	EXPECT_FALSE(is_returned(&received));
	EXPECT_EQ(0, ibv_dereg_mr(mr));
	EXPECT_TRUE(is_returned(&received));
	EXPECT_EQ(0, end_received(&received));
}

TEST_F(rdma, ones_own_regions_keep_no_buffer_that_others_give_back)
{
	struct evpl_message message = { .flags = EVPL_MESSAGE_DEVICE };
	struct received received;
	uint64_t used;

	/* This test needs the channel only, and sends a buffer in the other direction. */
	LEASED(&received, EVPL_MESSAGE_WRITE);
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[1]));
	used = used_in(self->pool);
	message.iovec = self->iovec[1][3];
	self->iovec[1][3] = (struct evpl_iovec){ 0 };
	ASSERT_EQ(0, evpl_channel_send(received.here, &message, 1));
	ASSERT_EQ(1, evpl_channel_recv(received.there, &message, 1));
	EXPECT_EQ(EVPL_MESSAGE_DEVICE, message.flags);
	evpl_iovec_release(&message.iovec);
	evpl_pool_trim(self->pool);
	EXPECT_EQ(used - 1, used_in(self->pool));
	EXPECT_EQ(0, end_received(&received));
}

TEST_F(rdma, a_pool_has_so_many_devices_and_no_more)
{
	struct evpl_rdma *more[EVPL_DEVICES_MAX];
	int i;

	for (i = 1; i < EVPL_DEVICES_MAX; i++)
		ASSERT_EQ(0, evpl_rdma_create(&more[i], self->pool, self->pd, ACCESS));
	EXPECT_EQ(-ENOSPC, evpl_rdma_create(&more[0], self->pool, self->pd, ACCESS));
	for (i = 1; i < EVPL_DEVICES_MAX; i++)
		evpl_rdma_destroy(more[i]);
	EXPECT_EQ(1, stats_of(self->pool).devices);
}

TEST_F(rdma, stats_fit_their_size)
{
	struct {
		struct evpl_rdma_stats stats;
		uint64_t tail;
	} longer = { .stats.size = sizeof(longer), .tail = 1 };
	struct evpl_rdma_stats stats = { .size = 7 };

	EXPECT_EQ(-EINVAL, evpl_rdma_stats(self->rdma, &stats));
	stats.size = offsetof(struct evpl_rdma_stats, registrations);
	stats.registrations = 77;
	EXPECT_EQ(0, evpl_rdma_stats(self->rdma, &stats));
	EXPECT_EQ(1, stats.regions);
	EXPECT_EQ(77, stats.registrations);
	EXPECT_EQ(0, evpl_rdma_stats(self->rdma, &longer.stats));
	EXPECT_EQ(sizeof(longer), longer.stats.size);
	EXPECT_EQ(0, longer.tail);
}

TEST_F(rdma, a_slab_is_one_region_whenever_it_came)
{
	uint32_t first, second, key;
	struct ibv_sge sge;
	int i;

	EXPECT_EQ(1, rdma_stats(self->rdma).registrations);
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[1]));
	EXPECT_EQ(2, rdma_stats(self->rdma).registrations);

	ASSERT_EQ(0, evpl_rdma_lkey(self->rdma, &self->iovec[0][0], &first));
	ASSERT_EQ(0, evpl_rdma_lkey(self->rdma, &self->iovec[1][0], &second));
	EXPECT_NE(first, second);
	for (i = 0; i < (int)PER_SLAB; i++) {
		EXPECT_EQ(0, evpl_rdma_lkey(self->rdma, &self->iovec[0][i], &key));
		EXPECT_EQ(first, key);
		EXPECT_EQ(0, evpl_rdma_sge(self->rdma, &self->iovec[1][i], &sge));
		EXPECT_EQ(second, sge.lkey);
		EXPECT_EQ((uintptr_t)self->iovec[1][i].data, sge.addr);
		EXPECT_EQ(BUFFER, sge.length);
	}
	EXPECT_EQ(0, evpl_rdma_rkey(self->rdma, &self->iovec[0][0], &first));
	EXPECT_EQ(0, evpl_rdma_rkey(self->rdma, &self->iovec[0][1], &key));
	EXPECT_EQ(first, key);

	EXPECT_EQ(2, rdma_stats(self->rdma).registrations);
	EXPECT_EQ(2, rdma_stats(self->rdma).regions);
	/* The limit suffices, so no dma-buf is tried. */
	EXPECT_EQ(0, rdma_stats(self->rdma).dmabuf_registrations);
	EXPECT_EQ(0, rdma_stats(self->rdma).failures);
	EXPECT_EQ(NULL, evpl_rdma_notice(self->rdma));
}

TEST_F(rdma, the_region_goes_with_the_slab)
{
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[1]));
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[2]));
	EXPECT_EQ(3, rdma_stats(self->rdma).regions);
	release_slab(self, 1);
	release_slab(self, 2);
	EXPECT_EQ(SLAB, evpl_pool_trim(self->pool));
	EXPECT_EQ(2, rdma_stats(self->rdma).regions);
	EXPECT_EQ(3, rdma_stats(self->rdma).registrations);
}

/* How many dma-bufs of the module's memory exist. */
static unsigned int exports(void)
{
	FILE *file = fopen("/sys/kernel/debug/evpl/counters", "re");
	unsigned int n = 0;
	char line[64];

	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "exports %u", &n) == 1)
			break;
	if (!file || fclose(file))
		abort();
	return n;
}

struct poor {
	struct evpl_pool *pool;
	struct evpl_iovec *iovec;
	struct evpl_rdma_stats stats;
	int results[4];
	char notice[256];
	bool told_twice;
};

static void *register_limited(void *arg)
{
	struct poor *poor = arg;
	struct ibv_context *context;
	struct evpl_rdma *rdma;
	struct ibv_sge sge;
	struct ibv_pd *pd;
	const char *notice;
	uint32_t key;

	context = open_device();
	pd = context ? ibv_alloc_pd(context) : NULL;
	if (!pd)
		abort();
	poor->results[0] = evpl_rdma_create(&rdma, poor->pool, pd, ACCESS);
	poor->results[1] = evpl_rdma_lkey(rdma, poor->iovec, &key);
	poor->results[2] = evpl_rdma_rkey(rdma, poor->iovec, &key);
	poor->results[3] = evpl_rdma_sge(rdma, poor->iovec, &sge);
	poor->stats = rdma_stats(rdma);
	notice = evpl_rdma_notice(rdma);
	snprintf(poor->notice, sizeof(poor->notice), "%s", notice ? notice : "");
	poor->told_twice = evpl_rdma_notice(rdma);
	evpl_rdma_destroy(rdma);
	ibv_dealloc_pd(pd);
	ibv_close_device(context);
	return NULL;
}

/* Soft-RoCE takes no dma-buf. So where the limit doesn't suffice, nothing registers the slab. */
static void check_limited(struct __test_metadata *_metadata, FIXTURE_DATA(rdma) *self,
			  rlim_t limit, int error)
{
	struct poor poor = { .pool = self->pool, .iovec = &self->iovec[0][0] };
	uint32_t key;

	on_limited_thread(limit, register_limited, &poor);
	EXPECT_EQ(0, poor.results[0]);
	EXPECT_EQ(-ENOENT, poor.results[1]);
	EXPECT_EQ(-ENOENT, poor.results[2]);
	EXPECT_EQ(-ENOENT, poor.results[3]);
	EXPECT_EQ(0, poor.stats.regions);
	EXPECT_EQ(0, poor.stats.registrations);
	EXPECT_EQ(0, poor.stats.dmabuf_registrations);
	EXPECT_EQ(1, poor.stats.failures);
	EXPECT_EQ(error, poor.stats.error);
	EXPECT_NE(NULL, strstr(poor.notice, "RLIMIT_MEMLOCK"));
	EXPECT_NE(NULL, strstr(poor.notice, "ulimit -l"));
	/* Both ways were tried. */
	EXPECT_NE(NULL, strstr(poor.notice, "a dma-buf of it doesn't work either "
					    "(Operation not supported)"));
	EXPECT_EQ(false, poor.told_twice);
	/* The other device still has the slab registered, and the memory can be used. */
	EXPECT_EQ(0, evpl_rdma_lkey(self->rdma, &self->iovec[0][0], &key));
	memset(self->iovec[0][0].data, 1, BUFFER);
}

TEST_F(rdma, a_slab_that_is_not_registered_has_no_keys_and_says_why)
{
	check_limited(_metadata, self, MB, -ENOMEM);
}

TEST_F(rdma, a_limit_of_0_is_told_as_a_limit_too)
{
	check_limited(_metadata, self, 0, -EPERM);
}

TEST_F(rdma, a_dma_buf_that_the_device_refuses_is_gone)
{
	struct poor poor = { .pool = self->pool, .iovec = &self->iovec[0][0] };
	unsigned int before;

	if (stats_of(self->pool).backend != EVPL_BACKEND_MODULE)
		SKIP(return, "the module's alone");
	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[1]));
	before = exports();
	on_limited_thread(0, register_limited, &poor);
	EXPECT_EQ(2, poor.stats.failures);
	EXPECT_EQ(before, exports());
	/* A dma-buf would keep the slab. */
	release_slab(self, 0);
	release_slab(self, 1);
	EXPECT_EQ(SLAB, evpl_pool_trim(self->pool));
	EXPECT_EQ(1, stats_of(self->pool).slabs);
}

TEST_F(rdma, a_leased_buffer_is_not_exported_for_the_limit)
{
	struct received received;
	struct poor poor = { .pool = self->pool, .iovec = &received.message.iovec };

	LEASED(&received, EVPL_MESSAGE_WRITE | EVPL_MESSAGE_DEVICE);
	release_slab(self, 0);
	on_limited_thread(0, register_limited, &poor);
	EXPECT_EQ(-ENOENT, poor.results[1]);
	EXPECT_EQ(-EPERM, poor.stats.error);
	evpl_iovec_release(&received.message.iovec);
	received.message.iovec = (struct evpl_iovec){ 0 };
	EXPECT_TRUE(is_returned(&received));
	EXPECT_EQ(0, end_received(&received));
}

static void fill(struct evpl_iovec *iovec, unsigned int seed)
{
	unsigned char *byte = iovec->data;
	unsigned int i;

	for (i = 0; i < iovec->length; i++)
		byte[i] = (unsigned char)(i * 13 + (i >> 8) + seed);
}

TEST_F(rdma, bytes_are_sent_from_one_iovec_into_another)
{
	struct evpl_iovec *from = &self->iovec[0][4], *to = &self->iovec[1][9];
	struct ibv_sge send_sge, receive_sge;
	struct ibv_send_wr send = { .sg_list = &send_sge, .num_sge = 1, .opcode = IBV_WR_SEND,
				    .send_flags = IBV_SEND_SIGNALED }, *bad_send;
	struct ibv_recv_wr receive = { .sg_list = &receive_sge, .num_sge = 1 }, *bad_receive;
	struct pair pair;

	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[1]));
	ASSERT_EQ(0, pair_make(&pair, self->context, self->pd));
	fill(from, 1);
	memset(to->data, 0, to->length);
	ASSERT_EQ(0, evpl_rdma_sge(self->rdma, from, &send_sge));
	ASSERT_EQ(0, evpl_rdma_sge(self->rdma, to, &receive_sge));
	ASSERT_EQ(0, ibv_post_recv(pair.qp[1], &receive, &bad_receive));
	ASSERT_EQ(0, ibv_post_send(pair.qp[0], &send, &bad_send));
	EXPECT_EQ(true, pair_wait(&pair, 2, SECONDS));
	EXPECT_EQ(0, memcmp(from->data, to->data, BUFFER));
	pair_end(&pair);
}

TEST_F(rdma, bytes_are_written_from_one_iovec_into_another)
{
	struct evpl_iovec *from = &self->iovec[1][PER_SLAB - 1], *to = &self->iovec[0][1];
	struct ibv_sge sge;
	struct ibv_send_wr write = { .sg_list = &sge, .num_sge = 1, .opcode = IBV_WR_RDMA_WRITE,
				     .send_flags = IBV_SEND_SIGNALED }, *bad;
	struct pair pair;

	ASSERT_EQ(0, take_slab(self->evpl, self->iovec[1]));
	ASSERT_EQ(0, pair_make(&pair, self->context, self->pd));
	fill(from, 2);
	memset(to->data, 0, to->length);
	ASSERT_EQ(0, evpl_rdma_sge(self->rdma, from, &sge));
	ASSERT_EQ(0, evpl_rdma_rkey(self->rdma, to, &write.wr.rdma.rkey));
	write.wr.rdma.remote_addr = (uintptr_t)to->data;
	ASSERT_EQ(0, ibv_post_send(pair.qp[0], &write, &bad));
	EXPECT_EQ(true, pair_wait(&pair, 1, SECONDS));
	EXPECT_EQ(0, memcmp(from->data, to->data, BUFFER));
	pair_end(&pair);
}

TEST_F(rdma, bytes_are_written_into_a_buffer_of_another_process)
{
	struct evpl_iovec *from = &self->iovec[0][2];
	struct received received;
	struct evpl_iovec *to = &received.message.iovec;
	struct ibv_sge sge;
	struct ibv_send_wr write = { .sg_list = &sge, .num_sge = 1, .opcode = IBV_WR_RDMA_WRITE,
				     .send_flags = IBV_SEND_SIGNALED }, *bad;
	struct pair pair;

	LEASED(&received, EVPL_MESSAGE_WRITE | EVPL_MESSAGE_DEVICE);
	ASSERT_EQ(0, pair_make(&pair, self->context, self->pd));
	fill(from, 3);
	ASSERT_EQ(0, evpl_rdma_sge(self->rdma, from, &sge));
	ASSERT_EQ(0, evpl_rdma_rkey(self->rdma, to, &write.wr.rdma.rkey));
	write.wr.rdma.remote_addr = (uintptr_t)to->data;
	ASSERT_EQ(0, ibv_post_send(pair.qp[0], &write, &bad));
	EXPECT_EQ(true, pair_wait(&pair, 1, SECONDS));
	EXPECT_EQ(0, memcmp(from->data, to->data, BUFFER));
	evpl_iovec_release(to);
	*to = (struct evpl_iovec){ 0 };
	EXPECT_TRUE(is_returned(&received));
	EXPECT_EQ(0, end_received(&received));
	pair_end(&pair);
}

struct growth {
	struct evpl_pool *pool;
	struct evpl_rdma *rdma;
	atomic_uint missing;
};

static void *grow(void *arg)
{
	struct growth *growth = arg;
	struct evpl_iovec iovec[PER_SLAB];
	struct ibv_sge sge;
	struct evpl *evpl;
	int round, i;

	if (evpl_create(&evpl, growth->pool, NULL))
		abort();
	for (round = 0; round < 20; round++) {
		for (i = 0; i < (int)PER_SLAB && evpl_buffer_alloc(evpl, &iovec[i]) == 1; i++)
			if (evpl_rdma_sge(growth->rdma, &iovec[i], &sge))
				atomic_fetch_add(&growth->missing, 1);
		evpl_iovecs_release(iovec, i);
		evpl_pool_trim(growth->pool);
	}
	evpl_destroy(evpl);
	return NULL;
}

TEST_F(rdma, what_is_allocated_has_keys_whoever_grows_the_pool)
{
	struct growth growth = { .pool = self->pool, .rdma = self->rdma };
	pthread_t thread[3];
	int i;

	for (i = 0; i < 3; i++)
		ASSERT_EQ(0, pthread_create(&thread[i], NULL, grow, &growth));
	for (i = 0; i < 3; i++)
		pthread_join(thread[i], NULL);
	EXPECT_EQ(0, atomic_load(&growth.missing));
	EXPECT_EQ(0, rdma_stats(self->rdma).failures);
	EXPECT_EQ(stats_of(self->pool).slabs, rdma_stats(self->rdma).regions);
}

TEST_HARNESS_MAIN
