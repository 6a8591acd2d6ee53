"""How much may be tried again: a share of the requests, so that retries never become the load."""

from __future__ import annotations

__all__ = ["MAX_ATTEMPTS", "RetryBudget"]

MAX_ATTEMPTS = 3
"""How often one request is sent to a replica, at most."""


class RetryBudget:
    """A token bucket that requests fill and retries empty (Google SRE book, "Handling overload").

    share: tokens that a request brings; burst: how many there are at first, and at most.
    """

    __slots__ = ("_burst", "_share", "tokens")

    def __init__(self, share: float = 0.1, burst: float = 100.0) -> None:
        self._share = share
        self._burst = burst
        self.tokens = burst

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
