"""Five routers, and a gateway and a worker node that have links with two of them each."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from .fabric import Fabric, eventually

pytestmark = pytest.mark.integration

ROUTERS = 5
LIMIT_S = 60.0


def linked(fabric: Fabric, router: int, role: str) -> set[str]:
    """The ids of the routers that the node of *role* has links with, as one router knows it."""
    (node,) = [node for node in fabric.call("status", router)["nodes"] if node["role"] == role]
    return set(node["routers"])


def sees(fabric: Fabric, router: int, ids: list[str]) -> bool:
    """Whether a router knows exactly the routers *ids*, and both other nodes with two links each."""
    status = fabric.call("status", router)
    nodes: dict[str, dict[str, Any]] = {node["id"]: node for node in status["nodes"]}
    others = [node for node in nodes.values() if node["role"] != "router"]
    routers = {node for node in nodes if nodes[node]["role"] == "router"}
    return routers == set(ids) and len(others) == 2 and all(len(node["routers"]) == 2 for node in others)


def test_two_links_are_enough(fabric: Fabric) -> None:
    addresses = [f"ipc://{fabric.folder}/router{number}" for number in range(ROUTERS)]
    for number, address in enumerate(addresses):
        joins = [text for other in addresses if other != address for text in ("--join", other)]
        fabric.start("router", "--bind", addresses[number], *joins, ready=False)
    fabric.routers = list(fabric.nodes)
    for router in fabric.routers:
        router.wait_ready()
    ids = [fabric.call("status", number)["router"]["node"] for number in range(ROUTERS)]
    joins = [text for address in addresses[:2] for text in ("--join", address)]
    gateway = fabric.start("gateway", *joins, "--max-routers", "2")
    fabric.start("worker", *joins, "--max-routers", "2", "--slots", "4")
    for number in range(ROUTERS):
        eventually(lambda number=number: sees(fabric, number, ids), f"router {number} knows all", LIMIT_S)

    # Through a router that neither has a link with, if there is one, or else one that the gateway has none with.
    with_gateway, with_worker = linked(fabric, 0, "gateway"), linked(fabric, 0, "worker")
    far = min(range(ROUTERS), key=lambda number: (ids[number] in with_gateway, ids[number] in with_worker))
    assert ids[far] not in with_gateway
    fabric.call("create_backend", far, name="echo", code="app_basic:hello", version="1")
    fabric.call("create_endpoint", far, name="echo", route="/echo", methods=["GET"], backend="echo")
    assert "/echo" in httpx.get(f"{gateway.http}/-/routes").text, "in force when the call returns"
    fabric.call("wait_backend", far, name="echo", timeout_s=LIMIT_S)
    assert httpx.get(f"{gateway.http}/echo", timeout=LIMIT_S).status_code == 200
    for number in range(ROUTERS):
        eventually(
            lambda number=number: [each["state"] for each in fabric.call("status", number)["replicas"]] == ["ready"],
            f"what the worker node reports is known to router {number}",
            LIMIT_S,
        )

    for number in range(ROUTERS):
        if ids[number] in with_gateway:
            fabric.routers[number].kill()
    alive = [number for number in range(ROUTERS) if ids[number] not in with_gateway]
    assert len(alive) == 3
    for number in alive:
        what = f"router {number} knows who is left, and where they are linked now"
        eventually(lambda number=number: sees(fabric, number, [ids[left] for left in alive]), what, LIMIT_S)
    eventually(lambda: httpx.get(f"{gateway.http}/echo", timeout=LIMIT_S).status_code == 200, "it serves", LIMIT_S)
    fabric.call("create_endpoint", alive[0], name="late", route="/late", methods=["GET"], backend="echo")
    assert "/late" in httpx.get(f"{gateway.http}/-/routes").text
