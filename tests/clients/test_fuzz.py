"""Arbitrary well-formed requests to a small typed handler: it raises nothing, so no answer is a 500; none is missing.

Malformed ones are in ``tests/http``.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ..integration.running import RunningApp

pytestmark = pytest.mark.integration

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
BODIES = (
    st.binary(max_size=300)
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.integers().map(lambda count: json.dumps({"count": count}).encode())
)
TYPES = st.sampled_from(
    ["application/json", "application/json; charset=latin-1", "application/x-www-form-urlencoded", "text/plain", "x/y",
     "multipart/form-data; boundary=x", "multipart/form-data", "application/vnd.api+json", ""]
)  # fmt: skip
SEGMENT = st.text(min_size=1, max_size=12)
PATHS = st.one_of(
    st.tuples(st.integers(-(10**25), 10**25), SEGMENT).map(lambda both: f"/typed/{both[0]}/{quote(both[1], safe='')}"),
    st.lists(SEGMENT, max_size=4).map(lambda parts: "/" + "/".join(quote(part, safe="") for part in parts)),
)
VALUE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=40)
HEADERS = st.dictionaries(
    st.sampled_from(
        ["X-Mine", "Cookie", "Accept", "X-Serve-Shard-Key", "X-Serve-Call-Method", "X-Request-Timeout-Seconds",
         "X-Request-Id", "traceparent", "If-None-Match", "Range", "Authorization", "Referer"]
    ),
    VALUE,
    max_size=3,
)  # fmt: skip
QUERY = st.lists(st.tuples(st.text(max_size=8) | st.just("relative_slo_ms"), st.text(max_size=12)), max_size=3)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with RunningApp("app_clients:typed", Path(__file__).parent) as app:
        yield app.url


@settings(
    max_examples=250, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE", "PATCH"]),
    path=PATHS,
    query=QUERY,
    headers=HEADERS,
    kind=TYPES,
    body=BODIES,
)
def test_no_request_makes_the_fabric_fail(
    url: str, method: str, path: str, query: Any, headers: dict[str, str], kind: str, body: bytes
) -> None:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=20)
    try:
        sent = {name: value.strip().encode("latin-1") for name, value in headers.items()}
        target = f"{path}?{urlencode(query)}" if query else path
        given_body = body if method in ("POST", "PUT", "PATCH", "DELETE") else None
        connection.request(method, target, given_body, {**sent, "Content-Type": kind})
        answer = connection.getresponse()
        said = answer.read()
    finally:
        connection.close()
    assert answer.status in (200, 400, 404, 405, 413, 414, 415, 431, 503, 504), (answer.status, said)
    if answer.status == 200 and method in ("POST", "PUT"):
        assert isinstance(json.loads(said)["count"], int)
