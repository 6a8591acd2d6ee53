"""The private folder of a fabric on this machine: its ipc sockets, its code files, and how other commands find it.

    BASE/                 $ZSERVE_RUN_DIR, or $XDG_RUNTIME_DIR/zserve, or /tmp/zserve-UID; 0700, ours, no link
      NAME-PID/           one fabric, 0700
        lock              held (flock) as long as the fabric lives; a folder whose lock is free is stale, and swept
        fabric.json       what ``zserve status`` needs to know
        *.sock            ZeroMQ sockets
      state/            the registry, over a restart of the router
        code/             code files of the embedded fabric, 0600

ZeroMQ neither removes a socket's file nor complains when a second process binds it, hence one folder a start, and the
lock.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import stat
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import msgspec

from zserve.errors import ServeError

__all__ = ["Fabric", "RunDirectory", "base_directory", "find_fabrics", "sweep", "the_only_fabric"]

MAX_SOCKET_PATH = 103 if os.uname().sysname == "Darwin" else 107
"""Bytes that a Unix socket's path may have (sun_path less the closing zero)."""

_UNFINISHED = ".new-"
_UNFINISHED_S = 60.0
_REMOVALS = 50


class Fabric(msgspec.Struct, frozen=True, kw_only=True):
    """One running fabric of this user on this machine.  ``address``: of a router; ``http``: URL; ``pid``: its owner."""

    name: str
    pid: int
    address: str
    http: str = ""
    run_dir: str = ""


class RunDirectory:
    """The folder of one fabric; a context manager that removes it.

    Creating one sweeps what dead fabrics have left.  Raises :class:`ServeError` where the base folder is not private,
    cannot be written, or has a name that is too long for sockets.
    """

    def __init__(self, name: str = "", *, base: Path | None = None) -> None:
        self.name = name
        self.base = base_directory() if base is None else base
        self._owner = os.getpid()
        stem = f"{re.sub(r'[^A-Za-z0-9_.-]', '_', name)[:24] or 'fabric'}-{self._owner}"
        for attempt in (1, 2, 3):
            try:
                _make_private(self.base)
                sweep(self.base)
                _make_private(self.base)
                self.path, self._lock = _create(self.base, stem)
                break
            except OSError as error:  # the last fabric of the base may be removing it just now
                if attempt == 3:
                    text = error.strerror or str(error)
                    raise ServeError(f"cannot create a run directory under {self.base}: {text}") from error
        try:
            self.socket_path("replica")  # the longest: better now than when the first node starts
        except ServeError:
            self.remove()
            raise
        self.code.mkdir(mode=0o700)

    @property
    def state(self) -> Path:
        """Where a router keeps the registry as long as the fabric lives."""
        return self.path / "state"

    @property
    def code(self) -> Path:
        """Where code files for replicas of the same user go."""
        return self.path / "code"

    def socket_path(self, name: str) -> Path:
        """The file of a socket; raises :class:`ServeError` if its path is too long for the system."""
        path = self.path / f"{name}.sock"
        length = len(os.fsencode(path))
        if length > MAX_SOCKET_PATH:
            raise ServeError(
                f"the run directory's name is too long for sockets ({length} bytes, at most {MAX_SOCKET_PATH}): {path}"
                "; set ZSERVE_RUN_DIR to a shorter one"
            )
        return path

    def socket_address(self, name: str) -> str:
        """The ZeroMQ address of a socket."""
        return f"ipc://{self.socket_path(name)}"

    def announce(self, *, address: str, http: str = "") -> Fabric:
        """Write ``fabric.json``, by which :func:`find_fabrics` finds this fabric."""
        fabric = Fabric(name=self.name, pid=self._owner, address=address, http=http, run_dir=str(self.path))
        draft = self.path / "fabric.json.new"
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(msgspec.json.encode(fabric) + b"\n")
        draft.rename(self.path / "fabric.json")
        return fabric

    def remove(self) -> None:
        """Remove the folder and, when it is the last, the base.  Only the process that made it does; again: a no-op."""
        if self._lock < 0 or os.getpid() != self._owner:
            return
        for _ in range(_REMOVALS):  # a process that was killed may still be dying, and make a file in between
            shutil.rmtree(self.path, ignore_errors=True)
            if not self.path.exists():
                break
            time.sleep(0.02)
        os.close(self._lock)
        self._lock = -1
        with suppress(OSError):
            self.base.rmdir()

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


def base_directory() -> Path:
    """Where run directories are; not created, not checked."""
    if given := os.environ.get("ZSERVE_RUN_DIR"):
        return Path(os.path.abspath(given))
    if (runtime := os.environ.get("XDG_RUNTIME_DIR")) and os.path.isdir(runtime):
        return Path(runtime) / "zserve"
    return Path(f"/tmp/zserve-{os.getuid()}")  # not $TMPDIR: two terminals of one user must agree


def find_fabrics(base: Path | None = None) -> list[Fabric]:
    """The live fabrics of this user on this machine, by name.  A base that is not ours counts as empty."""
    base = base_directory() if base is None else base
    if _why_not_private(base):
        return []
    found = []
    for folder in sorted(base.iterdir()):
        if not _alive(folder):
            continue
        with suppress(OSError, msgspec.DecodeError):
            found.append(msgspec.json.decode((folder / "fabric.json").read_bytes(), type=Fabric))
    return sorted(found, key=lambda fabric: (fabric.name, fabric.pid))


def the_only_fabric(base: Path | None = None) -> Fabric:
    """The one live fabric; raises :class:`ServeError` that says what to do if there is none or more than one."""
    found = find_fabrics(base)
    if not found:
        raise ServeError(
            "no fabric of yours runs on this machine; start one with `zserve run MODULE`, "
            "or name a router of another one with --address (or ZSERVE_ADDRESS)"
        )
    if len(found) > 1:
        listed = "".join(f"\n  --address {fabric.address}  {fabric.name or '-'}  {fabric.http}" for fabric in found)
        raise ServeError(f"{len(found)} fabrics run on this machine; say which with --address:{listed}")
    return found[0]


def _make_private(base: Path) -> None:
    try:
        base.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise ServeError(
            f"cannot create the run directory {base}: {error.strerror}; set ZSERVE_RUN_DIR to a folder you can write to"
        ) from error
    if why := _why_not_private(base):
        raise ServeError(f"the run directory {base} {why}; remove it, or set ZSERVE_RUN_DIR to another one")


def _why_not_private(base: Path) -> str:
    try:
        found = base.lstat()
    except OSError as error:
        return f"cannot be used: {error.strerror}"
    if stat.S_ISLNK(found.st_mode):
        return "is a symbolic link, which could lead anywhere"
    if not stat.S_ISDIR(found.st_mode):
        return "is not a folder"
    if found.st_uid != os.getuid():
        return "belongs to another user"
    if found.st_mode & 0o077:
        return f"is open to other users (mode {stat.S_IMODE(found.st_mode):04o}, needs 0700)"
    return ""


def _create(base: Path, stem: str) -> tuple[Path, int]:
    """A new folder and its lock, held before the folder gets its name: nobody ever sees it without."""
    path = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=base))
    lock = _lock(path / "lock", create=True)
    for number in range(1000):
        target = base / (f"{stem}-{number}" if number else stem)
        try:
            path.rename(target)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
        else:
            return target, lock
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))


def _lock(path: Path, *, create: bool) -> int:
    """A descriptor that holds the lock; raises OSError if another process does or, without *create*, it is missing."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd


def _alive(folder: Path) -> bool:
    try:
        fd = _lock(folder / "lock", create=False)
    except BlockingIOError:
        return True
    except OSError:
        return False
    os.close(fd)
    return False


def sweep(base: Path) -> None:
    """Remove the folders of fabrics that have died, and the base if nothing is left in it."""
    for folder in list(base.iterdir()):
        with suppress(OSError):  # alive, or another process is removing it
            if folder.is_symlink() or not folder.is_dir():
                continue
            if folder.name.startswith(_UNFINISHED) and time.time() - folder.stat().st_mtime < _UNFINISHED_S:
                continue  # another process is creating it just now
            fd = _lock(folder / "lock", create=True)
            shutil.rmtree(folder, ignore_errors=True)
            os.close(fd)
    with suppress(OSError):
        base.rmdir()

