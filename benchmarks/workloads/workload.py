"""What the harness asks of a workload.  One small file in this folder for each."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from .. import procfs
from ..errors import NotRun
from ..site import Probe, Site
from ..systems import System
from ..wrk import Closed, run_wrk

__all__ = ["Case", "Found", "Launch", "Meter", "Settings", "Workload", "closed_figures"]

Found = dict[str, float]
"""Figure (a key of figures.FIGURES) to value."""


class Settings(NamedTuple):
    """rounds: how often; seconds: how long each measurement; quick: the smoke form, fewer cases.

    cases: names of those to measure; empty for all.
    calm_s: how long to wait before each measurement for a machine that does nothing else; one that was disturbed all
        the same is made again, twice at most.
    """

    rounds: int = 5
    seconds: float = 3.0
    quick: bool = False
    calm_s: float = 0.0
    cases: Sequence[str] = ()


class Case(NamedTuple):
    """One measurement of a running system; its name is a row in the report."""

    name: str
    measure: Callable[[Site, System], Found]


class Launch(NamedTuple):
    """Start the system once, with *environment*, and measure *cases* one after the other."""

    cases: Sequence[Case]
    environment: Mapping[str, str] = {}


class Workload(ABC):
    """name, title: as on the command line, and in one line.

    systems: which are measured unless the command line says otherwise.
    probes: requests that are answered rightly before anything is measured; the first tells when the system is ready.
    headline: the figure that systems are compared by; figures: all columns of the report.
    lower_is_better: of the headline.
    """

    name: str
    title: str
    app: str = ""
    systems: tuple[str, ...]
    probes: tuple[Probe, ...]
    headline: str = "rate"
    figures: tuple[str, ...] = ("rate", "p50_ms", "p99_ms", "cpu_s", "pss_mb", "errors", "elsewhere")
    lower_is_better: bool = False
    needs_wrk: bool = True

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @property
    def source(self) -> str:
        """Which app of a system it loads."""
        return self.app or self.name

    @abstractmethod
    def launches(self) -> Sequence[Launch]: ...

    def chosen(self) -> Sequence[Launch]:
        """:meth:`launches`, with the cases that were asked for only."""
        wanted = self.settings.cases
        kept = [
            launch._replace(cases=[case for case in launch.cases if not wanted or case.name in wanted])
            for launch in self.launches()
        ]
        return [launch for launch in kept if launch.cases]

    def prepare(self) -> None:
        """Once, before the first round."""
        return

    def limits(self) -> Mapping[str, Callable[[], Mapping[str, Found]]]:
        """Bounds that no system can pass, measured in every round: name to a function of case to figures."""
        return {}

    def warm_up(self, site: Site, system: System) -> None:
        if self.settings.quick:
            for _ in range(5):
                site.ask(system.probe(self.probes[0]))
        else:
            run_wrk(site, system.probe(self.probes[0]), 16, 1.0)

    def derive(self, cases: dict[str, Found]) -> None:
        """Add figures that need more than one case of the same round."""
        return

    def notes(self) -> Sequence[str]:
        """Lines for the report."""
        return ()


class Meter:
    """Processor time and memory of a system over a while, and what everything else on the machine used meanwhile."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._cpu_s = self._elsewhere_s = self._wall_s = self._pss_mb = 0.0

    def __enter__(self) -> Meter:
        self._cpu_s, self._elsewhere_s, self._wall_s = self._read()
        return self

    def __exit__(self, *_: object) -> None:
        cpu_s, elsewhere_s, wall_s = self._read()
        self._cpu_s, self._elsewhere_s = cpu_s - self._cpu_s, elsewhere_s - self._elsewhere_s
        self._wall_s = wall_s - self._wall_s
        self._pss_mb = self._site.pss_mb()

    def _read(self) -> tuple[float, float, float]:
        cpu_s = self._site.cpu_seconds()
        own = os.times()  # the harness and the load generators, which are its children
        return cpu_s, procfs.busy_seconds() - cpu_s - sum(own[:4]), time.perf_counter()

    def figures(self, requests: int) -> Found:
        return {
            "cpu_s": self._cpu_s / max(1, requests) * 1e4,
            "pss_mb": self._pss_mb,
            "elsewhere": max(0.0, 100.0 * self._elsewhere_s / self._wall_s),
        }


def closed_figures(site: Site, probe: Probe, connections: int, seconds: float) -> Found:
    """wrk at *connections* with the processor time and the memory of the whole system."""
    with Meter(site) as meter:
        closed = run_wrk(site, probe, connections, seconds)
    _refuse_errors(closed)
    return {
        "rate": closed.rate,
        "p50_ms": closed.p50_ms,
        "p90_ms": closed.p90_ms,
        "p99_ms": closed.p99_ms,
        "max_ms": closed.max_ms,
        **meter.figures(closed.requests),
        "errors": float(closed.errors),
    }


def _refuse_errors(closed: Closed) -> None:
    # A few broken connections are reported as such; a rate made of errors would be worse than none.
    if closed.errors > 0.01 * closed.requests:
        raise NotRun(f"{closed.errors} of {closed.requests} requests failed")
