"""Many connections of one gateway ask at the same moment, so that it has many answers to write at a time: each gets its
own, all of them, in order."""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest

from zserve.http.writes import open_writes

from .fabric import Fabric, temporary_fabric

pytestmark = pytest.mark.integration

CONNECTIONS = 48
ROUNDS = 40
TIMEOUT_S = 30.0

Answer = tuple[int, dict[str, str], bytes]


@pytest.fixture(scope="module")
def served() -> Iterator[Fabric]:
    """One gateway with ``/echo``."""
    with temporary_fabric() as fabric:
        fabric.start("router")
        fabric.start("worker")
        fabric.start("gateway")
        fabric.serve("echo", "app_basic:echo", methods=("GET", "POST"))
        yield fabric


class Connection:
    """What is sent is to be answered in this order: status, id, and what the body has or, of an echo, is."""

    def __init__(self, url: str, number: int, receive_bytes: int = 0) -> None:
        place = urlsplit(url)
        assert place.hostname is not None
        assert place.port is not None
        self.number = number
        self._socket = socket.socket()
        if receive_bytes:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self._socket.settimeout(TIMEOUT_S)
        self._socket.connect((place.hostname, place.port))
        self._received = b""
        self._expected: list[tuple[int, str, str]] = []
        self._requests = 0

    def close(self) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def post(self, size: int, *, query: str = "", expect: bool = False, named: bool = True) -> tuple[bytes, bytes]:
        """Head and body of a request whose body is like no other.  *named*: with an id; without one, and with bodies of
        one size, all heads of a connection are the same, as the gateway likes it best."""
        body = f"{self.number:04d}.{self._requests:04d}.".ljust(size, chr(97 + self._requests % 26))
        status, name, found = (200, self._name(named), body) if not query else (400, self._name(named), "positive")
        self._expected.append((status, name, found))
        lines = [f"POST /echo{query} HTTP/1.1", "Host: h", f"Content-Length: {size}"]
        if named:
            lines.append(f"X-Request-Id: {name}")
        if expect:
            lines.append("Expect: 100-continue")
        return "\r\n".join([*lines, "", ""]).encode(), body.encode()

    def nowhere(self) -> bytes:
        """A request that the gateway refuses without asking anybody."""
        name = self._name(True)
        self._expected.append((404, name, f"/nowhere/{name}"))
        return f"GET /nowhere/{name} HTTP/1.1\r\nHost: h\r\nX-Request-Id: {name}\r\n\r\n".encode()

    def _name(self, named: bool) -> str:
        self._requests += 1
        return f"c{self.number}-{self._requests}" if named else ""

    def check(self, continues: int = 0) -> None:
        """All that was asked is answered, as expected.  *continues*: answers 100 that may come before the others."""
        for status, name, found in self._expected:
            answer = self.receive()
            while answer[0] == 100 and continues:
                continues -= 1
                answer = self.receive()
            what = f"connection {self.number}, {name or found[:10]}"
            assert answer[0] == status, (what, answer)
            assert not name or answer[1]["x-request-id"] == name, what
            if status == 200:
                assert json.loads(answer[2]) == {"method": "POST", "body": found}, what
            else:
                assert found in answer[2].decode(), what
        self._expected.clear()
        assert self._received == b"", "nobody asked for more"

    def receive(self) -> Answer:
        """The next answer."""
        while b"\r\n\r\n" not in self._received:
            self._more()
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        line, *lines = head.decode().split("\r\n")
        assert re.match(r"HTTP/1\.1 [1-5]\d\d ", line), line
        headers = {name.lower(): value for name, _, value in (part.partition(": ") for part in lines)}
        size = int(headers.get("content-length", "0"))
        while len(self._received) < size:
            self._more()
        body, self._received = self._received[:size], self._received[size:]
        return int(line[9:12]), headers, body

    def _more(self) -> None:
        data = self._socket.recv(65_536)
        assert data, f"connection {self.number} was closed, after {self._received[:200]!r}"
        self._received += data


@pytest.fixture
def connections(served: Fabric) -> Iterator[list[Connection]]:
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(contextlib.closing(Connection(served.gateways[0].http, number)))
            for number in range(CONNECTIONS)
        ]


def written_together(served: Fabric) -> int:
    text = httpx.get(served.gateways[0].http + "/-/metrics", timeout=TIMEOUT_S).text
    found = re.search(r"^zserve_http_written_together_total (\S+)$", text, re.MULTILINE)
    assert found is not None, text
    return int(float(found[1]))


def has_writes() -> bool:
    writes = open_writes()
    if writes is not None:
        writes.close()
    return writes is not None


def test_all_ask_at_once(served: Fabric, connections: list[Connection]) -> None:
    before = written_together(served)
    for _ in range(ROUNDS):
        requests = [b"".join(connection.post(100, named=False)) for connection in connections]
        for connection, request in zip(connections, requests, strict=True):
            connection.send(request)
        for connection in connections:
            connection.check()
    if has_writes():
        assert written_together(served) > before


def test_some_pipeline_and_some_ask_first(served: Fabric, connections: list[Connection]) -> None:
    """A third of them asks for one thing at a time; one for three, the second of which is refused now and then; and one
    waits for 100 Continue now and then, or says that it would."""
    plain, pipelining, asking = connections[0::3], connections[1::3], connections[2::3]
    before = written_together(served)
    for turn in range(ROUNDS):
        requests: list[tuple[Connection, bytes]] = []
        wait: list[tuple[Connection, bytes]] = []
        continues: set[Connection] = set()
        for one, three, first in zip(plain, pipelining, asking, strict=True):
            kind = (turn + one.number // 3) % 4
            requests.append((one, b"".join(one.post(50 + 700 * kind, named=False))))
            data = b"".join(three.post(3000))
            if kind == 0:
                data += three.nowhere()
            elif kind == 1:
                data += b"".join(three.post(10, query="?relative_slo_ms=x"))
            else:
                data += b"".join(three.post(20))
            requests.append((three, data + b"".join(three.post(1000 * kind + 10))))
            head, body = first.post(500, expect=kind in (1, 2))
            requests.append((first, head if kind == 1 else head + body))
            if kind == 1:
                wait.append((first, body))
            elif kind == 2:
                continues.add(first)  # maybe: it has sent the body
        for connection, data in requests:
            connection.send(data)
        for connection, body in wait:
            answer = connection.receive()
            assert answer[0] == 100, answer
            connection.send(body)
        for connection in connections:
            connection.check(continues=int(connection in continues))
    if has_writes():
        assert written_together(served) > before


def test_some_do_not_read(served: Fabric, connections: list[Connection]) -> None:
    """What their sockets do not take waits in the gateway, in order, and nobody else waits for it."""
    with contextlib.ExitStack() as stack:
        lazy = [
            stack.enter_context(contextlib.closing(Connection(served.gateways[0].http, number, receive_bytes=4096)))
            for number in range(CONNECTIONS, CONNECTIONS + 6)
        ]
        for turn in range(100):
            requests = [b"".join(connection.post(60_000, named=turn % 2 == 0)) for connection in lazy]
            requests += [b"".join(connection.post(100, named=False)) for connection in connections]
            for connection, request in zip([*lazy, *connections], requests, strict=True):
                connection.send(request)
            for connection in connections:
                connection.check()
        for connection in lazy:
            connection.check()
