"""A hub whose sockets another thread may read for a while.

Somebody who runs what arrives can receive it himself: two threads fewer have to wake each other up on the way of a
message ("leader/followers"; Schmidt, Stal, Rohnert and Buschmann, Pattern-Oriented Software Architecture 2, 2000).  All
that touches the hub, its core and its sockets happens under one lock, in the event loop's thread too; ZeroMQ's sockets
may change threads then.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container
from typing import Any

from ..wire.codec import WireError, decode
from ..wire.messages import Call, NodeInfo
from .channel import Channel
from .hub import Hub
from .loop import SharedLoop
from .outbox import Parcel
from .shell import HubCore

__all__ = ["LendingHub"]


class LendingHub(Hub):
    """The lock of *loop* is held by whoever is about to touch the hub or its core, but for the event loop's callbacks
    into the hub, which take it themselves.  What is not said here is as for :class:`.hub.Hub`.

    The borrower gets calls only.  Whatever else arrives (heartbeats, cancellations, news of the registry) is the event
    loop's, and so is all that may open or close sockets or set timers.
    """

    def __init__(self, core: HubCore, info: NodeInfo, loop: SharedLoop, **settings: Any) -> None:
        super().__init__(core, info, loop=loop, **settings)
        self._lent: dict[int, Channel] = {}
        self._reading = False
        self._left: list[tuple[bytes, list[bytes]]] = []
        self.on_watch: Callable[[], None] = _nothing
        """Called ten times a second."""
        self.on_closing: Callable[[], None] = _nothing
        """Called before a socket is closed that is lent: the borrower must not wait for it any more."""

    # --- in the event loop's thread ---------------------------------------------------------------------------------

    def lend(self) -> list[int]:
        """The descriptors to watch, of all links with routers that carry no keys; none where there are no such."""
        channels = [dial.channel for dial in self._dials.values() if dial.role == "router" and not dial.server]
        self._lent = {channel.lend(): channel for channel in channels}
        return list(self._lent)

    def take_back(self) -> None:
        """The event loop reads again, beginning with what the borrower has left."""
        lent, self._lent = self._lent, {}
        if self._left:
            self._loop.call_soon(self._read_left)
        for channel in lent.values():
            channel.take_back()

    def _read_left(self) -> None:
        left, self._left = self._left, []
        if not left:
            return
        try:
            while left:
                self._on_dialled_frames(*left.pop(0))
        except BaseException:  # one that fails must not cost those behind it
            if left:
                self._left = left
                self._loop.call_soon(self._read_left)
            raise
        finally:
            super()._on_read()

    def _watch(self) -> None:
        super()._watch()
        self.on_watch()

    def _close_dial(self, peer: bytes, reason: str, again: bool) -> None:
        self._before_closing(peer)
        super()._close_dial(peer, reason, again)

    def _forget_dial(self, peer: bytes) -> None:
        self._before_closing(peer)
        super()._forget_dial(peer)

    def _before_closing(self, peer: bytes) -> None:
        dial = self._dials.get(peer)
        if dial is not None and dial.channel in self._lent.values():
            self.on_closing()

    # --- in the borrower's thread -----------------------------------------------------------------------------------

    def read(self, ready: Container[int]) -> bool:
        """Give the core the calls that have come; *ready* are the descriptors that say so.

        False when something has come that is for the event loop.
        """
        self._inside = self._reading = True
        try:
            for descriptor, channel in self._lent.items():
                if descriptor in ready or channel.due:
                    channel.read()
        finally:
            self._inside = self._reading = False
        if self.core.out.pending or self.core.out.closed:
            self._leave()
        return not self._left

    @property
    def due(self) -> bool:
        """Whether :meth:`read` is to be called though no descriptor says so."""
        return any(channel.due for channel in self._lent.values())

    def tell(self, event: Callable[..., None], *args: Any) -> None:
        """Tell the core of an *event*, and send what that leads to."""
        self._inside = True
        try:
            event(*args)
        finally:
            self._inside = False
        self._leave()

    def _leave(self) -> None:
        out = self.core.out
        if out.pending:
            for peer, parcels in out.take().items():
                self._send(peer, parcels)
        if out.publications or out.closed or self.links.dropped:
            self.poke()
        wanted = self.core.next_wakeup()
        if wanted is not None and wanted < self._timer_at:
            self._loop.call_soon(self._set_timer)

    def _on_frames(self, peer: bytes, frames: list[bytes]) -> None:
        if not self._reading:
            self._read_left()  # it came before
            super()._on_frames(peer, frames)
            return
        if not self._left and self.links.trusts(peer):
            try:
                parcels = decode(frames)
            except WireError:
                parcels = []
            if _only_calls(parcels):
                self.links.received(peer, parcels, time.monotonic())
                return
        self._left.append((peer, frames))

    def _on_read(self) -> None:
        if not self._reading:
            super()._on_read()


def _nothing() -> None: ...


def _only_calls(parcels: list[Parcel]) -> bool:
    for message, _, _ in parcels:
        if type(message) is not Call:
            return False
    return bool(parcels)
