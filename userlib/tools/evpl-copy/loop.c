// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/* The loop: handle completions, start the requests that can be started, then sleep. */
#include <errno.h>
#include <poll.h>
#include <string.h>

#include "copy.h"

#define WAKE_MS		200
#define SILENCE		5.0

static unsigned int ring_reap(struct copy *copy)
{
	struct io_uring_cqe *cqe;
	unsigned int n = 0;
	struct op *op;
	int result;

	while (!io_uring_peek_cqe(&copy->ring, &cqe)) {
		op = io_uring_cqe_get_data(cqe);
		result = cqe->res;
		io_uring_cqe_seen(&copy->ring, cqe);
		disk_done(copy, op, result);
		n++;
	}
	return n;
}

static void ring_submit(struct copy *copy)
{
	int ret;

	while (io_uring_sq_ready(&copy->ring)) {
		ret = io_uring_submit(&copy->ring);
		if (ret < 0 && ret != -EINTR && ret != -EAGAIN && ret != -EBUSY)
			die(copy, "Can't submit to io_uring: %s.", strerror(-ret));
	}
}

/* How long to sleep at most: until progress is shown, or until --rate allows another chunk. */
static int wake_ms(const struct copy *copy)
{
	uint64_t ms = copy->options.chunk * 1000ULL / copy->options.rate;

	return ms && ms < WAKE_MS ? (int)ms : WAKE_MS;
}

/*
 * Sleeps until there is an event. After an event of the CQ this asks for the next one, before
 * completions_reap() polls the CQ. So a completion in between isn't missed.
 */
static void wait_for_events(struct copy *copy)
{
	struct connection *conn = &copy->conn;
	struct pollfd fds[] = {
		{ .fd = copy->ring.ring_fd, .events = POLLIN },
		{ .fd = conn->completions->fd, .events = POLLIN },
		{ .fd = conn->events->fd, .events = POLLIN },
	};
	struct ibv_cq *cq;
	void *context;

	if (poll(fds, 3, wake_ms(copy)) < 0 && errno != EINTR)
		die(copy, "Can't wait: %s.", strerror(errno));
	if (fds[1].revents) {
		if (ibv_get_cq_event(conn->completions, &cq, &context) ||
		    ibv_req_notify_cq(cq, 0))
			die(copy, "The RDMA device has failed: %s.", strerror(errno));
		ibv_ack_cq_events(cq, 1);
	}
	if (fds[2].revents)
		connection_check_events(copy);
	if (now() - conn->heard > SILENCE)
		post_ping(copy);
	progress_show(copy);
}

void loop_run(struct copy *copy, void (*pump)(struct copy *copy))
{
	unsigned int n;

	while (!copy->finished) {
		n = completions_reap(copy);
		if (copy->finished)
			break;
		n += ring_reap(copy);
		pump(copy);
		ring_submit(copy);
		if (!n)
			wait_for_events(copy);
	}
}
