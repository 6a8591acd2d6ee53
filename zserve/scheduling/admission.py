"""Refuse early rather than fail late: can this request still be answered in time?

On arrival: work that leaves before it (earlier deadlines, higher priority) divided by what the backend does in
parallel, plus the p95 of its own service, against its budget (Lam, Ngan, To: EDF with admission keeps its guarantee
under overload).  Requests already at the replicas count with what is left of them; a replica that is overdue counts
with as much again as it is late, so a hung backend refuses instead of collecting requests.

Permissive where it knows nothing: without replicas requests wait for them, without samples all are let in, and an idle
backend whose samples are older than a second gets one request to learn from, whatever they say.
"""

from __future__ import annotations

from ..errors import Refusal
from .deadline_heap import DeadlineHeap
from .entry import NO_DEADLINE, Entry
from .replicas import Fleet
from .room import Room
from .service_time import ServiceTimes

__all__ = ["Admission"]

CAUTION = 1.25
"""What the estimated wait behind a backlog is multiplied with; the request's own service is taken at p95 instead."""
MARGIN_S = 0.002
"""Kept free for the answer's way back to the gateway, at most a twentieth of the budget."""
STALE_S = 1.0
_BOUND_STEP = 64
_FAR = 10.0
_FAR_KEEP_S = 0.1
"""Whoever has so many times what everything that waits needs, as of so short a time ago, is not looked at closer."""


class Admission:
    """Decides on arrivals at one backend's queue, and says how long its backlog is."""

    __slots__ = (
        "_fleet",
        "_heap",
        "_idle",
        "_next_free",
        "_pipelines",
        "_stall",
        "_surveyed",
        "_times",
        "_work",
        "bound_ahead",
        "bound_at",
        "bound_s",
        "caution",
        "far_s",
        "far_until",
        "margin_s",
        "max_batch",
        "max_requests",
        "room",
        "width",
    )

    def __init__(
        self,
        heap: DeadlineHeap,
        fleet: Fleet,
        times: ServiceTimes,
        room: Room,
        *,
        caution: float = CAUTION,
        margin_s: float = MARGIN_S,
    ) -> None:
        self._heap = heap
        self._fleet = fleet
        self._times = times
        self.max_requests = 0
        self.room = room
        self.max_batch = 1
        self.width = 1  # batches that a replica runs at a time
        self.caution = caution
        self.margin_s = margin_s
        self.bound_at = self._surveyed = -1.0
        self.bound_ahead = 0
        self.bound_s = 0.0
        self.far_s = 0.0
        self.far_until = -1.0
        self._pipelines = 1
        self._idle = 0
        self._work = 0.0  # seconds of batches at the replicas, summed
        self._next_free = 0.0  # seconds until the first request in flight should be answered
        self._stall = 0.0  # seconds by which even the least late replica is overdue

    def full(self, entry: Entry, now: float) -> Refusal | None:
        """429 when the queue is full by count or by bytes."""
        heap = self._heap
        if heap.live >= self.max_requests + self._fleet.credit:
            return Refusal(429, f"the queue is full ({heap.live} requests)", self.backlog_s(now))
        room = self.room
        if heap.size + entry.size > room.share and not room.lends(heap, entry.size):
            others = f"all queues of this router {room.held} of {room.limit}"
            return Refusal(429, f"the queue is full (it holds {heap.size} bytes, {others})", self.backlog_s(now))
        return None

    def late(self, entry: Entry, now: float) -> Refusal | None:
        """503 when *entry*, which has a deadline after *now*, cannot be answered by then."""
        fleet, times = self._fleet, self._times
        if not times.seen or not fleet.members or fleet.in_flight + fleet.credit <= 0:
            return None
        ahead = self._heap.live
        if now != self.bound_at or ahead > self.bound_ahead:
            self.bound_at = now
            self.bound_ahead = ahead + _BOUND_STEP
            self.bound_s = self.needed_s(self.bound_ahead, now, NO_DEADLINE) + self.margin_s
            self.far_s = _FAR * (self.bound_s + _FAR_KEEP_S)
            self.far_until = now + _FAR_KEEP_S
        if entry.deadline - now >= self.bound_s:  # even behind everything that waits, and some more
            return None
        total = entry.deadline - entry.arrived
        budget = entry.deadline - now - min(self.margin_s, 0.05 * total)
        if ahead:
            ahead = self._heap.count_ahead(entry.priority, entry.deadline, now)
        needed = self.needed_s(ahead, now, total)
        if needed <= budget or self.idle_and_unsure(now):
            return None
        return Refusal(
            503,
            f"cannot be answered in time: needs about {needed * 1e3:.1f} ms ({ahead} requests ahead), "
            f"has {max(budget, 0.0) * 1e3:.1f} ms",
            self.backlog_s(now),
        )

    def idle_and_unsure(self, now: float) -> bool:
        """Nothing runs, nothing waits to be sent, and what was learnt is old: the next request is a probe."""
        return not self._fleet.in_flight and now - self._times.last_at > STALE_S

    def needed_s(self, ahead: int, now: float, total: float) -> float:
        """Seconds until the answer to a request behind *ahead* others; *total* is its whole budget from arrival."""
        times = self._times
        if now != self._surveyed:
            self._survey(now)
        if self.max_batch > 1:
            most = self.max_batch
            rounds, size = divmod(ahead, most)
            size += 1
            wait = 0.0
            if rounds >= self._idle:
                wait = (self._work + rounds * times.mean(most)) / self._pipelines
        else:
            fleet = self._fleet
            behind = ahead - fleet.credit + 1
            if behind <= 0:
                wait = 0.0
                size = (fleet.in_flight + ahead) // self._pipelines + 1
            else:
                slots = max(1, fleet.in_flight + fleet.credit)
                size = max(1, slots // self._pipelines)
                wait = self._next_free + (behind - 1) * times.mean(size) / slots + self._stall
        own = times.p95(size)
        if own > total:  # the tail is longer than any wait it would accept: go by the median
            own = times.median(size)
        return wait * self.caution + own

    def backlog_s(self, now: float) -> float:
        """Seconds until what waits and runs now should be done, for Retry-After; at least 1 ms."""
        if not self._times.seen or not self._fleet.members:
            return 1.0
        return max(0.001, self.needed_s(self._heap.live, now, NO_DEADLINE))

    def touched(self) -> None:
        """Something was sent or answered: look again even at the same time."""
        self.bound_at = self._surveyed = -1.0

    def changed(self) -> None:
        """There is another config, or there are other replicas: nothing holds of what was found out."""
        self.touched()
        self.far_until = -1.0

    def _survey(self, now: float) -> None:
        """Look over the replicas, once for all requests of a turn."""
        self._surveyed = now
        pipelines = idle = 0
        work = 0.0
        if self.max_batch > 1:
            for replica in self._fleet.members.values():
                if replica.batches:
                    pipelines += self.width
                    work += abs(replica.ends - replica.running * now) + replica.waiting_s
                elif replica.limit > replica.sent:
                    pipelines += self.width
                    idle += self.width
        else:
            stall = next_free = NO_DEADLINE
            for replica in self._fleet.members.values():
                held = replica.held
                if held:
                    pipelines += 1
                    oldest = next(iter(held.values()))
                    ran = now - oldest.sent_at
                    next_free = min(next_free, self._times.mean(oldest.depth) - ran)
                    stall = min(stall, ran - 2.0 * self._times.p95(oldest.depth))
                elif replica.limit > replica.sent:
                    pipelines += 1
                    stall = 0.0
            self._next_free = max(0.0, next_free) if next_free < NO_DEADLINE else 0.0
            self._stall = stall if 0.0 < stall < NO_DEADLINE else 0.0
        self._pipelines = max(1, pipelines)
        self._idle = idle
        self._work = work
