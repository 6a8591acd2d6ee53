"""The replicated map of versioned records.

Every node holds one.  A write replaces the record that its author had seen (compare-and-set); a merge takes in what
another node wrote.  All records of a key are in one total order (:attr:`Record.mark`), the greatest wins: merging is
commutative, associative and idempotent, so that nodes that have seen the same records hold the same registry, in
whatever order, and however often, these arrived.

A write that loses although its author did not know of the winner is never merged with it and never lost without a
trace: it is kept as a :class:`Conflict` for people to look at.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from ..errors import ConflictError
from .clock import HybridClock, stamp_ms
from .record import MAX_VALUE_BYTES, Record, lineage_after
from .values import BACKEND, ENDPOINT, BackendValue, EndpointValue, Value, parse_value

__all__ = ["CONFLICT_MS", "MAX_RECORDS", "TOMBSTONE_MS", "Conflict", "Registry", "Verdict"]

TOMBSTONE_MS = 7 * 24 * 3600 * 1000
"""How long a delete is remembered, in milliseconds: a router away for longer could bring the deleted value back."""
CONFLICT_MS = 24 * 3600 * 1000
"""How long a losing write is shown, in milliseconds."""

MAX_RECORDS = 100_000
MAX_CONFLICTS = 64
MAX_REFUSALS = 32
_NOTHING = b"\0" * 16


class Conflict(msgspec.Struct, frozen=True):
    """Two writes made without knowledge of each other: ``loser`` was put aside, ``winner`` is the stamp in force."""

    key: str
    loser: Record
    winner: bytes
    wall_ms: int


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """What became of a merged record.

    ``kind``: "applied" (in force now), "older", "equal", "refused" (``reason`` says why), "conflict" (concurrent with
    the record held; ``applied`` says whether it won).
    """

    kind: str
    applied: bool = False
    reason: str = ""


_OLDER = Verdict("older")
_EQUAL = Verdict("equal")
_APPLIED = Verdict("applied", True)
_CONFLICT_WON = Verdict("conflict", True)
_CONFLICT_LOST = Verdict("conflict", False)


class _Entry:
    __slots__ = ("hash", "mark", "record", "value")

    def __init__(self, record: Record, mark: bytes, value: Value | None) -> None:
        self.record = record
        self.mark = mark
        self.value = value
        digest = hashlib.blake2b(record.key.encode("utf-8", "surrogatepass") + b"\0" + mark, digest_size=16)
        self.hash = int.from_bytes(digest.digest(), "big")


def _anything(key: str, value: Any) -> None:
    """Nothing speaks against it."""


class Registry:
    """Versioned records by key.  No clock and no randomness: ``wall_ms`` (milliseconds since the epoch) is handed in.

    writer: this node's id, 16 bytes, put into the records written here.
    parse: checks a value's JSON text and returns it typed; raises ValueError for one that must not be applied.

    ``vet`` may be set to what this node has to say against a value that a control call is to write here: it gets key
    and typed value, and raises ValueError.  What others have written is not asked about: it is in force there already.
    """

    def __init__(
        self,
        writer: bytes,
        *,
        parse: Callable[[str, bytes], Any] = parse_value,
        clock: HybridClock | None = None,
        max_records: int = MAX_RECORDS,
    ) -> None:
        if len(writer) != 16:
            raise ValueError(f"writer must have 16 bytes, not {len(writer)}")
        self.writer = writer
        self.clock = clock or HybridClock()
        self.generation = 0
        self.vet: Callable[[str, Any], None] = _anything
        self.refused = 0
        self.refusals: deque[tuple[str, str]] = deque(maxlen=MAX_REFUSALS)
        self._parse = parse
        self._max_records = max_records
        self._entries: dict[str, _Entry] = {}
        self._sum = 0
        self._digest: bytes | None = _NOTHING
        self._changes: dict[str, None] = {}
        self._conflicts: deque[Conflict] = deque(maxlen=MAX_CONFLICTS)
        self._conflict_marks: dict[bytes, None] = {}

    # --- reading ------------------------------------------------------------------------------------------------------

    def get(self, key: str) -> Record | None:
        """The record in force under *key*, a tombstone included."""
        entry = self._entries.get(key)
        return entry.record if entry is not None else None

    def value(self, key: str) -> Any:
        """The typed value under *key*; None if there is none or it was deleted."""
        entry = self._entries.get(key)
        return entry.value if entry is not None else None

    def endpoint(self, name: str) -> EndpointValue | None:
        value: EndpointValue | None = self.value(ENDPOINT + name)
        return value

    def backend(self, name: str) -> BackendValue | None:
        value: BackendValue | None = self.value(BACKEND + name)
        return value

    def values(self, kind: str) -> dict[str, Any]:
        """Name to typed value of all live records of *kind* ("endpoint/" or "backend/"), sorted by name."""
        found = {
            key[len(kind) :]: entry.value
            for key, entry in self._entries.items()
            if entry.value is not None and key.startswith(kind)
        }
        return dict(sorted(found.items()))

    def endpoints(self) -> dict[str, EndpointValue]:
        return self.values(ENDPOINT)

    def backends(self) -> dict[str, BackendValue]:
        return self.values(BACKEND)

    def records(self) -> list[Record]:
        """All records, tombstones included, sorted by key."""
        return [self._entries[key].record for key in sorted(self._entries)]

    def __len__(self) -> int:
        return len(self._entries)

    def applied(self, key: str, stamp: bytes) -> bool:
        """Whether the record of this stamp, or a later one of the same key, is in force here."""
        entry = self._entries.get(key)
        return entry is not None and entry.mark[:32] >= stamp

    def conflicts(self) -> list[Conflict]:
        """Losing concurrent writes, oldest first: the latest 64, for a day each."""
        return list(self._conflicts)

    def take_changes(self) -> list[str]:
        """The keys whose record changed since the last call, in the order of their first change."""
        changes = list(self._changes)
        self._changes.clear()
        return changes

    # --- writing ------------------------------------------------------------------------------------------------------

    def write(self, key: str, value: bytes | None, parent: bytes | None, wall_ms: int) -> Record:
        """Write *value* (JSON text; None deletes) in place of the record with stamp *parent* (None: none or deleted).

        Returns the new record, which is in force here and has yet to be spread.  Raises ConflictError if another record
        is current, KeyError for a delete of nothing, ValueError for a value that is not valid or too large.
        """
        current = self.get(key)
        live = current is not None and current.value is not None
        seen = not live if parent is None else current is not None and current.stamp == parent
        if not seen:
            found = self._named(current)
            raise ConflictError(f"{key} was changed meanwhile: {found}; read it again and repeat the change")
        if value is None and not live:
            raise KeyError(f"{key} does not exist")
        if value is not None and len(value) > MAX_VALUE_BYTES:
            raise ValueError(f"{key}: value has {len(value)} bytes, more than {MAX_VALUE_BYTES}")
        parsed = self._parse(key, value) if value is not None else None
        if current is None and len(self._entries) >= self._max_records:
            raise ValueError(f"{key}: the registry is full ({self._max_records} records)")
        hlc = self.clock.tick(wall_ms)
        epoch = 1
        if current is not None:
            hlc = max(hlc, current.hlc + 1)  # a record from disk may be later than a clock that was set back
            epoch = current.epoch if live else current.epoch + 1
        record = Record(
            key=key,
            epoch=epoch,
            hlc=hlc,
            writer=self.writer,
            revision=1 if current is None else current.revision + 1,
            parent=b"" if current is None else current.stamp,
            value=value,
            lineage=lineage_after(current),
        )
        self._install(_Entry(record, record.mark, parsed))
        return record

    @staticmethod
    def _named(record: Record | None) -> str:
        if record is None:
            return "it does not exist"
        what = "deleted" if record.value is None else f"revision {record.revision}"
        return f"{what}, stamp {record.stamp.hex()}"

    # --- merging ------------------------------------------------------------------------------------------------------

    def merge(self, record: Record, wall_ms: int, latest_ms: int | None = None) -> Verdict:
        """Take in a record that another node wrote.  Never raises: a record that must not be applied is refused.

        *latest_ms*: what the time may be at the latest, if that is not *wall_ms*."""
        fault = record.fault()
        if fault is not None:
            return self._refuse(record.key, fault)
        now_ms = wall_ms if latest_ms is None else latest_ms
        if not self.clock.observe(record.hlc, now_ms):
            ahead_s = self.clock.ahead_ms(record.hlc, now_ms) // 1000
            return self._refuse(record.key, f"written {ahead_s} s in the future (writer {record.writer.hex()[:8]})")
        return self._merge(record, wall_ms)

    def restore(self, records: Iterable[Record], wall_ms: int) -> list[tuple[str, str]]:
        """Take in what was saved here before.  Returns (key, reason) of what is not usable.

        The clock guard does not apply: this node has believed these records already, and its clock may have been set
        back since.
        """
        bad: list[tuple[str, str]] = []
        for record in records:
            fault = record.fault()
            if fault is None:
                self.clock.observe(record.hlc, wall_ms)
                verdict = self._merge(record, wall_ms)
                fault = verdict.reason if verdict.kind == "refused" else None
            if fault is not None:
                bad.append((record.key, fault))
        return bad

    def _merge(self, record: Record, wall_ms: int) -> Verdict:
        entry = self._entries.get(record.key)
        try:
            mark = record.mark
            if entry is not None:
                if mark == entry.mark:
                    return _EQUAL
                if mark < entry.mark:
                    if entry.record.descends_from(record):
                        return _OLDER
                    if record.value is not None:
                        self._parse(record.key, record.value)
                    self._put_aside(record, mark, entry.record.stamp, wall_ms)
                    return _CONFLICT_LOST
            elif record.value is None and stamp_ms(record.hlc) < wall_ms - TOMBSTONE_MS:
                return _OLDER  # of something long gone; keeping it would only bring the tombstone back
            value = self._parse(record.key, record.value) if record.value is not None else None
            if value is None and not record.key.startswith((ENDPOINT, BACKEND)):
                return self._refuse(record.key, f"unknown kind of record: {record.key!r}")
            if entry is None and len(self._entries) >= self._max_records:
                return self._refuse(record.key, f"the registry is full ({self._max_records} records)")
            new = _Entry(record, mark, value)
        except ValueError as error:  # UnicodeEncodeError included
            return self._refuse(record.key, str(error))
        self._install(new)
        if entry is not None and not record.descends_from(entry.record):
            self._put_aside(entry.record, entry.mark, record.stamp, wall_ms)
            return _CONFLICT_WON
        return _APPLIED

    def _refuse(self, key: str, reason: str) -> Verdict:
        self.refused += 1
        self.refusals.append((key[:300], reason[:1000]))
        return Verdict("refused", False, reason)

    def _put_aside(self, loser: Record, mark: bytes, winner: bytes, wall_ms: int) -> None:
        if mark in self._conflict_marks:
            return
        if len(self._conflicts) == MAX_CONFLICTS:
            self._conflict_marks.pop(self._conflicts[0].loser.mark, None)
        self._conflicts.append(Conflict(loser.key, loser, winner, wall_ms))
        self._conflict_marks[mark] = None

    def _install(self, entry: _Entry) -> None:
        key = entry.record.key
        before = self._entries.get(key)
        self._sum ^= entry.hash if before is None else entry.hash ^ before.hash
        self._digest = None
        self._entries[key] = entry
        self._changes[key] = None
        self.generation += 1

    # --- spreading ----------------------------------------------------------------------------------------------------

    def digest(self) -> bytes:
        """16 bytes that are the same on all nodes with the same records: the XOR of a hash of each."""
        if self._digest is None:
            self._digest = self._sum.to_bytes(16, "big")
        return self._digest

    def summary(self) -> list[tuple[str, bytes]]:
        """(key, mark) of every record; the first 32 bytes of a mark are the record's stamp."""
        return [(key, entry.mark) for key, entry in self._entries.items()]

    def difference(self, summary: Iterable[tuple[str, bytes]]) -> tuple[list[Record], list[str]]:
        """(records that are newer here or not known there, keys that are newer there), for another node's *summary*."""
        theirs: Mapping[str, bytes] = dict(summary)
        newer = [entry.record for key, entry in self._entries.items() if theirs.get(key, b"") < entry.mark]
        wanted: list[str] = []
        for key, mark in theirs.items():
            entry_here = self._entries.get(key)
            if entry_here is None or entry_here.mark < mark:
                wanted.append(key)
        return newer, wanted

    def forget(self, keys: Iterable[str]) -> None:
        """Drop records without a trace: they were deleted while this node was cut off, and nobody remembers that."""
        for key in keys:
            entry = self._entries.pop(key, None)
            if entry is not None:
                self._sum ^= entry.hash
                self._digest = None
                self._changes[key] = None
                self.generation += 1

    def expire(self, wall_ms: int) -> list[str]:
        """Forget tombstones and conflicts whose time is over.

        Returns the forgotten keys.  They appear among the changes too, so that they are removed from disk.
        """
        limit = wall_ms - TOMBSTONE_MS
        old = [
            key
            for key, entry in self._entries.items()
            if entry.record.value is None and stamp_ms(entry.record.hlc) < limit
        ]
        for key in old:
            self._sum ^= self._entries.pop(key).hash
            self._digest = None
            self._changes[key] = None
        while self._conflicts and self._conflicts[0].wall_ms < wall_ms - CONFLICT_MS:
            self._conflict_marks.pop(self._conflicts.popleft().loser.mark, None)
        return old
