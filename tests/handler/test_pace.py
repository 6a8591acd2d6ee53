"""When calls count as quick."""

from __future__ import annotations

from typing import Any

import pytest

from zserve.config import BackendConfig
from zserve.handler.pace import QUICK_RUN_S, QUICK_RUNS, Pace


def pace(config: BackendConfig | None = None, **what: Any) -> Pace:
    return Pace(config or BackendConfig(), **{"accepts_batch": False, "asynchronous": False, **what})


def run(one: Pace, count: int, run_s: float = QUICK_RUN_S) -> None:
    for _ in range(count):
        one.learn(run_s, 1)


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
