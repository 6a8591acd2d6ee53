"""A large body on its way in: read from the socket straight into the place where it stays.

As a rule an event loop reads into a buffer of its own, makes ``bytes`` of that, the parser cuts the body's part out of
these, and in the end the parts are put together: four copies of each byte, which for uploads of 1 MiB is a fifth of the
gateway's processor time.  A body whose length is known and of which much has come already (so that nobody can claim
memory by promising a body) needs none of them: a :class:`BodyReader` takes the place of the connection's protocol until
the body is complete.
"""

from __future__ import annotations

import asyncio
import ctypes
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .protocol import FabricProtocol

__all__ = ["SEGMENT_BYTES", "BodyReader"]

SEGMENT_BYTES = 1 << 20
"""How much memory is taken ahead of what has come; later as much again as has come."""

# ``bytearray(size)`` would be filled with zeros first, a tenth of the gateway's time for an upload.  The C API has what
# is wanted, "a new bytes object whose contents are uninitialized", to be filled by its maker before anybody else sees
# it (docs.python.org/3/c-api/bytes.html, PyBytes_FromStringAndSize and PyBytes_AsString).
_new_bytes = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t)(
    ("PyBytes_FromStringAndSize", ctypes.pythonapi)
)
_address_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object)(("PyBytes_AsString", ctypes.pythonapi))
_view_of = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int)(
    ("PyMemoryView_FromMemory", ctypes.pythonapi)
)
_PYBUF_WRITE = 0x200


def _segment(size: int) -> tuple[bytes, memoryview]:
    """*size* bytes that are not filled yet, and the only way to do so; it must not outlive them."""
    segment: bytes = _new_bytes(None, size)
    view: memoryview = _view_of(_address_of(segment), size, _PYBUF_WRITE)
    return segment, view


class BodyReader(asyncio.BufferedProtocol):
    """Reads the *left* bytes of a body that are to come, behind *begun*, its parts so far.

    Tells *owner*, the connection's protocol, after each read (:meth:`FabricProtocol.body_came`), and hands everything
    else on to it.  segments: what has come, in order, the last one perhaps not filled.  held: bytes of memory that they
    take.
    """

    def __init__(self, owner: FabricProtocol, begun: list[bytes] | tuple[()], left: int) -> None:
        self.left = left
        self.held = 0
        self.segments: list[bytes] = []
        self._owner = owner
        self._view = memoryview(b"")
        self._at = 0
        come = sum(map(len, begun))
        self._grow(max(SEGMENT_BYTES, come) if come + left > SEGMENT_BYTES else come + left)
        for part in begun:
            self._view[self._at : self._at + len(part)] = part
            self._at += len(part)

    def _grow(self, size: int) -> None:
        segment, self._view = _segment(size)
        self.segments.append(segment)
        self.held += size
        self._at = 0

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._at == len(self._view):
            self._grow(min(self.left, self.held))
        return self._view[self._at :]

    def buffer_updated(self, count: int) -> None:
        self._at += count
        self.left -= count
        self._owner.body_came(self, count)

    def body(self) -> bytes:
        """All of it, once nothing is left."""
        segments, self.segments, self._view = self.segments, [], memoryview(b"")
        return segments[0] if len(segments) == 1 else b"".join(segments)

    # --- what is the owner's business -------------------------------------------------------------------------------

    def eof_received(self) -> None:
        self._owner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._owner.connection_lost(exc)

    def pause_writing(self) -> None:
        self._owner.pause_writing()

    def resume_writing(self) -> None:
        self._owner.resume_writing()
