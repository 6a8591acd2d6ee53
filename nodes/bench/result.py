"""What was found, for programs and for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .plan import Plan
from .tally import Outcome

__all__ = ["figures", "render"]

_BUSY_PERCENT = 90.0
_LATE_MS = 10.0
_MEANING = {
    "refused": "429, 503: to come back later",
    "expired": "504, 408: the deadline had passed",
    "failed": "another status, or no answer",
    "gave_up": "no answer while the client was patient",
}


def figures(url: str, plan: Plan, outcome: Outcome, took_s: float, generator_cpu: float) -> dict[str, Any]:
    """*took_s*: how long it was measured.  Rates are a second, times in milliseconds, generator_cpu in percent of one
    processor."""
    (stream,) = plan.streams
    answered = outcome.good + outcome.late
    return {
        "url": url,
        "method": stream.method,
        "loop": "closed" if plan.clients else "open",
        "clients": plan.clients or None,
        "rate": None if plan.clients else stream.rate,
        "deadline_ms": stream.deadline_ms or None,
        "seconds": round(took_s, 3),
        "answered_per_s": round(answered / took_s, 1),
        "in_time_per_s": round(outcome.good / took_s, 1),
        "offered": outcome.offered,
        "answered": answered,
        "in_time": outcome.good,
        "late": outcome.late,
        "refused": outcome.refused,
        "expired": outcome.expired,
        "failed": outcome.failed,
        "gave_up": outcome.gave_up,
        "statuses": outcome.statuses,
        "latency_ms": {
            "p50": round(outcome.p50_ms, 3),
            "p90": round(outcome.p90_ms, 3),
            "p99": round(outcome.p99_ms, 3),
            "max": round(outcome.max_ms, 3),
        },
        "refused_p99_ms": round(outcome.refused_p99_ms, 3),
        "lag_p99_ms": round(outcome.lag_p99_ms, 3),
        "generator_cpu": round(generator_cpu, 1),
    }


def render(found: Mapping[str, Any]) -> str:
    """*found*: what :func:`figures` gives, as lines of text."""
    offered, took_s = found["offered"], found["seconds"]
    load = (
        f"{found['clients']} clients, each asks again when it has its answer"
        if found["loop"] == "closed"
        else f"{found['rate']:g} requests/s, answered or not"
    )
    lines = [f"{found['method']} {found['url']}", f"  {'load':<10}{load}; {took_s:.1f} s", ""]
    lines.append(f"  {'answered':<10}{found['answered_per_s']:>12,.1f} /s  {_of(found['answered'], offered)}")
    if found["deadline_ms"]:
        within = f"within {found['deadline_ms']:g} ms, {_of(found['in_time'], offered)}"
        lines.append(f"  {'in time':<10}{found['in_time_per_s']:>12,.1f} /s  {within}")
    for kind, meaning in _MEANING.items():
        if found[kind]:
            each = f"{meaning}, {_of(found[kind], offered)}"
            lines.append(f"  {kind.replace('_', ' '):<10}{found[kind] / took_s:>12,.1f} /s  {each}")
    if found["answered"]:
        latency = found["latency_ms"]
        lines += ["", "  latency   " + "".join(f"{name:>10}" for name in ("p50", "p90", "p99", "longest"))]
        lines.append("  ms        " + "".join(f"{latency[name]:>10,.2f}" for name in ("p50", "p90", "p99", "max")))
    others = {status: count for status, count in found["statuses"].items() if not status.startswith("2")}
    if others:
        lines += ["", "  " + ", ".join(f"{status}: {count:,}" for status, count in others.items())]
    lines += [f"\n{remark}" for remark in _remarks(found)]
    return "\n".join(lines)


def _of(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,}" + (f" ({100 * part / whole:.1f}%)" if whole else "")


def _remarks(found: Mapping[str, Any]) -> list[str]:
    remarks = []
    if found["generator_cpu"] >= _BUSY_PERCENT:
        remarks.append(
            f"note: the generator used {found['generator_cpu']:.0f}% of a processor; these figures may be its own limit"
        )
    if found["lag_p99_ms"] >= _LATE_MS:
        remarks.append(
            f"note: requests started up to {found['lag_p99_ms']:.0f} ms late (p99), which their latencies include; "
            "this machine is too busy for such a rate"
        )
    return remarks
