"""Three routers with a state folder, three gateways, six worker nodes: what happens to the config when routers die."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from .fabric import Fabric, Node, eventually

pytestmark = pytest.mark.integration

CHANGES = 100
VERSIONS = {"one": "1", "two": "2"}


class Twelve:
    """3 routers, 3 gateways, 6 worker nodes; routers can be killed and started again at the same address."""

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        for number in range(3):
            fabric.start("router", *self._place(number), ready=False)
        fabric.routers = fabric.nodes[:3]
        for router in fabric.routers:
            router.wait_ready()
        for role, count in (("gateway", 3), ("worker", 6)):
            for _ in range(count):
                joins = [text for router in fabric.routers[:2] for text in ("--join", router.address)]
                fabric.start(role, *joins, ready=False)
        fabric.gateways, fabric.workers = fabric.nodes[3:6], fabric.nodes[6:]
        for node in fabric.nodes[3:]:
            node.wait_ready()
        self.wait_for_all()

    def _place(self, number: int) -> list[str]:
        place = ["--bind", f"ipc://{self.fabric.folder}/router{number}", "--state-dir", str(self.state(number))]
        others = [f"ipc://{self.fabric.folder}/router{other}" for other in range(3) if other != number]
        return [*place, *(text for other in others for text in ("--join", other))]

    def state(self, number: int) -> Path:
        return self.fabric.folder / f"state{number}"

    def kill(self, number: int) -> None:
        self.fabric.routers[number].kill()
        self.fabric.routers[number].close()

    def restart(self, *numbers: int) -> None:
        started: list[tuple[int, Node]] = []
        for number in numbers:
            started.append((number, self.fabric.start("router", *self._place(number), ready=False)))
        for number, node in started:
            node.wait_ready()
            self.fabric.routers[number] = node

    def wait_for_all(self) -> None:
        eventually(
            lambda: all(len(self.fabric.call("status", router)["nodes"]) == 12 for router in range(3)),
            "every router knows all twelve nodes",
            30.0,
        )

    def records(self, router: int) -> dict[str, Any]:
        found: dict[str, Any] = self.fabric.call("list_records", router)
        return found

    def wait_for_records(self, wanted: dict[str, Any]) -> None:
        for router in range(3):
            eventually(lambda router=router: self.records(router) == wanted, f"router {router} holds what was written")

    def set_traffic(self, name: str, router: int) -> None:
        traffic = {other: float(other == name) for other in VERSIONS}
        self.fabric.call("set_traffic", router, endpoint="greet", traffic=traffic)


@pytest.fixture(scope="module")
def twelve() -> Iterator[Twelve]:
    """One for all tests here, in their order: twelve processes take their time to start."""
    with tempfile.TemporaryDirectory(prefix="zs-") as folder:
        fabric = Fabric(Path(folder))
        try:
            twelve = Twelve(fabric)
            for name, text in VERSIONS.items():
                code = {"code": "app_shop:Greeting", "is_class": True, "init_kwargs": {"text": text}, "version": text}
                fabric.call("create_backend", name=name, config={"num_replicas": 3}, **code)
            for name in VERSIONS:
                fabric.call("wait_backend", name=name)
            fabric.call("create_endpoint", name="greet", route="/greet", methods=["GET"], backend="one")
            yield twelve
        finally:
            fabric.close()


def test_a_traffic_change_is_in_force_on_every_gateway_when_the_call_returns(twelve: Twelve) -> None:
    fabric = twelve.fabric
    took_ms, seen_ms = [], []
    with ThreadPoolExecutor(3) as pool, httpx.Client(timeout=10.0) as http:
        for number in range(CHANGES):
            name = "two" if number % 2 == 0 else "one"
            begin = time.monotonic()
            twelve.set_traffic(name, number % 3)
            took_ms.append((time.monotonic() - begin) * 1000)
            answers = list(pool.map(lambda gateway: http.get(gateway.http + "/greet").text, fabric.gateways))
            seen_ms.append((time.monotonic() - begin) * 1000)
            assert answers == [VERSIONS[name]] * 3, f"change {number}, through router {number % 3}"
    took_ms.sort()
    seen_ms.sort()
    print(
        f"{CHANGES} changes: confirmed p50 {took_ms[CHANGES // 2]:.1f} ms, p99 {took_ms[-2]:.1f} ms; "
        f"seen through all gateways p50 {seen_ms[CHANGES // 2]:.1f} ms, p99 {seen_ms[-2]:.1f} ms"
    )
    assert took_ms[CHANGES // 2] < 5000, "the barrier was not waited out"


def test_no_record_is_lost_when_routers_die(twelve: Twelve) -> None:
    fabric = twelve.fabric
    for number in range(3):
        # The write was acknowledged, so it is on disk at the router that took it, which dies at once.
        fabric.call("create_endpoint", number, name=f"e{number}", route=f"/e{number}", methods=["GET"], backend="one")
        twelve.kill(number)
        other = (number + 1) % 3
        assert f"endpoint/e{number}" in twelve.records(other), "confirmed by every router that was linked"
        for gateway in fabric.gateways:
            assert httpx.get(gateway.http + f"/e{number}", timeout=20).text == "1"
        twelve.restart(number)
        twelve.wait_for_all()
    wanted = twelve.records(0)
    assert {f"endpoint/e{number}" for number in range(3)} < wanted.keys()
    twelve.wait_for_records(wanted)

    twelve.set_traffic("two", 1)
    wanted = twelve.records(1)
    for number in range(3):
        twelve.kill(number)
    begin = time.monotonic()
    twelve.restart(0, 1, 2)
    ready_s = time.monotonic() - begin

    def served() -> bool:
        return all(httpx.get(gateway.http + "/greet", timeout=20).text == "2" for gateway in fabric.gateways)

    eventually(served, "every gateway serves again, with the traffic of before")
    print(
        f"all routers killed and started: they listened after {ready_s:.2f} s, "
        f"every gateway served {time.monotonic() - begin - ready_s:.2f} s later"
    )
    twelve.wait_for_records(wanted)


def test_a_state_file_of_random_bytes_is_set_aside_and_fetched_anew(twelve: Twelve) -> None:
    wanted = twelve.records(0)
    twelve.kill(2)
    file = twelve.state(2) / "registry.sqlite"
    for side in ("-wal", "-shm"):
        file.with_name(file.name + side).unlink(missing_ok=True)
    garbage = os.urandom(20_000)
    file.write_bytes(garbage)
    twelve.restart(2)
    twelve.wait_for_records(wanted)
    assert file.with_name("registry.sqlite.corrupt-1").read_bytes() == garbage
    log = twelve.fabric.routers[2].log.read_text()
    assert "is damaged" in log
    assert "set aside as registry.sqlite.corrupt-1" in log
    # What was fetched is on disk: the router has it although nobody else is there.
    for number in range(3):
        twelve.kill(number)
    alone = twelve.fabric.start("router", *twelve._place(2))
    twelve.fabric.routers = [alone]
    assert twelve.records(0) == wanted
