"""The kinds of answer: how a result says its content type in one small number.

Most answers need one header only, and it is one of a few.  ``Result.kind`` names it; only kind 0 carries header pairs
in the result's head.  The numbers are part of the wire format: never reused, only added to.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import msgspec

__all__ = [
    "CONTENT_TYPES",
    "KIND_BYTES",
    "KIND_EMPTY",
    "KIND_HEADERS",
    "KIND_HTML",
    "KIND_JSON",
    "KIND_TEXT",
    "ORIGIN_CODE",
    "ORIGIN_GATEWAY",
    "ORIGIN_REPLICA",
    "ORIGIN_ROUTER",
    "Answer",
    "decode_headers",
    "encode_headers",
]

KIND_HEADERS = 0
"""The head holds the header pairs, content-type among them (or none, if the handler gave none)."""
KIND_TEXT = 1
"""Text: ``text/plain; charset=utf-8``."""
KIND_JSON = 2
"""JSON: ``application/json``."""
KIND_EMPTY = 3
"""No body, no content type."""
KIND_BYTES = 4
"""Bytes as the handler gave them: ``text/plain``, with no word about their encoding."""
KIND_HTML = 5
"""A page: ``text/html; charset=utf-8``."""

CONTENT_TYPES: tuple[bytes | None, ...] = (
    None,
    b"text/plain; charset=utf-8",
    b"application/json",
    None,
    b"text/plain",
    b"text/html; charset=utf-8",
)
"""The content type of each kind, by number; None where the kind has none of its own."""

ORIGIN_CODE = 0
"""The user's code answered."""
ORIGIN_REPLICA = 1
"""The replica answered in its place: the code raised, or was not run."""
ORIGIN_ROUTER = 2
ORIGIN_GATEWAY = 3

Answer: TypeAlias = tuple[int, int, bytes, bytes, int]
"""(status, kind, head, body, origin): what a handler's run makes of one call.  A plain tuple: one is made a request."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[tuple[bytes, bytes]])


def encode_headers(pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Header pairs (names in lower case) as the head of a result of kind 0."""
    return _encoder.encode(list(pairs))


def decode_headers(head: bytes) -> list[tuple[bytes, bytes]]:
    """The opposite of :func:`encode_headers`; raises ``msgspec.MsgspecError`` for anything else."""
    return _decoder.decode(head)
