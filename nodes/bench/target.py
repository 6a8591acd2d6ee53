"""What is to be measured: a URL, and one request to see that it answers at all."""

from __future__ import annotations

import http.client
import socket
import urllib.parse
from typing import Any, NamedTuple

from zserve.errors import FabricUnreachable, ServeError

from .plan import Stream

__all__ = ["Target", "look", "target_of"]

_LIMIT = 300
_NOTHING_TO_MEASURE = range(400, 500)
_BUSY = (408, 429)


class Target(NamedTuple):
    """host, port: of a server that speaks HTTP without TLS; path: with the query, as it is sent."""

    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """``HOST:PORT``, as in a URL and in the Host header."""
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def origin(self) -> str:
        return f"http://{self.authority}"


def target_of(url: str) -> Target:
    """Raises ValueError for what is no ``http://HOST[:PORT][/PATH]``."""
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"{url!r} is not a URL: {error}") from None
    if parts.scheme == "https":
        raise ValueError(f"{url!r}: only plain http is measured, not https; name a gateway's port without TLS")
    if parts.scheme != "http" or not host or parts.username is not None:
        raise ValueError(f"{url!r} is not a URL, as in http://127.0.0.1:8000/hello, nor a path, as in /hello")
    path = urllib.parse.quote(parts.path, safe="/%:@!$&'()*+,;=~") or "/"
    query = urllib.parse.quote(parts.query, safe="/%:@!$&'()*+,;=~?[]{}|")
    return Target(host, 80 if port is None else port, f"{path}?{query}" if query else path)


def look(target: Target, request: Stream, patience_s: float) -> Any:
    """Send one request; the socket address that answered it.

    Raises :class:`FabricUnreachable` where nothing listens or no answer comes within *patience_s* seconds, and
    :class:`ServeError` for an answer that says that the request itself is wrong (a status of 400 to 499).
    """
    connection = http.client.HTTPConnection(target.host, target.port, timeout=patience_s)
    try:
        connection.connect()
        address = connection.sock.getpeername()
        connection.sock.sendall(request.request(target.authority))
        answer = http.client.HTTPResponse(connection.sock, method=request.method)
        answer.begin()
        text = answer.read(_LIMIT).decode(errors="replace")
        answer.close()
    except TimeoutError:
        raise FabricUnreachable(f"no answer from {target.origin} within {patience_s:g} s") from None
    except socket.gaierror:
        raise FabricUnreachable(f"there is no host {target.host!r}") from None
    except http.client.HTTPException as error:
        raise FabricUnreachable(f"{target.origin} does not answer as an HTTP server ({type(error).__name__})") from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise FabricUnreachable(
            f"nothing answers at {target.origin}: {reason}; is it served? `zserve status` prints where gateways listen"
        ) from None
    finally:
        connection.close()
    if answer.status in _NOTHING_TO_MEASURE and answer.status not in _BUSY:
        raise ServeError(
            f"{request.method} {target.path} is answered {answer.status}, so there is nothing to measure: "
            f"{' '.join(text.split()) or answer.reason}"
        )
    return address
