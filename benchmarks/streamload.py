"""Clients that read streamed answers, a process of their own: ``python -m benchmarks.streamload < plan.json``.

Each client asks, reads the answer to its end and asks again.  A piece has arrived when its chunk (HTTP/1.1 chunked) is
read; the time to the first one runs from the sending of the request.
"""

from __future__ import annotations

import gc
import json
import select
import socket
import sys
import time
from typing import Any

import httptools
import msgspec
from zserve.nodes.bench.tally import percentile_ms

__all__ = ["StreamOutcome", "StreamPlan", "generate"]

_READ_BYTES = 65_536


class StreamPlan(msgspec.Struct, kw_only=True):
    """clients: at a time; body: of the POST, JSON."""

    host: str
    port: int
    path: str
    body: str
    clients: int
    seconds: float


class StreamOutcome(msgspec.Struct, kw_only=True):
    """pieces: within the time; whole: answers read to their end; broken: those that ended early or were no stream.
    Milliseconds to the first piece and from each piece to the next."""

    pieces: int
    whole: int
    broken: int
    first_p50_ms: float
    first_p99_ms: float
    gap_p50_ms: float
    gap_p99_ms: float
    seconds: float


class _Client:
    def __init__(self, load: _Load) -> None:
        self._load = load
        self._last = 0.0
        self._pieces = 0
        self.socket = socket.socket()
        self.open()

    def open(self) -> None:
        self.socket.close()
        self.socket = socket.create_connection((self._load.plan.host, self._load.plan.port), timeout=10.0)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._parser: Any = httptools.HttpResponseParser(self)

    def ask(self) -> None:
        self._pieces = 0
        self._last = time.perf_counter()
        self.socket.sendall(self._load.request)

    def readable(self) -> None:
        data = b""
        try:
            data = self.socket.recv(_READ_BYTES)
            if data:
                self._parser.feed_data(data)
                return
        except (OSError, httptools.HttpParserError):
            pass
        self._load.broken += 1
        self._load.again(self)

    # Called by the parser.

    def on_body(self, body: bytes) -> None:
        now = time.perf_counter()
        (self._load.gaps if self._pieces else self._load.firsts).append(now - self._last)
        self._last = now
        self._pieces += 1

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() != 200 or self._pieces < 2:
            self._load.broken += 1
        else:
            self._load.whole += 1
        if not self._parser.should_keep_alive():
            self._load.again(self)
        else:
            self.ask()


class _Load:
    def __init__(self, plan: StreamPlan) -> None:
        self.plan = plan
        self.firsts: list[float] = []
        self.gaps: list[float] = []
        self.whole = self.broken = 0
        body = plan.body.encode()
        self.request = (
            f"POST {plan.path} HTTP/1.1\r\nHost: {plan.host}:{plan.port}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode() + body
        self._epoll = select.epoll()
        self._clients: dict[int, _Client] = {}

    def again(self, client: _Client) -> None:
        """A new connection for *client*."""
        self._epoll.unregister(client.socket.fileno())
        del self._clients[client.socket.fileno()]
        client.open()
        self._add(client)
        client.ask()

    def _add(self, client: _Client) -> None:
        self._clients[client.socket.fileno()] = client
        self._epoll.register(client.socket.fileno(), select.EPOLLIN)

    def run(self) -> float:
        for _ in range(self.plan.clients):
            self._add(_Client(self))
        gc.collect()
        gc.freeze()
        gc.disable()
        began = time.perf_counter()
        for client in list(self._clients.values()):
            client.ask()
        while (now := time.perf_counter()) - began < self.plan.seconds:
            for descriptor, _ in self._epoll.poll(0.05):
                found = self._clients.get(descriptor)
                if found is not None:
                    found.readable()
        return now - began


def generate(plan: StreamPlan) -> StreamOutcome:
    """Carry out *plan*.  Raises OSError where nobody listens."""
    load = _Load(plan)
    seconds = load.run()
    firsts, gaps = sorted(load.firsts), sorted(load.gaps)
    return StreamOutcome(
        pieces=len(firsts) + len(gaps),
        whole=load.whole,
        broken=load.broken,
        first_p50_ms=percentile_ms(firsts, 0.50),
        first_p99_ms=percentile_ms(firsts, 0.99),
        gap_p50_ms=percentile_ms(gaps, 0.50),
        gap_p99_ms=percentile_ms(gaps, 0.99),
        seconds=seconds,
    )


if __name__ == "__main__":
    outcome = generate(msgspec.json.decode(sys.stdin.buffer.read(), type=StreamPlan))
    json.dump(msgspec.to_builtins(outcome), sys.stdout)
