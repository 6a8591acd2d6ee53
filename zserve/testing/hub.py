"""The shell of a node on the virtual network: what :class:`zserve.channel.hub.Hub` is over ZeroMQ.

The same links and the same core run in it; only bytes, time and chance come from elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from ..channel.links import Links
from ..channel.outbox import Parcel, Peer
from ..channel.shell import HubCore, Shell
from ..wire.codec import WireError
from ..wire.messages import NodeInfo
from .network import Connection, Network
from .processes import PID_SPACE

__all__ = ["SimHub", "SpinningCore"]

_SPIN_LIMIT = 1000
_SPIN_S = 0.0001


class SpinningCore(AssertionError):
    """A core asks again and again to be woken at once, and has nothing to do then."""


class SimHub(Shell):
    """Runs *core* as one process on *host*.

    bind: the address that a router listens on, or a gateway for answers.  join, follow, backend, code, on_turn, also:
    as for the real hub.
    clock_offset_s: this process's monotonic clock minus the virtual one; no two machines agree about it.

    alive: the process runs.  silent: it has ended together with its host, so that nothing tells of it.  paused: it is
    stopped, or, if it is hung too, its event loop stalls.
    """

    def __init__(
        self,
        network: Network,
        core: HubCore,
        info: NodeInfo,
        host: str,
        *,
        bind: str = "",
        join: Sequence[str] = (),
        follow: bool = True,
        backend: str = "",
        code: str = "",
        on_turn: Callable[[], None] | None = None,
        clock_offset_s: float = 0.0,
        also: Callable[[], Sequence[str]] | None = None,
    ) -> None:
        info.pid, info.pid_space = network.processes.started(self), PID_SPACE
        links = Links(core, info, backend=backend, code=code, look=network.processes.state_of)
        super().__init__(core, info, links, join, follow, on_turn, also)
        self.host = host
        self.alive = False
        self.silent = False
        self.paused = False
        self.hung = False
        self.undecodable = 0
        self.inbound: dict[Peer, Connection] = {}
        self.subscribers: dict[int, Connection] = {}
        self._network = network
        self._clock = network.clock
        self._offset_s = clock_offset_s
        self._bind = bind
        self._dials: dict[Peer, Connection] = {}
        self._socket_number = network.rng.getrandbits(31)
        self._turn_due = False
        self._armed_at = math.inf
        self._last_now = -math.inf
        self._backlog: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._spins = 0
        self._spun_at = 0.0
        core.out.on_wake(self.poke)

    # --- start and stop -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        self.alive = True
        if self._bind:
            self.info.address = self._bind
            if self.info.role == "router":
                self.info.publish = self._bind + "/published"
            self._network.bind(self._bind, self)
        for address in self._join:
            self._dial(address)
        self._turn()

    def stop(self, reason: str) -> None:
        """Say GOODBYE to everyone and end."""
        if not self.alive:
            return
        self.links.goodbye(reason, self.now())
        self._turn()
        self._end(silent=False, lossy=False)

    def kill(self, *, silent: bool = False, lossy: bool = False) -> None:
        """The process is gone at once.  silent: its host too.  lossy: what it has sent and not arrived yet is lost."""
        if self.alive:
            self._end(silent=silent, lossy=lossy)

    def _end(self, *, silent: bool, lossy: bool) -> None:
        self.alive = False
        self.silent = silent
        self._network.processes.ended(self.info.pid)
        self.core.out.on_wake(_nothing)
        if self._bind:
            self._network.unbind(self._bind, self)
        for connection in self._dials.values():
            self._network.dialler_gone(connection, silent=silent, lossy=lossy)
        self._dials = {}
        self._network.router_gone(self, silent=silent, lossy=lossy)
        self._backlog = []

    def pause(self, *, hung: bool = False) -> None:
        """As SIGSTOP does; *hung*: as user code does that never lets go of the event loop."""
        self.paused = True
        self.hung = hung

    def resume(self) -> None:
        """As SIGCONT does: what has come meanwhile is all there at once."""
        if not self.paused:
            return
        self.paused = False
        backlog, self._backlog = self._backlog, []
        for callback, arguments in backlog:
            if self.alive:
                callback(*arguments)

    @property
    def listening(self) -> bool:
        """Whether a connection can be made with it."""
        return self.alive and not self.paused

    # --- what the role's shell calls ----------------------------------------------------------------------------------

    def now(self) -> float:
        """This process's monotonic clock, seconds."""
        now = self._clock.now + self._offset_s
        if now > self._last_now:
            self._last_now = now
        return self._last_now

    def at(self, when: float) -> float:
        """The virtual time when this process's clock shows *when*."""
        return when - self._offset_s

    def deliver(self, callback: Callable[..., None], *arguments: Any) -> None:
        """Something happens to this process: now, or once it is not stopped any more."""
        if self.paused:
            self._backlog.append((callback, arguments))
        elif self.alive:
            callback(*arguments)

    def poke(self) -> None:
        """The core was told something from outside the hub: send its outbox and set its timer, this turn."""
        if not self._turn_due and self.alive:
            self._turn_due = True
            self._clock.at(self._clock.now, self.deliver, self._turn)

    # --- one turn -----------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        self._turn_due = True  # what is done in here wakes nobody
        if not self.alive:
            return
        self._take_effects()
        if self.alive:
            self._turn_due = False
            self._set_timer()

    def _ended(self) -> bool:
        return not self.alive

    def _send(self, peer: Peer, parcels: list[Parcel]) -> None:
        connection = self._dials.get(peer)
        if connection is not None:
            self._network.send_up(connection, parcels)
            return
        connection = self.inbound.get(peer)
        if connection is not None:
            self._network.send_down(connection, parcels)
        elif self._bind:
            self.links.lost(peer, "unreachable", self.now())

    def _publish(self, parcels: list[Parcel]) -> None:
        if self._bind:
            self._network.publish(self, parcels)

    # --- time ---------------------------------------------------------------------------------------------------------

    def _wanted_at(self) -> float:
        at = self.links.next_wakeup()
        wanted = self.core.next_wakeup()
        return wanted if wanted is not None and wanted < at else at

    def _set_timer(self) -> None:
        at = self._wanted_at() - self._offset_s
        if at <= self._clock.now:
            self._spins = self._spins + 1 if self._clock.now - self._spun_at < 10 * _SPIN_S else 0
            self._spun_at = self._clock.now
            if self._spins > _SPIN_LIMIT:
                name = f"{self.info.role} {self.info.name}"
                raise SpinningCore(f"{name}: next_wakeup() is {at:.6f}, and it is {self._clock.now:.6f}")
            at = self._clock.now + _SPIN_S
        if at < self._armed_at:
            self._armed_at = at
            self._clock.at(at, self.deliver, self._fire, at)

    def _fire(self, armed_at: float) -> None:
        if armed_at != self._armed_at:
            return  # an earlier one was set since
        self._armed_at = math.inf
        wanted = self._wanted_at()
        now = self.now()
        if wanted > now:
            if wanted > now + 1e-9:
                self._set_timer()
                return
            now = self._last_now = wanted  # a rounding error of the two clocks
        self._turn_due = True
        self.core.tick(now)
        if now >= self.links.next_wakeup():
            self.links.tick(now)
            self.links.remarks.clear()
            self._tend_dials(now)
        self._turn()

    # --- incoming -----------------------------------------------------------------------------------------------------

    def on_frames(self, peer: Peer, data: Any) -> None:
        try:
            parcels = self._network.unpack(data)
        except WireError:
            self.undecodable += 1
            return
        self._turn_due = True
        self.links.received(peer, parcels, self.now())
        connection = self._dials.get(peer)
        if connection is not None and not connection.subscribed:
            hello = self.links.hello_of(peer)
            if hello is not None and hello.info.publish and not connection.wants:
                connection.wants = True
                self._network.subscribe(connection)
        self._turn()

    def on_publication(self, peer: Peer, data: Any) -> None:
        try:
            parcels = self._network.unpack(data)
        except WireError:
            self.undecodable += 1
            return
        self._turn_due = True
        self.links.published(peer, parcels, self.now())
        self._turn()

    def on_connected(self, peer: Peer) -> None:
        self.links.connected(peer, self.now())

    def on_disconnected(self, peer: Peer) -> None:
        self._turn_due = True
        self.links.lost(peer, "connection lost", self.now())
        self._turn()

    # --- dialling -----------------------------------------------------------------------------------------------------

    def _dial(self, address: str) -> None:
        self._socket_number += 1
        peer = self.info.node + self.info.boot + (self._socket_number & 0xFFFFFFFF).to_bytes(4, "big")
        self._dials[peer] = self._network.dial(self, address, peer)
        self._dialled[address] = peer
        self.links.dialled(peer, self.now())

    def _close_dial(self, peer: Peer, reason: str, again: bool) -> None:
        connection = self._dials.pop(peer, None)
        if connection is None:
            return
        self._network.close(connection)
        address = connection.address
        if self._dial_has_ended(address, reason, again):
            self._clock.after(0.02 + 0.28 * self._network.rng.random(), self.deliver, self._redial, address)

    def _forget_dial(self, peer: Peer) -> None:
        self._network.close(self._dials.pop(peer))


def _nothing() -> None:
    pass
