// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Copies files by an io_uring, past the page cache, in memory that the ring has registered. Each
 * line of the standard input names a source, a target and a number of bytes, which must be a
 * multiple of 4096. The memory is registered once, and not for each file:
 *
 *	echo '/data/a /data/b 1048576' | copy
 *
 *	cc copy.c $(pkg-config --cflags --libs libevplmem-uring libevplmem)
 */
#include <errno.h>
#include <evplmem-uring.h>
#include <fcntl.h>
#include <inttypes.h>
#include <liburing.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PIECES = 8, LENGTH = 1 << 20, BLOCK = 4096 };

/* A part of a file that is read, and then written. */
struct piece {
	struct evpl_iovec iovec;
	uint64_t offset;
	bool is_read;
};

struct copy {
	int from, to;
	uint64_t next, bytes;
	unsigned int registered, plain;
	int error;
};

static struct io_uring ring;
static struct evpl_uring *uring;

static void check(int ret, const char *what)
{
	if (ret >= 0)
		return;
	fprintf(stderr, "copy: %s: %s. %s\n", what, strerror(-ret), evpl_last_error());
	exit(1);
}

static void count(struct copy *copy, struct io_uring_sqe *sqe, struct piece *piece, int registered)
{
	io_uring_sqe_set_data(sqe, piece);
	if (registered)
		copy->registered++;
	else
		copy->plain++;
}

/* Starts to read the next piece. Returns whether there is one. */
static bool start(struct copy *copy, struct piece *piece)
{
	struct io_uring_sqe *sqe;

	if (copy->error || copy->next == copy->bytes)
		return false;
	piece->offset = copy->next;
	piece->iovec.length = LENGTH;
	if (copy->bytes - copy->next < LENGTH)
		piece->iovec.length = (unsigned int)(copy->bytes - copy->next);
	piece->is_read = false;
	copy->next += piece->iovec.length;
	sqe = io_uring_get_sqe(&ring);
	count(copy, sqe, piece,
	      evpl_uring_prep_read(uring, sqe, copy->from, &piece->iovec, piece->offset));
	return true;
}

/* A piece was read or written. Returns whether a request for it is under way again. */
static bool advance(struct copy *copy, struct piece *piece, int result)
{
	struct io_uring_sqe *sqe;

	if (result != (int)piece->iovec.length) {
		copy->error = result < 0 ? result : -EIO;
		return false;
	}
	if (piece->is_read)
		return start(copy, piece);
	piece->is_read = true;
	sqe = io_uring_get_sqe(&ring);
	count(copy, sqe, piece,
	      evpl_uring_prep_write(uring, sqe, copy->to, &piece->iovec, piece->offset));
	return true;
}

static void run(struct copy *copy, struct piece *pieces)
{
	unsigned int under_way = 0, i;
	struct io_uring_cqe *cqe;
	struct piece *piece;
	int result;

	for (i = 0; i < PIECES; i++)
		under_way += start(copy, &pieces[i]);
	while (under_way) {
		check(io_uring_submit(&ring), "submit");
		check(io_uring_wait_cqe(&ring, &cqe), "wait");
		piece = io_uring_cqe_get_data(cqe);
		result = cqe->res;
		io_uring_cqe_seen(&ring, cqe);
		if (!advance(copy, piece, result))
			under_way--;
	}
	if (!copy->error && fsync(copy->to))
		copy->error = -errno;
}

int main(void)
{
	struct piece pieces[PIECES] = { 0 };
	char from[256], to[256], line[600];
	struct evpl_pool *pool;
	const char *notice;
	struct evpl *evpl;
	int i, ret = 0;

	check(evpl_pool_open(&pool, NULL), "pool");
	check(evpl_create(&evpl, pool, NULL), "context");
	check(io_uring_queue_init(PIECES, &ring, 0), "ring");
	check(evpl_uring_create(&uring, pool, &ring, 0, PIECES, EVPL_URING_NEW_TABLE), "table");
	for (i = 0; i < PIECES; i++)
		check(evpl_iovec_alloc(evpl, LENGTH, BLOCK, 1, &pieces[i].iovec), "memory");

	while (!ret && fgets(line, sizeof(line), stdin)) {
		struct copy copy = { 0 };

		if (sscanf(line, "%255s %255s %" SCNu64, from, to, &copy.bytes) != 3 ||
		    copy.bytes % BLOCK) {
			fputs("copy: A line is: SOURCE TARGET BYTES, in multiples of 4096.\n", stderr);
			ret = 64;
			break;
		}
		copy.from = open(from, O_RDONLY | O_DIRECT | O_CLOEXEC);
		copy.to = open(to, O_WRONLY | O_CREAT | O_DIRECT | O_CLOEXEC, 0666);
		if (copy.from < 0 || copy.to < 0)
			copy.error = -errno;
		else
			run(&copy, pieces);
		if (copy.error) {
			fprintf(stderr, "copy: %s to %s: %s\n", from, to, strerror(-copy.error));
			ret = 1;
		} else {
			printf("%" PRIu64 " bytes: %u requests in registered buffers, %u in others\n",
			       copy.bytes, copy.registered, copy.plain);
			fflush(stdout);
		}
		close(copy.from);
		close(copy.to);
	}
	notice = evpl_uring_notice(uring);
	if (notice)
		fprintf(stderr, "copy: %s\n", notice);

	for (i = 0; i < PIECES; i++)
		evpl_iovec_release(&pieces[i].iovec);
	evpl_uring_destroy(uring);
	io_uring_queue_exit(&ring);
	evpl_destroy(evpl);
	if (evpl_pool_close(pool))
		ret = 1;
	return ret;
}
