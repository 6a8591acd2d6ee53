"""Rounds of all systems, interleaved: A B C A B C ...

Each round launches each system anew, so that luck in the placement of processes and memory is part of the spread; and
the members of a round are compared with each other, so that whatever else the machine does hits all of them alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .calm import wait_for_calm
from .environments import ready_environment
from .errors import NotRun
from .machine import describe_machine, package_versions
from .progress import Progress
from .results import Results
from .site import Site
from .systems import System
from .workloads import Settings, Workload
from .workloads.workload import Case, Found
from .wrk import find_wrk, wrk_version

__all__ = ["run"]

FAILURES = 2
"""After so many rounds that failed, a system is left out of the workload's other rounds."""
TRIES = 3
DISTURBED = 25.0
"""Percent of one processor that others used during a measurement."""


class _Run:
    def __init__(self, results: Results, settings: Settings, progress: Progress) -> None:
        self.results = results
        self.settings = settings
        self.progress = progress
        self._pythons: dict[str, Path] = {}
        self._reasons: dict[str, str] = {}

    def python(self, system: System, workload: str) -> Path:
        """Its interpreter, made ready.  Raises NotRun, and the same again at once when it could not be installed."""
        if system.name in self._reasons:
            raise NotRun(self._reasons[system.name])
        requirements = (*system.requirements, *system.extras.get(workload, ()))
        self.progress.working(f"{system.name}: environment")
        try:
            python = ready_environment(system.environment, requirements)
        except NotRun as error:
            if not system.extras.get(workload):
                self._reasons[system.name] = str(error)
            raise
        if system.name not in self._pythons:
            self._pythons[system.name] = python
            self.results.versions[system.name] = package_versions(python, system.packages)
        return python

    def workload(self, workload: Workload, systems: Sequence[System]) -> None:
        cases = [case.name for launch in workload.chosen() for case in launch.cases]
        if not cases:
            return  # others were asked for
        able: dict[str, Path] = {}
        for system in systems:
            try:
                if not system.serves(workload.source):
                    raise NotRun("its adapter has no app for this workload")
                able[system.name] = self.python(system, workload.source)
            except NotRun as error:
                self._not_run(workload, system.name, error, self.settings.rounds * len(cases))
        if not able:
            return
        try:
            if workload.needs_wrk:
                find_wrk()
            workload.prepare()
        except NotRun as error:
            self._not_run(workload, "", error, self.settings.rounds * len(cases) * len(able))
            return
        self.results.begin(workload, cases)
        failures = dict.fromkeys(able, 0)
        for round_ in range(self.settings.rounds):
            for name, limit in workload.limits().items():
                self.progress.working(f"{workload.name}: {name}, round {round_ + 1}")
                wait_for_calm(self.settings.calm_s)
                try:
                    for case, found in limit().items():
                        if case not in cases:
                            continue
                        self.results.add(workload.name, case, name, round_, found)
                except NotRun as error:
                    self.results.not_run(workload.name, name, str(error))
            for system in systems:
                if system.name not in able:
                    continue
                if failures[system.name] >= FAILURES:
                    self.progress.done(f"{workload.name}: {system.name} left out", len(cases))
                    continue
                try:
                    self._round(workload, system, able[system.name], round_)
                except (NotRun, OSError) as error:
                    failures[system.name] += 1
                    self._not_run(workload, system.name, error, len(cases))
        self.results.workloads[workload.name]["notes"] = list(workload.notes())

    def _round(self, workload: Workload, system: System, python: Path, round_: int) -> None:
        found: dict[str, dict[str, float]] = {}
        for launch in workload.chosen():
            self.progress.working(f"{workload.name}: {system.name} starts, round {round_ + 1}")
            with system.site(python, workload.source, launch.environment) as site:
                system.start(site)
                site.wait_ready(system.probe(workload.probes[0]), system.start_s)
                for probe in workload.probes:
                    wrong = site.ask(system.probe(probe))
                    if wrong is not None:
                        raise NotRun(f"{probe.path}: {wrong}")
                workload.warm_up(site, system)
                for case in launch.cases:
                    self.progress.working(f"{workload.name}: {system.name}, {case.name}, round {round_ + 1}")
                    found[case.name] = self._measure(case, site, system)
                    headline = found[case.name][workload.headline]
                    self.progress.done(
                        f"{workload.name}: {system.name}, {case.name}, round {round_ + 1}: "
                        f"{self.results.write(workload.headline, headline)}"
                    )
        workload.derive(found)
        for case_name, figures in found.items():
            self.results.add(workload.name, case_name, system.name, round_, figures)

    def _measure(self, case: Case, site: Site, system: System) -> Found:
        """Once; on a machine that must be calm, again when it was not, and of three the calmest.

        The choice is by what others used, never by what was measured.
        """
        best: Found = {}
        for _ in range(TRIES if self.settings.calm_s else 1):
            wait_for_calm(self.settings.calm_s, site)
            found = case.measure(site, system)
            if not best or found.get("elsewhere", 0.0) < best["elsewhere"]:
                best = found
            if found.get("elsewhere", 0.0) <= DISTURBED:
                break
        return best

    def _not_run(self, workload: Workload, system: str, error: Exception, measurements: int) -> None:
        self.results.not_run(workload.name, system, str(error))
        self.progress.done(f"{workload.name}: {system or 'not'} not run: {error}", measurements)


def run(
    workloads: Sequence[type[Workload]],
    systems: Sequence[System] | None,
    settings: Settings,
    everything: dict[str, System],
) -> Results:
    """Measure and return what was found; what was found so far, when it is interrupted."""
    plan: list[tuple[Workload, list[System]]] = []
    for kind in workloads:
        workload = kind(settings)
        chosen = systems if systems is not None else [everything[name] for name in workload.systems]
        plan.append((workload, list(chosen)))
    total = sum(
        len(chosen) * settings.rounds * sum(len(launch.cases) for launch in workload.chosen())
        for workload, chosen in plan
    )
    machine: dict[str, Any] = {**describe_machine(), "wrk": wrk_version()}
    results = Results(machine=machine, settings=settings)
    progress = Progress(total)
    work = _Run(results, settings, progress)
    try:
        for workload, chosen in plan:
            work.workload(workload, chosen)
    except KeyboardInterrupt:
        results.interrupted = True
        progress.say("interrupted; what was measured so far is in the report")
    finally:
        progress.close()
    return results
