"""The window of one streamed answer, seen from the code that produces it."""

from __future__ import annotations

import asyncio
import threading

from ..wire.flow import PIECE_COST, WINDOW

__all__ = ["Flow"]


class Flow:
    """How far the producer is ahead of the client, in the units of :mod:`zserve.wire.flow`.

    The producer calls :meth:`wait` in a thread or :meth:`wait_async` on the loop before each piece, and :meth:`sent`
    with it; the loop calls :meth:`consumed` and :meth:`cancel`.
    """

    __slots__ = ("_changed", "_consumed", "_sent", "_waiter", "cancelled")

    def __init__(self) -> None:
        self.cancelled = False
        self._sent = 0
        self._consumed = 0
        self._changed = threading.Condition()
        self._waiter: asyncio.Future[None] | None = None

    @property
    def ahead(self) -> int:
        """What is on its way."""
        return self._sent - self._consumed

    def sent(self, size: int) -> None:
        """A piece of *size* bytes is on its way."""
        self._sent += size + PIECE_COST

    def wait(self) -> bool:
        """Block until there is room; False when nobody wants the answer any more."""
        if self._sent - self._consumed < WINDOW or self.cancelled:
            return not self.cancelled
        with self._changed:
            while self._sent - self._consumed >= WINDOW and not self.cancelled:
                self._changed.wait()
        return not self.cancelled

    async def wait_async(self) -> bool:
        """The same on the loop."""
        while self._sent - self._consumed >= WINDOW and not self.cancelled:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return not self.cancelled

    def consumed(self, total: int) -> None:
        """The client has taken *total* so far.  What is not more than before, or more than was sent, changes nothing:
        it came late, or from someone who cannot count."""
        if self._consumed < total <= self._sent:
            with self._changed:
                self._consumed = total
                self._changed.notify_all()
            self._wake()

    def cancel(self) -> None:
        """Nobody wants the answer any more."""
        with self._changed:
            self.cancelled = True
            self._changed.notify_all()
        self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
