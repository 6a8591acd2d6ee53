"""One backend on one router: admission, heap, batches, credits, replica choice, tied together.

Pure: time comes in as ``now`` (seconds, never going back), chance as ``rng``.  The router calls :meth:`offer` for each
request, :meth:`grant`, :meth:`completed`, :meth:`returned` for what comes from replicas, and once after each group of
events :meth:`dispatch`, then :meth:`expire`; not later than :meth:`next_wakeup` it does both again.

Each entry that was taken in comes out exactly once: from ``cancel``, ``completed``, ``replica_left``, ``returned``,
``expire`` or ``drain``; after ``replica_left`` and ``returned`` the router may put it back with ``requeue``.  An entry
that is cancelled in flight has had its outcome: its completion frees its slot and is answered with None.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from ..config import BackendConfig, parse_backend_config
from ..errors import Refusal
from .admission import CAUTION, MARGIN_S, Admission
from .batching import BatchFormer
from .deadline_heap import DeadlineHeap
from .entry import CANCELLED, DONE, IN_FLIGHT, NO_DEADLINE, Dispatch, Entry
from .figures import COUNTERS, batch_figures, replica_figures, time_figures
from .pipeline import Pipeline
from .replicas import Fleet, Replica
from .room import Room
from .service_time import ServiceTimes

__all__ = ["BackendQueue", "Dispatch", "Entry"]
_DEMAND_EVERY_S = 0.5
_SAMPLE_FAST_S = 0.002
_SAMPLE_SLOW_S = 0.008


class BackendQueue:
    """All requests for one backend that this router holds, queued or in flight.

    room: what it shares with the queues of other backends; alone by default.  caution, margin_s: see
    :mod:`zserve.scheduling.admission`.  Raises TypeError
    or ValueError for a bad config.
    """

    __slots__ = (
        "_admission",
        "_batch_no",
        "_batch_wait_s",
        "_completed",
        "_counts",
        "_expired",
        "_fleet",
        "_former",
        "_ghosts",
        "_heap",
        "_max_batch",
        "_members",
        "_overdue",
        "_pipeline",
        "_queued",
        "_room",
        "_run_s",
        "_seq",
        "_sizes",
        "_skip",
        "_stride",
        "_times",
        "_wait_until",
        "config",
        "name",
    )

    def __init__(
        self,
        name: str,
        config: BackendConfig,
        rng: random.Random,
        *,
        room: Room | None = None,
        caution: float = CAUTION,
        margin_s: float = MARGIN_S,
    ) -> None:
        self.name = name
        self._heap = DeadlineHeap(config.queue_order)
        self._fleet = Fleet(rng)
        self._members = self._fleet.members
        self._times = ServiceTimes()
        self._room = room or Room()
        self._room.add(self._heap)
        self._admission = Admission(
            self._heap, self._fleet, self._times, self._room, caution=caution, margin_s=margin_s
        )
        self._pipeline = Pipeline(self._fleet, self._times)
        self._former = BatchFormer(self._heap, self._times, self._admission)
        self._overdue: list[Entry] = []  # found by dispatch, for expire to report
        self._queued: dict[bytes, Entry] = {}
        self._ghosts = 0  # entries that were cancelled in flight
        self._seq = 0
        self._batch_no = 0
        self._run_s = 0.0  # what replicas say a call took, EWMA
        self._skip = 0
        self._stride = 1
        self._wait_until: float | None = None
        self._sizes: dict[int, int] = {}
        self._completed = 0
        self._counts = dict.fromkeys(COUNTERS, 0)
        self.configure(config, 0.0)

    def configure(self, config: BackendConfig, now: float) -> None:
        """Take a new config; raises TypeError or ValueError for a bad one, and then nothing has changed."""
        config = parse_backend_config(config)
        self.config = config
        self._heap.follow(config.queue_order)
        self._max_batch = config.max_batch_size or 1
        self._batch_wait_s = config.batch_wait_timeout
        self._admission.max_requests = config.max_queued_requests
        self._admission.max_batch = self._max_batch
        self._pipeline.configure(self._max_batch, config.max_concurrent_queries)
        self._admission.width = self._pipeline.width
        self._admission.changed()

    # --- requests -----------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self._heap.live

    @property
    def in_flight(self) -> int:
        return self._fleet.in_flight

    @property
    def run_s(self) -> float:
        """What replicas say a call took, on average of late; 0 as long as nothing is known, seconds."""
        return self._run_s

    def offer(self, entry: Entry, now: float) -> Refusal | None:
        """Take *entry* in, or say why not: 429, 503, or 504 when its deadline has passed.

        Raises ValueError when its id waits here already (the router keeps ids apart).
        """
        if entry.id in self._queued:
            raise ValueError(f"request {entry.id.hex()} waits already")
        admission, heap, counts = self._admission, self._heap, self._counts
        if heap.live >= admission.max_requests or heap.size + entry.size > admission.room.share:
            refusal = admission.full(entry, now)
            if refusal is not None:
                counts["refused_full"] += 1
                return refusal
        deadline = entry.deadline
        if deadline != NO_DEADLINE:
            if not deadline > now:
                counts["expired"] += 1
                if deadline != deadline:
                    return Refusal(400, "the deadline is not a number")
                return Refusal(504, "the deadline had passed on arrival")
            # Whoever would be in time behind everything that waits is not looked at any closer.
            enough_s = admission.bound_s if now == admission.bound_at else admission.far_s
            if deadline - now < enough_s or heap.live > admission.bound_ahead or now > admission.far_until:
                refusal = admission.late(entry, now)
                if refusal is not None:
                    counts["refused_late"] += 1
                    return refusal
        self._seq = entry.seq = self._seq + 1
        self._queued[entry.id] = entry
        heap.push(entry)
        return None

    def pass_by(self, entries: list[Entry], now: float) -> list[tuple[bytes, list[Entry]]]:
        """The replicas that *entries*, which have come together, leave for at once, and with whom each; [] where they
        have to be offered, because something waits, the credit is not enough for all, or something speaks against one.

        What :meth:`offer` and :meth:`dispatch` would do with them, without the heap between; *entries* are put into the
        order in which they leave.
        """
        heap, fleet, admission = self._heap, self._fleet, self._admission
        ready = fleet.ready
        if heap.live or fleet.credit < len(entries) or self._max_batch > 1 or self._ghosts or not ready:
            return []
        first = entries[0]
        first.seq = seq = self._seq + 1
        size, earliest, priority = first.size, first.deadline, first.priority
        if len(entries) > 1:
            for entry in entries[1:]:
                if entry.priority != priority:
                    return []
                if entry.deadline < earliest:
                    earliest = entry.deadline
                size += entry.size
                entry.seq = seq = seq + 1
        if not admission.max_requests or heap.size + size > admission.room.share:
            return []
        if earliest != NO_DEADLINE and not (now <= admission.far_until and earliest - now >= admission.far_s):
            return []
        if fleet.refresh(now):
            heap.rest(now)
        self._seq = seq
        if len(entries) > 1 and self.config.queue_order == "edf":
            entries.sort()
        leaving: list[tuple[bytes, list[Entry]]] = []
        if len(ready) == 1:
            self._leave(ready[0], entries, now)
            leaving.append((entries[0].replica, entries))
        else:
            for entry in entries:
                alone = [entry]
                self._leave(fleet.choose() or ready[0], alone, now)
                leaving.append((entry.replica, alone))
        self._sizes[1] = self._sizes.get(1, 0) + len(entries)
        admission.touched()
        return leaving

    def _leave(self, replica: Replica, entries: list[Entry], now: float) -> None:
        """Each as a batch of its own."""
        held, peer = replica.held, replica.peer
        depth, batch = len(held), self._batch_no
        for entry in entries:
            entry.state = IN_FLIGHT
            entry.replica = peer
            entry.sent_at = now
            entry.depth = depth = depth + 1
            entry.batch = batch = batch + 1
            held[entry.id] = entry
        self._batch_no = batch
        self._fleet.spend(replica, len(entries))

    def requeue(self, entry: Entry, now: float) -> None:
        """Back to its own place, whatever the limits: it was let in before."""
        entry.replica = b""
        self._queued[entry.id] = entry
        self._heap.put_back(entry)
        self._counts["retried"] += 1

    def adopt(self, entry: Entry, replica: bytes, now: float) -> None:
        """*entry* is at *replica* already: another router sent it there, with its own credit."""
        member = self._fleet.members[replica]
        before = member.held.get(entry.id)
        if before is None:
            self._fleet.in_flight += 1
        else:  # it was cancelled here, and runs on
            before.state = DONE
            entry.batch = before.batch
        self._seq = entry.seq = self._seq + 1
        entry.state = IN_FLIGHT
        entry.replica = replica
        entry.sent_at = now
        entry.depth = len(member.held) + 1
        member.held[entry.id] = entry

    def get(self, id_: bytes) -> Entry | None:
        """The entry of that id, queued or in flight and not cancelled."""
        entry = self._queued.get(id_)
        if entry is None:
            for replica in self._fleet.members.values():
                entry = replica.held.get(id_)
                if entry is not None and entry.state == IN_FLIGHT:
                    return entry
            return None  # or only twins of it that were cancelled
        return entry

    def cancel(self, id_: bytes, now: float) -> Entry | None:
        """Nobody waits for it any more.  Queued: it is out.  In flight: ``entry.replica`` is to be told; its slot is
        free when the replica has answered.  None: unknown, or cancelled before."""
        entry = self._queued.pop(id_, None)
        if entry is not None:
            self._heap.remove(entry)
            entry.state = DONE
            entry.head = entry.body = b""  # the tombstone in the heap must not keep them
            self._counts["cancelled"] += 1
            return entry
        entry = self.get(id_)
        if entry is not None:
            entry.state = CANCELLED
            self._ghosts += 1
            self._counts["cancelled"] += 1
        return entry

    def expire(self, now: float) -> list[tuple[Entry, Refusal]]:
        """504 for every queued entry whose deadline has passed, 503 for those that :meth:`dispatch` gave up on."""
        gone: list[tuple[Entry, Refusal]] = []
        refused = self._former.refused
        if refused:
            self._counts["refused_at_dequeue"] += len(refused)
            backlog = self._admission.backlog_s(now)
            for entry in refused:
                entry.state = DONE
                self._queued.pop(entry.id, None)
                gone.append((entry, Refusal(503, "cannot be answered in time any more", backlog)))
            self._former.refused = []
        if self._heap.live and self._heap.next_deadline() <= now:
            self._overdue += self._heap.expired(now)
        if self._overdue:
            self._counts["expired"] += len(self._overdue)
            for entry in self._overdue:
                entry.state = DONE
                self._queued.pop(entry.id, None)
                gone.append((entry, Refusal(504, "the deadline passed while it waited")))
            self._overdue = []
        return gone

    def drain(self) -> list[Entry]:
        """Everything that waits comes out, in the order it came in; what is in flight stays."""
        entries = self._heap.drain() + self._former.refused + self._overdue
        self._former.refused = []
        self._overdue = []
        self._queued.clear()
        for entry in entries:
            entry.state = DONE
        entries.sort(key=_by_seq)
        return entries

    def close(self) -> list[Entry]:
        """The backend is gone: as :meth:`drain`, and what it may hold is for the others."""
        self._room.remove(self._heap)
        return self.drain()

    # --- replicas -----------------------------------------------------------------------------------------------------

    def replica_joined(self, replica: bytes, now: float) -> None:
        """A link is up; nothing is sent there before its first grant.  A second time: it starts from nothing."""
        if replica in self._fleet.members:
            raise ValueError(f"replica {replica.hex()} has joined already")
        self._fleet.join(replica, now)
        self._admission.changed()

    def replica_doubted(self, replica: bytes, doubted: bool, now: float) -> None:
        """Nothing is heard from *replica*, or it is heard again; of interest while there are others."""
        self._fleet.doubt(replica, doubted)
        self._admission.changed()

    def replica_left(self, replica: bytes, now: float) -> list[Entry]:
        """The link is gone; returns what was in flight there and not cancelled, oldest first."""
        gone = self._fleet.leave(replica)
        self._admission.changed()
        if gone is None:
            return []
        lost = [entry for entry in gone.held.values() if entry.state == IN_FLIGHT]
        self._ghosts -= len(gone.held) - len(lost)
        for entry in gone.held.values():
            entry.state = DONE
        self._counts["lost"] += len(lost)
        return lost

    def grant(self, replica: bytes, epoch: int, limit: int, now: float) -> None:
        """A Grant from *replica*; unknown replicas and old grants are ignored."""
        member = self._fleet.members.get(replica)
        if member is not None:
            self._fleet.grant(member, epoch, limit)

    def completed(
        self, replica: bytes, id_: bytes, now: float, *, ok: bool, run_s: float, waited_s: float = 0.0
    ) -> Entry | None:
        """*replica* has answered; None when nobody waits for it (unknown, late, cancelled).

        ok: False when the replica or its code failed.  run_s: seconds that the call took there.  waited_s: seconds that
        it waited there before.
        """
        member = self._members.get(replica)
        if member is None:
            return None
        entry = member.held.pop(id_, None)
        if entry is None:
            return None
        self._fleet.in_flight -= 1
        batch = member.batches.get(entry.batch) if member.batches else None
        if batch is not None:
            if ok:
                batch.good = True
            batch.left -= 1
            if not batch.left:
                self._batch_done(member, entry.batch, now, run_s, waited_s)
        else:
            took = _since(entry, now)
            self._skip -= 1
            if self._skip < 0 or len(self._members) > 1 or not ok or member.failing:
                member.finished(took, ok, now)  # of one alone, nobody asks how it compares
            if self._skip < 0:
                self._sample(entry.depth, took, run_s, ok, now)
        if entry.deadline < now:
            self._counts["missed"] += 1
        was = entry.state
        entry.state = DONE
        if was != IN_FLIGHT:
            self._ghosts -= 1
            return None
        self._completed += 1
        return entry

    def answered(
        self,
        replica: bytes,
        ids: Sequence[bytes],
        now: float,
        run_s: Callable[[int], float],
        ended: Callable[[int], float] | None = None,
    ) -> list[Entry] | None:
        """What :meth:`completed` gives for each of *ids*, which *replica* has answered together and not failed at; None
        where they have to be looked at one by one, and then nothing has changed.  run_s: of the one of that number;
        ended: when it was answered, if not now."""
        member = self._members.get(replica)
        count = len(ids)
        if member is None or member.batches or self._ghosts or len(set(ids)) < count:
            return None
        held = member.held
        entries: list[Any] = list(map(held.get, ids))
        if None in entries:
            return None
        for entry in entries:
            if entry.deadline < now:
                return None
        for entry in entries:
            del held[entry.id]
            entry.state = DONE
        each = len(self._members) > 1 or bool(member.failing)
        if each:
            for number, entry in enumerate(entries):
                member.finished(_since(entry, now if ended is None else ended(number)), True, now)
        number = self._skip
        while number < count:
            entry = entries[number]
            took = _since(entry, now if ended is None else ended(number))
            if not each:
                member.finished(took, True, now)
            self._sample(entry.depth, took, run_s(number), True, now)
            number += self._stride
        self._skip = number - count
        self._fleet.in_flight -= count
        self._completed += count
        return entries

    def _batch_done(self, member: Replica, batch_no: int, now: float, run_s: float, waited_s: float) -> None:
        self._pipeline.done(member, batch_no, now, run_s, waited_s)
        self._run_s += (run_s - self._run_s) * (0.1 if self._run_s else 1.0)
        self._admission.width = self._pipeline.width
        self._admission.touched()

    def returned(self, replica: bytes, id_: bytes, now: float) -> Entry | None:
        """*replica* hands the request back unstarted (its grant rises by it); None when nobody waits for it."""
        member = self._fleet.members.get(replica)
        entry = member.held.pop(id_, None) if member is not None else None
        if member is None or entry is None:
            return None
        self._fleet.in_flight -= 1
        member.rescore()
        self._pipeline.item_returned(member, entry, now)
        self._admission.touched()
        was = entry.state
        entry.state = DONE
        self._counts["handed_back"] += 1
        if was == IN_FLIGHT:
            return entry
        self._ghosts -= 1
        return None

    def _forget_ghost(self, replica: Replica, id_: bytes, now: float) -> None:
        """A request goes to *replica* once more while that still has it, cancelled, from the first time (its gateway's
        link broke, and it was sent again): the replica will answer twice, and the first answer serves."""
        ghost = replica.held.pop(id_, None)
        if ghost is not None:
            self._ghosts -= 1
            self._fleet.in_flight -= 1
            replica.rescore()
            self._pipeline.item_returned(replica, ghost, now)

    def _sample(self, depth: int, took: float, run_s: float, ok: bool, now: float) -> None:
        """Feed the estimates, about every 2 to 8 ms; a failure says nothing about the time that success takes."""
        gap = now - self._times.last_at
        if gap < _SAMPLE_FAST_S:
            self._stride = min(256, self._stride * 2)
        elif gap > _SAMPLE_SLOW_S:
            self._stride = max(1, self._stride // 2)
        self._skip = self._stride - 1
        if ok:
            self._times.observe(depth, took, now)
            self._run_s += (run_s - self._run_s) * (0.1 if self._run_s else 1.0)

    # --- sending ------------------------------------------------------------------------------------------------------

    def dispatch(self, now: float) -> list[Dispatch]:
        """What leaves now, in order.  Call :meth:`expire` after it: some may have been given up."""
        self._wait_until = None
        if not self._heap.live:
            return []
        if self._heap.next_deadline() <= now:
            self._overdue += self._heap.expired(now)
        if self._fleet.refresh(now):
            self._heap.rest(now)
        if self._max_batch > 1:
            return self._dispatch_batches(now)
        if not self._fleet.ready:
            return []
        out: list[Dispatch] = []
        heap, fleet, times, former, admission = self._heap, self._fleet, self._times, self._former, self._admission
        queued, ready = self._queued, fleet.ready
        certain = not times.seen or admission.idle_and_unsure(now)
        # Whoever has until *far*, or else until *sure*, is in time on any replica.
        far = now + admission.far_s if now <= admission.far_until else NO_DEADLINE
        sure = -1.0
        while heap.live and ready:
            if len(ready) == 1:
                replica = ready[0]
                taken = heap.take(replica.limit - replica.sent, now)
            else:
                replica = fleet.choose() or ready[0]
                taken = heap.take(1, now)
            if not taken:
                break
            held, peer = replica.held, replica.peer
            before = len(out)
            for entry in taken:
                depth = len(held) + 1
                deadline = entry.deadline
                if deadline < far and not certain:
                    if sure < 0.0:
                        sure = now + times.bound(fleet.in_flight + heap.live + len(taken)) + admission.margin_s
                    if deadline < sure and former.hopeless(entry, now, depth):
                        former.refused.append(entry)
                        continue
                key = entry.id
                del queued[key]
                entry.state = IN_FLIGHT
                entry.replica = peer
                entry.sent_at = now
                entry.depth = depth
                self._batch_no = entry.batch = self._batch_no + 1
                if self._ghosts:
                    self._forget_ghost(replica, key, now)
                held[key] = entry
                out.append(Dispatch(peer, entry.batch, [entry]))
            if len(out) > before:
                fleet.spend(replica, len(out) - before)
        if out:
            self._sizes[1] = self._sizes.get(1, 0) + len(out)
            admission.touched()
        return out

    def _dispatch_batches(self, now: float) -> list[Dispatch]:
        out: list[Dispatch] = []
        heap, fleet = self._heap, self._fleet
        while heap.live:
            replica = self._pipeline.free_replica(now, min(self._max_batch, heap.live))
            if replica is None:
                if self._pipeline.wait_until != NO_DEADLINE:
                    self._wait_until = self._pipeline.wait_until
                break
            if self._batch_wait_s and heap.live < self._max_batch:
                until = self._window_end(now)
                if until > now:
                    self._wait_until = until
                    break
            start = self._pipeline.start_at(replica, now)
            most = min(self._max_batch, replica.limit - replica.sent)
            entries = self._former.form(most, start, now, len(fleet.members))
            if not entries:
                continue
            size = len(entries)
            self._batch_no += 1
            for entry in entries:
                del self._queued[entry.id]
                entry.state = IN_FLIGHT
                entry.replica = replica.peer
                entry.sent_at = now
                entry.batch = self._batch_no
                if self._ghosts:
                    self._forget_ghost(replica, entry.id, now)
                replica.held[entry.id] = entry
            self._pipeline.sent(replica, self._batch_no, size, now)
            fleet.spend(replica, size)
            self._sizes[size] = self._sizes.get(size, 0) + 1
            self._admission.touched()
            out.append(Dispatch(replica.peer, self._batch_no, entries))
        return out

    def _window_end(self, now: float) -> float:
        """Until when a batch that is not full waits for more: from its first request, within its deadlines."""
        until = min([entry.arrived for entry in self._heap]) + self._batch_wait_s
        tightest = self._heap.next_deadline()
        if tightest != NO_DEADLINE:
            until = min(until, tightest - self._times.p95(self._max_batch) - self._admission.margin_s)
        return until

    def next_wakeup(self) -> float | None:
        """When :meth:`dispatch` and :meth:`expire` are due again, seconds; None: not before the next event."""
        if self._former.refused or self._overdue:
            return 0.0
        at = self._heap.next_deadline()
        if self._wait_until is not None and self._wait_until < at and self._heap.live:
            at = self._wait_until
        return at if at != NO_DEADLINE else None

    # --- demand -------------------------------------------------------------------------------------------------------

    def demand(self, replica: bytes, now: float) -> tuple[int, int, int, int]:
        """(epoch, sent, queued, urgent_us) for a Demand message to *replica*; urgent_us -1: no deadline waits."""
        member = self._fleet.members[replica]
        earliest = self._heap.next_deadline()
        urgent_us = -1 if earliest == NO_DEADLINE else max(0, int((earliest - now) * 1e6))
        member.told = (member.epoch, self._heap.live, now)
        return member.epoch, member.sent, self._heap.live, urgent_us

    def demand_due(self, now: float) -> list[bytes]:
        """Replicas that should get a Demand now: a recall is to be answered, the queue was empty and is not (or the
        other way), it has doubled or halved, or half a second has gone by while requests wait."""
        queued = self._heap.live
        due = []
        for peer, member in self._fleet.members.items():
            told = member.told
            if told is None:
                stale = queued > 0 or member.epoch >= 0
            elif told[0] != member.epoch or (queued > 0) != (told[1] > 0):
                stale = True
            else:
                same = told[1] < 2 * queued < 4 * told[1] and now - told[2] < _DEMAND_EVERY_S
                stale = queued > 0 and not same
            if stale:
                due.append(peer)
        return due

    # --- for people ---------------------------------------------------------------------------------------------------

    def statistics(self) -> dict[str, Any]:
        """Counters since the start (see :data:`zserve.scheduling.figures.COUNTERS`) and what is known now; seconds."""
        counts, times = self._counts, self._times
        return {
            "queue_order": self.config.queue_order,
            "queued": self._heap.live,
            "queued_bytes": self._heap.size,
            "in_flight": self._fleet.in_flight,
            "admitted": self._seq,
            "refused": {
                "full": counts["refused_full"],
                "late_on_arrival": counts["refused_late"],
                "late_at_dequeue": counts["refused_at_dequeue"],
            },
            "completed": self._completed,
            **{key: counts[key] for key in COUNTERS if not key.startswith("refused")},
            **batch_figures(self._sizes),
            "credits": self._fleet.credit,
            "replicas": replica_figures(self._fleet),
            "service_time": {**time_figures(times), "run_s": self._run_s, "overhead_s": self._pipeline.overhead_s},
            "backlog_s": self._admission.backlog_s(times.last_at) if times.seen and self._heap.live else 0.0,
        }


def _since(entry: Entry, ended: float) -> float:
    """How long it was with its replica, which may have said that it ended before it can have begun."""
    return max(0.0, ended - entry.sent_at)


def _by_seq(entry: Entry) -> int:
    return entry.seq
