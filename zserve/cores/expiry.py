"""Deadlines of many things, most of which end long before."""

from __future__ import annotations

import heapq
from collections.abc import Container, Iterator

__all__ = ["Expiry"]

_SLACK = 1024


class Expiry:
    """A heap of (deadline, id); what has ended is left in it and skipped later.

    Compacted when less than half of it is alive, so its size stays within twice the number of things alive plus
    a constant, and the cost of a request stays O(log n).
    """

    __slots__ = ("_alive", "_heap", "_limit")

    def __init__(self, alive: Container[bytes]) -> None:
        """*alive* says which ids still matter."""
        self._alive = alive
        self._heap: list[tuple[float, bytes]] = []
        self._limit = _SLACK

    def add(self, deadline: float, key: bytes) -> None:
        """*key* has to be alive already: what is not may be gone from the heap at any time."""
        heap = self._heap
        heapq.heappush(heap, (deadline, key))
        if len(heap) > self._limit:
            alive = self._alive
            heap[:] = [item for item in heap if item[1] in alive]
            heapq.heapify(heap)
            self._limit = 2 * len(heap) + _SLACK

    def due(self, now: float) -> Iterator[bytes]:
        """Take out the ids whose deadline has passed and that are still alive."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            key = heapq.heappop(heap)[1]
            if key in self._alive:
                yield key

    def next(self) -> float | None:
        """The earliest deadline of something alive."""
        heap = self._heap
        while heap and heap[0][1] not in self._alive:
            heapq.heappop(heap)
        return heap[0][0] if heap else None
