"""The runs that a replica holds and has not given to the executor."""

from __future__ import annotations

import heapq

from ..handler.runs import HeldCall, Run

__all__ = ["PATIENCE_S", "WaitingRuns", "expired_calls"]

PATIENCE_S = 1.0
"""A call without a deadline sorts as if it had this one."""

_NEVER = float("inf")


class WaitingRuns:
    """A heap, earliest deadline first.  *next_expiry*: when a call in it may pass its deadline, seconds."""

    __slots__ = ("_sequence", "heap", "largest", "next_expiry")

    def __init__(self) -> None:
        self.heap: list[tuple[float, int, Run]] = []
        self.next_expiry = _NEVER
        self.largest = 0
        """Calls of the largest run that was ever here."""
        self._sequence = 0

    def push(self, run: Run) -> None:
        self._sequence += 1
        deadline = run.deadline
        if deadline < self.next_expiry:
            self.next_expiry = deadline
        elif deadline == _NEVER:
            deadline = run.calls[0].arrived + PATIENCE_S
        if len(run.calls) > self.largest:
            self.largest = len(run.calls)
        heapq.heappush(self.heap, (deadline, self._sequence, run))

    def pop(self) -> Run:
        """The most urgent one; look at its calls for expired ones."""
        return heapq.heappop(self.heap)[2]

    def expire(self, now: float) -> list[HeldCall]:
        """Take out the calls whose deadline has passed, wherever on the heap they stand."""
        expired: list[HeldCall] = []
        alive = []
        for entry in self.heap:
            run = entry[2]
            if run.deadline <= now:
                expired += expired_calls(run, now)
            if run.calls:
                alive.append(entry)
        heapq.heapify(alive)
        self.heap = alive
        self.next_expiry = min((entry[2].deadline for entry in alive), default=_NEVER)
        return expired

    def clear(self) -> list[HeldCall]:
        """Take out everything."""
        calls = [call for _, _, run in self.heap for call in run.calls]
        self.heap.clear()
        return calls


def expired_calls(run: Run, now: float) -> list[HeldCall]:
    """Take the calls of *run* whose deadline has passed out of it."""
    expired = [call for call in run.calls if call.deadline <= now]
    run.calls = [call for call in run.calls if call.deadline > now]
    run.deadline = min((call.deadline for call in run.calls), default=_NEVER)
    return expired
