"""Numbers of several routers added up: each counts only the requests that went through it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..scheduling.latency import summary

__all__ = ["add_counters", "add_stats"]

_MAXIMA = frozenset(("max", "largest", "backlog_s"))
_DROPPED = frozenset(("mean", "replicas", "service_time", "backlog_s", "queue_order"))


def add_stats(said: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What ``serve.stat()`` gives, of what the routers answered to ``stat``."""
    answers = list(said)
    endpoints, backends = (
        {
            name: add_counters([answer.get(kind, {}).get(name, {}) for answer in answers])
            for name in sorted({name for answer in answers for name in answer.get(kind, {})})
        }
        for kind in ("endpoints", "backends")
    )
    return {"endpoints": {name: summary(figures) for name, figures in endpoints.items()}, "backends": backends}


def add_counters(counters: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The sum of what :meth:`BackendQueue.statistics` gives on several routers.

    Numbers are added and largest ones kept; what has no sum (estimates, single replicas) is left out.
    """
    total: dict[str, Any] = {}
    for numbers in counters:
        _add(total, numbers)
    sizes = total.get("batch_size")
    if isinstance(sizes, dict):
        sizes["mean"] = total.get("sent", 0) / total["batches"] if total.get("batches") else 0.0
    return total


def _add(total: dict[str, Any], numbers: Mapping[str, Any]) -> None:
    for key, value in numbers.items():
        if key in _DROPPED:
            continue
        if isinstance(value, Mapping):
            _add(total.setdefault(key, {}), value)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            total[key] = max(total.get(key, 0), value) if key in _MAXIMA else total.get(key, 0) + value
