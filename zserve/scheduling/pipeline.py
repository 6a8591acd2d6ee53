"""Keeps batching replicas busy: what runs there, what is ahead, and when the next batch should leave.

A replica runs ``width`` batches at a time (one, unless it shows that it runs more) and may have one ahead.  The next
one is sent so early that it is there when a slot becomes free, going by the quickest tenth of what was measured, and no
earlier: until then a more urgent request can still come first, and the batch can still grow.
"""

from __future__ import annotations

from .entry import NO_DEADLINE, Entry
from .replicas import FULL_SCAN, Batch, Fleet, Replica
from .service_time import ServiceTimes

__all__ = ["Pipeline"]

_LEAD_FLOOR_S = 0.0005
_CLEAR, _CLEAR_S = 1.25, 0.0002
"""A wait counts as evidence for or against a further slot when it should be this much longer than the links take."""
_EVIDENCE = 3
_MAX_WIDTH = 256


class Pipeline:
    """The batches in flight at the replicas of one backend.

    width: batches that a replica is taken to run at a time.  overhead_s: round trip and turn-around of a batch that
    finds an idle replica, seconds.  wait_until: when :meth:`free_replica` last said that none is free, the time at
    which to ask again.
    """

    __slots__ = ("_evidence", "_fleet", "_times", "overhead_s", "wait_until", "width")

    def __init__(self, fleet: Fleet, times: ServiceTimes) -> None:
        self._fleet = fleet
        self._times = times
        self.overhead_s = 0.0
        self.width = 1
        self._evidence = 0  # batches in a row that had no slot and yet did not wait
        self.wait_until = NO_DEADLINE

    def configure(self, max_batch: int, max_concurrent: int | None) -> None:
        """What the config says of the width; without a word it is learnt."""
        self.width = 1 if max_concurrent is None else min(_MAX_WIDTH, max(1, -(-max_concurrent // max_batch)))

    # --- sending ------------------------------------------------------------------------------------------------------

    def free_replica(self, now: float, wanted: int) -> Replica | None:
        """A replica with a free slot, else one whose slot becomes free so soon that the next batch should leave.

        *wanted*: requests that the next batch could have.  A busy replica that grants fewer right now is let be until
        it grants more, or has a free slot: half a batch costs it nearly as much time as a whole one.
        """
        ready = self._fleet.ready
        width = self.width
        if len(ready) > FULL_SCAN:
            drawn = self._fleet.choose()
            if drawn is not None and not drawn.batches:
                return drawn
        best: Replica | None = None
        least = 0.0
        lead = 1.5 * self.overhead_s + _LEAD_FLOOR_S
        self.wait_until = NO_DEADLINE
        for replica in ready:
            running = len(replica.batches)
            if running < width:
                score = (len(replica.held) + 1) * replica.cost - 1e9  # before any that is busy
            elif running == width and self._times.seen and replica.limit - replica.sent >= wanted:
                at = replica.early_at - lead
                if at > now:
                    if at < self.wait_until:
                        self.wait_until = at
                    continue
                score = replica.free_at - now
            else:
                continue
            if best is None or score < least:
                best, least = replica, score
        return best

    def start_at(self, replica: Replica, now: float) -> float:
        """When *replica* will begin a batch that is sent now."""
        if len(replica.batches) < self.width or replica.free_at < now:
            return now
        return replica.free_at

    def sent(self, replica: Replica, batch_no: int, size: int, now: float) -> None:
        running = len(replica.batches) < self.width
        replica.batches[batch_no] = Batch(size, now, now if running else NO_DEADLINE)
        self._plan(replica)

    # --- answers ------------------------------------------------------------------------------------------------------

    def done(self, replica: Replica, batch_no: int, now: float, run_s: float, waited_s: float) -> None:
        """The last request of a batch is answered, which ran for *run_s* after it had waited there for *waited_s*."""
        batch = replica.batches.pop(batch_no)
        if batch.good and run_s > 0.0:
            self._learn(batch, now, run_s, waited_s)
        took = now - (batch.started if batch.started < now else batch.sent_at)
        replica.finished(took, batch.good, now)
        if batch.good:
            self._times.observe(batch.size, took, now)
        self._slot_free(replica, now)

    def item_returned(self, replica: Replica, entry: Entry, now: float) -> None:
        """One request of a batch came back unstarted."""
        batch = replica.batches.get(entry.batch)
        if batch is None:
            return
        batch.left -= 1
        batch.size -= 1
        if not batch.left:
            del replica.batches[entry.batch]
            self._slot_free(replica, now)

    def _slot_free(self, replica: Replica, now: float) -> None:
        """The next batch there begins now."""
        free = self.width
        for batch in replica.batches.values():
            if free and batch.started == NO_DEADLINE:
                batch.started = now
            free -= 1
            if free <= 0:
                break
        self._plan(replica)

    def _learn(self, batch: Batch, now: float, run_s: float, waited_s: float) -> None:
        """Overhead from every batch, for the replica says how long it waited there; width from one that did not wait
        although it should have, or the other way."""
        self._learn_overhead(max(0.0, now - batch.sent_at - run_s - waited_s))
        if batch.started == batch.sent_at:
            if self.width > 1 and waited_s > 0.5 * run_s + 2.0 * self.overhead_s:
                self.width -= 1
                self._evidence = 0
            return
        due = now if batch.started == NO_DEADLINE else batch.started
        expected = due - batch.sent_at  # from here to the answer of the one before: both ways, and the wait between
        if expected > _CLEAR * self.overhead_s + _CLEAR_S:
            self._evidence = self._evidence + 1 if waited_s < 0.5 * (expected - self.overhead_s) else 0
            if self._evidence >= _EVIDENCE:
                self._evidence = 0
                self.width = min(_MAX_WIDTH, self.width + 1)

    def _learn_overhead(self, overhead: float) -> None:
        if overhead > self.overhead_s > 0.0:  # one accident must not be taken for the rule
            self.overhead_s = min(overhead, 2.0 * self.overhead_s + 0.001)
        elif overhead > self.overhead_s:
            self.overhead_s = overhead
        else:
            self.overhead_s += (overhead - self.overhead_s) * 0.1

    def _plan(self, replica: Replica) -> None:
        """When slots become free there, and how much work it has."""
        times = self._times
        free_at = early_at = NO_DEADLINE
        ends = waiting = 0.0
        running = 0
        for batch in replica.batches.values():
            mean = times.mean(batch.size)
            if batch.started == NO_DEADLINE:
                waiting += mean
                continue
            running += 1
            ends += batch.started + mean
            free_at = min(free_at, batch.started + mean)
            early_at = min(early_at, batch.started + times.low(batch.size))
        replica.free_at, replica.early_at = free_at, early_at
        replica.ends, replica.running, replica.waiting_s = ends, running, waiting
