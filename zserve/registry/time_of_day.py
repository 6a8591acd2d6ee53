"""The time of day, from a clock that people and NTP set.

What sets it may be wrong, and what it said at the start may have been wrong, too.  So there are two readings: what the
clock says now, and what it would say if nobody had set it since this process began.  A stamp is made of the earlier
one, and a stamp of somebody else is believed up to the later one (see :mod:`.clock`).  So a clock that is set by an
hour while a node runs, to either side, right or wrong, neither makes stamps that others have to refuse, nor refuses
theirs:

    running, set forward, wrongly   stamps by the reading from before
    running, set back, wrongly      stamps go on from the last one; others are believed by the reading from before
    was slow at the start, put right    others are believed by what the clock says now
    was fast at the start, put right    stamps by what the clock says now
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

__all__ = ["STEP_S", "TimeOfDay"]

STEP_S = 10.0
"""By so much the clock has been set for it to be mentioned."""

log = logging.getLogger("zserve.clock")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _running_ms() -> int:
    # Where there is one, the clock that goes on while the machine sleeps.
    boot_time = getattr(time, "CLOCK_BOOTTIME", None)
    return (time.monotonic_ns() if boot_time is None else time.clock_gettime_ns(boot_time)) // 1_000_000


class TimeOfDay:
    """Milliseconds since the epoch.  *now_ms* is the clock that may be set, *running_ms* one that only goes on."""

    def __init__(self, now_ms: Callable[[], int] = _now_ms, running_ms: Callable[[], int] = _running_ms) -> None:
        self._now_ms = now_ms
        self._running_ms = running_ms
        self._offset_ms = now_ms() - running_ms()
        self._told_ms = 0

    def earliest_ms(self) -> int:
        return min(self._now_ms(), self._running_ms() + self._offset_ms)

    def latest_ms(self) -> int:
        return max(self._now_ms(), self._running_ms() + self._offset_ms)

    def look(self) -> None:
        """Mention it in the log if the clock has been set since the last look."""
        step_ms = self._now_ms() - self._running_ms() - self._offset_ms
        if abs(step_ms - self._told_ms) >= STEP_S * 1000:
            by_s = (step_ms - self._told_ms) / 1000
            self._told_ms = step_ms
            log.warning(
                "the clock of this machine was set %s by %.0f s; deadlines do not depend on it, and config is stamped "
                "by the earlier of the two times",
                "forward" if by_s > 0 else "back",
                abs(by_s),
            )
