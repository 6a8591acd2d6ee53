"""A streamed answer on its way to the client: what has been written, and what the client has taken of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..wire.flow import ACKNOWLEDGE, PIECE_COST

if TYPE_CHECKING:
    from .front import HttpFront

__all__ = ["Outflow"]


class Outflow:
    """Writes pieces, and tells the core how far the client has come.

    While the transport is *paused* (its buffer is above its high-water mark because the client reads slowly) nothing is
    said; the replica then stops a window ahead, so what is held here is at most that and the transport's buffer.
    """

    __slots__ = (
        "_acknowledged",
        "_chunked",
        "_flight",
        "_front",
        "_transport",
        "_written",
        "moved_at",
        "paused",
        "seen",
    )

    def __init__(self, flight: Any, transport: Any, front: HttpFront, *, chunked: bool) -> None:
        self.paused = False
        self.moved_at = front.now()
        """When a piece last came, or the client last took something."""
        self.seen = 0
        """Bytes in the transport's buffer at the last look."""
        self._flight = flight
        self._transport = transport
        self._front = front
        self._chunked = chunked
        self._written = 0
        self._acknowledged = 0

    def write(self, body: bytes) -> None:
        """The next piece; b"" is none."""
        size = len(body)
        if not size:
            return
        self._written += size + PIECE_COST
        self.moved_at = self._front.now()
        if self._chunked:
            self._transport.writelines((b"%x\r\n" % size, body, b"\r\n"))
        else:
            self._transport.write(body)
        if not self.paused and self._written - self._acknowledged >= ACKNOWLEDGE:
            self._acknowledge()

    def finish(self) -> None:
        """It is complete."""
        if self._chunked:
            self._transport.write(b"0\r\n\r\n")

    def resume(self) -> None:
        """The transport has room again."""
        self.paused = False
        self.moved_at = self._front.now()
        if self._written - self._acknowledged >= ACKNOWLEDGE:
            self._acknowledge()

    def idle_s(self, now: float) -> float:
        """For how long nothing has moved: no piece from the handler, nothing taken by the client."""
        waiting = self._transport.get_write_buffer_size()
        if waiting != self.seen:
            self.seen = waiting
            self.moved_at = now
        return now - self.moved_at

    def _acknowledge(self) -> None:
        self._acknowledged = self._written
        self._front.consumed(self._flight, self._written)
