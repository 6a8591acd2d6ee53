"""A gateway and a router in one process: two nodes to everything else, and as careful as two processes."""

from __future__ import annotations

import os
import signal

import httpx
import pytest

from .fabric import Fabric, Node, eventually
from .load import Load

pytestmark = pytest.mark.integration


def start_together(fabric: Fabric) -> Node:
    address = f"ipc://{fabric.folder}/t{len(fabric.nodes)}"
    join = [part for router in fabric.routers for part in ("--join", router.address)]
    node = fabric.start("router", "--role", "gateway", "--bind", address, "--http", "127.0.0.1:0", *join, ready=False)
    router = node.wait_ready()
    gateway = node.wait_ready()
    node.facts = {**router, **gateway}
    fabric.routers.append(node)
    fabric.gateways.append(node)
    return node


def test_it_serves_and_drains_with_status_0(fabric: Fabric) -> None:
    node = start_together(fabric)
    fabric.start("worker")
    fabric.serve("hello", "app_basic:hello")
    with Load([node.http], "/hello") as load:
        load.wait_for(200)
    assert (load.lost, set(load.answers)) == ([], {200})
    roles = sorted(info["role"] for info in fabric.call("status")["nodes"])
    assert roles == ["gateway", "router", "worker"]
    pids = {info["role"]: info["pid"] for info in fabric.call("status")["nodes"]}
    assert pids["gateway"] == pids["router"] == node.process.pid
    assert node.stop(signal.SIGINT) == 0


def test_what_is_changed_elsewhere_reaches_it(fabric: Fabric) -> None:
    first = start_together(fabric)
    second = start_together(fabric)
    fabric.start("worker")
    fabric.serve("hello", "app_basic:hello")
    for node in (first, second):
        assert httpx.get(node.http + "/hello").text == "hello"
    fabric.call("delete_endpoint", router=1, name="hello")
    for node in (first, second):
        assert httpx.get(node.http + "/hello").status_code == 404


def test_stopping_one_of_two_under_load_loses_nothing(fabric: Fabric) -> None:
    first = start_together(fabric)
    second = start_together(fabric)
    fabric.start("worker")
    fabric.serve("hello", "app_basic:hello")
    with Load([first.http, second.http], "/hello") as load:
        load.wait_for(200)
        assert first.stop(signal.SIGINT) == 0
        load.wait_for(200)
    assert load.lost == []
    assert set(load.answers) == {200}
    eventually(lambda: os.path.exists(f"/proc/{second.process.pid}"), "the other one lives")
