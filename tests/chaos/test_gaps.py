"""How long a service was gone, from the moments of its answers."""

from __future__ import annotations

import pytest

from tools.chaos.faults import Event
from tools.chaos.gaps import Gap, gaps_of, longest_gap
from tools.chaos.plan import Fault
from tools.chaos.requests import KINDS, Record

LOOK = next(kind for kind in KINDS if kind.name == "look")


@pytest.mark.parametrize(
    ("begin_s", "end_s", "expected"),
    [(0.0, 10.0, 3.0), (0.0, 1.5, 1.0), (2.5, 3.0, 2.5), (4.5, 4.75, 0.5), (5.0, 6.0, 1.0), (7.0, 9.0, 0.0)],
)
def test_the_longest_gap_from_the_beginning_of_a_span_on(begin_s: float, end_s: float, expected: float) -> None:
    assert longest_gap([0.0, 1.0, 2.0, 5.0, 6.0], begin_s, end_s) == expected


def test_what_the_next_fault_makes_is_not_counted_for_the_one_before() -> None:
    earlier = event("stop", 5.0, 2.0)
    records = answers((9.5, 12.5))
    gap, following = gaps_of([earlier, event("kill", 10.0, 2.0)], records, [], 30.0)
    assert gap.seconds == pytest.approx(0.5, abs=0.05)
    assert following.seconds == pytest.approx(2.5, abs=0.05)


def event(kind: str, at_s: float, lasts_s: float, *, alone: bool = True) -> Event:
    return Event(Fault(1, at_s, lasts_s, kind, ("router-0",), alone=alone), kind, at_s, at_s + lasts_s)


def answers(*silent: tuple[float, float]) -> list[Record]:
    """Fifty a second for 30 s, but for these spans."""
    moments = [number / 50 for number in range(1500)]
    asked = [Record(str(at), LOOK, 1.0, sent_s=at, begun_s=at + 0.01, ended_s=at + 0.01, status=200) for at in moments]
    for record in asked:
        if any(begin < record.begun_s < end for begin, end in silent):
            record.status = 503
    return asked


def one_gap(records: list[Record], *events: Event, lags: tuple[tuple[float, float], ...] = ()) -> Gap:
    return gaps_of(list(events), records, list(lags), 30.0)[0]


def test_a_gap_counts_for_the_fault_that_it_follows() -> None:
    records = answers((10.0, 12.0), (20.0, 25.0))
    gap = one_gap(records, event("kill", 9.99, 2.0), event("stop", 19.0, 2.0))
    assert (gap.lane, gap.bar_s, gap.too_long) == ("look", 1.0, True)
    assert gap.seconds == pytest.approx(2.0, abs=0.05)
    assert not one_gap(records, event("stop", 9.99, 2.0)).too_long
    assert not one_gap(records, event("kill", 9.99, 2.0, alone=False)).too_long, "there is no bar for two at once"


def test_a_service_that_does_not_come_back_has_a_gap_until_the_end() -> None:
    gap = one_gap(answers((10.0, 31.0)), event("kill", 9.99, 2.0))
    assert (gap.lane, round(gap.seconds), gap.too_long) == ("look", 20, True)


def test_one_that_is_asked_seldom_is_not_judged() -> None:
    assert one_gap(answers()[::5], event("kill", 9.99, 2.0)).lane == ""


def test_one_that_comes_before_the_last_is_undone_has_no_bar() -> None:
    records = answers((10.0, 12.0))
    slow = event("kill", 8.0, 1.0)
    slow.end_s = 10.5  # the node was long in coming back
    found = gaps_of([slow, event("kill", 9.99, 2.0)], records, [], 30.0)
    assert [gap.alone for gap in found] == [False, False]
    assert not any(gap.too_long for gap in found)


def test_what_the_client_itself_missed_is_no_gap_of_the_fabric() -> None:
    records = answers((10.0, 12.0))
    assert not one_gap(records, event("kill", 9.99, 2.0), lags=((12.0, 1.9),)).too_long
    assert one_gap(records, event("kill", 9.99, 2.0), lags=((3.0, 1.9),)).too_long, "that was before"
