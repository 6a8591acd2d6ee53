"""What zserve is meant to reach, checked against what was measured: ratios to peers and limits, and shares."""

from __future__ import annotations

from typing import NamedTuple

from .results import Results

__all__ = ["TARGETS", "Target", "Verdict", "judge"]


class Target(NamedTuple):
    """*figure* of *system* over that of *against* (a system or a limit; "": the figure itself) is at least or at most
    *wanted*."""

    workload: str
    case: str
    system: str
    against: str
    wanted: float
    figure: str = "rate"
    at_most: bool = False


def _c(count: int) -> str:
    return f"{count} connection{'s' if count > 1 else ''}"


TARGETS = (
    Target("echo", _c(64), "zserve-apart", "mosec", 2.2),
    Target("echo", _c(64), "zserve-apart", "fastapi", 4.0),
    Target("echo", _c(64), "zserve-apart", "litserve", 20.0),
    Target("echo", _c(64), "zserve-apart", "bentoml", 20.0),
    Target("echo", _c(64), "zserve-apart", "ray", 90.0),
    Target("echo", _c(64), "zserve-apart", "ray-fast", 6.0),
    Target("echo", _c(64), "zserve-apart", "uvicorn", 0.75),
    Target("echo", _c(256), "zserve-apart", "mosec", 2.6),
    Target("echo", _c(1), "zserve", "mosec", 1.5, "p50_ms", at_most=True),
    Target("echo", _c(1), "zserve-together", "mosec", 1.5, "p50_ms", at_most=True),
    Target("echo", _c(1), "zserve-apart", "mosec", 2.2, "p50_ms", at_most=True),
    Target("echo", _c(64), "zserve-apart", "mosec", 0.6, "cpu_s", at_most=True),
    *(Target("batch", _c(count), "zserve", "bare loop", 0.97) for count in (64, 256)),
    *(Target("batch", _c(count), "zserve", "mosec", 1.15) for count in (64, 256)),
    Target("batch", _c(64), "zserve", "", 3 * 8.2, "p99_ms", at_most=True),
    *(Target("payload", f"{size} MiB", "zserve", "mosec", 1.0, "mb_s") for size in (1, 8)),
    *(
        Target("payload", f"{size} MiB", system, "", 3.0, "bodies", at_most=True)
        for size in (1, 8)
        for system in ("zserve", "zserve-apart")
    ),
    Target("start-up", "echo app", "zserve", "", 1.0, "first_s", at_most=True),
    Target("start-up", "echo app", "zserve", "", 150.0, "pss_mb", at_most=True),
    Target("scale", "8 replicas", "zserve", "", 7.8, "speedup"),
    *(
        Target("overload", "2x", "zserve", peer, 1.0, "in_time")
        for peer in ("mosec", "litserve", "bentoml", "ray", "ray-fast", "mosec-tuned")
    ),
    Target("overload", "2x, then the cost doubles", "zserve", "mosec-tuned", 1.0, "in_time"),
    Target("overload", "0.7x", "zserve", "", 0.0, "refused", at_most=True),
    Target("overload", "2x", "zserve", "", 95.0, "of_capacity"),
    Target("overload", "2x", "zserve", "", 10.0, "refused_p99_ms", at_most=True),
    Target("overload", "2x, then 0.7x", "zserve", "", 99.9, "of_capacity"),
    Target("overload", "2x, then the cost doubles", "zserve", "", 95.0, "of_capacity"),
)


class Verdict(NamedTuple):
    target: Target
    found: float
    low: float
    high: float

    @property
    def reached(self) -> bool:
        return self.found <= self.target.wanted if self.target.at_most else self.found >= self.target.wanted


def judge(results: Results) -> list[Verdict]:
    """A verdict for each target both sides of which were measured."""
    verdicts = []
    for target in TARGETS:
        if target.workload not in results.workloads:
            continue
        if target.against:
            found = results.ratio(target.workload, target.case, target.system, target.against, target.figure)
        else:
            found = results.spread(target.workload, target.case, target.system, target.figure)
        if found is not None:
            verdicts.append(Verdict(target, *found))
    return verdicts
