"""Every node of a fabric is replaced, one at a time, and so is the code of a backend: no request fails meanwhile."""

from __future__ import annotations

import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from .fabric import Fabric, Node, eventually
from .load import Load

pytestmark = pytest.mark.integration

PAIR = 2
"""Nodes of each role."""


class Pairs:
    """2 routers, 2 gateways, 2 worker nodes, each at an address of its own, where it can be started again."""

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self._routers = [f"ipc://{fabric.folder}/router{number}" for number in range(PAIR)]
        joins = [text for address in self._routers for text in ("--join", address)]
        self._arguments: dict[tuple[str, int], list[str]] = {}
        for number, address in enumerate(self._routers):
            self._arguments["router", number] = [*joins, "--bind", address]
            self._arguments["gateway", number] = [*joins, "--http", f"127.0.0.1:{_free_port()}"]
            self._arguments["worker", number] = joins
        self.nodes: dict[tuple[str, int], Node] = {}
        for role, number in self._arguments:
            self.nodes[role, number] = self._start(role, number)
        # The control calls of these tests go to whichever router runs.
        self.wait_for_all()

    def _start(self, role: str, number: int) -> Node:
        node = self.fabric.start(role, *self._arguments[role, number], ready=False)
        if role != "router":  # a router that joins itself and others is ready at once, too
            return node
        node.wait_ready()
        if len(self.fabric.routers) < PAIR:
            self.fabric.routers.append(node)
        else:
            self.fabric.routers[number] = node
        return node

    def urls(self) -> list[str]:
        return [f"http://{self._arguments['gateway', number][-1]}" for number in range(PAIR)]

    def wait_for_all(self) -> None:
        """Every router knows all nodes, and no other ones, and has a link with each."""
        pids = {node.process.pid for node in self.nodes.values()}

        def known(router: int) -> bool:
            return {node["pid"] for node in self.fabric.call("status", router)["nodes"]} == pids

        eventually(lambda: all(known(router) for router in range(PAIR)), "every router knows all nodes", 60.0)

    def replace(self, role: str, number: int) -> None:
        """As an operator would: SIGTERM, wait for the end, start it again, wait until it is in service."""
        assert self.nodes[role, number].stop(signal.SIGTERM, 60.0) == 0
        self.nodes[role, number] = self._start(role, number)
        self.wait_for_all()
        if role == "gateway":
            url = self.urls()[number]
            eventually(lambda: httpx.get(url + "/-/readyz", timeout=5).status_code == 200, "the gateway is ready", 60.0)
        elif role == "worker":
            eventually(self._all_replicas, "all replicas run", 60.0)

    def _all_replicas(self) -> bool:
        ready = [replica for replica in self.fabric.call("status")["replicas"] if replica["state"] == "ready"]
        return len(ready) >= PAIR


def _load(pairs: Pairs, path: str, method: str) -> Load:
    return Load(pairs.urls(), path, 3, method=method, check=lambda answer: answer.status_code == 200)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def pairs() -> Iterator[Pairs]:
    with tempfile.TemporaryDirectory(prefix="zs-") as folder:
        fabric = Fabric(Path(folder))
        try:
            pairs = Pairs(fabric)
            fabric.serve("echo", "app_basic:echo", methods=("GET", "POST"), config={"num_replicas": PAIR})
            yield pairs
        finally:
            fabric.close()


def test_a_rolling_restart_of_every_node_fails_no_request(pairs: Pairs) -> None:
    with ExitStack() as stack:
        # A balancer in front takes the next gateway when one does not listen; it may not send a POST twice otherwise.
        loads = [stack.enter_context(_load(pairs, "/echo", method)) for method in ("GET", "POST")]
        for load in loads:
            load.wait_for(50)
        for role in ("gateway", "router", "worker"):
            for number in range(PAIR):
                pairs.replace(role, number)
                for load in loads:
                    load.wait_for(50)
    for load in loads:
        assert load.lost == []
        assert load.wrong == []
    longest_s = max(load.longest_gap_s for load in loads)
    print(f"{sum(load.count for load in loads)} requests, longest gap {longest_s:.3f} s")


def test_new_code_for_a_backend_fails_no_request(pairs: Pairs) -> None:
    fabric = pairs.fabric
    fabric.call("create_backend", name="greet", code="app_shop:Greeting", is_class=True, init_kwargs={"text": "1"},
                version="1", config={"num_replicas": PAIR})  # fmt: skip
    fabric.call("create_endpoint", name="greet", route="/greet", methods=["GET", "POST"], backend="greet")
    fabric.call("wait_backend", name="greet")
    with ExitStack() as stack:
        loads = [stack.enter_context(_load(pairs, "/greet", method)) for method in ("GET", "POST")]
        for load in loads:
            load.wait_for(50)
        fabric.call("update_backend", name="greet", code="app_shop:Greeting", is_class=True,
                    init_kwargs={"text": "2"}, version="2")  # fmt: skip
        fabric.call("wait_backend", name="greet")
        assert httpx.get(pairs.urls()[0] + "/greet", timeout=30).text == "2", "in force when the call returns"
        for load in loads:
            load.wait_for(50)
    for load in loads:
        assert load.lost == []
        assert load.wrong == []
