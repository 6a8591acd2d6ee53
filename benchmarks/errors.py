"""What keeps a measurement from being made."""

from __future__ import annotations

__all__ = ["NotRun"]


class NotRun(Exception):
    """A system or a workload could not be measured; the text says why and goes into the report.

    It ends what it concerns, never the whole run.
    """
