"""The model of examples/digits.py: a support vector machine that reads handwritten digits, in batches."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial

from ..site import Probe, Site
from ..systems import System
from .workload import Case, Found, Launch, Workload, closed_figures

__all__ = ["Digits"]

# A held-out 7 of the example, row by row.
SEVEN = [
    *(0, 0, 2, 9, 14, 16, 15, 0),
    *(0, 3, 16, 13, 8, 10, 16, 0),
    *(0, 1, 2, 0, 0, 11, 9, 0),
    *(0, 0, 3, 11, 12, 16, 11, 0),
    *(0, 0, 12, 14, 16, 12, 2, 0),
    *(0, 0, 0, 3, 16, 3, 0, 0),
    *(0, 0, 0, 7, 10, 0, 0, 0),
    *(0, 0, 0, 14, 5, 0, 0, 0),
]


class Digits(Workload):
    name = "digits"
    title = "the example's real model, batches up to 32; closed loop at 64 connections"
    systems = ("zserve", "zserve-apart", "mosec")
    probes = (Probe("/digits", json.dumps(SEVEN).encode(), b'"digit":7'),)

    def launches(self) -> Sequence[Launch]:
        return [Launch([Case(f"{count} connections", partial(self._measure, count)) for count in (64,)])]

    def _measure(self, connections: int, site: Site, system: System) -> Found:
        return closed_figures(site, system.probe(self.probes[0]), connections, self.settings.seconds)
