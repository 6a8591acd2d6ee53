"""Answers that come in pieces: how soon the first one is there, how steadily the others follow, how many fit through.

*paced*: a handler that waits between its pieces, as a language model does between tokens; most of what a server adds
shows in the time to the first piece and in the longest gaps.  *at once*: a handler that does not wait.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial

import msgspec

from ..child import run_child
from ..errors import NotRun
from ..site import Probe, Site
from ..streamload import StreamOutcome, StreamPlan
from ..systems import System
from .workload import Case, Found, Launch, Meter, Workload

__all__ = ["Stream"]

CLIENTS = 32
PACED = (20, 0.010)
AT_ONCE = (200, 0.0)


class Stream(Workload):
    name = "stream"
    title = f"{CLIENTS} clients, answers of {PACED[0]} pieces {1e3 * PACED[1]:.0f} ms apart; of {AT_ONCE[0]} at once"
    systems = ("zserve", "zserve-apart", "fastapi", "uvicorn", "litserve", "ray")
    probes = (Probe("/stream", b'{"pieces": 3, "gap": 0}', b"piece2"),)
    headline = "pieces"
    figures = (
        "pieces", "first_p50_ms", "first_p99_ms", "gap_p50_ms", "gap_p99_ms", "cpu_s", "pss_mb", "errors", "elsewhere",
    )  # fmt: skip
    needs_wrk = False

    def launches(self) -> Sequence[Launch]:
        return [
            Launch([
                Case("paced", partial(self._measure, *PACED)),
                Case("at once", partial(self._measure, *AT_ONCE)),
            ])
        ]  # fmt: skip

    def notes(self) -> Sequence[str]:
        return ["CPU is for 10,000 pieces."]

    def warm_up(self, site: Site, system: System) -> None:
        self._read(site, system, 10, 0.0, 0.5)

    def _read(self, site: Site, system: System, pieces: int, gap_s: float, seconds: float) -> StreamOutcome:
        plan = StreamPlan(
            host="127.0.0.1",
            port=site.port,
            path=system.probe(self.probes[0]).path,
            body=json.dumps({"pieces": pieces, "gap": gap_s}),
            clients=CLIENTS,
            seconds=seconds,
        )
        return msgspec.json.decode(run_child("benchmarks.streamload", plan, seconds + 60.0), type=StreamOutcome)

    def _measure(self, pieces: int, gap_s: float, site: Site, system: System) -> Found:
        with Meter(site) as meter:
            found = self._read(site, system, pieces, gap_s, self.settings.seconds)
        if found.broken > 0.01 * found.whole:
            raise NotRun(f"{found.broken} streams broke off, {found.whole} did not")
        return {
            "pieces": found.pieces / found.seconds,
            "first_p50_ms": found.first_p50_ms,
            "first_p99_ms": found.first_p99_ms,
            "gap_p50_ms": found.gap_p50_ms,
            "gap_p99_ms": found.gap_p99_ms,
            **meter.figures(found.pieces),
            "errors": float(found.broken),
        }
