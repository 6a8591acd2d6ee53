"""Requests for endpoints that a router has not heard of yet: a gateway may know one before its router does."""

from __future__ import annotations

from collections.abc import Iterable

from ..channel.outbox import Peer
from ..wire.messages import Request

__all__ = ["MAX_PARKED", "MAX_PARKED_BYTES", "PARK_S", "Parked", "Parking"]

PARK_S = 2.0
"""How long such a request waits for the news."""
MAX_PARKED = 10_000
MAX_PARKED_BYTES = 64 * 1024 * 1024

Parked = tuple[Peer, Request, bytes, bytes]
"""(gateway, request, head, body)"""


class Parking:
    """Waiting requests by the endpoint that they are for, in the order in which they came."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[tuple[float, Parked]]] = {}
        self._count = 0
        self._bytes = 0

    def __len__(self) -> int:
        return self._count

    def park(self, parked: Parked, now: float) -> bool:
        """Keep a request; False when there is no more room."""
        size = _size(parked)
        if self._count >= MAX_PARKED or self._bytes + size > MAX_PARKED_BYTES:
            return False
        self._waiting.setdefault(parked[1].endpoint, []).append((now + PARK_S, parked))
        self._count += 1
        self._bytes += size
        return True

    def take(self, endpoint: str) -> list[Parked]:
        """What waited for *endpoint*, which is known now."""
        return self._left(parked for _, parked in self._waiting.pop(endpoint, []))

    def expired(self, now: float) -> list[Parked]:
        """Take out what has waited for too long."""
        over = []
        for endpoint, waiting in list(self._waiting.items()):
            kept = [item for item in waiting if item[0] > now]
            over += waiting[: len(waiting) - len(kept)]
            if kept:
                self._waiting[endpoint] = kept
            else:
                del self._waiting[endpoint]
        return self._left(parked for _, parked in over)

    def drain(self) -> list[Parked]:
        """Take out everything."""
        return [parked for endpoint in list(self._waiting) for parked in self.take(endpoint)]

    def _left(self, gone: Iterable[Parked]) -> list[Parked]:
        found = list(gone)
        self._count -= len(found)
        self._bytes -= sum(map(_size, found))
        return found


def _size(parked: Parked) -> int:
    return len(parked[2]) + len(parked[3])
