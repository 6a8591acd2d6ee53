"""What must hold whatever happens, and the watch that sees whether it does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from ..cores.gateway import SLACK_S
from ..cores.recollection import DOUBT_S
from ..cores.replica import OVER_LIMIT_SLACK
from ..registry.record import Record
from ..registry.values import BACKEND, ENDPOINT, BackendValue, EndpointValue, parse_value
from .clients import Call, SimClient
from .nodes import SimRouter
from .watch import Watch

if TYPE_CHECKING:
    from ..handler.runs import HeldCall
    from .fabric import SimFabric
    from .gateways import SimGateway, Ticket
    from .nodes import SimNode
    from .replicas import SimReplica

__all__ = ["CONVERGED_WITHIN_S", "PLACED_WITHIN_S", "Invariants", "Violation"]

CONVERGED_WITHIN_S = 5.0
"""All live nodes hold one registry this long after the faults have ended, seconds."""
PLACED_WITHIN_S = 40.0
"""Every backend has exactly its replicas this long after the faults have ended, seconds: a worker node that misses
another one waits up to 15 s before it takes over, and lets go of what is too many within 30 s."""
_LATE_S = SLACK_S + 0.002


class Violation(msgspec.Struct):
    """name: which invariant; subjects: the registry keys, requests and nodes that it is about."""

    name: str
    at: float
    text: str
    subjects: list[str]


class _Write:
    """A record that some router accepted, and whether its author was told so."""

    __slots__ = ("acknowledged", "at", "excused", "record", "router")

    def __init__(self, record: Record, router: str, at: float) -> None:
        self.record = record
        self.router = router
        self.at = at
        self.acknowledged = False
        self.excused = False


class Invariants(Watch):
    """Watches one fabric.  :attr:`violations` has what was seen so far; call the ``check_`` functions at the end."""

    def __init__(self, fabric: SimFabric) -> None:
        self.violations: list[Violation] = []
        self.tickets: list[Ticket] = []
        self.writes: list[_Write] = []
        self.runs = 0
        self.over_limit_allowed = True
        self.only_routers_die = False
        self._replicas_ended: list[float] = []
        self._fabric = fabric
        self._executions: dict[bytes, int] = {}
        self._known: dict[bytes, Ticket] = {}
        self._by_call: dict[tuple[bytes, int], list[_Write]] = {}
        self._backends_of: dict[str, dict[str, None]] = {}
        self._versions_of: dict[str, dict[str, None]] = {}
        self._stops: dict[str, list[list[float]]] = {}
        self._held_before: list[_Write] = []

    def violate(self, name: str, text: str, *subjects: str) -> None:
        """Note a violation; the first ten are enough."""
        if len(self.violations) < 10:
            self.violations.append(Violation(name, self._fabric.clock.now, text, list(subjects)))

    # --- requests -----------------------------------------------------------------------------------------------------

    def opened(self, ticket: Ticket) -> None:
        self.tickets.append(ticket)
        self._known[ticket.id] = ticket
        kind = "idempotent" if ticket.idempotent else "not idempotent"
        budget_s = ticket.deadline - ticket.opened_at
        text = f"{ticket.gateway.name}: {ticket.endpoint}, {kind}, {budget_s:g} s"
        self._fabric.note("request", ticket.id.hex(), text)

    def answered(self, ticket: Ticket) -> None:
        request = ticket.id.hex()
        text = ticket.reply.decode(errors="replace")
        self._fabric.note("answer", request, f"{ticket.gateway.name}: {ticket.status} from {ticket.origin}: {text}")
        if ticket.answers > 1:
            self.violate("one answer", f"request {request} got {ticket.answers} answers", request)
        late_s = ticket.answered_at - self._latest(ticket)
        if late_s > 0.0:
            self.violate("in time", f"request {request} was answered {late_s:.4f} s too late", request)
        if ticket.status == 502 and self.only_routers_die and not self._replica_ended_since(ticket.opened_at):
            self.violate("nothing is lost with a router", f"request {request} got 502: {text}", request)
        if ticket.status == 200:
            backend, _, body = ticket.reply.partition(b"|")
            if body != ticket.body or backend.decode() not in self._backends_of.get(ticket.endpoint, ()):
                self.violate("own answer", f"request {request} ({ticket.body!r}) got {ticket.reply!r}", request)

    def replica_ended(self, replica: SimReplica) -> None:
        self._replicas_ended.append(self._fabric.clock.now)

    def _replica_ended_since(self, opened_at: float) -> bool:
        """Whether a replica may have gone with what it knew of a request of that time."""
        return bool(self._replicas_ended) and self._replicas_ended[-1] >= opened_at - DOUBT_S - _LATE_S

    def _latest(self, ticket: Ticket) -> float:
        """Until when the gateway has to answer; a process that is stopped cannot."""
        latest = ticket.deadline + _LATE_S
        for stopped, went_on in self._stops.get(ticket.gateway.name, ()):
            if stopped <= latest:
                latest = max(latest, went_on + _LATE_S)
        return latest

    def running(self, replica: SimReplica, calls: Sequence[HeldCall]) -> None:
        for call in calls:
            self.runs += 1
            count = self._executions[call.id] = self._executions.get(call.id, 0) + 1
            request = call.id.hex()
            if call.id in self._known:
                self._fabric.note("run", request, f"{replica.name} {replica.node.hex()[:8]} ({replica.version})")
            ticket = self._known.get(call.id)
            if count > 1 and (ticket is None or not ticket.idempotent):
                self.violate("at most once", f"request {request} runs for the {count}. time", request, replica.name)
            if replica.backend not in self._backends_of.get(call.endpoint, ()):
                text = f"endpoint {call.endpoint!r} was served by {replica.backend!r}, which never was in its traffic"
                self.violate("served by what was written", text, request, ENDPOINT + call.endpoint)
            if replica.version not in self._versions_of.get(replica.backend, ()):
                text = f"{replica.name} runs version {replica.version!r}, which nobody wrote"
                self.violate("served by what was written", text, request, BACKEND + replica.backend)

    def received(self, replica: SimReplica) -> None:
        core = replica.core
        if core.held <= replica.largest_capacity:
            return
        figures: Any = core.statistics()["credits"]
        most = replica.largest_capacity + figures["overcommit"] + OVER_LIMIT_SLACK * max(1, figures["routers"])
        if core.held > most:
            text = f"{replica.name} holds {core.held} calls; at most {most} were granted"
            self.violate("credits", text, replica.name)

    def check_credits(self) -> None:
        """Where nothing went wrong, no router ever sent more than it was granted."""
        for replica in self._fabric.replicas():
            figures: Any = replica.core.statistics()["credits"]
            if figures["over_limit"] and not self.over_limit_allowed:
                text = f"{replica.name} was sent {figures['over_limit']} calls beyond its grants"
                self.violate("credits", text, replica.name)

    def check_answers(self) -> None:
        """Every request whose gateway lives has its answer."""
        now = self._fabric.clock.now
        for ticket in self.tickets:
            gateway: SimGateway = ticket.gateway
            if not ticket.answers and gateway.alive and gateway.boots == ticket.boot and now > self._latest(ticket):
                request = ticket.id.hex()
                self.violate("one answer", f"request {request} at {gateway.name} has no answer", request)

    def node_changed(self, node: SimNode, what: str) -> None:
        if node.role == "gateway":
            stops = self._stops.setdefault(node.name, [])
            if what == "stopped":
                stops.append([self._fabric.clock.now, float("inf")])
            elif stops and stops[-1][1] == float("inf"):
                stops[-1][1] = self._fabric.clock.now

    # --- writes -------------------------------------------------------------------------------------------------------

    def wrote(self, router: SimNode, client: bytes, call: int, records: Sequence[Record]) -> None:
        for record in records:
            write = _Write(record, router.name, self._fabric.clock.now)
            self.writes.append(write)
            self._by_call.setdefault((client, call), []).append(write)
            text = "deletes it" if record.value is None else record.value.decode()
            self._fabric.note("write", record.key, f"{router.name} call {call}: {_short(record)} {text}")
            self._learn(record)

    def _learn(self, record: Record) -> None:
        if record.value is None:
            return
        value = parse_value(record.key, record.value)
        if isinstance(value, EndpointValue):
            backends = self._backends_of.setdefault(record.key[len(ENDPOINT) :], {})
            backends.update(dict.fromkeys([*value.traffic, *value.shadows]))
        elif isinstance(value, BackendValue):
            self._versions_of.setdefault(record.key[len(BACKEND) :], {})[value.version] = None

    def acknowledged(self, client: SimClient, calls: Sequence[Call]) -> None:
        """Which of the client's calls were answered with success."""
        for call in calls:
            if call.state == "ok":
                for write in self._by_call.get((client.info.node, call.id), ()):
                    write.acknowledged = True

    def before_loss(self, node: SimNode) -> None:
        if isinstance(node, SimRouter):
            self._held_before = [write for write in self.writes if not write.excused and self._is_held(write)]

    def after_loss(self, node: SimNode) -> None:
        """What was only on a disk that is lost now is excused; what was only in memory is not, if there is a disk."""
        if not isinstance(node, SimRouter):
            return
        wiped = node.disk is None or not node.disk.node_id
        for write in self._held_before:
            if wiped and not self._is_held(write):
                write.excused = True
                text = f"{_short(write.record)} is lost with the last disk that had it"
                self._fabric.note("write", write.record.key, text)
        self._held_before = []

    def _is_held(self, write: _Write) -> bool:
        record = write.record
        for router in self._fabric.routers():
            if router.alive and router.registry.applied(record.key, record.stamp):
                return True
            if router.disk is not None and router.disk.holds(record):
                return True
        return False

    # --- the end ------------------------------------------------------------------------------------------------------

    def syncs(self) -> dict[str, Any]:
        """The ConfigSync of every live node, replicas included, by name."""
        nodes = [node for node in self._fabric.nodes.values() if node.role != "client" and node.alive]
        found: dict[str, Any] = {node.name: node.sync for node in nodes}
        found.update({replica.name: replica.sync for replica in self._fabric.replicas() if replica.alive})
        return found

    def converged(self) -> bool:
        """Whether all live nodes hold the same registry."""
        return len({sync.registry.digest() for sync in self.syncs().values()}) <= 1

    def check_converged(self) -> None:
        if self.converged():
            return
        by_key: dict[str, dict[str, list[str]]] = {}
        for name, sync in self.syncs().items():
            marks = dict(sync.registry.summary())
            for key in {record.key for record in self._all_records()} | marks.keys():
                mark = marks.get(key)
                by_key.setdefault(key, {}).setdefault("none" if mark is None else mark[:16].hex(), []).append(name)
        different = {key: held for key, held in sorted(by_key.items()) if len(held) > 1}
        texts = []
        for key, held in different.items():
            who = [f"{mark} on {' '.join(sorted(names))}" for mark, names in sorted(held.items())]
            texts.append(f"{key}: {'; '.join(who)}")
        self.violate("one registry", "\n    ".join(["nodes hold different records:", *texts[:8]]), *different)

    def _all_records(self) -> list[Record]:
        return [write.record for write in self.writes]

    def check_writes(self) -> None:
        """No acknowledged write is lost, no deleted record is back."""
        routers = [router for router in self._fabric.routers() if router.alive]
        for write in self.writes:
            if not write.acknowledged or write.excused:
                continue
            record = write.record
            for router in routers:
                if router.registry.applied(record.key, record.stamp):
                    continue
                found = router.registry.get(record.key)
                if record.value is None and (found is None or found.value is None):
                    continue  # gone, as was asked for
                text = f"{record.key}: {_short(record)}, written at {write.at:.3f} by {write.router}, "
                text += f"is not on {router.name}"
                if record.value is None and found is not None:
                    self.violate("no deleted record comes back", f"{text}, which has {_short(found)}", record.key)
                else:
                    held = "nothing" if found is None else _short(found)
                    self.violate("no acknowledged write is lost", f"{text}, which has {held}", record.key)
                break

    def placed(self) -> bool:
        """Whether every backend has exactly its replicas, of the version written."""
        return not self._misplaced()

    def _misplaced(self) -> dict[str, str]:
        routers = [router for router in self._fabric.routers() if router.alive]
        if not routers:
            return {}
        counts: dict[str, list[str]] = {}
        for replica in self._fabric.replicas():
            if replica.alive and not replica.stopping:
                counts.setdefault(f"{replica.backend} {replica.version}", []).append(replica.name)
        slots = sum(worker.slots for worker in self._fabric.workers() if worker.alive and not worker.leaving)
        backends = routers[0].registry.backends()
        wanted = {f"{name} {value.version}": value.config.num_replicas for name, value in backends.items()}
        if sum(wanted.values()) > slots:
            return {}  # not all of them fit, and which do is not of interest here
        wrong = {}
        for name in sorted({*counts, *wanted}):
            found = counts.get(name, [])
            if len(found) != wanted.get(name, 0):
                wrong[name] = f"{len(found)} of {wanted.get(name, 0)}: {' '.join(sorted(found))}"
        return wrong

    def check_placed(self) -> None:
        wrong = self._misplaced()
        if wrong:
            text = "; ".join(f"{name}: {what}" for name, what in wrong.items())
            self.violate("as many replicas as asked for", text, *(BACKEND + name.partition(" ")[0] for name in wrong))


def _short(record: Record) -> str:
    return f"epoch {record.epoch} revision {record.revision} {record.hlc:x} by {record.writer.hex()[:8]}"
