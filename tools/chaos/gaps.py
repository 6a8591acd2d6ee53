"""How long the service was gone: spans in which a service that is asked all the time answered nobody with 200."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from .faults import Event
from .plan import BARS_S
from .requests import Record

__all__ = ["Gap", "gaps_of", "longest_gap", "served_at"]

AFTER_S = 5.0
"""A gap that begins so soon after a fault has ended is counted for it."""
STEADY_S = 1.0
"""How long after the end of one fault another one comes alone."""
_ENOUGH = 20.0
"""A service that is asked less often than this, a second, has gaps by nature."""


@dataclass(frozen=True, slots=True)
class Gap:
    """The longest gap around one event, and which service had it.  bar_s: how long it may be, inf: there is no bar.

    slowest_s: the longest time, from the event on, that anyone waited for an answer of 200.  held_up_s: for how long
    the client itself did not get to run then; a gap of less than that is none of the fabric's.  alone: nothing else was
    wrong.
    """

    event: Event
    lane: str
    seconds: float
    slowest_s: float
    held_up_s: float
    bar_s: float = float("inf")
    alone: bool = True

    @property
    def too_long(self) -> bool:
        return self.seconds - self.held_up_s > self.bar_s


def served_at(records: Sequence[Record], end_s: float) -> dict[str, list[float]]:
    """When each service gave an answer of 200, for those that are asked all the time; also the end of the load, so that
    a service which did not come back until then has a gap, too."""
    asked: dict[str, int] = {}
    moments: dict[str, list[float]] = {}
    for record in records:
        lane = record.kind.lane
        asked[lane] = asked.get(lane, 0) + 1
        if record.status == 200 and record.begun_s <= end_s:
            moments.setdefault(lane, []).append(record.begun_s)
    begin_s = min((record.sent_s for record in records if record.sent_s), default=end_s)
    enough = _ENOUGH * (end_s - begin_s)
    return {lane: [begin_s, *sorted(moments.get(lane, [])), end_s] for lane, count in asked.items() if count > enough}


def longest_gap(moments: Sequence[float], begin_s: float, end_s: float, limit_s: float = float("inf")) -> float:
    """The longest time between two neighbours of *moments* (ascending) that begins before *end_s*, as far as it is
    between *begin_s* and *limit_s*."""
    longest = 0.0
    for one, other in pairwise(moments):
        if other > begin_s and one < end_s:
            longest = max(longest, min(other, limit_s) - max(one, begin_s))
    return longest


def gaps_of(
    events: Sequence[Event], records: Sequence[Record], lags: Sequence[tuple[float, float]], end_s: float
) -> list[Gap]:
    """For each event the worst gap.  *lags*: (when, for how long) the client was held up.  *end_s*: of the load."""
    served = served_at(records, end_s)
    found = []
    for number, event in enumerate(events):
        following = events[number + 1].begin_s if number + 1 < len(events) else float("inf")
        until = min(event.end_s + AFTER_S, following, end_s)
        gaps = {lane: longest_gap(moments, event.begin_s, until, following) for lane, moments in served.items()}
        lane = max(gaps, key=lambda name: gaps[name], default="")
        slowest = max(
            (
                record.begun_s - max(record.sent_s, event.begin_s)
                for record in records
                if record.status == 200
                and record.sent_s < until
                and event.begin_s < record.begun_s <= following  # what the next fault holds up is not counted here
            ),
            default=0.0,
        )
        held_up = max((lag for at, lag in lags if event.begin_s <= at <= until + lag), default=0.0)
        alone = _was_alone(event, events)
        bar_s = BARS_S.get(event.fault.kind.split()[0], float("inf")) if alone else float("inf")
        found.append(Gap(event, lane, gaps.get(lane, 0.0), slowest, held_up, bar_s, alone))
    return found


def _was_alone(event: Event, events: Sequence[Event]) -> bool:
    """As planned, and as it came: a node takes its time to start on a busy machine."""
    others = [other for other in events if other is not event]
    together = any(one.begin_s < event.end_s and event.begin_s < one.end_s + STEADY_S for one in others)
    return event.fault.alone and not together
