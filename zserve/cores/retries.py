"""How much may be tried again, and when: a share of the requests, so that retries never become the load."""

from __future__ import annotations

import heapq
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..scheduling.backend_queue import BackendQueue, Entry

__all__ = ["BACK_OFF_S", "MAX_ATTEMPTS", "BackOff", "RetryBudget"]

MAX_ATTEMPTS = 3
"""How often one request is sent to a replica, at most."""
BACK_OFF_S = 0.2
"""How long a request waits that has met two replicas that died, on average; half as long again at the most."""


class RetryBudget:
    """A token bucket that requests fill and retries empty (Google SRE book, "Handling overload").

    share: tokens that a request brings; burst: how many there are at first, and at most.
    """

    __slots__ = ("_burst", "_share", "tokens")

    def __init__(self, share: float = 0.1, burst: float = 100.0) -> None:
        self._share = share
        self._burst = burst
        self.tokens = burst

    @property
    def full(self) -> bool:
        return self.tokens >= self._burst

    def earn(self) -> None:
        """A request has come."""
        if self.tokens < self._burst:
            self.tokens += self._share

    def spend(self) -> bool:
        """Take a token for a retry, if there is one."""
        if self.tokens < 1.0:
            return False
        self.tokens -= 1.0
        return True


class BackOff:
    """Requests that are not tried again at once.  Whether one is still wanted when its time has come, is for the router
    to see."""

    __slots__ = ("_heap", "_number", "_rng")

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._number = 0
        self._heap: list[tuple[float, int, Entry, BackendQueue]] = []

    def add(self, entry: Entry, queue: BackendQueue, now: float) -> None:
        """It waits for twice as long with each attempt after the second, give or take half of it."""
        self._number += 1
        wait_s = BACK_OFF_S * 2.0 ** (entry.attempt - 2) * self._rng.uniform(0.5, 1.5)
        heapq.heappush(self._heap, (now + wait_s, self._number, entry, queue))

    def due(self, now: float) -> list[tuple[Entry, BackendQueue]]:
        """Those whose time has come."""
        found = []
        while self._heap and self._heap[0][0] <= now:
            _, _, entry, queue = heapq.heappop(self._heap)
            found.append((entry, queue))
        return found

    def drain(self) -> list[Entry]:
        """All of them, in the order they came."""
        entries = [entry for _, _, entry, _ in sorted(self._heap, key=lambda waiting: waiting[1])]
        self._heap = []
        return entries

    def next(self) -> float | None:
        """When the next one is due."""
        return self._heap[0][0] if self._heap else None
