"""The listening HTTP socket, bound before anything else starts, so that a port in use is one clear error."""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
import sys
from contextlib import suppress

from zserve.errors import PortInUse, ServeError

__all__ = ["adopt", "is_loopback", "listen", "listen_all", "stop_taking", "url_of"]

BACKLOG = 2048

_SO_ATTACH_FILTER = 26
_SO_DETACH_FILTER = 27
_DROP_ALL = struct.pack("HBBI", 0x06, 0, 0, 0)  # BPF_RET | BPF_K: keep 0 bytes of each packet


def listen_all(host: str, port: int, count: int) -> list[socket.socket]:
    """*count* sockets that share one port (SO_REUSEPORT): the kernel spreads new connections over them.

    Raises as :func:`listen`; a port that others share among themselves is in use all the same.
    """
    if count == 1:
        return [listen(host, port)]
    listen(host, port).close()  # sockets that share would not mind strangers who do, too
    listeners: list[socket.socket] = []
    try:
        for _ in range(count):
            listeners.append(listen(host, port, shared=True))
            port = listeners[0].getsockname()[1]
    except ServeError:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def listen(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A TCP socket that listens on *host*:*port* (0 picks a free one), *shared* with others of this user.

    Raises :class:`PortInUse` or :class:`ServeError`; both say what to do.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise ServeError(f"cannot listen on {host!r}: not an address of this machine ({error})") from None
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(
                f"port {port} on {host} is in use; stop what listens there, or choose another port (0 picks a free one)"
            ) from None
        if error.errno == errno.EACCES:
            raise ServeError(f"not allowed to listen on port {port} of {host}; choose one from 1024 up") from None
        if error.errno == errno.EADDRNOTAVAIL:
            raise ServeError(f"cannot listen on {host}: not an address of this machine") from None
        raise ServeError(f"cannot listen on {host}:{port}: {error.strerror}") from None
    return listener


def adopt(descriptor: int) -> socket.socket:
    """The socket of a parent that listens already; one that was used before takes connections again."""
    listener = socket.socket(fileno=descriptor)
    if sys.platform == "linux":
        with suppress(OSError):  # there was no filter
            listener.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
    return listener


def stop_taking(listener: socket.socket) -> list[socket.socket]:
    """Close *listener*, and return the connections that clients have made and nobody has accepted, which closing it
    would reset.

    Between the last of them and the closing another one could come; so where there is a way (Linux) new ones are kept
    away first.  Their clients try again after a second, and are refused then.
    """
    if sys.platform == "linux":
        import ctypes

        code = ctypes.create_string_buffer(_DROP_ALL)
        program = struct.pack("HL", 1, ctypes.addressof(code))
        with suppress(OSError):
            listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
    waiting: list[socket.socket] = []
    with listener:
        listener.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                waiting.append(listener.accept()[0])
    return waiting


def is_loopback(listener: socket.socket) -> bool:
    """Whether only this machine reaches *listener*."""
    try:
        return ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback
    except ValueError:
        return False


def url_of(listener: socket.socket, scheme: str = "http") -> str:
    """A URL under which this machine reaches *listener*."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
