"""What the path itself costs: a JSON body that comes back."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from ..site import Probe, Site
from ..systems import System
from .workload import Case, Found, Launch, Workload, closed_figures

__all__ = ["Echo"]

BODY = b'{"text": "the quick brown fox", "numbers": [1, 2, 3], "flag": true}'


class Echo(Workload):
    name = "echo"
    title = "JSON echo; closed loop at 1, 16, 64 and 256 connections"
    systems = (
        "zserve", "zserve-apart", "mosec", "fastapi", "uvicorn", "litserve", "bentoml", "ray", "ray-fast",
    )  # fmt: skip
    probes = (Probe("/echo", BODY, BODY),)

    def launches(self) -> Sequence[Launch]:
        connections = (1, 64) if self.settings.quick else (1, 16, 64, 256)
        return [Launch([Case(_name(count), partial(self._measure, count)) for count in connections])]

    def _measure(self, connections: int, site: Site, system: System) -> Found:
        return closed_figures(site, system.probe(self.probes[0]), connections, self.settings.seconds)


def _name(connections: int) -> str:
    return f"{connections} connection{'s' if connections > 1 else ''}"
