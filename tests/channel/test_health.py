"""The local health score, in heartbeats at literal times."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from zserve.channel.health import LATE_S, MAX_SCORE, LocalHealth


def test_a_node_that_is_on_time_is_well() -> None:
    health = LocalHealth()
    assert [health.beat(float(second), 1.0) for second in range(5)] == [0.0] * 5
    assert health.beat(5.0 + LATE_S, 1.0) == 0.0, "that late is normal"
    assert (health.score, health.patience) == (0, 1.0)


def test_own_lateness_raises_the_score_by_its_seconds() -> None:
    health = LocalHealth()
    health.beat(0.0, 1.0)
    assert health.beat(1.5, 1.0) == 0.5
    assert (health.score, health.patience) == (1, 1.25)
    assert health.beat(5.0, 1.0) == 2.5
    assert (health.score, health.patience) == (4, 2.0)
    assert health.beat(3600.0, 1.0) == 3594.0
    assert (health.score, health.patience) == (MAX_SCORE, 3.0)


def test_heartbeats_on_time_lower_it_again() -> None:
    health = LocalHealth()
    health.beat(0.0, 1.0)
    health.beat(60.0, 1.0)
    scores = []
    for second in range(61, 71):
        health.beat(float(second), 1.0)
        scores.append(health.score)
    assert scores == [7, 6, 5, 4, 3, 2, 1, 0, 0, 0]


def test_refuted_suspicions_count_once_a_heartbeat() -> None:
    health = LocalHealth()
    health.beat(0.0, 1.0)
    for _ in range(100):
        health.refuted()
    health.beat(1.0, 1.0)
    assert health.score == 1
    health.beat(2.0, 1.0)
    assert health.score == 0


@given(st.lists(st.tuples(st.floats(0.0, 1e6), st.booleans())))
def test_it_stays_within_its_bounds(beats: list[tuple[float, bool]]) -> None:
    health, now = LocalHealth(), 0.0
    for pause_s, refuted in beats:
        now += pause_s
        if refuted:
            health.refuted()
        assert health.beat(now, 1.0) >= 0.0
        assert 0 <= health.score <= MAX_SCORE
        assert 1.0 <= health.patience <= 3.0


def test_a_stall_that_ends_when_a_heartbeat_is_due_is_seen_by_looking() -> None:
    blind, watching = LocalHealth(), LocalHealth()
    for health in (blind, watching):
        health.beat(0.0, 1.0)
    watching.look(0.0, 0.1)
    assert watching.look(1.0, 0.1) == 0.9
    assert [health.beat(1.0, 1.0) for health in (blind, watching)] == [0.0, 0.0], "told once"
    assert (blind.score, watching.score) == (0, 1)


def test_lateness_is_told_once_whoever_notices_it() -> None:
    health = LocalHealth()
    health.beat(0.0, 1.0)
    health.look(0.0, 0.125)
    assert health.beat(3.125, 1.0) == 3.0
    assert health.look(3.125, 0.125) == 0.0
    assert health.score == 4
    assert health.look(3.25, 0.125) == 0.0
    assert health.look(4.0, 0.125) == 0.625
    assert health.beat(4.125, 1.0) == 0.0
    assert health.score == 5
    for tenth in range(33, 42):
        health.look(tenth / 8, 0.125)
    assert health.beat(5.125, 1.0) == 0.0
    assert health.score == 4


@given(st.lists(st.tuples(st.floats(0.0, 10.0), st.booleans())))
def test_never_more_lateness_than_time(moments: list[tuple[float, bool]]) -> None:
    health, now, late_s = LocalHealth(), 0.0, 0.0
    health.look(0.0, 0.1)
    health.beat(0.0, 1.0)
    for pause_s, beats in moments:
        now += pause_s
        late_s += health.beat(now, 1.0) if beats else health.look(now, 0.1)
    assert late_s <= now + 1e-6
