"""How far a node may trust its own ears: the local health score of Lifeguard (arXiv 1707.00788).

A process that is starved of time, or was stopped, hears nobody, and would take everybody for dead.  So it keeps a score
of what speaks against itself, and the higher that is the more time it gives to others.
"""

from __future__ import annotations

from math import inf

__all__ = ["LATE_S", "MAX_SCORE", "LocalHealth"]

MAX_SCORE = 8
LATE_S = 0.25
"""Whoever looks at the clock later than this after the time at which he was due is late."""
_HALF_WAY = 4.0


class LocalHealth:
    """A score from 0 (well) to :data:`MAX_SCORE`.

    Raised by own lateness, one for each second of it begun, and by a suspicion that turned out to be wrong, one a
    heartbeat at most; lowered by one with each heartbeat that was on time and without such news.

    Lateness shows at each heartbeat, but heartbeats alone overlook a stall that ends when the next one is due; so
    whoever can, looks at the clock more often (:meth:`look`).
    """

    __slots__ = ("_beat_due", "_late_s", "_look_due", "_refuted", "score")

    def __init__(self) -> None:
        self.score = 0
        self._beat_due = inf
        self._look_due = inf
        self._late_s = 0.0  # since the last heartbeat
        self._refuted = False

    @property
    def patience(self) -> float:
        """What to multiply the times with that others are given: 1 to 3."""
        return 1.0 + self.score / _HALF_WAY

    def beat(self, now: float, every_s: float) -> float:
        """A heartbeat of one's own, the next one is due in *every_s*.  Returns what :meth:`look` does."""
        late_s = self._lateness(now)
        self._beat_due = now + every_s
        worse = (1 + int(min(self._late_s, MAX_SCORE)) if self._late_s else 0) + self._refuted
        self._late_s = 0.0
        self._refuted = False
        self.score = min(MAX_SCORE, self.score + worse) if worse else max(0, self.score - 1)
        return late_s

    def look(self, now: float, every_s: float) -> float:
        """A look at the clock, the next one is due in *every_s*.

        Returns the seconds by which this one is late, 0 for what is normal and for what was returned before."""
        late_s = self._lateness(now)
        self._look_due = now + every_s
        return late_s

    def _lateness(self, now: float) -> float:
        late_s = now - min(self._beat_due, self._look_due)
        if late_s <= LATE_S:
            return 0.0
        self._beat_due = max(self._beat_due, now)
        self._look_due = max(self._look_due, now)
        self._late_s += late_s
        return late_s

    def refuted(self) -> None:
        """A node that was suspected here had been heard elsewhere all the time."""
        self._refuted = True
