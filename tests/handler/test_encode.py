"""Each row of the table of what a handler may return."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import http
import json
import uuid
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.datastructures import Headers
from werkzeug.wrappers import Response

from zserve.handler import encode as module
from zserve.handler.encode import NotEncodable, encode
from zserve.http.answers import (
    KIND_BYTES,
    KIND_EMPTY,
    KIND_HEADERS,
    KIND_JSON,
    KIND_TEXT,
    ORIGIN_CODE,
    decode_headers,
)


@dataclasses.dataclass
class Point:
    x: int
    y: Any = None


class Pydantic2:
    def model_dump(self, mode: str = "python") -> dict[str, Any]:
        return {"mode": mode}


class Pydantic1:
    __fields__ = {"a": int}

    def dict(self) -> Any:
        return {"a": 1}


class Colour(enum.Enum):
    RED = "red"


def error_of(value: Any) -> str:
    with pytest.raises(NotEncodable) as caught:
        encode(value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("value", "kind", "body"),
    [
        (None, KIND_EMPTY, b""),
        ("grüß", KIND_TEXT, "grüß".encode()),
        ("", KIND_TEXT, b""),
        (np.str_("s"), KIND_TEXT, b"s"),
        (b"\x00\xff", KIND_BYTES, b"\x00\xff"),
        (bytearray(b"a"), KIND_BYTES, b"a"),
        (memoryview(b"a"), KIND_BYTES, b"a"),
        ({"a": [1, 2.5, None, True]}, KIND_JSON, b'{"a":[1,2.5,null,true]}'),
        ([], KIND_JSON, b"[]"),
        (7, KIND_JSON, b"7"),
        (True, KIND_JSON, b"true"),
        (OrderedDict(b=1), KIND_JSON, b'{"b":1}'),
        ((), KIND_JSON, b"[]"),
        (("a", "b"), KIND_JSON, b'["a","b"]'),
        ((1, 2), KIND_JSON, b"[1,2]"),
        ((1, True), KIND_JSON, b"[1,true]"),
        ((1, 2, 3, 4), KIND_JSON, b"[1,2,3,4]"),
        ((1, 200, 3), KIND_JSON, b"[1,200,3]"),
        (Point(1, datetime.date(2020, 1, 2)), KIND_JSON, b'{"x":1,"y":"2020-01-02"}'),
        (uuid.UUID(int=1), KIND_JSON, b'"00000000-0000-0000-0000-000000000001"'),
        (datetime.datetime(2020, 1, 2, 3, 4, 5), KIND_JSON, b'"2020-01-02T03:04:05"'),
        ({"c": Colour.RED}, KIND_JSON, b'{"c":"red"}'),
        (np.float32(1.5), KIND_JSON, b"1.5"),
        (np.arange(3), KIND_JSON, b"[0,1,2]"),
        (np.arange(4).reshape(2, 2).T, KIND_JSON, b"[[0,2],[1,3]]"),
        ({"a": np.array(["x", "y"])}, KIND_JSON, b'{"a":["x","y"]}'),
        ({"n": np.int64(3), "b": np.bool_(True)}, KIND_JSON, b'{"n":3,"b":true}'),
        ({1: "a", None: "b", datetime.date(2020, 1, 2): 1}, KIND_JSON, b'{"1":"a","null":"b","2020-01-02":1}'),
        ([Pydantic2()], KIND_JSON, b'[{"mode":"json"}]'),
        (Pydantic1(), KIND_JSON, b'{"a":1}'),
        (float("nan"), KIND_JSON, b"null"),
    ],
)  # fmt: skip
def test_values(value: Any, kind: int, body: bytes) -> None:
    assert encode(value) == (200, kind, b"", body, ORIGIN_CODE)


# --- status and headers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        (("made", 201), (201, KIND_TEXT, b"made")),
        (({"a": 1}, 404), (404, KIND_JSON, b'{"a":1}')),
        ((None, 204), (204, KIND_EMPTY, b"")),
        (("gone", 204), (204, KIND_EMPTY, b"")),
        ((b"x", http.HTTPStatus.CREATED), (201, KIND_BYTES, b"x")),
        (("x", 599, None), (599, KIND_TEXT, b"x")),
        (("x", 200, {}), (200, KIND_TEXT, b"x")),
        ((("x", 202), 203), (203, KIND_TEXT, b"x")),
    ],
)
def test_status(value: Any, answer: tuple[int, int, bytes]) -> None:
    status, kind, head, body, _ = encode(value)
    assert (status, kind, body) == answer
    assert head == b""
    assert type(status) is int


@pytest.mark.parametrize(
    "headers",
    [
        {"X-A": "1", "X-B": 2},
        [("X-A", "1"), ("X-B", b"2")],
        Headers([("X-A", "1"), ("X-B", "2")]),
        (("X-A", "1"), ["X-B", "2"]),
    ],
)
def test_headers(headers: Any) -> None:
    status, kind, head, body, _ = encode(("b", 202, headers))
    assert (status, kind, body) == (202, KIND_HEADERS, b"b")
    assert decode_headers(head) == [(b"content-type", b"text/plain; charset=utf-8"), (b"x-a", b"1"), (b"x-b", b"2")]


def test_own_content_type_and_several_lines() -> None:
    head = encode(("b", 200, {"Content-Type": "text/css", "Set-Cookie": ["a=1", "b=2"]}))[2]
    assert decode_headers(head) == [(b"content-type", b"text/css"), (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]


def test_headers_of_the_connection_are_the_gateways() -> None:
    given_ = {"Content-Length": "99", "Transfer-Encoding": "chunked", "Connection": "close", "X": "1"}
    assert decode_headers(encode(("b", 200, given_))[2]) == [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"x", b"1"),
    ]


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"X": "a\r\nSet-Cookie: b=1"}, "line break"),
        ({"X": "a\0"}, "line break or NUL"),
        ({"X\r\nY": "a"}, "not a valid one"),
        ({"": "a"}, "not a valid one"),
        ({"X Y": "a"}, "not a valid one"),
        ({"X": "\u20ac"}, "Latin-1"),
        ({3: "a"}, "Latin-1"),
        (["x"], "pair"),
        ([("a", "b", "c")], "pair"),
    ],
)
def test_bad_headers(headers: Any, said: str) -> None:
    assert said in error_of(("b", 200, headers))


def test_werkzeug_response() -> None:
    response = Response("<b>", status=418, mimetype="text/html", headers={"X-A": "1"})
    response.set_cookie("c", "v")
    status, kind, head, body, origin = encode(response)
    pairs = decode_headers(head)
    assert (status, kind, body, origin) == (418, KIND_HEADERS, b"<b>", ORIGIN_CODE)
    assert (b"content-type", b"text/html; charset=utf-8") in pairs
    assert (b"x-a", b"1") in pairs
    assert any(name == b"set-cookie" and value.startswith(b"c=v") for name, value in pairs)
    assert b"content-length" not in dict(pairs)


def test_werkzeug_response_of_chunks_is_joined_and_closed() -> None:
    closed = []

    def chunks() -> Iterator[bytes]:
        try:
            yield b"a"
            yield b"b"
        finally:
            closed.append(True)

    assert encode(Response(chunks()))[3] == b"ab"
    assert closed
    assert encode(Response("body", status=304))[3] == b""
    assert encode((Response("x", headers={"X-A": "1"}), 201, {"X-B": "2"}))[0] == 201
    assert "status 100" in error_of(Response(status=100))


# --- generators -------------------------------------------------------------------------------------------------------


def test_generator() -> None:
    assert encode(part for part in ("a", "ü", b"c")) == (200, KIND_TEXT, b"", "aüc".encode(), ORIGIN_CODE)
    assert encode(part for part in (b"a", "b"))[1] == KIND_BYTES
    assert encode(part for part in ()) == (200, KIND_EMPTY, b"", b"", ORIGIN_CODE)
    assert encode(((part for part in ("a",)), 202))[0] == 202


def test_generator_of_something_else() -> None:
    assert "yielded a value of type int" in error_of(part for part in ("a", 1))


def test_generator_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_COLLECTED_BYTES", 1000)

    def forever() -> Iterator[str]:
        while True:
            yield "x" * 100

    assert "more than 1000 bytes" in error_of(forever())


# --- what cannot be encoded -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (object(), "a value of type object,"),
        ({1, 2}, "a value of type set,"),
        ({"a": [0, {"b": object()}]}, "a value of type object at result['a'][1]['b']"),
        ([1, b"bytes"], "a value of type bytes at result[1]"),
        ({"when": decimal.Decimal(1)}, "a value of type decimal.Decimal at result['when']"),
        ({(1, 2): 3}, "a value of type tuple, which cannot be encoded as JSON as a key"),
        (Point(1, Point(2, 3j)), "a value of type complex at result.y.y"),
        (2**70, "a value of type int, which cannot be encoded as JSON: Integer exceeds 64-bit"),
        ({"a": "\ud800"}, "a value of type str at result['a']"),
        ("\ud800", "not valid Unicode"),
        (Point, "a value of type type"),
        (lambda: 1, "a value of type function"),
        (np.array([object()]), "cannot be encoded as JSON"),
        (np.array([1j]), "cannot be encoded as JSON"),
        (range(3), "a value of type range"),
    ],
)
def test_not_encodable_names_the_type_and_the_place(value: Any, said: str) -> None:
    assert said in error_of(value)


def test_circular_and_deep_values() -> None:
    circular: list[Any] = []
    circular.append(circular)
    assert "list" in error_of(circular)
    deep: Any = 1
    for _ in range(5000):
        deep = [deep]
    assert "list" in error_of(deep)


def test_model_that_fails() -> None:
    class Broken:
        def model_dump(self, mode: str) -> Any:
            raise RuntimeError("no")

    assert "Broken" in error_of({"a": Broken()})


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("aé€"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("ab", max_size=3), inner, max_size=4),
    max_leaves=20,
)


@given(values.filter(lambda value: value is not None and not isinstance(value, str)))
def test_json_values_come_back(value: Any) -> None:
    status, kind, _, body, _ = encode(value)
    assert (status, kind) == (200, KIND_JSON)
    assert json.loads(body) == value


@given(
    st.lists(values | st.sets(st.integers(), max_size=1), max_size=3),
    st.integers(-5, 700),
    st.dictionaries(st.text(), st.text()),
)
def test_any_tuple_is_an_answer_or_says_why_not(items: list[Any], number: int, headers: dict[str, str]) -> None:
    for value in (tuple(items), (items, number), (items, number, headers)):
        try:
            answer = encode(value)
        except NotEncodable as error:
            assert "the handler returned" in str(error)  # noqa: PT017
        else:
            assert 200 <= answer[0] <= 599
