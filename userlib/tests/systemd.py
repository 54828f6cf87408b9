#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
"""systemd.py CACHE UNIT: systemd keeps the contents of the example cache across its deaths.

Run this as root in 'scripts/vm -b', with the module loaded. CACHE is the program, and UNIT the file
of its unit. Both are installed as they are, in files that go with the virtual machine.
"""
import json
import os
import shutil
import socket
import subprocess
import sys
import time

import tap
from tap import check

COUNTERS = '/sys/kernel/debug/evpl/counters'
PROGRAM = '/usr/local/bin/cache'
UNIT = '/run/systemd/system/cache.service'
SOCKET = '/run/cache/socket'
LIMIT = 240                         # seconds for a step
# Of each length that is special: one byte, a page, more than that, and a whole buffer.
VALUES = {f'value-{length}': bytes(i * 7 % 251 for i in range(length))
          for length in (1, 4096, 70000, 1 << 20)}


def wait_for(state):
    """Waits for a state, but not for ever. Returns what state() returned at last."""
    end = time.monotonic() + LIMIT
    while not (found := state()) and time.monotonic() < end:
        time.sleep(0.05)
    return found


def counters():
    """The counters, without the one that only goes up."""
    with open(COUNTERS, encoding='ascii') as file:
        return [line.strip() for line in file if not line.startswith('rechecks')]


def run(*command):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
                          timeout=LIMIT, encoding='utf-8')


def systemctl(*arguments):
    """Calls systemctl, which waits for the job. Returns what it says if it fails."""
    said = run('systemctl', *arguments)
    return said.stdout or said.returncode


def shown(name):
    """A property of the unit."""
    return run('systemctl', 'show', '--value', '-p', name, 'cache.service').stdout.strip()


def messages(**fields):
    """The messages of the journal that have these fields."""
    run('journalctl', '--sync')
    lines = run('journalctl', '-b', '-o', 'json', *(f'{key}={fields[key]}' for key in fields))
    return [json.loads(line)['MESSAGE'] for line in lines.stdout.splitlines()]


class Client:
    """A client of the cache."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(LIMIT)
        self.socket.connect(SOCKET)
        self.file = self.socket.makefile('rb')

    def ask(self, request):
        self.socket.sendall(request)
        return self.file.readline().decode().strip()

    def set(self, name, value):
        return self.ask(f'SET {name} {len(value)}\n'.encode() + value) == 'OK'

    def get(self, name):
        answer = self.ask(f'GET {name}\n'.encode()).split()
        return self.file.read(int(answer[1])) if answer[0] == 'VALUE' else None


def kills(values):
    """Kills the cache twice. Each time, the next one has the values of all before it."""
    for n in (1, 2):
        client, pid = Client(), shown('MainPID')
        name = f'before-kill-{n}'
        values[name] = name.encode()
        check(client.set(name, values[name]), f'a value is set before kill {n}')
        # The cache is killed while it reads a value that replaces another.
        client.socket.sendall(b'SET value-4096 4096\nonly a part of it')
        failed = systemctl('kill', '-s', 'KILL', 'cache.service')
        check(not failed, f'kill {n} reaches the cache', failed)
        check(client.file.read() == b'', f'the cache dies of kill {n}')
        wait_for(lambda: shown('NRestarts') == str(n) and shown('ActiveState') == 'active')
        seen = shown('NRestarts'), shown('ActiveState'), shown('MainPID')
        check(seen[:2] == (str(n), 'active') and seen[2] != pid,
              f'systemd starts another one after kill {n}', seen, pid)
        served(values, f'after kill {n}')


def served(values, when):
    client = Client()
    missing = [name for name in values if client.get(name) != values[name]]
    check(not missing, f'all old values are served at once {when}', missing)
    stored = shown('NFileDescriptorStore')
    check(stored == '1', f'systemd keeps one descriptor {when}', stored)


def main(cache, unit):
    before = counters()
    os.makedirs(os.path.dirname(PROGRAM), exist_ok=True)
    shutil.copy(cache, PROGRAM)
    shutil.copyfile(unit, UNIT)
    failed = systemctl('daemon-reload') or systemctl('start', 'cache.service')
    check(not failed, 'the cache starts, and says that it is ready', failed)
    values, client = dict(VALUES), Client()
    check(all([client.set(name, values[name]) for name in values]), 'values are set')
    served(values, 'after the start')
    filled = counters()
    check(filled != before, 'the counters see the memory', filled)

    kills(values)
    failed = systemctl('restart', 'cache.service')
    check(not failed, 'the service is restarted', failed)
    served(values, 'after the restart')

    said = messages(UNIT='cache.service', EXIT_CODE='killed', EXIT_STATUS='9')
    check(len(said) == 2, 'the journal says that the cache was killed twice', said)
    said = messages(_SYSTEMD_UNIT='cache.service')
    check(said == [f'adopted: {len(VALUES) + n} values' for n in (1, 2, 2)],
          'the journal says what each cache has adopted', said)

    failed = systemctl('stop', 'cache.service')
    check(not failed, 'the service is stopped', failed)
    wait_for(lambda: counters() == before)
    check(counters() == before, 'after the stop all memory is free', before, counters())
    stored = shown('NFileDescriptorStore')
    check(stored == '0', 'systemd keeps no descriptor after the stop', stored)
    failed = systemctl('start', 'cache.service')
    check(not failed, 'the service starts anew', failed)
    client = Client()
    check(not any(client.get(name) for name in values), 'it has no old value then')
    failed = systemctl('stop', 'cache.service')
    check(not failed, 'the new one is stopped too', failed)
    wait_for(lambda: counters() == before)
    check(counters() == before, 'all memory is free again', before, counters())
    if tap.failures:
        print(run('journalctl', '-b', '-u', 'cache.service').stdout)


if __name__ == '__main__':
    if os.path.exists('/run/systemd/system/vm.service'):
        main(*sys.argv[1:])
    else:
        tap.skip('systemd keeps the contents of the cache', "this isn't scripts/vm -b")
    sys.exit(tap.end())
