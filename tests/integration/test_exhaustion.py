"""What a node runs out of: it goes on as far as it can, says what is the matter, and recovers by itself."""

from __future__ import annotations

import json
import os
import resource
import socket
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from zserve.nodes.allocator import resident_bytes

from .fabric import Fabric, Node, eventually
from .load import Load
from .raw_http import exchange, statuses

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(sys.platform != "linux", reason="sets the limits of a running process, and looks into /proc"),
]

IDLE = int(os.environ.get("ZSERVE_IDLE_CONNECTIONS", "600"))
IDLE_BYTES = 40_000
"""What an idle connection may take of the gateway's memory.  Measured: 6 to 7 kB."""


@pytest.fixture(scope="module")
def hello() -> Iterator[Fabric]:
    """A router, a worker node, and a gateway that holds 2 MB of bodies and may have many connections."""
    with tempfile.TemporaryDirectory(prefix="zs-") as folder:
        fabric = Fabric(Path(folder))
        try:
            fabric.start("router")
            fabric.start("worker")
            fabric.start("gateway", "--max-held-bytes", "2000000", "--max-connections", "20000",
                         "--max-connections-per-address", "20000")  # fmt: skip
            fabric.serve("echo", "app_basic:echo", methods=("GET", "POST"))
            yield fabric
        finally:
            fabric.close()


def descriptors(node: Node) -> int:
    return len(os.listdir(f"/proc/{node.process.pid}/fd"))


def memory(node: Node) -> int:
    return resident_bytes(node.process.pid)


def connect(node: Node, source: str = "127.0.0.1") -> socket.socket:
    place = urlsplit(node.http)
    assert place.hostname is not None
    assert place.port is not None
    return socket.create_connection((place.hostname, place.port), 30.0, (source, 0))


def test_a_gateway_out_of_descriptors_serves_those_it_has_and_says_so_once(hello: Fabric) -> None:
    gateway = hello.gateways[0]
    limits = resource.prlimit(gateway.process.pid, resource.RLIMIT_NOFILE)
    with httpx.Client(base_url=gateway.http, timeout=30.0) as there, ExitStack() as crowd:
        assert there.get("/echo").status_code == 200
        resource.prlimit(gateway.process.pid, resource.RLIMIT_NOFILE, (descriptors(gateway) + 5, limits[1]))
        for _ in range(40):
            crowd.enter_context(connect(gateway))
        eventually(lambda: "out of file descriptors" in gateway.log.read_text(), "it is said")
        assert there.get("/echo").status_code == 200, "who is connected is served"
        assert there.post("/echo", content=b"x" * 200_000).status_code == 200, "with what is not copied, too"
        with pytest.raises(httpx.TransportError):
            httpx.get(gateway.http + "/echo", timeout=30.0)
        crowd.close()
        eventually(lambda: httpx.get(gateway.http + "/echo", timeout=30.0).status_code == 200, "it has recovered")
    eventually(lambda: "are there again" in gateway.log.read_text(), "that is said, too")
    assert gateway.log.read_text().count("out of file descriptors") == 1
    resource.prlimit(gateway.process.pid, resource.RLIMIT_NOFILE, limits)


def test_bodies_that_are_being_sent_have_a_limit_all_together(hello: Fabric) -> None:
    gateway = hello.gateways[0]
    begin = b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 900000\r\n\r\n" + b"x" * 800_000
    with connect(gateway) as one, connect(gateway) as two:
        for connection in (one, two):
            connection.sendall(begin)
        eventually(lambda: metric(gateway, "zserve_http_receiving_bytes") >= 1_600_000, "both are there")
        received, ended = exchange(gateway.http, begin)
        assert (statuses(received), ended) == ([429], True)
        assert b"2000000 bytes of request bodies, its limit" in received
        one.sendall(b"x" * 100_000)
        assert one.recv(4096).startswith(b"HTTP/1.1 200")
        assert httpx.post(gateway.http + "/echo", content=b"x" * 800_000, timeout=30.0).status_code == 200
    eventually(lambda: metric(gateway, "zserve_http_receiving_bytes") == 0, "what never came is not held")


def test_what_waits_at_a_router_has_a_limit_of_which_each_backend_has_a_share(fabric: Fabric) -> None:
    fabric.start("router", "--max-queued-bytes", "4000000")
    fabric.start("worker")
    gateway = fabric.start("gateway")
    for name in ("waits", "echo"):
        config = {"max_concurrent_queries": 1}
        fabric.serve(name, f"app_basic:{name}", methods=("POST",), config=config)
    go = fabric.folder / "go"

    def post(_: int) -> httpx.Response:
        return httpx.post(f"{gateway.http}/waits?for={go}", content=b"x" * 900_000, timeout=60.0)

    def queued() -> int:
        return int(fabric.call("status")["backends"]["waits"]["counters"]["queued_bytes"])

    with ThreadPoolExecutor(12) as pool:
        answers = [pool.submit(post, number) for number in range(12)]
        refused = list(eventually(lambda: [one for one in answers if one.done()], "some are refused"))
        eventually(lambda: queued() > 1_800_000, "more wait than the share")
        for future in refused:
            assert future.result().status_code == 429
            assert "of 4000000" in future.result().text
            assert int(future.result().headers["Retry-After"]) >= 1
        assert queued() <= 3_000_000
        other = httpx.post(gateway.http + "/echo", content=b"y" * 900_000, timeout=30.0)
        assert other.status_code == 200, "one backend's pile leaves the other's share"
        go.touch()
        statuses_of = Counter(future.result().status_code for future in answers)
        assert set(statuses_of) == {200, 429}
        assert statuses_of[200] >= 4, "those that were taken are answered"
    assert post(0).status_code == 200, "it takes new ones"
    assert queued() == 0


def metric(gateway: Node, name: str) -> float:
    text = httpx.get(gateway.http + "/-/metrics", timeout=30.0).text
    return float(next(line for line in text.splitlines() if line.startswith(name)).split()[1])


@pytest.mark.timeout(120 + IDLE // 50)
def test_idle_connections_cost_little_and_nothing_when_they_are_gone(hello: Fabric) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < IDLE + 200:
        pytest.skip(f"needs {IDLE + 200} open files, and {hard} are allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    gateway = hello.gateways[0]
    # From several addresses: one has some 28,000 ports.
    try:
        with ExitStack() as idle, httpx.Client(base_url=gateway.http, timeout=30.0) as client:
            for _ in range(200):
                assert client.get("/echo").status_code == 200
            before, had = memory(gateway), descriptors(gateway)
            for number in range(IDLE):
                idle.enter_context(connect(gateway, f"127.0.0.{2 + number % 4}"))
            eventually(lambda: descriptors(gateway) == had + IDLE, "all are taken", 60.0)
            each = (memory(gateway) - before) / IDLE
            print(f"{IDLE} idle connections: {each:.0f} bytes each")
            assert each < IDLE_BYTES
            for _ in range(200):
                assert client.get("/echo").status_code == 200
            idle.close()
            eventually(lambda: descriptors(gateway) == had, "all are gone", 60.0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def full_pipe() -> Iterator[tuple[int, int]]:
    """(read, write) of a pipe that takes nothing more."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    with suppress(BlockingIOError):
        while True:
            os.write(write, b"\n" * 4096)
    os.set_blocking(write, True)
    yield read, write
    for descriptor in (read, write):
        os.close(descriptor)


def test_nodes_whose_log_nobody_reads_go_on_serving(fabric: Fabric, full_pipe: tuple[int, int]) -> None:
    read, write = full_pipe
    for role in ("router", "worker", "gateway"):
        fabric.start(role, "--log-level", "debug", output=write)
    fabric.serve("echo", "app_basic:echo")
    with Load([fabric.gateways[0].http], "/echo", 4) as load:
        load.wait_for(200)
    assert (load.lost, set(load.answers)) == ([], {200})
    text = b""
    os.set_blocking(read, False)
    fabric.workers[0].process.terminate()  # which it says

    def said() -> bool:
        nonlocal text
        try:
            text += os.read(read, 1 << 20)
        except BlockingIOError:
            return False
        return b"log lines were dropped" in text

    eventually(said, "what was lost is counted")
    lines = [json.loads(line) for line in text.splitlines() if line.strip()]
    assert any("log lines were dropped" in line["message"] for line in lines)
