"""The ZeroMQ sockets of the fabric, with every option that matters set, and why."""

from __future__ import annotations

import os
import random
import socket as sockets
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import zmq

from ..errors import PortInUse, ServeError
from ..security.keys import KeyPair
from ..security.zap import ZAP_DOMAIN

__all__ = [
    "MAX_FRAME_BYTES",
    "KeyedSocket",
    "bind_publisher",
    "bind_router",
    "dial_publisher",
    "dial_router",
    "prepare_large_frames",
    "widen",
]

HIGH_WATER = 1024
"""Wire messages queued for one peer inside ZeroMQ.  Credits bound what is in flight; this is only a tripwire."""

MAX_FRAME_BYTES = 1 << 30
"""A frame larger than this closes the connection it came from; the default of ZeroMQ is no limit."""


SEND_BUFFER_BYTES = 1 << 20
"""What the kernel takes of a large frame at a time on a Unix socket.  Its default is 208 KiB, with which a frame of
1 MiB changes hands five times: 1.24 times the bytes a second with this, a fifth less processor time on either side."""


class KeyedSocket(zmq.Socket[bytes]):
    """A bound socket that speaks CURVE.  It remembers the frame that was read last, which knows where it came from."""

    _last: Any = None

    def recv(self, flags: int = 0, copy: bool = True, track: bool = False) -> Any:
        frame = self._last = super().recv(flags, False, track)
        return frame.bytes if copy else frame

    def sender(self) -> tuple[bytes | None, int]:
        """The public key that the frame read last came with, and the descriptor of its connection (-1: not known)."""
        frame = self._last
        if frame is None:
            return None, -1
        try:
            return bytes.fromhex(frame.get("User-Id")), frame.get(zmq.SRCFD)
        except (KeyError, ValueError, zmq.ZMQError):
            return None, -1


def widen(descriptor: int) -> None:
    """Give the connection with that *descriptor*, as a socket monitor names it, room for large frames.  Only to Unix
    sockets: TCP finds its own, and ZeroMQ's ZMQ_SNDBUF is for TCP."""
    try:
        with sockets.socket(fileno=os.dup(descriptor)) as connection:
            if connection.family == sockets.AF_UNIX:
                connection.setsockopt(sockets.SOL_SOCKET, sockets.SO_SNDBUF, SEND_BUFFER_BYTES)
    except OSError:
        pass  # it has ended already


def prepare_large_frames(context: zmq.Context[Any]) -> None:
    """Send one frame that is not copied, to nobody.

    With the first one of a process pyzmq starts a thread, with sockets of its own.  Where that happens only when the
    process has run out of descriptors, ZeroMQ ends it, or waits for ever.
    """
    first, second = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
    try:
        first.bind("inproc://large-frames")
        second.connect("inproc://large-frames")
        second.send(bytes(zmq.COPY_THRESHOLD), copy=False)
        first.recv()
    finally:
        first.close(0)
        second.close(0)


def _bound(context: zmq.Context[Any], kind: int, pair: KeyPair | None) -> zmq.Socket[bytes]:
    """A socket to bind: plain, or one that only lets in whom the ZAP handler of *context* admits."""
    if pair is None:
        socket: zmq.Socket[bytes] = context.socket(kind)
        _options(socket)
        return socket
    socket = context.socket(kind, socket_class=KeyedSocket)
    _options(socket)
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_SECRETKEY, pair.secret)
    # Without a domain libzmq asks nobody; enforced, it refuses everybody where there is no handler.
    socket.setsockopt(zmq.ZAP_DOMAIN, ZAP_DOMAIN)
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
    return socket


def _dialling(context: zmq.Context[Any], kind: int, pair: KeyPair | None, server: bytes) -> zmq.Socket[bytes]:
    """A socket to connect: plain, or with the key *pair* towards who holds the public key *server*."""
    socket: zmq.Socket[bytes] = context.socket(kind)
    _options(socket)
    if pair is not None:
        socket.setsockopt(zmq.CURVE_SERVERKEY, server)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, pair.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, pair.secret)
    return socket


def _options(socket: zmq.Socket[bytes]) -> None:
    # Never wait at the end: draining is the application's business (GOODBYE), and the default waits for ever.
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, HIGH_WATER)
    socket.setsockopt(zmq.RCVHWM, HIGH_WATER)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
    # Half-open TCP connections only.  All three stay under 65 s, where the protocol's 16-bit field would wrap.
    socket.setsockopt(zmq.HEARTBEAT_IVL, 5_000)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 20_000)
    socket.setsockopt(zmq.HEARTBEAT_TTL, 30_000)
    socket.setsockopt(zmq.HANDSHAKE_IVL, 5_000)


def _bind(socket: zmq.Socket[bytes], address: str) -> str:
    socket.setsockopt(zmq.IPV6, "[" in address)
    try:
        socket.bind(address)
    except zmq.ZMQError as error:
        socket.close(0)
        if error.errno == zmq.EADDRINUSE:
            raise PortInUse(f"cannot listen on {address}: it is in use; choose another address with --bind") from None
        raise ServeError(f"cannot listen on {address}: {error.strerror}") from None
    if address.startswith("ipc://") and not address.startswith("ipc://@"):
        # Whatever the umask says: what comes in here shows no key.
        with suppress(OSError):
            os.chmod(address.removeprefix("ipc://"), 0o600)
    return socket.getsockopt_string(zmq.LAST_ENDPOINT)


def _connect(socket: zmq.Socket[bytes], address: str) -> None:
    # Drawn for each socket: with a fixed interval a thousand nodes that lose one router come back in lockstep.
    local = address.startswith("ipc:")
    socket.setsockopt(zmq.RECONNECT_IVL, random.randint(10, 25) if local else random.randint(100, 300))
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, random.randint(250, 500) if local else random.randint(3_000, 8_000))
    socket.setsockopt(zmq.IPV6, "[" in address)
    try:
        socket.connect(address)
    except zmq.ZMQError as error:
        socket.close(0)
        raise ServeError(f"not an address to join: {address!r} ({error.strerror})") from None


def bind_router(
    context: zmq.Context[Any], address: str, pair: KeyPair | None = None
) -> tuple[zmq.Socket[bytes], str]:
    """A ROUTER socket on *address*, and the address that it really got; with a key *pair*, a :class:`KeyedSocket`."""
    socket = _bound(context, zmq.ROUTER, pair)
    # An unknown peer is an error rather than a silent loss; a second socket with a known name never takes it over.
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.setsockopt(zmq.ROUTER_HANDOVER, 0)
    socket.setsockopt(zmq.BACKLOG, 1024)
    return socket, _bind(socket, address)


def dial_router(
    context: zmq.Context[Any],
    address: str,
    routing_id: bytes,
    pair: KeyPair | None = None,
    server: bytes = b"",
    before: Callable[[zmq.Socket[bytes]], None] | None = None,
) -> zmq.Socket[bytes]:
    """A DEALER socket, named *routing_id*, towards the router at *address*; with a key *pair*, only if that holds the
    public key *server*.  *before* is called with it before it connects."""
    socket = _dialling(context, zmq.DEALER, pair, server)
    socket.setsockopt(zmq.ROUTING_ID, routing_id)
    # Nothing is queued for a peer that is not there: it would go to whoever binds that address next.
    socket.setsockopt(zmq.IMMEDIATE, 1)
    if before is not None:
        before(socket)
    _connect(socket, address)
    return socket


def bind_publisher(
    context: zmq.Context[Any], address: str, pair: KeyPair | None = None
) -> tuple[zmq.Socket[bytes], str]:
    """A PUB socket on *address*, and the address that it really got.

    With a key *pair* it is an XPUB, which receives the subscriptions, and so knows who has subscribed."""
    socket = _bound(context, zmq.PUB if pair is None else zmq.XPUB, pair)
    if pair is not None:
        socket.setsockopt(zmq.XPUB_VERBOSE, 1)
    return socket, _bind(socket, address)


def dial_publisher(
    context: zmq.Context[Any], address: str, pair: KeyPair | None = None, server: bytes = b""
) -> zmq.Socket[bytes]:
    """A SUB socket that gets everything published at *address*; keys as for :func:`dial_router`."""
    socket = _dialling(context, zmq.SUB, pair, server)
    socket.setsockopt(zmq.SUBSCRIBE, b"")
    _connect(socket, address)
    return socket
