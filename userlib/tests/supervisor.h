/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_TESTS_SUPERVISOR_H
#define EVPLMEM_TESTS_SUPERVISOR_H

/*
 * A supervisor in a test: it keeps a client, which processes adopt one after the other. Each is
 * killed before the next one comes.
 */

#include <fcntl.h>
#include <linux/evpl.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>

#include "common.h"

struct supervisor {
	int client;	/* the descriptor that is kept */
	pid_t child;	/* the process that has adopted it, or 0 */
	int ready;	/* the child writes a byte to it when it has done its work */
};

static inline int supervisor_open(struct supervisor *supervisor)
{
	*supervisor = (struct supervisor){ 0 };
	supervisor->client = open("/dev/evpl", O_RDWR | O_CLOEXEC);
	return supervisor->client < 0 ? -errno : 0;
}

/* Adopts the client in this process. */
static inline int adopt_with(struct evpl_pool **pool, const struct supervisor *supervisor,
			     unsigned int flags)
{
	struct evpl_pool_config config = {
		.size = sizeof(config),
		.flags = flags,
		.buffer_size = BUFFER,
		.slab_size_max = SLAB,
	};
	int fd = dup(supervisor->client), err;

	err = evpl_pool_adopt(pool, fd, &config);
	if (err)
		close(fd);
	return err;
}

static inline int adopt(struct evpl_pool **pool, const struct supervisor *supervisor)
{
	return adopt_with(pool, supervisor, 0);
}

/* Starts a child that adopts the client and calls @work, which returns 0. Returns that, or an error. */
static inline int start(struct supervisor *supervisor, int (*work)(struct evpl_pool *pool, void *arg),
			void *arg)
{
	struct evpl_pool *pool;
	char result = 1;
	int ready[2];

	if (pipe(ready))
		return -1;
	supervisor->child = fork();
	if (!supervisor->child) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(ready[0]);
		result = (char)adopt(&pool, supervisor);
		if (result)
			fprintf(stderr, "# %s\n", evpl_last_error());
		else
			result = (char)work(pool, arg);
		if (write(ready[1], &result, 1) == 1)
			pause();
		_exit(1);
	}
	close(ready[1]);
	if (supervisor->child < 0 || read(ready[0], &result, 1) != 1)
		result = -1;
	close(ready[0]);
	return result;
}

/* Kills the child. Returns whether it died of that. */
static inline bool stop(struct supervisor *supervisor)
{
	int status = 0;
	bool killed;

	kill(supervisor->child, SIGKILL);
	killed = waitpid(supervisor->child, &status, 0) == supervisor->child &&
		 WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
	supervisor->child = 0;
	return killed;
}

/* Keeps a new slice of @length bytes, all of them @byte, by a context of its own. */
static inline int keep_bytes(struct evpl_pool *pool, const char *name, int byte,
			     unsigned int length)
{
	struct evpl_iovec iovec;
	struct evpl *evpl;
	int ret;

	ret = evpl_create(&evpl, pool, NULL);
	if (ret)
		return ret;
	ret = evpl_iovec_alloc(evpl, length, 0, 1, &iovec);
	if (ret == 1) {
		memset(iovec.data, byte, length);
		ret = evpl_pool_keep(pool, name, &iovec);
		evpl_iovec_release(&iovec);
	}
	evpl_destroy(evpl);
	return ret;
}

/* Whether a slice has nothing but @byte in it. */
static inline bool has_bytes(const struct evpl_iovec *iovec, int byte)
{
	const unsigned char *bytes = iovec->data;
	unsigned int i;

	for (i = 0; i < iovec->length; i++)
		if (bytes[i] != byte)
			return false;
	return true;
}

/* Whether the root has these bytes. Leaves no reference. */
static inline bool kept_has(struct evpl_pool *pool, const char *name, int byte, unsigned int length)
{
	struct evpl_iovec iovec;
	bool right;

	if (evpl_pool_kept(pool, name, &iovec))
		return false;
	right = iovec.length == length && has_bytes(&iovec, byte);
	evpl_iovec_release(&iovec);
	return right;
}

/* The slabs that the client has, as the kernel tells; or -1. */
static inline int count_slabs(const struct supervisor *supervisor)
{
	struct evpl_slab_next next = { .size = sizeof(next) };
	int n = 0;

	while (!ioctl(supervisor->client, EVPL_SLAB_NEXT, &next)) {
		next.offset = next.out_offset + next.out_length;
		n++;
	}
	return errno == ENOENT ? n : -1;
}

#endif /* EVPLMEM_TESTS_SUPERVISOR_H */
