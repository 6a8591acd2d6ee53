"""Nine nodes started by hand: they find each other, come and go while traffic flows, and no request is lost."""

from __future__ import annotations

import signal
import time

import httpx
import pytest

from .fabric import Fabric, eventually
from .load import Load

pytestmark = pytest.mark.integration


def nine(fabric: Fabric) -> None:
    """3 routers, 3 gateways, 3 workers; each joins through the first router only."""
    for _ in range(3):
        fabric.start("router", *(["--join", fabric.routers[0].address] if fabric.routers else []))
    for role in ("gateway", "worker"):
        for _ in range(3):
            fabric.start(role, "--join", fabric.routers[0].address)
    eventually(
        lambda: all(len(fabric.call("status", router)["nodes"]) == 9 for router in range(3)),
        "every router knows all nine nodes",
    )


def all_gateways_answer(fabric: Fabric, path: str, text: str) -> bool:
    return all(httpx.get(gateway.http + path, timeout=5).text == text for gateway in fabric.gateways)


def test_what_one_router_is_told_all_gateways_serve_at_once(fabric: Fabric) -> None:
    nine(fabric)
    fabric.call("create_backend", router=1, name="hello", code="app_basic:hello", version="1")
    fabric.call("wait_backend", router=1, name="hello")
    begin = time.monotonic()
    fabric.call("create_endpoint", router=1, name="hello", route="/hello", methods=["GET"], backend="hello")
    took = time.monotonic() - begin
    # The call is in force when it returns: no waiting here.
    assert all_gateways_answer(fabric, "/hello", "hello")
    print(f"in force on 3 gateways after {took * 1000:.0f} ms")


@pytest.mark.parametrize("role", ["gateway", "router", "worker"])
def test_stopping_a_node_with_ctrl_c_loses_no_request(fabric: Fabric, role: str) -> None:
    nine(fabric)
    fabric.serve("hello", "app_basic:hello", config={"num_replicas": 3})
    victims = {"gateway": fabric.gateways, "router": fabric.routers, "worker": fabric.workers}[role]
    with Load([gateway.http for gateway in fabric.gateways], "/hello") as load:
        load.wait_for(200)
        for victim in victims[:2]:
            assert victim.stop(signal.SIGINT) == 0
            load.wait_for(200)
    assert load.lost == []
    assert set(load.answers) == {200}


def test_nodes_that_join_late_get_everything_and_take_their_share(fabric: Fabric) -> None:
    fabric.start("router")
    fabric.start("gateway")
    fabric.start("worker")
    fabric.serve("hello", "app_basic:hello")
    with Load([fabric.gateways[0].http], "/hello", clients=4) as load:
        load.wait_for(50)
        gateway = fabric.start("gateway")
        eventually(lambda: httpx.get(gateway.http + "/hello").text == "hello", "a late gateway serves")
        router = fabric.start("router", "--join", fabric.routers[0].address)
        eventually(
            lambda: "hello" in fabric.call("list_endpoints", router=1), f"a late router knows ({router.address})"
        )
        fabric.start("worker")
        fabric.call("update_backend_config", name="hello", config={"num_replicas": 4})
        eventually(
            lambda: len({r["node"] for r in fabric.call("status")["replicas"] if r["state"] == "ready"}) == 2,
            "both workers run replicas",
        )
        load.wait_for(100)
    assert load.lost == []
    assert set(load.answers) == {200}


def test_an_endpoint_goes_everywhere_when_it_is_deleted(fabric: Fabric) -> None:
    nine(fabric)
    fabric.serve("hello", "app_basic:hello")
    fabric.call("delete_endpoint", router=2, name="hello")
    assert {httpx.get(gateway.http + "/hello").status_code for gateway in fabric.gateways} == {404}
    assert fabric.call("list_endpoints", router=0) == {}
    assert "hello" in fabric.call("list_backends", router=0)


def test_a_killed_worker_node_is_replaced_by_the_others(fabric: Fabric) -> None:
    nine(fabric)
    fabric.serve("hello", "app_basic:hello", config={"num_replicas": 3})
    with Load([gateway.http for gateway in fabric.gateways], "/hello") as load:
        load.wait_for(100)
        fabric.workers[0].kill()
        load.wait_for(500)
        eventually(
            lambda: len([r for r in fabric.call("status")["replicas"] if r["state"] == "ready"]) == 3,
            "three replicas on the two workers that are left",
        )
    assert load.lost == []
    assert set(load.answers) == {200}, "GET is retried when its replica dies under it"


def test_a_killed_router_costs_no_get(fabric: Fabric) -> None:
    nine(fabric)
    fabric.serve("hello", "app_basic:hello", config={"num_replicas": 3})
    with Load([gateway.http for gateway in fabric.gateways], "/hello") as load:
        load.wait_for(100)
        fabric.routers[1].kill()
        load.wait_for(500)
    assert load.lost == []
    assert set(load.answers) == {200}
    print(f"longest gap {load.longest_gap_s * 1000:.0f} ms")
