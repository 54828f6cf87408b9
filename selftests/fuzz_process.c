// SPDX-License-Identifier: GPL-2.0-only
/* The calls that make processes: a child that goes on, and a victim that is killed. */
#include <sys/ptrace.h>
#include <sys/user.h>

#include "fuzz_calls.h"

/* The child makes the rest of the program's calls, beside its parent. */
static int do_fork(struct thread *self, const uint8_t *arg)
{
	pid_t parent = getpid(), pid;
	int slot = 0;

	if (self->child)
		return -EPERM;
	while (load(&children[slot]))
		if (++slot == NR_CHILDREN)
			return -EAGAIN;

	pid = fork();
	if (pid < 0)
		return -errno;
	if (!pid) {
		self->child = true;
		self->trace = NULL;
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent || arg[0] == 2)
			_exit(0);
		return 0;
	}
	if (arg[0] == 1)
		kill_children = true;
	/* If the other thread took this slot meanwhile, kill its child now. */
	pid = swap(&children[slot], pid);
	if (pid) {
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
	}
	return 0;
}

#define VICTIM_LENGTH	(16 * MIB)

static void be_victim(bool by_mmap)
{
	int fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	struct evpl_setup setup;
	uint64_t offset;

	evpl_setup(fd, 0, &setup);
	store(&worker->victim_runs, 1);
	for (;;) {
		if (!by_mmap) {
			if (!evpl_slab_alloc(fd, VICTIM_LENGTH, &offset))
				evpl_slab_free(fd, offset);
		} else {
			void *p;

			fd = open(DEVICE, O_RDWR | O_CLOEXEC);
			p = evpl_map(fd, VICTIM_LENGTH, 0);
			if (p != MAP_FAILED)
				munmap(p, VICTIM_LENGTH);
			close(fd);
		}
	}
}

/*
 * A task with a fatal signal never sees the result of its call, but its tracer does:
 * the task stops on its way out, and the call's result is still in its registers.
 */
static int kill_one(struct thread *self, bool by_mmap)
{
	pid_t parent = getpid(), pid;
	int ret = -EAGAIN, status;

	store(&worker->victim_runs, 0);
	pid = fork();
	if (pid < 0)
		return -errno;
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() == parent)
			be_victim(by_mmap);
		_exit(0);
	}
	ptrace(PTRACE_SEIZE, pid, NULL, PTRACE_O_TRACEEXIT | PTRACE_O_EXITKILL);
	for (int i = 0; i < 1000 && !load(&worker->victim_runs); i++)
		usleep(1000);
	usleep(below(self, 20000));
	kill(pid, SIGKILL);

	while (waitpid(pid, &status, __WALL) == pid && WIFSTOPPED(status)) {
#ifdef __x86_64__
		struct user_regs_struct regs;

		if (status >> 8 == (SIGTRAP | PTRACE_EVENT_EXIT << 8) &&
		    !ptrace(PTRACE_GETREGS, pid, NULL, &regs) &&
		    regs.orig_rax == (by_mmap ? SYS_mmap : SYS_ioctl) &&
		    (long)regs.rax == -EINTR) {
			count(by_mmap ? MMAP_OWN : ALLOC, -EINTR);
			ret = 0;
		}
#endif
		ptrace(PTRACE_CONT, pid, NULL, NULL);
	}
	return ret;
}

static int do_kill(struct thread *self, const uint8_t *arg)
{
	int ret = -EPERM;

	for (int tries = 0; ret && tries < 4 && !self->child && !self->sibling; tries++)
		ret = kill_one(self, arg[0]);
	return ret;
}

const struct kind process_kinds[NR_KINDS] = {
	[FORK] = { "fork", do_fork, 8, 16, 1, ARGS(3) },
	[KILL] = { "kill", do_kill, 12, 128, 1, ARGS(2) },
};
