"""The listening HTTP socket, bound before anything else starts, so that a port in use is one clear error."""

from __future__ import annotations

import errno
import socket

from zserve.errors import PortInUse, ServeError

__all__ = ["listen", "url_of"]

BACKLOG = 2048


def listen(host: str, port: int) -> socket.socket:
    """A TCP socket that listens on *host*:*port* (0 picks a free one).

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


def url_of(listener: socket.socket) -> str:
    """A URL under which this machine reaches *listener*."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
