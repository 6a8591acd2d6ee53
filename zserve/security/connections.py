"""Ending a TCP connection that ZeroMQ owns.

libzmq can refuse a connection, but not end one that a bound socket has accepted.  What it tells is the descriptor that
a message came in by.  By the time that somebody wants it cut, that number may stand for something else; so the two ends
of the connection are remembered with it, and compared on a duplicate, which nobody can close meanwhile.
"""

from __future__ import annotations

import os
import socket
from typing import Any

__all__ = ["Connections"]

_PRUNE_AT = 256


class Connections:
    """The connections of each key, as far as seen."""

    def __init__(self) -> None:
        self._seen: dict[tuple[Any, Any], tuple[int, bytes]] = {}
        self._prune_at = _PRUNE_AT

    def saw(self, descriptor: int, holder: bytes) -> None:
        """A message with the key of *holder* came in by *descriptor*."""
        if descriptor < 0:
            return
        ends = _ends(descriptor)
        if ends is not None:
            self._seen[ends] = (descriptor, holder)
            if len(self._seen) > self._prune_at:
                self._prune()

    def cut(self, holder: bytes) -> int:
        """End the connections of *holder*; the result is how many there were."""
        count = 0
        for ends, (descriptor, owner) in list(self._seen.items()):
            if owner == holder:
                del self._seen[ends]
                count += _shut(descriptor, ends)
        return count

    def holders(self) -> set[bytes]:
        return {holder for _, holder in self._seen.values()}

    def _prune(self) -> None:
        self._seen = {ends: seen for ends, seen in self._seen.items() if _ends(seen[0]) == ends}
        self._prune_at = max(_PRUNE_AT, 2 * len(self._seen))


def _ends(descriptor: int) -> tuple[Any, Any] | None:
    connection = _duplicate(descriptor)
    if connection is None:
        return None
    with connection:
        try:
            return connection.getsockname(), connection.getpeername()
        except OSError:
            return None


def _shut(descriptor: int, ends: tuple[Any, Any]) -> int:
    connection = _duplicate(descriptor)
    if connection is None:
        return 0
    with connection:
        try:
            if (connection.getsockname(), connection.getpeername()) != ends:
                return 0
            connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            return 0
    return 1


def _duplicate(descriptor: int) -> socket.socket | None:
    try:
        copy = os.dup(descriptor)
    except OSError:
        return None
    try:
        return socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        return None
