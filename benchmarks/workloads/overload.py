"""More than can be served: how much is still answered in time, and what becomes of the rest.

The backend is that of the batch workload.  What is offered does not depend on the system: multiples of the bare loop's
rate, the most that any system could answer.  The last case lets the cost of a batch double in the middle, which no
setting that was tuned beforehand can know.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from ..bareloop import bare_loop
from ..offered import offer
from ..openloop import Plan, Stream
from ..site import Site
from ..systems import System
from .batch import PROBE
from .workload import Case, Found, Launch, Meter, Workload

__all__ = ["Overload"]

DEADLINE_MS = 100.0
PATIENCE_S = 0.5


class Overload(Workload):
    name = "overload"
    title = f"open loop, Poisson, 0.7x, 1x and 2x of capacity, deadline {DEADLINE_MS:.0f} ms; and the cost doubles"
    app = "batch"
    systems = ("zserve", "zserve-apart", "mosec", "mosec-tuned", "litserve", "bentoml", "ray", "ray-fast")
    probes = (PROBE,)
    headline = "in_time"
    needs_wrk = False
    figures = (
        "in_time", "of_capacity", "p50_ms", "p99_ms", "late", "refused", "expired", "lost", "cpu_s", "lag_p99_ms",
        "generator_cpu", "elsewhere",
    )  # fmt: skip

    def prepare(self) -> None:
        # The best of three: what disturbs it makes it slower, never faster.
        self.capacity = max(bare_loop(0.5 if self.settings.quick else 1.0) for _ in range(3))

    def launches(self) -> Sequence[Launch]:
        times = (2.0,) if self.settings.quick else (0.7, 1.0, 2.0)
        cases = [Case(f"{factor:g}x", partial(self._measure, factor, False)) for factor in times]
        # A start of its own: whatever a system learns from the doubled cost must not help it elsewhere.
        doubling = Case("2x, then the cost doubles", partial(self._measure, 2.0, True))
        return [Launch(cases), Launch([doubling])]

    def warm_up(self, site: Site, system: System) -> None:
        """What it can answer easily, for a second; in the smoke form half of that."""
        offer(self._plan(0.5, 0.5 if self.settings.quick else 1.0, site, system))

    def notes(self) -> Sequence[str]:
        return [
            f"Capacity, the bare loop's rate when the run began: {self.capacity:,.0f}/s.",
            f"Clients give up after {PATIENCE_S:g} s.",
            "Where the cost doubles, only the second half counts as answered in time, of half the capacity.",
        ]

    def _plan(self, factor: float, seconds: float, site: Site, system: System) -> Plan:
        probe = system.probe(PROBE)
        requests = Stream(
            name="requests",
            path=system.with_deadline(probe.path, DEADLINE_MS),
            body=probe.body.decode(),
            rate=factor * self.capacity,
            deadline_ms=DEADLINE_MS,
        )
        return Plan(
            host="127.0.0.1", port=site.port, seconds=seconds, seed=7, patience_s=PATIENCE_S, streams=[requests]
        )

    def _measure(self, factor: float, doubling: bool, site: Site, system: System) -> Found:
        seconds = max(2.0, 2.0 * self.settings.seconds) if doubling else max(1.0, self.settings.seconds)
        plan = self._plan(factor, seconds, site, system)
        if doubling:
            plan.touch, plan.touch_at_s = str(site.doubled), seconds / 2.0
        with Meter(site) as meter:
            found = offer(plan)
        outcome = found.streams["requests"]
        good, counted_s, capacity = float(outcome.good), seconds, self.capacity
        if doubling:
            half = len(outcome.windows) // 2
            good, counted_s, capacity = float(sum(outcome.windows[half:])), seconds / 2.0, self.capacity / 2.0
        return {
            "in_time": good / counted_s,
            "of_capacity": 100.0 * good / counted_s / min(capacity, factor * self.capacity),
            "offered": outcome.offered / seconds,
            "late": outcome.late / seconds,
            "refused": outcome.refused / seconds,
            "expired": outcome.expired / seconds,
            "lost": (outcome.failed + outcome.gave_up) / seconds,
            "failed": outcome.failed / seconds,
            "p50_ms": outcome.p50_ms,
            "p99_ms": outcome.p99_ms,
            **meter.figures(outcome.offered),
            "lag_p99_ms": outcome.lag_p99_ms,
            "generator_cpu": found.generator_cpu,
        }
