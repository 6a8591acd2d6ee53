"""Handles and their options, and the circumstances of a call."""

from __future__ import annotations

import math
import pickle
import time
from typing import Any

import pytest

from zserve.context import current_run
from zserve.errors import DeadlineExceeded, NotInitialized
from zserve.handler.runs import HeldCall, Run, run_of
from zserve.handles.circumstances import DEFAULT_TIMEOUT_S, circumstances
from zserve.handles.handle import ServeHandle, Settings, get_handle
from zserve.http.head import RequestHead, decode_head, encode_head
from zserve.wire.messages import FLAG_DEFAULT_DEADLINE, FLAG_IDEMPOTENT, FLAG_WEB

from .test_composition import FakeCaller, caller, handle

__all__ = ["caller", "handle"]


def test_options_are_inherited(handle: ServeHandle) -> None:
    one = handle.options("predict", "user-1", 50)
    two = one.options(http_method="post", http_headers={"X-A": "1"})
    three = two.options(absolute_slo_ms=(time.time() + 60) * 1000, method_name="__call__")
    assert one._settings == Settings("predict", "user-1", 50)
    assert two._settings == Settings("predict", "user-1", 50, None, "POST", ((b"x-a", b"1"),))
    assert (three._settings.relative_slo_ms, three._settings.method_name) == (None, "")
    assert three._settings.absolute_slo_ms is not None
    assert handle._settings == Settings()
    assert repr(one) == "<ServeHandle 'e' method_name='predict' shard_key='user-1' relative_slo_ms=50>"


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"method_name": 5}, TypeError, "method_name must be a string, not int: 5"),
        ({"method_name": ""}, ValueError, "method_name must be 1 to 1000 characters"),
        ({"shard_key": b"x"}, TypeError, "shard_key must be a string"),
        ({"shard_key": "x" * 1001}, ValueError, "shard_key must be 1 to 1000 characters"),
        ({"shard_key": "\ud800"}, ValueError, "shard_key must be 1 to 1000 characters of valid text"),
        ({"relative_slo_ms": "1"}, TypeError, "relative_slo_ms must be a number of milliseconds, not '1'"),
        ({"relative_slo_ms": True}, TypeError, "relative_slo_ms must be a number"),
        ({"relative_slo_ms": 0}, ValueError, "relative_slo_ms must be a positive number of milliseconds, not 0"),
        ({"relative_slo_ms": math.nan}, ValueError, "relative_slo_ms must be a positive number"),
        ({"relative_slo_ms": 1e12}, ValueError, "relative_slo_ms=1000000000000.0 is more than a week away"),
        ({"absolute_slo_ms": -5}, ValueError, "absolute_slo_ms must be a positive number"),
        ({"absolute_slo_ms": 1e15}, ValueError, "absolute_slo_ms=1000000000000000.0 is more than a week away"),
        ({"relative_slo_ms": 5, "absolute_slo_ms": 5}, ValueError, "two deadlines; give one"),
        ({"http_method": "G T"}, ValueError, "http_method must be an HTTP method, not 'G T'"),
        ({"http_method": 1}, TypeError, "http_method must be a string"),
        ({"http_headers": [("a", "b")]}, TypeError, "http_headers must be a dict, not list"),
        ({"http_headers": {"a": 1}}, TypeError, "http_headers must hold strings, not 'a': 1"),
        ({"http_headers": {"a": "b\r\nc: d"}}, ValueError, "http_headers: .* is not a header"),
        ({"http_headers": {"a b": "c"}}, ValueError, "http_headers: .* is not a header"),
        ({"http_headers": {"a": "\u20ac"}}, ValueError, "is not Latin-1 text"),
    ],
)
def test_bad_options(handle: ServeHandle, options: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        handle.options(**options)
    assert handle._settings == Settings()


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ((5,), TypeError, "endpoint must be a string, not int: 5"),
        (("",), ValueError, "endpoint must be 1 to 200 printable characters"),
        (("e", "5"), TypeError, "relative_slo_ms must be a number"),
        (("e", 5, 5), ValueError, "two deadlines"),
        (("e", None, None, "yes"), TypeError, "missing_ok must be True or False, not 'yes'"),
        (("e",), NotInitialized, r"call serve.init\(\) first"),
        (("e", None, None, True), NotInitialized, r"call serve.init\(\) first"),
    ],
)
def test_bad_arguments_of_get_handle(
    arguments: tuple[Any, ...], error: type[Exception], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ZSERVE_REPLICA", raising=False)
    with pytest.raises(error, match=said):
        get_handle(*arguments)


def test_a_handle_is_pickled_without_its_fabric(handle: ServeHandle) -> None:
    copy = pickle.loads(pickle.dumps(handle.options("m", relative_slo_ms=5)))
    assert (copy.endpoint, copy._settings, copy._line) == ("e", Settings("m", "", 5), None)


# --- what is sent -----------------------------------------------------------------------------------------------------


def test_what_a_call_says(handle: ServeHandle, caller: FakeCaller) -> None:
    begin = time.monotonic()
    handle.remote()
    handle.options("m", "key", 100, http_headers={"X-A": "1"}).remote()
    [plain, special] = caller.submitted
    assert (plain.endpoint, plain.shard, plain.method, plain.flags) == ("e", "", "", FLAG_DEFAULT_DEADLINE)
    assert begin + DEFAULT_TIMEOUT_S <= plain.deadline <= time.monotonic() + DEFAULT_TIMEOUT_S
    assert (special.shard, special.method, special.flags) == ("key", "m", 0)
    assert begin + 0.1 <= special.deadline <= time.monotonic() + 0.1
    head = decode_head(special.head)
    assert (head.http_method, head.headers, head.path) == ("GET", [(b"x-a", b"1")], "")


def test_only_what_is_said_to_be_repeatable_is(handle: ServeHandle, caller: FakeCaller) -> None:
    for options in ({}, {"http_method": "POST"}, {"http_method": "GET"}, {"http_headers": {"Idempotency-Key": "k"}}):
        handle.options(**options).remote()  # type: ignore[arg-type]
    assert [bool(one.flags & FLAG_IDEMPOTENT) for one in caller.submitted] == [False, False, True, True]


def test_a_deadline_that_has_passed(handle: ServeHandle, caller: FakeCaller) -> None:
    answer = handle.options(absolute_slo_ms=time.time() * 1000 - 5).remote()
    with pytest.raises(DeadlineExceeded, match="the deadline had passed when 'e' was called"):
        answer.result(0)
    assert caller.submitted == []


# --- inside of a handler ----------------------------------------------------------------------------------------------


def held(deadline: float, flags: int = FLAG_WEB, headers: list[tuple[bytes, bytes]] | None = None) -> HeldCall:
    head = encode_head(RequestHead("GET", "/", headers=headers or []))
    return HeldCall(b"0123456789abcdef", "e", flags, "", head, b"", deadline, 0.0, [b"peer"])


def within(run: Run, relative: float | None = None) -> Any:
    token = current_run.set(run)
    try:
        return circumstances(relative, None, 100.0)
    finally:
        current_run.reset(token)


def test_the_rest_of_the_deadline_goes_with_the_call() -> None:
    run = run_of([held(103.0)])
    assert within(run).deadline == 103.0
    assert within(run).flags == 0
    assert within(run, 1000).deadline == 101.0
    assert within(run, 5000).deadline == 103.0
    assert within(run_of([held(103.0, FLAG_DEFAULT_DEADLINE)])).flags == FLAG_DEFAULT_DEADLINE
    assert within(run_of([held(103.0), held(105.0)])).deadline == 105.0


def test_a_call_without_a_deadline_gets_one() -> None:
    for run in (run_of([held(math.inf)]), None):
        found = within(run)  # type: ignore[arg-type]
        assert (found.deadline, found.flags) == (100.0 + DEFAULT_TIMEOUT_S, FLAG_DEFAULT_DEADLINE)


def test_what_a_handler_left_running_is_not_bound_by_its_deadline() -> None:
    run = run_of([held(103.0)])
    run.ended = 99.0
    assert within(run).deadline == 100.0 + DEFAULT_TIMEOUT_S
    assert within(run).headers == ((b"x-request-id", b"30313233343536373839616263646566"),)


def test_request_id_and_trace_go_with_the_call() -> None:
    headers = [(b"x-request-id", b"r1"), (b"cookie", b"secret"), (b"traceparent", b"00-1-2-01"), (b"tracestate", b"x")]
    assert within(run_of([held(103.0, headers=headers)])).headers == (headers[0], headers[2], headers[3])
    assert within(run_of([held(103.0), held(103.0)])).headers == (), "a batch is no one's request"


def test_own_headers_go_before_those_passed_on(handle: ServeHandle, caller: FakeCaller) -> None:
    run = run_of([held(time.monotonic() + 5, headers=[(b"x-request-id", b"r1"), (b"traceparent", b"t")])])
    token = current_run.set(run)
    handle.options(http_headers={"X-Request-Id": "mine"}).remote()
    current_run.reset(token)
    assert decode_head(caller.submitted[0].head).headers == [(b"x-request-id", b"mine"), (b"traceparent", b"t")]
