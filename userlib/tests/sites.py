#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
"""sites.py EVPLCTL LEAK: checks that evplctl finds the leak of the example of that name.

EVPL_BACKEND chooses the back end of the example.
"""
import json
import mmap
import os
import random
import struct
import subprocess
import sys

import tap
from tap import check

SOURCE = os.path.join(os.path.dirname(os.path.realpath(__file__)), '../examples/leak.c')
USER = 60101
LIMIT = 300                         # seconds for a command
# struct sites_header, struct sites_site, struct sites_ref
HEADER = struct.Struct('=QIIIIQ')
SITE = struct.Struct('=12Q')
REF = struct.Struct('=8IQ')
MAGIC, VERSION = 0x7365746973707665, 1
SITES_MAX, REFS_MAX = 4096, 1 << 20
SIZE = HEADER.size + SITES_MAX * SITE.size + REFS_MAX * REF.size

evplctl, leak = sys.argv[1:]


def sites(pid, *options, user=None):
    """Runs evplctl sites, as another user if one is given."""
    return subprocess.run([evplctl, 'sites', *options, str(pid)], capture_output=True, text=True,
                          timeout=LIMIT, user=user, group=user,
                          extra_groups=None if user is None else [], check=False)


def start(trace, user=None):
    """Starts the example, and waits until it waits."""
    env = {name: value for name, value in os.environ.items() if name != 'EVPL_TRACE'}
    if trace:
        env['EVPL_TRACE'] = '1'
    process = subprocess.Popen([leak, '--wait'], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, env=env, user=user, group=user,
                               extra_groups=None if user is None else [])
    process.stdout.readline()
    return process


def line_of(text):
    """The number of the line of the example that has this text."""
    with open(SOURCE, encoding='ascii') as source:
        return next(number for number, line in enumerate(source, 1) if text in line)


def check_leak():
    process = start(True)
    seen = sites(process.pid)
    lines = seen.stdout.splitlines()
    check(seen.returncode == 0 and len(lines) >= 2, 'evplctl sites has a table', seen)
    row = lines[1].split(None, 7) if len(lines) > 1 else []
    check(row[:1] == ['1000'], 'the first site holds a reference for each message', lines)
    check(lines[1:2] and lines[1].endswith(f'remember, leak.c:{line_of("taken here")}'),
          'its place is the line of the leak', lines)
    check(any('handle, leak.c' in line for line in lines[2:4]), 'its caller follows', lines)
    check(all(len(line) <= 80 for line in lines), 'the table fits 80 columns', lines)

    seen = sites(process.pid, '--json')
    found = json.loads(seen.stdout)
    check(found['pid'] == process.pid and found['lost'] == 0, 'the JSON names the process', found)
    site = found['sites'][0]
    check(site['references'] == 1000 and site['bytes'] == 64000, 'the JSON has the bytes', site)
    # 16 messages fit a buffer of 1 MiB, besides those that begin in the middle of one.
    check(site['buffers'] >= 1000 // 16 and site['pinned_bytes'] == site['buffers'] << 20,
          'the JSON has the whole buffers', site)
    check(site['amplification'] == site['pinned_bytes'] // 64000 >= 1000,
          'a thousandth of a buffer is shown as such', site)
    caller = next(caller for caller in site['callers'] if not caller['library'])
    check(caller['function'] == 'remember' and caller['line'] == line_of('taken here') and
          caller['file'].endswith('leak.c'), 'the JSON has the line', site)

    output = process.communicate('', timeout=LIMIT)
    check('evpl_pool_close(): the program has 990 references left' in output[1] and
          'at exit: the program has 990 references left' in output[1],
          'the program itself says so when it closes its pool, and at exit', output)


def check_untraced():
    process = start(False)
    seen = sites(process.pid)
    check(seen.returncode == 1 and 'EVPL_TRACE=1' in seen.stderr and not seen.stdout,
          'a program without EVPL_TRACE has no table', seen)
    output = process.communicate('', timeout=LIMIT)
    check(not output[1], 'such a program prints nothing', output)
    seen = sites(process.pid)
    check(seen.returncode == 1 and 'There is no process' in seen.stderr,
          'a process that has ended has no table', seen)


def check_users():
    if os.getuid():
        return
    # The copies are where the user may run them.
    own = start(True, USER) if os.environ.get('EVPL_BACKEND') == 'anon' else None
    other = start(True)
    seen = sites(other.pid, user=USER)
    check(seen.returncode == 1 and "can't be read" in seen.stderr,
          "an ordinary user doesn't see another user's table", seen)
    if own:
        seen = sites(own.pid, user=USER)
        check(seen.returncode == 0 and 'remember' in seen.stdout,
              'an ordinary user sees the own table', seen)
        own.communicate('', timeout=LIMIT)
    other.communicate('', timeout=LIMIT)


def fake(change):
    """Runs evplctl on a table of this process with what change() writes to it."""
    fd = os.memfd_create('evpl-sites')
    try:
        os.truncate(fd, SIZE)
        with mmap.mmap(fd, SIZE) as table:
            table[:HEADER.size] = HEADER.pack(MAGIC, VERSION, os.getpid(), 4, 100, 0)
            for i in range(100):
                REF.pack_into(table, HEADER.size + SITES_MAX * SITE.size + i * REF.size,
                              1, i % 4, 0, 0, 1, 64, 1 << 20, 0, i // 8)
            change(table)
        return sites(os.getpid(), '--json')
    finally:
        os.close(fd)


def check_nonsense():
    seen = fake(lambda table: None)
    check(seen.returncode == 0 and
          sum(site['references'] for site in json.loads(seen.stdout)['sites']) == 100,
          'a table is read as it is described', seen)

    def version(table):
        struct.pack_into('=I', table, 8, VERSION + 1)
    seen = fake(version)
    check(seen.returncode == 1 and 'another version' in seen.stderr,
          'a table of another version is refused', seen)

    def pid(table):
        struct.pack_into('=I', table, 12, os.getpid() + 1)
    seen = fake(pid)
    check(seen.returncode == 1 and 'no table' in seen.stderr,
          "the table of a parent isn't taken for that of its child", seen)

    def counts(table):
        struct.pack_into('=II', table, 16, 2**32 - 1, 2**32 - 1)
        struct.pack_into('=8I', table, HEADER.size + SITES_MAX * SITE.size,
                         *[2**32 - 1] * 8)
    seen = fake(counts)
    check(seen.returncode == 0 and len(json.loads(seen.stdout)['sites']) == 4,
          'counts and numbers beyond the table do no harm', seen)

    seed = int(os.environ.get('EVPL_SEED') or random.randrange(1 << 32))
    print('# seed', seed)
    draw = random.Random(seed)
    wrong = []

    def scribble(table):
        for _ in range(200):
            start = draw.choice((0, HEADER.size, HEADER.size + SITES_MAX * SITE.size))
            table[start + draw.randrange(4 * REF.size)] = draw.randrange(256)
        table[:16] = struct.pack('=QII', MAGIC, VERSION, os.getpid())
    for _ in range(20):
        seen = fake(scribble)
        if seen.returncode not in (0, 1) or (seen.returncode == 0 and
                                             'sites' not in json.loads(seen.stdout)):
            wrong.append(seen)
    check(not wrong, 'nonsense in the table does no harm', wrong[:1])


print('TAP version 13')
check_leak()
check_untraced()
check_users()
check_nonsense()
sys.exit(tap.end())
