// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * The source or the target: a regular file or a block device, read and written with
 * io_uring.
 *
 * The file is opened twice: with O_DIRECT, if that is possible, and without. Aligned
 * requests bypass the page cache. The end of a target may not be aligned. It goes through
 * the page cache, so that no bytes behind it are overwritten. If the kernel refuses a
 * request that is aligned to BLOCK, all later requests go through the page cache.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "copy.h"

static void disk_open(struct copy *copy, int flags)
{
	struct disk *disk = &copy->disk;
	struct stat st;

	disk->path = copy->options.file;
	disk->direct_fd = -1;
	disk->fd = open(disk->path, flags | O_CLOEXEC, 0666);
	if (disk->fd < 0)
		die(copy, "Can't open %s: %s.%s", disk->path, strerror(errno),
		    errno == EBUSY ? " Is it mounted?" : "");
	if (fstat(disk->fd, &st))
		die(copy, "Can't look at %s: %s.", disk->path, strerror(errno));
	disk->is_block = S_ISBLK(st.st_mode);
	if (!disk->is_block && !S_ISREG(st.st_mode))
		die(copy, "%s is neither a regular file nor a block device. Give one of these.",
		    disk->path);
	disk->length = (uint64_t)st.st_size;
	if (disk->is_block && ioctl(disk->fd, BLKGETSIZE64, &disk->length))
		die(copy, "Can't tell how long %s is: %s.", disk->path, strerror(errno));
	disk->direct_fd = open(disk->path, (flags & ~(O_CREAT | O_EXCL)) | O_DIRECT | O_CLOEXEC);
}

void disk_open_source(struct copy *copy)
{
	disk_open(copy, O_RDONLY);
}

/* O_EXCL without O_CREAT fails if the device is mounted. */
void disk_open_target(struct copy *copy)
{
	struct stat st;
	int flags = O_WRONLY | O_CREAT;

	if (!stat(copy->options.file, &st) && S_ISBLK(st.st_mode))
		flags = O_WRONLY | O_EXCL;
	disk_open(copy, flags);
}

/* Reserves room for @length bytes. Returns the reason if there is no room, or NULL. */
const char *disk_reserve(struct copy *copy, uint64_t length)
{
	struct disk *disk = &copy->disk;

	if (disk->is_block)
		return length > disk->length ? "The target device is too small." : NULL;
	/* A file system may not support this. Then a write fails if there is no room. */
	if (length && fallocate(disk->fd, FALLOC_FL_KEEP_SIZE, 0, (off_t)length)) {
		if (errno == ENOSPC || errno == EDQUOT)
			return "There isn't room enough for the target file.";
		if (errno == EFBIG)
			return "The target's file system takes no file as long.";
	}
	return NULL;
}

static struct io_uring_sqe *get_sqe(struct copy *copy)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&copy->ring);

	/* The ring has room for all ops. */
	if (!sqe)
		die(copy, "The io_uring is full. That is a bug in evpl-copy.");
	return sqe;
}

/* Starts a request for the rest of a chunk, or for the aligned part of that. */
void disk_start(struct copy *copy, struct op *op)
{
	struct disk *disk = &copy->disk;
	uint64_t offset = (uint64_t)op->number * copy->options.chunk + op->done;
	struct evpl_iovec piece = op->iovec;
	struct io_uring_sqe *sqe = get_sqe(copy);
	int registered, fd;

	/* This copy of the iovec is the same reference as the op's. */
	piece.data = (char *)piece.data + op->done;
	piece.length = op->length - op->done;

	op->direct = false;
	if (disk->direct_fd >= 0 && op->done % BLOCK == 0) {
		/* A read may go past the end of the file. A write must not. */
		if (!copy->options.listen)
			piece.length = (piece.length + BLOCK - 1) / BLOCK * BLOCK;
		else if (piece.length >= BLOCK)
			piece.length = piece.length / BLOCK * BLOCK;
		op->direct = piece.length % BLOCK == 0;
	}
	fd = op->direct ? disk->direct_fd : disk->fd;
	if (copy->options.listen)
		registered = evpl_uring_prep_write(copy->memory.uring, sqe, fd, &piece, offset);
	else
		registered = evpl_uring_prep_read(copy->memory.uring, sqe, fd, &piece, offset);
	io_uring_sqe_set_data(sqe, op);
	if (registered)
		disk->registered++;
	else
		disk->plain++;
}

/* Handles a completed request. The chunk may need another one. */
void disk_done(struct copy *copy, struct op *op, int result)
{
	struct disk *disk = &copy->disk;

	if (op->kind == OP_SYNC) {
		if (result)
			die(copy, "Can't make %s durable: %s.", disk->path, strerror(-result));
		copy->synced(copy);
		return;
	}
	if (result == -EINVAL && op->direct) {
		if (disk->direct_fd >= 0)
			close(disk->direct_fd);
		disk->direct_fd = -1;
		disk_start(copy, op);
		return;
	}
	if (result == -EINTR || result == -EAGAIN) {
		disk_start(copy, op);
		return;
	}
	if (result < 0)
		die(copy, "Can't %s %s: %s.", copy->options.listen ? "write" : "read", disk->path,
		    strerror(-result));
	if (!result)
		die(copy, "%s %s", disk->path, copy->options.listen ?
		    "takes no more bytes." : "has become shorter while it was read.");

	op->done += (unsigned int)result;
	if (op->done < op->length) {
		disk_start(copy, op);
		return;
	}
	copy->completed(copy, op);
}

/* All chunks are written: sets the target's length, and starts to make the target durable. */
void disk_finish(struct copy *copy, uint64_t length, struct op *sync)
{
	struct io_uring_sqe *sqe;

	if (!copy->disk.is_block && ftruncate(copy->disk.fd, (off_t)length))
		die(copy, "Can't make %s %llu bytes long: %s.", copy->disk.path,
		    (unsigned long long)length, strerror(errno));
	sqe = get_sqe(copy);
	io_uring_prep_fsync(sqe, copy->disk.fd, 0);
	io_uring_sqe_set_data(sqe, sync);
}

void disk_close(struct copy *copy)
{
	if (copy->disk.direct_fd >= 0)
		close(copy->disk.direct_fd);
	close(copy->disk.fd);
}
