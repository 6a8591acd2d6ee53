"""The worker node's decisions: which replicas it runs, when to start, replace, restart and stop them.

Theory of operation.  Placement (see :mod:`zserve.registry.placement`) says how many replicas of each backend this node
should hold: that many seats, each with at most one replica in charge and, while its code is being replaced, a successor
that takes over once it is ready.  A seat whose replica ends gets a new one after a back-off.  A replica that is not
wanted here any more is *moving*: it is stopped once enough others are ready elsewhere.

    seat:     empty --Start--> starting --ready--> in charge --exited--> empty (back-off)
                                  |  failed, exited
                                  v
                               empty (back-off; after three failures: only when the record changes)
    replica:  in charge --not wanted here--> moving --others are ready--> stopping --exited--> gone

Replicas of a backend are alike, so what counts is how many there are, not which index they carry.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from ..channel.outbox import Outbox, Parcel, Peer
from ..registry.neighbours import Neighbours
from ..registry.placement import Placement, place, replicas_to_keep
from ..registry.sync import ConfigSync
from ..registry.values import BACKEND, BackendValue
from ..wire.messages import Goodbye, Hello, NodeInfo, Ping, ReplicaStatus, Report, Shutdown
from .missing import UNHEARD_S, Missing
from .roster import Roster
from .seats import Action, Configure, Group, Replica, Seat, Start, Stop

__all__ = ["Action", "Configure", "Start", "Stop", "WorkerCore"]

HANDOVER_S = 30.0
"""How long a draining node waits for others to take over its replicas."""
OVERFULL_S = 30.0
"""How long a moving replica may wait for its replacement while this node holds more replicas than it has slots."""


class WorkerCore:
    """Events: those of a node, and what becomes of replica processes.  Effects: the outbox, and :attr:`actions`, which
    the shell takes with :meth:`take_actions`.

    *rng* draws the node ids of replicas.  *neighbours*: which routers to have links with; all that become known, unless
    given.
    """

    def __init__(self, sync: ConfigSync, rng: random.Random, *, neighbours: Neighbours | None = None) -> None:
        self.out = Outbox()
        self.sync = sync
        self.info: NodeInfo = sync.info
        self.actions: list[Action] = []
        self.leaving = False
        self.shutdown_reason = ""
        self._rng = rng
        self._now = float("-inf")
        self._groups: dict[str, Group] = {}
        self._seat_of: dict[bytes, Seat] = {}
        self._moving: dict[bytes, Replica] = {}
        self._hold_until: dict[bytes, float] = {}
        self._stopping: dict[bytes, Replica] = {}
        self._roster = Roster(self.info.node)
        self._placement: Placement = {}
        self._inputs: tuple[int, int] = (-1, -1)
        self._handover_deadline = 0.0
        self._reported: list[ReplicaStatus] | None = None
        self._report_serial = 1
        self._neighbours = neighbours or Neighbours(self.info.node)
        self._missing = Missing()

    # --- events of a node ---------------------------------------------------------------------------------------------

    def link_up(self, peer: Peer, hello: Hello, now: float) -> None:
        self.sync.link_up(peer, hello, self.out, now)
        if hello.info.role == "router":
            self._neighbours.link_up(peer, hello.info.node)
            if self._reported is None:
                self._reported = self.report()
            self.out.send(peer, self._signed(self._reported))
        self._after(now)

    def link_doubted(self, peer: Peer, cause: str, now: float) -> None:
        """Nothing depends on it: what a router says does not go stale, and placement follows the views."""

    def link_down(self, peer: Peer, reason: str, now: float) -> None:
        self.sync.link_down(peer, now, reason)
        self._neighbours.link_down(peer, now)
        self._after(now)

    def receive(self, peer: Peer, parcels: Sequence[Parcel], now: float) -> None:
        for message, _, _ in parcels:
            if type(message) is Shutdown:
                self.shutdown_reason = message.reason or "shutdown"
            else:
                self.sync.receive(peer, message, self.out, now)
        self._after(now)

    def ping(self, peer: Peer, now: float) -> Ping:
        return Ping(self.sync.digest(), 0, -1, [], self.leaving)

    def tick(self, now: float) -> None:
        self.sync.tick(self.out, now)
        self._after(now)

    def next_wakeup(self) -> float | None:
        times = [self._roster.settle_at] if self._roster.settle_at is not None else []
        for group in self._groups.values():
            times.extend(seat.retry_at for seat in group.seats if seat.needs(group.value.version))
        times.extend(self._hold_until.values())
        if self._moving and self.leaving:
            times.append(self._handover_deadline)
        # What was due at the last event and was not done then waits for another event, not for the clock.
        times = [at for at in times if at > self._now]
        missed = None if self.leaving else self._missing.next_wakeup()
        for due in (self.sync.next_wakeup(), self._neighbours.next_wakeup(), missed):
            if due is not None:
                times.append(due)
        return min(times, default=None)

    def routers_known(self) -> Sequence[str]:
        return self._neighbours.wanted

    # --- what becomes of replica processes ----------------------------------------------------------------------------

    def take_actions(self) -> list[Action]:
        """What the shell has to do to processes, in order."""
        actions = self.actions
        self.actions = []
        return actions

    def replica_started(self, node: bytes, pid: int, now: float) -> None:
        """The process runs; the user's code is being loaded."""
        replica = self._find(node)
        if replica is not None:
            replica.pid = pid
            self._after(now)

    def replica_ready(self, node: bytes, now: float) -> None:
        """The user's code is constructed, and the replica takes requests."""
        replica = self._find(node)
        if replica is None or replica.state != "starting":
            return
        replica.state = "ready"
        replica.ready_at = now
        self._missing.stale()
        seat = self._seat_of.get(node)
        if seat is not None:
            replaced = seat.became_ready(replica)
            if replaced is not None:
                self._stop(replaced)
        self._after(now)

    def replica_configured(self, node: bytes, user_config: bytes, trouble: str, now: float) -> None:
        """A running replica has taken in another ``user_config`` (its digest), or has refused it; *trouble* has the
        traceback then."""
        replica = self._find(node)
        if replica is not None:
            replica.took(user_config, trouble)
            self._after(now)

    def replica_failed(self, node: bytes, reason: str, now: float) -> None:
        """The user's code cannot be imported or constructed; *reason* has the traceback."""
        replica = self._forget(node)
        if replica is None:
            return
        self.actions.append(Stop(node, 0.0))  # harmless if the process ends by itself
        seat = self._seat_of.pop(node, None)
        if seat is not None:
            seat.failed(replica, reason, now)
        self._after(now)

    def replica_exited(self, node: bytes, how: str, now: float) -> None:
        """The process has ended; *how* says it for people ("exit code 1", "killed by SIGKILL")."""
        replica = self._forget(node)
        if replica is None:
            return
        seat = self._seat_of.pop(node, None)
        if seat is not None and replica.ready:
            seat.crashed(replica, how, now)
        elif seat is not None:
            seat.failed(replica, f"the process ended before the code was constructed: {how}", now)
        self._after(now)

    def _find(self, node: bytes) -> Replica | None:
        seat = self._seat_of.get(node)
        if seat is not None:
            return next(replica for replica in seat.occupants() if replica.node == node)
        return self._moving.get(node) or self._stopping.get(node)

    def _forget(self, node: bytes) -> Replica | None:
        replica = self._find(node)
        for table in (self._moving, self._stopping, self._hold_until):
            table.pop(node, None)
        return replica

    # --- draining -----------------------------------------------------------------------------------------------------

    def drain(self, now: float, handover_s: float = HANDOVER_S) -> None:
        """Leave.  Each replica runs on until enough others are ready elsewhere, *handover_s* seconds at the longest.

        It is over when :attr:`drained` is true.
        """
        if self.leaving:
            return
        self.leaving = self.info.leaving = True
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
        """Whether this node drains and no replica process is left."""
        return self.leaving and not (self._seat_of or self._moving or self._stopping)

    # --- after each event ---------------------------------------------------------------------------------------------

    def _after(self, now: float) -> None:
        self._now = max(now, self._now)
        self.sync.take_changes()
        self._replace_missing(now)
        self._choose_routers(now)
        self._place(now)
        self._follow_config()
        self._fill_seats(now)
        self._let_go(now)
        self._send_report()

    def _choose_routers(self, now: float) -> None:
        self._neighbours.update(self.sync.membership, now)
        for peer in self._neighbours.spare(now):
            self.out.send(peer, Goodbye("others are enough"))
            self.out.close(peer, "goodbye: others are enough")

    def _replace_missing(self, now: float) -> None:
        """A process that runs and is not heard is as good as dead: stopped, or its event loop stands still."""
        if self.leaving:
            return
        for node in self._missing.look(self.sync.membership, self._seated, now):
            replica, seat = self._find(node), self._seat_of.pop(node, None)
            if replica is not None and seat is not None:
                self.actions.append(Stop(node, 0.0))
                how = f"process {replica.pid} runs, but no router has heard it for {UNHEARD_S:.0f} s; it was killed"
                seat.crashed(replica, how, now)

    def _seated(self) -> list[bytes]:
        """The replicas in charge of a seat that are ready."""
        charges = [(node, seat.charge) for node, seat in self._seat_of.items()]
        return [node for node, charge in charges if charge is not None and charge.node == node and charge.ready]

    def _place(self, now: float) -> None:
        """Compute the placement anew, if anything that it depends on has changed."""
        registry, membership = self.sync.registry, self.sync.membership
        inputs = (registry.generation, membership.version_of("worker"))
        settle_at = self._roster.settle_at
        if inputs == self._inputs and (settle_at is None or settle_at > now):
            return
        self._inputs = inputs
        self._roster.update(membership, now, leaving=self.leaving)
        backends = {name: value.config for name, value in registry.backends().items()}
        self._placement = place(backends, self._roster.workers.values())

    def _follow_config(self) -> None:
        """As many seats as placement says; config and code as the registry says."""
        wanted: dict[str, list[int]] = {}
        for name, index in self._placement.get(self.info.node, ()):
            wanted.setdefault(name, []).append(index)
        for name in {**self._groups, **wanted}:
            value, record = self.sync.registry.backend(name), self.sync.registry.get(BACKEND + name)
            group = self._groups.get(name)
            if value is not None and record is not None:
                if group is None:
                    group = self._groups[name] = Group(name, value, record.stamp)
                elif record.stamp != group.stamp:
                    self._changed(group, value, record.stamp)
            if group is not None:
                self._resize(group, wanted.get(name, []) if value is not None else [])
                if not group.seats:
                    del self._groups[name]

    def _changed(self, group: Group, value: BackendValue, stamp: bytes) -> None:
        scaled = msgspec.structs.replace(group.value.config, num_replicas=value.config.num_replicas)
        config_changed = value.config != scaled  # how many there are is of no interest to one of them
        group.value, group.stamp = value, stamp
        for seat in group.seats:
            seat.forgive()
            for replica in seat.occupants():
                if replica.value.version == value.version:
                    replica.value = value
                    if config_changed:
                        self.actions.append(Configure(replica.node, value))

    def _resize(self, group: Group, indices: list[int]) -> None:
        while len(group.seats) > len(indices):
            # Those that serve nothing go first, then the highest index.
            seat = max(group.seats, key=lambda seat: (seat.charge is None or not seat.charge.ready, seat.index))
            group.seats.remove(seat)
            for replica in seat.occupants():
                del self._seat_of[replica.node]
                self._moving[replica.node] = replica
        taken = {seat.index for seat in group.seats}
        free = [index for index in indices if index not in taken]
        while len(group.seats) < len(indices):
            seat = Seat(free.pop(0))
            group.seats.append(seat)
            self._take_back(group, seat)

    def _take_back(self, group: Group, seat: Seat) -> None:
        """Rather than start another replica, keep one that was about to go."""
        for node, replica in self._moving.items():
            if replica.backend == group.name and replica.value.version == group.value.version:
                del self._moving[node]
                self._hold_until.pop(node, None)
                self._seat_of[node] = seat
                seat.charge = replica
                seat.index = replica.index
                return

    def _fill_seats(self, now: float) -> None:
        """Start what is missing, all at once; replace what has old code, one after the other."""
        for group in self._groups.values():
            for seat in group.seats:
                if not seat.needs(group.value.version) or seat.retry_at > now:
                    continue
                before = seat.charge
                if before is not None and not before.ready:
                    self._stop(before)  # old code that serves nothing yet is not worth waiting for
                    seat.charge = before = None
                if before is not None and not seat.failures and not group.replaceable():
                    continue
                # It begins as the id of this node does: where nodes have keys, a replica shows that of its worker node.
                node = self.info.node[:8] + self._rng.randbytes(16)[8:]
                replica = Replica(node, group.name, seat.index, group.value)
                self._seat_of[replica.node] = seat
                if before is None:
                    seat.charge = replica
                else:
                    seat.successor = replica
                self.actions.append(Start(replica.node, group.name, seat.index, group.value))

    def _stop(self, replica: Replica) -> None:
        grace_s = replica.value.config.graceful_shutdown_timeout if replica.ready else 0.0
        replica.state = "draining"
        for table in (self._seat_of, self._moving, self._hold_until):
            table.pop(replica.node, None)
        self._stopping[replica.node] = replica
        self.actions.append(Stop(replica.node, grace_s))

    # --- replicas that move -------------------------------------------------------------------------------------------

    def _let_go(self, now: float) -> None:
        """Stop the replicas that are not wanted here, as far as they are not needed until others are ready."""
        if not self._moving:
            return
        spare = self._needed_still(now)
        overfull = len(self._moving) + len(self._seat_of) > self.info.slots
        for replica in sorted(self._moving.values(), key=lambda replica: (replica.ready_at, replica.node)):
            node = replica.node
            if replica.ready and spare[replica.backend] > 0:
                until = float("inf")
                if overfull and not self.leaving:
                    until = self._hold_until.setdefault(node, now + OVERFULL_S)
                else:
                    self._hold_until.pop(node, None)
                if now < until:
                    spare[replica.backend] -= 1
                    continue
            self._stop(replica)

    def _needed_still(self, now: float) -> Counter[str]:
        """How many of the moving replicas of each backend have to go on for now."""
        needed: Counter[str] = Counter()
        if not self.sync.membership.live_routers() or (self.leaving and now >= self._handover_deadline):
            return needed
        seated = _ready_by_backend(replica for group in self._groups.values() for replica in _in_charge(group))
        own = seated + _ready_by_backend(self._moving.values())
        kept = replicas_to_keep(own, self._placement, self.info.node, self._ready_elsewhere())
        for name, count in kept.items():
            if self.sync.registry.backend(name) is not None:
                needed[name] = count - seated[name]
        return needed

    def _ready_elsewhere(self) -> Counter[str]:
        """Replicas ready on other worker nodes; on each not more than it is meant to have."""
        quota = Counter((worker, name) for worker, row in self._placement.items() for name, _ in row)
        ready: Counter[str] = Counter()
        for info in self.sync.membership.replicas():
            if info.leaving or info.worker == self.info.node or self._find(info.node) is not None:
                continue
            if info.worker:
                if quota[info.worker, info.backend] <= 0:
                    continue
                quota[info.worker, info.backend] -= 1
            ready[info.backend] += 1
        return ready

    # --- reporting ----------------------------------------------------------------------------------------------------

    def report(self) -> list[ReplicaStatus]:
        """All replicas of this node, and those that ended and have not been replaced."""
        found: list[ReplicaStatus] = []
        for group in self._groups.values():
            for seat in group.seats:
                for replica in seat.occupants():
                    why = f"replaced one that ended: {seat.before}" if seat.before and replica is seat.charge else ""
                    found.append(_status(replica, seat.restarts, why))
                last = seat.last
                if last is not None and (seat.charge is None or last.state == "failed"):
                    found.append(_status(last, seat.restarts, seat.reason))
        found.extend(_status(replica) for table in (self._moving, self._stopping) for replica in table.values())
        return found

    def _send_report(self) -> None:
        report = self.report()
        if report != self._reported:
            self._reported = report
            self._report_serial += 1
            for peer in self.sync.peers("router"):
                self.out.send(peer, self._signed(report))

    def _signed(self, report: list[ReplicaStatus]) -> Report:
        return Report(report, self.info.node, self.info.boot, self._report_serial)

    def statistics(self) -> dict[str, int]:
        """Replicas by state."""
        return dict(Counter(status.state for status in self.report()))


def _in_charge(group: Group) -> list[Replica]:
    return [seat.charge for seat in group.seats if seat.charge is not None]


def _ready_by_backend(replicas: Iterable[Replica]) -> Counter[str]:
    return Counter(replica.backend for replica in replicas if replica.ready)


def _status(replica: Replica, restarts: int = 0, reason: str = "") -> ReplicaStatus:
    return ReplicaStatus(
        replica.node,
        replica.backend,
        replica.index,
        replica.value.version,
        replica.state,
        replica.pid,
        reason or replica.trouble,
        restarts,
        replica.configured,
        replica.refused,
    )
