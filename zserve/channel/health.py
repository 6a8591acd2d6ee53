"""How far a node may trust its own ears: the local health score of Lifeguard (arXiv 1707.00788).

A process that is starved of time, or was stopped, hears nobody, and would take everybody for dead.  So it keeps a score
of what speaks against itself, and the higher that is the more time it gives to others.
"""

from __future__ import annotations

__all__ = ["LATE_S", "MAX_SCORE", "LocalHealth"]

MAX_SCORE = 8
LATE_S = 0.25
"""A heartbeat of one's own that is later than this counts as late."""
_HALF_WAY = 4.0


class LocalHealth:
    """A score from 0 (well) to :data:`MAX_SCORE`.

    Raised by own lateness, one for each second of it begun, and by a suspicion that turned out to be wrong, one a
    heartbeat at most; lowered by one with each heartbeat that was on time and without such news.
    """

    __slots__ = ("_due", "_refuted", "score")

    def __init__(self) -> None:
        self.score = 0
        self._due: float | None = None
        self._refuted = False

    @property
    def patience(self) -> float:
        """What to multiply the times with that others are given: 1 to 3."""
        return 1.0 + self.score / _HALF_WAY

    def beat(self, now: float, every_s: float) -> float:
        """A heartbeat of one's own, the next one is due in *every_s*; how late it is, 0 for what is normal."""
        late_s = 0.0 if self._due is None else now - self._due
        self._due = now + every_s
        if late_s <= LATE_S:
            late_s = 0.0
        worse = (1 + int(min(late_s, MAX_SCORE)) if late_s else 0) + self._refuted
        self._refuted = False
        self.score = min(MAX_SCORE, self.score + worse) if worse else max(0, self.score - 1)
        return late_s

    def refuted(self) -> None:
        """A node that was suspected here had been heard elsewhere all the time."""
        self._refuted = True
