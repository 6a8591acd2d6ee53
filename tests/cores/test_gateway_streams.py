"""Streamed answers at the gateway's core."""

from __future__ import annotations

import math

from zserve.cores.gateway import Flight, GatewayCore
from zserve.wire.messages import (
    FLAG_IDEMPOTENT,
    STREAM_BROKEN,
    STREAM_DONE,
    STREAM_MORE,
    Cancel,
    Chunk,
    Consumed,
    Result,
)

from .test_gateway import R1, answers, core, opened, requests


def begun(routers: int = 1) -> tuple[GatewayCore, Flight]:
    gateway = core(routers)
    flight = opened(gateway, flags=FLAG_IDEMPOTENT, deadline=1.0)
    requests(gateway)
    gateway.receive(R1, [(Result(flight.message.id, 200, streams=True), b"", b"first")], 0.5)
    assert answers(gateway) == [("t", 200)]
    return gateway, flight


def pieces(gateway: GatewayCore) -> list[tuple[object, int, bytes]]:
    taken = [(token, chunk.end, body) for token, chunk, body in gateway.pieces]
    gateway.pieces = []
    return taken


def test_pieces_follow_the_answer_until_the_last() -> None:
    gateway, flight = begun()
    key = flight.message.id
    gateway.receive(R1, [(Chunk(key, 1), b"", b"a"), (Chunk(key, 2), b"", b"b")], 0.6)
    assert gateway.in_flight == 1
    gateway.receive(R1, [(Chunk(key, 3, STREAM_DONE), b"", b"")], 0.7)
    assert pieces(gateway) == [("t", STREAM_MORE, b"a"), ("t", STREAM_MORE, b"b"), ("t", STREAM_DONE, b"")]
    assert gateway.in_flight == 0
    assert gateway.statistics()["bytes"] == 0
    assert gateway._routers[R1].outstanding == 0


def test_the_deadline_is_for_the_beginning() -> None:
    gateway, flight = begun()
    gateway.tick(100.0)
    assert gateway.in_flight == 1
    assert gateway.expired == 0
    gateway.receive(R1, [(Chunk(flight.message.id, 1, STREAM_DONE), b"", b"")], 101.0)
    assert pieces(gateway) == [("t", STREAM_DONE, b"")]


def test_a_router_that_dies_midway_breaks_it_off() -> None:
    gateway, _ = begun(routers=2)
    gateway.link_down(R1, "died", 0.6)
    assert pieces(gateway) == [("t", STREAM_BROKEN, b"")]
    assert requests(gateway) == [], "idempotent, but part of the answer is with the client"
    assert gateway.in_flight == 0


def test_a_missing_piece_breaks_it_off() -> None:
    gateway, flight = begun()
    gateway.receive(R1, [(Chunk(flight.message.id, 2), b"", b"b")], 0.6)
    assert pieces(gateway) == [("t", STREAM_BROKEN, b"")]
    sent = gateway.out.take()[R1]
    assert [message for message, _, _ in sent] == [Cancel([flight.message.id])]
    gateway.receive(R1, [(Chunk(flight.message.id, 3), b"", b"c")], 0.7)
    assert pieces(gateway) == []


def test_a_second_result_breaks_it_off() -> None:
    gateway, flight = begun()
    gateway.receive(R1, [(Result(flight.message.id, 200), b"", b"again")], 0.6)
    assert answers(gateway) == []
    assert pieces(gateway) == [("t", STREAM_BROKEN, b"")]
    assert gateway.in_flight == 0


def test_a_client_that_leaves() -> None:
    gateway, flight = begun()
    gateway.abandon(flight)
    assert [message for message, _, _ in gateway.out.take()[R1]] == [Cancel([flight.message.id])]
    gateway.consumed(flight, 100)
    assert gateway.out.take() == {}


def test_what_the_client_has_taken_is_told() -> None:
    gateway, flight = begun()
    gateway.consumed(flight, 100_000)
    assert [message for message, _, _ in gateway.out.take()[R1]] == [Consumed(flight.message.id, 100_000)]


def test_chunks_of_an_answer_that_has_not_begun_are_dropped() -> None:
    gateway = core(1)
    flight = opened(gateway, deadline=math.inf)
    gateway.receive(R1, [(Chunk(flight.message.id, 1, STREAM_DONE), b"", b"x")], 0.1)
    assert pieces(gateway) == []
    assert gateway.in_flight == 1
