"""How long the requests of an endpoint took: a router keeps the latest ones, whoever asks gets a histogram of them."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from math import ceil, log2
from typing import Any

__all__ = ["LATEST", "Latencies", "summary"]

LATEST = 1024
"""How many answers are kept."""
_STEPS = 4  # buckets a doubling: each is 19 % wide


class Latencies:
    """Answers of one endpoint on one router.

    answered, errors: all of them, and those with a status of 500 and more.  latest: how long the latest took, from
    their arrival at this router until their way back, seconds.
    """

    __slots__ = ("answered", "errors", "latest")

    def __init__(self) -> None:
        self.answered = 0
        self.errors = 0
        self.latest: deque[float] = deque(maxlen=LATEST)

    def figures(self) -> dict[str, Any]:
        """As JSON can say it and sums can be made of: :func:`summary` reads it.  Bucket i ends at 2**(i/4) us."""
        buckets = Counter(max(0, ceil(log2(seconds * 1e6) * _STEPS)) if seconds > 0 else 0 for seconds in self.latest)
        return {
            "answered": self.answered,
            "errors": self.errors,
            "latest_s": sum(self.latest),
            "histogram": {str(bucket): count for bucket, count in buckets.items()},
        }


def summary(figures: Mapping[str, Any]) -> dict[str, Any]:
    """``{"answered", "errors", "latency_ms": {"mean", "p50", "p95", "p99", "max"}}`` of :meth:`Latencies.figures`, or
    of sums of them.  Percentiles are the upper ends of their buckets, so up to 19 % too high; None without answers."""
    counts = sorted((int(bucket), count) for bucket, count in figures.get("histogram", {}).items())
    total = sum(count for _, count in counts)
    latency: dict[str, float | None] = dict.fromkeys(("mean", "p50", "p95", "p99", "max"))
    if total:
        latency["mean"] = figures["latest_s"] / total * 1e3
        for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1.0)):
            below = 0
            for bucket, count in counts:
                below += count
                if below >= share * total:
                    latency[name] = 2.0 ** (bucket / _STEPS) * 1e-3
                    break
    return {"answered": figures.get("answered", 0), "errors": figures.get("errors", 0), "latency_ms": latency}
