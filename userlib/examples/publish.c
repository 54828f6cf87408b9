// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * A publisher, and subscribers that see each message without a copy. Subscribers can read
 * a message, and can't write to it. When the last of them has released it, its memory is the
 * publisher's again. A subscriber that is killed holds nothing up.
 *
 *	cc publish.c $(pkg-config --cflags --libs libevplmem)
 *	./a.out			by channels
 *	./a.out --lane		by lanes, which carry most messages without a system call
 *
 * With lanes, a subscriber goes on seeing the memory of the messages that it has released. So the
 * publisher's pool has nothing in it but what all subscribers may see.
 */
#include <evplmem.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SUBSCRIBERS = 3, MESSAGES = 1000, LENGTH = 4096 };

static struct evpl_pool_config config = EVPL_POOL_CONFIG_INIT;
static unsigned int flags = EVPL_CHANNEL_BLOCKING;

static void check(int ret, const char *what)
{
	if (ret >= 0)
		return;
	fprintf(stderr, "%s: %s. %s\n", what, strerror(-ret), evpl_last_error());
	exit(1);
}

/* A subscriber: another process, with a pool of its own. */
static int subscribe(int fd)
{
	struct evpl_message messages[16];
	struct evpl_channel *channel;
	struct evpl_pool *pool;
	int n, seen = 0;

	check(evpl_pool_open(&pool, &config), "open");
	check(evpl_channel_bind(&channel, pool, fd, flags), "bind");
	while ((n = evpl_channel_recv(channel, messages, 16)) > 0) {
		for (int i = 0; i < n; i++) {
			const char *text = messages[i].iovec.data;

			seen += atoi(text) == (int)messages[i].cookie;
			evpl_iovec_release(&messages[i].iovec);
		}
	}
	evpl_channel_close(channel);
	printf("subscriber %d saw %d messages\n", (int)getpid(), seen);
	return evpl_pool_close(pool) || seen != MESSAGES;
}

int main(int argc, char **argv)
{
	struct evpl_channel *channels[SUBSCRIBERS];
	struct evpl_message message = { .flags = 0 };
	int peer, status, failed = 0;
	struct evpl_pool *pool;
	struct evpl *evpl;

	if (argc > 1 && !strcmp(argv[1], "--lane")) {
		flags |= EVPL_CHANNEL_LANE;
		config.flags = EVPL_POOL_ZEROS;		/* which lanes need */
	}
	check(evpl_pool_open(&pool, &config), "open");
	check(evpl_create(&evpl, pool, NULL), "create");
	for (int i = 0; i < SUBSCRIBERS; i++) {
		check(evpl_channel_create(&channels[i], pool, 0, flags, &peer), "channel");
		if (!fork()) {
			/* While the child has copies of these ends, it wouldn't see them closed. */
			for (int j = 0; j <= i; j++)
				evpl_channel_close(channels[j]);
			exit(subscribe(peer));
		}
		close(peer);
	}

	for (int n = 0; n < MESSAGES; n++) {
		check(evpl_iovec_alloc(evpl, LENGTH, 64, 1, &message.iovec), "alloc");
		snprintf(message.iovec.data, LENGTH, "%d", n);
		message.cookie = (uint64_t)n;
		for (int i = 0; i < SUBSCRIBERS; i++) {
			evpl_iovec_addref(&message.iovec);
			if (evpl_channel_send(channels[i], &message, 1) < 0)
				evpl_iovec_release(&message.iovec);
		}
		evpl_iovec_release(&message.iovec);
	}

	for (int i = 0; i < SUBSCRIBERS; i++)
		evpl_channel_close(channels[i]);
	for (int i = 0; i < SUBSCRIBERS; i++) {
		wait(&status);
		failed |= status;
	}
	evpl_destroy(evpl);
	return evpl_pool_close(pool) || failed;
}
