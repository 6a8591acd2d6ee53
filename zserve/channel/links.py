"""The life of links, without a socket: HELLO, RESET, GOODBYE, heartbeats, suspicion.

Theory of operation.  A link is one ZeroMQ connection between a socket that dials (DEALER) and one that binds (ROUTER).
Its name, on both sides, is the routing id of the dialling socket: node id (16 bytes), boot nonce (8), socket number
(4); so a name is never used twice, and what was sent on a link that ended can not be taken for part of a new one.

    dialled:  WAITING --HELLO received--> OPEN --GOODBYE, silence, RESET, disconnect--> gone (the shell dials anew)
    bound:            --HELLO received--> OPEN --GOODBYE, silence, unreachable-------> gone

Nothing but HELLO is accepted on a link that is not open; a bound socket answers RESET to a peer that it does not know,
and the peer comes back with a new socket (as in Majordomo, ZeroMQ RFC 18).  Any message counts as a heartbeat.  A node
that finds its own clock late (a stalled loop, SIGSTOP) forgives its peers the time it missed before it judges them
(Lifeguard, arXiv 1707.00788).
"""

from __future__ import annotations

from collections.abc import Sequence

from ..cores.node import NodeCore
from ..wire.messages import MIN_VERSION, VERSION, Goodbye, Hello, NodeInfo, Reset
from .outbox import Parcel, Peer

__all__ = ["DEAD_AFTER_S", "HELLO_TIMEOUT_S", "PING_EVERY_S", "ROUTING_ID_SIZE", "Links"]

PING_EVERY_S = 1.0
DEAD_AFTER_S = 5.0
"""Silence after which a link is given up.  ZeroMQ itself tells nothing when a peer hangs."""
HELLO_TIMEOUT_S = 5.0
"""How long a connected peer may take to say HELLO back before the socket is replaced."""
ROUTING_ID_SIZE = 28
_RESET_MEMORY = 4096
_HANDSHAKE = frozenset((Hello, Goodbye, Reset))


class _Link:
    __slots__ = ("dialled", "heard_at", "hello", "opened_at")

    def __init__(self, dialled: bool, now: float) -> None:
        self.dialled = dialled
        self.hello: Hello | None = None
        self.heard_at = now
        self.opened_at = now


class Links:
    """All links of one node, between its sockets (or the simulator) and its core.

    The shell calls :meth:`dialled`, :meth:`received`, :meth:`lost` and :meth:`tick`, and after each of them takes the
    core's outbox and :attr:`dropped`: links that ended here, (peer, reason, dial again?).
    """

    def __init__(self, core: NodeCore, info: NodeInfo, *, backend: str = "", code: str = "") -> None:
        self.core = core
        self.info = info
        self.hello = Hello(VERSION, MIN_VERSION, info, backend, code)
        self.dropped: list[tuple[Peer, str, bool]] = []
        self.rejected = 0
        self.resets = 0
        self._links: dict[Peer, _Link] = {}
        self._reset_at: dict[Peer, float] = {}
        self._ping_at = 0.0
        self._ticked_at: float | None = None

    # --- what the shell tells ---------------------------------------------------------------------------------------

    def dialled(self, peer: Peer, now: float) -> None:
        """A socket named *peer* was opened towards a router: say HELLO as soon as it is connected."""
        self._links[peer] = _Link(True, now)
        self.core.out.send(peer, self.hello)

    def received(self, peer: Peer, parcels: Sequence[Parcel], now: float) -> None:
        """One decoded wire message from *peer*."""
        if not parcels:
            return
        link = self._links.get(peer)
        if link is not None and link.hello is not None:
            link.heard_at = now
            # The three come first or last in a message.
            if type(parcels[0][0]) not in _HANDSHAKE and type(parcels[-1][0]) not in _HANDSHAKE:
                self.core.receive(peer, parcels, now)
                return
        self._handshake(peer, link, parcels, now)

    def published(self, peer: Peer, parcels: Sequence[Parcel], now: float) -> None:
        """One decoded publication of the router at the other end of *peer*."""
        link = self._links.get(peer)
        if link is not None and link.hello is not None:
            self.core.receive(peer, parcels, now)

    def lost(self, peer: Peer, reason: str, now: float) -> None:
        """The shell knows that *peer* is gone (disconnected, unreachable, hopelessly full)."""
        if peer in self._links:
            self._drop(peer, reason, now, again=True)

    def tick(self, now: float) -> None:
        """Heartbeats out, the silent judged."""
        late = 0.0 if self._ticked_at is None else now - self._ticked_at - PING_EVERY_S
        self._ticked_at = now
        if late > PING_EVERY_S:
            for link in self._links.values():
                link.heard_at += late
                link.opened_at += late
        self._ping_at = now + PING_EVERY_S
        for peer, link in list(self._links.items()):
            if link.hello is None:
                continue
            silent = now - link.heard_at
            if silent > DEAD_AFTER_S:
                self._drop(peer, f"silent for {silent:.1f} s", now, again=True)
            else:
                self.core.out.send(peer, self.core.ping(peer, now))

    def forget(self, peer: Peer) -> None:
        """The shell has given up a dialled link that never opened."""
        self._links.pop(peer, None)

    def connected(self, peer: Peer, now: float) -> None:
        """The dialled socket has a connection; from here on the peer has to answer HELLO in time."""
        link = self._links.get(peer)
        if link is not None:
            link.opened_at = now

    def unanswered(self, peer: Peer, now: float) -> bool:
        """True when a connected peer has not answered HELLO in time."""
        link = self._links.get(peer)
        return link is not None and link.hello is None and now - link.opened_at > HELLO_TIMEOUT_S

    def next_wakeup(self) -> float:
        return self._ping_at

    def goodbye(self, reason: str, now: float) -> None:
        """End all links cleanly: GOODBYE goes out behind whatever is queued."""
        for peer in list(self._links):
            self.core.out.send(peer, Goodbye(reason))
            self._drop(peer, reason, now, again=False)

    def open_links(self) -> list[tuple[Peer, Hello]]:
        return [(peer, link.hello) for peer, link in self._links.items() if link.hello is not None]

    def hello_of(self, peer: Peer) -> Hello | None:
        link = self._links.get(peer)
        return None if link is None else link.hello

    # --- the rest ---------------------------------------------------------------------------------------------------

    def _handshake(self, peer: Peer, link: _Link | None, parcels: Sequence[Parcel], now: float) -> None:
        """The rare wire messages: those with HELLO, GOODBYE or RESET in them, or from an unknown peer."""
        rest: list[Parcel] = []
        for parcel in parcels:
            message = parcel[0]
            kind = type(message)
            if kind is Hello:
                link = self._hello(peer, link, message, now)
            elif link is None:
                self._reset(peer, now)
                return
            elif kind is Reset:
                self._drop(peer, f"reset by peer: {message.reason}", now, again=link.dialled)
                return
            elif link.hello is None:
                self.rejected += 1
            elif kind is Goodbye:
                if rest:
                    self.core.receive(peer, rest, now)
                self._drop(peer, f"goodbye: {message.reason}", now, again=link.dialled)
                return
            else:
                rest.append(parcel)
        if rest and link is not None and link.hello is not None:
            link.heard_at = now
            self.core.receive(peer, rest, now)

    def _hello(self, peer: Peer, link: _Link | None, hello: Hello, now: float) -> _Link | None:
        if link is not None and link.hello is not None:
            return link  # said twice: harmless
        refusal = self._refuse_hello(peer, link, hello)
        if refusal is not None:
            self.rejected += 1
            if link is None:
                self._reset(peer, now, refusal)
            else:
                self._drop(peer, refusal, now, again=hello.info.node != self.info.node)
            return None
        if link is None:
            link = self._links[peer] = _Link(False, now)
            self.core.out.send(peer, self.hello)
        link.hello = hello
        link.heard_at = now
        self.core.link_up(peer, hello, now)
        return link

    def _refuse_hello(self, peer: Peer, link: _Link | None, hello: Hello) -> str | None:
        info = hello.info
        if hello.version < MIN_VERSION or hello.min_version > VERSION:
            return f"protocol {hello.min_version}..{hello.version} not spoken here ({MIN_VERSION}..{VERSION})"
        if len(info.node) != 16 or len(info.boot) != 8:
            return "malformed node id"
        if info.node == self.info.node:
            return "own node id"
        if link is None and (len(peer) != ROUTING_ID_SIZE or peer[:24] != info.node + info.boot):
            return "routing id is not that of the node"
        if link is not None and info.role != "router":
            return "not a router"
        return None

    def _reset(self, peer: Peer, now: float, reason: str = "say hello first") -> None:
        """Tell an unknown peer to start anew; at most once a second each, so that two confused nodes do not storm."""
        self.rejected += 1
        if now - self._reset_at.get(peer, -10.0) < 1.0:
            return
        if len(self._reset_at) >= _RESET_MEMORY:
            self._reset_at.clear()
        self._reset_at[peer] = now
        self.resets += 1
        self.core.out.send(peer, Reset(reason))

    def _drop(self, peer: Peer, reason: str, now: float, *, again: bool) -> None:
        link = self._links.pop(peer)
        self.dropped.append((peer, reason, again and link.dialled))
        if link.hello is not None:
            self.core.link_down(peer, reason, now)
