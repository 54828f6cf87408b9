# SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
"""Channels with the parts that need no C: sockets, and asyncio."""
import asyncio
import os
import socket

from . import _evplmem


class Channel(_evplmem.Channel):
    """An end of a channel to another process, of its descriptor."""

    # The futures of the tasks that wait for the descriptor, by the direction. A list isn't empty.
    # create() calls no __init__(), so the first task to wait makes the dict.
    _waiting = None

    @classmethod
    def offer(cls, pool, sock, **options):
        """Makes a channel, and sends its other end over a Unix socket."""
        channel, peer = cls.create(pool, **options)
        try:
            socket.send_fds(sock, [b'\0'], [peer])
        except BaseException:
            channel.close()
            raise
        finally:
            os.close(peer)
        return channel

    @classmethod
    def accept(cls, pool, sock, **options):
        """Takes the end that offer() has sent over a Unix socket."""
        data, ends, _, _ = socket.recv_fds(sock, 1, 1, socket.MSG_CMSG_CLOEXEC)
        if not ends:
            raise ConnectionError('no descriptor came' if data else 'the socket was closed')
        channel = cls.__new__(cls)
        try:
            channel.__init__(pool, ends[0], **options)
        except BaseException:
            # Once the channel is open, the descriptor is its own. A signal can come after that.
            if channel.closed:
                os.close(ends[0])
            else:
                channel.close()
            raise
        return channel

    async def recv_async(self):
        """Receives a message. Other tasks run until there is one."""
        return await self._retry('reader', self.recv)

    async def recv_many_async(self, max=64):
        """Receives a list of at least one message. Other tasks run until there is one."""
        return await self._retry('reader', self.recv_many, max)

    async def send_async(self, iovec, cookie=0, flags=0):
        """Sends an iovec, which is released then. Other tasks run until there is room."""
        await self._retry('writer', self.send, iovec, cookie, flags)

    async def send_many_async(self, messages):
        """Sends all of the messages, or none. Other tasks run until there is room."""
        await self._retry('writer', self.send_many, tuple(messages))

    def __aiter__(self):
        """The messages, until the other end is closed."""
        return self

    async def __anext__(self):
        try:
            return await self.recv_async()
        except BrokenPipeError:
            raise StopAsyncIteration from None

    def close(self):
        """Closes this end. The tasks that wait for it get ValueError."""
        waiting, self._waiting = self._waiting or {}, None
        # A child of fork(2) shares the loop's epoll set with its parent, and so leaves it alone.
        try:
            fd = self.fileno() if waiting else -1
        except PermissionError:
            waiting = {}
        for kind, futures in waiting.items():
            getattr(futures[0].get_loop(), f'remove_{kind}')(fd)
        try:
            super().close()
        finally:
            # They try again, and find the channel closed. If it isn't, they wait again.
            for futures in waiting.values():
                self._wake(futures)

    async def _retry(self, kind, call, *arguments):
        if self.flags & (_evplmem.CHANNEL_BLOCKING | _evplmem.CHANNEL_POLLING):
            raise ValueError('a channel that blocks or polls is not for asyncio')
        tries = 0
        while True:
            try:
                return call(*arguments)
            except BlockingIOError:
                pass
            # The descriptor tells of room for one message, and a batch may need more.
            if tries and kind == 'writer':
                await asyncio.sleep(0.001)
            await self._ready(kind)
            tries += 1

    async def _ready(self, kind):
        """Waits until the descriptor is readable or writable."""
        loop = asyncio.get_running_loop()
        if self._waiting is None:
            self._waiting = {}
        future = loop.create_future()
        futures = self._waiting.get(kind)
        # The loop has one callback for each direction of a descriptor, so it wakes all tasks.
        if futures is None:
            futures = []
            getattr(loop, f'add_{kind}')(self.fileno(), self._wake, futures)
            self._waiting[kind] = futures
        futures.append(future)
        try:
            await future
        finally:
            futures.remove(future)
            # After close() the callback is gone.
            if not futures and self._waiting and self._waiting.get(kind) is futures:
                del self._waiting[kind]
                getattr(loop, f'remove_{kind}')(self.fileno())

    @staticmethod
    def _wake(futures):
        for future in futures:
            if not future.done():
                future.set_result(None)
