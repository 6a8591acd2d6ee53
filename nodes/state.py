"""A router's memory on disk: its id and the registry.  Trouble with it is said once, and serving goes on."""

from __future__ import annotations

import logging
import os
import secrets
from pathlib import Path

from zserve.errors import ServeError
from zserve.registry.registry import Registry
from zserve.registry.standing import ABSENT_MS
from zserve.registry.store import Store, StoreError
from zserve.registry.sync import ConfigSync

__all__ = ["RouterState"]

log = logging.getLogger("zserve.state")


class RouterState:
    """What is kept under *folder* ("" keeps nothing).  Raises ServeError if the folder can not be used at all."""

    def __init__(self, folder: str) -> None:
        self.behind = False
        self._touched_ms = 0
        self._store: Store | None = None
        self._folder = Path(folder) if folder else None
        self._told = False
        if self._folder is None:
            return
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ServeError(f"cannot use --state-dir {folder}: {error.strerror}") from None
        self._store = Store(self._folder / "registry.sqlite")

    def node_id(self) -> bytes:
        """The id of this router, the same after each restart where there is a state directory."""
        if self._folder is None:
            return secrets.token_bytes(16)
        path = self._folder / "node-id"
        try:
            known = bytes.fromhex(path.read_text().strip())
            if len(known) == 16:
                return known
        except (OSError, ValueError):
            pass
        fresh = secrets.token_bytes(16)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(fresh.hex() + "\n")
        except OSError as error:
            self._complain(f"cannot write {path}: {error.strerror}")
        return fresh

    def load_into(self, sync: ConfigSync, wall_ms: int, wait_s: float) -> None:
        """Start from the last good state.

        Where it is from before a long absence, it is in doubt until it is clear that no other router knows better, or
        that none has turned up for *wait_s* seconds.
        """
        if self._store is None:
            return
        try:
            records, notes = self._store.load()
        except StoreError as error:
            self._complain(str(error))
            return
        for note in notes:
            log.warning("%s", note)
        if records and 0 < self._store.saved_ms < wall_ms - ABSENT_MS:
            days = (wall_ms - self._store.saved_ms) / 86_400_000
            log.warning("state: last run %.1f days ago; what other routers have comes first", days)
            sync.begin_in_doubt(records, self._store.saved_ms, wait_s)
            return
        for key, reason in sync.restore(records):
            log.warning("state: %s is not used: %s", key, reason)
        if records:
            log.info("state: %d records from %s", len(records), self._folder)

    def given_up(self, count: int) -> None:
        """The *count* records from before a long absence are not what is in force by now: keep them for people."""
        if self._store is None:
            return
        try:
            aside = self._store.set_aside()
        except StoreError as error:
            self._complain(str(error))
            return
        log.warning("state: the other routers know better than the %d records here; those are kept as %s", count, aside)

    def touch(self, wall_ms: int, every_ms: int = 3_600_000) -> None:
        """Note, once in *every_ms*, that this router runs."""
        if self._store is None or wall_ms - self._touched_ms < every_ms:
            return
        self._touched_ms = wall_ms
        try:
            self._store.touch(wall_ms)
        except StoreError as error:
            self.behind = True
            self._complain(str(error))

    def save(self, registry: Registry, wall_ms: int) -> None:
        """Write what has changed since the last time."""
        if self._store is None:
            return
        try:
            self._store.save(registry.records(), wall_ms)
        except StoreError as error:
            self.behind = True
            self._complain(str(error))
            return
        if self._told:
            log.info("state: saved again")
        self.behind = False
        self._told = False

    def _complain(self, text: str) -> None:
        if not self._told:
            self._told = True
            log.error("%s; serving goes on from memory, and saving is tried again", text)

    def close(self) -> None:
        if self._store is not None:
            self._store.close()
