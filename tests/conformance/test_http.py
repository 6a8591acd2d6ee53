"""The section "HTTP" of the contract: each row of its table, then deadlines, headers and system paths."""

from __future__ import annotations

import json
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

import zserve as serve

from ..integration.fabric import eventually
from . import handlers

pytestmark = pytest.mark.integration

CODE = {"stuck": "slow", "none_ready": "one"}


@pytest.fixture(scope="module", autouse=True)
def backends(url: str) -> None:
    wanted: dict[str, dict[str, Any]] = {
        "one": {},
        "fails": {},
        "slow": {"max_concurrent_queries": 1, "max_queued_requests": 1},
        "stuck": {"graceful_shutdown_timeout": 0.0},
        "dies": {},
        "Sees": {},
        "Returns": {},
        "none_ready": {"num_replicas": 0},
    }
    with ThreadPoolExecutor() as pool:
        for done in [
            pool.submit(serve.create_backend, name, getattr(handlers, CODE.get(name, name)), config=config)
            for name, config in wanted.items()
        ]:
            done.result()
    for name in wanted:
        serve.create_endpoint(name, f"/{name}", ["GET", "POST"] if name == "dies" else ["GET"], backend=name)
    serve.create_endpoint("no_traffic", "/no_traffic")


# --- the table --------------------------------------------------------------------------------------------------------


def test_unknown_path(http: httpx.Client) -> None:
    answer = http.get("/nowhere/at/all")
    assert answer.status_code == 404
    assert "/nowhere/at/all" in answer.text
    assert "/-/routes" in answer.text


def test_wrong_method(http: httpx.Client) -> None:
    answer = http.put("/one")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, HEAD"
    head = http.head("/one")
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "3")


def test_handler_raised(http: httpx.Client) -> None:
    answer = http.get("/fails", headers={"x-request-id": "find-me"})
    assert answer.status_code == 500
    assert "find-me" in answer.text
    assert "nothing under" not in answer.text
    assert "Traceback" not in answer.text


@pytest.mark.parametrize("query", ["relative_slo_ms=0", "relative_slo_ms=x", "relative_slo_ms=1&absolute_slo_ms=1"])
def test_bad_deadline(http: httpx.Client, query: str) -> None:
    answer = http.get(f"/one?{query}")
    assert answer.status_code == 400
    assert "slo_ms" in answer.text


def test_body_or_headers_over_the_limit(http: httpx.Client) -> None:
    with socket.create_connection((http.base_url.host, http.base_url.port or 80), timeout=20) as connection:
        connection.sendall(b"POST /dies HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000000\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")
    assert http.get("/one", headers={"x-large": "x" * 100_000}).status_code == 431


def test_queue_limit(url: str, http: httpx.Client) -> None:
    def ask(_: int) -> httpx.Response:
        with httpx.Client(base_url=url, timeout=60) as client:
            return client.get("/slow?s=0.2")

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(ask, range(12)))
    refused = [one for one in answers if one.status_code == 429]
    assert refused, [one.status_code for one in answers]
    assert int(refused[0].headers["retry-after"]) >= 1
    assert {one.status_code for one in answers} == {200, 429}


def test_no_replica_ready(http: httpx.Client) -> None:
    without_traffic = http.get("/no_traffic")
    assert without_traffic.status_code == 503
    assert "set_traffic" in without_traffic.text
    assert int(without_traffic.headers["retry-after"]) >= 1
    late = http.get("/none_ready?relative_slo_ms=200")
    assert late.status_code in (503, 504)


def test_replica_died(http: httpx.Client) -> None:
    answer = http.post("/dies")
    assert answer.status_code == 502
    assert "may have run" in answer.text


def test_deadline_passed(http: httpx.Client) -> None:
    assert http.get("/stuck?s=3", headers={"x-request-timeout-seconds": "0.3"}).status_code == 504
    assert http.get("/stuck?relative_slo_ms=100").status_code in (503, 504), "it is busy still"
    assert http.get("/one?absolute_slo_ms=1000").status_code == 504


# --- deadlines and headers --------------------------------------------------------------------------------------------


def test_deadlines_that_are_met(http: httpx.Client) -> None:
    soon = int((time.time() + 30) * 1000)
    for query, headers in (
        ("relative_slo_ms=30000", {}),
        (f"absolute_slo_ms={soon}", {}),
        ("", {"x-request-timeout-seconds": "30"}),
    ):
        assert http.get(f"/one?{query}", headers=headers).status_code == 200


def test_call_method(http: httpx.Client) -> None:
    assert http.get("/Returns", headers={"x-serve-call-method": "text"}).text == "Grüße"
    for name in ("_private", "__class__", "unknown", "reconfigure"):
        answer = http.get("/Returns", headers={"x-serve-call-method": name})
        assert answer.status_code == 404
        assert name in answer.text


def test_shard_key(http: httpx.Client) -> None:
    serve.create_backend("other", handlers.two)
    serve.create_endpoint("sharded", "/sharded")
    serve.set_traffic("sharded", {"one": 0.5, "other": 0.5})
    keys = [f"user-{number}" for number in range(40)]

    def where() -> dict[str, set[str]]:
        return {key: {http.get("/sharded", headers={"x-serve-shard-key": key}).text for _ in range(3)} for key in keys}

    before = where()
    assert all(len(found) == 1 for found in before.values()), "the same key goes to the same backend"
    assert set().union(*before.values()) == {"one", "two"}
    handle = serve.get_handle("sharded")
    assert {handle.options(shard_key=keys[0]).remote().result(30)} == before[keys[0]], "by handle too"
    serve.set_traffic("sharded", {"one": 0.6, "other": 0.4})
    moved = [key for key, found in where().items() if found != before[key]]
    assert len(moved) < 20
    assert all(before[key] == {"two"} for key in moved), "only towards the one that got more"


def test_request_id(http: httpx.Client) -> None:
    assert http.get("/one", headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
    made = [http.get("/one").headers["x-request-id"] for _ in range(2)]
    assert made[0] != made[1]


def test_server_timing(http: httpx.Client) -> None:
    found = dict(re.findall(r"(\w+);dur=([\d.]+)", http.get("/slow?s=0.05").headers["server-timing"]))
    assert found.keys() == {"queue", "batch", "run"}
    assert float(found["run"]) >= 50


# --- system paths -----------------------------------------------------------------------------------------------------


def test_routes(http: httpx.Client) -> None:
    routes = json.loads(http.get("/-/routes").text)
    assert routes["/one"] == ["one", ["GET"]]
    assert routes["/dies"] == ["dies", ["GET", "POST"]]


def test_healthz_and_metrics(http: httpx.Client) -> None:
    assert http.get("/-/healthz").status_code == 200
    assert re.search(r"^zserve_gateway_opened_total \d", http.get("/-/metrics").text, re.MULTILINE)


def test_readyz(http: httpx.Client) -> None:
    not_ready = http.get("/-/readyz")
    assert not_ready.status_code == 503
    assert "none_ready" in not_ready.text
    serve.delete_endpoint("none_ready")
    serve.delete_endpoint("no_traffic")
    eventually(lambda: http.get("/-/readyz").status_code == 200, "it is ready when a request would be served")
