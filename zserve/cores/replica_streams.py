"""Streamed answers at the replica: a Result that says so, Chunks behind it, and one that is the last.

A streaming call keeps its slot and its credit until its last Chunk; its deadline was for the beginning.  It belongs to
one link, the one that asked last: its pieces cannot be sent to a second one that comes later.
"""

from __future__ import annotations

from ..channel.outbox import Outbox, Peer
from ..handler.recent import RecentAnswers
from ..handler.runs import HeldCall, Run
from ..handler.streams import StreamBegin, StreamEnd, StreamPiece
from ..http.answers import KIND_TEXT, ORIGIN_REPLICA
from ..wire.messages import STREAM_BROKEN, STREAM_DONE, Chunk, Consumed, Result
from .replies import Replies

__all__ = ["ReplicaStreams"]

_NEVER = float("inf")
_STOPPED = -1


class ReplicaStreams:
    """Events: what the executor says of a streaming run, and Consumed.  Effects: the outbox, and :attr:`consumed`,
    which the executor is to be told."""

    def __init__(self, out: Outbox, replies: Replies, recent: RecentAnswers) -> None:
        self.consumed: list[tuple[Run, int]] = []
        self.streamed = 0
        self._out = out
        self._replies = replies
        self._recent = recent

    def begin(self, run: Run, event: StreamBegin, now: float) -> bool:
        """The first piece, or the headers alone; False when nobody wants it any more, and the run is to be stopped."""
        call = run.calls[0]
        if call.unwanted_at != _NEVER or not call.waiters:
            run.streams = _STOPPED
            return False
        self.streamed += 1
        run.streams = 1
        call.deadline = run.deadline = run.last_deadline = _NEVER
        waiters = [peer for peer in call.waiters if call.cancelled is None or peer not in call.cancelled]
        taker = waiters[-1]
        call.waiters.remove(taker)
        for peer in call.waiters:
            self._replies.refuse(peer, call.id, 502, "the request was sent again, and is answered there")
        call.waiters = [taker]
        status, kind, head, body, origin = event.answer
        result = Result(call.id, status, kind, origin, streams=True)
        result.queue_us = int((run.given - call.arrived) * 1e6)
        result.batch_us = int((run.started - run.given) * 1e6)
        result.run_us = int((now - run.started) * 1e6)
        self._out.send(taker, result, head, body)
        return True

    def piece(self, run: Run, event: StreamPiece) -> None:
        """The next piece; nobody may be left to take it."""
        call = run.calls[0]
        if run.streams > 0 and call.waiters:
            self._out.send(call.waiters[0], Chunk(call.id, run.streams), b"", event.body)
            run.streams += 1

    def end(self, run: Run, event: StreamEnd, now: float) -> None:
        """The executor is done with it."""
        call = run.calls[0]
        if run.streams <= 0:  # nobody wanted it any more when it was about to begin
            answer = (499, KIND_TEXT, b"", b"cancelled", ORIGIN_REPLICA)
            self._replies.answer(call, answer, int((now - call.arrived) * 1e6))
            return
        self._recent.put(call.id, None, now)
        self._replies.forget(call)
        for peer in call.waiters:
            self._replies.free(peer, call.id)
            end = STREAM_DONE if event.complete else STREAM_BROKEN
            self._out.send(peer, Chunk(call.id, run.streams, end))

    def on_consumed(self, peer: Peer, message: Consumed) -> None:
        """The client has taken more."""
        call = self._replies.held.get(message.id)
        if call is not None and call.run is not None and call.run.streams > 0 and peer in call.waiters:
            self.consumed.append((call.run, message.total))

    def joins_late(self, peer: Peer, call: HeldCall) -> bool:
        """Refuse a second request for an answer that has begun; False when it has not."""
        run = call.run
        if run is None or not run.streams:
            return False
        self._replies.refuse(peer, call.id, 502, "the request has run, and its answer was being streamed elsewhere")
        return True
