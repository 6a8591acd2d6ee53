"""The life of links, without a socket: HELLO, RESET, GOODBYE, heartbeats, suspicion.

Theory of operation.  A link is one ZeroMQ connection between a socket that dials (DEALER) and one that binds (ROUTER):
a router's, or the one of a gateway for the answers of replicas.
Its name, on both sides, is the routing id of the dialling socket: node id (16 bytes), boot nonce (8), socket number
(4); so a name is never used twice, and what was sent on a link that ended can not be taken for part of a new one.

    dialled:  WAITING --HELLO received--> OPEN --GOODBYE, silence, RESET, disconnect--> gone (the shell dials anew)
    bound:            --HELLO received--> OPEN --GOODBYE, silence, unreachable-------> gone

Nothing but HELLO is accepted on a link that is not open; a bound socket answers RESET to a peer that it does not know,
and the peer comes back with a new socket (as in Majordomo, ZeroMQ RFC 18).

Any message counts as a heartbeat.  A link that is silent is suspected first (:mod:`.suspicion`): the core is told,
others are asked, and the first sound from it ends that.  Silent for longer, it is given up.  A node that finds its own
clock late (a stalled loop, SIGSTOP) forgives its peers the time it missed before it judges them, and is more patient
with them for a while (:mod:`.health`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..cores.node import NodeCore
from ..wire.messages import ASK_FOR_HELLO, MIN_VERSION, VERSION, Doubt, Goodbye, Hello, NodeInfo, Reset, Word
from .health import LocalHealth
from .outbox import Parcel, Peer
from .suspicion import ENDED, SUSPECT_AFTER_S, UNKNOWN, Suspicion, choose_witnesses, name_of, same_machine

__all__ = ["DEAD_AFTER_S", "HELLO_TIMEOUT_S", "PING_EVERY_S", "ROUTING_ID_SIZE", "WATCH_EVERY_S", "Links"]

PING_EVERY_S = 1.0
WATCH_EVERY_S = 0.1
"""How often :meth:`Links.watch` is called, where it is."""
DEAD_AFTER_S = 5.0
"""Silence after which a link is given up, if this node is well.  ZeroMQ itself tells nothing when a peer hangs."""
HELLO_TIMEOUT_S = 5.0
"""How long a connected peer may take to say HELLO back before the socket is replaced."""
ROUTING_ID_SIZE = 28
_RESET_MEMORY = 4096
_OWN = frozenset((Hello, Goodbye, Reset, Doubt, Word))
_INQUIRIES_AT_ONCE = 32
"""Nodes that others are asked about in one heartbeat; where more are silent, it is not about single nodes."""
_DOUBT_VERSION = 2
_ONE_FRAME_VERSION = 3


class _Link:
    """hello: what the other side said, once it is open.  trusted: open, and not under suspicion."""

    __slots__ = ("dialled", "heard_at", "hello", "opened_at", "suspicion", "trusted")

    def __init__(self, dialled: bool, now: float) -> None:
        self.dialled = dialled
        self.hello: Hello | None = None
        self.heard_at = now
        self.opened_at = now
        self.trusted = False
        self.suspicion: Suspicion | None = None


class Links:
    """All links of one node, between its sockets (or the simulator) and its core.

    The shell calls :meth:`dialled`, :meth:`received`, :meth:`lost` and :meth:`tick`, and after each of them takes the
    core's outbox and :attr:`dropped`: links that ended here, (peer, reason, dial again?).  :attr:`remarks` are for the
    log: (is it alarming?, text).

    look: tells of a process of this machine, by its id, whether it is stopped, runs or has ended (see
    :mod:`.suspicion`).
    """

    def __init__(
        self,
        core: NodeCore,
        info: NodeInfo,
        *,
        backend: str = "",
        code: str = "",
        look: Callable[[int], str] = lambda pid: UNKNOWN,
    ) -> None:
        self.core = core
        self.info = info
        self.hello = Hello(VERSION, MIN_VERSION, info, backend, code)
        self.health = LocalHealth()
        self.dropped: list[tuple[Peer, str, bool]] = []
        self.remarks: list[tuple[bool, str]] = []
        self.rejected = 0
        self.resets = 0
        self._links: dict[Peer, _Link] = {}
        self._reset_at: dict[Peer, float] = {}
        self._ping_at = 0.0
        self._look = look

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
        if link is not None and link.trusted:
            link.heard_at = now
            # Those for the links come first or last in a message.
            if type(parcels[0][0]) not in _OWN and type(parcels[-1][0]) not in _OWN:
                self.core.receive(peer, parcels, now)
                return
        self._rarely(peer, link, parcels, now)

    def trusts(self, peer: Peer) -> bool:
        """Whether what comes from *peer* goes to the core."""
        link = self._links.get(peer)
        return link is not None and link.trusted

    def takes_one_frame(self, peer: Peer) -> bool:
        """Whether *peer* understands wire messages in one frame."""
        link = self._links.get(peer)
        return link is not None and link.hello is not None and link.hello.version >= _ONE_FRAME_VERSION

    def published(self, peer: Peer, parcels: Sequence[Parcel], now: float) -> None:
        """One decoded publication of the router at the other end of *peer*."""
        link = self._links.get(peer)
        if link is not None and link.hello is not None:
            self.core.receive(peer, parcels, now)

    def lost(self, peer: Peer, reason: str, now: float) -> None:
        """The shell knows that *peer* is gone (disconnected, unreachable, hopelessly full)."""
        link = self._links.get(peer)
        if link is not None:
            if link.hello is not None and self._state_of(link.hello.info) == ENDED:
                reason += f": its process {link.hello.info.pid} has ended"
            # The core ends a link for good with a goodbye of its own.
            self._drop(peer, reason, now, again=not reason.startswith("goodbye"))

    def tick(self, now: float) -> None:
        """Heartbeats out, the silent judged."""
        self._forgive(self.health.beat(now, PING_EVERY_S))
        self._ping_at = now + PING_EVERY_S
        patience = self.health.patience
        suspects: list[tuple[Peer, _Link]] = []
        for peer, link in list(self._links.items()):
            if link.hello is None:
                continue
            silent_s = now - link.heard_at
            suspicion = link.suspicion
            if suspicion is not None and silent_s > DEAD_AFTER_S * patience * suspicion.patience:
                reason = f"silent for {silent_s:.1f} s: {suspicion.cause}"
                self._drop(peer, reason, now, again=True)
                self._remark(True, link.hello, f"is given up, {reason}")
                continue
            if suspicion is not None or silent_s > SUSPECT_AFTER_S * patience:
                suspects.append((peer, link))
            self.core.out.send(peer, self.core.ping(peer, now))
        if suspects:
            self._suspect(suspects, now)

    def watch(self, now: float) -> None:
        """Every WATCH_EVERY_S, by a shell whose event loop may stall: only so is each stall noticed, and not held
        against others."""
        self._forgive(self.health.look(now, WATCH_EVERY_S))

    def _forgive(self, late_s: float) -> None:
        if late_s:
            for link in self._links.values():
                link.heard_at += late_s
                link.opened_at += late_s

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

    def linked_with_router(self) -> bool:
        """Whether there is an open link with a router."""
        return any(link.hello is not None and link.hello.info.role == "router" for link in self._links.values())

    def open_links(self) -> list[tuple[Peer, Hello]]:
        return [(peer, link.hello) for peer, link in self._links.items() if link.hello is not None]

    def hello_of(self, peer: Peer) -> Hello | None:
        link = self._links.get(peer)
        return None if link is None else link.hello

    @property
    def suspects(self) -> dict[Peer, str]:
        """The links under suspicion, and what seems to be wrong with each."""
        return {peer: link.suspicion.cause for peer, link in self._links.items() if link.suspicion is not None}

    # --- suspicion --------------------------------------------------------------------------------------------------

    def _suspect(self, suspects: Sequence[tuple[Peer, _Link]], now: float) -> None:
        """Look, ask, and tell the core, about links that are silent (all of them open)."""
        for _, link in suspects:
            assert link.hello is not None
            if link.suspicion is None:
                link.suspicion = Suspicion(link.hello.info, now - link.heard_at)
                link.trusted = False
        heard = [(peer, link, link.hello) for peer, link in self._links.items() if link.trusted and link.hello]
        hosts = {hello.info.host for _, _, hello in heard} | {self.info.host}
        at = {(hello.info.node, hello.info.boot): link.heard_at for _, link, hello in heard}
        witnesses = [
            (peer, hello.info)
            for peer, _, hello in heard
            if hello.version >= _DOUBT_VERSION and hello.info.role != "client"
        ]
        for number, (peer, link) in enumerate(suspects):
            hello, suspicion = link.hello, link.suspicion
            assert hello is not None
            assert suspicion is not None
            info = hello.info
            other = at.get((info.node, info.boot))
            heard_us = -1 if other is None else int((now - other) * 1e6)
            suspicion.take(Word(info.node, info.boot, heard_us, self._state_of(info)), "over another link")
            if number < _INQUIRIES_AT_ONCE and info.role != "client":
                for witness in choose_witnesses(info, witnesses):
                    self.core.out.send_first(witness, suspicion.doubt)
            told = suspicion.cause
            self._judge(peer, suspicion, info.host in hosts, now)
            if told and suspicion.cause != suspicion.logged:  # not at once: others have been asked just now
                suspicion.logged = suspicion.cause
                self._remark(True, hello, f"is suspected, silent for {now - link.heard_at:.1f} s: {suspicion.cause}")

    def _judge(self, peer: Peer, suspicion: Suspicion, host_heard: bool, now: float) -> None:
        before = suspicion.cause
        if suspicion.judge(host_heard) != before:
            self.core.link_doubted(peer, suspicion.cause, now)

    def _word_on(self, doubt: Doubt, now: float) -> Word:
        """What can be said here about a node that somebody has doubts about."""
        links = self._links_with(doubt.node, doubt.boot)
        heard_us = min([int((now - link.heard_at) * 1e6) for _, link in links], default=-1)
        near = same_machine(self.info, doubt.host, doubt.pid_space)
        return Word(doubt.node, doubt.boot, heard_us, self._look(doubt.pid) if near and doubt.pid else UNKNOWN)

    def _links_with(self, node: bytes, boot: bytes) -> list[tuple[Peer, _Link]]:
        """The open links with one process of a node."""
        return [
            (peer, link)
            for peer, link in self._links.items()
            if link.hello is not None and link.hello.info.node == node and link.hello.info.boot == boot
        ]

    def _state_of(self, info: NodeInfo) -> str:
        near = same_machine(self.info, info.host, info.pid_space)
        return self._look(info.pid) if near and info.pid else UNKNOWN

    def _on_word(self, witness: NodeInfo, word: Word, now: float) -> None:
        """The answer to a doubt of ours, if we still have it."""
        for peer, link in self._links_with(word.node, word.boot):
            hello, suspicion = link.hello, link.suspicion
            if hello is None or suspicion is None:
                continue
            refuted = suspicion.refuted
            suspicion.take(word, f"by {name_of(witness)}")
            if suspicion.refuted and not refuted:
                self.health.refuted()
            host = hello.info.host
            heard = host == self.info.host or any(
                other.trusted and other.hello is not None and other.hello.info.host == host
                for other in self._links.values()
            )
            self._judge(peer, suspicion, heard, now)

    def _heard_again(self, peer: Peer, link: _Link, now: float) -> None:
        assert link.hello is not None
        self._remark(False, link.hello, f"is heard again, after {now - link.heard_at:.1f} s")
        link.suspicion = None
        link.trusted = True
        link.heard_at = now
        self.core.link_doubted(peer, "", now)

    def _remark(self, alarming: bool, hello: Hello, text: str) -> None:
        remark = (alarming, f"{name_of(hello.info)} {text}")
        # Clients come and go, and nothing depends on them.  Two routers may have two links.
        if hello.info.role != "client" and remark not in self.remarks:
            self.remarks.append(remark)

    # --- the rest ---------------------------------------------------------------------------------------------------

    def _rarely(self, peer: Peer, link: _Link | None, parcels: Sequence[Parcel], now: float) -> None:
        """The rare wire messages: with something for the links in them, or from an unknown or suspected peer."""
        if link is not None and link.suspicion is not None:
            self._heard_again(peer, link, now)
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
            elif kind is Doubt:
                self.core.out.send_first(peer, self._word_on(message, now))
            elif kind is Word:
                self._on_word(link.hello.info, message, now)
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
            if link is None:
                self._reset(peer, now, refusal)
            else:
                self.rejected += 1
                self._drop(peer, refusal, now, again=hello.info.node != self.info.node)
            return None
        if link is None:
            link = self._links[peer] = _Link(False, now)
            self.core.out.send(peer, self.hello)
        link.hello = hello
        link.heard_at = now
        link.trusted = True
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
        dialler, listener = (info.role, self.info.role) if link is None else (self.info.role, info.role)
        if listener == "router" or (dialler, listener) == ("replica", "gateway"):
            return None
        return f"a {dialler[:40]} has no links with a {listener[:40]}"

    def _reset(self, peer: Peer, now: float, reason: str = ASK_FOR_HELLO) -> None:
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
