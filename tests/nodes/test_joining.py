"""A DNS name in --join stands for all routers behind it."""

from __future__ import annotations

import asyncio
import logging
import socket
from types import SimpleNamespace
from typing import Any

import pytest
from zserve.nodes import joining
from zserve.nodes.joining import by_name, keep_joined, plain, resolve
from zserve.nodes.options import WorkerOptions

from zserve.errors import FabricUnreachable


def answers(*addresses: str) -> list[Any]:
    return [
        (socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 7700))
        for address in addresses
    ]


class Resolver:
    """Stands in for getaddrinfo; counts what it is asked."""

    def __init__(self, **known: list[str]) -> None:
        self.known = known
        self.asked: list[str] = []

    def __call__(self, host: str, port: int, **_: Any) -> list[Any]:
        self.asked.append(host)
        if host not in self.known:
            raise socket.gaierror(-2, "Name or service not known")
        return answers(*self.known[host])


class Hub:
    """What :func:`keep_joined` needs of one: it is linked as soon as it dials the one router that is up."""

    def __init__(self, up: str) -> None:
        self.up = up
        self.dialled: list[list[str]] = []
        self.joins_itself = False
        self.links = self
        self.info = SimpleNamespace(role="worker")
        self.linked = asyncio.Event()

    def rejoin(self, addresses: list[str]) -> None:
        self.dialled.append(list(addresses))
        if self.up in addresses:
            self.linked.set()

    def linked_with_router(self) -> bool:
        return self.linked.is_set()


def test_what_has_to_be_looked_up() -> None:
    addresses = ["tcp://routers.shop:7700", "tcp://10.0.0.1:7700", "tcp://[::1]:7700", "ipc:///x.sock", "tcp://here:1"]
    assert by_name(addresses) == ["tcp://routers.shop:7700", "tcp://here:1"]
    assert plain(addresses) == ["tcp://10.0.0.1:7700", "tcp://[::1]:7700", "ipc:///x.sock"]


def test_a_name_becomes_all_addresses_behind_it() -> None:
    resolver = Resolver(routers=["10.0.0.1", "10.0.0.2", "10.0.0.1"], six=["fd00::1"], both=["fd00::2", "10.0.0.9"])
    assert resolve(["tcp://routers:7700", "tcp://10.0.0.2:7700", "ipc:///x"], resolver) == [
        "tcp://10.0.0.1:7700",
        "tcp://10.0.0.2:7700",
        "ipc:///x",
    ]
    assert resolve(["tcp://six:7"], resolver) == ["tcp://[fd00::1]:7"]
    assert resolve(["tcp://both:7"], resolver) == ["tcp://10.0.0.9:7"], "one router, not two"
    assert resolver.asked == ["routers", "six", "both"]


def test_a_name_that_nobody_knows_is_left_out() -> None:
    assert resolve(["tcp://nowhere:7700", "tcp://10.0.0.1:7700"], Resolver()) == ["tcp://10.0.0.1:7700"]


def run_until_linked(hub_up: str, resolver: Resolver, options: WorkerOptions) -> Hub:
    async def run() -> Hub:
        hub = Hub(hub_up)
        task = asyncio.ensure_future(keep_joined(hub, options))  # type: ignore[arg-type]
        try:
            done, _ = await asyncio.wait(
                {task, asyncio.ensure_future(hub.linked.wait())}, timeout=10, return_when=asyncio.FIRST_COMPLETED
            )
            assert done, "neither linked nor given up"
            if task in done:
                task.result()
        finally:
            task.cancel()
        return hub

    return asyncio.run(run())


def test_a_node_dials_all_routers_behind_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    resolver = Resolver(routers=["10.0.0.1", "10.0.0.2"])
    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    hub = run_until_linked("tcp://10.0.0.2:7700", resolver, WorkerOptions(join=["tcp://routers:7700"]))
    assert hub.dialled == [["tcp://10.0.0.1:7700", "tcp://10.0.0.2:7700"]]


def test_of_many_routers_behind_a_name_a_few_are_dialled_until_one_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = [f"10.0.0.{number}" for number in range(1, 10)]
    monkeypatch.setattr(socket, "getaddrinfo", Resolver(routers=addresses))
    monkeypatch.setattr(joining, "_RESOLVE_EVERY_S", 0.0)
    monkeypatch.setattr(joining, "_LOOK_EVERY_S", 0.001)
    hub = run_until_linked(
        "tcp://10.0.0.9:7700", Resolver(), WorkerOptions(join=["tcp://routers:7700"], max_routers=2)
    )
    assert all(len(dialled) == 2 for dialled in hub.dialled)
    assert "tcp://10.0.0.9:7700" in hub.dialled[-1]


def test_the_name_is_looked_up_again_until_a_router_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    class Moving(Resolver):
        def __call__(self, host: str, port: int, **_: Any) -> list[Any]:
            self.asked.append(host)
            return answers(f"10.0.0.{len(self.asked)}")

    resolver = Moving()
    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    monkeypatch.setattr(joining, "_RESOLVE_EVERY_S", 0.0)
    monkeypatch.setattr(joining, "_LOOK_EVERY_S", 0.001)
    hub = run_until_linked("tcp://10.0.0.3:7700", resolver, WorkerOptions(join=["tcp://routers:7700"]))
    assert hub.dialled == [["tcp://10.0.0.1:7700"], ["tcp://10.0.0.2:7700"], ["tcp://10.0.0.3:7700"]]


def test_nobody_answers(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", Resolver())
    monkeypatch.setattr(joining, "_FIRST_WORD_S", 0.05)
    options = WorkerOptions(join=["tcp://routers:7700"], join_timeout_s=0.3)
    with caplog.at_level(logging.ERROR), pytest.raises(FabricUnreachable, match="no router answered at tcp://routers"):
        run_until_linked("nobody", Resolver(), options)
    assert [record.getMessage() for record in caplog.records] == [
        "no router answers at tcp://routers:7700; is one running there? Still trying"
    ]


def test_the_first_router_behind_a_name_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", Resolver(routers=["10.0.0.1"]))
    monkeypatch.setattr(joining, "_LOOK_EVERY_S", 0.01)

    async def run() -> None:
        hub = Hub("nobody")
        hub.joins_itself = True
        options = WorkerOptions(join=["tcp://routers:7700"], join_timeout_s=0.05)
        with pytest.raises(TimeoutError):  # and not FabricUnreachable
            await asyncio.wait_for(keep_joined(hub, options), 0.5)  # type: ignore[arg-type]

    asyncio.run(run())
