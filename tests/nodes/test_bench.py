"""``zserve bench`` against a server in this process: what it counts, what it says, what it refuses."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from zserve.nodes import cli
from zserve.nodes.commands import bench as command


class Handler(BaseHTTPRequestHandler):
    """``/STATUS`` answers with it, ``/close`` breaks the connection, ``/slow`` never answers."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.server.seen.append((self.command, self.path, dict(self.headers), body))
        first, _, later = self.path.partition("?")[0].strip("/").partition("/")
        kind = later if later and len(self.server.seen) > 1 else first
        if kind == "close":
            self.close_connection = True
            return
        if kind == "slow":
            self.server.closing.wait(60)
            self.close_connection = True
            return
        self.send_response(int(kind))
        self.send_header("Content-Length", "6")
        self.end_headers()
        self.wfile.write(b"reason")

    do_POST = do_GET  # noqa: N815

    def log_message(self, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.closing.set()
        server.shutdown()
        thread.join()


def bench(*arguments: str) -> tuple[int, str, str]:
    """(exit status, standard output, standard error)"""
    with CliRunner().isolation() as (out, err, *_):
        status = cli.run(["bench", *arguments])
        return status, out.getvalue().decode(), err.getvalue().decode()


def measured(*arguments: str) -> dict[str, Any]:
    status, out, err = bench(*arguments, "--json", "--seconds", "0.3", "--warmup", "0")
    assert out, err
    found: dict[str, Any] = json.loads(out)
    assert (status == 0) == (found["answered"] > 0), err
    return found


def test_a_closed_loop_asks_again_and_again(server: Server) -> None:
    found = measured(f"{server.url}/200", "--clients", "3")
    assert (found["loop"], found["clients"], found["method"]) == ("closed", 3, "GET")
    assert found["answered"] == found["in_time"] == found["offered"] == found["statuses"]["200"] > 3
    assert len(server.seen) == found["answered"] + 1, "one more to see that it answers"
    assert 0 < found["latency_ms"]["p50"] <= found["latency_ms"]["p99"] <= found["latency_ms"]["max"]
    assert found["answered_per_s"] == pytest.approx(found["answered"] / found["seconds"], rel=0.02)


def test_an_open_loop_offers_what_it_was_told(server: Server) -> None:
    found = measured(f"{server.url}/200", "--rate", "200", "--seed", "4")
    again = measured(f"{server.url}/200", "--rate", "200", "--seed", "4")
    assert found["loop"] == "open"
    assert 30 < found["offered"] == found["answered"] == again["offered"]


def test_what_is_sent(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "body"
    file.write_bytes(b"\x00\xff")
    options = ["--body", f"@{file}", "--content-type", "x/y", "-H", "X-Mine: a: b", "--deadline-ms", "1500"]
    measured(f"{server.url}/200/ü?a=1 2", "--clients", "1", *options)
    for method, path, headers, body in server.seen:
        assert (method, path, body) == ("POST", "/200/%C3%BC?a=1%202", b"\x00\xff")
        assert (headers["Content-Type"], headers["X-Mine"]) == ("x/y", "a: b")
        assert headers["X-Request-Timeout-Seconds"] == "1.5"
        assert headers["Host"] == server.url.removeprefix("http://")
    assert len(server.seen) > 1


@pytest.mark.parametrize(
    ("path", "counted"),
    [("/200/503", "refused"), ("/200/429", "refused"), ("/200/504", "expired"), ("/200/500", "failed"),
     ("/200/404", "failed"), ("/200/close", "failed"), ("/200/slow", "gave_up")],
)  # fmt: skip
def test_what_is_no_success_is_counted_by_its_kind(server: Server, path: str, counted: str) -> None:
    patience = ["--patience", "0.2"] if counted == "gave_up" else []
    found = measured(server.url + path, "--clients", "2", *patience)
    assert found["answered"] == 0
    assert found[counted] == found["offered"] > 0


def test_a_path_of_a_gateway(server: Server) -> None:
    found = measured("/200", "--address", f"{server.url}/", "--clients", "1")
    assert (found["url"], found["answered"] > 0) == (f"{server.url}/200", True)


def test_late_is_not_in_time(server: Server) -> None:
    found = measured(f"{server.url}/200", "--clients", "1", "--deadline-ms", "0.001")
    assert found["late"] == found["answered"] > 0 == found["in_time"]


def test_it_can_be_read(server: Server) -> None:
    status, out, _ = bench(f"{server.url}/200", "--seconds", "0.2", "--warmup", "0.1", "--deadline-ms", "5000")
    assert status == 0
    assert out.startswith(f"GET {server.url}/200\n  load      64 clients")
    for word in ("answered ", "in time ", "within 5000 ms", "(100.0%)", "p50", "p99", "longest"):
        assert word in out
    assert "failed" not in out
    status, out, err = bench(f"{server.url}/200/500", "--seconds", "0.2", "--warmup", "0", "--clients", "1")
    assert status == 1
    assert "  500: " in out
    assert err == "zserve: error: not one request was answered with success\n"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def refusal(*arguments: str, status: int) -> str:
    found, out, err = bench(*arguments)
    assert (found, out) == (status, ""), err
    assert err.startswith("zserve: error: ")
    assert len(err.splitlines()) == 1
    return err


def test_nothing_listens() -> None:
    said = refusal(f"http://127.0.0.1:{free_port()}/x", status=1)
    assert "nothing answers at http://127.0.0.1:" in said
    assert "connection refused" in said
    assert "zserve status" in said


def test_something_else_listens_or_says_nothing(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(command, "_FIRST_S", 0.1)
        assert "within 0.2 s" in refusal(f"{server.url}/slow", "--patience", "0.2", status=1)
    with socket.create_server(("127.0.0.1", 0)) as other:

        def answer() -> None:
            connection, _ = other.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"220 this is no web server\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        said = refusal(f"http://127.0.0.1:{other.getsockname()[1]}/", status=1)
        thread.join()
    assert "does not answer as an HTTP server" in said


def test_a_wrong_request_is_not_measured(server: Server) -> None:
    assert "GET /404 is answered 404" in refusal(f"{server.url}/404", status=1)
    assert "reason" in refusal(f"{server.url}/405", status=1)


@pytest.mark.parametrize("url", ["hello", "http://", "http://x:y/", "http://x:70000/", "ftp://x/", "http://[::1/"])
def test_a_bad_url(url: str) -> None:
    assert repr(url) in refusal(url, status=2)


def test_bad_usage(tmp_path: Path) -> None:
    url = "http://127.0.0.1:1/"
    assert "https" in refusal("https://127.0.0.1:1/", status=2)
    assert "give one of them" in refusal(url, "--rate", "5", "--clients", "5", status=2)
    assert "'0'" in refusal(url, "--clients", "0", status=2) or "0 is not" in refusal(url, "--clients", "0", status=2)
    assert "-1" in refusal(url, "--rate", "-1", status=2)
    assert "'mine'" in refusal(url, "-H", "mine", status=2)
    assert "--body" in refusal(url, "-H", "Content-Length: 5", status=2)
    assert r"a\r\nb" in refusal(url, "--content-type", "a\r\nb", status=2)
    assert "no such file" in refusal(url, "--body", f"@{tmp_path / 'none'}", status=2).lower()
    assert "--address" in refusal(url, "--address", "tcp://127.0.0.1:1", status=2)
