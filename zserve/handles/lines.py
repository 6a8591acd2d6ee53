"""Which caller serves which fabric in this process: one each, made when the first handle needs it.

A line outlives a fork: the child makes a caller of its own.  It ends with :func:`hang_up`, and at interpreter exit.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import FabricUnreachable

if TYPE_CHECKING:
    from .caller import Caller

__all__ = ["ROUTERS_VARIABLE", "Line", "hang_up", "inside_replica", "line_to"]

ROUTERS_VARIABLE = "ZSERVE_REPLICA_ROUTERS"
"""In a replica: the addresses of the routers that its worker node knew when it started, one a line."""


class Line:
    """The way to one fabric from this process."""

    __slots__ = ("_caller", "_lock", "addresses", "closed", "name")

    def __init__(self, addresses: Sequence[str], name: str) -> None:
        self.addresses = list(addresses)
        self.name = name
        self.closed = False
        self._caller: Caller | None = None
        self._lock = threading.Lock()

    def caller(self) -> Caller:
        """The engine, started if need be.  Raises FabricUnreachable once the fabric was left."""
        caller = self._caller
        if caller is not None:
            return caller
        with self._lock:
            if self.closed:
                raise FabricUnreachable(
                    "the fabric of this handle was left with serve.shutdown(); call serve.init() and get a new handle"
                )
            if self._caller is None:
                from .caller import Caller

                self._caller = Caller(self.addresses, self.name)
            return self._caller

    def close(self) -> None:
        with self._lock:
            self.closed = True
            caller, self._caller = self._caller, None
        if caller is not None:
            caller.close()

    def forked(self) -> None:
        """In the child: the parent's thread is not here."""
        caller, self._caller = self._caller, None
        self._lock = threading.Lock()
        if caller is not None:
            caller.forget()


_lines: dict[str, Line] = {}
_lock = threading.Lock()
_hooked = False


def line_to(addresses: Sequence[str], name: str = "") -> Line:
    """The line to the fabric that is reached at the first of *addresses*."""
    global _hooked
    with _lock:
        line = _lines.get(addresses[0])
        if line is None:
            line = _lines[addresses[0]] = Line(addresses, name)
        if not _hooked:
            _hooked = True
            atexit.register(_hang_up_all)
            os.register_at_fork(after_in_child=_after_fork)
    return line


def inside_replica() -> list[str] | None:
    """The routers' addresses, when this process is a replica; None elsewhere."""
    if not os.environ.get("ZSERVE_REPLICA"):
        return None
    return [address for address in os.environ.get(ROUTERS_VARIABLE, "").split("\n") if address]


def hang_up(address: str) -> None:
    """The fabric at *address* is left: its handles end, and so does what they wait for."""
    with _lock:
        line = _lines.pop(address, None)
    if line is not None:
        line.close()


def _hang_up_all() -> None:
    for address in list(_lines):
        hang_up(address)


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    for line in _lines.values():
        line.forked()
