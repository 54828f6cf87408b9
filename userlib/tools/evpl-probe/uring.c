// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/* Tests of io_uring, with plain and with registered buffers. */
#include <errno.h>
#include <liburing.h>
#include <linux/evpl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "probe.h"

#define ENTRIES			4

/* From Linux 6.12. Older headers don't have it. */
#define REGISTER_CLONE_BUFFERS	30
struct clone_buffers {
	__u32 src_fd;
	__u32 flags;
	__u32 pad[6];
};

static void explain_forbidden(struct row *row, int error)
{
	FILE *file = fopen("/proc/sys/kernel/io_uring_disabled", "re");
	int disabled = 0;

	if (file) {
		if (fscanf(file, "%d", &disabled) != 1)
			disabled = 0;
		fclose(file);
	}
	if (disabled) {
		row_no(row, error, "io_uring is disabled: kernel.io_uring_disabled is %d.", disabled);
		row_remedy(row, disabled == 1 ?
			   "sysctl kernel.io_uring_disabled=0, or put this user's group into kernel.io_uring_group." :
			   "sysctl kernel.io_uring_disabled=0.");
		return;
	}
	row_no(row, error, "This process may not use io_uring: a seccomp filter or another security module forbids it.");
	row_remedy(row, "Allow io_uring_setup, io_uring_enter and io_uring_register in the container's seccomp profile.");
}

static bool ring_open(struct row *row, struct io_uring *ring, unsigned int flags)
{
	int err = io_uring_queue_init(ENTRIES, ring, flags);

	switch (-err) {
	case 0:
		return true;
	case EPERM:
	case EACCES:
		explain_forbidden(row, -err);
		return false;
	case ENOSYS:
		row_no(row, ENOSYS, "This kernel has no io_uring, or a seccomp filter says so.");
		row_remedy(row, "Use a kernel with CONFIG_IO_URING; allow io_uring_setup in the container's seccomp profile.");
		return false;
	case EINVAL:
		row_no(row, EINVAL, "This kernel has no such rings.");
		row_remedy(row, "Use Linux 6.0 or later.");
		return false;
	case ENOMEM:
		/* Some kernels charge the ring itself: here a page for it, and one for its SQEs. */
		if (row_blame_memlock(row, ENOMEM, TO_USER, 2 * (uint64_t)sysconf(_SC_PAGESIZE),
				      "a ring"))
			return false;
	}
	row_no(row, -err, "There is no ring: %s.", strerror(-err));
	return false;
}

/* Submits the prepared request, and returns its result. */
static int submit(struct io_uring *ring)
{
	struct io_uring_cqe *cqe;
	int ret;

	ret = io_uring_submit(ring);
	if (ret == 1)
		ret = io_uring_wait_cqe(ring, &cqe);
	else if (ret >= 0)
		ret = -EIO;
	if (ret < 0)
		return ret;
	ret = cqe->res;
	io_uring_cqe_seen(ring, cqe);
	return ret;
}

static bool moved(struct row *row, const char *what, int result)
{
	if (result == (int)BUFFER)
		return true;
	row_no(row, result < 0 ? -result : EIO, "%s: %s.", what,
	       result < 0 ? strerror(-result) : "not all bytes were moved");
	return false;
}

/*
 * Moves the bytes through a file, in the registered buffer @index, or in plain memory if -1. In the
 * buffer the address @base is 0.
 */
static bool through_file(struct row *row, struct memory *memory, struct io_uring *ring, int index,
			 const void *base)
{
	void *from = (void *)((uintptr_t)memory->from.data - (uintptr_t)base);
	void *to = (void *)((uintptr_t)memory->to.data - (uintptr_t)base);
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
	int fd = memfd_create("evpl-probe", MFD_CLOEXEC);

	if (index < 0)
		io_uring_prep_write(sqe, fd, from, BUFFER, 0);
	else
		io_uring_prep_write_fixed(sqe, fd, from, BUFFER, 0, index);
	if (!moved(row, "A write", submit(ring)))
		return false;
	sqe = io_uring_get_sqe(ring);
	if (index < 0)
		io_uring_prep_read(sqe, fd, to, BUFFER, 0);
	else
		io_uring_prep_read_fixed(sqe, fd, to, BUFFER, 0, index);
	return moved(row, "A read", submit(ring)) && memory_arrived(memory, row);
}

static void try_plain(struct row *row, struct memory *memory, unsigned int flags)
{
	struct io_uring ring;

	if (ring_open(row, &ring, flags) && through_file(row, memory, &ring, -1, NULL))
		row_yes(row, "64 KiB were written to a file and read back.");
}

void try_uring(struct row *row, struct memory *memory)
{
	try_plain(row, memory, 0);
}

void try_single_issuer(struct row *row, struct memory *memory)
{
	try_plain(row, memory, IORING_SETUP_SINGLE_ISSUER);
}

void try_send_zc(struct row *row, struct memory *memory)
{
	struct io_uring_sqe *sqe;
	struct io_uring_cqe *cqe;
	struct io_uring ring;
	int sockets[2], sent;

	if (!loopback_open(row, sockets) || !ring_open(row, &ring, 0))
		return;
	sqe = io_uring_get_sqe(&ring);
	io_uring_prep_send_zc(sqe, sockets[0], memory->from.data, BUFFER, MSG_WAITALL, 0);
	sent = submit(&ring);
	if (sent == -EINVAL) {
		row_no(row, EINVAL, "This kernel has no SEND_ZC.");
		row_remedy(row, "Use Linux 6.0 or later.");
		return;
	}
	/* The kernel charges two pages more, in case the bytes lie across pages. */
	if (sent == -ENOMEM &&
	    row_blame_memlock(row, ENOMEM, TO_USER, BUFFER + 2 * (uint64_t)sysconf(_SC_PAGESIZE),
			      "sending 64 KiB without a copy"))
		return;
	if (!moved(row, "A send", sent))
		return;
	if (!loopback_arrived(row, memory, sockets[1]))
		return;
	if (io_uring_wait_cqe(&ring, &cqe) || cqe->flags != IORING_CQE_F_NOTIF) {
		row_no(row, EIO, "The ring doesn't tell when the memory is free again.");
		return;
	}
	row_yes(row, "64 KiB went over the loopback device.");
}

/* Has the ring pin and register the slab, as its buffer 0. Fills in the row if that fails. */
static bool pin_slab(struct row *row, struct memory *memory, struct io_uring *ring)
{
	struct iovec slab = { .iov_base = memory->slab.base, .iov_len = memory->slab.length };
	int err = io_uring_register_buffers(ring, &slab, 1);

	if (!err)
		return true;
	if (err == -EOPNOTSUPP) {
		row_no(row, EOPNOTSUPP, "Before Linux 6.5, io_uring registers no memory that is mapped from a file, but for shmem and hugetlbfs.");
		row_remedy(row, "Use a later kernel, or do without: libevplmem-uring then does plain reads and writes.");
	} else if (err != -ENOMEM || !row_blame_memlock(row, ENOMEM, TO_USER, memory->slab.length,
							"registering this slab")) {
		row_no(row, -err, "A slab can't be registered: %s.", strerror(-err));
	}
	return false;
}

void try_fixed(struct row *row, struct memory *memory)
{
	struct io_uring ring;

	if (!ring_open(row, &ring, 0) || !pin_slab(row, memory, &ring))
		return;
	if (through_file(row, memory, &ring, 0, NULL))
		row_yes(row, "64 KiB of a registered slab were written to a file and read back.");
	/* Without this, the user stays charged until the kernel has freed the ring. */
	io_uring_unregister_buffers(&ring);
}

static int clone_buffers(struct io_uring *ring, struct io_uring *source)
{
	struct clone_buffers clone = { .src_fd = (__u32)source->ring_fd };

	return syscall(SYS_io_uring_register, ring->ring_fd, REGISTER_CLONE_BUFFERS, &clone, 1) ?
	       -errno : 0;
}

void try_cloned(struct row *row, struct memory *memory)
{
	struct io_uring source, ring;
	int err;

	if (!ring_open(row, &source, 0) || !ring_open(row, &ring, 0))
		return;
	/* The source has no table yet. A kernel that can clone gives another error for that. */
	if (clone_buffers(&ring, &source) == -EINVAL) {
		row_no(row, EINVAL, "Before Linux 6.12, io_uring can't clone a table of registered buffers.");
		row_remedy(row, "Use a later kernel, or register with each ring.");
		return;
	}
	if (!pin_slab(row, memory, &source))
		return;
	err = clone_buffers(&ring, &source);
	if (err)
		row_no(row, -err, "The table can't be cloned: %s.", strerror(-err));
	else if (through_file(row, memory, &ring, 0, NULL))
		row_yes(row, "One ring's registered slab is another one's without being registered again.");
	io_uring_unregister_buffers(&ring);
	io_uring_unregister_buffers(&source);
}

/* Has the module register the slab with a ring, which pins nothing. */
void try_uncharged(struct row *row, struct memory *memory)
{
	struct evpl_uring_buffer buffer = {
		.length = (__u32)memory->slab.length,
		.flags = EVPL_URING_WRITE,
	};
	struct io_uring_sqe *sqe;
	struct io_uring ring;
	uint64_t offset;
	int err;

	if (!ring_open(row, &ring, 0))
		return;
	err = evpl_slab_offset(memory->pool, &memory->slab, &offset);
	if (!err)
		err = io_uring_register_buffers_sparse(&ring, 1);
	if (!err) {
		buffer.offset = offset;
		sqe = io_uring_get_sqe(&ring);
		io_uring_prep_rw(IORING_OP_URING_CMD, sqe, evpl_pool_fd(memory->pool), NULL, 0, 0);
		sqe->cmd_op = EVPL_URING_REGISTER;
		memcpy(sqe->cmd, &buffer, sizeof(buffer));
		err = submit(&ring);
	}
	if (err == -EOPNOTSUPP) {
		row_no(row, EOPNOTSUPP, "Before Linux 7.3, no driver can register memory with a ring.");
		row_remedy(row, "Use a later kernel, or have io_uring pin the memory, as libevplmem-uring does.");
	} else if (err) {
		row_no(row, -err, "The module can't register a slab: %s.", strerror(-err));
	} else if (through_file(row, memory, &ring, 0, memory->slab.base)) {
		row_yes(row, "64 KiB of a slab that the module registered were written to a file and read back.");
	}
}

/*
 * How many bytes of other memory this user can still register, up to @most. The kernel shows its
 * charges to a user in no other way. Returns UNKNOWN if there is no ring to try it with.
 */
uint64_t uring_lockable(uint64_t most)
{
	const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	uint64_t fits = 0, fails = most / page + 1, pages;
	struct io_uring ring;
	struct iovec iovec;

	iovec.iov_base = mmap(NULL, most + page, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (iovec.iov_base == MAP_FAILED || io_uring_queue_init(ENTRIES, &ring, 0))
		return UNKNOWN;
	while (fits + 1 < fails) {
		pages = (fits + fails) / 2;
		iovec.iov_len = pages * page;
		if (io_uring_register_buffers(&ring, &iovec, 1)) {
			fails = pages;
		} else {
			io_uring_unregister_buffers(&ring);
			fits = pages;
		}
	}
	io_uring_queue_exit(&ring);
	munmap(iovec.iov_base, most + page);
	return fits * page;
}
