"""The ways between the nodes, which can be cut without being root: a forwarder before each router.

A router listens at one unix socket and tells others another one (``--advertise``), which is here; so every link of the
fabric goes through this process.  Who is at the other end the kernel tells (SO_PEERCRED): a node, or a replica, which
belongs to its worker node.

    silent    nothing gets through in either direction, and nobody is told: what is sent waits, as in the network of a
              host whose cable was pulled, and arrives when the way is open again
    broken    connections end at once, new ones are refused
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["Pair", "Ways", "pair"]

Pair = frozenset[str]
"""The two ends of a way, by name."""


def pair(one: str, other: str) -> Pair:
    return frozenset((one, other))


class _End(asyncio.Protocol):
    """One of the two connections of a link.  What comes in leaves through ``other``."""

    def __init__(self, ends: set[_End], on_lost: Callable[[], None]) -> None:
        self.transport: Any = None
        self._ends = ends
        self.other: _End | None = None
        self.silent = False
        self._full = False
        self._held: list[bytes] = []
        self._on_lost = on_lost

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self._ends.add(self)

    def join(self, other: _End) -> None:
        self.other = other
        held, self._held = self._held, []
        for data in held:
            other.transport.write(data)

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self._held.append(data)
        else:
            self.other.transport.write(data)

    def pause_writing(self) -> None:
        if self.other is not None:
            self.other._full = True
            self.other.flow()

    def resume_writing(self) -> None:
        if self.other is not None:
            self.other._full = False
            self.other.flow()

    def flow(self) -> None:
        """Read, or leave it in the socket."""
        if self.transport is None or self.transport.is_closing():
            return
        if self.silent or self._full:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._ends.discard(self)
        self._on_lost()

    def end(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.abort()


class _Link:
    """One connection of a node with a router, in two halves."""

    def __init__(self, ways: Ways, router: str, target: str) -> None:
        self._ways = ways
        self._target = target
        self._router = router
        self._dialling: asyncio.Task[None] | None = None
        self.near = _End(ways.ends, self.end)
        self.far = _End(ways.ends, self.end)
        self.between: Pair = frozenset()
        self.ended = False

    def begin(self, peer: str) -> None:
        self.between = pair(peer, self._router)
        if self.between in self._ways.broken:
            self.end()
            return
        self._ways.links[self] = None
        self.open_or_close()

    def open_or_close(self) -> None:
        """Let through what may get through."""
        silent = self.between in self._ways.silent
        for end in (self.near, self.far):
            end.silent = silent
            end.flow()
        if not silent and self._dialling is None and not self.ended:
            self._dialling = asyncio.get_running_loop().create_task(self._dial())

    async def _dial(self) -> None:
        try:
            await asyncio.get_running_loop().create_unix_connection(lambda: self.far, self._target)
        except OSError:
            self.end()
            return
        if self.ended:
            self.far.end()
            return
        self.near.join(self.far)
        self.far.join(self.near)
        self.open_or_close()

    def end(self) -> None:
        self.ended = True
        self._ways.links.pop(self, None)
        self.near.end()
        self.far.end()


class _Listener(asyncio.Protocol):
    """Takes a new connection, and hands it to the near end of a link of its own."""

    def __init__(self, ways: Ways, router: str, target: str) -> None:
        self._link = _Link(ways, router, target)
        self._ways = ways

    def connection_made(self, transport: Any) -> None:
        transport.set_protocol(self._link.near)
        self._link.near.connection_made(transport)
        self._link.begin(self._ways.who(_peer_pid(transport.get_extra_info("socket"))))


def _peer_pid(connection: socket.socket) -> int:
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid: int = struct.unpack("3i", credentials)[0]
    return pid


class Ways:
    """All forwarders.  *who* names the node that a process belongs to, "" for nobody of this fabric."""

    def __init__(self, who: Callable[[int], str]) -> None:
        self.who = who
        self.silent: set[Pair] = set()
        self.broken: set[Pair] = set()
        self.links: dict[_Link, None] = {}
        self.ends: set[_End] = set()
        self._servers: list[asyncio.Server] = []

    async def open(self, router: str, address: str, target: str) -> None:
        """Listen at the path *address* for the socket of *router* at the path *target*."""
        server = await asyncio.get_running_loop().create_unix_server(
            lambda: _Listener(self, router, target), address, backlog=1024
        )
        self._servers.append(server)

    def silence(self, pairs: Iterable[Pair]) -> None:
        self.silent |= set(pairs)
        self._settle()

    def hear(self, pairs: Iterable[Pair]) -> None:
        """These are not silent any more; what has waited arrives."""
        self.silent -= set(pairs)
        self._settle()

    def break_off(self, pairs: Iterable[Pair]) -> None:
        self.broken |= set(pairs)
        for link in list(self.links):
            if link.between in self.broken:
                link.end()

    def mend(self, pairs: Iterable[Pair]) -> None:
        self.broken -= set(pairs)

    def _settle(self) -> None:
        for link in list(self.links):
            link.open_or_close()

    async def close(self) -> None:
        for server in self._servers:
            server.close()
        for link in list(self.links):
            link.end()
        while self.ends:
            await asyncio.sleep(0)
