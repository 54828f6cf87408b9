#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
"""python_fuzz.py: makes random calls of the package evplmem, and checks that none crashes.

EVPL_FUZZ_CALLS says how many, and EVPL_FUZZ_SEED repeats a run. tests/loopback.c is preloaded, for
channels. Each iovec is filled with one byte, which must be there as long as anything shows it.
"""
import gc
import os
import random
import sys
import threading

import tap
from tap import check

import evplmem
from evplmem import Channel, Pool

CALLS = int(os.environ.get('EVPL_FUZZ_CALLS', '20000'))
SEED = int(os.environ.get('EVPL_FUZZ_SEED') or int.from_bytes(os.urandom(4), 'little'))
BUFFER = 1 << 14
MOST = 60                           # objects of a kind
EXPECTED = (OSError, ValueError, BufferError, TypeError, OverflowError)
ODD = [-1, 0, 1, 7, BUFFER, BUFFER + 1, 1 << 31, 1 << 32, 1 << 63, 1 << 64, None, 'x', b'x', 1.5,
       (), [], object()]


class Wrong(Exception):
    """The memory isn't what it must be."""


class Fuzz:
    """The objects, and the calls that they get."""

    def __init__(self, chance):
        self.chance = chance
        self.lists = self.pools, self.iovecs, self.views, self.channels = [], [], [], []
        self.calls = [getattr(self, name) for name in dir(self) if name.startswith('do_')]
        self.refused = 0

    def one(self):
        """Makes one call."""
        try:
            self.chance.choice(self.calls)()
        except EXPECTED:
            self.refused += 1
        for things in self.lists:
            while len(things) > MOST:
                things.pop(self.chance.randrange(len(things)))

    def pick(self, things):
        if not things:
            raise ValueError('there is none')
        return self.chance.choice(things)

    def odd(self):
        return self.chance.choice(ODD)

    @staticmethod
    def look(view, byte):
        if view.nbytes and bytes(view) != bytes([byte]) * view.nbytes:
            raise Wrong(f'{bytes(view[:8])} instead of {byte}')

    def fill(self, iovec):
        byte = self.chance.randrange(256)
        with memoryview(iovec) as view:
            view[:] = bytes([byte]) * len(iovec)
        self.iovecs.append((iovec, byte))

    def do_open(self):
        if len(self.pools) < 4:
            self.pools.append(Pool(buffer_size=BUFFER, max_bytes=self.chance.choice([0, 4 << 20])))

    def do_open_oddly(self):
        name = self.chance.choice(['backend', 'huge', 'buffer_size', 'slab_size', 'slab_size_max',
                                   'max_bytes', 'device', 'node', 'cache', 'other'])
        Pool(**{name: self.odd()}).close()

    def do_alloc(self):
        self.fill(self.pick(self.pools).alloc(self.chance.randrange(1, BUFFER + 1),
                                              1 << self.chance.randrange(15),
                                              private=self.chance.random() < 0.2))

    do_alloc_again = do_alloc

    def do_alloc_list(self):
        for iovec in self.pick(self.pools).alloc_list(self.chance.randrange(1, 5 * BUFFER)):
            self.fill(iovec)

    def do_alloc_oddly(self):
        self.pick(self.pools).alloc(self.odd(), self.odd())

    def do_clone(self):
        iovec, byte = self.pick(self.iovecs)
        self.iovecs.append((iovec.clone(), byte))

    def do_slice(self):
        iovec, byte = self.pick(self.iovecs)
        ends = [self.chance.randrange(-BUFFER, BUFFER) for _ in range(2)]
        self.iovecs.append((iovec[slice(*ends)], byte))

    def do_slice_oddly(self):
        iovec, byte = self.pick(self.iovecs)
        self.iovecs.append((iovec[self.odd():self.odd()], byte))

    def do_subscript_oddly(self):
        self.pick(self.iovecs)[0][self.odd()]

    def do_view(self):
        iovec, byte = self.pick(self.iovecs)
        self.views.append((memoryview(iovec), byte))

    def do_look(self):
        iovec, byte = self.pick(self.iovecs)
        with memoryview(iovec) as view:
            self.look(view, byte)

    def do_look_at_view(self):
        view, byte = self.pick(self.views)
        self.look(view, byte)

    def do_release(self):
        self.pick(self.iovecs)[0].release()

    def do_release_view(self):
        self.pick(self.views)[0].release()

    def do_drop(self):
        things = self.pick(self.lists)
        if things:
            things.pop(self.chance.randrange(len(things)))

    def do_use_iovec(self):
        iovec, _ = self.pick(self.iovecs)
        self.chance.choice([iovec.is_unique, iovec.revoke, iovec.wait, iovec.__enter__,
                            lambda: len(iovec), lambda: repr(iovec), lambda: iovec.address,
                            lambda: iovec.wait(False), lambda: iovec.__exit__(None, None, None),
                            lambda: iovec.__exit__(1, 2, 3), lambda: iovec.__exit__()])()

    def do_use_pool(self):
        pool = self.pick(self.pools)
        iovec = self.pick(self.iovecs)[0]
        self.chance.choice([pool.stats, pool.trim, pool.pressure, pool.names, pool.eventfd,
                            pool.fileno, lambda: pool.keep('x', iovec), lambda: pool.kept('x'),
                            lambda: pool.keep(self.odd(), self.odd()),
                            lambda: pool.kept(self.odd()),
                            lambda: pool.forget('\0'), lambda: pool.watch(1 << 20, 2 << 20),
                            lambda: pool.watch(self.odd(), self.odd()), lambda: pool.watch(0, 0),
                            lambda: pool.preallocate(self.odd(), self.odd()), pool.__init__,
                            lambda: Pool.adopt(self.odd()), lambda: pool.adopt()])()

    def do_close_pool(self):
        if self.chance.random() < 0.1:
            pool = self.pick(self.pools)
            pool.close()
            self.pools.remove(pool)

    def do_channel(self):
        pool = self.pick(self.pools)
        one, peer = Channel.create(pool, capacity=self.chance.randrange(70),
                                   lane=self.chance.random() < 0.5)
        self.channels += [one, Channel(pool, peer)]

    def do_channel_oddly(self):
        self.chance.choice([lambda: Channel.create(self.odd()),
                            lambda: Channel(self.pick(self.pools), self.odd()),
                            lambda: Channel.create(self.pick(self.pools), capacity=self.odd()),
                            lambda: self.pick(self.channels).__init__(self.pick(self.pools), 0),
                            Channel.__new__(Channel).recv])()

    def do_send(self):
        iovec, byte = self.pick(self.iovecs)
        self.pick(self.channels).send(iovec, byte, self.chance.choice([0, 0, 0, 1, 4, 99]))

    def do_send_many(self):
        messages = [self.pick(self.iovecs) for _ in range(self.chance.randrange(4))]
        self.pick(self.channels).send_many(messages)

    def do_send_oddly(self):
        channel = self.pick(self.channels)
        iovec, byte = self.pick(self.iovecs)
        self.chance.choice([lambda: channel.send(self.odd()),
                            lambda: channel.send(iovec, self.odd(), 99),
                            lambda: channel.send_many([(iovec, byte), self.odd()]),
                            lambda: channel.send_many(self.odd())])()

    def do_recv(self):
        message = self.pick(self.channels).recv()
        self.iovecs.append((message.iovec, message.cookie))

    def do_recv_many(self):
        for message in self.pick(self.channels).recv_many(self.chance.randrange(5)):
            self.iovecs.append((message.iovec, message.cookie))

    def do_recv_oddly(self):
        for message in self.pick(self.channels).recv_many(self.odd()):
            self.iovecs.append((message.iovec, message.cookie))

    def do_use_channel(self):
        channel = self.pick(self.channels)
        self.chance.choice([channel.fileno, channel.arm, channel.lane_stats,
                            lambda: channel.flags])()

    def do_close_channel(self):
        if self.chance.random() < 0.2:
            self.pick(self.channels).close()

    def do_collect(self):
        if self.chance.random() < 0.02:
            gc.collect()

    def end(self):
        """Lets go of all objects but the pools, and closes these. Returns the errors."""
        for channel in self.channels:
            channel.close()
        for things in self.lists[1:]:
            things.clear()
        gc.collect()
        errors = []
        for pool in self.pools:
            try:
                pool.close()
            except OSError as error:
                errors.append(error)
        return errors


class Race(Fuzz):
    """Several threads use the same objects. None of them says what the memory must have."""

    def look(self, view, byte):
        bytes(view)

    def run(self, calls, errors):
        """The calls of one thread. Others take objects away meanwhile, so a list may be shorter."""
        try:
            while calls:
                calls -= 1
                try:
                    self.one()
                except IndexError:
                    pass
        except BaseException as error:
            errors.append(error)


def main():
    print('TAP version 13')
    print(f'# EVPL_FUZZ_SEED={SEED} EVPL_FUZZ_CALLS={CALLS}', flush=True)
    fuzz = Fuzz(random.Random(SEED))
    wrong = None
    try:
        for _ in range(CALLS):
            fuzz.one()
    except Wrong as error:
        wrong = error
    check(not wrong, 'no call changes memory that something shows', wrong)
    check(0 < fuzz.refused < CALLS, 'some calls are refused, and some are not', fuzz.refused)
    check(not (errors := fuzz.end()), 'in the end all pools can be closed', errors)

    race = Race(random.Random(SEED + 1))
    errors = []
    threads = [threading.Thread(target=race.run, args=(CALLS // 6, errors)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check(not errors, 'threads do no harm to each other', errors)
    check(not (errors := race.end()), 'after that all pools can be closed', errors)
    return tap.end()


sys.exit(main())
