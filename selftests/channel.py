#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Channels from a language that has no library for them: an end is a file like others.

There are two processes, each with a client. The program packs and unpacks records, and the
structs of the ioctls, by hand.
"""
import ctypes
import faulthandler
import fcntl
import mmap
import os
import select
import signal
import struct

LIMIT = 240                         # seconds that each of the two processes may take
PR_SET_PDEATHSIG = 1
SLAB = 2 << 20
TEXT = b'from one process to another'
AT = 3 << 20 >> 1                   # where TEXT is in the slab: in its second buffer

RECORD = struct.Struct('=QIIQII')   # offset, length, flags, cookie, lease, 0
SETUP = struct.Struct('=II17Q')
SLAB_ALLOC = struct.Struct('=IIQiIQ')
CREATE = struct.Struct('=IIIIii')
BIND = struct.Struct('=IIiI')
RELEASE = struct.Struct('=IIQII')


def ioctl_number(number, layout):
    """_IOWR() of linux/ioctl.h."""
    return 3 << 30 | layout.size << 16 | 0xEB << 8 | number


def call(fd, number, layout, *fields):
    """An ioctl with one struct, whose size comes first. Returns the struct."""
    data = bytearray(layout.pack(layout.size, *fields))
    fcntl.ioctl(fd, ioctl_number(number, layout), data)
    return layout.unpack(data)


def window(fd, offset, length, protection):
    """Maps the pages of a range. Returns the mapping, and where the range starts in it."""
    skip = offset % mmap.PAGESIZE
    return mmap.mmap(fd, skip + length, mmap.MAP_SHARED, protection,
                     offset=offset - skip), skip


def receive(end):
    """The child: returns whether it reads the record, sees the text, and ends the lease."""
    fd = os.open('/dev/evpl', os.O_RDWR | os.O_CLOEXEC)
    leases = call(fd, 0, SETUP, 0, 1 << 20, *[0] * 16)[11]
    call(fd, 4, BIND, 0, end, 0)
    poll = select.poll()
    poll.register(end, select.POLLIN)
    poll.poll()
    offset, length, _, cookie, lease, _ = RECORD.unpack(os.read(end, RECORD.size))
    memory, at = window(fd, offset, length, mmap.PROT_READ)
    good = memory[at:at + length] == TEXT and cookie == 17
    words, at = window(fd, leases + lease * 64, 8, mmap.PROT_READ | mmap.PROT_WRITE)
    good = good and struct.unpack_from('=Q', words, at)[0] == 1
    struct.pack_into('=Q', words, at, 0)
    number = ctypes.c_uint32(lease)
    release = RELEASE.pack(RELEASE.size, 0, ctypes.addressof(number), 1, 0)
    return good and fcntl.ioctl(fd, ioctl_number(5, RELEASE), bytearray(release)) == 1


def main():
    """The parent: sends a record and sees that the reference comes back."""
    print('TAP version 13\n1..1', flush=True)
    fd = os.open('/dev/evpl', os.O_RDWR | os.O_CLOEXEC)
    setup = call(fd, 0, SETUP, 0, 1 << 20, *[0] * 16)
    slab = call(fd, 1, SLAB_ALLOC, 0, SLAB, -1, 0, 0)[5]
    ends = call(fd, 3, CREATE, 0, 0, 0, 0, 0)[4:]
    call(fd, 4, BIND, 0, ends[0], 0)
    child = os.fork()
    # A process that takes longer prints where it is, and ends. faulthandler starts a thread
    # for that, which fork() wouldn't copy: so both processes call it.
    faulthandler.dump_traceback_later(LIMIT, exit=True)
    if not child:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.close(ends[0])
        os._exit(0 if receive(ends[1]) else 1)
    os.close(ends[1])

    memory, _ = window(fd, slab, SLAB, mmap.PROT_READ | mmap.PROT_WRITE)
    memory[AT:AT + len(TEXT)] = TEXT
    words, _ = window(fd, setup[6], 128, mmap.PROT_READ | mmap.PROT_WRITE)
    struct.pack_into('=Q', words, 64, 1)
    os.write(ends[0], RECORD.pack(slab + AT, len(TEXT), 0, 17, 0, 0))
    good = os.waitpid(child, 0)[1] == 0
    # The other end is closed, since the child has ended.
    good = good and os.read(ends[0], RECORD.size) == b''
    good = good and struct.unpack_from('=Q', words, 64)[0] == 0
    print('ok 1' if good else 'not ok 1', 'two processes exchange a buffer in plain Python')


main()
