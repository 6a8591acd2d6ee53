"""The processes of a simulated fabric, as ``/proc`` tells of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..channel.suspicion import ENDED, RUNS, STOPPED

if TYPE_CHECKING:
    from .hub import SimHub

__all__ = ["PID_SPACE", "Processes"]

PID_SPACE = 1
"""Of all nodes: who is on the same host can look at each other."""


class Processes:
    """What runs, by process id; no id is used twice."""

    def __init__(self) -> None:
        self._hubs: dict[int, SimHub] = {}
        self._last = 100

    def started(self, hub: SimHub) -> int:
        """The id of the process that runs *hub*."""
        self._last += 1
        self._hubs[self._last] = hub
        return self._last

    def ended(self, pid: int) -> None:
        self._hubs.pop(pid, None)

    def state_of(self, pid: int) -> str:
        """What a look at it tells."""
        hub = self._hubs.get(pid)
        if hub is None:
            return ENDED
        return STOPPED if hub.paused and not hub.hung else RUNS
