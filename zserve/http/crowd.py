"""Connections that are turned away because there are too many: told in the log once, not once for each."""

from __future__ import annotations

import logging

__all__ = ["CALM_S", "Crowd"]

CALM_S = 10.0
"""Nobody turned away for so long: it is over."""

log = logging.getLogger("zserve.http")


class Crowd:
    """*now* is seconds of a clock that never goes back.  turned_away: connections, since the start."""

    def __init__(self) -> None:
        self.turned_away = 0
        self._before = 0
        self._latest = -1.0

    def turn_away(self, reason: str, client: str, now: float) -> None:
        """A connection of *client* is refused."""
        self.turned_away += 1
        if self._latest < 0.0:
            log.warning("connections are refused: %s (the first one: %s)", reason, client or "unknown")
        self._latest = now

    def look(self, now: float) -> None:
        """Once a second: is it over?"""
        if 0.0 <= self._latest < now - CALM_S:
            self._latest = -1.0
            count, self._before = self.turned_away - self._before, self.turned_away
            log.warning("connections are taken again; %d were refused", count)
