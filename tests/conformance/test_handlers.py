"""The section "What the handler gets and gives" of the contract, sentence by sentence."""

from __future__ import annotations

import datetime
import decimal
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

import zserve as serve

from ..integration.fabric import eventually
from . import handlers

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module", autouse=True)
def backends(url: str) -> None:
    wanted: dict[str, dict[str, Any]] = {
        "Returns": {}, "Sees": {}, "increment": {}, "calls": {}, "calls_async": {}, "trail": {}, "Lasting": {},
        "batch": {"max_batch_size": 4, "batch_wait_timeout": 2.0}, "waits": {}, "Types": {},
    }  # fmt: skip
    with ThreadPoolExecutor() as pool:
        for done in [
            pool.submit(serve.create_backend, name, getattr(handlers, name), config=config)
            for name, config in wanted.items()
        ]:
            done.result()
    for name in wanted:
        serve.create_endpoint(name, f"/{name}", ["GET", "POST"], backend=name)
    for name, route in (("variables", "/a/{name}/c"), ("number", "/n/{n:int}"), ("rest", "/files/{rest:path}")):
        serve.create_endpoint(name, route, backend="Sees")


def method(http: httpx.Client, name: str, path: str = "/Returns") -> httpx.Response:
    return http.get(path, headers={"x-serve-call-method": name})


# --- gets -------------------------------------------------------------------------------------------------------------


def test_without_a_required_parameter_it_is_called_without_the_request(http: httpx.Client) -> None:
    assert method(http, "nothing", "/Sees").json() == {"web": True}
    assert method(http, "optional", "/Sees").json() == {"size": "none"}


def test_over_http_the_first_argument_is_a_werkzeug_request(http: httpx.Client) -> None:
    seen = http.get("/Sees?a=1&b=x+y", headers={"x-mine": "me", "cookie": "c=7"}).json()
    assert (seen["method"], seen["path"], seen["args"]) == ("GET", "/Sees", {"a": "1", "b": "x y"})
    assert (seen["header"], seen["cookie"]) == ("me", "7")
    posted = http.post("/Sees", data={"field": "value"}, files={"upload": ("a.txt", b"content")}).json()
    assert (posted["form"], posted["files"]) == ({"field": "value"}, {"upload": "content"})
    assert http.post("/Sees", json={"a": [1]}).json()["json"] == {"a": [1]}
    assert http.head("/Sees").status_code == 200


def test_path_variables_arrive_as_keywords(http: httpx.Client) -> None:
    assert http.get("/a/Ada/c").json()["name"] == "Ada"
    assert http.get("/n/42").json()["n"] == 42
    assert http.get("/n/x").status_code == 404
    assert http.get("/files/x/y.txt").json()["rest"] == "x/y.txt"


def test_context_tells_about_the_current_call(http: httpx.Client) -> None:
    assert (serve.context.web, serve.context.batch_size) == (False, None), "outside of a handler"
    seen = http.get("/Sees").json()
    assert (seen["web"], seen["batch_size"]) == (True, 1)
    assert serve.get_handle("Sees").options(method_name="nothing").remote().result(30) == {"web": False}


def test_http_and_handle_calls_share_a_batch(http: httpx.Client) -> None:
    handle = serve.get_handle("batch")
    with ThreadPoolExecutor() as pool:
        web = [pool.submit(http.get, "/batch", params={"bad": bad}) for bad in ("", "1")]
        local = [handle.remote(), handle.remote(bad=True)]
        assert [one.result(30).status_code for one in web] == [200, 500]
        assert local[0].result(30) == {"size": 4, "context": 4}
        with pytest.raises(ValueError, match="this one is bad"):
            local[1].result(30)


def test_a_class_needs_no_call_method(http: httpx.Client) -> None:
    assert http.get("/Returns").status_code == 404
    assert method(http, "text").status_code == 200


def test_values_of_handles() -> None:
    handle = serve.get_handle("Returns").options(method_name="values")
    when = datetime.datetime(2020, 1, 2, tzinfo=datetime.UTC)
    values: list[Any] = [
        None, True, 2**80, 1.5, "é", b"\x00", (1, 2), {1, 2}, when, uuid.UUID(int=5), decimal.Decimal("1.50"),
        [{"a": (1,)}],
    ]  # fmt: skip
    for value in values:
        found = handle.remote(value).result(30)
        assert (type(found), found) == (type(value), value)
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(6.0).reshape(2, 3)
    assert (handle.remote(array).result(30) == array).all()
    with pytest.raises(TypeError, match=r"data: a value of type object cannot be sent \(at \['inside'\]\[0\]\)"):
        handle.remote({"inside": [object()]})


def test_async_handlers_run_together(http: httpx.Client) -> None:
    handle = serve.get_handle("Lasting")
    assert max(one.result(30)["most"] for one in [handle.remote() for _ in range(20)]) > 1


def test_an_async_handler_is_cancelled_when_its_client_leaves(http: httpx.Client, tmp_path: Path) -> None:
    file = tmp_path / "word"
    with pytest.raises(httpx.ReadTimeout):
        http.get("/waits", params={"file": str(file)}, timeout=0.5)
    eventually(lambda: file.exists() and file.read_text() == "cancelled", "it is cancelled")


def test_handles_inside_of_handlers() -> None:
    assert serve.get_handle("calls").remote(1).result(30) == 20
    assert serve.get_handle("calls_async").remote([1, 2, 3]).result(30) == 9


def test_request_id_and_trace_are_passed_on(http: httpx.Client) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    seen = http.get("/trail", headers={"x-request-id": "mine", "traceparent": trace})
    assert seen.json()["id"] == "mine"
    assert trace[:35] in seen.json()["trace"]
    assert seen.headers["x-request-id"] == "mine"
    assert http.get("/trail").headers["x-request-id"]


# --- gives ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "status", "content_type", "body"),
    [
        ("none", 200, None, b""),
        ("text", 200, "text/plain; charset=utf-8", "Grüße".encode()),
        ("raw", 200, "text/plain", b"\x00\xff"),
        ("response", 201, "text/plain; charset=utf-8", b"made"),
        ("pair", 418, "application/json", b'{"error":"teapot"}'),
        ("triple", 302, "text/plain; charset=utf-8", b"moved"),
        ("generator", 200, "text/plain; charset=utf-8", b"ab"),
        ("async_generator", 200, "text/plain; charset=utf-8", b"cd"),
    ],
)
def test_returns(http: httpx.Client, name: str, status: int, content_type: str | None, body: bytes) -> None:
    answer = method(http, name)
    assert (answer.status_code, answer.headers.get("content-type"), answer.content) == (status, content_type, body)
    chunked = answer.headers.get("transfer-encoding") == "chunked"
    assert chunked == name.endswith("generator")


def test_returns_headers_and_cookies(http: httpx.Client) -> None:
    answer = method(http, "response")
    assert answer.headers["x-made"] == "yes"
    assert answer.headers.get_list("set-cookie") == ["a=1; Path=/", "b=2; Path=/"]
    assert method(http, "triple").headers["location"] == "/elsewhere"


def test_returns_json(http: httpx.Client) -> None:
    assert method(http, "json").json() == {
        "id": "00000000-0000-0000-0000-000000000007",
        "when": "2020-01-02T03:04:05+00:00",
        "point": {"x": 1, "when": "2020-01-02T03:04:05+00:00"},
        "list": [1, 2.5, None, True],
    }


def test_returns_something_that_cannot_be_encoded(http: httpx.Client) -> None:
    answer = method(http, "unencodable")
    assert answer.status_code == 500
    assert "object" in answer.text
