# SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
"""Memory for fast I/O: pinned, counted by reference, and shared with other processes.

Documentation/python.md in the sources of evpl describes the package.
"""
from ._evplmem import (
    BACKEND_ANON, BACKEND_MODULE, CAP_MEMORY, CAP_POOL, CAP_SYSTEM, CAP_USER, CHANNEL_BLOCKING,
    CHANNEL_LANE, CHANNEL_POLLING, MESSAGE_DEVICE, MESSAGE_HELD, MESSAGE_REVOKED, MESSAGE_WRITE,
    NAME_MAX, ROOM_AMPLE, ROOM_SCARCE, ROOM_SHORT, Iovec, LaneStats, Message, Pool, PoolStats,
    Pressure, version)
from .aio import Channel

__all__ = [
    'BACKEND_ANON', 'BACKEND_MODULE', 'CAP_MEMORY', 'CAP_POOL', 'CAP_SYSTEM', 'CAP_USER',
    'CHANNEL_BLOCKING', 'CHANNEL_LANE', 'CHANNEL_POLLING', 'Channel', 'Iovec', 'LaneStats',
    'MESSAGE_DEVICE', 'MESSAGE_HELD', 'MESSAGE_REVOKED', 'MESSAGE_WRITE', 'Message', 'NAME_MAX',
    'Pool', 'PoolStats', 'Pressure', 'ROOM_AMPLE', 'ROOM_SCARCE', 'ROOM_SHORT', 'version']
