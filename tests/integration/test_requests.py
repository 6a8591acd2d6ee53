"""Requests through three real processes: what works, and one clear error for what does not."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from .fabric import Fabric, eventually, temporary_fabric

pytestmark = pytest.mark.integration

ENDPOINTS = {
    "hello": ("GET",),
    "echo": ("GET", "POST"),
    "json_in": ("POST",),
    "raises": ("GET",),
    "not_encodable": ("GET",),
    "dies": ("GET", "POST"),
    "exits": ("POST",),
    "never": ("GET",),
}


@pytest.fixture(scope="module")
def served() -> Iterator[Fabric]:
    with temporary_fabric() as fabric:
        fabric.start("router")
        fabric.start("gateway")
        fabric.start("worker")
        for name, methods in ENDPOINTS.items():
            fabric.call("create_backend", name=name, code=f"app_basic:{name}", version="1")
            fabric.call("create_endpoint", name=name, route=f"/{name}", methods=list(methods), backend=name)
        fabric.serve("batched", "app_basic:batched", batchable=True, config={"max_batch_size": 32})
        fabric.serve("counter", "app_basic:Counter", is_class=True, init_args=[10])
        for name in ENDPOINTS:
            fabric.call("wait_backend", name=name)
        yield fabric


@pytest.fixture
def http(served: Fabric) -> Iterator[httpx.Client]:
    # A pool that closes surplus connections also closes such as another thread has just been given (httpcore 1110).
    limits = httpx.Limits(max_connections=100, max_keepalive_connections=100)
    with httpx.Client(base_url=served.gateways[0].http, timeout=20.0, limits=limits) as client:
        yield client


def test_a_function_answers(http: httpx.Client) -> None:
    answer = http.get("/hello")
    assert (answer.status_code, answer.text) == (200, "hello")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert {"x-request-id", "server-timing", "date", "server"} <= set(answer.headers)


def test_a_request_arrives_whole(http: httpx.Client) -> None:
    answer = http.post("/echo", content=b"abc")
    assert answer.json() == {"method": "POST", "body": "abc"}
    assert answer.headers["content-type"] == "application/json"
    large = "x" * 3_000_000
    assert http.post("/echo", content=large).json()["body"] == large


def test_a_chunked_body_arrives_whole(http: httpx.Client) -> None:
    assert http.post("/echo", content=iter([b"one ", b"two ", b"three"])).json()["body"] == "one two three"


def test_head_has_the_headers_of_get_and_no_body(http: httpx.Client) -> None:
    answer = http.head("/hello")
    assert (answer.status_code, answer.content, answer.headers["content-length"]) == (200, b"", "5")


def test_an_instance_keeps_its_state(http: httpx.Client) -> None:
    counts = [http.get("/counter").json()["count"] for _ in range(3)]
    assert counts == [11, 12, 13]


def test_the_request_id_of_the_client_is_echoed(http: httpx.Client) -> None:
    assert http.get("/hello", headers={"x-request-id": "my-id-7"}).headers["x-request-id"] == "my-id-7"
    assert http.get("/hello", headers={"x-request-id": "bad id"}).headers["x-request-id"] != "bad id"


def test_many_clients_at_once_make_batches(served: Fabric, http: httpx.Client) -> None:
    def ask(_: int) -> int:
        return int(http.get("/batched").json()["n"])

    with ThreadPoolExecutor(32) as pool:
        sizes = list(pool.map(ask, range(400)))
    assert max(sizes) > 1
    counters = served.call("status")["backends"]["batched"]["counters"]
    assert counters["batch_size"]["max"] > 1


def test_system_pages(http: httpx.Client) -> None:
    assert http.get("/-/routes").json()["/hello"] == ["hello", ["GET"]]
    assert http.get("/-/healthz").status_code == 200
    assert "zserve_gateway_opened_total" in http.get("/-/metrics").text
    assert http.get("/-/nothing").status_code == 404
    assert http.post("/-/routes").status_code == 405


def test_unknown_path(http: httpx.Client) -> None:
    answer = http.get("/nowhere")
    assert answer.status_code == 404
    assert "/nowhere" in answer.text
    assert "/-/routes" in answer.text


def test_wrong_method(http: httpx.Client) -> None:
    answer = http.post("/hello", content=b"x")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


def test_malformed_json_is_the_clients_fault(http: httpx.Client) -> None:
    answer = http.post("/json_in", content=b"{nope", headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert http.post("/json_in", json={"a": 1}).json() == {"got": {"a": 1}}


def test_a_body_over_the_limit(http: httpx.Client, served: Fabric) -> None:
    answer = http.post("/echo", content=b"x" * 100_000_000)
    assert answer.status_code == 413
    assert "larger than" in answer.text

    def chunks() -> Iterator[bytes]:
        for _ in range(100):
            yield b"x" * 1_000_000

    try:
        assert http.post("/echo", content=chunks()).status_code == 413
    except httpx.WriteError:
        pass  # it did not look at the answer before it had sent all
    assert http.get("/hello").status_code == 200


def test_headers_over_the_limit(http: httpx.Client) -> None:
    assert http.get("/hello", headers={"x-large": "x" * 100_000}).status_code == 431
    assert http.get("/" + "x" * 40_000).status_code == 414


def test_a_handler_that_raises(http: httpx.Client) -> None:
    answer = http.get("/raises")
    assert answer.status_code == 500
    assert answer.headers["x-request-id"] in answer.text
    assert "this handler fails" not in answer.text, "the traceback goes to the log only"


def test_a_result_that_can_not_be_encoded(http: httpx.Client) -> None:
    answer = http.get("/not_encodable")
    assert answer.status_code == 500
    assert "object" in answer.text


@pytest.mark.parametrize(("method", "path"), [("GET", "/dies"), ("POST", "/dies"), ("POST", "/exits")])
def test_a_handler_that_kills_its_process(http: httpx.Client, served: Fabric, method: str, path: str) -> None:
    answer = http.request(method, path)
    assert answer.status_code == 502
    assert "may have run" in answer.text
    assert http.get("/hello").status_code == 200
    backend = path[1:]

    def back() -> bool:
        replicas = [replica for replica in served.call("status")["replicas"] if replica["backend"] == backend]
        return any(replica["state"] == "ready" and replica["restarts"] for replica in replicas)

    eventually(back, f"the replica of {backend} is replaced")


def test_a_handler_that_never_returns(http: httpx.Client) -> None:
    answer = http.get("/never", headers={"x-request-timeout-seconds": "0.3"})
    assert answer.status_code == 504
    assert http.get("/hello").status_code == 200
    # The one replica is busy for ever: later requests are told so, in time.
    assert http.get("/never?relative_slo_ms=200").status_code in (503, 504)


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ("relative_slo_ms=-1", {}),
        ("relative_slo_ms=soon", {}),
        ("relative_slo_ms=1e300", {}),
        ("relative_slo_ms=5&absolute_slo_ms=5", {}),
        ("", {"x-request-timeout-seconds": "0"}),
    ],
)
def test_a_bad_deadline(http: httpx.Client, query: str, headers: dict[str, str]) -> None:
    answer = http.get(f"/hello?{query}", headers=headers)
    assert answer.status_code == 400
    assert "positive number" in answer.text or "week" in answer.text or "more than one" in answer.text


def test_a_deadline_that_has_passed_on_arrival(http: httpx.Client) -> None:
    answer = http.get("/hello?absolute_slo_ms=1000000")
    assert answer.status_code == 504


def test_malformed_http_is_refused_and_the_connection_closed(served: Fabric) -> None:
    host, port = served.gateways[0].http.removeprefix("http://").split(":")
    for data in (b"nonsense\r\n\r\n", b"GET /hello HTTP/9.9\r\n\r\n", b"\x00\x01\x02\x03\r\n\r\n"):
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(data)
            answer = b""
            while chunk := connection.recv(65536):
                answer += chunk
        assert answer.startswith(b"HTTP/1.1 400 ")


def test_pipelined_requests_are_answered_in_order(served: Fabric) -> None:
    host, port = served.gateways[0].http.removeprefix("http://").split(":")
    paths = ["/hello", "/nowhere", "/-/healthz", "/echo?1", "/hello"]
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        last = len(paths) - 1
        for number, path in enumerate(paths):
            close = "Connection: close\r\n" if number == last else ""
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n{close}\r\n".encode())
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    statuses = re.findall(rb"HTTP/1\.1 (\d+)", answer)
    assert statuses == [b"200", b"404", b"200", b"200", b"200"]


def test_a_client_that_leaves_frees_its_work(served: Fabric, http: httpx.Client) -> None:
    with pytest.raises(httpx.ReadTimeout):
        http.get("/never", timeout=0.3)

    def nothing_waits() -> bool:
        return bool(served.call("status")["backends"]["never"]["counters"]["queued"] == 0)

    eventually(nothing_waits, "the queue of the abandoned request is empty")
