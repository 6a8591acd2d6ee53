"""Answers counted by what they mean to the client.

good      200 to 299, within the deadline
late      200 to 299, after it
refused   429 or 503: told at once, or at least told, to come back later
expired   504 or 408: the server gave up by itself
failed    another status, or a broken connection
gave_up   none until the client's patience ended
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from .plan import Plan, Stream

__all__ = ["BROKEN", "Outcome", "Tally", "percentile_ms"]

BROKEN = "no answer"
"""Instead of a status: the connection was refused, or broke."""


class Outcome(msgspec.Struct, kw_only=True):
    """Of one stream.  Latencies of good and late answers, in milliseconds; lag: by how much requests started late;
    windows: good answers by intended start, and offered_in, how many requests were to start in each; statuses: how many
    answers had each."""

    offered: int
    good: int
    late: int
    refused: int
    expired: int
    failed: int
    gave_up: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float
    refused_p50_ms: float
    refused_p99_ms: float
    windows: list[int]
    offered_in: list[int]
    lag_p50_ms: float
    lag_p99_ms: float
    lag_max_ms: float
    statuses: dict[str, int]


class Tally:
    """What came of the requests of one stream."""

    def __init__(self, stream: Stream, plan: Plan) -> None:
        self.stream = stream
        self.request = stream.request(plan.authority or f"{plan.host}:{plan.port}")
        self.deadline_s = stream.deadline_s
        self.offered = self.good = self.late = self.refused = self.expired = self.failed = self.gave_up = 0
        self.latencies: list[float] = []
        self.refusals: list[float] = []
        self.lags: list[float] = []
        self.window_s = plan.window_s
        self.windows = [0] * (int(plan.seconds / plan.window_s) + 1)
        self.offered_in = list(self.windows)
        self._statuses: dict[int, int] = {}
        self._broken = 0

    def started(self, intended: float, lag_s: float) -> None:
        """A request that was to start at *intended* did so *lag_s* later."""
        self.offered += 1
        self.offered_in[int(intended / self.window_s)] += 1
        self.lags.append(lag_s)

    def answered(self, status: int, intended: float, took_s: float) -> None:
        self._statuses[status] = self._statuses.get(status, 0) + 1
        if 200 <= status < 300:
            self.latencies.append(took_s)
            if took_s <= self.deadline_s:
                self.good += 1
                self.windows[int(intended / self.window_s)] += 1
            else:
                self.late += 1
        elif status in (429, 503):
            self.refused += 1
            self.refusals.append(took_s)
        elif status in (504, 408):
            self.expired += 1
        else:
            self.failed += 1

    def broken(self) -> None:
        """The connection was refused, or ended before the answer."""
        self.failed += 1
        self._broken += 1

    def outcome(self) -> Outcome:
        latencies, refusals, lags = sorted(self.latencies), sorted(self.refusals), sorted(self.lags)
        return Outcome(
            offered=self.offered,
            good=self.good,
            late=self.late,
            refused=self.refused,
            expired=self.expired,
            failed=self.failed,
            gave_up=self.gave_up,
            p50_ms=percentile_ms(latencies, 0.50),
            p90_ms=percentile_ms(latencies, 0.90),
            p99_ms=percentile_ms(latencies, 0.99),
            max_ms=percentile_ms(latencies, 1.0),
            refused_p50_ms=percentile_ms(refusals, 0.50),
            refused_p99_ms=percentile_ms(refusals, 0.99),
            windows=self.windows,
            offered_in=self.offered_in,
            lag_p50_ms=percentile_ms(lags, 0.50),
            lag_p99_ms=percentile_ms(lags, 0.99),
            lag_max_ms=percentile_ms(lags, 1.0),
            statuses={str(status): count for status, count in sorted(self._statuses.items())}
            | ({BROKEN: self._broken} if self._broken else {}),
        )


def percentile_ms(ordered: Sequence[float], share: float) -> float:
    """The value below which *share* of the ascending seconds in *ordered* lie, in milliseconds; 0 for none."""
    return 1e3 * ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
