#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
"""probe.py EVPL-PROBE: checks that the tool's results are true and that its remedies work.

Run this as root, by with-rxe, with the module loaded. It makes a file system for O_DIRECT on
EVPL_TEST_DISK, and so overwrites that disk.
"""
import contextlib
import ctypes
import glob
import itertools
import json
import os
import re
import resource
import shutil
import struct
import subprocess
import sys
import tempfile

import tap
from tap import check, skip

KIB = 1024
PAGE = resource.getpagesize() // KIB
DEVICE = '/dev/evpl'
COUNTERS = '/sys/kernel/debug/evpl/counters'
CAP = '/sys/module/evpl/parameters/max_bytes_per_user'
DISABLED = '/proc/sys/kernel/io_uring_disabled'
GROUP = 60100
EPERM, ENOENT, EACCES, ENOMEM, EINVAL, EOPNOTSUPP, ENOBUFS, ETIMEDOUT = \
    1, 2, 13, 12, 22, 95, 105, 110

RDMA = 'RDMA ' + os.environ.get('EVPL_RXE', '')
RDMA_DMABUF = 'RDMA dma-buf ' + os.environ.get('EVPL_RXE', '')
RINGS = ['io_uring', 'io_uring SINGLE_ISSUER', 'io_uring SEND_ZC', 'io_uring fixed buffers',
         'io_uring cloned buffers', 'io_uring evpl buffers']
SENDS = ['MSG_ZEROCOPY', 'io_uring SEND_ZC']
release = tuple(int(n) for n in re.match(r'(\d+)\.(\d+)', os.uname().release).groups())
# The interfaces that charge a whole slab to RLIMIT_MEMLOCK on this kernel.
SLABS = ([RDMA, 'AF_XDP'] + ['io_uring fixed buffers'] * (release >= (6, 5)) +
         ['io_uring cloned buffers'] * (release >= (6, 12)))

directory = probe = None


class Said:
    """The JSON output of one run of the tool."""

    def __init__(self, run):
        self.status = run.returncode
        self.object = json.loads(run.stdout)
        self.rows = {row['interface']: row for row in self.object['rows']}

    def works(self, *names):
        return [self.rows[name]['works'] for name in names]

    def all_are(self, works, names):
        return all(self.rows[name]['works'] == works for name in names)


def run(*arguments, user=None, caps='', memlock=None, fsize=None, seccomp=False, below=(), **env):
    """Runs the tool: as root, or as the given user in the group of the device."""
    command = [*below]
    if user:
        command += ['setpriv', '--reuid', str(user), '--regid', str(GROUP), '--clear-groups',
                    f'--inh-caps={caps or "-all"}', f'--ambient-caps={caps or "-all"}']

    def limit():
        if memlock is not None:
            resource.setrlimit(resource.RLIMIT_MEMLOCK, [n * KIB for n in memlock])
        if fsize is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (fsize, fsize))
        if seccomp:
            forbid_rings()

    return subprocess.run(command + [probe, *arguments], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, preexec_fn=limit, check=False, timeout=300,
                          env={**os.environ, 'TMPDIR': directory, **env})


def say(*arguments, **how):
    return Said(run('--json', *arguments, **how))


def forbid_rings():
    """Installs a seccomp filter as container runtimes do: io_uring_setup fails with EPERM."""
    code = [(0x20, 0, 0, 0), (0x15, 0, 1, 425), (0x06, 0, 0, 0x00050000 | EPERM),
            (0x06, 0, 0, 0x7fff0000)]
    program = ctypes.create_string_buffer(b''.join(struct.pack('=HBBI', *c) for c in code))
    fprog = struct.pack('HxxxxxxP', len(code), ctypes.addressof(program))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, fprog):
        os._exit(99)


@contextlib.contextmanager
def written(path, text):
    """Writes a setting, and restores it at the end of the block."""
    with open(path, encoding='ascii') as file:
        before = file.read()
    with open(path, 'w', encoding='ascii') as file:
        file.write(text)
    try:
        yield
    finally:
        with open(path, 'w', encoding='ascii') as file:
            file.write(before)


@contextlib.contextmanager
def charged(user):
    """Has another process of the user hold a umem of one page, which is charged to the user."""
    code = f'''
import ctypes, mmap, socket, struct, sys
m = mmap.mmap(-1, {PAGE * KIB})
s = socket.socket(44, socket.SOCK_RAW)
at = ctypes.addressof(ctypes.c_char.from_buffer(m))
s.setsockopt(283, 4, struct.pack('QQIIIxxxx', at, {PAGE * KIB}, 4096, 0, 0))
print('held', flush=True)
sys.stdin.read()
'''
    with subprocess.Popen(['setpriv', '--reuid', str(user), '--clear-groups',
                           '--inh-caps=+net_raw', '--ambient-caps=+net_raw', sys.executable,
                           '-c', code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b'held\n'
        yield
        holder.stdin.close()


def expected_of_root():
    """The results that root must see, from what is known of the kernels, not from the tool."""
    works = {name: 'yes' for name in
             ['memory', 'read, write', 'vmsplice', 'process_vm_readv', 'dma-buf', 'MSG_ZEROCOPY',
              'AF_XDP', RDMA, *RINGS]}
    works['userfaultfd'] = 'refused'
    # Soft-RoCE has no memory regions of dma-bufs.
    works[RDMA_DMABUF] = 'no'
    if release < (6, 5):
        works['io_uring fixed buffers'] = 'no'
    if release < (6, 12):
        works['io_uring cloned buffers'] = 'no'
    if release < (7, 3):
        works['io_uring evpl buffers'] = 'no'
    if glob.glob('/dev/vfio/[0-9]*'):
        works['VFIO'] = 'yes'
    elif glob.glob('/sys/kernel/iommu_groups/*') and os.path.exists('/dev/vfio/vfio'):
        works['VFIO'] = 'not tried'
    else:
        works['VFIO'] = 'no'
    return works


def of_root(has_disk):
    said = say()
    check(said.status == 0, 'exits with 0 where the memory works', said.status)
    check(said.object['kernel'] == os.uname().release, 'names the kernel', said.object['kernel'])
    with open(CAP, encoding='ascii') as cap:
        check(said.object['limits']['max_bytes_per_user'] == int(cap.read()), 'tells the caps')
    expected = expected_of_root()
    if has_disk:
        expected['O_DIRECT'] = 'yes'
    for name, works in expected.items():
        row = said.rows.get(name)
        check(row and row['works'] == works, f'{name} is {works}', row)
    others = {name for name in said.rows if not name.startswith('RDMA ')}
    others |= {RDMA, RDMA_DMABUF}
    check(others == {*expected, 'O_DIRECT'}, 'has no other rows', said.rows.keys())
    mute = [row for row in said.rows.values()
            if not row['reason'] or (row['works'] != 'yes' and not row['remedy'])]
    check(not mute, 'every row has a reason, and a remedy where it is no yes', mute)
    # A page of PMDs, with 8 bytes each, spans so many pages.
    pmd = f'a PMD of this kernel has {PAGE * KIB // 8 * PAGE // KIB} MiB.'
    row = said.rows['memory']
    check((pmd in row['reason'] and not row['remedy']) == (PAGE > 4),
          'says where no folio of 2 MiB is mapped by a PMD', row)
    if release < (6, 5):
        row = said.rows['io_uring fixed buffers']
        check(row['errno'] == EOPNOTSUPP and '6.5' in row['reason'],
              'says from when on the kernel registers it', row)
    check(said.rows['userfaultfd']['errno'] == EINVAL, 'userfaultfd is refused with EINVAL')
    check(said.rows[RDMA_DMABUF]['errno'] == EOPNOTSUPP, 'a device without dma-bufs is told')
    check(all(said.rows[name]['charged_to'] == 'nobody' for name in
              ('memory', 'dma-buf', 'io_uring evpl buffers', RDMA_DMABUF)), 'what nobody is charged for is told', said.rows)
    check(all(said.rows[name]['charged_to'] is None for name in
              ('read, write', 'O_DIRECT', 'vmsplice', 'io_uring')),
          'what registers nothing is charged to nobody', said.rows)

    table = run()
    lines = table.stdout.decode().splitlines()
    check(table.returncode == 0 and max(map(len, lines)) <= 100, 'no line is above 100 columns')
    wrong = [row for name, row in said.rows.items() if not any(
        line.startswith(name) and line[24:35].strip() == row['works'] for line in lines)]
    check(not wrong, 'the table says the same', wrong, lines)
    told = re.findall(r'Charged\s+to\s+(?:the\s+)?(\w+)\.', table.stdout.decode())
    check(told == [row['charged_to'] for row in said.rows.values()
                   if row['works'] == 'yes' and row['charged_to']],
          'the table says the same of charges', told, lines)


def of_file_systems():
    odd = f'/run/no"such\\thing\n\t\x01é'.encode() + b'\xff'
    said = say(TMPDIR=os.fsdecode(odd))
    row = said.rows['O_DIRECT']
    check(row['works'] == 'not tried' and row['errno'] == ENOENT,
          'without a directory O_DIRECT is not tried', row)
    check(odd[:-1].decode() + '\ufffd' in row['reason'], 'JSON has any name of a directory', row)
    row = say(TMPDIR='/dev/shm').rows['O_DIRECT']
    check(row['works'] == 'not tried' and 'TMPDIR' in row['remedy'],
          'a file system that copies is no proof', row)


def of_limits():
    # Each run has a user of its own, since the kernel may end a charge late.
    users, raw = itertools.count(60200), '+net_raw'
    # The kernel charges two pages more for a send, in case the bytes lie across pages.
    send = 64 + 2 * PAGE
    said = say(user=next(users), caps=raw, memlock=(64, 64))
    check(said.object['limits'] | {'max_bytes': 0, 'max_bytes_per_user': 0} ==
          {'memlock': 64 * KIB, 'memlock_hard': 64 * KIB, 'cap_ipc_lock': False, 'max_bytes': 0,
           'max_bytes_per_user': 0}, 'tells the limits', said.object['limits'])
    for names, need, kib, unit in ((SLABS, '2 MiB', 2048, '2M'),
                                   (SENDS, f'{send} KiB', send, f'{send}K')):
        for name in names:
            row = said.rows[name]
            check(row['works'] == 'no' and
                  row['errno'] == (ENOBUFS if name in ('AF_XDP', 'MSG_ZEROCOPY') else ENOMEM) and
                  'RLIMIT_MEMLOCK is 64 KiB;' in row['reason'] and
                  f'needs {need}.' in row['reason'] and
                  f'ulimit -l {kib} as root (the hard limit is 64 KiB)' in row['remedy'] and
                  f'LimitMEMLOCK={unit} ' in row['remedy'] and 'CAP_IPC_LOCK' in row['remedy'],
                  f'{name} says the limit, the need and what to set', row)
    others = set(expected_of_root()) - {*SLABS, *SENDS, 'VFIO'}
    as_ever = {name: expected_of_root()[name] for name in others}
    check({name: said.rows[name]['works'] for name in others} == as_ever,
          'the rest works at 64 KiB', said.rows)

    said = say(user=next(users), caps=raw, memlock=(64, 4096))
    check(all(said.rows[name]['remedy'].startswith('ulimit -l 2048, or') for name in SLABS),
          'below the hard limit nobody needs root', said.rows[SLABS[0]])
    for kib, works in ((send, SENDS), (send - PAGE, []),
                       (2048, SENDS + SLABS), (2048 - PAGE, SENDS)):
        said = say(user=next(users), caps=raw, memlock=(kib, kib))
        check(said.all_are('yes', works) and
              said.all_are('no', set(SENDS + SLABS) - set(works)),
              f'{"what it said suffices" if kib in (send, 2048) else "a page less does not"}: {kib}',
              said.rows)

    user = next(users)
    with charged(user):
        said = say(user=user, caps=raw, memlock=(64, 64))
        for name in SLABS:
            row = said.rows[name]
            told = f'is 64 KiB, {PAGE} KiB of it taken by this user; ' in row['reason']
            asked = f'ulimit -l {2048 + PAGE} ' in row['remedy']
            # RDMA charges the process, not the user, so it doesn't see the other process's umem.
            check(told == asked == (name != RDMA), f'{name} counts what it adds to', row)
            check(row['charged_to'] == ('user' if told else 'process'),
                  f'{name} says what it adds to', row)
        said = say(user=user, caps=raw, memlock=(2048 + PAGE, 2048 + PAGE))
        check(said.all_are('yes', SLABS), 'beside that, too, what it said suffices', said.rows)

    said = say(user=next(users), caps=raw, memlock=(0, 0))
    row = said.rows[RDMA]
    check(row['works'] == 'no' and row['errno'] == EPERM and
          'RLIMIT_MEMLOCK is 0 bytes;' in row['reason'] and 'ulimit -l 2048' in row['remedy'],
          'RDMA names a limit of 0 too', row)
    check(said.all_are('yes', ['memory', 'dma-buf', 'read, write', 'vmsplice']),
          'the memory itself needs no limit', said.rows)

    row = say(user=next(users), memlock=(64, 64)).rows['AF_XDP']
    check(row['works'] == 'no' and row['errno'] == EPERM and 'CAP_NET_RAW' in row['reason'],
          'AF_XDP names the capability', row)


def of_access():
    said = run('--json', user=60102)
    row = Said(said).rows['memory']
    check(said.returncode == 0, 'a member of the group may', row)
    os.chmod(DEVICE, 0o600)
    said = run(user=60102)
    check(said.returncode == 1 and not said.stdout and
          said.stderr.startswith(b'evpl-probe: This user may not open /dev/evpl: ') and
          b'usermod -aG evpl' in said.stderr, 'who may not open it is told whose it is', said)
    os.chmod(DEVICE, 0o660)
    said = say('--device', '/run/none')
    check(said.status == 1 and list(said.rows) == ['memory'] and
          said.rows['memory']['errno'] == ENOENT, 'without the memory nothing else is tried')
    with written(CAP, str(1 << 20)):
        said = run(user=60102)
    check(said.returncode == 1 and b'max_bytes_per_user' in said.stderr and
          b'1048576' in said.stderr, 'a cap that leaves no slab is named', said)
    said = say(EVPL_BACKEND='anon')
    check(said.works(*expected_of_root()) == list(expected_of_root().values()),
          'EVPL_BACKEND=anon changes nothing', said.rows)


def of_rings():
    def refused(said, word):
        return all(said.rows[name]['works'] == 'no' and said.rows[name]['errno'] == EPERM and
                   word in said.rows[name]['reason'] for name in RINGS)

    said = say(seccomp=True)
    check(refused(said, 'seccomp'), 'a seccomp filter is named', said.rows)
    if os.path.exists(DISABLED):
        with written(DISABLED, '2'):
            said = say()
            poor = say(user=60103, caps='+net_raw', memlock=(64, 64)).rows['AF_XDP']
        check(refused(said, 'kernel.io_uring_disabled is 2'), 'the sysctl is named', said.rows)
        check("can't be seen" in poor['reason'] and 'ulimit -l 2048 ' in poor['remedy'],
              'where what is taken can not be seen, it says so', poor)
    else:
        skip('the sysctl is named', 'this kernel has none')


def of_mishaps():
    """Checks that the tool survives when the process of a row is killed, or hangs."""
    said = say(fsize=0)
    row = said.rows['read, write']
    check(row['works'] == 'no' and 'killed by signal 25 ' in row['reason'],
          'one that is killed is told', row)
    check(said.status == 0 and said.works('vmsplice', 'AF_XDP') == ['yes', 'yes'],
          'and the others go on', said.rows)

    deaf = 'ip link set lo up && tc qdisc add dev lo root netem loss 100% && exec "$@"'
    below = ['unshare', '-n', 'sh', '-c', deaf, 'sh']
    if subprocess.run([*below, 'true'], stderr=subprocess.DEVNULL, check=False).returncode:
        skip('one that hangs is given up', 'this kernel has no netem')
        return
    said = say(below=below)
    check(said.status == 0 and all(
        said.rows[name]['works'] == 'no' and said.rows[name]['errno'] == ETIMEDOUT
        for name in SENDS), 'one that hangs is given up', said.rows)
    check(said.works('vmsplice', 'AF_XDP') == ['yes', 'yes'], 'and the others are tried', said.rows)


def main(program):
    """Runs all checks, on a copy of the tool that any user can execute."""
    global directory, probe
    with open(COUNTERS, encoding='ascii') as counters:
        before = counters.read()
    top = tempfile.mkdtemp(prefix='evpl-probe.')
    os.chmod(top, 0o755)
    probe = shutil.copy(program, top)
    directory = os.path.join(top, 'disk')
    os.mkdir(directory)
    disk = os.environ.get('EVPL_TEST_DISK', 'none')
    has_disk = disk != 'none'
    if has_disk:
        subprocess.run(['mkfs.ext4', '-q', '-F', disk], check=True)
        subprocess.run(['mount', '-t', 'ext4', disk, directory], check=True)
    os.chmod(directory, 0o1777)
    was = os.stat(DEVICE)
    os.chown(DEVICE, was.st_uid, GROUP)
    os.chmod(DEVICE, 0o660)
    try:
        print('TAP version 13')
        of_root(has_disk)
        of_file_systems()
        of_limits()
        of_access()
        of_rings()
        of_mishaps()
    finally:
        os.chown(DEVICE, was.st_uid, was.st_gid)
        os.chmod(DEVICE, was.st_mode & 0o7777)
        if has_disk:
            subprocess.run(['umount', directory], check=True)
        shutil.rmtree(top)
    for _ in range(600):
        with open(COUNTERS, encoding='ascii') as counters:
            after = counters.read()
        if after == before:
            break
        subprocess.run(['sleep', '0.1'], check=True)
    check(after == before, 'nothing is left', before, after)
    return tap.end()


sys.exit(main(sys.argv[1]))
