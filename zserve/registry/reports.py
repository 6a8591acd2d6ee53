"""What the worker nodes say of their replicas, on every router.

Each worker node is the only writer of its report; ``(boot, serial)`` orders its versions.  It tells the routers that it
has links with, and these tell the others.
"""

from __future__ import annotations

from collections.abc import Container, Iterable

import msgspec

from ..wire.messages import Report

__all__ = ["Reports"]


class Reports:
    """The latest report of each worker node.  :attr:`version` grows with every change."""

    def __init__(self) -> None:
        self.version = 0
        self._reports: dict[bytes, Report] = {}

    def take(self, report: Report) -> bool:
        """Take in a report with ``worker``, ``boot`` and ``serial``.  False if it is not newer."""
        before = self._reports.get(report.worker)
        if before is not None and before.boot == report.boot and before.serial >= report.serial:
            return False
        self._reports[report.worker] = report
        self.version += 1
        return True

    def items(self) -> Iterable[tuple[bytes, Report]]:
        """(worker node, report)"""
        return self._reports.items()

    def signed(self, report: Report, worker: bytes, boot: bytes) -> Report:
        """*report* as it came on the link of its own worker node, fit to be passed on."""
        before = self._reports.get(worker)
        serial = report.serial or (1 if before is None or before.boot != boot else before.serial + 1)
        return msgspec.structs.replace(report, worker=worker, boot=boot, serial=serial)

    def versions(self, nodes: Container[bytes]) -> list[tuple[bytes, bytes, int]]:
        """(worker node, boot, serial) of the reports of *nodes*."""
        return [(key, report.boot, report.serial) for key, report in self._reports.items() if key in nodes]

    def newer_than(self, known: dict[tuple[bytes, bytes], int], nodes: Container[bytes]) -> list[Report]:
        """The reports of *nodes* that are newer than what somebody else knows."""
        return [
            report
            for key, report in self._reports.items()
            if key in nodes and report.serial > known.get((key, report.boot), 0)
        ]

    def forget_all_but(self, nodes: Container[bytes]) -> None:
        """Worker nodes that are in no view any more are gone."""
        for key in [key for key in self._reports if key not in nodes]:
            del self._reports[key]
            self.version += 1
