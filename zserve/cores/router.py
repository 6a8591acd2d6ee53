"""The router's decisions on the data path: which backend, which queue, which replica, and what if one dies.

Follow a request: :class:`.intake.Intake` draws the backend and offers the request to that backend's queue;
:meth:`RouterCore._dispatch` sends what the queue releases; :meth:`RouterCore._on_result` passes the answer on.  Control
calls and status are in :mod:`zserve.cores.control`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any

from ..channel.outbox import Outbox, Parcel, Peer
from ..errors import Refusal
from ..http.answers import KIND_TEXT
from ..registry.sync import ConfigSync
from ..registry.values import BACKEND, ENDPOINT, BackendValue
from ..scheduling.backend_queue import BackendQueue, Entry
from ..scheduling.entry import CANCELLED, IN_FLIGHT
from ..scheduling.latency import Latencies
from ..scheduling.room import QUEUED_BYTES, Room
from ..scheduling.traffic import PolicyLoader, resolve_policy
from ..wire.messages import (
    FLAG_IDEMPOTENT,
    Answered,
    Cancel,
    Chunk,
    Confirmed,
    Consumed,
    Control,
    Demand,
    Grant,
    Hello,
    Ping,
    Pull,
    Recalled,
    Report,
    Request,
    Result,
    Return,
    Shutdown,
    View,
    ViewChange,
)
from .control import ControlDesk
from .endpoints import EndpointTable
from .expiry import Expiry
from .inquiries import Inquiries
from .intake import Intake, call_of
from .parking import Parking
from .relays import Relays
from .replicas import ReplicaTable
from .retries import MAX_ATTEMPTS, BackOff, RetryBudget
from .shortcuts import ID_SIZE

__all__ = ["ORIGIN_ROUTER", "RouterCore"]

ORIGIN_ROUTER = 2
_TICK_S = 1.0
_MESSAGE = itemgetter(0)  # of a parcel


class RouterCore:
    """Events: those of a node.  Effects: the outbox, and :attr:`shutdown_reason` once the fabric is to end.

    *sync* holds registry and membership; *rng* draws backends and replicas; *wall_ms* tells the time of day, which only
    stamps config records; *policy* is the traffic policy of endpoints that are created here without naming one;
    *queued_bytes* is the limit of what waits in all queues together; *load_policy* imports the policies that users
    supply.
    """

    __slots__ = (
        "_back_off",
        "_next_tick",
        "_serving",
        "_waiting",
        "control",
        "default_policy",
        "default_policy_kwargs",
        "direct_answers",
        "doubts",
        "endpoints",
        "entries",
        "errors",
        "expiry",
        "gateways",
        "inquiries",
        "intake",
        "late_results",
        "latencies",
        "leaving",
        "misplaced",
        "out",
        "parking",
        "queues",
        "relays",
        "replicas",
        "requests",
        "retried",
        "retries",
        "rng",
        "room",
        "shutdown_reason",
        "sync",
        "touched",
        "transport",
    )

    def __init__(
        self,
        sync: ConfigSync,
        rng: random.Random,
        wall_ms: Callable[[], int],
        *,
        policy: str = "random",
        policy_kwargs: Mapping[str, Any] | None = None,
        queued_bytes: int = QUEUED_BYTES,
        load_policy: PolicyLoader = resolve_policy,
    ) -> None:
        self.out = Outbox()
        self.sync = sync
        self.rng = rng
        self.leaving = False
        self.shutdown_reason = ""
        self.queues: dict[str, BackendQueue] = {}
        self.doubts: dict[Peer, str] = {}  # links that are silent, and what seems to be the cause
        self.replicas = ReplicaTable(sync.reports)
        self.endpoints = EndpointTable(sync.registry, rng, self._backlog, load_policy, sync.info.name)
        sync.registry.vet = self.endpoints.vet
        self.control = ControlDesk(self, wall_ms)
        self.relays = Relays(self)
        self.parking = Parking()
        self.room = Room(queued_bytes)
        self.inquiries = Inquiries(self)
        self.intake = Intake(self)
        self.retries = RetryBudget()
        self._back_off = BackOff(random.Random(rng.getrandbits(64)))
        self.default_policy = policy
        self.default_policy_kwargs = dict(policy_kwargs or {})
        self.errors: dict[str, int] = {}  # by backend: answers of 500 and more that its replicas gave
        self.latencies: dict[str, Latencies] = {}  # by endpoint
        self.requests = 0
        self.retried = 0
        self.late_results = 0
        self.direct_answers = 0  # that have not come through here
        self.misplaced = 0  # messages that the peer's role may not send
        self.transport: Callable[[], Mapping[str, Any]] = dict  # counters of the shell, for status
        # What the ids of requests from there begin with (b"": they are the gateway's business).
        self.gateways: dict[Peer, bytes] = {}
        self.entries: dict[bytes, tuple[Entry, BackendQueue]] = {}
        self.expiry = Expiry(self.entries)  # of deadlines that the gateway does not know: those by slo_ms
        # By link, not by name: a backend that was deleted still gets the answers of what ran then.
        self._serving: dict[Peer, BackendQueue] = {}
        self.touched: dict[BackendQueue, None] = {}
        self._waiting: dict[BackendQueue, None] = {}  # those that want to be woken at some time
        self._next_tick = 0.0
        self._apply_config(0.0)

    # --- events of a node -------------------------------------------------------------------------------------------

    def link_up(self, peer: Peer, hello: Hello, now: float) -> None:
        role = hello.info.role
        self.inquiries.link_up(now)
        self.sync.link_up(peer, hello, self.out, now)
        if role in ("gateway", "caller"):  # a caller is a gateway without HTTP: the handles of one process
            # A caller that took a gateway's ids would have its answers sent there (see shortcuts.py).
            self.gateways[peer] = hello.info.boot if role == "caller" else b""
        elif role == "replica":
            self.replicas.add(peer, hello)
            self.inquiries.joined(peer, hello, now)
            queue = self.queues.get(hello.backend)
            if queue is not None:
                self._join(peer, queue, now)
        self.control.link_up(peer, hello, now)
        self._after(now)

    def link_doubted(self, peer: Peer, cause: str, now: float) -> None:
        """A silent replica keeps what it has, and gets nothing new while another one of its backend is heard."""
        if cause:
            self.doubts[peer] = cause
        else:
            self.doubts.pop(peer, None)
        queue = self._serving.get(peer)
        if queue is not None:
            queue.replica_doubted(peer, bool(cause), now)
            self.touched[queue] = None
            self._after(now)

    def link_down(self, peer: Peer, reason: str, now: float) -> None:
        self.doubts.pop(peer, None)
        self.sync.link_down(peer, now, reason)
        if peer in self.gateways:
            del self.gateways[peer]
            self._gateway_gone(peer, now)
        self._replica_gone(peer, reason, now)
        self.control.link_down(peer, now)
        self._after(now)

    def receive(self, peer: Peer, parcels: Sequence[Parcel], now: float) -> None:
        runs = _in_runs(parcels) if len(parcels) != 1 else ((type(parcels[0][0]), parcels),)
        for kind, alike in runs:
            self._on_alike(peer, kind, alike, now)
        self._after(now)

    def _on_alike(self, peer: Peer, kind: type, parcels: Sequence[Parcel], now: float) -> None:
        """Messages of one kind."""
        if kind is Request:
            self.intake.arrived(peer, parcels, now)
        elif kind is not Result:
            for message, _, body in parcels:
                self._on_other(peer, message, body, now)
        elif len(parcels) == 1 or not self._on_results(peer, parcels, now):
            for message, head, body in parcels:
                self._on_result(peer, message, head, body, now)

    def _on_other(self, peer: Peer, message: Any, body: bytes, now: float) -> None:
        kind = type(message)
        if kind is Grant:
            self._on_grant(peer, message, now)
        elif kind is Cancel:
            self._on_cancel(peer, message, now)
        elif kind is Return:
            self._on_return(peer, message, now)
        elif kind is Answered:
            self._on_answered(peer, message, now)
        elif kind is Chunk:
            self._on_chunk(peer, message, body, now)
        elif kind is Recalled:
            if self.sync.role_of(peer) == "replica":
                self.inquiries.recalled(peer, message, now)
            else:
                self.misplaced += 1
        elif kind is Consumed:
            if peer in self.gateways:
                self.relays.consumed(peer, message, self._entry(message.id))
            else:
                self.misplaced += 1
        elif kind is Control:
            self.control.call(peer, message, now)
        elif kind is Report:
            self._on_report(peer, message, now)
        elif kind is Shutdown:
            self._on_shutdown(peer, message)
        elif kind is Confirmed:
            self.control.confirmed(peer, message)
        elif (kind is Pull and self.sync.role_of(peer) == "client") or not self.sync.receive(
            peer, message, self.out, now
        ):
            self.misplaced += 1
        elif kind is View or kind is ViewChange:
            self.control.views_changed(now)
        elif kind is Ping:
            self.replicas.heard(peer, message.progress_us, now)

    def ping(self, peer: Peer, now: float) -> Ping:
        unready = self.unready(now) if peer in self.gateways else []
        sync = self.sync
        known, absent_ms = sync.known(peer), sync.standing.absent_ms
        return Ping(sync.digest(), sync.view_serial, -1, unready, self.leaving, known, absent_ms)

    def tick(self, now: float) -> None:
        for queue in self._waiting:
            wake = queue.next_wakeup()
            if wake is not None and wake <= now:
                self.touched[queue] = None
        for key in self.expiry.due(now):
            self._overdue(key, now)
        for entry, queue in self._back_off.due(now):
            if self._entry(entry.id) is entry:  # somebody still waits for it
                self._queue_again(entry, queue, now)
                self.touched[queue] = None
        self.sync.tick(self.out, now)
        if now >= self._next_tick:
            self._next_tick = now + _TICK_S
            for gateway, request, _, _ in self.parking.expired(now):
                self.refuse(gateway, request.id, Refusal(404, f"there is no endpoint {request.endpoint!r}"))
            self.control.tick(now)
            self.inquiries.tick(now)
        self._after(now)

    def next_wakeup(self) -> float:
        at = self._next_tick
        for due in (self.sync.next_wakeup(), self.expiry.next(), self._back_off.next()):
            if due is not None and due < at:
                at = due
        for queue in self._waiting:
            wake = queue.next_wakeup()
            if wake is not None and wake < at:
                at = wake
        return at

    def routers_known(self) -> Sequence[str]:
        return self.sync.routers_known()

    # --- answers ----------------------------------------------------------------------------------------------------

    def _on_results(self, peer: Peer, parcels: Sequence[Parcel], now: float) -> bool:
        """Results that have come together, if there is nothing special about any of them; else False."""
        queue = self._serving.get(peer)
        if queue is None:
            return False
        ids = []
        for message, _, _ in parcels:
            if message.streams or message.status >= 500:
                return False
            ids.append(message.id)
        done = queue.answered(peer, ids, now, lambda number: float(parcels[number][0].run_us * 1e-6))
        if done is None:
            return False
        if queue:  # something waits
            self.touched[queue] = None
        self._over(done, [now] * len(done))
        ways: dict[Peer, list[Parcel]] = {}
        for parcel, entry in zip(parcels, done):  # noqa: B905 (they are as many)
            gateway = entry.gateway
            if not gateway:
                continue
            arrived = entry.arrived
            if entry.sent_at > arrived:
                parcel[0].queue_us += int((entry.sent_at - arrived) * 1e6)
            if gateway in ways:
                ways[gateway].append(parcel)
            else:
                ways[gateway] = [parcel]
        for gateway, together in ways.items():
            self.out.send_all(gateway, together)
        return True

    def _on_result(self, peer: Peer, message: Result, head: bytes, body: bytes, now: float) -> None:
        queue = self._serving.get(peer)
        if queue is None:
            self.late_results += 1
            self._misplace(peer)
            return
        if message.streams:
            self.relays.begin(peer, message, head, body, self._entry(message.id), now)
            return
        run_s, waited_s = message.run_us * 1e-6, (message.queue_us + message.batch_us) * 1e-6
        entry = queue.completed(peer, message.id, now, ok=message.status < 500, run_s=run_s, waited_s=waited_s)
        if queue:  # something waits
            self.touched[queue] = None
        if message.status >= 500:
            self.errors[queue.name] = self.errors.get(queue.name, 0) + 1
        if entry is None:
            self.late_results += 1
            return
        del self.entries[message.id]
        if entry.gateway:
            message.queue_us += max(0, int((entry.sent_at - entry.arrived) * 1e6))
            self.out.send(entry.gateway, message, head, body)
            latencies = self.latencies.get(entry.endpoint)
            if latencies is not None:
                latencies.answered += 1
                latencies.latest.append(now - entry.arrived)
                if message.status >= 500:
                    latencies.errors += 1

    def _on_answered(self, peer: Peer, message: Answered, now: float) -> None:
        """A replica's answers that have gone straight to their gateways."""
        queue = self._serving.get(peer)
        if queue is None:
            self.late_results += 1
            self._misplace(peer)
            return
        joined, run_us, waited_us, ago_us = message.ids, message.run_us, message.waited_us, message.ago_us
        ids = [joined[start : start + ID_SIZE] for start in range(0, len(joined), ID_SIZE)]
        if not len(ids) == len(run_us) == len(waited_us) == len(ago_us):
            self.misplaced += 1
            return
        ended = ends = [now - us * 1e-6 for us in ago_us]
        done = queue.answered(peer, ids, now, lambda number: run_us[number] * 1e-6, ended.__getitem__)
        if done is None:
            done, ends = [], []
            for number, key in enumerate(ids):
                run_s, waited_s = run_us[number] * 1e-6, waited_us[number] * 1e-6
                entry = queue.completed(peer, key, ended[number], ok=True, run_s=run_s, waited_s=waited_s)
                if entry is None:
                    self.late_results += 1
                else:
                    done.append(entry)
                    ends.append(ended[number])
        if queue:  # something waits
            self.touched[queue] = None
        self.direct_answers += len(done)
        self._over(done, ends)

    def _over(self, entries: Sequence[Entry], ended: Sequence[float]) -> None:
        """They have been answered, each at its time, and not with an error."""
        endpoint, latencies = None, None
        for entry, at in zip(entries, ended):  # noqa: B905 (they are as many)
            del self.entries[entry.id]
            if not entry.gateway:
                continue
            if entry.endpoint is not endpoint:
                endpoint = entry.endpoint
                latencies = self.latencies.get(endpoint)
            if latencies is not None:
                latencies.answered += 1
                latencies.latest.append(at - entry.arrived)

    def _on_chunk(self, peer: Peer, message: Chunk, body: bytes, now: float) -> None:
        queue = self._serving.get(peer)
        if queue is None:
            self._misplace(peer)
            return
        if self.relays.chunk(peer, queue, message, body, self._entry(message.id), now):
            del self.entries[message.id]
        if message.end:
            self.touched[queue] = None

    def _entry(self, key: bytes) -> Entry | None:
        found = self.entries.get(key)
        return None if found is None else found[0]

    def _on_grant(self, peer: Peer, message: Grant, now: float) -> None:
        queue = self._serving.get(peer)
        if queue is not None:
            queue.grant(peer, message.epoch, message.limit, now)
            self.touched[queue] = None
        else:
            self._misplace(peer)

    def _misplace(self, peer: Peer) -> None:
        """Something that only a replica says.  One whose backend is not known here (yet) is right to say it."""
        if self.sync.role_of(peer) != "replica":
            self.misplaced += 1

    def _on_cancel(self, peer: Peer, message: Cancel, now: float) -> None:
        if peer not in self.gateways:
            self.misplaced += 1
            return
        for key in message.ids:
            found = self.entries.get(key)
            if found is None:
                self.inquiries.cancel(peer, key)
            elif found[0].gateway == peer:
                self._cancel(key, now)

    def _cancel(self, key: bytes, now: float, *, tell: bool = True) -> None:
        """Nobody waits for this request any more.  What a replica has of it keeps its credit until it answers; *tell*:
        and should not go on with it."""
        entry, queue = self.entries.pop(key)
        cancelled = queue.cancel(key, now)
        if cancelled is None and entry.state == IN_FLIGHT:
            # The queue has met one that was cancelled before: its gateway's link broke, and the gateway sent the
            # request again, under the same id, while a replica still had it from the first time.
            entry.state = CANCELLED
            cancelled = entry
        if cancelled is not None and cancelled.replica and tell:
            self.out.send(cancelled.replica, Cancel([key]))
        self.touched[queue] = None

    def can_adopt(self, replica: Peer) -> bool:
        """Whether what runs at a replica can be waited for here."""
        return replica in self._serving

    def adopt(self, entry: Entry, replica: Peer, now: float) -> None:
        """It runs at *replica* already: a router that is gone had sent it there."""
        queue = self._serving[replica]
        queue.adopt(entry, replica, now)
        self.entries[entry.id] = (entry, queue)

    def _overdue(self, key: bytes, now: float) -> None:
        """It is past the deadline that its backend gives it, with a replica, and has not begun to be answered."""
        entry, queue = self.entries[key]
        if entry.deadline > now or not entry.replica or not entry.gateway:
            return
        text = f"the deadline of backend {queue.name!r} (slo_ms) passed while it ran; it may have run"
        self.refuse(entry.gateway, key, Refusal(504, text))
        self._cancel(key, now)

    def _on_return(self, peer: Peer, message: Return, now: float) -> None:
        """A replica gives back what it has not started."""
        queue = self._serving.get(peer)
        if queue is None:
            self._misplace(peer)
            return
        for key in message.ids:
            entry = queue.returned(peer, key, now)
            if entry is not None:
                self._queue_again(entry, queue, now)
        self.touched[queue] = None

    def _queue_again(self, entry: Entry, queue: BackendQueue, now: float) -> None:
        """What a replica has not answered waits for another one, unless nobody will ever come for it."""
        if entry.gateway and self.endpoints.get(entry.endpoint) is None:
            refusal = Refusal(404, f"endpoint {entry.endpoint!r} was deleted")
        elif self.queues.get(queue.name) is not queue:
            refusal = Refusal(503, f"backend {queue.name!r} was deleted", 1.0)
        else:
            queue.requeue(entry, now)
            return
        del self.entries[entry.id]
        if entry.gateway:
            self.refuse(entry.gateway, entry.id, refusal)

    def refuse(self, gateway: Peer, key: bytes, refusal: Refusal) -> None:
        retry_us = -1 if refusal.retry_after_s is None else int(refusal.retry_after_s * 1e6)
        result = Result(key, refusal.status, KIND_TEXT, ORIGIN_ROUTER, retry_after_us=retry_us)
        self.out.send(gateway, result, b"", refusal.reason.encode())

    # --- after each event -------------------------------------------------------------------------------------------

    def _after(self, now: float) -> None:
        """Config that changed takes effect; queues that were touched release what they can."""
        if self.sync.registry.generation != self.endpoints.generation:
            self._apply_config(now)
        if self.inquiries.fresh:
            self.inquiries.ask(now)
        while self.touched:
            touched = self.touched
            self.touched = {}
            for queue in touched:
                self._dispatch(queue, now)
                if queue.next_wakeup() is not None:
                    self._waiting[queue] = None
                else:
                    self._waiting.pop(queue, None)

    def _dispatch(self, queue: BackendQueue, now: float) -> None:
        out = self.out
        for dispatch in queue.dispatch(now):
            entries = dispatch.entries
            size = len(entries)
            if size == 1:
                entry = entries[0]
                out.send(dispatch.replica, call_of(entry, dispatch.batch_no, 1, now), entry.head, entry.body)
                continue
            batch_no = dispatch.batch_no
            out.send_together(
                dispatch.replica, [(call_of(entry, batch_no, size, now), entry.head, entry.body) for entry in entries]
            )
        for entry, refusal in queue.expire(now):
            self.entries.pop(entry.id, None)
            if entry.gateway:
                self.refuse(entry.gateway, entry.id, refusal)
        for replica in queue.demand_due(now):
            out.send(replica, Demand(*queue.demand(replica, now)))

    # --- nodes that come and go ---------------------------------------------------------------------------------------

    def _join(self, peer: Peer, queue: BackendQueue, now: float) -> None:
        self._serving[peer] = queue
        queue.replica_joined(peer, now)
        self.touched[queue] = None

    def _gateway_gone(self, peer: Peer, now: float) -> None:
        for key, (entry, _) in list(self.entries.items()):
            if entry.gateway == peer:
                # If only the link is gone, the gateway comes back for it; what must run once is better not stopped.
                self._cancel(key, now, tell=bool(entry.flags & FLAG_IDEMPOTENT) or self.relays.has_begun(key))
        self.inquiries.gateway_gone(peer)

    def _replica_gone(self, peer: Peer, reason: str, now: float) -> None:
        hello = self.replicas.remove(peer)
        if hello is not None:
            self.inquiries.left(peer, hello, now)
        queue = self._serving.pop(peer, None)
        if queue is None:
            return
        for entry in queue.replica_left(peer, now):
            self._lost_with_replica(entry, queue, reason, now)
        self.relays.link_down(peer)
        self.touched[queue] = None

    def _lost_with_replica(self, entry: Entry, queue: BackendQueue, reason: str, now: float) -> None:
        if not entry.gateway or self.relays.lost(entry):
            self.entries.pop(entry.id, None)
            return
        may_retry = bool(entry.flags & FLAG_IDEMPOTENT) or queue.config.retryable
        if may_retry and entry.attempt + 1 < MAX_ATTEMPTS and entry.deadline > now and self.retries.spend():
            self.retried += 1
            entry.attempt += 1
            if entry.attempt == 1:  # to another replica, and at once
                self._queue_again(entry, queue, now)
            else:
                entry.replica = b""
                self._back_off.add(entry, queue, now)
            return
        del self.entries[entry.id]
        text = f"a replica of {queue.name!r} died while it had this request, which may have run ({reason})"
        self.refuse(entry.gateway, entry.id, Refusal(502, text))

    def _on_report(self, peer: Peer, report: Report, now: float) -> None:
        """A worker node tells about its replicas; of those that are dead the links end at once."""
        if not self.sync.on_report(peer, report, self.out):
            return
        gone = self.replicas.reported(report, now)
        for link, reason in gone:
            self.out.close(link, reason)
        self.control.reported(now)

    def _on_shutdown(self, peer: Peer, message: Shutdown) -> None:
        if self.sync.role_of(peer) == "router":
            self.shut_down(message.reason)
        else:
            self.misplaced += 1

    def shut_down(self, reason: str) -> None:
        """End the whole fabric: tell everyone, once."""
        if not self.shutdown_reason:
            self.shutdown_reason = reason or "shutdown"
            for peer in self.sync.peers():
                self.out.send(peer, Shutdown(reason))

    # --- draining ---------------------------------------------------------------------------------------------------

    def drain(self, now: float) -> None:
        """Take nothing new, hand back what is queued; what replicas have is still answered through here."""
        self.leaving = True
        returned: dict[Peer, list[bytes]] = {}
        for queue in self.queues.values():
            for entry in queue.drain():
                del self.entries[entry.id]
                if entry.gateway:
                    returned.setdefault(entry.gateway, []).append(entry.id)
        for entry in self._back_off.drain():
            if self._entry(entry.id) is entry:
                del self.entries[entry.id]
                returned.setdefault(entry.gateway, []).append(entry.id)
        for gateway, request, _, _ in self.parking.drain():
            returned.setdefault(gateway, []).append(request.id)
        for gateway, key in self.inquiries.drain():
            returned.setdefault(gateway, []).append(key)
        for gateway in self.gateways:
            # An empty list says so, too: nothing new to this router.
            self.out.send(gateway, Return(returned.get(gateway, []), "this router is shutting down"))

    @property
    def drained(self) -> bool:
        return self.leaving and not any(entry.gateway for entry, _ in self.entries.values())

    # --- config -----------------------------------------------------------------------------------------------------

    def _apply_config(self, now: float) -> None:
        """What the registry says now, to queues and endpoints."""
        changed = self.sync.registry.take_changes()
        self.endpoints.rebuild()
        for key in changed:
            if key.startswith(BACKEND):
                name = key[len(BACKEND) :]
                self._apply_backend(name, self.sync.registry.backend(name), now)
            elif key.startswith(ENDPOINT):
                self._apply_endpoint(key[len(ENDPOINT) :], now)

    def _apply_backend(self, name: str, value: BackendValue | None, now: float) -> None:
        queue = self.queues.get(name)
        if value is None:
            if queue is not None:
                del self.queues[name]
                self.touched.pop(queue, None)
                self._waiting.pop(queue, None)
                for entry in queue.close():
                    del self.entries[entry.id]
                    if entry.gateway:
                        self.refuse(entry.gateway, entry.id, Refusal(503, f"backend {name!r} was deleted", 1.0))
            return
        if queue is None:
            rng = random.Random(self.rng.getrandbits(64))
            queue = self.queues[name] = BackendQueue(name, value.config, rng, room=self.room)
            for replica in self.replicas.of(name):
                self._join(replica, queue, now)
        else:
            queue.configure(value.config, now)
        self.touched[queue] = None

    def _apply_endpoint(self, name: str, now: float) -> None:
        if self.endpoints.get(name) is None:
            self.latencies.pop(name, None)
            for key, (entry, _) in list(self.entries.items()):
                if entry.endpoint == name and entry.gateway and not entry.replica:
                    gateway = entry.gateway
                    self._cancel(key, now)
                    self.refuse(gateway, key, Refusal(404, f"endpoint {name!r} was deleted"))
            return
        self.latencies.setdefault(name, Latencies())
        for peer, message, head, body in self.parking.take(name):
            self.intake.arrived(peer, ((message, head, body),), now)

    # --- reading ----------------------------------------------------------------------------------------------------

    def unready(self, now: float) -> list[str]:
        """Endpoints whose requests would have to wait for a replica, with the backend that has none, or the replicas
        that are silent or stuck."""
        found = []
        for name, backends in self.endpoints.backends():
            for backend in backends:
                links = self.replicas.of(backend)
                troubles = [self.trouble(peer, now) for peer in links]
                if not links:
                    troubles = self.replicas.absent(backend)
                if all(troubles):
                    found.append(f"{name} (backend {': '.join(filter(None, [backend, '; '.join(troubles[:3])]))})")
        return found[:20]

    def trouble(self, replica: Peer, now: float) -> str:
        """Why a replica would not run a request that came now, "" if it would."""
        doubt, info, queue = self.doubts.get(replica), self.sync.info_of(replica), self._serving.get(replica)
        name = f"replica {info.name or info.pid}" if info is not None else "a replica"
        if doubt:
            return f"{name}: {doubt}"
        stuck_s = self.replicas.stuck_s(replica, queue.run_s if queue is not None else 0.0, now)
        if not stuck_s:
            return ""
        what = f"process {info.pid} " if info is not None and info.pid else ""
        return f"{name}: {what}has finished nothing for {stuck_s:.0f} s, and has no place for more"

    def _backlog(self, backend: str) -> int:
        """Requests that a backend has before it, for policies that look at it."""
        queue = self.queues.get(backend)
        return len(queue) + queue.in_flight if queue is not None else 0


def _in_runs(parcels: Sequence[Parcel]) -> Sequence[tuple[type, Sequence[Parcel]]]:
    """(kind of message, those of that kind that follow each other)"""
    kinds = set(map(type, map(_MESSAGE, parcels)))
    if len(kinds) == 1:
        return [(kinds.pop(), parcels)]
    runs: list[tuple[type, list[Parcel]]] = []
    last: type | None = None
    for parcel in parcels:
        kind = type(parcel[0])
        if kind is not last:
            last = kind
            alike: list[Parcel] = []
            runs.append((kind, alike))
        alike.append(parcel)
    return runs
