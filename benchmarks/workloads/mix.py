"""Three backends side by side, quick, medium and slow, each with a deadline that fits it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from ..offered import offer
from ..openloop import Plan, Stream
from ..site import Probe, Site
from ..systems import System
from .workload import Case, Found, Launch, Meter, Workload

__all__ = ["Mix"]

# name, milliseconds of work, deadline in milliseconds
BACKENDS = (("fast", 1.0, 20.0), ("medium", 10.0, 100.0), ("slow", 50.0, 500.0))


class Mix(Workload):
    name = "mix"
    title = "backends of 1, 10 and 50 ms with deadlines of 20, 100 and 500 ms; open loop at 60% and 150% of capacity"
    systems = ("zserve", "zserve-apart", "mosec", "litserve")
    probes = tuple(Probe(f"/{name}", b'{"n": 1}', b'{"waited":%d}' % wait) for name, wait, _ in BACKENDS)
    headline = "in_time"
    figures = (
        "in_time", "of_offered", "p50_ms", "p99_ms", "late", "refused", "expired", "lost", "cpu_s", "lag_p99_ms",
        "elsewhere",
    )  # fmt: skip
    needs_wrk = False

    def launches(self) -> Sequence[Launch]:
        found: list[Case] = []
        for share in (0.6,) if self.settings.quick else (0.6, 1.5):
            # The three streams run at once; each is a row of its own.  The first row's call does the measuring.
            once = _Once(self, share)
            found += [Case(f"{name}, {share:.0%}", partial(once.row, name)) for name, _, _ in BACKENDS]
        return [Launch(found)]

    def warm_up(self, site: Site, system: System) -> None:
        for probe in self.probes:
            for _ in range(5):
                site.ask(system.probe(probe))


class _Once:
    def __init__(self, workload: Mix, share: float) -> None:
        self._workload = workload
        self._share = share
        self._rows: dict[str, Found] = {}

    def row(self, name: str, site: Site, system: System) -> Found:
        if name == BACKENDS[0][0]:
            self._rows = self._measure(site, system)
        return self._rows[name]

    def _measure(self, site: Site, system: System) -> dict[str, Found]:
        seconds = max(1.0, 2.0 * self._workload.settings.seconds)
        streams = [
            Stream(
                name=name,
                path=system.with_deadline(f"/{name}", deadline_ms),
                body=b'{"n": 1}',
                rate=self._share * 1e3 / wait_ms,
                deadline_ms=deadline_ms,
            )
            for name, wait_ms, deadline_ms in BACKENDS
        ]
        plan = Plan(host="127.0.0.1", port=site.port, seconds=seconds, seed=11, patience_s=2.0, streams=streams)
        with Meter(site) as meter:
            found = offer(plan)
        offered = sum(outcome.offered for outcome in found.streams.values())
        return {
            name: {
                "in_time": outcome.good / seconds,
                "of_offered": 100.0 * outcome.good / max(1, outcome.offered),
                "offered": outcome.offered / seconds,
                "late": outcome.late / seconds,
                "refused": outcome.refused / seconds,
                "expired": outcome.expired / seconds,
                "lost": (outcome.failed + outcome.gave_up) / seconds,
                "failed": outcome.failed / seconds,
                "p50_ms": outcome.p50_ms,
                "p99_ms": outcome.p99_ms,
                **meter.figures(offered),
                "lag_p99_ms": outcome.lag_p99_ms,
            }
            for name, outcome in found.streams.items()
        }
