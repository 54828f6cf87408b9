// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * The connection to the peer. The connection manager (rdma_cm) makes and ends it, and
 * reports at once when the peer's program has ended.
 */
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "copy.h"

#define RESOLVE_MS	5000
#define CONNECT_MS	30000
#define GOODBYE_MS	5000
#define BACKLOG		1

static void events_open(struct copy *copy)
{
	copy->conn.events = rdma_create_event_channel();
	if (!copy->conn.events)
		die(copy, "RDMA doesn't work here: %s. Load the kernel module rdma_ucm.",
		    strerror(errno));
}

/* Waits for the next event. Returns NULL after @timeout_ms; if that is negative, it waits on. */
static struct rdma_cm_event *next_event(struct copy *copy, int timeout_ms)
{
	struct pollfd pollfd = { .fd = copy->conn.events->fd, .events = POLLIN };
	struct rdma_cm_event *event;
	int ready;

	do
		ready = poll(&pollfd, 1, timeout_ms);
	while (ready < 0 && errno == EINTR);
	if (!ready)
		return NULL;
	if (rdma_get_cm_event(copy->conn.events, &event))
		die(copy, "The connection manager fails: %s.", strerror(errno));
	return event;
}

/* Waits for an event of @type. Returns false if the next event is another one, or none comes. */
static bool await(struct copy *copy, enum rdma_cm_event_type type, int timeout_ms)
{
	struct rdma_cm_event *event = next_event(copy, timeout_ms);
	bool right;

	if (!event)
		return false;
	right = event->event == type;
	rdma_ack_cm_event(event);
	return right;
}

static const char *device_of(struct rdma_cm_id *id)
{
	return ibv_get_device_name(id->verbs->device);
}

static bool device_is_right(struct copy *copy, struct rdma_cm_id *id)
{
	return !copy->options.device || !strcmp(copy->options.device, device_of(id));
}

/* Makes the queue pair, its protection domain and its CQ, once the device is known. */
static void connection_open(struct copy *copy)
{
	struct connection *conn = &copy->conn;
	unsigned int entries = copy->options.depth + SPARE;
	struct ibv_qp_init_attr attr = {
		.qp_type = IBV_QPT_RC,
		.sq_sig_all = 1,
		.cap = {
			.max_send_wr = entries,
			.max_recv_wr = entries,
			.max_send_sge = 1,
			.max_recv_sge = 1,
		},
	};

	conn->pd = ibv_alloc_pd(conn->id->verbs);
	if (!conn->pd)
		die(copy, "The RDMA device %s has no protection domain for us: %s.",
		    device_of(conn->id), strerror(errno));
	conn->completions = ibv_create_comp_channel(conn->id->verbs);
	if (conn->completions)
		conn->cq = ibv_create_cq(conn->id->verbs, (int)(2 * entries), NULL,
					 conn->completions, 0);
	if (!conn->cq || ibv_req_notify_cq(conn->cq, 0))
		die(copy, "The RDMA device %s has no completion queue for us: %s. Use a smaller --depth.",
		    device_of(conn->id), strerror(errno));
	attr.send_cq = conn->cq;
	attr.recv_cq = conn->cq;
	if (rdma_create_qp(conn->id, conn->pd, &attr))
		die(copy, "The RDMA device %s has no queue pair for us: %s. Use a smaller --depth.",
		    device_of(conn->id), strerror(errno));
	conn->ping.kind = OP_PING;
}

static struct addrinfo *look_up(struct copy *copy, bool passive)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *found;
	int err;

	/* A listener on the wildcard address of IPv6 accepts IPv4 too. */
	if (passive) {
		hints.ai_flags = AI_PASSIVE;
		if (!copy->options.host)
			hints.ai_family = AF_INET6;
	}
	err = getaddrinfo(copy->options.host, copy->options.port, &hints, &found);
	if (err && passive && !copy->options.host) {
		hints.ai_family = AF_INET;
		err = getaddrinfo(NULL, copy->options.port, &hints, &found);
	}
	if (err)
		die(copy, "No address for %s, port %s: %s.",
		    copy->options.host ? copy->options.host : "this machine", copy->options.port,
		    gai_strerror(err));
	return found;
}

/* Reads the hello of a peer that connects. Returns the reason to refuse it, or NULL. */
static const char *why_not(struct copy *copy, const struct rdma_cm_event *event,
			   struct hello *hello)
{
	const struct rdma_conn_param *param = &event->param.conn;

	if (param->private_data_len < sizeof(*hello))
		return "That isn't evpl-copy.";
	memcpy(hello, param->private_data, sizeof(*hello));
	if (be64toh(hello->magic) != WIRE_MAGIC)
		return "That isn't evpl-copy.";
	hello->version = ntohl(hello->version);
	hello->chunk = ntohl(hello->chunk);
	hello->length = be64toh(hello->length);
	hello->credits = ntohl(hello->credits);
	if (hello->version != WIRE_VERSION)
		return "The receiver's evpl-copy is of another version. Use the same one.";
	if (!device_is_right(copy, event->id))
		return "The receiver takes connections on another RDMA device.";
	return NULL;
}

static void refuse(struct rdma_cm_id *id, const char *why)
{
	struct refusal refusal = { .magic = htobe64(WIRE_MAGIC) };

	snprintf(refusal.why, sizeof(refusal.why), "%s", why);
	rdma_reject(id, &refusal, sizeof(refusal));
}

/* Waits for a sender, and refuses all other peers. */
void connection_listen(struct copy *copy, struct hello *hello)
{
	struct connection *conn = &copy->conn;
	struct rdma_cm_id *listener;
	struct rdma_cm_event *event;
	struct addrinfo *address;
	const char *why;
	int err;

	events_open(copy);
	if (rdma_create_id(conn->events, &listener, NULL, RDMA_PS_TCP))
		die(copy, "Can't listen: %s.", strerror(errno));
	address = look_up(copy, true);
	err = rdma_bind_addr(listener, address->ai_addr);
	freeaddrinfo(address);
	if (err || rdma_listen(listener, BACKLOG))
		die(copy, "Can't listen on port %s%s%s: %s. An RDMA device must be up ('rdma link' lists them), and have the address; or use another --port.",
		    copy->options.port, copy->options.host ? " of " : "",
		    copy->options.host ? copy->options.host : "", strerror(errno));
	if (!copy->options.quiet)
		fprintf(stderr, "evpl-copy: listening on port %s\n", copy->options.port);

	while (!conn->id) {
		event = next_event(copy, -1);
		if (event->event == RDMA_CM_EVENT_CONNECT_REQUEST)
			conn->id = event->id;
		why = conn->id ? why_not(copy, event, hello) : NULL;
		rdma_ack_cm_event(event);
		if (why) {
			refuse(conn->id, why);
			rdma_destroy_id(conn->id);
			conn->id = NULL;
		}
	}
	rdma_destroy_id(listener);
	conn->asked = true;
	connection_open(copy);
}

/* Refuses the sender that waits to be accepted. */
void connection_refuse(struct copy *copy, const char *why)
{
	refuse(copy->conn.id, why);
}

/* Accepts the sender that waits. Receives for all credits are posted. */
void connection_accept(struct copy *copy, unsigned int credits)
{
	struct welcome welcome = {
		.magic = htobe64(WIRE_MAGIC),
		.version = htonl(WIRE_VERSION),
		.credits = htonl(credits),
	};
	struct rdma_conn_param param = {
		.private_data = &welcome,
		.private_data_len = sizeof(welcome),
		.rnr_retry_count = 7,
	};

	copy->conn.asked = false;
	if (rdma_accept(copy->conn.id, &param) ||
	    !await(copy, RDMA_CM_EVENT_ESTABLISHED, CONNECT_MS))
		die(copy, "The sender didn't complete the connection. Start it again.");
	copy->conn.up = true;
	copy->conn.heard = now();
}

/* Finds the route to the receiver, and so the device that leads there. */
void connection_resolve(struct copy *copy)
{
	struct connection *conn = &copy->conn;
	struct addrinfo *list, *address;

	events_open(copy);
	list = look_up(copy, false);
	for (address = list; address; address = address->ai_next) {
		if (rdma_create_id(conn->events, &conn->id, NULL, RDMA_PS_TCP))
			die(copy, "Can't connect: %s.", strerror(errno));
		if (!rdma_resolve_addr(conn->id, NULL, address->ai_addr, RESOLVE_MS) &&
		    await(copy, RDMA_CM_EVENT_ADDR_RESOLVED, 2 * RESOLVE_MS))
			break;
		rdma_destroy_id(conn->id);
	}
	freeaddrinfo(list);
	if (!address)
		die(copy, "No RDMA device leads to %s. 'rdma link' lists the devices; one must be up, on the network of that address.",
		    copy->options.host);
	if (!device_is_right(copy, conn->id))
		die(copy, "The way to %s is through the RDMA device %s, not %s. Leave --device out, or use another address.",
		    copy->options.host, device_of(conn->id), copy->options.device);
	if (rdma_resolve_route(conn->id, RESOLVE_MS) ||
	    !await(copy, RDMA_CM_EVENT_ROUTE_RESOLVED, 2 * RESOLVE_MS))
		die(copy, "No RDMA route to %s. Use an address of an RDMA device's network.",
		    copy->options.host);
	connection_open(copy);
}

static void __attribute__((noreturn)) die_rejected(struct copy *copy,
						    const struct rdma_cm_event *event)
{
	struct refusal refusal;

	if (event->param.conn.private_data_len >= sizeof(refusal)) {
		memcpy(&refusal, event->param.conn.private_data, sizeof(refusal));
		refusal.why[sizeof(refusal.why) - 1] = '\0';
		if (be64toh(refusal.magic) == WIRE_MAGIC)
			die(copy, "The receiver refuses: %s", refusal.why);
	}
	die(copy, "No evpl-copy listens on %s, port %s. Start 'evpl-copy -l TARGET' there first.",
	    copy->options.host, copy->options.port);
}

/* Connects to the receiver, and gets the first credits. Receives for messages are posted. */
void connection_connect(struct copy *copy, const struct hello *hello)
{
	struct hello wire = {
		.magic = htobe64(WIRE_MAGIC),
		.version = htonl(WIRE_VERSION),
		.chunk = htonl(hello->chunk),
		.length = htobe64(hello->length),
		.credits = htonl(hello->credits),
	};
	struct rdma_conn_param param = {
		.private_data = &wire,
		.private_data_len = sizeof(wire),
		.retry_count = 7,
		.rnr_retry_count = 7,
	};
	struct rdma_cm_event *event;
	struct welcome welcome = { 0 };

	if (rdma_connect(copy->conn.id, &param))
		die(copy, "Can't connect to %s: %s.", copy->options.host, strerror(errno));
	event = next_event(copy, CONNECT_MS);
	if (event && event->event == RDMA_CM_EVENT_REJECTED)
		die_rejected(copy, event);
	if (!event || event->event != RDMA_CM_EVENT_ESTABLISHED)
		die(copy, "%s doesn't answer on port %s. Is it up, and RDMA let through?",
		    copy->options.host, copy->options.port);
	if (event->param.conn.private_data_len >= sizeof(welcome))
		memcpy(&welcome, event->param.conn.private_data, sizeof(welcome));
	rdma_ack_cm_event(event);
	copy->conn.up = true;
	copy->conn.heard = now();
	if (be64toh(welcome.magic) != WIRE_MAGIC || ntohl(welcome.version) != WIRE_VERSION ||
	    !welcome.credits)
		die(copy, "Something else than this evpl-copy listens on %s, port %s.",
		    copy->options.host, copy->options.port);
	copy->conn.credits = ntohl(welcome.credits);
}

/* Handles an event. While the transfer runs, any event means the end of the connection. */
void connection_check_events(struct copy *copy)
{
	struct rdma_cm_event *event = next_event(copy, 0);
	enum rdma_cm_event_type type;

	if (!event)
		return;
	type = event->event;
	rdma_ack_cm_event(event);
	/* Messages that the peer sent before it went have arrived: handle them first. */
	while (completions_reap(copy))
		;
	copy->conn.up = false;
	copy->conn.gone = type == RDMA_CM_EVENT_DISCONNECTED;
	if (copy->durable)
		copy->finished = true;
	if (copy->finished)
		return;
	if (type == RDMA_CM_EVENT_DEVICE_REMOVAL)
		die(copy, "The RDMA device %s was removed.", device_of(copy->conn.id));
	die(copy, "The peer has gone before all was copied. Start both ends again.");
}

void connection_close(struct copy *copy)
{
	struct connection *conn = &copy->conn;

	/* The sender disconnects, so the receiver waits for that. */
	conn->up = false;
	if (copy->options.listen && !conn->gone)
		await(copy, RDMA_CM_EVENT_DISCONNECTED, GOODBYE_MS);
	rdma_disconnect(conn->id);
	rdma_destroy_qp(conn->id);
	while (conn->posted)
		op_free(op_unpost(conn->posted));
	ibv_destroy_cq(conn->cq);
	ibv_destroy_comp_channel(conn->completions);
	evpl_rdma_destroy(copy->memory.rdma);
	ibv_dealloc_pd(conn->pd);
	rdma_destroy_id(conn->id);
	rdma_destroy_event_channel(conn->events);
}
