"""What is measured, in which unit, and how rounds are summed up."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

__all__ = ["FIGURES", "Figure", "Spread", "paired_ratio", "spread"]


class Figure(NamedTuple):
    """How one measured number is written."""

    title: str
    unit: str
    digits: int = 0


FIGURES: Mapping[str, Figure] = {
    "rate": Figure("answers", "/s"),
    "pieces": Figure("pieces", "/s"),
    "first_p50_ms": Figure("first piece p50", "ms", 2),
    "first_p99_ms": Figure("first piece p99", "ms", 2),
    "gap_p50_ms": Figure("gap p50", "ms", 2),
    "gap_p99_ms": Figure("gap p99", "ms", 2),
    "call_us": Figure("CPU of the call itself", "us"),
    "caller_us": Figure("caller's CPU a call", "us"),
    "mb_s": Figure("body bytes", "MB/s"),
    "p50_ms": Figure("p50", "ms", 2),
    "p90_ms": Figure("p90", "ms", 2),
    "p99_ms": Figure("p99", "ms", 2),
    "max_ms": Figure("longest", "ms", 1),
    "cpu_s": Figure("CPU for 10,000", "s", 2),
    "pss_mb": Figure("memory (PSS)", "MB"),
    "bodies": Figure("memory of gateway and router beyond idle, in bodies a request in flight", "", 1),
    "errors": Figure("errors", ""),
    "offered": Figure("offered", "/s"),
    "in_time": Figure("answered in time", "/s"),
    "of_capacity": Figure("in time, of capacity", "%", 1),
    "of_offered": Figure("in time, of offered", "%", 1),
    "late": Figure("answered late", "/s"),
    "refused": Figure("refused at once", "/s"),
    "refused_p99_ms": Figure("refusal p99", "ms", 1),
    "expired": Figure("expired (504, 408)", "/s"),
    "lost": Figure("failed or given up", "/s"),
    "failed": Figure("failed", "/s"),
    "lag_p99_ms": Figure("generator lag p99", "ms", 2),
    "generator_cpu": Figure("generator CPU", "%"),
    "elsewhere": Figure("CPU of others", "%"),
    "first_s": Figure("first answer after", "s", 2),
    "speedup": Figure("times one replica", "x", 2),
}


class Spread(NamedTuple):
    """median, smallest and largest of the rounds."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Raises ValueError without values."""
    if not values:
        raise ValueError("no rounds")
    return Spread(statistics.median(values), min(values), max(values))


def paired_ratio(values: Mapping[int, float], reference: Mapping[int, float]) -> Spread | None:
    """The spread of value / reference over the rounds that have both; None if there is none (0 over 0 is no ratio).

    Rounds are paired because what else the machine does drifts: the two members of a pair were measured within seconds.
    """
    ratios = [
        values[index] / reference[index] if reference[index] else math.inf
        for index in values
        if index in reference and (values[index] or reference[index])
    ]
    return spread(ratios) if ratios else None
