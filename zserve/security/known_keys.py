"""The known-keys file: which public keys belong to the fabric, and what each may be.

One key a line, for people to read and to write::

    # roles            public key (64 hexadecimal digits)                                name
    router             8e3f...                                                           router-1
    worker             51bc...                                                           gpu-box-3
    operator,caller    77aa...                                                           alice

Anything that is not understood makes the whole file unusable: half a file would lock out the peers of the other half.
"""

from __future__ import annotations

import hashlib
import re

import msgspec

from ..errors import ServeError
from .roles import KEY_ROLES

__all__ = ["KEY_BYTES", "OWNER_BYTES", "KnownKey", "KnownKeys", "known_line", "owner_of", "parse_known_keys"]

KEY_BYTES = 32
OWNER_BYTES = 8
"""So many bytes at the beginning of a node id are drawn from the key of the node, where it has one."""

MAX_KEYS = 10_000
_NAME = re.compile(r"[A-Za-z0-9_.:@/+-]{1,100}")
_KEY = re.compile(r"[0-9a-fA-F]{64}")


def owner_of(public: bytes) -> bytes:
    """What the ids of all nodes with this key begin with."""
    return hashlib.blake2b(public, digest_size=OWNER_BYTES, person=b"zserve-node").digest()


class KnownKey(msgspec.Struct, frozen=True):
    """One line: a public key (32 bytes), the roles that its holder may take, and a name for people.

    ``owner`` is what the ids of its nodes begin with.
    """

    public: bytes
    roles: frozenset[str]
    name: str
    owner: bytes


class KnownKeys:
    """All lines.  ``routers``: the public keys of routers, in the order of the file."""

    __slots__ = ("_by_key", "routers")

    def __init__(self, keys: list[KnownKey]) -> None:
        self._by_key = {key.public: key for key in keys}
        self.routers = [key.public for key in keys if "router" in key.roles]

    def __len__(self) -> int:
        return len(self._by_key)

    def get(self, public: bytes) -> KnownKey | None:
        return self._by_key.get(public)


def known_line(roles: list[str], public: bytes, name: str) -> str:
    """A line for the file.  Raises ValueError for a role or a name that could not be read back."""
    for role in roles:
        if role not in KEY_ROLES:
            raise ValueError(f"unknown role {role!r}; there are: {', '.join(KEY_ROLES)}")
    if not roles or not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a name of letters, digits and _.:@/+- (100 at most)")
    return f"{','.join(roles):<18} {public.hex()}  {name}"


def parse_known_keys(text: str) -> KnownKeys:
    """The content of a known-keys file.  Raises :class:`ServeError` that names the first line at fault."""
    keys: list[KnownKey] = []
    lines: dict[bytes, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            key = _parse_line(words)
        except ValueError as error:
            raise ServeError(f"line {number}: {error}") from None
        if key.public in lines:
            again = lines[key.public]
            raise ServeError(f"line {number}: the key of line {again} again; a key has one line for all its roles")
        lines[key.public] = number
        keys.append(key)
        if len(keys) > MAX_KEYS:
            raise ServeError(f"line {number}: more than {MAX_KEYS} keys")
    if not keys:
        # What an editor leaves for a moment, and an empty disk for ever, must not turn everyone away.
        raise ServeError("there is no key in it")
    known = KnownKeys(keys)
    if not known.routers:
        raise ServeError("none of the keys is a router's, so nobody could find the fabric")
    return known


def _parse_line(words: list[str]) -> KnownKey:
    if len(words) != 3:
        raise ValueError(f"{len(words)} words where there should be three: roles, public key, name")
    roles = words[0].split(",")
    for role in roles:
        if role not in KEY_ROLES:
            raise ValueError(f"unknown role {role[:40]!r}; there are: {', '.join(KEY_ROLES)}")
    if not _KEY.fullmatch(words[1]):
        raise ValueError("the second word is not a public key, which has 64 hexadecimal digits")
    if not _NAME.fullmatch(words[2]):
        raise ValueError(f"{words[2][:40]!r} is not a name of letters, digits and _.:@/+- (100 at most)")
    public = bytes.fromhex(words[1])
    assert len(public) == KEY_BYTES
    return KnownKey(public, frozenset(roles), words[2], owner_of(public))
