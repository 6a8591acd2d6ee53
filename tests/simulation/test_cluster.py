"""Users' applications on simulated nodes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

import zserve as serve
from zserve.control.declarations import Declaration
from zserve.errors import ApplicationError, ServeError
from zserve.testing import Cluster, cluster

from . import app


@pytest.fixture(name="fabric")
def _fabric() -> Iterator[Cluster]:
    with cluster(app, gateways=2, routers=2, workers=2) as running:
        yield running


def test_requests(fabric: Cluster) -> None:
    answer = fabric.post("/hello/you", json={"a": 1}, params={"q": "x y"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json() == {"hello": "you", "json": {"a": 1}, "q": "x y"}
    assert fabric.get("/pieces").text == "ab"
    assert fabric.request("head", "/pieces").content == b""
    assert (fabric.get("/nowhere").status_code, fabric.put("/sleepy").status_code) == (404, 405)
    assert fabric.put("/sleepy").headers["allow"] == "GET, HEAD"
    failed = fabric.get("/fails")
    assert (failed.status_code, "on purpose" in failed.text) == (500, True)


def test_a_name_a_declaration_or_a_function_will_do() -> None:
    for given in (app.__name__, app.hello, [app.hello, app.sleepy]):
        with cluster(given, routers=1, workers=1) as running:
            assert running.get("/hello/me").json()["hello"] == "me"


def test_time_jumps(fabric: Cluster) -> None:
    before, really = fabric.now, time.perf_counter()
    assert fabric.get("/sleepy").text == "slept"
    assert 5.0 <= fabric.now - before < 5.1
    assert time.perf_counter() - really < 4.0
    assert fabric.get("/sleepy", headers={"X-Request-Timeout-Seconds": "2"}).status_code == 504


def test_batches(fabric: Cluster) -> None:
    waiting = [fabric.send("GET", "/sizes", gateway="gateway-0") for _ in range(12)]
    fabric.advance(2.0)
    answers = [pending.response.json() for pending in waiting if pending.response is not None]
    assert len(answers) == 12
    assert max(answers) > 1


def test_traffic_follows_at_once(fabric: Cluster) -> None:
    assert fabric.get("/scaled", params={"n": 7}).json() == 14
    fabric.set_traffic("scaled", {"thrice": 1.0})
    for gateway in ("gateway-0", "gateway-1"):
        assert fabric.get("/scaled", params={"n": 7}, gateway=gateway).json() == 21
    with pytest.raises(ValueError, match="there is no backend 'none'"):
        fabric.set_traffic("scaled", {"none": 1.0})
    assert set(fabric.status()["endpoints"]) >= {"hello", "scaled"}


def test_a_router_and_a_worker_node_die(fabric: Cluster) -> None:
    fabric.kill("router-0")
    assert fabric.get("/hello/a").status_code == 200
    fabric.kill("worker-1")
    fabric.advance(8.0)
    assert [fabric.get("/hello/b").status_code for _ in range(4)] == [200] * 4
    assert fabric.nodes == ["router-1", "gateway-0", "gateway-1", "worker-0"]
    fabric.restart("router-0")
    fabric.restart("worker-1")
    fabric.advance(5.0)
    fabric.kill("router-1")
    assert fabric.get("/hello/c").status_code == 200


def test_a_request_that_may_have_run_is_not_run_again() -> None:
    with cluster(app, routers=1, workers=2, service_s=1.0) as running:
        before = app.Count.calls
        pending = running.send("POST", "/count")
        running.advance(0.5)
        assert app.Count.calls == before + 1
        for worker in ("worker-0", "worker-1"):
            running.kill(worker)
        running.advance(40.0)
        assert pending.response is not None
        assert app.Count.calls == before + 1


def test_a_partition_and_a_stopped_gateway(fabric: Cluster) -> None:
    fabric.partition(["gateway-0"])
    assert fabric.get("/hello/a", gateway="gateway-1").status_code == 200
    late = fabric.get("/hello/a", gateway="gateway-0", headers={"X-Request-Timeout-Seconds": "2"})
    assert late.status_code == 504
    fabric.heal()
    fabric.advance(6.0)
    assert fabric.get("/hello/a", gateway="gateway-0").status_code == 200
    fabric.pause("gateway-1")
    pending = fabric.send("GET", "/hello/b", gateway="gateway-1")
    fabric.advance(3.0)
    assert pending.response is None
    fabric.resume("gateway-1")
    fabric.advance(1.0)
    assert pending.response is not None
    assert pending.response.status_code == 200


def test_a_gateway_that_dies_takes_its_connections_along(fabric: Cluster) -> None:
    pending = fabric.send("GET", "/sleepy", gateway="gateway-0")
    fabric.advance(1.0)
    fabric.kill("gateway-0")
    assert pending.broken
    with pytest.raises(ConnectionRefusedError, match="gateway-0 is not running"):
        fabric.get("/sleepy", gateway="gateway-0")
    fabric.leave("gateway-1")
    fabric.advance(1.0)
    with pytest.raises(ConnectionRefusedError, match="no gateway is running"):
        fabric.get("/sleepy")


def test_the_same_seed_does_the_same() -> None:
    def story(seed: int) -> list[Any]:
        with cluster(app, seed=seed) as running:
            ids = [running.get("/hello/x").headers["x-request-id"] for _ in range(3)]
            running.kill("router-1")
            return [*ids, running.get("/hello/y").text, running.now]

    assert story(1) == story(1)
    assert story(1) != story(2)


def test_what_is_wrong_is_said() -> None:
    class Broken:
        def __init__(self) -> None:
            raise RuntimeError("no model here")

    with pytest.raises(ApplicationError, match="no model here"):
        cluster(Declaration("broken", "/broken", ["GET"], {"broken": serve.backend(Broken)}, None, "here"))
    with pytest.raises(ServeError, match="declares nothing to serve"):
        cluster("json")
    with pytest.raises(TypeError, match="app must be a module"):
        cluster(17)
    with pytest.raises(ValueError, match="routers must be at least 1"):
        cluster(app, routers=0)
    with cluster(app.hello, routers=1, workers=1) as running:
        with pytest.raises(KeyError, match="there is no node 'router-9'"):
            running.kill("router-9")
        with pytest.raises(ValueError, match="path must begin with"):
            running.get("hello")
        with pytest.raises(TypeError, match="data or json"):
            running.post("/hello/a", data=b"x", json={})
