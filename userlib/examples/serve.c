// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * A storage daemon and its clients. Each client has a lane to the daemon, and sends requests to
 * read and write blocks of a file. A request carries the client's own memory, so the daemon reads
 * the file into that memory, or writes it from there. While both are busy, they make no system call
 * for requests and replies. A client that dies costs the others nothing. If the daemon dies, its
 * clients are told.
 *
 *	cc serve.c $(pkg-config --cflags --libs libevplmem)
 *	./a.out FILE SOCKET	serves FILE to the clients that connect to SOCKET
 *	./a.out --client SOCKET	one client, which checks what it reads and writes
 *	./a.out --check		has several clients check what they read and write
 *
 * A daemon for more than an example would hand its I/O to a ring of io_uring, and would limit how
 * many connections each user has.
 */
#include <errno.h>
#include <evplmem.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
	BLOCK = 4096,
	BUFFER = 64 * 1024,	/* bytes of a buffer of each pool */
	DEPTH = 32,		/* requests that a client may have under way */
	CAPACITY = 4 * DEPTH,	/* so there is always room for the replies */
};

static void check(int ret, const char *what)
{
	if (ret >= 0)
		return;
	fprintf(stderr, "%s: %s. %s\n", what, strerror(-ret), evpl_last_error());
	exit(1);
}

/*
 * The cookie of a request says what is to be done: an opcode or, in the reply, an errno; a tag of
 * the client's; and the number of the first block. The library copies a cookie before the daemon
 * sees it, so the client can't change it while the daemon checks it.
 */
enum opcode { READ, WRITE };

static uint64_t make_cookie(unsigned int code, unsigned int tag, uint64_t block)
{
	return (uint64_t)code << 56 | (uint64_t)tag << 40 | block;
}

static unsigned int cookie_code(uint64_t cookie)
{
	return cookie >> 56;
}

static unsigned int cookie_tag(uint64_t cookie)
{
	return cookie >> 40 & 0xffff;
}

static uint64_t cookie_block(uint64_t cookie)
{
	return cookie & ((1ULL << 40) - 1);
}

/* A pool for lanes: these need EVPL_POOL_ZEROS. */
static struct evpl_pool *open_pool(void)
{
	struct evpl_pool_config config = EVPL_POOL_CONFIG_INIT;
	struct evpl_pool *pool;

	config.flags = EVPL_POOL_ZEROS;
	config.buffer_size = BUFFER;
	check(evpl_pool_open(&pool, &config), "open");
	return pool;
}

/* Sends a descriptor over a Unix socket, or receives one if @fd is -1. Returns it, or -errno. */
static int pass_descriptor(int socket, int fd)
{
	char byte = 0, control[CMSG_SPACE(sizeof(int))] = { 0 };
	struct iovec iov = { .iov_base = &byte, .iov_len = 1 };
	struct msghdr message = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);

	if (fd < 0) {
		if (recvmsg(socket, &message, MSG_CMSG_CLOEXEC) < 0)
			return -errno;
		header = CMSG_FIRSTHDR(&message);
		if (!header || header->cmsg_type != SCM_RIGHTS)
			return -EPIPE;
		memcpy(&fd, CMSG_DATA(header), sizeof(fd));
		return fd;
	}
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), &fd, sizeof(fd));
	return sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? -errno : fd;
}

/* The daemon. */

/**
 * struct session - a client, as the daemon has it
 * @channel: the lane
 * @nothing: a buffer of zeros. A message carries memory, but all of a reply is in its cookie. The
 *	client sees the whole buffer, so each client has one of its own.
 */
struct session {
	struct evpl_channel *channel;
	struct evpl_iovec nothing;
};

/* Does what a request asks for. Returns 0 or an errno. */
static int do_request(int file, off_t size, const struct evpl_message *request)
{
	off_t offset = (off_t)cookie_block(request->cookie) * BLOCK;
	size_t length = request->iovec.length;
	ssize_t done;

	if (request->flags & EVPL_MESSAGE_REVOKED || offset > size ||
	    (off_t)length > size - offset)
		return EINVAL;
	switch (cookie_code(request->cookie)) {
	case READ:	/* EFAULT if the client sent memory that the daemon may not write to */
		done = pread(file, request->iovec.data, length, offset);
		break;
	case WRITE:
		done = pwrite(file, request->iovec.data, length, offset);
		break;
	default:
		return EINVAL;
	}
	if (done < 0)
		return errno;
	return (size_t)done == length ? 0 : EIO;
}

/*
 * Serves the requests that are there now. Returns 0, or -errno if the session is over. The daemon
 * never waits for a client. If a client takes no replies, its session is over when there is no room
 * for more.
 */
static int serve(struct session *session, int file, off_t size)
{
	struct evpl_message requests[CAPACITY], replies[CAPACITY];
	int err, i, n;

	n = evpl_channel_recv(session->channel, requests, CAPACITY);
	for (i = 0; i < n; i++) {
		uint64_t cookie = requests[i].cookie;

		err = do_request(file, size, &requests[i]);
		evpl_iovec_release(&requests[i].iovec);
		replies[i] = (struct evpl_message){
			.cookie = make_cookie((unsigned int)err, cookie_tag(cookie),
					      cookie_block(cookie)),
		};
		evpl_iovec_clone(&replies[i].iovec, &session->nothing);
	}
	if (n <= 0)
		return n == -EAGAIN ? 0 : n;
	err = evpl_channel_send(session->channel, replies, n);
	for (i = 0; err && i < n; i++)
		evpl_iovec_release(&replies[i].iovec);
	return err;
}

static void end_session(struct session *session)
{
	/* Closing the descriptor also takes it out of the epoll instance. */
	evpl_channel_close(session->channel);
	/* The client may live on. It mustn't see what the buffer is used for next. */
	evpl_iovec_revoke(&session->nothing);
	evpl_iovec_release(&session->nothing);
	free(session);
}

/* Makes a lane for a client that has connected, and gives the other end to the client. */
static int begin_session(struct evpl_pool *pool, struct evpl *evpl, int epoll, int connection)
{
	struct session *session = calloc(1, sizeof(*session));
	struct epoll_event event = { .events = EPOLLIN, .data.ptr = session };
	int err, peer;

	if (!session)
		return -ENOMEM;
	err = evpl_buffer_alloc(evpl, &session->nothing);
	if (err < 0)
		goto end;
	memset(session->nothing.data, 0, BUFFER);
	session->nothing.length = 1;
	err = evpl_channel_create(&session->channel, pool, CAPACITY, EVPL_CHANNEL_LANE, &peer);
	if (err)
		goto end;
	err = pass_descriptor(connection, peer);
	close(peer);
	if (err >= 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, evpl_channel_fd(session->channel), &event))
		err = -errno;
	if (err >= 0)
		return 0;
end:
	end_session(session);
	return err;
}

/* The daemon: runs until it is killed. */
__attribute__((noreturn))
static void run_daemon(int file, int listener)
{
	struct evpl_pool *pool = open_pool();
	struct epoll_event event = { .events = EPOLLIN };
	int connection, epoll = epoll_create1(EPOLL_CLOEXEC);
	off_t size = lseek(file, 0, SEEK_END);
	struct evpl *evpl;

	check(evpl_create(&evpl, pool, NULL), "create");
	if (epoll < 0 || size < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event))
		check(-errno, "epoll");
	for (;;) {
		if (epoll_wait(epoll, &event, 1, -1) < 1)
			continue;
		if (event.data.ptr) {
			if (serve(event.data.ptr, file, size) < 0)
				end_session(event.data.ptr);
			continue;
		}
		connection = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		if (connection < 0)
			continue;
		if (begin_session(pool, evpl, epoll, connection) < 0)
			fprintf(stderr, "a client got no lane. %s\n", evpl_last_error());
		close(connection);
	}
}

/* Opens a socket for the daemon to listen on, or one that is connected to the daemon. */
static int open_socket(const struct sockaddr_un *address, int (*call)(int, const struct sockaddr *,
								      socklen_t))
{
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	if (fd < 0 || call(fd, (const struct sockaddr *)address, sizeof(*address)) < 0)
		check(-errno, "socket");
	return fd;
}

/* A client. */

struct client {
	struct evpl_pool *pool;
	struct evpl *evpl;
	struct evpl_channel *channel;
};

static void client_open(struct client *client, const struct sockaddr_un *address)
{
	int connection = open_socket(address, connect), end = pass_descriptor(connection, -1);

	close(connection);
	check(end, "connect");
	client->pool = open_pool();
	check(evpl_create(&client->evpl, client->pool, NULL), "create");
	check(evpl_channel_bind(&client->channel, client->pool, end,
				EVPL_CHANNEL_LANE | EVPL_CHANNEL_BLOCKING), "bind");
}

/*
 * Makes a request for one block. @mine is a second reference to its memory, which stays the
 * caller's. The daemon may write to the memory of a read, by a lane also after its reply. So a
 * client that didn't trust the daemon would copy the bytes before it checked them.
 */
static void make_request(struct client *client, struct evpl_message *request,
			 struct evpl_iovec *mine, enum opcode opcode, unsigned int tag,
			 uint64_t block)
{
	*request = (struct evpl_message){
		.cookie = make_cookie(opcode, tag, block),
		.flags = opcode == READ ? EVPL_MESSAGE_WRITE : 0,
	};
	check(evpl_iovec_alloc(client->evpl, BLOCK, BLOCK, 1, &request->iovec), "alloc");
	evpl_iovec_clone(mine, &request->iovec);
}

/* Sends requests, and waits for their replies, in whichever order they come. */
static int transact(struct client *client, const struct evpl_message *requests, int n)
{
	struct evpl_message replies[DEPTH];
	int err, got, i, left = n;

	err = evpl_channel_send(client->channel, requests, n);
	for (i = 0; err && i < n; i++) {
		struct evpl_iovec iovec = requests[i].iovec;

		evpl_iovec_release(&iovec);
	}
	for (; !err && left; left -= got) {
		got = evpl_channel_recv(client->channel, replies, DEPTH);
		if (got < 0)
			return got;
		for (i = 0; i < got; i++) {
			if (cookie_tag(replies[i].cookie) >= (unsigned int)n)
				err = -EPROTO;
			else if (cookie_code(replies[i].cookie))
				err = -(int)cookie_code(replies[i].cookie);
			evpl_iovec_release(&replies[i].iovec);
		}
	}
	return err;
}

/* The check. */

enum { CLIENTS = 5, ROUNDS = 100 };
enum role { ORDINARY, DIES, OUTLIVES };

/* Makes the contents of a block, which are different in each round. */
static void fill(uint64_t *words, uint64_t block, uint64_t round)
{
	for (size_t i = 0; i < BLOCK / sizeof(*words); i++)
		words[i] = block << 32 | round << 16 | i;
}

static int differs(const uint64_t *words, uint64_t block, uint64_t round)
{
	uint64_t expected[BLOCK / sizeof(*words)];

	fill(expected, block, round);
	return memcmp(words, expected, BLOCK);
}

/* Writes the client's blocks by requests that are under way together, and reads them back. */
static int do_round(struct client *client, uint64_t first, uint64_t round, enum role role)
{
	struct evpl_message requests[DEPTH];
	struct evpl_iovec mine[DEPTH];
	enum opcode opcode;
	int err = 0, i;

	for (opcode = WRITE; !err; opcode = READ) {
		for (i = 0; i < DEPTH; i++) {
			make_request(client, &requests[i], &mine[i], opcode, (unsigned int)i,
				     first + (uint64_t)i);
			if (opcode == WRITE)
				fill(mine[i].data, first + (uint64_t)i, round);
		}
		if (role == DIES && round == ROUNDS / 2) {
			evpl_channel_send(client->channel, requests, DEPTH);
			kill(getpid(), SIGKILL);
		}
		err = transact(client, requests, DEPTH);
		for (i = 0; i < DEPTH; i++) {
			if (!err && opcode == READ &&
			    differs(mine[i].data, first + (uint64_t)i, round))
				err = -EIO;
			evpl_iovec_release(&mine[i]);
		}
		if (opcode == READ)
			break;
	}
	return err;
}

/* A client of the check, for a file of CLIENTS * DEPTH blocks. Returns its exit status. */
static int run_client(const struct sockaddr_un *address, uint64_t number, enum role role)
{
	struct evpl_lane_stats stats = EVPL_LANE_STATS_INIT;
	struct evpl_message request;
	struct evpl_iovec mine;
	struct client client;
	uint64_t round;
	int err = 0;

	client_open(&client, address);
	for (round = 0; !err && (role == OUTLIVES || round < ROUNDS); round++)
		err = do_round(&client, number * DEPTH, round, role);
	if (role == OUTLIVES)
		return err != -EPIPE;
	check(err, "read and write");

	make_request(&client, &request, &mine, READ, 0, CLIENTS * DEPTH);
	if (transact(&client, &request, 1) != -EINVAL)
		check(-EIO, "a read behind the end");
	evpl_iovec_release(&mine);
	check(evpl_lane_stats(client.channel, &stats), "stats");
	printf("client %d: %d requests, %d of them through shared memory\n", (int)number,
	       2 * ROUNDS * DEPTH + 1, (int)stats.sent);
	/* The pool can't be closed before the daemon has let go of it. This process ends instead. */
	return fflush(stdout) || !stats.sending;
}

/* Whether a child has ended by this signal, or if that is 0, well. */
static int ended_by(pid_t child, int signal)
{
	int status;

	if (waitpid(child, &status, 0) < 0)
		return 0;
	return signal ? WIFSIGNALED(status) && WTERMSIG(status) == signal : !status;
}

/*
 * Several clients write and read at the same time. The first one is killed with requests under way.
 * The last one goes on until the daemon is killed.
 */
static int run_check(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int file = memfd_create("serve", MFD_CLOEXEC), i, listener, ok = 1;
	pid_t daemon, clients[CLIENTS];

	if (file < 0 || ftruncate(file, CLIENTS * DEPTH * BLOCK))
		check(-errno, "memfd");
	/* A name that isn't in the file system, as it begins with a zero. */
	snprintf(address.sun_path + 1, sizeof(address.sun_path) - 1, "evpl-serve-%d",
		 (int)getpid());
	listener = open_socket(&address, bind);
	if (listen(listener, CLIENTS))
		check(-errno, "listen");
	daemon = fork();
	if (!daemon)
		run_daemon(file, listener);
	/* While a process has the listener open, clients wait there, though no daemon may be left. */
	close(listener);
	for (i = 0; i < CLIENTS; i++) {
		clients[i] = fork();
		if (!clients[i])
			exit(run_client(&address, (uint64_t)i, i == 0 ? DIES :
					i == CLIENTS - 1 ? OUTLIVES : ORDINARY));
	}
	for (i = 0; i < CLIENTS - 1; i++)
		ok &= ended_by(clients[i], i == 0 ? SIGKILL : 0);
	kill(daemon, SIGKILL);
	ok &= ended_by(daemon, SIGKILL);
	ok &= ended_by(clients[CLIENTS - 1], 0);
	return !ok;
}

int main(int argc, char **argv)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int file, listener;

	if (argc == 2 && !strcmp(argv[1], "--check"))
		return run_check();
	if (argc != 3 || strlen(argv[2]) >= sizeof(address.sun_path)) {
		fprintf(stderr, "Usage: %s FILE SOCKET\n       %s --client SOCKET\n       %s --check\n",
			argv[0], argv[0], argv[0]);
		return 64;
	}
	strcpy(address.sun_path, argv[2]);
	if (!strcmp(argv[1], "--client"))
		return run_client(&address, 0, ORDINARY);
	file = open(argv[1], O_RDWR | O_CLOEXEC);
	if (file < 0)
		check(-errno, argv[1]);
	listener = open_socket(&address, bind);
	if (listen(listener, 16))
		check(-errno, "listen");
	run_daemon(file, listener);
}
