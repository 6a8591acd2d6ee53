"""Nodes with links to a few routers only know as much as if they had one with each."""

from __future__ import annotations

import itertools
import random

import pytest

from zserve.registry.sync import ConfigSync
from zserve.registry.values import EndpointValue, encode_value
from zserve.wire.messages import Confirmed, NodeInfo, Ping, Pull, ReplicaStatus, Report, View, ViewChange

from .network import Network, Node


class Sparse(Network):
    """Routers are linked with each other but for ``cut``; other nodes with those that ``links`` says."""

    def __init__(self, seed: int = 0, cut: frozenset[frozenset[str]] = frozenset(), **more: float) -> None:
        super().__init__(seed, **more)
        self.links: dict[str, tuple[str, ...]] = {}
        self.cut = cut

    def may_link(self, one: str, other: str) -> bool:
        return frozenset((one, other)) not in self.cut and other in self.links.get(one, (other,))

    def place(self, name: str, role: str, *routers: str) -> Node:
        self.links[name] = routers
        return self.add(name, role)


def names(node: Node) -> list[str]:
    return sorted(info.name for info in node.sync.membership.nodes().values())


def five(**more: float) -> Sparse:
    network = Sparse(**more)
    for number in range(5):
        network.add(f"r{number}")
    for number, routers in enumerate(itertools.combinations([f"r{number}" for number in range(5)], 2)):
        network.place(f"w{number}", "worker", *routers)
    network.place("g", "gateway", "r0", "r1")
    return network


def test_worker_nodes_with_two_links_know_all_nodes() -> None:
    network = five()
    network.run(2.0)
    everyone = sorted(network.nodes)
    for node in network.nodes.values():
        if node.info.role != "gateway":
            assert names(node) == everyone
    routers = [info.name for info in network.nodes["g"].sync.membership.routers()]
    assert sorted(routers) == [f"r{number}" for number in range(5)], "that is what a gateway needs"


@pytest.mark.parametrize("seed", range(5))
def test_whatever_happens_all_come_to_know_the_same(seed: int) -> None:
    network = five(seed=seed, publish_loss=0.3)
    rng = random.Random(seed)
    for _ in range(20):
        name = rng.choice([name for name in network.nodes if name != "r0"])
        if rng.random() < 0.5:
            network.remove(name)
            if name.startswith("r"):
                network.run(rng.random() * 8.0)
            network.add(name, "router" if name.startswith("r") else "worker" if name.startswith("w") else "gateway")
        else:
            network.partition([name], [other for other in network.nodes if other != name])
            network.run(rng.random() * 8.0)
            network.heal()
        network.run(rng.random())
    network.run(12.0)
    everyone = sorted(network.nodes)
    for node in network.nodes.values():
        if node.info.role != "gateway":
            assert names(node) == everyone, node.info.name


def test_what_is_gone_is_gone_everywhere() -> None:
    network = five()
    network.run(2.0)
    network.remove("w0")
    network.remove("r4")
    network.run(8.0)
    for node in network.nodes.values():
        assert not {"w0", "r4"} & set(names(node)), node.info.name


def test_two_routers_that_can_not_reach_each_other_know_by_a_third() -> None:
    network = Sparse(cut=frozenset((frozenset(("a", "b")),)))
    told(network, "a", "b", "c")
    network.place("of-a", "worker", "a")
    network.place("of-b", "worker", "b")
    network.run(5.0)
    for node in network.nodes.values():
        assert names(node) == ["a", "b", "c", "of-a", "of-b"], node.info.name
    status = ReplicaStatus(b"x" * 16, "b", 0, "v", "ready")
    worker = network.nodes["of-a"]
    (peer,) = worker.sync.peers("router")
    report = Report([status], worker.info.node, worker.info.boot, 1)
    assert network.nodes["a"].sync.on_report(peer, report, network.nodes["a"].out) == worker.info.node
    network.settle()
    ((_, known),) = network.nodes["c"].sync.reports.items()
    assert [one.backend for one in known.replicas] == ["b"]
    network.remove("c")
    network.run(8.0)
    assert names(network.nodes["a"]) == ["a", "of-a"]
    assert names(network.nodes["b"]) == ["b", "of-b"]


def reported(node: Node) -> dict[bytes, int]:
    return {worker: report.serial for worker, report in node.sync.reports.items()}


class _Told(Node):
    def receive(self, peer: bytes, message: object) -> None:
        if isinstance(message, Report):
            self.sync.on_report(peer, message, self.out)
        elif isinstance(message, Confirmed) and self.sync.is_router:
            self.sync.on_confirmed(peer, message, self.out)
            self.confirmed.append(message)
        else:
            super().receive(peer, message)


def told(network: Sparse, *routers: str) -> None:
    for name in routers:
        network.add(name, node=_Told)


def test_a_report_reaches_every_router_once_and_late_ones_with_the_heartbeat() -> None:
    network = Sparse()
    told(network, "r0", "r1", "r2")
    worker = network.place("w", "worker", "r0")
    network.run(1.0)
    (peer,) = worker.sync.peers("router")
    worker.out.send(peer, Report([], worker.info.node, worker.info.boot, 7))
    before = network.messages
    network.settle()
    assert network.messages - before == 5, "one to its router, and one on each of the two links with each other router"
    told(network, "late")
    network.run(6.0)
    for name in ("r0", "r1", "r2", "late"):
        assert reported(network.nodes[name]) == {worker.info.node: 7}
    worker.out.send(peer, Report([], worker.info.node, worker.info.boot, 6))
    network.settle()
    assert reported(network.nodes["late"]) == {worker.info.node: 7}, "that one is older"
    network.remove("w")
    network.run(1.0)
    assert reported(network.nodes["late"]) == {}


def test_a_router_answers_for_the_gateways_that_the_writer_does_not_reach() -> None:
    network = Sparse()
    told(network, "r0", "r1")
    gateway = network.place("g", "gateway", "r1")
    network.run(1.0)
    writer = network.nodes["r0"]
    record = writer.registry.write("endpoint/e", encode_value(EndpointValue()), None, writer.sync.wall_ms())
    barrier = writer.sync.spread([record], writer.sync.peers("router", "gateway"), writer.out, network.now)
    network.settle()
    assert gateway.registry.applied(record.key, record.stamp)
    assert {(confirmed.key, confirmed.stamp) for confirmed in writer.confirmed} == {(record.key, record.stamp)}
    assert not barrier.done
    for peer in writer.sync.peers("router"):
        barrier.confirmed(peer, record.key, record.stamp)
    assert barrier.done


def test_a_gateway_that_dies_is_not_waited_for() -> None:
    network = Sparse()
    told(network, "r0", "r1")
    network.place("g", "gateway", "r1")
    network.run(1.0)
    writer = network.nodes["r0"]
    network.nodes["g"].receive = lambda peer, message: None  # type: ignore[method-assign]
    record = writer.registry.write("endpoint/e", encode_value(EndpointValue()), None, writer.sync.wall_ms())
    writer.sync.spread([record], writer.sync.peers("router"), writer.out, network.now)
    network.settle()
    assert writer.confirmed == []
    network.remove("g")
    network.run(0.5)
    assert {confirmed.key for confirmed in writer.confirmed} == {"endpoint/e"}


def test_only_the_difference_is_published_and_pulled() -> None:
    network = Network()
    router = network.add("r")
    gateway = network.add("g", "gateway")
    for number in range(20):
        network.add(f"w{number}", "worker")
    network.run(1.0)
    router.out.take_publications()
    late = network.add("late", "worker")
    (published,) = router.out.take_publications()
    assert isinstance(published, ViewChange)
    assert [info.name for info in published.joined] == ["late"]
    (peer,) = gateway.sync.peers("router")
    gateway.sync.receive(peer, Ping(router.sync.digest(), router.sync.view_serial), gateway.out, network.now)
    pull = next(message for message, _, _ in gateway.out.take()[peer] if isinstance(message, Pull))
    assert (pull.have, pull.records) == ([], False), "the records are the same, so nothing is said of them"
    router.sync.receive(peer, pull, router.out, network.now)
    (answer,) = [message for message, _, _ in router.out.take()[peer] if not isinstance(message, Ping)]
    assert isinstance(answer, ViewChange)
    gateway.receive(peer, answer)
    assert late.info.node in gateway.sync.membership.nodes()


def test_a_difference_to_what_is_not_there_is_pulled_whole() -> None:
    network = Network()
    router, gateway = network.add("r"), network.add("g", "gateway")
    network.run(1.0)
    (peer,) = gateway.sync.peers("router")
    for number in range(300):
        router.sync.membership.set_member(NodeInfo(number.to_bytes(16, "big"), b"b" * 8, "worker"))
    serial = router.sync.view_serial
    change = ViewChange(router.info.node, router.info.boot, serial - 1, serial, [], [])
    gateway.out.take()
    assert not gateway.sync.on_view(peer, change, gateway.out, network.now + 1.0)
    (pull,) = [message for message, _, _ in gateway.out.take()[peer]]
    router.out.take()
    router.sync.receive(peer, pull, router.out, network.now)
    (view,) = [message for message, _, _ in router.out.take()[peer]]
    assert isinstance(view, View), "the changes since then are not remembered any more"
    assert len(view.members) == 302


def test_what_is_passed_on_does_not_come_back() -> None:
    network = Network()
    one, other = network.add("r0"), network.add("r1")
    network.run(1.0)
    peer = one.sync.peers("router")[0]
    own = ViewChange(one.info.node, one.info.boot, 1, 99, [], [other.info.node])
    assert not one.sync.on_view(peer, own, one.out, network.now), "nobody knows better than a router whom it sees"
    assert isinstance(one.sync, ConfigSync)
    assert other.info.node in one.sync.membership.nodes()
