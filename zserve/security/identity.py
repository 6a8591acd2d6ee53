"""The key of this process, and the keys that it knows."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import ServeError
from .keys import KeyPair, read_key
from .known_keys import OWNER_BYTES, KnownKeys, owner_of, parse_known_keys
from .watched import Watched, Watcher

__all__ = ["KEY_VARIABLE", "KNOWN_KEYS_VARIABLE", "Security", "from_environment", "keyed"]

KEY_VARIABLE = "ZSERVE_KEY"
KNOWN_KEYS_VARIABLE = "ZSERVE_KNOWN_KEYS"


def keyed(address: str) -> bool:
    """Whether a process that has a key uses it at *address*: on tcp.  An ipc socket is a file in a folder that only its
    user can open, and stays plain."""
    return address.startswith("tcp://")


class Security:
    """A key pair, and the known-keys file beside it."""

    def __init__(self, pair: KeyPair, known: Watched[KnownKeys]) -> None:
        self.pair = pair
        self._file = known
        self._working: dict[str, bytes] = {}
        self._tried: dict[str, int] = {}

    @classmethod
    def load(cls, key: str, known_keys: str) -> Security:
        """Read both files.  Raises :class:`ServeError` that says what is wrong with which of them."""
        if not key or not known_keys:
            raise ServeError("--key and --known-keys (or ZSERVE_KEY and ZSERVE_KNOWN_KEYS) go together; one is missing")
        return cls(read_key(Path(key)), Watched(Path(known_keys), parse_known_keys, "the known-keys file"))

    def known(self) -> KnownKeys:
        """The keys in force."""
        return self._file.value

    @property
    def error(self) -> str:
        """Why the known-keys file can not be used at the moment, so that what was read before is in force; or ""."""
        return self._file.error

    def node_id(self, drawn: bytes) -> bytes:
        """*drawn*, 16 bytes, as the id of a node with this key: nobody with another key can claim it."""
        return owner_of(self.pair.public) + drawn[OWNER_BYTES:]

    def watch(self, on_change: Callable[[], None]) -> Watcher:
        """Read the known-keys file again when it changes; *on_change* is called, in a thread of its own, when other
        keys are in force."""
        return Watcher([self._file], on_change)

    # --- which key does the router at an address have? --------------------------------------------------------------

    def router_key(self, address: str) -> bytes:
        """The key to expect at *address*: the one that was found there, or the next one to try.

        CURVE wants it before the first byte, and an address does not tell it.
        """
        routers = self.known().routers
        working = self._working.get(address)
        if working is not None and working in routers:
            return working
        return routers[self._tried.get(address, 0) % len(routers)]

    def found(self, address: str, public: bytes) -> None:
        """The router at *address* has proven to hold *public*."""
        self._working[address] = public

    def not_found(self, address: str) -> None:
        """There is no link with the key that was expected at *address*: the next one, next time."""
        self._working.pop(address, None)
        self._tried[address] = self._tried.get(address, 0) + 1


def from_environment(addresses: Sequence[str]) -> Security | None:
    """What ZSERVE_KEY and ZSERVE_KNOWN_KEYS name, if they are set and one of *addresses* calls for it.

    Raises :class:`ServeError`.
    """
    key, known = os.environ.get(KEY_VARIABLE, ""), os.environ.get(KNOWN_KEYS_VARIABLE, "")
    if not (key or known) or not any(keyed(address) for address in addresses):
        return None
    return Security.load(key, known)
