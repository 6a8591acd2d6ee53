"""A discrete-event model of clients, routers and replicas around the real BackendQueue and CreditPool.

No clock and no threads: one heap of (time, event).  Links take ``link_s`` each way between router and replica, and
between client and router; timers fire up to ``grain_s`` late, as those of an event loop do.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from typing import Any

from zserve.config import BackendConfig
from zserve.errors import Refusal
from zserve.scheduling.backend_queue import BackendQueue
from zserve.scheduling.credits import CreditPool
from zserve.scheduling.entry import Dispatch, Entry


class Simulation:
    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0

    def at(self, when: float, call: Callable[..., None], *args: Any) -> None:
        self._count += 1
        heapq.heappush(self._events, (max(when, self.now), self._count, call, args))

    def after(self, delay: float, call: Callable[..., None], *args: Any) -> None:
        self.at(self.now + delay, call, *args)

    def run(self, until: float) -> None:
        events = self._events
        while events and events[0][0] <= until:
            self.now, _, call, args = heapq.heappop(events)
            call(*args)
        self.now = until


class Outcome:
    """How one request ended: status, when the client heard, its deadline."""

    __slots__ = ("deadline", "ended", "sent", "status")

    def __init__(self, sent: float, deadline: float) -> None:
        self.sent = sent
        self.deadline = deadline
        self.status = 0
        self.ended = 0.0

    @property
    def took(self) -> float:
        return self.ended - self.sent

    @property
    def good(self) -> bool:
        return self.status == 200 and self.ended <= self.deadline


class SimReplica:
    """Runs ``parallelism`` batches at a time, in order of arrival; shares its credits by a real CreditPool."""

    def __init__(
        self,
        sim: Simulation,
        name: bytes,
        capacity: int,
        service: Callable[[int], float],
        *,
        parallelism: int = 1,
        link_s: float = 0.001,
        overcommit: int = 0,
        seed: int = 1,
    ) -> None:
        self.sim = sim
        self.name = name
        self.pool = CreditPool(capacity, random.Random(seed), overcommit=overcommit)
        self.service = service
        self.link_s = link_s
        self.parallelism = parallelism
        self.routers: dict[bytes, SimRouter] = {}
        self.waiting: list[tuple[SimRouter, Dispatch, float]] = []
        self.running = 0
        self.most = 0
        self.busy_s = 0.0

    def connect(self, router: SimRouter) -> None:
        self.routers[router.name] = router
        router.replicas[self.name] = self
        router.queue.replica_joined(self.name, self.sim.now)
        self.pool.router_joined(router.name, self.sim.now)
        self.settle()

    def settle(self) -> None:
        for name, epoch, limit in self.pool.settle(self.sim.now):
            router = self.routers[name]
            self.sim.after(self.link_s, router.granted, self, epoch, limit)

    def calls(self, router: SimRouter, dispatch: Dispatch) -> None:
        taken = self.pool.received(router.name, len(dispatch.entries), self.sim.now)
        assert taken == len(dispatch.entries), "sent beyond the grant"
        self.waiting.append((router, dispatch, self.sim.now))
        self.start()

    def demand(self, router: SimRouter, epoch: int, sent: int, queued: int, urgent_us: int) -> None:
        urgent = None if urgent_us < 0 else urgent_us * 1e-6
        self.pool.demand(router.name, epoch, sent, queued, urgent, self.sim.now)
        self.settle()

    def start(self) -> None:
        while self.waiting and self.running < self.parallelism:
            router, dispatch, arrived = self.waiting.pop(0)
            self.running += 1
            run_s = self.service(len(dispatch.entries))
            self.busy_s += run_s
            self.sim.after(run_s, self.done, router, dispatch, run_s, self.sim.now - arrived)

    def done(self, router: SimRouter, dispatch: Dispatch, run_s: float, waited_s: float) -> None:
        self.running -= 1
        self.pool.finished(router.name, len(dispatch.entries))
        self.sim.after(self.link_s, router.results, self, dispatch, run_s, waited_s)
        self.settle()
        self.start()


class SimRouter:
    def __init__(
        self, sim: Simulation, name: bytes, config: BackendConfig, *, link_s: float = 0.001, grain_s: float = 0.001,
        seed: int = 1, **options: Any,
    ) -> None:  # fmt: skip
        self.sim = sim
        self.name = name
        self.queue = BackendQueue("model", config, random.Random(seed), **options)
        self.replicas: dict[bytes, SimReplica] = {}
        self.link_s = link_s
        self.grain_s = grain_s
        self.outcomes: list[Outcome] = []
        self.waiting: dict[bytes, tuple[Outcome, Callable[[], None] | None]] = {}
        self._alarm = float("inf")
        self._ids = 0

    # --- clients ------------------------------------------------------------------------------------------------------

    def request(self, budget_s: float | None, then: Callable[[], None] | None = None, method: str = "") -> Outcome:
        """A client sends a request now; its deadline is *budget_s* from now, at the client."""
        now = self.sim.now
        deadline = float("inf") if budget_s is None else now + budget_s
        outcome = Outcome(now, deadline)
        self.outcomes.append(outcome)
        self._ids += 1
        id_ = self._ids.to_bytes(16, "big")
        self.sim.after(self.link_s, self._arrive, id_, outcome, then, method)
        return outcome

    def _arrive(self, id_: bytes, outcome: Outcome, then: Callable[[], None] | None, method: str) -> None:
        now = self.sim.now
        # The way back is the gateway's business: it sends the budget less the trip there and back.
        deadline = outcome.deadline - self.link_s
        entry = Entry(id=id_, deadline=deadline, arrived=now, method=method)
        self.waiting[id_] = (outcome, then)
        refusal = self.queue.offer(entry, now)
        if refusal is not None:
            self._answer(id_, refusal.status)
        self.turn()

    def _answer(self, id_: bytes, status: int) -> None:
        outcome, then = self.waiting.pop(id_)
        self.sim.after(self.link_s, self._heard, outcome, status, then)

    def _heard(self, outcome: Outcome, status: int, then: Callable[[], None] | None) -> None:
        assert not outcome.status, "answered twice"
        outcome.status = status
        outcome.ended = self.sim.now
        if then is not None:
            then()

    # --- replicas -----------------------------------------------------------------------------------------------------

    def granted(self, replica: SimReplica, epoch: int, limit: int) -> None:
        self.queue.grant(replica.name, epoch, limit, self.sim.now)
        self.turn()

    def results(self, replica: SimReplica, dispatch: Dispatch, run_s: float, waited_s: float) -> None:
        for entry in dispatch.entries:
            done = self.queue.completed(
                replica.name, entry.id, self.sim.now, ok=True, run_s=run_s, waited_s=waited_s
            )
            if done is not None:
                self._answer(done.id, 200)
        # The grant comes behind them: so many results are a message of their own.
        self.turn()

    # --- event loop ---------------------------------------------------------------------------------------------------

    def turn(self) -> None:
        now, queue = self.sim.now, self.queue
        for dispatch in queue.dispatch(now):
            replica = self.replicas[dispatch.replica]
            replica.most = max(replica.most, len(dispatch.entries))
            self.sim.after(self.link_s, replica.calls, self, dispatch)
        for entry, refusal in queue.expire(now):
            self._expired(entry, refusal)
        for name in queue.demand_due(now):
            replica = self.replicas[name]
            self.sim.after(self.link_s, replica.demand, self, *queue.demand(name, now))
        due = queue.next_wakeup()
        if due is not None and due < self._alarm:
            self._alarm = due
            self.sim.at(due + self.grain_s, self._tick, due)

    def _expired(self, entry: Entry, refusal: Refusal) -> None:
        self._answer(entry.id, refusal.status)

    def _tick(self, due: float) -> None:
        if due == self._alarm:
            self._alarm = float("inf")
            self.turn()


def poisson(
    sim: Simulation, rng: random.Random, rate: Callable[[float], float], until: float, send: Callable[[], object]
) -> None:
    """Open loop: *send* at random times, at *rate* (of the time) a second."""

    def next_one() -> None:
        if sim.now >= until:
            return
        send()
        sim.after(rng.expovariate(rate(sim.now)), next_one)

    sim.after(0.0, next_one)
