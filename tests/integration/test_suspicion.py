"""Processes that are stopped or stall: suspected, with the right reason, and back without a lost request."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from zserve.nodes.status_view import render_status

from .fabric import Fabric, eventually
from .load import Load

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="only Linux tells about other processes"),
]

ATTEMPTS = 4
WINDOW_S = 8.0
"""A suspicion lasts some seconds, then the link is given up: a machine that is very slow may miss it."""


@pytest.fixture(scope="module")
def fabric() -> Iterator[Fabric]:
    with tempfile.TemporaryDirectory(prefix="zs-") as folder:
        fabric = Fabric(Path(folder))
        try:
            for role, count in (("router", 2), ("gateway", 2), ("worker", 1)):
                for _ in range(count):
                    fabric.start(role)
            fabric.serve("hello", "app_stall:hello", config={"num_replicas": 2})
            fabric.serve("stall", "app_stall:keeps_the_interpreter", config={"num_replicas": 1})
            wait_until_all_is_well(fabric)
            yield fabric
        finally:
            fabric.close()


def processes(status: dict[str, Any]) -> dict[int, str]:
    """Process id to what it is suspected of."""
    return {each["pid"]: each["suspect"] for each in [*status["nodes"], *status["replicas"]] if each.get("pid")}


def wait_until_all_is_well(fabric: Fabric) -> None:
    """Every router sees all nodes and replicas, and suspects none."""

    def well() -> bool:
        for router in range(2):
            status = fabric.call("status", router)
            suspects = [cause for cause in processes(status).values() if cause]
            nodes = [node for node in status["nodes"] if node["role"] != "client"]
            if suspects or len(nodes) != 5 or not all(each["linked"] for each in status["replicas"]):
                return False
        return True

    eventually(well, "all nodes are linked and none is suspected", 60.0)


def suspected(fabric: Fabric, pid: int, cause: str, begin: Callable[[], Any], end: Callable[[], Any]) -> str:
    """The status text while *pid* is suspected for *cause*, as router 1 shows it, between *begin* and *end*."""
    for _ in range(ATTEMPTS):
        begin()
        try:
            until = time.monotonic() + WINDOW_S
            while time.monotonic() < until:
                status = fabric.call("status", 1)
                if processes(status).get(pid) == cause:
                    return render_status(status, width=250)
                time.sleep(0.05)
        finally:
            end()
        wait_until_all_is_well(fabric)
    raise AssertionError(f"process {pid} was never shown as suspected: {cause}")


def stopped(fabric: Fabric, pid: int) -> str:
    """Stop *pid* until it is seen to be, under load that must not lose anything; then all is as before."""
    bases = [gateway.http for gateway in fabric.gateways]
    with Load(bases, "/hello", clients=6, check=lambda answer: answer.text == "hello") as load:
        load.wait_for(20)
        text = suspected(
            fabric,
            pid,
            f"its process {pid} is stopped (SIGSTOP)",
            lambda: os.kill(pid, signal.SIGSTOP),
            lambda: os.kill(pid, signal.SIGCONT),
        )
        wait_until_all_is_well(fabric)
        load.wait_for(100)
    assert (load.lost, load.wrong) == ([], [])
    assert set(load.answers) == {200}
    return text


def test_a_stopped_router(fabric: Fabric) -> None:
    pid = fabric.routers[0].process.pid
    text = stopped(fabric, pid)
    assert f"router router-0 is suspected: its process {pid} is stopped (SIGSTOP)" in text
    status = fabric.call("status", 0)
    before = status["router"]["requests"]
    with Load([gateway.http for gateway in fabric.gateways], "/hello", clients=4) as load:
        load.wait_for(50)
    assert fabric.call("status", 0)["router"]["requests"] > before, "it is used again"


def test_a_stopped_gateway(fabric: Fabric) -> None:
    pid = fabric.gateways[0].process.pid
    text = stopped(fabric, pid)
    assert f"gateway gateway-2 is suspected: its process {pid} is stopped (SIGSTOP)" in text


def test_a_stopped_replica(fabric: Fabric) -> None:
    pids = [each["pid"] for each in fabric.call("status", 1)["replicas"] if each["backend"] == "hello"]
    text = stopped(fabric, pids[0])
    assert f"its process {pids[0]} is stopped (SIGSTOP)" in text
    now = [each["pid"] for each in fabric.call("status", 1)["replicas"] if each["backend"] == "hello"]
    assert now == pids, "it was not replaced"


def test_a_replica_whose_code_keeps_the_interpreter(fabric: Fabric) -> None:
    pid = next(each["pid"] for each in fabric.call("status", 1)["replicas"] if each["backend"] == "stall")
    asked: list[Any] = []
    with ThreadPoolExecutor(ATTEMPTS) as pool:

        def ask() -> None:
            asked.append(pool.submit(httpx.get, fabric.gateways[0].http + "/stall?s=4.5", timeout=60.0))

        suspected(
            fabric, pid, f"its process {pid} runs, but its event loop is stalled", ask, lambda: asked[-1].result()
        )
    assert [answer.result().text for answer in asked] == ["done"] * len(asked)
    wait_until_all_is_well(fabric)


def test_a_node_that_leaves_is_not_reported_as_dead(fabric: Fabric) -> None:
    """The last one here: it takes a gateway away."""
    gateway = fabric.gateways.pop()
    assert gateway.stop() == 0
    eventually(lambda: len([1 for node in fabric.call("status", 1)["nodes"] if node["role"] == "gateway"]) == 1, "gone")
    for router in fabric.routers:
        assert f"{gateway.log.stem} is" not in router.log.read_text()
