"""Calls and runs: what the replica's core and the executor hand to each other.

A *call* is one request; a *run* is one call of the user's code, with one call in it or, for a batchable callable, up to
a batch of them.  The two are shared by the event loop and the threads that run user code without a lock: each field has
one writer (the core; but ``started`` and ``ended`` the executor, before it reports the run), and whether a run that was
given to the executor is started or taken back is decided by :meth:`Run.claim`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..channel.outbox import Peer
from ..wire.messages import Call
from .flow import Flow

__all__ = ["HeldCall", "Run"]


class HeldCall:
    """One request that this replica holds and has not answered.

    waiters: the router links that sent it; each is owed one Result.  cancelled: those of them that no longer want it.
    gone: links that sent it and have ended since.
    deadline: seconds on the node's clock, infinity for none.  unwanted_at: since when nobody has waited for it.

    request: what the handler is going to be given, if that was made ahead.

    What few calls ever change stands in the class.
    """

    request: Any = None

    gone: Sequence[Peer] = ()
    cancelled: set[Peer] | None = None
    unwanted_at = float("inf")
    run: Run | None = None

    def __init__(self, call: Call, head: bytes, body: bytes, peer: Peer, deadline: float, arrived: float) -> None:
        self.id = call.id
        self.endpoint = call.endpoint
        self.flags = call.flags
        self.method = call.method
        self.head = head
        self.body = body
        self.deadline = deadline
        self.arrived = arrived
        self.waiters = [peer]

    def unwanted_since(self) -> float:
        """From when on nobody waits for the answer: cancelled by all, or past its deadline."""
        return min(self.deadline, self.unwanted_at)


class Run:
    """One call of the user's code.

    deadline, last_deadline: the tightest and the latest deadline of its calls.  given: when it was handed to the
    executor (0: not yet).  aborted: its coroutine was asked to stop.  started, ended: when the user's code was called
    and when it was done, seconds of ``time.monotonic`` (the node's clock).  other: it is of the kind (sync or async)
    that the backend's main callable is not.  flow: of a streamed answer, set by the driver.  streams: the number of
    the next Chunk, once a streamed answer has begun (the core's).
    """

    given = 0.0
    started = 0.0
    ended = 0.0
    aborted = False
    other = False
    flow: Flow | None = None
    streams = 0

    def __init__(self, calls: list[HeldCall]) -> None:
        first = calls[0]
        self.calls = calls
        self.method = first.method
        if len(calls) == 1:
            self.deadline = self.last_deadline = first.deadline
            first.run = self
        else:
            for call in calls:
                call.run = self
            self.deadline = min([call.deadline for call in calls])
            self.last_deadline = max([call.deadline for call in calls])
        self._ticket = [None]

    def claim(self) -> bool:
        """True for the first who asks: the thread that is about to start the run, or the core that takes it back.

        Taking an item off a list is atomic, so a run that is sent back to its router has not been and will not be
        started, whatever the threads are doing meanwhile.
        """
        try:
            self._ticket.pop()
        except IndexError:
            return False
        return True

    def unwanted_since(self) -> float:
        """From when on nobody waits for any answer of this run."""
        return max([call.unwanted_since() for call in self.calls], default=0.0)
