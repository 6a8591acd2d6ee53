"""Four routers, forty replicas of which two are three times slower, load 0.85, exponential 10 ms: who waits how long.

Policies that push requests to the replicas at once, credits that are split once and for all, and our own: late binding
with credits that follow the demand.  What is checked is the order of the policies (zeromq-facts E2), not the values.
"""

from __future__ import annotations

import functools
import random
from collections import deque
from collections.abc import Callable

import pytest

from zserve.config import BackendConfig

from .simulation import SimReplica, SimRouter, Simulation, poisson

ROUTERS, REPLICAS, SLOW = 4, 40, 2
MEAN_S = 0.01
LOAD = 0.85
RATE = LOAD * ((REPLICAS - SLOW) / MEAN_S + SLOW / (3 * MEAN_S))
EVEN, SKEWED = (1.0, 1.0, 1.0, 1.0), (0.7, 0.1, 0.1, 0.1)
Choose = Callable[[random.Random, list[int]], int]


def means() -> list[float]:
    return [3 * MEAN_S if index < SLOW else MEAN_S for index in range(REPLICAS)]


def percentiles(took: list[float]) -> tuple[float, float]:
    """p50 and p99 in milliseconds."""
    ordered = sorted(took)
    return ordered[len(ordered) // 2] * 1e3, ordered[int(0.99 * len(ordered))] * 1e3


def at_random(rng: random.Random, in_flight: list[int]) -> int:
    return rng.randrange(REPLICAS)


def two_choices(rng: random.Random, in_flight: list[int]) -> int:
    one, two = rng.randrange(REPLICAS), rng.randrange(REPLICAS)
    return one if in_flight[one] <= in_flight[two] else two


def least(rng: random.Random, in_flight: list[int]) -> int:
    fewest = min(in_flight)
    return rng.choice([index for index, count in enumerate(in_flight) if count == fewest])


def pushed(choose: Choose, split: tuple[float, ...], requests: int) -> tuple[float, float]:
    """Each request goes to a replica's own queue at once; a router knows only what it has in flight itself."""
    rng = random.Random(5)
    sim = Simulation()
    service = means()
    free_at = [0.0] * REPLICAS
    in_flight = [[0] * REPLICAS for _ in range(ROUTERS)]
    took: list[float] = []

    def arrive() -> None:
        router = rng.choices(range(ROUTERS), split)[0]
        replica = choose(rng, in_flight[router])
        in_flight[router][replica] += 1
        start = max(sim.now, free_at[replica])
        free_at[replica] = start + rng.expovariate(1.0 / service[replica])
        sim.at(free_at[replica], leave, router, replica, sim.now)

    def leave(router: int, replica: int, arrived: float) -> None:
        in_flight[router][replica] -= 1
        took.append(sim.now - arrived)

    poisson(sim, rng, lambda now: RATE, requests / RATE, arrive)
    sim.run(1e9)
    return percentiles(took)


def static_credits(window: int, split: tuple[float, ...], requests: int) -> tuple[float, float]:
    """Late binding, but each credit of a replica belongs to one router for ever."""
    rng = random.Random(5)
    sim = Simulation()
    service = means()
    queues: list[deque[float]] = [deque() for _ in range(ROUTERS)]
    granted: list[list[int]] = [[] for _ in range(ROUTERS)]
    for replica in range(REPLICAS):
        for number in range(window):
            granted[(replica + number) % ROUTERS].append(replica)
    free_at = [0.0] * REPLICAS
    took: list[float] = []

    def arrive() -> None:
        router = rng.choices(range(ROUTERS), split)[0]
        queues[router].append(sim.now)
        turn(router)

    def turn(router: int) -> None:
        while queues[router] and granted[router]:
            replica = granted[router].pop(rng.randrange(len(granted[router])))
            start = max(sim.now, free_at[replica])
            free_at[replica] = start + rng.expovariate(1.0 / service[replica])
            sim.at(free_at[replica], leave, router, replica, queues[router].popleft())

    def leave(router: int, replica: int, arrived: float) -> None:
        took.append(sim.now - arrived)
        granted[router].append(replica)
        turn(router)

    poisson(sim, rng, lambda now: RATE, requests / RATE, arrive)
    sim.run(1e9)
    return percentiles(took)


@functools.cache
def ours(split: tuple[float, ...], requests: int = 10_000, capacity: int = 2) -> tuple[float, float]:
    """The real queues and pools, messages and all, over links of 0.25 ms."""
    rng = random.Random(5)
    sim = Simulation()
    config = BackendConfig(max_queued_requests=1_000_000)
    routers = [SimRouter(sim, b"router%d" % index, config, link_s=0.00025, seed=index) for index in range(ROUTERS)]
    for index, mean in enumerate(means()):

        def service(size: int, mean: float = mean) -> float:
            return rng.expovariate(1.0 / mean)

        replica = SimReplica(sim, b"replica%d" % index, capacity, service, link_s=0.00025, seed=index)
        for router in routers:
            replica.connect(router)
    sim.run(0.1)
    until = 0.1 + requests / RATE
    poisson(sim, rng, lambda now: RATE, until, lambda: rng.choices(routers, split)[0].request(None))
    sim.run(until + 20.0)
    outcomes = [outcome for router in routers for outcome in router.outcomes]
    assert all(outcome.status == 200 for outcome in outcomes)
    return percentiles([outcome.took for outcome in outcomes])


def test_the_order_of_the_policies_with_even_routers() -> None:
    count = 12_000
    chance, choices, scan = (pushed(choose, EVEN, count) for choose in (at_random, two_choices, least))
    mine = ours(EVEN)
    assert chance[1] > 4 * choices[1]  # the slow replicas are overloaded
    assert choices[1] > 1.5 * scan[1]
    assert scan[1] > 1.1 * mine[1]
    assert choices[0] > scan[0] > mine[0]


def test_static_credits_strand_work_when_one_router_has_most_of_it() -> None:
    count = 12_000
    one, two, four = (static_credits(window, SKEWED, count) for window in (1, 2, 4))
    mine = ours(SKEWED)
    assert one[0] > 500  # hopeless: half a second, and growing
    assert two[0] > 100
    assert four[1] < 200  # one credit a router at each replica is enough ...
    assert mine[1] < four[1]  # ... and those that follow the demand are better
    assert mine[0] < one[0] / 50


def test_a_skew_of_the_traffic_hardly_shows() -> None:
    even, skewed = ours(EVEN), ours(SKEWED)
    assert skewed[1] <= 1.5 * even[1]
    assert skewed[0] <= 1.5 * even[0]


@pytest.mark.parametrize("capacity", [1, 4])
def test_other_windows_bear_the_skew_too(capacity: int) -> None:
    even, skewed = (ours(split, 1_500, capacity) for split in (EVEN, SKEWED))
    assert skewed[1] <= 1.5 * even[1]
