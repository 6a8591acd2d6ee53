"""Answers to many connections in one system call: every byte arrives once and in order, or is the transport's."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import platform
import socket
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

import zserve.http.writes
from zserve.http.writes import Gatherer, Outgoing, Writes, _works, open_writes

NO_SUCH_CALL = 100_000
SMALL = 65_536
TIMEOUT_S = 20.0


def possible() -> bool:
    found = open_writes()
    if found is not None:
        found.close()
    return found is not None


needs_io_submit = pytest.mark.skipif(not possible(), reason="io_submit does not take sockets here")


class Transport:
    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.waiting = 0
        self.closing = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def is_closing(self) -> bool:
        return self.closing


class Pair:
    """A gateway's socket and its client's."""

    def __init__(self, ends: tuple[socket.socket, socket.socket]) -> None:
        self.near, self.far = ends
        self.near.setblocking(False)
        self.far.settimeout(TIMEOUT_S)
        self.transport = Transport()

    def out(self, data: bytes) -> Outgoing:
        return (self.near.fileno(), self.transport, data)

    def fill(self) -> bytes:
        """Write until it takes no more; what was written."""
        written = b""
        with contextlib.suppress(BlockingIOError):
            while True:
                data = b"%08d" % len(written) * 512
                written += data[: self.near.send(data)]
        return written

    def handed_over(self) -> bytes:
        return b"".join(self.transport.written)

    def arrived(self) -> bytes:
        """All that the client gets that it has not read yet; ends the connection."""
        self.near.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: self.far.recv(1 << 20), b""))

    def close(self) -> None:
        self.near.close()
        self.far.close()


def local() -> Pair:
    return Pair(socket.socketpair())


def tcp() -> Pair:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
        far = socket.create_connection(listener.getsockname(), TIMEOUT_S)
        near, _ = listener.accept()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
    return Pair((near, far))


Make = Callable[..., list[Pair]]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes pairs that are closed after the test."""
    with contextlib.ExitStack() as stack:

        def some(count: int, kind: Callable[[], Pair] = local) -> list[Pair]:
            pairs = []
            for _ in range(count):
                pairs.append(kind())
                stack.callback(pairs[-1].close)
            return pairs

        yield some


@pytest.fixture
def writes() -> Iterator[Writes]:
    with contextlib.closing(Writes()) as made:
        yield made


def answer(number: int, size: int = 200) -> bytes:
    """Different for each number, and nowhere the same as itself a little further on."""
    return b"".join(b"%d:%d;" % (number, at) for at in range(size // 4 + 1))[:size]


# --- Writes -----------------------------------------------------------------------------------------------------------


@needs_io_submit
@pytest.mark.parametrize("kind", [local, tcp])
@pytest.mark.parametrize("count", [1, 2, 64, 65, 150])
def test_each_socket_gets_its_own(writes: Writes, make: Make, count: int, kind: Callable[[], Pair]) -> None:
    pairs = make(count, kind)
    writes.send([pair.out(answer(number, 100 + number)) for number, pair in enumerate(pairs)])
    for number, pair in enumerate(pairs):
        assert pair.arrived() == answer(number, 100 + number)
        assert pair.transport.written == []


@needs_io_submit
def test_nothing_to_send(writes: Writes) -> None:
    writes.send([])


@needs_io_submit
def test_again_and_again(writes: Writes, make: Make) -> None:
    pairs = make(70)
    for turn in range(50):
        writes.send([pair.out(answer(turn * 70 + number)) for number, pair in enumerate(pairs)])
    for number, pair in enumerate(pairs):
        assert pair.arrived() == b"".join(answer(turn * 70 + number) for turn in range(50))
        assert pair.transport.written == []


@needs_io_submit
@pytest.mark.parametrize("kind", [local, tcp])
def test_a_full_socket(writes: Writes, make: Make, kind: Callable[[], Pair]) -> None:
    before, full, after = make(3, kind)
    filled = full.fill()
    writes.send([before.out(b"before"), full.out(b"not now"), after.out(b"after")])
    assert full.transport.written == [b"not now"]
    assert full.arrived() == filled
    assert (before.arrived(), after.arrived()) == (b"before", b"after")
    assert before.transport.written == after.transport.written == []


@needs_io_submit
def test_a_socket_that_is_nearly_full(writes: Writes, make: Make) -> None:
    other, full = make(2)
    filled = full.fill()
    drained = b"".join(full.far.recv(4096) for _ in range(8))
    data = answer(1, 1_000_000)
    writes.send([full.out(data), other.out(b"other")])
    rest = full.handed_over()
    arrived = drained + full.arrived()
    assert arrived + rest == filled + data
    assert len(filled) < len(arrived), "it took some"
    assert len(full.transport.written) == 1
    assert other.arrived() == b"other"


@needs_io_submit
@pytest.mark.parametrize("kind", [local, tcp])
def test_more_than_a_socket_takes(writes: Writes, make: Make, kind: Callable[[], Pair]) -> None:
    pairs = make(3, kind)
    data = [answer(number, 4_000_000 + number) for number in range(3)]
    writes.send([pair.out(data[number]) for number, pair in enumerate(pairs)])
    for number, pair in enumerate(pairs):
        rest = pair.handed_over()
        arrived = pair.arrived()
        assert arrived + rest == data[number]
        assert arrived
        assert rest
        assert len(pair.transport.written) == 1


@needs_io_submit
@pytest.mark.parametrize("kind", [local, tcp])
def test_a_client_that_has_gone(writes: Writes, make: Make, kind: Callable[[], Pair]) -> None:
    before, gone, after = make(3, kind)
    gone.near.send(b"not read: TCP resets the connection")
    gone.far.close()
    writes.send([before.out(b"before"), gone.out(b"nobody"), after.out(b"after")])
    assert gone.transport.written == [b"nobody"]
    assert (before.arrived(), after.arrived()) == (b"before", b"after")
    assert before.transport.written == after.transport.written == []


@needs_io_submit
@pytest.mark.parametrize("place", [0, 2, 4, 70])
def test_a_closed_descriptor(writes: Writes, make: Make, place: int) -> None:
    """The system refuses it, and does not look at those that come after it; nothing is lost or written twice."""
    pairs = make(place + 3)
    outgoing = [pair.out(answer(number)) for number, pair in enumerate(pairs)]
    pairs[place].near.close()
    writes.send(outgoing)
    assert pairs[place].transport.written == [answer(place)]
    for number, pair in enumerate(pairs):
        if number != place:
            handed_over = pair.handed_over()
            assert pair.arrived() + handed_over == answer(number)
            assert not handed_over or number > place
    others = make(3)
    writes.send([pair.out(b"later") for pair in others])
    assert [pair.arrived() for pair in others] == [b"later"] * 3


@needs_io_submit
def test_io_submit_refuses_altogether(writes: Writes, make: Make) -> None:
    writes._submit = ctypes.c_long(NO_SUCH_CALL)
    pairs = make(70)
    writes.send([pair.out(answer(number)) for number, pair in enumerate(pairs)])
    for number, pair in enumerate(pairs):
        assert pair.transport.written == [answer(number)]
        assert pair.arrived() == b""


@needs_io_submit
def test_after_its_end_all_is_the_transports(writes: Writes, make: Make) -> None:
    writes.close()
    (pair,) = make(1)
    writes.send([pair.out(b"late")])
    assert pair.transport.written == [b"late"]
    assert pair.arrived() == b""


@needs_io_submit
def test_it_can_be_closed_twice(writes: Writes) -> None:
    writes.close()
    writes.close()


@needs_io_submit
def test_one_of_them_leaves_the_others_alone(make: Make) -> None:
    first, second = Writes(), Writes()
    first.close()
    (pair,) = make(1)
    with contextlib.closing(second):
        second.send([pair.out(b"still here")])
    assert pair.arrived() == b"still here"


@needs_io_submit
@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 40_000), min_size=1, max_size=100))
def test_whatever_the_sizes_all_arrive(sizes: list[int]) -> None:
    with contextlib.ExitStack() as stack:
        writes = stack.enter_context(contextlib.closing(Writes()))
        pairs = [stack.enter_context(contextlib.closing(local())) for _ in sizes]
        data = [answer(number, size) for number, size in enumerate(sizes)]
        writes.send([pair.out(part) for pair, part in zip(pairs, data, strict=True)])
        assert [pair.arrived() for pair in pairs] == data
        assert not any(pair.transport.written for pair in pairs)


# --- where there is none ----------------------------------------------------------------------------------------------


@needs_io_submit
def test_it_is_found_to_work() -> None:
    found = open_writes()
    assert found is not None
    assert _works(found)
    found.close()


def test_a_machine_that_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zserve.http.writes.platform.machine", lambda: "pdp11")
    assert open_writes() is None
    with pytest.raises(OSError, match="only on Linux"):
        Writes()


def test_a_system_that_is_not_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zserve.http.writes.sys.platform", "darwin")
    assert open_writes() is None


@needs_io_submit
def test_a_system_that_allows_no_context(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(zserve.http.writes._CALLS, platform.machine(), (NO_SUCH_CALL,) * 4)
    assert open_writes() is None


@needs_io_submit
def test_a_system_that_takes_no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Writes] = []
    monkeypatch.setattr("zserve.http.writes._works", asked.append)
    assert open_writes() is None
    assert len(asked) == 1
    assert not asked[0]._context, "it is closed"


@needs_io_submit
def test_what_does_not_write_does_not_work(writes: Writes) -> None:
    writes._submit = ctypes.c_long(NO_SUCH_CALL)
    assert not _works(writes)


# --- Gatherer ---------------------------------------------------------------------------------------------------------


class Protocol:
    def __init__(self, descriptor: int = 7) -> None:
        self.transport = Transport()
        self.descriptor = descriptor
        self.pipeline: deque[Any] = deque()


class Bench:
    """A gatherer, and what it gives to its Writes."""

    def __init__(self) -> None:
        self.sent: list[list[Outgoing]] = []
        self.gatherer: Any = Gatherer(self)  # type: ignore[arg-type]

    def send(self, outgoing: list[Outgoing]) -> None:
        self.sent.append(outgoing)


def no_descriptor(protocol: Protocol) -> None:
    protocol.descriptor = -1


def pipelined(protocol: Protocol) -> None:
    protocol.pipeline.append(("the next one", None))


def waiting(protocol: Protocol) -> None:
    protocol.transport.waiting = 1


def closing(protocol: Protocol) -> None:
    protocol.transport.closing = True


@pytest.mark.parametrize("change", [no_descriptor, pipelined, waiting, closing])
def test_what_could_be_overtaken_is_not_taken(change: Callable[[Protocol], None]) -> None:
    bench, protocol = Bench(), Protocol()
    change(protocol)
    assert not bench.gatherer.take(protocol, b"x")
    bench.gatherer.send()
    assert bench.sent == []
    assert protocol.transport.written == [], "it is left to who asked"
    assert bench.gatherer.together == 0


def test_descriptor_0_is_one() -> None:
    assert Bench().gatherer.take(Protocol(0), b"x")


def test_nothing_was_taken() -> None:
    bench = Bench()
    bench.gatherer.send()
    assert (bench.sent, bench.gatherer.together) == ([], 0)


def test_one_goes_the_usual_way() -> None:
    bench, protocol = Bench(), Protocol()
    assert bench.gatherer.take(protocol, b"x")
    assert protocol.transport.written == []
    bench.gatherer.send()
    assert protocol.transport.written == [b"x"]
    bench.gatherer.send()
    assert protocol.transport.written == [b"x"], "and it goes once"
    assert (bench.sent, bench.gatherer.together) == ([], 0)


def test_several_go_together() -> None:
    bench = Bench()
    protocols = [Protocol(number) for number in range(3)]
    for protocol in protocols:
        assert bench.gatherer.take(protocol, b"for %d" % protocol.descriptor)
    bench.gatherer.send()
    bench.gatherer.send()
    assert bench.sent == [[(number, protocols[number].transport, b"for %d" % number) for number in range(3)]]
    assert not any(protocol.transport.written for protocol in protocols)
    assert bench.gatherer.together == 3
    for protocol in protocols[:2]:
        assert bench.gatherer.take(protocol, b"next")
    bench.gatherer.send()
    assert bench.gatherer.together == 5


@pytest.mark.parametrize("new_event_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_what_a_transport_holds_back_it_tells_of(new_event_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """What :meth:`Gatherer.take` relies on: behind a write the client has it, or the buffer is not empty."""

    async def look() -> None:
        near, far = socket.socketpair()
        with far:
            far.setblocking(False)
            transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=near)
            try:
                transport.write(b"at once")
                assert transport.get_write_buffer_size() == 0
                assert far.recv(100) == b"at once"
                size = 8 << 20
                transport.write(bytes(size))
                assert transport.get_write_buffer_size() > 0
                transport.write(b"behind it")
                arrived, held = 0, transport.get_write_buffer_size()
                with contextlib.suppress(BlockingIOError):
                    while arrived < size:
                        arrived += len(far.recv(1 << 20))
                assert arrived + held == size + len(b"behind it")
            finally:
                transport.abort()

    loop = new_event_loop()
    try:
        loop.run_until_complete(asyncio.wait_for(look(), 30.0))
    finally:
        loop.close()


@needs_io_submit
def test_it_all_together(writes: Writes, make: Make) -> None:
    """A gatherer over a real Writes: a full one among them is its transport's."""
    gatherer: Any = Gatherer(writes)
    pairs = make(5)
    filled = pairs[2].fill()
    for number, pair in enumerate(pairs):
        protocol = Protocol(pair.near.fileno())
        protocol.transport = pair.transport
        assert gatherer.take(protocol, answer(number))
    gatherer.send()
    assert gatherer.together == 5
    assert pairs[2].transport.written == [answer(2)]
    for number, pair in enumerate(pairs):
        assert pair.arrived() == (filled if number == 2 else answer(number))
