// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * A storm of lanes and channels: processes allocate slices, send them to each other over lanes and
 * plain channels, pass them on, clone, release and revoke them, wait for them, trim their pools,
 * close their ends, fork, and are killed at any moment. A second thread of each process verifies
 * and releases slices too.
 *
 * A slice begins with its cookie, which names the process that allocated it, the buffer, and how
 * often the buffer had been revoked. All other words follow from the cookie. So each holder can
 * verify the slice: it may show zeros if the buffer has been revoked since, and must show them once
 * the revoke is over. It never shows anything else. A sender logs its cookies, and the receiver
 * finds that each message arrives once and in order.
 *
 * Now and then the parent calms the storm: it kills nobody, and the processes only receive, and
 * sleep while there is nothing. Then all that was sent must arrive. This shows lost wake-ups.
 */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>

#include <linux/evpl.h>

#include "common.h"
#include "counters.h"
#include "lane.h"

#define STEP		0x9e3779b97f4a7c15ULL

enum {
	WORKERS = 5,
	PATHS = 2,		/* to each other worker */
	CAPACITY = 32,
	LINKS = 256,
	LOGGED = 1024,		/* more than can be on their way over one link */
	HELD = 24,
	BOX = 8,
	BATCH = 4,
	BUFFERS = 512,		/* of a pool, at most */
	CALM_EACH = 50,		/* kills */
};

/* The calls in which a process may sleep for as long as others do nothing. */
enum sleep { AWAKE, IN_RECV, IN_SEND, IN_WAIT };

/* Messages of the parent to a worker; one about an end has the descriptor with it. */
enum order { NEW_END, WAKE_UP, END };

struct order_to_worker {
	enum order order;
	int peer, path, link, side;
	unsigned int life;	/* of the peer */
	unsigned int flags;	/* EVPL_CHANNEL_* */
};

/**
 * struct life - a process that was started
 * @revokes: its pool has EVPL_POOL_REVOKE
 * @over: it is about to die, or has died
 * @begun: revokes that have begun, by buffer
 * @done: of these, the last one that is over
 */
struct life {
	atomic_bool revokes;
	atomic_bool over;
	_Atomic uint16_t begun[BUFFERS], done[BUFFERS];
};

/* One direction of a link: what its side has sent, and what the other side has got of it. */
struct direction {
	_Atomic uint32_t sent, got;
	atomic_bool closed;	/* by its side */
	_Atomic uint64_t cookies[LOGGED];
};

/* The parent and all workers see this, also after a death. */
static struct shared {
	struct {
		const char *_Atomic step;
		_Atomic uint32_t calm;		/* the phase in which it is calm */
		atomic_int sleep, link, side, peer;
		atomic_bool has_lease;
	} workers[WORKERS];
	_Atomic uint32_t phase;			/* odd: calm */
	struct direction links[LINKS][2];
	_Atomic uint64_t messages, by_ring, passed_on, revoked, verified, zeros, waits, forks,
			 closes;
	atomic_uint errors;
	char what[256];
	struct life lives[];
} *shared;

/* A slice that a worker has, and how many revokes of its buffer had begun when it came. */
struct held {
	struct evpl_message message;
	uint16_t begun;
};

/* An end of this worker's; @channel is NULL if there is none. */
struct path {
	struct evpl_channel *channel;
	struct direction *out, *in;
	int peer, link, side;
	unsigned int life, flags;
	uint64_t counted;	/* messages that went through the ring, and were counted */
};

/* The state of this worker. */
static struct {
	int number;
	int control;
	unsigned int life;
	struct evpl_pool *pool;
	struct evpl *evpl;
	struct path paths[WORKERS][PATHS];
	struct held held[HELD];
	unsigned int nr_held;
	uint64_t random, sequence;
	bool must_end;
	/* This worker writes, or has written, to memory that was revoked and so isn't zeros. */
	atomic_uint writing;
	atomic_bool has_spoilt_zeros;

	pthread_t helper;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct held box[BOX];
	unsigned int nr_boxed;
	bool helper_works, helper_ends;
} me;

static unsigned int below(unsigned int bound)
{
	me.random ^= me.random << 13;
	me.random ^= me.random >> 7;
	me.random ^= me.random << 17;
	return (unsigned int)(me.random * 0x2545f4914f6cdd1dULL >> 33) % bound;
}

static void step(const char *what)
{
	atomic_store(&shared->workers[me.number].step, what);
}

_Noreturn static void fail(const char *what, long long value)
{
	if (!atomic_fetch_add(&shared->errors, 1))
		snprintf(shared->what, sizeof(shared->what), "worker %d, life %u: %s: %lld (%#llx)",
			 me.number, me.life, what, value,
			 (unsigned long long)value);
	_exit(1);
}

/* Cookies: the life, the buffer's index, its count of revokes, and a number that makes it unique. */
static uint64_t make_cookie(uint32_t index)
{
	uint64_t begun = atomic_load(&shared->lives[me.life].begun[index]) & 0xfff;

	return (uint64_t)me.life << 48 | (uint64_t)index << 38 | begun << 26 |
	       (++me.sequence & 0x3ffffff);
}

static struct life *life_of(uint64_t cookie)
{
	return &shared->lives[cookie >> 48];
}

static _Atomic uint16_t *begun_of(uint64_t cookie)
{
	return &life_of(cookie)->begun[cookie >> 38 & 0x3ff];
}

/* Whether the buffer may have been revoked since the slice was allocated. */
static bool may_be_revoked(uint64_t cookie)
{
	struct life *life = life_of(cookie);

	return (atomic_load(begun_of(cookie)) & 0xfff) != (cookie >> 26 & 0xfff) ||
	       (atomic_load(&life->revokes) && atomic_load(&life->over));
}

static uint64_t word_at(uint64_t cookie, unsigned int n, unsigned int length)
{
	switch (n) {
	case 0: return cookie;
	case 1: return length;
	default: return cookie * STEP + n;
	}
}

/* Says what a slice shows, and fails. */
_Noreturn static void fail_slice(const char *what, const struct held *held, unsigned int n,
				 uint64_t value)
{
	const struct evpl_iovec *iovec = &held->message.iovec;
	char text[160];

	snprintf(text, sizeof(text), "%s: cookie %llx of %u bytes, %s, flags %u; word %u is %llx instead of",
		 what, (unsigned long long)held->message.cookie, iovec->length,
		 iovec_slab(iovec) ? "own" : entry_is_grant(iovec_entry(iovec)) ? "granted" : "leased",
		 held->message.flags, n, (unsigned long long)value);
	fail(text, (long long)word_at(held->message.cookie, n, iovec->length));
}

/* Verifies a slice. Any thread. */
static void verify(const struct held *held)
{
	const struct evpl_iovec *iovec = &held->message.iovec;
	uint64_t cookie = held->message.cookie, value;
	bool own = iovec_slab(iovec), must_be_zeros, is_zeros = false;
	_Atomic uint64_t *words = iovec->data;
	unsigned int nr = iovec->length / 8, n;

	must_be_zeros = !own && atomic_load(&life_of(cookie)->done[cookie >> 38 & 0x3ff]) > held->begun;
	for (n = 0; n < nr; n += n < 32 || n + 8 > nr ? 1 : 7) {
		value = atomic_load(&words[n]);
		if (value == word_at(cookie, n, iovec->length) && !must_be_zeros)
			continue;
		is_zeros = true;
		if (own || !may_be_revoked(cookie))
			fail_slice("contents are lost", held, n, value);
		if (value && !atomic_load(&me.writing) && !atomic_load(&me.has_spoilt_zeros))
			fail_slice(must_be_zeros ? "no zeros after a revoke" : "another's data",
				   held, n, value);
	}
	if (held->message.flags & EVPL_MESSAGE_WRITE && !own) {
		atomic_fetch_add(&me.writing, 1);
		atomic_store(&words[nr - 1], word_at(cookie, nr - 1, iovec->length));
		if (may_be_revoked(cookie))
			atomic_store(&me.has_spoilt_zeros, true);
		atomic_fetch_sub(&me.writing, 1);
	}
	atomic_fetch_add(is_zeros ? &shared->zeros : &shared->verified, 1);
}

static void note_leases(void)
{
	bool any = false;

	for (unsigned int i = 0; i < me.nr_held; i++)
		any |= !iovec_slab(&me.held[i].message.iovec);
	atomic_store(&shared->workers[me.number].has_lease, any);
}

static void let_go(unsigned int n)
{
	struct held held = me.held[n];

	me.held[n] = me.held[--me.nr_held];
	evpl_iovec_release(&held.message.iovec);
	note_leases();
}

static void *help(void *unused)
{
	struct held held;

	pthread_mutex_lock(&me.lock);
	for (;;) {
		while (!me.nr_boxed && !me.helper_ends)
			pthread_cond_wait(&me.changed, &me.lock);
		if (!me.nr_boxed)
			break;
		held = me.box[--me.nr_boxed];
		me.helper_works = true;
		pthread_mutex_unlock(&me.lock);
		verify(&held);
		evpl_iovec_release(&held.message.iovec);
		if (held.message.cookie % 64 == 0)
			evpl_pool_trim(me.pool);
		pthread_mutex_lock(&me.lock);
		me.helper_works = false;
		pthread_cond_broadcast(&me.changed);
	}
	pthread_mutex_unlock(&me.lock);
	return NULL;
}

static void give_to_helper(unsigned int n)
{
	pthread_mutex_lock(&me.lock);
	if (me.nr_boxed < BOX) {
		me.box[me.nr_boxed++] = me.held[n];
		me.held[n] = me.held[--me.nr_held];
		pthread_cond_broadcast(&me.changed);
	}
	pthread_mutex_unlock(&me.lock);
	note_leases();
}

static void release_all(void)
{
	step("releases all");
	while (me.nr_held)
		let_go(me.nr_held - 1);
	pthread_mutex_lock(&me.lock);
	while (me.nr_boxed || me.helper_works)
		pthread_cond_wait(&me.changed, &me.lock);
	pthread_mutex_unlock(&me.lock);
}

static void allocate(void)
{
	unsigned int length = 32 + 8 * below(below(4) ? 100 : (unsigned int)me.pool->buffer_size / 8 - 4);
	struct held held = { .message.flags = 0 };
	uint64_t *words;
	int ret;

	if (me.nr_held == HELD)
		return;
	step("allocates");
	ret = evpl_iovec_alloc_flags(me.evpl, length, 8, 1, below(8) ? 0 : EVPL_IOVEC_PRIVATE,
				     &held.message.iovec);
	if (ret == -ENOMEM)
		return;
	if (ret != 1)
		fail("alloc", ret);
	held.message.cookie = make_cookie(iovec_entry(&held.message.iovec)->index);
	words = held.message.iovec.data;
	for (unsigned int n = 0; n < length / 8; n++)
		words[n] = word_at(held.message.cookie, n, length);
	me.held[me.nr_held++] = held;
}

/* Counts the messages that a lane has sent through its ring. */
static void count_ring(struct path *path)
{
	struct evpl_lane_stats stats = EVPL_LANE_STATS_INIT;

	if (evpl_lane_stats(path->channel, &stats))
		return;
	atomic_fetch_add(&shared->by_ring, stats.sent - path->counted);
	path->counted = stats.sent;
}

static void close_path(struct path *path)
{
	step("closes");
	atomic_store(&path->out->closed, true);
	evpl_channel_close(path->channel);
	path->channel = NULL;
	atomic_fetch_add(&shared->closes, 1);
}

/* Says that this worker may sleep in a call from now on. */
static void sleep_in(const struct path *path, enum sleep sleep)
{
	atomic_store(&shared->workers[me.number].link, path->link);
	atomic_store(&shared->workers[me.number].side, path->side);
	atomic_store(&shared->workers[me.number].peer, path->peer);
	atomic_store(&shared->workers[me.number].sleep, (int)sleep);
}

static void awake(void)
{
	atomic_store(&shared->workers[me.number].sleep, AWAKE);
}

/* The memory of a peer that has EVPL_POOL_REVOKE goes with it, and so do its rings. */
static bool peer_has_revoked(const struct path *path)
{
	const struct life *life = &shared->lives[path->life];

	return atomic_load(&life->revokes) && atomic_load(&life->over);
}

static unsigned int choose_flags(const struct held *held)
{
	if (!iovec_slab(&held->message.iovec))
		return below(2) ? 0 : held->message.flags;
	return (below(8) ? 0 : EVPL_MESSAGE_WRITE) | (below(8) ? 0 : EVPL_MESSAGE_DEVICE);
}

static void send_some(struct path *path)
{
	struct evpl_message messages[BATCH];
	unsigned int nr = 1 + below(BATCH), first, passed_on = 0;
	uint32_t sent = atomic_load(&path->out->sent);
	bool keep = below(2);
	int ret;

	if (nr > me.nr_held)
		return;
	first = me.nr_held - nr;
	for (unsigned int i = 0; i < nr; i++) {
		struct held *held = &me.held[first + i];

		messages[i] = held->message;
		messages[i].flags = choose_flags(held);
		passed_on += !iovec_slab(&held->message.iovec);
		if (keep)
			evpl_iovec_clone(&messages[i].iovec, &held->message.iovec);
		atomic_store(&path->out->cookies[(sent + i) % LOGGED], messages[i].cookie);
	}
	step(path->flags & EVPL_CHANNEL_LANE ? "sends over a lane" : "sends over a channel");
	if (path->flags & EVPL_CHANNEL_BLOCKING)
		sleep_in(path, IN_SEND);
	ret = evpl_channel_send(path->channel, messages, (int)nr);
	awake();
	if (!ret) {
		atomic_store(&path->out->sent, sent + nr);
		atomic_fetch_add(&shared->messages, nr);
		atomic_fetch_add(&shared->passed_on, passed_on);
		count_ring(path);
		if (!keep)
			me.nr_held = first;
		note_leases();
		return;
	}
	for (unsigned int i = 0; keep && i < nr; i++)
		evpl_iovec_release(&messages[i].iovec);
	switch (ret) {
	case -ENOENT:	/* one was revoked */
		for (unsigned int i = 0; i < nr; i++)
			let_go(me.nr_held - 1);
		break;
	case -EPIPE:
		close_path(path);
		break;
	case -EAGAIN:
	case -EINTR:
	case -ENOMEM:
	case -EBUSY:
		break;
	case -EPROTO:
		if (peer_has_revoked(path)) {
			close_path(path);
			break;
		}
		/* fall through */
	default:
		fail("send", ret);
	}
}

/* Finds the next cookie in the sender's log. A sender that was killed may have sent a part alone. */
static void check_order(struct path *path, uint64_t cookie)
{
	uint32_t got = atomic_load(&path->in->got), n;

	for (n = got; atomic_load(&path->in->cookies[n % LOGGED]) != cookie; n++)
		if (!atomic_load(&shared->lives[path->life].over) || n - got == LOGGED / 2)
			fail("a message is out of order", n);
	atomic_store(&path->in->got, n + 1);
}

static void take_message(struct path *path, const struct evpl_message *message)
{
	struct held held = { .message = *message };

	held.begun = atomic_load(begun_of(message->cookie));
	check_order(path, message->cookie);
	if (message->flags & EVPL_MESSAGE_REVOKED) {
		if (!may_be_revoked(message->cookie))
			fail("a message came as revoked, but nobody has revoked it",
			     (long long)message->cookie);
		atomic_fetch_add(&shared->revoked, 1);
		return;
	}
	held.message.flags &= EVPL_MESSAGE_WRITE | EVPL_MESSAGE_DEVICE;
	me.held[me.nr_held++] = held;
	note_leases();
	verify(&held);
}

/* The other end is closed. If it was closed in order, all that it sent has come. */
static void see_end(struct path *path)
{
	uint32_t sent = atomic_load(&path->in->sent), got = atomic_load(&path->in->got);

	if (atomic_load(&path->in->closed) && !peer_has_revoked(path) && got != sent)
		fail("messages were lost before an end was closed", sent - got);
	close_path(path);
}

/* Returns how many messages came. */
static int receive_some(struct path *path)
{
	struct evpl_message messages[BATCH];
	int max = 1 + (int)below(BATCH), ret;

	if (max > (int)(HELD - me.nr_held))
		return 0;
	step(path->flags & EVPL_CHANNEL_LANE ? "receives from a lane" : "receives from a channel");
	if (path->flags & EVPL_CHANNEL_BLOCKING)
		sleep_in(path, IN_RECV);
	ret = evpl_channel_recv(path->channel, messages, max);
	awake();
	for (int i = 0; i < ret; i++)
		take_message(path, &messages[i]);
	if (ret >= 0)
		return ret;
	switch (ret) {
	case -EPIPE:
		see_end(path);
		break;
	case -EPROTO:
		if (!peer_has_revoked(path))
			fail("recv", ret);
		close_path(path);
		break;
	case -EAGAIN:
		if (path->flags & EVPL_CHANNEL_BLOCKING)
			fail("recv that may wait", ret);
		break;
	case -EINTR:
	case -ENOMEM:
	case -ENOSPC:
		break;
	default:
		fail("recv", ret);
	}
	return 0;
}

/* Of the slices held one of this worker's own, or NULL. */
static struct held *choose_own(void)
{
	struct held *held = me.nr_held ? &me.held[below(me.nr_held)] : NULL;

	return held && iovec_slab(&held->message.iovec) ? held : NULL;
}

static void revoke_one(void)
{
	struct life *life = &shared->lives[me.life];
	struct held *held = choose_own();
	uint32_t index;
	uint16_t begun;
	int ret;

	if (!held)
		return;
	step("revokes");
	index = iovec_entry(&held->message.iovec)->index;
	begun = (uint16_t)(atomic_fetch_add(&life->begun[index], 1) + 1);
	ret = evpl_iovec_revoke(&held->message.iovec);
	if (!ret)
		atomic_store(&life->done[index], begun);
	else if (ret != 1 && ret != -EBUSY)
		fail("revoke", ret);
}

static void wait_for_one(void)
{
	static const struct path nowhere = { .link = -1 };
	struct held *held = choose_own();
	bool may_sleep = !below(8);
	int ret;

	if (!held)
		return;
	step("waits for a buffer");
	if (may_sleep)
		sleep_in(&nowhere, IN_WAIT);
	ret = evpl_iovec_wait(&held->message.iovec, may_sleep ? 0 : EVPL_IOVEC_TRY);
	awake();
	if (!ret) {
		atomic_fetch_add(&shared->waits, 1);
		if (atomic_load(&iovec_entry(&held->message.iovec)->word) & EVPL_WORD_SHARED)
			fail("another process has a buffer that was waited for", 0);
	} else if (ret != (may_sleep ? -EINTR : -EAGAIN)) {
		fail("wait", ret);
	}
}

static void fork_one(void)
{
	pid_t parent = getpid();

	step("forks");
	atomic_fetch_add(&shared->forks, 1);
	if (fork())
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() == parent)
		usleep(below(3000));
	_exit(0);
}

static void take_end(const struct order_to_worker *order, int fd)
{
	struct path *path = &me.paths[order->peer][order->path];
	int err;

	if (path->channel)
		close_path(path);
	*path = (struct path){
		.out = &shared->links[order->link][order->side],
		.in = &shared->links[order->link][!order->side],
		.peer = order->peer,
		.link = order->link,
		.side = order->side,
		.life = order->life,
		.flags = order->flags,
	};
	step("binds an end");
	err = evpl_channel_bind(&path->channel, me.pool, fd, order->flags);
	if (!err)
		return;
	/* The pool may have no buffer left for the lane. */
	path->channel = NULL;
	atomic_store(&path->out->closed, true);
	close(fd);
	if (err != -ENOMEM)
		fail("bind", err);
}

/* Does what the parent has told. */
static void obey(void)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control;
	struct order_to_worker order;
	struct iovec iovec = { &order, sizeof(order) };
	struct msghdr message = {
		.msg_iov = &iovec,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *cmsg;
	int fd;

	step("looks for orders");
	while (recvmsg(me.control, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) == sizeof(order)) {
		if (order.order == END)
			me.must_end = true;
		if (order.order == NEW_END) {
			cmsg = CMSG_FIRSTHDR(&message);
			if (!cmsg)
				fail("no end came", 0);
			memcpy(&fd, CMSG_DATA(cmsg), sizeof(fd));
			take_end(&order, fd);
		}
		message.msg_controllen = sizeof(control);
	}
}

/* Receives from all ends what is there. Returns whether anything came. */
static bool receive_everything(void)
{
	bool any = false;

	for (int i = 0; i < WORKERS * PATHS; i++) {
		struct path *path = &me.paths[i / PATHS][i % PATHS];
		struct pollfd pollfd = { .events = POLLIN };

		if (!path->channel)
			continue;
		pollfd.fd = evpl_channel_fd(path->channel);
		if (path->flags & EVPL_CHANNEL_BLOCKING && poll(&pollfd, 1, 0) != 1)
			continue;
		any |= receive_some(path) > 0 || !path->channel;
		while (me.nr_held)
			let_go(me.nr_held - 1);
	}
	return any;
}

/* Sleeps until there is something at an end, or an order. */
static void sleep_at_ends(void)
{
	struct pollfd pollfds[WORKERS * PATHS + 1];
	nfds_t nr = 0;

	pollfds[nr++] = (struct pollfd){ .fd = me.control, .events = POLLIN };
	for (int i = 0; i < WORKERS * PATHS; i++) {
		struct path *path = &me.paths[i / PATHS][i % PATHS];

		if (!path->channel)
			continue;
		if (evpl_channel_arm(path->channel))
			return;
		pollfds[nr++] = (struct pollfd){
			.fd = evpl_channel_fd(path->channel),
			.events = POLLIN,
		};
	}
	step("sleeps in the calm");
	poll(pollfds, nr, -1);
}

static void be_calm(uint32_t phase)
{
	release_all();
	atomic_store(&shared->workers[me.number].calm, phase);
	while (atomic_load(&shared->phase) == phase && !me.must_end) {
		obey();
		if (!receive_everything())
			sleep_at_ends();
	}
}

static void act(void)
{
	struct path *path = &me.paths[below(WORKERS)][below(PATHS)];

	switch (below(18)) {
	case 0:
		obey();
		break;
	case 1 ... 4:
		allocate();
		break;
	case 5 ... 9:
		if (path->channel)
			send_some(path);
		break;
	case 10 ... 14:
		if (path->channel)
			receive_some(path);
		break;
	case 15:
		if (me.nr_held && below(2))
			give_to_helper(below(me.nr_held));
		else if (me.nr_held)
			verify(&me.held[below(me.nr_held)]);
		break;
	case 16:
		if (me.nr_held)
			let_go(below(me.nr_held));
		break;
	default:
		switch (below(64)) {
		case 0 ... 7:
			revoke_one();
			break;
		case 8 ... 15:
			wait_for_one();
			break;
		case 16 ... 19:
			step("trims");
			evpl_pool_trim(me.pool);
			break;
		case 20:
			fork_one();
			break;
		case 21:
			if (path->channel)
				close_path(path);
			break;
		}
	}
}

/* Ends this process without leaving anything behind. */
_Noreturn static void end(void)
{
	int err;

	release_all();
	pthread_mutex_lock(&me.lock);
	me.helper_ends = true;
	pthread_cond_broadcast(&me.changed);
	pthread_mutex_unlock(&me.lock);
	pthread_join(me.helper, NULL);
	for (int i = 0; i < WORKERS * PATHS; i++)
		if (me.paths[i / PATHS][i % PATHS].channel)
			close_path(&me.paths[i / PATHS][i % PATHS]);
	step("destroys its context");
	evpl_destroy(me.evpl);
	step("closes its pool");
	/* Others may have buffers for a while. If they keep some, the kernel lets these go later. */
	for (int tries = 0; tries < 100; tries++) {
		err = evpl_pool_close(me.pool);
		if (err != -EBUSY)
			break;
		usleep(1000);
	}
	if (err && err != -EBUSY)
		fail("close of the pool", err);
	atomic_store(&shared->lives[me.life].over, true);
	_exit(0);
}

static void nothing(int signal)
{
}

static void open_worker(void)
{
	struct evpl_pool_config config = {
		.size = sizeof(config),
		.buffer_size = (size_t)PAGE << below(3),
		.max_bytes = SLAB,
		.flags = EVPL_POOL_ZEROS | (below(4) ? 0 : EVPL_POOL_REVOKE),
	};
	int err;

	atomic_store(&shared->lives[me.life].revokes, config.flags & EVPL_POOL_REVOKE);
	step("opens its pool");
	while ((err = evpl_pool_open(&me.pool, &config)) == -ENOMEM)
		usleep(1000);
	if (!err)
		err = evpl_create(&me.evpl, me.pool, NULL);
	if (err)
		fail("pool", err);
	pthread_mutex_init(&me.lock, NULL);
	pthread_cond_init(&me.changed, NULL);
	if (pthread_create(&me.helper, NULL, help, NULL))
		fail("thread", 0);
}

_Noreturn static void be_worker(int number, unsigned int life, int control,
						 uint64_t seed)
{
	uint32_t phase;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	signal(SIGCHLD, SIG_IGN);
	me.number = number;
	me.life = life;
	me.control = control;
	me.random = seed | 1;
	open_worker();
	while (!me.must_end) {
		phase = atomic_load(&shared->phase);
		if (phase & 1)
			be_calm(phase);
		else
			act();
	}
	end();
}

/* From here on the parent. */

FIXTURE(lane_storm)
{
	char before[512];
	int fd;
	pid_t pids[WORKERS];
	int controls[WORKERS];
	unsigned int lives[WORKERS];
	int links[WORKERS][WORKERS][PATHS];	/* by the lower number first; -1: none */
	unsigned int next_link, started;
	uint64_t seed;
	unsigned int with_leases, inside;
};

static unsigned int scaled(unsigned int usual)
{
	const char *percent = getenv("EVPL_TEST_PERCENT");
	unsigned int count = percent ? usual * (unsigned int)atoi(percent) / 100 : usual;

	return count ? count : 1;
}

static int give_order(int control, const struct order_to_worker *order, int fd)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} bytes = { .bytes = { 0 } };
	struct iovec iovec = { (void *)order, sizeof(*order) };
	struct msghdr message = { .msg_iov = &iovec, .msg_iovlen = 1 };
	struct cmsghdr *cmsg;

	if (fd >= 0) {
		message.msg_control = &bytes;
		message.msg_controllen = sizeof(bytes);
		cmsg = CMSG_FIRSTHDR(&message);
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(cmsg), &fd, sizeof(fd));
	}
	return sendmsg(control, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
}

/* The flags of one side. */
static unsigned int draw_flags(bool lane)
{
	switch (below(4)) {
	case 0:
		return EVPL_CHANNEL_BLOCKING | (lane ? EVPL_CHANNEL_LANE : 0);
	case 1:
		return lane ? EVPL_CHANNEL_LANE | EVPL_CHANNEL_POLLING : 0;
	default:
		return lane ? EVPL_CHANNEL_LANE : 0;
	}
}

static bool link_is_used(struct _test_data_lane_storm *self, int link)
{
	for (int i = 0; i < WORKERS * WORKERS * PATHS; i++)
		if (self->links[i / PATHS / WORKERS][i / PATHS % WORKERS][i % PATHS] == link)
			return true;
	return false;
}

/* Links two workers by a new channel. Most are lanes; of some only one side is. */
static void link_workers(struct __test_metadata *_metadata, struct _test_data_lane_storm *self,
			 int a, int b, int path)
{
	struct evpl_channel_create create = { .size = sizeof(create), .capacity = CAPACITY };
	int *link = &self->links[a < b ? a : b][a < b ? b : a][path], both[2] = { a, b };
	unsigned int kind = below(8);

	if (self->pids[a] <= 0 || self->pids[b] <= 0)
		return;
	do {
		self->next_link = (self->next_link + 1) % LINKS;
	} while (link_is_used(self, (int)self->next_link));
	*link = (int)self->next_link;
	memset(shared->links[*link], 0, sizeof(shared->links[*link]));
	ASSERT_EQ(0, ioctl(self->fd, EVPL_CHANNEL_CREATE, &create));
	for (int side = 0; side < 2; side++) {
		struct order_to_worker order = {
			.order = NEW_END,
			.peer = both[!side],
			.path = path,
			.link = *link,
			.side = side,
			.life = self->lives[both[!side]],
			.flags = draw_flags(path ? kind < 4 : kind < 6 || (kind == 6 && side)),
		};

		if (give_order(self->controls[both[side]], &order, create.out_fds[side]))
			atomic_store(&shared->links[*link][side].closed, true);
		close(create.out_fds[side]);
	}
}

static void start(struct __test_metadata *_metadata, struct _test_data_lane_storm *self, int i)
{
	int sockets[2];

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets));
	memset(&shared->workers[i], 0, sizeof(shared->workers[i]));
	self->lives[i] = self->started++;
	self->pids[i] = fork();
	if (!self->pids[i]) {
		for (int j = 0; j < WORKERS; j++)
			if (self->controls[j] >= 0)
				close(self->controls[j]);
		close(sockets[0]);
		close(self->fd);
		be_worker(i, self->lives[i], sockets[1], (self->seed + self->lives[i]) * STEP);
	}
	ASSERT_LT(0, self->pids[i]);
	close(sockets[1]);
	self->controls[i] = sockets[0];
	for (int j = 0; j < WORKERS; j++)
		for (int path = 0; j != i && path < PATHS; path++)
			if (!path || below(2))
				link_workers(_metadata, self, i, j, path);
}

static void forget(struct _test_data_lane_storm *self, int i)
{
	self->pids[i] = 0;
	close(self->controls[i]);
	self->controls[i] = -1;
	for (int j = 0; j < WORKERS; j++)
		for (int path = 0; path < PATHS; path++)
			self->links[i < j ? i : j][i < j ? j : i][path] = -1;
}

static bool is_calm(int i)
{
	return atomic_load(&shared->workers[i].calm) == atomic_load(&shared->phase);
}

static bool all_others_are_calm(int i)
{
	for (int j = 0; j < WORKERS; j++)
		if (j != i && !is_calm(j))
			return false;
	return true;
}

/* Whether all that was sent in a direction has arrived, or can't any more. */
static bool has_arrived(int link, int side)
{
	struct direction *out = &shared->links[link][side];

	return atomic_load(&out->got) == atomic_load(&out->sent) ||
	       atomic_load(&shared->links[link][!side].closed);
}

/* Tells in which step each worker is, and which messages haven't arrived. */
static void tell_steps(struct __test_metadata *_metadata, struct _test_data_lane_storm *self)
{
	for (int i = 0; i < WORKERS; i++)
		TH_LOG("worker %d %s (sleep %d, link %d, peer %d, calm %u)", i,
		       atomic_load(&shared->workers[i].step),
		       atomic_load(&shared->workers[i].sleep),
		       atomic_load(&shared->workers[i].link),
		       atomic_load(&shared->workers[i].peer),
		       atomic_load(&shared->workers[i].calm));
	for (int link = 0; link < LINKS; link++)
		for (int side = 0; side < 2; side++)
			if (link_is_used(self, link) && !has_arrived(link, side))
				TH_LOG("link %d: side %d has sent %u messages, and %u have arrived", link,
				       side, atomic_load(&shared->links[link][side].sent),
				       atomic_load(&shared->links[link][side].got));
}

/* Whether all messages to a worker, or if @i is -1 all messages, have arrived. */
static bool all_has_arrived(struct _test_data_lane_storm *self, int i)
{
	for (int a = 0; a < WORKERS; a++)
		for (int b = a + 1; b < WORKERS; b++)
			for (int path = 0; path < PATHS; path++) {
				int link = self->links[a][b][path];

				if (link < 0 || (i >= 0 && i != a && i != b))
					continue;
				if (!has_arrived(link, 0) || !has_arrived(link, 1))
					return false;
			}
	return true;
}

/* Whether what a worker sleeps in need not end by itself. Otherwise a signal would hide a hang. */
static bool may_be_woken(struct _test_data_lane_storm *self, int i)
{
	int link = atomic_load(&shared->workers[i].link);
	int side = atomic_load(&shared->workers[i].side);

	switch (atomic_load(&shared->workers[i].sleep)) {
	case IN_RECV:
		return has_arrived(link, !side);
	case IN_SEND:
		return !is_calm(atomic_load(&shared->workers[i].peer));
	case IN_WAIT:
		return !all_others_are_calm(i) || !all_has_arrived(self, i);
	default:
		return false;
	}
}

static bool everything_is_calm(struct _test_data_lane_storm *self)
{
	return all_others_are_calm(-1) && all_has_arrived(self, -1);
}

/* All workers release all that they have, and receive all that was sent. */
static void calm(struct __test_metadata *_metadata, struct _test_data_lane_storm *self)
{
	const struct order_to_worker wake_up = { .order = WAKE_UP };
	time_t end = time(NULL) + LIMIT;

	atomic_fetch_add(&shared->phase, 1);
	while (!everything_is_calm(self) && !atomic_load(&shared->errors)) {
		for (int i = 0; i < WORKERS; i++)
			if (may_be_woken(self, i))
				kill(self->pids[i], SIGUSR1);
		usleep(1000);
		if (time(NULL) > end)
			tell_steps(_metadata, self);
		ASSERT_GE(end, time(NULL)) {
			TH_LOG("a worker hangs in the calm, see above");
		}
	}
	atomic_fetch_add(&shared->phase, 1);
	for (int i = 0; i < WORKERS; i++)
		give_order(self->controls[i], &wake_up, -1);
}

/* Has a worker end by itself. */
static void order_end(struct __test_metadata *_metadata, struct _test_data_lane_storm *self, int i)
{
	const struct order_to_worker order = { .order = END };
	time_t end = time(NULL) + LIMIT;
	int status = -1, told = -1;
	pid_t pid;

	while (!(pid = waitpid(self->pids[i], &status, WNOHANG))) {
		if (told)
			told = give_order(self->controls[i], &order, -1);
		kill(self->pids[i], SIGUSR1);
		usleep(1000);
		if (time(NULL) > end)
			tell_steps(_metadata, self);
		ASSERT_GE(end, time(NULL)) {
			TH_LOG("worker %d doesn't end, see above", i);
		}
	}
	ASSERT_EQ(self->pids[i], pid);
	ASSERT_EQ(0, status) {
		TH_LOG("%s; worker %d %s", shared->what, i, atomic_load(&shared->workers[i].step));
	}
}

static void kill_one(struct __test_metadata *_metadata, struct _test_data_lane_storm *self, int i)
{
	int status = -1;

	atomic_store(&shared->lives[self->lives[i]].over, true);
	kill(self->pids[i], SIGKILL);
	ASSERT_EQ(self->pids[i], waitpid(self->pids[i], &status, 0));
	ASSERT_EQ(SIGKILL, status) {
		TH_LOG("%s; worker %d %s", shared->what, i, atomic_load(&shared->workers[i].step));
	}
	self->with_leases += atomic_load(&shared->workers[i].has_lease);
	self->inside += strncmp(atomic_load(&shared->workers[i].step) ?: "", "sends", 5) == 0 ||
			strncmp(atomic_load(&shared->workers[i].step) ?: "", "receives", 8) == 0;
}

FIXTURE_SETUP(lane_storm)
{
	struct sigaction action = { .sa_handler = nothing };
	const char *seed = getenv("EVPL_SEED"), *backend = getenv("EVPL_BACKEND");

	if (!backend || strcmp(backend, "module"))
		SKIP(return, "the module's alone");
	read_counters(self->before);
	ASSERT_NE('\0', self->before[0]) {
		TH_LOG("can't read " COUNTERS);
	}
	self->fd = open("/dev/evpl", O_RDWR | O_CLOEXEC);
	ASSERT_LE(0, self->fd);
	memset(self->controls, -1, sizeof(self->controls));
	memset(self->links, -1, sizeof(self->links));
	self->seed = seed ? strtoull(seed, NULL, 0) : (uint64_t)time(NULL);
	TH_LOG("EVPL_SEED=%llu", (unsigned long long)self->seed);
	me.random = self->seed * STEP | 1;
	/* The workers inherit this. */
	sigaction(SIGUSR1, &action, NULL);
}

FIXTURE_TEARDOWN(lane_storm)
{
	char now[512];

	if (!self->before[0])
		return;
	close(self->fd);
	counters_return_to(self->before, now);
	EXPECT_STREQ(self->before, now);
}

/* Whether there was each kind of message that the storm is for. */
static bool all_was_done(void)
{
	return atomic_load(&shared->by_ring) && atomic_load(&shared->passed_on) &&
	       atomic_load(&shared->verified);
}

TEST_F_TIMEOUT(lane_storm, processes_die_at_any_moment_and_nothing_is_lost, 7200)
{
	const unsigned int kills = scaled(200);
	size_t size = sizeof(*shared) + (kills * 2 + WORKERS) * sizeof(struct life);
	unsigned int killed = 0;
	time_t end;

	shared = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE,
		      -1, 0);
	ASSERT_NE(MAP_FAILED, shared);
	for (int i = 0; i < WORKERS; i++)
		start(_metadata, self, i);
	while (killed < kills && !atomic_load(&shared->errors)) {
		int i = (int)below(WORKERS);

		usleep(below(50000));
		if (!below(4))
			link_workers(_metadata, self, i, (i + 1 + (int)below(WORKERS - 1)) % WORKERS,
				     (int)below(PATHS));
		if (self->started < 2 * kills && !below(8)) {
			order_end(_metadata, self, i);
		} else {
			kill_one(_metadata, self, i);
			killed++;
		}
		forget(self, i);
		start(_metadata, self, i);
		if (killed % CALM_EACH == CALM_EACH - 1)
			calm(_metadata, self);
	}
	/*
	 * On a busy machine the workers' lives may have been too short for some of it. The last
	 * ones live on. The signal wakes them if each waits for another one.
	 */
	end = time(NULL) + LIMIT;
	while (!all_was_done() && !atomic_load(&shared->errors) && time(NULL) < end) {
		usleep(10 * 1000);
		for (int i = 0; i < WORKERS; i++)
			kill(self->pids[i], SIGUSR1);
	}
	if (!atomic_load(&shared->errors))
		calm(_metadata, self);
	ASSERT_EQ(0, atomic_load(&shared->errors)) {
		TH_LOG("%s", shared->what);
	}
	for (int i = 0; i < WORKERS; i++) {
		order_end(_metadata, self, i);
		forget(self, i);
	}
	ASSERT_EQ(0, atomic_load(&shared->errors)) {
		TH_LOG("%s", shared->what);
	}
	TH_LOG("%u killed: %u with leases, %u while they sent or received", killed,
	       self->with_leases, self->inside);
	TH_LOG("%llu messages, %llu of them through rings, %llu passed on",
	       (unsigned long long)shared->messages, (unsigned long long)shared->by_ring,
	       (unsigned long long)shared->passed_on);
	TH_LOG("%llu revoked on the way; slices verified %llu times, %llu times as zeros",
	       (unsigned long long)shared->revoked, (unsigned long long)shared->verified,
	       (unsigned long long)shared->zeros);
	TH_LOG("%llu buffers waited for, %llu ends closed, %llu forks",
	       (unsigned long long)shared->waits, (unsigned long long)shared->closes,
	       (unsigned long long)shared->forks);
	EXPECT_LT(0, shared->by_ring);
	EXPECT_LT(0, shared->passed_on);
	EXPECT_LT(0, shared->verified);
}

TEST_HARNESS_MAIN
