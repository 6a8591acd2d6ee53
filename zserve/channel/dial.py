"""One router as seen from a node that connects to it: a DEALER, a SUB beside it, and the news of their connection.

One socket is one session.  When the connection breaks (the socket monitor tells at once, where heartbeats would need
seconds) the socket is thrown away and the hub dials again with a new one, under a new name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import zmq
from zmq.utils.monitor import parse_monitor_message

from .channel import Channel
from .sockets import dial_publisher, dial_router

__all__ = ["Dial"]


class Dial:
    """Sockets towards the router at *address*, alive until :meth:`close`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: zmq.Context[Any],
        address: str,
        peer: bytes,
        *,
        on_frames: Callable[[list[bytes]], None],
        on_publication: Callable[[list[bytes]], None],
        on_connected: Callable[[], None],
        on_disconnected: Callable[[], None],
    ) -> None:
        self.address = address
        self.peer = peer
        self.publish = ""
        self._loop = loop
        self._context = context
        self._on_publication = on_publication
        self._on_connected = on_connected
        self._on_disconnected = on_disconnected
        socket = dial_router(context, address, peer)
        self._monitored = socket
        monitor = socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        monitor.setsockopt(zmq.LINGER, 0)
        self.channel = Channel(loop, socket, on_frames)
        self._monitor = Channel(loop, monitor, self._on_event)
        self._subscription: Channel | None = None
        self._connected = False

    def subscribe(self, address: str) -> None:
        """Listen to the publications of this router (known from its HELLO)."""
        if address and self._subscription is None:
            self.publish = address
            self._subscription = Channel(self._loop, dial_publisher(self._context, address), self._on_publication)

    def channels(self) -> list[Channel]:
        channels = [self.channel, self._monitor]
        if self._subscription is not None:
            channels.append(self._subscription)
        return channels

    def _on_event(self, frames: list[bytes]) -> None:
        event = parse_monitor_message(frames)["event"]
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._connected = True
            self._on_connected()
        elif event == zmq.EVENT_DISCONNECTED and self._connected:
            self._on_disconnected()

    def close(self, linger_ms: int = 0) -> None:
        if not self.channel.closed:
            self._monitored.disable_monitor()
            self._monitor.close()
            self.channel.close(linger_ms)
        if self._subscription is not None:
            self._subscription.close()
