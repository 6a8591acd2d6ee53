"""One request and its answer on one connection: from the parsed request to the bytes of the answer.

An :class:`Exchange` stands where uvicorn has its RequestResponseCycle: the protocol makes one for each request of an
endpoint and calls it as the request comes in, the front calls it when the fabric has answered.
"""

from __future__ import annotations

import re
from binascii import hexlify
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from ..errors import Refusal
from ..wire.messages import STREAM_BROKEN, Result
from .answers import CONTENT_TYPES, KIND_HEADERS, KIND_TEXT, decode_headers
from .outflow import Outflow
from .parsed_head import ParsedHead
from .routes import Match

if TYPE_CHECKING:
    from .protocol import FabricProtocol

__all__ = ["Exchange"]

_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}\Z")
_HEADER_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_HEADER_VALUE = re.compile(rb"[^\x00-\x08\x0a-\x1f\x7f]*\Z")
_OWN_HEADERS = frozenset((b"connection", b"content-length", b"transfer-encoding", b"keep-alive", b"upgrade", b"date"))
_LARGE = 65_536
_TIMING = b"server-timing: queue;dur=%.2f, batch;dur=%.2f, run;dur=%.2f\r\n"  # milliseconds
_PREFIXES: dict[tuple[int, int], bytes] = {}


def _prefix(status: int, kind: int) -> bytes:
    """The status line, and what kind of content comes."""
    prefix = _PREFIXES.get((status, kind))
    if prefix is None:
        content_type = CONTENT_TYPES[kind]
        line = STATUS_LINE[status]
        prefix = line if content_type is None else b"%scontent-type: %s\r\n" % (line, content_type)
        _PREFIXES[(status, kind)] = prefix
    return prefix


_USUAL = [
    _prefix(200, kind).replace(b"%", b"%%")
    + b"%sx-request-id: %s\r\n"
    + _TIMING
    + b"content-length: %d\r\n\r\n%s"
    for kind in range(len(CONTENT_TYPES))
]
"""By kind: the whole of an answer that says nothing else."""


class _NoEvent:
    """uvicorn sets its cycle's event; nobody waits for ours."""

    def set(self) -> None:
        pass


_NO_EVENT = _NoEvent()


class Exchange(msgspec.Struct, eq=False):
    """One request and its answer on one connection."""

    message_event: ClassVar[_NoEvent] = _NO_EVENT

    protocol: FabricProtocol
    head: ParsedHead
    keep_alive: bool = True
    match: Match | None = None
    flight: Any = None
    outflow: Outflow | None = None
    refusal: tuple[Refusal, list[tuple[bytes, bytes]]] | None = None
    parts: list[bytes] | tuple[()] = ()
    size: int = 0
    active: bool = False
    complete: bool = False
    disconnected: bool = False
    response_complete: bool = False

    def take_body(self) -> bytes:
        """All of it; the parts are not kept beside it."""
        parts, self.parts = self.parts, ()
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
        elif self.head.special.get(b"expect", b"").lower() == b"100-continue":
            self.protocol.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def refuse(self, refusal: Refusal, headers: list[tuple[bytes, bytes]] | None = None) -> None:
        """Answer without asking the fabric; the rest of the request's body is not wanted."""
        if self.refusal is not None or self.response_complete:
            return
        head = self.head
        if not self.complete and (head.special.get(b"content-length", b"0") != b"0" or head.is_chunked):
            self.keep_alive = False
        self.refusal = (refusal, headers or [])
        if self.active:
            self._answer_refusal()

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
        if (
            result.status == 200
            and not (head or result.origin or result.streams or result.retry_after_us >= 0)
            and 0 <= result.kind < len(_USUAL)
            and self.keep_alive
            and len(body) < _LARGE
            and self.head.method != "HEAD"
        ):
            self._answer_as_usual(result, body)
        else:
            self._answer_in_full(result, head, body)

    def _answer_in_full(self, result: Result, head: bytes, body: bytes) -> None:
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
        timing = _TIMING % (result.queue_us * 0.001, result.batch_us * 0.001, result.run_us * 0.001)
        self._write(status, kind, headers, body, timing, result.streams)

    def _answer_as_usual(self, result: Result, body: bytes) -> None:
        """The same bytes as :meth:`_write` would, in one go: 200, and no header of its own."""
        protocol = self.protocol
        special = self.head.special
        request_id = special.get(b"x-request-id") if special else None
        if request_id is None or not _REQUEST_ID.match(request_id):
            request_id = hexlify(result.id)
        front = protocol.front
        answer = _USUAL[result.kind] % (
            front.common_headers(),
            request_id,
            result.queue_us * 0.001,
            result.batch_us * 0.001,
            result.run_us * 0.001,
            len(body),
            body,
        )
        gathering = front.gathering
        if gathering is None or not gathering.take(protocol, answer):
            protocol.transport.write(answer)
        self.response_complete = True
        self.flight = None
        protocol.exchange_done(self)

    def _write(
        self,
        status: int,
        kind: int,
        headers: list[tuple[bytes, bytes]],
        body: bytes,
        timing: bytes,
        streams: bool = False,
    ) -> None:
        protocol = self.protocol
        special = self.head.special
        given = special.get(b"x-request-id") if special else None
        if given is not None and _REQUEST_ID.match(given):
            request_id = given
        elif self.flight is not None:
            request_id = hexlify(self.flight.message.id)
        else:
            request_id = protocol.front.new_request_id()
        out = [_prefix(status, kind), protocol.front.common_headers(), b"x-request-id: ", request_id, b"\r\n", timing]
        for name, value in headers:
            out += (name, b": ", value, b"\r\n")
        if streams and status not in (204, 304):
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
        if self.head.method == "HEAD":
            body = b""
        transport = protocol.transport
        if len(body) < _LARGE:
            out.append(body)
            transport.write(b"".join(out))
        else:
            transport.write(b"".join(out))
            transport.write(body)
        self.response_complete = True
        self.parts = ()
        self.flight = None  # whose token is this exchange: a cycle that only the collector would end
        protocol.exchange_done(self)

    def _stream(self, out: list[bytes], body: bytes) -> None:
        """An answer whose length nobody knows yet: its headers and its first piece."""
        if self.head.old:
            self.keep_alive = False
        else:
            out.append(b"transfer-encoding: chunked\r\n")
        out.append(b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n")
        protocol = self.protocol
        protocol.transport.write(b"".join(out))
        self.parts = ()
        if self.head.method == "HEAD":
            protocol.front.abandon(self)
            self._finish()
            return
        self.outflow = Outflow(self.flight, protocol.transport, protocol.front, chunked=not self.head.old)
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
            self.protocol.cut_off(self.head.old)
            return
        self.outflow.write(body)
        if end:
            self.outflow.finish()
            self._finish()

    def _finish(self) -> None:
        self.response_complete = True
        self.flight = self.outflow = None
        self.protocol.exchange_done(self)

    def drop(self) -> None:
        """The connection is gone."""
        self.disconnected = True
        if self.flight is not None and not self.response_complete:
            self.protocol.front.abandon(self)
        self.flight = self.outflow = None
