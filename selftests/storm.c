// SPDX-License-Identifier: GPL-2.0-only
/*
 * A storm: processes hand buffers to each other, pass them on, cut, release and
 * revoke them, have pipes hold them and rings register them, fork, and are killed at
 * any moment. A process verifies the data that its references show, that its ring
 * writes, and that it drains from its pipe. In the end everything is as before.
 *
 * Word n of a buffer is a base plus n times a constant, and the base travels as the
 * cookie. So a receiver can verify a slice without knowing anything else. The owner
 * fills a buffer anew, with another base, when its word is 0.
 */
#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>

#include "ring.h"

#define BUFFER		(PAGE > 16 * KIB ? PAGE : 16 * KIB)
#define STEP		0x9e3779b97f4a7c15ULL

enum { WORKERS = 8, NR_BUFFERS = SLAB_2M / BUFFER, MAX_HELD = 24, SLOTS = 4 };

/* The parent sees this of its workers, also after their death. */
static struct shared {
	struct {
		unsigned int in_call, leases, slots;
	} workers[WORKERS];
	bool can_register;
	unsigned int sent[WORKERS][WORKERS], got[WORKERS][WORKERS];
	unsigned long long records, verified, revoked, passed_on, piped, forks, registered,
			   fixed;
	unsigned int errors;
	char what[256];
} *shared;

#define load(p)		__atomic_load_n(p, __ATOMIC_ACQUIRE)
#define store(p, v)	__atomic_store_n(p, v, __ATOMIC_RELEASE)
#define add(p, v)	__atomic_add_fetch(p, v, __ATOMIC_ACQ_REL)

/* The state of this worker. */
static struct {
	int number;
	int control;
	int client;
	int ends[WORKERS];
	struct evpl_setup setup;
	char *own, *guest, *guest_ro, *guest_io, *guest_io_ro;
	struct evpl_entry *entries, *leases;
	struct evpl_header *header;
	uint64_t *revoked;
	struct evpl_record held[MAX_HELD];
	unsigned int nr_held;
	int pipe[2];
	struct evpl_record piped;	/* its data is in the pipe; length 0 if none is */
	struct ring ring;
	struct evpl_record slots[SLOTS];	/* registered with the ring; length 0 if none is */
	int fixed[2];			/* a pipe for fixed I/O */
	int idle[2];			/* a pipe that stays empty */
	bool reads_idle;		/* a fixed read waits for it */
	uint64_t bases[NR_BUFFERS];
	uint64_t random;
} me;

static unsigned int below(unsigned int bound)
{
	me.random ^= me.random << 13;
	me.random ^= me.random >> 7;
	me.random ^= me.random << 17;
	return (me.random * 0x2545f4914f6cdd1dULL >> 33) % bound;
}

static void fail(const char *what, long value)
{
	if (add(&shared->errors, 1) == 1)
		snprintf(shared->what, sizeof(shared->what), "worker %d: %s: %ld",
			 me.number, what, value);
	_exit(1);
}

static void set_held(unsigned int nr)
{
	unsigned int leases = 0;

	me.nr_held = nr;
	for (unsigned int i = 0; i < nr; i++)
		leases += me.held[i].lease != EVPL_LEASE_NONE;
	store(&shared->workers[me.number].leases, leases);
}

static char *memory_of(const struct evpl_record *record)
{
	if (record->offset >= me.setup.out_guest_io_ro_offset)
		return me.guest_io_ro +
		       (record->offset - me.setup.out_guest_io_ro_offset);
	if (record->offset >= me.setup.out_guest_io_offset)
		return me.guest_io + (record->offset - me.setup.out_guest_io_offset);
	if (record->offset >= me.setup.out_guest_ro_offset)
		return me.guest_ro + (record->offset - me.setup.out_guest_ro_offset);
	if (record->offset >= me.setup.out_guest_offset)
		return me.guest + (record->offset - me.setup.out_guest_offset);
	return me.own + record->offset;
}

static bool was_revoked(uint32_t lease)
{
	return load(&me.revoked[lease / 64]) >> lease % 64 & 1;
}

static void verify(const struct evpl_record *record)
{
	volatile uint64_t *words = (void *)memory_of(record);
	uint64_t first = record->offset % BUFFER / 8, nr = record->length / 8;

	if (touch_read(words)) {
		if (record->lease == EVPL_LEASE_NONE || !was_revoked(record->lease))
			fail("a reference shows nothing", record->lease);
		return;
	}
	for (int i = 0; i < 12; i++) {
		uint64_t n = i ? below(nr) : 0, value = 0;
		int signal = sigsetjmp(touch_jump, 1);

		if (signal) {
			/* It may have been revoked just now. */
			if (!was_revoked(record->lease))
				fail("a reference shows nothing any more", record->lease);
			return;
		}
		value = words[n];
		if (value != record->cookie + (first + n) * STEP) {
			if (record->lease != EVPL_LEASE_NONE && was_revoked(record->lease))
				return;
			fail("another's data", n);
		}
		if (record->flags & EVPL_RECORD_WRITE && record->lease != EVPL_LEASE_NONE)
			words[n] = value;
	}
	add(&shared->verified, 1);
}

/*
 * Drain the pipe. Its data mustn't have changed: the owner fills a buffer anew only when it
 * has the buffer back.
 */
static void drain_pipe(void)
{
	uint64_t words[BUFFER / 8], first = me.piped.offset % BUFFER / 8;
	ssize_t ret;

	if (!me.piped.length)
		return;
	ret = read(me.pipe[0], words, sizeof(words));
	if (ret != me.piped.length)
		fail("pipe", ret);
	for (unsigned int i = 0; i < ret / 8; i++)
		if (words[i] != me.piped.cookie + (first + i) * STEP)
			fail("what a pipe holds has changed", i);
	me.piped.length = 0;
	add(&shared->piped, 1);
}

/*
 * Drain the pipe before a call that may wait for long: an owner that gets no buffers back
 * has nothing to send.
 */
static void about_to_wait(int end)
{
	if (!(fcntl(end, F_GETFL) & O_NONBLOCK))
		drain_pipe();
}

static void let_go(unsigned int n)
{
	struct evpl_record record = me.held[n];
	uint64_t word;

	me.held[n] = me.held[me.nr_held - 1];
	set_held(me.nr_held - 1);
	if (record.lease == EVPL_LEASE_NONE) {
		__atomic_sub_fetch(&me.entries[record.offset / BUFFER].word, 1,
				   __ATOMIC_RELEASE);
		return;
	}
	word = __atomic_sub_fetch(&me.leases[record.lease].word, 1, __ATOMIC_RELEASE);
	if (word & EVPL_WORD_COUNT)
		return;
	/* Sometimes don't release the lease, so that the owner has to pull. */
	if (word & EVPL_WORD_WANTED || below(8))
		evpl_lease_release(me.client, &record.lease, 1);
}

/* Have the pipe hold pages of a device lease, often past the lease's end. */
static void fill_pipe(unsigned int n)
{
	const struct evpl_record *record = &me.held[n];
	struct iovec iovec = { memory_of(record), record->length };
	ssize_t ret;

	if (record->lease == EVPL_LEASE_NONE || !(record->flags & EVPL_RECORD_DEVICE))
		return;
	ret = vmsplice(me.pipe[1], &iovec, 1, SPLICE_F_NONBLOCK);
	if (ret < 0) {
		if (!was_revoked(record->lease))
			fail("vmsplice", errno);
		return;
	}
	me.piped = *record;
	me.piped.length = ret;
	if (below(2))
		let_go(n);
}

/*
 * Register the whole buffer of a reference. The ring has it from then on, whatever becomes of the
 * reference, unless the buffer is this worker's own.
 */
static void take_slot(unsigned int slot)
{
	struct evpl_record record = me.held[below(me.nr_held)];
	bool own = record.lease == EVPL_LEASE_NONE;
	int ret;

	if (own)
		record.flags = EVPL_RECORD_DEVICE | EVPL_RECORD_WRITE;
	if (!(record.flags & EVPL_RECORD_DEVICE))
		return;
	record.offset &= -BUFFER;
	record.length = BUFFER;
	ret = ring_take(&me.ring, me.client, slot, record.offset, BUFFER,
			record.flags & EVPL_RECORD_WRITE ? EVPL_URING_WRITE : 0);
	/* It may have been revoked. */
	if (ret == -ENOMEM || (ret == -ENOENT && !own))
		return;
	if (ret)
		fail("register", ret);
	me.slots[slot] = record;
	add(&shared->workers[me.number].slots, 1);
	add(&shared->registered, 1);
}

static void drop_slot(unsigned int slot)
{
	int ret = ring_drop(&me.ring, me.client, slot);

	if (ret)
		fail("unregister", ret);
	me.slots[slot].length = 0;
	add(&shared->workers[me.number].slots, -1);
}

static int submit_fixed(uint8_t opcode, int fd, unsigned int slot)
{
	return ring_submit(&me.ring, &(struct io_uring_sqe){
		.opcode = opcode,
		.fd = fd,
		.len = BUFFER,
		.buf_index = slot,
	});
}

static void do_fixed(uint8_t opcode, int fd, unsigned int slot)
{
	int ret = submit_fixed(opcode, fd, slot) ?: ring_wait(&me.ring);

	if (ret != BUFFER)
		fail("fixed I/O", ret);
}

/*
 * Write the data of a registered buffer to a pipe, and verify it, or read it back to where it was.
 * The owner fills a buffer that another's ring has anew only when it has the buffer back.
 */
static void use_slot(unsigned int slot)
{
	const struct evpl_record *record = &me.slots[slot];
	uint64_t words[BUFFER / 8], base = record->cookie;

	if (record->lease == EVPL_LEASE_NONE)
		base = me.bases[record->offset / BUFFER];
	do_fixed(IORING_OP_WRITE_FIXED, me.fixed[1], slot);
	add(&shared->fixed, 1);
	if (record->flags & EVPL_RECORD_WRITE && below(2)) {
		do_fixed(IORING_OP_READ_FIXED, me.fixed[0], slot);
		/* This one has the buffer until the worker dies. */
		if (!me.reads_idle && submit_fixed(IORING_OP_READ_FIXED, me.idle[0], slot))
			fail("a fixed read of an empty pipe", errno);
		me.reads_idle = true;
		return;
	}
	if (read(me.fixed[0], words, sizeof(words)) != sizeof(words))
		fail("read from the pipe of fixed I/O", errno);
	for (unsigned int i = 0; i < BUFFER / 8; i++)
		if (words[i] != base + i * STEP)
			fail("what a ring has registered has changed", i);
}

static void use_ring(void)
{
	unsigned int slot = below(SLOTS);

	if (!shared->can_register)
		return;
	if (!me.slots[slot].length && me.nr_held)
		take_slot(slot);
	else if (me.slots[slot].length && below(4))
		use_slot(slot);
	else if (me.slots[slot].length)
		drop_slot(slot);
}

/* Fill a buffer that nobody has, and take some slices of it, with a reference each. */
static void allocate(void)
{
	unsigned int n = below(NR_BUFFERS), slices = 1 + below(3);
	uint64_t *words = (void *)(me.own + n * BUFFER);

	if (me.nr_held + slices > MAX_HELD || load(&me.entries[n].word))
		return;
	me.bases[n] = me.random;
	for (unsigned int i = 0; i < BUFFER / 8; i++)
		words[i] = me.bases[n] + i * STEP;
	store(&me.entries[n].word, slices);
	for (unsigned int i = 0; i < slices; i++) {
		unsigned int from = below(BUFFER / 16) * 8;

		me.held[me.nr_held] = (struct evpl_record){
			.offset = n * BUFFER + from,
			.length = BUFFER / 2,
			.cookie = me.bases[n],
			.lease = EVPL_LEASE_NONE,
		};
		set_held(me.nr_held + 1);
	}
}

static void send_some(unsigned int to)
{
	struct evpl_record records[3];
	unsigned int nr = 1 + below(3), first;
	int ret;

	if (me.ends[to] < 0 || me.nr_held < nr)
		return;
	first = me.nr_held - nr;
	for (unsigned int i = 0; i < nr; i++) {
		records[i] = me.held[first + i];
		if (records[i].lease == EVPL_LEASE_NONE)
			records[i].flags = (below(2) ? EVPL_RECORD_WRITE : 0) |
					   (below(2) ? EVPL_RECORD_DEVICE : 0);
		else if (below(2))
			records[i].flags = 0;
	}
	about_to_wait(me.ends[to]);
	store(&shared->workers[me.number].in_call, 1);
	ret = evpl_send(me.ends[to], records, nr);
	store(&shared->workers[me.number].in_call, 0);
	if (ret == (int)nr) {
		for (unsigned int i = 0; i < nr; i++)
			if (records[i].lease != EVPL_LEASE_NONE)
				add(&shared->passed_on, 1);
		set_held(first);
		add(&shared->sent[me.number][to], nr);
		add(&shared->records, nr);
	} else if (ret == -ENOENT) {
		/* One of them has been revoked. */
		for (unsigned int i = 0; i < nr; i++)
			let_go(me.nr_held - 1);
	} else if (ret == -EPIPE) {
		close(me.ends[to]);
		me.ends[to] = -1;
	} else if (ret != -EAGAIN && ret != -EBUSY && ret != -ENOMEM) {
		fail("write", ret);
	}
}

static void receive_some(unsigned int from)
{
	struct evpl_record records[4];
	struct pollfd poll_fd = { .fd = me.ends[from], .events = POLLIN };
	unsigned int nr = 1 + below(4);
	int ret;

	if (me.ends[from] < 0 || me.nr_held + nr > MAX_HELD)
		return;
	/* Sometimes read without polling before, so that the read may wait. */
	if (below(16) && poll(&poll_fd, 1, 0) != 1)
		return;
	about_to_wait(me.ends[from]);
	store(&shared->workers[me.number].in_call, 1);
	ret = evpl_recv(me.ends[from], records, nr);
	store(&shared->workers[me.number].in_call, 0);
	if (ret == 0) {
		close(me.ends[from]);
		me.ends[from] = -1;
		return;
	}
	if (ret == -EAGAIN || ret == -ENOMEM)
		return;
	if (ret < 0)
		fail("read", ret);
	add(&shared->got[from][me.number], ret);
	for (int i = 0; i < ret; i++) {
		if (records[i].flags & EVPL_RECORD_REVOKED) {
			add(&shared->revoked, 1);
			continue;
		}
		me.held[me.nr_held] = records[i];
		set_held(me.nr_held + 1);
		verify(&records[i]);
	}
}

static void revoke_one(void)
{
	unsigned int n = below(NR_BUFFERS);
	int ret;

	if (!load(&me.entries[n].word))
		return;
	ret = evpl_revoke(me.client, n * BUFFER);
	/* 1: a pipe holds its pages. -EBUSY: it is in quarantine since an earlier revoke. */
	if (ret && ret != 1 && ret != -EBUSY)
		fail("revoke", ret);
}

static void fork_one(void)
{
	pid_t parent = getpid();

	add(&shared->forks, 1);
	if (fork())
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() == parent)
		usleep(below(3000));
	_exit(0);
}

/* Take an end that the parent sends, with the number of the worker that has the other end. */
static void take_ends(void)
{
	int end, ret;
	char from;

	end = recv_fd(me.control, &from, MSG_DONTWAIT);
	if (end == -ENOMSG)
		fail("no end came", 0);
	if (end < 0)
		return;
	if (me.ends[(int)from] >= 0)
		close(me.ends[(int)from]);
	me.ends[(int)from] = end;
	ret = evpl_bind(me.client, end);
	if (ret)
		fail("bind", ret);
}

static void *map(uint64_t size, uint64_t offset, int protection)
{
	void *p = mmap(NULL, size, protection, MAP_SHARED | MAP_NORESERVE,
		       me.client, offset);

	if (p == MAP_FAILED)
		fail("mmap", errno);
	return p;
}

static void map_windows(uint64_t slab)
{
	const int rw = PROT_READ | PROT_WRITE;

	me.own = map(SLAB_2M, slab, rw);
	me.entries = map(SLAB_2M / BUFFER * sizeof(struct evpl_entry),
			 me.setup.out_refs_offset, rw);
	me.guest = map(me.setup.out_guest_size, me.setup.out_guest_offset, rw);
	me.guest_ro = map(me.setup.out_guest_size, me.setup.out_guest_ro_offset, PROT_READ);
	me.guest_io = map(me.setup.out_guest_size, me.setup.out_guest_io_offset, rw);
	me.guest_io_ro = map(me.setup.out_guest_size, me.setup.out_guest_io_ro_offset,
			     PROT_READ);
	me.leases = map(me.setup.out_leases_size, me.setup.out_leases_offset, rw);
	me.revoked = map(me.setup.out_revoked_size, me.setup.out_revoked_offset, rw);
}

/* Set a client up, with a slab, pipes and a ring, and bind the ends that the parent gave. */
static void open_worker(void)
{
	uint64_t offset;
	int ret;

	me.client = open(DEVICE, O_RDWR | O_CLOEXEC);
	ret = evpl_setup(me.client, BUFFER, &me.setup);
	if (ret)
		fail("set-up", ret);
	while ((ret = evpl_slab_alloc(me.client, SLAB_2M, &offset)) == -ENOMEM)
		usleep(1000);
	if (ret)
		fail("slab", ret);
	map_windows(offset);
	if (pipe2(me.pipe, O_CLOEXEC | O_NONBLOCK) || pipe2(me.fixed, O_CLOEXEC | O_NONBLOCK) ||
	    pipe2(me.idle, O_CLOEXEC))
		fail("pipe", errno);
	if (shared->can_register && (!ring_open(&me.ring) || ring_table(&me.ring, SLOTS)))
		fail("ring", errno);
	for (int i = 0; i < WORKERS; i++) {
		if (me.ends[i] < 0)
			continue;
		ret = evpl_bind(me.client, me.ends[i]);
		if (ret)
			fail("bind", ret);
	}
}

static void use_ring_or_pipe_or_verify(void)
{
	if (below(2))
		use_ring();
	else if (me.piped.length)
		drain_pipe();
	else if (me.nr_held && below(2))
		fill_pipe(below(me.nr_held));
	else if (me.nr_held)
		verify(&me.held[below(me.nr_held)]);
}

static void revoke_pull_or_fork(void)
{
	if (!below(16))
		revoke_one();
	else if (!below(16))
		evpl_lease_pull_with(me.client, below(2));
	else if (!below(32))
		fork_one();
}

static void act(void)
{
	unsigned int other = below(WORKERS);

	switch (below(16)) {
	case 0:
		take_ends();
		break;
	case 1 ... 3:
		allocate();
		break;
	case 4 ... 8:
		send_some(other);
		break;
	case 9 ... 12:
		receive_some(other);
		break;
	case 13:
		use_ring_or_pipe_or_verify();
		break;
	case 14:
		if (me.nr_held)
			let_go(below(me.nr_held));
		break;
	default:
		revoke_pull_or_fork();
	}
}

static void be_worker(int number, int control, const int ends[WORKERS], uint64_t seed)
{
	struct sigaction action = { .sa_handler = touch_handler };

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	signal(SIGCHLD, SIG_IGN);
	sigaction(SIGBUS, &action, NULL);
	me.number = number;
	me.control = control;
	me.random = seed | 1;
	memcpy(me.ends, ends, sizeof(me.ends));
	open_worker();
	for (;;)
		act();
}

FIXTURE(storm)
{
	struct counters before;
	int fd;
	pid_t pids[WORKERS];
	int controls[WORKERS];
	uint64_t seed;
	unsigned int started;
};

FIXTURE_SETUP(storm)
{
	self->before = read_counters();
	self->fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	ASSERT_GE(self->fd, 0);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, shared);
	shared->can_register = rings_can_register();
	self->seed = getenv("EVPL_SEED") ? strtoull(getenv("EVPL_SEED"), NULL, 0) :
					   (uint64_t)time(NULL);
	TH_LOG("EVPL_SEED=%llu", (unsigned long long)self->seed);
	me.random = self->seed * STEP | 1;
}

FIXTURE_TEARDOWN(storm)
{
	close(self->fd);
	EXPECT_TRUE(counters_return_to(self->before));
}

/* Start a worker, with a channel to each of the others. */
static void start(struct __test_metadata *_metadata, struct _test_data_storm *self, int i)
{
	int sockets[2], ends[WORKERS], pair[2];
	uint64_t seed = (self->seed + self->started++) * STEP;

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, sockets));
	self->controls[i] = sockets[0];
	memset(&shared->workers[i], 0, sizeof(shared->workers[i]));
	for (int j = 0; j < WORKERS; j++) {
		ends[j] = -1;
		if (j == i || self->pids[j] <= 0)
			continue;
		ASSERT_EQ(0, evpl_channel(self->fd, 8, pair));
		/* One end in four is blocking. */
		for (int k = 0; k < 2; k++)
			if (below(4))
				fcntl(pair[k], F_SETFL, O_NONBLOCK);
		store(&shared->sent[i][j], 0);
		store(&shared->sent[j][i], 0);
		store(&shared->got[i][j], 0);
		store(&shared->got[j][i], 0);
		if (!send_fd(self->controls[j], i, pair[1]))
			ends[j] = pair[0];
		else
			close(pair[0]);
		close(pair[1]);
	}
	self->pids[i] = fork();
	if (!self->pids[i]) {
		/* Close the sockets of the other workers, and the parent's client. */
		for (int j = 0; j < WORKERS; j++)
			if (self->controls[j] >= 0)
				close(self->controls[j]);
		close(self->fd);
		be_worker(i, sockets[1], ends, seed);
	}
	ASSERT_LT(0, self->pids[i]);
	close(sockets[1]);
	for (int j = 0; j < WORKERS; j++)
		if (ends[j] >= 0)
			close(ends[j]);
}

/*
 * How many were killed with leases, with registered buffers, with records of theirs on their way,
 * inside a call.
 */
struct deaths {
	unsigned int with_leases, with_slots, undelivered, inside;
};

/* Run workers. Kill so many and start others in their place; at last kill all. */
static void storm(struct __test_metadata *_metadata, struct _test_data_storm *self,
		  unsigned int kills, struct deaths *deaths)
{
	for (int i = 0; i < WORKERS; i++) {
		self->pids[i] = 0;
		self->controls[i] = -1;
	}
	for (int i = 0; i < WORKERS; i++)
		start(_metadata, self, i);

	for (unsigned int n = 0; n < kills + WORKERS && !load(&shared->errors); n++) {
		int i = n < kills ? (int)below(WORKERS) : (int)(n - kills);
		bool on_the_way = false;

		if (n < kills)
			usleep(below(12000));
		for (int j = 0; j < WORKERS; j++)
			on_the_way |= (int)(load(&shared->sent[i][j]) -
					    load(&shared->got[i][j])) > 0;
		kill(self->pids[i], SIGKILL);
		ASSERT_EQ(-SIGKILL, reap(self->pids[i])) {
			TH_LOG("%s", shared->what);
		}
		self->pids[i] = 0;
		close(self->controls[i]);
		self->controls[i] = -1;
		deaths->with_leases += !!shared->workers[i].leases;
		deaths->with_slots += !!shared->workers[i].slots;
		deaths->undelivered += on_the_way;
		deaths->inside += shared->workers[i].in_call;
		if (n < kills)
			start(_metadata, self, i);
	}
	ASSERT_EQ(0, shared->errors) {
		TH_LOG("%s", shared->what);
	}
}

TEST_F_TIMEOUT(storm, processes_die_at_any_moment_and_nothing_is_lost, 7200)
{
	const unsigned int kills = scaled(2000), warm = kills / 5;
	struct counters before = read_counters();
	struct deaths deaths = { 0 };
	double lost;

	storm(_metadata, self, warm, &deaths);
	ASSERT_TRUE(counters_return_to(before));
	lost = settled_free();
	storm(_metadata, self, kills - warm, &deaths);
	ASSERT_TRUE(counters_return_to(before));
	lost = (lost - settled_free()) / (kills - warm);
	TH_LOG("%u killed: %u with leases, %u with records on their way, %u inside read or write",
	       kills, deaths.with_leases, deaths.undelivered, deaths.inside);
	TH_LOG("%llu records, %llu of them passed on, %llu revoked on the way, %llu verified, %llu forks",
	       shared->records, shared->passed_on, shared->revoked, shared->verified,
	       shared->forks);
	TH_LOG("%llu held by a pipe for a while", shared->piped);
	TH_LOG("%llu registered with rings, %llu fixed writes, %u killed with registered buffers",
	       shared->registered, shared->fixed, deaths.with_slots);
	TH_LOG("free memory falls by %.3f KiB a process", lost);
	EXPECT_LE(kills / 20, deaths.with_leases);
	EXPECT_LE(kills / 20, deaths.undelivered);
	EXPECT_LE(kills / 20, deaths.inside);
	EXPECT_LT(0, shared->passed_on);
	EXPECT_LT(0, shared->revoked);
	EXPECT_LT(0, shared->piped);
	if (shared->can_register) {
		EXPECT_LE(kills / 20, deaths.with_slots);
		EXPECT_LT(0, shared->fixed);
	}
	/* A process may lose half a page. See process.c for the condition. */
	if (kills >= 2000 && access("/sys/kernel/debug/kmemleak", F_OK))
		EXPECT_GT(2.0, lost);
}

TEST_HARNESS_MAIN
