// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * A cache whose contents outlive it. Its values are roots of a pool, and systemd keeps the descriptor
 * of the pool. If the cache is killed, at any instruction, the next one serves the old values at
 * once. A value that was being replaced then is the old one or the new one.
 *
 *	cc cache.c $(pkg-config --cflags --libs libevplmem libsystemd)
 *	./a.out SOCKET MIB	serves the clients that connect to SOCKET, in so much memory
 *	./a.out --check		plays the part of systemd: kills the cache, and starts it again
 *
 * cache.service is the unit.
 *
 * A client sends lines. A name has 1 to 63 bytes without spaces, a value 1 byte to 1 MiB.
 *
 *	SET name length		and then the value; the answer is OK
 *	GET name		the answer is VALUE length, and then the value; or NONE
 *	DEL name		the answer is OK or NONE
 */
#include <errno.h>
#include <evplmem.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

enum {
	VALUE_MAX = 1 << 20,	/* a buffer of the pool */
	LINE = 100,
	CLIENTS = 32,
};

/* The name that the descriptor has with systemd. */
#define STORED "cache-pool"

static void check(int ret, const char *what)
{
	if (ret >= 0)
		return;
	fprintf(stderr, "%s: %s. %s\n", what, strerror(-ret), evpl_last_error());
	exit(1);
}

/* The socket: whole lines and whole values. */

static bool read_all(int fd, void *data, size_t length)
{
	ssize_t n;

	for (; length; length -= (size_t)n, data = (char *)data + n) {
		n = read(fd, data, length);
		if (n <= 0)
			return false;
	}
	return true;
}

static bool write_all(int fd, const void *data, size_t length)
{
	ssize_t n;

	for (; length; length -= (size_t)n, data = (const char *)data + n) {
		n = send(fd, data, length, MSG_NOSIGNAL);
		if (n <= 0)
			return false;
	}
	return true;
}

/* Reads a line, without what ends it. It asks for single bytes, as a value may follow. */
static bool read_line(int fd, char line[LINE])
{
	int n;

	for (n = 0; n < LINE && read_all(fd, &line[n], 1); n++)
		if (line[n] == '\n') {
			line[n] = '\0';
			return true;
		}
	return false;
}

static bool answer(int fd, const char *line)
{
	return write_all(fd, line, strlen(line));
}

/* The cache. */

/* Makes room: drops some value. Returns whether there was one. */
static bool evict(struct evpl_pool *pool)
{
	char name[EVPL_NAME_MAX + 1];
	static uint64_t cursor;

	if (evpl_pool_list(pool, &cursor, name) != 1) {
		cursor = 0;
		if (evpl_pool_list(pool, &cursor, name) != 1)
			return false;
	}
	return evpl_pool_forget(pool, name) == 0;
}

/*
 * The value is whole before it gets its name. From then on it doesn't change: whoever dies, a
 * successor finds all of it.
 */
static bool set(struct evpl_pool *pool, struct evpl *evpl, int fd, const char *name,
		unsigned int length)
{
	struct evpl_iovec value;
	bool ok;
	int ret;

	while ((ret = evpl_iovec_alloc(evpl, length, 0, 1, &value)) == -ENOMEM && evict(pool))
		;
	if (ret < 0)
		return false;
	ok = read_all(fd, value.data, length);
	while (ok && (ret = evpl_pool_keep(pool, name, &value)) == -ENOMEM && evict(pool))
		;
	evpl_iovec_release(&value);
	return ok && answer(fd, ret < 0 ? "ERROR\n" : "OK\n");
}

static bool get(struct evpl_pool *pool, int fd, const char *name)
{
	struct evpl_iovec value;
	char line[LINE];
	bool ok;

	if (evpl_pool_kept(pool, name, &value))
		return answer(fd, "NONE\n");
	snprintf(line, sizeof(line), "VALUE %u\n", value.length);
	ok = answer(fd, line) && write_all(fd, value.data, value.length);
	evpl_iovec_release(&value);
	return ok;
}

/* Serves one request. Returns whether the client may send another one. */
static bool serve(struct evpl_pool *pool, struct evpl *evpl, int fd)
{
	char line[LINE], name[LINE];
	unsigned int length;

	if (!read_line(fd, line))
		return false;
	if (sscanf(line, "SET %99s %u", name, &length) == 2 && strlen(name) <= EVPL_NAME_MAX &&
	    length && length <= VALUE_MAX)
		return set(pool, evpl, fd, name, length);
	if (sscanf(line, "GET %99s", name) == 1)
		return get(pool, fd, name);
	if (sscanf(line, "DEL %99s", name) == 1)
		return answer(fd, evpl_pool_forget(pool, name) ? "NONE\n" : "OK\n");
	answer(fd, "ERROR\n");
	return false;
}

/* The descriptor that systemd has kept, or -1. */
static int find_stored(void)
{
	char **names = NULL;
	int n = sd_listen_fds_with_names(1, &names), fd = -1, i;

	check(n, "sd_listen_fds_with_names");
	for (i = 0; i < n; i++) {
		if (!strcmp(names[i], STORED) && fd < 0)
			fd = SD_LISTEN_FDS_START + i;
		free(names[i]);
	}
	free(names);
	return fd;
}

/* The journal has the line. */
static void report(struct evpl_pool *pool)
{
	struct evpl_pool_stats stats = EVPL_POOL_STATS_INIT;

	check(evpl_pool_stats(pool, &stats), "the statistics");
	fprintf(stderr, "adopted: %lu values\n", (unsigned long)stats.roots);
}

/* Opens the pool, or the one of the cache before this one. */
static struct evpl_pool *open_pool(uint64_t bytes)
{
	struct evpl_pool_config config = EVPL_POOL_CONFIG_INIT;
	struct evpl_pool *pool;
	int fd = find_stored(), err;

	config.buffer_size = VALUE_MAX;
	config.max_bytes = bytes;
	if (fd >= 0) {
		err = evpl_pool_adopt(&pool, fd, &config);
		if (!err) {
			report(pool);
			return pool;
		}
		/* The old values are lost. That is no reason not to serve. */
		fprintf(stderr, "adopt: %s. %s\n", strerror(-err), evpl_last_error());
		sd_notify(0, "FDSTOREREMOVE=1\nFDNAME=" STORED);
		close(fd);
	}
	check(evpl_pool_open(&pool, &config), "open");
	fd = evpl_pool_fd(pool);
	check(fd, "the descriptor");
	check(sd_pid_notify_with_fds(0, 0, "FDSTORE=1\nFDNAME=" STORED, &fd, 1), "FDSTORE");
	return pool;
}

static struct sockaddr_un address_of(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	if (strlen(path) >= sizeof(address.sun_path))
		check(-ENAMETOOLONG, path);
	strcpy(address.sun_path, path);
	return address;
}

/* The clients take turns, a request each. One that doesn't send all of a request loses its turn. */
static void run(const char *path, uint64_t bytes)
{
	const struct timeval patience = { .tv_sec = 5 };
	struct sockaddr_un address = address_of(path);
	struct pollfd fds[1 + CLIENTS];
	struct evpl_pool *pool = open_pool(bytes);
	struct evpl *evpl;
	int n = 1, i, fd;

	check(evpl_create(&evpl, pool, NULL), "context");
	fds[0].fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	fds[0].events = POLLIN;
	unlink(path);
	if (bind(fds[0].fd, (struct sockaddr *)&address, sizeof(address)) ||
	    listen(fds[0].fd, CLIENTS))
		check(-errno, path);
	sd_notify(0, "READY=1");
	for (;;) {
		fds[0].events = n <= CLIENTS ? POLLIN : 0;
		if (poll(fds, (nfds_t)n, -1) < 0)
			check(-errno, "poll");
		for (i = n - 1; i > 0; i--) {
			if (!fds[i].revents || serve(pool, evpl, fds[i].fd))
				continue;
			close(fds[i].fd);
			fds[i] = fds[--n];
		}
		fd = fds[0].revents & POLLIN ? accept(fds[0].fd, NULL, NULL) : -1;
		if (fd < 0)
			continue;
		setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
		setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
		fds[n++] = (struct pollfd){ .fd = fd, .events = POLLIN };
	}
}

/* The check: a supervisor, which does what systemd does, and a client. */

static struct supervisor {
	char directory[32], notify[64], socket[64];
	int from_cache;		/* where the messages of the cache come */
	int stored;		/* the descriptor that the cache has handed over, or -1 */
	pid_t cache;
} supervisor = { .directory = "/tmp/evpl-cache-XXXXXX", .stored = -1 };

/* Takes messages of the cache, and the descriptor that comes with one, until it is ready. */
static void wait_until_ready(void)
{
	char text[256] = "", control[CMSG_SPACE(sizeof(int))];
	struct iovec iov = { text, sizeof(text) - 1 };
	struct cmsghdr *header;
	ssize_t n;

	while (!strstr(text, "READY=1")) {
		struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control,
					  .msg_controllen = sizeof(control) };

		n = recvmsg(supervisor.from_cache, &message, MSG_CMSG_CLOEXEC);
		check(n < 0 ? -errno : 0, "a message of the cache");
		text[n] = '\0';
		header = CMSG_FIRSTHDR(&message);
		if (header && strstr(text, "FDSTORE=1"))
			memcpy(&supervisor.stored, CMSG_DATA(header), sizeof(int));
	}
}

static void start_cache(void)
{
	char pid[16];

	supervisor.cache = fork();
	if (supervisor.cache) {
		wait_until_ready();
		return;
	}
	setenv("NOTIFY_SOCKET", supervisor.notify, 1);
	if (supervisor.stored >= 0) {
		snprintf(pid, sizeof(pid), "%d", (int)getpid());
		setenv("LISTEN_PID", pid, 1);
		setenv("LISTEN_FDS", "1", 1);
		setenv("LISTEN_FDNAMES", STORED, 1);
		/* exec closes all descriptors but this one. */
		dup2(supervisor.stored, SD_LISTEN_FDS_START);
	}
	execl("/proc/self/exe", "cache", supervisor.socket, "64", NULL);
	_exit(1);
}

static void kill_cache(void)
{
	kill(supervisor.cache, SIGKILL);
	waitpid(supervisor.cache, NULL, 0);
}

static void start_supervisor(void)
{
	struct sockaddr_un address;

	if (!mkdtemp(supervisor.directory))
		check(-errno, supervisor.directory);
	snprintf(supervisor.notify, sizeof(supervisor.notify), "%s/notify", supervisor.directory);
	snprintf(supervisor.socket, sizeof(supervisor.socket), "%s/socket", supervisor.directory);
	supervisor.from_cache = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	address = address_of(supervisor.notify);
	if (bind(supervisor.from_cache, (struct sockaddr *)&address, sizeof(address)))
		check(-errno, supervisor.notify);
}

static int connect_client(void)
{
	struct sockaddr_un address = address_of(supervisor.socket);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (connect(fd, (struct sockaddr *)&address, sizeof(address)))
		check(-errno, supervisor.socket);
	return fd;
}

/* Value number @n of a name: that many bytes, which follow from both. */
static void make_value(char *value, char name, unsigned int n)
{
	unsigned int i;

	for (i = 0; i < n; i++)
		value[i] = (char)(name + n + i * 7);
}

static void want(bool right, const char *what)
{
	if (right)
		return;
	fprintf(stderr, "%s: no\n", what);
	exit(1);
}

static void set_value(int fd, char name, unsigned int n)
{
	static char value[VALUE_MAX];
	char line[LINE];

	make_value(value, name, n);
	snprintf(line, sizeof(line), "SET %c %u\n", name, n);
	want(answer(fd, line) && write_all(fd, value, n) && read_line(fd, line) &&
	     !strcmp(line, "OK"), "a value is set");
}

/* Whether the cache has value number @n; 0 stands for none. */
static bool has_value(int fd, char name, unsigned int n)
{
	static char value[VALUE_MAX], expected[VALUE_MAX];
	char line[LINE];
	unsigned int length;

	snprintf(line, sizeof(line), "GET %c\n", name);
	if (!answer(fd, line) || !read_line(fd, line))
		return false;
	if (sscanf(line, "VALUE %u", &length) != 1)
		return !n && !strcmp(line, "NONE");
	if (length > VALUE_MAX || !read_all(fd, value, length))
		return false;
	make_value(expected, name, n);
	return length == n && !memcmp(value, expected, n);
}

static int check_cache(void)
{
	char name, line[LINE];
	unsigned int round;
	int fd;

	start_supervisor();
	start_cache();
	want(supervisor.stored >= 0, "the cache stores its descriptor");
	for (round = 1; round <= 4; round++) {
		fd = connect_client();
		for (name = 'a'; name <= 'z'; name++)
			if (name != 'm')
				set_value(fd, name, 1000 * round + (unsigned int)name);
		set_value(fd, 'm', VALUE_MAX);
		want(answer(fd, "DEL b\n") && read_line(fd, line) && !strcmp(line, "OK"),
		     "a value is deleted");
		/* The cache is killed while it reads a new value. */
		want(answer(fd, "SET c 1000\nonly a part of it"), "a half request");
		kill_cache();
		close(fd);

		start_cache();
		fd = connect_client();
		for (name = 'a'; name <= 'z'; name++)
			want(has_value(fd, name, name == 'b' ? 0 : name == 'm' ? VALUE_MAX :
				       1000 * round + (unsigned int)name), "the old value");
		/* More than there is memory for: some of the values go. */
		for (name = 'A'; round == 3 && name <= 'Z'; name++)
			set_value(fd, name, VALUE_MAX);
		for (name = 'A'; round == 3 && name <= 'Z'; name++)
			set_value(fd, (char)(name + 'a' - 'A'), VALUE_MAX);
		close(fd);
	}
	kill_cache();
	unlink(supervisor.socket);
	unlink(supervisor.notify);
	rmdir(supervisor.directory);
	printf("A cache that was killed %u times has served its old values.\n", round - 1);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "--check"))
		return check_cache();
	if (argc != 3 || atoi(argv[2]) < 4) {
		fprintf(stderr, "usage: cache SOCKET MIB | cache --check\n");
		return 64;
	}
	run(argv[1], (uint64_t)atoi(argv[2]) << 20);
}
