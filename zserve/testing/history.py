"""What happened in a run, for people who have to understand why it went wrong."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

__all__ = ["History"]

_MAX_TEXT = 200


class History:
    """Events of a run: (seconds, kind, subject, text).

    kind: "fault", "node", "write", "reply", "request", "run", "answer" and what the user of this adds.  subject: the
    registry key, request or node that it is about; what is printed is chosen by it.
    """

    def __init__(self) -> None:
        self._events: list[tuple[float, str, str, str]] = []

    def add(self, at: float, kind: str, subject: str, text: str) -> None:
        self._events.append((at, kind, subject, text))

    def __len__(self) -> int:
        return len(self._events)

    def fingerprint(self) -> str:
        """A hash over all events."""
        digest = hashlib.blake2b(digest_size=16)
        for at, kind, subject, text in self._events:
            digest.update(f"{at!r} {kind} {subject} {text}\n".encode())
        return digest.hexdigest()

    def about(self, subjects: Iterable[str], *, kinds: Iterable[str] = ("fault", "node"), limit: int = 60) -> list[str]:
        """The lines that matter for *subjects*: all about these, and all of *kinds*; the last *limit* of them."""
        wanted, always = frozenset(subjects), frozenset(kinds)
        chosen = [event for event in self._events if event[2] in wanted or event[1] in always]
        lines = [f"{at:10.4f}  {kind:<8} {subject}  {text[:_MAX_TEXT]}" for at, kind, subject, text in chosen]
        if len(lines) > limit:
            # The beginning of what concerns the subject matters as much as the end.
            first = limit // 4
            left_out = len(lines) - limit
            lines = [*lines[:first], f"            ... {left_out} more ...", *lines[-(limit - first) :]]
        return lines
