// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Sockets that send without a copy (MSG_ZEROCOPY, see
 * Documentation/networking/msg_zerocopy.rst). The kernel numbers these sends, and reports on
 * the socket's error queue which of them are complete. Until then each send keeps references
 * on the buffers that it sends.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <linux/errqueue.h>

#include "cancel.h"
#include "entry.h"
#include "foreign.h"

/* How many iovecs fit an array on the stack. */
#define FEW_IOVECS	16

/**
 * struct sent - a send that isn't complete
 * @next: the send after it
 * @number: the kernel's number for it
 * @niov: how many iovecs it has
 * @iovecs: the iovecs, each a reference
 */
struct sent {
	struct sent *next;
	uint32_t number;
	int niov;
	struct evpl_iovec iovecs[];
};

/**
 * struct evpl_zerocopy - a socket that sends without a copy
 * @generation: the generation (fork.h) of the process that made it
 * @fd: the library's own descriptor of the socket: the caller may close its descriptor, whose
 *	number another file may then get
 * @number: the kernel's number for the next send
 * @count: how many sends aren't complete
 * @first: the first of these, in the order of their numbers
 * @end: where the next one is linked
 */
struct evpl_zerocopy {
	uint32_t generation;
	int fd;
	uint32_t number;
	int count;
	struct sent *first;
	struct sent **end;
};

/*
 * The kernel numbers a socket's sends from the socket's beginning, and doesn't say which number is
 * next. So nothing may have been sent with MSG_ZEROCOPY before. SO_ZEROCOPY tells: only the library
 * sets this option, and leaves it set once something was sent.
 */
static int enable(int fd)
{
	socklen_t size = sizeof(int);
	const int one = 1;
	int enabled;

	if (getsockopt(fd, SOL_SOCKET, SO_ZEROCOPY, &enabled, &size))
		return -errno;
	if (enabled)
		return -EBUSY;
	return setsockopt(fd, SOL_SOCKET, SO_ZEROCOPY, &one, sizeof(one)) ? -errno : 0;
}

static void end(struct evpl_zerocopy *zerocopy)
{
	NO_CANCELLATION;

	if (zerocopy->fd >= 0)
		close(zerocopy->fd);
	free(zerocopy);
}

int evplmem_zerocopy_create(struct evpl_zerocopy **r_zerocopy, int fd)
{
	struct evpl_zerocopy *zerocopy;
	int err;

	zerocopy = malloc(sizeof(*zerocopy));
	if (!zerocopy)
		return -ENOMEM;
	*zerocopy = (struct evpl_zerocopy){
		.generation = fork_generation,
		.fd = fcntl(fd, F_DUPFD_CLOEXEC, 0),
		.end = &zerocopy->first,
	};
	err = zerocopy->fd < 0 ? -errno : enable(zerocopy->fd);
	if (err) {
		end(zerocopy);
		return err;
	}
	*r_zerocopy = zerocopy;
	return 0;
}

/*
 * Queues a send of which the kernel took @taken bytes. It references the iovecs of these alone, by
 * clones: the sites of equal iovecs aren't told apart (sites.h).
 */
static void keep(struct evpl_zerocopy *zerocopy, struct sent *sent, size_t taken)
{
	int i;

	for (i = 0; i < sent->niov && taken; i++) {
		taken -= taken < sent->iovecs[i].length ? taken : sent->iovecs[i].length;
		evplmem_iovec_clone(&sent->iovecs[i], &sent->iovecs[i]);
	}
	sent->niov = i;
	sent->next = NULL;
	sent->number = zerocopy->number++;
	*zerocopy->end = sent;
	zerocopy->end = &sent->next;
	zerocopy->count++;
}

ssize_t evplmem_zerocopy_send(struct evpl_zerocopy *zerocopy, const struct evpl_iovec *iovecs,
			      int niov, int flags)
{
	struct iovec few[FEW_IOVECS], *iov = few;
	struct sent *sent = NULL;
	bool copy = false;
	size_t length = 0;
	struct msghdr msg;
	NO_CANCELLATION;
	ssize_t ret;
	int i;

	if (is_inherited(zerocopy->generation))
		return -EPERM;
	if (niov < 0 || niov > IOV_MAX)
		return -EINVAL;
	for (i = 0; i < niov; i++) {
		if (iovec_is_inherited(&iovecs[i]))
			return -EPERM;
		length += iovecs[i].length;
		/* A lease for the CPU can't be pinned, so leased memory is sent as a copy. */
		copy |= !iovec_slab(&iovecs[i]) && !iovec_is_foreign(&iovecs[i]);
	}

	ret = -ENOMEM;
	if (niov > FEW_IOVECS) {
		iov = malloc((size_t)niov * sizeof(*iov));
		if (!iov)
			return ret;
	}
	evpl_iovec_to_iovec(iov, iovecs, niov);
	msg = (struct msghdr){ .msg_iov = iov, .msg_iovlen = (size_t)niov };
	if (!copy && length) {
		sent = malloc(sizeof(*sent) + (size_t)niov * sizeof(*iovecs));
		if (!sent)
			goto free_iov;
		sent->niov = niov;
		memcpy(sent->iovecs, iovecs, (size_t)niov * sizeof(*iovecs));
		ret = sendmsg(zerocopy->fd, &msg, flags | MSG_ZEROCOPY);
		if (ret > 0) {
			keep(zerocopy, sent, (size_t)ret);
			goto free_iov;
		}
		free(sent);
	}
	/* ENOBUFS: no memory for the completion (net.core.optmem_max). Send a copy instead. */
	if (!sent || (ret < 0 && errno == ENOBUFS))
		ret = sendmsg(zerocopy->fd, &msg, flags);
	if (ret < 0)
		ret = -errno;
free_iov:
	if (iov != few)
		free(iov);
	return ret;
}

/* Releases the sends from one number to another. The numbers may have wrapped around. */
static void let_go(struct evpl_zerocopy *zerocopy, uint32_t from, uint32_t to)
{
	struct sent **link = &zerocopy->first, *sent;

	while ((sent = *link)) {
		if (sent->number - from > to - from) {
			link = &sent->next;
			continue;
		}
		*link = sent->next;
		evplmem_iovecs_release(sent->iovecs, sent->niov);
		free(sent);
		zerocopy->count--;
	}
	zerocopy->end = link;
}

int evplmem_zerocopy_reap(struct evpl_zerocopy *zerocopy)
{
	union {
		struct cmsghdr align;
		char bytes[256];
	} control;
	struct sock_extended_err error;
	struct cmsghdr *cmsg;
	struct msghdr msg;
	NO_CANCELLATION;

	if (is_inherited(zerocopy->generation))
		return -EPERM;
	while (zerocopy->count) {
		msg = (struct msghdr){
			.msg_control = &control,
			.msg_controllen = sizeof(control),
		};
		if (recvmsg(zerocopy->fd, &msg, MSG_ERRQUEUE | MSG_DONTWAIT) < 0) {
			if (errno == EAGAIN)
				break;
			return -errno;
		}
		for (cmsg = CMSG_FIRSTHDR(&msg); cmsg; cmsg = CMSG_NXTHDR(&msg, cmsg)) {
			if (cmsg->cmsg_len < CMSG_LEN(sizeof(error)))
				continue;
			memcpy(&error, CMSG_DATA(cmsg), sizeof(error));
			if (error.ee_origin == SO_EE_ORIGIN_ZEROCOPY && !error.ee_errno)
				let_go(zerocopy, error.ee_info, error.ee_data);
		}
	}
	return zerocopy->count;
}

/* In the child of fork(2): frees the copy, and closes the child's descriptor. Releases nothing. */
static void end_inherited(struct evpl_zerocopy *zerocopy)
{
	struct sent *sent;

	while ((sent = zerocopy->first)) {
		zerocopy->first = sent->next;
		free(sent);
	}
	end(zerocopy);
}

int evplmem_zerocopy_destroy(struct evpl_zerocopy *zerocopy)
{
	const int zero = 0;
	int ret;

	if (!zerocopy)
		return 0;
	if (is_inherited(zerocopy->generation)) {
		end_inherited(zerocopy);
		return 0;
	}
	ret = evplmem_zerocopy_reap(zerocopy);
	if (ret)
		return ret < 0 ? ret : -EBUSY;
	if (!zerocopy->number)
		setsockopt(zerocopy->fd, SOL_SOCKET, SO_ZEROCOPY, &zero, sizeof(zero));
	end(zerocopy);
	return 0;
}

int evplmem_zerocopy_abort(struct evpl_zerocopy *zerocopy)
{
	const struct sockaddr nobody = { .sa_family = AF_UNSPEC };
	NO_CANCELLATION;

	/* This fails if the connection is gone already, and nothing is left to send then. */
	if (zerocopy && !is_inherited(zerocopy->generation))
		connect(zerocopy->fd, &nobody, sizeof(nobody));
	return evplmem_zerocopy_destroy(zerocopy);
}
