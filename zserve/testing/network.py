"""The virtual network: connections between hosts, and what may happen to them.

It behaves as ZeroMQ over TCP does, and where that has a choice, worse:

- A connection (DEALER to ROUTER) is reliable and in order while it lives.  In a partition it stalls, as TCP does, and
  goes on afterwards if neither end has given up; when it breaks, what was under way is lost.
- The end that dials is told when the connection breaks, if the news can reach it.  The end that binds finds out when it
  sends.  A host that crashes tells nobody anything.
- Publications may be lost, doubled, late and out of order, without a word.

Connecting takes a round trip and is repeated with back-off while nobody listens or the way is blocked.
"""

from __future__ import annotations

import hashlib
import random
import struct
from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from ..channel.outbox import Parcel, Peer
from ..wire.codec import decode, encode
from ..wire.messages import Hello
from .clock import VirtualClock
from .processes import Processes

if TYPE_CHECKING:
    from .hub import SimHub

__all__ = ["Connection", "Network", "Weather"]

_FIN = object()
_STAMP = struct.Struct("<dIB")
_FIRST_RETRY_S = 0.2
_LAST_RETRY_S = 4.0
_RESUME_S = 1.0
"""How long after a partition TCP may take to try again."""

_SLOWEST_S = 2.0


class Weather:
    """How the network is at the moment.

    delay_s: one way, between half and one and a half of it.  spike, spike_s: now and then a message takes up to so much
    longer (those behind it on the connection wait).  publish_loss, publish_double: what happens to publications, each a
    probability for each receiver.  publish_spread_s: they are late by up to this much, so later ones overtake.
    """

    __slots__ = ("delay_s", "publish_double", "publish_loss", "publish_spread_s", "spike", "spike_s")

    def __init__(
        self,
        delay_s: float = 0.0005,
        spike: float = 0.0,
        spike_s: float = 0.0,
        publish_loss: float = 0.0,
        publish_double: float = 0.0,
        publish_spread_s: float = 0.0,
    ) -> None:
        self.delay_s = delay_s
        self.spike = spike
        self.spike_s = spike_s
        self.publish_loss = publish_loss
        self.publish_double = publish_double
        self.publish_spread_s = publish_spread_s


class _Pipe:
    """One direction of a connection."""

    __slots__ = ("held", "last")

    def __init__(self) -> None:
        self.last = 0.0
        self.held: deque[Any] = deque()


class Connection:
    """One DEALER socket's connection with a ROUTER, named by its routing id (*peer*)."""

    __slots__ = (
        "address",
        "broken",
        "cuts",
        "dialler",
        "down",
        "established",
        "number",
        "open",
        "peer",
        "router",
        "router_open",
        "subscribed",
        "up",
        "waiting",
        "wants",
    )

    def __init__(self, number: int, peer: Peer, dialler: SimHub, address: str) -> None:
        self.number = number
        self.peer = peer
        self.dialler = dialler
        self.address = address
        self.router: SimHub | None = None
        self.open = True  # the dialling end has not closed it
        self.router_open = False  # the router's socket knows it
        self.established = False
        self.subscribed = False
        self.wants = False
        self.broken = False
        self.cuts = 0
        self.waiting: list[Any] = []
        self.up = _Pipe()
        self.down = _Pipe()


class Network:
    """All connections of a fabric.

    as_bytes: messages are encoded on sending and decoded on arrival, as in reality; without, the objects themselves are
    handed over, for runs with thousands of nodes.  sent, sent_bytes: wire messages and their bytes by sending host
    (bytes only when encoded).
    """

    def __init__(self, clock: VirtualClock, rng: random.Random, *, as_bytes: bool = True, trace: bool = True) -> None:
        self.clock = clock
        self.rng = rng
        self.weather = Weather()
        self.processes = Processes()
        self.as_bytes = as_bytes
        self.messages = 0
        self.bytes = 0
        self.published = 0
        self.lost_publications = 0
        self._trace = hashlib.blake2b(digest_size=16) if trace and as_bytes else None
        self._bound: dict[str, SimHub] = {}
        self._connections: dict[int, Connection] = {}
        self._next_number = 0
        self._sides: dict[str, int] = {}
        self._blocked: dict[tuple[str, str], None] = {}
        self._slow: dict[str, float] = {}

    # --- faults -------------------------------------------------------------------------------------------------------

    def partition(self, *groups: Iterable[str]) -> None:
        """Hosts of different groups cannot reach each other; those in no group are together in one of their own."""
        self._sides = {host: number for number, group in enumerate(groups, 1) for host in group}

    def block(self, source: str, target: str) -> None:
        """Nothing gets from host *source* to host *target*; the other way it does."""
        self._blocked[source, target] = None

    def slow_down(self, host: str, factor: float) -> None:
        """Everything to and from *host* takes *factor* times as long."""
        self._slow[host] = factor

    def heal(self) -> None:
        """All ways are open again, and as fast as before."""
        self._sides = {}
        self._blocked = {}
        self._slow = {}
        for connection in list(self._connections.values()):
            self._resume(connection)

    def reset_connections(self, one: str, other: str) -> int:
        """Break the connections between two hosts; what is under way is lost, and both ends are told.  How many."""
        broken = 0
        for connection in list(self._connections.values()):
            router = connection.router
            if router is not None and {connection.dialler.host, router.host} == {one, other}:
                self._break(connection)
                broken += 1
        return broken

    def reaches(self, source: str, target: str) -> bool:
        """Whether a message gets from one host to the other now."""
        if source == target:
            return True
        sides = self._sides
        if sides and sides.get(source, 0) != sides.get(target, 0):
            return False
        return (source, target) not in self._blocked

    def _reach_each_other(self, one: str, other: str) -> bool:
        return self.reaches(one, other) and self.reaches(other, one)

    # --- connecting ---------------------------------------------------------------------------------------------------

    def bind(self, address: str, hub: SimHub) -> None:
        """*hub* listens on *address* from now on."""
        self._bound[address] = hub

    def unbind(self, address: str, hub: SimHub) -> None:
        if self._bound.get(address) is hub:
            del self._bound[address]

    def dial(self, hub: SimHub, address: str, peer: Peer) -> Connection:
        """Begin to connect *hub* with whoever listens on *address*."""
        self._next_number += 1
        connection = self._connections[self._next_number] = Connection(self._next_number, peer, hub, address)
        self.clock.after(2 * self._delay(hub.host, hub.host), self._try, connection, 0)
        return connection

    def _try(self, connection: Connection, attempt: int) -> None:
        hub = connection.dialler
        if not connection.open:
            return
        router = self._bound.get(connection.address)
        there = router is not None and router.listening
        if router is None or not (there and self._reach_each_other(hub.host, router.host)):
            pause = min(_LAST_RETRY_S, _FIRST_RETRY_S * 2.0**attempt) * (0.75 + 0.5 * self.rng.random())
            self.clock.after(pause, self._try, connection, attempt + 1)
            return
        connection.router = router
        connection.router_open = connection.established = True
        router.inbound[connection.peer] = connection
        self.clock.after(self._delay(router.host, hub.host), self._connected, connection)

    def _connected(self, connection: Connection) -> None:
        if connection.open and connection.established:
            waiting, connection.waiting = connection.waiting, []
            for data in waiting:
                self._send(connection, True, data)
            connection.dialler.deliver(connection.dialler.on_connected, connection.peer)

    def subscribe(self, connection: Connection) -> None:
        """The subscription takes a while to get there; what is published before is missed."""
        router = connection.router
        if router is not None:
            self.clock.after(2 * self._delay(connection.dialler.host, router.host), self._subscribed, connection)

    def _subscribed(self, connection: Connection) -> None:
        if connection.open and connection.router is not None and connection.established:
            connection.subscribed = True
            connection.router.subscribers[connection.number] = connection

    # --- sending ------------------------------------------------------------------------------------------------------

    def send_up(self, connection: Connection, parcels: Sequence[Parcel]) -> None:
        """From the end that dialled."""
        data = self._pack(parcels)
        if connection.established:
            self._send(connection, True, data)
        elif connection.open:
            connection.waiting.append(data)

    def send_down(self, connection: Connection, parcels: Sequence[Parcel]) -> None:
        """From the router's end."""
        self._send(connection, False, self._pack(parcels))

    def publish(self, hub: SimHub, parcels: Sequence[Parcel]) -> None:
        """To all who subscribe to *hub*, as far as they are lucky."""
        data = self._pack(parcels)
        weather, rng = self.weather, self.rng
        source = hub.host
        for connection in list(hub.subscribers.values()):
            target = connection.dialler.host
            self.published += 1
            lost = weather.publish_loss and rng.random() < weather.publish_loss
            if lost or not self.reaches(source, target):
                self.lost_publications += 1
                continue
            times = 2 if weather.publish_double and rng.random() < weather.publish_double else 1
            for _ in range(times):
                late = weather.publish_spread_s * rng.random() if weather.publish_spread_s else 0.0
                self.clock.after(self._delay(source, target) + late, self._publication, connection, data)

    def _publication(self, connection: Connection, data: Any) -> None:
        hub = connection.dialler
        if connection.open and connection.subscribed and hub.alive:
            self._count(connection, 2, data)
            hub.deliver(hub.on_publication, connection.peer, data)

    def _pack(self, parcels: Sequence[Parcel]) -> Any:
        if self.as_bytes:
            return encode(parcels)
        # What one node changes in its own description must not change in what others hold of it.
        return [(_own_copy(parcel[0]), parcel[1], parcel[2]) for parcel in parcels]

    def unpack(self, data: Any) -> list[Parcel]:
        """What arrived, as messages."""
        if self.as_bytes:
            return decode(data)
        parcels: list[Parcel] = data
        return parcels

    def _send(self, connection: Connection, upward: bool, data: Any) -> None:
        router = connection.router
        if router is None or (connection.broken and data is not _FIN):
            return
        dialler = connection.dialler
        source, target = (dialler.host, router.host) if upward else (router.host, dialler.host)
        pipe = connection.up if upward else connection.down
        if pipe.held or not self.reaches(source, target):
            pipe.held.append(data)
            return
        arrival = max(pipe.last, self.clock.now + self._delay(source, target))
        pipe.last = arrival
        self.clock.at(arrival, self._arrive, connection, upward, data, connection.cuts)

    def _arrive(self, connection: Connection, upward: bool, data: Any, cuts: int) -> None:
        router = connection.router
        if cuts != connection.cuts or router is None:
            return
        dialler = connection.dialler
        source, target = (dialler, router) if upward else (router, dialler)
        if not self.reaches(source.host, target.host):
            (connection.up if upward else connection.down).held.append(data)
            return
        if not target.alive:
            if not target.silent and data is not _FIN:  # its kernel answers for it
                self._tell_gone(connection, to_router=not upward)
            return
        if data is _FIN:
            self._fin(connection, upward)
        elif upward:
            if connection.router_open:
                self._count(connection, 0, data)
                router.deliver(router.on_frames, connection.peer, data)
        elif connection.open:
            self._count(connection, 1, data)
            dialler.deliver(dialler.on_frames, connection.peer, data)

    def _fin(self, connection: Connection, upward: bool) -> None:
        """The other end is closed, and this one learns of it."""
        router = connection.router
        assert router is not None
        if upward:
            connection.router_open = False
            router.inbound.pop(connection.peer, None)
            router.subscribers.pop(connection.number, None)
            if not (connection.open and connection.established):  # else the news for the other end is still on its way
                self._connections.pop(connection.number, None)
        elif connection.open:
            connection.established = False
            connection.dialler.deliver(connection.dialler.on_disconnected, connection.peer)

    def _tell_gone(self, connection: Connection, *, to_router: bool) -> None:
        assert connection.router is not None
        delay = self._delay(connection.dialler.host, connection.router.host)
        self.clock.after(delay, self._arrive, connection, to_router, _FIN, connection.cuts)

    # --- the end of connections ---------------------------------------------------------------------------------------

    def close(self, connection: Connection) -> None:
        """The end that dialled closes it; what it has sent still arrives, and the end behind that."""
        if not connection.open:
            return
        connection.open = False
        connection.waiting = []
        if connection.established:
            self._send(connection, True, _FIN)
        else:
            self._connections.pop(connection.number, None)
            if connection.router is not None:
                connection.router.inbound.pop(connection.peer, None)
                connection.router.subscribers.pop(connection.number, None)

    def router_gone(self, hub: SimHub, *, silent: bool, lossy: bool) -> None:
        """A router's process has ended: its kernel closes the connections, unless the host is gone with it."""
        for connection in list(hub.inbound.values()):
            if lossy:
                connection.cuts += 1
            connection.router_open = False
            if not silent:
                self._send(connection, False, _FIN)
        hub.inbound.clear()
        hub.subscribers.clear()

    def dialler_gone(self, connection: Connection, *, silent: bool, lossy: bool) -> None:
        """A dialling process has ended."""
        if lossy:
            connection.cuts += 1
        if silent:
            connection.open = False
        else:
            self.close(connection)

    def _break(self, connection: Connection) -> None:
        connection.cuts += 1
        connection.broken = True
        connection.up.held.clear()
        connection.down.held.clear()
        if connection.established:
            self._tell_gone(connection, to_router=False)
            self._tell_gone(connection, to_router=True)

    def _resume(self, connection: Connection) -> None:
        router = connection.router
        if router is None:
            return
        for upward, pipe in ((True, connection.up), (False, connection.down)):
            if pipe.held:
                self.clock.after(_RESUME_S * self.rng.random(), self._release, connection, upward)

    def _release(self, connection: Connection, upward: bool) -> None:
        pipe = connection.up if upward else connection.down
        router = connection.router
        assert router is not None
        dialler = connection.dialler
        source, target = (dialler.host, router.host) if upward else (router.host, dialler.host)
        if not self.reaches(source, target):
            return
        held, pipe.held = pipe.held, deque()
        for data in held:
            self._send(connection, upward, data)

    # --- the rest -----------------------------------------------------------------------------------------------------

    def _delay(self, one: str, other: str) -> float:
        weather, rng = self.weather, self.rng
        delay = weather.delay_s * (0.5 + rng.random())
        if weather.spike and rng.random() < weather.spike:
            delay += weather.spike_s * rng.random()
        if self._slow:
            delay = min(_SLOWEST_S, delay * max(self._slow.get(one, 1.0), self._slow.get(other, 1.0)))
        return delay

    def _count(self, connection: Connection, way: int, data: Any) -> None:
        self.messages += 1
        if self.as_bytes:
            size = 0
            for frame in data:
                size += len(frame)
            self.bytes += size
            if self._trace is not None:
                self._trace.update(_STAMP.pack(self.clock.now, connection.number, way))
                for frame in data:
                    self._trace.update(frame)

    def fingerprint(self) -> str:
        """A hash over every byte that has arrived so far, where and when."""
        return "" if self._trace is None else self._trace.hexdigest()


def _own_copy(message: Any) -> Any:
    if type(message) is Hello:
        return msgspec.structs.replace(message, info=msgspec.structs.replace(message.info))
    return message
