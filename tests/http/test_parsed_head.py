"""A connection whose requests begin alike: what is remembered of the last head, and what is looked at every time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zserve.http.head import decode_head
from zserve.http.parsed_head import ParsedHead, head_to_remember
from zserve.http.routes import RouteTable
from zserve.security.tokens import Unauthorized
from zserve.wire.messages import FLAG_DEFAULT_DEADLINE, Request, Result

from .connection import ROUTER, Connection, Gateway


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


class _Unused:
    """In the place of a parser that is not to be asked."""

    def feed_data(self, data: bytes) -> None:
        raise AssertionError(f"parsed again: {data!r}")


def post(body: bytes, path: bytes = b"/e", more: bytes = b"") -> bytes:
    return b"POST %s HTTP/1.1\r\nHost: x\r\n%sContent-Length: %d\r\n\r\n%s" % (path, more, len(body), body)


def taken(gateway: Gateway) -> list[tuple[Request, Any, bytes]]:
    """(message, head, body) of the requests that went to the router since the last look."""
    found = gateway.core.out.take().get(ROUTER, [])
    return [(message, decode_head(head), body) for message, head, body in found if type(message) is Request]


def ask(gateway: Gateway, connection: Connection, data: bytes) -> tuple[Request, Any, bytes]:
    """Send one request, have it answered, and give what the router got of it."""
    connection.send(data)
    (one,) = taken(gateway)
    gateway.tell(Result(one[0].id, 200, 1))
    return one


def test_the_same_head_is_not_parsed_again(loop: asyncio.AbstractEventLoop) -> None:
    gateway = Gateway(loop)
    connection = gateway.connect()
    first, head, _ = ask(gateway, connection, post(b"one"))
    connection.protocol.parser = _Unused()
    for body in (b"two", b"six", b"\r\n\r"):
        message, again, got = ask(gateway, connection, post(body))
        assert got == body
        assert again == head
        assert message.id != first.id
        assert (message.endpoint, message.flags) == (first.endpoint, first.flags)
        assert message.flags & FLAG_DEFAULT_DEADLINE
    assert connection.answers() == [200] * 4


def test_what_is_not_alike_is_parsed(loop: asyncio.AbstractEventLoop) -> None:
    gateway = Gateway(loop)
    connection = gateway.connect()
    ask(gateway, connection, post(b"one"))
    assert ask(gateway, connection, post(b"longer"))[2] == b"longer"
    assert ask(gateway, connection, post(b"one", more=b"A: b\r\n"))[1].headers[1] == (b"a", b"b")
    assert ask(gateway, connection, b"GET /e HTTP/1.1\r\nHost: x\r\n\r\n")[1].http_method == "GET"
    connection.send(post(b"one") + post(b"two"))
    assert [body for _, _, body in taken(gateway)] == [b"one"], "the second waits for its turn"
    assert connection.answers() == [200] * 4


def test_one_that_comes_in_parts(loop: asyncio.AbstractEventLoop) -> None:
    gateway = Gateway(loop)
    connection = gateway.connect()
    ask(gateway, connection, post(b"one"))
    data = post(b"two")
    for at in range(1, len(data)):
        connection.send(data[:at])
        assert taken(gateway) == []
        assert ask(gateway, connection, data[at:])[2] == b"two"
        assert ask(gateway, connection, data)[2] == b"two"


def test_one_that_comes_before_the_answer_waits(loop: asyncio.AbstractEventLoop) -> None:
    gateway = Gateway(loop)
    connection = gateway.connect()
    ask(gateway, connection, post(b"one"))
    connection.send(post(b"two"))
    connection.send(post(b"six"))
    (two,) = taken(gateway)
    gateway.tell(Result(two[0].id, 200, 1), body=b"answer two")
    (six,) = taken(gateway)
    assert (two[2], six[2]) == (b"two", b"six")
    gateway.tell(Result(six[0].id, 200, 1), body=b"answer six")
    assert connection.written.index(b"answer two") < connection.written.index(b"answer six")


def test_routes_are_looked_at_each_time(loop: asyncio.AbstractEventLoop) -> None:
    gateway = Gateway(loop)
    connection = gateway.connect()
    ask(gateway, connection, post(b"one"))
    gateway.core._routes = RouteTable([("other", "/{name}", ["POST"])])
    message, head, _ = ask(gateway, connection, post(b"one"))
    assert (message.endpoint, head.params) == ("other", {"name": "e"})
    gateway.core._routes = RouteTable([])
    connection.send(post(b"one"))
    assert connection.answers() == [200, 200, 404]


def test_tokens_are_looked_at_each_time(loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = Gateway(loop)
    connection = gateway.connect()
    ask(gateway, connection, post(b"one"))

    def refuse(*asked: Any) -> Any:
        raise Unauthorized

    monkeypatch.setattr(gateway.front, "match", refuse)
    connection.send(post(b"one"))
    assert connection.answers() == [200, 401]
    assert taken(gateway) == []


def test_each_has_its_own_time(loop: asyncio.AbstractEventLoop) -> None:
    gateway = Gateway(loop)
    connection = gateway.connect()
    for path, budget_us in ((b"/e?relative_slo_ms=250", 250_000), (b"/e", 30_000_000)):
        for now in (10.0, 20.0, 30.0):
            gateway.now = now
            assert ask(gateway, connection, post(b"one", path))[0].budget_us == budget_us
    with_header = post(b"one", more=b"X-Request-Timeout-Seconds: 2\r\n")
    assert [ask(gateway, connection, with_header)[0].budget_us for _ in range(3)] == [2_000_000] * 3


@pytest.mark.parametrize("name", [b"absolute_slo_ms", b"%61bsolute_slo_ms"])
def test_a_time_of_day_comes_nearer(loop: asyncio.AbstractEventLoop, name: bytes) -> None:
    gateway = Gateway(loop)
    gateway.front._wall = lambda: 1000.0 + gateway.now
    connection = gateway.connect()
    data = post(b"one", b"/e?" + name + b"=1005000")
    found = []
    for now in (0.0, 1.0, 4.5):
        gateway.now = now
        found.append(ask(gateway, connection, data)[0].budget_us)
    assert found == [5_000_000, 4_000_000, 500_000]
    gateway.now = 5.0
    connection.send(data)
    assert connection.answers() == [200, 200, 200, 504]


def test_a_gateway_that_drains_says_that_the_connection_ends(loop: asyncio.AbstractEventLoop) -> None:
    gateway = Gateway(loop)
    connection = gateway.connect()
    ask(gateway, connection, post(b"one"))
    gateway.front.draining = True
    connection.written = b""
    ask(gateway, connection, post(b"one"))
    assert b"connection: close" in connection.written
    assert connection.closed


def test_a_client_whose_heads_always_differ_is_not_looked_at_any_more(loop: asyncio.AbstractEventLoop) -> None:
    gateway = Gateway(loop)
    connection = gateway.connect()
    for number in range(20):
        ask(gateway, connection, post(b"one", more=b"X-Request-Id: %d\r\n" % number))
    assert connection.protocol._known is None


def test_the_answer_has_the_id_that_the_client_gave(loop: asyncio.AbstractEventLoop) -> None:
    gateway = Gateway(loop)
    connection = gateway.connect()
    for _ in range(3):
        connection.written = b""
        ask(gateway, connection, post(b"one", more=b"X-Request-Id: mine\r\n"))
        assert b"\r\nx-request-id: mine\r\n" in connection.written


def _head(**special: bytes) -> ParsedHead:
    named = {name.replace("_", "-").encode(): value for name, value in special.items()}
    return ParsedHead("POST", "/e", b"", [], named)


@pytest.mark.parametrize(
    ("data", "size", "special"),
    [
        (post(b"one") + b"\r\n", 3, {"content_length": b"3"}),  # bytes that belong to nothing
        (b"\r\n\r\n" + post(b"one"), 3, {"content_length": b"3"}),
        (post(b"one").replace(b"\r\nHost", b"\nHost"), 3, {"content_length": b"3"}),  # its end depends on the parser
        (post(b"one"), 3, {"content_length": b"3", "expect": b"100-continue"}),
        (post(b"one"), 3, {"content_length": b"3", "transfer_encoding": b"chunked"}),
        (post(b"one"), 3, {"content_length": b"4"}),
        (post(b"one"), 2, {"content_length": b"2"}),
        (post(b"one", more=b"A: %s\r\n" % (b"b" * 5000)), 3, {"content_length": b"3"}),
        (b"POST /e HTTP/1.1\r\nHost: x\r\n", 0, {}),
    ],
)
def test_heads_that_are_not_remembered(data: bytes, size: int, special: dict[str, bytes]) -> None:
    assert head_to_remember(_head(**special), data, size) == b""


def test_heads_that_are() -> None:
    data = post(b"one\r\n\r\n")
    assert head_to_remember(_head(content_length=b"7"), data, 7) == data[:-7]
    assert head_to_remember(_head(), b"GET /e HTTP/1.1\r\nHost: x\r\n\r\n", 0) == b"GET /e HTTP/1.1\r\nHost: x\r\n\r\n"


_REQUESTS = [
    b"GET /e HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /e?relative_slo_ms=50 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /none HTTP/1.1\r\nHost: x\r\n\r\n",
    b"HEAD /e HTTP/1.1\r\nHost: x\r\n\r\n",
    post(b""),
    post(b"one"),
    post(b"two"),
    post(b"one\r\n"),
    post(b"\r\n\r\nfoo"),
    post(b"one", more=b"Idempotency-Key: k\r\n"),
    b"POST /e HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n0\r\n\r\n",
    b"POST /e HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\none",
]


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_a_connection_that_remembers_is_like_new_ones(data: st.DataObject) -> None:
    loop = asyncio.new_event_loop()
    try:
        gateway, one_by_one = Gateway(loop), Gateway(loop)
        connection = gateway.connect()
        for request in data.draw(st.lists(st.sampled_from(_REQUESTS), max_size=12)):
            cut = data.draw(st.sampled_from([0, 0, 0, 5, len(request) - 2]))
            other = one_by_one.connect()
            seen = []
            for where, there in ((gateway, connection), (one_by_one, other)):
                there.written = b""
                if cut:
                    there.send(request[:cut])
                there.send(request[cut:])
                got = taken(where)
                for message, _, _ in got:
                    where.tell(Result(message.id, 200, 1))
                written = there.written
                for message, _, _ in got:
                    written = written.replace(message.id.hex().encode(), b"ID")
                if b" 404 " in written:  # made by the gateway itself, with an id of its own
                    written = written.partition(b"x-request-id")[0]
                seen.append(
                    (
                        [(one.endpoint, one.budget_us, one.flags, head, body) for one, head, body in got],
                        written,
                        there.closed,
                    )
                )
            assert seen[0] == seen[1]
    finally:
        loop.close()
