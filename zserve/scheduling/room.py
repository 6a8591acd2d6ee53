"""What all queues of a router may hold together, in bytes of requests.

Half of it is dealt out evenly: every backend can always queue its share, however much others have piled up.  The other
half goes to whoever needs more than the share, first come, first served.  So the whole is never exceeded, and a fabric
of one backend has all of it.
"""

from __future__ import annotations

from .deadline_heap import DeadlineHeap

__all__ = ["QUEUED_BYTES", "Room"]

QUEUED_BYTES = 512 * 1024 * 1024


class Room:
    """*limit*: bytes.  :attr:`share` is what each of the queues may hold without asking."""

    __slots__ = ("_heaps", "limit", "share")

    def __init__(self, limit: int = QUEUED_BYTES) -> None:
        self.limit = limit
        self.share = limit // 2
        self._heaps: list[DeadlineHeap] = []

    def add(self, heap: DeadlineHeap) -> None:
        self._heaps.append(heap)
        self._deal()

    def remove(self, heap: DeadlineHeap) -> None:
        self._heaps = [other for other in self._heaps if other is not heap]
        self._deal()

    @property
    def held(self) -> int:
        return sum(heap.size for heap in self._heaps)

    def lends(self, heap: DeadlineHeap, size: int) -> bool:
        """Whether *heap* may hold *size* bytes more, although that is more than its share."""
        share = self.share
        lent = sum(other.size - share for other in self._heaps if other is not heap and other.size > share)
        return lent + heap.size + size - share <= self.limit - share * max(1, len(self._heaps))

    def _deal(self) -> None:
        self.share = self.limit // 2 // max(1, len(self._heaps))
