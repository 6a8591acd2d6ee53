"""Which of the replicas that have credit gets the next request.

Least ``(in flight + 1) x cost`` by full scan up to 64 replicas, by two random choices beyond (Mitzenmacher 2001); the
cost is the replica's peak-EWMA latency (Finagle, tower: jumps up at once, decays with a time constant), times a factor
for failing and one for slow start:

- A failure never lowers the latency, and the share of recent failures multiplies the cost by up to 21: a replica that
  fails fast does not look fast.
- A replica that joins others starts at ten times the cost and ramps down to one over 5 s.
- A latency that nothing confirms decays by itself, so that a replica shunned once is tried again.
"""

from __future__ import annotations

import operator
import random

from .credits import CreditAccount
from .entry import Entry

__all__ = ["FULL_SCAN", "Batch", "Fleet", "Replica"]

FULL_SCAN = 64
SLOW_START_S = 5.0
SLOW_START_FACTOR = 10.0
DECAY_S = 2.0
"""Time constant of the peak-EWMA."""
FAILING_FACTOR = 20.0
_REFRESH_S = 0.1
_UNKNOWN_S = 0.001

_score = operator.attrgetter("score")


class Batch:
    """One batch at a replica."""

    __slots__ = ("good", "left", "sent_at", "size", "started")

    def __init__(self, size: int, sent_at: float, started: float) -> None:
        self.size = size
        self.left = size  # requests of it without an answer
        self.sent_at = sent_at
        self.started = started  # when the replica should have begun it, inf: waits for the one before
        self.good = False  # some request of it succeeded


class Replica(CreditAccount):
    """A replica as one router sees it."""

    __slots__ = (
        "aside",
        "batches",
        "cost",
        "doubted",
        "early_at",
        "ends",
        "failing",
        "free_at",
        "held",
        "joined",
        "latency",
        "peer",
        "penalty",
        "running",
        "score",
        "seen",
        "slot",
        "told",
        "waiting_s",
    )

    def __init__(self, peer: bytes, now: float) -> None:
        super().__init__()
        self.peer = peer
        self.held: dict[bytes, Entry] = {}  # in flight, oldest first
        self.batches: dict[int, Batch] = {}
        self.joined = now
        self.latency = 0.0  # peak-EWMA, seconds
        self.failing = 0.0  # EWMA of failures, 0..1
        self.penalty = 1.0
        self.cost = _UNKNOWN_S
        self.score = _UNKNOWN_S  # what the choice is by: (in flight + 1) * cost, kept up by whoever changes either
        self.seen = now  # when latency was last fed
        self.free_at = now  # batching: when a slot should become free, seconds
        self.early_at = now  # the same, if it is quick
        self.ends = 0.0  # sum of the times at which its running batches should end
        self.running = 0  # how many those are
        self.waiting_s = 0.0  # work of the batches that wait there
        self.slot = -1  # place in Fleet.ready
        self.doubted = False  # its link is silent
        self.aside = False  # and others of its fleet are heard, so it gets nothing
        self.told: tuple[int, int, float] | None = None  # last demand told: epoch, queued, when

    def finished(self, latency: float, ok: bool, now: float) -> None:
        """Feed the peak-EWMA with what one request (or batch) took, seconds."""
        if not ok:
            self.failing += (1.0 - self.failing) * 0.125
            if latency < self.latency:
                latency = self.latency
        elif self.failing:
            self.failing *= 0.875
            if self.failing < 0.001:
                self.failing = 0.0
        if latency >= self.latency:
            self.latency = latency
        else:
            weight = (now - self.seen) / DECAY_S
            self.latency += (latency - self.latency) * (weight if weight < 1.0 else 1.0)
        self.seen = now
        self.cost = self.latency * self.penalty * (1.0 + FAILING_FACTOR * self.failing)
        self.score = (len(self.held) + 1) * self.cost

    def rescore(self) -> None:
        """:attr:`held` or :attr:`cost` has changed."""
        self.score = (len(self.held) + 1) * self.cost


class Fleet:
    """The replicas of one backend that this router has links with."""

    __slots__ = ("_refresh_at", "_rng", "credit", "in_flight", "members", "ready")

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.members: dict[bytes, Replica] = {}
        self.ready: list[Replica] = []  # those with credit, but for doubted ones
        self.credit = 0  # sum of what is left on the accounts of those
        self.in_flight = 0
        self._refresh_at = 0.0

    def join(self, peer: bytes, now: float) -> Replica:
        replica = Replica(peer, now)
        known = [other.latency for other in self.members.values() if other.latency]
        if known:
            replica.latency = sum(known) / len(known)
            replica.penalty = SLOW_START_FACTOR
            replica.cost = replica.latency * replica.penalty
            replica.rescore()
        self.members[peer] = replica
        self._refresh_at = now
        self._set_aside()
        return replica

    def leave(self, peer: bytes) -> Replica | None:
        replica = self.members.pop(peer, None)
        if replica is None:
            return None
        if replica.slot >= 0:
            self.credit -= replica.limit - replica.sent
            self._unready(replica)
        self.in_flight -= len(replica.held)
        self._set_aside()
        return replica

    def doubt(self, peer: bytes, doubted: bool) -> None:
        """Nothing is heard from *peer* any more, or it is heard again."""
        replica = self.members.get(peer)
        if replica is not None and replica.doubted != doubted:
            replica.doubted = doubted
            self._set_aside()

    def _set_aside(self) -> None:
        """Doubted replicas get nothing while there are others, even if those have no credit at the moment: what waits
        here can still go anywhere, and a doubt is settled within seconds."""
        doubted = [replica for replica in self.members.values() if replica.doubted or replica.aside]
        if not doubted:
            return
        others = any(not replica.doubted for replica in self.members.values())
        for replica in doubted:
            aside = replica.doubted and others
            if aside == replica.aside:
                continue
            replica.aside = aside
            left = replica.limit - replica.sent
            if left <= 0:
                continue
            if aside:
                self.credit -= left
                self._unready(replica)
            else:
                self.credit += left
                self._make_ready(replica)

    def grant(self, replica: Replica, epoch: int, limit: int) -> None:
        before = max(0, replica.limit - replica.sent)
        if not replica.grant(epoch, limit):
            return
        after = max(0, replica.limit - replica.sent)
        if replica.slot >= 0:
            self.credit += after - before
            if not after:
                self._unready(replica)
        elif after and not replica.aside:
            self.credit += after
            self._make_ready(replica)

    def spend(self, replica: Replica, count: int) -> None:
        """*count* requests have left for *replica*, which had the credit for them."""
        replica.sent += count
        replica.score = (len(replica.held) + 1) * replica.cost
        self.credit -= count
        self.in_flight += count
        if replica.sent >= replica.limit:
            self._unready(replica)

    def _make_ready(self, replica: Replica) -> None:
        replica.slot = len(self.ready)
        self.ready.append(replica)

    def _unready(self, replica: Replica) -> None:
        last = self.ready.pop()
        if last is not replica:
            self.ready[replica.slot] = last
            last.slot = replica.slot
        replica.slot = -1

    def choose(self) -> Replica | None:
        """The replica for the next request, None when none has credit."""
        ready = self.ready
        count = len(ready)
        if count < 2:
            return ready[0] if count else None
        if count > FULL_SCAN:
            random_ = self._rng.random
            one, two = ready[int(random_() * count)], ready[int(random_() * count)]
            return one if one.score <= two.score else two
        return min(ready, key=_score)

    def refresh(self, now: float) -> bool:
        """Let latencies that nothing confirms decay and slow starts ramp, ten times a second; whether it was time."""
        if now < self._refresh_at:
            return False
        keep = max(0.0, 1.0 - _REFRESH_S / DECAY_S)
        for replica in self.members.values():
            if now - replica.seen >= _REFRESH_S and not replica.held:
                replica.latency *= keep
                replica.failing *= keep
            if replica.penalty > 1.0:
                age = now - replica.joined
                replica.penalty = max(1.0, SLOW_START_FACTOR * (1.0 - age / SLOW_START_S))
            replica.cost = (replica.latency or _UNKNOWN_S) * replica.penalty * (1.0 + FAILING_FACTOR * replica.failing)
            replica.rescore()
        self._refresh_at = now + _REFRESH_S
        return True
