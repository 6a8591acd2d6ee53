"""How much a replica takes on at a time: from its config, from what its handler is, and from how long calls take."""

from __future__ import annotations

from collections.abc import Sequence

from ..config import BackendConfig
from ..scheduling.credits import AHEAD_S, derive_capacity

__all__ = ["ASYNC_DEFAULT", "LONG_RUN_S", "MAX_AHEAD", "MAX_THREADS", "Pace"]

MAX_THREADS = 512
"""Threads of one replica, however large max_concurrent_queries is."""
ASYNC_DEFAULT = 100
"""Concurrent calls of an ``async def`` backend that sets no max_concurrent_queries."""
MAX_AHEAD = 64
"""Runs given to the executor beyond those that can run at once."""
LONG_RUN_S = 0.020
"""Runs that take longer than this are not given ahead."""
QUICK_RUN_S = 0.0005
QUICK_RUNS = 16
"""After so many runs in succession that took no longer than this, calls count as quick."""


class Pace:
    """Three numbers, and the moving averages (a tenth for the newest) that they follow.

    batch: the largest run, in calls.  threads: how many sync runs may be in user code at a time.  run_s, call_s:
    seconds that a run takes, and a call's share of it; 0 before the first.
    """

    __slots__ = (
        "_accepts_batch", "_asynchronous", "_derived_for_s", "_mixed", "_quick_runs",
        "batch", "call_s", "config", "run_s", "threads",
    )  # fmt: skip

    def __init__(self, config: BackendConfig, *, accepts_batch: bool, asynchronous: bool, mixed: bool = False) -> None:
        """*asynchronous*: the main callable is; *mixed*: other methods are of the other kind."""
        self._accepts_batch = accepts_batch
        self._asynchronous = asynchronous
        self._mixed = mixed
        self._derived_for_s = 0.0
        self._quick_runs = 0
        self.run_s = 0.0
        self.call_s = 0.0
        self.apply(config)

    def apply(self, config: BackendConfig) -> None:
        """The config is now this one."""
        self.config = config
        self.batch = (config.max_batch_size or 1) if self._accepts_batch else 1
        limit = config.max_concurrent_queries
        threaded = self._mixed or not self._asynchronous
        self.threads = 1 if limit is None or not threaded else min(MAX_THREADS, -(-limit // self.batch))

    def learn(self, times: Sequence[float], calls: int = 1) -> None:
        """Runs of *calls* calls each took so many seconds, in this order."""
        count = len(times)
        quick = count
        if max(times) > QUICK_RUN_S:
            quick = next(number for number, run_s in enumerate(reversed(times)) if run_s > QUICK_RUN_S)
            self._quick_runs = 0
        self._quick_runs += quick
        mean_s = sum(times) / count
        if self.run_s == 0.0:
            self.run_s, self.call_s = mean_s, mean_s / calls
        else:
            # So many steps towards their mean: nearly the same as one towards each, but for the order among them.
            weight = 1.0 - 0.9**count
            self.run_s += weight * (mean_s - self.run_s)
            self.call_s += weight * (mean_s / calls - self.call_s)

    @property
    def quick(self) -> bool:
        """Whether runs are so short that whoever calls the user's code may as well do all the rest, too."""
        return self._quick_runs >= QUICK_RUNS and self.threads == 1 and not (self._asynchronous or self._mixed)

    @property
    def changed(self) -> bool:
        """Whether calls take so much longer or shorter than before that the capacity is worth deriving anew."""
        return not 0.7 * self._derived_for_s <= self.call_s <= 1.4 * self._derived_for_s

    def capacity(self) -> int:
        """How many calls to hold at a time, over all routers together."""
        self._derived_for_s = self.call_s
        if self.config.max_concurrent_queries is None and (self._asynchronous or self._mixed):
            return max(ASYNC_DEFAULT, 2 * self.batch)
        return derive_capacity(self.config, self.threads, self.call_s)

    def runs(self, capacity: int) -> int:
        """How many runs the executor should have: those that can run at once, and a few ahead of short ones."""
        if self._asynchronous:
            return -(-capacity // self.batch)
        if self._mixed:
            return self.threads  # the averages are of both kinds together
        run_s = self.run_s
        if run_s > LONG_RUN_S:
            return self.threads
        return self.threads + (min(MAX_AHEAD, 1 + int(AHEAD_S / run_s)) if run_s else 1)

    def at_once(self, capacity: int) -> int:
        """How many runs of the main callable can be in user code at a time."""
        return -(-capacity // self.batch) if self._asynchronous else self.threads

    def other_runs(self, capacity: int) -> int:
        """The same for the methods of the other kind."""
        return self.threads if self._asynchronous else -(-capacity // self.batch)
