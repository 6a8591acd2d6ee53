"""The entries of one priority class: those with a deadline in a heap, those without in a line.

Past some thousand entries the heap holds only the earliest; later ones wait unsorted in buckets of 2 ms until their
turn comes near, which keeps the heap within the processor's cache (a two-level ladder queue; Tang, Goh and Thng 2005).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from heapq import heapify, heappop, heappush

from .entry import NO_DEADLINE, QUEUED, Entry

__all__ = ["HEAP_MOST", "PriorityClass"]

HEAP_MOST = 2048
"""Entries past which the heap is split."""
_BUCKETS_PER_S = 512.0
_FAR_S = 1e12
"""Deadlines beyond this clock reading share the last bucket."""


class PriorityClass:
    """One priority class: the heap of those with a deadline and the line of those without.

    In first-in-first-out mode everything is in the line, and the heap is there only to find what has expired.
    """

    __slots__ = ("dead", "edge", "far", "far_keys", "far_size", "heap", "latest", "line", "line_dead", "most",
                 "priority")  # fmt: skip

    def __init__(self, priority: int) -> None:
        self.priority = priority
        self.heap: list[Entry] = []
        self.most = HEAP_MOST  # entries past which the heap is to be split
        self.edge = NO_DEADLINE  # everything from here on is in the buckets
        self.far: dict[int, list[Entry]] = {}
        self.far_keys: list[int] = []  # a heap
        self.far_size = 0
        self.line: deque[Entry] = deque()
        self.dead = 0  # tombstones in heap and buckets
        self.line_dead = 0
        self.latest = 0.0  # no entry of the heap has a later deadline

    @property
    def dated(self) -> int:
        """Live entries of heap and buckets."""
        return len(self.heap) + self.far_size - self.dead

    def put_far(self, entry: Entry) -> None:
        key = int(min(entry.deadline, _FAR_S) * _BUCKETS_PER_S)
        bucket = self.far.get(key)
        if bucket is None:
            self.far[key] = [entry]
            heappush(self.far_keys, key)
        else:
            bucket.append(entry)
        self.far_size += 1

    def split(self) -> None:
        """The heap has grown: put its later half into buckets.  Equal deadlines stay together."""
        heap = self.heap
        heap.sort()
        at = len(heap) // 2
        edge = heap[at].deadline
        while at and heap[at - 1].deadline == edge:
            at -= 1
        if not at:  # all of the first half are equal
            at = bisect_right(heap, edge, key=_deadline)
        if at == len(heap):
            self.most = 2 * at
            return
        self.edge = heap[at].deadline
        for entry in heap[at:]:
            self.put_far(entry)
        del heap[at:]
        self.most = max(HEAP_MOST, 2 * at)

    def promote(self) -> bool:
        """The heap is empty: its next part is the first bucket.  False when there is none."""
        if not self.far_keys:
            self.edge = NO_DEADLINE
            return False
        key = heappop(self.far_keys)
        self.heap = self.far.pop(key)
        heapify(self.heap)
        self.far_size -= len(self.heap)
        self.most = max(HEAP_MOST, 2 * len(self.heap))
        self.edge = (key + 1) / _BUCKETS_PER_S if self.far_keys else NO_DEADLINE
        return True

    def head(self) -> Entry | None:
        """The entry with the earliest deadline; tombstones before it are dropped."""
        while self.heap or self.promote():
            entry = self.heap[0]
            if entry.state == QUEUED:
                return entry
            heappop(self.heap)
            self.dead -= 1
        return None

    def all_dated(self) -> Iterator[Entry]:
        """All entries of heap and buckets that are not tombstones."""
        for part in (self.heap, *self.far.values()):
            for entry in part:
                if entry.state == QUEUED:
                    yield entry

    def compact(self) -> None:
        self.heap = list(self.all_dated())
        heapify(self.heap)
        self.far.clear()
        self.far_keys.clear()
        self.far_size = 0
        self.edge = NO_DEADLINE
        self.line = deque(entry for entry in self.line if entry.state == QUEUED)
        self.dead = self.line_dead = 0


def _deadline(entry: Entry) -> float:
    return entry.deadline
