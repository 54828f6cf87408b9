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
 *	The client's slabs, readable and writable, from offset 0. This is ordinary
 *	shared memory: anything can pin it, and a futex in it is shared by all
 *	processes and mappings that have the page. The window is read-only if the
 *	descriptor was opened O_RDONLY.
 *
 * refs
 *	A &struct evpl_entry for each buffer of the own window: entry n belongs
 *	to the buffer at own offset n * buffer_size.
 *
 * guest, guest-ro
 *	The buffers of other clients that this one has a *lease* on, writable or
 *	read-only, each at the place of its lease. The CPU can touch them, and nothing
 *	can pin them: vmsplice(2), O_DIRECT, io_uring's registered buffers and RDMA
 *	give EFAULT. So the end of a read-only lease takes effect at once, and nothing
 *	is left of it. KVM before Linux 6.13 may still hold a page of a writable lease:
 *	see DOC: quarantine. A futex that several processes share can't be here: futex(2)
 *	without FUTEX_PRIVATE_FLAG gives EFAULT, because the kernel would find it by
 *	its page.
 *
 * guest-io, guest-io-ro
 *	The same for *device leases*. These buffers can be pinned, so a device may
 *	still have one after its lease has ended: see DOC: quarantine. A futex in such a
 *	buffer is the same one in the own window of the buffer's owner.
 *
 * leases
 *	A &struct evpl_entry for each lease, by its number.
 *
 * header, returned, revoked
 *	The &struct evpl_header, and two bitmaps. They say which buffers have been
 *	given back, and which leases have been revoked: see &struct evpl_header.
 *
 * Mappings are MAP_SHARED; PROT_EXEC is refused. A child inherits mappings of the
 * own window over fork(2). It inherits mappings of the other windows only after
 * MADV_DOFORK, which guest and guest-ro refuse. A child that inherits the descriptor
 * is a part of the client. A touch of an offset that nothing backs raises SIGBUS.
 *
 * A client that maps offset 0 before it is set up is set up with the defaults. It gets
 * a slab as long as the mapping, rounded up to a multiple of %EVPL_SLAB_ALIGN. So a
 * program that can map a file can use this memory unchanged.
 *
 * A client, its slabs and all that it is charged for live until the last descriptor
 * and the last mapping of its open file description are gone. Buffers that others have
 * a lease on live until the lease ends. From the client's end on, each folio of such a
 * buffer is charged to the user of a client that has one of these leases, or has
 * registered the buffer with a ring, if that user's cap has room for it. It stays charged to
 * the memory cgroup that it was charged to before. An owner that mustn't go on paying for
 * memory that others keep is set up with %EVPL_SETUP_REVOKE.
 */

/**
 * DOC: channels
 *
 * A channel carries references on buffers from one client to another. It has two
 * *ends*, a descriptor each, made by EVPL_CHANNEL_CREATE. An end goes to another
 * process by inheritance or over a Unix socket. The process that uses it binds it to
 * a client of its own (EVPL_CHANNEL_BIND). Then any process that has the end may
 * write(2), read(2) and poll(2) it, also through io_uring.
 *
 * An end transfers whole &struct evpl_record. A write takes all of its records or
 * none. For each record the client gives up one of the references that its word for the
 * buffer counts. The kernel holds that reference while the record is *in flight*: until
 * the record is read, or is given back because the other end is closed or that end's
 * client has gone.
 *
 * A read gives one record at least, and as many more as are there and fit. It gives
 * fewer of them if a signal is pending, or if io_uring has work for the task.
 *
 * A client that reads a record of another client's buffer gets a *lease* on it. The
 * whole buffer appears at the lease's place in the guest window that the record asked
 * for, and the word of the lease's entry goes up by one for each record. A client has
 * at most one lease for each buffer and window. The client drops a reference by taking
 * one off the word. It drops the lease by EVPL_LEASE_RELEASE when the word is 0, or by
 * passing on its last reference. A client that reads a record of its own buffer gets
 * the reference back: the word of the buffer's entry goes up by one.
 *
 * As long as there is a record in flight or a lease of a buffer, the word of the owner's
 * entry has %EVPL_WORD_SHARED, and its count has the owner's own references alone. When
 * the last of them ends, by release, close or death, the kernel takes the flag off the
 * word. If the word is 0 then, the kernel reports the buffer in the header.
 *
 * A lease survives the client that owns the buffer, unless that client was set up
 * with %EVPL_SETUP_REVOKE.
 *
 * write(2) gives
 *
 *  - EINVAL: not whole records, @length is 0, or the range goes past the buffer's
 *    end
 *  - EOPNOTSUPP: a flag that the kernel doesn't know; %EVPL_RECORD_LANE, and the ends aren't
 *    both bound with %EVPL_BIND_LANE
 *  - EMSGSIZE: more records than the channel's capacity
 *  - ENOTCONN: the end isn't bound, or its client has gone
 *  - ENOENT: @offset is in no slab and no lease of the client, or in a revoked one
 *  - ESTALE: the word of the buffer, or of the lease, has no reference to give
 *  - EACCES: %EVPL_RECORD_WRITE, and the lease, or the client, is read-only;
 *    %EVPL_RECORD_DEVICE, and the lease isn't one for devices
 *  - EBUSY: the buffer is the client's own, and being revoked just now
 *  - EAGAIN: the records don't fit now, and the descriptor is non-blocking
 *  - EPIPE: the other end is closed, or its client has gone (no SIGPIPE)
 *  - ENOMEM: memory is short, or a cap is reached
 *  - EFAULT: the records can't be read from the caller's memory
 *
 * read(2) gives 0 when the other end is closed, or its client has gone, and no record
 * is left to read. It gives
 *
 *  - EINVAL: room for less than one record
 *  - ENOTCONN, EAGAIN: as above
 *  - ENOSPC: the window has no place left; the record stays
 *  - ENOMEM: memory is short, or a cap is reached; the record stays
 *  - EFAULT: the record can't be written to the caller's memory; it stays
 *
 * Both calls give EINTR when a signal comes while they wait; nothing has moved then.
 * poll(2) says POLLIN when there is a record, or no record will come any more; POLLOUT
 * when a record fits; POLLHUP when the other end has gone. An end serves one read at a
 * time. A second read would wait or give EAGAIN until the first returns, so poll(2)
 * doesn't say POLLIN meanwhile.
 *
 * When the client of an end goes, its leases end and the records in flight to the end are given
 * back, and only then can the other end see that the end is closed: by POLLHUP, EPIPE, a read of
 * 0, or @ends of the header. So what the client had of the other's buffers is back by then, except
 * a buffer in quarantine, one that a dma-buf or a ring has, and one that a call in progress has: a
 * read or write of the client's end, or the owner's own EVPL_LEASE_PULL, EVPL_BUFFER_WAIT or
 * EVPL_REVOKE. Until then the channel is full for the other end. The client goes with its last
 * descriptor and mapping. An end that is closed while its client stays is seen at once, and the
 * client keeps its leases. But a process that dies may have both, and let go of them in any
 * order: then the client goes first.
 *
 * poll(2) says the same for an end that isn't bound. Binding the end wakes the tasks
 * that poll it, also with EPOLLET: they can try again the call that gave ENOTCONN.
 *
 * O_NONBLOCK is about records and room alone. A read or a write takes locks, allocates
 * memory and touches the caller's pages, and it may sleep for each of these. So
 * RWF_NOWAIT gives EOPNOTSUPP. io_uring polls an end to wait for it, then reads or
 * writes in the task that submitted the request. Linux 6.1 uses a worker thread
 * instead, which costs more, unless the end is O_NONBLOCK.
 */

/**
 * DOC: lanes
 *
 * A *lane* is a channel whose two clients hand most buffers to each other without a system
 * call, by rings in memory that they have leased to each other. The kernel knows nothing of
 * the rings. Both ends are bound with %EVPL_BIND_LANE. A record with %EVPL_RECORD_LANE is
 * then one of the library that keeps the rings, and isn't for the program that uses that
 * library.
 *
 * A client that has put something into a ring tells a sleeping peer by EVPL_DOORBELL, a call
 * on the client's end. For that an end has two states:
 *
 * rung
 *	The other end has rung %EVPL_DOORBELL_IN since this end was last quiet. poll(2) says
 *	POLLIN while the end is rung. Each ring wakes the tasks that poll the end, also with
 *	EPOLLET.
 *
 * full
 *	The client has asked to be told of room (@quiet has %EVPL_DOORBELL_OUT), and the other
 *	end hasn't rung %EVPL_DOORBELL_OUT since. poll(2) doesn't say POLLOUT while the end is
 *	full.
 *
 * A client that goes to sleep is quiet first, then looks at the rings once more, then polls.
 * So a ring that comes before the poll isn't lost. read(2) and write(2) take no notice of
 * either state.
 *
 * When an end is closed, the client of the other end is told as by %EVPL_DOORBELL_MEMORY: its
 * library has references back that it kept for the peer.
 */

/**
 * DOC: quarantine
 *
 * A client with a device lease can let a device, a pipe or a socket hold the buffer's
 * pages. These may hold them past the end of the lease, and past the end of the client. A
 * writable lease for the CPU can't be pinned, nor can a mapping of a writable dma-buf.
 * But KVM before Linux 6.13 takes a reference on a page of either, and lets a virtual
 * machine write to it for a while. A buffer that was given for any of these *may be
 * held*. A read-only lease for the CPU leaves nothing behind.
 *
 * When the last part that others have in a buffer that may be held ends, the kernel *checks*
 * each folio of the buffer. It counts the folio's references that are neither the kernel's
 * own nor a mapping's. If there are more than the folio's *baseline*, the owner doesn't get
 * the buffer back yet: it is in *quarantine*. Its word keeps %EVPL_WORD_SHARED, and its
 * slab can't be freed. The buffer can still be sent, unless it has been revoked. The kernel
 * rechecks it, at first after some milliseconds, then less often, down to once a second;
 * less often still where a check takes long. It also rechecks when the owner pulls
 * (EVPL_LEASE_PULL). When the references have gone, the flag goes too, and the buffer is
 * reported. The owner can also end a quarantine itself (EVPL_QUARANTINE_END). A
 * quarantine ends with its owner. Then nobody else gets the memory before the references
 * have gone.
 *
 * A lessee can also send the buffer home to its owner. The record that the owner reads then
 * has %EVPL_RECORD_HELD if the buffer may be held and others may still have a part in it:
 * another record in flight, a lease, a dma-buf, a ring, or pages that something holds. Without
 * that flag, nothing of this is left of such a buffer when its record is read. With it, the
 * owner waits for the end of the part that is left by EVPL_BUFFER_WAIT, or by poll(2).
 * Records in flight to the owner itself are such parts too, so an owner reads them before it
 * waits.
 *
 * The baseline is how many such references the owner's own registrations have. It is 0
 * until EVPL_BASELINE raises it. It belongs to a folio, which has 2 MiB or less. So a
 * reference that holds one buffer of a folio may keep another buffer of it in quarantine. A
 * folio that nothing holds keeps no buffer in quarantine, except for a moment while its
 * mappings change. The kernel holds a page with a memory error for good: the owner
 * must end the quarantines of that folio's buffers itself. A baseline that is too high lets
 * its owner's own buffers pass the check, and no others.
 *
 * An owner registers a slab with its device, then raises the baseline. It sets the baseline
 * to 0 before it removes the registration, and doesn't raise it until that is done.
 */

/**
 * DOC: adopting
 *
 * A client lives as long as its descriptor does. So a supervisor that keeps the descriptor of a
 * process, as systemd does for FDSTORE=1, keeps the client and its memory when the process
 * dies. The process that comes next, the *successor*, has EVPL_ADOPT bring the client into order,
 * and only then maps the windows. EVPL_SLAB_NEXT finds the slabs. After EVPL_ADOPT
 *
 *  - no reference of the dead process is left. Each entry of an own buffer is zero, but for the
 *    flags that the kernel has in its word. A buffer whose word is 0 is free. A buffer whose word
 *    has %EVPL_WORD_SHARED is reported as ever, once others have no part in it any more. That may
 *    happen before the successor looks at the word: then the word is 0, and the buffer has a bit
 *    all the same.
 *  - nothing is left of the leases that the client had, and their numbers start again. The
 *    leased buffers go back to their owners. A buffer that a ring or a pipe of the dead process
 *    still holds is in quarantine there, as after the death of a client. One that a call in
 *    progress has goes back when the call returns.
 *  - @returned and @revoked of the header and their bitmaps are zero, but for what the kernel
 *    has reported since. @ends and @user stay as they were.
 *  - all baselines are 0: the successor registers the slabs again. A buffer in a folio that
 *    something still holds, such as a device, a pipe or a ring of the dead process, is in
 *    quarantine. Its word has %EVPL_WORD_SHARED.
 *
 * The leases that others have on the client's buffers go on, and so do its dma-bufs. So do the
 * channels whose ends the supervisor keeps too. Such an end stays bound to the client, and keeps
 * its records. The successor may bind it again (EVPL_CHANNEL_BIND). An end of a lane is of no more
 * use: the successor knows neither the rings nor the messages that passed through them. It closes
 * the end. Ends that nobody keeps are closed with the dead process. But the leases that the client
 * has on others' buffers stay until EVPL_ADOPT, or the client's end.
 *
 * The address space of a process can end after the process itself, if something still uses it. So
 * can its rings. So a call that gives EBUSY may succeed a moment later.
 */

/**
 * DOC: ioctl format
 *
 * The ioctls are calls on a client, and EVPL_DOORBELL is one on an end of a channel.
 * Each takes a pointer to one struct, whose first field is its size. A
 * kernel that knows a longer struct takes the missing fields as zero. A kernel
 * that knows a shorter struct accepts the surplus if it is zero. A call that fails
 * changes nothing, unless its description says so. But pages that it has added for
 * entries stay with the client. In all calls
 *
 *  - ENOTTY: the kernel doesn't know the ioctl, or it is a call on another kind of file
 *  - E2BIG: the struct is longer than the kernel knows, and the surplus isn't
 *    zero, or it is longer than a page
 *  - EOPNOTSUPP: a flag that the kernel doesn't know
 *  - EINVAL: the struct is too short, a reserved field isn't zero, or a field's
 *    value is out of range, misaligned or overflows
 *  - EFAULT: the struct can't be read or written
 *  - EBUSY: the object is in a state, or in a use, that forbids the call
 *  - ENOENT: the object that was named doesn't exist
 *  - EBADF: the descriptor that was named isn't open, or is of another kind
 *  - EMFILE, ENFILE: no descriptor is left
 *  - ENXIO: the client isn't set up yet
 *  - ENOMEM: memory is short, or a cap of the user, of the system or of the
 *    memory cgroup is reached
 *  - ENOSPC: the window has no free range that is long enough
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
 * A call that would split such a mapping fails with the same ENOMEM: mprotect(2),
 * munmap(2) or mremap(2) of a part of it. madvise(2) gives EAGAIN instead. Mappings that
 * fork(2) copies are counted too, but aren't refused.
 *
 * mprotect(2) to PROT_EXEC gives EACCES. An mremap(2) that grows a mapping gives EFAULT.
 * MADV_REMOVE gives an error and keeps the memory. In guest windows and dma-bufs, a page
 * that userfaultfd(2) has write-protected, on a kernel that allows this, raises SIGBUS.
 * msync(2), fsync(2) and fdatasync(2) succeed and do nothing.
 */

#define EVPL_IOC_TYPE	0xEB

/* Mappings that a client can have of its four guest windows together, in all processes. */
#define EVPL_GUEST_MAPPINGS_MAX	1024

/* A slab starts at a multiple of this in the own window, and its length is a multiple of it. */
#define EVPL_SLAB_ALIGN		_BITUL(21)

#define EVPL_BUFFER_SIZE_MIN	_BITUL(12)
#define EVPL_BUFFER_SIZE_MAX	_BITUL(30)
#define EVPL_BUFFER_SIZE_DEFAULT _BITUL(20)

/*
 * Bits of evpl_entry.word. COUNT has the client's own references. SHARED, on an own buffer
 * alone, says that others have a part in the buffer: a record in flight, a lease, a dma-buf
 * that carries references on it, a ring that has registered it as a lessee's, or a quarantine.
 * PASSED_ON says that a lessee has sent the buffer, or has exported it. So others may have the
 * buffer than those that the owner has given it to. The flag goes when SHARED goes.
 * WANTED, on a lease alone, says that the owner waits for memory: see EVPL_LEASE_PULL. The
 * kernel leaves all other bits 0. A buffer whose word has one set isn't idle.
 */
#define EVPL_WORD_COUNT		0xffffffffULL
#define EVPL_WORD_SHARED	_BITULL(32)
#define EVPL_WORD_PASSED_ON	_BITULL(33)
#define EVPL_WORD_WANTED	_BITULL(62)

/**
 * struct evpl_entry - the references of one buffer
 * @word: a count (%EVPL_WORD_COUNT) and flags. The client's threads change it with
 *	atomics, and so does the kernel. A buffer is idle when the whole word is 0,
 *	the flags included. A lease is idle when all of its word but WANTED is 0.
 * @user: the client's own; the kernel neither reads nor writes it. It is zero
 *	when the client first sees it. When the slab is freed and its range is given
 *	to another slab, it keeps the value that the client wrote.
 *
 * The first record, or dma-buf, that a client gives of a buffer turns one reference of the count
 * into SHARED: the kernel adds SHARED - 1 to the word, in one step. Each further one takes 1 off
 * the count. So a client sees from the word alone which references are its own. The kernel adds
 * and subtracts, so a client that stores a count to the word while the buffer is shared must
 * store the flags too.
 *
 * The kernel takes @word as a hint only. A client that overwrites its entries
 * harms itself and nobody else.
 */
struct evpl_entry {
	__aligned_u64 word;
	__aligned_u64 user[7];
};

/**
 * struct evpl_header - events of the client's entries
 * @returned: bit n says that bits are set in the pages of the returned bitmap whose
 *	number is n modulo 64
 * @revoked: the same for the revoked bitmap
 * @ends: goes up by one each time that the other end of one of the client's ends is bound
 *	or closed. So a program that polls memory, and makes no system call, sees that it
 *	should look at its ends.
 * @user: the client's own; the kernel neither reads nor writes it. It is zero when the client
 *	is set up, and lives as long as the client does: EVPL_ADOPT leaves it alone.
 *
 * The kernel sets a bit in the bitmap, then one here, then wakes the tasks that poll
 * the client: POLLIN while @returned isn't 0, POLLPRI while @revoked isn't 0. The
 * client exchanges each field with 0, then goes over the bitmap and exchanges each of
 * its words with 0. A bit is a hint: the entry's word tells.
 *
 * Bit n of the returned bitmap stands for the own buffer with entry n, whose word the
 * kernel took to 0. @returned may be set although no bit of the bitmap is: see
 * EVPL_BUFFER_WAIT and EVPL_DOORBELL. Bit n of the revoked bitmap stands for the lease
 * with number n, which was revoked while its word wasn't 0.
 *
 * The header exists once the client is set up. A page of a bitmap exists once the first buffer
 * or lease that it has a bit for has been sent, exported or leased, or has come into quarantine.
 */
struct evpl_header {
	__aligned_u64 returned;
	__aligned_u64 revoked;
	__aligned_u64 ends;
	__aligned_u64 user;
};

/* A touch of a revoked lease finds zeros instead of raising SIGBUS. */
#define EVPL_SETUP_ZEROS	_BITUL(0)
/* When the client goes, all leases on its buffers are revoked. Its dma-bufs stay. */
#define EVPL_SETUP_REVOKE	_BITUL(1)

/**
 * struct evpl_setup - ioctl(EVPL_SETUP), ioctl(EVPL_ADOPT)
 * @size: sizeof(struct evpl_setup)
 * @flags: %EVPL_SETUP_ZEROS, %EVPL_SETUP_REVOKE or 0; 0 for EVPL_ADOPT
 * @buffer_size: bytes of a buffer: a power of two from %EVPL_BUFFER_SIZE_MIN, or from the
 *	page size if that is more, to %EVPL_BUFFER_SIZE_MAX; or 0 for
 *	%EVPL_BUFFER_SIZE_DEFAULT. For EVPL_ADOPT, the bytes of the client's buffers, or 0
 *	for whatever they have.
 * @out_buffer_size: the bytes of a buffer
 * @out_own_offset: mmap offset of the own window; always 0
 * @out_own_size: bytes of the own window
 * @out_refs_offset: mmap offset of the refs window
 * @out_refs_size: bytes of the refs window
 * @out_guest_offset: mmap offset of the guest window
 * @out_guest_ro_offset: mmap offset of the guest-ro window
 * @out_guest_size: bytes of each of the four guest windows
 * @out_leases_offset: mmap offset of the leases' entries
 * @out_leases_size: bytes of the leases' entries
 * @out_returned_offset: mmap offset of the returned bitmap
 * @out_returned_size: bytes of the returned bitmap
 * @out_revoked_offset: mmap offset of the revoked bitmap
 * @out_revoked_size: bytes of the revoked bitmap
 * @out_header_offset: mmap offset of the header
 * @out_header_size: bytes to map for the header
 * @out_guest_io_offset: mmap offset of the guest-io window
 * @out_guest_io_ro_offset: mmap offset of the guest-io-ro window
 * @out_flags: the flags that the client was set up with
 *
 * EVPL_SETUP sets the client up. The windows take no memory before they are used, except for the
 * page of the header, and another page with %EVPL_SETUP_ZEROS.
 *
 * EVPL_ADOPT makes a client whose process has died as its successor needs it: see DOC: adopting.
 *
 * Return: 0, or -1 and errno. EVPL_SETUP gives EBUSY if the client is set up already, ENOMEM or
 * EINTR. EVPL_ADOPT gives
 *
 *  - ENXIO: as above
 *  - EINVAL: also if the client's buffers don't have @buffer_size
 *  - EBUSY: a process, the caller included, maps a window of the client, or has done so
 *    meanwhile; a process sends or exports a buffer of it just now, revokes one, or adopts the
 *    client; a ring, a pipe or a device still holds memory of the refs windows; or a ring has
 *    registered a part of a slab (EVPL_URING_REGISTER), or a dma-buf exports one
 *    (%EVPL_EXPORT_SLAB)
 *  - ENOMEM, EINTR: as above. The work may have been done in part. Nothing but another EVPL_ADOPT
 *    can bring the client into order then.
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
	__aligned_u64 out_flags;
};

#define EVPL_SETUP _IOWR(EVPL_IOC_TYPE, 0x00, struct evpl_setup)
#define EVPL_ADOPT _IOWR(EVPL_IOC_TYPE, 0x0f, struct evpl_setup)

/* The call fails with ENOMEM unless the whole slab can be had in folios of 2 MiB. */
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
 * Allocates a slab. It is zeroed, pinned, and charged to the caller's memory cgroup and
 * to the user who opened the client. Its folios are 2 MiB long where the system
 * has them, else shorter, never below 4 pages. The slab gets the lowest free range of
 * the own window. No process is killed to make room.
 *
 * Return: 0, or -1 and errno: ENXIO, ENOMEM, ENOSPC or EINTR as above; EINVAL
 * also if @node has no memory.
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
 * runs, another thread sees the old memory or SIGBUS. Memory that something else still
 * has (a ring, a registration, a pipe) stays charged until that lets it go.
 *
 * Return: 0, or -1 and errno: ENXIO; ENOENT if no slab starts at @offset; EBUSY
 * if one of its words isn't 0, one of its buffers is in flight or leased, or a
 * dma-buf exports a part of it.
 */
struct evpl_slab_free {
	__u32 size;
	__u32 flags;
	__aligned_u64 offset;
};

#define EVPL_SLAB_FREE _IOWR(EVPL_IOC_TYPE, 0x02, struct evpl_slab_free)

/**
 * struct evpl_slab_next - ioctl(EVPL_SLAB_NEXT)
 * @size: sizeof(struct evpl_slab_next)
 * @flags: must be 0
 * @offset: in the own window
 * @out_offset: where the slab starts in the own window
 * @out_length: its bytes
 * @out_node: the node that it was allocated with: a NUMA node, or %EVPL_NODE_ANY
 * @__reserved: must be 0
 *
 * Finds the first slab of the client that starts at @offset or after it. So a caller that begins
 * at 0, and goes on with @out_offset + @out_length, finds all slabs.
 *
 * Return: 0, or -1 and errno: ENXIO; ENOENT if there is no such slab.
 */
struct evpl_slab_next {
	__u32 size;
	__u32 flags;
	__aligned_u64 offset;
	__aligned_u64 out_offset;
	__aligned_u64 out_length;
	__s32 out_node;
	__u32 __reserved;
};

#define EVPL_SLAB_NEXT _IOWR(EVPL_IOC_TYPE, 0x10, struct evpl_slab_next)

#define EVPL_CHANNEL_CAPACITY_MAX	16384
#define EVPL_CHANNEL_CAPACITY_DEFAULT	256

/**
 * struct evpl_channel_create - ioctl(EVPL_CHANNEL_CREATE)
 * @size: sizeof(struct evpl_channel_create)
 * @flags: must be 0
 * @capacity: records that can be in flight in one direction, up to
 *	%EVPL_CHANNEL_CAPACITY_MAX, or 0 for %EVPL_CHANNEL_CAPACITY_DEFAULT
 * @__reserved: must be 0
 * @out_fds: the two ends, close-on-exec, not bound to a client
 *
 * Makes a channel. Its memory is charged like entries, to the user who opened the client.
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

/* The end is one of a lane: see DOC: lanes. */
#define EVPL_BIND_LANE	_BITUL(0)

/**
 * struct evpl_channel_bind - ioctl(EVPL_CHANNEL_BIND)
 * @size: sizeof(struct evpl_channel_bind)
 * @flags: %EVPL_BIND_LANE or 0
 * @fd: an end of a channel
 * @out_capacity: must be 0; then the channel's capacity
 *
 * Binds the end to this client, for good. Records that are written to the end come from
 * the client; records that are read from it go to the client. When the client goes, the
 * end is closed. The end doesn't keep the client.
 *
 * After EVPL_ADOPT the successor may bind each end of the client once more, in the same way, which
 * changes nothing; but not an end of a lane.
 *
 * Return: 0, or -1 and errno: ENXIO; EBADF if @fd is no end of a channel; EBUSY if it is bound
 * already, or its client has gone.
 */
struct evpl_channel_bind {
	__u32 size;
	__u32 flags;
	__s32 fd;
	__u32 out_capacity;
};

#define EVPL_CHANNEL_BIND _IOWR(EVPL_IOC_TYPE, 0x04, struct evpl_channel_bind)

/* @ring is for this end itself, and not for the other one. */
#define EVPL_DOORBELL_SELF	_BITUL(0)

/* In @ring: the other end is rung. In @quiet: this end isn't rung any more. */
#define EVPL_DOORBELL_IN	_BITUL(0)
/* In @ring: the other end isn't full any more. In @quiet: this end is full. */
#define EVPL_DOORBELL_OUT	_BITUL(1)
/* In @ring alone: the client of the other end is told that memory may have come back. */
#define EVPL_DOORBELL_MEMORY	_BITUL(2)

/**
 * struct evpl_doorbell - ioctl(EVPL_DOORBELL), on an end of a channel
 * @size: sizeof(struct evpl_doorbell)
 * @flags: %EVPL_DOORBELL_SELF or 0
 * @ring: %EVPL_DOORBELL_IN, %EVPL_DOORBELL_OUT and %EVPL_DOORBELL_MEMORY, or 0
 * @quiet: %EVPL_DOORBELL_IN and %EVPL_DOORBELL_OUT, or 0
 *
 * Does for this end what @quiet says, then for the other end what @ring says, and wakes the
 * tasks that poll the other end. See DOC: lanes. With %EVPL_DOORBELL_MEMORY, @returned of the
 * header of the other end's client isn't 0 then, as at the end of EVPL_BUFFER_WAIT, and the
 * tasks that poll that client are woken. No bit of the returned bitmap is set.
 *
 * With %EVPL_DOORBELL_SELF this end is the one that is rung. So a client that was quiet, and then
 * finds that it needn't be, takes that back.
 *
 * The call doesn't sleep. It works on an end that other processes use as well.
 *
 * Return: 0, or -1 and errno. EPIPE and ENOTCONN that come of @ring leave @quiet done; otherwise
 * a call that fails has changed nothing.
 *
 *  - EOPNOTSUPP: also a bit of @ring or @quiet that the kernel doesn't know; or one of the two
 *    ends is bound without %EVPL_BIND_LANE
 *  - ENOTCONN: this end isn't bound, or its client has gone; @ring isn't 0, and the end that it is
 *    for isn't bound yet
 *  - EPIPE: @ring isn't 0, and the other end is closed, or its client has gone
 */
struct evpl_doorbell {
	__u32 size;
	__u32 flags;
	__u32 ring;
	__u32 quiet;
};

#define EVPL_DOORBELL _IOW(EVPL_IOC_TYPE, 0x0e, struct evpl_doorbell)

/**
 * struct evpl_room - ioctl(EVPL_ROOM)
 * @size: sizeof(struct evpl_room)
 * @flags: must be 0
 * @out_user: bytes that max_bytes_per_user leaves the user who opened the client
 * @out_system: bytes that max_bytes leaves all users together
 *
 * Tells how much memory the two caps leave. A slab of that length may not fit all the same: its
 * entries are charged too, others allocate as well, and the machine or the memory cgroup may have
 * less.
 *
 * Return: 0, or -1 and errno: ENXIO.
 */
struct evpl_room {
	__u32 size;
	__u32 flags;
	__aligned_u64 out_user;
	__aligned_u64 out_system;
};

#define EVPL_ROOM _IOWR(EVPL_IOC_TYPE, 0x11, struct evpl_room)

/* The receiver may write to the buffer. */
#define EVPL_RECORD_WRITE	_BITUL(0)
/* Only in records that are read: the buffer was revoked in flight. @offset is 0. */
#define EVPL_RECORD_REVOKED	_BITUL(1)
/* The receiver may have devices read the buffer; with EVPL_RECORD_WRITE, also write to it. */
#define EVPL_RECORD_DEVICE	_BITUL(2)

/*
 * Only in records that are read, of the reader's own buffer: others may still have a
 * part in it. EVPL_BUFFER_WAIT waits for the end of that. See DOC: quarantine.
 */
#define EVPL_RECORD_HELD	_BITUL(3)

/* A record of a lane's library, which that library alone reads. See DOC: lanes. */
#define EVPL_RECORD_LANE	_BITUL(4)

/* A record of the reader's own buffer, or of a revoked one, has no lease. */
#define EVPL_LEASE_NONE		0xffffffffU

/**
 * struct evpl_record - a record that is written to an end of a channel, or read from one
 * @offset: mmap offset of the first byte. In a record that is written, it lies in the
 *	own or a guest window of the writer; in one that is read, of the reader.
 * @length: bytes, not 0, all in one buffer
 * @flags: %EVPL_RECORD_WRITE, %EVPL_RECORD_DEVICE and %EVPL_RECORD_LANE, or 0. A record that
 *	is read can also have %EVPL_RECORD_REVOKED or %EVPL_RECORD_HELD.
 * @cookie: any value that the writer chooses
 * @lease: in a record that is read, the number of the lease, or %EVPL_LEASE_NONE.
 *	Ignored in one that is written: @offset says which buffer is meant.
 * @buffer_size: in a record that is read, the bytes of the leased buffer, which starts at
 *	a multiple of that size in its window; 0 without a lease. Ignored in one that is
 *	written.
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
 * given up just now. Skips the others, and those that have ended already.
 *
 * Return: how many leases the call has ended, or -1 and errno: ENXIO; EINVAL, with
 * nothing released, if one of the numbers can't be a lease's.
 */
struct evpl_lease_release {
	__u32 size;
	__u32 flags;
	__aligned_u64 leases;
	__u32 count;
	__u32 __reserved;
};

#define EVPL_LEASE_RELEASE _IOWR(EVPL_IOC_TYPE, 0x05, struct evpl_lease_release)

/* Have leases that aren't idle end as soon as they are. */
#define EVPL_PULL_WANT	_BITUL(0)

/**
 * struct evpl_lease_pull - ioctl(EVPL_LEASE_PULL)
 * @size: sizeof(struct evpl_lease_pull)
 * @flags: %EVPL_PULL_WANT or 0
 *
 * Ends the idle leases that others have on the client's buffers, as their own
 * EVPL_LEASE_RELEASE would. So an owner that is out of buffers gets those back that a
 * receiver has let go of without a call. Then rechecks the client's buffers in quarantine.
 *
 * With %EVPL_PULL_WANT, the kernel sets %EVPL_WORD_WANTED on the leases that aren't idle,
 * and on those that records in flight lead to. A receiver that collects idle leases, to
 * release them together, sees the flag when it takes the last reference off the word, and
 * releases that lease at once. So an owner that pulls, then waits for POLLIN, misses
 * no buffer that it had sent before. The kernel clears the flag when the lease ends.
 *
 * Return: how many leases the call has ended, or -1 and errno: ENXIO; EINTR, after a part
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
 * Takes the buffer back from everybody. A client that has a lease on it gets SIGBUS by
 * its next touch, or finds zeros, as it has chosen. A record that carries the buffer is
 * delivered as %EVPL_RECORD_REVOKED. If the call returns 0, only the owner can touch the
 * buffer. A revoked lease keeps its number and place until its word is 0 and it is
 * released.
 *
 * A dma-buf that carries references on the buffer is revoked too, and all of it, if the
 * kernel and the drivers that use the dma-buf allow that. The kernel must have
 * dma_buf_attach_revocable(), as Linux 7.3 does. Each driver that has mapped the dma-buf for
 * its device must be one that can be told to unmap it, and none may have mapped it for the
 * CPU. Then a touch of a mapping of the dma-buf raises SIGBUS, and whatever maps it or
 * attaches to it gets ENODEV. The call tells the drivers, and waits until the fences of the
 * dma-buf have signaled and the drivers have unmapped it. If a signal comes first, the call
 * returns 1: the drivers then keep the buffer in quarantine until they have let go of it.
 * The references that the dma-buf has on other buffers go back when the dma-buf ends.
 *
 * Return: 0, also if nobody has the buffer; 1 if something still holds it, or a ring has
 * registered it, so that it is in quarantine, and can't be sent before that ends; or -1 and
 * errno: ENXIO; ENOENT if no buffer of a slab starts there; EBUSY while another call revokes
 * the buffer, while it is in quarantine since a revoke, or while a dma-buf that can't be
 * revoked carries references on it; EINTR, with nothing revoked, if a fatal signal came while
 * another thread was sending.
 */
struct evpl_revoke {
	__u32 size;
	__u32 flags;
	__aligned_u64 offset;
};

#define EVPL_REVOKE _IOWR(EVPL_IOC_TYPE, 0x07, struct evpl_revoke)

/* Set the baselines to 0. */
#define EVPL_BASELINE_ZERO	_BITUL(0)
/* All folios of one size in the range are held alike: by the same registrations. */
#define EVPL_BASELINE_ALIKE	_BITUL(1)

/**
 * struct evpl_baseline - ioctl(EVPL_BASELINE)
 * @size: sizeof(struct evpl_baseline)
 * @flags: %EVPL_BASELINE_ZERO, %EVPL_BASELINE_ALIKE or 0
 * @offset: first byte of a range of the own window, a multiple of the page size
 * @length: bytes of the range, a multiple of the page size, not 0; all of it in one slab
 *
 * Sets the baseline of each folio that the range touches to the references that are on it
 * now, as DOC: quarantine counts them. The call skips a folio that has a buffer whose
 * word isn't 0, or a buffer which is in flight, leased, or in quarantine. Such a folio
 * may have I/O running, whose references mustn't become a part of the baseline. With
 * %EVPL_BASELINE_ALIKE these folios get the lowest baseline that the call sets for a
 * folio of the same size. That is for a device that has registered all of the range. With
 * %EVPL_BASELINE_ZERO the call skips none.
 *
 * Return: how many folios the call has skipped; or -1 and errno: ENXIO; ENOENT if the
 * range isn't in a slab; EINVAL also if both flags are given.
 */
struct evpl_baseline {
	__u32 size;
	__u32 flags;
	__aligned_u64 offset;
	__aligned_u64 length;
};

#define EVPL_BASELINE _IOWR(EVPL_IOC_TYPE, 0x08, struct evpl_baseline)

/**
 * struct evpl_quarantine_end - ioctl(EVPL_QUARANTINE_END)
 * @size: sizeof(struct evpl_quarantine_end)
 * @flags: must be 0
 * @offset: where a buffer starts in the own window
 *
 * Ends the buffer's quarantine, whatever holds the buffer: the owner knows that nothing
 * will write to it, or doesn't care. References that still hold it become a part of the
 * baseline that is set next.
 *
 * Return: 0, or -1 and errno: ENXIO; ENOENT if no buffer of a slab starts there, or it
 * isn't in quarantine; EBUSY while a driver that was told to unmap a dma-buf of the buffer
 * hasn't done so (see EVPL_REVOKE), or, if the buffer is revoked, while a ring has it.
 */
struct evpl_quarantine_end {
	__u32 size;
	__u32 flags;
	__aligned_u64 offset;
};

#define EVPL_QUARANTINE_END _IOWR(EVPL_IOC_TYPE, 0x09, struct evpl_quarantine_end)

/**
 * struct evpl_range - a range of the client's windows
 * @offset: mmap offset of the first byte: a multiple of the page size
 * @length: bytes: a multiple of the page size, not 0
 */
struct evpl_range {
	__aligned_u64 offset;
	__aligned_u64 length;
};

/* Importers and mappings of the dma-buf may write. */
#define EVPL_EXPORT_WRITE	_BITUL(0)
/* The ranges are of the client's own window, and the client gives up no reference. */
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
 * Makes a dma-buf of the ranges, one after the other, for devices and processes that
 * know nothing of evpl. No two ranges may overlap, so a dma-buf isn't longer than the
 * memory that it shows; but a buffer that the client has two leases on lies at two
 * offsets, and may be given twice.
 *
 * Each range lies in one buffer, in the own or a guest window. For each, the client gives
 * up one of the references that its word for the buffer counts, as for a record that it
 * writes to a channel. The references go back when the last descriptor, mapping and
 * attachment of the dma-buf has gone, in whatever process, and whether or not the client
 * still lives. EVPL_REVOKE says when a buffer that a dma-buf carries can be revoked.
 *
 * With %EVPL_EXPORT_SLAB each range lies in one slab of the client's own, and the client
 * gives up no reference. The slab can't be freed while the dma-buf lives.
 *
 * Memory that dma-bufs carry outlives the client that owns it. Mappings of the dma-buf are
 * MAP_SHARED, PROT_EXEC is refused, and nothing can pin memory through them. Without
 * %EVPL_EXPORT_WRITE a device can be given the memory for reading alone (DMA_TO_DEVICE),
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

/* Say at once whether others have a part in the buffer, instead of waiting. */
#define EVPL_WAIT_TRY	_BITUL(0)

/**
 * struct evpl_buffer_wait - ioctl(EVPL_BUFFER_WAIT)
 * @size: sizeof(struct evpl_buffer_wait)
 * @flags: %EVPL_WAIT_TRY or 0
 * @offset: where a buffer starts in the own window
 *
 * Waits until nobody but the client has a part in the buffer: no record of it is in flight,
 * nobody has a lease on it, no dma-buf carries it, no ring has registered it as a lessee's, and
 * it isn't in quarantine. The client's
 * own references don't matter.
 *
 * Leases on the buffer whose words are 0 are ended. The others get %EVPL_WORD_WANTED, as by
 * EVPL_LEASE_PULL.
 *
 * With %EVPL_WAIT_TRY the kernel checks the pages at once if the buffer is in quarantine.
 * After EAGAIN, and after a record with %EVPL_RECORD_HELD, the kernel reports the end by
 * @returned of the header. If the client has references on the buffer then, no bit of the
 * bitmap is set. So a client may poll, then try again.
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

/**
 * DOC: registered buffers
 *
 * From Linux 7.3 on, a ring of io_uring(7) can take the client's memory as registered
 * ("fixed") buffers with nothing charged to RLIMIT_MEMLOCK: the kernel pins no page for it.
 * These two commands, sent through the ring by %IORING_OP_URING_CMD with the client's
 * descriptor, fill and clear a slot of that ring's table of registered buffers. The table exists
 * already, and may be an empty one (%IORING_RSRC_REGISTER_SPARSE). &struct evpl_uring_buffer lies
 * in the SQE's cmd field, and its @cmd_op is the command. The SQE's addr and len are 0.
 *
 * In a request that uses the buffer, the address is the offset of a byte in the registered
 * range: the first byte has 0. io_uring gives EFAULT for a request that goes past the range, and
 * for one that would write to memory which isn't registered with %EVPL_URING_WRITE.
 *
 * As long as a ring has a registered buffer, its memory stays: until the slot has been cleared,
 * by %EVPL_URING_UNREGISTER or as io_uring clears any slot, in each ring that has a copy of it,
 * and io_uring has freed all requests that use it. It frees a request soon after it has posted
 * the CQE. A ring itself goes some time after its last descriptor and mapping. So
 *
 *  - a slab of which a ring has a part stays, and stays charged to the user who opened its
 *    client, although it was freed or the client has gone;
 *  - a leased buffer doesn't go back to its owner before, even if the lease has ended or the
 *    client has gone. If it is revoked meanwhile, it is in quarantine until then.
 *
 * The kernel counts the registered buffers. It doesn't find them by the references of pages, so
 * a baseline doesn't matter for them, and a registered buffer keeps no other in quarantine.
 */

/* Requests may write to the memory: read(2) into it, for one. */
#define EVPL_URING_WRITE	_BITUL(0)

/**
 * struct evpl_uring_buffer - a command for a slot of a ring
 * @offset: mmap offset of the first byte: a multiple of the page size
 * @length: bytes: a multiple of the page size, not 0
 * @index: the slot
 * @flags: %EVPL_URING_WRITE or 0
 *
 * EVPL_URING_REGISTER registers a range of the own window that lies in one slab, or a range of a
 * device lease. It takes no reference from a word. Another client's buffer can be registered as
 * long as the lease exists, whatever its word says.
 *
 * EVPL_URING_UNREGISTER clears a slot. The other fields are 0. Any client's descriptor will do.
 *
 * The CQE's res is 0, or a negative errno:
 *
 *  - EOPNOTSUPP: the kernel doesn't know the command, or the flag; in Linux before 7.3 it knows
 *    neither command
 *  - ENXIO: the client isn't set up yet
 *  - EINVAL: the ring has no such slot; a field is misaligned, or isn't 0 where it must be; the
 *    range goes past the end of its slab, or its buffer; to unregister, the slot is empty
 *  - EBUSY: the slot is in use; to unregister, io_uring itself has filled it
 *  - ENOENT: @offset is in no slab and no lease of the client, or in a revoked one
 *  - EPERM: the lease isn't one for devices; %EVPL_URING_WRITE, and the lease, or the client, is
 *    read-only
 *  - EFAULT: a page of the range has a memory error
 *  - ENOMEM: memory is short. io_uring's own part of the allocation may call the OOM killer of
 *    the memory cgroup, as any of its allocations may.
 *  - EINTR: a fatal signal came before the command was done
 */
struct evpl_uring_buffer {
	__aligned_u64 offset;
	__u32 length;
	__u16 index;
	__u16 flags;
};

#define EVPL_URING_REGISTER _IOW(EVPL_IOC_TYPE, 0x0c, struct evpl_uring_buffer)
#define EVPL_URING_UNREGISTER _IOW(EVPL_IOC_TYPE, 0x0d, struct evpl_uring_buffer)

#endif /* _UAPI_LINUX_EVPL_H */
