"""The socket rules, on real sockets."""

from __future__ import annotations

import asyncio
import os
import random
import select
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import uvloop
import zmq

from zserve.channel.channel import Channel, Unreachable
from zserve.channel.sockets import bind_publisher, bind_router, dial_publisher, dial_router
from zserve.errors import PortInUse, ServeError
from zserve.wire.codec import LARGE, decode, encode
from zserve.wire.messages import Result


@pytest.fixture
def context() -> Iterator[zmq.Context[Any]]:
    context: zmq.Context[Any] = zmq.Context()
    yield context
    context.destroy(0)


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_ping_pong_with_sends_inside_receives_never_misses_a_wake_up(
    context: zmq.Context[Any], tmp_path: Any, new_loop: Any
) -> None:
    """The FD is edge-triggered: sends and receives interleaved in one callback are where wake-ups get lost."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        rng = random.Random(7)
        total = 3000
        back: set[bytes] = set()
        finished = asyncio.Event()
        sent = 0

        router_socket, address = bind_router(context, f"ipc://{tmp_path}/r")

        def on_router(frames: list[bytes]) -> None:
            for _ in range(rng.choice((1, 1, 1, 2))):
                router.send([frames[1]], frames[0])

        def on_dealer(frames: list[bytes]) -> None:
            nonlocal sent
            back.add(frames[0])
            burst = rng.randrange(4) if sent < total and sent - len(back) < 200 else 0
            for _ in range(burst):
                dealer.send([b"%d" % sent])
                sent += 1
            if sent >= total and len(back) == sent:
                finished.set()
            elif burst == 0 and sent < total and len(back) == sent:
                loop.call_soon(start)

        def start() -> None:
            nonlocal sent
            dealer.send([b"%d" % sent])
            sent += 1

        router = Channel(loop, router_socket, on_router)
        dealer = Channel(loop, dial_router(context, address, b"d" * 28), on_dealer)
        start()
        await asyncio.wait_for(finished.wait(), 30)
        for _ in range(2):
            # Answers that were sent twice may still be on their way.
            router.watch()
            dealer.watch()
            await asyncio.sleep(0)
        assert router.missed_wakeups == 0
        assert dealer.missed_wakeups == 0
        router.close()
        dealer.close()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


def test_what_is_sent_before_the_connection_stands_is_held_and_leaves_in_order(
    context: zmq.Context[Any], tmp_path: Any
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        got: list[bytes] = []
        done = asyncio.Event()

        def on_router(frames: list[bytes]) -> None:
            got.append(frames[1])
            if len(got) == 100:
                done.set()

        dealer = Channel(loop, dial_router(context, f"ipc://{tmp_path}/r", b"d" * 28), lambda frames: None)
        for number in range(100):
            dealer.send([b"%d" % number])
        assert dealer.held == 100
        router_socket, _ = bind_router(context, f"ipc://{tmp_path}/r")
        router = Channel(loop, router_socket, on_router)
        await asyncio.wait_for(done.wait(), 10)
        assert got == [b"%d" % number for number in range(100)]
        assert dealer.held == 0
        router.close()
        dealer.close()

    asyncio.run(main())


def test_a_publisher_with_subscribers_leaves_the_event_loop_alone(context: zmq.Context[Any], tmp_path: Any) -> None:
    """Its descriptor becomes readable with each subscription; left unread, the loop spins at full speed."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        socket, address = bind_publisher(context, f"ipc://{tmp_path}/p")
        publisher = Channel(loop, socket, lambda frames: None)
        calls = 0
        drain = publisher._drain

        def counted() -> None:
            nonlocal calls
            calls += 1
            drain()

        publisher._drain = counted  # type: ignore[method-assign]
        got = asyncio.Event()
        subscriber = Channel(loop, dial_publisher(context, address), lambda frames: got.set())
        while not got.is_set():
            publisher.send([b"news"])
            await asyncio.sleep(0.005)
        calls = 0
        turns = 0
        end = loop.time() + 0.2
        while loop.time() < end:
            await asyncio.sleep(0.01)
            turns += 1
        assert calls <= turns
        publisher.close()
        subscriber.close()

    asyncio.run(main())


def test_an_unknown_peer_is_an_error_and_not_a_silent_loss(context: zmq.Context[Any]) -> None:
    async def main() -> None:
        socket, _ = bind_router(context, "tcp://127.0.0.1:*")
        router = Channel(asyncio.get_running_loop(), socket, lambda frames: None)
        with pytest.raises(Unreachable):
            router.send([b"x"], b"nobody" * 4)
        router.close()

    asyncio.run(main())


def test_a_peer_that_takes_nothing_ends_as_unreachable(context: zmq.Context[Any], tmp_path: Any) -> None:
    async def main() -> None:
        dealer = Channel(
            asyncio.get_running_loop(), dial_router(context, f"ipc://{tmp_path}/nobody", b"d" * 28), lambda frames: None
        )

        def fill() -> None:
            for _ in range(2000):
                dealer.send([b"x"])

        with pytest.raises(Unreachable):
            fill()
        dealer.close()

    asyncio.run(main())


def test_a_forked_child_does_not_use_the_sockets_of_its_parent(
    context: zmq.Context[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        socket, _ = bind_router(context, "tcp://127.0.0.1:*")
        channel = Channel(asyncio.get_running_loop(), socket, lambda frames: None)
        real = os.getpid()
        monkeypatch.setattr(os, "getpid", lambda: real + 1)
        with pytest.raises(RuntimeError, match="fork"):
            channel.send([b"x"], b"p" * 28)
        monkeypatch.undo()
        channel.close()

    asyncio.run(main())


def test_an_address_in_use_and_one_that_is_none_are_clear_errors(context: zmq.Context[Any]) -> None:
    socket, address = bind_router(context, "tcp://127.0.0.1:*")
    with pytest.raises(PortInUse, match=address):
        bind_router(context, address)
    with pytest.raises(ServeError, match="not an address"):
        dial_router(context, "nonsense", b"d" * 28)
    socket.close(0)


def test_the_watchdog_finds_and_counts_what_no_wake_up_announced(context: zmq.Context[Any]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        got: list[bytes] = []
        socket, address = bind_router(context, "tcp://127.0.0.1:*")
        router = Channel(loop, socket, lambda frames: got.append(frames[1]))
        dealer = Channel(loop, dial_router(context, address, b"d" * 28), lambda frames: None)
        dealer.send([b"first"])
        while not got:
            await asyncio.sleep(0.001)
        loop.remove_reader(socket.getsockopt(zmq.FD))  # from here on the router is told nothing
        router.watch()
        dealer.send([b"second"])
        while not socket.getsockopt(zmq.EVENTS) & zmq.POLLIN:  # looking at it takes the signal away
            await asyncio.sleep(0.001)
        router.watch()
        await asyncio.sleep(0)
        assert got == [b"first", b"second"]
        assert router.missed_wakeups == 1
        router.close()
        dealer.close()

    asyncio.run(main())


def test_a_channel_that_is_lent_is_read_in_another_thread(context: zmq.Context[Any]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        got: list[tuple[bytes, int]] = []
        socket, address = bind_router(context, "tcp://127.0.0.1:*")
        router = Channel(loop, socket, lambda frames: got.append((frames[1], threading.get_ident())))
        dealer = Channel(loop, dial_router(context, address, b"d" * 28), lambda frames: None)

        async def wait(count: int) -> None:
            async with asyncio.timeout(10):
                while len(got) < count:
                    await asyncio.sleep(0.001)

        dealer.send([b"to the loop"])
        await wait(1)

        def borrow(descriptor: int) -> None:
            while len(got) < 2:
                assert select.select([descriptor], [], [], 10)[0]
                router.read()
            assert not router.due

        borrower = asyncio.create_task(asyncio.to_thread(borrow, router.lend()))
        dealer.send([b"to another thread"])
        await asyncio.wait_for(borrower, 15)
        # This one comes while nobody watches: it is found all the same.
        dealer.send([b"to the loop again"])
        assert (await asyncio.to_thread(select.select, [socket.getsockopt(zmq.FD)], [], [], 10))[0]
        assert len(got) == 2
        router.take_back()
        await wait(3)
        assert [message for message, _ in got] == [b"to the loop", b"to another thread", b"to the loop again"]
        here = threading.get_ident()
        assert [thread == here for _, thread in got] == [True, False, True]
        router.close()
        dealer.close()

    asyncio.run(main())


def test_a_connection_that_comes_up_between_two_sends_lets_both_leave(context: zmq.Context[Any], tmp_path: Any) -> None:
    """The second send looks at EVENTS, which takes away the signal that the first one was waiting for."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        got: list[bytes] = []
        done = asyncio.Event()

        def on_router(frames: list[bytes]) -> None:
            got.append(frames[1])
            if len(got) == 2:
                done.set()

        dealer_socket = dial_router(context, f"ipc://{tmp_path}/r", b"d" * 28)
        dealer = Channel(loop, dealer_socket, lambda frames: None)
        await asyncio.sleep(0)
        dealer.send([b"one"])
        await asyncio.sleep(0)
        router_socket, _ = bind_router(context, f"ipc://{tmp_path}/r")
        router = Channel(loop, router_socket, on_router)
        fd: Any = dealer_socket.getsockopt(zmq.FD)
        # The loop is kept busy until the connection stands.
        assert select.select([fd], [], [], 10)[0]
        dealer.send([b"two"])
        await asyncio.wait_for(done.wait(), 5)
        assert got == [b"one", b"two"]
        router.close()
        dealer.close()

    asyncio.run(main())


def test_what_is_only_passed_on_is_passed_on_as_often_as_one_likes(context: zmq.Context[Any], tmp_path: Any) -> None:
    body = bytes(range(256)) * 300
    assert len(body) >= LARGE

    async def main() -> None:
        loop = asyncio.get_running_loop()
        back: list[tuple[Any, bytes, bytes]] = []
        done = asyncio.Event()

        def on_router(frames: list[Any]) -> None:
            ((message, head, kept),) = decode(frames[1:])
            assert head == b"head" * LARGE
            assert type(kept) is zmq.Frame
            for _ in range(3):
                router.send(encode([(message, head, kept), (Result(b"i" * 16), b"", b"small")]), frames[0])

        def on_dealer(frames: list[bytes]) -> None:
            back.extend(decode(frames))
            if len(back) == 6:
                done.set()

        socket, address = bind_router(context, f"ipc://{tmp_path}/r")
        router = Channel(loop, socket, on_router, forwards=True)
        dealer = Channel(loop, dial_router(context, address, b"d" * 28), on_dealer)
        dealer.send(encode([(Result(b"r" * 16), b"head" * LARGE, body)]))
        await asyncio.wait_for(done.wait(), 20.0)
        assert [(head, bytes_) for _, head, bytes_ in back] == [(b"head" * LARGE, body), (b"", b"small")] * 3
        router.close()
        dealer.close()

    asyncio.run(main())
