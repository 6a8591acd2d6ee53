"""The clocks of machines are set while nodes run, by an hour to either side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from .fabric import Fabric, Node, eventually
from .load import Load

pytestmark = pytest.mark.integration

HOUR_S = 3600


class Clock:
    """The clock of one machine; *env* makes a node run there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.set(0)
        self.env = {"SET_CLOCK": str(path), "PYTHONPATH": str(Path(__file__).parent / "clock")}

    def set(self, seconds: int) -> None:
        """To the right time and so many seconds."""
        # In place, for the nodes have it open; what was longer is filled up with blanks.
        with self._path.open("r+" if self._path.exists() else "w") as file:
            file.write(f"{seconds:<30d}")


def answer(gateway: Node, path: str) -> httpx.Response:
    return httpx.get(gateway.http + path, headers={"X-Request-Timeout-Seconds": "20"}, timeout=30.0)


def change(fabric: Fabric, name: str, router: int) -> None:
    """A new endpoint, made through one router, answers at every gateway; then its traffic goes to the other backend."""
    fabric.call("create_endpoint", router, name=name, route=f"/{name}", methods=["GET"], backend="pid")
    for gateway in fabric.gateways:
        eventually(lambda gateway=gateway: answer(gateway, f"/{name}").text.isdigit(), f"{name} answers", 10.0)
    fabric.call("set_traffic", router, endpoint=name, traffic={"hello": 1.0})
    for gateway in fabric.gateways:
        eventually(lambda gateway=gateway: answer(gateway, f"/{name}").text == "hello", f"{name} has changed", 10.0)


def digests(fabric: Fabric) -> set[Any]:
    return {fabric.call("status", router)["router"]["digest"] for router in range(len(fabric.routers))}


def test_clocks_that_are_set_by_an_hour_fail_no_request_and_hold_no_change_up(fabric: Fabric) -> None:
    here, there = Clock(fabric.folder / "here"), Clock(fabric.folder / "there")
    fabric.start("router", env=here.env)
    fabric.start("router", env=there.env)
    fabric.start("worker", env=here.env)
    fabric.start("gateway", env=here.env)
    fabric.start("gateway", env=there.env)
    fabric.serve("pid", "app_basic:pid")
    fabric.serve("hello", "app_basic:hello")
    urls = [gateway.http for gateway in fabric.gateways]
    number = 0
    with Load(urls, "/hello", 3, check=lambda answer: answer.text == "hello") as load:
        load.wait_for(20)
        for one, other in ((HOUR_S, 0), (HOUR_S, HOUR_S), (-HOUR_S, HOUR_S), (-HOUR_S, -HOUR_S), (0, 0)):
            here.set(one)
            there.set(other)
            for router in range(2):
                number += 1
                change(fabric, f"e{number}", router)
            load.wait_for(20)
    assert (load.lost, load.wrong, set(load.answers)) == ([], [], {200})
    eventually(lambda: len(digests(fabric)) == 1, "both routers hold the same")
    said = fabric.routers[0].log.read_text()
    for text in ("was set forward by 3600 s", "was set back by 7200 s"):
        assert text in said
