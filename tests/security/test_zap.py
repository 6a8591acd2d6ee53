"""The ZAP handler and the keyed sockets, with real connections on loopback."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import zmq
from zmq.utils.monitor import parse_monitor_message

from zserve.channel.sockets import KeyedSocket, bind_publisher, bind_router, dial_publisher, dial_router
from zserve.security.connections import Connections
from zserve.security.keys import KeyPair, new_key_pair
from zserve.security.zap import ZapHandler

from .keys import needs_curve

pytestmark = needs_curve

LONG_MS = 20_000


class Door:
    """A bound ROUTER and XPUB with a handler in front, in a context of their own."""

    def __init__(self) -> None:
        self.context: zmq.Context[Any] = zmq.Context()
        self.pair = new_key_pair()
        self.known: set[bytes] = set()
        self.admits: Callable[[bytes], bool] = lambda key: key in self.known
        self.zap = ZapHandler(self.context, lambda key: self.admits(key))
        self.router, self.address = bind_router(self.context, "tcp://127.0.0.1:*", self.pair)
        self.publisher, self.published = bind_publisher(self.context, "tcp://127.0.0.1:*", self.pair)

    def close(self) -> None:
        self.router.close(0)
        self.publisher.close(0)
        self.context.term()


class Visitor:
    """Somebody who knocks, in a context of their own."""

    def __init__(self, door: Door, pair: KeyPair | None, server: bytes | None = None) -> None:
        self.context: zmq.Context[Any] = zmq.Context()
        self.sockets: list[zmq.Socket[bytes]] = []
        self.door = door
        self.pair = pair
        self.server = door.pair.public if server is None else server
        self.socket = dial_router(self.context, self.door.address, os.urandom(28), self.pair, self.server)
        self.monitor = self.socket.get_monitor_socket()
        self.sockets += [self.socket, self.monitor]

    def outcome(self) -> str:
        """How the handshake ended."""
        while self.monitor.poll(LONG_MS):
            event = parse_monitor_message(self.monitor.recv_multipart())["event"]
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                return "in"
            if event in (zmq.EVENT_HANDSHAKE_FAILED_AUTH, zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL):
                return "refused"
            if event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
                return "hung up"
        return "nothing"

    def close(self) -> None:
        self.socket.disable_monitor()
        for socket in self.sockets:
            socket.close(0)
        self.context.term()


@pytest.fixture
def door() -> Iterator[Door]:
    door = Door()
    try:
        yield door
    finally:
        door.close()


@pytest.fixture
def visit(door: Door) -> Iterator[Callable[..., Visitor]]:
    visitors: list[Visitor] = []

    def visit(*arguments: Any) -> Visitor:
        visitors.append(Visitor(door, *arguments))
        return visitors[-1]

    yield visit
    for visitor in visitors:
        visitor.close()


def test_a_known_key_comes_in_and_each_message_shows_it(door: Door, visit: Callable[..., Visitor]) -> None:
    pair = new_key_pair()
    door.known.add(pair.public)
    visitor = visit(pair)
    assert visitor.outcome() == "in"
    visitor.socket.send_multipart([b"one", b"two"])
    assert door.router.poll(LONG_MS)
    assert isinstance(door.router, KeyedSocket)
    for _ in range(3):
        door.router.recv(0, False)
        public, descriptor = door.router.sender()
        assert public == pair.public
        assert descriptor > 0


@pytest.mark.parametrize("who", ["unknown key", "no key", "wrong server"])
def test_strangers_do_not_get_a_byte_through(door: Door, visit: Callable[..., Visitor], who: str) -> None:
    pair = new_key_pair()
    if who == "wrong server":
        door.known.add(pair.public)
        visitor = visit(pair, new_key_pair().public)
    else:
        visitor = visit(None if who == "no key" else pair)
    assert visitor.outcome() in ("refused", "hung up")
    with pytest.raises(zmq.Again):
        visitor.socket.send(b"hello", zmq.NOBLOCK)
    subscriber = dial_publisher(visitor.context, door.published, visitor.pair, visitor.server)
    visitor.sockets.append(subscriber)
    # Somebody who may shows that the door works, and that what went before was not merely slow.
    friend = new_key_pair()
    door.known.add(friend.public)
    good = visit(friend)
    assert good.outcome() == "in"
    good.socket.send(b"from a friend")
    assert door.router.poll(LONG_MS)
    assert door.router.recv_multipart()[1:] == [b"from a friend"]
    reader = dial_publisher(good.context, door.published, friend, door.pair.public)
    good.sockets.append(reader)
    assert door.publisher.poll(LONG_MS)
    assert door.publisher.recv() == b"\x01"
    door.publisher.send(b"news")
    assert reader.poll(LONG_MS)
    assert not subscriber.poll(0)
    assert not door.router.poll(0)


def test_a_valid_key_comes_in_while_invalid_ones_hammer(door: Door, visit: Callable[..., Visitor]) -> None:
    bad, good = new_key_pair(), new_key_pair()
    door.known.add(good.public)
    stop = threading.Event()

    def hammer() -> None:
        context: zmq.Context[Any] = zmq.Context()
        while not stop.is_set():
            sockets = [dial_router(context, door.address, bytes([n]) * 28, bad, door.pair.public) for n in range(8)]
            stop.wait(0.02)
            for socket in sockets:
                socket.close(0)
        context.term()

    thread = threading.Thread(target=hammer)
    thread.start()
    try:
        end = time.monotonic() + 20.0
        while door.zap.refused < 20 and time.monotonic() < end:
            time.sleep(0.01)
        assert door.zap.refused >= 20
        for _ in range(5):
            assert visit(good).outcome() == "in"
    finally:
        stop.set()
        thread.join()


def test_the_handler_outlives_its_own_mistakes(door: Door, visit: Callable[..., Visitor]) -> None:
    """An exception is "try again later": the same socket comes in once it works again, without being made anew."""
    pair = new_key_pair()
    door.known.add(pair.public)
    asked = threading.Semaphore(0)

    def fails(key: bytes) -> bool:
        asked.release()
        raise RuntimeError("a mistake")

    door.admits = fails
    visitor = visit(pair)
    assert asked.acquire(timeout=20.0)
    door.admits = lambda key: key in door.known
    outcomes = [visitor.outcome()]
    while outcomes[-1] == "hung up":
        outcomes.append(visitor.outcome())
    assert outcomes[-1] == "in"
    assert door.zap.failed >= 1


@pytest.mark.parametrize(
    "question",
    [
        [b""],
        [b"", b""],
        [b"", b"1.0", b"7"],
        [b"", b"9.9", b"7", b"zserve", b"", b"", b"CURVE", b"k" * 32],
        [b"", b"1.0", b"7", b"zserve", b"", b"", b"PLAIN", b"user", b"password"],
        [b"", b"1.0", b"7", b"zserve", b"", b"", b"NULL"],
        [b"", b"1.0", b"7", b"other", b"", b"", b"CURVE", b"k" * 32],
        [b"", b"1.0", b"7", b"zserve", b"", b"", b"CURVE", b"k" * 32, b"more"],
    ],
)
def test_questions_that_make_no_sense_are_answered_with_no(door: Door, question: list[bytes]) -> None:
    door.admits = lambda key: True
    asking = door.context.socket(zmq.DEALER)
    try:
        asking.connect("inproc://zeromq.zap.01")
        asking.send_multipart(question)
        assert asking.poll(LONG_MS)
        answer = asking.recv_multipart()
        assert answer[0] == b""
        assert answer[3] in (b"300", b"400")
        assert answer[5] == b"", "no User-Id"
    finally:
        asking.close(0)


def test_connections_of_one_key_are_cut_and_no_other(door: Door, visit: Callable[..., Visitor]) -> None:
    one, other = new_key_pair(), new_key_pair()
    door.known |= {one.public, other.public}
    connections = Connections()
    visitors = {}
    for pair in (one, other):
        visitor = visitors[pair.public] = visit(pair)
        assert visitor.outcome() == "in"
        visitor.socket.send(b"hello")
        assert door.router.poll(LONG_MS)
        door.router.recv(0, False)
        assert isinstance(door.router, KeyedSocket)
        public, descriptor = door.router.sender()
        assert public == pair.public
        connections.saw(descriptor, public)
        door.router.recv()
    door.known.discard(one.public)
    assert connections.cut(one.public) == 1
    assert connections.cut(one.public) == 0
    assert connections.holders() == {other.public}
    assert visitors[one.public].outcome() == "refused", "it came back, and was not let in again"
    visitors[other.public].socket.send(b"still here")
    assert door.router.poll(LONG_MS)
    assert door.router.recv_multipart()[1] == b"still here"


def test_a_descriptor_that_stands_for_something_else_by_now_is_left_alone() -> None:
    import socket

    connections = Connections()
    listener = socket.create_server(("127.0.0.1", 0))
    first = socket.create_connection(listener.getsockname())
    accepted, _ = listener.accept()
    number = accepted.fileno()
    connections.saw(number, b"key")
    first.close()
    accepted.close()
    second = socket.create_connection(listener.getsockname())
    reused, _ = listener.accept()
    try:
        for bystander in (second, reused):
            if bystander.fileno() != number:
                continue
            break
        assert connections.cut(b"key") == 0
        second.sendall(b"alive")
        assert reused.recv(5) == b"alive"
    finally:
        for each in (second, reused, listener):
            each.close()
    connections.saw(-1, b"key")
    connections.saw(1 << 20, b"key")
    assert connections.holders() == set()
