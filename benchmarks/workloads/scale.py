"""More replicas, more answers: a backend that sleeps for 20 ms, so that only the distribution of work counts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from ..site import Probe, Site
from ..systems import System
from .workload import Case, Found, Launch, Workload, closed_figures

__all__ = ["Scale"]

CONNECTIONS_A_REPLICA = 4


class Scale(Workload):
    name = "scale"
    title = f"1 to 8 replicas of a 20 ms sleeping backend; closed loop, {CONNECTIONS_A_REPLICA} connections a replica"
    systems = ("zserve", "zserve-apart", "mosec")
    probes = (Probe("/scale", b'{"n": 1}', b'{"slept":20}'),)
    figures = ("rate", "speedup", "p50_ms", "p99_ms", "cpu_s", "pss_mb", "errors", "elsewhere")
    replicas = (1, 2, 4, 8)

    def launches(self) -> Sequence[Launch]:
        counts = (1, 2) if self.settings.quick else self.replicas
        return [
            Launch([Case(_name(count), partial(self._measure, count))], {"REPLICAS": str(count)}) for count in counts
        ]

    def derive(self, cases: dict[str, Found]) -> None:
        one = cases.get(_name(1))
        for found in cases.values():
            if one is not None:
                found["speedup"] = found["rate"] / one["rate"]

    def _measure(self, replicas: int, site: Site, system: System) -> Found:
        connections = CONNECTIONS_A_REPLICA * replicas
        return closed_figures(site, system.probe(self.probes[0]), connections, self.settings.seconds)


def _name(replicas: int) -> str:
    return f"{replicas} replica{'s' if replicas > 1 else ''}"
