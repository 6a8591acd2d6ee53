"""What the head of a request says, and what follows from it alone.

A client that keeps its connection mostly sends the same head again and again, to the byte: the same line, the same
headers, a body of the same length.  The connection remembers the last one (:attr:`ParsedHead.raw`); where a request
begins with just these bytes it need not be parsed, nor its head encoded for the replica, once more.  What may change
between two requests (routes, tokens, limits in force) is looked at each time.
"""

from __future__ import annotations

from ..wire.messages import FLAG_DEFAULT_DEADLINE, FLAG_IDEMPOTENT, FLAG_STREAMS, FLAG_WEB
from .routes import Match

__all__ = ["UNREAD", "ParsedHead", "head_to_remember"]

UNREAD = -1.0
_MAX_BYTES = 4096
"""Longer heads are not remembered: an idle connection should cost little."""
_IDEMPOTENT = frozenset(("GET", "HEAD", "OPTIONS"))
_END = b"\r\n\r\n"


class ParsedHead:
    """The head of one request, or of several that are the same.

    special: those headers that mean something to the gateway.  old: HTTP/1.0.  flags: those of the wire message.
    budget_s: what the client gives from the request's arrival, seconds, the gateway's default where it does not say;
    UNREAD as long as nobody has looked, and for ever where it is a time of day.  shard, call: ``X-Serve-Shard-Key`` and
    ``X-Serve-Call-Method``.  encoded: the head as the replica gets it, with the variables of the path that *match* has.
    raw: its bytes, with the empty line; b"" where it is not remembered.  whole: the size of such a request, body and
    all, in bytes.
    """

    __slots__ = (
        "budget_s",
        "call",
        "encoded",
        "flags",
        "headers",
        "match",
        "method",
        "old",
        "path",
        "query",
        "raw",
        "shard",
        "special",
        "whole",
    )

    def __init__(
        self,
        method: str,
        path: str,
        query: bytes,
        headers: list[tuple[bytes, bytes]],
        special: dict[bytes, bytes],
        old: bool = False,
    ) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.special = special
        self.old = old
        self.flags = FLAG_WEB | FLAG_STREAMS
        if method in _IDEMPOTENT or (special and b"idempotency-key" in special):
            self.flags = FLAG_WEB | FLAG_STREAMS | FLAG_IDEMPOTENT
        self.shard = self.call = ""
        if special:
            self.shard = special.get(b"x-serve-shard-key", b"").decode("latin-1")
            self.call = special.get(b"x-serve-call-method", b"").decode("latin-1")
        self.match: Match | None = None
        self.encoded = b""
        self.budget_s = UNREAD
        self.raw = b""
        self.whole = -1

    @property
    def is_chunked(self) -> bool:
        return b"transfer-encoding" in self.special

    def use_default(self, timeout_s: float) -> None:
        """The client says nothing of a deadline."""
        self.flags |= FLAG_DEFAULT_DEADLINE
        self.budget_s = timeout_s


def head_to_remember(head: ParsedHead, data: bytes, size: int) -> bytes:
    """The bytes of *head* in *data*, which is one read of a connection; b"" where a request that begins with the same
    bytes would have to be parsed all the same.  *size*: of the body that the parser found.

    Sure only where the read is the head and the body and nothing else, and the head ends where a parser of any leniency
    sees its end.
    """
    end = data.find(_END) + 4
    special = head.special
    stated = special.get(b"content-length", b"0") if special else b"0"
    if end < 4 or end > _MAX_BYTES or end + size != len(data) or int(stated) != size:
        return b""
    if head.old or (special and (b"expect" in special or b"transfer-encoding" in special)):
        return b""
    if data.count(b"\n", 0, end) != data.count(b"\r\n", 0, end):
        return b""
    return data[:end]
