"""A clock that jumps: nothing ever waits, time goes from one event to the next."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Any

__all__ = ["START_MS", "Overrun", "VirtualClock"]

START_MS = 1_700_000_000_000
"""The time of day at virtual time 0, milliseconds since the epoch."""


class Overrun(AssertionError):
    """More happened than can be right: messages beget messages without end."""


class VirtualClock:
    """Events by time; those of one instant happen in the order in which they were asked for.

    now: seconds since the start.  max_events: more raise :class:`Overrun`.  There is no way to take an event back: who
    asked for it looks whether it still matters, as a process does that gets a signal too late.
    """

    __slots__ = ("_heap", "_sequence", "events", "max_events", "now")

    def __init__(self) -> None:
        self.now = 0.0
        self.events = 0
        self.max_events = 1 << 62
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._sequence = 0

    def at(self, when: float, callback: Callable[..., None], *args: Any) -> None:
        """Have *callback* called at *when* (seconds); now, if that has passed."""
        self._sequence += 1
        heapq.heappush(self._heap, (when, self._sequence, callback, args))

    def after(self, delay_s: float, callback: Callable[..., None], *args: Any) -> None:
        self._sequence += 1
        heapq.heappush(self._heap, (self.now + delay_s, self._sequence, callback, args))

    def run_until(self, end: float, stop: Callable[[], bool] | None = None) -> bool:
        """Let everything happen that is due until *end*, or until *stop* says so, which is asked after each event.

        True if *stop* did.
        """
        heap = self._heap
        pop = heapq.heappop
        while heap and heap[0][0] <= end:
            when, _, callback, args = pop(heap)
            if when > self.now:
                self.now = when
            self.events += 1
            if self.events > self.max_events:
                raise Overrun(f"more than {self.max_events} events in {self.now:.3f} s of virtual time")
            callback(*args)
            if stop is not None and stop():
                return True
        if end > self.now and end != math.inf:
            self.now = end
        return False

    def __len__(self) -> int:
        return len(self._heap)
