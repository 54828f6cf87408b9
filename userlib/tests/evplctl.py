#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
"""evplctl.py EVPLCTL STORM: checks that what evplctl says is true.

Run this as root, with the module loaded. STORM is the kselftest of that name. The test has clients
of its own, which it drives by ioctls, so it knows what evplctl must find.
"""
import ctypes
import fcntl
import json
import mmap
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback

import tap
from tap import check

DEVICE = '/dev/evpl'
COUNTERS = '/sys/kernel/debug/evpl/counters'
INSTANCES = '/sys/kernel/tracing/instances'
USER = 60101
LIMIT = 300                         # seconds for a step
PAGE = mmap.PAGESIZE
BUFFER = 1 << 20
SLAB = 8 * BUFFER
WRITE, IO = 1, 4                    # EVPL_RECORD_WRITE, EVPL_RECORD_DEVICE
ENTRY = 64

RECORD = struct.Struct('=QIIQII')   # offset, length, flags, cookie, lease, buffer_size
SETUP = struct.Struct('=II17Q')
SLAB_ALLOC = struct.Struct('=IIQiIQ')
CREATE = struct.Struct('=IIIIii')
BIND = struct.Struct('=IIiI')
RELEASE = struct.Struct('=IIQII')
REVOKE = struct.Struct('=IIQ')

libc = ctypes.CDLL(None, use_errno=True)
evplctl = None


def wait_for(state, what):
    """Waits for a state, but not for ever. Returns what state() returned at last."""
    end = time.monotonic() + LIMIT
    while not (found := state()):
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(0.05)
    return found


def counters():
    with open(COUNTERS, encoding='ascii') as file:
        return {name: int(value) for name, value in (line.split() for line in file)}


def run(*arguments, user=None):
    command = [evplctl, *map(str, arguments)]
    if user:
        command = ['setpriv', '--reuid', str(user), '--regid', str(user), '--clear-groups',
                   '--inh-caps=-all', *command]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False,
                          timeout=LIMIT, encoding='utf-8')


def say(*arguments, user=None):
    """Runs evplctl with --json. Returns the object that it printed."""
    said = run(*arguments, '--json', user=user)
    if said.returncode:
        raise RuntimeError(f'{arguments}: {said.stderr}')
    return json.loads(said.stdout)


class Client:
    """A client, driven by ioctls."""

    def __init__(self):
        self.fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
        self.setup = self.call(0, SETUP, 0, BUFFER, *[0] * 16)
        self.call(1, SLAB_ALLOC, 0, SLAB, -1, 0, 0)
        self.words = self.window(self.setup[6], PAGE)

    def call(self, number, layout, *fields):
        data = bytearray(layout.pack(layout.size, *fields))
        fcntl.ioctl(self.fd, 3 << 30 | layout.size << 16 | 0xEB << 8 | number, data)
        return layout.unpack(data)

    def window(self, offset, length):
        skip = offset % PAGE
        memory = mmap.mmap(self.fd, skip + length, mmap.MAP_SHARED,
                           mmap.PROT_READ | mmap.PROT_WRITE, offset=offset - skip)
        return memory, skip

    def close(self):
        """Also in a child, which has inherited the client. A mapping of Python has a descriptor."""
        self.words[0].close()
        os.close(self.fd)

    def channel(self):
        ends = self.call(3, CREATE, 0, 0, 0, 0, 0)[4:]
        self.call(4, BIND, 0, ends[0], 0)
        return ends

    def send(self, end, number, flags):
        """Gives a buffer one reference, and sends that."""
        struct.pack_into('=Q', self.words[0], self.words[1] + number * ENTRY, 1)
        os.write(end, RECORD.pack(number * BUFFER, BUFFER, flags, 0, 0, 0))

    def release(self, record):
        """Ends the lease of a record that was received."""
        words, at = self.window(self.setup[11] + record[4] * ENTRY, 8)
        struct.pack_into('=Q', words, at, 0)
        number = ctypes.c_uint32(record[4])
        return fcntl.ioctl(self.fd, 3 << 30 | RELEASE.size << 16 | 0xEB << 8 | 5,
                           bytearray(RELEASE.pack(RELEASE.size, 0, ctypes.addressof(number), 1, 0)))

    def splice(self, record, fd):
        """Puts a page of a device lease into a pipe, by reference."""
        memory, at = self.window(record[0], PAGE)
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory, at))
        iovec = (ctypes.c_size_t * 2)(start, PAGE)
        if libc.vmsplice(fd, iovec, ctypes.c_ulong(1), 0) != PAGE:
            raise OSError(ctypes.get_errno(), 'vmsplice')


class Process:
    """A process that obeys: each step is a function, which it calls when it is told to."""

    def __init__(self, name, *steps, user=None):
        self.told, go = os.pipe()
        self.go = go
        done, self.done = os.pipe()
        # The output of this test goes into a pipe, and the tool names pipes with unread bytes.
        # So the process has none for its output.
        self.output = tempfile.TemporaryFile()
        self.pid = os.fork()
        if not self.pid:
            try:
                os.dup2(self.output.fileno(), 1)
                os.dup2(self.output.fileno(), 2)
                libc.prctl(1, signal.SIGKILL, 0, 0, 0)
                libc.prctl(15, name.encode(), 0, 0, 0)
                if user:
                    os.setgroups([])
                    os.setresgid(user, user, user)
                    os.setresuid(user, user, user)
                    # It has changed its user, so it must say that it may be looked at.
                    libc.prctl(4, 1, 0, 0, 0)
                    libc.prctl(1, signal.SIGKILL, 0, 0, 0)
                os.close(go)
                os.close(done)
                for step in steps:
                    os.read(self.told, 1)
                    step()
                    os.write(self.done, b'.')
                os.read(self.told, 1)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
        os.close(self.told)
        os.close(self.done)
        self.done = done

    def step(self):
        os.write(self.go, b'.')
        if os.read(self.done, 1) != b'.':
            self.output.seek(0)
            raise RuntimeError('the process has failed: ' + self.output.read().decode())

    def end(self):
        # Other processes have inherited the pipe, so closing it wouldn't do.
        os.kill(self.pid, signal.SIGKILL)
        os.close(self.go)
        os.close(self.done)
        os.waitpid(self.pid, 0)


def pids_of(thing):
    return sorted(process['pid'] for process in thing['processes'])


def of(things, key, value):
    """The one thing with this value, or an empty one."""
    found = [thing for thing in things if thing[key] == value]
    return found[0] if len(found) == 1 else {}


def client_of(said, pid):
    found = [client for client in said['clients'] if pid in pids_of(client)]
    return found[0] if len(found) == 1 else {}


def lines_fit(text):
    return text and all(len(line) <= 80 for line in text.splitlines()) and '\033' not in text


def of_arguments():
    for arguments in [(), ('none',), ('list', '1'), ('show',), ('why', 'x'), ('show', '0'),
                      ('top', '--interval', '0'), ('watch', '--count', '-1'), ('list', '--none')]:
        said = run(*arguments)
        check(said.returncode == 64 and not said.stdout and
              ('--help' in said.stderr or 'Give' in said.stderr),
              f'arguments {arguments} are refused', said)
    said = run('show', 1 << 30)
    check(said.returncode == 1 and said.stderr.startswith('evplctl: There is no process '),
          'a process that is not there is named', said)
    said = run('why', os.getpid())
    check(said.returncode == 1 and 'has no memory of evpl' in said.stderr,
          'a process without memory is named', said)
    said = run('top')
    check(said.returncode == 1 and 'needs a terminal' in said.stderr,
          'top says that it needs a terminal', said)
    said = say('list')
    check(said['clients'] == [] and said['ends'] == [] and said['hidden_processes'] == 0,
          'where there is no client none is listed', said)


class Scene:
    """An owner, a lessee that has leases of it, and a process that has the end of a pipe."""

    def __init__(self):
        self.pipe = os.pipe()
        self.owner = Client()
        self.ends = self.owner.channel()
        pipe, ends = self.pipe, self.ends
        state = {}

        def join():
            self.owner.close()
            os.close(ends[0])
            os.close(pipe[0])
            state['client'] = Client()
            state['client'].call(4, BIND, 0, ends[1], 0)

        def receive():
            state['records'] = [RECORD.unpack(os.read(ends[1], RECORD.size)) for _ in range(3)]

        def leave_in_pipe():
            client, records = state['client'], state['records']
            client.splice(records[1], pipe[1])
            client.splice(records[2], pipe[1])
            assert client.release(records[1]) == client.release(records[2]) == 1

        self.lessee = Process('lessee', join, receive, leave_in_pipe)

        def drain():
            assert len(os.read(pipe[0], 2 * PAGE)) == 2 * PAGE

        # This one inherits nothing but the pipe, so that it isn't a process of evpl.
        def forget():
            self.owner.close()
            for fd in [*ends, pipe[1]]:
                os.close(fd)

        self.sink = Process('sink', forget, drain)
        os.close(pipe[0])
        os.close(pipe[1])
        os.close(self.ends[1])
        self.sink.step()
        self.lessee.step()
        for number, flags in [(0, 0), (1, IO | WRITE), (2, IO | WRITE), (3, 0)]:
            self.owner.send(self.ends[0], number, flags)

    def close(self):
        self.lessee.end()
        self.sink.end()
        os.close(self.ends[0])
        self.owner.close()


def of_leases(scene):
    me, lessee = os.getpid(), scene.lessee.pid
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    scene.lessee.step()
    after = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    said = say('list')
    owns, leases = client_of(said, me), client_of(said, lessee)
    check(owns['bytes'] == SLAB and owns['buffers'] == SLAB // BUFFER and
          owns['buffer_size'] == BUFFER and owns['buffers_in_use'] == 4 and
          owns['buffers_shared'] == 4 and owns['leases'] == 0 and owns['leases_lent'] == 3,
          "an owner's memory is listed", owns)
    row = of(leases['leased_from'], 'client_id', owns['client_id'])
    check(leases['leases'] == 3 and row.get('leases') == 3 and row['bytes'] == 3 * BUFFER and
          before <= row['since_ns'] <= after, "a lessee's leases name their owner", leases)
    check(scene.owner.fd in of(owns['processes'], 'pid', me).get('fds'),
          'descriptors are listed', owns)
    check(pids_of(leases) == [lessee] and leases['processes'][0]['command'] == 'lessee',
          'processes have their names', leases)

    said = say('show', me)
    check([client['client_id'] for client in said['clients']] == [owns['client_id']] and
          [(end['client_id'], end['peer_client_id'], end['records_written'], end['lane'])
           for end in said['ends']] == [(owns['client_id'], leases['client_id'], 1, False)],
          'show has the clients and the ends of one process', said)

    said = client_of(say('why', me), me)
    row = of(said['lessees'], 'client_id', leases['client_id'])
    check(row.get('leases') == 3 and pids_of(row) == [lessee] and said['leases_not_shown'] == 0,
          'why names the process that has leases', said)
    check([(r['records'], r['to']['client_id'], pids_of(r['to'])) for r in said['records']] ==
          [(1, leases['client_id'], [lessee])], 'why names the reader of records in flight', said)
    check(said['quarantine_lessees'] == [], 'without a quarantine none is told', said)

    for command in [('list',), ('show', me), ('show', lessee), ('why', me)]:
        said = run(*command)
        check(said.returncode == 0 and lines_fit(said.stdout),
              f'{command[0]} fits into 80 columns, without colours', said.stdout)


def of_quarantine(scene):
    me, lessee = os.getpid(), scene.lessee.pid
    client = client_of(say('list'), lessee)['client_id']
    scene.lessee.step()
    said = client_of(say('why', me), me)
    row = of(said['quarantine_lessees'], 'client_id', client)
    check(said['buffers_in_quarantine'] == 2 and said['quarantine_references'] == 2 and
          row.get('buffers') == 2, 'buffers in quarantine name their last lessee', said)
    held = row['candidates']
    check(len(held) == 1 and held[0]['kind'] == 'a pipe' and held[0]['unread_bytes'] == 2 * PAGE and
          pids_of(held[0]) == sorted([lessee, scene.sink.pid]),
          "why names the processes that have the pipe", row)
    text = run('why', me).stdout
    check(lines_fit(text) and f'{lessee} (lessee): a pipe with {2 * PAGE} unread bytes' in text and
          f'{scene.sink.pid} (sink) has it too' in text and 'one descriptor can hold them' in text,
          'so does its text', text)

    # The pipe of a dead lessee can be any pipe.
    scene.lessee.end()
    scene.lessee = Process('idle')
    said = client_of(say('why', me), me)
    row = of(said['quarantine_lessees'], 'client_id', client)
    check(row.get('processes') == [] and row['buffers'] == 3 - 1 and
          scene.sink.pid in [pid for held in row['candidates'] for pid in pids_of(held)],
          'the pipe of a dead lessee is one of the candidates', row)
    check('which has gone' in (text := run('why', me).stdout) and lines_fit(text),
          'its text says that it has gone', text)
    scene.sink.step()
    wait_for(lambda: client_of(say('list'), me)['buffers_in_quarantine'] == 0, 'the recheck')
    said = client_of(say('why', me), me)
    check(said['quarantine_lessees'] == [] and said['quarantine_references'] == 0,
          'when the pipe is drained nothing is told any more', said)


def of_users():
    was = os.stat(DEVICE).st_mode
    os.chmod(DEVICE, 0o666)
    owner = Client()
    ends = owner.channel()
    state = {}

    def join():
        owner.close()
        os.close(ends[0])
        state['client'] = Client()
        state['client'].call(4, BIND, 0, ends[1], 0)

    other = Process('other', join, lambda: os.read(ends[1], RECORD.size), user=USER)
    try:
        other.step()
        owner.send(ends[0], 0, 0)
        other.step()
        me = os.getpid()
        said = say('list', user=USER)
        check([pids_of(client) for client in said['clients']] == [[other.pid]] and
              [pids_of(end) for end in said['ends']] == [[other.pid]] and
              said['hidden_processes'] > 0, 'an ordinary user sees the own processes alone', said)
        check(of(said['clients'][0]['leased_from'], 'leases', 1).get('bytes') == BUFFER,
              'the leases of other owners are counted there', said)
        said = run('show', me, user=USER)
        check(said.returncode == 1 and 'belongs to another user. Run evplctl as root' in said.stderr,
              "another user's process isn't shown", said)
        said = run('why', other.pid, user=USER)
        check(said.returncode == 0 and lines_fit(said.stdout), 'the own process is', said)
        text = run('list', user=USER).stdout
        check('The processes of others aren\'t shown. Root sees them.' in text,
              'it says that others are hidden', text)
        said = say('list')
        check(client_of(said, me) and client_of(said, other.pid), 'root sees both', said)
        said = run('watch', user=USER)
        check(said.returncode == 1 and 'Only root may trace' in said.stderr, 'watch is for root', said)
    finally:
        other.end()
        owner.close()
        for fd in ends:
            os.close(fd)
        os.chmod(DEVICE, was & 0o7777)


def instances():
    return [name for name in os.listdir(INSTANCES) if name.startswith('evplctl-')]


def of_watch():
    if not os.path.isdir(INSTANCES):
        print('# this kernel has no instances of the trace')
        return
    # One that was killed leaves its instance, and the next one removes it.
    with subprocess.Popen([evplctl, 'watch'], stdout=subprocess.DEVNULL) as watch:
        wait_for(instances, 'the instance')
        watch.kill()
    check(len(instances()) == 1, 'a watch that is killed leaves its instance')

    with subprocess.Popen([evplctl, 'watch', '--json', '-n', '3'], stdout=subprocess.PIPE,
                          encoding='utf-8') as watch:
        enabled = f'{INSTANCES}/evplctl-{watch.pid}/events/evpl/enable'

        def is_enabled():
            try:
                with open(enabled, encoding='ascii') as file:
                    return file.read(1) == '1'
            except OSError:
                return False

        wait_for(is_enabled, 'the events')
        check(instances() == [f'evplctl-{watch.pid}'], 'the next one removes it', instances())
        before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        scene = Scene()
        scene.lessee.step()
        events = [json.loads(line) for line in watch.stdout]
        after = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        status = watch.wait()
    check(status == 0 and
          [(event['event'], event.get('owner'), event.get('bytes'), event.get('buffer'))
           for event in events] == [('slab_begin', os.getpid(), SLAB, None),
                                    ('slab_begin', scene.lessee.pid, SLAB, None),
                                    ('lease_begin', os.getpid(), None, 0)],
          'watch tells the events', events)
    check(all(before - 10**9 <= event['time_ns'] <= after + 10**9 for event in events),
          'their times are those of the boot clock', before, events, after)
    check(not instances(), 'nothing is left of it', instances())
    scene.close()

    with subprocess.Popen([evplctl, 'watch'], stdout=subprocess.PIPE, encoding='utf-8') as watch:
        enabled = f'{INSTANCES}/evplctl-{watch.pid}/events/evpl/enable'
        wait_for(is_enabled, 'the events')
        scene = Scene()
        scene.close()
        line = watch.stdout.readline()
        watch.terminate()
        watch.communicate()
        check(watch.returncode == 0 and not instances() and
              re.match(r'\d+\.\d+ slab_begin +owner \d+ bytes \d+ folios \d+$', line),
              'a signal ends it, and nothing is left', line, instances())


def on_terminal(*arguments):
    """Runs evplctl on a terminal of its own. Returns its status and what it wrote."""
    pid, fd = pty.fork()
    if not pid:
        os.environ['TERM'] = 'linux'
        os.environ.pop('NO_COLOR', None)
        os.execv(evplctl, [evplctl, *arguments])
    text = b''
    try:
        while part := os.read(fd, 65536):
            text += part
    except OSError:
        pass
    os.close(fd)
    return os.waitpid(pid, 0)[1], text


def of_terminals():
    scene = Scene()
    status, text = on_terminal('list')
    check(status == 0 and b'\033[1m' in text, 'list has colours on a terminal', text)
    status, text = on_terminal('top', '-n', '2', '-i', '0.1')
    check(status == 0 and b'COMMAND' in text and b'lessee' in text, 'top draws on a terminal', text)
    said = run('top', '--json', '-n', '3', '-i', '0.1')
    looks = [json.loads(line) for line in said.stdout.splitlines()]
    check(said.returncode == 0 and len(looks) == 3 and
          all(client_of(look, os.getpid())['bytes'] == SLAB for look in looks) and
          looks[0]['now_ns'] < looks[1]['now_ns'] < looks[2]['now_ns'],
          'top prints an object a line', said)
    scene.lessee.step()
    scene.close()


def always_true(look):
    """These sums are right at each look, though everything moves: a client's keys of memory are read
    under one lock."""
    return all(client['bytes'] == client['buffers'] * client['buffer_size'] and
               client['buffers_in_use'] <= client['buffers'] and
               client['buffers_shared'] <= client['buffers'] and
               sum(row['buffers'] for row in client['quarantine_lessees']) ==
               client['buffers_in_quarantine'] for client in look['clients'])


def leases_from(look, client):
    return sum(row['leases'] for other in look['clients'] for row in other['leased_from']
               if row['client_id'] == client['client_id'])


def records_in(look):
    """The records in flight: an end that nobody has open just now is known by the other one."""
    ends = {(end['channel_id'], end['end']): end for end in look['ends']}
    return sum(end['records_to_read'] for end in ends.values()) + \
        sum(end['records_written'] for (channel, which), end in ends.items()
            if (channel, 1 - which) not in ends)


def signal_session(session, number):
    """Signals the processes of a session but its leader, and returns how many don't stand still."""
    moving = 0
    for pid in map(int, filter(str.isdigit, os.listdir('/proc'))):
        try:
            with open(f'/proc/{pid}/stat', encoding='latin-1') as file:
                state, _, _, of_session = file.read().rpartition(')')[2].split()[:4]
            if int(of_session) != session or pid == session:
                continue
            moving += state not in 'TtZX'
            os.kill(pid, number)
        except OSError:
            continue
    return moving


def still_look(session):
    """A look at the processes of a session while they stand still."""
    wait_for(lambda: signal_session(session, signal.SIGSTOP) == 0, 'the processes to stop')
    # The kernel may still be freeing what processes had that have died.
    looks = []

    def same_twice():
        look = (counters(), say('list'), counters())
        looks[:] = looks[-1:] + [look]
        return len(looks) == 2 and all(looks[0][0][key] == counted[key]
                                       for counted in (looks[0][2], looks[1][0], looks[1][2])
                                       for key in ('clients', 'leases', 'records'))

    wait_for(same_twice, 'the counters to rest')
    return looks[-1][1], looks[-1][2]


def of_storm(storm):
    moving = still = complete = with_leases = 0
    wrong = []
    environment = {**os.environ, 'EVPL_TEST_PERCENT': '4'}
    with subprocess.Popen([storm], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          start_new_session=True, env=environment, encoding='utf-8',
                          preexec_fn=lambda: os.nice(19)) as process:
        while process.poll() is None:
            look = say('list')
            moving += 1
            if not always_true(look):
                wrong.append(look)
            # The looks are far apart, as evplctl is slow beside a storm. So the sleep is short.
            time.sleep(0.1)
            try:
                look, counted = still_look(process.pid)
            finally:
                signal_session(process.pid, signal.SIGCONT)
            still += 1
            good = always_true(look) and all(
                client['leases_lent'] == leases_from(look, client) and
                client['leases'] == client['leases_revoked'] +
                sum(row['leases'] for row in client['leased_from'])
                for client in look['clients'])
            if counted['clients'] == len(look['clients']):
                complete += 1
                with_leases += counted['leases'] > 0
                records = records_in(look)
                good = good and counted['leases'] == sum(c['leases'] for c in look['clients']) and \
                    records <= counted['records']
                # A channel isn't seen while both of its descriptors are on their way in sockets.
                if len({end['channel_id'] for end in look['ends']}) == counted['channels']:
                    good = good and records == counted['records']
            if not good:
                wrong.append((look, counted))
        text = process.stdout.read()
    print(f'# {moving} looks while the storm moved, and {still} while it stood still')
    check(process.returncode == 0 and moving and not wrong, 'all sums are right in a storm',
          *wrong[:2], text[-2000:] if process.returncode else '')
    check(still and complete and with_leases,
          'where it stands still they are those of the counters', still, complete, with_leases)


def main(program, storm):
    """Runs all checks, on a copy of the tool that any user can execute."""
    global evplctl
    before = counters()
    top = tempfile.mkdtemp(prefix='evplctl.')
    os.chmod(top, 0o755)
    evplctl = shutil.copy(program, top)
    try:
        print('TAP version 13')
        of_arguments()
        scene = Scene()
        of_leases(scene)
        of_quarantine(scene)
        scene.close()
        of_users()
        of_watch()
        of_terminals()
        of_storm(storm)
    finally:
        shutil.rmtree(top)
    names = [name for name in before if name != 'rechecks']

    def is_as_before():
        after = counters()
        return all(after[name] == before[name] for name in names)

    wait_for(is_as_before, 'the counters')
    check(True, 'nothing is left')
    return tap.end()


sys.exit(main(sys.argv[1], sys.argv[2]))
