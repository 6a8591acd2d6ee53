"""From an --address to a router."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator

import click
import pytest
from zserve.nodes.commands.reach import connect, routers_of

from zserve.errors import FabricUnreachable, ServeError


class Page(http.server.BaseHTTPRequestHandler):
    status, body = 200, b""

    def do_GET(self) -> None:
        type(self).path_asked = self.path
        type(self).token_shown = self.headers.get("Authorization")
        self.send_response(self.status)
        self.send_header("content-length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # must not be used
    Page.status, Page.body = 200, b'{"routers": ["tcp://10.0.0.1:7700"]}'
    with http.server.HTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("path", ["", "/", "/digits?x=1"])
def test_a_gateway_tells_where_the_routers_are(gateway: str, path: str) -> None:
    assert routers_of(gateway + path) == ["tcp://10.0.0.1:7700"]
    assert Page.path_asked == "/-/fabric"
    assert Page.token_shown is None


def test_a_gateway_that_asks_for_a_token_is_shown_that_of_the_environment(
    gateway: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZSERVE_TOKEN", "zst_mine")
    assert routers_of(gateway) == ["tcp://10.0.0.1:7700"]
    assert Page.token_shown == "Bearer zst_mine"


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (401, b"no", "asks for a token; put yours into ZSERVE_TOKEN"),
        (404, b"no", "answers 404; is that the URL of a zserve gateway"),
        (200, b"<html>", "does not answer as a zserve gateway"),
        (200, b"[1]", "does not answer as a zserve gateway"),
        (200, b'{"routers": 7}', "does not answer as a zserve gateway"),
        (200, b'{"routers": []}', "is not linked with any router at the moment"),
    ],
)
def test_anything_else_is_one_clear_error(gateway: str, status: int, body: bytes, message: str) -> None:
    Page.status, Page.body = status, body
    with pytest.raises(ServeError, match=message):
        routers_of(gateway)


def test_nobody_is_there(gateway: str) -> None:
    with pytest.raises(FabricUnreachable, match=r"no gateway answers at http://127\.0\.0\.1:1"):
        routers_of("http://127.0.0.1:1")
    Page.body = b'{"routers": ["ipc:///nowhere/a.sock", "ipc:///nowhere/b.sock"]}'
    with pytest.raises(FabricUnreachable, match=r"no router that the gateway at .* can be reached from here"):
        connect(gateway)


def test_a_router_needs_no_detour() -> None:
    with connect("10.0.0.1:7700") as client:
        assert client.address == "tcp://10.0.0.1:7700"
    with pytest.raises(click.BadParameter, match="a gateway's http://host:port will do"):
        connect("nonsense")
