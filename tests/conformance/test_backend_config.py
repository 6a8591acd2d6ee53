"""The backend config of the contract, key by key: each changed on a backend that runs, without a restart."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

import zserve as serve

from ..integration.fabric import eventually
from . import handlers

pytestmark = pytest.mark.integration

CODE = {"many": "pid", "checked": "Checked", "dying": "dies"}


@pytest.fixture(scope="module", autouse=True)
def backends(url: str) -> None:
    wanted: dict[str, dict[str, Any]] = {
        "many": {},
        "batch": {"max_batch_size": 2, "batch_wait_timeout": 2.0},
        "slow": {},
        "Configured": {"user_config": {"threshold": 1}, "num_replicas": 2},
        "checked": {"health_check_period": 0.1, "health_check_timeout": 20.0},
        "dying": {},
        "Numbered": {"max_concurrent_queries": 1},
    }
    with ThreadPoolExecutor() as pool:
        for done in [
            pool.submit(serve.create_backend, name, getattr(handlers, CODE.get(name, name)), config=config)
            for name, config in wanted.items()
        ]:
            done.result()
    for name in wanted:
        serve.create_endpoint(name, f"/{name}", ["GET", "POST"], backend=name)


def replicas(name: str, state: str = "ready") -> list[dict[str, Any]]:
    return [one for one in serve.status()["replicas"] if one["backend"] == name and one["state"] == state]


def test_defaults() -> None:
    assert (
        serve.get_backend_config("many").items()
        >= {
            "num_replicas": 1,
            "max_batch_size": None,
            "batch_wait_timeout": 0.0,
            "max_concurrent_queries": None,
            "max_queued_requests": 10_000,
            "slo_ms": None,
            "retryable": False,
            "resources": {},
            "user_config": None,
            "graceful_shutdown_timeout": 20.0,
            "health_check_period": 10.0,
            "health_check_timeout": 30.0,
        }.items()
    )


def test_num_replicas(http: httpx.Client) -> None:
    (first,) = replicas("many")
    serve.update_backend_config("many", {"num_replicas": 2})
    eventually(lambda: len(replicas("many")) == 2, "a second one is started")
    eventually(lambda: len({http.get("/many").json()["pid"] for _ in range(20)}) == 2, "and takes its share")
    assert first["pid"] in {one["pid"] for one in replicas("many")}, "the first one was not restarted"
    serve.update_backend_config("many", {"num_replicas": 1})
    eventually(lambda: len(replicas("many")) == 1, "one of them is stopped")
    assert http.get("/many").status_code == 200


def test_max_batch_size_and_batch_wait_timeout(http: httpx.Client) -> None:
    pid = replicas("batch")[0]["pid"]
    with ThreadPoolExecutor(8) as pool:

        def sizes(count: int) -> set[int]:
            return {one.json()["size"] for one in pool.map(lambda _: http.get("/batch"), range(count))}

        assert sizes(4) == {2}
        serve.update_backend_config("batch", {"max_batch_size": 4})
        assert sizes(4) == {4}
        serve.update_backend_config("batch", {"batch_wait_timeout": 0.0})
        assert sizes(1) == {1}
    assert replicas("batch")[0]["pid"] == pid


def test_max_concurrent_queries(http: httpx.Client) -> None:
    def running() -> int:
        return int(serve.status()["backends"]["slow"]["counters"]["in_flight"])

    serve.update_backend_config("slow", {"max_concurrent_queries": 3})
    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(http.get, "/slow?s=0.5") for _ in range(6)]
        eventually(lambda: running() == 3, "three at a time")
        assert [one.result(30).status_code for one in asked] == [200] * 6


def test_max_queued_requests(http: httpx.Client) -> None:
    serve.update_backend_config("slow", {"max_concurrent_queries": 1, "max_queued_requests": 1})
    with ThreadPoolExecutor(8) as pool:
        statuses = {one.status_code for one in pool.map(lambda _: http.get("/slow?s=0.2"), range(8))}
    assert statuses == {200, 429}
    serve.update_backend_config("slow", {"max_concurrent_queries": None, "max_queued_requests": 100})


def test_queue_order() -> None:
    handle = serve.get_handle("Numbered")

    def order(policy: str) -> list[int]:
        """When, in the order of the calls, each had its turn; the later a call is made, the sooner it is due."""
        serve.update_backend_config("Numbered", {"queue_order": policy})
        first = handle.remote(s=0.5)
        eventually(lambda: serve.status()["backends"]["Numbered"]["counters"]["in_flight"] == 1, "it is busy")
        calls = []
        for number in range(3):
            calls.append(handle.options(relative_slo_ms=100_000 - 20_000 * number).remote())
            eventually(lambda: serve.status()["backends"]["Numbered"]["counters"]["queued"] == len(calls), "it waits")
        begin = first.result(30)
        return [call.result(30) - begin for call in calls]

    assert order("edf") == [3, 2, 1]
    assert order("fifo") == [1, 2, 3]


def test_slo_ms(http: httpx.Client) -> None:
    serve.update_backend_config("slow", {"slo_ms": 200.0})
    assert http.get("/slow?s=1.5").status_code in (503, 504), "refused, where that it takes longer is known by now"
    serve.update_backend_config("slow", {"slo_ms": None})
    eventually(lambda: http.get("/slow?s=0").status_code == 200, "it runs again, without a deadline of its own")


def test_retryable(http: httpx.Client) -> None:
    assert http.post("/dying").status_code == 502
    assert "may have run" in http.post("/dying").text
    serve.update_backend_config("dying", {"retryable": True})
    http.post("/dying")
    assert eventually(lambda: serve.status()["router"]["retried"], "it was given to another replica") >= 1


def test_resources() -> None:
    with pytest.raises(serve.ServeError, match="Cannot place backend 'many'"):
        serve.update_backend_config("many", {"resources": {"gpu": 1}})
    assert serve.get_backend_config("many")["resources"] == {}


def test_user_config(http: httpx.Client) -> None:
    pids = {one["pid"] for one in replicas("Configured")}
    serve.update_backend_config("Configured", {"user_config": {"threshold": 2}})
    seen = [http.get("/Configured").json() for _ in range(20)]
    assert {one["threshold"] for one in seen} == {2}, "in force in every replica when the call returns"
    assert {one["pid"] for one in seen} <= pids


def test_user_config_that_is_refused_is_reported(http: httpx.Client) -> None:
    with pytest.raises(serve.ApplicationError) as caught:
        serve.update_backend_config("Configured", {"user_config": {"bad": 1}, "slo_ms": 77.0})
    assert 'raise ValueError("this config is bad")' in str(caught.value), "the replica's own traceback"
    config = serve.get_backend_config("Configured")
    assert (config["user_config"], config["slo_ms"]) == ({"threshold": 2}, None), "nothing is half applied"
    assert {http.get("/Configured").json()["threshold"] for _ in range(20)} == {2}
    assert [one["reason"] for one in replicas("Configured")] == ["", ""]


def test_user_config_that_is_refused_by_a_new_version(http: httpx.Client) -> None:
    with pytest.raises(serve.ApplicationError, match="this config is bad"):
        serve.update_backend("Configured", handlers.Configured, config={"user_config": {"bad": 1}})
    assert serve.get_backend_config("Configured")["user_config"] == {"threshold": 2}
    assert http.get("/Configured").json()["threshold"] == 2


def test_graceful_shutdown_timeout(http: httpx.Client) -> None:
    serve.create_backend("cut", handlers.slow, config={"graceful_shutdown_timeout": 0.0})
    serve.create_endpoint("cut", "/cut", ["POST"], backend="cut")
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(http.post, "/cut?s=40")
        eventually(lambda: serve.status()["backends"]["cut"]["counters"]["in_flight"] == 1, "it runs")
        serve.update_backend_config("cut", {"num_replicas": 0})
        assert asked.result(30).status_code == 502, "not waited for"


def test_health_check_period_and_timeout(http: httpx.Client) -> None:
    (first,) = replicas("checked")
    assert http.get("/checked", headers={"x-serve-call-method": "fall_ill"}).text == "ill"
    found = eventually(
        lambda: [one for one in replicas("checked") if one["pid"] != first["pid"]], "another one takes its place"
    )
    assert "check_health() returned False" in found[0]["reason"]
    assert http.get("/checked", headers={"x-serve-call-method": "check_health"}).status_code == 404
