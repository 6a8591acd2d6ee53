"""HTTP byte by byte, over plain sockets; and bytes that are nearly HTTP."""

from __future__ import annotations

import random
import socket
from urllib.parse import urlsplit

__all__ = ["Fuzzer", "exchange", "statuses"]

TIMEOUT_S = 30.0

_SEEDS = (
    b"GET /echo HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET /echo?relative_slo_ms=5000 HTTP/1.1\r\nHost: h\r\nAccept: */*\r\nX-Request-Id: a\r\n\r\n",
    b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello",
    b"POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nT: v\r\n\r\n",
    b"POST /echo HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nok",
    b"HEAD /-/routes HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
    b"GET /-/healthz HTTP/1.0\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET http://h:1/echo?a=b HTTP/1.1\r\nHost: h:1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"CONNECT h:443 HTTP/1.1\r\nHost: h\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
)
_TOKENS = (
    b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b"\x00", b"\xff", b"%00", b"%", b"//", b"/../", b"?", b"#", b"*", b"0",
    b"-1", b"18446744073709551616", b"chunked", b"gzip", b"Content-Length: 1\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Host: other\r\n", b"Connection: close\r\n", b"Expect: 100-continue\r\n", b"HTTP/1.1", b"HTTP/0.9", b"POST ",
    b"X-Request-Timeout-Seconds: nan\r\n", b"X-Serve-Call-Method: __init__\r\n", b"x" * 5000, b"0\r\n\r\n",
)  # fmt: skip


def _connect(url: str) -> socket.socket:
    place = urlsplit(url)
    assert place.hostname is not None
    return socket.create_connection((place.hostname, place.port or 80), TIMEOUT_S)


def exchange(url: str, data: bytes, answers: int = 0) -> tuple[bytes, bool]:
    """Send *data*; what comes back until the server ends the connection, or *answers* have begun; and whether it has
    ended."""
    with _connect(url) as connection:
        received = b""
        try:
            connection.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has its answer
        try:
            while not answers or len(statuses(received)) < answers:
                piece = connection.recv(65536)
                if not piece:
                    return received, True
                received += piece
        except ConnectionResetError:
            return received, True
        return received, False


def statuses(received: bytes) -> list[int]:
    """The statuses of the answers in *received*."""
    return [int(part[:3]) for part in received.split(b"HTTP/1.1 ")[1:]]


class Fuzzer:
    """Bytes drawn from a seed: requests that were changed in places, cut, repeated and joined, and plain noise."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)

    def draw(self) -> list[bytes]:
        """What one connection sends, in the pieces in which it sends them."""
        rng = self._rng
        if rng.random() < 0.1:
            data = rng.randbytes(rng.randint(1, 300))
        else:
            data = b"".join(self._mutated(rng.choice(_SEEDS)) for _ in range(rng.choice((1, 1, 1, 2, 4))))
        if rng.random() < 0.5:
            return [data]
        cuts = sorted(rng.randint(0, len(data)) for _ in range(rng.randint(1, 4)))
        return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True) if start < end]

    def send(self, url: str) -> None:
        """One connection, which is left after a look at what came, or at once, or with a reset."""
        rng = self._rng
        with _connect(url) as connection:
            connection.settimeout(rng.choice((0.0, 0.002, 0.02)))
            try:
                for piece in self.draw():
                    connection.sendall(piece)
                if rng.random() < 0.3:
                    connection.shutdown(socket.SHUT_WR)
                connection.recv(4096)
            except OSError:
                pass  # it may end the connection at any time, or wait for more
            if rng.random() < 0.1:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")

    def _mutated(self, data: bytes) -> bytes:
        rng = self._rng
        for _ in range(rng.choice((0, 1, 1, 2, 3, 8))):
            at = rng.randint(0, len(data))
            kind = rng.randrange(6)
            if kind == 0:
                data = data[:at] + rng.choice(_TOKENS) + data[at:]
            elif kind == 1:
                data = data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
            elif kind == 2:
                data = data[:at] + data[at + rng.randint(1, 8) :]
            elif kind == 3:
                data = data[:at]
            elif kind == 4:
                end = rng.randint(at, len(data))
                data = data[:at] + data[at:end] * rng.randint(2, 5) + data[end:]
            else:
                other = rng.choice(_SEEDS)
                data = data[:at] + other[rng.randint(0, len(other)) :]
        return data
