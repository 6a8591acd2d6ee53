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
from time import monotonic, thread_time
from typing import Protocol

from .loop import Loop

__all__ = ["LONGEST_S", "POLL_S", "TAKEN_S", "BusyPoll", "Wakeful", "wait"]

POLL_S = 0.001
"""How long to poll in one wait, at most, and how long waits may take on average for that to be worth it."""
LONGEST_S = 0.016
"""A wait counts for no more than this, so that a single one does not end it for long."""
_NEWEST = 1 / 32
TAKEN_S = 0.002
"""Whoever gives the processor to others between two looks, and has it back only after this time, is in the way of some
who have much to do; and when a message comes, he has to wait for them, where one who has slept would not."""


class BusyPoll:
    """How long to poll in the next wait.  Pure.

    It depends on a moving average of the waits (a thirty-second for the newest): polling ends with the second of two
    long silences, and where fewer than a thousand messages come in a second, there is none.
    """

    __slots__ = ("_mean_s", "allowed")

    def __init__(self, *, allowed: bool = True) -> None:
        self.allowed = allowed
        self._mean_s = LONGEST_S

    @property
    def limit_s(self) -> float:
        """How long to poll before sleeping, 0 for not at all."""
        return POLL_S if self.allowed and self._mean_s <= POLL_S else 0.0

    def waited(self, wait_s: float) -> None:
        """It took *wait_s* until there was something."""
        self._mean_s += _NEWEST * (min(wait_s, LONGEST_S) - self._mean_s)

    def crowded(self) -> None:
        """In this wait the processor was given to others, who took it for long."""
        self.waited(LONGEST_S)


class _Poll(Protocol):
    """``select.poll``; *timeout* in milliseconds."""

    def poll(self, timeout: float | None = None, /) -> list[tuple[int, int]]: ...


def wait(
    poll: _Poll,
    policy: BusyPoll,
    now: Callable[[], float] = monotonic,
    give_way: Callable[[], None] = sched_yield,
    *,
    awake: bool = True,
    after_s: float = 0.0,
    meanwhile: Callable[[], bool] | None = None,
) -> list[tuple[int, int]]:
    """Wait until there is something, however long that takes, first awake (if *awake*) and then asleep.  Returns what
    there is.

    give_way: lets other threads have the processor.  meanwhile: to be called after *after_s* seconds of sleep; where it
    says so, there is something already that *poll* does not know of.
    """
    began = looked_at = now()
    until = began + policy.limit_s if awake else began
    crowded = False
    found: list[tuple[int, int]] = []
    while looked_at < until and not crowded:
        give_way()  # to whoever else has something to do on this processor: this thread has not
        before, looked_at = looked_at, now()
        crowded = looked_at - before > TAKEN_S
        if found := poll.poll(0):
            break
    heard = False
    if not found and meanwhile is not None:
        found = poll.poll(1000.0 * after_s)
        heard = not found and meanwhile()
    if not found and not heard:
        found = poll.poll()
    if crowded:
        policy.crowded()
    else:
        policy.waited(now() - began)
    return found


class Wakeful:
    """Lets an event loop poll: as long as it is worth it, each round of the loop calls for another one.

    now: the clock; used: seconds of processor time that the loop's thread has used; give_way: as for :func:`wait`.
    """

    def __init__(
        self,
        loop: Loop,
        policy: BusyPoll,
        now: Callable[[], float] = monotonic,
        used: Callable[[], float] = thread_time,
        give_way: Callable[[], None] = sched_yield,
    ) -> None:
        self._loop = loop
        self._policy = policy
        self._now = now
        self._used = used
        self._give_way = give_way
        self._happened_at = now()
        self._looked_at = self._happened_at
        self._used_then = used()  # when it went to sleep
        self._polling = False

    def happened(self) -> None:
        """To be called in the loop's thread, when something that was waited for has been dealt with."""
        now = self._now()
        if self._polling:
            self._policy.waited(self._looked_at - self._happened_at)
        else:  # asleep, but for the time that it took to deal with what has come
            used = self._used()
            self._policy.waited(now - self._happened_at - (used - self._used_then))
            self._used_then = used
        self._happened_at = now
        self._looked_at = now
        if not self._polling and self._policy.limit_s:
            self._polling = True
            self._loop.call_soon(self._look_on)

    def _look_on(self) -> None:
        before = self._now()
        if before - self._happened_at < self._policy.limit_s:
            self._give_way()
            self._looked_at = now = self._now()
            if now - before <= TAKEN_S:
                self._loop.call_soon(self._look_on)
                return
            self._policy.crowded()
        self._polling = False
        self._used_then = self._used()
