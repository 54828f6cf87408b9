// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/* Tests of sockets. */
#include <errno.h>
#include <linux/if_xdp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "probe.h"
#include "tcp.h"

bool loopback_open(struct row *row, int sockets[2])
{
	if (tcp_pair(sockets))
		return true;
	row_not_tried(row, errno, "There is no TCP over the loopback device: %s.", strerror(errno));
	row_remedy(row, "Set it up: ip link set lo up.");
	return false;
}

bool loopback_arrived(struct row *row, struct memory *memory, int socket)
{
	ssize_t n = recv(socket, memory->to.data, BUFFER, MSG_WAITALL);

	if (n == (ssize_t)BUFFER)
		return memory_arrived(memory, row);
	row_no(row, n < 0 ? errno : EIO, "It doesn't arrive.");
	return false;
}

/* Whether the kernel copied: without a copy, the send keeps the buffer in use after our release. */
static bool was_copied(struct memory *memory)
{
	struct evpl_pool_stats stats = { .size = sizeof(stats) };

	evpl_iovec_release(&memory->from);
	evpl_pool_stats(memory->pool, &stats);
	return stats.buffers_used < 2;
}

void try_zerocopy(struct row *row, struct memory *memory)
{
	struct evpl_zerocopy *zerocopy;
	struct pollfd poll_fd;
	int sockets[2], left;
	ssize_t n;

	if (!loopback_open(row, sockets))
		return;
	left = evpl_zerocopy_create(&zerocopy, sockets[0]);
	if (left) {
		row_no(row, -left, "The socket has no MSG_ZEROCOPY: %s.", strerror(-left));
		return;
	}
	n = evpl_zerocopy_send(zerocopy, &memory->from, 1, 0);
	if (n != (ssize_t)BUFFER) {
		row_no(row, n < 0 ? (int)-n : EIO, "The socket doesn't take it.");
		return;
	}
	if (!loopback_arrived(row, memory, sockets[1]))
		return;
	if (was_copied(memory)) {
		/* The kernel charges two pages more, in case the bytes lie across pages. */
		if (row_blame_memlock(row, ENOBUFS, TO_USER,
				      BUFFER + 2 * (uint64_t)sysconf(_SC_PAGESIZE),
				      "sending 64 KiB without a copy"))
			return;
		row_no(row, ENOBUFS, "The kernel copied: it had no memory to tell when it is done.");
		row_remedy(row, "sysctl net.core.optmem_max=131072.");
		return;
	}
	poll_fd.fd = sockets[0];
	while ((left = evpl_zerocopy_reap(zerocopy)) > 0)
		poll(&poll_fd, 1, -1);
	if (left)
		row_no(row, -left, "The socket doesn't tell when it is done: %s.", strerror(-left));
	else
		row_yes(row, "64 KiB went over the loopback device.");
}

static void explain_xdp_socket(struct row *row, int error)
{
	switch (error) {
	case EPERM:
		row_no(row, error, "AF_XDP sockets need CAP_NET_RAW.");
		row_remedy(row, "Run as root, or with AmbientCapabilities=CAP_NET_RAW in the unit.");
		break;
	case EAFNOSUPPORT:
		row_no(row, error, "This kernel has no AF_XDP.");
		row_remedy(row, "Use one with CONFIG_XDP_SOCKETS.");
		break;
	default:
		row_no(row, error, "There is no AF_XDP socket: %s.", strerror(error));
	}
}

void try_xdp(struct row *row, struct memory *memory)
{
	struct xdp_umem_reg umem = {
		.addr = (uintptr_t)memory->slab.base,
		.len = memory->slab.length,
		.chunk_size = 4096,
	};
	int fd = socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0);

	if (fd < 0)
		explain_xdp_socket(row, errno);
	else if (!setsockopt(fd, SOL_XDP, XDP_UMEM_REG, &umem, sizeof(umem)))
		row_yes(row, "A slab is a umem. No packets were sent.");
	else if ((errno != ENOBUFS && errno != ENOMEM) ||
		 !row_blame_memlock(row, errno, TO_USER, umem.len, "registering this slab"))
		row_no(row, errno, "A slab can't be a umem: %s.", strerror(errno));
}
