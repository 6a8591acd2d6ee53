"""Earliest deadline first, with everything that a queue of requests needs around the heap.

Order: priority class, then deadline, then arrival.  Requests without a deadline wait in a line of their own behind
those with one, first in, first out; once the oldest of them has waited ``FAIRNESS_BOUND_S``, every ``FAIR_SHARE``-th
request taken is the head of that line, whatever else waits.  So they never starve, and they cannot starve others.

Method: binary heap, lazy deletion with compaction (a removed entry stays as a tombstone until it surfaces, and all
tombstones go once they are half of the heap): O(log n) to push, pop and remove.  Liu and Layland 1973 for EDF.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush

from ..config import QUEUE_ORDERS
from .deadline_index import DeadlineIndex
from .entry import NEW, NO_DEADLINE, QUEUED, Entry
from .priority_class import PriorityClass

__all__ = ["FAIRNESS_BOUND_S", "FAIR_SHARE", "PRIORITY_CLASSES", "DeadlineHeap"]

FAIRNESS_BOUND_S = 2.0
"""How long a request without a deadline may be overtaken by all others."""
FAIR_SHARE = 4
"""Past that bound, every fourth request taken comes from the line of those without a deadline."""
PRIORITY_CLASSES = 8
"""Priorities 0 (first) to 7; others are clamped."""
_INDEX_IDLE_S = 1.0
_MIN_DEAD = 64


class DeadlineHeap:
    """Queued entries of one backend.  ``live`` is how many, ``size`` how many bytes they hold.

    policy: "edf" or "fifo" (first in, first out within a priority class; deadlines still expire).
    """

    __slots__ = ("_classes", "_fair", "_fifo", "_index", "_index_used", "_only", "fairness_s", "live", "size")

    def __init__(self, policy: str = "edf", *, fairness_s: float = FAIRNESS_BOUND_S) -> None:
        if policy not in QUEUE_ORDERS:
            raise ValueError(f"queue order must be 'edf' or 'fifo', not {policy!r}")
        self._fifo = policy == "fifo"
        self.fairness_s = fairness_s
        self._classes: list[PriorityClass] = [PriorityClass(0)]  # sorted by priority; never empty
        self._only: PriorityClass | None = self._classes[0]  # the class, while there is but one
        self._fair = 0  # taken since the line had its turn
        self._index: DeadlineIndex | None = None
        self._index_used = 0.0
        self.live = 0
        self.size = 0

    def __len__(self) -> int:
        return self.live

    # --- in -----------------------------------------------------------------------------------------------------------

    def push(self, entry: Entry) -> None:
        """Add *entry* behind its equals; its ``seq`` must be higher than that of any before."""
        place = self._only
        if place is None or entry.priority != place.priority:
            place = self._class_of(entry.priority)
        entry.state = QUEUED
        self.live += 1
        self.size += entry.size
        deadline = entry.deadline
        if deadline == NO_DEADLINE:
            place.line.append(entry)
            return
        if deadline > place.latest or self.live == 1:
            place.latest = deadline
        if deadline < place.edge:
            heappush(place.heap, entry)
            if len(place.heap) > place.most:
                place.split()
        else:
            place.put_far(entry)
        if self._index is not None:
            self._index.add(place.priority, deadline, 1)
        if self._fifo:
            place.line.append(entry)

    def put_back(self, entry: Entry) -> None:
        """Add *entry* again at the place that its ``seq`` gives it."""
        if entry.deadline != NO_DEADLINE and not self._fifo:
            self.push(entry)
            return
        self.push(entry)
        line = self._class_of(entry.priority).line
        line.pop()
        passed: list[Entry] = []  # it is among the oldest, so few are passed
        while line and line[0].seq < entry.seq:
            passed.append(line.popleft())
        line.appendleft(entry)
        line.extendleft(reversed(passed))

    def _class_of(self, priority: int) -> PriorityClass:
        priority = min(max(priority, 0), PRIORITY_CLASSES - 1)
        for place in self._classes:
            if place.priority == priority:
                return place
        place = PriorityClass(priority)
        self._classes.append(place)
        self._classes.sort(key=lambda known: known.priority)
        self._only = None
        return place

    # --- out ----------------------------------------------------------------------------------------------------------

    def pop(self, now: float) -> Entry | None:
        """The entry whose turn it is, removed; its state is up to the caller."""
        if not self.live:
            return None
        for place in self._classes:
            if self._live_in(place):
                break
        line = place.line
        if line:
            while line[0].state != QUEUED:
                line.popleft()
                place.line_dead -= 1
                if not line:
                    break
        if not self._fifo:
            if line or len(self._classes) > 1:
                due = self._due(now)
                if due is not None:
                    return self._pop_line(due)
            head = place.head()
            if head is not None:
                heappop(place.heap)
                self._fair += 1
                self._leave(place, head)
                return head
        return self._pop_line(place)

    def _live_in(self, place: PriorityClass) -> int:
        in_line = len(place.line) - place.line_dead
        return in_line if self._fifo else in_line + place.dated

    def take(self, most: int, now: float) -> list[Entry]:
        """Up to *most* entries as :meth:`pop` would give them, in one go."""
        taken: list[Entry] = []
        place = self._only
        if place is None or self._fifo or self._index is not None or (place.line and place.dated):
            while len(taken) < most:
                entry = self.pop(now)
                if entry is None:
                    break
                taken.append(entry)
            return taken
        size = 0
        if not place.line:
            while len(taken) < most and (place.heap or place.promote()):
                entry = heappop(place.heap)
                if entry.state == QUEUED:
                    entry.state = NEW
                    size += entry.size
                    taken.append(entry)
                else:
                    place.dead -= 1
            self._fair += len(taken)
        else:
            line = place.line
            while line and len(taken) < most:
                entry = line.popleft()
                if entry.state == QUEUED:
                    entry.state = NEW
                    size += entry.size
                    taken.append(entry)
                else:
                    place.line_dead -= 1
            self._fair = 0
        self.live -= len(taken)
        self.size -= size
        return taken

    def _due(self, now: float) -> PriorityClass | None:
        """The class whose line has a turn by the fairness bound."""
        if self._fair < FAIR_SHARE - 1:
            return None
        oldest: PriorityClass | None = None
        for place in self._classes:
            line = place.line
            while line and line[0].state != QUEUED:
                line.popleft()
                place.line_dead -= 1
            if line and (oldest is None or line[0].arrived < oldest.line[0].arrived):
                oldest = place
        if oldest is not None and oldest.line[0].arrived + self.fairness_s <= now:
            return oldest
        return None

    def _pop_line(self, place: PriorityClass) -> Entry:
        line = place.line
        entry = line.popleft()
        while entry.state != QUEUED:
            place.line_dead -= 1
            entry = line.popleft()
        self._fair = 0
        self._leave(place, entry)
        if self._fifo and entry.deadline != NO_DEADLINE:
            place.dead += 1  # its copy in the heap
            if place.dead > _MIN_DEAD and place.dead > place.dated:
                place.compact()
        return entry

    def _leave(self, place: PriorityClass, entry: Entry) -> None:
        entry.state = NEW
        self.live -= 1
        self.size -= entry.size
        if self._index is not None and entry.deadline != NO_DEADLINE:
            self._index.add(place.priority, entry.deadline, -1)

    def remove(self, entry: Entry) -> None:
        """Take a queued *entry* out; what it held is let go of at once, its tombstone later."""
        place = self._class_of(entry.priority)
        self._leave(place, entry)
        dated = entry.deadline != NO_DEADLINE
        if dated:
            place.dead += 1
        if not dated or self._fifo:
            place.line_dead += 1
        if (place.dead > _MIN_DEAD and place.dead > place.dated) or (
            place.line_dead > _MIN_DEAD and place.line_dead * 2 > len(place.line)
        ):
            place.compact()

    def expired(self, now: float) -> list[Entry]:
        """All entries whose deadline is at or before *now*, removed, earliest first within each class."""
        gone: list[Entry] = []
        for place in self._classes:
            entry = place.head()
            while entry is not None and entry.deadline <= now:
                heappop(place.heap)
                self._leave(place, entry)
                if self._fifo:
                    place.line_dead += 1
                gone.append(entry)
                entry = place.head()
        return gone

    def drain(self) -> list[Entry]:
        """Everything, in no particular order; the heap is empty afterwards."""
        everything = list(self)
        for entry in everything:
            entry.state = NEW
        self._only = PriorityClass(0)
        self._classes = [self._only]
        self._index = None
        self.live = self.size = 0
        return everything

    def follow(self, policy: str) -> None:
        """From now on the order is that of *policy*, for what waits already too.

        Raises ValueError for an unknown one."""
        if policy not in QUEUE_ORDERS:
            raise ValueError(f"queue order must be 'edf' or 'fifo', not {policy!r}")
        if self._fifo == (policy == "fifo"):
            return
        waiting = sorted(self.drain(), key=lambda entry: entry.seq)
        self._fifo = not self._fifo
        self._fair = 0
        for entry in waiting:
            self.push(entry)

    # --- looking ------------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Entry]:
        for place in self._classes:
            if not self._fifo:
                yield from place.all_dated()
            for entry in place.line:
                if entry.state == QUEUED:
                    yield entry

    def next_deadline(self) -> float:
        """The earliest deadline of all, ``inf`` when there is none.  Not necessarily the next one's to leave."""
        earliest = NO_DEADLINE
        for place in self._classes:
            if place.heap or place.far_keys:
                head = place.head()
                if head is not None and head.deadline < earliest:
                    earliest = head.deadline
        return earliest

    def count_ahead(self, priority: int, deadline: float, now: float) -> int:
        """How many queued entries would leave before a new one of this priority and deadline.

        Exact where all entries of the class are ahead (the usual case: deadlines that never go back), otherwise to
        the millisecond, counted in an index that is kept only while it is asked for.
        """
        ahead = 0
        for place in self._classes:
            if place.priority > priority:
                break
            if place.priority < priority or self._fifo or deadline == NO_DEADLINE:
                ahead += self._live_in(place)
            else:
                dated = place.dated
                if deadline >= place.latest:
                    ahead += dated
                elif dated:
                    if self._index is None:
                        self._index = self._build_index()
                    self._index_used = now
                    ahead += self._index.count(place.priority, deadline)
        return ahead

    def rest(self, now: float) -> None:
        """Give up the index when nobody has needed it for a second, and classes that are empty."""
        if self._index is not None and now - self._index_used > _INDEX_IDLE_S:
            self._index = None
        if len(self._classes) > 1:
            self._classes = [place for place in self._classes if self._live_in(place)] or [PriorityClass(0)]
            self._only = self._classes[0] if len(self._classes) == 1 else None

    def _build_index(self) -> DeadlineIndex:
        index = DeadlineIndex()
        for place in self._classes:
            deadlines = [entry.deadline for entry in place.all_dated()]
            place.latest = max(deadlines, default=0.0)
            for deadline in deadlines:
                index.add(place.priority, deadline, 1)
        return index
