"""Every ZeroMQ socket that listens, sent what nobody should: nothing breaks, everything is counted, nothing is kept."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from zserve.nodes.allocator import resident_bytes

from .fabric import Fabric, Node, eventually, temporary_fabric
from .raw_sockets import SocketFuzzer

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]

MESSAGES = int(os.environ.get("ZSERVE_FUZZ_MESSAGES", "12000"))
SEED = int(os.environ.get("ZSERVE_FUZZ_SEED", "1"))
GROWTH = 64 << 20
"""Bytes that a node may have more afterwards, however many messages there were: for the 1,024 that ZeroMQ queues for
it, some of them large, the C library keeps the room."""

LINKS = 6
"""Of each router: two with the other one (both dial), the gateway, the worker node, the replica, and who asks."""
GATEWAY_LINKS = 3
"""Two with routers, and one with the replica, which brings answers."""


@pytest.fixture(scope="module")
def fabric() -> Iterator[Fabric]:
    """A router on ipc and one on tcp, a gateway, a worker node."""
    with temporary_fabric() as fabric:
        fabric.start("router")
        fabric.start("router", "--bind", "tcp://127.0.0.1:0")
        fabric.start("worker")
        fabric.start("gateway")
        fabric.serve("echo", "app_basic:echo", methods=("GET", "POST"))
        yield fabric


class Target:
    """A node that listens: a router, by its number, or the gateway (number -1)."""

    def __init__(self, fabric: Fabric, number: int) -> None:
        self._fabric = fabric
        self.number = number
        self.node = fabric.routers[number] if number >= 0 else fabric.gateways[0]
        self.role = "router" if number >= 0 else "gateway"
        self.address = self.node.address if number >= 0 else answers(self.node)
        self.publish = published(fabric, number) if number >= 0 else ""
        self.all_links = LINKS if number >= 0 else GATEWAY_LINKS

    def _figures(self) -> dict[str, float]:
        if self.number >= 0:
            found: dict[str, Any] = self._fabric.call("status", self.number)["router"]
            return {**found.pop("transport"), **found}
        text = httpx.get(self.node.http + "/-/metrics", timeout=30).text
        lines = [line.split() for line in text.splitlines() if not line.startswith("#")]
        names = ("zserve_gateway_", "zserve_transport_")
        return {
            name.removeprefix(start).removesuffix("_total"): float(value)
            for name, value in lines
            for start in names
            if name.startswith(start)
        }

    @property
    def links(self) -> int:
        return int(self._figures()["links"])

    @property
    def refused(self) -> int:
        found = self._figures()
        return int(found["misplaced"] + found.get("ignored", 0) + found["undecodable"] + found["rejected"])


def memory(node: Node) -> int:
    return resident_bytes(node.process.pid)


def published(fabric: Fabric, router: int) -> str:
    """Where it publishes: beside its other socket, or on another port of its process."""
    node = fabric.routers[router]
    if node.address.startswith("ipc://"):
        return node.address + ".pub"
    (other,) = [address for address in listening(node) if address != node.address]
    return other


def answers(gateway: Node) -> str:
    """Where replicas bring it their answers."""
    (found,) = [address for address in listening(gateway) if address.startswith("ipc://")]
    return found


def listening(node: Node) -> set[str]:
    """The addresses at which a process listens."""
    inodes = set()
    for entry in os.scandir(f"/proc/{node.process.pid}/fd"):
        try:
            target = os.readlink(entry.path)
        except OSError:
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    found = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and fields[9] in inodes:
            found.add(f"tcp://127.0.0.1:{int(fields[1].partition(':')[2], 16)}")
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[3], 16) & 0x10000 and fields[6] in inodes:
            found.add(f"ipc://{fields[7]}")
    return found


def test_nothing_listens_but_what_is_fuzzed_here(fabric: Fabric) -> None:
    ipc, tcp = fabric.routers
    assert listening(ipc) == {ipc.address, ipc.address + ".pub"}
    assert listening(tcp) == {tcp.address, published(fabric, 1)}
    gateway = fabric.gateways[0]
    assert listening(gateway) == {gateway.http.replace("http:", "tcp:"), answers(gateway)}
    assert listening(fabric.workers[0]) == set()


@pytest.mark.timeout(300 + MESSAGES // 100)
@pytest.mark.parametrize("number", [0, 1, -1], ids=["ipc", "tcp", "gateway"])
def test_whatever_is_sent_is_refused_and_counted_and_nothing_of_it_stays(
    fabric: Fabric, number: int, tmp_path: Path
) -> None:
    target, marker = Target(fabric, number), tmp_path / "bomb"
    node = target.node
    fuzzer = SocketFuzzer(SEED + number, target.address, target.publish, marker, target.role)
    eventually(lambda: target.links == target.all_links, "all are linked", 60.0)
    count = target.refused
    before = 0
    try:
        while fuzzer.sent < MESSAGES // 2:
            fuzzer.session()
            if not before and fuzzer.sent > MESSAGES // 8:
                before = memory(node)  # by now it has what it needs for any of it
        wanted = count + fuzzer.expected
        eventually(lambda: target.refused >= wanted, f"{fuzzer.expected} refused messages are counted", 120.0)
    finally:
        fuzzer.close()
    assert target.refused - wanted <= fuzzer.raw, "nothing else is"
    assert not marker.exists()
    eventually(lambda: target.links == target.all_links, "no link is left", 60.0)
    assert node.process.poll() is None
    assert memory(node) - before < GROWTH, f"{(memory(node) - before) / 1e6:.1f} MB more than before"
    for gateway in fabric.gateways:
        assert httpx.post(gateway.http + "/echo", content=b"x", timeout=30).json() == {"method": "POST", "body": "x"}
    assert list(fabric.call("list_endpoints", max(0, number))) == ["echo"]
    log = node.log.read_text()
    assert "Traceback" not in log
    print(f"{fuzzer.sent} messages, {fuzzer.expected} counted, {(memory(node) - before) / 1e6:+.1f} MB")
