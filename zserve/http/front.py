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
from ..wire.messages import FLAG_DEFAULT_DEADLINE
from .addresses import AddressCounts
from .crowd import Crowd
from .deadline import BadDeadline, read_budget_s
from .head import RequestHead, encode_head
from .limits import HttpLimits
from .routes import Match

if TYPE_CHECKING:
    from uvicorn.server import ServerState

    from .exchange import Exchange

__all__ = ["HttpFront"]

log = logging.getLogger("zserve.http")


class HttpFront:
    """What all connections of one gateway share.

    *poke* is called after the core was told something (it sends the outbox this event-loop turn).
    *default_timeout_s* is the deadline of requests that bring none, 0 for no deadline.  *linger_s*: how long idle
    connections are kept when the gateway drains; *scheme*: "https" behind TLS.
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
            self._submit(exchange)
        except Exception:
            log.exception("%s %s could not be taken in", exchange.method, exchange.path)
            exchange.refuse(Refusal(500, "the gateway failed at this request; its log says why"))

    def _submit(self, exchange: Exchange) -> None:
        assert exchange.match is not None
        endpoint, params = exchange.match
        now = self.now()
        special = exchange.special
        shard = method = ""
        budget = None
        if special:
            shard = special.get(b"x-serve-shard-key", b"").decode("latin-1")
            method = special.get(b"x-serve-call-method", b"").decode("latin-1")
        if b"slo_ms" in exchange.query or (special and b"x-request-timeout-seconds" in special):
            try:
                budget = read_budget_s(exchange.query, special.get(b"x-request-timeout-seconds"), self._wall())
            except BadDeadline as error:
                exchange.refuse(Refusal(400, str(error)))
                return
            if budget is not None and budget <= 0.0:
                query = exchange.query.decode("latin-1")[:200]
                exchange.refuse(Refusal(504, f"the deadline had passed when the request arrived ({query})"))
                return
        head = encode_head(
            RequestHead(
                exchange.method,
                exchange.path,
                exchange.query,
                exchange.headers,
                params,
                exchange.protocol.client_name,
                self._scheme,
            )
        )
        opened = self.core.open(
            endpoint,
            head,
            exchange.take_body(),
            now + (self._default_timeout_s if budget is None else budget),
            exchange,
            now,
            flags=exchange.flags | FLAG_DEFAULT_DEADLINE if budget is None else exchange.flags,
            shard=shard,
            method=method,
        )
        if type(opened) is Refusal:
            exchange.refuse(opened)
        else:
            exchange.flight = opened
        self._poke()

    def abandon(self, exchange: Exchange) -> None:
        """The client of a request under way has gone (what logs call 499)."""
        log.debug("499 %s %s: the client has gone", exchange.method, exchange.path)
        self.core.abandon(exchange.flight)
        self._poke()

    def deliver(self) -> None:
        """Write the answers that the core has."""
        core = self.core
        if core.answers:
            answers = core.answers
            core.answers = []
            for exchange, result, head, body in answers:
                exchange.answer(result, head, body)
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
        }

    def sweep(self) -> None:
        """Once a second: end connections that are idle, slow, or do not take their answers."""
        now = self.now()
        self.crowd.look(now)
        if self.server_state is not None:
            connections: Any = self.server_state.connections
            for connection in list(connections):
                connection.look_after(now)
