"""The ZeroMQ sockets of the fabric, with every option that matters set, and why."""

from __future__ import annotations

import random
from typing import Any

import zmq

from ..errors import PortInUse, ServeError

__all__ = ["MAX_FRAME_BYTES", "bind_publisher", "bind_router", "dial_publisher", "dial_router"]

HIGH_WATER = 1024
"""Wire messages queued for one peer inside ZeroMQ.  Credits bound what is in flight; this is only a tripwire."""

MAX_FRAME_BYTES = 1 << 30
"""A frame larger than this closes the connection it came from; the default of ZeroMQ is no limit."""


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


def bind_router(context: zmq.Context[Any], address: str) -> tuple[zmq.Socket[bytes], str]:
    """A ROUTER socket on *address*, and the address that it really got."""
    socket: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
    _options(socket)
    # An unknown peer is an error rather than a silent loss; a second socket with a known name never takes it over.
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.setsockopt(zmq.ROUTER_HANDOVER, 0)
    socket.setsockopt(zmq.BACKLOG, 1024)
    return socket, _bind(socket, address)


def dial_router(context: zmq.Context[Any], address: str, routing_id: bytes) -> zmq.Socket[bytes]:
    """A DEALER socket, named *routing_id*, towards the router at *address*."""
    socket: zmq.Socket[bytes] = context.socket(zmq.DEALER)
    _options(socket)
    socket.setsockopt(zmq.ROUTING_ID, routing_id)
    # Nothing is queued for a peer that is not there: it would go to whoever binds that address next.
    socket.setsockopt(zmq.IMMEDIATE, 1)
    _connect(socket, address)
    return socket


def bind_publisher(context: zmq.Context[Any], address: str) -> tuple[zmq.Socket[bytes], str]:
    """A PUB socket on *address*, and the address that it really got."""
    socket: zmq.Socket[bytes] = context.socket(zmq.PUB)
    _options(socket)
    return socket, _bind(socket, address)


def dial_publisher(context: zmq.Context[Any], address: str) -> zmq.Socket[bytes]:
    """A SUB socket that gets everything published at *address*."""
    socket: zmq.Socket[bytes] = context.socket(zmq.SUB)
    _options(socket)
    socket.setsockopt(zmq.SUBSCRIBE, b"")
    _connect(socket, address)
    return socket
