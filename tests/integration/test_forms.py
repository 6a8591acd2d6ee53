"""Forms, uploads, cookies, arguments and path variables, from a real client to the handler."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from .fabric import Fabric

pytestmark = pytest.mark.integration

ROUTES = {
    "form": "/form",
    "cookies": "/cookies",
    "args": "/args",
    "item": "/items/{name}/{number:int}",
    "rest": "/files/{rest:path}",
    "size": "/size",
}


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with tempfile.TemporaryDirectory(prefix="zs-") as folder:
        fabric = Fabric(Path(folder))
        try:
            fabric.start("router")
            fabric.start("gateway")
            fabric.start("worker")
            for name, route in ROUTES.items():
                fabric.call("create_backend", name=name, code=f"app_forms:{name}", version="1")
                fabric.call("create_endpoint", name=name, route=route, methods=["GET", "POST"], backend=name)
            for name in ROUTES:
                fabric.call("wait_backend", name=name)
            with httpx.Client(base_url=fabric.gateways[0].http, timeout=20.0) as client:
                yield client
        finally:
            fabric.close()


def test_a_form(http: httpx.Client) -> None:
    answer = http.post("/form", data={"name": "Zoë & co", "tick": ["a", "b"]})
    assert answer.json() == {"fields": {"name": ["Zoë & co"], "tick": ["a", "b"]}, "files": {}}


def test_uploads_beside_fields(http: httpx.Client) -> None:
    files = {"one": ("ü.txt", b"content of one", "text/plain"), "two": ("2.txt", b"x" * 2_000_000)}
    found = http.post("/form", data={"title": "t"}, files=files).json()
    assert found["fields"] == {"title": ["t"]}
    assert found["files"]["one"] == ["ü.txt", "content of one"]
    assert len(found["files"]["two"][1]) == 2_000_000


def test_cookies_both_ways(http: httpx.Client) -> None:
    assert [http.get("/cookies").text for _ in range(3)] == ["0", "1", "2"]
    assert "HttpOnly" in http.get("/cookies").headers["set-cookie"]


def test_arguments_and_headers(http: httpx.Client) -> None:
    answer = http.get("/args?a=1&a=2&b=%C3%BC+x&empty=", headers={"user-agent": "me"})
    assert answer.json() == {"args": {"a": ["1", "2"], "b": ["ü x"], "empty": [""]}, "path": "/args", "agent": "me"}


def test_path_variables_are_keywords(http: httpx.Client) -> None:
    found = http.get("/items/caf%C3%A9/42").json()
    assert found == {
        "name": "café",
        "number": 42,
        "view_args": {"name": "café", "number": 42},
        "url": "/items/café/42",
    }
    assert http.get("/items/x/not-a-number").status_code == 404
    assert http.get("/files/a/b/c.txt").json() == {"rest": "a/b/c.txt"}


def test_a_large_body_read_as_a_stream(http: httpx.Client) -> None:
    assert http.post("/size", content=bytes(20_000_000)).json() == {"bytes": 20_000_000}
