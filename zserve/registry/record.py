"""One versioned record of the registry."""

from __future__ import annotations

import hashlib

import msgspec

__all__ = ["LINEAGE", "MAX_VALUE_BYTES", "Record", "lineage_after", "short_stamp"]

MAX_VALUE_BYTES = 1 << 20
"""Largest value of one record, in bytes of JSON."""

LINEAGE = 16
"""How many ancestors a record names."""

MAX_KEY_LENGTH = 300

_SHORT = 8
_NUMBER_LIMIT = 1 << 62


class Record(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A value under a key, and where it stands among all writes of that key.

    Order is (epoch, hlc, writer), compared in that order, the same on every node.

    key: "endpoint/NAME" or "backend/NAME".
    epoch: 1 at first, one more at each re-creation after a delete.
    hlc: hybrid logical clock of the write: milliseconds since the epoch << 16 | counter (Kulkarni et al. 2014).
    writer: id of the node that accepted the write (16 bytes).
    revision: 1 at first, parent's + 1 after.
    parent: stamp of the record that it replaced (b"" for none).
    value: the JSON text of the value, or None for a tombstone.
    lineage: the newest :data:`LINEAGE` ancestors, newest first, 8 bytes each (:func:`short_stamp`).  It tells a write
        that somebody missed from a write that was made without knowing of another: the second is a conflict.
    """

    key: str
    epoch: int
    hlc: int
    writer: bytes
    revision: int
    parent: bytes
    value: bytes | None
    lineage: bytes = b""

    @property
    def stamp(self) -> bytes:
        """32 bytes that order and name this write: epoch, hlc, writer, big-endian."""
        return self.epoch.to_bytes(8, "big") + self.hlc.to_bytes(8, "big") + self.writer

    @property
    def mark(self) -> bytes:
        """40 bytes: the stamp and a hash of the content.

        The total order of all records of a key.  Two contents under one stamp come only from a broken writer; the hash
        makes every node choose the same one of them, and makes the difference visible in digests.
        """
        content = hashlib.blake2b(self.parent + self.lineage + self.revision.to_bytes(8, "big"), digest_size=8)
        content.update(b"\0" if self.value is None else b"\1" + self.value)
        return self.stamp + content.digest()

    def fault(self) -> str | None:
        """What is wrong with the form of this record, or None.  The other properties are safe once this is None."""
        if len(self.key) > MAX_KEY_LENGTH or not self.key.isprintable():
            return f"not a key: {self.key[:60]!r}"
        if not 1 <= self.epoch < _NUMBER_LIMIT:
            return f"epoch out of range: {self.epoch}"
        if not 0 <= self.hlc < _NUMBER_LIMIT:
            return f"clock out of range: {self.hlc}"
        if len(self.writer) != 16:
            return f"writer has {len(self.writer)} bytes, not 16"
        if not 1 <= self.revision < _NUMBER_LIMIT:
            return f"revision out of range: {self.revision}"
        if len(self.parent) not in (0, 32):
            return f"parent has {len(self.parent)} bytes, not 32"
        if len(self.lineage) > LINEAGE * _SHORT or len(self.lineage) % _SHORT:
            return f"lineage has {len(self.lineage)} bytes"
        if self.value is not None and len(self.value) > MAX_VALUE_BYTES:
            return f"value has {len(self.value)} bytes, more than {MAX_VALUE_BYTES}"
        return None

    def descends_from(self, other: Record) -> bool:
        """Whether *other*, a record of the same key, is among the ancestors of this one.

        Ancestors further back than the lineage reaches cannot be told from strangers and are given the benefit of the
        doubt.
        """
        if self.parent == other.stamp:
            return True
        distance = self.revision - other.revision
        if distance < 1:
            return False
        if distance > LINEAGE:
            return True
        start = (distance - 1) * _SHORT
        return self.lineage[start : start + _SHORT] == short_stamp(other.stamp)


def short_stamp(stamp: bytes) -> bytes:
    """8 bytes that stand for *stamp* in a lineage."""
    return hashlib.blake2b(stamp, digest_size=_SHORT).digest()


def lineage_after(parent: Record | None) -> bytes:
    """The lineage of a record that replaces *parent*."""
    if parent is None:
        return b""
    return (short_stamp(parent.stamp) + parent.lineage)[: LINEAGE * _SHORT]
