"""Answers that a replica remembers, so that a request that comes again is answered and not run again.

A gateway whose router died sends its requests once more, under the same ids, through another router; some of them had
reached the replica the first time.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Sequence

from ..http.answers import Answer

__all__ = ["RecentAnswers"]

_OVERHEAD = 256
"""Bytes counted for an entry besides its head and body."""
_SMALL = 1024
"""Smaller bodies are kept as copies: orjson writes into 1 KiB and gives back what is left over, which the allocator can
hardly use as long as the body stays (65,536 answers of nine bytes held 280 MB)."""


class _Kept:
    """Answers that came together: they share *status*, *kind* and *origin*, and go together.

    Of small ones without a head, the bodies lie behind each other in one piece: all of this is touched again only when
    it is forgotten, thousands of requests later, and then nothing of it is in the processor's caches any more, so it
    should not be many objects.
    """

    __slots__ = ("_bodies", "_sizes", "at", "head", "ids", "kind", "origin", "size", "status")

    def __init__(self, ids: Sequence[bytes], answer: Answer, bodies: Sequence[bytes] | None, at: float) -> None:
        """*answer*: of the first; *bodies*: of all, None for that of *answer* alone."""
        self.ids = ids
        self.at = at
        self.status, self.kind, self.head, body, self.origin = answer
        if bodies is None:
            self._sizes: Sequence[int] = ()
            self._bodies = body if len(body) >= _SMALL else bytes(memoryview(body))
        else:
            self._sizes = array("H", map(len, bodies))
            self._bodies = b"".join(bodies)
        self.size = _OVERHEAD * len(ids) + len(self.head) + len(self._bodies)

    def answer(self, request_id: bytes) -> Answer | None:
        if self.status < 0:
            return None
        body = self._bodies
        if self._sizes:
            number = self.ids.index(request_id)
            begin = sum(self._sizes[:number])
            body = body[begin : begin + self._sizes[number]]
        return self.status, self.kind, self.head, body, self.origin


_RAN: Answer = (-1, 0, b"", b"", 0)
"""Stands for an answer that is not kept."""


class RecentAnswers:
    """The last answers by request id, within limits on their number, their age in seconds, and the bytes of their heads
    and bodies.

    The oldest go first.  A single answer larger than an eighth of *max_bytes* is remembered by its id only: what is
    known then is that the request has run.
    """

    __slots__ = (
        "_bytes", "_keep_s", "_large", "_max_bytes", "_max_entries", "_most", "_order", "forgotten_at", "known",
    )  # fmt: skip

    def __init__(self, max_entries: int = 65_536, max_bytes: int = 16 << 20, keep_s: float = 120.0) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._keep_s = keep_s
        self._large = max_bytes // 8
        self._most = max(1, min(max_entries, max_bytes // (_OVERHEAD + _SMALL)) // 64)  # that go together
        self.known: dict[bytes, _Kept] = {}
        """By request id."""
        self._order: deque[_Kept] = deque()
        self._bytes = 0
        self.forgotten_at = float("-inf")
        """When the youngest request that is not remembered any more was answered: what was sent for the first time
        after that is remembered, or has not run here."""

    def __len__(self) -> int:
        return len(self.known)

    def __contains__(self, request_id: bytes) -> bool:
        return request_id in self.known

    @property
    def held_bytes(self) -> int:
        return self._bytes

    def put(self, request_id: bytes, answer: Answer | None, now: float) -> None:
        """Remember *answer*; a second one under the same id replaces nothing (the first was sent).

        None (an answer that was streamed): remember no more than that the request has run."""
        if request_id in self.known:
            return
        if answer is None or len(answer[2]) + len(answer[3]) > self._large:
            answer = _RAN
        self.known[request_id] = kept = _Kept((request_id,), answer, None, now)
        self._keep(kept)

    def put_all(self, ids: Sequence[bytes], answers: Sequence[Answer], now: float) -> None:
        """The same for several that have come together."""
        if len(ids) == 1:
            self.put(ids[0], answers[0], now)
            return
        most = self._most
        for start in range(0, len(ids), most):
            self._put_together(ids[start : start + most], answers[start : start + most], now)

    def _put_together(self, ids: Sequence[bytes], answers: Sequence[Answer], now: float) -> None:
        first = answers[0]
        status, kind, _, _, origin = first
        bodies = []
        for answer in answers:
            body = answer[3]
            if answer[2] or answer[0] != status or answer[1] != kind or answer[4] != origin or len(body) >= _SMALL:
                break
            bodies.append(body)
        if len(bodies) == len(ids) == len(set(ids)) and self.known.keys().isdisjoint(ids):
            kept = _Kept(ids, first, bodies, now)
            self.known.update(dict.fromkeys(ids, kept))
            self._keep(kept)
        else:
            for request_id, answer in zip(ids, answers, strict=True):
                self.put(request_id, answer, now)

    def _keep(self, kept: _Kept) -> None:
        """It is in; what is too much goes out."""
        self._order.append(kept)
        self._bytes += kept.size
        while self._bytes > self._max_bytes or len(self.known) > self._max_entries:
            self._forget_oldest()

    def get(self, request_id: bytes) -> Answer | None:
        """The answer, or None when it is not known or was too large to keep (ask ``in`` to tell the two apart)."""
        kept = self.known.get(request_id)
        return None if kept is None else kept.answer(request_id)

    def expire(self, now: float) -> None:
        """Forget what has been kept for long enough."""
        order = self._order
        while order and order[0].at < now - self._keep_s:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        oldest = self._order.popleft()
        known = self.known
        for request_id in oldest.ids:
            del known[request_id]
        self._bytes -= oldest.size
        self.forgotten_at = oldest.at
