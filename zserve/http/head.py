"""The head of a request: what the replica needs to know of the HTTP request besides its body.

The gateway encodes it once; routers pass the bytes on without looking inside; the replica decodes it when the user's
code first asks.  A msgpack array, whose fields are only ever appended, with a default.
"""

from __future__ import annotations

import msgspec

__all__ = ["RequestHead", "decode_head", "encode_head"]


class RequestHead(msgspec.Struct, array_like=True, gc=False):
    """One HTTP request without its body.

    http_method: "GET", "POST", ... in capitals.
    path: the path, percent-decoded.
    query: what stands after "?", as it was sent.
    headers: (name, value) pairs in the order in which they were sent, names in lower case.
    params: the variables of the route's path by name, converted ("{n:int}" gives an int).
    client: "address:port" of the client, "" where it is not known.
    scheme: "http" or "https".
    root: the part of the path under which the application is mounted (WSGI's SCRIPT_NAME).
    kwargs: keyword arguments of a handle call, encoded; b"" for none.
    data: the argument of a handle call, encoded (see zserve.handles.values); b"" for None.  Over HTTP it is the body.
    """

    http_method: str
    path: str
    query: bytes = b""
    headers: list[tuple[bytes, bytes]] = []
    params: dict[str, str | int | float] = {}
    client: str = ""
    scheme: str = "http"
    root: str = ""
    kwargs: bytes = b""
    data: bytes = b""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(RequestHead)


def encode_head(head: RequestHead) -> bytes:
    """*head* as msgpack.  Raises OverflowError for an integer in ``params`` outside of 64 bits."""
    return _encoder.encode(head)


def decode_head(data: bytes) -> RequestHead:
    """The opposite of :func:`encode_head`; raises ``msgspec.MsgspecError`` for anything that is not a head."""
    try:
        return _decoder.decode(data)
    except UnicodeDecodeError as error:  # msgspec lets this one through
        raise msgspec.DecodeError(str(error)) from None
