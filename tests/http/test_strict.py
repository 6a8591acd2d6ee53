"""What is cut off: too slow, too much, too many."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest

from zserve.http.addresses import AddressCounts
from zserve.http.limits import HttpLimits
from zserve.wire.messages import STREAM_MORE, Chunk, Result

from .connection import Gateway

Make = Callable[..., Gateway]
GET = b"GET /e HTTP/1.1\r\nHost: h\r\n\r\n"
CHUNKED = b"POST /e HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"


def sized(length: int) -> bytes:
    return b"POST /e HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % length


# --- too slow ---------------------------------------------------------------------------------------------------------


def test_headers_that_do_not_end_are_cut_off_ten_seconds_after_their_first_byte(make_gateway: Make) -> None:
    gateway = make_gateway()
    client = gateway.connect()
    gateway.wait(30.0)
    client.send(b"GET /e HTTP/1.1\r\n")
    for _ in range(9):
        gateway.wait(1.0)
        client.send(b"x: y\r\n")  # every byte in time does not help
    assert not client.closed
    gateway.wait(2.0)
    assert client.answers() == [408]
    assert client.closed


def test_so_are_those_of_a_second_request_counted_from_its_own_first_byte(make_gateway: Make) -> None:
    gateway = make_gateway()
    client = gateway.connect()
    client.send(GET)
    gateway.answer()
    gateway.wait(60.0)
    assert client.answers() == [200]
    client.send(b"GET /e HTTP/1.1\r\n")
    gateway.wait(9.0)
    assert not client.closed
    gateway.wait(2.0)
    assert client.answers() == [408]


@pytest.mark.parametrize("used", [False, True])
def test_an_idle_connection_is_closed_after_the_keep_alive_time(make_gateway: Make, used: bool) -> None:
    gateway = make_gateway(keep_alive_s=20.0)
    client = gateway.connect()
    if used:
        client.send(GET)
        gateway.answer()
    gateway.wait(19.0)
    assert not client.closed
    gateway.wait(3.0)
    assert client.closed == "closed"
    assert client.answers() == [200] * used, "without a word"


@pytest.mark.parametrize("draining", [False, True])
def test_a_connection_is_not_idle_while_a_request_on_it_has_not_been_read(
    make_gateway: Make, monkeypatch: pytest.MonkeyPatch, draining: bool
) -> None:
    """As where the event loop was held up, and comes to its timers first."""
    gateway = make_gateway(keep_alive_s=20.0)
    later: list[Any] = []
    monkeypatch.setattr(gateway.loop, "call_later", lambda _delay, callback, *_: later.append(callback))
    ours, clients = socket.socketpair()
    with ours, clients:
        connection = gateway.connect()
        connection._extra["socket"] = ours
        clients.sendall(b"GET ")
        if draining:
            connection.protocol.shutdown()
            later.pop()()
        else:
            gateway.wait(25.0)
        assert not connection.closed
        ours.recv(100)
        if draining:
            later.pop()()
        else:
            gateway.wait(2.0)
        assert connection.closed


def test_an_idle_connection_after_a_system_page_is_closed_as_late(make_gateway: Make) -> None:
    gateway = make_gateway(keep_alive_s=20.0)
    client = gateway.connect()
    client.send(b"GET /-/healthz HTTP/1.1\r\nHost: h\r\n\r\n")
    assert gateway.front.server_state is not None
    (task,) = gateway.front.server_state.tasks
    gateway.loop.run_until_complete(task)
    assert client.answers() == [200]
    gateway.wait(19.0)
    assert not client.closed
    gateway.wait(3.0)
    assert client.closed == "closed"


def test_a_body_slower_than_a_kibibyte_a_second_is_cut_off(make_gateway: Make) -> None:
    gateway = make_gateway()
    slow, fast, burst = gateway.connect(), gateway.connect(), gateway.connect()
    for client in (slow, fast, burst):
        client.send(sized(1_000_000))
    burst.send(b"x" * 500_000)
    for _ in range(12):
        slow.send(b"x" * 1000)
        fast.send(b"x" * 1100)
        gateway.wait(1.0)
    assert slow.answers() == [408]
    assert slow.closed
    assert not fast.closed
    assert not burst.closed, "it has brought half a megabyte in its first ten seconds"
    gateway.wait(10.0)
    assert burst.closed, "but nothing in the next ten"
    assert gateway.asked() == []


def test_a_trickle_into_a_chunked_body_is_cut_off_too(make_gateway: Make) -> None:
    gateway = make_gateway()
    client = gateway.connect()
    client.send(CHUNKED)
    for _ in range(12):
        client.send(b"1\r\nx\r\n")
        gateway.wait(1.0)
    assert client.answers() == [408]


def test_a_body_that_waits_for_the_answer_before_it_is_not_slow(make_gateway: Make) -> None:
    gateway = make_gateway()
    client = gateway.connect()
    client.send(GET + sized(5))
    assert not client.reading
    gateway.wait(25.0)
    assert not client.closed
    gateway.answer()
    assert client.reading
    client.send(b"12345")
    assert gateway.answer() == 1
    assert client.answers() == [200, 200]


def test_a_stream_in_which_nothing_moves_is_cut_off(make_gateway: Make, caplog: pytest.LogCaptureFixture) -> None:
    gateway = make_gateway(stream_idle_s=60.0)
    moving, stuck, plain = gateway.connect(), gateway.connect(), gateway.connect()
    for client in (moving, stuck, plain):
        client.send(GET)
    first, second, third = gateway.asked()
    gateway.tell(Result(first.id, 200, 1, streams=True), Result(second.id, 200, 1, streams=True))
    gateway.wait(40.0)
    gateway.tell(Chunk(first.id, 1, STREAM_MORE))
    gateway.wait(30.0)
    assert stuck.closed == "reset", "its client does not take what there is"
    assert not moving.closed
    assert not plain.closed, "an answer that has not begun has its deadline"
    assert "nothing moved for 61 s" in caplog.text
    assert third.id


# --- too much ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [100, 5000, 10**9])
def test_headers_have_a_limit_however_they_come(make_gateway: Make, step: int) -> None:
    gateway = make_gateway(header_bytes=20_000)
    client = gateway.connect()
    head = b"GET /e HTTP/1.1\r\nHost: h\r\n" + b"".join(b"x%d: %s\r\n" % (n, b"v" * 300) for n in range(100)) + b"\r\n"
    for start in range(0, len(head), step):
        client.send(head[start : start + step])
    assert client.answers() == [431]
    assert gateway.asked() == []


def test_a_single_header_without_an_end_is_not_collected(make_gateway: Make) -> None:
    gateway = make_gateway(header_bytes=20_000)
    client = gateway.connect()
    client.send(b"GET /e HTTP/1.1\r\nHost: h\r\nx: ")
    sent = 0
    while not client.closed:
        client.send(b"v" * 1000)
        sent += 1000
        assert sent < 30_000
    assert client.answers() == [431]


def test_the_number_of_headers_has_a_limit(make_gateway: Make) -> None:
    gateway = make_gateway(headers=10)
    client = gateway.connect()
    client.send(b"GET /e HTTP/1.1\r\nHost: h\r\n" + b"x: y\r\n" * 9 + b"\r\n")
    assert gateway.answer() == 1
    client.send(b"GET /e HTTP/1.1\r\nHost: h\r\n" + b"x: y\r\n" * 10 + b"\r\n")
    assert client.answers() == [200, 431]


@pytest.mark.parametrize("step", [100, 10**9])
def test_the_request_line_has_a_limit(make_gateway: Make, step: int) -> None:
    gateway = make_gateway(url_bytes=2000)
    client = gateway.connect()
    head = b"GET /e?" + b"q" * 3000 + b" HTTP/1.1\r\nHost: h\r\n\r\n"
    for start in range(0, len(head), step):
        client.send(head[start : start + step])
    assert client.answers() == [414]


@pytest.mark.parametrize("junk", [b"1;x=" + b"y" * 900 + b"\r\nz\r\n", b"0\r\n" + b"t: %s\r\n" % (b"y" * 900)])
def test_chunk_extensions_and_trailers_have_a_limit(make_gateway: Make, junk: bytes) -> None:
    gateway = make_gateway(header_bytes=20_000)
    client = gateway.connect()
    client.send(CHUNKED)
    client.send(junk)
    more = junk if junk[:1] == b"1" else junk[3:]
    for _ in range(40):
        if not client.closed:
            client.send(more)
    assert client.answers() == [431]
    assert gateway.asked() == []


def test_small_chunks_are_not_taken_for_junk(make_gateway: Make) -> None:
    gateway = make_gateway(header_bytes=1000)
    client = gateway.connect()
    client.send(CHUNKED)
    for _ in range(2000):
        client.send(b"1\r\nx\r\n")
    client.send(b"0\r\n\r\n")
    assert gateway.answer() == 1
    assert client.answers() == [200]


def test_trailers_are_nobodys_headers(make_gateway: Make) -> None:
    gateway = make_gateway()
    client = gateway.connect()
    client.send(CHUNKED + b"1\r\nx\r\n0\r\nX-Serve-Call-Method: other\r\nIdempotency-Key: k\r\n\r\n")
    ((message, head, body),) = gateway.core.out.take()[b"link-with-router"]
    assert (message.method, body) == ("", b"x")
    assert b"other" not in head
    assert not message.flags & 1


# --- too many ---------------------------------------------------------------------------------------------------------


def test_pipelined_requests_are_answered_in_order_up_to_a_limit(make_gateway: Make) -> None:
    gateway = make_gateway(pipelined=10)
    client = gateway.connect()
    client.send(GET * 30)
    for _ in range(11):
        assert not client.closed
        assert gateway.answer() == 1
    assert client.answers() == [200] * 11
    assert client.closed, "the client sends again what was behind them"
    assert gateway.asked() == []


def test_nothing_is_read_while_pipelined_requests_wait(make_gateway: Make) -> None:
    gateway = make_gateway(pipelined=10)
    client = gateway.connect()
    client.send(GET * 3)
    gateway.answer()
    assert not client.reading, "one still waits for its turn"
    gateway.answer()
    assert client.reading
    gateway.answer()
    assert client.answers() == [200] * 3
    assert not client.closed


def test_what_follows_a_request_that_ends_the_connection_is_not_served(make_gateway: Make) -> None:
    gateway = make_gateway()
    client = gateway.connect()
    client.send(b"GET /nowhere HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n" + GET)
    assert client.answers() == [404]
    other = gateway.connect()
    other.send(b"GET /e HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n" + GET)
    assert gateway.answer() == 1
    assert gateway.asked() == []
    assert (other.answers(), bool(other.closed)) == ([200], True)


def test_garbage_behind_a_request_does_not_cost_it_its_answer(make_gateway: Make) -> None:
    gateway = make_gateway()
    client = gateway.connect()
    client.send(GET + GET + b"garbage\r\n\r\n")
    assert gateway.answer() == gateway.answer() == 1
    assert client.answers() == [200, 200]
    assert client.closed


def test_what_follows_an_offer_to_change_the_protocol_is_served(make_gateway: Make) -> None:
    gateway = make_gateway()
    client = gateway.connect()
    client.send(b"GET /e HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n" + GET)
    assert gateway.answer() == gateway.answer() == 1
    assert client.answers() == [200, 200]
    assert not client.closed


def test_connections_are_limited_in_total_and_for_each_address(make_gateway: Make) -> None:
    gateway = make_gateway(connections=5, connections_per_address=2)
    first = [gateway.connect("192.0.2.1") for _ in range(3)]
    assert [client.answers() for client in first] == [[], [], [429]]
    first[2].protocol.connection_lost(None)
    second = [gateway.connect(f"2001:db8::{number}") for number in range(3)]
    assert [client.answers() for client in second] == [[], [], [429]], "one network of IPv6 is one client"
    second[2].protocol.connection_lost(None)
    third = [gateway.connect(f"192.0.2.{number}") for number in (3, 4)]
    assert [client.answers() for client in third] == [[], [503]]
    first[0].protocol.connection_lost(None)
    third[1].protocol.connection_lost(None)
    assert gateway.connect("192.0.2.1").answers() == []


def test_too_many_connections_are_one_line_in_the_log_and_one_when_it_is_over(
    make_gateway: Make, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = make_gateway(connections=1)
    first = gateway.connect()
    for _ in range(3):
        assert gateway.connect().answers() == [503]
    assert [record.message for record in caplog.records] == [
        "connections are refused: this gateway has 1 connections, its limit (the first one: 192.0.2.1:1024)"
    ]
    first.protocol.connection_lost(None)
    gateway.wait(20.0)
    assert [record.message for record in caplog.records[1:]] == ["connections are taken again; 3 were refused"]
    assert gateway.front.statistics()["connections_refused"] == 3


def test_bodies_are_limited_all_together_while_they_come_and_until_they_are_answered(make_gateway: Make) -> None:
    gateway = make_gateway(held_bytes=10_000)
    answered, coming, late = gateway.connect(), gateway.connect(), gateway.connect()
    answered.send(sized(4000) + b"x" * 4000)
    assert gateway.front.receiving_bytes == 0
    coming.send(sized(5000) + b"x" * 4900)
    assert gateway.front.receiving_bytes > 4900
    late.send(sized(5000) + b"x" * 2000)
    assert (late.answers(), late.closed) == ([429], "ended")
    assert gateway.answer() == 1
    assert answered.answers() == [200]
    other = gateway.connect()
    other.send(sized(4000) + b"x" * 3000)
    other.send(b"x" * 1000)
    coming.send(b"x" * 100)
    assert gateway.answer() == 2
    assert (coming.answers(), other.answers()) == ([200], [200])
    assert gateway.front.receiving_bytes == gateway.core.held_bytes == 0


@pytest.mark.parametrize("how", ["gone", "slow", "too large"])
def test_a_body_that_never_comes_to_its_end_is_not_held_for_ever(make_gateway: Make, how: str) -> None:
    gateway = make_gateway(held_bytes=10_000, body_bytes=6000)
    client = gateway.connect()
    client.send(CHUNKED + b"1388\r\n" + b"x" * 5000 + b"\r\n")
    assert gateway.front.receiving_bytes > 5000
    if how == "gone":
        client.protocol.connection_lost(None)
    elif how == "slow":
        gateway.wait(30.0)
        client.protocol.connection_lost(None)
        assert client.answers() == [408]
    else:
        client.send(b"1388\r\n" + b"x" * 5000 + b"\r\n")
        assert client.answers() == [413]
    assert gateway.front.receiving_bytes == 0


def test_a_body_in_very_small_pieces_counts_for_the_memory_that_it_takes(make_gateway: Make) -> None:
    gateway = make_gateway(held_bytes=10_000)
    client = gateway.connect()
    client.send(CHUNKED + b"1\r\nx\r\n" * 500)
    assert client.answers() == [429]


def test_addresses_are_forgotten_with_their_last_connection() -> None:
    counts = AddressCounts()
    hosts = ["127.0.0.1", "::1", "2001:db8::1", "2001:db8::2", "::ffff:127.0.0.1", "fe80::1%eth0"]
    entered = [counts.enter(host) for host in hosts]
    assert [count for _, count in entered] == [1, 1, 1, 2, 2, 1]
    for name, _ in entered:
        counts.leave(name)
    assert len(counts) == 0


def test_the_defaults_leave_room_for_others_beside_one_address() -> None:
    limits = HttpLimits()
    assert 1000 < limits.connections_per_address < limits.connections


def test_a_request_that_the_gateway_itself_fails_at_has_an_answer_and_so_has_the_next(
    make_gateway: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = make_gateway()
    client = gateway.connect()

    def broken(*_: object, **__: object) -> None:
        raise OverflowError("no such number")

    with monkeypatch.context() as patched:
        patched.setattr(gateway.core, "open", broken)
        client.send(GET + GET)
        assert client.answers() == [500, 500]
    assert "no such number" in caplog.text
    client.send(GET)
    assert gateway.answer() == 1
    assert client.answers() == [200]


def test_a_failure_between_headers_and_body_is_no_fault_of_the_client(
    make_gateway: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = make_gateway()
    client = gateway.connect()
    monkeypatch.setattr(gateway.front, "match", lambda *_: 1 / 0)
    client.send(GET)
    assert client.answers() == [500]
    assert client.closed
