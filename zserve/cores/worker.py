"""The worker node's decisions: which replicas it runs, when to start, replace, restart and stop them.

Theory of operation.  Placement (see :mod:`zserve.registry.placement`) says how many replicas of each backend this node
should hold: that many :class:`_Seat`, each with at most one replica in charge and, while its code is being replaced, a
successor that takes over once it is ready.  A seat whose replica ends gets a new one after a back-off.  A replica that
is not wanted here any more goes to :attr:`WorkerCore._leaving` and is stopped once enough others are ready elsewhere.

    seat:     empty --Start--> starting --ready--> in charge --exited--> empty (back-off)
                                  |  failed, exited
                                  v
                               empty (back-off; after three failures: only when the record changes)

Replicas of a backend are alike, so what counts is how many there are, not which index they carry.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from ..channel.outbox import Outbox, Parcel, Peer
from ..registry.placement import Placement, place, replicas_to_keep
from ..registry.sync import ConfigSync
from ..registry.values import BackendValue
from ..wire.messages import Hello, NodeInfo, Ping, ReplicaStatus, Report

__all__ = ["Action", "Configure", "Start", "Stop", "WorkerCore"]

MAX_BACKOFF_S = 30.0
MAX_START_FAILURES = 3
CRASH_LOOP = 5
"""From this many crashes in a row on, the report says that it is a crash loop."""
STEADY_S = 30.0
"""A replica that ran for this long before it crashed has not been crashing in a row."""
GONE_S = 2.0
"""How long a worker node must be missing from all views before its replicas are placed anew."""
YOUNG_ROUTER_S = 10.0
"""A router linked for less than this may not have been found by every worker node yet, so that what its view lacks
proves nothing."""
OVERFULL_S = 30.0
"""How long a replica that has to move may wait for its replacement while this node holds more than its slots."""
MAX_REASON = 8192


@dataclass(frozen=True, slots=True)
class Start:
    """Start a replica process with this node id."""

    node: bytes
    backend: str
    index: int
    value: BackendValue


@dataclass(frozen=True, slots=True)
class Stop:
    """Have a replica finish what it runs, and end it after *grace_s* seconds at the latest."""

    node: bytes
    grace_s: float


@dataclass(frozen=True, slots=True)
class Configure:
    """The config of a running replica changed; its code did not."""

    node: bytes
    value: BackendValue


Action: TypeAlias = Start | Stop | Configure


class _Replica:
    __slots__ = ("backend", "index", "node", "pid", "ready_at", "since", "state", "value")

    def __init__(self, node: bytes, backend: str, index: int, value: BackendValue, now: float) -> None:
        self.node = node
        self.backend = backend
        self.index = index
        self.value = value
        self.state = "starting"
        self.pid = 0
        self.since = now
        self.ready_at = 0.0


class _Seat:
    """Room for one replica in charge."""

    __slots__ = ("charge", "crashes", "failures", "index", "last", "reason", "restarts", "retry_at", "successor")

    def __init__(self, index: int) -> None:
        self.index = index
        self.charge: _Replica | None = None
        self.successor: _Replica | None = None
        self.last: _Replica | None = None
        self.reason = ""
        self.failures = 0
        self.crashes = 0
        self.restarts = 0
        self.retry_at = 0.0

    @property
    def given_up(self) -> bool:
        return self.failures >= MAX_START_FAILURES

    def forgive(self) -> None:
        """The record changed: all is open again."""
        self.failures = self.crashes = 0
        self.retry_at = 0.0


class _Group:
    """All seats of one backend."""

    __slots__ = ("seats", "stamp", "value")

    def __init__(self, value: BackendValue, stamp: bytes) -> None:
        self.value = value
        self.stamp = stamp
        self.seats: list[_Seat] = []


def _backoff_s(times: int) -> float:
    """Seconds before try number *times* + 1: 0, 0.5, 1, 2, 4 .. 30."""
    return 0.0 if times <= 1 else min(MAX_BACKOFF_S, 0.5 * 2.0 ** (times - 2))


class WorkerCore:
    """Events: those of a node, and what becomes of replica processes.  Effects: the outbox, and :attr:`actions`.

    info: this node, with its slots and resources.  rng draws the ids of replicas.
    """

    def __init__(self, sync: ConfigSync, rng: random.Random) -> None:
        self.out = Outbox()
        self.sync = sync
        self.info: NodeInfo = sync.info
        self.actions: list[Action] = []
        self.leaving = False
        self.on_actions: Callable[[], None] | None = None
        self._rng = rng
        self._groups: dict[str, _Group] = {}
        self._leaving: dict[bytes, _Replica] = {}
        self._hold_until: dict[bytes, float] = {}
        self._stopping: dict[bytes, _Replica] = {}
        self._seat_of: dict[bytes, _Seat] = {}
        self._placement: Placement = {}
        self._inputs: tuple[int, int] = (-1, -1)
        self._workers: dict[bytes, NodeInfo] = {}
        self._missing_since: dict[bytes, float] = {}
        self._settle_at: float | None = None
        self._handover_deadline = 0.0
        self._reported: list[ReplicaStatus] | None = None

    # --- events of a node ---------------------------------------------------------------------------------------------

    def link_up(self, peer: Peer, hello: Hello, now: float) -> None:
        self.sync.link_up(peer, hello, self.out, now)
        if hello.info.role == "router":
            self.out.send(peer, Report(self._report()))
        self._after(now)

    def link_down(self, peer: Peer, reason: str, now: float) -> None:
        self.sync.link_down(peer, now, reason)
        self._after(now)

    def receive(self, peer: Peer, parcels: Sequence[Parcel], now: float) -> None:
        for message, _, _ in parcels:
            self.sync.receive(peer, message, self.out, now)
        self._after(now)

    def ping(self, peer: Peer, now: float) -> Ping:
        return Ping(self.sync.digest(), 0, -1, [], self.leaving)

    def tick(self, now: float) -> None:
        self.sync.tick(self.out, now)
        self._after(now)

    def next_wakeup(self) -> float | None:
        times = [at for at in (self.sync.next_wakeup(), self._settle_at) if at is not None]
        for group in self._groups.values():
            times.extend(seat.retry_at for seat in group.seats if self._wants_replica(group, seat))
        times.extend(at for node, at in self._hold_until.items() if node in self._leaving)
        if self.leaving and self._leaving:
            times.append(self._handover_deadline)
        return min(times, default=None)

    def routers_known(self) -> Sequence[str]:
        return self.sync.routers_known()

    # --- what becomes of replica processes ----------------------------------------------------------------------------

    def replica_started(self, node: bytes, pid: int, now: float) -> None:
        """The process runs; the user's code is being loaded."""
        replica = self._replica(node)
        if replica is not None:
            replica.pid = pid
            self._after(now)

    def replica_ready(self, node: bytes, now: float) -> None:
        """The user's code is constructed, and the replica takes requests."""
        replica = self._replica(node)
        if replica is None or replica.state != "starting":
            return
        replica.state = "ready"
        replica.ready_at = now
        seat = self._seat_of.get(node)
        if seat is not None:
            seat.failures = 0
            seat.reason = ""
            if seat.successor is replica:
                before, seat.charge, seat.successor = seat.charge, replica, None
                if before is not None:
                    self._stop(before)
        self._after(now)

    def replica_failed(self, node: bytes, reason: str, now: float) -> None:
        """The user's code cannot be imported or constructed; *reason* has the traceback."""
        replica = self._forget(node)
        if replica is None:
            return
        self.actions.append(Stop(node, 0.0))  # harmless if the process has ended by itself
        seat = self._seat_of.pop(node, None)
        if seat is not None:
            self._start_failed(seat, replica, reason, now)
        self._after(now)

    def replica_exited(self, node: bytes, how: str, now: float) -> None:
        """The process has ended; *how* says it for people ("exit code 1", "killed by SIGKILL")."""
        replica = self._forget(node)
        if replica is None:
            return
        seat = self._seat_of.pop(node, None)
        if seat is not None:
            if replica.state == "ready":
                seat.charge = None
                seat.crashes = 1 if now - replica.ready_at >= STEADY_S else seat.crashes + 1
                seat.restarts += 1
                seat.retry_at = now + _backoff_s(seat.crashes)
                loop = f" (crash loop: {seat.crashes} times in a row)" if seat.crashes >= CRASH_LOOP else ""
                self._ended(seat, replica, "dead", how + loop)
            else:
                self._start_failed(seat, replica, f"ended before it was ready: {how}", now)
        self._after(now)

    def _start_failed(self, seat: _Seat, replica: _Replica, reason: str, now: float) -> None:
        if seat.successor is replica:
            seat.successor = None
        else:
            seat.charge = None
        seat.failures += 1
        seat.restarts += 1
        seat.retry_at = now + _backoff_s(seat.failures + 1)
        self._ended(seat, replica, "failed", reason)

    @staticmethod
    def _ended(seat: _Seat, replica: _Replica, state: str, reason: str) -> None:
        replica.state = state
        seat.last = replica
        seat.reason = reason if len(reason) <= MAX_REASON else reason[:2000] + "\n...\n" + reason[2000 - MAX_REASON :]

    def _replica(self, node: bytes) -> _Replica | None:
        seat = self._seat_of.get(node)
        if seat is not None:
            for replica in (seat.charge, seat.successor):
                if replica is not None and replica.node == node:
                    return replica
        return self._leaving.get(node) or self._stopping.get(node)

    def _forget(self, node: bytes) -> _Replica | None:
        replica = self._replica(node)
        self._leaving.pop(node, None)
        self._stopping.pop(node, None)
        self._hold_until.pop(node, None)
        return replica

    # --- draining -----------------------------------------------------------------------------------------------------

    def drain(self, now: float, handover_s: float = 30.0) -> None:
        """Leave: others take over.  Each replica runs on until enough others are ready, *handover_s* at the longest.

        Then wait for :attr:`drained`.
        """
        if self.leaving:
            return
        self.leaving = True
        self.info.leaving = True
        self._handover_deadline = now + handover_s
        self._inputs = (-1, -1)
        for peer in self.sync.peers("router"):
            self.out.send(peer, self.ping(peer, now))
        self._after(now)

    def handover_done(self, now: float) -> None:
        """Wait for no one any longer."""
        self._handover_deadline = now
        self._after(now)

    @property
    def drained(self) -> bool:
        """Whether no replica process is left."""
        return self.leaving and not (self._seat_of or self._leaving or self._stopping)

    # --- after each event ---------------------------------------------------------------------------------------------

    def _after(self, now: float) -> None:
        self.sync.take_changes()
        self._place(now)
        self._follow_config(now)
        self._fill_seats(now)
        self._let_go(now)
        self._send_report()
        if self.actions and self.on_actions is not None:
            self.on_actions()

    def _place(self, now: float) -> None:
        """Compute the placement anew, if anything that it depends on has changed."""
        registry, membership = self.sync.registry, self.sync.membership
        settled = self._settle_at is not None and self._settle_at <= now
        inputs = (registry.generation, membership.version)
        if inputs == self._inputs and not settled:
            return
        self._inputs = inputs
        workers = {info.node: info for info in membership.workers()}
        live = membership.live_routers()
        if self.leaving:
            # Seen by others as gone: place all among those that stay, who are all that can be known now.
            self._workers = {node: info for node, info in workers.items() if node != self.info.node} or self._workers
            self._workers.pop(self.info.node, None)
        elif live and self.info.node in workers:
            self._workers = self._with_missing(workers, live, now)
        else:
            # Cut off, or not seen yet: the others can not be judged, so nothing moves.  The fabric's view of this node
            # is what counts for its own row, so that two nodes never run the same replica because one is blind.
            pass
        backends = {name: value.config for name, value in registry.backends().items()}
        self._placement = place(backends, self._workers.values())

    def _with_missing(
        self, workers: dict[bytes, NodeInfo], live: list[tuple[bytes, float]], now: float
    ) -> dict[bytes, NodeInfo]:
        """*workers*, and those that were there a moment ago and whose absence proves nothing yet."""
        eldest = min(since for _, since in live)
        self._settle_at = None
        found = dict(workers)
        for node, info in self._workers.items():
            if node in workers:
                self._missing_since.pop(node, None)
                continue
            if info.leaving:
                continue
            since = self._missing_since.setdefault(node, now)
            gone_at = max(since + GONE_S, eldest + YOUNG_ROUTER_S)
            if gone_at > now:
                found[node] = info
                self._settle_at = gone_at if self._settle_at is None else min(self._settle_at, gone_at)
            else:
                del self._missing_since[node]
        return found

    def _follow_config(self, now: float) -> None:
        """Seats as many as placement says, and config and code as the registry says."""
        wanted: dict[str, list[int]] = {}
        for backend, index in self._placement.get(self.info.node, ()):
            wanted.setdefault(backend, []).append(index)
        for name in [*self._groups, *(name for name in wanted if name not in self._groups)]:
            value = self.sync.registry.backend(name)
            record = self.sync.registry.get("backend/" + name)
            group = self._groups.get(name)
            indices = wanted.get(name, []) if value is not None else []
            if group is None:
                if value is None or record is None:
                    continue
                group = self._groups[name] = _Group(value, record.stamp)
            if value is not None and record is not None and record.stamp != group.stamp:
                self._changed(group, value, record.stamp)
            self._resize(group, indices, now)
            if not group.seats:
                del self._groups[name]

    def _changed(self, group: _Group, value: BackendValue, stamp: bytes) -> None:
        config_changed = value.config != group.value.config
        group.value, group.stamp = value, stamp
        for seat in group.seats:
            seat.forgive()
            for replica in (seat.charge, seat.successor):
                if replica is not None and replica.value.version == value.version:
                    replica.value = value
                    if config_changed:
                        self.actions.append(Configure(replica.node, value))

    def _resize(self, group: _Group, indices: list[int], now: float) -> None:
        while len(group.seats) > len(indices):
            # Those that serve nothing go first, then the highest index.
            seat = max(group.seats, key=lambda seat: (seat.charge is None or seat.charge.state != "ready", seat.index))
            group.seats.remove(seat)
            for replica in (seat.successor, seat.charge):
                if replica is not None:
                    del self._seat_of[replica.node]
                    self._leaving[replica.node] = replica
        taken = {seat.index for seat in group.seats}
        free = [index for index in indices if index not in taken]
        while len(group.seats) < len(indices):
            seat = _Seat(free.pop(0))
            group.seats.append(seat)
            self._take_back(group, seat)

    def _take_back(self, group: _Group, seat: _Seat) -> None:
        """Rather than start another, keep one that was about to go."""
        for node, replica in self._leaving.items():
            if replica.backend == self._name(group) and replica.value.version == group.value.version:
                del self._leaving[node]
                self._hold_until.pop(node, None)
                seat.charge = replica
                seat.index = replica.index
                self._seat_of[node] = seat
                return

    def _name(self, group: _Group) -> str:
        return next(name for name, other in self._groups.items() if other is group)

    @staticmethod
    def _wants_replica(group: _Group, seat: _Seat) -> bool:
        if seat.given_up or seat.successor is not None:
            return False
        return seat.charge is None or seat.charge.value.version != group.value.version

    def _fill_seats(self, now: float) -> None:
        """Start what is missing, and one successor at a time for each backend whose code has changed."""
        for name, group in self._groups.items():
            replacing = any(seat.successor is not None for seat in group.seats)
            for seat in group.seats:
                if not self._wants_replica(group, seat) or seat.retry_at > now:
                    continue
                charge = seat.charge
                if charge is not None and charge.state != "ready":
                    # Old code that serves nothing yet: not worth waiting for.
                    del self._seat_of[charge.node]
                    seat.charge = None
                    self._stop(charge)
                    charge = None
                if charge is not None and replacing:
                    continue
                replica = _Replica(self._rng.randbytes(16), name, seat.index, group.value, now)
                self._seat_of[replica.node] = seat
                if charge is None:
                    seat.charge = replica
                else:
                    seat.successor = replica
                    replacing = True
                self.actions.append(Start(replica.node, name, seat.index, group.value))

    def _stop(self, replica: _Replica) -> None:
        grace_s = replica.value.config.graceful_shutdown_timeout if replica.state == "ready" else 0.0
        replica.state = "draining"
        self._seat_of.pop(replica.node, None)
        self._leaving.pop(replica.node, None)
        self._hold_until.pop(replica.node, None)
        self._stopping[replica.node] = replica
        self.actions.append(Stop(replica.node, grace_s))

    def _let_go(self, now: float) -> None:
        """Stop the replicas that are not wanted here, as far as they are not needed until others are ready."""
        if not self._leaving:
            return
        keep: dict[str, int] = {}
        routers = bool(self.sync.membership.live_routers())
        if routers and not (self.leaving and now >= self._handover_deadline):
            own: dict[str, int] = {}
            for replica in [*self._leaving.values(), *self._in_charge()]:
                if replica.state == "ready":
                    own[replica.backend] = own.get(replica.backend, 0) + 1
            kept = replicas_to_keep(own, self._placement, self.info.node, self._ready_elsewhere())
            for replica in self._in_charge():
                if replica.state == "ready":
                    kept[replica.backend] -= 1
            keep = {name: count for name, count in kept.items() if self.sync.registry.backend(name) is not None}
        overfull = len(self._leaving) + sum(len(group.seats) for group in self._groups.values()) > self.info.slots
        for replica in sorted(self._leaving.values(), key=lambda replica: (replica.ready_at, replica.node)):
            if replica.state == "ready" and keep.get(replica.backend, 0) > 0:
                if not overfull or self.leaving:
                    self._hold_until.pop(replica.node, None)
                    keep[replica.backend] -= 1
                    continue
                if now < self._hold_until.setdefault(replica.node, now + OVERFULL_S):
                    keep[replica.backend] -= 1
                    continue
            self._stop(replica)

    def _in_charge(self) -> list[_Replica]:
        return [seat.charge for group in self._groups.values() for seat in group.seats if seat.charge is not None]

    def _ready_elsewhere(self) -> dict[str, int]:
        """Replicas ready on other worker nodes; on each not more than it is meant to have."""
        mine = {*self._seat_of, *self._leaving, *self._stopping}
        quota: dict[tuple[bytes, str], int] = {}
        for worker, row in self._placement.items():
            for backend, _ in row:
                quota[worker, backend] = quota.get((worker, backend), 0) + 1
        ready: dict[str, int] = {}
        for info in self.sync.membership.replicas():
            if info.node in mine or info.leaving or info.worker == self.info.node:
                continue
            if info.worker:
                left = quota.get((info.worker, info.backend), 0)
                if not left:
                    continue
                quota[info.worker, info.backend] = left - 1
            ready[info.backend] = ready.get(info.backend, 0) + 1
        return ready

    # --- reporting ----------------------------------------------------------------------------------------------------

    def _report(self) -> list[ReplicaStatus]:
        found: list[ReplicaStatus] = []
        for name, group in self._groups.items():
            for seat in group.seats:
                for replica in (seat.charge, seat.successor):
                    if replica is not None:
                        found.append(self._status(replica, seat.restarts, seat.reason))
                if seat.last is not None and seat.reason and (seat.charge is None or seat.last.state == "failed"):
                    found.append(self._status(seat.last, seat.restarts, seat.reason, name))
        for replica in [*self._leaving.values(), *self._stopping.values()]:
            found.append(self._status(replica, 0, ""))
        return found

    @staticmethod
    def _status(replica: _Replica, restarts: int, reason: str, name: str = "") -> ReplicaStatus:
        return ReplicaStatus(
            replica.node,
            name or replica.backend,
            replica.index,
            replica.value.version,
            replica.state,
            replica.pid,
            reason if replica.state in ("failed", "dead") else "",
            restarts,
        )

    def _send_report(self) -> None:
        report = self._report()
        if report == self._reported:
            return
        self._reported = [msgspec.structs.replace(status) for status in report]
        for peer in self.sync.peers("router"):
            self.out.send(peer, Report(report))

    def statistics(self) -> dict[str, int]:
        """Replicas by state."""
        counts: dict[str, int] = {}
        for status in self._report():
            counts[status.state] = counts.get(status.state, 0) + 1
        return counts
