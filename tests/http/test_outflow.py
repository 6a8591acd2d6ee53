"""What is written of a streamed answer, and what the fabric is told that the client has taken."""

from __future__ import annotations

from typing import Any

from zserve.http.outflow import Outflow
from zserve.wire.flow import ACKNOWLEDGE, PIECE_COST


class Transport:
    def __init__(self) -> None:
        self.written = b""
        self.waiting = 0

    def write(self, data: bytes) -> None:
        self.written += data

    def writelines(self, parts: Any) -> None:
        self.written += b"".join(parts)

    def get_write_buffer_size(self) -> int:
        return self.waiting


class Front:
    def __init__(self) -> None:
        self.time = 0.0
        self.told: list[int] = []

    def now(self) -> float:
        return self.time

    def consumed(self, flight: Any, total: int) -> None:
        assert flight == "flight"
        self.told.append(total)


def outflow(*, chunked: bool = True) -> tuple[Outflow, Transport, Front]:
    transport, front = Transport(), Front()
    return Outflow("flight", transport, front, chunked=chunked), transport, front  # type: ignore[arg-type]


def test_chunks_as_http_writes_them() -> None:
    flow, transport, _ = outflow()
    for body in (b"a" * 26, b"", memoryview(b"b")):
        flow.write(body)  # type: ignore[arg-type]
    flow.finish()
    assert transport.written == b"1a\r\n" + b"a" * 26 + b"\r\n1\r\nb\r\n0\r\n\r\n"


def test_without_chunks() -> None:
    flow, transport, _ = outflow(chunked=False)
    flow.write(b"abc")
    flow.finish()
    assert transport.written == b"abc"


def test_the_fabric_is_told_now_and_then() -> None:
    flow, _, front = outflow()
    for _ in range(4):
        flow.write(bytes(ACKNOWLEDGE // 2))
    assert front.told == [ACKNOWLEDGE + 2 * PIECE_COST, 2 * ACKNOWLEDGE + 4 * PIECE_COST]


def test_a_client_that_does_not_read_stops_the_word() -> None:
    flow, _, front = outflow()
    flow.paused = True
    for _ in range(4):
        flow.write(bytes(ACKNOWLEDGE))
    assert front.told == []
    flow.resume()
    assert front.told == [4 * (ACKNOWLEDGE + PIECE_COST)]


def test_idle_is_when_neither_side_moves() -> None:
    flow, transport, front = outflow()
    front.time = 5.0
    assert flow.idle_s(5.0) == 5.0
    flow.write(b"x")
    assert flow.idle_s(6.0) == 1.0
    transport.waiting = 1000
    assert flow.idle_s(50.0) == 0.0, "the client has not taken it yet, but something came"
    assert flow.idle_s(60.0) == 10.0
    transport.waiting = 900
    assert flow.idle_s(70.0) == 0.0, "it has taken some"
