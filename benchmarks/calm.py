"""Waiting for a machine that has nothing else to do."""

from __future__ import annotations

import time

from . import procfs
from .site import Site

__all__ = ["wait_for_calm"]

CALM = 0.15
"""Of one processor."""

_LOOK_S = 0.5


def wait_for_calm(limit_s: float, site: Site | None = None) -> bool:
    """True once nobody but *site* has used the machine for half a second, False after *limit_s*; 0 does not look."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        before, began = _others(site), time.monotonic()
        time.sleep(_LOOK_S)
        if _others(site) - before < CALM * (time.monotonic() - began):
            return True
    return False


def _others(site: Site | None) -> float:
    return procfs.busy_seconds() - (site.cpu_seconds() if site is not None else 0.0)
