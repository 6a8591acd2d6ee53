"""When requests come in an open loop: moments that do not depend on how fast anything is answered."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

__all__ = ["arrivals", "burst", "poisson", "replay"]


def poisson(rate: float, seconds: float, seed: int) -> list[float]:
    """Independent clients, *rate* a second in the mean: exponential gaps.  Seconds from the start, ascending."""
    draw = random.Random(seed).expovariate
    moments: list[float] = []
    at = draw(rate)
    while at < seconds:
        moments.append(at)
        at += draw(rate)
    return moments


def burst(rate: float, seconds: float, seed: int, size: int = 64) -> list[float]:
    """Groups of *size* at the same moment, the groups Poisson; *rate* counts requests."""
    return [at for at in poisson(rate / size, seconds, seed) for _ in range(size)]


def replay(moments: Iterable[float], seconds: float) -> list[float]:
    """Moments as recorded, over and over until *seconds*; the first of a round comes one mean gap after the last."""
    recorded = sorted(moments)
    if not recorded or recorded[0] < 0.0:
        raise ValueError("replay needs at least one moment, none before 0")
    gap = recorded[-1] / len(recorded) or 1.0
    period = recorded[-1] + gap - recorded[0]
    found: list[float] = []
    offset = 0.0
    while True:
        for at in recorded:
            if at + offset >= seconds:
                return found
            found.append(at + offset)
        offset += period


def arrivals(kind: str, rate: float, seconds: float, seed: int, moments: Sequence[float] = ()) -> list[float]:
    """By name: "poisson", "burst" or "replay" (of *moments*).  Raises ValueError for another."""
    if kind == "poisson":
        return poisson(rate, seconds, seed)
    if kind == "burst":
        return burst(rate, seconds, seed)
    if kind == "replay":
        return replay(moments, seconds)
    raise ValueError(f"arrivals are poisson, burst or replay, not {kind!r}")
