"""What a router answers to one that says which records it has."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..wire.messages import Records
from . import standing
from .clock import stamp_ms
from .record import Record
from .registry import Registry

__all__ = ["Answers", "in_messages"]

MAX_MESSAGE_BYTES = 512 * 1024
_KEEPERS = frozenset(("gateway", "router", "worker", "replica"))


class Answers:
    """The records that the other side lacks, and those that it is asked for.

    A router is asked for all that it has more than this one.  Others are asked for what this router may have lost; how
    much that can be, its *standing* says.
    """

    def __init__(self, registry: Registry, own: standing.Standing, wall_ms: Callable[[], int]) -> None:
        self._registry = registry
        self._standing = own
        self._wall_ms = wall_ms

    def to(self, have: Sequence[tuple[str, bytes]], role: str) -> list[Records]:
        """The answer to a node of *role* that has these (key, mark of the record)."""
        newer, wanted = self._registry.difference(have)
        if role == "router" or self._standing.absent_ms:
            return in_messages(newer, wanted if role in _KEEPERS else ())
        # What is unknown here and so old was deleted, and that is forgotten by now.
        oldest_ms = self._wall_ms() - standing.ABSENT_MS
        marks = dict(have)
        forget = [key for key in wanted if self._registry.get(key) is None and _written_ms(marks[key]) <= oldest_ms]
        gone = frozenset(forget)
        want = [key for key in wanted if key not in gone] if role in _KEEPERS else []
        return in_messages(newer, want, forget)


def in_messages(records: Sequence[Record], want: Sequence[str] = (), forget: Sequence[str] = ()) -> list[Records]:
    """*records* in messages of at most half a MiB of values (one record may be larger); the rest is in the last."""
    messages: list[Records] = []
    batch: list[Record] = []
    size = 0
    for record in records:
        weight = 300 + len(record.value or b"")
        if batch and size + weight > MAX_MESSAGE_BYTES:
            messages.append(Records(batch))
            batch, size = [], 0
        batch.append(record)
        size += weight
    if batch or want or forget:
        messages.append(Records(batch, list(want), list(forget)))
    return messages


def _written_ms(mark: bytes) -> int:
    """When a record was written, by its mark; 0 for what is not one."""
    return stamp_ms(int.from_bytes(mark[8:16], "big"))
