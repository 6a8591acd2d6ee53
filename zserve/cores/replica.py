"""The replica's decisions: what runs next, how much the routers may send, and one answer for every call.

Theory of operation.  A call goes through three states:

    READY (in a run on the heap) --given--> RUNNING (with the executor) --finished--> answered
      |            |                             |
      expired 504  cancelled 499                 (cancelled or expired: an async run is aborted, a sync one ends itself)
      drained: Return

Runs wait on a heap, earliest deadline first; one without a deadline sorts as if it had a second, so it never starves.
A few more runs than can run at once are given to the executor ahead, so that short functions do not wait for the event
loop between two calls; how many follows from how long the calls take (nothing ahead of calls of over 20 ms, so that an
urgent call never waits behind work of that kind).

Whatever is received is owed one Result (or, while draining, one Return) on the link that it came from.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..channel.outbox import Outbox, Parcel, Peer
from ..config import BackendConfig
from ..handler.pace import Pace
from ..handler.recent import RecentAnswers
from ..handler.runs import HeldCall, Run
from ..http.answers import KIND_TEXT, ORIGIN_REPLICA, Answer
from ..scheduling.credits import CreditPool
from ..wire.messages import FLAG_IDEMPOTENT, Call, Cancel, Demand, Grant, Hello, Ping, Result, Return

if TYPE_CHECKING:
    from ..registry.sync import ConfigSync

__all__ = ["ReplicaCore"]

ID_SIZE = 16
PATIENCE_S = 1.0
"""A call without a deadline sorts as if it had this one."""
TICK_S = 1.0
RESEND_GRACE_S = 10.0
"""How long a running call whose router died goes on for the gateway's second try, before it is asked to stop."""
OVER_LIMIT_SLACK = 16
"""Calls beyond a router's grant that are still taken (and counted); more are sent back."""

_NEVER = float("inf")


class ReplicaCore:
    """Events: those of a node, :meth:`finished`, :meth:`drain`, :meth:`fail`.  Effects: the outbox and the lists below.

    runs: give these to the executor, in this order.  aborts: ask the coroutines of these runs to stop.  exits: reasons
    why this process has to be replaced.
    """

    def __init__(
        self,
        backend: str,
        config: BackendConfig | None = None,
        *,
        accepts_batch: bool = False,
        asynchronous: bool = False,
        stuck_after_s: float = 30.0,
        sync: ConfigSync | None = None,
        recent: RecentAnswers | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """*accepts_batch*, *asynchronous*: what the handler is.  *rng* breaks ties between routers (seeded if None)."""
        self.out = Outbox()
        self.runs: list[Run] = []
        self.aborts: list[Run] = []
        self.exits: list[str] = []
        self.backend = backend
        self.sync = sync
        self.draining = False
        self.finished_calls = 0
        self.expired = 0
        self.cancelled = 0
        self.repeated = 0
        self.malformed = 0
        self.largest_batch = 0
        self._asynchronous = asynchronous
        self._stuck_after_s = stuck_after_s
        self._recent = RecentAnswers() if recent is None else recent
        self._links: set[Peer] = set()
        self._credits = CreditPool(1, rng or random.Random(0), slack=OVER_LIMIT_SLACK)
        self._held: dict[bytes, HeldCall] = {}
        self._heap: list[tuple[float, int, Run]] = []
        self._sequence = 0
        self._given: dict[Run, None] = {}
        self._returns: dict[Peer, list[bytes]] = {}
        self._next_tick = 0.0
        self._next_expiry = _NEVER
        self._progress_at = 0.0
        self._generation = -1
        self._pace = Pace(config or BackendConfig(), accepts_batch=accepts_batch, asynchronous=asynchronous)
        self._set_capacity(True)

    # --- config -----------------------------------------------------------------------------------------------------

    def apply_config(self, config: BackendConfig, now: float) -> None:
        """The backend's settings are now these; what waits and runs is kept."""
        self._pace.apply(config)
        self._set_capacity(True)
        self._settle(now)
        self._give(now)

    @property
    def config(self) -> BackendConfig:
        return self._pace.config

    @property
    def threads(self) -> int:
        """How many sync runs may be in user code at a time."""
        return self._pace.threads

    @property
    def capacity(self) -> int:
        """How many calls this replica takes at a time, over all routers together."""
        return self._credits.capacity

    def _set_capacity(self, now_lower: bool) -> None:
        """Follow the config and the service time; *now_lower*: by any amount, not only when it has halved."""
        capacity, before = self._pace.capacity(), self._credits.capacity
        if now_lower or capacity > before or 2 * capacity < before:
            self._credits.capacity = capacity
        # A capacity that was not asked for is exceeded by one for each further router, so that none waits for another's
        # unused credit to be recalled.
        derived = self.config.max_concurrent_queries is None
        self._credits.overcommit = max(0, len(self._links) - 1) if derived else 0

    def _read_registry(self, now: float) -> None:
        assert self.sync is not None
        registry = self.sync.registry
        if registry.generation == self._generation:
            return
        self._generation = registry.generation
        value = registry.backend(self.backend)
        if value is not None and value.config != self.config:
            self.apply_config(value.config, now)

    # --- events of a node -------------------------------------------------------------------------------------------

    def link_up(self, peer: Peer, hello: Hello, now: float) -> None:
        if self.sync is not None:
            self.sync.link_up(peer, hello, self.out, now)
        if hello.info.role != "router":
            return
        self._links.add(peer)
        self._credits.router_joined(peer, now)
        self._set_capacity(False)
        self._settle(now)

    def link_down(self, peer: Peer, reason: str, now: float) -> None:
        """Nobody there waits any more: what has not started is dropped, unless another router sent it too."""
        if self.sync is not None:
            self.sync.link_down(peer, now, reason)
        if peer not in self._links:
            return
        self._links.remove(peer)
        self._returns.pop(peer, None)
        for call in [held for held in self._held.values() if peer in held.waiters]:
            call.gone += [waiter for waiter in call.waiters if waiter == peer]
            call.waiters = [waiter for waiter in call.waiters if waiter != peer]
            if call.cancelled is not None:
                call.cancelled.discard(peer)
            self._check_wanted(call, now, RESEND_GRACE_S)
        self._credits.router_left(peer, now)
        self._set_capacity(False)
        self._settle(now)
        self._give(now)

    def receive(self, peer: Peer, parcels: Sequence[Parcel], now: float) -> None:
        batch: list[HeldCall] = []
        batch_key: tuple[int, str] | None = None
        taken = -1  # how many calls of this message to take; not asked yet
        room = 0
        unsettled = False
        if peer in self._links:
            self._credits.heard(peer, now)
        for message, head, body in parcels:
            kind = type(message)
            if kind is Call:
                if peer not in self._links:
                    continue
                if taken < 0:
                    taken = self._credits.received(peer, sum([type(parcel[0]) is Call for parcel in parcels]), now)
                    room = 0 if self._heap else self._pace.runs(self._credits.capacity) - len(self._given)
                if not taken:
                    self._returns.setdefault(peer, []).append(message.id)
                    continue
                taken -= 1
                call = self._arrived(peer, message, head, body, now)
                if call is None:
                    unsettled = True
                    continue
                if self._pace.batch == 1:
                    run = Run([call])
                    if room > 0:  # nothing waits and there is a place: past the heap
                        room -= 1
                        self.largest_batch = self.largest_batch or 1
                        run.given = now
                        self._given[run] = None
                        self.runs.append(run)
                    else:
                        self._ready(run)
                    continue
                key = (message.batch, message.method)
                if batch and (key != batch_key or len(batch) >= self._pace.batch):
                    self._ready(Run(batch))
                    batch = []
                batch_key = key
                batch.append(call)
            elif kind is Cancel:
                if batch:
                    self._ready(Run(batch))
                    batch = []
                for request_id in message.ids:
                    self._cancel(peer, request_id, now)
                unsettled = True
            elif kind is Demand:
                urgent_s = None if message.urgent_us < 0 else message.urgent_us * 1e-6
                self._credits.demand(peer, message.epoch, message.sent, message.queued, urgent_s, now)
                unsettled = True
            elif self.sync is not None:
                self.sync.receive(peer, message, self.out, now)
                self._read_registry(now)
        if batch:
            self._ready(Run(batch))
        if self._heap:
            self._give(now)
        # Calls alone change nothing about the grants.
        if unsettled or self._returns:
            self._flush(now)

    def ping(self, peer: Peer, now: float) -> Ping:
        """The heartbeat for *peer*; the grant goes with it once more, in case one was lost."""
        grant = self._credits.grant_for(peer)
        if grant is not None:
            self.out.send(peer, Grant(*grant))
        progress_us = -1 if not self._held else int((now - self._progress_at) * 1e6)
        digest = b"" if self.sync is None else self.sync.digest()
        return Ping(digest, 0, progress_us, [], self.draining)

    def tick(self, now: float) -> None:
        if now >= self._next_expiry:
            self._expire(now)
        if now >= self._next_tick:
            self._next_tick = now + TICK_S
            if self.sync is not None:
                self.sync.tick(self.out, now)
                self._read_registry(now)
            self._look_after_running(now)
            self._set_capacity(False)
        self._give(now)
        self._flush(now)

    def next_wakeup(self) -> float:
        return min(self._next_tick, self._next_expiry)

    def routers_known(self) -> Sequence[str]:
        return () if self.sync is None else self.sync.routers_known()

    # --- events of the shell ----------------------------------------------------------------------------------------

    def finished(self, done: Sequence[tuple[Run, Sequence[Answer] | None]], now: float) -> None:
        """The executor is done with these runs; None for the answers of one that it did not start.

        One answer a call, in the order of ``run.calls``.
        """
        held = self._held
        send = self.out.send
        remember = self._recent.put
        freed: dict[Peer, int] = {}
        for run, answers in done:
            if self._given.pop(run, run) is run:
                continue  # taken back meanwhile: it has been answered
            if answers is None:
                for call in run.calls:
                    self._not_run(call, now)
                continue
            run_s = run.ended - run.started
            self._pace.learn(run_s, len(run.calls))
            run_us = int(run_s * 1e6)
            batch_us = int((run.started - run.given) * 1e6)
            calls = run.calls
            if len(answers) != len(calls):
                text = f"{len(answers)} answers for {len(calls)} calls".encode()
                answers = [(500, KIND_TEXT, b"", text, ORIGIN_REPLICA)] * len(calls)
            self.finished_calls += len(calls)
            for call, answer in zip(calls, answers, strict=True):
                remember(call.id, answer)
                queue_us = int((run.given - call.arrived) * 1e6)
                waiters = call.waiters
                if len(waiters) != 1 or call.gone:
                    self._answer(call, answer, queue_us, batch_us, run_us)
                    continue
                del held[call.id]
                call.run = None
                peer = waiters[0]
                freed[peer] = freed.get(peer, 0) + 1
                status, kind, head, body, origin = answer
                send(peer, Result(call.id, status, kind, origin, queue_us, batch_us, run_us), head, body)
        for peer, count in freed.items():
            self._credits.finished(peer, count)
        self._progress_at = now
        if self._heap:
            self._give(now)
        if self._pace.changed:
            self._set_capacity(False)
        self._flush(now)

    def drain(self, now: float) -> None:
        """Take nothing new, send back what has not started, finish the rest; :attr:`drained` tells when."""
        if self.draining:
            return
        self.draining = True
        self._credits.draining = True
        for _, _, run in self._heap:
            for call in run.calls:
                self._not_run(call, now)
        self._heap.clear()
        for run in list(self._given):
            self._take_back(run, now)
        self._flush(now)

    @property
    def drained(self) -> bool:
        """Draining, and every call has its answer."""
        return self.draining and not self._held

    def fail(self, reason: str, now: float) -> None:
        """User code asked for the end of the process: answer what can be answered, then exit."""
        self.exits.append(reason)
        self.drain(now)

    @property
    def held(self) -> int:
        """Calls received and not answered."""
        return len(self._held)

    def statistics(self) -> dict[str, Any]:
        """Counters for status and metrics."""
        return {
            "finished": self.finished_calls,
            "held": len(self._held),
            "running": len(self._given),
            "expired": self.expired,
            "cancelled": self.cancelled,
            "repeated": self.repeated,
            "malformed": self.malformed,
            "largest_batch": self.largest_batch,
            "run_s": self._pace.run_s,
            "credits": self._credits.statistics(),
        }

    # --- a call's way -----------------------------------------------------------------------------------------------

    def _arrived(self, peer: Peer, message: Call, head: bytes, body: bytes, now: float) -> HeldCall | None:
        """Take a call in, or answer it at once and return None."""
        request_id = message.id
        held = self._held.get(request_id)
        if held is not None:  # it came before through another router: one run, an answer for each
            self.repeated += 1
            held.waiters.append(peer)
            held.unwanted_at = _NEVER
            return None
        if len(request_id) != ID_SIZE:
            self.malformed += 1
            self._refuse(peer, request_id, 400, f"a request id has {ID_SIZE} bytes, not {len(request_id)}")
            return None
        if request_id in self._recent:
            self.repeated += 1
            answer = self._recent.get(request_id)
            if answer is not None:
                self._send(peer, Result(request_id, answer[0], answer[1], answer[4]), answer[2], answer[3])
                return None
            if not message.flags & FLAG_IDEMPOTENT:
                self._refuse(peer, request_id, 502, "the request has run; its answer was too large to keep")
                return None
        budget_us = message.budget_us
        if budget_us <= 0 and budget_us != -1:
            self.expired += 1
            self._refuse(peer, request_id, 504, "the deadline had passed when the replica got the request")
            return None
        if self.draining:
            self._return(peer, request_id)
            return None
        deadline = _NEVER if budget_us == -1 else now + budget_us * 1e-6
        call = HeldCall(message, head, body, peer, deadline, now)
        if not self._held:
            self._progress_at = now
        self._held[request_id] = call
        return call

    def _ready(self, run: Run) -> None:
        self._sequence += 1
        deadline = run.deadline
        if deadline < self._next_expiry:
            self._next_expiry = deadline
        elif deadline == _NEVER:
            deadline = run.calls[0].arrived + PATIENCE_S
        if len(run.calls) > self.largest_batch:
            self.largest_batch = len(run.calls)
        heapq.heappush(self._heap, (deadline, self._sequence, run))

    def _give(self, now: float) -> None:
        """Hand over as many runs as the executor should have."""
        heap = self._heap
        given = self._given
        limit = self._pace.runs(self._credits.capacity)
        while heap and len(given) < limit:
            run = heapq.heappop(heap)[2]
            if run.deadline <= now:
                self._drop_expired(run, now)
            if not run.calls:
                continue
            run.given = now
            given[run] = None
            self.runs.append(run)

    def _expire(self, now: float) -> None:
        """Answer what has waited past its deadline, wherever on the heap it stands."""
        alive = []
        for entry in self._heap:
            run = entry[2]
            if run.deadline <= now:
                self._drop_expired(run, now)
            if run.calls:
                alive.append(entry)
        heapq.heapify(alive)
        self._heap = alive
        self._next_expiry = min((entry[2].deadline for entry in alive), default=_NEVER)

    def _drop_expired(self, run: Run, now: float) -> None:
        expired = [call for call in run.calls if call.deadline <= now]
        run.calls = [call for call in run.calls if call.deadline > now]
        run.deadline = min((call.deadline for call in run.calls), default=_NEVER)
        for call in expired:
            self._not_run(call, now)

    def _not_run(self, call: HeldCall, now: float) -> None:
        """Answer a call that has not started and will not."""
        if call.deadline <= now:
            self.expired += 1
            text = "the deadline passed before the request could be run"
            self._answer(call, (504, KIND_TEXT, b"", text.encode(), ORIGIN_REPLICA), int((now - call.arrived) * 1e6))
            return
        self._forget(call)
        for peer in call.waiters:
            if call.cancelled is not None and peer in call.cancelled:
                self._refuse(peer, call.id, 499, "cancelled")
            else:
                self._return(peer, call.id)

    def _answer(self, call: HeldCall, answer: Answer, queue_us: int, batch_us: int = 0, run_us: int = 0) -> None:
        self._forget(call)
        status, kind, head, body, origin = answer
        for peer in call.waiters:
            result = Result(call.id, status, kind, origin, queue_us, batch_us, run_us)
            self._send(peer, result, head, body)

    def _forget(self, call: HeldCall) -> None:
        """It holds no slot any more."""
        del self._held[call.id]
        call.run = None  # no cycle: the body is freed now, not when the collector next comes
        for peer in call.gone:
            self._credits.finished(peer)

    def _send(self, peer: Peer, result: Result, head: bytes, body: bytes) -> None:
        self._credits.finished(peer)
        self.out.send(peer, result, head, body)

    def _refuse(self, peer: Peer, request_id: bytes, status: int, text: str) -> None:
        self._send(peer, Result(request_id, status, KIND_TEXT, ORIGIN_REPLICA), b"", text.encode())

    def _return(self, peer: Peer, request_id: bytes) -> None:
        self._credits.finished(peer)
        self._returns.setdefault(peer, []).append(request_id)

    # --- nobody waits -----------------------------------------------------------------------------------------------

    def _cancel(self, peer: Peer, request_id: bytes, now: float) -> None:
        call = self._held.get(request_id)
        if call is None or peer not in call.waiters:
            return
        run = call.run
        if run is not None and not run.given:
            # Not started: the one who cancels gets its Result now.
            for _ in range(call.waiters.count(peer)):
                call.waiters.remove(peer)
                self._refuse(peer, request_id, 499, "cancelled")
        elif call.cancelled is None:
            call.cancelled = {peer}
        else:
            call.cancelled.add(peer)
        self._check_wanted(call, now)

    def _check_wanted(self, call: HeldCall, now: float, grace_s: float = 0.0) -> None:
        """Drop, or ask to stop (*grace_s* seconds from now), a call that nobody waits for any more."""
        if any(call.cancelled is None or peer not in call.cancelled for peer in call.waiters):
            return
        if call.unwanted_at != _NEVER:
            return
        self.cancelled += 1
        call.unwanted_at = now + grace_s
        run = call.run
        if run is None:
            return
        if not run.given:
            run.calls.remove(call)
            self._forget(call)
        elif any(other.unwanted_at == _NEVER for other in run.calls) or self._take_back(run, now):
            return
        elif run.unwanted_since() <= now:
            self._abort(run)

    def _take_back(self, run: Run, now: float) -> bool:
        """Answer or return the calls of a run that the executor has not started; False when it has."""
        if not run.claim():
            return False
        del self._given[run]
        for call in run.calls:
            self._not_run(call, now)
        return True

    def _abort(self, run: Run) -> None:
        if self._asynchronous and not run.aborted:
            run.aborted = True
            self.aborts.append(run)

    def _look_after_running(self, now: float) -> None:
        for run in list(self._given):
            since = run.unwanted_since()
            if since > now or self._take_back(run, now):
                continue
            self._abort(run)
            if run.started and now - since >= self._stuck_after_s and not self._asynchronous and not self.exits:
                self.exits.append(
                    f"a call of backend {self.backend!r} has been running for {now - run.started:.0f} s, "
                    f"{now - since:.0f} s after the last one who waited for it was gone"
                )

    # --- the end of each group of events ----------------------------------------------------------------------------

    def _flush(self, now: float) -> None:
        if self._returns:
            returns, self._returns = self._returns, {}
            reason = "draining" if self.draining else "more than was granted"
            for peer, ids in returns.items():
                self.out.send(peer, Return(ids, reason))
        self._settle(now)

    def _settle(self, now: float) -> None:
        for peer, epoch, limit in self._credits.settle(now):
            self.out.send(peer, Grant(epoch, limit))
