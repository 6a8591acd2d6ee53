"""Waiting for a machine that has nothing else to do."""

from __future__ import annotations

import time

from . import procfs

__all__ = ["wait_for_calm"]

CALM = 0.15
"""Of one processor, used by anything."""

_LOOK_S = 0.5


def wait_for_calm(limit_s: float) -> bool:
    """True once the machine has been idle for half a second, False after *limit_s*; 0 does not look at all."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        before, began = procfs.busy_seconds(), time.monotonic()
        time.sleep(_LOOK_S)
        if procfs.busy_seconds() - before < CALM * (time.monotonic() - began):
            return True
    return False
