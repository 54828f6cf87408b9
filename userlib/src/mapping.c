// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Mappings with a larger alignment than the kernel gives them.
 *
 * Buffers are aligned to their own size, so that a slice can have any alignment up to
 * that size. Slabs are aligned to 2 MiB, so that a PMD can map a folio of 2 MiB.
 */
#include "mapping.h"

#include <errno.h>
#include <sys/mman.h>

/**
 * map_reserve() - reserve a range of addresses, without memory
 * @length: bytes, a multiple of the page size
 *
 * After mlockall(MCL_FUTURE) the whole length of a new mapping counts against
 * RLIMIT_MEMLOCK, even if it is never touched. So this maps one page, unlocks it, and has
 * mremap() extend it: that length doesn't count.
 *
 * Return: the first address, or MAP_FAILED and errno.
 */
void *map_reserve(size_t length)
{
	const size_t size = page_size();
	void *page, *start;
	int err;

	page = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (page == MAP_FAILED)
		return page;
	munlock(page, size);
	start = mremap(page, size, length, MREMAP_MAYMOVE);
	if (start == MAP_FAILED) {
		err = errno;
		munmap(page, size);
		errno = err;
	}
	return start;
}

/**
 * map_aligned() - map shared memory, readable and writable
 * @r_base: where the address goes
 * @length: bytes, a multiple of the page size
 * @align: a power of two and a multiple of the page size
 * @flags: further MAP_* flags
 * @fd: the file to map, or -1
 * @offset: the offset in @fd
 *
 * Return: 0 or -errno.
 */
int map_aligned(void **r_base, size_t length, size_t align, int flags, int fd, uint64_t offset)
{
	size_t head, reserve = length + align;
	char *start, *base;
	int err;

	start = map_reserve(reserve);
	if (start == MAP_FAILED)
		return -errno;
	head = -(uintptr_t)start & (align - 1);
	base = start + head;
	if (mmap(base, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | flags, fd,
		 (off_t)offset) == MAP_FAILED) {
		err = -errno;
		munmap(start, reserve);
		return err;
	}
	if (head)
		munmap(start, head);
	if (align > head)
		munmap(base + length, align - head);
	*r_base = base;
	return 0;
}
