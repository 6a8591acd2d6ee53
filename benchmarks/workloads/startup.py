"""From the launch to the first right answer, and what the processes hold in memory then."""

from __future__ import annotations

from collections.abc import Sequence

from ..site import Site
from ..systems import System
from .echo import Echo
from .workload import Case, Found, Launch, Workload

__all__ = ["StartUp"]


class StartUp(Workload):
    name = "start-up"
    title = "launch to first answer of the echo app; memory of all its processes"
    app = "echo"
    systems = Echo.systems
    probes = Echo.probes
    headline = "first_s"
    figures = ("first_s", "pss_mb")
    lower_is_better = True
    needs_wrk = False

    def launches(self) -> Sequence[Launch]:
        return [Launch([Case("echo app", self._measure)])]

    def warm_up(self, site: Site, system: System) -> None:
        """Not here: cold is what is measured."""

    def _measure(self, site: Site, system: System) -> Found:
        return {"first_s": site.first_answer_s, "pss_mb": site.pss_mb()}
