"""Replicas answer the gateways on their machine themselves; nothing is lost where one of the two ends."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from .fabric import Fabric, Node, eventually, temporary_fabric

pytestmark = pytest.mark.integration


@pytest.fixture
def fabric() -> Iterator[Fabric]:
    with temporary_fabric() as fabric:
        fabric.start("router")
        fabric.start("worker")
        fabric.serve("echo", "app_basic:echo", methods=("GET", "POST"), config={"num_replicas": 2})
        yield fabric


def router(fabric: Fabric) -> dict[str, Any]:
    found: dict[str, Any] = fabric.call("status")["router"]
    return found


def links(gateway: Node) -> int:
    lines = httpx.get(gateway.http + "/-/metrics", timeout=30).text.splitlines()
    return int(float(next(line.split()[1] for line in lines if line.startswith("zserve_transport_links"))))


def test_answers_go_straight_to_the_gateway_with_all_that_is_in_them(fabric: Fabric) -> None:
    gateway = fabric.start("gateway")
    eventually(lambda: links(gateway) == 3, "it is linked with the router and both replicas")
    before = router(fabric)["direct_answers"]
    for number in range(10):
        answer = httpx.post(gateway.http + "/echo", content=f"{number}", timeout=30)
        assert answer.json() == {"method": "POST", "body": f"{number}"}
        assert {"server-timing", "x-request-id", "date"} <= set(answer.headers)
    found = eventually(lambda: router(fabric)["direct_answers"] - before == 10 and router(fabric), "it is told of all")
    assert (found["late_results"], found["misplaced"]) == (0, 0)


def test_a_gateway_that_does_not_want_that_gets_them_from_the_router(fabric: Fabric) -> None:
    gateway = fabric.start("gateway", "--no-direct-answers")
    for number in range(5):
        assert httpx.post(gateway.http + "/echo", content=f"{number}", timeout=30).json()["body"] == f"{number}"
    assert links(gateway) == 1
    assert router(fabric)["direct_answers"] == 0


def test_the_socket_is_gone_with_the_gateway(fabric: Fabric, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for ending in ("stop", "kill"):
        gateway = fabric.start("gateway", env={"ZSERVE_RUN_DIR": str(run)})
        eventually(lambda: links(gateway) == 3, "replicas have found it")  # noqa: B023
        assert len(list(run.rglob("*.sock"))) == 1, "what the one before has left is swept"
        assert httpx.post(gateway.http + "/echo", content="x", timeout=30).status_code == 200
        if ending == "stop":
            assert gateway.stop() == 0
            assert not run.exists()
        else:
            gateway.kill()
    fabric.start("gateway", env={"ZSERVE_RUN_DIR": str(run)})
    assert len(list(run.rglob("*.sock"))) == 1


@pytest.mark.timeout(120)
def test_replicas_that_are_killed_cost_no_answer(fabric: Fabric) -> None:
    """GETs may run again, and so all come back."""
    gateway = fabric.start("gateway")
    eventually(lambda: links(gateway) == 3, "it is linked with the router and both replicas")
    ended = threading.Event()
    statuses: list[int] = []

    def ask() -> None:
        with httpx.Client(timeout=30) as client:
            while not ended.is_set():
                statuses.append(client.get(gateway.http + "/echo").status_code)

    askers = [threading.Thread(target=ask) for _ in range(8)]
    for asker in askers:
        asker.start()
    try:
        for _ in range(3):
            ready = eventually(lambda: _ready(fabric), "both replicas are ready", 60.0)
            count = len(statuses)
            eventually(lambda: len(statuses) > count + 50, "answers come")  # noqa: B023
            os.kill(ready[0]["pid"], signal.SIGKILL)
            eventually(lambda: ready[0]["pid"] not in [one["pid"] for one in _ready(fabric)], "it is gone")  # noqa: B023
    finally:
        ended.set()
        for asker in askers:
            asker.join(60)
    assert Counter(statuses).keys() == {200}
    assert router(fabric)["direct_answers"] > 100


def _ready(fabric: Fabric) -> list[dict[str, Any]]:
    found = fabric.call("status")["replicas"]
    well = [one for one in found if one["state"] == "ready" and one["linked"]]
    return well if len(well) == 2 else []
