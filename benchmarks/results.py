"""What was measured, and its form on disk."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from .figures import FIGURES, Spread, paired_ratio, spread
from .workloads import Settings, Workload

__all__ = ["Results"]


class Results:
    """workloads: name to title, headline, figures, cases, notes and ``rounds``: case -> system -> round -> figures.

    All rounds are kept, so that medians, spreads and ratios can be had in any way later.
    """

    def __init__(self, machine: Mapping[str, Any], settings: Settings) -> None:
        self.machine = dict(machine)
        self.settings = settings
        self.made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self.versions: dict[str, dict[str, str]] = {}
        self.workloads: dict[str, dict[str, Any]] = {}
        self.failures: list[dict[str, str]] = []
        self.interrupted = False

    def begin(self, workload: Workload, cases: Sequence[str]) -> None:
        self.workloads[workload.name] = {
            "title": workload.title,
            "headline": workload.headline,
            "lower_is_better": workload.lower_is_better,
            "figures": list(workload.figures),
            "cases": list(cases),
            "notes": [],
            "rounds": {case: {} for case in cases},
        }

    def add(self, workload: str, case: str, system: str, round_: int, figures: Mapping[str, float]) -> None:
        self.workloads[workload]["rounds"][case].setdefault(system, {})[round_] = dict(figures)

    def not_run(self, workload: str, system: str, reason: str) -> None:
        failure = {"workload": workload, "system": system, "reason": reason}
        if failure not in self.failures:
            self.failures.append(failure)

    # --- reading ------------------------------------------------------------------------------------------------------

    def systems(self, workload: str, case: str) -> list[str]:
        return list(self.workloads[workload]["rounds"][case])

    def values(self, workload: str, case: str, system: str, figure: str) -> dict[int, float]:
        """Round to value; empty if it was not measured."""
        rounds = self.workloads.get(workload, {}).get("rounds", {}).get(case, {}).get(system, {})
        return {round_: figures[figure] for round_, figures in rounds.items() if figure in figures}

    def spread(self, workload: str, case: str, system: str, figure: str) -> Spread | None:
        values = list(self.values(workload, case, system, figure).values())
        return spread(values) if values else None

    def ratio(self, workload: str, case: str, system: str, reference: str, figure: str) -> Spread | None:
        """*system* over *reference*, round by round."""
        return paired_ratio(self.values(workload, case, system, figure), self.values(workload, case, reference, figure))

    @staticmethod
    def write(figure: str, value: float) -> str:
        """With its unit."""
        _, unit, digits = FIGURES[figure]
        return f"{value:,.{digits}f}{'' if unit.startswith(('/', '%', 'x')) or not unit else ' '}{unit}"

    # --- the form on disk ---------------------------------------------------------------------------------------------

    def as_dict(self) -> dict[str, Any]:
        return {
            "format": 1,
            "made": self.made,
            "machine": self.machine,
            "settings": {**self.settings._asdict(), "cases": list(self.settings.cases)},
            "versions": self.versions,
            "not_run": self.failures,
            "interrupted": self.interrupted,
            "workloads": self.workloads,
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Results:
        """Raises ValueError for a format that this version does not know."""
        if found.get("format") != 1:
            raise ValueError(f"results of format {found.get('format')!r}; this version reads format 1")
        results = cls(found["machine"], Settings(**found["settings"]))
        results.made = found["made"]
        results.versions = dict(found["versions"])
        results.failures = list(found["not_run"])
        results.interrupted = bool(found["interrupted"])
        results.workloads = dict(found["workloads"])
        for workload in results.workloads.values():
            workload["rounds"] = {
                case: {
                    system: {int(round_): figures for round_, figures in rounds.items()}
                    for system, rounds in by_system.items()
                }
                for case, by_system in workload["rounds"].items()
            }
        return results
