from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zserve.scheduling.service_time import MAX_AGE_S, WINDOW, ServiceTimes


def taught(samples: list[tuple[int, float]], step_s: float = 0.01) -> ServiceTimes:
    times = ServiceTimes()
    for index, (n, seconds) in enumerate(samples):
        times.observe(n, seconds, index * step_s)
    return times


def test_knows_nothing_at_first_and_estimates_nothing() -> None:
    times = ServiceTimes()
    assert not times.known
    assert times.mean(8) == times.p95(8) == times.low(8) == 0.0
    assert times.largest_within(0.0, 32) == 32


def test_finds_the_cost_model() -> None:
    times = taught([(n % 32 + 1, 0.005 + 0.0001 * (n % 32 + 1)) for n in range(64)])
    a, b = times.model()
    assert (a, b) == (pytest.approx(0.005), pytest.approx(0.0001))
    assert times.p95(32) == pytest.approx(0.0082)
    assert times.largest_within(0.00705, 32) == 20
    assert times.largest_within(0.004, 32) == 0
    assert times.largest == 32


def test_one_size_only_is_taken_for_a_fixed_cost() -> None:
    times = taught([(1, 0.01)] * 5)
    assert times.p95(32) == pytest.approx(0.01)


def test_the_shape_is_kept_when_later_samples_have_but_one_size() -> None:
    times = ServiceTimes()
    for index in range(WINDOW):
        n = index % 8 + 1
        times.observe(n, 0.004 + 0.001 * n, index * 0.01)
    assert times.p95(8) == pytest.approx(0.012)
    for index in range(2 * WINDOW):
        times.observe(8, 0.024, 10.0 + index * 0.01)
        assert times.p95(8) > 0.0
    assert times.p95(8) == pytest.approx(0.024)
    assert times.model() == (pytest.approx(0.008), pytest.approx(0.002))


@pytest.mark.parametrize("factor", [2.0, 10.0])
def test_a_step_up_is_believed_after_two_samples(factor: float) -> None:
    times = taught([(8, 0.01)] * WINDOW)
    times.observe(8, 0.01 * factor, 1.0)
    assert times.p95(8) < 0.012  # one may be an accident
    times.observe(8, 0.01 * factor, 1.01)
    assert times.p95(8) == pytest.approx(0.01 * factor)


@pytest.mark.parametrize("rate", [2.0, 20.0, 500.0])
def test_a_step_down_is_believed_within_seconds(rate: float) -> None:
    times = taught([(8, 0.1)] * WINDOW, 1 / rate)
    start = WINDOW / rate
    for index in range(int(rate * (MAX_AGE_S + 2.0))):
        times.observe(8, 0.01, start + index / rate)
    assert times.p95(8) == pytest.approx(0.01)
    assert times.mean(8) == pytest.approx(0.01)


def test_the_p95_is_one() -> None:
    rng = random.Random(1)
    times = ServiceTimes()
    below = total = 0
    for index in range(6000):
        seconds = rng.expovariate(100.0)
        if index > WINDOW:
            total += 1
            below += seconds <= times.p95(1)
        times.observe(1, seconds, index * 0.01)
    assert 0.90 <= below / total <= 0.99


def test_each_size_has_its_own_tail() -> None:
    samples = [(1, 0.01 if index % 4 else 0.03) if index % 2 else (16, 0.02) for index in range(64)]
    times = taught(samples)
    assert times.p95(16) == pytest.approx(0.02, rel=0.1)
    assert times.p95(1) >= 0.01


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 64), st.floats(0.0, 100.0)), min_size=1, max_size=200))
def test_estimates_are_sane_whatever_was_seen(samples: list[tuple[int, float]]) -> None:
    times = taught(samples)
    for n in (1, 2, 7, 64):
        assert 0.0 <= times.low(n) <= times.bound(n)
        assert times.p95(n) <= times.bound(n) * (1 + 1e-9)
        assert 0.0 <= times.mean(n) < 1e6
    assert times.p95(1) <= times.bound(64) * (1 + 1e-9)
