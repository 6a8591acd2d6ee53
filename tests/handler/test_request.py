"""The lazy request against werkzeug's own."""

from __future__ import annotations

import io
import timeit
from typing import Any

import pytest
import werkzeug
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.exceptions import BadRequest, UnsupportedMediaType
from werkzeug.test import EnvironBuilder

from zserve.handler.request import ServeRequest
from zserve.http.head import RequestHead, encode_head

JSON = (b"content-type", b"application/json")


def request(body: bytes = b"", *headers: tuple[bytes, bytes], **fields: Any) -> ServeRequest:
    head = RequestHead(
        fields.pop("http_method", "POST"),
        fields.pop("path", "/a/b"),
        headers=[(b"host", b"example.org:81"), *headers],
        **fields,
    )
    return ServeRequest(encode_head(head), body)


def test_it_is_a_werkzeug_request() -> None:
    assert isinstance(request(), werkzeug.Request)


def test_construction_is_cheap_and_decodes_nothing() -> None:
    lazy = ServeRequest(b"not a head", b"body")
    assert lazy.data == b"body"
    head = encode_head(RequestHead("GET", "/"))
    best = min(timeit.repeat(lambda: ServeRequest(head, b""), number=2000, repeat=5)) / 2000
    assert best < 20e-6  # 0.2 us on an idle machine; the real thing takes 13 and more


def test_attributes_are_werkzeugs() -> None:
    body = b"a=1&b=two"
    path, query = "/ä b/c", b"x=1&x=2&y=%C3%A9"
    headers = [
        (b"content-type", b"application/x-www-form-urlencoded"),
        (b"cookie", b"c=1; d=2"),
        (b"x-thing", b"caf\xe9"),
        (b"authorization", b"Bearer t"),
        (b"user-agent", b"curl/8"),
    ]
    ours = request(body, *headers, path=path, query=query, client="10.0.0.9:1234", scheme="https", root="/root")
    builder = EnvironBuilder(
        path=path, base_url="https://example.org:81/root", query_string=query.decode(), method="POST",
        input_stream=io.BytesIO(body), content_length=len(body),
        headers=[(k.decode("latin-1"), v.decode("latin-1")) for k, v in headers],
        environ_base={"REMOTE_ADDR": "10.0.0.9"},
    )  # fmt: skip
    theirs = werkzeug.Request(builder.get_environ())
    for name in (
        "method", "scheme", "path", "full_path", "query_string", "args", "form", "values", "cookies", "host",
        "host_url", "url", "base_url", "root_path", "root_url", "script_root", "remote_addr", "content_type",
        "content_length", "mimetype", "is_json", "is_secure", "accept_mimetypes", "authorization", "server",
        "access_route", "shallow",
    ):  # fmt: skip
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.user_agent.string == "curl/8"
    assert dict(ours.headers) == dict(theirs.headers)
    assert ours.data == body
    assert ours.get_data(as_text=True) == body.decode()


def test_form_and_files() -> None:
    builder = EnvironBuilder(method="POST", data={"field": "value", "file": (io.BytesIO(b"content"), "name.txt")})
    environ = builder.get_environ()
    body = environ["wsgi.input"].read()
    ours = request(body, (b"content-type", environ["CONTENT_TYPE"].encode()))
    assert ours.form["field"] == "value"
    assert ours.files["file"].read() == b"content"
    assert ours.files["file"].filename == "name.txt"
    ours.close()


def test_a_form_field_may_be_as_long_as_the_body() -> None:
    body = b"a=" + b"x" * 1_000_000
    assert len(request(body, (b"content-type", b"application/x-www-form-urlencoded")).form["a"]) == 1_000_000


def test_repeated_headers_are_joined() -> None:
    ours = request(b"", (b"x-a", b"1"), (b"x-a", b"2"), (b"cookie", b"a=1"), (b"cookie", b"b=2"))
    assert ours.headers["X-A"] == "1,2"
    assert dict(ours.cookies) == {"a": "1", "b": "2"}


def test_path_variables() -> None:
    assert request(params={"n": 3, "rest": "a/b"}).view_args == {"n": 3, "rest": "a/b"}


def test_attributes_that_do_not_exist() -> None:
    with pytest.raises(AttributeError, match="no_such"):
        _ = request().no_such
    assert not hasattr(request(), "json_module_x")


def test_own_attributes_can_be_set() -> None:
    one = request()
    one.user = "u"  # type: ignore[attr-defined]
    one.path = "/other"
    assert (one.user, one.path) == ("u", "/other")  # type: ignore[attr-defined]


# --- JSON -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content_type",
    [b"application/json", b"application/json; charset=utf-8", b"Application/JSON", b"application/problem+json"],
)
def test_json(content_type: bytes) -> None:
    ours = request(b'{"a": [1, 2]}', (b"content-type", content_type))
    assert ours.is_json
    assert ours.json == {"a": [1, 2]}
    assert ours.get_json() is ours.json


@pytest.mark.parametrize("body", [b"", b"{", b"nul", b"\xff", b"NaN", b'{"a":1}x', b"[" * 2000])
def test_malformed_json_is_400(body: bytes) -> None:
    with pytest.raises(BadRequest) as caught:
        _ = request(body, JSON).json
    assert caught.value.code == 400
    assert request(body, JSON).get_json(silent=True) is None


@pytest.mark.parametrize("headers", [(), ((b"content-type", b"text/plain"),), ((b"content-type", b"text/json+x"),)])
def test_json_of_another_type_is_415(headers: tuple[tuple[bytes, bytes], ...]) -> None:
    with pytest.raises(UnsupportedMediaType):
        _ = request(b"{}", *headers).json
    assert request(b"{}", *headers).get_json(silent=True) is None
    assert request(b"{}", *headers).get_json(force=True) == {}


def test_cache_false_parses_anew() -> None:
    ours = request(b"[]", JSON)
    assert ours.json is not ours.get_json(cache=False)


def test_a_head_that_cannot_be_decoded_is_400() -> None:
    with pytest.raises(BadRequest):
        _ = ServeRequest(b"\xc1", b"{}").json
    with pytest.raises(BadRequest):
        _ = ServeRequest(b"", b"").method


@given(st.binary(max_size=200), st.binary(max_size=100))
def test_any_bytes_give_a_request_or_an_http_error(head: bytes, body: bytes) -> None:
    ours = ServeRequest(head, body)
    codes = set()
    for name in ("method", "path", "args", "headers", "json", "form", "cookies", "url"):
        try:
            getattr(ours, name)
        except werkzeug.exceptions.HTTPException as error:
            codes.add(error.code)
    assert codes <= {400, 415}


def test_json_is_read_without_decoding_the_head_where_it_is_declared_in_the_usual_way() -> None:
    ours = request(b"[1]", JSON)
    assert ours.json == [1]
    assert ours._head is None, "if the encoding of heads has changed, the shortcut has to follow"


@given(st.text(), st.binary().map(lambda query: bytes(byte for byte in query if byte > 32)))  # as HTTP parsers let by
def test_no_text_and_no_query_looks_like_a_declaration_of_json(text: str, query: bytes) -> None:
    declared = b"\x92\xc4\x0ccontent-type\xc4\x10application/json"
    sly = text + declared.decode("utf-8", errors="replace") + declared.decode("latin-1")
    with pytest.raises(UnsupportedMediaType):
        _ = request(b"{}", path=sly, params={"name": sly}, query=query).json


def test_a_body_that_was_parsed_ahead_is_what_the_handler_gets() -> None:
    ahead = request(b'{"n": 1}', JSON)
    ahead.look_ahead()
    assert not ahead.asked_for_json
    assert ahead.json == {"n": 1}
    assert ahead.asked_for_json
    assert ahead.json is ahead.json is ahead.get_json()
    other = request(b'{"n": 1}', JSON)
    other.look_ahead()
    assert other.get_json() == {"n": 1}
    assert other.data == b'{"n": 1}'


def test_what_cannot_be_parsed_ahead_fails_where_it_is_read() -> None:
    malformed, plain = request(b"{", JSON), request(b'{"n": 1}')
    for ahead in (malformed, plain):
        ahead.look_ahead()
        assert not ahead.asked_for_json
    with pytest.raises(BadRequest):
        _ = malformed.json
    with pytest.raises(UnsupportedMediaType):
        _ = plain.json
    assert plain.get_json(force=True) == {"n": 1}
