// SPDX-License-Identifier: GPL-2.0-only
/* The fuzzer's workers: two threads that run programs, and undo what these did. */
#include <linux/futex.h>
#include <linux/kcov.h>
#include <poll.h>
#include <pthread.h>

#include "fuzz.h"

struct worker *worker;
static struct program program;
struct thread threads[2];
char *arena;
int fds[NR_FDS];
uint64_t buffer_sizes[NR_FDS];
uint64_t slabs[NR_FDS][NR_SLABS];
uint64_t maps[NR_MAPS];
int ends[NR_ENDS];
unsigned int end_clients[NR_ENDS];
struct got gots[NR_GOT];
int dmabufs[NR_DMABUFS];
struct evpl_setup windows;
int pipes[NR_PIPES][2];
int children[NR_CHILDREN];
bool kill_children;
bool caps_changed;
int cap_fds[2];
int kmsg = -1;
static unsigned int turn, turn_done;
struct ready ready;

void count(unsigned int kind, int ret)
{
	add(&shared->results[kind][-ret < NR_RESULTS ? -ret : NR_RESULTS - 1], 1);
}

static void open_trace(struct thread *self)
{
	int fd = open("/sys/kernel/debug/kcov", O_RDWR | O_CLOEXEC);

	if (fd < 0 || ioctl(fd, KCOV_INIT_TRACE, MAX_TRACE))
		return;
	self->trace = mmap(NULL, MAX_TRACE * sizeof(*self->trace),
			   PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (self->trace == MAP_FAILED || ioctl(fd, KCOV_ENABLE, KCOV_TRACE_PC))
		self->trace = NULL;
}

static void note_reached(struct thread *self)
{
	unsigned long nr = __atomic_load_n(&self->trace[0], __ATOMIC_RELAXED);
	uint32_t last = 0;

	for (unsigned long i = 1; i <= nr && i < MAX_TRACE; i++) {
		uint32_t pc = self->trace[i];
		uint32_t slot = (pc * 0x9e3779b1U) >> 16;
		uint32_t edge = ((pc ^ last) * 0x9e3779b1U) >> 16;

		last = pc << 7 | pc >> 25;
		if (self->marks[edge] == self->round)
			continue;
		self->marks[edge] = self->round;
		if (self->nr_reached < MAX_REACHED)
			self->reached[self->nr_reached++] = edge;
		if (!shared->pcs[slot] && !swap(&shared->pcs[slot], 1))
			add(&shared->nr_pcs, 1);
	}
}

static void run_calls(struct thread *self)
{
	unsigned int done = 0;

	self->round++;
	self->nr_reached = 0;
	for (unsigned int i = 0; i < program.nr; i++) {
		const struct call *call = &program.calls[i];

		if (call->sibling != self->sibling)
			continue;
		if (self->trace)
			__atomic_store_n(&self->trace[0], 0, __ATOMIC_RELAXED);
		count(call->kind, kinds[call->kind].run(self, call->arg));
		if (self->trace)
			note_reached(self);
		done++;
	}
	add(&shared->calls, done);
	add(&worker->calls, done);
	if (self->child)
		_exit(0);
}

static void wait_while(unsigned int *word, unsigned int value)
{
	while (load(word) == value)
		syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void set_and_wake(unsigned int *word, unsigned int value)
{
	store(word, value);
	syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static void *be_sibling(void *arg)
{
	struct thread *self = arg;

	open_trace(self);
	for (unsigned int seen = 0;; seen++) {
		wait_while(&turn, seen);
		run_calls(self);
		set_and_wake(&turn_done, seen + 1);
	}
	return NULL;
}

static void make_ready(void)
{
	uint64_t offset;

	if (ready.memory) {
		munmap(ready.memory, SLAB_2M);
		munmap(ready.entries, PAGE);
		close(ready.fd);
	}
	ready.used = 0;
	ready.fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	if (ready.fd < 0)
		_exit(8);
	/* A cap may be low just now. */
	while (evpl_setup(ready.fd, 0, &windows))
		usleep(10000);
	while (evpl_slab_alloc(ready.fd, SLAB_2M, &offset))
		usleep(10000);
	ready.memory = evpl_map(ready.fd, SLAB_2M, offset);
	ready.entries = evpl_map(ready.fd, PAGE, windows.out_refs_offset);
	if (ready.memory == MAP_FAILED || ready.entries == MAP_FAILED)
		_exit(9);
}

static void hand_out_ready(void)
{
	if (!ready.memory || ready.used++ > 500 ||
	    lseek(ready.fd, 0, SEEK_END) != SLAB_2M ||
	    access_word((void *)ready.memory, false, 0))
		make_ready();
	for (int i = 0; i < SLAB_2M / EVPL_BUFFER_SIZE_DEFAULT; i++)
		store(&ready.entries[i].word, 0);
	fds[NR_FDS - 1] = dup(ready.fd);
	slabs[NR_FDS - 1][0] = 1;
	buffer_sizes[NR_FDS - 1] = EVPL_BUFFER_SIZE_DEFAULT;
}

/* Each program has new pipes, which nothing was spliced into: see do_ring_io(). */
static void open_pipes(void)
{
	for (int i = 0; i < NR_PIPES; i++)
		if (pipe2(pipes[i], O_NONBLOCK | O_CLOEXEC))
			_exit(5);
}

static void close_pipes(void)
{
	for (int i = 0; i < NR_PIPES; i++) {
		close(pipes[i][0]);
		close(pipes[i][1]);
	}
}

static void clear_arena(void)
{
	if (mmap(arena, NR_MAPS * MAP_SLOT, PROT_NONE, MAP_PRIVATE |
		 MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
		_exit(2);
	memset(maps, 0, sizeof(maps));
}

/* Undo all that a program did. */
static void clean_up(void)
{
	for (int i = 0; i < NR_CHILDREN; i++) {
		if (!children[i])
			continue;
		if (kill_children)
			kill(children[i], SIGKILL);
		waitpid(children[i], NULL, 0);
		children[i] = 0;
	}
	kill_children = false;
	for (int i = 0; i < NR_FDS; i++)
		put_fd(i, -1);
	for (int i = 0; i < NR_ENDS; i++) {
		int end = swap(&ends[i], -1);

		if (end >= 0)
			close(end);
	}
	for (int i = 0; i < NR_DMABUFS; i++) {
		int dmabuf = swap(&dmabufs[i], -1);

		if (dmabuf >= 0)
			close(dmabuf);
	}
	for (int i = 0; i < ARRAY_SIZE(threads); i++)
		clear_ring(&threads[i]);
	memset(end_clients, 0, sizeof(end_clients));
	memset(gots, 0, sizeof(gots));
	memset(slabs, 0, sizeof(slabs));
	clear_arena();
	close_pipes();
	open_pipes();
	if (caps_changed)
		reset_caps();
	caps_changed = false;
}

static void hand_over(void)
{
	struct thread *a = &threads[0], *b = &threads[1];
	unsigned int head = worker->head;
	struct candidate *candidate = &worker->ring[head % RING];
	bool new = false;

	for (unsigned int i = 0; i < b->nr_reached && a->nr_reached < MAX_REACHED; i++)
		if (a->marks[b->reached[i]] != a->round)
			a->reached[a->nr_reached++] = b->reached[i];
	for (unsigned int i = 0; i < a->nr_reached && !new; i++)
		new = !shared->edges[a->reached[i]];
	if (!new || head - load(&worker->tail) == RING)
		return;

	candidate->program = program;
	candidate->nr_reached = a->nr_reached;
	memcpy(candidate->reached, a->reached, sizeof(a->reached));
	store(&worker->head, head + 1);
	for (unsigned int i = 0; i < a->nr_reached; i++)
		store(&shared->edges[a->reached[i]], 1);
}

static void run_program(void)
{
	static char text[MAX_CALLS * 64];
	bool both = false;

	for (unsigned int i = 0; i < program.nr; i++)
		both |= program.calls[i].sibling;
	worker->current = program;
	store(&worker->programs, worker->programs + 1);
	if (kmsg >= 0) {
		print_program(text, sizeof(text) - 1, &program);
		strcat(text, "\n");
		if (write(kmsg, text, strlen(text)) < 0)
			_exit(3);
	}

	hand_out_ready();
	threads[1].nr_reached = 0;
	if (both)
		set_and_wake(&turn, turn + 1);
	run_calls(&threads[0]);
	if (both)
		wait_while(&turn_done, turn - 1);
	if (threads[0].trace)
		hand_over();
	clean_up();
}

static void prepare_thread(struct thread *self, uint64_t seed)
{
	struct evpl_setup setup = { .size = sizeof(setup) };
	struct evpl_slab_alloc alloc = {
		.size = sizeof(alloc),
		.length = SLAB_2M,
		.node = EVPL_NODE_ANY,
	};
	struct evpl_slab_free slab_free = { .size = sizeof(slab_free) };
	char *pages = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (pages == MAP_FAILED)
		_exit(4);
	/* Put each struct at the offset that is its size; the structs don't overlap there. */
	memcpy(pages + 3 * PAGE + sizeof(slab_free), &slab_free, sizeof(slab_free));
	memcpy(pages + 3 * PAGE + sizeof(alloc), &alloc, sizeof(alloc));
	memcpy(pages + 3 * PAGE + sizeof(setup), &setup, sizeof(setup));
	mprotect(pages + 2 * PAGE, PAGE, PROT_NONE);
	mprotect(pages + 3 * PAGE, PAGE, PROT_READ);
	self->pages = pages;
	open_ring(self);
	self->random = seed ?: 1;
	for (int i = 0; i < 8; i++)
		next(&self->random);
}

void work(unsigned int nr, uint64_t seed, pid_t parent)
{
	struct sigaction action = {
		.sa_handler = handle_fault,
		.sa_flags = SA_NODEFER,
	};
	pthread_t sibling;
	char *room;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(0);
	signal(SIGTERM, SIG_DFL);
	signal(SIGINT, SIG_DFL);
	sigaction(SIGBUS, &action, NULL);
	sigaction(SIGSEGV, &action, NULL);
	worker = &shared->workers[nr];
	for (int i = 0; i < NR_FDS; i++) {
		fds[i] = -1;
		buffer_sizes[i] = EVPL_BUFFER_SIZE_DEFAULT;
	}
	for (int i = 0; i < NR_ENDS; i++)
		ends[i] = -1;
	for (int i = 0; i < NR_DMABUFS; i++)
		dmabufs[i] = -1;
	open_pipes();

	/* Parts of mappings may reach past the arena: leave memory without access around it. */
	room = mmap(NULL, (NR_MAPS + 2) * MAP_SLOT, PROT_NONE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (room == MAP_FAILED)
		_exit(6);
	arena = (char *)(((uintptr_t)room + MAP_SLOT) & -MAP_SLOT);
	for (int i = 0; i < 2; i++)
		prepare_thread(&threads[i], seed + i * 0x9e3779b97f4a7c15ULL);
	threads[1].sibling = true;
	open_trace(&threads[0]);
	if (threads[0].trace)
		store(&shared->guided, 1);
	if (pthread_create(&sibling, NULL, be_sibling, &threads[1]))
		_exit(7);

	while (!load(&shared->stop) && load(&shared->calls) < shared->limit) {
		choose(&threads[0], &program);
		run_program();
	}
	_exit(0);
}
