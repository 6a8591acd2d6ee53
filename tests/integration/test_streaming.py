"""Answers in pieces through real processes: early, complete, bounded, and never silently cut short."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from .fabric import Fabric, eventually, temporary_fabric
from .running import RunningApp

pytestmark = pytest.mark.integration

NAMES = (
    "text", "later", "nothing", "gated", "gated_async", "events", "events_async", "silent_events", "created", "large",
    "large_async", "one_large", "breaks", "breaks_async", "fails_first", "wrong_item", "endless", "endless_async",
    "waiting_async", "dies", "slow_first", "past_deadline",
)  # fmt: skip
LARGE = 50_000_000


@pytest.fixture(scope="module")
def served() -> Iterator[Fabric]:
    with temporary_fabric() as fabric:
        fabric.start("router")
        fabric.start("gateway")
        fabric.start("worker")
        for name in NAMES:
            fabric.call("create_backend", name=name, code=f"app_streaming:{name}", version="1")
            fabric.call("create_endpoint", name=name, route=f"/{name}", methods=["GET"], backend=name)
        limit = {"max_concurrent_queries": 250}
        fabric.serve("producer", "app_streaming:Producer", is_class=True, config=limit)
        for name in NAMES:
            fabric.call("wait_backend", name=name)
        yield fabric


@pytest.fixture
def http(served: Fabric) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.gateways[0].http, timeout=20.0) as client:
        yield client


def curl(served: Fabric, path: str, *options: str) -> subprocess.CompletedProcess[bytes]:
    command = ["curl", "-sS", "-N", "--max-time", "20", *options, served.gateways[0].http + path]
    return subprocess.run(command, capture_output=True, timeout=30, check=False)


def connect(served: Fabric, path: str, *, version: str = "1.1", receive_buffer: int = 0) -> socket.socket:
    """A raw connection that has asked for *path*."""
    host, port = served.gateways[0].http.removeprefix("http://").split(":")
    connection = socket.socket()
    connection.settimeout(20)
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.connect((host, int(port)))
    connection.sendall(f"GET {path} HTTP/{version}\r\nHost: x\r\n\r\n".encode())
    return connection


def counters(served: Fabric, backend: str) -> dict[str, Any]:
    found: dict[str, Any] = served.call("status")["backends"][backend]["counters"]
    return found


# --- complete answers -------------------------------------------------------------------------------------------------


def test_a_generator_is_streamed_in_chunks(http: httpx.Client) -> None:
    answer = http.get("/text")
    assert (answer.status_code, answer.text) == (200, "one two thrée")
    assert answer.headers["transfer-encoding"] == "chunked"
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert "content-length" not in answer.headers


def test_an_async_generator_is_streamed_in_chunks(http: httpx.Client) -> None:
    answer = http.get("/later")
    assert answer.content == b"0;1;2;"
    assert answer.headers["content-type"] == "text/plain"


def test_an_iterator_without_items_is_an_empty_answer(http: httpx.Client) -> None:
    answer = http.get("/nothing")
    assert (answer.status_code, answer.content, answer.headers["content-length"]) == (200, b"", "0")


def test_status_and_headers_of_a_streamed_answer(http: httpx.Client) -> None:
    answer = http.get("/created")
    assert (answer.status_code, answer.text, answer.headers["x-kind"]) == (201, "ab", "streamed")


@pytest.mark.parametrize("name", ["large", "large_async"])
def test_a_large_stream_arrives_whole(http: httpx.Client, name: str) -> None:
    content = http.get(f"/{name}").content
    assert len(content) == LARGE
    assert content.count(b"x") == LARGE


def test_an_item_larger_than_the_window_arrives_whole(http: httpx.Client) -> None:
    assert http.get("/one_large").content == bytes(10_000_000)


def test_the_connection_is_kept_for_the_next_request(http: httpx.Client) -> None:
    ports = set()
    for _ in range(3):
        with http.stream("GET", "/text") as answer:
            answer.read()
            stream: Any = answer.extensions["network_stream"]
            ports.add(stream.get_extra_info("client_addr")[1])
    assert len(ports) == 1


def test_the_deadline_is_for_the_first_byte(http: httpx.Client) -> None:
    answer = http.get("/past_deadline?relative_slo_ms=300")
    assert (answer.status_code, answer.text) == (200, "0 1 2 3 4 5 ")
    assert http.get("/slow_first?s=1&relative_slo_ms=200").status_code == 504


# --- early ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gated", "gated_async"])
def test_the_first_item_arrives_before_the_second_is_produced(http: httpx.Client, name: str, tmp_path: Path) -> None:
    with http.stream("GET", f"/{name}", params={"folder": str(tmp_path)}) as answer:
        items = answer.iter_raw()
        assert next(items) == b"first"
        (tmp_path / "got-first").touch()
        assert next(items) == b"second"
        assert next(items, None) is None


@pytest.mark.parametrize("name", ["events", "events_async"])
def test_server_sent_events_read_by_curl(served: Fabric, name: str) -> None:
    result = curl(served, f"/{name}", "-i")
    assert result.returncode == 0
    assert b"content-type: text/event-stream" in result.stdout
    assert re.findall(rb"^data: (\d)$", result.stdout, re.MULTILINE) == [b"0", b"1", b"2"]


def test_events_begin_before_there_is_one(http: httpx.Client) -> None:
    with http.stream("GET", "/silent_events?relative_slo_ms=5000") as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")


# --- the forms that HTTP has ------------------------------------------------------------------------------------------


def test_head_has_headers_only(http: httpx.Client) -> None:
    answer = http.head("/text")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert http.get("/text").text == "one two thrée"  # on the same connection


def test_http_1_0_ends_with_the_connection(served: Fabric) -> None:
    result = curl(served, "/text", "-i", "-0")
    head, _, body = result.stdout.partition(b"\r\n\r\n")
    assert (result.returncode, body.decode()) == (0, "one two thrée")
    assert b"chunked" not in head
    assert b"connection: close" in head


def test_pipelined_requests_wait_for_the_end_of_a_stream(served: Fabric) -> None:
    with connect(served, "/text") as connection:
        connection.sendall(b"GET /later HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = b""
        while data := connection.recv(65536):
            answer += data
    assert answer.count(b"HTTP/1.1 200 OK") == 2
    assert answer.index(b"one ") < answer.index(b"0;")
    assert answer.endswith(b"0\r\n\r\n")


# --- not complete -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["breaks", "breaks_async", "wrong_item"])
def test_a_generator_that_raises_midway_truncates_the_answer(served: Fabric, name: str) -> None:
    result = curl(served, f"/{name}")
    assert result.stdout == b"good"
    assert result.returncode == 18, "curl: transfer closed with outstanding read data remaining"
    assert f"backend '{name}' failed in the middle" in served.logs()
    assert curl(served, f"/{name}", "-0").returncode == 56, "a reset: HTTP/1.0 shows the end in no other way"


def test_a_generator_that_raises_before_its_first_item_is_an_ordinary_error(http: httpx.Client) -> None:
    answer = http.get("/fails_first")
    assert answer.status_code == 500
    assert answer.headers["x-request-id"] in answer.text


@pytest.mark.parametrize("name", ["endless", "endless_async", "waiting_async"])
def test_a_client_that_leaves_ends_the_generator(served: Fabric, name: str, tmp_path: Path) -> None:
    with connect(served, f"/{name}?folder={tmp_path}") as connection:
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 OK")
    eventually((tmp_path / "closed").exists, "the generator is closed")
    if name != "waiting_async":
        threads = {(tmp_path / file).read_text() for file in ("started", "closed")}
        assert len(threads) == 1, "it is closed in the thread that it ran in"
    eventually(lambda: counters(served, name)["in_flight"] == 0, "its slot is free")


def test_a_head_request_ends_the_generator(http: httpx.Client, tmp_path: Path) -> None:
    assert http.head("/endless", params={"folder": str(tmp_path)}).status_code == 200
    eventually((tmp_path / "closed").exists, "the generator is closed")


def test_a_replica_that_dies_midway_truncates_the_answer(served: Fabric, tmp_path: Path) -> None:
    with connect(served, f"/dies?folder={tmp_path}") as connection:
        answer = b""
        while b"good" not in answer:
            answer += connection.recv(65536)
        (tmp_path / "got-first").touch()
        while data := connection.recv(65536):
            answer += data
    assert answer.endswith(b"good\r\n"), "no last chunk"


# --- slow readers -----------------------------------------------------------------------------------------------------


def pss_mb(process_id: int) -> float:
    """Proportional set size: what the process holds, shared pages divided among their users."""
    text = Path(f"/proc/{process_id}/smaps_rollup").read_text()
    found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


def produced_bytes(http: httpx.Client) -> int:
    return int(http.get("/producer", headers={"x-serve-call-method": "produced"}).text)


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="Linux only")
@pytest.mark.parametrize("count", [20, 200])
def test_slow_readers_hold_memory_bounded(served: Fabric, http: httpx.Client, count: int) -> None:
    nodes = [served.routers[0].process.pid, served.gateways[0].process.pid]
    before = sum(map(pss_mb, nodes))
    produced_before = produced_bytes(http)
    readers = [connect(served, "/producer", receive_buffer=65536) for _ in range(count)]
    try:
        largest = 0.0
        for _ in range(30):
            for reader in readers:
                assert reader.recv(16_384)
            largest = max(largest, sum(map(pss_mb, nodes)))
        produced = produced_bytes(http) - produced_before
        print(f"router and gateway: {before:.0f} MB, with {count} slow readers {largest:.0f} MB")
        print(f"{produced / 1e6:.0f} MB of {count * LARGE / 1e6:.0f} MB were produced")
        assert largest < 200
        assert largest < before + 30 + 0.5 * count
        assert produced < count * 12_000_000, "the handler goes no faster than its readers (and their kernel's buffers)"
        # One of them wants the rest after all.
        received, end = 0, b""
        while data := readers[0].recv(1 << 20):
            received += len(data)
            end = (end + data)[-7:]  # the last chunk may come by itself
            if end == b"\r\n0\r\n\r\n":
                break
        assert received > LARGE - 30 * 16_384
    finally:
        for reader in readers:
            reader.close()
    eventually(lambda: counters(served, "producer")["in_flight"] == 0, "all slots are free again")


# --- the nodes on the way ---------------------------------------------------------------------------------------------


def test_a_router_that_dies_midway_truncates_the_answer(fabric: Fabric, tmp_path: Path) -> None:
    fabric.start("router")
    fabric.start("gateway")
    fabric.start("worker")
    fabric.serve("endless", "app_streaming:endless")
    with connect(fabric, f"/endless?folder={tmp_path}") as connection:
        assert connection.recv(1000)
        fabric.routers[0].kill()
        answer = b""
        while data := connection.recv(1 << 20):
            answer = answer[-100:] + data
    assert not answer.endswith(b"0\r\n\r\n")
    eventually((tmp_path / "closed").exists, "the generator is closed when its router is gone")


def test_a_gateway_that_drains_finishes_its_streams(fabric: Fabric, tmp_path: Path) -> None:
    fabric.start("router")
    fabric.start("gateway")
    fabric.start("worker")
    fabric.serve("gated", "app_streaming:gated")
    with connect(fabric, f"/gated?folder={tmp_path}") as connection:
        answer = b""
        while b"first" not in answer:
            answer += connection.recv(65536)
        fabric.gateways[0].process.send_signal(signal.SIGTERM)
        (tmp_path / "got-first").touch()
        while data := connection.recv(65536):
            answer += data
    assert answer.endswith(b"second\r\n0\r\n\r\n")


# --- the documentation ------------------------------------------------------------------------------------------------


def test_the_code_of_the_documentation(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "streaming.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "app.py").write_text("\n".join(blocks))
    with RunningApp("app", tmp_path) as app, httpx.Client(base_url=app.url, timeout=20) as http:
        assert http.get("/count").text == http.get("/count-async").text == "0\n1\n2\n3\n4\n"
        rows = http.get("/rows")
        assert [row["row"] for row in map(json.loads, rows.text.splitlines())] == [0, 1, 2]
        assert (rows.headers["content-type"], rows.headers["cache-control"]) == ("application/x-ndjson", "no-store")
        assert len(http.get("/download").content) == 1_000_000
        events = http.get("/events")
        assert events.headers["content-type"] == "text/event-stream"
        assert events.text.count("data: tick") == 3
