// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * A pipeline of three processes: the first makes text, the second changes it in place, and
 * the third counts letters. The text is never copied. Each process sees the buffers that
 * were sent to it, and no others.
 *
 *	cc pipeline.c $(pkg-config --cflags --libs libevplmem)
 */
#include <ctype.h>
#include <evplmem.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PIECES = 500, LENGTH = 10000 };

static struct evpl_pool *pool;

static void check(int ret, const char *what)
{
	if (ret >= 0)
		return;
	fprintf(stderr, "%s: %s. %s\n", what, strerror(-ret), evpl_last_error());
	exit(1);
}

/* Starts the next stage in another process, and returns the channel to it. */
static struct evpl_channel *next_is(int (*stage)(int fd))
{
	struct evpl_channel *channel;
	int peer;

	check(evpl_channel_create(&channel, pool, 16, EVPL_CHANNEL_BLOCKING, &peer), "channel");
	if (!fork()) {
		/* While the child has a copy of this end, it wouldn't see the end closed. */
		evpl_channel_close(channel);
		exit(stage(peer));
	}
	close(peer);
	return channel;
}

/* Ends a stage, and waits for the next one. Returns 0 if both ended well. */
static int finish(struct evpl_channel *next)
{
	int status = 0;

	if (next) {
		evpl_channel_close(next);
		wait(&status);
	}
	return evpl_pool_close(pool) || status;
}

static struct evpl_channel *receive_from(int fd)
{
	struct evpl_channel *channel;

	check(evpl_pool_open(&pool, NULL), "open");
	check(evpl_channel_bind(&channel, pool, fd, EVPL_CHANNEL_BLOCKING), "bind");
	return channel;
}

static int count(int fd)
{
	struct evpl_channel *from = receive_from(fd);
	struct evpl_message message;
	long letters = 0;

	while (evpl_channel_recv(from, &message, 1) > 0) {
		const char *text = message.iovec.data;

		for (unsigned int i = 0; i < message.iovec.length; i++)
			letters += text[i] == 'X';
		evpl_iovec_release(&message.iovec);
	}
	evpl_channel_close(from);
	printf("%ld of %ld letters came through\n", letters, (long)PIECES * LENGTH);
	return finish(NULL) || letters != (long)PIECES * LENGTH;
}

static int change(int fd)
{
	struct evpl_channel *from = receive_from(fd), *to = next_is(count);
	struct evpl_message message;

	while (evpl_channel_recv(from, &message, 1) > 0) {
		char *text = message.iovec.data;

		for (unsigned int i = 0; i < message.iovec.length; i++)
			text[i] = (char)toupper(text[i]);
		/* The next stage may only read the text. */
		message.flags = 0;
		check(evpl_channel_send(to, &message, 1), "send on");
	}
	evpl_channel_close(from);
	return finish(to);
}

int main(void)
{
	struct evpl_message message = { .flags = EVPL_MESSAGE_WRITE };
	struct evpl_channel *to;
	struct evpl *evpl;

	check(evpl_pool_open(&pool, NULL), "open");
	to = next_is(change);
	check(evpl_create(&evpl, pool, NULL), "create");
	for (int i = 0; i < PIECES; i++) {
		check(evpl_iovec_alloc(evpl, LENGTH, 1, 1, &message.iovec), "alloc");
		memset(message.iovec.data, 'x', LENGTH);
		check(evpl_channel_send(to, &message, 1), "send");
	}
	evpl_destroy(evpl);
	return finish(to);
}
