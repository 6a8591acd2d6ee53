"""What a core wants sent, collected until the end of the event-loop turn.

A core never sends: it appends here.  The shell (ZeroMQ or the simulator) takes everything in one sweep, so that all
messages for one peer submitted in one turn leave in one wire message, in order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..wire.messages import Message

__all__ = ["CHUNK", "Outbox", "Parcel", "Peer"]

Peer = bytes
"""Names one link: the routing id (node id + boot nonce + socket nonce) of the other side.  Opaque to cores."""

CHUNK = 32
"""Messages that are enough for a send of their own in mid-turn: the cost of sending is spread thin by then, and the
next process can start on them while this one goes on.  Echo at 64 connections, relative to sending everything at the
end of the turn: 8 a chunk 1.01, 16 a chunk 1.09, 32 a chunk 1.16."""

Parcel = tuple[Any, bytes, bytes]
"""(message, head, body): the two byte strings are b"" for messages without parts."""


class Outbox:
    """Messages by peer, publications, and a hook that tells the shell when there is something to do."""

    __slots__ = ("_flush", "_wake", "closed", "pending", "publications")

    def __init__(self, wake: Callable[[], None] | None = None) -> None:
        self.pending: dict[Peer, list[Parcel]] = {}
        self.publications: list[Message] = []
        self.closed: list[tuple[Peer, str]] = []
        self._wake = wake
        self._flush: Callable[[Peer, list[Parcel]], None] | None = None

    def on_flush(self, flush: Callable[[Peer, list[Parcel]], None]) -> None:
        """Have *flush* called with each full chunk of messages for one peer, before the turn ends."""
        self._flush = flush

    def on_wake(self, wake: Callable[[], None]) -> None:
        """Have *wake* called whenever the outbox goes from empty to not."""
        self._wake = wake

    def send(self, peer: Peer, message: Any, head: bytes = b"", body: bytes = b"") -> None:
        """Queue *message* for *peer*.  The codec fills in the sizes of the parts."""
        pending = self.pending
        if not pending and self._wake is not None:
            self._wake()
        parcels = pending.get(peer)
        if parcels is None:
            pending[peer] = [(message, head, body)]
        else:
            parcels.append((message, head, body))
            if len(parcels) == CHUNK and self._flush is not None:
                del pending[peer]
                self._flush(peer, parcels)

    def send_all(self, peer: Peer, parcels: list[Parcel]) -> None:
        """Queue *parcels*, which are not empty and the outbox's from now on, for *peer*, as :meth:`send` does with each
        of them."""
        pending = self.pending
        if not pending and self._wake is not None:
            self._wake()
        before = pending.get(peer)
        if before is not None:
            before.extend(parcels)
            parcels = before
        if len(parcels) < CHUNK or self._flush is None:
            pending[peer] = parcels
            return
        if before is not None:
            del pending[peer]
        rest = len(parcels) % CHUNK
        for start in range(0, len(parcels) - rest, CHUNK):
            self._flush(peer, parcels[start : start + CHUNK])
        if rest:
            pending[peer] = parcels[-rest:]

    def send_first(self, peer: Peer, message: Any) -> None:
        """Queue *message* for *peer* in front of what waits for it: where the other side's links look for theirs."""
        pending = self.pending
        if not pending and self._wake is not None:
            self._wake()
        pending.setdefault(peer, []).insert(0, (message, b"", b""))

    def send_together(self, peer: Peer, parcels: list[Parcel]) -> None:
        """Queue *parcels* for *peer* so that they arrive in one wire message, as a batch has to."""
        pending = self.pending
        if not pending and self._wake is not None:
            self._wake()
        before = pending.get(peer)
        if before is None:
            pending[peer] = before = parcels
        else:
            before.extend(parcels)
        if len(before) >= CHUNK and self._flush is not None:
            del pending[peer]
            self._flush(peer, before)

    def publish(self, message: Message) -> None:
        """Queue *message* for everyone who subscribes to this node (routers only)."""
        if self._wake is not None:
            self._wake()
        self.publications.append(message)

    def close(self, peer: Peer, reason: str) -> None:
        """Have the link with *peer* closed after what is queued for it."""
        if self._wake is not None:
            self._wake()
        self.closed.append((peer, reason))

    def take(self) -> dict[Peer, list[Parcel]]:
        """Everything queued for peers; the outbox is empty of it afterwards."""
        pending = self.pending
        self.pending = {}
        return pending

    def take_publications(self) -> list[Message]:
        publications = self.publications
        self.publications = []
        return publications

    def take_closed(self) -> list[tuple[Peer, str]]:
        closed = self.closed
        self.closed = []
        return closed
