"""Busy polling: look for the next message again and again for a while, before sleeping until it comes.

Whoever sleeps has to be woken up, and where its processor has halted meanwhile, that takes tens of microseconds, for
this thread and for every other one that is to run there.  Where the next message comes sooner than such things take,
it is better to stay awake.  Whether it will come so soon is told by how soon those before it came, as in "Empirical
Studies of Competitive Spinning for a Shared-Memory Multiprocessor" (Karlin, Li, Manasse and Owicki, SOSP 1991), and as
KVM does it before it halts the processor of a guest.
"""

from __future__ import annotations

from collections.abc import Callable
from os import sched_yield
from time import monotonic
from typing import Protocol

__all__ = ["POLL_S", "SHORT_WAITS", "TAKEN_S", "BusyPoll", "wait"]

POLL_S = 0.001
"""How long to poll, at most; a wait that ends within this time is a short one."""
SHORT_WAITS = 8
"""After so many short waits polling is worth a try."""
_MEMORY = 32
TAKEN_S = 0.0003
"""When the processor was given to others between two looks, and comes back only after this time, it is wanted more
urgently by them."""


class BusyPoll:
    """How long to poll in the next wait.  Pure.

    Counts short waits, up to four times as many as are needed to begin.  A long one, and one in which others wanted the
    processor, halves the count: where waits become long, polling ends with the third of them.
    """

    __slots__ = ("_short", "allowed")

    def __init__(self, *, allowed: bool = True) -> None:
        self.allowed = allowed
        self._short = 0

    @property
    def limit_s(self) -> float:
        """How long to poll before sleeping, 0 for not at all."""
        return POLL_S if self.allowed and self._short >= SHORT_WAITS else 0.0

    def waited(self, wait_s: float, *, crowded: bool = False) -> None:
        """It took *wait_s* until there was something; *crowded*: others took the processor for long meanwhile."""
        if crowded or wait_s > POLL_S:
            self._short //= 2
        elif self._short < _MEMORY:
            self._short += 1


class _Poll(Protocol):
    """``select.poll``."""

    def poll(self, timeout: float | None = None, /) -> list[tuple[int, int]]: ...


def wait(poll: _Poll, policy: BusyPoll, now: Callable[[], float] = monotonic) -> list[tuple[int, int]]:
    """Wait until there is something, however long that takes, first awake and then asleep.  Returns what there is."""
    began = looked_at = now()
    until = began + policy.limit_s
    crowded = False
    found: list[tuple[int, int]] = []
    while looked_at < until and not crowded:
        sched_yield()  # to whoever else has something to do on this processor: this thread has not
        if found := poll.poll(0):
            break
        before, looked_at = looked_at, now()
        crowded = looked_at - before > TAKEN_S
    if not found:
        found = poll.poll()
    policy.waited(now() - began, crowded=crowded)
    return found
