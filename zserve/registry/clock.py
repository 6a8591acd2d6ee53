"""The hybrid logical clock that orders writes.

Kulkarni et al., "Logical Physical Clocks and Consistent Snapshots in Globally Distributed Databases" (2014): a stamp is
never behind any stamp seen before, and stays close to the wall clock.  A stamp is one integer, milliseconds since the
epoch << 16 | counter; a counter that overflows borrows from the next millisecond.
"""

from __future__ import annotations

__all__ = ["MAX_AHEAD_MS", "HybridClock", "stamp_ms"]

MAX_AHEAD_MS = 60_000
"""How far ahead of the own wall clock a remote stamp may be.  Without this bound, one node with a fast clock would win
every conflict and drag the clocks of all others along."""


def stamp_ms(stamp: int) -> int:
    """The wall-clock part of a stamp, in milliseconds since the epoch."""
    return stamp >> 16


class HybridClock:
    """Issues stamps for own writes and takes note of those of others.  The wall clock is handed in."""

    __slots__ = ("last", "max_ahead_ms")

    def __init__(self, max_ahead_ms: int = MAX_AHEAD_MS) -> None:
        self.last = 0
        self.max_ahead_ms = max_ahead_ms

    def tick(self, wall_ms: int) -> int:
        """A new stamp, later than every one issued or observed so far."""
        self.last = max(self.last + 1, wall_ms << 16)
        return self.last

    def ahead_ms(self, stamp: int, wall_ms: int) -> int:
        """By how much *stamp* is later than the wall clock (negative: earlier)."""
        return stamp_ms(stamp) - wall_ms

    def observe(self, stamp: int, wall_ms: int) -> bool:
        """Take note of a remote stamp.  False, and no change, if it is too far in the future to be believed."""
        if self.ahead_ms(stamp, wall_ms) > self.max_ahead_ms:
            return False
        if stamp > self.last:
            self.last = stamp
        return True
