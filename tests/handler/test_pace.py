"""When calls count as quick."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zserve.config import BackendConfig
from zserve.handler.pace import QUICK_RUN_S, QUICK_RUNS, Pace


def pace(config: BackendConfig | None = None, **what: Any) -> Pace:
    return Pace(config or BackendConfig(), **{"accepts_batch": False, "asynchronous": False, **what})


def run(one: Pace, count: int, run_s: float = QUICK_RUN_S) -> None:
    for _ in range(count):
        one.learn([run_s])


def test_it_takes_a_number_of_quick_runs() -> None:
    one = pace()
    run(one, QUICK_RUNS - 1)
    assert not one.quick
    run(one, 1)
    assert one.quick


def test_one_that_is_not_quick_begins_it_anew() -> None:
    one = pace()
    run(one, 100)
    run(one, 1, 2 * QUICK_RUN_S)
    run(one, QUICK_RUNS - 1)
    assert not one.quick


def test_of_runs_that_are_told_together_those_behind_the_last_slow_one_count() -> None:
    one = pace()
    run(one, 100)
    one.learn([QUICK_RUN_S, 2 * QUICK_RUN_S, *[QUICK_RUN_S] * (QUICK_RUNS - 1)])
    assert not one.quick
    one.learn([QUICK_RUN_S])
    assert one.quick
    one.learn([*[QUICK_RUN_S] * 100, 2 * QUICK_RUN_S])
    assert not one.quick


@given(st.lists(st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=40), min_size=1, max_size=5))
def test_together_is_nearly_as_one_by_one(groups: list[list[float]]) -> None:
    together, single = pace(), pace()
    for times in groups:
        together.learn(times)
        for run_s in times:
            single.learn([run_s])
    assert together.quick == single.quick
    everything = [run_s for times in groups for run_s in times]
    assert min(everything) * 0.999 <= together.run_s <= max(everything) * 1.001
    assert together.call_s == pytest.approx(together.run_s)
    same = [[times[0]] * len(times) for times in groups]
    together, single = pace(), pace()
    for times in same:
        together.learn(times)
        for run_s in times:
            single.learn([run_s])
    assert together.run_s == pytest.approx(single.run_s), "exactly, where those told together took equally long"


def test_a_batch_shares_its_time() -> None:
    one = pace(BackendConfig(max_batch_size=4), accepts_batch=True)
    one.learn([0.008], 4)
    assert (one.run_s, one.call_s) == (0.008, 0.002)


@pytest.mark.parametrize(
    "other",
    [
        {"asynchronous": True},
        {"mixed": True},
        {"config": BackendConfig(max_concurrent_queries=2)},
    ],
    ids=str,
)
def test_more_than_one_at_a_time_is_not_for_one_thread(other: dict[str, Any]) -> None:
    one = pace(**other)
    run(one, 100)
    assert not one.quick
