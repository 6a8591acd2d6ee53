from __future__ import annotations

import random

import pytest

from zserve.config import BackendConfig

from .simulation import SimReplica, SimRouter, Simulation

SERVICE_S = 0.02


def rate(
    parallelism: int, clients: int, config: BackendConfig, *, link_s: float = 0.0005, jitter: float = 0.1
) -> tuple[float, SimReplica, SimRouter]:
    """Answers a second that *clients* in a closed loop get from one replica, after two seconds of learning."""
    sim = Simulation()
    rng = random.Random(1)
    router = SimRouter(sim, b"router", config, link_s=link_s, grain_s=0.0005)
    replica = SimReplica(
        sim, b"replica", 128, lambda size: SERVICE_S * (1.0 + jitter * rng.random()), parallelism=parallelism,
        link_s=link_s,
    )  # fmt: skip
    replica.connect(router)
    sim.run(0.01)

    def again() -> None:
        router.request(None, then=again)

    for _ in range(clients):
        again()
    sim.run(5.0)
    answered = sum(2.0 <= outcome.ended < 5.0 for outcome in router.outcomes)
    return answered / 3.0, replica, router


@pytest.mark.parametrize("parallelism", [1, 2, 5])
def test_a_replica_that_runs_several_batches_at_a_time_is_found_out(parallelism: int) -> None:
    got, _, router = rate(parallelism, 40, BackendConfig(max_batch_size=2))
    assert got >= 0.9 * parallelism * 2 / (SERVICE_S * 1.05)
    assert parallelism <= router.queue._pipeline.width <= parallelism + 1


def test_a_replica_that_runs_one_batch_at_a_time_has_at_most_one_ahead() -> None:
    _, replica, router = rate(1, 40, BackendConfig(max_batch_size=4), jitter=1.0)
    assert router.queue._pipeline.width == 1
    assert len(router.queue._fleet.members[replica.name].batches) <= 2


def test_the_config_says_how_many_batches_run_at_a_time() -> None:
    _, _, router = rate(4, 64, BackendConfig(max_batch_size=8, max_concurrent_queries=32))
    assert router.queue._pipeline.width == 4


@pytest.mark.parametrize("link_s", [0.0001, 0.001, 0.004])
def test_a_replica_never_idles_between_batches(link_s: float) -> None:
    got, replica, _ = rate(1, 64, BackendConfig(max_batch_size=8), link_s=link_s, jitter=0.05)
    assert replica.busy_s >= 0.97 * 5.0
    assert got >= 0.97 * 8 / (SERVICE_S * 1.025)


def test_a_slow_beginning_does_not_make_batches_leave_early_for_ever() -> None:
    """The first batch of a fresh process takes long; a replica that never idles again must still be measured."""
    sim = Simulation()
    router = SimRouter(sim, b"router", BackendConfig(max_batch_size=8), link_s=0.0005, grain_s=0.0005)
    replica = SimReplica(sim, b"replica", 17, lambda size: SERVICE_S, link_s=0.0005)
    replica.connect(router)
    sim.run(0.01)

    def again() -> None:
        router.request(None, then=again)

    replica.link_s = 0.04
    for _ in range(16):
        again()
    sim.run(0.1)
    replica.link_s = 0.0005
    sim.run(2.0)
    before = dict(router.queue._sizes)
    sim.run(4.0)
    assert router.queue._pipeline.overhead_s < 0.1 * SERVICE_S
    sizes = {size: count - before.get(size, 0) for size, count in router.queue._sizes.items()}
    assert [size for size, count in sizes.items() if count] == [8]


def test_a_busy_replica_is_not_sent_a_part_of_a_batch_while_its_grant_is_on_the_way() -> None:
    """Over a slow link batches leave as early as they may: then results are here before the grant that they free."""
    sim = Simulation()
    router = SimRouter(sim, b"router", BackendConfig(max_batch_size=8), link_s=SERVICE_S, grain_s=0.0005)
    replica = SimReplica(sim, b"replica", 17, lambda size: SERVICE_S, link_s=SERVICE_S)
    replica.connect(router)
    sim.run(0.1)

    def again() -> None:
        router.request(None, then=again)

    for _ in range(100):
        again()
    sim.run(4.0)
    sizes = router.queue._sizes
    assert sizes[8] >= 0.98 * sum(sizes.values())
