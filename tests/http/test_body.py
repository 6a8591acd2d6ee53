"""Large bodies: past the parser, and where the transport can do so, straight into their place."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zserve.http.body import SEGMENT_BYTES, BodyReader
from zserve.wire.messages import Request, Result

from .connection import ROUTER, Connection, Gateway

MIB = 1 << 20


class Switching(Connection):
    """A connection whose transport can be given another protocol, as those of uvloop can."""

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(gateway, ("192.0.2.1", 1024))
        self.current: Any = self.protocol
        self.read_in_place = 0

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.current = protocol

    def send(self, data: bytes) -> None:
        while data and not self.closed:
            if isinstance(self.current, BodyReader):
                place = self.current.get_buffer(-1)
                count = min(len(place), len(data))
                assert count, "there is always room"
                place[:count] = data[:count]
                data = data[count:]
                self.read_in_place += count
                self.current.buffer_updated(count)
            else:
                part, data = data[:256_000], data[256_000:]
                self.current.data_received(part)


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


@pytest.fixture(params=[Connection, Switching])
def connect(request: pytest.FixtureRequest) -> Any:
    if request.param is Switching:
        return Switching
    return lambda gateway: gateway.connect()


def post(body: bytes) -> bytes:
    return b"POST /e HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


def taken(gateway: Gateway) -> list[bytes]:
    """The bodies that went to the router, all of them answered."""
    found = gateway.core.out.take().get(ROUTER, [])
    bodies = []
    for message, _, body in found:
        if type(message) is Request:
            bodies.append(bytes(body))
            gateway.tell(Result(message.id, 200, 1))
    return bodies


def some(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.mark.parametrize("size", [MIB - 1, MIB, MIB + 1, 3 * MIB + 5, 8 * MIB, 70_000])
def test_a_large_body_arrives_whole(loop: asyncio.AbstractEventLoop, connect: Any, size: int) -> None:
    gateway = Gateway(loop)
    connection = connect(gateway)
    bodies = [some(size, seed) for seed in range(3)]
    for body in bodies:
        connection.send(post(body))
        assert [hashlib.sha256(one).digest() for one in taken(gateway)] == [hashlib.sha256(body).digest()]
    if isinstance(connection, Switching) and size > MIB:
        assert connection.read_in_place > size
    assert gateway.front.receiving_bytes == 0
    connection.send(post(b"small"))
    assert taken(gateway) == [b"small"]
    assert connection.answers() == [200] * 4


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_however_it_is_cut(data: st.DataObject) -> None:
    loop = asyncio.new_event_loop()
    try:
        gateway = Gateway(loop)
        connection = Switching(gateway) if data.draw(st.booleans()) else gateway.connect()
        sizes = st.sampled_from([0, 3, 65_536, 100_000, 400_000, 1_300_000])
        bodies = [some(size, seed) for seed, size in enumerate(data.draw(st.lists(sizes, min_size=1, max_size=3)))]
        stream = b"".join(map(post, bodies))
        got: list[bytes] = []
        while stream:
            size = data.draw(st.sampled_from([1, 20, 17_000, 70_000, 250_000, 1_000_000]))
            connection.send(stream[:size])
            stream = stream[size:]
            while found := taken(gateway):  # the answer lets the next one begin
                got += found
        assert got == bodies
        assert gateway.front.receiving_bytes == 0
        assert connection.answers() == [200] * len(bodies)
    finally:
        loop.close()


def test_a_promise_alone_takes_no_memory(loop: asyncio.AbstractEventLoop) -> None:
    gateway = Gateway(loop, body_bytes=64 * MIB)
    connection = Switching(gateway)
    connection.send(b"POST /e HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (50 * MIB, b"x" * 1000))
    assert gateway.front.receiving_bytes < 10_000
    connection.send(b"x" * 200_000)
    assert gateway.front.receiving_bytes <= SEGMENT_BYTES
    for _ in range(20):
        before = gateway.front.receiving_bytes
        connection.send(b"x" * MIB)
        assert gateway.front.receiving_bytes <= 2 * before + MIB
    assert gateway.front.receiving_bytes <= 42 * MIB
    assert taken(gateway) == []


def test_what_the_gateway_may_hold_binds_while_it_is_read(loop: asyncio.AbstractEventLoop) -> None:
    gateway = Gateway(loop, held_bytes=3 * MIB, body_bytes=64 * MIB)
    connection = Switching(gateway)
    connection.send(post(some(8 * MIB)))
    assert connection.answers() == [429]
    assert connection.current is connection.protocol
    assert gateway.front.receiving_bytes == 0
    assert taken(gateway) == []


def test_a_slow_one_is_ended(loop: asyncio.AbstractEventLoop) -> None:
    gateway = Gateway(loop)
    connection = Switching(gateway)
    connection.send(post(some(4 * MIB))[:MIB])
    assert isinstance(connection.current, BodyReader)
    gateway.wait(60.0)
    assert connection.answers() == [408]
    connection.closed = ""  # what was on its way all the same
    connection.send(some(MIB))
    assert connection.current is connection.protocol
    assert taken(gateway) == []


def test_a_client_that_leaves_in_the_middle(loop: asyncio.AbstractEventLoop) -> None:
    gateway = Gateway(loop)
    connection = Switching(gateway)
    connection.send(post(some(4 * MIB))[:MIB])
    connection.current.connection_lost(None)
    assert gateway.front.receiving_bytes == 0
    assert connection.protocol._reader is None
    assert taken(gateway) == []


@pytest.mark.parametrize("size", [0, 5, MIB])
@pytest.mark.parametrize("together", [True, False])
def test_the_body_of_one_that_offers_another_protocol(loop: Any, connect: Any, size: int, together: bool) -> None:
    gateway = Gateway(loop)
    connection = connect(gateway)
    body = some(size)
    offer = b"Connection: upgrade\r\nUpgrade: h2c\r\n"
    data = post(body).replace(b"Host: x\r\n", b"Host: x\r\n" + offer)
    for _ in range(2):
        if together:
            connection.send(data)
        else:
            connection.send(data[:-size] if size else data)
            connection.send(data[-size:] if size else b"")
        assert taken(gateway) == [body]
    connection.send(post(b"small"))
    assert taken(gateway) == [b"small"]
    assert connection.answers() == [200] * 3


def test_an_offer_of_another_protocol_with_a_chunked_body(loop: asyncio.AbstractEventLoop) -> None:
    gateway = Gateway(loop)
    connection = gateway.connect()
    offer = b"Connection: upgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked\r\n"
    connection.send(b"POST /e HTTP/1.1\r\nHost: x\r\n" + offer + b"\r\n3\r\none\r\n0\r\n\r\n")
    assert connection.answers() == [501]
    assert taken(gateway) == []
