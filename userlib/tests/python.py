#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
"""python.py: checks the package evplmem.

EVPL_BACKEND chooses the back end. Without the module the checks that need it are skipped, except
where a channel within one process will do: EVPL_TEST_LOOPBACK says that tests/loopback.c is
preloaded.
"""
import ast
import asyncio
import contextlib
import errno
import gc
import inspect
import mmap
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

import tap
from tap import check, skip

import evplmem
from evplmem import Channel, Pool

try:
    import numpy
except ImportError:
    numpy = None

MODULE = os.environ.get('EVPL_BACKEND') == 'module'
LOOPBACK = not MODULE and 'EVPL_TEST_LOOPBACK' in os.environ
BUFFER = 1 << 16
LIMIT = 300                         # seconds for a process
FRAME = 4096


def raised(call, *arguments, **keywords):
    """Calls. Returns the exception's type and errno, or what the call returned."""
    try:
        return call(*arguments, **keywords)
    except OSError as error:
        return type(error), error.errno
    except Exception as error:
        return type(error), None


def fails(number, call, *arguments, **keywords):
    """Whether the call raises an OSError with this errno."""
    seen = raised(call, *arguments, **keywords)
    return isinstance(seen, tuple) and seen[1:] == (number,) and issubclass(seen[0], OSError)


def invalid(call, *arguments, **keywords):
    return raised(call, *arguments, **keywords) == (ValueError, None)


def descriptors():
    return len(os.listdir('/proc/self/fd'))


def wait_until_it_sleeps(tid, fd):
    """Waits until the thread sleeps in a system call whose first argument is the descriptor."""
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        with open(f'/proc/self/task/{tid}/syscall', encoding='ascii') as file:
            words = file.read().split()
        if len(words) > 1 and int(words[1], 16) == fd:
            return
        time.sleep(0.01)
    raise TimeoutError('the thread does not sleep')


class Thread(threading.Thread):
    """Calls a function, and has its result, or its exception's type and errno."""

    def __init__(self, call, *arguments):
        super().__init__(daemon=True)
        self.call, self.arguments, self.result = call, arguments, None
        self.start()

    def run(self):
        self.result = raised(self.call, *self.arguments)

    def wait(self):
        self.join(LIMIT)
        return 'it does not end' if self.is_alive() else self.result


def channel_pair(pool, **options):
    """Two ends in this process."""
    one, peer = Channel.create(pool, **options)
    options.pop('capacity', None)
    return one, Channel(pool, peer, **options)


def of_config():
    with Pool(buffer_size=BUFFER, slab_size=4 << 20, slab_size_max=8 << 20, max_bytes=16 << 20,
              cache=2 * BUFFER, atomic=True) as pool:
        check(pool.stats().buffer_size == BUFFER, 'a pool has the size of its buffers')
        pool.alloc(1).release()
        check(pool.stats().bytes == 4 << 20, 'a pool takes slabs of its size', pool.stats())
        check(fails(errno.EMSGSIZE, pool.alloc_list, 17 << 20), 'max_bytes limits a pool')
        check(fails(errno.ENOMEM, pool.preallocate, 17 << 20), 'preallocate() keeps to max_bytes')
        pool.preallocate(16 << 20)
        check(pool.stats().bytes == 16 << 20, 'preallocate() takes memory', pool.stats())
        pool.preallocate(0)
        check(pool.trim() > 0 and pool.stats().bytes < 16 << 20, 'trim() gives memory back')
        check(invalid(pool.__init__), 'a pool that is open cannot be opened')
        check(pool.stats().backend == (evplmem.BACKEND_MODULE if MODULE else evplmem.BACKEND_ANON),
              'EVPL_BACKEND chooses the back end')
    check(fails(errno.EINVAL, Pool, buffer_size=3), 'a wrong size is EINVAL')
    try:
        Pool(buffer_size=3)
    except OSError as error:
        check('power of two' in str(error), 'an error of a pool has the text of the library', error)
    check(raised(Pool, backend='module', device='/nowhere') == (FileNotFoundError, errno.ENOENT),
          'a device that is not there is FileNotFoundError')
    check(invalid(Pool, backend='other'), 'there is no other back end')
    check(raised(Pool, other=1) == (TypeError, None), 'there is no other keyword')
    check(raised(Pool, buffer_size=-1) == (OverflowError, None), 'a size is not negative')
    check(raised(Pool, max_bytes=1 << 64) == (OverflowError, None), 'a size has 64 bits')
    check(fails(errno.EINVAL, Pool, node=1 << 20), 'a node that is not there is EINVAL')
    check(fails(errno.EBADF, Pool.adopt, -1), 'a negative descriptor is EBADF')
    check(fails(errno.EOPNOTSUPP, Pool, backend='anon', zeros=True),
          'the anon back end has nothing to revoke')
    check(len(evplmem.version()) == 3 and evplmem.version() >= (1, 0, 0), 'the library has a version')


def of_memory(pool):
    with pool.alloc(1000, 256) as iovec:
        check(len(iovec) == 1000 and iovec.address % 256 == 0 and not iovec.readonly,
              'an iovec has its length, its alignment, and can be written', iovec)
        with memoryview(iovec) as view, memoryview(iovec[10:20]) as part:
            view[10:20] = b'0123456789'
            check(bytes(part) == b'0123456789' and not view.readonly and view.nbytes == 1000,
                  'a slice shows the memory of its iovec')
        check([len(iovec[slice(*key)]) for key in [(None,), (5, 3), (-4, None), (990, 2000)]] ==
              [1000, 0, 4, 10], 'slices are those of Python')
        check(iovec[100:200].address == iovec.address + 100, 'a slice is of the same memory')
        check(invalid(lambda: iovec[::2]), 'a slice has no step')
        check(raised(lambda: iovec[0]) == (TypeError, None), 'an iovec has no bytes of its own')
    check(iovec.released, 'a with block releases an iovec')
    with pool.alloc(BUFFER, private=True) as iovec:
        check(iovec.is_unique(), 'an iovec that has a buffer to itself is unique')
        clone = iovec.clone()
        check(not iovec.is_unique() and clone.address == iovec.address, 'a clone is a reference')
        clone.release()
        check(iovec.is_unique(), 'a clone that is released is none any more')
        part = iovec[5:6]
        check(not iovec.is_unique(), 'a slice is a reference')
        del part
        check(iovec.is_unique(), 'an object that goes away drops its reference')
    iovecs = pool.alloc_list(3 * BUFFER + 5)
    check([len(iovec) for iovec in iovecs] == [BUFFER] * 3 + [5],
          'what is longer than a buffer is a list', iovecs)
    check(fails(errno.ENOBUFS, pool.alloc, BUFFER + 1), 'one iovec is not longer than a buffer')
    check(fails(errno.EINVAL, pool.alloc, 0), 'no bytes are EINVAL')
    check(fails(errno.EINVAL, pool.alloc, 8, 3), 'an alignment is a power of two')
    check(raised(pool.alloc, 1 << 32) == (OverflowError, None), 'a length has 32 bits')
    check(raised(evplmem.Iovec) == (TypeError, None), 'a pool alone makes iovecs')


def of_exports(pool):
    iovec = pool.alloc(100)
    view = memoryview(iovec)
    view[:] = bytes(100)
    check(raised(iovec.release) == (BufferError, None) and not iovec.released,
          'an iovec of which there is a buffer is not released')
    view.release()
    iovec.release()
    check(iovec.released, 'without a buffer it is')
    iovec.release()
    check(iovec.released, 'to release it again does nothing')
    view = memoryview(pool.alloc(100))
    view[:] = b'x' * 100
    gc.collect()
    check(bytes(view) == b'x' * 100, 'a memoryview keeps the memory of an iovec that has gone')
    with contextlib.suppress(KeyError), pool.alloc(8) as iovec:
        view = memoryview(iovec)
        raise KeyError
    check(not iovec.released and bytes(view) is not None,
          'an exception is not hidden by a buffer that is left')


def of_numpy(pool):
    what = 'numpy has the memory of an iovec without a copy'
    if not numpy:
        skip(what, 'there is no numpy')
        return
    iovec = pool.alloc(800, 8)
    array = numpy.frombuffer(iovec, dtype=numpy.uint64)
    check(array.ctypes.data == iovec.address and array.flags.writeable, what)
    array[:] = range(100)
    with memoryview(iovec) as view:
        check(bytes(view[792:]) == (99).to_bytes(8, sys.byteorder), 'it writes there')
    check(raised(iovec.release) == (BufferError, None), 'an array is a buffer that is left')
    del array
    iovec.release()
    check(iovec.released, 'it is none any more when it has gone')


def of_use_after_end():
    pool = Pool(buffer_size=BUFFER)
    iovec = pool.alloc(10)
    iovec.release()
    uses = [iovec.clone, iovec.is_unique, iovec.revoke, iovec.wait, lambda: len(iovec),
            lambda: iovec[1:2], lambda: memoryview(iovec), lambda: iovec.address]
    for number, use in enumerate(uses):
        check(invalid(use), f'use {number} of an iovec after its end is ValueError')
    check('released' in repr(iovec) and iovec.pool is pool, 'what has ended has a description')
    pool.close()
    pool.close()
    uses = [(pool.alloc, 1), (pool.alloc_list, 1), (pool.keep, 'x', iovec), (pool.kept, 'x'),
            (pool.forget, 'x'), (pool.names,), (pool.watch, 0, 0), (pool.pressure,), (pool.stats,),
            (pool.preallocate, 0), (pool.trim,), (pool.eventfd,), (pool.fileno,),
            (Channel.create, pool), (Channel, pool, 0)]
    for use in uses:
        check(invalid(*use), f'{use[0].__name__}() after the end of the pool is ValueError')
    blank = Pool.__new__(Pool)
    check(blank.closed and invalid(blank.alloc, 1), 'a pool that was not opened is closed')
    blank = Channel.__new__(Channel)
    check(blank.closed and blank.pool is None and invalid(blank.recv) and invalid(blank.fileno),
          'a channel that was not opened is closed')


def of_close():
    before = descriptors()
    pool = Pool(buffer_size=BUFFER)
    iovec = pool.alloc(10)
    check(fails(errno.EBUSY, pool.close) and not pool.closed, 'a pool with an iovec is not closed')
    pool.alloc(20).release()
    check(pool.stats().contexts == 1, 'it goes on after that')
    iovec.release()
    pool.close()
    check(pool.closed and descriptors() == before, 'without an iovec it is')
    with contextlib.suppress(KeyError), Pool(buffer_size=BUFFER) as pool:
        iovec = pool.alloc(1)
        raise KeyError
    check(not pool.closed, 'an exception is not hidden by an iovec that is left')
    del pool, iovec
    check(descriptors() == before, 'the last object closes a pool')

    class Keeper(Pool):
        """A pool that can be a part of a cycle."""

    pool = Keeper(buffer_size=BUFFER)
    pool.kept_here = [pool.alloc(5), memoryview(pool.alloc(6)), pool]
    if MODULE or LOOPBACK:
        one, two = channel_pair(pool)
        one.send(pool.alloc(7))
        # A message has an iovec, and so the pool.
        pool.kept_here += [one, two, two.recv()]
        del one, two
    pool = None
    gc.collect()
    check(descriptors() == before, 'the garbage collector ends a cycle')


def of_pressure():
    with Pool(buffer_size=BUFFER, max_bytes=2 << 20, slab_size=2 << 20) as pool:
        check(fails(errno.EINVAL, pool.watch, 2, 1), 'the low mark is not above the high one')
        pool.watch(4 * BUFFER, 8 * BUFFER)
        check(pool.pressure().level == evplmem.ROOM_AMPLE and pool.pressure().room == 2 << 20,
              'a new pool has room', pool.pressure())
        check(select.select([pool.eventfd()], [], [], 0)[0] == [], 'no event comes before a mark')
        iovecs = [pool.alloc(BUFFER) for _ in range(27)]
        check(select.select([pool.eventfd()], [], [], 0)[0] == [pool.eventfd()],
              'the descriptor tells of a mark')
        os.read(pool.eventfd(), 8)
        seen = pool.pressure()
        check(seen.level == evplmem.ROOM_SCARCE and seen.cap == evplmem.CAP_POOL and
              seen.room == seen.free + seen.growth, 'the pressure names the cap', seen)
        iovecs += [pool.alloc(BUFFER) for _ in range(5)]
        check(pool.pressure().level == evplmem.ROOM_SHORT, 'a second mark follows')
        check(fails(errno.ENOMEM, pool.alloc, BUFFER), 'without room there is no memory')
        del iovecs
        check(pool.pressure().level == evplmem.ROOM_AMPLE, 'what is released is room')


def in_child(step):
    """Runs a step in a child of fork(2). Returns whether it was true, or the signal that came."""
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        status = 1
        try:
            signal.alarm(LIMIT)
            status = 0 if step() else 2
        except BaseException as error:
            print('# in the child:', repr(error), flush=True)
        finally:
            os._exit(status)
    status = os.waitpid(pid, 0)[1]
    return signal.Signals(os.WTERMSIG(status)) if os.WIFSIGNALED(status) else status == 0


def of_fork(pool):
    iovec = pool.alloc(BUFFER, private=True)
    view = memoryview(iovec)
    view[:4] = b'here'

    def refuses():
        uses = [(pool.alloc, 1), (pool.stats,), (pool.close,), (pool.fileno,), (iovec.clone,),
                (iovec.is_unique,), (memoryview, iovec), (pool.names,)]
        return all([fails(errno.EPERM, *use) for use in uses])

    def drops():
        nonlocal iovec, view
        view = None
        iovec.release()
        iovec = None
        with Pool(buffer_size=BUFFER) as own, own.alloc(9) as other, memoryview(other) as memory:
            memory[:] = b'x' * 9
        return True

    check(in_child(refuses) is True, "a child's use of its parent's objects is EPERM")
    check(in_child(drops) is True, 'a child drops them, and has pools of its own')
    check(iovec.is_unique() and bytes(view[:4]) == b'here', 'the parent keeps its reference')
    if MODULE or LOOPBACK:
        one, two = channel_pair(pool)

        def closes():
            result = fails(errno.EPERM, one.send, iovec) and fails(errno.EPERM, two.recv)
            one.close()
            return result and one.closed

        check(in_child(closes) is True, "a child closes its copies of its parent's channels")
        view.release()
        one.send(iovec, 5)
        check(two.recv().cookie == 5, "the parent's channel goes on")
        one.close()
        two.close()


EXITS = {
    'with objects': 'pool = Pool(); iovec = pool.alloc(9); view = memoryview(iovec)',
    'with objects in a cycle': '''
class Keeper(Pool): pass
pool = Keeper(); pool.self = pool; pool.iovec = pool.alloc(9)
''',
    'with threads that go on': '''
import threading
pool = Pool()
def work():
    while True:
        pool.alloc(100).release()
for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
pool.alloc(8)
''',
    'without the module, after an import': 'import sys; del sys.modules["evplmem"], Pool',
}


def of_exit():
    for name, program in EXITS.items():
        seen = subprocess.run([sys.executable, '-W', 'error', '-c',
                               'from evplmem import Pool\n' + program],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=LIMIT,
                              check=False, text=True)
        check(seen.returncode == 0 and not seen.stdout, f'an interpreter ends {name}', seen)


def of_threads(pool):
    rounds, wrong = 2000, []

    def work(number):
        text = bytes([number]) * 64
        held = []
        for turn in range(rounds):
            iovec = pool.alloc(64)
            with memoryview(iovec) as view:
                view[:] = text
            held.append(iovec if turn % 2 else iovec.clone())
            if len(held) > 20:
                with memoryview(held.pop(0)) as view:
                    if bytes(view) != text:
                        wrong.append(number)

    threads = [Thread(work, number) for number in range(4)]
    check([thread.wait() for thread in threads] == [None] * 4 and not wrong,
          'threads allocate and release', [thread.result for thread in threads], wrong)
    gc.collect()

    # The objects go from thread to thread, and end on another one than they began on.
    handed = [pool.alloc(64) for _ in range(1000)]
    ends = [Thread(lambda part: [iovec.release() for iovec in part], handed[at::2])
            for at in (0, 0, 1)]
    check(all(isinstance(end.wait(), list) for end in ends) and all(i.released for i in handed),
          'two threads that release one iovec release it once', [end.result for end in ends])


def parameters(call):
    return [(parameter.name, parameter.kind) for parameter in
            inspect.signature(call).parameters.values()]


def parameters_of_stub(node, skip_first):
    """The parameters of a function of the stubs, as inspect has them."""
    kinds = inspect.Parameter
    found = [(argument.arg, kinds.POSITIONAL_ONLY) for argument in node.args.posonlyargs] + \
        [(argument.arg, kinds.POSITIONAL_OR_KEYWORD) for argument in node.args.args]
    found = found[1:] if skip_first else found
    if node.args.vararg:
        found.append((node.args.vararg.arg, kinds.VAR_POSITIONAL))
    found += [(argument.arg, kinds.KEYWORD_ONLY) for argument in node.args.kwonlyargs]
    if node.args.kwarg:
        found.append((node.args.kwarg.arg, kinds.VAR_KEYWORD))
    return found


def of_stubs():
    place = os.path.join(os.path.dirname(evplmem.__file__), '__init__.pyi')
    with open(place, encoding='ascii') as file:
        stubs = ast.parse(file.read()).body
    names = {node.target.id for node in stubs if isinstance(node, ast.AnnAssign)}
    classes = {node.name: node for node in stubs if isinstance(node, ast.ClassDef)}
    functions = {node.name: node for node in stubs if isinstance(node, ast.FunctionDef)}
    public = {name for name in vars(evplmem) if not name.startswith('_')} - {'aio'}
    check(names | set(classes) | set(functions) == public == set(evplmem.__all__),
          'the stubs have the names of the package', names, set(classes), public)
    check(all(isinstance(getattr(evplmem, name), int) for name in names), 'the numbers are numbers')
    for name, node in functions.items():
        check(parameters_of_stub(node, False) == parameters(getattr(evplmem, name)),
              f'the stub of {name}() has its parameters')
    for name, node in classes.items():
        thing = getattr(evplmem, name)
        if any(isinstance(base, ast.Name) and base.id == 'NamedTuple' for base in node.bases):
            fields = tuple(field.target.id for field in node.body)
            check(fields == thing.__match_args__, f'the stub of {name} has its fields', fields)
            continue
        methods = {item.name: item for item in node.body if hasattr(item, 'args')}
        real = {key for base in thing.__mro__[:-1] for key in vars(base)
                if not key.startswith('_')} | \
            {key for key in methods if key.startswith('_') and hasattr(thing, key)}
        # __buffer__() is seen from Python 3.12 on.
        check(set(methods) - {'__buffer__'} == real - {'__buffer__'},
              f'the stub of {name} has its names', set(methods) ^ real)
        for key, item in methods.items():
            decorators = {decorator.id for decorator in item.decorator_list}
            if key in ('__len__', '__getitem__', '__buffer__') or 'property' in decorators:
                continue
            call = thing if key == '__init__' else getattr(thing, key)
            # A class and a class method have no first parameter, and a function has it.
            bound = key == '__init__' or 'classmethod' in decorators
            check(parameters_of_stub(item, bound) ==
                  [(part, kind) for part, kind in parameters(call)],
                  f'the stub of {name}.{key}() has its parameters', parameters(call),
                  parameters_of_stub(item, bound))
            if not bound and call.__doc__ is None and not key.startswith('_'):
                check(False, f'{name}.{key}() has a text')


def of_channels(pool):
    one, two = channel_pair(pool, capacity=8)
    check(raised(two.recv) == (BlockingIOError, errno.EAGAIN), 'without a message there is EAGAIN')
    check(fails(errno.EINVAL, two.recv_many, 0), 'room for no message is EINVAL')
    iovec = pool.alloc(64)
    with memoryview(iovec) as view:
        view[:] = b'm' * 64
        check(raised(one.send, iovec) == (BufferError, None) and not iovec.released,
              'an iovec of which there is a buffer is not sent')
    one.send(iovec, 1 << 63)
    check(iovec.released and invalid(one.send, iovec), 'what was sent is released')
    check(select.select([two], [], [], LIMIT)[0] == [two],
          'a message makes the descriptor readable')
    message = two.recv()
    with memoryview(message.iovec) as view:
        check(bytes(view) == b'm' * 64, 'a message has the slice')
    check(message[1] == message.cookie == 1 << 63 and message[2] == message.flags,
          'a message has its cookie', message)
    del message

    iovecs = [pool.alloc(64) for _ in range(5)]
    check(invalid(one.send_many, [iovecs[0], iovecs[1], iovecs[0]]) and
          not any(iovec.released for iovec in iovecs), 'an iovec is sent once')
    check(raised(one.send_many, [iovecs[0], 5]) == (TypeError, None) and
          raised(one.send_many, [iovecs[0], (iovecs[1], -1)]) == (OverflowError, None) and
          raised(one.send_many, [iovecs[0], ()]) == (TypeError, None) and
          fails(errno.EINVAL, one.send_many, [iovecs[0], iovecs[1][3:3]]) and
          fails(errno.EOPNOTSUPP, one.send_many, [iovecs[0], (iovecs[1], 0, 1 << 31)]) and
          not any(iovec.released for iovec in iovecs), 'where one cannot be sent, none is')
    one.send_many([(iovec, cookie) for cookie, iovec in enumerate(iovecs)])
    got = two.recv_many(3)
    check([message.cookie for message in got] == [0, 1, 2], 'a batch arrives in its order', got)
    one.send_many([])
    got += two.recv_many()
    check([message.cookie for message in got] == [0, 1, 2, 3, 4], 'so does its rest', got)
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while sent < 100000:
            one.send(pool.alloc(8), sent)
            sent += 1
    check(0 < sent < 100000, 'a channel is full some time', sent)
    check(fails(errno.EBUSY, pool.close), 'a pool with a channel is not closed')
    check(fails(errno.EOPNOTSUPP, one.lane_stats), 'a channel is no lane')
    check(one.flags == 0 and one.pool is pool and one.arm() is True, 'a channel has its flags')
    two.close()
    check(raised(one.send, pool.alloc(8)) == (BrokenPipeError, errno.EPIPE),
          'without the other end there is EPIPE')
    check(raised(one.recv) == (BrokenPipeError, errno.EPIPE), 'so there is for receiving')
    two.close()
    for use in [two.recv, two.recv_many, two.fileno, two.arm, two.lane_stats]:
        check(invalid(use), f'{use.__name__}() after the end of the channel is ValueError')
    iovec = pool.alloc(8)
    check(invalid(two.send, iovec) and invalid(two.send_many, [iovec]) and not iovec.released,
          'an iovec stays that is sent after the end')
    one.close()

    left, right = socket.socketpair()
    with left, right:
        one, two = Channel.offer(pool, left), Channel.accept(pool, right)
        one.send(pool.alloc(8), 7)
        check(two.recv().cookie == 7, 'a socket brings the other end')
        before = descriptors()
        left.send(b'x')
        check(raised(Channel.accept, pool, right) == (ConnectionError, None),
              'a byte without a descriptor is refused')
        socket.send_fds(left, [b'x'], [left.fileno()])
        check(fails(errno.EBADF, Channel.accept, pool, right) and descriptors() == before,
              'so is another descriptor, which is closed')

        class Broken(Channel):
            """An end whose making fails once it is open, as by a signal."""
            def __init__(self, *args):
                super().__init__(*args)
                raise KeyError

        before = descriptors()
        Channel.offer(pool, left).close()
        check(raised(Broken.accept, pool, right) == (KeyError, None) and descriptors() == before,
              'an exception after the opening closes the descriptor once')
    one.close()
    two.close()


def of_blocking(pool):
    one, two = channel_pair(pool, blocking=True)
    waits = Thread(two.recv)
    wait_until_it_sleeps(waits.native_id, two.fileno())
    check(fails(errno.EBUSY, two.close), 'a channel that a thread waits for is not closed')
    one.send(pool.alloc(8), 3)
    check(waits.wait().cookie == 3, 'other threads run while one waits')

    seen = []
    signal.signal(signal.SIGUSR1, lambda *_: seen.append(1))
    main = threading.get_native_id()

    def interrupt():
        wait_until_it_sleeps(main, two.fileno())
        os.kill(os.getpid(), signal.SIGUSR1)
        while not seen:
            time.sleep(0.01)
        one.send(pool.alloc(8), 4)

    helper = Thread(interrupt)
    check(two.recv().cookie == 4 and seen == [1] and helper.wait() is None,
          'a signal does not end a wait')

    def stop(*_):
        raise KeyError

    def again():
        wait_until_it_sleeps(main, two.fileno())
        os.kill(os.getpid(), signal.SIGUSR1)

    signal.signal(signal.SIGUSR1, stop)
    helper = Thread(again)
    check(raised(two.recv) == (KeyError, None) and helper.wait() is None,
          "the exception of a signal's handler does")
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    check(invalid(asyncio.run, two.recv_async()), 'a channel that blocks is not for asyncio')
    one.close()
    two.close()


def of_asyncio(pool):
    async def numbers():
        one, two = channel_pair(pool)
        total = 5000

        async def send():
            for number in range(total):
                await one.send_async(pool.alloc(8), number)
            await one.send_many_async((pool.alloc(8), total + more) for more in range(3))
            one.close()

        task = asyncio.create_task(send())
        got = [message.cookie async for message in two]
        await task
        two.close()
        return got == list(range(total + 3))

    async def tasks():
        one, two = channel_pair(pool)
        waiting = [asyncio.create_task(two.recv_async()) for _ in range(4)]
        await asyncio.sleep(0)
        waiting[1].cancel()
        await asyncio.sleep(0)
        one.send_many([(pool.alloc(8), cookie) for cookie in range(3)])
        got = await asyncio.gather(*waiting, return_exceptions=True)
        result = isinstance(got.pop(1), asyncio.CancelledError) and \
            sorted(message.cookie for message in got) == [0, 1, 2]
        one.close()
        two.close()
        return result

    async def closing():
        one, two = channel_pair(pool)
        waiting = [asyncio.create_task(two.recv_async()), asyncio.create_task(two.recv_async())]
        await asyncio.sleep(0)
        child = in_child(lambda: two.close() is None and two.closed)
        still = not any(task.done() for task in waiting)
        two.close()
        got = await asyncio.gather(*waiting, return_exceptions=True)
        one.close()
        return child and still and all(isinstance(error, ValueError) for error in got)

    async def crowded():
        class Counted(Channel):
            """An end that counts how often it tries to send."""
            tries = 0

            def send_many(self, messages):
                self.tries += 1
                return super().send_many(messages)

        one, peer = Counted.create(pool, capacity=8)
        two = Channel(pool, peer)
        one.send_many([(pool.alloc(8), cookie) for cookie in range(7)])
        task = asyncio.create_task(one.send_many_async([(pool.alloc(8), 7 + more)
                                                        for more in range(3)]))
        for _ in range(5000):
            await asyncio.sleep(0)
        tries = one.tries
        got = [message.cookie for message in two.recv_many(8)]
        await task
        got += [message.cookie for message in two.recv_many(8)]
        one.close()
        two.close()
        return got == list(range(10)) and tries < 2500

    async def both():
        one, two = channel_pair(pool)
        reader = asyncio.create_task(one.recv_many_async())
        await asyncio.sleep(0)
        sent = 0
        while raised(one.send, pool.alloc(8), sent) is None:
            sent += 1
        writer = asyncio.create_task(one.send_async(pool.alloc(8), sent))
        await asyncio.sleep(0)
        got = []
        while len(got) <= sent:
            got += [message.cookie for message in await two.recv_many_async()]
        await writer
        two.send(pool.alloc(8), 99)
        seen = await reader
        one.close()
        two.close()
        return got == list(range(sent + 1)) and [message.cookie for message in seen] == [99]

    for step, what in [(numbers, 'an async for has all messages, and ends with the channel'),
                       (tasks, 'each task that waits gets one message'),
                       (closing, 'a task that waits for a channel that is closed gets ValueError'),
                       (crowded, 'a task whose batch has too little room doesn\'t spin'),
                       (both, 'a task that sends and one that receives wait for one channel')]:
        check(asyncio.run(asyncio.wait_for(step(), LIMIT)), what)


class Peer:
    """A process with a pool of its own, which obeys: each step is a function of the peer."""

    def __init__(self, *steps, **config):
        self.socket, self.other = socket.socketpair()
        sys.stdout.flush()
        self.pid = os.fork()
        if not self.pid:
            status = 1
            try:
                signal.alarm(LIMIT)
                self.socket.close()
                self.socket, self.other = self.other, None
                self.pool = Pool(buffer_size=BUFFER, **config)
                for step in steps:
                    self.socket.recv(1)
                    step(self)
                    self.socket.send(b'.')
                self.socket.recv(1)
                status = 0
            except BaseException as error:
                print('# in the peer:', repr(error), flush=True)
            finally:
                os._exit(status)
        self.other.close()

    def go(self):
        self.socket.send(b'.')

    def step(self):
        self.go()
        if self.socket.recv(1) != b'.':
            raise RuntimeError('the peer has failed')

    def end(self, number=None):
        """Returns the status of the process."""
        if number:
            os.kill(self.pid, number)
        self.socket.close()
        return os.waitpid(self.pid, 0)[1]


def of_frames():
    """Another process sends frames, and takes one back."""
    def connect(peer):
        peer.channel = Channel.accept(peer.pool, peer.socket)

    def send(peer):
        peer.frame = peer.pool.alloc(FRAME, private=True)
        with memoryview(peer.frame) as view:
            view[:] = bytes(number % 251 for number in range(FRAME))
        peer.channel.send(peer.frame.clone(), 1)
        peer.writable = peer.pool.alloc(FRAME, private=True)
        with memoryview(peer.writable) as view:
            view[:] = b'w' * FRAME
        peer.channel.send(peer.writable.clone(), 2, evplmem.MESSAGE_WRITE)

    def look(peer):
        with memoryview(peer.writable) as view:
            assert bytes(view[:4]) == b'seen', bytes(view[:4])
        assert fails(errno.EAGAIN, peer.frame.wait, blocking=False)

    def revoke(peer):
        assert peer.frame.revoke() is True
        peer.frame.wait()

    def lose(peer):
        iovec = peer.pool.alloc(FRAME, private=True)
        peer.channel.send(iovec.clone(), 3)
        iovec.revoke()

    peer = Peer(connect, send, look, revoke, lose)
    before = descriptors()
    pool = Pool(buffer_size=BUFFER, zeros=True)
    peer.go()
    channel = Channel.offer(pool, peer.socket)
    check(peer.socket.recv(1) == b'.', 'another process has the other end')
    peer.step()
    first, second = channel.recv(), channel.recv()
    check(first.iovec.readonly and first.flags == 0 and not second.iovec.readonly and
          second.flags == evplmem.MESSAGE_WRITE, 'the sender says what may be written', first,
          second)
    view = memoryview(first.iovec)
    check(view.readonly and bytes(view) == bytes(number % 251 for number in range(FRAME)),
          'a memoryview of a frame is read-only, and has its bytes')
    check(raised(view.__setitem__, 0, 1) == (TypeError, None), 'a write to it raises TypeError')
    what = 'numpy sees a frame of another process without a copy'
    array = None
    if numpy:
        array = numpy.frombuffer(first.iovec, dtype=numpy.uint8)
        check(array.ctypes.data == first.iovec.address and array[250] == 250 and array[251] == 0,
              what)
        check(not array.flags.writeable and invalid(array.__setitem__, 0, 1),
              'its array is read-only, and a write raises ValueError')
    else:
        skip(what, 'there is no numpy')
    check(all(thing.readonly for thing in (first.iovec.clone(), first.iovec[1:3])),
          'a clone and a slice of what is read-only are too')
    check(fails(errno.EINVAL, first.iovec.revoke) and fails(errno.EINVAL, first.iovec.wait),
          'its owner alone revokes a frame')
    check(fails(errno.EINVAL, pool.keep, 'frame', first.iovec), 'its owner alone keeps a frame')
    with memoryview(second.iovec) as writable:
        writable[:4] = b'seen'
    peer.step()
    check(True, 'the sender sees what was written to its memory, and that others have it')
    peer.step()
    check(not any(view) and (array is None or not array.any()),
          'a frame that its sender has revoked reads as zeros')
    peer.step()
    message = channel.recv()
    check(message.iovec is None and message.cookie == 3 and
          message.flags == evplmem.MESSAGE_REVOKED, 'a message that was revoked has no iovec',
          message)
    iovec = second.iovec
    check(fails(errno.EACCES, channel.send, first.iovec.clone(), 0, evplmem.MESSAGE_WRITE) or
          fails(errno.ENOENT, channel.send, first.iovec.clone(), 0, evplmem.MESSAGE_WRITE),
          'nobody gives more rights than there are')
    channel.send(iovec)
    check(iovec.released, 'what was received is sent home')
    check(peer.end(signal.SIGKILL) == signal.SIGKILL and
          raised(channel.recv) == (BrokenPipeError, errno.EPIPE), 'a peer that dies is EPIPE')
    view.release()
    del array, first, second, iovec, message
    channel.close()
    gc.collect()
    pool.close()
    check(descriptors() == before - 1, 'nothing is left of it')


def of_sigbus():
    """The receiver of a frame has a pool without zeros, and touches a frame that was revoked."""
    def connect(peer):
        peer.channel = Channel.accept(peer.pool, peer.socket)

    def receive(peer):
        peer.frame = peer.channel.recv().iovec
        assert bytes(memoryview(peer.frame)[:2]) == b'ab'

    def touch(peer):
        bytes(memoryview(peer.frame)[:2])

    peer = Peer(connect, receive, touch)
    with Pool(buffer_size=BUFFER) as pool:
        peer.go()
        channel = Channel.offer(pool, peer.socket)
        peer.socket.recv(1)
        frame = pool.alloc(FRAME, private=True)
        with memoryview(frame) as view:
            view[:2] = b'ab'
        channel.send(frame.clone())
        peer.step()
        check(frame.revoke() is True, 'a read-only frame is taken back at once')
        peer.go()
        status = peer.end()
        check(os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGBUS,
              'the touch of a frame that was revoked is SIGBUS without zeros', status)
        frame.wait()
        check(frame.is_unique(), 'the owner has it alone again')
        frame.release()
        channel.close()


def of_lanes():
    def serve(peer):
        channel = Channel.accept(peer.pool, peer.socket, lane=True)
        peer.socket.send(b'+')

        async def answer():
            async for message in channel:
                message.iovec.release()
                await channel.send_async(peer.pool.alloc(64), message.cookie + 1)

        asyncio.run(answer())
        channel.close()

    peer = Peer(serve, zeros=True)
    with Pool(buffer_size=BUFFER, zeros=True) as pool:
        peer.go()
        channel = Channel.offer(pool, peer.socket, lane=True)
        peer.socket.recv(1)
        check(channel.flags == evplmem.CHANNEL_LANE, 'a lane has its flag')

        async def talk():
            for number in range(2000):
                await channel.send_async(pool.alloc(64), number)
                message = await channel.recv_async()
                if message.cookie != number + 1 or not message.iovec.readonly:
                    return False
            return True

        check(asyncio.run(asyncio.wait_for(talk(), LIMIT)), 'processes talk over a lane')
        stats = channel.lane_stats()
        check(stats.sending == stats.receiving == 1 and stats.sent > 1000 and
              stats.received > 1000, 'most of it passes through shared memory', stats)
        channel.close()
        check(peer.socket.recv(1) == b'.' and peer.end() == 0, 'the other side sees the end')
        gc.collect()
    with Pool(buffer_size=BUFFER) as pool:
        check(fails(errno.EINVAL, Channel.create, pool, lane=True), 'a lane needs zeros')


def of_adopting():
    def keep(peer):
        iovec = peer.pool.alloc(100)
        with memoryview(iovec) as view:
            view[:] = b'k' * 100
        peer.pool.keep('kept', iovec)
        peer.pool.keep(b'other', iovec[:10])
        assert sorted(peer.pool.names()) == ['kept', 'other']
        peer.pool.forget('other')
        assert fails(errno.ENAMETOOLONG, peer.pool.keep, 'x' * (evplmem.NAME_MAX + 1), iovec)
        assert fails(errno.EINVAL, peer.pool.keep, '', iovec)
        socket.send_fds(peer.socket, [b'+'], [peer.pool.fileno()])

    peer = Peer(keep)
    peer.go()
    fd = socket.recv_fds(peer.socket, 1, 1)[1][0]
    check(peer.socket.recv(1) == b'.', 'a process keeps a slice')
    check(fails(errno.EBUSY, Pool.adopt, fd), 'the memory of a process that lives is not adopted')
    peer.end(signal.SIGKILL)
    check(fails(errno.EINVAL, Pool.adopt, fd, buffer_size=2 * BUFFER),
          'its buffers have their size')
    with Pool.adopt(fd) as pool:
        check(pool.names() == ['kept'] and pool.stats().roots == 1 and pool.fileno() == fd,
              'the memory of a process that was killed is adopted', pool.names(), pool.stats())
        with pool.kept('kept') as iovec, memoryview(iovec) as view:
            check(bytes(view) == b'k' * 100, 'the slice that was kept has its bytes')
        pool.alloc(10).release()
        pool.forget('kept')
        check(raised(pool.kept, 'kept') == (FileNotFoundError, errno.ENOENT) and not pool.names(),
              'a name that was dropped is not there')
    check(fails(errno.EBADF, os.fstat, fd), 'the descriptor was the pool\'s')


def of_anon_errors():
    check(fails(errno.ENOENT, Pool, backend='module', device=b'/dev/\xff'),
          'a path need not be a text')
    with Pool(buffer_size=BUFFER) as pool, pool.alloc(9) as iovec:
        for use in [(pool.fileno,), (pool.names,), (pool.keep, 'x', iovec), (pool.kept, 'x'),
                    (pool.forget, 'x'), (iovec.revoke,), (iovec.wait,)]:
            check(fails(errno.EOPNOTSUPP, *use),
                  f'{use[0].__name__}() without the module is EOPNOTSUPP', raised(*use))


def with_pool(step):
    with Pool(buffer_size=BUFFER) as pool:
        step(pool)
        # Exceptions have tracebacks, whose frames have iovecs.
        gc.collect()


def main():
    print('TAP version 13')
    of_config()
    for step in [of_memory, of_exports, of_numpy, of_fork, of_threads]:
        with_pool(step)
    of_use_after_end()
    of_close()
    of_pressure()
    of_exit()
    of_stubs()
    for step in [of_channels, of_blocking, of_asyncio]:
        if MODULE or LOOPBACK:
            with_pool(step)
        else:
            skip(step.__name__, 'it needs the module, or tests/loopback.c')
    for step in [of_frames, of_sigbus, of_lanes, of_adopting]:
        if MODULE:
            step()
        else:
            skip(step.__name__, 'it needs the module')
    if MODULE:
        skip('of_anon_errors', 'it needs the anon back end')
    else:
        of_anon_errors()
    return tap.end()


sys.exit(main())
