/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
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
 *	shared memory: anything can pin it, and futexes in it are those of all
 *	processes and mappings that have it. It is read-only where the descriptor
 *	was opened O_RDONLY.
 *
 * refs
 *	A &struct evpl_entry for each buffer of the own window: entry n belongs
 *	to the buffer at own offset n * buffer_size.
 *
 * guest, guest-ro
 *	The buffers of other clients that this one has a *lease* on, each at its
 *	place, writable or not. The CPU can touch them, and nothing can pin them:
 *	neither vmsplice(2) nor O_DIRECT, io_uring's registered buffers or RDMA
 *	(they give EFAULT). So taking a read-only lease away is complete and at once.
 *	Of a writable lease KVM before Linux 6.13 may hold a page: see DOC: fence.
 *	Nor can a futex of several processes be here (futex(2) gives EFAULT without
 *	FUTEX_PRIVATE_FLAG): the kernel finds it by its page, as what pins does.
 *
 * guest-io, guest-io-ro
 *	The same of *device leases*. What is here can be pinned; so when it ends, a
 *	device may still have it: see DOC: fence. Futexes here are those of the own
 *	window of the buffer's owner.
 *
 * leases
 *	A &struct evpl_entry for each lease, by its number.
 *
 * header, returned, revoked
 *	The &struct evpl_header, and two bitmaps that say which buffers have been
 *	given back and which leases revoked. See there.
 *
 * Mappings are MAP_SHARED; PROT_EXEC is refused. A child inherits mappings of the
 * own window over fork(2), and none of the others, unless it asked for it with
 * MADV_DOFORK, which guest and guest-ro refuse; the descriptor that it inherits
 * makes it a part of the client. An offset that nothing backs
 * raises SIGBUS when it is touched. A client that maps offset 0 before it was
 * set up is set up with the defaults, and gets a slab as long as the mapping,
 * rounded up to a multiple of %EVPL_SLAB_ALIGN: a program that can map a file
 * can use this memory unchanged.
 *
 * A client, its slabs and whatever it was charged for live until the last
 * descriptor and mapping of its open file description are gone. What others have
 * a lease on lives until that ends. Each folio of it is charged to the user of a client
 * that has one of these leases from then on, if that user's cap has room for it, and to
 * the memory cgroup that it was charged to before. An owner that mustn't go on paying for
 * what others keep is set up with %EVPL_SETUP_REVOKE.
 */

/**
 * DOC: channels
 *
 * A channel carries references on buffers from one client to another. It has two
 * *ends*, a descriptor each, made by EVPL_CHANNEL_CREATE. An end goes to another
 * process by inheritance or in a Unix socket, and is bound to one client of the
 * process that uses it (EVPL_CHANNEL_BIND). Then whoever has the end may write(2),
 * read(2) and poll(2) it, through io_uring also.
 *
 * What is written and read are whole &struct evpl_record. A write takes all of
 * its records or none. For each the client gives up one reference on the buffer,
 * that of its word; the kernel holds it until it is read, or given back because
 * the other end is closed or its client has gone.
 *
 * Who reads a record of another client's buffer gets a *lease* on it: the whole
 * buffer appears at the lease's place in the guest window that the record asked
 * for, and the word of the lease's entry goes up by one for each record. A client
 * has at most one lease a buffer and window. It lets go of a reference by taking one off the
 * word, and of the lease by EVPL_LEASE_RELEASE when the word is 0, or by passing
 * its last reference on. Who reads a record of a buffer of its own gets the
 * reference back: the word of the buffer's entry goes up by one.
 *
 * Whatever is on its way or leased counts as one reference on the owner's entry.
 * When the last of it ends, by release, close or death, the kernel takes that one
 * off; if the word is 0 then, the buffer is reported in the header.
 *
 * A lease lives longer than the client that owns the buffer, unless that client
 * was set up with %EVPL_SETUP_REVOKE.
 *
 * write(2) gives
 *
 *  - EINVAL: not whole records, @length is 0, or the range goes past the buffer's
 *    end
 *  - EOPNOTSUPP: a flag that the kernel doesn't know
 *  - EMSGSIZE: more records than the channel's capacity
 *  - ENOTCONN: the end isn't bound, or its client has gone
 *  - ENOENT: @offset is in no slab and no lease of the client, or in a revoked one
 *  - ESTALE: the word of the buffer, or of the lease, has no reference to give
 *  - EACCES: %EVPL_RECORD_WRITE, and the lease, or the client, is read-only;
 *    %EVPL_RECORD_DEVICE, and the lease isn't one for devices
 *  - EBUSY: the buffer is the client's own, and being revoked just now
 *  - EAGAIN: so many records don't fit now, and the descriptor is non-blocking
 *  - EPIPE: the other end is closed, or its client has gone (no SIGPIPE)
 *  - ENOMEM: memory is short, or a cap is reached
 *  - EFAULT: the records can't be read
 *
 * read(2) gives 0 when the other end is closed, or its client has gone, and
 * nothing is left to read, and
 *
 *  - EINVAL: room for less than one record
 *  - ENOTCONN, EAGAIN: as above
 *  - ENOSPC: the window has no place left; the record stays
 *  - ENOMEM: memory is short, or a cap is reached; the record stays
 *  - EFAULT: the record can't be written; it stays
 *
 * Both give EINTR when a signal comes while they wait, and nothing has moved.
 * poll(2) says POLLIN when there is a record or the end of them, POLLOUT when one
 * fits, POLLHUP when the other end has gone. One read of an end goes on at a time.
 * Until it returns, another one would wait or give EAGAIN, so poll(2) doesn't say
 * POLLIN.
 *
 * poll(2) says the same of an end that isn't bound. Binding the end wakes whoever polls
 * it, by edges too (EPOLLET): what gave ENOTCONN can be tried again then.
 *
 * O_NONBLOCK is about records and room alone. A read or a write takes locks, allocates
 * memory and touches the caller's pages, and it may sleep for each of these. So RWF_NOWAIT
 * gives EOPNOTSUPP. io_uring waits for an end by polling it, and then reads or writes in
 * the task that submitted; but Linux 6.1 has a worker thread do it, where it costs more,
 * unless the end is O_NONBLOCK.
 */

/**
 * DOC: fence
 *
 * A client with a device lease can have a device, a pipe or a socket hold the buffer's
 * pages past the end of the lease, and past its own end. A writable lease for the CPU can't
 * be pinned, nor can a mapping of a writable dma-buf; but KVM before Linux 6.13 takes a
 * reference on such a page and lets a guest write to it for a while. A read-only lease for
 * the CPU isn't fenced.
 *
 * When the last part that others had in a fenced buffer ends, the kernel looks at each folio
 * of the buffer: how many references are there that are neither the kernel's own nor a
 * mapping's? If there are more than the folio's *floor*, the owner doesn't get its reference
 * back yet: the buffer is in *quarantine*. Its word stays, and its slab can't be freed. The
 * buffer can still be sent, unless it has been revoked. The kernel looks again, at first
 * after some milliseconds and then less often, down to once a second, or less often where a
 * look takes long. It also looks whenever the owner pulls (EVPL_LEASE_PULL). When the
 * references have gone, the owner's word goes down and the buffer is reported. The owner can
 * also end a quarantine by itself (EVPL_QUARANTINE_END). A quarantine ends with its owner:
 * then the memory goes to nobody before the references have gone.
 *
 * A lessee can also send the buffer home to its owner. The record that the owner reads then
 * has %EVPL_RECORD_HELD if the buffer is fenced and others may still have a part in it:
 * another record on its way, a lease, a dma-buf, or pages that something holds. Without
 * that flag, nothing that others had in a fenced buffer is left when the record is read.
 * An owner that was told of a part that is left waits by EVPL_BUFFER_WAIT, or polls for
 * the end of it. Records that are on their way to the owner itself are such parts too: an
 * owner reads them before it waits.
 *
 * The floor is what the owner's own registrations hold: 0, until it is raised by
 * EVPL_FLOOR. It belongs to a folio, 2 MiB or less; so what holds one buffer of a
 * folio may keep another one of it in quarantine, but no folio that nothing holds, save
 * for a moment while something changes its mappings. A page with a memory error is held
 * for good: the owner ends the quarantine of its folio's buffers.
 * A floor that is too high opens the fence for its owner's own buffers, and no other.
 *
 * An owner's device registers a slab, then raises the floor; it sets the floor to 0
 * before it takes the registration away.
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
 *  - EBADF: the descriptor that was named isn't open, or isn't what it should be
 *  - EMFILE, ENFILE: no descriptor is left
 *  - ENXIO: the client isn't set up yet
 *  - ENOMEM: memory is short, or a cap of the user, of the system or of the
 *    memory cgroup is reached
 *  - ENOSPC: the window has no free range as long as was asked for
 *  - EINTR: a fatal signal came before the call was done
 *
 * mmap(2) gives
 *
 *  - EINVAL: MAP_PRIVATE
 *  - EPERM: PROT_EXEC
 *  - ENXIO: a range that isn't within one window, or an offset other than 0
 *    before the client was set up
 *  - ENOMEM, EINTR: as above, where the mapping allocates a slab
 *  - ENOMEM: the client has %EVPL_GUEST_MAPPINGS_MAX mappings of guest windows
 *
 * The same ENOMEM has what would split such a mapping: mprotect(2), munmap(2) or
 * mremap(2) of a part of it; madvise(2) makes EAGAIN of it. What a fork(2) copies counts
 * too, but isn't refused.
 *
 * mprotect(2) to PROT_EXEC gives EACCES, a mremap(2) that grows gives EFAULT,
 * MADV_REMOVE gives an error and keeps the memory. What userfaultfd(2) has protected from
 * writes, on a kernel that lets it, raises SIGBUS in guest windows and dma-bufs. msync(2),
 * fsync(2) and fdatasync(2) succeed and do nothing.
 */

#define EVPL_IOC_TYPE	0xEB

/* Mappings that a client has of its four guest windows together, in all processes. */
#define EVPL_GUEST_MAPPINGS_MAX	1024

/* Slabs start at multiples of this in the own window; so do their lengths. */
#define EVPL_SLAB_ALIGN		_BITUL(21)

#define EVPL_BUFFER_SIZE_MIN	_BITUL(12)
#define EVPL_BUFFER_SIZE_MAX	_BITUL(30)
#define EVPL_BUFFER_SIZE_DEFAULT _BITUL(20)

/*
 * Bits of evpl_entry.word. WANTED, of a lease alone, says that its owner waits
 * for memory: see EVPL_LEASE_PULL. The other bits are 0: where one is set, the
 * buffer isn't idle.
 */
#define EVPL_WORD_COUNT		0xffffffffULL
#define EVPL_WORD_WANTED	_BITULL(62)

/**
 * struct evpl_entry - the references of one buffer
 * @word: a count (%EVPL_WORD_COUNT) and flags. Any thread of the client changes
 *	it with atomics, and so does the kernel. A buffer is idle when the whole
 *	word is 0, the flags included; a lease, when all of it but WANTED is.
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
 * struct evpl_header - what has happened to the client's entries
 * @returned: bit n: in the pages of the returned bitmap whose number is n modulo
 *	64 there are bits set
 * @revoked: the same of the revoked bitmap
 *
 * The kernel sets a bit in the bitmap, then one here, then wakes whoever polls the
 * client: POLLIN while @returned isn't 0, POLLPRI while @revoked isn't 0. The
 * client takes each by exchanging it with 0, then looks through the bitmap,
 * taking its words likewise. A bit is a hint: look at the entry's word.
 *
 * Bit n of the returned bitmap is the own buffer with entry n, whose word the kernel
 * took to 0. It may be that no bit is set: see EVPL_BUFFER_WAIT. Bit n of the revoked
 * one is the lease number n, which was revoked while its word wasn't 0.
 *
 * The header is there when the first end has been bound to the client, or it has
 * exported something; a page of a bitmap when the first buffer that it tells of was
 * sent, exported or leased.
 */
struct evpl_header {
	__aligned_u64 returned;
	__aligned_u64 revoked;
};

/* A touch of a revoked lease finds zeros, instead of raising SIGBUS. */
#define EVPL_SETUP_ZEROS	_BITUL(0)
/* When the client goes, all leases on its buffers are revoked; its dma-bufs stay. */
#define EVPL_SETUP_REVOKE	_BITUL(1)

/**
 * struct evpl_setup - ioctl(EVPL_SETUP)
 * @size: sizeof(struct evpl_setup)
 * @flags: %EVPL_SETUP_ZEROS, %EVPL_SETUP_REVOKE or 0
 * @buffer_size: bytes of a buffer: a power of two from %EVPL_BUFFER_SIZE_MIN to
 *	%EVPL_BUFFER_SIZE_MAX, or 0 for %EVPL_BUFFER_SIZE_DEFAULT
 * @out_buffer_size: the bytes of a buffer
 * @out_own_offset: mmap offset of the own window; always 0
 * @out_own_size: bytes of the own window
 * @out_refs_offset: mmap offset of the refs window
 * @out_refs_size: bytes of the refs window
 * @out_guest_offset: mmap offset of the guest window
 * @out_guest_ro_offset: mmap offset of the guest-ro window
 * @out_guest_size: bytes of each of the two
 * @out_leases_offset: mmap offset of the leases' entries
 * @out_leases_size: bytes of them
 * @out_returned_offset: mmap offset of the returned bitmap
 * @out_returned_size: bytes of it
 * @out_revoked_offset: mmap offset of the revoked bitmap
 * @out_revoked_size: bytes of it
 * @out_header_offset: mmap offset of the header
 * @out_header_size: bytes of it, to be mapped
 * @out_guest_io_offset: mmap offset of the guest-io window
 * @out_guest_io_ro_offset: mmap offset of the guest-io-ro window; both are as long
 *	as guest
 *
 * Sets the client up. No memory is taken for the windows until it is needed, but
 * for a page with %EVPL_SETUP_ZEROS.
 *
 * Return: 0, or -1 and errno: EBUSY if the client is set up already; ENOMEM.
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
	__aligned_u64 out_guest_offset;
	__aligned_u64 out_guest_ro_offset;
	__aligned_u64 out_guest_size;
	__aligned_u64 out_leases_offset;
	__aligned_u64 out_leases_size;
	__aligned_u64 out_returned_offset;
	__aligned_u64 out_returned_size;
	__aligned_u64 out_revoked_offset;
	__aligned_u64 out_revoked_size;
	__aligned_u64 out_header_offset;
	__aligned_u64 out_header_size;
	__aligned_u64 out_guest_io_offset;
	__aligned_u64 out_guest_io_ro_offset;
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
 * if one of its words isn't 0, one of its buffers is on its way or leased, or a
 * dma-buf carries a part of it.
 */
struct evpl_slab_free {
	__u32 size;
	__u32 flags;
	__aligned_u64 offset;
};

#define EVPL_SLAB_FREE _IOWR(EVPL_IOC_TYPE, 0x02, struct evpl_slab_free)

#define EVPL_CHANNEL_CAPACITY_MAX	16384
#define EVPL_CHANNEL_CAPACITY_DEFAULT	256

/**
 * struct evpl_channel_create - ioctl(EVPL_CHANNEL_CREATE)
 * @size: sizeof(struct evpl_channel_create)
 * @flags: must be 0
 * @capacity: records that are on their way in one direction, up to
 *	%EVPL_CHANNEL_CAPACITY_MAX, or 0 for %EVPL_CHANNEL_CAPACITY_DEFAULT
 * @__reserved: must be 0
 * @out_fds: the two ends, close-on-exec, bound to nobody
 *
 * Makes a channel. Its memory is charged like entries, to who opened the client.
 *
 * Return: 0, or -1 and errno: EMFILE, ENFILE or ENOMEM.
 */
struct evpl_channel_create {
	__u32 size;
	__u32 flags;
	__u32 capacity;
	__u32 __reserved;
	__s32 out_fds[2];
};

#define EVPL_CHANNEL_CREATE _IOWR(EVPL_IOC_TYPE, 0x03, struct evpl_channel_create)

/**
 * struct evpl_channel_bind - ioctl(EVPL_CHANNEL_BIND)
 * @size: sizeof(struct evpl_channel_bind)
 * @flags: must be 0
 * @fd: an end of a channel
 * @__reserved: must be 0
 *
 * Binds the end to this client, for good: what is written comes from it, what is
 * read goes to it. When the client goes, so does the end. The end doesn't keep
 * the client.
 *
 * Return: 0, or -1 and errno: ENXIO; EBADF if @fd is no end of a channel; EBUSY if
 * it is bound already, or its client has gone; ENOMEM or EINTR.
 */
struct evpl_channel_bind {
	__u32 size;
	__u32 flags;
	__s32 fd;
	__u32 __reserved;
};

#define EVPL_CHANNEL_BIND _IOWR(EVPL_IOC_TYPE, 0x04, struct evpl_channel_bind)

/* The receiver may write to the buffer. */
#define EVPL_RECORD_WRITE	_BITUL(0)
/* Read only: the buffer was revoked on the way. @offset is 0. */
#define EVPL_RECORD_REVOKED	_BITUL(1)
/* The receiver may have devices read the buffer, and write if it may. */
#define EVPL_RECORD_DEVICE	_BITUL(2)

/*
 * Read only, of the reader's own buffer: others may still have a part in it. Wait for
 * the end of that by EVPL_BUFFER_WAIT. See DOC: fence.
 */
#define EVPL_RECORD_HELD	_BITUL(3)

/* No lease: a record of the reader's own buffer, or a revoked one. */
#define EVPL_LEASE_NONE		0xffffffffU

/**
 * struct evpl_record - what is written to an end of a channel, and read from one
 * @offset: mmap offset of the first byte: written, in the own or a guest window
 *	of the writer; read, of the reader
 * @length: bytes, not 0, all in one buffer
 * @flags: %EVPL_RECORD_WRITE and %EVPL_RECORD_DEVICE, or 0; read, also
 *	%EVPL_RECORD_REVOKED or %EVPL_RECORD_HELD
 * @cookie: whatever the writer likes
 * @lease: read, the number of the lease, or %EVPL_LEASE_NONE; written, ignored:
 *	@offset says what is meant
 * @buffer_size: read, bytes of the buffer that the lease shows, which starts at
 *	a multiple of it in its window, or 0 without a lease; written, ignored
 */
struct evpl_record {
	__aligned_u64 offset;
	__u32 length;
	__u32 flags;
	__aligned_u64 cookie;
	__u32 lease;
	__u32 buffer_size;
};

#define EVPL_LEASE_RELEASE_MAX	4096

/**
 * struct evpl_lease_release - ioctl(EVPL_LEASE_RELEASE)
 * @size: sizeof(struct evpl_lease_release)
 * @flags: must be 0
 * @leases: address of @count numbers of leases, __u32 each
 * @count: up to %EVPL_LEASE_RELEASE_MAX
 * @__reserved: must be 0
 *
 * Ends each of these leases whose word is 0, but none whose last reference is being
 * given up just now; passes the others by, and those that have ended already.
 *
 * Return: how many leases it has ended, or -1 and errno: ENXIO; EINVAL, and nothing
 * is released, if one of them isn't a number of a lease at all.
 */
struct evpl_lease_release {
	__u32 size;
	__u32 flags;
	__aligned_u64 leases;
	__u32 count;
	__u32 __reserved;
};

#define EVPL_LEASE_RELEASE _IOWR(EVPL_IOC_TYPE, 0x05, struct evpl_lease_release)

/* Leases that aren't idle are to end as soon as they are. */
#define EVPL_PULL_WANT	_BITUL(0)

/**
 * struct evpl_lease_pull - ioctl(EVPL_LEASE_PULL)
 * @size: sizeof(struct evpl_lease_pull)
 * @flags: %EVPL_PULL_WANT or 0
 *
 * Does for all leases that others have on the client's buffers what
 * EVPL_LEASE_RELEASE does: an owner who is out of buffers gets at those that a
 * receiver has let go of without a call. Then looks at its buffers in quarantine.
 *
 * With %EVPL_PULL_WANT those that aren't idle, and those that records on their way
 * give, get %EVPL_WORD_WANTED: a receiver that collects idle leases to release them
 * together sees it when it takes the last reference off the word, and releases that
 * one at once. So an owner that pulls, and then waits for POLLIN, misses nothing of
 * what it sent before. The kernel clears the flag when the lease ends.
 *
 * Return: how many leases it has ended, or -1 and errno: ENXIO; EINTR, after a part
 * of them.
 */
struct evpl_lease_pull {
	__u32 size;
	__u32 flags;
};

#define EVPL_LEASE_PULL _IOWR(EVPL_IOC_TYPE, 0x06, struct evpl_lease_pull)

/**
 * struct evpl_revoke - ioctl(EVPL_REVOKE)
 * @size: sizeof(struct evpl_revoke)
 * @flags: must be 0
 * @offset: where a buffer starts in the own window
 *
 * Takes the buffer back from everybody: from all who have a lease on it, whose
 * next touch raises SIGBUS or finds zeros, as they chose; and from all records
 * that carry it, which are delivered as %EVPL_RECORD_REVOKED. If the call returns 0, only
 * the owner can touch the buffer. A revoked lease keeps its number and place until its
 * word is 0 and it is released.
 *
 * Return: 0, also where nobody has it; 1 if something still holds it, and it is in
 * quarantine, and can't be sent before that ends; or -1 and errno: ENXIO; ENOENT if
 * no buffer of a slab starts there; EBUSY while another call revokes it, while it is
 * in quarantine since one, or while a dma-buf carries references on it; EINTR, and
 * nothing is revoked, if a fatal signal came while another thread was sending.
 */
struct evpl_revoke {
	__u32 size;
	__u32 flags;
	__aligned_u64 offset;
};

#define EVPL_REVOKE _IOWR(EVPL_IOC_TYPE, 0x07, struct evpl_revoke)

/* Set the floors to 0 instead. */
#define EVPL_FLOOR_ZERO		_BITUL(0)
/* What holds the range holds all folios of one size alike. */
#define EVPL_FLOOR_ALIKE	_BITUL(1)

/**
 * struct evpl_floor - ioctl(EVPL_FLOOR)
 * @size: sizeof(struct evpl_floor)
 * @flags: %EVPL_FLOOR_ZERO, %EVPL_FLOOR_ALIKE or 0
 * @offset: first byte of a range of the own window, a multiple of the page size
 * @length: bytes, likewise, not 0; all of it in one slab
 *
 * Sets the floor of each folio that the range touches to the references that are on
 * it now, as DOC: fence counts them. Folios are passed by that have a buffer whose
 * word isn't 0, or which is on its way, leased, or in quarantine: what is in use may
 * have I/O running, which must not become a part of the floor. With %EVPL_FLOOR_ALIKE
 * these get the lowest floor that the call sets for a folio of the same size: as
 * where a device has registered all of the range. With %EVPL_FLOOR_ZERO none is
 * passed by.
 *
 * Return: how many folios it has passed by, 0 if none; or -1 and errno: ENXIO; ENOENT
 * if the range isn't in a slab; EINVAL also where both flags are given.
 */
struct evpl_floor {
	__u32 size;
	__u32 flags;
	__aligned_u64 offset;
	__aligned_u64 length;
};

#define EVPL_FLOOR _IOWR(EVPL_IOC_TYPE, 0x08, struct evpl_floor)

/**
 * struct evpl_quarantine_end - ioctl(EVPL_QUARANTINE_END)
 * @size: sizeof(struct evpl_quarantine_end)
 * @flags: must be 0
 * @offset: where a buffer starts in the own window
 *
 * Ends the buffer's quarantine, whatever holds it: the owner knows that nothing will
 * write to it, or doesn't care. What does hold it is a part of the floor that is set
 * next.
 *
 * Return: 0, or -1 and errno: ENXIO; ENOENT if no buffer of a slab starts there, or it
 * isn't in quarantine.
 */
struct evpl_quarantine_end {
	__u32 size;
	__u32 flags;
	__aligned_u64 offset;
};

#define EVPL_QUARANTINE_END _IOWR(EVPL_IOC_TYPE, 0x09, struct evpl_quarantine_end)

/**
 * struct evpl_range - bytes of the client's
 * @offset: mmap offset of the first: a multiple of the page size
 * @length: how many: a multiple of the page size, not 0
 */
struct evpl_range {
	__aligned_u64 offset;
	__aligned_u64 length;
};

/* Importers, and mappings of the dma-buf, may write. */
#define EVPL_EXPORT_WRITE	_BITUL(0)
/* The ranges are the client's own and give up no reference. */
#define EVPL_EXPORT_SLAB	_BITUL(1)

#define EVPL_EXPORT_RANGES_MAX	1024

/**
 * struct evpl_export - ioctl(EVPL_EXPORT)
 * @size: sizeof(struct evpl_export)
 * @flags: %EVPL_EXPORT_WRITE, %EVPL_EXPORT_SLAB or 0
 * @ranges: address of @count &struct evpl_range
 * @count: from 1 to %EVPL_EXPORT_RANGES_MAX
 * @out_fd: the dma-buf, close-on-exec
 *
 * Makes a dma-buf of the ranges, one after the other, which devices and processes
 * that know nothing of evpl can use. No two ranges overlap, so a dma-buf isn't longer
 * than the memory that it shows; but a buffer that the client has two leases on lies in
 * two places.
 *
 * Each range lies in one buffer, in the own or a guest window, and for each the
 * client gives up one reference, that of its word, as by writing a record to a
 * channel. They go back when the last descriptor, mapping and attachment of the
 * dma-buf has gone, whoever had it, and whether or not the client still lives. What
 * a dma-buf carries can't be revoked.
 *
 * With %EVPL_EXPORT_SLAB each range lies in one slab of the client's own and gives
 * nothing up; the slab can't be freed meanwhile.
 *
 * Memory that dma-bufs carry outlives the client that owns it. Their mappings are
 * MAP_SHARED, PROT_EXEC is refused, and nothing can pin memory through them. Without
 * %EVPL_EXPORT_WRITE devices can be given it for reading alone (DMA_TO_DEVICE),
 * and drivers can't map it for the CPU.
 *
 * Return: 0, or -1 and errno, with no reference given up:
 *
 *  - EINVAL: also a range that goes past the end of its buffer, or slab; two that
 *    overlap
 *  - ENXIO, EMFILE, ENFILE, ENOMEM, EINTR: as above
 *  - ENOENT: an offset is in no slab and no lease of the client, or in a revoked one
 *  - ESTALE: the word of a buffer, or of a lease, has no reference to give
 *  - EPERM: a lease isn't one for devices; %EVPL_EXPORT_WRITE, and a lease, or the
 *    client, is read-only
 *  - EBUSY: a buffer is the client's own, and being revoked just now
 */
struct evpl_export {
	__u32 size;
	__u32 flags;
	__aligned_u64 ranges;
	__u32 count;
	__s32 out_fd;
};

#define EVPL_EXPORT _IOWR(EVPL_IOC_TYPE, 0x0a, struct evpl_export)

/* Say at once whether others have the buffer, instead of waiting. */
#define EVPL_WAIT_TRY	_BITUL(0)

/**
 * struct evpl_buffer_wait - ioctl(EVPL_BUFFER_WAIT)
 * @size: sizeof(struct evpl_buffer_wait)
 * @flags: %EVPL_WAIT_TRY or 0
 * @offset: where a buffer starts in the own window
 *
 * Waits until nobody but the client has a part in the buffer: it isn't on its way, nobody
 * has a lease on it, no dma-buf carries it, and it isn't in quarantine. The client's own
 * references don't matter.
 *
 * Leases on the buffer whose words are 0 are ended, and others get %EVPL_WORD_WANTED, as by
 * EVPL_LEASE_PULL.
 *
 * With %EVPL_WAIT_TRY the kernel looks at the fence at once if the buffer is in quarantine.
 * After EAGAIN, and after a record with %EVPL_RECORD_HELD, the end is reported by @returned
 * of the header, without a bit in the bitmap if the client has references on the buffer:
 * so a client may poll, and then try again.
 *
 * Return: 0, or -1 and errno: ENXIO; ENOENT if no buffer of a slab starts there; EAGAIN
 * with %EVPL_WAIT_TRY, if others have a part in the buffer; EINTR if a signal came.
 */
struct evpl_buffer_wait {
	__u32 size;
	__u32 flags;
	__aligned_u64 offset;
};

#define EVPL_BUFFER_WAIT _IOWR(EVPL_IOC_TYPE, 0x0b, struct evpl_buffer_wait)

#endif /* _UAPI_LINUX_EVPL_H */
