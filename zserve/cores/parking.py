"""Requests for endpoints that a router has not heard of yet: a gateway may know one before its router does."""

from __future__ import annotations

from collections.abc import Iterator

from ..channel.outbox import Peer
from ..wire.messages import Request

__all__ = ["MAX_PARKED", "PARK_S", "Parked", "Parking"]

PARK_S = 2.0
"""How long such a request waits for the news."""
MAX_PARKED = 10_000

Parked = tuple[Peer, Request, bytes, bytes]
"""(gateway, request, head, body)"""


class Parking:
    """Waiting requests by the endpoint that they are for, in the order in which they came."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[tuple[float, Parked]]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def park(self, parked: Parked, now: float) -> bool:
        """Keep a request; False when there is no more room."""
        if self._count >= MAX_PARKED:
            return False
        self._waiting.setdefault(parked[1].endpoint, []).append((now + PARK_S, parked))
        self._count += 1
        return True

    def take(self, endpoint: str) -> list[Parked]:
        """What waited for *endpoint*, which is known now."""
        found = self._waiting.pop(endpoint, [])
        self._count -= len(found)
        return [parked for _, parked in found]

    def expired(self, now: float) -> Iterator[Parked]:
        """Take out what has waited for too long."""
        for endpoint, waiting in list(self._waiting.items()):
            kept = [item for item in waiting if item[0] > now]
            over = waiting[: len(waiting) - len(kept)]
            self._count -= len(over)
            if kept:
                self._waiting[endpoint] = kept
            else:
                del self._waiting[endpoint]
            for _, parked in over:
                yield parked

    def drain(self) -> list[Parked]:
        """Take out everything."""
        found = [parked for waiting in self._waiting.values() for _, parked in waiting]
        self._waiting.clear()
        self._count = 0
        return found
