"""Answers that a replica remembers, so that a request that comes again is answered and not run again.

A gateway whose router died sends its requests once more, under the same ids, through another router; some of them had
reached the replica the first time.
"""

from __future__ import annotations

from collections import deque

from ..http.answers import Answer

__all__ = ["RecentAnswers"]

_OVERHEAD = 256
"""Bytes counted for an entry besides its head and body."""
_COPIED = 1024
"""Smaller bodies are kept as copies: orjson writes into 1 KiB and gives back what is left over, which the allocator can
hardly use as long as the body stays (65,536 answers of nine bytes held 280 MB)."""


class RecentAnswers:
    """The last answers by request id, within limits on their number, their age in seconds, and the bytes of their heads
    and bodies.

    The oldest go first.  A single answer larger than an eighth of *max_bytes* is remembered by its id only: what is
    known then is that the request has run.
    """

    __slots__ = (
        "_answers", "_bytes", "_keep_s", "_large", "_max_bytes", "_max_entries", "_order", "forgotten_at",
    )  # fmt: skip

    def __init__(self, max_entries: int = 65_536, max_bytes: int = 16 << 20, keep_s: float = 120.0) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._keep_s = keep_s
        self._large = max_bytes // 8
        self._answers: dict[bytes, Answer | None] = {}
        self._order: deque[tuple[bytes, int, float]] = deque()
        self._bytes = 0
        self.forgotten_at = float("-inf")
        """When the youngest request that is not remembered any more was answered: what was sent for the first time
        after that is remembered, or has not run here."""

    def __len__(self) -> int:
        return len(self._answers)

    def __contains__(self, request_id: bytes) -> bool:
        return request_id in self._answers

    @property
    def held_bytes(self) -> int:
        return self._bytes

    def put(self, request_id: bytes, answer: Answer | None, now: float) -> None:
        """Remember *answer*; a second one under the same id replaces nothing (the first was sent).

        None (an answer that was streamed): remember no more than that the request has run."""
        if request_id in self._answers:
            return
        size = _OVERHEAD
        if answer is not None:
            status, kind, head, body, origin = answer
            held = len(head) + len(body)
            if held < _COPIED:
                answer = (status, kind, head, bytes(memoryview(body)), origin)
            elif held > self._large:
                answer, held = None, 0
            size += held
        self._answers[request_id] = answer
        order = self._order
        order.append((request_id, size, now))
        self._bytes += size
        while self._bytes > self._max_bytes or len(order) > self._max_entries:
            self._forget_oldest()

    def get(self, request_id: bytes) -> Answer | None:
        """The answer, or None when it is not known or was too large to keep (ask ``in`` to tell the two apart)."""
        return self._answers.get(request_id)

    def expire(self, now: float) -> None:
        """Forget what has been kept for long enough."""
        order = self._order
        while order and order[0][2] < now - self._keep_s:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        oldest, freed, self.forgotten_at = self._order.popleft()
        del self._answers[oldest]
        self._bytes -= freed
