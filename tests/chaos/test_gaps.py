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
    [(0.0, 10.0, 3.0), (0.0, 1.5, 1.0), (2.5, 3.0, 3.0), (4.5, 4.9, 3.0), (5.0, 6.0, 1.0), (7.0, 9.0, 0.0)],
)
def test_the_longest_gap_that_touches_a_span(begin_s: float, end_s: float, expected: float) -> None:
    assert longest_gap([0.0, 1.0, 2.0, 5.0, 6.0], begin_s, end_s) == expected


def event(kind: str, at_s: float, lasts_s: float, *, alone: bool = True) -> Event:
    return Event(Fault(1, at_s, lasts_s, kind, ("router-0",), alone=alone), kind, at_s, at_s + lasts_s)


def answers(*silent: tuple[float, float]) -> list[Record]:
    """Fifty a second for 30 s, but for these spans."""
    moments = [number / 50 for number in range(1500)]
    good = [at for at in moments if not any(begin < at < end for begin, end in silent)]
    return [Record(str(at), LOOK, 1.0, sent_s=at - 0.01, begun_s=at, ended_s=at, status=200) for at in good]


def one_gap(records: list[Record], *events: Event, lags: tuple[tuple[float, float], ...] = ()) -> Gap:
    return gaps_of(list(events), records, list(lags), 30.0)[0]


def test_a_gap_counts_for_the_fault_that_it_follows() -> None:
    records = answers((10.0, 12.0), (20.0, 25.0))
    gap = one_gap(records, event("kill", 9.99, 2.0), event("stop", 19.0, 2.0))
    assert (gap.lane, round(gap.seconds, 2), gap.bar_s, gap.too_long) == ("look", 2.0, 1.0, True)
    assert not one_gap(records, event("stop", 9.99, 2.0)).too_long
    assert not one_gap(records, event("kill", 9.99, 2.0, alone=False)).too_long, "there is no bar for two at once"


def test_what_the_client_itself_missed_is_no_gap_of_the_fabric() -> None:
    records = answers((10.0, 12.0))
    assert not one_gap(records, event("kill", 9.99, 2.0), lags=((12.0, 1.9),)).too_long
    assert one_gap(records, event("kill", 9.99, 2.0), lags=((3.0, 1.9),)).too_long, "that was before"
