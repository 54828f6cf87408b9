// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Has libfabric send slices and write to them from afar. Each slab is one memory region of
 * libfabric, registered when the slab comes and closed when it goes. The two endpoints are in this
 * process, and the provider is tcp over the loopback interface unless FI_PROVIDER and FI_TCP_IFACE
 * say otherwise.
 *
 *	cc fabric.c $(pkg-config --cflags --libs libevplmem libfabric)
 */
#include <evplmem.h>
#include <rdma/fabric.h>
#include <rdma/fi_cm.h>
#include <rdma/fi_domain.h>
#include <rdma/fi_endpoint.h>
#include <rdma/fi_errno.h>
#include <rdma/fi_rma.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SLICES = 64, LENGTH = 48000, ROUNDS = 200, SLAB = 2 << 20 };

/* One of the two endpoints. */
struct end {
	struct fid_ep *endpoint;
	struct fid_cq *completions;
	struct fid_av *addresses;
	fi_addr_t peer;
};

/* The context of an operation, which the completion queue gives back. */
struct operation {
	struct fi_context2 context;
	size_t length;
	bool done;
};

static struct end ends[2];
static struct fi_info *info;
static struct evpl_device *device;
static struct evpl_iovec slices[SLICES];
static unsigned int registered, unregistered;

static void check(ssize_t ret, const char *what)
{
	if (ret >= 0)
		return;
	fprintf(stderr, "fabric: %s: %s. %s\n", what, fi_strerror((int)-ret), evpl_last_error());
	exit(1);
}

static void want(bool right, const char *what)
{
	if (right)
		return;
	fprintf(stderr, "fabric: it isn't true that %s\n", what);
	exit(1);
}

/* Says what comes next, so that a program that doesn't end says where it is. */
static void step(const char *what)
{
	printf("%s\n", what);
	fflush(stdout);
}

static int register_slab(void *arg, const struct evpl_slab_info *slab, uint64_t *cookie)
{
	struct fid_domain *domain = arg;
	struct fid_mr *region;
	int err = fi_mr_reg(domain, slab->base, slab->length,
			    FI_SEND | FI_RECV | FI_WRITE | FI_REMOTE_WRITE, 0, slab->number, 0,
			    &region, NULL);

	check(err, "fi_mr_reg");
	*cookie = (uintptr_t)region;
	registered++;
	return 0;
}

static int unregister_slab(void *arg, const struct evpl_slab_info *slab, uint64_t cookie)
{
	struct fid_mr *region = (struct fid_mr *)(uintptr_t)cookie;

	(void)arg;
	(void)slab;
	check(fi_close(&region->fid), "closing a region");
	unregistered++;
	return 0;
}

static struct fid_mr *region_of(const struct evpl_iovec *iovec)
{
	uint64_t cookie;

	check(evpl_device_cookie(device, iovec, &cookie), "the cookie of a slice");
	return (struct fid_mr *)(uintptr_t)cookie;
}

/* The address by which a peer writes to this slice, with the key of its slab. */
static uint64_t remote_address(const struct evpl_iovec *iovec)
{
	struct evpl_slab_info slab;

	if (info->domain_attr->mr_mode & FI_MR_VIRT_ADDR)
		return (uintptr_t)iovec->data;
	check(evpl_iovec_slab(iovec, &slab), "the slab of a slice");
	return (uintptr_t)iovec->data - (uintptr_t)slab.base;
}

/*
 * Reads both completion queues. With manual progress an endpoint does its part of an operation
 * only while its queue is read: it accepts a connection, takes a message, or answers a write. So
 * to wait at one end alone is to wait forever.
 */
static void progress(void)
{
	struct fi_cq_err_entry error = { 0 };
	struct fi_cq_msg_entry entry;
	struct operation *operation;
	ssize_t n;
	int i;

	for (i = 0; i < 2; i++) {
		n = fi_cq_read(ends[i].completions, &entry, 1);
		if (n == -FI_EAGAIN)
			continue;
		if (n == -FI_EAVAIL && fi_cq_readerr(ends[i].completions, &error, 0) == 1)
			n = -error.err;
		check(n, "completion");
		operation = entry.op_context;
		operation->length = entry.len;
		operation->done = true;
	}
}

static void wait_for(const struct operation *operation)
{
	while (!operation->done)
		progress();
}

/* The post_ functions post an operation, which can't be done before there is a connection. */

static void post_receive(struct end *end, const struct evpl_iovec *to, struct operation *operation)
{
	ssize_t ret;

	do {
		progress();
		ret = fi_recv(end->endpoint, to->data, to->length, fi_mr_desc(region_of(to)),
			      end->peer, operation);
	} while (ret == -FI_EAGAIN);
	check(ret, "fi_recv");
}

static void post_send(struct end *end, const struct evpl_iovec *from, struct operation *operation)
{
	ssize_t ret;

	do {
		progress();
		ret = fi_send(end->endpoint, from->data, from->length, fi_mr_desc(region_of(from)),
			      end->peer, operation);
	} while (ret == -FI_EAGAIN);
	check(ret, "fi_send");
}

/* The key and the address of @to are those that a peer elsewhere would have been told. */
static void post_write(struct end *end, const struct evpl_iovec *from, const struct evpl_iovec *to,
		       struct operation *operation)
{
	ssize_t ret;

	do {
		progress();
		ret = fi_write(end->endpoint, from->data, from->length, fi_mr_desc(region_of(from)),
			       end->peer, remote_address(to), fi_mr_key(region_of(to)), operation);
	} while (ret == -FI_EAGAIN);
	check(ret, "fi_write");
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

/* The ends take turns. Slices from the front go to slices from the back: often to another slab. */
static void transfer(bool write)
{
	struct evpl_iovec *from, *to;
	int number;

	for (number = 0; number < ROUNDS; number++) {
		struct operation sent = { .done = false }, received = { .done = false };
		struct end *sender = &ends[number % 2], *receiver = &ends[!(number % 2)];

		from = &slices[number % (SLICES / 2)];
		to = &slices[SLICES - 1 - number % (SLICES / 2)];
		fill(from, number);
		memset(to->data, 0, to->length);
		if (write) {
			post_write(sender, from, to, &sent);
			wait_for(&sent);
			want(is_filled(to, number), "a write that is complete is in its slice");
		} else {
			post_receive(receiver, to, &received);
			post_send(sender, from, &sent);
			wait_for(&sent);
			wait_for(&received);
			want(received.length == LENGTH, "a message has its length");
			want(is_filled(to, number), "a message that was received is in its slice");
		}
	}
}

static void open_end(struct fid_domain *domain, struct end *end)
{
	struct fi_cq_attr cq = { .format = FI_CQ_FORMAT_MSG };
	struct fi_av_attr av = { .type = FI_AV_UNSPEC };

	check(fi_endpoint(domain, info, &end->endpoint, NULL), "endpoint");
	check(fi_cq_open(domain, &cq, &end->completions, NULL), "completion queue");
	check(fi_av_open(domain, &av, &end->addresses, NULL), "addresses");
	check(fi_ep_bind(end->endpoint, &end->completions->fid, FI_TRANSMIT | FI_RECV),
	      "binding the completion queue");
	check(fi_ep_bind(end->endpoint, &end->addresses->fid, 0), "binding the addresses");
	check(fi_enable(end->endpoint), "enabling the endpoint");
}

static void close_end(struct end *end)
{
	check(fi_close(&end->endpoint->fid), "closing the endpoint");
	check(fi_close(&end->completions->fid), "closing the completion queue");
	check(fi_close(&end->addresses->fid), "closing the addresses");
}

static void introduce(struct end *end, const struct end *peer)
{
	char name[256];
	size_t length = sizeof(name);

	check(fi_getname(&peer->endpoint->fid, name, &length), "the name of an endpoint");
	want(fi_av_insert(end->addresses, name, 1, &end->peer, 0, NULL) == 1,
	     "an endpoint takes the name of the other one");
}

/* A write is complete when its bytes are in the peer's memory. */
static void find_provider(void)
{
	struct fi_info *hints = fi_allocinfo();
	int err;

	want(hints, "there is memory");
	setenv("FI_PROVIDER", "tcp", 0);
	setenv("FI_TCP_IFACE", "lo", 0);
	hints->caps = FI_MSG | FI_RMA;
	hints->mode = FI_CONTEXT | FI_CONTEXT2;
	hints->ep_attr->type = FI_EP_RDM;
	hints->domain_attr->mr_mode = FI_MR_LOCAL | FI_MR_VIRT_ADDR | FI_MR_ALLOCATED |
				      FI_MR_PROV_KEY;
	hints->tx_attr->op_flags = FI_COMPLETION | FI_DELIVERY_COMPLETE;
	err = fi_getinfo(FI_VERSION(1, 17), NULL, NULL, 0, hints, &info);
	fi_freeinfo(hints);
	if (err == -FI_ENODATA) {
		fprintf(stderr, "libfabric has no provider %s here with messages and writes\n",
			getenv("FI_PROVIDER"));
		exit(4);
	}
	check(err, "fi_getinfo");
}

int main(void)
{
	struct evpl_pool_config config = EVPL_POOL_CONFIG_INIT;
	struct evpl_pool_stats stats = EVPL_POOL_STATS_INIT;
	struct evpl_device_ops ops = EVPL_DEVICE_OPS_INIT;
	struct fid_fabric *fabric;
	struct fid_domain *domain;
	struct evpl_pool *pool;
	struct evpl *evpl;
	int i;

	step("finding a provider");
	find_provider();
	step("opening the endpoints");
	check(fi_fabric(info->fabric_attr, &fabric, NULL), "fabric");
	check(fi_domain(fabric, info, &domain, NULL), "domain");
	for (i = 0; i < 2; i++)
		open_end(domain, &ends[i]);
	introduce(&ends[0], &ends[1]);
	introduce(&ends[1], &ends[0]);

	step("opening the pool");
	config.buffer_size = 1 << 16;
	config.slab_size = SLAB;
	config.slab_size_max = SLAB;
	ops.register_slab = register_slab;
	ops.unregister_slab = unregister_slab;
	check(evpl_pool_open(&pool, &config), "pool");
	check(evpl_device_attach(pool, &ops, domain, &device), "device");
	check(evpl_create(&evpl, pool, NULL), "context");
	for (i = 0; i < SLICES; i++)
		check(evpl_iovec_alloc(evpl, LENGTH, 64, 1, &slices[i]), "memory");

	step("sending messages");
	transfer(false);
	step("writing to the peer's memory");
	transfer(true);

	check(evpl_pool_stats(pool, &stats), "statistics");
	want(stats.slabs >= 2, "there are several slabs");
	want(registered == stats.slabs && !unregistered, "each slab was registered once");

	step("giving the slabs back");
	for (i = 0; i < SLICES; i++)
		evpl_iovec_release(&slices[i]);
	evpl_destroy(evpl);
	evpl_pool_trim(pool);
	want(unregistered == registered - 1, "a slab that is given back is unregistered");
	evpl_device_detach(device);
	want(unregistered == registered, "the last slab is unregistered with the device");
	check(evpl_pool_close(pool), "closing the pool");

	step("closing the endpoints");
	for (i = 0; i < 2; i++)
		close_end(&ends[i]);
	check(fi_close(&domain->fid), "closing the domain");
	check(fi_close(&fabric->fid), "closing the fabric");
	printf("Over %s, %d messages and %d writes went between slices in %u slabs.\n",
	       info->fabric_attr->prov_name, ROUNDS, ROUNDS, registered);
	fi_freeinfo(info);
	return 0;
}
