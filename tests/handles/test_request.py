"""A handle call on the replica's side: what the handler is given, and what its answer becomes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from werkzeug.exceptions import BadRequest, NotFound, abort
from werkzeug.wrappers import Response

from zserve.handler.handle_request import MAX_ITEMS, HandleRequest, collect
from zserve.handler.invoke import Handler, HandlerExit
from zserve.handler.runs import HeldCall
from zserve.handles.faults import unpack_fault
from zserve.handles.kinds import KIND_FAULT
from zserve.handles.reading import NotDecodable
from zserve.handles.values import Packer
from zserve.http.answers import KIND_TEXT, Answer
from zserve.http.head import RequestHead, encode_head

from ..handler.samples import held, value_of


def handle_call(data: Any = None, method: str = "", **kwargs: Any) -> HeldCall:
    packer = Packer()
    parts = [packer.pack(data, "data"), packer.pack(kwargs, "")]
    [packed, keywords], body = packer.finish(parts)
    head = RequestHead("PUT", "", headers=[(b"x-a", b"1")], kwargs=keywords if kwargs else b"", data=packed)
    return held(bytes(body), method=method, web=False, head=encode_head(head))


def request_of(data: Any = None, **kwargs: Any) -> HandleRequest:
    call = handle_call(data, **kwargs)
    return HandleRequest(call.head, call.body)


def answer_of(target: Callable[..., Any], *args: Any, **kwargs: Any) -> Answer:
    [answer] = Handler(target, "b").run([handle_call(*args, **kwargs)])  # type: ignore[misc]
    return answer


def raised_by(answer: Answer) -> BaseException:
    assert answer[1] == KIND_FAULT
    return unpack_fault(answer[2], answer[3])


# --- the request ------------------------------------------------------------------------------------------------------


def test_what_it_looks_like() -> None:
    request = request_of({"a": [1, 2], "b": "x"}, n="5", many=[1])
    assert request.data == request.json == request.get_json() == request.get_data() == {"a": [1, 2], "b": "x"}
    assert (request.form["a"], request.form.get("c")) == ([1, 2], None)
    assert (request.args.get("n", type=int), request.args["many"], len(request.args)) == (5, [1], 2)
    assert (request.method, request.headers["X-A"], request.headers.get("X-B")) == ("PUT", "1", None)
    assert (request.view_args, request.is_json, repr(request)) == ({}, True, "<HandleRequest [PUT]>")


def test_bytes_as_json_and_as_text() -> None:
    assert request_of(b'{"a": 1}').json == {"a": 1}
    assert request_of(b"abc").get_data(as_text=True) == "abc"
    assert request_of(b"{").get_json(silent=True) is None
    with pytest.raises(BadRequest, match="Failed to decode JSON"):
        _ = request_of(b"{").json
    assert request_of("text").json == "text"
    assert dict(request_of([1]).form) == {}
    assert request_of().data is None


def test_what_cannot_be_read() -> None:
    with pytest.raises(BadRequest):
        _ = HandleRequest(b"\xc1", b"").method
    with pytest.raises(NotDecodable):
        _ = HandleRequest(encode_head(RequestHead("GET", "", data=b"\xc1")), b"").data


# --- arguments --------------------------------------------------------------------------------------------------------


def test_keywords_and_the_request() -> None:
    assert value_of(answer_of(lambda request, n, m=1: (request.data, n, m), "x", n={1})) == ("x", {1}, 1)
    assert value_of(answer_of(lambda request: request.args["n"], "x", n=(1,))) == (1,)
    assert value_of(answer_of(lambda x: x, "data", x=3)) == 3
    assert value_of(answer_of(lambda: "nothing", "data")) == "nothing"
    assert value_of(answer_of(lambda **kwargs: kwargs, a=1, b=b"2")) == {"a": 1, "b": b"2"}
    for function in (lambda: 1, lambda request, m=1: 1, lambda *, m: 1):
        assert isinstance(raised_by(answer_of(function, n=1)), TypeError)


# --- answers ----------------------------------------------------------------------------------------------------------


def test_values_keep_their_type() -> None:
    for value in ("text", b"bytes", None, (b"body", 201), {1, 2}, {"a": (1,)}, 5, [b"x" * 100_000]):
        found = value_of(answer_of(lambda value=value: value))
        assert found == value
        assert type(found) is type(value)
    assert value_of(answer_of(lambda: Response("x", 201))).status_code == 201


def test_generators_come_as_lists() -> None:
    def numbers() -> Iterator[Any]:
        yield 1
        yield (2,)

    async def later() -> AsyncIterator[Any]:
        yield 1
        yield {2}

    async def run() -> Any:
        return await Handler(later, "b").run_async([handle_call()])

    assert value_of(answer_of(numbers)) == [1, (2,)]
    [answer] = asyncio.run(run())
    assert value_of(answer) == [1, {2}]


def test_a_generator_without_an_end_is_stopped() -> None:
    closed = []

    def endless() -> Iterator[int]:
        try:
            while True:
                yield 0
        finally:
            closed.append(True)

    with pytest.raises(ValueError, match=f"yielded more than {MAX_ITEMS} items"):
        collect(endless())  # type: ignore[arg-type]
    assert closed == [True]


def test_what_cannot_be_sent_is_the_callers_type_error() -> None:
    error = raised_by(answer_of(lambda: {"a": object()}))
    assert isinstance(error, TypeError)
    assert str(error).startswith("the handler's result: a value of type object cannot be sent (at ['a']); what can")


def test_exceptions() -> None:
    def bad() -> None:
        raise KeyError("x")

    answer = answer_of(bad)
    assert (answer[0], repr(raised_by(answer))) == (500, "KeyError('x')")
    assert 'raise KeyError("x")' in str(raised_by(answer).__cause__)
    answer = answer_of(lambda: abort(404))
    assert answer[0] == 404
    assert isinstance(raised_by(answer), NotFound)
    answer = answer_of(lambda: 1, method="nothing")
    assert (answer[0], answer[1]) == (404, KIND_TEXT)
    with pytest.raises(HandlerExit):
        Handler(lambda: exit(3), "b").run([handle_call()])


def test_a_batch_of_both_kinds_of_call() -> None:
    def both(requests: list[Any], n: Any = None) -> list[Any]:
        assert n == [None, (1,), None, None]
        return ["web", ("handle",), ValueError("web"), ValueError("handle")]

    both.__zserve_accept_batch__ = True  # type: ignore[attr-defined]
    web, handle, web_failed, handle_failed = Handler(both, "b").run(
        [held(), handle_call(n=(1,)), held(), handle_call()]
    )
    assert (web[0], web[3]) == (200, b"web")
    assert value_of(handle) == ("handle",)
    assert (web_failed[0], web_failed[1]) == (500, KIND_TEXT)
    assert repr(raised_by(handle_failed)) == "ValueError('handle')"


def test_a_batch_that_fails_as_a_whole() -> None:
    def both(requests: list[Any]) -> list[Any]:
        raise ValueError("all")

    both.__zserve_accept_batch__ = True  # type: ignore[attr-defined]
    web, handle = Handler(both, "b").run([held(), handle_call()])
    assert (web[0], web[1]) == (500, KIND_TEXT)
    assert repr(raised_by(handle)) == "ValueError('all')"
