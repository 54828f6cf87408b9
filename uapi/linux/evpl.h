/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
#ifndef _UAPI_LINUX_EVPL_H
#define _UAPI_LINUX_EVPL_H

#include <linux/const.h>
#include <linux/ioctl.h>
#include <linux/types.h>

/**
 * DOC: /dev/evpl
 *
 * Each open file description of /dev/evpl is a *client*. A client is set up
 * once (EVPL_SETUP), then allocates *slabs* of pinned memory (EVPL_SLAB_ALLOC).
 * It reaches everything through ranges of mmap offsets, its *windows*:
 *
 * own
 *	The client's slabs, readable and writable, from offset 0. Ordinary
 *	shared memory: anything can pin it. It is read-only where the descriptor
 *	was opened O_RDONLY.
 *
 * refs
 *	A &struct evpl_entry for each buffer of the own window: entry n belongs
 *	to the buffer at own offset n * buffer_size. A child doesn't inherit this
 *	mapping over fork(2), unless the client asked for it (MADV_DOFORK).
 *
 * Mappings are MAP_SHARED; PROT_EXEC is refused. An offset that no slab backs
 * raises SIGBUS when it is touched. A client that maps offset 0 before it was
 * set up is set up with the defaults, and gets a slab as long as the mapping,
 * rounded up to a multiple of %EVPL_SLAB_ALIGN: a program that can map a file
 * can use this memory unchanged.
 *
 * A client, its slabs and whatever it was charged for live until the last
 * descriptor and mapping of its open file description are gone.
 */

/**
 * DOC: ioctl format
 *
 * Each ioctl takes a pointer to one struct, whose first field is its size. A
 * kernel that knows a longer struct takes the missing fields as zero; one that
 * knows a shorter struct takes the surplus if it is zero. Calls that fail change
 * nothing, but that memory for entries, once taken, stays with the client. In all
 * of them
 *
 *  - ENOTTY: the kernel doesn't know the ioctl
 *  - E2BIG: the struct is longer than the kernel knows, and the surplus isn't
 *    zero, or it is longer than a page
 *  - EOPNOTSUPP: a flag that the kernel doesn't know
 *  - EINVAL: the struct is too short, a reserved field isn't zero, or a field's
 *    value is out of range, misaligned or overflows
 *  - EFAULT: the struct can't be read or written
 *  - EBUSY: the object is in a state, or in a use, that forbids the call
 *  - ENOENT: the object that was named doesn't exist
 *  - ENXIO: the client isn't set up yet
 *  - ENOMEM: memory is short, or a cap of the user, of the system or of the
 *    memory cgroup is reached
 *  - ENOSPC: the window has no free range as long as was asked for
 *  - EINTR: a fatal signal came while memory was being allocated
 *
 * mmap(2) gives
 *
 *  - EINVAL: MAP_PRIVATE
 *  - EPERM: PROT_EXEC
 *  - ENXIO: a range that isn't within one window, or an offset other than 0
 *    before the client was set up
 *  - ENOMEM, EINTR: as above, where the mapping allocates a slab
 *
 * mprotect(2) to PROT_EXEC gives EACCES, a mremap(2) that grows gives EFAULT,
 * MADV_REMOVE gives an error and keeps the memory.
 */

#define EVPL_IOC_TYPE	0xEB

/* Slabs start at multiples of this in the own window; so do their lengths. */
#define EVPL_SLAB_ALIGN		_BITUL(21)

#define EVPL_BUFFER_SIZE_MIN	_BITUL(12)
#define EVPL_BUFFER_SIZE_MAX	_BITUL(30)
#define EVPL_BUFFER_SIZE_DEFAULT _BITUL(20)

/*
 * Bits of evpl_entry.word. The other bits are 0. BIASED says that a thread
 * counts beside the word, without atomics, in a word of its own.
 */
#define EVPL_WORD_COUNT		0xffffffffULL
#define EVPL_WORD_BIASED	_BITULL(63)

/**
 * struct evpl_entry - the references of one buffer
 * @word: a count (%EVPL_WORD_COUNT) and flags. Any thread of the client changes
 *	it with atomics, and so does the kernel. A buffer is idle when the whole
 *	word is 0, the flags included.
 * @user: the client's own; the kernel neither reads nor writes it. It is zero
 *	when the client first sees it, and keeps what the client wrote when the
 *	slab is freed and its range is given to another.
 *
 * The kernel takes @word as a hint only. A client that overwrites its entries
 * harms itself and nobody else.
 */
struct evpl_entry {
	__aligned_u64 word;
	__aligned_u64 user[7];
};

/**
 * struct evpl_setup - ioctl(EVPL_SETUP)
 * @size: sizeof(struct evpl_setup)
 * @flags: must be 0
 * @buffer_size: bytes of a buffer: a power of two from %EVPL_BUFFER_SIZE_MIN to
 *	%EVPL_BUFFER_SIZE_MAX, or 0 for %EVPL_BUFFER_SIZE_DEFAULT
 * @out_buffer_size: the bytes of a buffer
 * @out_own_offset: mmap offset of the own window; always 0
 * @out_own_size: bytes of the own window
 * @out_refs_offset: mmap offset of the refs window
 * @out_refs_size: bytes of the refs window
 *
 * Sets the client up. No memory is taken for the windows until slabs come.
 *
 * Return: 0, or -1 and errno: EBUSY if the client is set up already.
 */
struct evpl_setup {
	__u32 size;
	__u32 flags;
	__aligned_u64 buffer_size;
	__aligned_u64 out_buffer_size;
	__aligned_u64 out_own_offset;
	__aligned_u64 out_own_size;
	__aligned_u64 out_refs_offset;
	__aligned_u64 out_refs_size;
};

#define EVPL_SETUP _IOWR(EVPL_IOC_TYPE, 0x00, struct evpl_setup)

/* The slab fails with ENOMEM unless all of it can be had in folios of 2 MiB. */
#define EVPL_SLAB_HUGE	_BITUL(0)

/* No preference for a NUMA node. */
#define EVPL_NODE_ANY	(-1)

/**
 * struct evpl_slab_alloc - ioctl(EVPL_SLAB_ALLOC)
 * @size: sizeof(struct evpl_slab_alloc)
 * @flags: %EVPL_SLAB_HUGE or 0
 * @length: bytes: a multiple of %EVPL_SLAB_ALIGN and of the buffer size, not 0
 * @node: NUMA node that all of the slab must come from, or %EVPL_NODE_ANY
 * @__reserved: must be 0
 * @out_offset: where the slab starts in the own window: a multiple of
 *	%EVPL_SLAB_ALIGN and of the buffer size
 *
 * Allocates a slab: zeroed, pinned, charged to the caller's memory cgroup and
 * to the user who opened the client. Its folios are 2 MiB long where the system
 * has them, else shorter, never below 4 pages. The lowest free range of the own
 * window is used. No process is killed to make room.
 *
 * Return: 0, or -1 and errno: ENXIO, ENOMEM, ENOSPC or EINTR as above; EINVAL
 * also where @node has no memory.
 */
struct evpl_slab_alloc {
	__u32 size;
	__u32 flags;
	__aligned_u64 length;
	__s32 node;
	__u32 __reserved;
	__aligned_u64 out_offset;
};

#define EVPL_SLAB_ALLOC _IOWR(EVPL_IOC_TYPE, 0x01, struct evpl_slab_alloc)

/**
 * struct evpl_slab_free - ioctl(EVPL_SLAB_FREE)
 * @size: sizeof(struct evpl_slab_free)
 * @flags: must be 0
 * @offset: where the slab starts in the own window
 *
 * Frees a slab. Once the call has returned, its range raises SIGBUS; while it
 * runs, another thread sees the old memory or SIGBUS. Memory that something
 * else still has pinned (a registration, a pipe) stays charged until that lets
 * it go.
 *
 * Return: 0, or -1 and errno: ENXIO; ENOENT if no slab starts at @offset; EBUSY
 * if one of its words isn't 0.
 */
struct evpl_slab_free {
	__u32 size;
	__u32 flags;
	__aligned_u64 offset;
};

#define EVPL_SLAB_FREE _IOWR(EVPL_IOC_TYPE, 0x02, struct evpl_slab_free)

#endif /* _UAPI_LINUX_EVPL_H */
