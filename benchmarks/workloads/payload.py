"""Large bodies: how many megabytes a second, and what they cost in memory on the way."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial

from .. import procfs
from ..site import Probe, Site
from ..systems import System
from ..wrk import run_wrk
from .workload import Case, Found, Launch, Workload, closed_figures

__all__ = ["Payload"]

CONNECTIONS = 8
SAMPLE_S = 0.1
PEAK_S = 2.0


def _probe(megabytes: int) -> Probe:
    size = megabytes << 20
    body = b"\x01" + bytes(size - 2) + b"\x02"
    return Probe("/payload", body, b'{"bytes":%d,"ends":[1,2]}' % size, "application/octet-stream")


class Payload(Workload):
    name = "payload"
    title = f"uploads of 1 and 8 MiB; closed loop at {CONNECTIONS} connections"
    systems = ("zserve", "zserve-apart", "mosec", "fastapi", "uvicorn")
    probes = (_probe(1), _probe(8))
    headline = "mb_s"
    figures = ("mb_s", "rate", "p50_ms", "p99_ms", "cpu_s", "pss_mb", "bodies", "errors", "elsewhere")

    _idle_mb = 0.0  # of the processes between, before the first large body

    def launches(self) -> Sequence[Launch]:
        probes = self.probes[:1] if self.settings.quick else self.probes
        return [Launch([Case(f"{len(probe.body) >> 20} MiB", partial(self._measure, probe)) for probe in probes])]

    def warm_up(self, site: Site, system: System) -> None:
        self._idle_mb = procfs.pss_bytes(_between(site, system)) / 1e6
        for probe in self.probes:
            for _ in range(4):
                site.ask(system.probe(probe))

    def _measure(self, probe: Probe, site: Site, system: System) -> Found:
        between = _between(site, system)
        found = closed_figures(site, system.probe(probe), CONNECTIONS, self.settings.seconds)
        # By itself: to add up the memory of a system takes the longer, the more processes it has, and keeps them from
        # working meanwhile.
        with _Peak(site, between) as peak:
            run_wrk(site, system.probe(probe), CONNECTIONS, min(self.settings.seconds, PEAK_S))
        if between:
            found["bodies"] = max(0.0, peak.between_mb - self._idle_mb) * 1e6 / len(probe.body) / CONNECTIONS
        found["mb_s"] = found["rate"] * len(probe.body) / 1e6
        found["pss_mb"] = max(peak.mb, found["pss_mb"])
        return found


def _between(site: Site, system: System) -> list[procfs.Process]:
    """The processes between the client and the user code."""
    return [one for one in site.processes() if system.passes_on(procfs.command_line(one))]


class _Peak:
    """The largest memory of the system in a while, and of those *between* the client and the user code, looked at ten
    times a second."""

    def __init__(self, site: Site, between: Sequence[procfs.Process]) -> None:
        self.mb = 0.0
        self.between_mb = 0.0
        self._site = site
        self._between = between
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> _Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._end.wait(SAMPLE_S):
            self.mb = max(self.mb, self._site.pss_mb())
            self.between_mb = max(self.between_mb, procfs.pss_bytes(self._between) / 1e6)
