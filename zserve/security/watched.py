"""Files that are read again when they change, and whose last good content stays in force whatever becomes of them."""

from __future__ import annotations

import logging
import os
import stat
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from ..errors import ServeError

__all__ = ["LOOK_EVERY_S", "Watched", "Watcher"]

T = TypeVar("T")

log = logging.getLogger("zserve.security")

LOOK_EVERY_S = 0.5
MAX_FILE_BYTES = 4 * 1024 * 1024


class Watched(Generic[T]):
    """The file at *path*, understood by *parse*, which raises :class:`ServeError` for what it does not understand.

    ``value`` is the last good content, ``error`` why the file can not be used at the moment ("": it can).  *what* is
    what messages call it.  Raises :class:`ServeError` if the first reading fails: then there is no good content yet.
    """

    def __init__(self, path: Path, parse: Callable[[str], T], what: str) -> None:
        self.path = path
        self.what = what
        self.error = ""
        self._parse = parse
        self._seen = self._signature()
        self._taken = self._seen
        self.value: T = self._read()

    def look(self) -> bool:
        """Take a change, if there is one; True if ``value`` is another one now.  Never raises.

        A change counts when two looks in a row see the same: a file that is being written is not read half.
        """
        signature = self._signature()
        settled, self._seen = signature == self._seen, signature
        if not settled or (signature == self._taken and not self.error):
            return False
        self._taken = signature
        try:
            value = self._read()
        except ServeError as error:
            self._complain(str(error))
            return False
        except Exception as error:
            self._complain(f"{self.what} {self.path}: {type(error).__name__}: {error}")
            return False
        if self.error:
            log.info("%s %s is in order again", self.what, self.path)
        self.error = ""
        changed = value != self.value
        self.value = value
        if changed:
            log.info("%s %s has changed, and is in force", self.what, self.path)
        return changed

    def _complain(self, error: str) -> None:
        if error != self.error:
            log.error("%s; what was read before stays in force", error)
        self.error = error

    def _signature(self) -> tuple[int, ...]:
        try:
            found = os.stat(self.path)
        except OSError:
            return ()
        return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino

    def _read(self) -> T:
        try:
            with self.path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                content = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise ServeError(f"cannot read {self.what} {self.path}: {error.strerror}") from None
        if mode & 0o022:
            text = f"{self.what} {self.path} can be written by others (mode {stat.S_IMODE(mode):04o}); `chmod go-w` it"
            raise ServeError(text)
        if len(content) > MAX_FILE_BYTES:
            raise ServeError(f"{self.what} {self.path} has more than {MAX_FILE_BYTES} bytes")
        try:
            return self._parse(content.decode("utf-8"))
        except UnicodeDecodeError:
            raise ServeError(f"{self.what} {self.path} is not text") from None
        except ServeError as error:
            raise ServeError(f"{self.what} {self.path}, {error}") from None


class Watcher:
    """A thread that looks at *files* again and again, and calls *on_change* (in that thread) when a value has changed.

    A thread, because a file may be on a disk that hangs, and nothing else may hang with it.
    """

    def __init__(self, files: Sequence[Watched[Any]], on_change: Callable[[], None]) -> None:
        self._files = list(files)
        self._on_change = on_change
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="zserve-key-files", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Have the thread end; does not wait for it."""
        self._end.set()

    def _run(self) -> None:
        while not self._end.wait(LOOK_EVERY_S):
            try:
                changed = [file.look() for file in self._files]
                if any(changed):
                    self._on_change()
            except Exception:
                log.exception("looking at the key files failed")
