"""Streamed answers on their way through a router: pieces forward, what the client has taken back.

A streamed request stays with its replica, and keeps its credit there, until its last Chunk.  For the estimates of how
long an answer takes it counts as answered when it began: that is what deadlines are about.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..channel.outbox import Peer
from ..http.answers import KIND_EMPTY, ORIGIN_ROUTER
from ..scheduling.backend_queue import BackendQueue, Entry
from ..scheduling.entry import NO_DEADLINE
from ..wire.messages import STREAM_BROKEN, STREAM_MORE, Cancel, Chunk, Consumed, Result

if TYPE_CHECKING:
    from .router import RouterCore

__all__ = ["Relays"]


class _Begun:
    """One streamed answer.  began_s: how long after it was sent to the replica its beginning came."""

    __slots__ = ("began_s", "entry", "ok", "replica", "run_s")

    def __init__(self, entry: Entry, began_s: float, run_s: float, ok: bool) -> None:
        self.entry = entry
        self.replica = entry.replica
        self.began_s = began_s
        self.run_s = run_s
        self.ok = ok


class Relays:
    """The part of a router's core that has to do with streamed answers."""

    def __init__(self, router: RouterCore) -> None:
        self._router = router
        self._begun: dict[bytes, _Begun] = {}

    def __len__(self) -> int:
        return len(self._begun)

    def has_begun(self, key: bytes) -> bool:
        """Whether the answer of this request is being streamed."""
        return key in self._begun

    def begin(self, peer: Peer, message: Result, head: bytes, body: bytes, entry: Entry | None, now: float) -> None:
        """The first part of an answer; *entry* is None when nobody waits for it any more."""
        if entry is None or entry.replica != peer:
            self._router.late_results += 1
            self._router.out.send(peer, Cancel([message.id]))
            return
        self._begun[message.id] = _Begun(entry, now - entry.sent_at, message.run_us * 1e-6, message.status < 500)
        entry.deadline = NO_DEADLINE
        if entry.gateway:
            message.queue_us += max(0, int((entry.sent_at - entry.arrived) * 1e6))
            self._router.out.send(entry.gateway, message, head, body)

    def chunk(
        self, peer: Peer, queue: BackendQueue, message: Chunk, body: bytes, entry: Entry | None, now: float
    ) -> bool:
        """A piece; true when it was the last of a request that somebody waits for, which is over now."""
        if message.end == STREAM_MORE:
            if entry is not None and entry.replica == peer and entry.gateway:
                self._router.out.send(entry.gateway, message, b"", body)
            return False
        begun = self._begun.get(message.id)
        if begun is None or begun.replica != peer:  # cancelled before it began
            done = queue.completed(peer, message.id, now, ok=True, run_s=0.0)
            answer: Chunk | Result = Result(message.id, 502, KIND_EMPTY, ORIGIN_ROUTER)
        else:
            del self._begun[message.id]
            begun.entry.sent_at = now - begun.began_s
            done = queue.completed(peer, message.id, now, ok=begun.ok, run_s=begun.run_s)
            answer = message
        if done is not None and done.gateway:
            self._router.out.send(done.gateway, answer, b"", body)
        return done is not None

    def consumed(self, peer: Peer, message: Consumed, entry: Entry | None) -> None:
        """The gateway tells how far its client has come."""
        if entry is not None and entry.gateway == peer and message.id in self._begun:
            self._router.out.send(entry.replica, message)

    def lost(self, entry: Entry) -> bool:
        """Its replica is gone; true when it was streaming: then all that can be done is to break off."""
        if self._begun.pop(entry.id, None) is None:
            return False
        if entry.gateway:
            self._router.out.send(entry.gateway, Chunk(entry.id, 0, STREAM_BROKEN))
        return True

    def link_down(self, peer: Peer) -> None:
        """Forget what was cancelled and had not come to its end there."""
        for key in [key for key, begun in self._begun.items() if begun.replica == peer]:
            del self._begun[key]
