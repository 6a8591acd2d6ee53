"""HTTP/1.1 towards clients: uvicorn's protocol, with a short path for endpoint traffic.

uvicorn parses, keeps connections and pipelines; system pages and everything unusual take its ASGI way.  A request for
an endpoint does not: no scope, no task, no future, no event.  In a prototype of the whole path, echo at 64 connections,
that made 63,000 requests/s out of 27,000.  An :class:`Exchange` stands where uvicorn has its RequestResponseCycle.
"""

from __future__ import annotations

import logging
import socket
import struct
import urllib.parse
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from ..errors import Refusal
from ..security.tokens import Unauthorized
from ..wire.codec import LARGE
from .body import BodyReader
from .exchange import Exchange
from .parsed_head import ParsedHead, head_to_remember
from .routes import NoMatch
from .strict import BETWEEN, BODY, StrictProtocol

__all__ = ["Exchange", "FabricProtocol"]

_METHODS = b"DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"
_LINGER_READING_S = 2.0
_UNREAD_S = 0.02
_PART_BYTES = 64
"""What a piece of a body takes besides its bytes: a body may come in very many."""

_AT_SPEED = 16_384
"""A client that has sent so much of a large body is worth some memory for the rest."""
_UNLIKE = 4
"""After so many requests in a row that were not like the one before, the connection's heads are not remembered."""

log = logging.getLogger("zserve.http")


class FabricProtocol(StrictProtocol):
    """uvicorn's protocol class of one gateway; ``front`` is set on a subclass made for that gateway."""

    __slots__ = (
        "_address",
        "_body_left",
        "_held",
        "_known",
        "_reader",
        "_unlike",
        "active",
        "descriptor",
    )

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        front = self.front
        limits = front.limits
        self.active: Exchange | None = None
        self._held = 0  # of a body that has not come to its end, what front.receiving_bytes has
        self._address = ""
        self._known: ParsedHead | None = None  # of the last request, if one like it could be coming
        self._unlike = 0  # how many in a row were not like the one before
        self._body_left = 0  # bytes to come of a body that goes past the parser
        self._reader: BodyReader | None = None  # of such a body, if it has the connection
        self.descriptor = -1  # of the socket, if what is written there is what the client gets
        if front.gatherer is not None and self.scheme == "http":  # TLS is in between otherwise
            self.descriptor = transport.get_extra_info("socket").fileno()
        if self.client:
            self._address, count = front.addresses.enter(self.client[0])
            if count > limits.connections_per_address:
                most = limits.connections_per_address
                self._turn_away(Refusal(429, f"there are {most} connections from this address, its limit", 1.0))
                return
        if len(self.connections) > limits.connections:
            self._turn_away(Refusal(503, f"this gateway has {limits.connections} connections, its limit", 1.0))

    def _turn_away(self, refusal: Refusal) -> None:
        self.front.crowd.turn_away(refusal.reason, self.client_name, self.front.now())
        self._fail(refusal)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._address:
            self.front.addresses.leave(self._address)
        self._release()
        self._reader = None
        if self.active is not None:
            self.active.drop()  # the newest one, uvicorn's cycle, may be waiting behind it
        waiting: Any = self.pipeline
        for queued, _ in waiting:
            if type(queued) is Exchange:
                queued.drop()
        super().connection_lost(exc)

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

    def _fail(self, refusal: Refusal, linger: bool = False) -> None:
        """Answer what can not be taken for a request, and end the connection; *linger*: more of it may be coming."""
        if self._closing:
            return
        self._closing = True
        self.front.rejected += 1
        cycle: Any = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.keep_alive = False
            if type(cycle) is Exchange and not cycle.complete:
                cycle.complete = not linger
                cycle.refuse(refusal)
            return  # the answers to what came before it come first, and then the end
        body = (refusal.reason + "\n").encode()
        retry = b"" if refusal.retry_after_s is None else b"retry-after: %d\r\n" % max(1, refusal.retry_after_s)
        self.transport.write(
            b"%s%scontent-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\n%sconnection: close\r\n\r\n%s"
            % (STATUS_LINE[refusal.status], self.front.common_headers(), len(body), retry, body)
        )
        if linger:
            self._close_after_reading()
        else:
            self.transport.close()

    def _look_after_answer(self, now: float) -> None:
        exchange = self.active
        if exchange is None or exchange.outflow is None or exchange.response_complete:
            return
        idle_s = exchange.outflow.idle_s(now)
        if idle_s > self._limits.stream_idle_s:
            log.warning("a streamed answer was cut off: nothing moved for %.0f s", idle_s)
            self.cut_off(hard=True)

    # --- requests that are like the one before ----------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._body_left:
            data = self._take_part(data)
            if not data:
                return
        idle = self.waiting_since is not None and self._phase == BETWEEN
        known = self._known
        if known is not None:
            if idle and len(data) == known.whole and data.startswith(known.raw) and self._again(known, data):
                return
            self._known = None
            self._unlike += 1
        super().data_received(data)
        if self._phase == BODY:
            self._leave_parser()
        elif idle and self._phase == BETWEEN and self._unlike < _UNLIKE:
            self._remember(data)

    def _remember(self, data: bytes) -> None:
        """*data* was one whole request, if all is as usual: the next one may be the same, but for the body."""
        exchange: Any = self.cycle
        if type(exchange) is not Exchange or exchange.response_complete or not exchange.keep_alive or self._closing:
            return
        head = exchange.head
        head.raw = head_to_remember(head, data, exchange.size)
        if head.raw:
            head.whole = len(data)
            self._known = head

    def _again(self, known: ParsedHead, data: bytes) -> bool:
        """A request that begins as the one before, and is as long; False where the parser has to see it."""
        front = self.front
        if front.draining or self._closing:
            return False
        try:
            match = front.match(known.method, known.path, known.headers)
        except (NoMatch, Unauthorized):
            return False
        size = len(data) - len(known.raw)
        exchange = Exchange(
            self, known, True, match, parts=[data[-size:]] if size else (), size=size, active=True, complete=True
        )
        self.active = exchange
        self.cycle = exchange  # type: ignore[assignment]
        self.waiting_since = None
        self._unlike = 0
        front.submit(exchange)
        return True

    # --- large bodies -----------------------------------------------------------------------------------------------

    def _leave_parser(self) -> None:
        """The rest of a large body of known length need not go through the parser, which would copy it; where much has
        come already, a reader takes it from the socket."""
        exchange: Any = self.cycle
        if type(exchange) is not Exchange or exchange.refusal is not None or self._closing:
            return
        special = exchange.head.special
        length = special.get(b"content-length") if special else None
        if length is None or exchange.head.is_chunked or self.parser.should_upgrade():
            return
        left = int(length) - exchange.size
        if left < LARGE:
            return
        self._body_left = left
        if exchange.size >= _AT_SPEED and self.scheme == "http":  # TLS has buffers of its own in between
            reader = BodyReader(self, exchange.parts, left)
            try:
                self.transport.set_protocol(reader)
            except NotImplementedError:
                return
            exchange.parts = ()
            self._body_left = 0
            self._reader = reader
            self._count_body()
            self._look_after_reader(exchange)

    def body_came(self, reader: BodyReader, count: int) -> None:
        """*reader* has got the next *count* bytes."""
        exchange: Any = self.cycle
        exchange.size += count
        self._received = count
        if not reader.left and not self._closing and exchange.refusal is None:
            self._reader = None
            self.transport.set_protocol(self)
            exchange.parts = [reader.body()]
            self.parser = self._new_parser()  # the one before still waits for this body
            self.on_message_complete()
            return
        if reader.left and not self._closing:
            self._in_parts()
        self._look_after_reader(exchange)

    def _look_after_reader(self, exchange: Exchange) -> None:
        """What is read of a request that has been refused is thrown away, here."""
        if self._closing or exchange.refusal is not None or exchange.response_complete:
            self._reader = None
            self.transport.set_protocol(self)

    def _ignore_upgrade(self, special: dict[bytes, bytes]) -> None:
        """The client offers to go on in another protocol, which nobody here speaks, so the request is like any other
        (RFC 9110, 7.8).  The parser takes what follows for that protocol; but it is the body."""
        self._body_left = int(special.get(b"content-length", b"0"))

    def _take_part(self, data: bytes) -> bytes:
        """The next part of a body whose end is known.  What comes behind that end is returned."""
        if self._closing:
            return b""
        part, rest = data, b""
        if len(data) > self._body_left:
            part, rest = data[: self._body_left], data[self._body_left :]
        self._body_left -= len(part)
        self._received = len(part)
        self.on_body(part)
        if self._body_left:
            self._in_parts()
        else:
            self.parser = self._new_parser()  # the one before still waits for this body
            self.on_message_complete()
        return rest

    # --- parser callbacks -------------------------------------------------------------------------------------------

    def on_headers_complete(self) -> None:
        parser, front, limits, special = self.parser, self.front, self._limits, self._special
        self._phase = BODY
        self._part_since = -1.0
        existing: Any = self.cycle
        first = existing is None or existing.response_complete
        if self._closing or not first:
            self._check_turn(existing)
        headers = self.headers
        if len(headers) > limits.headers:
            self._reject(431, f"there are more than {limits.headers} headers")
        if self._received > limits.url_bytes:
            self._check_sizes()
        old = False
        if parser.get_http_version() != "1.1":
            self._check_version(parser.get_http_version())
            old = True
        if self._hosts != 1 and not (old and not self._hosts):
            self._reject(400, "a request has one Host header")
        if special and b"transfer-encoding" in special:
            self._check_coding(old)
        method = parser.get_method().decode("ascii")
        url = self.url
        if not url.startswith(b"/") or method == "CONNECT":
            url = self._origin_form(method, url)
        if url.startswith(b"/-/"):
            self.url = url
            self._take_asgi_way(headers, special)
            return
        path_bytes, _, query = url.partition(b"?")
        path = path_bytes.decode("latin-1")
        if "%" in path or not path.isascii():
            path = urllib.parse.unquote(path, errors="replace")
        keep_alive = not old and parser.should_keep_alive() and not front.draining
        exchange = Exchange(self, ParsedHead(method, path, query, headers, special, old), keep_alive)
        self.waiting_since = None
        try:
            exchange.match = front.match(method, path, headers)
        except Unauthorized as error:
            exchange.refuse(error.refusal, error.headers)
        except NoMatch as error:
            if path == "*":
                exchange.refuse(Refusal(200, "ok"), [(b"allow", _METHODS)])
            elif error.allowed is None:
                exchange.refuse(front.core.no_endpoint(path))
            else:
                allow = ", ".join(error.allowed)
                exchange.refuse(
                    Refusal(405, f"{method} is not allowed at {path[:200]}, only {allow}"),
                    [(b"allow", allow.encode("latin-1"))],
                )
        else:
            length = special.get(b"content-length")
            # Header values are digits only here: llhttp refuses other content lengths.
            if length is not None and int(length) > limits.body_bytes:
                exchange.refuse(_too_large(limits.body_bytes))
        self.cycle = exchange  # type: ignore[assignment]
        if special and parser.should_upgrade():
            self._ignore_upgrade(special)
        if first:
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
        if exchange.parts:
            exchange.parts.append(body)
        else:
            exchange.parts = [body]
        exchange.size += len(body)
        if exchange.size > self._limits.body_bytes:
            exchange.parts = ()
            exchange.refuse(_too_large(self._limits.body_bytes))

    def _count_body(self) -> None:
        exchange: Any = self.cycle
        if type(exchange) is not Exchange:
            return
        front = self.front
        held = exchange.size + _PART_BYTES * len(exchange.parts) if self._reader is None else self._reader.held
        if exchange.refusal is not None:
            held = 0
        front.receiving_bytes += held - self._held
        self._held = held
        if held and front.full:
            exchange.parts = ()
            self._release()
            reason = f"the gateway holds {front.limits.held_bytes} bytes of request bodies, its limit"
            exchange.refuse(Refusal(429, reason, 1.0))

    def _release(self) -> None:
        self.front.receiving_bytes -= self._held
        self._held = 0

    def on_message_complete(self) -> None:
        if self._body_left:
            return  # the parser thinks so, see _ignore_upgrade
        self._phase = BETWEEN
        if self._held:
            self._release()
        exchange: Any = self.cycle
        if type(exchange) is not Exchange:
            super().on_message_complete()
            return
        exchange.complete = True
        if exchange.active and exchange.refusal is None:
            self.front.submit(exchange)

    # --- turns on the connection ------------------------------------------------------------------------------------

    def _take_asgi_way(self, headers: list[tuple[bytes, bytes]], special: dict[bytes, bytes]) -> None:
        url = self.url
        HttpToolsProtocol.on_message_begin(self)
        self.url = url
        self.headers = headers
        self.scope["headers"] = headers
        self.expect_100_continue = special.get(b"expect", b"").lower() == b"100-continue"
        self.waiting_since = None
        super().on_headers_complete()
        if special.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in special:
            self.cycle.keep_alive = False  # nobody reads it

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        if type(cycle) is Exchange:
            cycle.start()
        else:
            super()._start_asgi_task(cycle, app)

    def exchange_done(self, exchange: Exchange) -> None:
        """The answer of *exchange* is written, or about to be: next in the pipeline, wait for more, or close."""
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
        if self.pipeline or self.flow.read_paused:
            self._next_turn()
        else:
            self.waiting_since = self.front.now()

    def on_response_complete(self) -> None:
        """The same for uvicorn's cycles, which close the connection themselves."""
        self.server_state.total_requests += 1
        if not self.transport.is_closing():
            self._next_turn()

    def _next_turn(self) -> None:
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            if not self.pipeline:
                self.flow.resume_reading()
            self._start_asgi_task(cycle, app)
        else:
            self.flow.resume_reading()
            self.waiting_since = self.front.now()

    def _close_after_reading(self) -> None:
        """Closing with unread input makes the kernel reset the connection, and the client may lose the answer; so end
        our side only, and go on discarding for a while."""
        if not self.transport.can_write_eof():
            self.transport.close()
            return
        self.flow.resume_reading()
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
            if self.has_unread():
                self.loop.call_later(_UNREAD_S, self._close_idle)
            else:
                self.transport.close()


def _too_large(limit: int) -> Refusal:
    return Refusal(413, f"the body is larger than {limit} bytes")
