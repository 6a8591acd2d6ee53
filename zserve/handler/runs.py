"""Calls and runs: what the replica's core and the executor hand to each other.

A *call* is one request; a *run* is one call of the user's code, with one call in it or, for a batchable callable, up to
a batch of them.  The two are shared by the event loop and the threads that run user code without a lock: each field has
one writer (the core; but ``started`` and ``ended`` the executor, before it reports the run), and whether a run that was
given to the executor is started or taken back is decided by :meth:`Run.claim`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ..channel.outbox import Peer
from .flow import Flow

__all__ = ["HeldCall", "Run", "run_of"]


class HeldCall(msgspec.Struct, eq=False):
    """One request that this replica holds and has not answered.

    waiters: the router links that sent it; each is owed one Result.  cancelled: those of them that no longer want it.
    gone: links that sent it and have ended since.
    waited_us: how long it has waited at the router that sent it.
    deadline: seconds on the node's clock, infinity for none.  unwanted_at: since when nobody has waited for it.

    request: what the handler is going to be given, if that was made ahead.
    """

    id: bytes
    endpoint: str
    flags: int
    method: str
    head: bytes
    body: bytes
    deadline: float
    arrived: float
    waiters: list[Peer]
    waited_us: int = 0
    request: Any = None
    gone: Sequence[Peer] = ()
    cancelled: set[Peer] | None = None
    unwanted_at: float = float("inf")
    run: Run | None = None

    def unwanted_since(self) -> float:
        """From when on nobody waits for the answer: cancelled by all, or past its deadline."""
        return min(self.deadline, self.unwanted_at)


class Run(msgspec.Struct, eq=False):
    """One call of the user's code; :func:`run_of` makes one.

    deadline, last_deadline: the tightest and the latest deadline of its calls.  given: when it was handed to the
    executor (0: not yet).  aborted: its coroutine was asked to stop.  started, ended: when the user's code was called
    and when it was done, seconds of ``time.monotonic`` (the node's clock).  other: it is of the kind (sync or async)
    that the backend's main callable is not.  flow: of a streamed answer, set by the driver.  streams: the number of
    the next Chunk, once a streamed answer has begun (the core's).  ticket: what :meth:`claim` takes, in a list.
    """

    calls: list[HeldCall]
    method: str
    deadline: float
    last_deadline: float
    ticket: list[None]
    given: float = 0.0
    started: float = 0.0
    ended: float = 0.0
    aborted: bool = False
    other: bool = False
    flow: Flow | None = None
    streams: int = 0

    def claim(self) -> bool:
        """True for the first who asks: the thread that is about to start the run, or the core that takes it back.

        Taking an item off a list is atomic, so a run that is sent back to its router has not been and will not be
        started, whatever the threads are doing meanwhile.
        """
        try:
            self.ticket.pop()
        except IndexError:
            return False
        return True

    def unwanted_since(self) -> float:
        """From when on nobody waits for any answer of this run."""
        return max([call.unwanted_since() for call in self.calls], default=0.0)


def run_of(calls: list[HeldCall]) -> Run:
    """The run of *calls*, which have the same method."""
    first = calls[0]
    if len(calls) == 1:
        run = Run(calls, first.method, first.deadline, first.deadline, [None])
    else:
        deadlines = [call.deadline for call in calls]
        run = Run(calls, first.method, min(deadlines), max(deadlines), [None])
    for call in calls:
        call.run = run
    return run
