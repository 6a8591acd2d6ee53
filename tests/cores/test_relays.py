"""Streamed answers through the router's core."""

from __future__ import annotations

from typing import Any

import pytest

from zserve.cores.router import RouterCore
from zserve.wire.messages import (
    FLAG_IDEMPOTENT,
    FLAG_STREAMS,
    STREAM_BROKEN,
    STREAM_DONE,
    Call,
    Cancel,
    Chunk,
    Consumed,
    Grant,
    Result,
)

from .test_router import GATEWAY, Bench


class StreamBench(Bench):
    """One request for a stream, with the replica that has it."""

    def __init__(self) -> None:
        super().__init__()
        self.serve("b")
        self.peer = self.replica("r1", limit=1)
        self.key = self.request(1, flags=FLAG_STREAMS | FLAG_IDEMPOTENT, budget_us=1_000_000)
        self.router.out.take()

    def begin(self) -> None:
        self.now += 0.1
        self.tell(self.peer, Result(self.key, 200, run_us=1000, streams=True), body=b"first")

    def chunk(self, seq: int, end: int = 0, body: bytes = b"") -> None:
        self.tell(self.peer, Chunk(self.key, seq, end), body=body)

    def to_gateway(self) -> list[tuple[Any, bytes]]:
        found = self.router.out.take().get(GATEWAY, [])
        return [(message, body) for message, _, body in found if isinstance(message, (Result, Chunk))]

    @property
    def in_flight(self) -> int:
        count: int = self.router.queues["b"].in_flight
        return count


@pytest.fixture
def bench() -> StreamBench:
    return StreamBench()


def relaying(router: RouterCore) -> int:
    return len(router.relays)


def test_all_parts_are_passed_on_and_the_last_frees_the_slot(bench: StreamBench) -> None:
    bench.begin()
    bench.chunk(1, body=b"second")
    assert bench.in_flight == 1
    bench.chunk(2, STREAM_DONE)
    passed = bench.to_gateway()
    assert [(type(message), body) for message, body in passed] == [
        (Result, b"first"),
        (Chunk, b"second"),
        (Chunk, b""),
    ]
    assert passed[0][0].streams
    assert bench.in_flight == relaying(bench.router) == 0
    bench.router.leaving = True
    assert bench.router.drained


def test_the_time_to_the_beginning_is_what_is_learnt(bench: StreamBench) -> None:
    bench.begin()
    bench.now += 1000.0
    bench.chunk(1, STREAM_DONE)
    assert bench.router.queues["b"].statistics()["service_time"]["run_s"] < 0.01
    bench.tell(bench.peer, Grant(1, 2))
    bench.router.out.take()
    bench.request(2, flags=FLAG_STREAMS, budget_us=1_000_000)
    sent = bench.router.out.take()
    assert any(isinstance(message, Call) for message, _, _ in sent[bench.peer]), "not refused as hopeless"


def test_what_the_client_has_taken_goes_to_the_replica(bench: StreamBench) -> None:
    bench.tell(GATEWAY, Consumed(bench.key, 5))  # it has not begun
    assert bench.sent(bench.peer, Consumed) == []
    bench.begin()
    bench.tell(GATEWAY, Consumed(bench.key, 10))
    assert bench.sent(bench.peer, Consumed) == [Consumed(bench.key, 10)]
    bench.tell(bench.peer, Consumed(bench.key, 20))  # not the gateway that asked
    assert bench.router.out.take().get(bench.peer, []) == []


def test_a_client_that_leaves(bench: StreamBench) -> None:
    bench.begin()
    bench.router.out.take()
    bench.tell(GATEWAY, Cancel([bench.key]))
    assert bench.sent(bench.peer, Cancel) == [Cancel([bench.key])]
    bench.chunk(1, body=b"on its way")
    assert bench.in_flight == 1, "it keeps its slot until the replica says that it is over"
    bench.chunk(2, STREAM_BROKEN)
    assert bench.to_gateway() == []
    assert bench.in_flight == relaying(bench.router) == 0


def test_cancelled_while_the_beginning_was_on_its_way(bench: StreamBench) -> None:
    bench.tell(GATEWAY, Cancel([bench.key]))
    bench.begin()
    bench.chunk(1, STREAM_BROKEN)
    assert bench.to_gateway() == []
    assert bench.in_flight == relaying(bench.router) == 0


def test_a_replica_that_dies_midway_is_not_replaced_by_another(bench: StreamBench) -> None:
    bench.replica("r2")
    bench.begin()
    bench.to_gateway()
    bench.router.link_down(bench.peer, "killed", bench.now)
    passed = bench.to_gateway()
    assert [(type(message), message.end) for message, _ in passed] == [(Chunk, STREAM_BROKEN)]
    assert bench.router.retried == relaying(bench.router) == 0


def test_a_replica_that_dies_with_a_cancelled_stream_leaves_nothing(bench: StreamBench) -> None:
    bench.begin()
    bench.tell(GATEWAY, Cancel([bench.key]))
    bench.router.link_down(bench.peer, "killed", bench.now)
    assert relaying(bench.router) == 0


def test_a_gateway_that_dies_ends_its_streams(bench: StreamBench) -> None:
    bench.begin()
    bench.router.out.take()
    bench.router.link_down(GATEWAY, "killed", bench.now)
    assert bench.sent(bench.peer, Cancel) == [Cancel([bench.key])]


def test_an_end_without_a_beginning_is_an_error(bench: StreamBench) -> None:
    bench.chunk(1, STREAM_DONE)
    assert [(type(message), message.status) for message, _ in bench.to_gateway()] == [(Result, 502)]
    assert bench.in_flight == 0


def test_a_shadow_is_not_streamed(bench: StreamBench) -> None:
    bench.control("create_backend", name="s", code="m:f", version="1")
    bench.control("shadow_traffic", endpoint="e", backend="s", proportion=1.0)
    shadow = bench.replica("r3", "s")
    bench.router.out.take()
    bench.request(5, flags=FLAG_STREAMS)
    calls = bench.sent(shadow, Call)
    assert [call.flags & FLAG_STREAMS for call in calls] == [0]
