"""Answers to many connections in one system call.

A gateway has the answers to many requests at a time, each for another connection.  A ``write`` for each costs more than
itself where the clients are on the same machine, or their packets are dealt with on the same processor: each one wakes
somebody up, who then takes the processor away from the gateway, for one answer.  With io_submit(2) all of them are
written before anybody else runs.  On sockets that do not block it does the writing on the spot, and not later.

It is Linux's old interface for asynchronous files, which takes sockets as well (M. Majkowski, "io_submit: The epoll
alternative you've never heard about", 2019), and is there since 4.18, in containers too, where io_uring mostly is not
allowed.  Where it does not work, :func:`open_writes` says so, and the event loop writes as ever.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import platform
import socket
import struct
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .protocol import FabricProtocol

__all__ = ["Gatherer", "Outgoing", "Writes", "open_writes"]

log = logging.getLogger("zserve.http")

Outgoing = tuple[int, Any, bytes]
"""(descriptor of a socket that does not block, its transport, data)"""

_MOST = 64
"""Writes in one call."""
_CALLS = {"x86_64": (206, 207, 209, 208), "aarch64": (0, 1, 2, 4)}
"""The numbers of io_setup, io_destroy, io_submit and io_getevents, which the C library has no names for."""
_PWRITE = 1
# struct iocb and struct io_event of linux/aio_abi.h, on machines that are little-endian: data, key, rw_flags, opcode,
# reqprio, fildes, buf, nbytes, offset, reserved, flags, resfd; and of those the three that are set each time.
_BLOCK = struct.Struct("<QIIHhIQQqQII")
_WHAT = struct.Struct("<IQQ")
_WHAT_AT = 20
_EVENT = struct.Struct("<QQqq")  # data, obj, res, res2


class Writes:
    """A context for asynchronous input and output of this process.  Raises OSError where there can be none."""

    __slots__ = ("_blocks", "_call", "_context", "_destroy", "_events", "_pointers", "_reap", "_submit")

    def __init__(self) -> None:
        numbers = _CALLS.get(platform.machine()) if sys.platform == "linux" and sys.byteorder == "little" else None
        if numbers is None:
            raise OSError(errno.ENOSYS, "only on Linux, on x86-64 and ARM")
        setup, self._destroy, self._submit, self._reap = map(ctypes.c_long, numbers)
        self._call = ctypes.CDLL(None, use_errno=True).syscall
        self._call.restype = ctypes.c_long
        self._context = ctypes.c_ulong(0)
        if self._call(setup, ctypes.c_long(_MOST), ctypes.byref(self._context)):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        self._blocks = ctypes.create_string_buffer(_BLOCK.size * _MOST)
        first = ctypes.addressof(self._blocks)
        self._pointers = (ctypes.c_void_p * _MOST)(*range(first, first + _BLOCK.size * _MOST, _BLOCK.size))
        self._events = ctypes.create_string_buffer(_EVENT.size * _MOST)
        for number in range(_MOST):
            _BLOCK.pack_into(self._blocks, _BLOCK.size * number, number, 0, 0, _PWRITE, 0, 0, 0, 0, 0, 0, 0, 0)

    def send(self, outgoing: Sequence[Outgoing]) -> None:
        """Write all of *outgoing*; what a socket does not take, or not now, is its transport's."""
        for start in range(0, len(outgoing), _MOST):
            together = outgoing[start : start + _MOST]
            for (_, transport, data), written in zip(together, self._write(together), strict=True):
                if written != len(data):
                    transport.write(data[max(0, written) :])

    def _write(self, outgoing: Sequence[Outgoing]) -> list[int]:
        """How much of each was written, below zero for nothing."""
        count = len(outgoing)
        joined = b"".join([data for _, _, data in outgoing])
        address = ctypes.cast(ctypes.c_char_p(joined), ctypes.c_void_p).value or 0
        blocks, set_what = self._blocks, _WHAT.pack_into
        at = _WHAT_AT
        for descriptor, _, data in outgoing:
            size = len(data)
            set_what(blocks, at, descriptor, address, size)
            address += size
            at += _BLOCK.size
        written = [-1] * count
        left = max(0, self._call(self._submit, self._context, ctypes.c_long(count), self._pointers))
        while left:
            found = self._call(
                self._reap, self._context, ctypes.c_long(left), ctypes.c_long(left), self._events, None
            )
            if found <= 0:
                if ctypes.get_errno() == errno.EINTR:
                    continue
                raise OSError(ctypes.get_errno(), "io_getevents failed")  # cannot be: nobody knows what was written
            left -= found
            for number, _, result, _ in _EVENT.iter_unpack(self._events.raw[: found * _EVENT.size]):
                written[number] = result
        return written

    def close(self) -> None:
        if self._context:
            self._call(self._destroy, self._context)
            self._context = ctypes.c_ulong(0)


class Gatherer:
    """Answers that are to leave together, from :meth:`take` to :meth:`send`.

    Nothing may overtake anything else on its connection.  So an answer is not taken where the transport has something
    that the kernel has not (uvloop and asyncio hand over at once what they can, so its buffer says it), or where the
    next request is there already, whose answer could be written before this one.  together: how many left with others.
    """

    __slots__ = ("_outgoing", "_writes", "together")

    def __init__(self, writes: Writes) -> None:
        self.together = 0
        self._writes = writes
        self._outgoing: list[Outgoing] = []

    def take(self, protocol: FabricProtocol, data: bytes) -> bool:
        """Whether this answer is going to be written with others."""
        transport = protocol.transport
        if (
            protocol.descriptor < 0
            or protocol.pipeline
            or transport.get_write_buffer_size()
            or transport.is_closing()
        ):
            return False
        self._outgoing.append((protocol.descriptor, transport, data))
        return True

    def send(self) -> None:
        """Write those that were taken."""
        outgoing, self._outgoing = self._outgoing, []
        if len(outgoing) > 1:
            self.together += len(outgoing)
            self._writes.send(outgoing)
        elif outgoing:
            ((_, transport, data),) = outgoing
            transport.write(data)


def open_writes() -> Writes | None:
    """One that is known to work here, or None."""
    try:
        writes = Writes()
    except (OSError, AttributeError) as error:
        log.debug("answers are written one by one: %s", error)
        return None
    if _works(writes):
        return writes
    log.debug("answers are written one by one: io_submit does not take sockets here")
    writes.close()
    return None


def _works(writes: Writes) -> bool:
    """Try it on two pairs of sockets, one of which is full."""
    one, other = socket.socketpair(), socket.socketpair()
    try:
        for pair in (one, other):
            for end in pair:
                end.setblocking(False)
        filled = 0
        try:
            while True:
                filled += one[0].send(bytes(65_536))
        except BlockingIOError:
            pass
        full, empty = writes._write([(one[0].fileno(), None, b"some"), (other[0].fileno(), None, b"more")])
        return full == -errno.EAGAIN and empty == 4 and other[1].recv(8) == b"more"
    except OSError:
        return False
    finally:
        for end in (*one, *other):
            end.close()
