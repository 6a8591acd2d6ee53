"""Answers as arguments: the call goes out once they are there."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from zserve.errors import DeadlineExceeded
from zserve.handles.answer import ServeAnswer
from zserve.handles.caller import Submission
from zserve.handles.handle import ServeHandle, Settings
from zserve.handles.lines import Line
from zserve.handles.reading import unpack
from zserve.http.head import decode_head

from .test_answer import arrive


class FakeCaller:
    """Keeps what it is told; :meth:`fire` lets the timers run out."""

    def __init__(self) -> None:
        self.submitted: list[Submission] = []
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def submit(self, submission: Submission) -> None:
        self.submitted.append(submission)

    def at(self, deadline: float, action: Callable[[], None]) -> Callable[[], None]:
        timer = (deadline, action)
        self.timers.append(timer)
        return lambda: self.timers.remove(timer)

    def fire(self) -> None:
        for _, action in self.timers:
            action()

    def close(self) -> None:
        pass

    @property
    def sent(self) -> list[tuple[Any, Any]]:
        """(data, keywords) of each call."""
        found = []
        for one in self.submitted:
            head = decode_head(one.head)
            body = bytes(one.body)
            found.append(
                (unpack(head.data, body) if head.data else None, unpack(head.kwargs, body) if head.kwargs else {})
            )
        return found


@pytest.fixture
def caller() -> FakeCaller:
    return FakeCaller()


@pytest.fixture
def handle(caller: FakeCaller) -> ServeHandle:
    line = Line(["ipc:///nowhere"], "")
    line._caller = caller  # type: ignore[assignment]
    return ServeHandle("e", Settings(), line)


def test_a_call_without_answers_goes_out_at_once(handle: ServeHandle, caller: FakeCaller) -> None:
    handle.remote({"a": (1,)}, n={2})
    handle.remote()
    assert caller.sent == [({"a": (1,)}, {"n": {2}}), (None, {})]
    assert caller.timers == []


def test_it_waits_for_all_of_them(handle: ServeHandle, caller: FakeCaller) -> None:
    first, second, third = ServeAnswer(), ServeAnswer(), ServeAnswer()
    arrive(third, "c" * 5000)
    handle.remote([first, (1, {"x": second}), first], z=third)
    assert caller.submitted == []
    arrive(second, b"b" * 5000)
    assert caller.submitted == []
    assert len(caller.timers) == 1
    arrive(first, {1, 2})
    assert caller.sent == [([{1, 2}, (1, {"x": b"b" * 5000}), {1, 2}], {"z": "c" * 5000})]
    assert caller.timers == [], "the deadline is the core's from here on"


def test_one_that_was_read_already(handle: ServeHandle, caller: FakeCaller) -> None:
    answer = ServeAnswer()
    arrive(answer, (1, 2))
    assert answer.result() == (1, 2)
    handle.remote(answer)
    assert caller.sent == [((1, 2), {})]


def test_a_chain_passes_on_what_came_without_decoding_it(handle: ServeHandle, caller: FakeCaller) -> None:
    numpy = pytest.importorskip("numpy")
    answer = ServeAnswer()
    composed = handle.remote(answer)
    array = numpy.arange(100_000)
    arrive(answer, array)
    assert answer._state == 1, "still packed"
    [(data, _)] = caller.sent
    assert (data == array).all()
    assert not composed.done()


def test_what_the_arguments_were_when_it_was_made(handle: ServeHandle, caller: FakeCaller) -> None:
    answer = ServeAnswer()
    items = [1, answer]
    handle.remote(items)
    items.append(3)
    arrive(answer, 2)
    assert caller.sent == [([1, 2], {})]


def test_an_argument_that_fails_fails_the_call(handle: ServeHandle, caller: FakeCaller) -> None:
    good, bad = ServeAnswer(), ServeAnswer()
    composed = handle.remote([good, bad])
    bad.fail(ValueError("bad"))
    with pytest.raises(ValueError, match="bad"):
        composed.result(0)
    arrive(good, 1)
    at_once = handle.remote(x=bad)
    with pytest.raises(ValueError, match="bad"):
        at_once.result(0)
    assert caller.submitted == []
    assert caller.timers == []


def test_the_deadline_counts_from_the_call(handle: ServeHandle, caller: FakeCaller) -> None:
    answer = ServeAnswer()
    begin = time.monotonic()
    composed = handle.options(relative_slo_ms=500).remote(answer)
    [(deadline, _)] = caller.timers
    assert begin + 0.5 <= deadline <= time.monotonic() + 0.5
    caller.fire()
    with pytest.raises(DeadlineExceeded, match="an argument of the call"):
        composed.result(0)
    arrive(answer, 1)
    assert caller.submitted == [], "nobody waits for it any more"


def test_one_that_is_cancelled_while_it_waits_is_never_sent(handle: ServeHandle, caller: FakeCaller) -> None:
    answer = ServeAnswer()
    composed = handle.remote(answer)
    assert composed.cancel()
    arrive(answer, 1)
    assert caller.submitted == []


def test_bad_arguments_send_nothing(handle: ServeHandle, caller: FakeCaller) -> None:
    with pytest.raises(TypeError, match="data: a value of type object cannot be sent"):
        handle.remote([ServeAnswer(), object()])
    with pytest.raises(TypeError, match=r"^size: a value of type object cannot be sent"):
        handle.remote(size=object())
    assert caller.submitted == []
    assert caller.timers == []
