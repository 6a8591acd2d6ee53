"""More than can be served: how much is still answered in time, and what becomes of the rest.

The backend is that of the batch workload.  What is offered does not depend on the system: multiples of the bare loop's
rate, the most that any system could answer.  Then the load falls in the middle, and all should be well a second later;
and the cost of a batch doubles in the middle, which no setting that was tuned beforehand can know.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

from zserve.nodes.bench.arrivals import poisson

from ..bareloop import bare_loop
from ..offered import offer
from ..openloop import Outcome, Plan, Stream
from ..site import Site
from ..systems import System
from .batch import PROBE
from .workload import Case, Found, Launch, Meter, Workload

__all__ = ["Overload"]

DEADLINE_MS = 100.0
PATIENCE_S = 0.5
RECOVERY_S = 1.0
"""How long after the load has fallen full service is expected."""


class Overload(Workload):
    name = "overload"
    title = f"open loop, Poisson, 0.7x, 1x and 2x of capacity, deadline {DEADLINE_MS:.0f} ms; load and cost change"
    app = "batch"
    systems = ("zserve", "zserve-apart", "mosec", "mosec-tuned", "litserve", "bentoml", "ray", "ray-fast")
    probes = (PROBE,)
    headline = "in_time"
    needs_wrk = False
    figures = (
        "in_time", "of_capacity", "p50_ms", "p99_ms", "late", "refused", "refused_p99_ms", "expired", "lost", "cpu_s",
        "lag_p99_ms", "generator_cpu", "elsewhere",
    )  # fmt: skip

    def prepare(self) -> None:
        # The best of three: what disturbs it makes it slower, never faster.
        self.capacity = max(bare_loop(0.5 if self.settings.quick else 1.0) for _ in range(3))

    def launches(self) -> Sequence[Launch]:
        times = (2.0,) if self.settings.quick else (0.7, 1.0, 2.0)
        cases = [Case(f"{factor:g}x", partial(self._steady, factor)) for factor in times]
        cases.append(Case("2x, then 0.7x", partial(self._falling, 2.0, 0.7)))
        # A start of its own: whatever a system learns from the doubled cost must not help it elsewhere.
        return [Launch(cases), Launch([Case("2x, then the cost doubles", partial(self._doubling, 2.0))])]

    def warm_up(self, site: Site, system: System) -> None:
        """What it can answer easily, for a second; in the smoke form half of that."""
        offer(self._plan(0.5, 0.5 if self.settings.quick else 1.0, site, system))

    def notes(self) -> Sequence[str]:
        return [
            f"Capacity, the bare loop's rate when the run began: {self.capacity:,.0f}/s.",
            f"Clients give up after {PATIENCE_S:g} s.",
            "Where the cost doubles, only the second half counts as answered in time, of half the capacity.",
            f"Where the load falls, what was to start {RECOVERY_S:g} s later or more counts, of what was offered then.",
        ]

    def _plan(self, factor: float, seconds: float, site: Site, system: System) -> Plan:
        probe = system.probe(PROBE)
        requests = Stream(
            name="requests",
            path=system.with_deadline(probe.path, DEADLINE_MS),
            body=probe.body,
            rate=factor * self.capacity,
            deadline_ms=DEADLINE_MS,
        )
        return Plan(
            host="127.0.0.1", port=site.port, seconds=seconds, seed=7, patience_s=PATIENCE_S, streams=[requests]
        )

    def _steady(self, factor: float, site: Site, system: System) -> Found:
        seconds = max(1.0, self.settings.seconds)
        outcome, found = self._offer(self._plan(factor, seconds, site, system), site)
        return self._in_time(found, outcome.good / seconds, min(1.0, factor) * self.capacity)

    def _falling(self, before: float, after: float, site: Site, system: System) -> Found:
        half = max(RECOVERY_S + 1.0, self.settings.seconds)
        plan = self._plan(before, 2.0 * half, site, system)
        moments = poisson(before * self.capacity, half, plan.seed)
        moments += [half + at for at in poisson(after * self.capacity, half, plan.seed + 1)]
        plan.streams[0].arrivals, plan.streams[0].moments = "replay", moments
        outcome, found = self._offer(plan, site)
        first = math.ceil((half + RECOVERY_S) / plan.window_s)
        counted_s = 2.0 * half - first * plan.window_s
        last = round(plan.seconds / plan.window_s)
        good, offered = sum(outcome.windows[first:last]), sum(outcome.offered_in[first:last])
        return self._in_time(found, good / counted_s, offered / counted_s)

    def _doubling(self, factor: float, site: Site, system: System) -> Found:
        seconds = max(2.0, 2.0 * self.settings.seconds)
        plan = self._plan(factor, seconds, site, system)
        plan.touch, plan.touch_at_s = str(site.doubled), seconds / 2.0
        outcome, found = self._offer(plan, site)
        good = sum(outcome.windows[len(outcome.windows) // 2 :])
        return self._in_time(found, good / (seconds / 2.0), self.capacity / 2.0)

    @staticmethod
    def _in_time(found: dict[str, float], good: float, possible: float) -> Found:
        """*good* and *possible*: answers a second."""
        return {"in_time": good, "of_capacity": 100.0 * good / possible, **found}

    @staticmethod
    def _offer(plan: Plan, site: Site) -> tuple[Outcome, dict[str, float]]:
        with Meter(site) as meter:
            found = offer(plan)
        outcome = found.streams["requests"]
        return outcome, {
            "offered": outcome.offered / plan.seconds,
            "late": outcome.late / plan.seconds,
            "refused": outcome.refused / plan.seconds,
            "refused_p99_ms": outcome.refused_p99_ms,
            "expired": outcome.expired / plan.seconds,
            "lost": (outcome.failed + outcome.gave_up) / plan.seconds,
            "failed": outcome.failed / plan.seconds,
            "p50_ms": outcome.p50_ms,
            "p99_ms": outcome.p99_ms,
            **meter.figures(outcome.offered),
            "lag_p99_ms": outcome.lag_p99_ms,
            "generator_cpu": found.generator_cpu,
        }
