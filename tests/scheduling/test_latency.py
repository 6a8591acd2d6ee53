from __future__ import annotations

import random

import pytest

from zserve.scheduling.latency import LATEST, Latencies, summary


def test_nothing_yet() -> None:
    assert summary(Latencies().figures()) == {
        "answered": 0,
        "errors": 0,
        "latency_ms": {"mean": None, "p50": None, "p95": None, "p99": None, "max": None},
    }


def test_percentiles_of_the_latest_are_at_most_19_percent_too_high() -> None:
    latencies = Latencies()
    rng = random.Random(1)
    latencies.latest.extend([1e6] * LATEST)  # long ago
    taken = sorted(rng.lognormvariate(-5, 1.5) for _ in range(LATEST))
    latencies.latest.extend(taken)
    found = summary(latencies.figures())["latency_ms"]
    assert found["mean"] == pytest.approx(sum(taken) / LATEST * 1e3)
    for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1.0)):
        exact = taken[-int(-share * LATEST // 1) - 1] * 1e3
        assert exact <= found[name] * 1.001
        assert found[name] <= exact * 2**0.25 * 1.001


@pytest.mark.parametrize("seconds", [0.0, -1.0, 1e-9, 1e-6, 1e9])
def test_no_time_is_too_short_or_too_long(seconds: float) -> None:
    latencies = Latencies()
    latencies.latest.append(seconds)
    assert summary(latencies.figures())["latency_ms"]["max"] >= seconds * 1e3
