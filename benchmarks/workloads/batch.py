"""A model that is cheaper in batches: 5 ms + 0.1 ms an item, at most 32, as an accelerator would (see model.py)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from ..bareloop import bare_loop
from ..site import Probe, Site
from ..systems import System
from .workload import Case, Found, Launch, Workload, closed_figures

__all__ = ["PROBE", "Batch"]

PROBE = Probe("/batch", b'{"n": 21}', b'"double":42')


class Batch(Workload):
    name = "batch"
    title = "5 ms + 0.1 ms an item, batches up to 32; closed loop at 64 and 256 connections"
    systems = ("zserve", "zserve-apart", "mosec", "litserve", "bentoml", "ray", "ray-fast")
    probes = (PROBE,)
    connections = (64, 256)

    def launches(self) -> Sequence[Launch]:
        counts = self.connections[:1] if self.settings.quick else self.connections
        return [Launch([Case(f"{count} connections", partial(self._measure, count)) for count in counts])]

    def limits(self) -> Mapping[str, Callable[[], Mapping[str, Found]]]:
        return {"bare loop": self._bare_loop}

    def _bare_loop(self) -> Mapping[str, Found]:
        rate = bare_loop(self.settings.seconds)
        return {case.name: {"rate": rate} for launch in self.chosen() for case in launch.cases}

    def _measure(self, connections: int, site: Site, system: System) -> Found:
        return closed_figures(site, system.probe(PROBE), connections, self.settings.seconds)
