"""One ZeroMQ socket on an event loop.

The socket is plain (``zmq.asyncio`` costs three times the CPU a message: one event-loop callback and several futures
each), registered by its file descriptor and drained.  That descriptor is edge-triggered: it becomes readable when
*something* changed, once, and also a send can make the socket readable without telling.  Hence the rules kept here:

1. A drain reads until EAGAIN or until its budget is spent, and then looks at EVENTS once more.
2. After sending, EVENTS is looked at as well.
3. Sends never block; what the socket does not take now is held, bounded, and sent when it becomes writable.
4. Nobody awaits a receive (a cancelled one would lose its message): frames are given to a callback.
5. A watchdog looks at EVENTS now and then, and *counts* when it finds work that no wake-up announced, so that a missed
   wake-up is a number in the statistics and not a hang.
6. One thread, one process: a socket inherited by a fork swallows messages silently, so the process id is checked.
"""

from __future__ import annotations

import os
import select
import time
from collections import deque
from collections.abc import Callable, Sequence
from threading import get_ident
from typing import Any

import zmq
from zmq.backend import zmq_poll

from ..wire.codec import LARGE
from .loop import Loop

__all__ = ["Channel", "Unreachable"]

# pyzmq's enums cost more than the calls that they are for (5.1 against 2.9 us a message of three frames), and so does
# recv_multipart, which asks for RCVMORE behind each frame (10.1 against 4.6 us).  To ask for EVENTS makes an enum in
# any case; zmq_poll of the one socket looks at the same thing for less than half of that (1.1 against 2.5 us).
_NOBLOCK, _SNDMORE = int(zmq.NOBLOCK), int(zmq.SNDMORE)
_POLLIN, _POLLOUT = int(zmq.POLLIN), int(zmq.POLLOUT)

_BUDGET = 128
"""Messages read in one go before the event loop gets its turn."""
_BUDGET_S = 0.001
_LEADING = 2
"""Behind a ROUTER's routing id: the frames of a wire message that are not bodies (see :mod:`zserve.wire.codec`)."""
_GLANCE_S = 0.0002
_MAX_HELD = 1024
"""Wire messages held for a socket that does not take them; more means that the peer is stuck."""


class Unreachable(Exception):
    """The socket knows no such peer, or the peer has not taken anything for too long."""


class Channel:
    """Owns *socket*; gives the frames of each incoming message to *on_frames*.

    *forwards*, for a ROUTER: large bodies are only passed on, so they are given as ``zmq.Frame``, whose bytes ZeroMQ
    sends again as they lie there.  All else is bytes.

    *on_read* is called when there is no more to read for now, if there was something: what the frames have led to can
    leave then, without another round of the event loop.

    *on_held_failed* is called with the routing id (b"" where there is only one peer) when what was held could not be
    delivered after all.
    """

    def __init__(
        self,
        loop: Loop,
        socket: zmq.Socket[bytes],
        on_frames: Callable[[list[bytes]], None],
        on_held_failed: Callable[[bytes], None] | None = None,
        *,
        on_read: Callable[[], None] | None = None,
        forwards: bool = False,
    ) -> None:
        self.missed_wakeups = 0
        self.received = 0
        self.sent = 0
        self._received_before = -1
        self._loop = loop
        self._socket = socket
        self._on_frames = on_frames
        self._on_held_failed = on_held_failed
        self._on_read = on_read
        self._forwards = forwards
        self._held: deque[tuple[bytes, Sequence[bytes]]] = deque()
        fd: Any = socket.getsockopt(zmq.FD)
        self._fd: int = fd
        self._pid = os.getpid()
        self._send_frame: Any = super(zmq.Socket, socket).send  # without pyzmq's checks for groups and routing ids
        self._for_input = [(socket, _POLLIN)]
        self._for_output = [(socket, _POLLOUT)]
        self._drain_soon = False
        self._closed = False
        self._reading = False  # and looks again in any case
        self._borrower = 0
        # A ROUTER is writable as soon as one of its peers is, which says nothing about the one that is held for.
        self._one_peer = socket.getsockopt(zmq.TYPE) != zmq.ROUTER
        self._receives = socket.getsockopt(zmq.TYPE) != zmq.PUB
        loop.add_reader(self._fd, self._on_ready)
        self._schedule()

    # --- sending ----------------------------------------------------------------------------------------------------

    def send(self, frames: Sequence[bytes], peer: bytes = b"") -> None:
        """Send one message now, or hold it until the socket takes it.  Raises Unreachable."""
        behind = bool(self._held) and (not peer or any(waiting == peer for waiting, _ in self._held))
        if behind or not self._send_now(frames, peer):
            self._hold(frames, peer)
        # Looking takes the descriptor's signal away, also the one that says that a held message could leave now.
        looks = self._receives and not (self._drain_soon or self._reading)
        if looks and (self._readable() or (self._held and self._one_peer and zmq_poll(self._for_output, 0))):
            self._schedule()

    def _send_now(self, frames: Sequence[bytes], peer: bytes) -> bool:
        if self._closed:
            raise Unreachable("closed")
        if os.getpid() != self._pid:
            raise RuntimeError("a ZeroMQ socket does not survive a fork")
        send = self._send_frame
        try:
            if peer:
                send(peer, _NOBLOCK | _SNDMORE)
            last = len(frames) - 1
            for number, frame in enumerate(frames):
                flags = _NOBLOCK if number == last else _NOBLOCK | _SNDMORE
                send(frame, flags, len(frame) < LARGE)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            raise Unreachable(error.strerror) from None
        self.sent += 1
        return True

    def _hold(self, frames: Sequence[bytes], peer: bytes) -> None:
        if len(self._held) >= _MAX_HELD:
            raise Unreachable(f"{len(self._held)} messages wait for it")
        self._held.append((peer, frames))

    def _send_held(self) -> None:
        """Offer what is held once more, in order for each peer."""
        stuck: set[bytes] = set()
        for _ in range(len(self._held)):
            peer, frames = self._held.popleft()
            if peer in stuck:
                self._held.append((peer, frames))
                continue
            try:
                if self._send_now(frames, peer):
                    continue
            except Unreachable:
                if self._on_held_failed is not None:
                    self._on_held_failed(peer)
                continue
            stuck.add(peer)
            self._held.append((peer, frames))

    def _readable(self) -> bool:
        return bool(zmq_poll(self._for_input, 0))

    # --- receiving --------------------------------------------------------------------------------------------------

    def _schedule(self) -> None:
        if not self._drain_soon:
            self._drain_soon = True
            if not self._borrower or get_ident() != self._borrower:  # who borrows it looks at :attr:`due`
                self._loop.call_soon(self._drain)

    def _on_ready(self) -> None:
        if not self._drain_soon:
            self._drain()

    def _drain(self) -> None:
        self._drain_soon = False
        if self._closed:
            return
        if not self._receives:
            # Looking at EVENTS lets ZeroMQ deal with what made the descriptor readable; otherwise it stays so, and the
            # event loop spins.
            self._readable()
            self._send_held()
            return
        receive = self._socket.recv
        on_frames, forwards = self._on_frames, self._forwards
        stop_at = 0.0
        count = 0
        self._reading = True
        try:
            # EVENTS before each message rather than EAGAIN after the last: raising that costs three times as much, and
            # the last look is also the one that the edge-triggered descriptor demands.
            while self._readable():
                frame = receive(_NOBLOCK, False)
                frames: list[Any] = [frame.bytes]
                while frame.more:
                    frame = receive(_NOBLOCK, False)
                    frames.append(frame if forwards and len(frames) > _LEADING else frame.bytes)
                count += 1
                on_frames(frames)
                if self._closed:
                    break
                if count & 7 == 0:
                    now = time.monotonic()
                    if count == 8:
                        stop_at = now + _BUDGET_S
                    elif count >= _BUDGET or now > stop_at:
                        self._schedule()
                        break
            # Only now: looking has let ZeroMQ take note of new connections and of room in its queues.
            if self._held:
                self._send_held()
        except BaseException:
            # A callback that fails must not cost the messages behind its own.
            self._schedule()
            raise
        finally:
            self._reading = False
            self.received += count
            if count and self._on_read is not None:
                self._on_read()

    # --- another thread reads -----------------------------------------------------------------------------------------

    def lend(self) -> int:
        """The event loop does not watch it any more: the thread that calls :meth:`read` does, by the descriptor
        returned.  Whatever is done with a channel that is lent has to be done under one lock."""
        self._loop.remove_reader(self._fd)
        return self._fd

    def read(self) -> None:
        """Give what has come to *on_frames*, in the borrower's thread; :attr:`due` tells whether there is more."""
        self._borrower = get_ident()
        self._drain()

    def take_back(self) -> None:
        """The event loop watches it again."""
        self._borrower = 0
        if not self._closed:
            self._loop.add_reader(self._fd, self._on_ready)
            self._drain_soon = False
            self._schedule()

    @property
    def due(self) -> bool:
        """Whether :meth:`read` is to be called though the descriptor does not say so."""
        return self._drain_soon

    # --- the watchdog -------------------------------------------------------------------------------------------------

    def watch(self) -> None:
        """The watchdog: whoever is right, nothing stays unread or unsent for longer than two of its periods.

        A message that nobody announced is counted, one that has come just now is not; to tell them apart, it looks only
        when nothing has been received since it was here last, and does not believe a look that took long.
        """
        if self._closed or self._drain_soon:
            return
        if self._held:
            self._schedule()
        elif self._receives and self.received == self._received_before:
            begin = time.monotonic()
            announced = select.select([self._fd], [], [], 0)[0]
            if self._readable():
                if not announced and time.monotonic() - begin < _GLANCE_S:
                    self.missed_wakeups += 1
                self._schedule()
        self._received_before = self.received

    # --- the end ----------------------------------------------------------------------------------------------------

    @property
    def held(self) -> int:
        """Messages waiting for the socket to take them."""
        return len(self._held)

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self, linger_ms: int = 0) -> None:
        """Close the socket; what it has taken already may still leave within *linger_ms*."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._fd)
        self._socket.close(linger_ms)
