"""One router as seen from a node that connects to it: a DEALER, a SUB beside it, and the news of their connection.

One socket is one session.  When the connection breaks (the socket monitor tells at once, where heartbeats would need
seconds) the socket is thrown away and the hub dials again with a new one, under a new name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import zmq
from zmq.utils.monitor import parse_monitor_message

from ..errors import ServeError
from ..security.keys import KeyPair
from .channel import Channel
from .loop import Loop
from .sockets import dial_publisher, dial_router, widen

__all__ = ["Dial"]

_EVENTS = (
    zmq.EVENT_CONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_DISCONNECTED
)


class Dial:
    """Sockets towards the router at *address*, alive until :meth:`close`.

    With a key *pair*, only towards one that holds the public key *server*.  *on_refused* is told why a connection did
    not come about although something listens; ZeroMQ does not try again with this socket then.  greeted: the router has
    said HELLO.  role: what it has said that it is: a router, or a gateway that takes answers.
    """

    def __init__(
        self,
        loop: Loop,
        context: zmq.Context[Any],
        address: str,
        peer: bytes,
        *,
        on_frames: Callable[[list[bytes]], None],
        on_read: Callable[[], None],
        on_publication: Callable[[list[bytes]], None],
        on_connected: Callable[[], None],
        on_disconnected: Callable[[], None],
        on_refused: Callable[[str], None],
        pair: KeyPair | None = None,
        server: bytes = b"",
    ) -> None:
        self.address = address
        self.server = server
        self.greeted = False
        self.role = ""
        self.peer = peer
        self.publish = ""
        self._loop = loop
        self._context = context
        self._on_publication = on_publication
        self._on_connected = on_connected
        self._on_disconnected = on_disconnected
        self._on_refused = on_refused
        self._pair = pair
        monitors: list[zmq.Socket[bytes]] = []
        try:
            # Watched before it connects: a quick refusal would be over by the time that somebody looked.
            socket = dial_router(
                context, address, peer, pair, server, lambda socket: monitors.append(socket.get_monitor_socket(_EVENTS))
            )
        except ServeError:
            for monitor in monitors:
                monitor.close(0)
            raise
        self._monitored = socket
        monitors[0].setsockopt(zmq.LINGER, 0)
        self.channel = Channel(loop, socket, on_frames, on_read=on_read)
        self._monitor = Channel(loop, monitors[0], self._on_event)
        self._subscription: Channel | None = None
        self._connected = False

    def subscribe(self, address: str) -> None:
        """Listen to the publications of this router (known from its HELLO)."""
        if address and self._subscription is None:
            self.publish = address
            socket = dial_publisher(self._context, address, self._pair, self.server)
            self._subscription = Channel(self._loop, socket, self._on_publication)

    def channels(self) -> list[Channel]:
        channels = [self.channel, self._monitor]
        if self._subscription is not None:
            channels.append(self._subscription)
        return channels

    def _on_event(self, frames: list[bytes]) -> None:
        news = parse_monitor_message(frames)
        event = news["event"]
        if event == zmq.EVENT_CONNECTED:
            widen(news["value"])
        elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._connected = True
            self._on_connected()
        elif event == zmq.EVENT_DISCONNECTED:
            if self._connected:
                self._on_disconnected()
        elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            self._on_refused("it does not know the key of this node")
        elif event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
            has, lacks = ("this node", "the router") if self._pair is not None else ("the router", "this node")
            self._on_refused(f"{has} has a key and {lacks} has none (--key), or it is no router at all")
        elif self._pair is not None:
            # It has hung up on what it could not decrypt.
            self._on_refused("it does not hold the expected key")

    def close(self, linger_ms: int = 0) -> None:
        if not self.channel.closed:
            self._monitored.disable_monitor()
            self._monitor.close()
            self.channel.close(linger_ms)
        if self._subscription is not None:
            self._subscription.close()
