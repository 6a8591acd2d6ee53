"""A backend that takes 5 ms + 0.1 ms an item, batches up to 32, deadline 100 ms, 1 ms links: simulated."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from zserve.config import BackendConfig

from .simulation import Outcome, SimReplica, SimRouter, Simulation, poisson

BATCH = 32
FIXED_S, EACH_S = 0.005, 0.0001
CAPACITY = BATCH / (FIXED_S + EACH_S * BATCH)  # 3,902 requests a second
BUDGET_S = 0.1


class Run:
    def __init__(
        self,
        *,
        speed: Callable[[float], float] = lambda now: 1.0,
        jitter: float = 0.0,
        replicas: int = 1,
        policy: str = "edf",
        config: BackendConfig | None = None,
    ) -> None:
        self.sim = Simulation()
        self.rng = random.Random(7)
        rng = random.Random(8)

        def service(size: int) -> float:
            return (FIXED_S + EACH_S * size) * speed(self.sim.now) * (1.0 + jitter * rng.random())

        config = config or BackendConfig(max_batch_size=BATCH, queue_order=policy)
        self.router = SimRouter(self.sim, b"router", config)
        self.replicas = [SimReplica(self.sim, b"replica%d" % index, 72, service) for index in range(replicas)]
        for replica in self.replicas:
            replica.connect(self.router)
        self.sim.run(0.01)

    def open_loop(self, load: Callable[[float], float], until: float, budget_s: float | None = BUDGET_S) -> None:
        rate = CAPACITY * len(self.replicas)
        poisson(self.sim, self.rng, lambda now: load(now) * rate, until, lambda: self.router.request(budget_s))
        self.sim.run(until + 1.0)
        assert all(outcome.status for outcome in self.router.outcomes), "a request was left without an answer"

    def between(self, start: float, end: float) -> list[Outcome]:
        return [outcome for outcome in self.router.outcomes if start <= outcome.sent < end]

    def goodput(self, start: float, end: float) -> float:
        """Answered in time, of those sent between the two times, a second."""
        return sum(outcome.good for outcome in self.between(start, end)) / (end - start)

    def refusal_p99(self) -> float:
        took = sorted(outcome.took for outcome in self.router.outcomes if outcome.status != 200)
        return took[int(0.99 * len(took))] if took else 0.0


@pytest.mark.parametrize("policy", ["edf", "fifo"])
@pytest.mark.parametrize("load", [1.2, 2.0, 4.0])
def test_overload_costs_no_goodput(load: float, policy: str) -> None:
    run = Run(policy=policy)
    run.open_loop(lambda now: load, 3.0)
    assert run.goodput(0.0, 3.0) >= 0.97 * CAPACITY
    assert run.refusal_p99() < 0.010


@pytest.mark.parametrize(("before", "after"), [(1.0, 2.0), (2.0, 1.0), (1.0, 5.0), (4.0, 1.0)])
def test_overload_while_the_cost_of_a_batch_changes(before: float, after: float) -> None:
    run = Run(speed=lambda now: before if now < 3.0 else after)
    run.open_loop(lambda now: 2.0, 6.0)
    possible = 3.0 * CAPACITY / before + 3.0 * CAPACITY / after
    assert 6.0 * run.goodput(0.0, 6.0) >= 0.95 * possible
    assert run.goodput(3.2, 6.0) >= 0.95 * CAPACITY / after  # settled within 200 ms
    if after < 4.0:  # else what waited when it became five times slower is more than 1% of all
        assert run.refusal_p99() < 0.010


@pytest.mark.parametrize("jitter", [0.2, 1.0])
def test_overload_with_batches_of_uneven_cost(jitter: float) -> None:
    run = Run(jitter=jitter)
    run.open_loop(lambda now: 2.0, 4.0)
    assert run.goodput(0.0, 4.0) >= 0.95 * CAPACITY / (1.0 + jitter / 2.0)
    assert run.refusal_p99() < 0.010
    missed = run.router.queue.statistics()["missed"]
    assert missed <= 0.01 * len(run.router.outcomes)


def test_several_replicas_under_overload() -> None:
    run = Run(replicas=4)
    run.open_loop(lambda now: 2.0, 1.5)
    assert run.goodput(0.1, 1.5) >= 0.95 * 4 * CAPACITY


@pytest.mark.parametrize("load", [0.05, 0.3, 0.7])
def test_nothing_is_refused_or_late_below_capacity(load: float) -> None:
    run = Run()
    run.open_loop(lambda now: load, 5.0)
    assert all(outcome.good for outcome in run.router.outcomes)


def test_full_service_is_back_within_a_second_of_the_load_falling() -> None:
    run = Run()
    run.open_loop(lambda now: 3.0 if now < 2.0 else 0.5, 5.0)
    assert sum(not outcome.good for outcome in run.between(0.0, 2.0)) > 1000
    assert all(outcome.good for outcome in run.between(2.2, 5.0))


def test_full_service_is_back_after_a_stall() -> None:
    """All batches take two seconds for a while: everything is refused or late, then nothing is."""
    run = Run(speed=lambda now: 250.0 if 1.0 < now < 1.1 else 1.0)
    run.open_loop(lambda now: 0.5, 9.0)
    stalled = run.between(1.2, 2.5)
    assert all(outcome.status != 200 for outcome in stalled)
    assert all(outcome.took <= BUDGET_S + 0.005 for outcome in stalled), "nobody waits past the deadline"
    late = [outcome.took for outcome in run.between(1.5, 2.5)]
    assert sorted(late)[int(0.9 * len(late))] < 0.010, "a hung backend refuses at once"
    assert all(outcome.good for outcome in run.between(8.0, 9.0))


@pytest.mark.parametrize("clients", [64, 256])
def test_closed_loop_reaches_the_rate_of_a_bare_loop(clients: int) -> None:
    run = Run()

    def again() -> None:
        run.router.request(None, then=again)

    for _ in range(clients):
        again()
    run.sim.run(4.0)
    answered = sum(1.0 <= outcome.ended < 4.0 and outcome.status == 200 for outcome in run.router.outcomes)
    assert answered / 3.0 >= 0.97 * CAPACITY


def test_a_lone_request_waits_for_no_one() -> None:
    run = Run()
    outcomes: list[Outcome] = []

    def again() -> None:
        outcomes.append(run.router.request(BUDGET_S, then=again))

    again()
    run.sim.run(1.0)
    assert len(outcomes) > 100
    bare = 4 * 0.001 + FIXED_S + EACH_S
    assert all(outcome.took == pytest.approx(bare) for outcome in outcomes[:-1])


def test_urgent_requests_overtake_what_has_not_been_sent() -> None:
    run = Run()
    urgent: list[Outcome] = []
    sim = run.sim
    poisson(sim, run.rng, lambda now: 0.85 * CAPACITY, 4.0, lambda: run.router.request(2.0))
    poisson(sim, random.Random(3), lambda now: 50.0, 4.0, lambda: urgent.append(run.router.request(0.035)))
    sim.at(1.0, lambda: [run.router.request(2.0) for _ in range(2000)])
    sim.run(6.0)
    assert len(urgent) > 100
    # At worst: what runs, what is ahead, its own batch, and the links.
    assert sum(outcome.good for outcome in urgent) / len(urgent) >= 0.97
    assert all(outcome.good for outcome in run.router.outcomes if outcome not in urgent)


def test_requests_without_a_deadline_are_served_beside_an_overload_of_urgent_ones() -> None:
    run = Run()
    patient: list[Outcome] = []
    poisson(run.sim, random.Random(3), lambda now: 100.0, 6.0, lambda: patient.append(run.router.request(None)))
    run.open_loop(lambda now: 2.0, 8.0)
    assert all(outcome.status == 200 for outcome in patient)
    assert max(outcome.took for outcome in patient) < 3.0  # the fairness bound, and some
    assert run.goodput(0.0, 8.0) >= 0.95 * CAPACITY - 100.0


def test_batch_wait_timeout_fills_batches_at_the_cost_of_waiting() -> None:
    config = BackendConfig(max_batch_size=BATCH, batch_wait_timeout=0.05)
    run = Run(config=config)
    run.open_loop(lambda now: 0.1, 2.0, None)
    figures = run.router.queue.statistics()
    assert figures["batch_size"]["mean"] > 12.0
    assert max(outcome.took for outcome in run.router.outcomes) < 0.05 + 0.0082 * 2 + 0.006
