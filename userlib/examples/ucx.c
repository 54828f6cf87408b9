// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Has UCX send slices and put them into the memory of a peer. Each slab is mapped by UCX once, when
 * the slab comes, and unmapped when it goes. The two ends are workers of this process. They use
 * shared memory, or tcp over the loopback interface, unless UCX_TLS and UCX_NET_DEVICES say
 * otherwise.
 *
 *	cc ucx.c $(pkg-config --cflags --libs libevplmem ucx)
 */
#include <evplmem.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucp/api/ucp.h>

enum { SLICES = 64, LENGTH = 48000, ROUNDS = 200, SLAB = 2 << 20 };

/* One of the two ends: a worker, and its endpoint to the other end. */
struct end {
	ucp_worker_h worker;
	ucp_ep_h endpoint;
};

/* A slab as UCX knows it. The ends put into the slab by the two keys. */
struct mapping {
	ucp_mem_h memory;
	ucp_rkey_h keys[2];
};

static struct end ends[2];
static ucp_context_h context;
static struct evpl_device *device;
static struct evpl_iovec slices[SLICES];
static unsigned int mapped, unmapped;

static void check(int ret, const char *what)
{
	if (ret >= 0)
		return;
	fprintf(stderr, "ucx: %s: %s. %s\n", what, strerror(-ret), evpl_last_error());
	exit(1);
}

static void check_ucx(ucs_status_t status, const char *what)
{
	if (status == UCS_OK)
		return;
	fprintf(stderr, "ucx: %s: %s\n", what, ucs_status_string(status));
	exit(1);
}

static void want(bool right, const char *what)
{
	if (right)
		return;
	fprintf(stderr, "ucx: it isn't true that %s\n", what);
	exit(1);
}

/* Says what comes next, so that a program that doesn't end says where it is. */
static void step(const char *what)
{
	printf("%s\n", what);
	fflush(stdout);
}

/* A peer elsewhere would be sent the packed key, once for each slab, and unpack it there. */
static int register_slab(void *arg, const struct evpl_slab_info *slab, uint64_t *cookie)
{
	ucp_mem_map_params_t params = {
		.field_mask = UCP_MEM_MAP_PARAM_FIELD_ADDRESS | UCP_MEM_MAP_PARAM_FIELD_LENGTH,
		.address = slab->base,
		.length = slab->length,
	};
	struct mapping *mapping = malloc(sizeof(*mapping));
	size_t length;
	void *key;
	int i;

	(void)arg;
	want(mapping, "there is memory");
	check_ucx(ucp_mem_map(context, &params, &mapping->memory), "ucp_mem_map");
	check_ucx(ucp_rkey_pack(context, mapping->memory, &key, &length), "packing a key");
	for (i = 0; i < 2; i++)
		check_ucx(ucp_ep_rkey_unpack(ends[i].endpoint, key, &mapping->keys[i]),
			  "unpacking a key");
	ucp_rkey_buffer_release(key);
	*cookie = (uintptr_t)mapping;
	mapped++;
	return 0;
}

static int unregister_slab(void *arg, const struct evpl_slab_info *slab, uint64_t cookie)
{
	struct mapping *mapping = (struct mapping *)(uintptr_t)cookie;
	int i;

	(void)arg;
	(void)slab;
	for (i = 0; i < 2; i++)
		ucp_rkey_destroy(mapping->keys[i]);
	check_ucx(ucp_mem_unmap(context, mapping->memory), "ucp_mem_unmap");
	free(mapping);
	unmapped++;
	return 0;
}

static const struct mapping *mapping_of(const struct evpl_iovec *iovec)
{
	uint64_t cookie;

	check(evpl_device_cookie(device, iovec, &cookie), "the cookie of a slice");
	return (const struct mapping *)(uintptr_t)cookie;
}

/*
 * Waits for an operation of either end. An end does its part of an operation only while its worker
 * progresses, so both workers do.
 */
static void wait_for(ucs_status_ptr_t request, const char *what)
{
	int i;

	if (UCS_PTR_IS_PTR(request)) {
		while (ucp_request_check_status(request) == UCS_INPROGRESS)
			for (i = 0; i < 2; i++)
				ucp_worker_progress(ends[i].worker);
		check_ucx(ucp_request_check_status(request), what);
		ucp_request_free(request);
	} else {
		check_ucx(UCS_PTR_STATUS(request), what);
	}
}

static void fill(const struct evpl_iovec *iovec, int number)
{
	unsigned char *bytes = iovec->data;
	unsigned int i;

	for (i = 0; i < iovec->length; i++)
		bytes[i] = (unsigned char)(i * 7 + (unsigned int)number);
}

static bool is_filled(const struct evpl_iovec *iovec, int number)
{
	const unsigned char *bytes = iovec->data;
	unsigned int i;

	for (i = 0; i < iovec->length; i++)
		if (bytes[i] != (unsigned char)(i * 7 + (unsigned int)number))
			return false;
	return true;
}

static void message(const struct end *sender, const struct end *receiver, int number,
		    const struct evpl_iovec *from, const struct evpl_iovec *to)
{
	ucp_request_param_t send = {
		.op_attr_mask = UCP_OP_ATTR_FIELD_MEMH,
		.memh = mapping_of(from)->memory,
	};
	ucp_tag_recv_info_t info = { 0 };
	ucp_request_param_t receive = {
		.op_attr_mask = UCP_OP_ATTR_FIELD_MEMH | UCP_OP_ATTR_FLAG_NO_IMM_CMPL,
		.memh = mapping_of(to)->memory,
	};
	ucs_status_ptr_t received, sent;

	received = ucp_tag_recv_nbx(receiver->worker, to->data, to->length, (ucp_tag_t)number,
				    (ucp_tag_t)-1, &receive);
	sent = ucp_tag_send_nbx(sender->endpoint, from->data, from->length, (ucp_tag_t)number,
				&send);
	wait_for(sent, "sending a message");
	want(UCS_PTR_IS_PTR(received), "a message isn't received before it is sent");
	while (ucp_tag_recv_request_test(received, &info) == UCS_INPROGRESS) {
		ucp_worker_progress(sender->worker);
		ucp_worker_progress(receiver->worker);
	}
	wait_for(received, "receiving a message");
	want(info.length == LENGTH, "a message has its length");
	want(is_filled(to, number), "a message that was received is in its slice");
}

/* A put is complete when the sender may write to @from again. After a flush the bytes are in @to. */
static void put(const struct end *sender, int number, const struct evpl_iovec *from,
		const struct evpl_iovec *to)
{
	ucp_request_param_t params = {
		.op_attr_mask = UCP_OP_ATTR_FIELD_MEMH,
		.memh = mapping_of(from)->memory,
	};
	ucp_request_param_t flush = { 0 };

	wait_for(ucp_put_nbx(sender->endpoint, from->data, from->length, (uintptr_t)to->data,
			     mapping_of(to)->keys[sender - ends], &params), "ucp_put_nbx");
	wait_for(ucp_ep_flush_nbx(sender->endpoint, &flush), "flushing");
	want(is_filled(to, number), "a put that is flushed is in its slice");
}

/* The ends take turns. Slices from the front go to slices from the back: often to another slab. */
static void transfer(bool is_put)
{
	const struct evpl_iovec *from, *to;
	int number;

	for (number = 0; number < ROUNDS; number++) {
		from = &slices[number % (SLICES / 2)];
		to = &slices[SLICES - 1 - number % (SLICES / 2)];
		fill(from, number);
		memset(to->data, 0, to->length);
		if (is_put)
			put(&ends[number % 2], number, from, to);
		else
			message(&ends[number % 2], &ends[!(number % 2)], number, from, to);
	}
}

static void start(void)
{
	ucp_params_t params = {
		.field_mask = UCP_PARAM_FIELD_FEATURES,
		.features = UCP_FEATURE_TAG | UCP_FEATURE_RMA,
	};
	ucp_config_t *config;
	ucs_status_t status;

	setenv("UCX_TLS", "self,sm,tcp", 0);
	setenv("UCX_NET_DEVICES", "lo", 0);
	check_ucx(ucp_config_read(NULL, NULL, &config), "the configuration of UCX");
	status = ucp_init(&params, config, &context);
	ucp_config_release(config);
	if (status == UCS_ERR_NO_DEVICE) {
		fprintf(stderr, "UCX has none of the transports %s here\n", getenv("UCX_TLS"));
		exit(4);
	}
	check_ucx(status, "ucp_init");
}

static void open_worker(struct end *end)
{
	ucp_worker_params_t params = {
		.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE,
		.thread_mode = UCS_THREAD_MODE_SINGLE,
	};

	check_ucx(ucp_worker_create(context, &params, &end->worker), "worker");
}

static void connect_to(struct end *end, const struct end *peer)
{
	ucp_ep_params_t params = { .field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS };
	ucp_address_t *address;
	size_t length;

	check_ucx(ucp_worker_get_address(peer->worker, &address, &length), "a worker's address");
	params.address = address;
	check_ucx(ucp_ep_create(end->worker, &params, &end->endpoint), "endpoint");
	ucp_worker_release_address(peer->worker, address);
}

int main(void)
{
	struct evpl_pool_config config = EVPL_POOL_CONFIG_INIT;
	struct evpl_pool_stats stats = EVPL_POOL_STATS_INIT;
	struct evpl_device_ops ops = EVPL_DEVICE_OPS_INIT;
	ucp_request_param_t params = { 0 };
	struct evpl_pool *pool;
	struct evpl *evpl;
	int i;

	step("starting UCX");
	start();
	step("connecting the ends");
	for (i = 0; i < 2; i++)
		open_worker(&ends[i]);
	connect_to(&ends[0], &ends[1]);
	connect_to(&ends[1], &ends[0]);

	step("opening the pool");
	config.buffer_size = 1 << 16;
	config.slab_size = SLAB;
	config.slab_size_max = SLAB;
	ops.register_slab = register_slab;
	ops.unregister_slab = unregister_slab;
	check(evpl_pool_open(&pool, &config), "pool");
	check(evpl_device_attach(pool, &ops, NULL, &device), "device");
	check(evpl_create(&evpl, pool, NULL), "context");
	for (i = 0; i < SLICES; i++)
		check(evpl_iovec_alloc(evpl, LENGTH, 64, 1, &slices[i]), "memory");

	step("sending messages");
	transfer(false);
	step("putting into the peer's memory");
	transfer(true);

	check(evpl_pool_stats(pool, &stats), "statistics");
	want(stats.slabs >= 2, "there are several slabs");
	want(mapped == stats.slabs && !unmapped, "each slab was mapped once");

	step("giving the slabs back");
	for (i = 0; i < SLICES; i++)
		evpl_iovec_release(&slices[i]);
	evpl_destroy(evpl);
	evpl_pool_trim(pool);
	want(unmapped == mapped - 1, "a slab that is given back is unmapped");
	evpl_device_detach(device);
	want(unmapped == mapped, "the last slab is unmapped with the device");
	check(evpl_pool_close(pool), "closing the pool");

	step("closing the ends");
	for (i = 0; i < 2; i++)
		wait_for(ucp_ep_close_nbx(ends[i].endpoint, &params), "closing an endpoint");
	for (i = 0; i < 2; i++)
		ucp_worker_destroy(ends[i].worker);
	ucp_cleanup(context);
	printf("%d messages and %d puts went between slices in %u slabs.\n", ROUNDS, ROUNDS,
	       mapped);
	return 0;
}
