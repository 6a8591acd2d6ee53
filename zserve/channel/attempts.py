"""How patiently a router is dialled that nobody gets a link with."""

from __future__ import annotations

import random

__all__ = ["Attempts"]

_LONGEST = 10


class Attempts:
    """Failures in a row, for each address.  *rng* spreads the attempts of nodes that fail together."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._failures: dict[str, int] = {}

    def succeeded(self, address: str) -> None:
        """There is a link."""
        self._failures.pop(address, None)

    def failed(self, address: str, ways: int = 1) -> bool:
        """An attempt ended without a link; *ways*: how many different ones there are to try.

        True when it is time to tell somebody: once all of them have failed twice, and not again."""
        failures = self._failures[address] = self._failures.get(address, 0) + 1
        return failures == 2 * ways

    def pause_s(self, address: str, ways: int = 1) -> float:
        """Seconds until the next one: short after a link, longer and longer where there is none, at most 3."""
        rounds = self._failures.get(address, 0) // ways
        return self._rng.uniform(0.02, 0.3) * min(_LONGEST, 1 << min(4, max(0, rounds - 2)))
