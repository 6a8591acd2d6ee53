"""How much one gateway takes from its HTTP clients, and how long it waits for it."""

from __future__ import annotations

import msgspec

__all__ = ["HttpLimits"]


class HttpLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sizes are bytes, times seconds.

    held_bytes: of all bodies together that have not been answered, those that are still coming included.
    connections: in total; connections_per_address: of one client address (see :mod:`.addresses`).
    pipelined: requests that one connection sends ahead of their answers.
    header_s: from a request's first byte to the end of its headers.  body_grace_s, body_rate: a body that brings less
    than *body_rate* bytes a second in any *body_grace_s* seconds is cut off.  keep_alive_s: between two requests.
    stream_idle_s: how long nothing may move in a streamed answer.
    """

    body_bytes: int = 64 * 1024 * 1024
    held_bytes: int = 1024 * 1024 * 1024
    header_bytes: int = 64 * 1024
    headers: int = 128
    url_bytes: int = 16 * 1024
    connections: int = 10_000
    connections_per_address: int = 8_000
    pipelined: int = 64
    header_s: float = 10.0
    body_grace_s: float = 10.0
    body_rate: int = 1024
    keep_alive_s: float = 75.0
    stream_idle_s: float = 60.0
