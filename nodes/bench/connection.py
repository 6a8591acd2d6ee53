"""One keep-alive connection of a load generator, one request at a time."""

from __future__ import annotations

import select
import socket
from typing import Any, Protocol

import httptools

from .tally import Tally

__all__ = ["Connection", "Owner"]

_READ_BYTES = 65_536


class Owner(Protocol):
    """What a connection tells."""

    def now(self) -> float: ...
    def watch(self, connection: Connection, events: int) -> None: ...
    def idle(self, connection: Connection) -> None: ...
    def close(self, connection: Connection) -> None: ...


class Connection:
    """``tally`` and ``intended``: of the request that is under way; ``number`` counts them."""

    __slots__ = ("_owner", "_parser", "_rest", "connecting", "intended", "number", "socket", "tally")

    def __init__(self, owner: Owner, connection: socket.socket) -> None:
        self._owner = owner
        self._parser: Any = httptools.HttpResponseParser(self)
        self._rest = b""
        self.socket = connection
        self.connecting = True
        self.tally: Tally | None = None
        self.intended = 0.0
        self.number = 0

    def send(self, tally: Tally, intended: float) -> None:
        self.tally = tally
        self.intended = intended
        self.number += 1
        self._rest = tally.request
        self.go_on()

    def go_on(self) -> None:
        """Send what the socket takes; the rest when it takes more."""
        rest = self._rest
        try:
            self._rest = rest[self.socket.send(rest) :]
        except BlockingIOError:
            pass
        except OSError:
            self._owner.close(self)
            return
        if self._rest:
            self._owner.watch(self, select.POLLIN | select.POLLOUT)
        elif len(rest) != len(self.tally.request if self.tally is not None else rest):
            self._owner.watch(self, select.POLLIN)

    def readable(self) -> None:
        try:
            data = self.socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        try:
            if data:
                self._parser.feed_data(data)
                return
        except httptools.HttpParserError:
            pass
        self._owner.close(self)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        tally, parser, owner = self.tally, self._parser, self._owner
        if tally is None:
            return
        self.tally = None
        tally.answered(parser.get_status_code(), self.intended, owner.now() - self.intended)
        if parser.should_keep_alive():
            owner.idle(self)
        else:
            owner.close(self)
