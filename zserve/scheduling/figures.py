"""The numbers of one backend's queue, for ``stat()`` and ``zserve status``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .replicas import Fleet
from .service_time import ServiceTimes

__all__ = ["COUNTERS", "batch_figures", "replica_figures", "time_figures"]

COUNTERS = (
    "cancelled",
    "missed",
    "retried",
    "handed_back",
    "lost",
    "refused_full",
    "refused_late",
    "refused_at_dequeue",
    "expired",
)
"""missed: answered, but after the deadline.  handed_back: returned by a replica unstarted.  lost: in flight at a
replica that went away.  refused_late: 503 on arrival; refused_at_dequeue: 503 when its turn came; refused_full: 429."""


def batch_figures(sizes: Mapping[int, int]) -> dict[str, Any]:
    """Of how often a batch of each size was sent: how many, and mean, largest, histogram of the size."""
    batches = sum(sizes.values())
    sent = sum(size * count for size, count in sizes.items())
    return {
        "sent": sent,
        "batches": batches,
        "batch_size": {
            "mean": sent / batches if batches else 0.0,
            "max": max(sizes, default=0),
            "histogram": dict(sorted(sizes.items())),
        },
    }


def replica_figures(fleet: Fleet) -> dict[str, dict[str, Any]]:
    """What is known of each replica, by the hexadecimal form of its link."""
    return {
        peer.hex(): {
            "in_flight": len(replica.held),
            "credit": replica.limit - replica.sent,
            "latency_s": replica.latency,
            "failing": replica.failing,
        }
        for peer, replica in fleet.members.items()
    }


def time_figures(times: ServiceTimes) -> dict[str, float]:
    """The service-time estimates: fixed_s + each_s * n for n requests, and the p95 of the largest n seen, seconds."""
    fixed, each = times.model()
    largest = max(1, times.largest)
    return {"samples": times.seen, "fixed_s": fixed, "each_s": each, "largest": largest, "p95_s": times.p95(largest)}
