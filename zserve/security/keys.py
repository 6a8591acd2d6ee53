"""Key pairs for CURVE: made, kept in a file that only its owner reads, read again.

The file is TOML with two lines, ``public`` and ``secret``, each 32 bytes as 64 hexadecimal digits (not Z85, which is
full of characters that shells, unit files and double clicks trip over).
"""

from __future__ import annotations

import os
import stat
import tomllib
from pathlib import Path

import msgspec
import zmq
from zmq.utils import z85

from ..errors import ServeError
from .known_keys import KEY_BYTES

__all__ = ["KeyPair", "has_curve", "new_key_pair", "read_key", "write_private"]

_MAX_FILE_BYTES = 64 * 1024


class KeyPair(msgspec.Struct, frozen=True):
    """A CURVE key pair, 32 bytes each.  ``repr`` does not show the secret one."""

    public: bytes
    secret: bytes

    def __repr__(self) -> str:
        return f"KeyPair({self.public.hex()})"


def has_curve() -> bool:
    """Whether the ZeroMQ library of this Python can encrypt."""
    return bool(zmq.has("curve"))


def new_key_pair() -> KeyPair:
    """A fresh pair.  Raises :class:`ServeError` where the ZeroMQ library cannot encrypt."""
    _need_curve()
    public, secret = zmq.curve_keypair()
    return KeyPair(z85.decode(public), z85.decode(secret))


def write_private(path: Path, text: str) -> None:
    """A new file that only its owner may read (0600), with *text* in it.

    Raises :class:`ServeError` if it exists already (nobody loses a key by a mistyped name) or cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise ServeError(f"{path} exists already, and is left alone; remove it first, or choose another name") from None
    except OSError as error:
        raise ServeError(f"cannot write {path}: {error.strerror}") from None
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        os.fchmod(descriptor, 0o600)  # whatever the umask says
        file.write(text)
        file.flush()
        os.fsync(descriptor)


def read_key(path: Path) -> KeyPair:
    """The pair in the file at *path*.

    Raises :class:`ServeError`, which never quotes the secret, for a file that cannot be read, is open to others, or
    does not hold a pair that belongs together.
    """
    _need_curve()
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(_MAX_FILE_BYTES)
    except OSError as error:
        raise ServeError(f"cannot read the key file {path}: {error.strerror}; make one with `zserve keygen`") from None
    if mode & 0o077:
        raise ServeError(
            f"the key file {path} can be read by others (mode {stat.S_IMODE(mode):04o}); `chmod 600` it, and if others "
            "may have read it already, make another key"
        )
    try:
        found = tomllib.loads(content.decode("ascii"))
        public, secret = bytes.fromhex(str(found["public"])), bytes.fromhex(str(found["secret"]))
        fits = len(secret) == KEY_BYTES and z85.decode(zmq.curve_public(z85.encode(secret))) == public
    except (KeyError, ValueError):
        fits = False
    if not fits:
        raise ServeError(f"{path} is not a key file made by `zserve keygen`, or was damaged")
    return KeyPair(public, secret)


def _need_curve() -> None:
    if not has_curve():
        raise ServeError("this build of pyzmq has no CURVE; install the pyzmq wheel, or a libzmq built with libsodium")
