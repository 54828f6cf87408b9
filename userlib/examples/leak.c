// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * leak: a program with a leak, to look for with evplctl(1).
 *
 *	EVPL_TRACE=1 ./leak --wait & evplctl sites $!
 *
 * It handles messages, and remembers the headers of the last ones. A header is a small slice of its
 * message, so it keeps the message's buffer. When the log of headers is full, remember() forgets to
 * release the header that it replaces.
 */
#include <evplmem.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define MESSAGES	1000
#define MESSAGE		(64 * 1024)
#define HEADER		64
#define REMEMBERED	10

static struct evpl_iovec headers[REMEMBERED];

static int remember(const struct evpl_iovec *message, unsigned int number)
{
	struct evpl_iovec *header = &headers[number % REMEMBERED];
	int err;

	/* This is the leak: evpl_iovec_release(header) belongs here. */
	err = evpl_iovec_clone_segment(header, message, 0, HEADER);	/* taken here */
	if (err)
		fprintf(stderr, "The header of message %u can't be kept: %s\n", number,
			strerror(-err));
	return err;
}

static int handle(struct evpl *evpl, unsigned int number)
{
	struct evpl_iovec message;
	int ret;

	ret = evpl_iovec_alloc(evpl, MESSAGE, 0, 1, &message);
	if (ret < 0) {
		fprintf(stderr, "There is no memory for message %u: %s\n", number, strerror(-ret));
		return ret;
	}
	memset(message.data, (int)number, message.length);
	ret = remember(&message, number);
	evpl_iovec_release(&message);
	return ret;
}

int main(int argc, char **argv)
{
	struct evpl_pool *pool;
	struct evpl *evpl;
	unsigned int i;
	int err;

	if (evpl_pool_open(&pool, NULL) < 0) {
		fprintf(stderr, "%s\n", evpl_last_error());
		return 1;
	}
	err = evpl_create(&evpl, pool, NULL);
	for (i = 0; !err && i < MESSAGES; i++)
		err = handle(evpl, i);
	if (err)
		return 1;
	if (argc > 1 && !strcmp(argv[1], "--wait")) {
		puts("waiting");
		fflush(stdout);
		while (read(STDIN_FILENO, &(char){ 0 }, 1) > 0)
			;
	}
	evpl_iovecs_release(headers, REMEMBERED);
	evpl_destroy(evpl);
	err = evpl_pool_close(pool);
	printf("The pool is closed: %s\n", err ? strerror(-err) : "no leak");
	return 0;
}
