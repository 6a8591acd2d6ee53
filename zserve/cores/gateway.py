"""The gateway's decisions: which router gets a request, and how each request comes to exactly one answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ..channel.outbox import Outbox, Parcel, Peer
from ..errors import Refusal
from ..http.answers import KIND_TEXT
from ..http.routes import RouteTable
from ..registry.neighbours import Neighbours
from ..registry.sync import ConfigSync
from ..wire.messages import (
    FLAG_AGAIN,
    FLAG_IDEMPOTENT,
    NO_BUDGET,
    STREAM_BROKEN,
    Cancel,
    Chunk,
    Consumed,
    Goodbye,
    Hello,
    Ping,
    Request,
    Result,
    Return,
    Shutdown,
)
from .expiry import Expiry

__all__ = ["ORIGIN_GATEWAY", "Answer", "Flight", "GatewayCore", "GatewayLimits"]

ORIGIN_GATEWAY = 3
NO_ROUTER_WAIT_S = 5.0
"""How long a request waits for a router when none is linked."""
SLACK_S = 0.015
"""How long after a deadline the gateway waits for the router's own word on it."""
IN_QUESTION_S = 3.0
"""How long after a link with a replica ended a gateway asks for answers that may be lost: by then routers know which
requests the replica has answered, and none is parked any more."""
_TICK_S = 1.0


class GatewayLimits:
    """How much one gateway takes on at a time: requests, and bytes of bodies."""

    __slots__ = ("max_bytes", "max_requests")

    def __init__(self, max_requests: int = 20_000, max_bytes: int = 1 << 30) -> None:
        self.max_requests = max_requests
        self.max_bytes = max_bytes


class Flight(msgspec.Struct, eq=False):
    """A request that has no answer yet; ``token`` is the shell's own handle for it.

    sent: how often it was sent to a router; streams: the next Chunk's number, once a streamed answer has begun.
    """

    message: Request
    head: bytes
    body: bytes
    deadline: float
    token: Any
    opened_at: float
    router: Peer = b""
    sent: int = 0
    streams: int = 0


Answer = tuple[Any, Result, bytes, bytes]
"""(token, result, head, body)"""

Piece = tuple[Any, Chunk, bytes]
"""(token, chunk, body): how a streamed answer goes on, behind its result."""


class _Router:
    __slots__ = ("doubt", "leaving", "outstanding", "peer", "sent", "unready")

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.outstanding = 0
        self.sent = 0
        self.leaving = False
        self.doubt = ""
        self.unready: list[str] | None = None


class GatewayCore:
    """Events: :meth:`open`, :meth:`abandon` and those of a node.

    Effects: the outbox, :attr:`answers`, :attr:`pieces` of streamed ones (to be taken after those), and
    :attr:`shutdown_reason` once the whole fabric is to end."""

    def __init__(
        self,
        sync: ConfigSync,
        id_prefix: bytes,
        limits: GatewayLimits | None = None,
        *,
        neighbours: Neighbours | None = None,
    ) -> None:
        """*id_prefix*: 8 bytes drawn anew at each start; with a counter behind it, a request id is never used twice.

        *neighbours*: which routers to have links with; all that become known, unless given."""
        self.out = Outbox()
        self.sync = sync
        self.limits = limits or GatewayLimits()
        self.answers: list[Answer] = []
        self.pieces: list[Piece] = []
        self.leaving = False
        self.shutdown_reason = ""
        self.opened = 0
        self.answered = 0
        self.expired = 0
        self.abandoned = 0
        self.refused = 0
        self.resent = 0
        self.late_results = 0
        self.misplaced = 0
        self.streamed = 0
        self._prefix = id_prefix
        self._flights: dict[bytes, Flight] = {}
        self._bytes = 0
        self._expiry = Expiry(self._flights)
        self._routers: dict[Peer, _Router] = {}
        self._choice: list[_Router] = []  # those that get new requests
        self._lost = ""  # how the last router was lost
        self._homeless: dict[bytes, float] = {}  # since when
        self._in_question: dict[bytes, float] = {}  # until when
        self._routes = RouteTable()
        self._routes_generation = -1
        self._next_tick = 0.0
        self._neighbours = neighbours or Neighbours(sync.info.node)
        self._informed = False  # some router has told all that it knows

    # --- what the HTTP side asks ------------------------------------------------------------------------------------

    @property
    def routes(self) -> RouteTable:
        """The routes of now."""
        registry = self.sync.registry
        if registry.generation != self._routes_generation:
            self._routes_generation = registry.generation
            endpoints = registry.endpoints()
            self._routes = RouteTable((name, value.route, value.methods) for name, value in endpoints.items())
        return self._routes

    def open(
        self,
        endpoint: str,
        head: bytes,
        body: bytes,
        deadline: float,
        token: Any,
        now: float,
        flags: int = 0,
        shard: str = "",
        method: str = "",
    ) -> Flight | Refusal:
        """Take on a request; its answer appears in :attr:`answers`, once.  *deadline* in seconds, inf for none."""
        size = len(body)
        flights, limits = self._flights, self.limits
        if len(flights) >= limits.max_requests:
            self.refused += 1
            return Refusal(429, f"the gateway holds {len(flights)} requests, its limit", 1.0)
        if size and self._bytes + size > limits.max_bytes:
            self.refused += 1
            return Refusal(429, f"the gateway holds {self._bytes} bytes of request bodies, close to its limit", 1.0)
        self.opened = number = self.opened + 1
        self._bytes += size
        key = self._prefix + number.to_bytes(8, "big")
        message = Request(key, endpoint, NO_BUDGET, flags, shard, method)
        flight = flights[key] = Flight(message, head, body, deadline, token, now)
        self._expiry.add(deadline + SLACK_S, key)
        self._send(key, flight, now)
        return flight

    def abandon(self, flight: Flight) -> None:
        """The client is gone: free whatever works for it."""
        key = flight.message.id
        if self._take(key) is not None:
            self.abandoned += 1
            self._cancel(flight)

    def consumed(self, flight: Flight, total: int) -> None:
        """The client has taken *total* of a streamed answer so far, in the units of :mod:`zserve.wire.flow`."""
        if flight.router and flight.message.id in self._flights:
            self.out.send(flight.router, Consumed(flight.message.id, total))

    def no_endpoint(self, path: str) -> Refusal:
        """The answer where no route matches.  Before a router has told what there is, nobody can say "not found"."""
        self._informed = self._informed or self.sync.synced
        if self._informed:
            return Refusal(404, f"no endpoint at {path[:200]}; all routes are listed at /-/routes")
        return Refusal(503, "this gateway has not heard from a router yet what there is to serve", 1.0)

    def readiness(self) -> tuple[bool, str]:
        """Would a request be served now?  If not, the reason."""
        if self.leaving:
            return False, "this gateway is shutting down"
        reasons = []
        for router in self._routers.values():
            if router.leaving:
                continue
            if router.doubt:
                reasons.append(f"nothing is heard from the router: {router.doubt}")
            elif router.unready is None:
                reasons.append("waiting for the router's first word")
            elif not router.unready:
                return True, "ok"
            else:
                reasons.append("no replica is ready for: " + ", ".join(router.unready))
        return False, reasons[0] if reasons else "not linked with any router"

    def statistics(self) -> dict[str, Any]:
        return {
            "in_flight": len(self._flights),
            "bytes": self._bytes,
            "opened": self.opened,
            "answered": self.answered,
            "expired": self.expired,
            "abandoned": self.abandoned,
            "refused": self.refused,
            "resent": self.resent,
            "late_results": self.late_results,
            "misplaced": self.misplaced,
            "streamed": self.streamed,
            "routers": len(self._routers),
        }

    @property
    def held_bytes(self) -> int:
        """Bytes of the bodies of requests that have no answer yet."""
        return self._bytes

    @property
    def in_flight(self) -> int:
        return len(self._flights)

    def open_flights(self) -> list[Flight]:
        """All requests that have no answer yet."""
        return list(self._flights.values())

    # --- events of a node -------------------------------------------------------------------------------------------

    def link_up(self, peer: Peer, hello: Hello, now: float) -> None:
        if hello.info.role != "router":
            return  # a replica that brings its answers itself
        self.sync.link_up(peer, hello, self.out, now)
        self._routers[peer] = _Router(peer)
        self._neighbours.link_up(peer, hello.info.node)
        self._choose()
        homeless = self._homeless
        self._homeless = {}
        for key in homeless:
            flight = self._flights.get(key)
            if flight is not None:
                self._send(key, flight, now)

    def link_doubted(self, peer: Peer, cause: str, now: float) -> None:
        """A silent router keeps what it has, and gets nothing new while another one is heard."""
        router = self._routers.get(peer)
        if router is not None:
            router.doubt = cause
            self._choose()

    def link_down(self, peer: Peer, reason: str, now: float) -> None:
        """What a router had goes to another one.  With a replica, answers may be lost that its routers take for given:
        whatever has none a while later is sent to its router once more, who does nothing if it has it still."""
        if self._routers.pop(peer, None) is None:
            for key, flight in self._flights.items():
                if flight.router and not flight.streams:
                    self._in_question.setdefault(key, now + IN_QUESTION_S)
            return
        self.sync.link_down(peer, now, reason)
        self._lost = reason
        self._neighbours.link_down(peer, now)
        self._neighbours.update(self.sync.membership, now)
        self._choose()
        for key, flight in list(self._flights.items()):
            if flight.router != peer:
                continue
            flight.router = b""
            if flight.streams:
                self._break_off(key, flight)
            else:
                _mark_again(flight)
                self._send(key, flight, now)

    def receive(self, peer: Peer, parcels: Sequence[Parcel], now: float) -> None:
        if peer not in self._routers:
            parcels = self._of_replica(parcels)
        flights = self._flights
        answers = self.answers
        for message, head, body in parcels:
            kind = type(message)
            if kind is Result:
                flight = flights.pop(message.id, None)
                if flight is None:
                    self.late_results += 1
                    continue
                self._bytes -= len(flight.body)
                router = self._routers.get(flight.router)
                if router is not None:
                    router.outstanding -= 1
                if flight.streams:  # it has its Result already
                    self.pieces.append((flight.token, Chunk(message.id, 0, STREAM_BROKEN), b""))
                    continue
                self.answered += 1
                answers.append((flight.token, message, head, body))
                if message.streams:
                    self._goes_on(flight, router)
            elif kind is Chunk:
                self._on_chunk(message, body)
            elif kind is Return:
                self._returned(peer, message, now)
            elif kind is Shutdown:
                self.shutdown_reason = message.reason or "shutdown"
            else:
                if kind is Ping:
                    self._heard_ping(peer, message)
                self.sync.receive(peer, message, self.out, now)
                self._neighbours.update(self.sync.membership, now)

    def _of_replica(self, parcels: Sequence[Parcel]) -> list[Parcel]:
        """What of *parcels* a replica may bring itself: answers that are complete."""
        answers = [parcel for parcel in parcels if type(parcel[0]) is Result and not parcel[0].streams]
        if len(answers) < len(parcels):
            self.misplaced += sum(type(parcel[0]) is not Ping for parcel in parcels) - len(answers)
        return answers

    def ping(self, peer: Peer, now: float) -> Ping:
        return Ping(self.sync.digest(), 0, -1, [], self.leaving)

    def tick(self, now: float) -> None:
        for key in self._expiry.due(now):
            flight = self._flights[key]
            if flight.streams:
                continue  # the deadline was for the beginning
            self.expired += 1
            self._cancel(flight)
            self._fail(key, 504, f"no answer within {flight.deadline - flight.opened_at:.3f} s")
        self.sync.tick(self.out, now)
        if now >= self._next_tick:
            self._next_tick = now + _TICK_S
            self._informed = self._informed or self.sync.synced
            self._neighbours.update(self.sync.membership, now)
            self._let_spare_routers_go(now)
            for key in [key for key, until in self._in_question.items() if until <= now]:
                del self._in_question[key]
                self._send_again(key, now)
            for key, since in list(self._homeless.items()):
                if key not in self._flights:
                    del self._homeless[key]
                elif now - since > NO_ROUTER_WAIT_S:
                    del self._homeless[key]
                    if self._flights[key].message.flags & FLAG_AGAIN:
                        reason = f"the router that had this request is gone ({self._lost}); the request may have run"
                        self._fail(key, 502, reason)
                    else:
                        self._fail(key, 503, "no router is linked with this gateway", 1.0)

    def next_wakeup(self) -> float:
        at = self._next_tick
        for due in (self._expiry.next(), self.sync.next_wakeup()):
            if due is not None and due < at:
                at = due
        return at

    def routers_known(self) -> Sequence[str]:
        return self._neighbours.wanted

    # --- the rest ---------------------------------------------------------------------------------------------------

    def _let_spare_routers_go(self, now: float) -> None:
        """A router that is one too many gets nothing new, and the link ends once it owes nothing."""
        spare = self._neighbours.spare(now)
        if not spare:
            return
        self._choose()
        for peer in spare:
            if not self._routers[peer].outstanding:
                self.out.send(peer, Goodbye("others are enough"))
                self.out.close(peer, "goodbye: others are enough")

    def _choose(self) -> None:
        """Who gets new requests: the routers that stay and are heard, and if there are none, all that stay."""
        spare = self._neighbours.spare(self._next_tick - _TICK_S)
        staying = [router for peer, router in self._routers.items() if not router.leaving and peer not in spare]
        self._choice = [router for router in staying if not router.doubt] or staying

    def _send(self, key: bytes, flight: Flight, now: float) -> None:
        """Give the request to the router that owes least; among equals to the one that has had fewer."""
        best: _Router | None = None
        for router in self._choice:
            if best is None or (router.outstanding, router.sent) < (best.outstanding, best.sent):
                best = router
        if flight.sent and flight.message.flags & FLAG_AGAIN and best is not None:
            best = self._choice[0]  # the one with the oldest link: it has had the time to know all replicas
        if best is None:
            self._homeless[key] = now
            return
        best.outstanding += 1
        best.sent += 1
        flight.router = best.peer
        self._submit(flight, now)

    def _send_again(self, key: bytes, now: float) -> None:
        """To the same router."""
        flight = self._flights.get(key)
        if flight is not None and flight.router and not flight.streams:
            _mark_again(flight)
            self._submit(flight, now)

    def _submit(self, flight: Flight, now: float) -> None:
        message = flight.message
        if flight.sent:
            self.resent += 1
            message.attempt = flight.sent
            message.age_us = int((now - flight.opened_at) * 1e6)
        flight.sent += 1
        left = flight.deadline - now
        message.budget_us = NO_BUDGET if left > 1e9 else max(0, int(left * 1e6))
        self.out.send(flight.router, message, flight.head, flight.body)

    def _returned(self, peer: Peer, message: Return, now: float) -> None:
        """A router hands back requests that it has not started: to another one with them."""
        router = self._routers.get(peer)
        if router is not None:
            router.leaving = True
            self._choose()
        for key in message.ids:
            flight = self._flights.get(key)
            if flight is None or flight.router != peer:
                continue
            if router is not None:
                router.outstanding -= 1
            flight.router = b""
            self._send(key, flight, now)

    def _heard_ping(self, peer: Peer, ping: Ping) -> None:
        router = self._routers.get(peer)
        if router is not None:
            router.unready = ping.unready
            if router.leaving != ping.leaving:
                router.leaving = ping.leaving
                self._choose()

    # --- streamed answers -------------------------------------------------------------------------------------------

    def _goes_on(self, flight: Flight, router: _Router | None) -> None:
        """An answer has begun, and is in flight until its last Chunk; the request's own body is not needed any more."""
        self._flights[flight.message.id] = flight
        flight.head = flight.body = b""
        flight.streams = 1
        self.streamed += 1
        if router is not None:
            router.outstanding += 1

    def _on_chunk(self, message: Chunk, body: bytes) -> None:
        flight = self._flights.get(message.id)
        if flight is None or not flight.streams:
            return  # what was on its way when the client left
        if message.end:
            self._take(message.id)
        elif message.seq != flight.streams:  # a piece is missing: the client must not take the rest for the whole
            self._cancel(flight)
            self._break_off(message.id, flight)
            return
        flight.streams += 1
        self.pieces.append((flight.token, message, body))

    def _break_off(self, key: bytes, flight: Flight) -> None:
        self._take(key)
        self.pieces.append((flight.token, Chunk(key, 0, STREAM_BROKEN), b""))

    def _take(self, key: bytes) -> Flight | None:
        flight = self._flights.pop(key, None)
        if flight is not None:
            self._bytes -= len(flight.body)
            router = self._routers.get(flight.router)
            if router is not None:
                router.outstanding -= 1
        return flight

    def _fail(self, key: bytes, status: int, reason: str, retry_after_s: float | None = None) -> None:
        flight = self._take(key)
        if flight is not None:
            retry_us = -1 if retry_after_s is None else int(retry_after_s * 1e6)
            result = Result(key, status, KIND_TEXT, ORIGIN_GATEWAY, retry_after_us=retry_us)
            self.answers.append((flight.token, result, b"", reason.encode()))

    def _cancel(self, flight: Flight) -> None:
        if flight.router:
            self.out.send(flight.router, Cancel([flight.message.id]))


def _mark_again(flight: Flight) -> None:
    """It may have run already: if that must not happen twice, its router has to ask first."""
    if not flight.message.flags & FLAG_IDEMPOTENT:
        flight.message.flags |= FLAG_AGAIN
