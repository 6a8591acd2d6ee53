"""Processes of this machine, looked at from outside: is one stopped, running or gone?  Only Linux tells."""

from __future__ import annotations

import os
from contextlib import suppress

from .suspicion import ENDED, RUNS, STOPPED, UNKNOWN

__all__ = ["pid_space", "process_state"]

_STOPPED = frozenset("Tt")
_ENDED = frozenset("ZXx")


def pid_space() -> int:
    """Names the table that this process's id is of, and the network it is in: containers on one machine have others.
    The network too, for a neighbour that cannot be reached is no different from one far away.  0: not known."""
    with suppress(OSError):
        return os.stat("/proc/self/ns/pid").st_ino << 32 | os.stat("/proc/self/ns/net").st_ino
    return 0


def process_state(pid: int) -> str:
    """One of STOPPED, RUNS (or sleeps), ENDED, UNKNOWN: one small read from /proc."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read(512)
    except FileNotFoundError:
        return ENDED if os.path.exists("/proc/self/stat") else UNKNOWN
    except OSError as error:
        return ENDED if isinstance(error, ProcessLookupError) else UNKNOWN
    # "pid (name) state ...", and the name may have brackets and spaces in it.
    state = text.rpartition(b")")[2].split()[:1]
    if not state:
        return UNKNOWN
    letter = state[0].decode("ascii", "replace")
    return STOPPED if letter in _STOPPED else ENDED if letter in _ENDED else RUNS
