"""The registry on disk, so that a router starts from the last good state.

SQLite from the standard library, write-ahead log, one row for each record, each with a checksum of its own: SQLite
detects a torn page, not a flipped bit in one.  The file is a copy of what is in memory; when it cannot be read it is
set aside, never deleted, and what is missing comes from peers.  When it cannot be written, serving goes on from memory
and what was not saved is saved at the next attempt.  The file is locked for as long as it is open: two routers that
were given one folder would overwrite each other.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

from ..errors import ServeError
from .record import Record

__all__ = ["SCHEMA_VERSION", "Store", "StoreError"]

SCHEMA_VERSION = 1
_APPLICATION_ID = 0x7A737276  # "zsrv"
_BUSY_S = 2.0
_MAGIC = b"SQLite format 3\0"
_TROUBLE = tuple(
    f"SQLITE_{name}" for name in ("BUSY", "LOCKED", "CANTOPEN", "PERM", "AUTH", "FULL", "IOERR", "NOMEM", "INTERRUPT")
)
_SIDE_FILES = ("-wal", "-shm")
_RECORDS = "CREATE TABLE records (key TEXT PRIMARY KEY, body BLOB NOT NULL, checksum BLOB NOT NULL)"
_FACTS = "CREATE TABLE facts (name TEXT PRIMARY KEY, number INTEGER NOT NULL)"


class StoreError(ServeError):
    """The state could not be read or written; the text is one line that says where and why."""


class Store:
    """The registry in one SQLite file.  :meth:`load` comes first; afterwards one thread at a time may use it.

    saved_ms: wall-clock milliseconds of the last save or :meth:`touch` that said its time, 0 for none.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.saved_ms = 0
        self.failures = 0
        self._connection: sqlite3.Connection | None = None
        self._on_disk: dict[str, Record] | None = None
        self._unread: frozenset[str] = frozenset()

    def load(self) -> tuple[list[Record], list[str]]:
        """(all records, notes): the notes are one line for people about each thing that was wrong.

        A file that is damaged is renamed to ``….corrupt-<n>``, what can still be read of it is read, and a new one is
        begun; rows that are damaged are left out.  Raises StoreError if the file cannot be opened for another reason:
        no rights, in use by another router, written by a newer version.
        """
        notes: list[str] = []
        try:
            self._read(notes)
        except sqlite3.DatabaseError as error:
            if not _is_damage(error, self.path):
                self._close_quietly()
                raise StoreError(self._cannot("open", error)) from None
            records = self._salvage()
            aside = self._set_aside("corrupt")
            notes.append(
                f"{self.path} is damaged ({error}) and was set aside as {aside.name}; {len(records)} records could be "
                f"read from it, what is missing comes from other routers"
            )
            self._on_disk = {}
            try:
                self.save(records)
            except StoreError as again:
                notes.append(str(again))
            return records, notes
        except OSError as error:
            raise StoreError(self._cannot("open", error)) from None
        return list((self._on_disk or {}).values()), notes

    def save(self, records: Iterable[Record], wall_ms: int = 0) -> None:
        """Make the file hold *records*, the whole registry, in one transaction; only what differs is written.

        If :meth:`load` has failed, what the file holds beyond *records* stays, and newer records of it win: nothing is
        removed that was never read.  Raises StoreError with one line when the file cannot be written; the next call
        writes what this one could not.
        """
        wanted = {record.key: record for record in records}
        try:
            if self._on_disk is None:
                self._read([])
                self._unread = frozenset(self._on_disk or ()) - wanted.keys()
            on_disk = self._on_disk or {}
            changed = [
                record
                for key, record in wanted.items()
                if (there := on_disk.get(key)) is None or (there != record and there.mark < record.mark)
            ]
            gone = [key for key in on_disk if key not in wanted and key not in self._unread]
            if changed or gone:
                self._write(changed, gone, wall_ms)
        except (sqlite3.Error, OSError) as error:
            self.failures += 1
            self._close_quietly()
            raise StoreError(self._cannot("save the registry to", error)) from None

    def touch(self, wall_ms: int) -> None:
        """Note that the router runs, and that the file is up to date.  Raises StoreError as :meth:`save` does."""
        try:
            self._open().execute("INSERT OR REPLACE INTO facts VALUES ('saved_ms', ?)", (wall_ms,))
        except (sqlite3.Error, OSError) as error:
            self.failures += 1
            self._close_quietly()
            raise StoreError(self._cannot("save the registry to", error)) from None
        self.saved_ms = wall_ms

    def set_aside(self) -> Path:
        """Begin a new file at the next save; the one there was is kept under the name returned.  Raises StoreError."""
        self._on_disk = {}
        return self._set_aside("absent")

    def close(self) -> None:
        """Fold the log into the file.  Raises nothing."""
        self._close_quietly()

    def _cannot(self, do: str, error: Exception) -> str:
        if "locked" in str(error):
            return f"cannot {do} {self.path}: it is in use by another router"
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        return f"cannot {do} {self.path}: {' '.join(str(reason).split())}"

    # --- the file -----------------------------------------------------------------------------------------------------

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            # Private from the first byte, and so are the files that SQLite makes beside it, with the same mode.
            with suppress(OSError):  # it is there, or SQLite will say what is wrong
                os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            connection = sqlite3.connect(self.path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
            connection.text_factory = _text
            try:
                connection.execute("PRAGMA locking_mode=EXCLUSIVE")
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("PRAGMA synchronous=FULL")  # an acknowledged write survives a power cut
                self._prepare(connection)
            except UnicodeDecodeError:  # sqlite3 cannot even say what is wrong when the message quotes damaged text
                connection.close()
                raise sqlite3.DatabaseError("malformed: its schema is not text") from None
            except BaseException:
                connection.close()
                raise
            self._connection = connection
            os.chmod(self.path, 0o600)
        return self._connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if version == 0 and application == 0 and tables == 0:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(_RECORDS)
            connection.execute(_FACTS)
            connection.execute(f"PRAGMA application_id={_APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
            connection.execute("COMMIT")
        elif application != _APPLICATION_ID:
            ours = connection.execute("SELECT count(*) FROM sqlite_master WHERE sql IN (?, ?)", (_RECORDS, _FACTS))
            if ours.fetchone() == (2,):
                raise sqlite3.DatabaseError("malformed header: application id")
            raise StoreError(f"{self.path} is a SQLite file of another program; choose another state folder")
        elif not 1 <= version <= SCHEMA_VERSION + 1000:
            raise sqlite3.DatabaseError(f"malformed header: schema version {version}")
        elif version > SCHEMA_VERSION:
            raise StoreError(
                f"{self.path} was written by a newer version (schema {version}, this one knows {SCHEMA_VERSION})"
            )

    def _read(self, notes: list[str]) -> None:
        if self._connection is None and _is_foreign(self.path):
            raise sqlite3.DatabaseError("file is not a database: malformed header")
        connection = self._open()
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(f"malformed: {' '.join(str(verdict).split())}")
        rows = connection.execute("SELECT name, number FROM facts")
        facts = {name: number for name, number in rows if isinstance(number, int)}
        on_disk: dict[str, Record] = {}
        for key, body, checksum in connection.execute("SELECT key, body, checksum FROM records ORDER BY key"):
            record = _decode(body, checksum)
            if record is None or record.key != key:
                notes.append(f"{self.path}: the record {key!r} is damaged and was left out")
            else:
                on_disk[key] = record
        missing = facts.get("records", 0) - len(on_disk)
        if missing > 0 and not notes:
            notes.append(f"{self.path}: {missing} records are missing")
        self.saved_ms = facts.get("saved_ms", 0)
        self._on_disk = on_disk

    def _write(self, changed: list[Record], gone: list[str], wall_ms: int) -> None:
        connection = self._open()
        connection.execute("BEGIN IMMEDIATE")
        try:
            for key in gone:
                connection.execute("DELETE FROM records WHERE key = ?", (key,))
            for record in changed:
                body = msgspec.msgpack.encode(record)
                row = (record.key, body, _checksum(body))
                connection.execute("INSERT OR REPLACE INTO records VALUES (?, ?, ?)", row)
            facts = [("records", connection.execute("SELECT count(*) FROM records").fetchone()[0])]
            if wall_ms:
                facts.append(("saved_ms", wall_ms))
            connection.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", facts)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        assert self._on_disk is not None
        for key in gone:
            del self._on_disk[key]
        self._on_disk.update((record.key, record) for record in changed)
        if wall_ms:
            self.saved_ms = wall_ms

    def _salvage(self) -> list[Record]:
        """The records of a damaged file that can still be read and have a right checksum."""
        self._close_quietly()
        try:
            connection = sqlite3.connect(self.path, timeout=_BUSY_S)
        except sqlite3.Error:
            return []
        records: list[Record] = []
        try:
            for row in connection.execute("SELECT body, checksum FROM records"):
                record = _decode(*row)
                if record is not None:
                    records.append(record)
        except (sqlite3.Error, UnicodeDecodeError):
            pass
        finally:
            connection.close()
        return records

    def _set_aside(self, why: str) -> Path:
        self._close_quietly()
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}.{why}-{number}")).exists():
            number += 1
        try:
            os.replace(self.path, aside)
            for suffix in _SIDE_FILES:
                side = Path(f"{self.path}{suffix}")
                if side.exists():
                    os.replace(side, f"{aside}{suffix}")
        except OSError as error:
            raise StoreError(f"cannot set the state file {self.path} aside: {error.strerror}") from None
        return aside

    def _close_quietly(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except sqlite3.Error:
                pass


def _is_foreign(path: Path) -> bool:
    """Whether there is something in the file that SQLite has not begun; it takes a few such bytes for an empty file."""
    try:
        with open(path, "rb") as file:
            return file.read(len(_MAGIC)) not in (b"", _MAGIC)
    except FileNotFoundError:
        return False


def _is_damage(error: sqlite3.DatabaseError, path: Path) -> bool:
    """Whether the content of the file is at fault, and not the disk, the rights or another process."""
    name = getattr(error, "sqlite_errorname", "") or ""
    if name.startswith("SQLITE_READONLY"):
        return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)  # a header that forbids writing
    return not name.startswith(_TROUBLE)


def _decode(body: object, checksum: object) -> Record | None:
    if not isinstance(body, bytes) or checksum != _checksum(body):
        return None
    try:
        return msgspec.msgpack.decode(body, type=Record)
    except msgspec.MsgspecError:
        return None


def _text(raw: bytes) -> str:
    """What is not UTF-8 must not stop the reading of what is; its checksum tells."""
    return raw.decode("utf-8", "replace")


def _checksum(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=16).digest()
