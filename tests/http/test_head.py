"""The head of a request and the header pairs of an answer, to bytes and back."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zserve.http.answers import CONTENT_TYPES, KIND_HTML, decode_headers, encode_headers
from zserve.http.head import RequestHead, decode_head, encode_head

pairs = st.lists(st.tuples(st.binary(max_size=8), st.binary(max_size=8)), max_size=5)
params = st.dictionaries(
    st.text("ab", max_size=3),
    st.text("aé", max_size=3) | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False),
    max_size=3,
)


@given(st.text(max_size=8), st.text(max_size=20), st.binary(max_size=20), pairs, params, st.binary(max_size=8))
def test_a_head_comes_back(
    method: str,
    path: str,
    query: bytes,
    headers: list[tuple[bytes, bytes]],
    variables: dict[str, str | int | float],
    kwargs: bytes,
) -> None:
    head = RequestHead(method, path, query, headers, variables, "1.2.3.4:5", "https", "/root", kwargs)
    assert decode_head(encode_head(head)) == head


def test_a_head_of_another_version() -> None:
    later = msgspec.msgpack.encode(["GET", "/", b"q", [], {}, "", "http", "", b"", b"", "a field of the future"])
    assert decode_head(later) == RequestHead("GET", "/", b"q")
    assert decode_head(msgspec.msgpack.encode(["GET", "/"])) == RequestHead("GET", "/")


@given(st.binary(max_size=60))
def test_any_bytes_are_a_head_or_one_error(data: bytes) -> None:
    for decode in (decode_head, decode_headers):
        try:
            decode(data)
        except msgspec.MsgspecError:
            continue
        assert data


@given(pairs)
def test_header_pairs_come_back(headers: list[tuple[bytes, bytes]]) -> None:
    assert decode_headers(encode_headers(iter(headers))) == headers


def test_text_that_is_not_utf8_is_the_same_error() -> None:
    with pytest.raises(msgspec.MsgspecError):
        decode_head(b"\x92\xa1\xff\xa1/")


def test_an_integer_beyond_64_bits() -> None:
    with pytest.raises(OverflowError):
        encode_head(RequestHead("GET", "/", params={"n": 2**70}))


def test_every_kind_has_an_entry() -> None:
    assert len(CONTENT_TYPES) == KIND_HTML + 1
