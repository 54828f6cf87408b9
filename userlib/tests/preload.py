#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
"""preload.py PRELOAD.SO: checks that unmodified programs have their memory in slabs.

The library is userlib/examples/preload.c, and the programs are Python and redis. EVPL_BACKEND
chooses the back end.
"""
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time

import tap
from tap import check, skip

preload = os.path.realpath(sys.argv[1])
ENOSYS = 38
MIB = 1 << 20
ARENA = 64 * MIB
LIMIT = 600                         # seconds for a step
PYTHON = '/usr/bin/python3'         # no wrapper in a shell, as that would need fork(2)
# redis-tools has the server too. By its name the program knows that it is the server.
REDIS = '/usr/bin/redis-check-rdb'
MARK = b'evpl-value-'
VALUES, VALUE = 8000, 10000
ENVIRONMENT = {**os.environ, 'LD_PRELOAD': preload, 'EVPL_ARENA_MIB': str(ARENA // MIB),
               'PYTHONMALLOC': 'malloc'}

# Each line is the name of a fact, and whether it holds.
IN_PYTHON = '''
import ctypes, errno, os, re, subprocess, threading

def is_in_slab(array):
    at = ctypes.addressof(ctypes.c_char.from_buffer(array))
    with open('/proc/self/maps') as maps:
        for line in maps:
            start, end = (int(n, 16) for n in line.split()[0].split('-'))
            if start <= at < end:
                return bool(re.search(r' rw-s .*(/dev/evpl|/dev/zero)', line))

def say(fact, holds):
    print(fact, bool(holds), flush=True)

def fill(n):
    return bytearray(b'%d ' % n * 1000)

arrays = [fill(n) for n in range(9000)]
say('objects_of_Python_are_in_slabs', all(is_in_slab(array) for array in arrays[::1000]))
threads = [threading.Thread(target=lambda n=n: arrays.append(fill(n))) for n in range(20)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
say('objects_of_threads_are_in_slabs', all(is_in_slab(array) for array in arrays[9000:]))
say('objects_keep_their_bytes', all(array == fill(n) for n, array in enumerate(arrays[:9000])))
long = bytearray(30 << 20)
say('a_long_object_is_in_a_slab', is_in_slab(long) and not any(long))
try:
    bytearray(40 << 20)
    say('object_of_more_than_half_an_arena_is_ENOMEM', False)
except MemoryError:
    say('object_of_more_than_half_an_arena_is_ENOMEM', True)
try:
    pid = os.fork()
    if not pid:
        os._exit(0)
    say('fork_is_ENOSYS', False)
except OSError as error:
    say('fork_is_ENOSYS', error.errno == ENOSYS)
program = ctypes.CDLL(None, use_errno=True)
for name in ('fork', '_Fork', 'daemon', 'forkpty'):
    ctypes.set_errno(0)
    refused = getattr(program, name)(None, None, None, None) == -1
    say(name + '_of_C_is_ENOSYS', refused and ctypes.get_errno() == ENOSYS)

def slabs():
    with open('/proc/self/maps') as maps:
        return sum('rw-s' in line for line in maps)

def align(alignment, length):
    """The address, or the errno; and whether there are more slabs."""
    before = slabs()
    program.memalign.restype = ctypes.c_void_p
    at = program.memalign(ctypes.c_size_t(alignment), ctypes.c_size_t(length))
    return at or ctypes.get_errno(), slabs() > before

MIB = 1 << 20
say('alignment_that_is_no_power_of_two_is_EINVAL', align(48, 100) == (errno.EINVAL, False))
say('alignment_of_32_MiB_is_ENOMEM_and_takes_no_slab', align(32 * MIB, 100) == (errno.ENOMEM, False))
say('alignment_of_1_MiB_is_had', align(MIB, 100)[0] % MIB == 0)
program.__libc_malloc.restype = ctypes.c_void_p
say('object_of_the_C_library_has_its_usable_size',
    100 <= program.malloc_usable_size(ctypes.c_void_p(program.__libc_malloc(100))) < 200)
run = subprocess.run(['/bin/echo', 'hello'], capture_output=True, close_fds=False)
say('another_program_is_started', run.stdout == b'hello\\n')
'''
FACTS = re.findall(r"say\('(\w+)',\s+(?!False)", IN_PYTHON.replace(', True', ', bool(1)')) + \
    [name + '_of_C_is_ENOSYS' for name in ('fork', '_Fork', 'daemon', 'forkpty')]


def check_python():
    run = subprocess.run([PYTHON, '-c', f'ENOSYS = {ENOSYS}\n{IN_PYTHON}'], env=ENVIRONMENT,
                         capture_output=True, text=True, timeout=LIMIT, check=False)
    said = dict(line.split() for line in run.stdout.splitlines())
    for fact in dict.fromkeys(FACTS):
        check(said.get(fact) == 'True', fact, said, run.stderr)
    check(run.returncode == 0, 'Python_ends_as_usual', run.returncode, run.stderr)


class Redis:
    """A client of redis."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(LIMIT)
        self.socket.connect(path)
        self.file = self.socket.makefile('rb')

    def send(self, *words):
        words = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        self.socket.sendall(b'*%d\r\n' % len(words) +
                            b''.join(b'$%d\r\n%s\r\n' % (len(word), word) for word in words))

    def answer(self):
        line = self.file.readline()[:-2]
        if line[:1] != b'$':
            return line
        length = int(line[1:])
        return None if length < 0 else self.file.read(length + 2)[:-2]

    def call(self, *words):
        self.send(*words)
        return self.answer()


def value(number, version):
    return MARK + b'%d %d ' % (number, version) + bytes([number % 251]) * VALUE


def connect(server, path):
    """Waits until the server takes a connection. Returns None if it has ended."""
    for _ in range(LIMIT * 10):
        try:
            return Redis(path)
        except (FileNotFoundError, ConnectionRefusedError):
            if server.poll() is not None:
                return None
            time.sleep(0.1)
    return None


def maps(pid):
    """The writable mappings of a process: pairs of the number of slabs in it, and the bytes."""
    with open(f'/proc/{pid}/maps', encoding='utf-8') as lines, \
            open(f'/proc/{pid}/mem', 'rb', buffering=0) as memory:
        for line in lines:
            words = line.split()
            start, end = (int(n, 16) for n in words[0].split('-'))
            if not words[1].startswith('rw') or start > 1 << 62:
                continue
            slabs = (end - start) // ARENA if words[1] == 'rw-s' and \
                words[5] in ('/dev/evpl', '/dev/zero') else 0
            text = bytearray()
            for at in range(start, end, MIB):
                try:
                    text += os.pread(memory.fileno(), min(MIB, end - at), at)
                except OSError:     # reserved addresses, without memory
                    break
            yield slabs, bytes(text)


def set_all(redis, version):
    for number in range(VALUES):
        redis.send('SET', f'key {number}', value(number, version))
        if redis.answer() != b'+OK':
            return False
    return True


def check_values(redis, server):
    check(set_all(redis, 1), 'redis_takes_values')
    slabs = values = elsewhere = 0
    for here, text in maps(server.pid):
        slabs += here
        values += text.count(MARK) if here else 0
        elsewhere += 0 if here else text.count(MARK)
    check(values >= VALUES, 'each_value_of_redis_is_in_a_slab', values)
    # A value on its way through redis may also be on a stack.
    check(elsewhere < VALUES // 100, 'values_of_redis_are_nowhere_else', elsewhere)
    check(slabs >= 2, 'redis_grows_into_another_slab', slabs)
    check(all(redis.call('GET', f'key {number}') == value(number, 1)
              for number in range(0, VALUES, 7)), 'redis_gives_the_values_back')
    info = dict(line.split(':', 1) for line in
                redis.call('INFO', 'memory').decode().splitlines() if ':' in line)
    check(int(info['used_memory']) >= VALUES * VALUE, 'redis_counts_the_memory', info)

    # Freed memory is used again: a second set of values needs at most one more slab.
    check(redis.call('FLUSHALL', 'SYNC') == b'+OK' and set_all(redis, 2), 'redis_takes_new_values')
    again = sum(here for here, _ in maps(server.pid))
    check(again <= slabs + 1, 'freed_memory_is_used_again', slabs, again)
    check(redis.call('GET', 'key 5') == value(5, 2), 'redis_gives_a_new_value_back')
    answer = redis.call('BGSAVE')
    check(answer.startswith(b'-'), 'a_save_in_a_child_is_refused', answer)


def check_redis():
    if not os.access(REDIS, os.X_OK):
        skip('redis_has_its_memory_in_slabs', f'there is no {REDIS}')
        return
    if int(os.environ.get('EVPL_TEST_PERCENT', '100')) <= 10:
        skip('redis_has_its_memory_in_slabs', 'it takes minutes on a kernel that looks for bugs')
        return
    directory = tempfile.mkdtemp(prefix='evpl-preload-')
    path = f'{directory}/socket'
    try:
        with open(f'{directory}/log', 'wb') as log:
            server = subprocess.Popen(
                ['redis-server', '--port', '0', '--unixsocket', path, '--save', '', '--dir',
                 directory], executable=REDIS, env=ENVIRONMENT, stdout=log, stderr=log)
        try:
            redis = connect(server, path)
            with open(f'{directory}/log', encoding='utf-8') as log:
                check(redis, 'redis_starts', server.poll(), log.read())
            if redis:
                check_values(redis, server)
                redis.send('SHUTDOWN', 'NOSAVE')
                check(server.wait(LIMIT) == 0, 'redis_ends_as_usual', server.returncode)
        finally:
            server.kill()
            server.wait()
    finally:
        shutil.rmtree(directory)


check_python()
check_redis()
sys.exit(tap.end())
