"""HTTP/1.1 towards clients: uvicorn's protocol, with a short path for endpoint traffic.

uvicorn parses, keeps connections and pipelines; system pages and everything unusual take its ASGI way.  A request for
an endpoint does not: no scope, no task, no future, no event.  In a prototype of the whole path, echo at 64 connections,
that made 63,000 requests/s out of 27,000.  An :class:`Exchange` stands where uvicorn has its RequestResponseCycle.
"""

from __future__ import annotations

import socket
import struct
import urllib.parse
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from ..errors import Refusal
from .exchange import Exchange
from .front import HttpFront
from .routes import NoMatch

__all__ = ["Exchange", "FabricProtocol"]

_SPECIAL = frozenset(
    (
        b"content-length",
        b"expect",
        b"idempotency-key",
        b"transfer-encoding",
        b"x-request-id",
        b"x-request-timeout-seconds",
        b"x-serve-call-method",
        b"x-serve-shard-key",
    )
)
_LINGER_READING_S = 2.0
_NO_SPECIAL: dict[bytes, bytes] = {}


class FabricProtocol(HttpToolsProtocol):
    """uvicorn's protocol class of one gateway; ``front`` is set on a subclass made for that gateway."""

    front: HttpFront

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.waiting_since: float | None = self.front.now()
        self.active: Exchange | None = None
        self._special = _NO_SPECIAL
        self._header_bytes = 0
        self._refusal: Refusal | None = None
        self._closing = False
        self.client_name = f"{self.client[0]}:{self.client[1]}" if self.client else ""
        if len(self.connections) > self.front.max_connections:
            self._fail(Refusal(503, f"this gateway has {self.front.max_connections} connections, its limit", 1.0))

    def connection_lost(self, exc: Exception | None) -> None:
        if self.active is not None:
            self.active.drop()  # the newest one, uvicorn's cycle, may be waiting behind it
        waiting: Any = self.pipeline
        for queued, _ in waiting:
            if type(queued) is Exchange:
                queued.drop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if self._closing:
            return
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self._fail(self._refusal or Refusal(400, "malformed HTTP request"))
        except httptools.HttpParserUpgrade:
            self._unsupported_upgrade_warning()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.active is not None and self.active.outflow is not None:
            self.active.outflow.resume()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.active is not None and self.active.outflow is not None:
            self.active.outflow.paused = True

    def cut_off(self, hard: bool = False) -> None:
        """End the connection in the middle of an answer; *hard*: with a reset, where nothing else shows that it is not
        all (HTTP/1.0), or where the client does not take what there is."""
        self._closing = True
        transport = self.transport
        if not hard:
            transport.close()
            return
        connection = transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()

    def _fail(self, refusal: Refusal) -> None:
        """Answer what can not be taken for a request, and end the connection."""
        if self._closing:
            return
        self._closing = True
        cycle: Any = self.cycle
        if type(cycle) is Exchange and not cycle.response_complete:
            cycle.keep_alive = False
            cycle.complete = True
            if cycle.flight is not None:
                return  # its answer comes first, and then the end
            cycle.refuse(refusal)
            return
        body = (refusal.reason + "\n").encode()
        self.transport.write(
            b"%s%scontent-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s"
            % (STATUS_LINE[refusal.status], self.front.common_headers(), len(body), body)
        )
        self.transport.close()

    # --- parser callbacks -------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self._special = _NO_SPECIAL
        self._header_bytes = 0
        if self.waiting_since is None:
            self.waiting_since = self.front.now()

    def on_url(self, url: bytes) -> None:
        self.url += url
        if len(self.url) > self.front.max_url_bytes:
            self._refusal = Refusal(414, f"the request line is longer than {self.front.max_url_bytes} bytes")
            raise ValueError("request line too long")

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        self.headers.append((name, value))
        self._header_bytes += len(name) + len(value) + 4
        if self._header_bytes > self.front.max_header_bytes:
            self._refusal = Refusal(431, f"the headers are larger than {self.front.max_header_bytes} bytes")
            raise ValueError("headers too large")
        if name in _SPECIAL:
            if self._special is _NO_SPECIAL:
                self._special = {}
            self._special[name] = value

    def on_headers_complete(self) -> None:
        if self._closing:
            raise ValueError("a request behind the end of the connection")
        url = self.url
        if url.startswith(b"/-/"):
            self._take_asgi_way()
            return
        path_bytes, _, query = url.partition(b"?")
        if not path_bytes.startswith(b"/"):
            try:
                parsed = httptools.parse_url(url)
            except httptools.HttpParserInvalidURLError:
                self._refusal = Refusal(400, "malformed request target")
                raise
            path_bytes, query = parsed.path or b"/", parsed.query or b""
        path = path_bytes.decode("latin-1")
        if "%" in path or not path.isascii():
            path = urllib.parse.unquote(path, errors="replace")
        parser = self.parser
        method = parser.get_method().decode("ascii")
        old = parser.get_http_version() == "1.0"
        keep_alive = not old and parser.should_keep_alive() and not self.front.draining
        special = self._special
        exchange = Exchange(self, method, path, query, self.headers, special, keep_alive, old)
        self.waiting_since = None
        front = self.front
        try:
            exchange.match = front.match(method, path)
        except NoMatch as error:
            if error.allowed is None:
                exchange.refuse(Refusal(404, f"no endpoint at {path[:200]}; all routes are listed at /-/routes"))
            else:
                allow = ", ".join(error.allowed)
                exchange.refuse(
                    Refusal(405, f"{method} is not allowed at {path[:200]}, only {allow}"),
                    [(b"allow", allow.encode("latin-1"))],
                )
        else:
            length = special.get(b"content-length")
            # Header values are digits only here: llhttp refuses other content lengths.
            if length is not None and int(length) > front.max_body_bytes:
                exchange.refuse(_too_large(front.max_body_bytes))
        existing: Any = self.cycle
        self.cycle = exchange  # type: ignore[assignment]
        if existing is None or existing.response_complete:
            exchange.start()
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((exchange, None))  # type: ignore[arg-type]

    def on_body(self, body: bytes) -> None:
        exchange: Any = self.cycle
        if type(exchange) is not Exchange:
            super().on_body(body)
            return
        if exchange.refusal is not None or exchange.response_complete:
            return
        exchange.parts.append(body)
        exchange.size += len(body)
        if exchange.size > self.front.max_body_bytes:
            exchange.parts = []
            exchange.refuse(_too_large(self.front.max_body_bytes))

    def on_message_complete(self) -> None:
        exchange: Any = self.cycle
        if type(exchange) is not Exchange:
            super().on_message_complete()
            return
        exchange.complete = True
        if exchange.active and exchange.refusal is None:
            self.front.submit(exchange)

    # --- turns on the connection ------------------------------------------------------------------------------------

    def _take_asgi_way(self) -> None:
        url, headers, special = self.url, self.headers, self._special
        super().on_message_begin()
        self.url = url
        self.headers = headers
        self.scope["headers"] = headers
        self.expect_100_continue = special.get(b"expect", b"").lower() == b"100-continue"
        self.waiting_since = None
        super().on_headers_complete()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        if type(cycle) is Exchange:
            cycle.start()
        else:
            super()._start_asgi_task(cycle, app)

    def exchange_done(self, exchange: Exchange) -> None:
        """The answer of *exchange* is written: next in the pipeline, wait for more, or close."""
        self.server_state.total_requests += 1
        transport = self.transport
        if not exchange.keep_alive:
            self._closing = True
            if exchange.complete:
                transport.close()
            else:
                self._close_after_reading()
            return
        if transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        else:
            # Not a timer a request: the front looks at all connections once a second.
            self.waiting_since = self.front.now()

    def _close_after_reading(self) -> None:
        """Closing with unread input makes the kernel reset the connection, and the client may lose the answer; so end
        our side only, and go on discarding for a while."""
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(_LINGER_READING_S, self.transport.close)

    def shutdown(self) -> None:
        """The gateway drains: finish what runs; an idle connection is closed a little later, so that a request which is
        on its way right now still gets its answer."""
        cycle: Any = self.cycle
        if cycle is not None and not cycle.response_complete:
            newest: Any = self.pipeline[0][0] if self.pipeline else cycle
            newest.keep_alive = False
        else:
            self.loop.call_later(self.front.linger_s, self._close_idle)

    def _close_idle(self) -> None:
        cycle: Any = self.cycle
        if (cycle is None or cycle.response_complete) and not self.transport.is_closing():
            self.transport.close()


def _too_large(limit: int) -> Refusal:
    return Refusal(413, f"the body is larger than {limit} bytes")
