"""Between the HTTP protocol and the gateway's core."""

from __future__ import annotations

import itertools
import logging
import math
import secrets
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..cores.gateway import Flight, GatewayCore
from ..errors import Refusal
from .addresses import AddressCounts
from .crowd import Crowd
from .deadline import BadDeadline, read_budget_s
from .head import RequestHead, encode_head
from .limits import HttpLimits
from .parsed_head import UNREAD, ParsedHead
from .routes import Match
from .writes import Gatherer

if TYPE_CHECKING:
    from uvicorn.server import ServerState

    from .exchange import Exchange

__all__ = ["HttpFront"]

FEW = 4
"""Fewer answers at a time are as well written one by one."""

log = logging.getLogger("zserve.http")


class HttpFront:
    """What all connections of one gateway share.

    *poke* is called after the core was told something (it sends the outbox, now or soon); it raises nothing.
    *default_timeout_s* is the deadline of requests that bring none, 0 for no deadline.  *linger_s*: how long idle
    connections are kept when the gateway drains; *scheme*: "https" behind TLS.  *gatherer*: writes the answers of many
    connections together.
    """

    def __init__(
        self,
        core: GatewayCore,
        poke: Callable[[], None],
        *,
        limits: HttpLimits | None = None,
        default_timeout_s: float = 30.0,
        linger_s: float = 0.5,
        scheme: str = "http",
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        gatherer: Gatherer | None = None,
    ) -> None:
        self.core = core
        self.limits = limits or HttpLimits()
        self.addresses = AddressCounts()
        self.crowd = Crowd()
        self.rejected = 0  # what was not a request, too large, too slow or too much, and ended its connection
        self.receiving_bytes = 0  # of bodies that have not come to their end
        self.linger_s = linger_s
        self.now = now
        self.draining = False
        self.server_state: ServerState | None = None
        self.gatherer = gatherer
        self.gathering: Gatherer | None = None
        """While the answers of many are being written."""
        self._poke = poke
        self._scheme = scheme
        self._wall = wall
        self._default_timeout_s = default_timeout_s or math.inf
        self._own_ids = (f"{secrets.token_hex(8)}{number:016x}".encode() for number in itertools.count())
        self._common_of: list[tuple[bytes, bytes]] | None = None
        self._common = b""

    def match(self, method: str, path: str, headers: list[tuple[bytes, bytes]]) -> Match:
        """The endpoint of a request.  Raises NoMatch, and where tokens are asked for, Unauthorized."""
        return self.core.routes.match(method, path)

    def submit(self, exchange: Exchange) -> None:
        """A whole request: give it to the core.  Whatever goes wrong, it has an answer."""
        try:
            match, head = exchange.match, exchange.head
            assert match is not None
            now = self.now()
            budget_s = head.budget_s
            if budget_s < 0.0:
                budget_s = self._read_budget_s(exchange)
            if budget_s >= 0.0:
                if head.match is not match:
                    self._encode(head, match, exchange.protocol.client_name)
                body = exchange.take_body()
                opened = self.core.open(
                    match[0], head.encoded, body, now + budget_s, exchange, now, head.flags, head.shard, head.call
                )
                if type(opened) is Refusal:
                    exchange.refuse(opened)
                else:
                    exchange.flight = opened
        except Exception:
            log.exception("%s %s could not be taken in", exchange.head.method, exchange.head.path)
            exchange.refuse(Refusal(500, "the gateway failed at this request; its log says why"))
        self._poke()

    def _read_budget_s(self, exchange: Exchange) -> float:
        """Seconds from now; below zero where the request is refused because of it."""
        head = exchange.head
        stated = head.special.get(b"x-request-timeout-seconds")
        if stated is None and b"slo_ms" not in head.query:
            head.use_default(self._default_timeout_s)
            return self._default_timeout_s
        try:
            budget_s = read_budget_s(head.query, stated, self._wall())
        except BadDeadline as error:
            exchange.refuse(Refusal(400, str(error)))
            return UNREAD
        if budget_s is None:
            head.use_default(self._default_timeout_s)
            return self._default_timeout_s
        if budget_s <= 0.0:
            query = head.query.decode("latin-1")[:200]
            exchange.refuse(Refusal(504, f"the deadline had passed when the request arrived ({query})"))
            return UNREAD
        if b"absolute" not in head.query and b"%" not in head.query:
            head.budget_s = budget_s
        return budget_s

    def _encode(self, head: ParsedHead, match: Match, client: str) -> None:
        head.match = match
        head.encoded = encode_head(
            RequestHead(head.method, head.path, head.query, head.headers, match[1], client, self._scheme)
        )

    def abandon(self, exchange: Exchange) -> None:
        """The client of a request under way has gone (what logs call 499)."""
        log.debug("499 %s %s: the client has gone", exchange.head.method, exchange.head.path)
        self.core.abandon(exchange.flight)
        self._poke()

    def deliver(self) -> None:
        """Write the answers that the core has."""
        core = self.core
        if core.answers:
            answers = core.answers
            core.answers = []
            self.gathering = gatherer = self.gatherer if len(answers) >= FEW else None
            try:
                for exchange, result, head, body in answers:
                    exchange.answer(result, head, body)
            finally:
                self.gathering = None
                if gatherer is not None:
                    gatherer.send()
        if core.pieces:
            pieces = core.pieces
            core.pieces = []
            for exchange, chunk, body in pieces:
                exchange.piece(body, chunk.end)

    def consumed(self, flight: Flight, total: int) -> None:
        """The client has taken so much of a streamed answer."""
        self.core.consumed(flight, total)
        self._poke()

    def new_request_id(self) -> bytes:
        """An id for a request that never reached the core."""
        return next(self._own_ids)

    def common_headers(self) -> bytes:
        """Date and server, as uvicorn keeps them (made anew once a second)."""
        state = self.server_state
        if state is not None and state.default_headers is not self._common_of:
            self._common_of = state.default_headers
            self._common = b"".join(b"%s: %s\r\n" % pair for pair in state.default_headers)
        return self._common

    @property
    def full(self) -> bool:
        """Whether the bodies that are here or coming are more than this gateway is to hold."""
        return self.receiving_bytes + self.core.held_bytes > self.limits.held_bytes

    def statistics(self) -> dict[str, int]:
        """Counters, for metrics."""
        connections: Any = self.server_state.connections if self.server_state is not None else ()
        return {
            "connections": len(connections),
            "connections_refused": self.crowd.turned_away,
            "rejected": self.rejected,
            "receiving_bytes": self.receiving_bytes,
            "written_together": self.gatherer.together if self.gatherer is not None else 0,
        }

    def sweep(self) -> None:
        """Once a second: end connections that are idle, slow, or do not take their answers."""
        now = self.now()
        self.crowd.look(now)
        if self.server_state is not None:
            connections: Any = self.server_state.connections
            for connection in list(connections):
                connection.look_after(now)
