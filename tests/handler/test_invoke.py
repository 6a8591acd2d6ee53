"""Calling user code: what it is given, and what becomes of everything it does."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import werkzeug
from werkzeug.exceptions import abort

from zserve.errors import ApplicationError
from zserve.handler.encode import Streamable
from zserve.handler.invoke import Handler, HandlerExit
from zserve.handles.kinds import KIND_FAULT
from zserve.http.answers import KIND_JSON, KIND_TEXT, ORIGIN_CODE, ORIGIN_REPLICA, Answer

from .samples import Counter, held, value_of


def answer_of(target: Callable[..., Any], *args: Any, **options: Any) -> Answer:
    return Handler(target, "b").run([held(*args, **options)])[0]


def batched(function: Any) -> Any:
    function.__zserve_accept_batch__ = True
    return function


def text_of(answer: Answer) -> str:
    return answer[3].decode()


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.ERROR, "zserve.handler")
    return caplog


# --- what it is given -------------------------------------------------------------------------------------------------


def test_a_function_without_parameters_is_called_without_the_request() -> None:
    assert text_of(answer_of(lambda: "no request")) == "no request"
    assert text_of(answer_of(lambda request=None: repr(request))) == "None"
    assert text_of(answer_of(lambda *args, **kwargs: repr((args, kwargs)), params={"n": 1})) == "((), {'n': 1})"


def test_a_function_with_a_parameter_gets_a_werkzeug_request() -> None:
    def check(request: Any) -> Any:
        return [
            isinstance(request, werkzeug.Request),
            request.method,
            request.args["q"],
            request.get_data(as_text=True),
        ]

    assert text_of(answer_of(check, b"body", query=b"q=7")) == '[true,"POST","7","body"]'


def test_path_variables_are_keywords() -> None:
    def both(request: Any, n: int, rest: str = "none") -> str:
        return f"{request.path} {n!r} {rest}"

    assert text_of(answer_of(both, params={"n": 3})) == "/p 3 none"
    assert text_of(answer_of(both, params={"n": 3, "rest": "x/y"})) == "/p 3 x/y"
    assert text_of(answer_of(lambda *, n: str(n), params={"n": 4})) == "4"


def test_a_path_variable_may_be_the_first_parameter() -> None:
    assert text_of(answer_of(lambda name: f"hello {name}", params={"name": "you"})) == "hello you"
    assert text_of(answer_of(lambda path: type(path).__name__)) == "ServeRequest"


def test_path_variables_that_are_not_taken_are_on_the_request() -> None:
    assert text_of(answer_of(lambda request: request.view_args, params={"n": 3})) == '{"n":3}'


def test_handle_keywords() -> None:
    def add(request: Any, a: int, b: int = 10) -> int:
        return a + b

    assert value_of(answer_of(add, web=False, kwargs={"a": 1})) == 11
    answer = answer_of(add, web=False, kwargs={"a": 1, "c": 2})
    assert (answer[0], answer[1]) == (500, KIND_FAULT)


def test_class_instances_and_methods() -> None:
    handler = Handler(Counter, "b", (10,))
    assert handler.run([held()])[0][3] == b"11"
    assert value_of(handler.run([held(method="add", web=False, kwargs={"by": 5})])[0]) == 16
    assert handler.run([held(method="kind")])[0][3] == b"Counter"
    assert handler.run([held(method="fixed")])[0][3] == b"fixed"
    assert handler.callees.public() == ["add", "attribute_that_can_be_called", "fixed", "kind", "later"]
    assert (handler.asynchronous, handler.is_asynchronous("later"), handler.is_asynchronous("add")) == (
        False,
        True,
        False,
    )


@pytest.mark.parametrize(
    "method",
    [
        "_private",
        "__init__",
        "__class__",
        "__call__",
        "nothing",
        "value",
        "model",
        "trap",
        "Inner",
        "add.x",
        "count",
        "x" * 9999,
    ],
)
def test_methods_that_may_not_be_called(method: str) -> None:
    handler = Handler(Counter, "b")
    status, kind, _, body, origin = handler.run([held(method=method)])[0]
    assert (status, kind, origin) == (404, KIND_TEXT, ORIGIN_REPLICA)
    assert method.encode()[:50] in body
    assert b"add, attribute_that_can_be_called, fixed, kind, later" in body
    assert not handler.callees.get(method)


def test_a_function_has_no_methods() -> None:
    assert answer_of(lambda: "x", method="upper")[0] == 404


def test_a_class_without_call_is_called_by_name_only() -> None:
    class Named:
        def only(self, request: Any) -> str:
            return "only"

    handler = Handler(Named, "b")
    assert handler.run([held(method="only")])[0][3] == b"only"
    status, _, _, body, _ = handler.run([held()])[0]
    assert status == 404
    assert b"without a method name" in body


def test_constructor_failures_carry_the_users_traceback() -> None:
    class Broken:
        def __init__(self) -> None:
            self.fail()

        def fail(self) -> None:
            raise RuntimeError("no model file")

    with pytest.raises(
        ApplicationError, match=r"(?s)constructing backend 'b'.*Broken.*in fail.*no model file"
    ) as caught:
        Handler(Broken, "b")
    assert "zserve/handler" not in str(caught.value)
    with pytest.raises(ApplicationError, match="takes no constructor arguments"):
        Handler(lambda: "x", "b", (1,))
    with pytest.raises(ApplicationError, match="unexpected keyword"):
        Handler(Counter, "b", (), {"no": 1})


def test_reconfigure() -> None:
    class Configured:
        def reconfigure(self, config: Any) -> None:
            if config == "bad":
                raise ValueError("bad config")
            self.config = config

        def __call__(self) -> Any:
            return self.config

    handler = Handler(Configured, "b")
    handler.reconfigure({"a": 1})
    assert handler.run([held()])[0][3] == b'{"a":1}'
    with pytest.raises(ApplicationError, match="bad config"):
        handler.reconfigure("bad")
    with pytest.raises(ApplicationError, match=r"Counter has no reconfigure\(config\) to take it"):
        Handler(Counter, "b").reconfigure({"ignored": True})


# --- what it does -----------------------------------------------------------------------------------------------------


def test_exceptions_are_500_with_the_request_id_and_the_traceback_in_the_log(logged: pytest.LogCaptureFixture) -> None:
    def fail(request: Any) -> None:
        raise ValueError("secret detail")

    answer = answer_of(fail, headers=[(b"x-request-id", b"req-77")])
    assert (answer[0], answer[1], answer[4]) == (500, KIND_TEXT, ORIGIN_REPLICA)
    assert "req-77" in text_of(answer)
    assert "secret" not in text_of(answer)
    assert "req-77" in logged.text
    assert "secret detail" in logged.text
    assert "in fail" in logged.text
    assert 'zserve/handler/invoke.py"' not in logged.text


def test_debug_shows_the_traceback(logged: pytest.LogCaptureFixture) -> None:
    body = Handler(lambda: 1 / 0, "b", debug=True).run([held()])[0][3]
    assert b"ZeroDivisionError" in body


def test_http_exceptions_are_answers_of_their_own() -> None:
    def teapot() -> None:
        abort(418)

    assert answer_of(teapot)[0] == 418
    assert answer_of(lambda request: request.json, b"{", headers=[(b"content-type", b"application/json")])[0] == 400
    assert answer_of(lambda request: request.json, b"{}")[0] == 415
    assert answer_of(lambda request: request.form["missing"])[0] == 400


def test_not_encodable_is_500_naming_the_type(logged: pytest.LogCaptureFixture) -> None:
    answer = answer_of(lambda: {"a": object()})
    assert answer[0] == 500
    assert "type object at result['a']" in text_of(answer)


@pytest.mark.parametrize("error", [KeyboardInterrupt, GeneratorExit, MemoryError, RecursionError, StopIteration])
def test_whatever_is_raised_is_answered(error: type[BaseException], logged: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise error

    assert answer_of(fail)[0] == 500


def test_sys_exit_ends_the_replica_with_an_answer(logged: pytest.LogCaptureFixture) -> None:
    def leave() -> None:
        raise SystemExit(3)

    with pytest.raises(HandlerExit) as caught:
        answer_of(leave)
    assert "sys.exit(3)" in caught.value.reason
    assert [answer[0] for answer in caught.value.answers] == [500]


@pytest.mark.parametrize("head", [b"", b"\xc1", b"\x93\x01\x02\x03", b"\x92\xa1\xff\xa1a"])
def test_a_malformed_head_is_400(head: bytes) -> None:
    assert answer_of(lambda request, n=1: request.method, head=head)[0] == 400
    assert answer_of(lambda request: request.method, head=head)[0] == 400


def test_malformed_keywords_are_400() -> None:
    from zserve.http.head import RequestHead, encode_head

    for kwargs in (b"\xc1", b"\x81\xa1\xff\x01", b"\x81\x01\x01"):
        head = encode_head(RequestHead("POST", "/", kwargs=kwargs))
        assert answer_of(lambda **kwargs: "x", head=head, web=False)[0] == 400


# --- batches ----------------------------------------------------------------------------------------------------------


def test_batch() -> None:
    handler = Handler(batched(lambda requests: [request.get_data(as_text=True) * 2 for request in requests]), "b")
    assert handler.accepts_batch
    assert [answer[3] for answer in handler.run([held(b"a"), held(b"b")])] == [b"aa", b"bb"]
    assert [answer[3] for answer in handler.run([held(b"c")])] == [b"cc"]


def test_batch_keywords_are_aligned_with_their_requests() -> None:
    @batched
    def pairs(requests: list[Any], n: list[Any], extra: Any = None) -> list[Any]:
        return [[number, extra and extra[index]] for index, number in enumerate(n)]

    calls = [held(params={"n": 1}), held(web=False, kwargs={"n": 2, "extra": "x"}), held(params={"n": 3})]
    first, second, third = Handler(pairs, "b").run(calls)
    assert (first[3], value_of(second), third[3]) == (b"[1,null]", [2, "x"], b"[3,null]")


def test_batch_of_a_class_and_of_a_method() -> None:
    class Whole:
        @batched
        def __call__(self, requests: list[Any]) -> list[int]:
            return [len(requests)] * len(requests)

    class Part:
        def one(self, request: Any) -> str:
            return "one"

        @batched
        def many(self, requests: list[Any]) -> tuple[int, ...]:
            return tuple(range(len(requests)))

    assert [answer[3] for answer in Handler(Whole, "b").run([held(), held()])] == [b"2", b"2"]
    handler = Handler(Part, "b")
    assert handler.accepts_batch
    assert [answer[3] for answer in handler.run([held(method="many"), held(method="many")])] == [b"0", b"1"]
    assert [answer[3] for answer in handler.run([held(method="one"), held(method="one")])] == [b"one", b"one"]


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ([1], "given 2 requests and returned 1 results"),
        ([], "given 2 requests and returned 0 results"),
        ([1, 2, 3], "given 2 requests and returned 3 results"),
        ("ab", "given 2 requests and returned a value of type str, not a list"),
        (None, "returned a value of type NoneType"),
        ({1: 2, 3: 4}, "returned a value of type dict"),
        (7, "returned a value of type int"),
    ],
)
def test_a_batch_of_the_wrong_shape_fails_as_a_whole(
    returned: Any, said: str, logged: pytest.LogCaptureFixture
) -> None:
    answers = Handler(batched(lambda requests: returned), "b").run([held(), held()])
    assert [answer[0] for answer in answers] == [500, 500]
    assert all(said in text_of(answer) for answer in answers)


def test_batch_results_of_other_kinds() -> None:
    import numpy as np

    handler = Handler(batched(lambda requests: np.arange(len(requests)) * 2), "b")
    assert [answer[3] for answer in handler.run([held(), held()])] == [b"0", b"2"]
    handler = Handler(batched(lambda requests: (str(i) for i, _ in enumerate(requests))), "b")
    assert [answer[3] for answer in handler.run([held(), held()])] == [b"0", b"1"]

    def endless(requests: list[Any]) -> Iterator[int]:
        while True:
            yield 1

    assert Handler(batched(endless), "b").run([held(), held()])[0][0] == 500


def test_an_item_that_is_an_exception_fails_alone(logged: pytest.LogCaptureFixture) -> None:
    from werkzeug.exceptions import NotFound

    answers = Handler(batched(lambda requests: ["fine", ValueError("bad"), NotFound(), object()]), "b").run(
        [held(), held(), held(), held()]
    )
    assert [answer[0] for answer in answers] == [200, 500, 404, 500]


def test_an_exception_fails_the_batch_each_with_its_own_id(logged: pytest.LogCaptureFixture) -> None:
    calls = [held(), held()]
    answers = Handler(batched(lambda requests: 1 / 0), "b").run(calls)
    assert [answer[0] for answer in answers] == [500, 500]
    assert all(call.id.hex() in text_of(answer) for call, answer in zip(calls, answers, strict=True))


# --- asynchronous -----------------------------------------------------------------------------------------------------


def run_async(target: Any, *calls: Any) -> list[Answer]:
    async def main() -> list[Answer]:
        handler = Handler(target, "b", loop=asyncio.get_running_loop())
        assert handler.is_asynchronous(calls[0].method if calls else "")
        return await handler.run_async(list(calls) or [held()])

    return asyncio.run(main())


def test_coroutine_functions(logged: pytest.LogCaptureFixture) -> None:
    async def hello(request: Any, n: int = 0) -> Any:
        await asyncio.sleep(0)
        return {"path": request.path, "n": n}

    async def fail() -> None:
        raise ValueError

    assert run_async(hello, held(params={"n": 2}))[0][3] == b'{"path":"/p","n":2}'
    assert run_async(functools.partial(hello, n=5))[0][3] == b'{"path":"/p","n":5}'
    assert run_async(fail)[0][0] == 500
    assert run_async(Counter, held(method="later"))[0][3] == b"later"


def test_async_batch() -> None:
    async def both(requests: list[Any]) -> list[Any]:
        return [1, ValueError()]

    logging.getLogger("zserve.handler").disabled = True
    try:
        assert [answer[0] for answer in run_async(batched(both), held(), held())] == [200, 500]
    finally:
        logging.getLogger("zserve.handler").disabled = False


def test_cancelled_coroutines_answer_499() -> None:
    async def main() -> Answer:
        async def forever() -> None:
            await asyncio.Event().wait()

        handler = Handler(forever, "b")
        task = asyncio.create_task(handler.run_async([held()]))
        await asyncio.sleep(0)
        task.cancel()
        return (await task)[0]

    assert asyncio.run(main())[0] == 499


def test_a_plain_function_may_return_a_coroutine() -> None:
    async def inner() -> str:
        await asyncio.sleep(0)
        return "inner"

    async def main() -> Any:
        loop = asyncio.get_running_loop()
        return await asyncio.to_thread(Handler(lambda: inner(), "b", loop=loop).run, [held()])

    assert asyncio.run(main())[0][3] == b"inner"


def test_what_is_produced_item_by_item_is_not_encoded_yet() -> None:
    async def later() -> Any:
        return iter(("a",))

    async def items() -> AsyncIterator[str]:
        yield "a"

    for target, asynchronous in ((later, False), (items, True)):
        value = asyncio.run(Handler(target, "b").run_async([held()]))
        assert isinstance(value, Streamable)
        assert value.asynchronous == asynchronous


def test_hooks_are_no_methods_for_clients() -> None:
    class Hooked:
        def __call__(self) -> str:
            return "x"

        def close(self) -> None:
            raise AssertionError("a client has closed the backend")

        check_health = reconfigure = close

    assert Handler(Hooked, "b").callees.public() == []
    assert Handler(Hooked, "b").run([held(method="close")])[0][0] == 404


def test_origin_and_kind_of_plain_answers() -> None:
    assert answer_of(lambda: {"a": 1}) == (200, KIND_JSON, b"", b'{"a":1}', ORIGIN_CODE)


def test_dicts_of_a_batch_are_encoded_alike_in_one_go_and_one_by_one() -> None:
    @batched
    def double(requests: list[Any]) -> list[Any]:
        return [{"a": 0.5}, {3: None}, {"b": object()}][: len(requests)]

    for size, wanted in ((1, [200]), (2, [200, 200]), (3, [200, 200, 500])):
        answers = Handler(double, "b").run([held() for _ in range(size)])
        assert [answer[0] for answer in answers] == wanted
        assert [answer[3] for answer in answers[:2]] == [b'{"a":0.5}', b'{"3":null}'][:size]


# --- ahead of a batch -------------------------------------------------------------------------------------------------


def test_a_batch_that_waits_is_parsed_ahead_when_the_one_before_was_read_as_json() -> None:
    seen: list[Any] = []

    def double(requests: list[Any]) -> list[Any]:
        seen.extend(requests)
        return [{"double": 2 * request.json["n"]} for request in requests]

    handler = Handler(batched(double), "b")
    handler.warm()
    json = {"headers": [(b"content-type", b"application/json")]}

    def batch(*bodies: bytes) -> list[Any]:
        return [held(body, **json) for body in bodies]

    first = batch(b'{"n": 1}', b'{"n": 2}')
    handler.prepare(first)
    assert [call.request for call in first] == [None, None], "nobody has asked for JSON yet"
    handler.run(first)
    second = batch(b'{"n": 3}', b"{", b'{"n": 5}', b"[" + b"0," * 40_000 + b"0]")
    handler.prepare(second)
    made = [call.request for call in second]
    assert made[3] is None, "large bodies are not parsed on the loop"
    assert [request.asked_for_json for request in made[:3]] == [False] * 3
    assert text_of(handler.run(second[:1])[0]) == '{"double":6}'
    assert seen[2] is made[0]
    assert text_of(handler.run(second[2:3])[0]) == '{"double":10}'
    assert handler.run(second[1:2])[0][0] == 400, "the one that is malformed fails as it always does"


def test_a_batch_that_does_not_read_json_is_not_parsed_ahead() -> None:
    handler = Handler(batched(lambda requests: [request.data for request in requests]), "b")
    handler.warm()
    headers = [(b"content-type", b"application/json")]
    handler.run([held(b"{}", headers=headers), held(b"{}", headers=headers)])
    calls = [held(b"{}", headers=headers)]
    handler.prepare(calls)
    assert calls[0].request is None
