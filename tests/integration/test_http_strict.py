"""Requests that are not what RFC 9112 says, against a gateway's real port."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from zserve.nodes.allocator import resident_bytes

from .fabric import Fabric, Node, eventually
from .raw_http import Fuzzer, exchange, statuses

FUZZ_CONNECTIONS = int(os.environ.get("ZSERVE_FUZZ_CONNECTIONS", "3000"))
FUZZ_GROWTH = 32 << 20
"""Bytes that the gateway may have more afterwards, however many connections there were."""
FUZZ_SEED = int(os.environ.get("ZSERVE_FUZZ_SEED", "1"))


@pytest.fixture(scope="module")
def gateway() -> Iterator[Fabric]:
    """One gateway for all, with ``/echo`` (GET and POST)."""
    with tempfile.TemporaryDirectory(prefix="zs-") as folder:
        fabric = Fabric(Path(folder))
        try:
            fabric.start("router")
            fabric.start("worker")
            fabric.start("gateway", "--header-timeout", "1", "--max-header-bytes", "20000")
            fabric.serve("echo", "app_basic:echo", methods=("GET", "POST"))
            yield fabric
        finally:
            fabric.close()


def request(line: str = "GET /echo HTTP/1.1", *headers: str, host: str | None = "Host: h", body: str = "") -> bytes:
    lines = [line, *([] if host is None else [host]), *headers, "", body]
    return "\r\n".join(lines).encode("latin-1")


CHUNKED = "Transfer-Encoding: chunked"
POST = "POST /echo HTTP/1.1"

REFUSED: dict[str, tuple[int, bytes]] = {
    "no Host": (400, request(host=None)),
    "two Hosts": (400, request(POST, "Host: h")),
    "two different Hosts": (400, request(POST, "Host: other")),
    "a Host that is none": (400, request(host="Host: a b")),
    "a Host with a path": (400, request(host="Host: h/x")),
    "two Hosts in HTTP/1.0": (400, request("GET /echo HTTP/1.0", "Host: h")),
    "Content-Length with Transfer-Encoding": (400, request(POST, "Content-Length: 3", CHUNKED, body="0\r\n\r\n")),
    "Transfer-Encoding with Content-Length": (400, request(POST, CHUNKED, "Content-Length: 3", body="0\r\n\r\n")),
    "Content-Length twice": (400, request(POST, "Content-Length: 3", "Content-Length: 3", body="abc")),
    "Content-Length twice, different": (400, request(POST, "Content-Length: 3", "Content-Length: 4", body="abc")),
    "a list of Content-Lengths": (400, request(POST, "Content-Length: 3, 3", body="abc")),
    "a negative Content-Length": (400, request(POST, "Content-Length: -1", body="abc")),
    "a signed Content-Length": (400, request(POST, "Content-Length: +3", body="abc")),
    "a hexadecimal Content-Length": (400, request(POST, "Content-Length: 0x3", body="abc")),
    "a Content-Length that overflows": (400, request(POST, f"Content-Length: {10**24}", body="abc")),
    "chunks in HTTP/1.0": (400, request("POST /echo HTTP/1.0", CHUNKED, body="0\r\n\r\n")),
    "an unknown Transfer-Encoding": (501, request(POST, "Transfer-Encoding: rot13", body="abc")),
    "a compressed Transfer-Encoding": (501, request(POST, "Transfer-Encoding: gzip, chunked", body="0\r\n\r\n")),
    "the same in two headers": (501, request(POST, "Transfer-Encoding: gzip", CHUNKED, body="0\r\n\r\n")),
    "chunked in the middle": (400, request(POST, "Transfer-Encoding: chunked, gzip", body="abc")),
    "chunked twice": (400, request(POST, CHUNKED, CHUNKED, body="0\r\n\r\n")),
    "identity": (501, request(POST, "Transfer-Encoding: identity", body="abc")),
    "a blank before the colon": (400, request(POST, "Transfer-Encoding : chunked", body="0\r\n\r\n")),
    "bare LF behind the request line": (400, b"GET /echo HTTP/1.1\nHost: h\r\n\r\n"),
    "bare LF behind a header": (400, b"GET /echo HTTP/1.1\r\nHost: h\nX: y\r\n\r\n"),
    "bare LF at the end": (400, b"GET /echo HTTP/1.1\r\nHost: h\r\n\n"),
    "bare CR in a header": (400, b"GET /echo HTTP/1.1\r\nHost: h\r\nX: a\rY: b\r\n\r\n"),
    "bare LF in a chunk": (400, request(POST, CHUNKED, body="1\nx\n0\n\n")),
    "a chunk longer than it says": (400, request(POST, CHUNKED, body="1\r\nxyz\r\n0\r\n\r\n")),
    "a chunk size that overflows": (400, request(POST, CHUNKED, body="f" * 17 + "\r\nx\r\n0\r\n\r\n")),
    "a chunk size with a sign": (400, request(POST, CHUNKED, body="-1\r\nx\r\n0\r\n\r\n")),
    "NUL in a header": (400, request("GET /echo HTTP/1.1", "X: a\x00b")),
    "a control character in a header": (400, request("GET /echo HTTP/1.1", "X: a\x01b")),
    "DEL in a header": (400, request("GET /echo HTTP/1.1", "X: a\x7fb")),
    "a control character in a header's name": (400, request("GET /echo HTTP/1.1", "X\x01: b")),
    "a header without a name": (400, request("GET /echo HTTP/1.1", ": b")),
    "a header without a colon": (400, request("GET /echo HTTP/1.1", "nothing")),
    "a folded header": (400, request("GET /echo HTTP/1.1", "X: a", " b")),
    "a folded first header": (400, b"GET /echo HTTP/1.1\r\n Host: h\r\n\r\n"),
    "NUL in the target": (400, request("GET /echo\x00 HTTP/1.1")),
    "a control character in the target": (400, request("GET /echo\x01 HTTP/1.1")),
    "DEL in the query": (400, request("GET /echo?\x7f HTTP/1.1")),
    "a byte beyond ASCII in the target": (400, request("GET /echo\xff HTTP/1.1")),
    "a blank in the target": (400, request("GET /ec ho HTTP/1.1")),
    "a target without a slash": (400, request("GET echo HTTP/1.1")),
    "authority form": (400, request("GET h:80 HTTP/1.1")),
    "asterisk form of GET": (400, request("GET * HTTP/1.1")),
    "absolute form of another scheme": (400, request("GET ftp://h/echo HTTP/1.1")),
    "absolute form with a password": (400, request("GET http://u:p@h/echo HTTP/1.1")),
    "absolute form without a host": (400, request("GET http:///echo HTTP/1.1")),
    "CONNECT": (501, request("CONNECT h:443 HTTP/1.1")),
    "CONNECT with a path": (501, request("CONNECT /echo HTTP/1.1")),
    "the preface of HTTP/2": (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "HTTP/2.0": (505, request("GET /echo HTTP/2.0")),
    "HTTP/0.9": (505, request("GET /echo HTTP/0.9")),
    "HTTP/1.2": (400, request("GET /echo HTTP/1.2")),
    "no version": (505, b"GET /echo\r\n\r\n"),
    "a method in small letters": (400, request("get /echo HTTP/1.1")),
    "an unknown method": (400, request("BREW /echo HTTP/1.1")),
    "a blank in front": (400, b" GET /echo HTTP/1.1\r\nHost: h\r\n\r\n"),
    "TLS": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    "a long request line": (414, request(f"GET /echo?{'q' * 20_000} HTTP/1.1")),
    "large headers": (431, request("GET /echo HTTP/1.1", *[f"X-{n}: {'v' * 900}" for n in range(25)])),
    "one large header": (431, request("GET /echo HTTP/1.1", f"X: {'v' * 300_000}")),
    "many headers": (431, request("GET /echo HTTP/1.1", *["X: y"] * 200)),
}

SERVED: dict[str, tuple[list[int], bytes]] = {
    "an ordinary one": ([200], request()),
    "an empty Host": ([200], request(host="Host:")),
    "an IPv6 Host": ([200], request(host="Host: [::1]:8000")),
    "HTTP/1.0 without Host": ([200], request("GET /echo HTTP/1.0", host=None)),
    "absolute form": ([200], request("GET http://h/echo HTTP/1.1")),
    "absolute form of a system page": ([200], request("GET http://h/-/healthz HTTP/1.1")),
    "asterisk form": ([200], request("OPTIONS * HTTP/1.1")),
    "empty lines in front": ([200], b"\r\n\r\n" + request()),
    "chunks": ([200], request(POST, CHUNKED, body="1;x=y\r\nx\r\n0\r\nT: v\r\n\r\n")),
    "Chunked with a capital": ([200], request(POST, "Transfer-Encoding: Chunked", body="0\r\n\r\n")),
    "three at once": ([200, 404, 200], request() + request("GET /nowhere HTTP/1.1") + request()),
    "an offer of another protocol": ([200, 200], request(POST, "Connection: upgrade", "Upgrade: h2c") + request()),
    "an empty body announced": ([200], request(POST, "Content-Length: 0")),
    "bytes beyond ASCII in a header": ([200], request("GET /echo HTTP/1.1", "X: \xe9")),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_malformed_is_refused_and_counted_and_the_connection_ends(gateway: Fabric, name: str) -> None:
    status, data = REFUSED[name]
    before = rejected(gateway.gateways[0])
    received, ended = exchange(gateway.gateways[0].http, data)
    assert statuses(received) == [status], received[:300]
    assert b"\r\nconnection: close\r\n" in received
    assert ended
    assert rejected(gateway.gateways[0]) == before + 1


@pytest.mark.parametrize("name", SERVED)
def test_what_is_unusual_but_right_is_served(gateway: Fabric, name: str) -> None:
    wanted, data = SERVED[name]
    received, _ = exchange(gateway.gateways[0].http, data, len(wanted))
    assert statuses(received) == wanted, received[:300]


def test_a_smuggled_request_is_never_served(gateway: Fabric) -> None:
    """What a proxy that reads the other length would take for the body of the first request."""
    hidden = request("GET /-/healthz HTTP/1.1")
    for data in (
        request(POST, "Content-Length: 4", CHUNKED, body="0\r\n\r\n") + hidden,
        request(POST, "Content-Length: 0", f"Content-Length: {len(hidden)}") + hidden,
        request("POST /echo HTTP/1.0", CHUNKED, body="0\r\n\r\n") + hidden,
        request(POST, "Transfer-Encoding: xchunked", body="0\r\n\r\n") + hidden,
    ):
        received, ended = exchange(gateway.gateways[0].http, data)
        assert len(statuses(received)) == 1
        assert statuses(received)[0] >= 400
        assert ended


def test_a_slow_sender_is_cut_off_and_others_are_served_meanwhile(gateway: Fabric) -> None:
    url = gateway.gateways[0].http
    started = time.monotonic()
    received, ended = exchange(url, b"GET /echo HTTP/1.1\r\n")
    assert time.monotonic() - started >= 1.0
    assert (statuses(received), ended) == ([408], True)
    assert httpx.get(url + "/echo", timeout=30).status_code == 200


def rejected(node: Node) -> int:
    """What the gateway has counted of requests that were none, or too much."""
    text = httpx.get(node.http + "/-/metrics", timeout=30).text
    return int(float(next(line for line in text.splitlines() if line.startswith("zserve_http_rejected")).split()[1]))


def _descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts descriptors in /proc")
@pytest.mark.timeout(600 + FUZZ_CONNECTIONS)
def test_any_bytes_leave_the_gateway_as_it_was(gateway: Fabric) -> None:
    node = gateway.gateways[0]
    eventually(lambda: httpx.get(node.http + "/echo", timeout=30).status_code == 200, "it serves")
    before = eventually(lambda: _descriptors(node.process.pid), "its descriptors can be counted")
    fuzzer = Fuzzer(FUZZ_SEED)
    memory_before, refused = 0, rejected(node)
    for number in range(FUZZ_CONNECTIONS):
        if number == FUZZ_CONNECTIONS // 4:
            memory_before = resident_bytes(node.process.pid)  # by now it has what it needs for any of it
        fuzzer.send(node.http)
    eventually(lambda: _descriptors(node.process.pid) <= before, "no connection is left", 60.0)
    assert httpx.post(node.http + "/echo", content=b"x", timeout=30).json() == {"method": "POST", "body": "x"}
    assert node.process.poll() is None
    assert resident_bytes(node.process.pid) - memory_before < FUZZ_GROWTH
    assert rejected(node) - refused > FUZZ_CONNECTIONS // 4, "most of it is not HTTP, and that is counted"
    log = node.log.read_text()
    assert "Traceback" not in log
    assert "Error" not in log, log[-2000:]
