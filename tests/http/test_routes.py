from __future__ import annotations

import pytest

from zserve.http.routes import NoMatch, RouteTable, to_werkzeug

TABLE = RouteTable(
    [
        ("plain", "/plain", ["GET"]),
        ("poster", "/plain", ["POST"]),
        ("named", "/a/{name}/c", ["GET"]),
        ("number", "/n/{n:int}", ["GET", "PUT"]),
        ("rest", "/files/{rest:path}", ["GET"]),
        ("handle only", None, ["GET"]),
        ("root", "/", ["GET"]),
    ]
)


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/plain", ("plain", {})),
        ("HEAD", "/plain", ("plain", {})),
        ("POST", "/plain", ("poster", {})),
        ("GET", "/a/b/c", ("named", {"name": "b"})),
        ("GET", "/a/ü b/c", ("named", {"name": "ü b"})),
        ("PUT", "/n/17", ("number", {"n": 17})),
        ("PUT", f"/n/{2**63 - 1:030}", ("number", {"n": 2**63 - 1})),
        ("GET", "/files/x/y.txt", ("rest", {"rest": "x/y.txt"})),
        ("GET", "/", ("root", {})),
    ],
)
def test_a_request_finds_its_endpoint(method: str, path: str, expected: object) -> None:
    assert TABLE.match(method, path) == expected


@pytest.mark.parametrize(
    "path", ["/nothing", "/plain/", "/a/b/c/d", "/n/seventeen", "//plain", "", f"/n/{2**63}", "/n/" + "9" * 5000]
)
def test_an_unknown_path_is_no_match(path: str) -> None:
    with pytest.raises(NoMatch) as caught:
        TABLE.match("GET", path)
    assert caught.value.allowed is None


@pytest.mark.parametrize(("path", "allowed"), [("/plain", ["GET", "HEAD", "POST"]), ("/n/3", ["GET", "HEAD", "PUT"])])
def test_a_wrong_method_says_which_are_right(path: str, allowed: list[str]) -> None:
    with pytest.raises(NoMatch) as caught:
        TABLE.match("DELETE", path)
    assert caught.value.allowed == allowed


def test_the_listing_names_endpoint_and_methods() -> None:
    assert TABLE.listing()["/n/{n:int}"] == ["number", ["GET", "PUT"]]
    assert "handle only" not in str(TABLE.listing())


@pytest.mark.parametrize("route", ["/a/{b:uuid}", "/a/{", "/a/{b}}", "/{1}"])
def test_malformed_variables_are_errors(route: str) -> None:
    with pytest.raises(ValueError, match="route"):
        to_werkzeug(route)
