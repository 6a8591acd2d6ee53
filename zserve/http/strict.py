"""What a request has to be like before anything looks at what it asks for: RFC 9112, sizes, and speed.

The parser (llhttp) refuses most of what is malformed by itself, bare line feeds, control characters, folded headers and
contradictory lengths among them.  Here is what it leaves to its user: hosts, targets, versions, transfer codings, and
limits.  What a request that came whole pays for them is a few comparisons; the rest is done for those that come in
parts.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import logging
import re
import termios
from typing import TYPE_CHECKING, Any, NoReturn

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ..errors import Refusal
from .limits import HttpLimits

if TYPE_CHECKING:
    from .front import HttpFront

__all__ = ["BETWEEN", "BODY", "Rejected", "StrictProtocol"]

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
_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(:[0-9]*)?\Z")  # RFC 3986, uri-host and port
_NO_SPECIAL: dict[bytes, bytes] = {}

BETWEEN, HEAD, BODY = 0, 1, 2
"""Where in a request the bytes received so far end."""

log = logging.getLogger("zserve.http")


class Rejected(Exception):
    """What was received is not a request to be served; out of the parser, which stops there."""


class StrictProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which refuses what is malformed, too large or too slow.  What a request is for, and how
    refusals are written, is for the subclass to say."""

    front: HttpFront

    __slots__ = (
        # uvicorn's own are in the instance's dict, which is quick to look at as long as there are no more than thirty.
        "_body_bytes",
        "_closing",
        "_good_host",
        "_hosts",
        "_limits",
        "_part_bytes",
        "_part_since",
        "_phase",
        "_received",
        "_refusal",
        "_special",
        "client_name",
        "waiting_since",
    )

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        front = self.front
        self._limits = front.limits
        self._special = _NO_SPECIAL
        self._hosts = 0
        self._good_host = b""
        self._phase = BETWEEN
        self._received = 0  # bytes of the latest read
        self._part_since = -1.0
        self._part_bytes = 0
        self._body_bytes = 0
        self._refusal: Refusal | None = None
        self._closing = False
        self.waiting_since: float | None = front.now()  # between two requests: since when the connection has been idle
        self.client_name = f"{self.client[0]}:{self.client[1]}" if self.client else ""

    def _new_parser(self) -> httptools.HttpRequestParser:
        """As uvicorn sets it up."""
        parser = httptools.HttpRequestParser(self)
        with contextlib.suppress(AttributeError):  # httptools before 0.6.3
            parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        self._received = len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            # Nothing else is spoken here: an offer to change the protocol is ignored (RFC 9110, 7.8).
            if rest := data[upgrade.args[0] :]:
                self.data_received(rest)
                return
        except httptools.HttpParserError as error:
            refusal = self._refusal
            if refusal is None and isinstance(error, httptools.HttpParserCallbackError):
                log.exception("a request from %s could not be taken in", self.client_name)
                refusal = Refusal(500, "the gateway failed at this request; its log says why")
            self._fail(refusal or Refusal(400, f"malformed HTTP request: {error}"), linger=True)
            return
        if self._phase:
            self._in_parts()

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self._special = _NO_SPECIAL
        self._hosts = 0
        self._phase = HEAD
        self._part_since = -1.0

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        self.headers.append((name, value))
        if name in _SPECIAL:
            if self._special is _NO_SPECIAL:
                self._special = {}
            self._special[name] = value
        elif name == b"host":
            self._hosts += 1
            if value != self._good_host:
                if not _HOST.match(value):
                    self._reject(400, "the Host header is not valid")
                self._good_host = value

    def has_unread(self) -> bool:
        """Whether a request lies in the kernel that nobody has read yet.

        Timers are served before sockets, so an event loop that was held up would close a connection as idle which is
        not, and the client would find it reset."""
        connection = self.transport.get_extra_info("socket")
        if connection is None:
            return False
        count = array.array("i", [0])
        try:
            fcntl.ioctl(connection.fileno(), termios.FIONREAD, count)
        except OSError:
            return False
        return count[0] > 0

    # --- for the subclass -------------------------------------------------------------------------------------------

    def _fail(self, refusal: Refusal, linger: bool = False) -> None:
        raise NotImplementedError

    def _count_body(self) -> None:
        """More has come of a body that is not complete."""
        raise NotImplementedError

    def _look_after_answer(self, now: float) -> None:
        """A request has been received and is not answered to its end."""
        raise NotImplementedError

    def _reject(self, status: int, reason: str) -> NoReturn:
        self._refusal = Refusal(status, reason)
        raise Rejected

    # --- requests that come in parts --------------------------------------------------------------------------------

    def _in_parts(self) -> None:
        """What was received ends inside of a request: see that it gets neither too large nor too slow."""
        limits = self._limits
        if self._phase == HEAD:
            if self._part_since < 0.0:
                self._part_since = self.front.now()
                self._part_bytes = self._head_size()
            else:
                self._part_bytes += self._received
            if len(self.url) > limits.url_bytes:
                self._fail(_url_too_long(limits), linger=True)
            elif self._part_bytes > limits.header_bytes + len(self.url):
                self._fail(_headers_too_large(limits), linger=True)
            return
        self._count_body()
        if self._part_since < 0.0:
            self._part_since = self.front.now()
            self._part_bytes = self._body_bytes = 0
            return
        self._part_bytes += self._received
        self._body_bytes += self._received
        size: int = getattr(self.cycle, "size", 0)
        # The smallest chunk has six bytes for one; what has many more is extensions and trailers.
        if self._body_bytes > limits.header_bytes + 16 * size:
            self._fail(Refusal(431, "the chunks' extensions or the trailers are too large"), linger=True)

    def _head_size(self) -> int:
        return sum([len(name) + len(value) + 4 for name, value in self.headers])

    def look_after(self, now: float) -> None:
        """Once a second, not by a timer for each request: end what is idle, or too slow."""
        limits = self._limits
        if self._phase == HEAD:
            if now - self._part_since > limits.header_s:
                self._fail(Refusal(408, f"the headers took longer than {limits.header_s:g} s"))
        elif self._phase == BODY:
            self._look_after_body(now)
        elif self.waiting_since is not None:
            if now - self.waiting_since > limits.keep_alive_s and not self.has_unread():
                self.transport.close()
        else:
            self._look_after_answer(now)

    def _look_after_body(self, now: float) -> None:
        limits = self._limits
        if self.pipeline:  # nothing is read until the requests before it have their answers
            self._part_since, self._part_bytes = now, 0
        elif now - self._part_since >= limits.body_grace_s:
            if self._part_bytes < limits.body_rate * limits.body_grace_s:
                text = f"the body came slower than {limits.body_rate} bytes/s over {limits.body_grace_s:g} s"
                self._fail(Refusal(408, text))
            self._part_since, self._part_bytes = now, 0

    # --- what the headers say ---------------------------------------------------------------------------------------

    def _check_turn(self, existing: Any) -> None:
        """May a request come while *existing*, the one before it, has no answer yet?  If not the connection ends with
        that one, and the client sends again what came behind it (RFC 9112, 9.3.2)."""
        if self._closing or not existing.keep_alive or len(self.pipeline) >= self._limits.pipelined:
            self._reject(429, "too many requests ahead of their answers")

    def _check_sizes(self) -> None:
        limits = self._limits
        if len(self.url) > limits.url_bytes:
            self._refusal = _url_too_long(limits)
            raise Rejected
        if self._head_size() > limits.header_bytes:
            self._refusal = _headers_too_large(limits)
            raise Rejected

    def _check_version(self, version: str) -> None:
        if version != "1.0":
            self._reject(505, f"HTTP/{version} is not spoken here, only HTTP/1.1")

    def _check_coding(self, old: bool) -> None:
        """RFC 9112, 6.1.  What comes behind the last chunk are trailers, which are nobody's headers."""
        given = [value.strip().lower() for name, value in self.headers if name == b"transfer-encoding"]
        if old:
            self._reject(400, "HTTP/1.0 has no Transfer-Encoding")
        if given != [b"chunked"]:
            self._reject(501, "the only Transfer-Encoding understood is chunked")
        if self.parser.should_upgrade():  # the parser would take the chunks for the other protocol
            self._reject(501, "a chunked body with an offer to upgrade is not understood: leave out the Upgrade header")
        self.headers = []
        self._special = {}

    def _origin_form(self, method: str, url: bytes) -> bytes:
        """The other three forms of a request target (RFC 9112, 3.2)."""
        if method == "CONNECT":
            self._reject(501, "this is not a proxy: CONNECT is not spoken here")
        if url == b"*" and method == "OPTIONS":
            return url
        try:
            parsed = httptools.parse_url(url)
        except httptools.HttpParserInvalidURLError:
            parsed = None
        if parsed is None or parsed.schema not in (b"http", b"https") or not parsed.host or parsed.userinfo:
            self._reject(400, "malformed request target")
        # The target's host is the one that counts, whatever the header says.
        authority = url.split(b"/", 3)[2].partition(b"?")[0]
        self.headers[:] = [(name, authority if name == b"host" else value) for name, value in self.headers]
        path = parsed.path or b"/"
        return path if parsed.query is None else path + b"?" + parsed.query


def _url_too_long(limits: HttpLimits) -> Refusal:
    return Refusal(414, f"the request line is longer than {limits.url_bytes} bytes")


def _headers_too_large(limits: HttpLimits) -> Refusal:
    return Refusal(431, f"the headers are larger than {limits.header_bytes} bytes")
