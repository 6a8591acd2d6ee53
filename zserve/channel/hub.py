"""The ZeroMQ shell of a node: all its sockets, one event loop, one core.

The hub moves bytes and tells the time.  What arrives is decoded and given to the links and the core; what they leave in
the outbox goes out at the end of the event-loop turn, one wire message a peer.  It decides nothing.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import zmq
from zmq.utils.monitor import parse_monitor_message

from ..errors import ServeError
from ..security.identity import Security
from ..wire.codec import WireError, decode, encode
from ..wire.messages import NodeInfo
from .attempts import Attempts
from .channel import Channel, Unreachable
from .dial import Dial
from .gate import Gate
from .links import WATCH_EVERY_S, Links
from .loop import Loop
from .processes import pid_space, process_state
from .shell import HubCore, Shell
from .sockets import KeyedSocket, bind_publisher, bind_router, prepare_large_frames, widen

__all__ = ["Hub"]

log = logging.getLogger("zserve.hub")

_GOODBYE_LINGER_MS = 500
_FEW = 4
"""So many messages in one reading of a socket do not show that there is a crowd."""
_CALM, _LITTLE = 32, 2
"""After so many readings in succession that brought so few messages each, what they lead to does not wait for more."""
_ROUNDS = 4
"""Rounds of the event loop that a turn may wait for more to send.  Echo at 64 connections: 0.87 of the processor time
of a turn in every round, 1.12 times the answers."""


class Hub(Shell):
    """Runs *core* over ZeroMQ.

    bind, publish: where a router listens, and a gateway for answers (None for other roles).  advertise: the address
    that others are told, if another one.  forwards: what *core* gets in large frames it only passes on, see
    :class:`.channel.Channel`.  The rest is as for :class:`.shell.Shell`.
    """

    __slots__ = (
        "_accepted",
        "_advertise",
        "_attempts",
        "_beside",
        "_bind_to",
        "_bound",
        "_context",
        "_dials",
        "_forwards",
        "_gate",
        "_inside",
        "_loop",
        "_missed",
        "_on_their_way",
        "_parcels",
        "_publish_to",
        "_publisher",
        "_quiet",
        "_rounds",
        "_router",
        "_socket_numbers",
        "_stopped",
        "_timer",
        "_timer_at",
        "_turn_due",
        "_waiting",
        "_watch_timer",
        "address",
        "undecodable",
    )

    def __init__(
        self,
        core: HubCore,
        info: NodeInfo,
        *,
        bind: str | None = None,
        publish: str | None = None,
        advertise: str = "",
        join: Sequence[str] = (),
        follow: bool = True,
        backend: str = "",
        code: str = "",
        on_turn: Callable[[], None] | None = None,
        security: Security | None = None,
        forwards: bool = False,
        loop: Loop | None = None,
        also: Callable[[], Sequence[str]] | None = None,
    ) -> None:
        info.pid_space = pid_space()
        links = Links(core, info, backend=backend, code=code, look=process_state)
        super().__init__(core, info, links, join, follow, on_turn, also)
        self.address = ""
        self.undecodable = 0
        self._bind_to = bind
        self._publish_to = publish
        self._advertise = advertise
        self._forwards = forwards
        self._loop: Loop = asyncio.get_running_loop() if loop is None else loop
        self._context: zmq.Context[Any] = zmq.Context()
        self._router: Channel | None = None
        self._bound: zmq.Socket[bytes] | None = None
        self._accepted: Channel | None = None  # the news of it
        self._publisher: Channel | None = None
        self._dials: dict[bytes, Dial] = {}
        self._beside: dict[bytes, Hub] = {}
        self._socket_numbers = itertools.count(random.getrandbits(31))
        self._turn_due = False
        self._waiting = 0  # messages to send, at the last look
        self._rounds = 0  # of the event loop that they have waited for more
        self._inside = False  # the core is being told something, or its effects are being taken: a turn comes anyway
        self._parcels = 0  # of the messages that are being read
        self._on_their_way = 0  # messages from hubs beside that the event loop has not delivered yet
        self._quiet = 0  # readings in succession that brought little
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._watch_timer: asyncio.TimerHandle | None = None
        self._stopped = False
        self._missed = 0
        self._gate: Gate | None = None
        if security is not None:
            self._gate = Gate(security, self.links, self._loop, self._reject, self.poke)
        self._attempts = Attempts(random.Random())
        core.out.on_wake(self._on_wake)
        core.out.on_flush(self._send_chunk)

    # --- start and stop ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Bind, dial, and begin to tick.  Raises PortInUse or ServeError."""
        self._context.set(zmq.MAX_SOCKETS, 4096)
        prepare_large_frames(self._context)
        gate = self._gate
        if self._bind_to is not None:
            pair = gate.pair_to_bind(self._context, self._bind_to) if gate is not None else None
            socket, self.address = bind_router(self._context, self._bind_to, pair)
            on_frames: Callable[[list[bytes]], None] = self._on_router_frames
            if gate is not None and isinstance(socket, KeyedSocket):
                on_frames = functools.partial(gate.on_router_frames, socket)
            self._router = Channel(
                self._loop, socket, on_frames, self._on_unreachable, on_read=self._on_read, forwards=self._forwards
            )
            self._bound = socket
            if self._bind_to.startswith("ipc://"):
                self._accepted = Channel(self._loop, socket.get_monitor_socket(zmq.EVENT_ACCEPTED), _on_accepted)
            self.info.address = self._advertise or self.address
        if self._publish_to is not None:
            pair = gate.pair_to_bind(self._context, self._publish_to) if gate is not None else None
            socket, address = bind_publisher(self._context, self._publish_to, pair)
            on_frames = _ignore
            if gate is not None and isinstance(socket, KeyedSocket):
                on_frames = functools.partial(gate.on_subscription, socket)
            self._publisher = Channel(self._loop, socket, on_frames)
            self.info.publish = _advertised(self.info.address, self.address, address)
        for address in self._join:
            self._dial(address)
        self.poke()
        self._watch()

    async def stop(self, reason: str) -> None:
        """Say GOODBYE to everyone, give it a moment to leave, close all sockets."""
        if self._stopped:
            return
        self.links.goodbye(reason, time.monotonic())
        self._turn()
        self._stopped = True
        for timer in (self._timer, self._watch_timer):
            if timer is not None:
                timer.cancel()
        if self._gate is not None:
            self._gate.close()
        for dial in self._dials.values():
            dial.close(_GOODBYE_LINGER_MS)
        if self._accepted is not None and self._bound is not None:
            self._bound.disable_monitor()
            self._accepted.close()
        for channel in (self._router, self._publisher):
            if channel is not None:
                channel.close(_GOODBYE_LINGER_MS)
        try:
            # In a thread, with a limit: term() has been seen to hang, and the process is about to end anyway.
            await asyncio.wait_for(self._loop.run_in_executor(None, self._context.term), 2.0)
        except TimeoutError:
            log.warning("ZeroMQ did not close in time")

    # --- what the role's shell calls --------------------------------------------------------------------------------

    def poke(self) -> None:
        """The core was told something from outside the hub: send its outbox and set its timer, this turn."""
        if not self._turn_due and not self._stopped:
            self._turn_due = True
            if not self._inside:
                self._loop.call_soon(self._turn_if_due)

    def poke_now(self) -> None:
        """The same, at once if there is no crowd; not from inside the core.  Raises nothing, as :meth:`poke` does."""
        if self._quiet >= _CALM and not self._inside:
            try:
                self._turn()
            except Exception:
                log.exception("internal error in a turn")
        elif not self._turn_due:
            self.poke()

    def link_beside(self, router: Hub) -> None:
        """Link with *router*, a hub on the same event loop, in memory: nothing is encoded, nothing goes through a
        socket.  To links and cores it is a link like any other."""
        peer = self._new_peer()
        self._beside[peer] = router
        router._beside[peer] = self
        self._dialled[router.info.address] = peer
        self.links.dialled(peer, time.monotonic())
        self.poke()

    @property
    def joins(self) -> list[str]:
        """The routers that are dialled in any case."""
        return list(self._join)

    @property
    def joins_itself(self) -> bool:
        """True once one of them has turned out to be this very node."""
        return any(self._dialled.get(address) == b"" for address in self._join)

    def rejoin(self, addresses: Sequence[str]) -> None:
        """From now on dial *addresses* in any case, in place of those before; links that there are stay."""
        now = time.monotonic()
        for address in self._join:
            if address not in addresses:
                self._named_at[address] = now
        self._join = list(addresses)
        if self._stopped:
            return
        for address in addresses:
            if address not in self._dialled and address != self.info.address:
                self._dial(address)
        self.poke()

    def statistics(self) -> dict[str, Any]:
        """Counters of the transport, for status and metrics."""
        channels = self._channels()
        keys = self._gate.statistics() if self._gate is not None else {}
        return {
            **keys,
            "links": len(self.links.open_links()),
            "undecodable": self.undecodable,
            "rejected": self.links.rejected,
            "resets": self.links.resets,
            "suspects": len(self.links.suspects),
            "ill_health": self.links.health.score,
            "missed_wakeups": sum(channel.missed_wakeups for channel in channels),
            "wire_messages_received": sum(channel.received for channel in channels),
            "wire_messages_sent": sum(channel.sent for channel in channels),
            "held": sum(channel.held for channel in channels),
        }

    # --- one turn ---------------------------------------------------------------------------------------------------

    def _turn_if_due(self) -> None:
        """A turn, unless more to send has come since the round of the event loop before: then more is likely to come in
        the next one, and leaves with it."""
        if not self._turn_due:
            return
        waiting = sum(map(len, self.core.out.pending.values()))
        if waiting > self._waiting and waiting > 1 and self._rounds < _ROUNDS:
            self._waiting = waiting
            self._rounds += 1
            self._loop.call_soon(self._turn_if_due)
        else:
            self._turn()

    def _on_wake(self) -> None:
        """The core has something to send."""
        if not self._inside:
            self.poke()

    def _on_read(self) -> None:
        """All that a socket had is with the core, so what it leads to can leave: at once where it was little, a round
        of the event loop later where it was much, because then more is about to come, and leaves with it."""
        self._inside = False
        many = self._parcels > _FEW
        # Nothing: not counted, as on links with keys.
        self._quiet = self._quiet + 1 if 0 < self._parcels <= _LITTLE else 0
        self._parcels = 0
        if self._turn_due:
            if many:
                self._loop.call_soon(self._turn_if_due)
            else:
                self._turn()

    def _turn(self) -> None:
        self._turn_due = False
        self._waiting = self._rounds = 0
        if self._stopped:
            return
        self._inside = True
        try:
            self._take_effects()
        finally:
            self._inside = False
            if self._turn_due:  # somebody has poked meanwhile
                self._loop.call_soon(self._turn_if_due)
        self._set_timer()

    def _ended(self) -> bool:
        return self._stopped

    def _send(self, peer: bytes, parcels: list[Any]) -> None:
        try:
            self._transmit(peer, parcels)
        except Unreachable as error:
            self.links.lost(peer, str(error), time.monotonic())

    def _send_chunk(self, peer: bytes, parcels: list[Any]) -> None:
        """In mid-turn, from inside the core: a link that turns out to be dead ends only after it has returned."""
        try:
            self._transmit(peer, parcels)
        except Unreachable as error:
            self.core.out.close(peer, str(error))

    def _publish(self, parcels: list[Any]) -> None:
        if self._publisher is None:
            return
        self._publisher.send(encode(parcels))
        for peer, hub in list(self._beside.items()):
            hub._from_beside(peer, parcels)

    def _transmit(self, peer: bytes, parcels: list[Any]) -> None:
        dial = self._dials.get(peer)
        if dial is not None:
            dial.channel.send(encode(parcels, in_one=self.links.takes_one_frame(peer)))
        elif peer in self._beside:
            self._beside[peer]._from_beside(peer, parcels)
        elif self._router is not None:
            self._router.send(encode(parcels, in_one=self.links.takes_one_frame(peer)), peer)

    def _on_unreachable(self, peer: bytes) -> None:
        self.links.lost(peer, "unreachable", time.monotonic())
        self.poke()

    # --- time -------------------------------------------------------------------------------------------------------

    def now(self) -> float:
        return time.monotonic()

    def _set_timer(self) -> None:
        at = self.links.next_wakeup()
        wanted = self.core.next_wakeup()
        if wanted is not None and wanted < at:
            at = wanted
        if self._timer is not None:
            if abs(at - self._timer_at) < 0.0002:
                return
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_later(max(0.0, at - time.monotonic()), self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = time.monotonic()
        self.core.tick(now)
        if now >= self.links.next_wakeup():
            self.links.tick(now)
            self._tend_dials(now)
            self._write_remarks()
        self._turn()

    def _write_remarks(self) -> None:
        if self.links.remarks:
            remarks, self.links.remarks = self.links.remarks, []
            for alarming, text in remarks:
                log.log(logging.WARNING if alarming else logging.INFO, "%s", text)

    def _watch(self) -> None:
        self.links.watch(time.monotonic())
        channels = self._channels()
        for channel in channels:
            channel.watch()
        missed = sum([channel.missed_wakeups for channel in channels])
        if missed > self._missed:
            log.warning("missed wake-up: a message came that no socket had announced (%d so far)", missed)
        self._missed = missed
        self._watch_timer = self._loop.call_later(WATCH_EVERY_S, self._watch)

    def _channels(self) -> list[Channel]:
        own = (self._router, self._accepted, self._publisher)
        channels = [channel for channel in own if channel is not None]
        for dial in self._dials.values():
            channels.extend(dial.channels())
        return channels

    # --- incoming ---------------------------------------------------------------------------------------------------

    def _on_router_frames(self, frames: list[bytes]) -> None:
        self._on_frames(frames[0], frames[1:])

    def _on_frames(self, peer: bytes, frames: list[bytes]) -> None:
        try:
            parcels = decode(frames)
        except WireError as error:
            self._reject(peer, error)
            return
        self._inside = True
        self._turn_due = True
        self._parcels += len(parcels)
        self.links.received(peer, parcels, time.monotonic())
        if self._quiet >= _CALM and self._parcels <= _LITTLE:
            self._turn()

    def _on_publication(self, peer: bytes, frames: list[bytes]) -> None:
        try:
            parcels = decode(frames)
        except WireError as error:
            self._reject(peer, error)
            return
        if self._gate is not None and self._dials[peer].server:
            parcels = self._gate.guard.published(peer, parcels)
        self.links.published(peer, parcels, time.monotonic())
        self.poke()

    def _reject(self, peer: bytes, error: WireError) -> None:
        self.undecodable += 1
        log.debug("undecodable message from %s: %s", peer.hex(), error)

    def _from_beside(self, peer: bytes, parcels: list[Any]) -> None:
        """Called by the other hub, from inside of its turn; what comes later must not come earlier."""
        if self._quiet >= _CALM and not self._inside and not self._on_their_way:
            try:
                self._on_memory(peer, parcels)
            except Exception:
                log.exception("internal error at what the hub beside has sent")
            return
        self._on_their_way += 1
        self._loop.call_soon(self._on_memory_soon, peer, parcels)

    def _on_memory_soon(self, peer: bytes, parcels: list[Any]) -> None:
        self._on_their_way -= 1
        self._on_memory(peer, parcels)

    def _on_memory(self, peer: bytes, parcels: list[Any]) -> None:
        if self._stopped:
            return
        self._quiet = self._quiet + 1 if len(parcels) <= _LITTLE else 0
        if self._quiet < _CALM or self._inside:
            self.links.received(peer, parcels, time.monotonic())
            if not self._turn_due:
                self.poke()
            return
        self._inside = True
        try:
            self.links.received(peer, parcels, time.monotonic())
        finally:
            self._inside = False
            self._turn()

    # --- dialling ---------------------------------------------------------------------------------------------------

    def _new_peer(self) -> bytes:
        return self.info.node + self.info.boot + (next(self._socket_numbers) & 0xFFFFFFFF).to_bytes(4, "big")

    def _dial(self, address: str) -> None:
        peer = self._new_peer()
        pair, server = None, b""
        if self._gate is not None:
            pair, server = self._gate.expect(peer, address)
        on_frames = functools.partial(self._on_dialled_frames, peer)
        if server:
            on_frames = functools.partial(self._on_keyed_frames, peer, server)
        try:
            dial = Dial(
                self._loop,
                self._context,
                address,
                peer,
                on_frames=on_frames,
                on_read=self._on_read,
                on_publication=functools.partial(self._on_publication, peer),
                on_connected=functools.partial(self._on_connected, peer),
                on_disconnected=functools.partial(self._on_disconnected, peer),
                on_refused=functools.partial(self._on_refused, peer),
                pair=pair,
                server=server,
            )
        except ServeError as error:
            if address in self._join:
                raise
            log.warning("%s", error)
            self._dialled[address] = b""
            return
        self._dials[peer] = dial
        self._dialled[address] = peer
        self.links.dialled(peer, time.monotonic())

    def _on_dialled_frames(self, peer: bytes, frames: list[bytes]) -> None:
        dial = self._dials.get(peer)
        if dial is None:
            return
        self._on_frames(peer, frames)
        if not dial.greeted:
            self._greeted(dial)

    def _on_keyed_frames(self, peer: bytes, server: bytes, frames: list[bytes]) -> None:
        dial = self._dials.get(peer)
        if dial is None:
            return
        assert self._gate is not None
        self._gate.on_frames_of_router(peer, server, frames)
        if not dial.greeted:
            self._greeted(dial)

    def _greeted(self, dial: Dial) -> None:
        hello = self.links.hello_of(dial.peer)
        if hello is None:
            return
        dial.greeted = True
        dial.role = hello.info.role
        self._attempts.succeeded(dial.address)
        if self._gate is not None and dial.server:
            self._gate.security.found(dial.address, dial.server)
        if hello.info.publish:
            dial.subscribe(_same_host(dial.address, hello.info.publish))

    def _on_refused(self, peer: bytes, why: str) -> None:
        """Something listens where *peer* dials, but one of the two wants nothing to do with the other."""
        self.links.lost(peer, why, time.monotonic())
        self.poke()

    def _on_connected(self, peer: bytes) -> None:
        self.links.connected(peer, time.monotonic())

    def _on_disconnected(self, peer: bytes) -> None:
        self.links.lost(peer, "connection lost", time.monotonic())
        self.poke()

    def _close_dial(self, peer: bytes, reason: str, again: bool) -> None:
        if self._beside.pop(peer, None) is not None:
            return
        if self._gate is not None:
            self._gate.ended(peer)
        dial = self._dials.pop(peer, None)
        if dial is None:
            return
        dial.close(_GOODBYE_LINGER_MS)
        log.debug("link with %s ended: %s", dial.address, reason)
        if self._dial_has_ended(dial.address, reason, again and not self._stopped):
            self._loop.call_later(self._pause_s(dial, reason), self._redial, dial.address)

    def _forget_dial(self, peer: bytes) -> None:
        self._dials.pop(peer).close()

    def _pause_s(self, dial: Dial, reason: str) -> float:
        """How long to wait before dialling again."""
        ways = 1
        if self._gate is not None and dial.server:
            ways = len(self._gate.security.known().routers)
        if not dial.greeted:
            if self._gate is not None and dial.server:
                self._gate.security.not_found(dial.address)
            if self._attempts.failed(dial.address, ways):
                level = logging.DEBUG if self._may_fail(dial.address) else logging.ERROR
                log.log(level, "no link with the router at %s: %s; still trying", dial.address, reason)
        return self._attempts.pause_s(dial.address, ways)


def _on_accepted(frames: list[bytes]) -> None:
    widen(parse_monitor_message(frames)["value"])


def _ignore(_frames: list[bytes]) -> None:
    """A PUB socket receives nothing."""


def _advertised(address: str, bound: str, publish: str) -> str:
    """The *publish* address as others are told, who are told *address* where this router is *bound*."""
    if address.startswith("ipc://") and publish.startswith(bound):
        return address + publish[len(bound) :]  # sockets that lie beside each other do so under other names, too
    return _same_host(address, publish)


def _same_host(address: str, publish: str) -> str:
    """The *publish* address as seen from where *address* was reached: the host of the one, the port of the other."""
    if not (address.startswith("tcp://") and publish.startswith("tcp://")):
        return publish
    return f"{address.rpartition(':')[0]}:{publish.rpartition(':')[2]}"
