from __future__ import annotations

import itertools

import pytest
from zserve.nodes.bench.arrivals import arrivals, burst, poisson, replay


def test_poisson_has_the_rate_and_the_spread_of_independent_clients():
    moments = poisson(1000.0, 20.0, seed=3)
    gaps = [b - a for a, b in itertools.pairwise(moments)]
    mean = sum(gaps) / len(gaps)
    variance = sum((gap - mean) ** 2 for gap in gaps) / len(gaps)
    assert moments == sorted(moments)
    assert moments[-1] < 20.0
    assert mean == pytest.approx(0.001, rel=0.05)
    assert variance == pytest.approx(mean**2, rel=0.1)


def test_a_seed_gives_the_same_moments_again_and_another_seed_others():
    assert poisson(100.0, 5.0, seed=1) == poisson(100.0, 5.0, seed=1)
    assert poisson(100.0, 5.0, seed=1) != poisson(100.0, 5.0, seed=2)


def test_bursts_come_together_at_the_same_mean_rate():
    moments = burst(1000.0, 50.0, seed=5, size=50)
    sizes = [len(list(group)) for _, group in itertools.groupby(moments)]
    assert set(sizes) == {50}
    assert len(moments) / 50.0 == pytest.approx(1000.0, rel=0.1)


def test_replay_repeats_the_recording_with_a_gap_between():
    assert replay([0.0, 0.1, 0.4], 1.2) == pytest.approx([0.0, 0.1, 0.4, 0.4 + 0.4 / 3, 0.5 + 0.4 / 3, 0.8 + 0.4 / 3,
                                                          0.8 + 0.8 / 3, 0.9 + 0.8 / 3])  # fmt: skip


def test_a_recording_of_one_moment_does_not_repeat_for_ever():
    assert replay([0.0], 3.0) == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("moments", [[], [-1.0, 2.0]])
def test_what_cannot_be_replayed_is_refused(moments):
    with pytest.raises(ValueError, match="at least one moment"):
        replay(moments, 1.0)


def test_an_unknown_kind_is_named():
    with pytest.raises(ValueError, match="'uniform'"):
        arrivals("uniform", 1.0, 1.0, 1)
