"""How much is tried again, and when."""

from __future__ import annotations

import random
from typing import Any

from zserve.cores.retries import BACK_OFF_S, BackOff, RetryBudget
from zserve.scheduling.entry import Entry


def test_retries_are_a_tenth_of_the_requests_once_the_burst_is_used_up() -> None:
    budget = RetryBudget(burst=20.0)
    spent = 0
    for _ in range(10_000):
        budget.earn()
        while budget.spend():
            spent += 1
    assert 1000 <= spent <= 1021


def test_a_quiet_time_saves_up_no_more_than_the_burst() -> None:
    budget = RetryBudget(burst=20.0)
    for _ in range(10_000):
        budget.earn()
    assert sum(budget.spend() for _ in range(100)) == 20


def test_each_further_attempt_waits_twice_as_long_and_not_all_at_the_same_time() -> None:
    back_off, queue = BackOff(random.Random(1)), Any
    for attempt in (2, 3, 4):
        waits = set()
        for number in range(100):
            back_off.add(Entry(id=b"%d" % number, attempt=attempt), queue, 100.0)  # type: ignore[arg-type]
            due = back_off.next()
            assert due is not None
            waits.add(due - 100.0)
            assert back_off.due(due - 0.001) == []
            assert [entry.id for entry, _ in back_off.due(due)] == [b"%d" % number]
        mean = BACK_OFF_S * 2 ** (attempt - 2)
        assert 0.5 * mean <= min(waits) < 0.7 * mean
        assert 1.3 * mean < max(waits) <= 1.5 * mean
    assert back_off.next() is None
