"""HTTP/1.1 towards clients: uvicorn's protocol, with a short path for endpoint traffic.

uvicorn parses, keeps connections and pipelines; system pages and everything unusual take its ASGI way.  A request for
an endpoint does not: no scope, no task, no future, no event.  In a prototype of the whole path, echo at 64 connections,
that made 63,000 requests/s out of 27,000.  An :class:`Exchange` stands where uvicorn has its RequestResponseCycle.
"""

from __future__ import annotations

import re
import socket
import struct
import urllib.parse
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from ..errors import Refusal
from ..wire.messages import FLAG_IDEMPOTENT, FLAG_STREAMS, FLAG_WEB, STREAM_BROKEN, Result
from .answers import CONTENT_TYPES, KIND_HEADERS, KIND_TEXT, decode_headers
from .front import HttpFront
from .outflow import Outflow
from .routes import Match, NoMatch

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
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}\Z")
_HEADER_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_HEADER_VALUE = re.compile(rb"[^\x00-\x08\x0a-\x1f\x7f]*\Z")
_OWN_HEADERS = frozenset((b"connection", b"content-length", b"transfer-encoding", b"keep-alive", b"upgrade", b"date"))
_IDEMPOTENT = frozenset(("GET", "HEAD", "OPTIONS"))
_LINGER_READING_S = 2.0
_NO_SPECIAL: dict[bytes, bytes] = {}
_PREFIXES: dict[tuple[int, int], bytes] = {}


class _NoEvent:
    """uvicorn sets its cycle's event; nobody waits for ours."""

    def set(self) -> None:
        pass


_NO_EVENT = _NoEvent()


class Exchange:
    """One request and its answer on one connection."""

    __slots__ = (
        "active",
        "complete",
        "disconnected",
        "flags",
        "flight",
        "headers",
        "keep_alive",
        "match",
        "method",
        "old",
        "outflow",
        "parts",
        "path",
        "protocol",
        "query",
        "refusal",
        "response_complete",
        "size",
        "special",
    )

    message_event = _NO_EVENT

    def __init__(
        self,
        protocol: FabricProtocol,
        method: str,
        path: str,
        query: bytes,
        headers: list[tuple[bytes, bytes]],
        special: dict[bytes, bytes],
        keep_alive: bool,
        old: bool = False,
    ) -> None:
        """*old*: HTTP/1.0, whose answers have no chunks."""
        self.protocol = protocol
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.special = special
        self.keep_alive = keep_alive
        self.old = old
        self.flags = FLAG_WEB | FLAG_STREAMS
        if method in _IDEMPOTENT or (special and b"idempotency-key" in special):
            self.flags = FLAG_WEB | FLAG_STREAMS | FLAG_IDEMPOTENT
        self.match: Match | None = None
        self.flight: Any = None
        self.outflow: Outflow | None = None
        self.refusal: tuple[Refusal, list[tuple[bytes, bytes]]] | None = None
        self.parts: list[bytes] = []
        self.size = 0
        self.active = False
        self.complete = False
        self.disconnected = False
        self.response_complete = False

    def body(self) -> bytes:
        parts = self.parts
        if not parts:
            return b""
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def start(self) -> None:
        """It is this exchange's turn on its connection."""
        self.active = True
        self.protocol.active = self
        if self.refusal is not None:
            self._answer_refusal()
        elif self.complete:
            self.protocol.front.submit(self)
        elif self.special.get(b"expect", b"").lower() == b"100-continue":
            self.protocol.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def refuse(self, refusal: Refusal, headers: list[tuple[bytes, bytes]] | None = None) -> None:
        """Answer without asking the fabric; the rest of the request's body is not wanted."""
        if self.refusal is not None or self.response_complete:
            return
        if not self.complete and (self.special.get(b"content-length", b"0") != b"0" or self.is_chunked):
            self.keep_alive = False
        self.refusal = (refusal, headers or [])
        if self.active:
            self._answer_refusal()

    @property
    def is_chunked(self) -> bool:
        return b"transfer-encoding" in self.special

    def _answer_refusal(self) -> None:
        assert self.refusal is not None
        refusal, headers = self.refusal
        body = (refusal.reason + "\n").encode()
        if refusal.retry_after_s is not None:
            headers = [*headers, (b"retry-after", b"%d" % max(1, round(refusal.retry_after_s + 0.499)))]
        self._write(refusal.status, KIND_TEXT, headers, body, b"")

    def answer(self, result: Result, head: bytes, body: bytes) -> None:
        """The fabric's answer, or the beginning of a streamed one."""
        if self.disconnected or self.response_complete:
            return
        headers: list[tuple[bytes, bytes]] = []
        status, kind = result.status, result.kind
        if kind == KIND_HEADERS and head:
            try:
                headers = [
                    (name, value)
                    for name, value in decode_headers(head)
                    if name.lower() not in _OWN_HEADERS and _HEADER_NAME.match(name) and _HEADER_VALUE.match(value)
                ]
            except ValueError:
                status, kind, body = 502, KIND_TEXT, b"the replica sent an answer that is not valid\n"
        if not 200 <= status <= 599 or not 0 <= kind < len(CONTENT_TYPES):
            status, kind, body = 502, KIND_TEXT, b"the replica sent an answer that is not valid\n"
        if result.retry_after_us >= 0:
            headers.append((b"retry-after", b"%d" % max(1, -(-result.retry_after_us // 1_000_000))))
        if result.origin and body and kind == KIND_TEXT and not body.endswith(b"\n"):
            body += b"\n"
        timing = b"server-timing: queue;dur=%.2f, batch;dur=%.2f, run;dur=%.2f\r\n" % (
            result.queue_us * 0.001,
            result.batch_us * 0.001,
            result.run_us * 0.001,
        )
        self._write(status, kind, headers, body, timing, result.streams)

    def _write(
        self,
        status: int,
        kind: int,
        headers: list[tuple[bytes, bytes]],
        body: bytes,
        timing: bytes,
        streams: bool = False,
    ) -> None:
        prefix = _PREFIXES.get((status, kind))
        if prefix is None:
            content_type = CONTENT_TYPES[kind]
            line = STATUS_LINE[status]
            prefix = line if content_type is None else b"%scontent-type: %s\r\n" % (line, content_type)
            _PREFIXES[(status, kind)] = prefix
        protocol = self.protocol
        given = self.special.get(b"x-request-id") if self.special else None
        if given is not None and _REQUEST_ID.match(given):
            request_id = given
        elif self.flight is not None:
            request_id = self.flight.message.id.hex().encode()
        else:
            request_id = protocol.front.new_request_id()
        out = [prefix, protocol.front.common_headers(), b"x-request-id: ", request_id, b"\r\n", timing]
        for name, value in headers:
            out += (name, b": ", value, b"\r\n")
        if streams:
            self._stream(out, body)
            return
        if status not in (204, 304):
            out.append(b"content-length: %d\r\n" % len(body))
        else:
            body = b""
        if not self.keep_alive:
            out.append(b"connection: close\r\n\r\n")
        else:
            out.append(b"\r\n")
        if self.method == "HEAD":
            body = b""
        transport = protocol.transport
        if len(body) < 65_536:
            out.append(body)
            transport.write(b"".join(out))
        else:
            transport.write(b"".join(out))
            transport.write(body)
        self.response_complete = True
        self.parts = []
        protocol.exchange_done(self)

    def _stream(self, out: list[bytes], body: bytes) -> None:
        """An answer whose length nobody knows yet: its headers and its first piece."""
        if self.old:
            self.keep_alive = False
        else:
            out.append(b"transfer-encoding: chunked\r\n")
        out.append(b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n")
        protocol = self.protocol
        protocol.transport.write(b"".join(out))
        self.parts = []
        if self.method == "HEAD":
            protocol.front.abandon(self)
            self._finish()
            return
        self.outflow = Outflow(self.flight, protocol.transport, protocol.front, chunked=not self.old)
        if protocol.flow.write_paused:
            self.outflow.paused = True
        self.outflow.write(body)

    def piece(self, body: bytes, end: int) -> None:
        """The next piece of a streamed answer."""
        if self.disconnected or self.response_complete or self.outflow is None:
            return
        if end == STREAM_BROKEN:
            # Without a last chunk the client can tell that this is not all.
            self.response_complete = True
            self.protocol.cut_off(self.old)
            return
        self.outflow.write(body)
        if end:
            self.outflow.finish()
            self._finish()

    def _finish(self) -> None:
        self.response_complete = True
        self.protocol.exchange_done(self)

    def drop(self) -> None:
        """The connection is gone."""
        self.disconnected = True
        if self.flight is not None and not self.response_complete:
            self.protocol.front.abandon(self)


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
