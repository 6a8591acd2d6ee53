"""What the harness asks of an adapter.  One file in this folder for each peer (docs/benchmarks.md: "Adding a peer")."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import dedent

from ..errors import NotRun
from ..site import Probe, Site

__all__ = ["Sources", "System", "source"]

Sources = Mapping[str, Mapping[str, str]]
"""workload to {file name: text}: the app that serves it."""


def source(text: str) -> str:
    """Code written indented inside of an adapter."""
    return dedent(text).lstrip("\n")


class System(ABC):
    """One system in one configuration.

    name: as on the command line.  title: what it is, one line.
    environment: the virtual environment it lives in (may be shared by several configurations); None for the
        interpreter that runs the harness.
    requirements: what pip installs there; extras: more of it, for single workloads.
    packages: whose versions are reported.
    start_s: how long it may take to its first answer.
    """

    name: str
    title: str
    environment: str | None = None
    requirements: tuple[str, ...] = ()
    extras: Mapping[str, tuple[str, ...]] = {}
    packages: tuple[str, ...] = ()
    start_s: float = 60.0
    sources: Sources = {}

    def serves(self, workload: str) -> bool:
        return workload in self.sources

    def site(self, python: Path, workload: str, environment: Mapping[str, str] | None = None) -> Site:
        """A place with the app's files, not started yet."""
        return Site(python, self.sources[workload], workload, {**self.settings(workload), **(environment or {})})

    def settings(self, workload: str) -> Mapping[str, str]:
        """Environment variables of all of its processes."""
        return {}

    @abstractmethod
    def start(self, site: Site) -> None:
        """Spawn the processes; they listen on ``site.port`` of 127.0.0.1."""

    def probe(self, probe: Probe) -> Probe:
        """*probe* as this system wants it written."""
        return probe

    def passes_on(self, command_line: str) -> bool:
        """Whether a process started like this passes requests on and runs no user code.  False where that is not known,
        or not told apart."""
        return False

    def caller(self, site: Site, calls: str) -> Sequence[str]:
        """The command of a process that calls the echo app by this system's handles; *calls* is its code (see
        workloads/handle.py), to which the adapter adds ``connect()`` and ``leave()``.

        Raises NotRun without handles."""
        raise NotRun("it has no handles, or its adapter does not know them")

    def with_deadline(self, path: str, milliseconds: float) -> str:
        """*path* with a deadline, for systems that have a way to say so."""
        return path
