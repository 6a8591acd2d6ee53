"""Running generators: what leaves, when, and how it ends."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from werkzeug.wrappers import Response

from zserve.handler.encode import Streamable, streamable
from zserve.handler.invoke import Handler, HandlerExit
from zserve.handler.runs import Run, run_of
from zserve.handler.streams import Driver, StreamBegin, StreamEnd, StreamPiece
from zserve.http.answers import KIND_BYTES, KIND_EMPTY, KIND_HEADERS, KIND_TEXT, decode_headers
from zserve.wire.flow import PIECE, WINDOW
from zserve.wire.messages import FLAG_STREAMS, FLAG_WEB

from .samples import held


class Bench:
    """A driver, and everything that it emitted; the client takes it at once unless *slow*."""

    def __init__(self, *, streams: bool = True, slow: bool = False) -> None:
        call = held()
        call.flags = FLAG_WEB | (FLAG_STREAMS if streams else 0)
        self.run = run_of([call])
        self.begins: list[Any] = []
        self.pieces: list[bytes] = []
        self.slow = slow
        self.threads: set[int] = set()
        self.emitted = threading.Event()
        self.driver = Driver(Handler(lambda: None, "b"), self.emit, self.emit)

    def emit(self, run: Run, event: StreamBegin | StreamPiece) -> None:
        self.threads.add(threading.get_ident())
        if isinstance(event, StreamBegin):
            self.begins.append(event.answer)
            self.pieces.append(bytes(event.answer[3]))
        else:
            self.pieces.append(bytes(event.body))
        assert run.flow is not None
        if not self.slow:
            run.flow.consumed(run.flow.ahead)
        self.emitted.set()

    def drive(self, value: Any) -> Any:
        found = streamable(value)
        assert found is not None
        return self.driver.run(self.run, found)

    def drive_async(self, value: Any) -> Any:
        found = streamable(value)
        assert found is not None
        return asyncio.run(asyncio.wait_for(self.driver.run_async(self.run, found), 20))


def both(items: list[Any]) -> Iterator[tuple[str, Callable[[Bench], Any]]]:
    async def later() -> AsyncIterator[Any]:
        for item in items:
            if isinstance(item, BaseException):
                raise item
            yield item

    def now() -> Iterator[Any]:
        for item in items:
            if isinstance(item, BaseException):
                raise item
            yield item

    yield "sync", lambda bench: bench.drive(now())
    yield "async", lambda bench: bench.drive_async(later())
    yield "sync on the loop", lambda bench: bench.drive_async(now())


def test_items_leave_as_pieces_and_the_first_makes_the_kind() -> None:
    for name, drive in both(["a", "", b"b", "ü"]):
        bench = Bench()
        end = drive(bench)
        assert isinstance(end, StreamEnd), name
        assert end.complete, name
        assert bench.begins == [(200, KIND_TEXT, b"", b"a", 0)], name
        assert bench.pieces == [b"a", b"b", "ü".encode()], name


def test_without_items_it_is_an_ordinary_answer() -> None:
    for name, drive in both([]):
        assert drive(Bench()) == [(200, KIND_EMPTY, b"", b"", 0)], name
    for name, drive in both([b""]):
        assert drive(Bench()) == [(200, KIND_BYTES, b"", b"", 0)], name


def test_for_who_takes_no_pieces_they_are_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, drive in both(["a", "b"]):
        bench = Bench(streams=False)
        assert drive(bench) == [(200, KIND_TEXT, b"", b"ab", 0)], name
        assert bench.pieces == []
    monkeypatch.setattr("zserve.handler.streams.MAX_COLLECTED_BYTES", 10)
    logging.getLogger("zserve.handler").disabled = True
    try:
        for name, drive in both(["a" * 6] * 2):
            answers = drive(Bench(streams=False))
            assert answers[0][0] == 500, name
            assert b"more than 10 bytes" in answers[0][3], name
    finally:
        logging.getLogger("zserve.handler").disabled = False


def test_large_items_are_cut() -> None:
    whole = bytes(range(256)) * 2000
    for name, drive in both([whole]):
        bench = Bench()
        assert drive(bench).complete, name
        assert b"".join(bench.pieces) == whole, name
        assert max(map(len, bench.pieces)) == PIECE, name


def test_an_error_before_the_first_item_is_an_answer(caplog: pytest.LogCaptureFixture) -> None:
    for name, drive in both([ValueError("secret")]):
        bench = Bench()
        answers = drive(bench)
        assert answers[0][0] == 500, name
        assert b"secret" not in answers[0][3], name
        assert "ValueError: secret" in caplog.text
        assert bench.begins == [], name


def test_an_error_behind_it_breaks_the_stream_off(caplog: pytest.LogCaptureFixture) -> None:
    for name, drive in both(["a", ValueError("midway")]):
        caplog.clear()
        bench = Bench()
        end = drive(bench)
        assert not end.complete, name
        assert bench.pieces == [b"a"], name
        assert "in the middle of streaming" in caplog.text, name
        assert "midway" in caplog.text, name
    for name, drive in both(["a", object()]):
        caplog.clear()
        assert not drive(Bench()).complete, name
        assert "chunks are str or bytes" in caplog.text, name


def test_sys_exit_in_a_generator_ends_the_replica(caplog: pytest.LogCaptureFixture) -> None:
    for items, kind in (([SystemExit(3)], list), (["a", SystemExit(3)], StreamEnd)):
        for _, drive in both(items):
            with pytest.raises(HandlerExit, match=r"sys.exit\(3\)") as raised:
                drive(Bench())
            assert isinstance(raised.value.answers, kind)


def test_a_generator_is_closed_in_the_thread_that_ran_it() -> None:
    seen: list[int] = []

    def items() -> Iterator[str]:
        seen.append(threading.get_ident())
        try:
            yield "a"
            yield "b"
        finally:
            seen.append(threading.get_ident())

    bench = Bench()
    bench.run.aborted = True
    assert bench.drive(items())[0][0] == 499
    assert bench.pieces == [], "nobody wants it"
    assert len(seen) == 2
    assert set(seen) == {threading.get_ident()}
    seen.clear()
    assert Bench().drive_async(items()).complete
    assert len(set(seen)) == 1
    assert seen[0] != threading.get_ident(), "plain generators do not run on the loop"


def test_a_thread_that_waits_for_its_client_is_stopped() -> None:
    closed = threading.Event()

    def items() -> Iterator[bytes]:
        try:
            while True:
                yield bytes(PIECE)
        finally:
            closed.set()

    bench = Bench(slow=True)
    ends: list[Any] = []
    thread = threading.Thread(target=lambda: ends.append(bench.drive(items())))
    thread.start()
    assert bench.emitted.wait(10)
    flow = bench.run.flow
    assert flow is not None
    bench.run.aborted = True
    flow.cancel()
    thread.join(10)
    assert not ends[0].complete
    assert closed.is_set()
    assert sum(map(len, bench.pieces)) <= WINDOW + PIECE


def test_a_cancelled_task_closes_its_generator() -> None:
    closed: list[str] = []

    async def waiting() -> AsyncIterator[str]:
        try:
            yield "a"
            await asyncio.Event().wait()
        finally:
            closed.append("waiting")

    async def full() -> AsyncIterator[bytes]:
        try:
            while True:
                yield bytes(PIECE)
        finally:
            closed.append("full")

    async def main(value: Any) -> Any:
        bench = Bench(slow=True)
        found = streamable(value)
        assert found is not None
        task = asyncio.create_task(bench.driver.run_async(bench.run, found))
        while not bench.emitted.is_set():
            await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)
        task.cancel()
        return await task

    for generator in (waiting, full):
        assert not asyncio.run(main(generator())).complete
    assert closed == ["waiting", "full"]


# --- what is streamed -------------------------------------------------------------------------------------------------


def test_status_and_headers_given_with_a_generator() -> None:
    bench = Bench()
    assert bench.drive((iter(["a"]), 201, {"X-A": "1"})).complete
    status, kind, head, body, _ = bench.begins[0]
    assert (status, kind, body) == (201, KIND_HEADERS, b"a")
    assert decode_headers(head) == [(b"content-type", b"text/plain; charset=utf-8"), (b"x-a", b"1")]


def test_server_sent_events_begin_at_once() -> None:
    async def later() -> AsyncIterator[str]:
        yield "data: 1\n\n"

    for value in (
        (later(), 200, {"content-type": "text/event-stream"}),
        Response(later(), mimetype="text/event-stream"),  # type: ignore[arg-type]
    ):
        bench = Bench()
        assert bench.drive_async(value).complete
        assert bench.pieces == [b"", b"data: 1\n\n"], "first the headers alone"
        assert (b"content-type", b"text/event-stream") in [
            (name, content.partition(b";")[0]) for name, content in decode_headers(bench.begins[0][2])
        ]


def test_a_response_is_closed_at_the_end() -> None:
    closed: list[str] = []

    def items() -> Iterator[str]:
        try:
            yield "a"
            yield "b"
        finally:
            closed.append("generator")

    response = Response(items(), status=202)
    response.call_on_close(lambda: closed.append("response"))
    bench = Bench()
    assert bench.drive(response).complete
    assert bench.begins[0][0] == 202
    assert bench.pieces == [b"a", b"b"]
    assert "generator" in closed
    assert "response" in closed


def test_a_status_without_a_body_does_not_start_the_generator() -> None:
    def items() -> Iterator[str]:
        raise AssertionError("started")
        yield ""

    assert Bench().drive((items(), 204))[0][:2] == (204, KIND_EMPTY)
    assert Bench().drive(Response(items(), status=304))[0][0] == 304


@pytest.mark.parametrize("value", ["a", b"a", {"a": 1}, ["a"], None, 3, (1, 2), ("a", 200), Response("a"), Response()])
def test_what_is_not_streamed(value: Any) -> None:
    assert streamable(value) is None


@pytest.mark.parametrize("value", [iter("ab"), map(str, [1]), (part for part in "ab"), (iter("a"), 200)])
def test_what_is(value: Any) -> None:
    assert isinstance(streamable(value), Streamable)
