"""How many deadlines lie at or before a time, without walking the heap.

Three levels of buckets (1 ms, 64 ms, 4.096 s) held in dictionaries: three additions to change, at most 64 + 64 + the
number of 4-second buckets in use to count.
"""

from __future__ import annotations

from typing import Any

__all__ = ["DeadlineIndex"]

_FINE_PER_S = 1000.0
_FAR_S = 4.0e9
"""A clock reading that no deadline of sense reaches; later ones count as this."""


class DeadlineIndex:
    __slots__ = ("_coarse", "_fine", "_wide")

    def __init__(self) -> None:
        self._fine: dict[tuple[int, int], int] = {}
        self._coarse: dict[tuple[int, int], int] = {}
        self._wide: dict[int, dict[int, int]] = {}

    def add(self, priority: int, deadline: float, count: int) -> None:
        """Count *deadline* (seconds) once more (1) or once less (-1)."""
        fine = int(min(deadline, _FAR_S) * _FINE_PER_S)
        _change(self._fine, (priority, fine), count)
        _change(self._coarse, (priority, fine >> 6), count)
        _change(self._wide.setdefault(priority, {}), fine >> 12, count)

    def count(self, priority: int, deadline: float) -> int:
        """Deadlines of the class at or before *deadline*; those within its millisecond count as before it."""
        fine = int(min(deadline, _FAR_S) * _FINE_PER_S)
        coarse, wide = fine >> 6, fine >> 12
        total = 0
        for bucket, held in self._wide.get(priority, {}).items():
            if bucket < wide:
                total += held
        coarses = self._coarse
        for bucket in range(wide << 6, coarse):
            total += coarses.get((priority, bucket), 0)
        fines = self._fine
        for bucket in range(coarse << 6, fine + 1):
            total += fines.get((priority, bucket), 0)
        return total


def _change(buckets: dict[Any, int], key: Any, count: int) -> None:
    held = buckets.get(key, 0) + count
    if held:
        buckets[key] = held
    else:
        buckets.pop(key, None)
