"""What a load generator is told."""

from __future__ import annotations

import math

import msgspec

__all__ = ["Plan", "Stream"]


class Stream(msgspec.Struct, kw_only=True):
    """Requests of one kind.

    rate: a second, for an open loop; moments: for arrivals "replay"; deadline_ms: what is later is not good any more,
    infinite if it is 0; headers: besides Host, Content-Length and, with a body, Content-Type.
    """

    name: str
    path: str
    body: bytes = b""
    method: str = "POST"
    rate: float = 0.0
    deadline_ms: float = 0.0
    arrivals: str = "poisson"
    moments: list[float] = []
    content_type: str = "application/json"
    headers: list[tuple[str, str]] = []

    @property
    def deadline_s(self) -> float:
        return self.deadline_ms / 1e3 or math.inf

    def request(self, host: str) -> bytes:
        """As it is sent; *host* for the Host header."""
        lines = [f"{self.method} {self.path} HTTP/1.1", f"Host: {host}"]
        if self.body or self.method in ("POST", "PUT", "PATCH"):
            lines += [f"Content-Type: {self.content_type}", f"Content-Length: {len(self.body)}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + self.body


class Plan(msgspec.Struct, kw_only=True):
    """clients: of a closed loop, each asks again when it has its answer; 0: an open loop, requests start when the
    streams' arrivals say so.

    authority: for the Host header, if it is not HOST:PORT.  patience_s: when a client gives up and closes the
    connection.  connections: of an open loop, at most so many; more requests wait, and count.  touch: a file that is
    made touch_at_s after the start.  window_s: of the time line in the outcome.
    """

    host: str
    port: int
    seconds: float
    streams: list[Stream]
    authority: str = ""
    clients: int = 0
    seed: int = 1
    patience_s: float = 1.0
    connections: int = 8000
    touch: str = ""
    touch_at_s: float = 0.0
    window_s: float = 0.5
