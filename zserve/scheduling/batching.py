"""Forms a batch: as large as the tightest deadline in it still allows.

Requests leave in the heap's order; only those of the first one's method share its batch, others keep their place.
When the whole batch would be done too late for its tightest members, there are two ways: run fewer now, or give those
members up.  Whichever loses fewer requests is taken.  Under overload that is the second, because small batches make
the backend slower for all that waits (Nexus, SOSP '19, calls it early drop); with an urgent request among patient ones
it is the first.
"""

from __future__ import annotations

from .admission import Admission
from .deadline_heap import DeadlineHeap
from .entry import NO_DEADLINE, Entry
from .service_time import ServiceTimes

__all__ = ["BatchFormer"]

_GROWTH = 4
"""With a deadline to keep, a batch is at most four times the largest that has been measured."""
_ASIDE = 4
"""How many entries of other methods are passed over, in units of the largest batch."""


class BatchFormer:
    """Takes batches off a heap.  Those given up on are added to ``refused``."""

    __slots__ = ("_admission", "_heap", "_times", "refused")

    def __init__(self, heap: DeadlineHeap, times: ServiceTimes, admission: Admission) -> None:
        self._heap = heap
        self._times = times
        self._admission = admission
        self.refused: list[Entry] = []

    def hopeless(self, entry: Entry, start: float, n: int) -> bool:
        """Whether *entry*, begun at *start* together with *n* - 1 others, would be answered too late."""
        deadline = entry.deadline
        total = deadline - entry.arrived
        own = self._times.p95(n)
        if own > total:
            own = self._times.median(n)
        return start + own > deadline - min(self._admission.margin_s, 0.05 * total)

    def form(self, most: int, start: float, now: float, replicas: int) -> list[Entry]:
        """Up to *most* entries that a replica will begin at *start*; empty when all had to be refused.

        *replicas* is how many share the work that is left behind.
        """
        heap, times = self._heap, self._times
        aside: list[Entry] = []
        taken: list[Entry] = []
        certain = not times.seen or self._admission.idle_and_unsure(now)
        while True:
            self._collect(taken, aside, most, now)
            if certain or not taken:
                break
            tightest = min([entry.deadline for entry in taken])  # a list is faster here than a generator
            if tightest == NO_DEADLINE:
                break
            size = len(taken)
            if size > _GROWTH * times.largest:
                size = _GROWTH * times.largest
                aside.extend(taken[size:])
                del taken[size:]
                most = size
                continue
            if start + times.p95(size) <= tightest - self._admission.margin_s:
                break
            tight = [entry for entry in taken if entry.deadline != NO_DEADLINE and self.hopeless(entry, start, size)]
            if not tight:
                break
            lost = [entry for entry in tight if self.hopeless(entry, start, 1)]
            if not lost:
                fewer = self._fewer(taken, start)
                left = self._lost_after(taken[fewer:], start + times.mean(fewer) / replicas, len(tight))
                if left < len(tight) or (left == len(tight) and not heap.live):
                    aside.extend(taken[fewer:])
                    del taken[fewer:]
                    break
                lost = tight
            gone = {entry.seq for entry in lost}
            self.refused.extend(lost)
            taken = [entry for entry in taken if entry.seq not in gone]
            if not taken:  # whatever comes first now, of any method
                for entry in aside:
                    heap.put_back(entry)
                aside.clear()
        for entry in aside:
            heap.put_back(entry)
        return taken

    def _collect(self, taken: list[Entry], aside: list[Entry], most: int, now: float) -> None:
        passed = 0
        while len(taken) < most and passed < _ASIDE * most:
            fresh = self._heap.take(most - len(taken), now)
            if not fresh:
                return
            method = taken[0].method if taken else fresh[0].method
            same = [entry for entry in fresh if entry.method == method]
            taken.extend(same)
            if len(same) < len(fresh):
                aside.extend(entry for entry in fresh if entry.method != method)
                passed += len(fresh) - len(same)

    def _fewer(self, taken: list[Entry], start: float) -> int:
        """How many of *taken* can run now so that all of these are in time; at least 1."""
        low, high = 1, len(taken)
        while high - low > 1:
            middle = (low + high) // 2
            if any(e.deadline != NO_DEADLINE and self.hopeless(e, start, middle) for e in taken[:middle]):
                high = middle
            else:
                low = middle
        return low

    def _lost_after(self, rest: list[Entry], start: float, enough: int) -> int:
        """How many of *rest* would be too late in batches of their own from *start* on; stops counting at *enough*."""
        lost = 0
        while rest and lost <= enough:
            if rest[0].deadline != NO_DEADLINE and self.hopeless(rest[0], start, 1):
                lost += 1
                rest = rest[1:]
                continue
            fewer = len(rest)
            if any(e.deadline != NO_DEADLINE and self.hopeless(e, start, fewer) for e in rest):
                fewer = self._fewer(rest, start)
            start += self._times.mean(fewer)
            rest = rest[fewer:]
        return lost
